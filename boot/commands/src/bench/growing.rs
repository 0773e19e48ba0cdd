//! The cases that make files, grow them, and change names; and the log's part in them.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::{FallocateMode, OpenFlags, Prot};
use holdfast_sync::time::now_ns;

use super::data::Random;
use super::{Bench, MIB, Measured, Outcome, PAGE, Unit, failed};
use crate::files::OpenFile;

/// Files of the cases about names.
const FILES: u64 = 1000;
/// Period of the stream that knows no block.
const PRIME: usize = 1_048_573;

/// Bytes that repeat after [`PRIME`], so that no two blocks are alike.
struct Stream(Vec<u8>);

impl Stream {
    fn new() -> Self {
        // The generator goes on where the pattern of whole blocks ends.
        let mut random = Random(0x5_DEEC_E66D);
        for _ in 0..MIB / 8 {
            random.next();
        }
        let mut bytes = vec![0; PRIME + 8192];
        for word in bytes[..PRIME + 3].chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        bytes.copy_within(0..8192, PRIME);
        Self(bytes)
    }
    fn at(&self, offset: u64, len: usize) -> &[u8] {
        let start = (offset % PRIME as u64) as usize;
        &self.0[start..start + len]
    }
}

impl Bench<'_> {
    /// An empty file of this name, made anew.
    pub(super) fn fresh(&self, path: &str, flags: OpenFlags) -> Outcome<OpenFile> {
        match self.cx.process.unlink(path.as_bytes()) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(e) => return Err(failed("unlink")(e)),
        }
        let flags = flags | OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::TRUNC;
        OpenFile::new(&self.cx.process, path.as_bytes(), flags).map_err(failed("open"))
    }
    fn fsync(&self, fd: i32) -> Outcome {
        self.cx.process.fsync(fd).map_err(failed("fsync"))
    }
}

/// `seqw_4k`
pub(super) fn write_4k(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    sequential(bench, name, PAGE, 1)
}

/// `seqw_64k`
pub(super) fn write_64k(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    sequential(bench, name, 16 * PAGE, 2)
}

/// `seqw_1m`
pub(super) fn write_1m(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    sequential(bench, name, MIB, 3)
}

/// Write a new file from front to back.
fn sequential(bench: &mut Bench<'_>, name: &'static str, block: u64, seed: u64) -> Outcome {
    let file = bench.fresh("/sb_seq", OpenFlags::empty())?;
    let size = bench.size;
    let t0 = now_ns();
    for offset in (0..size).step_by(block as usize) {
        bench.write(file.fd, offset, block as usize, seed)?;
    }
    let t1 = now_ns();
    bench.fsync(file.fd)?;
    let t2 = now_ns();
    let process = bench.cx.process.clone();
    let good = bench.data.check_sample(&process, file.fd, size, seed, 256);
    let amount = (size / block, size);
    bench.both((name, "_sync"), [t0, t1, t2], amount, Unit::Megabytes, Some(good));
    Ok(())
}

/// `append_512_fds`: 512 bytes at the end of a file, durable each time.
pub(super) fn append(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    const OPS: u64 = 200;
    let file = bench.fresh("/sb_app", OpenFlags::APPEND)?;
    let (stream, process) = (Stream::new(), bench.cx.process.clone());
    let t0 = now_ns();
    for i in 0..OPS {
        process.write(file.fd, stream.at(i * 512, 512)).map_err(failed("append"))?;
        process.fdatasync(file.fd).map_err(failed("fdatasync"))?;
    }
    let ns = now_ns() - t0;
    let mut good = true;
    for i in 0..OPS {
        bench.pread(file.fd, i * 512, 512)?;
        good &= bench.data.buffer[..512] == *stream.at(i * 512, 512);
    }
    let measured = Measured { ops: OPS, bytes: OPS * 512, ns };
    bench.report(name, "", &measured, Unit::Ops, Some(good));
    Ok(())
}

/// `create_4k`, `stat`, `open_read`, `rename`, `unlink`, `mkdir`, `rmdir`: one after the
/// other, whichever is asked for.
pub(super) fn names(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    if core::mem::replace(&mut bench.names_done, true) {
        return Ok(());
    }
    match bench.cx.process.mkdir(b"/sb_d", 0o755) {
        Ok(()) | Err(Error::Exists) => {}
        Err(e) => return Err(failed("mkdir")(e)),
    }
    let path = |letter: char, i: u64| format!("/sb_d/{letter}{i}").into_bytes();
    create(bench, &path)?;
    let process = bench.cx.process.clone();
    let mut good = true;
    timed(bench, "stat", 0, &mut |_, i| {
        let stat = process.stat(&path('f', i)).map_err(failed("stat"))?;
        good &= stat.size == PAGE;
        Ok(())
    })?;
    timed(bench, "open_read", PAGE, &mut |bench, i| {
        let file = OpenFile::read(&process, &path('f', i)).map_err(failed("open"))?;
        bench.read(file.fd, PAGE as usize)?;
        good &= bench.data.starts_right(1000 + i, 0);
        Ok(())
    })?;
    timed(bench, "rename", 0, &mut |_, i| {
        process.rename(&path('f', i), &path('r', i)).map_err(failed("rename"))
    })?;
    good &= process.stat(&path('f', 0)).is_err();
    let t0 = now_ns();
    for i in 0..FILES {
        process.unlink(&path('r', i)).map_err(failed("unlink"))?;
    }
    let t1 = now_ns();
    sync_directory(bench)?;
    let t2 = now_ns();
    good &= process.stat(&path('r', FILES / 2)).is_err();
    bench.both(("unlink", "_dirsync"), [t0, t1, t2], (FILES, 0), Unit::Ops, Some(good));
    timed(bench, "mkdir", 0, &mut |_, i| {
        process.mkdir(&path('d', i), 0o755).map_err(failed("mkdir"))
    })?;
    timed(bench, "rmdir", 0, &mut |_, i| process.rmdir(&path('d', i)).map_err(failed("rmdir")))?;
    process.rmdir(b"/sb_d").map_err(failed("rmdir"))
}

fn create(bench: &mut Bench<'_>, path: &dyn Fn(char, u64) -> Vec<u8>) -> Outcome {
    let flags = OpenFlags::CREAT | OpenFlags::WRONLY | OpenFlags::TRUNC;
    let process = bench.cx.process.clone();
    let t0 = now_ns();
    for i in 0..FILES {
        let file = OpenFile::new(&process, &path('f', i), flags).map_err(failed("open"))?;
        bench.write(file.fd, 0, PAGE as usize, 1000 + i)?;
    }
    let t1 = now_ns();
    sync_directory(bench)?;
    let t2 = now_ns();
    let amount = (FILES, FILES * PAGE);
    bench.both(("create_4k", "_dirsync"), [t0, t1, t2], amount, Unit::Ops, None);
    Ok(())
}

fn sync_directory(bench: &Bench<'_>) -> Outcome {
    let dir = OpenFile::new(&bench.cx.process, b"/sb_d", OpenFlags::DIRECTORY);
    bench.fsync(dir.map_err(failed("open"))?.fd)
}

type Step<'a> = dyn FnMut(&mut Bench<'_>, u64) -> Outcome + 'a;

/// One operation for each file.
fn timed(bench: &mut Bench<'_>, name: &str, bytes_each: u64, step: &mut Step<'_>) -> Outcome {
    let t0 = now_ns();
    for i in 0..FILES {
        step(bench, i)?;
    }
    let measured = Measured { ops: FILES, bytes: FILES * bytes_each, ns: now_ns() - t0 };
    bench.report(name, "", &measured, Unit::Ops, None);
    Ok(())
}

/// `mmapw_sparse`: one store into every page of a hole.
pub(super) fn store_sparse(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let value = |offset: u64| (offset >> 12) as u8 | 1;
    let file = bench.fresh("/sb_mm", OpenFlags::empty())?;
    let (process, size) = (bench.cx.process.clone(), bench.size);
    process.ftruncate(file.fd, size).map_err(failed("ftruncate"))?;
    let addr = bench.map(file.fd, size, Prot::READ | Prot::WRITE)?;
    let t0 = now_ns();
    for offset in (0..size).step_by(PAGE as usize) {
        process.store(addr.add(offset + 7), &[value(offset)]).map_err(failed("store"))?;
    }
    let t1 = now_ns();
    bench.msync(addr, size)?;
    let t2 = now_ns();
    bench.unmap(addr, size)?;
    let mut good = true;
    for _ in 0..256 {
        let offset = bench.data.random.page(size);
        bench.pread(file.fd, offset, PAGE as usize)?;
        let page = &bench.data.buffer[..PAGE as usize];
        good &= page[7] == value(offset) && page[8] == 0 && page[PAGE as usize - 1] == 0;
    }
    bench.both((name, "_msync"), [t0, t1, t2], (size / PAGE, size), Unit::Ops, Some(good));
    drop(file);
    process.unlink(b"/sb_mm").map_err(failed("unlink"))
}

/// `falloc`, `falloc_over`: preallocate, then write every fourth 64 KiB.
pub(super) fn preallocate(bench: &mut Bench<'_>, _: &'static str) -> Outcome {
    const SIZE: u64 = 64 * MIB;
    const PIECE: u64 = 64 << 10;
    if core::mem::replace(&mut bench.falloc_done, true) {
        return Ok(());
    }
    let size = SIZE.min(bench.size);
    let file = bench.fresh("/sb_fa", OpenFlags::empty())?;
    let process = bench.cx.process.clone();
    let t0 = now_ns();
    let made = process.fallocate(file.fd, FallocateMode::empty(), 0, size);
    made.map_err(failed("fallocate"))?;
    let measured = Measured { ops: 1, bytes: size, ns: now_ns() - t0 };
    bench.report("falloc", "", &measured, Unit::Megabytes, None);
    let mut pieces = 0;
    let t0 = now_ns();
    for offset in (0..size).step_by(4 * PIECE as usize) {
        bench.pwrite(file.fd, offset, PIECE as usize, 6)?;
        pieces += 1;
    }
    let t1 = now_ns();
    bench.fsync(file.fd)?;
    let t2 = now_ns();
    let mut good = true;
    for offset in (0..size).step_by(8 * PIECE as usize) {
        good &= bench.data.check_at(&process, file.fd, offset, 6);
        good &= bench.data.check_at(&process, file.fd, offset + PIECE - PAGE, 6);
        bench.pread(file.fd, offset + PIECE, PAGE as usize)?;
        good &= bench.data.buffer[..PAGE as usize].iter().all(|b| *b == 0);
    }
    let amount = (pieces, pieces * PIECE);
    bench.both(("falloc_over", "_sync"), [t0, t1, t2], amount, Unit::Megabytes, Some(good));
    drop(file);
    process.unlink(b"/sb_fa").map_err(failed("unlink"))
}

/// `unalw_3000`: write a new file in pieces that fit no block.
pub(super) fn write_unaligned(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let file = bench.fresh("/sb_un", OpenFlags::empty())?;
    let (stream, process) = (Stream::new(), bench.cx.process.clone());
    let ops = bench.size / 2 / 3000;
    let t0 = now_ns();
    for i in 0..ops {
        process.write(file.fd, stream.at(i * 3000, 3000)).map_err(failed("write"))?;
    }
    let t1 = now_ns();
    bench.fsync(file.fd)?;
    let t2 = now_ns();
    let mut good = true;
    for _ in 0..256 {
        let offset = bench.data.random.next() % (ops * 3000 - PAGE);
        bench.pread(file.fd, offset, 4000)?;
        good &= bench.data.buffer[..4000] == *stream.at(offset, 4000);
    }
    let amount = (ops, ops * 3000);
    bench.both((name, "_sync"), [t0, t1, t2], amount, Unit::Megabytes, Some(good));
    Ok(())
}

/// `unalrw_3000`: overwrite pieces of that file at random.
pub(super) fn rewrite_unaligned(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    const OPS: u64 = 2000;
    let process = bench.cx.process.clone();
    let open = OpenFile::new(&process, b"/sb_un", OpenFlags::RDWR | OpenFlags::CREAT);
    let file = open.map_err(failed("open"))?;
    let size = process.fstat(file.fd).map_err(failed("fstat"))?.size;
    if size < 2 * PAGE {
        let why = "/sb_un is too small (run unalw_3000 first)";
        return Err(super::Stopped::Skipped(why.into()));
    }
    let stream = Stream::new();
    let inverted: Vec<u8> = stream.0.iter().map(|b| !b).collect();
    let at = |offset: u64| (offset % PRIME as u64) as usize;
    let start = Random(99);
    let mut random = start;
    let t0 = now_ns();
    for _ in 0..OPS {
        let offset = random.next() % (size - PAGE);
        let bytes = &inverted[at(offset)..at(offset) + 3000];
        process.pwrite(file.fd, bytes, offset).map_err(failed("pwrite"))?;
    }
    let t1 = now_ns();
    bench.fsync(file.fd)?;
    let t2 = now_ns();
    let (mut random, mut good) = (start, true);
    for _ in 0..OPS {
        let offset = random.next() % (size - PAGE);
        bench.pread(file.fd, offset, 3000)?;
        good &= bench.data.buffer[..3000] == inverted[at(offset)..at(offset) + 3000];
    }
    bench.both((name, "_sync"), [t0, t1, t2], (OPS, OPS * 3000), Unit::Ops, Some(good));
    Ok(())
}
