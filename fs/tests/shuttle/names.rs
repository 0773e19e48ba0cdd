//! Names and inodes of a real mount under a deterministic scheduler: threads that make
//! inodes where there are none left, and threads that lock several at a time.
//!
//! ```text
//! cargo test -p holdfast-fs --features shuttle --test shuttle names
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::schedules::{any, explore};
use crate::volume::{Volume, mkfs, repair};
use crate::xfsprogs::{Scratch, mkfs as mkfs_from};
use holdfast_fs::syscall::OpenFlags;
use holdfast_fs::vfs::FallocateMode;
use holdfast_fs::xfs::namespace::{Rename, RenameFlags};
use holdfast_fs::xfs::ondisk::stamp_checksum;
use holdfast_fs::xfs::ondisk::superblock::CRC_OFFSET;
use holdfast_fs::xfs::types::AgNumber;
use holdfast_fs::xfs::{Ino, Inode};
use holdfast_sync::thread::{Priority, spawn};
use shuttle::scheduler::{RoundRobinScheduler, Schedule, Scheduler, Task, TaskId};

/// Lets the first thread that is spawned run up to some step of its, then the others as far
/// as they get, then the rest: a schedule for each step there is.
#[derive(Default)]
struct Interrupted {
    /// Where it is interrupted in this schedule.
    at: usize,
    /// Steps it has taken in it.
    taken: usize,
}

impl Interrupted {
    /// Who goes before whom.
    fn rank(&self, task: TaskId) -> usize {
        match usize::from(task) {
            1 if self.taken >= self.at => usize::MAX,
            id => id,
        }
    }
}

impl Scheduler for Interrupted {
    fn new_execution(&mut self) -> Option<Schedule> {
        // In the last schedule it ended before it came that far.
        if self.taken < self.at {
            return None;
        }
        (self.at, self.taken) = (self.at + 1, 0);
        Some(Schedule::new(0))
    }
    fn next_task(&mut self, tasks: &[&Task], now: Option<TaskId>, yields: bool) -> Option<TaskId> {
        let ids = || tasks.iter().map(|task| task.id());
        let others = ids().filter(|id| !(yields && Some(*id) == now));
        let next = others.min_by_key(|id| self.rank(*id)).or_else(|| ids().next())?;
        self.taken += usize::from(usize::from(next) == 1);
        Some(next)
    }
    fn next_u64(&mut self) -> u64 {
        0
    }
}

/// Unmount; xfs_repair judges now and then.
fn finish(v: Arc<Volume>) {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let image = Arc::into_inner(v).expect("nobody else has it").unmount();
    if COUNT.fetch_add(1, Ordering::Relaxed).is_multiple_of(100)
        && let Some(complaint) = repair(&image)
    {
        panic!("xfs_repair complains:\n{complaint}");
    }
}

/// Inodes of a chunk, and those that mkfs.xfs makes for itself.
const CHUNK: usize = 64;
const INTERNAL: usize = 3;

/// A file system all of whose inodes are in use; there is much space for more.
fn without_a_free_inode() -> Arc<Vec<u8>> {
    let scratch = Scratch::new("names");
    let mut proto = String::from("/none\n0 0\nd--755 0 0\na d--755 0 0\n$\nb d--755 0 0\n$\n");
    for n in 0..CHUNK - INTERNAL - 2 {
        proto += &format!("{n} ---644 0 0 /dev/null\n");
    }
    proto += "$\n";
    let (file, image) = (scratch.path("proto"), scratch.path("image"));
    std::fs::write(&file, proto).expect("a prototype");
    mkfs_from(&image, 16, &["-d", "agcount=1", "-i", "size=2048"], Some(&file));
    Arc::new(std::fs::read(&image).expect("an image"))
}

/// An image, changed by `change`, which runs under the scheduler as all that has locks.
fn changed(
    image: Arc<Vec<u8>>,
    change: impl Fn(Volume) -> Arc<Vec<u8>> + Send + Sync + 'static,
) -> Arc<Vec<u8>> {
    let changed = Arc::new(Mutex::new(None));
    let result = changed.clone();
    explore(RoundRobinScheduler::new(1), usize::MAX, move || {
        *result.lock().expect("one thread") = Some(change(Volume::over(&image)));
    });
    let mut changed = changed.lock().expect("one thread");
    changed.take().expect("it was changed")
}

/// Blocks of the holes that are left of the free space: part of a chunk fits, but the group
/// is none that anybody would choose if there were a better one. So he who is left without
/// an inode has no second try.
const HOLE_BLOCKS: u64 = 10;
const BLOCK: u64 = 4096;

/// Leave of the free space no more than some short runs.
fn crumble(v: Volume) -> Arc<Vec<u8>> {
    let p = &v.process;
    let take = |path: &[u8], blocks: u64| {
        let fd = p.open(path, OpenFlags::RDWR, 0).expect("it is there");
        let end = p.fstat(fd).expect("open").size;
        let taken = p.fallocate(fd, FallocateMode::empty(), end, blocks * BLOCK);
        p.close(fd).expect("open");
        taken
    };
    for n in 0..24 {
        take(format!("/{n}").as_bytes(), HOLE_BLOCKS).expect("space");
        take(b"/30", 1).expect("space");
    }
    let mut blocks = 1 << 12;
    while blocks > 0 {
        if take(b"/31", blocks).is_err() {
            blocks /= 2;
        }
    }
    for n in 0..24 {
        p.truncate(format!("/{n}").as_bytes(), 0).expect("it is there");
    }
    v.unmount()
}

/// Two threads make a file each, and one of them takes his away again.
fn makers(image: &Arc<Vec<u8>>) {
    let v = Arc::new(Volume::over(image));
    let free = v.fs.mount().agi(AgNumber(0)).expect("an AGI").free_count;
    assert_eq!(free, 0, "the first file needs a new chunk");
    let maker = |path: &'static [u8], keep: bool| {
        let v = v.clone();
        spawn("maker", Priority::Normal, move || {
            v.touch(path).expect("there is room");
            if !keep {
                v.process.unlink(path).expect("it is there");
            }
        })
    };
    let threads = [maker(b"/a/kept", true), maker(b"/b/gone", false)];
    threads.into_iter().for_each(|thread| thread.join());
    assert_eq!(v.list(b"/a"), [b"kept"]);
    assert!(v.list(b"/b").is_empty());
    finish(v);
}

/// Both look for a group while one makes a chunk: what that one changes of the group's
/// headers is nothing that the other may trip over.
///
/// And the chunk is not taken from under him who made it, wherever he is interrupted:
///
/// ```text
/// A                                   B
/// makes a chunk, commits that,
/// has nothing locked
///                                     takes an inode of it, gives it back, and with
///                                     it the chunk, which nobody uses
/// finds no inode: "no space"
/// ```
#[test]
fn a_new_chunk_has_an_inode_for_who_made_it() {
    let image = without_a_free_inode();
    let crumbled = changed(image.clone(), crumble);
    explore(any(200), 1_000_000, move || makers(&image));
    explore(Interrupted::default(), 1_000_000, move || makers(&crumbled));
}

/// Bytes of a log much smaller than mkfs.xfs makes.
const LOG_BYTES: u32 = 384 << 10;
const BLOCK_BYTES: u32 = 1024;
/// Extents of a file whose removal takes more log than there is.
const EXTENTS: u64 = 500;

/// A file system with a tiny log, some directories, and a file of very many extents.
fn with_a_tiny_log() -> Arc<Vec<u8>> {
    let options = ["-b", "size=1024", "-d", "agcount=1", "-m", "rmapbt=0,reflink=0"];
    let mut empty = Vec::clone(&mkfs(64, &options));
    empty[96..100].copy_from_slice(&(LOG_BYTES / BLOCK_BYTES).to_be_bytes());
    stamp_checksum(&mut empty[..512], CRC_OFFSET);
    changed(Arc::new(empty), fill)
}

/// Files whose blocks alternate: what one gives back lies in as many pieces.
fn fill(v: Volume) -> Arc<Vec<u8>> {
    let p = &v.process;
    for dir in [b"/d", b"/e"] {
        p.mkdir(dir, 0o755).expect("space");
    }
    let files = [b"/cut", b"/let"].map(|name| v.create(name).expect("space"));
    for n in 0..EXTENTS {
        for fd in files {
            p.fallocate(fd, FallocateMode::empty(), n * 2048, 1024).expect("space");
        }
    }
    for fd in files {
        p.close(fd).expect("open");
    }
    v.unmount()
}

/// The inode at a path.
fn inode(v: &Volume, path: &[u8]) -> Arc<Inode> {
    let p = &v.process;
    let fd = p.open(path, OpenFlags::RDONLY, 0).expect("it is there");
    let ino = p.fstat(fd).expect("it is open").ino;
    p.close(fd).expect("it is open");
    v.fs.mount().inode(Ino(ino)).expect("an inode")
}

/// How often the log was gone round, over all schedules.
static LAPS: AtomicU64 = AtomicU64::new(0);

/// A file is cut, which takes more log than there is, with its inode locked from the first
/// step to the last; others give it names meanwhile, in directories that are the oldest
/// thing in the log.
fn several_inodes(image: &Arc<Vec<u8>>, thread: bool) {
    let v = Arc::new(Volume::over(image));
    let mount = v.fs.mount().clone();
    if thread {
        mount.start();
    }
    let [root, d, e, cut] = [&b"/"[..], b"/d", b"/e", b"/cut"].map(|path| inode(&v, path));
    assert!(root.ino() < d.ino() && d.ino() < e.ino() && e.ino() < cut.ino());
    for dir in [&b"/"[..], b"/d", b"/e"] {
        v.process.chmod(dir, 0o700).expect("mine");
    }
    v.process.sync();
    let lap = mount.log().expect("a log").head().cycle();
    let cutter = {
        let v = v.clone();
        spawn("cutter", Priority::Normal, move || v.process.truncate(b"/cut", 0).expect("cut"))
    };
    let linker = {
        let (mount, root, cut) = (mount.clone(), root, cut.clone());
        spawn("linker", Priority::Normal, move || {
            for _ in 0..2 {
                mount.link(&root, b"another", &cut, false).expect("linked");
                mount.unlink(&root, b"another", &cut).expect("unlinked");
            }
            mount.link(&root, b"kept", &cut, false).expect("linked");
        })
    };
    let mover = {
        let (mount, cut) = (mount.clone(), cut.clone());
        spawn("mover", Priority::Normal, move || {
            mount.link(&d, b"name", &cut, false).expect("linked");
            let there = |from, from_name, to, to_name| Rename {
                from,
                from_name,
                inode: &cut,
                to,
                to_name,
                replaced: None,
                flags: RenameFlags::empty(),
            };
            mount.rename(&there(&d, b"name", &e, b"moved")).expect("moved");
            mount.rename(&there(&e, b"moved", &d, b"back")).expect("moved");
            mount.rename(&there(&d, b"back", &e, b"last")).expect("moved");
        })
    };
    [cutter, linker, mover].into_iter().for_each(|thread| thread.join());
    assert_eq!(v.list(b"/"), [&b"cut"[..], b"d", b"e", b"kept", b"let"]);
    assert!(v.list(b"/d").is_empty());
    assert_eq!(v.list(b"/e"), [b"last"]);
    assert_eq!((cut.attributes().nlink, cut.size(), cut.attributes().blocks), (3, 0, 0));
    let laps = mount.log().expect("a log").head().cycle() - lap;
    LAPS.fetch_add(laps.into(), Ordering::Relaxed);
    drop((cut, mount));
    // xfs_repair would miss the blocks behind the short log.
    Arc::into_inner(v).expect("nobody else has it").unmount();
}

/// Whoever locks several inodes gives all of them back where the next is busy and one may
/// be the log's tail: otherwise the cutter waits for log space, the tail for the directory's
/// inode, and the linker, who holds that, for the cutter.
#[test]
fn nobody_waits_for_an_inode_with_the_tail_in_his_hands() {
    let image = with_a_tiny_log();
    let again = image.clone();
    explore(any(8), STEPS, move || several_inodes(&image, false));
    explore(any(8), STEPS, move || several_inodes(&again, true));
    let laps = LAPS.load(Ordering::Relaxed);
    println!("{laps} laps of the log");
    assert!(laps > 0, "the log was never full");
}

/// Many times what a schedule of these takes.
const STEPS: usize = 20_000_000;
