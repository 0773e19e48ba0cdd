//! XFS on images that mkfs.xfs made: each layer by itself, then files and names through
//! system calls, then damage, logs and recovery; judged by xfsprogs.
#![cfg(not(feature = "shuttle"))]

#[path = "../alloc_support/mod.rs"]
mod alloc_support;
#[path = "../bmap_support/mod.rs"]
mod bmap_support;
#[path = "../recovery_support/mod.rs"]
mod recovery_support;
#[path = "../support/mod.rs"]
mod support;
#[path = "../volume/mod.rs"]
mod volume;
#[path = "../xfs_log_support/mod.rs"]
mod xfs_log_support;
#[path = "../xfs_support/mod.rs"]
mod xfs_support;
#[path = "../xfsprogs/mod.rs"]
mod xfsprogs;

mod acl;
mod alloc;
mod attr;
mod bmap;
mod btree;
mod buffer_limit;
mod check;
mod copies;
mod device;
mod dir;
mod files;
mod flags;
mod full_disk;
mod held_inodes;
mod hints;
mod hostile;
mod images;
mod injection;
mod linux;
mod log;
mod log_crash;
mod log_space;
mod mount;
mod names_linux;
mod namespace;
mod parents;
mod parsers;
mod recovery;
mod recovery_linux;
mod recovery_time;
mod recovery_torn;
