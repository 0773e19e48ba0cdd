//! Choosing the next thread and switching to it.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicU64, Ordering};

use super::runqueue::RUNNING_IDLE;
use super::thread::{self, State, Thread, current};
use super::{HEARTBEAT_NS, SLICE_NS, level, timer, wait};
use crate::MAX_CPUS;
use crate::arch::percpu::{self, Cpu};
use crate::arch::{apic, context, cpu, trap};
use crate::mm::{AddressSpace, tlb};
use crate::time;

/// Processors that halt, or are about to.
static IDLE: AtomicU64 = AtomicU64::new(0);

/// A thread that waited displaces one of its priority that has run this long.
const WAKE_GRANULARITY_NS: u64 = 1_000_000;

/// Why a thread is switched away from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    /// It waits, yields or ends.
    Voluntary,
    /// Its slice ended, or a more urgent thread came.
    Preempted,
}

/// Take this processor into use for threads. It calls [`run_idle`] next.
pub fn online() {
    crate::mm::tlb::online(percpu::this());
    percpu::this().online.store(true, Ordering::SeqCst);
}

/// Queue a thread whose state the caller made `Ready`, and see that a processor notices.
pub(super) fn make_ready(thread: &Thread) {
    let on = cpu::save_interrupts();
    let me = percpu::this();
    let target = choose(thread, me);
    let urgency = level(thread.priority()) as u8 + 1;
    thread.since_ns.store(time::now_ns(), Ordering::Relaxed);
    thread.cpu.store(target.index() as u32, Ordering::Relaxed);
    // From here on the thread may run and end.
    target.queue.push(thread);
    let running = target.queue.running.load(Ordering::SeqCst);
    let displaces = running < urgency || (running == urgency && has_run_enough(target));
    if core::ptr::eq(target, me) {
        if displaces {
            percpu::want_reschedule();
            if !on && !percpu::in_interrupt() {
                // The caller has interrupts off and will not look: interrupt ourselves.
                apic::send(me.apic_id.get(), trap::RESCHEDULE);
            }
        } else {
            timer::arm_slice(me);
        }
    } else if displaces || target.timer_at.load(Ordering::Relaxed) > time::now_ns() + SLICE_NS {
        apic::send(target.apic_id.get(), trap::RESCHEDULE);
    }
    cpu::restore_interrupts(on);
    if on && percpu::reschedule_due() {
        preempt();
    }
}

/// Has the running thread had so much that one that waited may displace it?
fn has_run_enough(target: &Cpu) -> bool {
    time::tsc_to_ns(cpu::tsc().saturating_sub(target.switched_at.load(Ordering::Relaxed)))
        >= WAKE_GRANULARITY_NS
}

/// The processor to queue a thread on.
fn choose(thread: &Thread, me: &'static Cpu) -> &'static Cpu {
    let last = percpu::get(thread.cpu()).unwrap_or(me);
    // Its registers may not be saved yet: only the processor that has them can go on.
    if thread.on_cpu.load(Ordering::Acquire) {
        return last;
    }
    let bit = 1 << last.index();
    if IDLE.load(Ordering::SeqCst) & bit != 0 {
        IDLE.fetch_and(!bit, Ordering::SeqCst);
        return last;
    }
    loop {
        let idle = IDLE.load(Ordering::SeqCst);
        if idle == 0 {
            return last;
        }
        let bit = idle & idle.wrapping_neg();
        if IDLE.fetch_and(!bit, Ordering::SeqCst) & bit != 0
            && let Some(cpu) = percpu::get(bit.trailing_zeros() as usize)
        {
            return cpu;
        }
    }
}

/// Switch to the most urgent thread. Interrupts are off; when the calling thread goes on
/// it may be on another processor.
fn schedule(why: Why) {
    let this = percpu::this();
    let previous = current();
    let mut queues = this.queue.lock();
    percpu::clear_reschedule();
    let still_runs = previous.state() == State::Running && !previous.is_idle();
    if still_runs {
        if queues.best().is_none_or(|best| best < level(previous.priority())) {
            drop(queues);
            return timer::arm_for_running(this);
        }
        previous.set_state(State::Ready);
        previous.since_ns.store(time::now_ns(), Ordering::Relaxed);
        drop(queues);
        this.queue.push(previous);
        queues = this.queue.lock();
    }
    // SAFETY: set when the processor came online; idle threads never end.
    let idle = unsafe { &*this.idle.get() };
    let next = queues.pop(this.queue.length()).unwrap_or(idle);
    drop(queues);
    next.set_state(State::Running);
    let running = if next.is_idle() { RUNNING_IDLE } else { level(next.priority()) as u8 + 1 };
    this.queue.running.store(running, Ordering::SeqCst);
    if core::ptr::eq(next, previous) {
        return timer::arm_for_running(this);
    }
    switch(this, previous, next, why);
}

fn switch(this: &'static Cpu, previous: &'static Thread, next: &'static Thread, why: Why) {
    let now = cpu::tsc();
    let ran = now.saturating_sub(this.switched_at.load(Ordering::Relaxed));
    previous.run_tsc.fetch_add(ran, Ordering::Relaxed);
    let counter = if why == Why::Voluntary { &previous.voluntary } else { &previous.involuntary };
    counter.fetch_add(1, Ordering::Relaxed);
    this.queue.switches.fetch_add(1, Ordering::Relaxed);
    this.switched_at.store(now, Ordering::Relaxed);
    if previous.is_idle() {
        IDLE.fetch_and(!(1 << this.index()), Ordering::SeqCst);
    }
    next.cpu.store(this.index() as u32, Ordering::Relaxed);
    next.on_cpu.store(true, Ordering::Relaxed);
    this.previous.set(previous);
    this.set_current(next);
    tlb::switch_space(this, next.space.get());
    if !next.is_idle() {
        timer::arm_for_running(this);
    }
    // SAFETY: `next` is off every processor: it came from a queue, where threads are put only
    // after `on_cpu` became false, or by this processor.
    unsafe { context::switch(previous.rsp.get(), *next.rsp.get()) };
    finish_switch();
}

/// On the new stack: the thread switched away from is free to run elsewhere.
fn finish_switch() {
    let this = percpu::this();
    // SAFETY: set by `switch` on this processor; the thread is in the table until reaped here.
    let previous = unsafe { &*this.previous.get() };
    let dead = previous.state() == State::Dead;
    previous.on_cpu.store(false, Ordering::Release);
    if dead {
        thread::reap(previous);
    }
}

/// A new thread's first instructions: called by the assembler start.
pub(crate) extern "C" fn thread_started() -> ! {
    finish_switch();
    cpu::enable_interrupts();
    thread::run_entry();
    holdfast_sync::check::assert_none_held("a thread ended");
    thread::release_slot();
    cpu::disable_interrupts();
    current().set_state(State::Dead);
    schedule(Why::Voluntary);
    unreachable!("an ended thread ran on");
}

/// Block the calling thread, whose state the caller made `Blocked`. Interrupts are off.
pub(super) fn block() {
    assert!(!percpu::preempt_disabled(), "blocking with preemption off");
    schedule(Why::Voluntary);
}

/// A switch is due: make it, if interrupts are on.
#[cold]
pub(crate) fn preempt() {
    // Nothing to switch before the scheduler runs; with interrupts off somebody will ask again.
    if percpu::current().is_null() || !cpu::interrupts_enabled() {
        return;
    }
    cpu::disable_interrupts();
    if percpu::reschedule_due() {
        schedule(Why::Preempted);
    }
    cpu::enable_interrupts();
}

/// A switch is due at the end of an interrupt.
pub(crate) fn preempt_from_interrupt() {
    if !percpu::current().is_null() {
        schedule(Why::Preempted);
    }
}

/// Another processor queued something here.
pub(crate) fn on_reschedule() {
    let this = percpu::this();
    let equal = this.queue.len() > 0 && has_run_enough(this);
    if equal || this.queue.has_better() {
        percpu::want_reschedule();
    } else if this.queue.len() > 0 {
        timer::arm_slice(this);
    }
}

/// The local timer.
pub(crate) fn on_timer() {
    let this = percpu::this();
    this.ticks.fetch_add(1, Ordering::Relaxed);
    this.timer_at.store(u64::MAX, Ordering::Relaxed);
    let now = time::now_ns();
    while let Some((thread, sequence)) = this.timers.pop_due(now) {
        wait::time_out(&thread, sequence);
    }
    if percpu::current().is_null() {
        return;
    }
    let ran = time::tsc_to_ns(cpu::tsc().saturating_sub(this.switched_at.load(Ordering::Relaxed)));
    if this.queue.len() > 0 && (ran + SLICE_NS / 8 >= SLICE_NS || this.queue.has_better()) {
        percpu::want_reschedule();
    }
    timer::arm_for_running(this);
    if this.queue.len() > 0 {
        wake_idle_processor();
    }
    crate::debug::watchdog::on_tick(this, percpu::was_preemptible());
}

/// Have a halted processor look for threads to take over.
fn wake_idle_processor() {
    let idle = IDLE.load(Ordering::SeqCst);
    if let Some(cpu) = percpu::get(idle.trailing_zeros().min(MAX_CPUS as u32 - 1) as usize)
        && idle != 0
    {
        apic::send(cpu.apic_id.get(), trap::RESCHEDULE);
    }
}

/// Let another thread of the same priority run.
pub(super) fn yield_now() {
    if !cpu::interrupts_enabled() || percpu::preempt_disabled() {
        return;
    }
    let on = cpu::save_interrupts();
    schedule(Why::Voluntary);
    cpu::restore_interrupts(on);
}

/// Sleep at least this long.
pub(super) fn sleep_ns(duration_ns: u64) {
    let until = time::now_ns().saturating_add(duration_ns);
    let me = current();
    loop {
        let now = time::now_ns();
        if now >= until {
            return;
        }
        wait::wait(&me.nap, 0, Some(until - now));
    }
}

/// The calling thread's program addresses mean `space` from now on.
#[inline]
pub(crate) fn set_space(space: &Arc<AddressSpace>) {
    if !core::ptr::eq(current().space.get(), Arc::as_ptr(space)) {
        thread::own_space(space);
    }
}

/// No processor counts as idle any more: a report stops the machine.
pub(crate) fn forget_idle() {
    IDLE.store(0, Ordering::SeqCst);
}

/// The idle thread's work: run what is ready, help others, halt.
pub fn run_idle() -> ! {
    let this = percpu::this();
    let bit = 1 << this.index();
    loop {
        cpu::disable_interrupts();
        if this.queue.len() == 0 {
            // First seen as idle, then look: whoever queues a thread does the opposite.
            IDLE.fetch_or(bit, Ordering::SeqCst);
            let stolen = percpu::all()
                .filter(|other| !core::ptr::eq(*other, this))
                .find_map(|other| other.queue.steal());
            if let Some(thread) = stolen {
                thread.cpu.store(this.index() as u32, Ordering::Relaxed);
                this.queue.push(thread);
            }
        }
        if this.queue.len() == 0 {
            timer::arm_for_idle(this);
            cpu::enable_and_halt();
        } else {
            IDLE.fetch_and(!bit, Ordering::SeqCst);
            schedule(Why::Voluntary);
        }
    }
}

/// When a running thread's processor is interrupted next at the latest.
pub(super) const fn latest_interrupt(contended: bool) -> u64 {
    if contended { SLICE_NS } else { HEARTBEAT_NS }
}
