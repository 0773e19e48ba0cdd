//! B+trees: free space, inodes, reverse mappings, reference counts, extents of a file.
//!
//! One implementation serves all. What tells the trees apart is a [`Shape`]: what records
//! look like, where the root is kept, where blocks come from and go to. A [`Cursor`] finds,
//! inserts, changes and deletes records within a transaction.
//!
//! ```text
//! alloc (bnobt, cntbt)   ialloc (inobt, finobt)   bmap (bmbt)   rmap   refcount
//!         \                     |                    |           |       /
//!          Shape: records, root, blocks ──> Cursor<Shape> ──> Trans ──> Buffer
//! ```
//!
//! | file | |
//! |------|--|
//! | [`shape`] | [`Shape`], [`Entry`]: what a tree has to say of itself |
//! | `node` | where keys, pointers and records lie in a block |
//! | `cursor` | [`Cursor`]: going down, sideways; reading and changing records |
//! | `insert` | insertion: shifting to neighbours, splitting, a new root |
//! | `delete` | deletion: taking from neighbours, joining, a lower root |
//! | `query` | all records that touch a range, where records overlap |
//! | [`size`] | how high and how large a tree can get |
//! | [`walk`] | [`Tree`]: visiting all records without a transaction |
//!
//! Blocks stay at least half full: xfs_repair takes anything less (but for the root) for
//! damage. An insertion into a full block first shifts records to a neighbour under the
//! same parent, so that blocks become nearly full before there are more of them.
//!
//! An insertion or deletion first looks at all it needs (neighbours are read, new blocks
//! allocated) and only then changes the tree, so that neither a failing device nor a lack
//! of space leaves a tree changed in part.
//!
//! Owns: the contents of tree blocks. Does not own: roots, free blocks (the shape does),
//! what records mean. Locks: none of its own; the caller's transaction holds what
//! protects the tree (AGF, AGI or `ILOCK`), `BUFFER` is held for moments.

mod cursor;
mod delete;
mod insert;
mod node;
mod query;
pub mod shape;
pub mod size;
pub mod walk;

pub use cursor::{Cursor, KeyOf};
pub use shape::{Entry, Pointers, Root, Shape};
pub use size::Fanout;
pub use walk::Tree;
