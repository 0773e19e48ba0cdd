//! New files, written front to back: how fast against the device itself, and in how many
//! extents they end up when several grow at the same time.
//!
//! The raw transfers go to the very blocks that the new file got, at the request size and
//! depth that the file system was just seen to use; the file was checked before, and is
//! removed afterwards.

use alloc::format;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::OpenFlags;
use holdfast_sync::thread::{Priority, spawn};
use holdfast_sync::time::now_ns;

use super::raw::{ROUNDS, Shape, compare, observed, out_of_order, pieces, quiet_step, steps};
use super::{
    Bench, MIB, Measured, Outcome, PAGE, Stopped, Unit, decimal, errno_text, failed, median,
};
use crate::files::OpenFile;
use crate::out;

const PATH: &str = "/sb_grow";
const SEED: u64 = 9;

/// `bench grow`: write a new file, with the closing fsync; then the same bytes raw.
pub(super) fn main(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    let device = bench.cx.system.root_device();
    let disk = OpenFile::new(&bench.cx.process, device.as_bytes(), OpenFlags::RDWR)
        .map_err(|e| Stopped::Skipped(errno_text(&device, &e)))?;
    let (mut grown, mut raw) = (Vec::new(), Vec::new());
    let (mut shape, mut raw_shape, mut good, mut extents) = (None, None, true, 0);
    let (size, process) = (bench.size, bench.cx.process.clone());
    for _ in 0..ROUNDS {
        let file = bench.fresh(PATH, OpenFlags::empty())?;
        process.sync();
        let (seen, ns) = observed(bench, &mut |bench| {
            for offset in (0..size).step_by(MIB as usize) {
                bench.write(file.fd, offset, MIB as usize, SEED)?;
            }
            process.fsync(file.fd).map_err(failed("fsync"))
        })?;
        grown.push(ns);
        let now = Shape::of(&seen.write, &seen);
        shape = Some(now);
        good &= bench.data.check_sample(&process, file.fd, size, SEED, 64);
        let places = pieces(bench, &file)?;
        extents = places.len();
        let (seen, ns) = observed(bench, &mut |bench| {
            for piece in &places {
                let buffer = bench.data.buffer.as_slice();
                let written = process.raw_write(disk.fd, now.plan(*piece), buffer);
                written.map_err(failed("raw write"))?;
            }
            process.fsync(disk.fd).map_err(failed("flush"))
        })?;
        raw.push(ns);
        raw_shape = Some(Shape::of(&seen.write, &seen));
        drop(file);
        process.unlink(PATH.as_bytes()).map_err(failed("unlink"))?;
    }
    let (grown, raw) = (median(&mut grown), median(&mut raw));
    let measured = |ns| Measured { ops: size / MIB, bytes: size, ns };
    bench.report("grow_1m", "_sync", &measured(grown), Unit::Megabytes, Some(good));
    bench.report("raw_write", "_sync", &measured(raw), Unit::Megabytes, None);
    compare(bench, "grow_1m_sync/raw_write_sync", (raw, grown), shape, raw_shape, 85);
    out!(bench.cx, "      the new file lies in {extents} extents\n");
    writeback(bench, &disk)
}

/// The part of it that the device has: a new file grows by steps too small for writeback to
/// start by itself; only each step's fsync is timed, with allocation, conversion and log.
fn writeback(bench: &mut Bench<'_>, disk: &OpenFile) -> Outcome {
    let (size, step, process) = (bench.size, quiet_step(bench), bench.cx.process.clone());
    let file = bench.fresh(PATH, OpenFlags::empty())?;
    process.sync();
    let (mut grown, mut raw, mut shape, mut raw_shape) = (0, 0, None, None);
    for start in (0..size).step_by(step as usize) {
        for offset in out_of_order(start..size.min(start + step)) {
            bench.pwrite(file.fd, offset, PAGE as usize, SEED)?;
        }
        let (seen, ns) = observed(bench, &mut |_| process.fsync(file.fd).map_err(failed("fsync")))?;
        grown += ns;
        shape = Some(Shape::of(&seen.write, &seen));
    }
    let good = bench.data.check_sample(&process, file.fd, size, SEED, 64);
    for (_, piece) in steps(&pieces(bench, &file)?, step, size) {
        let Some(shape) = shape else { break };
        let (seen, ns) = observed(bench, &mut |bench| {
            let buffer = bench.data.buffer.as_slice();
            let written = process.raw_write(disk.fd, shape.plan(piece), buffer);
            written.map_err(failed("raw write"))?;
            process.fsync(disk.fd).map_err(failed("flush"))
        })?;
        raw += ns;
        raw_shape = Some(Shape::of(&seen.write, &seen));
    }
    let measured = |ns| Measured { ops: size / PAGE, bytes: size, ns };
    bench.report("grow_writeback", "", &measured(grown), Unit::Megabytes, Some(good));
    bench.report("raw_write", "", &measured(raw), Unit::Megabytes, None);
    compare(bench, "grow_writeback/raw_write", (raw, grown), shape, raw_shape, 85);
    drop(file);
    process.unlink(PATH.as_bytes()).map_err(failed("unlink"))
}

/// Bytes of one write of `bench extents`.
const PIECE: usize = 64 << 10;

/// `bench extents`: several threads write a file each, front to back, at the same time;
/// all files together are as large as `--size` says.
pub(super) fn extents(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    for threads in [1, 4, 8] {
        at_once(bench, threads)?;
    }
    Ok(())
}

fn at_once(bench: &mut Bench<'_>, threads: u64) -> Outcome {
    let each = (bench.size / threads / PIECE as u64).max(1) * PIECE as u64;
    let name = |i: u64| format!("/sb_x{i}");
    let process = bench.cx.process.clone();
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    process.sync();
    let t0 = now_ns();
    let writers: Vec<_> = (0..threads)
        .map(|i| {
            let (process, path) = (process.clone(), name(i));
            spawn("bench-grower", Priority::Normal, move || {
                let file = OpenFile::new(&process, path.as_bytes(), flags)?;
                let bytes = alloc::vec![i as u8 + 1; PIECE];
                for _ in 0..each / PIECE as u64 {
                    process.write(file.fd, bytes.as_slice())?;
                }
                process.fsync(file.fd)
            })
        })
        .collect();
    let written: Vec<Result<(), Error>> = writers.into_iter().map(|w| w.join()).collect();
    let ns = now_ns() - t0;
    written.into_iter().collect::<Result<(), Error>>().map_err(failed("a writer"))?;
    let (mut counts, mut good) = (Vec::new(), true);
    for i in 0..threads {
        let file = OpenFile::new(&process, name(i).as_bytes(), OpenFlags::RDONLY);
        let file = file.map_err(failed("open"))?;
        let mut count = 0_u64;
        let counted = process.fiemap(file.fd, 0, each, true, &mut |_| {
            count += 1;
            true
        });
        counted.map_err(failed("fiemap"))?;
        counts.push(count);
        bench.pread(file.fd, each - PIECE as u64, PIECE)?;
        good &= bench.data.buffer[..PIECE].iter().all(|b| *b == i as u8 + 1);
        drop(file);
        process.unlink(name(i).as_bytes()).map_err(failed("unlink"))?;
    }
    let bytes = threads * each;
    let label = format!("extents_{threads}_threads");
    let measured = Measured { ops: bytes / PIECE as u64, bytes, ns };
    bench.report(&label, "", &measured, Unit::Megabytes, Some(good));
    let total: u64 = counts.iter().sum();
    let a_gib = decimal(total << 30, bytes, 1);
    let list: Vec<_> = counts.iter().map(|n| format!("{n}")).collect();
    out!(bench.cx, "      extents: {total}, a file: {}, a GiB: {a_gib}\n", list.join(" "));
    Ok(())
}
