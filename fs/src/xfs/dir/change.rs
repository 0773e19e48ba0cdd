//! Adding, removing and redirecting names, whatever the form.
//!
//! ```text
//! add:    shortform -> block -> leaf -> node      when it does not fit any more
//! remove: shortform <- block <- leaf <- node      as soon as it fits
//! ```
//! What can be wrong with the directory shows while the name is looked for, before
//! anything is changed.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::index::{self, Index};
use super::shortform::{Entry as Small, Narrow, Shortform};
use super::{PART_BYTES, fold_case};
use crate::error::{Error, Result};
use crate::xfs::da::{Path, Store, Tree, hash_name};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::dir_data::{self, entry_bytes};
use crate::xfs::ondisk::dir_leaf::NULL_ADDRESS;

/// How a directory that is to be changed lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Shortform,
    Block,
    Leaf,
    Node,
}

/// An entry to be made.
#[derive(Clone, Copy)]
pub(super) struct New<'a> {
    pub(super) name: &'a [u8],
    pub(super) ino: u64,
    pub(super) file_type: u8,
}

/// Where a name was found.
pub(super) struct Found<B> {
    /// Number of the data block.
    pub(super) number: u64,
    pub(super) data: B,
    /// Byte in it.
    pub(super) at: usize,
    /// Bytes the entry takes.
    pub(super) bytes: usize,
    /// Its number in the index.
    pub(super) index: usize,
    /// The way to the leaf that has it, in a directory that has one.
    pub(super) path: Option<Path<B>>,
}

/// A directory being changed.
pub(super) struct Dir<'s, S: Store> {
    pub(super) s: &'s mut S,
    pub(super) ignore_case: bool,
}

impl<S: Store> Dir<'_, S> {
    pub(super) fn block_bytes(&self) -> usize {
        self.s.block_bytes()
    }
    /// Bytes in a file system block.
    fn file_block_bytes(&self) -> u64 {
        self.s.block_bytes() as u64 / self.s.unit()
    }
    /// File blocks of each part of the address space.
    fn part(&self) -> u64 {
        PART_BYTES / self.file_block_bytes()
    }
    /// Where the index starts.
    pub(super) fn leaf_at(&self) -> u64 {
        self.part()
    }
    /// Where the free space blocks lie.
    pub(super) fn free_places(&self) -> Range<u64> {
        2 * self.part()..3 * self.part()
    }
    /// Where data block `number` lies.
    pub(super) fn data_at(&self, number: u64) -> u64 {
        number * self.s.unit()
    }
    pub(super) fn tree(&self) -> Tree {
        Tree {
            places: self.part()..2 * self.part(),
            leaf: &[BlockKind::DirLeafN],
            root: &[BlockKind::DirLeafN, BlockKind::DaNode],
            last_hash: index::last_hash,
            used: index::used,
            merge: index::merge,
        }
    }
    pub(super) fn hash(&self, name: &[u8]) -> u32 {
        let bytes = name.iter().copied();
        if self.ignore_case { hash_name(bytes.map(fold_case)) } else { hash_name(bytes) }
    }
    /// The place of an entry, as the index has it.
    pub(super) fn address(&self, number: u64, at: usize) -> u32 {
        ((number * self.block_bytes() as u64 + at as u64) / dir_data::ALIGN as u64) as u32
    }
    pub(super) fn form(&self) -> Result<Form> {
        if self.s.local().is_some() {
            return Ok(Form::Shortform);
        }
        let end = self.s.end_before(u64::MAX);
        let unit = self.s.unit();
        if end < unit {
            return Err(self.s.corrupt(0, "a directory without a block".into()));
        }
        Ok(if end == unit {
            Form::Block
        } else if end == self.leaf_at() + unit {
            Form::Leaf
        } else {
            Form::Node
        })
    }
    /// The directory grew by data block `number`, or shrank: its size follows.
    pub(super) fn fix_size(&mut self) {
        let size = self.s.end_before(self.part()) * self.file_block_bytes();
        if self.s.size() != size {
            self.s.set_size(size);
        }
    }
    /// Add a name that is not there.
    pub(super) fn add(&mut self, new: New<'_>) -> Result<()> {
        match self.form()? {
            Form::Shortform => self.add_small(new),
            Form::Block => self.add_to_block(new),
            Form::Leaf => self.add_to_leaf(new),
            Form::Node => self.add_to_node(new),
        }
    }
    /// Can the name be added without a block more?
    pub(super) fn fits(&mut self, new: New<'_>) -> Result<bool> {
        let bytes = entry_bytes(new.name.len());
        match self.form()? {
            Form::Shortform => self.fits_small(new),
            Form::Block => self.fits_in_block(bytes),
            Form::Leaf => self.fits_in_leaf(bytes),
            Form::Node => {
                let hash = self.hash(new.name);
                self.fits_in_tree(bytes, hash)
            }
        }
    }
    /// Can a name, ".." included, be pointed to an inode of this number without a block
    /// more?
    pub(super) fn takes_number(&self, ino: u64) -> bool {
        let Some(bytes) = self.s.local() else { return true };
        let [names, wide, ..] = *bytes else { return false };
        // A wide number makes all the others wide, the parent's included.
        let more =
            if wide == 0 && u32::try_from(ino).is_err() { usize::from(names) + 1 } else { 0 };
        bytes.len() + 4 * more <= self.s.room()
    }
    /// Remove a name.
    pub(super) fn remove(&mut self, name: &[u8]) -> Result<()> {
        let form = self.form()?;
        if form == Form::Shortform {
            return self.remove_small(name);
        }
        let found = self.find(form, name)?.ok_or(Error::NotFound)?;
        match form {
            Form::Shortform | Form::Block => self.remove_from_block(&found),
            Form::Leaf => self.remove_from_leaf(&found),
            Form::Node => self.remove_from_node(found),
        }
    }
    /// Point a name, ".." included, to another inode.
    pub(super) fn replace(&mut self, new: New<'_>) -> Result<()> {
        let mut form = self.form()?;
        if form == Form::Shortform {
            if self.replace_small(new)? {
                return Ok(());
            }
            // Eight bytes for each inode number are too much.
            self.small_to_block()?;
            form = Form::Block;
        }
        let found = self.find(form, new.name)?.ok_or(Error::NotFound)?;
        self.s.edit(&found.data, |c| {
            super::data::set_entry(c, found.at, new.ino, new.file_type);
        });
        Ok(())
    }
    fn same(&self, a: &[u8], b: &[u8], exact: bool) -> bool {
        if exact {
            return a == b;
        }
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| fold_case(*a) == fold_case(*b))
    }

    // --- in the inode

    pub(super) fn find_small(&self, small: &Shortform<'_>, name: &[u8]) -> Option<usize> {
        let find = |exact| small.entries.iter().position(|e| self.same(e.name, name, exact));
        find(true).or_else(|| if self.ignore_case { find(false) } else { None })
    }
    fn set_small(&mut self, bytes: Vec<u8>) {
        self.s.set_size(bytes.len() as u64);
        self.s.set_local(bytes);
    }
    /// The small directory, taken apart by `change`: what it becomes, if that fits.
    fn change_small<R>(
        &mut self,
        change: impl FnOnce(&Self, &mut Shortform<'_>) -> Result<R>,
    ) -> Result<Option<R>> {
        let bytes = self.s.local().unwrap_or(&[]);
        let mut small = Shortform::decode(bytes).map_err(|r: String| self.s.corrupt(0, r))?;
        let result = change(self, &mut small)?;
        if small.bytes() > self.s.room() {
            return Ok(None);
        }
        let bytes = small.encode();
        self.set_small(bytes);
        Ok(Some(result))
    }
    fn add_small(&mut self, new: New<'_>) -> Result<()> {
        let bytes = self.s.local().unwrap_or(&[]);
        let entry = Small { name: new.name, offset: 0, file_type: new.file_type, ino: new.ino };
        if let Some(narrow) = Narrow::scan(bytes, new.name)
            && narrow.takes(bytes, &entry, self.s.room(), self.block_bytes())
        {
            let mut bytes = self.s.take_local();
            narrow.append(&mut bytes, &entry);
            self.set_small(bytes);
            return Ok(());
        }
        let mut small = Shortform::decode(bytes).map_err(|r| self.s.corrupt(0, r))?;
        if small.insert(entry, self.block_bytes()) && small.bytes() <= self.s.room() {
            let bytes = small.encode();
            self.set_small(bytes);
            return Ok(());
        }
        self.small_to_block()?;
        self.add_to_block(new)
    }
    fn fits_small(&self, new: New<'_>) -> Result<bool> {
        let bytes = self.s.local().unwrap_or(&[]);
        let mut small = Shortform::decode(bytes).map_err(|r| self.s.corrupt(0, r))?;
        let entry = Small { name: new.name, offset: 0, file_type: new.file_type, ino: new.ino };
        Ok(small.insert(entry, self.block_bytes()) && small.bytes() <= self.s.room())
    }
    fn remove_small(&mut self, name: &[u8]) -> Result<()> {
        let narrow = Narrow::scan(self.s.local().unwrap_or(&[]), name);
        if let Some(place) = narrow.and_then(|narrow| narrow.found()) {
            let mut bytes = self.s.take_local();
            bytes[0] -= 1;
            bytes.drain(place);
            self.set_small(bytes);
            return Ok(());
        }
        self.change_small(|dir, small| {
            let i = dir.find_small(small, name).ok_or(Error::NotFound)?;
            small.entries.remove(i);
            Ok(())
        })?;
        Ok(())
    }
    /// False if it does not fit any more.
    fn replace_small(&mut self, new: New<'_>) -> Result<bool> {
        let changed = self.change_small(|dir, small| {
            if new.name == b".." {
                small.parent = new.ino;
                return Ok(());
            }
            let i = dir.find_small(small, new.name).ok_or(Error::NotFound)?;
            (small.entries[i].ino, small.entries[i].file_type) = (new.ino, new.file_type);
            Ok(())
        })?;
        Ok(changed.is_some())
    }

    // --- in blocks

    /// Look for a name in a directory that has blocks.
    pub(super) fn find(&mut self, form: Form, name: &[u8]) -> Result<Option<Found<S::Block>>> {
        let found = self.find_as(form, name, true)?;
        if found.is_some() || !self.ignore_case {
            return Ok(found);
        }
        self.find_as(form, name, false)
    }
    fn find_as(&mut self, form: Form, name: &[u8], exact: bool) -> Result<Option<Found<S::Block>>> {
        let hash = self.hash(name);
        match form {
            Form::Shortform | Form::Block => {
                let block = self.s.read(0, &[BlockKind::DirBlock])?;
                let index = self.s.with(&block, Index::of_block);
                let found = self.scan(&block, index, hash, |dir, address| {
                    dir.entry_at(address, Some(&block), name, exact)
                })?;
                Ok(found.0)
            }
            Form::Leaf => {
                let leaf = self.s.read(self.leaf_at(), &[BlockKind::DirLeaf1])?;
                let index = self.s.with(&leaf, Index::of_leaf);
                let found = self.scan(&leaf, index, hash, |dir, address| {
                    dir.entry_at(address, None, name, exact)
                })?;
                Ok(found.0)
            }
            Form::Node => self.find_in_tree(hash, name, exact),
        }
    }
    fn find_in_tree(
        &mut self,
        hash: u32,
        name: &[u8],
        exact: bool,
    ) -> Result<Option<Found<S::Block>>> {
        let tree = self.tree();
        let mut next = Some(tree.descend(self.s, hash)?);
        while let Some(path) = next {
            let index = self.s.with(&path.leaf, Index::of_leaf);
            let leaf = path.leaf.clone();
            let (found, goes_on) = self.scan(&leaf, index, hash, |dir, address| {
                dir.entry_at(address, None, name, exact)
            })?;
            if let Some(found) = found {
                return Ok(Some(Found { path: Some(path), ..found }));
            }
            if !goes_on {
                return Ok(None);
            }
            next = tree.next(self.s, path)?;
        }
        Ok(None)
    }
    /// Offer the addresses of a hash in an index to `look`; also says whether more of
    /// them can be in the next leaf.
    #[allow(clippy::type_complexity)]
    fn scan(
        &mut self,
        block: &S::Block,
        index: Index,
        hash: u32,
        mut look: impl FnMut(&mut Self, u32) -> Result<Option<Found<S::Block>>>,
    ) -> Result<(Option<Found<S::Block>>, bool)> {
        let start = self.s.with(block, |b| index.search(b, hash));
        for i in start..index.count {
            let (found_hash, address) = self.s.with(block, |b| index.entry(b, i));
            if found_hash != hash {
                return Ok((None, false));
            }
            if address == NULL_ADDRESS {
                continue;
            }
            if let Some(found) = look(self, address)? {
                return Ok((Some(Found { index: i, ..found }), false));
            }
        }
        Ok((None, true))
    }
    /// The entry at an address if it has this name. `single`: the single block.
    fn entry_at(
        &mut self,
        address: u32,
        single: Option<&S::Block>,
        name: &[u8],
        exact: bool,
    ) -> Result<Option<Found<S::Block>>> {
        let place = u64::from(address) * dir_data::ALIGN as u64;
        let block_bytes = self.block_bytes() as u64;
        let (number, at) = (place / block_bytes, (place % block_bytes) as usize);
        let file_block = self.data_at(number);
        let data = match single {
            Some(_) if number > 0 => {
                let reason = alloc::format!("its index has an entry at {address:#x}");
                return Err(self.s.corrupt(0, reason));
            }
            Some(block) => block.clone(),
            None => self.s.read(file_block, &[BlockKind::DirData])?,
        };
        let entry = self.s.with(&data, |b| {
            let end = dir_data::entries_end(b)?;
            dir_data::entry(b, at, end).map(|e| (self.same(e.name, name, exact), e.length))
        });
        let (same, bytes) = entry.map_err(|r| self.s.corrupt(file_block, r))?;
        Ok(same.then_some(Found { number, data, at, bytes, index: 0, path: None }))
    }
}
