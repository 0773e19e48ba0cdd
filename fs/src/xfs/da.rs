//! The address space of a directory or an attribute fork: blocks found through the
//! fork's extents, and the hash tree over the leaves.
//!
//! A directory's space has three parts: entries from 0, the hash index from 32 GiB,
//! free space counts from 64 GiB. An attribute fork has just the hash tree, from 0,
//! with values in between.
//!
//! | file | |
//! |------|--|
//! | here | finding blocks, going down a tree: for readers |
//! | `forkstore` | a fork that a transaction changes, as such a space |
//! | `store` | what changing needs: blocks to read, make, change, free |
//! | `tree`, `node` | splitting and joining the blocks of a tree |
//! | `memory` | an address space in memory, for tests |

mod forkstore;
#[cfg(test)]
pub(super) mod memory;
mod node;
mod store;
mod tree;
mod value;

pub(super) use forkstore::ForkStore;
pub(super) use store::{Change, Identity, Siblings, Store};
pub(super) use tree::{Path, Tree};

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use core::ops::Range;

use super::buf::Buffer;
use super::inode::{Inode, Locked};
use super::ondisk::block::BlockKind;
use super::ondisk::da_node::{MAX_LEVELS, Node};
use super::types::{FileBlock, Ino};
use crate::error::{Corruption, Result};

/// One of an inode's forks as an address space of blocks. `ILOCK` is held through `locked`.
pub(super) struct Space<'a> {
    pub(super) inode: &'a Inode,
    pub(super) locked: &'a Locked<'a>,
    /// File system blocks in a block of the space.
    pub(super) block_blocks: u64,
    /// Where the hash tree lies.
    pub(super) tree: Range<u64>,
    /// What leaves are.
    pub(super) leaves: &'static [BlockKind],
    /// What leaves and inner blocks are.
    pub(super) leaves_and_nodes: &'static [BlockKind],
    /// "directory" or "attribute fork", for messages.
    pub(super) name: &'static str,
}

impl Space<'_> {
    /// A [`Corruption`] of the space.
    pub(super) fn corrupt(&self, at: u64, reason: String) -> Corruption {
        Corruption {
            structure: self.name,
            location: format!("{}, file block {at:#x}", self.inode.ino()),
            reason,
        }
    }
    /// The block at `at`, or nothing where there is a hole.
    pub(super) fn read_mapped(
        &self,
        at: FileBlock,
        kinds: &[BlockKind],
    ) -> Result<Option<Arc<Buffer>>> {
        let mount = self.inode.mount();
        let runs = self
            .locked
            .extents()
            .runs(mount.geometry(), at, self.block_blocks)
            .map_err(|reason| self.corrupt(at.0, reason))?;
        let Some(runs) = runs else { return Ok(None) };
        let buffer = mount.buffers().read(&runs, kinds)?;
        let owner = buffer.kind().owner(&buffer.read());
        if owner.is_some_and(|owner| Ino(owner) != self.inode.ino()) {
            return Err(Corruption {
                structure: buffer.kind().name(),
                location: mount.geometry().place(buffer.sector()),
                reason: format!(
                    "it says it belongs to inode {}, but {} has it",
                    owner.unwrap_or(0),
                    self.inode.ino()
                ),
            }
            .into());
        }
        Ok(Some(buffer))
    }
    /// The block at `at`, which there has to be.
    pub(super) fn read(&self, at: FileBlock, kinds: &[BlockKind]) -> Result<Arc<Buffer>> {
        match self.read_mapped(at, kinds)? {
            Some(buffer) => Ok(buffer),
            None => {
                Err(self.corrupt(at.0, "there is a hole where a block should be".into()).into())
            }
        }
    }
    /// Go down the hash tree to the leaf in which `hash` would first be, or to the first
    /// leaf. Nothing if every hash is smaller.
    pub(super) fn descend(&self, hash: Option<u32>) -> Result<Option<(u64, Arc<Buffer>)>> {
        let mut at = self.tree.start;
        let mut parent: Option<u32> = None;
        for _ in 0..=MAX_LEVELS {
            // Below level 1 there are leaves, below others the next lower level.
            let kinds = match parent {
                None => self.leaves_and_nodes,
                Some(1) => self.leaves,
                Some(_) => &[BlockKind::DaNode],
            };
            let buffer = self.read(FileBlock(at), kinds)?;
            if buffer.kind() != BlockKind::DaNode {
                return Ok(Some((at, buffer)));
            }
            let contents = buffer.read();
            let Some(node) = Node::new(&contents) else { return Ok(None) };
            if parent.is_some_and(|level| node.level + 1 != level) {
                let reason = format!("level {} below level {parent:?}", node.level);
                return Err(self.corrupt(at, reason).into());
            }
            parent = Some(node.level);
            let child = match hash {
                Some(hash) => node.search(hash),
                None => node.entry(0).map(|(_, child)| child),
            };
            let Some(child) = child else { return Ok(None) };
            at = self.check_pointer(at, child)?;
        }
        Err(self.corrupt(at, "the hash tree has too many levels".into()).into())
    }
    /// A pointer to a block of the hash tree, found in the block at `at`.
    fn check_pointer(&self, at: u64, pointer: u32) -> Result<u64> {
        let target = u64::from(pointer);
        let aligned = target.wrapping_sub(self.tree.start).is_multiple_of(self.block_blocks);
        if !self.tree.contains(&target) || target == self.tree.start || !aligned {
            let reason = format!("it points to {pointer:#x}, outside the hash tree");
            return Err(self.corrupt(at, reason).into());
        }
        Ok(target)
    }
    /// The leaf behind the one at `at`, whose header names it.
    /// `sibling` reads a leaf's forward and backward pointers.
    pub(super) fn next_leaf(
        &self,
        at: u64,
        forward: u32,
        sibling: impl Fn(&[u8]) -> Option<u32>,
    ) -> Result<Option<(u64, Arc<Buffer>)>> {
        if forward == 0 {
            return Ok(None);
        }
        let target = self.check_pointer(at, forward)?;
        let buffer = self.read(FileBlock(target), self.leaves)?;
        let backward = sibling(&buffer.read());
        if backward.map(u64::from) != Some(at) {
            let reason = format!("the leaf before it is {backward:x?}, not {at:#x}");
            return Err(self.corrupt(target, reason).into());
        }
        Ok(Some((target, buffer)))
    }
    /// More leaves than there can be: a bound for walks along them.
    pub(super) fn most_leaves(&self) -> u64 {
        let mapped: u64 = self.locked.extents().iter().map(|e| u64::from(e.count)).sum();
        mapped / self.block_blocks + 1
    }
    /// The walk along the leaves has come further than there are leaves.
    pub(super) fn endless(&self, at: u64) -> Corruption {
        self.corrupt(at, "the leaves form a ring".into())
    }
}

/// The hash of a name: rotate by seven, exclusive-or with the next byte.
pub(super) fn hash_name(name: impl Iterator<Item = u8>) -> u32 {
    name.fold(0u32, |hash, byte| hash.rotate_left(7) ^ u32::from(byte))
}

/// Blocks that must be reserved for an entry of a hash tree: at worst a new block on each
/// level and `more` others, of `unit` file system blocks each and each of these an extent.
pub(super) fn most_blocks(geometry: &super::Geometry, more: u64, unit: u64) -> u64 {
    let limits = super::bmap::TreeLimits::new(geometry);
    (u64::from(MAX_LEVELS) + more) * (unit + limits.worst(unit))
}
