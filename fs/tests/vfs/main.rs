//! Paths, files and mappings through system calls, above a real file system.
#![cfg(not(feature = "shuttle"))]

#[path = "../machine/mod.rs"]
mod machine;
#[path = "../xfsprogs/mod.rs"]
mod xfsprogs;

mod io;
mod memory;
mod paths;
