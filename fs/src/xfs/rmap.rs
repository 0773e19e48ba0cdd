//! Reverse mappings: who owns which blocks.
//!
//! The tree of a group lists every extent in use with its owner: an inode's fork and the
//! place in the file, or a structure of the group. Extents of different owners overlap
//! where blocks are shared. Neighbours of one owner that continue each other are one
//! record; `xfs_repair` insists on that.
//!
//! An extent's record is found by its owner and place, whatever else overlaps it: the tree
//! is searched by the high keys of its nodes.
//!
//! Owns: the records. Does not own: the tree's blocks (from the AGFL). The group's AGF is
//! locked by the transaction.

use alloc::vec;

use super::alloc::{Owner, freelist};
use super::btree::{Cursor, Pointers, Root, Shape};
use super::inode::ForkKind;
use super::ondisk::agf;
use super::ondisk::block::BlockKind;
use super::ondisk::btree::{Record, ShortBlock};
use super::ondisk::log_intents::{MapExtent, rmap as operation};
use super::ondisk::rmapbt::{ATTR_FORK, BMBT_BLOCK, OFFSET_MASK, Rmap, UNWRITTEN, owner};
use super::ondisk::superblock::RoCompat;
use super::perag::AgfTree;
use super::trans::Trans;
use super::types::{AgBlock, AgNumber};
use crate::error::{Corruption, Error, Result};

/// Where the AGF keeps the tree.
const IN_AGF: AgfTree = AgfTree { root_at: 24, levels_at: 36, blocks_at: 80 };

/// The tree of a group.
struct Tree {
    ag: AgNumber,
}

impl Shape for Tree {
    type Record = Rmap;
    const POINTERS: Pointers = Pointers::Short;
    fn kind(&self) -> BlockKind {
        BlockKind::Rmapbt
    }
    fn owner(&self) -> u64 {
        u64::from(self.ag.0)
    }
    fn root(&self, tp: &mut Trans<'_>) -> Result<Root> {
        IN_AGF.root(tp, self.ag)
    }
    fn set_root(&mut self, tp: &mut Trans<'_>, block: u64, levels: u32) -> Result<()> {
        IN_AGF.set_root(tp, self.ag, block, levels)
    }
    fn allocate(&mut self, tp: &mut Trans<'_>, _near: u64) -> Result<Option<u64>> {
        let Some(block) = freelist::take(tp, self.ag)? else { return Ok(None) };
        IN_AGF.count(tp, self.ag, 1)?;
        Ok(Some(u64::from(block.0)))
    }
    fn free(&mut self, tp: &mut Trans<'_>, block: u64) -> Result<()> {
        freelist::give(tp, self.ag, AgBlock(block as u32))?;
        IN_AGF.count(tp, self.ag, -1)
    }
}

/// Does the file system keep reverse mappings?
pub(super) fn enabled(tp: &Trans<'_>) -> bool {
    tp.mount().geometry().ro_compat.contains(RoCompat::RMAPBT)
}

fn damage(ag: AgNumber, block: u32, reason: &str) -> Error {
    Corruption {
        structure: "rmapbt",
        location: alloc::format!("AG {} block {block}", ag.0),
        reason: reason.into(),
    }
    .into()
}

/// Owner and offset field of a record; nothing if none is kept.
fn identity(owner: &Owner) -> Option<(u64, u64)> {
    let fork_flag = |fork: &ForkKind| if *fork == ForkKind::Attr { ATTR_FORK } else { 0 };
    Some(match owner {
        Owner::Inode { ino, fork, offset } => (ino.0, (offset & OFFSET_MASK) | fork_flag(fork)),
        Owner::BmbtBlock { ino, fork } => (ino.0, BMBT_BLOCK | fork_flag(fork)),
        Owner::Ag => (owner::AG, 0),
        Owner::Inobt => (owner::INOBT, 0),
        Owner::InodeChunk => (owner::INODES, 0),
        Owner::Refcountbt => (owner::REFCOUNTBT, 0),
        Owner::Cow => (owner::COW, 0),
        Owner::Skip => return None,
        Owner::Any => (owner::UNKNOWN, 0),
    })
}

/// Blocks got an owner.
///
/// # Errors
/// I/O errors and damage.
pub(super) fn insert_owner(
    tp: &mut Trans<'_>,
    ag: AgNumber,
    start: AgBlock,
    count: u32,
    owner: &Owner,
) -> Result<()> {
    match identity(owner) {
        Some((owner, offset)) if enabled(tp) => {
            map(tp, ag, &Rmap { start: start.0, count, owner, offset })
        }
        _ => Ok(()),
    }
}

/// Blocks lost their owner.
///
/// # Errors
/// I/O errors; damage, which includes that it was not theirs.
pub(super) fn remove_owner(
    tp: &mut Trans<'_>,
    ag: AgNumber,
    start: AgBlock,
    count: u32,
    owner: &Owner,
) -> Result<()> {
    match identity(owner) {
        Some((owner::UNKNOWN, _)) if enabled(tp) => remove_any(tp, ag, start.0, count),
        Some((owner, offset)) if enabled(tp) => {
            unmap(tp, ag, &Rmap { start: start.0, count, owner, offset })
        }
        _ => Ok(()),
    }
}

/// Carry out a deferred change. What is shared and what is not is treated alike.
///
/// # Errors
/// I/O errors and damage.
pub fn finish(tp: &mut Trans<'_>, extent: &MapExtent) -> Result<()> {
    let (ag, start) = tp.mount().geometry().split(extent.start);
    tp.lock_agf(ag);
    freelist::fill(tp, ag)?;
    let mut offset = extent.offset & OFFSET_MASK;
    for (flag, bit) in [
        (operation::ATTR_FORK, ATTR_FORK),
        (operation::BMBT_BLOCK, BMBT_BLOCK),
        (operation::UNWRITTEN, UNWRITTEN),
    ] {
        if extent.flags & flag != 0 {
            offset |= bit;
        }
    }
    let record = Rmap { start: start.0, count: extent.blocks, owner: extent.owner, offset };
    match extent.flags & operation::OPERATION {
        operation::MAP | operation::MAP_SHARED | operation::ALLOC => map(tp, ag, &record),
        operation::UNMAP | operation::UNMAP_SHARED | operation::FREE => unmap(tp, ag, &record),
        operation::CONVERT | operation::CONVERT_SHARED => {
            // The intent says what it is to become.
            unmap(tp, ag, &Rmap { offset: offset ^ UNWRITTEN, ..record })?;
            map(tp, ag, &record)
        }
        _ => Err(damage(ag, start.0, "an unknown operation")),
    }
}

/// Are these of one owner and state, so that neighbours make one record?
const fn alike(a: &Rmap, b: &Rmap) -> bool {
    a.owner == b.owner && a.offset & !OFFSET_MASK == b.offset & !OFFSET_MASK
}

/// The place in the file `further` blocks behind a record's start.
const fn offset_at(record: &Rmap, further: u64) -> u64 {
    if record.has_offset() { record.offset.wrapping_add(further) } else { record.offset }
}

fn map(tp: &mut Trans<'_>, ag: AgNumber, new: &Rmap) -> Result<()> {
    let at_start = new.has_offset() && new.offset & OFFSET_MASK == 0;
    let mut left = None;
    if new.start > 0 && !at_start {
        let before = if new.has_offset() { new.offset - 1 } else { new.offset };
        let wanted = Rmap { start: new.start - 1, count: 1, owner: new.owner, offset: before };
        left = find(tp, ag, &wanted)?.filter(|r| r.end() == u64::from(new.start));
    }
    let behind = Rmap {
        start: new.start + new.count,
        count: 1,
        owner: new.owner,
        offset: offset_at(new, new.count.into()),
    };
    let right = find(tp, ag, &behind)?.filter(|r| r.start == behind.start);
    let mut cursor = Cursor::new(Tree { ag });
    let mut whole = *new;
    if let Some(right) = right {
        delete(tp, &mut cursor, &right)?;
        whole.count += right.count;
    }
    if let Some(left) = left {
        whole = Rmap { count: left.count + whole.count, ..left };
        if !cursor.lookup_eq(tp, &left.key())? {
            return Err(damage(ag, left.start, "a record is not where it was"));
        }
        return cursor.update(tp, &whole);
    }
    cursor.insert(tp, &whole)
}

fn unmap(tp: &mut Trans<'_>, ag: AgNumber, gone: &Rmap) -> Result<()> {
    let end = u64::from(gone.start) + u64::from(gone.count);
    let whole = find(tp, ag, &Rmap { count: 1, ..*gone })?.filter(|r| r.end() >= end);
    let Some(whole) = whole else {
        let reason =
            alloc::format!("no record of {} blocks of owner {:#x}", gone.count, gone.owner);
        return Err(damage(ag, gone.start, &reason));
    };
    cut(tp, ag, &whole, gone.start, gone.count)
}

/// Take blocks out of a record.
fn cut(tp: &mut Trans<'_>, ag: AgNumber, whole: &Rmap, start: u32, count: u32) -> Result<()> {
    let mut cursor = Cursor::new(Tree { ag });
    let front = start - whole.start;
    let back = whole.end() - (u64::from(start) + u64::from(count));
    if front > 0 {
        if !cursor.lookup_eq(tp, &whole.key())? {
            return Err(damage(ag, whole.start, "a record is not where it was"));
        }
        cursor.update(tp, &Rmap { count: front, ..*whole })?;
    } else {
        delete(tp, &mut cursor, whole)?;
    }
    if back > 0 {
        let further = u64::from(front) + u64::from(count);
        cursor.insert(
            tp,
            &Rmap {
                start: start + count,
                count: back as u32,
                owner: whole.owner,
                offset: offset_at(whole, further),
            },
        )?;
    }
    Ok(())
}

fn delete(tp: &mut Trans<'_>, cursor: &mut Cursor<Tree>, record: &Rmap) -> Result<()> {
    if !cursor.lookup_eq(tp, &record.key())? {
        let ag = cursor.shape().ag;
        return Err(damage(ag, record.start, "a record is not where it was"));
    }
    cursor.delete(tp)
}

/// Remove whatever record covers these blocks, if one does: recovery does not know whose
/// they were, and the record may be gone already.
fn remove_any(tp: &mut Trans<'_>, ag: AgNumber, start: u32, count: u32) -> Result<()> {
    let end = u64::from(start) + u64::from(count);
    let covers = |r: &Rmap| r.start <= start && r.end() >= end;
    match search(tp, ag, start, &covers)? {
        Some(whole) => cut(tp, ag, &whole, start, count),
        None => Ok(()),
    }
}

/// The record of the wanted owner, fork and state that covers the wanted block at the
/// wanted place in the file.
fn find(tp: &mut Trans<'_>, ag: AgNumber, wanted: &Rmap) -> Result<Option<Rmap>> {
    search(tp, ag, wanted.start, &|r| {
        let further = u64::from(wanted.start - r.start);
        alike(r, wanted) && offset_at(r, further) == wanted.offset
    })
}

/// A record that covers `block` and that `wanted` accepts: goes down wherever the keys of
/// a node say that the block may be covered.
fn search(
    tp: &mut Trans<'_>,
    ag: AgNumber,
    block: u32,
    wanted: &dyn Fn(&Rmap) -> bool,
) -> Result<Option<Rmap>> {
    let Root::Block { block: root, levels } = (Tree { ag }).root(tp)? else { return Ok(None) };
    let geometry = tp.mount().geometry();
    let mut pending = vec![(AgBlock(root as u32), levels)];
    while let Some((at, levels)) = pending.pop() {
        if levels == 0 || levels > agf::MAX_LEVELS || !geometry.has_ag_block(ag, at) {
            return Err(damage(ag, at.0, "the tree leads nowhere"));
        }
        let buffer = tp.read_block(geometry.fs_block(ag, at), BlockKind::Rmapbt)?;
        let bytes = buffer.read();
        let Some(node) = ShortBlock::new(&bytes) else { continue };
        if node.level() + 1 != levels {
            return Err(damage(ag, at.0, "a block is at the wrong level"));
        }
        for i in 0..node.count() {
            if levels == 1 {
                let found = node
                    .record::<Rmap>(i)
                    .filter(|r| r.start <= block && r.end() > u64::from(block) && wanted(r));
                if found.is_some() {
                    return Ok(found);
                }
            } else if let Some((low, high)) = node.key_range(i)
                && low <= block
                && high >= block
                && let Some(child) = node.child::<Rmap>(i)
            {
                pending.push((AgBlock(child), levels - 1));
            }
        }
    }
    Ok(None)
}
