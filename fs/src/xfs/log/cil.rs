//! The CIL: what is committed and not yet in the log.
//!
//! Transactions put their items here. An item that is committed again before the
//! checkpoint is written is there once, with what the last transaction left of it: that
//! is why a thousand changes to a block cost the log one copy. Of a block that is there
//! already a transaction brings only what it changed, as patches to what is there.
//!
//! An intent whose end comes before the checkpoint is written is left out, and so is its
//! end: replay would find nothing to do. Both stay listed so that their pins are undone.
//!
//! Locks: `CIL`, around the context that collects; the one being written belongs to the
//! thread that writes it.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::checkpoint::Layout;
use super::item::{CommitSeq, Item, ItemKey, LogItem, Vectors};
use crate::xfs::ondisk::log_items::OpHeader;

/// An item in a checkpoint.
pub(super) struct Slot {
    pub(super) key: ItemKey,
    pub(super) item: Arc<dyn Item>,
    pub(super) vectors: Vectors,
    /// Left out: an intent that ended in the same checkpoint, or its end.
    pub(super) left_out: bool,
}

/// Bytes that an item takes in records, headers of operations included.
const fn in_records(vectors: &Vectors) -> u64 {
    (vectors.length_bytes() + vectors.count() * OpHeader::BYTES) as u64
}

/// One checkpoint's items.
pub(super) struct Context {
    pub(super) seq: CommitSeq,
    pub(super) slots: Vec<Slot>,
    /// Items of which another object of the same key took the place: to be unpinned.
    pub(super) displaced: Vec<Arc<dyn Item>>,
    index: Index,
    /// Bytes of all slots in records.
    bytes: u64,
    /// Transactions in it.
    pub(super) transactions: u64,
}

impl Context {
    pub(super) fn new(seq: CommitSeq) -> Self {
        Self {
            seq,
            slots: Vec::new(),
            displaced: Vec::new(),
            index: Index::default(),
            bytes: 0,
            transactions: 0,
        }
    }
    /// Was nothing committed into it?
    pub(super) const fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
    /// Slots, and bytes they take in records: what the need of log depends on.
    pub(super) const fn size(&self) -> (usize, u64) {
        (self.slots.len(), self.bytes)
    }
    /// Bytes of the log that so many slots of so many bytes need at worst.
    pub(super) const fn worst_bytes((slots, bytes): (usize, u64), layout: &Layout) -> u64 {
        if slots == 0 { 0 } else { layout.checkpoint_bytes(bytes) }
    }
    /// Bytes its items take in records.
    pub(super) const fn bytes(&self) -> u64 {
        self.bytes
    }
    /// Are all patches among these to this checkpoint?
    pub(super) fn fits(&self, items: &[LogItem]) -> bool {
        items.iter().all(|i| i.vectors.patched().is_none_or(|seq| seq == self.seq))
    }
    /// Take the items of a transaction, which fit. False if there are patches to what is
    /// not there: then somebody changed what another transaction holds.
    #[must_use]
    pub(super) fn add(&mut self, items: &mut Vec<LogItem>) -> bool {
        self.transactions += 1;
        let mut good = true;
        for LogItem { item, vectors } in items.drain(..) {
            if vectors.patched().is_some() {
                good &= self.amend(&item.key(), &vectors);
            } else {
                self.add_item(item, vectors);
            }
        }
        good
    }
    fn amend(&mut self, key: &ItemKey, patches: &Vectors) -> bool {
        let found = self.index.find(key, &self.slots);
        found.is_some_and(|at| self.slots[at].vectors.amend(patches))
    }
    fn add_item(&mut self, item: Arc<dyn Item>, vectors: Vectors) {
        let key = item.key();
        let left_out = matches!(key, ItemKey::Done(_)) && self.end_intent(&*item);
        let vectors = if left_out { Vectors::new() } else { vectors };
        self.bytes += in_records(&vectors);
        let Some(at) = self.index.find(&key, &self.slots) else {
            item.pin();
            self.slots.push(Slot { key, item, vectors, left_out });
            return self.index.insert(self.slots.len() - 1, &self.slots);
        };
        let slot = &mut self.slots[at];
        self.bytes -= in_records(&slot.vectors);
        slot.vectors = vectors;
        slot.left_out = left_out;
        if !core::ptr::addr_eq(Arc::as_ptr(&slot.item), Arc::as_ptr(&item)) {
            item.pin();
            self.displaced.push(core::mem::replace(&mut slot.item, item));
        }
    }
    /// If the intent that this is the end of is in the same checkpoint, neither is written.
    fn end_intent(&mut self, done: &dyn Item) -> bool {
        let Some(id) = done.ends_intent() else { return false };
        let Some(at) = self.index.find(&ItemKey::Intent(id), &self.slots) else { return false };
        let intent = &mut self.slots[at];
        if intent.left_out {
            return false;
        }
        self.bytes -= in_records(&intent.vectors);
        intent.left_out = true;
        intent.vectors = Vectors::new();
        true
    }
    /// Forget everything, for use as a later checkpoint, keeping the memory.
    pub(super) fn recycle(&mut self, seq: CommitSeq) {
        self.seq = seq;
        self.index.clear(self.slots.len());
        self.slots.clear();
        self.displaced.clear();
        self.bytes = 0;
        self.transactions = 0;
    }
}

/// Entries of the smallest table.
const LEAST_TABLE: usize = 64;

/// Finds slots by key: a table of slot numbers plus one, 0 where there is none, probed
/// linearly. Slots are never removed singly.
#[derive(Default)]
struct Index {
    table: Vec<u32>,
}

impl Index {
    fn find(&self, key: &ItemKey, slots: &[Slot]) -> Option<usize> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = hash(key) as usize & mask;
        loop {
            match self.table[at] {
                0 => return None,
                n if slots[n as usize - 1].key == *key => return Some(n as usize - 1),
                _ => at = (at + 1) & mask,
            }
        }
    }
    /// Slot `new` was added, the last one.
    fn insert(&mut self, new: usize, slots: &[Slot]) {
        // At most half full.
        if slots.len() * 2 > self.table.len() {
            let size = (slots.len() * 4).next_power_of_two().max(LEAST_TABLE);
            self.table.clear();
            self.table.resize(size, 0);
            for slot in 0..slots.len() {
                self.put(slot, slots);
            }
        } else {
            self.put(new, slots);
        }
    }
    fn put(&mut self, slot: usize, slots: &[Slot]) {
        let mask = self.table.len() - 1;
        let mut at = hash(&slots[slot].key) as usize & mask;
        while self.table[at] != 0 {
            at = (at + 1) & mask;
        }
        self.table[at] = slot as u32 + 1;
    }
    /// Forget the slots, of which there were so many.
    fn clear(&mut self, slots: usize) {
        // A table that was large once would cost every small checkpoint.
        if self.table.len() > LEAST_TABLE.max(slots * 16) {
            self.table = Vec::new();
        }
        self.table.fill(0);
    }
}

fn hash(key: &ItemKey) -> u64 {
    let (kind, number) = match *key {
        ItemKey::Icreate(n) => (1, n),
        ItemKey::Buffer(n, _) => (2, n),
        ItemKey::Inode(n) => (3, n),
        ItemKey::Intent(n) => (4, n),
        ItemKey::Done(n) => (5, n),
    };
    // The middle of the product depends on all lower bits; numbers of a kind are close.
    (number ^ (kind << 56)).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32
}
