//! The port of the storage stack: what it needs from the world besides locks and threads.
//!
//! The kernel implements it with physical frames and hardware page tables; the
//! host with ordinary memory and a simulated table ([`host`]).

use alloc::sync::Arc;
use alloc::vec::Vec;

/// Bytes in a page, and in a folio.
pub const PAGE_SIZE: usize = 4096;
/// log2 of [`PAGE_SIZE`].
pub const PAGE_SHIFT: u32 = 12;

/// One page of memory, or several side by side, shared by whoever holds a [`Page`]: the
/// page cache, a device that transfers into it, a page table that maps it.
///
/// Contents may change under a reader, as memory that a program has mapped does;
/// that is why there is no `&[u8]` of it, only copies. Offsets and lengths in
/// bytes; `offset + len` beyond its length is a bug and panics.
pub trait PageFrame: Send + Sync {
    /// Copy `dst.len()` bytes from `offset` out.
    fn read(&self, offset: usize, dst: &mut [u8]);
    /// Copy `src` in at `offset`.
    fn write(&self, offset: usize, src: &[u8]);
    /// Zero `len` bytes from `offset`.
    fn zero(&self, offset: usize, len: usize);
    /// The physical address, for devices and page tables. A unique number on the host.
    fn phys_addr(&self) -> u64;
    /// Bytes: a multiple of [`PAGE_SIZE`].
    #[inline]
    fn length(&self) -> usize {
        PAGE_SIZE
    }
}

/// A reference to a page, or to several side by side; the last one gives them back.
pub type Page = Arc<dyn PageFrame>;

/// One page of those that a [`Page`] refers to.
#[derive(Clone, Copy)]
pub struct PageOf<'a> {
    /// All of them.
    pub run: &'a Page,
    /// Which: the byte of the run that is its first.
    pub offset: usize,
}

impl PageOf<'_> {
    /// The physical address.
    #[inline]
    pub fn phys_addr(self) -> u64 {
        self.run.phys_addr() + self.offset as u64
    }
}

impl<'a> From<&'a Page> for PageOf<'a> {
    /// The first.
    fn from(run: &'a Page) -> Self {
        Self { run, offset: 0 }
    }
}

/// Where pages come from.
pub trait Memory: Send + Sync {
    /// A page with undefined contents, or nothing when memory is out.
    fn alloc_page(&self) -> Option<Page>;
    /// Up to `count` pages at once, appended to `pages`.
    fn alloc_pages(&self, count: usize, pages: &mut Vec<Page>) {
        pages.extend((0..count).map_while(|_| self.alloc_page()));
    }
    /// `count` pages side by side (a power of two), as one. Nothing when there are none:
    /// there may be fewer still.
    fn alloc_run(&self, count: usize) -> Option<Page> {
        if count == 1 { self.alloc_page() } else { None }
    }
    /// Pages that could be allocated now.
    fn free_pages(&self) -> u64;
    /// Pages there are in all.
    fn total_pages(&self) -> u64;
}

/// An address in a program's (the lower) half of the address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtAddr(pub u64);

impl VirtAddr {
    /// Bytes from the start of the page.
    pub const fn page_offset(self) -> usize {
        (self.0 & (PAGE_SIZE as u64 - 1)) as usize
    }
    /// This many bytes further.
    #[must_use]
    pub const fn add(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// The page table of one address space, as hardware or a simulation walks it.
///
/// All methods are callable under any lock of the storage stack; the table has
/// an innermost lock of its own. The caller keeps a page alive while it is mapped.
pub trait PageTable: Send + Sync {
    /// Map the page at `va` (page aligned), replacing what was there.
    ///
    /// # Errors
    /// No memory for the table itself.
    fn map(&self, va: VirtAddr, page: PageOf<'_>, writable: bool) -> Result<(), OutOfMemory>;
    /// Map several pages, in rising order of address, for reading, where nothing is mapped.
    /// How many were, from the first on: fewer when there is no memory for the table.
    fn map_absent(&self, entries: &[(VirtAddr, PageOf<'_>)]) -> usize {
        entries.iter().take_while(|(va, page)| self.map(*va, *page, false).is_ok()).count()
    }
    /// What is mapped at `va`.
    fn query(&self, va: VirtAddr) -> Option<Pte>;
    /// Remove the right to write, if there. True if it was writable. Flush afterwards.
    fn write_protect(&self, va: VirtAddr) -> bool;
    /// Remove the mapping; what it was. Flush afterwards.
    fn unmap(&self, va: VirtAddr) -> Option<Pte>;
    /// Clear the accessed bit; was it set? (No flush needed: an estimate.)
    fn test_and_clear_accessed(&self, va: VirtAddr) -> bool;
    /// Make every processor forget cached translations of `pages` pages from `va`.
    /// When this returns, no store through an old translation can happen any more.
    fn flush(&self, va: VirtAddr, pages: usize);
    /// Copy from a page to a program's memory as the program itself would store,
    /// without handling faults: stops at the first byte that would fault.
    /// Returns the bytes copied.
    fn copy_to_user(&self, dst: VirtAddr, src: &Page, offset: usize, len: usize) -> usize;
    /// Copy from a program's memory to a page, likewise.
    fn copy_from_user(&self, src: VirtAddr, dst: &Page, offset: usize, len: usize) -> usize;
    /// Copy between a program's memory and the caller's, likewise.
    fn read_user(&self, src: VirtAddr, dst: &mut [u8]) -> usize;
    /// Copy between the caller's memory and a program's, likewise.
    fn write_user(&self, dst: VirtAddr, src: &[u8]) -> usize;
    /// A program's own load: as its instruction would, faults handled on the way.
    ///
    /// A table walked by hardware overrides this with an ordinary access whose page
    /// fault calls `faults`.
    ///
    /// # Errors
    /// The signal that the program would get.
    fn load(&self, src: VirtAddr, dst: &mut [u8], faults: &dyn FaultHandler) -> Result<(), Signal> {
        let mut done = 0;
        loop {
            done += self.read_user(src.add(done as u64), &mut dst[done..]);
            if done == dst.len() {
                return Ok(());
            }
            faults.handle_fault(src.add(done as u64), Access::Read)?;
        }
    }
    /// A program's own store, likewise.
    ///
    /// # Errors
    /// The signal that the program would get; bytes before the fault were stored.
    fn store(&self, dst: VirtAddr, src: &[u8], faults: &dyn FaultHandler) -> Result<(), Signal> {
        let mut done = 0;
        loop {
            done += self.write_user(dst.add(done as u64), &src[done..]);
            if done == src.len() {
                return Ok(());
            }
            faults.handle_fault(dst.add(done as u64), Access::Write)?;
        }
    }
}

/// What an instruction that faulted wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To load.
    Read,
    /// To store.
    Write,
    /// To execute.
    Execute,
}

/// Why an access cannot be made to succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Nothing is mapped there, or not with that right (SIGSEGV).
    Segv,
    /// Beyond the end of the mapped file, or its data could not be read (SIGBUS).
    Bus,
}

/// Whoever can make an address accessible: an address space.
pub trait FaultHandler: Send + Sync {
    /// Make the page of `va` accessible for `access`, or say why not. May sleep. After
    /// success the access is repeated; it may fault again.
    ///
    /// # Errors
    /// The signal that the program gets instead.
    fn handle_fault(&self, va: VirtAddr, access: Access) -> Result<(), Signal>;
}

/// A page table had no memory for a level of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory;

/// What a page table says of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pte {
    /// The page's physical address.
    pub phys: u64,
    /// May be stored to.
    pub writable: bool,
    /// Was touched since the bit was last cleared.
    pub accessed: bool,
    /// Was stored to since it was mapped.
    pub dirty: bool,
}

/// Time of day and randomness.
pub trait Environment: Send + Sync {
    /// Nanoseconds since 1970-01-01, UTC.
    fn wall_clock_ns(&self) -> u64;
    /// A random number.
    fn random(&self) -> u64;
}

#[cfg(feature = "std")]
pub mod host;
