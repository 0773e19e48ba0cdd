//! The page cache and mapped files above a file system that is a model.
#![cfg(not(feature = "shuttle"))]

#[path = "../mapped/mod.rs"]
mod mapped;
#[path = "../support/mod.rs"]
mod support;

mod folios;
mod mapped_files;
mod model_file;
mod pagecache;
mod semantics;
