//! Memory-mapped virtio devices: where they are, and their interrupts and doorbells.
//!
//! QEMU's microvm names them on the kernel command line; where it was told not to, the
//! places its devices have are probed.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;

use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};

use super::Error;
use super::link::{Doorbell, Link, Signal};
use crate::hardware::{self, Handler};

/// Where QEMU's microvm has its devices: address of the first, bytes of each, how many.
const MICROVM_BASE: u64 = 0xfeb0_0000;
const MICROVM_BYTES: u64 = 512;
const MICROVM_SLOTS: u32 = 24;
/// The first one's global interrupt where there is a second I/O APIC, ...
const MICROVM_GSI: u32 = 24;
/// ... and where there is none: so many devices, from one of these interrupts on, with
/// ACPI and without.
const MICROVM_FEW: u32 = 8;
const MICROVM_FEW_GSI: [u32; 2] = [16, 5];

const QUEUE_NOTIFY: usize = 0x50;
const INTERRUPT_STATUS: usize = 0x60;
const INTERRUPT_ACK: usize = 0x64;
/// In the interrupt status: a queue has news.
const STATUS_QUEUE: u32 = 1;
/// In the interrupt status: the configuration has changed.
const STATUS_CONFIG: u32 = 2;

/// One place where a device may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) address: u64,
    pub(super) bytes: u64,
    pub(super) gsi: u32,
    /// If the machine does not have that one, it is one of these.
    pub(super) otherwise: Option<[u32; 2]>,
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A size as Linux takes it: a number, perhaps with K, M or G.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.chars().last()? {
        'k' | 'K' => (&text[..text.len() - 1], 10),
        'm' | 'M' => (&text[..text.len() - 1], 20),
        'g' | 'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

/// `virtio_mmio.device=SIZE@ADDRESS:INTERRUPT[:ID]`.
fn parse(word: &str) -> Option<Place> {
    let (bytes, rest) = word.strip_prefix("virtio_mmio.device=")?.split_once('@')?;
    let mut parts = rest.split(':');
    let address = number(parts.next()?)?;
    let gsi = u32::try_from(number(parts.next()?)?).ok()?;
    let bytes = size(bytes)?;
    // A header and something of a configuration space, in one place.
    let fits = bytes > 0x100 && bytes <= 1 << 20 && address.checked_add(bytes).is_some();
    (fits && address.is_multiple_of(4)).then_some(Place { address, bytes, gsi, otherwise: None })
}

/// Places named on the command line, or else those of microvm. QEMU plugs its devices in
/// from the last place to the first, so in this order they are as on its command line.
pub(super) fn places(command_line: &str, probe: bool) -> Vec<Place> {
    let mut places: Vec<Place> = command_line.split_whitespace().filter_map(parse).collect();
    if places.is_empty() && probe {
        places.extend((0..MICROVM_SLOTS).map(|i| Place {
            address: MICROVM_BASE + u64::from(i) * MICROVM_BYTES,
            bytes: MICROVM_BYTES,
            gsi: MICROVM_GSI + i,
            otherwise: (i < MICROVM_FEW).then_some(MICROVM_FEW_GSI.map(|gsi| gsi + i)),
        }));
    }
    places.sort_by_key(|p| core::cmp::Reverse(p.address));
    places.dedup();
    places
}

/// Interrupts and doorbells of one memory-mapped device.
pub(super) struct MmioLink {
    registers: NonNull<u8>,
    gsi: u32,
    otherwise: Option<[u32; 2]>,
}

// SAFETY: device registers, mapped for good, which any thread may access.
unsafe impl Send for MmioLink {}

/// A register that an interrupt or any thread may access.
#[derive(Clone, Copy)]
struct Register(NonNull<u32>);

// SAFETY: single volatile accesses to a device register that is mapped for good.
unsafe impl Send for Register {}
// SAFETY: as above.
unsafe impl Sync for Register {}

impl Register {
    fn read(self) -> u32 {
        // SAFETY: see the type.
        unsafe { self.0.read_volatile() }
    }
    fn write(self, value: u32) {
        // SAFETY: see the type.
        unsafe { self.0.write_volatile(value) };
    }
}

impl MmioLink {
    fn register(&self, offset: usize) -> Register {
        // SAFETY: the header is 256 bytes, of which `find` mapped more.
        Register(unsafe { self.registers.add(offset) }.cast())
    }
    fn handler(&self, signals: Vec<Arc<Signal>>) -> Handler {
        let (status, ack) = (self.register(INTERRUPT_STATUS), self.register(INTERRUPT_ACK));
        Box::new(move || {
            let raised = status.read() & (STATUS_QUEUE | STATUS_CONFIG);
            if raised == 0 {
                return;
            }
            // First tell the device, then look at its queues: news in between raises again.
            ack.write(raised);
            if raised & STATUS_QUEUE != 0 {
                signals.iter().for_each(|s| s.raise(Signal::QUEUE));
            }
            if raised & STATUS_CONFIG != 0 {
                signals.iter().take(1).for_each(|s| s.raise(Signal::CONFIG));
            }
        })
    }
}

impl Link for MmioLink {
    fn connect(&mut self, signals: &[Arc<Signal>]) -> Result<(), Error> {
        let route = |gsi| hardware::get().wired_interrupt(gsi, self.handler(signals.to_vec()));
        // A line that is not the device's stays silent.
        let routed =
            route(self.gsi) || self.otherwise.is_some_and(|lines| lines.map(route).contains(&true));
        if routed { Ok(()) } else { Err(Error::Interrupts) }
    }
    fn doorbell(&mut self, queue: u16) -> Result<Doorbell, Error> {
        let register = self.register(QUEUE_NOTIFY);
        Ok(Box::new(move || register.write(u32::from(queue))))
    }
}

/// The device in this place, if there is one.
pub(super) fn find(place: Place) -> Option<(MmioTransport<'static>, MmioLink)> {
    let registers = hardware::registers(place.address, place.bytes as usize)?;
    let header = registers.cast::<VirtIOHeader>();
    // SAFETY: mapped for good, word-aligned, and long enough for the header and more; what is
    // not a virtio device there is told by its first words.
    let transport = unsafe { MmioTransport::new(header, place.bytes as usize) }.ok()?;
    Some((transport, MmioLink { registers, gsi: place.gsi, otherwise: place.otherwise }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_command_line() {
        let line = "log=info virtio_mmio.device=512@0xfeb00e00:12 \
                    virtio_mmio.device=4K@0xfeb02c00:46:7 x";
        let found = places(line, true);
        let expected = [
            Place { address: 0xfeb0_2c00, bytes: 4096, gsi: 46, otherwise: None },
            Place { address: 0xfeb0_0e00, bytes: 512, gsi: 12, otherwise: None },
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn bad_words_are_no_places() {
        for word in [
            "virtio_mmio.device=",
            "virtio_mmio.device=512",
            "virtio_mmio.device=512@0xfeb00000",
            "virtio_mmio.device=512@0xfeb00000:x",
            "virtio_mmio.device=16@0xfeb00000:5",
            "virtio_mmio.device=99999999999G@0xfeb00000:5",
            "virtio_mmio.device=512@0xffffffffffffff00:5",
            "virtio_mmio.device=512@0xfeb00001:5",
            "virtio_mmio.device=é@0xfeb00000:5",
        ] {
            assert_eq!(parse(word), None, "{word}");
        }
        assert_eq!(places("", false), []);
    }

    #[test]
    fn without_words_the_places_of_microvm() {
        let found = places("quiet", true);
        assert_eq!(found.len(), 24);
        let first = Place { address: 0xfeb0_0000, bytes: 512, gsi: 24, otherwise: Some([16, 5]) };
        assert_eq!(found[23], first);
        let last = Place { address: 0xfeb0_2e00, bytes: 512, gsi: 47, otherwise: None };
        assert_eq!(found[0], last);
    }
}
