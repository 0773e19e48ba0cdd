//! The index of metadata blocks: a hash table with open addressing, and the clock hand
//! that goes round it.
//!
//! Blocks are looked up far more often than they come and go, so a lookup is one multiply
//! and, mostly, one comparison. An entry that goes leaves no mark: those behind it that
//! were pushed away from its place move up.

use alloc::vec::Vec;

/// Where a block starts, in sectors, and its bytes.
pub(super) type Key = (u64, u32);

/// Entries of the smallest table.
const LEAST_ENTRIES: usize = 64;

/// Blocks by their keys. The table is a power of two long and at most half full.
pub(super) struct BufferIndex<B> {
    entries: Vec<Option<(Key, B)>>,
    count: usize,
    /// Where the clock hand is.
    hand: usize,
}

impl<B> BufferIndex<B> {
    /// No blocks.
    pub(super) const fn new() -> Self {
        Self { entries: Vec::new(), count: 0, hand: 0 }
    }
    /// How many there are.
    pub(super) const fn len(&self) -> usize {
        self.count
    }
    #[inline]
    fn home(&self, (sector, bytes): Key) -> usize {
        let mixed = (sector ^ u64::from(bytes) << 40).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        // The middle of the product depends on all lower bits.
        (mixed >> 32) as usize & (self.entries.len() - 1)
    }
    /// Where this key is, or the free place where it would be.
    #[inline]
    fn place(&self, key: Key) -> usize {
        let mask = self.entries.len() - 1;
        let mut at = self.home(key);
        while let Some((other, _)) = &self.entries[at]
            && *other != key
        {
            at = (at + 1) & mask;
        }
        at
    }
    /// The block with this key.
    #[inline]
    pub(super) fn get(&self, key: Key) -> Option<&B> {
        if self.entries.is_empty() {
            return None;
        }
        self.entries[self.place(key)].as_ref().map(|(_, buffer)| buffer)
    }
    /// Put a block in; the one of this key that was there.
    pub(super) fn insert(&mut self, key: Key, buffer: B) -> Option<B> {
        if self.count * 2 >= self.entries.len() {
            self.grow();
        }
        let at = self.place(key);
        let old = self.entries[at].replace((key, buffer));
        self.count += usize::from(old.is_none());
        old.map(|(_, buffer)| buffer)
    }
    fn grow(&mut self) {
        let size = (self.entries.len() * 2).max(LEAST_ENTRIES);
        let old = core::mem::take(&mut self.entries);
        self.entries.resize_with(size, || None);
        self.hand = 0;
        for (key, buffer) in old.into_iter().flatten() {
            let at = self.place(key);
            self.entries[at] = Some((key, buffer));
        }
    }
    /// Take a block out.
    pub(super) fn remove(&mut self, key: Key) -> Option<B> {
        if self.entries.is_empty() {
            return None;
        }
        self.remove_at(self.place(key))
    }
    fn remove_at(&mut self, at: usize) -> Option<B> {
        let (_, gone) = self.entries[at].take()?;
        self.count -= 1;
        let mask = self.entries.len() - 1;
        let (mut hole, mut next) = (at, (at + 1) & mask);
        while let Some((key, _)) = &self.entries[next] {
            // It may move up if its home is not behind the hole.
            let home = self.home(*key);
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.entries[hole] = self.entries[next].take();
                hole = next;
            }
            next = (next + 1) & mask;
        }
        Some(gone)
    }
    /// Move the hand on by one place, and take out what is there if `unused` says so.
    pub(super) fn turn(&mut self, unused: impl FnOnce(&B) -> bool) -> Turn<B> {
        if self.entries.is_empty() {
            return Turn::Empty;
        }
        self.hand &= self.entries.len() - 1;
        match &self.entries[self.hand] {
            Some((_, buffer)) if unused(buffer) => match self.remove_at(self.hand) {
                // Another may have moved to its place: that is the next to be looked at.
                Some(gone) => Turn::Removed(gone),
                None => Turn::Empty,
            },
            Some(_) => {
                self.hand += 1;
                Turn::Kept
            }
            None => {
                self.hand += 1;
                Turn::Empty
            }
        }
    }
    /// Places in the table, empty ones included.
    pub(super) const fn places(&self) -> usize {
        self.entries.len()
    }
}

/// What the hand found.
pub(super) enum Turn<B> {
    /// No block.
    Empty,
    /// A block in use.
    Kept,
    /// This one, which is no longer in the index.
    Removed(B),
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeMap;

    use super::*;

    /// Whatever comes, goes and is found: as in a map that is kept in order. Few keys, so
    /// that they crowd together.
    #[test]
    fn agrees_with_an_ordered_map() {
        let (mut index, mut model) = (BufferIndex::new(), BTreeMap::new());
        let mut random = 12_345_u64;
        for step in 0..200_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = ((random >> 40) % 300 * 8, 512 << ((random >> 60) % 3));
            match (random >> 33) % 8 {
                0..3 => assert_eq!(index.insert(key, step), model.insert(key, step)),
                3..5 => assert_eq!(index.remove(key), model.remove(&key)),
                5 => {
                    if let Turn::Removed(gone) = index.turn(|value| value % 3 == 0) {
                        let (&key, _) = model.iter().find(|(_, v)| **v == gone).expect("known");
                        model.remove(&key);
                    }
                }
                _ => assert_eq!(index.get(key), model.get(&key)),
            }
            assert_eq!(index.len(), model.len());
        }
        for _ in 0..2 * index.places() {
            index.turn(|_| true);
        }
        assert_eq!(index.len(), 0, "the hand comes everywhere");
    }
}
