//! The port of the drivers: what they need of the machine.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ptr::NonNull;

use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// Bytes in a page of DMA memory.
pub const PAGE_SIZE: usize = 4096;

/// What to do when an interrupt arrives. Runs in the interrupt: it must not block.
pub type Handler = Box<dyn Fn() + Send + Sync>;

/// A message-signalled interrupt: the device writes `data` to `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where.
    pub address: u64,
    /// What.
    pub data: u32,
}

/// The machine as the drivers see it.
///
/// # Safety
/// Every address handed out is valid for what its method says, until given back.
pub unsafe trait Hardware: Sync {
    /// So many zeroed pages, physically contiguous: physical address and pointer.
    fn dma_alloc(&self, pages: usize) -> Option<(u64, NonNull<u8>)>;
    /// Give pages back.
    ///
    /// # Safety
    /// They came from [`Hardware::dma_alloc`] with this length, and no device uses them.
    unsafe fn dma_free(&self, phys: u64, virt: NonNull<u8>, pages: usize);
    /// Map whole pages of device registers, uncached, for good. Nothing where the address
    /// cannot be mapped.
    fn map_registers(&self, phys: u64, bytes: usize) -> Option<NonNull<u8>>;
    /// Where ordinary memory at this physical address is mapped, linearly.
    fn phys_to_virt(&self, phys: u64) -> NonNull<u8>;
    /// The physical address of ordinary memory: of the linear mapping, or of an object of
    /// the heap of up to a page, which is physically contiguous.
    fn virt_to_phys(&self, virt: NonNull<u8>) -> u64;
    /// A message that makes this processor call `handler`. Nothing when vectors are out.
    fn message_interrupt(&self, cpu: usize, handler: Handler) -> Option<Message>;
    /// Have a wired, level-triggered, active-high interrupt call `handler`. False if there
    /// is no such interrupt.
    fn wired_interrupt(&self, gsi: u32, handler: Handler) -> bool;
    /// Read an I/O port.
    fn port_read(&self, port: u16) -> u32;
    /// Write an I/O port.
    fn port_write(&self, port: u16, value: u32);
}

static HARDWARE: spin::Once<&'static dyn Hardware> = spin::Once::new();

/// Set the machine. The first call counts; before it no driver may be used.
pub fn set(hardware: &'static dyn Hardware) {
    HARDWARE.call_once(|| hardware);
}

/// The machine.
///
/// # Panics
/// Before [`set`].
pub fn get() -> &'static dyn Hardware {
    *HARDWARE.get().expect("drivers: no hardware set")
}

/// Registers that are mapped: physical address, bytes, pointer.
static MAPPED: spin::Mutex<Vec<(u64, usize, Registers)>> = spin::Mutex::new(Vec::new());

/// A pointer to mapped registers.
#[derive(Clone, Copy)]
struct Registers(NonNull<u8>);

// SAFETY: mapped for good, for every thread; who accesses what is the drivers' affair.
unsafe impl Send for Registers {}

/// Device registers, mapped; those that are mapped already are not mapped again. Start-up
/// only: the list is behind a spin lock.
pub(crate) fn registers(phys: u64, bytes: usize) -> Option<NonNull<u8>> {
    let end = phys.checked_add(bytes as u64)?.checked_next_multiple_of(PAGE_SIZE as u64)?;
    let start = phys - phys % PAGE_SIZE as u64;
    let mut mapped = MAPPED.lock();
    let around = mapped.iter().find(|m| m.0 <= start && end <= m.0 + m.1 as u64).copied();
    let (base, _, Registers(virt)) = match around {
        Some(found) => found,
        None => {
            let pages = (end - start) as usize;
            let new = (start, pages, Registers(get().map_registers(start, pages)?));
            mapped.push(new);
            new
        }
    };
    // SAFETY: inside the mapping.
    Some(unsafe { virt.add((phys - base) as usize) })
}

/// The machine, as virtio-drivers wants it.
pub(crate) struct VirtioHal;

// SAFETY: passes everything on to `Hardware`, whose implementor promises the same.
unsafe impl Hal for VirtioHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        // Physical address 0 is this interface's word for failure.
        get().dma_alloc(pages).unwrap_or((0, NonNull::dangling()))
    }
    unsafe fn dma_dealloc(phys: PhysAddr, virt: NonNull<u8>, pages: usize) -> i32 {
        // SAFETY: the caller got it from `dma_alloc` above.
        unsafe { get().dma_free(phys, virt, pages) };
        0
    }
    unsafe fn mmio_phys_to_virt(phys: PhysAddr, bytes: usize) -> NonNull<u8> {
        registers(phys, bytes).expect("the registers were mapped when the device was found")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        get().virt_to_phys(buffer.cast())
    }
    unsafe fn unshare(_phys: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// Zeroed pages that a device may use, given back when dropped.
pub(crate) struct DmaPages {
    phys: u64,
    virt: NonNull<u8>,
    pages: usize,
}

// SAFETY: plain memory; whoever accesses it does so through raw pointers and sees to races.
unsafe impl Send for DmaPages {}
// SAFETY: as above.
unsafe impl Sync for DmaPages {}

impl DmaPages {
    pub(crate) fn new(pages: usize) -> Option<Self> {
        let (phys, virt) = get().dma_alloc(pages)?;
        Some(Self { phys, virt, pages })
    }
    /// The `bytes` from `offset` on, for a descriptor or raw access.
    pub(crate) fn part(&self, offset: usize, bytes: usize) -> NonNull<[u8]> {
        assert!(offset + bytes <= self.pages * PAGE_SIZE, "beyond the DMA pages");
        // SAFETY: inside the allocation, as just checked.
        let start = unsafe { self.virt.add(offset) };
        NonNull::slice_from_raw_parts(start, bytes)
    }
}

impl Drop for DmaPages {
    fn drop(&mut self) {
        // SAFETY: from `dma_alloc`; owners reset the device before they drop its memory.
        unsafe { get().dma_free(self.phys, self.virt, self.pages) };
    }
}
