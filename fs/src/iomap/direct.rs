//! Direct I/O: between the device and the caller, past the page cache but coherent with it.
//!
//! The device works on pages of ours, from which the bytes are copied once: a caller's
//! buffer need be neither contiguous nor pinned.
//!
//! What is cached of the range is written and dropped before the I/O, and what a reader
//! or a fault brought in meanwhile is dropped after it:
//!
//! ```text
//! direct writer (IOLOCK shared)      buffered reader (IOLOCK shared)
//! drop the cache
//! allocate                           map: a hole
//! write, convert                     fill the folio with zeros
//! drop the cache again
//! ```
//!
//! A page that cannot be dropped before, because a store keeps making it dirty, sends the
//! write through the cache; one that cannot be dropped after is an error of the file.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::fill::Batch;
use super::{Iomap, MapFlags, MapKind, Purpose, Sink, Source, buffered_write, zero};
use crate::block::{Bio, BioFlags, Op, Plug, Segment};
use crate::lab::Guard;
use crate::pagecache::Mapping;
use crate::platform::{PAGE_SIZE, Page};
use crate::{Error, Result};

/// Pages in flight for one caller.
const PAGES: usize = 256;

fn bounce(mapping: &Mapping, bytes: u64) -> Result<Vec<Page>> {
    let pages = bytes.div_ceil(PAGE_SIZE as u64).min(PAGES as u64);
    (0..pages).map(|_| mapping.cache().alloc_other_page().ok_or(Error::NoMemory)).collect()
}

/// Read from `pos` past the cache. `pos` and the sink's length are multiples of the
/// device's block size; the caller holds `IOLOCK` shared.
///
/// # Errors
/// If nothing at all was read: misalignment, I/O errors, corruption, no memory.
pub fn direct_read(mapping: &Arc<Mapping>, pos: u64, sink: &mut dyn Sink) -> Result<usize> {
    check_alignment(mapping, pos, sink.remaining())?;
    mapping.write_and_wait(pos..pos.saturating_add(sink.remaining() as u64));
    let mut at = pos;
    let result = loop {
        let left = (sink.remaining() as u64).min(mapping.size().saturating_sub(at));
        if left == 0 {
            break Ok(());
        }
        match read_chunk(mapping, at, left, sink) {
            Ok(n) => at += n,
            Err(e) => break Err(e),
        }
    };
    match result {
        Err(e) if at == pos => Err(e),
        _ => Ok((at - pos) as usize),
    }
}

fn read_chunk(mapping: &Arc<Mapping>, pos: u64, left: u64, sink: &mut dyn Sink) -> Result<u64> {
    let map = mapping.ops().begin(pos, left, Purpose::Read)?;
    if !map.contains(pos) {
        return Err(Error::Io);
    }
    let bytes = left.min(map.end_bytes() - pos).min((PAGES * PAGE_SIZE) as u64);
    let mut done = 0;
    let MapKind::Written { .. } = map.kind else {
        while done < bytes {
            let n = sink.put_zeros((bytes - done) as usize) as u64;
            done += n;
            if n == 0 {
                sink.fault_in()?;
            }
        }
        return Ok(bytes);
    };
    let pages = bounce(mapping, bytes)?;
    transfer(mapping, Op::Read, &map, pos, &pages, 0..bytes)?;
    while done < bytes {
        let (page, offset) = (done as usize / PAGE_SIZE, done as usize % PAGE_SIZE);
        let n = (PAGE_SIZE - offset).min((bytes - done) as usize);
        let copied = sink.put(&pages[page], offset, n);
        done += copied as u64;
        if copied < n {
            sink.fault_in()?;
        }
    }
    Ok(bytes)
}

/// May a direct write of this range run beside others, under `IOLOCK` shared? It may if it
/// covers whole blocks below the end of the file.
pub fn direct_write_shares(mapping: &Mapping, pos: u64, len: u64) -> bool {
    let block = 1u64 << mapping.ops().block_shift();
    let end = pos.saturating_add(len);
    pos.is_multiple_of(block) && end.is_multiple_of(block) && end <= mapping.size()
}

/// Write at `pos` past the cache. Aligned as for reading; the caller holds `IOLOCK`,
/// exclusive unless [`direct_write_shares`].
///
/// Whole blocks go straight to the device, parts of blocks only where the block is
/// written already: other parts go through the cache, and to the device from there.
///
/// # Errors
/// If nothing at all was written: misalignment, what [`super::Ops::begin`] says, I/O errors.
pub fn direct_write(mapping: &Arc<Mapping>, pos: u64, source: &mut dyn Source) -> Result<usize> {
    let length = source.remaining() as u64;
    check_alignment(mapping, pos, source.remaining())?;
    mapping.ops().prepare_write(pos, length)?;
    let size = mapping.size();
    if pos > size {
        let _no_faults = mapping.invalidate_lock().write();
        zero::zero_range(mapping, size..pos)?;
    }
    let mut at = pos;
    let mut result = Ok(());
    while source.remaining() > 0 && result.is_ok() {
        match write_chunk(mapping, at, source) {
            // The source ended early.
            Ok(0) => break,
            Ok(n) => at += n,
            Err(e) => result = Err(e),
        }
    }
    match result {
        Err(e) if at == pos => Err(e),
        _ => Ok((at - pos) as usize),
    }
}

/// Take what fits our pages, and write it. The source may be a mapping of this file: it
/// is read before faults are kept out.
fn write_chunk(mapping: &Arc<Mapping>, pos: u64, source: &mut dyn Source) -> Result<u64> {
    let wanted = (source.remaining() as u64).min((PAGES * PAGE_SIZE) as u64);
    let pages = bounce(mapping, wanted)?;
    let bytes = copy_in(source, &pages, wanted)?;
    let mut done = 0;
    while done < bytes {
        match write_piece(mapping, pos, &pages, done..bytes) {
            Ok(n) => done += n,
            Err(e) => {
                source.revert((bytes - done) as usize);
                return if done == 0 { Err(e) } else { Ok(done) };
            }
        }
    }
    Ok(done)
}

/// Write the first of bytes `range` of our pages, which belong at `start` of the file and
/// on; how many.
fn write_piece(
    mapping: &Arc<Mapping>,
    start: u64,
    pages: &[Page],
    range: Range<u64>,
) -> Result<u64> {
    let (pos, left) = (start + range.start, range.end - range.start);
    // With faults out nobody brings back or makes dirty what is dropped here. Where nobody
    // maps the file, direct writers need not take turns.
    let no_faults = mapping.is_mapped().then(|| mapping.invalidate_lock().write());
    mapping.write_and_wait(pos..pos + left);
    if !mapping.invalidate_clean(pos..pos + left) {
        drop(no_faults);
        return write_through(mapping, start, pages, range);
    }
    let map = mapping.ops().begin(pos, left, Purpose::DirectWrite)?;
    if !map.contains(pos) {
        return Err(Error::Io);
    }
    let block = 1u64 << mapping.ops().block_shift();
    let mut bytes = left.min(map.end_bytes() - pos);
    let plain = matches!(map.kind, MapKind::Written { .. })
        && (map.flags & (MapFlags::NEW | MapFlags::SHARED)).is_empty();
    if !plain && (!pos.is_multiple_of(block) || bytes < block) {
        // The rest of the block must become zeros, or be copied.
        let part = bytes.min(block - pos % block);
        drop(no_faults);
        return write_through(mapping, start, pages, range.start..range.start + part);
    }
    if !plain {
        bytes -= bytes % block;
    }
    let part = range.start..range.start + bytes;
    if let Err(e) = transfer(mapping, Op::Write, &map, start, pages, part) {
        if map.flags.contains(MapFlags::SHARED) {
            mapping.ops().writeback_failed(&map, pos, bytes);
        }
        return Err(e);
    }
    written(mapping, &map, pos, bytes, plain)?;
    // Somebody may have read the range before it was written.
    if mapping.lab().acts(Guard::DirectInvalidate) && !mapping.invalidate_clean(pos..pos + bytes) {
        log::warn!("file {}: cached pages stayed over a direct write", mapping.id());
        mapping.record_error(&Error::Io);
    }
    if pos + bytes > mapping.size() {
        let no_faults = no_faults.unwrap_or_else(|| mapping.invalidate_lock().write());
        zero::grow_over(mapping, pos, pos + bytes);
        drop(no_faults);
    }
    Ok(bytes)
}

/// The blocks hold the data: make them part of the file.
fn written(mapping: &Mapping, map: &Iomap, pos: u64, bytes: u64, plain: bool) -> Result<()> {
    let end = pos + bytes;
    let grows = end > mapping.size();
    if plain && !grows {
        return Ok(());
    }
    // Below the end this I/O proves no size: a buffered append may not be on disk yet.
    mapping.ops().writeback_done(map, pos, bytes, if grows { end } else { 0 })
}

/// Bytes from the source into our pages; fewer than `bytes` only if the source ended.
fn copy_in(source: &mut dyn Source, pages: &[Page], bytes: u64) -> Result<u64> {
    let mut done = 0;
    while done < bytes && source.remaining() > 0 {
        let (page, offset) = (done as usize / PAGE_SIZE, done as usize % PAGE_SIZE);
        let n = (PAGE_SIZE - offset).min((bytes - done) as usize).min(source.remaining());
        let copied = source.take(&pages[page], offset, n);
        done += copied as u64;
        if copied < n
            && let Err(e) = source.fault_in()
        {
            source.revert(done as usize);
            return Err(e);
        }
    }
    Ok(done)
}

/// Write bytes `range` of our pages through the cache, and to the device at once.
fn write_through(
    mapping: &Arc<Mapping>,
    start: u64,
    pages: &[Page],
    range: Range<u64>,
) -> Result<u64> {
    let mut errors = mapping.error_sample();
    let (pos, len) = (start + range.start, range.end - range.start);
    let mut part = PageSource { pages, at: range.start as usize, end: range.end as usize };
    let done = buffered_write::write(mapping, pos, &mut part)? as u64;
    mapping.write_and_wait(pos..pos + len);
    mapping.error_check(&mut errors)?;
    mapping.invalidate_clean(pos..pos + len);
    Ok(done)
}

/// Pages of ours as a source.
struct PageSource<'a> {
    pages: &'a [Page],
    at: usize,
    end: usize,
}

impl Source for PageSource<'_> {
    fn remaining(&self) -> usize {
        self.end - self.at
    }
    fn take(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        let mut bytes = [0; 512];
        let mut done = 0;
        while done < len {
            let from = self.at % PAGE_SIZE;
            let n = bytes.len().min(len - done).min(PAGE_SIZE - from);
            self.pages[self.at / PAGE_SIZE].read(from, &mut bytes[..n]);
            page.write(offset + done, &bytes[..n]);
            self.at += n;
            done += n;
        }
        done
    }
    fn revert(&mut self, len: usize) {
        self.at -= len;
    }
    fn fault_in(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Move bytes `range` of our pages, which belong at `start` of the file and on.
fn transfer(
    mapping: &Mapping,
    op: Op,
    map: &Iomap,
    start: u64,
    pages: &[Page],
    range: Range<u64>,
) -> Result<()> {
    let batch = Batch::new();
    // The last block of a file is transferred whole.
    let unit = u64::from(mapping.queue().info().logical_block_bytes);
    let end = (start + range.end).next_multiple_of(unit) - start;
    let most = mapping.queue().info().max_segments.clamp(1, PAGES);
    let mut plug = Plug::new(mapping.queue());
    let mut at = range.start;
    while at < end {
        let sector = map.sector(start + at).ok_or(Error::Io)?;
        let mut segments = Vec::with_capacity(most.min(pages.len()));
        while at < end && segments.len() < most {
            let offset = at % PAGE_SIZE as u64;
            let len = (PAGE_SIZE as u64 - offset).min(end - at);
            let page = pages[at as usize / PAGE_SIZE].clone();
            segments.push(Segment { page, offset: offset as u32, len: len as u32 });
            at += len;
        }
        plug.submit(Bio::transfer(op, sector, segments, BioFlags::SYNC, batch.request()));
    }
    drop(plug);
    batch.wait()
}

fn check_alignment(mapping: &Mapping, pos: u64, len: usize) -> Result<()> {
    let unit = u64::from(mapping.queue().info().logical_block_bytes);
    if !pos.is_multiple_of(unit) || !(len as u64).is_multiple_of(unit) {
        return Err(Error::Invalid("direct I/O is not aligned to the device's blocks"));
    }
    Ok(())
}
