//! Extended attributes: one value, all names, changes.
//!
//! | form | where |
//! |------|-------|
//! | shortform | in the inode |
//! | leaf | in one block with a hash index |
//! | node | in leaves below a hash tree |
//! | remote value | in blocks of its own, from any leaf |
//!
//! On disk the namespace is a flag; in names it is a prefix. Access control lists are
//! attributes of the namespace "trusted" that Linux also shows, in another format, as
//! `system.posix_acl_access` and `system.posix_acl_default` (`acl`). Pointers to a
//! file's parents are attributes too, and never shown.
//!
//! | file | |
//! |------|--|
//! | here, `value` | reading: one value, all names |
//! | `operate` | setting and removing: whole operations |
//! | `acl` | access control lists: formats and rules |
//! | `permissions` | the same as attributes that go with the mode, and are inherited |
//! | `parent` | pointers to parents, changed with the names |
//! | `recover` | changes that a crash of Linux left unfinished |
//! | `change` | the same for any address space: form by form |
//! | `leaf` | changing leaves: bytes |
//! | `boundary` | where in the inode the fork starts |
//!
//! Locks: `ILOCK`, shared by readers, exclusive while attributes change.

mod acl;
mod boundary;
mod change;
mod leaf;
mod operate;
pub(in crate::xfs) mod parent;
mod permissions;
mod recover;
#[cfg(test)]
mod tests;
mod value;

pub(in crate::xfs) use boundary::boundary_for;
pub(in crate::xfs) use operate::remove_all;
pub(in crate::xfs) use permissions::{AfterChmod, Inherited};
pub(in crate::xfs) use recover::{finish_change, logged};

use alloc::sync::Arc;
use alloc::vec::Vec;

use acl::Purpose;

use super::buf::Buffer;
use super::da::{Space, hash_name};
use super::dir::fold_case;
use super::inode::{Fork, ForkKind, Inode, Locked};
use super::ondisk::attr_leaf::{INCOMPLETE, Leaf, NAMESPACE, PARENT, ROOT, SECURE, Value};
use super::ondisk::block::BlockKind;
use super::ondisk::{attr_sf, be64};
use super::types::FileType;
use crate::error::{Error, Result};

const LEAVES: &[BlockKind] = &[BlockKind::AttrLeaf];
const LEAVES_AND_NODES: &[BlockKind] = &[BlockKind::AttrLeaf, BlockKind::DaNode];
/// File blocks of an attribute fork have 32-bit numbers.
const SPACE_BLOCKS: u64 = 1 << 32;
/// The longest name, without its prefix.
const NAME_MAX: usize = 255;

/// A name as the disk has it.
#[derive(Clone, Copy)]
struct DiskName<'a> {
    /// The flags that are part of it.
    namespace: u8,
    name: &'a [u8],
}

/// Prefixes and their flags.
const NAMESPACES: [(&[u8], u8); 3] = [(b"user.", 0), (b"trusted.", ROOT), (b"security.", SECURE)];

impl<'a> DiskName<'a> {
    /// Split a full name.
    fn parse(full: &'a [u8]) -> Result<Self> {
        for (prefix, namespace) in NAMESPACES {
            if let Some(name) = full.strip_prefix(prefix) {
                if name.is_empty() {
                    return Err(Error::Invalid("an attribute name that is only a prefix"));
                }
                if name.len() > NAME_MAX {
                    return Err(Error::Range);
                }
                return Ok(Self { namespace, name });
            }
        }
        Err(Error::NotSupported("no such attribute namespace"))
    }
    fn matches(&self, flags: u8, name: &[u8]) -> bool {
        flags & NAMESPACE == self.namespace && flags & INCOMPLETE == 0 && name == self.name
    }
}

/// A value found, or where to get it.
enum Found {
    Here(Vec<u8>),
    Remote { block: u32, length: u32 },
}

impl Inode {
    fn attr_space<'a>(&'a self, locked: &'a Locked<'a>) -> Space<'a> {
        Space {
            inode: self,
            locked,
            block_blocks: 1,
            tree: 0..SPACE_BLOCKS,
            leaves: LEAVES,
            leaves_and_nodes: LEAVES_AND_NODES,
            name: "attribute fork",
        }
    }
    /// The value of an attribute, by its full name ("user.x").
    ///
    /// # Errors
    /// [`Error::NoAttribute`]; [`Error::NotSupported`] for unknown namespaces; I/O errors
    /// and damage.
    pub fn getxattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        if let Some(purpose) = Purpose::of_shown(name) {
            if self.file_type() == FileType::Symlink {
                return Err(Error::NotSupported("a symbolic link has no access control list"));
            }
            return Ok(self.list(purpose)?.ok_or(Error::NoAttribute)?.to_program());
        }
        self.get_attr(DiskName::parse(name)?)
    }
    fn get_attr(&self, name: DiskName<'_>) -> Result<Vec<u8>> {
        let locked = self.lock(ForkKind::Attr)?;
        let space = self.attr_space(&locked);
        let found = match locked.fork() {
            None => None,
            Some(Fork::Local(bytes)) => self.find_shortform(bytes, name)?,
            Some(_) if locked.extents().is_empty() => None,
            Some(_) => find_indexed(&space, name)?,
        };
        match found.ok_or(Error::NoAttribute)? {
            Found::Here(value) => Ok(value),
            Found::Remote { block, length } => value::read(&space, block, length),
        }
    }
    fn find_shortform(&self, bytes: &[u8], name: DiskName<'_>) -> Result<Option<Found>> {
        let view = attr_sf::View::new(bytes).map_err(|r| self.corrupt(r))?;
        for entry in view.entries() {
            let entry = entry.map_err(|r| self.corrupt(r))?;
            if name.matches(entry.flags, entry.name) {
                return Ok(Some(Found::Here(entry.value.to_vec())));
            }
        }
        Ok(None)
    }
    /// The full names of all attributes; pointers to parents are left out.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn listxattr(&self) -> Result<Vec<Vec<u8>>> {
        let locked = self.lock(ForkKind::Attr)?;
        let mut names = Vec::new();
        match locked.fork() {
            None => {}
            Some(Fork::Local(bytes)) => {
                let view = attr_sf::View::new(bytes).map_err(|r| self.corrupt(r))?;
                for entry in view.entries() {
                    let entry = entry.map_err(|r| self.corrupt(r))?;
                    add_name(&mut names, entry.flags, entry.name)?;
                }
            }
            Some(_) if locked.extents().is_empty() => {}
            Some(_) => list_indexed(&self.attr_space(&locked), &mut names)?,
        }
        Ok(names)
    }
}

/// Add the name or names under which an attribute is shown.
fn add_name(names: &mut Vec<Vec<u8>>, flags: u8, name: &[u8]) -> Result<()> {
    if flags & (PARENT | INCOMPLETE) != 0 {
        return Ok(());
    }
    let wanted = flags & NAMESPACE;
    let Some((prefix, _)) = NAMESPACES.iter().find(|(_, namespace)| *namespace == wanted) else {
        // Two namespaces at once: Linux shows it under none.
        return Ok(());
    };
    names.try_reserve(2).map_err(|_| Error::NoMemory)?;
    if let Some(shown) = (wanted == ROOT).then(|| acl::shown_name(name)).flatten() {
        names.push(shown.to_vec());
    }
    names.push([prefix, name].concat());
    Ok(())
}

/// The hash that an attribute is filed under: of its name. A pointer to a parent is filed
/// under what its directory files the name under, and the directory's number.
pub(in crate::xfs) fn hash_of(flags: u8, name: &[u8], value: &[u8], ignore_case: bool) -> u32 {
    let bytes = name.iter().copied();
    if flags & PARENT == 0 {
        return hash_name(bytes);
    }
    let hash = if ignore_case { hash_name(bytes.map(fold_case)) } else { hash_name(bytes) };
    let directory = be64(value, 0).unwrap_or(0);
    hash ^ (directory >> 32) as u32 ^ directory as u32
}

fn leaf_backward(block: &[u8]) -> Option<u32> {
    Leaf::new(block).map(|leaf| leaf.backward)
}

fn find_indexed(space: &Space<'_>, name: DiskName<'_>) -> Result<Option<Found>> {
    let hash = hash_name(name.name.iter().copied());
    let mut leaf = space.descend(Some(hash))?;
    // Names of one hash can go on in the next leaves.
    for _ in 0..space.most_leaves() {
        let Some((at, buffer)) = leaf else { return Ok(None) };
        let contents = buffer.read();
        let Some(view) = Leaf::new(&contents) else { return Ok(None) };
        for i in 0..view.count {
            match view.hash(i) {
                Some(h) if h < hash => continue,
                Some(h) if h > hash => return Ok(None),
                _ => {}
            }
            let Some(entry) = view.entry(i) else { return Ok(None) };
            if name.matches(entry.flags, entry.name) {
                return Ok(Some(match entry.value {
                    Value::Local(value) => Found::Here(value.to_vec()),
                    Value::Remote { block, length } => Found::Remote { block, length },
                }));
            }
        }
        let forward = view.forward;
        drop(contents);
        leaf = space.next_leaf(at, forward, leaf_backward)?;
    }
    Err(space.endless(0).into())
}

fn list_indexed(space: &Space<'_>, names: &mut Vec<Vec<u8>>) -> Result<()> {
    let mut leaf: Option<(u64, Arc<Buffer>)> = space.descend(None)?;
    for _ in 0..space.most_leaves() {
        let Some((at, buffer)) = leaf else { return Ok(()) };
        let contents = buffer.read();
        let Some(view) = Leaf::new(&contents) else { return Ok(()) };
        for entry in (0..view.count).filter_map(|i| view.entry(i)) {
            add_name(names, entry.flags, entry.name)?;
        }
        let forward = view.forward;
        drop(contents);
        leaf = space.next_leaf(at, forward, leaf_backward)?;
    }
    if leaf.is_some() { Err(space.endless(0).into()) } else { Ok(()) }
}
