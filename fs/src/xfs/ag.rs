//! Allocation groups: their headers and what their trees say.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::btree::Tree;
use super::buf::{Buffer, Run};
use super::mount::Mount;
use super::ondisk::agf::{Agf, Root};
use super::ondisk::agi::Agi;
use super::ondisk::block::BlockKind;
use super::ondisk::freesp::{ByBlock, BySize, FreeExtent};
use super::ondisk::inobt::{Chunk, RawChunk};
use super::ondisk::refcountbt::Refcount;
use super::ondisk::rmapbt::Rmap;
use super::ondisk::superblock::Incompat;
use super::ondisk::{Check, agfl, ensure};
use super::types::{AgBlock, AgNumber, FsBlock};
use crate::block::Sector;
use crate::error::{Corruption, Result};

/// The sectors of a group's headers.
const AGF_SECTOR: u64 = 1;
const AGI_SECTOR: u64 = 2;
const AGFL_SECTOR: u64 = 3;

impl Mount {
    fn header<T>(
        &self,
        ag: AgNumber,
        kind: BlockKind,
        decode: impl FnOnce(&[u8]) -> Check<T>,
    ) -> Result<T> {
        let buffer = self.header_block(ag, kind)?;
        let contents = buffer.read();
        decode(&contents).map_err(|reason| {
            let location = self.geometry().place(buffer.sector());
            Corruption { structure: kind.name(), location, reason }.into()
        })
    }
    /// The block of a group's AGF, AGI or AGFL.
    pub(super) fn header_block(&self, ag: AgNumber, kind: BlockKind) -> Result<Arc<Buffer>> {
        let index = match kind {
            BlockKind::Agf => AGF_SECTOR,
            BlockKind::Agi => AGI_SECTOR,
            _ => AGFL_SECTOR,
        };
        let geometry = self.geometry();
        let start = geometry.ag_sector(ag, AgBlock(0));
        let bytes = geometry.sector_bytes() as u32;
        let sector = Sector(start.0 + index * u64::from(bytes) / crate::block::SECTOR_SIZE);
        self.buffers().read(&[Run { sector, bytes }], &[kind])
    }
    /// A block of a group's tree of this kind.
    pub(super) fn tree_block(
        &self,
        ag: AgNumber,
        block: AgBlock,
        kind: BlockKind,
    ) -> Result<Arc<Buffer>> {
        let geometry = self.geometry();
        let sector = geometry.ag_sector(ag, block);
        if !geometry.has_ag_block(ag, block) {
            let reason = "there is no such block".into();
            let location = geometry.place(sector);
            return Err(Corruption { structure: kind.name(), location, reason }.into());
        }
        let bytes = geometry.block_bytes() as u32;
        self.buffers().read(&[Run { sector, bytes }], &[kind])
    }
    /// The checked AGF of a group that exists.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn agf(&self, ag: AgNumber) -> Result<Agf> {
        self.header(ag, BlockKind::Agf, |b| Agf::decode(b, self.geometry(), ag))
    }
    /// The checked AGI of a group that exists.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn agi(&self, ag: AgNumber) -> Result<Agi> {
        self.header(ag, BlockKind::Agi, |b| Agi::decode(b, self.geometry(), ag))
    }
    /// The blocks set aside for a group's trees.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn agfl(&self, ag: AgNumber) -> Result<Vec<AgBlock>> {
        let agf = self.agf(ag)?;
        self.header(ag, BlockKind::Agfl, |b| agfl::blocks(b, self.geometry(), ag, &agf))
    }
    fn tree(&self, ag: AgNumber, root: Root, kind: BlockKind) -> Tree<'_> {
        Tree { buffers: self.buffers(), geometry: self.geometry(), ag, root, kind }
    }
    fn check_run(&self, ag: AgNumber, start: u32, count: u32) -> Check {
        ensure!(
            self.geometry()
                .has_blocks(self.geometry().fs_block(ag, AgBlock(start)), u64::from(count)),
            "{count} blocks at {start} do not exist"
        );
        Ok(())
    }
    /// Visit the free extents of a group by block.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn free_by_block(
        &self,
        ag: AgNumber,
        each: &mut dyn FnMut(FreeExtent) -> bool,
    ) -> Result<()> {
        let root = self.agf(ag)?.bnobt;
        let mut end = 0;
        self.tree(ag, root, BlockKind::Bnobt).walk(None, &mut |ByBlock(free)| {
            self.check_run(ag, free.start, free.count)?;
            ensure!(free.start >= end, "free extents overlap at {}", free.start);
            end = free.start + free.count;
            Ok(each(free))
        })
    }
    /// Visit the free extents of a group by size.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn free_by_size(
        &self,
        ag: AgNumber,
        each: &mut dyn FnMut(FreeExtent) -> bool,
    ) -> Result<()> {
        let root = self.agf(ag)?.cntbt;
        self.tree(ag, root, BlockKind::Cntbt).walk(None, &mut |BySize(free)| {
            self.check_run(ag, free.start, free.count)?;
            Ok(each(free))
        })
    }
    /// Visit a group's inode chunks; of the tree of chunks with free inodes if `free`.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn inode_chunks(
        &self,
        ag: AgNumber,
        free: bool,
        each: &mut dyn FnMut(Chunk) -> bool,
    ) -> Result<()> {
        let agi = self.agi(ag)?;
        let (root, kind) = match (free, agi.finobt) {
            (false, _) => (agi.inobt, BlockKind::Inobt),
            (true, Some(root)) => (root, BlockKind::Finobt),
            (true, None) => return Ok(()),
        };
        let sparse = self.geometry().incompat.contains(Incompat::SPARSE_INODES);
        self.tree(ag, root, kind)
            .walk(None, &mut |raw: RawChunk| raw.check(self.geometry(), ag, sparse).map(&mut *each))
    }
    /// Visit a group's reverse mappings, if it keeps them.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn reverse_mappings(&self, ag: AgNumber, each: &mut dyn FnMut(Rmap) -> bool) -> Result<()> {
        let Some(root) = self.agf(ag)?.rmapbt else { return Ok(()) };
        self.tree(ag, root, BlockKind::Rmapbt).walk(None, &mut |rmap: Rmap| {
            let end = u64::from(rmap.start) + u64::from(rmap.count);
            ensure!(
                rmap.count > 0 && end <= u64::from(self.geometry().ag_length(ag)),
                "{} blocks at {} do not exist",
                rmap.count,
                rmap.start
            );
            Ok(each(rmap))
        })
    }
    /// Visit a group's reference counts, from the run that `from` lies in or behind.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn reference_counts(
        &self,
        ag: AgNumber,
        from: Option<AgBlock>,
        each: &mut dyn FnMut(Refcount) -> bool,
    ) -> Result<()> {
        let Some(root) = self.agf(ag)?.refcountbt else { return Ok(()) };
        let from = from.map(|b| b.0);
        self.tree(ag, root, BlockKind::Refcountbt).walk(from, &mut |run: Refcount| {
            self.check_run(ag, run.start, run.count)?;
            ensure!(
                if run.cow { run.references == 1 } else { run.references >= 2 },
                "{} blocks at {} have {} owners",
                run.count,
                run.start,
                run.references
            );
            Ok(each(run))
        })
    }
    /// How many of `count` blocks from `block` on are alike in being shared or not, and
    /// which. The blocks exist.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn shared_run(&self, block: FsBlock, count: u64) -> Result<(u64, bool)> {
        let (ag, first) = self.geometry().split(block);
        let (start, end) = (u64::from(first.0), u64::from(first.0) + count);
        let mut answer = (count, false);
        // Shared runs may touch each other, with different numbers of owners.
        let mut shared_to = start;
        self.reference_counts(ag, Some(first), &mut |run| {
            let (run_start, run_end) =
                (u64::from(run.start), u64::from(run.start) + u64::from(run.count));
            if run.cow || run_start >= end {
                return false;
            }
            if run_end <= start {
                return true;
            }
            if run_start > shared_to {
                if shared_to == start {
                    answer = (run_start - start, false);
                }
                return false;
            }
            shared_to = run_end.min(end);
            answer = (shared_to - start, true);
            shared_to < end
        })?;
        Ok(answer)
    }
}
