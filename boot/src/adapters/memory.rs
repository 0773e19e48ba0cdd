//! The kernel's memory as the storage stack's platform.

use alloc::sync::Arc;

use holdfast_fs::platform::{
    Access, Environment, FaultHandler, Memory, OutOfMemory, PAGE_SIZE, Page, PageFrame, PageOf,
    PageTable, Pte, Signal, VirtAddr,
};
use holdfast_kernel::mm::{AddressSpace, Protection, direct, frames, user};
use holdfast_kernel::{random, time};

/// Physical frames side by side.
struct Frames {
    phys: u64,
    count: usize,
}

impl Frames {
    #[inline]
    fn at(&self, offset: usize, len: usize) -> *mut u8 {
        let end = self.length();
        assert!(offset <= end && len <= end - offset, "beyond the end of a page");
        direct(self.phys + offset as u64)
    }
}

impl PageFrame for Frames {
    #[inline]
    fn read(&self, offset: usize, dst: &mut [u8]) {
        let from = self.at(offset, dst.len());
        // SAFETY: inside the frames, which are ours; contents may change meanwhile, as a
        // device's or a program's memory does, and are plain bytes.
        unsafe { dst.as_mut_ptr().copy_from_nonoverlapping(from, dst.len()) };
    }
    #[inline]
    fn write(&self, offset: usize, src: &[u8]) {
        let to = self.at(offset, src.len());
        // SAFETY: as in `read`.
        unsafe { to.copy_from_nonoverlapping(src.as_ptr(), src.len()) };
    }
    #[inline]
    fn zero(&self, offset: usize, len: usize) {
        // SAFETY: as in `read`.
        unsafe { self.at(offset, len).write_bytes(0, len) };
    }
    #[inline]
    fn phys_addr(&self) -> u64 {
        self.phys
    }
    #[inline]
    fn length(&self) -> usize {
        self.count * PAGE_SIZE
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        // SAFETY: the last reference; whoever maps or transfers into a page holds one.
        unsafe {
            match self.count {
                1 => frames::free(self.phys),
                count => frames::free_run(self.phys, count),
            }
        }
    }
}

/// Physical memory.
pub struct KernelMemory;

impl Memory for KernelMemory {
    fn alloc_page(&self) -> Option<Page> {
        let phys = frames::alloc_for_cache()?;
        Some(Arc::new(Frames { phys, count: 1 }))
    }
    fn alloc_run(&self, count: usize) -> Option<Page> {
        if count == 1 {
            return self.alloc_page();
        }
        let phys = frames::alloc_run_for_cache(count)?;
        Some(Arc::new(Frames { phys, count }))
    }
    fn free_pages(&self) -> u64 {
        frames::free_count().saturating_sub(frames::reserve_count())
    }
    fn total_pages(&self) -> u64 {
        frames::total_count()
    }
}

/// A page table that the processor walks.
pub struct HardwareTable {
    space: Arc<AddressSpace>,
}

impl HardwareTable {
    /// An empty one.
    ///
    /// # Errors
    /// No memory.
    pub fn new() -> Result<Self, OutOfMemory> {
        Ok(Self { space: AddressSpace::new().map_err(|_| OutOfMemory)? })
    }
    /// The kernel's address of part of a page.
    #[inline]
    fn page(page: &Page, offset: usize, len: usize) -> *mut u8 {
        let end = page.length();
        assert!(offset <= end && len <= end - offset, "beyond the end of a page");
        direct(page.phys_addr() + offset as u64)
    }
}

impl PageTable for HardwareTable {
    fn map(&self, va: VirtAddr, page: PageOf<'_>, writable: bool) -> Result<(), OutOfMemory> {
        let protection = if writable { Protection::WRITE } else { Protection::empty() };
        let old = self.space.map(va.0, page.phys_addr(), protection).map_err(|_| OutOfMemory)?;
        // Another page, or fewer rights: nobody may go on using what was there.
        if old.is_some_and(|o| o.phys() != page.phys_addr() || (o.writable() && !writable)) {
            self.space.flush(va.0, 1);
        }
        Ok(())
    }
    fn map_absent(&self, entries: &[(VirtAddr, PageOf<'_>)]) -> usize {
        let mut mapper = self.space.mapper();
        let entries = entries.iter();
        entries.take_while(|(va, page)| mapper.map_absent(va.0, page.phys_addr()).is_ok()).count()
    }
    #[inline]
    fn query(&self, va: VirtAddr) -> Option<Pte> {
        self.space.query(va.0).map(pte)
    }
    fn write_protect(&self, va: VirtAddr) -> bool {
        self.space.write_protect(va.0)
    }
    fn unmap(&self, va: VirtAddr) -> Option<Pte> {
        self.space.unmap(va.0).map(pte)
    }
    fn test_and_clear_accessed(&self, va: VirtAddr) -> bool {
        self.space.test_and_clear_accessed(va.0)
    }
    fn flush(&self, va: VirtAddr, pages: usize) {
        self.space.flush(va.0, pages);
    }
    fn copy_to_user(&self, dst: VirtAddr, src: &Page, offset: usize, len: usize) -> usize {
        self.space.activate();
        // SAFETY: part of a page the caller holds.
        unsafe { user::copy_to(dst.0, Self::page(src, offset, len), len) }
    }
    fn copy_from_user(&self, src: VirtAddr, dst: &Page, offset: usize, len: usize) -> usize {
        self.space.activate();
        // SAFETY: part of a page the caller holds.
        unsafe { user::copy_from(src.0, Self::page(dst, offset, len), len) }
    }
    fn read_user(&self, src: VirtAddr, dst: &mut [u8]) -> usize {
        self.space.activate();
        // SAFETY: the caller's slice.
        unsafe { user::copy_from(src.0, dst.as_mut_ptr(), dst.len()) }
    }
    fn write_user(&self, dst: VirtAddr, src: &[u8]) -> usize {
        self.space.activate();
        // SAFETY: the caller's slice.
        unsafe { user::copy_to(dst.0, src.as_ptr(), src.len()) }
    }
    fn load(&self, src: VirtAddr, dst: &mut [u8], faults: &dyn FaultHandler) -> Result<(), Signal> {
        self.space.activate();
        let mut signal = Signal::Segv;
        let done = user::load(src.0, dst, &mut |va, write| resolve(faults, va, write, &mut signal));
        if done == dst.len() { Ok(()) } else { Err(signal) }
    }
    fn store(&self, dst: VirtAddr, src: &[u8], faults: &dyn FaultHandler) -> Result<(), Signal> {
        self.space.activate();
        let mut signal = Signal::Segv;
        let done =
            user::store(dst.0, src, &mut |va, write| resolve(faults, va, write, &mut signal));
        if done == src.len() { Ok(()) } else { Err(signal) }
    }
}

/// Have a page fault handled; why not goes to `signal`.
fn resolve(faults: &dyn FaultHandler, va: u64, write: bool, signal: &mut Signal) -> bool {
    let access = if write { Access::Write } else { Access::Read };
    faults.handle_fault(VirtAddr(va), access).map_err(|s| *signal = s).is_ok()
}

fn pte(entry: holdfast_kernel::mm::space::PageEntry) -> Pte {
    Pte {
        phys: entry.phys(),
        writable: entry.writable(),
        accessed: entry.accessed(),
        dirty: entry.dirty(),
    }
}

/// Time of day and random numbers.
pub struct KernelEnvironment;

impl Environment for KernelEnvironment {
    fn wall_clock_ns(&self) -> u64 {
        time::wall_clock_ns()
    }
    fn random(&self) -> u64 {
        random::next()
    }
}
