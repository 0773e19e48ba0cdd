//! The first thread, top down: devices, mount, the command, unmount, the exit status.

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_commands::{Context, script, shell};
use holdfast_fs::block::Queue;
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::PAGE_SIZE;
use holdfast_fs::syscall::Process;
use holdfast_fs::vfs::{BlockNode, CharDevice, CharNode, FileSystem, Namespace};
use holdfast_fs::xfs::{Mount, MountOptions};
use holdfast_kernel::acpi::Machine;
use holdfast_kernel::arch::exit::exit;

use crate::adapters::console::ConsoleStream;
use crate::adapters::devices::{self, Devices};
use crate::adapters::memory::{HardwareTable, KernelEnvironment, KernelMemory};
use crate::adapters::serial::SerialStream;
use crate::cmdline::CommandLine;
use crate::selftest;
use crate::system::{self, Guest};

/// The disk cannot be mounted, or not unmounted cleanly.
const STATUS_MOUNT: u8 = 32;
/// Linux's device number of virtio disks, and of consoles.
const MAJOR_VIRTIO_DISK: u32 = 254;
const MAJOR_CONSOLE: u32 = 5;
/// Minor numbers a disk has.
const DISK_MINORS: u32 = 16;

/// Everything that needs threads: devices, mount, the command, and the exit status.
pub fn main_thread(command_line: &CommandLine, _machine: &Machine, script: Option<&'static [u8]>) {
    system::mark("kernel");
    if command_line.has("selftest") {
        exit(selftest::run(command_line.value("selftest"), command_line.text()));
    }
    let devices = devices::find(command_line.text());
    system::mark("devices");

    let memory = Arc::new(KernelMemory);
    let cache = PageCache::new(memory, cache_config(command_line));
    cache.start();
    let disks: Vec<Arc<Queue>> = devices.disks.iter().map(|d| Queue::new(d.clone())).collect();
    // The checker reads the device itself, also of a file system that cannot be mounted.
    let checks = command_line
        .bytes("cmd")
        .is_some_and(|argv| argv.split(|b| *b == 0).next() == Some(b"fsck"));
    let unmounted = checks || command_line.has("noroot");
    let root = if unmounted { None } else { Some(mount(command_line, &disks, &cache)) };
    system::mark("mounted");
    if root.is_some() {
        log::info!("mounted {} at /", disks[0].info().name);
    }

    let guest = Guest::new(cache.clone(), root.clone(), disks.first().cloned());
    let process = make_process(&devices, &disks, &cache, root.clone());
    let mut context = Context::new(process.clone(), guest);
    let status = run(&mut context, command_line, script);

    drop(context);
    process.exit();
    drop(process);
    let unmounted = root.is_none_or(|root| match root.unmount() {
        Ok(()) => true,
        Err(e) => {
            log::error!("unmount: {e}");
            false
        }
    });
    cache.stop();
    if let Some(console) = &devices.console {
        console.drain();
    }
    exit(if status == 0 && !unmounted { STATUS_MOUNT } else { status })
}

fn cache_config(command_line: &CommandLine) -> CacheConfig {
    let max_pages = command_line.size("page_cache").map(|bytes| bytes / PAGE_SIZE as u64);
    CacheConfig { max_pages, ..CacheConfig::default() }
}

/// How long blocks that were allocated ahead and are not used stay so: whole seconds up to
/// a day, as Linux's setting of that name.
fn prealloc_lifetime_ns(command_line: &CommandLine) -> u64 {
    const DAY_S: u64 = 86_400;
    let usual = FileSystem::PREALLOC_LIFETIME_S;
    let seconds = command_line.number("prealloc_lifetime").unwrap_or(usual);
    seconds.clamp(1, DAY_S) * 1_000_000_000
}

/// Mount the first disk, or end with the reason why not.
fn mount(
    command_line: &CommandLine,
    disks: &[Arc<Queue>],
    cache: &Arc<PageCache>,
) -> Arc<FileSystem> {
    let Some(disk) = disks.first() else {
        log::error!("cannot mount: there is no disk");
        exit(STATUS_MOUNT)
    };
    let name = &disk.info().name;
    let readonly = command_line.has("ro") || disk.info().readonly;
    if readonly && !command_line.has("ro") {
        log::warn!("{name} is read-only, mounting it read-only");
    }
    match Mount::open(disk.clone(), Arc::new(KernelMemory), MountOptions { readonly }) {
        Ok(mount) => {
            mount.set_environment(Arc::new(KernelEnvironment));
            mount.set_discard(command_line.has("discard"));
            mount.start();
            let fs = FileSystem::new(mount, cache.clone());
            fs.start_blockgc(prealloc_lifetime_ns(command_line));
            fs
        }
        Err(e) => {
            log::error!("cannot mount {name}: {e}");
            exit(STATUS_MOUNT)
        }
    }
}

/// The process that runs the commands: the names it sees, its first descriptors.
fn make_process(
    devices: &Devices,
    disks: &[Arc<Queue>],
    cache: &Arc<PageCache>,
    root: Option<Arc<FileSystem>>,
) -> Arc<Process> {
    let memory = cache.program_memory();
    let namespace = Namespace::new(root);
    for (queue, minor) in disks.iter().zip((0..).step_by(DISK_MINORS as usize)) {
        let node = BlockNode::new(queue.clone(), memory.clone(), MAJOR_VIRTIO_DISK, minor);
        namespace.register(&queue.info().name, node);
    }
    let console = stdio(devices.console.as_ref());
    namespace.register("console", CharNode::new(console.clone(), MAJOR_CONSOLE, 1));
    let table = HardwareTable::new().expect("memory for the first page table");
    let stdio = [console.clone(), console, Arc::new(SerialStream)];
    Process::new(namespace, Arc::new(table), memory, Arc::new(KernelEnvironment), stdio)
}

fn stdio(console: Option<&Arc<ConsoleStream>>) -> Arc<dyn CharDevice> {
    match console {
        Some(console) => console.clone(),
        None => Arc::new(SerialStream),
    }
}

/// Do what the command line asks for. The status of it.
fn run(context: &mut Context, command_line: &CommandLine, script: Option<&[u8]>) -> u8 {
    if let Some(argv) = command_line.bytes("cmd") {
        let argv: Vec<Vec<u8>> = argv.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        holdfast_commands::run(context, &argv)
    } else if command_line.has("script") {
        script::run_script(context, script.unwrap_or_default())
    } else if command_line.has("shell") {
        shell::interact(context)
    } else if command_line.has("mainjob") {
        holdfast_commands::run(context, &[b"mainjob".to_vec()])
    } else {
        log::info!("no command");
        0
    }
}
