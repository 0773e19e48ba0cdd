//! The first races on XFS itself, through system calls: guard on, data right; guard off,
//! the historic corruption. The disk is judged by `xfs_repair -n` either way.
#![cfg(all(feature = "lab", not(feature = "shuttle")))]

mod volume;
mod xfsprogs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn, yield_now};
use std::time::Duration;

use holdfast_fs::block::{Bio, BlockDevice, DeviceInfo, MemDisk, Op};
use holdfast_fs::lab::{Guard, Point};
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::{
    Advice, FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot, SyncRange,
};
use volume::{Volume, mkfs};
use xfsprogs::disk_over;

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
        Self::on(Volume::over(&mkfs(16, &["-b", &format!("size={block}")])), guard, on)
    }
    fn on(volume: Volume, guard: Guard, on: bool) -> Self {
        volume.cache.start();
        volume.cache.lab().set(guard, on);
        // The races begin between two pages.
        volume.cache.set_folio_pages(1);
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
    /// The first bytes of a file, as it would be after a crash now; what the log has in
    /// memory gets to disk before.
    fn after_crash(&self, path: &[u8], len: usize) -> Vec<u8> {
        let p = self.process();
        let other = p.open(b"/other", OpenFlags::RDWR | OpenFlags::CREAT, 0o644).unwrap();
        p.fsync(other).unwrap();
        p.close(other).unwrap();
        let volume = Volume::over(&Arc::new(self.volume.bytes()));
        let fd = volume.process.open(path, OpenFlags::RDONLY, 0).unwrap();
        let mut bytes = vec![0; len];
        let got = volume.process.pread(fd, &mut bytes, 0).unwrap();
        bytes.truncate(got);
        volume.process.close(fd).unwrap();
        volume.finish();
        bytes
    }
    /// The race was there, and the guard did what it is for.
    fn check(&self, reached: &AtomicBool) {
        assert!(reached.load(Ordering::SeqCst), "the point was not reached");
        let acted = self.volume.cache.lab().acted(self.guard);
        assert_eq!(acted > 0, self.on, "{} acted {acted} times", self.guard.name());
        self.volume.cache.lab().observe(None);
    }
    fn finish(self, reached: &AtomicBool) {
        self.check(reached);
        self.process().munmap(self.map, 65536).unwrap();
        self.process().close(self.fd).unwrap();
        self.volume.finish();
    }
}

/// Wait until another thread has come this far.
fn wait_for(flag: &AtomicBool) {
    while !flag.load(Ordering::SeqCst) {
        yield_now();
    }
}

/// Time for another thread to get as far as it can: it must not get to `flag`.
fn stays_away(flag: &AtomicBool) {
    sleep(Duration::from_millis(20));
    assert!(!flag.load(Ordering::SeqCst), "the fault does not wait");
}

/// A thread that stores one byte, and what says that it has.
fn store_elsewhere(process: &Arc<Process>, at: VirtAddr, byte: u8) -> Storer {
    let (process, done) = (process.clone(), Arc::new(AtomicBool::new(false)));
    let stored = done.clone();
    let thread = spawn(move || {
        process.store(at, &[byte]).unwrap();
        done.store(true, Ordering::SeqCst);
    });
    Storer { thread, stored }
}

struct Storer {
    thread: JoinHandle<()>,
    stored: Arc<AtomicBool>,
}

/// Write 16 KiB of which only the first half is there.
fn short_write(p: &Process, fd: Fd) {
    let rights = Prot::READ | Prot::WRITE;
    let anonymous = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    let buffer = p.mmap(VirtAddr(0), 16384, rights, anonymous, None, 0).unwrap();
    p.store(buffer, &[b'W'; 8192]).unwrap();
    p.munmap(buffer.add(8192), 8192).unwrap();
    assert_eq!(p.pwrite(fd, (buffer, 16384), 0), Ok(8192));
    p.munmap(buffer, 8192).unwrap();
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
        let reached = b.at(Point::Copied, 4096, move |p| p.store(map.add(14336), b"M").unwrap());
        short_write(&p, fd);
        assert_eq!(b.byte(8191), b'W');
        assert_eq!(b.byte(14336), if on { b'M' } else { 0 }, "block size {block}");
        b.finish(&reached);
    }
}

#[test]
fn v1_a_reservation_allocated_meanwhile_does_no_harm_either_way() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::IomapValidity, on);
        let (p, fd, map, tail) = (b.process().clone(), b.fd, b.map, tail(block));
        p.ftruncate(fd, 40960).unwrap();
        let [done, held, begun] = [(); 3].map(|()| Arc::new(AtomicBool::new(false)));
        let cleaner = Arc::new(Mutex::new(None));
        let (over, at_s5, thread) = (done.clone(), held.clone(), cleaner.clone());
        let process = p.clone();
        b.volume.cache.lab().observe(Some(Arc::new(move |point, _, pos| match (point, pos) {
            (Point::Copied, 0) if !begun.swap(true, Ordering::SeqCst) => {
                let p = process.clone();
                *thread.lock().unwrap() = Some(spawn(move || {
                    p.store(map.add(tail), b"X").unwrap();
                    let wait = SyncRange::WRITE | SyncRange::WAIT_AFTER;
                    p.sync_file_range(fd, 36864, 4096, wait).unwrap();
                }));
                wait_for(&at_s5);
            }
            // The device has written page 9; nothing is converted until the write is over.
            (Point::Written, 36864..) if !over.load(Ordering::SeqCst) => {
                at_s5.store(true, Ordering::SeqCst);
                wait_for(&over);
            }
            _ => {}
        })));
        assert_eq!(p.pwrite(fd, &[b'W'; 36865], 0), Ok(36865));
        done.store(true, Ordering::SeqCst);
        cleaner.lock().unwrap().take().expect("it was started").join().unwrap();
        assert_eq!((b.byte(36864), b.byte(tail)), (b'W', b'X'), "block size {block}");
        b.finish(&held);
    }
}

#[test]
fn b_a_store_between_the_look_and_the_punch() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::PunchInvalidateLock, on);
        let (p, fd, map) = (b.process().clone(), b.fd, b.map);
        p.ftruncate(fd, 65536).unwrap();
        let storer = Arc::new(Mutex::new(None));
        let (slot, process) = (storer.clone(), p.clone());
        let reached = b.at(Point::Scanned, 8192, move |_| {
            let storer = store_elsewhere(&process, map.add(14336), b'M');
            match on {
                true => stays_away(&storer.stored),
                false => wait_for(&storer.stored),
            }
            *slot.lock().unwrap() = Some(storer);
        });
        short_write(&p, fd);
        storer.lock().unwrap().take().expect("it was started").thread.join().unwrap();
        assert_eq!(b.byte(8191), b'W');
        assert_eq!(b.byte(14336), if on { b'M' } else { 0 }, "block size {block}");
        b.finish(&reached);
    }
}

/// Where byte `pos` of a file lies on the device.
fn physical(p: &Process, fd: Fd, pos: u64) -> u64 {
    let mut place = None;
    p.fiemap(fd, pos, 1, false, &mut |e| {
        place = Some(e.physical + (pos - e.logical));
        false
    })
    .unwrap();
    place.expect("it has a block")
}

/// Take all space but what this is told to leave.
fn fill_up(p: &Process) {
    let fd = p.open(b"/filler", OpenFlags::RDWR | OpenFlags::CREAT, 0o644).unwrap();
    let (mut piece, mut at) = (4 << 20, 0);
    while piece >= 1024 {
        match p.fallocate(fd, FallocateMode::empty(), at, piece) {
            Ok(()) => at += piece,
            Err(_) => piece /= 2,
        }
    }
    p.close(fd).unwrap();
}

#[test]
fn h_a_file_cut_under_writeback() {
    const KEPT: u64 = 32 * 4096;
    const SIZE: usize = 96 * 4096;
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::WbRevalidate, on);
        let (p, fd) = (b.process().clone(), b.fd);
        let other = p.open(b"/victim", OpenFlags::RDWR | OpenFlags::CREAT, 0o644).unwrap();
        p.fallocate(fd, FallocateMode::empty(), 0, SIZE as u64).unwrap();
        assert_eq!(p.pwrite(fd, &[1; SIZE], 0), Ok(SIZE));
        p.fsync(fd).unwrap();
        fill_up(&p);
        assert_eq!(p.pwrite(fd, &[2; SIZE], 0), Ok(SIZE));
        let freed = physical(&p, fd, KEPT);
        assert_eq!(physical(&p, fd, SIZE as u64 - 1), freed + (SIZE as u64 - 1 - KEPT));
        // Two pages, of the other file and of this one, at the same place: see below.
        let pair = Arc::new(Mutex::new((0, 0)));
        let found = pair.clone();
        let reached = b.at(Point::Mapped, 0, move |p| {
            p.ftruncate(fd, KEPT).unwrap();
            // What was freed may be used once that is durable: the log is forced for what
            // was committed after it.
            p.fchmod(other, 0o600).unwrap();
            p.fsync(other).unwrap();
            assert_eq!(p.pwrite(other, &[0x22; 40 * 4096], 0), Ok(40 * 4096));
            p.fsync(other).unwrap();
            let freed = freed..freed + SIZE as u64 - KEPT;
            let taken = (0..40 * 4096).step_by(4096).find_map(|pos| {
                let at = physical(p, other, pos);
                (freed.contains(&at) && (at - freed.start).is_multiple_of(4096))
                    .then(|| (pos, KEPT + (at - freed.start)))
            });
            let (theirs, ours) = taken.expect("none of the freed blocks is taken");
            assert_eq!(p.pwrite(fd, &[3; 4096], ours), Ok(4096));
            *found.lock().unwrap() = (theirs, ours);
        });
        let _ = p.fsync(fd);
        let mut byte = [0];
        p.fsync(other).unwrap();
        p.fadvise(other, 0, 0, Advice::DontNeed).unwrap();
        let (theirs, ours) = *pair.lock().unwrap();
        assert_eq!(p.pread(other, &mut byte, theirs), Ok(1));
        assert_eq!(byte[0] == 0x22, on, "the other file, block size {block}");
        assert_eq!(b.byte(ours) == 3, on, "the rewritten page, block size {block}");
        p.ftruncate(fd, 0).unwrap();
        p.close(other).unwrap();
        b.finish(&reached);
    }
}

#[test]
fn t10_blocks_shared_under_writeback() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::WbRevalidate, on);
        let (p, fd) = (b.process().clone(), b.fd);
        let copy = p.open(b"/copy", OpenFlags::RDWR | OpenFlags::CREAT, 0o644).unwrap();
        assert_eq!(p.pwrite(fd, &[0x58; 65536], 0), Ok(65536));
        p.fsync(fd).unwrap();
        assert_eq!(p.pwrite(fd, &[0x57; 8192], 0), Ok(8192));
        // Writeback has a map of the whole extent; then half of it is shared, and a block
        // there reserved anew.
        let reached = b.at(Point::Mapped, 0, move |p| {
            p.ficlonerange(copy, fd, 32768, 32768, 32768).unwrap();
            assert_eq!(p.pwrite(fd, &[0x56; 4096], 40960), Ok(4096));
        });
        let _ = p.fsync(fd);
        p.fadvise(copy, 0, 0, Advice::DontNeed).unwrap();
        let mut byte = [0];
        assert_eq!(p.pread(copy, &mut byte, 40960), Ok(1));
        assert_eq!(byte[0], if on { 0x58 } else { 0x56 }, "the copy, block size {block}");
        assert_eq!((b.byte(0), b.byte(4096), b.byte(40960)), (0x57, 0x57, 0x56));
        p.ftruncate(fd, 0).unwrap();
        p.close(copy).unwrap();
        b.finish(&reached);
    }
}

#[test]
fn j_an_append_before_the_first_is_complete() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::IoendClamp, on);
        let (p, fd) = (b.process().clone(), b.fd);
        assert_eq!(p.pwrite(fd, &[0x61; 100], 0), Ok(100));
        let reached = b.at(Point::Written, 0, move |p| {
            assert_eq!(p.pwrite(fd, &[0x62; 100], 100), Ok(100));
        });
        let wait = SyncRange::WRITE | SyncRange::WAIT_AFTER;
        p.sync_file_range(fd, 0, 4096, wait).unwrap();
        b.check(&reached);
        let mut expected = vec![0x61; 100];
        if !on {
            expected.resize(200, 0);
        }
        assert_eq!(b.after_crash(b"/race", 4096), expected, "block size {block}");
        p.fsync(fd).unwrap();
        let whole = b.after_crash(b"/race", 4096);
        assert_eq!((whole.len(), whole[99], whole[199]), (200, 0x61, 0x62));
        b.finish(&reached);
    }
}

#[test]
fn t17_a_store_after_writeback_began() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let b = Bench::new(block, Guard::WbWriteProtect, on);
        let (p, fd, map) = (b.process().clone(), b.fd, b.map);
        p.ftruncate(fd, 4096).unwrap();
        p.store(map.add(77), b"A").unwrap();
        let storer = Arc::new(Mutex::new(None));
        let (slot, process) = (storer.clone(), p.clone());
        let reached = b.at(Point::Written, 0, move |_| {
            let storer = store_elsewhere(&process, map.add(77), b'B');
            match on {
                true => stays_away(&storer.stored),
                false => wait_for(&storer.stored),
            }
            *slot.lock().unwrap() = Some(storer);
        });
        let wait = SyncRange::WRITE | SyncRange::WAIT_AFTER;
        p.sync_file_range(fd, 0, 4096, wait).unwrap();
        storer.lock().unwrap().take().expect("it was started").thread.join().unwrap();
        p.fsync(fd).unwrap();
        let byte = b.after_crash(b"/race", 4096)[77];
        assert_eq!(byte, if on { b'B' } else { b'A' }, "block size {block}");
        b.finish(&reached);
    }
}

#[test]
fn a_store_behind_the_end_while_a_write_leaves_a_gap() {
    for on in [true, false] {
        let b = Bench::new(4096, Guard::EofZero, on);
        let (p, fd, map) = (b.process().clone(), b.fd, b.map);
        assert_eq!(p.pwrite(fd, &[1; 1000], 0), Ok(1000));
        p.store(map, &[1]).unwrap();
        // What lies behind the end is zeros already; the file does not reach there yet.
        let reached = b.at(Point::Begun, 3000, move |p| p.store(map.add(2000), &[0xCD]).unwrap());
        assert_eq!(p.pwrite(fd, &[2; 10], 3000), Ok(10));
        assert_eq!(b.byte(2000), if on { 0 } else { 0xCD });
        assert_eq!((b.byte(999), b.byte(3000)), (1, 2));
        b.finish(&reached);
    }
}

/// A mirror whose second leg is written later than its first: a page that changes in
/// between makes them differ.
struct Mirror {
    first: Arc<MemDisk>,
    /// What to wait for: a write whose first byte is this.
    marked: u8,
    late: Mutex<Option<(Bio, Vec<u8>)>>,
    held: AtomicBool,
}

impl Mirror {
    fn contents(bio: &Bio) -> Vec<u8> {
        let mut bytes = Vec::new();
        for segment in &bio.segments {
            let mut part = vec![0; segment.len as usize];
            segment.page.read(segment.offset as usize, &mut part);
            bytes.extend(part);
        }
        bytes
    }
    /// Write the other leg, and end the request; were both given the same?
    fn catch_up(&self) -> bool {
        let (bio, first) = self.late.lock().unwrap().take().expect("a write is held");
        let same = Self::contents(&bio) == first;
        self.first.submit(bio);
        same
    }
}

impl BlockDevice for Mirror {
    fn info(&self) -> DeviceInfo {
        self.first.info()
    }
    fn submit(&self, bio: Bio) {
        let marked = bio.op == Op::Write && {
            let mut byte = [0];
            bio.segments[0].page.read(bio.segments[0].offset as usize, &mut byte);
            byte[0] == self.marked
        };
        if marked && !self.held.swap(true, Ordering::SeqCst) {
            let bytes = Self::contents(&bio);
            *self.late.lock().unwrap() = Some((bio, bytes));
        } else {
            self.first.submit(bio);
        }
    }
}

#[test]
fn a_store_while_the_device_reads_the_page() {
    for on in [true, false] {
        let image = mkfs(16, &[]);
        let disk = disk_over(image);
        let (late, held) = (Mutex::new(None), AtomicBool::new(false));
        let mirror = Arc::new(Mirror { first: disk.clone(), marked: 0xA5, late, held });
        let volume = Volume::through(disk, mirror.clone(), HostMemory::new(16384)).unwrap();
        let b = Bench::on(volume, Guard::MkwriteStable, on);
        let (p, fd, map) = (b.process().clone(), b.fd, b.map);
        p.ftruncate(fd, 4096).unwrap();
        p.store(map, &[0xA5; 4096]).unwrap();
        let cleaner = {
            let p = p.clone();
            spawn(move || p.fsync(fd).unwrap())
        };
        while mirror.late.lock().unwrap().is_none() {
            yield_now();
        }
        let storer = store_elsewhere(&p, map.add(77), b'B');
        match on {
            true => stays_away(&storer.stored),
            false => wait_for(&storer.stored),
        }
        assert_eq!(mirror.catch_up(), on, "both legs of the mirror are alike");
        storer.thread.join().unwrap();
        cleaner.join().unwrap();
        assert_eq!((b.byte(0), b.byte(77)), (0xA5, b'B'));
        b.finish(&AtomicBool::new(true));
    }
}

#[test]
fn t12_a_read_during_a_direct_write_into_a_hole() {
    for (block, on) in BLOCKS.into_iter().flat_map(|b| [(b, true), (b, false)]) {
        let image = mkfs(16, &["-b", &format!("size={block}")]);
        let disk = disk_over(image);
        let (late, held) = (Mutex::new(None), AtomicBool::new(false));
        let mirror = Arc::new(Mirror { first: disk.clone(), marked: 0xD1, late, held });
        let volume = Volume::through(disk, mirror.clone(), HostMemory::new(16384)).unwrap();
        let b = Bench::on(volume, Guard::DirectInvalidate, on);
        let (p, fd) = (b.process().clone(), b.fd);
        p.munmap(b.map, 65536).unwrap();
        p.ftruncate(fd, 65536).unwrap();
        let direct = p.open(b"/race", OpenFlags::RDWR | OpenFlags::DIRECT, 0).unwrap();
        let writer = {
            let p = p.clone();
            spawn(move || p.pwrite(direct, &vec![0xD1; 65536], 0).unwrap())
        };
        while mirror.late.lock().unwrap().is_none() {
            yield_now();
        }
        // The direct write holds IOLOCK shared, as this does.
        let mut byte = [7];
        assert_eq!(p.pread(fd, &mut byte, 4096), Ok(1));
        assert_eq!(byte[0], 0);
        mirror.catch_up();
        assert_eq!(writer.join().unwrap(), 65536);
        assert_eq!(p.pread(fd, &mut byte, 4096), Ok(1));
        assert_eq!(byte[0], if on { 0xD1 } else { 0 }, "block size {block}");
        p.close(direct).unwrap();
        b.finish(&AtomicBool::new(true));
    }
}
