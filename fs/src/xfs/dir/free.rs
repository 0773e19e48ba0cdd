//! Changing free space blocks of a directory, byte by byte: for each data block the
//! bytes of its largest free space.

use crate::xfs::da::{Change, Identity};
use crate::xfs::ondisk::dir_free::{Header, MAGIC};
use crate::xfs::ondisk::{be16, be32};

/// The count of a data block that is not there.
pub(super) const NO_BLOCK: u16 = 0xffff;

const FIRST: usize = 48;
const VALID: usize = 52;
const USED: usize = 56;

/// Counts that fit into a block.
pub(super) const fn capacity(block_bytes: usize) -> usize {
    (block_bytes - Header::SIZE) / 2
}

const fn place(i: usize) -> usize {
    Header::SIZE + i * 2
}

/// The data block of the first count.
pub(super) fn first(block: &[u8]) -> u64 {
    be32(block, FIRST).unwrap_or(0).into()
}

/// Counts in a block.
pub(super) fn valid(block: &[u8]) -> usize {
    (be32(block, VALID).unwrap_or(0) as usize).min(capacity(block.len()))
}

/// Counts of blocks that are there.
pub(super) fn used(block: &[u8]) -> usize {
    be32(block, USED).unwrap_or(0) as usize
}

/// Count `i`.
pub(super) fn count(block: &[u8], i: usize) -> u16 {
    if i < valid(block) { be16(block, place(i)).unwrap_or(NO_BLOCK) } else { NO_BLOCK }
}

/// The last data block in which `bytes` fit: where names were added last there is room.
pub(super) fn search(block: &[u8], bytes: usize) -> Option<usize> {
    (0..valid(block)).rev().find(|&i| {
        let free = count(block, i);
        free != NO_BLOCK && usize::from(free) >= bytes
    })
}

/// Make a new block one with these counts, of data blocks from `first` on.
pub(super) fn init(c: &mut dyn Change, id: &Identity, first: u32, counts: &[u16]) {
    id.put_front(c, MAGIC);
    let used = counts.iter().filter(|&&n| n != NO_BLOCK).count();
    c.set_be32(FIRST, first);
    c.set_be32(VALID, counts.len() as u32);
    c.set_be32(USED, used as u32);
    c.set_be32(USED + 4, 0);
    for (i, n) in counts.iter().enumerate() {
        c.set_be16(place(i), *n);
    }
}

/// Change count `i`; the block may have had none so far.
pub(super) fn set(c: &mut dyn Change, i: usize, value: u16) {
    let old = count(c, i);
    if old == value {
        return;
    }
    let known = valid(c);
    for new in known..=i {
        c.set_be16(place(new), NO_BLOCK);
    }
    c.set_be16(place(i), value);
    let mut end = known.max(i + 1);
    if value == NO_BLOCK {
        while end > 0 && be16(c, place(end - 1)) == Some(NO_BLOCK) {
            end -= 1;
        }
    }
    if end != known {
        c.set_be32(VALID, end as u32);
    }
    match (old == NO_BLOCK, value == NO_BLOCK) {
        (true, false) => c.set_be32(USED, used(c) as u32 + 1),
        (false, true) => c.set_be32(USED, (used(c) as u32).saturating_sub(1)),
        _ => {}
    }
}
