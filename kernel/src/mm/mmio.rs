//! Device registers and memory that devices read and write.

use core::sync::atomic::{AtomicU64, Ordering};

use super::layout::{MMIO, PAGE, PAGE_SIZE, direct};
use super::{frames, paging};

/// The next free address for register mappings.
static NEXT: AtomicU64 = AtomicU64::new(MMIO);
const LARGE_PAGE: u64 = 2 << 20;

/// Mapped device registers, uncached. Mappings last for ever: devices do.
#[derive(Clone, Copy, Debug)]
pub struct Mmio {
    base: *mut u8,
    len: usize,
}

// SAFETY: register access is volatile; who may touch which register is the drivers' affair.
unsafe impl Send for Mmio {}
// SAFETY: as above.
unsafe impl Sync for Mmio {}

macro_rules! access {
    ($read:ident, $write:ident, $type:ty) => {
        /// Read a register at a byte offset.
        #[inline]
        pub fn $read(&self, offset: usize) -> $type {
            // SAFETY: `at` checks range and alignment.
            unsafe { self.at::<$type>(offset).read_volatile() }
        }
        /// Write a register at a byte offset.
        #[inline]
        pub fn $write(&self, offset: usize, value: $type) {
            // SAFETY: `at` checks range and alignment.
            unsafe { self.at::<$type>(offset).write_volatile(value) }
        }
    };
}

impl Mmio {
    /// Map `len` bytes of registers at physical address `phys`.
    ///
    /// # Panics
    /// When there is no memory for page tables.
    pub fn map(phys: u64, len: usize) -> Self {
        let offset = phys % LARGE_PAGE;
        let bytes = (offset + len as u64).next_multiple_of(LARGE_PAGE);
        // The same offset in a large page as the physical address, so that large windows
        // (ECAM) take large pages.
        let window = NEXT.fetch_add(bytes, Ordering::Relaxed);
        let first = offset & !(PAGE - 1);
        let mapped = (offset + len as u64).next_multiple_of(PAGE) - first;
        paging::map_area(window + first, phys & !(PAGE - 1), mapped, paging::DEVICE)
            .expect("no memory for the page tables of device registers");
        Self { base: (window + offset) as *mut u8, len }
    }
    /// The first register.
    pub fn base(&self) -> *mut u8 {
        self.base
    }
    /// Bytes mapped.
    pub fn size(&self) -> usize {
        self.len
    }
    #[inline]
    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= self.len && offset.is_multiple_of(size_of::<T>()));
        // SAFETY: inside the mapping.
        unsafe { self.base.add(offset).cast() }
    }
    access!(read8, write8, u8);
    access!(read16, write16, u16);
    access!(read32, write32, u32);
    access!(read64, write64, u64);
}

/// Physically contiguous, zeroed memory that a device may use.
#[derive(Debug)]
pub struct Dma {
    phys: u64,
    pages: usize,
}

impl Dma {
    /// `pages` pages in a row, at most 1,024; nothing when memory is out or too fragmented.
    pub fn alloc(pages: usize) -> Option<Self> {
        let phys = frames::alloc_run(pages)?;
        // SAFETY: fresh frames in the direct map.
        unsafe { direct(phys).write_bytes(0, pages * PAGE_SIZE) };
        Some(Self { phys, pages })
    }
    /// The address for the device.
    pub fn phys(&self) -> u64 {
        self.phys
    }
    /// The address for the kernel.
    pub fn as_ptr(&self) -> *mut u8 {
        direct(self.phys)
    }
    /// Pages.
    pub fn pages(&self) -> usize {
        self.pages
    }
    /// Give the memory up without freeing it; [`Dma::from_raw`] takes it back.
    pub fn into_raw(self) -> (u64, usize) {
        let raw = (self.phys, self.pages);
        core::mem::forget(self);
        raw
    }
    /// Take over what [`Dma::into_raw`] gave up.
    ///
    /// # Safety
    /// The pair comes from `into_raw`, once.
    pub unsafe fn from_raw(phys: u64, pages: usize) -> Self {
        Self { phys, pages }
    }
}

impl Drop for Dma {
    fn drop(&mut self) {
        // SAFETY: from `alloc_run`, with this many pages.
        unsafe { frames::free_run(self.phys, self.pages) };
    }
}

/// The physical address behind a pointer into kernel memory. Memory of the heap may
/// cross into a page that lies elsewhere; [`Dma`] memory does not.
pub fn phys_of(pointer: *const u8) -> Option<u64> {
    paging::translate(pointer as u64)
}
