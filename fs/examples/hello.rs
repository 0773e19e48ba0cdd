//! A program of one's own on an XFS image: mount, write, make durable, unmount.
//!
//! `cargo run -p holdfast-fs --features std --example hello -- disk.img`

use std::sync::Arc;

use holdfast_fs::block::{Completion, FileDisk, Queue};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::Process;
use holdfast_fs::vfs::{CharDevice, FileSystem, Namespace, OpenFlags};
use holdfast_fs::xfs::{Mount, MountOptions};

/// Descriptors 0 to 2 of a program that does not use them.
struct Nothing;

impl CharDevice for Nothing {
    fn read(&self, _: &mut [u8]) -> holdfast_fs::Result<usize> {
        Ok(0)
    }
    fn write(&self, bytes: &[u8]) -> holdfast_fs::Result<usize> {
        Ok(bytes.len())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let image = std::env::args().nth(1).ok_or("which image?")?;
    let disk = FileDisk::open(image.as_ref(), false, Completion::Inline)?;
    let (memory, environment) = (HostMemory::new(16 << 10), HostEnvironment::system());
    let mount = Mount::open(Queue::new(disk), memory.clone(), MountOptions::default())?;
    mount.set_environment(environment.clone());
    let fs = FileSystem::new(mount, PageCache::new(memory.clone(), CacheConfig::default()));
    let names = Namespace::new(Some(fs.clone()));
    let stdio: [Arc<dyn CharDevice>; 3] = [Arc::new(Nothing), Arc::new(Nothing), Arc::new(Nothing)];
    let process = Process::new(names, SimPageTable::new(), memory, environment, stdio);

    let fd = process.open(b"/hello", OpenFlags::WRONLY | OpenFlags::CREAT, 0o644)?;
    process.write(fd, &b"hello, world\n"[..])?;
    process.fsync(fd)?;

    process.exit();
    Ok(fs.unmount()?)
}
