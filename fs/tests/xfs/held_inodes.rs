//! Who holds an inode locked while he waits for another may not keep the log's tail: that
//! other one can be held by somebody who waits for the tail to move.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::volume::{Volume, mkfs};
use holdfast_fs::syscall::OpenFlags;
use holdfast_fs::vfs::FallocateMode;
use holdfast_fs::xfs::ondisk::stamp_checksum;
use holdfast_fs::xfs::ondisk::superblock::CRC_OFFSET;

/// Bytes of a log much smaller than mkfs.xfs makes.
const LOG_BYTES: u32 = 384 << 10;
const BLOCK_BYTES: u32 = 1024;
/// Extents of a file whose removal takes many times as much log.
const EXTENTS: u64 = 12_000;
/// Longer than everything takes that ends.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file system with a tiny log.
fn image() -> Arc<Vec<u8>> {
    let options = ["-b", "size=1024", "-d", "agcount=1", "-m", "rmapbt=0,reflink=0"];
    let mut image = Vec::clone(&mkfs(64, &options));
    image[96..100].copy_from_slice(&(LOG_BYTES / BLOCK_BYTES).to_be_bytes());
    stamp_checksum(&mut image[..512], CRC_OFFSET);
    Arc::new(image)
}

/// Two files whose blocks alternate: what one gives back lies in as many pieces.
fn fill(v: &Volume) {
    let p = &v.process;
    let files = [b"/cut", b"/let"]
        .map(|name| p.open(name, OpenFlags::RDWR | OpenFlags::CREAT, 0o644).expect("a file"));
    for n in 0..EXTENTS {
        for fd in files {
            p.fallocate(fd, FallocateMode::empty(), n * 2048, 1024).expect("space");
        }
    }
    for fd in files {
        p.close(fd).expect("open");
    }
}

#[test]
fn who_waits_for_an_inode_does_not_hold_the_tail() {
    for thread in [false, true] {
        let v = Arc::new(Volume::over(&image()));
        let p = &v.process;
        if thread {
            v.fs.mount().start();
        }
        fill(&v);
        p.sync();
        let mount = v.fs.mount().clone();
        let root = mount.inode(mount.root()).expect("the root");
        let inode = mount.inode(holdfast_fs::xfs::Ino(p.stat(b"/cut").expect("it").ino));
        let inode = inode.expect("an inode");
        let log = mount.log().expect("a log").clone();
        // The directory is in the log, and older than all that follows.
        p.chmod(b"/", 0o700).expect("mine");
        p.sync();
        assert!(root.ino() < inode.ino(), "the directory is locked first");
        let started = log.head();
        let (done, finished) = channel();
        let cutter = {
            let (v, done) = (v.clone(), done.clone());
            std::thread::spawn(move || {
                v.process.truncate(b"/cut", 0).expect("it is cut");
                done.send(()).expect("somebody waits");
            })
        };
        // The size is changed with the inode locked, and it stays so to the end.
        while inode.size() > 0 {
            std::thread::yield_now();
        }
        let linker = {
            let (mount, root, inode) = (mount.clone(), root.clone(), inode.clone());
            std::thread::spawn(move || {
                mount.link(&root, b"another", &inode, false).expect("it is linked");
                done.send(()).expect("somebody waits");
            })
        };
        for _ in 0..2 {
            finished.recv_timeout(PATIENCE).expect("one waits for the other, for ever");
        }
        cutter.join().expect("no panic");
        linker.join().expect("no panic");
        let laps = log.head().cycle() - started.cycle();
        println!("thread {thread}: {laps} laps of the log, {:?}", log.statistics());
        assert!(laps >= 1, "{laps} laps");
        drop((root, inode, mount));
        Arc::into_inner(v).expect("nobody else has it").unmount();
    }
}
