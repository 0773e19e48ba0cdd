//! Images that Linux filled (populate.sh), compared with the manifests Linux made.
//!
//! `HOLDFAST_POPULATED` names directories, separated by colons, each with an image
//! `disk` and its manifests in `m/`.

use std::path::Path;

use crate::xfs_support::{manifest, mount_disk};

use holdfast_fs::block::{Completion, FileDisk};

#[test]
#[ignore = "needs images made by a Linux guest: see populate.sh and HOLDFAST_POPULATED"]
fn everything_is_as_linux_left_it() {
    let dirs = std::env::var("HOLDFAST_POPULATED").expect("HOLDFAST_POPULATED is not set");
    for dir in dirs.split(':') {
        let dir = Path::new(dir);
        let disk = FileDisk::open(&dir.join("disk"), true, Completion::Inline).expect("image");
        let mount = mount_disk(disk, false).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let facts = manifest::compare(&mount, &dir.join("m"));
        println!("{}: {facts} facts agree, {:?}", dir.display(), mount.buffers().statistics());
    }
}
