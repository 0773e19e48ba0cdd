//! Leaving QEMU with a status.

use super::cpu;

/// Port of QEMU's `isa-debug-exit` device; QEMU ends with `(value << 1) | 1`.
const DEBUG_EXIT_PORT: u16 = 0xf4;

/// Status of a kernel panic or a stall.
pub const STATUS_PANIC: u8 = 126;
/// Status of an unknown command.
pub const STATUS_NO_COMMAND: u8 = 127;

/// The value for the exit port that stands for a command's status.
///
/// 0 is never used: QEMU itself fails with status 1. Statuses above 123 other than
/// 126 and 127 have no place and become 123.
const fn exit_value(status: u8) -> u32 {
    match status {
        0..=123 => status as u32 + 1,
        STATUS_PANIC => 125,
        STATUS_NO_COMMAND => 126,
        _ => 124,
    }
}

/// End the machine; `status` is the command's, 126 for a panic, 127 for no such command.
pub fn exit(status: u8) -> ! {
    crate::console::flush();
    // SAFETY: nothing runs after this; without the device the write goes nowhere.
    unsafe { cpu::outl(DEBUG_EXIT_PORT, exit_value(status)) };
    cpu::stop()
}
