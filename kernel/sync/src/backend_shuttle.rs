//! The deterministic backend: Shuttle decides at every atomic step who runs next.

use shuttle::sync::{Condvar, Mutex, PoisonError};

/// Shuttle's atomics: each access is a scheduling point.
pub mod atomic {
    pub use shuttle::sync::atomic::*;
}
use atomic::{AtomicU32, Ordering};

/// How often a thread looks at a lock that is held before it sleeps.
pub const SPINS: u32 = 0;

/// An atomic word that threads can wait on.
pub struct Word {
    value: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

impl core::fmt::Debug for Word {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Word")
    }
}

impl Word {
    /// A word with this value.
    pub const fn new(value: u32) -> Self {
        Self { value: AtomicU32::new(value), lock: Mutex::new(()), changed: Condvar::new() }
    }
    /// Wait while the word holds `expected`; may return early.
    pub fn wait(&self, expected: u32) {
        let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if self.value.load(Ordering::SeqCst) == expected {
            drop(self.changed.wait(guard));
        }
    }
    /// A timeout that may strike at any moment: the scheduler explores both.
    pub fn wait_timeout(&self, _expected: u32, timeout_ns: u64) {
        time::advance(timeout_ns);
        shuttle::thread::yield_now();
    }
    /// Wake one waiter.
    pub fn wake_one(&self) {
        drop(self.lock.lock());
        self.changed.notify_one();
    }
    /// Wake every waiter.
    pub fn wake_all(&self) {
        drop(self.lock.lock());
        self.changed.notify_all();
    }
}

impl core::ops::Deref for Word {
    type Target = AtomicU32;
    fn deref(&self) -> &AtomicU32 {
        &self.value
    }
}

/// Threads, from Shuttle.
pub mod thread {
    use crate::thread::Priority;

    /// A running thread whose result can be waited for.
    pub struct JoinHandle<T>(shuttle::thread::JoinHandle<T>);
    impl<T> JoinHandle<T> {
        /// Wait for the thread to end and take its result.
        pub fn join(self) -> T {
            match self.0.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    }
    /// Start a named thread. Priorities have no meaning here.
    pub fn spawn<T: Send + 'static>(
        name: &str,
        _priority: Priority,
        entry: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let builder = shuttle::thread::Builder::new().name(name.into());
        JoinHandle(builder.spawn(entry).expect("Shuttle can start a thread"))
    }
    /// Let another thread run.
    pub fn yield_now() {
        shuttle::thread::yield_now();
    }
    /// Sleeping moves the clock and gives way.
    pub fn sleep_ns(duration_ns: u64) {
        super::time::advance(duration_ns);
        shuttle::thread::yield_now();
    }
    /// The calling thread's number, never 0.
    pub fn id() -> u64 {
        shuttle::current::get_current_task().map_or(1, |t| usize::from(t) as u64 + 1)
    }
    /// Stands in for the processor number: threads are spread over the slots.
    pub fn cpu() -> usize {
        id() as usize % cpu_count()
    }
    /// How many slots per-processor data has: two show every race and keep schedules short.
    pub fn cpu_count() -> usize {
        2
    }
}

/// Time that moves only when somebody sleeps.
pub mod time {
    use core::sync::atomic::{AtomicU64, Ordering};
    shuttle::lazy_static! { static ref NOW: AtomicU64 = AtomicU64::new(1); }
    /// Nanoseconds since the start of the execution.
    pub fn now_ns() -> u64 {
        NOW.load(Ordering::Relaxed)
    }
    pub(super) fn advance(duration_ns: u64) {
        NOW.fetch_add(duration_ns, Ordering::Relaxed);
    }
}

shuttle::thread_local! { static HELD: crate::check::Held = crate::check::Held::new(); }
pub(crate) fn with_held<R>(f: impl FnOnce(&crate::check::Held) -> R) -> Option<R> {
    HELD.try_with(f).ok()
}
pub(crate) fn may_block() -> bool {
    true
}
