//! The active and inactive lists: which folios to give up first. Lengths are in pages.
//!
//! A new folio enters the inactive list. When reclaim reaches it there, it is given up
//! unless it was used at least twice meanwhile; then it moves to the active list, which
//! feeds the inactive one again when that runs low.
//!
//! The lists are doubly linked through slots of a table, so that a folio can leave from
//! the middle; a folio knows its slot. All under one lock, taken for batches, never on
//! a read that the cache serves.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::atomic::Ordering;

use super::Folio;

/// A folio that is on no list.
pub(super) const NO_SLOT: u32 = u32::MAX;
const CHUNK: usize = 256;

struct Entry {
    folio: Option<Arc<Folio>>,
    prev: u32,
    next: u32,
    active: bool,
}

impl Entry {
    /// Of the folio of a linked entry.
    fn pages(&self) -> u64 {
        self.folio.as_ref().map_or(0, |folio| folio.page_count())
    }
}

/// A list's ends: entries join at the head and are examined at the tail.
#[derive(Clone, Copy)]
struct List {
    head: u32,
    tail: u32,
    len: u64,
}

const EMPTY: List = List { head: NO_SLOT, tail: NO_SLOT, len: 0 };

/// Both lists.
pub(super) struct Lru {
    /// The table, in chunks so that it grows without moving.
    chunks: Vec<Box<[Entry]>>,
    free: u32,
    lists: [List; 2],
}

impl Lru {
    pub(super) const fn new() -> Self {
        Self { chunks: Vec::new(), free: NO_SLOT, lists: [EMPTY; 2] }
    }
    /// Pages on the inactive and on the active list.
    pub(super) fn lengths(&self) -> (u64, u64) {
        (self.lists[0].len, self.lists[1].len)
    }
    fn entry(&mut self, slot: u32) -> &mut Entry {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }
    fn grow(&mut self) {
        let base = (self.chunks.len() * CHUNK) as u32;
        let chunk = (0..CHUNK as u32).map(|i| Entry {
            folio: None,
            prev: NO_SLOT,
            next: if i + 1 < CHUNK as u32 { base + i + 1 } else { NO_SLOT },
            active: false,
        });
        self.chunks.push(chunk.collect());
        self.free = base;
    }
    fn link(&mut self, slot: u32, active: bool) {
        let head = self.lists[usize::from(active)].head;
        let entry = self.entry(slot);
        let pages = entry.pages();
        entry.active = active;
        entry.prev = NO_SLOT;
        entry.next = head;
        if head != NO_SLOT {
            self.entry(head).prev = slot;
        }
        let list = &mut self.lists[usize::from(active)];
        list.head = slot;
        if list.tail == NO_SLOT {
            list.tail = slot;
        }
        list.len += pages;
    }
    fn unlink(&mut self, slot: u32) {
        let entry = self.entry(slot);
        let pages = entry.pages();
        let Entry { prev, next, active, .. } = *entry;
        if prev != NO_SLOT {
            self.entry(prev).next = next;
        }
        if next != NO_SLOT {
            self.entry(next).prev = prev;
        }
        let list = &mut self.lists[usize::from(active)];
        if list.head == slot {
            list.head = next;
        }
        if list.tail == slot {
            list.tail = prev;
        }
        list.len -= pages;
    }
    /// Put a folio at the head of a list, unless it left its file meanwhile.
    pub(super) fn add(&mut self, folio: Arc<Folio>, active: bool) {
        if folio.is_detached() || folio.lru_slot.load(Ordering::Relaxed) != NO_SLOT {
            return;
        }
        if self.free == NO_SLOT {
            self.grow();
        }
        let slot = self.free;
        folio.lru_slot.store(slot, Ordering::Relaxed);
        let entry = self.entry(slot);
        let free = entry.next;
        entry.folio = Some(folio);
        self.free = free;
        self.link(slot, active);
    }
    /// Take a folio off its list, if it is on one.
    pub(super) fn remove(&mut self, folio: &Folio) -> Option<Arc<Folio>> {
        let slot = folio.lru_slot.swap(NO_SLOT, Ordering::Relaxed);
        (slot != NO_SLOT).then(|| self.release(slot))
    }
    fn release(&mut self, slot: u32) -> Arc<Folio> {
        self.unlink(slot);
        let free = self.free;
        let entry = self.entry(slot);
        entry.next = free;
        let folio = entry.folio.take().expect("a linked entry holds a folio");
        self.free = slot;
        folio.lru_slot.store(NO_SLOT, Ordering::Relaxed);
        folio
    }
    /// Take up to `most` folios from the tail of the inactive list; their holder evicts
    /// them or puts them back. Folios used twice go to the active list instead.
    pub(super) fn isolate(&mut self, most: usize) -> Vec<Arc<Folio>> {
        self.balance(most as u64);
        let mut taken = Vec::with_capacity(most);
        let mut examined = 0;
        while taken.len() < most && examined < 4 * most {
            examined += 1;
            let tail = self.lists[0].tail;
            if tail == NO_SLOT {
                break;
            }
            let used = self.entry(tail).folio.as_ref().is_some_and(|f| f.is_active());
            if used {
                self.unlink(tail);
                self.link(tail, true);
            } else {
                taken.push(self.release(tail));
            }
        }
        taken
    }
    /// Keep the inactive list at least as long as the active one, or as long as needed.
    fn balance(&mut self, need: u64) {
        for _ in 0..4 * need {
            let (inactive, active) = self.lengths();
            let tail = self.lists[1].tail;
            if tail == NO_SLOT || inactive >= active.max(need) {
                break;
            }
            if let Some(folio) = &self.entry(tail).folio {
                folio.forget_use();
            }
            self.unlink(tail);
            self.link(tail, false);
        }
    }
}
