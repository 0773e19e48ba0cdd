//! Finding every virtio device of the machine.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use virtio_drivers::transport::pci::virtio_device_type;
use virtio_drivers::transport::{DeviceType, SomeTransport, Transport};

use super::link::Link;
use super::{mmio, pci};
use crate::pci::Bus;

/// A device that was found and is in nobody's service yet.
pub struct Device {
    kind: DeviceType,
    location: String,
    transport: SomeTransport<'static>,
    link: Box<dyn Link>,
}

impl Device {
    /// What it is.
    pub const fn kind(&self) -> DeviceType {
        self.kind
    }
    /// Where it is, for messages.
    pub fn location(&self) -> &str {
        &self.location
    }
    pub(super) fn into_parts(self) -> (SomeTransport<'static>, Box<dyn Link>) {
        (self.transport, self.link)
    }
}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "virtio {:?} at {}", self.kind, self.location)
    }
}

/// Every virtio device, in the order of QEMU's command line: those on PCI by their
/// address, or the memory-mapped ones. `command_line` is the kernel's.
///
/// Called once, by one thread, when interrupts can be taken.
pub fn discover(command_line: &str) -> Vec<Device> {
    let bus = Bus::find();
    // Where there is PCI, anything may lie where microvm has its devices.
    let places = mmio::places(command_line, bus.is_none());
    let mut devices = bus.map(on_pci).unwrap_or_default();
    for place in places {
        let Some((transport, link)) = mmio::find(place) else { continue };
        devices.push(Device {
            kind: transport.device_type(),
            location: format!("mmio {:#x}", place.address),
            transport: transport.into(),
            link: Box::new(link),
        });
    }
    for device in &devices {
        log::debug!("found {device:?}");
    }
    devices
}

fn on_pci(mut bus: Bus) -> Vec<Device> {
    let way = if bus.is_ecam() { "ECAM" } else { "I/O ports" };
    log::debug!("pci: configuration space by {way}");
    let mut devices = Vec::new();
    for (function, info) in bus.functions() {
        log::debug!("pci {function}: {info}");
        let Some(kind) = virtio_device_type(&info) else { continue };
        match pci::find(&mut bus, function) {
            Ok((transport, link)) => devices.push(Device {
                kind,
                location: format!("pci {function}"),
                transport: transport.into(),
                link: Box::new(link),
            }),
            Err(e) => log::warn!("pci {function}: virtio {kind:?} is left out: {e}"),
        }
    }
    devices
}
