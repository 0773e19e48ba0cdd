//! What a transaction hands to the log, and what the log asks of it later.
//!
//! ```text
//! Trans::commit ──LogItem{item, vectors}──> CIL          item.pin()
//! checkpoint durable ──────────────────────> AIL          item.committed(lsn), item.unpin()
//! tail must move ──────────────────────────> item.push()  written in place
//! write done ──────────────────────────────> Ail::remove  tail moves
//! ```
//!
//! Locks: items' own state (`BUFFER_ITEM`), below the CIL's and above the AIL's.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::Result;
use crate::block::Plug;

/// A place in the log: cycle in the upper half, block in the lower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// From its parts.
    pub const fn new(cycle: u32, block: u32) -> Self {
        Self(((cycle as u64) << 32) | block as u64)
    }
    /// How often the log had been gone round.
    pub const fn cycle(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// 512-byte block in the log.
    pub const fn block(self) -> u32 {
        self.0 as u32
    }
}

/// Numbers checkpoints: a transaction is durable when the checkpoint it went into is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitSeq(pub u64);

/// What an item is of. Two commits of one key within a checkpoint replace each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ItemKey {
    /// New inodes, by the sector of their chunk.
    Icreate(u64),
    /// A metadata block: sector and bytes.
    Buffer(u64, u32),
    /// An inode.
    Inode(u64),
    /// An intent, by its id.
    Intent(u64),
    /// An intent's end, by the intent's id.
    Done(u64),
}

/// The regions of a log item, one after the other.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    bytes: Vec<u8>,
    /// Where each region ends.
    ends: Vec<u32>,
}

impl Vectors {
    /// No regions.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), ends: Vec::new() }
    }
    /// Room for `bytes` in `regions`.
    pub fn with_capacity(bytes: usize, regions: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ends: Vec::with_capacity(regions) }
    }
    /// Add a region; its length is a multiple of 4.
    pub fn push(&mut self, region: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(region));
    }
    /// Add a region that `fill` appends.
    pub fn push_with(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        fill(&mut self.bytes);
        debug_assert!((self.bytes.len() - start).is_multiple_of(4), "regions are whole words");
        self.ends.push(self.bytes.len() as u32);
    }
    /// Start over, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
    /// Regions.
    pub const fn count(&self) -> usize {
        self.ends.len()
    }
    /// Bytes of all regions.
    pub const fn length_bytes(&self) -> usize {
        self.bytes.len()
    }
    /// The regions in order.
    pub fn regions(&self) -> impl Iterator<Item = &[u8]> {
        let starts = core::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start as usize..*end as usize])
    }
}

/// What became of an attempt to write an item in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pushed {
    /// It is on its way; [`super::Log::ail_remove`] follows.
    Submitted,
    /// It was on its way already.
    InFlight,
    /// Not durable in the log yet: the log must be forced first.
    Pinned,
    /// Somebody has it locked; try again later.
    Locked,
    /// It is not written in place (an intent whose end is not logged yet).
    Waiting,
}

/// Something that is logged and then written in place.
pub trait Item: Send + Sync {
    /// What it is of.
    fn key(&self) -> ItemKey;
    /// The checkpoint holds on to it: it must not be written in place.
    fn pin(&self);
    /// The checkpoint is durable or failed.
    fn unpin(&self);
    /// The checkpoint that starts at `lsn` is durable. Where the item shall be in the
    /// AIL from now on: at the returned LSN (usually this one), or nowhere.
    fn committed(&self, lsn: Lsn) -> Option<Lsn>;
    /// Write it in place. Called by the AIL's pusher with no lock held.
    ///
    /// # Errors
    /// The device's, damage, no memory: the file system shuts down.
    fn push(self: Arc<Self>, plug: &mut Plug) -> Result<Pushed>;
    /// The ids of intents that this item ends ([`ItemKey::Done`]); when one is committed,
    /// the intent leaves the AIL, and if both are in one checkpoint neither is written.
    fn ends_intent(&self) -> Option<u64> {
        None
    }
}

/// What items need of the log: [`super::Log`] itself, but for tests.
pub trait Journal: Send + Sync {
    /// The write in place of an item, as it was when its place in the AIL was `seen`, is
    /// done: it leaves the AIL unless it was logged again since. Called from the
    /// completion of I/O.
    fn ail_remove(&self, key: &ItemKey, seen: Lsn);
    /// Nothing more may be written; says why, once.
    fn shut_down(&self, reason: &str);
    /// Was it shut down?
    fn is_shut_down(&self) -> bool;
}

/// An item as one transaction leaves it.
pub struct LogItem {
    /// The item.
    pub item: Arc<dyn Item>,
    /// What goes into the log; empty for an item that is only ordered.
    pub vectors: Vectors,
}
