//! Changing names: create, link, remove, rename, and what belongs to an inode's core.
//!
//! Each operation is one transaction (with its deferred operations): after a crash it has
//! happened or not. The caller holds the `IOLOCK` of the directories exclusive and has
//! looked the names up; what can still fail is checked before anything is changed.
//!
//! ```text
//! create   inode from ialloc, contents (dir, symlink), name into the directory
//! unlink   name out; the inode, when it was the last, into an unlinked list
//! inactivate   (nobody holds it any more) blocks, attributes and the inode are freed
//! ```
//!
//! | file | |
//! |------|--|
//! | `create` | new inodes, with a name or without |
//! | `names` | another name, a name less |
//! | `rename` | names moved, replaced, exchanged |
//! | `attributes` | mode, owner, times |
//! | `inactive` | what is left of an inode without names goes, now or after a crash |
//!
//! Owns: link counts, times, what a new inode inherits. Does not own: how names lie in a
//! directory (`dir`), inodes and their lists (`ialloc`). Locks: `ILOCK` of all inodes
//! concerned, in rising order of their numbers; then, by the modules below, AGI, AGF.

mod attributes;
mod create;
mod inactive;
mod names;
mod rename;

use super::geometry::Geometry;
use super::inode::Inode;
use super::inode_item::LockedInode;
use super::mount::Mount;
use super::ondisk::inode::{Flags, Flags2};
use super::ondisk::superblock::Incompat;
use super::reservation::Reservation;
use super::trans::Trans;
use super::types::{FileType, Timestamp};
use crate::error::{Error, Result};

pub use rename::Rename;

/// Most names an inode can have.
const MAX_LINKS: u32 = i32::MAX as u32;

/// What a new inode shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewKind<'a> {
    /// An empty file.
    Regular,
    /// A directory.
    Directory,
    /// A symbolic link with this target.
    Symlink(&'a [u8]),
    /// A device, named pipe or socket, with the device's number (major, minor).
    Special(FileType, (u32, u32)),
}

impl NewKind<'_> {
    /// The type of inode it makes.
    pub const fn file_type(&self) -> FileType {
        match self {
            Self::Regular => FileType::Regular,
            Self::Directory => FileType::Directory,
            Self::Symlink(_) => FileType::Symlink,
            Self::Special(file_type, _) => *file_type,
        }
    }
}

/// How to make an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create<'a> {
    /// Permission bits.
    pub mode: u16,
    /// Those of them that it does not get, unless the directory has a default access
    /// control list.
    pub umask: u16,
    /// Owner.
    pub uid: u32,
    /// Group, unless the directory hands down its own.
    pub gid: u32,
    /// What it is.
    pub kind: NewKind<'a>,
}

bitflags::bitflags! {
    /// How `rename` treats what the new name names: Linux's numbers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// The new name must not exist.
        const NOREPLACE = 1;
        /// The two names change places.
        const EXCHANGE = 2;
        /// Leave a whiteout under the old name.
        const WHITEOUT = 4;
    }
}

/// What of an inode's core to change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u16>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last access.
    pub atime: Option<Timestamp>,
    /// Last change of the contents.
    pub mtime: Option<Timestamp>,
    /// Both times become the present, and nothing else changes: that is a write like any
    /// other, and a file that is appended to may have it.
    pub touch: bool,
}

/// The switches that every new inode has.
pub(super) fn new_flags2(geometry: &Geometry) -> Flags2 {
    let mut flags = Flags2::empty();
    flags.set(Flags2::BIGTIME, geometry.incompat.contains(Incompat::BIGTIME));
    flags.set(Flags2::NREXT64, geometry.incompat.contains(Incompat::NREXT64));
    flags
}

impl Mount {
    /// Start a transaction that gives more space back than it takes: it has to work on a
    /// file system that is full. Blocks that it may need for a while come then from those
    /// that are never promised.
    fn begin_freeing(&self, reservation: Reservation, blocks: u64) -> Result<Trans<'_>> {
        self.begin_or_full(reservation, blocks, blocks)
    }
}

/// Most inodes that an operation locks.
const MOST_LOCKED: usize = 5;

/// Lock at most [`MOST_LOCKED`] inodes in the order of their numbers; the locks, in the
/// order given. One inode must not be given twice.
///
/// Nobody waits for one of them while he holds another that may be the log's tail:
///
/// ```text
/// A (an operation of several steps)      B (this function)
/// holds inode 2, commits a step
/// waits for log space                    holds inode 1, which is the tail
///                                        waits for inode 2
/// the pusher cannot have inode 1         ... for ever
/// ```
/// B gives inode 1 back, waits for inode 2 with nothing in its hands, and starts over.
fn lock_all<'a>(inodes: &[&'a Inode]) -> [Option<LockedInode<'a>>; MOST_LOCKED] {
    debug_assert!(inodes.len() <= MOST_LOCKED, "too many inodes");
    let mut order: [usize; MOST_LOCKED] = core::array::from_fn(|i| i);
    let order = &mut order[..inodes.len().min(MOST_LOCKED)];
    order.sort_unstable_by_key(|&i| inodes[i].ino());
    loop {
        let mut locked = [const { None }; MOST_LOCKED];
        let Some(&busy) = order.iter().find(|&&i| !lock_next(&mut locked, i, inodes[i])) else {
            return locked;
        };
        drop(locked);
        drop(inodes[busy].lock_exclusive());
    }
}

/// Lock one more inode. False if it is busy, and one of those `locked` is logged.
fn lock_next<'a>(locked: &mut [Option<LockedInode<'a>>], i: usize, inode: &'a Inode) -> bool {
    locked[i] = inode.try_lock_exclusive();
    if locked[i].is_none() && !locked.iter().flatten().any(|held| held.inode().is_logged()) {
        locked[i] = Some(inode.lock_exclusive());
    }
    locked[i].is_some()
}

/// Names in this directory may change.
fn check_directory(dp: &LockedInode<'_>) -> Result<()> {
    if dp.core.file_type != FileType::Directory {
        return Err(Error::NotDirectory);
    }
    if dp.core.nlink == 0 {
        // Removed, and held by somebody who works in it.
        return Err(Error::NotFound);
    }
    if dp.core.flags.contains(Flags::IMMUTABLE) {
        return Err(Error::NotPermitted("the directory is immutable"));
    }
    Ok(())
}

/// A name of this inode may be taken away.
fn check_removable(dp: &LockedInode<'_>, ip: &LockedInode<'_>) -> Result<()> {
    if dp.core.flags.contains(Flags::APPEND) {
        return Err(Error::NotPermitted("the directory can only get more names"));
    }
    if ip.core.flags.intersects(Flags::IMMUTABLE | Flags::APPEND) {
        return Err(Error::NotPermitted("the file is immutable or append-only"));
    }
    Ok(())
}

/// The directory's names changed now.
fn touch_names(dp: &mut LockedInode<'_>, now: Timestamp) {
    let core = dp.core_mut();
    core.mtime = now;
    core.ctime = now;
}
