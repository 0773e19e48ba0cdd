//! Zeroing parts of a file, and what happens at its end when it grows.
//!
//! Bytes of the last page beyond the end of the file mean nothing: a store through a
//! mapping may put anything there. Writeback writes zeros instead. Before the file grows
//! over them they become zeros in memory too, under the folio's lock, and the page loses
//! the right to be stored to where blocks are smaller than pages: its next store must
//! fault, because the blocks that join the file have no space reserved yet.

use alloc::sync::Arc;
use core::ops::Range;

use super::buffered_write::fill_edges;
use super::fill::{self, Batch, page_of};
use super::{Iomap, MapFlags, MapKind, Purpose, punch};
use crate::block::{Bio, BioFlags, Op, Plug, Segment};
use crate::lab::Guard;
use crate::pagecache::{BlockMask, Folio, LockedFolio, Mapping};
use crate::platform::PAGE_SIZE;
use crate::{Error, Result};

/// Make bytes `range` read as zeros, keeping their blocks: what is written is zeroed in
/// the page cache, holes and unwritten extents are left alone but for dirty data over
/// them. True if anything became dirty. The caller holds `IOLOCK` and the
/// invalidate lock exclusive.
///
/// # Errors
/// I/O errors, corruption, no memory, no space for a copy of a shared block; part of the
/// range may be zeros then.
pub fn zero_range(mapping: &Arc<Mapping>, range: Range<u64>) -> Result<bool> {
    let mut at = range.start;
    let mut dirtied = false;
    while at < range.end {
        let map = mapping.ops().begin(at, range.end - at, Purpose::Zero)?;
        if !map.contains(at) {
            return Err(Error::Io);
        }
        let part = at..range.end.min(map.end_bytes());
        at = match map.kind {
            MapKind::Written { .. } => zero_written(mapping, &map, part, &mut dirtied)?,
            _ => zero_dirty(mapping, &map, part, &mut dirtied),
        };
    }
    Ok(dirtied)
}

/// Zero a written part. Up to where it went: not to the end if the map is stale.
fn zero_written(
    mapping: &Arc<Mapping>,
    map: &Iomap,
    range: Range<u64>,
    dirtied: &mut bool,
) -> Result<u64> {
    // Whole blocks beyond the end of the file are never written back: they are zeroed
    // on disk. Nothing of them is cached but what grows with the last page.
    let beyond = mapping.size().next_multiple_of(1 << mapping.ops().block_shift());
    let inside = range.start..range.end.min(beyond.max(range.start));
    let mut at = inside.start;
    while at < inside.end {
        let len = (PAGE_SIZE - at as usize % PAGE_SIZE).min((inside.end - at) as usize);
        match zero_folio(mapping, map, at, len) {
            Ok(true) => *dirtied = true,
            Ok(false) => {
                punch::give_back_locked(mapping, map, at..inside.end)?;
                return Ok(at);
            }
            Err(e) => {
                punch::give_back_locked(mapping, map, at..inside.end)?;
                return Err(e);
            }
        }
        at += len as u64;
    }
    if inside.end < range.end {
        if map.flags.contains(MapFlags::SHARED) {
            return Err(Error::Io);
        }
        zero_on_disk(mapping, map, inside.end..range.end)?;
    }
    Ok(range.end)
}

/// Zero part of one folio; false if the map is stale.
fn zero_folio(mapping: &Arc<Mapping>, map: &Iomap, pos: u64, len: usize) -> Result<bool> {
    let folio = mapping.get_locked(page_of(pos))?;
    if !mapping.ops().is_valid(map) {
        return Ok(false);
    }
    let offset = folio.offset_of(pos);
    fill_edges(mapping, &folio, map, offset, len)?;
    zero_cached(mapping, &folio, offset..offset + len, BlockMask::MAX);
    Ok(true)
}

/// Zero bytes of a locked folio in those of its blocks, which become dirty.
fn zero_cached(mapping: &Mapping, folio: &LockedFolio, bytes: Range<usize>, blocks: BlockMask) {
    let shift = mapping.block_shift();
    let touched = Folio::blocks_touched(shift, bytes.start, bytes.end) & blocks;
    for run in fill::runs(touched, shift) {
        let (start, end) = (run.start.max(bytes.start), run.end.min(bytes.end));
        folio.page().zero(start, end - start);
    }
    folio.set_uptodate_blocks(touched, shift);
    mapping.mark_dirty(folio, touched);
}

/// Zero the dirty data that lies over what reads as zeros on disk. Up to where it went.
///
/// ```text
/// a store, a write                   zeroing
/// dirties a page over an unwritten   "unwritten, so it is zeros already"
/// extent
/// writeback, conversion: the bytes are there
/// ```
fn zero_dirty(mapping: &Arc<Mapping>, map: &Iomap, range: Range<u64>, dirtied: &mut bool) -> u64 {
    let end_page = range.end.div_ceil(PAGE_SIZE as u64);
    let mut from = page_of(range.start);
    while from < end_page {
        let batch = mapping.folios_in(from..end_page, 64);
        let Some(last) = batch.last() else { break };
        from = last.pages().end;
        for folio in &batch {
            let locked = folio.lock();
            if locked.is_detached() {
                continue;
            }
            let start = locked.position().max(range.start);
            if locked.is_writeback() {
                // It is about to become written, with what it held.
                locked.wait_writeback();
            }
            if !mapping.ops().is_valid(map) {
                return start;
            }
            let bytes = locked.offset_of(range.start)..locked.offset_of(range.end);
            let shift = mapping.block_shift();
            let dirty =
                locked.dirty_blocks() & Folio::blocks_touched(shift, bytes.start, bytes.end);
            if dirty == 0 || !mapping.lab().acts(Guard::ZeroDirty) {
                continue;
            }
            zero_cached(mapping, &locked, bytes, dirty);
            *dirtied = true;
        }
    }
    range.end
}

/// Write zeros over blocks, and wait.
fn zero_on_disk(mapping: &Mapping, map: &Iomap, range: Range<u64>) -> Result<()> {
    let page = mapping.cache().alloc_other_page().ok_or(Error::NoMemory)?;
    page.zero(0, PAGE_SIZE);
    let most = (mapping.queue().info().max_segments.clamp(1, 256) * PAGE_SIZE) as u64;
    let batch = Batch::new();
    let mut plug = Plug::new(mapping.queue());
    let mut at = range.start;
    while at < range.end {
        let stop = range.end.min(at + most);
        let sector = map.sector(at).ok_or(Error::Io)?;
        let segments = (at..stop).step_by(PAGE_SIZE).map(|start| Segment {
            page: page.clone(),
            offset: 0,
            len: (stop - start).min(PAGE_SIZE as u64) as u32,
        });
        let flags = BioFlags::SYNC;
        let request = batch.request();
        plug.submit(Bio::transfer(Op::Write, sector, segments.collect(), flags, request));
        at = stop;
    }
    drop(plug);
    batch.wait()
}

/// The end of the file, locked, while a write behind it leaves a gap.
pub(super) struct Gap {
    /// The folio that holds the end, if it is cached and not the one that is written.
    eof: Option<LockedFolio>,
}

impl Gap {
    /// Lock page `index`, which lies at or behind the end of the file, and before it
    /// (folios are locked in rising order) the page that holds the end.
    pub(super) fn lock(mapping: &Arc<Mapping>, index: u64) -> Result<(LockedFolio, Self)> {
        loop {
            // Made before anything is locked: memory may be long in coming.
            let folio = mapping.get_locked(index)?;
            let size = mapping.size();
            let within = folio.pages().contains(&page_of(size));
            if size.is_multiple_of(PAGE_SIZE as u64) || within {
                return Ok((folio, Self { eof: None }));
            }
            drop(folio);
            let eof = mapping.find(page_of(size)).map(|folio| folio.lock());
            if eof.as_ref().is_some_and(|folio| folio.is_detached()) {
                continue;
            }
            let Some(folio) = mapping.find(index).map(|folio| folio.lock()) else { continue };
            if !folio.is_detached() {
                return Ok((folio, Self { eof }));
            }
        }
    }
    /// The file is about to end in `folio`, behind byte `pos`.
    pub(super) fn close(self, mapping: &Mapping, folio: &LockedFolio, pos: u64) {
        let same = folio.pages().contains(&page_of(mapping.size()));
        if let Some(eof) = self.eof.as_ref().or(same.then_some(folio)) {
            prepare_eof(mapping, eof, pos);
        }
    }
}

/// The locked folio at the end of the file: it is about to grow up to byte `pos`, of which
/// nothing was written up to there.
fn prepare_eof(mapping: &Mapping, folio: &LockedFolio, pos: u64) {
    // Whole pages behind the end hold nothing, or zeros: nobody stores there.
    let start = folio.offset_of(mapping.size());
    let end = folio.offset_of(pos).min(start.next_multiple_of(PAGE_SIZE));
    if start < end && mapping.lab().acts(Guard::EofZero) {
        folio.page().zero(start, end - start);
    }
    let small_blocks = 1 << mapping.block_shift() < PAGE_SIZE;
    if small_blocks && folio.is_mapped() && mapping.lab().acts(Guard::EofWriteProtect) {
        mapping.write_protect(folio);
    }
}

/// Let the file grow to `size` bytes in memory, zeros behind its old end. True if
/// something became dirty. The caller holds `IOLOCK` and the invalidate lock exclusive.
///
/// # Errors
/// As [`zero_range`]; the file did not grow then.
pub(super) fn grow(mapping: &Arc<Mapping>, size: u64) -> Result<bool> {
    let old = mapping.size();
    let dirtied = zero_range(mapping, old..size)?;
    if let Some(folio) =
        mapping.find(page_of(old)).filter(|_| !old.is_multiple_of(PAGE_SIZE as u64))
    {
        let locked = folio.lock();
        prepare_eof(mapping, &locked, size);
    }
    mapping.set_size(size);
    Ok(dirtied)
}

/// A direct write put bytes `pos..size` on disk: they are part of the file now, with zeros
/// between its old end and `pos`. The caller holds the invalidate lock exclusive.
pub(super) fn grow_over(mapping: &Mapping, pos: u64, size: u64) {
    let old = mapping.size();
    if let Some(folio) = mapping.find(page_of(old)).filter(|_| pos > old) {
        prepare_eof(mapping, &folio.lock(), pos);
    }
    mapping.set_size(size);
}
