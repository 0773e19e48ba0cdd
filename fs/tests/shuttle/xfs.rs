//! The metadata buffer cache under a deterministic scheduler: readers of the same block,
//! a device that ends requests on a thread of its own, and somebody who takes unused
//! blocks away. And the log's thread, which covers an idle log while somebody unmounts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::schedules;
use crate::volume::Volume;
use crate::xfs_support::{image, mount_bytes, mount_disk};
use crate::xfsprogs::disk_with_a_thread;
use holdfast_fs::xfs::Mount;
use holdfast_fs::xfs::log::head::LogState;
use holdfast_sync::thread::{Priority, spawn, yield_now};

/// How often a block had to be read again after it was taken away, over all schedules.
static READ_AGAIN: AtomicU64 = AtomicU64::new(0);
/// How often a reader found the block that another one had brought in.
static SHARED: AtomicU64 = AtomicU64::new(0);

fn scenario(image: &Arc<Vec<u8>>, shrinking: bool) {
    let mount = mount_disk(disk_with_a_thread(image), true).expect("mount");
    mount.shrink(usize::MAX);
    let before = mount.buffers().statistics();
    let reader = |mount: Arc<Mount>| {
        move || {
            for _ in 0..3 {
                let root = mount.inode(mount.root()).expect("root");
                assert!(root.lookup(b"..") == Ok(mount.root()));
                mount.agf(holdfast_fs::xfs::types::AgNumber(0)).expect("AGF");
            }
        }
    };
    let threads: Vec<_> =
        (0..2).map(|_| spawn("reader", Priority::Normal, reader(mount.clone()))).collect();
    for _ in 0..if shrinking { 20 } else { 0 } {
        mount.shrink(usize::MAX);
        yield_now();
    }
    for thread in threads {
        thread.join();
    }
    let after = mount.buffers().statistics();
    let reads = after.reads - before.reads;
    // The cluster of the root, and the AGF.
    assert!(reads >= 2 && (shrinking || reads == 2), "{reads} reads");
    READ_AGAIN.fetch_add(reads - 2, Ordering::Relaxed);
    SHARED.fetch_add(after.hits - before.hits, Ordering::Relaxed);
}

#[test]
fn readers_share_one_read() {
    let image = image(16, &[]);
    let quiet = image.clone();
    schedules::random(move || scenario(&quiet, false), 300);
    assert!(SHARED.load(Ordering::Relaxed) > 300);
    schedules::random(move || scenario(&image, true), 300);
    assert!(READ_AGAIN.load(Ordering::Relaxed) > 0, "no schedule took a block away in between");
}

/// A change, and an unmount at about the time when the log's thread finds that nothing
/// happens any more.
fn unmounted_while_idle(image: &Arc<Vec<u8>>) {
    let v = Volume::over(image);
    let mount = v.fs.mount();
    mount.log().expect("a log").set_interval_ns(1);
    mount.start();
    v.touch(b"/file").expect("space");
    v.process.sync();
    let left = v.unmount();
    let again = mount_bytes(left, true).expect("it mounts");
    assert!(matches!(again.log_state(), LogState::Clean { .. }), "{:?}", again.log_state());
}

/// What covers the log is a change, too: none may come behind the last one that an unmount
/// waits for.
///
/// ```text
/// unmount                             the log's thread
/// everything is in place
///                                     nothing to replay: logs the superblock   (1)
/// the last record; after (1) there is
/// what is not in place: "busy"
///                                     logs the superblock: the log is dirty    (2)
/// ends the thread
/// ```
#[test]
fn nobody_covers_the_log_behind_an_unmount() {
    let image = image(16, &[]);
    schedules::random(move || unmounted_while_idle(&image), 300);
}
