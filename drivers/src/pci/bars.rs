//! Base address registers: where the registers of devices lie in memory.
//!
//! SeaBIOS assigns them; qboot leaves them at zero, so we assign what is still open.

use alloc::vec::Vec;

use virtio_drivers::transport::pci::bus::DeviceFunction;

use super::Bus;

/// One memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Physical address.
    pub address: u64,
    /// Bytes.
    pub size: u64,
}

/// Addresses for BARs that firmware left open.
#[derive(Debug)]
pub struct BarWindow {
    next: u64,
    end: u64,
    /// Start and end of what others use.
    reserved: Vec<(u64, u64)>,
    surveyed: bool,
}

impl BarWindow {
    /// The part of the PCI hole that ends below the interrupt controllers, and starts above
    /// all memory and configuration space of the machines we know.
    pub const fn below_4g() -> Self {
        Self::new(0xe000_0000, 0xfe00_0000)
    }
    const fn new(next: u64, end: u64) -> Self {
        Self { next, end, reserved: Vec::new(), surveyed: false }
    }
    /// Keep off these addresses.
    pub fn reserve(&mut self, address: u64, size: u64) {
        self.reserved.push((address, address.saturating_add(size)));
    }
    /// Addresses for a BAR of this size (a power of two), aligned to it.
    pub fn allocate(&mut self, size: u64) -> Option<u64> {
        if !size.is_power_of_two() {
            return None;
        }
        let mut address = self.next;
        loop {
            address = address.checked_next_multiple_of(size)?;
            let end = address.checked_add(size)?;
            if end > self.end {
                return None;
            }
            match self.reserved.iter().find(|r| r.0 < end && address < r.1) {
                Some(taken) => address = taken.1,
                None => {
                    self.next = end;
                    return Some(address);
                }
            }
        }
    }
}

impl Bus {
    /// The memory BARs of a function; those without an address get one.
    pub(crate) fn settle_bars(&mut self, function: DeviceFunction) -> [Option<Region>; 6] {
        let mut regions = [None; 6];
        let Ok(bars) = self.root.bars(function) else { return regions };
        for (index, bar) in bars.iter().enumerate() {
            let Some(bar) = bar else { continue };
            let Some((mut address, size)) = bar.memory_address_size() else { continue };
            if size == 0 {
                continue;
            }
            if address == 0 {
                self.survey();
                let Some(free) = self.window.allocate(size) else {
                    log::warn!("pci {function}: no room for BAR {index} of {size:#x} bytes");
                    continue;
                };
                if bar.takes_two_entries() {
                    self.root.set_bar_64(function, index as u8, free);
                } else {
                    self.root.set_bar_32(function, index as u8, free as u32);
                }
                address = free;
            }
            regions[index] = Some(Region { address, size });
        }
        regions
    }
    /// Before the first address is given: note those that firmware gave.
    fn survey(&mut self) {
        if core::mem::replace(&mut self.window.surveyed, true) {
            return;
        }
        for (function, info) in self.functions() {
            use virtio_drivers::transport::pci::bus::HeaderType;
            if info.header_type != HeaderType::Standard {
                continue;
            }
            let Ok(bars) = self.root.bars(function) else { continue };
            for bar in bars.iter().flatten() {
                match bar.memory_address_size() {
                    Some((address, size)) if address != 0 => self.window.reserve(address, size),
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_aligned_disjoint_and_inside() {
        let mut window = BarWindow::new(0x1000_0800, 0x1002_0000);
        assert_eq!(window.allocate(0x1000), Some(0x1000_1000));
        assert_eq!(window.allocate(0x4000), Some(0x1000_4000));
        assert_eq!(window.allocate(0x10), Some(0x1000_8000));
        assert_eq!(window.allocate(0x1_0000), Some(0x1001_0000));
        assert_eq!(window.allocate(0x10), None);
    }

    #[test]
    fn addresses_keep_off_what_is_taken() {
        let mut window = BarWindow::new(0x1000, 0x10000);
        window.reserve(0x2800, 0x100);
        window.reserve(0x1000, 0x800);
        window.reserve(0x3000, 0x1000);
        assert_eq!(window.allocate(0x1000), Some(0x4000));
        let mut full = BarWindow::new(0x1000, 0x3000);
        full.reserve(0, u64::MAX);
        assert_eq!(full.allocate(0x1000), None);
    }

    #[test]
    fn nonsense_sizes_get_nothing() {
        let mut window = BarWindow::below_4g();
        assert_eq!(window.allocate(0), None);
        assert_eq!(window.allocate(3), None);
        assert_eq!(window.allocate(1 << 63), None);
    }
}
