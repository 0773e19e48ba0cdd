//! Changing directories that lie in the inode. The usual change is made in place
//! ([`Narrow`]); where that cannot be, the directory is taken apart and written anew
//! ([`Shortform`]).

use alloc::vec::Vec;
use core::ops::Range;

use super::FIRST_OFFSET;
use crate::xfs::ondisk::dir_data::{ALIGN, entry_bytes};
use crate::xfs::ondisk::dir_sf::{ENTRY_HEAD, View};
use crate::xfs::ondisk::{Check, ensure};

/// An entry of a small directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) name: &'a [u8],
    /// Where it would lie in a block.
    pub(super) offset: usize,
    pub(super) file_type: u8,
    pub(super) ino: u64,
}

impl Entry<'_> {
    /// The first place behind it in a block.
    const fn end(&self) -> usize {
        self.offset + entry_bytes(self.name.len())
    }
}

/// A directory that lies in the inode.
pub(super) struct Shortform<'a> {
    pub(super) parent: u64,
    pub(super) entries: Vec<Entry<'a>>,
}

/// Inode numbers above this take eight bytes.
const NARROW_MAX: u64 = u32::MAX as u64;
/// Bytes of a directory whose inode numbers take four bytes, before its entries.
pub(super) const SMALL_HEAD: usize = 6;
/// Bytes of such an entry besides the name.
pub(super) const SMALL_ENTRY: usize = ENTRY_HEAD + 1 + 4;

/// A directory whose inode numbers all take four bytes, as it lies in the inode, and a
/// name looked for in it.
pub(super) struct Narrow {
    entries: usize,
    /// The entry with the name.
    found: Option<Range<usize>>,
    /// The first place behind the last entry in a block.
    end: usize,
}

impl Narrow {
    /// Look through a directory. Nothing if inode numbers take eight bytes or something is
    /// amiss: whoever takes it apart finds out.
    pub(super) fn scan(bytes: &[u8], name: &[u8]) -> Option<Self> {
        let (&entries, &wide) = (bytes.first()?, bytes.get(1)?);
        if wide != 0 || bytes.len() < SMALL_HEAD {
            return None;
        }
        let mut narrow = Self { entries: entries.into(), found: None, end: FIRST_OFFSET as usize };
        let mut rest = &bytes[SMALL_HEAD..];
        for _ in 0..entries {
            let [length, high, low, behind @ ..] = rest else { return None };
            let length = usize::from(*length);
            let offset = usize::from(u16::from_be_bytes([*high, *low]));
            if length == 0 || offset < narrow.end || !offset.is_multiple_of(ALIGN) {
                return None;
            }
            if behind.get(..length)? == name {
                let at = bytes.len() - rest.len();
                narrow.found = Some(at..at + SMALL_ENTRY + length);
            }
            rest = rest.get(SMALL_ENTRY + length..)?;
            narrow.end = offset + entry_bytes(length);
        }
        rest.is_empty().then_some(narrow)
    }
    /// The entry with the name.
    pub(super) fn found(&self) -> Option<Range<usize>> {
        self.found.clone()
    }
    /// Can an entry be appended to `bytes`? It has to fit, into a block with its index too,
    /// and its number must not take eight bytes.
    pub(super) fn takes(&self, bytes: &[u8], new: &Entry<'_>, room: usize, block: usize) -> bool {
        let behind = self.end + entry_bytes(new.name.len());
        let index = super::index::block_index_bytes(self.entries + 3);
        bytes.len() + SMALL_ENTRY + new.name.len() <= room
            && behind + index <= block
            && self.entries < usize::from(u8::MAX)
            && new.ino <= NARROW_MAX
    }
    /// Append an entry that can be.
    pub(super) fn append(&self, bytes: &mut Vec<u8>, new: &Entry<'_>) {
        bytes[0] += 1;
        bytes.push(new.name.len() as u8);
        bytes.extend_from_slice(&(self.end as u16).to_be_bytes());
        bytes.extend_from_slice(new.name);
        bytes.push(new.file_type);
        bytes.extend_from_slice(&(new.ino as u32).to_be_bytes());
    }
}

impl<'a> Shortform<'a> {
    /// Take one apart.
    pub(super) fn decode(bytes: &'a [u8]) -> Check<Self> {
        let view = View::new(bytes)?;
        let mut entries = Vec::with_capacity(usize::from(bytes[0]) + 1);
        let mut end = FIRST_OFFSET as usize;
        for entry in view.entries() {
            let e = entry?;
            let offset = usize::from(e.offset);
            ensure!(
                offset >= end && offset.is_multiple_of(ALIGN),
                "an entry at {offset}, the one before it ends at {end}"
            );
            end = offset + entry_bytes(e.name.len());
            entries.push(Entry {
                name: e.name,
                offset: usize::from(e.offset),
                file_type: e.file_type.to_dirent(),
                ino: e.ino.0,
            });
        }
        Ok(Self { parent: view.parent().0, entries })
    }
    /// Inode numbers that take eight bytes.
    fn wide(&self) -> usize {
        let inos = self.entries.iter().map(|e| e.ino);
        inos.chain([self.parent]).filter(|&ino| ino > NARROW_MAX).count()
    }
    /// Bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let ino = if self.wide() > 0 { 8 } else { 4 };
        let entry = |e: &Entry<'_>| ENTRY_HEAD + e.name.len() + 1 + ino;
        2 + ino + self.entries.iter().map(entry).sum::<usize>()
    }
    /// Write it down.
    pub(super) fn encode(&self) -> Vec<u8> {
        let wide = self.wide();
        let mut bytes = Vec::with_capacity(self.bytes());
        let ino = |bytes: &mut Vec<u8>, n: u64| match wide {
            0 => bytes.extend_from_slice(&(n as u32).to_be_bytes()),
            _ => bytes.extend_from_slice(&n.to_be_bytes()),
        };
        bytes.extend_from_slice(&[self.entries.len() as u8, wide as u8]);
        ino(&mut bytes, self.parent);
        for e in &self.entries {
            bytes.push(e.name.len() as u8);
            bytes.extend_from_slice(&(e.offset as u16).to_be_bytes());
            bytes.extend_from_slice(e.name);
            bytes.push(e.file_type);
            ino(&mut bytes, e.ino);
        }
        bytes
    }
    /// Does it fit into a block, with its index?
    pub(super) fn fits(&self, block_bytes: usize) -> bool {
        let end = self.entries.last().map_or(FIRST_OFFSET as usize, Entry::end);
        end + super::index::block_index_bytes(self.entries.len() + 2) <= block_bytes
    }
    /// Give a new entry a place: behind the others, or in a hole between them. False if
    /// the directory would not fit into a block any more.
    pub(super) fn insert(&mut self, mut new: Entry<'a>, block_bytes: usize) -> bool {
        let end = self.entries.last().map_or(FIRST_OFFSET as usize, Entry::end);
        // A block has an index, "." and ".." and the new entry included.
        let index = super::index::block_index_bytes(self.entries.len() + 3);
        let bytes = entry_bytes(new.name.len());
        if self.entries.len() >= usize::from(u8::MAX) {
            return false;
        }
        if end + bytes + index <= block_bytes {
            new.offset = end;
            self.entries.push(new);
            return true;
        }
        if end + index > block_bytes {
            return false;
        }
        let mut hole = FIRST_OFFSET as usize;
        for i in 0..self.entries.len() {
            if hole + bytes <= self.entries[i].offset {
                new.offset = hole;
                self.entries.insert(i, new);
                return true;
            }
            hole = self.entries[i].end();
        }
        false
    }
}
