//! XFS version 5: what lies where on the disk, and how that changes.
//!
//! Everything above asks an [`Inode`] of a [`Mount`]; everything is found through
//! metadata blocks in the [`buf`] cache, whose bytes [`ondisk`] understands. Everything
//! that changes does so in a transaction, which is in the [`log`] before it is in place.
//!
//! ```text
//! names    create, link, rename, unlink         begin, writeback_map, writeback_done    data
//!                      |                                        |
//!                  namespace                       map, truncate, fallocate, reflink
//!           ┌──────────┼──────────┐                             |
//!       dir, attr   symlink    ialloc                         bmap
//!           |          |          |                             |
//!          da          |       btree <── alloc, rmap, refcount ─┘
//!           └──────────┴─────┬────┴──────────┘
//!                          trans ── defer         reservation, counters, perag
//!                            |
//!          buf_item, inode_item ──> log ──> in place
//!                            |
//!                           buf ── ondisk
//!                            |
//!                      block::Queue
//! ```
//!
//! | module | |
//! |--------|--|
//! | [`mount`], [`features`] | mounting and unmounting, what is supported, `statfs` |
//! | [`geometry`], [`types`] | sizes, arithmetic of block and inode numbers; units |
//! | [`inode`], `times`, `hints` | in-core inodes, `ILOCK`, sequences; times; flags and hints |
//! | [`namespace`] | operations on names and attributes, each one transaction |
//! | [`dir`], [`attr`], `da`, `symlink` | names, attributes, hash trees, link targets |
//! | [`map`] | extents as maps for the iomap layer, before and after the I/O |
//! | `truncate`, `fallocate`, `reflink` | changes of a file's size and blocks |
//! | [`bmap`], [`extents`] | a fork's extents and delalloc; loading them |
//! | [`alloc`], `ialloc` | free blocks; inodes, made and freed |
//! | [`rmap`], [`refcount`] | whose blocks are, and how often |
//! | [`btree`], [`ag`], `perag` | trees; the groups' headers, read and changed |
//! | [`trans`], [`reservation`], [`defer`] | transactions, their worst cases, what must follow them |
//! | [`counters`] | free blocks and inodes, promised and not |
//! | [`buf_item`], `inode_item` | what of blocks and inodes is logged and not in place |
//! | [`log`] | the log: CIL, checkpoints, AIL, recovery |
//! | [`buf`], `buf_index` | the cache of metadata blocks, its index |
//! | [`ondisk`] | the structures on disk |
//! | [`check`] | the check of a whole file system |
//!
//! What comes from the disk is never believed: each block is verified when it is read
//! (checksum, identity, owner, shape), each number before it is used. Trees are walked
//! with explicit stacks and rising keys, so damage can neither recurse nor loop.
//!
//! Owns: metadata, in-core inodes. Does not own: file contents (pagecache), names and
//! open files (vfs). Locks: `ILOCK` (an inode), `AGI` and `AGF` (a group), `BUFFER` (a
//! block), `BUFFER_CACHE` and `INODE_CACHE` (the two tables), `BUFFER_ITEM`; those of the
//! log.

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
pub use ondisk::inode::Flags;
pub use types::{Attributes, DirEntry, FileType, FsBlock, Ino, StatFs, Timestamp};
