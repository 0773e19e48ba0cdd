//! What all b+tree blocks have in common: headers, and where records, keys and
//! pointers lie.
//!
//! Trees of an allocation group have the short header and 32-bit pointers; extent
//! trees of inodes have the long header and 64-bit pointers. A leaf (level 0) holds
//! records; a node holds keys, then, behind room for as many keys as fit, pointers.

use super::{Be16, Be32, Be64, Check, Le32, UuidField, be32, be64, ensure, on_disk};

/// No sibling, short form.
pub const NULL_SHORT: u32 = u32::MAX;
/// No sibling, long form.
pub const NULL_LONG: u64 = u64::MAX;

on_disk! {
    /// Header of a block of a tree within an allocation group.
    ShortHeader, 56 bytes {
        magic: Be32 = 0,
        level: Be16 = 4,
        count: Be16 = 6,
        left: Be32 = 8,
        right: Be32 = 12,
        blkno: Be64 = 16,
        lsn: Be64 = 24,
        uuid: UuidField = 32,
        owner: Be32 = 48,
        crc: Le32 = 52,
    }
}

on_disk! {
    /// Header of a block of an inode's extent tree.
    LongHeader, 72 bytes {
        magic: Be32 = 0,
        level: Be16 = 4,
        count: Be16 = 6,
        left: Be64 = 8,
        right: Be64 = 16,
        blkno: Be64 = 24,
        lsn: Be64 = 32,
        uuid: UuidField = 40,
        owner: Be64 = 56,
        crc: Le32 = 64,
        pad: Be32 = 68,
    }
}

/// A record of a tree of an allocation group.
pub trait Record: Copy {
    /// Bytes of a record in a leaf.
    const BYTES: usize;
    /// Bytes of the keys of one pointer in a node.
    const KEY_BYTES: usize;
    /// What records are ordered by.
    type Key: Ord + Copy + core::fmt::Debug;
    /// Read it. `bytes` are [`Record::BYTES`] long.
    fn decode(bytes: &[u8]) -> Self;
    /// Its key.
    fn key(&self) -> Self::Key;
    /// Read a node's key (the low one). `bytes` are [`Record::KEY_BYTES`] long.
    fn decode_key(bytes: &[u8]) -> Self::Key;
}

/// A block of a tree within an allocation group, magic and identity already checked.
#[derive(Clone, Copy)]
pub struct ShortBlock<'a> {
    /// The header.
    pub header: ShortHeader<'a>,
    body: &'a [u8],
}

impl<'a> ShortBlock<'a> {
    /// The block in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        Some(Self { header: ShortHeader::new(bytes)?, body: bytes.get(ShortHeader::SIZE..)? })
    }
    /// Level: 0 is a leaf.
    pub fn level(&self) -> u32 {
        u32::from(self.header.level())
    }
    /// Records or pointers in it, never more than fit (which [`check_short`] saw to).
    pub fn count(&self) -> usize {
        usize::from(self.header.count())
    }
    /// Record `i` of a leaf.
    pub fn record<R: Record>(&self, i: usize) -> Option<R> {
        self.body.get(i * R::BYTES..(i + 1) * R::BYTES).map(R::decode)
    }
    /// Key `i` of a node.
    pub fn key<R: Record>(&self, i: usize) -> Option<R::Key> {
        self.body.get(i * R::KEY_BYTES..(i + 1) * R::KEY_BYTES).map(R::decode_key)
    }
    /// Of a node of overlapping records: the first and the last block that is covered
    /// below pointer `i`.
    pub fn key_range(&self, i: usize) -> Option<(u32, u32)> {
        let bytes = super::rmapbt::Rmap::KEY_BYTES;
        let low = be32(self.body, i * bytes)?;
        Some((low, be32(self.body, i * bytes + bytes / 2)?))
    }
    /// Pointer `i` of a node.
    pub fn child<R: Record>(&self, i: usize) -> Option<u32> {
        let room = self.body.len() / (R::KEY_BYTES + 4);
        if i < room { be32(self.body, room * R::KEY_BYTES + i * 4) } else { None }
    }
}

/// Check the counts of a block of a tree within a group, of records of these sizes.
///
/// # Errors
/// What does not fit.
pub fn check_short(bytes: &[u8], record_bytes: usize, key_bytes: usize) -> Check {
    let Some(block) = ShortBlock::new(bytes) else { return Err("too short".into()) };
    let unit = if block.level() == 0 { record_bytes } else { key_bytes + 4 };
    let room = block.body.len() / unit;
    let level = block.level();
    ensure!(level < super::agf::MAX_LEVELS, "level {level}");
    ensure!(block.count() <= room, "{} records, room for {room}", block.count());
    Ok(())
}

/// Bytes of a key or pointer of an extent tree.
const LONG_UNIT: usize = 8;

/// A block of an inode's extent tree, magic and identity already checked.
#[derive(Clone, Copy)]
pub struct LongBlock<'a> {
    /// The header.
    pub header: LongHeader<'a>,
    body: &'a [u8],
}

impl<'a> LongBlock<'a> {
    /// The block in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Option<Self> {
        Some(Self { header: LongHeader::new(bytes)?, body: bytes.get(LongHeader::SIZE..)? })
    }
    /// Level: 0 is a leaf.
    pub fn level(&self) -> u32 {
        u32::from(self.header.level())
    }
    /// Records or pointers in it, never more than fit (which [`check_long`] saw to).
    pub fn count(&self) -> usize {
        usize::from(self.header.count())
    }
    /// The records of a leaf.
    pub fn records(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.body.chunks_exact(super::bmbt::RECORD_BYTES).take(self.count())
    }
    /// Key and pointer `i` of a node.
    pub fn child(&self, i: usize) -> Option<(u64, u64)> {
        long_child(self.body, i, self.count())
    }
}

/// Key and pointer `i` of `count` in a node's body (of a block, or the root in an inode).
pub fn long_child(body: &[u8], i: usize, count: usize) -> Option<(u64, u64)> {
    let room = body.len() / (2 * LONG_UNIT);
    if i >= count || i >= room {
        return None;
    }
    let key = be64(body, i * LONG_UNIT)?;
    let child = be64(body, (room + i) * LONG_UNIT)?;
    Some((key, child))
}

/// Check the counts of a block of an extent tree.
///
/// # Errors
/// What does not fit.
pub fn check_long(bytes: &[u8]) -> Check {
    let Some(block) = LongBlock::new(bytes) else { return Err("too short".into()) };
    // Records are as long as a key and a pointer.
    let room = block.body.len() / super::bmbt::RECORD_BYTES;
    ensure!(block.level() < super::agf::MAX_LEVELS, "level {}", block.level());
    ensure!((1..=room).contains(&block.count()), "{} records, room for {room}", block.count());
    Ok(())
}
