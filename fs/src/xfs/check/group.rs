//! A group's headers, and what its trees hold.

use alloc::format;
use alloc::vec::Vec;

use super::owners::{AG, COW, Claim, FREE, FS, INOBT, LOG, REFC};
use super::tree::{Checked, Contents, walk};
use super::{Result, Scan, push};
use crate::block::{SECTOR_SIZE, Sector};
use crate::xfs::buf::Run;
use crate::xfs::ondisk::agf::{self, Agf, Root};
use crate::xfs::ondisk::agfl;
use crate::xfs::ondisk::agi::{self, Agi};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::freesp::{ByBlock, BySize, FreeExtent};
use crate::xfs::ondisk::inobt::{Chunk, RawChunk};
use crate::xfs::ondisk::refcountbt::Refcount;
use crate::xfs::ondisk::rmapbt::Rmap;
use crate::xfs::ondisk::superblock::{Incompat, RoCompat};
use crate::xfs::types::{AgBlock, AgNumber};

/// What is known of a group.
#[derive(Default)]
pub(super) struct Group {
    pub(super) agf: Option<Agf>,
    pub(super) agi: Option<Agi>,
    /// Who says to own what.
    pub(super) claims: Vec<Claim>,
    /// What the group's own trees say of that, if they could be read.
    pub(super) rmaps: Option<Vec<Claim>>,
    pub(super) refcounts: Option<Vec<Refcount>>,
    /// All chunks of inodes.
    pub(super) chunks: Vec<Chunk>,
}

/// The counters in an AGF that only a check needs.
#[derive(Clone, Copy)]
struct AgfCounts {
    rmap_blocks: u32,
    refcount_blocks: u32,
}

/// Sectors of the headers of a group.
const HEADERS: usize = 4;

impl Scan {
    /// Check a group's headers and trees, and note who owns which blocks.
    pub(super) fn check_group(&mut self, ag: AgNumber) -> Result<()> {
        push(&mut self.groups, Group::default())?;
        self.claim_fixed(ag)?;
        let start = self.geometry.ag_sector(ag, AgBlock(0));
        let sector = self.geometry.sector_bytes();
        let run = Run { sector: start, bytes: (HEADERS * sector) as u32 };
        let Some(bytes) = self.source.read("AG headers", &[run])? else { return Ok(()) };
        let header = |i: usize| &bytes[i * sector..(i + 1) * sector];
        if ag.0 > 0 {
            self.check_copy(ag, header(0));
        }
        if let Some(agf) = self.header(ag, 1, header(1), BlockKind::Agf, Agf::decode)? {
            let view = agf::View::new(header(1));
            let counts = AgfCounts {
                rmap_blocks: view.map_or(0, |v| v.rmap_blocks()),
                refcount_blocks: view.map_or(0, |v| v.refcount_blocks()),
            };
            let decode = |b: &[u8], g: &_, ag| agfl::blocks(b, g, ag, &agf);
            let list = self.header(ag, 3, header(3), BlockKind::Agfl, decode)?;
            for block in list.unwrap_or_default() {
                self.claim(ag, Claim::of(block.0, 1, AG))?;
            }
            self.check_space(ag, &agf, counts)?;
            self.groups[ag.0 as usize].agf = Some(agf);
        }
        if let Some(agi) = self.header(ag, 2, header(2), BlockKind::Agi, Agi::decode)? {
            let view = agi::View::new(header(2));
            let blocks = view.map_or((0, 0), |v| (v.inobt_blocks(), v.finobt_blocks()));
            self.check_inode_trees(ag, &agi, blocks)?;
            self.groups[ag.0 as usize].agi = Some(agi);
        }
        Ok(())
    }
    /// Note an owner.
    pub(super) fn claim(&mut self, ag: AgNumber, claim: Claim) -> Result<()> {
        match self.groups.get_mut(ag.0 as usize) {
            Some(group) => push(&mut group.claims, claim),
            None => Ok(()),
        }
    }
    fn claim_fixed(&mut self, ag: AgNumber) -> Result<()> {
        self.claim(ag, Claim::of(0, self.geometry.ag_first_block(), FS))?;
        let (log_ag, start) = self.geometry.split(self.geometry.log_start);
        if log_ag == ag {
            self.claim(ag, Claim::of(start.0, self.geometry.log_blocks, LOG))?;
        }
        Ok(())
    }
    fn header<T>(
        &mut self,
        ag: AgNumber,
        index: u64,
        bytes: &[u8],
        kind: BlockKind,
        decode: impl FnOnce(&[u8], &crate::xfs::Geometry, AgNumber) -> Result<T, alloc::string::String>,
    ) -> Result<Option<T>> {
        let start = self.geometry.ag_sector(ag, AgBlock(0));
        let sector = Sector(start.0 + index * (bytes.len() as u64 / SECTOR_SIZE));
        if self.source.verified(sector, bytes, &[kind]).is_none() {
            return Ok(None);
        }
        match decode(bytes, &self.geometry, ag) {
            Ok(header) => Ok(Some(header)),
            Err(reason) => {
                self.source.lost(kind.name(), self.geometry.place(sector), reason);
                Ok(None)
            }
        }
    }
    /// Walk a tree, and note who owns its blocks.
    fn tree<R: Checked>(
        &mut self,
        ag: AgNumber,
        root: Root,
        kind: BlockKind,
        owner: u64,
    ) -> Result<Contents<R>> {
        let contents = walk::<R>(&mut self.source, &self.geometry, ag, root, kind)?;
        for &block in &contents.blocks {
            self.claim(ag, Claim::of(block, 1, owner))?;
        }
        Ok(contents)
    }
    /// A finding about a group's header.
    fn header_found(&mut self, kind: BlockKind, ag: AgNumber, reason: alloc::string::String) {
        self.source.found(kind.name(), format!("AG {}", ag.0), reason);
    }
    /// A counter that should be what was counted.
    fn check_count(
        &mut self,
        kind: BlockKind,
        ag: AgNumber,
        name: &str,
        stated: u32,
        counted: u32,
    ) {
        if stated != counted {
            self.header_found(kind, ag, format!("{name} is {stated}, counted {counted}"));
        }
    }
    /// Free space, reverse mappings and reference counts.
    fn check_space(&mut self, ag: AgNumber, agf: &Agf, counts: AgfCounts) -> Result<()> {
        let by_block = self.tree::<ByBlock>(ag, agf.bnobt, BlockKind::Bnobt, AG)?;
        let by_size = self.tree::<BySize>(ag, agf.cntbt, BlockKind::Cntbt, AG)?;
        // Their roots do not count.
        let beside_root = |blocks: &[u32]| blocks.len().saturating_sub(1);
        let mut btree_blocks = beside_root(&by_block.blocks) + beside_root(&by_size.blocks);
        let mut whole = by_block.whole && by_size.whole;
        let free = self.check_free(ag, &by_block.records)?;
        if by_block.whole {
            let sum = free.iter().map(|f| f.0).fold(0, u32::saturating_add);
            let longest = free.iter().map(|f| f.0).max().unwrap_or(0);
            self.check_count(BlockKind::Agf, ag, "freeblks", agf.free_blocks, sum);
            self.check_count(BlockKind::Agf, ag, "longest", agf.longest, longest);
        }
        if whole {
            self.compare_free(ag, free, &by_size.records);
        }
        if let Some(root) = agf.rmapbt {
            let tree = self.tree::<Rmap>(ag, root, BlockKind::Rmapbt, AG)?;
            btree_blocks += beside_root(&tree.blocks);
            whole &= tree.whole;
            if tree.whole {
                let blocks = tree.blocks.len() as u32;
                self.check_count(BlockKind::Agf, ag, "rmapblocks", counts.rmap_blocks, blocks);
                self.check_rmaps(ag, &tree.records)?;
            }
        }
        if whole {
            self.check_count(
                BlockKind::Agf,
                ag,
                "btreeblks",
                agf.btree_blocks,
                btree_blocks as u32,
            );
        }
        if let Some(root) = agf.refcountbt {
            let tree = self.tree::<Refcount>(ag, root, BlockKind::Refcountbt, REFC)?;
            if tree.whole {
                let (stated, blocks) = (counts.refcount_blocks, tree.blocks.len() as u32);
                self.check_count(BlockKind::Agf, ag, "refcntblocks", stated, blocks);
            }
            self.check_refcounts(ag, tree)?;
        }
        Ok(())
    }
    /// Do these blocks exist behind the headers?
    fn exists(&self, ag: AgNumber, start: u32, count: u32) -> bool {
        let first = self.geometry.fs_block(ag, AgBlock(start));
        AgBlock(start).0 < self.geometry.ag_length(ag)
            && self.geometry.has_blocks(first, u64::from(count))
    }
    /// The free extents by block: length and start of each.
    fn check_free(&mut self, ag: AgNumber, records: &[ByBlock]) -> Result<Vec<(u32, u32)>> {
        let mut free = Vec::new();
        let mut end = 0;
        for &ByBlock(FreeExtent { start, count }) in records {
            push(&mut free, (count, start))?;
            if !self.exists(ag, start, count) {
                let reason = format!("{count} free blocks at {start} do not exist");
                self.header_found(BlockKind::Bnobt, ag, reason);
                continue;
            }
            if start < end {
                let reason = format!("{count} free blocks at {start} are free twice");
                self.header_found(BlockKind::Bnobt, ag, reason);
            } else if start == end && end > 0 {
                let reason = format!("the free extents on both sides of block {start} touch");
                self.header_found(BlockKind::Bnobt, ag, reason);
            }
            end = end.max(start + count);
            self.claim(ag, Claim::of(start, count, FREE))?;
        }
        Ok(free)
    }
    /// Both trees of free space hold the same.
    fn compare_free(&mut self, ag: AgNumber, mut by_block: Vec<(u32, u32)>, by_size: &[BySize]) {
        by_block.sort_unstable();
        let by_size = by_size.iter().map(|BySize(f)| (f.count, f.start));
        if by_block.iter().copied().eq(by_size.clone()) {
            return;
        }
        let mut theirs: Vec<_> = by_size.collect();
        theirs.sort_unstable();
        super::owners::differences(&by_block, &theirs, |&(count, start), missing| {
            let reason = if missing {
                format!("no free extent {start}+{count}, bnobt has it")
            } else {
                format!("a free extent {start}+{count}, bnobt does not have it")
            };
            self.header_found(BlockKind::Cntbt, ag, reason);
        });
    }
    fn check_rmaps(&mut self, ag: AgNumber, records: &[Rmap]) -> Result<()> {
        let mut rmaps = Vec::new();
        for r in records {
            let end = u64::from(r.start) + u64::from(r.count);
            if r.count == 0 || end > u64::from(self.geometry.ag_length(ag)) {
                let reason = format!("{} blocks at {} do not exist", r.count, r.start);
                self.header_found(BlockKind::Rmapbt, ag, reason);
                continue;
            }
            let claim = Claim { start: r.start, count: r.count, owner: r.owner, offset: r.offset };
            push(&mut rmaps, claim)?;
        }
        self.groups[ag.0 as usize].rmaps = Some(rmaps);
        Ok(())
    }
    fn check_refcounts(&mut self, ag: AgNumber, tree: Contents<Refcount>) -> Result<()> {
        let mut end = (false, 0);
        for r in &tree.records {
            let fits = if r.cow { r.references == 1 } else { r.references >= 2 };
            if !fits || !self.exists(ag, r.start, r.count) {
                let reason =
                    format!("{} owners of {} blocks at {}", r.references, r.count, r.start);
                self.header_found(BlockKind::Refcountbt, ag, reason);
                continue;
            }
            if (r.cow, r.start) < end {
                let reason = format!("{} blocks at {} are counted twice", r.count, r.start);
                self.header_found(BlockKind::Refcountbt, ag, reason);
            }
            end = (r.cow, r.start + r.count);
            if r.cow {
                if self.clean {
                    let reason = format!(
                        "{} blocks at {} are staged for a copy that nobody makes",
                        r.count, r.start
                    );
                    self.header_found(BlockKind::Refcountbt, ag, reason);
                }
                self.claim(ag, Claim::of(r.start, r.count, COW))?;
            }
        }
        if tree.whole {
            self.groups[ag.0 as usize].refcounts = Some(tree.records);
        }
        Ok(())
    }
    /// The chunks of inodes.
    fn check_inode_trees(&mut self, ag: AgNumber, agi: &Agi, stated: (u32, u32)) -> Result<()> {
        let counted = self.geometry.ro_compat.contains(RoCompat::INOBTCOUNT);
        let all = self.tree::<RawChunk>(ag, agi.inobt, BlockKind::Inobt, INOBT)?;
        let chunks = self.check_chunks(ag, &all.records, BlockKind::Inobt)?;
        if all.whole {
            if counted {
                let blocks = all.blocks.len() as u32;
                self.check_count(BlockKind::Agi, ag, "iblocks", stated.0, blocks);
            }
            let sum = |of: fn(&Chunk) -> u32| chunks.iter().map(of).fold(0, u32::saturating_add);
            self.check_count(BlockKind::Agi, ag, "count", agi.count, sum(|c| c.count));
            self.check_count(
                BlockKind::Agi,
                ag,
                "freecount",
                agi.free_count,
                sum(|c| c.free_count),
            );
        }
        if let Some(root) = agi.finobt {
            let some = self.tree::<RawChunk>(ag, root, BlockKind::Finobt, INOBT)?;
            let free = self.check_chunks(ag, &some.records, BlockKind::Finobt)?;
            if some.whole && counted {
                let blocks = some.blocks.len() as u32;
                self.check_count(BlockKind::Agi, ag, "fblocks", stated.1, blocks);
            }
            if all.whole && some.whole {
                self.compare_chunks(ag, &chunks, &free);
            }
        }
        self.groups[ag.0 as usize].chunks = chunks;
        Ok(())
    }
    fn check_chunks(
        &mut self,
        ag: AgNumber,
        records: &[RawChunk],
        kind: BlockKind,
    ) -> Result<Vec<Chunk>> {
        let sparse = self.geometry.incompat.contains(Incompat::SPARSE_INODES);
        let mut chunks: Vec<Chunk> = Vec::new();
        for raw in records {
            let chunk = match raw.check(&self.geometry, ag, sparse) {
                Ok(chunk) => chunk,
                Err(reason) => {
                    self.source.lost(kind.name(), format!("AG {}", ag.0), reason);
                    continue;
                }
            };
            let last_end = chunks.last().map_or(0, |c| u64::from(c.start) + 64);
            if u64::from(chunk.start) < last_end {
                let reason = format!("the chunk at {} overlaps the one before", chunk.start);
                self.source.lost(kind.name(), format!("AG {}", ag.0), reason);
                continue;
            }
            let block = chunk.start >> (self.geometry.block_log - self.geometry.inode_log);
            let align = self.geometry.inode_align_blocks.max(1);
            if self.geometry.chunk_blocks() > 1 && !block.is_multiple_of(align) {
                let reason = format!("the chunk at {} is not aligned", chunk.start);
                self.header_found(kind, ag, reason);
            }
            push(&mut chunks, chunk)?;
        }
        Ok(chunks)
    }
    /// The tree of chunks with free inodes holds just those.
    fn compare_chunks(&mut self, ag: AgNumber, all: &[Chunk], free: &[Chunk]) {
        let key = |c: &Chunk| (c.start, c.hole_mask, c.free);
        let wanted: Vec<_> = all.iter().filter(|c| c.free_count > 0).map(key).collect();
        let found: Vec<_> = free.iter().map(key).collect();
        super::owners::differences(&wanted, &found, |&(start, _, mask), missing| {
            let reason = if missing {
                format!("no chunk {start} with free inodes {mask:#x}, inobt has it")
            } else {
                format!("a chunk {start} with free inodes {mask:#x}, inobt does not have it")
            };
            self.header_found(BlockKind::Finobt, ag, reason);
        });
    }
    /// The heads of the lists of unlinked inodes.
    pub(super) fn unlinked_heads(&self, ag: AgNumber) -> Vec<(usize, u32)> {
        let agi = self.groups.get(ag.0 as usize).and_then(|g| g.agi.as_ref());
        let heads = agi.map_or(&[][..], |agi| &agi.unlinked[..]);
        let used = heads.iter().copied().enumerate();
        used.filter(|&(_, head)| head != agi::NULL_AGINO).collect()
    }
}
