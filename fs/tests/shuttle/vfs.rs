//! The table of inodes and the descriptors of a real mount under a deterministic
//! scheduler: one page cache for a file, whoever evicts it; no read of a closed file.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::machine::Machine;
use crate::schedules;
use crate::volume::{Volume, mkfs};
use holdfast_fs::platform::PAGE_SIZE;
use holdfast_fs::syscall::OpenFlags;
use holdfast_sync::thread::{Priority, spawn, yield_now};

const SCHEDULES: usize = 200;

static EVICTED: AtomicU64 = AtomicU64::new(0);

/// ```text
/// writer                          evictor
/// open, write v, close            look for unused inodes
/// open, read: v                   clean, take out of the table
/// ```
/// A second inode of the number, made while the first still holds dirty pages, would
/// read what is on disk.
fn write_and_reopen_against_eviction() {
    let m = Arc::new(Machine::new());
    m.process.close(m.rw("/f")).unwrap();
    let evictor = {
        let m = m.clone();
        spawn("evictor", Priority::Normal, move || {
            for _ in 0..6 {
                EVICTED.fetch_add(m.fs.evict(usize::MAX) as u64, Ordering::Relaxed);
            }
        })
    };
    let writer = {
        let m = m.clone();
        spawn("writer", Priority::Normal, move || {
            for version in 1..4u8 {
                let fd = m.rw("/f");
                assert_eq!(m.process.pwrite(fd, &[version; 64], 5000), Ok(64));
                m.process.close(fd).unwrap();
                let fd = m.open("/link", OpenFlags::RDONLY);
                let mut back = [0; 64];
                assert_eq!(m.process.pread(fd, &mut back, 5000), Ok(64));
                assert_eq!(back, [version; 64], "two caches of one file");
                m.process.close(fd).unwrap();
            }
        })
    };
    evictor.join();
    writer.join();
    m.process.exit();
    m.fs.unmount().unwrap();
}

/// Pages of a file that a writer makes one after the other.
const PAGES: usize = 6;

/// ```text
/// evictor                         writer
/// takes the file out of the
/// table: nobody has it
///                                 open: a new inode in core, of the same one below;
///                                 writes: space is reserved for it
/// gives back what is reserved
/// ```
/// Then what was written has no place on disk. Whoever unmounts meanwhile finds nothing busy
/// for which only the evictor has a reference.
fn reservations_against_eviction(image: &Arc<Vec<u8>>) {
    let v = Arc::new(Volume::over(image));
    v.touch(b"/f").unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let evictor = {
        let (fs, over) = (v.fs.clone(), over.clone());
        spawn("evictor", Priority::Normal, move || {
            while !over.load(Ordering::SeqCst) {
                EVICTED.fetch_add(fs.evict(usize::MAX) as u64, Ordering::Relaxed);
                yield_now();
            }
        })
    };
    let p = v.process.clone();
    for page in 0..PAGES {
        let fd = p.open(b"/f", OpenFlags::RDWR, 0).unwrap();
        assert_eq!(p.pwrite(fd, &[1; PAGE_SIZE], (page * PAGE_SIZE) as u64), Ok(PAGE_SIZE));
        p.close(fd).unwrap();
    }
    let fd = p.open(b"/f", OpenFlags::RDWR, 0).unwrap();
    p.fsync(fd).expect("there is a place for everything");
    p.close(fd).unwrap();
    p.exit();
    v.fs.unmount().expect("nobody uses it");
    over.store(true, Ordering::SeqCst);
    evictor.join();
    let again = Volume::over(&Arc::new(v.bytes()));
    let fd = again.process.open(b"/f", OpenFlags::RDONLY, 0).unwrap();
    let mut data = vec![0; PAGES * PAGE_SIZE];
    assert_eq!(again.process.pread(fd, &mut data[..], 0), Ok(PAGES * PAGE_SIZE));
    assert!(data.iter().all(|byte| *byte == 1), "written, and lost");
    again.process.close(fd).unwrap();
    again.unmount();
}

/// A read and a close of one descriptor: the read succeeds, or the descriptor is bad.
fn read_against_close() {
    let m = Arc::new(Machine::new());
    let fd = m.rw("/sub/x");
    let reader = {
        let m = m.clone();
        spawn("reader", Priority::Normal, move || {
            for _ in 0..3 {
                let mut buf = [0; 16];
                match m.process.pread(fd, &mut buf, 0) {
                    Ok(n) => assert!(&buf[..n] == b"the file x\n" || n == 16),
                    Err(e) => assert_eq!(e.errno(), 9),
                }
            }
        })
    };
    m.process.close(fd).unwrap();
    let other = m.open("/f", OpenFlags::RDONLY);
    assert_eq!(other, fd, "the number is free again");
    reader.join();
    m.process.exit();
    m.fs.unmount().unwrap();
}

#[test]
fn one_file_has_one_cache() {
    schedules::both(write_and_reopen_against_eviction, SCHEDULES);
    assert!(EVICTED.load(Ordering::Relaxed) > 0, "no inode was evicted");
}

#[test]
fn no_eviction_takes_what_the_next_one_has_reserved() {
    let image = mkfs(16, &[]);
    schedules::both(move || reservations_against_eviction(&image), SCHEDULES);
}

#[test]
fn a_closed_descriptor_is_bad_and_nothing_worse() {
    schedules::random(read_against_close, SCHEDULES);
}
