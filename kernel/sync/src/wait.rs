//! Waiting for a condition that no lock protects.

use crate::atomic::Ordering::SeqCst;
use crate::backend::Word;

/// Acquisitions of any lock that slept. A plain counter, no scheduling point.
static CONTENDED: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// How often a thread found a lock held for longer than it looks out for, and slept.
pub fn contended_acquisitions() -> u64 {
    CONTENDED.load(core::sync::atomic::Ordering::Relaxed)
}

/// Look for a moment whether `ready` comes true: whoever holds a short lock on another
/// processor has left it sooner than a thread can go to sleep. False: sleep.
pub(crate) fn spin(mut ready: impl FnMut() -> bool) -> bool {
    if crate::backend::SPINS == 0 || crate::thread::cpu_count() == 1 {
        return false;
    }
    (0..crate::backend::SPINS).any(|_| {
        core::hint::spin_loop();
        ready()
    })
}

#[cold]
pub(crate) fn note_contention() {
    CONTENDED.fetch_add(1, core::sync::atomic::Ordering::Relaxed);
}

/// Threads that wait until a condition over shared atomics holds.
///
/// Whoever changes the condition calls [`WaitQueue::wake_all`] afterwards. With
/// nobody waiting that costs one load.
#[derive(Debug)]
pub struct WaitQueue {
    /// Even: nobody waits. Each waiter makes it odd before it looks at the condition.
    sequence: Word,
}

impl Default for WaitQueue {
    fn default() -> Self {
        Self::new()
    }
}

impl WaitQueue {
    /// A queue nobody waits in.
    pub const fn new() -> Self {
        Self { sequence: Word::new(0) }
    }
    /// Wait until `ready` returns a value.
    pub fn wait_until<R>(&self, mut ready: impl FnMut() -> Option<R>) -> R {
        loop {
            if let Some(r) = ready() {
                return r;
            }
            let seen = self.sequence.fetch_or(1, SeqCst) | 1;
            if let Some(r) = ready() {
                return r;
            }
            self.sequence.wait(seen);
        }
    }
    /// Wait until `ready` returns a value, or about `timeout_ns` passed.
    pub fn wait_timeout<R>(
        &self,
        timeout_ns: u64,
        mut ready: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        let deadline = crate::time::now_ns().saturating_add(timeout_ns);
        loop {
            if let Some(r) = ready() {
                return Some(r);
            }
            let seen = self.sequence.fetch_or(1, SeqCst) | 1;
            if let Some(r) = ready() {
                return Some(r);
            }
            let now = crate::time::now_ns();
            if now >= deadline {
                return None;
            }
            self.sequence.wait_timeout(seen, deadline - now);
        }
    }
    /// Wake every waiter: the condition may hold now.
    pub fn wake_all(&self) {
        // The caller's change must be visible before we conclude that nobody waits.
        core::sync::atomic::fence(SeqCst);
        let seen = self.sequence.load(SeqCst);
        // Odd means that somebody waits or is about to. Whoever makes it even wakes them;
        // a lost exchange means another waker or a new waiter, which looks again itself.
        if seen & 1 == 1 {
            self.sequence.fetch_add(1, SeqCst);
            self.sequence.wake_all();
        }
    }
}
