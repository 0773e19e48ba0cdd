//! Free space: which blocks of a group are free, who gets them, when they can be used
//! again.
//!
//! A group has two trees of its free extents, by block (bnobt) and by size (cntbt), with
//! the same records; a list of blocks set aside for the trees of space themselves (AGFL);
//! and counts of all that in its AGF.
//!
//! ```text
//! allocate(request)
//!   choose   groups: the wanted one, then others; those that can be locked at once first
//!   search   an extent: at a block, near a block, or the smallest that suffices
//!   agfl     fill the list, so that the trees can grow
//!   space    take it out of both trees, count
//!   rmap     note the owner
//! free: the same backwards; joined with its neighbours, and busy until it is durable
//! ```
//!
//! | file | |
//! |------|--|
//! | `choose` | which group |
//! | `search` | which extent of a group |
//! | `space` | `Group`: a group's headers and trees, changed together |
//! | [`freelist`] | the AGFL |
//! | `busy` | freed blocks that cannot be used again yet; discard |
//! | [`reserve`] | what is kept back so that trees can always grow |
//!
//! **Busy extents.** A block that was freed may not be given to a file before the
//! transaction that freed it is durable: the file's data would be written at once, and
//! after a crash the block would be its former owner's again. Metadata may use it at once,
//! because it is written in place only after it is durable in the log.
//!
//! **Promises.** The counters of the whole file system promise blocks before the trees are
//! asked. Promised is never more than the groups can give when everything is in use: their
//! free blocks (with those in the AGFL and in the free space trees, which shrink on the
//! way), less what an AGFL needs at least, less what is kept back for the growth of other
//! trees.
//!
//! Owns: AGF, AGFL, bnobt, cntbt. Does not own: promises (counters), reverse mappings and
//! reference counts (rmap, refcount). Locks: the group's `AGF`, which the transaction keeps
//! until it commits; the list of busy extents has a lock of its own (`STATE`).

mod busy;
mod choose;
mod free;
pub mod freelist;
pub mod reserve;
mod search;
mod space;

pub use choose::allocate;
pub use free::{allocate_tree_block, free, free_extent, free_tree_block};
pub use reserve::prepare;
pub(super) use space::AgSpace;
pub use space::Summary;

use super::inode::ForkKind;
use super::types::{FsBlock, Ino};

/// Whose blocks they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Contents of a file.
    Inode {
        /// The file.
        ino: Ino,
        /// Which fork.
        fork: ForkKind,
        /// File block.
        offset: u64,
    },
    /// Blocks of its extent tree.
    BmbtBlock {
        /// The file.
        ino: Ino,
        /// Which fork.
        fork: ForkKind,
    },
    /// Space trees.
    Ag,
    /// Inode trees.
    Inobt,
    /// Inodes.
    InodeChunk,
    /// Reference counts.
    Refcountbt,
    /// Staged for copy on write.
    Cow,
    /// Nobody is noted: the reverse mapping is changed elsewhere, or not at all.
    Skip,
    /// Whoever it is.
    Any,
}

/// Where blocks shall lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// As near to this block as can be; in another group if there is nothing in its own.
    Near(FsBlock),
    /// As near to this block as can be, in its group or not at all.
    InAg(FsBlock),
    /// From this block on or not at all.
    Exact(FsBlock),
    /// The smallest extent that suffices, in the group of this block or another.
    Anywhere(FsBlock),
}

/// What blocks are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Contents of a file: written without the log, so never to blocks that are busy.
    Data,
    /// Metadata, written after it is durable in the log.
    Metadata,
}

/// Out of which of a group's reserves blocks come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgReserve {
    /// None: they were promised to the transaction.
    None,
    /// That of the trees of free inodes and reference counts.
    Metadata,
    /// That of the reverse mappings.
    Rmapbt,
}

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllocRequest {
    /// Where.
    pub target: Target,
    /// At least so many blocks.
    pub min: u32,
    /// At most so many.
    pub max: u32,
    /// The first block within its group is a multiple of this.
    pub align: u32,
    /// More blocks than `min` come in multiples of `unit`, plus `rest`.
    pub unit: u32,
    /// See `unit`.
    pub rest: u32,
    /// Whose they will be.
    pub owner: Owner,
    /// What for.
    pub kind: Use,
    /// All blocks that this transaction will want in the group, these included.
    pub total: u32,
    /// Out of which reserve.
    pub reserve: AgReserve,
}

impl AllocRequest {
    /// Exactly `count` blocks.
    pub const fn new(target: Target, count: u32, owner: Owner, kind: Use) -> Self {
        Self {
            target,
            min: count,
            max: count,
            align: 1,
            unit: 1,
            rest: 0,
            owner,
            kind,
            total: count,
            reserve: AgReserve::None,
        }
    }
    /// One block of metadata.
    pub const fn one(target: Target, owner: Owner) -> Self {
        Self::new(target, 1, owner, Use::Metadata)
    }
    /// Up to `most` blocks of a file's contents, whose reverse mapping is changed by a
    /// deferred operation.
    pub const fn data(near: FsBlock, most: u32) -> Self {
        let request = Self::new(Target::Near(near), most, Owner::Skip, Use::Data);
        Self { min: 1, ..request }
    }
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Allocation {
    /// The first block.
    pub block: FsBlock,
    /// How many.
    pub count: u32,
}
