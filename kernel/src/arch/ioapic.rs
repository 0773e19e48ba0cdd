//! I/O APICs: wired interrupts.

use alloc::vec::Vec;

use crate::mm::Mmio;
use crate::spinlock::SpinLock;

const INDEX: usize = 0x00;
const DATA: usize = 0x10;
const VERSION: u32 = 1;
const TABLE: u32 = 0x10;

/// How a wired interrupt signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// On the rising edge.
    Edge,
    /// While the line is high.
    LevelHigh,
    /// While the line is low.
    LevelLow,
}

struct IoApic {
    registers: Mmio,
    gsi_base: u32,
    pins: u32,
}

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        self.registers.write32(INDEX, register);
        self.registers.read32(DATA)
    }
    fn write(&self, register: u32, value: u32) {
        self.registers.write32(INDEX, register);
        self.registers.write32(DATA, value);
    }
}

static IOAPICS: SpinLock<Vec<IoApic>> = SpinLock::new(Vec::new());

/// Take a controller into use, all its pins masked.
pub fn add(address: u64, gsi_base: u32) {
    const MASKED: u32 = 1 << 16;
    let mut apic = IoApic { registers: Mmio::map(address, 4096), gsi_base, pins: 0 };
    apic.pins = (apic.read(VERSION) >> 16 & 0xff) + 1;
    for pin in 0..apic.pins {
        apic.write(TABLE + pin * 2, MASKED);
    }
    log::debug!("ioapic at {address:#x}: interrupts {gsi_base}..{}", gsi_base + apic.pins);
    IOAPICS.lock().push(apic);
}

/// Deliver global interrupt `gsi` as `vector` to the processor with this APIC id.
/// False when no controller has that interrupt.
pub fn route(gsi: u32, vector: u8, trigger: Trigger, apic_id: u32) -> bool {
    let apics = IOAPICS.lock();
    let Some(apic) = apics.iter().find(|a| (a.gsi_base..a.gsi_base + a.pins).contains(&gsi)) else {
        return false;
    };
    let pin = gsi - apic.gsi_base;
    let mode: u32 = match trigger {
        Trigger::Edge => 0,
        Trigger::LevelHigh => 1 << 15,
        Trigger::LevelLow => 1 << 15 | 1 << 13,
    };
    apic.write(TABLE + pin * 2 + 1, apic_id << 24);
    apic.write(TABLE + pin * 2, mode | u32::from(vector));
    true
}
