//! A fork's extents, in the inode or in a tree; who owns which blocks by them.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::owners::Claim;
use super::{Result, Scan, push};
use crate::xfs::buf::Run;
use crate::xfs::geometry::Geometry;
use crate::xfs::inode::ForkKind;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::bmbt::{BmbtRoot, Extent, MAX_FILE_BLOCK, RECORD_BYTES};
use crate::xfs::ondisk::btree::{LongBlock, LongHeader, NULL_LONG};
use crate::xfs::ondisk::inode::{Format, InodeCore};
use crate::xfs::ondisk::rmapbt::{ATTR_FORK, BMBT_BLOCK, UNWRITTEN};
use crate::xfs::ondisk::{Check, ensure};
use crate::xfs::types::{FileBlock, FileType, FsBlock, Ino};

/// What a fork holds.
#[derive(Default)]
pub(super) struct Fork {
    /// The extents that could be read, in order.
    pub(super) extents: Vec<Extent>,
    /// Blocks of data and of the extent tree.
    pub(super) blocks: u64,
    /// All of it could be read.
    pub(super) whole: bool,
}

impl Fork {
    /// Where `count` file blocks from `start` lie; nothing if all of them are a hole.
    pub(super) fn runs(
        &self,
        geometry: &Geometry,
        start: u64,
        count: u64,
    ) -> Check<Option<Vec<Run>>> {
        let mut runs = Vec::new();
        let (mut at, end) = (start, start + count);
        let first = self.extents.partition_point(|e| e.end() <= FileBlock(start));
        let rest = self.extents.get(first..).unwrap_or(&[]);
        for extent in rest.iter().take_while(|e| e.offset.0 < end) {
            ensure!(extent.offset.0 <= at, "file blocks {start:#x} to {end:#x} are partly a hole");
            let into = at - extent.offset.0;
            let blocks = (u64::from(extent.count) - into).min(end - at);
            let sector = geometry.sector(FsBlock(extent.block.0 + into));
            runs.push(Run { sector, bytes: (blocks << geometry.block_log) as u32 });
            at += blocks;
        }
        ensure!(at == start || at == end, "file blocks {start:#x} to {end:#x} are partly a hole");
        Ok(if runs.is_empty() { None } else { Some(runs) })
    }
}

/// The fork that is being read.
struct Reading {
    ino: Ino,
    name: &'static str,
    /// Flags of what it owns.
    flags: u64,
    /// May extents be unwritten?
    unwritten: bool,
    fork: Fork,
}

/// A block of the extent tree still to be visited.
struct Visit {
    block: FsBlock,
    key: u64,
    level: u32,
    /// It may be less than half full.
    alone: bool,
}

/// The block of a level that was visited last.
#[derive(Clone, Copy)]
struct Left {
    block: u64,
    right: Option<u64>,
}

impl Scan {
    /// Check a fork's extents.
    pub(super) fn check_fork(
        &mut self,
        ino: Ino,
        core: &InodeCore,
        kind: ForkKind,
        bytes: &[u8],
    ) -> Result<Fork> {
        let (format, stated, flags) = match kind {
            ForkKind::Data => (Some(core.format), core.extents, 0),
            _ => (core.attr_format, u64::from(core.attr_extents), ATTR_FORK),
        };
        let unwritten = flags == 0 && core.file_type == FileType::Regular;
        let fork = Fork { whole: true, ..Fork::default() };
        let mut reading = Reading { ino, name: kind.name(), flags, unwritten, fork };
        match format {
            Some(Format::Extents) => {
                let count = usize::try_from(stated).unwrap_or(usize::MAX);
                for record in bytes.chunks_exact(RECORD_BYTES).take(count) {
                    self.take_extent(&mut reading, record)?;
                }
            }
            Some(Format::Btree) => self.walk_extents(&mut reading, bytes)?,
            None | Some(Format::Device | Format::Local) => {}
        }
        let found = reading.fork.extents.len() as u64;
        if reading.fork.whole && found != stated {
            let reason = format!("{}: nextents is {stated}, it has {found}", reading.name);
            self.inode_found(ino, reason);
        }
        Ok(reading.fork)
    }
    fn fork_lost(&mut self, reading: &mut Reading, reason: String) {
        reading.fork.whole = false;
        let location = format!("{} ({})", reading.ino, reading.name);
        self.source.lost("inode", location, reason);
    }
    fn take_extent(&mut self, reading: &mut Reading, record: &[u8]) -> Result<()> {
        let extent = Extent::decode(record);
        if let Err(reason) = self.check_extent(reading, &extent) {
            self.fork_lost(reading, reason);
            return Ok(());
        }
        reading.fork.blocks += u64::from(extent.count);
        push(&mut reading.fork.extents, extent)?;
        let (ag, block) = self.geometry.split(extent.block);
        let unwritten = if extent.unwritten { UNWRITTEN } else { 0 };
        let offset = extent.offset.0 | reading.flags | unwritten;
        let owner = reading.ino.0;
        self.claim(ag, Claim { start: block.0, count: extent.count, owner, offset })
    }
    fn check_extent(&self, reading: &Reading, extent: &Extent) -> Check {
        let (offset, count) = (extent.offset.0, u64::from(extent.count));
        ensure!(count > 0, "an empty extent at file block {offset}");
        // Files end below 2^63 bytes, whatever the record has room for.
        let most = MAX_FILE_BLOCK.min((1 << 63) >> self.geometry.block_log);
        ensure!(offset + count <= most, "an extent at file block {offset}");
        if let Some(last) = reading.fork.extents.last() {
            ensure!(last.end() <= extent.offset, "extents overlap at file block {offset}");
        }
        ensure!(
            self.geometry.has_blocks(extent.block, count),
            "file block {offset}: {count} blocks at {} do not exist",
            extent.block
        );
        ensure!(!extent.unwritten || reading.unwritten, "file block {offset} is unwritten");
        Ok(())
    }
    /// Go through an extent tree from left to right.
    fn walk_extents(&mut self, reading: &mut Reading, bytes: &[u8]) -> Result<()> {
        let root = match BmbtRoot::decode(bytes) {
            Ok(root) => root,
            Err(reason) => {
                self.fork_lost(reading, reason);
                return Ok(());
            }
        };
        let mut pending = Vec::new();
        for i in (0..root.count).rev() {
            let Some((key, block)) = root.child(i) else { continue };
            let alone = root.count == 1;
            push(&mut pending, Visit { block: FsBlock(block), key, level: root.level - 1, alone })?;
        }
        let mut lefts: Vec<Left> = Vec::new();
        lefts.resize(root.level as usize, Left { block: NULL_LONG, right: None });
        let mut seen = BTreeSet::new();
        while let Some(visit) = pending.pop() {
            if !self.geometry.has_blocks(visit.block, 1) || !seen.insert(visit.block) {
                let reason =
                    format!("a pointer to {}, which does not exist or is in use", visit.block);
                self.fork_lost(reading, reason);
                continue;
            }
            self.visit_extents(reading, &visit, &mut lefts, &mut pending)?;
        }
        for (level, left) in lefts.iter().enumerate() {
            if reading.fork.whole && left.right.is_some_and(|r| r != NULL_LONG) {
                let reason = format!("level {level} of the extent tree goes on behind its end");
                self.inode_found(reading.ino, reason);
            }
        }
        Ok(())
    }
    fn visit_extents(
        &mut self,
        reading: &mut Reading,
        visit: &Visit,
        lefts: &mut [Left],
        pending: &mut Vec<Visit>,
    ) -> Result<()> {
        let sector = self.geometry.sector(visit.block);
        let run = Run { sector, bytes: self.geometry.block_bytes() as u32 };
        let Some((_, bytes)) = self.source.block(&[run], &[BlockKind::Bmbt])? else {
            reading.fork.whole = false;
            return Ok(());
        };
        let Some(view) = LongBlock::new(&bytes) else { return Ok(()) };
        let place = self.geometry.place(sector);
        if view.level() != visit.level || view.header.owner() != reading.ino.0 {
            let reason = format!(
                "level {} of inode {}, should be {} of {}",
                view.level(),
                view.header.owner(),
                visit.level,
                reading.ino
            );
            reading.fork.whole = false;
            self.source.lost("bmbt block", place, reason);
            return Ok(());
        }
        let (ag, block) = self.geometry.split(visit.block);
        let offset = reading.flags | BMBT_BLOCK;
        self.claim(ag, Claim { start: block.0, count: 1, owner: reading.ino.0, offset })?;
        reading.fork.blocks += 1;
        let least = (self.geometry.block_bytes() - LongHeader::SIZE) / RECORD_BYTES / 2;
        let mut wrong = Vec::new();
        if view.count() < least && !visit.alone {
            wrong.push(format!("{} records, at least {least} there must be", view.count()));
        }
        if let Some(left) = lefts.get_mut(visit.level as usize) {
            if view.header.left() != left.block {
                let (is, should) = (view.header.left(), left.block);
                wrong.push(format!("left of it should be {should:#x}, it says {is:#x}"));
            }
            if let Some(right) = left.right.filter(|&right| right != visit.block.0) {
                wrong.push(format!("its left sibling says {right:#x} comes next"));
            }
            *left = Left { block: visit.block.0, right: Some(view.header.right()) };
        }
        if visit.level == 0 {
            let first = view.records().next().map(|r| Extent::decode(r).offset.0);
            if first != Some(visit.key) {
                wrong.push(format!("it starts at {first:?}, its parent says {}", visit.key));
            }
            for record in view.records() {
                self.take_extent(reading, record)?;
            }
        } else {
            let start = pending.len();
            let mut last = None;
            for i in 0..view.count() {
                let Some((key, child)) = view.child(i) else { continue };
                if (i == 0 && key != visit.key) || last.is_some_and(|last| last >= key) {
                    wrong.push(format!("key {i} is {key}, behind {last:?}, below {}", visit.key));
                }
                last = Some(key);
                let block = FsBlock(child);
                push(pending, Visit { block, key, level: visit.level - 1, alone: false })?;
            }
            pending[start..].reverse();
        }
        for reason in wrong {
            self.source.found("bmbt block", place.clone(), reason);
        }
        Ok(())
    }
}
