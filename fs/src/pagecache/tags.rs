//! Which pages of a file are dirty or under writeback: so that nobody scans clean ones.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;

#[derive(Clone, Copy, Default)]
struct Chunk {
    dirty: u64,
    writeback: u64,
}

/// Which tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// Newer than the disk.
    Dirty,
    /// Being written.
    Writeback,
}

/// Bitmaps of 64 pages each, only where a bit is set.
#[derive(Default)]
pub(super) struct Tags {
    /// The bitmap changed last, which is mostly the one changed next, and its number.
    /// It is not in the map.
    hot: Chunk,
    hot_number: u64,
    chunks: BTreeMap<u64, Chunk>,
    dirty: u64,
    writeback: u64,
}

impl Chunk {
    fn word(&mut self, tag: Tag) -> &mut u64 {
        match tag {
            Tag::Dirty => &mut self.dirty,
            Tag::Writeback => &mut self.writeback,
        }
    }
    fn is_empty(&self) -> bool {
        self.dirty == 0 && self.writeback == 0
    }
    /// The first of its pages at or after `from` with the tag; it is chunk `number`.
    fn next(&self, number: u64, tag: Tag, from: u64) -> Option<u64> {
        let mut word = self.get(tag);
        if number == from / 64 {
            word &= u64::MAX << (from % 64);
        }
        (word != 0).then(|| number * 64 + u64::from(word.trailing_zeros()))
    }
    fn get(&self, tag: Tag) -> u64 {
        match tag {
            Tag::Dirty => self.dirty,
            Tag::Writeback => self.writeback,
        }
    }
}

/// The bits of a folio's pages in their bitmap: a folio lies within one.
fn mask(pages: &Range<u64>) -> u64 {
    debug_assert!(pages.start / 64 == (pages.end - 1) / 64);
    u64::MAX >> (64 - (pages.end - pages.start)) << (pages.start % 64)
}

/// How many bits are set; mostly one is, and not every processor can count them.
fn count(bits: u64) -> u64 {
    match bits & bits.wrapping_sub(1) {
        0 => u64::from(bits != 0),
        _ => bits.count_ones().into(),
    }
}

impl Tags {
    fn counter(&mut self, tag: Tag) -> &mut u64 {
        match tag {
            Tag::Dirty => &mut self.dirty,
            Tag::Writeback => &mut self.writeback,
        }
    }
    /// Pages with the tag.
    pub(super) fn count(&self, tag: Tag) -> u64 {
        match tag {
            Tag::Dirty => self.dirty,
            Tag::Writeback => self.writeback,
        }
    }
    /// Make the bitmap of a page the hot one.
    #[inline]
    fn heat(&mut self, index: u64) -> &mut Chunk {
        if self.hot_number != index / 64 {
            self.change_hot(index / 64);
        }
        &mut self.hot
    }
    #[inline(never)]
    fn change_hot(&mut self, number: u64) {
        let next = self.chunks.remove(&number).unwrap_or_default();
        let old = core::mem::replace(&mut self.hot, next);
        if !old.is_empty() {
            self.chunks.insert(self.hot_number, old);
        }
        self.hot_number = number;
    }
    /// Set the tag of pages of a folio, those of `bits` from page `first` on; for how many
    /// it was clear.
    pub(super) fn set(&mut self, tag: Tag, first: u64, bits: u64) -> u64 {
        let mask = bits << (first % 64);
        let word = self.heat(first).word(tag);
        let fresh = count(mask & !*word);
        *word |= mask;
        *self.counter(tag) += fresh;
        fresh
    }
    /// The dirty pages of a folio are under writeback from now on; how many.
    pub(super) fn start_writeback(&mut self, pages: Range<u64>) -> u64 {
        let mask = mask(&pages);
        let chunk = self.heat(pages.start);
        let started = chunk.dirty & mask;
        debug_assert!(chunk.writeback & mask == 0);
        chunk.dirty &= !mask;
        chunk.writeback |= started;
        let pages = count(started);
        self.dirty -= pages;
        self.writeback += pages;
        pages
    }
    /// Clear the tag of a folio's pages; for how many it was set.
    pub(super) fn clear(&mut self, tag: Tag, pages: Range<u64>) -> u64 {
        let mask = mask(&pages);
        let word = self.heat(pages.start).word(tag);
        let was = count(mask & *word);
        *word &= !mask;
        *self.counter(tag) -= was;
        was
    }
    /// Up to `most` pages of `range` with the tag, in order.
    pub(super) fn collect(&self, tag: Tag, range: Range<u64>, most: usize) -> Vec<u64> {
        let mut pages = Vec::new();
        let mut from = range.start;
        while pages.len() < most
            && let Some(page) = self.next(tag, from).filter(|page| *page < range.end)
        {
            pages.push(page);
            from = page + 1;
        }
        pages
    }
    /// The first page at or after `from` with the tag.
    pub(super) fn next(&self, tag: Tag, from: u64) -> Option<u64> {
        let first = from / 64;
        let hot = match self.hot_number >= first {
            true => self.hot.next(self.hot_number, tag, from),
            false => None,
        };
        let end = hot.map_or(u64::MAX, |page| page / 64);
        let mut cold = self.chunks.range(first..end);
        cold.find_map(|(&number, chunk)| chunk.next(number, tag, from)).or(hot)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use alloc::collections::BTreeSet;

    #[test]
    fn behaves_like_two_sets() {
        let mut tags = Tags::default();
        let mut model = [BTreeSet::new(), BTreeSet::new()];
        let mut seed = 7u64;
        for round in 0..20_000u64 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(round | 1);
            let index = seed >> 52;
            // As folios lie: a power of two, at a multiple of it.
            let count = 1 << (seed >> 20 & 7).min(5);
            let pages = index / count * count..(index / count + 1) * count;
            let [dirty, writeback] = &mut model;
            if seed >> 30 & 3 == 2 && writeback.range(pages.clone()).next().is_none() {
                let moved: Vec<u64> = dirty.range(pages.clone()).copied().collect();
                assert_eq!(tags.start_writeback(pages.clone()), moved.len() as u64);
                dirty.retain(|page| !pages.contains(page));
                writeback.extend(moved);
            }
            let (tag, set) = match seed >> 40 & 1 {
                0 => (Tag::Dirty, dirty),
                _ => (Tag::Writeback, writeback),
            };
            match seed >> 30 & 3 {
                0 => {
                    let bits = seed & (u64::MAX >> (64 - count));
                    let in_bits = pages.clone().filter(|page| bits >> (page % count) & 1 != 0);
                    let fresh = in_bits.filter(|page| set.insert(*page)).count();
                    assert_eq!(tags.set(tag, pages.start, bits), fresh as u64);
                }
                1 => {
                    let was = pages.clone().filter(|page| set.remove(page)).count();
                    assert_eq!(tags.clear(tag, pages), was as u64);
                }
                _ => {
                    assert_eq!(tags.next(tag, index), set.range(index..).next().copied());
                    let some: Vec<u64> = set.range(index..index + 300).take(9).copied().collect();
                    assert_eq!(tags.collect(tag, index..index + 300, 9), some);
                }
            }
            assert_eq!(tags.count(tag), set.len() as u64);
        }
    }
}
