//! Delayed allocation: ranges of a fork for which space is reserved, but no blocks chosen.
//!
//! Each range carries, besides a block for each of its own, a reserve for the blocks that
//! the extent tree may need when the range becomes extents, at worst one for each block.
//! The sum of both was taken from the free blocks of the mount and is given back, or
//! handed to a transaction, block for block.

use alloc::collections::BTreeMap;
use core::ops::Range;

use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::bmbt::{MAX_BLOCKS, RECORD_BYTES};
use crate::xfs::ondisk::btree::LongHeader;
use crate::xfs::types::FileBlock;

/// Pointers that fit the smallest root in an inode.
const ROOT_POINTERS_MIN: u64 = 3;

/// How many blocks extent trees can need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TreeLimits {
    /// Records in a full leaf; a full node has as many pointers.
    pub entries: u64,
    /// Levels below the root in the inode, of the highest tree there can be.
    pub levels: u64,
}

impl TreeLimits {
    /// For the file systems of a shape.
    pub fn new(geometry: &Geometry) -> Self {
        let entries = ((geometry.block_bytes() - LongHeader::SIZE) / RECORD_BYTES) as u64;
        // No file has more extents than the device has blocks, shared ones aside.
        let wide = geometry.incompat.contains(crate::xfs::ondisk::superblock::Incompat::NREXT64);
        let most: u64 = if wide { (1 << 48) - 1 } else { (1 << 31) - 1 };
        let least = (entries / 2).max(2);
        let mut blocks = most.div_ceil(least);
        let mut levels = 1;
        while blocks > ROOT_POINTERS_MIN {
            blocks = blocks.div_ceil(least);
            levels += 1;
        }
        Self { entries, levels }
    }
    /// Blocks a tree can need for one more extent: a new one at each level.
    pub const fn one_more(&self) -> u64 {
        self.levels
    }
    /// Blocks a tree can need when `count` blocks become extents: as many extents as
    /// blocks, in full leaves of their own, and once the way up.
    pub fn worst(&self, count: u64) -> u64 {
        let mut total = 0;
        let mut at = count;
        for level in 0..self.levels {
            at = at.div_ceil(self.entries);
            total += at;
            if at <= 1 {
                return total + (self.levels - level - 1);
            }
        }
        total
    }
}

/// What is reserved for a range of file blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delalloc {
    /// First block.
    pub offset: FileBlock,
    /// Blocks.
    pub count: u64,
    /// Blocks in reserve for the extent tree.
    pub indirect: u64,
}

impl Delalloc {
    /// The first block behind it.
    pub const fn end(&self) -> FileBlock {
        FileBlock(self.offset.0 + self.count)
    }
}

/// The delalloc extents of a fork.
#[derive(Debug, Default)]
pub struct Reserved {
    ranges: BTreeMap<u64, (u64, u64)>,
    total: u64,
}

impl Reserved {
    /// Nothing reserved.
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new(), total: 0 }
    }
    /// Is nothing reserved?
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
    /// How many ranges there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }
    /// File blocks that are delalloc.
    pub const fn blocks(&self) -> u64 {
        self.total
    }
    /// All ranges.
    pub fn iter(&self) -> impl Iterator<Item = Delalloc> {
        self.ranges.iter().map(|(o, v)| make(*o, *v))
    }
    /// The range that covers `block`, or the next one.
    pub fn at_or_after(&self, block: FileBlock) -> Option<Delalloc> {
        self.at(block).or_else(|| self.ranges.range(block.0..).next().map(|(o, v)| make(*o, *v)))
    }
    /// The range that covers `block`.
    pub fn at(&self, block: FileBlock) -> Option<Delalloc> {
        let (offset, value) = self.ranges.range(..=block.0).next_back()?;
        Some(make(*offset, *value)).filter(|d| block < d.end())
    }
    /// The last range that ends at or before `block`.
    pub fn before(&self, block: FileBlock) -> Option<Delalloc> {
        let below = self.ranges.range(..block.0).rev().map(|(o, v)| make(*o, *v));
        below.take(2).find(|d| d.end() <= block)
    }
    /// The first block behind the last range.
    pub fn end(&self) -> FileBlock {
        self.ranges.last_key_value().map_or(FileBlock(0), |(o, v)| make(*o, *v).end())
    }
    /// Add a range where there is none, joined with what touches it. Returns the blocks
    /// in reserve that the joint range no longer needs.
    pub fn add(&mut self, fresh: Delalloc, limits: &TreeLimits) -> u64 {
        let mut joint = fresh;
        self.total += fresh.count;
        if let Some(left) = self
            .before(fresh.offset)
            .filter(|l| l.end() == fresh.offset && l.count + joint.count <= MAX_BLOCKS)
        {
            self.ranges.remove(&left.offset.0);
            joint = join(left, joint);
        }
        if let Some(right) = self.at(joint.end()).filter(|r| r.count + joint.count <= MAX_BLOCKS) {
            self.ranges.remove(&right.offset.0);
            joint = join(joint, right);
        }
        let surplus = joint.indirect.saturating_sub(limits.worst(joint.count));
        joint.indirect -= surplus;
        self.put(joint);
        surplus
    }
    fn put(&mut self, d: Delalloc) {
        self.ranges.insert(d.offset.0, (d.count, d.indirect));
    }
    /// The first `count` blocks of the range at `offset` have become extents or go away;
    /// `indirect` blocks stay in reserve for the rest.
    pub fn shorten(&mut self, offset: FileBlock, count: u64, indirect: u64) {
        let Some((had, _)) = self.ranges.remove(&offset.0) else { return };
        debug_assert!(count <= had, "more than was reserved");
        self.total -= count;
        if count < had {
            let offset = FileBlock(offset.0 + count);
            self.put(Delalloc { offset, count: had - count, indirect });
        } else {
            debug_assert!(indirect == 0, "a reserve for nothing");
        }
    }
    /// Take out all of `range`. Returns the blocks to give back. What is left on both
    /// sides keeps what it needs at worst, at the cost of the part that goes, as far as
    /// that reaches.
    pub fn remove(&mut self, range: Range<FileBlock>, limits: &TreeLimits) -> u64 {
        let mut back = 0;
        let mut at = range.start;
        while let Some(d) = self.at_or_after(at).filter(|d| d.offset < range.end) {
            at = d.end();
            self.ranges.remove(&d.offset.0);
            let left = range.start.0.saturating_sub(d.offset.0);
            let right = d.end().0.saturating_sub(range.end.0);
            let gone = d.count - left - right;
            self.total -= gone;
            let mut stock = d.indirect + gone;
            let (want_left, want_right) = (need(left, limits), need(right, limits));
            let (for_left, for_right) = if want_left + want_right <= stock {
                (want_left, want_right)
            } else {
                let half = (stock / 2).min(want_left).max(stock.saturating_sub(want_right));
                (half.min(want_left), stock - half)
            };
            stock -= for_left + for_right;
            if left > 0 {
                self.put(Delalloc { offset: d.offset, count: left, indirect: for_left });
            }
            if right > 0 {
                self.put(Delalloc { offset: range.end, count: right, indirect: for_right });
            }
            back += stock;
        }
        back
    }
}

const fn make(offset: u64, (count, indirect): (u64, u64)) -> Delalloc {
    Delalloc { offset: FileBlock(offset), count, indirect }
}

fn need(count: u64, limits: &TreeLimits) -> u64 {
    if count == 0 { 0 } else { limits.worst(count) }
}

const fn join(left: Delalloc, right: Delalloc) -> Delalloc {
    Delalloc {
        offset: left.offset,
        count: left.count + right.count,
        indirect: left.indirect + right.indirect,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TreeLimits = TreeLimits { entries: 59, levels: 8 };

    #[test]
    fn worst_case_of_the_tree() {
        assert_eq!(LIMITS.worst(1), 8);
        assert_eq!(LIMITS.worst(59), 8);
        assert_eq!(LIMITS.worst(60), 2 + 7);
        assert_eq!(LIMITS.worst(59 * 59 + 1), 60 + 2 + 6);
    }

    /// Whatever is added and removed, in the end all of it has been given back.
    #[test]
    fn nothing_is_lost() {
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..50 {
            let mut reserved = Reserved::new();
            let mut model = [false; 512];
            let mut taken = 0_u64;
            for _ in 0..400 {
                let start = next() % 500;
                let end = (start + 1 + next() % 40).min(512);
                if next() % 2 == 0 {
                    let (a, b) = (start as usize, end as usize);
                    let mut at = a;
                    while at < b {
                        let run = model[at..b].iter().take_while(|m| !**m).count();
                        if run > 0 {
                            let count = run as u64;
                            let indirect = LIMITS.worst(count);
                            taken += count + indirect;
                            let offset = FileBlock(at as u64);
                            let fresh = Delalloc { offset, count, indirect };
                            taken -= reserved.add(fresh, &LIMITS);
                            model[at..at + run].fill(true);
                        }
                        at += run + 1;
                    }
                } else {
                    taken -= reserved.remove(FileBlock(start)..FileBlock(end), &LIMITS);
                    model[start as usize..end as usize].fill(false);
                }
                for (i, m) in model.iter().enumerate() {
                    assert_eq!(reserved.at(FileBlock(i as u64)).is_some(), *m, "block {i}");
                }
                assert_eq!(reserved.blocks(), model.iter().filter(|m| **m).count() as u64);
                let held: u64 = reserved.iter().map(|d| d.count + d.indirect).sum();
                assert_eq!(held, taken);
            }
            taken -= reserved.remove(FileBlock(0)..FileBlock(u64::MAX), &LIMITS);
            assert_eq!((taken, reserved.is_empty()), (0, true));
        }
    }
}
