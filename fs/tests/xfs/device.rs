//! XFS above a device that fails, with little memory, and with many threads at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::xfs_support::{Scratch, craft, disk_over, disk_with, mount_bytes, mount_disk, walk};
use holdfast_fs::Error;
use holdfast_fs::block::{Completion, Fault, FaultDisk, MemDiskConfig, Op, Queue};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::{Mount, MountError, MountOptions};

fn image(name: &str) -> Arc<Vec<u8>> {
    let scratch = Scratch::new(name);
    Arc::new(craft::image(&scratch, "image", 36, &["-b", "size=1024", "-m", "reflink=1"]))
}

#[test]
fn io_errors_travel_up_and_are_not_remembered() {
    let image = image("xfs-io-errors");
    let whole = walk::tree(&mount_bytes(image.clone(), false).expect("mount"));
    let mut failed = 0;
    let mut refused = 0;
    for nth in 0.. {
        let disk = FaultDisk::new(disk_over(image.clone()));
        disk.inject(Fault::Nth { op: Op::Read, n: nth });
        let mount = match mount_disk(disk.clone(), false) {
            Ok(mount) => mount,
            Err(MountError::Io(_)) => {
                refused += 1;
                continue;
            }
            Err(e) => panic!("{e}"),
        };
        let tree = walk::tree(&mount);
        if disk.failed() == 0 {
            break;
        }
        // One request failed, so one object at least; with the same inode, a few.
        assert!(!tree.errors.is_empty(), "request {nth} failed and nobody was told");
        assert!(tree.errors.iter().all(|(_, e)| *e == Error::Io), "{:?}", tree.errors);
        failed += 1;
        let again = walk::tree(&mount);
        assert!(again.errors.is_empty(), "{:?}", again.errors);
        assert!(again.objects == whole.objects);
    }
    assert!(refused > 5 && failed > 50, "{refused} not mounted, {failed} failed");
}

#[test]
fn everything_reads_with_hardly_any_memory() {
    let image = image("xfs-memory");
    let whole = walk::tree(&mount_bytes(image.clone(), false).expect("mount"));
    let memory = HostMemory::new(16);
    let queue = Queue::new(disk_over(image));
    let options = MountOptions { readonly: true };
    let mount = Mount::open(queue, memory.clone(), options).expect("mount");
    // Somebody takes all pages there are: the cache has some in reserve.
    let taken: Vec<_> = std::iter::from_fn(|| memory.alloc_page()).collect();
    assert!(!taken.is_empty() && memory.free_pages() == 0);
    let tree = walk::tree(&mount);
    assert!(tree.errors.is_empty(), "{:?}", tree.errors);
    assert!(tree.objects == whole.objects);
    let held = mount.buffers().statistics();
    assert!(held.bytes <= 256 << 10, "{held:?}");
    // Reclaim gets everything back that nobody holds.
    assert_eq!(mount.shrink(usize::MAX), held.buffers);
    assert_eq!(mount.buffers().statistics().bytes, 0);
    let few = HostMemory::new(2);
    let queue = mount.queue().clone();
    let refused = Mount::open(queue, few, MountOptions::default());
    assert_eq!(refused.err(), Some(MountError::NoMemory));
}

#[test]
fn many_threads_read_the_same_blocks_once() {
    let image = image("xfs-threads");
    let whole = walk::tree(&mount_bytes(image.clone(), false).expect("mount"));
    let config =
        MemDiskConfig { completion: Completion::Reordered(2, 42), ..MemDiskConfig::default() };
    let mount = mount_disk(disk_with(image.clone(), config), false).expect("mount");
    let alone = {
        let mount = mount_disk(disk_over(image), false).expect("mount");
        walk::tree(&mount);
        mount.buffers().statistics().reads
    };
    let walk_all = || {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let tree = walk::tree(&mount);
                    assert!(tree.errors.is_empty(), "{:?}", tree.errors);
                    assert!(tree.objects == whole.objects);
                });
            }
        });
    };
    walk_all();
    assert_eq!(mount.buffers().statistics().reads, alone, "a block was read twice");
    // And with somebody who takes the blocks away all the time; all of them before, so that
    // they are read again even if that thread never gets a turn while the others walk.
    mount.shrink(usize::MAX);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                mount.shrink(7);
                std::thread::yield_now();
            }
        });
        walk_all();
        stop.store(true, Ordering::Relaxed);
    });
    assert!(mount.buffers().statistics().reads > alone);
}
