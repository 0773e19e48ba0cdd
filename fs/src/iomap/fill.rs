//! Filling folios: what a block of the file holds comes from disk or is zero.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use holdfast_sync::WaitQueue;
use holdfast_sync::atomic::{AtomicU32, Ordering};

use super::{Iomap, Purpose};
use crate::block::{Bio, BioFlags, IoError, Op, Plug, Queue, Sector, Segment};
use crate::lab::Guard;
use crate::pagecache::{BlockMask, Folio, LockedFolio, Mapping, PageCache};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};
use crate::{Error, Result};

/// Segments a request usually has, at most.
const RESERVE: usize = 128;

/// Several requests that one thread waits for.
pub(super) struct Batch {
    pending: AtomicU32,
    failed: AtomicU32,
    ended: WaitQueue,
}

impl Batch {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            pending: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            ended: WaitQueue::new(),
        })
    }
    /// What a further request of the batch does at its end.
    pub(super) fn request(self: &Arc<Self>) -> Box<dyn FnOnce(Result<(), IoError>) + Send> {
        self.pending.fetch_add(1, Ordering::AcqRel);
        let batch = self.clone();
        Box::new(move |result| {
            if result.is_err() {
                batch.failed.fetch_add(1, Ordering::AcqRel);
            }
            if batch.pending.fetch_sub(1, Ordering::AcqRel) == 1 {
                batch.ended.wake_all();
            }
        })
    }
    /// Wait for all of them.
    pub(super) fn wait(&self) -> Result<()> {
        self.ended.wait_until(|| (self.pending.load(Ordering::Acquire) == 0).then_some(()));
        if self.failed.load(Ordering::Acquire) == 0 { Ok(()) } else { Err(Error::Io) }
    }
}

/// Fill the blocks that bytes `range` of a locked folio touch, but for those that hold
/// data already, and wait. `map` covers them.
///
/// The fill predicate: zeros where the map is not written, is new, or the block starts
/// at or beyond the end of the file; otherwise the disk.
pub(super) fn fill_blocks(
    mapping: &Mapping,
    folio: &LockedFolio,
    map: &Iomap,
    range: Range<usize>,
) -> Result<()> {
    let shift = mapping.block_shift();
    let touched = Folio::blocks_touched(shift, range.start, range.end);
    let held = touched & folio.uptodate_blocks();
    let keep = held != 0 && mapping.lab().acts(Guard::FillUptodate);
    let wanted = if keep { touched & !held } else { touched };
    let mut batch = None;
    for run in runs(wanted, shift) {
        let pos = folio.position() + run.start as u64;
        if map.reads_as_zero() || pos >= mapping.size() {
            folio.page().zero(run.start, run.len());
        } else {
            let sector = map.sector(pos).ok_or(Error::Io)?;
            mapping.queue().submit(Bio::transfer(
                Op::Read,
                sector,
                alloc::vec![folio.segment(&run)],
                BioFlags::SYNC,
                batch.get_or_insert_with(Batch::new).request(),
            ));
        }
    }
    batch.map_or(Ok(()), |batch| batch.wait())?;
    zero_past_eof(mapping, folio);
    folio.set_uptodate_blocks(wanted, shift);
    Ok(())
}

/// Fill whatever blocks of a locked folio hold no data yet, and wait.
pub(super) fn fill_folio(mapping: &Mapping, folio: &LockedFolio) -> Result<()> {
    let shift = mapping.block_shift();
    let (mut at, length) = (0, folio.length());
    while at < length && !folio.is_uptodate() {
        let (pos, size) = (folio.position() + at as u64, mapping.size());
        if pos >= size {
            let rest = Folio::blocks_touched(shift, at, length) & !folio.uptodate_blocks();
            for run in runs(rest, shift) {
                folio.page().zero(run.start, run.len());
            }
            folio.set_uptodate_blocks(rest, shift);
            break;
        }
        let map = mapping.ops().begin(pos, (length - at) as u64, Purpose::Read)?;
        let block = (1u64 << shift) - 1;
        let end = folio.offset_of(map.end_bytes().min((size + block) & !block));
        if end <= at {
            return Err(Error::Io);
        }
        fill_blocks(mapping, folio, &map, at..end)?;
        at = end;
    }
    PageCache::count(&mapping.cache().statistics().read_in, folio.page_count());
    Ok(())
}

/// The part of the page that holds the end of the file reads as zeros beyond it.
fn zero_past_eof(mapping: &Mapping, folio: &Folio) {
    let tail = folio.offset_of(mapping.size());
    if tail > 0 && tail < folio.length() {
        // Only blocks that are being filled lie there: nobody stored beyond the end.
        let block_end = tail.next_multiple_of(1 << mapping.block_shift());
        let filled =
            folio.uptodate_blocks() & Folio::blocks_touched(mapping.block_shift(), tail, block_end);
        if filled == 0 {
            folio.page().zero(tail, block_end - tail);
        }
    }
}

/// Runs of set bits as byte ranges of the folio.
pub(super) fn runs(mask: BlockMask, block_shift: u32) -> impl Iterator<Item = Range<usize>> {
    let mut rest = u64::from(mask);
    core::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let first = rest.trailing_zeros();
        let len = (rest >> first).trailing_ones();
        rest &= !(((1 << len) - 1) << first);
        Some((first as usize) << block_shift..((first + len) as usize) << block_shift)
    })
}

/// Start reading the uncached pages of a window; nobody waits here. The folios appear
/// in the index locked, and are unlocked when their data is there.
/// Returns how many folios were started.
pub(super) fn read_pages(
    mapping: &Arc<Mapping>,
    start: u64,
    count: u64,
    mark: Option<u64>,
) -> usize {
    let end = start.saturating_add(count).min(mapping.size_pages());
    let mut from = start;
    let mut started = 0;
    let mut reader = Reader::new(mapping);
    while from < end {
        // In batches, so that the first request is on its way before the last page is made.
        let to = end.min(from + 64);
        let fresh = mapping.create_batch(from..to, mark.filter(|m| (from..to).contains(m)));
        // A map holds for folios that were locked before it was made. What lies under others
        // may have been written elsewhere since.
        reader.map = None;
        started += fresh.len();
        let short = fresh.is_empty();
        for folio in fresh {
            reader.add(folio);
        }
        if short && from == start {
            break;
        }
        from = to;
    }
    reader.finish();
    started
}

/// What a request fills of one folio.
enum Part {
    /// All of it, alone.
    Whole(Arc<Folio>),
    /// These blocks; other requests may fill others.
    Blocks(Arc<Folio>, BlockMask),
}

impl Part {
    /// The request has ended.
    fn end(&self, mapping: &Mapping, filled: bool) {
        let shift = mapping.block_shift();
        match self {
            Self::Whole(folio) if filled => return folio.end_whole_transfer(shift),
            Self::Blocks(folio, blocks) if filled => {
                zero_past_eof(mapping, folio);
                folio.set_uptodate_blocks(*blocks, shift);
            }
            _ => {}
        }
        let (Self::Whole(folio) | Self::Blocks(folio, _)) = self;
        if folio.transfer_done() {
            folio.unlock_after_transfer();
        }
    }
}

/// Collects folios into as few requests as their blocks allow.
struct Reader<'a> {
    mapping: &'a Arc<Mapping>,
    plug: Plug<'a>,
    /// The map of the last block, made after the folios at hand were locked.
    map: Option<Iomap>,
    next: Sector,
    segments: Vec<Segment>,
    first: Sector,
    parts: Vec<Part>,
    most: usize,
}

impl<'a> Reader<'a> {
    fn new(mapping: &'a Arc<Mapping>) -> Self {
        let queue: &'a Queue = mapping.queue();
        Self {
            mapping,
            plug: Plug::new(queue),
            map: None,
            next: Sector(0),
            segments: Vec::new(),
            first: Sector(0),
            parts: Vec::new(),
            most: queue.info().max_segments.clamp(1, 256),
        }
    }
    fn map_at(&mut self, pos: u64) -> Result<Iomap> {
        if let Some(map) = self.map.filter(|m| m.contains(pos)) {
            return Ok(map);
        }
        let map = self.mapping.ops().begin(pos, 1 << 20, Purpose::Read)?;
        self.map = Some(map);
        Ok(map)
    }
    /// Read one folio of one page, whose lock this transfer owns.
    fn add(&mut self, folio: Arc<Folio>) {
        let end = folio.position() + PAGE_SIZE as u64;
        match self.map_at(folio.position()) {
            Ok(map) if end > map.end_bytes() => self.add_in_parts(&folio),
            Ok(map) if map.reads_as_zero() => {
                folio.page().zero(0, PAGE_SIZE);
                folio.transfer_whole();
                folio.end_whole_transfer(self.mapping.block_shift());
            }
            Ok(map) if end <= self.mapping.size() => {
                let Some(sector) = map.sector(folio.position()) else {
                    return self.add_in_parts(&folio);
                };
                folio.transfer_whole();
                self.push(folio.segment(&(0..PAGE_SIZE)), sector);
                self.parts.push(Part::Whole(folio));
            }
            _ => self.add_in_parts(&folio),
        }
    }
    /// As [`Reader::add`], where extents or the end of the file meet in the folio.
    fn add_in_parts(&mut self, folio: &Arc<Folio>) {
        let shift = self.mapping.block_shift();
        folio.transfer_begin();
        let mut at = 0;
        while at < PAGE_SIZE {
            let pos = folio.position() + at as u64;
            if pos >= self.mapping.size() {
                folio.page().zero(at, PAGE_SIZE - at);
                folio.set_uptodate_blocks(Folio::blocks_touched(shift, at, PAGE_SIZE), shift);
                break;
            }
            // An error leaves the blocks as they are; the reader finds out for itself.
            let Ok(map) = self.map_at(pos) else { break };
            let end = (map.end_bytes() - folio.position()).min(PAGE_SIZE as u64) as usize;
            let blocks = Folio::blocks_touched(shift, at, end);
            match map.sector(pos) {
                Some(sector) if !map.reads_as_zero() => {
                    // Whole blocks beyond the end are not read.
                    let eof = (self.mapping.size() - folio.position())
                        .next_multiple_of(1 << shift)
                        .min(PAGE_SIZE as u64) as usize;
                    let stop = end.min(eof);
                    self.read(folio, sector, at..stop);
                    at = stop;
                }
                _ => {
                    folio.page().zero(at, end - at);
                    folio.set_uptodate_blocks(blocks, shift);
                    at = end;
                }
            }
        }
        if folio.transfer_done() {
            folio.unlock_after_transfer();
        }
    }
    fn read(&mut self, folio: &Arc<Folio>, sector: Sector, range: Range<usize>) {
        let blocks = Folio::blocks_touched(self.mapping.block_shift(), range.start, range.end);
        folio.transfer_begin();
        self.push(folio.segment(&range), sector);
        self.parts.push(Part::Blocks(folio.clone(), blocks));
    }
    /// Add part of a page to the request, or begin the next one with it.
    fn push(&mut self, segment: Segment, sector: Sector) {
        if !self.segments.is_empty() && (sector != self.next || self.segments.len() >= self.most) {
            self.submit();
        }
        if self.segments.is_empty() {
            self.first = sector;
            self.segments.reserve(self.most.min(RESERVE));
            self.parts.reserve(self.most.min(RESERVE));
        }
        self.next = Sector(sector.0 + (u64::from(segment.len) >> 9));
        self.segments.push(segment);
    }
    fn submit(&mut self) {
        let segments = core::mem::take(&mut self.segments);
        let parts = core::mem::take(&mut self.parts);
        if segments.is_empty() {
            return;
        }
        let mapping = self.mapping.clone();
        let done = Box::new(move |result: Result<(), IoError>| {
            let count = parts.len() as u64;
            for part in parts {
                part.end(&mapping, result.is_ok());
            }
            PageCache::count(&mapping.cache().statistics().read_in, count);
        });
        self.plug.submit(Bio::transfer(Op::Read, self.first, segments, BioFlags::READAHEAD, done));
    }
    fn finish(mut self) {
        self.submit();
    }
}

/// The page that byte `pos` lies in.
pub(super) const fn page_of(pos: u64) -> u64 {
    pos >> PAGE_SHIFT
}
