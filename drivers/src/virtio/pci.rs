//! A virtio device on PCI: MSI-X vectors for its queues, doorbells, both past
//! virtio-drivers, which has no MSI-X and whose notification takes three accesses.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ptr::NonNull;

use virtio_drivers::transport::pci::PciTransport;
use virtio_drivers::transport::pci::bus::{DeviceFunction, PCI_CAP_ID_VNDR};

use super::Error;
use super::link::{Doorbell, Link, Signal};
use crate::hardware::{self, Handler, VirtioHal};
use crate::pci::{Bus, MsixTable, Region};

/// BARs up to this size are mapped whole.
const LARGEST_BAR: u64 = 1 << 20;

/// Kinds of virtio's capabilities.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;

// Offsets in the common configuration (virtio 1.2, 4.1.4.3).
const CONFIG_VECTOR: usize = 16;
const QUEUE_SELECT: usize = 22;
const QUEUE_VECTOR: usize = 26;
const QUEUE_NOTIFY_OFF: usize = 30;
const COMMON_BYTES: u64 = 56;

/// Where a capability says that a structure lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Structure {
    bar: u8,
    offset: u32,
    length: u32,
}

impl Structure {
    /// Its physical address, if it lies inside its BAR and has at least so many bytes.
    fn address(self, bars: &[Option<Region>; 6], least: u64) -> Option<u64> {
        let region = (*bars.get(usize::from(self.bar))?)?;
        let length = u64::from(self.length);
        let end = u64::from(self.offset) + length;
        (end <= region.size && length >= least).then_some(region.address + u64::from(self.offset))
    }
}

/// Interrupts and doorbells of one device on PCI.
pub(super) struct PciLink {
    table: MsixTable,
    common: NonNull<u8>,
    notify: NonNull<u8>,
    notify_bytes: usize,
    notify_multiplier: usize,
}

// SAFETY: device registers, mapped for good, which any thread may access.
unsafe impl Send for PciLink {}

/// A doorbell register.
struct Bell(NonNull<u16>);

// SAFETY: single volatile stores to a device register that is mapped for good.
unsafe impl Send for Bell {}
// SAFETY: as above.
unsafe impl Sync for Bell {}

impl Bell {
    fn ring(&self, queue: u16) {
        // SAFETY: see the type.
        unsafe { self.0.write_volatile(queue) };
    }
}

/// The vector that queue `index` of `queues` gets, of a device with so many vectors. The
/// first is for changes of the configuration, unless it is the only one.
const fn vector_of(index: u16, vectors: u16) -> u16 {
    if vectors == 1 { 0 } else { 1 + index % (vectors - 1) }
}

impl PciLink {
    fn read_common(&self, offset: usize) -> u16 {
        // SAFETY: inside the common configuration, whose length `find` checked.
        unsafe { self.common.add(offset).cast::<u16>().read_volatile() }
    }
    fn write_common(&mut self, offset: usize, value: u16) {
        // SAFETY: as above.
        unsafe { self.common.add(offset).cast::<u16>().write_volatile(value) };
    }
    /// Assign a vector; the device reads back another value when it cannot.
    fn assign(&mut self, register: usize, vector: u16) -> Result<(), Error> {
        self.write_common(register, vector);
        if self.read_common(register) == vector { Ok(()) } else { Err(Error::Interrupts) }
    }
}

impl Link for PciLink {
    fn connect(&mut self, signals: &[Arc<Signal>]) -> Result<(), Error> {
        let vectors = self.table.vectors().min(signals.len() as u16 + 1);
        let cpus = holdfast_sync::thread::cpu_count();
        for vector in 0..vectors {
            let queues = (0..).zip(signals).filter(|(i, _)| vector_of(*i, vectors) == vector);
            let queues: Box<[Arc<Signal>]> = queues.map(|(_, s)| s.clone()).collect();
            let config = if vector == 0 { signals.first().cloned() } else { None };
            let handler: Handler = Box::new(move || {
                queues.iter().for_each(|s| s.raise(Signal::QUEUE));
                config.iter().for_each(|s| s.raise(Signal::CONFIG));
            });
            // Queue i serves processor i, so its interrupt goes there.
            let cpu = usize::from(vector.saturating_sub(1)) % cpus;
            let message = hardware::get().message_interrupt(cpu, handler);
            self.table.set(vector, message.ok_or(Error::Interrupts)?);
        }
        self.assign(CONFIG_VECTOR, 0)?;
        for index in 0..signals.len() as u16 {
            self.write_common(QUEUE_SELECT, index);
            self.assign(QUEUE_VECTOR, vector_of(index, vectors))?;
        }
        Ok(())
    }
    fn doorbell(&mut self, queue: u16) -> Result<Doorbell, Error> {
        self.write_common(QUEUE_SELECT, queue);
        let offset = usize::from(self.read_common(QUEUE_NOTIFY_OFF)) * self.notify_multiplier;
        if offset + 2 > self.notify_bytes || !offset.is_multiple_of(2) {
            return Err(Error::Configuration("a doorbell outside its region"));
        }
        // SAFETY: inside the notification region, as just checked.
        let bell = Bell(unsafe { self.notify.add(offset) }.cast());
        Ok(Box::new(move || bell.ring(queue)))
    }
}

fn structure(bus: &Bus, function: DeviceFunction, kind: u8) -> Option<(u8, Structure)> {
    let capabilities = bus.capabilities(function, PCI_CAP_ID_VNDR);
    let at = capabilities.into_iter().find(|&at| {
        let header = bus.read(function, at);
        (header >> 24) as u8 == kind && (header >> 16) as u8 >= 16
    })?;
    let structure = Structure {
        bar: bus.read(function, at + 4) as u8,
        offset: bus.read(function, at + 8),
        length: bus.read(function, at + 12),
    };
    Some((at, structure))
}

/// Take a virtio device on PCI into use: its BARs, its MSI-X table, its registers.
pub(super) fn find(
    bus: &mut Bus,
    function: DeviceFunction,
) -> Result<(PciTransport, PciLink), Error> {
    // Every change of what the machine decodes costs milliseconds, and virtio-drivers switches
    // decoding off and on to look at a BAR: so it looks while decoding is off anyway.
    bus.disable_memory(function);
    let bars = bus.settle_bars(function);
    // Whole BARs, so that the structures inside are not mapped one by one.
    for region in bars.iter().flatten().filter(|r| r.size <= LARGEST_BAR) {
        hardware::registers(region.address, region.size as usize).ok_or(Error::Registers)?;
    }
    let (_, common) = structure(bus, function, COMMON).ok_or(Error::Registers)?;
    let (at, notify) = structure(bus, function, NOTIFY).ok_or(Error::Registers)?;
    let notify_multiplier = bus.read(function, at + 16) as usize;
    let map = |structure: Structure, least: u64| {
        let address = structure.address(&bars, least).ok_or(Error::Registers)?;
        let bytes = structure.length as usize;
        hardware::registers(address, bytes).ok_or(Error::Registers)
    };
    let common = map(common, COMMON_BYTES)?;
    let notify_bytes = notify.length as usize;
    let notify = map(notify, 2)?;
    let transport =
        PciTransport::new::<VirtioHal, _>(bus.root(), function).map_err(|_| Error::Registers)?;
    bus.enable(function);
    let table = bus.enable_msix(function, &bars).ok_or(Error::Interrupts)?;
    Ok((transport, PciLink { table, common, notify, notify_bytes, notify_multiplier }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_lie_inside_their_bar() {
        let structure = Structure { bar: 4, offset: 0x3000, length: 0x1000 };
        let mut bars = [None; 6];
        assert_eq!(structure.address(&bars, 2), None);
        bars[4] = Some(Region { address: 0xe000_0000, size: 0x3fff });
        assert_eq!(structure.address(&bars, 2), None);
        bars[4] = Some(Region { address: 0xe000_0000, size: 0x4000 });
        assert_eq!(structure.address(&bars, 2), Some(0xe000_3000));
        assert_eq!(structure.address(&bars, 0x1001), None);
        let wild = Structure { offset: u32::MAX, length: u32::MAX, ..structure };
        assert_eq!(wild.address(&bars, 2), None);
        assert_eq!(Structure { bar: 200, ..structure }.address(&bars, 2), None);
    }

    #[test]
    fn vectors_are_shared_when_there_are_few() {
        let of = |vectors| [0, 1, 2, 3].map(|i| vector_of(i, vectors));
        assert_eq!(of(5), [1, 2, 3, 4]);
        assert_eq!(of(3), [1, 2, 1, 2]);
        assert_eq!(of(2), [1, 1, 1, 1]);
        assert_eq!(of(1), [0, 0, 0, 0]);
    }
}
