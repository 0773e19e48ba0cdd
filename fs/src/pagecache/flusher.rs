//! The writeback thread, the dirty limits, and the throttling of dirtiers.
//!
//! ```text
//! dirty pages   0 ......... background ............ limit
//!                 old ones     the thread writes      dirtiers wait as well
//! ```
//!
//! A file that somebody writes front to back is written behind them as they go: the
//! device works while they do, and an `fsync` at the end finds little left.

use alloc::collections::VecDeque;
use alloc::sync::{Arc, Weak};
use core::ops::Range;

use holdfast_sync::atomic::Ordering;
use holdfast_sync::time::now_ns;

use super::{Mapping, PageCache, UNDER_WRITEBACK};
use crate::iomap::writeback::{self, Mode};

/// Pages written of one file before the next file has its turn.
const SLICE: u64 = 2048;
/// Fewer pages behind a writer are not worth a request of their own.
const MIN_BEHIND: u64 = 64;
/// The longest wait for an event whose notification may be lost on purpose.
const RECHECK_NS: u64 = 100_000_000;

/// Pages of a file behind a writer that goes front to back.
pub(super) struct Behind {
    file: Weak<Mapping>,
    pages: Range<u64>,
}

/// Files with dirty pages, oldest first.
#[derive(Default)]
pub(super) struct DirtyFiles {
    queue: VecDeque<Arc<Mapping>>,
}

impl PageCache {
    /// Dirty pages from which the writeback thread works.
    pub fn background_pages(&self) -> u64 {
        (self.max_pages * self.config.background_percent / 100).max(2)
    }
    /// Dirty pages, with those under writeback, from which dirtiers wait.
    pub fn dirty_limit(&self) -> u64 {
        (self.max_pages * self.config.dirty_percent / 100).max(4)
    }
    /// A file has dirty pages: put it on the list, if it is not there.
    pub(super) fn list_dirty(&self, mapping: &Arc<Mapping>) {
        let first = {
            let mut files = self.dirty_files.lock();
            if mapping.listed.swap(true, Ordering::SeqCst) {
                return;
            }
            mapping.dirtied_ns.store(now_ns(), Ordering::Relaxed);
            files.queue.push_back(mapping.clone());
            files.queue.len() == 1
        };
        if first {
            self.kick_flusher();
        }
    }
    /// Take a file off the list that has become clean by other means: the list keeps it
    /// in core.
    pub(super) fn unlist_clean(&self, mapping: &Arc<Mapping>) {
        {
            let mut files = self.dirty_files.lock();
            files.queue.retain(|m| !Arc::ptr_eq(m, mapping));
            mapping.listed.store(false, Ordering::SeqCst);
        }
        // Whoever dirtied it just before saw it listed and left it at that.
        if mapping.dirty_pages() > 0 {
            self.list_dirty(mapping);
        }
    }
    /// The oldest dirty file, taken off the list.
    fn take_dirty_file(&self) -> Option<Arc<Mapping>> {
        let mut files = self.dirty_files.lock();
        let mapping = files.queue.pop_front()?;
        mapping.listed.store(false, Ordering::SeqCst);
        Some(mapping)
    }
    /// Every file with dirty pages, oldest first.
    pub fn dirty_files(&self) -> alloc::vec::Vec<Arc<Mapping>> {
        self.dirty_files.lock().queue.iter().cloned().collect()
    }
    /// So many pages were clean and are dirty now.
    pub(super) fn dirtied(&self, pages: u64) {
        let dirty = (self.burden.fetch_add(pages, Ordering::AcqRel) + pages) % UNDER_WRITEBACK;
        Self::count(&self.statistics.dirtied, pages);
        if dirty > self.background_pages() && !self.flusher_kicked.load(Ordering::Relaxed) {
            self.kick_flusher();
        }
    }
    /// So many dirty pages are gone without having been written: wake who waits for less to
    /// be dirty. There may be nothing left whose writeback could end.
    pub(super) fn dirty_cancelled(&self, pages: u64) {
        self.burden.fetch_sub(pages, Ordering::AcqRel);
        self.throttle.wake_all();
    }
    pub(super) fn writeback_started(&self, pages: u64) {
        self.burden.fetch_add(pages * (UNDER_WRITEBACK - 1), Ordering::AcqRel);
    }
    /// Writeback of so many pages ended: wake who waits for that.
    pub(super) fn writeback_ended(&self, pages: u64) {
        self.burden.fetch_sub(pages * UNDER_WRITEBACK, Ordering::AcqRel);
        self.throttle.wake_all();
        self.freed.wake_all();
    }
    pub(super) fn wait_for_writeback_end(&self) {
        let before = self.writeback_pages();
        self.throttle.wait_timeout(RECHECK_NS, || {
            let now = self.writeback_pages();
            (now < before || self.stopping.load(Ordering::SeqCst)).then_some(())
        });
    }
    /// Make the writeback thread look at once.
    pub fn kick_flusher(&self) {
        self.flusher_kicked.store(true, Ordering::SeqCst);
        self.flusher_wake.wake_all();
    }
    /// Wait while too much is dirty. The caller holds no folio.
    pub fn throttle(&self) {
        let limit = self.dirty_limit();
        let burden = || {
            let now = self.burden.load(Ordering::Relaxed);
            now % UNDER_WRITEBACK + now / UNDER_WRITEBACK
        };
        if burden() <= limit {
            return;
        }
        let start = now_ns();
        Self::count(&self.statistics.throttled, 1);
        let target = (limit + self.background_pages()) / 2;
        if !self.has_threads() {
            // No thread to do it (a host program, for instance): write ourselves.
            while burden() > target && self.flush_oldest(SLICE, Mode::Background).0 > 0 {}
        } else {
            self.kick_flusher();
            self.throttle.wait_until(|| {
                (burden() <= target || self.stopping.load(Ordering::SeqCst)).then_some(())
            });
        }
        Self::count(&self.statistics.throttle_ns, now_ns() - start);
    }
    /// Write about `budget` pages of the oldest dirty file. How many were written, and
    /// whether there was a file at all.
    fn flush_oldest(&self, budget: u64, mode: Mode) -> (u64, bool) {
        let Some(mapping) = self.take_dirty_file() else { return (0, false) };
        let written = writeback::write_pages(&mapping, 0..u64::MAX, mode, budget);
        if mapping.dirty_pages() > 0 {
            self.list_dirty(&mapping);
        }
        (written, true)
    }
    /// Pages that may pile up behind a writer that goes front to back.
    pub(super) fn write_behind_pages(&self) -> u64 {
        match self.config.write_behind_pages {
            0 => u64::MAX,
            most => most.min((self.background_pages() / 4).max(MIN_BEHIND)),
        }
    }
    /// A writer that goes front to back has left `pages` behind: write them soon.
    pub(super) fn write_behind(&self, file: Weak<Mapping>, pages: Range<u64>) {
        // Without the thread (a host program) they wait for the dirty limits, or for sync.
        if self.has_threads() {
            self.behind.lock().push_back(Behind { file, pages });
            self.kick_flusher();
        }
    }
    fn flush_behind(&self) {
        loop {
            let Some(Behind { file, pages }) = self.behind.lock().pop_front() else { return };
            let Some(mapping) = file.upgrade() else { continue };
            let written = writeback::write_pages(&mapping, pages, Mode::Background, u64::MAX);
            Self::count(&self.statistics.cleaned_behind, written);
        }
    }
    fn has_threads(&self) -> bool {
        !self.threads.lock().is_empty()
    }
    fn has_dirty_files(&self) -> bool {
        !self.dirty_files.lock().queue.is_empty()
    }
    fn oldest_age_ns(&self, now: u64) -> Option<u64> {
        let files = self.dirty_files.lock();
        let oldest = files.queue.front()?;
        Some(now.saturating_sub(oldest.dirtied_ns.load(Ordering::Relaxed)))
    }
    /// The writeback thread.
    pub(super) fn flusher_main(&self) {
        while !self.stopping.load(Ordering::SeqCst) {
            self.flusher_kicked.store(false, Ordering::SeqCst);
            self.flush_behind();
            self.flush_excess();
            self.flush_expired();
            let ready = || {
                (self.flusher_kicked.load(Ordering::SeqCst) || self.stopping.load(Ordering::SeqCst))
                    .then_some(())
            };
            if self.has_dirty_files() {
                self.flusher_wake.wait_timeout(self.config.interval_ns, ready);
            } else {
                self.flusher_wake.wait_until(ready);
            }
        }
    }
    /// Write until no more than the background share is dirty.
    fn flush_excess(&self) {
        while self.dirty_pages() > self.background_pages() && !self.stopping.load(Ordering::SeqCst)
        {
            let (written, found) = self.flush_oldest(SLICE, Mode::Background);
            if !found {
                break;
            }
            Self::count(&self.statistics.cleaned_background, written);
            if written == 0 {
                // Dirty again while still being written: wait for those writes.
                self.wait_for_writeback_end();
            }
        }
    }
    /// Write the files that have been dirty for long.
    fn flush_expired(&self) {
        let files = self.dirty_files.lock().queue.len();
        for _ in 0..files {
            let expired = self.oldest_age_ns(now_ns()).is_some_and(|a| a >= self.config.expire_ns);
            if !expired || self.stopping.load(Ordering::SeqCst) {
                return;
            }
            let (written, _) = self.flush_oldest(u64::MAX, Mode::Background);
            Self::count(&self.statistics.cleaned_background, written);
        }
    }
}
