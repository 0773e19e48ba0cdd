//! Which processors and interrupt controllers there are, from ACPI's MADT and MCFG.
//!
//! Reads untrusted tables in physical memory: lengths and checksums are checked, and a
//! table that does not hold together is as good as none. Tables are read while the boot
//! page tables map the first 4 GiB, before any frame is handed out.

use crate::MAX_CPUS;
use crate::arch::apic;
use crate::mm::direct;

/// What boots map; tables beyond are not looked at.
const MAPPED: u64 = 4 << 30;
const HEADER: usize = 36;
const LONGEST_TABLE: usize = 1 << 20;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApicInfo {
    /// Its registers.
    pub address: u64,
    /// The first global interrupt it has.
    pub gsi_base: u32,
}

/// A window of PCI configuration space in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Where bus 0 of the segment would lie.
    pub address: u64,
    /// First bus.
    pub first_bus: u8,
    /// Last bus.
    pub last_bus: u8,
}

/// The machine's shape.
#[derive(Debug)]
pub struct Machine {
    /// Local APIC registers.
    pub apic_address: u64,
    /// Ids of the processors' local APICs, the boot processor's first.
    pub cpus: [u32; MAX_CPUS],
    /// How many of them.
    pub cpu_count: usize,
    /// I/O APICs.
    pub ioapics: [Option<IoApicInfo>; 8],
    /// PCI configuration windows.
    pub ecam: [Option<Ecam>; 4],
    /// Where this was learnt.
    pub source: &'static str,
}

impl Machine {
    /// What every PC has.
    fn fallback(boot_apic_id: u32) -> Self {
        let mut cpus = [0; MAX_CPUS];
        cpus[0] = boot_apic_id;
        Self {
            apic_address: apic::DEFAULT_BASE,
            cpus,
            cpu_count: 1,
            ioapics: [None; 8],
            ecam: [None; 4],
            source: "defaults",
        }
    }
    fn add_cpu(&mut self, id: u32) {
        let known = &self.cpus[..self.cpu_count];
        if self.cpu_count < MAX_CPUS && id < 255 && !known.contains(&id) {
            self.cpus[self.cpu_count] = id;
            self.cpu_count += 1;
        }
    }
}

fn put<T>(slots: &mut [Option<T>], value: T) {
    if let Some(slot) = slots.iter_mut().find(|s| s.is_none()) {
        *slot = Some(value);
    }
}

/// Physical memory as bytes; nothing beyond what is mapped.
fn bytes(address: u64, len: usize) -> Option<&'static [u8]> {
    if address == 0 || address.checked_add(len as u64)? > MAPPED {
        return None;
    }
    // SAFETY: mapped by the boot tables; firmware tables do not change.
    Some(unsafe { core::slice::from_raw_parts(direct(address), len) })
}
fn u32_at(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(b.get(at..at + 4)?.try_into().ok()?))
}
fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}
fn sums_to_zero(b: &[u8]) -> bool {
    b.iter().fold(0u8, |sum, &x| sum.wrapping_add(x)) == 0
}

/// A whole table at this address, its checksum right.
fn table(address: u64) -> Option<&'static [u8]> {
    let len = u32_at(bytes(address, HEADER)?, 4)? as usize;
    if !(HEADER..=LONGEST_TABLE).contains(&len) {
        return None;
    }
    bytes(address, len).filter(|t| sums_to_zero(t))
}

/// Look for the root pointer where a BIOS leaves it.
fn find_rsdp() -> Option<u64> {
    let ebda = u64::from(u16::from_le_bytes(bytes(0x40e, 2)?.try_into().ok()?)) << 4;
    [(ebda, 1024), (0xe_0000, 0x2_0000)]
        .into_iter()
        .filter(|&(start, _)| (0x8_0000..0x10_0000).contains(&start))
        .flat_map(|(start, len)| (start..start + len).step_by(16))
        .find(|&at| is_rsdp(at))
}
fn is_rsdp(at: u64) -> bool {
    bytes(at, 20).is_some_and(|b| b.starts_with(b"RSD PTR ") && sums_to_zero(b))
}

/// Visit the tables the root pointer leads to.
fn for_each_table(rsdp: u64, mut visit: impl FnMut(&'static [u8])) -> Option<()> {
    let root = bytes(rsdp, 20)?;
    let xsdt = (root[15] >= 2).then(|| u64_at(bytes(rsdp, 36)?, 24)).flatten();
    let (list, wide) = match xsdt.and_then(table) {
        Some(t) => (t, true),
        None => (table(u64::from(u32_at(root, 16)?))?, false),
    };
    for entry in list[HEADER..].chunks_exact(if wide { 8 } else { 4 }) {
        let address = if wide { u64_at(entry, 0)? } else { u64::from(u32_at(entry, 0)?) };
        if let Some(table) = table(address) {
            visit(table);
        }
    }
    Some(())
}

fn read_madt(machine: &mut Machine, madt: &[u8]) -> Option<()> {
    const LOCAL_APIC: u8 = 0;
    const IO_APIC: u8 = 1;
    const ENABLED: u32 = 1;
    machine.apic_address = u64::from(u32_at(madt, HEADER)?);
    let mut at = HEADER + 8;
    while let (Some(&kind), Some(&len)) = (madt.get(at), madt.get(at + 1)) {
        let entry = madt.get(at..at + (len as usize).max(2))?;
        match kind {
            LOCAL_APIC if len >= 8 && u32_at(entry, 4)? & ENABLED != 0 => {
                machine.add_cpu(u32::from(entry[3]));
            }
            IO_APIC if len >= 12 => put(
                &mut machine.ioapics,
                IoApicInfo { address: u64::from(u32_at(entry, 4)?), gsi_base: u32_at(entry, 8)? },
            ),
            _ => {}
        }
        at += entry.len();
    }
    Some(())
}

fn read_mcfg(machine: &mut Machine, mcfg: &[u8]) {
    let entries = mcfg.get(HEADER + 8..).unwrap_or_default().chunks_exact(16);
    for e in entries.filter(|e| e[8] == 0 && e[9] == 0) {
        let address = u64_at(e, 0).unwrap_or(0);
        put(&mut machine.ecam, Ecam { address, first_bus: e[10], last_bus: e[11] });
    }
}

/// Learn the machine's shape; `rsdp` is the root pointer's address, or 0 if unknown.
///
/// Without tables the number of processors comes from QEMU's firmware configuration
/// device, and the rest is what every PC has.
pub fn discover(rsdp: u64) -> Machine {
    let mut machine = Machine::fallback(crate::arch::cpu::apic_id());
    let rsdp = Some(rsdp).filter(|&r| r != 0 && is_rsdp(r)).or_else(find_rsdp);
    if let Some(rsdp) = rsdp {
        for_each_table(rsdp, |table| match &table[..4] {
            b"APIC" => {
                read_madt(&mut machine, table);
                machine.source = "ACPI";
            }
            b"MCFG" => read_mcfg(&mut machine, table),
            _ => {}
        });
    }
    if machine.source != "ACPI"
        && let Some(count) = firmware_cpu_count()
    {
        (0..u32::from(count)).for_each(|id| machine.add_cpu(id));
        machine.source = "fw_cfg";
    }
    if machine.ioapics[0].is_none() {
        machine.ioapics[0] = Some(IoApicInfo { address: 0xfec0_0000, gsi_base: 0 });
    }
    machine
}

/// The number of processors, from QEMU's firmware configuration device.
fn firmware_cpu_count() -> Option<u16> {
    const SELECT: u16 = 0x510;
    const DATA: u16 = 0x511;
    const SIGNATURE: u16 = 0x00;
    const NB_CPUS: u16 = 0x05;
    // SAFETY: without the device the ports read as ones.
    let read = |item: u16, out: &mut [u8]| unsafe {
        crate::arch::cpu::outw(SELECT, item);
        out.iter_mut().for_each(|b| *b = crate::arch::cpu::inb(DATA));
    };
    let mut signature = [0; 4];
    read(SIGNATURE, &mut signature);
    let mut count = [0; 2];
    read(NB_CPUS, &mut count);
    (&signature == b"QEMU").then_some(u16::from_le_bytes(count))
}
