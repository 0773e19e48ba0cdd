//! When something is wrong: panic reports, backtraces, the watchdog.
//!
//! | module | |
//! |--------|--|
//! | [`backtrace`] | walking stacks by the image's unwind tables |
//! | [`watchdog`] | noticing stalls |
//!
//! A report stops the other processors with an NMI, so that nothing changes while it
//! is written, prints the reason, a backtrace and the threads, and leaves with status
//! 126. Backtraces are lines `backtrace: 0xADDRESS`, which the host resolves with the
//! image's debug information.

pub mod backtrace;
pub mod watchdog;

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use self::backtrace::Registers;
use crate::arch::trap::TrapFrame;
use crate::arch::{apic, cpu, exit, percpu};
use crate::sched::{self, State, Thread};
use crate::{console, println};

/// No processor reports.
const NOBODY: usize = usize::MAX;
static REPORTER: AtomicUsize = AtomicUsize::new(NOBODY);
/// The reporter is in the middle of the threads' stacks.
static IN_DETAILS: AtomicBool = AtomicBool::new(false);

/// What a report tells of threads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// The list.
    List,
    /// Every thread's stack as well.
    Stacks,
}

/// The panic handler's work.
pub fn panic(info: &PanicInfo<'_>) -> ! {
    let registers = Registers::here();
    let at = info.location();
    match at {
        Some(at) => report(
            &registers,
            format_args!("panicked at {}:{}: {}", at.file(), at.line(), info.message()),
            Detail::List,
        ),
        None => report(&registers, format_args!("panicked: {}", info.message()), Detail::List),
    }
}

/// An exception nobody can handle.
pub(crate) fn fatal(frame: Option<&TrapFrame>, reason: fmt::Arguments<'_>) -> ! {
    let registers = frame.map_or_else(Registers::here, Registers::of_frame);
    report(&registers, reason, Detail::List)
}

/// Report and leave with status 126.
pub(crate) fn report(registers: &Registers, reason: fmt::Arguments<'_>, detail: Detail) -> ! {
    cpu::disable_interrupts();
    let me = percpu::index();
    match REPORTER.compare_exchange(NOBODY, me, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(other) if other == me => report_in_report(reason),
        // Another processor reports already, and stops this one in a moment.
        Err(_) => cpu::stop(),
    }
    stop_others();
    // SAFETY: nothing else runs any more.
    unsafe { console::force_unlock() };
    println!("\nkernel panic: {reason}");
    print_caller(me);
    backtrace::print(registers, percpu::stack_bounds());
    IN_DETAILS.store(true, Ordering::Relaxed);
    print_threads(detail);
    println!("kernel panic: end of report");
    exit::exit(exit::STATUS_PANIC)
}

/// The report itself went wrong: say so and leave.
fn report_in_report(reason: fmt::Arguments<'_>) -> ! {
    // SAFETY: nothing else runs any more.
    unsafe { console::force_unlock() };
    let place = if IN_DETAILS.load(Ordering::Relaxed) { "thread list" } else { "report" };
    println!("kernel panic: while writing the {place}: {reason}");
    exit::exit(exit::STATUS_PANIC)
}

fn print_caller(me: usize) {
    // SAFETY: null before the scheduler runs, else the running thread.
    match unsafe { percpu::current().as_ref() } {
        Some(thread) => println!("on processor {me}, thread {} ({})", thread.id(), thread.name()),
        None => println!("on processor {me}, during bring-up"),
    }
}

/// Stop the other processors where they are.
fn stop_others() {
    const PATIENCE: u32 = 10_000_000;
    let others = || {
        percpu::all()
            .filter(|c| c.online.load(Ordering::Acquire))
            .filter(|c| c.index() != percpu::index())
    };
    sched::forget_idle();
    others().for_each(|c| apic::send_nmi(c.apic_id.get()));
    for _ in 0..PATIENCE {
        if others().all(|c| !c.stopped_at.load(Ordering::Acquire).is_null()) {
            break;
        }
        core::hint::spin_loop();
    }
}

/// A non-maskable interrupt: another processor reports, and wants this one to stop.
pub(crate) fn on_nmi(frame: &TrapFrame) {
    if REPORTER.load(Ordering::SeqCst) == NOBODY {
        return;
    }
    percpu::this().stopped_at.store(core::ptr::from_ref(frame).cast_mut(), Ordering::Release);
    cpu::stop()
}

/// Print the list of threads, and their stacks if asked for.
fn print_threads(detail: Detail) {
    println!("threads:");
    sched::for_each_in_report(|thread| {
        let info = thread.info();
        println!(
            "  {:4} {:<16} {:?} {:?} cpu {} ran {} ms, switches {}+{}{}",
            info.id,
            info.name,
            info.priority,
            info.state,
            info.cpu,
            info.run_ns / 1_000_000,
            info.voluntary_switches,
            info.involuntary_switches,
            Waiting(&info),
        );
        if detail == Detail::Stacks {
            print_stack(thread);
        }
    });
}

struct Waiting<'a>(&'a sched::ThreadInfo);
impl fmt::Display for Waiting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.0;
        if info.state == State::Blocked {
            write!(f, ", waits {} ms on {:#x}", info.waiting_ns / 1_000_000, info.wait_word)?;
        }
        if !info.held.is_empty() {
            write!(f, ", holds {:?}", info.held)?;
        }
        Ok(())
    }
}

/// The stack of a thread other than the reporting one.
fn print_stack(thread: &Thread) {
    let bounds = thread.stack_bounds();
    if let Some(rsp) = thread.saved_rsp() {
        if let Some(registers) = Registers::of_switched(rsp, bounds) {
            backtrace::print(&registers, bounds);
        }
        return;
    }
    let Some(cpu) = percpu::get(thread.cpu()) else { return };
    if !core::ptr::eq(cpu.current_hint(), thread) {
        return;
    }
    // SAFETY: a stopped processor stays on its NMI stack, where the frame is.
    if let Some(frame) = unsafe { cpu.stopped_at.load(Ordering::Acquire).as_ref() } {
        backtrace::print(&Registers::of_frame(frame), bounds);
    }
}
