//! Memory routines, frames, heap.

use alloc::vec;
use alloc::vec::Vec;

use holdfast_kernel::arch::percpu;
use holdfast_kernel::mm::{Dma, PAGE_SIZE, direct, frames, heap};
use holdfast_kernel::println;
use holdfast_kernel::time;
use holdfast_sync::thread::{self, Priority};

use super::{Outcome, Random, Test, ensure};

pub const TESTS: &[Test] = &[
    Test { name: "memory_routines", run: memory_routines },
    Test { name: "memory_speed", run: memory_speed },
    Test { name: "frames", run: frames_are_distinct },
    Test { name: "contiguous", run: contiguous },
    Test { name: "heap_classes", run: heap_classes },
    Test { name: "heap_stress", run: heap_stress },
];

const LENGTHS: [usize; 30] = [
    0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 127, 128, 129, 255,
    256, 257, 300, 511, 777, 4096,
];
const AREA: usize = 12 * 1024;

/// A byte loop that the compiler does not turn into the routine under test.
fn plain_copy(dst: &mut [u8], src: &[u8]) {
    for (d, s) in dst.iter_mut().zip(src) {
        *core::hint::black_box(d) = *s;
    }
}

fn memory_routines() -> Outcome {
    let mut random = Random::new(1);
    let source: Vec<u8> = (0..AREA).map(|_| random.next() as u8).collect();
    for len in LENGTHS {
        for _ in 0..12 {
            let (from, to) = (random.below(AREA - len), random.below(AREA - len));
            // Overlapping moves, half of them close together.
            let to =
                if random.below(2) == 0 { (from + random.below(300)).min(AREA - len) } else { to };
            let mut moved = source.clone();
            moved.copy_within(from..from + len, to);
            let mut expected = source.clone();
            plain_copy(&mut expected[to..to + len], &source[from..from + len]);
            ensure!(same(&moved, &expected), "memmove {from} to {to}, {len} bytes");
            moved.copy_within(to..to + len, from);
            let kept = expected[to..to + len].to_vec();
            plain_copy(&mut expected[from..from + len], &kept);
            ensure!(same(&moved, &expected), "memmove {to} to {from}, {len} bytes");

            let mut copied = vec![0; AREA];
            copied[to..to + len].copy_from_slice(&source[from..from + len]);
            let mut plain = vec![0; AREA];
            plain_copy(&mut plain[to..to + len], &source[from..from + len]);
            ensure!(same(&copied, &plain), "memcpy {from} to {to}, {len} bytes");
            let byte = random.next() as u8;
            copied[from..from + len].fill(byte);
            plain[from..from + len].iter_mut().for_each(|b| *core::hint::black_box(b) = byte);
            ensure!(same(&copied, &plain), "memset {from}, {len} bytes");
            compare(&source[from..from + len], &mut random)?;
        }
    }
    Ok(())
}

/// Equality without `memcmp`.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && !a.iter().zip(b).any(|(x, y)| core::hint::black_box(*x) != *y)
}

fn compare(a: &[u8], random: &mut Random) -> Outcome {
    let mut b = a.to_vec();
    ensure!(a == &b[..], "memcmp: equal {} bytes differ", a.len());
    if a.is_empty() {
        return Ok(());
    }
    // Two differences: the first decides.
    for _ in 0..4 {
        let (i, j) = (random.below(a.len()), random.below(a.len()));
        b.copy_from_slice(a);
        b[i] ^= 0x80;
        b[j] ^= 0x01;
        let first = a.iter().zip(&b).position(|(x, y)| core::hint::black_box(*x) != *y);
        let expected = first.map_or(core::cmp::Ordering::Equal, |k| a[k].cmp(&b[k]));
        ensure!(a.cmp(&b[..]) == expected, "memcmp: {} bytes, differences at {i} and {j}", a.len());
        ensure!((a == &b[..]) == first.is_none(), "bcmp: {} bytes, {i} and {j}", a.len());
    }
    Ok(())
}

/// Prints what a page costs; under `-icount shift=0` that is instructions.
fn memory_speed() -> Outcome {
    const ROUNDS: u64 = 256;
    let (a, mut b) = (vec![1u8; PAGE_SIZE], vec![0u8; PAGE_SIZE]);
    let mut measure = |what: &str, f: &mut dyn FnMut(&[u8], &mut [u8])| {
        f(&a, &mut b);
        let start = time::now_ns();
        for _ in 0..ROUNDS {
            f(core::hint::black_box(&a), core::hint::black_box(&mut b));
        }
        println!("  {what} of 4096 bytes: {} ns", (time::now_ns() - start) / ROUNDS);
    };
    measure("memcpy", &mut |a, b| b.copy_from_slice(a));
    measure("memcmp", &mut |a, b| _ = core::hint::black_box(a == b));
    measure("memset", &mut |_, b| b.fill(1));
    measure("alloc + free of 96 bytes, not", &mut |_, _| {
        drop(core::hint::black_box(Vec::<u8>::with_capacity(96)));
    });
    measure("frame alloc + free, not", &mut |_, _| {
        if let Some(frame) = core::hint::black_box(frames::alloc()) {
            // SAFETY: just allocated.
            unsafe { frames::free(frame) };
        }
    });
    Ok(())
}

fn frames_are_distinct() -> Outcome {
    let count = (frames::free_count() / 4).min(2000) as usize;
    let before = frames::free_count();
    let mut mine: Vec<u64> = Vec::with_capacity(count);
    for i in 0..count {
        let Some(frame) = frames::alloc() else {
            return Err(alloc::format!("no frame after {i}, {before} were free"));
        };
        // SAFETY: ours.
        unsafe { direct(frame).cast::<u64>().write(frame) };
        mine.push(frame);
    }
    let free = frames::free_count();
    ensure!(before - free >= count as u64, "{before} free, {count} taken, {free} free");
    for &frame in &mine {
        // SAFETY: ours.
        let held = unsafe { direct(frame).cast::<u64>().read() };
        ensure!(held == frame, "frame {frame:#x} was handed out twice");
        // SAFETY: allocated above.
        unsafe { frames::free(frame) };
    }
    drop(mine);
    let after = frames::free_count();
    ensure!(after + 64 >= before, "{before} frames free before, {after} after");
    Ok(())
}

fn contiguous() -> Outcome {
    let before = frames::free_count();
    let mut runs = Vec::new();
    for pages in [1, 2, 3, 5, 8, 17, 64, 100] {
        let Some(run) = Dma::alloc(pages) else {
            return Err(alloc::format!("no run of {pages} frames, {before} were free"));
        };
        ensure!(
            run.phys().is_multiple_of((pages.next_power_of_two() * PAGE_SIZE) as u64),
            "run of {pages} at {:#x}",
            run.phys()
        );
        runs.push(run);
    }
    let mut ranges: Vec<(u64, u64)> =
        runs.iter().map(|r| (r.phys(), r.phys() + (r.pages() * PAGE_SIZE) as u64)).collect();
    ranges.sort_unstable();
    ensure!(ranges.windows(2).all(|w| w[0].1 <= w[1].0), "runs overlap: {ranges:x?}");
    drop(runs);
    let after = frames::free_count();
    ensure!(after + 8 >= before, "{before} frames free before, {after} after");
    Ok(())
}

/// A hot path stays in the magazines: no walk of the list, hardly a trip to a depot.
fn heap_classes() -> Outcome {
    let churn = || {
        for size in (16..=4096).step_by(48) {
            let object: Vec<u8> = Vec::with_capacity(size);
            core::hint::black_box(&object);
        }
    };
    churn();
    let before = heap::statistics();
    for _ in 0..200 {
        churn();
    }
    let after = heap::statistics();
    ensure!(after.list_allocs == before.list_allocs, "small objects walked the list");
    let trips = after.depot_trips - before.depot_trips;
    ensure!(trips < 200, "{trips} trips to the depots in 200 rounds");
    for align in [16, 64, 256, 1024, 4096] {
        let layout = core::alloc::Layout::from_size_align(40, align).expect("a valid layout");
        // SAFETY: a layout of non-zero size; freed with the same.
        unsafe {
            let p = alloc::alloc::alloc(layout);
            ensure!(!p.is_null() && (p as usize).is_multiple_of(align), "{p:?} for {align}");
            alloc::alloc::dealloc(p, layout);
        }
    }
    Ok(())
}

fn heap_stress() -> Outcome {
    let rounds = 3000;
    let threads: Vec<_> = (0..percpu::count() * 2)
        .map(|t| thread::spawn("heap", Priority::Normal, move || heap_worker(t as u64, rounds)))
        .collect();
    let mut leftovers = Vec::new();
    for t in threads {
        leftovers.append(&mut t.join()?);
    }
    // Freed on another thread, perhaps another processor, than they were made on.
    for (tag, object) in leftovers {
        ensure!(object.iter().all(|&b| b == tag), "an object of {} bytes changed", object.len());
    }
    Ok(())
}

type Object = (u8, Vec<u8>);

fn heap_worker(seed: u64, rounds: usize) -> Result<Vec<Object>, alloc::string::String> {
    let mut random = Random::new(seed + 77);
    let mut live: Vec<Object> = Vec::new();
    for _ in 0..rounds {
        if live.len() < 40 && random.below(3) > 0 {
            let size = match random.below(20) {
                0 => random.below(20_000),
                1..4 => random.below(5000),
                _ => random.below(300),
            };
            let tag = random.next() as u8;
            live.push((tag, vec![tag; size]));
        } else if !live.is_empty() {
            let (tag, object) = live.swap_remove(random.below(live.len()));
            ensure!(
                object.iter().all(|&b| b == tag),
                "an object of {} bytes changed",
                object.len()
            );
        }
    }
    Ok(live)
}
