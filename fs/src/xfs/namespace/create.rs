//! New inodes, with a name or without.

use alloc::sync::Arc;

use super::{Create, MAX_LINKS, NewKind, check_directory, new_flags2, touch_names};
use crate::error::{Error, Result};
use crate::xfs::attr::Inherited;
use crate::xfs::attr::parent::{self, Pointer};
use crate::xfs::geometry::Geometry;
use crate::xfs::inode::{Fork, ForkExtents, Inode};
use crate::xfs::inode_item::{LockedInode, LogFields};
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::agi::NULL_AGINO;
use crate::xfs::ondisk::inode::{CORE_BYTES, Flags, Flags2, Format, InodeCore, MAX_SYMLINK};
use crate::xfs::reservation::Reservation;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgNumber, FileType, Ino, Timestamp};
use crate::xfs::{dir, ialloc, symlink};

/// The group of what is made in a directory is the directory's, and directories hand
/// this on.
const SET_GROUP: u16 = 0o2000;
/// What a file or directory inherits whatever it is.
const INHERITED: Flags = Flags::NOATIME.union(Flags::NODUMP).union(Flags::SYNC);

/// What a new inode shall be, besides what its maker says.
struct Shape<'a> {
    mode: u16,
    nlink: u32,
    lists: &'a Inherited,
}

impl Mount {
    /// Make an inode and its first name, which must not be there.
    ///
    /// # Errors
    /// The directory was removed; no space; too many links; I/O errors, damage, shut down.
    pub fn create(&self, dir: &Inode, name: &[u8], create: &Create<'_>) -> Result<Arc<Inode>> {
        let directory = create.kind == NewKind::Directory;
        check_target(&create.kind)?;
        let file_type = create.kind.file_type();
        let (lists, mode) = Inherited::of(dir, file_type, create.mode, create.umask)?;
        let (reservation, blocks) = lists.cost(self, self.cost(&create.kind));
        let mut tp = self.begin_or_full(reservation, blocks, 0)?;
        let full = tp.is_short();
        let inode;
        let mut dp = dir.lock_exclusive();
        check_directory(&dp)?;
        check_kind(&dp, &create.kind)?;
        let small = lists.is_empty();
        if full && !(small && self.needs_no_block(&mut tp, &mut dp, name, &create.kind)?) {
            return Err(Error::NoSpace);
        }
        let ino = ialloc::allocate(&mut tp, dir.ino(), directory, !full, &mut [&mut dp])?;
        let now = tp.now();
        let shape = Shape { mode, nlink: u32::from(directory) + 1, lists: &lists };
        inode = self.new_inode(ino, &dp, create, &shape, now);
        let mut ip = self.lock_new(&inode)?;
        match create.kind {
            NewKind::Directory => dir::init(&mut tp, &mut ip, dir.ino())?,
            NewKind::Symlink(target) => symlink::create(&mut tp, &mut ip, target)?,
            NewKind::Regular | NewKind::Special(..) => {}
        }
        dir::add(&mut tp, &mut dp, name, ino, create.kind.file_type())?;
        if let Some(pointer) = Pointer::new(&dp, name) {
            pointer.add(&mut tp, &mut ip)?;
        }
        lists.apply(&mut tp, &mut ip)?;
        if directory {
            dp.core_mut().nlink += 1;
        }
        touch_names(&mut dp, now);
        tp.commit(&mut [&mut dp, &mut ip])?;
        drop((dp, ip));
        Ok(inode)
    }
    /// Make a regular file without a name; it is gone when nobody holds it any more,
    /// unless it gets one.
    ///
    /// # Errors
    /// As [`Mount::create`].
    pub fn create_unnamed(&self, dir: &Inode, create: &Create<'_>) -> Result<Arc<Inode>> {
        let (lists, mode) = match create.kind {
            NewKind::Regular => Inherited::of(dir, FileType::Regular, create.mode, create.umask)?,
            // A whiteout.
            _ => (Inherited::default(), create.mode),
        };
        let (reservation, blocks) = lists.cost(self, self.cost(&create.kind));
        let mut tp = self.begin_or_full(reservation, blocks, 0)?;
        let full = tp.is_short();
        if full && !lists.is_empty() {
            return Err(Error::NoSpace);
        }
        let inode = {
            let mut dp = dir.lock_exclusive();
            check_directory(&dp)?;
            let ino = ialloc::allocate(&mut tp, dir.ino(), false, !full, &mut [&mut dp])?;
            self.new_inode(ino, &dp, create, &Shape { mode, nlink: 0, lists: &lists }, tp.now())
        };
        let mut ip = self.lock_new(&inode)?;
        ialloc::unlinked_add(&mut tp, &ip)?;
        lists.apply(&mut tp, &mut ip)?;
        tp.commit(&mut [&mut ip])?;
        drop(ip);
        Ok(inode)
    }
    /// Does making this take no block besides, perhaps, one of new inodes?
    fn needs_no_block(
        &self,
        tp: &mut Trans<'_>,
        dp: &mut LockedInode<'_>,
        name: &[u8],
        kind: &NewKind<'_>,
    ) -> Result<bool> {
        let geometry = self.geometry();
        let contents = match kind {
            NewKind::Symlink(target) => {
                target.len() <= parent::new_data_bytes(geometry, kind.format())
            }
            NewKind::Directory | NewKind::Regular | NewKind::Special(..) => true,
        };
        // It is not known yet which number it gets.
        let last = geometry.ino(AgNumber(geometry.ag_count - 1), u32::MAX);
        Ok(contents
            && parent::fits_new(geometry, kind.format(), name)
            && dir::fits(tp, dp, name, last)?)
    }
    /// Log and blocks that making this may need.
    fn cost(&self, kind: &NewKind<'_>) -> (Reservation, u64) {
        let (geometry, reservations) = (self.geometry(), self.reservations());
        let blocks = reservations.create_blocks;
        match kind {
            NewKind::Directory => (reservations.mkdir, blocks),
            NewKind::Symlink(_) => (reservations.symlink, blocks + symlink::most_blocks(geometry)),
            NewKind::Regular | NewKind::Special(..) => (reservations.create, blocks),
        }
    }
    /// The inode in memory, not in use on disk so far.
    fn new_inode(
        &self,
        ino: Ino,
        dp: &LockedInode<'_>,
        create: &Create<'_>,
        shape: &Shape<'_>,
        now: Timestamp,
    ) -> Arc<Inode> {
        let file_type = create.kind.file_type();
        let data = match create.kind {
            NewKind::Special(_, (major, minor)) => Fork::Device(device(major, minor)),
            _ => Fork::Extents(ForkExtents::default()),
        };
        let format = create.kind.format();
        let hands_group_down = dp.core.mode & SET_GROUP != 0;
        let mut mode = shape.mode & 0o7777 | file_type.mode_bits();
        if hands_group_down && file_type == FileType::Directory {
            mode |= SET_GROUP;
        }
        let mut core = InodeCore {
            file_type,
            mode,
            format,
            attr_format: None,
            uid: create.uid,
            gid: if hands_group_down { dp.core.gid } else { create.gid },
            nlink: shape.nlink,
            projid: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            size: 0,
            blocks: 0,
            extsize: 0,
            cow_extsize: 0,
            extents: 0,
            attr_extents: 0,
            data_fork_bytes: self.geometry().inode_bytes() - CORE_BYTES,
            flags: Flags::empty(),
            flags2: new_flags2(self.geometry()),
            generation: self.random() as u32,
            next_unlinked: NULL_AGINO,
            change_count: 0,
        };
        inherit(&mut core, &dp.core, self.geometry());
        let attributes = match parent::prepare(&mut core, self.geometry()) {
            None if !shape.lists.is_empty() => shape.lists.prepare(&mut core),
            prepared => prepared,
        };
        Inode::new(self.arc(), ino, core, data, attributes)
    }
    /// Lock an inode that nobody knows of, and let it be known. Nothing is waited for:
    /// groups are locked already.
    fn lock_new<'i>(&self, inode: &'i Arc<Inode>) -> Result<LockedInode<'i>> {
        let Some(state) = inode.state.try_write() else { return Err(Error::Busy) };
        self.adopt(inode);
        let mut ip = LockedInode::new(inode, state);
        ip.mark(LogFields::CORE | LogFields::DATA);
        Ok(ip)
    }
}

impl NewKind<'_> {
    /// The form of the data fork, at first.
    const fn format(&self) -> Format {
        match self {
            Self::Special(..) => Format::Device,
            _ => Format::Extents,
        }
    }
}

/// A device's number as it lies on disk: 14 bits major, 18 bits minor.
const fn device(major: u32, minor: u32) -> u32 {
    major << 18 | minor & 0x3_ffff
}

/// Can such a symbolic link be?
fn check_target(kind: &NewKind<'_>) -> Result<()> {
    match kind {
        // The terminating NUL that Linux counts is not stored.
        NewKind::Symlink(target) if target.len() as u64 >= MAX_SYMLINK => Err(Error::NameTooLong),
        _ => Ok(()),
    }
}

/// May this be made in this directory?
fn check_kind(dp: &LockedInode<'_>, kind: &NewKind<'_>) -> Result<()> {
    match kind {
        NewKind::Directory if dp.core.nlink >= MAX_LINKS => Err(Error::TooManyLinks),
        NewKind::Symlink(_) if dp.core.flags.contains(Flags::NO_SYMLINKS) => {
            Err(Error::NotPermitted("the directory takes no symbolic links"))
        }
        _ => Ok(()),
    }
}

/// What a file or directory takes over from the directory it is made in.
fn inherit(core: &mut InodeCore, dir: &InodeCore, geometry: &Geometry) {
    if dir.flags.contains(Flags::PROJ_INHERIT) {
        core.projid = dir.projid;
    }
    let directory = match core.file_type {
        FileType::Directory => true,
        FileType::Regular => false,
        _ => return,
    };
    core.flags |= dir.flags & (INHERITED | Flags::NO_DEFRAG | Flags::FILESTREAM);
    if directory {
        let handed = Flags::RT_INHERIT | Flags::PROJ_INHERIT | Flags::EXTSIZE_INHERIT;
        core.flags |= dir.flags & handed;
    } else if dir.flags.contains(Flags::EXTSIZE_INHERIT) {
        core.flags |= Flags::EXTSIZE;
    }
    if dir.flags.contains(Flags::EXTSIZE_INHERIT) {
        core.extsize = dir.extsize;
    }
    core.flags2 |= dir.flags2 & Flags2::DAX;
    if dir.flags2.contains(Flags2::COW_EXTSIZE) {
        core.flags2 |= Flags2::COW_EXTSIZE;
        core.cow_extsize = dir.cow_extsize;
    }
    // A hint that makes no sense is not handed on.
    let most = geometry.ag_blocks / 2;
    if core.extsize > most {
        core.flags -= Flags::EXTSIZE | Flags::EXTSIZE_INHERIT;
        core.extsize = 0;
    }
    if core.cow_extsize > most {
        core.flags2 -= Flags2::COW_EXTSIZE;
        core.cow_extsize = 0;
    }
}
