//! Address spaces: what a program's memory is made of, and the faults that fill it.
//!
//! ```text
//! access -> page fault -> AddressSpace::handle_fault
//!                              |  MMAP_LOCK shared
//!                            Area        anonymous: a page of zeros
//!                              |  INVAL shared (files)
//!                        iomap::fault    the folio, locked, uptodate
//!                              |  mkwrite for a store into a shared mapping
//!                        Area::map_folio page table entry, while the folio is locked
//! ```
//!
//! | module  | owns |
//! |---------|------|
//! | `area`  | one mapped range: which page table entries show the file, which a private page |
//! | `space` | the list of areas: mmap, munmap |
//! | `fault` | what a fault does |
//! | `advice`| msync, madvise |
//!
//! What keeps a page table entry and the page cache together:
//!
//! - An entry that shows a folio appears only with the folio locked and counts in the
//!   folio's mapping references. Who wants the folio gone locks it and calls
//!   [`MappedArea::unmap`](crate::pagecache::MappedArea::unmap) of every area.
//! - An entry is writable only after `mkwrite` made the folio dirty. Writeback takes the
//!   right away, under the folio lock, before it clears the dirty bit: the dirty bits of
//!   page tables need never be looked at.
//! - `munmap` holds `MMAP_LOCK` exclusive, so no fault adds entries, but no folio lock.
//!   It and `MappedArea::unmap` exclude each other by the area's own lock (`ANON`), under
//!   which the entry goes, the processors forget it, and the reference is given back.
//!
//! Owns: areas, private pages. Does not own: folios (`pagecache`), the table itself
//! (`platform`).

mod advice;
mod area;
mod fault;
mod space;

pub use advice::{Advice, MsyncFlags};
pub use space::{AddressSpace, MapFlags, MapRequest, Prot};

use alloc::sync::Arc;
use core::ops::Range;

use holdfast_sync::Mutex;

use crate::Result;
use crate::pagecache::{Mapping, Readahead};
use crate::platform::VirtAddr;

/// The first address a mapping may have: page zero and its neighbours catch null pointers.
pub const USER_START: VirtAddr = VirtAddr(0x1_0000);
/// The end of a program's half of the address space.
pub const USER_END: VirtAddr = VirtAddr(0x7FFF_FFFF_F000);

/// Pages that a read fault tries to map at once, aligned to their number.
const FAULT_AROUND: u64 = 32;

/// An open file that an address space can map.
pub trait MappedFile: Send + Sync {
    /// The cached contents, if they may be mapped with these rights.
    ///
    /// # Errors
    /// [`Error::Access`](crate::Error::Access) if the file was not opened for it,
    /// [`Error::NoDevice`](crate::Error::NoDevice) if it cannot be mapped at all.
    fn contents(&self, prot: Prot, shared: bool) -> Result<Arc<Mapping>>;
    /// What will probably be read next.
    fn readahead(&self) -> &Mutex<Readahead>;
    /// Make bytes `range` durable.
    ///
    /// # Errors
    /// A writeback error that this open file did not report yet; the device's.
    fn sync_bytes(&self, range: Range<u64>) -> Result<()>;
    /// It is mapped now: that counts as an access, which loads do not.
    fn mapped(&self) {}
    /// A page is about to be stored to.
    fn stored(&self) {}
}
