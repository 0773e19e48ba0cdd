//! A program's page table: the lower half of the address space.
//!
//! Entries are atomics and intermediate tables live as long as the table, so there is
//! no lock: two processors that make the same intermediate table race with one
//! exchange, and the loser gives its frame back.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use bitflags::bitflags;

use super::layout::{USER_END, direct};
use super::paging::{self, ADDRESS, Entry, index};
use super::{OutOfMemory, frames, tlb};

bitflags! {
    /// What a program may do with a page besides reading it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Protection: u8 {
        /// Store.
        const WRITE = 1;
        /// Execute.
        const EXECUTE = 2;
    }
}

/// What the table says of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageEntry(u64);

impl PageEntry {
    /// The page's physical address.
    pub fn phys(self) -> u64 {
        self.0 & ADDRESS
    }
    fn has(self, bit: Entry) -> bool {
        self.0 & bit.bits() != 0
    }
    /// May be stored to.
    pub fn writable(self) -> bool {
        self.has(Entry::WRITABLE)
    }
    /// Was used since the bit was last cleared.
    pub fn accessed(self) -> bool {
        self.has(Entry::ACCESSED)
    }
    /// Was stored to since it was mapped.
    pub fn dirty(self) -> bool {
        self.has(Entry::DIRTY)
    }
}

/// The page table of one address space.
pub struct AddressSpace {
    root: u64,
    /// Processors that have it loaded (or had last, and run kernel threads since).
    pub(super) cpus: AtomicU64,
}

type Table = [AtomicU64; 512];

impl AddressSpace {
    /// An empty lower half.
    ///
    /// # Errors
    /// No frame for the top table.
    pub fn new() -> Result<Arc<Self>, OutOfMemory> {
        let root = frames::alloc_zeroed().ok_or(OutOfMemory)?;
        paging::copy_kernel_half(root);
        Ok(Arc::new(Self { root, cpus: AtomicU64::new(0) }))
    }
    /// The top table's physical address.
    pub fn root(&self) -> u64 {
        self.root
    }
    fn table_at(phys: u64) -> &'static Table {
        // SAFETY: tables are frames in the direct map; all access is atomic. The reference
        // does not outlive the space: it is used at once, in methods that borrow the space.
        unsafe { &*direct(phys).cast::<Table>() }
    }
    /// The last-level entry of `address`, if tables lead there.
    #[inline]
    fn entry(&self, address: u64) -> Option<&AtomicU64> {
        debug_assert!(address < USER_END);
        let mut table = Self::table_at(self.root);
        for level in (1..=3).rev() {
            let entry = table[index(address, level)].load(Ordering::Acquire);
            if entry & Entry::PRESENT.bits() == 0 {
                return None;
            }
            table = Self::table_at(entry & ADDRESS);
        }
        Some(&table[index(address, 0)])
    }
    /// As [`Self::entry`], making missing tables.
    fn make_entry(&self, address: u64) -> Result<&AtomicU64, OutOfMemory> {
        Ok(&self.last_table(address)?[index(address, 0)])
    }
    /// The last-level table of `address`, made if it is missing.
    fn last_table(&self, address: u64) -> Result<&Table, OutOfMemory> {
        assert!(address < USER_END, "{address:#x} is not a program's address");
        let mut table = Self::table_at(self.root);
        for level in (1..=3).rev() {
            let slot = &table[index(address, level)];
            let mut entry = slot.load(Ordering::Acquire);
            if entry & Entry::PRESENT.bits() == 0 {
                entry = Self::install(slot)?;
            }
            table = Self::table_at(entry & ADDRESS);
        }
        Ok(table)
    }
    #[cold]
    fn install(slot: &AtomicU64) -> Result<u64, OutOfMemory> {
        let frame = frames::alloc_zeroed().ok_or(OutOfMemory)?;
        let new = frame | (Entry::PRESENT | Entry::WRITABLE | Entry::USER).bits();
        match slot.compare_exchange(0, new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => Ok(new),
            Err(other) => {
                // SAFETY: nobody saw it.
                unsafe { frames::free(frame) };
                Ok(other)
            }
        }
    }

    /// Map the page at `phys` at `address`; what was there. The caller flushes if
    /// something was there.
    ///
    /// # Errors
    /// No frame for a table.
    pub fn map(
        &self,
        address: u64,
        phys: u64,
        protection: Protection,
    ) -> Result<Option<PageEntry>, OutOfMemory> {
        let mut flags = Entry::PRESENT | Entry::USER;
        flags.set(Entry::WRITABLE, protection.contains(Protection::WRITE));
        flags.set(Entry::NO_EXECUTE, !protection.contains(Protection::EXECUTE));
        let slot = self.make_entry(address)?;
        Ok(present(slot.swap(phys | flags.bits(), Ordering::SeqCst)))
    }
    /// For mapping several pages near one another.
    pub fn mapper(&self) -> Mapper<'_> {
        Mapper { space: self, region: u64::MAX, table: None }
    }
    /// What is mapped at `address`.
    #[inline]
    pub fn query(&self, address: u64) -> Option<PageEntry> {
        present(self.entry(address)?.load(Ordering::Acquire))
    }
    /// Remove the mapping; what it was. The caller flushes.
    pub fn unmap(&self, address: u64) -> Option<PageEntry> {
        present(self.entry(address)?.swap(0, Ordering::SeqCst))
    }
    /// Change what the program may do with a mapped page; what it could before. The
    /// caller flushes when a right was taken away.
    pub fn protect(&self, address: u64, protection: Protection) -> Option<PageEntry> {
        let slot = self.entry(address)?;
        let mut now = slot.load(Ordering::Acquire);
        loop {
            present(now)?;
            let mut flags = Entry::from_bits_retain(now);
            flags.set(Entry::WRITABLE, protection.contains(Protection::WRITE));
            flags.set(Entry::NO_EXECUTE, !protection.contains(Protection::EXECUTE));
            match slot.compare_exchange(now, flags.bits(), Ordering::SeqCst, Ordering::Acquire) {
                Ok(old) => return present(old),
                Err(other) => now = other,
            }
        }
    }
    /// Remove the right to store; was it there? The caller flushes if so.
    pub fn write_protect(&self, address: u64) -> bool {
        let writable = Entry::WRITABLE.bits();
        let Some(slot) = self.entry(address) else { return false };
        if slot.load(Ordering::Acquire) & writable == 0 {
            return false;
        }
        slot.fetch_and(!writable, Ordering::SeqCst) & writable != 0
    }
    /// Clear the accessed bit; was it set?
    pub fn test_and_clear_accessed(&self, address: u64) -> bool {
        let accessed = Entry::ACCESSED.bits();
        let Some(slot) = self.entry(address) else { return false };
        if slot.load(Ordering::Acquire) & accessed == 0 {
            return false;
        }
        slot.fetch_and(!accessed, Ordering::AcqRel) & accessed != 0
    }
    /// Make every processor forget its translations of `pages` pages from `address`.
    pub fn flush(&self, address: u64, pages: usize) {
        tlb::flush(self, address, pages);
    }
    /// The calling thread's program addresses mean this space from now on.
    #[inline]
    pub fn activate(self: &Arc<Self>) {
        crate::sched::set_space(self);
    }
}

/// Maps pages one after the other and walks the tables again only where they end.
pub struct Mapper<'a> {
    space: &'a AddressSpace,
    /// The addresses that `table` is for, without their low bits.
    region: u64,
    table: Option<&'a Table>,
}

impl Mapper<'_> {
    /// Map the page at `phys` at `address`, where nothing is, for reading only.
    ///
    /// # Errors
    /// No frame for a table.
    #[inline]
    pub fn map_absent(&mut self, address: u64, phys: u64) -> Result<(), OutOfMemory> {
        let region = address >> 21;
        let table = match self.table {
            Some(table) if region == self.region => table,
            _ => {
                let table = self.space.last_table(address)?;
                (self.region, self.table) = (region, Some(table));
                table
            }
        };
        let flags = Entry::PRESENT | Entry::USER | Entry::NO_EXECUTE;
        table[index(address, 0)].store(phys | flags.bits(), Ordering::SeqCst);
        Ok(())
    }
}

#[inline]
fn present(entry: u64) -> Option<PageEntry> {
    (entry & Entry::PRESENT.bits() != 0).then_some(PageEntry(entry))
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        tlb::leave(self);
        free_tables(self.root, 3);
    }
}

/// Free a table and those below it; the pages mapped belong to others.
fn free_tables(phys: u64, level: u32) {
    if level > 0 {
        let lower_half = if level == 3 { 256 } else { 512 };
        for slot in &AddressSpace::table_at(phys)[..lower_half] {
            let entry = slot.load(Ordering::Acquire);
            if entry & Entry::PRESENT.bits() != 0 {
                free_tables(entry & ADDRESS, level - 1);
            }
        }
    }
    // SAFETY: no processor has the space loaded any more.
    unsafe { frames::free(phys) };
}
