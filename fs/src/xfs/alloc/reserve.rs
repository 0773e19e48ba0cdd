//! What is kept back so that trees can always grow.
//!
//! A group's inode trees and its trees of reverse mappings and reference counts grow when
//! blocks are used, at the very time when there are fewest left. For those that can grow
//! without a block having been promised (finobt when inodes are freed, refcountbt and
//! rmapbt when blocks are shared), the largest size they can ever have is kept back from
//! the start. So are the blocks that an AGFL needs at least.

use holdfast_sync::atomic::{AtomicU32, Ordering};

use super::freelist;
use super::space::at;
use crate::error::Result;
use crate::xfs::btree::{Fanout, Pointers};
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::agi;
use crate::xfs::ondisk::be32;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::btree::ShortBlock;
use crate::xfs::ondisk::inobt::RawChunk;
use crate::xfs::ondisk::refcountbt::Refcount;
use crate::xfs::ondisk::rmapbt::Rmap;
use crate::xfs::ondisk::superblock::RoCompat;
use crate::xfs::types::{AgBlock, AgNumber};

/// Part of a group that reverse mappings are kept back at least.
const RMAPBT_PART: u32 = 100;

/// Blocks kept back for a kind of trees of one group. Changed under its AGF lock.
#[derive(Default)]
pub(super) struct Pool {
    all: AtomicU32,
    used: AtomicU32,
}

impl Pool {
    fn set(&self, all: u32, used: u32) {
        self.all.store(all, Ordering::Relaxed);
        self.used.store(used, Ordering::Relaxed);
    }
    pub(super) fn set_used(&self, used: u32) {
        self.used.store(used, Ordering::Relaxed);
    }
    /// Blocks nobody has taken yet.
    pub(super) fn unused(&self) -> u32 {
        let used = self.used.load(Ordering::Relaxed);
        self.all.load(Ordering::Relaxed).saturating_sub(used)
    }
    /// Take `count` blocks; how many of them were not kept back.
    pub(super) fn take(&self, count: u32) -> u32 {
        let from_here = self.unused().min(count);
        self.used.fetch_add(count, Ordering::Relaxed);
        count - from_here
    }
    /// Give `count` blocks back; how many of them are not kept back again.
    pub(super) fn give(&self, count: u32) -> u32 {
        let used = self.used.load(Ordering::Relaxed);
        let excess = used.saturating_sub(self.all.load(Ordering::Relaxed)).min(count);
        self.used.store(used.saturating_sub(count), Ordering::Relaxed);
        excess
    }
}

/// How large trees can get in a group of `blocks` blocks.
struct Limits {
    finobt: u32,
    refcountbt: u32,
    rmapbt: u32,
    rmapbt_levels: Option<u32>,
}

impl Limits {
    fn new(mount: &Mount, ag: AgNumber) -> Self {
        let geometry = mount.geometry();
        let features = geometry.ro_compat;
        let (log_ag, _) = geometry.split(geometry.log_start);
        let log = if log_ag == ag { geometry.log_blocks } else { 0 };
        let blocks = geometry.ag_length(ag).saturating_sub(log);
        let block_bytes = geometry.block_bytes();
        let most = |wanted: RoCompat, fanout: Fanout, records: u64| {
            if features.contains(wanted) { fanout.most_blocks(records) as u32 } else { 0 }
        };
        let chunks = u64::from(blocks / geometry.chunk_blocks().max(1));
        let rmapbt_fanout = Fanout::of::<Rmap>(Pointers::Short, block_bytes);
        let rmapbt = most(RoCompat::RMAPBT, rmapbt_fanout, blocks.into());
        let rmapbt_levels = rmapbt_fanout.most_levels(blocks.into());
        Self {
            finobt: most(
                RoCompat::FINOBT,
                Fanout::of::<RawChunk>(Pointers::Short, block_bytes),
                chunks,
            ),
            refcountbt: most(
                RoCompat::REFLINK,
                Fanout::of::<Refcount>(Pointers::Short, block_bytes),
                blocks.into(),
            ),
            rmapbt: if rmapbt == 0 { 0 } else { rmapbt.max(blocks / RMAPBT_PART) },
            rmapbt_levels: (rmapbt > 0).then_some(rmapbt_levels),
        }
    }
}

/// Look at all groups, and keep back what must not be promised.
///
/// # Errors
/// I/O errors and damage.
pub fn prepare(mount: &Mount) -> Result<()> {
    let geometry = mount.geometry();
    let mut kept = 0;
    for ag in (0..geometry.ag_count).map(AgNumber) {
        let limits = Limits::new(mount, ag);
        let finobt = finobt_blocks(mount, ag)?;
        let _locked = mount.lock_agf(ag);
        let agf = mount.agf(ag)?;
        let raw = |offset| mount.agf_field(ag, offset);
        let refcountbt = if agf.refcountbt.is_some() { raw(at::REFCOUNT_BLOCKS)? } else { 0 };
        let rmapbt = if agf.rmapbt.is_some() { raw(at::RMAP_BLOCKS)? } else { 0 };
        let space = &mount.perags[ag.0 as usize].space;
        space.metadata.set(limits.finobt + limits.refcountbt, finobt + refcountbt);
        space.rmapbt.set(limits.rmapbt, rmapbt);
        space.publish(&agf, rmapbt);
        // Blocks of the reverse mappings count as free, those of other trees do not.
        kept += u64::from(freelist::needed_at_end(limits.rmapbt_levels))
            + u64::from(space.metadata.unused())
            + u64::from(limits.rmapbt.max(rmapbt));
    }
    mount.counters().withhold(kept);
    Ok(())
}

/// Blocks of a group's tree of chunks with free inodes, of which it is noted how many
/// there are.
fn finobt_blocks(mount: &Mount, ag: AgNumber) -> Result<u32> {
    let _locked = mount.lock_agi(ag);
    let header = mount.agi(ag)?;
    mount.ialloc.note_free(ag, header.free_count);
    let Some(root) = header.finobt else { return Ok(0) };
    if mount.geometry().ro_compat.contains(RoCompat::INOBTCOUNT) {
        return mount.agi_field(ag, agi::at::FINOBT_BLOCKS);
    }
    // Not counted on disk: all blocks above the leaves say how many there are.
    let mut level_blocks = alloc::vec![root.block];
    let mut count = 1;
    for level in (1..root.levels).rev() {
        let mut below = alloc::vec::Vec::new();
        for block in level_blocks {
            let buffer = mount.tree_block(ag, block, BlockKind::Finobt)?;
            let bytes = buffer.read();
            let Some(node) = ShortBlock::new(&bytes).filter(|n| n.level() == level) else {
                continue;
            };
            let children = (0..node.count()).filter_map(|i| node.child::<RawChunk>(i));
            below.extend(children.map(AgBlock));
        }
        count += below.len() as u32;
        level_blocks = below;
    }
    Ok(count)
}

impl Mount {
    fn agf_field(&self, ag: AgNumber, offset: usize) -> Result<u32> {
        let buffer = self.header_block(ag, BlockKind::Agf)?;
        let value = be32(&buffer.read(), offset);
        Ok(value.unwrap_or(0))
    }
    fn agi_field(&self, ag: AgNumber, offset: usize) -> Result<u32> {
        let buffer = self.header_block(ag, BlockKind::Agi)?;
        let value = be32(&buffer.read(), offset);
        Ok(value.unwrap_or(0))
    }
}
