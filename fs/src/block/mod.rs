//! The block layer: one request is a [`Bio`]; a device is a [`BlockDevice`]; callers
//! go through a [`Queue`], which checks, splits to the device's limits and counts.
//!
//! ```text
//! page cache, xfs buffers, direct I/O
//!        |  Bio { op, sector, segments, done }
//!      Plug            collects what one caller submits, merges neighbours
//!        |
//!      Queue           range check, splitting, statistics
//!        |
//!   dyn BlockDevice    virtio-blk (in the kernel), MemDisk, FaultDisk, TraceDisk, FileDisk
//! ```
//!
//! | module | |
//! |--------|--|
//! | `queue` | [`Queue`]: checks, splitting, flush and FUA semantics, synchronous helpers |
//! | `plug` | [`Plug`]: sorting and merging |
//! | `statistics` | what was asked of a device |
//! | `disks` | devices for tests and for the host |
//!
//! Locks: `DEVICE`, for the state of a split request and inside the test devices.
//! None is held when a device is entered or a completion called.
//!
//! Completion runs on a thread (never in an interrupt) and may take locks of
//! rank `PAGE_TAGS` and above; it must not wait for I/O.
//!
//! Owns: requests in flight. Does not own: what the data means, caching.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

use crate::platform::{PAGE_SIZE, Page};

mod disks;
mod plug;
mod queue;
mod statistics;
#[cfg(all(test, not(feature = "shuttle")))]
mod tests;

#[cfg(feature = "std")]
pub use disks::FileDisk;
pub use disks::{
    Completion, Fault, FaultDisk, MemDisk, MemDiskConfig, TraceDisk, TraceEvent, TracedRequest,
};
pub use plug::Plug;
pub use queue::Queue;
pub use statistics::{OpStatistics, QueueStatistics, SIZE_BUCKETS};

/// Bytes in a sector, the unit of addresses on a device whatever its block size.
pub const SECTOR_SIZE: u64 = 512;

/// A position on a device, in 512-byte sectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Device to memory.
    Read,
    /// Memory to device.
    Write,
    /// Make every completed write durable. No data.
    Flush,
    /// Forget the contents of a range. No data.
    Discard,
    /// Make a range read as zeros. No data.
    WriteZeroes,
}

bitflags::bitflags! {
    /// How a request is to be carried out.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct BioFlags: u8 {
        /// Flush what completed before, first.
        const PREFLUSH = 1;
        /// Durable when it completes.
        const FUA = 2;
        /// Somebody waits for it.
        const SYNC = 4;
        /// Metadata.
        const META = 8;
        /// Speculative: may fail without anybody minding.
        const READAHEAD = 16;
    }
}

/// Part of a page that takes part in a transfer; a multiple of the device's block size.
#[derive(Clone)]
pub struct Segment {
    /// The memory. The request keeps it alive.
    pub page: Page,
    /// First byte in the page.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

impl Segment {
    /// The first `length_bytes` of these pages, one after the other.
    pub fn cover(pages: &[Page], length_bytes: usize) -> Vec<Self> {
        let mut left = length_bytes;
        let mut segments = Vec::with_capacity(length_bytes.div_ceil(PAGE_SIZE));
        for page in pages {
            let len = left.min(PAGE_SIZE);
            if len == 0 {
                break;
            }
            segments.push(Self { page: page.clone(), offset: 0, len: len as u32 });
            left -= len;
        }
        assert!(left == 0, "the pages are shorter than the transfer");
        segments
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{}+{}", self.page.phys_addr(), self.offset, self.len)
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoError {
    /// The device reported an error.
    Device,
    /// The range lies beyond the device's end.
    OutOfRange,
    /// The device does not take writes.
    ReadOnly,
    /// The device does not know the operation.
    Unsupported,
    /// The device is gone.
    Gone,
    /// Position or length is no multiple of the device's block, or a segment leaves its page.
    Misaligned,
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Device => "the device reported an error",
            Self::OutOfRange => "beyond the end of the device",
            Self::ReadOnly => "the device is read-only",
            Self::Unsupported => "not supported by the device",
            Self::Gone => "the device is gone",
            Self::Misaligned => "not aligned to the device's blocks",
        })
    }
}

impl From<IoError> for crate::Error {
    fn from(e: IoError) -> Self {
        match e {
            IoError::ReadOnly => Self::ReadOnly("the device is read-only"),
            IoError::Unsupported => Self::NotSupported("the device does not support it"),
            IoError::Misaligned => Self::Invalid("not aligned to the device's blocks"),
            _ => Self::Io,
        }
    }
}

/// What to do when a request has ended.
pub type Done = Box<dyn FnOnce(Result<(), IoError>) + Send>;

/// One request to a device.
#[must_use = "a bio does nothing until it is submitted"]
pub struct Bio {
    /// What to do.
    pub op: Op,
    /// Where on the device.
    pub sector: Sector,
    /// The memory of a read or write, in order. Empty otherwise.
    pub segments: Vec<Segment>,
    /// Bytes of a discard or write-zeroes; for transfers the sum of the segments.
    pub length_bytes: u64,
    /// How.
    pub flags: BioFlags,
    done: Option<Done>,
    /// While the device works on it: the entry in the queue's statistics.
    charge: Option<queue::Charge>,
}

impl fmt::Debug for Bio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} sector {} +{} bytes", self.op, self.sector.0, self.length_bytes)
    }
}

impl Bio {
    /// A transfer between `segments` and the device from `sector` on.
    pub fn transfer(
        op: Op,
        sector: Sector,
        segments: Vec<Segment>,
        flags: BioFlags,
        done: Done,
    ) -> Self {
        debug_assert!(matches!(op, Op::Read | Op::Write));
        let length_bytes = segments.iter().map(|s| u64::from(s.len)).sum();
        Self { op, sector, segments, length_bytes, flags, done: Some(done), charge: None }
    }
    /// A request without data: flush (`length_bytes` 0), discard, write-zeroes.
    pub fn without_data(
        op: Op,
        sector: Sector,
        length_bytes: u64,
        flags: BioFlags,
        done: Done,
    ) -> Self {
        debug_assert!(matches!(op, Op::Flush | Op::Discard | Op::WriteZeroes));
        Self {
            op,
            sector,
            segments: Vec::new(),
            length_bytes,
            flags,
            done: Some(done),
            charge: None,
        }
    }
    /// End the request and tell whoever waits. The device calls this, once.
    pub fn complete(mut self, result: Result<(), IoError>) {
        self.end(result);
    }
    fn end(&mut self, result: Result<(), IoError>) {
        if let Some(charge) = self.charge.take() {
            charge.settle(self.op, result.is_ok());
        }
        if let Some(done) = self.done.take() {
            done(result);
        }
    }
    /// Have `hook` called with the result at the end, before whoever waits is told.
    pub fn before_done(&mut self, hook: impl FnOnce(Result<(), IoError>) + Send + 'static) {
        let done = self.done.take();
        self.done = Some(Box::new(move |result| {
            hook(result);
            if let Some(done) = done {
                done(result);
            }
        }));
    }
}

impl Drop for Bio {
    /// A request that is dropped has failed: nobody must wait for it for ever.
    fn drop(&mut self) {
        self.end(Err(IoError::Gone));
    }
}

/// What a device is and can do.
#[derive(Clone, Debug)]
pub struct DeviceInfo {
    /// A name for messages: "vda".
    pub name: alloc::string::String,
    /// Size in 512-byte sectors, when the device was found.
    pub capacity_sectors: u64,
    /// The smallest unit of a transfer, in bytes (512 or 4096).
    pub logical_block_bytes: u32,
    /// Most segments in one request.
    pub max_segments: usize,
    /// Most bytes in one transfer.
    pub max_bytes: u64,
    /// Most bytes in one discard or write-zeroes.
    pub max_range_bytes: u64,
    /// Writes are refused.
    pub readonly: bool,
    /// Has a volatile cache: needs flushes.
    pub volatile_cache: bool,
    /// Knows discard.
    pub discard: bool,
    /// Knows write-zeroes.
    pub write_zeroes: bool,
    /// Requests the device works on at once.
    pub queue_depth: usize,
    /// Hardware queues.
    pub queues: usize,
}

/// A block device.
pub trait BlockDevice: Send + Sync {
    /// What it is.
    fn info(&self) -> DeviceInfo;
    /// Start a request. Returns without waiting for its end; [`Bio::complete`] is
    /// called exactly once, on a thread, possibly before this returns.
    /// The request is within the limits of [`DeviceInfo`], which the [`Queue`] sees to.
    fn submit(&self, bio: Bio);
    /// The caller submits nothing more for now: start what was held back.
    fn kick(&self) {}
    /// The size just now, in sectors (it can change).
    fn capacity_sectors(&self) -> u64 {
        self.info().capacity_sectors
    }
}
