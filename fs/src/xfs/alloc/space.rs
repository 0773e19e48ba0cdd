//! A group's headers and its two trees of free extents, changed together.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;

use holdfast_sync::atomic::{AtomicU32, Ordering};

use super::AgReserve;
use super::busy::Busy;
use super::freelist;
use super::reserve::Pool;
use crate::error::{Corruption, Error, Result};
use crate::xfs::btree::{Cursor, Entry, Pointers, Root, Shape};
use crate::xfs::buf::Buffer;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::agf::Agf;
use crate::xfs::ondisk::be32;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::freesp::{ByBlock, BySize, FreeExtent};
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber};

/// Where the AGF keeps what changes.
pub(super) mod at {
    pub const BNO_ROOT: usize = 16;
    pub const CNT_ROOT: usize = 20;
    pub const BNO_LEVELS: usize = 28;
    pub const CNT_LEVELS: usize = 32;
    pub const RMAP_LEVELS: usize = 36;
    pub const LIST_FIRST: usize = 40;
    pub const LIST_LAST: usize = 44;
    pub const LIST_COUNT: usize = 48;
    pub const FREE_BLOCKS: usize = 52;
    pub const LONGEST: usize = 56;
    pub const BTREE_BLOCKS: usize = 60;
    pub const RMAP_BLOCKS: usize = 80;
    pub const REFCOUNT_BLOCKS: usize = 84;
}

/// What is kept in memory of a group's space.
#[derive(Default)]
pub struct AgSpace {
    free: AtomicU32,
    longest: AtomicU32,
    /// Blocks in the AGFL, as far as it needs them.
    listed: AtomicU32,
    needed: AtomicU32,
    pub(super) busy: Busy,
    pub(super) metadata: Pool,
    pub(super) rmapbt: Pool,
}

impl AgSpace {
    /// What the AGF says now, for those who ask without a lock.
    pub(super) fn publish(&self, agf: &Agf, rmap_blocks: u32) {
        let needed = freelist::needed(agf);
        self.free.store(agf.free_blocks, Ordering::Relaxed);
        self.longest.store(agf.longest, Ordering::Relaxed);
        self.needed.store(needed, Ordering::Relaxed);
        self.listed.store(agf.free_list_count.min(needed), Ordering::Relaxed);
        self.rmapbt.set_used(rmap_blocks);
    }
    /// Blocks kept back from an allocation out of `reserve`.
    pub(super) fn kept(&self, reserve: AgReserve) -> u32 {
        match reserve {
            AgReserve::None => self.metadata.unused() + self.rmapbt.unused(),
            AgReserve::Metadata => self.rmapbt.unused(),
            AgReserve::Rmapbt => self.metadata.unused(),
        }
    }
}

/// What a group has, as of a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Blocks that can be allocated.
    pub free: u32,
    /// The longest free extent.
    pub longest: u32,
}

impl Mount {
    /// What a group has, without looking at the disk or waiting for a lock.
    ///
    /// # Panics
    /// There is no such group.
    pub fn space_of(&self, ag: AgNumber) -> Summary {
        let space = &self.perags[ag.0 as usize].space;
        let load = |value: &AtomicU32| value.load(Ordering::Relaxed);
        let kept = load(&space.needed) + space.kept(AgReserve::None);
        Summary {
            free: (load(&space.free) + load(&space.listed)).saturating_sub(kept),
            longest: load(&space.longest),
        }
    }
}

impl Entry for ByBlock {
    fn encode(&self, bytes: &mut [u8]) {
        encode(self.0, bytes);
    }
    fn encode_key(key: &u32, bytes: &mut [u8]) {
        encode(FreeExtent { start: *key, count: 0 }, bytes);
    }
    fn encode_own_key(&self, bytes: &mut [u8]) {
        // Nodes have whole records as keys, though only the block matters.
        encode(self.0, bytes);
    }
}

impl Entry for BySize {
    fn encode(&self, bytes: &mut [u8]) {
        encode(self.0, bytes);
    }
    fn encode_key(key: &(u32, u32), bytes: &mut [u8]) {
        encode(FreeExtent { start: key.1, count: key.0 }, bytes);
    }
}

fn encode(extent: FreeExtent, bytes: &mut [u8]) {
    bytes[0..4].copy_from_slice(&extent.start.to_be_bytes());
    bytes[4..8].copy_from_slice(&extent.count.to_be_bytes());
}

/// One of the two trees of free extents.
#[derive(Clone)]
pub(super) struct FreeTree<R> {
    ag: AgNumber,
    agf: Arc<Buffer>,
    kind: BlockKind,
    record: core::marker::PhantomData<R>,
}

impl<R: Entry> Shape for FreeTree<R> {
    type Record = R;
    const POINTERS: Pointers = Pointers::Short;

    fn kind(&self) -> BlockKind {
        self.kind
    }
    fn owner(&self) -> u64 {
        u64::from(self.ag.0)
    }
    fn root(&self, _tp: &mut Trans<'_>) -> Result<Root> {
        let bytes = self.agf.read();
        let (root, levels) = self.places();
        Ok(Root::Block {
            block: be32(&bytes, root).map_or(u64::MAX, u64::from),
            levels: be32(&bytes, levels).unwrap_or(0),
        })
    }
    fn set_root(&mut self, tp: &mut Trans<'_>, block: u64, levels: u32) -> Result<()> {
        let (root, levels_at) = self.places();
        let mut edit = tp.edit(&self.agf);
        edit.set_be32(root, block as u32);
        edit.set_be32(levels_at, levels);
        Ok(())
    }
    fn allocate(&mut self, tp: &mut Trans<'_>, _near: u64) -> Result<Option<u64>> {
        let block = freelist::take(tp, self.ag)?;
        Ok(block.map(|b| u64::from(b.0)))
    }
    fn free(&mut self, tp: &mut Trans<'_>, block: u64) -> Result<()> {
        freelist::give(tp, self.ag, AgBlock(block as u32))
    }
}

impl<R> FreeTree<R> {
    const fn places(&self) -> (usize, usize) {
        match self.kind {
            BlockKind::Bnobt => (at::BNO_ROOT, at::BNO_LEVELS),
            _ => (at::CNT_ROOT, at::CNT_LEVELS),
        }
    }
}

/// A group whose AGF the transaction has locked.
pub(super) struct Group {
    pub ag: AgNumber,
    pub agf: Arc<Buffer>,
}

impl Group {
    /// Open a locked group and check its AGF.
    pub fn open(tp: &mut Trans<'_>, ag: AgNumber) -> Result<Self> {
        debug_assert!(tp.holds_agf(ag), "the group is locked");
        let agf = tp.header(ag, BlockKind::Agf)?;
        let group = Self { ag, agf };
        let geometry = tp.mount().geometry();
        let checked = Agf::decode(&group.agf.read(), geometry, ag);
        let agf = checked.map_err(|reason| Error::from(group.damage("AGF", reason)))?;
        let rmap_blocks = group.get(at::RMAP_BLOCKS);
        group.space(tp.mount()).publish(&agf, rmap_blocks);
        Ok(group)
    }
    /// The changed AGF, for those who ask without a lock.
    pub fn publish_changes(&self, tp: &Trans<'_>) {
        let needed = self.needed(tp);
        let space = self.space(tp.mount());
        let bytes = self.agf.read();
        let get = |offset| be32(&bytes, offset).unwrap_or(0);
        space.free.store(get(at::FREE_BLOCKS), Ordering::Relaxed);
        space.longest.store(get(at::LONGEST), Ordering::Relaxed);
        space.needed.store(needed, Ordering::Relaxed);
        space.listed.store(get(at::LIST_COUNT).min(needed), Ordering::Relaxed);
        space.rmapbt.set_used(get(at::RMAP_BLOCKS));
    }
    /// Blocks that an allocation out of `reserve` may take: what is free, less what the
    /// AGFL needs and what is kept back for others. May be less than nothing.
    pub fn available(&self, tp: &Trans<'_>, reserve: AgReserve) -> i64 {
        let space = self.space(tp.mount());
        let needed = self.needed(tp);
        let free = i64::from(self.get(at::FREE_BLOCKS));
        let listed = i64::from(self.get(at::LIST_COUNT).min(needed));
        free + listed - i64::from(needed) - i64::from(space.kept(reserve))
    }
    pub fn space<'m>(&self, mount: &'m Mount) -> &'m AgSpace {
        &mount.perags[self.ag.0 as usize].space
    }
    /// The AGF's number at `offset`.
    pub fn get(&self, offset: usize) -> u32 {
        be32(&self.agf.read(), offset).unwrap_or(0)
    }
    pub fn set(&self, tp: &mut Trans<'_>, offset: usize, value: u32) {
        tp.edit(&self.agf).set_be32(offset, value);
    }
    pub fn by_block(&self) -> Cursor<FreeTree<ByBlock>> {
        Cursor::new(self.tree(BlockKind::Bnobt))
    }
    pub fn by_size(&self) -> Cursor<FreeTree<BySize>> {
        Cursor::new(self.tree(BlockKind::Cntbt))
    }
    fn tree<R>(&self, kind: BlockKind) -> FreeTree<R> {
        let record = core::marker::PhantomData;
        FreeTree { ag: self.ag, agf: self.agf.clone(), kind, record }
    }
    pub fn damage(&self, structure: &'static str, reason: String) -> Corruption {
        Corruption { structure, location: format!("AG {}", self.ag.0), reason }
    }
    /// A free extent that a tree names lies within the group.
    pub fn check(&self, tp: &Trans<'_>, extent: FreeExtent) -> Result<FreeExtent> {
        let geometry = tp.mount().geometry();
        let start = geometry.fs_block(self.ag, AgBlock(extent.start));
        if extent.start < geometry.ag_length(self.ag)
            && geometry.has_blocks(start, u64::from(extent.count))
        {
            return Ok(extent);
        }
        let reason = format!("{} blocks at {} do not exist", extent.count, extent.start);
        Err(self.damage("bnobt", reason).into())
    }
    /// Take `count` blocks from `start` on out of a free extent that contains them, and
    /// that `found` stands on if it is given.
    pub fn take(
        &self,
        tp: &mut Trans<'_>,
        whole: FreeExtent,
        start: u32,
        count: u32,
        found: Option<Cursor<FreeTree<ByBlock>>>,
    ) -> Result<()> {
        let found = found.map_or_else(
            || {
                let mut by_block = self.by_block();
                by_block.lookup_eq(tp, &whole.start).map(|_| by_block)
            },
            Ok,
        );
        let mut by_block = found?;
        let mut by_size = self.by_size();
        let same = by_block.get(tp)?.map(|r| r.0) == Some(whole);
        if !same || !by_size.lookup_eq(tp, &(whole.count, whole.start))? {
            let reason = format!(
                "{} free blocks at {} are in one of the trees of free space only",
                whole.count, whole.start
            );
            return Err(self.damage("bnobt", reason).into());
        }
        let longest = self.get(at::LONGEST);
        let left = FreeExtent { start: whole.start, count: start - whole.start };
        let behind = start + count;
        let right = FreeExtent { start: behind, count: whole.start + whole.count - behind };
        match (left.count > 0, right.count > 0) {
            (false, false) => {
                by_block.delete(tp)?;
                by_size.delete(tp)?;
            }
            (true, false) => {
                by_block.update(tp, &ByBlock(left))?;
                by_size.replace(tp, &BySize(left))?;
            }
            (false, true) => {
                by_block.update(tp, &ByBlock(right))?;
                by_size.replace(tp, &BySize(right))?;
            }
            (true, true) => {
                by_block.update(tp, &ByBlock(left))?;
                by_block.insert(tp, &ByBlock(right))?;
                by_size.replace(tp, &BySize(left))?;
                by_size.insert(tp, &BySize(right))?;
            }
        }
        let free = self.get(at::FREE_BLOCKS);
        let Some(rest) = free.checked_sub(count) else {
            let reason = format!("{free} free blocks, {count} were allocated");
            return Err(self.damage("AGF", reason).into());
        };
        self.set(tp, at::FREE_BLOCKS, rest);
        if whole.count >= longest {
            self.find_longest(tp, &mut by_size)?;
        }
        self.publish_changes(tp);
        Ok(())
    }
    fn find_longest(
        &self,
        tp: &mut Trans<'_>,
        by_size: &mut Cursor<FreeTree<BySize>>,
    ) -> Result<()> {
        by_size.last_from_here(tp)?;
        let longest = by_size.get(tp)?.map_or(0, |BySize(extent)| extent.count);
        if longest != self.get(at::LONGEST) {
            self.set(tp, at::LONGEST, longest);
        }
        Ok(())
    }
    /// Add blocks to the free ones, joined with free neighbours.
    pub fn give(&self, tp: &mut Trans<'_>, start: u32, count: u32) -> Result<()> {
        let freed = self.check(tp, FreeExtent { start, count })?;
        let mut by_block = self.by_block();
        let left = if by_block.lookup_le(tp, &start)? { by_block.get(tp)? } else { None };
        by_block.next(tp)?;
        let right = by_block.get(tp)?;
        let (left, right) = (left.map(|r| r.0), right.map(|r| r.0));
        for other in [left, right].into_iter().flatten() {
            self.check(tp, other)?;
            if other.start < start + count && start < other.start + other.count {
                let reason = format!(
                    "{count} blocks at {start} are freed, {} at {} are free already",
                    other.count, other.start
                );
                return Err(self.damage("bnobt", reason).into());
            }
        }
        let left = left.filter(|left| left.start + left.count == start);
        let right = right.filter(|right| right.start == start + count);
        self.join(tp, &mut by_block, freed, left, right)?;
        let free = self.get(at::FREE_BLOCKS) + count;
        if free > tp.mount().geometry().ag_length(self.ag) {
            return Err(self.damage("AGF", format!("{free} free blocks")).into());
        }
        self.set(tp, at::FREE_BLOCKS, free);
        self.publish_changes(tp);
        Ok(())
    }
    /// Put a freed extent into both trees, as one record with its free neighbours. The
    /// cursor stands behind where it belongs.
    fn join(
        &self,
        tp: &mut Trans<'_>,
        by_block: &mut Cursor<FreeTree<ByBlock>>,
        freed: FreeExtent,
        left: Option<FreeExtent>,
        right: Option<FreeExtent>,
    ) -> Result<()> {
        let mut by_size = self.by_size();
        let start = left.map_or(freed.start, |left| left.start);
        let count = [left, right].into_iter().flatten().fold(freed.count, |n, e| n + e.count);
        let whole = FreeExtent { start, count };
        match (left, right) {
            (Some(_), Some(_)) => {
                by_block.delete(tp)?;
                by_block.lookup_eq(tp, &start)?;
                by_block.update(tp, &ByBlock(whole))?;
            }
            (None, Some(_)) => by_block.update(tp, &ByBlock(whole))?,
            (Some(_), None) => {
                by_block.previous(tp)?;
                by_block.update(tp, &ByBlock(whole))?;
            }
            (None, None) => by_block.insert(tp, &ByBlock(whole))?,
        }
        let mut replaced = false;
        for gone in [left, right].into_iter().flatten() {
            if !by_size.lookup_eq(tp, &(gone.count, gone.start))? {
                let reason = format!("{} free blocks at {} are missing", gone.count, gone.start);
                return Err(self.damage("cntbt", reason).into());
            }
            if left.is_some() && right.is_some() && !replaced {
                by_size.delete(tp)?;
                replaced = true;
            } else {
                by_size.replace(tp, &BySize(whole))?;
            }
        }
        if left.is_none() && right.is_none() {
            by_size.insert(tp, &BySize(whole))?;
        }
        if whole.count > self.get(at::LONGEST) {
            self.set(tp, at::LONGEST, whole.count);
        }
        Ok(())
    }
}
