//! The local APIC.

use core::sync::atomic::{AtomicU64, Ordering};

use super::{cpu, trap};
use crate::mm::Mmio;

const ID: usize = 0x20;
const TASK_PRIORITY: usize = 0x80;
const EOI: usize = 0xb0;
const SPURIOUS: usize = 0xf0;
const COMMAND_LOW: usize = 0x300;
const COMMAND_HIGH: usize = 0x310;
const TIMER_ENTRY: usize = 0x320;
const LINT0_ENTRY: usize = 0x350;
const TIMER_INITIAL: usize = 0x380;
const TIMER_CURRENT: usize = 0x390;
const TIMER_DIVIDE: usize = 0x3e0;

const MASKED: u32 = 1 << 16;
const DIVIDE_BY_1: u32 = 0b1011;
const DELIVERY_NMI: u32 = 0b100 << 8;
const DELIVERY_INIT: u32 = 0b101 << 8;
const DELIVERY_STARTUP: u32 = 0b110 << 8;
const ASSERT: u32 = 1 << 14;
const PENDING: u32 = 1 << 12;

static REGISTERS: spin::Once<Mmio> = spin::Once::new();
/// Timer ticks a nanosecond, as a 32.32 fixed point number.
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(1 << 32);

/// Where the registers are.
pub const DEFAULT_BASE: u64 = 0xfee0_0000;

/// Map the registers. Once, before [`init_cpu`].
pub fn init(base: u64) {
    REGISTERS.call_once(|| Mmio::map(base, 4096));
}

#[inline]
fn registers() -> &'static Mmio {
    // `get` and not `wait`: entry stubs may come here.
    REGISTERS.get().expect("the local APIC is mapped")
}
#[inline]
fn read(register: usize) -> u32 {
    registers().read32(register)
}
#[inline]
fn write(register: usize, value: u32) {
    registers().write32(register, value);
}

/// Switch this processor's APIC on.
pub fn init_cpu() {
    const GLOBAL_ENABLE: u64 = 1 << 11;
    const SOFTWARE_ENABLE: u32 = 1 << 8;
    // SAFETY: the register exists on every x86-64 processor; the base stays.
    unsafe {
        let base = cpu::rdmsr(cpu::MSR_APIC_BASE);
        if base & GLOBAL_ENABLE == 0 {
            cpu::wrmsr(cpu::MSR_APIC_BASE, base | GLOBAL_ENABLE);
        }
    }
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(trap::SPURIOUS));
    write(TASK_PRIORITY, 0);
    write(LINT0_ENTRY, MASKED);
    write(TIMER_DIVIDE, DIVIDE_BY_1);
    write(TIMER_ENTRY, u32::from(trap::TIMER));
}

/// This processor's id.
pub fn id() -> u32 {
    read(ID) >> 24
}

/// The interrupt being handled is done.
#[inline]
pub fn end_of_interrupt() {
    write(EOI, 0);
}

fn command(apic_id: u32, low: u32) {
    let on = cpu::save_interrupts();
    while read(COMMAND_LOW) & PENDING != 0 {
        core::hint::spin_loop();
    }
    write(COMMAND_HIGH, apic_id << 24);
    write(COMMAND_LOW, low);
    cpu::restore_interrupts(on);
}

/// Interrupt another processor (or the own).
pub fn send(apic_id: u32, vector: u8) {
    command(apic_id, ASSERT | u32::from(vector));
}
/// Interrupt another processor even if it has interrupts off.
pub fn send_nmi(apic_id: u32) {
    command(apic_id, ASSERT | DELIVERY_NMI);
}
/// Reset another processor; it then waits for [`send_startup`].
pub fn send_init(apic_id: u32) {
    command(apic_id, ASSERT | DELIVERY_INIT);
}
/// Start a processor that was reset, in real mode at page `page` of the first MiB.
pub fn send_startup(apic_id: u32, page: u8) {
    command(apic_id, ASSERT | DELIVERY_STARTUP | u32::from(page));
}

/// Let the timer count down silently from its maximum, for calibration.
pub fn timer_free_run() {
    write(TIMER_ENTRY, MASKED | u32::from(trap::TIMER));
    write(TIMER_INITIAL, u32::MAX);
}
/// Ticks since [`timer_free_run`].
pub fn timer_elapsed() -> u32 {
    u32::MAX - read(TIMER_CURRENT)
}
/// Stop counting and let the timer interrupt from now on.
pub fn timer_stop() {
    write(TIMER_INITIAL, 0);
    write(TIMER_ENTRY, u32::from(trap::TIMER));
}
/// How fast the timer counts, as a 32.32 fixed point number.
pub fn set_ticks_per_ns(ticks: u64) {
    TICKS_PER_NS.store(ticks, Ordering::Relaxed);
}

/// What this many timer ticks last.
pub fn ticks_to_ns(ticks: u64) -> u64 {
    ((u128::from(ticks) << 32) / u128::from(TICKS_PER_NS.load(Ordering::Relaxed).max(1))) as u64
}

/// One timer interrupt after `delay_ns`, or sooner if that is more than the timer can
/// count; replaces an earlier request.
pub fn timer_arm(delay_ns: u64) {
    let ticks = (u128::from(delay_ns) * u128::from(TICKS_PER_NS.load(Ordering::Relaxed))) >> 32;
    write(TIMER_INITIAL, (ticks.clamp(1, u128::from(u32::MAX))) as u32);
}
