//! Changes of a fork's extents.
//!
//! All of them are one thing: what lies in a range of file blocks is replaced by a few
//! pieces, or by nothing. What reaches out of the range is cut, what touches is joined,
//! and the difference is applied as a splice.

use alloc::vec::Vec;
use core::ops::Range;

use super::tree::{self, Tree, fork_field, most_inline};
use crate::corrupt;
use crate::error::{Error, Result};
use crate::xfs::btree::Cursor;
use crate::xfs::defer::Deferred;
use crate::xfs::inode::{Fork, ForkKind};
use crate::xfs::inode_item::{LockedInode, LogFields};
use crate::xfs::ondisk::bmbt::{Extent, MAX_BLOCKS};
use crate::xfs::ondisk::inode::Flags2;
use crate::xfs::ondisk::log_intents::{MapExtent, bmap, refcount, rmap};
use crate::xfs::ondisk::superblock::{Incompat, RoCompat};
use crate::xfs::trans::Trans;
use crate::xfs::types::FileBlock;

/// Most extents of a fork whose counts are narrow: data, attributes.
const MOST_DATA: u64 = i32::MAX as u64;
const MOST_ATTR: u64 = i16::MAX as u64;
/// The same where they are wide.
const MOST_DATA_WIDE: u64 = (1 << 48) - 1;
const MOST_ATTR_WIDE: u64 = u32::MAX as u64;

/// Do two extents make one?
fn joins(left: &Extent, right: &Extent) -> bool {
    left.end() == right.offset
        && left.block_end() == right.block
        && left.unwritten == right.unwritten
        && u64::from(left.count) + u64::from(right.count) <= MAX_BLOCKS
}

/// Add an extent behind others, joined with the last if it can be.
fn push_joined(list: &mut Vec<Extent>, extent: Extent) {
    match list.last_mut() {
        Some(last) if joins(last, &extent) => last.count += extent.count,
        _ => list.push(extent),
    }
}

/// A few neighbouring extents and what is put in their place.
struct Splice {
    old: Vec<Extent>,
    new: Vec<Extent>,
}

impl Splice {
    /// That which puts `pieces` (in order, within `range`) in the place of all of `range`.
    fn plan(list: &super::ExtentList, range: &Range<FileBlock>, pieces: &[Extent]) -> Self {
        let mut old: Vec<Extent> =
            list.iter_from(range.start).take_while(|e| e.offset < range.end).copied().collect();
        let mut new = Vec::with_capacity(old.len() + pieces.len() + 2);
        if let Some(left) = list.ending_at(range.start) {
            old.insert(0, *left);
            new.push(*left);
        } else if let Some(first) = old.first().filter(|e| e.offset < range.start) {
            new.push(first.clip(first.offset..range.start));
        }
        for piece in pieces {
            push_joined(&mut new, *piece);
        }
        if let Some(last) = old.last().filter(|e| e.end() > range.end) {
            push_joined(&mut new, last.clip(range.end..last.end()));
        } else if let Some(right) = list.at(range.end) {
            old.push(*right);
            push_joined(&mut new, *right);
        }
        let same = old.iter().zip(&new).take_while(|(o, n)| o == n).count();
        old.drain(..same);
        new.drain(..same);
        let same = old.iter().rev().zip(new.iter().rev()).take_while(|(o, n)| o == n).count();
        old.truncate(old.len() - same);
        new.truncate(new.len() - same);
        Self { old, new }
    }
    const fn growth(&self) -> i64 {
        self.new.len() as i64 - self.old.len() as i64
    }
    /// Change the list in memory.
    fn apply(&self, list: &mut super::ExtentList) {
        for extent in &self.old {
            list.remove(extent.offset);
        }
        for extent in &self.new {
            list.insert(*extent);
        }
    }
    /// Change the tree.
    fn apply_to_tree(&self, tp: &mut Trans<'_>, tree: Tree<'_, '_>) -> Result<()> {
        let ino = tree.ip.ino();
        let mut cursor = Cursor::new(tree);
        let both = self.old.len().min(self.new.len());
        // In an order in which no record passes another that is still there.
        for old in self.old[both..].iter().rev() {
            find(tp, &mut cursor, old, ino)?;
            cursor.delete(tp)?;
        }
        let mut pairs: Vec<_> = self.old.iter().zip(&self.new).collect();
        if pairs.first().is_some_and(|(old, new)| new.offset > old.offset) {
            pairs.reverse();
        }
        for (old, new) in pairs {
            find(tp, &mut cursor, old, ino)?;
            cursor.update(tp, new)?;
        }
        for new in &self.new[both..] {
            cursor.insert(tp, new)?;
        }
        Ok(())
    }
}

/// Stand on the record of an extent.
fn find(
    tp: &mut Trans<'_>,
    cursor: &mut Cursor<Tree<'_, '_>>,
    extent: &Extent,
    ino: crate::xfs::types::Ino,
) -> Result<()> {
    let found = cursor.lookup_eq(tp, &extent.offset.0)? && cursor.get(tp)? == Some(*extent);
    if found {
        return Ok(());
    }
    Err(corrupt!("extent tree", ino, "{extent:?} is in memory and not in the tree").into())
}

/// How many extents a fork has.
pub(in crate::xfs) fn extent_count(ip: &LockedInode<'_>, fork: ForkKind) -> u64 {
    match fork {
        ForkKind::Data => ip.core.extents,
        ForkKind::Attr => u64::from(ip.core.attr_extents),
        ForkKind::Cow => ip.delayed.cow.len() as u64,
    }
}

/// The list of a fork that is loaded.
pub(in crate::xfs) fn list<'l>(ip: &'l LockedInode<'_>, fork: ForkKind) -> &'l super::ExtentList {
    match (fork, ip.fork(fork)) {
        (ForkKind::Cow, _) => &ip.delayed.cow,
        (_, Some(Fork::Extents(extents))) => &extents.list,
        _ => &super::NO_EXTENTS,
    }
}

/// See that a fork can have `growth` extents more, counting them in wide fields from now
/// on if need be.
fn check_count(ip: &mut LockedInode<'_>, fork: ForkKind, growth: i64) -> Result<u64> {
    let count = extent_count(ip, fork).saturating_add_signed(growth);
    let most = |wide| match (fork, wide) {
        (ForkKind::Attr, false) => MOST_ATTR,
        (ForkKind::Attr, true) => MOST_ATTR_WIDE,
        (_, false) => MOST_DATA,
        (_, true) => MOST_DATA_WIDE,
    };
    let wide = ip.core.flags2.contains(Flags2::NREXT64);
    if growth > 0 && count > most(wide) {
        let can = ip.inode().mount().geometry().incompat.contains(Incompat::NREXT64);
        if wide || !can || count > most(true) {
            return Err(Error::TooBig);
        }
        ip.core_mut().flags2 |= Flags2::NREXT64;
    }
    Ok(count)
}

/// Put `pieces` (in order, within `range`) in the place of all that a fork has in `range`.
/// Only the map changes: neither blocks nor counts of blocks nor reverse mappings do.
/// The fork is loaded. Needs [`super::TreeLimits::one_more`] blocks from `tp`.
///
/// # Errors
/// Too many extents; no space and nothing changed; those of reading the tree.
pub(super) fn replace(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    range: Range<FileBlock>,
    pieces: &[Extent],
) -> Result<()> {
    let splice = Splice::plan(list(ip, fork), &range, pieces);
    apply(tp, ip, fork, splice)
}

fn apply(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    splice: Splice,
) -> Result<()> {
    if fork == ForkKind::Cow {
        ip.bump_sequence(fork);
        splice.apply(&mut ip.delayed.cow);
        return Ok(());
    }
    let count = check_count(ip, fork, splice.growth())?;
    let fits = count <= most_inline(ip, fork);
    let Some(Fork::Extents(extents)) = ip.fork(fork) else {
        return Err(ip.inode().corrupt("it has no extents".into()));
    };
    match (extents.root.is_some(), fits) {
        (false, true) => {}
        (false, false) => {
            let mut all = extents.list.clone();
            splice.apply(&mut all);
            tree::make_tree(tp, ip, fork, &all.encode())?;
        }
        (true, _) => splice.apply_to_tree(tp, Tree { ip, fork })?,
    }
    ip.bump_sequence(fork);
    if let Some(Fork::Extents(extents)) = ip.fork_mut(fork) {
        splice.apply(&mut extents.list);
    }
    let had_tree = matches!(ip.fork(fork), Some(Fork::Extents(e)) if e.root.is_some());
    if had_tree && fits {
        let leaf = tree::only_leaf(tp, ip, fork)?;
        tree::drop_tree(tp, ip, fork, leaf);
    }
    ip.mark(fork_field(fork) | LogFields::CORE);
    let core = ip.core_mut();
    match fork {
        ForkKind::Data => core.extents = count,
        ForkKind::Attr => core.attr_extents = count as u32,
        ForkKind::Cow => {}
    }
    Ok(())
}

fn has(ip: &LockedInode<'_>, feature: RoCompat) -> bool {
    ip.inode().mount().geometry().ro_compat.contains(feature)
}

/// May the data fork share blocks?
pub(in crate::xfs) fn is_reflink(ip: &LockedInode<'_>) -> bool {
    ip.core.flags2.contains(Flags2::REFLINK)
}

/// What happens to an extent's reverse mapping.
#[derive(Clone, Copy)]
enum Reverse {
    Map,
    Unmap,
    Convert,
}

fn defer_rmap(
    tp: &mut Trans<'_>,
    ip: &LockedInode<'_>,
    fork: ForkKind,
    what: Reverse,
    extent: Extent,
) {
    if !has(ip, RoCompat::RMAPBT) {
        return;
    }
    let operation = match (what, is_reflink(ip) && fork == ForkKind::Data) {
        (Reverse::Map, false) => rmap::MAP,
        (Reverse::Map, true) => rmap::MAP_SHARED,
        (Reverse::Unmap, false) => rmap::UNMAP,
        (Reverse::Unmap, true) => rmap::UNMAP_SHARED,
        (Reverse::Convert, false) => rmap::CONVERT,
        (Reverse::Convert, true) => rmap::CONVERT_SHARED,
    };
    tp.defer(Deferred::rmap(operation, ip.ino(), fork, &extent));
}

/// Map an extent where the fork has a hole. Its blocks were allocated with
/// [`crate::xfs::alloc::Owner::Skip`], or are shared from now on.
///
/// # Errors
/// As those of [`replace`].
pub(in crate::xfs) fn map_extent(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    extent: Extent,
) -> Result<()> {
    replace(tp, ip, fork, extent.offset..extent.end(), &[extent])?;
    if fork != ForkKind::Cow {
        tree::count_blocks(ip, i64::from(extent.count));
        defer_rmap(tp, ip, fork, Reverse::Map, extent);
    }
    Ok(())
}

/// An extent is no longer counted as part of a fork.
fn forget(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, fork: ForkKind, extent: Extent) {
    tree::count_blocks(ip, -i64::from(extent.count));
    defer_rmap(tp, ip, fork, Reverse::Unmap, extent);
}

/// An extent is no longer part of a fork: give its blocks back, or this inode's share.
fn release(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, fork: ForkKind, extent: Extent) {
    forget(tp, ip, fork, extent);
    let (block, count) = (extent.block, extent.count);
    if fork == ForkKind::Data && is_reflink(ip) {
        tp.defer(Deferred::refcount(refcount::DECREASE, block, count));
    } else {
        // Its reverse mapping has gone already.
        let owner = crate::xfs::alloc::Owner::Skip;
        tp.defer(Deferred::Free { block, count, owner });
    }
}

/// Make file blocks `range` of a fork a hole, from its end backwards, as far as
/// `most_extents` extents reach. Is there nothing left? Blocks are given back by deferred
/// operations. The fork is loaded.
///
/// # Errors
/// As those of [`replace`].
pub(in crate::xfs) fn unmap(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    range: Range<FileBlock>,
    most_extents: u32,
) -> Result<bool> {
    for extent in take_out(tp, ip, fork, &range, most_extents)? {
        release(tp, ip, fork, extent);
    }
    let rest = list(ip, fork).at_or_after(range.start);
    Ok(rest.is_none_or(|e| e.offset >= range.end))
}

/// Take the last extents out of `range` of a fork.
fn take_out(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    range: &Range<FileBlock>,
    most_extents: u32,
) -> Result<Vec<Extent>> {
    let mut gone: Vec<Extent> = Vec::new();
    let mut at = range.end;
    let extents = list(ip, fork);
    while gone.len() < most_extents as usize && at > range.start {
        let last = extents.at(FileBlock(at.0 - 1)).or_else(|| extents.before(at));
        let Some(extent) = last.filter(|e| e.end() > range.start) else { break };
        let part = extent.clip(range.clone());
        at = part.offset;
        gone.push(part);
    }
    if let (Some(first), Some(last)) = (gone.last(), gone.first()) {
        replace(tp, ip, fork, first.offset..last.end(), &[])?;
    }
    Ok(gone)
}

/// Carry out a deferred change of a file's extents; what is left of it. Only the map
/// changes: the blocks' references are counted by operations of their own.
///
/// # Errors
/// As those of [`replace`]; an extent where one is to be mapped.
pub(in crate::xfs) fn finish_deferred(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    op: &MapExtent,
) -> Result<Option<MapExtent>> {
    let fork = if op.flags & bmap::ATTR_FORK != 0 { ForkKind::Attr } else { ForkKind::Data };
    ip.load(fork)?;
    let extent = Extent {
        offset: FileBlock(op.offset),
        block: op.start,
        count: op.blocks,
        unwritten: op.flags & bmap::UNWRITTEN != 0,
    };
    let range = extent.offset..extent.end();
    if op.flags & bmap::OPERATION == bmap::MAP {
        if list(ip, fork).at_or_after(range.start).is_some_and(|e| e.offset < range.end) {
            let reason = alloc::format!("file block {} is mapped already", op.offset);
            return Err(ip.inode().corrupt(reason));
        }
        map_extent(tp, ip, fork, extent)?;
        return Ok(None);
    }
    let mut rest = range.end;
    for gone in take_out(tp, ip, fork, &range, 1)? {
        rest = gone.offset;
        forget(tp, ip, fork, gone);
    }
    let left = list(ip, fork).at_or_after(range.start).is_some_and(|e| e.offset < rest);
    Ok(left.then(|| MapExtent { blocks: (rest.0 - op.offset) as u32, ..*op }))
}

/// Make part of one extent of the data fork unwritten, or written.
///
/// # Errors
/// As those of [`replace`].
pub(super) fn convert(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    part: Extent,
    unwritten: bool,
) -> Result<()> {
    let after = Extent { unwritten, ..part };
    replace(tp, ip, ForkKind::Data, part.offset..part.end(), &[after])?;
    defer_rmap(tp, ip, ForkKind::Data, Reverse::Convert, after);
    Ok(())
}

/// Put other blocks in the place of all that the data fork has in the extent's range,
/// where nothing is reserved: what was there is given back. At most a few extents.
///
/// # Errors
/// As those of [`replace`].
pub(in crate::xfs) fn remap(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    extent: Extent,
) -> Result<()> {
    let range = extent.offset..extent.end();
    debug_assert!(!ip.delayed.data.touches(&range), "{}: {extent:?} over a reservation", ip.ino());
    let before: Vec<Extent> = list(ip, ForkKind::Data)
        .iter_from(range.start)
        .take_while(|e| e.offset < range.end)
        .map(|e| e.clip(range.clone()))
        .collect();
    replace(tp, ip, ForkKind::Data, range, &[extent])?;
    for old in before {
        release(tp, ip, ForkKind::Data, old);
    }
    tree::count_blocks(ip, i64::from(extent.count));
    defer_rmap(tp, ip, ForkKind::Data, Reverse::Map, extent);
    Ok(())
}

/// Move an extent of the data fork to another place in the file. All between the two
/// places is a hole, with nothing reserved.
///
/// # Errors
/// As those of [`replace`].
pub(in crate::xfs) fn move_extent(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    extent: Extent,
    offset: FileBlock,
) -> Result<()> {
    let moved = Extent { offset, ..extent };
    let range = extent.offset.min(offset)..extent.end().max(moved.end());
    debug_assert!(!ip.delayed.data.touches(&range), "{}: {moved:?} over a reservation", ip.ino());
    replace(tp, ip, ForkKind::Data, range, &[moved])?;
    defer_rmap(tp, ip, ForkKind::Data, Reverse::Unmap, extent);
    defer_rmap(tp, ip, ForkKind::Data, Reverse::Map, moved);
    Ok(())
}

/// Make two extents of the one in the data fork that covers `block`, if it does not start
/// there.
///
/// # Errors
/// As those of [`replace`].
pub(in crate::xfs) fn split_extent(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    block: FileBlock,
) -> Result<()> {
    let whole = list(ip, ForkKind::Data).at(block).filter(|e| e.offset < block).copied();
    let Some(whole) = whole else { return Ok(()) };
    let new = alloc::vec![whole.clip(whole.offset..block), whole.clip(block..whole.end())];
    apply(tp, ip, ForkKind::Data, Splice { old: alloc::vec![whole], new })
}
