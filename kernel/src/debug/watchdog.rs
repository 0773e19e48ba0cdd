//! Noticing stalls.
//!
//! A thread of high priority looks once a second. It counts its own rounds, not time,
//! so a host that gives the guest no processor never looks like a stall. It reports, with
//! every thread's stack, and leaves with status 126, when for [`limit`] rounds
//!
//! - a processor ran something and took no timer interrupt (interrupts off for ever),
//! - a thread waited for one and the same thing, without a time-out of its own, although
//!   it holds locks or declared that no wait of its takes long
//!   ([`crate::sched::watch`]; [`crate::sched::not_watched`] excuses a wait for input),
//! - a ready thread of normal or high priority got no processor.
//!
//! A processor that ignores a due switch for as long (preemption off) notices itself, in
//! its timer interrupt.

use core::sync::atomic::{AtomicU64, Ordering};

use holdfast_sync::thread::Priority;

use super::Detail;
use super::backtrace::Registers;
use crate::MAX_CPUS;
use crate::arch::percpu::{self, Cpu};
use crate::sched::{self, SLICE_NS, State, Thread};

const ROUND_NS: u64 = 1_000_000_000;
/// Rounds, that is seconds of a guest that runs.
static LIMIT: AtomicU64 = AtomicU64::new(60);
/// Timer interrupts in a row that found a due switch not made, by processor.
static DUE_TICKS: [AtomicU64; MAX_CPUS] = [const { AtomicU64::new(0) }; MAX_CPUS];

/// Rounds after which a stall is reported.
pub fn limit() -> u64 {
    LIMIT.load(Ordering::Relaxed)
}

/// Report stalls after this many seconds; 0: never.
pub fn set_limit(seconds: u64) {
    LIMIT.store(if seconds == 0 { u64::MAX } else { seconds }, Ordering::Relaxed);
}

/// Start looking.
pub fn start() {
    sched::spawn("watchdog", Priority::High, alloc::boxed::Box::new(watch))
        .expect("memory for the watchdog's stack");
}

#[derive(Clone, Copy, Default)]
struct Seen {
    ticks: u64,
    rounds: u64,
}

fn watch() {
    let mut seen = [Seen::default(); MAX_CPUS];
    loop {
        sched::sleep_ns(ROUND_NS);
        for cpu in percpu::all() {
            look_at_cpu(cpu, &mut seen[cpu.index()]);
        }
        let mut stalled = None;
        sched::for_each(|thread| {
            if stalled.is_none() && thread_stalls(thread) {
                stalled = Some((thread.id(), thread.state()));
            }
        });
        if let Some((id, state)) = stalled {
            report(format_args!(
                "watchdog: thread {id} has been {state:?} for {} seconds",
                limit()
            ));
        }
    }
}

fn look_at_cpu(cpu: &Cpu, seen: &mut Seen) {
    let ticks = cpu.ticks.load(Ordering::Relaxed);
    let other = cpu.index() != percpu::index();
    if other && cpu.runs_something() && ticks == seen.ticks {
        seen.rounds += 1;
        if seen.rounds >= limit() {
            report(format_args!(
                "watchdog: processor {} has taken no interrupt for {} seconds",
                cpu.index(),
                seen.rounds
            ));
        }
    } else {
        *seen = Seen { ticks, rounds: 0 };
    }
}

/// Count a round of the same wait; has it lasted too long?
fn thread_stalls(thread: &Thread) -> bool {
    let own_limit = thread.limit_ns().map(|ns| ns.div_ceil(ROUND_NS));
    let (suspect, limit) = match thread.state() {
        State::Blocked => (
            !thread.wait_timed() && (own_limit.is_some() || !thread.held().is_empty()),
            own_limit.unwrap_or(u64::MAX).min(limit()),
        ),
        State::Ready => (!thread.is_idle() && thread.priority() != Priority::Idle, limit()),
        _ => (false, 0),
    };
    // A wait is named by its number and the time it began: a ready thread has the latter.
    let sequence = thread.wait_sequence() ^ thread.since_ns().rotate_left(20);
    let same = thread.watch_sequence.swap(sequence, Ordering::Relaxed) == sequence;
    if !suspect || !same {
        thread.watch_ticks.store(0, Ordering::Relaxed);
        return false;
    }
    thread.watch_ticks.fetch_add(1, Ordering::Relaxed) + 1 >= limit
}

/// In every timer interrupt, before a switch is asked for: is one still due?
pub(crate) fn on_tick(cpu: &Cpu, was_due: bool) {
    let count = &DUE_TICKS[cpu.index()];
    if !was_due {
        count.store(0, Ordering::Relaxed);
        return;
    }
    let ticks = count.fetch_add(1, Ordering::Relaxed) + 1;
    if ticks >= limit().saturating_mul(ROUND_NS / SLICE_NS) {
        report(format_args!(
            "watchdog: processor {} has not switched threads for {} timer interrupts",
            cpu.index(),
            ticks
        ));
    }
}

fn report(reason: core::fmt::Arguments<'_>) -> ! {
    super::report(&Registers::here(), reason, Detail::Stacks)
}
