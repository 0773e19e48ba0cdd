//! Stores through a mapping against writeback, eviction and munmap, under a
//! deterministic scheduler. The simulated processors keep old translations until they
//! are flushed, so a missing write-protect or flush shows as a lost store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::mapped::{RW, World};
use crate::schedules;
use holdfast_fs::block::Completion;
use holdfast_fs::mm::{MapFlags, MsyncFlags};
use holdfast_fs::platform::{PAGE_SIZE, PageTable};
use holdfast_sync::thread::{Priority, spawn};

const PAGE: u64 = PAGE_SIZE as u64;
const SCHEDULES: usize = 300;

/// How often a store found its page write-protected or gone, over all schedules.
static REFAULTED: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);

fn world(pages: u64) -> Arc<World> {
    Arc::new(World::new(pages, 0, 64, Completion::Inline))
}

/// T17 of the storage semantics: a store after writeback began must not be lost.
///
/// ```text
/// storer                     cleaner
/// store 1..n                 write-protect, flush, clear dirty, write
/// load: what I stored        ... again
/// ```
fn store_against_writeback() {
    let w = world(1);
    let va = w.map(PAGE_SIZE, 0, RW, MapFlags::SHARED);
    w.store(va, &[1]).unwrap();
    let cleaner = {
        let w = w.clone();
        spawn("cleaner", Priority::Normal, move || {
            for _ in 0..2 {
                w.stack.sync();
            }
        })
    };
    let storer = {
        let w = w.clone();
        spawn("storer", Priority::Normal, move || {
            for value in 2..6 {
                if !w.table.query(va).is_some_and(|pte| pte.writable) {
                    REFAULTED.fetch_add(1, Ordering::Relaxed);
                }
                w.store(va, &[value]).unwrap();
                assert_eq!(w.load(va, 1).unwrap(), [value]);
            }
        })
    };
    cleaner.join();
    storer.join();
    w.space.msync(va, PAGE_SIZE, MsyncFlags::SYNC).unwrap();
    assert_eq!(w.on_disk(0, 1), [5], "a store was lost");
    w.space.clear();
    w.assert_droppable();
}

/// As above, while clean pages are dropped from the cache under the mapping.
fn store_against_eviction() {
    let w = world(1);
    let va = w.map(PAGE_SIZE, 0, RW, MapFlags::SHARED);
    let evictor = {
        let w = w.clone();
        spawn("evictor", Priority::Normal, move || {
            for _ in 0..2 {
                w.stack.sync();
                let n = w.stack.mapping.drop_clean(0..u64::MAX) as u64;
                DROPPED.fetch_add(n, Ordering::Relaxed);
            }
        })
    };
    // The last value that is certainly stored: nobody may load an older one.
    let stored = Arc::new(AtomicU64::new(0));
    let storer = {
        let (w, stored) = (w.clone(), stored.clone());
        spawn("storer", Priority::Normal, move || {
            for value in 2..5 {
                w.store(va.add(7), &[value; 3]).unwrap();
                stored.store(u64::from(value), Ordering::SeqCst);
                assert_eq!(w.load(va.add(7), 3).unwrap(), [value; 3]);
            }
        })
    };
    let loader = {
        let w = w.clone();
        spawn("loader", Priority::Normal, move || {
            for _ in 0..6 {
                let least = stored.load(Ordering::SeqCst);
                let value = u64::from(w.load(va.add(7), 1).unwrap()[0]);
                assert!(value >= least, "loaded {value} after {least} was stored");
            }
        })
    };
    evictor.join();
    storer.join();
    loader.join();
    w.space.msync(va, PAGE_SIZE, MsyncFlags::SYNC).unwrap();
    assert_eq!(w.on_disk(7, 3), [4; 3], "a store was lost");
    w.space.clear();
    w.assert_droppable();
}

/// munmap against eviction and writeback of the same pages: every reference is given
/// back exactly once, and the pieces of a cut mapping are found at every moment.
fn unmap_against_eviction() {
    let w = world(4);
    let va = w.map(4 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    for page in 0..4 {
        w.store(va.add(page * PAGE), &[9]).unwrap();
    }
    let evictor = {
        let w = w.clone();
        spawn("evictor", Priority::Normal, move || {
            w.stack.sync();
            let n = w.stack.mapping.drop_clean(0..u64::MAX) as u64;
            DROPPED.fetch_add(n, Ordering::Relaxed);
        })
    };
    let unmapper = {
        let w = w.clone();
        spawn("unmapper", Priority::Normal, move || {
            w.space.munmap(va.add(PAGE), 2 * PAGE_SIZE).unwrap();
        })
    };
    let storer = {
        let w = w.clone();
        spawn("storer", Priority::Normal, move || {
            w.store(va.add(3 * PAGE), &[10]).unwrap();
            assert_eq!(w.load(va.add(3 * PAGE), 1).unwrap(), [10]);
        })
    };
    evictor.join();
    unmapper.join();
    storer.join();
    w.space.msync(va, PAGE_SIZE, MsyncFlags::SYNC).unwrap();
    w.space.msync(va.add(3 * PAGE), PAGE_SIZE, MsyncFlags::SYNC).unwrap();
    assert_eq!(w.on_disk(0, 1), [9]);
    assert_eq!(w.on_disk(3 * PAGE, 1), [10], "a store was lost");
    w.space.clear();
    assert_eq!(w.table.mapped_pages(), 0);
    w.stack.sync();
    w.assert_droppable();
}

/// The pieces of a mapping that is cut are known to writeback at every moment.
///
/// ```text
/// unmapper                   cleaner                         storer
/// whole -> two pieces        write-protect page 2, clean it
///                                                            store: must fault
/// ```
fn cut_against_writeback() {
    let w = world(3);
    let va = w.map(3 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    let last = va.add(2 * PAGE);
    w.store(last, &[1]).unwrap();
    let cleaner = {
        let w = w.clone();
        spawn("cleaner", Priority::Normal, move || w.stack.sync())
    };
    w.space.munmap(va.add(PAGE), PAGE_SIZE).unwrap();
    cleaner.join();
    w.store(last, &[2]).unwrap();
    w.stack.sync();
    assert_eq!(w.on_disk(2 * PAGE, 1), [2], "a store was lost");
    w.space.clear();
    w.assert_droppable();
}

/// Two threads fault the same private page while the file's page is evicted: one copy.
fn copy_against_eviction() {
    let w = world(1);
    let va = w.map(PAGE_SIZE, 0, RW, MapFlags::PRIVATE);
    let storer = |at: u64, value: u8| {
        let w = w.clone();
        spawn("storer", Priority::Normal, move || {
            assert_eq!(w.load(va.add(at), 1).unwrap(), [0]);
            w.store(va.add(at), &[value]).unwrap();
            assert_eq!(w.load(va.add(at), 1).unwrap(), [value]);
        })
    };
    let threads = [storer(0, 1), storer(100, 2)];
    let dropper = {
        let w = w.clone();
        spawn("dropper", Priority::Normal, move || {
            w.stack.mapping.drop_clean(0..u64::MAX);
        })
    };
    for t in threads {
        t.join();
    }
    dropper.join();
    assert_eq!(w.load(va, 1).unwrap(), [1]);
    assert_eq!(w.load(va.add(100), 1).unwrap(), [2], "two copies were made");
    assert_eq!(w.stack.mapping.dirty_pages(), 0);
    w.space.clear();
    w.assert_droppable();
}

#[test]
fn no_store_is_lost_to_writeback() {
    schedules::both(store_against_writeback, SCHEDULES);
    assert!(REFAULTED.load(Ordering::Relaxed) > 0, "writeback never met a store");
}

#[test]
fn no_store_is_lost_to_eviction() {
    schedules::both(store_against_eviction, SCHEDULES);
    assert!(DROPPED.load(Ordering::Relaxed) > 0, "nothing was evicted");
}

#[test]
fn unmapping_and_eviction_agree() {
    schedules::both(unmap_against_eviction, SCHEDULES);
}

#[test]
fn a_cut_mapping_is_known_to_writeback() {
    schedules::both(cut_against_writeback, SCHEDULES);
}

#[test]
fn a_private_page_is_copied_once() {
    schedules::both(copy_against_eviction, SCHEDULES);
}
