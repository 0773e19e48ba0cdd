//! Kernel stacks.
//!
//! Each stack lies at the upper end of a slot of its own; the rest of the slot is never
//! mapped, so running off the lower end faults. Stacks of ended threads are kept for
//! the next ones; surplus is unmapped.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::layout::{MMIO, PAGE, STACKS, image};
use super::{OutOfMemory, frames, paging, tlb};
use crate::spinlock::SpinLock;

const SLOT_BYTES: u64 = 128 * 1024;
/// Bytes of a thread's stack. File systems call deep, and interrupts nest on top.
pub const STACK_BYTES: u64 = 48 * 1024;
/// Stacks kept mapped for the next thread: at least so many, more with more memory.
const KEPT: usize = 8;
const FRAMES_PER_KEPT: u64 = 1024;

static NEXT_SLOT: AtomicU64 = AtomicU64::new(0);
/// Mapped and unused.
static SPARE: SpinLock<Vec<u64>> = SpinLock::new(Vec::new());
/// Slots unmapped and unused.
static EMPTY: SpinLock<Vec<u64>> = SpinLock::new(Vec::new());

/// A kernel stack; dropped, it goes back.
#[derive(Debug)]
pub struct Stack {
    top: u64,
}

impl Stack {
    /// A stack, its contents undefined.
    ///
    /// # Errors
    /// No frames.
    pub fn new() -> Result<Self, OutOfMemory> {
        if let Some(top) = SPARE.lock().pop() {
            return Ok(Self { top });
        }
        let top = EMPTY.lock().pop().unwrap_or_else(|| {
            STACKS + (NEXT_SLOT.fetch_add(1, Ordering::Relaxed) + 1) * SLOT_BYTES
        });
        for page in (top - STACK_BYTES..top).step_by(PAGE as usize) {
            let mapped = frames::alloc().ok_or(OutOfMemory).and_then(|frame| {
                paging::map(page, frame, paging::KERNEL_DATA).inspect_err(|_| {
                    // SAFETY: just allocated, mapped nowhere.
                    unsafe { frames::free(frame) }
                })
            });
            if mapped.is_err() {
                unmap(&[top]);
                return Err(OutOfMemory);
            }
        }
        Ok(Self { top })
    }
    /// One past its highest byte.
    pub fn top(&self) -> u64 {
        self.top
    }
    /// Its lowest byte.
    pub fn bottom(&self) -> u64 {
        self.top - STACK_BYTES
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        let kept = KEPT.max((frames::total_count() / FRAMES_PER_KEPT) as usize);
        let surplus = {
            let mut spare = SPARE.lock();
            spare.push(self.top);
            // Many at a time: unmapping interrupts every processor.
            if spare.len() > 2 * kept { spare.split_off(kept) } else { Vec::new() }
        };
        unmap(&surplus);
    }
}

/// Unmap what is mapped of these stacks and give their frames and slots back.
fn unmap(tops: &[u64]) {
    if tops.is_empty() {
        return;
    }
    let pages = tops.iter().flat_map(|&top| (top - STACK_BYTES..top).step_by(PAGE as usize));
    let frames: Vec<u64> = pages.filter_map(paging::unmap).collect();
    tlb::flush_kernel();
    for frame in frames {
        // SAFETY: mapped nowhere any more, on no processor.
        unsafe { frames::free(frame) };
    }
    EMPTY.lock().extend_from_slice(tops);
}

/// Frames of stacks that are mapped for the next threads.
pub fn spare_frames() -> u64 {
    SPARE.lock().len() as u64 * (STACK_BYTES / PAGE)
}

/// Does this address lie where only an overflowing stack would touch it?
pub fn is_stack_guard(address: u64) -> bool {
    let guard = image().boot_stack_guard;
    (STACKS..MMIO).contains(&address) || (guard..guard + PAGE).contains(&address)
}
