//! The host in the kernel's place: an image file, mounted by the storage stack, as commands
//! see it.

use std::format;
use std::io;
use std::path::Path;
use std::string::String;
use std::sync::Arc;
use std::vec;
use std::vec::Vec;

use holdfast_fs::Result;
use holdfast_fs::block::{Completion, FileDisk, Queue, QueueStatistics};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::Process;
use holdfast_fs::vfs::{BlockNode, CharDevice, FileSystem, Namespace, Null, Zero};
use holdfast_fs::xfs::log::LogStatistics;
use holdfast_fs::xfs::{Mount, MountOptions};

use crate::system::{MemoryFigures, MountInfo, System, ThreadInfo, counter};

/// A mounted image.
pub struct Host {
    fs: Arc<FileSystem>,
    queue: Arc<Queue>,
    memory: Arc<HostMemory>,
    environment: Arc<HostEnvironment>,
    ns: Arc<Namespace>,
    mounted_ns: u64,
}

impl Host {
    /// Mount an image with so many pages of memory, of which file data may take at most
    /// `cache_pages`.
    ///
    /// # Errors
    /// The file cannot be opened, or what is in it not be mounted.
    pub fn mount(
        image: &Path,
        readonly: bool,
        memory_pages: u64,
        cache_pages: Option<u64>,
    ) -> io::Result<Arc<Self>> {
        let queue = Queue::new(FileDisk::open(image, readonly, Completion::Threads(2))?);
        let memory = HostMemory::new(memory_pages);
        let mount = Mount::open(queue.clone(), memory.clone(), MountOptions { readonly })
            .map_err(io::Error::other)?;
        let environment = HostEnvironment::system();
        mount.set_environment(environment.clone());
        mount.start();
        let config = CacheConfig { max_pages: cache_pages, ..CacheConfig::default() };
        let cache = PageCache::new(memory.clone(), config);
        cache.start();
        let fs = FileSystem::new(mount, cache);
        fs.start_blockgc(FileSystem::PREALLOC_LIFETIME_S * 1_000_000_000);
        let ns = Namespace::new(Some(fs.clone()));
        ns.register("vda", BlockNode::new(queue.clone(), memory.clone(), 254, 0));
        ns.register("null", Arc::new(Null));
        ns.register("zero", Arc::new(Zero));
        let mounted_ns = holdfast_sync::time::now_ns();
        Ok(Arc::new(Self { fs, queue, memory, environment, ns, mounted_ns }))
    }
    /// A process with these for descriptors 0, 1 and 2.
    pub fn process(&self, stdio: [Arc<dyn CharDevice>; 3]) -> Arc<Process> {
        let (memory, environment) = (self.memory.clone(), self.environment.clone());
        Process::new(self.ns.clone(), SimPageTable::new(), memory, environment, stdio)
    }
    /// The names below `/`.
    pub const fn namespace(&self) -> &Arc<Namespace> {
        &self.ns
    }
    /// What the file system is: names and values.
    pub fn describe(&self) -> Vec<(&'static str, String)> {
        self.fs.mount().describe()
    }
    /// Write everything and let go of the image.
    ///
    /// # Errors
    /// What could not be written.
    pub fn unmount(&self) -> Result<()> {
        let result = self.fs.unmount();
        self.fs.cache().stop();
        result
    }
}

impl System for Host {
    /// Those of the page cache. The host does not count how often they ran: a folio they
    /// handled counts as once, so that a thread that never worked shows zero.
    fn threads(&self) -> Vec<ThreadInfo> {
        let statistics = self.cache_statistics();
        [("writeback", "cleaned_background"), ("reclaim", "evicted_background")]
            .into_iter()
            .zip(1..)
            .map(|((name, folios), id)| ThreadInfo {
                id,
                name: name.into(),
                state: 'S',
                priority: "normal",
                switches: counter(&statistics, folios),
                ..ThreadInfo::default()
            })
            .collect()
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
            background_limit_kib: cache.background_pages() * 4,
            dirty_limit_kib: cache.dirty_limit() * 4,
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
        vec![("mounted".into(), self.mounted_ns)]
    }
    fn log(&self, each: &mut dyn FnMut(&[u8])) {
        let (seconds, rest) = (self.mounted_ns / 1_000_000_000, self.mounted_ns % 1_000_000_000);
        each(format!("[{seconds:5}.{:06}] mounted vda at /\n", rest / 1000).as_bytes());
    }
    fn drop_caches(&self) -> Result<u64> {
        Ok(self.fs.drop_caches() as u64)
    }
    fn mounts(&self) -> Vec<MountInfo> {
        let features = self.describe();
        vec![MountInfo {
            source: self.root_device(),
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
