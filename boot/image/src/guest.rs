//! The storage stack over an image file, and the host in the kernel's place.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow};
use holdfast_commands::{Context, MemoryFigures, MountInfo, System, ThreadInfo};
use holdfast_fs::block::{Completion, FileDisk, Queue, QueueStatistics};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::Process;
use holdfast_fs::vfs::{BlockNode, CharDevice, FileSystem, Namespace, Null, Zero};
use holdfast_fs::xfs::log::LogStatistics;
use holdfast_fs::xfs::{Mount, MountOptions};

const PAGES_PER_MIB: u64 = 256;
/// Pages beside those of the cache: metadata, I/O.
const OTHER_PAGES: u64 = 64 * PAGES_PER_MIB;

/// Descriptors 0, 1 and 2.
enum Standard {
    Input,
    Output,
    Error,
}

impl CharDevice for Standard {
    fn read(&self, buffer: &mut [u8]) -> holdfast_fs::Result<usize> {
        match self {
            Self::Input => std::io::stdin().read(buffer).map_err(|_| holdfast_fs::Error::Io),
            _ => Err(holdfast_fs::Error::BadDescriptor),
        }
    }
    fn write(&self, buffer: &[u8]) -> holdfast_fs::Result<usize> {
        let written = match self {
            Self::Input => return Err(holdfast_fs::Error::BadDescriptor),
            Self::Output => {
                let mut out = std::io::stdout().lock();
                out.write_all(buffer).and_then(|()| out.flush())
            }
            Self::Error => std::io::stderr().write_all(buffer),
        };
        written.map(|()| buffer.len()).map_err(|_| holdfast_fs::Error::Io)
    }
}

/// A mounted image, and a process on it.
pub struct Guest {
    /// The calls.
    pub process: Arc<Process>,
    system: Arc<Host>,
}

impl Guest {
    /// Mount an image with at most `cache_mib` of cached data.
    ///
    /// # Errors
    /// The file cannot be opened, or what is in it not be mounted.
    pub fn mount(image: &Path, readonly: bool, cache_mib: u64) -> Result<Self> {
        let name = || image.display().to_string();
        let disk = FileDisk::open(image, readonly, Completion::Threads(2)).with_context(name)?;
        let queue = Queue::new(disk);
        let pages = cache_mib * PAGES_PER_MIB;
        let memory = HostMemory::new(pages + OTHER_PAGES);
        let environment = HostEnvironment::system();
        let mount = Mount::open(queue.clone(), memory.clone(), MountOptions { readonly })
            .map_err(|e| anyhow!("{e}"))
            .with_context(name)?;
        mount.set_environment(environment.clone());
        mount.start();
        let config = CacheConfig { max_pages: Some(pages), ..CacheConfig::default() };
        let cache = PageCache::new(memory.clone(), config);
        cache.start();
        let fs = FileSystem::new(mount, cache);
        let ns = Namespace::new(Some(fs.clone()));
        ns.register("vda", BlockNode::new(queue.clone(), memory.clone(), 254, 0));
        ns.register("null", Arc::new(Null));
        ns.register("zero", Arc::new(Zero));
        let stdio: [Arc<dyn CharDevice>; 3] =
            [Arc::new(Standard::Input), Arc::new(Standard::Output), Arc::new(Standard::Error)];
        let process = Process::new(ns, SimPageTable::new(), memory.clone(), environment, stdio);
        Ok(Self { process, system: Arc::new(Host { fs, queue, memory }) })
    }
    /// What a command runs with.
    pub fn context(&self) -> Context {
        Context::new(self.process.clone(), self.system.clone())
    }
    /// What the file system is: names and values.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        self.system.fs.mount().describe()
    }
    /// Write everything and let go of the image.
    ///
    /// # Errors
    /// What could not be written.
    pub fn unmount(self) -> Result<()> {
        self.process.exit();
        let result = self.system.fs.unmount();
        self.system.fs.cache().stop();
        result.map_err(|e| anyhow!("{e}"))
    }
}

/// The host as commands see it.
struct Host {
    fs: Arc<FileSystem>,
    queue: Arc<Queue>,
    memory: Arc<HostMemory>,
}

impl System for Host {
    fn threads(&self) -> Vec<ThreadInfo> {
        Vec::new()
    }
    fn memory(&self) -> MemoryFigures {
        let cache = self.fs.cache();
        MemoryFigures {
            total_kib: self.memory.total_pages() * 4,
            free_kib: self.memory.free_pages() * 4,
            cached_kib: cache.pages() * 4,
            dirty_kib: cache.dirty_pages() * 4,
            writeback_kib: cache.writeback_pages() * 4,
            cache_limit_kib: cache.max_pages() * 4,
            ..MemoryFigures::default()
        }
    }
    fn uptime_ns(&self) -> u64 {
        holdfast_sync::time::now_ns()
    }
    fn cpus(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
    fn boot_marks(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
    fn log(&self, _: &mut dyn FnMut(&[u8])) {}
    fn drop_caches(&self) -> holdfast_fs::Result<u64> {
        Ok(self.fs.drop_caches() as u64)
    }
    fn mounts(&self) -> Vec<MountInfo> {
        let features = self.fs.mount().describe();
        vec![MountInfo {
            source: "/dev/vda".into(),
            target: "/".into(),
            fs_type: "xfs".into(),
            options: if self.fs.readonly() { "ro" } else { "rw" }.into(),
            features: features.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        }]
    }
    fn cache_statistics(&self) -> Vec<(&'static str, u64)> {
        self.fs.cache().statistics().snapshot()
    }
    fn block_statistics(&self) -> QueueStatistics {
        self.queue.statistics()
    }
    fn log_statistics(&self) -> LogStatistics {
        self.fs.mount().log().map(|log| log.statistics()).unwrap_or_default()
    }
    fn root_device(&self) -> String {
        "/dev/vda".into()
    }
}
