//! Changing the tree of names: what a path's last component may be, and where it lies.
//!
//! The checks here are those that need no lock, in Linux's order: `.` and `..`, slashes,
//! device nodes, other file systems. What a name really means is decided by
//! [`FileSystem`](super::FileSystem) with the directory locked.

use alloc::sync::Arc;

use super::namespace::Last;
use super::{Inode, Namespace, Node, Place, Resolved};
use crate::xfs::FileType;
use crate::xfs::namespace::{Create, NewKind, RenameFlags};
use crate::{Error, Result};

/// What a last component is, apart from a name.
enum Dots {
    Name,
    Dot,
    DotDot,
    Root,
}

impl Last {
    fn dots(&self) -> Dots {
        match &self.name[..] {
            b"" => Dots::Root,
            b"." => Dots::Dot,
            b".." => Dots::DotDot,
            _ => Dots::Name,
        }
    }
    fn is_name(&self) -> bool {
        matches!(self.dots(), Dots::Name)
    }
    /// The directory on a file system, in which names can change.
    fn place(&self) -> Result<&Place> {
        if self.name.len() > super::NAME_MAX {
            return Err(Error::NameTooLong);
        }
        match &self.dir.node {
            Node::Inode(place) | Node::Devices(Some(place)) => Ok(place),
            Node::Devices(None) | Node::EmptyRoot => {
                Err(Error::ReadOnly("no file system holds this directory"))
            }
            Node::Device(_) => Err(Error::NotDirectory),
        }
    }
    /// The directory in which a new name is to be made.
    fn place_for_new(&self, ns: &Namespace, directory: bool) -> Result<&Place> {
        if !self.is_name() {
            return Err(Error::Exists);
        }
        let taken = |found: Result<Node>| match found {
            Ok(_) => Err(Error::Exists),
            Err(Error::NotFound) => Ok(()),
            Err(e) => Err(e),
        };
        if self.slash && !directory {
            taken(ns.step(&self.dir.node, &self.name))?;
            return Err(Error::NotFound);
        }
        if !matches!(&self.dir.node, Node::Inode(_)) || self.is_devices() {
            taken(ns.step(&self.dir.node, &self.name))?;
        }
        self.place()
    }
    /// Is it the name under which the device nodes lie?
    fn is_devices(&self) -> bool {
        self.name == b"dev"
    }
    /// Nothing may be done to names of device nodes, nor to their directory.
    fn refuse_devices(&self, ns: &Namespace) -> Result<()> {
        let inode = matches!(&self.dir.node, Node::Inode(_));
        if inode && !self.is_devices() {
            return Ok(());
        }
        match ns.step(&self.dir.node, &self.name)? {
            Node::Inode(_) => Ok(()),
            _ => Err(Error::Busy),
        }
    }
}

impl Namespace {
    /// Make an object that is not a directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn make(&self, base: &Resolved, path: &[u8], create: &Create<'_>) -> Result<()> {
        let directory = create.kind == NewKind::Directory;
        let last = self.resolve_parent(base, path)?;
        let place = last.place_for_new(self, directory)?;
        place.fs.make(&place.inode, &last.name, create).map(drop)
    }
    /// Make a regular file under a name that was missing a moment ago, for `open`. The
    /// file, and whether it was made: somebody may have been faster.
    ///
    /// # Errors
    /// Linux's.
    pub fn open_or_make(&self, last: &Last, create: &Create<'_>) -> Result<(Node, bool)> {
        let place = last.place()?;
        let made = match place.fs.make(&place.inode, &last.name, create) {
            Err(Error::Exists) => (place.fs.lookup(&place.inode, &last.name)?, false),
            made => (made?, true),
        };
        Ok((Node::Inode(Place { inode: made.0, fs: place.fs.clone() }), made.1))
    }
    /// Make a file without a name in a directory, which can be given one later if
    /// `linkable`.
    ///
    /// # Errors
    /// Linux's.
    pub fn make_unnamed(&self, dir: &Node, create: &Create<'_>, linkable: bool) -> Result<Node> {
        if dir.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        let Some(place) = dir.place() else {
            return Err(Error::NotSupported("no file system holds this directory"));
        };
        let inode = place.fs.make_unnamed(&place.inode, create, linkable)?;
        Ok(Node::Inode(Place { inode, fs: place.fs.clone() }))
    }
    /// Give what `node` is another name.
    ///
    /// # Errors
    /// Linux's.
    pub fn link(&self, node: &Node, base: &Resolved, path: &[u8]) -> Result<()> {
        let last = self.resolve_parent(base, path)?;
        let place = last.place_for_new(self, false)?;
        match node {
            Node::Inode(from) if Arc::ptr_eq(&from.fs, &place.fs) => {
                place.fs.link(&from.inode, &place.inode, &last.name)
            }
            _ => Err(Error::CrossDevice),
        }
    }
    /// Remove the name of what is no directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn unlink(&self, base: &Resolved, path: &[u8]) -> Result<()> {
        let last = self.resolve_parent(base, path)?;
        if !last.is_name() {
            return Err(Error::IsDirectory);
        }
        if last.slash {
            let found = self.step(&last.dir.node, &last.name)?;
            let directory = found.file_type() == FileType::Directory;
            return Err(if directory { Error::IsDirectory } else { Error::NotDirectory });
        }
        match last.refuse_devices(self) {
            Err(Error::Busy) if last.is_devices() => return Err(Error::IsDirectory),
            other => other?,
        }
        let place = last.place()?;
        place.fs.unlink(&place.inode, &last.name)
    }
    /// Remove an empty directory.
    ///
    /// # Errors
    /// Linux's.
    pub fn rmdir(&self, base: &Resolved, path: &[u8]) -> Result<()> {
        let last = self.resolve_parent(base, path)?;
        match last.dots() {
            Dots::Name => {}
            Dots::Dot => return Err(Error::Invalid("the last component is '.'")),
            Dots::DotDot => return Err(Error::NotEmpty),
            Dots::Root => return Err(Error::Busy),
        }
        match last.refuse_devices(self) {
            Err(Error::Busy) if !last.is_devices() => return Err(Error::NotDirectory),
            other => other?,
        }
        let place = last.place()?;
        place.fs.rmdir(&place.inode, &last.name)
    }
    /// Move a name.
    ///
    /// # Errors
    /// Linux's.
    pub fn rename(
        &self,
        from: (&Resolved, &[u8]),
        to: (&Resolved, &[u8]),
        flags: RenameFlags,
    ) -> Result<()> {
        let replace = flags.contains(RenameFlags::NOREPLACE);
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let unknown = flags.bits() & !RenameFlags::all().bits() != 0;
        if unknown || (exchange && flags != RenameFlags::EXCHANGE) {
            return Err(Error::Invalid("no such combination of flags"));
        }
        let (old, new) = (self.resolve_parent(from.0, from.1)?, self.resolve_parent(to.0, to.1)?);
        if !old.is_name() {
            return Err(Error::Busy);
        }
        if !new.is_name() {
            return Err(if replace { Error::Exists } else { Error::Busy });
        }
        let (from, to) = (old.place()?, new.place()?);
        if !Arc::ptr_eq(&from.fs, &to.fs) {
            return Err(Error::CrossDevice);
        }
        old.refuse_devices(self)?;
        match new.refuse_devices(self) {
            Err(Error::NotFound) => {}
            other => other?,
        }
        let moved = super::change::Move {
            from: &from.inode,
            from_name: &old.name,
            from_slash: old.slash,
            to: &to.inode,
            to_name: &new.name,
            to_slash: new.slash,
            flags,
        };
        from.fs.rename(&moved)
    }
}

impl Node {
    /// The file system and inode whose attributes can be changed.
    ///
    /// # Errors
    /// A node that no file system holds.
    pub(crate) fn changeable(&self) -> Result<(&Place, &Arc<Inode>)> {
        match self {
            Self::Inode(place) => Ok((place, &place.inode)),
            _ => Err(Error::NotPermitted("no file system holds this node")),
        }
    }
}
