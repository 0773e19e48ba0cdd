//! Which group, which chunk, which inode.

use alloc::format;

use holdfast_sync::atomic::Ordering;

use super::tree::{InodeTree, Trees, inobt, most_levels};
use super::{Header, chunk, has_finobt, has_sparse, split_ino};
use crate::error::{Error, Result};
use crate::xfs::btree::Cursor;
use crate::xfs::geometry::{Geometry, INODES_PER_CHUNK};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::agi;
use crate::xfs::ondisk::inobt::Chunk;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgNumber, Ino};

/// Chunks to either side of the parent that are looked at where there is no finobt.
const SEARCH_DISTANCE: usize = 10;

/// Blocks that allocating an inode may take: a chunk, and the growth of the trees.
pub(in crate::xfs) fn space_for_allocation(geometry: &Geometry) -> u64 {
    let trees = if has_finobt(geometry) { 2 } else { 1 };
    u64::from(geometry.chunk_blocks()) + trees * most_levels(geometry)
}

/// How hard to try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Try {
    /// Only groups that nobody is at work in and that have ample room.
    Easy,
    /// Any group that may do.
    Hard,
}

/// Take an inode that is not in use: for a directory in the group whose turn it is, for
/// anything else near its parent. If there are none new ones are made, should the chunks
/// `grow`: then the transaction may roll; `inodes` stay locked.
///
/// # Errors
/// No space; I/O errors, damage, shut down.
pub(in crate::xfs) fn allocate(
    tp: &mut Trans<'_>,
    parent: Ino,
    directory: bool,
    grow: bool,
    inodes: &mut [&mut LockedInode<'_>],
) -> Result<Ino> {
    let mount = tp.mount();
    let count = mount.geometry().ag_count;
    let (home, _) = split_ino(mount.geometry(), parent)?;
    let start = match directory {
        true => mount.ialloc.rotor.fetch_add(1, Ordering::Relaxed) % count,
        false => home.0,
    };
    for how in [Try::Easy, Try::Hard] {
        for i in 0..count {
            let ag = AgNumber((start + i) % count);
            if !promises(mount, ag, how) || !lock(tp, ag, how, inodes)? {
                continue;
            }
            if let Some(ino) = allocate_in(tp, ag, parent, grow, inodes)? {
                return Ok(ino);
            }
        }
    }
    Err(Error::NoSpace)
}

/// May there be more inodes, as the limit that mkfs set for them says?
fn room_for_chunk(mount: &Mount) -> bool {
    let geometry = mount.geometry();
    let percent = u64::from(geometry.inode_max_percent);
    if percent == 0 {
        return true;
    }
    let chunk = u64::from(geometry.chunk_blocks());
    // The product might be too large.
    let (hundreds, rest) = (geometry.data_blocks / 100, geometry.data_blocks % 100);
    let blocks = hundreds.saturating_mul(percent).saturating_add(rest * percent / 100);
    let most = (blocks / chunk * chunk) << (geometry.block_log - geometry.inode_log);
    mount.counters().inodes() + u64::from(INODES_PER_CHUNK) <= most
}

/// Is it worth while to lock this group? Nothing is locked: its state may change. So its
/// headers are not read, which belong to whoever has the group locked and need not fit
/// together before that one is done:
///
/// ```text
/// A (makes a chunk, AGI and AGF locked)      B (here)
/// takes blocks: fewer are free in the AGF
///                                            reads the AGF: fewer blocks are free than
///                                            the longest run has: "damage", EIO
/// finds the longest run that is left
/// ```
fn promises(mount: &Mount, ag: AgNumber, how: Try) -> bool {
    if mount.ialloc.group(ag).free.load(Ordering::Relaxed) > 0 {
        return true;
    }
    if !room_for_chunk(mount) {
        return false;
    }
    let geometry = mount.geometry();
    let mut wanted = match has_sparse(geometry) {
        true => geometry.sparse_align_blocks,
        false => geometry.chunk_blocks(),
    };
    if how == Try::Easy {
        wanted = geometry.chunk_blocks() + geometry.inode_align_blocks;
    }
    let space = mount.space_of(ag);
    space.longest >= wanted && space.free > wanted
}

/// Lock a group's inodes. What another group's search left behind goes to the log first:
/// groups are locked in their order or not at all.
fn lock(
    tp: &mut Trans<'_>,
    ag: AgNumber,
    how: Try,
    inodes: &mut [&mut LockedInode<'_>],
) -> Result<bool> {
    if how == Try::Easy {
        return Ok(tp.try_lock_agi(ag));
    }
    if !tp.try_lock_agi(ag) {
        if tp.is_dirty() || tp.highest_agf().is_some() {
            tp.roll(inodes)?;
        }
        tp.lock_agi(ag);
    }
    Ok(true)
}

/// Take an inode in this group, whose AGI is locked; afterwards it is not if there is none.
///
/// Who makes a chunk commits that first, and nothing is locked for a while. One of the new
/// inodes is set aside for him: others would otherwise take them all, or take one, give it
/// back and the chunk with it, and to make a second chunk he has no blocks.
fn allocate_in(
    tp: &mut Trans<'_>,
    ag: AgNumber,
    parent: Ino,
    grow: bool,
    inodes: &mut [&mut LockedInode<'_>],
) -> Result<Option<Ino>> {
    let mut header = Header::read(tp, ag)?;
    if header.unclaimed(tp.mount()) == 0 {
        let grown = grow && room_for_chunk(tp.mount()) && chunk::add(tp, &header)?;
        if grown {
            header.claim(tp.mount());
        }
        if tp.is_dirty() {
            // The new chunk stays whatever becomes of the rest; and no log space that the
            // rest needs is taken by it.
            tp.roll(inodes)?;
        } else {
            tp.unlock_agf(ag);
            tp.unlock_agi(ag);
        }
        if !grown {
            return Ok(None);
        }
        tp.lock_agi(ag);
        tp.mount().ialloc.group(ag).end_claim();
        header = Header::read(tp, ag)?;
    }
    take(tp, &header, parent).map(Some)
}

/// Take an inode of a group that has free ones.
fn take(tp: &mut Trans<'_>, header: &Header, parent: Ino) -> Result<Ino> {
    let geometry = tp.mount().geometry();
    let (home, agino) = split_ino(geometry, parent)?;
    let near = (home == header.ag).then_some(agino);
    let mut trees = header.trees(tp);
    let Trees { all, free: some_free } = &mut trees;
    let mut chunk = match some_free {
        Some(tree) => {
            let chunk = find_free(tp, header, tree, near)?;
            let same = all.lookup_eq(tp, &chunk.start)?;
            if !same || all.get(tp)? != Some(chunk.record(has_sparse(geometry))) {
                let start = chunk.start;
                return Err(header.corrupt(tp, format!("the trees differ on chunk {start}")));
            }
            chunk
        }
        None => find_any(tp, header, all, near)?,
    };
    let Some(index) = chunk.first_free() else {
        return Err(header.corrupt(tp, format!("no inode of chunk {} is free", chunk.start)));
    };
    chunk.take(index);
    let record = chunk.record(has_sparse(geometry));
    all.update(tp, &record)?;
    if let Some(tree) = some_free {
        if chunk.free_count == 0 { tree.delete(tp)? } else { tree.update(tp, &record)? }
    }
    header.keep(tp, trees);
    header.add(tp, 0, -1);
    Ok(geometry.ino(header.ag, chunk.start + index))
}

/// The checked record that a cursor stands on.
fn current(
    tp: &mut Trans<'_>,
    header: &Header,
    tree: &mut Cursor<InodeTree>,
) -> Result<Option<Chunk>> {
    match tree.get(tp)? {
        Some(raw) => header.check(tp, &raw).map(Some),
        None => Ok(None),
    }
}

/// The chunk with free inodes that is closest to `near`, or one allocated lately.
fn find_free(
    tp: &mut Trans<'_>,
    header: &Header,
    tree: &mut Cursor<InodeTree>,
    near: Option<u32>,
) -> Result<Chunk> {
    let none = "there is no chunk with a free inode";
    let Some(near) = near else {
        let newest = header.get(agi::at::NEW_INO);
        if !tree.lookup_eq(tp, &newest)? && !tree.first(tp)? {
            return Err(header.corrupt(tp, none.into()));
        }
        return match current(tp, header, tree)? {
            Some(chunk) => Ok(chunk),
            None => Err(header.corrupt(tp, none.into())),
        };
    };
    let left = match tree.lookup_le(tp, &near)? {
        true => current(tp, header, tree)?,
        false => None,
    };
    if let Some(chunk) = left
        && near < chunk.start + INODES_PER_CHUNK
    {
        return Ok(chunk);
    }
    let right = match tree.next(tp)? {
        true => current(tp, header, tree)?,
        false => None,
    };
    match (left, right) {
        (Some(l), Some(r)) if near - (l.start + INODES_PER_CHUNK - 1) <= r.start - near => {
            tree.previous(tp)?;
            Ok(l)
        }
        (_, Some(r)) => Ok(r),
        (Some(l), None) => {
            tree.previous(tp)?;
            Ok(l)
        }
        (None, None) => Err(header.corrupt(tp, none.into())),
    }
}

/// As [`find_free`], in the tree of all chunks: close to `near` if there is one within
/// reach, then the one allocated last, then any.
fn find_any(
    tp: &mut Trans<'_>,
    header: &Header,
    tree: &mut Cursor<InodeTree>,
    near: Option<u32>,
) -> Result<Chunk> {
    if let Some(near) = near
        && let Some(chunk) = search_around(tp, header, tree, near)?
    {
        return Ok(chunk);
    }
    let newest = header.get(agi::at::NEW_INO);
    if tree.lookup_eq(tp, &newest)?
        && let Some(chunk) = current(tp, header, tree)?
        && chunk.free_count > 0
    {
        return Ok(chunk);
    }
    let mut more = tree.first(tp)?;
    while more {
        match current(tp, header, tree)? {
            Some(chunk) if chunk.free_count > 0 => return Ok(chunk),
            _ => more = tree.next(tp)?,
        }
    }
    Err(header.corrupt(tp, "no chunk has a free inode".into()))
}

fn search_around(
    tp: &mut Trans<'_>,
    header: &Header,
    tree: &mut Cursor<InodeTree>,
    near: u32,
) -> Result<Option<Chunk>> {
    let mut left = inobt(header);
    let mut left_more = left.lookup_le(tp, &near)?;
    let mut right_more = tree.lookup_ge(tp, &near.saturating_add(1))?;
    for _ in 0..=SEARCH_DISTANCE {
        if left_more {
            if let Some(chunk) = current(tp, header, &mut left)?
                && chunk.free_count > 0
            {
                *tree = left;
                return Ok(Some(chunk));
            }
            left_more = left.previous(tp)?;
        }
        if right_more {
            if let Some(chunk) = current(tp, header, tree)?
                && chunk.free_count > 0
            {
                return Ok(Some(chunk));
            }
            right_more = tree.next(tp)?;
        }
    }
    Ok(None)
}
