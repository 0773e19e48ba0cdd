//! Condition variables.

use crate::atomic::Ordering::SeqCst;
use crate::backend::Word;
use crate::mutex::MutexGuard;

/// Lets threads wait, with a mutex released, until another says that something changed.
#[derive(Debug)]
pub struct Condvar {
    /// Counts notifications, so that one between unlock and wait is not lost.
    sequence: Word,
}

impl Default for Condvar {
    fn default() -> Self {
        Self::new()
    }
}

impl Condvar {
    /// A condition variable nobody waits on.
    pub const fn new() -> Self {
        Self { sequence: Word::new(0) }
    }
    /// Release the mutex, wait for a notification (or spuriously), lock again.
    pub fn wait<'a, T: ?Sized>(&self, guard: MutexGuard<'a, T>) -> MutexGuard<'a, T> {
        let lock = guard.lock;
        let seen = self.sequence.load(SeqCst);
        drop(guard);
        self.sequence.wait(seen);
        lock.lock()
    }
    /// As [`Condvar::wait`], for at most `timeout_ns`. The caller looks at its condition again.
    pub fn wait_timeout<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        timeout_ns: u64,
    ) -> MutexGuard<'a, T> {
        let lock = guard.lock;
        let seen = self.sequence.load(SeqCst);
        drop(guard);
        self.sequence.wait_timeout(seen, timeout_ns);
        lock.lock()
    }
    /// Wait until `ready` holds.
    pub fn wait_until<'a, T: ?Sized>(
        &self,
        mut guard: MutexGuard<'a, T>,
        mut ready: impl FnMut(&mut T) -> bool,
    ) -> MutexGuard<'a, T> {
        while !ready(&mut guard) {
            guard = self.wait(guard);
        }
        guard
    }
    /// Wake one waiter.
    pub fn notify_one(&self) {
        self.sequence.fetch_add(1, SeqCst);
        self.sequence.wake_one();
    }
    /// Wake every waiter.
    pub fn notify_all(&self) {
        self.sequence.fetch_add(1, SeqCst);
        self.sequence.wake_all();
    }
}
