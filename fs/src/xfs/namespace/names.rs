//! Another name for an inode, a name less.

use super::{MAX_LINKS, check_directory, check_removable, lock_all, touch_names};
use crate::error::{Error, Result};
use crate::xfs::attr::parent::{self, Pointer};
use crate::xfs::inode::{ForkKind, Inode};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::inode::Flags;
use crate::xfs::trans::Trans;
use crate::xfs::types::{FileBlock, FileType};
use crate::xfs::{bmap, dir, ialloc};

impl Mount {
    /// Give an inode, which is no directory, another name that is not there yet. It may
    /// be its first.
    ///
    /// # Errors
    /// The inode is gone, or the directory; too many links; no space; I/O errors, damage,
    /// shut down.
    pub fn link(&self, dir: &Inode, name: &[u8], inode: &Inode, unnamed: bool) -> Result<()> {
        if inode.file_type() == FileType::Directory {
            return Err(Error::NotPermitted("a directory has one name"));
        }
        let geometry = self.geometry();
        let blocks = dir::space_for_add(geometry) + parent::space_for_add(geometry);
        let mut tp = self.begin_or_full(self.reservations().link, blocks, 0)?;
        let mut locked = lock_all(&[dir, inode]);
        let [Some(dp), Some(ip), ..] = &mut locked else {
            return Err(Error::Invalid("not two inodes"));
        };
        check_directory(dp)?;
        if tp.is_short()
            && !(parent::fits_inline(ip, name) && dir::fits(&mut tp, dp, name, ip.ino())?)
        {
            return Err(Error::NoSpace);
        }
        if ip.core.flags.intersects(Flags::IMMUTABLE | Flags::APPEND) {
            return Err(Error::NotPermitted("the file is immutable or append-only"));
        }
        if ip.core.nlink == 0 && !unnamed {
            return Err(Error::NotFound);
        }
        if ip.core.nlink >= MAX_LINKS {
            return Err(Error::TooManyLinks);
        }
        check_project(dp, ip)?;
        if ip.core.nlink == 0 {
            ialloc::unlinked_remove(&mut tp, ip)?;
        }
        dir::add(&mut tp, dp, name, ip.ino(), inode.file_type())?;
        if let Some(pointer) = Pointer::new(dp, name) {
            pointer.add(&mut tp, ip)?;
        }
        let now = tp.now();
        let core = ip.core_mut();
        core.nlink += 1;
        core.ctime = now;
        touch_names(dp, now);
        tp.commit(&mut [dp, ip])?;
        Ok(())
    }
    /// Take the name of an inode that is no directory away. When it was the last, the
    /// inode lives on until nobody holds it.
    ///
    /// # Errors
    /// I/O errors, damage, shut down.
    pub fn unlink(&self, dir: &Inode, name: &[u8], inode: &Inode) -> Result<()> {
        self.remove_name(dir, name, inode, &mut || false).map(drop)
    }
    /// Remove an empty directory.
    ///
    /// # Errors
    /// It is not empty; I/O errors, damage, shut down.
    pub fn rmdir(&self, dir: &Inode, name: &[u8], inode: &Inode) -> Result<()> {
        self.remove_name(dir, name, inode, &mut || false).map(drop)
    }
    /// Take a name away: that of an empty directory, or of anything else. Where it was the
    /// last one and nothing else is to be freed, `alone` is asked, with both inodes locked,
    /// whether nobody holds the inode, nor ever will. Then it is freed in the same
    /// transaction, and never in a list of unlinked inodes; true if so.
    ///
    /// # Errors
    /// It is a directory that is not empty; I/O errors, damage, shut down.
    pub fn remove_name(
        &self,
        dir: &Inode,
        name: &[u8],
        inode: &Inode,
        alone: &mut dyn FnMut() -> bool,
    ) -> Result<bool> {
        let geometry = self.geometry();
        let blocks = dir::space_for_remove(geometry)
            + parent::space_for_remove(geometry)
            + ialloc::space_for_free(geometry);
        let mut tp = self.begin_freeing(self.reservations().remove, blocks)?;
        let mut locked = lock_all(&[dir, inode]);
        let [Some(dp), Some(ip), ..] = &mut locked else {
            return Err(Error::Invalid("not two inodes"));
        };
        check_directory(dp)?;
        check_removable(dp, ip)?;
        let pointer = Pointer::new(dp, name);
        if let Some(pointer) = &pointer {
            pointer.check(&mut tp, ip)?;
        }
        let directory = inode.file_type() == FileType::Directory;
        if directory {
            check_empty(ip)?;
        }
        let now = tp.now();
        let last = directory || ip.core.nlink == 1;
        // The trees and lists of inodes come before the blocks of the directory.
        let freed = last && is_bare(ip) && alone() && free_now(&mut tp, ip)?;
        if !freed {
            if directory {
                // Who works in it must not be led to what may be gone by then.
                let root = self.root();
                if dir.ino() != root {
                    dir::replace(&mut tp, ip, b"..", root, FileType::Directory)?;
                }
            }
            drop_link(&mut tp, ip, if directory { ip.core.nlink } else { 1 })?;
        }
        ip.core_mut().ctime = now;
        if directory {
            dp.core_mut().nlink -= 1;
        }
        dir::remove(&mut tp, dp, name)?;
        if let Some(pointer) = pointer.filter(|_| !freed) {
            pointer.remove(&mut tp, ip)?;
        }
        touch_names(dp, now);
        tp.commit(&mut [dp, ip])?;
        Ok(freed)
    }
}

/// Has the inode no blocks and no attributes, and no copies of shared blocks?
fn is_bare(ip: &LockedInode<'_>) -> bool {
    let core = &ip.core;
    let forks = core.extents == 0 && core.attr_extents == 0 && core.attr_format.is_none();
    forks && core.blocks == 0 && !ip.delayed.has_cow()
}

/// Free an inode that is bare and that nobody can get hold of, with the space promised to
/// it. False if there is no room for that in the trees.
fn free_now(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<bool> {
    match ialloc::free(tp, ip) {
        Err(Error::NoSpace) => return Ok(false),
        freed => freed?,
    }
    // What is dirty in the page cache finds nothing to be written to from now on.
    bmap::punch_reserved(ip, ForkKind::Data, FileBlock(0)..FileBlock(u64::MAX));
    Ok(true)
}

/// There is nothing in a directory, and the number of its links says so too.
pub(super) fn check_empty(ip: &mut LockedInode<'_>) -> Result<()> {
    ip.load(ForkKind::Data)?;
    if !dir::is_empty(ip)? || ip.core.nlink > 2 {
        return Err(Error::NotEmpty);
    }
    Ok(())
}

/// A directory that hands a project down takes only what is of that project.
pub(super) fn check_project(dp: &LockedInode<'_>, ip: &LockedInode<'_>) -> Result<()> {
    let hands_down = dp.core.flags.contains(Flags::PROJ_INHERIT);
    if hands_down && dp.core.projid != ip.core.projid {
        return Err(Error::CrossDevice);
    }
    Ok(())
}

/// What is put into a list of unlinked inodes before anything else of a transaction, so
/// that groups are locked in their order.
pub(super) fn drop_link(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, links: u32) -> Result<()> {
    let core = ip.core_mut();
    core.nlink = core.nlink.saturating_sub(links);
    if ip.core.nlink == 0 { ialloc::unlinked_add(tp, ip) } else { Ok(()) }
}
