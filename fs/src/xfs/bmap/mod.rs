//! Extent maps: which blocks of a file lie where, and how that changes.
//!
//! ```text
//! map, truncate, fallocate, reflink      (operations on files)
//! dir, attr, symlink: allocate_blocks    (metadata of inodes)
//!            |
//!         change: one splice of the extent list: in memory, in the inode, in its tree
//!            |                    |
//!      tree (bmbt) ──> btree   alloc (blocks)   defer (free, rmap, refcount)
//! ```
//!
//! | file | |
//! |------|--|
//! | [`ranges`] | [`Ranges`]: ranges of file blocks in order, in chunks |
//! | [`list`] | [`ExtentList`]: a fork's extents in memory |
//! | [`reserved`] | [`Reserved`]: delalloc extents and their reserves |
//! | `change` | the splice, and the small changes made of it: map, unmap, convert |
//! | `tree` | the extent tree: its shape, how a fork gets one and loses it |
//! | `allocate` | blocks for a fork: where, how many; delalloc made real |
//! | `reserve` | delalloc at write time, also ahead of the end of the file |
//! | `complete` | after the I/O: unwritten to written, copies to the data fork, the size |
//!
//! Each change of a fork is one *splice*: a few neighbouring extents are taken out, a few
//! others put in their place. The fork's sequence rises first; then the list in memory,
//! the counts in the core and the tree on disk change, all under `ILOCK` exclusive.
//!
//! Owns: the extents of all forks, delalloc. Does not own: free space (alloc), inode cores
//! (inode), the page cache. Locks: none of its own; `ILOCK` exclusive is held by callers
//! that change, shared at least by those that look.

mod allocate;
mod change;
mod complete;
pub mod list;
pub mod ranges;
mod reserve;
pub mod reserved;
mod tree;

pub use allocate::allocate_blocks;
pub(in crate::xfs) use change::{
    finish_deferred, list as extents_of, move_extent, remap, split_extent, unmap,
};
pub(in crate::xfs) use complete::punch_reserved;
pub use list::{ExtentList, NO_EXTENTS};
pub use ranges::Ranges;
pub(in crate::xfs) use reserve::Wanted;
pub use reserved::{Delalloc, Reserved, TreeLimits};
pub(in crate::xfs) use tree::move_boundary;

/// What of an inode's extents exists in memory only.
#[derive(Debug, Default)]
pub struct Delayed {
    /// Delalloc extents of the data fork.
    pub(in crate::xfs) data: Reserved,
    /// Blocks of the copy-on-write fork. Unwritten ones wait for data.
    pub(in crate::xfs) cow: ExtentList,
    /// Delalloc extents of the copy-on-write fork.
    pub(in crate::xfs) cow_reserved: Reserved,
    /// There may be blocks behind the end of the file that were allocated ahead.
    pub(in crate::xfs) preallocated: bool,
}

impl Delayed {
    /// Blocks that belong to the file and are in none of its forks on disk.
    pub(in crate::xfs) fn blocks(&self) -> u64 {
        let staged: u64 = self.cow.iter().map(|e| u64::from(e.count)).sum();
        self.data.blocks() + self.cow_reserved.blocks() + staged
    }
    /// Is there a copy-on-write fork?
    pub(in crate::xfs) fn has_cow(&self) -> bool {
        !self.cow.is_empty() || !self.cow_reserved.is_empty()
    }
    /// The delalloc extents of a fork.
    pub(in crate::xfs) fn reserved(&self, kind: super::ForkKind) -> &Reserved {
        match kind {
            super::ForkKind::Cow => &self.cow_reserved,
            super::ForkKind::Data | super::ForkKind::Attr => &self.data,
        }
    }
    /// The same to be changed.
    pub(in crate::xfs) fn reserved_mut(&mut self, kind: super::ForkKind) -> &mut Reserved {
        match kind {
            super::ForkKind::Cow => &mut self.cow_reserved,
            super::ForkKind::Data | super::ForkKind::Attr => &mut self.data,
        }
    }
}
