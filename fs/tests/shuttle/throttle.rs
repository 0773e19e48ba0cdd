//! Writers that wait because too much is dirty, while others take dirty pages away without
//! writing them.

use std::sync::Arc;

use crate::schedules;
use crate::volume::{Volume, mkfs};
use crate::xfsprogs::disk_with_a_thread;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::OpenFlags;
use holdfast_sync::thread::{Priority, spawn};

/// Pages of memory, a few of which may be dirty.
const PAGES: u64 = 64;
const BYTES: usize = 40_000;

/// ```text
/// writer                              cutter
/// too much is dirty: waits for
/// writeback to end
///                                     cuts a file: its dirty pages are gone, and with
///                                     them all there was to write
/// ```
/// Nothing is dirty then, so no writeback will end, and nobody else wakes the writer.
fn written_and_cut(image: &Arc<Vec<u8>>) {
    let disk = disk_with_a_thread(image);
    let v = Arc::new(Volume::with_memory(disk, HostMemory::new(PAGES)).expect("it mounts"));
    v.cache.start();
    let threads = ["/a", "/b", "/c"].map(|path| {
        let p = v.process.clone();
        spawn("writer", Priority::Normal, move || {
            let flags = OpenFlags::RDWR | OpenFlags::CREAT;
            let fd = p.open(path.as_bytes(), flags, 0o644).expect("it opens");
            for value in 1..4 {
                assert_eq!(p.pwrite(fd, &[value; BYTES][..], 0), Ok(BYTES));
                p.ftruncate(fd, 0).expect("it is cut");
            }
            p.close(fd).expect("it is open");
        })
    });
    threads.into_iter().for_each(|thread| thread.join());
    Arc::into_inner(v).expect("nobody else has it").unmount();
}

#[test]
fn who_waits_for_clean_pages_learns_of_pages_that_are_gone() {
    let image = mkfs(16, &[]);
    schedules::both(move || written_and_cut(&image), 200);
}
