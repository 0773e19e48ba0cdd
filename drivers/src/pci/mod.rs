//! The PCI bus: configuration space, functions, BARs, MSI-X.
//!
//! | module | |
//! |--------|--|
//! | `bars` | where registers of devices lie; firmware may have left that open |
//! | `msix` | the table of message-signalled interrupts |
//!
//! Owns: configuration space during discovery, which one thread does at start-up. No locks.

mod bars;
mod msix;

use alloc::vec::Vec;

use virtio_drivers::transport::pci::bus::{
    Cam, Command, ConfigurationAccess, DeviceFunction, DeviceFunctionInfo, HeaderType, MmioCam,
    PciRoot,
};

pub use bars::{BarWindow, Region};
pub use msix::MsixTable;

use crate::hardware;

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

/// Configuration space through the two I/O ports every PC has.
#[derive(Debug)]
pub struct PortCam;

/// What to write to the address port for this register (in bytes, a multiple of 4).
const fn port_address(function: DeviceFunction, register: u8) -> u32 {
    1 << 31
        | (function.bus as u32) << 16
        | (function.device as u32) << 11
        | (function.function as u32) << 8
        | (register & !3) as u32
}

/// Configuration space, by whichever way the machine has.
pub enum Config {
    /// Memory-mapped.
    Ecam(MmioCam<'static>),
    /// By I/O ports.
    Port(PortCam),
}

impl ConfigurationAccess for Config {
    fn read_word(&self, function: DeviceFunction, register: u8) -> u32 {
        match self {
            Self::Ecam(cam) => cam.read_word(function, register),
            Self::Port(_) => {
                let hardware = hardware::get();
                hardware.port_write(ADDRESS_PORT, port_address(function, register));
                hardware.port_read(DATA_PORT)
            }
        }
    }
    fn write_word(&mut self, function: DeviceFunction, register: u8, data: u32) {
        match self {
            Self::Ecam(cam) => cam.write_word(function, register, data),
            Self::Port(_) => {
                let hardware = hardware::get();
                hardware.port_write(ADDRESS_PORT, port_address(function, register));
                hardware.port_write(DATA_PORT, data);
            }
        }
    }
    unsafe fn unsafe_clone(&self) -> Self {
        match self {
            // SAFETY: the caller only reads read-only fields.
            Self::Ecam(cam) => Self::Ecam(unsafe { cam.unsafe_clone() }),
            Self::Port(_) => Self::Port(PortCam),
        }
    }
}

const HOST_BRIDGE: DeviceFunction = DeviceFunction { bus: 0, device: 0, function: 0 };
/// Intel's Q35 host bridge.
const Q35: u32 = 0x29c0_8086;
/// Its register that says where configuration space is mapped.
const PCIEXBAR: u8 = 0x60;
/// The word with vendor and device; all ones where there is no function.
const VENDOR: u8 = 0;
/// The word with class, subclass, programming interface and revision, from the top.
const CLASS: u8 = 8;
/// The word with the header type in its third byte.
const HEADER_TYPE: u8 = 0x0c;
/// A bridge's word with the bus behind it in its second byte.
const SECONDARY_BUS: u8 = 0x18;

/// Where the Q35 host bridge maps configuration space, from its register: enabled, and all
/// 256 MiB of it.
const fn ecam_base(pciexbar: u32) -> Option<u64> {
    if pciexbar & 0b111 == 0b001 { Some((pciexbar & 0xf000_0000) as u64) } else { None }
}

/// The PCI bus, if the machine has one.
pub struct Bus {
    config: Config,
    /// Virtio-drivers' view of the same configuration space.
    root: PciRoot<Config>,
    window: BarWindow,
    ecam: bool,
}

impl Bus {
    /// Look for the bus.
    pub fn find() -> Option<Self> {
        let port = Config::Port(PortCam);
        let id = port.read_word(HOST_BRIDGE, VENDOR);
        if id == u32::MAX || id == 0 {
            return None;
        }
        let base = if id == Q35 { ecam_base(port.read_word(HOST_BRIDGE, PCIEXBAR)) } else { None };
        let size = Cam::Ecam.size();
        let mapped = base.and_then(|base| Some((base, hardware::registers(base, size as usize)?)));
        let mut window = BarWindow::below_4g();
        let config = match mapped {
            Some((base, virt)) => {
                window.reserve(base, u64::from(size));
                // SAFETY: the host bridge says that configuration space is there; mapped just
                // now for good, and nobody else uses it.
                Config::Ecam(unsafe { MmioCam::new(virt.as_ptr(), Cam::Ecam) })
            }
            None => port,
        };
        // SAFETY: both views belong to this struct, and writing through either takes it
        // exclusively.
        let view = unsafe { config.unsafe_clone() };
        Some(Self { config, root: PciRoot::new(view), window, ecam: mapped.is_some() })
    }
    /// Is configuration space memory-mapped?
    pub fn is_ecam(&self) -> bool {
        self.ecam
    }
    /// Every function on bus 0 and on the buses behind bridges that the firmware configured.
    pub fn functions(&self) -> Vec<(DeviceFunction, DeviceFunctionInfo)> {
        let mut found = Vec::new();
        let mut seen = [false; 256];
        let mut buses: Vec<u8> = alloc::vec![0];
        while let Some(bus) = buses.pop() {
            if core::mem::replace(&mut seen[usize::from(bus)], true) {
                continue;
            }
            for function in self.present(bus) {
                let info = self.info(function);
                if info.header_type == HeaderType::PciPciBridge {
                    let secondary = (self.read(function, SECONDARY_BUS) >> 8) as u8;
                    if secondary > bus {
                        buses.push(secondary);
                    }
                }
                found.push((function, info));
            }
        }
        found.sort_by_key(|(function, _)| *function);
        found
    }
    /// The functions on one bus. Looks at functions above 0 only where there can be some: each
    /// look leaves the virtual machine.
    fn present(&self, bus: u8) -> Vec<DeviceFunction> {
        let mut present = Vec::new();
        for device in 0..32 {
            let first = DeviceFunction { bus, device, function: 0 };
            if self.read(first, VENDOR) == u32::MAX {
                continue;
            }
            present.push(first);
            if self.read(first, HEADER_TYPE) >> 23 & 1 == 1 {
                let others = (1..8).map(|function| DeviceFunction { function, ..first });
                present.extend(others.filter(|&f| self.read(f, VENDOR) != u32::MAX));
            }
        }
        present
    }
    fn info(&self, function: DeviceFunction) -> DeviceFunctionInfo {
        let (ids, class) = (self.read(function, VENDOR), self.read(function, CLASS));
        DeviceFunctionInfo {
            vendor_id: ids as u16,
            device_id: (ids >> 16) as u16,
            class: (class >> 24) as u8,
            subclass: (class >> 16) as u8,
            prog_if: (class >> 8) as u8,
            revision: class as u8,
            header_type: ((self.read(function, HEADER_TYPE) >> 16) as u8 & 0x7f).into(),
        }
    }
    pub(crate) fn read(&self, function: DeviceFunction, register: u8) -> u32 {
        self.config.read_word(function, register)
    }
    /// Virtio-drivers' view of the bus.
    pub(crate) fn root(&mut self) -> &mut PciRoot<Config> {
        &mut self.root
    }
    /// Let the device answer at no memory BAR.
    pub(crate) fn disable_memory(&mut self, function: DeviceFunction) {
        let (_, command) = self.root.get_status_command(function);
        if command.contains(Command::MEMORY_SPACE) {
            self.root.set_command(function, command - Command::MEMORY_SPACE);
        }
    }
    /// Let the device answer at its BARs, read and write memory, and send messages.
    pub(crate) fn enable(&mut self, function: DeviceFunction) {
        let (_, command) = self.root.get_status_command(function);
        let wanted = Command::MEMORY_SPACE | Command::BUS_MASTER | Command::INTERRUPT_DISABLE;
        self.root.set_command(function, command | wanted);
    }
    /// Offsets of the function's capabilities with this id.
    pub(crate) fn capabilities(&self, function: DeviceFunction, id: u8) -> Vec<u8> {
        // A list that bites its own tail ends after as many entries as fit.
        let list = self.root.capabilities(function).take(48);
        list.filter(|c| c.id == id).map(|c| c.offset).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_addresses() {
        let function = DeviceFunction { bus: 1, device: 31, function: 7 };
        assert_eq!(port_address(function, 0x13), 0x8001_ff10);
        assert_eq!(port_address(HOST_BRIDGE, 0x60), 0x8000_0060);
    }

    #[test]
    fn ecam_only_when_enabled_and_whole() {
        assert_eq!(ecam_base(0xb000_0001), Some(0xb000_0000));
        assert_eq!(ecam_base(0xb000_0000), None);
        assert_eq!(ecam_base(0xb000_0003), None, "128 MiB");
    }
}
