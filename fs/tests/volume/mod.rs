//! A file system that mkfs.xfs made, mounted for writing with the whole stack above it, and
//! judged by `xfs_repair -n` afterwards.
#![allow(dead_code)]

pub mod tree;

use std::sync::Arc;

use holdfast_fs::block::{BlockDevice, MemDisk, Queue};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::{Fd, OpenFlags, Process};
use holdfast_fs::vfs::{CharDevice, FileSystem, Namespace};
use holdfast_fs::xfs::{Mount, MountError, MountOptions};
use holdfast_fs::{Error, Result};

use crate::xfsprogs::{contents, disk_over};

#[allow(unused_imports)]
pub use crate::xfsprogs::{image as mkfs, repair};

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
        Self::on(disk_over(image.clone()))
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
        contents(&self.disk)
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
