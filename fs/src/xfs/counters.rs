//! Free blocks and inodes of the whole file system, in memory.
//!
//! A block is taken from here when it is promised: by a transaction that may need it, or
//! by a write whose data is in the cache only. What the allocator then does is exact by
//! group; what was promised and not needed comes back. So nothing that was promised can
//! fail for lack of space, and nobody is refused while there is some.

use holdfast_sync::atomic::{AtomicI64, Ordering};

use crate::error::{Error, Result};

/// Free blocks and inodes.
#[derive(Default)]
pub struct Counters {
    /// Blocks that can still be promised.
    free_blocks: AtomicI64,
    inodes: AtomicI64,
    free_inodes: AtomicI64,
}

impl Counters {
    /// Start with these.
    pub fn set(&self, free_blocks: u64, inodes: u64, free_inodes: u64) {
        self.free_blocks.store(free_blocks as i64, Ordering::Relaxed);
        self.inodes.store(inodes as i64, Ordering::Relaxed);
        self.free_inodes.store(free_inodes as i64, Ordering::Relaxed);
    }
    /// Promise `blocks`.
    ///
    /// # Errors
    /// There are not that many.
    pub fn reserve(&self, blocks: u64) -> Result<()> {
        if blocks == 0 {
            return Ok(());
        }
        let wanted = i64::try_from(blocks).map_err(|_| Error::NoSpace)?;
        let taken = self.free_blocks.fetch_update(Ordering::AcqRel, Ordering::Acquire, |free| {
            (free >= wanted).then(|| free - wanted)
        });
        taken.map(|_| ()).map_err(|_| Error::NoSpace)
    }
    /// Blocks were freed, or promised and not needed.
    pub fn give_back(&self, blocks: u64) {
        if blocks > 0 {
            self.free_blocks.fetch_add(blocks as i64, Ordering::AcqRel);
        }
    }
    /// Keep blocks from being promised, whether there are that many or not.
    pub fn withhold(&self, blocks: u64) {
        self.free_blocks.fetch_sub(blocks as i64, Ordering::AcqRel);
    }
    /// Inodes and free inodes changed.
    pub fn inodes_changed(&self, all: i64, free: i64) {
        if all != 0 {
            self.inodes.fetch_add(all, Ordering::AcqRel);
        }
        if free != 0 {
            self.free_inodes.fetch_add(free, Ordering::AcqRel);
        }
    }
    /// Blocks that can still be promised.
    pub fn free_blocks(&self) -> u64 {
        self.free_blocks.load(Ordering::Acquire).max(0) as u64
    }
    /// Inodes there are.
    pub fn inodes(&self) -> u64 {
        self.inodes.load(Ordering::Acquire).max(0) as u64
    }
    /// Of these, unused ones.
    pub fn free_inodes(&self) -> u64 {
        self.free_inodes.load(Ordering::Acquire).max(0) as u64
    }
}
