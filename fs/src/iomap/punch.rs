//! Giving back what a write reserved and did not use.
//!
//! Only a reservation that this very write made is given back (`NEW`), and only where no
//! dirty data lies: a store through a mapping may have used it meanwhile, and needs it.
//!
//! ```text
//! this write                         a store through a mapping
//! INVAL exclusive
//! look for dirty blocks              fault: waits for INVAL
//! punch what lies between them
//! INVAL released                     fault: reserves for itself
//! ```
//!
//! Without the lock the store could make a block dirty, relying on the reservation that
//! is there, after we looked and before we punch: dirty data without space. The lock
//! cannot be held across the copy, whose source may be a mapping of the same file.

use alloc::vec::Vec;
use core::ops::Range;

use super::{Iomap, ReservedFork};
use crate::Result;
use crate::lab::{Guard, Point};
use crate::pagecache::{Folio, Mapping};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};

/// A write of `wanted` bytes from `pos` on got `done` bytes far under `map`, with no folio
/// locked any more: give back what it reserved for the rest.
pub(super) fn give_back(
    mapping: &Mapping,
    map: &Iomap,
    pos: u64,
    wanted: u64,
    done: u64,
) -> Result<()> {
    let Some(fork) = map.reserved_in().filter(|_| done < wanted) else { return Ok(()) };
    let block = 1u64 << mapping.ops().block_shift();
    let start = match done {
        0 => pos & !(block - 1),
        _ => (pos + done).next_multiple_of(block),
    };
    let end = (pos + wanted).next_multiple_of(block);
    if start >= end {
        return Ok(());
    }
    let lab = mapping.lab();
    let _no_faults =
        lab.acts(Guard::PunchInvalidateLock).then(|| mapping.invalidate_lock().write());
    let unused = unused_ranges(mapping, start..end);
    lab.at(Point::Scanned, mapping.id(), start);
    punch_all(mapping, unused, fork)
}

/// As [`give_back`], where the caller holds the invalidate lock exclusive already.
pub(super) fn give_back_locked(mapping: &Mapping, map: &Iomap, range: Range<u64>) -> Result<()> {
    let Some(fork) = map.reserved_in() else { return Ok(()) };
    let block = 1u64 << mapping.ops().block_shift();
    let range = range.start & !(block - 1)..range.end.next_multiple_of(block);
    punch_all(mapping, unused_ranges(mapping, range), fork)
}

fn punch_all(mapping: &Mapping, ranges: Vec<Range<u64>>, fork: ReservedFork) -> Result<()> {
    for range in ranges {
        mapping.lab().at(Point::Punch, mapping.id(), range.start);
        mapping.ops().punch_delalloc(range, fork)?;
    }
    Ok(())
}

/// The parts of `range` in which no block is dirty. Each cached folio is locked for the
/// look, which waits for a writeback that is just about to allocate its blocks.
fn unused_ranges(mapping: &Mapping, range: Range<u64>) -> Vec<Range<u64>> {
    let mut unused = Vec::new();
    let mut clean_from = range.start;
    // Beyond the end nothing is ever written back: dirty bits there need no space.
    let block = 1u64 << mapping.block_shift();
    let scan_end = range.end.min(mapping.size().next_multiple_of(block));
    let mut from = range.start >> PAGE_SHIFT;
    let pages_end = scan_end.div_ceil(PAGE_SIZE as u64);
    while from < pages_end {
        let batch = mapping.folios_in(from..pages_end, 64);
        let Some(last) = batch.last() else { break };
        from = last.pages().end;
        for folio in &batch {
            for dirty in dirty_ranges(mapping, folio, range.start..scan_end) {
                if clean_from < dirty.start {
                    unused.push(clean_from..dirty.start);
                }
                clean_from = dirty.end;
            }
        }
    }
    if clean_from < range.end {
        unused.push(clean_from..range.end);
    }
    unused
}

/// The dirty blocks of a folio within `range`, in bytes of the file.
fn dirty_ranges(
    mapping: &Mapping,
    folio: &alloc::sync::Arc<Folio>,
    range: Range<u64>,
) -> Vec<Range<u64>> {
    let locked = folio.lock();
    if locked.is_detached() || !locked.is_dirty() {
        return Vec::new();
    }
    if !mapping.lab().acts(Guard::PunchSkipDirty) {
        return Vec::new();
    }
    let shift = mapping.block_shift();
    let position = locked.position();
    let mut blocks = locked.dirty_blocks();
    let all = locked.all_blocks(shift);
    if blocks != all && !mapping.lab().acts(Guard::PunchPerBlock) {
        blocks = all;
    }
    super::fill::runs(blocks, shift)
        .map(|run| {
            let start = (position + run.start as u64).max(range.start);
            start..(position + run.end as u64).min(range.end)
        })
        .filter(|run| run.start < run.end)
        .collect()
}
