//! The buffers of one queue: in the device's hands, or ours.

use alloc::vec::Vec;
use core::ptr::NonNull;

use crate::hardware::{DmaPages, PAGE_SIZE};
use crate::virtio::Error;
use crate::virtio::link::Doorbell;
use crate::virtio::ring::{Chain, Ring, Used};

/// One queue with buffers of one size, one buffer a chain.
pub(super) struct Buffers {
    pub(super) ring: Ring,
    doorbell: Doorbell,
    chain: Chain,
    memory: Vec<DmaPages>,
    slot_bytes: usize,
    /// Bytes of each slot that the device has.
    given: Vec<usize>,
    /// The device writes them; otherwise it reads.
    writable: bool,
    /// The device broke the rules; the queue is not used any more.
    broken: bool,
}

impl Buffers {
    /// Buffers of `slot_bytes`: a part of a page, or whole pages.
    pub(super) fn new(
        ring: Ring,
        doorbell: Doorbell,
        count: u16,
        slot_bytes: usize,
        writable: bool,
    ) -> Option<Self> {
        let count = usize::from(count.min(ring.size()));
        let pages = slot_bytes.div_ceil(PAGE_SIZE);
        let pieces = (count * slot_bytes).div_ceil(pages * PAGE_SIZE);
        let memory = (0..pieces).map(|_| DmaPages::new(pages)).collect::<Option<Vec<_>>>()?;
        let given = alloc::vec![0; count];
        let chain = Chain::default();
        Some(Self { ring, doorbell, chain, memory, slot_bytes, given, writable, broken: false })
    }
    pub(super) fn count(&self) -> u16 {
        self.given.len() as u16
    }
    pub(super) const fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }
    pub(super) const fn is_broken(&self) -> bool {
        self.broken
    }
    fn part(&self, slot: u16, offset: usize, bytes: usize) -> NonNull<[u8]> {
        part(&self.memory, self.slot_bytes, slot, offset, bytes)
    }
    /// Copy out of a buffer that the device does not have.
    pub(super) fn read(&self, slot: u16, offset: usize, dst: &mut [u8]) {
        let from = self.part(slot, offset, dst.len()).cast::<u8>();
        // SAFETY: inside the slot, which is ours now; `dst` is elsewhere.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), dst.as_mut_ptr(), dst.len()) };
    }
    /// Copy to the start of a buffer that the device does not have.
    pub(super) fn write(&mut self, slot: u16, src: &[u8]) {
        let to = self.part(slot, 0, src.len()).cast::<u8>();
        // SAFETY: inside the slot, which is ours now; `src` is elsewhere.
        unsafe { core::ptr::copy_nonoverlapping(src.as_ptr(), to.as_ptr(), src.len()) };
    }
    /// Give the device the first bytes of a buffer.
    pub(super) fn give(&mut self, slot: u16, bytes: usize) -> Result<(), Error> {
        let Self { ring, chain, memory, given, slot_bytes, writable, .. } = self;
        given[usize::from(slot)] = bytes;
        fill(chain, *writable, part(memory, *slot_bytes, slot, 0, bytes));
        // SAFETY: the buffer is ours and nobody touches it until the ring gave it back; the
        // device is reset before the memory goes.
        unsafe { ring.add(slot, chain) }
    }
    /// A buffer the device is through with, and how many bytes it says it wrote, at most
    /// what it was given.
    pub(super) fn take(&mut self) -> Option<(u16, usize)> {
        if self.broken {
            return None;
        }
        let Self { ring, chain, memory, given, slot_bytes, writable, .. } = self;
        let rebuild = |slot: u16, chain: &mut Chain| {
            let bytes = given[usize::from(slot)];
            fill(chain, *writable, part(memory, *slot_bytes, slot, 0, bytes));
        };
        match ring.take(chain, rebuild)? {
            Used::Slot(slot, len) => Some((slot, (len as usize).min(given[usize::from(slot)]))),
            Used::Violation => {
                log::error!("a virtio console gave back what it was never given");
                self.broken = true;
                None
            }
        }
    }
    /// Tell the device of buffers given, if it wants to know.
    pub(super) fn tell(&mut self) {
        if self.ring.wants_doorbell() {
            (self.doorbell)();
        }
    }
}

fn part(
    memory: &[DmaPages],
    slot_bytes: usize,
    slot: u16,
    offset: usize,
    bytes: usize,
) -> NonNull<[u8]> {
    assert!(offset + bytes <= slot_bytes, "beyond the buffer");
    let per_piece = (PAGE_SIZE / slot_bytes).max(1);
    let slot = usize::from(slot);
    memory[slot / per_piece].part(slot % per_piece * slot_bytes + offset, bytes)
}

fn fill(chain: &mut Chain, writable: bool, buffer: NonNull<[u8]>) {
    chain.clear();
    if writable {
        chain.push_writable(buffer);
    } else {
        chain.push_readable(buffer);
    }
}
