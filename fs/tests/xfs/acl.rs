//! Access control lists: set, read back, tied to the mode, inherited; on disk as Linux
//! keeps them, which xfs_db and xfs_repair tell, and whole after a power cut.

use std::sync::Arc;

use holdfast_fs::block::TraceDisk;
use holdfast_fs::syscall::{AT_FDCWD, AtFlags, OpenFlags, Process, XattrFlags};
use holdfast_fs::xfs::namespace::{Create, NewKind};
use holdfast_fs::xfs::{FileType, Inode};

use crate::attr::{Random, after_cut};
use crate::volume::{Volume, code, errno, mkfs};
use crate::xfs_support::{Scratch, disk_over, mount_disk, walk, xfs_db};

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
const ANY: XattrFlags = XattrFlags::empty();
const NOBODY: u32 = u32::MAX;

const OWNER: u16 = 1;
const USER: u16 = 2;
const OWNING_GROUP: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 0x10;
const OTHERS: u16 = 0x20;

type Entry = (u16, u16, u32);

fn list(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// `u::o,u:1000:rw,g::r,m::rwx,o::x` with the permissions given for owner, mask, others.
fn named(owner: u16, mask: u16, others: u16) -> Vec<u8> {
    list(&[
        (OWNER, owner, NOBODY),
        (USER, 6, 1000),
        (OWNING_GROUP, 4, NOBODY),
        (MASK, mask, NOBODY),
        (OTHERS, others, NOBODY),
    ])
}

fn plain(mode: u16) -> Vec<u8> {
    let (owner, group, others) = (mode >> 6 & 7, mode >> 3 & 7, mode & 7);
    list(&[(OWNER, owner, NOBODY), (OWNING_GROUP, group, NOBODY), (OTHERS, others, NOBODY)])
}

/// A list of so many named users.
fn long(users: u32) -> Vec<u8> {
    let mut entries = vec![(OWNER, 7, NOBODY)];
    entries.extend((0..users).map(|id| (USER, (id % 8) as u16, id)));
    entries.extend([(OWNING_GROUP, 5, NOBODY), (MASK, 7, NOBODY), (OTHERS, 0, NOBODY)]);
    list(&entries)
}

fn mode(p: &Process, path: &[u8]) -> u32 {
    p.lstat(path).unwrap().mode & 0o7777
}

#[test]
fn an_access_list_goes_with_the_mode() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    v.touch(b"/f").unwrap();
    assert_eq!(errno(p.getxattr(b"/f", ACCESS)), 61);
    p.setxattr(b"/f", ACCESS, &named(7, 6, 1), ANY).unwrap();
    assert_eq!(mode(p, b"/f"), 0o761);
    assert_eq!(p.getxattr(b"/f", ACCESS).unwrap(), named(7, 6, 1));
    let mut names = p.listxattr(b"/f").unwrap();
    names.sort();
    assert_eq!(names, [ACCESS, b"trusted.SGI_ACL_FILE"]);
    // The mask is the group's bits.
    p.chmod(b"/f", 0o4514).unwrap();
    assert_eq!(p.getxattr(b"/f", ACCESS).unwrap(), named(5, 1, 4));
    assert_eq!(mode(p, b"/f"), 0o4514);
    // What is there is replaced whatever the flags say.
    p.setxattr(b"/f", ACCESS, &named(6, 4, 0), XattrFlags::CREATE).unwrap();
    assert_eq!(mode(p, b"/f"), 0o4640);
    let v = Volume::over(&v.finish());
    let p = &v.process;
    assert_eq!(p.getxattr(b"/f", ACCESS).unwrap(), named(6, 4, 0));
    // One that says no more than the mode is the mode.
    p.setxattr(b"/f", ACCESS, &plain(0o755), ANY).unwrap();
    assert_eq!(mode(p, b"/f"), 0o4755);
    assert!(p.listxattr(b"/f").unwrap().is_empty());
    p.setxattr(b"/f", ACCESS, &plain(0o600), ANY).unwrap();
    assert_eq!((mode(p, b"/f"), errno(p.getxattr(b"/f", ACCESS))), (0o4600, 61));
    // Removing: the mode stays; what is not there can be removed.
    p.setxattr(b"/f", ACCESS, &named(7, 7, 7), ANY).unwrap();
    p.removexattr(b"/f", ACCESS).unwrap();
    p.removexattr(b"/f", ACCESS).unwrap();
    assert_eq!((mode(p, b"/f"), p.listxattr(b"/f").unwrap().len()), (0o4777, 0));
    v.finish();
}

#[test]
fn errors_are_those_of_linux() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    v.touch(b"/f").unwrap();
    p.mkdir(b"/d", 0o755).unwrap();
    p.symlink(b"f", b"/l").unwrap();
    let set = |path, name, value: &[u8]| code(p.lsetxattr(path, name, value, ANY));
    let good = named(7, 7, 7);
    let mut wrong_version = good.clone();
    wrong_version[0] = 1;
    let without_mask = list(&[
        (OWNER, 7, NOBODY),
        (USER, 6, 1000),
        (OWNING_GROUP, 4, NOBODY),
        (OTHERS, 0, NOBODY),
    ]);
    let out_of_order = list(&[
        (OWNER, 7, NOBODY),
        (GROUP, 6, 1000),
        (OWNING_GROUP, 4, NOBODY),
        (MASK, 4, NOBODY),
        (OTHERS, 0, NOBODY),
    ]);
    for (what, is, expected) in [
        ("empty", set(b"/f", ACCESS, b""), 22),
        ("half a head", set(b"/f", ACCESS, &good[..3]), 22),
        ("half an entry", set(b"/f", ACCESS, &good[..good.len() - 1]), 22),
        ("version", set(b"/f", ACCESS, &wrong_version), 95),
        ("an entry too few", set(b"/f", ACCESS, &good[..good.len() - 8]), 22),
        ("no mask", set(b"/f", ACCESS, &without_mask), 22),
        ("order", set(b"/f", ACCESS, &out_of_order), 22),
        ("too many", set(b"/f", ACCESS, &long(5500)), 7),
        ("default of a file", set(b"/f", DEFAULT, &good), 13),
        ("no default of a file", code(p.removexattr(b"/f", DEFAULT)), 0),
        ("no entries at all", set(b"/f", ACCESS, &good[..4]), 0),
        ("a link", set(b"/l", ACCESS, &good), 95),
        ("of a link", code(p.lgetxattr(b"/l", ACCESS)), 95),
        ("another name", set(b"/f", b"system.posix_acl_other", &good), 95),
        ("no default", code(p.getxattr(b"/d", DEFAULT)), 61),
        ("a default", set(b"/d", DEFAULT, &good), 0),
    ] {
        assert_eq!(is, expected, "{what}");
    }
    assert_eq!(mode(p, b"/f"), 0o644);
    v.finish();
}

/// What is made in a directory with a default list, with it and without.
fn inherit(options: &[&str]) {
    let v = Volume::over(&mkfs(24, options));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    v.touch(b"/d/before").unwrap();
    p.setxattr(b"/d", DEFAULT, &named(7, 7, 5), ANY).unwrap();
    assert_eq!(mode(p, b"/d"), 0o755);
    let fd = p.open(b"/d/f", OpenFlags::RDWR | OpenFlags::CREAT, 0o666).unwrap();
    p.close(fd).unwrap();
    // The umask, 022, is passed over.
    assert_eq!(mode(p, b"/d/f"), 0o664);
    assert_eq!(p.getxattr(b"/d/f", ACCESS).unwrap(), named(6, 6, 4));
    assert_eq!(errno(p.getxattr(b"/d/f", DEFAULT)), 61);
    p.mkdir(b"/d/d", 0o750).unwrap();
    assert_eq!(mode(p, b"/d/d"), 0o750);
    assert_eq!(p.getxattr(b"/d/d", ACCESS).unwrap(), named(7, 5, 0));
    assert_eq!(p.getxattr(b"/d/d", DEFAULT).unwrap(), named(7, 7, 5));
    p.mknod(b"/d/d/pipe", 0o010_600, (0, 0)).unwrap();
    assert_eq!(p.getxattr(b"/d/d/pipe", ACCESS).unwrap(), named(6, 0, 0));
    p.symlink(b"f", b"/d/l").unwrap();
    assert!(p.llistxattr(b"/d/l").unwrap().is_empty());
    assert_eq!(mode(p, b"/d/l"), 0o777);
    // A file without a name, that gets one.
    let fd = p.open(b"/d", OpenFlags::TMPFILE | OpenFlags::RDWR, 0o640).unwrap();
    p.linkat(fd, b"", AT_FDCWD, b"/d/named", AtFlags::EMPTY_PATH).unwrap();
    p.close(fd).unwrap();
    assert_eq!(p.getxattr(b"/d/named", ACCESS).unwrap(), named(6, 4, 0));
    // A default that says no more than a mode is a mask.
    p.setxattr(b"/d/d", DEFAULT, &plain(0o700), ANY).unwrap();
    v.touch(b"/d/d/bare").unwrap();
    assert_eq!((mode(p, b"/d/d/bare"), p.listxattr(b"/d/d/bare").unwrap().len()), (0o600, 0));
    p.mkdir(b"/d/d/e", 0o777).unwrap();
    assert_eq!(mode(p, b"/d/d/e"), 0o700);
    assert_eq!(p.getxattr(b"/d/d/e", DEFAULT).unwrap(), plain(0o700));
    // Lists that fit no inode, and no leaf.
    for (name, users) in [(b"/d/a", 40), (b"/d/b", 250), (b"/d/c", 3000)] {
        p.mkdir(name, 0o777).unwrap();
        p.setxattr(name, DEFAULT, &long(users), ANY).unwrap();
        let inside = [&name[..], b"/x"].concat();
        p.mkdir(&inside, 0o777).unwrap();
        assert!(p.getxattr(&inside, DEFAULT).unwrap() == long(users));
        assert!(p.getxattr(&inside, ACCESS).unwrap() == long(users));
        let deeper = [&inside[..], b"/y"].concat();
        v.touch(&deeper).unwrap();
        assert_eq!(mode(p, &deeper), 0o660);
    }
    p.removexattr(b"/d", DEFAULT).unwrap();
    v.touch(b"/d/after").unwrap();
    assert_eq!((mode(p, b"/d/after"), p.listxattr(b"/d/after").unwrap().len()), (0o644, 0));
    let v = Volume::over(&v.finish());
    let p = &v.process;
    assert_eq!(p.getxattr(b"/d/d", ACCESS).unwrap(), named(7, 5, 0));
    assert_eq!(p.getxattr(b"/d/d/e", DEFAULT).unwrap(), plain(0o700));
    assert!(p.getxattr(b"/d/c/x", ACCESS).unwrap() == long(3000));
    v.touch(b"/d/d/e/late").unwrap();
    assert_eq!(mode(p, b"/d/d/e/late"), 0o600);
    // Known by the name that it has on disk, too.
    let raw = p.getxattr(b"/d/c/x", b"trusted.SGI_ACL_DEFAULT").unwrap();
    p.setxattr(b"/d", b"trusted.SGI_ACL_DEFAULT", &raw, ANY).unwrap();
    v.touch(b"/d/late").unwrap();
    assert_eq!(mode(p, b"/d/late"), 0o660);
    for path in [&b"/d/late"[..], b"/d/d/e/late", b"/d/d/pipe", b"/d/c/x/y", b"/d/named"] {
        p.unlink(path).unwrap();
    }
    for path in [&b"/d/c/x"[..], b"/d/c", b"/d/b/x/../x"] {
        let _ = p.rmdir(path);
    }
    v.finish();
}

#[test]
fn lists_are_inherited() {
    inherit(&[]);
    inherit(&["-b", "size=1024", "-m", "rmapbt=1"]);
    inherit(&["-i", "size=2048", "-m", "finobt=0,reflink=0"]);
}

/// What xfs_db sees of the lists in the inodes.
#[test]
fn lists_lie_on_disk_as_linux_keeps_them() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    p.mkdir(b"/d", 0o755).unwrap();
    p.setxattr(b"/d", DEFAULT, &named(7, 5, 1), ANY).unwrap();
    v.touch(b"/d/f").unwrap();
    let number = p.stat(b"/d/f").unwrap().ino;
    let directory = p.stat(b"/d").unwrap().ino;
    let image = v.finish();
    let scratch = Scratch::new("acl");
    let path = scratch.path("image");
    std::fs::write(&path, &image[..]).unwrap();
    let text = xfs_db(&path, &[&format!("inode {number}"), "print core.mode core.forkoff a"]);
    assert!(text.contains("core.mode = 0100640"), "{text}");
    assert!(text.contains("name = \"SGI_ACL_FILE\"") && text.contains("root = 1"), "{text}");
    // u::rw-,u:1000:rw-,g::r--,m::r-x & rw-,o::--x & ---
    let mut lies = b"SGI_ACL_FILE\0\0\0\x05".to_vec();
    for (tag, id, bits) in
        [(1_u32, NOBODY, 6_u16), (2, 1000, 6), (4, NOBODY, 4), (16, NOBODY, 4), (32, NOBODY, 0)]
    {
        lies.extend([tag.to_be_bytes(), id.to_be_bytes()].concat());
        lies.extend([bits.to_be_bytes(), [0; 2]].concat());
    }
    assert!(image.windows(lies.len()).any(|bytes| bytes == lies), "{text}");
    let text = xfs_db(&path, &[&format!("inode {directory}"), "print a"]);
    assert!(text.contains("name = \"SGI_ACL_DEFAULT\""), "{text}");
}

/// Whatever the power cut leaves: what was made in a directory with a default list has its
/// list, or is not there.
#[test]
fn nothing_is_made_without_its_list() {
    let base = mkfs(16, &["-b", "size=1024"]);
    let trace = TraceDisk::new(disk_over(base.clone()));
    let mount = mount_disk(trace.clone(), false).expect("it mounts");
    let root = mount.inode(mount.root()).expect("the root");
    let make = |dir: &Inode, name: &str, kind| {
        let create = Create { mode: 0o777, umask: 0o77, uid: 0, gid: 0, kind };
        mount.create(dir, name.as_bytes(), &create).expect("made")
    };
    let default = [named(7, 5, 1), long(30), long(400)];
    let dirs: Vec<Arc<Inode>> = (0..3)
        .map(|n| make(&root, &format!("d{n}"), NewKind::Directory))
        .inspect(|dir| assert_eq!(dir.attributes().mode & 0o777, 0o700))
        .collect();
    for (dir, default) in dirs.iter().zip(&default) {
        dir.setxattr(DEFAULT, default, 0).expect("set");
        dir.log_force(false).expect("forced");
    }
    let made = trace.events().len();
    for round in 0..6 {
        for dir in &dirs {
            make(dir, &format!("f{round}"), NewKind::Regular);
            make(dir, &format!("s{round}"), NewKind::Directory);
            make(dir, &format!("p{round}"), NewKind::Special(FileType::Fifo, (0, 0)));
        }
        dirs[2].log_force(false).expect("forced");
    }
    let events = trace.events();
    let mut random = Random(7);
    let (mut missing, mut there) = (0, 0);
    for cut in (made..=events.len()).step_by(3) {
        let bytes = Arc::new(after_cut(&base, &events, cut, &mut random));
        let mount =
            mount_disk(disk_over(bytes), false).unwrap_or_else(|e| panic!("cut at {cut}: {e}"));
        for (n, default) in default.iter().enumerate() {
            for name in
                (0..6).flat_map(|round| ["f", "s", "p"].map(|kind| format!("{kind}{round}")))
            {
                let Ok(inode) = walk::resolve(&mount, &format!("d{n}/{name}")) else {
                    missing += 1;
                    continue;
                };
                there += 1;
                let access = inode.getxattr(ACCESS).unwrap_or_else(|e| panic!("{cut} {name}: {e}"));
                assert!(access == *default, "cut at {cut}: d{n}/{name}");
                let inherited = inode.getxattr(DEFAULT).ok();
                assert_eq!(inherited.is_some(), name.starts_with('s'), "cut at {cut}: {name}");
            }
        }
    }
    assert!(missing > 10 && there > 10, "{missing} missing, {there} there");
}
