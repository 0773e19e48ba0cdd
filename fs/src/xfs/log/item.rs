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

/// The regions of a log item, one after the other, each behind its length.
///
/// Or, as *patches*, what changed in the regions that the checkpoint collecting has
/// already: each a length, a place in these, and bytes.
#[derive(Clone, Debug, Default)]
pub struct Vectors {
    bytes: Vec<u8>,
    regions: u32,
    /// Patches to what the checkpoint of this number has, so many bytes; else zero.
    patches: (CommitSeq, u32),
}

/// Bytes of the length in front of a region.
const LENGTH_BYTES: usize = 4;
/// Bytes of length and place in front of a patch.
const PATCH_BYTES: usize = 8;

impl Vectors {
    /// No regions.
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), regions: 0, patches: (CommitSeq(0), 0) }
    }
    /// Room for `bytes` in `regions`.
    pub fn with_capacity(bytes: usize, regions: usize) -> Self {
        let bytes = Vec::with_capacity(bytes + regions * LENGTH_BYTES);
        Self { bytes, ..Self::new() }
    }
    /// Room for patches of `bytes` in all to what the checkpoint `seq` has of an item,
    /// which has the `length` of [`Vectors::stored_bytes`].
    pub(crate) fn patches(seq: CommitSeq, length: usize, patches: usize, bytes: usize) -> Self {
        let bytes = Vec::with_capacity(bytes + patches * PATCH_BYTES);
        Self { bytes, regions: 0, patches: (seq, length as u32) }
    }
    /// The checkpoint that these are patches to.
    pub(super) fn patched(&self) -> Option<CommitSeq> {
        (self.patches.0 != CommitSeq(0)).then_some(self.patches.0)
    }
    /// Add a patch: bytes that take the place of those at `at`.
    pub(crate) fn push_patch(&mut self, at: usize, bytes: &[u8]) {
        let head = (at as u64) << 32 | bytes.len() as u64;
        self.bytes.extend_from_slice(&head.to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }
    /// Change regions by `patches` to them. False if they are not what the patches are to.
    #[must_use]
    pub(crate) fn amend(&mut self, patches: &Self) -> bool {
        if self.bytes.len() != patches.patches.1 as usize {
            return false;
        }
        let mut rest = &patches.bytes[..];
        while let Some((head, behind)) = rest.split_first_chunk::<PATCH_BYTES>() {
            let head = u64::from_le_bytes(*head);
            let (length, at) = (head as u32 as usize, (head >> 32) as usize);
            let (new, behind) = behind.split_at(length);
            let Some(old) = self.bytes.get_mut(at..at + length) else { return false };
            old.copy_from_slice(new);
            rest = behind;
        }
        true
    }
    /// Add a region; its length is a multiple of 4.
    pub fn push(&mut self, region: &[u8]) {
        self.push_with(|bytes| bytes.extend_from_slice(region));
    }
    /// Add a region that `fill` appends.
    pub fn push_with(&mut self, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len() + LENGTH_BYTES;
        self.bytes.extend_from_slice(&[0; LENGTH_BYTES]);
        fill(&mut self.bytes);
        let length = self.bytes.len() - start;
        debug_assert!(length.is_multiple_of(4), "regions are whole words");
        self.bytes[start - LENGTH_BYTES..start].copy_from_slice(&(length as u32).to_le_bytes());
        self.regions += 1;
    }
    /// Start over, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.regions = 0;
        self.patches = (CommitSeq(0), 0);
    }
    /// Regions.
    pub const fn count(&self) -> usize {
        self.regions as usize
    }
    /// Bytes of all regions.
    pub const fn length_bytes(&self) -> usize {
        self.bytes.len() - self.regions as usize * LENGTH_BYTES
    }
    /// Bytes of all regions and their lengths.
    pub(crate) const fn stored_bytes(&self) -> usize {
        self.bytes.len()
    }
    /// Where, as patches count, a region starts before which there are so many `regions`
    /// with so many `bytes` in all.
    pub(crate) const fn place(regions: usize, bytes: usize) -> usize {
        (regions + 1) * LENGTH_BYTES + bytes
    }
    /// The regions in order.
    pub fn regions(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        core::iter::from_fn(move || {
            let (length, behind) = rest.split_first_chunk::<LENGTH_BYTES>()?;
            let (region, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            rest = behind;
            Some(region)
        })
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
    /// All that is to be logged of it, now that the checkpoint `seq` collects: asked for
    /// when its patches were made to an earlier one.
    fn whole(&self, seq: CommitSeq) -> Vectors {
        debug_assert!(false, "{:?} has no patches, {seq:?}", self.key());
        Vectors::new()
    }
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
