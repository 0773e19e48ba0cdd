//! The list of areas of an address space.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use holdfast_sync::PerCpuRwLock;

use super::area::{Area, Backing};
use super::{FAULT_AROUND, MappedFile, USER_END, USER_START};
use crate::pagecache::MappedArea;
use crate::platform::{Access, FaultHandler, Memory, PAGE_SHIFT, PAGE_SIZE, PageTable, VirtAddr};
use crate::{Error, Result, locks};

bitflags::bitflags! {
    /// What may be done with mapped memory: Linux's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Prot: u32 {
        /// Load.
        const READ = 1;
        /// Store.
        const WRITE = 2;
        /// Execute.
        const EXEC = 4;
    }
    /// How to map: Linux's numbers on x86-64.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MapFlags: u32 {
        /// Stores go to the file.
        const SHARED = 0x01;
        /// Stores go to private copies.
        const PRIVATE = 0x02;
        /// Exactly at the address, in the place of what is there.
        const FIXED = 0x10;
        /// No file: zeros.
        const ANONYMOUS = 0x20;
        /// Ignored.
        const GROWSDOWN = 0x100;
        /// Ignored.
        const DENYWRITE = 0x800;
        /// Ignored.
        const NORESERVE = 0x4000;
        /// Fault everything in at once.
        const POPULATE = 0x8000;
        /// Ignored.
        const STACK = 0x20000;
        /// Exactly at the address, if nothing is there.
        const FIXED_NOREPLACE = 0x100000;
    }
}

impl MapFlags {
    /// With `SHARED` in one number: shared, and unknown flags are refused.
    pub const SHARED_VALIDATE: Self = Self::SHARED.union(Self::PRIVATE);
}

/// What `mmap` is asked for.
pub struct MapRequest {
    /// Where; a wish, unless the flags say `FIXED`. 0: anywhere.
    pub addr: VirtAddr,
    /// Bytes.
    pub len: usize,
    /// Rights.
    pub prot: Prot,
    /// How.
    pub flags: MapFlags,
    /// The file; none for anonymous memory.
    pub file: Option<Arc<dyn MappedFile>>,
    /// The file's first byte, a multiple of the page size.
    pub offset: u64,
}

/// The memory of a process.
pub struct AddressSpace {
    pub(super) table: Arc<dyn PageTable>,
    pub(super) memory: Arc<dyn Memory>,
    /// By first page. Faults read it, and write no line that other processors read.
    pub(super) areas: PerCpuRwLock<BTreeMap<u64, Arc<Area>>>,
}

impl AddressSpace {
    /// An empty address space, seen through `table`; private pages come from `memory`.
    pub fn new(table: Arc<dyn PageTable>, memory: Arc<dyn Memory>) -> Arc<Self> {
        let areas = PerCpuRwLock::new(&locks::MMAP_LOCK, BTreeMap::new());
        Arc::new(Self { table, memory, areas })
    }
    /// The page table.
    pub fn table(&self) -> &Arc<dyn PageTable> {
        &self.table
    }
    /// Map a file or zeros. Where.
    ///
    /// # Errors
    /// As Linux: invalid for a bad combination, length, address or offset; access if the
    /// file was not opened for it; no device for what cannot be mapped; no memory when no
    /// range is free; overflow beyond the largest file; exists with `FIXED_NOREPLACE`.
    pub fn mmap(&self, request: MapRequest) -> Result<VirtAddr> {
        let page = PAGE_SIZE as u64;
        if request.len == 0 {
            return Err(Error::Invalid("a mapping of no bytes"));
        }
        let len = (request.len as u64).checked_next_multiple_of(page).ok_or(Error::NoMemory)?;
        if len > USER_END.0 - USER_START.0 {
            return Err(Error::NoMemory);
        }
        let kind = request.flags & MapFlags::SHARED_VALIDATE;
        if kind.is_empty() {
            return Err(Error::Invalid("neither shared nor private"));
        }
        let shared = kind.contains(MapFlags::SHARED);
        if !request.offset.is_multiple_of(page) {
            return Err(Error::Invalid("the offset is not a multiple of the page size"));
        }
        let backing = backing(&request, shared, len)?;
        let pages = len >> PAGE_SHIFT;
        let mut areas = self.areas.write();
        let start = self.place(&mut areas, &request, pages)?;
        let table = self.table.clone();
        let area = Area::new(start..start + pages, request.prot, shared, backing, table);
        insert(&mut areas, area);
        drop(areas);
        let va = VirtAddr(start << PAGE_SHIFT);
        if request.flags.contains(MapFlags::POPULATE) {
            self.populate(va, pages, request.prot, shared);
        }
        Ok(va)
    }
    /// Where a request's pages go; with `FIXED` what is there is unmapped.
    fn place(
        &self,
        areas: &mut BTreeMap<u64, Arc<Area>>,
        request: &MapRequest,
        pages: u64,
    ) -> Result<u64> {
        let fixed = request.flags.intersects(MapFlags::FIXED | MapFlags::FIXED_NOREPLACE);
        let aligned = request.addr.page_offset() == 0;
        let start = request.addr.0 >> PAGE_SHIFT;
        let end = start.saturating_add(pages);
        let inside = start >= USER_START.0 >> PAGE_SHIFT && end <= USER_END.0 >> PAGE_SHIFT;
        if !fixed {
            if start != 0 && inside && overlapping(areas, start..end).is_empty() {
                return Ok(start);
            }
            return find_gap(areas, pages).ok_or(Error::NoMemory);
        }
        if !aligned {
            return Err(Error::Invalid("the address is not a multiple of the page size"));
        }
        if !inside {
            return Err(Error::NoMemory);
        }
        if request.flags.contains(MapFlags::FIXED_NOREPLACE) {
            let free = overlapping(areas, start..end).is_empty();
            return if free { Ok(start) } else { Err(Error::Exists) };
        }
        remove(areas, start..end);
        Ok(start)
    }
    /// Fault pages in before they are asked for; as far as that goes.
    fn populate(&self, va: VirtAddr, pages: u64, prot: Prot, shared: bool) {
        let write = prot.contains(Prot::WRITE) && !shared;
        let access = if write { Access::Write } else { Access::Read };
        for number in 0..pages {
            if self.handle_fault(va.add(number << PAGE_SHIFT), access).is_err() {
                return;
            }
        }
    }
    /// Unmap a range, whatever lies in it.
    ///
    /// # Errors
    /// Invalid for a bad address or length.
    pub fn munmap(&self, addr: VirtAddr, len: usize) -> Result<()> {
        let range = page_range(addr, len)?;
        if range.is_empty() {
            return Err(Error::Invalid("unmapping no bytes"));
        }
        if range.end > USER_END.0 >> PAGE_SHIFT {
            return Err(Error::Invalid("beyond the address space"));
        }
        remove(&mut self.areas.write(), range);
        Ok(())
    }
    /// Unmap everything: the program ends.
    pub fn clear(&self) {
        remove(&mut self.areas.write(), 0..u64::MAX >> PAGE_SHIFT);
    }
    /// The mappings: first address, bytes, rights, shared.
    pub fn mappings(&self) -> Vec<(VirtAddr, u64, Prot, bool)> {
        let areas = self.areas.read();
        let describe = |a: &Arc<Area>| {
            let bytes = (a.end - a.start) << PAGE_SHIFT;
            (VirtAddr(a.start << PAGE_SHIFT), bytes, a.prot, a.shared)
        };
        areas.values().map(describe).collect()
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.clear();
    }
}

/// What a request maps, if it may.
fn backing(request: &MapRequest, shared: bool, len: u64) -> Result<Backing> {
    if request.flags.contains(MapFlags::ANONYMOUS) {
        return Ok(Backing::Anonymous);
    }
    let file = request.file.as_ref().ok_or(Error::BadDescriptor)?;
    // Positions in a file are signed numbers to programs.
    if request.offset > i64::MAX as u64 - len {
        return Err(Error::Overflow);
    }
    let mapping = file.contents(request.prot, shared)?;
    file.mapped();
    Ok(Backing::File { file: file.clone(), mapping, first_index: request.offset >> PAGE_SHIFT })
}

/// The pages that a range of bytes covers; its start is aligned.
pub(super) fn page_range(addr: VirtAddr, len: usize) -> Result<Range<u64>> {
    if addr.page_offset() != 0 {
        return Err(Error::Invalid("the address is not a multiple of the page size"));
    }
    let end = addr.0.checked_add(len as u64).ok_or(Error::Invalid("the range overflows"))?;
    Ok(addr.0 >> PAGE_SHIFT..end.div_ceil(PAGE_SIZE as u64))
}

/// The area that holds a page.
pub(super) fn find(areas: &BTreeMap<u64, Arc<Area>>, number: u64) -> Option<&Arc<Area>> {
    areas.range(..=number).next_back().map(|(_, a)| a).filter(|a| number < a.end)
}

/// The areas that share pages with `range`.
pub(super) fn overlapping(areas: &BTreeMap<u64, Arc<Area>>, range: Range<u64>) -> Vec<Arc<Area>> {
    let first = find(areas, range.start).map_or(range.start, |a| a.start);
    areas.range(first..range.end.max(first)).map(|(_, a)| a.clone()).collect()
}

/// The highest free range of `pages` pages, on a boundary that fault-around likes.
fn find_gap(areas: &BTreeMap<u64, Arc<Area>>, pages: u64) -> Option<u64> {
    let mut end = USER_END.0 >> PAGE_SHIFT;
    let lowest = USER_START.0 >> PAGE_SHIFT;
    let fit = |from: u64, end: u64| {
        let start = end.checked_sub(pages)? / FAULT_AROUND * FAULT_AROUND;
        (start >= from).then_some(start)
    };
    for area in areas.values().rev() {
        if let Some(start) = fit(area.end.max(lowest), end) {
            return Some(start);
        }
        end = end.min(area.start);
    }
    fit(lowest, end)
}

fn insert(areas: &mut BTreeMap<u64, Arc<Area>>, area: Arc<Area>) {
    if let Backing::File { mapping, .. } = &area.backing {
        mapping.add_area(area.clone());
    }
    areas.insert(area.start, area);
}

/// Unmap the pages `range`, cutting the areas at its ends.
fn remove(areas: &mut BTreeMap<u64, Arc<Area>>, range: Range<u64>) {
    for area in overlapping(areas, range.clone()) {
        let (start, end) = (area.start.max(range.start), area.end.min(range.end));
        area.unmap_range(start..end);
        areas.remove(&area.start);
        // The pieces are known to the file before the whole is forgotten, so that
        // writeback finds their entries at every moment.
        if area.start < start {
            insert(areas, area.part(area.start..start));
        }
        if end < area.end {
            insert(areas, area.part(end..area.end));
        }
        if let Backing::File { mapping, .. } = &area.backing {
            let whole: Arc<dyn MappedArea> = area.clone();
            mapping.remove_area(&whole);
        }
    }
}
