//! Inner blocks of the hash tree over a directory's or an attribute fork's leaves.

use super::{Be16, Be32, Be64, Bytes, Check, Le32, UuidField, be32, ensure, on_disk};

/// An inner block.
pub const MAGIC: u16 = 0x3ebe;
/// Most levels of inner blocks.
pub const MAX_LEVELS: u32 = 5;
/// Bytes of a hash with its pointer.
pub const ENTRY_BYTES: usize = 8;

on_disk! {
    /// The header of all blocks of a hash tree.
    BlockInfo, 56 bytes {
        forward: Be32 = 0,
        backward: Be32 = 4,
        magic: Be16 = 8,
        pad: Be16 = 10,
        crc: Le32 = 12,
        blkno: Be64 = 16,
        lsn: Be64 = 24,
        uuid: UuidField = 32,
        owner: Be64 = 48,
    }
}

on_disk! {
    /// The header of an inner block; hashes and pointers follow.
    Header, 64 bytes {
        info: Bytes<56> = 0,
        count: Be16 = 56,
        level: Be16 = 58,
        pad: Be32 = 60,
    }
}

/// An inner block, magic and identity already checked.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// Pointers in it.
    pub count: usize,
    /// 1 right above the leaves.
    pub level: u32,
    entries: &'a [u8],
}

impl<'a> Node<'a> {
    /// The node in `block`.
    pub fn new(block: &'a [u8]) -> Option<Self> {
        let header = Header::new(block)?;
        Some(Self {
            count: usize::from(header.count()),
            level: u32::from(header.level()),
            entries: &block[Header::SIZE..],
        })
    }
    /// The greatest hash below pointer `i`, and the pointer.
    pub fn entry(&self, i: usize) -> Option<(u32, u32)> {
        if i >= self.count {
            return None;
        }
        Some((be32(self.entries, i * ENTRY_BYTES)?, be32(self.entries, i * ENTRY_BYTES + 4)?))
    }
    /// The first pointer below which `hash` can be; nothing when all hashes are smaller.
    pub fn search(&self, hash: u32) -> Option<u32> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.entry(middle)?.0 < hash {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        self.entry(low).map(|(_, child)| child)
    }
}

/// Check an inner block.
///
/// # Errors
/// What does not fit.
pub fn check(block: &[u8]) -> Check {
    let Some(node) = Node::new(block) else { return Err("too short".into()) };
    ensure!((1..=MAX_LEVELS).contains(&node.level), "level {}", node.level);
    let room = node.entries.len() / ENTRY_BYTES;
    ensure!((1..=room).contains(&node.count), "{} pointers, room for {room}", node.count);
    let mut last = 0;
    for (hash, _) in (0..node.count).filter_map(|i| node.entry(i)) {
        ensure!(hash >= last, "hash {hash:#x} is out of order");
        last = hash;
    }
    Ok(())
}
