//! Copies of shared blocks under a deterministic scheduler: who gives back what lies ready
//! for them, while others write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::schedules;
use crate::volume::{Volume, mkfs};
use crate::xfsprogs::disk_with_a_thread;
use holdfast_fs::platform::{PAGE_SIZE, VirtAddr};
use holdfast_fs::syscall::{Advice, Fd, MapFlags, OpenFlags, Process, Prot};
use holdfast_sync::thread::{JoinHandle, Priority, spawn};

/// Stores by each of two threads, and clones.
const ROUNDS: usize = 20;
const STORERS: [usize; 2] = [0, 1];
const BYTES: usize = ROUNDS * STORERS.len() * PAGE_SIZE;

/// How often something was given back while there was something to give, over all schedules.
static GIVEN_BACK: AtomicU64 = AtomicU64::new(0);

fn read(v: &Volume, fd: Fd) -> Vec<u8> {
    let mut data = vec![0; BYTES];
    assert_eq!(v.process.pread(fd, &mut data[..], 0), Ok(BYTES));
    data
}

/// The two files that share blocks.
fn file_and_clone(p: &Process) -> [Fd; 2] {
    let flags = OpenFlags::RDWR | OpenFlags::CREAT;
    [&b"/file"[..], b"/clone"].map(|path| p.open(path, flags, 0o644).expect("it opens"))
}

/// A copy is on its way to disk while somebody looks for copies that nobody uses.
///
/// ```text
/// stores, fsync                       collector
///                                     nothing is dirty nor on its way to disk
/// stores: pages 0 and 2 are dirty
/// page 2 is on its way to disk
///                                     no more stores; waits for page 2
/// page 0 is on its way to disk
/// page 2 is there
///                                     no page behind it is on its way, none is dirty:
///                                     gives back all copies
/// page 0 is there, but no copy to
/// move into the file, which keeps
/// the old block
/// ```
fn collected_while_written(image: &Arc<Vec<u8>>) {
    let v = Arc::new(Volume::on(disk_with_a_thread(image)).expect("it mounts"));
    v.cache.start();
    let p = v.process.clone();
    let [file, clone] = file_and_clone(&p);
    assert_eq!(p.pwrite(file, &[1; BYTES][..], 0), Ok(BYTES));
    let inode = v.fs.mount().inode(holdfast_fs::xfs::Ino(p.fstat(file).unwrap().ino)).unwrap();
    let map = p.mmap(VirtAddr(0), BYTES, Prot::READ | Prot::WRITE, MapFlags::SHARED, Some(file), 0);
    let map = map.expect("it is mapped");

    let over = Arc::new(AtomicBool::new(false));
    let collector = {
        let (v, over) = (v.clone(), over.clone());
        spawn("collector", Priority::Normal, move || {
            while !over.load(Ordering::SeqCst) {
                let held = inode.holds_copies();
                v.fs.collect_unused();
                let given_back = held && !inode.holds_copies();
                GIVEN_BACK.fetch_add(given_back.into(), Ordering::Relaxed);
            }
        })
    };
    let place = |storer, round| (round * STORERS.len() + storer) * PAGE_SIZE;
    let storers = STORERS.map(|storer| {
        let p = p.clone();
        spawn("storer", Priority::Normal, move || {
            for round in (0..ROUNDS).rev() {
                let at = place(storer, round) as u64;
                p.store(map.add(at), &[2; 1000]).expect("it is mapped");
            }
        })
    });
    for _ in 0..ROUNDS {
        p.ficlone(clone, file).expect("it is shared");
        p.fsync(file).expect("it is durable");
    }
    storers.into_iter().for_each(JoinHandle::join);
    p.ficlone(clone, file).expect("it is shared");
    over.store(true, Ordering::SeqCst);
    collector.join();

    v.fs.drop_caches();
    let mut expected = vec![1; BYTES];
    for page in expected.chunks_mut(PAGE_SIZE) {
        page[..1000].fill(2);
    }
    assert!(read(&v, file) == expected, "the file");
    assert!(read(&v, clone) == expected, "the clone");
    drop(p);
    Arc::into_inner(v).expect("nobody else has it").unmount();
}

#[test]
fn no_copy_is_given_back_on_its_way_to_disk() {
    let image = mkfs(16, &[]);
    schedules::random(move || collected_while_written(&image), 500);
    assert!(GIVEN_BACK.load(Ordering::Relaxed) > 0, "nothing was ever given back");
}

/// Pages of a file that is read ahead in two batches, and one of the second.
const AHEAD: usize = 80;
const LATE: usize = 70;

/// A block gets another place between two batches of readahead: what is known of the first
/// one's place does not serve the second.
///
/// ```text
/// readahead                           write, fsync
/// maps the file, reads pages 0 to 63
///                                     page 70 is copied elsewhere, and dropped
/// reads page 70 from the old place
/// ```
fn moved_while_read_ahead(image: &Arc<Vec<u8>>) {
    let v = Arc::new(Volume::over(image));
    let p = v.process.clone();
    let [file, clone] = file_and_clone(&p);
    let bytes = AHEAD * PAGE_SIZE;
    assert_eq!(p.pwrite(file, &vec![1; bytes][..], 0), Ok(bytes));
    p.ficlone(clone, file).expect("it is shared");
    p.fsync(file).expect("it is durable");
    p.fadvise(file, 0, 0, Advice::DontNeed).expect("it is a file");
    let reader = {
        let p = p.clone();
        spawn("reader", Priority::Normal, move || p.fadvise(file, 0, 0, Advice::WillNeed))
    };
    let at = (LATE * PAGE_SIZE) as u64;
    assert_eq!(p.pwrite(file, &[2; PAGE_SIZE][..], at), Ok(PAGE_SIZE));
    p.fsync(file).expect("it is durable");
    p.fadvise(file, at, PAGE_SIZE as u64, Advice::DontNeed).expect("it is a file");
    reader.join().expect("it is a file");
    let mut page = [0; PAGE_SIZE];
    assert_eq!(p.pread(file, &mut page[..], at), Ok(PAGE_SIZE));
    assert!(page == [2; PAGE_SIZE], "read from where it was before");
    drop(p);
    Arc::into_inner(v).expect("nobody else has it").unmount();
}

#[test]
fn a_block_that_moved_is_read_where_it_is() {
    let image = mkfs(16, &[]);
    schedules::pct(move || moved_while_read_ahead(&image), 300);
}
