//! Extent records of a file, and the root of an extent tree within the inode.
//!
//! A record packs, from the top: 1 bit unwritten, 54 bits file block, 52 bits file
//! system block, 21 bits length.

use super::{Be16, Be64, Check, be64, ensure, on_disk};
use crate::xfs::types::{FileBlock, FsBlock};

/// "BMA3".
pub const MAGIC: u32 = 0x424d_4133;
/// Bytes of a record.
pub const RECORD_BYTES: usize = 16;
/// Longest extent.
pub const MAX_BLOCKS: u64 = (1 << 21) - 1;
/// File blocks end below this.
pub const MAX_FILE_BLOCK: u64 = (1 << 54) - 1;

on_disk! {
    /// A record's bytes.
    View, 16 bytes {
        high: Be64 = 0,
        low: Be64 = 8,
    }
}

on_disk! {
    /// The start of an extent tree's root in an inode; keys and pointers follow.
    RootView, 4 bytes {
        level: Be16 = 0,
        count: Be16 = 2,
    }
}

/// A run of blocks of a file that is contiguous on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First block in the file.
    pub offset: FileBlock,
    /// First block on disk.
    pub block: FsBlock,
    /// Blocks.
    pub count: u32,
    /// Allocated but reads as zeros.
    pub unwritten: bool,
}

impl Extent {
    /// Read a record; [`RECORD_BYTES`] long.
    pub fn decode(bytes: &[u8]) -> Self {
        let high = be64(bytes, 0).unwrap_or(0);
        let low = be64(bytes, 8).unwrap_or(0);
        Self {
            offset: FileBlock((high >> 9) & MAX_FILE_BLOCK),
            block: FsBlock(((high & 0x1ff) << 43) | (low >> 21)),
            count: (low & MAX_BLOCKS) as u32,
            unwritten: high >> 63 != 0,
        }
    }
    /// Its record.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let high =
            u64::from(self.unwritten) << 63 | self.offset.0 << 9 | (self.block.0 >> 43) & 0x1ff;
        let low = self.block.0 << 21 | u64::from(self.count);
        let mut bytes = [0; RECORD_BYTES];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        bytes
    }
    /// The first block on disk behind it.
    pub const fn block_end(&self) -> FsBlock {
        FsBlock(self.block.0 + self.count as u64)
    }
    /// The part of it within these file blocks, which it overlaps.
    pub fn clip(&self, range: core::ops::Range<FileBlock>) -> Self {
        let start = self.offset.max(range.start);
        let end = self.end().min(range.end);
        Self {
            offset: start,
            block: FsBlock(self.block.0 + (start.0 - self.offset.0)),
            count: (end.0 - start.0) as u32,
            unwritten: self.unwritten,
        }
    }
    /// The first file block behind it.
    pub const fn end(&self) -> FileBlock {
        FileBlock(self.offset.0 + self.count as u64)
    }
}

/// The root of an extent tree.
#[derive(Clone, Copy, Debug)]
pub struct BmbtRoot<'a> {
    /// Its level, at least 1.
    pub level: u32,
    /// Pointers in it.
    pub count: usize,
    body: &'a [u8],
}

impl<'a> BmbtRoot<'a> {
    /// Check the root in an inode's fork.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(fork: &'a [u8]) -> Check<Self> {
        let (Some(view), Some(body)) = (RootView::new(fork), fork.get(RootView::SIZE..)) else {
            return Err("no room for the root of an extent tree".into());
        };
        let level = u32::from(view.level());
        let count = usize::from(view.count());
        ensure!(
            (1..super::agf::MAX_LEVELS).contains(&level),
            "root of the extent tree at level {level}"
        );
        let room = body.len() / RECORD_BYTES;
        ensure!((1..=room).contains(&count), "{count} pointers in the root, room for {room}");
        Ok(Self { level, count, body })
    }
    /// Key and pointer `i`.
    pub fn child(&self, i: usize) -> Option<(u64, u64)> {
        super::btree::long_child(self.body, i, self.count)
    }
}
