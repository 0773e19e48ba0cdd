//! `pread` and `pwrite`.

use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_sync::time::now_ns;

use super::numbers::{amount, duration, fixed};
use super::{Failure, Outcome, Run, dump, not_numeric};
use crate::context::Context;
use crate::out;

/// No buffer is larger: what a guest's heap can spare.
const BUFFER_MAX: u64 = 64 << 20;

/// A buffer, if there is memory for it.
fn buffer(len: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let short = || Failure::Call("memalign", Error::NoMemory);
    if len > BUFFER_MAX || bytes.try_reserve_exact(len as usize).is_err() {
        return Err(short());
    }
    bytes.resize(len as usize, 0);
    Ok(bytes)
}

/// What a transfer is to do, from the command's options.
struct Plan {
    block: u64,
    offset: i64,
    /// Negative: until the end.
    count: i64,
    backward: bool,
    verbose: bool,
    once: bool,
    quiet: bool,
    compact: bool,
}

/// What it did.
#[derive(Default)]
struct Done {
    bytes: u64,
    ops: u64,
    offset: u64,
}

fn plan(run: &Run<'_>, parsed: &crate::options::Parsed<'_>) -> Result<Plan, Failure> {
    let mut block = match parsed.value(b'b') {
        Some(word) => run.quantity("bsize", word)?,
        None => u64::from(run.file().block_bytes),
    };
    if let Some(word) = parsed.value(b'V') {
        match run.number(word) {
            Some(vectors) if vectors > 0 => block = block.saturating_mul(vectors as u64),
            _ => {
                let word = alloc::string::String::from_utf8_lossy(word);
                return Err(Failure::Message(alloc::format!("non-numeric vector count == {word}")));
            }
        }
    }
    let [offset, count] = parsed.operands[..] else { return Err(Failure::Usage) };
    Ok(Plan {
        block,
        offset: run.number(offset).unwrap_or(-1),
        count: run.number(count).unwrap_or(-1),
        backward: parsed.has(b'B'),
        verbose: parsed.has(b'v'),
        once: parsed.has(b'O'),
        quiet: parsed.has(b'q'),
        compact: parsed.has(b'C'),
    })
}

/// `pread [-b bs] [-Cqv] [-FB] [-V N] off len`
pub(super) fn pread(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "b:BCFqvV:")?;
    let plan = plan(run, &parsed)?;
    let start = now_ns();
    let done = transfer(run, &plan, "pread", &mut |run, buffer, position| {
        let n = run.cx.process.pread(run.fd(), &mut *buffer, position)?;
        if plan.verbose {
            dump(run.cx, position, &buffer[..n]);
        }
        Ok(n)
    })?;
    report(run.cx, "read", &plan, &done, now_ns() - start);
    Ok(())
}

/// `pwrite [-b bs] [-S seed] [-CqwWO] [-FB] [-V N] off len`
pub(super) fn pwrite(run: &mut Run<'_>, words: &[&[u8]]) -> Outcome {
    let parsed = run.options(words, "b:BCFOqS:V:wW")?;
    let seed = run.seed(parsed.value(b'S'), 0xCD)?;
    let plan = plan(run, &parsed)?;
    for (what, value, word) in [
        ("offset argument", plan.offset, parsed.operands[0]),
        ("length argument", plan.count, parsed.operands[1]),
    ] {
        if value < 0 {
            return Err(not_numeric(what, word));
        }
    }
    let start = now_ns();
    let mut filled = 0;
    let done = transfer(run, &plan, "pwrite", &mut |run, buffer, position| {
        if filled < buffer.len() {
            buffer.fill(seed);
            filled = buffer.len();
        }
        run.cx.process.pwrite(run.fd(), &*buffer, position)
    })?;
    if parsed.has(b'W') {
        run.cx.process.fsync(run.fd()).map_err(|e| Failure::Call("fsync", e))?;
    }
    if parsed.has(b'w') {
        run.cx.process.fdatasync(run.fd()).map_err(|e| Failure::Call("fdatasync", e))?;
    }
    report(run.cx, "wrote", &plan, &done, now_ns() - start);
    Ok(())
}

type Step<'s> = dyn FnMut(&mut Run<'_>, &mut [u8], u64) -> holdfast_fs::Result<usize> + 's;

/// Move through the range block by block; a short transfer ends it.
fn transfer(
    run: &mut Run<'_>,
    plan: &Plan,
    name: &'static str,
    step: &mut Step<'_>,
) -> Result<Done, Failure> {
    let whole = plan.count < 0;
    let count = if whole { u64::MAX >> 1 } else { plan.count as u64 };
    let unit = if plan.once { count } else { plan.block };
    let mut buffer = buffer(unit.min(count))?;
    let mut done = Done { offset: plan.offset as u64, ..Done::default() };
    let (mut left, mut position) = (count, plan.offset as u64);
    while left > 0 && !buffer.is_empty() {
        let n = left.min(buffer.len() as u64);
        let at = if plan.backward { position.wrapping_sub(n) } else { position };
        let moved = step(run, &mut buffer[..n as usize], at).map_err(|e| Failure::Call(name, e))?;
        if moved == 0 {
            break;
        }
        done.ops += 1;
        done.bytes += moved as u64;
        position = if plan.backward { at } else { position.wrapping_add(moved as u64) };
        left -= moved as u64;
        if (moved as u64) < n || plan.once {
            break;
        }
    }
    if plan.backward {
        done.offset = plan.offset as u64;
    }
    Ok(done)
}

/// The two lines that end an operation on all of a range at once.
pub(super) fn report_range(
    run: &mut Run<'_>,
    verb: &str,
    (offset, bytes): (u64, u64),
    compact: bool,
    nanoseconds: u64,
) {
    let plan = Plan {
        block: bytes,
        offset: offset as i64,
        count: bytes as i64,
        backward: false,
        verbose: false,
        once: true,
        quiet: false,
        compact,
    };
    let done = Done { bytes, ops: 1, offset };
    report(run.cx, verb, &plan, &done, nanoseconds);
}

/// The two lines that end a transfer.
fn report(cx: &mut Context, verb: &str, plan: &Plan, done: &Done, nanoseconds: u64) {
    if plan.quiet {
        return;
    }
    let count = if plan.count < 0 { done.bytes } else { plan.count as u64 };
    // The original measures in microseconds.
    let seconds = (nanoseconds / 1000) as f64 / 1e6;
    let per_second = |n: u64| n as f64 / seconds;
    let (rate, ops) = (per_second(done.bytes), per_second(done.ops));
    if plan.compact {
        let time = duration(nanoseconds, true);
        out!(cx, "{},{},{time},{},{}\n", done.bytes, done.ops, fixed(rate, 3), fixed(ops, 3));
        return;
    }
    out!(cx, "{verb} {}/{count} bytes at offset {}\n", done.bytes, done.offset);
    out!(cx, "{}, {} ops; ", amount(done.bytes as f64), done.ops);
    out!(cx, "{} ({}/sec and ", duration(nanoseconds, false), amount(rate));
    out!(cx, "{} ops/sec)\n", fixed(ops, 4));
}
