//! A disk without a single block to be promised: what needs none works, what gives blocks
//! back works, and everything else is refused and leaves no trace; judged by xfs_repair.

use crate::volume::tree::ENOSPC;
use crate::volume::{Volume, code, errno, mkfs};
use holdfast_fs::syscall::OpenFlags;
use holdfast_fs::vfs::FallocateMode;

/// Megabytes, options.
const SHAPES: &[(usize, &[&str])] = &[
    (32, &[]),
    (32, &["-b", "size=1024", "-m", "rmapbt=1"]),
    (32, &["-n", "size=8192", "-m", "finobt=0,inobtcount=0"]),
    (32, &["-i", "size=1024,sparse=0", "-m", "rmapbt=1", "-b", "size=2048"]),
];

/// Directories, by form, and how many names of some 20 bytes make it of that form.
fn directories(block_bytes: usize) -> [(&'static str, usize); 4] {
    let in_block = block_bytes / 48;
    [("inline", 2), ("block", in_block * 3 / 4), ("leaf", in_block * 4), ("node", in_block * 16)]
}

/// Take every block that is left, until this is dropped.
fn take_all(v: &Volume) -> u64 {
    let counters = v.fs.mount().counters();
    let left = counters.free_blocks();
    counters.reserve(left).expect("they are there");
    assert_eq!(counters.free_blocks(), 0);
    left
}

/// The blocks that [`take_all`] took, and those that were freed since.
fn give_back(v: &Volume, taken: u64) {
    v.fs.mount().counters().give_back(taken);
}

fn prepare(v: &Volume, forms: &[(&str, usize)]) {
    let p = &v.process;
    v.touch(b"/file").unwrap();
    for (form, names) in forms {
        p.mkdir(format!("/{form}").as_bytes(), 0o755).unwrap();
        for n in 0..*names {
            p.link(b"/file", format!("/{form}/a-name-like-any-{n:04}").as_bytes()).unwrap();
        }
        // A name that goes leaves room for another, in the middle too.
        if *names > 10 {
            p.unlink(format!("/{form}/a-name-like-any-{:04}", names / 2).as_bytes()).unwrap();
        }
    }
    p.mkdir(b"/moved", 0o755).unwrap();
    for n in 0..8 {
        v.touch(format!("/moved/{n}").as_bytes()).unwrap();
    }
    p.mkdir(b"/moved/directory", 0o755).unwrap();
    p.mkdir(b"/empty", 0o755).unwrap();
    // Files with extents of many kinds: one, many in the inode, a tree.
    for (name, pieces) in [("one", 1), ("some", 9), ("tree", 300)] {
        let fd = v.create(format!("/{name}").as_bytes()).unwrap();
        for n in 0..pieces {
            p.fallocate(fd, FallocateMode::empty(), n * 16384, 8192).unwrap();
        }
        p.close(fd).unwrap();
    }
}

/// What takes no block: names where there is room for them, inodes of existing chunks.
fn names_without_blocks(v: &Volume, form: &str, n: usize) {
    let p = &v.process;
    let path = |name: &str| format!("/{form}/{name}").into_bytes();
    let what = |call: &str, code: i32| assert_eq!(code, 0, "{call} in the {form} directory");
    what("link", code(p.link(b"/file", &path("new"))));
    p.unlink(&path("new")).unwrap();
    what("rename", code(p.rename(format!("/moved/{n}").as_bytes(), &path("moved"))));
    p.rename(&path("moved"), format!("/moved/{n}").as_bytes()).unwrap();
    what("rename of a directory", code(p.rename(b"/moved/directory", &path("moved"))));
    p.rename(&path("moved"), b"/moved/directory").unwrap();
    what("create", code(v.touch(&path("new"))));
    what("rename over", code(p.rename(format!("/moved/{}", n + 4).as_bytes(), &path("new"))));
    p.unlink(&path("new")).unwrap();
    what("mkdir", code(p.mkdir(&path("new"), 0o755)));
    p.rmdir(&path("new")).unwrap();
    what("symlink", code(p.symlink(b"target", &path("new"))));
    p.unlink(&path("new")).unwrap();
}

/// Add names until one would take a block: then nothing has changed.
fn names_until_refused(v: &Volume, form: &str) -> usize {
    let p = &v.process;
    for n in 0..5000 {
        let name = format!("/{form}/one-more-name-{n:05}").into_bytes();
        match code(p.link(b"/file", &name)) {
            0 => {}
            ENOSPC => {
                assert!(p.stat(&name).is_err());
                assert_eq!(errno(v.touch(&name)), ENOSPC);
                assert_eq!(errno(p.mkdir(&name, 0o755)), ENOSPC);
                assert_eq!(errno(p.rename(b"/moved/0", &name)), ENOSPC);
                assert!(p.stat(b"/moved/0").is_ok());
                return n;
            }
            other => panic!("errno {other}"),
        }
    }
    panic!("/{form} is never full");
}

/// What gives blocks back works, though it may need some for a while.
fn removing(v: &Volume) {
    let p = &v.process;
    for name in ["one", "some", "tree"] {
        let path = format!("/{name}").into_bytes();
        let fd = p.open(&path, OpenFlags::RDWR, 0).unwrap();
        // In the middle of an extent: there is one more then.
        let punch = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
        assert_eq!(code(p.fallocate(fd, punch, 4096, 2048)), 0, "punch {name}");
        assert_eq!(code(p.fallocate(fd, punch, 0, 4096)), 0, "punch {name}");
        p.close(fd).unwrap();
        assert_eq!(code(p.truncate(&path, 5000)), 0, "truncate {name}");
        assert_eq!(code(p.unlink(&path)), 0, "unlink {name}");
    }
    assert_eq!(code(p.rmdir(b"/empty")), 0, "rmdir");
}

#[test]
fn what_needs_no_block_works_on_a_full_disk() {
    for (megabytes, options) in SHAPES {
        let v = Volume::over(&mkfs(*megabytes, options));
        let p = &v.process;
        let block_bytes = v.fs.mount().geometry().dir_block_bytes();
        let forms = directories(block_bytes);
        prepare(&v, &forms);
        p.sync();
        let taken = take_all(&v);
        for (n, (form, _)) in forms.iter().enumerate() {
            names_without_blocks(&v, form, n);
        }
        // What was freed meanwhile goes, too.
        let more = take_all(&v);
        for (form, _) in forms {
            let added = names_until_refused(&v, form);
            println!("{options:?}: {added} names more in the {form} directory");
            assert!(added > 0);
        }
        assert!(!v.fs.mount().is_shut_down());
        let more = more + take_all(&v);
        removing(&v);
        for (form, _) in forms {
            for name in v.list(format!("/{form}").as_bytes()) {
                let path = [format!("/{form}/").as_bytes(), &name].concat();
                assert_eq!(code(p.unlink(&path)), 0, "unlink in the {form} directory");
            }
            assert_eq!(code(p.rmdir(format!("/{form}").as_bytes())), 0, "rmdir {form}");
        }
        assert!(!v.fs.mount().is_shut_down());
        give_back(&v, taken + more);
        v.finish();
    }
}
