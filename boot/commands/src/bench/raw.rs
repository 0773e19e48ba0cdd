//! The device itself against the same work through the file system.
//!
//! Raw transfers touch only the blocks of `/sb_seq`, at the request size and depth that the
//! file system was just seen to use. Raw reads copy each request once into the caller's
//! buffer. Raw writes put back what they overwrote before the next piece begins; nothing
//! of the file is dirty meanwhile, so no writeback can come between.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use holdfast_fs::block::{OpStatistics, QueueStatistics};
use holdfast_fs::syscall::{FiemapFlags, OpenFlags, RawTransfer};
use holdfast_sync::time::now_ns;

use super::data::seed_of;
use super::{Bench, MIB, Measured, Outcome, PAGE, Stopped, Unit, decimal, failed, median};
use crate::files::OpenFile;
use crate::out;

/// Both sides are measured so often, by turns; the medians count.
pub(super) const ROUNDS: usize = 5;

/// Bytes on the device.
pub(super) type Piece = (u64, u64);

/// What the device was asked for while something ran.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    request_bytes: u64,
    depth_hundredths: u64,
}

impl Shape {
    pub(super) fn of(op: &OpStatistics, all: &QueueStatistics) -> Self {
        Self { request_bytes: op.mean_bytes(), depth_hundredths: all.mean_depth_hundredths() }
    }
    /// The same shape in whole requests of whole pages, for raw transfers.
    pub(super) fn plan(&self, (pos, len): Piece) -> RawTransfer {
        let request_bytes = self.request_bytes.next_multiple_of(PAGE).clamp(PAGE, MIB) as usize;
        let depth = (self.depth_hundredths.div_ceil(100)).clamp(1, 64) as usize;
        RawTransfer { pos, len, request_bytes, depth }
    }
    fn text(&self) -> alloc::string::String {
        let depth = decimal(self.depth_hundredths, 100, 2);
        alloc::format!("requests of {} KiB, depth {depth}", decimal(self.request_bytes, 1024, 1))
    }
}

/// `bench raw`
pub(super) fn main(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    let file = bench.existing("/sb_seq", OpenFlags::RDWR)?;
    bench.cx.process.fsync(file.fd).map_err(failed("fsync"))?;
    let pieces = pieces(bench, &file)?;
    let device = bench.cx.system.root_device();
    let disk = OpenFile::new(&bench.cx.process, device.as_bytes(), OpenFlags::RDWR)
        .map_err(|e| Stopped::Skipped(super::errno_text(&device, &e)))?;
    reads(bench, &disk, &pieces)?;
    writes(bench, &file, &disk, &pieces)
}

/// Where the file's bytes lie, in order.
pub(super) fn pieces(bench: &Bench<'_>, file: &OpenFile) -> Outcome<Vec<Piece>> {
    let (mut pieces, mut odd, mut covered) = (Vec::new(), false, 0);
    let size = bench.size;
    let mapped = bench.cx.process.fiemap(file.fd, 0, size, true, &mut |e| {
        let strange = FiemapFlags::UNWRITTEN | FiemapFlags::SHARED | FiemapFlags::DELALLOC;
        odd |= e.flags.intersects(strange) || e.logical != covered;
        covered += e.length;
        let beyond = covered.saturating_sub(size);
        pieces.push((e.physical, e.length - beyond.min(e.length)));
        true
    });
    mapped.map_err(failed("fiemap"))?;
    if odd || covered < size {
        return Err(Stopped::Skipped("the file is not written all over".into()));
    }
    pieces.retain(|p| p.1 > 0);
    Ok(pieces)
}

/// Statistics of the device while `work` runs, and the nanoseconds it took.
pub(super) fn observed(
    bench: &mut Bench<'_>,
    work: &mut dyn FnMut(&mut Bench<'_>) -> Outcome,
) -> Outcome<(QueueStatistics, u64)> {
    let before = bench.cx.system.block_statistics();
    let t0 = now_ns();
    work(bench)?;
    let ns = now_ns() - t0;
    Ok((bench.cx.system.block_statistics().since(&before), ns))
}

fn reads(bench: &mut Bench<'_>, disk: &OpenFile, pieces: &[Piece]) -> Outcome {
    let size = bench.size;
    let (mut cold, mut raw) = (Vec::new(), Vec::new());
    let (mut cold_shape, mut raw_shape, mut good) = (None, None, true);
    for _ in 0..ROUNDS {
        bench.cx.system.drop_caches().map_err(failed("drop_caches"))?;
        let file = bench.existing("/sb_seq", OpenFlags::RDONLY)?;
        let (seen, ns) = observed(bench, &mut |bench| {
            (0..size).step_by(MIB as usize).try_for_each(|_| bench.read(file.fd, MIB as usize))
        })?;
        let seed = seed_of(bench, file.fd)?;
        let process = bench.cx.process.clone();
        good &= bench.data.check_sample(&process, file.fd, size, seed, 64);
        drop(file);
        let shape = Shape::of(&seen.read, &seen);
        cold_shape = Some(shape);
        cold.push(ns);
        // Nothing of the file in the cache, as before the other side.
        bench.cx.system.drop_caches().map_err(failed("drop_caches"))?;
        let (seen, ns) = observed(bench, &mut |bench| {
            pieces.iter().try_for_each(|piece| {
                let buffer = bench.data.buffer.as_mut_slice();
                let read = bench.cx.process.raw_read(disk.fd, shape.plan(*piece), buffer);
                read.map(drop).map_err(failed("raw read"))
            })
        })?;
        raw_shape = Some(Shape::of(&seen.read, &seen));
        raw.push(ns);
    }
    let (cold, raw) = (median(&mut cold), median(&mut raw));
    let measured = |ns| Measured { ops: size / MIB, bytes: size, ns };
    bench.report("cold_1m", "", &measured(cold), Unit::Megabytes, Some(good));
    bench.report("raw_read", "", &measured(raw), Unit::Megabytes, None);
    compare(bench, "cold_1m/raw_read", (raw, cold), cold_shape, raw_shape, 90);
    Ok(())
}

/// A ratio of rates, that is of times turned round, and both sides' shapes.
pub(super) fn compare(
    bench: &mut Bench<'_>,
    name: &str,
    (raw_ns, ns): (u64, u64),
    shape: Option<Shape>,
    raw_shape: Option<Shape>,
    wanted_percent: u64,
) {
    let ratio = decimal(raw_ns, ns, 3);
    let within = if raw_ns * 100 >= ns * wanted_percent { "reached" } else { "MISSED" };
    out!(bench.cx, "ratio {name}={ratio} wanted={} {within}\n", decimal(wanted_percent, 100, 2));
    let text = |s: Option<Shape>| s.map_or_else(Default::default, |s| s.text());
    out!(bench.cx, "      file system: {}; raw: {}\n", text(shape), text(raw_shape));
}

/// The pages of a range of bytes, every other one first: whoever writes front to back is
/// written behind.
pub(super) fn out_of_order(range: Range<u64>) -> impl Iterator<Item = u64> {
    let from = move |start: u64| (start..range.end).step_by(2 * PAGE as usize);
    from(range.start).chain(from(range.start + PAGE))
}

/// Bytes that can be dirty before writeback starts by itself.
pub(super) fn quiet_step(bench: &Bench<'_>) -> u64 {
    let limit = (bench.cx.system.memory().background_limit_kib << 10) * 3 / 4;
    (limit / PAGE * PAGE).clamp(16 * PAGE, 16 * MIB).min(bench.size)
}

/// Writeback of what was dirtied below the limit from which it starts by itself.
fn writes(bench: &mut Bench<'_>, file: &OpenFile, disk: &OpenFile, pieces: &[Piece]) -> Outcome {
    let step = quiet_step(bench);
    let (mut cooked, mut raw, mut total) = (0, 0, 0);
    let (mut shape, mut raw_shape) = (None, None);
    let mut kept = vec![0; step as usize];
    let mut seen_write = QueueStatistics::default();
    for (offset, piece) in steps(pieces, step, bench.size) {
        let seed = 3 + (offset / PAGE) % 2;
        for at in out_of_order(offset..offset + piece.1) {
            bench.pwrite(file.fd, at, PAGE as usize, seed)?;
        }
        let fd = file.fd;
        let (seen, ns) =
            observed(bench, &mut |bench| bench.cx.process.fsync(fd).map_err(failed("fsync")))?;
        cooked += ns;
        seen_write = add(&seen_write, &seen);
        let now = Shape::of(&seen_write.write, &seen_write);
        shape = Some(now);
        let (seen, ns) = raw_write(bench, disk, now.plan(piece), &mut kept)?;
        raw += ns;
        raw_shape = Some(Shape::of(&seen.write, &seen));
        total += piece.1;
    }
    let measured = |ns| Measured { ops: total / PAGE, bytes: total, ns };
    bench.report("writeback", "", &measured(cooked), Unit::Megabytes, None);
    bench.report("raw_write", "", &measured(raw), Unit::Megabytes, None);
    compare(bench, "writeback/raw_write", (raw, cooked), shape, raw_shape, 85);
    // What the raw writes put back is what the file must have.
    bench.cx.system.drop_caches().map_err(failed("drop_caches"))?;
    let mut good = true;
    for (offset, piece) in steps(pieces, step, bench.size) {
        let seed = 3 + (offset / PAGE) % 2;
        for at in [offset, offset + (piece.1 - PAGE) / PAGE * PAGE] {
            good &= bench.data.check_at(&bench.cx.process.clone(), file.fd, at, seed);
        }
    }
    bench.bad |= !good;
    out!(bench.cx, "      blocks put back: {}\n", if good { "ok" } else { "BAD" });
    Ok(())
}

/// The sums that make a shape.
fn add(a: &QueueStatistics, b: &QueueStatistics) -> QueueStatistics {
    let mut sum = *b;
    sum.write.requests += a.write.requests;
    sum.write.bytes += a.write.bytes;
    sum.completions += a.completions;
    sum.depth_sum += a.depth_sum;
    sum
}

/// The file in steps of at most so many bytes, none across an extent's end: the offset in
/// the file, and where it lies.
pub(super) fn steps(pieces: &[Piece], step: u64, size: u64) -> Vec<(u64, Piece)> {
    let (mut out, mut offset) = (Vec::new(), 0);
    for &(pos, len) in pieces {
        let mut at = 0;
        while at < len && offset < size {
            let n = step.min(len - at).min(size - offset);
            out.push((offset, (pos + at, n)));
            at += n;
            offset += n;
        }
    }
    out
}

/// Write and flush a piece of the device, timed, then put back what was there.
fn raw_write(
    bench: &mut Bench<'_>,
    disk: &OpenFile,
    plan: RawTransfer,
    kept: &mut Vec<u8>,
) -> Outcome<(QueueStatistics, u64)> {
    let process = bench.cx.process.clone();
    kept.resize(plan.len as usize, 0);
    let request = plan.request_bytes as u64;
    let parts = || {
        (0..plan.len).step_by(plan.request_bytes).map(move |at| {
            let len = request.min(plan.len - at);
            (
                at as usize,
                RawTransfer { pos: plan.pos + at, len, request_bytes: len as usize, depth: 1 },
            )
        })
    };
    for (at, part) in parts() {
        let buffer = &mut kept[at..at + part.request_bytes];
        process.raw_read(disk.fd, part, buffer).map_err(failed("raw read"))?;
    }
    let written = observed(bench, &mut |bench| {
        let buffer = bench.data.buffer.as_slice();
        process.raw_write(disk.fd, plan, buffer).map_err(failed("raw write"))?;
        process.fsync(disk.fd).map_err(failed("flush"))
    });
    // Put back whatever happened.
    let mut restored = Ok(());
    for (at, part) in parts() {
        let put = process.raw_write(disk.fd, part, &kept[at..at + part.request_bytes]);
        restored = restored.and(put.map(drop));
    }
    restored.map_err(failed("putting blocks back"))?;
    process.fsync(disk.fd).map_err(failed("flush"))?;
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_the_file_once() {
        let pieces = [(1 << 20, 3 * PAGE), (8 << 20, 10 * PAGE)];
        let all = steps(&pieces, 4 * PAGE, 12 * PAGE);
        let lens: Vec<u64> = all.iter().map(|s| s.1.1 / PAGE).collect();
        assert_eq!(lens, [3, 4, 4, 1]);
        assert_eq!(all[1], (3 * PAGE, (8 << 20, 4 * PAGE)));
        assert_eq!(all[3].1, ((8 << 20) + 8 * PAGE, PAGE));
    }

    #[test]
    fn shapes_become_whole_requests() {
        let shape = Shape { request_bytes: 100_000, depth_hundredths: 312 };
        let plan = shape.plan((4096, 1 << 20));
        assert_eq!((plan.request_bytes, plan.depth), (102_400, 4));
        let idle = Shape { request_bytes: 0, depth_hundredths: 0 }.plan((0, 4096));
        assert_eq!((idle.request_bytes, idle.depth), (4096, 1));
    }
}
