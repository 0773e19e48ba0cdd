//! Interrupts for drivers.
//!
//! A driver allocates a [`Vector`] with its handler, and either programs
//! [`Vector::message`] into its device (MSI, MSI-X) or routes a wired interrupt to it
//! ([`Vector::route`]). Vectors are spread over the processors. Handlers run with
//! interrupts off, may wake threads (`holdfast_sync::port::Port::wake`), and may not
//! block; completion work belongs on a thread.
//!
//! Owns: vectors and handlers. Locks: none at delivery; one around allocation.

use alloc::boxed::Box;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use crate::arch::{ioapic, percpu, trap};
use crate::spinlock::SpinLock;

pub use crate::arch::ioapic::Trigger;

/// What happens at an interrupt.
pub type Handler = Box<dyn Fn() + Send + Sync>;

/// A registered handler: never freed, as devices stay.
static HANDLERS: [AtomicPtr<Handler>; 256] = [const { AtomicPtr::new(core::ptr::null_mut()) }; 256];
static COUNTS: [AtomicU64; 256] = [const { AtomicU64::new(0) }; 256];
static NEXT: SpinLock<u8> = SpinLock::new(trap::DEVICE_VECTORS.start);

/// An interrupt vector with a handler, on one processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vector {
    number: u8,
    apic_id: u32,
}

/// What a device writes to raise a message-signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Physical address of the write.
    pub address: u64,
    /// Its data.
    pub data: u32,
}

impl Vector {
    /// Take a vector for processor `cpu` (modulo their number). Nothing when all are taken.
    pub fn allocate(cpu: usize, handler: impl Fn() + Send + Sync + 'static) -> Option<Self> {
        let number = {
            let mut next = NEXT.lock();
            if !trap::DEVICE_VECTORS.contains(&next) {
                return None;
            }
            *next += 1;
            *next - 1
        };
        let handler: Handler = Box::new(handler);
        HANDLERS[number as usize].store(Box::into_raw(Box::new(handler)), Ordering::Release);
        let apic_id = percpu::get(cpu % percpu::count()).map_or(0, |c| c.apic_id.get());
        Some(Self { number, apic_id })
    }
    /// The message that raises it.
    pub fn message(&self) -> Message {
        const MESSAGE_BASE: u64 = 0xfee0_0000;
        Message {
            address: MESSAGE_BASE | u64::from(self.apic_id) << 12,
            data: u32::from(self.number),
        }
    }
    /// Deliver wired interrupt `gsi` (a global system interrupt) to it. False when no
    /// I/O APIC has that interrupt.
    pub fn route(&self, gsi: u32, trigger: Trigger) -> bool {
        ioapic::route(gsi, self.number, trigger, self.apic_id)
    }
    /// How often it was raised.
    pub fn count(&self) -> u64 {
        COUNTS[self.number as usize].load(Ordering::Relaxed)
    }
}

/// Call the handler of a vector, if it has one.
pub(crate) fn dispatch(vector: u8) {
    let handler = HANDLERS[vector as usize].load(Ordering::Acquire);
    // SAFETY: `allocate` stores pointers to handlers that live for ever.
    if let Some(handler) = unsafe { handler.as_ref() } {
        COUNTS[vector as usize].fetch_add(1, Ordering::Relaxed);
        handler();
    }
}
