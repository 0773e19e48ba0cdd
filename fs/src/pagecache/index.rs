//! A file's tree of folios: 64 slots a node, as high as the file is long. A folio of
//! several pages stands in the slot of its first page; the others say how far back that is.

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
    /// A page of the folio that stands so many slots before.
    Part(u8),
}

struct Node {
    slots: [Slot; FAN_OUT],
    used: u32,
}

impl Node {
    fn new() -> Box<Self> {
        Box::new(Self { slots: [const { Slot::Empty }; FAN_OUT], used: 0 })
    }
    /// Put a folio into a node of the last level that covers it, unless there is one.
    #[inline]
    fn put(&mut self, folio: &Arc<Folio>) -> bool {
        let at = slot_of(folio.index(), 0);
        let count = folio.page_count() as usize;
        if count == 1 {
            // The usual case, and a hot one.
            if !matches!(self.slots[at], Slot::Empty) {
                return false;
            }
        } else {
            let slots = &mut self.slots[at..at + count];
            if slots.iter().any(|slot| !matches!(slot, Slot::Empty)) {
                return false;
            }
            for (back, slot) in slots.iter_mut().enumerate() {
                *slot = Slot::Part(back as u8);
            }
        }
        self.slots[at] = Slot::Folio(folio.clone());
        self.used += count as u32;
        true
    }
    /// The folio that has slot `at` of a node of the last level.
    #[inline]
    fn folio(&self, at: usize) -> Option<&Arc<Folio>> {
        match &self.slots[at] {
            Slot::Folio(folio) => Some(folio),
            Slot::Part(back) => match &self.slots[at - usize::from(*back)] {
                Slot::Folio(folio) => Some(folio),
                _ => unreachable!("a part without its folio"),
            },
            _ => None,
        }
    }
    /// Take out the folio that has slot `at` of a node of the last level.
    fn take(&mut self, at: usize) -> Option<Arc<Folio>> {
        let folio = self.folio(at)?.clone();
        let first = slot_of(folio.index(), 0);
        for slot in &mut self.slots[first..first + folio.page_count() as usize] {
            *slot = Slot::Empty;
        }
        self.used -= folio.page_count() as u32;
        Some(folio)
    }
}

/// The folios of one file by page index.
#[derive(Default)]
pub(crate) struct Index {
    root: Option<Box<Node>>,
    /// Levels of nodes; the tree covers `1 << (6 * height)` pages.
    height: u32,
    /// Pages that have a folio.
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
    /// The folio of page `index`.
    #[inline]
    pub(crate) fn get(&self, index: u64) -> Option<&Arc<Folio>> {
        if !self.covers(index) {
            return None;
        }
        let mut node = self.root.as_deref()?;
        let mut level = self.height;
        loop {
            level -= 1;
            let at = slot_of(index, level);
            match &node.slots[at] {
                Slot::Node(child) => node = child,
                Slot::Folio(folio) => return Some(folio),
                Slot::Part(_) => return node.folio(at),
                Slot::Empty => return None,
            }
        }
    }
    /// Call `each(page, folio, again)` for the pages of `range` that have a folio, in order;
    /// again: it is that of the page before. The way down the tree is walked once for each
    /// node of the last level.
    pub(crate) fn for_each_in<'a>(
        &'a self,
        range: core::ops::Range<u64>,
        mut each: impl FnMut(u64, &'a Folio, bool),
    ) {
        let mut at = range.start;
        while at < range.end && self.covers(at) {
            let stop = range.end.min((at | (FAN_OUT as u64 - 1)).saturating_add(1));
            if let Some(node) = self.leaf(at) {
                let slots = node.slots[slot_of(at, 0)..=slot_of(stop - 1, 0)].iter();
                for (slot, index) in slots.zip(at..) {
                    match slot {
                        Slot::Folio(folio) => each(index, folio, false),
                        Slot::Part(_) => {
                            if let Some(folio) = node.folio(slot_of(index, 0)) {
                                each(index, folio, index > range.start);
                            }
                        }
                        _ => {}
                    }
                }
            }
            at = stop;
        }
    }
    /// Has every page of `range` a folio?
    pub(crate) fn has_all(&self, mut range: core::ops::Range<u64>) -> bool {
        range.all(|index| self.get(index).is_some())
    }
    /// How many pages at the start of `range` have no folio.
    pub(crate) fn absent_run(&self, range: core::ops::Range<u64>) -> u64 {
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
        let added = self.make_leaf(folio.index()).put(folio);
        if added {
            self.count += folio.page_count();
        }
        added
    }
    /// Add folios, in order, up to the first where there is one already; how many. The way
    /// down the tree is walked once for each node of the last level.
    pub(super) fn insert_run(&mut self, folios: &[Arc<Folio>]) -> usize {
        let mut done = 0;
        for near in folios.chunk_by(|a, b| a.index() >> BITS == b.index() >> BITS) {
            let leaf = self.make_leaf(near[0].index());
            let added = near.iter().take_while(|folio| leaf.put(folio)).count();
            self.count += near[..added].iter().map(|folio| folio.page_count()).sum::<u64>();
            done += added;
            if added < near.len() {
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
    /// Remove the folio of page `index`.
    pub(super) fn remove(&mut self, index: u64) -> Option<Arc<Folio>> {
        if !self.covers(index) {
            return None;
        }
        let root = self.root.as_deref_mut()?;
        let removed = Self::remove_below(root, index, self.height - 1)?;
        self.count -= removed.page_count();
        if root.used == 0 {
            self.root = None;
            self.height = 0;
        }
        Some(removed)
    }
    /// Recursion is as deep as the tree is high: at most eleven levels.
    fn remove_below(node: &mut Node, index: u64, level: u32) -> Option<Arc<Folio>> {
        let at = slot_of(index, level);
        let Slot::Node(child) = &mut node.slots[at] else { return node.take(at) };
        let removed = Self::remove_below(child, index, level - 1)?;
        if child.used == 0 {
            node.slots[at] = Slot::Empty;
            node.used -= 1;
        }
        Some(removed)
    }
    /// The first folio with a page at or after `from`.
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
                Slot::Part(_) => return node.folio(at),
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
    /// Up to `most` folios that have pages in `range`, in order.
    pub(super) fn collect(&self, range: core::ops::Range<u64>, most: usize) -> Vec<Arc<Folio>> {
        let mut found = Vec::new();
        let mut from = range.start;
        while found.len() < most
            && let Some(folio) = self.next_from(from)
            && folio.index() < range.end
        {
            from = folio.pages().end;
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
    use crate::platform::{PAGE_SHIFT, Page, PageFrame};
    use alloc::collections::BTreeMap;
    use alloc::sync::Weak;

    struct NoFrame(usize);
    impl PageFrame for NoFrame {
        fn read(&self, _: usize, _: &mut [u8]) {}
        fn write(&self, _: usize, _: &[u8]) {}
        fn zero(&self, _: usize, _: usize) {}
        fn phys_addr(&self) -> u64 {
            0
        }
        fn length(&self) -> usize {
            self.0 << PAGE_SHIFT
        }
    }
    fn folio(pages: core::ops::Range<u64>) -> Arc<Folio> {
        let page: Page = Arc::new(NoFrame((pages.end - pages.start) as usize));
        Folio::new_locked(Weak::new(), pages.start, page).folio().clone()
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
                    let count = 1 << (seed >> 22 & 7).min(5);
                    let pages = key / count * count..(key / count + 1) * count;
                    let f = folio(pages.clone());
                    let fresh = index.insert(&f);
                    assert_eq!(fresh, model.range(pages.clone()).next().is_none());
                    if fresh {
                        model.extend(pages.map(|page| (page, f.clone())));
                    }
                }
                2 => {
                    let (ours, theirs) = (index.remove(key), model.remove(&key));
                    assert_eq!(ours.is_some(), theirs.is_some());
                    if let (Some(a), Some(b)) = (ours, theirs) {
                        assert!(Arc::ptr_eq(&a, &b));
                        model.retain(|_, f| !Arc::ptr_eq(&a, f));
                    }
                }
                _ => {
                    let ours = index.next_from(key).map(|f| f.index());
                    assert_eq!(ours, model.range(key..).next().map(|(_, f)| f.index()));
                    assert_eq!(index.get(key).is_some(), model.contains_key(&key));
                    let absent = (key..key + 40).take_while(|k| !model.contains_key(k)).count();
                    assert_eq!(index.absent_run(key..key + 40), absent as u64);
                }
            }
            assert_eq!(index.len(), model.len() as u64);
        }
        let all: Vec<u64> =
            index.collect(0..u64::MAX, usize::MAX).iter().flat_map(|f| f.pages()).collect();
        assert_eq!(all, model.keys().copied().collect::<Vec<_>>());
        let mut each = Vec::new();
        index.for_each_in(3..5000, |page, folio, again| {
            let before = model.get(&(page - 1)).filter(|_| page > 3);
            assert_eq!(again, before.is_some_and(|f| core::ptr::eq(&**f, folio)));
            assert!(model.get(&page).is_some_and(|f| core::ptr::eq(&**f, folio)));
            each.push(page);
        });
        assert_eq!(each, model.range(3..5000).map(|(k, _)| *k).collect::<Vec<_>>());
    }
}
