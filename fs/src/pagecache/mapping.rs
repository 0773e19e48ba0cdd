//! One file's part of the page cache.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::ops::Range;

use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use holdfast_sync::time::now_ns;
use holdfast_sync::{Mutex, PerCpuReadGuard, PerCpuRwLock, RwLock};

use super::errseq::Errors;
use super::folio::BlockMask;
use super::index::Index;
use super::tags::{Tag, Tags};
use super::{ErrSeq, Folio, LockedFolio, PageCache};
use crate::block::Queue;
use crate::iomap::{Ops, writeback};
use crate::lab::{Guard, Lab};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE, Page};
use crate::{Error, Result, locks};

/// The grain of times of access and modification.
const TICK_NS: u64 = 4_000_000;

/// An area of an address space that maps part of a file.
///
/// The page cache calls it with the folio locked, so that no new mapping of that folio
/// can appear meanwhile. Page numbers are the file's.
pub trait MappedArea: Send + Sync {
    /// The pages of the file that the area maps.
    fn pages(&self) -> Range<u64>;
    /// Take away the right to store to a page; when this returns no processor can.
    /// True if it had been there.
    fn write_protect(&self, index: u64) -> bool;
    /// Remove the file's page from the page table (private copies stay); when this
    /// returns no processor can reach it.
    fn unmap(&self, index: u64);
    /// Remove every entry for pages `range` of the file, private copies too. No fault in
    /// the file is under way; when this returns no processor can reach the pages.
    fn zap(&self, range: Range<u64>);
    /// Clear the accessed bit; was it set?
    fn test_and_clear_accessed(&self, index: u64) -> bool;
}

/// One file's folios.
pub struct Mapping {
    me: Weak<Mapping>,
    id: u64,
    cache: Arc<PageCache>,
    ops: Arc<dyn Ops>,
    queue: Arc<Queue>,
    /// log2 of the bytes of a block, at most of a page.
    block_shift: u32,
    /// The file's size in bytes (i_size).
    size: AtomicU64,
    index: PerCpuRwLock<Index>,
    tags: Mutex<Tags>,
    invalidate: RwLock<()>,
    areas: Mutex<Vec<Arc<dyn MappedArea>>>,
    errors: Errors,
    /// When a change of the contents was noted last; 0: none is.
    modified_ns: AtomicU64,
    /// The time of access was looked at since the contents changed last.
    accessed: AtomicBool,
    /// A writer closed it while data was dirty.
    closed_dirty: AtomicBool,
    /// Where a writer that goes front to back would go on, in bytes.
    stream_end: AtomicU64,
    /// What that writer wrote before this byte was handed to the writeback thread.
    stream_start: AtomicU64,
    /// On the list of dirty files; changes under its lock.
    pub(super) listed: AtomicBool,
    /// When it joined that list.
    pub(super) dirtied_ns: AtomicU64,
}

impl Mapping {
    /// The empty cache of file `id` (its inode number), `size` bytes long.
    pub fn new(
        cache: &Arc<PageCache>,
        id: u64,
        ops: Arc<dyn Ops>,
        queue: Arc<Queue>,
        size: u64,
    ) -> Arc<Self> {
        let block_shift = ops.block_shift().min(PAGE_SHIFT);
        Arc::new_cyclic(|me| Self {
            me: me.clone(),
            block_shift,
            id,
            cache: cache.clone(),
            ops,
            queue,
            size: AtomicU64::new(size),
            index: PerCpuRwLock::new(&locks::PAGE_INDEX, Index::default()),
            tags: Mutex::new(&locks::PAGE_TAGS, Tags::default()),
            invalidate: RwLock::new(&locks::INVAL, ()),
            areas: Mutex::new(&locks::I_MMAP, Vec::new()),
            errors: Errors::default(),
            modified_ns: AtomicU64::new(0),
            accessed: AtomicBool::new(false),
            closed_dirty: AtomicBool::new(false),
            stream_end: AtomicU64::new(0),
            stream_start: AtomicU64::new(0),
            listed: AtomicBool::new(false),
            dirtied_ns: AtomicU64::new(0),
        })
    }
    pub(crate) fn arc(&self) -> Option<Arc<Self>> {
        self.me.upgrade()
    }
    /// The file's number.
    pub fn id(&self) -> u64 {
        self.id
    }
    /// The cache it belongs to.
    pub fn cache(&self) -> &Arc<PageCache> {
        &self.cache
    }
    /// The file system's answers for this file.
    pub fn ops(&self) -> &Arc<dyn Ops> {
        &self.ops
    }
    /// The device the data lies on.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
    /// The file's size in bytes.
    #[inline]
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }
    /// Set the file's size.
    pub fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
        self.ops.size_changed(size);
    }
    /// Guards and points, for experiments.
    #[inline]
    pub(crate) fn lab(&self) -> &Lab {
        self.cache.lab()
    }
    /// Pages up to the end of the file.
    pub fn size_pages(&self) -> u64 {
        self.size().div_ceil(PAGE_SIZE as u64)
    }
    /// The contents are about to change: is the time of that still to be noted? Not again
    /// within a tick, which is the grain of these times.
    #[inline]
    pub(crate) fn modified(&self) -> bool {
        let now = now_ns().max(1);
        let last = self.modified_ns.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < TICK_NS {
            return false;
        }
        self.modified_ns.store(now, Ordering::Relaxed);
        self.accessed.store(false, Ordering::Relaxed);
        true
    }
    /// The contents were read: is the time of that still to be looked at?
    #[inline]
    pub(crate) fn first_access(&self) -> bool {
        !self.accessed.load(Ordering::Relaxed) && !self.accessed.swap(true, Ordering::Relaxed)
    }
    /// A writer closed the file: are blocks that lie ready behind its end to go? Not if it
    /// was so before while data waited to be written: it is written again and again.
    pub(crate) fn trim_on_close(&self) -> bool {
        if self.closed_dirty.load(Ordering::Relaxed) {
            return false;
        }
        let dirty = self.dirty_pages() > 0;
        self.closed_dirty.store(dirty, Ordering::Relaxed);
        true
    }
    /// Somebody else sets the file's times: the next change and the next access are to
    /// be noted, however soon they come.
    pub(crate) fn forget_times(&self) {
        self.modified_ns.store(0, Ordering::Relaxed);
        self.accessed.store(false, Ordering::Relaxed);
    }
    /// Faults take it shared; who removes ranges of the cache takes it exclusive.
    pub fn invalidate_lock(&self) -> &RwLock<()> {
        &self.invalidate
    }
    pub(crate) fn block_shift(&self) -> u32 {
        self.block_shift
    }

    // ---- folios

    /// The cached folio that a page is part of.
    pub fn find(&self, index: u64) -> Option<Arc<Folio>> {
        self.index.read().get(index).cloned()
    }
    /// The read side of the index: folios found there cannot go away while it is held.
    /// The holder does not sleep.
    #[inline]
    pub(crate) fn folios(&self) -> PerCpuReadGuard<'_, Index> {
        self.index.read()
    }
    /// Cached folios that have pages in `range`, at most `most`.
    pub(crate) fn folios_in(&self, range: Range<u64>, most: usize) -> Vec<Arc<Folio>> {
        self.index.read().collect(range, most)
    }
    /// The folio of a page, locked; a new one of that page, holding nothing, if there is none.
    ///
    /// # Errors
    /// No memory.
    pub fn get_locked(&self, index: u64) -> Result<LockedFolio> {
        loop {
            let folio = match self.find(index) {
                Some(folio) => folio.lock(),
                None => match self.create(index)? {
                    Some(new) => new,
                    None => continue,
                },
            };
            if !folio.is_detached() {
                return Ok(folio);
            }
        }
    }
    /// A new locked folio in the index; nothing if somebody else was faster.
    fn create(&self, index: u64) -> Result<Option<LockedFolio>> {
        let page = self.cache.alloc_page()?;
        let folio = Folio::new_locked(self.me.clone(), index, page);
        // The new folio is ours alone: its lock is not waited for under the index lock.
        let inserted = self.index.write().insert(folio.folio());
        if !inserted {
            self.cache.uncharge(1);
            return Ok(None);
        }
        self.cache.inserted(self.id, core::slice::from_ref(folio.folio()));
        Ok(Some(folio))
    }
    /// New locked folios for the uncached pages of `range`, as far as memory is there
    /// without waiting. Each is handed to a transfer by the caller.
    pub(crate) fn create_batch(&self, range: Range<u64>, mark: Option<u64>) -> Vec<Arc<Folio>> {
        let pages = self.cache.try_alloc_pages((range.end - range.start) as usize);
        let fresh = range.zip(pages).map(|(index, page)| self.new_folio(index, page)).collect();
        let fresh = self.insert(fresh, |tree, fresh| {
            let before = fresh.len();
            fresh.retain(|folio| tree.insert(folio));
            (before - fresh.len()) as u64
        });
        if let Some(folio) = mark.and_then(|m| fresh.iter().find(|f| f.index() >= m)) {
            folio.set_readahead();
        }
        fresh
    }
    /// New locked folios for the first pages of `range`, as large as they may be, up to one
    /// that is cached, as far as memory is there without waiting. The caller has their locks:
    /// see [`Folio::adopt`].
    pub(crate) fn create_run(&self, range: Range<u64>) -> Vec<Arc<Folio>> {
        let most = self.cache.folio_pages().min(Folio::most_pages(self.block_shift()));
        let mut index = range.start;
        let mut fresh = Vec::new();
        while index < range.end {
            let aligned = 1 << index.trailing_zeros().min(most.ilog2());
            let longest = aligned.min(1 << (range.end - index).ilog2());
            let Some(page) = self.cache.try_alloc_run(longest) else { break };
            let folio = self.new_folio(index, page);
            index = folio.pages().end;
            fresh.push(folio);
        }
        self.insert(fresh, |tree, fresh| {
            let unused = fresh.split_off(tree.insert_run(fresh));
            unused.iter().map(|folio| folio.page_count()).sum()
        })
    }
    /// A new folio, whose lock the caller has.
    fn new_folio(&self, index: u64, page: Page) -> Arc<Folio> {
        Folio::new_locked(self.me.clone(), index, page).hand_to_transfer()
    }
    /// Put new folios into the index; those that `insert` keeps. It returns how many pages
    /// it did not keep.
    fn insert(
        &self,
        mut fresh: Vec<Arc<Folio>>,
        insert: impl FnOnce(&mut Index, &mut Vec<Arc<Folio>>) -> u64,
    ) -> Vec<Arc<Folio>> {
        if fresh.is_empty() {
            return fresh;
        }
        let unused = insert(&mut self.index.write(), &mut fresh);
        if unused > 0 {
            self.cache.uncharge(unused);
        }
        self.cache.inserted(self.id, &fresh);
        fresh
    }
    /// Remove a folio from the file. It is locked, clean, unmapped, not under writeback.
    pub(crate) fn detach(&self, folio: &LockedFolio) {
        debug_assert!(!folio.is_dirty() && !folio.is_writeback() && !folio.is_mapped());
        let removed = self.index.write().remove(folio.index());
        debug_assert!(removed.is_some_and(|r| Arc::ptr_eq(&r, folio.folio())));
        folio.set_detached();
        self.cache.removed(folio.folio());
    }

    // ---- dirty and writeback

    /// Blocks of a locked folio are newer than the disk now.
    pub(crate) fn mark_dirty(&self, folio: &LockedFolio, blocks: BlockMask) {
        if blocks != 0 && folio.set_dirty_blocks(blocks) {
            self.note_dirty(folio, blocks);
        }
    }
    /// Data was copied into blocks of a locked folio: they hold the file's, newer than
    /// the disk, and the folio was used.
    pub(crate) fn mark_written(&self, folio: &LockedFolio, blocks: BlockMask) {
        if folio.set_written(blocks, self.block_shift()) {
            self.note_dirty(folio, blocks);
        }
    }
    /// Some blocks of a locked folio were clean and are dirty now.
    fn note_dirty(&self, folio: &LockedFolio, blocks: BlockMask) {
        let pages = folio.pages_of_blocks(blocks, self.block_shift());
        let fresh = self.tags.lock().set(Tag::Dirty, folio.index(), pages);
        if !self.listed.load(Ordering::SeqCst)
            && let Some(me) = self.me.upgrade()
        {
            self.cache.list_dirty(&me);
        }
        if fresh > 0 {
            self.cache.dirtied(fresh);
        }
    }
    /// Take a locked dirty folio from dirty to under writeback: no store can reach it
    /// any more without a fault that waits for the lock. Returns its dirty blocks, and in
    /// how many pages they lie.
    ///
    /// ```text
    /// writeback                        a thread with the page mapped writable
    /// lock folio
    /// write-protect, flush TLBs        store -> fault, waits for the lock
    /// clear dirty, set writeback
    /// map blocks, submit, unlock       mkwrite: dirty again, next writeback
    /// ```
    pub(crate) fn start_folio_writeback(&self, folio: &LockedFolio) -> (BlockMask, u64) {
        if folio.is_mapped() && self.lab().acts(Guard::WbWriteProtect) {
            self.write_protect(folio);
        }
        let blocks = folio.take_dirty_blocks();
        let was = folio.clear_dirty();
        debug_assert!(was, "writeback of a clean folio");
        folio.set_writeback();
        let pages = self.tags.lock().start_writeback(folio.pages());
        self.cache.writeback_started(pages);
        (blocks, pages)
    }
    /// Take away the right to store to a locked folio from every mapping of it.
    pub(crate) fn write_protect(&self, folio: &LockedFolio) {
        for index in folio.pages() {
            self.for_areas(index, |area| {
                area.write_protect(index);
            });
        }
    }
    /// The last transfers of these folios under writeback ended.
    pub(crate) fn end_writeback(&self, folios: &[&Folio]) {
        // The tag goes first: nobody may start the next writeback of a folio and then lose
        // its tag to us. Who sees no tag any more finds the folio ended, too.
        let mut pages = 0;
        {
            let mut tags = self.tags.lock();
            for folio in folios {
                pages += tags.clear(Tag::Writeback, folio.pages());
                folio.end_writeback();
            }
        }
        self.cache.writeback_ended(pages);
    }
    /// Bytes `range` were written through the cache; `IOLOCK` is held. What a writer that
    /// goes front to back has left behind is to be written soon.
    pub(crate) fn wrote(&self, range: Range<u64>) {
        if range.start != self.stream_end.swap(range.end, Ordering::Relaxed) {
            self.stream_start.store(range.start, Ordering::Relaxed);
        }
        let start = self.stream_start.load(Ordering::Relaxed);
        let pages = start >> PAGE_SHIFT..range.end >> PAGE_SHIFT;
        if pages.end.saturating_sub(pages.start) >= self.cache.write_behind_pages() {
            self.stream_start.store(range.end, Ordering::Relaxed);
            self.cache.write_behind(self.me.clone(), pages);
        }
    }
    /// Up to `most` dirty pages of `range`, in order.
    pub(crate) fn some_dirty(&self, range: Range<u64>, most: usize) -> Vec<u64> {
        self.tags.lock().collect(Tag::Dirty, range, most)
    }
    /// Dirty pages.
    pub fn dirty_pages(&self) -> u64 {
        self.tags.lock().count(Tag::Dirty)
    }
    /// Cached pages.
    pub fn cached_pages(&self) -> u64 {
        self.index.read().len()
    }
    /// Note that data could not be written.
    pub(crate) fn record_error(&self, error: &Error) {
        PageCache::count(&self.cache.statistics().writeback_errors, 1);
        self.errors.record(error);
    }
    /// Where an open file starts in the sequence of writeback errors.
    pub fn error_sample(&self) -> ErrSeq {
        self.errors.sample()
    }
    /// A writeback error that the holder of `since` has not seen, once.
    ///
    /// # Errors
    /// That error.
    pub fn error_check(&self, since: &mut ErrSeq) -> Result<()> {
        self.errors.check_and_advance(since)
    }
    /// Start writing the dirty pages in bytes `range`; does not wait.
    pub fn start_writeback(&self, range: Range<u64>) {
        writeback::write_pages(self, pages_of(&range), writeback::Mode::Sync, u64::MAX);
    }
    /// Wait until no page in bytes `range` is under writeback.
    pub fn wait_writeback(&self, range: Range<u64>) {
        let pages = pages_of(&range);
        let mut from = pages.start;
        loop {
            let next = self.tags.lock().next(Tag::Writeback, from);
            let Some(index) = next.filter(|i| *i < pages.end) else { return };
            from = index + 1;
            if let Some(folio) = self.find(index) {
                folio.wait_writeback();
                from = folio.pages().end;
            }
        }
    }
    /// Write the dirty pages in bytes `range` and wait for them. Errors are in the
    /// file's error sequence.
    pub fn write_and_wait(&self, range: Range<u64>) {
        if self.is_settled() {
            return;
        }
        self.start_writeback(range.clone());
        self.wait_writeback(range);
        if self.listed.load(Ordering::SeqCst)
            && self.dirty_pages() == 0
            && let Some(me) = self.arc()
        {
            self.cache.unlist_clean(&me);
        }
    }
    /// Nothing is dirty or under writeback.
    pub(crate) fn is_settled(&self) -> bool {
        let tags = self.tags.lock();
        tags.count(Tag::Dirty) == 0 && tags.count(Tag::Writeback) == 0
    }

    // ---- mapped areas

    /// An area maps part of the file from now on.
    pub fn add_area(&self, area: Arc<dyn MappedArea>) {
        self.areas.lock().push(area);
    }
    /// The area maps the file no longer; its pages are unmapped already.
    pub fn remove_area(&self, area: &Arc<dyn MappedArea>) {
        let same = |a: &Arc<dyn MappedArea>| core::ptr::addr_eq(Arc::as_ptr(a), Arc::as_ptr(area));
        self.areas.lock().retain(|a| !same(a));
    }
    /// Does any address space map the file?
    pub(crate) fn is_mapped(&self) -> bool {
        !self.areas.lock().is_empty()
    }
    pub(super) fn for_areas(&self, index: u64, mut each: impl FnMut(&dyn MappedArea)) {
        for area in self.areas.lock().iter().filter(|a| a.pages().contains(&index)) {
            each(area.as_ref());
        }
    }
    /// Unmap those pages of a locked folio that lie in `pages`.
    pub(super) fn unmap_folio(&self, folio: &LockedFolio, pages: &Range<u64>) {
        if folio.is_mapped() {
            for index in common(&folio.pages(), pages) {
                self.for_areas(index, |area| area.unmap(index));
            }
        }
    }

    // ---- removal

    /// Drop the clean folios that bytes `range` touch, if they touch all pages of them;
    /// those in use stay. How many pages went.
    pub fn drop_clean(&self, range: Range<u64>) -> usize {
        let pages = pages_of(&range);
        let mut from = pages.start;
        let mut dropped = 0;
        loop {
            let batch = self.folios_in(from..pages.end, 64);
            let Some(last) = batch.last() else { break };
            from = last.pages().end;
            for folio in batch.iter().filter(|folio| covers(&pages, folio)) {
                if self.cache.try_drop(self, folio) {
                    dropped += folio.page_count() as usize;
                }
            }
        }
        PageCache::count(&self.cache.statistics().dropped, dropped as u64);
        dropped
    }
    /// Remove every cached page that bytes `range` touch, unmapping it, waiting for its
    /// writeback and discarding what was dirty. The caller holds the invalidate lock
    /// exclusive, or has other means to keep faults away.
    pub fn invalidate(&self, range: Range<u64>) {
        const BATCH: usize = 64;
        let pages = pages_of(&range);
        let mut from = pages.start;
        loop {
            let batch = self.folios_in(from..pages.end, BATCH);
            let Some(last) = batch.last() else { return };
            from = last.pages().end;
            for folio in &batch {
                let locked = folio.lock();
                if locked.is_detached() {
                    continue;
                }
                locked.wait_writeback();
                self.unmap_folio(&locked, &pages);
                self.forget(&locked, &pages);
            }
            if batch.len() < BATCH {
                return;
            }
        }
    }
    /// The pages of a locked folio that lie in `pages`, which nobody maps, are no longer
    /// cached: with none left the folio goes; otherwise their blocks hold nothing.
    fn forget(&self, folio: &LockedFolio, pages: &Range<u64>) {
        if covers(pages, folio) {
            self.cancel_dirty(folio);
            return self.detach(folio);
        }
        if folio.forget_blocks(self.blocks_in(folio, pages)) {
            let gone = common(&folio.pages(), pages);
            let dirty = self.tags.lock().clear(Tag::Dirty, gone);
            self.cache.dirty_cancelled(dirty);
        } else {
            self.cancel_dirty(folio);
        }
        if folio.uptodate_blocks() == 0 && !folio.is_mapped() {
            self.detach(folio);
        }
    }
    /// The blocks of a folio that lie in `pages`.
    fn blocks_in(&self, folio: &Folio, pages: &Range<u64>) -> BlockMask {
        let within = common(&folio.pages(), pages);
        let bytes = [within.start, within.end].map(|index| folio.offset_of(index << PAGE_SHIFT));
        Folio::blocks_touched(self.block_shift(), bytes[0], bytes[1])
    }
    /// The file ends at its size from now on: remove the cached pages behind it, and
    /// from mappings even private copies of them. The blocks of the last page behind the
    /// end are forgotten. The caller holds the invalidate lock exclusive.
    pub(crate) fn truncated(&self) {
        let size = self.size();
        let behind = size.div_ceil(PAGE_SIZE as u64);
        for area in self.areas.lock().iter() {
            area.zap(behind..u64::MAX);
        }
        self.invalidate(behind << PAGE_SHIFT..u64::MAX);
        if size.is_multiple_of(PAGE_SIZE as u64) {
            return;
        }
        let Some(folio) = self.find(size >> PAGE_SHIFT) else { return };
        let locked = folio.lock();
        if locked.is_detached() {
            return;
        }
        locked.wait_writeback();
        let within = locked.offset_of(size);
        let page_end = within.next_multiple_of(PAGE_SIZE);
        locked.page().zero(within, page_end - within);
        let shift = self.block_shift();
        let first = within.next_multiple_of(1 << shift);
        let gone = Folio::blocks_touched(shift, first, page_end);
        if gone != 0 && locked.is_dirty() && locked.dirty_blocks() & gone != 0 {
            // Its next store faults, and makes dirty only what the file has then.
            self.write_protect(&locked);
            if !locked.forget_blocks(gone) {
                self.cancel_dirty(&locked);
            }
        }
    }
    /// Remove the cached pages that bytes `range` touch, waiting for their writeback and
    /// unmapping them, but for those that are dirty then. Did all go?
    pub(crate) fn invalidate_clean(&self, range: Range<u64>) -> bool {
        let pages = pages_of(&range);
        let mut from = pages.start;
        let mut all = true;
        loop {
            let batch = self.folios_in(from..pages.end, 64);
            let Some(last) = batch.last() else { return all };
            from = last.pages().end;
            for folio in &batch {
                let locked = folio.lock();
                if locked.is_detached() {
                    continue;
                }
                locked.wait_writeback();
                self.unmap_folio(&locked, &pages);
                if locked.dirty_blocks() & self.blocks_in(&locked, &pages) == 0 {
                    self.forget(&locked, &pages);
                } else {
                    all = false;
                }
            }
        }
    }
    pub(super) fn cancel_dirty(&self, folio: &LockedFolio) {
        if folio.clear_dirty() {
            folio.take_dirty_blocks();
            let pages = self.tags.lock().clear(Tag::Dirty, folio.pages());
            self.cache.dirty_cancelled(pages);
        }
    }
    /// Dirtiers call this between folios, with none locked: wait while too much is dirty.
    pub fn throttle(&self) {
        self.cache.throttle();
    }
}

impl Drop for Mapping {
    /// The file is forgotten: so are its folios, which must be clean.
    fn drop(&mut self) {
        let dirty = self.tags.get_mut().count(Tag::Dirty);
        assert!(dirty == 0, "file {} forgotten with {dirty} dirty pages", self.id);
        let index = self.index.get_mut();
        for folio in index.collect(0..u64::MAX, usize::MAX) {
            folio.set_detached();
            self.cache.removed(&folio);
        }
    }
}

/// Does `pages` hold all pages of a folio?
fn covers(pages: &Range<u64>, folio: &Folio) -> bool {
    pages.start <= folio.index() && folio.pages().end <= pages.end
}

/// What lies in both.
fn common(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// The pages that a range of bytes touches.
fn pages_of(range: &Range<u64>) -> Range<u64> {
    range.start >> PAGE_SHIFT..range.end.div_ceil(PAGE_SIZE as u64)
}
