//! COM1, the kernel log and its ring buffer.
//!
//! Log lines read `[    0.012345] level module: text`. What is logged depends on the
//! words of `log=` (see [`init_log`]); the ring buffer keeps what was printed, for
//! `dmesg`. Locks: one, around the port and the buffer.

use alloc::vec::Vec;
use core::fmt::{self, Write};

use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::arch::cpu;
use crate::spinlock::SpinLock;
use crate::time;

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const DATA_READY: u8 = 1;
/// Bytes the transmitter takes once it is empty.
const FIFO: usize = 16;
const RING_BYTES: usize = 64 * 1024;
const MODULES: usize = 16;
const NAME_BYTES: usize = 32;

struct Console {
    ring: [u8; RING_BYTES],
    /// Bytes ever written to the ring.
    written: usize,
    /// Room left in the transmitter.
    room: usize,
}

static CONSOLE: SpinLock<Console> =
    SpinLock::new(Console { ring: [0; RING_BYTES], written: 0, room: 0 });

impl Console {
    fn send(&mut self, byte: u8) {
        if self.room == 0 {
            // SAFETY: COM1's status register.
            while unsafe { cpu::inb(LINE_STATUS) } & TRANSMITTER_EMPTY == 0 {
                core::hint::spin_loop();
            }
            self.room = FIFO;
        }
        // SAFETY: COM1's data register.
        unsafe { cpu::outb(COM1, byte) };
        self.room -= 1;
    }
    fn keep(&mut self, byte: u8) {
        self.ring[self.written % RING_BYTES] = byte;
        self.written += 1;
    }
}

/// Writes to port and ring.
impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        for byte in s.bytes() {
            self.send(byte);
            self.keep(byte);
        }
        Ok(())
    }
}

/// Set the port up. The first thing bring-up does, so that everything after can speak.
pub fn init() {
    // SAFETY: COM1's registers: no interrupts, 115200 baud, 8N1, FIFOs on.
    unsafe {
        cpu::outb(COM1 + 1, 0);
        cpu::outb(COM1 + 3, 0x80);
        cpu::outb(COM1, 1);
        cpu::outb(COM1 + 1, 0);
        cpu::outb(COM1 + 3, 0x03);
        cpu::outb(COM1 + 2, 0x07);
        cpu::outb(COM1 + 4, 0x03);
    }
}

/// Write bytes to COM1 as they are; not kept in the log.
pub fn write_bytes(bytes: &[u8]) {
    // In pieces: the lock keeps interrupts off.
    for piece in bytes.chunks(4 * FIFO) {
        let mut console = CONSOLE.lock();
        piece.iter().for_each(|&b| console.send(b));
    }
}

/// Write text to COM1 and the log's buffer.
pub fn print(arguments: fmt::Arguments<'_>) {
    // The console never fails.
    _ = CONSOLE.lock().write_fmt(arguments);
}

/// A byte that arrived at COM1, if there is one.
pub fn read_byte() -> Option<u8> {
    // SAFETY: COM1's status and data registers.
    unsafe { (cpu::inb(LINE_STATUS) & DATA_READY != 0).then(|| cpu::inb(COM1)) }
}

/// Wait until everything written is on its way.
pub fn flush() {
    // SAFETY: COM1's status register.
    while unsafe { cpu::inb(LINE_STATUS) } & TRANSMITTER_EMPTY == 0 {
        core::hint::spin_loop();
    }
}

/// Break the lock open, for a report.
///
/// # Safety
/// Nothing else runs any more.
pub(crate) unsafe fn force_unlock() {
    // SAFETY: the caller's promise.
    unsafe { CONSOLE.force_unlock() };
}

/// The log so far, oldest first, as much as the buffer holds.
pub fn dmesg() -> Vec<u8> {
    let mut out = Vec::with_capacity(RING_BYTES);
    let console = CONSOLE.lock();
    let (start, len) = match console.written.checked_sub(RING_BYTES) {
        Some(over) => (over % RING_BYTES, RING_BYTES),
        None => (0, console.written),
    };
    out.extend((0..len).map(|i| console.ring[(start + i) % RING_BYTES]));
    drop(console);
    // A line cut by the wrap-around says nothing.
    if len == RING_BYTES
        && let Some(end) = out.iter().position(|&b| b == b'\n')
    {
        out.drain(..=end);
    }
    out
}

/// Print a line to COM1 and the log's buffer.
#[macro_export]
macro_rules! println {
    ($($arg:tt)*) => {
        $crate::console::print(format_args!("{}\n", format_args!($($arg)*)))
    };
}

#[derive(Clone, Copy)]
struct Rule {
    name: [u8; NAME_BYTES],
    len: usize,
    level: LevelFilter,
}

/// Levels: the general one, and modules that differ.
struct Filter {
    general: LevelFilter,
    rules: [Rule; MODULES],
    count: usize,
}

static FILTER: SpinLock<Filter> = SpinLock::new(Filter {
    general: LevelFilter::Info,
    rules: [Rule { name: [0; NAME_BYTES], len: 0, level: LevelFilter::Off }; MODULES],
    count: 0,
});

/// A module path as users write it: without the crates' common prefix.
fn short(target: &str) -> &str {
    target.strip_prefix("holdfast_").or_else(|| target.strip_prefix("holdfast::")).unwrap_or(target)
}

impl Filter {
    /// The level of the longest rule that names the module or one around it.
    fn level(&self, module: &str) -> LevelFilter {
        let mut best = (0, self.general);
        for rule in &self.rules[..self.count] {
            let name = &rule.name[..rule.len];
            let inside = module.as_bytes().strip_prefix(name);
            if inside.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"::"))
                && rule.len >= best.0
            {
                best = (rule.len, rule.level);
            }
        }
        best.1
    }
}

struct KernelLog;

impl Log for KernelLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= FILTER.lock().level(short(metadata.target()))
    }
    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let now_us = time::now_ns() / 1000;
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        print(format_args!(
            "[{:5}.{:06}] {level} {}: {}\n",
            now_us / 1_000_000,
            now_us % 1_000_000,
            short(record.target()),
            record.args()
        ));
    }
    fn flush(&self) {
        flush();
    }
}

/// Start logging. `words` is the value of `log=`: comma-separated, a level, or
/// `module=level`; modules are named without the crates' prefix (`fs::xfs=debug`).
/// Words that make no sense are skipped with a warning.
pub fn init_log(words: &str) {
    let mut bad = None;
    {
        let mut filter = FILTER.lock();
        for word in words.split(',').filter(|w| !w.is_empty()) {
            let (name, level) = word.split_once('=').unwrap_or(("", word));
            match level.parse::<LevelFilter>() {
                Ok(level) if name.is_empty() => filter.general = level,
                Ok(level) if name.len() <= NAME_BYTES && filter.count < MODULES => {
                    let at = filter.count;
                    let mut rule = Rule { name: [0; NAME_BYTES], len: name.len(), level };
                    rule.name[..name.len()].copy_from_slice(name.as_bytes());
                    filter.rules[at] = rule;
                    filter.count += 1;
                }
                _ => bad = Some(word),
            }
        }
        let rules = filter.rules[..filter.count].iter().map(|r| r.level);
        log::set_max_level(rules.max().unwrap_or(LevelFilter::Off).max(filter.general));
    }
    // Only the first call can succeed, and later ones only change levels.
    _ = log::set_logger(&KernelLog);
    if let Some(word) = bad {
        log::warn!("log=: {word:?} is not understood");
    }
}
