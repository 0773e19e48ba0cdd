//! The whole stack on XFS under a deterministic scheduler: writers whose bytes lie side by
//! side in the same blocks, by `write()`, by stores and by holes, clones of what they write,
//! a file that is cut and extended, direct I/O, names that come and go; and with them every
//! thread there is, for writeback, reclaim, the ends of I/O, the journal and what lies
//! ready behind files' ends. Each thread knows what its own bytes are.
//!
//! ```text
//! HOLDFAST_SCHEDULES=100 cargo test -p holdfast-fs --features shuttle,check --test shuttle whole
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::schedules;
use crate::volume::{Volume, mkfs, repair};
use crate::xfs_support::{disk_with, mount_bytes};
use holdfast_fs::block::{Completion, MemDiskConfig};
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::{Advice, FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot};
use holdfast_fs::xfs::check::check;
use holdfast_fs::xfs::log::head::LogState;
use holdfast_sync::atomic::AtomicBool;
use holdfast_sync::thread::{JoinHandle, Priority, spawn, yield_now};
use shuttle::rand::{Rng, thread_rng};

const SCHEDULES: usize = 60;
/// Steps of each writer.
const STEPS: usize = 12;
/// Pages of memory: less than what is read and written.
const PAGES: u64 = 64;

/// A number below `limit`, which follows from the schedule's seed.
fn below(limit: usize) -> usize {
    thread_rng().gen_range(0..limit)
}

/// Two numbers in order, the second larger, both up to `limit`.
fn range(limit: usize) -> (usize, usize) {
    let (a, b) = (below(limit), below(limit));
    (a.min(b), a.max(b) + 1)
}

fn open(p: &Process, path: &str, flags: OpenFlags) -> Fd {
    p.open(path.as_bytes(), OpenFlags::RDWR | OpenFlags::CREAT | flags, 0o644).expect("it opens")
}

fn read(p: &Process, fd: Fd, pos: usize, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    let n = p.pread(fd, &mut data[..], pos as u64).expect("it is read");
    data.truncate(n);
    data
}

/// Bytes of a writer's region: no multiple of a block's, so that each block at a border has
/// two writers.
const REGION: usize = 3000;
/// Regions of each writer.
const REGIONS: usize = 4;
const WRITERS: usize = 2;
const SHARED_BYTES: usize = REGION * REGIONS * WRITERS;

/// Who owns every second region of a file.
struct Owner {
    v: Arc<Volume>,
    number: usize,
    fd: Fd,
    map: VirtAddr,
    regions: Vec<Vec<u8>>,
    version: u8,
    /// A clone of the file, and what the own regions were then.
    clone: Option<(Fd, Vec<Vec<u8>>)>,
}

impl Owner {
    fn new(v: Arc<Volume>, number: usize) -> Self {
        let p = &v.process;
        let fd = open(p, "/shared", OpenFlags::empty());
        let rights = Prot::READ | Prot::WRITE;
        let map = p.mmap(VirtAddr(0), SHARED_BYTES, rights, MapFlags::SHARED, Some(fd), 0);
        let (map, regions) = (map.expect("it is mapped"), vec![vec![0; REGION]; REGIONS]);
        Self { v, number, fd, map, regions, version: 0, clone: None }
    }
    /// Where the byte `at` of a region is in the file.
    fn place(&self, region: usize, at: usize) -> u64 {
        ((region * WRITERS + self.number) * REGION + at) as u64
    }
    fn step(&mut self) {
        let p = self.v.process.clone();
        let region = below(REGIONS);
        let (from, to) = range(REGION - 1);
        let (pos, len) = (self.place(region, from), to - from);
        self.version += 1;
        let version = self.version;
        match below(12) {
            0..3 => {
                assert_eq!(p.pwrite(self.fd, &vec![version; len][..], pos), Ok(len));
                self.regions[region][from..to].fill(version);
            }
            3..6 => {
                p.store(self.map.add(pos), &vec![version; len]).expect("it is mapped");
                self.regions[region][from..to].fill(version);
            }
            6 => {
                let mode = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
                p.fallocate(self.fd, mode, pos, len as u64).expect("a hole");
                self.regions[region][from..to].fill(0);
            }
            7 => {
                let mode = FallocateMode::ZERO_RANGE | FallocateMode::KEEP_SIZE;
                p.fallocate(self.fd, mode, pos, len as u64).expect("zeros");
                self.regions[region][from..to].fill(0);
            }
            8 => self.clone_all(),
            9 => p.fdatasync(self.fd).expect("it is durable"),
            10 => p.fadvise(self.fd, 0, 0, Advice::DontNeed).expect("it is a file"),
            _ => {
                let mut loaded = vec![0; len];
                p.load(self.map.add(pos), &mut loaded).expect("it is mapped");
                assert!(loaded == self.regions[region][from..to], "loads at {pos}");
            }
        }
        let now = read(&p, self.fd, pos as usize, len);
        assert!(now == self.regions[region][from..to], "read at {pos}");
    }
    /// Share the file's blocks: what is written next is written elsewhere.
    fn clone_all(&mut self) {
        let p = self.v.process.clone();
        self.check_clone();
        let fd = open(&p, &format!("/clone-{}", self.number), OpenFlags::empty());
        p.ftruncate(fd, 0).expect("it is cut");
        p.ficlone(fd, self.fd).expect("it is shared");
        self.clone = Some((fd, self.regions.clone()));
        self.check_clone();
    }
    fn check_clone(&self) {
        let Some((fd, then)) = &self.clone else { return };
        self.check(*fd, then, "the clone");
    }
    fn check(&self, fd: Fd, regions: &[Vec<u8>], what: &str) {
        for (n, region) in regions.iter().enumerate() {
            let at = self.place(n, 0) as usize;
            let found = read(&self.v.process, fd, at, REGION);
            if found != *region {
                let first = (0..REGION).find(|i| found.get(*i) != region.get(*i)).unwrap();
                let differ = (0..REGION).filter(|i| found.get(*i) != region.get(*i)).count();
                panic!(
                    "{what}: {differ} bytes differ, the first at {} is {:?}, not {}",
                    at + first,
                    found.get(first),
                    region[first]
                );
            }
        }
    }
    fn work(mut self) -> Self {
        (0..STEPS).for_each(|_| self.step());
        self
    }
    fn finish(self) {
        self.check(self.fd, &self.regions, "the file");
        self.check_clone();
    }
}

/// A file of one's own, that grows and is cut; its blocks lie ready behind its end.
fn cut_and_extend(v: &Volume) {
    const MOST: usize = 40_000;
    let (p, mut model) = (&v.process, Vec::new());
    let fd = open(p, "/grows", OpenFlags::empty());
    for version in 1..=STEPS as u8 {
        match below(5) {
            0..3 => {
                let at = model.len();
                let len = 1 + below(9000);
                assert_eq!(p.pwrite(fd, &vec![version; len][..], at as u64), Ok(len));
                model.resize(at + len, version);
            }
            3 => {
                let size = below(MOST);
                p.ftruncate(fd, size as u64).expect("it is cut or extended");
                model.resize(size, 0);
            }
            _ => p.fsync(fd).expect("it is durable"),
        }
        assert!(read(p, fd, 0, 2 * MOST + 9000 * STEPS) == model, "a file that is cut");
    }
}

/// Direct writes of whole blocks, which reads through the cache have to see.
fn write_directly(v: &Volume) {
    const BLOCK: usize = 4096;
    const BLOCKS: usize = 6;
    let (p, mut model) = (&v.process, vec![0; BLOCK * BLOCKS]);
    let direct = open(p, "/direct", OpenFlags::DIRECT);
    let cached = open(p, "/direct", OpenFlags::empty());
    p.ftruncate(cached, model.len() as u64).expect("it is extended");
    for version in 1..=STEPS as u8 {
        let (first, behind) = range(BLOCKS - 1);
        let (from, to) = (first * BLOCK, behind * BLOCK);
        let fd = if below(3) == 0 { cached } else { direct };
        assert_eq!(p.pwrite(fd, &vec![version; to - from][..], from as u64), Ok(to - from));
        model[from..to].fill(version);
        assert!(read(p, cached, 0, model.len()) == model, "read through the cache");
        assert!(read(p, direct, from, to - from) == model[from..to], "read directly");
    }
}

/// Names that come and go, one of a file that is used without a name.
fn change_names(v: &Volume) {
    let p = &v.process;
    p.mkdir(b"/dir", 0o755).expect("space");
    for n in 0..STEPS / 3 {
        let path = format!("/dir/{n}");
        let fd = open(p, &path, OpenFlags::EXCL);
        assert_eq!(p.pwrite(fd, path.as_bytes(), 5000), Ok(path.len()));
        p.rename(path.as_bytes(), b"/dir/moved").expect("it is there");
        p.link(b"/dir/moved", b"/other").expect("it is there");
        p.unlink(b"/dir/moved").expect("it is there");
        p.unlink(b"/other").expect("it is there");
        assert_eq!(read(p, fd, 5000, 100), path.as_bytes(), "a file without a name");
        p.close(fd).expect("it is open");
    }
    p.rmdir(b"/dir").expect("it is empty");
}

/// Memory is wanted and everything is to be durable, all the time.
fn disturb(v: &Volume, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        match below(4) {
            0 => drop(v.fs.drop_caches()),
            1 => v.process.sync(),
            2 => v.fs.collect_unused(),
            _ => drop(v.fs.shrink(4)),
        }
        yield_now();
    }
}

/// What happened, over all schedules.
#[derive(Default)]
struct Totals {
    stale: AtomicU64,
    evicted: AtomicU64,
    checkpoints: AtomicU64,
    schedules: AtomicU64,
}

static TOTALS: Totals = Totals {
    stale: AtomicU64::new(0),
    evicted: AtomicU64::new(0),
    checkpoints: AtomicU64::new(0),
    schedules: AtomicU64::new(0),
};

fn start(v: &Volume) {
    v.fs.mount().log().expect("a log").set_interval_ns(1_000_000);
    v.fs.mount().start();
    v.fs.start_blockgc(1_000_000);
    v.cache.start();
}

/// Everything at once, an unmount, and what is on the disk then.
fn everything(image: &Arc<Vec<u8>>) {
    let config = MemDiskConfig { completion: Completion::Threads(1), ..MemDiskConfig::default() };
    let disk = disk_with(image.clone(), config);
    let v = Arc::new(Volume::with_memory(disk, HostMemory::new(PAGES)).expect("it mounts"));
    start(&v);
    let file = open(&v.process, "/shared", OpenFlags::empty());
    v.process.ftruncate(file, SHARED_BYTES as u64).expect("it is extended");
    v.process.close(file).expect("it is open");

    let over = Arc::new(AtomicBool::new(false));
    let with = |name: &str, work: fn(&Volume)| {
        let v = v.clone();
        spawn(name, Priority::Normal, move || work(&v))
    };
    let others = [
        with("cutter", cut_and_extend),
        with("direct", write_directly),
        with("names", change_names),
    ];
    let owners: Vec<JoinHandle<Owner>> = (0..WRITERS)
        .map(|n| {
            let owner = Owner::new(v.clone(), n);
            spawn("owner", Priority::Normal, move || owner.work())
        })
        .collect();
    let disturber = {
        let (v, over) = (v.clone(), over.clone());
        spawn("disturber", Priority::Normal, move || disturb(&v, &over))
    };
    let owners: Vec<Owner> = owners.into_iter().map(JoinHandle::join).collect();
    others.into_iter().for_each(JoinHandle::join);
    over.store(true, Ordering::SeqCst);
    disturber.join();

    v.process.sync();
    v.fs.drop_caches();
    owners.into_iter().for_each(Owner::finish);
    note(&v);
    let v = Arc::into_inner(v).expect("nobody else has it");
    judge(v.unmount());
}

fn note(v: &Volume) {
    let cache = v.cache.statistics();
    let evicted = [&cache.evicted_background, &cache.evicted_direct];
    TOTALS.stale.fetch_add(cache.stale_mappings.load(Ordering::Relaxed), Ordering::Relaxed);
    let evicted = evicted.map(|count| count.load(Ordering::Relaxed)).iter().sum();
    TOTALS.evicted.fetch_add(evicted, Ordering::Relaxed);
    let log = v.fs.mount().log().expect("a log").statistics();
    TOTALS.checkpoints.fetch_add(log.checkpoints, Ordering::Relaxed);
}

/// An unmounted image has a clean log and nothing wrong in it; xfs_repair is asked now and
/// then.
fn judge(image: Arc<Vec<u8>>) {
    let mount = mount_bytes(image.clone(), true).expect("it mounts");
    assert!(matches!(mount.log_state(), LogState::Clean { .. }), "{:?}", mount.log_state());
    let memory: Arc<dyn holdfast_fs::platform::Memory> = HostMemory::new(16384);
    let report = check(mount.queue(), &memory).expect("it can be checked");
    assert!(report.is_clean(), "{report:?}");
    if TOTALS.schedules.fetch_add(1, Ordering::Relaxed).is_multiple_of(50)
        && let Some(complaint) = repair(&image)
    {
        panic!("xfs_repair complains:\n{complaint}");
    }
}

#[test]
fn all_threads_at_once() {
    for options in [&[][..], &["-b", "size=1024", "-m", "rmapbt=1"]] {
        let image = mkfs(16, options);
        let again = image.clone();
        schedules::random(move || everything(&image), SCHEDULES);
        schedules::pct(move || everything(&again), SCHEDULES);
    }
    for (name, count) in [
        ("stale maps", &TOTALS.stale),
        ("folios evicted", &TOTALS.evicted),
        ("checkpoints", &TOTALS.checkpoints),
    ] {
        let count = count.load(Ordering::Relaxed);
        println!("{name}: {count}");
        assert!(count > 0, "no {name} in any schedule");
    }
}
