//! The same code under a deterministic scheduler, seed by seed.
#![cfg(feature = "shuttle")]

#[path = "../machine/mod.rs"]
mod machine;
#[path = "../mapped/mod.rs"]
mod mapped;
#[path = "../schedules/mod.rs"]
mod schedules;
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

mod copies;
#[path = "../xfs/log_space.rs"]
mod log_space;
mod mapped_files;
mod model;
mod names;
mod pagecache;
mod throttle;
mod vfs;
mod whole;
mod xfs;
