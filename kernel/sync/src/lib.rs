//! Blocking locks and threads for code that must run, unchanged, in three worlds.
//!
//! | backend       | waiting and threads come from                        | chosen by           |
//! |---------------|------------------------------------------------------|---------------------|
//! | [`port`]      | the kernel's scheduler, through [`port::Port`]       | no feature          |
//! | `std`         | `std::thread`, one mutex and condvar a word          | feature `std`       |
//! | `shuttle`     | Shuttle's scheduler: every atomic step is a choice   | feature `shuttle`   |
//!
//! A backend supplies very little: [`Word`], an atomic `u32` that can be waited
//! on, a thread's identity, and time. Every lock is written once, above `Word`,
//! so the algorithm that runs in the kernel is the one the deterministic
//! scheduler explores.
//!
//! ```text
//! Mutex  RwLock  PerCpuRwLock  Condvar  WaitQueue     (this crate, once)
//!                     |
//!                   Word  thread  time                (one backend of three)
//! ```
//!
//! Each lock belongs to a [`LockClass`] with a rank. With the feature `check`
//! every blocking acquisition verifies that ranks only rise ([`check`]).
//!
//! Owns: lock words, lock order. Does not own: run queues, interrupts, memory.

#![cfg_attr(not(feature = "std"), no_std)]

extern crate alloc;

#[cfg(feature = "shuttle")]
#[path = "backend_shuttle.rs"]
mod backend;
#[cfg(all(feature = "std", not(feature = "shuttle")))]
#[path = "backend_std.rs"]
mod backend;
#[cfg(not(feature = "std"))]
#[path = "backend_port.rs"]
mod backend;

pub mod check;
mod condvar;
mod mutex;
mod percpu;
pub mod port;
mod rwlock;
mod wait;

/// Threads: spawn, identity, sleeping, yielding.
pub mod thread {
    pub use crate::backend::thread::*;
    /// How urgently the scheduler should run a thread.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    pub enum Priority {
        /// Runs when nothing else wants the processor.
        Idle,
        /// Ordinary work.
        Normal,
        /// Completion and reclaim threads, that others wait for.
        High,
    }
}

/// Time, in nanoseconds since an arbitrary start.
pub mod time {
    pub use crate::backend::time::*;
}

/// The atomics of the chosen backend (Shuttle's are scheduling points).
pub mod atomic {
    pub use crate::backend::atomic::*;
}

pub use backend::Word;
pub use check::LockClass;
pub use condvar::Condvar;
pub use mutex::{Mutex, MutexGuard};
pub use percpu::{PerCpuReadGuard, PerCpuRwLock, PerCpuWriteGuard};
pub use rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
pub use wait::{WaitQueue, contended_acquisitions};
