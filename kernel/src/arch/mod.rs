//! The processor, x86-64.
//!
//! | module | |
//! |--------|--|
//! | [`cpu`] | instructions as functions: MSRs, ports, flags, control registers |
//! | [`percpu`] | each processor's own data behind `gs`; the preemption count |
//! | [`tables`] | GDT, TSS with its interrupt stacks, IDT |
//! | [`trap`] | entry stubs that leave the IST stack, dispatch of interrupts and exceptions |
//! | [`context`] | the switch between two threads' stacks |
//! | [`apic`] | local APIC: end of interrupt, timer, inter-processor interrupts |
//! | [`ioapic`] | I/O APICs: routing of wired interrupts |
//! | [`smp`] | starting the other processors |
//! | [`memory_ops`] | `memcpy` and friends |
//! | [`exit`] | leaving QEMU with a status |
//!
//! Owns: privileged registers and descriptor tables. Does not own: what an
//! interrupt means ([`crate::irq`], [`crate::sched`], [`crate::mm`]).
//! Locks: `ioapic` has one, around its index/data register pair.

pub mod apic;
pub mod context;
pub mod cpu;
pub mod exit;
pub mod ioapic;
pub mod memory_ops;
pub mod percpu;
pub mod smp;
pub mod tables;
pub mod trap;
