//! A file's tree of folios: 64 slots a node, as high as the file is long.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::Folio;

const BITS: u32 = 6;
const FAN_OUT: usize = 1 << BITS;

enum Slot {
    Empty,
    Node(Box<Node>),
    Folio(Arc<Folio>),
}

struct Node {
    slots: [Slot; FAN_OUT],
    used: u32,
}

impl Node {
    fn new() -> Box<Self> {
        Box::new(Self { slots: [const { Slot::Empty }; FAN_OUT], used: 0 })
    }
    /// Put folios into a node of the last level, the first of which it covers, up to one
    /// that it does not or where there is one already; how many.
    fn fill(&mut self, folios: &[Arc<Folio>]) -> usize {
        let Some(first) = folios.first() else { return 0 };
        let number = first.index() >> BITS;
        let mut added = 0;
        for folio in folios.iter().take_while(|f| f.index() >> BITS == number) {
            let slot = &mut self.slots[slot_of(folio.index(), 0)];
            if !matches!(slot, Slot::Empty) {
                break;
            }
            *slot = Slot::Folio(folio.clone());
            added += 1;
        }
        self.used += added as u32;
        added
    }
}

/// The folios of one file by page index.
#[derive(Default)]
pub(crate) struct Index {
    root: Option<Box<Node>>,
    /// Levels of nodes; the tree covers `1 << (6 * height)` pages.
    height: u32,
    count: u64,
}

fn slot_of(index: u64, level: u32) -> usize {
    (index >> (BITS * level)) as usize & (FAN_OUT - 1)
}

impl Index {
    pub(super) fn len(&self) -> u64 {
        self.count
    }
    fn covers(&self, index: u64) -> bool {
        self.height * BITS >= 64 || index >> (self.height * BITS) == 0
    }
    /// The folio at `index`.
    #[inline]
    pub(crate) fn get(&self, index: u64) -> Option<&Arc<Folio>> {
        if !self.covers(index) {
            return None;
        }
        let mut node = self.root.as_deref()?;
        let mut level = self.height;
        loop {
            level -= 1;
            match &node.slots[slot_of(index, level)] {
                Slot::Node(child) => node = child,
                Slot::Folio(folio) => return Some(folio),
                Slot::Empty => return None,
            }
        }
    }
    /// Call `each` for the folios with indexes in `range`, in order; the way down the tree
    /// is walked once for each node of the last level.
    pub(crate) fn for_each_in<'a>(
        &'a self,
        range: core::ops::Range<u64>,
        each: &mut dyn FnMut(&'a Folio),
    ) {
        let mut at = range.start;
        while at < range.end && self.covers(at) {
            let stop = range.end.min((at | (FAN_OUT as u64 - 1)).saturating_add(1));
            if let Some(node) = self.leaf(at) {
                for slot in &node.slots[slot_of(at, 0)..=slot_of(stop - 1, 0)] {
                    if let Slot::Folio(folio) = slot {
                        each(folio);
                    }
                }
            }
            at = stop;
        }
    }
    /// Is there a folio at every index of `range`?
    pub(crate) fn has_all(&self, mut range: core::ops::Range<u64>) -> bool {
        range.all(|index| self.get(index).is_some())
    }
    /// How many pages at the start of `range` have no folio.
    pub(super) fn absent_run(&self, range: core::ops::Range<u64>) -> u64 {
        let next = self.next_from(range.start).map_or(u64::MAX, |folio| folio.index());
        next.min(range.end).saturating_sub(range.start)
    }
    /// The node of the last level that covers `index`.
    fn leaf(&self, index: u64) -> Option<&Node> {
        let mut node = self.root.as_deref()?;
        for level in (1..self.height).rev() {
            let Slot::Node(child) = &node.slots[slot_of(index, level)] else { return None };
            node = child;
        }
        Some(node)
    }
    /// Add a folio; false if there is one already.
    pub(super) fn insert(&mut self, folio: &Arc<Folio>) -> bool {
        self.insert_run(core::slice::from_ref(folio)) == 1
    }
    /// Add folios, in order, up to the first where there is one already; how many. The way
    /// down the tree is walked once for each node of the last level.
    pub(super) fn insert_run(&mut self, folios: &[Arc<Folio>]) -> usize {
        let mut done = 0;
        while let Some(first) = folios.get(done) {
            let added = self.make_leaf(first.index()).fill(&folios[done..]);
            self.count += added as u64;
            done += added;
            if added == 0 {
                break;
            }
        }
        done
    }
    /// The node of the last level that covers `index`, with those above it.
    fn make_leaf(&mut self, index: u64) -> &mut Node {
        while self.root.is_none() || !self.covers(index) {
            let mut node = Node::new();
            if let Some(old) = self.root.take() {
                node.slots[0] = Slot::Node(old);
                node.used = 1;
            }
            self.root = Some(node);
            self.height += 1;
        }
        let mut node = self.root.as_deref_mut().expect("made above");
        for level in (1..self.height).rev() {
            let Node { slots, used } = node;
            let slot = &mut slots[slot_of(index, level)];
            if matches!(slot, Slot::Empty) {
                *slot = Slot::Node(Node::new());
                *used += 1;
            }
            let Slot::Node(child) = slot else { unreachable!("inner levels hold nodes") };
            node = child;
        }
        node
    }
    /// Remove the folio at `index`.
    pub(super) fn remove(&mut self, index: u64) -> Option<Arc<Folio>> {
        if !self.covers(index) {
            return None;
        }
        let root = self.root.as_deref_mut()?;
        let removed = Self::remove_below(root, index, self.height - 1)?;
        self.count -= 1;
        if root.used == 0 {
            self.root = None;
            self.height = 0;
        }
        Some(removed)
    }
    /// Recursion is as deep as the tree is high: at most eleven levels.
    fn remove_below(node: &mut Node, index: u64, level: u32) -> Option<Arc<Folio>> {
        let slot = &mut node.slots[slot_of(index, level)];
        let removed = match slot {
            Slot::Empty => return None,
            Slot::Node(child) => {
                let removed = Self::remove_below(child, index, level - 1)?;
                if child.used == 0 {
                    *slot = Slot::Empty;
                    node.used -= 1;
                }
                removed
            }
            Slot::Folio(_) => {
                let Slot::Folio(folio) = core::mem::replace(slot, Slot::Empty) else {
                    unreachable!("matched above")
                };
                node.used -= 1;
                folio
            }
        };
        Some(removed)
    }
    /// The first folio at or after `from`.
    pub(super) fn next_from(&self, from: u64) -> Option<&Arc<Folio>> {
        if !self.covers(from) {
            return None;
        }
        Self::next_below(self.root.as_deref()?, from, self.height - 1)
    }
    fn next_below(node: &Node, from: u64, level: u32) -> Option<&Arc<Folio>> {
        let first = slot_of(from, level);
        for (at, slot) in node.slots.iter().enumerate().skip(first) {
            match slot {
                Slot::Empty => {}
                Slot::Folio(folio) => return Some(folio),
                Slot::Node(child) => {
                    let from = if at == first { from } else { 0 };
                    if let Some(found) = Self::next_below(child, from, level - 1) {
                        return Some(found);
                    }
                }
            }
        }
        None
    }
    /// Up to `most` folios with indexes in `range`, in order.
    pub(super) fn collect(&self, range: core::ops::Range<u64>, most: usize) -> Vec<Arc<Folio>> {
        let mut found = Vec::new();
        let mut from = range.start;
        while found.len() < most
            && let Some(folio) = self.next_from(from)
            && folio.index() < range.end
        {
            from = folio.index() + 1;
            found.push(folio.clone());
            if from == 0 {
                break;
            }
        }
        found
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;
    use crate::platform::{Page, PageFrame};
    use alloc::collections::BTreeMap;
    use alloc::sync::Weak;

    struct NoFrame;
    impl PageFrame for NoFrame {
        fn read(&self, _: usize, _: &mut [u8]) {}
        fn write(&self, _: usize, _: &[u8]) {}
        fn zero(&self, _: usize, _: usize) {}
        fn phys_addr(&self) -> u64 {
            0
        }
    }
    fn folio(index: u64) -> Arc<Folio> {
        let page: Page = Arc::new(NoFrame);
        Folio::new_locked(Weak::new(), index, page).folio().clone()
    }

    #[test]
    fn behaves_like_a_map() {
        let mut index = Index::default();
        let mut model = BTreeMap::new();
        let mut seed = 1u64;
        let keys = [0, 1, 63, 64, 4095, 4096, 1 << 24, (1 << 42) + 7, (1 << 51) - 1];
        for round in 0..20_000u64 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(round | 1);
            let key =
                if seed >> 60 < 4 { keys[(seed >> 33) as usize % keys.len()] } else { seed >> 54 };
            match seed >> 20 & 3 {
                0 | 1 => {
                    let f = folio(key);
                    let fresh = index.insert(&f);
                    assert_eq!(fresh, !model.contains_key(&key));
                    model.entry(key).or_insert(f);
                }
                2 => {
                    let (ours, theirs) = (index.remove(key), model.remove(&key));
                    assert_eq!(ours.is_some(), theirs.is_some());
                    if let (Some(a), Some(b)) = (ours, theirs) {
                        assert!(Arc::ptr_eq(&a, &b));
                    }
                }
                _ => {
                    let ours = index.next_from(key).map(|f| f.index());
                    assert_eq!(ours, model.range(key..).next().map(|(k, _)| *k));
                    assert_eq!(index.get(key).is_some(), model.contains_key(&key));
                    let absent = (key..key + 40).take_while(|k| !model.contains_key(k)).count();
                    assert_eq!(index.absent_run(key..key + 40), absent as u64);
                }
            }
            assert_eq!(index.len(), model.len() as u64);
        }
        let all: Vec<u64> =
            index.collect(0..u64::MAX, usize::MAX).iter().map(|f| f.index()).collect();
        assert_eq!(all, model.keys().copied().collect::<Vec<_>>());
    }
}
