//! New chunks of inodes, whole or in part.

use alloc::vec::Vec;

use super::tree::{finobt, inobt, most_levels};
use super::{Header, block_of, has_finobt, has_sparse};
use crate::error::Result;
use crate::xfs::alloc::{self as space, AllocRequest, Owner, Target, Use};
use crate::xfs::buf::Run;
use crate::xfs::geometry::{Geometry, INODES_PER_CHUNK};
use crate::xfs::ondisk::agi::{self, NULL_AGINO};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inobt::{Chunk, INODES_PER_HOLE_BIT};
use crate::xfs::ondisk::inode::{CORE_BYTES, CRC_OFFSET, MAGIC};
use crate::xfs::ondisk::log_items::IcreateFormat;
use crate::xfs::ondisk::stamp_checksum;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber};

/// Make a chunk in this group, whose AGI is locked. False: there is no room for one.
///
/// # Errors
/// I/O errors, damage, no memory.
pub(super) fn add(tp: &mut Trans<'_>, header: &Header) -> Result<bool> {
    let mount = tp.mount();
    let geometry = mount.geometry();
    tp.lock_agf(header.ag);
    let free = mount.space_of(header.ag).free;
    let fits = |blocks| free >= blocks + left_for_trees(geometry);
    let (chunk, part) = (geometry.chunk_blocks(), geometry.sparse_align_blocks);
    let mut found = match fits(chunk) {
        true => find_whole(tp, header)?.map(|start| (start, chunk)),
        false => None,
    };
    if found.is_none() && fits(part) {
        found = find_part(tp, header)?.map(|start| (start, part));
    }
    let Some((start, blocks)) = found else { return Ok(false) };
    initialise(tp, header.ag, start, blocks)?;
    let fresh = chunk_at(geometry, start, blocks);
    let count = blocks << (geometry.block_log - geometry.inode_log);
    insert(tp, header, fresh)?;
    header.set(tp, agi::at::NEW_INO, fresh.start);
    header.add(tp, count as i32, count as i32);
    Ok(true)
}

/// The chunk, or the part of one, that these blocks are.
fn chunk_at(geometry: &Geometry, start: AgBlock, blocks: u32) -> Chunk {
    let slot_log = geometry.block_log - geometry.inode_log;
    let count = blocks << slot_log;
    if count >= INODES_PER_CHUNK {
        return Chunk::unused(start.0 << slot_log, 0);
    }
    let first = (start.0 % geometry.inode_align_blocks.max(1)) << slot_log;
    let here = ((1u32 << (count / INODES_PER_HOLE_BIT)) - 1) << (first / INODES_PER_HOLE_BIT);
    Chunk::unused((start.0 << slot_log) - first, !(here as u16))
}

/// Blocks for a whole chunk, if the group has them: behind the chunk made last, or close
/// to the tree's root; aligned to stripes if it can be.
fn find_whole(tp: &mut Trans<'_>, header: &Header) -> Result<Option<AgBlock>> {
    let geometry = tp.mount().geometry();
    let blocks = geometry.chunk_blocks();
    let newest = header.get(agi::at::NEW_INO);
    let align = cluster_align(geometry);
    if newest != NULL_AGINO {
        let behind = AgBlock(block_of(geometry, newest).0.saturating_add(blocks));
        let end = behind.0.saturating_add(blocks);
        if behind.0.is_multiple_of(align) && end <= geometry.ag_length(header.ag) {
            let exact = Target::Exact(geometry.fs_block(header.ag, behind));
            if let Some(found) = request(tp, header, exact, blocks, 1)? {
                return Ok(Some(found));
            }
        }
    }
    let root = AgBlock(header.get(agi::at::ROOT));
    let near = Target::InAg(geometry.fs_block(header.ag, root));
    let stripe = geometry.stripe_unit_blocks;
    if stripe > align && stripe.is_multiple_of(align) && align > 1 {
        let found = request(tp, header, near, blocks, stripe)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    request(tp, header, near, blocks, align)
}

/// Blocks for the smallest part of a chunk, if the file system knows such.
fn find_part(tp: &mut Trans<'_>, header: &Header) -> Result<Option<AgBlock>> {
    let geometry = tp.mount().geometry();
    let align = geometry.sparse_align_blocks;
    if !has_sparse(geometry) || align == 0 || align >= geometry.chunk_blocks() {
        return Ok(None);
    }
    // The whole chunk that it is a part of has to lie in the group, behind the headers.
    let chunk = geometry.inode_align_blocks.max(geometry.chunk_blocks());
    let first = geometry.inode_align_blocks.max(1);
    let end = geometry.ag_length(header.ag) / chunk * chunk;
    let mut place = None;
    tp.mount().free_by_block(header.ag, &mut |free| {
        let start = free.start.max(first).next_multiple_of(align);
        if start + align <= end.min(free.start + free.count) {
            place = Some(AgBlock(start));
        }
        place.is_none()
    })?;
    let Some(start) = place else { return Ok(None) };
    request(tp, header, Target::Exact(geometry.fs_block(header.ag, start)), align, 1)
}

/// Blocks that have to be left in the group for the trees to grow.
fn left_for_trees(geometry: &Geometry) -> u32 {
    let trees = if has_finobt(geometry) { 2 } else { 1 };
    (trees * most_levels(geometry)) as u32
}

fn request(
    tp: &mut Trans<'_>,
    header: &Header,
    near: Target,
    blocks: u32,
    align: u32,
) -> Result<Option<AgBlock>> {
    let geometry = tp.mount().geometry();
    let request = AllocRequest {
        align,
        total: blocks + left_for_trees(geometry),
        ..AllocRequest::new(near, blocks, Owner::InodeChunk, Use::Metadata)
    };
    let found = space::allocate(tp, &request)?;
    let block = found.map(|found| geometry.split(found.block));
    debug_assert!(block.is_none_or(|(ag, _)| ag == header.ag), "it was to be in this group");
    Ok(block.map(|(_, block)| block))
}

/// What the first block of a chunk is a multiple of.
fn cluster_align(geometry: &Geometry) -> u32 {
    if geometry.inode_align_blocks >= geometry.cluster_blocks() {
        geometry.inode_align_blocks.max(1)
    } else {
        1
    }
}

/// The clusters that lie in these blocks.
pub(super) fn clusters(geometry: &Geometry, ag: AgNumber, start: AgBlock, blocks: u32) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut at = start.0;
    while at < start.0 + blocks {
        let (first, count) = geometry.inode_cluster(AgBlock(at));
        let sector = geometry.ag_sector(ag, first);
        runs.push(Run { sector, bytes: count << geometry.block_log });
        at = first.0 + count;
    }
    runs
}

/// Write unused inodes into these blocks; the log gets one line for all of them.
fn initialise(tp: &mut Trans<'_>, ag: AgNumber, start: AgBlock, blocks: u32) -> Result<()> {
    let geometry = tp.mount().geometry();
    let generation = tp.mount().random() as u32;
    let slot_log = geometry.block_log - geometry.inode_log;
    let mut agino = start.0 << slot_log;
    let mut fresh = Vec::new();
    for run in clusters(geometry, ag, start, blocks) {
        fresh.push(tp.create_runs(&[run], BlockKind::Inodes)?);
    }
    for buffer in &fresh {
        let mut edit = tp.edit(buffer);
        let bytes = edit.len();
        for inode in edit.bytes_mut(0..bytes).chunks_exact_mut(geometry.inode_bytes()) {
            unused_inode(inode, geometry, geometry.ino(ag, agino).0, generation);
            agino += 1;
        }
        drop(edit);
        tp.order(buffer);
    }
    tp.log_icreate(&IcreateFormat {
        ag: ag.0,
        block: start.0,
        count: blocks << slot_log,
        inode_bytes: geometry.inode_bytes() as u32,
        length: blocks,
        generation,
    });
    Ok(())
}

/// An inode that was never used.
fn unused_inode(inode: &mut [u8], geometry: &Geometry, ino: u64, generation: u32) {
    debug_assert!(inode.len() >= CORE_BYTES, "an inode");
    inode.fill(0);
    inode[0..2].copy_from_slice(&MAGIC.to_be_bytes());
    inode[4] = 3;
    inode[92..96].copy_from_slice(&generation.to_be_bytes());
    inode[96..100].copy_from_slice(&NULL_AGINO.to_be_bytes());
    inode[152..160].copy_from_slice(&ino.to_be_bytes());
    inode[160..176].copy_from_slice(geometry.meta_uuid.as_bytes());
    stamp_checksum(inode, CRC_OFFSET);
}

/// Note the chunk in the trees; a part joins what there is of its chunk already.
fn insert(tp: &mut Trans<'_>, header: &Header, fresh: Chunk) -> Result<()> {
    let sparse = has_sparse(tp.mount().geometry());
    let mut all = inobt(header);
    let mut joined = fresh;
    let old = match all.lookup_eq(tp, &fresh.start)? {
        true => all.get(tp)?,
        false => None,
    };
    if let Some(raw) = &old {
        let old = header.check(tp, raw)?;
        // A bit that is clear in both masks: the same inodes twice.
        if old.hole_mask | fresh.hole_mask != u16::MAX {
            let reason = alloc::format!("chunk {} has these inodes already", fresh.start);
            return Err(header.corrupt(tp, reason));
        }
        joined.hole_mask &= old.hole_mask;
        joined.free &= old.free;
        joined.count += old.count;
        joined.free_count += old.free_count;
        all.update(tp, &joined.record(sparse))?;
    } else {
        all.insert(tp, &joined.record(sparse))?;
    }
    if !has_finobt(tp.mount().geometry()) {
        return Ok(());
    }
    let mut free = finobt(header);
    if free.lookup_eq(tp, &fresh.start)? {
        free.update(tp, &joined.record(sparse))
    } else {
        free.insert(tp, &joined.record(sparse))
    }
}
