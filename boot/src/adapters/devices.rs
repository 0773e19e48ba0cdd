//! Finding the machine's devices and taking them into service.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_drivers::hardware;
use holdfast_drivers::virtio::{DeviceType, console, discover};
use holdfast_fs::block::BlockDevice;

use super::block::VirtioDisk;
use super::console::ConsoleStream;
use super::hardware::KernelHardware;

/// What the machine has.
#[derive(Default)]
pub struct Devices {
    /// The disks, in the order of QEMU's command line: vda, vdb, ...
    pub disks: Vec<Arc<dyn BlockDevice>>,
    /// The first virtio console.
    pub console: Option<Arc<ConsoleStream>>,
}

/// The name of disk `index`: vda to vdz, vdaa, ...
fn disk_name(index: usize) -> String {
    let letter = |i: usize| char::from(b'a' + (i % 26) as u8);
    match index / 26 {
        0 => format!("vd{}", letter(index)),
        high => format!("vd{}{}", letter(high - 1), letter(index)),
    }
}

/// The word that tells that the console is connected to a terminal.
const TERMINAL: &str = "shell=terminal";

/// Find every device and take it into service. Once, when threads and interrupts run.
pub fn find(command_line: &str) -> Devices {
    hardware::set(&KernelHardware);
    let mut devices = Devices::default();
    for device in discover(command_line) {
        let location = String::from(device.location());
        let failed = match device.kind() {
            DeviceType::Block => {
                let name = disk_name(devices.disks.len());
                VirtioDisk::new(device, &name).map(|disk| {
                    let info = disk.info();
                    log::info!(
                        "{name}: {} MiB at {location}, {} queues, depth {}{}",
                        info.capacity_sectors >> 11,
                        info.queues,
                        info.queue_depth,
                        if info.readonly { ", read-only" } else { "" },
                    );
                    devices.disks.push(Arc::new(disk));
                })
            }
            DeviceType::Console if devices.console.is_none() => {
                let terminal = command_line.split_ascii_whitespace().any(|w| w == TERMINAL);
                console::start(device).map(|ports| {
                    devices.console = ConsoleStream::new(ports, terminal).map(Arc::new);
                })
            }
            _ => Ok(()),
        };
        if let Err(e) = failed {
            log::warn!("the device at {location} is left out: {e}");
        }
    }
    devices
}
