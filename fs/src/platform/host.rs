//! The platform port on a host: ordinary memory, a page table that is a map, a seeded
//! random source. Safe code, and deterministic when Shuttle schedules it.
//!
//! | type | stands for | shows |
//! |------|-----------|-------|
//! | [`HostMemory`] | physical memory | use of a page before it is filled (pages come poisoned), leaks (a budget) |
//! | [`SimPageTable`] | a page table and every processor's TLB | a missing flush: old translations stay usable until flushed |
//! | [`HostEnvironment`] | clock and random source | |
//!
//! Memory words are atomics of `core`, also under Shuttle: a copy of a page is one step
//! of a schedule, not 512.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use holdfast_sync::{Mutex, thread, time};

use super::{Environment, Memory, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, Page, PageFrame, PageOf};
use super::{PageTable, Pte, VirtAddr};
use crate::locks;

const WORD: usize = 8;
const WORDS: usize = PAGE_SIZE / WORD;
/// What a fresh page holds in every byte.
const POISON: u64 = 0xE5E5_E5E5_E5E5_E5E5;

/// A budget of pages taken from the host's heap.
pub struct HostMemory {
    total: u64,
    state: Arc<Budget>,
}

struct Budget {
    free: AtomicU64,
    next: AtomicU64,
}

impl HostMemory {
    /// Memory of `pages` pages.
    pub fn new(pages: u64) -> Arc<Self> {
        // Address 0 stays unused, as nobody expects a page there.
        let state = Budget { free: AtomicU64::new(pages), next: AtomicU64::new(1) };
        Arc::new(Self { total: pages, state: Arc::new(state) })
    }
}

impl Memory for HostMemory {
    fn alloc_page(&self) -> Option<Page> {
        self.alloc_run(1)
    }
    fn alloc_run(&self, count: usize) -> Option<Page> {
        let pages = count as u64;
        self.state.free.fetch_update(Relaxed, Relaxed, |n| n.checked_sub(pages)).ok()?;
        let number = self.state.next.fetch_add(pages, Relaxed);
        let words = (0..count * WORDS).map(|_| AtomicU64::new(POISON)).collect();
        Some(Arc::new(HostPage { words, number, budget: self.state.clone() }))
    }
    fn free_pages(&self) -> u64 {
        self.state.free.load(Relaxed)
    }
    fn total_pages(&self) -> u64 {
        self.total
    }
}

/// Pages as words that several threads may copy from and to at once.
struct HostPage {
    words: Box<[AtomicU64]>,
    number: u64,
    budget: Arc<Budget>,
}

impl Drop for HostPage {
    fn drop(&mut self) {
        self.budget.free.fetch_add((self.words.len() / WORDS) as u64, Relaxed);
    }
}

impl HostPage {
    /// Replace `len` bytes at `at` of word `index`, and no other, by those of `value`.
    fn merge(&self, index: usize, at: usize, len: usize, value: u64) {
        let mask = if len == WORD { u64::MAX } else { ((1 << (len * 8)) - 1) << (at * 8) };
        let new = |old: u64| Some(old & !mask | value & mask);
        let _ = self.words[index].fetch_update(Relaxed, Relaxed, new);
    }
    /// Call `edge(word, offset in it, offset in the range, len)` for the parts of words at
    /// the ends of a range; returns the range of whole words and the offset of the first.
    fn split(
        &self,
        offset: usize,
        len: usize,
        mut edge: impl FnMut(usize, usize, usize, usize),
    ) -> (core::ops::Range<usize>, usize) {
        assert!(offset + len <= self.length(), "access beyond a page: {offset}+{len}");
        let (mut first, mut head) = (offset / WORD, 0);
        if !offset.is_multiple_of(WORD) {
            head = (WORD - offset % WORD).min(len);
            edge(first, offset % WORD, 0, head);
            first += 1;
        }
        let whole = (len - head) / WORD;
        let tail = len - head - whole * WORD;
        if tail > 0 {
            edge(first + whole, 0, len - tail, tail);
        }
        (first..first + whole, head)
    }
}

impl PageFrame for HostPage {
    fn read(&self, offset: usize, dst: &mut [u8]) {
        let (whole, head) = self.split(offset, dst.len(), |word, at, from, len| {
            let bytes = self.words[word].load(Relaxed).to_le_bytes();
            dst[from..from + len].copy_from_slice(&bytes[at..at + len]);
        });
        let end = head + whole.len() * WORD;
        // Arrays: a copy of eight bytes would be a call in a build for tests.
        for (bytes, word) in dst[head..end].as_chunks_mut().0.iter_mut().zip(&self.words[whole]) {
            *bytes = word.load(Relaxed).to_le_bytes();
        }
    }
    fn write(&self, offset: usize, src: &[u8]) {
        let (whole, head) = self.split(offset, src.len(), |word, at, from, len| {
            let mut bytes = [0; WORD];
            bytes[at..at + len].copy_from_slice(&src[from..from + len]);
            self.merge(word, at, len, u64::from_le_bytes(bytes));
        });
        let end = head + whole.len() * WORD;
        for (bytes, word) in src[head..end].as_chunks().0.iter().zip(&self.words[whole]) {
            word.store(u64::from_le_bytes(*bytes), Relaxed);
        }
    }
    fn zero(&self, offset: usize, len: usize) {
        let (whole, _) = self.split(offset, len, |word, at, _, len| self.merge(word, at, len, 0));
        for word in &self.words[whole] {
            word.store(0, Relaxed);
        }
    }
    fn phys_addr(&self) -> u64 {
        self.number << PAGE_SHIFT
    }
    fn length(&self) -> usize {
        self.words.len() * WORD
    }
}

/// One page of those that it keeps alive.
#[derive(Clone)]
struct Held {
    run: Page,
    offset: usize,
}

/// One entry of the table.
struct Entry {
    page: Held,
    writable: bool,
    accessed: bool,
    dirty: bool,
}

/// A translation that a processor remembers. It stays usable after the table changed,
/// until it is flushed or falls out, as in hardware.
struct Cached {
    number: u64,
    page: Held,
    writable: bool,
    dirty: bool,
}

const TLB_ENTRIES: usize = 64;

/// A page table walked by software, with a TLB for each processor.
pub struct SimPageTable {
    entries: Mutex<BTreeMap<u64, Entry>>,
    tlbs: Vec<Mutex<Vec<Option<Cached>>>>,
}

impl SimPageTable {
    /// An empty table.
    pub fn new() -> Arc<Self> {
        let tlb = |_| Mutex::new(&locks::TLB, (0..TLB_ENTRIES).map(|_| None).collect());
        Arc::new(Self {
            entries: Mutex::new(&locks::PAGE_TABLE, BTreeMap::new()),
            tlbs: (0..thread::cpu_count()).map(tlb).collect(),
        })
    }
    /// Pages mapped just now.
    pub fn mapped_pages(&self) -> usize {
        self.entries.lock().len()
    }
    /// Access one page as the calling processor would, `copy(memory, offset)`; false when
    /// that would fault.
    ///
    /// The processor's TLB stays locked during the access, so that a flush waits for
    /// what goes through an old translation.
    fn access(&self, va: VirtAddr, write: bool, copy: impl FnOnce(&Page, usize)) -> bool {
        let number = va.0 >> PAGE_SHIFT;
        let mut tlb = self.tlbs[thread::cpu()].lock();
        let slot = &mut tlb[number as usize % TLB_ENTRIES];
        let hit = |c: &Cached| c.number == number && (!write || c.writable && c.dirty);
        if !slot.as_ref().is_some_and(hit) {
            let mut entries = self.entries.lock();
            let Some(entry) = entries.get_mut(&number).filter(|e| !write || e.writable) else {
                return false;
            };
            entry.accessed = true;
            entry.dirty |= write;
            let (page, writable, dirty) = (entry.page.clone(), entry.writable, entry.dirty);
            let old = slot.replace(Cached { number, page, writable, dirty });
            drop(entries);
            drop(old);
        }
        if let Some(cached) = slot {
            copy(&cached.page.run, cached.page.offset + va.page_offset());
        }
        true
    }
    /// Do `each(va, done, len)` page by page until one says no; the bytes done.
    fn by_page(
        va: VirtAddr,
        len: usize,
        mut each: impl FnMut(VirtAddr, usize, usize) -> bool,
    ) -> usize {
        let mut done = 0;
        while done < len {
            let Some(at) = va.0.checked_add(done as u64).map(VirtAddr) else { break };
            let part = (PAGE_SIZE - at.page_offset()).min(len - done);
            if !each(at, done, part) {
                break;
            }
            done += part;
        }
        done
    }
}

impl PageTable for SimPageTable {
    fn map(&self, va: VirtAddr, page: PageOf<'_>, writable: bool) -> Result<(), OutOfMemory> {
        assert!(va.page_offset() == 0, "mapping an unaligned address {va:?}");
        let page = Held { run: page.run.clone(), offset: page.offset };
        let entry = Entry { page, writable, accessed: false, dirty: false };
        let old = self.entries.lock().insert(va.0 >> PAGE_SHIFT, entry);
        drop(old);
        Ok(())
    }
    fn query(&self, va: VirtAddr) -> Option<Pte> {
        self.entries.lock().get(&(va.0 >> PAGE_SHIFT)).map(Entry::pte)
    }
    fn write_protect(&self, va: VirtAddr) -> bool {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(&(va.0 >> PAGE_SHIFT));
        entry.is_some_and(|e| core::mem::replace(&mut e.writable, false))
    }
    fn unmap(&self, va: VirtAddr) -> Option<Pte> {
        let old = self.entries.lock().remove(&(va.0 >> PAGE_SHIFT));
        old.as_ref().map(Entry::pte)
    }
    fn test_and_clear_accessed(&self, va: VirtAddr) -> bool {
        let mut entries = self.entries.lock();
        let entry = entries.get_mut(&(va.0 >> PAGE_SHIFT));
        entry.is_some_and(|e| core::mem::replace(&mut e.accessed, false))
    }
    fn flush(&self, va: VirtAddr, pages: usize) {
        let first = va.0 >> PAGE_SHIFT;
        let range = first..first.saturating_add(pages as u64);
        for tlb in &self.tlbs {
            let mut tlb = tlb.lock();
            for slot in tlb.iter_mut() {
                if slot.as_ref().is_some_and(|c| range.contains(&c.number)) {
                    *slot = None;
                }
            }
        }
    }
    fn copy_to_user(&self, dst: VirtAddr, src: &Page, offset: usize, len: usize) -> usize {
        let mut bounce = alloc::vec![0; len];
        src.read(offset, &mut bounce);
        self.write_user(dst, &bounce)
    }
    fn copy_from_user(&self, src: VirtAddr, dst: &Page, offset: usize, len: usize) -> usize {
        let mut bounce = alloc::vec![0; len];
        let done = self.read_user(src, &mut bounce);
        dst.write(offset, &bounce[..done]);
        done
    }
    fn read_user(&self, src: VirtAddr, dst: &mut [u8]) -> usize {
        Self::by_page(src, dst.len(), |va, done, len| {
            self.access(va, false, |page, at| page.read(at, &mut dst[done..done + len]))
        })
    }
    fn write_user(&self, dst: VirtAddr, src: &[u8]) -> usize {
        Self::by_page(dst, src.len(), |va, done, len| {
            self.access(va, true, |page, at| page.write(at, &src[done..done + len]))
        })
    }
}

impl Entry {
    fn pte(&self) -> Pte {
        Pte {
            phys: self.page.run.phys_addr() + self.page.offset as u64,
            writable: self.writable,
            accessed: self.accessed,
            dirty: self.dirty,
        }
    }
}

/// A clock and a seeded random source.
pub struct HostEnvironment {
    epoch_ns: u64,
    state: AtomicU64,
}

impl HostEnvironment {
    /// Random numbers from `seed`; the clock starts at a fixed date and follows
    /// [`holdfast_sync::time`].
    pub fn seeded(seed: u64) -> Arc<Self> {
        const FIXED_DATE_NS: u64 = 1_600_000_000_000_000_000;
        Arc::new(Self { epoch_ns: FIXED_DATE_NS, state: AtomicU64::new(seed) })
    }
    /// The host's time of day, and random numbers seeded from it.
    pub fn system() -> Arc<Self> {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now_ns = since.map_or(0, |d| d.as_nanos() as u64);
        let epoch_ns = now_ns.saturating_sub(time::now_ns());
        Arc::new(Self { epoch_ns, state: AtomicU64::new(now_ns) })
    }
}

impl Environment for HostEnvironment {
    fn wall_clock_ns(&self) -> u64 {
        self.epoch_ns + time::now_ns()
    }
    fn random(&self) -> u64 {
        // splitmix64: a counter in steps of the golden ratio, well stirred.
        const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.state.fetch_add(STEP, Relaxed).wrapping_add(STEP);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

#[cfg(all(test, not(feature = "shuttle")))]
mod tests {
    use super::*;

    fn page(memory: &HostMemory) -> Page {
        memory.alloc_page().expect("the budget has pages")
    }

    #[test]
    fn pages_copy_any_range_and_nothing_else() {
        let memory = HostMemory::new(1);
        let p = page(&memory);
        let mut model = [0x11u8; PAGE_SIZE];
        p.write(0, &model);
        let random = HostEnvironment::seeded(7);
        for round in 0..4000u64 {
            let offset = random.random() as usize % PAGE_SIZE;
            let len = random.random() as usize % (PAGE_SIZE - offset + 1).min(40);
            if round % 3 == 0 {
                p.zero(offset, len);
                model[offset..offset + len].fill(0);
            } else {
                let data: Vec<u8> = (0..len).map(|_| random.random() as u8).collect();
                p.write(offset, &data);
                model[offset..offset + len].copy_from_slice(&data);
            }
            let (at, n) = (random.random() as usize % 100, random.random() as usize % 3000);
            let mut out = alloc::vec![0; n];
            p.read(at, &mut out);
            assert_eq!(out, model[at..at + n], "round {round}");
        }
    }

    #[test]
    fn memory_has_a_budget() {
        let memory = HostMemory::new(2);
        let a = page(&memory);
        let b = page(&memory);
        assert_ne!(a.phys_addr(), b.phys_addr());
        assert!(memory.alloc_page().is_none());
        drop(a);
        assert_eq!(memory.free_pages(), 1);
        assert!(memory.alloc_page().is_some());
        assert_eq!(memory.total_pages(), 2);
    }

    #[test]
    fn accesses_stop_at_the_first_byte_that_faults() {
        let memory = HostMemory::new(4);
        let table = SimPageTable::new();
        let (a, b) = (page(&memory), page(&memory));
        table.map(VirtAddr(0x1000), (&a).into(), true).unwrap();
        table.map(VirtAddr(0x2000), (&b).into(), false).unwrap();
        assert_eq!(table.write_user(VirtAddr(0x1FFE), b"abcd"), 2);
        let mut out = [0; 8];
        assert_eq!(table.read_user(VirtAddr(0x1FFE), &mut out), 8);
        assert_eq!(&out[..2], b"ab");
        assert_eq!(table.read_user(VirtAddr(0x2FFF), &mut out), 1);
        assert_eq!(table.read_user(VirtAddr(u64::MAX - 1), &mut out), 0);
        let pte = table.query(VirtAddr(0x1000)).unwrap();
        assert!(pte.accessed && pte.dirty && pte.writable);
        assert!(!table.query(VirtAddr(0x2000)).unwrap().dirty);
    }

    #[test]
    fn an_old_translation_is_used_until_it_is_flushed() {
        let memory = HostMemory::new(4);
        let table = SimPageTable::new();
        let va = VirtAddr(0x5000);
        let p = page(&memory);
        table.map(va, (&p).into(), true).unwrap();
        assert_eq!(table.write_user(va, b"x"), 1);
        assert!(table.write_protect(va));
        assert!(!table.write_protect(va));
        assert_eq!(table.write_user(va, b"y"), 1, "the TLB still allows it");
        table.flush(va, 1);
        assert_eq!(table.write_user(va, b"z"), 0);
        table.unmap(va);
        let mut out = [0; 1];
        assert_eq!(table.read_user(va, &mut out), 0, "no translation was cached by the failure");
    }

    #[test]
    fn random_numbers_repeat_from_a_seed() {
        let (a, b) = (HostEnvironment::seeded(1), HostEnvironment::seeded(1));
        assert!((0..10).all(|_| a.random() == b.random()));
        assert_ne!(a.random(), HostEnvironment::seeded(2).random());
    }
}
