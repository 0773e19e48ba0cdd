//! Per-processor queues of ready threads.

use core::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};

use super::level;
use super::thread::Thread;
use crate::spinlock::{SpinGuard, SpinLock};

/// Threads in a row, linked through [`Thread::link`]. A thread is in one list at most.
pub(super) struct ThreadList {
    head: *const Thread,
    tail: *const Thread,
}

// SAFETY: listed threads are kept alive by the thread table; links change under the lock
// of the list.
unsafe impl Send for ThreadList {}

impl ThreadList {
    pub(super) const fn new() -> Self {
        Self { head: core::ptr::null(), tail: core::ptr::null() }
    }
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_null()
    }
    pub(super) fn push_back(&mut self, thread: &Thread) {
        thread.link.set(core::ptr::null());
        // SAFETY: see the type.
        match unsafe { self.tail.as_ref() } {
            Some(tail) => tail.link.set(thread),
            None => self.head = thread,
        }
        self.tail = thread;
    }
    pub(super) fn pop_front(&mut self) -> Option<&'static Thread> {
        // SAFETY: see the type; whoever pops a thread keeps it alive by running or queueing it.
        let first = unsafe { self.head.as_ref()? };
        self.head = first.link.get();
        if self.head.is_null() {
            self.tail = core::ptr::null();
        }
        Some(first)
    }
    /// Unlink the first thread that `wanted` accepts.
    pub(super) fn remove_first(
        &mut self,
        mut wanted: impl FnMut(&Thread) -> bool,
    ) -> Option<&'static Thread> {
        let mut previous: *const Thread = core::ptr::null();
        let mut at = self.head;
        // SAFETY: see the type.
        while let Some(thread) = unsafe { at.as_ref() } {
            let next = thread.link.get();
            if wanted(thread) {
                // SAFETY: as above.
                match unsafe { previous.as_ref() } {
                    Some(p) => p.link.set(next),
                    None => self.head = next,
                }
                if next.is_null() {
                    self.tail = previous;
                }
                return Some(thread);
            }
            previous = at;
            at = next;
        }
        None
    }
}

pub(super) struct Queues {
    lists: [ThreadList; 3],
}

impl Queues {
    /// The most urgent thread, if any is at least as urgent as `least`.
    pub(super) fn pop(&mut self, length: &AtomicUsize) -> Option<&'static Thread> {
        let thread = self.lists.iter_mut().rev().find_map(ThreadList::pop_front)?;
        length.fetch_sub(1, Ordering::Relaxed);
        Some(thread)
    }
    /// The priority level of the most urgent thread.
    pub(super) fn best(&self) -> Option<usize> {
        (0..3).rev().find(|&l| !self.lists[l].is_empty())
    }
}

/// What a processor's run queue says while it runs nothing but its idle thread.
pub(super) const RUNNING_IDLE: u8 = 0;

/// One processor's ready threads.
pub struct RunQueue {
    queues: SpinLock<Queues>,
    length: AtomicUsize,
    /// Level of the running thread plus one, [`RUNNING_IDLE`] for the idle thread.
    pub(super) running: AtomicU8,
    /// Switches between threads.
    pub(super) switches: AtomicU64,
}

impl RunQueue {
    pub(crate) const fn new() -> Self {
        Self {
            queues: SpinLock::new(Queues { lists: [const { ThreadList::new() }; 3] }),
            length: AtomicUsize::new(0),
            running: AtomicU8::new(RUNNING_IDLE),
            switches: AtomicU64::new(0),
        }
    }
    /// Ready threads that wait for the processor.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.length.load(Ordering::SeqCst)
    }
    pub(super) fn lock(&self) -> SpinGuard<'_, Queues> {
        self.queues.lock()
    }
    pub(super) fn length(&self) -> &AtomicUsize {
        &self.length
    }
    /// Queue a ready thread behind those of its priority. The thread may run, and end, at
    /// once: the caller touches it no more.
    pub(super) fn push(&self, thread: &Thread) {
        let mut queues = self.queues.lock();
        queues.lists[level(thread.priority())].push_back(thread);
        self.length.fetch_add(1, Ordering::SeqCst);
    }
    /// Take a thread that can run elsewhere, most urgent first.
    pub(super) fn steal(&self) -> Option<&'static Thread> {
        if self.len() == 0 {
            return None;
        }
        let mut queues = self.queues.try_lock()?;
        let thread = queues
            .lists
            .iter_mut()
            .rev()
            .find_map(|l| l.remove_first(|t| !t.on_cpu.load(Ordering::Acquire)))?;
        self.length.fetch_sub(1, Ordering::SeqCst);
        Some(thread)
    }
    /// Switches so far.
    pub(crate) fn switch_count(&self) -> u64 {
        self.switches.load(Ordering::Relaxed)
    }
    /// The level a queued thread must have to displace the running one: is there such?
    pub(super) fn has_better(&self) -> bool {
        let running = usize::from(self.running.load(Ordering::Relaxed));
        self.len() > 0 && self.lock().best().is_some_and(|best| best + 1 > running)
    }
}
