//! The trees of a group's inode chunks.

use alloc::sync::Arc;

use super::{Header, has_finobt};
use crate::error::{Corruption, Result};
use crate::xfs::alloc::{self as space, AgReserve, AllocRequest, Owner, Target, Use};
use crate::xfs::btree::{Cursor, Fanout, Pointers, Root, Shape};
use crate::xfs::buf::Buffer;
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::agi;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inobt::RawChunk;
use crate::xfs::ondisk::superblock::RoCompat;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber};

/// The tree of all chunks, or that of those with free inodes.
pub(super) struct InodeTree {
    ag: AgNumber,
    free: bool,
    agi: Arc<Buffer>,
}

/// Places in both trees of a group. All changes are made through these, which are kept
/// between transactions: what is looked for next is mostly close to where they stand.
pub(super) struct Trees {
    /// All chunks of the group.
    pub(super) all: Cursor<InodeTree>,
    /// Its chunks with free inodes, if the file system has a tree of them.
    pub(super) free: Option<Cursor<InodeTree>>,
}

impl Trees {
    /// Places that stand nowhere yet.
    pub(super) fn new(header: &Header, geometry: &Geometry) -> Self {
        let tree =
            |free| Cursor::new(InodeTree { ag: header.ag, free, agi: header.buffer.clone() });
        Self { all: tree(false), free: has_finobt(geometry).then(|| tree(true)) }
    }
}

/// A place in the tree of all chunks, to read.
pub(super) fn inobt(header: &Header) -> Cursor<InodeTree> {
    Cursor::new(InodeTree { ag: header.ag, free: false, agi: header.buffer.clone() })
}

/// Most levels of either tree.
pub(super) fn most_levels(geometry: &Geometry) -> u64 {
    let chunks = geometry.ag_blocks / geometry.chunk_blocks().max(1);
    // Parts of chunks can be on their own.
    let records = u64::from(chunks.max(1));
    let fanout = Fanout::of::<RawChunk>(Pointers::Short, geometry.block_bytes());
    u64::from(fanout.most_levels(records))
}

impl InodeTree {
    const fn reserve(&self) -> AgReserve {
        if self.free { AgReserve::Metadata } else { AgReserve::None }
    }
    /// The AGI's count of the tree's blocks changes.
    fn count_block(&self, tp: &mut Trans<'_>, more: bool) {
        if !tp.mount().geometry().ro_compat.contains(RoCompat::INOBTCOUNT) {
            return;
        }
        let at = if self.free { agi::at::FINOBT_BLOCKS } else { agi::at::INOBT_BLOCKS };
        let now = crate::xfs::ondisk::be32(&self.agi.read(), at).unwrap_or(0);
        let now = if more { now.saturating_add(1) } else { now.saturating_sub(1) };
        tp.edit(&self.agi).set_be32(at, now);
    }
}

impl Shape for InodeTree {
    type Record = RawChunk;
    const POINTERS: Pointers = Pointers::Short;
    const ONE_WRITER: bool = true;

    fn kind(&self) -> BlockKind {
        if self.free { BlockKind::Finobt } else { BlockKind::Inobt }
    }
    fn owner(&self) -> u64 {
        u64::from(self.ag.0)
    }
    fn root(&self, tp: &mut Trans<'_>) -> Result<Root> {
        let geometry = tp.mount().geometry();
        debug_assert!(!self.free || has_finobt(geometry), "there is a finobt");
        let root = agi::tree_root(&self.agi.read(), geometry, self.ag, self.free);
        let root = root.map_err(|reason| Corruption {
            structure: "AGI",
            location: geometry.place(self.agi.sector()),
            reason,
        })?;
        Ok(Root::Block { block: u64::from(root.block.0), levels: root.levels })
    }
    fn set_root(&mut self, tp: &mut Trans<'_>, block: u64, levels: u32) -> Result<()> {
        let at = if self.free { agi::at::FREE_ROOT } else { agi::at::ROOT };
        let mut edit = tp.edit(&self.agi);
        edit.set_be32(at, block as u32);
        edit.set_be32(at + 4, levels);
        Ok(())
    }
    fn allocate(&mut self, tp: &mut Trans<'_>, near: u64) -> Result<Option<u64>> {
        let geometry = tp.mount().geometry();
        let near = geometry.fs_block(self.ag, AgBlock(near as u32));
        let request = AllocRequest {
            reserve: self.reserve(),
            ..AllocRequest::new(Target::InAg(near), 1, Owner::Inobt, Use::Metadata)
        };
        let Some(found) = space::allocate(tp, &request)? else { return Ok(None) };
        self.count_block(tp, true);
        Ok(Some(u64::from(geometry.split(found.block).1.0)))
    }
    fn free(&mut self, tp: &mut Trans<'_>, block: u64) -> Result<()> {
        let block = tp.mount().geometry().fs_block(self.ag, AgBlock(block as u32));
        self.count_block(tp, false);
        space::free(tp, block, 1, &Owner::Inobt, self.reserve())
    }
}
