//! Blocks for a fork: where they shall lie, how many at once, and how what was only
//! reserved becomes real.

use alloc::vec::Vec;
use core::ops::Range;

use super::change::{list, map_extent};
use super::reserved::TreeLimits;
use super::tree::most_inline;
use crate::error::{Error, Result};
use crate::xfs::alloc::{self as space, AllocRequest, Use};
use crate::xfs::inode::{Fork, ForkKind, Inode};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::bmbt::{BmbtRoot, Extent, MAX_BLOCKS};
use crate::xfs::refcount;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber, FileBlock, FileType, FsBlock};

impl Mount {
    /// How many blocks extent trees can need.
    pub(in crate::xfs) fn tree_limits(&self) -> TreeLimits {
        self.tree_limits
    }
    /// Start a transaction that changes the extents of a file and must not fail for lack
    /// of space: what it makes of blocks that exist frees some, or keeps a promise. If
    /// there is no block left to be promised, the `blocks` come from those kept back for
    /// the trees of free space.
    ///
    /// # Errors
    /// As [`Mount::begin`], but for a lack of space.
    pub(in crate::xfs) fn begin_change(&self, blocks: u64) -> Result<Trans<'_>> {
        self.begin_or_full(self.reservations().write, blocks, blocks)
    }
}

/// Blocks that one extent more can cost this fork's tree as it is now.
pub(super) fn one_more(ip: &LockedInode<'_>, fork: ForkKind) -> u64 {
    let Some(Fork::Extents(extents)) = ip.fork(fork) else { return 0 };
    match &extents.root {
        // A change can make two extents of one, or three.
        None if extents.list.len() as u64 + 2 <= most_inline(ip, fork) => 0,
        None => 1,
        Some(root) => BmbtRoot::decode(root).map_or(0, |root| u64::from(root.level) + 1),
    }
}

/// A block near which an inode's first block shall lie: its own.
pub(super) fn inode_block(ip: &LockedInode<'_>) -> FsBlock {
    let geometry = ip.inode().mount().geometry();
    let place = geometry.locate_inode(ip.ino());
    let (ag, block, _) = place.unwrap_or((AgNumber(0), AgBlock(0), 0));
    geometry.fs_block(ag, block)
}

/// Where a block at `at` would lie best: behind the extent before it, in front of the
/// one behind it, or near the inode.
fn hint(ip: &LockedInode<'_>, fork: ForkKind, at: FileBlock) -> FsBlock {
    let geometry = ip.inode().mount().geometry();
    let extents = list(ip, fork);
    let within = |from: FsBlock, block: u64| {
        (geometry.split(from).0 == geometry.split(FsBlock(block)).0
            && geometry.has_blocks(FsBlock(block), 1))
        .then_some(FsBlock(block))
    };
    let before = extents.before(at).and_then(|left| {
        let gap = at.0 - left.end().0;
        within(left.block, left.block_end().0 + gap).or_else(|| within(left.block, left.block.0))
    });
    let after = || {
        let right = extents.at_or_after(at)?;
        let gap = right.offset.0 - at.0;
        within(right.block, right.block.0.checked_sub(gap)?)
            .or_else(|| within(right.block, right.block.0))
    };
    let original = || {
        // A copy lies best beside what it is a copy of.
        (fork == ForkKind::Cow).then(|| list(ip, ForkKind::Data).at(at).map(|e| e.block))?
    };
    before.or_else(original).or_else(after).unwrap_or_else(|| inode_block(ip))
}

/// The alignment that a stripe asks of `count` blocks at `at`.
fn alignment(ip: &LockedInode<'_>, fork: ForkKind, at: FileBlock, count: u64) -> u32 {
    let unit = ip.inode().mount().geometry().stripe_unit_blocks;
    let wanted = unit > 1
        && fork == ForkKind::Data
        && ip.inode().file_type() == FileType::Regular
        && count >= u64::from(unit)
        && at.0.is_multiple_of(u64::from(unit))
        && list(ip, fork).ending_at(at).is_none();
    if wanted { unit } else { 1 }
}

/// Take up to `count` blocks for file block `at` of a fork, in one piece, and map them.
/// The fork is loaded and has a hole there. `None`: there is no space, and nothing changed.
///
/// # Errors
/// Those of the allocator and of [`map_extent`].
pub(super) fn allocate_one(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    at: FileBlock,
    count: u64,
    unwritten: bool,
    kind: Use,
) -> Result<Option<Extent>> {
    let most = count.min(MAX_BLOCKS) as u32;
    let near = hint(ip, fork, at);
    let mut request = AllocRequest::data(near, most);
    request.kind = kind;
    request.align = alignment(ip, fork, at, count);
    request.total = most.saturating_add(one_more(ip, fork) as u32);
    let mut found = space::allocate(tp, &request)?;
    if found.is_none() && request.align > 1 {
        request.align = 1;
        found = space::allocate(tp, &request)?;
    }
    let Some(got) = found else { return Ok(None) };
    let extent = Extent { offset: at, block: got.block, count: got.count, unwritten };
    map_extent(tp, ip, fork, extent)?;
    if fork == ForkKind::Cow {
        // A crash shall not lose blocks that are part of no file yet.
        refcount::stage_cow(tp, extent.block, extent.count);
    }
    Ok(Some(extent))
}

/// Allocate `count` blocks for file block `at` of a fork and map them as written: for
/// directories, attributes and symbolic links, which fill them in the same transaction.
/// `kind` is [`Use::Data`] for what is written past the log. The fork has a hole there.
/// Needs `count` blocks from `tp`, and what [`TreeLimits::worst`] says for `count`.
///
/// # Errors
/// [`Error::NoSpace`]; those of the allocator and of the tree.
pub fn allocate_blocks(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    at: FileBlock,
    count: u64,
    kind: Use,
) -> Result<Vec<Extent>> {
    ip.load(fork)?;
    let mut got = Vec::new();
    let end = at.0 + count;
    let mut next = at.0;
    while next < end {
        let extent = allocate_one(tp, ip, fork, FileBlock(next), end - next, false, kind)?
            .ok_or(Error::NoSpace)?;
        next = extent.end().0;
        got.push(extent);
    }
    Ok(got)
}

/// Give the transaction what the delalloc extent at `at` has in reserve, allocate from
/// its start, and leave what is needed for the rest with it.
fn convert_front(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    at: FileBlock,
) -> Result<Option<Extent>> {
    let Some(d) = ip.delayed.reserved(fork).at(at) else { return Ok(None) };
    let mount = tp.mount();
    // Rarely, ranges that were cut hold less in reserve than a change needs.
    let short = one_more(ip, fork).saturating_sub(d.indirect);
    if mount.counters().reserve(short).is_err() {
        mount.counters().withhold(short);
    }
    tp.add_reserved(d.count + d.indirect + short);
    let got = match allocate_one(tp, ip, fork, d.offset, d.count, true, Use::Data) {
        Ok(Some(got)) => got,
        other => {
            tp.take_reserved(d.count + d.indirect);
            return other.and(Err(Error::NoSpace));
        }
    };
    let rest = d.count - u64::from(got.count);
    let wanted = if rest == 0 { 0 } else { mount.tree_limits().worst(rest) };
    let kept = tp.take_reserved(rest + wanted.min(d.indirect));
    let indirect = kept.saturating_sub(rest);
    ip.delayed.reserved_mut(fork).shorten(d.offset, u64::from(got.count), indirect);
    Ok(Some(got))
}

impl Inode {
    /// Make the delalloc extent of a fork that covers `at` real: all of it, as unwritten,
    /// in as few transactions as it takes pieces. If there is none, somebody else did it.
    ///
    /// # Errors
    /// Those of transactions and the allocator. A lack of space is none of them, unless
    /// free blocks that the counters promise do not exist.
    pub(in crate::xfs) fn allocate_delalloc(&self, fork: ForkKind, at: FileBlock) -> Result<()> {
        let mount = self.mount();
        let mut at = at;
        let mut end = None;
        loop {
            let mut tp = mount.begin(mount.reservations().write, 0)?;
            let mut ip = self.lock_exclusive();
            ip.load(ForkKind::Data)?;
            let Some(d) = ip.delayed.reserved(fork).at(at) else { return Ok(()) };
            let stop = *end.get_or_insert(d.end());
            let Some(got) = convert_front(&mut tp, &mut ip, fork, at)? else { return Ok(()) };
            tp.commit(&mut [&mut ip])?;
            // The first piece starts where the extent does, the next ones follow.
            if got.end() >= stop {
                return Ok(());
            }
            at = got.end();
        }
    }
    /// Allocate unwritten blocks in the holes of file blocks `range`, at least at its
    /// start. Returns where the first blocks end.
    ///
    /// # Errors
    /// No space; those of transactions and the allocator.
    pub(in crate::xfs) fn allocate_hole(&self, range: Range<FileBlock>) -> Result<FileBlock> {
        let mount = self.mount();
        let wanted = (range.end.0 - range.start.0).min(MAX_BLOCKS);
        let tree = mount.tree_limits().one_more();
        let (mut tp, most) = self.begin_allocation(wanted, tree)?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        let hole = hole_at(&ip, range.start, FileBlock(range.start.0 + most));
        if hole.is_empty() {
            return Ok(range.start);
        }
        let count = hole.end.0 - hole.start.0;
        let fork = ForkKind::Data;
        let got = allocate_one(&mut tp, &mut ip, fork, hole.start, count, true, Use::Data)?
            .ok_or(Error::NoSpace)?;
        tp.commit(&mut [&mut ip])?;
        Ok(got.end())
    }
    /// A transaction with `wanted` blocks, or with as many as there are.
    fn begin_allocation(&self, wanted: u64, tree: u64) -> Result<(Trans<'_>, u64)> {
        let mount = self.mount();
        let mut most = wanted;
        loop {
            match mount.begin(mount.reservations().write, most + tree) {
                Ok(tp) => return Ok((tp, most)),
                Err(Error::NoSpace) if most > 1 => most /= 2,
                Err(e) => return Err(e),
            }
        }
    }
}

/// The hole at `start`, as far as `end`; empty if something is there.
pub(super) fn hole_at(ip: &LockedInode<'_>, start: FileBlock, end: FileBlock) -> Range<FileBlock> {
    let real = list(ip, ForkKind::Data).at_or_after(start).map_or(end, |e| e.offset);
    let reserved = ip.delayed.data.at_or_after(start).map_or(end, |d| d.offset);
    start..end.min(real).min(reserved).max(start)
}
