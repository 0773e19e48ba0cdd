//! Changing names and attributes on a mounted file system: locks, the cache of names,
//! the table of inodes.
//!
//! The directory whose names change is locked exclusive (`IOLOCK`), so that what was looked
//! up stays true until the change is made. Two directories are locked in the order of
//! their numbers, and only with `RENAME` held: no directory gets other ancestors while
//! somebody looks whether it would become its own. What lies in the directories is not
//! locked: whether a directory is empty, and an inode's links, are looked at in the
//! transaction.

use alloc::sync::Arc;

use holdfast_sync::atomic::Ordering;

use super::{FileSystem, Inode, ShutdownMode, XattrFlags};
use crate::xfs::FileType;
use crate::xfs::namespace::{Create, Rename, RenameFlags, SetAttr};
use crate::xfs::types::Ino;
use crate::{Error, Result};

/// A name to move.
pub(super) struct Move<'a> {
    /// The directory it is in.
    pub(super) from: &'a Arc<Inode>,
    pub(super) from_name: &'a [u8],
    /// Did a slash follow the old name?
    pub(super) from_slash: bool,
    /// The directory it goes to.
    pub(super) to: &'a Arc<Inode>,
    pub(super) to_name: &'a [u8],
    /// Did a slash follow the new name?
    pub(super) to_slash: bool,
    pub(super) flags: RenameFlags,
}

fn is_directory(inode: &Inode) -> bool {
    inode.file_type() == FileType::Directory
}

impl FileSystem {
    fn writable(&self) -> Result<()> {
        if self.readonly() { Err(Error::ReadOnly("mounted read-only")) } else { Ok(()) }
    }
    /// The name is missing in a directory that is locked exclusive.
    fn missing(&self, dir: &Inode, name: &[u8]) -> Result<()> {
        match self.lookup_locked(dir, name) {
            Ok(_) => Err(Error::Exists),
            Err(Error::NotFound) => Ok(()),
            Err(e) => Err(e),
        }
    }
    /// Do what needs space. If there is none, first write what is dirty, if anything is:
    /// what was promised for it beyond what it takes is free then; and so is what lies
    /// ready behind the ends of files and for copies.
    fn with_room<T>(&self, mut op: impl FnMut() -> Result<T>) -> Result<T> {
        match op() {
            Err(Error::NoSpace)
                if self
                    .inodes()
                    .iter()
                    .any(|i| !i.is_clean() || i.xfs().holds_ahead() || i.xfs().holds_copies()) =>
            {
                self.make_room()?;
                op()
            }
            done => done,
        }
    }
    /// Make an object under a new name.
    ///
    /// # Errors
    /// Linux's.
    pub fn make(&self, dir: &Arc<Inode>, name: &[u8], create: &Create<'_>) -> Result<Arc<Inode>> {
        let _names = dir.iolock.write();
        self.missing(dir, name)?;
        self.writable()?;
        let made = self.with_room(|| self.mount.create(&dir.xfs, name, create))?;
        self.dentries.insert(dir.ino(), name, Some(made.ino()));
        Ok(self.adopt(made, false))
    }
    /// Make a file without a name, which can be given one later if `linkable`.
    ///
    /// # Errors
    /// Linux's.
    pub fn make_unnamed(
        &self,
        dir: &Arc<Inode>,
        create: &Create<'_>,
        linkable: bool,
    ) -> Result<Arc<Inode>> {
        self.writable()?;
        // What it inherits stays what it is.
        let _names = dir.iolock.read();
        let made = self.with_room(|| self.mount.create_unnamed(&dir.xfs, create))?;
        let inode = self.adopt(made, true);
        inode.linkable.store(linkable, Ordering::Release);
        Ok(inode)
    }
    /// Give an inode another name.
    ///
    /// # Errors
    /// Linux's.
    pub fn link(&self, inode: &Arc<Inode>, dir: &Arc<Inode>, name: &[u8]) -> Result<()> {
        let _names = dir.iolock.write();
        self.missing(dir, name)?;
        self.writable()?;
        if is_directory(inode) {
            return Err(Error::NotPermitted("a directory has one name"));
        }
        let first = inode.linkable.load(Ordering::Acquire);
        self.with_room(|| self.mount.link(&dir.xfs, name, &inode.xfs, first))?;
        self.dentries.insert(dir.ino(), name, Some(inode.ino()));
        if first {
            inode.linkable.store(false, Ordering::Release);
            self.names_changed(inode, false);
        }
        Ok(())
    }
    /// Remove a name of what is no directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn unlink(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.remove(dir, name, false)
    }
    /// Remove an empty directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn rmdir(&self, dir: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.remove(dir, name, true)
    }
    fn remove(&self, dir: &Arc<Inode>, name: &[u8], directory: bool) -> Result<()> {
        self.writable()?;
        // Given back, and with it perhaps the file freed, when the directory is unlocked.
        let inode;
        let _names = dir.iolock.write();
        inode = self.lookup_locked(dir, name)?;
        match (directory, is_directory(&inode)) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            _ => {}
        }
        let mut taken = false;
        let alone = &mut || {
            taken = self.take_out(&inode);
            taken
        };
        let removed = self.mount.remove_name(&dir.xfs, name, &inode.xfs, alone);
        if taken && removed.is_err() {
            self.names_changed(&inode, false);
        }
        let freed = removed?;
        self.dentries.insert(dir.ino(), name, None);
        match freed {
            // What is cached of it goes with our reference, the last one.
            true => inode.unlinked.store(true, Ordering::Release),
            false => self.after_removal(&inode),
        }
        Ok(())
    }
    /// A name of this inode went: perhaps it was the last.
    fn after_removal(&self, inode: &Arc<Inode>) {
        if inode.xfs.nlink() > 0 {
            return;
        }
        if is_directory(inode) {
            self.dentries.forget_directory(inode.ino());
        }
        self.names_changed(inode, true);
    }
    /// Set an extended attribute.
    ///
    /// # Errors
    /// Linux's.
    pub fn set_extended_attribute(
        &self,
        inode: &Arc<Inode>,
        name: &[u8],
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        self.writable()?;
        let _contents = inode.iolock.write();
        self.with_room(|| inode.xfs.setxattr(name, value, flags.bits()))
    }
    /// Remove an extended attribute.
    ///
    /// # Errors
    /// Linux's.
    pub fn remove_extended_attribute(&self, inode: &Arc<Inode>, name: &[u8]) -> Result<()> {
        self.writable()?;
        let _contents = inode.iolock.write();
        inode.xfs.removexattr(name)
    }
    /// Change permissions, owner or times.
    ///
    /// # Errors
    /// Linux's.
    pub fn set_attributes(&self, inode: &Arc<Inode>, change: &SetAttr) -> Result<()> {
        self.writable()?;
        let _contents = inode.iolock.write();
        if let Ok(mapping) = inode.mapping() {
            mapping.forget_times();
        }
        inode.xfs.set_attributes(change)
    }
    /// Refuse everything from now on.
    ///
    /// # Errors
    /// Those of what `mode` asks for first.
    pub fn shutdown(&self, mode: ShutdownMode) -> Result<()> {
        let first = match (mode, self.mount.log()) {
            (ShutdownMode::Default, _) => self.write_all(),
            (ShutdownMode::LogFlush, Some(log)) => log.force_all(),
            _ => Ok(()),
        };
        self.mount.shut_down("somebody asked for it");
        first
    }

    // ---- moving names

    pub(super) fn rename(&self, moved: &Move<'_>) -> Result<()> {
        self.writable()?;
        let (from, to) = (moved.from, moved.to);
        let apart = from.ino() != to.ino();
        // Given back when the directories are unlocked.
        let inode;
        let replaced;
        let _moving = apart.then(|| self.moving.lock());
        let _names = match (apart, from.ino() < to.ino()) {
            (false, _) => (from.iolock.write(), None),
            (true, true) => {
                let first = from.iolock.write();
                (first, Some(to.iolock.write()))
            }
            (true, false) => {
                let first = to.iolock.write();
                (first, Some(from.iolock.write()))
            }
        };
        inode = self.lookup_locked(from, moved.from_name)?;
        replaced = match self.lookup_locked(to, moved.to_name) {
            Err(Error::NotFound) => None,
            found => Some(found?),
        };
        self.check_move(moved, &inode, replaced.as_ref())?;
        if replaced.as_ref().is_some_and(|r| Arc::ptr_eq(r, &inode)) {
            return Ok(());
        }
        let rename = Rename {
            from: &from.xfs,
            from_name: moved.from_name,
            inode: &inode.xfs,
            to: &to.xfs,
            to_name: moved.to_name,
            replaced: replaced.as_ref().map(|r| &*r.xfs),
            flags: moved.flags,
        };
        self.with_room(|| self.mount.rename(&rename))?;
        self.after_move(moved, &inode, replaced.as_ref());
        Ok(())
    }
    /// Linux's rules, in its order.
    fn check_move(
        &self,
        moved: &Move<'_>,
        inode: &Arc<Inode>,
        replaced: Option<&Arc<Inode>>,
    ) -> Result<()> {
        let exchange = moved.flags.contains(RenameFlags::EXCHANGE);
        let directory = is_directory(inode);
        let onto_directory = replaced.map(|r| is_directory(r));
        if moved.flags.contains(RenameFlags::NOREPLACE) && replaced.is_some() {
            return Err(Error::Exists);
        }
        match onto_directory {
            None if exchange => return Err(Error::NotFound),
            Some(false) if exchange && moved.to_slash => return Err(Error::NotDirectory),
            _ => {}
        }
        if !directory && (moved.from_slash || (!exchange && moved.to_slash)) {
            return Err(Error::NotDirectory);
        }
        if directory && self.is_inside(moved, moved.to, inode.ino())? {
            return Err(Error::Invalid("a directory cannot be moved into itself"));
        }
        if let (Some(replaced), Some(true)) = (replaced, onto_directory)
            && self.is_inside(moved, moved.from, replaced.ino())?
        {
            return Err(match exchange {
                true => Error::Invalid("a directory cannot be moved into itself"),
                false => Error::NotEmpty,
            });
        }
        match (directory, onto_directory) {
            _ if exchange => Ok(()),
            (true, Some(false)) => Err(Error::NotDirectory),
            (false, Some(true)) => Err(Error::IsDirectory),
            _ => Ok(()),
        }
    }
    /// Is `dir`, one of the two that are locked, the directory `of` or below it?
    fn is_inside(&self, moved: &Move<'_>, dir: &Arc<Inode>, of: Ino) -> Result<bool> {
        let root = self.mount.root();
        let mut at = dir.clone();
        // No way up is longer than there are inodes; damage can make it a circle.
        for _ in 0..=self.mount.counters().inodes() {
            if at.ino() == of {
                return Ok(true);
            }
            if at.ino() == root || moved.from.ino() == moved.to.ino() {
                return Ok(false);
            }
            let locked = Arc::ptr_eq(&at, moved.from) || Arc::ptr_eq(&at, moved.to);
            at = match locked {
                true => self.lookup_locked(&at, b"..")?,
                false => self.lookup(&at, b"..")?,
            };
        }
        Err(crate::corrupt!("directory", dir.ino(), "its parents lead round in a circle").into())
    }
    fn after_move(&self, moved: &Move<'_>, inode: &Arc<Inode>, replaced: Option<&Arc<Inode>>) {
        let (from, to) = (moved.from.ino(), moved.to.ino());
        let exchanged = replaced.filter(|_| moved.flags.contains(RenameFlags::EXCHANGE));
        self.dentries.insert(to, moved.to_name, Some(inode.ino()));
        match exchanged {
            Some(other) => self.dentries.insert(from, moved.from_name, Some(other.ino())),
            None if moved.flags.contains(RenameFlags::WHITEOUT) => {
                self.dentries.forget(from, moved.from_name);
            }
            None => self.dentries.insert(from, moved.from_name, None),
        }
        for moved in [Some(inode), exchanged].into_iter().flatten() {
            if is_directory(moved) {
                self.dentries.forget(moved.ino(), b"..");
            }
        }
        if let (Some(replaced), None) = (replaced, exchanged) {
            self.after_removal(replaced);
        }
    }
}
