//! Blocks that are written together, and what is due when they have been.
//!
//! ```text
//! writeback    collects blocks, contiguous in the file and on the device, of one kind
//! device       writes them
//! completion   plain overwrite: end writeback, here and now
//! ioend thread otherwise: convert or move the extent, log the size, end writeback
//! ```
//!
//! The size that may be logged is that of the file when the ioend was submitted, at most.
//! What was appended afterwards, to the same block even, is not on disk by this I/O.
//! A failed I/O converts nothing.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::{Iomap, MapFlags, MapKind};
use crate::block::{Bio, BioFlags, IoError, Op, Sector, Segment};
use crate::lab::{Guard, Point};
use crate::pagecache::{Folio, Mapping, PageCache};
use crate::{Error, Result};

/// Blocks on their way to disk together.
pub(super) struct Ioend {
    map: Iomap,
    pos: u64,
    end: u64,
    first: Sector,
    /// The file's size as far as this I/O proves it.
    size: u64,
    segments: Vec<Segment>,
    folios: Vec<Arc<Folio>>,
}

impl Ioend {
    /// An empty one that begins with these bytes of a folio.
    pub(super) fn new(map: Iomap, folio: &Folio, first: Sector, range: &Range<usize>) -> Self {
        let pos = folio.position() + range.start as u64;
        Self {
            map,
            pos,
            end: pos,
            first,
            size: 0,
            segments: Vec::with_capacity(64),
            folios: Vec::with_capacity(64),
        }
    }
    /// May these bytes of a folio go with it?
    pub(super) fn takes(
        &self,
        folio: &Folio,
        map: &Iomap,
        sector: Sector,
        range: &Range<usize>,
        most: u64,
    ) -> bool {
        self.end == folio.position() + range.start as u64
            && self.next_sector() == sector
            && same_kind(&self.map, map)
            && self.end - self.pos + range.len() as u64 <= most
            // The end of the file was here: the size that a later block proves is not
            // proven by this one.
            && self.size == self.end
    }
    fn next_sector(&self) -> Sector {
        Sector(self.first.0 + ((self.end - self.pos) >> 9))
    }
    /// Add blocks of a folio under writeback; the file has `size` bytes now.
    pub(super) fn add(&mut self, folio: &Arc<Folio>, range: Range<usize>, size: u64) {
        folio.transfer_begin();
        self.end += range.len() as u64;
        self.size = self.end.min(size);
        self.segments.push(folio.segment(&range));
        self.folios.push(folio.clone());
    }
    /// The request that writes it and completes it.
    pub(super) fn into_bio(self, mapping: &Arc<Mapping>, flags: BioFlags) -> Bio {
        let Self { map, pos, end, first, size, segments, folios } = self;
        let size = match size < end && !mapping.lab().acts(Guard::IoendClamp) {
            true => end,
            false => size,
        };
        let mapping = mapping.clone();
        let done = Box::new(move |result: Result<(), IoError>| {
            let result = result.map_err(Error::from);
            Ended { mapping, map, pos, end, first, size, folios, result }.complete();
        });
        Bio::transfer(Op::Write, first, segments, flags, done)
    }
}

/// Blocks that were written, or could not be.
pub(crate) struct Ended {
    mapping: Arc<Mapping>,
    map: Iomap,
    pos: u64,
    end: u64,
    first: Sector,
    size: u64,
    folios: Vec<Arc<Folio>>,
    result: Result<()>,
}

impl Ended {
    /// On the device's completion thread.
    fn complete(mut self) {
        let shared = self.map.flags.contains(MapFlags::SHARED);
        let changes = shared
            || (self.result.is_ok()
                && (matches!(self.map.kind, MapKind::Unwritten { .. })
                    || self.size > self.mapping.ops().disk_size()));
        if changes {
            let mapping = self.mapping.clone();
            return mapping.cache().ioends().complete(self);
        }
        self.report();
        self.release();
    }
    /// Change what is to be changed, on a thread that may sleep: neighbours at once.
    pub(crate) fn complete_all(mut batch: Vec<Self>) {
        batch.sort_by_key(|io| (io.mapping.id(), Arc::as_ptr(&io.mapping) as usize, io.pos));
        let mut batch = batch.into_iter().peekable();
        while let Some(mut io) = batch.next() {
            while let Some(next) = batch.next_if(|next| io.precedes(next)) {
                PageCache::count(&io.mapping.cache().statistics().ioends_merged, 1);
                io.append(next);
            }
            io.convert();
            io.report();
            io.release();
        }
    }
    /// Is `next` contiguous with it, in the file and on the device, and due the same?
    fn precedes(&self, next: &Self) -> bool {
        Arc::ptr_eq(&self.mapping, &next.mapping)
            && self.end == next.pos
            && self.first.0 + ((self.end - self.pos) >> 9) == next.first.0
            && self.result == next.result
            && same_kind(&self.map, &next.map)
    }
    fn append(&mut self, next: Self) {
        self.end = next.end;
        self.size = self.size.max(next.size);
        self.folios.extend(next.folios);
    }
    fn convert(&mut self) {
        let Self { mapping, map, pos, end, .. } = self;
        let (ops, len) = (mapping.ops(), *end - *pos);
        mapping.lab().at(Point::Written, mapping.id(), *pos);
        PageCache::count(&mapping.cache().statistics().ioends_converted, 1);
        if self.result.is_ok() {
            // The file may have been cut since; then nothing here proves its old size.
            let size = self.size.min(mapping.size());
            self.result = ops.writeback_done(map, *pos, len, size);
        } else if map.flags.contains(MapFlags::SHARED) {
            ops.writeback_failed(map, *pos, len);
        }
        mapping.lab().at(Point::Converted, mapping.id(), *pos);
    }
    /// One record for each ioend that failed.
    fn report(&mut self) {
        if let Err(e) = &self.result {
            let (mapping, range) = (&self.mapping, self.pos..self.end);
            log::error!("file {}: writing bytes {range:?} failed: {e}", mapping.id());
            mapping.record_error(e);
        }
    }
    fn release(self) {
        let ended = self.folios.iter().filter(|folio| folio.transfer_done());
        let ended: Vec<&Folio> = ended.map(|folio| &**folio).collect();
        self.mapping.end_writeback(&ended);
    }
}

fn same_kind(a: &Iomap, b: &Iomap) -> bool {
    a.flags == b.flags
        && matches!(
            (a.kind, b.kind),
            (MapKind::Written { .. }, MapKind::Written { .. })
                | (MapKind::Unwritten { .. }, MapKind::Unwritten { .. })
        )
}
