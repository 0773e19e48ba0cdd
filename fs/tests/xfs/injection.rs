//! Every operation when the disk has only a few blocks left, and when memory fails at each
//! page it asks for: it succeeds or is refused, what it does not touch stays, nothing is
//! shut down, and the file system is whole afterwards.
//!
//! `HOLDFAST_OPERATION=name` tries one operation alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use holdfast_fs::block::Queue;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::platform::{Memory, Page, VirtAddr};
use holdfast_fs::syscall::{
    AT_FDCWD, FallocateMode, MapFlags, OpenFlags, Process, Prot, RenameFlags, XattrFlags,
};
use holdfast_fs::xfs::check;
use holdfast_fs::{Error, Result};

use crate::volume::{Volume, mkfs, repair};
use crate::xfsprogs::disk_over;

const KIB: u64 = 1024;
/// Bytes of `/data`, which has a hole behind each 4 KiB.
const DATA: u64 = 128 * KIB;

/// Memory whose pages run out at a chosen one, once or from there on.
struct Failing {
    memory: Arc<HostMemory>,
    /// Pages until one fails; far below zero when none shall.
    left: AtomicI64,
    /// All later ones fail as well.
    lasting: bool,
}

impl Failing {
    const NEVER: i64 = i64::MIN / 2;

    fn new(lasting: bool) -> Arc<Self> {
        let left = AtomicI64::new(Self::NEVER);
        Arc::new(Self { memory: HostMemory::new(16384), left, lasting })
    }
    fn fail_at(&self, page: i64) {
        self.left.store(page, Ordering::SeqCst);
    }
    /// Let memory be; did it fail?
    fn end(&self) -> bool {
        let left = self.left.swap(Self::NEVER, Ordering::SeqCst);
        left < 0
    }
}

impl Memory for Failing {
    fn alloc_page(&self) -> Option<Page> {
        let left = self.left.fetch_sub(1, Ordering::SeqCst);
        let fails = left == 0 || (left < 0 && left > Self::NEVER / 2 && self.lasting);
        if fails { None } else { self.memory.alloc_page() }
    }
    fn free_pages(&self) -> u64 {
        self.memory.free_pages()
    }
    fn total_pages(&self) -> u64 {
        self.memory.total_pages()
    }
}

fn with_file<T>(
    p: &Process,
    path: &[u8],
    flags: OpenFlags,
    work: impl FnOnce(i32) -> Result<T>,
) -> Result<T> {
    let fd = p.open(path, flags, 0o644)?;
    let done = work(fd);
    let closed = p.close(fd);
    let value = done?;
    closed.map(|()| value)
}

fn falloc(p: &Process, mode: FallocateMode, pos: u64, len: u64) -> Result<()> {
    with_file(p, b"/data", OpenFlags::RDWR, |fd| p.fallocate(fd, mode, pos, len))
}

fn write_at(p: &Process, path: &[u8], flags: OpenFlags, pos: u64, len: usize) -> Result<()> {
    let flags = flags | OpenFlags::RDWR;
    with_file(p, path, flags, |fd| {
        let done = p.pwrite(fd, vec![0x77; len].as_slice(), pos)?;
        p.fsync(fd)?;
        // A short write is how what runs out shows once something was written.
        if done == len { Ok(()) } else { Err(Error::NoData) }
    })
}

fn store(p: &Process, pos: u64) -> Result<()> {
    with_file(p, b"/data", OpenFlags::RDWR, |fd| {
        let prot = Prot::READ | Prot::WRITE;
        let at = p.mmap(VirtAddr(0), DATA as usize, prot, MapFlags::SHARED, Some(fd), 0)?;
        let stored = p.store(at.add(pos), &[0x55; 100]);
        let synced = p.fsync(fd);
        p.munmap(at, DATA as usize)?;
        stored.and(synced)
    })
}

fn clone(p: &Process) -> Result<()> {
    with_file(p, b"/data", OpenFlags::RDONLY, |from| {
        with_file(p, b"/clone", OpenFlags::RDWR | OpenFlags::CREAT, |to| p.ficlone(to, from))
    })
}

fn rename(p: &Process, from: &[u8], to: &[u8], flags: RenameFlags) -> Result<()> {
    p.renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
}

fn set(p: &Process, path: &[u8], len: usize) -> Result<()> {
    p.setxattr(path, b"user.new", &vec![0x33; len], XattrFlags::empty())
}

type Operation = (&'static str, fn(&Process) -> Result<()>);

/// What is tried.
const OPERATIONS: &[Operation] = &[
    ("create", |p| with_file(p, b"/new", OpenFlags::RDWR | OpenFlags::CREAT, |_| Ok(()))),
    ("create in a large directory", |p| {
        with_file(p, b"/many/new", OpenFlags::RDWR | OpenFlags::CREAT, |_| Ok(()))
    }),
    ("mkdir", |p| p.mkdir(b"/dir", 0o755)),
    ("symlink", |p| p.symlink(b"short", b"/sym")),
    ("long symlink", |p| p.symlink(&[b'x'; 1000], b"/sym")),
    ("mknod", |p| p.mknod(b"/fifo", 0o010_644, (0, 0))),
    ("link", |p| p.link(b"/keep", b"/many/another-name")),
    ("unlink", |p| p.unlink(b"/victim")),
    ("unlink in a large directory", |p| p.unlink(b"/many/name-0007")),
    ("rmdir", |p| p.rmdir(b"/empty")),
    ("rename", |p| p.rename(b"/victim", b"/many/a-name-that-was-not-there")),
    ("rename over", |p| p.rename(b"/victim", b"/many/name-0011")),
    ("exchange", |p| rename(p, b"/victim", b"/many/name-0012", RenameFlags::EXCHANGE)),
    ("tmpfile", |p| {
        with_file(p, b"/many", OpenFlags::TMPFILE | OpenFlags::RDWR, |fd| {
            p.pwrite(fd, &[1u8; 3000][..], 0).map(drop)
        })
    }),
    ("chmod", |p| p.chmod(b"/victim", 0o600)),
    ("small attribute", |p| set(p, b"/victim", 20)),
    ("attribute in a leaf", |p| set(p, b"/victim", 700)),
    ("remote attribute", |p| set(p, b"/victim", 20_000)),
    ("replaced attribute", |p| p.setxattr(b"/keep", b"user.old", &[9; 5000], XattrFlags::REPLACE)),
    ("removed attribute", |p| p.removexattr(b"/keep", b"user.old")),
    ("overwrite", |p| write_at(p, b"/data", OpenFlags::empty(), 0, 3000)),
    ("write into holes", |p| write_at(p, b"/data", OpenFlags::empty(), 2 * KIB, 20_000)),
    ("append", |p| write_at(p, b"/data", OpenFlags::APPEND, DATA, 9000)),
    ("direct write", |p| write_at(p, b"/data", OpenFlags::DIRECT, 4 * KIB, 16 * 1024)),
    ("store", |p| store(p, 100)),
    ("store into a hole", |p| store(p, 5 * KIB)),
    ("write to shared blocks", |p| write_at(p, b"/shared", OpenFlags::empty(), 3 * KIB, 9000)),
    ("direct write to shared blocks", |p| write_at(p, b"/shared", OpenFlags::DIRECT, 0, 8 * 1024)),
    ("shrink", |p| p.truncate(b"/data", 10_001)),
    ("grow", |p| p.truncate(b"/data", DATA + 5000)),
    ("preallocate", |p| falloc(p, FallocateMode::empty(), 0, DATA + 64 * KIB)),
    ("punch", |p| falloc(p, FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE, 1000, 50_000)),
    ("zero", |p| falloc(p, FallocateMode::ZERO_RANGE, 1000, 50_000)),
    ("collapse", |p| falloc(p, FallocateMode::COLLAPSE_RANGE, 8 * KIB, 16 * KIB)),
    ("insert", |p| falloc(p, FallocateMode::INSERT_RANGE, 8 * KIB, 16 * KIB)),
    ("clone", clone),
    ("unshare", |p| {
        with_file(p, b"/shared", OpenFlags::RDWR, |fd| {
            p.fallocate(fd, FallocateMode::UNSHARE_RANGE, 0, DATA)
        })
    }),
    ("sync", |p| {
        p.sync();
        Ok(())
    }),
];

fn operations() -> impl Iterator<Item = &'static Operation> {
    let only = std::env::var("HOLDFAST_OPERATION").ok();
    OPERATIONS.iter().filter(move |(name, _)| only.as_ref().is_none_or(|only| only == name))
}

/// A file system with something of everything.
fn prepared(options: &[&str]) -> Arc<Vec<u8>> {
    let v = Volume::over(&mkfs(16, options));
    let p = &v.process;
    let new = OpenFlags::RDWR | OpenFlags::CREAT;
    for path in [&b"/keep"[..], b"/victim"] {
        with_file(p, path, new, |fd| p.pwrite(fd, &[0x11; 6000][..], 0)).expect("a file");
    }
    p.setxattr(b"/keep", b"user.old", &[1; 3000], XattrFlags::empty()).expect("an attribute");
    with_file(p, b"/data", new, |fd| {
        for pos in (0..DATA).step_by(8 * KIB as usize) {
            p.pwrite(fd, &[0x22; 4096][..], pos)?;
        }
        p.ftruncate(fd, DATA)
    })
    .expect("a file with holes");
    p.mkdir(b"/empty", 0o755).and_then(|()| p.mkdir(b"/many", 0o755)).expect("directories");
    for n in 0..150 {
        let path = format!("/many/name-{n:04}");
        with_file(p, path.as_bytes(), new, |_| Ok(())).expect("a file");
    }
    with_file(p, b"/data", OpenFlags::RDONLY, |from| {
        with_file(p, b"/shared", new, |to| p.ficlone(to, from))
    })
    .expect("a clone");
    v.finish()
}

/// Whether `/keep` is what it was; the one file no operation writes to.
fn kept(p: &Process) -> Result<bool> {
    let mut bytes = vec![0; 7000];
    let len = with_file(p, b"/keep", OpenFlags::RDONLY, |fd| p.pread(fd, &mut bytes[..], 0))?;
    Ok(len == 6000 && bytes[..6000].iter().all(|b| *b == 0x11))
}

/// Unmount and judge; every so often by xfs_repair, too.
fn judge(v: Volume, what: &str, number: usize) {
    assert_eq!(kept(&v.process), Ok(true), "{what}: another file changed");
    v.process.chmod(b"/keep", 0o640).unwrap_or_else(|e| panic!("{what}: shut down: {e}"));
    let image = v.unmount();
    let queue = Queue::new(disk_over(image.clone()));
    let memory: Arc<dyn Memory> = HostMemory::new(16384);
    let report = check::check(&queue, &memory).expect("a check");
    assert!(report.is_clean(), "{what}: {:?}", report.findings);
    if number.is_multiple_of(40)
        && let Some(complaint) = repair(&image)
    {
        panic!("{what}: xfs_repair complains:\n{complaint}");
    }
}

/// Leave this many blocks, or as near as one large file can bring it.
fn fill(v: &Volume, blocks: u64) -> u64 {
    let p = &v.process;
    let mut size = 0;
    with_file(p, b"/filler", OpenFlags::RDWR | OpenFlags::CREAT, |fd| {
        loop {
            let stat = p.statfs(b"/")?;
            let spare = stat.blocks_free.saturating_sub(blocks) * u64::from(stat.block_bytes);
            if spare == 0 {
                return Ok(stat.blocks_free);
            }
            // The file's own map may need what is left.
            match p.fallocate(fd, FallocateMode::empty(), size, spare) {
                Ok(()) => size += spare,
                Err(Error::NoSpace) => return Ok(p.statfs(b"/")?.blocks_free),
                Err(e) => return Err(e),
            }
        }
    })
    .expect("a file that fills the disk")
}

fn with_few_blocks(options: &[&str]) {
    let image = prepared(options);
    let (mut done, mut refused, mut number) = (0, 0, 0);
    for blocks in [0, 1, 2, 3, 5, 8, 13, 21, 34] {
        for (name, work) in operations() {
            let v = Volume::over(&image);
            let left = fill(&v, blocks);
            let what = format!("{options:?}: {name} with {left} blocks left");
            match work(&v.process) {
                Ok(()) => done += 1,
                Err(Error::NoSpace | Error::NoData | Error::Bus) => refused += 1,
                Err(e) => panic!("{what}: {e}"),
            }
            judge(v, &what, number);
            number += 1;
        }
    }
    println!("{options:?}: {done} done, {refused} refused");
    assert!(done > 0 && (refused > 0 || operations().count() == 1));
}

#[test]
fn operations_with_few_blocks_left() {
    with_few_blocks(&["-b", "size=1024", "-m", "rmapbt=1"]);
    with_few_blocks(&[]);
}

fn with_failing_memory(options: &[&str], lasting: bool) {
    let image = prepared(options);
    let (mut done, mut refused, mut number) = (0, 0, 0);
    for (name, work) in operations() {
        for page in 0.. {
            let memory = Failing::new(lasting);
            let disk = disk_over(image.clone());
            let v = Volume::with_memory(disk, memory.clone()).expect("memory does not fail yet");
            memory.fail_at(page);
            let outcome = work(&v.process);
            let failed = memory.end();
            let what = format!("{options:?}: {name}, page {page}, lasting {lasting}");
            match outcome {
                Ok(()) => done += 1,
                Err(Error::NoMemory | Error::NoData | Error::Bus) if failed => refused += 1,
                Err(e) => panic!("{what}: {e}"),
            }
            judge(v, &what, number);
            number += 1;
            if !failed {
                break;
            }
        }
    }
    println!("{options:?}, lasting {lasting}: {done} done, {refused} refused");
    assert!(done > 0 && (refused > 0 || operations().count() == 1));
}

#[test]
fn operations_while_memory_fails_once() {
    with_failing_memory(&["-b", "size=1024", "-m", "rmapbt=1"], false);
}

#[test]
fn operations_while_memory_is_out() {
    with_failing_memory(&[], true);
}
