//! Direct I/O: between the device and the caller, past the page cache but coherent with it.
//!
//! The device works on pages of ours, from which the bytes are copied once: a caller's
//! buffer need be neither contiguous nor pinned.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::fill::Batch;
use super::{MapKind, Purpose, Sink, Source};
use crate::block::{Bio, BioFlags, Op, Plug, Segment};
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
    transfer(mapping, Op::Read, &map, pos, bytes, &pages, BioFlags::SYNC)?;
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

/// Write at `pos` past the cache, over blocks that exist. Aligned as for reading; the
/// caller holds `IOLOCK` exclusive.
///
/// # Errors
/// If nothing at all was written: misalignment, what [`super::Ops::begin`] says, I/O errors.
pub fn direct_write(mapping: &Arc<Mapping>, pos: u64, source: &mut dyn Source) -> Result<usize> {
    let length = source.remaining() as u64;
    check_alignment(mapping, pos, source.remaining())?;
    mapping.ops().prepare_write(pos, length)?;
    let mut at = pos;
    let mut result = Ok(());
    while source.remaining() > 0 && result.is_ok() {
        match write_chunk(mapping, at, source) {
            Ok(n) => at += n,
            Err(e) => result = Err(e),
        }
    }
    match result {
        Err(e) if at == pos => Err(e),
        _ => Ok((at - pos) as usize),
    }
}

fn write_chunk(mapping: &Arc<Mapping>, pos: u64, source: &mut dyn Source) -> Result<u64> {
    let left = source.remaining() as u64;
    let map = mapping.ops().begin(pos, left, Purpose::DirectWrite)?;
    if !map.contains(pos) {
        return Err(Error::Io);
    }
    let bytes = left.min(map.end_bytes() - pos).min((PAGES * PAGE_SIZE) as u64);
    let pages = bounce(mapping, bytes)?;
    let mut done = 0;
    while done < bytes {
        let (page, offset) = (done as usize / PAGE_SIZE, done as usize % PAGE_SIZE);
        let n = (PAGE_SIZE - offset).min((bytes - done) as usize);
        let copied = source.take(&pages[page], offset, n);
        done += copied as u64;
        if copied < n {
            source.fault_in()?;
        }
    }
    // The source may be a mapping of this file: it was read before faults are kept out.
    // With faults out nothing can dirty or cache the range until the blocks are new; what
    // stores changed around it in the same pages goes to disk first.
    let _no_faults = mapping.invalidate_lock().write();
    mapping.write_and_wait(pos..pos + bytes);
    mapping.invalidate(pos..pos + bytes);
    transfer(mapping, Op::Write, &map, pos, bytes, &pages, BioFlags::SYNC)?;
    mapping.ops().writeback_done(&map, pos, bytes)?;
    mapping.ops().end(&map, pos, bytes, bytes)?;
    Ok(bytes)
}

fn transfer(
    mapping: &Mapping,
    op: Op,
    map: &super::Iomap,
    pos: u64,
    bytes: u64,
    pages: &[Page],
    flags: BioFlags,
) -> Result<()> {
    let batch = Batch::new();
    // The last block of a file is transferred whole.
    let bytes = bytes.next_multiple_of(u64::from(mapping.queue().info().logical_block_bytes));
    {
        let mut plug = Plug::new(mapping.queue());
        let most = mapping.queue().info().max_segments.clamp(1, PAGES);
        for (i, group) in pages.chunks(most).enumerate() {
            let start = (i * most * PAGE_SIZE) as u64;
            let sector = map.sector(pos + start).ok_or(Error::Io)?;
            let segments = group.iter().enumerate().map(|(j, page)| {
                let at = start + (j * PAGE_SIZE) as u64;
                let len = (bytes - at).min(PAGE_SIZE as u64) as u32;
                Segment { page: page.clone(), offset: 0, len }
            });
            plug.submit(Bio::transfer(op, sector, segments.collect(), flags, batch.request()));
        }
    }
    batch.wait()
}

fn check_alignment(mapping: &Mapping, pos: u64, len: usize) -> Result<()> {
    let unit = u64::from(mapping.queue().info().logical_block_bytes);
    if !pos.is_multiple_of(unit) || !(len as u64).is_multiple_of(unit) {
        return Err(Error::Invalid("direct I/O is not aligned to the device's blocks"));
    }
    Ok(())
}
