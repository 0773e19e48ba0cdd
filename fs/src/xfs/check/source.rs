//! Reading and verifying blocks; the list of findings.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::{Finding, MOST_FINDINGS, Result};
use crate::block::{BioFlags, Queue, SECTOR_SIZE, Sector, Segment};
use crate::platform::{Memory, PAGE_SIZE, Page};
use crate::xfs::buf::Run;
use crate::xfs::geometry::Geometry;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::be64;
use crate::xfs::ondisk::block::{BlockKind, verify};

/// Pages that all reading goes through: as much as is read at once.
const PAGES: usize = 16;

/// Where blocks come from and findings go to.
pub(super) struct Source {
    queue: Arc<Queue>,
    geometry: Arc<Geometry>,
    pages: Vec<Page>,
    findings: Vec<Finding>,
    found: u64,
    /// The newest place in the log that any structure names.
    pub(super) newest_lsn: u64,
    /// Some structure could not be read, so what it owns is not known.
    pub(super) incomplete: bool,
}

impl Source {
    pub(super) fn new(
        queue: Arc<Queue>,
        memory: &dyn Memory,
        geometry: Arc<Geometry>,
    ) -> Result<Self> {
        let mut pages = Vec::new();
        memory.alloc_pages(PAGES, &mut pages);
        if pages.is_empty() {
            return Err(MountError::NoMemory);
        }
        Ok(Self {
            queue,
            geometry,
            pages,
            findings: Vec::new(),
            found: 0,
            newest_lsn: 0,
            incomplete: false,
        })
    }
    /// Write something down.
    pub(super) fn found(
        &mut self,
        structure: &'static str,
        location: impl Into<String>,
        reason: impl Into<String>,
    ) {
        self.found += 1;
        if self.findings.len() < MOST_FINDINGS {
            let (location, reason) = (location.into(), reason.into());
            self.findings.push(Finding { structure, location, reason });
        }
    }
    /// Write down that a structure is damaged so that what lies below is unknown.
    pub(super) fn lost(
        &mut self,
        structure: &'static str,
        location: impl Into<String>,
        reason: impl Into<String>,
    ) {
        self.incomplete = true;
        self.found(structure, location, reason);
    }
    pub(super) fn take_findings(&mut self) -> (Vec<Finding>, u64) {
        (::core::mem::take(&mut self.findings), self.found)
    }
    /// Read whole sectors; nothing, and a finding, if the device fails.
    pub(super) fn read(
        &mut self,
        structure: &'static str,
        runs: &[Run],
    ) -> Result<Option<Vec<u8>>> {
        let bytes: usize = runs.iter().map(|r| r.bytes as usize).sum();
        let mut contents = Vec::new();
        contents.try_reserve_exact(bytes).map_err(|_| MountError::NoMemory)?;
        contents.resize(bytes, 0);
        let mut at = 0;
        for run in runs {
            let part = &mut contents[at..at + run.bytes as usize];
            if let Err(e) = self.read_run(run.sector, part) {
                let place = self.geometry.place(run.sector);
                self.lost(structure, place, format!("it cannot be read: {e}"));
                return Ok(None);
            }
            at += run.bytes as usize;
        }
        Ok(Some(contents))
    }
    fn read_run(&self, sector: Sector, dst: &mut [u8]) -> Result<(), crate::block::IoError> {
        let mut at = sector;
        for part in dst.chunks_mut(self.pages.len() * PAGE_SIZE) {
            let segments = Segment::cover(&self.pages, part.len());
            self.queue.read_sync(at, segments, BioFlags::META)?;
            at = Sector(at.0 + part.len() as u64 / SECTOR_SIZE);
            for (chunk, page) in part.chunks_mut(PAGE_SIZE).zip(&self.pages) {
                page.read(0, chunk);
            }
        }
        Ok(())
    }
    /// Read a block and verify that it is one of `kinds`; nothing, and a finding, if not.
    pub(super) fn block(
        &mut self,
        runs: &[Run],
        kinds: &[BlockKind],
    ) -> Result<Option<(BlockKind, Vec<u8>)>> {
        let Some(first) = runs.first() else { return Ok(None) };
        let name = kinds.first().map_or("block", |k| k.name());
        let Some(bytes) = self.read(name, runs)? else { return Ok(None) };
        Ok(self.verified(first.sector, &bytes, kinds).map(|kind| (kind, bytes)))
    }
    /// Verify a block that has been read.
    pub(super) fn verified(
        &mut self,
        sector: Sector,
        bytes: &[u8],
        kinds: &[BlockKind],
    ) -> Option<BlockKind> {
        match verify(kinds, &self.geometry, sector, bytes) {
            Ok(kind) => {
                self.note_lsn(kind.lsn_offset().and_then(|at| be64(bytes, at)));
                Some(kind)
            }
            Err(c) => {
                self.lost(c.structure, c.location, c.reason);
                None
            }
        }
    }
    /// A structure says that it was last written by this place in the log.
    pub(super) fn note_lsn(&mut self, lsn: Option<u64>) {
        // Values of attributes bypass the log, and say so with all ones.
        if let Some(lsn) = lsn.filter(|&lsn| lsn != u64::MAX) {
            self.newest_lsn = self.newest_lsn.max(lsn);
        }
    }
}
