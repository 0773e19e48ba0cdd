//! The iomap layer: file operations, folio by folio, under mappings that a file system
//! hands out and that may age.
//!
//! A file system answers [`Ops::begin`] with an [`Iomap`]: what a range of the file is
//! on disk *just now*. The caller walks the page cache under it while holding only the
//! `IOLOCK`. Writeback, I/O completion, reclaim and faults take no `IOLOCK`, so the map
//! may grow stale on the way; using it then to decide "this block is a hole, zero it"
//! destroys data that was stored and written back in between.
//!
//! The rule that keeps this impossible, everywhere in this module:
//!
//! ```text
//! begin -> map + cookie        sampled under one ILOCK hold
//!   for each folio:
//!     get, lock
//!     valid(cookie)?           no: unlock, stop, end(), begin() again
//!     initialise, copy, dirty  yes: nobody can write this folio back while it is locked
//! end
//! ```
//!
//! Why the check under the folio lock suffices: the block under a folio changes state
//! at I/O completion, before the folio's writeback ends, hence before reclaim can drop
//! it and before anybody can instantiate it anew. If the cookie still holds once the
//! new folio is locked, no such change has happened, and none can until it is unlocked.
//!
//! | file | operation |
//! |------|-----------|
//! | `buffered_read` | read into a caller's buffer, from cached folios |
//! | `buffered_write`| write from a caller's buffer into cached folios |
//! | `fill`          | read folios from disk, readahead |
//! | `fault`         | a page fault: the folio, and the right to store to it (mkwrite) |
//! | `writeback`     | write dirty folios, revalidating its own cached map |
//! | `ioend`         | what is due when they have been written: convert, log the size |
//! | `punch`         | give back what a write reserved and did not use |
//! | `zero`          | zero parts of a file; what happens at its end when it grows |
//! | `ranges`        | truncate, fallocate, clone: the page cache's side |
//! | `seek`          | SEEK_DATA, SEEK_HOLE, fiemap |
//! | `direct`        | O_DIRECT |
//!
//! Owns: the order of these steps. Does not own: folios (pagecache), extents (xfs).

mod buffered_read;
mod buffered_write;
mod direct;
mod fault;
mod fill;
mod ioend;
mod punch;
mod ranges;
mod seek;
pub(crate) mod writeback;
mod zero;

use core::ops::Range;

use crate::Result;
use crate::block::Sector;

pub use buffered_read::{read, will_need};
pub use buffered_write::write;
pub use direct::{direct_read, direct_write, direct_write_shares};
pub use fault::{FaultError, FolioPage, fault, fault_around, mkwrite};
pub use ranges::{Change, Side, change, clone_range, dedupe_range, truncate};
pub use seek::{Extent, extents, seek_data, seek_hole};

/// Which states of an inode's forks a map was read from.
///
/// Each in-core extent change increments its fork's sequence, under `ILOCK`
/// exclusive, before it changes anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// Sequence of the data fork (or attribute fork, for its maps).
    pub data: u64,
    /// Sequence of the copy-on-write fork, for maps that depend on it.
    pub cow: Option<u64>,
}

/// What a range of a file is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// Nothing; reads as zeros.
    Hole,
    /// Space reserved in memory, no block yet; the page cache has the data.
    Delalloc,
    /// Blocks with data.
    Written {
        /// Where the range starts on the data device.
        addr: Sector,
    },
    /// Blocks that read as zeros until written.
    Unwritten {
        /// Where the range starts on the data device.
        addr: Sector,
    },
}

bitflags::bitflags! {
    /// Circumstances of a mapping.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MapFlags: u8 {
        /// This very call reserved the range: what is not written must be given back.
        const NEW = 1;
        /// The blocks are shared with another file: a write must go elsewhere.
        ///
        /// For [`Purpose::Write`], [`Purpose::Fault`] and [`Purpose::Zero`] the kind still
        /// says what the data fork holds, because a block that is overwritten in part is
        /// filled from there; the copy-on-write fork has a reservation or blocks, and with
        /// `NEW` this call made the reservation. For [`Purpose::DirectWrite`] and
        /// [`Ops::writeback_map`] the map is of the copy-on-write fork's blocks, and the
        /// end of the I/O moves them to the data fork.
        const SHARED = 2;
    }
}

/// A mapping of part of a file, valid as long as its cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Iomap {
    /// First byte in the file; a multiple of the block size.
    pub offset_bytes: u64,
    /// Bytes; a multiple of the block size.
    pub length_bytes: u64,
    /// What it is.
    pub kind: MapKind,
    /// Circumstances.
    pub flags: MapFlags,
    /// Which state of the inode this was read from.
    pub cookie: Cookie,
}

impl Iomap {
    /// First byte after the mapping.
    pub const fn end_bytes(&self) -> u64 {
        self.offset_bytes + self.length_bytes
    }
    /// Does the mapping cover this byte of the file?
    pub const fn contains(&self, pos: u64) -> bool {
        pos >= self.offset_bytes && pos < self.end_bytes()
    }
    /// Where byte `pos` of the file lies on the device, if it has a block.
    /// `pos` lies in the mapping and is a multiple of the sector size.
    pub fn sector(&self, pos: u64) -> Option<Sector> {
        match self.kind {
            MapKind::Written { addr } | MapKind::Unwritten { addr } => {
                Some(Sector(addr.0 + (pos - self.offset_bytes) / crate::block::SECTOR_SIZE))
            }
            MapKind::Hole | MapKind::Delalloc => None,
        }
    }
    /// Must a block under this mapping be zeroed instead of read, when a folio is filled?
    pub fn reads_as_zero(&self) -> bool {
        // A new reservation in the copy-on-write fork still reads what is shared.
        !matches!(self.kind, MapKind::Written { .. })
            || (self.flags & (MapFlags::NEW | MapFlags::SHARED)) == MapFlags::NEW
    }
    /// The fork in which the call that returned this map reserved space, if it did.
    pub fn reserved_in(&self) -> Option<ReservedFork> {
        let shared = self.flags.contains(MapFlags::SHARED);
        match self.kind {
            _ if !self.flags.contains(MapFlags::NEW) => None,
            _ if shared => Some(ReservedFork::Cow),
            MapKind::Delalloc => Some(ReservedFork::Data),
            _ => None,
        }
    }
}

/// Where a delayed allocation is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservedFork {
    /// Beside the file's extents.
    Data,
    /// Beside the extents that will replace shared ones.
    Cow,
}

/// What a mapping is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Read or report; changes nothing.
    Read,
    /// Buffered write: reserves space where there is none, and in the copy-on-write fork
    /// where blocks are shared. `IOLOCK` is held exclusive.
    Write,
    /// A store through a mapping: likewise; the folio is locked and uptodate.
    Fault,
    /// Direct write: allocates unwritten blocks where there are none. The map is written
    /// or unwritten. `IOLOCK` is held, perhaps shared.
    DirectWrite,
    /// Zero part of a block: reserves in the copy-on-write fork where blocks are shared,
    /// and leaves holes, delalloc and unwritten extents as they are.
    Zero,
}

/// What a file system answers to the iomap layer, for one inode.
pub trait Ops: Send + Sync {
    /// log2 of the file system's block size.
    fn block_shift(&self) -> u32;
    /// What the file is from `pos` on, at least one byte and at most `len` of them.
    /// The map may start earlier and end later.
    ///
    /// # Errors
    /// I/O errors and corruption of the extent map; [`crate::Error::ReadOnly`] where
    /// the purpose needs what cannot be changed; no space.
    fn begin(&self, pos: u64, len: u64, purpose: Purpose) -> Result<Iomap>;
    /// A write, of `len` bytes from `pos` on, went `done` bytes far under `map`. What it
    /// reserved and did not use is given back already, through [`Ops::punch_delalloc`].
    ///
    /// # Errors
    /// Whatever makes the whole write fail.
    fn end(&self, map: &Iomap, pos: u64, len: u64, done: u64) -> Result<()> {
        let _ = (map, pos, len, done);
        Ok(())
    }
    /// Does the map still describe the file? Lock-free; called with the folio locked.
    ///
    /// A map is true as long as its fork's sequence stands, one that depends on what the
    /// copy-on-write fork holds (or does not hold) as long as both do.
    fn is_valid(&self, map: &Iomap) -> bool;
    /// Refuse a write of the range that could only fail half way.
    ///
    /// # Errors
    /// As [`Ops::begin`]; called under `IOLOCK` before any byte changes.
    fn prepare_write(&self, pos: u64, len: u64) -> Result<()> {
        let _ = (pos, len);
        Ok(())
    }
    /// Give back the delayed allocations of `fork` in bytes `range` (whole blocks), and
    /// nothing else: blocks that exist stay. In one step under `ILOCK`; takes no folio's
    /// lock, starts no transaction, works after a shutdown too.
    ///
    /// # Errors
    /// Corruption of the extent map.
    fn punch_delalloc(&self, range: Range<u64>, fork: ReservedFork) -> Result<()> {
        let _ = (range, fork);
        Ok(())
    }
    /// The map under which writeback writes `len` dirty bytes from `pos` on: written,
    /// unwritten, or `SHARED` with the blocks of the copy-on-write fork. A delayed
    /// allocation is allocated first, the whole extent, as unwritten. Both forks are
    /// looked at under one `ILOCK` hold. `FOLIO` is held.
    ///
    /// The caller uses the map for later blocks as long as [`Ops::is_valid`] says so.
    ///
    /// # Errors
    /// I/O errors, corruption, no space: the folio's data cannot be written.
    /// [`Error::NotFound`](crate::Error::NotFound): the file was freed, and nobody misses it.
    fn writeback_map(&self, pos: u64, len: u64) -> Result<Iomap>;
    /// The size that is on disk, or on its way there: data beyond it needs
    /// [`Ops::writeback_done`]. Lock-free.
    fn disk_size(&self) -> u64 {
        u64::MAX
    }
    /// Bytes `pos..pos + len` under this map were written: make an unwritten extent
    /// written, move a shared one's copy to the data fork, and then, if the size on disk is
    /// smaller than `size`, log that. Whole blocks, unless the map is plainly written. Some
    /// of it may be done already. Several writes in a row may be told as one.
    ///
    /// Called on the ioend thread, or by a direct writer; may sleep and use transactions,
    /// but takes neither `IOLOCK`, `INVAL` nor `FOLIO`. Left out for plain overwrites below
    /// [`Ops::disk_size`].
    ///
    /// # Errors
    /// The conversion failed; the file gets the error.
    fn writeback_done(&self, map: &Iomap, pos: u64, len: u64, size: u64) -> Result<()> {
        let _ = (map, pos, len, size);
        Ok(())
    }
    /// Bytes `pos..pos + len` could not be written to the blocks of this `SHARED` map:
    /// give up the copy-on-write fork's blocks there. Called as [`Ops::writeback_done`].
    fn writeback_failed(&self, map: &Iomap, pos: u64, len: u64) {
        let _ = (map, pos, len);
    }
    /// The file's size in memory is `size` from now on. Called with the folio that grew
    /// locked, or `IOLOCK` held exclusive: only to be noted.
    fn size_changed(&self, size: u64) {
        let _ = size;
    }
}

/// Why a file system refuses to change what lies where.
const FIXED_LAYOUT: crate::Error =
    crate::Error::ReadOnly("what lies where in this file cannot be changed");

/// What changes which blocks a file has: the parts of truncate, fallocate, clone and
/// their like that the file system does.
///
/// `IOLOCK` and `INVAL` are held exclusive, direct I/O is over, and the page cache is
/// prepared by the caller (see `ranges`): nothing dirty, nothing cached that changes.
/// Ranges are whole blocks; partial ones at their ends were zeroed through the cache.
/// Every method is a whole operation, in transactions of its own.
pub trait Layout: Ops {
    /// Log the size. If the file was `cut`, free everything behind it afterwards:
    /// reservations, blocks, copies of shared ones. (The size on disk says nothing of that:
    /// it may lag behind the one that was cut.) Otherwise move nothing.
    ///
    /// # Errors
    /// As transactions do.
    fn set_size(&self, size: u64, cut: bool) -> Result<()> {
        let _ = (size, cut);
        Err(FIXED_LAYOUT)
    }
    /// Fill the holes in `range` with unwritten extents, beyond the end of the file too.
    ///
    /// # Errors
    /// As transactions do; no space, after which a part may be allocated.
    fn preallocate(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        Err(FIXED_LAYOUT)
    }
    /// Make `range` a hole.
    ///
    /// # Errors
    /// As transactions do.
    fn punch(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        Err(FIXED_LAYOUT)
    }
    /// Make all of `range` unwritten extents.
    ///
    /// # Errors
    /// As [`Layout::preallocate`].
    fn zero_blocks(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        Err(FIXED_LAYOUT)
    }
    /// Remove `range`: what follows moves down. The caller sets the size afterwards.
    ///
    /// # Errors
    /// As transactions do.
    fn collapse(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        Err(FIXED_LAYOUT)
    }
    /// Move what lies at and behind the start of `range` up by its length, so that `range`
    /// is a hole. The size was set before.
    ///
    /// # Errors
    /// As transactions do; too big.
    fn insert(&self, range: Range<u64>) -> Result<()> {
        let _ = range;
        Err(FIXED_LAYOUT)
    }
    /// Can files of this file system share blocks?
    fn can_share(&self) -> bool {
        false
    }
    /// Share the blocks of bytes `range` of `source` at `at` of this file, in the place of
    /// what is there. The end of `range` may be the end of `source` instead of a block's:
    /// then its last block is shared whole. The caller sets the size afterwards.
    /// Both files are locked.
    ///
    /// # Errors
    /// As transactions do; not supported without reflink.
    fn share(&self, source: &Self, range: Range<u64>, at: u64) -> Result<()>
    where
        Self: Sized,
    {
        let _ = (source, range, at);
        Err(FIXED_LAYOUT)
    }
    /// Give back blocks beyond the end of the file that no write asked for.
    ///
    /// # Errors
    /// As transactions do.
    fn trim_eof(&self) -> Result<()> {
        Ok(())
    }
}

/// Where a read puts the bytes: a slice, a program's memory, a list of either.
pub trait Sink {
    /// Bytes still wanted.
    fn remaining(&self) -> usize;
    /// Take up to `len` bytes from a page, without handling faults. Returns and
    /// advances by what was copied; less than asked means [`Sink::fault_in`] is due.
    fn put(&mut self, page: &crate::platform::Page, offset: usize, len: usize) -> usize;
    /// Take up to `len` zeros, likewise.
    fn put_zeros(&mut self, len: usize) -> usize;
    /// Make the next bytes accessible. Called with no folio locked; may sleep and fault.
    ///
    /// # Errors
    /// [`crate::Error::Fault`]: the address is bad.
    fn fault_in(&mut self) -> Result<()>;
}

/// Where a write takes the bytes from.
pub trait Source {
    /// Bytes still to come.
    fn remaining(&self) -> usize;
    /// Give up to `len` bytes to a page, without handling faults. Returns and
    /// advances by what was copied; less than asked means [`Source::fault_in`] is due.
    fn take(&mut self, page: &crate::platform::Page, offset: usize, len: usize) -> usize;
    /// Take back the last `len` bytes: they were not used after all.
    fn revert(&mut self, len: usize);
    /// Make accessible the byte at which the last copy stopped (which may lie ahead, if
    /// the copy was taken back). Called with no folio locked; may sleep and fault. If that
    /// byte cannot be had but some before it can, the source ends there from now on.
    ///
    /// # Errors
    /// [`crate::Error::Fault`]: the address is bad.
    fn fault_in(&mut self) -> Result<()>;
}
