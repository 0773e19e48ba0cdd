//! Another name for an inode, a name less.

use super::{MAX_LINKS, check_directory, check_removable, fits_inline, lock_all, touch_names};
use crate::error::{Error, Result};
use crate::xfs::inode::{ForkKind, Inode};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::inode::Flags;
use crate::xfs::trans::Trans;
use crate::xfs::types::FileType;
use crate::xfs::{dir, ialloc};

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
        let blocks = dir::space_for_add(self.geometry());
        let (mut tp, full) = self.begin_or_full(self.reservations().link, blocks, 0)?;
        let mut locked = lock_all(&[dir, inode]);
        let [dp, ip] = &mut locked[..] else { return Err(Error::Invalid("not two inodes")) };
        check_directory(dp)?;
        if full && !fits_inline(dp, name) {
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
        self.remove(dir, name, inode)
    }
    /// Remove an empty directory.
    ///
    /// # Errors
    /// It is not empty; I/O errors, damage, shut down.
    pub fn rmdir(&self, dir: &Inode, name: &[u8], inode: &Inode) -> Result<()> {
        self.remove(dir, name, inode)
    }
    fn remove(&self, dir: &Inode, name: &[u8], inode: &Inode) -> Result<()> {
        let blocks = dir::space_for_remove(self.geometry());
        let mut tp = self.begin_freeing(self.reservations().remove, blocks)?;
        let mut locked = lock_all(&[dir, inode]);
        let [dp, ip] = &mut locked[..] else { return Err(Error::Invalid("not two inodes")) };
        check_directory(dp)?;
        check_removable(dp, ip)?;
        if inode.file_type() == FileType::Directory {
            check_empty(ip)?;
            // Who works in it must not be led to what may be gone by then.
            let root = self.root();
            if dir.ino() != root {
                dir::replace(&mut tp, ip, b"..", root, FileType::Directory)?;
            }
            dp.core_mut().nlink -= 1;
            ip.core_mut().nlink = 0;
        } else {
            ip.core_mut().nlink -= 1;
        }
        let now = tp.now();
        ip.core_mut().ctime = now;
        // The lists of inodes come before the blocks of the directory.
        if ip.core.nlink == 0 {
            ialloc::unlinked_add(&mut tp, ip)?;
        }
        dir::remove(&mut tp, dp, name)?;
        touch_names(dp, now);
        tp.commit(&mut [dp, ip])?;
        Ok(())
    }
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
