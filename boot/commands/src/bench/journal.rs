//! What the log costs: bytes an operation, writes and flushes an fsync, how many fsyncs
//! share a write; and the instructions of operations that change metadata.

use alloc::format;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::{OpenFlags, Prot};
use holdfast_fs::xfs::log::LogStatistics;
use holdfast_sync::thread::{Priority, spawn};
use holdfast_sync::time::now_ns;

use super::{Bench, Outcome, PAGE, Stopped, decimal, failed, median};
use crate::files::OpenFile;
use crate::out;

/// Operations whose log bytes are counted together.
const OPS: u64 = 1000;
/// Appends made durable one by one.
const APPENDS: u64 = 200;
/// Threads that do so at once.
const THREADS: u64 = 8;
const DIR: &[u8] = b"/sb_j";

fn path(letter: char, i: u64) -> Vec<u8> {
    format!("/sb_j/{letter}{i}").into_bytes()
}

/// `bench journal`
pub(super) fn main(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    fresh_directory(bench)?;
    let process = bench.cx.process.clone();
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY;
    bytes_each(bench, "create", 295, &mut |i| {
        OpenFile::new(&process, &path('f', i), flags).map(drop)
    })?;
    bytes_each(bench, "unlink", 265, &mut |i| process.unlink(&path('f', i)))?;
    one_appender(bench)?;
    many_appenders(bench)?;
    process.rmdir(DIR).map_err(failed("rmdir"))
}

fn fresh_directory(bench: &Bench<'_>) -> Outcome {
    match bench.cx.process.mkdir(DIR, 0o755) {
        Ok(()) | Err(Error::Exists) => Ok(()),
        Err(e) => Err(Stopped::Skipped(super::errno_text("/sb_j", &e))),
    }
}

type Operation<'a> = dyn FnMut(u64) -> Result<(), Error> + 'a;

/// Log bytes of an operation, after many of them and a sync.
fn bytes_each(bench: &mut Bench<'_>, name: &str, linux: u64, op: &mut Operation<'_>) -> Outcome {
    bench.cx.process.sync();
    let before = bench.cx.system.log_statistics();
    for i in 0..OPS {
        op(i).map_err(failed("a change of names"))?;
    }
    bench.cx.process.sync();
    let log = bench.cx.system.log_statistics().since(&before);
    let each = log.log_bytes / OPS;
    let within = if each * 2 <= linux * 3 { "reached" } else { "MISSED" };
    out!(bench.cx, "journal {name} log_bytes={each} linux={linux} wanted={} ", linux * 3 / 2);
    out!(bench.cx, "{within} writes={} flushes={}\n", log.log_writes, log.flushes);
    Ok(())
}

fn append(bench: &Bench<'_>, letter: char) -> Outcome<OpenFile> {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::APPEND | OpenFlags::TRUNC;
    OpenFile::new(&bench.cx.process, &path(letter, 0), flags).map_err(failed("open"))
}

/// 4 KiB at the end of a file, durable each time.
fn one_appender(bench: &mut Bench<'_>) -> Outcome {
    let file = append(bench, 'a')?;
    let process = bench.cx.process.clone();
    bench.cx.process.sync();
    let (log, disk) = (bench.cx.system.log_statistics(), bench.cx.system.block_statistics());
    let t0 = now_ns();
    for i in 0..APPENDS {
        bench.write(file.fd, i * PAGE, PAGE as usize, 7)?;
        process.fdatasync(file.fd).map_err(failed("fdatasync"))?;
    }
    let ns = now_ns() - t0;
    let log = bench.cx.system.log_statistics().since(&log);
    let disk = bench.cx.system.block_statistics().since(&disk);
    let each = |n: u64| decimal(n, APPENDS, 2);
    let flushes = each(disk.flush.requests);
    tell(bench, "append_4k_fdatasync", &log, APPENDS);
    out!(bench.cx, " disk_flushes={flushes} us={}\n", ns / APPENDS / 1000);
    process.unlink(&path('a', 0)).map_err(failed("unlink"))
}

fn tell(bench: &mut Bench<'_>, name: &str, log: &LogStatistics, ops: u64) {
    let each = |n: u64| decimal(n, ops, 2);
    out!(bench.cx, "journal {name} log_bytes={} ", log.log_bytes / ops);
    out!(bench.cx, "log_writes={} flushes={}", each(log.log_writes), each(log.flushes));
}

/// The same by several threads, each on a file of its own.
fn many_appenders(bench: &mut Bench<'_>) -> Outcome {
    let files: Vec<OpenFile> = ('p'..)
        .take(THREADS as usize)
        .map(|letter| append(bench, letter))
        .collect::<Result<_, _>>()?;
    bench.cx.process.sync();
    let before = bench.cx.system.log_statistics();
    let threads: Vec<_> = files
        .into_iter()
        .map(|file| {
            let process = bench.cx.process.clone();
            spawn("bench-appender", Priority::Normal, move || {
                // All of it moves here, not its number alone.
                let file = file;
                let bytes = alloc::vec![0x5A; PAGE as usize];
                for _ in 0..APPENDS / 4 {
                    process.write(file.fd, bytes.as_slice())?;
                    process.fdatasync(file.fd)?;
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for thread in threads {
        thread.join().map_err(failed("an appender"))?;
    }
    let log = bench.cx.system.log_statistics().since(&before);
    let ops = THREADS * (APPENDS / 4);
    tell(bench, "append_8_threads", &log, ops);
    let shared = decimal(ops, log.log_writes.max(1), 2);
    let within = if ops >= 4 * log.log_writes { "reached" } else { "MISSED" };
    out!(bench.cx, " fsyncs_a_write={shared} wanted=4 {within}\n");
    for letter in ('p'..).take(THREADS as usize) {
        bench.cx.process.unlink(&path(letter, 0)).map_err(failed("unlink"))?;
    }
    Ok(())
}

/// Operations of one batch.
const BATCH: u64 = 64;
/// Batches; their median counts.
const BATCHES: u64 = 15;

/// The operations and what Linux 6.1 with XFS spends on each, in instructions.
const LINUX: [(&str, u64); 7] = [
    ("append_4k", 7_553),
    ("hole_store", 5_472),
    ("create_4k_close", 57_232),
    ("rename", 44_268),
    ("unlink", 48_155),
    ("mkdir", 40_821),
    ("append_3000", 7_497),
];

/// `bench insn_change`: as `bench insn`, of operations that change metadata.
pub(super) fn instructions(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    fresh_directory(bench)?;
    let mut costs: Vec<Vec<u64>> = alloc::vec![Vec::new(); LINUX.len()];
    for _ in 0..BATCHES {
        for ((name, _), costs) in LINUX.iter().zip(&mut costs) {
            let ns = batch(bench, name)?;
            costs.push(ns / BATCH);
        }
        for i in 0..BATCH {
            bench.cx.process.rmdir(&path('d', i)).map_err(failed("rmdir"))?;
        }
        bench.cx.process.sync();
    }
    for ((name, linux), costs) in LINUX.iter().zip(&mut costs) {
        let cost = median(costs);
        let within = if cost * 2 <= *linux { "reached" } else { "MISSED" };
        out!(bench.cx, "insn {name} ns={cost} linux={linux} wanted={} {within}\n", linux / 2);
    }
    bench.cx.process.rmdir(DIR).map_err(failed("rmdir"))
}

fn batch(bench: &mut Bench<'_>, name: &str) -> Outcome<u64> {
    let process = bench.cx.process.clone();
    let creating = OpenFlags::CREAT | OpenFlags::WRONLY;
    match name {
        "append_4k" | "append_3000" => {
            let len = if name == "append_4k" { PAGE as usize } else { 3000 };
            let file = append(bench, 'a')?;
            let t0 = now_ns();
            for _ in 0..BATCH {
                let bytes = &bench.data.pattern[..len];
                process.write(file.fd, bytes).map_err(failed("write"))?;
            }
            let ns = now_ns() - t0;
            drop(file);
            process.unlink(&path('a', 0)).map_err(failed("unlink"))?;
            Ok(ns)
        }
        "hole_store" => {
            let flags = OpenFlags::CREAT | OpenFlags::RDWR;
            let file = OpenFile::new(&process, &path('m', 0), flags).map_err(failed("open"))?;
            let size = BATCH * PAGE;
            process.ftruncate(file.fd, size).map_err(failed("ftruncate"))?;
            let addr = bench.map(file.fd, size, Prot::READ | Prot::WRITE)?;
            let t0 = now_ns();
            for page in 0..BATCH {
                process.store(addr.add(page * PAGE), &[1]).map_err(failed("store"))?;
            }
            let ns = now_ns() - t0;
            bench.unmap(addr, size)?;
            drop(file);
            process.unlink(&path('m', 0)).map_err(failed("unlink"))?;
            Ok(ns)
        }
        "create_4k_close" => timed(&mut |i| {
            let file = OpenFile::new(&process, &path('f', i), creating)?;
            process.write(file.fd, &bench.data.pattern[..PAGE as usize]).map(drop)
        }),
        "rename" => timed(&mut |i| process.rename(&path('f', i), &path('r', i))),
        "unlink" => timed(&mut |i| process.unlink(&path('r', i))),
        _ => timed(&mut |i| process.mkdir(&path('d', i), 0o755)),
    }
}

fn timed(op: &mut Operation<'_>) -> Outcome<u64> {
    let t0 = now_ns();
    for i in 0..BATCH {
        op(i).map_err(failed("a change"))?;
    }
    Ok(now_ns() - t0)
}
