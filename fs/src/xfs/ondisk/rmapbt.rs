//! Records of the reverse mapping tree: who owns which blocks.

use super::btree::Record;
use super::{Be32, Be64, be32, be64, on_disk};

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
        (self.start, self.owner, self.offset & OFFSET_MASK)
    }
    fn decode_key(bytes: &[u8]) -> Self::Key {
        KeyView::new(bytes).map_or((0, 0, 0), |k| (k.start(), k.owner(), k.offset() & OFFSET_MASK))
    }
}
