//! Virtio devices: finding them, and the drivers for disks and consoles.
//!
//! | module | |
//! |--------|--|
//! | `discovery` | every virtio device of the machine, on PCI or memory-mapped |
//! | `mmio` | where memory-mapped devices are |
//! | `pci` | interrupts and doorbells of a device on PCI |
//! | `link` | what a driver needs of a device's bus besides virtio-drivers' `Transport` |
//! | `ring` | one virtqueue |
//! | [`blk`] | disks |
//! | [`console`] | byte streams |
//!
//! Owns: the devices. Locks: `VIRTQUEUE`, one a queue, and `VIRTIO_CONTROL`, one a device;
//! completions are called with neither held.

pub mod blk;
pub mod console;
mod discovery;
#[cfg(test)]
mod fake;
mod link;
mod mmio;
mod pci;
mod ring;

use holdfast_sync::LockClass;

pub use discovery::{Device, discover};
pub use link::Error;
pub use virtio_drivers::transport::DeviceType;

/// Features of the transport, whatever the device.
mod feature {
    pub(super) const RING_INDIRECT_DESC: u64 = 1 << 28;
    pub(super) const VERSION_1: u64 = 1 << 32;
}

/// A virtqueue and the requests in it. Ranks beside the storage stack's innermost locks:
/// submission happens with those of the page cache held.
pub static VIRTQUEUE: LockClass = LockClass::new("VIRTQUEUE", 97);
/// A device's configuration and status.
pub static VIRTIO_CONTROL: LockClass = LockClass::new("VIRTIO_CONTROL", 98);
