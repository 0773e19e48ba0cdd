//! Everything that can be done to files' contents, at random, through system calls on XFS,
//! against arrays of bytes; remounted now and then; judged by `xfs_repair -n`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::Rng;
use crate::support::fsx::{Fsx, LIMIT, World};
use crate::volume::{Volume, mkfs};
use holdfast_fs::iomap::Change;
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{
    Advice, FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot, ShutdownMode,
};
use holdfast_fs::{Error, Result};

const NAMES: [&[u8]; 2] = [b"/a", b"/b"];

struct Files {
    volume: Option<Volume>,
    fds: [Fd; 2],
    direct: [Fd; 2],
    maps: [VirtAddr; 2],
    block: u64,
    reflink: bool,
}

impl Files {
    fn new(image: &Arc<Vec<u8>>, block: u64, reflink: bool) -> Self {
        let mut files = Self {
            volume: None,
            fds: [0; 2],
            direct: [0; 2],
            maps: [VirtAddr(0); 2],
            block,
            reflink,
        };
        files.mount(image);
        files
    }
    fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("mounted")
    }
    fn mount(&mut self, image: &Arc<Vec<u8>>) {
        let volume = Volume::over(image);
        volume.cache.start();
        let p = &volume.process;
        for (f, name) in NAMES.iter().enumerate() {
            self.fds[f] = p.open(name, OpenFlags::RDWR | OpenFlags::CREAT, 0o644).unwrap();
            self.direct[f] = p.open(name, OpenFlags::RDWR | OpenFlags::DIRECT, 0).unwrap();
            let (len, rights) = (LIMIT as usize, Prot::READ | Prot::WRITE);
            let (va, fd) = (VirtAddr(0), Some(self.fds[f]));
            self.maps[f] = p.mmap(va, len, rights, MapFlags::SHARED, fd, 0).unwrap();
        }
        self.volume = Some(volume);
    }
    fn remount(&mut self) {
        let image = self.volume.take().expect("mounted").finish();
        self.mount(&image);
    }
}

impl World for Files {
    fn block(&self) -> u64 {
        self.block
    }
    fn can_share(&self) -> bool {
        self.reflink
    }
    fn size(&self, f: usize) -> u64 {
        self.volume().process.fstat(self.fds[f]).unwrap().size
    }
    fn read(&mut self, f: usize, pos: u64, len: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; len];
        let n = self.volume().process.pread(self.fds[f], &mut data[..], pos)?;
        data.truncate(n);
        Ok(data)
    }
    fn write(&mut self, f: usize, pos: u64, data: &[u8], _: usize) -> Result<usize> {
        self.volume().process.pwrite(self.fds[f], data, pos)
    }
    fn direct_read(&mut self, f: usize, pos: u64, len: usize) -> Result<Vec<u8>> {
        let mut data = vec![0; len];
        let n = self.volume().process.pread(self.direct[f], &mut data[..], pos)?;
        data.truncate(n);
        Ok(data)
    }
    fn direct_write(&mut self, f: usize, pos: u64, data: &[u8]) -> Result<usize> {
        self.volume().process.pwrite(self.direct[f], data, pos)
    }
    fn store(&mut self, f: usize, pos: u64, data: &[u8]) {
        self.volume().process.store(self.maps[f].add(pos), data).unwrap();
    }
    fn load(&mut self, f: usize, pos: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.volume().process.load(self.maps[f].add(pos), &mut data).unwrap();
        data
    }
    fn truncate(&mut self, f: usize, size: u64) -> Result<()> {
        self.volume().process.ftruncate(self.fds[f], size)
    }
    fn change(&mut self, f: usize, what: Change, range: Range<u64>, keep: bool) -> Result<()> {
        let mut mode = match what {
            Change::Preallocate => FallocateMode::empty(),
            Change::Punch => FallocateMode::PUNCH_HOLE,
            Change::Zero => FallocateMode::ZERO_RANGE,
            Change::Collapse => FallocateMode::COLLAPSE_RANGE,
            Change::Insert => FallocateMode::INSERT_RANGE,
            Change::Unshare => FallocateMode::UNSHARE_RANGE,
        };
        if keep {
            mode |= FallocateMode::KEEP_SIZE;
        }
        let len = range.end - range.start;
        self.volume().process.fallocate(self.fds[f], mode, range.start, len)
    }
    fn share(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<()> {
        let (src, dst) = (self.fds[from.0], self.fds[to.0]);
        self.volume().process.ficlonerange(dst, src, from.1, len, to.1)
    }
    fn dedupe(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<Option<u64>> {
        let (src, dst) = (self.fds[from.0], self.fds[to.0]);
        self.volume().process.fideduperange(src, from.1, len, dst, to.1)
    }
    fn sync(&mut self, f: usize) -> Result<()> {
        match f {
            0 => self.volume().process.fsync(self.fds[f]),
            _ => self.volume().process.fdatasync(self.fds[f]),
        }
    }
    fn drop_clean(&mut self, f: usize) {
        self.volume().process.fadvise(self.fds[f], 0, 0, Advice::DontNeed).unwrap();
    }
}

/// `MODEL_OPERATIONS`, `MODEL_SEED` and `MODEL_SEEDS` make it longer.
fn run(options: &[&str], block: u64, reflink: bool) {
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |n| n.parse().unwrap());
    let operations: u64 = number("MODEL_OPERATIONS", 1200);
    let first = number("MODEL_SEED", 1);
    let image = mkfs(16, options);
    for seed in first..first + number("MODEL_SEEDS", 1) {
        println!("{options:?} seed {seed}");
        let mut fsx = Fsx::new(Files::new(&image, block, reflink), seed * 7919);
        for n in 1..=operations {
            fsx.step();
            if n.is_multiple_of(16) {
                fsx.check_all();
            }
            if n.is_multiple_of(400) {
                fsx.world.remount();
                fsx.check_all();
            }
        }
        fsx.into_world().volume.take().expect("mounted").finish();
    }
}

#[test]
fn the_default_features() {
    run(&[], 4096, true);
}

#[test]
fn small_blocks() {
    run(&["-b", "size=1024"], 1024, true);
}

#[test]
fn without_shared_blocks() {
    run(&["-b", "size=2048", "-m", "reflink=0"], 2048, false);
}

#[test]
fn with_reverse_mappings() {
    run(&["-m", "rmapbt=1"], 4096, true);
}

/// Several threads, each with a file of its own that it writes, cuts, punches, maps and
/// syncs, while others sync everything and drop caches; then the disk is nearly full.
#[test]
fn threads_on_one_disk() {
    const LEN: usize = 300_000;
    let volume = Volume::over(&mkfs(32, &["-m", "rmapbt=1"]));
    volume.cache.start();
    let p = &volume.process;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..3u64).map(|t| scope.spawn(move || work(p, t, LEN, 250))).collect();
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                p.sync();
                volume.fs.drop_caches();
            }
        });
        let results: Vec<_> = workers.into_iter().map(|w| w.join()).collect();
        done.store(true, Ordering::SeqCst);
        results.into_iter().for_each(|r| r.expect("the worker's file is right"));
    });
    // Everything that is left, and a little more.
    let fd = p.open(b"/rest", OpenFlags::RDWR | OpenFlags::CREAT, 0o600).unwrap();
    let chunk = vec![0x5A; 1 << 20];
    let mut written = 0u64;
    let full = loop {
        match p.pwrite(fd, &chunk[..], written) {
            Ok(n) => written += n as u64,
            Err(e) => break e,
        }
    };
    assert_eq!(full, Error::NoSpace);
    p.fsync(fd).expect("what was promised is there");
    assert_eq!(p.fstat(fd).unwrap().size, written);
    assert!(p.statfs(b"/").unwrap().blocks_free < 64, "false ENOSPC");
    p.ftruncate(fd, 0).unwrap();
    assert_eq!(p.pwrite(fd, &chunk[..], 0), Ok(1 << 20), "it is free again");
    volume.finish();
}

fn work(p: &Process, t: u64, len: usize, rounds: u64) {
    let path = format!("/file-{t}");
    let fd = p.open(path.as_bytes(), OpenFlags::RDWR | OpenFlags::CREAT, 0o600).unwrap();
    let mut rng = Rng(t * 77 + 5);
    let mut model: Vec<u8> = Vec::new();
    for round in 0..rounds {
        let pos = rng.below(len as u64) as usize;
        let n = (rng.below(20_000) as usize + 1).min(len - pos);
        match rng.below(8) {
            0..4 => {
                let data = vec![(round % 251) as u8 + 1; n];
                assert_eq!(p.pwrite(fd, &data[..], pos as u64), Ok(n));
                model.resize(model.len().max(pos + n), 0);
                model[pos..pos + n].fill((round % 251) as u8 + 1);
            }
            4 => {
                p.ftruncate(fd, pos as u64).unwrap();
                model.resize(pos, 0);
            }
            5 => {
                let mode = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
                p.fallocate(fd, mode, pos as u64, n as u64).unwrap();
                let end = model.len().min(pos + n);
                if pos < end {
                    model[pos..end].fill(0);
                }
            }
            6 => p.fsync(fd).unwrap(),
            _ => {
                let mut got = vec![0; n];
                let n = p.pread(fd, &mut got[..], pos as u64).unwrap();
                assert!(got[..n] == model[pos.min(model.len())..(pos + n).min(model.len())]);
            }
        }
    }
    let mut got = vec![0; len + 1];
    let n = p.pread(fd, &mut got[..], 0).unwrap();
    assert!(got[..n] == model, "file {t}");
    p.close(fd).unwrap();
}

/// Shut down under dirty data: everything fails, nothing hangs, and what was synced is
/// there after recovery.
#[test]
fn after_a_shutdown_everything_fails_and_what_was_synced_is_there() {
    let volume = Volume::over(&mkfs(16, &[]));
    volume.cache.start();
    let p = volume.process.clone();
    let fd = p.open(b"/f", OpenFlags::RDWR | OpenFlags::CREAT, 0o600).unwrap();
    p.pwrite(fd, &[1; 50_000][..], 0).unwrap();
    p.fsync(fd).unwrap();
    p.fsync(p.open(b"/", OpenFlags::RDONLY, 0).unwrap()).unwrap();
    p.pwrite(fd, &[2; 50_000][..], 25_000).unwrap();
    p.shutdown(fd, ShutdownMode::NoLogFlush).unwrap();
    let mut byte = [0];
    assert_eq!(p.pread(fd, &mut byte, 0).map_err(|e| e.errno()), Err(5));
    assert_eq!(p.pwrite(fd, b"x", 0).map_err(|e| e.errno()), Err(5));
    assert_eq!(p.ftruncate(fd, 0).map_err(|e| e.errno()), Err(5));
    assert_eq!(p.fsync(fd).map_err(|e| e.errno()), Err(5));
    assert_eq!(p.fdatasync(fd).map_err(|e| e.errno()), Err(5));
    p.exit();
    drop(p);
    assert!(volume.fs.unmount().is_err());
    volume.cache.stop();
    assert_eq!(volume.cache.dirty_pages(), 0, "dirty data is given up");
    let after = Volume::over(&Arc::new(volume.bytes()));
    let fd = after.process.open(b"/f", OpenFlags::RDONLY, 0).unwrap();
    let mut data = vec![0; 100_000];
    let n = after.process.pread(fd, &mut data[..], 0).unwrap();
    // The second write was promised to nobody: each of its bytes may be there or not.
    assert!(n >= 50_000 && data[..25_000].iter().all(|byte| *byte == 1));
    assert!(data[25_000..n].iter().all(|byte| [0, 1, 2].contains(byte)));
    after.process.close(fd).unwrap();
    after.finish();
}
