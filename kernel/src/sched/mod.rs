//! Threads on every processor.
//!
//! | module | |
//! |--------|--|
//! | `thread` | what a thread is; spawning, ending, statistics |
//! | `runqueue` | per-processor queues, three priorities, stealing |
//! | `switch` | choosing and switching, preemption, the idle loop |
//! | `wait` | threads waiting on a word, by its address |
//! | `timer` | time-outs and the per-processor timer |
//! | `port` | `holdfast_sync::port::Port`: what the blocking locks stand on |
//!
//! ```text
//! Running --wait--> Blocked --wake, time-out--> Ready --switch--> Running
//!    '------------preempted, yielded------------^
//! ```
//!
//! A thread's registers are saved when `on_cpu` becomes false. Between a wake and that
//! moment the thread may be queued only on the processor that still runs it, so no
//! processor ever waits for another one's switch.
//!
//! Owns: who runs where. Does not own: what threads do, programs' address spaces.
//! Locks: wait bucket, then run queue, then timer list; the thread table alone.

mod port;
mod runqueue;
mod switch;
mod thread;
mod timer;
mod wait;

pub use port::KERNEL_PORT;
pub(crate) use runqueue::RunQueue;
pub(crate) use switch::{
    forget_idle, on_reschedule, on_timer, preempt, preempt_from_interrupt, set_space,
    thread_started,
};
pub use switch::{online, run_idle};
pub use thread::{
    State, Thread, ThreadInfo, current_slot, for_each, init, init_cpu, not_watched, set_slot,
    snapshot, spawn, watch, with_slot,
};
pub(crate) use thread::{for_each_in_report, swap_copy};
pub(crate) use timer::TimerList;
pub use wait::{wait, wake};

use holdfast_sync::thread::Priority;

/// How long a thread runs while another of its priority is ready.
pub const SLICE_NS: u64 = 4_000_000;
/// A processor is interrupted at least this often, idle or not.
pub const HEARTBEAT_NS: u64 = 1_000_000_000;

/// The calling thread's number.
#[inline]
pub fn thread_id() -> u64 {
    crate::arch::percpu::thread_id()
}

/// Sleep at least this long.
pub fn sleep_ns(duration_ns: u64) {
    switch::sleep_ns(duration_ns);
}

/// Let another thread of the same priority run.
pub fn yield_now() {
    switch::yield_now();
}

const fn level(priority: Priority) -> usize {
    match priority {
        Priority::Idle => 0,
        Priority::Normal => 1,
        Priority::High => 2,
    }
}
