//! Changing which blocks of a file are there: preallocate, punch, zero, collapse, insert.
//!
//! `IOLOCK` and `INVAL` are held exclusive and nothing in the ranges is cached or dirty,
//! so no map is in use while these run; between their transactions, `ILOCK` is free.
//! A crash leaves an operation done in part, as on any other file system: each step by
//! itself leaves a whole file.

use core::ops::Range;

use super::bmap::{self, extents_of, punch_reserved};
use super::inode::{ForkKind, Inode};
use super::ondisk::bmbt::{Extent, MAX_FILE_BLOCK};
use super::ondisk::inode::Flags;
use super::truncate::{from, unmap_range};
use super::types::FileBlock;
use crate::error::{Error, Result};

impl Inode {
    /// Fill the holes in `range` with unwritten extents.
    ///
    /// # Errors
    /// No space, those of transactions. What was allocated before stays, as with Linux:
    /// unwritten, which reads as the hole did; the size does not change, and what lies
    /// behind it is given back when the file is closed.
    pub(super) fn fill_holes(&self, range: Range<FileBlock>) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let (hole, reserved) = {
                let locked = self.lock(ForkKind::Data)?;
                let real = locked.extents().at(at).map(Extent::end);
                let reserved = locked.delayed().data.at(at).map(|d| d.end());
                (real, reserved)
            };
            at = match (hole, reserved) {
                (Some(end), _) => end,
                (None, Some(end)) => {
                    self.allocate_delalloc(ForkKind::Data, at)?;
                    end
                }
                (None, None) => self.allocate_hole(at..range.end)?,
            };
        }
        Ok(())
    }
    /// Log the times of a change of the contents, and that blocks behind the end of the
    /// file were asked for.
    ///
    /// # Errors
    /// Those of transactions.
    pub(super) fn log_layout(&self, preallocated: bool) -> Result<()> {
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        let now = tp.now();
        let core = ip.core_mut();
        core.mtime = now;
        core.ctime = now;
        if preallocated {
            core.flags |= Flags::PREALLOC;
        }
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Make `range` a hole.
    ///
    /// # Errors
    /// Those of transactions and of reading the extent tree.
    pub(super) fn punch_blocks(&self, range: Range<FileBlock>) -> Result<()> {
        if range.is_empty() {
            return Ok(());
        }
        self.cancel_cow(range.clone())?;
        let mount = self.mount();
        // A hole within an extent makes two of one.
        let mut tp = mount.begin_change(mount.tree_limits().one_more())?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        punch_reserved(&mut ip, ForkKind::Data, range.clone());
        unmap_range(&mut tp, &mut ip, ForkKind::Data, range)?;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Make all of `range` unwritten: what is written is converted, what is shared given
    /// up, what is a hole allocated.
    ///
    /// # Errors
    /// As [`Inode::fill_holes`].
    pub(super) fn zero_extents(&self, range: Range<FileBlock>) -> Result<()> {
        if self.is_reflink() {
            self.punch_blocks(range.clone())?;
        } else {
            self.convert_unwritten(range.clone())?;
        }
        self.fill_holes(range)
    }
    /// Remove the blocks of `range`: what follows moves down.
    ///
    /// # Errors
    /// Those of transactions and of reading the extent tree.
    pub(super) fn collapse_blocks(&self, range: Range<FileBlock>) -> Result<()> {
        self.cancel_cow(from(range.start))?;
        self.punch_blocks(range.clone())?;
        let by = range.end.0 - range.start.0;
        let mut at = range.end;
        while let Some(extent) = self.shift_extent(
            |list| list.at_or_after(at).copied(),
            |e| Ok(FileBlock(e.offset.0 - by)),
        )? {
            at = extent.end();
        }
        Ok(())
    }
    /// Move what lies at and behind `range` up by its length.
    ///
    /// # Errors
    /// Too big; those of transactions and of reading the extent tree.
    pub(super) fn insert_blocks(&self, range: Range<FileBlock>) -> Result<()> {
        let by = range.end.0 - range.start.0;
        self.check_room_above(by)?;
        self.cancel_cow(from(range.start))?;
        self.split_at(range.start)?;
        let mut below = FileBlock(u64::MAX);
        while let Some(extent) = self.shift_extent(
            |list| list.before(below).filter(|e| e.offset >= range.start).copied(),
            |e| Ok(FileBlock(e.offset.0 + by)),
        )? {
            below = extent.offset;
        }
        Ok(())
    }
    /// See that the last extent can move up by `by` blocks.
    ///
    /// # Errors
    /// Too big; those of reading the extents.
    fn check_room_above(&self, by: u64) -> Result<()> {
        let most = MAX_FILE_BLOCK.min(super::map::MAX_BYTES >> self.mount().geometry().block_log);
        let end = self.lock(ForkKind::Data)?.extents().end().0;
        if end + by > most { Err(Error::TooBig) } else { Ok(()) }
    }
    /// Move one extent of the data fork to another place in the file, in a transaction of
    /// its own. The extent as it was.
    fn shift_extent(
        &self,
        pick: impl Fn(&bmap::ExtentList) -> Option<Extent>,
        to: impl Fn(&Extent) -> Result<FileBlock>,
    ) -> Result<Option<Extent>> {
        let mount = self.mount();
        if pick(self.lock(ForkKind::Data)?.extents()).is_none() {
            return Ok(None);
        }
        let mut tp = mount.begin_change(mount.tree_limits().one_more())?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        let Some(extent) = pick(extents_of(&ip, ForkKind::Data)) else { return Ok(None) };
        let offset = to(&extent)?;
        bmap::move_extent(&mut tp, &mut ip, extent, offset)?;
        tp.commit(&mut [&mut ip])?;
        Ok(Some(extent))
    }
    /// See that an extent starts at `block` if one covers it.
    fn split_at(&self, block: FileBlock) -> Result<()> {
        let mount = self.mount();
        let mut tp = mount.begin_change(mount.tree_limits().one_more())?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        bmap::split_extent(&mut tp, &mut ip, block)?;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
}
