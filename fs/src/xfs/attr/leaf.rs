//! Changing leaves of an attribute fork, byte by byte.
//!
//! New names go into the gap between the table and the names. Where a name was taken out
//! among others there is a hole; when the gap is too small the names are moved together.
//! The header's map of free regions has just the gap; its flag says if there are holes.

use alloc::vec::Vec;

use crate::xfs::da::{Change, Identity, Siblings};
use crate::xfs::ondisk::attr_leaf::{
    EntryView, Header, INCOMPLETE, LOCAL, Leaf, MAGIC, NAMESPACE, local_bytes, remote_bytes,
};
use crate::xfs::ondisk::be16;

const COUNT: usize = 56;
const USED: usize = 58;
const FIRST: usize = 60;
const HOLES: usize = 62;
const FREE_MAP: usize = 64;

/// An attribute as it lies in a leaf: its hash, its flags, the bytes of its name and of
/// its value or where that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) hash: u32,
    pub(super) flags: u8,
    pub(super) bytes: Vec<u8>,
}

impl Item {
    /// An attribute with its value.
    pub(super) fn local(hash: u32, namespace: u8, name: &[u8], value: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(local_bytes(name.len(), value.len()));
        bytes.extend_from_slice(&(value.len() as u16).to_be_bytes());
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
        bytes.resize(local_bytes(name.len(), value.len()), 0);
        Self { hash, flags: namespace | LOCAL, bytes }
    }
    /// An attribute whose `length` bytes of value start in file block `block`.
    pub(super) fn remote(hash: u32, namespace: u8, name: &[u8], block: u32, length: u32) -> Self {
        let mut bytes = Vec::with_capacity(remote_bytes(name.len()));
        bytes.extend_from_slice(&block.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.push(name.len() as u8);
        bytes.extend_from_slice(name);
        bytes.resize(remote_bytes(name.len()), 0);
        Self { hash, flags: namespace, bytes }
    }
    /// Bytes it takes with its place in the table.
    pub(super) const fn total(&self) -> usize {
        self.bytes.len() + EntryView::SIZE
    }
}

const fn place(i: usize) -> usize {
    Header::SIZE + i * EntryView::SIZE
}

/// Attributes in a leaf.
pub(super) fn count(block: &[u8]) -> usize {
    usize::from(be16(block, COUNT).unwrap_or(0))
}

fn used_bytes(block: &[u8]) -> usize {
    usize::from(be16(block, USED).unwrap_or(0))
}

fn first_used(block: &[u8]) -> usize {
    match be16(block, FIRST) {
        Some(0) | None => 65536,
        Some(n) => usize::from(n),
    }
}

/// Where the name of attribute `i` is, and how many bytes it takes.
fn name_of(block: &[u8], i: usize) -> (usize, usize) {
    let at = usize::from(be16(block, place(i) + 4).unwrap_or(0));
    let bytes = Leaf::new(block).and_then(|leaf| leaf.entry(i)).map_or(0, |e| e.bytes());
    (at, bytes.min(block.len().saturating_sub(at)))
}

/// The first attribute whose hash is not below `hash`.
pub(super) fn search(block: &[u8], hash: u32) -> usize {
    let Some(leaf) = Leaf::new(block) else { return 0 };
    let (mut low, mut high) = (0, leaf.count);
    while low < high {
        let middle = low.midpoint(high);
        if leaf.hash(middle).is_some_and(|h| h < hash) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// The greatest hash.
pub(super) fn last_hash(block: &[u8]) -> u32 {
    let leaf = Leaf::new(block);
    leaf.and_then(|leaf| leaf.hash(leaf.count.checked_sub(1)?)).unwrap_or(0)
}

/// Bytes in use, the header counted; 0 if nothing is in it.
pub(super) fn used(block: &[u8]) -> usize {
    match count(block) {
        0 => 0,
        count => place(count) + used_bytes(block),
    }
}

/// All attributes, in order.
pub(super) fn items(block: &[u8]) -> Vec<Item> {
    let mut items = Vec::with_capacity(count(block) + 1);
    let Some(leaf) = Leaf::new(block) else { return items };
    for i in 0..leaf.count {
        let (at, bytes) = name_of(block, i);
        if let Some(entry) = leaf.entry(i) {
            let bytes = block[at..at + bytes].to_vec();
            items.push(Item { hash: entry.hash, flags: entry.flags, bytes });
        }
    }
    items
}

fn set_header(c: &mut dyn Change, count: usize, used: usize, first: usize) {
    c.set_be16(COUNT, count as u16);
    c.set_be16(USED, used as u16);
    c.set_be16(FIRST, first as u16);
    let holes = used != c.len() - first;
    c.set_u8(HOLES, holes.into());
    c.set_u8(HOLES + 1, 0);
    c.set_be16(FREE_MAP, place(count) as u16);
    c.set_be16(FREE_MAP + 2, (first - place(count)) as u16);
    c.bytes_mut(FREE_MAP + 4..Header::SIZE).fill(0);
}

fn put_entry(c: &mut dyn Change, i: usize, item: &Item, at: usize) {
    c.put(at, &item.bytes);
    c.set_be32(place(i), item.hash);
    c.set_be16(place(i) + 4, at as u16);
    c.set_u8(place(i) + 6, item.flags);
    c.set_u8(place(i) + 7, 0);
}

/// Give a leaf these attributes, in order, instead of all it has. They fit.
pub(super) fn fill(c: &mut dyn Change, items: &[Item]) {
    let mut first = c.len();
    for (i, item) in items.iter().enumerate() {
        first -= item.bytes.len();
        put_entry(c, i, item, first);
    }
    let used = c.len() - first;
    set_header(c, items.len(), used, first);
}

/// Make a new block a leaf with these attributes.
pub(super) fn init(c: &mut dyn Change, id: &Identity, siblings: Siblings, items: &[Item]) {
    id.put_info(c, MAGIC, siblings);
    fill(c, items);
}

/// Do these attributes fit into a leaf?
pub(super) fn fit(items: &[Item], block_bytes: usize) -> bool {
    Header::SIZE + items.iter().map(Item::total).sum::<usize>() <= block_bytes
}

/// Add an attribute if it fits.
pub(super) fn add(c: &mut dyn Change, item: &Item) -> bool {
    let n = count(c);
    let free = c.len().saturating_sub(place(n) + used_bytes(c));
    if free < item.total() {
        return false;
    }
    if first_used(c).saturating_sub(place(n)) < item.total() {
        let all = items(c);
        fill(c, &all);
    }
    let at = first_used(c) - item.bytes.len();
    let i = search(c, item.hash);
    c.move_within(place(i)..place(n), place(i + 1));
    put_entry(c, i, item, at);
    let used = used_bytes(c) + item.bytes.len();
    set_header(c, n + 1, used, at);
    true
}

/// Take attribute `i` out.
pub(super) fn remove(c: &mut dyn Change, i: usize) {
    let n = count(c);
    let (at, bytes) = name_of(c, i);
    c.move_within(place(i + 1)..place(n), place(i));
    let mut first = first_used(c);
    if at == first {
        let places = (0..n - 1).map(|j| usize::from(be16(c, place(j) + 4).unwrap_or(0)));
        first = places.min().unwrap_or(c.len());
    }
    let used = used_bytes(c).saturating_sub(bytes);
    set_header(c, n - 1, used, first);
}

/// Move all of `right` behind what is in the left leaf.
pub(super) fn merge(left: &mut dyn Change, right: &[u8]) {
    let mut all = items(left);
    all.extend(items(right));
    fill(left, &all);
}

/// Is an attribute with these flags one of a namespace, and complete?
pub(super) const fn is_of(flags: u8, namespace: u8) -> bool {
    flags & (NAMESPACE | INCOMPLETE) == namespace
}
