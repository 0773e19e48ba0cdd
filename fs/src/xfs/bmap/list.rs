//! The extents of a fork in memory, in order.
//!
//! They lie in chunks of bounded size, so that a change anywhere moves few of them and
//! an append none, however many there are.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::xfs::buf::Run;
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::bmbt::Extent;
use crate::xfs::ondisk::{Check, ensure};
use crate::xfs::types::{FileBlock, FsBlock};

/// Extents in a full chunk.
const CHUNK: usize = 128;

/// The extents of a fork, in order.
#[derive(Clone, Debug, Default)]
pub struct ExtentList {
    /// None of them empty.
    chunks: Vec<Vec<Extent>>,
    count: usize,
}

/// No extents at all.
pub static NO_EXTENTS: ExtentList = ExtentList::new();

impl ExtentList {
    /// No extents.
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
    /// All extents.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.chunks.iter().flatten()
    }
    /// The extents from the one that covers `block`, or else the next one, on.
    pub fn iter_from(&self, block: FileBlock) -> impl Iterator<Item = &Extent> {
        let (chunk, index) = self.locate(block);
        let first = self.chunks.get(chunk).map_or(&[][..], |c| &c[index..]);
        first.iter().chain(self.chunks.iter().skip(chunk + 1).flatten())
    }
    /// Where the first extent that ends behind `block` is.
    fn locate(&self, block: FileBlock) -> (usize, usize) {
        let chunk = self.chunks.partition_point(|c| c.last().is_some_and(|e| e.end() <= block));
        let index = self.chunks.get(chunk).map_or(0, |c| c.partition_point(|e| e.end() <= block));
        (chunk, index)
    }
    /// The extent that covers `block`, or the next one.
    pub fn at_or_after(&self, block: FileBlock) -> Option<&Extent> {
        let (chunk, index) = self.locate(block);
        self.chunks.get(chunk)?.get(index)
    }
    /// The extent that covers `block`.
    pub fn at(&self, block: FileBlock) -> Option<&Extent> {
        self.at_or_after(block).filter(|e| e.offset <= block)
    }
    /// The last extent that ends at or before `block`.
    pub fn before(&self, block: FileBlock) -> Option<&Extent> {
        let (chunk, index) = self.locate(block);
        match index.checked_sub(1) {
            Some(index) => self.chunks.get(chunk)?.get(index),
            None => self.chunks.get(chunk.checked_sub(1)?)?.last(),
        }
    }
    /// The last extent that ends at or before `block`, if it ends just there.
    pub fn ending_at(&self, block: FileBlock) -> Option<&Extent> {
        self.before(block).filter(|e| e.end() == block)
    }
    /// The last one.
    pub fn last(&self) -> Option<&Extent> {
        self.chunks.last()?.last()
    }
    /// The first file block behind the last extent.
    pub fn end(&self) -> FileBlock {
        self.last().map_or(FileBlock(0), Extent::end)
    }
    /// The records of all of them, as they lie in an inode.
    pub(in crate::xfs) fn encode(&self) -> Vec<u8> {
        self.iter().flat_map(Extent::encode).collect()
    }
    /// Make room for `more` extents behind the last, so that [`ExtentList::push`] needs
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
    pub fn push(&mut self, extent: Extent) -> Result<()> {
        if self.chunks.last().is_none_or(|c| c.len() >= CHUNK) {
            let mut chunk = Vec::new();
            chunk.try_reserve_exact(CHUNK).map_err(|_| Error::NoMemory)?;
            self.chunks.try_reserve(1).map_err(|_| Error::NoMemory)?;
            self.chunks.push(chunk);
        }
        if let Some(chunk) = self.chunks.last_mut() {
            chunk.push(extent);
            self.count += 1;
        }
        Ok(())
    }
    /// Insert an extent where there is none.
    pub(in crate::xfs) fn insert(&mut self, extent: Extent) {
        let (chunk, index) = self.locate(extent.offset);
        debug_assert!(
            self.chunks.get(chunk).is_none_or(|c| extent.end() <= c[index].offset),
            "an extent lies there already"
        );
        self.count += 1;
        // At the start of a chunk the one before may have room, or be the last.
        let (chunk, index) = match chunk.checked_sub(1) {
            Some(left) if index == 0 && self.chunks[left].len() < CHUNK => {
                (left, self.chunks[left].len())
            }
            _ => (chunk, index),
        };
        match self.chunks.get_mut(chunk) {
            None => self.chunks.push(alloc::vec![extent]),
            Some(full) if full.len() >= CHUNK => {
                let right = full.split_off(CHUNK / 2);
                self.chunks.insert(chunk + 1, right);
                if index > CHUNK / 2 {
                    self.chunks[chunk + 1].insert(index - CHUNK / 2, extent);
                } else {
                    self.chunks[chunk].insert(index, extent);
                }
            }
            Some(c) => c.insert(index, extent),
        }
    }
    /// Remove the extent that starts at `offset`.
    pub(in crate::xfs) fn remove(&mut self, offset: FileBlock) -> Option<Extent> {
        let (chunk, index) = self.locate(offset);
        let found = self.chunks.get(chunk)?.get(index).filter(|e| e.offset == offset).copied()?;
        self.chunks[chunk].remove(index);
        self.count -= 1;
        let left = self.chunks[chunk].len();
        if left == 0 {
            self.chunks.remove(chunk);
        } else if self.chunks.get(chunk + 1).is_some_and(|next| left + next.len() <= CHUNK / 2) {
            let mut next = self.chunks.remove(chunk + 1);
            self.chunks[chunk].append(&mut next);
        }
        Some(found)
    }
    /// Where `count` file blocks from `start` lie on the device; nothing if all of them
    /// are a hole.
    ///
    /// # Errors
    /// Some are a hole and some are not.
    pub fn runs(
        &self,
        geometry: &Geometry,
        start: FileBlock,
        count: u64,
    ) -> Check<Option<Vec<Run>>> {
        let mut runs = Vec::new();
        let mut at = start.0;
        let end = start.0 + count;
        for extent in self.iter_from(start) {
            if extent.offset.0 >= end || extent.offset.0 > at {
                break;
            }
            let into = at - extent.offset.0;
            let blocks = (u64::from(extent.count) - into).min(end - at);
            runs.push(Run {
                sector: geometry.sector(FsBlock(extent.block.0 + into)),
                bytes: (blocks << geometry.block_log) as u32,
            });
            at += blocks;
            if at == end {
                return Ok(Some(runs));
            }
        }
        let touched = self.at_or_after(start).is_some_and(|extent| extent.offset.0 < end);
        ensure!(!touched, "file blocks {} to {end} are partly a hole", start.0);
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(offset: u64, count: u32) -> Extent {
        Extent { offset: FileBlock(offset), block: FsBlock(offset + 1000), count, unwritten: false }
    }

    fn check(list: &ExtentList, model: &[Extent]) {
        assert_eq!(list.len(), model.len());
        assert!(list.iter().eq(model.iter()));
        assert!(list.chunks.iter().all(|c| !c.is_empty() && c.len() <= CHUNK));
    }

    #[test]
    fn random_changes_keep_the_order() {
        let mut list = ExtentList::new();
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
        let mut list = ExtentList::new();
        for i in 0..1000 {
            list.insert(extent(i * 2, 1));
        }
        assert_eq!(list.chunks.len(), 1000_usize.div_ceil(CHUNK));
        assert_eq!(list.end(), FileBlock(1999));
        assert_eq!(list.remove(FileBlock(1)), None);
    }
}
