//! The host's backend: the standard library's threads.

use std::sync::atomic::AtomicU32;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// The processor's atomics.
pub mod atomic {
    pub use core::sync::atomic::*;
}

/// How often a thread looks at a lock that is held before it sleeps.
pub const SPINS: u32 = 0;

struct Bucket {
    lock: Mutex<()>,
    changed: Condvar,
}
const BUCKETS: usize = 256;
static TABLE: [Bucket; BUCKETS] =
    [const { Bucket { lock: Mutex::new(()), changed: Condvar::new() } }; BUCKETS];

/// An atomic word that threads can wait on.
///
/// Waiters share a fixed table of condition variables, found by the word's address.
#[derive(Debug)]
pub struct Word(AtomicU32);

impl Word {
    /// A word with this value.
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }
    fn bucket(&self) -> &'static Bucket {
        let address = core::ptr::from_ref(self).addr();
        &TABLE[(address >> 2).wrapping_mul(0x9E37_79B9) >> 7 & (BUCKETS - 1)]
    }
    /// Wait while the word holds `expected`; may return early.
    pub fn wait(&self, expected: u32) {
        let b = self.bucket();
        let guard = b.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.load(atomic::Ordering::SeqCst) == expected {
            drop(b.changed.wait(guard));
        }
    }
    /// Wait while the word holds `expected`, at most `timeout_ns`; may return early.
    pub fn wait_timeout(&self, expected: u32, timeout_ns: u64) {
        let b = self.bucket();
        let guard = b.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.load(atomic::Ordering::SeqCst) == expected {
            drop(b.changed.wait_timeout(guard, Duration::from_nanos(timeout_ns)));
        }
    }
    /// Wake one waiter (here: all who share the bucket; the others look again).
    pub fn wake_one(&self) {
        self.wake_all();
    }
    /// Wake every waiter.
    pub fn wake_all(&self) {
        let b = self.bucket();
        drop(b.lock.lock());
        b.changed.notify_all();
    }
}

impl core::ops::Deref for Word {
    type Target = AtomicU32;
    #[inline]
    fn deref(&self) -> &AtomicU32 {
        &self.0
    }
}

/// Threads, from the standard library.
pub mod thread {
    use crate::thread::Priority;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// A running thread whose result can be waited for.
    pub struct JoinHandle<T>(std::thread::JoinHandle<T>);
    impl<T> JoinHandle<T> {
        /// Wait for the thread to end and take its result.
        pub fn join(self) -> T {
            match self.0.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        /// Has the thread ended?
        pub fn is_finished(&self) -> bool {
            self.0.is_finished()
        }
    }
    /// Start a named thread. Priorities have no meaning here.
    pub fn spawn<T: Send + 'static>(
        name: &str,
        _priority: Priority,
        entry: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let builder = std::thread::Builder::new().name(name.into());
        JoinHandle(builder.spawn(entry).expect("the host can start a thread"))
    }
    /// Let another thread run.
    pub fn yield_now() {
        std::thread::yield_now();
    }
    /// Sleep at least this long.
    pub fn sleep_ns(duration_ns: u64) {
        std::thread::sleep(Duration::from_nanos(duration_ns));
    }
    static NEXT: AtomicU64 = AtomicU64::new(1);
    std::thread_local! { static ID: u64 = NEXT.fetch_add(1, Ordering::Relaxed); }
    /// The calling thread's number, never 0.
    pub fn id() -> u64 {
        ID.with(|id| *id)
    }
    /// Stands in for the processor number: threads are spread over the slots.
    pub fn cpu() -> usize {
        id() as usize % cpu_count()
    }
    /// How many slots per-processor data has.
    pub fn cpu_count() -> usize {
        4
    }
}

/// The host's monotonic clock.
pub mod time {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    /// Nanoseconds since the first call.
    pub fn now_ns() -> u64 {
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

std::thread_local! { static HELD: crate::check::Held = const { crate::check::Held::new() }; }
pub(crate) fn with_held<R>(f: impl FnOnce(&crate::check::Held) -> R) -> Option<R> {
    HELD.try_with(f).ok()
}
pub(crate) fn may_block() -> bool {
    true
}
