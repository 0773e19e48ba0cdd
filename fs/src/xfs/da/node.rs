//! Changing inner blocks of a hash tree: byte by byte.

use alloc::vec::Vec;

use super::store::{Change, Identity, Siblings};
use crate::xfs::ondisk::da_node::{ENTRY_BYTES, Header, MAGIC};
use crate::xfs::ondisk::{be16, be32};

/// Pointers that fit into an inner block.
pub(super) const fn capacity(block_bytes: usize) -> usize {
    (block_bytes - Header::SIZE) / ENTRY_BYTES
}

const COUNT: usize = 56;
const LEVEL: usize = 58;

const fn place(i: usize) -> usize {
    Header::SIZE + i * ENTRY_BYTES
}

/// Pointers in a block.
pub(super) fn count(block: &[u8]) -> usize {
    usize::from(be16(block, COUNT).unwrap_or(0)).min(capacity(block.len()))
}

/// Its level.
pub(super) fn level(block: &[u8]) -> u16 {
    be16(block, LEVEL).unwrap_or(0)
}

/// Hash and pointer `i`, which there is.
pub(super) fn entry(block: &[u8], i: usize) -> (u32, u32) {
    (be32(block, place(i)).unwrap_or(0), be32(block, place(i) + 4).unwrap_or(0))
}

/// The first pointer below which `hash` can be, or the last one.
pub(super) fn search(block: &[u8], hash: u32) -> usize {
    let count = count(block);
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if entry(block, middle).0 < hash {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low.min(count.saturating_sub(1))
}

/// Make a new block an inner one.
pub(super) fn init(
    c: &mut dyn Change,
    id: &Identity,
    level: u16,
    siblings: Siblings,
    entries: &[(u32, u32)],
) {
    id.put_info(c, MAGIC, siblings);
    c.set_be16(COUNT, entries.len() as u16);
    c.set_be16(LEVEL, level);
    c.set_be32(LEVEL + 2, 0);
    for (i, entry) in entries.iter().enumerate() {
        put(c, i, *entry);
    }
}

fn put(c: &mut dyn Change, i: usize, (hash, pointer): (u32, u32)) {
    c.set_be32(place(i), hash);
    c.set_be32(place(i) + 4, pointer);
}

/// Change the hash of pointer `i`.
pub(super) fn set_hash(c: &mut dyn Change, i: usize, hash: u32) {
    c.set_be32(place(i), hash);
}

/// Insert a pointer as number `i`; there is room.
pub(super) fn insert(c: &mut dyn Change, i: usize, entry: (u32, u32)) {
    let n = count(c);
    c.move_within(place(i)..place(n), place(i + 1));
    put(c, i, entry);
    c.set_be16(COUNT, n as u16 + 1);
}

/// Take pointer `i` out.
pub(super) fn remove(c: &mut dyn Change, i: usize) {
    let n = count(c);
    c.move_within(place(i + 1)..place(n), place(i));
    c.set_be16(COUNT, n as u16 - 1);
}

/// All entries from number `from` on.
pub(super) fn entries(block: &[u8], from: usize) -> Vec<(u32, u32)> {
    (from..count(block)).map(|i| entry(block, i)).collect()
}

/// Drop all entries from number `from` on.
pub(super) fn truncate(c: &mut dyn Change, from: usize) {
    c.set_be16(COUNT, from as u16);
}

/// Add entries at the end; there is room.
pub(super) fn append(c: &mut dyn Change, more: &[(u32, u32)]) {
    let n = count(c);
    for (i, entry) in more.iter().enumerate() {
        put(c, n + i, *entry);
    }
    c.set_be16(COUNT, (n + more.len()) as u16);
}
