//! Calls that change names, sizes or attributes. Their arguments are checked as Linux
//! does; then they are refused, as they need transactions.

use super::{AT_FDCWD, Fd, Process};
use crate::iomap::{self, MapKind};
use crate::vfs::{File, NAME_MAX, Node, SIZE_MAX};
use crate::xfs::FileType;
use crate::{Error, Result};

bitflags::bitflags! {
    /// What `fallocate` does: Linux's numbers. Nothing: allocate, and grow the file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FallocateMode: u32 {
        /// Leave the size alone.
        const KEEP_SIZE = 0x01;
        /// Make a hole.
        const PUNCH_HOLE = 0x02;
        /// Cut the range out.
        const COLLAPSE_RANGE = 0x08;
        /// Make the range read as zeros.
        const ZERO_RANGE = 0x10;
        /// Move what follows back to make room.
        const INSERT_RANGE = 0x20;
        /// Give the range blocks of its own.
        const UNSHARE_RANGE = 0x40;
    }
}

const SIZE: Error = Error::ReadOnly("changing a file's size needs the write path");
const SPACE: Error = Error::ReadOnly("changing a file's allocation needs the write path");
const NAMES: Error = Error::ReadOnly("changing a directory needs the write path");
const ATTRIBUTES: Error = Error::ReadOnly("changing attributes needs the write path");

impl Process {
    /// Why a name that does not exist cannot be made.
    pub(super) fn refuse_new(&self, dir: Fd, path: &[u8]) -> Error {
        match self.check_parent(dir, path) {
            Ok(()) => Error::ReadOnly("making a file needs the write path"),
            Err(e) => e,
        }
    }
    /// The directory in which the last component of `path` would be is there.
    fn check_parent(&self, dir: Fd, path: &[u8]) -> Result<()> {
        let end = path.iter().rposition(|b| *b != b'/').map_or(0, |n| n + 1);
        let start = path[..end].iter().rposition(|b| *b == b'/').map_or(0, |n| n + 1);
        if end - start > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let parent = if start == 0 { &b"."[..] } else { &path[..start] };
        let node = self.resolve_at(dir, parent, true)?.node;
        if node.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        Ok(())
    }
    fn refuse_change(&self, path: &[u8], follow: bool, why: Error) -> Result<()> {
        self.resolve(path, follow)?;
        Err(why)
    }
    fn refuse_creation(&self, path: &[u8]) -> Result<()> {
        match self.resolve(path, false) {
            Ok(_) => Err(Error::Exists),
            Err(Error::NotFound) => {
                self.check_parent(AT_FDCWD, path)?;
                Err(NAMES)
            }
            Err(e) => Err(e),
        }
    }
    /// Change a file's size.
    ///
    /// # Errors
    /// Linux's; [`Error::ReadOnly`] unless it is that size already.
    pub fn truncate(&self, path: &[u8], size: u64) -> Result<()> {
        let node = self.resolve(path, true)?.node;
        match node.file_type() {
            FileType::Directory => Err(Error::IsDirectory),
            FileType::Regular => resize(&node, size),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }
    /// As [`Process::truncate`], of an open file.
    ///
    /// # Errors
    /// As [`Process::truncate`].
    pub fn ftruncate(&self, fd: Fd, size: u64) -> Result<()> {
        let file = self.opened(fd)?;
        if file.node().file_type() != FileType::Regular || !file.flags().writes() {
            return Err(Error::Invalid("not a regular file open for writing"));
        }
        resize(file.node(), size)
    }
    /// Change what blocks a file has.
    ///
    /// # Errors
    /// Linux's; [`Error::ReadOnly`] unless the blocks that are asked for are there.
    pub fn fallocate(&self, fd: Fd, mode: FallocateMode, pos: u64, len: u64) -> Result<()> {
        let file = self.opened(fd)?;
        if !file.flags().writes() {
            return Err(Error::BadDescriptor);
        }
        if len == 0 || len > SIZE_MAX || pos > SIZE_MAX {
            return Err(Error::Invalid("no range"));
        }
        if pos + len > SIZE_MAX {
            return Err(Error::TooBig);
        }
        let kinds = mode.difference(FallocateMode::KEEP_SIZE);
        let punch = mode.contains(FallocateMode::PUNCH_HOLE);
        let known = mode.bits() & !FallocateMode::all().bits() == 0;
        let alone = kinds.bits().count_ones() <= 1;
        if !known || !alone || (punch && !mode.contains(FallocateMode::KEEP_SIZE)) {
            return Err(Error::NotSupported("no such combination of modes"));
        }
        match file.node().file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::NoDevice),
        }
        let grows = pos + len > file.mapping()?.size() && mode.is_empty();
        if kinds.is_empty() && !grows && is_allocated(&file, pos, len)? {
            return Ok(());
        }
        Err(if grows { SIZE } else { SPACE })
    }
    /// Make a directory.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn mkdir(&self, path: &[u8], mode: u32) -> Result<()> {
        let _ = mode;
        self.refuse_creation(path)
    }
    /// Make a symbolic link at `path`.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        self.refuse_creation(path)
    }
    /// Give a file another name.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.resolve(from, false)?;
        self.refuse_creation(to)
    }
    /// Remove a name.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn unlink(&self, path: &[u8]) -> Result<()> {
        match self.resolve(path, false)?.node.file_type() {
            FileType::Directory => Err(Error::IsDirectory),
            _ => Err(NAMES),
        }
    }
    /// Remove an empty directory.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn rmdir(&self, path: &[u8]) -> Result<()> {
        match self.resolve(path, false)?.node.file_type() {
            FileType::Directory => Err(NAMES),
            _ => Err(Error::NotDirectory),
        }
    }
    /// Move a name.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.resolve(from, false)?;
        self.check_parent(AT_FDCWD, to)?;
        Err(NAMES)
    }
    /// Change permissions.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn chmod(&self, path: &[u8], mode: u32) -> Result<()> {
        let _ = mode;
        self.refuse_change(path, true, ATTRIBUTES)
    }
    /// Change the owner.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn chown(&self, path: &[u8], uid: u32, gid: u32) -> Result<()> {
        let _ = (uid, gid);
        self.refuse_change(path, true, ATTRIBUTES)
    }
    /// Change the times of access and modification.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn utimens(&self, path: &[u8]) -> Result<()> {
        self.refuse_change(path, true, ATTRIBUTES)
    }
    /// Set an extended attribute.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn setxattr(&self, path: &[u8], name: &[u8], value: &[u8]) -> Result<()> {
        let _ = value;
        super::metadata::check_attribute_name(name)?;
        self.refuse_change(path, true, ATTRIBUTES)
    }
    /// Remove an extended attribute.
    ///
    /// # Errors
    /// Linux's; then [`Error::ReadOnly`].
    pub fn removexattr(&self, path: &[u8], name: &[u8]) -> Result<()> {
        self.getxattr(path, name)?;
        Err(ATTRIBUTES)
    }
}

fn resize(node: &Node, size: u64) -> Result<()> {
    if size > SIZE_MAX {
        return Err(Error::Invalid("a negative size"));
    }
    match node.place() {
        Some(place) if place.inode.size() == size => Ok(()),
        _ => Err(SIZE),
    }
}

/// Does every byte of the range have a block of its own?
fn is_allocated(file: &File, pos: u64, len: u64) -> Result<bool> {
    let mut all = true;
    let mut next = pos;
    iomap::extents(file.mapping()?, pos, len, &mut |map| {
        all = matches!(map.kind, MapKind::Written { .. } | MapKind::Unwritten { .. });
        next = map.end_bytes();
        all
    })?;
    Ok(all && next >= pos + len)
}
