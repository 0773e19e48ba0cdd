//! Records of the inode trees: chunks of 64 inodes, possibly with holes.
//!
//! Source: "Inode Btrees" and "Sparse Inodes" in allocation_groups.

use super::btree::Record;
use super::{Be16, Be32, Be64, Byte, Check, be32, ensure, on_disk};
use crate::xfs::btree::Entry;
use crate::xfs::geometry::{Geometry, INODES_PER_CHUNK};
use crate::xfs::types::AgNumber;

/// "IAB3": all chunks.
pub const INOBT_MAGIC: u32 = 0x4941_4233;
/// "FIB3": chunks with free inodes.
pub const FINOBT_MAGIC: u32 = 0x4649_4233;
/// Inodes that one bit of the hole mask stands for.
pub const INODES_PER_HOLE_BIT: u32 = 4;

on_disk! {
    /// A chunk as file systems with sparse inodes store it.
    SparseView, 16 bytes {
        start: Be32 = 0,
        hole_mask: Be16 = 4,
        count: Byte = 6,
        free_count: Byte = 7,
        free: Be64 = 8,
    }
}

on_disk! {
    /// A chunk as file systems without sparse inodes store it.
    FullView, 16 bytes {
        start: Be32 = 0,
        free_count: Be32 = 4,
        free: Be64 = 8,
    }
}

/// A record as it lies on disk; [`RawChunk::check`] tells what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawChunk {
    start: u32,
    bytes: [u8; 16],
}

impl Record for RawChunk {
    const BYTES: usize = 16;
    const KEY_BYTES: usize = 4;
    type Key = u32;
    fn decode(bytes: &[u8]) -> Self {
        let bytes = bytes.first_chunk().copied().unwrap_or([0; 16]);
        Self { start: be32(&bytes, 0).unwrap_or(0), bytes }
    }
    fn key(&self) -> u32 {
        self.start
    }
    fn decode_key(bytes: &[u8]) -> u32 {
        be32(bytes, 0).unwrap_or(0)
    }
}

impl Entry for RawChunk {
    fn encode(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.bytes);
    }
    fn encode_key(key: &u32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&key.to_be_bytes());
    }
}

/// A checked chunk of inodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// First inode, within the group.
    pub start: u32,
    /// A bit for each four inodes that have no blocks.
    pub hole_mask: u16,
    /// Inodes with blocks.
    pub count: u32,
    /// Of these, free ones.
    pub free_count: u32,
    /// A bit for each inode that is not in use (holes included).
    pub free: u64,
}

impl RawChunk {
    /// Check a record of group `ag`.
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, geometry: &Geometry, ag: AgNumber, sparse: bool) -> Check<Chunk> {
        let too_short = || alloc::string::String::from("too short");
        let chunk = if sparse {
            let v = SparseView::new(&self.bytes).ok_or_else(too_short)?;
            Chunk {
                start: v.start(),
                hole_mask: v.hole_mask(),
                count: u32::from(v.count()),
                free_count: u32::from(v.free_count()),
                free: v.free(),
            }
        } else {
            let v = FullView::new(&self.bytes).ok_or_else(too_short)?;
            Chunk {
                start: v.start(),
                hole_mask: 0,
                count: INODES_PER_CHUNK,
                free_count: v.free_count(),
                free: v.free(),
            }
        };
        let (holes, mask) = (chunk.hole_mask.count_ones() * INODES_PER_HOLE_BIT, chunk.holes());
        ensure!(
            chunk.count == INODES_PER_CHUNK - holes,
            "chunk {} has {} inodes and {holes} in holes",
            chunk.start,
            chunk.count
        );
        ensure!(
            chunk.free & mask == mask && (chunk.free & !mask).count_ones() == chunk.free_count,
            "chunk {} has {} free inodes but mask {:#x}",
            chunk.start,
            chunk.free_count,
            chunk.free
        );
        let first = mask.trailing_ones().min(INODES_PER_CHUNK - 1);
        ensure!(
            geometry.has_inode(geometry.ino(ag, chunk.start.saturating_add(first))),
            "chunk {} lies outside the group",
            chunk.start
        );
        Ok(chunk)
    }
}

impl Chunk {
    /// A chunk, or with a hole mask a part of one, in which no inode is used.
    pub const fn unused(start: u32, hole_mask: u16) -> Self {
        let count = INODES_PER_CHUNK - hole_mask.count_ones() * INODES_PER_HOLE_BIT;
        Self { start, hole_mask, count, free_count: count, free: u64::MAX }
    }
    /// The record of it; `sparse` says whether the file system has sparse chunks.
    pub fn record(&self, sparse: bool) -> RawChunk {
        let mut bytes = [0; 16];
        bytes[0..4].copy_from_slice(&self.start.to_be_bytes());
        if sparse {
            bytes[4..6].copy_from_slice(&self.hole_mask.to_be_bytes());
            bytes[6] = self.count as u8;
            bytes[7] = self.free_count as u8;
        } else {
            bytes[4..8].copy_from_slice(&self.free_count.to_be_bytes());
        }
        bytes[8..16].copy_from_slice(&self.free.to_be_bytes());
        RawChunk { start: self.start, bytes }
    }
    /// Number `i` of it is not in use now.
    pub const fn give_back(&mut self, i: u32) {
        self.free |= 1 << i;
        self.free_count += 1;
    }
    /// Number `i` of it is in use now.
    pub const fn take(&mut self, i: u32) {
        self.free &= !(1 << i);
        self.free_count -= 1;
    }
    /// The first inode with a block that is not in use.
    pub fn first_free(&self) -> Option<u32> {
        let free = self.free & !self.holes();
        (free != 0).then(|| free.trailing_zeros())
    }
    /// A bit for each inode without a block.
    pub fn holes(&self) -> u64 {
        // Few chunks have any.
        if self.hole_mask == 0 {
            return 0;
        }
        (0..16u32)
            .filter(|bit| self.hole_mask & (1 << bit) != 0)
            .fold(0, |mask, bit| mask | 0xf << (bit * INODES_PER_HOLE_BIT))
    }
    /// The inodes in use, as numbers within the group.
    pub fn used(&self) -> impl Iterator<Item = u32> + use<> {
        let (start, free) = (self.start, self.free);
        (0..INODES_PER_CHUNK).filter(move |i| free & (1 << i) == 0).map(move |i| start + i)
    }
}
