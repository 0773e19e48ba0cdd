//! The kernel as commands see it.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_commands::{MemoryFigures, MountInfo, System, ThreadInfo};
use holdfast_fs::block::{Queue, QueueStatistics};
use holdfast_fs::pagecache::PageCache;
use holdfast_fs::platform::PAGE_SIZE;
use holdfast_fs::vfs::FileSystem;
use holdfast_fs::xfs::log::LogStatistics;
use holdfast_kernel::mm::{frames, heap};
use holdfast_kernel::sched::{self, State};
use holdfast_kernel::{arch, console, time};
use holdfast_sync::{LockClass, Mutex};

static MARKS_CLASS: LockClass = LockClass::new("MARKS", 0);
static MARKS: Mutex<Vec<(&str, u64)>> = Mutex::new(&MARKS_CLASS, Vec::new());

/// Note that the boot has come this far.
pub fn mark(what: &'static str) {
    MARKS.lock().push((what, time::since_machine_start_ns()));
}

/// The running guest.
pub struct Guest {
    cache: Arc<PageCache>,
    root: Option<Arc<FileSystem>>,
    disk: Option<Arc<Queue>>,
}

impl Guest {
    /// A guest with this page cache, root and root device.
    pub fn new(
        cache: Arc<PageCache>,
        root: Option<Arc<FileSystem>>,
        disk: Option<Arc<Queue>>,
    ) -> Arc<Self> {
        Arc::new(Self { cache, root, disk })
    }
}

const fn kib(pages: u64) -> u64 {
    pages * (PAGE_SIZE as u64 >> 10)
}

impl System for Guest {
    fn threads(&self) -> Vec<ThreadInfo> {
        sched::snapshot().into_iter().map(thread_info).collect()
    }
    fn memory(&self) -> MemoryFigures {
        let heap = heap::statistics();
        let slabs_kib = kib(heap.slab_frames);
        MemoryFigures {
            total_kib: kib(frames::total_count()),
            free_kib: kib(frames::free_count()),
            cached_kib: kib(self.cache.pages()),
            buffers_kib: self
                .root
                .as_ref()
                .map_or(0, |r| r.mount().buffer_statistics().bytes as u64 >> 10),
            dirty_kib: kib(self.cache.dirty_pages()),
            writeback_kib: kib(self.cache.writeback_pages()),
            heap_used_kib: slabs_kib + (heap.list_used_bytes >> 10),
            heap_total_kib: slabs_kib + (heap.list_size_bytes >> 10),
            cache_limit_kib: kib(self.cache.max_pages()),
            background_limit_kib: kib(self.cache.background_pages()),
            dirty_limit_kib: kib(self.cache.dirty_limit()),
        }
    }
    fn uptime_ns(&self) -> u64 {
        time::now_ns()
    }
    fn cpus(&self) -> usize {
        arch::percpu::count()
    }
    fn boot_marks(&self) -> Vec<(String, u64)> {
        MARKS.lock().iter().map(|(what, ns)| (what.to_string(), *ns)).collect()
    }
    fn log(&self, each: &mut dyn FnMut(&[u8])) {
        each(&console::dmesg());
    }
    fn drop_caches(&self) -> holdfast_fs::Result<u64> {
        Ok(self.root.as_ref().map_or(0, |root| root.drop_caches() as u64))
    }
    fn mounts(&self) -> Vec<MountInfo> {
        let Some(root) = &self.root else { return Vec::new() };
        let features = root.mount().describe();
        alloc::vec![MountInfo {
            source: self.root_device(),
            target: "/".into(),
            fs_type: "xfs".into(),
            options: if root.readonly() { "ro" } else { "rw" }.into(),
            features: features.into_iter().map(|(k, v)| (k.to_string(), v)).collect(),
        }]
    }
    fn cache_statistics(&self) -> Vec<(&'static str, u64)> {
        self.cache.statistics().snapshot()
    }
    fn block_statistics(&self) -> QueueStatistics {
        self.disk.as_ref().map(|disk| disk.statistics()).unwrap_or_default()
    }
    fn log_statistics(&self) -> LogStatistics {
        let log = self.root.as_ref().and_then(|root| root.mount().log());
        log.map(|log| log.statistics()).unwrap_or_default()
    }
    fn root_device(&self) -> String {
        self.disk.as_ref().map_or_else(String::new, |disk| format!("/dev/{}", disk.info().name))
    }
    fn counters(&self) -> Vec<(&'static str, u64)> {
        let heap = heap::statistics();
        alloc::vec![
            ("contended_locks", holdfast_sync::contended_acquisitions()),
            ("heap_depot_trips", heap.depot_trips),
            ("heap_list_allocs", heap.list_allocs),
            ("heap_list_frees", heap.list_frees),
        ]
    }
}

fn thread_info(t: sched::ThreadInfo) -> ThreadInfo {
    let waits_for = match t.state {
        State::Blocked if t.wait_word != 0 => format!("{:#x}", t.wait_word),
        _ => String::new(),
    };
    ThreadInfo {
        id: t.id,
        state: match t.state {
            _ if t.is_idle => 'I',
            State::Running | State::Ready => 'R',
            State::Blocked => 'S',
            State::Dead => 'X',
        },
        cpu: t.cpu,
        priority: match t.priority {
            holdfast_sync::thread::Priority::Idle => "idle",
            holdfast_sync::thread::Priority::Normal => "normal",
            holdfast_sync::thread::Priority::High => "high",
        },
        switches: t.voluntary_switches + t.involuntary_switches,
        run_ns: t.run_ns,
        waits_for,
        name: t.name,
    }
}
