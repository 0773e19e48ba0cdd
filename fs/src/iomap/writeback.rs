//! Writing dirty folios to disk.
//!
//! The file system's map of the previous block is used again only while its cookie
//! holds: only the current folio is locked, so any other part of the file may be
//! truncated and rewritten meanwhile, and an old map would send data to blocks that
//! belong to somebody else by now.
//!
//! Blocks that are contiguous in the file and on the device, and of one kind, travel
//! together in an *ioend*: one request, one completion, one error.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::fill::runs;
use super::{Iomap, MapKind};
use crate::block::{Bio, BioFlags, IoError, Op, Plug, Sector, Segment};
use crate::pagecache::{Folio, LockedFolio, Mapping, PageCache};
use crate::platform::PAGE_SIZE;
use crate::{Error, Result};

/// Why data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To make pages clean: folios that somebody holds or that are being written can wait.
    Background,
    /// Because somebody waits for it to be on disk: every folio that is dirty now.
    Sync,
}

/// Write dirty folios of pages `range`, at most `budget`. How many were started.
///
/// Errors do not end the walk: the folio ends clean, its file records the error.
pub(crate) fn write_pages(mapping: &Mapping, range: Range<u64>, mode: Mode, budget: u64) -> u64 {
    let Some(first) = mapping.next_dirty(range.start).filter(|i| *i < range.end) else {
        return 0;
    };
    let Some(owner) = mapping.arc() else { return 0 };
    let mut writer = Writer::new(&owner, mode);
    let mut next = Some(first);
    let mut written = 0;
    while let Some(index) = next.filter(|i| *i < range.end) {
        written += u64::from(writer.write(index));
        if written >= budget {
            break;
        }
        next = index.checked_add(1).and_then(|from| mapping.next_dirty(from));
    }
    writer.submit();
    if mode == Mode::Sync {
        PageCache::count(&mapping.cache().statistics().cleaned_sync, written);
    }
    written
}

/// Blocks on their way to disk together.
struct Ioend {
    map: Iomap,
    pos: u64,
    end: u64,
    first: Sector,
    segments: Vec<Segment>,
    folios: Vec<Arc<Folio>>,
}

struct Writer<'a> {
    mapping: &'a Arc<Mapping>,
    mode: Mode,
    plug: Plug<'a>,
    /// The map of the last block; revalidated by the file system at each use.
    map: Option<Iomap>,
    ioend: Option<Ioend>,
    most: usize,
}

impl<'a> Writer<'a> {
    fn new(mapping: &'a Arc<Mapping>, mode: Mode) -> Self {
        let most = mapping.queue().info().max_segments.clamp(1, 256);
        Self { mapping, mode, plug: Plug::new(mapping.queue()), map: None, ioend: None, most }
    }
    /// Write one folio if it is dirty; true if it was started.
    fn write(&mut self, index: u64) -> bool {
        let Some(folio) = self.mapping.find(index) else { return false };
        let locked = match (folio.try_lock(), self.mode) {
            (Some(locked), _) => locked,
            (None, Mode::Background) => return false,
            (None, Mode::Sync) => {
                // Its holder may wait for the writeback of what we have not submitted yet.
                self.submit();
                folio.lock()
            }
        };
        if locked.is_detached() || !locked.is_dirty() {
            return false;
        }
        if locked.is_writeback() {
            if self.mode == Mode::Background {
                return false;
            }
            self.submit();
            locked.wait_writeback();
        }
        self.write_locked(locked);
        true
    }
    fn write_locked(&mut self, folio: LockedFolio) {
        let shift = self.mapping.block_shift();
        let dirty = self.mapping.start_folio_writeback(&folio);
        // One transfer more than are submitted keeps the writeback open while we add some.
        folio.transfer_begin();
        let size = self.mapping.size();
        let within = size.saturating_sub(folio.position()).min(PAGE_SIZE as u64) as usize;
        if within < PAGE_SIZE {
            // A store through a mapping may have put bytes beyond the end of the file.
            folio.page().zero(within, PAGE_SIZE - within);
        }
        for run in runs(dirty & Folio::blocks_touched(shift, 0, within), shift) {
            if let Err(e) = self.write_run(&folio, run) {
                log::error!("file {}: cannot write page {}: {e}", self.mapping.id(), folio.index());
                self.mapping.record_error(&e);
            }
        }
        if folio.transfer_done() {
            self.mapping.end_folio_writeback(&folio);
            self.mapping.cache().writeback_batch_ended();
        }
    }
    /// Add the dirty blocks in bytes `run` of a folio.
    fn write_run(&mut self, folio: &LockedFolio, run: Range<usize>) -> Result<()> {
        let mut at = run.start;
        while at < run.end {
            let pos = folio.position() + at as u64;
            let map = self.mapping.ops().writeback_map(pos, self.map.as_ref())?;
            self.map = Some(map);
            let Some(sector) = map.sector(pos).filter(|_| map.contains(pos)) else {
                return Err(Error::Io);
            };
            let end = (map.end_bytes() - folio.position()).min(run.end as u64) as usize;
            self.add(folio.folio(), map, sector, at..end);
            at = end;
        }
        Ok(())
    }
    fn add(&mut self, folio: &Arc<Folio>, map: Iomap, sector: Sector, range: Range<usize>) {
        let pos = folio.position() + range.start as u64;
        let joins = self.ioend.as_ref().is_some_and(|io| {
            io.end == pos
                && io.first.0 + ((io.end - io.pos) >> 9) == sector.0
                && same_kind(&io.map, &map)
                && io.segments.len() < self.most
        });
        if !joins {
            self.submit_ioend();
        }
        folio.transfer_begin();
        let io = self.ioend.get_or_insert_with(|| Ioend {
            map,
            pos,
            end: pos,
            first: sector,
            segments: Vec::with_capacity(64),
            folios: Vec::with_capacity(64),
        });
        io.end += range.len() as u64;
        io.segments.push(Segment {
            page: folio.page().clone(),
            offset: range.start as u32,
            len: range.len() as u32,
        });
        io.folios.push(folio.clone());
    }
    fn submit_ioend(&mut self) {
        let Some(io) = self.ioend.take() else { return };
        let flags = match self.mode {
            Mode::Sync => BioFlags::SYNC,
            Mode::Background => BioFlags::empty(),
        };
        let Ioend { map, pos, end, first, segments, folios } = io;
        let mapping = self.mapping.clone();
        let done = Box::new(move |result| end_io(&mapping, &map, pos..end, &folios, result));
        self.plug.submit(Bio::transfer(Op::Write, first, segments, flags, done));
    }
    /// Send everything that was collected on its way.
    fn submit(&mut self) {
        self.submit_ioend();
        self.plug.flush();
    }
}

/// The request of an ioend ended: convert, then record, then end the folios' writeback.
fn end_io(
    mapping: &Mapping,
    map: &Iomap,
    range: Range<u64>,
    folios: &[Arc<Folio>],
    result: Result<(), IoError>,
) {
    let outcome = result
        .map_err(Error::from)
        .and_then(|()| mapping.ops().writeback_done(map, range.start, range.end - range.start));
    if let Err(e) = outcome {
        log::error!("file {}: writing bytes {range:?} failed: {e}", mapping.id());
        mapping.record_error(&e);
    }
    for folio in folios {
        if folio.transfer_done() {
            mapping.end_folio_writeback(folio);
        }
    }
    mapping.cache().writeback_batch_ended();
}

fn same_kind(a: &Iomap, b: &Iomap) -> bool {
    a.flags == b.flags
        && matches!(
            (a.kind, b.kind),
            (MapKind::Written { .. }, MapKind::Written { .. })
                | (MapKind::Unwritten { .. }, MapKind::Unwritten { .. })
        )
}
