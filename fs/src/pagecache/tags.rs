//! Which pages of a file are dirty or under writeback: so that nobody scans clean ones.

use alloc::collections::BTreeMap;

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
    fn get(&self, tag: Tag) -> u64 {
        match tag {
            Tag::Dirty => self.dirty,
            Tag::Writeback => self.writeback,
        }
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
    /// Set the tag; true if it was clear.
    pub(super) fn set(&mut self, tag: Tag, index: u64) -> bool {
        let word = self.chunks.entry(index / 64).or_default().word(tag);
        let fresh = *word & 1 << (index % 64) == 0;
        *word |= 1 << (index % 64);
        *self.counter(tag) += u64::from(fresh);
        fresh
    }
    /// Clear the tag; true if it was set.
    pub(super) fn clear(&mut self, tag: Tag, index: u64) -> bool {
        let Some(chunk) = self.chunks.get_mut(&(index / 64)) else { return false };
        let word = chunk.word(tag);
        let was = *word & 1 << (index % 64) != 0;
        *word &= !(1 << (index % 64));
        if chunk.dirty == 0 && chunk.writeback == 0 {
            self.chunks.remove(&(index / 64));
        }
        *self.counter(tag) -= u64::from(was);
        was
    }
    /// The first page at or after `from` with the tag.
    pub(super) fn next(&self, tag: Tag, from: u64) -> Option<u64> {
        let first = from / 64;
        for (&at, chunk) in self.chunks.range(first..) {
            let mut word = chunk.get(tag);
            if at == first {
                word &= u64::MAX << (from % 64);
            }
            if word != 0 {
                return Some(at * 64 + u64::from(word.trailing_zeros()));
            }
        }
        None
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
            let (tag, set) = if seed >> 40 & 1 == 0 {
                (Tag::Dirty, &mut model[0])
            } else {
                (Tag::Writeback, &mut model[1])
            };
            match seed >> 30 & 3 {
                0 => assert_eq!(tags.set(tag, index), set.insert(index)),
                1 => assert_eq!(tags.clear(tag, index), set.remove(&index)),
                _ => assert_eq!(tags.next(tag, index), set.range(index..).next().copied()),
            }
            assert_eq!(tags.count(tag), set.len() as u64);
        }
    }
}
