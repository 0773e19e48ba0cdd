//! What commands may ask of the kernel besides files.

use alloc::string::String;
use alloc::vec::Vec;

use holdfast_fs::Result;
use holdfast_fs::block::QueueStatistics;
use holdfast_fs::xfs::log::LogStatistics;

/// One thread, as `ps` lists it.
#[derive(Clone, Debug, Default)]
pub struct ThreadInfo {
    /// Its number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// `R` running or runnable, `S` sleeping, `D` waiting for I/O or a lock, `I` idle.
    pub state: char,
    /// The processor it last ran on.
    pub cpu: usize,
    /// Its priority, as the kernel names it.
    pub priority: &'static str,
    /// Times it was switched to.
    pub switches: u64,
    /// Nanoseconds it ran.
    pub run_ns: u64,
    /// What it waits for, if anything.
    pub waits_for: String,
}

/// Where memory is, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct MemoryFigures {
    /// What the machine has for us.
    pub total_kib: u64,
    /// Free frames.
    pub free_kib: u64,
    /// The page cache.
    pub cached_kib: u64,
    /// Cached metadata.
    pub buffers_kib: u64,
    /// Of the page cache: not yet written.
    pub dirty_kib: u64,
    /// Of the page cache: being written.
    pub writeback_kib: u64,
    /// The heap, used part.
    pub heap_used_kib: u64,
    /// The heap in all.
    pub heap_total_kib: u64,
    /// The most the page cache may hold.
    pub cache_limit_kib: u64,
    /// Dirty memory from which the writeback thread works.
    pub background_limit_kib: u64,
    /// Dirty memory from which dirtiers are throttled.
    pub dirty_limit_kib: u64,
}

/// One mounted file system.
#[derive(Clone, Debug, Default)]
pub struct MountInfo {
    /// The device.
    pub source: String,
    /// Where.
    pub target: String,
    /// The type, "xfs".
    pub fs_type: String,
    /// Mount options, comma separated.
    pub options: String,
    /// Features and geometry: name and value.
    pub features: Vec<(String, String)>,
}

/// The kernel as commands see it.
pub trait System: Send + Sync {
    /// All threads.
    fn threads(&self) -> Vec<ThreadInfo>;
    /// Where memory is.
    fn memory(&self) -> MemoryFigures;
    /// Nanoseconds since the machine started.
    fn uptime_ns(&self) -> u64;
    /// Processors that run.
    fn cpus(&self) -> usize;
    /// What happened when during the boot: a name, nanoseconds since start.
    fn boot_marks(&self) -> Vec<(String, u64)>;
    /// The kernel log, in pieces, oldest first.
    fn log(&self, each: &mut dyn FnMut(&[u8]));
    /// Drop clean folios and cached metadata of all file systems; how many folios.
    ///
    /// # Errors
    /// What the file system says.
    fn drop_caches(&self) -> Result<u64>;
    /// Mounted file systems, the root first.
    fn mounts(&self) -> Vec<MountInfo>;
    /// The page cache's counters: name and value.
    fn cache_statistics(&self) -> Vec<(&'static str, u64)>;
    /// The counters of the root's device.
    fn block_statistics(&self) -> QueueStatistics;
    /// What the root's log did; nothing if there is no root that can be written.
    fn log_statistics(&self) -> LogStatistics;
    /// The path of the root's device, `/dev/vda`.
    fn root_device(&self) -> String;
    /// Other counters worth showing (scheduler, locks, drivers): name and value.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// A named counter of [`System::cache_statistics`], 0 when there is none of that name.
pub fn counter(counters: &[(&'static str, u64)], name: &str) -> u64 {
    counters.iter().find(|c| c.0 == name).map_or(0, |c| c.1)
}
