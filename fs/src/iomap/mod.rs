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
//! | `seek`          | SEEK_DATA, SEEK_HOLE, fiemap |
//! | `direct`        | O_DIRECT |
//!
//! Owns: the order of these steps. Does not own: folios (pagecache), extents (xfs).

mod buffered_read;
mod buffered_write;
mod direct;
mod fault;
mod fill;
mod seek;
pub(crate) mod writeback;

use crate::Result;
use crate::block::Sector;

pub use buffered_read::{read, will_need};
pub use buffered_write::write;
pub use direct::{direct_read, direct_write};
pub use fault::{FaultError, fault, fault_around, mkwrite};
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
        !matches!(self.kind, MapKind::Written { .. }) || self.flags.contains(MapFlags::NEW)
    }
}

/// What a mapping is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Read or report; changes nothing.
    Read,
    /// Buffered write: reserves space where there is none.
    Write,
    /// A store through a mapping: reserves space; the folio is locked and uptodate.
    Fault,
    /// Direct write: blocks must exist.
    DirectWrite,
    /// Zero part of a block.
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
    /// The operation went `done` of `len` bytes far under `map`.
    ///
    /// # Errors
    /// I/O errors and corruption while unused reservations are given back.
    fn end(&self, map: &Iomap, pos: u64, len: u64, done: u64) -> Result<()> {
        let _ = (map, pos, len, done);
        Ok(())
    }
    /// Does the map still describe the file? Lock-free; called with the folio locked.
    fn is_valid(&self, map: &Iomap) -> bool;
    /// Refuse a write of the range that could only fail half way.
    ///
    /// # Errors
    /// As [`Ops::begin`]; called under `IOLOCK` before any byte changes.
    fn prepare_write(&self, pos: u64, len: u64) -> Result<()> {
        let _ = (pos, len);
        Ok(())
    }
    /// The map under which writeback writes the block at `pos`; blocks are allocated
    /// if there are none. `cached` is the map of the previous block: it is used again
    /// only if it covers `pos` and is still valid. `FOLIO` is held.
    ///
    /// # Errors
    /// I/O errors, corruption, no space: the folio's data cannot be written.
    fn writeback_map(&self, pos: u64, cached: Option<&Iomap>) -> Result<Iomap>;
    /// Blocks under this map were written; called from the completion, on a thread.
    ///
    /// # Errors
    /// The conversion failed; the folios get the error.
    fn writeback_done(&self, map: &Iomap, pos: u64, len: u64) -> Result<()> {
        let _ = (map, pos, len);
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
