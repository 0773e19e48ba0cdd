//! Records of the reference count tree: which blocks are shared, which are staged for
//! copy on write.

use super::btree::Record;
use super::{Be32, be32, on_disk};
use crate::xfs::btree::Entry;

/// "R3FC".
pub const MAGIC: u32 = 0x5233_4643;
/// Flag in `start`: blocks staged for copy on write.
pub const COW: u32 = 1 << 31;

on_disk! {
    /// A record's bytes.
    View, 12 bytes {
        start: Be32 = 0,
        count: Be32 = 4,
        references: Be32 = 8,
    }
}

/// A run of blocks with the same number of owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refcount {
    /// Staged for copy on write; such records lie behind all others.
    pub cow: bool,
    /// First block.
    pub start: u32,
    /// Blocks.
    pub count: u32,
    /// Owners.
    pub references: u32,
}

impl Refcount {
    /// The first block behind it.
    pub const fn end(&self) -> u32 {
        self.start + self.count
    }
}

impl Entry for Refcount {
    fn encode(&self, bytes: &mut [u8]) {
        bytes[0..4].copy_from_slice(&self.key().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.count.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.references.to_be_bytes());
    }
    fn encode_key(key: &u32, bytes: &mut [u8]) {
        bytes[0..4].copy_from_slice(&key.to_be_bytes());
    }
}

impl Record for Refcount {
    const BYTES: usize = View::SIZE;
    const KEY_BYTES: usize = 4;
    type Key = u32;
    fn decode(bytes: &[u8]) -> Self {
        let start = be32(bytes, 0).unwrap_or(0);
        Self {
            cow: start & COW != 0,
            start: start & !COW,
            count: be32(bytes, 4).unwrap_or(0),
            references: be32(bytes, 8).unwrap_or(0),
        }
    }
    fn key(&self) -> u32 {
        self.start | if self.cow { COW } else { 0 }
    }
    fn decode_key(bytes: &[u8]) -> u32 {
        be32(bytes, 0).unwrap_or(0)
    }
}
