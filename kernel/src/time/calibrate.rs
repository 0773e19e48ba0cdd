//! How fast the time stamp counter counts.
//!
//! The local APIC's timer is the reference: under TCG and KVM it counts nanoseconds
//! exactly. Elsewhere it is first measured against the PIT. The reference runs while
//! bring-up does other work, so calibration itself costs almost nothing.

use core::sync::atomic::Ordering;

use super::NS_PER_COUNT;
use crate::arch::{apic, cpu};

/// The two counters, read together.
#[derive(Clone, Copy)]
struct Pair {
    tsc: u64,
    apic: u32,
}

/// A calibration under way.
pub struct Calibration(Pair);

/// Measure at least this long: the reading error of some 100 ns is then below 0.01 %.
const MINIMUM_TICKS: u32 = 2_000_000;

/// Read both counters, the attempt with the least disturbance of several.
fn read_pair() -> Pair {
    let mut best = (u64::MAX, Pair { tsc: 0, apic: 0 });
    for _ in 0..8 {
        let before = cpu::tsc();
        let apic = apic::timer_elapsed();
        let after = cpu::tsc();
        let width = after.saturating_sub(before);
        if width < best.0 {
            best = (width, Pair { tsc: before + width / 2, apic });
        }
    }
    best.1
}

/// Start: the local APIC's timer must be free until [`Calibration::finish`].
pub fn start() -> Calibration {
    if !matches!(&cpu::hypervisor(), b"TCGTCGTCGTCG" | b"KVMKVMKVM\0\0\0") {
        apic::set_ticks_per_ns(measure_apic());
    }
    apic::timer_free_run();
    Calibration(read_pair())
}

impl Calibration {
    /// Set the clock's rate; waits when too little time has passed since the start.
    pub fn finish(self) {
        let start = self.0;
        let end = loop {
            let now = read_pair();
            if now.apic.wrapping_sub(start.apic) >= MINIMUM_TICKS {
                break now;
            }
            core::hint::spin_loop();
        };
        apic::timer_stop();
        let elapsed_ns = apic::ticks_to_ns(u64::from(end.apic.wrapping_sub(start.apic)));
        let counts = end.tsc.saturating_sub(start.tsc).max(1);
        let rate = ((u128::from(elapsed_ns) << 32) / u128::from(counts)) as u64;
        NS_PER_COUNT.store(rate.max(1), Ordering::Relaxed);
    }
}

/// Measure the local APIC's timer against channel 2 of the PIT: ticks a nanosecond, 32.32.
fn measure_apic() -> u64 {
    const PIT_HZ: u64 = 1_193_182;
    const COUNT: u16 = 5_966; // 5 ms
    const GATE_PORT: u16 = 0x61;
    const OUTPUT: u8 = 1 << 5;
    // SAFETY: the PIT's channel 2 drives only the speaker; its gate starts it, its output
    // says when it is done.
    unsafe {
        cpu::outb(GATE_PORT, cpu::inb(GATE_PORT) & !0b11);
        cpu::outb(0x43, 0b1011_0000); // channel 2, both bytes, one-shot
        cpu::outb(0x42, COUNT as u8);
        cpu::outb(0x42, (COUNT >> 8) as u8);
        apic::timer_free_run();
        cpu::outb(GATE_PORT, cpu::inb(GATE_PORT) & !0b10 | 1);
    }
    let before = apic::timer_elapsed();
    // A machine without a PIT never raises the output: give up after plenty of ticks.
    // SAFETY: as above.
    while unsafe { cpu::inb(GATE_PORT) } & OUTPUT == 0 && apic::timer_elapsed() < 100_000_000 {}
    let ticks = u64::from(apic::timer_elapsed() - before);
    let ns = u64::from(COUNT) * 1_000_000_000 / PIT_HZ;
    if ticks >= 90_000_000 { 1 << 32 } else { (ticks << 32) / ns }
}
