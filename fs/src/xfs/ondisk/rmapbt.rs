//! Records of the reverse mapping tree: who owns which blocks.

use super::btree::Record;
use super::{Be32, Be64, be32, be64, on_disk};
use crate::xfs::btree::Entry;

/// "RMB3".
pub const MAGIC: u32 = 0x524d_4233;
/// Flag in `offset`: the attribute fork.
pub const ATTR_FORK: u64 = 1 << 63;
/// Flag in `offset`: a block of the extent tree.
pub const BMBT_BLOCK: u64 = 1 << 62;
/// Flag in `offset`: unwritten.
pub const UNWRITTEN: u64 = 1 << 61;
/// The file block in `offset`.
pub const OFFSET_MASK: u64 = (1 << 54) - 1;

on_disk! {
    /// A record's bytes.
    View, 24 bytes {
        start: Be32 = 0,
        count: Be32 = 4,
        owner: Be64 = 8,
        offset: Be64 = 16,
    }
}

on_disk! {
    /// Half of a node's key: the least or the greatest record below a pointer.
    KeyView, 20 bytes {
        start: Be32 = 0,
        owner: Be64 = 4,
        offset: Be64 = 12,
    }
}

/// Owners that are no inodes; all of them have the highest bit set.
pub mod owner {
    /// Whoever it is.
    pub const UNKNOWN: u64 = -2_i64 as u64;
    /// The group's headers.
    pub const FS: u64 = -3_i64 as u64;
    /// The log.
    pub const LOG: u64 = -4_i64 as u64;
    /// The group's trees of space and what is set aside for them.
    pub const AG: u64 = -5_i64 as u64;
    /// The inode trees.
    pub const INOBT: u64 = -6_i64 as u64;
    /// Inodes.
    pub const INODES: u64 = -7_i64 as u64;
    /// The tree of reference counts.
    pub const REFCOUNTBT: u64 = -8_i64 as u64;
    /// Blocks staged for copy on write.
    pub const COW: u64 = -9_i64 as u64;
}

/// A reverse mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rmap {
    /// First block.
    pub start: u32,
    /// Blocks.
    pub count: u32,
    /// An inode, or a negative number for the group's own structures.
    pub owner: u64,
    /// Flags and file block.
    pub offset: u64,
}

impl Rmap {
    /// The first block behind it.
    pub const fn end(&self) -> u64 {
        self.start as u64 + self.count as u64
    }
    /// Are blocks of it at a place in a file? Blocks of extent trees and of the group's
    /// structures are not.
    pub const fn has_offset(&self) -> bool {
        self.owner >> 63 == 0 && self.offset & BMBT_BLOCK == 0
    }
}

impl Entry for Rmap {
    const OVERLAPPING: bool = true;
    fn encode(&self, bytes: &mut [u8]) {
        bytes[0..4].copy_from_slice(&self.start.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.count.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.owner.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.offset.to_be_bytes());
    }
    fn encode_key(key: &Self::Key, bytes: &mut [u8]) {
        bytes[0..4].copy_from_slice(&key.0.to_be_bytes());
        bytes[4..12].copy_from_slice(&key.1.to_be_bytes());
        bytes[12..20].copy_from_slice(&key.2.to_be_bytes());
    }
    fn high_key(&self) -> Self::Key {
        let further = self.count.saturating_sub(1);
        let offset = if self.has_offset() {
            let at = (self.offset & OFFSET_MASK) + u64::from(further);
            (at & OFFSET_MASK) | (self.offset & !OFFSET_MASK)
        } else {
            self.offset
        };
        (self.start.saturating_add(further), self.owner, offset & !UNWRITTEN)
    }
}

impl Record for Rmap {
    const BYTES: usize = View::SIZE;
    // The trees overlap: each pointer has a low and a high key.
    const KEY_BYTES: usize = 2 * KeyView::SIZE;
    type Key = (u32, u64, u64);
    fn decode(bytes: &[u8]) -> Self {
        Self {
            start: be32(bytes, 0).unwrap_or(0),
            count: be32(bytes, 4).unwrap_or(0),
            owner: be64(bytes, 8).unwrap_or(0),
            offset: be64(bytes, 16).unwrap_or(0),
        }
    }
    fn key(&self) -> Self::Key {
        (self.start, self.owner, self.offset & !UNWRITTEN)
    }
    fn decode_key(bytes: &[u8]) -> Self::Key {
        KeyView::new(bytes).map_or((0, 0, 0), |k| (k.start(), k.owner(), k.offset() & !UNWRITTEN))
    }
}
