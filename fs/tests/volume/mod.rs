//! A file system that mkfs.xfs made, mounted for writing with the whole stack above it, and
//! judged by `xfs_repair -n` afterwards.
#![allow(dead_code)]

pub mod tree;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_fs::block::{BlockDevice, MemDisk, MemDiskConfig, Queue, Sector};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::{Fd, OpenFlags, Process};
use holdfast_fs::vfs::{CharDevice, FileSystem, Namespace};
use holdfast_fs::xfs::{Mount, MountError, MountOptions};
use holdfast_fs::{Error, Result};

/// A directory of its own, removed at the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("holdfast-volume-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a scratch directory");
        Self(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn run(command: &mut Command) -> (bool, String) {
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e} (xfsprogs is needed)"));
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    (out.status.success(), text + &String::from_utf8_lossy(&out.stderr))
}

/// An image of this many megabytes, on a device that held 0xEE everywhere before.
pub fn mkfs(megabytes: usize, options: &[&str]) -> Arc<Vec<u8>> {
    let scratch = Scratch::new();
    let image = scratch.0.join("image");
    std::fs::write(&image, vec![0xEE; megabytes << 20]).expect("an image");
    let mut command = Command::new("mkfs.xfs");
    // These three let it make file systems smaller than 300 MB.
    command.envs([("TEST_DIR", "x"), ("TEST_DEV", "y"), ("QA_CHECK_FS", "1")]);
    command.args(["-q", "-f", "-K"]).args(options).arg(&image);
    let (ok, text) = run(&mut command);
    assert!(ok, "{command:?}: {text}");
    Arc::new(std::fs::read(&image).expect("an image"))
}

/// What `xfs_repair -n` says of an image; nothing if it has nothing to say.
pub fn repair(bytes: &[u8]) -> Option<String> {
    let scratch = Scratch::new();
    let image = scratch.0.join("image");
    std::fs::write(&image, bytes).expect("an image");
    let mut command = Command::new("xfs_repair");
    let (ok, text) = run(command.args(["-n", "-f", "-o", "force_geometry"]).arg(&image));
    if !ok && let Ok(keep) = std::env::var("HOLDFAST_KEEP") {
        std::fs::copy(&image, &keep).expect("the place to keep the image in");
    }
    (!ok).then_some(text)
}

struct Silent;
impl CharDevice for Silent {
    fn read(&self, _: &mut [u8]) -> Result<usize> {
        Ok(0)
    }
    fn write(&self, buffer: &[u8]) -> Result<usize> {
        Ok(buffer.len())
    }
}

/// The whole stack over an image.
pub struct Volume {
    pub disk: Arc<MemDisk>,
    pub queue: Arc<Queue>,
    pub memory: Arc<dyn Memory>,
    pub cache: Arc<PageCache>,
    pub fs: Arc<FileSystem>,
    pub ns: Arc<Namespace>,
    pub process: Arc<Process>,
}

impl Volume {
    /// Mount an image; what is written stays in a layer above it.
    pub fn over(image: &Arc<Vec<u8>>) -> Self {
        Self::try_over(image).unwrap_or_else(|e| panic!("it does not mount: {e}"))
    }
    pub fn try_over(image: &Arc<Vec<u8>>) -> Result<Self, MountError> {
        let config = MemDiskConfig {
            capacity_sectors: image.len() as u64 / 512,
            ..MemDiskConfig::default()
        };
        Self::on(MemDisk::over(image.clone(), config))
    }
    /// Mount what is on a disk.
    pub fn on(disk: Arc<MemDisk>) -> Result<Self, MountError> {
        Self::with_memory(disk, HostMemory::new(16384))
    }
    /// Mount what is on a disk, with pages from `memory`.
    pub fn with_memory(disk: Arc<MemDisk>, memory: Arc<dyn Memory>) -> Result<Self, MountError> {
        Self::through(disk.clone(), disk, memory)
    }
    /// Mount what is on a disk, through a device of one's own before it.
    pub fn through(
        disk: Arc<MemDisk>,
        device: Arc<dyn BlockDevice>,
        memory: Arc<dyn Memory>,
    ) -> Result<Self, MountError> {
        let queue = Queue::new(device);
        let mount = Mount::open(queue.clone(), memory.clone(), MountOptions::default())?;
        let environment = HostEnvironment::seeded(1);
        mount.set_environment(environment.clone());
        let cache = PageCache::new(memory.clone(), CacheConfig::default());
        let fs = FileSystem::new(mount, cache.clone());
        let ns = Namespace::new(Some(fs.clone()));
        let stdio: Arc<dyn CharDevice> = Arc::new(Silent);
        let process = Process::new(
            ns.clone(),
            SimPageTable::new(),
            memory.clone(),
            environment,
            [stdio.clone(), stdio.clone(), stdio],
        );
        Ok(Self { disk, queue, memory, cache, fs, ns, process })
    }
    /// All bytes of the disk as they are now.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.queue.info().capacity_sectors as usize * 512];
        self.disk.peek(Sector(0), &mut bytes);
        bytes
    }
    /// Unmount; the image.
    pub fn unmount(self) -> Arc<Vec<u8>> {
        self.process.exit();
        self.fs.unmount().expect("nobody uses the file system");
        if let Some(log) = self.fs.mount().log() {
            assert_eq!(log.statistics().overruns, 0, "more was logged than had been reserved");
        }
        self.cache.stop();
        Arc::new(self.bytes())
    }
    /// Unmount, and let xfs_repair judge; the image.
    pub fn finish(self) -> Arc<Vec<u8>> {
        let image = self.unmount();
        if let Some(complaint) = repair(&image) {
            panic!("xfs_repair complains:\n{complaint}");
        }
        image
    }
    /// Make an empty file.
    pub fn touch(&self, path: &[u8]) -> Result<()> {
        let fd = self.create(path)?;
        self.process.close(fd)
    }
    /// Make a file that must not be there, open.
    pub fn create(&self, path: &[u8]) -> Result<Fd> {
        let flags = OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::EXCL;
        self.process.open(path, flags, 0o666)
    }
    /// The names in a directory, without "." and "..", sorted.
    pub fn list(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let p = &self.process;
        let fd = p.open(path, OpenFlags::DIRECTORY, 0).expect("a directory");
        let mut names = Vec::new();
        let mut buf = vec![0; 32768];
        loop {
            let len = p.getdents(fd, &mut buf).expect("a directory");
            if len == 0 {
                break;
            }
            let entries = holdfast_fs::syscall::dirents(&buf[..len]);
            names.extend(entries.map(|e| e.name.to_vec()).filter(|n| n != b"." && n != b".."));
        }
        p.close(fd).expect("it is open");
        names.sort();
        names
    }
}

/// The errno of a call that must fail.
pub fn errno<T: std::fmt::Debug>(result: Result<T>) -> i32 {
    match result {
        Ok(value) => panic!("succeeded with {value:?}"),
        Err(e) => Error::errno(&e),
    }
}

/// 0, or the errno of a call.
pub fn code<T>(result: Result<T>) -> i32 {
    result.err().map_or(0, |e| e.errno())
}

/// Numbers that a seed draws.
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}
