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

use core::cell::Cell;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::layout::PAGE;
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

/// Entries of the table in which TCG keeps translations, at first.
const TCG_ENTRIES: u64 = 256;

/// What a processor of TCG's knows of that table.
///
/// TCG doubles it when it is emptied while most entries are in use, and may shrink it at
/// such a time, but at no other. A kernel that hardly ever empties it would stay with a few
/// entries, and walk the page tables for every page of a large copy. So it is emptied
/// whenever as many pages were taken into use as it may have entries.
pub struct TcgTable {
    /// Entries it may have; 0: there is no such table.
    entries: Cell<u64>,
    /// Pages taken into use since it was emptied.
    pages: Cell<u64>,
}

impl TcgTable {
    pub(crate) const fn new() -> Self {
        Self { entries: Cell::new(0), pages: Cell::new(0) }
    }
    /// It was emptied, not because of its size.
    fn emptied(&self) {
        if self.entries.get() != 0 {
            self.start();
        }
    }
    fn start(&self) {
        self.entries.set(TCG_ENTRIES);
        self.pages.set(0);
    }
}

/// This processor is about to be used.
pub(crate) fn online(this: &Cpu) {
    if cpu::hypervisor() == *b"TCGTCGTCGTCG" {
        this.tcg.start();
    }
}

/// This processor takes so many pages into use; preemption is off.
pub(super) fn taken(this: &Cpu, pages: u64) {
    let table = &this.tcg;
    let (entries, pages) = (table.entries.get(), table.pages.get() + pages);
    table.pages.set(pages);
    if entries == 0 || pages < entries {
        return;
    }
    // Frames that come and go are counted again and again: there are not more than are used.
    if entries < frames::total_count() - frames::free_count() {
        table.pages.set(0);
        table.entries.set(entries * 2);
        // SAFETY: reloads what is loaded.
        unsafe { cpu::write_cr3(cpu::read_cr3()) };
    }
}

fn flush_here(address: u64, pages: usize) {
    if pages >= WHOLE_FLUSH_PAGES {
        // SAFETY: reloads what is loaded.
        unsafe { cpu::write_cr3(cpu::read_cr3()) };
        percpu::this().tcg.emptied();
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
    this.tcg.emptied();
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
            this.tcg.emptied();
        }
        return;
    }
    let bit = 1 << this.index();
    // SAFETY: the thread switched to holds a reference to its space.
    let space = unsafe { &*space };
    space.cpus.fetch_or(bit, Ordering::SeqCst);
    // SAFETY: every space has the kernel's half.
    unsafe { cpu::write_cr3(space.root()) };
    this.tcg.emptied();
    this.space.set(space);
    // SAFETY: a space is not freed before its `leave` has made this processor forget it.
    if let Some(old) = unsafe { old.as_ref() } {
        old.cpus.fetch_and(!bit, Ordering::SeqCst);
    }
}
