//! Ranges of file blocks, in order: what the extents of a fork and its delalloc lie in.
//!
//! They lie in chunks of bounded size, so that a change anywhere moves few of them and
//! an append none, however many there are. Most files have one or none.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::xfs::types::FileBlock;

/// Ranges in a full chunk.
const CHUNK: usize = 128;

/// Something that covers file blocks: at least one.
pub trait Covers: Copy {
    /// The first block.
    fn offset(&self) -> FileBlock;
    /// The first block behind it.
    fn end(&self) -> FileBlock;
}

/// Ranges that do not overlap, in order.
#[derive(Clone, Debug)]
pub struct Ranges<T> {
    /// None of them empty.
    chunks: Vec<Vec<T>>,
    count: usize,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// The place of a range: its chunk, and where in that.
pub(super) type Place = (usize, usize);

impl<T> Ranges<T> {
    /// None.
    pub const fn new() -> Self {
        Self { chunks: Vec::new(), count: 0 }
    }
    /// How many there are.
    pub const fn len(&self) -> usize {
        self.count
    }
    /// Are there none?
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten()
    }
    /// The last one.
    pub fn last(&self) -> Option<&T> {
        self.chunks.last()?.last()
    }
    /// The range at a place.
    pub(super) fn get(&self, (chunk, index): Place) -> Option<&T> {
        self.chunks.get(chunk)?.get(index)
    }
    /// The place in front of another.
    pub(super) fn left_of(&self, (chunk, index): Place) -> Option<Place> {
        match index.checked_sub(1) {
            Some(index) => Some((chunk, index)),
            None => chunk.checked_sub(1).map(|left| (left, self.chunks[left].len() - 1)),
        }
    }
    /// Another range at a place where one is.
    pub(super) fn replace(&mut self, (chunk, index): Place, range: T) {
        self.chunks[chunk][index] = range;
    }
    /// Make room for `more` ranges behind the last, so that [`Ranges::push`] needs
    /// no memory for them.
    ///
    /// # Errors
    /// No memory.
    pub fn reserve(&mut self, more: usize) -> Result<()> {
        self.chunks.try_reserve(more.div_ceil(CHUNK) + 1).map_err(|_| Error::NoMemory)
    }
    /// Add one behind the last.
    ///
    /// # Errors
    /// No memory.
    pub fn push(&mut self, range: T) -> Result<()> {
        if self.chunks.last().is_none_or(|c| c.len() >= CHUNK) {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK).map_err(|_| Error::NoMemory)?;
            self.chunks.try_reserve(1).map_err(|_| Error::NoMemory)?;
            self.chunks.push(chunk);
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(range);
            self.count += 1;
        }
        Ok(())
    }
    /// Insert a range at its place.
    pub(super) fn put(&mut self, (chunk, index): Place, range: T) {
        self.count += 1;
        // At the start of a chunk the one before may have room, or be the last.
        let (chunk, index) = match chunk.checked_sub(1) {
            Some(left) if index == 0 && self.chunks[left].len() < CHUNK => {
                (left, self.chunks[left].len())
            }
            _ => (chunk, index),
        };
        match self.chunks.get_mut(chunk) {
            None => self.chunks.push(alloc::vec![range]),
            Some(full) if full.len() >= CHUNK => {
                let right = full.split_off(CHUNK / 2);
                self.chunks.insert(chunk + 1, right);
                match index.checked_sub(CHUNK / 2) {
                    Some(index) => self.chunks[chunk + 1].insert(index, range),
                    None => self.chunks[chunk].insert(index, range),
                }
            }
            Some(ranges) => ranges.insert(index, range),
        }
    }
    /// Remove the range at a place.
    pub(super) fn take(&mut self, (chunk, index): Place) -> T {
        let range = self.chunks[chunk].remove(index);
        self.count -= 1;
        let left = self.chunks[chunk].len();
        if left == 0 {
            self.chunks.remove(chunk);
        } else if self.chunks.get(chunk + 1).is_some_and(|next| left + next.len() <= CHUNK / 2) {
            let mut next = self.chunks.remove(chunk + 1);
            self.chunks[chunk].append(&mut next);
        }
        range
    }
}

impl<T: Covers> Ranges<T> {
    /// Where the first range that ends behind `block` is, or would be.
    #[inline]
    pub(super) fn locate(&self, block: FileBlock) -> Place {
        let ends_before = |range: &T| range.end() <= block;
        let chunk = match self.chunks.as_slice() {
            [] | [_] => 0,
            // Behind the last chunk but one: where files grow.
            [.., left, _] if left.last().is_some_and(ends_before) => self.chunks.len() - 1,
            chunks => chunks.partition_point(|c| c.last().is_some_and(ends_before)),
        };
        let index = match self.chunks.get(chunk).map(Vec::as_slice) {
            None => 0,
            Some([only]) => usize::from(ends_before(only)),
            Some(ranges) => ranges.partition_point(ends_before),
        };
        // At the end of the last chunk there is nothing.
        match self.chunks.get(chunk) {
            Some(ranges) if index == ranges.len() => (chunk + 1, 0),
            _ => (chunk, index),
        }
    }
    /// The ranges from the one that covers `block`, or else the next one, on.
    pub fn iter_from(&self, block: FileBlock) -> impl Iterator<Item = &T> {
        let (chunk, index) = self.locate(block);
        let first = self.chunks.get(chunk).map_or(&[][..], |c| &c[index..]);
        first.iter().chain(self.chunks.iter().skip(chunk + 1).flatten())
    }
    /// The range that covers `block`, or the next one.
    #[inline]
    pub fn at_or_after(&self, block: FileBlock) -> Option<&T> {
        self.get(self.locate(block))
    }
    /// The range that covers `block`.
    pub fn at(&self, block: FileBlock) -> Option<&T> {
        self.at_or_after(block).filter(|range| range.offset() <= block)
    }
    /// The last range that ends at or before `block`.
    pub fn before(&self, block: FileBlock) -> Option<&T> {
        self.get(self.left_of(self.locate(block))?)
    }
    /// The last range that ends at or before `block`, if it ends just there.
    pub fn ending_at(&self, block: FileBlock) -> Option<&T> {
        self.before(block).filter(|range| range.end() == block)
    }
    /// The first file block behind the last range.
    pub fn end(&self) -> FileBlock {
        self.last().map_or(FileBlock(0), T::end)
    }
    /// Insert a range where there is none.
    pub(in crate::xfs) fn insert(&mut self, range: T) {
        let place = self.locate(range.offset());
        debug_assert!(
            self.get(place).is_none_or(|next| range.end() <= next.offset()),
            "a range lies there already"
        );
        self.put(place, range);
    }
    /// Remove the range that starts at `offset`.
    pub(in crate::xfs) fn remove(&mut self, offset: FileBlock) -> Option<T> {
        let place = self.locate(offset);
        self.get(place).filter(|range| range.offset() == offset)?;
        Some(self.take(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xfs::ondisk::bmbt::Extent;
    use crate::xfs::types::FsBlock;

    fn extent(offset: u64, count: u32) -> Extent {
        Extent { offset: FileBlock(offset), block: FsBlock(offset + 1000), count, unwritten: false }
    }

    fn check(list: &Ranges<Extent>, model: &[Extent]) {
        assert_eq!(list.len(), model.len());
        assert!(list.iter().eq(model.iter()));
        assert!(list.chunks.iter().all(|c| !c.is_empty() && c.len() <= CHUNK));
    }

    #[test]
    fn random_changes_keep_the_order() {
        let mut list = Ranges::new();
        let mut model: Vec<Extent> = Vec::new();
        let mut state = 88_172_645_463_325_252_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000_u64 {
            let growing = (round / 4000).is_multiple_of(2);
            let offset = next() % 3000 * 4;
            let at = model.partition_point(|e| e.offset.0 < offset);
            let there = model.get(at).is_some_and(|e| e.offset.0 == offset);
            if there && (!growing || next() % 4 == 0) {
                assert_eq!(list.remove(FileBlock(offset)), Some(model.remove(at)));
            } else if !there && (growing || next() % 4 == 0) {
                let e = extent(offset, 1 + (next() % 4) as u32);
                list.insert(e);
                model.insert(at, e);
            }
            let probe = next() % 12_100;
            let index = model.partition_point(|e| e.end().0 <= probe);
            assert_eq!(list.at_or_after(FileBlock(probe)), model.get(index));
            let before = index.checked_sub(1).map(|i| &model[i]);
            assert_eq!(list.before(FileBlock(probe)), before);
            assert!(list.iter_from(FileBlock(probe)).eq(&model[index..]));
            if round % 500 == 0 {
                check(&list, &model);
            }
        }
        check(&list, &model);
    }

    #[test]
    fn appending_fills_chunks() {
        let mut list = Ranges::new();
        for i in 0..1000 {
            list.insert(extent(i * 2, 1));
        }
        assert_eq!(list.chunks.len(), 1000_usize.div_ceil(CHUNK));
        assert_eq!(list.end(), FileBlock(1999));
        assert_eq!(list.remove(FileBlock(1)), None);
    }
}
