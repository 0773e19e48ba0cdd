//! One mapped range of an address space.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use holdfast_sync::{Mutex, MutexGuard};

use super::{MappedFile, Prot};
use crate::iomap::FolioPage;
use crate::locks;
use crate::pagecache::{Folio, MappedArea, Mapping};
use crate::platform::{OutOfMemory, PAGE_SHIFT, Page, PageTable, VirtAddr};

/// What an area shows.
#[derive(Clone)]
pub(super) enum Backing {
    /// Pages of zeros, made at the first access.
    Anonymous,
    /// A file.
    File {
        /// The open file: readahead, and where errors are reported.
        file: Arc<dyn MappedFile>,
        /// Its cached contents.
        mapping: Arc<Mapping>,
        /// The file's page at the area's start.
        first_index: u64,
    },
}

/// A range of pages with one backing and one set of rights.
pub(super) struct Area {
    /// First page number in the address space.
    pub(super) start: u64,
    /// Page number after the last.
    pub(super) end: u64,
    pub(super) prot: Prot,
    /// Stores go to the file (or to who else maps it), not to private copies.
    pub(super) shared: bool,
    pub(super) backing: Backing,
    table: Arc<dyn PageTable>,
    /// Shared by the pieces of one mapping that was cut.
    slots: Arc<Slots>,
}

const CHUNK: u64 = 64;

/// Which pages of a mapping have page table entries, and of what kind.
///
/// Keys are pages of the file, for anonymous memory pages of the address space: they
/// stay the same when a mapping is cut in two.
struct Slots(Mutex<BTreeMap<u64, Chunk>>);

#[derive(Default)]
struct Chunk {
    /// Entries that show the file's folio.
    folios: u64,
    /// Pages that belong to the mapping alone.
    private: Option<Box<[Option<Page>; CHUNK as usize]>>,
}

impl Chunk {
    fn private(&self, key: u64) -> Option<&Page> {
        self.private.as_ref()?[(key % CHUNK) as usize].as_ref()
    }
    fn private_bits(&self) -> u64 {
        let Some(pages) = &self.private else { return 0 };
        (0..CHUNK).filter(|key| pages[*key as usize].is_some()).fold(0, |bits, key| bits | bit(key))
    }
    fn set_private(&mut self, key: u64, page: Page) {
        let pages = self.private.get_or_insert_with(|| Box::new([const { None }; CHUNK as usize]));
        pages[(key % CHUNK) as usize] = Some(page);
    }
    fn take_private(&mut self, key: u64) -> Option<Page> {
        self.private.as_mut()?[(key % CHUNK) as usize].take()
    }
    fn is_empty(&self) -> bool {
        self.folios == 0 && self.private.as_ref().is_none_or(|p| p.iter().all(Option::is_none))
    }
}

const fn bit(key: u64) -> u64 {
    1 << (key % CHUNK)
}

impl Area {
    pub(super) fn new(
        pages: Range<u64>,
        prot: Prot,
        shared: bool,
        backing: Backing,
        table: Arc<dyn PageTable>,
    ) -> Arc<Self> {
        let slots = Arc::new(Slots(Mutex::new(&locks::ANON, BTreeMap::new())));
        Arc::new(Self { start: pages.start, end: pages.end, prot, shared, backing, table, slots })
    }
    /// The part `pages` of this area as an area of its own.
    pub(super) fn part(&self, pages: Range<u64>) -> Arc<Self> {
        let mut backing = self.backing.clone();
        if let Backing::File { first_index, .. } = &mut backing {
            *first_index += pages.start - self.start;
        }
        Arc::new(Self {
            start: pages.start,
            end: pages.end,
            prot: self.prot,
            shared: self.shared,
            backing,
            table: self.table.clone(),
            slots: self.slots.clone(),
        })
    }
    /// The slot of a page of the address space.
    pub(super) fn key(&self, number: u64) -> u64 {
        match &self.backing {
            Backing::File { first_index, .. } => first_index + (number - self.start),
            Backing::Anonymous => number,
        }
    }
    fn address(&self, key: u64) -> VirtAddr {
        let number = match &self.backing {
            Backing::File { first_index, .. } => key - first_index + self.start,
            Backing::Anonymous => key,
        };
        VirtAddr(number << PAGE_SHIFT)
    }
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Chunk>> {
        self.slots.0.lock()
    }

    /// Show page `key` of a folio, which is locked, at its place. An entry that is there
    /// already stays, but may become writable; a private copy stays.
    pub(super) fn map_folio(
        &self,
        key: u64,
        folio: &Folio,
        writable: bool,
    ) -> Result<(), OutOfMemory> {
        let mut slots = self.lock();
        let chunk = slots.entry(key / CHUNK).or_default();
        if chunk.private(key).is_some() {
            return Ok(());
        }
        let mapped = chunk.folios & bit(key) != 0;
        if mapped && !writable {
            return Ok(());
        }
        // Rights only grow here, so no processor need forget the old entry: one that
        // uses it faults, and walks the table again.
        self.table.map(self.address(key), folio.page_of(key), writable)?;
        if !mapped {
            chunk.folios |= bit(key);
            folio.add_mapping_ref();
        }
        Ok(())
    }
    /// Show several pages for reading, where nothing stands at their places. Their folios
    /// are locked; they lie in one chunk, in rising order. How many are done, from the
    /// first on.
    pub(super) fn map_around(&self, pages: &[FolioPage<'_>]) -> usize {
        let Some((first, _)) = pages.first() else { return 0 };
        let mut slots = self.lock();
        let chunk = slots.entry(first / CHUNK).or_default();
        let taken = chunk.folios | chunk.private_bits();
        let mut absent = Vec::with_capacity(pages.len());
        for (key, folio) in pages {
            debug_assert!(key / CHUNK == first / CHUNK);
            if taken & bit(*key) == 0 {
                absent.push((self.address(*key), folio.page_of(*key)));
            }
        }
        let mut mapped = self.table.map_absent(&absent);
        for (done, (key, folio)) in pages.iter().enumerate() {
            if taken & bit(*key) != 0 {
                continue;
            }
            if mapped == 0 {
                return done;
            }
            mapped -= 1;
            chunk.folios |= bit(*key);
            folio.add_mapping_ref();
        }
        pages.len()
    }
    /// Show a private page in the place of page `key` of a folio, which is locked and was
    /// copied.
    pub(super) fn map_copy(&self, key: u64, folio: &Folio, copy: Page) -> Result<(), OutOfMemory> {
        let mut slots = self.lock();
        let chunk = slots.entry(key / CHUNK).or_default();
        if chunk.private(key).is_some() {
            return Ok(());
        }
        let va = self.address(key);
        self.table.map(va, (&copy).into(), true)?;
        if chunk.folios & bit(key) != 0 {
            // Other processors may still read the folio through the old entry.
            self.table.flush(va, 1);
            chunk.folios &= !bit(key);
            folio.sub_mapping_ref();
        }
        chunk.set_private(key, copy);
        Ok(())
    }
    /// Show a page of zeros that `alloc` makes, unless a page is there.
    pub(super) fn map_zeros(
        &self,
        number: u64,
        alloc: impl FnOnce() -> Option<Page>,
    ) -> Result<(), OutOfMemory> {
        let key = self.key(number);
        let mut slots = self.lock();
        let chunk = slots.entry(key / CHUNK).or_default();
        if chunk.private(key).is_some() {
            return Ok(());
        }
        let page = alloc().ok_or(OutOfMemory)?;
        let writable = self.prot.contains(Prot::WRITE);
        self.table.map(self.address(key), (&page).into(), writable)?;
        chunk.set_private(key, page);
        Ok(())
    }
    /// Does a page of the mapping's own stand at this page?
    pub(super) fn has_private(&self, number: u64) -> bool {
        let key = self.key(number);
        self.lock().get(&(key / CHUNK)).is_some_and(|c| c.private(key).is_some())
    }

    /// Remove every entry of the pages `numbers`, and the private pages.
    /// The caller holds `MMAP_LOCK` exclusive: no fault adds entries meanwhile.
    pub(super) fn unmap_range(&self, numbers: Range<u64>) {
        self.unmap_keys(self.key(numbers.start)..self.key(numbers.end));
    }
    /// As [`Area::unmap_range`], by slots.
    fn unmap_keys(&self, keys: Range<u64>) {
        let Range { start: mut key, end } = keys;
        while key < end {
            let next = self.lock().range(key / CHUNK..).next().map(|(n, _)| n * CHUNK);
            let Some(next) = next.filter(|n| *n < end) else { return };
            key = key.max(next);
            let stop = end.min((key / CHUNK + 1) * CHUNK);
            self.unmap_chunk(key..stop);
            key = stop;
        }
    }
    /// As [`Area::unmap_range`], for keys of one chunk.
    fn unmap_chunk(&self, keys: Range<u64>) {
        // Found before the area's lock is taken, as the order demands. A folio with an
        // entry is in the index, and no entry can appear: none is missed.
        let folios = match &self.backing {
            Backing::File { mapping, .. } => mapping.folios_in(keys.clone(), CHUNK as usize),
            Backing::Anonymous => Vec::new(),
        };
        let mut slots = self.lock();
        let Some(chunk) = slots.get_mut(&(keys.start / CHUNK)) else { return };
        let pages = folios.iter().flat_map(|folio| folio.pages().map(move |key| (key, folio)));
        let shown = |key: u64| keys.contains(&key) && chunk.folios & bit(key) != 0;
        let shown: Vec<(u64, &Arc<Folio>)> = pages.filter(|(key, _)| shown(*key)).collect();
        let private: Vec<(u64, Page)> =
            keys.clone().filter_map(|k| chunk.take_private(k).map(|p| (k, p))).collect();
        for key in shown.iter().map(|(k, _)| *k).chain(private.iter().map(|(k, _)| *k)) {
            self.table.unmap(self.address(key));
        }
        if !shown.is_empty() || !private.is_empty() {
            self.table.flush(self.address(keys.start), (keys.end - keys.start) as usize);
        }
        for (key, folio) in shown {
            chunk.folios &= !bit(key);
            folio.sub_mapping_ref();
        }
        debug_assert!(keys.clone().all(|k| chunk.folios & bit(k) == 0), "an entry without folio");
        if chunk.is_empty() {
            slots.remove(&(keys.start / CHUNK));
        }
        drop(slots);
        drop(private);
    }
}

impl MappedArea for Area {
    fn pages(&self) -> Range<u64> {
        match &self.backing {
            Backing::File { .. } => self.key(self.start)..self.key(self.end),
            Backing::Anonymous => 0..0,
        }
    }
    fn write_protect(&self, index: u64) -> bool {
        // The file's folios are never writable in a private mapping.
        let writable = self.shared && self.table.write_protect(self.address(index));
        if writable {
            self.table.flush(self.address(index), 1);
        }
        writable
    }
    fn unmap(&self, index: u64) {
        let Backing::File { mapping, .. } = &self.backing else { return };
        let Some(folio) = mapping.find(index) else { return };
        let mut slots = self.lock();
        let Some(chunk) = slots.get_mut(&(index / CHUNK)) else { return };
        if chunk.folios & bit(index) != 0 {
            let va = self.address(index);
            self.table.unmap(va);
            self.table.flush(va, 1);
            chunk.folios &= !bit(index);
            folio.sub_mapping_ref();
        }
    }
    fn zap(&self, range: Range<u64>) {
        let pages = self.pages();
        self.unmap_keys(range.start.max(pages.start)..range.end.min(pages.end));
    }
    fn test_and_clear_accessed(&self, index: u64) -> bool {
        let slots = self.lock();
        slots.get(&(index / CHUNK)).is_some_and(|c| c.folios & bit(index) != 0)
            && self.table.test_and_clear_accessed(self.address(index))
    }
}
