//! Calls that change names.

use super::{AT_FDCWD, Fd, Process};
use crate::vfs::Node;
use crate::xfs::namespace::{Create, NewKind, RenameFlags};
use crate::xfs::{FileType, types};
use crate::{Error, Result};

bitflags::bitflags! {
    /// Flags of calls whose name ends in `at`: Linux's numbers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct AtFlags: u32 {
        /// Do not follow a symbolic link at the end.
        const SYMLINK_NOFOLLOW = 0x100;
        /// `unlinkat` removes a directory.
        const REMOVEDIR = 0x200;
        /// Follow a symbolic link at the end, where that is not the rule.
        const SYMLINK_FOLLOW = 0x400;
        /// An empty path means the descriptor itself.
        const EMPTY_PATH = 0x1000;
    }
}

/// Bits of a mode that a new file can be given.
const PERMISSIONS: u32 = 0o7777;

impl Process {
    /// How this process makes an inode.
    pub(super) fn create<'a>(&self, mode: u32, kind: NewKind<'a>) -> Create<'a> {
        // Linux leaves out the set-id bits of a directory.
        let known = if kind == NewKind::Directory { 0o1777 } else { PERMISSIONS };
        let umask = self.umask_bits() as u16;
        Create { mode: (mode & known) as u16, umask, uid: 0, gid: 0, kind }
    }
    /// Make a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn mkdir(&self, path: &[u8], mode: u32) -> Result<()> {
        self.mkdirat(AT_FDCWD, path, mode)
    }
    /// As [`Process::mkdir`], by a path that starts at a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn mkdirat(&self, dir: Fd, path: &[u8], mode: u32) -> Result<()> {
        let create = self.create(mode, NewKind::Directory);
        self.ns.make(&self.base(dir, path)?, path, &create)
    }
    /// Make a device, named pipe, socket or empty file: `mode` says which, with Linux's
    /// `S_IFMT` bits; `dev` is a device's (major, minor).
    ///
    /// # Errors
    /// Linux's.
    pub fn mknod(&self, path: &[u8], mode: u32, dev: (u32, u32)) -> Result<()> {
        self.mknodat(AT_FDCWD, path, mode, dev)
    }
    /// As [`Process::mknod`], by a path that starts at a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn mknodat(&self, dir: Fd, path: &[u8], mode: u32, dev: (u32, u32)) -> Result<()> {
        let file_type = match mode & 0o170_000 {
            0 => Some(FileType::Regular),
            _ => types::FileType::from_mode(mode as u16),
        };
        let kind = match file_type {
            Some(FileType::Regular) => NewKind::Regular,
            Some(FileType::Directory) => {
                return Err(Error::NotPermitted("mkdir makes directories"));
            }
            Some(FileType::Symlink) | None => return Err(Error::Invalid("no such type of file")),
            Some(device @ (FileType::CharDevice | FileType::BlockDevice)) => {
                NewKind::Special(device, dev)
            }
            Some(other) => NewKind::Special(other, (0, 0)),
        };
        self.ns.make(&self.base(dir, path)?, path, &self.create(mode, kind))
    }
    /// Make a symbolic link at `path`.
    ///
    /// # Errors
    /// Linux's.
    pub fn symlink(&self, target: &[u8], path: &[u8]) -> Result<()> {
        self.symlinkat(target, AT_FDCWD, path)
    }
    /// As [`Process::symlink`], by a path that starts at a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn symlinkat(&self, target: &[u8], dir: Fd, path: &[u8]) -> Result<()> {
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() >= crate::vfs::PATH_MAX {
            return Err(Error::NameTooLong);
        }
        // A link's own mode means nothing; the umask does not apply.
        let kind = NewKind::Symlink(target);
        let create = Create { mode: 0o777, umask: 0, uid: 0, gid: 0, kind };
        self.ns.make(&self.base(dir, path)?, path, &create)
    }
    /// Give a file another name.
    ///
    /// # Errors
    /// Linux's.
    pub fn link(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.linkat(AT_FDCWD, from, AT_FDCWD, to, AtFlags::empty())
    }
    /// As [`Process::link`], by paths that start at directories. With `EMPTY_PATH` and an
    /// empty `from` the open file itself gets a name, which may be its first.
    ///
    /// # Errors
    /// Linux's.
    pub fn linkat(
        &self,
        from_dir: Fd,
        from: &[u8],
        to_dir: Fd,
        to: &[u8],
        flags: AtFlags,
    ) -> Result<()> {
        let known = AtFlags::SYMLINK_FOLLOW | AtFlags::EMPTY_PATH;
        if !known.contains(flags) {
            return Err(Error::Invalid("unknown flags"));
        }
        let follow = flags.contains(AtFlags::SYMLINK_FOLLOW);
        let node = self.node_at(from_dir, from, follow, flags.contains(AtFlags::EMPTY_PATH))?;
        self.ns.link(&node, &self.base(to_dir, to)?, to)
    }
    /// Remove a name.
    ///
    /// # Errors
    /// Linux's.
    pub fn unlink(&self, path: &[u8]) -> Result<()> {
        self.unlinkat(AT_FDCWD, path, AtFlags::empty())
    }
    /// Remove an empty directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn rmdir(&self, path: &[u8]) -> Result<()> {
        self.unlinkat(AT_FDCWD, path, AtFlags::REMOVEDIR)
    }
    /// As [`Process::unlink`] or, with `REMOVEDIR`, [`Process::rmdir`], by a path that
    /// starts at a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn unlinkat(&self, dir: Fd, path: &[u8], flags: AtFlags) -> Result<()> {
        if !AtFlags::REMOVEDIR.contains(flags) {
            return Err(Error::Invalid("unknown flags"));
        }
        let base = self.base(dir, path)?;
        if flags.is_empty() { self.ns.unlink(&base, path) } else { self.ns.rmdir(&base, path) }
    }
    /// Move a name; what it meant before is replaced.
    ///
    /// # Errors
    /// Linux's.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        self.renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::empty())
    }
    /// As [`Process::rename`], by paths that start at directories, with flags.
    ///
    /// # Errors
    /// Linux's.
    pub fn renameat2(
        &self,
        from_dir: Fd,
        from: &[u8],
        to_dir: Fd,
        to: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        let bases = (self.base(from_dir, from)?, self.base(to_dir, to)?);
        self.ns.rename((&bases.0, from), (&bases.1, to), flags)
    }
    /// Set the permission bits that new files do not get; the former ones.
    pub fn umask(&self, mask: u32) -> u32 {
        self.swap_umask(mask & 0o777)
    }
    /// What a path leads to, or with `empty` and no path the open file itself.
    pub(super) fn node_at(&self, dir: Fd, path: &[u8], follow: bool, empty: bool) -> Result<Node> {
        if !path.is_empty() || !empty {
            return Ok(self.resolve_at(dir, path, follow)?.node);
        }
        if dir == AT_FDCWD {
            return Ok(self.base(dir, path)?.node);
        }
        Ok(self.file(dir)?.node().clone())
    }
}
