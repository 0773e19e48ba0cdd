//! Time-outs, and the one-shot timer that serves them.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use super::switch::latest_interrupt;
use super::thread::Thread;
use crate::arch::apic;
use crate::arch::percpu::{self, Cpu};
use crate::spinlock::SpinLock;
use crate::time;

/// A thread's wait ends at a time.
struct Entry {
    at_ns: u64,
    number: u64,
    thread: Arc<Thread>,
    sequence: u64,
}

/// One processor's time-outs, the next one last.
pub struct TimerList {
    entries: SpinLock<Vec<Entry>>,
    next_number: AtomicU64,
}

/// Names a time-out, to cancel it.
pub(super) struct TimerKey {
    cpu: usize,
    at_ns: u64,
    number: u64,
}

impl TimerList {
    pub(crate) const fn new() -> Self {
        Self { entries: SpinLock::new(Vec::new()), next_number: AtomicU64::new(0) }
    }
    fn next_ns(&self) -> u64 {
        self.entries.lock().last().map_or(u64::MAX, |e| e.at_ns)
    }
    /// The thread and wait whose time has come.
    pub(super) fn pop_due(&self, now_ns: u64) -> Option<(Arc<Thread>, u64)> {
        let mut entries = self.entries.lock();
        if entries.last()?.at_ns > now_ns {
            return None;
        }
        entries.pop().map(|e| (e.thread, e.sequence))
    }
}

/// End the `sequence`th wait of `thread` at `at_ns`. Interrupts are off.
pub(super) fn insert(this: &Cpu, at_ns: u64, thread: &Thread, sequence: u64) -> TimerKey {
    let number = this.timers.next_number.fetch_add(1, Ordering::Relaxed);
    // SAFETY: every thread lives in an `Arc` (see `spawn`), and the caller has a reference.
    let thread = unsafe {
        Arc::increment_strong_count(thread);
        Arc::from_raw(core::ptr::from_ref(thread))
    };
    {
        let mut entries = this.timers.entries.lock();
        let at = entries.partition_point(|e| (e.at_ns, e.number) > (at_ns, number));
        entries.insert(at, Entry { at_ns, number, thread, sequence });
    }
    arm(this, at_ns);
    TimerKey { cpu: this.index(), at_ns, number }
}

/// Forget a time-out, if it has not come yet.
pub(super) fn cancel(key: &TimerKey) {
    let Some(cpu) = percpu::get(key.cpu) else { return };
    let removed = {
        let mut entries = cpu.timers.entries.lock();
        let at = entries.partition_point(|e| (e.at_ns, e.number) > (key.at_ns, key.number));
        let found = entries.get(at).is_some_and(|e| e.number == key.number);
        found.then(|| entries.remove(at))
    };
    drop(removed);
}

/// See that this processor's timer interrupts at `at_ns` at the latest.
fn arm(this: &Cpu, at_ns: u64) {
    if at_ns < this.timer_at.load(Ordering::Relaxed) {
        this.timer_at.store(at_ns, Ordering::Relaxed);
        apic::timer_arm(at_ns.saturating_sub(time::now_ns()));
    }
}

/// A thread runs: the timer must serve time-outs, slices and the heartbeat.
pub(super) fn arm_for_running(this: &Cpu) {
    let latest = time::now_ns() + latest_interrupt(this.queue.len() > 0);
    if this.timer_at.load(Ordering::Relaxed) > latest {
        let next = this.timers.next_ns();
        arm(this, latest.min(next));
    }
}

/// Another thread waits for this processor.
pub(super) fn arm_slice(this: &Cpu) {
    arm(this, time::now_ns() + latest_interrupt(true));
}

/// Nothing runs: only time-outs count, and the heartbeat that shows the watchdog life.
pub(super) fn arm_for_idle(this: &Cpu) {
    if this.timer_at.load(Ordering::Relaxed) == u64::MAX {
        let heartbeat = time::now_ns() + latest_interrupt(false);
        arm(this, heartbeat.min(this.timers.next_ns()));
    }
}
