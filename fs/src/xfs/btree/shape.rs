//! What a tree has to say of itself.

use core::fmt::Debug;

use crate::error::Result;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::btree::Record;
use crate::xfs::trans::Trans;

/// Where a tree's root is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// In a block of its own; the AGF or AGI says which.
    Block {
        /// The block: within the group for short pointers.
        block: u64,
        /// Levels, 1 when the root is a leaf.
        levels: u32,
    },
    /// In an inode's fork: [`Shape::inline_root`].
    Inline,
}

/// How wide pointers are, and with them which header blocks have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointers {
    /// 32 bits: blocks of the group that [`Shape::owner`] is the number of.
    Short,
    /// 64 bits: file system blocks; [`Shape::owner`] is the inode.
    Long,
}

/// A record that can be written.
pub trait Entry: Record + Debug {
    /// Records overlap, and each pointer in a node has two keys: the lowest one below it
    /// and the highest ([`Entry::high_key`]). [`Record::KEY_BYTES`] is both together.
    const OVERLAPPING: bool = false;
    /// Write it. `bytes` are [`Record::BYTES`] long.
    fn encode(&self, bytes: &mut [u8]);
    /// Write a key, the way [`Record::decode_key`] reads it.
    fn encode_key(key: &Self::Key, bytes: &mut [u8]);
    /// Write the key of this record as nodes have it: more than its order may depend on.
    fn encode_own_key(&self, bytes: &mut [u8]) {
        Self::encode_key(&self.key(), bytes);
    }
    /// The key of the last thing this record covers.
    fn high_key(&self) -> Self::Key {
        self.key()
    }
}

/// A tree: what its records are, where its root is, where its blocks come from.
pub trait Shape {
    /// What its leaves hold.
    type Record: Entry;
    /// The width of its pointers.
    const POINTERS: Pointers;
    /// All changes are made through one cursor: its lookups may start from where it
    /// stands instead of the root.
    const ONE_WRITER: bool = false;

    /// What its blocks are.
    fn kind(&self) -> BlockKind;
    /// What its blocks say they belong to: the group's number (short pointers) or the
    /// inode's.
    fn owner(&self) -> u64;
    /// Where the root is.
    ///
    /// # Errors
    /// I/O errors and damage.
    fn root(&self, tp: &mut Trans<'_>) -> Result<Root>;
    /// The root is another block now. Not called for [`Root::Inline`].
    ///
    /// # Errors
    /// I/O errors and damage; none if [`Shape::root`] had none in this transaction.
    fn set_root(&mut self, _tp: &mut Trans<'_>, _block: u64, _levels: u32) -> Result<()> {
        Ok(())
    }
    /// The root within the fork: level (16 bits), count (16 bits), room for as many keys
    /// as fit the fork with their pointers, the pointers (the form on disk, all of the
    /// fork's bytes).
    fn inline_root(&self) -> &[u8] {
        &[]
    }
    /// The same to be changed; the inode has to be logged.
    fn inline_root_mut(&mut self) -> &mut [u8] {
        &mut []
    }
    /// Take a block for the tree, near `near` (a block of the tree) if that matters.
    /// `None`: there is no space. Whoever allocates keeps the counts (of the AGF, AGI or
    /// inode).
    ///
    /// # Errors
    /// I/O errors and damage.
    fn allocate(&mut self, tp: &mut Trans<'_>, near: u64) -> Result<Option<u64>>;
    /// Give a block of the tree back, which has been invalidated.
    ///
    /// # Errors
    /// I/O errors and damage.
    fn free(&mut self, tp: &mut Trans<'_>, block: u64) -> Result<()>;
    /// Most records in a leaf (`level` 0) or pointers in a node that fit blocks of
    /// `block_bytes`. Tests make it smaller.
    fn most_entries(block_bytes: usize, level: u32) -> usize {
        super::size::most_entries::<Self::Record>(Self::POINTERS, block_bytes, level)
    }
}
