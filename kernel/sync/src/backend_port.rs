//! The kernel's backend: everything goes through [`crate::port`].

use core::sync::atomic::{AtomicU32, Ordering};

use crate::port;

/// The processor's atomics.
pub mod atomic {
    pub use core::sync::atomic::*;
}

/// How often a thread looks at a lock that is held before it sleeps.
pub const SPINS: u32 = 40;

/// An atomic word that threads can wait on.
#[derive(Debug)]
pub struct Word(AtomicU32);

impl Word {
    /// A word with this value.
    pub const fn new(value: u32) -> Self {
        Self(AtomicU32::new(value))
    }
    /// Wait while the word holds `expected`; may return early.
    pub fn wait(&self, expected: u32) {
        port::get().wait(&self.0, expected, None);
    }
    /// Wait while the word holds `expected`, at most `timeout_ns`; may return early.
    pub fn wait_timeout(&self, expected: u32, timeout_ns: u64) {
        port::get().wait(&self.0, expected, Some(timeout_ns));
    }
    /// Wake one waiter.
    pub fn wake_one(&self) {
        port::get().wake(&self.0, 1);
    }
    /// Wake every waiter.
    pub fn wake_all(&self) {
        port::get().wake(&self.0, u32::MAX);
    }
}

impl core::ops::Deref for Word {
    type Target = AtomicU32;
    #[inline]
    fn deref(&self) -> &AtomicU32 {
        &self.0
    }
}

/// Threads, from the kernel's scheduler.
pub mod thread {
    use super::*;
    use crate::thread::Priority;
    use alloc::boxed::Box;
    use alloc::sync::Arc;

    struct Packet<T> {
        done: Word,
        value: spin::Mutex<Option<T>>,
    }

    /// A running thread whose result can be waited for.
    pub struct JoinHandle<T>(Arc<Packet<T>>);

    impl<T> JoinHandle<T> {
        /// Wait for the thread to end and take its result.
        pub fn join(self) -> T {
            while self.0.done.load(Ordering::Acquire) == 0 {
                self.0.done.wait(0);
            }
            self.0.value.lock().take().expect("a finished thread left its result")
        }
        /// Has the thread ended?
        pub fn is_finished(&self) -> bool {
            self.0.done.load(Ordering::Acquire) != 0
        }
    }

    /// Start a named thread.
    pub fn spawn<T: Send + 'static>(
        name: &str,
        priority: Priority,
        entry: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let packet = Arc::new(Packet { done: Word::new(0), value: spin::Mutex::new(None) });
        let theirs = packet.clone();
        port::get().spawn(
            name,
            priority,
            Box::new(move || {
                let value = entry();
                *theirs.value.lock() = Some(value);
                theirs.done.store(1, Ordering::Release);
                theirs.done.wake_all();
            }),
        );
        JoinHandle(packet)
    }

    /// Let another thread run.
    pub fn yield_now() {
        port::get().yield_now();
    }
    /// Sleep at least this long.
    pub fn sleep_ns(duration_ns: u64) {
        port::get().sleep_ns(duration_ns);
    }
    /// The calling thread's number, never 0.
    #[inline]
    pub fn id() -> u64 {
        port::get().thread_id()
    }
    /// The processor the caller runs on.
    #[inline]
    pub fn cpu() -> usize {
        port::get().cpu()
    }
    /// How many processors there are.
    #[inline]
    pub fn cpu_count() -> usize {
        port::try_get().map_or(1, |p| p.cpu_count())
    }
}

/// Time since boot.
pub mod time {
    /// Nanoseconds since boot.
    #[inline]
    pub fn now_ns() -> u64 {
        crate::port::get().now_ns()
    }
}

/// Run `f` on the calling thread's list of held locks.
#[inline]
pub(crate) fn with_held<R>(f: impl FnOnce(&crate::check::Held) -> R) -> Option<R> {
    crate::port::try_get().map(|p| f(p.held()))
}
/// May the caller block?
#[inline]
pub(crate) fn may_block() -> bool {
    crate::port::try_get().is_none_or(|p| p.may_block())
}
