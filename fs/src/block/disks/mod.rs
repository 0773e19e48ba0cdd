//! Devices without hardware: in memory, in a file, failing on purpose, recording.
//!
//! They stack: `TraceDisk` over `FaultDisk` over `MemDisk`. Each is a [`BlockDevice`]
//! and goes behind a [`Queue`](super::Queue) like any other.
//!
//! | device | |
//! |--------|--|
//! | [`MemDisk`] | sectors in memory; ends requests at once, on threads, in seeded order, or when told |
//! | [`FaultDisk`] | refuses chosen requests of the device below |
//! | [`TraceDisk`] | records every request to the device below, with what it wrote |
//! | [`FileDisk`] | an image file of the host |
//!
//! Owns: their contents. Locks: `DEVICE`, never while a request is ended.
//!
//! [`BlockDevice`]: super::BlockDevice

mod executor;
mod fault;
#[cfg(feature = "std")]
mod file;
mod mem;
mod trace;

pub use executor::Completion;
pub use fault::{Fault, FaultDisk};
#[cfg(feature = "std")]
pub use file::FileDisk;
pub use mem::{MemDisk, MemDiskConfig};
pub use trace::{TraceDisk, TraceEvent, TracedRequest};

/// A small random generator (xorshift64*), for seeded choices.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        // The generator's state must not be zero.
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let value = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D);
        ((u128::from(value) * u128::from(limit)) >> 64) as u64
    }
}
