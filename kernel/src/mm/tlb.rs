//! Shootdown: making other processors forget translations.
//!
//! One request at a time. The sender publishes it, interrupts the processors that have
//! the address space loaded, and waits until each has answered. Whoever spins with
//! interrupts off ([`crate::spinlock`], and a second sender) answers by polling, so a
//! sender may hold spin locks.
//!
//! A processor that runs kernel threads or idles keeps the last space loaded but is
//! *lazy*: it is not interrupted, only marked, and flushes before it uses the space
//! again.
//!
//! ```text
//! sender                         lazy processor
//! change the entry               ...
//! lazy: 1 -> 2 ? yes: skip it    switch to a thread of the space: lazy -> 0
//!                no: interrupt   was 2 ? flush everything
//! ```

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::layout::{PAGE, direct};
use super::space::AddressSpace;
use super::{frames, paging};
use crate::arch::percpu::{self, Cpu, NoPreempt};
use crate::arch::{apic, cpu, trap};

/// Uses its space.
const ACTIVE: u32 = 0;
/// Keeps its space loaded without using it.
const LAZY: u32 = 1;
/// As `LAZY`, and must flush before it uses it.
const STALE: u32 = 2;

/// From here on a whole flush is cheaper than single pages.
const WHOLE_FLUSH_PAGES: usize = 32;

/// In place of a table: forget everything, global entries too.
const EVERYTHING: u64 = 0;

/// Held by the sender.
static SENDER: AtomicU32 = AtomicU32::new(0);
/// Processors that have not answered yet.
static PENDING: AtomicU64 = AtomicU64::new(0);
static ROOT: AtomicU64 = AtomicU64::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static PAGES: AtomicU64 = AtomicU64::new(0);
/// What the request asks: forget pages of a space, or leave the space altogether.
static LEAVE: AtomicU32 = AtomicU32::new(0);

static SENT: AtomicU64 = AtomicU64::new(0);
static SKIPPED: AtomicU64 = AtomicU64::new(0);

/// Processors interrupted for a shootdown, and those spared because they were lazy.
pub fn statistics() -> (u64, u64) {
    (SENT.load(Ordering::Relaxed), SKIPPED.load(Ordering::Relaxed))
}

/// Entries that TCG's TLB has at first, and those that [`widen`] makes it have.
const TCG_ENTRIES: u64 = 256;
const WIDE_ENTRIES: u64 = 4096;
/// Where the kernel image lies in physical memory, and RAM behind it.
const TOUCHED: u64 = 2 << 20;

/// Have TCG give this processor a larger TLB.
///
/// It doubles the table when that is emptied while most entries are in use, and at no other
/// time. A kernel that hardly ever empties it would stay with the first 256 entries, and
/// walk the page tables for every page of a copy of more than a MiB.
pub fn widen() {
    if cpu::hypervisor() != *b"TCGTCGTCGTCG" {
        return;
    }
    let ram = frames::total_count().saturating_sub(TOUCHED / PAGE);
    let mut entries = TCG_ENTRIES;
    while entries < WIDE_ENTRIES.min(ram) {
        for page in 0..entries {
            // SAFETY: reads a byte of the direct map.
            unsafe { direct(TOUCHED + page * PAGE).read_volatile() };
        }
        // SAFETY: reloads what is loaded.
        unsafe { cpu::write_cr3(cpu::read_cr3()) };
        entries *= 2;
    }
}

fn flush_here(address: u64, pages: usize) {
    if pages >= WHOLE_FLUSH_PAGES {
        // SAFETY: reloads what is loaded.
        unsafe { cpu::write_cr3(cpu::read_cr3()) };
    } else {
        for page in 0..pages as u64 {
            cpu::invlpg(address + page * PAGE);
        }
    }
}

/// Answer a request that is addressed to this processor.
#[inline]
pub fn poll() {
    if PENDING.load(Ordering::Acquire) != 0 {
        answer();
    }
}

fn answer() {
    let bit = 1u64 << percpu::index();
    if PENDING.load(Ordering::Acquire) & bit == 0 {
        return;
    }
    let root = ROOT.load(Ordering::Relaxed);
    let loaded = cpu::read_cr3();
    if LEAVE.load(Ordering::Relaxed) != 0 {
        if loaded == root {
            forget_space(percpu::this());
        }
    } else if root == EVERYTHING {
        cpu::flush_global();
    } else if loaded == root {
        flush_here(ADDRESS.load(Ordering::Relaxed), PAGES.load(Ordering::Relaxed) as usize);
    }
    PENDING.fetch_and(!bit, Ordering::Release);
}

/// The shootdown interrupt.
pub(crate) fn on_interrupt() {
    answer();
}

fn forget_space(this: &Cpu) {
    this.space.set(core::ptr::null());
    // SAFETY: the kernel's own table.
    unsafe { cpu::write_cr3(paging::root()) };
}

/// Send a request to the processors in `targets` and wait until all have answered.
fn send(targets: u64, root: u64, address: u64, pages: usize, leave: bool) {
    while SENDER.compare_exchange_weak(0, 1, Ordering::Acquire, Ordering::Relaxed).is_err() {
        poll();
        core::hint::spin_loop();
    }
    ROOT.store(root, Ordering::Relaxed);
    ADDRESS.store(address, Ordering::Relaxed);
    PAGES.store(pages as u64, Ordering::Relaxed);
    LEAVE.store(u32::from(leave), Ordering::Relaxed);
    PENDING.store(targets, Ordering::SeqCst);
    for target in percpu::all().filter(|c| targets & 1 << c.index() != 0) {
        apic::send(target.apic_id.get(), trap::SHOOTDOWN);
        SENT.fetch_add(1, Ordering::Relaxed);
    }
    while PENDING.load(Ordering::Acquire) != 0 {
        core::hint::spin_loop();
    }
    SENDER.store(0, Ordering::Release);
}

/// Make every processor forget its translations of `pages` pages of `space`.
///
/// When it returns, no access through an old translation can happen any more. The
/// caller has changed the entries before.
pub fn flush(space: &AddressSpace, address: u64, pages: usize) {
    let pin = NoPreempt::new();
    let me = pin.cpu();
    core::sync::atomic::fence(Ordering::SeqCst);
    let loaded = space.cpus.load(Ordering::SeqCst);
    if core::ptr::eq(me.space.get(), space) {
        flush_here(address, pages);
    }
    let mut targets = 0;
    for other in percpu::all() {
        let bit = 1 << other.index();
        if core::ptr::eq(other, me) || loaded & bit == 0 {
            continue;
        }
        match other.lazy.compare_exchange(LAZY, STALE, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) | Err(STALE) => _ = SKIPPED.fetch_add(1, Ordering::Relaxed),
            Err(_) => targets |= bit,
        }
    }
    if targets != 0 {
        send(targets, space.root(), address, pages, false);
    }
}

/// Make every processor forget all its translations, those of the kernel included.
pub fn flush_kernel() {
    let pin = NoPreempt::new();
    cpu::flush_global();
    let me = pin.cpu();
    let targets = percpu::all()
        .filter(|c| !core::ptr::eq(*c, me) && c.online.load(Ordering::Acquire))
        .fold(0, |mask, c| mask | 1 << c.index());
    if targets != 0 {
        send(targets, EVERYTHING, 0, 0, false);
    }
}

/// Make every processor load another table than this one, which is about to be freed.
pub(super) fn leave(space: &AddressSpace) {
    let pin = NoPreempt::new();
    let me = pin.cpu();
    let loaded = space.cpus.load(Ordering::SeqCst);
    if core::ptr::eq(me.space.get(), space) {
        forget_space(me);
    }
    let targets = loaded & !(1 << me.index());
    if targets != 0 {
        send(targets, space.root(), 0, 0, true);
    }
}

/// The scheduler switches this processor to a thread that uses `space` (or none).
/// Interrupts are off.
#[inline]
pub(crate) fn switch_space(this: &Cpu, space: *const AddressSpace) {
    if space.is_null() {
        if this.lazy.load(Ordering::Relaxed) == ACTIVE && !this.space.get().is_null() {
            this.lazy.store(LAZY, Ordering::SeqCst);
        }
        return;
    }
    let was = this.lazy.swap(ACTIVE, Ordering::SeqCst);
    let old = this.space.get();
    if core::ptr::eq(old, space) {
        if was == STALE {
            // SAFETY: reloads what is loaded.
            unsafe { cpu::write_cr3(cpu::read_cr3()) };
        }
        return;
    }
    let bit = 1 << this.index();
    // SAFETY: the thread switched to holds a reference to its space.
    let space = unsafe { &*space };
    space.cpus.fetch_or(bit, Ordering::SeqCst);
    // SAFETY: every space has the kernel's half.
    unsafe { cpu::write_cr3(space.root()) };
    this.space.set(space);
    // SAFETY: a space is not freed before its `leave` has made this processor forget it.
    if let Some(old) = unsafe { old.as_ref() } {
        old.cpus.fetch_and(!bit, Ordering::SeqCst);
    }
}
