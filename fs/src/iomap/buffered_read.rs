//! Reading through the page cache.

use alloc::sync::Arc;

use holdfast_sync::Mutex;

use super::Sink;
use super::fill::{self, page_of};
use crate::pagecache::{Mapping, PageCache, Readahead};
use crate::platform::PAGE_SIZE;
use crate::{Error, Result};

/// Pages copied under one hold of the index, at most.
const RUN: u64 = 64;

/// So many pages before a missing one are cached when somebody reads sequentially.
const HISTORY: u64 = 4;

/// Why copying from the cache stopped.
enum Stop {
    /// Nothing left to do.
    Done,
    /// The run was long enough: writers of the index have their turn.
    Pause,
    /// The sink wants its memory faulted in.
    Sink,
    /// The page is not cached, or not filled.
    Miss,
    /// The page carries the readahead mark.
    Mark(u64),
}

/// Read from byte `pos` into `sink`; the caller holds `IOLOCK` shared.
///
/// What the cache holds is copied inside the index's read side: no folio is locked, no
/// reference taken, no line written that another processor reads or writes.
///
/// # Errors
/// If nothing at all was read: I/O errors, corruption, a bad address, no memory.
pub fn read(
    mapping: &Arc<Mapping>,
    readahead: &Mutex<Readahead>,
    mut pos: u64,
    sink: &mut dyn Sink,
) -> Result<usize> {
    let start = pos;
    let result = loop {
        let (copied, stop) = copy_cached(mapping, pos, sink);
        pos += copied;
        let step = match stop {
            Stop::Done => break Ok(()),
            Stop::Pause => Ok(()),
            Stop::Sink => sink.fault_in(),
            Stop::Mark(index) => {
                read_marked(mapping, readahead, index);
                Ok(())
            }
            Stop::Miss => {
                let end = (pos + sink.remaining() as u64).min(mapping.size());
                let last = end.div_ceil(PAGE_SIZE as u64);
                bring_in(mapping, readahead, page_of(pos), last - page_of(pos))
            }
        };
        if let Err(e) = step {
            break Err(e);
        }
    };
    match result {
        Err(e) if pos == start => Err(e),
        _ => Ok((pos - start) as usize),
    }
}

/// Copy cached pages from `pos` on. Bytes copied, and why it stopped.
fn copy_cached(mapping: &Mapping, mut pos: u64, sink: &mut dyn Sink) -> (u64, Stop) {
    let start = pos;
    let size = mapping.size();
    let last_page = page_of(pos) + RUN;
    let folios = mapping.folios();
    let stop = loop {
        let wanted = sink.remaining();
        if wanted == 0 || pos >= size {
            break Stop::Done;
        }
        if page_of(pos) >= last_page {
            break Stop::Pause;
        }
        let Some(folio) = folios.get(page_of(pos)) else { break Stop::Miss };
        if !folio.is_uptodate() {
            break Stop::Miss;
        }
        if folio.take_readahead() {
            break Stop::Mark(folio.index());
        }
        let offset = folio.offset_of(pos);
        // Page by page: writers of the index wait.
        let in_page = PAGE_SIZE - (offset & (PAGE_SIZE - 1));
        let len = wanted.min(in_page).min((size - pos) as usize);
        let copied = sink.put(folio.page(), offset, len);
        pos += copied as u64;
        // One use a visit: reading a page in small pieces is not using it often.
        if copied > 0 && offset == 0 {
            folio.mark_accessed();
        }
        if copied < len {
            break Stop::Sink;
        }
    };
    (pos - start, stop)
}

/// Start the window after the mark on page `index`.
pub(super) fn read_marked(mapping: &Arc<Mapping>, readahead: &Mutex<Readahead>, index: u64) {
    let most = readahead_limit(mapping);
    loop {
        let window = readahead.lock().marked(index, most);
        let Some(w) = window.filter(|w| w.start < mapping.size_pages()) else { break };
        let n = fill::read_pages(mapping, w.start, w.count, w.mark) as u64;
        count_readahead(mapping, n);
        if n == 0 {
            // No memory, or all of it is cached.
            break;
        }
    }
}

/// Make page `index` uptodate, reading up to `pages` pages from it on, and more ahead.
pub(super) fn bring_in(
    mapping: &Arc<Mapping>,
    readahead: &Mutex<Readahead>,
    index: u64,
    pages: u64,
) -> Result<()> {
    match mapping.find(index) {
        Some(folio) => {
            folio.wait_unlocked();
            if folio.is_uptodate() || folio.is_detached() {
                return Ok(());
            }
        }
        None => {
            let most = readahead_limit(mapping);
            let before = index.saturating_sub(HISTORY)..index;
            let follows = index >= HISTORY && mapping.folios().has_all(before);
            let w = readahead.lock().miss(index, pages, most, follows);
            let n = fill::read_pages(mapping, w.start, w.count, w.mark) as u64;
            count_readahead(mapping, n.saturating_sub(pages));
            if n > 0 {
                return Ok(());
            }
        }
    }
    // Partly filled, failed before, or no memory to read ahead: this one page, ourselves.
    let folio = mapping.get_locked(index)?;
    if folio.is_uptodate() { Ok(()) } else { fill::fill_folio(mapping, &folio) }
}

/// Start reading the uncached pages of bytes `range`, as many as the cache can spare;
/// nobody waits (fadvise, madvise).
pub fn will_need(mapping: &Arc<Mapping>, range: core::ops::Range<u64>) {
    let start = page_of(range.start);
    let end = range.end.min(mapping.size()).div_ceil(PAGE_SIZE as u64);
    let most = mapping.cache().max_pages() / 4;
    let n = fill::read_pages(mapping, start, end.saturating_sub(start).min(most), None);
    count_readahead(mapping, n as u64);
}

fn readahead_limit(mapping: &Mapping) -> u64 {
    let cache = mapping.cache();
    cache.config().readahead_pages.min(cache.max_pages() / 8).max(1)
}

fn count_readahead(mapping: &Mapping, pages: u64) {
    PageCache::count(&mapping.cache().statistics().readahead, pages);
}

impl From<super::FaultError> for Error {
    fn from(e: super::FaultError) -> Self {
        match e {
            super::FaultError::BeyondEof => Self::Fault,
            super::FaultError::Error(e) => e,
        }
    }
}
