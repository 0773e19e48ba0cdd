//! Mechanism of the Holdfast kernel: processors, memory, threads, time.
//!
//! ```text
//! boot ──> kernel ──> the machine
//!             └─ implements holdfast_sync::port::Port: the locks' waiting
//! ```
//!
//! | module | |
//! |--------|--|
//! | [`arch`] | the processor: registers, per-CPU data, descriptor tables, traps, APICs, CPU start |
//! | [`acpi`] | which processors and interrupt controllers there are |
//! | [`mm`] | frames, heap, kernel and program page tables, shootdown, user copies |
//! | [`sched`] | threads, run queues, wait queues, timers |
//! | [`time`] | monotonic clock, boot stamps, wall clock |
//! | [`irq`] | interrupt vectors and handlers for drivers |
//! | [`spinlock`] | the lock below all others |
//! | [`console`] | COM1, the kernel log and its ring buffer |
//! | [`debug`] | panic reports, backtraces, the watchdog |
//! | [`random`] | random numbers |
//!
//! Owns: everything privileged. Does not own: files, devices, policy; it knows
//! neither the storage stack nor the drivers.
//!
//! Lock order: everything here is a [`spinlock::SpinLock`], held with interrupts
//! off and for a few instructions. Outermost first: wait bucket, run queue, timer
//! list; heap, frame lists; address space; log. Blocking locks (`holdfast_sync`)
//! lie above all of them and are not used in this crate.

#![no_std]

extern crate alloc;

pub mod acpi;
pub mod arch;
pub mod console;
pub mod debug;
pub mod irq;
pub mod mm;
pub mod random;
pub mod sched;
pub mod spinlock;
pub mod time;

/// The most processors the kernel can use; more are left halted.
pub const MAX_CPUS: usize = 32;
