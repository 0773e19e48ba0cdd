//! New chunks of inodes, whole or in part.

use alloc::vec::Vec;

use uuid::Uuid;

use super::tree::{Trees, most_levels};
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
use crate::xfs::ondisk::{checksum_behind_bit, checksum_with_zeros};
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
    let first = start.0 << slot_log;
    let mut fresh = Vec::new();
    for run in clusters(geometry, ag, start, blocks) {
        fresh.push(tp.create_runs(&[run], BlockKind::Inodes)?);
    }
    let (uuid, ino) = (geometry.meta_uuid, geometry.ino(ag, first).0);
    let mut unused = Unused::new(uuid, geometry.inode_bytes(), ino, generation);
    let mut agino = first;
    for buffer in &fresh {
        let mut edit = tp.edit(buffer);
        let bytes = edit.len();
        for inode in edit.bytes_mut(0..bytes).chunks_exact_mut(geometry.inode_bytes()) {
            unused.put(inode, geometry.ino(ag, agino).0);
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

/// Where an inode's number lies in it.
const INO_AT: usize = 152;

/// Inodes that were never used: they differ in nothing but their numbers.
struct Unused {
    /// The first one's core; all behind it is zero.
    core: [u8; CORE_BYTES],
    ino: u64,
    checksum: u32,
    /// How the checksum changes with each of the number's low bits. (It is linear: what
    /// two bits change is what either one changes, exclusive-or. And a byte's lower bits
    /// come first: what the bit below changes has gone one bit farther.)
    change: [u32; LOW_BITS],
}

/// Bits in which the numbers of a chunk's inodes differ.
const LOW_BITS: usize = INODES_PER_CHUNK.trailing_zeros() as usize;

impl Unused {
    fn new(uuid: Uuid, inode_bytes: usize, ino: u64, generation: u32) -> Self {
        let mut core = [0; CORE_BYTES];
        core[0..2].copy_from_slice(&MAGIC.to_be_bytes());
        core[4] = 3;
        core[92..96].copy_from_slice(&generation.to_be_bytes());
        core[96..100].copy_from_slice(&NULL_AGINO.to_be_bytes());
        core[160..176].copy_from_slice(uuid.as_bytes());
        let forks = inode_bytes - CORE_BYTES;
        let mut with = |ino: u64| {
            core[INO_AT..INO_AT + 8].copy_from_slice(&ino.to_be_bytes());
            checksum_with_zeros(&core, CRC_OFFSET, forks)
        };
        let other = with(ino ^ 1 << (LOW_BITS - 1));
        let checksum = with(ino);
        let mut change = [other ^ checksum; LOW_BITS];
        for bit in (1..LOW_BITS).rev() {
            change[bit - 1] = checksum_behind_bit(change[bit]);
        }
        Self { core, ino, checksum, change }
    }
    /// Put one into a place that is all zeros.
    fn put(&mut self, inode: &mut [u8], ino: u64) {
        let differs = ino ^ self.ino;
        let checksum = if differs < 1 << LOW_BITS {
            let bits = (0..LOW_BITS).filter(|bit| differs & 1 << bit != 0);
            bits.fold(self.checksum, |checksum, bit| checksum ^ self.change[bit])
        } else {
            // Not of one chunk of the usual alignment.
            self.core[INO_AT..INO_AT + 8].copy_from_slice(&ino.to_be_bytes());
            checksum_with_zeros(&self.core, CRC_OFFSET, inode.len() - CORE_BYTES)
        };
        inode[..CORE_BYTES].copy_from_slice(&self.core);
        inode[INO_AT..INO_AT + 8].copy_from_slice(&ino.to_be_bytes());
        inode[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&checksum.to_le_bytes());
    }
}

/// Note the chunk in the trees; a part joins what there is of its chunk already.
fn insert(tp: &mut Trans<'_>, header: &Header, fresh: Chunk) -> Result<()> {
    let sparse = has_sparse(tp.mount().geometry());
    let mut trees = header.trees(tp);
    let Trees { all, free } = &mut trees;
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
    if let Some(free) = free {
        if free.lookup_eq(tp, &fresh.start)? {
            free.update(tp, &joined.record(sparse))?;
        } else {
            free.insert(tp, &joined.record(sparse))?;
        }
    }
    header.keep(tp, trees);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xfs::ondisk::checksum;

    #[test]
    fn unused_inodes_have_the_right_checksums() {
        for first in [64, 0x80, 0x1_0000_0028] {
            let mut unused = Unused::new(Uuid::from_bytes([9; 16]), 512, first, 0x1234_5678);
            for ino in first..first + 2 * u64::from(INODES_PER_CHUNK) {
                let mut inode = alloc::vec![0; 512];
                unused.put(&mut inode, ino);
                let stored = inode[CRC_OFFSET..CRC_OFFSET + 4].to_vec();
                assert_eq!(stored, checksum(&inode, CRC_OFFSET).to_le_bytes(), "inode {ino}");
                assert_eq!(inode[INO_AT..INO_AT + 8], ino.to_be_bytes());
            }
        }
    }
}
