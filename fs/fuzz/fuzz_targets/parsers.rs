//! Every parser of an on-disk structure. The first byte chooses the parser, the rest is
//! the structure; a second run has the checksum made right.
//!
//! `cargo fuzz run -s none parsers` (stable), or with a sanitizer on nightly.
#![no_main]

#[path = "../../tests/xfs_support/mod.rs"]
mod xfs_support;

use std::sync::{Arc, OnceLock};

use holdfast_fs::xfs::Geometry;
use libfuzzer_sys::fuzz_target;
use xfs_support::{Scratch, mkfs, mount_bytes, mutate, parsers::PARSERS};

fn geometry() -> &'static Geometry {
    static GEOMETRY: OnceLock<Geometry> = OnceLock::new();
    GEOMETRY.get_or_init(|| {
        let scratch = Scratch::new("fuzz-parsers");
        let image = scratch.path("image");
        mkfs(&image, 36, &["-b", "size=1024", "-m", "rmapbt=1,reflink=1"], None);
        let bytes = std::fs::read(&image).expect("image");
        mount_bytes(Arc::new(bytes), true).expect("mount").geometry().clone()
    })
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, bytes)) = data.split_first() else { return };
    let (_, parse) = PARSERS[usize::from(*choice) % PARSERS.len()];
    parse(bytes, geometry());
    if bytes.len() >= 512 {
        let mut stamped = bytes.to_vec();
        mutate::stamp(&mut stamped);
        parse(&stamped, geometry());
    }
});
