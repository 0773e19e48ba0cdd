//! Giving pages back: the reclaim thread, and the way of a thread that needs a page now.
//!
//! Only folios that are clean, not under writeback, unlocked and recently unused are
//! taken; nobody here writes or waits for a folio's lock. The thread keeps a reserve
//! between the low and the high watermark, so that others rarely reclaim themselves.

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::atomic::Ordering;

use super::{Folio, Mapping, PageCache};
use crate::lab::Guard;
use crate::platform::{Memory, Page};
use crate::{Error, Result};

const BATCH: usize = 32;
/// A thread that needs a page gives up after this many rounds without one.
const ROUNDS: usize = 300;
const ROUND_NS: u64 = 100_000_000;

/// The memory below a page cache, with the cache as its reserve.
struct ProgramMemory(Arc<PageCache>);

impl Memory for ProgramMemory {
    fn alloc_page(&self) -> Option<Page> {
        self.0.alloc_other_page()
    }
    fn free_pages(&self) -> u64 {
        self.0.memory.free_pages() + self.0.pages()
    }
    fn total_pages(&self) -> u64 {
        self.0.memory.total_pages()
    }
}

/// What became of a folio that reclaim looked at.
enum Outcome {
    Evicted,
    /// Back to the inactive list; true: because it is dirty.
    Kept(bool),
    Activated,
}

impl PageCache {
    fn low_watermark(&self) -> u64 {
        (self.max_pages / 32).clamp(4, 512).min(self.max_pages / 4)
    }
    fn high_watermark(&self) -> u64 {
        2 * self.low_watermark()
    }
    /// Pages to give back so that `reserve` are available, for the cache and the memory.
    fn shortage(&self, reserve: u64) -> u64 {
        let cache_room = self.max_pages.saturating_sub(self.pages());
        let room = cache_room.min(self.memory.free_pages());
        if self.pages() == 0 { 0 } else { reserve.saturating_sub(room) }
    }
    /// A page for a folio, charged to the cache, if there is one right now.
    fn try_alloc_page(&self) -> Option<Page> {
        self.try_alloc_pages(1).pop()
    }
    /// Up to `count` pages for folios, charged to the cache, as many as there are right now.
    pub(super) fn try_alloc_pages(&self, count: usize) -> Vec<Page> {
        let wanted = count as u64;
        let charged = self.pages.fetch_add(wanted, Ordering::AcqRel) + wanted;
        let allowed = wanted - charged.saturating_sub(self.max_pages).min(wanted);
        let mut pages = Vec::with_capacity(allowed as usize);
        self.memory.alloc_pages(allowed as usize, &mut pages);
        let got = pages.len() as u64;
        if got < wanted {
            self.pages.fetch_sub(wanted - got, Ordering::AcqRel);
        }
        let low = self.low_watermark();
        if got < wanted || charged + low > self.max_pages || self.memory.free_pages() < low {
            self.reclaim_wake.wake_all();
        }
        pages
    }
    /// Pages side by side for a folio, charged to the cache: `most` (a power of two), or a
    /// half, or a quarter, and so on, as there are right now.
    pub(super) fn try_alloc_run(&self, most: u64) -> Option<Page> {
        let low = self.low_watermark();
        let mut count = most;
        loop {
            let charged = self.pages.fetch_add(count, Ordering::AcqRel) + count;
            let page = match charged <= self.max_pages {
                true => self.memory.alloc_run(count as usize),
                false => None,
            };
            if page.is_none() {
                self.pages.fetch_sub(count, Ordering::AcqRel);
            }
            if charged + low > self.max_pages || self.memory.free_pages() < low {
                self.reclaim_wake.wake_all();
            }
            if page.is_some() || count == 1 {
                return page;
            }
            count /= 2;
        }
    }
    /// A page for a folio, charged to the cache, evicting others if need be.
    /// The caller holds no folio lock.
    pub(super) fn alloc_page(&self) -> Result<Page> {
        for _ in 0..ROUNDS {
            if let Some(page) = self.try_alloc_page() {
                return Ok(page);
            }
            let evicted = self.reclaim(BATCH);
            Self::count(&self.statistics.evicted_direct, evicted as u64);
            if evicted == 0 {
                // Everything is dirty, locked or in use: the flusher makes pages clean.
                self.kick_flusher();
                self.freed.wait_timeout(ROUND_NS, || (self.shortage(1) == 0).then_some(()));
            }
        }
        Err(Error::NoMemory)
    }
    /// A page for other use than a folio, evicting folios if need be.
    pub(crate) fn alloc_other_page(&self) -> Option<Page> {
        for _ in 0..ROUNDS {
            if let Some(page) = self.memory.alloc_page() {
                return Some(page);
            }
            let evicted = self.reclaim(BATCH);
            Self::count(&self.statistics.evicted_direct, evicted as u64);
            if evicted == 0 {
                if self.pages() == 0 {
                    return None;
                }
                // What others hold is the reclaim thread's to ask for: their locks come
                // before those that are held here.
                self.reclaim_wake.wake_all();
                self.kick_flusher();
                self.freed.wait_timeout(ROUND_NS, || (self.shortage(1) == 0).then_some(()));
            }
        }
        None
    }
    /// Memory for programs: when it is out, folios are evicted.
    pub fn program_memory(self: &Arc<Self>) -> Arc<dyn Memory> {
        Arc::new(ProgramMemory(self.clone()))
    }
    /// Charged pages that were not used after all.
    pub(super) fn uncharge(&self, pages: u64) {
        self.pages.fetch_sub(pages, Ordering::AcqRel);
        self.freed.wake_all();
    }
    /// Folios joined the index of a file.
    pub(super) fn inserted(&self, file: u64, folios: &[Arc<Folio>]) {
        let (mut refaults, mut pages) = (0, 0);
        let mut lru = self.lru.lock();
        let (_, active) = lru.lengths();
        for folio in folios {
            if let Some(distance) = self.refault.distance(file, folio.index()) {
                refaults += 1;
                // Had it stayed a little longer than it did, this would have been a hit.
                if u64::from(distance) <= active {
                    folio.set_active();
                }
            }
            lru.add(folio.clone(), folio.is_active());
            pages += folio.page_count();
        }
        drop(lru);
        Self::count(&self.statistics.inserted, pages);
        Self::count(&self.statistics.refaults, refaults);
    }
    /// A folio left the index of its file.
    pub(super) fn removed(&self, folio: &Arc<Folio>) {
        drop(self.lru.lock().remove(folio));
        self.pages.fetch_sub(folio.page_count(), Ordering::AcqRel);
        self.freed.wake_all();
    }
    /// Try to evict folios of about `want` pages; how many went.
    fn reclaim(&self, want: usize) -> usize {
        let mut evicted = 0;
        let (inactive, active) = self.lru.lock().lengths();
        let mut examine = inactive + active;
        let mut dirty = false;
        while evicted < want && examine > 0 {
            let batch = self.lru.lock().isolate(BATCH);
            if batch.is_empty() {
                break;
            }
            for folio in batch {
                examine = examine.saturating_sub(folio.page_count());
                match self.try_evict(&folio) {
                    Outcome::Evicted => evicted += folio.page_count() as usize,
                    Outcome::Kept(is_dirty) => {
                        dirty |= is_dirty;
                        self.lru.lock().add(folio, false);
                    }
                    Outcome::Activated => self.lru.lock().add(folio, true),
                }
            }
        }
        if dirty && evicted < want {
            self.kick_flusher();
        }
        evicted
    }
    fn try_evict(&self, folio: &Arc<Folio>) -> Outcome {
        let Some(mapping) = folio.mapping() else { return Outcome::Kept(false) };
        let Some(locked) = folio.try_lock() else { return Outcome::Kept(false) };
        if locked.is_detached() {
            return Outcome::Kept(false);
        }
        if locked.is_writeback() {
            return Outcome::Kept(false);
        }
        if locked.is_dirty() {
            if self.lab.acts(Guard::ReclaimDirty) {
                return Outcome::Kept(true);
            }
            mapping.cancel_dirty(&locked);
        }
        if locked.is_mapped() {
            let mut used = false;
            for index in locked.pages() {
                mapping.for_areas(index, |area| used |= area.test_and_clear_accessed(index));
            }
            if used {
                locked.set_active();
                return Outcome::Activated;
            }
            mapping.unmap_folio(&locked, &locked.pages());
            if locked.is_mapped() {
                return Outcome::Kept(false);
            }
        }
        if locked.is_active() {
            return Outcome::Activated;
        }
        for index in locked.pages() {
            self.refault.evicted(mapping.id(), index);
        }
        mapping.detach(&locked);
        Outcome::Evicted
    }
    /// Drop a folio on request, if it is clean and nobody holds it.
    pub(super) fn try_drop(&self, mapping: &Mapping, folio: &Arc<Folio>) -> bool {
        let Some(locked) = folio.try_lock() else { return false };
        if locked.is_detached() || locked.is_dirty() || locked.is_writeback() {
            return false;
        }
        mapping.unmap_folio(&locked, &locked.pages());
        if locked.is_mapped() {
            return false;
        }
        mapping.detach(&locked);
        true
    }
    /// Ask for memory outside the page cache; how many objects were freed.
    fn shrink_others(&self, objects: usize) -> usize {
        self.shrinkers.lock().iter().map(|shrink| shrink(objects)).sum()
    }
    /// The reclaim thread.
    pub(super) fn reclaim_main(&self) {
        loop {
            self.reclaim_wake.wait_until(|| {
                let needed = self.shortage(self.low_watermark()) > 0;
                (needed || self.stopping.load(Ordering::SeqCst)).then_some(())
            });
            while !self.stopping.load(Ordering::SeqCst) {
                let shortage = self.shortage(self.high_watermark());
                if shortage == 0 {
                    break;
                }
                let evicted = self.reclaim((shortage as usize).min(4 * BATCH));
                Self::count(&self.statistics.evicted_background, evicted as u64);
                if self.memory.free_pages() < self.high_watermark() && self.shrink_others(BATCH) > 0
                {
                    self.freed.wake_all();
                }
                if evicted == 0 {
                    // Nothing can go just now; the end of a writeback changes that.
                    self.wait_for_writeback_end();
                }
            }
            if self.stopping.load(Ordering::SeqCst) {
                return;
            }
        }
    }
}
