//! Reader, writer, writeback and reclaim of the shipping code under a deterministic
//! scheduler: every atomic step is a point where another thread may run.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::schedules;
use crate::support::{FlatFile, Stack};
use holdfast_fs::block::{Completion, MemDisk, MemDiskConfig, Sector};
use holdfast_fs::locks;
use holdfast_sync::PerCpuRwLock;
use holdfast_sync::thread::{Priority, spawn};

const PAGES: u64 = 6;
const SIZE: u64 = PAGES * 4096;
/// Records straddle blocks and pages.
const RECORD: usize = 3000;

/// How often things happened, over all schedules: a test that never evicts proves nothing.
static EVICTED: AtomicU64 = AtomicU64::new(0);
static CLEANED: AtomicU64 = AtomicU64::new(0);
static STALE: AtomicU64 = AtomicU64::new(0);

fn byte(record: usize, version: u8) -> u8 {
    record as u8 * 16 + version
}

/// One execution: the writer overwrites records, the reader checks that none is torn,
/// in a cache of four pages whose threads run along; in the end the disk holds the last
/// version of each record.
fn scenario() {
    let disk = MemDisk::with(MemDiskConfig {
        capacity_sectors: SIZE / 512,
        completion: Completion::Threads(1),
        ..MemDiskConfig::default()
    });
    let mut file = FlatFile::scattered(10, SIZE >> 10);
    file.stale_every = 3;
    let stack = Arc::new(Stack::new(disk.clone(), file, SIZE, 4));
    stack.cache.start();
    let records = [0usize, 2, 5, 7];
    let iolock = Arc::new(PerCpuRwLock::new(&locks::IOLOCK, ()));
    for r in records {
        assert_eq!(stack.write((r * RECORD) as u64, &[byte(r, 0); RECORD]), Ok(RECORD));
    }
    let writer = {
        let (stack, iolock) = (stack.clone(), iolock.clone());
        spawn("writer", Priority::Normal, move || {
            for version in 1..3 {
                for r in records {
                    let data = [byte(r, version); RECORD];
                    let _guard = iolock.write();
                    assert_eq!(stack.write((r * RECORD) as u64, &data), Ok(RECORD));
                }
            }
        })
    };
    let reader = {
        let (stack, iolock) = (stack.clone(), iolock.clone());
        spawn("reader", Priority::Normal, move || {
            let ra = Stack::readahead();
            for r in records {
                let _guard = iolock.read();
                let data = stack.read(&ra, (r * RECORD) as u64, RECORD).unwrap();
                assert!(data.iter().all(|b| *b == data[0]), "record {r} is torn: {data:?}");
                assert_eq!(data[0] >> 4, r as u8);
            }
        })
    };
    writer.join();
    reader.join();
    stack.sync();
    assert_eq!(stack.mapping.dirty_pages(), 0);
    stack.cache.stop();
    for r in records {
        for at in r * RECORD..(r + 1) * RECORD {
            let block = stack.ops.blocks[at >> 10].unwrap();
            let mut sector = [0; 512];
            disk.peek(Sector(block * 2 + (at as u64 & 1023) / 512), &mut sector);
            assert_eq!(sector[at % 512], byte(r, 2), "record {r} on disk at byte {at}");
        }
    }
    let s = stack.cache.statistics();
    let get =
        |a: &holdfast_sync::atomic::AtomicU64| a.load(holdfast_sync::atomic::Ordering::Relaxed);
    EVICTED.fetch_add(get(&s.evicted_background) + get(&s.evicted_direct), Ordering::Relaxed);
    CLEANED.fetch_add(get(&s.cleaned_background), Ordering::Relaxed);
    STALE.fetch_add(get(&s.stale_mappings), Ordering::Relaxed);
}

#[test]
fn no_schedule_loses_a_byte() {
    schedules::random(scenario, 300);
    for (name, counter) in [("evicted", &EVICTED), ("cleaned", &CLEANED), ("stale", &STALE)] {
        let n = counter.load(Ordering::Relaxed);
        println!("{name}: {n}");
        assert!(n > 0, "no schedule {name} anything");
    }
}
