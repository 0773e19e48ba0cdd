//! Files that share blocks: making them do so, and noting that they no longer do. How a
//! write to a shared block finds another place is the copy-on-write fork's matter (`map`,
//! `bmap`); here is how much is set aside at once for such copies.
//!
//! A copy takes more than was written: aligned pieces of the size that the file asks for,
//! so that what is copied in little steps ends up in few extents. What lies ready so is
//! used by the next writes, whether the blocks are shared or not; what is left is given
//! back when the inode leaves memory, when space runs out, and when nobody used it for a
//! while (`vfs::blockgc`). It lies only over blocks that the file has, so that whatever
//! takes those away takes this away too.
//!
//! Each extent is shared in a transaction of its own: what the target had there is given
//! up, the blocks' references rise, the target's map changes. Only written extents are
//! shared; where the source has nothing or unwritten blocks the target gets a hole.

use core::ops::Range;

use super::bmap::{self, extents_of, punch_reserved};
use super::inode::{ForkKind, Inode};
use super::inode_item::LockedInode;
use super::ondisk::bmbt::{Extent, MAX_BLOCKS};
use super::ondisk::inode::{Flags, Flags2};
use super::ondisk::log_intents::refcount;
use super::ondisk::superblock::RoCompat;
use super::types::FileBlock;
use crate::error::{Error, Result};

/// What a copy is aligned to and rounded up to, in blocks, where nobody asked for more.
const USUAL_COPY_BLOCKS: u64 = 32;
/// Extents beside what is to be copied that are looked at.
const NEIGHBOURS: usize = 64;

/// What to set aside for copies of the blocks `shared`, for which nothing is.
fn around(ip: &LockedInode<'_>, shared: &Range<FileBlock>) -> Range<FileBlock> {
    let core = &ip.core;
    let asked = |is: bool, blocks: u32| if is { u64::from(blocks) } else { 0 };
    let hint = asked(core.flags2.contains(Flags2::COW_EXTSIZE), core.cow_extsize)
        .max(asked(core.flags.contains(Flags::EXTSIZE), core.extsize));
    let hint = if hint == 0 { USUAL_COPY_BLOCKS } else { hint };
    let eof = ip.inode().eof().div_ceil(1 << ip.inode().mount().geometry().block_log);
    let mut lowest = FileBlock(shared.start.0 / hint * hint);
    let mut highest = FileBlock(shared.end.0.next_multiple_of(hint).min(eof)).max(shared.end);
    let (copies, reserved) = (&ip.delayed.cow, &ip.delayed.cow_reserved);
    lowest = lowest.max(copies.before(shared.start).map_or(lowest, Extent::end));
    lowest = lowest.max(reserved.before(shared.start).map_or(lowest, |d| d.end()));
    highest = highest.min(copies.at_or_after(shared.start).map_or(highest, |e| e.offset));
    highest = highest.min(reserved.at_or_after(shared.start).map_or(highest, |d| d.offset));
    let data = extents_of(ip, ForkKind::Data);
    let (mut start, mut end) = (shared.start, shared.end);
    for _ in 0..NEIGHBOURS {
        match data.ending_at(start).or_else(|| data.at(start)) {
            Some(left) if start > lowest && left.offset < start => start = left.offset,
            _ => break,
        }
    }
    for _ in 0..NEIGHBOURS {
        match data.at(end) {
            Some(right) if end < highest => end = right.end(),
            _ => break,
        }
    }
    let whole = start.max(lowest)..end.min(highest);
    match whole.end.0 - whole.start.0 {
        count if count <= MAX_BLOCKS => whole,
        _ => shared.clone(),
    }
}

impl Inode {
    /// Reserve copies for the start of `shared`, and around it if there is space: what of
    /// `shared` is reserved now.
    ///
    /// # Errors
    /// There is not even space for one block.
    pub(super) fn reserve_copies(
        &self,
        ip: &mut LockedInode<'_>,
        shared: Range<FileBlock>,
    ) -> Result<Range<FileBlock>> {
        let whole = around(ip, &shared);
        if whole != shared && self.reserve_range(ip, ForkKind::Cow, whole).is_ok() {
            return Ok(shared);
        }
        self.reserve_some(ip, ForkKind::Cow, shared)
    }
    /// Note that the file shares no blocks any more if that is so. `IOLOCK` and `INVAL` are
    /// held exclusive, and nothing of the file is dirty or on its way to disk.
    ///
    /// # Errors
    /// Those of reading the extents and the trees of references, and of transactions.
    pub fn settle_reflink(&self) -> Result<()> {
        if !self.is_reflink() || self.shares_blocks()? {
            return Ok(());
        }
        // From now on nobody looks whether a block may be written in place: that those of
        // this file have one owner must not be undone by a crash.
        if let Some(log) = self.mount().log() {
            log.force_all()?;
        }
        self.cancel_cow(FileBlock(0)..FileBlock(u64::MAX))?;
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        if ip.delayed.has_cow() {
            return Ok(());
        }
        clear(&mut ip);
        let now = tp.now();
        ip.core_mut().ctime = now;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Has any of its blocks another owner?
    fn shares_blocks(&self) -> Result<bool> {
        let locked = self.lock(ForkKind::Data)?;
        for extent in locked.extents().iter().filter(|e| !e.unwritten) {
            let mut at = extent.offset;
            while at < extent.end() {
                let (end, shared) = self.shared_at(extent, at, extent.end())?;
                if shared {
                    return Ok(true);
                }
                at = end;
            }
        }
        Ok(false)
    }
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
        // What was reserved ahead behind the end of the file lies there without any data.
        punch_reserved(&mut self.lock_exclusive(), ForkKind::Data, at..end);
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

/// The file shares nothing, and copies nothing. Maps made before looked for that.
fn clear(ip: &mut LockedInode<'_>) {
    ip.bump_sequence(ForkKind::Data);
    ip.core_mut().flags2 -= Flags2::REFLINK;
}

/// A file that has no blocks any more, nor any set aside for it, shares none.
pub(super) fn clear_if_empty(ip: &mut LockedInode<'_>) {
    let empty = extents_of(ip, ForkKind::Data).is_empty()
        && ip.delayed.data.is_empty()
        && !ip.delayed.has_cow();
    if empty && ip.core.flags2.contains(Flags2::REFLINK) {
        clear(ip);
    }
}
