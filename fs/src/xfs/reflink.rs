//! Files that share blocks: making them do so. How a write to a shared block finds
//! another place is the copy-on-write fork's matter (`map`, `bmap`).
//!
//! Each extent is shared in a transaction of its own: what the target had there is given
//! up, the blocks' references rise, the target's map changes. Only written extents are
//! shared; where the source has nothing or unwritten blocks the target gets a hole.

use core::ops::Range;

use super::bmap::{self, extents_of};
use super::inode::{ForkKind, Inode};
use super::ondisk::bmbt::Extent;
use super::ondisk::inode::Flags2;
use super::ondisk::log_intents::refcount;
use super::ondisk::superblock::RoCompat;
use super::types::FileBlock;
use crate::error::{Error, Result};

impl Inode {
    /// Share the blocks of `range` of `source` at `at` of this file. Both are locked, the
    /// source is on disk, nothing of the target there is cached.
    ///
    /// # Errors
    /// Not supported without reflink; no space; those of transactions.
    pub(super) fn share_blocks(
        &self,
        source: &Self,
        range: Range<FileBlock>,
        at: FileBlock,
    ) -> Result<()> {
        if !self.mount().geometry().ro_compat.contains(RoCompat::REFLINK) {
            return Err(Error::NotSupported("the file system does not share blocks"));
        }
        source.mark_reflink()?;
        self.mark_reflink()?;
        let end = FileBlock(at.0 + (range.end.0 - range.start.0));
        self.cancel_cow(at..end)?;
        let mut from = range.start;
        while from < range.end {
            let next = source.next_written(from..range.end)?;
            let start = next.map_or(range.end, |e| e.offset);
            let to = |block: FileBlock| FileBlock(at.0 + (block.0 - range.start.0));
            self.punch_blocks(to(from)..to(start))?;
            from = start;
            if let Some(extent) = next {
                from = extent.end();
                self.share_extent(&extent, to(extent.offset))?;
            }
        }
        Ok(())
    }
    /// The first written extent in `range`, or the part of it there.
    fn next_written(&self, range: Range<FileBlock>) -> Result<Option<Extent>> {
        let locked = self.lock(ForkKind::Data)?;
        let mut extents = locked.extents().iter_from(range.start);
        let written = extents.find(|e| !e.unwritten).filter(|e| e.offset < range.end);
        Ok(written.map(|e| e.clip(range)))
    }
    /// Note that the file may share blocks. Maps made before did not look for that.
    fn mark_reflink(&self) -> Result<()> {
        if self.is_reflink() {
            return Ok(());
        }
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        ip.bump_sequence(ForkKind::Data);
        ip.core_mut().flags2 |= Flags2::REFLINK;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Map the blocks of `source` at `at`, one extent of what is there at a time.
    fn share_extent(&self, source: &Extent, at: FileBlock) -> Result<()> {
        let end = FileBlock(at.0 + u64::from(source.count));
        self.in_steps(at..end, 0, |tp, ip, range| {
            let there = extents_of(ip, ForkKind::Data).at_or_after(range.start).copied();
            let stop = match there {
                Some(e) if e.offset <= range.start => e.end().min(range.end),
                Some(e) => e.offset.min(range.end),
                None => range.end,
            };
            let into = range.start.0 - at.0;
            let piece = Extent {
                offset: range.start,
                block: crate::xfs::types::FsBlock(source.block.0 + into),
                count: (stop.0 - range.start.0) as u32,
                unwritten: false,
            };
            let same = there
                .is_some_and(|e| e.offset <= piece.offset && e.clip(piece.offset..stop) == piece);
            if !same {
                let increase = refcount::INCREASE;
                tp.defer(super::defer::Deferred::refcount(increase, piece.block, piece.count));
                bmap::remap(tp, ip, piece)?;
            }
            Ok(stop)
        })
    }
}
