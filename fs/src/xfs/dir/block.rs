//! Changing directories of a single block: entries in front, the index at the end, free
//! space between them.

use alloc::vec::Vec;

use super::change::{Dir, Found, New};
use super::data::{self, Space};
use super::index::{self, Index};
use super::shortform::{Entry as Small, SMALL_ENTRY, SMALL_HEAD, Shortform};
use super::{DOT_OFFSET, DOTDOT_OFFSET};
use crate::error::Result;
use crate::xfs::da::{Change, Store};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::dir_data::{
    ALIGN, BLOCK_MAGIC, DataHeader, Item, entries_end, entry_bytes, item,
};
use crate::xfs::ondisk::dir_leaf::ENTRY_BYTES;
use crate::xfs::ondisk::{Check, Reason};
use crate::xfs::types::FileType;

/// Whether an entry fits, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fit {
    /// As it is.
    Yes,
    /// When the stale index entries are pressed out.
    Compacted,
    No,
}

/// Does an entry of `bytes` fit into a single block?
fn fit(block: &[u8], bytes: usize) -> Fit {
    let index = Index::of_block(block);
    let before = data::free_before(block, index.at);
    let before_bytes = before.map_or(0, |s| s.bytes);
    if index.stale > 0 {
        if data::place_for(block, bytes).is_some() {
            return Fit::Yes;
        }
        // The new entry's place in the index comes out of what is gained.
        let gained = before_bytes + (index.stale - 1) * ENTRY_BYTES;
        return if gained >= bytes { Fit::Compacted } else { Fit::No };
    }
    let elsewhere = |s: Space| Some(s) != before && s.bytes >= bytes;
    let fits = before_bytes >= bytes + ENTRY_BYTES
        || (before_bytes >= ENTRY_BYTES && data::largest(block).into_iter().any(elsewhere));
    if fits { Fit::Yes } else { Fit::No }
}

/// Press the stale entries out of the index; what is gained becomes free space.
fn compact(c: &mut dyn Change) {
    let index = Index::of_block(c);
    let pairs = index.pairs(c);
    index::set_block(c, &pairs);
    let end = Index::of_block(c).at;
    data::give(c, Space { at: index.at, bytes: end - index.at }, end);
}

/// Add an entry that fits.
fn add(c: &mut dyn Change, new: New<'_>, hash: u32) {
    let bytes = entry_bytes(new.name.len());
    let index = Index::of_block(c);
    let mut end = index.at;
    if index.stale == 0
        && let Some(before) = data::free_before(c, end)
    {
        end -= ENTRY_BYTES;
        data::take(c, before, Space { at: end, bytes: ENTRY_BYTES }, end);
    }
    if let Some(space) = data::place_for(c, bytes) {
        data::take(c, space, Space { at: space.at, bytes }, end);
        data::put_entry(c, space.at, new.name, new.ino, new.file_type);
        index::add_to_block(c, (hash, (space.at / 8) as u32));
    }
}

/// Can the entries lie in `room` bytes of the inode? They may turn out not to fit: their
/// inode numbers are not looked at.
fn may_be_small(block: &[u8], room: usize) -> bool {
    let index = Index::of_block(block);
    // "." and ".." are implied; names have a byte at least.
    let least = SMALL_HEAD + index.live().saturating_sub(2) * (SMALL_ENTRY + 1);
    if least > room {
        return false;
    }
    let dots = 2 * SMALL_ENTRY + b".".len() + b"..".len();
    let mut bytes = 0;
    let mut at = DataHeader::SIZE;
    while at < index.at && bytes <= room + dots {
        match data::free_at(block, at, index.at) {
            Some(free) => at += free.bytes.max(ALIGN),
            None => {
                let name = usize::from(block[at + 8]);
                bytes += SMALL_ENTRY + name;
                at += entry_bytes(name);
            }
        }
    }
    SMALL_HEAD + bytes <= room + dots
}

/// The directory as it lies in the inode.
fn to_small(block: &[u8]) -> Check<Shortform<'_>> {
    let end = entries_end(block)?;
    let mut small = Shortform { parent: 0, entries: Vec::new() };
    let mut at = DataHeader::SIZE;
    while at < end {
        let item = item(block, at, end)?;
        if let Item::Entry(e) = item {
            match e.name {
                b"." => {}
                b".." => small.parent = e.ino.0,
                name => small.entries.push(Small {
                    name,
                    offset: at,
                    file_type: e.file_type.to_dirent(),
                    ino: e.ino.0,
                }),
            }
        }
        at += item.length();
    }
    if small.parent == 0 { Err(Reason::from("there is no entry \"..\"")) } else { Ok(small) }
}

impl<S: Store> Dir<'_, S> {
    /// Move the directory from the inode into a block.
    pub(super) fn small_to_block(&mut self) -> Result<()> {
        let bytes = self.s.local().unwrap_or(&[]).to_vec();
        let small = Shortform::decode(&bytes).map_err(|r| self.s.corrupt(0, r))?;
        if !small.fits(self.block_bytes()) {
            return Err(self.s.corrupt(0, "its entries do not fit into a block".into()));
        }
        self.s.set_empty();
        let block = self.s.create(0, BlockKind::DirBlock)?;
        let id = self.s.identity(&block);
        let directory = FileType::Directory.to_dirent();
        let implied = |name, offset: u64, ino| Small {
            name,
            offset: offset as usize,
            file_type: directory,
            ino,
        };
        let mut all = Vec::with_capacity(small.entries.len() + 2);
        all.push(implied(b".".as_slice(), DOT_OFFSET, self.s.owner()));
        all.push(implied(b"..", DOTDOT_OFFSET, small.parent));
        all.extend_from_slice(&small.entries);
        let mut pairs: Vec<_> =
            all.iter().map(|e| (self.hash(e.name), (e.offset / 8) as u32)).collect();
        pairs.sort_unstable();
        self.s.edit(&block, |c| {
            data::init(c, &id);
            c.set_be32(0, BLOCK_MAGIC);
            let end = c.len() - index::block_index_bytes(pairs.len());
            index::set_block(c, &pairs);
            for e in &all {
                data::put_entry(c, e.offset, e.name, e.ino, e.file_type);
            }
            let place = |e: &Small<'_>| Space { at: e.offset, bytes: entry_bytes(e.name.len()) };
            data::free_others(c, all.iter().map(place), end);
        });
        self.fix_size();
        Ok(())
    }
    /// Does an entry of `bytes` fit into the single block?
    pub(super) fn fits_in_block(&mut self, bytes: usize) -> Result<bool> {
        let block = self.s.read(0, &[BlockKind::DirBlock])?;
        Ok(self.s.with(&block, |b| fit(b, bytes)) != Fit::No)
    }
    pub(super) fn add_to_block(&mut self, new: New<'_>) -> Result<()> {
        let block = self.s.read(0, &[BlockKind::DirBlock])?;
        let bytes = entry_bytes(new.name.len());
        let fit = self.s.with(&block, |b| fit(b, bytes));
        if fit == Fit::No {
            self.block_to_leaf(&block)?;
            return self.add_to_leaf(new);
        }
        let hash = self.hash(new.name);
        self.s.edit(&block, |c| {
            if fit == Fit::Compacted {
                compact(c);
            }
            add(c, new, hash);
        });
        Ok(())
    }
    pub(super) fn remove_from_block(&mut self, found: &Found<S::Block>) -> Result<()> {
        self.s.edit(&found.data, |c| {
            let end = Index::of_block(c).at;
            data::give(c, Space { at: found.at, bytes: found.bytes }, end);
            index::forget_in_block(c, found.index);
        });
        let block = found.data.clone();
        self.block_to_small(block)
    }
    /// Move the directory into the inode if it fits.
    pub(super) fn block_to_small(&mut self, block: S::Block) -> Result<()> {
        let room = self.s.room();
        let bytes = self.s.with(&block, |b| {
            if !may_be_small(b, room) {
                return Ok(None);
            }
            let small = to_small(b)?;
            Ok((small.bytes() <= room && small.entries.len() < 256).then(|| small.encode()))
        });
        let Some(bytes) = bytes.map_err(|r| self.s.corrupt(0, r))? else { return Ok(()) };
        self.s.free(0, block)?;
        self.s.set_size(bytes.len() as u64);
        self.s.set_local(bytes);
        Ok(())
    }
}
