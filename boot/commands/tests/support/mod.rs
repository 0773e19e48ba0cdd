//! A guest on the host: an image file, mounted by the storage stack, and its commands.

#![allow(dead_code)] // every test uses another part of it

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_commands::{Context, MemoryFigures, MountInfo, System, ThreadInfo, run, script};
use holdfast_fs::block::{Completion, FileDisk};
use holdfast_fs::block::{Queue, QueueStatistics};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::Process;
use holdfast_fs::vfs::{BlockNode, CharDevice, CharNode, FileSystem, Namespace, Null, Zero};
use holdfast_fs::xfs::log::LogStatistics;
use holdfast_fs::xfs::{Mount, MountOptions};

/// A descriptor whose bytes are kept, and one whose bytes were given.
#[derive(Default)]
pub struct Pipe {
    pub bytes: Mutex<Vec<u8>>,
    pub terminal: AtomicBool,
}

impl CharDevice for Pipe {
    fn read(&self, buffer: &mut [u8]) -> holdfast_fs::Result<usize> {
        let mut bytes = self.bytes.lock().unwrap();
        let n = buffer.len().min(bytes.len());
        for (to, from) in buffer.iter_mut().zip(bytes.drain(..n)) {
            *to = from;
        }
        Ok(n)
    }
    fn is_terminal(&self) -> bool {
        self.terminal.load(Ordering::Relaxed)
    }
    fn write(&self, buffer: &[u8]) -> holdfast_fs::Result<usize> {
        self.bytes.lock().unwrap().extend_from_slice(buffer);
        Ok(buffer.len())
    }
}

/// The host in the kernel's place.
pub struct HostSystem {
    fs: Arc<FileSystem>,
    queue: Arc<Queue>,
    memory: Arc<HostMemory>,
}

impl System for HostSystem {
    fn threads(&self) -> Vec<ThreadInfo> {
        // The host does not count switches: one a folio stands in, so that a thread that
        // never worked still shows zero.
        let statistics = self.cache_statistics();
        let count = |name| holdfast_commands::system::counter(&statistics, name);
        [("writeback", count("cleaned_background")), ("reclaim", count("evicted_background"))]
            .into_iter()
            .enumerate()
            .map(|(i, (name, switches))| ThreadInfo {
                id: i as u64 + 1,
                name: name.into(),
                state: 'S',
                priority: "normal",
                switches,
                ..ThreadInfo::default()
            })
            .collect()
    }
    fn memory(&self) -> MemoryFigures {
        let cache = self.fs.cache();
        let limit = cache.max_pages() * 4;
        MemoryFigures {
            total_kib: self.memory.total_pages() * 4,
            free_kib: self.memory.free_pages() * 4,
            cached_kib: cache.pages() * 4,
            dirty_kib: cache.dirty_pages() * 4,
            writeback_kib: cache.writeback_pages() * 4,
            cache_limit_kib: limit,
            background_limit_kib: limit * cache.config().background_percent / 100,
            dirty_limit_kib: limit * cache.config().dirty_percent / 100,
            ..MemoryFigures::default()
        }
    }
    fn uptime_ns(&self) -> u64 {
        holdfast_sync::time::now_ns()
    }
    fn cpus(&self) -> usize {
        2
    }
    fn boot_marks(&self) -> Vec<(String, u64)> {
        vec![("mounted".into(), 1_500_000)]
    }
    fn log(&self, each: &mut dyn FnMut(&[u8])) {
        each(b"[    0.000001] hello\n");
    }
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

/// What a command left.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub status: u8,
    pub out: Vec<u8>,
    pub err: Vec<u8>,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
    pub fn errors(&self) -> String {
        String::from_utf8_lossy(&self.err).into_owned()
    }
}

/// A mounted image and a process on it.
pub struct Guest {
    pub process: Arc<Process>,
    pub system: Arc<HostSystem>,
    pub stdin: Arc<Pipe>,
    pub stdout: Arc<Pipe>,
    pub stderr: Arc<Pipe>,
    fs: Arc<FileSystem>,
}

impl Guest {
    pub fn mount(image: &Path, cache_pages: Option<u64>, readonly: bool) -> Self {
        let disk =
            FileDisk::open(image, readonly, Completion::Threads(2)).expect("the image opens");
        let queue = Queue::new(disk);
        let memory = HostMemory::new(64 << 10);
        let mount = Mount::open(queue.clone(), memory.clone(), MountOptions { readonly })
            .unwrap_or_else(|e| panic!("the image mounts: {e}"));
        mount.set_environment(HostEnvironment::system());
        mount.start();
        let config = CacheConfig { max_pages: cache_pages, ..CacheConfig::default() };
        let cache = PageCache::new(memory.clone(), config);
        cache.start();
        let fs = FileSystem::new(mount, cache);
        let ns = Namespace::new(Some(fs.clone()));
        ns.register("vda", BlockNode::new(queue.clone(), memory.clone(), 254, 0));
        ns.register("null", Arc::new(Null));
        ns.register("zero", Arc::new(Zero));
        let (stdin, stdout, stderr) =
            (Arc::new(Pipe::default()), Arc::new(Pipe::default()), Arc::new(Pipe::default()));
        ns.register("console", CharNode::new(stdout.clone(), 5, 1));
        let process = Process::new(
            ns,
            SimPageTable::new(),
            memory.clone(),
            HostEnvironment::system(),
            [stdin.clone(), stdout.clone(), stderr.clone()],
        );
        let system = Arc::new(HostSystem { fs: fs.clone(), queue, memory });
        Self { process, system, stdin, stdout, stderr, fs }
    }
    fn finish(&self, status: u8) -> Ran {
        let take = |pipe: &Pipe| std::mem::take(&mut *pipe.bytes.lock().unwrap());
        Ran { status, out: take(&self.stdout), err: take(&self.stderr) }
    }
    pub fn context(&self) -> Context {
        Context::new(self.process.clone(), self.system.clone())
    }
    pub fn run(&self, argv: &[&str]) -> Ran {
        let argv: Vec<Vec<u8>> = argv.iter().map(|w| w.as_bytes().to_vec()).collect();
        self.run_bytes(&argv)
    }
    pub fn run_bytes(&self, argv: &[Vec<u8>]) -> Ran {
        let status = run(&mut self.context(), argv);
        self.finish(status)
    }
    pub fn script(&self, text: &str) -> Ran {
        let status = script::run_script(&mut self.context(), text.as_bytes());
        self.finish(status)
    }
    /// The prompt, fed with these bytes.
    pub fn shell(&self, typed: &[u8], terminal: bool) -> Ran {
        self.stdin.bytes.lock().unwrap().extend_from_slice(typed);
        self.stdin.terminal.store(terminal, Ordering::Relaxed);
        let status = holdfast_commands::shell::interact(&mut self.context());
        self.finish(status)
    }
    pub fn unmount(self) {
        self.process.exit();
        self.fs.cache().stop();
        self.fs.unmount().expect("it unmounts");
    }
}

/// A directory for one test's files, emptied first.
pub fn scratch(name: &str) -> PathBuf {
    let dir = Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/tmp")).join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Run a tool of the host that must be there and succeed.
pub fn tool(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        // mkfs.xfs makes small file systems for its own tests only.
        .envs([("TEST_DIR", "x"), ("TEST_DEV", "y"), ("QA_CHECK_FS", "1")])
        .output()
        .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    output.stdout
}

/// An image of `size` bytes made by mkfs.xfs from a prototype file, on a ground of 0xEE.
pub fn image(dir: &Path, size: usize, prototype: &str, options: &[&str]) -> PathBuf {
    let (image, proto) = (dir.join("disk.img"), dir.join("prototype"));
    std::fs::write(&image, vec![0xEE; size]).unwrap();
    std::fs::write(&proto, prototype).unwrap();
    let (proto, path) = (proto.to_str().unwrap(), image.to_str().unwrap());
    let mut args = vec!["-q", "-K", "-f", "-p", proto];
    args.extend(options);
    args.push(path);
    tool("mkfs.xfs", &args);
    image
}
