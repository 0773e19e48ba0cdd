//! What there is to know about files: stat, directories, links, attributes, extents.

use alloc::vec::Vec;

use super::buffer::IoSink;
use super::{AT_FDCWD, BufMut, Fd, Process, Stat};
use crate::iomap::{self, Iomap, MapFlags, MapKind};
use crate::vfs::{Node, SIZE_MAX};
use crate::xfs::{Attributes, FileType, ForkKind, StatFs};
use crate::{Error, Result};

bitflags::bitflags! {
    /// What is special about an extent: Linux's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FiemapFlags: u32 {
        /// The file's last.
        const LAST = 0x1;
        /// Where it lies is not known yet.
        const UNKNOWN = 0x2;
        /// No block is allocated yet.
        const DELALLOC = 0x4;
        /// Allocated, but reads as zeros.
        const UNWRITTEN = 0x800;
        /// Other files use the blocks too.
        const SHARED = 0x2000;
    }
}

/// One extent, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FiemapExtent {
    /// Where in the file.
    pub logical: u64,
    /// Where on the device.
    pub physical: u64,
    /// How long.
    pub length: u64,
    /// What is special.
    pub flags: FiemapFlags,
}

impl FiemapExtent {
    /// Nothing for a hole.
    fn of(map: &Iomap) -> Option<Self> {
        let flags = match map.kind {
            MapKind::Hole => return None,
            MapKind::Delalloc => FiemapFlags::DELALLOC | FiemapFlags::UNKNOWN,
            MapKind::Written { .. } => FiemapFlags::empty(),
            MapKind::Unwritten { .. } => FiemapFlags::UNWRITTEN,
        };
        let shared = map.flags.contains(MapFlags::SHARED);
        Some(Self {
            logical: map.offset_bytes,
            physical: map.sector(map.offset_bytes).map_or(0, |s| s.0 * 512),
            length: map.length_bytes,
            flags: if shared { flags | FiemapFlags::SHARED } else { flags },
        })
    }
}

/// One entry of what `getdents` filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirentRef<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where `lseek` goes on behind this entry.
    pub offset: u64,
    /// Linux's `d_type`.
    pub d_type: u8,
    /// The name.
    pub name: &'a [u8],
}

/// Bytes before the name in Linux's `struct linux_dirent64`.
const DIRENT_HEADER: usize = 19;

/// The entries in a buffer that `getdents` filled.
pub fn dirents(mut bytes: &[u8]) -> impl Iterator<Item = DirentRef<'_>> {
    core::iter::from_fn(move || {
        let number = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (ino, offset) = (number(0)?, number(8)?);
        let len = usize::from(u16::from_le_bytes([*bytes.get(16)?, *bytes.get(17)?]));
        let d_type = *bytes.get(18)?;
        let name = bytes.get(DIRENT_HEADER..len)?;
        let name = &name[..name.iter().position(|b| *b == 0).unwrap_or(name.len())];
        bytes = &bytes[len..];
        Some(DirentRef { ino, offset, d_type, name })
    })
}

impl Process {
    /// What a path leads to.
    ///
    /// # Errors
    /// Those of path lookup.
    pub fn stat(&self, path: &[u8]) -> Result<Stat> {
        Ok(self.resolve(path, true)?.node.stat())
    }
    /// As [`Process::stat`], of a symbolic link itself.
    ///
    /// # Errors
    /// Those of path lookup.
    pub fn lstat(&self, path: &[u8]) -> Result<Stat> {
        Ok(self.resolve(path, false)?.node.stat())
    }
    /// As [`Process::stat`], of an open file.
    ///
    /// # Errors
    /// It is not open.
    pub fn fstat(&self, fd: Fd) -> Result<Stat> {
        Ok(self.file(fd)?.stat())
    }
    /// As [`Process::stat`], from an open directory; an empty path means that itself.
    ///
    /// # Errors
    /// Those of path lookup.
    pub fn fstatat(&self, dir: Fd, path: &[u8], follow: bool) -> Result<Stat> {
        if path.is_empty() && dir != AT_FDCWD {
            return self.fstat(dir);
        }
        Ok(self.resolve_at(dir, path, follow)?.node.stat())
    }
    /// Everything that the file system keeps of an open file, XFS's own attributes included.
    ///
    /// # Errors
    /// Not open, or not on a file system.
    pub fn attributes(&self, fd: Fd) -> Result<Attributes> {
        let file = self.file(fd)?;
        Ok(file.inode().ok_or(Error::NotTty)?.xfs().attributes())
    }
    /// Change an open file's flags, hints and project, as `FS_IOC_FSSETXATTR` does.
    ///
    /// # Errors
    /// Linux's; not supported for flags that nobody knows.
    pub fn fssetxattr(&self, fd: Fd, new: &crate::xfs::FsXattr) -> Result<()> {
        self.opened(fd)?.set_hints(new)
    }
    /// Fill `buf` with entries of an open directory, as Linux's `getdents64` does; 0 at
    /// the end. See [`dirents`].
    ///
    /// # Errors
    /// Linux's.
    pub fn getdents<'a>(&self, fd: Fd, buf: impl Into<BufMut<'a>>) -> Result<usize> {
        let file = self.opened(fd)?;
        if file.node().file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let mut buf = buf.into();
        let room = buf.len().min(64 << 10);
        let mut sink = IoSink::new(&self.space, core::slice::from_mut(&mut buf))?;
        let before = file.seek(0, super::Whence::Cur)?;
        let mut out = Vec::new();
        let mut too_small = false;
        file.list(&self.ns, &mut |entry| {
            let len = (DIRENT_HEADER + entry.name.len() + 1).next_multiple_of(8);
            if out.len() + len > room {
                too_small = out.is_empty();
                return false;
            }
            let end = out.len() + len;
            out.extend_from_slice(&entry.ino.to_le_bytes());
            out.extend_from_slice(&entry.next_cursor.to_le_bytes());
            out.extend_from_slice(&(len as u16).to_le_bytes());
            out.push(entry.file_type.d_type());
            out.extend_from_slice(entry.name);
            out.resize(end, 0);
            true
        })?;
        if too_small {
            return Err(Error::Invalid("the buffer is too small for an entry"));
        }
        match sink.put_all(&out) {
            Ok(done) if done == out.len() => Ok(done),
            _ => {
                file.list_from(before);
                Err(Error::Fault)
            }
        }
    }
    /// What a symbolic link says.
    ///
    /// # Errors
    /// Invalid if it is none; those of path lookup.
    pub fn readlink(&self, path: &[u8]) -> Result<Vec<u8>> {
        let node = self.resolve(path, false)?.node;
        match node {
            Node::Inode(place) if place.inode.file_type() == FileType::Symlink => {
                place.inode.xfs().readlink()
            }
            _ => Err(Error::Invalid("not a symbolic link")),
        }
    }
    /// Sizes and free space of the file system a path lies on.
    ///
    /// # Errors
    /// Those of path lookup; nothing is mounted there.
    pub fn statfs(&self, path: &[u8]) -> Result<StatFs> {
        self.statfs_of(&self.resolve(path, true)?.node)
    }
    /// As [`Process::statfs`], of an open file.
    ///
    /// # Errors
    /// Not open; on no file system.
    pub fn fstatfs(&self, fd: Fd) -> Result<StatFs> {
        self.statfs_of(self.file(fd)?.node())
    }
    fn statfs_of(&self, node: &Node) -> Result<StatFs> {
        match node.place() {
            Some(place) => Ok(place.fs.statfs()),
            None => Err(Error::NotImplemented),
        }
    }

    // ---- extended attributes

    /// An extended attribute's value, by its full name ("user.mime").
    ///
    /// # Errors
    /// No such attribute; not supported for names of no known kind; path lookup's.
    pub fn getxattr(&self, path: &[u8], name: &[u8]) -> Result<Vec<u8>> {
        get_attribute(&self.resolve(path, true)?.node, name)
    }
    /// As [`Process::getxattr`], of a symbolic link itself.
    ///
    /// # Errors
    /// As [`Process::getxattr`].
    pub fn lgetxattr(&self, path: &[u8], name: &[u8]) -> Result<Vec<u8>> {
        get_attribute(&self.resolve(path, false)?.node, name)
    }
    /// As [`Process::getxattr`], of an open file.
    ///
    /// # Errors
    /// As [`Process::getxattr`].
    pub fn fgetxattr(&self, fd: Fd, name: &[u8]) -> Result<Vec<u8>> {
        get_attribute(self.opened(fd)?.node(), name)
    }
    /// The full names of a file's extended attributes.
    ///
    /// # Errors
    /// Those of path lookup; I/O errors and corruption.
    pub fn listxattr(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        list_attributes(&self.resolve(path, true)?.node)
    }
    /// As [`Process::listxattr`], of a symbolic link itself.
    ///
    /// # Errors
    /// As [`Process::listxattr`].
    pub fn llistxattr(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        list_attributes(&self.resolve(path, false)?.node)
    }
    /// As [`Process::listxattr`], of an open file.
    ///
    /// # Errors
    /// As [`Process::listxattr`].
    pub fn flistxattr(&self, fd: Fd) -> Result<Vec<Vec<u8>>> {
        list_attributes(self.opened(fd)?.node())
    }

    // ---- extents

    /// Tell `each` of the extents of an open file that overlap `len` bytes from `start`
    /// on, holes left out, until it returns false.
    ///
    /// # Errors
    /// Not a regular file; I/O errors and corruption.
    pub fn fiemap(
        &self,
        fd: Fd,
        start: u64,
        len: u64,
        sync: bool,
        each: &mut dyn FnMut(FiemapExtent) -> bool,
    ) -> Result<()> {
        if len == 0 || start > SIZE_MAX {
            return Err(Error::Invalid("no range"));
        }
        let file = self.opened(fd)?;
        let mapping = file.mapping().map_err(|_| Error::NotSupported("not a regular file"))?;
        if sync {
            file.sync()?;
        }
        let end = start.saturating_add(len);
        // One extent is held back: only the next one tells whether it is the last.
        let mut held: Option<FiemapExtent> = None;
        let mut going = true;
        iomap::extents(mapping, start, SIZE_MAX - start, &mut |map| {
            let Some(extent) = FiemapExtent::of(map) else { return map.offset_bytes < end };
            if let Some(before) = held.take() {
                going = each(before);
            }
            going &= extent.logical < end;
            held = going.then_some(extent);
            going
        })?;
        if let Some(mut last) = held {
            last.flags |= FiemapFlags::LAST;
            each(last);
        }
        Ok(())
    }
    /// Tell `each` of the extents of an open file up to its end, holes included, until it
    /// returns false.
    ///
    /// # Errors
    /// As [`Process::fiemap`].
    pub fn bmap(&self, fd: Fd, each: &mut dyn FnMut(&Iomap) -> bool) -> Result<()> {
        let file = self.opened(fd)?;
        let mapping = file.mapping()?;
        iomap::extents(mapping, 0, mapping.size(), each)
    }
    /// Tell `each` of what lies ready for copies of an open file's shared blocks, holes left
    /// out, until it returns false.
    ///
    /// # Errors
    /// As [`Process::fiemap`].
    pub fn copies(&self, fd: Fd, each: &mut dyn FnMut(&Iomap) -> bool) -> Result<()> {
        let file = self.opened(fd)?;
        let inode = file.inode().ok_or(Error::NotSupported("not a regular file"))?;
        inode.xfs().extents(ForkKind::Cow, 0, u64::MAX, &mut |extent| each(&extent.map))
    }
}

/// Names of attributes that there can be.
pub(super) fn check_attribute_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.len() > crate::vfs::NAME_MAX {
        return Err(Error::Range);
    }
    let kinds = [&b"user."[..], b"trusted.", b"security.", b"system."];
    if kinds.iter().any(|kind| name.len() > kind.len() && name.starts_with(kind)) {
        return Ok(());
    }
    Err(Error::NotSupported("no such kind of attribute"))
}

fn get_attribute(node: &Node, name: &[u8]) -> Result<Vec<u8>> {
    check_attribute_name(name)?;
    match node.place() {
        Some(place) => place.inode.xfs().getxattr(name),
        None => Err(Error::NoAttribute),
    }
}

fn list_attributes(node: &Node) -> Result<Vec<Vec<u8>>> {
    node.place().map_or(Ok(Vec::new()), |place| place.inode.xfs().listxattr())
}
