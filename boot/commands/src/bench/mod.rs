//! `bench`: the figures, each with its verification.
//!
//! | module    | owns |
//! |-----------|------|
//! | `data`    | the bytes of the files, and checking them |
//! | `cases`   | the cases that bear the names of the portable benchmark |
//! | `growing` | those of them that make and grow files and change names |
//! | `mapped`  | those of them that map files |
//! | `growth`  | new files: their rate against the raw device, the extents they get |
//! | `raw`     | raw transfers of the device against the same work through the file system |
//! | `journal` | what the log costs: bytes, writes, flushes; instructions of changes |
//! | `insn`    | the cost of one operation, scaling, I/O of cached writes |
//!
//! A case is a line: `case NAME ops=N bytes=N sec=S rate=X unit=MB/s|ops/s verify=ok|BAD|-`,
//! one MB being 10^6 bytes. `NAME_sync` is the same work with the closing fsync.
//!
//! Owns: loops and formats. Works on files and a directory whose names begin with `/sb_`,
//! which it makes, changes and removes; never on others. No locks.

mod cases;
mod data;
mod growing;
mod growth;
mod insn;
mod journal;
mod mapped;
mod raw;

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use holdfast_fs::Error;

use crate::context::{Context, Status, explain};
use crate::{out, text};
use data::Data;

const MIB: u64 = 1 << 20;
const PAGE: u64 = 4096;

/// Why a case has no result.
enum Stopped {
    /// It cannot be done here; says why.
    Skipped(String),
    /// A call failed that should not.
    Failed(String),
}

type Outcome<T = ()> = Result<T, Stopped>;

/// A call's error as a failure of the case.
fn failed(what: &'static str) -> impl Fn(Error) -> Stopped {
    move |e| Stopped::Failed(alloc::format!("{what}: {}", explain(&e)))
}

/// One run.
struct Bench<'a> {
    cx: &'a mut Context,
    size: u64,
    data: Data,
    bad: bool,
    /// Cases that run together have run.
    names_done: bool,
    falloc_done: bool,
}

/// What a case measured.
struct Measured {
    ops: u64,
    bytes: u64,
    ns: u64,
}

/// In which unit a case's rate is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Megabytes,
    Ops,
}

/// A case and its function.
struct Case {
    name: &'static str,
    main: fn(&mut Bench<'_>, &'static str) -> Outcome,
}

const fn case(name: &'static str, main: fn(&mut Bench<'_>, &'static str) -> Outcome) -> Case {
    Case { name, main }
}

/// In the order of the portable benchmark.
static CASES: &[Case] = &[
    case("seqw_4k", growing::write_4k),
    case("seqw_64k", growing::write_64k),
    case("seqw_1m", growing::write_1m),
    case("rewr_4k", cases::rewrite),
    case("cread_4k", cases::cached_read_4k),
    case("cread_1m", cases::cached_read_1m),
    case("crand_4k", cases::cached_random),
    case("rndw_4k", cases::random_write),
    case("rndw_4k_fsync1", cases::random_write_fsync),
    case("append_512_fds", growing::append),
    case("create_4k", growing::names),
    case("stat", growing::names),
    case("open_read", growing::names),
    case("rename", growing::names),
    case("unlink", growing::names),
    case("mkdir", growing::names),
    case("rmdir", growing::names),
    case("mmapw_sparse", growing::store_sparse),
    case("mmapw_exist", mapped::write_existing),
    case("mmapr_cached", mapped::read_cached),
    case("msync_1pg", mapped::msync_page),
    case("falloc", growing::preallocate),
    case("falloc_over", growing::preallocate),
    case("unalw_3000", growing::write_unaligned),
    case("unalrw_3000", growing::rewrite_unaligned),
    case("cold_1m", cases::cold_sequential),
    case("cold_rnd_4k", cases::cold_random),
    case("cached_write_io", insn::cached_write_io),
];

/// Groups that `bench NAME` runs beside the cases.
static GROUPS: &[Case] = &[
    case("raw", raw::main),
    case("grow", growth::main),
    case("extents", growth::extents),
    case("insn", insn::main),
    case("insn_change", journal::instructions),
    case("journal", journal::main),
    case("scaling", insn::scaling),
];

/// `bench [raw] [grow] [extents] [insn] [insn_change] [journal] [scaling] [--size MB] [CASE...]`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let mut chosen: Vec<&'static Case> = Vec::new();
    let mut megabytes = 64;
    let mut words = argv.iter().skip(1);
    while let Some(&word) = words.next() {
        let size = match word.strip_prefix(b"--size=") {
            None if word == b"--size" => words.next().copied(),
            other => other,
        };
        if word.starts_with(b"--size") {
            match size.and_then(text::number).filter(|mb| (1..=1 << 20).contains(mb)) {
                Some(mb) => megabytes = mb,
                None => return cx.usage(format_args!("--size needs a number of MB"), 2),
            }
            continue;
        }
        for name in word.split(|&b| b == b',').filter(|n| !n.is_empty()) {
            let known = CASES.iter().chain(GROUPS).find(|c| c.name.as_bytes() == name);
            match known {
                Some(case) => chosen.push(case),
                None => {
                    let quoted = text::quote(name);
                    return cx.usage(format_args!("no case {quoted}"), 2);
                }
            }
        }
    }
    if chosen.is_empty() {
        chosen.extend(CASES);
    }
    let start = holdfast_sync::time::now_ns();
    let mut bench = Bench {
        cx,
        size: megabytes * MIB,
        data: Data::new(),
        bad: false,
        names_done: false,
        falloc_done: false,
    };
    let mut status = 0;
    for case in chosen {
        match (case.main)(&mut bench, case.name) {
            Ok(()) => {}
            Err(Stopped::Skipped(why)) => out!(bench.cx, "case {} skipped: {why}\n", case.name),
            Err(Stopped::Failed(why)) => {
                bench.cx.flush();
                bench.cx.error(format_args!("{}: {why}", case.name));
                status = 2;
            }
        }
        bench.cx.flush();
    }
    let us = (holdfast_sync::time::now_ns() - start) / 1000;
    let verdict = if bench.bad { "BAD" } else { "ok" };
    out!(bench.cx, "done bench sec={} verify={verdict}\n", decimal(us, 1_000_000, 3));
    if status == 0 { Status::from(bench.bad) } else { status }
}

/// An error with the name of its errno where that says it best.
fn errno_text(path: &str, e: &Error) -> String {
    let name = if matches!(e, Error::ReadOnly(_)) { "EROFS, " } else { "" };
    alloc::format!("{path}: {name}{}", explain(e))
}

/// `num / den` with so many decimals, cut off.
fn decimal(num: u64, den: u64, decimals: usize) -> String {
    let den = den.max(1);
    let mut out = (num / den).to_string();
    if decimals > 0 {
        out.push('.');
    }
    let mut rest = num % den;
    for _ in 0..decimals {
        rest *= 10;
        out.push_str(&(rest / den).to_string());
        rest %= den;
    }
    out
}

/// The middle one.
fn median(values: &mut [u64]) -> u64 {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

impl Bench<'_> {
    /// A case's line. `good`: nothing for a case that verifies nothing.
    fn report(&mut self, name: &str, suffix: &str, m: &Measured, unit: Unit, good: Option<bool>) {
        let us = (m.ns / 1000).max(1);
        let (rate, unit) = match unit {
            Unit::Megabytes => (decimal(m.bytes, us, 2), "MB/s"),
            Unit::Ops => (decimal(m.ops * 1_000_000, us, 1), "ops/s"),
        };
        let verdict = match good {
            None => "-",
            Some(true) => "ok",
            Some(false) => "BAD",
        };
        self.bad |= good == Some(false);
        let seconds = decimal(m.ns / 1000, 1_000_000, 6);
        out!(self.cx, "case {name}{suffix} ops={} bytes={} sec={seconds}", m.ops, m.bytes);
        out!(self.cx, " rate={rate} unit={unit} verify={verdict}\n");
        self.cx.flush();
    }
    /// Both lines of a case that ends in something that makes it durable.
    fn both(
        &mut self,
        (name, suffix): (&str, &str),
        [t0, t1, t2]: [u64; 3],
        (ops, bytes): (u64, u64),
        unit: Unit,
        good: Option<bool>,
    ) {
        self.report(name, "", &Measured { ops, bytes, ns: t1 - t0 }, unit, good);
        self.report(name, suffix, &Measured { ops, bytes, ns: t2 - t0 }, unit, good);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_cut() {
        assert_eq!(decimal(1_999_999, 1_000_000, 2), "1.99");
        assert_eq!(decimal(5, 0, 1), "5.0");
        assert_eq!(decimal(7, 2, 0), "3");
    }

    #[test]
    fn the_middle_of_seven() {
        assert_eq!(median(&mut [7, 1, 3, 2, 9, 8, 4]), 4);
        assert_eq!(median(&mut []), 0);
    }
}
