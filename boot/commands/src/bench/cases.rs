//! The cases that bear the names of the portable benchmark: the same loops, counts, data
//! and verification.

use holdfast_fs::syscall::{OpenFlags, Whence};
use holdfast_sync::time::now_ns;

use super::data::{Random, seed_of};
use super::{Bench, MIB, Measured, Outcome, PAGE, Unit, failed};

/// `rewr_4k`: rewrite a file in blocks of 4 KiB.
pub(super) fn rewrite(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let file = bench.ensure("/sb_seq", 3)?;
    let size = bench.size;
    rewind(bench, file.fd)?;
    let t0 = now_ns();
    for offset in (0..size).step_by(PAGE as usize) {
        bench.write(file.fd, offset, PAGE as usize, 4)?;
    }
    let t1 = now_ns();
    bench.cx.process.fsync(file.fd).map_err(failed("fsync"))?;
    let t2 = now_ns();
    let process = bench.cx.process.clone();
    let good = bench.data.check_sample(&process, file.fd, size, 4, 256);
    bench.both((name, "_sync"), [t0, t1, t2], (size / PAGE, size), Unit::Megabytes, Some(good));
    Ok(())
}

fn rewind(bench: &Bench<'_>, fd: i32) -> Outcome {
    bench.cx.process.lseek(fd, 0, Whence::Set).map(drop).map_err(failed("lseek"))
}

/// `cread_4k`
pub(super) fn cached_read_4k(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    cached_read(bench, name, PAGE, 2)
}

/// `cread_1m`
pub(super) fn cached_read_1m(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    cached_read(bench, name, MIB, 4)
}

fn cached_read(bench: &mut Bench<'_>, name: &'static str, block: u64, reps: u64) -> Outcome {
    let file = bench.ensure("/sb_rnd", 5)?;
    bench.warm(file.fd)?;
    rewind(bench, file.fd)?;
    read_sequential(bench, name, file.fd, block, 5, reps)
}

/// Read a file from front to back, `reps` times.
fn read_sequential(
    bench: &mut Bench<'_>,
    name: &'static str,
    fd: i32,
    block: u64,
    seed: u64,
    reps: u64,
) -> Outcome {
    let (size, mut good) = (bench.size, true);
    let t0 = now_ns();
    for rep in 0..reps {
        if rep > 0 {
            rewind(bench, fd)?;
        }
        for offset in (0..size).step_by(block as usize) {
            bench.read(fd, block as usize)?;
            good &= bench.data.starts_right(seed, offset);
        }
    }
    let ns = now_ns() - t0;
    let process = bench.cx.process.clone();
    good &= bench.data.check_sample(&process, fd, size, seed, 64);
    let measured = Measured { ops: reps * (size / block), bytes: reps * size, ns };
    bench.report(name, "", &measured, Unit::Megabytes, Some(good));
    Ok(())
}

/// `crand_4k`
pub(super) fn cached_random(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let file = bench.ensure("/sb_rnd", 5)?;
    bench.warm(file.fd)?;
    read_random(bench, name, file.fd, 5, 10_000)
}

fn read_random(bench: &mut Bench<'_>, name: &'static str, fd: i32, seed: u64, n: u64) -> Outcome {
    let (mut random, mut good) = (Random(0x123_4567), true);
    let t0 = now_ns();
    for _ in 0..n {
        let offset = random.page(bench.size);
        bench.pread(fd, offset, PAGE as usize)?;
        good &= bench.data.starts_right(seed, offset);
    }
    let measured = Measured { ops: n, bytes: n * PAGE, ns: now_ns() - t0 };
    bench.data.random = random;
    bench.report(name, "", &measured, Unit::Ops, Some(good));
    Ok(())
}

/// `rndw_4k`
pub(super) fn random_write(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    write_random(bench, name, 4000, false)
}

/// `rndw_4k_fsync1`: with an fsync after every write.
pub(super) fn random_write_fsync(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    write_random(bench, name, 100, true)
}

fn write_random(bench: &mut Bench<'_>, name: &'static str, n: u64, each: bool) -> Outcome {
    let file = bench.ensure("/sb_rw", 0)?;
    let (process, size) = (bench.cx.process.clone(), bench.size);
    let (start, seed) = (Random(0xAB_CDEF + u64::from(each)), 20 + u64::from(each));
    let mut random = start;
    let t0 = now_ns();
    for _ in 0..n {
        bench.pwrite(file.fd, random.page(size), PAGE as usize, seed)?;
        if each {
            process.fsync(file.fd).map_err(failed("fsync"))?;
        }
    }
    let t1 = now_ns();
    if !each {
        process.fsync(file.fd).map_err(failed("fsync"))?;
    }
    let t2 = now_ns();
    let (mut random, mut good) = (start, true);
    for _ in 0..n.min(512) {
        good &= bench.data.check_at(&process, file.fd, random.page(size), seed);
    }
    bench.data.random = random;
    if each {
        let measured = Measured { ops: n, bytes: n * PAGE, ns: t1 - t0 };
        bench.report(name, "", &measured, Unit::Ops, Some(good));
    } else {
        bench.both((name, "_sync"), [t0, t1, t2], (n, n * PAGE), Unit::Ops, Some(good));
    }
    Ok(())
}

/// `cold_1m`: sequential reading of what no cache holds.
pub(super) fn cold_sequential(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let (file, seed) = cold_file(bench)?;
    read_sequential(bench, name, file.fd, MIB, seed, 1)
}

/// `cold_rnd_4k`
pub(super) fn cold_random(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let (file, seed) = cold_file(bench)?;
    read_random(bench, name, file.fd, seed, 2000)
}

/// The file of the cold cases with whatever seed it has, nothing of it cached.
fn cold_file(bench: &mut Bench<'_>) -> Outcome<(crate::files::OpenFile, u64)> {
    let file = bench.ensure("/sb_seq", 0)?;
    let seed = seed_of(bench, file.fd)?;
    drop(file);
    bench.cx.process.sync();
    bench.cx.system.drop_caches().map_err(failed("drop_caches"))?;
    Ok((bench.existing("/sb_seq", OpenFlags::RDONLY)?, seed))
}
