//! Delayed allocation: ranges of a fork for which space is reserved, but no blocks chosen.
//!
//! Each range carries, besides a block for each of its own, a reserve for the blocks that
//! the extent tree may need when the range becomes extents, at worst one for each block.
//! The sum of both was taken from the free blocks of the mount and is given back, or
//! handed to a transaction, block for block.

use core::ops::Range;

use super::ranges::{Covers, Ranges};
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
    #[inline]
    pub fn worst(&self, count: u64) -> u64 {
        if count != 0 && count <= self.entries { self.levels } else { self.worst_of_many(count) }
    }
    fn worst_of_many(&self, count: u64) -> u64 {
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

impl Covers for Delalloc {
    fn offset(&self) -> FileBlock {
        self.offset
    }
    fn end(&self) -> FileBlock {
        Self::end(self)
    }
}

/// The delalloc extents of a fork, in order.
#[derive(Debug, Default)]
pub struct Reserved {
    ranges: Ranges<Delalloc>,
    total: u64,
}

impl Reserved {
    /// Nothing reserved.
    pub const fn new() -> Self {
        Self { ranges: Ranges::new(), total: 0 }
    }
    /// Is nothing reserved?
    pub const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
    /// How many ranges there are.
    pub const fn len(&self) -> usize {
        self.ranges.len()
    }
    /// File blocks that are delalloc.
    pub const fn blocks(&self) -> u64 {
        self.total
    }
    /// All ranges.
    pub fn iter(&self) -> impl Iterator<Item = Delalloc> {
        self.ranges.iter().copied()
    }
    /// The range that covers `block`, or the next one.
    #[inline]
    pub fn at_or_after(&self, block: FileBlock) -> Option<Delalloc> {
        self.ranges.at_or_after(block).copied()
    }
    /// The range that covers `block`.
    pub fn at(&self, block: FileBlock) -> Option<Delalloc> {
        self.ranges.at(block).copied()
    }
    /// The last range that ends at or before `block`.
    pub fn before(&self, block: FileBlock) -> Option<Delalloc> {
        self.ranges.before(block).copied()
    }
    /// Is any block of `range` reserved?
    pub fn touches(&self, range: &Range<FileBlock>) -> bool {
        self.at_or_after(range.start).is_some_and(|d| d.offset < range.end)
    }
    /// The first block behind the last range.
    pub fn end(&self) -> FileBlock {
        self.ranges.end()
    }
    /// Add a range where there is none, joined with what touches it. Returns the blocks
    /// in reserve that the joint range no longer needs.
    pub fn add(&mut self, fresh: Delalloc, limits: &TreeLimits) -> u64 {
        let mut joint = fresh;
        self.total += fresh.count;
        let mut place = self.ranges.locate(fresh.offset);
        if let Some(right) =
            self.ranges.get(place).filter(|r| r.offset == joint.end() && fits(r, &joint)).copied()
        {
            joint = join(joint, right);
            self.ranges.take(place);
            place = self.ranges.locate(fresh.offset);
        }
        let left = self.ranges.left_of(place).filter(|left| {
            self.ranges.get(*left).is_some_and(|l| l.end() == fresh.offset && fits(l, &joint))
        });
        let before = left.and_then(|left| self.ranges.get(left)).copied();
        if let Some(before) = before {
            joint = join(before, joint);
        }
        let surplus = joint.indirect.saturating_sub(limits.worst(joint.count));
        joint.indirect -= surplus;
        match left {
            Some(left) => self.ranges.replace(left, joint),
            None => self.ranges.put(place, joint),
        }
        surplus
    }
    /// The first `count` blocks of the range at `offset` have become extents or go away;
    /// `indirect` blocks stay in reserve for the rest.
    pub fn shorten(&mut self, offset: FileBlock, count: u64, indirect: u64) {
        let place = self.ranges.locate(offset);
        let Some(d) = self.ranges.get(place).filter(|d| d.offset == offset).copied() else {
            return;
        };
        debug_assert!(count <= d.count, "more than was reserved");
        self.total -= count;
        if count < d.count {
            let offset = FileBlock(offset.0 + count);
            self.ranges.replace(place, Delalloc { offset, count: d.count - count, indirect });
        } else {
            debug_assert!(indirect == 0, "a reserve for nothing");
            self.ranges.take(place);
        }
    }
    /// Take out all of `range`. Returns the blocks to give back. What is left on both
    /// sides keeps what it needs at worst, at the cost of the part that goes, as far as
    /// that reaches.
    pub fn remove(&mut self, range: Range<FileBlock>, limits: &TreeLimits) -> u64 {
        let mut back = 0;
        let mut at = range.start;
        loop {
            let place = self.ranges.locate(at);
            let found = self.ranges.get(place).filter(|d| d.offset < range.end);
            let Some(d) = found.copied() else { break };
            at = d.end();
            self.ranges.take(place);
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
                let rest = Delalloc { offset: d.offset, count: left, indirect: for_left };
                self.ranges.insert(rest);
            }
            if right > 0 {
                let rest = Delalloc { offset: range.end, count: right, indirect: for_right };
                self.ranges.insert(rest);
            }
            back += stock;
        }
        back
    }
}

/// Can both be one range?
const fn fits(a: &Delalloc, b: &Delalloc) -> bool {
    a.count + b.count <= MAX_BLOCKS
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

    /// Ranges that touch none, in any order: more than a chunk holds.
    #[test]
    fn many_ranges_keep_their_order() {
        let mut reserved = Reserved::new();
        let mut taken = 0;
        for i in 0..1000_u64 {
            let offset = FileBlock(i * 7919 % 1000 * 2);
            taken += 1 + LIMITS.worst(1);
            let fresh = Delalloc { offset, count: 1, indirect: LIMITS.worst(1) };
            taken -= reserved.add(fresh, &LIMITS);
        }
        assert!(reserved.iter().map(|d| d.offset.0).eq((0..1000).map(|i| i * 2)));
        assert_eq!((reserved.len(), reserved.end()), (1000, FileBlock(1999)));
        reserved.shorten(FileBlock(500), 1, 0);
        taken -= 1 + LIMITS.worst(1);
        assert_eq!(reserved.at(FileBlock(500)), None);
        for i in (1..1999).step_by(2) {
            let fresh = Delalloc { offset: FileBlock(i), count: 1, indirect: LIMITS.worst(1) };
            taken += fresh.count + fresh.indirect;
            taken -= reserved.add(fresh, &LIMITS);
        }
        assert_eq!(reserved.len(), 2);
        assert_eq!(reserved.blocks(), 1998);
        taken -= reserved.remove(FileBlock(0)..FileBlock(u64::MAX), &LIMITS);
        assert_eq!((taken, reserved.is_empty()), (0, true));
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
                assert_eq!(reserved.len(), reserved.iter().count());
                for probe in 0..512 {
                    let at = FileBlock(probe);
                    let after = reserved.iter().find(|d| d.end() > at);
                    assert_eq!(reserved.at_or_after(at), after);
                    let before = reserved.iter().take_while(|d| d.end() <= at).last();
                    assert_eq!(reserved.before(at), before);
                }
                let held: u64 = reserved.iter().map(|d| d.count + d.indirect).sum();
                assert_eq!(held, taken);
            }
            taken -= reserved.remove(FileBlock(0)..FileBlock(u64::MAX), &LIMITS);
            assert_eq!((taken, reserved.is_empty()), (0, true));
        }
    }
}
