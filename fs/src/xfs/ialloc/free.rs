//! Giving an inode back, and its chunk if nothing is left in it.

use alloc::format;

use super::chunk::clusters;
use super::tree::{InodeTree, Trees, most_levels};
use super::{Header, block_of, has_finobt, has_sparse, split_ino};
use crate::error::Result;
use crate::xfs::alloc::Owner;
use crate::xfs::btree::Cursor;
use crate::xfs::defer::Deferred;
use crate::xfs::geometry::{Geometry, INODES_PER_CHUNK};
use crate::xfs::inode::{Fork, ForkExtents};
use crate::xfs::inode_item::{LockedInode, LogFields};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inobt::Chunk;
use crate::xfs::ondisk::inode::{CORE_BYTES, Flags, Format};
use crate::xfs::trans::Trans;

/// Blocks that freeing an inode may take: the finobt can grow.
pub(in crate::xfs) fn space_for_free(geometry: &Geometry) -> u64 {
    if has_finobt(geometry) { most_levels(geometry) } else { 0 }
}

/// Give an inode back that has no blocks any more and is in no list.
///
/// # Errors
/// I/O errors and damage; no space for the finobt to grow: then nothing was changed.
pub(in crate::xfs) fn free(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
    let geometry = tp.mount().geometry();
    let (ag, agino) = split_ino(geometry, ip.ino())?;
    tp.lock_agi(ag);
    let header = Header::read(tp, ag)?;
    let mut trees = header.trees(tp);
    let Trees { all, free: some_free } = &mut trees;
    let found = match all.lookup_le(tp, &agino)? {
        true => all.get(tp)?,
        false => None,
    };
    let chunk = found.map(|raw| header.check(tp, &raw)).transpose()?;
    let Some(old) = chunk.filter(|c| agino - c.start < INODES_PER_CHUNK) else {
        return Err(header.corrupt(tp, format!("there is no chunk with inode {agino}")));
    };
    let index = agino - old.start;
    if old.free & (1 << index) != 0 {
        return Err(header.corrupt(tp, format!("inode {agino} is free already")));
    }
    let mut chunk = old;
    chunk.give_back(index);
    // Inodes in holes count as free here. All but this one are counted as free already.
    let gone = chunk.free == u64::MAX && header.can_spare(tp.mount(), old.free_count);
    if let Some(tree) = some_free {
        update_finobt(tp, &header, tree, &old, (!gone).then_some(&chunk))?;
    }
    if gone {
        all.delete(tp)?;
    } else {
        all.update(tp, &chunk.record(has_sparse(geometry)))?;
    }
    header.keep(tp, trees);
    if gone {
        remove_chunk(tp, &header, &chunk)?;
    } else {
        header.add(tp, 0, 1);
    }
    clear(tp, ip);
    Ok(())
}

/// What was `old` in the tree of chunks with free inodes is `new` now, or gone.
fn update_finobt(
    tp: &mut Trans<'_>,
    header: &Header,
    tree: &mut Cursor<InodeTree>,
    old: &Chunk,
    new: Option<&Chunk>,
) -> Result<()> {
    let sparse = has_sparse(tp.mount().geometry());
    let there = match tree.lookup_eq(tp, &old.start)? {
        true => tree.get(tp)?,
        false => None,
    };
    if there != (old.free_count > 0).then(|| old.record(sparse)) {
        return Err(header.corrupt(tp, format!("the trees differ on chunk {}", old.start)));
    }
    match (there.is_some(), new) {
        (false, None) => Ok(()),
        (false, Some(new)) => tree.insert(tp, &new.record(sparse)),
        (true, None) => tree.delete(tp),
        (true, Some(new)) => tree.update(tp, &new.record(sparse)),
    }
}

/// Give back the blocks of a chunk that has left the trees.
fn remove_chunk(tp: &mut Trans<'_>, header: &Header, chunk: &Chunk) -> Result<()> {
    let geometry = tp.mount().geometry();
    let count = chunk.count as i32;
    // All but one were counted as free before.
    header.add(tp, -count, 1 - count);
    let mut inode = 0;
    let holes = chunk.holes();
    while inode < INODES_PER_CHUNK {
        let skip = (holes >> inode).trailing_ones();
        if skip > 0 {
            inode += skip;
            continue;
        }
        let inodes = (holes >> inode).trailing_zeros().min(INODES_PER_CHUNK - inode);
        let first = chunk.start + inode;
        let start = block_of(geometry, first);
        let blocks = (inodes << geometry.inode_log).div_ceil(geometry.block_bytes() as u32);
        for run in clusters(geometry, header.ag, start, blocks) {
            let buffer = tp.create_runs(&[run], BlockKind::Inodes)?;
            tp.invalidate(&buffer);
        }
        tp.forget_inodes(geometry.ino(header.ag, first), u64::from(inodes));
        tp.defer(Deferred::Free {
            block: geometry.fs_block(header.ag, start),
            count: blocks,
            owner: Owner::InodeChunk,
        });
        inode += inodes;
    }
    Ok(())
}

/// The inode as it is when it is not in use.
fn clear(tp: &Trans<'_>, ip: &mut LockedInode<'_>) {
    let geometry = tp.mount().geometry();
    let flags2 = super::super::namespace::new_flags2(geometry);
    let core = ip.core_mut();
    core.mode = 0;
    core.nlink = 0;
    core.size = 0;
    core.extents = 0;
    core.attr_extents = 0;
    core.format = Format::Extents;
    core.attr_format = None;
    core.data_fork_bytes = geometry.inode_bytes() - CORE_BYTES;
    core.flags = Flags::empty();
    core.flags2 = flags2;
    core.extsize = 0;
    core.cow_extsize = 0;
    core.generation = core.generation.wrapping_add(1);
    ip.data = Fork::Extents(ForkExtents::default());
    ip.attr = None;
    ip.mark(LogFields::CORE | LogFields::DATA);
}
