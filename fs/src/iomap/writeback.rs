//! Writing dirty folios to disk.
//!
//! The file system's map of the previous block is used again only while its cookie
//! holds: only the current folio is locked, so any other part of the file may be
//! truncated and rewritten meanwhile, and an old map would send data to blocks that
//! belong to somebody else by now.
//!
//! Blocks that are contiguous in the file and on the device, and of one kind, travel
//! together in an *ioend*: one request, one completion, one error (see `ioend`).

use alloc::sync::Arc;
use core::ops::Range;

use super::fill::runs;
pub(crate) use super::ioend::Ended;
use super::ioend::Ioend;
use super::{Iomap, ReservedFork};
use crate::block::{BioFlags, Plug, Sector};
use crate::lab::{Guard, Point};
use crate::pagecache::{Folio, LockedFolio, Mapping, PageCache};
use crate::platform::PAGE_SIZE;
use crate::{Error, Result};

/// Dirty pages that are looked up together.
const BATCH: u64 = 64;

/// Why data is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// To make pages clean: folios that somebody holds or that are being written can wait.
    Background,
    /// Because somebody waits for it to be on disk: every folio that is dirty now.
    Sync,
}

/// Write the dirty folios that have pages in `range`, about `budget` pages. How many were
/// started.
///
/// Errors do not end the walk: the folio ends clean, its file records the error.
pub(crate) fn write_pages(mapping: &Mapping, range: Range<u64>, mode: Mode, budget: u64) -> u64 {
    let Some(owner) = mapping.arc() else { return 0 };
    let mut writer = Writer::new(&owner, mode);
    let (mut from, mut written) = (range.start, 0);
    while written < budget {
        let batch = mapping.some_dirty(from..range.end, BATCH.min(budget - written) as usize);
        if batch.is_empty() {
            break;
        }
        for index in batch {
            // Not of a folio that was written already.
            if index >= from {
                let (pages, end) = writer.write(index);
                written += pages;
                from = end;
            }
        }
    }
    writer.submit();
    if mode == Mode::Sync {
        PageCache::count(&mapping.cache().statistics().cleaned_sync, written);
    }
    written
}

struct Writer<'a> {
    mapping: &'a Arc<Mapping>,
    mode: Mode,
    plug: Plug<'a>,
    /// The map of the last block; revalidated by the file system at each use.
    map: Option<Iomap>,
    ioend: Option<Ioend>,
    /// Bytes of a request, at most.
    most: u64,
}

impl<'a> Writer<'a> {
    fn new(mapping: &'a Arc<Mapping>, mode: Mode) -> Self {
        let most = (mapping.queue().info().max_segments.clamp(1, 256) * PAGE_SIZE) as u64;
        Self { mapping, mode, plug: Plug::new(mapping.queue()), map: None, ioend: None, most }
    }
    /// Write the folio of page `index` if it is dirty. How many of its pages were started,
    /// and the page behind it.
    fn write(&mut self, index: u64) -> (u64, u64) {
        match self.mapping.find(index) {
            Some(folio) => (self.write_folio(&folio), folio.pages().end),
            None => (0, index + 1),
        }
    }
    /// Write a folio if it is dirty; how many of its pages were started.
    fn write_folio(&mut self, folio: &Arc<Folio>) -> u64 {
        let locked = match (folio.try_lock(), self.mode) {
            (Some(locked), _) => locked,
            (None, Mode::Background) => return 0,
            (None, Mode::Sync) => {
                // Its holder may wait for the writeback of what we have not submitted yet.
                self.submit();
                folio.lock()
            }
        };
        if locked.is_detached() || !locked.is_dirty() {
            return 0;
        }
        if locked.is_writeback() {
            if self.mode == Mode::Background {
                return 0;
            }
            self.submit();
            locked.wait_writeback();
        }
        self.write_locked(locked)
    }
    fn write_locked(&mut self, folio: LockedFolio) -> u64 {
        let shift = self.mapping.block_shift();
        let (dirty, pages) = self.mapping.start_folio_writeback(&folio);
        // One transfer more than are submitted keeps the writeback open while we add some.
        folio.transfer_begin();
        let size = self.mapping.size();
        let within = folio.offset_of(size);
        let page_end = within.next_multiple_of(PAGE_SIZE);
        if within < page_end && self.mapping.lab().acts(Guard::WbZeroPastEof) {
            // A store through a mapping may have put bytes beyond the end of the file.
            folio.page().zero(within, page_end - within);
        }
        for run in runs(dirty & Folio::blocks_touched(shift, 0, within), shift) {
            if let Err((e, rest)) = self.write_run(&folio, run, size) {
                self.give_up(&folio, &e, rest);
            }
        }
        if folio.transfer_done() {
            self.mapping.end_writeback(&[&*folio]);
        }
        pages
    }
    /// Add the dirty blocks in bytes `run` of a folio. On an error, which of them were
    /// not added.
    fn write_run(
        &mut self,
        folio: &LockedFolio,
        run: Range<usize>,
        size: u64,
    ) -> Result<(), (Error, Range<usize>)> {
        let mut at = run.start;
        while at < run.end {
            let pos = folio.position() + at as u64;
            let map = self.map_at(pos, (run.end - at) as u64).map_err(|e| (e, at..run.end))?;
            let Some(sector) = map.sector(pos).filter(|_| map.contains(pos)) else {
                // Dirty data over a hole: its space was given back under it.
                return Err((Error::Io, at..run.end));
            };
            let end = folio.offset_of(map.end_bytes()).min(run.end);
            self.add(folio.folio(), map, sector, at..end, size);
            at = end;
        }
        Ok(())
    }
    /// Blocks of a locked folio cannot be written. They end clean, and what space was
    /// reserved for them is given back: pages that nobody can write would fill the memory.
    /// The error is the file's, which is known here whatever becomes of the folio.
    fn give_up(&self, folio: &LockedFolio, error: &Error, run: Range<usize>) {
        let mapping = self.mapping;
        if *error == Error::NotFound {
            // The file was freed, its space with it; who did that is about to remove this.
            return;
        }
        log::error!("file {}: cannot write page {}: {error}", mapping.id(), folio.index());
        mapping.record_error(error);
        let block = 1u64 << mapping.ops().block_shift();
        let start = (folio.position() + run.start as u64) & !(block - 1);
        let end = (folio.position() + run.end as u64).next_multiple_of(block);
        for fork in [ReservedFork::Data, ReservedFork::Cow] {
            if let Err(e) = mapping.ops().punch_delalloc(start..end, fork) {
                log::error!("file {}: cannot give back its reservation: {e}", mapping.id());
            }
        }
    }
    /// The map of the block at `pos`: the last one, if it still describes the file.
    fn map_at(&mut self, pos: u64, len: u64) -> Result<Iomap> {
        let ops = self.mapping.ops();
        let map = match self.map.filter(|map| map.contains(pos)) {
            Some(map) if ops.is_valid(&map) || !self.mapping.lab().acts(Guard::WbRevalidate) => map,
            _ => ops.writeback_map(pos, len)?,
        };
        self.map = Some(map);
        self.mapping.lab().at(Point::Mapped, self.mapping.id(), pos);
        Ok(map)
    }
    fn add(
        &mut self,
        folio: &Arc<Folio>,
        map: Iomap,
        sector: Sector,
        range: Range<usize>,
        size: u64,
    ) {
        if !self.ioend.as_ref().is_some_and(|io| io.takes(folio, &map, sector, &range, self.most)) {
            self.submit_ioend();
        }
        self.ioend
            .get_or_insert_with(|| Ioend::new(map, folio, sector, &range))
            .add(folio, range, size);
    }
    fn submit_ioend(&mut self) {
        let Some(io) = self.ioend.take() else { return };
        let flags = match self.mode {
            Mode::Sync => BioFlags::SYNC,
            Mode::Background => BioFlags::empty(),
        };
        self.plug.submit(io.into_bio(self.mapping, flags));
    }
    /// Send everything that was collected on its way.
    fn submit(&mut self) {
        self.submit_ioend();
        self.plug.flush();
    }
}
