//! Setting and removing attributes: whole operations with transactions of their own.

use super::acl::Purpose;
use super::boundary::{fork_bytes, new_boundary};
use super::change::{Attrs, Key, is_remote, value_blocks};
use super::leaf;
use super::{DiskName, parent};
use crate::block::Sector;
use crate::error::{Error, Result};
use crate::xfs::bmap::{self, TreeLimits};
use crate::xfs::da::{ForkStore, Siblings, Store, most_blocks};
use crate::xfs::dir;
use crate::xfs::geometry::Geometry;
use crate::xfs::inode::{Fork, ForkExtents, ForkKind, Inode};
use crate::xfs::inode_item::{LockedInode, LogFields};
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::attr_leaf::{MAX_VALUE, ROOT};
use crate::xfs::ondisk::attr_sf::{EntryHead, Header};
use crate::xfs::ondisk::be16;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inode::Format;
use crate::xfs::ondisk::superblock::{VERSION_AT, version};
use crate::xfs::reservation::Reservation;
use crate::xfs::symlink;
use crate::xfs::trans::Trans;
use crate::xfs::types::{FileBlock, FileType, FsBlock};

/// The attribute must not be there.
const CREATE: u32 = 1;
/// The attribute must be there.
const REPLACE: u32 = 2;
/// Blocks of a large fork that are freed in one transaction.
const BATCH: u64 = 64;
/// Bytes of log that an extent of a value costs besides the trees' blocks.
const EXTENT_LOG_BYTES: u32 = 256;

impl Inode {
    /// Set an attribute by its full name ("user.x"). `flags`: 1, it must not be there;
    /// 2, it must be there. `IOLOCK` is held exclusive.
    ///
    /// # Errors
    /// The file is immutable or append-only; [`Error::Exists`], [`Error::NoAttribute`] as
    /// `flags` say; those of a list that cannot be; [`Error::TooLong`] for
    /// values above 64 KiB, [`Error::Range`] for names above 255 bytes;
    /// [`Error::NotSupported`] for unknown namespaces; no space, I/O errors, damage, shut
    /// down.
    pub fn setxattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.check_changeable()?;
        if value.len() > MAX_VALUE as usize {
            return Err(Error::TooLong);
        }
        if flags & !(CREATE | REPLACE) != 0 || flags == CREATE | REPLACE {
            return Err(Error::Invalid("both or unknown flags for an attribute"));
        }
        if let Some(purpose) = Purpose::of_shown(name) {
            // What is there is replaced, whatever the flags say.
            return self.set_list(purpose, Some(value));
        }
        self.set_attr(key_of(name)?, value, flags, None)
    }
    /// Set an attribute and, if one is given, the mode.
    pub(super) fn set_attr(
        &self,
        key: Key<'_>,
        value: &[u8],
        flags: u32,
        mode: Option<u16>,
    ) -> Result<()> {
        if key.namespace == ROOT {
            self.note_default_acl(true);
        }
        let mount = self.mount();
        let (reservation, blocks) = cost(mount, key, value);
        loop {
            if self.lock(ForkKind::Attr)?.fork().is_none() {
                if flags & REPLACE != 0 {
                    return Err(Error::NoAttribute);
                }
                add_fork(self, key, value)?;
            }
            let mut tp = mount.begin(reservation, blocks)?;
            let mut ip = self.lock_exclusive();
            ip.load(ForkKind::Attr)?;
            if ip.attr.is_none() {
                // Somebody else removed the last one.
                continue;
            }
            set(&mut tp, &mut ip, key, value, flags)?;
            let now = tp.now();
            let core = ip.core_mut();
            core.mode = mode.unwrap_or(core.mode);
            core.ctime = now;
            tp.commit(&mut [&mut ip])?;
            return Ok(());
        }
    }
    /// Remove an attribute by its full name.
    ///
    /// # Errors
    /// [`Error::NoAttribute`]; [`Error::NotSupported`] for unknown namespaces; I/O errors,
    /// damage, shut down.
    pub fn removexattr(&self, name: &[u8]) -> Result<()> {
        self.check_changeable()?;
        match Purpose::of_shown(name) {
            Some(purpose) => self.set_list(purpose, None),
            None => self.remove_attr(key_of(name)?, None),
        }
    }
    /// Remove an attribute and, if one is given, set the mode.
    pub(super) fn remove_attr(&self, key: Key<'_>, mode: Option<u16>) -> Result<()> {
        let mount = self.mount();
        let blocks = TreeLimits::new(mount.geometry()).one_more() + 1;
        let mut tp = begin_removal(mount, blocks)?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Attr)?;
        if ip.attr.is_none() {
            return Err(Error::NoAttribute);
        }
        let empty = with_attrs(&mut tp, &mut ip, |attrs| {
            attrs.remove(key)?;
            Ok(attrs.is_empty())
        })?;
        if empty && can_drop_fork(&ip) {
            drop_fork(&mut ip);
        }
        let now = tp.now();
        let core = ip.core_mut();
        core.mode = mode.unwrap_or(core.mode);
        core.ctime = now;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
}

fn key_of(name: &[u8]) -> Result<Key<'_>> {
    let DiskName { namespace, name } = DiskName::parse(name)?;
    Ok(Key::named(namespace, name))
}

/// Change attributes within a transaction.
pub(super) fn with_attrs<R>(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    change: impl FnOnce(&mut Attrs<'_, ForkStore<'_, '_, '_>>) -> Result<R>,
) -> Result<R> {
    let ignore_case = tp.mount().geometry().ascii_ci;
    let mut store = ForkStore::attributes(tp, ip)?;
    change(&mut Attrs { s: &mut store, ignore_case })
}

fn set(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    key: Key<'_>,
    value: &[u8],
    flags: u32,
) -> Result<()> {
    with_attrs(tp, ip, |attrs| match (attrs.contains(key)?, flags) {
        (true, CREATE) => Err(Error::Exists),
        (false, REPLACE) => Err(Error::NoAttribute),
        _ => attrs.set(key, value),
    })
}

/// Log and blocks that setting an attribute can need.
pub(super) fn cost(mount: &Mount, key: Key<'_>, value: &[u8]) -> (Reservation, u64) {
    let geometry = mount.geometry();
    let limits = TreeLimits::new(geometry);
    let remote = is_remote(geometry.block_bytes(), key.name.len(), value.len());
    let own = if remote { value_blocks(geometry.block_bytes(), value.len()) } else { 0 };
    // The tree, the value, and the data fork when it has to make room.
    let blocks = most_blocks(geometry, 0, 1) + own + limits.worst(own) + limits.one_more();
    let mut reservation = mount.reservations().attr_set;
    reservation.bytes += own as u32 * EXTENT_LOG_BYTES;
    (reservation, blocks)
}

/// Start a transaction that frees more than it takes: it has to work on a file system
/// that is full.
pub(super) fn begin_removal(mount: &Mount, blocks: u64) -> Result<Trans<'_>> {
    let reservation = mount.reservations().attr_remove;
    match mount.begin(reservation, blocks) {
        Err(Error::NoSpace) => mount.begin(reservation, 0),
        other => other,
    }
}

/// Add an attribute fork, with room for this attribute if that can be.
fn add_fork(inode: &Inode, key: Key<'_>, value: &[u8]) -> Result<()> {
    let mount = inode.mount();
    let bytes = Header::SIZE + EntryHead::SIZE + key.name.len() + value.len();
    let mut reservation = mount.reservations().addafork;
    reservation.bytes += mount.reservations().superblock.bytes;
    let mut tp = mount.begin(reservation, space_for_fork(mount.geometry()))?;
    let mut ip = inode.lock_exclusive();
    ip.load(ForkKind::Data)?;
    if ip.attr.is_some() {
        return Ok(());
    }
    make_fork(&mut tp, &mut ip, bytes)?;
    let now = tp.now();
    ip.core_mut().ctime = now;
    tp.commit(&mut [&mut ip])?;
    Ok(())
}

/// Give an inode without one an attribute fork, with room for `bytes` if that can be.
/// Needs [`space_for_fork`] blocks.
pub(super) fn make_fork(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, bytes: usize) -> Result<()> {
    ip.load(ForkKind::Data)?;
    let boundary = new_boundary(ip, bytes);
    if matches!(&ip.data, Fork::Local(bytes) if bytes.len() > boundary) {
        if ip.inode().file_type() == FileType::Directory {
            dir::move_out(tp, ip)?;
        } else {
            symlink::move_out(tp, ip)?;
        }
    }
    ip.bump_sequence(ForkKind::Attr);
    ip.attr = Some(Fork::Extents(ForkExtents::default()));
    ip.inode().note_default_acl(true);
    let core = ip.core_mut();
    core.attr_format = Some(Format::Extents);
    core.attr_extents = 0;
    bmap::move_boundary(tp, ip, boundary)?;
    ip.mark(LogFields::CORE | LogFields::DATA | LogFields::ATTR);
    note_attributes(tp)
}

/// See that the superblock says there are attributes.
pub(super) fn note_attributes(tp: &mut Trans<'_>) -> Result<()> {
    let bytes = tp.mount().geometry().sector_bytes() as u32;
    let buffer = tp.read(Sector(0), bytes, BlockKind::Superblock)?;
    let bits = be16(&buffer.read(), VERSION_AT).unwrap_or(0);
    if bits & version::ATTRIBUTES == 0 {
        tp.edit(&buffer).set_be16(VERSION_AT, bits | version::ATTRIBUTES);
    }
    Ok(())
}

/// Blocks that adding a fork can need: for what no longer fits into the inode.
pub(super) fn space_for_fork(geometry: &Geometry) -> u64 {
    let limits = TreeLimits::new(geometry);
    geometry.dir_block_blocks() + limits.worst(geometry.dir_block_blocks()) + 2
}

/// May the data fork have all of the inode? The root of a tree stays as it is; and a link
/// whose target would fit into the inode then, but lies in blocks, is taken for damaged
/// by xfs_repair.
fn can_drop_fork(ip: &LockedInode<'_>) -> bool {
    let both = fork_bytes(ip.inode().mount().geometry()) as u64;
    let is_link = ip.inode().file_type() == FileType::Symlink;
    if parent::kept(ip.inode().mount().geometry()) {
        // The next name needs it again.
        return false;
    }
    match ip.core.format {
        Format::Btree => false,
        Format::Extents => !is_link || ip.core.size > both,
        Format::Device | Format::Local => true,
    }
}

/// The attribute fork, in which nothing is, is no more.
fn drop_fork(ip: &mut LockedInode<'_>) {
    let both = fork_bytes(ip.inode().mount().geometry());
    ip.bump_sequence(ForkKind::Attr);
    ip.attr = None;
    let core = ip.core_mut();
    core.attr_format = None;
    core.attr_extents = 0;
    core.data_fork_bytes = both;
    ip.mark(LogFields::CORE | LogFields::DATA | LogFields::ATTR);
}

/// Free all attributes of an inode that is going away, and their fork.
///
/// # Errors
/// I/O errors, damage, shut down.
pub(in crate::xfs) fn remove_all(inode: &Inode) -> Result<()> {
    while !remove_some(inode)? {}
    Ok(())
}

/// Free some blocks of a fork, from its end on; true when it is gone.
fn remove_some(inode: &Inode) -> Result<bool> {
    let mount = inode.mount();
    let mut tp = begin_removal(mount, TreeLimits::new(mount.geometry()).one_more())?;
    let mut ip = inode.lock_exclusive();
    ip.load(ForkKind::Attr)?;
    if ip.attr.is_none() {
        return Ok(true);
    }
    let extents = bmap::extents_of(&ip, ForkKind::Attr);
    let blocks: u64 = extents.iter().map(|e| u64::from(e.count)).sum();
    let end = extents.end().0;
    let last = blocks <= BATCH;
    let mut gone: alloc::vec::Vec<(u64, FsBlock)> = extents
        .iter()
        .flat_map(|e| {
            (0..u64::from(e.count)).map(move |i| (e.offset.0 + i, FsBlock(e.block.0 + i)))
        })
        .collect();
    if !last {
        // Whoever finds the inode after a crash sees a fork that is sound, and empty.
        let (first, root) = gone[0];
        if first != 0 {
            return Err(inode.corrupt("its attribute fork has no first block".into()));
        }
        empty_root(&mut tp, &mut ip, root)?;
        gone.drain(..gone.len() - BATCH as usize);
    }
    let start = gone.first().map_or(end, |(at, _)| *at);
    for (_, block) in &gone {
        // Nothing is read: it is only to be known that its contents mean nothing.
        let buffer = tp.create_block(*block, BlockKind::AttrLeaf)?;
        tp.invalidate(&buffer);
    }
    if end > 0 {
        let range = FileBlock(start)..FileBlock(end);
        bmap::unmap(&mut tp, &mut ip, ForkKind::Attr, range, BATCH as u32)?;
    }
    if last {
        drop_fork(&mut ip);
    }
    tp.commit(&mut [&mut ip])?;
    Ok(last)
}

/// The first block of the fork becomes a leaf without attributes.
fn empty_root(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, root: FsBlock) -> Result<()> {
    let buffer = tp.create_block(root, BlockKind::AttrLeaf)?;
    let mut store = ForkStore::attributes(tp, ip)?;
    let id = store.identity(&buffer);
    store.edit(&buffer, |c| leaf::init(c, &id, Siblings::default(), &[]));
    Ok(())
}
