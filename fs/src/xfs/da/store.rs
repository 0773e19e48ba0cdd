//! What changing a directory or an attribute fork needs of the world: blocks of an
//! address space that are read, made, changed and freed, and the bytes in the inode.
//!
//! The forms are written against [`Store`]; a transaction is one (`super::forkstore`),
//! memory another, in which whole histories are tested without a disk.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::{Deref, Range};

use uuid::Uuid;

use crate::error::{Error, Result};
use crate::xfs::ondisk::block::BlockKind;

/// A block being changed; what is changed is noted, so that it is logged.
pub(in crate::xfs) trait Change: Deref<Target = [u8]> {
    /// These bytes, to be changed.
    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8];
    /// Copy bytes within the block; the ranges may overlap.
    fn move_within(&mut self, from: Range<usize>, to: usize);
    /// Put bytes at `at`.
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes_mut(at..at + bytes.len()).copy_from_slice(bytes);
    }
    /// Put a byte at `at`.
    fn set_u8(&mut self, at: usize, value: u8) {
        self.put(at, &[value]);
    }
    /// Put a big-endian number at `at`.
    fn set_be16(&mut self, at: usize, value: u16) {
        self.put(at, &value.to_be_bytes());
    }
    /// Put a big-endian number at `at`.
    fn set_be32(&mut self, at: usize, value: u32) {
        self.put(at, &value.to_be_bytes());
    }
    /// Put a big-endian number at `at`.
    fn set_be64(&mut self, at: usize, value: u64) {
        self.put(at, &value.to_be_bytes());
    }
}

impl Change for Vec<u8> {
    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self[range]
    }
    fn move_within(&mut self, from: Range<usize>, to: usize) {
        self.copy_within(from, to);
    }
}

/// What every block says about itself.
#[derive(Clone, Copy, Debug)]
pub(in crate::xfs) struct Identity {
    /// The file system.
    pub(in crate::xfs) uuid: Uuid,
    /// The inode.
    pub(in crate::xfs) owner: u64,
    /// Its first sector.
    pub(in crate::xfs) sector: u64,
}

impl Identity {
    /// Start a directory block that holds entries or free space counts.
    pub(in crate::xfs) fn put_front(&self, c: &mut dyn Change, magic: u32) {
        c.set_be32(0, magic);
        c.set_be64(8, self.sector);
        c.put(24, self.uuid.as_bytes());
        c.set_be64(40, self.owner);
    }
    /// Start a block of a hash tree, with its siblings.
    pub(in crate::xfs) fn put_info(&self, c: &mut dyn Change, magic: u16, siblings: Siblings) {
        siblings.put(c);
        c.set_be16(8, magic);
        c.set_be16(10, 0);
        c.set_be64(16, self.sector);
        c.put(32, self.uuid.as_bytes());
        c.set_be64(48, self.owner);
    }
}

/// The neighbours of a block of a hash tree on its level; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::xfs) struct Siblings {
    pub(in crate::xfs) forward: u32,
    pub(in crate::xfs) backward: u32,
}

impl Siblings {
    /// Those of a block.
    pub(in crate::xfs) fn of(block: &[u8]) -> Self {
        use crate::xfs::ondisk::be32;
        Self { forward: be32(block, 0).unwrap_or(0), backward: be32(block, 4).unwrap_or(0) }
    }
    /// Into a block.
    pub(in crate::xfs) fn put(self, c: &mut dyn Change) {
        c.set_be32(0, self.forward);
        c.set_be32(4, self.backward);
    }
}

/// An address space that can be changed. Places are file blocks; all blocks of a
/// directory are of one size.
pub(in crate::xfs) trait Store {
    /// A block in memory.
    type Block: Clone;
    /// Bytes in a block.
    fn block_bytes(&self) -> usize;
    /// File blocks in a block.
    fn unit(&self) -> u64;
    /// The block at `at`, verified as one of `kinds`; nothing where there is a hole.
    fn find(&mut self, at: u64, kinds: &[BlockKind]) -> Result<Option<Self::Block>>;
    /// A new block at `at`, which is a hole: all zeros.
    fn create(&mut self, at: u64, kind: BlockKind) -> Result<Self::Block>;
    /// Unmap the block at `at`.
    fn free(&mut self, at: u64, block: Self::Block) -> Result<()>;
    /// The first place in `range` at which `blocks` file blocks are a hole.
    fn first_hole(&self, range: Range<u64>, blocks: u64) -> Option<u64>;
    /// The first file block behind all that is mapped before `limit`.
    fn end_before(&self, limit: u64) -> u64;
    /// What a block says about itself.
    fn identity(&self, block: &Self::Block) -> Identity;
    /// What a block is.
    fn kind(&self, block: &Self::Block) -> BlockKind;
    /// A block becomes one of another kind.
    fn set_kind(&mut self, block: &Self::Block, kind: BlockKind);
    /// Look at a block.
    fn with<R>(&self, block: &Self::Block, look: impl FnOnce(&[u8]) -> R) -> R;
    /// Change a block.
    fn edit<R>(&mut self, block: &Self::Block, change: impl FnOnce(&mut dyn Change) -> R) -> R;
    /// The fork's contents if they lie in the inode.
    fn local(&self) -> Option<&[u8]>;
    /// Take these contents out, to be changed and put back by [`Store::set_local`].
    fn take_local(&mut self) -> Vec<u8>;
    /// The fork's contents lie in the inode from now on, and there are no blocks.
    fn set_local(&mut self, bytes: Vec<u8>);
    /// The fork has blocks from now on, none so far.
    fn set_empty(&mut self);
    /// Bytes of the fork in the inode.
    fn room(&self) -> usize;
    /// See that `bytes` fit into the fork in the inode, at the cost of the other fork if
    /// need be; false if they do not.
    fn make_room(&mut self, bytes: usize) -> Result<bool>;
    /// Write a value into `blocks` new blocks from `at` on, which are a hole. It is on
    /// the device when this returns, but for the device's cache.
    fn create_value(&mut self, at: u64, blocks: u64, value: &[u8]) -> Result<()>;
    /// Unmap the blocks of a value.
    fn free_value(&mut self, at: u64, blocks: u64) -> Result<()>;
    /// Bytes of the directory, as its inode says.
    fn size(&self) -> u64;
    /// Change that.
    fn set_size(&mut self, size: u64);
    /// The inode.
    fn owner(&self) -> u64;
    /// Damage found at file block `at`.
    fn corrupt(&self, at: u64, reason: String) -> Error;

    /// The block at `at`, which there has to be.
    fn read(&mut self, at: u64, kinds: &[BlockKind]) -> Result<Self::Block> {
        match self.find(at, kinds)? {
            Some(block) => Ok(block),
            None => Err(self.corrupt(at, "there is a hole where a block should be".into())),
        }
    }
}
