//! The cache of metadata blocks stays as small as it is said to be, though the log has room
//! for many times as many changes: blocks are written in place to make room.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::volume::{Volume, mkfs};
use crate::xfs_support::disk_over;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::OpenFlags;
use holdfast_fs::vfs::FallocateMode;

/// Pages of memory, and what of it the cache may take: the least it ever gets.
const PAGES: u64 = 1024;
const LIMIT_BYTES: usize = 256 << 10;

fn volume() -> Volume {
    let image = mkfs(128, &["-d", "agcount=1", "-l", "size=48m", "-b", "size=1024"]);
    Volume::with_memory(disk_over(image), HostMemory::new(PAGES)).expect("it mounts")
}

/// Do it while somebody looks how many bytes the cache has; the most there were.
fn watched(v: &Volume, work: impl FnOnce()) -> usize {
    let (over, most) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                most.fetch_max(v.fs.mount().buffer_statistics().bytes, Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        // If it fails the watcher ends, too.
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        over.store(true, Ordering::Relaxed);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    most.into_inner()
}

fn names(v: &Volume, worker: usize) {
    let p = &v.process;
    p.mkdir(format!("/{worker}").as_bytes(), 0o755).expect("space");
    let path = |n: usize| format!("/{worker}/a-name-like-any-{n:05}").into_bytes();
    for n in 0..2500 {
        v.touch(&path(n)).expect("space");
    }
    for n in (0..2500).step_by(2) {
        p.unlink(&path(n)).expect("it is there");
    }
}

/// A file of very many extents is cut in one operation of very many steps.
fn extents(v: &Volume) {
    let p = &v.process;
    let files = [&b"/cut"[..], b"/let"].map(|name| v.create(name).expect("space"));
    for n in 0..9000 {
        for fd in files {
            p.fallocate(fd, FallocateMode::empty(), n * 2048, 1024).expect("space");
        }
    }
    for fd in files {
        p.close(fd).expect("open");
    }
    p.truncate(b"/cut", 0).expect("it is there");
}

#[test]
fn dirty_blocks_make_room() {
    for thread in [false, true] {
        let v = volume();
        if thread {
            v.fs.mount().start();
        }
        let one = watched(&v, || names(&v, 9));
        let long = watched(&v, || extents(&v));
        let many = watched(&v, || {
            std::thread::scope(|scope| {
                for worker in 0..4 {
                    let v = &v;
                    scope.spawn(move || names(v, worker));
                }
            });
        });
        let log = v.fs.mount().log().expect("a log");
        let statistics = log.statistics();
        println!("thread {thread}: at most {one}, {long}, {many} bytes; {statistics:?}");
        // What the steps under way change comes on top: a chunk of inodes, some blocks, for
        // each worker. Without a limit it is 1.4 MB for one and 6 MB for four.
        assert!(one.max(long) <= LIMIT_BYTES * 2, "{one} and {long} bytes");
        assert!(many <= LIMIT_BYTES * 4, "{many} bytes");
        assert!(log.head().cycle() <= 2, "the log had room: {:?}", log.head());
        let fd = v.process.open(b"/9/a-name-like-any-00001", OpenFlags::RDONLY, 0).expect("it");
        v.process.close(fd).expect("open");
        v.finish();
    }
}
