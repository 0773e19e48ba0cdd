//! The first races on XFS itself, through system calls: guard on, data right; guard off,
//! the historic corruption. The disk is judged by `xfs_repair -n` either way.
#![cfg(all(feature = "lab", not(feature = "shuttle")))]

mod volume;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_fs::lab::{Guard, Point};
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{
    Advice, FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot, SyncRange,
};
use volume::{Volume, mkfs};

/// One file, open and mapped.
struct Bench {
    volume: Volume,
    fd: Fd,
    map: VirtAddr,
    guard: Guard,
    on: bool,
}

impl Bench {
    fn new(block: u32, guard: Guard, on: bool) -> Self {
        let volume = Volume::over(&mkfs(16, &["-b", &format!("size={block}")]));
        volume.cache.start();
        volume.cache.lab().set(guard, on);
        let p = &volume.process;
        let fd = p.open(b"/race", OpenFlags::RDWR | OpenFlags::CREAT, 0o644).unwrap();
        let rights = Prot::READ | Prot::WRITE;
        let map = p.mmap(VirtAddr(0), 65536, rights, MapFlags::SHARED, Some(fd), 0).unwrap();
        Self { volume, fd, map, guard, on }
    }
    fn process(&self) -> &Arc<Process> {
        &self.volume.process
    }
    /// Once, at this point and position, do this on the writer's behalf.
    fn at(
        &self,
        point: Point,
        pos: u64,
        action: impl Fn(&Process) + Send + Sync + 'static,
    ) -> Arc<AtomicBool> {
        let reached = Arc::new(AtomicBool::new(false));
        let (once, process) = (reached.clone(), self.process().clone());
        self.volume.cache.lab().observe(Some(Arc::new(move |p, _, at| {
            if p == point && at == pos && !once.swap(true, Ordering::SeqCst) {
                // Another thread does its part; this one waits where it is.
                std::thread::scope(|s| s.spawn(|| action(&process)).join()).unwrap();
            }
        })));
        reached
    }
    /// The byte as it is on disk.
    fn byte(&self, pos: u64) -> u8 {
        let p = self.process();
        let _ = p.fsync(self.fd);
        p.fadvise(self.fd, 0, 0, Advice::DontNeed).unwrap();
        let mut byte = [0];
        assert_eq!(p.pread(self.fd, &mut byte, pos), Ok(1));
        byte[0]
    }
    fn finish(self, reached: &AtomicBool) {
        assert!(reached.load(Ordering::SeqCst), "the point was not reached");
        let acted = self.volume.cache.lab().acted(self.guard);
        assert_eq!(acted > 0, self.on, "{} acted {acted} times", self.guard.name());
        self.volume.cache.lab().observe(None);
        self.process().munmap(self.map, 65536).unwrap();
        self.process().close(self.fd).unwrap();
        self.volume.finish();
    }
}

/// Page 9 goes to disk and out of the cache.
fn clean_page_9(p: &Process, fd: Fd) {
    let wait = SyncRange::WAIT_BEFORE | SyncRange::WRITE | SyncRange::WAIT_AFTER;
    p.sync_file_range(fd, 36864, 4096, wait).unwrap();
    p.fadvise(fd, 36864, 4096, Advice::DontNeed).unwrap();
}

const BLOCKS: [u32; 2] = [4096, 1024];

fn tail(block: u32) -> u64 {
    36864 + u64::from(block) - 1
}

#[test]
fn v3_a_preallocated_block_written_meanwhile() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::IomapValidity, on);
        let (p, fd, tail) = (b.process().clone(), b.fd, tail(block));
        p.fallocate(fd, FallocateMode::empty(), 0, 40960).unwrap();
        p.pwrite(fd, b"X", tail).unwrap();
        let reached = b.at(Point::Copied, 0, move |p| clean_page_9(p, fd));
        assert_eq!(p.pwrite(fd, &[b'W'; 36865], 0), Ok(36865));
        assert_eq!(b.byte(36864), b'W');
        assert_eq!(b.byte(tail), if on { b'X' } else { 0 }, "block size {block}");
        b.finish(&reached);
    }
}

#[test]
fn v2_a_hole_filled_meanwhile() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::IomapValidity, on);
        let (p, fd, map, tail) = (b.process().clone(), b.fd, b.map, tail(block));
        p.ftruncate(fd, 40960).unwrap();
        let reached = b.at(Point::Copied, 0, move |p| {
            p.store(map.add(tail), b"X").unwrap();
            clean_page_9(p, fd);
        });
        assert_eq!(p.pwrite(fd, &[b'W'; 36865], 0), Ok(36865));
        assert_eq!(b.byte(36864), b'W');
        assert_eq!(b.byte(tail), if on { b'X' } else { 0 }, "block size {block}");
        b.finish(&reached);
    }
}

#[test]
fn a_store_into_what_a_short_write_gives_back() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::PunchSkipDirty, on);
        let (p, fd, map) = (b.process().clone(), b.fd, b.map);
        p.ftruncate(fd, 65536).unwrap();
        // A buffer whose second half is not there.
        let rights = Prot::READ | Prot::WRITE;
        let anonymous = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
        let buffer = p.mmap(VirtAddr(0), 16384, rights, anonymous, None, 0).unwrap();
        p.store(buffer, &[b'W'; 8192]).unwrap();
        p.munmap(buffer.add(8192), 8192).unwrap();
        let reached = b.at(Point::Copied, 4096, move |p| p.store(map.add(14336), b"M").unwrap());
        assert_eq!(p.pwrite(fd, (buffer, 16384), 0), Ok(8192));
        assert_eq!(b.byte(8191), b'W');
        assert_eq!(b.byte(14336), if on { b'M' } else { 0 }, "block size {block}");
        p.munmap(buffer, 8192).unwrap();
        b.finish(&reached);
    }
}
