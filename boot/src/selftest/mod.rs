//! The kernel's tests, run in the guest: `selftest`, or `selftest=NAME` for those whose
//! name contains it.
//!
//! | module | tests |
//! |--------|-------|
//! | [`memory`] | memory routines, frames, heap |
//! | [`space`] | page tables, shootdown, copies with fixups, faults that block |
//! | [`threads`] | preemption, priorities, sleeping, interrupts, many threads |
//! | [`locks`] | the blocking locks under stress on all processors |
//! | [`disks`] | the disk drivers: `selftest=disk`, `readonly`, `faulty` |
//! | [`failing`] | what must end in a report: `selftest=panic`, `stall`, `overflow`, ... |
//!
//! Each prints a line on COM1, then `selftest: N passed, M failed` follows.

mod disks;
mod failing;
mod locks;
mod memory;
mod space;
mod threads;

use alloc::string::String;

use holdfast_kernel::{println, time};

/// What a test found.
type Outcome = Result<(), String>;

/// A test and its name.
struct Test {
    name: &'static str,
    run: fn() -> Outcome,
}

/// Fail the test with a message unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($message)+));
        }
    };
}
use ensure;

/// Run the tests that the word selects; the exit status.
pub fn run(word: Option<&str>, command_line: &str) -> u8 {
    if let Some(word) = word {
        failing::run(word);
    }
    let disk_tests = match word.unwrap_or("").split('_').next() {
        Some("disk") => disks::TESTS,
        Some("readonly") => disks::READONLY,
        Some("faulty") => disks::FAULTY,
        _ => &[],
    };
    if !disk_tests.is_empty() {
        disks::prepare(command_line);
    }
    let filter = word.unwrap_or("");
    let (mut passed, mut failed) = (0, 0);
    let groups = [memory::TESTS, space::TESTS, threads::TESTS, locks::TESTS, disk_tests];
    for test in groups.into_iter().flatten().filter(|t| t.name.contains(filter)) {
        let start = time::now_ns();
        match (test.run)() {
            Ok(()) => {
                passed += 1;
                println!("selftest {} ok ({} ms)", test.name, (time::now_ns() - start) / 1_000_000);
            }
            Err(why) => {
                failed += 1;
                println!("selftest {} FAILED: {why}", test.name);
            }
        }
    }
    println!("selftest: {passed} passed, {failed} failed");
    u8::from(failed > 0 || passed == 0)
}

/// Pseudo-random numbers, repeatable: xorshift.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 8) as usize % limit
    }
}
