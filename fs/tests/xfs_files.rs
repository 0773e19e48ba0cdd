//! Everything that can be done to files' contents, at random, through system calls on XFS,
//! against arrays of bytes; remounted now and then; judged by `xfs_repair -n`.
#![cfg(not(feature = "shuttle"))]

mod support;
mod volume;

use std::ops::Range;
use std::sync::Arc;

use holdfast_fs::Result;
use holdfast_fs::iomap::Change;
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{Advice, FallocateMode, Fd, MapFlags, OpenFlags, Prot};
use support::fsx::{Fsx, LIMIT, World};
use volume::{Volume, mkfs};

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
            if n % 16 == 0 {
                fsx.check_all();
            }
            if n % 400 == 0 {
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
