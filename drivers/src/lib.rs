//! Drivers for the devices a virtual machine has: discovery, virtio-blk, virtio-console.
//!
//! ```text
//! boot's adapters            map the storage stack's requests to Request, bytes to Console
//!      |
//! virtio::blk, virtio::console    queues, slots, completion threads
//!      |
//! virtio::ring                    virtio-drivers' VirtQueue, behind checked tokens
//!      |
//! virtio::link                    interrupts and doorbells of one device
//!      |            \
//! pci (BARs, MSI-X)  virtio::mmio
//!      |
//! hardware                        the port: DMA memory, MMIO, interrupts, I/O ports
//! ```
//!
//! This crate knows neither the kernel nor the storage stack: what it needs of the
//! machine is the trait [`hardware::Hardware`], what it is asked to transfer is the
//! trait [`virtio::blk::Request`].
//!
//! Nothing read back from a device is trusted: tokens, lengths and indexes are checked
//! against what the driver itself recorded, and a device that breaks the rules is reset
//! and taken out of service.

#![no_std]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod hardware;
pub mod pci;
pub mod virtio;
