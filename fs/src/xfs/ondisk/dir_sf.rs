//! Directories that lie in the inode itself (shortform).
//!
//! A header with the number of entries and the parent; then the entries. Inode numbers
//! take four bytes unless one needs eight. "." and ".." are implied.

use super::{Check, be16, be32, be64, ensure};
use crate::xfs::types::{FileType, Ino};

/// A shortform directory, magicless: the inode's checksum covers it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    bytes: &'a [u8],
    wide: bool,
}

/// An entry.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Where the entry would lie in a directory block: its cursor.
    pub offset: u16,
    /// What it is.
    pub file_type: FileType,
    /// Its inode.
    pub ino: Ino,
}

/// Bytes before the name: length and offset.
pub const ENTRY_HEAD: usize = 3;

impl<'a> View<'a> {
    /// Check the whole directory.
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(bytes: &'a [u8]) -> Check<Self> {
        ensure!(bytes.len() >= 6, "{} bytes are no shortform directory", bytes.len());
        let view = Self { bytes, wide: bytes[1] != 0 };
        let mut wide = 0;
        let mut seen = 0;
        let mut end = view.header_bytes();
        let mut last_offset = 0;
        for entry in view.entries() {
            let entry = entry?;
            ensure!(entry.offset >= last_offset, "offset {} out of order", entry.offset);
            last_offset = entry.offset;
            wide += usize::from(entry.ino.0 > u64::from(u32::MAX));
            seen += 1;
            end += view.entry_bytes(entry.name.len());
        }
        ensure!(end == bytes.len(), "{seen} entries end at {end} of {}", bytes.len());
        wide += usize::from(view.parent().0 > u64::from(u32::MAX));
        let stated = usize::from(bytes[1]);
        ensure!(
            wide == stated || (!view.wide && wide == 0),
            "{wide} long inode numbers, {stated} stated"
        );
        Ok(view)
    }
    const fn ino_bytes(self) -> usize {
        if self.wide { 8 } else { 4 }
    }
    const fn header_bytes(self) -> usize {
        2 + self.ino_bytes()
    }
    const fn entry_bytes(self, name: usize) -> usize {
        ENTRY_HEAD + name + 1 + self.ino_bytes()
    }
    fn ino(self, at: usize) -> Option<Ino> {
        if self.wide {
            be64(self.bytes, at).map(Ino)
        } else {
            be32(self.bytes, at).map(|n| Ino(n.into()))
        }
    }
    /// The directory it lies in.
    pub fn parent(self) -> Ino {
        self.ino(2).unwrap_or(Ino(0))
    }
    /// The entries in order; the first damaged one ends them.
    pub fn entries(self) -> impl Iterator<Item = Check<Entry<'a>>> {
        let mut at = self.header_bytes();
        let mut left = usize::from(self.bytes[0]);
        core::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let entry = self.entry(at);
            match &entry {
                Ok(e) => at += self.entry_bytes(e.name.len()),
                Err(_) => left = 0,
            }
            Some(entry)
        })
    }
    fn entry(self, at: usize) -> Check<Entry<'a>> {
        let parse = || {
            let len = usize::from(*self.bytes.get(at)?);
            let offset = be16(self.bytes, at + 1)?;
            let name = self.bytes.get(at + ENTRY_HEAD..at + ENTRY_HEAD + len)?;
            let file_type = *self.bytes.get(at + ENTRY_HEAD + len)?;
            let ino = self.ino(at + ENTRY_HEAD + len + 1)?;
            Some((name, offset, file_type, ino))
        };
        let Some((name, offset, file_type, ino)) = parse() else {
            return Err(alloc::format!("the entry at {at} goes beyond the fork"));
        };
        super::dir_data::check_name(name)?;
        let Some(file_type) = FileType::from_dirent(file_type) else {
            return Err(alloc::format!("file type {file_type} of the entry at {at}"));
        };
        Ok(Entry { name, offset, file_type, ino })
    }
}
