//! The page cache: folios of file data, and everything that decides how long they stay.
//!
//! ```text
//!            read / write / fault (iomap)
//!                 |  find, insert, mark dirty
//!   Mapping ------+------ one file: index of folios, dirty and writeback tags, errors
//!      |
//!   PageCache ----+------ all files: LRU, counts, limits, dirty files
//!      |          |
//!   writeback   reclaim    threads: clean old or many dirty folios; evict unused clean ones
//! ```
//!
//! | module      | owns |
//! |-------------|------|
//! | `folio`     | one page of a file or several: lock, state, per-block uptodate and dirty bits |
//! | `index`     | a file's tree of folios |
//! | `tags`      | which pages of a file are dirty or under writeback |
//! | `mapping`   | one file's cache, its mapped areas |
//! | `errseq`    | writeback errors: one file's, and who has been told of them |
//! | `lru`       | the active and inactive lists |
//! | `refault`   | what was evicted lately |
//! | `readahead` | what one open file will probably read next |
//! | `reclaim`   | eviction: the thread, and the direct way |
//! | `flusher`   | the writeback thread, dirty limits, throttling |
//! | `ioend`     | the thread that completes writeback where extents must change |
//!
//! A folio's contents and block bits change only under its lock. The lock may be handed
//! to the completion of a read, which unlocks. A folio found in the index and locked must
//! be looked at again ([`Folio::is_detached`]): it may have been removed in between.
//! Readers copy without the folio lock, but inside the index's read side: removal takes
//! the write side, so a folio cannot go away under a copy.
//!
//! What runs against what, and what keeps them apart:
//!
//! | | write | fault | writeback | reclaim | read |
//! |---|---|---|---|---|---|
//! | **write** | IOLOCK | FOLIO, cookie | FOLIO, cookie | FOLIO, cookie | IOLOCK |
//! | **fault** | | FOLIO | FOLIO, write-protect | FOLIO | – |
//! | **writeback** | | | FOLIO, writeback flag | FOLIO, flag | – |
//! | **reclaim** | | | | FOLIO | index |
//!
//! Owns: folios and their life. Does not own: what a block is on disk (iomap, xfs).

mod errseq;
mod flusher;
mod folio;
mod index;
mod ioend;
mod lru;
mod mapping;
mod readahead;
mod reclaim;
mod refault;
mod tags;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use holdfast_sync::thread::JoinHandle;
use holdfast_sync::{Mutex, WaitQueue};

use crate::lab::Lab;
use crate::locks;
use crate::platform::Memory;

pub use errseq::ErrSeq;
pub(crate) use folio::BlockMask;
pub use folio::{Folio, LockedFolio};
pub use mapping::{MappedArea, Mapping};
pub use readahead::Readahead;

/// How large the cache may grow, and how dirty.
#[derive(Clone, Copy, Debug)]
pub struct CacheConfig {
    /// Most pages; none: what memory allows.
    pub max_pages: Option<u64>,
    /// Background writeback starts above this share of the cache, in percent.
    pub background_percent: u64,
    /// Dirtiers wait above this share of the cache, in percent.
    pub dirty_percent: u64,
    /// A file that is written front to back is written to disk this many pages behind
    /// the writer, at most; fewer where the cache is small. 0: it is not.
    pub write_behind_pages: u64,
    /// A file's pages are written when they have been dirty this long.
    pub expire_ns: u64,
    /// Most pages of a folio, a power of two; fewer where blocks are smaller than pages,
    /// or the cache is small.
    pub folio_pages: u64,
    /// How often the writeback thread looks for old pages.
    pub interval_ns: u64,
    /// Most pages one readahead window covers.
    pub readahead_pages: u64,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            max_pages: None,
            background_percent: 10,
            dirty_percent: 30,
            write_behind_pages: 512,
            expire_ns: 5_000_000_000,
            folio_pages: 32,
            interval_ns: 1_000_000_000,
            readahead_pages: 256,
        }
    }
}

macro_rules! statistics {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of the page cache. None is touched when a read is served from the cache.
        #[derive(Debug, Default)]
        pub struct Statistics { $($(#[$doc])* pub $name: AtomicU64,)* }
        impl Statistics {
            /// Each counter's name and value.
            pub fn snapshot(&self) -> Vec<(&'static str, u64)> {
                alloc::vec![$((stringify!($name), self.$name.load(Ordering::Relaxed)),)*]
            }
        }
    };
}

statistics! {
    /// Pages of folios instantiated.
    inserted,
    /// Folios filled from disk.
    read_in,
    /// Folios read before anybody asked for them.
    readahead,
    /// Folios read again that had been evicted recently.
    refaults,
    /// Pages of folios that went from clean to dirty.
    dirtied,
    /// Folios written by the writeback thread.
    cleaned_background,
    /// Folios written behind a writer that goes front to back.
    cleaned_behind,
    /// Folios written by callers of fsync, msync and their like.
    cleaned_sync,
    /// Folios evicted by the reclaim thread.
    evicted_background,
    /// Folios evicted by threads that needed a page at once.
    evicted_direct,
    /// Folios dropped on request.
    dropped,
    /// Times a dirtier had to wait.
    throttled,
    /// Nanoseconds dirtiers waited.
    throttle_ns,
    /// Writes that found their mapping stale and mapped anew.
    stale_mappings,
    /// Ioends that needed extents or the size changed.
    ioends_converted,
    /// Ioends that were completed together with their predecessor.
    ioends_merged,
    /// Ends of writeback that failed.
    writeback_errors,
}

/// One page under writeback among those that are dirty: more than a cache ever has.
const UNDER_WRITEBACK: u64 = 1 << 32;

/// The cache has room for so many of the largest folios, or they are not that large.
const FOLIOS_AT_LEAST: u64 = 16;

type Shrinker = Box<dyn Fn(usize) -> usize + Send + Sync>;

/// The folios of all files.
pub struct PageCache {
    memory: Arc<dyn Memory>,
    config: CacheConfig,
    max_pages: u64,
    folio_pages: AtomicU64,
    /// Pages in the cache.
    pages: AtomicU64,
    /// Dirty pages, and [`UNDER_WRITEBACK`] for each under writeback: one that goes from
    /// the one to the other is never seen as both, or as neither.
    burden: AtomicU64,
    lru: Mutex<lru::Lru>,
    refault: refault::RefaultTable,
    dirty_files: Mutex<flusher::DirtyFiles>,
    /// What writers that go front to back have left behind them.
    behind: Mutex<VecDeque<flusher::Behind>>,
    shrinkers: Mutex<Vec<Shrinker>>,
    /// The writeback thread sleeps here.
    flusher_wake: WaitQueue,
    flusher_kicked: AtomicBool,
    /// The reclaim thread sleeps here.
    reclaim_wake: WaitQueue,
    /// Threads that wait for a folio to be evicted.
    freed: WaitQueue,
    /// Dirtiers that wait for writeback.
    throttle: WaitQueue,
    stopping: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    ioends: ioend::Ioends,
    lab: Lab,
    statistics: Statistics,
}

impl PageCache {
    /// An empty cache that takes its pages from `memory`. No thread runs yet.
    pub fn new(memory: Arc<dyn Memory>, config: CacheConfig) -> Arc<Self> {
        // Leave memory for metadata, page tables and requests in flight.
        let total = memory.total_pages();
        let affordable = total.saturating_sub(total / 8 + 256).max(total / 2).max(16);
        let max_pages = config.max_pages.unwrap_or(affordable).min(affordable).max(4);
        let cache = Self {
            memory,
            config,
            max_pages,
            folio_pages: AtomicU64::new(1),
            pages: AtomicU64::new(0),
            burden: AtomicU64::new(0),
            lru: Mutex::new(&locks::LRU, lru::Lru::new()),
            refault: refault::RefaultTable::new(max_pages),
            dirty_files: Mutex::new(&locks::DIRTY_INODES, flusher::DirtyFiles::default()),
            behind: Mutex::new(&locks::DIRTY_INODES, VecDeque::new()),
            shrinkers: Mutex::new(&locks::SHRINKERS, Vec::new()),
            flusher_wake: WaitQueue::new(),
            flusher_kicked: AtomicBool::new(false),
            reclaim_wake: WaitQueue::new(),
            freed: WaitQueue::new(),
            throttle: WaitQueue::new(),
            stopping: AtomicBool::new(false),
            threads: Mutex::new(&locks::STATE, Vec::new()),
            ioends: ioend::Ioends::new(),
            lab: Lab::new(),
            statistics: Statistics::default(),
        };
        cache.set_folio_pages(config.folio_pages);
        Arc::new(cache)
    }

    /// Start the writeback, reclaim and ioend threads.
    pub fn start(self: &Arc<Self>) {
        use holdfast_sync::thread::{Priority, spawn};
        self.stopping.store(false, Ordering::SeqCst);
        let (flusher, reclaimer, ender) = (self.clone(), self.clone(), self.clone());
        self.ioends.open();
        let handles = [
            spawn("writeback", Priority::Normal, move || flusher.flusher_main()),
            spawn("reclaim", Priority::High, move || reclaimer.reclaim_main()),
            spawn("ioend", Priority::High, move || ender.ioends.main()),
        ];
        self.threads.lock().extend(handles);
    }

    /// Stop the threads and wait for them. Dirty folios stay dirty: sync first.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.kick_flusher();
        self.reclaim_wake.wake_all();
        self.throttle.wake_all();
        self.ioends.close();
        let threads = core::mem::take(&mut *self.threads.lock());
        for thread in threads {
            thread.join();
        }
        for file in self.dirty_files() {
            self.unlist_clean(&file);
        }
    }

    /// Let reclaim also ask `shrinker` for memory: given a number of objects to free,
    /// it returns how many it freed.
    pub fn add_shrinker(&self, shrinker: Shrinker) {
        self.shrinkers.lock().push(shrinker);
    }

    /// Pages in the cache.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }
    /// Most pages the cache may hold.
    pub fn max_pages(&self) -> u64 {
        self.max_pages
    }
    /// Dirty pages: all pages of a folio that is dirty.
    pub fn dirty_pages(&self) -> u64 {
        self.burden.load(Ordering::Relaxed) % UNDER_WRITEBACK
    }
    /// Pages of folios under writeback.
    pub fn writeback_pages(&self) -> u64 {
        self.burden.load(Ordering::Relaxed) / UNDER_WRITEBACK
    }
    /// Most pages of a new folio: a power of two.
    pub(crate) fn folio_pages(&self) -> u64 {
        self.folio_pages.load(Ordering::Relaxed)
    }
    /// Set how many pages a new folio may have: [`CacheConfig::folio_pages`].
    pub fn set_folio_pages(&self, most: u64) {
        let most = most.min(self.max_pages / FOLIOS_AT_LEAST).max(1);
        self.folio_pages.store(1 << most.ilog2(), Ordering::Relaxed);
    }
    /// Guards and points, for experiments.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }
    pub(crate) fn ioends(&self) -> &ioend::Ioends {
        &self.ioends
    }
    /// The counters.
    pub fn statistics(&self) -> &Statistics {
        &self.statistics
    }
    /// Where pages come from.
    pub fn memory(&self) -> &Arc<dyn Memory> {
        &self.memory
    }
    /// The settings.
    pub fn config(&self) -> &CacheConfig {
        &self.config
    }
    pub(crate) fn count(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}
