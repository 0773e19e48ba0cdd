//! Preemption, priorities, sleeping, interrupts, many threads.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::Write;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use holdfast_kernel::arch::{apic, percpu};
use holdfast_kernel::irq::Vector;
use holdfast_kernel::mm::{PAGE_SIZE, frames, heap, stack};
use holdfast_kernel::{println, sched, time};
use holdfast_sync::thread::{self, Priority};
use holdfast_sync::{Word, port};

use super::{Outcome, Random, Test, ensure};

pub const TESTS: &[Test] = &[
    Test { name: "preemption", run: preemption },
    Test { name: "priorities", run: priorities },
    Test { name: "sleep", run: sleep },
    Test { name: "ping_pong", run: ping_pong },
    Test { name: "many_threads", run: many_threads },
    Test { name: "interrupts", run: interrupts },
    Test { name: "statistics", run: statistics },
];

/// Work whose state fills integer and SSE registers, red zone and stack.
fn round(seed: u64, text: &mut alloc::string::String) -> u64 {
    let mut random = Random::new(seed);
    let mut x = 1.0f64;
    let mut sum = 0u64;
    let block: Vec<u64> = (0..64).map(|_| random.next()).collect();
    let copy = block.clone();
    for v in &copy {
        x = (x * 1.000_1 + (*v as f64) * 1e-19).sqrt_approx();
        sum = sum.rotate_left(7) ^ v;
    }
    text.clear();
    _ = write!(text, "{x:.6} {sum:x}");
    text.bytes().fold(sum, |h, b| h.rotate_left(5) ^ u64::from(b))
}

trait SqrtApprox {
    fn sqrt_approx(self) -> Self;
}
impl SqrtApprox for f64 {
    /// Two steps of Newton's method: floating point with live values in several registers.
    fn sqrt_approx(self) -> Self {
        let y = 0.5 * (self + 1.0);
        let z = 0.5 * (y + self / y);
        0.5 * (z + self / z)
    }
}

/// Threads compute the same things over and over while others interrupt them all the time.
fn preemption() -> Outcome {
    const SEEDS: u64 = 16;
    const WANTED: u64 = 400;
    let mut text = alloc::string::String::new();
    let expected: Arc<Vec<u64>> = Arc::new((0..SEEDS).map(|s| round(s, &mut text)).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..percpu::count() * 3)
        .map(|t| {
            let (expected, stop, rounds) = (expected.clone(), stop.clone(), rounds.clone());
            thread::spawn("worker", Priority::Normal, move || -> Outcome {
                let mut text = alloc::string::String::new();
                let mut seed = t as u64;
                while !stop.load(Ordering::Relaxed) {
                    seed = (seed + 1) % SEEDS;
                    let got = round(seed, &mut text);
                    ensure!(got == expected[seed as usize], "thread {t}, seed {seed}: {got:x}");
                    rounds.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let disturbers: Vec<_> = (0..percpu::count())
        .map(|_| {
            let stop = stop.clone();
            thread::spawn("disturber", Priority::High, move || {
                while !stop.load(Ordering::Relaxed) {
                    thread::sleep_ns(40_000);
                }
            })
        })
        .collect();
    let switches = || -> u64 { sched::snapshot().iter().map(|t| t.involuntary_switches).sum() };
    let before = switches();
    // A host that is busy itself needs longer.
    let patience = time::now_ns() + 30_000_000_000;
    let mut preempted = 0;
    while preempted < WANTED && time::now_ns() < patience {
        thread::sleep_ns(50_000_000);
        preempted = switches() - before;
    }
    stop.store(true, Ordering::Relaxed);
    disturbers.into_iter().for_each(thread::JoinHandle::join);
    workers.into_iter().try_for_each(thread::JoinHandle::join)?;
    println!("  {preempted} preemptions, {} rounds", rounds.load(Ordering::Relaxed));
    ensure!(preempted >= WANTED, "only {preempted} preemptions: the test tested nothing");
    Ok(())
}

/// Idle threads get nothing while normal ones want every processor; high ones get in at once.
fn priorities() -> Outcome {
    let stop = Arc::new(AtomicBool::new(false));
    let busy = |priority| {
        let (stop, counter) = (stop.clone(), Arc::new(AtomicU64::new(0)));
        let theirs = counter.clone();
        let thread = thread::spawn("busy", priority, move || {
            while !stop.load(Ordering::Relaxed) {
                theirs.fetch_add(1, Ordering::Relaxed);
            }
        });
        (thread, counter)
    };
    let mut threads: Vec<_> = (0..percpu::count()).map(|_| busy(Priority::Normal)).collect();
    thread::sleep_ns(30_000_000);
    threads.push(busy(Priority::Idle));
    thread::sleep_ns(60_000_000);
    let rounds: Vec<u64> =
        threads.iter().map(|(_, counter)| counter.load(Ordering::Relaxed)).collect();
    let latency = thread::spawn("urgent", Priority::High, || {
        let mut worst = 0;
        for _ in 0..20 {
            let start = time::now_ns();
            thread::sleep_ns(1_000_000);
            worst = worst.max(time::now_ns() - start - 1_000_000);
        }
        worst
    })
    .join();
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|(thread, _)| thread.join());
    println!("  urgent thread at most {} us late", latency / 1000);
    let (idle, normal) = (rounds[rounds.len() - 1], rounds[0]);
    ensure!(idle < normal / 5, "an idle thread ran {idle} rounds, a normal one {normal}");
    Ok(())
}

fn sleep() -> Outcome {
    for ms in [0u64, 1, 3, 10, 30] {
        let start = time::now_ns();
        thread::sleep_ns(ms * 1_000_000);
        let slept = time::now_ns() - start;
        ensure!(slept >= ms * 1_000_000, "slept {slept} ns instead of {ms} ms");
        // Two seconds: a host may take its time.
        ensure!(slept < ms * 1_000_000 + 2_000_000_000, "slept {slept} ns instead of {ms} ms");
    }
    // Many at once, with different times, the longest first.
    let threads: Vec<_> = (0..10u64)
        .rev()
        .map(|i| {
            thread::spawn("sleeper", Priority::Normal, move || {
                let (start, length) = (time::now_ns(), i * 10_000_000);
                thread::sleep_ns(length);
                (time::now_ns() - start).checked_sub(length)
            })
        })
        .collect();
    for late in threads.into_iter().map(thread::JoinHandle::join) {
        ensure!(late.is_some_and(|l| l < 2_000_000_000), "late by {late:?} ns");
    }
    let word = Word::new(0);
    let start = time::now_ns();
    while time::now_ns() - start < 5_000_000 {
        word.wait_timeout(0, 5_000_000);
    }
    ensure!(time::now_ns() - start < 2_000_000_000, "a wait's time-out came too late");
    Ok(())
}

/// Two threads wake each other: no wake is ever lost.
fn ping_pong() -> Outcome {
    const ROUNDS: u32 = 3000;
    let word = Arc::new(Word::new(0));
    let theirs = word.clone();
    let other = thread::spawn("pong", Priority::Normal, move || {
        for i in 0..ROUNDS {
            while theirs.load(Ordering::SeqCst) != 2 * i + 1 {
                theirs.wait(2 * i);
            }
            theirs.store(2 * i + 2, Ordering::SeqCst);
            theirs.wake_all();
        }
    });
    let start = time::now_ns();
    for i in 0..ROUNDS {
        word.store(2 * i + 1, Ordering::SeqCst);
        word.wake_all();
        while word.load(Ordering::SeqCst) != 2 * i + 2 {
            word.wait(2 * i + 1);
        }
    }
    let each = (time::now_ns() - start) / u64::from(ROUNDS);
    other.join();
    println!("  {each} ns there and back");
    Ok(())
}

fn many_threads() -> Outcome {
    let count = (frames::free_count() / 32).clamp(16, 300) as u32;
    let total = Arc::new(AtomicU32::new(0));
    let mut accounted = [0; 4];
    for accounted in &mut accounted {
        let threads: Vec<_> = (0..count)
            .map(|i| {
                let total = total.clone();
                thread::spawn(&format!("many/{i}"), Priority::Normal, move || {
                    let data = Vec::from([i; 50]);
                    thread::sleep_ns(u64::from(i % 7) * 1_000_000);
                    thread::yield_now();
                    total.fetch_add(u32::from(data.iter().all(|&d| d == i)), Ordering::Relaxed);
                })
            })
            .collect();
        threads.into_iter().for_each(thread::JoinHandle::join);
        thread::sleep_ns(20_000_000);
        *accounted = accounted_frames();
    }
    ensure!(total.load(Ordering::Relaxed) == 4 * count, "threads were lost");
    let left = sched::snapshot().iter().filter(|t| t.name.starts_with("many/")).count();
    ensure!(left == 0, "{left} threads never ended");
    // Another processor may still be unmapping the last stacks.
    let [_, second, _, mut last] = accounted;
    for _ in 0..100 {
        if last + 16 >= second {
            break;
        }
        thread::sleep_ns(50_000_000);
        last = accounted_frames();
    }
    ensure!(last + 16 >= second, "frames accounted for: {accounted:?}, in the end {last}");
    Ok(())
}

/// Frames that are free, kept for stacks, or in the heap: the rest would be lost.
fn accounted_frames() -> u64 {
    let heap = heap::statistics();
    frames::free_count()
        + stack::spare_frames()
        + heap.slab_frames
        + heap.list_size_bytes / PAGE_SIZE as u64
}

/// An interrupt on every processor wakes a thread.
fn interrupts() -> Outcome {
    const ROUNDS: u32 = 200;
    let raised: Arc<AtomicU32> = Arc::new(AtomicU32::new(0));
    for cpu in 0..percpu::count() {
        let counter = raised.clone();
        let handler = move || {
            counter.fetch_add(1, Ordering::SeqCst);
            port::get().wake(&counter, u32::MAX);
        };
        let vector = Vector::allocate(cpu, handler).ok_or("no vector left")?;
        let message = vector.message();
        for _ in 0..ROUNDS {
            let before = raised.load(Ordering::SeqCst);
            apic::send((message.address >> 12 & 0xff) as u32, message.data as u8);
            let until = time::now_ns() + 5_000_000_000;
            while raised.load(Ordering::SeqCst) == before {
                ensure!(time::now_ns() < until, "no interrupt on processor {cpu}");
                port::get().wait(&raised, before, Some(1_000_000_000));
            }
        }
        ensure!(vector.count() == u64::from(ROUNDS), "{} interrupts", vector.count());
    }
    Ok(())
}

fn statistics() -> Outcome {
    let worker = thread::spawn("counted", Priority::Normal, || {
        let end = time::now_ns() + 20_000_000;
        while time::now_ns() < end {
            core::hint::spin_loop();
        }
        (0..5).for_each(|_| thread::sleep_ns(100_000));
        let id = thread::id();
        sched::snapshot().into_iter().find(|t| t.id == id)
    });
    let info = worker.join().ok_or("a running thread is not in the list")?;
    ensure!(info.name == "counted", "its name is {}", info.name);
    ensure!(info.voluntary_switches >= 5, "{} voluntary switches", info.voluntary_switches);
    ensure!(info.run_ns >= 1_000_000, "it ran {} ns", info.run_ns);
    let idle = sched::snapshot().iter().filter(|t| t.is_idle).count();
    ensure!(idle == percpu::count(), "{idle} idle threads");
    Ok(())
}
