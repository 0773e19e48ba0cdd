//! Access control lists of inodes: they go with the mode, and are inherited.
//!
//! Whether a directory has a list for what is made in it is asked by every creation:
//! [`Inode::lacks_default_acl`] knows that mostly without a lock or a look.
//!
//! Locks: `IOLOCK` of the inode, or of the directory, keeps its lists as they are; `ILOCK`.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::acl::{Acl, Purpose};
use super::boundary::first_boundary;
use super::change::Key;
use super::operate::{begin_removal, cost, note_attributes, with_attrs};
use super::{DiskName, ROOT};
use crate::error::{Error, Result};
use crate::xfs::bmap::TreeLimits;
use crate::xfs::inode::{Fork, ForkExtents, ForkKind, Inode};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::inode::{Format, InodeCore};
use crate::xfs::reservation::Reservation;
use crate::xfs::trans::Trans;
use crate::xfs::types::FileType;

const fn key(purpose: Purpose) -> Key<'static> {
    Key::named(ROOT, purpose.disk_name())
}

impl Inode {
    /// The list for a purpose, if there is one.
    pub(super) fn list(&self, purpose: Purpose) -> Result<Option<Acl>> {
        let name = DiskName { namespace: ROOT, name: purpose.disk_name() };
        match self.get_attr(name) {
            Ok(raw) => Acl::from_disk(&raw).map(Some).map_err(|reason| self.corrupt(reason)),
            Err(Error::NoAttribute) => Ok(None),
            Err(e) => Err(e),
        }
    }
    /// Set the list that a program gives, or remove it. The permission bits follow an
    /// access list, and one that says no more than they do is not kept.
    pub(super) fn set_list(&self, purpose: Purpose, given: Option<&[u8]>) -> Result<()> {
        if self.file_type() == FileType::Symlink {
            return Err(Error::NotSupported("a symbolic link has no access control list"));
        }
        let list = given.map_or(Ok(None), Acl::from_program)?;
        if purpose == Purpose::Default && self.file_type() != FileType::Directory {
            return if list.is_some() { Err(Error::Access) } else { Ok(()) };
        }
        if list.as_ref().is_some_and(|list| !list.is_valid()) {
            return Err(Error::Invalid("an access control list that makes no sense"));
        }
        let raw = list.as_ref().map(Acl::to_disk).transpose()?;
        let access = list.filter(|_| purpose == Purpose::Access);
        let old = self.state.read().core.mode;
        let mode = access.as_ref().map(|list| list.mode(old));
        let kept = raw.filter(|_| access.is_none_or(|list| !list.is_only_mode()));
        match kept {
            Some(raw) => self.set_attr(key(purpose), &raw, 0, mode),
            None => self.remove_list(purpose, mode.filter(|mode| *mode != old)),
        }
    }
    fn remove_list(&self, purpose: Purpose, mode: Option<u16>) -> Result<()> {
        match (self.remove_attr(key(purpose), mode), mode) {
            (Err(Error::NoAttribute), None) => {}
            (Err(Error::NoAttribute), Some(mode)) => self.set_mode(mode)?,
            (removed, _) => removed?,
        }
        if purpose == Purpose::Default {
            self.note_default_acl(false);
        }
        Ok(())
    }
    fn set_mode(&self, mode: u16) -> Result<()> {
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        let now = tp.now();
        let core = ip.core_mut();
        core.mode = mode;
        core.ctime = now;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    fn damaged_list(&self) -> Error {
        self.corrupt("an access control list without an owning group".into())
    }
}

/// What becomes of an access control list with the permission bits.
pub(in crate::xfs) struct AfterChmod {
    /// As it lies on disk; nothing: it says no more than the bits.
    raw: Option<Vec<u8>>,
}

impl AfterChmod {
    /// What becomes of the list of `inode` with these permission bits; nothing if it has
    /// none.
    ///
    /// # Errors
    /// I/O errors, damage.
    pub(in crate::xfs) fn of(inode: &Inode, mode: u16) -> Result<Option<Self>> {
        if inode.state.read().attr.is_none() {
            return Ok(None);
        }
        let Some(mut list) = inode.list(Purpose::Access)? else { return Ok(None) };
        list.change_mode(mode).ok_or_else(|| inode.damaged_list())?;
        let raw = (!list.is_only_mode()).then(|| list.to_disk()).transpose()?;
        Ok(Some(Self { raw }))
    }
    /// Start a transaction that can do it.
    ///
    /// # Errors
    /// As [`Mount::begin`].
    pub(in crate::xfs) fn begin<'m>(&self, inode: &'m Inode) -> Result<Trans<'m>> {
        let mount: &Mount = inode.mount();
        let Some(raw) = &self.raw else {
            return begin_removal(mount, TreeLimits::new(mount.geometry()).one_more() + 1);
        };
        let (reservation, blocks) = cost(mount, key(Purpose::Access), raw);
        match mount.begin(reservation, blocks) {
            // In the inode it takes as many bytes as the one that it replaces.
            Err(Error::NoSpace) if matches!(inode.state.read().attr, Some(Fork::Local(_))) => {
                mount.begin(reservation, 0)
            }
            begun => begun,
        }
    }
    /// Do it.
    ///
    /// # Errors
    /// I/O errors, damage.
    pub(in crate::xfs) fn apply(&self, tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
        ip.load(ForkKind::Attr)?;
        with_attrs(tp, ip, |attrs| match &self.raw {
            Some(raw) => attrs.set(key(Purpose::Access), raw),
            None => attrs.remove(key(Purpose::Access)),
        })
    }
}

/// What a new inode gets of its directory's default list: mostly nothing.
#[derive(Default)]
pub(in crate::xfs) struct Inherited(Option<Box<Lists>>);

/// Lists as they lie on disk.
struct Lists {
    access: Option<Vec<u8>>,
    default: Option<Vec<u8>>,
}

impl Inherited {
    /// What is made in `dir` with `mode` gets these lists, and this mode. Where there is
    /// no default list the bits of `umask` are taken away instead. `IOLOCK` of the
    /// directory is held.
    ///
    /// # Errors
    /// I/O errors, damage.
    #[inline]
    pub(in crate::xfs) fn of(
        dir: &Inode,
        file_type: FileType,
        mode: u16,
        umask: u16,
    ) -> Result<(Self, u16)> {
        if dir.lacks_default_acl() || file_type == FileType::Symlink {
            return Ok((Self::default(), mode & !umask));
        }
        Self::look(dir, file_type, mode, umask)
    }
    fn look(dir: &Inode, file_type: FileType, mode: u16, umask: u16) -> Result<(Self, u16)> {
        let Some(list) = dir.list(Purpose::Default)? else {
            dir.note_default_acl(false);
            return Ok((Self::default(), mode & !umask));
        };
        let (access, mode) = list.inherited(mode).ok_or_else(|| dir.damaged_list())?;
        let directory = file_type == FileType::Directory;
        let lists = Lists {
            access: (!access.is_only_mode()).then(|| access.to_disk()).transpose()?,
            default: directory.then(|| list.to_disk()).transpose()?,
        };
        let some = lists.access.is_some() || lists.default.is_some();
        Ok((Self(some.then(|| Box::new(lists))), mode))
    }
    fn all(&self) -> impl Iterator<Item = (Key<'static>, &Vec<u8>)> {
        let both = self.0.iter().flat_map(|lists| {
            [(Purpose::Default, &lists.default), (Purpose::Access, &lists.access)]
        });
        both.filter_map(|(purpose, raw)| Some((key(purpose), raw.as_ref()?)))
    }
    /// Is there nothing?
    #[inline]
    pub(in crate::xfs) const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
    /// Log and blocks that they take on top of what making the inode does.
    #[inline]
    pub(in crate::xfs) fn cost(
        &self,
        mount: &Mount,
        base: (Reservation, u64),
    ) -> (Reservation, u64) {
        if self.is_empty() { base } else { self.add_cost(mount, base) }
    }
    fn add_cost(&self, mount: &Mount, base: (Reservation, u64)) -> (Reservation, u64) {
        let (mut reservation, mut blocks) = base;
        for (key, raw) in self.all() {
            let (log, own) = cost(mount, key, raw);
            reservation.bytes += log.bytes;
            blocks += own;
        }
        (reservation, blocks)
    }
    /// The fork they will be in.
    pub(in crate::xfs) fn prepare(&self, core: &mut InodeCore) -> Option<Fork> {
        if self.is_empty() {
            return None;
        }
        core.attr_format = Some(Format::Extents);
        core.data_fork_bytes = first_boundary(core.format);
        Some(Fork::Extents(ForkExtents::default()))
    }
    /// Give them to the inode, of which nobody knows yet.
    ///
    /// # Errors
    /// No space; I/O errors, damage.
    #[inline]
    pub(in crate::xfs) fn apply(&self, tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
        // It may have other attributes; whether it has a default list is known.
        let default = self.0.as_ref().is_some_and(|lists| lists.default.is_some());
        ip.inode().note_default_acl(default);
        if self.is_empty() { Ok(()) } else { self.set_all(tp, ip) }
    }
    fn set_all(&self, tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
        for (key, raw) in self.all() {
            note_attributes(tp)?;
            with_attrs(tp, ip, |attrs| attrs.set(key, raw))?;
        }
        Ok(())
    }
}
