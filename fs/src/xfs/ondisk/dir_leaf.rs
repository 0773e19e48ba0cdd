//! Directory index blocks: hashes of names, in order, with the places of the entries.

use super::da_node::BlockInfo;
use super::{Be16, Be32, Bytes, Check, be16, be32, ensure, on_disk};

/// The single leaf of a directory, with the free space counts at its end.
pub const LEAF1_MAGIC: u16 = 0x3df1;
/// A leaf below nodes.
pub const LEAFN_MAGIC: u16 = 0x3dff;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 8;
/// The address of an entry that is no more.
pub const NULL_ADDRESS: u32 = 0;

on_disk! {
    /// The header; entries follow.
    Header, 64 bytes {
        info: Bytes<56> = 0,
        count: Be16 = 56,
        stale: Be16 = 58,
        pad: Be32 = 60,
    }
}

on_disk! {
    /// An entry's bytes.
    EntryView, 8 bytes {
        hash: Be32 = 0,
        address: Be32 = 4,
    }
}

on_disk! {
    /// The end of a single leaf; the free space counts lie before it.
    Tail, 4 bytes {
        count: Be32 = 0,
    }
}

/// Hash `i` and address of an index that starts with `entries`.
pub fn entry(entries: &[u8], i: usize) -> Option<(u32, u32)> {
    Some((be32(entries, i * ENTRY_BYTES)?, be32(entries, i * ENTRY_BYTES + 4)?))
}

/// Check that `count` entries exist and have rising hashes; the number of stale ones.
///
/// # Errors
/// What does not fit.
pub fn check_entries(entries: &[u8], count: usize) -> Check<u32> {
    let mut last = 0;
    let mut stale = 0;
    for i in 0..count {
        let Some((hash, address)) = entry(entries, i) else {
            return Err(alloc::format!("index entry {i} of {count} goes beyond the end"));
        };
        ensure!(hash >= last, "hash {hash:#x} of index entry {i} is out of order");
        last = hash;
        stale += u32::from(address == NULL_ADDRESS);
    }
    Ok(stale)
}

/// A leaf, magic and identity already checked.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// Entries, stale ones included.
    pub count: usize,
    /// The next leaf's place in the directory; 0: none.
    pub forward: u32,
    /// The previous leaf's place; 0: none.
    pub backward: u32,
    entries: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// The leaf in `block`.
    pub fn new(block: &'a [u8]) -> Option<Self> {
        let header = Header::new(block)?;
        let info = BlockInfo::new(header.info())?;
        Some(Self {
            count: usize::from(header.count()),
            forward: info.forward(),
            backward: info.backward(),
            entries: &block[Header::SIZE..],
        })
    }
    /// Hash and address of entry `i`.
    pub fn entry(&self, i: usize) -> Option<(u32, u32)> {
        if i < self.count { entry(self.entries, i) } else { None }
    }
}

/// Check a leaf.
///
/// # Errors
/// What does not fit.
pub fn check(block: &[u8]) -> Check {
    let (Some(header), Some(leaf)) = (Header::new(block), Leaf::new(block)) else {
        return Err("too short".into());
    };
    let mut room = leaf.entries.len();
    if BlockInfo::new(block).map(|i| i.magic()) == Some(LEAF1_MAGIC) {
        let bests = be32(block, block.len() - Tail::SIZE).unwrap_or(0) as usize;
        let used = bests.saturating_mul(2).saturating_add(Tail::SIZE);
        ensure!(used <= room, "{bests} free space counts");
        room -= used;
        ensure!(leaf.forward == 0 && leaf.backward == 0, "a single leaf with siblings");
    }
    ensure!(leaf.count * ENTRY_BYTES <= room, "{} entries in {room} bytes", leaf.count);
    let stale = check_entries(leaf.entries, leaf.count)?;
    ensure!(u32::from(header.stale()) == stale, "{stale} stale entries, {} stated", header.stale());
    Ok(())
}

/// The free space counts at the end of a single leaf: the largest free space of each
/// data block, or 0xffff for a block that is not there.
pub fn bests(block: &[u8]) -> impl Iterator<Item = u16> {
    let tail = block.len().saturating_sub(Tail::SIZE);
    // The number is the disk's: no more than there is room for.
    let count = (be32(block, tail).unwrap_or(0) as usize).min(tail / 2);
    let start = tail - count * 2;
    (0..count).filter_map(move |i| be16(block, start + i * 2))
}
