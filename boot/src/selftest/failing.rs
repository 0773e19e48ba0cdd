//! Things that must end in a report and status 126.

use core::sync::atomic::AtomicU32;

use holdfast_kernel::arch::{cpu, percpu};
use holdfast_kernel::{debug, sched};
use holdfast_sync::thread::{self, Priority};
use holdfast_sync::{LockClass, Mutex};

static OUTER: LockClass = LockClass::new("outer", 1);
static INNER: LockClass = LockClass::new("inner", 2);
static NOTHING: AtomicU32 = AtomicU32::new(0);

/// Do what the word says, if it is one of these.
pub fn run(word: &str) {
    match word {
        "panic" => panic!("the panic that was asked for"),
        "overflow" => _ = overflow(core::hint::black_box(1)),
        "stall" => stall(),
        "lockup" => lockup(),
        "spin" => spin(),
        "inversion" => inversion(),
        "atomic" => atomic(),
        "null" => null(),
        _ => {}
    }
}

/// Recurse until the stack ends.
#[allow(unconditional_recursion)]
fn overflow(depth: u64) -> u64 {
    let room = core::hint::black_box([depth; 32]);
    overflow(depth + 1) + room[(depth % 32) as usize]
}

/// A lock that is never given back, wanted by a thread that may not wait long.
fn stall() {
    debug::watchdog::set_limit(2);
    thread::spawn("staller", Priority::Normal, || {
        sched::watch(Some(2_000_000_000));
        holdfast_sync::port::get().wait(&NOTHING, 0, None);
    });
    thread::sleep_ns(u64::MAX / 4);
}

/// A processor with interrupts off for ever.
fn lockup() {
    debug::watchdog::set_limit(2);
    cpu::disable_interrupts();
    loop {
        core::hint::spin_loop();
    }
}

/// A thread that never lets go of its processor.
fn spin() {
    debug::watchdog::set_limit(2);
    percpu::preempt_disable();
    loop {
        core::hint::spin_loop();
    }
}

/// Two locks in the wrong order (found with the feature `check`).
fn inversion() {
    let (outer, inner) = (Mutex::new(&OUTER, ()), Mutex::new(&INNER, ()));
    let _inner = inner.lock();
    let _outer = outer.lock();
}

/// Waiting where a processor must not.
fn atomic() {
    percpu::preempt_disable();
    holdfast_sync::port::get().wait(&NOTHING, 0, Some(1));
}

/// A wild pointer.
fn null() {
    let address = core::hint::black_box(0x10 as *const u64);
    // SAFETY: none; the page fault is the point.
    log::info!("{}", unsafe { address.read_volatile() });
}
