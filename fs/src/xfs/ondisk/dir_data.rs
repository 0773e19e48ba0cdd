//! Directory blocks with entries: "data" blocks, and the single "block" of a small
//! directory, which also ends in its own hash index.
//!
//! Behind the header, entries and free spaces follow each other without gaps, each a
//! multiple of eight bytes and ending in its own offset (its tag).

use super::{Be16, Be32, Be64, Byte, Check, Le32, UuidField, be16, be32, ensure, on_disk};
use crate::xfs::types::{FileType, Ino};

/// "XDD3": a data block.
pub const DATA_MAGIC: u32 = 0x5844_4433;
/// "XDB3": a single block with its index.
pub const BLOCK_MAGIC: u32 = 0x5844_4233;
/// Starts a free space where an entry has its inode number.
pub const FREE_TAG: u16 = 0xffff;
/// Entries are a multiple of this long and so aligned.
pub const ALIGN: usize = 8;

on_disk! {
    /// The header of directory blocks that hold entries or free space counts.
    BlockHeader, 48 bytes {
        magic: Be32 = 0,
        crc: Le32 = 4,
        blkno: Be64 = 8,
        lsn: Be64 = 16,
        uuid: UuidField = 24,
        owner: Be64 = 40,
    }
}

on_disk! {
    /// The whole header of a block with entries: the three largest free spaces follow.
    DataHeader, 64 bytes {
        magic: Be32 = 0,
        crc: Le32 = 4,
        blkno: Be64 = 8,
        lsn: Be64 = 16,
        uuid: UuidField = 24,
        owner: Be64 = 40,
        best0_offset: Be16 = 48,
        best0_length: Be16 = 50,
        best1_offset: Be16 = 52,
        best1_length: Be16 = 54,
        best2_offset: Be16 = 56,
        best2_length: Be16 = 58,
        pad: Be32 = 60,
    }
}

on_disk! {
    /// The start of an entry; name, file type and tag follow.
    EntryHead, 9 bytes {
        ino: Be64 = 0,
        name_len: Byte = 8,
    }
}

on_disk! {
    /// The start of a free space.
    FreeHead, 4 bytes {
        tag: Be16 = 0,
        length: Be16 = 2,
    }
}

on_disk! {
    /// The end of a single block: its index lies right before.
    BlockTail, 8 bytes {
        count: Be32 = 0,
        stale: Be32 = 4,
    }
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Its inode.
    pub ino: Ino,
    /// What that is.
    pub file_type: FileType,
    /// Bytes the entry takes.
    pub length: usize,
}

/// Is this a name that can be in a directory?
///
/// # Errors
/// It is empty or has a byte that names cannot have.
pub fn check_name(name: &[u8]) -> Check {
    ensure!(!name.is_empty(), "an empty name");
    ensure!(!name.iter().any(|b| matches!(b, 0 | b'/')), "a name with a slash or NUL in it");
    Ok(())
}

/// Bytes an entry with a name this long takes.
pub const fn entry_bytes(name: usize) -> usize {
    (EntryHead::SIZE + name + 1 + 2).next_multiple_of(ALIGN)
}

/// The entry at byte `at` of a block whose entries end at `end`.
///
/// # Errors
/// There is none, or a damaged one.
pub fn entry(block: &[u8], at: usize, end: usize) -> Check<Entry<'_>> {
    let within = block.get(..end).and_then(|b| b.get(at..)).unwrap_or(&[]);
    let Some(head) = EntryHead::new(within) else {
        return Err(alloc::format!("no entry at {at}"));
    };
    ensure!(at >= DataHeader::SIZE && at.is_multiple_of(ALIGN), "no entry at {at}");
    let len = usize::from(head.name_len());
    let length = entry_bytes(len);
    let (Some(name), Some(file_type), Some(tag)) = (
        within.get(EntryHead::SIZE..EntryHead::SIZE + len),
        within.get(EntryHead::SIZE + len),
        be16(within, length - 2),
    ) else {
        return Err(alloc::format!("the entry at {at} goes beyond the end"));
    };
    ensure!(usize::from(tag) == at & 0xffff, "the entry at {at} has the tag {tag}");
    check_name(name)?;
    let Some(file_type) = FileType::from_dirent(*file_type) else {
        return Err(alloc::format!("file type {file_type} of the entry at {at}"));
    };
    Ok(Entry { name, ino: Ino(head.ino()), file_type, length })
}

/// What lies at a place of a block.
#[derive(Clone, Copy, Debug)]
pub enum Item<'a> {
    /// An entry.
    Entry(Entry<'a>),
    /// This many free bytes.
    Free(usize),
}

impl Item<'_> {
    /// Bytes it takes.
    pub const fn length(&self) -> usize {
        match self {
            Self::Entry(e) => e.length,
            Self::Free(n) => *n,
        }
    }
}

/// The entry or free space at byte `at`.
///
/// # Errors
/// It is damaged.
pub fn item(block: &[u8], at: usize, end: usize) -> Check<Item<'_>> {
    let within = block.get(..end).and_then(|b| b.get(at..)).unwrap_or(&[]);
    let Some(head) = FreeHead::new(within) else {
        return Err(alloc::format!("nothing at {at}"));
    };
    if head.tag() != FREE_TAG {
        return entry(block, at, end).map(Item::Entry);
    }
    let length = usize::from(head.length());
    ensure!(
        length >= ALIGN && length.is_multiple_of(ALIGN) && length <= within.len(),
        "{length} free bytes at {at}"
    );
    let tag = be16(within, length - 2).unwrap_or(0);
    ensure!(usize::from(tag) == at & 0xffff, "the free space at {at} has the tag {tag}");
    Ok(Item::Free(length))
}

/// The hash index at the end of a single block: where it starts, and its entries' number.
///
/// # Errors
/// It does not fit.
pub fn block_index(block: &[u8]) -> Check<(usize, usize)> {
    let tail_at = block.len().saturating_sub(BlockTail::SIZE);
    let Some(tail) = BlockTail::new(&block[tail_at..]) else {
        return Err("too short".into());
    };
    let room = tail_at.saturating_sub(DataHeader::SIZE) / super::dir_leaf::ENTRY_BYTES;
    let count = tail.count() as usize;
    ensure!(
        count <= room && tail.stale() as usize <= count,
        "an index of {count} entries, {} of them stale",
        tail.stale()
    );
    Ok((tail_at - count * super::dir_leaf::ENTRY_BYTES, count))
}

/// Where the entries of a block end.
///
/// # Errors
/// A single block's index does not fit.
pub fn entries_end(block: &[u8]) -> Check<usize> {
    if be32(block, 0) == Some(BLOCK_MAGIC) {
        block_index(block).map(|(start, _)| start)
    } else {
        Ok(block.len())
    }
}

/// Places and lengths of the three largest free spaces, as the header has them.
fn largest_free(header: &DataHeader<'_>) -> [(usize, usize); 3] {
    [
        (header.best0_offset(), header.best0_length()),
        (header.best1_offset(), header.best1_length()),
        (header.best2_offset(), header.best2_length()),
    ]
    .map(|(at, length)| (usize::from(at), usize::from(length)))
}

/// Check a block with entries, magic and identity already checked.
///
/// # Errors
/// What does not fit.
pub fn check(block: &[u8]) -> Check {
    let Some(header) = DataHeader::new(block) else { return Err("too short".into()) };
    let end = entries_end(block)?;
    let mut at = DataHeader::SIZE;
    let mut entries = 0;
    let mut largest = [0; 3];
    let table = largest_free(&header);
    let mut listed = 0;
    let mut was_free = false;
    while at < end {
        let item = item(block, at, end)?;
        match item {
            Item::Entry(_) => {
                entries += 1;
                was_free = false;
            }
            Item::Free(n) => {
                ensure!(!was_free, "two free spaces in a row at {at}");
                was_free = true;
                listed += usize::from(table.contains(&(at, n)));
                if let Some(i) = largest.iter().position(|l| *l < n) {
                    largest[i..].rotate_right(1);
                    largest[i] = n;
                }
            }
        }
        at += item.length();
    }
    let stated = table.map(|(_, length)| length);
    ensure!(
        stated == largest && listed == stated.iter().filter(|n| **n > 0).count(),
        "the largest free spaces have {largest:?} bytes, {stated:?} stated"
    );
    if end < block.len() {
        let (start, count) = block_index(block)?;
        let index = &block[start..];
        let stale = super::dir_leaf::check_entries(index, count)?;
        let stated = BlockTail::new(&block[block.len() - BlockTail::SIZE..]).map(|t| t.stale());
        ensure!(stated == Some(stale), "{stale} stale index entries, {stated:?} stated");
        ensure!(
            count - stale as usize == entries,
            "{entries} entries, {} in the index",
            count - stale as usize
        );
    }
    Ok(())
}
