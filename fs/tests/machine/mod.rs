//! A whole stack over an image that mkfs.xfs made: disk, cache, file system, process.
#![allow(dead_code)]

use std::sync::{Arc, Mutex, OnceLock};

use holdfast_fs::block::{Completion, FaultDisk, MemDisk, MemDiskConfig, Queue};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::{Fd, MapFlags, OpenFlags, Process, Prot};
use holdfast_fs::vfs::{BlockNode, CharDevice, CharNode, FileSystem, Namespace};
use holdfast_fs::xfs::{Mount, MountOptions};
use holdfast_fs::{Error, Result};

use crate::xfsprogs::{Scratch, disk_with, judge, mkfs, xfs_db_write};

/// Bytes that differ everywhere.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub const F_LEN: usize = 100_000;
pub const BIG_LEN: usize = 3 << 20;
/// `/holey` has this many bytes of data, then a hole up to `HOLEY_LEN`.
pub const HOLEY_DATA: usize = 8192;
pub const HOLEY_LEN: usize = 200_000;
pub const PRE_LEN: usize = 65_536;

/// The contents of the test image's files.
pub fn contents(path: &str) -> Vec<u8> {
    match path {
        "/f" => pattern(1, F_LEN),
        "/big" => pattern(2, BIG_LEN),
        "/sub/x" => b"the file x\n".to_vec(),
        "/sub/deep/y" => pattern(3, 5000),
        "/holey" => {
            let mut data = pattern(4, HOLEY_DATA);
            data.resize(HOLEY_LEN, 0);
            data
        }
        "/pre" => vec![0; PRE_LEN],
        "/empty" => Vec::new(),
        other => panic!("no file {other} in the test image"),
    }
}

/// The test image, on a device that held 0xEE everywhere before.
fn make_image() -> Vec<u8> {
    let scratch = Scratch::new("image");
    let place = |name: &str, path: &str, len: usize| {
        let file = scratch.path(name);
        std::fs::write(&file, &contents(path)[..len]).unwrap();
        file.display().to_string()
    };
    let f = place("f", "/f", F_LEN);
    let big = place("big", "/big", BIG_LEN);
    let x = place("x", "/sub/x", 11);
    let y = place("y", "/sub/deep/y", 5000);
    let holey = place("holey", "/holey", HOLEY_DATA);
    let long = "n".repeat(255);
    let mut many = String::new();
    for n in 0..300 {
        many += &format!("  entry-number-{n:04} ---644 0 0 /dev/null\n");
    }
    let proto = format!(
        "/none\n0 0\nd--755 0 0\n\
         f ---644 3 4 {f}\nbig ---600 0 0 {big}\nholey ---644 0 0 {holey}\n\
         pre r--644 0 0 {PRE_LEN}\nempty ---644 0 0 /dev/null\n\
         link l--777 0 0 f\nabs l--777 0 0 /sub/x\nloop l--777 0 0 loop\n\
         dangling l--777 0 0 nowhere\ndirlink l--777 0 0 sub\nup l--777 0 0 sub/../f\n\
         pipe p--644 0 0\nnode c--644 0 0 9 9\n{long} ---644 0 0 /dev/null\n\
         sub d--755 0 0\n x ---644 0 0 {x}\n deep d--711 0 0\n  y ---644 0 0 {y}\n $\n $\n\
         many d--755 0 0\n{many} $\n$\n"
    );
    let proto_file = scratch.path("proto");
    std::fs::write(&proto_file, proto).unwrap();
    let image = scratch.path("image");
    mkfs(&image, 24, &[], Some(&proto_file));
    for (path, size) in [("/holey", HOLEY_LEN), ("/pre", PRE_LEN)] {
        let (path, write) = (format!("path {path}"), format!("write -d core.size {size}"));
        xfs_db_write(&image, &[&path, &write]);
    }
    std::fs::read(&image).unwrap()
}

fn image() -> Arc<Vec<u8>> {
    static IMAGE: OnceLock<Arc<Vec<u8>>> = OnceLock::new();
    IMAGE.get_or_init(|| Arc::new(make_image())).clone()
}

/// A console that remembers what was written, and gives what it was told.
#[derive(Default)]
pub struct Console {
    pub written: Mutex<Vec<u8>>,
    pub input: Mutex<Vec<u8>>,
}
impl CharDevice for Console {
    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let mut input = self.input.lock().unwrap();
        let n = buffer.len().min(input.len());
        buffer[..n].copy_from_slice(&input[..n]);
        input.drain(..n);
        Ok(n)
    }
    fn write(&self, buffer: &[u8]) -> Result<usize> {
        let n = buffer.len().min(700);
        self.written.lock().unwrap().extend_from_slice(&buffer[..n]);
        Ok(n)
    }
    fn is_terminal(&self) -> bool {
        true
    }
}

pub struct Machine {
    pub disk: Arc<MemDisk>,
    pub faults: Arc<FaultDisk>,
    pub queue: Arc<Queue>,
    pub memory: Arc<HostMemory>,
    pub cache: Arc<PageCache>,
    pub fs: Arc<FileSystem>,
    pub ns: Arc<Namespace>,
    pub table: Arc<SimPageTable>,
    pub console: Arc<Console>,
    pub process: Arc<Process>,
}

pub struct Setup {
    pub cache_pages: u64,
    pub readonly: bool,
    pub threads: bool,
    pub completion: Completion,
}
impl Default for Setup {
    fn default() -> Self {
        let completion = Completion::Inline;
        Self { cache_pages: 2048, readonly: false, threads: false, completion }
    }
}

impl Machine {
    pub fn new() -> Self {
        Self::with(Setup::default())
    }
    pub fn with(setup: Setup) -> Self {
        let config = MemDiskConfig { completion: setup.completion, ..MemDiskConfig::default() };
        let disk = disk_with(image(), config);
        let faults = FaultDisk::new(disk.clone());
        let queue = Queue::new(faults.clone());
        let memory = HostMemory::new(16384);
        let options = MountOptions { readonly: setup.readonly };
        let mount = Mount::open(queue.clone(), memory.clone(), options).expect("the image mounts");
        let config = CacheConfig {
            max_pages: Some(setup.cache_pages),
            expire_ns: 20_000_000,
            interval_ns: 5_000_000,
            ..CacheConfig::default()
        };
        let cache = PageCache::new(memory.clone(), config);
        if setup.threads {
            cache.start();
        }
        let fs = FileSystem::new(mount, cache.clone());
        let ns = Namespace::new(Some(fs.clone()));
        let console = Arc::new(Console::default());
        ns.register("console", CharNode::new(console.clone(), 5, 1));
        ns.register("vda", BlockNode::new(queue.clone(), memory.clone(), 254, 0));
        let table = SimPageTable::new();
        let process = Process::new(
            ns.clone(),
            table.clone(),
            memory.clone(),
            HostEnvironment::seeded(1),
            [console.clone(), console.clone(), console.clone()],
        );
        Self { disk, faults, queue, memory, cache, fs, ns, table, console, process }
    }
    /// Open a file of the image.
    pub fn open(&self, path: &str, flags: OpenFlags) -> Fd {
        self.process.open(path.as_bytes(), flags, 0).unwrap_or_else(|e| panic!("{path}: {e}"))
    }
    pub fn rw(&self, path: &str) -> Fd {
        self.open(path, OpenFlags::RDWR)
    }
    pub fn try_open(&self, path: &str, flags: OpenFlags) -> Result<Fd, i32> {
        self.process.open(path.as_bytes(), flags, 0o644).map_err(|e| e.errno())
    }
    pub fn read_file(&self, path: &str) -> Vec<u8> {
        let fd = self.open(path, OpenFlags::RDONLY);
        let mut data = Vec::new();
        let mut buf = vec![0; 70_000];
        loop {
            let n = self.process.read(fd, &mut buf).unwrap();
            if n == 0 {
                break;
            }
            data.extend_from_slice(&buf[..n]);
        }
        self.process.close(fd).unwrap();
        data
    }
    pub fn mmap(&self, fd: Fd, len: usize, prot: Prot, flags: MapFlags) -> VirtAddr {
        self.process.mmap(VirtAddr(0), len, prot, flags, Some(fd), 0).expect("it can be mapped")
    }
    pub fn load(&self, va: VirtAddr, len: usize) -> Result<Vec<u8>> {
        let mut out = vec![0; len];
        self.process.load(va, &mut out)?;
        Ok(out)
    }
    /// Unmount, then let xfs_repair judge the disk.
    pub fn finish(self) {
        self.process.exit();
        self.fs.unmount().expect("nobody uses the file system");
        self.cache.stop();
        judge(&self.disk);
    }
}

pub fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    match result {
        Ok(value) => panic!("succeeded with {value:?}"),
        Err(e) => Error::errno(&e),
    }
}
