//! Physical frames: a buddy allocator below per-CPU magazines.
//!
//! One frame is the usual request (page cache, slabs, page tables) and comes from the
//! processor's own magazine without a lock; magazines are refilled and emptied in
//! batches. Runs of frames (DMA rings, buffers) come from the buddy lists.
//!
//! Free blocks are linked through their own first bytes; one byte a frame says which
//! blocks are free and how large. Memory enters the lists a block at a time, when it is
//! first needed: linking all of it at boot would touch all of it, and have the host
//! supply and clear it.
//!
//! A small reserve is kept from the page cache ([`alloc_for_cache`]), so that heap,
//! page tables and stacks can grow while every other frame caches file data.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::layout::{PAGE, direct};
use super::tlb;
use crate::arch::percpu::{self, NoPreempt};
use crate::spinlock::SpinLock;

/// Blocks have up to 2^MAX_ORDER frames.
const MAX_ORDER: usize = 10;
const FREE: u8 = 0x80;
const NOT_HEAD: u8 = 0;
const NONE: u64 = u64::MAX;
/// Ranges of memory that has not been touched yet.
const MAX_FRESH: usize = 64;

const MAGAZINE: usize = 64;
const BATCH: usize = 32;

/// A processor's stock of single frames.
pub struct FrameMagazine {
    count: AtomicU32,
    frames: [u64; MAGAZINE],
}

impl FrameMagazine {
    pub(crate) const fn new() -> Self {
        Self { count: AtomicU32::new(0), frames: [0; MAGAZINE] }
    }
}

#[repr(C)]
struct Node {
    next: u64,
    previous: u64,
}

struct Buddy {
    /// First free block of each order, as a frame number.
    heads: [u64; MAX_ORDER + 1],
    /// One byte a frame: `FREE | order` at the head of a free block.
    state: *mut u8,
    frames: u64,
    free: u64,
    /// First and end frame of untouched ranges; counted as free.
    fresh: [(u64, u64); MAX_FRESH],
    fresh_count: usize,
}

// SAFETY: the pointer is to memory that only the lock's holder touches.
unsafe impl Send for Buddy {}

static BUDDY: SpinLock<Buddy> = SpinLock::new(Buddy {
    heads: [NONE; MAX_ORDER + 1],
    state: core::ptr::null_mut(),
    frames: 0,
    free: 0,
    fresh: [(0, 0); MAX_FRESH],
    fresh_count: 0,
});
static TOTAL: AtomicU64 = AtomicU64::new(0);
static RESERVE: AtomicU64 = AtomicU64::new(0);
/// Copy of `Buddy::free` for readers without the lock.
static BUDDY_FREE: AtomicU64 = AtomicU64::new(0);

impl Buddy {
    fn node(frame: u64) -> *mut Node {
        direct(frame * PAGE).cast()
    }
    fn state(&self, frame: u64) -> u8 {
        debug_assert!(frame < self.frames);
        // SAFETY: below `frames`, the length of the table.
        unsafe { *self.state.add(frame as usize) }
    }
    fn set_state(&mut self, frame: u64, state: u8) {
        // SAFETY: below `frames`, the length of the table.
        unsafe { *self.state.add(frame as usize) = state };
    }
    fn push(&mut self, frame: u64, order: usize) {
        let head = self.heads[order];
        // SAFETY: a free block's memory is the allocator's; it is in the direct map.
        unsafe {
            Self::node(frame).write(Node { next: head, previous: NONE });
            if head != NONE {
                (*Self::node(head)).previous = frame;
            }
        }
        self.heads[order] = frame;
        self.set_state(frame, FREE | order as u8);
    }
    fn unlink(&mut self, frame: u64, order: usize) {
        // SAFETY: the block is free and linked, so are its neighbours.
        unsafe {
            let Node { next, previous } = Self::node(frame).read();
            if next != NONE {
                (*Self::node(next)).previous = previous;
            }
            if previous == NONE {
                self.heads[order] = next;
            } else {
                (*Self::node(previous)).next = next;
            }
        }
        self.set_state(frame, NOT_HEAD);
    }
    fn alloc(&mut self, order: usize) -> Option<u64> {
        let from = loop {
            match (order..=MAX_ORDER).find(|&o| self.heads[o] != NONE) {
                Some(from) => break from,
                None => self.take_fresh()?,
            }
        };
        let frame = self.heads[from];
        self.unlink(frame, from);
        for split in (order..from).rev() {
            self.push(frame + (1 << split), split);
        }
        self.free -= 1 << order;
        Some(frame)
    }
    fn release(&mut self, mut frame: u64, mut order: usize) {
        assert!(
            frame < self.frames && self.state(frame) & FREE == 0,
            "frame {frame:#x} freed twice or never allocated"
        );
        self.free += 1 << order;
        while order < MAX_ORDER {
            let buddy = frame ^ (1 << order);
            if buddy >= self.frames || self.state(buddy) != FREE | order as u8 {
                break;
            }
            self.unlink(buddy, order);
            frame = frame.min(buddy);
            order += 1;
        }
        self.push(frame, order);
    }
    /// Give back any run of frames, in the largest blocks it divides into.
    fn release_run(&mut self, mut frame: u64, mut count: u64) {
        while count > 0 {
            let aligned = frame.trailing_zeros().min(MAX_ORDER as u32);
            let order = aligned.min(count.ilog2()) as usize;
            self.release(frame, order);
            frame += 1 << order;
            count -= 1 << order;
        }
    }
    /// Put the next untouched block into the lists.
    fn take_fresh(&mut self) -> Option<()> {
        let at = self.fresh_count.checked_sub(1)?;
        let (first, last) = &mut self.fresh[at];
        let start = *first;
        let end = (start + 1).next_multiple_of(1 << MAX_ORDER).min(*last);
        *first = end;
        if end == *last {
            self.fresh_count -= 1;
        }
        self.free -= end - start;
        self.release_run(start, end - start);
        Some(())
    }
    fn publish(&self) {
        BUDDY_FREE.store(self.free, Ordering::Relaxed);
    }
}

/// Set the allocator up for physical memory below `limit`; `table` is memory for its
/// state, one byte a frame below the limit.
///
/// # Safety
/// Once; `table` is unused direct-map memory of at least `limit / 4096` bytes.
pub unsafe fn init(limit: u64, table: *mut u8) {
    let frames = limit / PAGE;
    // SAFETY: the caller's promise.
    unsafe { table.write_bytes(NOT_HEAD, frames as usize) };
    let mut buddy = BUDDY.lock();
    buddy.state = table;
    buddy.frames = frames;
}

/// Hand usable memory to the allocator.
///
/// # Safety
/// The range is RAM that nobody uses, mapped in the direct map, below the limit.
pub unsafe fn add(start: u64, end: u64) {
    let first = start.div_ceil(PAGE);
    let last = end / PAGE;
    if first >= last {
        return;
    }
    let mut buddy = BUDDY.lock();
    if buddy.fresh_count < MAX_FRESH {
        let at = buddy.fresh_count;
        buddy.fresh[at] = (first, last);
        buddy.fresh_count += 1;
        buddy.free += last - first;
    } else {
        buddy.release_run(first, last - first);
    }
    buddy.publish();
    let total = TOTAL.fetch_add(last - first, Ordering::Relaxed) + (last - first);
    RESERVE.store((total / 32).clamp(64, 1024), Ordering::Relaxed);
}

/// A frame's physical address, contents undefined.
#[inline]
pub fn alloc() -> Option<u64> {
    let pin = NoPreempt::new();
    if percpu::in_interrupt() {
        return alloc_run_order(0);
    }
    // SAFETY: this processor's, preemption is off and interrupts do not touch it.
    let magazine = unsafe { &mut *pin.cpu().frames.get() };
    let mut count = magazine.count.load(Ordering::Relaxed) as usize;
    if count == 0 {
        count = refill(magazine);
        if count == 0 {
            return None;
        }
        tlb::taken(pin.cpu(), count as u64);
    }
    magazine.count.store(count as u32 - 1, Ordering::Relaxed);
    Some(magazine.frames[count - 1])
}

#[cold]
fn refill(magazine: &mut FrameMagazine) -> usize {
    let mut buddy = BUDDY.lock();
    let mut count = 0;
    while count < BATCH {
        let Some(frame) = buddy.alloc(0) else { break };
        magazine.frames[count] = frame * PAGE;
        count += 1;
    }
    buddy.publish();
    count
}

/// A frame for data that can be had again, such as a cached page: none when only the
/// reserve is left.
#[inline]
pub fn alloc_for_cache() -> Option<u64> {
    if BUDDY_FREE.load(Ordering::Relaxed) < RESERVE.load(Ordering::Relaxed)
        && free_count() < RESERVE.load(Ordering::Relaxed)
    {
        return None;
    }
    alloc()
}

/// As [`alloc_for_cache`], `count` frames in a row.
pub fn alloc_run_for_cache(count: usize) -> Option<u64> {
    if BUDDY_FREE.load(Ordering::Relaxed) < RESERVE.load(Ordering::Relaxed) + count as u64 {
        return None;
    }
    let phys = alloc_run(count)?;
    tlb::taken(NoPreempt::new().cpu(), count as u64);
    Some(phys)
}

/// A frame of zeros.
pub fn alloc_zeroed() -> Option<u64> {
    let phys = alloc()?;
    // SAFETY: a fresh frame in the direct map.
    unsafe { direct(phys).write_bytes(0, super::PAGE_SIZE) };
    Some(phys)
}

/// Give a frame back.
///
/// # Safety
/// It came from [`alloc()`] and nobody uses it any more.
#[inline]
pub unsafe fn free(phys: u64) {
    let pin = NoPreempt::new();
    if percpu::in_interrupt() {
        let mut buddy = BUDDY.lock();
        buddy.release(phys / PAGE, 0);
        return buddy.publish();
    }
    // SAFETY: this processor's, preemption is off and interrupts do not touch it.
    let magazine = unsafe { &mut *pin.cpu().frames.get() };
    let mut count = magazine.count.load(Ordering::Relaxed) as usize;
    if count == MAGAZINE {
        count = drain(magazine);
    }
    magazine.frames[count] = phys;
    magazine.count.store(count as u32 + 1, Ordering::Relaxed);
}

#[cold]
fn drain(magazine: &mut FrameMagazine) -> usize {
    let mut buddy = BUDDY.lock();
    for &phys in &magazine.frames[MAGAZINE - BATCH..] {
        buddy.release(phys / PAGE, 0);
    }
    buddy.publish();
    MAGAZINE - BATCH
}

fn alloc_run_order(order: usize) -> Option<u64> {
    let mut buddy = BUDDY.lock();
    let frame = buddy.alloc(order)?;
    buddy.publish();
    Some(frame * PAGE)
}

/// `count` frames in a row (at most 1,024), aligned to the next power of two.
pub fn alloc_run(count: usize) -> Option<u64> {
    let rounded = count.max(1).next_power_of_two();
    let order = rounded.trailing_zeros() as usize;
    if order > MAX_ORDER {
        return None;
    }
    let mut buddy = BUDDY.lock();
    let frame = buddy.alloc(order)?;
    buddy.release_run(frame + count as u64, (rounded - count) as u64);
    buddy.publish();
    Some(frame * PAGE)
}

/// Give back what [`alloc_run`] gave.
///
/// # Safety
/// As [`free`], for all of the run.
pub unsafe fn free_run(phys: u64, count: usize) {
    let mut buddy = BUDDY.lock();
    buddy.release_run(phys / PAGE, count as u64);
    buddy.publish();
}

/// Frames that are free now, the processors' stocks included.
pub fn free_count() -> u64 {
    let stocks: u64 = percpu::all()
        // SAFETY: only the atomic counter is read.
        .map(|cpu| u64::from(unsafe { &*cpu.frames.get() }.count.load(Ordering::Relaxed)))
        .sum();
    BUDDY_FREE.load(Ordering::Relaxed) + stocks
}

/// Frames there are.
pub fn total_count() -> u64 {
    TOTAL.load(Ordering::Relaxed)
}

/// Frames kept from [`alloc_for_cache`].
pub fn reserve_count() -> u64 {
    RESERVE.load(Ordering::Relaxed)
}
