//! Listing a directory from a cursor on.

use alloc::boxed::Box;
use alloc::format;

use super::{DOT_OFFSET, DOTDOT_OFFSET, FIRST_OFFSET, Form, PART_BYTES, cursor};
use crate::error::{Corruption, Error, Result};
use crate::xfs::inode::{Fork, ForkKind, Inode};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::dir_data::{self, DataHeader, Item};
use crate::xfs::ondisk::dir_sf;
use crate::xfs::types::{DirEntry, FileBlock, FileType, Ino};

/// What a walk over entries does with each; false: stop, the entry was not taken.
type Each<'a> = &'a mut dyn FnMut(DirEntry<'_>) -> bool;

/// A copy of one directory block.
struct Page {
    /// Where it lies in the directory, in bytes.
    offset: u64,
    bytes: Box<[u8]>,
    place: alloc::string::String,
    kind: BlockKind,
}

impl Inode {
    /// Visit the entries of this directory from `start` on ("." and ".." included), until
    /// `each` returns false: it then did not take the entry. Returns the cursor to go on
    /// with. A listing starts with cursor 0; cursors of entries that are gone are fine.
    /// No lock is held while `each` runs.
    ///
    /// # Errors
    /// [`Error::NotDirectory`]; I/O errors and damage, possibly behind entries that were
    /// visited.
    pub fn readdir(&self, start: u64, each: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<u64> {
        let locked = self.lock(ForkKind::Data)?;
        let form = self.dir_form(&locked)?;
        if form == Form::Shortform {
            let Some(Fork::Local(bytes)) = locked.fork() else { return Ok(start) };
            let bytes = bytes.clone();
            drop(locked);
            return self.readdir_shortform(&bytes, start, each);
        }
        drop(locked);
        let block_bytes = self.mount().geometry().dir_block_bytes() as u64;
        let mut offset = start.min(cursor(PART_BYTES)) * dir_data::ALIGN as u64;
        while let Some(page) = self.page_at_or_after(offset)? {
            let from = offset.max(page.offset);
            if let Some(stopped) = self.readdir_page(&page, from, each)? {
                return Ok(cursor(stopped));
            }
            offset = page.offset + block_bytes;
        }
        Ok(cursor(offset))
    }
    fn readdir_shortform(&self, bytes: &[u8], start: u64, each: Each<'_>) -> Result<u64> {
        let view = dir_sf::View::new(bytes).map_err(|r| self.corrupt(r))?;
        let implied = [
            (b".".as_slice(), self.ino(), DOT_OFFSET, DOTDOT_OFFSET),
            (b"..".as_slice(), view.parent(), DOTDOT_OFFSET, FIRST_OFFSET),
        ];
        for (name, ino, at, next) in implied {
            let next_cursor = cursor(next);
            let entry = DirEntry { name, ino, file_type: FileType::Directory, next_cursor };
            if cursor(at) >= start && !each(self.check_entry(entry)?) {
                return Ok(cursor(at));
            }
        }
        let mut end = start.max(cursor(FIRST_OFFSET));
        for entry in view.entries() {
            let entry = entry.map_err(|r| self.corrupt(r))?;
            let at = u64::from(entry.offset);
            if cursor(at) < start {
                continue;
            }
            end = cursor(at + dir_data::entry_bytes(entry.name.len()) as u64);
            let found = DirEntry {
                name: entry.name,
                ino: entry.ino,
                file_type: entry.file_type,
                next_cursor: end,
            };
            if !each(self.check_entry(found)?) {
                return Ok(cursor(at));
            }
        }
        Ok(end)
    }
    /// A copy of the first data block at or behind byte `offset`.
    fn page_at_or_after(&self, offset: u64) -> Result<Option<Page>> {
        let locked = self.lock(ForkKind::Data)?;
        let form = self.dir_form(&locked)?;
        let space = self.dir_space(&locked);
        let log = self.mount().geometry().block_log;
        let unit = space.block_blocks;
        let wanted = FileBlock((offset >> log) / unit * unit);
        let Some(extent) = locked.extents().at_or_after(wanted) else { return Ok(None) };
        let at = FileBlock(wanted.0.max(extent.offset.0 / unit * unit));
        if at.0 >= space.tree.start {
            return Ok(None);
        }
        let kind = if form == Form::Block { BlockKind::DirBlock } else { BlockKind::DirData };
        let buffer = space.read(at, &[kind])?;
        let contents = buffer.read();
        let mut bytes = alloc::vec::Vec::new();
        bytes.try_reserve_exact(contents.len()).map_err(|_| Error::NoMemory)?;
        bytes.extend_from_slice(&contents);
        Ok(Some(Page {
            offset: at.0 << log,
            bytes: bytes.into_boxed_slice(),
            place: self.mount().geometry().place(buffer.sector()),
            kind,
        }))
    }
    /// Visit a block's entries from byte `from` of the directory on; where it stopped,
    /// if it did.
    fn readdir_page(&self, page: &Page, from: u64, each: Each<'_>) -> Result<Option<u64>> {
        let located = |reason| Corruption {
            structure: page.kind.name(),
            location: page.place.clone(),
            reason,
        };
        let end = dir_data::entries_end(&page.bytes).map_err(located)?;
        let mut at = DataHeader::SIZE;
        while at < end {
            let item = dir_data::item(&page.bytes, at, end).map_err(located)?;
            let place = page.offset + at as u64;
            at += item.length();
            let Item::Entry(entry) = item else { continue };
            if place < from {
                continue;
            }
            let found = DirEntry {
                name: entry.name,
                ino: entry.ino,
                file_type: entry.file_type,
                next_cursor: cursor(page.offset + at as u64),
            };
            if !each(self.check_entry(found)?) {
                return Ok(Some(place));
            }
        }
        Ok(None)
    }
    fn check_entry<'e>(&self, entry: DirEntry<'e>) -> Result<DirEntry<'e>> {
        if self.mount().geometry().has_inode(Ino(entry.ino.0)) {
            return Ok(entry);
        }
        let name = alloc::string::String::from_utf8_lossy(entry.name);
        Err(self.corrupt(format!("the entry {name:?} names {}, which cannot be", entry.ino)))
    }
}
