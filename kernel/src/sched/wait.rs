//! Threads that wait on a word, found by its address.
//!
//! ```text
//! waiter                               waker
//! lock bucket                          change the word
//! word changed? yes: return            lock bucket
//! queue, Blocked                       take waiters of this word
//! unlock, switch away                  unlock, make them ready
//! ```
//! The bucket's lock orders the two: a waker that changed the word before the waiter
//! looked is seen; one that changes it after finds the waiter queued.

use core::sync::atomic::{AtomicU32, Ordering};

use super::runqueue::ThreadList;
use super::thread::{State, Thread, current};
use super::{switch, timer};
use crate::arch::{cpu, percpu};
use crate::spinlock::SpinLock;
use crate::time;

const BUCKETS: usize = 256;

/// On a cache line of its own.
#[repr(align(64))]
struct Bucket(SpinLock<ThreadList>);

static TABLE: [Bucket; BUCKETS] = [const { Bucket(SpinLock::new(ThreadList::new())) }; BUCKETS];

fn bucket(address: usize) -> &'static SpinLock<ThreadList> {
    const FIBONACCI: usize = 0x9e37_79b9_7f4a_7c15;
    &TABLE[(address >> 2).wrapping_mul(FIBONACCI) >> (usize::BITS - BUCKETS.ilog2())].0
}

/// Block the calling thread while `*word == expected`; returns after a wake, the time-out,
/// or spuriously.
///
/// # Panics
/// Where blocking is forbidden: in interrupts, with preemption or interrupts off.
pub fn wait(word: &AtomicU32, expected: u32, timeout_ns: Option<u64>) {
    assert!(
        cpu::interrupts_enabled() && !percpu::preempt_disabled(),
        "blocking where blocking is forbidden"
    );
    let address = core::ptr::from_ref(word).addr();
    let deadline = timeout_ns.map(|t| time::now_ns().saturating_add(t));
    let me = current();
    let mut list = bucket(address).lock();
    if word.load(Ordering::SeqCst) != expected {
        return;
    }
    let sequence = me.wait_sequence.load(Ordering::Relaxed) + 1;
    me.wait_sequence.store(sequence, Ordering::Relaxed);
    me.wait_word.store(address, Ordering::Relaxed);
    me.wait_timed.store(deadline.is_some(), Ordering::Relaxed);
    me.since_ns.store(time::now_ns(), Ordering::Relaxed);
    me.set_state(State::Blocked);
    list.push_back(me);
    list.unlock_keeping_interrupts_off();
    let key = deadline.map(|at| timer::insert(percpu::this(), at, me, sequence));
    switch::block();
    cpu::enable_interrupts();
    if let Some(key) = key {
        timer::cancel(&key);
    }
}

/// Wake up to `count` threads that wait on `word`, longest waiting first. Callable
/// anywhere, interrupt handlers included.
pub fn wake(word: &AtomicU32, count: u32) {
    let address = core::ptr::from_ref(word).addr();
    let mut woken = ThreadList::new();
    {
        let mut list = bucket(address).lock();
        for _ in 0..count {
            let waits_here = |t: &Thread| t.wait_word.load(Ordering::Relaxed) == address;
            let Some(thread) = list.remove_first(waits_here) else { break };
            // Taken from the list, it is ours alone until queued.
            thread.set_state(State::Ready);
            woken.push_back(thread);
        }
    }
    while let Some(thread) = woken.pop_front() {
        switch::make_ready(thread);
    }
}

/// The time of a wait has come: end it, if the thread still waits in it.
pub(super) fn time_out(thread: &Thread, sequence: u64) {
    let address = thread.wait_word.load(Ordering::Relaxed);
    let woken = {
        let mut list = bucket(address).lock();
        let same = |t: &Thread| {
            core::ptr::eq(t, thread) && t.wait_sequence.load(Ordering::Relaxed) == sequence
        };
        let found = list.remove_first(same);
        if let Some(thread) = found {
            thread.set_state(State::Ready);
        }
        found
    };
    if let Some(thread) = woken {
        switch::make_ready(thread);
    }
}
