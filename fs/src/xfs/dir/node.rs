//! Changing directories whose index is a hash tree; the free space counts of the data
//! blocks have blocks of their own.

use super::change::{Dir, Found, New};
use super::free::{self, NO_BLOCK};
use super::index::{self, Index};
use crate::error::{Error, Result};
use crate::xfs::da::{Siblings, Store};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::dir_data::entry_bytes;
use crate::xfs::ondisk::dir_leaf::{LEAF1_MAGIC, LEAFN_MAGIC};

const FREE: &[BlockKind] = &[BlockKind::DirFree];
const MAGIC: usize = 8;

impl<S: Store> Dir<'_, S> {
    /// Counts in a free space block.
    fn counts(&self) -> u64 {
        free::capacity(self.block_bytes()) as u64
    }
    /// Where the count of data block `number` is: the block's place, and which.
    fn free_place(&self, number: u64) -> (u64, usize) {
        let place = self.free_places().start + number / self.counts() * self.s.unit();
        (place, (number % self.counts()) as usize)
    }
    /// The leaf's free space counts get a block of their own, it becomes a tree's leaf.
    pub(super) fn leaf_to_node(&mut self, leaf: &S::Block) -> Result<()> {
        let bests = self.s.with(leaf, index::bests);
        let block = self.s.create(self.free_places().start, BlockKind::DirFree)?;
        let id = self.s.identity(&block);
        self.s.edit(&block, |c| free::init(c, &id, 0, &bests));
        self.s.set_kind(leaf, BlockKind::DirLeafN);
        self.s.edit(leaf, |c| c.set_be16(MAGIC, LEAFN_MAGIC));
        Ok(())
    }
    /// The free space block at `place`, if there is one.
    fn find_free(&mut self, place: u64) -> Result<Option<S::Block>> {
        let Some(block) = self.s.find(place, FREE)? else { return Ok(None) };
        let first = (place - self.free_places().start) / self.s.unit() * self.counts();
        let stated = self.s.with(&block, free::first);
        if stated != first {
            let reason = alloc::format!("counts from data block {stated} on, not {first}");
            return Err(self.s.corrupt(place, reason));
        }
        Ok(Some(block))
    }
    /// The free space block at `place`, which there has to be.
    fn read_free(&mut self, place: u64) -> Result<S::Block> {
        let block = self.find_free(place)?;
        block.ok_or_else(|| self.s.corrupt(place, "there is no free space block".into()))
    }
    /// A data block in which `bytes` fit: its number and free space.
    fn find_space(&mut self, bytes: usize) -> Result<Option<(u64, u16)>> {
        let places = self.free_places();
        let mut at = self.s.end_before(places.end);
        while at > places.start {
            at -= self.s.unit();
            if let Some(block) = self.find_free(at)? {
                let found =
                    self.s.with(&block, |b| free::search(b, bytes).map(|i| (i, free::count(b, i))));
                if let Some((i, count)) = found {
                    let first = (at - places.start) / self.s.unit() * self.counts();
                    return Ok(Some((first + i as u64, count)));
                }
            }
        }
        Ok(None)
    }
    /// The count of data block `number` changes.
    fn set_count(&mut self, number: u64, value: u16) -> Result<()> {
        let (place, i) = self.free_place(number);
        let block = self.read_free(place)?;
        self.s.edit(&block, |c| free::set(c, i, value));
        if value == NO_BLOCK && self.s.with(&block, free::used) == 0 {
            self.s.free(place, block)?;
        }
        Ok(())
    }
    /// Does an entry of `bytes` fit into the data blocks that there are, and its hash into
    /// the leaf where it belongs?
    pub(super) fn fits_in_tree(&mut self, bytes: usize, hash: u32) -> Result<bool> {
        if self.find_space(bytes)?.is_none() {
            return Ok(false);
        }
        let leaf = self.tree().descend(self.s, hash)?.leaf;
        let index = self.s.with(&leaf, Index::of_leaf);
        Ok(index.stale > 0 || index.count < index::leaf_capacity(self.block_bytes()))
    }
    pub(super) fn add_to_node(&mut self, new: New<'_>) -> Result<()> {
        let (number, block) = match self.find_space(entry_bytes(new.name.len()))? {
            Some((number, best)) => (number, self.data_block(number, best)?),
            None => self.new_counted_data()?,
        };
        let (at, longest) = self.put_data(&block, new);
        self.set_count(number, longest)?;
        let pair = (self.hash(new.name), self.address(number, at));
        self.insert_in_tree(pair)
    }
    /// A new data block in the first hole, with a place for its count.
    fn new_counted_data(&mut self) -> Result<(u64, S::Block)> {
        let at = self.s.first_hole(0..self.leaf_at(), self.s.unit()).ok_or(Error::NoSpace)?;
        let number = at / self.s.unit();
        let (place, _) = self.free_place(number);
        if self.find_free(place)?.is_none() {
            let block = self.s.create(place, BlockKind::DirFree)?;
            let id = self.s.identity(&block);
            let first = number / self.counts() * self.counts();
            self.s.edit(&block, |c| free::init(c, &id, first as u32, &[]));
        }
        Ok((number, self.new_data(number)?))
    }
    fn insert_in_tree(&mut self, pair: index::Pair) -> Result<()> {
        let tree = self.tree();
        let capacity = index::leaf_capacity(self.block_bytes());
        loop {
            let mut path = tree.descend(self.s, pair.0)?;
            let index = self.s.with(&path.leaf, Index::of_leaf);
            if index.stale > 0 || index.count < capacity {
                self.s.edit(&path.leaf, |c| index::add_to_leaf(c, pair));
                tree.fix_hashes(self.s, &path);
                return Ok(());
            }
            let pairs = self.s.with(&path.leaf, |b| index.pairs(b));
            let (kept, moved) = pairs.split_at(pairs.len() / 2);
            let (at, right, siblings) = tree.new_right(self.s, &mut path)?;
            let id = self.s.identity(&right);
            self.s.edit(&right, |c| index::init_leaf(c, &id, LEAFN_MAGIC, siblings, moved));
            self.s.edit(&path.leaf, |c| index::truncate_leaf(c, kept.len()));
            tree.add_right(self.s, path, at, &right)?;
        }
    }
    pub(super) fn remove_from_node(&mut self, mut found: Found<S::Block>) -> Result<()> {
        let Some(path) = found.path.take() else { return Err(Error::NotFound) };
        // What cannot be read shows before anything is changed.
        let (place, _) = self.free_place(found.number);
        self.read_free(place)?;
        let longest = self.take_data(&found)?;
        self.s.edit(&path.leaf, |c| index::forget_in_leaf(c, found.index));
        self.set_count(found.number, longest.unwrap_or(NO_BLOCK))?;
        self.tree().shrink(self.s, path)?;
        self.node_to_leaf()
    }
    /// Back to a single leaf if the index is one leaf, the counts one block, and they fit
    /// together.
    fn node_to_leaf(&mut self) -> Result<()> {
        let at = self.leaf_at();
        let leaf = self.s.read(at, self.tree().root)?;
        let places = self.free_places();
        if self.s.kind(&leaf) != BlockKind::DirLeafN
            || self.s.end_before(places.end) != places.start + self.s.unit()
            || self.s.end_before(places.start) != at + self.s.unit()
        {
            return Ok(());
        }
        let block = self.read_free(places.start)?;
        let counts: alloc::vec::Vec<u16> =
            self.s.with(&block, |b| (0..free::valid(b)).map(|i| free::count(b, i)).collect());
        let live = self.s.with(&leaf, |b| Index::of_leaf(b).live());
        if index::single_leaf_bytes(live, counts.len()) > self.block_bytes() {
            return Ok(());
        }
        self.s.set_kind(&leaf, BlockKind::DirLeaf1);
        self.s.edit(&leaf, |c| {
            index::compact_leaf(c);
            c.set_be16(MAGIC, LEAF1_MAGIC);
            Siblings::default().put(c);
            index::set_bests(c, &counts);
        });
        self.s.free(places.start, block)?;
        self.leaf_to_block(&leaf)
    }
}
