//! Page tables, shootdown, copies with fixups, faults that block.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use holdfast_kernel::arch::percpu;
use holdfast_kernel::mm::{AddressSpace, PAGE_SIZE, Protection, direct, frames, user};
use holdfast_sync::thread::{self, Priority};

use super::{Outcome, Random, Test, ensure};

pub const TESTS: &[Test] = &[
    Test { name: "page_table", run: page_table },
    Test { name: "user_copy", run: user_copy },
    Test { name: "faulting_copy", run: faulting_copy },
    Test { name: "blocking_faults", run: blocking_faults },
    Test { name: "shootdown", run: shootdown },
    Test { name: "space_lifetime", run: space_lifetime },
];

const BASE: u64 = 0x4000_0000_0000;
const PAGE: u64 = PAGE_SIZE as u64;

/// A frame that goes back when dropped.
struct Frame(u64);

impl Frame {
    fn new() -> Result<Self, alloc::string::String> {
        let phys = frames::alloc_zeroed().ok_or("no frame")?;
        Ok(Self(phys))
    }
    fn bytes(&self) -> &[u8] {
        // SAFETY: our frame; whoever maps it is done when this is looked at.
        unsafe { core::slice::from_raw_parts(direct(self.0), PAGE_SIZE) }
    }
    fn word(&self) -> &AtomicU32 {
        // SAFETY: our frame, aligned; access is atomic.
        unsafe { &*direct(self.0).cast() }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        // SAFETY: unmapped by its test.
        unsafe { frames::free(self.0) };
    }
}

fn new_space() -> Result<Arc<AddressSpace>, alloc::string::String> {
    AddressSpace::new().map_err(|_| "no memory for a space".into())
}

fn map(space: &AddressSpace, va: u64, frame: &Frame, writable: bool) -> Outcome {
    let protection = if writable { Protection::WRITE } else { Protection::empty() };
    space.map(va, frame.0, protection).map(drop).map_err(|_| "no memory for tables".into())
}

fn to_user(va: u64, bytes: &[u8]) -> usize {
    // SAFETY: the slice.
    unsafe { user::copy_to(va, bytes.as_ptr(), bytes.len()) }
}

fn from_user(va: u64, bytes: &mut [u8]) -> usize {
    // SAFETY: the slice.
    unsafe { user::copy_from(va, bytes.as_mut_ptr(), bytes.len()) }
}

fn page_table() -> Outcome {
    let space = new_space()?;
    let frame = Frame::new()?;
    ensure!(space.query(BASE).is_none(), "an empty table maps something");
    map(&space, BASE, &frame, true)?;
    let entry = space.query(BASE).ok_or("not mapped")?;
    ensure!(entry.phys() == frame.0 && entry.writable(), "{entry:?}");
    ensure!(!entry.dirty() && !entry.accessed(), "used before use: {entry:?}");
    space.activate();
    ensure!(to_user(BASE + 8, b"abc") == 3, "cannot store");
    let entry = space.query(BASE).ok_or("not mapped")?;
    ensure!(entry.dirty() && entry.accessed(), "not marked: {entry:?}");
    ensure!(&frame.bytes()[8..11] == b"abc", "stored elsewhere");
    ensure!(space.test_and_clear_accessed(BASE), "accessed bit lost");
    ensure!(!space.test_and_clear_accessed(BASE), "accessed bit not cleared");
    ensure!(space.write_protect(BASE), "was not writable");
    ensure!(!space.write_protect(BASE), "still writable");
    space.flush(BASE, 1);
    ensure!(to_user(BASE, b"x") == 0, "stored into a protected page");
    ensure!(from_user(BASE, &mut [0; 4]) == 4, "cannot load from a protected page");
    ensure!(space.protect(BASE, Protection::WRITE).is_some(), "not mapped");
    ensure!(to_user(BASE, b"x") == 1, "cannot store after unprotecting");
    ensure!(space.unmap(BASE).is_some_and(|e| e.phys() == frame.0), "unmap found nothing");
    space.flush(BASE, 1);
    ensure!(from_user(BASE, &mut [0; 4]) == 0, "loaded from an unmapped page");
    Ok(())
}

/// Every start and length around the end of what is mapped: exact counts, exact bytes.
fn user_copy() -> Outcome {
    let space = new_space()?;
    let pages = [Frame::new()?, Frame::new()?];
    for (i, frame) in pages.iter().enumerate() {
        map(&space, BASE + i as u64 * PAGE, frame, true)?;
    }
    space.activate();
    let mut random = Random::new(5);
    let pattern: Vec<u8> = (0..4 * PAGE_SIZE).map(|_| random.next() as u8).collect();
    ensure!(to_user(BASE, &pattern[..2 * PAGE_SIZE]) == 2 * PAGE_SIZE, "cannot fill");
    for i in 0..600 {
        let start = random.below(2 * PAGE_SIZE);
        let len = random.below(if i % 2 == 0 { 64 } else { PAGE_SIZE + 500 });
        let available = (2 * PAGE_SIZE - start).min(len);
        let mut out = vec![0xee; len];
        let n = from_user(BASE + start as u64, &mut out);
        ensure!(n == available, "{start}+{len}: {n} of {available} bytes");
        ensure!(out[..n] == pattern[start..start + n], "{start}+{len}: wrong bytes");
        let n = to_user(BASE + start as u64, &pattern[start..start + len]);
        ensure!(n == available, "{start}+{len}: stored {n} of {available}");
    }
    ensure!(pages[1].bytes() == &pattern[PAGE_SIZE..2 * PAGE_SIZE], "the page changed");
    ensure!(from_user(0xffff_8000_0000_0000, &mut [0; 8]) == 0, "loaded kernel memory");
    ensure!(from_user((1 << 47) - 4, &mut [0; 8]) == 0, "loaded across the end of the half");
    ensure!(to_user(u64::MAX - 3, &[0; 8]) == 0, "stored around the end of the address space");
    Ok(())
}

fn faulting_copy() -> Outcome {
    let space = new_space()?;
    space.activate();
    let pages: Vec<Frame> = (0..8).map(|_| Frame::new()).collect::<Result<_, _>>()?;
    let pattern: Vec<u8> = (0..8 * PAGE_SIZE).map(|i| (i / 7) as u8).collect();
    let mut calls = Vec::new();
    let mut map_in = |va: u64, write: bool| {
        calls.push((va, write));
        let index = ((va - BASE) / PAGE) as usize;
        index < pages.len() && map(&space, va & !(PAGE - 1), &pages[index], write).is_ok()
    };
    let stored = user::store(BASE + 100, &pattern[..5 * PAGE_SIZE], &mut map_in);
    ensure!(stored == 5 * PAGE_SIZE, "stored {stored} bytes");
    let mut out = vec![0; 5 * PAGE_SIZE];
    let loaded = user::load(BASE + 100, &mut out, &mut map_in);
    ensure!(loaded == out.len() && out == pattern[..out.len()], "loaded {loaded} bytes");
    let over = user::load(BASE + 7 * PAGE, &mut vec![0; 2 * PAGE_SIZE], &mut map_in);
    ensure!(over == PAGE_SIZE, "loaded {over} bytes before a fault that fails");
    ensure!(calls.len() == 8, "faults: {calls:x?}");
    ensure!(calls[..6].iter().all(|c| c.1) && !calls[6].1, "kinds of faults: {calls:x?}");
    (0..8).for_each(|i| _ = space.unmap(BASE + i * PAGE));
    space.flush(BASE, 8);
    Ok(())
}

/// Threads fault in one space; the handler sleeps, others go on.
fn blocking_faults() -> Outcome {
    const THREADS: u64 = 4;
    const PAGES: u64 = 24;
    let space = new_space()?;
    let workers: Vec<_> = (0..THREADS)
        .map(|t| {
            let space = space.clone();
            thread::spawn("faulter", Priority::Normal, move || -> Outcome {
                space.activate();
                let base = BASE + t * PAGES * PAGE;
                let frames: Vec<Frame> =
                    (0..PAGES).map(|_| Frame::new()).collect::<Result<_, _>>()?;
                let mut handler = |va: u64, _write: bool| {
                    thread::sleep_ns(200_000);
                    let index = ((va - base) / PAGE) as usize;
                    map(&space, va & !(PAGE - 1), &frames[index], true).is_ok()
                };
                let piece = vec![t as u8 + 1; 3000];
                let mut at = 0;
                while at + 3000 <= PAGES * PAGE {
                    let n = user::store(base + at, &piece, &mut handler);
                    ensure!(n == piece.len(), "stored {n} bytes at {at}");
                    at += 3000;
                }
                for (i, frame) in frames.iter().enumerate() {
                    let end = (at as usize).saturating_sub(i * PAGE_SIZE).min(PAGE_SIZE);
                    let right = frame.bytes()[..end].iter().all(|&b| b == t as u8 + 1);
                    ensure!(right, "wrong bytes in page {i} of thread {t}");
                }
                (0..PAGES).for_each(|i| _ = space.unmap(base + i * PAGE));
                space.flush(base, PAGES as usize);
                Ok(())
            })
        })
        .collect();
    workers.into_iter().try_for_each(thread::JoinHandle::join)
}

/// Threads on every processor store through a mapping; once write-protected and flushed,
/// no store may arrive any more.
fn shootdown() -> Outcome {
    let space = new_space()?;
    let frame = Arc::new(Frame::new()?);
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..percpu::count())
        .map(|_| {
            let (space, stop) = (space.clone(), stop.clone());
            thread::spawn("writer", Priority::Normal, move || {
                space.activate();
                let mut n = 0u32;
                while !stop.load(Ordering::Relaxed) {
                    if to_user(BASE, &n.to_le_bytes()) == 4 {
                        n = n.wrapping_add(1);
                    } else {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut stores = 0;
    for round in 0..150 {
        let before = frame.word().load(Ordering::SeqCst);
        map(&space, BASE, &frame, true)?;
        thread::sleep_ns(200_000);
        if round % 2 == 0 {
            space.write_protect(BASE);
        } else {
            space.unmap(BASE);
        }
        space.flush(BASE, 1);
        let after = frame.word().load(Ordering::SeqCst);
        stores += u32::from(after != before);
        thread::sleep_ns(50_000);
        let late = frame.word().load(Ordering::SeqCst);
        ensure!(late == after, "round {round}: a store arrived after the flush");
    }
    stop.store(true, Ordering::Relaxed);
    writers.into_iter().for_each(thread::JoinHandle::join);
    space.unmap(BASE);
    space.flush(BASE, 1);
    ensure!(stores > 20, "only {stores} rounds saw a store: the test tested nothing");
    Ok(())
}

/// Spaces that come and go leave no frame behind, wherever they were loaded.
fn space_lifetime() -> Outcome {
    let frame = Arc::new(Frame::new()?);
    let mut first = 0;
    for round in 0..20 {
        let space = new_space()?;
        let users: Vec<_> = (0..percpu::count() as u64)
            .map(|t| {
                let (space, frame) = (space.clone(), frame.clone());
                thread::spawn("user", Priority::Normal, move || -> Outcome {
                    space.activate();
                    let va = BASE + t * (1 << 32);
                    map(&space, va, &frame, true)?;
                    ensure!(to_user(va, b"1234") == 4, "cannot store");
                    space.unmap(va);
                    space.flush(va, 1);
                    Ok(())
                })
            })
            .collect();
        users.into_iter().try_for_each(thread::JoinHandle::join)?;
        drop(space);
        thread::sleep_ns(1_000_000);
        if round == 9 {
            first = frames::free_count();
        }
    }
    let last = frames::free_count();
    ensure!(last + 16 >= first, "{first} frames free after ten rounds, {last} after twenty");
    Ok(())
}
