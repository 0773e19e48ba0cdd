//! The kernel as the hardware port of the drivers.

use core::ptr::NonNull;

use holdfast_drivers::hardware::{Handler, Hardware, Message};
use holdfast_kernel::arch::cpu;
use holdfast_kernel::irq::{Trigger, Vector};
use holdfast_kernel::mm::{self, Dma, Mmio};

/// The machine, by way of the kernel.
pub struct KernelHardware;

/// No machine has device registers above: the most physical address bits there can be.
const PHYSICAL_END: u64 = 1 << 52;

// SAFETY: what the kernel hands out is valid until given back; register mappings stay.
unsafe impl Hardware for KernelHardware {
    fn dma_alloc(&self, pages: usize) -> Option<(u64, NonNull<u8>)> {
        let memory = Dma::alloc(pages)?;
        let virt = NonNull::new(memory.as_ptr())?;
        let (phys, _) = memory.into_raw();
        Some((phys, virt))
    }
    unsafe fn dma_free(&self, phys: u64, _virt: NonNull<u8>, pages: usize) {
        // SAFETY: the pair comes from `dma_alloc`, and the caller gives it back once.
        drop(unsafe { Dma::from_raw(phys, pages) });
    }
    fn map_registers(&self, phys: u64, bytes: usize) -> Option<NonNull<u8>> {
        let end = phys.checked_add(bytes as u64)?;
        if bytes == 0 || end > PHYSICAL_END {
            return None;
        }
        NonNull::new(Mmio::map(phys, bytes).base())
    }
    fn phys_to_virt(&self, phys: u64) -> NonNull<u8> {
        NonNull::new(mm::direct(phys)).expect("the direct map is not at address zero")
    }
    fn virt_to_phys(&self, virt: NonNull<u8>) -> u64 {
        mm::mmio::phys_of(virt.as_ptr()).expect("memory given to a device is mapped")
    }
    fn message_interrupt(&self, cpu: usize, handler: Handler) -> Option<Message> {
        let message = Vector::allocate(cpu, handler)?.message();
        Some(Message { address: message.address, data: message.data })
    }
    fn wired_interrupt(&self, gsi: u32, handler: Handler) -> bool {
        // Spread over the processors, as there is no better hint.
        let vector = Vector::allocate(gsi as usize, handler);
        vector.is_some_and(|v| v.route(gsi, Trigger::LevelHigh))
    }
    fn port_read(&self, port: u16) -> u32 {
        // SAFETY: the drivers read the ports of PCI configuration space only.
        unsafe { cpu::inl(port) }
    }
    fn port_write(&self, port: u16, value: u32) {
        // SAFETY: the drivers write the ports of PCI configuration space only.
        unsafe { cpu::outl(port, value) }
    }
}
