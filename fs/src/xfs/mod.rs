//! XFS version 5: what lies where on the disk.
//!
//! Everything above asks an [`Inode`] of a [`Mount`]; everything is found through
//! metadata blocks in the [`buf`] cache, whose bytes [`ondisk`] understands.
//!
//! ```text
//! Mount ── inode() ──> Inode ── begin() ──> Iomap            map
//!                        |  lookup() readdir()               dir ─┐
//!                        |  getxattr() listxattr()           attr ┴ da (hash trees)
//!                        |  readlink()                       symlink
//!                        v
//!                     extents (a fork's, all in memory)      extents
//!                        v
//!                     Buffer (a verified block)              buf ── ondisk
//!                        v
//!                     block::Queue
//! ```
//!
//! | module | |
//! |--------|--|
//! | [`mount`], [`features`] | mounting, what is supported, `statfs` |
//! | [`geometry`] | sizes, and arithmetic of block and inode numbers |
//! | [`types`] | units and small values |
//! | [`inode`] | in-core inodes, `ILOCK`, sequences |
//! | [`map`] | extents as maps for the iomap layer |
//! | [`extents`] | a fork's extents |
//! | [`dir`], [`attr`], `da`, `symlink` | names, attributes, hash trees, link targets |
//! | [`ag`], [`btree`] | allocation groups and their trees |
//! | [`log`] | the log; for now only: was the file system unmounted? |
//! | [`buf`] | the cache of metadata blocks |
//! | [`ondisk`] | the structures on disk |
//!
//! What comes from the disk is never believed: each block is verified when it is read
//! (checksum, identity, owner, shape), each number before it is used. Trees are walked
//! with explicit stacks and rising keys, so damage can neither recurse nor loop.
//!
//! Owns: metadata, in-core inodes. Does not own: file contents (pagecache), names and
//! open files (vfs). Locks: `ILOCK` (an inode), `BUFFER` (a block), `BUFFER_CACHE`,
//! `INODE_CACHE` (the two tables).

pub mod ag;
pub mod alloc;
pub mod attr;
pub mod bmap;
pub mod btree;
pub mod buf;
mod buf_index;
pub mod buf_item;
pub mod check;
pub mod counters;
mod da;
pub mod defer;
pub mod dir;
pub mod extents;
mod fallocate;
pub mod features;
pub mod geometry;
mod hints;
mod ialloc;
pub mod inode;
mod inode_item;
pub mod log;
pub mod map;
pub mod mount;
pub mod namespace;
pub mod ondisk;
mod perag;
pub mod refcount;
mod reflink;
pub mod reservation;
pub mod rmap;
mod symlink;
mod times;
pub mod trans;
mod truncate;
pub mod types;

pub use geometry::Geometry;
pub use hints::FsXattr;
pub use inode::{ForkKind, Inode};
pub use map::FileExtent;
pub use mount::{Mount, MountError, MountOptions};
pub use types::{Attributes, DirEntry, FileType, FsBlock, Ino, StatFs, Timestamp};
