//! Instructions as functions.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, _rdtsc};

/// Interrupts are enabled (RFLAGS.IF).
pub const RFLAGS_IF: u64 = 1 << 9;
/// APIC base address and enable.
pub const MSR_APIC_BASE: u32 = 0x1b;
/// Base of `gs`.
pub const MSR_GS_BASE: u32 = 0xc000_0101;

/// The time stamp counter.
#[inline]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is always allowed in ring 0 and has no side effect.
    unsafe { _rdtsc() }
}

/// The initial APIC id of the executing processor.
pub fn apic_id() -> u32 {
    __cpuid(1).ebx >> 24
}

/// The hypervisor's name from CPUID, or zeros.
pub fn hypervisor() -> [u8; 12] {
    let mut name = [0; 12];
    if __cpuid(1).ecx & (1 << 31) != 0 {
        let leaf = __cpuid(0x4000_0000);
        for (i, word) in [leaf.ebx, leaf.ecx, leaf.edx].into_iter().enumerate() {
            name[i * 4..i * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
    }
    name
}

/// A hardware random number, when the processor has them.
pub fn rdrand() -> Option<u64> {
    if __cpuid(1).ecx & (1 << 30) == 0 {
        return None;
    }
    for _ in 0..10 {
        let (value, ok): (u64, u8);
        // SAFETY: CPUID says the instruction exists.
        unsafe { asm!("rdrand {0}", "setc {1}", out(reg) value, out(reg_byte) ok) };
        if ok != 0 {
            return Some(value);
        }
    }
    None
}

/// Read a model specific register.
///
/// # Safety
/// The register must exist.
pub unsafe fn rdmsr(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: the caller's promise.
    unsafe { asm!("rdmsr", in("ecx") register, out("eax") low, out("edx") high, options(nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Write a model specific register.
///
/// # Safety
/// The register must exist and the value must keep the kernel running.
pub unsafe fn wrmsr(register: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack));
    }
}

/// The physical address of the top page table, with its flag bits.
#[inline]
pub fn read_cr3() -> u64 {
    let value: u64;
    // SAFETY: reading CR3 has no side effect.
    unsafe { asm!("mov {}, cr3", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Load a top page table; forgets cached translations.
///
/// # Safety
/// It must map the kernel.
#[inline]
pub unsafe fn write_cr3(value: u64) {
    // SAFETY: the caller's promise.
    unsafe { asm!("mov cr3, {}", in(reg) value, options(nostack, preserves_flags)) };
}

/// The address of the last page fault.
#[inline]
pub fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: reading CR2 has no side effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nomem, nostack, preserves_flags)) };
    value
}

/// Forget the cached translation of one page.
#[inline]
pub fn invlpg(address: u64) {
    // SAFETY: dropping a translation only costs time.
    unsafe { asm!("invlpg [{}]", in(reg) address, options(nostack, preserves_flags)) };
}

/// Forget every cached translation, global ones included.
pub fn flush_global() {
    const GLOBAL_PAGES: u64 = 1 << 7;
    // SAFETY: switching global pages off and on again only drops translations.
    unsafe {
        let cr4: u64;
        asm!("mov {}, cr4", out(reg) cr4, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4 & !GLOBAL_PAGES, options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4, options(nostack, preserves_flags));
    }
}

/// Are interrupts enabled?
#[inline]
pub fn interrupts_enabled() -> bool {
    let flags: u64;
    // SAFETY: pushes and pops one word.
    unsafe { asm!("pushfq", "pop {}", out(reg) flags, options(nomem, preserves_flags)) };
    flags & RFLAGS_IF != 0
}

/// Enable interrupts.
#[inline]
pub fn enable_interrupts() {
    // SAFETY: no `nomem`, so nothing moves across.
    unsafe { asm!("sti", options(nostack)) };
}

/// Disable interrupts.
#[inline]
pub fn disable_interrupts() {
    // SAFETY: no `nomem`, so nothing moves across.
    unsafe { asm!("cli", options(nostack)) };
}

/// Disable interrupts; were they enabled?
#[inline]
#[must_use = "restore them"]
pub fn save_interrupts() -> bool {
    let on = interrupts_enabled();
    disable_interrupts();
    on
}

/// Enable interrupts again if they were.
#[inline]
pub fn restore_interrupts(were_enabled: bool) {
    if were_enabled {
        enable_interrupts();
    }
}

/// Enable interrupts and halt until one comes, with no gap between.
#[inline]
pub fn enable_and_halt() {
    // SAFETY: STI takes effect after the next instruction, so no wake-up is lost.
    unsafe { asm!("sti", "hlt", options(nostack)) };
}

/// Halt for ever.
pub fn stop() -> ! {
    loop {
        // SAFETY: nothing on this processor runs any more.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    }
}

macro_rules! port {
    ($read:ident, $write:ident, $type:ty, $reg:tt) => {
        /// Read an I/O port.
        ///
        /// # Safety
        /// Reading the port must be harmless to memory and to the machine.
        #[inline]
        pub unsafe fn $read(port: u16) -> $type {
            let value: $type;
            // SAFETY: the caller's promise.
            unsafe {
                asm!(concat!("in ", $reg, ", dx"), in("dx") port, out($reg) value,
                    options(nostack, preserves_flags));
            }
            value
        }
        /// Write an I/O port.
        ///
        /// # Safety
        /// The write must be harmless to memory and to the machine.
        #[inline]
        pub unsafe fn $write(port: u16, value: $type) {
            // SAFETY: the caller's promise.
            unsafe {
                asm!(concat!("out dx, ", $reg), in("dx") port, in($reg) value,
                    options(nostack, preserves_flags));
            }
        }
    };
}
port!(inb, outb, u8, "al");
port!(inw, outw, u16, "ax");
port!(inl, outl, u32, "eax");
