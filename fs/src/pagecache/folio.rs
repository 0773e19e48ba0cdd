//! A page of a file in memory, or several in a row.

use alloc::sync::{Arc, Weak};
use core::marker::PhantomData;
use core::ops::Range;

use holdfast_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use holdfast_sync::{Word, check};

use super::Mapping;
use crate::block::Segment;
use crate::locks;
use crate::platform::{PAGE_SHIFT, Page, PageOf};

/// The folio's lock.
const LOCKED: u32 = 1 << 0;
/// Somebody waits for the lock or for the end of writeback.
const WAITERS: u32 = 1 << 1;
/// Every block holds the file's data.
const UPTODATE: u32 = 1 << 2;
/// Some block is newer than the disk. Changes only under the lock.
const DIRTY: u32 = 1 << 3;
/// Being written to disk. Set under the lock, cleared by the completion.
const WRITEBACK: u32 = 1 << 4;
/// Used since the lists last looked.
const REFERENCED: u32 = 1 << 5;
/// Used again after that: belongs on the active list.
const ACTIVE: u32 = 1 << 6;
/// Reading this folio starts the next readahead window.
const READAHEAD: u32 = 1 << 7;
/// No longer in the index.
const DETACHED: u32 = 1 << 8;

/// Where the dirty bits start in the block word; uptodate bits lie below.
const DIRTY_SHIFT: u32 = 32;

/// A set of a folio's blocks, lowest first.
pub(crate) type BlockMask = u32;

/// One page of a file in the page cache, or several in a row: a power of two, at a multiple
/// of it. They have one lock and one state, but each block its own bits.
///
/// A folio never becomes smaller: of pages that leave the file while others stay, the blocks
/// are forgotten.
pub struct Folio {
    index: u64,
    page_count: u32,
    page: Page,
    mapping: Weak<Mapping>,
    flags: Word,
    /// Per block: uptodate (low half) and dirty (high half).
    blocks: AtomicU64,
    /// Page table entries that map the folio.
    mapped: AtomicU32,
    /// Transfers in flight, plus one while more are being added.
    pending: AtomicU32,
    /// The place in the LRU lists.
    pub(super) lru_slot: AtomicU32,
}

impl core::fmt::Debug for Folio {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(
            f,
            "folio {:?} flags {:#x} blocks {:#x}",
            self.pages(),
            self.flags.load(Ordering::Relaxed),
            self.blocks.load(Ordering::Relaxed)
        )
    }
}

impl Folio {
    /// A new folio, locked by the caller, holding nothing yet.
    pub(super) fn new_locked(mapping: Weak<Mapping>, index: u64, page: Page) -> LockedFolio {
        let folio = Arc::new(Self {
            index,
            page_count: (page.length() >> PAGE_SHIFT) as u32,
            page,
            mapping,
            flags: Word::new(LOCKED),
            blocks: AtomicU64::new(0),
            mapped: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            lru_slot: AtomicU32::new(super::lru::NO_SLOT),
        });
        check::acquired(&locks::FOLIO);
        LockedFolio { folio: Some(folio), _not_send: PhantomData }
    }
    /// Most pages of a folio, for blocks of `1 << block_shift` bytes: each block has its
    /// bits in one word.
    pub(crate) const fn most_pages(block_shift: u32) -> u64 {
        (DIRTY_SHIFT as u64) >> (PAGE_SHIFT - block_shift)
    }
    /// Which page of the file is the first, in pages.
    #[inline]
    pub fn index(&self) -> u64 {
        self.index
    }
    /// How many pages it has.
    #[inline]
    pub fn page_count(&self) -> u64 {
        self.page_count.into()
    }
    /// The pages of the file.
    #[inline]
    pub fn pages(&self) -> Range<u64> {
        self.index..self.index + self.page_count()
    }
    /// The first byte's position in the file.
    #[inline]
    pub fn position(&self) -> u64 {
        self.index << PAGE_SHIFT
    }
    /// Its length in bytes.
    #[inline]
    pub fn length(&self) -> usize {
        (self.page_count as usize) << PAGE_SHIFT
    }
    /// The byte of the folio that is byte `pos` of the file: 0 for one before it, its length
    /// for one behind it.
    #[inline]
    pub(crate) fn offset_of(&self, pos: u64) -> usize {
        pos.saturating_sub(self.position()).min(self.length() as u64) as usize
    }
    /// The memory, as long as the folio.
    #[inline]
    pub fn page(&self) -> &Page {
        &self.page
    }
    /// The memory of page `index` of the file, which is one of its.
    #[inline]
    pub fn page_of(&self, index: u64) -> PageOf<'_> {
        debug_assert!(self.pages().contains(&index));
        PageOf { run: &self.page, offset: ((index - self.index) as usize) << PAGE_SHIFT }
    }
    /// Bytes `range` of the folio, as part of a request.
    pub(crate) fn segment(&self, range: &Range<usize>) -> Segment {
        Segment { page: self.page.clone(), offset: range.start as u32, len: range.len() as u32 }
    }
    pub(super) fn mapping(&self) -> Option<Arc<Mapping>> {
        self.mapping.upgrade()
    }

    // ---- lock

    /// Lock, sleeping while another thread or a transfer holds it.
    pub fn lock(self: &Arc<Self>) -> LockedFolio {
        check::before(&locks::FOLIO);
        while self.flags.fetch_or(LOCKED, Ordering::Acquire) & LOCKED != 0 {
            self.wait_clear(LOCKED);
        }
        check::acquired(&locks::FOLIO);
        LockedFolio { folio: Some(self.clone()), _not_send: PhantomData }
    }
    /// Lock if nobody holds it.
    pub fn try_lock(self: &Arc<Self>) -> Option<LockedFolio> {
        self.try_lock_raw().then(|| {
            check::acquired(&locks::FOLIO);
            LockedFolio { folio: Some(self.clone()), _not_send: PhantomData }
        })
    }
    /// The caller has its lock, from a batch of new folios: as a guard.
    pub(crate) fn adopt(self: Arc<Self>) -> LockedFolio {
        debug_assert!(self.is_locked());
        check::acquired(&locks::FOLIO);
        LockedFolio { folio: Some(self), _not_send: PhantomData }
    }
    /// Lock if nobody holds it, without a reference: the caller is inside the index's read
    /// side, where the folio cannot go away, and unlocks before it leaves.
    #[inline]
    pub(crate) fn try_lock_in_index(&self) -> bool {
        self.try_lock_raw()
    }
    /// The end of [`Folio::try_lock_in_index`].
    #[inline]
    pub(crate) fn unlock_in_index(&self) {
        self.unlock();
    }
    #[inline]
    fn try_lock_raw(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & LOCKED == 0
            && self.flags.fetch_or(LOCKED, Ordering::Acquire) & LOCKED == 0
    }
    #[inline]
    fn unlock(&self) {
        self.clear_and_wake(LOCKED);
    }
    /// Wait until the lock is free, without taking it.
    pub(crate) fn wait_unlocked(&self) {
        check::before(&locks::FOLIO);
        self.wait_clear(LOCKED);
    }
    /// Wait until the folio is not under writeback.
    pub fn wait_writeback(&self) {
        self.wait_clear(WRITEBACK);
    }
    fn wait_clear(&self, bit: u32) {
        loop {
            let now = self.flags.load(Ordering::Acquire);
            if now & bit == 0 {
                return;
            }
            let waiting = now | WAITERS;
            if now == waiting
                || self
                    .flags
                    .compare_exchange(now, waiting, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
            {
                self.flags.wait(waiting);
            }
        }
    }
    #[inline]
    fn clear_and_wake(&self, bit: u32) {
        if self.flags.fetch_and(!(bit | WAITERS), Ordering::AcqRel) & WAITERS != 0 {
            self.flags.wake_all();
        }
    }

    // ---- state

    #[inline]
    fn has(&self, bit: u32) -> bool {
        self.flags.load(Ordering::Acquire) & bit != 0
    }
    fn set(&self, bit: u32) -> bool {
        self.flags.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }
    fn clear(&self, bit: u32) -> bool {
        self.flags.fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }
    /// Does every block hold the file's data?
    #[inline]
    pub fn is_uptodate(&self) -> bool {
        self.has(UPTODATE)
    }
    /// Is some block newer than the disk?
    pub fn is_dirty(&self) -> bool {
        self.has(DIRTY)
    }
    /// Is the folio being written?
    pub fn is_writeback(&self) -> bool {
        self.has(WRITEBACK)
    }
    /// Is the lock held?
    pub fn is_locked(&self) -> bool {
        self.has(LOCKED)
    }
    /// Was the folio removed from its file? Look after locking.
    pub fn is_detached(&self) -> bool {
        self.has(DETACHED)
    }
    pub(super) fn set_detached(&self) {
        self.set(DETACHED);
    }
    pub(super) fn clear_dirty(&self) -> bool {
        self.clear(DIRTY)
    }
    pub(super) fn set_writeback(&self) {
        let was_clear = self.set(WRITEBACK);
        assert!(was_clear, "writeback started twice: {self:?}");
    }
    pub(super) fn end_writeback(&self) {
        self.clear_and_wake(WRITEBACK);
    }
    pub(super) fn set_readahead(&self) {
        self.set(READAHEAD);
    }
    /// Is this the mark of the next window? Clears it, so that one reader acts on it.
    #[inline]
    pub(crate) fn take_readahead(&self) -> bool {
        self.has(READAHEAD) && self.clear(READAHEAD)
    }

    // ---- blocks

    /// All its blocks, of `1 << block_shift` bytes.
    #[inline]
    pub(crate) fn all_blocks(&self, block_shift: u32) -> BlockMask {
        low_bits(self.length() >> block_shift)
    }
    /// The blocks that bytes `start..end` of the folio touch.
    pub(crate) const fn blocks_touched(block_shift: u32, start: usize, end: usize) -> BlockMask {
        if start >= end {
            return 0;
        }
        let first = start >> block_shift;
        let last = (end - 1) >> block_shift;
        low_bits(last + 1) & !low_bits(first)
    }
    /// The blocks that hold the file's data.
    pub(crate) fn uptodate_blocks(&self) -> BlockMask {
        self.blocks.load(Ordering::Acquire) as BlockMask
    }
    pub(crate) fn set_uptodate_blocks(&self, mask: BlockMask, block_shift: u32) {
        let before = self.blocks.fetch_or(mask.into(), Ordering::AcqRel) as BlockMask;
        let all = self.all_blocks(block_shift);
        if (before | mask) & all == all {
            self.set(UPTODATE);
        }
    }
    /// Make blocks dirty; was one of them clean?
    pub(super) fn set_dirty_blocks(&self, mask: BlockMask) -> bool {
        let before = self.blocks.fetch_or(u64::from(mask) << DIRTY_SHIFT, Ordering::AcqRel);
        self.set(DIRTY);
        mask & !(before >> DIRTY_SHIFT) as BlockMask != 0
    }
    /// The pages of which these are blocks: a bit for each, the first page's lowest.
    #[inline]
    pub(super) fn pages_of_blocks(&self, mask: BlockMask, block_shift: u32) -> u64 {
        if block_shift == PAGE_SHIFT {
            return mask.into();
        }
        let per_page = 1 << (PAGE_SHIFT - block_shift);
        (0..self.page_count)
            .filter(|page| mask >> (page * per_page) & low_bits(per_page as usize) != 0)
            .fold(0, |pages, page| pages | 1 << page)
    }
    /// Data was copied into these blocks, and the folio used by that. Was one of them clean?
    pub(super) fn set_written(&self, mask: BlockMask, block_shift: u32) -> bool {
        let before = self.blocks.fetch_or(both(mask), Ordering::AcqRel);
        let all = self.all_blocks(block_shift);
        let mut bits = DIRTY | next_use(self.flags.load(Ordering::Relaxed));
        if (before as BlockMask | mask) & all == all {
            bits |= UPTODATE;
        }
        self.flags.fetch_or(bits, Ordering::AcqRel);
        mask & !(before >> DIRTY_SHIFT) as BlockMask != 0
    }
    /// The blocks that are newer than the disk.
    pub(crate) fn dirty_blocks(&self) -> BlockMask {
        (self.blocks.load(Ordering::Acquire) >> DIRTY_SHIFT) as BlockMask
    }
    /// Blocks are no longer part of the file: not newer than the disk, and nothing is
    /// known of them. The folio is locked. Is any other block dirty?
    pub(super) fn forget_blocks(&self, mask: BlockMask) -> bool {
        self.clear(UPTODATE);
        let rest = !both(mask);
        (self.blocks.fetch_and(rest, Ordering::AcqRel) & rest) >> DIRTY_SHIFT != 0
    }
    /// Take the dirty bits: writeback will write these blocks.
    pub(super) fn take_dirty_blocks(&self) -> BlockMask {
        let before = self.blocks.fetch_and((1 << DIRTY_SHIFT) - 1, Ordering::AcqRel);
        (before >> DIRTY_SHIFT) as BlockMask
    }

    // ---- transfers

    /// More transfers will be added; the folio is not done before [`Folio::transfer_done`].
    pub(crate) fn transfer_begin(&self) {
        self.pending.fetch_add(1, Ordering::AcqRel);
    }
    /// One transfer ended, or no more will be added. True for the last.
    #[must_use = "the last one ends the folio's I/O"]
    pub(crate) fn transfer_done(&self) -> bool {
        self.pending.fetch_sub(1, Ordering::AcqRel) == 1
    }
    /// One transfer fills the whole folio, which nobody else has seen yet.
    pub(crate) fn transfer_whole(&self) {
        self.pending.store(1, Ordering::Relaxed);
    }
    /// The end of [`Folio::transfer_whole`]: every block holds the file's data, and the
    /// lock that was handed to the transfer is free.
    pub(crate) fn end_whole_transfer(&self, block_shift: u32) {
        self.pending.store(0, Ordering::Relaxed);
        self.blocks.store(self.all_blocks(block_shift).into(), Ordering::Release);
        // Both changes in one step: the one bit is clear, the other set.
        let before = self.flags.fetch_add(UPTODATE - LOCKED, Ordering::AcqRel);
        debug_assert!(before & (UPTODATE | LOCKED) == LOCKED);
        if before & WAITERS != 0 {
            self.clear_and_wake(WAITERS);
        }
    }
    /// Give back a lock that was handed to a transfer.
    pub(crate) fn unlock_after_transfer(&self) {
        self.unlock();
    }

    // ---- use

    /// Note a use: once makes it referenced, again makes it active.
    /// Costs no store when nothing changes.
    #[inline]
    pub fn mark_accessed(&self) {
        let now = self.flags.load(Ordering::Relaxed);
        let bit = next_use(now);
        if now & bit == 0 {
            self.set(bit);
        }
    }
    pub(super) fn set_active(&self) {
        self.set(ACTIVE);
    }
    pub(super) fn is_active(&self) -> bool {
        self.has(ACTIVE)
    }
    pub(super) fn forget_use(&self) {
        self.clear(ACTIVE | REFERENCED);
    }
    /// A page table entry maps the folio. Called with the folio locked.
    pub fn add_mapping_ref(&self) {
        self.mapped.fetch_add(1, Ordering::AcqRel);
    }
    /// A page table entry no longer maps the folio.
    pub fn sub_mapping_ref(&self) {
        let before = self.mapped.fetch_sub(1, Ordering::AcqRel);
        assert!(before != 0, "unmapped more often than mapped: {self:?}");
    }
    /// Is the folio mapped anywhere?
    pub fn is_mapped(&self) -> bool {
        self.mapped.load(Ordering::Acquire) != 0
    }
}

/// The `count` lowest bits, up to all.
const fn low_bits(count: usize) -> BlockMask {
    ((1u64 << count) - 1) as BlockMask
}

/// The uptodate and the dirty bits of blocks.
const fn both(mask: BlockMask) -> u64 {
    mask as u64 | (mask as u64) << DIRTY_SHIFT
}

/// What a use makes of a folio with these flags.
const fn next_use(flags: u32) -> u32 {
    if flags & REFERENCED == 0 { REFERENCED } else { ACTIVE }
}

/// A folio whose lock the holder owns; dropping it unlocks.
#[must_use = "dropping it unlocks at once"]
pub struct LockedFolio {
    folio: Option<Arc<Folio>>,
    _not_send: PhantomData<*mut ()>,
}

impl LockedFolio {
    /// The folio.
    #[inline]
    pub fn folio(&self) -> &Arc<Folio> {
        self.folio.as_ref().expect("present until the lock is given away")
    }
    /// Give the lock to a transfer, whose completion will unlock.
    pub(crate) fn hand_to_transfer(mut self) -> Arc<Folio> {
        check::released(&locks::FOLIO);
        self.folio.take().expect("present until the lock is given away")
    }
}

impl core::ops::Deref for LockedFolio {
    type Target = Folio;
    #[inline]
    fn deref(&self) -> &Folio {
        self.folio()
    }
}

impl Drop for LockedFolio {
    fn drop(&mut self) {
        if let Some(folio) = &self.folio {
            check::released(&locks::FOLIO);
            folio.unlock();
        }
    }
}
