//! Time.
//!
//! | module | |
//! |--------|--|
//! | [`calibrate`] | how fast the time stamp counter counts |
//! | [`rtc`] | the time of day at boot |
//!
//! The clock is the time stamp counter, scaled; it starts at 0 when the kernel's first
//! instruction ran. Owns: clocks. Does not own: timers ([`crate::sched`]). No locks.

pub mod calibrate;
pub mod rtc;

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::cpu;

/// The time stamp counter when the kernel was entered.
static ENTRY_TSC: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds a count, as a 32.32 fixed point number. Before calibration too small, so
/// that the clock never goes back.
static NS_PER_COUNT: AtomicU64 = AtomicU64::new(1 << 30);
/// Wall clock minus monotonic clock.
static WALL_OFFSET_NS: AtomicU64 = AtomicU64::new(0);

/// Start the clock: the counter's value at the kernel's first instruction.
pub fn init(entry_tsc: u64) {
    ENTRY_TSC.store(entry_tsc, Ordering::Relaxed);
}

/// A difference of time stamps in nanoseconds.
#[inline]
pub fn tsc_to_ns(counts: u64) -> u64 {
    ((u128::from(counts) * u128::from(NS_PER_COUNT.load(Ordering::Relaxed))) >> 32) as u64
}

/// Nanoseconds since the kernel was entered.
#[inline]
pub fn now_ns() -> u64 {
    tsc_to_ns(cpu::tsc().saturating_sub(ENTRY_TSC.load(Ordering::Relaxed)))
}

/// Nanoseconds since the machine was started or reset, firmware included: since the time
/// stamp counter was 0, as it is then under QEMU.
pub fn since_machine_start_ns() -> u64 {
    tsc_to_ns(cpu::tsc())
}

/// Counts of the time stamp counter in a millisecond.
pub fn tsc_per_ms() -> u64 {
    ((1_000_000u128 << 32) / u128::from(NS_PER_COUNT.load(Ordering::Relaxed).max(1))) as u64
}

/// Nanoseconds since 1970-01-01 UTC.
pub fn wall_clock_ns() -> u64 {
    WALL_OFFSET_NS.load(Ordering::Relaxed) + now_ns()
}

/// Read the time of day from the real-time clock.
pub fn init_wall_clock() {
    match rtc::read_seconds() {
        Some(seconds) => {
            let offset = (seconds * 1_000_000_000).saturating_sub(now_ns());
            WALL_OFFSET_NS.store(offset, Ordering::Relaxed);
        }
        None => log::warn!("no real-time clock: the time of day starts at 1970-01-01"),
    }
}

/// Busy for at least this long; for bring-up only.
pub(crate) fn spin_ns(duration_ns: u64) {
    let until = now_ns() + duration_ns;
    while now_ns() < until {
        core::hint::spin_loop();
    }
}
