//! What the log did, for `bench` and for tests.
//!
//! Plain processor atomics, not the backend's: they order nothing.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! statistics {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// What the log did since it was opened.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct LogStatistics {
            $($(#[$doc])* pub $field: u64,)*
        }
        impl LogStatistics {
            /// What happened after `earlier`.
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($field: self.$field.wrapping_sub(earlier.$field),)* }
            }
        }
        /// The live counters.
        #[derive(Default)]
        pub(super) struct Counters {
            $($field: AtomicU64,)*
        }
        #[allow(dead_code)]
        impl Counters {
            $(
                pub(super) fn $field(&self, n: u64) {
                    self.$field.fetch_add(n, Relaxed);
                }
            )*
            pub(super) fn snapshot(&self) -> LogStatistics {
                LogStatistics { $($field: self.$field.load(Relaxed),)* }
            }
        }
    };
}

statistics! {
    /// Transactions in the checkpoints written.
    transactions,
    /// Checkpoints written, with items or without.
    checkpoints,
    /// Checkpoints without items: they move the tail, or cover an idle log.
    empty_checkpoints,
    /// Records written.
    records,
    /// Bytes written to the log, headers and padding included.
    log_bytes,
    /// Bytes of items in them, headers of operations included.
    item_bytes,
    /// Write requests to the log.
    log_writes,
    /// Flushes of the device.
    flushes,
    /// Calls that had to wait for something to become durable.
    forces,
    /// Of these, those that another thread's write served.
    forces_shared,
    /// Reservations that had to wait for space.
    waits,
    /// Items written in place to move the tail.
    pushed,
    /// Transactions that logged more than they had reserved.
    overruns,
}

impl Counters {
    pub(super) fn wrote(&self, bytes: u64) {
        self.log_writes(1);
        self.log_bytes(bytes);
    }
}
