//! Changing directories with data blocks and a single leaf: the index in front, the free
//! space counts of the data blocks at the end.

use super::change::{Dir, Found, New};
use super::data::{self, Space};
use super::free::NO_BLOCK;
use super::index::{self, Index};
use crate::error::Result;
use crate::xfs::da::{Siblings, Store};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::dir_data::{BLOCK_MAGIC, DATA_MAGIC, entry_bytes};
use crate::xfs::ondisk::dir_leaf::{ENTRY_BYTES, LEAF1_MAGIC};

/// Where a new entry goes.
struct Plan {
    /// The data block.
    number: usize,
    /// It has to be made.
    new: bool,
    /// The stale index entries have to be pressed out.
    compact: bool,
}

/// Where an entry of `bytes` goes; nothing if the leaf has no room for it.
fn plan(leaf: &[u8], bytes: usize) -> Option<Plan> {
    let index = Index::of_leaf(leaf);
    let count = index::bests_count(leaf);
    let fits = |i: &usize| {
        let best = index::best(leaf, *i);
        best != NO_BLOCK && usize::from(best) >= bytes
    };
    let (number, new) = match (0..count).rev().find(fits) {
        Some(i) => (i, false),
        None => ((0..count).find(|&i| index::best(leaf, i) == NO_BLOCK).unwrap_or(count), true),
    };
    let appended = if number == count { 2 } else { 0 };
    let needed = appended + if index.stale == 0 { ENTRY_BYTES } else { 0 };
    let gap = index::leaf_gap(leaf);
    if gap >= needed {
        return Some(Plan { number, new, compact: false });
    }
    let compacted = gap + index.stale * ENTRY_BYTES;
    let compact = index.stale > 0 && compacted >= appended + ENTRY_BYTES;
    compact.then_some(Plan { number, new, compact: true })
}

impl<S: Store> Dir<'_, S> {
    fn leaf(&mut self) -> Result<S::Block> {
        self.s.read(self.leaf_at(), &[BlockKind::DirLeaf1])
    }
    /// The single block becomes a data block, its index a leaf.
    pub(super) fn block_to_leaf(&mut self, block: &S::Block) -> Result<()> {
        let leaf = self.s.create(self.leaf_at(), BlockKind::DirLeaf1)?;
        let id = self.s.identity(&leaf);
        let pairs = self.s.with(block, |b| Index::of_block(b).pairs(b));
        self.s.set_kind(block, BlockKind::DirData);
        let longest = self.s.edit(block, |c| {
            let at = Index::of_block(c).at;
            let end = c.len();
            c.set_be32(0, DATA_MAGIC);
            data::give(c, Space { at, bytes: end - at }, end);
            data::longest(c)
        });
        self.s.edit(&leaf, |c| {
            index::init_leaf(c, &id, LEAF1_MAGIC, Siblings::default(), &pairs);
            index::set_bests(c, &[longest]);
        });
        Ok(())
    }
    /// A new data block.
    pub(super) fn new_data(&mut self, number: u64) -> Result<S::Block> {
        let block = self.s.create(self.data_at(number), BlockKind::DirData)?;
        let id = self.s.identity(&block);
        self.s.edit(&block, |c| data::init(c, &id));
        self.fix_size();
        Ok(block)
    }
    /// Put an entry into a data block in which it fits: where it is now, and the bytes
    /// of the largest free space left.
    pub(super) fn put_data(&mut self, block: &S::Block, new: New<'_>) -> (usize, u16) {
        let bytes = entry_bytes(new.name.len());
        self.s.edit(block, |c| {
            let end = c.len();
            let Some(space) = data::place_for(c, bytes) else { return (0, data::longest(c)) };
            data::take(c, space, Space { at: space.at, bytes }, end);
            data::put_entry(c, space.at, new.name, new.ino, new.file_type);
            (space.at, data::longest(c))
        })
    }
    /// Data block `number`, whose free space the index says is `best`.
    pub(super) fn data_block(&mut self, number: u64, best: u16) -> Result<S::Block> {
        let at = self.data_at(number);
        let block = self.s.read(at, &[BlockKind::DirData])?;
        let longest = self.s.with(&block, data::longest);
        if longest != best {
            let reason = alloc::format!("{longest} bytes are free, the index says {best}");
            return Err(self.s.corrupt(at, reason));
        }
        Ok(block)
    }
    /// Does an entry of `bytes` fit into the data blocks that there are, and into the leaf?
    pub(super) fn fits_in_leaf(&mut self, bytes: usize) -> Result<bool> {
        let leaf = self.leaf()?;
        Ok(self.s.with(&leaf, |b| plan(b, bytes)).is_some_and(|plan| !plan.new))
    }
    pub(super) fn add_to_leaf(&mut self, new: New<'_>) -> Result<()> {
        let leaf = self.leaf()?;
        let bytes = entry_bytes(new.name.len());
        let Some(plan) = self.s.with(&leaf, |b| plan(b, bytes)) else {
            self.leaf_to_node(&leaf)?;
            return self.add_to_node(new);
        };
        let block = if plan.new {
            self.new_data(plan.number as u64)?
        } else {
            let best = self.s.with(&leaf, |b| index::best(b, plan.number));
            self.data_block(plan.number as u64, best)?
        };
        let (at, longest) = self.put_data(&block, new);
        let pair = (self.hash(new.name), self.address(plan.number as u64, at));
        self.s.edit(&leaf, |c| {
            if plan.compact {
                index::compact_leaf(c);
            }
            if plan.number == index::bests_count(c) {
                let mut bests = index::bests(c);
                bests.push(longest);
                index::set_bests(c, &bests);
            } else {
                index::set_best(c, plan.number, longest);
            }
            index::add_to_leaf(c, pair);
        });
        Ok(())
    }
    /// Take an entry out of its data block: the bytes of the largest free space now,
    /// nothing if the block was the last entry's and is gone.
    pub(super) fn take_data(&mut self, found: &Found<S::Block>) -> Result<Option<u16>> {
        let longest = self.s.edit(&found.data, |c| {
            let end = c.len();
            data::give(c, Space { at: found.at, bytes: found.bytes }, end);
            data::longest(c)
        });
        // The first block is never empty, it has "." and "..".
        if usize::from(longest) < data::room(self.block_bytes()) || found.number == 0 {
            return Ok(Some(longest));
        }
        self.s.free(self.data_at(found.number), found.data.clone())?;
        self.fix_size();
        Ok(None)
    }
    pub(super) fn remove_from_leaf(&mut self, found: &Found<S::Block>) -> Result<()> {
        let leaf = self.leaf()?;
        if found.number >= self.s.with(&leaf, index::bests_count) as u64 {
            let reason = alloc::format!("no free space count for data block {}", found.number);
            return Err(self.s.corrupt(self.leaf_at(), reason));
        }
        let longest = self.take_data(found)?;
        self.s.edit(&leaf, |c| {
            index::forget_in_leaf(c, found.index);
            index::set_best(c, found.number as usize, longest.unwrap_or(NO_BLOCK));
            if longest.is_none() {
                trim(c);
            }
        });
        self.leaf_to_block(&leaf)
    }
    /// Free empty data blocks at the end, which are left behind where there was no space
    /// to free them.
    fn trim_data(&mut self, leaf: &S::Block) -> Result<()> {
        let empty = data::room(self.block_bytes()) as u16;
        loop {
            let count = self.s.with(leaf, index::bests_count);
            if count <= 1 || self.s.with(leaf, |b| index::best(b, count - 1)) != empty {
                return Ok(());
            }
            let block = self.data_block(count as u64 - 1, empty)?;
            self.s.free(self.data_at(count as u64 - 1), block)?;
            self.fix_size();
            self.s.edit(leaf, |c| {
                index::set_best(c, count - 1, NO_BLOCK);
                trim(c);
            });
        }
    }
    /// Back to a single block if the index fits behind the entries.
    pub(super) fn leaf_to_block(&mut self, leaf: &S::Block) -> Result<()> {
        self.trim_data(leaf)?;
        if self.s.with(leaf, index::bests_count) != 1 {
            return Ok(());
        }
        let block = self.s.read(0, &[BlockKind::DirData])?;
        let length = self.block_bytes();
        let live = self.s.with(leaf, |b| Index::of_leaf(b).live());
        let bytes = index::block_index_bytes(live);
        let last = self.s.with(&block, |b| data::free_before(b, length));
        let Some(free) = last.filter(|s| s.bytes >= bytes) else { return Ok(()) };
        let pairs = self.s.with(leaf, |b| Index::of_leaf(b).pairs(b));
        self.s.set_kind(&block, BlockKind::DirBlock);
        self.s.edit(&block, |c| {
            let end = length - bytes;
            data::take(c, free, Space { at: end, bytes }, end);
            c.set_be32(0, BLOCK_MAGIC);
            index::set_block(c, &pairs);
        });
        self.s.free(self.leaf_at(), leaf.clone())?;
        self.block_to_small(block)
    }
}

/// Drop counts of blocks that are not there at the end.
fn trim(c: &mut dyn crate::xfs::da::Change) {
    let mut bests = index::bests(c);
    while bests.last() == Some(&NO_BLOCK) {
        bests.pop();
    }
    index::set_bests(c, &bests);
}
