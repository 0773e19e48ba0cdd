//! Paths, files and mappings through system calls, above a real file system.
#![cfg(not(feature = "shuttle"))]

#[path = "../machine/mod.rs"]
mod machine;

mod io;
mod memory;
mod paths;
