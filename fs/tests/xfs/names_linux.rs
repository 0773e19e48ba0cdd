//! Names and attributes that we made, judged by Linux, and such that Linux made, taken
//! away by us. Between the two tests a Linux guest works on the image:
//!
//! ```text
//! HOLDFAST_IMAGE=x cargo test … --test xfs -- --ignored makes_names
//! ./run.sh linux-guest --disk x -- "$(cat fs/tests/names_linux.sh)"
//! HOLDFAST_IMAGE=x cargo test … --test xfs -- --ignored takes_names
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use crate::xfs_support::{judge_file, mkfs, mount_disk, walk};
use holdfast_fs::block::{Completion, FileDisk};
use holdfast_fs::xfs::namespace::{Create, NewKind};
use holdfast_fs::xfs::{Inode, Mount};

fn image() -> PathBuf {
    std::env::var_os("HOLDFAST_IMAGE").expect("HOLDFAST_IMAGE names the image").into()
}

fn mount() -> Arc<Mount> {
    let disk = FileDisk::open(&image(), false, Completion::Inline).expect("the image");
    mount_disk(disk, false).expect("it mounts")
}

fn make(mount: &Arc<Mount>, dir: &Inode, name: &str, kind: NewKind<'_>) -> Arc<Inode> {
    let create = Create { mode: 0o755, umask: 0, uid: 0, gid: 0, kind };
    mount.create(dir, name.as_bytes(), &create).expect("it can be made")
}

/// 2,048 names of 22 bytes with one hash.
fn colliding(i: usize) -> Vec<u8> {
    (0..11).flat_map(|bit| if i >> bit & 1 == 0 { *b"bA" } else { *b"c\xc1" }).collect()
}

#[test]
#[ignore = "makes an image for a Linux guest: see the head of this file"]
fn makes_names() {
    mkfs(&image(), 320, &["-b", "size=1024", "-n", "size=4096"], None);
    let mount = mount();
    let root = mount.inode(mount.root()).expect("the root");
    let file = make(&mount, &root, "file", NewKind::Regular);
    for (dir, count) in [("sf", 8), ("block", 50), ("leaf", 400), ("node", 9000)] {
        let dir = make(&mount, &root, dir, NewKind::Directory);
        // Twice as many, and half of them away again.
        for i in 0..2 * count {
            let name = format!("{i}-{}", "n".repeat(i % 60));
            mount.link(&dir, name.as_bytes(), &file, false).expect("linked");
        }
        for i in (0..2 * count).filter(|i| i % 2 == 1) {
            let name = format!("{i}-{}", "n".repeat(i % 60));
            mount.unlink(&dir, name.as_bytes(), &file).expect("unlinked");
        }
    }
    let dir = make(&mount, &root, "colliding", NewKind::Directory);
    for i in 0..2048 {
        mount.link(&dir, &colliding(i), &file, false).expect("linked");
    }
    make(&mount, &root, "short", NewKind::Symlink(b"sf"));
    make(&mount, &root, "long", NewKind::Symlink(&[b't'; 1023]));
    for (name, count, length) in
        [("few", 2, 10), ("leafy", 8, 50), ("many", 400, 90), ("large", 5, 50_000)]
    {
        let inode = make(&mount, &root, name, NewKind::Regular);
        for i in 0..2 * count {
            let name = format!("user.attribute-{i}");
            inode.setxattr(name.as_bytes(), &vec![b'a'; length + i], 1).expect("set");
        }
        for i in (0..2 * count).filter(|i| i % 2 == 1) {
            inode.removexattr(format!("user.attribute-{i}").as_bytes()).expect("removed");
        }
    }
    mount.unmount().expect("it can be unmounted");
}

#[test]
#[ignore = "needs an image that a Linux guest worked on: see the head of this file"]
fn takes_names() {
    judge_file(&image());
    let mount = mount();
    let root = mount.inode(mount.root()).expect("the root");
    for name in ["sf", "block", "leaf", "node", "colliding", "few", "leafy", "many", "large"] {
        assert!(root.lookup(name.as_bytes()).is_err(), "Linux removed {name}");
    }
    let dir = walk::resolve(&mount, "linux").expect("what Linux made");
    let entries = walk::list(&dir).expect("it can be listed");
    assert_eq!(entries.len(), 3002);
    for (name, ino, _) in entries.iter().filter(|(n, ..)| n != b"." && n != b"..") {
        let inode = mount.inode(*ino).expect("a file");
        for attribute in inode.listxattr().expect("the names of its attributes") {
            inode.removexattr(&attribute).expect("removed");
        }
        mount.unlink(&dir, name, &inode).expect("unlinked");
        mount.inactivate(&inode);
    }
    assert_eq!(dir.attributes().blocks, 0);
    mount.rmdir(&root, b"linux", &dir).expect("removed");
    mount.inactivate(&dir);
    mount.unmount().expect("it can be unmounted");
    judge_file(&image());
}
