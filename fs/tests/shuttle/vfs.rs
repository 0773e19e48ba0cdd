//! The table of inodes and the descriptors of a real mount under a deterministic
//! scheduler: one page cache for a file, whoever evicts it; no read of a closed file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::machine::Machine;
use crate::schedules;
use holdfast_fs::syscall::OpenFlags;
use holdfast_sync::thread::{Priority, spawn};

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
    schedules::random(write_and_reopen_against_eviction, SCHEDULES);
    schedules::pct(write_and_reopen_against_eviction, SCHEDULES);
    assert!(EVICTED.load(Ordering::Relaxed) > 0, "no inode was evicted");
}

#[test]
fn a_closed_descriptor_is_bad_and_nothing_worse() {
    schedules::random(read_against_close, SCHEDULES);
}
