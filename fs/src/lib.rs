//! Holdfast's storage stack: from a system call down to the sectors of a disk.
//!
//! The folders are the data's way, top down:
//!
//! ```text
//! syscall   Linux's calls on a Process: descriptors, paths, errno        syscall/
//!    |
//! vfs       in-core inodes, open files, path lookup                       vfs/
//!    |  \
//!    |   mm  address spaces, faults, msync                                mm/
//!    |  /
//! iomap     read, write, zero, mkwrite, writeback: folio by folio,        iomap/
//!    |      under a mapping whose validity is checked
//! pagecache folios, index, dirty tags, LRU, readahead, reclaim,           pagecache/
//!    |      writeback threads, throttling
//! xfs       what lies where: inodes, extents, directories, on disk        xfs/
//!    |
//! block     bio, merging, devices                                         block/
//! ```
//!
//! One body of code runs in the kernel, on the host under `std` threads, and on
//! the host under a deterministic scheduler. What differs lies behind
//! [`holdfast_sync`] (locks, threads, time) and [`platform`] (pages, page tables,
//! the wall clock, randomness). There is no `unsafe` here.
//!
//! The lock order is the table in [`locks`].

#![cfg_attr(not(feature = "std"), no_std)]
#![deny(unsafe_code)]

extern crate alloc;

pub mod block;
pub mod error;
pub mod iomap;
pub mod lab;
pub mod locks;
pub mod mm;
pub mod pagecache;
pub mod platform;
pub mod syscall;
pub mod vfs;
pub mod xfs;

pub use error::{Corruption, Error, Result};
