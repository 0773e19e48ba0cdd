//! One name in a directory.

use alloc::format;
use alloc::sync::Arc;

use super::{Form, NAME_MAX, fold_case};
use crate::error::{Corruption, Error, Result};
use crate::xfs::buf::Buffer;
use crate::xfs::da::{Space, hash_name};
use crate::xfs::inode::{Fork, ForkKind, Inode};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::dir_leaf::{Leaf, NULL_ADDRESS};
use crate::xfs::ondisk::{dir_data, dir_leaf, dir_sf};
use crate::xfs::types::{FileBlock, Ino};

/// How far a lookup has come.
struct Search<'a> {
    name: &'a [u8],
    ignore_case: bool,
    /// An entry whose name differs in case only.
    similar: Option<Ino>,
    /// The data block looked at last.
    data: Option<(u64, Arc<Buffer>)>,
}

enum Match {
    Exact,
    Similar,
    None,
}

impl Search<'_> {
    fn compare(&self, name: &[u8]) -> Match {
        if name == self.name {
            return Match::Exact;
        }
        let same = |(a, b): (&u8, &u8)| fold_case(*a) == fold_case(*b);
        if self.ignore_case && name.len() == self.name.len() && name.iter().zip(self.name).all(same)
        {
            return Match::Similar;
        }
        Match::None
    }
    /// Take note of an entry; true if it is the one.
    fn offer(&mut self, name: &[u8], ino: Ino) -> Option<Ino> {
        match self.compare(name) {
            Match::Exact => return Some(ino),
            Match::Similar if self.similar.is_none() => self.similar = Some(ino),
            Match::Similar | Match::None => {}
        }
        None
    }
    fn hash(&self) -> u32 {
        let bytes = self.name.iter().copied();
        if self.ignore_case { hash_name(bytes.map(fold_case)) } else { hash_name(bytes) }
    }
}

impl Inode {
    /// The inode that a name in this directory names.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], [`Error::NameTooLong`]; I/O errors
    /// and damage.
    pub fn lookup(&self, name: &[u8]) -> Result<Ino> {
        let locked = self.lock(ForkKind::Data)?;
        let form = self.dir_form(&locked)?;
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let mut search = Search {
            name,
            ignore_case: self.mount().geometry().ascii_ci,
            similar: None,
            data: None,
        };
        let space = self.dir_space(&locked);
        let found = match form {
            Form::Shortform => self.lookup_shortform(locked.fork(), &mut search)?,
            Form::Block => lookup_block(&space, &mut search)?,
            Form::Indexed => lookup_indexed(&space, &mut search)?,
        };
        let ino = found.or(search.similar).ok_or(Error::NotFound)?;
        if !self.mount().geometry().has_inode(ino) {
            let name = alloc::string::String::from_utf8_lossy(name);
            return Err(self.corrupt(format!("the entry {name:?} names {ino}, which cannot be")));
        }
        Ok(ino)
    }
    fn lookup_shortform(
        &self,
        fork: Option<&Fork>,
        search: &mut Search<'_>,
    ) -> Result<Option<Ino>> {
        let Some(Fork::Local(bytes)) = fork else { return Ok(None) };
        let view = dir_sf::View::new(bytes).map_err(|r| self.corrupt(r))?;
        match search.name {
            b"." => return Ok(Some(self.ino())),
            b".." => return Ok(Some(view.parent())),
            _ => {}
        }
        for entry in view.entries() {
            let entry = entry.map_err(|r| self.corrupt(r))?;
            if let Some(ino) = search.offer(entry.name, entry.ino) {
                return Ok(Some(ino));
            }
        }
        Ok(None)
    }
}

/// The first of `count` index entries whose hash is not below `hash`.
fn lower_bound(count: usize, hash: u32, entry: impl Fn(usize) -> Option<(u32, u32)>) -> usize {
    let (mut low, mut high) = (0, count);
    while low < high {
        let middle = low.midpoint(high);
        if entry(middle).is_some_and(|(h, _)| h < hash) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn lookup_block(space: &Space<'_>, search: &mut Search<'_>) -> Result<Option<Ino>> {
    let buffer = space.read(FileBlock(0), &[BlockKind::DirBlock])?;
    let block = buffer.read();
    let located = |reason| located(space, &buffer, reason);
    let (start, count) = dir_data::block_index(&block).map_err(located)?;
    let hash = search.hash();
    let entry = |i| dir_leaf::entry(&block[start..], i);
    for i in lower_bound(count, hash, entry)..count {
        let Some((_, address)) = entry(i).filter(|&(h, _)| h == hash) else { break };
        if address == NULL_ADDRESS {
            continue;
        }
        let at = address as usize * dir_data::ALIGN;
        let found = dir_data::entry(&block, at, start).map_err(located)?;
        if let Some(ino) = search.offer(found.name, found.ino) {
            return Ok(Some(ino));
        }
    }
    Ok(None)
}

fn lookup_indexed(space: &Space<'_>, search: &mut Search<'_>) -> Result<Option<Ino>> {
    let hash = search.hash();
    let mut leaf = space.descend(Some(hash))?;
    // Names of one hash can go on in the next leaves.
    for _ in 0..space.most_leaves() {
        let Some((at, buffer)) = leaf else { return Ok(None) };
        let contents = buffer.read();
        let Some(view) = Leaf::new(&contents) else { return Ok(None) };
        let start = lower_bound(view.count, hash, |i| view.entry(i));
        for i in start..view.count {
            let Some((_, address)) = view.entry(i).filter(|&(h, _)| h == hash) else {
                return Ok(None);
            };
            if address == NULL_ADDRESS {
                continue;
            }
            if let Some(ino) = lookup_data(space, search, address)? {
                return Ok(Some(ino));
            }
        }
        let forward = view.forward;
        drop(contents);
        leaf = space.next_leaf(at, forward, |b| Leaf::new(b).map(|l| l.backward))?;
    }
    Err(space.endless(space.tree.start).into())
}

/// Look at the entry at an address in the data blocks.
fn lookup_data(space: &Space<'_>, search: &mut Search<'_>, address: u32) -> Result<Option<Ino>> {
    let geometry = space.inode.mount().geometry();
    let place = u64::from(address) * dir_data::ALIGN as u64;
    let block_bytes = geometry.dir_block_bytes() as u64;
    let at = place / block_bytes * space.block_blocks;
    let buffer = match search.data.take() {
        Some((block, buffer)) if block == at => buffer,
        _ => space.read(FileBlock(at), &[BlockKind::DirData])?,
    };
    let contents = buffer.read();
    let within = (place % block_bytes) as usize;
    let entry = dir_data::entry(&contents, within, contents.len())
        .map_err(|reason| located(space, &buffer, reason))?;
    let found = search.offer(entry.name, entry.ino);
    drop(contents);
    search.data = Some((at, buffer));
    Ok(found)
}

fn located(space: &Space<'_>, buffer: &Buffer, reason: alloc::string::String) -> Corruption {
    Corruption {
        structure: buffer.kind().name(),
        location: space.inode.mount().geometry().place(buffer.sector()),
        reason,
    }
}
