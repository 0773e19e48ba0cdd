//! Changing the size of a file, and giving up what lies behind its end.
//!
//! The size goes first: once it is in the log, what lies behind it is nobody's data, and
//! freeing it may take as many transactions as there are extents. A crash in between
//! leaves blocks behind the end of the file, as if they had been allocated ahead.

use core::ops::Range;

use super::bmap::{self, punch_reserved};
use super::inode::{Fork, ForkKind, Inode};
use super::inode_item::LockedInode;
use super::ondisk::inode::Flags;
use super::reflink;
use super::trans::Trans;
use super::types::{FileBlock, FileType};
use crate::error::Result;

/// Extents that a transaction takes out of a tree: their freeing is logged with them.
const EXTENTS_IN_ONE: u32 = 2;
/// The same for a fork without a tree.
const EXTENTS_IN_ONE_INLINE: u32 = 8;

/// All file blocks from one on.
pub(super) const fn from(start: FileBlock) -> Range<FileBlock> {
    start..FileBlock(u64::MAX)
}

/// Take all of `range` out of a fork, in as many transactions as it takes. `tp` is clean
/// or holds changes that go with the first step; afterwards it is in the last one.
///
/// # Errors
/// Those of transactions and of reading the extent tree.
pub(super) fn unmap_range(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    range: Range<FileBlock>,
) -> Result<()> {
    ip.load(fork)?;
    loop {
        let has_tree = matches!(ip.fork(fork), Some(Fork::Extents(e)) if e.root.is_some());
        let most = if has_tree { EXTENTS_IN_ONE } else { EXTENTS_IN_ONE_INLINE };
        if bmap::unmap(tp, ip, fork, range.clone(), most)? {
            return Ok(());
        }
        tp.finish(&mut [ip])?;
        tp.roll(&mut [ip])?;
    }
}

impl Inode {
    /// The first block behind byte `size`.
    fn block_behind(&self, size: u64) -> FileBlock {
        FileBlock(size.div_ceil(1 << self.mount().geometry().block_log))
    }
    /// Log the size, and if the file was `cut`, free what lies behind it. `IOLOCK` and
    /// `INVAL` are held exclusive, nothing behind the new size is cached or on its way to
    /// disk.
    ///
    /// # Errors
    /// Those of transactions and of reading the extent tree.
    pub(super) fn resize(&self, size: u64, cut: bool) -> Result<()> {
        let mount = self.mount();
        let behind = from(self.block_behind(size));
        if cut {
            self.cancel_cow(behind.clone())?;
        }
        let mut tp = mount.begin(mount.reservations().truncate, 0)?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        let now = tp.now();
        let core = ip.core_mut();
        core.mtime = now;
        core.ctime = now;
        ip.set_disk_size(size);
        self.note_eof(size);
        if cut {
            punch_reserved(&mut ip, ForkKind::Data, behind.clone());
            unmap_range(&mut tp, &mut ip, ForkKind::Data, behind)?;
            ip.delayed.preallocated = false;
            reflink::clear_if_empty(&mut ip);
        }
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// The file will grow over what lies before `end`, and nobody will write that: give up
    /// what was reserved ahead there. `IOLOCK` is held exclusive.
    pub(super) fn skip_ahead(&self, end: FileBlock) {
        let behind = self.block_behind(self.eof());
        if behind < end && self.state.read().delayed.preallocated {
            punch_reserved(&mut self.lock_exclusive(), ForkKind::Data, behind..end);
        }
    }
    /// Was more reserved or allocated than was asked for, and perhaps not given back?
    pub fn holds_ahead(&self) -> bool {
        self.state.read().delayed.preallocated
    }
    /// Are there copies of shared blocks, or is space set aside for some?
    pub fn holds_copies(&self) -> bool {
        self.state.read().delayed.has_cow()
    }
    /// Give back what lies ready for copies of shared blocks. `IOLOCK` and `INVAL` are held
    /// exclusive, and nothing of the file is dirty or on its way to disk.
    ///
    /// # Errors
    /// Those of transactions; reservations are given back in any case.
    pub fn drop_copies(&self) -> Result<()> {
        self.cancel_cow(from(FileBlock(0)))
    }
    /// Give back what lies behind the end of the file, unless somebody asked for it:
    /// reservations and blocks. `IOLOCK` is held exclusive.
    ///
    /// # Errors
    /// Those of transactions and of reading the extent tree.
    pub(super) fn trim_behind_eof(&self) -> Result<()> {
        if self.file_type() != FileType::Regular || self.mount().readonly() {
            return Ok(());
        }
        let behind = from(self.block_behind(self.eof()));
        let (reserved, allocated) = {
            let locked = self.lock(ForkKind::Data)?;
            let asked_for = locked.core().flags.intersects(Flags::PREALLOC | Flags::APPEND);
            let allocated = !asked_for && locked.extents().end() > behind.start;
            (locked.delayed().data.end() > behind.start, allocated)
        };
        if reserved || allocated || self.holds_ahead() {
            let mut ip = self.lock_exclusive();
            punch_reserved(&mut ip, ForkKind::Data, behind.clone());
            ip.delayed.preallocated = false;
        }
        if !allocated {
            return Ok(());
        }
        let mount = self.mount();
        let mut tp = mount.begin(mount.reservations().truncate, 0)?;
        let mut ip = self.lock_exclusive();
        unmap_range(&mut tp, &mut ip, ForkKind::Data, behind)?;
        reflink::clear_if_empty(&mut ip);
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Give up everything that exists in memory only: nobody uses the inode any more, and
    /// nothing of it is dirty. Blocks ahead of the end of the file, copies that were never
    /// written.
    ///
    /// # Errors
    /// Those of transactions; reservations are given back in any case.
    pub fn evict(&self) -> Result<()> {
        let (ahead, copies, reserved) = {
            let delayed = &self.state.read().delayed;
            (delayed.preallocated, delayed.has_cow(), !delayed.data.is_empty())
        };
        let trimmed = if ahead { self.trim_behind_eof() } else { Ok(()) };
        let cancelled = if copies { self.cancel_cow(from(FileBlock(0))) } else { Ok(()) };
        if reserved {
            let mut ip = self.lock_exclusive();
            let left = ip.delayed.data.blocks();
            // Whoever reserved this forgot it. After a shutdown nobody can use it.
            if left > 0 && !self.mount().is_shut_down() {
                log::error!("{}: {left} blocks are still reserved", self.ino());
                debug_assert!(false, "{}: {left} blocks are still reserved", self.ino());
            }
            punch_reserved(&mut ip, ForkKind::Data, from(FileBlock(0)));
        }
        trimmed.and(cancelled)
    }
}
