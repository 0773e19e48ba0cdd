//! Pointers to parents: for each of its names an inode has an attribute that says which
//! directory the name is in. They change in the transaction that changes the names, so
//! that a crash never leaves one without the other.
//!
//! The attribute is called as the name is; its value is the directory's number and
//! generation. Several can have one name, in different directories.
//!
//! Where the file system keeps no such pointers, there is no [`Pointer`] to do anything
//! with, and nothing to be reserved.

use super::boundary::{first_boundary, fork_bytes};
use super::change::Key;
use super::operate::{make_fork, note_attributes, space_for_fork, with_attrs};
use crate::error::Result;
use crate::xfs::bmap::TreeLimits;
use crate::xfs::da::most_blocks;
use crate::xfs::geometry::Geometry;
use crate::xfs::inode::{Fork, ForkExtents, ForkKind};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::ondisk::attr_leaf::PARENT;
use crate::xfs::ondisk::attr_sf::{EntryHead, Header};
use crate::xfs::ondisk::inode::{Format, InodeCore};
use crate::xfs::ondisk::superblock::Incompat;
use crate::xfs::trans::Trans;

/// Bytes of a pointer: the directory's number, its generation.
pub(in crate::xfs) const VALUE_BYTES: usize = 12;

/// Does the file system have pointers to parents?
pub(in crate::xfs) const fn kept(geometry: &Geometry) -> bool {
    geometry.incompat.contains(Incompat::PARENT)
}

/// The pointer that belongs to a name in a directory.
#[derive(Clone, Copy)]
pub(in crate::xfs) struct Pointer<'a> {
    name: &'a [u8],
    value: [u8; VALUE_BYTES],
}

impl<'a> Pointer<'a> {
    /// That of the name `name` in `dp`, if the file system keeps pointers.
    pub(in crate::xfs) fn new(dp: &LockedInode<'_>, name: &'a [u8]) -> Option<Self> {
        if !kept(dp.inode().mount().geometry()) {
            return None;
        }
        let mut value = [0; VALUE_BYTES];
        value[..8].copy_from_slice(&dp.ino().0.to_be_bytes());
        value[8..].copy_from_slice(&dp.core.generation.to_be_bytes());
        Some(Self { name, value })
    }
    const fn key(&self) -> Key<'_> {
        Key { namespace: PARENT, name: self.name, value: Some(&self.value) }
    }
    const fn bytes(&self) -> usize {
        EntryHead::SIZE + self.name.len() + VALUE_BYTES
    }
    /// An inode gets the name. Needs [`space_for_add`] blocks, of a new inode
    /// [`space_for_first`].
    ///
    /// # Errors
    /// I/O errors, damage.
    pub(in crate::xfs) fn add(&self, tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
        ip.load(ForkKind::Attr)?;
        if ip.attr.is_none() {
            make_fork(tp, ip, Header::SIZE + self.bytes())?;
        } else {
            note_attributes(tp)?;
        }
        with_attrs(tp, ip, |attrs| attrs.set(self.key(), &self.value))
    }
    /// An inode loses the name. Needs [`space_for_remove`] blocks.
    ///
    /// # Errors
    /// [`Error::NoAttribute`](crate::Error::NoAttribute), which [`Pointer::check`]
    /// excludes; I/O errors, damage.
    pub(in crate::xfs) fn remove(
        &self,
        tp: &mut Trans<'_>,
        ip: &mut LockedInode<'_>,
    ) -> Result<()> {
        with_attrs(tp, ip, |attrs| attrs.remove(self.key()))
    }
    /// The name of an inode becomes another. Needs [`space_for_add`] blocks.
    ///
    /// # Errors
    /// I/O errors, damage.
    pub(in crate::xfs) fn replace(
        &self,
        tp: &mut Trans<'_>,
        ip: &mut LockedInode<'_>,
        new: &Pointer<'_>,
    ) -> Result<()> {
        with_attrs(tp, ip, |attrs| attrs.replace(self.key(), new.key(), &new.value))
    }
    /// The pointer has to be there: asked before anything is changed.
    ///
    /// # Errors
    /// It is not; I/O errors, damage.
    pub(in crate::xfs) fn check(&self, tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
        ip.load(ForkKind::Attr)?;
        if ip.attr.is_some() && with_attrs(tp, ip, |attrs| attrs.contains(self.key()))? {
            return Ok(());
        }
        let name = alloc::string::String::from_utf8_lossy(self.name);
        let reason = alloc::format!("it has no pointer to the parent for its name {name:?}");
        Err(ip.inode().corrupt(reason))
    }
}

/// Blocks that must be reserved to add a pointer, or to replace one by another: at worst
/// a block on each level of the tree and what no longer fits into the inode; and one
/// extent of the fork is cut in two.
pub(in crate::xfs) fn space_for_add(geometry: &Geometry) -> u64 {
    match kept(geometry) {
        true => most_blocks(geometry, 0, 1) + space_for_fork(geometry) + space_for_remove(geometry),
        false => 0,
    }
}

/// Blocks that must be reserved for the first pointer of a new inode: there is nothing
/// else yet, and a leaf has room for any.
pub(in crate::xfs) const fn space_for_first(geometry: &Geometry) -> u64 {
    if kept(geometry) { 1 } else { 0 }
}

/// Blocks that must be reserved to remove a pointer.
pub(in crate::xfs) fn space_for_remove(geometry: &Geometry) -> u64 {
    if kept(geometry) { TreeLimits::new(geometry).one_more() } else { 0 }
}

/// Give a new inode the fork in which pointers will be.
pub(in crate::xfs) fn prepare(core: &mut InodeCore, geometry: &Geometry) -> Option<Fork> {
    if !kept(geometry) {
        return None;
    }
    core.attr_format = Some(Format::Extents);
    core.data_fork_bytes = first_boundary(core.format);
    Some(Fork::Extents(ForkExtents::default()))
}

/// Bytes that the data fork of a new inode has if it takes this form.
pub(in crate::xfs) fn new_data_bytes(geometry: &Geometry, format: Format) -> usize {
    if kept(geometry) { first_boundary(format) } else { fork_bytes(geometry) }
}

/// Is there room for the pointer in a new inode whose data fork takes this form?
pub(in crate::xfs) fn fits_new(geometry: &Geometry, format: Format, name: &[u8]) -> bool {
    let used = Header::SIZE + EntryHead::SIZE + name.len() + VALUE_BYTES;
    !kept(geometry) || used <= fork_bytes(geometry) - first_boundary(format)
}

/// Is there room for a pointer in the inode as it is? Where no blocks can be reserved
/// nothing else will do.
pub(in crate::xfs) fn fits_inline(ip: &LockedInode<'_>, name: &[u8]) -> bool {
    let geometry = ip.inode().mount().geometry();
    if !kept(geometry) {
        return true;
    }
    let used = match &ip.attr {
        Some(Fork::Local(bytes)) => bytes.len(),
        Some(Fork::Extents(extents)) if extents.list.is_empty() => Header::SIZE,
        _ => return false,
    };
    let room = fork_bytes(geometry) - ip.core.data_fork_bytes;
    used + EntryHead::SIZE + name.len() + VALUE_BYTES <= room
}
