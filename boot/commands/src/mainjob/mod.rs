//! The main job: overwrite the files of a tree under memory pressure, and prove every byte.
//!
//! ```text
//! survey   which files there are, and which are written all over
//! read     every file; a checksum of every slot becomes the model
//! churn    writers (odd-sized write()), storers (stores into shared mappings of the same
//!          files), a maker (creates, appends, truncates, renames, removes files of its
//!          own), a reader that checks along; the cache is far smaller than the data
//! settle   fsync every file
//! verify   every byte against the model, from the cache as it is
//! drop     the cache
//! prove    every byte against the model again, from the disk; SHA-256 of every file
//! report   figures, verdicts, `@@sha256` lines and one `@@json` line
//! ```
//!
//! | module   | owns |
//! |----------|------|
//! | `model`  | files, slots, versions: what every byte must be |
//! | `make`   | the thread that changes names and sizes |
//! | `work`   | the threads that overwrite and read along |
//! | `verify` | reading against the model |
//! | `report` | figures, verdicts, the summary, JSON |
//!
//! Slots have odd sizes, so neighbours share pages, and neighbours belong to different
//! threads: a write() and a store meet in one folio all the time, each of them owning its
//! own bytes. Every version of a slot can be computed again from the seed.
//!
//! Locks: none. The model's version table is atomic; a slot has one owner.

mod make;
mod model;
mod report;
mod verify;
mod work;

use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use holdfast_sync::thread::{JoinHandle, Priority, sleep_ns, spawn};
use holdfast_sync::time::now_ns;

use crate::context::{Context, Status, explain};
use crate::files::OpenFile;
use crate::system::{System, counter};
use crate::{options, text};
use holdfast_fs::syscall::{OpenFlags, Process};
use holdfast_fs::{Error, locks};
use model::Model;
use report::Report;

/// How often the main thread looks and reports.
const WATCH_NS: u64 = 100_000_000;

/// What all threads of a run share.
pub(crate) struct Job {
    process: Arc<Process>,
    system: Arc<dyn System>,
    /// Where the files are.
    root: Vec<u8>,
    model: Model,
    /// What the maker left.
    made: Mutex<make::Made>,
    /// Some thread failed: the others end.
    stop: AtomicBool,
    /// Bytes done in the present phase.
    progress: AtomicU64,
    /// The next piece of work of the present phase.
    next: AtomicU64,
    /// The counter of throttled dirtiers when the job began.
    throttled_before: u64,
    /// Most bytes of cache.
    cache_bytes: u64,
}

/// Why a run ended early.
pub(crate) type Failed = String;

impl Job {
    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
    fn advance(&self, bytes: u64) {
        self.progress.fetch_add(bytes, Ordering::Relaxed);
    }
    /// Say which call failed on which file, and make the others end.
    fn fail(&self, what: &str, path: &[u8], e: &Error) -> Failed {
        self.stop.store(true, Ordering::Relaxed);
        alloc::format!("{what} {}: {}", text::quote(path), explain(e))
    }
    fn open(&self, path: &[u8], flags: OpenFlags) -> Result<OpenFile, Failed> {
        OpenFile::new(&self.process, path, flags).map_err(|e| self.fail("open", path, &e))
    }
}

/// `mainjob [--seed N] [DIR]`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "s:q", &[("seed", b's')]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 2),
    };
    let seed = match parsed.value(b's').map(|w| crate::xfs_io::numbers::parse(w, 1, 1)) {
        None => 1,
        Some(Some(seed)) => seed as u64,
        Some(None) => return cx.usage(format_args!("bad seed"), 2),
    };
    let root = parsed.operands.first().copied().unwrap_or(b"/").to_vec();
    match run(cx, &root, seed) {
        Ok(report) => {
            report.print(cx);
            Status::from(!report.good())
        }
        Err(e) => {
            cx.flush();
            cx.error(format_args!("{e}"));
            1
        }
    }
}

fn run(cx: &mut Context, root: &[u8], seed: u64) -> Result<Report, Failed> {
    let system = cx.system.clone();
    let mut report = Report::begin(&system, seed);
    make::prepare(cx, root)?;
    let model = Model::survey(cx, root, seed)?;
    let bytes = model.bytes();
    let cache_bytes = system.memory().cache_limit_kib.max(64) << 10;
    let throttled_before = counter(&system.cache_statistics(), "throttled");
    let job = Arc::new(Job {
        throttled_before,
        process: cx.process.clone(),
        system,
        root: root.to_vec(),
        model,
        made: Mutex::new(&locks::STATE, make::Made::default()),
        stop: AtomicBool::new(false),
        progress: AtomicU64::new(0),
        next: AtomicU64::new(0),
        cache_bytes,
    });
    report.survey(&job);
    cx.diagnostic(format_args!(
        "mainjob: {} files, {} MiB, {} MiB of cache, seed {seed}",
        job.model.files.len(),
        bytes >> 20,
        cache_bytes >> 20
    ));

    let read = verify::readers(&job, verify::Pass::Learn);
    let learnt = phase(cx, &job, &mut report, "read", bytes, read)?;
    report.learnt(learnt.iter().map(|v| v.bytes).sum());

    let churn = work::threads(&job);
    let done = phase(cx, &job, &mut report, "churn", job.model.writable_bytes(), churn)?;
    report.churned(done);

    let settle = settle(&job);
    phase(cx, &job, &mut report, "settle", 0, settle)?;

    let check = verify::readers(&job, verify::Pass::Check);
    let checked = phase(cx, &job, &mut report, "verify", bytes, check)?;
    report.verified("verify", &checked);

    let dropped = cx.system.drop_caches().map_err(|e| explain(&e))?;
    report.dropped(dropped);
    let prove = verify::provers(&job);
    let proved = phase(cx, &job, &mut report, "prove", bytes, prove)?;
    report.verified("prove", &proved);
    report.made(make::prove(&job)?);
    report.finish(&job, proved);
    Ok(report)
}

/// One thread that makes every file durable.
fn settle(job: &Arc<Job>) -> Vec<JoinHandle<Result<(), Failed>>> {
    let job = job.clone();
    alloc::vec![spawn("settle", Priority::Normal, move || {
        for file in job.model.files.iter().filter(|f| f.writable) {
            let open = job.open(&file.path, OpenFlags::RDWR)?;
            job.process.fsync(open.fd).map_err(|e| job.fail("fsync", &file.path, &e))?;
        }
        job.process.sync();
        Ok(())
    })]
}

/// Watch a phase's threads to their end: progress on standard error, the threads' switches
/// for the report; then their results, or the first failure.
fn phase<T>(
    cx: &mut Context,
    job: &Arc<Job>,
    report: &mut Report,
    name: &'static str,
    bytes: u64,
    threads: Vec<JoinHandle<Result<T, Failed>>>,
) -> Result<Vec<T>, Failed> {
    let start = now_ns();
    let mut told = start;
    while threads.iter().any(|t| !t.is_finished()) {
        sleep_ns(WATCH_NS);
        report.watch(&job.system);
        if now_ns() - told > 2_000_000_000 {
            told = now_ns();
            progress(cx, job, name, bytes);
        }
    }
    let results: Vec<Result<T, Failed>> = threads.into_iter().map(JoinHandle::join).collect();
    job.progress.store(0, Ordering::Relaxed);
    job.next.store(0, Ordering::Relaxed);
    let elapsed = now_ns() - start;
    report.phase(name, elapsed);
    let seconds = alloc::format!("{}.{:03}", elapsed / 1_000_000_000, elapsed / 1_000_000 % 1000);
    cx.diagnostic(format_args!("mainjob: {name}: {seconds} s"));
    results.into_iter().collect()
}

fn progress(cx: &mut Context, job: &Job, name: &str, bytes: u64) {
    let done = job.progress.load(Ordering::Relaxed);
    let m = job.system.memory();
    let share = match bytes {
        0 => String::new(),
        _ => (done.saturating_mul(100) / bytes).min(100).to_string() + " %, ",
    };
    cx.diagnostic(format_args!(
        "mainjob: {name}: {share}{} MiB, {} KiB cached, {} KiB dirty",
        done >> 20,
        m.cached_kib,
        m.dirty_kib
    ));
}
