//! A whole image: the input is a list of changes, four bytes each, to its metadata;
//! after each the checksum of the block it hit is made right.
//!
//! `cargo fuzz run -s none image` (stable), or with a sanitizer on nightly.
#![no_main]

#[path = "../../tests/xfs_support/mod.rs"]
mod xfs_support;

use std::sync::{Arc, OnceLock};

use libfuzzer_sys::fuzz_target;
use xfs_support::{Scratch, craft, disk_over, exercise, mount_disk, mutate};

/// The image, and its blocks that start with a magic number: offset and length.
type Base = (Arc<Vec<u8>>, Vec<(usize, usize)>);

fn base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    BASE.get_or_init(|| {
        let scratch = Scratch::new("fuzz-image");
        let options = ["-b", "size=1024", "-n", "size=4096", "-m", "rmapbt=1,reflink=1"];
        let image = craft::image(&scratch, "image", 36, &options);
        let kind = |at: usize| {
            use holdfast_fs::xfs::ondisk::block::BlockKind as Kind;
            let bytes = &image[at..];
            match Kind::identify(bytes) {
                _ if bytes.starts_with(b"XFSB") || bytes.starts_with(b"IN") => Some(512),
                Some(Kind::Agf | Kind::Agi | Kind::Agfl) => Some(512),
                Some(Kind::DirBlock | Kind::DirData | Kind::DirLeaf1 | Kind::DirLeafN) => {
                    Some(4096)
                }
                Some(Kind::DirFree) => Some(4096),
                Some(_) => Some(1024),
                None => None,
            }
        };
        let end = image.len() - 4096;
        let blocks = (0..end).step_by(512).filter_map(|at| Some((at, kind(at)?))).collect();
        (Arc::new(image), blocks)
    })
}

fuzz_target!(|data: &[u8]| {
    let (image, blocks) = base();
    let disk = disk_over(image.clone());
    for change in data.chunks_exact(4).take(64) {
        let choice = u16::from_be_bytes([change[0], change[1]]);
        let (at, len) = blocks[usize::from(choice) % blocks.len()];
        let mut bytes = image[at..at + len].to_vec();
        // Headers are hit more often than the rest.
        let place = usize::from(change[2]) * if choice & 1 == 0 { 1 } else { len / 256 };
        bytes[place % len] = change[3];
        mutate::stamp(&mut bytes);
        disk.poke_bytes(at as u64, &bytes);
    }
    if let Ok(mount) = mount_disk(disk, false) {
        exercise::exercise(&mount);
    }
});
