//! Space for writes into the cache: reserved at once, allocated when the data goes to
//! disk.
//!
//! A write that finds no space is refused here, before anything changed. Behind the end
//! of a file that is written front to back more is reserved than was asked for, so that
//! it ends up in few extents even when several files grow at the same time; what is not
//! used is given back when the file is closed.

use core::ops::Range;

use super::change::list;
use super::reserved::{Delalloc, TreeLimits};
use crate::error::{Error, Result};
use crate::platform::PAGE_SIZE;
use crate::xfs::counters::Counters;
use crate::xfs::inode::{ForkKind, Inode};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::ondisk::bmbt::MAX_BLOCKS;
use crate::xfs::ondisk::inode::Flags;
use crate::xfs::types::FileBlock;

/// Pages that one reservation is for, at most.
const PAGES_MAX: u64 = 1024;
/// Files smaller than this get nothing ahead, larger ones at least as much.
const AHEAD_MIN_BYTES: u64 = 64 << 10;
/// Below each of these parts of the space (in percent) less is reserved ahead.
const LOW_SPACE_PERCENT: [u64; 5] = [5, 4, 3, 2, 1];

/// What a write wants to have reserved.
#[derive(Clone, Debug)]
pub(in crate::xfs) struct Wanted {
    /// File blocks that will be written; the first is a hole.
    pub(in crate::xfs) range: Range<FileBlock>,
    /// Where that hole ends.
    pub(in crate::xfs) hole_end: FileBlock,
    /// The file will be longer afterwards: reserve ahead.
    pub(in crate::xfs) appends: bool,
}

/// What was reserved by this very call.
pub(in crate::xfs) type Fresh = Range<FileBlock>;

/// Promise `count` blocks with what the tree may need for them.
fn promise(counters: &Counters, limits: &TreeLimits, count: u64) -> Result<u64> {
    let indirect = limits.worst(count);
    counters.reserve(count + indirect).map(|()| indirect)
}

impl Inode {
    /// Reserve the hole (of a data fork) at the start of what is wanted, as much of it as
    /// there is space for.
    ///
    /// # Errors
    /// There is not even space for one block.
    pub(in crate::xfs) fn reserve_hole(
        &self,
        ip: &mut LockedInode<'_>,
        wanted: &Wanted,
    ) -> Result<Fresh> {
        let start = wanted.range.start;
        let block_log = self.mount().geometry().block_log;
        let most = ((PAGES_MAX * PAGE_SIZE as u64) >> block_log).max(1);
        let end = FileBlock(wanted.range.end.0.min(start.0 + most));
        let hole = start..end.min(wanted.hole_end);
        if wanted.appends && hole.end == wanted.range.end {
            let ahead = hole.end.0 + self.blocks_ahead(ip, &hole);
            let whole = start..FileBlock(ahead).min(wanted.hole_end);
            if whole.end > hole.end && self.reserve_range(ip, ForkKind::Data, whole).is_ok() {
                ip.delayed.preallocated = true;
                return Ok(hole);
            }
        }
        self.reserve_some(ip, ForkKind::Data, hole)
    }
    /// Reserve the start of `range`: all of it, or as much as there is space for.
    ///
    /// # Errors
    /// There is not even space for one block.
    pub(in crate::xfs) fn reserve_some(
        &self,
        ip: &mut LockedInode<'_>,
        fork: ForkKind,
        range: Range<FileBlock>,
    ) -> Result<Fresh> {
        let mut count = range.end.0 - range.start.0;
        loop {
            let part = range.start..FileBlock(range.start.0 + count);
            match self.reserve_range(ip, fork, part.clone()) {
                Err(Error::NoSpace) if count > 1 => count = count.div_ceil(2),
                outcome => return outcome.map(|()| part),
            }
        }
    }
    /// Reserve all of `range`, where the fork has nothing.
    ///
    /// # Errors
    /// There is not so much space.
    pub(in crate::xfs) fn reserve_range(
        &self,
        ip: &mut LockedInode<'_>,
        fork: ForkKind,
        range: Range<FileBlock>,
    ) -> Result<()> {
        let mount = self.mount();
        let limits = mount.tree_limits();
        let count = range.end.0 - range.start.0;
        let indirect = promise(mount.counters(), &limits, count)?;
        ip.bump_sequence(fork);
        let fresh = Delalloc { offset: range.start, count, indirect };
        let surplus = ip.delayed.reserved_mut(fork).add(fresh, &limits);
        mount.counters().give_back(surplus);
        Ok(())
    }
    /// How many blocks to reserve behind `hole`, at the end of the file: as many as lie in
    /// front of it in one piece, less when space is short.
    fn blocks_ahead(&self, ip: &LockedInode<'_>, hole: &Range<FileBlock>) -> u64 {
        let mount = self.mount();
        let geometry = mount.geometry();
        let least = (AHEAD_MIN_BYTES >> geometry.block_log).max(1);
        if self.eof() < AHEAD_MIN_BYTES || ip.core.flags.contains(Flags::PREALLOC) {
            return 0;
        }
        let mut run = blocks_before(ip, hole.start) + (hole.end.0 - hole.start.0);
        if run < least {
            run = least;
        }
        let free = mount.counters().free_blocks();
        let percent = |p: u64| (u128::from(geometry.data_blocks) * u128::from(p) / 100) as u64;
        let lows = LOW_SPACE_PERCENT.iter().filter(|p| free < percent(**p)).count();
        // The first step is a quarter, each further one a half.
        let shift = if lows == 0 { 0 } else { lows as u32 + 1 };
        let mut ahead = (run.min(MAX_BLOCKS / 2) >> shift).max(1);
        ahead = 1 << ahead.ilog2();
        while ahead > 0 && ahead.saturating_mul(2) >= free {
            ahead >>= 4;
        }
        let most = (1 << 63 >> geometry.block_log) - hole.end.0;
        ahead.min(most)
    }
}

/// Blocks in front of `at` that follow each other in the file: extents or reservations.
fn blocks_before(ip: &LockedInode<'_>, at: FileBlock) -> u64 {
    let mut start = at;
    for _ in 0..16 {
        let real = list(ip, ForkKind::Data).ending_at(start).map(|e| e.offset);
        let reserved = ip.delayed.data.before(start).filter(|d| d.end() == start);
        match real.or(reserved.map(|d| d.offset)) {
            Some(before) => start = before,
            None => break,
        }
    }
    at.0 - start.0
}
