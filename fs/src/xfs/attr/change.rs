//! Setting and removing attributes, whatever the form.
//!
//! ```text
//! set:    shortform -> leaf -> node      when it does not fit any more
//! remove: shortform <- leaf <- node      as soon as it fits
//! ```
//! All of it happens in one transaction. A value in blocks of its own is written before
//! that commits: it becomes visible when it is on the disk, and what it replaces goes at
//! the same moment. So none of our attributes is ever marked as half made; those that
//! Linux left so after a crash are removed when they are met.

use alloc::vec::Vec;

use super::hash_of;
use super::leaf::{self, Item};
use crate::error::{Error, Result};
use crate::xfs::da::{Path, Siblings, Store, Tree};
use crate::xfs::ondisk::attr_leaf::{INCOMPLETE, Leaf, NAMESPACE, Value, local_bytes};
use crate::xfs::ondisk::attr_remote::room;
use crate::xfs::ondisk::attr_sf::{EntryHead, Header, View};
use crate::xfs::ondisk::block::BlockKind;

/// The longest name or value in the inode.
const SMALL_MAX: usize = 255;

/// What an attribute is found by.
#[derive(Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) namespace: u8,
    pub(super) name: &'a [u8],
    /// Pointers to parents are found by what they point to as well: a file can have one
    /// name in several directories.
    pub(super) value: Option<&'a [u8]>,
}

impl<'a> Key<'a> {
    /// An attribute that its name alone identifies.
    pub(super) const fn named(namespace: u8, name: &'a [u8]) -> Self {
        Self { namespace, name, value: None }
    }
    fn is(&self, flags: u8, name: &[u8], value: Option<&[u8]>) -> bool {
        leaf::is_of(flags, self.namespace)
            && name == self.name
            && (self.value.is_none() || value == self.value)
    }
    fn is_small(&self, entry: &(u8, &[u8], &[u8])) -> bool {
        self.is(entry.0, entry.1, Some(entry.2))
    }
}

/// Where an attribute was found.
struct Found<B> {
    path: Path<B>,
    index: usize,
    /// Its value's first block and length, if that is not in the leaf.
    remote: Option<(u32, u32)>,
}

/// Is the attribute with these flags, name, and value, if that is in the leaf, meant?
type IsMeant<'f> = &'f dyn Fn(u8, &[u8], Option<&[u8]>) -> bool;

/// An attribute fork being changed.
pub(super) struct Attrs<'s, S: Store> {
    pub(super) s: &'s mut S,
    /// Directories take names that differ in case only for one; their hashes say so.
    pub(super) ignore_case: bool,
}

const TREE: Tree = Tree {
    places: 0..super::SPACE_BLOCKS,
    leaf: super::LEAVES,
    root: super::LEAVES_AND_NODES,
    last_hash: leaf::last_hash,
    used: leaf::used,
    merge: leaf::merge,
};

/// Has a value of this length blocks of its own?
pub(super) const fn is_remote(block_bytes: usize, name: usize, value: usize) -> bool {
    local_bytes(name, value) >= block_bytes / 2 + block_bytes / 4
}

/// Blocks of a value that has its own.
pub(super) const fn value_blocks(block_bytes: usize, value: usize) -> u64 {
    value.div_ceil(room(block_bytes)) as u64
}

/// The attributes of a small fork, in order: namespace and flags, name, value.
type Small<'a> = Vec<(u8, &'a [u8], &'a [u8])>;

fn small_bytes(small: &Small<'_>) -> usize {
    let entry = |(_, name, value): &(u8, &[u8], &[u8])| EntryHead::SIZE + name.len() + value.len();
    Header::SIZE + small.iter().map(entry).sum::<usize>()
}

fn encode(small: &Small<'_>) -> Vec<u8> {
    let total = small_bytes(small);
    let mut bytes = Vec::with_capacity(total);
    bytes.extend_from_slice(&(total as u16).to_be_bytes());
    bytes.extend_from_slice(&[small.len() as u8, 0]);
    for (flags, name, value) in small {
        bytes.extend_from_slice(&[name.len() as u8, value.len() as u8, *flags]);
        bytes.extend_from_slice(name);
        bytes.extend_from_slice(value);
    }
    bytes
}

impl<S: Store> Attrs<'_, S> {
    fn hash(&self, key: Key<'_>) -> u32 {
        hash_of(key.namespace, key.name, key.value.unwrap_or(&[]), self.ignore_case)
    }
    fn has_blocks(&self) -> bool {
        self.s.end_before(super::SPACE_BLOCKS) > 0
    }
    /// Is nothing in the fork?
    pub(super) fn is_empty(&self) -> bool {
        match self.s.local() {
            Some(bytes) => bytes.get(2) == Some(&0),
            None => !self.has_blocks(),
        }
    }
    /// Is the attribute there?
    pub(super) fn contains(&mut self, key: Key<'_>) -> Result<bool> {
        if let Some(bytes) = self.s.local() {
            return Ok(self.decode(bytes)?.iter().any(|e| key.is_small(e)));
        }
        Ok(self.has_blocks() && self.find(key)?.is_some())
    }
    fn decode<'b>(&self, bytes: &'b [u8]) -> Result<Small<'b>> {
        let corrupt = |r| self.s.corrupt(0, r);
        let view = View::new(bytes).map_err(corrupt)?;
        let mut small = Vec::new();
        for entry in view.entries() {
            let e = entry.map_err(corrupt)?;
            small.push((e.flags, e.name, e.value));
        }
        Ok(small)
    }
    /// Set an attribute that may be there.
    pub(super) fn set(&mut self, key: Key<'_>, value: &[u8]) -> Result<()> {
        if self.set_small(key, value)? {
            return Ok(());
        }
        if let Some(found) = self.find(key)? {
            self.take_out(found)?;
        }
        self.sweep(self.hash(key))?;
        let item = self.item(key, value)?;
        self.insert(item)?;
        Ok(())
    }
    /// Set `new`, and remove `old`, which may be missing, in its stead.
    pub(super) fn replace(&mut self, old: Key<'_>, new: Key<'_>, value: &[u8]) -> Result<()> {
        if (old.name, old.value) == (new.name, new.value) {
            return self.set(new, value);
        }
        if let Some(bytes) = self.s.local() {
            // What was in the inode may stay there, if only one of them is at a time.
            let bytes = bytes.to_vec();
            let mut small = self.decode(&bytes)?;
            small.retain(|e| !old.is_small(e));
            self.s.set_local(encode(&small));
            return self.set(new, value);
        }
        self.set(new, value)?;
        match self.remove(old) {
            Err(Error::NoAttribute) => Ok(()),
            other => other,
        }
    }
    /// Remove an attribute.
    pub(super) fn remove(&mut self, key: Key<'_>) -> Result<()> {
        if let Some(bytes) = self.s.local() {
            let bytes = bytes.to_vec();
            let mut small = self.decode(&bytes)?;
            let i = small.iter().position(|e| key.is_small(e)).ok_or(Error::NoAttribute)?;
            small.remove(i);
            self.s.set_local(encode(&small));
            return Ok(());
        }
        if !self.has_blocks() {
            return Err(Error::NoAttribute);
        }
        let found = self.find(key)?.ok_or(Error::NoAttribute)?;
        self.take_out(found)?;
        self.sweep(self.hash(key))?;
        self.shrink_to_small()
    }

    // --- in the inode

    /// Set an attribute in the inode. False if it does not fit: what was in the inode is
    /// in a leaf then, the attribute itself no more.
    fn set_small(&mut self, key: Key<'_>, value: &[u8]) -> Result<bool> {
        let bytes = match self.s.local() {
            Some(bytes) => bytes.to_vec(),
            None if self.has_blocks() => return Ok(false),
            None => encode(&Small::new()),
        };
        let mut small = self.decode(&bytes)?;
        small.retain(|e| !key.is_small(e));
        if value.len() <= SMALL_MAX && small.len() < SMALL_MAX {
            small.push((key.namespace, key.name, value));
            if self.s.make_room(small_bytes(&small))? {
                self.s.set_local(encode(&small));
                return Ok(true);
            }
            small.pop();
        }
        let mut items: Vec<Item> = small
            .iter()
            .map(|(flags, name, value)| {
                let hash = hash_of(*flags, name, value, self.ignore_case);
                Item::local(hash, flags & NAMESPACE, name, value)
            })
            .collect();
        items.sort_by_key(|item| item.hash);
        self.s.set_empty();
        let block = self.s.create(0, BlockKind::AttrLeaf)?;
        let id = self.s.identity(&block);
        self.s.edit(&block, |c| leaf::init(c, &id, Siblings::default(), &items));
        Ok(false)
    }
    /// Move the attributes into the inode if they fit; an empty fork has no blocks.
    fn shrink_to_small(&mut self) -> Result<()> {
        let root = self.s.read(0, super::LEAVES_AND_NODES)?;
        // Blocks that nothing points to can be left behind by a crash of Linux.
        if self.s.kind(&root) != BlockKind::AttrLeaf || self.s.end_before(super::SPACE_BLOCKS) != 1
        {
            return Ok(());
        }
        let bytes = self.s.with(&root, |b| {
            let leaf = Leaf::new(b)?;
            let mut small = Small::new();
            for i in 0..leaf.count {
                let e = leaf.entry(i)?;
                let Value::Local(value) = e.value else { return None };
                if value.len() > SMALL_MAX || e.flags & INCOMPLETE != 0 || i == SMALL_MAX {
                    return None;
                }
                small.push((e.flags & NAMESPACE, e.name, value));
            }
            Some(encode(&small))
        });
        let Some(bytes) = bytes else { return Ok(()) };
        // The other fork is not asked to make room: that could need blocks, and removing
        // has to work where there are none.
        if bytes.len() <= self.s.room() {
            self.s.free(0, root)?;
            self.s.set_local(bytes);
        }
        Ok(())
    }

    // --- in blocks

    fn find(&mut self, key: Key<'_>) -> Result<Option<Found<S::Block>>> {
        let is_it = |flags: u8, name: &[u8], value: Option<&[u8]>| key.is(flags, name, value);
        self.find_where(self.hash(key), &is_it)
    }
    /// The first attribute of a hash that `is_it` says is meant.
    fn find_where(&mut self, hash: u32, is_it: IsMeant<'_>) -> Result<Option<Found<S::Block>>> {
        let mut next = Some(TREE.descend(self.s, hash)?);
        while let Some(path) = next {
            let mut goes_on = true;
            let found = self.s.with(&path.leaf, |b| {
                let leaf = Leaf::new(b)?;
                for i in leaf::search(b, hash)..leaf.count {
                    let e = leaf.entry(i)?;
                    if e.hash != hash {
                        goes_on = false;
                        return None;
                    }
                    let (here, remote) = match e.value {
                        Value::Remote { block, length } => (None, Some((block, length))),
                        Value::Local(value) => (Some(value), None),
                    };
                    if is_it(e.flags, e.name, here) {
                        return Some((i, remote));
                    }
                }
                None
            });
            if let Some((index, remote)) = found {
                return Ok(Some(Found { path, index, remote }));
            }
            if !goes_on {
                return Ok(None);
            }
            next = TREE.next(self.s, path)?;
        }
        Ok(None)
    }
    /// Take an attribute out, with its value.
    fn take_out(&mut self, found: Found<S::Block>) -> Result<()> {
        if let Some((block, length)) = found.remote {
            let blocks = value_blocks(self.s.block_bytes(), length as usize);
            let end = u64::from(block) + blocks;
            if block == 0 || end > super::SPACE_BLOCKS {
                let reason = alloc::format!("a value of {length} bytes at {block:#x}");
                return Err(self.s.corrupt(found.path.at, reason));
            }
            self.s.free_value(block.into(), blocks)?;
        }
        self.s.edit(&found.path.leaf, |c| leaf::remove(c, found.index));
        TREE.shrink(self.s, found.path)
    }
    /// Remove what a crash of Linux left half made under this hash.
    fn sweep(&mut self, hash: u32) -> Result<()> {
        while let Some(mut found) = self.find_where(hash, &|flags, _, _| flags & INCOMPLETE != 0)? {
            // The blocks may not have been given to it yet.
            found.remote = found.remote.filter(|&(block, length)| block != 0 && length != 0);
            self.take_out(found)?;
        }
        Ok(())
    }
    /// The attribute as it lies in a leaf; its value is written if it has its own blocks.
    fn item(&mut self, key: Key<'_>, value: &[u8]) -> Result<Item> {
        let hash = self.hash(key);
        let block_bytes = self.s.block_bytes();
        if !is_remote(block_bytes, key.name.len(), value.len()) {
            return Ok(Item::local(hash, key.namespace, key.name, value));
        }
        let blocks = value_blocks(block_bytes, value.len());
        let at = self.s.first_hole(0..super::SPACE_BLOCKS, blocks).ok_or(Error::NoSpace)?;
        self.s.create_value(at, blocks, value)?;
        Ok(Item::remote(hash, key.namespace, key.name, at as u32, value.len() as u32))
    }
    fn insert(&mut self, item: Item) -> Result<()> {
        loop {
            let path = TREE.descend(self.s, item.hash)?;
            if self.s.edit(&path.leaf, |c| leaf::add(c, &item)) {
                TREE.fix_hashes(self.s, &path);
                return Ok(());
            }
            if self.split(path, &item)? {
                return Ok(());
            }
        }
    }
    /// Split a leaf to make room; true if the new attribute is in one of the halves.
    fn split(&mut self, mut path: Path<S::Block>, new: &Item) -> Result<bool> {
        let block_bytes = self.s.block_bytes();
        let at = self.s.with(&path.leaf, |b| leaf::search(b, new.hash));
        let mut items = self.s.with(&path.leaf, leaf::items);
        items.insert(at, new.clone());
        let both = |k: &usize| {
            leaf::fit(&items[..*k], block_bytes) && leaf::fit(&items[*k..], block_bytes)
        };
        let balance = |k: &usize| {
            let sum = |part: &[Item]| part.iter().map(Item::total).sum::<usize>();
            sum(&items[..*k]).abs_diff(sum(&items[*k..]))
        };
        let best = (1..items.len()).filter(both).min_by_key(balance);
        let included = best.is_some();
        let cut = match best {
            Some(cut) => cut,
            // What is before it and what is behind it get leaves of their own first.
            None => {
                items.remove(at);
                if at == 0 || at == items.len() {
                    return Err(self.s.corrupt(path.at, "it cannot be split".into()));
                }
                at
            }
        };
        let (new_at, right, siblings) = TREE.new_right(self.s, &mut path)?;
        let id = self.s.identity(&right);
        self.s.edit(&right, |c| leaf::init(c, &id, siblings, &items[cut..]));
        self.s.edit(&path.leaf, |c| leaf::fill(c, &items[..cut]));
        TREE.add_right(self.s, path, new_at, &right)?;
        Ok(included)
    }
}
