//! What was asked of a device: counts, sizes, depth.
//!
//! Plain processor atomics, not the backend's: they order nothing, and as
//! scheduling points they would only dilute what a deterministic scheduler explores.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Op;

/// Buckets of the size histogram: bucket `i` counts requests of `512 << i` bytes and
/// more, below twice that. The last one also counts everything larger.
pub const SIZE_BUCKETS: usize = 20;

/// Requests of one kind, as the device saw them (after splitting and merging).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpStatistics {
    /// Requests started.
    pub requests: u64,
    /// Bytes asked for.
    pub bytes: u64,
    /// Requests of callers that became part of a neighbour's.
    pub merges: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests by size, see [`SIZE_BUCKETS`]. Flushes have none.
    pub sizes: [u64; SIZE_BUCKETS],
}

/// A snapshot of a queue's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStatistics {
    /// Reads.
    pub read: OpStatistics,
    /// Writes.
    pub write: OpStatistics,
    /// Flushes.
    pub flush: OpStatistics,
    /// Discards.
    pub discard: OpStatistics,
    /// Write-zeroes.
    pub write_zeroes: OpStatistics,
    /// Requests in flight just now.
    pub in_flight: u64,
    /// Most requests in flight at once, ever.
    pub in_flight_max: u64,
    /// Requests that ended.
    pub completions: u64,
    /// Sum over the completions of the requests in flight, the ended one included.
    pub depth_sum: u64,
}

impl OpStatistics {
    /// Mean bytes a request, 0 without requests.
    pub fn mean_bytes(&self) -> u64 {
        self.bytes.checked_div(self.requests).unwrap_or(0)
    }
    fn since(&self, earlier: &Self) -> Self {
        Self {
            requests: self.requests.wrapping_sub(earlier.requests),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
            merges: self.merges.wrapping_sub(earlier.merges),
            errors: self.errors.wrapping_sub(earlier.errors),
            sizes: core::array::from_fn(|i| self.sizes[i].wrapping_sub(earlier.sizes[i])),
        }
    }
}

impl QueueStatistics {
    /// Requests in flight at the end of a request, on average, in hundredths.
    pub fn mean_depth_hundredths(&self) -> u64 {
        self.depth_sum.saturating_mul(100).checked_div(self.completions).unwrap_or(0)
    }
    /// What happened after `earlier`. `in_flight` and `in_flight_max` stay as they are now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            read: self.read.since(&earlier.read),
            write: self.write.since(&earlier.write),
            flush: self.flush.since(&earlier.flush),
            discard: self.discard.since(&earlier.discard),
            write_zeroes: self.write_zeroes.since(&earlier.write_zeroes),
            in_flight: self.in_flight,
            in_flight_max: self.in_flight_max,
            completions: self.completions.wrapping_sub(earlier.completions),
            depth_sum: self.depth_sum.wrapping_sub(earlier.depth_sum),
        }
    }
    /// The counters of one operation.
    pub fn op(&self, op: Op) -> &OpStatistics {
        match op {
            Op::Read => &self.read,
            Op::Write => &self.write,
            Op::Flush => &self.flush,
            Op::Discard => &self.discard,
            Op::WriteZeroes => &self.write_zeroes,
        }
    }
}

#[derive(Default)]
struct OpCounters {
    requests: AtomicU64,
    bytes: AtomicU64,
    merges: AtomicU64,
    errors: AtomicU64,
    sizes: [AtomicU64; SIZE_BUCKETS],
}

impl OpCounters {
    fn snapshot(&self) -> OpStatistics {
        OpStatistics {
            requests: self.requests.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            merges: self.merges.load(Relaxed),
            errors: self.errors.load(Relaxed),
            sizes: core::array::from_fn(|i| self.sizes[i].load(Relaxed)),
        }
    }
}

/// The live counters of a queue.
#[derive(Default)]
pub(super) struct Counters {
    ops: [OpCounters; 5],
    in_flight: AtomicU64,
    in_flight_max: AtomicU64,
    completions: AtomicU64,
    depth_sum: AtomicU64,
    changes: AtomicU64,
}

impl Counters {
    pub(super) fn started(&self, op: Op, bytes: u64) {
        let counters = &self.ops[op as usize];
        counters.requests.fetch_add(1, Relaxed);
        if op != Op::Flush {
            counters.bytes.fetch_add(bytes, Relaxed);
            let bucket = (bytes.max(512).ilog2() as usize - 9).min(SIZE_BUCKETS - 1);
            counters.sizes[bucket].fetch_add(1, Relaxed);
        }
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        if now > self.in_flight_max.load(Relaxed) {
            self.in_flight_max.fetch_max(now, Relaxed);
        }
    }
    pub(super) fn ended(&self, op: Op, ok: bool) {
        if !ok {
            self.ops[op as usize].errors.fetch_add(1, Relaxed);
        }
        let depth = self.in_flight.fetch_sub(1, Relaxed);
        self.depth_sum.fetch_add(depth, Relaxed);
        self.completions.fetch_add(1, Relaxed);
        if !matches!(op, Op::Read | Op::Flush) {
            self.changes.fetch_add(1, Relaxed);
        }
    }
    /// Requests that ended and may have changed what the device holds.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Relaxed)
    }
    pub(super) fn merged(&self, op: Op) {
        self.ops[op as usize].merges.fetch_add(1, Relaxed);
    }
    pub(super) fn snapshot(&self) -> QueueStatistics {
        let op = |op: Op| self.ops[op as usize].snapshot();
        QueueStatistics {
            read: op(Op::Read),
            write: op(Op::Write),
            flush: op(Op::Flush),
            discard: op(Op::Discard),
            write_zeroes: op(Op::WriteZeroes),
            in_flight: self.in_flight.load(Relaxed),
            in_flight_max: self.in_flight_max.load(Relaxed),
            completions: self.completions.load(Relaxed),
            depth_sum: self.depth_sum.load(Relaxed),
        }
    }
}
