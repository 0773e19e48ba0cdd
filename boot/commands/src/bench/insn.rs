//! The cost of one operation on cached data, in nanoseconds of the guest: with
//! `-icount shift=0` one nanosecond is one instruction. Scaling over processors. And a
//! proof that a cached write() waits for no disk.

use alloc::vec::Vec;

use holdfast_fs::syscall::{OpenFlags, Prot};
use holdfast_sync::thread::{Priority, spawn};
use holdfast_sync::time::now_ns;

use super::data::Random;
use super::raw::out_of_order;
use super::{Bench, Measured, Outcome, PAGE, Stopped, Unit, decimal, failed, median};
use crate::files::OpenFile;
use crate::out;

/// Pages each batch works on, at most.
const BATCH: u64 = 256;
/// Batches; their median counts.
const BATCHES: usize = 33;

/// The operations and what Linux 6.1 with XFS spends on each, in instructions.
const LINUX: [(&str, u64); 4] = [
    ("cached_read_4k", 2514),
    ("cached_rewrite_4k", 4927),
    ("first_store", 5371),
    ("read_fault", 590),
];

/// `bench insn`
pub(super) fn main(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    let file = bench.existing("/sb_rnd", OpenFlags::RDWR)?;
    let pages = batch_pages(bench);
    for page in 0..pages {
        bench.pread(file.fd, page * PAGE, PAGE as usize)?;
    }
    let kept = keep(bench, &file, pages)?;
    for (name, linux) in LINUX {
        let mut costs = Vec::new();
        for _ in 0..BATCHES {
            costs.push(batch(bench, &file, name, pages, &kept)?);
        }
        let cost = median(&mut costs);
        let within = if cost * 2 <= linux { "reached" } else { "MISSED" };
        out!(bench.cx, "insn {name} ns={cost} linux={linux} wanted={} {within}\n", linux / 2);
        bench.cx.flush();
    }
    bench.cx.process.fsync(file.fd).map_err(failed("fsync"))
}

/// As many pages as a batch may dirty without waking anybody.
fn batch_pages(bench: &Bench<'_>) -> u64 {
    let background = bench.cx.system.memory().background_limit_kib / 4;
    BATCH.min(background * 3 / 4).clamp(8, bench.size / PAGE)
}

/// The pages' bytes, so that rewriting changes nothing.
fn keep(bench: &Bench<'_>, file: &OpenFile, pages: u64) -> Outcome<Vec<u8>> {
    let mut kept = alloc::vec![0; (pages * PAGE) as usize];
    let mut done = 0;
    while done < kept.len() {
        let n = bench.cx.process.pread(file.fd, &mut kept[done..], done as u64);
        match n.map_err(failed("pread"))? {
            0 => return Err(Stopped::Failed("pread: end of file".into())),
            n => done += n,
        }
    }
    Ok(kept)
}

/// Nanoseconds an operation, over one batch.
fn batch(
    bench: &mut Bench<'_>,
    file: &OpenFile,
    name: &str,
    pages: u64,
    kept: &[u8],
) -> Outcome<u64> {
    let process = bench.cx.process.clone();
    let len = pages * PAGE;
    let block = |page: u64| &kept[(page * PAGE) as usize..((page + 1) * PAGE) as usize];
    let ns = match name {
        "cached_read_4k" => {
            let buffer = &mut bench.data.buffer[..PAGE as usize];
            let t0 = now_ns();
            for page in 0..pages {
                process.pread(file.fd, &mut *buffer, page * PAGE).map_err(failed("pread"))?;
            }
            now_ns() - t0
        }
        "cached_rewrite_4k" => {
            let t0 = now_ns();
            for page in 0..pages {
                process.pwrite(file.fd, block(page), page * PAGE).map_err(failed("pwrite"))?;
            }
            now_ns() - t0
        }
        "first_store" => {
            // Clean pages, mapped nowhere: each store is the first.
            process.fsync(file.fd).map_err(failed("fsync"))?;
            let addr = bench.map(file.fd, len, Prot::READ | Prot::WRITE)?;
            let t0 = now_ns();
            for page in 0..pages {
                let byte = &block(page)[2048..2049];
                process.store(addr.add(page * PAGE + 2048), byte).map_err(failed("store"))?;
            }
            let ns = now_ns() - t0;
            bench.unmap(addr, len)?;
            ns
        }
        _ => {
            let mut byte = [0];
            let addr = bench.map(file.fd, len, Prot::READ)?;
            let t0 = now_ns();
            for page in 0..pages {
                process.load(addr.add(page * PAGE), &mut byte).map_err(failed("load"))?;
            }
            let ns = now_ns() - t0;
            bench.unmap(addr, len)?;
            ns
        }
    };
    Ok(ns / pages)
}

/// Reads of 4 KiB in each measurement of `bench scaling`, by each thread.
const SCALING_OPS: u64 = 20_000;
/// Pairs of measurements; their median counts.
const PAIRS: usize = 7;

/// `bench scaling`: cached reads by one thread and by two, by turns.
pub(super) fn scaling(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    let file = bench.existing("/sb_rnd", OpenFlags::RDONLY)?;
    // Half a cache, at most: what is read stays cached.
    let cache = bench.cx.system.memory().cache_limit_kib << 9;
    let span = (cache / PAGE * PAGE).clamp(PAGE, bench.size);
    for offset in (0..span).step_by(PAGE as usize) {
        bench.pread(file.fd, offset, PAGE as usize)?;
    }
    let before = bench.cx.system.block_statistics();
    let counters = bench.cx.system.counters();
    let mut ratios = Vec::new();
    for _ in 0..PAIRS {
        let one = measure(bench, &file, span, 1)?;
        let two = measure(bench, &file, span, 2)?;
        // Thousandths: two threads do twice the work.
        ratios.push(2000 * one / two.max(1));
    }
    let list: Vec<_> = ratios.iter().map(|r| decimal(*r, 1000, 2)).collect();
    let ratio = decimal(median(&mut ratios), 1000, 3);
    let reads = bench.cx.system.block_statistics().since(&before).read.requests;
    out!(bench.cx, "scaling cached_read_4k two/one={ratio} of {} pairs: ", PAIRS);
    out!(bench.cx, "{} (disk reads meanwhile: {reads})\n", list.join(" "));
    let (pairs, ops) = (PAIRS as u64, SCALING_OPS);
    out!(bench.cx, "      in {} reads and {} threads started:\n", 3 * pairs * ops, 3 * pairs);
    for ((name, now), (_, then)) in bench.cx.system.counters().into_iter().zip(counters) {
        out!(bench.cx, "      {name} {}\n", now - then);
    }
    Ok(())
}

/// Nanoseconds for so many threads to read, each at its own random positions.
fn measure(bench: &Bench<'_>, file: &OpenFile, span: u64, threads: u64) -> Outcome<u64> {
    let t0 = now_ns();
    let readers: Vec<_> = (0..threads)
        .map(|i| {
            let (process, fd) = (bench.cx.process.clone(), file.fd);
            spawn("bench-reader", Priority::Normal, move || {
                let (mut random, mut buffer) =
                    (Random(0x123_4567 + i), alloc::vec![0; PAGE as usize]);
                for _ in 0..SCALING_OPS {
                    process.pread(fd, buffer.as_mut_slice(), random.page(span))?;
                }
                Ok(())
            })
        })
        .collect();
    for reader in readers {
        reader.join().map_err(failed("pread"))?;
    }
    Ok(now_ns() - t0)
}

/// `cached_write_io`: write() into cached pages, below the limits, starts no I/O.
pub(super) fn cached_write_io(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let file = bench.existing("/sb_rnd", OpenFlags::RDWR)?;
    let pages = batch_pages(bench);
    let kept = keep(bench, &file, pages)?;
    let process = bench.cx.process.clone();
    process.sync();
    for page in 0..pages {
        bench.pread(file.fd, page * PAGE, PAGE as usize)?;
    }
    let before = bench.cx.system.block_statistics();
    let t0 = now_ns();
    for at in out_of_order(0..pages * PAGE) {
        let block = &kept[at as usize..(at + PAGE) as usize];
        process.pwrite(file.fd, block, at).map_err(failed("pwrite"))?;
    }
    let ns = now_ns() - t0;
    let seen = bench.cx.system.block_statistics().since(&before);
    let requests = seen.read.requests + seen.write.requests + seen.flush.requests;
    let measured = Measured { ops: pages, bytes: pages * PAGE, ns };
    bench.report(name, "", &measured, Unit::Ops, Some(requests == 0));
    out!(bench.cx, "      {requests} disk requests during {pages} cached writes\n");
    process.fsync(file.fd).map_err(failed("fsync"))
}
