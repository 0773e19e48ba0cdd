//! Changing hash indexes, byte by byte: the one at the end of a single block, and those
//! in leaves.
//!
//! An index is sorted by hash. An entry that is no more becomes stale: it keeps its hash
//! and its place until that is used again or all stale ones are pressed out.

use alloc::vec::Vec;

use crate::xfs::da::{Change, Identity, Siblings};
use crate::xfs::ondisk::dir_data::BlockTail;
use crate::xfs::ondisk::dir_leaf::{ENTRY_BYTES, Header, NULL_ADDRESS, Tail};
use crate::xfs::ondisk::{be16, be32};

/// A hash and where the entry is, in units of eight bytes.
pub(super) type Pair = (u32, u32);

/// Where an index lies in its block and what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Index {
    /// Where it starts.
    pub(super) at: usize,
    /// Entries, stale ones included.
    pub(super) count: usize,
    /// Stale ones.
    pub(super) stale: usize,
}

const LEAF_COUNT: usize = 56;
const LEAF_STALE: usize = 58;

impl Index {
    /// That of a leaf.
    pub(super) fn of_leaf(block: &[u8]) -> Self {
        let field = |at| usize::from(be16(block, at).unwrap_or(0));
        let most = (block.len() - Header::SIZE) / ENTRY_BYTES;
        Self { at: Header::SIZE, count: field(LEAF_COUNT).min(most), stale: field(LEAF_STALE) }
    }
    /// That of a single block, which was verified.
    pub(super) fn of_block(block: &[u8]) -> Self {
        let tail = block.len() - BlockTail::SIZE;
        let field = |at| be32(block, at).unwrap_or(0) as usize;
        let count = field(tail).min(tail / ENTRY_BYTES);
        Self { at: tail - count * ENTRY_BYTES, count, stale: field(tail + 4) }
    }
    /// Entries that count.
    pub(super) const fn live(&self) -> usize {
        self.count.saturating_sub(self.stale)
    }
    const fn place(&self, i: usize) -> usize {
        self.at + i * ENTRY_BYTES
    }
    /// Entry `i`.
    pub(super) fn entry(&self, block: &[u8], i: usize) -> Pair {
        let at = self.place(i);
        (be32(block, at).unwrap_or(0), be32(block, at + 4).unwrap_or(0))
    }
    /// The first entry whose hash is not below `hash`.
    pub(super) fn search(&self, block: &[u8], hash: u32) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(block, middle).0 < hash {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
    /// The entries that count, in order.
    pub(super) fn pairs(&self, block: &[u8]) -> Vec<Pair> {
        let all = (0..self.count).map(|i| self.entry(block, i));
        all.filter(|&(_, address)| address != NULL_ADDRESS).collect()
    }
    fn put(&self, c: &mut dyn Change, i: usize, (hash, address): Pair) {
        c.set_be64(self.place(i), u64::from(hash) << 32 | u64::from(address));
    }
    /// The stale entry closest to place `wanted`: the last one before it, or the first one
    /// from it on if that is not farther.
    fn nearest_stale(&self, block: &[u8], wanted: usize) -> (Option<usize>, Option<usize>) {
        let entries = &block[self.at..self.place(self.count)];
        let stale = |entry: &[u8]| entry[4..] == NULL_ADDRESS.to_be_bytes();
        let (before, behind) = entries.split_at(wanted * ENTRY_BYTES);
        let low = before.chunks_exact(ENTRY_BYTES).rposition(stale);
        let reach = low.map_or(self.count - wanted, |low| wanted - low);
        let high = behind.chunks_exact(ENTRY_BYTES).take(reach).position(stale);
        (low, high.map(|i| wanted + i))
    }
    /// Put an entry in where a stale one is. There is one.
    fn reuse(&self, c: &mut dyn Change, pair: Pair) {
        let wanted = self.search(c, pair.0);
        match self.nearest_stale(c, wanted) {
            (_, Some(high)) => {
                c.move_within(self.place(wanted)..self.place(high), self.place(wanted + 1));
                self.put(c, wanted, pair);
            }
            (Some(low), None) => {
                c.move_within(self.place(low + 1)..self.place(wanted), self.place(low));
                self.put(c, wanted - 1, pair);
            }
            (None, None) => {}
        }
    }
    fn set_leaf(&self, c: &mut dyn Change) {
        if be16(c, LEAF_COUNT) != Some(self.count as u16) {
            c.set_be16(LEAF_COUNT, self.count as u16);
        }
        if be16(c, LEAF_STALE) != Some(self.stale as u16) {
            c.set_be16(LEAF_STALE, self.stale as u16);
        }
    }
    fn set_block(&self, c: &mut dyn Change) {
        let tail = c.len() - BlockTail::SIZE;
        c.set_be64(tail, (self.count as u64) << 32 | self.stale as u64);
    }
}

/// Add an entry to a leaf; there is room, or a stale entry.
pub(super) fn add_to_leaf(c: &mut dyn Change, pair: Pair) {
    let mut index = Index::of_leaf(c);
    if index.stale > 0 {
        index.reuse(c, pair);
        index.stale -= 1;
    } else {
        let i = index.search(c, pair.0);
        c.move_within(index.place(i)..index.place(index.count), index.place(i + 1));
        index.put(c, i, pair);
        index.count += 1;
    }
    index.set_leaf(c);
}

/// Add an entry to a single block's index; the eight bytes before it are the index's, or
/// there is a stale entry.
pub(super) fn add_to_block(c: &mut dyn Change, pair: Pair) {
    let mut index = Index::of_block(c);
    if index.stale > 0 {
        index.reuse(c, pair);
        index.stale -= 1;
    } else {
        let i = index.search(c, pair.0);
        let old = index;
        index.at -= ENTRY_BYTES;
        index.count += 1;
        c.move_within(old.at..old.place(i), index.at);
        index.put(c, i, pair);
    }
    index.set_block(c);
}

/// Entry `i` of a leaf is no more.
pub(super) fn forget_in_leaf(c: &mut dyn Change, i: usize) {
    let mut index = Index::of_leaf(c);
    c.set_be32(index.place(i) + 4, NULL_ADDRESS);
    index.stale += 1;
    index.set_leaf(c);
}

/// Entry `i` of a single block is no more.
pub(super) fn forget_in_block(c: &mut dyn Change, i: usize) {
    let mut index = Index::of_block(c);
    c.set_be32(index.place(i) + 4, NULL_ADDRESS);
    index.stale += 1;
    index.set_block(c);
}

/// Fill a leaf's index. The header's other parts are there.
pub(super) fn set_leaf(c: &mut dyn Change, pairs: &[Pair]) {
    let index = Index { at: Header::SIZE, count: pairs.len(), stale: 0 };
    for (i, pair) in pairs.iter().enumerate() {
        index.put(c, i, *pair);
    }
    index.set_leaf(c);
}

/// Press the stale entries out of a leaf.
pub(super) fn compact_leaf(c: &mut dyn Change) {
    let index = Index::of_leaf(c);
    let mut to = 0;
    for from in 0..index.count {
        let pair = index.entry(c, from);
        if pair.1 != NULL_ADDRESS {
            if to != from {
                index.put(c, to, pair);
            }
            to += 1;
        }
    }
    Index { count: to, stale: 0, ..index }.set_leaf(c);
}

/// Write a single block's index, its entries in order; it ends the block.
pub(super) fn set_block(c: &mut dyn Change, pairs: &[Pair]) {
    let tail = c.len() - BlockTail::SIZE;
    let at = tail - pairs.len() * ENTRY_BYTES;
    let index = Index { at, count: pairs.len(), stale: 0 };
    for (i, pair) in pairs.iter().enumerate() {
        index.put(c, i, *pair);
    }
    index.set_block(c);
}

/// Bytes of a single block's index with this many entries.
pub(super) const fn block_index_bytes(count: usize) -> usize {
    count * ENTRY_BYTES + BlockTail::SIZE
}

/// Make a new block a leaf.
pub(super) fn init_leaf(
    c: &mut dyn Change,
    id: &Identity,
    magic: u16,
    siblings: Siblings,
    pairs: &[Pair],
) {
    id.put_info(c, magic, siblings);
    set_leaf(c, pairs);
    c.set_be32(60, 0);
}

/// Entries that fit into a leaf below nodes.
pub(super) const fn leaf_capacity(block_bytes: usize) -> usize {
    (block_bytes - Header::SIZE) / ENTRY_BYTES
}

/// The greatest hash in a leaf.
pub(super) fn last_hash(block: &[u8]) -> u32 {
    let index = Index::of_leaf(block);
    index.count.checked_sub(1).map_or(0, |last| index.entry(block, last).0)
}

/// Bytes of a leaf that are used, stale entries left out; 0 if nothing is in it.
pub(super) fn used(block: &[u8]) -> usize {
    match Index::of_leaf(block).live() {
        0 => 0,
        live => Header::SIZE + live * ENTRY_BYTES,
    }
}

/// Move all of `right` behind what is in the left leaf.
pub(super) fn merge(left: &mut dyn Change, right: &[u8]) {
    compact_leaf(left);
    let more = Index::of_leaf(right).pairs(right);
    let mut index = Index::of_leaf(left);
    for pair in more {
        index.put(left, index.count, pair);
        index.count += 1;
    }
    index.set_leaf(left);
}

/// The free space counts at the end of a single leaf: how many.
pub(super) fn bests_count(block: &[u8]) -> usize {
    let tail = block.len() - Tail::SIZE;
    (be32(block, tail).unwrap_or(0) as usize).min(tail / 2)
}

/// Where count `i` of `count` lies.
const fn best_place(block_bytes: usize, count: usize, i: usize) -> usize {
    block_bytes - Tail::SIZE - (count - i) * 2
}

/// Free space count `i` of a single leaf.
pub(super) fn best(block: &[u8], i: usize) -> u16 {
    be16(block, best_place(block.len(), bests_count(block), i)).unwrap_or(0)
}

/// All of them.
pub(super) fn bests(block: &[u8]) -> Vec<u16> {
    (0..bests_count(block)).map(|i| best(block, i)).collect()
}

/// Change free space count `i`.
pub(super) fn set_best(c: &mut dyn Change, i: usize, value: u16) {
    if best(c, i) != value {
        let at = best_place(c.len(), bests_count(c), i);
        c.set_be16(at, value);
    }
}

/// There are `values` as free space counts.
pub(super) fn set_bests(c: &mut dyn Change, values: &[u16]) {
    let length = c.len();
    for (i, value) in values.iter().enumerate() {
        c.set_be16(best_place(length, values.len(), i), *value);
    }
    c.set_be32(length - Tail::SIZE, values.len() as u32);
}

/// Bytes between a single leaf's index and its free space counts.
pub(super) fn leaf_gap(block: &[u8]) -> usize {
    let index = Index::of_leaf(block);
    let start = best_place(block.len(), bests_count(block), 0);
    start.saturating_sub(index.place(index.count))
}

/// Bytes of a single leaf with so many entries and free space counts.
pub(super) const fn single_leaf_bytes(entries: usize, bests: usize) -> usize {
    Header::SIZE + entries * ENTRY_BYTES + bests * 2 + Tail::SIZE
}

/// Drop all entries of a leaf from number `count` on; none of the others is stale.
pub(super) fn truncate_leaf(c: &mut dyn Change, count: usize) {
    Index { at: Header::SIZE, count, stale: 0 }.set_leaf(c);
}
