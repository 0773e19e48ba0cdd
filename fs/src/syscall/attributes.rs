//! Calls that change permissions, owners, times and extended attributes.

use super::metadata::check_attribute_name;
use super::{AT_FDCWD, AtFlags, Fd, Process};
use crate::vfs::{Node, TimeChange, XattrFlags};
use crate::xfs::Timestamp;
use crate::xfs::namespace::SetAttr;
use crate::{Error, Result};

/// Longest value of an extended attribute.
const VALUE_MAX: usize = 64 << 10;
const NS_PER_SECOND: u64 = 1_000_000_000;

/// An owner that a call leaves as it is.
const UNCHANGED: u32 = u32::MAX;

impl Process {
    /// Change permissions.
    ///
    /// # Errors
    /// Linux's.
    pub fn chmod(&self, path: &[u8], mode: u32) -> Result<()> {
        change(&self.resolve(path, true)?.node, &permissions(mode))
    }
    /// As [`Process::chmod`], of an open file.
    ///
    /// # Errors
    /// Linux's.
    pub fn fchmod(&self, fd: Fd, mode: u32) -> Result<()> {
        change(self.opened(fd)?.node(), &permissions(mode))
    }
    /// As [`Process::chmod`], by a path that starts at a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn fchmodat(&self, dir: Fd, path: &[u8], mode: u32) -> Result<()> {
        change(&self.resolve_at(dir, path, true)?.node, &permissions(mode))
    }
    /// Change owner and group; `u32::MAX` leaves one as it is.
    ///
    /// # Errors
    /// Linux's.
    pub fn chown(&self, path: &[u8], uid: u32, gid: u32) -> Result<()> {
        change(&self.resolve(path, true)?.node, &owners(uid, gid))
    }
    /// As [`Process::chown`], of a symbolic link itself.
    ///
    /// # Errors
    /// Linux's.
    pub fn lchown(&self, path: &[u8], uid: u32, gid: u32) -> Result<()> {
        change(&self.resolve(path, false)?.node, &owners(uid, gid))
    }
    /// As [`Process::chown`], of an open file.
    ///
    /// # Errors
    /// Linux's.
    pub fn fchown(&self, fd: Fd, uid: u32, gid: u32) -> Result<()> {
        change(self.opened(fd)?.node(), &owners(uid, gid))
    }
    /// As [`Process::chown`], by a path that starts at a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn fchownat(&self, dir: Fd, path: &[u8], uid: u32, gid: u32, flags: AtFlags) -> Result<()> {
        let follow = !flags.contains(AtFlags::SYMLINK_NOFOLLOW);
        let node = self.node_at(dir, path, follow, flags.contains(AtFlags::EMPTY_PATH))?;
        change(&node, &owners(uid, gid))
    }
    /// Change the times of access and modification, by a path that starts at a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn utimensat(
        &self,
        dir: Fd,
        path: &[u8],
        times: [TimeChange; 2],
        follow: bool,
    ) -> Result<()> {
        let node = self.resolve_at(dir, path, follow)?.node;
        self.change_times(&node, times)
    }
    /// As [`Process::utimensat`], from the working directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn utimens(&self, path: &[u8], times: [TimeChange; 2]) -> Result<()> {
        self.utimensat(AT_FDCWD, path, times, true)
    }
    /// As [`Process::utimensat`], of an open file.
    ///
    /// # Errors
    /// Linux's.
    pub fn futimens(&self, fd: Fd, times: [TimeChange; 2]) -> Result<()> {
        let file = self.opened(fd)?;
        self.change_times(file.node(), times)
    }
    fn change_times(&self, node: &Node, times: [TimeChange; 2]) -> Result<()> {
        let ns = self.env.wall_clock_ns();
        let now = Timestamp {
            seconds: (ns / NS_PER_SECOND) as i64,
            nanoseconds: (ns % NS_PER_SECOND) as u32,
        };
        let time = |change| match change {
            TimeChange::Now => Ok(Some(now)),
            TimeChange::Omit => Ok(None),
            TimeChange::Set(time) if u64::from(time.nanoseconds) < NS_PER_SECOND => Ok(Some(time)),
            TimeChange::Set(_) => Err(Error::Invalid("more nanoseconds than a second has")),
        };
        let change_of = SetAttr {
            atime: time(times[0])?,
            mtime: time(times[1])?,
            touch: times == [TimeChange::Now; 2],
            ..SetAttr::default()
        };
        if times == [TimeChange::Omit; 2] {
            return Ok(());
        }
        change(node, &change_of)
    }

    // ---- extended attributes

    /// Set an extended attribute, by its full name ("user.mime").
    ///
    /// # Errors
    /// Linux's.
    pub fn setxattr(
        &self,
        path: &[u8],
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        set_attribute(&self.resolve(path, true)?.node, name, value, flags)
    }
    /// As [`Process::setxattr`], of a symbolic link itself.
    ///
    /// # Errors
    /// Linux's.
    pub fn lsetxattr(
        &self,
        path: &[u8],
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        set_attribute(&self.resolve(path, false)?.node, name, value, flags)
    }
    /// As [`Process::setxattr`], of an open file.
    ///
    /// # Errors
    /// Linux's.
    pub fn fsetxattr(&self, fd: Fd, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
        set_attribute(self.opened(fd)?.node(), name, value, flags)
    }
    /// Remove an extended attribute.
    ///
    /// # Errors
    /// Linux's.
    pub fn removexattr(&self, path: &[u8], name: &[u8]) -> Result<()> {
        remove_attribute(&self.resolve(path, true)?.node, name)
    }
    /// As [`Process::removexattr`], of a symbolic link itself.
    ///
    /// # Errors
    /// Linux's.
    pub fn lremovexattr(&self, path: &[u8], name: &[u8]) -> Result<()> {
        remove_attribute(&self.resolve(path, false)?.node, name)
    }
    /// As [`Process::removexattr`], of an open file.
    ///
    /// # Errors
    /// Linux's.
    pub fn fremovexattr(&self, fd: Fd, name: &[u8]) -> Result<()> {
        remove_attribute(self.opened(fd)?.node(), name)
    }
}

fn permissions(mode: u32) -> SetAttr {
    SetAttr { mode: Some((mode & 0o7777) as u16), ..SetAttr::default() }
}

fn owners(uid: u32, gid: u32) -> SetAttr {
    let given = |id: u32| (id != UNCHANGED).then_some(id);
    SetAttr { uid: given(uid), gid: given(gid), ..SetAttr::default() }
}

fn change(node: &Node, change: &SetAttr) -> Result<()> {
    let (place, inode) = node.changeable()?;
    place.fs.set_attributes(inode, change)
}

fn set_attribute(node: &Node, name: &[u8], value: &[u8], flags: XattrFlags) -> Result<()> {
    if flags.bits() & !XattrFlags::all().bits() != 0 {
        return Err(Error::Invalid("unknown flags"));
    }
    if value.len() > VALUE_MAX {
        return Err(Error::TooLong);
    }
    check_attribute_name(name)?;
    let (place, inode) = node.changeable()?;
    place.fs.set_extended_attribute(inode, name, value, flags)
}

fn remove_attribute(node: &Node, name: &[u8]) -> Result<()> {
    check_attribute_name(name)?;
    let (place, inode) = node.changeable()?;
    place.fs.remove_extended_attribute(inode, name)
}
