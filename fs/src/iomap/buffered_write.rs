//! Writing through the page cache.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::fill::{self, page_of};
use super::zero::{self, Gap};
use super::{Iomap, Purpose, Source, punch};
use crate::lab::{Guard, Point};
use crate::pagecache::{Folio, LockedFolio, Mapping, PageCache};
use crate::platform::PAGE_SIZE;
use crate::{Error, Result};

/// Most pages for which folios are made ahead.
const AHEAD: u64 = 64;

/// New folios for the pages that a write covers wholly and comes to next, where none are
/// cached: they are made together, and locked. While the writer has their locks it waits for
/// nothing.
struct Ahead<'a> {
    mapping: &'a Arc<Mapping>,
    /// The next page's is the last.
    folios: Vec<Arc<Folio>>,
    /// The first page for which it may be worth while to make some.
    from: u64,
}

impl<'a> Ahead<'a> {
    fn new(mapping: &'a Arc<Mapping>) -> Self {
        Self { mapping, folios: Vec::new(), from: 0 }
    }
    /// Make some for bytes `start..end`, if there are none yet.
    fn refill(&mut self, start: u64, end: u64) {
        let pages = page_of(start)..page_of(end);
        let few = pages.end < pages.start + 2 || !start.is_multiple_of(PAGE_SIZE as u64);
        let size = self.mapping.size();
        // Below the end somebody may wait for them: only if larger folios come of it.
        let waits = start > size || start < size && self.mapping.cache().folio_pages() == 1;
        if few || waits || pages.start < self.from {
            return;
        }
        // To a place where a large folio can begin.
        let end = pages.end.min((pages.start / AHEAD + 1) * AHEAD);
        let absent = self.mapping.folios().absent_run(pages.start..end);
        if absent == 0 {
            self.from = pages.start + 1;
            return;
        }
        self.folios = self.mapping.create_run(pages.start..pages.start + absent);
        self.folios.reverse();
        if self.folios.is_empty() {
            // Memory is short.
            self.from = end;
        }
    }
    /// The one for page `index`, if it was made.
    fn take(&mut self, index: u64) -> Option<LockedFolio> {
        self.folios.pop_if(|folio| folio.index() == index).map(Folio::adopt)
    }
    /// Remove those that were not used.
    fn give_back(&mut self) {
        while let Some(folio) = self.folios.pop() {
            self.mapping.detach(&folio.adopt());
        }
    }
}

impl Drop for Ahead<'_> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// What became of one folio's worth of a write.
enum Step {
    /// So many bytes are in the folio.
    Copied(usize),
    /// The source wants its memory faulted in; nothing was written.
    Source,
    /// The mapping no longer describes the file: map anew.
    Stale,
}

/// Write from `source` at byte `pos`; the caller holds `IOLOCK` exclusive.
///
/// # Errors
/// If nothing at all was written: what [`super::Ops::begin`] says, I/O errors while a
/// partly overwritten block is read, a bad address, no memory.
pub fn write(mapping: &Arc<Mapping>, pos: u64, source: &mut dyn Source) -> Result<usize> {
    let length = source.remaining() as u64;
    mapping.ops().prepare_write(pos, length)?;
    let size = mapping.size();
    if pos > size {
        // What lies between will be part of the file.
        let _no_faults = mapping.invalidate_lock().write();
        zero::zero_range(mapping, size..pos)?;
    }
    let mut at = pos;
    let mut result = Ok(());
    while source.remaining() > 0 && result.is_ok() {
        let wanted = source.remaining() as u64;
        let map = match mapping.ops().begin(at, wanted, Purpose::Write) {
            Ok(map) if map.contains(at) => map,
            Ok(_) => return Err(Error::Io),
            Err(e) => {
                result = Err(e);
                break;
            }
        };
        mapping.lab().at(Point::Begun, mapping.id(), at);
        let wanted = wanted.min(map.end_bytes() - at);
        let (done, outcome) = write_under(mapping, &map, at, wanted, source);
        let ended = match done == wanted {
            true => Ok(()),
            false => punch::give_back(mapping, &map, at, wanted, done),
        };
        let ended = ended.and(mapping.ops().end(&map, at, wanted, done));
        at += done;
        result = outcome.and(ended);
    }
    match result {
        Err(e) if at == pos => Err(e),
        _ => {
            mapping.wrote(pos..at);
            Ok((at - pos) as usize)
        }
    }
}

/// Write up to `wanted` bytes under one mapping. How many, and an error if one stopped it.
/// Stopping early without one means: the mapping is stale.
fn write_under(
    mapping: &Arc<Mapping>,
    map: &Iomap,
    pos: u64,
    wanted: u64,
    source: &mut dyn Source,
) -> (u64, Result<()>) {
    let mut at = pos;
    let end = pos + wanted;
    let mut ahead = Ahead::new(mapping);
    // The source may end earlier than it said: see [`Source::fault_in`].
    while at < end && source.remaining() > 0 {
        let left = ((end - at) as usize).min(source.remaining());
        if ahead.folios.is_empty() {
            mapping.throttle();
            ahead.refill(at, at + left as u64);
        }
        match write_folio(mapping, map, at, left, source, &mut ahead) {
            Ok(Step::Copied(n)) => {
                mapping.lab().at(Point::Copied, mapping.id(), at);
                at += n as u64;
            }
            Ok(Step::Source) => {
                ahead.give_back();
                if let Err(e) = source.fault_in() {
                    return (at - pos, Err(e));
                }
            }
            Ok(Step::Stale) => {
                mapping.lab().at(Point::Stale, mapping.id(), at);
                PageCache::count(&mapping.cache().statistics().stale_mappings, 1);
                break;
            }
            Err(e) => return (at - pos, Err(e)),
        }
    }
    (at - pos, Ok(()))
}

/// Write into the folio that holds byte `pos`, up to its end.
fn write_folio(
    mapping: &Arc<Mapping>,
    map: &Iomap,
    pos: u64,
    wanted: usize,
    source: &mut dyn Source,
    ahead: &mut Ahead<'_>,
) -> Result<Step> {
    let index = page_of(pos);
    let (folio, gap) = match ahead.take(index) {
        Some(folio) => (folio, None),
        // The write leaves a gap behind the end of the file.
        None if pos > mapping.size() => {
            let (folio, gap) = Gap::lock(mapping, index)?;
            (folio, Some(gap))
        }
        None => (mapping.get_locked(index)?, None),
    };
    let offset = folio.offset_of(pos);
    let len = wanted.min(folio.length() - offset);
    mapping.lab().at(Point::Locked, mapping.id(), pos);
    // Before anything else touches the folio: is the map still true? See the module head.
    if !mapping.ops().is_valid(map) && mapping.lab().acts(Guard::IomapValidity) {
        return Ok(Step::Stale);
    }
    fill_edges(mapping, &folio, map, offset, len)?;
    let shift = mapping.block_shift();
    let touched = Folio::blocks_touched(shift, offset, offset + len);
    let complete = folio.uptodate_blocks() & touched == touched;
    let mut copied = source.take(folio.page(), offset, len);
    if copied < len && !complete && mapping.lab().acts(Guard::WriteShortCopy) {
        // The last block would be half old memory, half new data: as if none of it came.
        let whole = (offset + copied) >> shift << shift;
        let kept = whole.saturating_sub(offset);
        source.revert(copied - kept);
        copied = kept;
    }
    if copied == 0 {
        return Ok(Step::Source);
    }
    let written = Folio::blocks_touched(shift, offset, offset + copied);
    mapping.mark_written(&folio, written);
    let end = pos + copied as u64;
    if end > mapping.size() {
        if let Some(gap) = gap {
            gap.close(mapping, &folio, pos);
        }
        mapping.set_size(end);
    }
    Ok(Step::Copied(copied))
}

/// Fill the blocks at both ends that the write covers only in part. What reads as zeros
/// becomes them around the write only: those blocks hold nothing before it is done.
pub(super) fn fill_edges(
    mapping: &Mapping,
    folio: &LockedFolio,
    map: &Iomap,
    offset: usize,
    len: usize,
) -> Result<()> {
    if (offset | len) & (PAGE_SIZE - 1) == 0 || folio.is_uptodate() {
        return Ok(());
    }
    let block = 1usize << mapping.block_shift();
    let end = offset + len;
    let (first, last) = (offset & !(block - 1), (end - 1) & !(block - 1));
    let touched = Folio::blocks_touched(mapping.block_shift(), offset, end);
    if map.reads_as_zero() && folio.uptodate_blocks() & touched == 0 {
        for (start, stop) in [(first, offset), (end, last + block)] {
            if start < stop {
                folio.page().zero(start, stop - start);
            }
        }
        return Ok(());
    }
    if offset != first || (end < first + block && first == last) {
        fill::fill_blocks(mapping, folio, map, first..first + block)?;
    }
    if last != first && end != last + block {
        fill::fill_blocks(mapping, folio, map, last..last + block)?;
    }
    Ok(())
}
