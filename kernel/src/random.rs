//! Random numbers.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::arch::cpu;
use crate::time;

static STATE: AtomicU64 = AtomicU64::new(0);

/// Seed the generator: from the machine, or with a number, which makes it repeatable.
pub fn seed(fixed: Option<u64>) {
    let seed = fixed.unwrap_or_else(|| {
        cpu::rdrand().unwrap_or(0) ^ cpu::tsc().rotate_left(32) ^ time::wall_clock_ns()
    });
    STATE.store(seed, Ordering::Relaxed);
}

/// A random number; not for secrets.
pub fn next() -> u64 {
    const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
    // SplitMix64: a counter, well mixed.
    let mut z = STATE.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
