//! Records of the free space trees: by block (bnobt) and by size (cntbt).

use super::be32;
use super::btree::Record;

/// "AB3B": the tree by block.
pub const BNO_MAGIC: u32 = 0x4142_3342;
/// "AB3C": the tree by size.
pub const CNT_MAGIC: u32 = 0x4142_3343;

/// A free extent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeExtent {
    /// First block.
    pub start: u32,
    /// Blocks.
    pub count: u32,
}

/// A free extent in the tree by block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByBlock(pub FreeExtent);
/// A free extent in the tree by size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BySize(pub FreeExtent);

fn decode(bytes: &[u8]) -> FreeExtent {
    FreeExtent { start: be32(bytes, 0).unwrap_or(0), count: be32(bytes, 4).unwrap_or(0) }
}

impl Record for ByBlock {
    const BYTES: usize = 8;
    const KEY_BYTES: usize = 8;
    type Key = u32;
    fn decode(bytes: &[u8]) -> Self {
        Self(decode(bytes))
    }
    fn key(&self) -> u32 {
        self.0.start
    }
    fn decode_key(bytes: &[u8]) -> u32 {
        decode(bytes).start
    }
}

impl Record for BySize {
    const BYTES: usize = 8;
    const KEY_BYTES: usize = 8;
    type Key = (u32, u32);
    fn decode(bytes: &[u8]) -> Self {
        Self(decode(bytes))
    }
    fn key(&self) -> (u32, u32) {
        (self.0.count, self.0.start)
    }
    fn decode_key(bytes: &[u8]) -> (u32, u32) {
        Self::decode(bytes).key()
    }
}
