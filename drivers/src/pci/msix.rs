//! MSI-X: the table in a BAR that says which message each of a device's vectors sends.

use core::ptr::NonNull;

use virtio_drivers::transport::pci::bus::DeviceFunction;

use super::{Bus, Region};
use crate::hardware::{self, Message};

const CAPABILITY: u8 = 0x11;
const ENTRY_BYTES: usize = 16;
/// In the capability's first word: messages instead of the interrupt line.
const ENABLE: u32 = 1 << 31;
/// In the capability's first word: all vectors masked.
const MASK_ALL: u32 = 1 << 30;

/// What the capability says about the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    vectors: u16,
    bar: u8,
    offset: u32,
}

impl Layout {
    /// From the first two words of the capability.
    const fn parse(header: u32, table: u32) -> Self {
        Self {
            vectors: (header >> 16 & 0x7ff) as u16 + 1,
            bar: (table & 0b111) as u8,
            offset: table & !0b111,
        }
    }
    const fn bytes(self) -> usize {
        self.vectors as usize * ENTRY_BYTES
    }
    /// The table's physical address, if it lies inside its BAR.
    fn address(self, bars: &[Option<Region>; 6]) -> Option<u64> {
        let region = (*bars.get(usize::from(self.bar))?)?;
        let end = u64::from(self.offset) + self.bytes() as u64;
        (end <= region.size).then_some(region.address + u64::from(self.offset))
    }
}

/// The words of one entry: address low and high, data, not masked.
const fn entry(message: Message) -> [u32; 4] {
    [message.address as u32, (message.address >> 32) as u32, message.data, 0]
}

/// A device's table, enabled.
pub struct MsixTable {
    base: NonNull<u32>,
    vectors: u16,
}

// SAFETY: device registers, which any thread may write; `&mut` keeps entries whole.
unsafe impl Send for MsixTable {}

impl MsixTable {
    /// How many vectors the device has.
    pub const fn vectors(&self) -> u16 {
        self.vectors
    }
    /// Have vector `index` send this message.
    ///
    /// # Panics
    /// The device has no such vector.
    pub fn set(&mut self, index: u16, message: Message) {
        assert!(index < self.vectors, "no such MSI-X vector");
        let [low, high, data, control] = entry(message);
        // SAFETY: the entry lies inside the table, which `enable_msix` checked and mapped.
        let at = unsafe { self.base.add(usize::from(index) * ENTRY_BYTES / 4) };
        // Masked while it changes, so that no half of it is ever used.
        for (word, value) in [(3, 1), (0, low), (1, high), (2, data), (3, control)] {
            // SAFETY: as above; device registers are accessed volatile.
            unsafe { at.add(word).write_volatile(value) };
        }
    }
}

impl Bus {
    /// Map a function's table and switch it to messages, every vector masked. Nothing if it
    /// has no table.
    pub(crate) fn enable_msix(
        &mut self,
        function: DeviceFunction,
        bars: &[Option<Region>; 6],
    ) -> Option<MsixTable> {
        use virtio_drivers::transport::pci::bus::ConfigurationAccess;
        let offset = *self.capabilities(function, CAPABILITY).first()?;
        let header = self.read(function, offset);
        let layout = Layout::parse(header, self.read(function, offset + 4));
        let base = hardware::registers(layout.address(bars)?, layout.bytes())?.cast::<u32>();
        for index in 0..usize::from(layout.vectors) {
            // SAFETY: inside the table just mapped; word 3 of each entry, masked.
            unsafe { base.add(index * ENTRY_BYTES / 4 + 3).write_volatile(1) };
        }
        self.config.write_word(function, offset, (header | ENABLE) & !MASK_ALL);
        Some(MsixTable { base, vectors: layout.vectors })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_says_where_the_table_is() {
        let layout = Layout::parse(0x0004_9811, 0x0000_2001);
        assert_eq!(layout, Layout { vectors: 5, bar: 1, offset: 0x2000 });
        assert_eq!(layout.bytes(), 80);
        assert_eq!(Layout::parse(0xffff_0011, 4).vectors, 2048);
    }

    #[test]
    fn a_table_outside_its_bar_is_refused() {
        let layout = Layout { vectors: 5, bar: 1, offset: 0x2000 };
        let mut bars = [None; 6];
        assert_eq!(layout.address(&bars), None);
        bars[1] = Some(Region { address: 0xfebd_0000, size: 0x2040 });
        assert_eq!(layout.address(&bars), None, "the last entry sticks out");
        bars[1] = Some(Region { address: 0xfebd_0000, size: 0x2050 });
        assert_eq!(layout.address(&bars), Some(0xfebd_2000));
        assert_eq!(Layout { bar: 7, ..layout }.address(&bars), None);
    }

    #[test]
    fn entries_are_set_one_by_one_and_unmasked() {
        let mut memory = [0xffff_ffff_u32; 8];
        let base = NonNull::new(memory.as_mut_ptr()).unwrap();
        let mut table = MsixTable { base, vectors: 2 };
        table.set(1, Message { address: 0x1_fee0_1000, data: 0x41 });
        assert_eq!(memory, [u32::MAX, u32::MAX, u32::MAX, u32::MAX, 0xfee0_1000, 1, 0x41, 0]);
    }

    #[test]
    #[should_panic(expected = "no such MSI-X vector")]
    fn a_vector_beyond_the_table_is_a_bug() {
        let mut memory = [0_u32; 4];
        let base = NonNull::new(memory.as_mut_ptr()).unwrap();
        MsixTable { base, vectors: 1 }.set(1, Message { address: 0, data: 0 });
    }
}
