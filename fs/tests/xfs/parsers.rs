//! Every parser against bytes that are nearly right, half right and not right at all.

use std::sync::Arc;

use crate::xfs_support::mutate::{Random, Region, mutate};
use crate::xfs_support::parsers::PARSERS;
use crate::xfs_support::{Scratch, craft, mount_bytes};

#[test]
fn no_parser_panics() {
    let scratch = Scratch::new("xfs-parsers");
    let image =
        craft::image(&scratch, "image", 36, &["-b", "size=1024", "-m", "rmapbt=1,reflink=1"]);
    let image = Arc::new(image);
    let mount = mount_bytes(image.clone(), true).expect("mount");
    let mut geometry = mount.geometry().clone();
    // Blocks that hold anything but the fill, and parts of them (forks of inodes).
    let mut regions = Vec::new();
    for offset in (0..image.len()).step_by(512) {
        let whole = Region { offset, len: 1024.min(image.len() - offset) };
        if whole.of(&image).iter().all(|&b| b == 0xee || b == 0) {
            continue;
        }
        regions.push(whole);
        regions.push(Region { offset, len: 512 });
        regions.push(Region { offset: offset + 176, len: 336 });
    }
    assert!(regions.len() > 1000, "{} regions", regions.len());
    let mut random = Random(3);
    for seed in 0..100_000u64 {
        let bytes = match seed % 10 {
            0 => (0..random.below(1200)).map(|_| random.next() as u8).collect(),
            1 => {
                let m = mutate(&image, &regions, seed);
                let cut = random.below(m.bytes.len());
                m.bytes[..cut].to_vec()
            }
            _ => mutate(&image, &regions, seed).bytes,
        };
        // Directory blocks can be larger than what mkfs made here.
        geometry.dir_block_log = random.below(7) as u32;
        for (name, parse) in PARSERS {
            let result = std::panic::catch_unwind(|| parse(&bytes, &geometry));
            assert!(result.is_ok(), "{name} panicked, seed {seed}");
        }
    }
}
