//! The AIL: what is durable in the log and not yet in its place, by position in the log.
//!
//! The lowest position is the log's tail: recovery starts there. An item has one
//! position, that of the checkpoint in which it was logged last; being logged again moves
//! it up, being written in place takes it out. A write in place that ends after the item
//! was logged again does not: it says as of which position it was made.
//!
//! Locks: `AIL`. Changed from the completion of I/O as well.

use alloc::collections::{BTreeMap, btree_map::Entry};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Bound;

use holdfast_sync::atomic::{AtomicU64, Ordering};
use holdfast_sync::{Mutex, WaitQueue};

use super::item::{Item, ItemKey, Lsn};
use crate::locks;

/// A place in the AIL.
pub(super) type Spot = (Lsn, ItemKey);

#[derive(Default)]
struct State {
    items: BTreeMap<Spot, Arc<dyn Item>>,
    spots: BTreeMap<ItemKey, Lsn>,
}

/// What a durable checkpoint does to the AIL.
pub(super) enum Change {
    /// The item is here now.
    Put(Lsn, ItemKey, Arc<dyn Item>),
    /// It is in the AIL no more.
    Remove(ItemKey),
}

/// Items in the log, by position.
pub(super) struct Ail {
    state: Mutex<State>,
    /// Rises with each item that leaves.
    departures: AtomicU64,
    /// Wakes those who wait for items to leave.
    pub(super) departed: WaitQueue,
}

impl Ail {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(&locks::AIL, State::default()),
            departures: AtomicU64::new(0),
            departed: WaitQueue::new(),
        }
    }
    /// The lowest position, if there is any item.
    pub(super) fn tail(&self) -> Option<Lsn> {
        self.state.lock().items.first_key_value().map(|((lsn, _), _)| *lsn)
    }
    /// Where an item is, if it is there.
    pub(super) fn position(&self, key: &ItemKey) -> Option<Lsn> {
        self.state.lock().spots.get(key).copied()
    }
    /// How many items there are.
    pub(super) fn len(&self) -> usize {
        self.state.lock().items.len()
    }
    /// How many items have left so far.
    pub(super) fn departures(&self) -> u64 {
        self.departures.load(Ordering::SeqCst)
    }
    /// Make changes, leaving `changes` empty. Items that leave go to `gone`: letting them
    /// go may be the end of them, and is not for those who hold a lock.
    pub(super) fn apply(&self, changes: &mut Vec<Change>, gone: &mut Vec<Arc<dyn Item>>) {
        let before = gone.len();
        {
            let mut state = self.state.lock();
            for change in changes.drain(..) {
                match change {
                    Change::Put(lsn, key, item) => gone.extend(state.put(lsn, key, item)),
                    Change::Remove(key) => gone.extend(state.remove(&key, Lsn(u64::MAX))),
                }
            }
        }
        self.note((gone.len() - before) as u64);
    }
    /// The item was written in place as it was logged at `seen`.
    pub(super) fn remove(&self, key: &ItemKey, seen: Lsn) {
        let gone = self.state.lock().remove(key, seen);
        self.note(u64::from(gone.is_some()));
    }
    fn note(&self, departures: u64) {
        if departures > 0 {
            self.departures.fetch_add(departures, Ordering::SeqCst);
            self.departed.wake_all();
        }
    }
    /// Up to `most` items behind `after` and up to position `upto`, in order.
    pub(super) fn batch(
        &self,
        after: Option<Spot>,
        upto: Lsn,
        most: usize,
        batch: &mut Vec<(Spot, Arc<dyn Item>)>,
    ) {
        let state = self.state.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let items = state.items.range((from, Bound::Unbounded));
        let wanted = items.take_while(|((lsn, _), _)| *lsn <= upto).take(most);
        batch.extend(wanted.map(|(spot, item)| (*spot, item.clone())));
    }
    /// Let everything go: nothing will be written in place any more.
    pub(super) fn clear(&self) {
        let gone = core::mem::take(&mut *self.state.lock());
        self.note(gone.items.len() as u64);
    }
}

impl State {
    /// Put an item to a position, from wherever it was.
    fn put(&mut self, lsn: Lsn, key: ItemKey, item: Arc<dyn Item>) -> Option<Arc<dyn Item>> {
        let old = match self.spots.entry(key) {
            Entry::Occupied(mut entry) => {
                let old = entry.insert(lsn);
                self.items.remove(&(old, key))
            }
            Entry::Vacant(entry) => {
                entry.insert(lsn);
                None
            }
        };
        self.items.insert((lsn, key), item);
        old
    }
    fn remove(&mut self, key: &ItemKey, seen: Lsn) -> Option<Arc<dyn Item>> {
        let lsn = *self.spots.get(key)?;
        if lsn > seen {
            return None;
        }
        self.spots.remove(key);
        self.items.remove(&(lsn, *key))
    }
}
