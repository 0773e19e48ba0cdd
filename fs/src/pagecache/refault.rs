//! What was evicted lately: a folio that comes back soon should not have gone.

use alloc::boxed::Box;

use holdfast_sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A fixed table of recent evictions: who, and when on the clock of evictions.
///
/// Two pages may share an entry; then the older eviction is forgotten. The answers only
/// steer the lists and a statistic, so that is harmless.
pub(super) struct RefaultTable {
    /// High half: a tag of file and page. Low half: the clock when it was evicted.
    entries: Box<[AtomicU64]>,
    clock: AtomicU32,
}

fn hash(file: u64, index: u64) -> u64 {
    let mut x =
        file.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ index.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    x ^= x >> 32;
    x.wrapping_mul(0xD6E8_FEB8_6659_FD93) | 1
}

impl RefaultTable {
    /// A table that remembers about as many evictions as the cache has pages.
    pub(super) fn new(pages: u64) -> Self {
        let len = pages.clamp(64, 1 << 20).next_power_of_two() as usize;
        Self { entries: (0..len).map(|_| AtomicU64::new(0)).collect(), clock: AtomicU32::new(1) }
    }
    fn entry(&self, hash: u64) -> &AtomicU64 {
        &self.entries[(hash >> 8) as usize & (self.entries.len() - 1)]
    }
    /// Note an eviction.
    pub(super) fn evicted(&self, file: u64, index: u64) {
        let h = hash(file, index);
        let now = self.clock.fetch_add(1, Ordering::Relaxed);
        self.entry(h).store(h & !0xffff_ffff | u64::from(now), Ordering::Relaxed);
    }
    /// How many evictions ago the page was evicted, if it was lately.
    pub(super) fn distance(&self, file: u64, index: u64) -> Option<u32> {
        let h = hash(file, index);
        let seen = self.entry(h).load(Ordering::Relaxed);
        if seen == 0 || seen >> 32 != h >> 32 {
            return None;
        }
        Some(self.clock.load(Ordering::Relaxed).wrapping_sub(seen as u32))
    }
}
