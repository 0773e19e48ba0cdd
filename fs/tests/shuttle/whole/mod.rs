//! The whole stack on XFS under a deterministic scheduler: writers whose bytes lie side by
//! side in the same blocks, by `write()`, by stores and by holes, clones of what they write,
//! a file that is cut and extended, direct I/O, names that come and go; and with them every
//! thread there is, for writeback, reclaim, the ends of I/O, the journal and what lies
//! ready behind files' ends. Each thread knows what its own bytes are, and after a power cut
//! at any time what they may be.
//!
//! ```text
//! HOLDFAST_SCHEDULES=100 cargo test -p holdfast-fs --features shuttle,check --test shuttle whole
//! ```

mod ledger;
mod owner;
mod power;
mod scribble;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use self::ledger::Ledger;
use self::owner::{OWNERS, Owner, SHARED_BYTES};
use crate::schedules;
use crate::volume::{Volume, mkfs, repair};
use crate::xfs_support::mount_bytes;
use crate::xfsprogs::disk_with_a_thread;
use holdfast_fs::block::{FaultDisk, TraceDisk};
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::{Fd, OpenFlags, Process};
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
/// When the threads that wait for time to pass look again.
const INTERVAL_NS: u64 = 1_000_000;

/// A number below `limit`, which follows from the schedule's seed.
fn below(limit: usize) -> usize {
    thread_rng().gen_range(0..limit)
}

/// Two numbers in order, the second larger, both up to `limit`.
fn range(limit: usize) -> (usize, usize) {
    let (a, b) = (below(limit), below(limit));
    (a.min(b), a.max(b) + 1)
}

fn open_with(p: &Process, path: &str, flags: OpenFlags) -> Fd {
    p.open(path.as_bytes(), OpenFlags::RDWR | OpenFlags::CREAT | flags, 0o644).expect("it opens")
}

fn open(p: &Process, path: &str) -> Fd {
    open_with(p, path, OpenFlags::empty())
}

fn read(p: &Process, fd: Fd, pos: usize, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    let n = p.pread(fd, &mut data[..], pos as u64).expect("it is read");
    data.truncate(n);
    data
}

/// A file of one's own, that grows and is cut; its blocks lie ready behind its end.
fn cut_and_extend(v: &Volume) {
    const MOST: usize = 40_000;
    let (p, mut model) = (&v.process, Vec::new());
    let fd = open(p, "/grows");
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
    let direct = open_with(p, "/direct", OpenFlags::DIRECT);
    let cached = open(p, "/direct");
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
        let fd = open_with(p, &path, OpenFlags::EXCL);
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

/// One thing after the other that a system does of its own.
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

/// A mount whose device keeps a record.
#[derive(Clone)]
pub struct Stage {
    v: Arc<Volume>,
    trace: Arc<TraceDisk>,
    faults: Arc<FaultDisk>,
}

impl Stage {
    fn new(image: &Arc<Vec<u8>>) -> Self {
        let disk = disk_with_a_thread(image);
        let faults = FaultDisk::new(disk.clone());
        let trace = TraceDisk::new(faults.clone());
        let v = Volume::through(disk, trace.clone(), HostMemory::new(PAGES));
        let v = Arc::new(v.expect("it mounts"));
        v.fs.mount().log().expect("a log").set_interval_ns(INTERVAL_NS);
        v.fs.mount().start();
        v.fs.start_blockgc(INTERVAL_NS);
        v.cache.start();
        let file = open(&v.process, "/shared");
        v.process.ftruncate(file, SHARED_BYTES as u64).expect("it is extended");
        v.process.close(file).expect("it is open");
        Self { v, trace, faults }
    }
    fn spawn<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let stage = self.clone();
        spawn(name, Priority::Normal, move || work(&stage))
    }
    /// Everything at once. Who knows what there has to be in the end.
    fn play(&self) -> (Vec<Owner>, Ledger) {
        let ledger = self.spawn("ledger", ledger::work);
        let others = [
            self.spawn("cutter", |stage| cut_and_extend(&stage.v)),
            self.spawn("direct", |stage| write_directly(&stage.v)),
            self.spawn("names", |stage| change_names(&stage.v)),
        ];
        let owners: Vec<JoinHandle<Owner>> = (0..OWNERS)
            .map(|n| {
                let owner = Owner::new(self, n);
                self.spawn("owner", |_| owner.work())
            })
            .collect();
        self.disturb(|| {
            let owners = owners.into_iter().map(JoinHandle::join).collect();
            others.into_iter().for_each(JoinHandle::join);
            (owners, ledger.join())
        })
    }
    /// Memory is wanted and everything is to be durable all the time, until `others` are done.
    fn disturb<T>(&self, others: impl FnOnce() -> T) -> T {
        let over = Arc::new(AtomicBool::new(false));
        let until = over.clone();
        let disturber = self.spawn("disturber", move |stage| disturb(&stage.v, &until));
        let done = others();
        over.store(true, Ordering::SeqCst);
        disturber.join();
        done
    }
    /// Unmount; the image.
    fn unmount(self) -> Arc<Vec<u8>> {
        TOTALS.note(&self.v);
        drop((self.trace, self.faults));
        Arc::into_inner(self.v).expect("nobody else has it").unmount()
    }
}

/// Everything at once, an unmount, and what is on the disk then.
fn unmounted(image: &Arc<Vec<u8>>) {
    let stage = Stage::new(image);
    let (owners, ledger) = stage.play();
    stage.v.process.sync();
    stage.v.fs.drop_caches();
    owners.iter().for_each(Owner::finish);
    assert!(ledger.is_complete());
    ledger.check(&stage.v, u64::MAX);
    drop(owners);
    judge(stage.unmount());
}

/// Everything at once, and a power cut at any time.
fn cut_off(image: &Arc<Vec<u8>>) {
    let stage = Stage::new(image);
    let (owners, ledger) = stage.play();
    let events = stage.trace.take();
    let submitted = 1 + below(stage.trace.submitted() as usize) as u64;
    let after = Volume::on(power::cut(image, &events, submitted)).expect("it is recovered");
    if let Some(found) = ledger::find(&after, "/shared", 2 * SHARED_BYTES) {
        owners.iter().for_each(|owner| owner.may_be(&found, submitted));
    }
    ledger.check(&after, submitted);
    judge(after.unmount());
    drop(owners);
    stage.unmount();
}

/// What happened, over all schedules.
struct Totals {
    stale: AtomicU64,
    evicted: AtomicU64,
    checkpoints: AtomicU64,
    schedules: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
}

static TOTALS: Totals = Totals {
    stale: AtomicU64::new(0),
    evicted: AtomicU64::new(0),
    checkpoints: AtomicU64::new(0),
    schedules: AtomicU64::new(0),
    failed: AtomicU64::new(0),
    refused: AtomicU64::new(0),
};

impl Totals {
    fn note(&self, v: &Volume) {
        let cache = v.cache.statistics();
        let evicted = [&cache.evicted_background, &cache.evicted_direct];
        let evicted = evicted.map(|count| count.load(Ordering::Relaxed)).iter().sum();
        self.stale.fetch_add(cache.stale_mappings.load(Ordering::Relaxed), Ordering::Relaxed);
        self.evicted.fetch_add(evicted, Ordering::Relaxed);
        let log = v.fs.mount().log().expect("a log").statistics();
        self.checkpoints.fetch_add(log.checkpoints, Ordering::Relaxed);
    }
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

/// Try it on file systems of several kinds.
fn explore(scenario: fn(&Arc<Vec<u8>>)) {
    for options in [&[][..], &["-b", "size=1024", "-m", "rmapbt=1"]] {
        let image = mkfs(16, options);
        schedules::both(move || scenario(&image), SCHEDULES);
    }
}

#[test]
fn all_threads_at_once() {
    explore(unmounted);
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

#[test]
fn nobody_waits_for_a_device_that_fails() {
    explore(scribble::until_it_fails);
    assert!(TOTALS.failed.load(Ordering::Relaxed) > 0, "nothing failed");
}

#[test]
fn no_space_is_promised_twice_or_lost() {
    explore(scribble::on_a_full_disk);
    assert!(TOTALS.refused.load(Ordering::Relaxed) > 0, "there was always space");
}

#[test]
fn what_was_durable_survives_a_power_cut() {
    explore(cut_off);
}
