//! Names moved, replaced, exchanged.

use alloc::vec::Vec;

use super::names::{check_empty, check_project, drop_link};
use super::{
    Create, MAX_LINKS, NewKind, RenameFlags, check_directory, check_removable, lock_all,
    touch_names,
};
use crate::error::{Error, Result};
use crate::xfs::attr::parent::{self, Pointer};
use crate::xfs::inode::Inode;
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::trans::Trans;
use crate::xfs::types::{FileType, Ino};
use crate::xfs::{dir, ialloc};

/// A name to move. The caller has looked the names up and made sure that no directory
/// becomes its own ancestor.
pub struct Rename<'a> {
    /// The directory the name is in.
    pub from: &'a Inode,
    /// The name.
    pub from_name: &'a [u8],
    /// What it names.
    pub inode: &'a Inode,
    /// The directory it goes to.
    pub to: &'a Inode,
    /// What it is called there.
    pub to_name: &'a [u8],
    /// What that names so far.
    pub replaced: Option<&'a Inode>,
    /// How.
    pub flags: RenameFlags,
}

/// The inodes of a rename, locked. Directories that are one are locked once.
struct Parts<'a> {
    from: LockedInode<'a>,
    to: Option<LockedInode<'a>>,
    inode: LockedInode<'a>,
    replaced: Option<LockedInode<'a>>,
    whiteout: Option<LockedInode<'a>>,
}

impl<'a> Parts<'a> {
    fn lock(rename: &Rename<'a>, whiteout: Option<&'a Inode>) -> Result<Self> {
        let apart = rename.from.ino() != rename.to.ino();
        let mut wanted: Vec<&'a Inode> = Vec::with_capacity(5);
        wanted.extend([rename.from, rename.inode]);
        wanted.extend(apart.then_some(rename.to));
        wanted.extend(rename.replaced);
        wanted.extend(whiteout);
        let mut locked = lock_all(&wanted).into_iter().flatten();
        let mut next = || locked.next().ok_or(Error::Invalid("an inode too few"));
        Ok(Self {
            from: next()?,
            inode: next()?,
            to: apart.then(&mut next).transpose()?,
            replaced: rename.replaced.map(|_| next()).transpose()?,
            whiteout: whiteout.map(|_| next()).transpose()?,
        })
    }
    fn to(&mut self) -> &mut LockedInode<'a> {
        self.to.as_mut().unwrap_or(&mut self.from)
    }
    fn commit(&mut self, tp: Trans<'_>) -> Result<()> {
        let mut all: Vec<&mut LockedInode<'a>> = Vec::with_capacity(5);
        all.extend([&mut self.from, &mut self.inode]);
        all.extend(self.to.as_mut());
        all.extend(self.replaced.as_mut());
        all.extend(self.whiteout.as_mut());
        tp.commit(&mut all).map(|_| ())
    }
}

impl Mount {
    /// Move a name, or with `EXCHANGE` let two names change places.
    ///
    /// # Errors
    /// What would be replaced is a directory that is not empty; a directory was removed;
    /// too many links; no space; I/O errors, damage, shut down.
    pub fn rename(&self, rename: &Rename<'_>) -> Result<()> {
        let whiteout = match rename.flags.contains(RenameFlags::WHITEOUT) {
            true => Some(self.make_whiteout(rename.from)?),
            false => None,
        };
        let done = self.rename_with(rename, whiteout.as_deref());
        if let (Err(_), Some(whiteout)) = (&done, whiteout) {
            self.inactivate(&whiteout);
        }
        done
    }
    fn rename_with(&self, rename: &Rename<'_>, whiteout: Option<&Inode>) -> Result<()> {
        let geometry = self.geometry();
        let removal = dir::space_for_remove(geometry);
        // Two pointers to parents are replaced, or one replaced and one removed; that of a
        // whiteout is its first.
        let pointers = 2 * parent::space_for_add(geometry) + parent::space_for_first(geometry);
        let blocks = dir::space_for_add(geometry) + removal + pointers;
        let least = 2 * removal + 2 * parent::space_for_remove(geometry);
        let mut tp = self.begin_or_full(self.reservations().rename, blocks, least)?;
        let mut parts = Parts::lock(rename, whiteout)?;
        check(rename, &mut parts)?;
        if tp.is_short() && !needs_no_block(&mut tp, rename, &mut parts)? {
            return Err(Error::NoSpace);
        }
        check_pointers(&mut tp, rename, &mut parts)?;
        if rename.flags.contains(RenameFlags::EXCHANGE) {
            exchange(&mut tp, rename, &mut parts)?;
        } else {
            replace(&mut tp, rename, &mut parts)?;
        }
        move_pointers(&mut tp, rename, &mut parts)?;
        let now = tp.now();
        touch_names(&mut parts.from, now);
        touch_names(parts.to(), now);
        parts.inode.core_mut().ctime = now;
        if let Some(replaced) = &mut parts.replaced {
            replaced.core_mut().ctime = now;
        }
        parts.commit(tp)
    }
    /// The device that overlay file systems know a removed name by.
    fn make_whiteout(&self, dir: &Inode) -> Result<alloc::sync::Arc<Inode>> {
        let kind = NewKind::Special(FileType::CharDevice, (0, 0));
        self.create_unnamed(dir, &Create { mode: 0, umask: 0, uid: 0, gid: 0, kind })
    }
}

/// Can it be done without a block more?
fn needs_no_block(tp: &mut Trans<'_>, rename: &Rename<'_>, parts: &mut Parts<'_>) -> Result<bool> {
    let exchange = rename.flags.contains(RenameFlags::EXCHANGE);
    let ino = rename.inode.ino();
    // Where a name is replaced none is added.
    let name_fits = match rename.replaced {
        Some(_) => dir::takes_number(tp, parts.to(), ino)?,
        None => dir::fits(tp, parts.to(), rename.to_name, ino)?,
    };
    // What stays under the old name, and the other ends of directories that move.
    let stays = match (&parts.whiteout, rename.replaced) {
        (Some(whiteout), _) => Some(whiteout.ino()),
        (None, replaced) => replaced.filter(|_| exchange).map(Inode::ino),
    };
    let mut numbers_fit = match stays {
        Some(ino) => dir::takes_number(tp, &mut parts.from, ino)?,
        None => true,
    };
    if is_directory(rename.inode) {
        numbers_fit &= dir::takes_number(tp, &mut parts.inode, rename.to.ino())?;
    }
    if let (true, Some(replaced)) = (exchange, &mut parts.replaced)
        && rename.replaced.is_some_and(is_directory)
    {
        numbers_fit &= dir::takes_number(tp, replaced, rename.from.ino())?;
    }
    let gets = |ip: &Option<LockedInode<'_>>| {
        ip.as_ref().is_none_or(|ip| parent::fits_inline(ip, rename.from_name))
    };
    Ok(name_fits
        && numbers_fit
        && parent::fits_inline(&parts.inode, rename.to_name)
        && (!exchange || gets(&parts.replaced))
        && gets(&parts.whiteout))
}

/// The pointers to parents that belong to both names, if the file system keeps any.
fn pointers<'a>(rename: &Rename<'a>, parts: &mut Parts<'_>) -> Option<(Pointer<'a>, Pointer<'a>)> {
    let from = Pointer::new(&parts.from, rename.from_name)?;
    let to = Pointer::new(parts.to(), rename.to_name)?;
    Some((from, to))
}

/// The pointers to parents that will go are there.
fn check_pointers(tp: &mut Trans<'_>, rename: &Rename<'_>, parts: &mut Parts<'_>) -> Result<()> {
    let Some((from, to)) = pointers(rename, parts) else { return Ok(()) };
    from.check(tp, &mut parts.inode)?;
    parts.replaced.as_mut().map_or(Ok(()), |replaced| to.check(tp, replaced))
}

/// Pointers to parents follow the names.
fn move_pointers(tp: &mut Trans<'_>, rename: &Rename<'_>, parts: &mut Parts<'_>) -> Result<()> {
    let Some((from, to)) = pointers(rename, parts) else { return Ok(()) };
    from.replace(tp, &mut parts.inode, &to)?;
    if let Some(replaced) = &mut parts.replaced {
        match rename.flags.contains(RenameFlags::EXCHANGE) {
            true => to.replace(tp, replaced, &from)?,
            false => to.remove(tp, replaced)?,
        }
    }
    parts.whiteout.as_mut().map_or(Ok(()), |whiteout| from.add(tp, whiteout))
}

fn is_directory(inode: &Inode) -> bool {
    inode.file_type() == FileType::Directory
}

/// Everything that can be wrong before something is changed.
fn check(rename: &Rename<'_>, parts: &mut Parts<'_>) -> Result<()> {
    check_directory(&parts.from)?;
    check_directory(parts.to())?;
    check_removable(&parts.from, &parts.inode)?;
    {
        let to = parts.to.as_ref().unwrap_or(&parts.from);
        check_project(to, &parts.inode)?;
        if let Some(replaced) = &parts.replaced {
            check_removable(to, replaced)?;
        }
    }
    if rename.flags.contains(RenameFlags::EXCHANGE) {
        let Some(replaced) = &parts.replaced else { return Err(Error::NotFound) };
        check_project(&parts.from, replaced)?;
        let moved = (is_directory(rename.inode), rename.replaced.is_some_and(is_directory));
        let more = match moved {
            (true, false) => parts.to().core.nlink,
            (false, true) => parts.from.core.nlink,
            _ => 0,
        };
        return if more >= MAX_LINKS { Err(Error::TooManyLinks) } else { Ok(()) };
    }
    if let (Some(replaced), Some(inode)) = (&mut parts.replaced, rename.replaced) {
        if !is_directory(inode) {
            return Ok(());
        }
        // What XFS says, where others say that it is not empty.
        let exists = |e| if e == Error::NotEmpty { Error::Exists } else { e };
        return check_empty(replaced).map_err(exists);
    }
    let one_more = is_directory(rename.inode) && parts.to.is_some();
    if one_more && parts.to().core.nlink >= MAX_LINKS {
        return Err(Error::TooManyLinks);
    }
    Ok(())
}

/// Move the name; what the new name named so far loses it.
fn replace(tp: &mut Trans<'_>, rename: &Rename<'_>, parts: &mut Parts<'_>) -> Result<()> {
    let directory = is_directory(rename.inode);
    let (ino, file_type) = (rename.inode.ino(), rename.inode.file_type());
    // Groups of lists of inodes first, in their order.
    let geometry = tp.mount().geometry();
    let mut lists: Vec<Ino> = Vec::with_capacity(2);
    lists.extend(parts.whiteout.as_ref().map(|w| w.ino()));
    let last = |ip: &&LockedInode<'_>| directory || ip.core.nlink == 1;
    lists.extend(parts.replaced.as_ref().filter(last).map(|r| r.ino()));
    let mut groups: Vec<_> =
        lists.iter().filter_map(|&ino| geometry.locate_inode(ino)).map(|(ag, ..)| ag).collect();
    groups.sort_unstable();
    for ag in groups {
        tp.lock_agi(ag);
    }
    if let Some(whiteout) = &mut parts.whiteout {
        ialloc::unlinked_remove(tp, whiteout)?;
        whiteout.core_mut().nlink = 1;
    }
    if let Some(replaced) = &mut parts.replaced {
        // A directory loses its "." as well.
        drop_link(tp, replaced, if directory { 2 } else { 1 })?;
        dir::replace(tp, parts.to(), rename.to_name, ino, file_type)?;
    } else {
        dir::add(tp, parts.to(), rename.to_name, ino, file_type)?;
    }
    if directory {
        // The moved ".." counts in another directory now; that of what was replaced nowhere.
        if let (Some(to), None) = (&mut parts.to, &parts.replaced) {
            to.core_mut().nlink += 1;
        }
        if parts.to.is_some() {
            let to = rename.to.ino();
            dir::replace(tp, &mut parts.inode, b"..", to, FileType::Directory)?;
        }
        if parts.to.is_some() || parts.replaced.is_some() {
            parts.from.core_mut().nlink -= 1;
        }
    }
    match &parts.whiteout {
        Some(whiteout) => {
            let ino = whiteout.ino();
            dir::replace(tp, &mut parts.from, rename.from_name, ino, FileType::CharDevice)
        }
        None => dir::remove(tp, &mut parts.from, rename.from_name),
    }
}

/// Let the two names change places.
fn exchange(tp: &mut Trans<'_>, rename: &Rename<'_>, parts: &mut Parts<'_>) -> Result<()> {
    let Some(other) = rename.replaced else { return Err(Error::NotFound) };
    let inode = rename.inode;
    dir::replace(tp, &mut parts.from, rename.from_name, other.ino(), other.file_type())?;
    dir::replace(tp, parts.to(), rename.to_name, inode.ino(), inode.file_type())?;
    let (Some(to), Some(replaced)) = (&mut parts.to, &mut parts.replaced) else { return Ok(()) };
    if is_directory(other) {
        dir::replace(tp, replaced, b"..", rename.from.ino(), FileType::Directory)?;
        if !is_directory(inode) {
            to.core_mut().nlink -= 1;
            parts.from.core_mut().nlink += 1;
        }
    }
    if is_directory(inode) {
        dir::replace(tp, &mut parts.inode, b"..", rename.to.ino(), FileType::Directory)?;
        if !is_directory(other) {
            to.core_mut().nlink += 1;
            parts.from.core_mut().nlink -= 1;
        }
    }
    Ok(())
}
