//! What a kernel supplies so that the locks can wait: the port of the `no_std` backend.

use alloc::boxed::Box;
use core::sync::atomic::AtomicU32;

use crate::check::Held;
use crate::thread::Priority;

/// The scheduler as the locks see it.
///
/// Set once, before the first lock is contended, with [`set`].
pub trait Port: Sync {
    /// Block the calling thread while `*word == expected`.
    ///
    /// The comparison and the enqueueing are one step against [`Port::wake`] on
    /// the same word, so a wake after the word changed is never lost. Returns
    /// after a wake, after `timeout_ns` (when given), or spuriously.
    fn wait(&self, word: &AtomicU32, expected: u32, timeout_ns: Option<u64>);
    /// Wake up to `count` threads that wait on `word`. Callable with interrupts off.
    fn wake(&self, word: &AtomicU32, count: u32);
    /// Start a thread; `entry` runs on it.
    fn spawn(&self, name: &str, priority: Priority, entry: Box<dyn FnOnce() + Send>);
    /// Let another thread of the same priority run.
    fn yield_now(&self);
    /// Sleep at least this long.
    fn sleep_ns(&self, duration_ns: u64);
    /// A number that identifies the calling thread, never 0.
    fn thread_id(&self) -> u64;
    /// The processor the caller runs on just now, below [`Port::cpu_count`].
    fn cpu(&self) -> usize;
    /// How many processors there are.
    fn cpu_count(&self) -> usize;
    /// Nanoseconds since boot.
    fn now_ns(&self) -> u64;
    /// The calling thread's list of held locks.
    fn held(&self) -> &Held;
    /// May the caller block? False in interrupts and while a spin lock is held.
    fn may_block(&self) -> bool;
}

static PORT: spin::Once<&'static dyn Port> = spin::Once::new();

/// Install the kernel's port. The first call counts.
pub fn set(port: &'static dyn Port) {
    PORT.call_once(|| port);
}

/// The installed port.
///
/// # Panics
/// Before [`set`]: a lock was contended too early in the bring-up.
#[inline]
pub fn get() -> &'static dyn Port {
    *PORT.get().expect("holdfast-sync: no port set")
}

/// The installed port, if there is one yet.
#[inline]
pub fn try_get() -> Option<&'static dyn Port> {
    PORT.get().copied()
}
