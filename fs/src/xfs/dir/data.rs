//! Changing blocks with entries, byte by byte: entries and free spaces come and go, the
//! table of the three largest free spaces stays right.
//!
//! A block's entries end at `end`: the end of the block, or where the index of a single
//! block starts. Every function here keeps the block sound, so that it can be used in
//! any order.

use crate::xfs::da::{Change, Identity};
use crate::xfs::ondisk::be16;
use crate::xfs::ondisk::dir_data::{
    ALIGN, DATA_MAGIC, DataHeader, EntryHead, FREE_TAG, entry_bytes,
};

/// A free space: where, and how many bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Space {
    pub(super) at: usize,
    pub(super) bytes: usize,
}

/// Where the table of the largest free spaces lies.
const TABLE: usize = 48;
/// Spaces in the table.
const LARGEST: usize = 3;

/// The three largest free spaces, the largest first; unused ones are zero.
pub(super) fn largest(block: &[u8]) -> [Space; LARGEST] {
    core::array::from_fn(|i| {
        let field = |at| usize::from(be16(block, TABLE + i * 4 + at).unwrap_or(0));
        Space { at: field(0), bytes: field(2) }
    })
}

/// Bytes of the largest free space.
pub(super) fn longest(block: &[u8]) -> u16 {
    be16(block, TABLE + 2).unwrap_or(0)
}

/// Bytes that entries can have in a block of their own.
pub(super) const fn room(block_bytes: usize) -> usize {
    block_bytes - DataHeader::SIZE
}

/// The smallest space of the table in which `bytes` fit.
pub(super) fn place_for(block: &[u8], bytes: usize) -> Option<Space> {
    largest(block).into_iter().rev().find(|s| s.bytes >= bytes)
}

/// Make a new block one without entries.
pub(super) fn init(c: &mut dyn Change, id: &Identity) {
    id.put_front(c, DATA_MAGIC);
    let bytes = room(c.len());
    put_free(c, Space { at: DataHeader::SIZE, bytes });
    let end = c.len();
    changed(c, &[], &[Space { at: DataHeader::SIZE, bytes }], end, Space::default());
}

fn put_free(c: &mut dyn Change, space: Space) {
    c.set_be16(space.at, FREE_TAG);
    c.set_be16(space.at + 2, space.bytes as u16);
    c.set_be16(space.at + space.bytes - 2, space.at as u16);
}

/// Put an entry into used space.
pub(super) fn put_entry(c: &mut dyn Change, at: usize, name: &[u8], ino: u64, file_type: u8) {
    let length = entry_bytes(name.len());
    c.set_be64(at, ino);
    c.set_u8(at + 8, name.len() as u8);
    c.put(at + EntryHead::SIZE, name);
    let end = EntryHead::SIZE + name.len();
    c.set_u8(at + end, file_type);
    c.bytes_mut(at + end + 1..at + length - 2).fill(0);
    c.set_be16(at + length - 2, at as u16);
}

/// Point the entry at `at` to another inode.
pub(super) fn set_entry(c: &mut dyn Change, at: usize, ino: u64, file_type: u8) {
    let name = usize::from(c[at + 8]);
    c.set_be64(at, ino);
    c.set_u8(at + EntryHead::SIZE + name, file_type);
}

/// `used` bytes at the start of a free space, or at its end, are used from now on.
pub(super) fn take(c: &mut dyn Change, free: Space, used: Space, end: usize) {
    let before = Space { at: free.at, bytes: used.at - free.at };
    let behind_at = used.at + used.bytes;
    let behind = Space { at: behind_at, bytes: free.at + free.bytes - behind_at };
    let mut left = [Space::default(); 2];
    let mut count = 0;
    for space in [before, behind] {
        if space.bytes > 0 {
            put_free(c, space);
            left[count] = space;
            count += 1;
        }
    }
    changed(c, &[free.at], &left[..count], end, used);
}

/// Is there a free space that starts at `at`?
pub(super) fn free_at(block: &[u8], at: usize, end: usize) -> Option<Space> {
    if at >= end || be16(block, at) != Some(FREE_TAG) {
        return None;
    }
    Some(Space { at, bytes: usize::from(be16(block, at + 2)?) })
}

/// The free space that ends at `at`, if there is one.
pub(super) fn free_before(block: &[u8], at: usize) -> Option<Space> {
    if at <= DataHeader::SIZE {
        return None;
    }
    let start = usize::from(be16(block, at - 2)?);
    if start < DataHeader::SIZE || start >= at {
        return None;
    }
    free_at(block, start, at).filter(|s| s.at + s.bytes == at)
}

/// Used space becomes free, joined with what is free around it.
pub(super) fn give(c: &mut dyn Change, used: Space, end: usize) {
    let before = free_before(c, used.at);
    let behind = free_at(c, used.at + used.bytes, end);
    let mut space = used;
    let mut gone = [0; 2];
    let mut count = 0;
    for neighbour in [before, behind].into_iter().flatten() {
        space.at = space.at.min(neighbour.at);
        space.bytes += neighbour.bytes;
        gone[count] = neighbour.at;
        count += 1;
    }
    put_free(c, space);
    changed(c, &gone[..count], &[space], end, Space::default());
}

/// Keep the table: these free spaces are no more, those are new. `taken` is used, but
/// nothing is in it yet.
fn changed(c: &mut dyn Change, gone: &[usize], new: &[Space], end: usize, taken: Space) {
    let old = largest(c);
    let mut table = [Space::default(); LARGEST];
    let kept = old.iter().filter(|s| s.bytes > 0 && !gone.contains(&s.at));
    for space in kept.chain(new) {
        insert(&mut table, *space);
    }
    // What the table did not have is no larger than the smallest it had.
    let unseen = old[LARGEST - 1].bytes;
    if table[LARGEST - 1].bytes < unseen {
        table = scan(c, end, taken);
    }
    set_table(c, &table);
}

fn set_table(c: &mut dyn Change, table: &[Space; LARGEST]) {
    if *table != largest(c) {
        for (i, space) in table.iter().enumerate() {
            c.set_be32(TABLE + i * 4, (space.at as u32) << 16 | space.bytes as u32);
        }
    }
}

/// Entries lie at `places`, in their order; all else up to `end` is free.
pub(super) fn free_others(c: &mut dyn Change, places: impl Iterator<Item = Space>, end: usize) {
    let mut at = DataHeader::SIZE;
    for used in places.chain([Space { at: end, bytes: 0 }]) {
        if used.at > at {
            put_free(c, Space { at, bytes: used.at - at });
        }
        at = used.at + used.bytes;
    }
    let table = scan(c, end, Space::default());
    set_table(c, &table);
}

fn insert(table: &mut [Space; LARGEST], space: Space) {
    if let Some(i) = table.iter().position(|s| s.bytes < space.bytes) {
        table[i..].rotate_right(1);
        table[i] = space;
    }
}

/// The largest free spaces, looked for.
fn scan(block: &[u8], end: usize, taken: Space) -> [Space; LARGEST] {
    let mut table = [Space::default(); LARGEST];
    let mut at = DataHeader::SIZE;
    while at < end {
        if at == taken.at {
            at += taken.bytes;
            continue;
        }
        match free_at(block, at, end) {
            Some(space) => {
                insert(&mut table, space);
                at += space.bytes.max(ALIGN);
            }
            None => at += entry_bytes(usize::from(block.get(at + 8).copied().unwrap_or(0))),
        }
    }
    table
}
