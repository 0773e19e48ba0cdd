//! Noticing stalls.
//!
//! Rounds are counted, not time, so a host that gives the guest no processor never looks
//! like a stall: a round is a second in which the observer itself ran. A report, with
//! every thread's stack, and status 126 follow when for [`limit`] rounds
//!
//! - a processor took no timer interrupt (interrupts off for ever): seen by the processor
//!   before it, in its own timer interrupt;
//! - a processor switched no threads and every timer interrupt found preemption off: seen
//!   by itself;
//! - a thread waited for one and the same thing, without a time-out of its own, although
//!   it holds locks or declared that no wait of its takes long
//!   ([`crate::sched::watch`]; [`crate::sched::not_watched`] excuses a wait for input), or a
//!   ready thread of normal or high priority got no processor: seen by the watchdog thread.
//!
//! A single processor that turns interrupts off for ever cannot notice; the host's time
//! limit remains.

use core::sync::atomic::{AtomicU64, Ordering};

use holdfast_sync::thread::Priority;

use super::Detail;
use super::backtrace::Registers;
use crate::arch::percpu::{self, Cpu};
use crate::sched::{self, State, Thread};
use crate::time;

const ROUND_NS: u64 = 1_000_000_000;
/// Rounds, that is seconds of a guest that runs.
static LIMIT: AtomicU64 = AtomicU64::new(60);

/// What a processor remembers from its last round: about itself, and about the next one.
pub(crate) struct Observed {
    round_at_ns: AtomicU64,
    /// The next processor's timer interrupts, and rounds since they changed.
    neighbour_ticks: AtomicU64,
    neighbour_rounds: AtomicU64,
    /// Own switches, and rounds since they changed or preemption was on.
    switches: AtomicU64,
    stuck_rounds: AtomicU64,
    /// A timer interrupt since the last round found preemption on.
    preemptible: AtomicU64,
}

impl Observed {
    pub(crate) const fn new() -> Self {
        Self {
            round_at_ns: AtomicU64::new(0),
            neighbour_ticks: AtomicU64::new(0),
            neighbour_rounds: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            stuck_rounds: AtomicU64::new(0),
            preemptible: AtomicU64::new(0),
        }
    }
}

/// Is the value still what was seen last? Counts the rounds for which it was.
fn rounds_unchanged(value: u64, seen: &AtomicU64, rounds: &AtomicU64) -> u64 {
    if seen.swap(value, Ordering::Relaxed) != value {
        rounds.store(0, Ordering::Relaxed);
        return 0;
    }
    rounds.fetch_add(1, Ordering::Relaxed) + 1
}

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

fn watch() {
    loop {
        sched::sleep_ns(ROUND_NS);
        let mut stalled = None;
        sched::for_each(|thread| {
            if stalled.is_none() && thread_stalls(thread) {
                stalled = Some((thread.id(), thread.state()));
            }
        });
        if let Some((id, state)) = stalled {
            report(format_args!("watchdog: thread {id} has long been {state:?}"));
        }
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

/// In every timer interrupt; at least one a round comes, on idle processors too.
/// `preemptible`: the interrupted thread could have been switched away.
pub(crate) fn on_tick(cpu: &Cpu, preemptible: bool) {
    let mine = &cpu.observed;
    if preemptible {
        mine.preemptible.store(1, Ordering::Relaxed);
    }
    let now = time::now_ns();
    if now < mine.round_at_ns.load(Ordering::Relaxed) + ROUND_NS * 9 / 10 {
        return;
    }
    mine.round_at_ns.store(now, Ordering::Relaxed);

    let switches = cpu.queue.switch_count();
    let unchanged = rounds_unchanged(switches, &mine.switches, &mine.stuck_rounds);
    if mine.preemptible.swap(0, Ordering::Relaxed) != 0 {
        mine.stuck_rounds.store(0, Ordering::Relaxed);
    } else if unchanged >= limit() {
        report(format_args!("watchdog: processor {} keeps preemption off", cpu.index()));
    }

    let next = percpu::get((cpu.index() + 1) % percpu::count());
    let Some(next) = next.filter(|n| !core::ptr::eq(*n, cpu)) else { return };
    let ticks = next.ticks.load(Ordering::Relaxed);
    let silent = rounds_unchanged(ticks, &mine.neighbour_ticks, &mine.neighbour_rounds);
    if silent >= limit() {
        report(format_args!("watchdog: processor {} takes no interrupts", next.index()));
    }
}

fn report(reason: core::fmt::Arguments<'_>) -> ! {
    super::report(&Registers::here(), reason, Detail::Stacks)
}
