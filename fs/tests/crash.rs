//! Power cuts on the whole stack: a random workload is recorded on the device, and every
//! state a cut could leave is recovered, compared with what was acknowledged, and checked.
//!
//! `HOLDFAST_STATES=n` sets how many states of each image are tried, `HOLDFAST_CALLS=n` how
//! long the workloads are, `HOLDFAST_IMAGE=n` and `HOLDFAST_SEED=n` replay one workload; a
//! failure names the state, which `HOLDFAST_STATE=n` tries alone. `HOLDFAST_JUDGED` names a
//! directory for some of the states, as the cut left them, with lists of what we found in
//! them: for others to recover and compare.
#![cfg(not(feature = "shuttle"))]

#[path = "crash/coverage.rs"]
mod coverage;
#[path = "crash/judge.rs"]
mod judge;
#[path = "crash/model.rs"]
mod model;
#[path = "crash/ops.rs"]
mod ops;
#[path = "crash/recording.rs"]
mod recording;
#[path = "crash/states.rs"]
mod states;
#[path = "crash/workload.rs"]
mod workload;
mod xfs_support;

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_fs::block::{BlockDevice, MemDisk, Op as BlockOp, Sector, TraceDisk, TraceEvent};
use holdfast_fs::xfs::ondisk::superblock::Incompat;

use coverage::Coverage;
use judge::judge;
use model::Model;
use recording::{Event, Plan, Recording, record};
use states::{Choice, Device, State, Write};
use workload::Random;
use xfs_support::features::{newer_repair, switch};
use xfs_support::{Scratch, mkfs, tool};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v}")))
}

/// One of the threads that try states.
struct Worker<'a> {
    name: &'a str,
    recording: &'a Recording,
    scratch: &'a Scratch,
    seed: u64,
    /// The file system has pointers to parents.
    parents: bool,
    /// This one's number and how many there are.
    number: u64,
    workers: u64,
    /// States for each write.
    rate: f64,
    seen: &'a Mutex<HashSet<u64>>,
    stop: &'a AtomicBool,
    coverage: Coverage,
    /// The number of the next state.
    next: u64,
}

/// One in so many states is looked at more closely.
const SAMPLE: u64 = 8;
/// One in so many is judged by xfs_repair.
const REPAIR: u64 = 400;
/// So many of each image are for others to judge.
const JUDGED: u64 = 5;

/// States of each image.
fn states_wanted() -> u64 {
    setting("HOLDFAST_STATES").unwrap_or(7000)
}

impl Worker<'_> {
    /// Go through the recording and try states on the way.
    fn run(mut self) -> Result<Coverage, String> {
        let mut device = Device::new(&self.recording.base);
        let mut model = Model::default();
        let mut owed = 0.0;
        for event in &self.recording.events {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            match event {
                Event::Begin(n) => model.begin(&self.recording.calls[*n]),
                Event::End(n) => {
                    let op = &self.recording.calls[*n];
                    model.end(op);
                    // What was promised just now must be there, whatever else is not.
                    if matches!(op, ops::Op::Fsync(_) | ops::Op::Sync) {
                        self.try_state(&device, &model, Choice::Nothing)?;
                    }
                }
                Event::Write { sector, data, durable } => {
                    let (sector, data) = (*sector, data.clone());
                    device.unflushed.push(Write { sector, data, durable: false });
                    owed += self.rate;
                    while owed >= 1.0 {
                        owed -= 1.0;
                        let choice = [Choice::Everything, Choice::Some, Choice::Torn, Choice::Torn];
                        // Samples are to be of every kind, too.
                        let choice = choice[((self.next + self.next / SAMPLE) % 4) as usize];
                        self.try_state(&device, &model, choice)?;
                    }
                    if let (true, Some(last)) = (*durable, device.unflushed.last_mut()) {
                        last.durable = true;
                    }
                }
                Event::Flush => device.flush(),
            }
        }
        Ok(self.coverage)
    }
    fn try_state(&mut self, device: &Device, model: &Model, choice: Choice) -> Result<(), String> {
        let number = self.next;
        self.next += 1;
        let alone = setting("HOLDFAST_STATE");
        if number % self.workers != self.number || alone.is_some_and(|n| n != number) {
            return Ok(());
        }
        let mut random = Random(self.seed ^ number.wrapping_mul(0x1234_5678_9ABC_DEF1));
        let state = device.state(choice, &mut random);
        if !self.seen.lock().expect("states").insert(state.hash) {
            return Ok(());
        }
        let tried = catch_unwind(AssertUnwindSafe(|| {
            self.try_disk(device, &state, model, number, &mut random)
        }));
        let result = tried.unwrap_or_else(|_| Err("it panics".into()));
        self.coverage.states += 1;
        self.coverage.torn += u64::from(state.torn);
        self.coverage.lost += u64::from(state.lost);
        result.map_err(|e| {
            let kept = keep(&device.disk(&state), self.seed, number);
            let calls = model.calls();
            let call = self.recording.calls[calls.saturating_sub(1)].describe();
            format!(
                "{}: state {number} ({choice:?}), in or after call {calls} ({call}): {e}\n\
                 the state is in {kept}; replay with HOLDFAST_SEED={} HOLDFAST_STATE={number}",
                self.name, self.seed
            )
        })
    }
    fn try_disk(
        &mut self,
        device: &Device,
        state: &State,
        model: &Model,
        number: u64,
        random: &mut Random,
    ) -> Result<(), String> {
        if number % SAMPLE < self.workers {
            self.coverage.sample(device.disk(state))?;
        }
        let disk = device.disk(state);
        if number % SAMPLE < self.workers * 2 && number % SAMPLE >= self.workers {
            let trace = TraceDisk::new(disk);
            judge(&(trace.clone() as Arc<dyn BlockDevice>), model)?;
            return self.crash_again(device, state, model, &trace, random);
        }
        judge(&(disk.clone() as Arc<dyn BlockDevice>), model)?;
        if let Some(directory) = std::env::var_os("HOLDFAST_JUDGED")
            && number % (states_wanted() / JUDGED) < self.workers
        {
            let name = Path::new(&directory).join(format!("{}-{number}", self.seed));
            let list = judge::list(&(device.disk(state) as Arc<dyn BlockDevice>))?;
            std::fs::write(name.with_extension("img"), judge::bytes(&device.disk(state)))
                .and_then(|()| std::fs::write(name.with_extension("list"), list))
                .map_err(|e| format!("{}: {e}", name.display()))?;
        }
        if number % REPAIR < self.workers {
            self.coverage.repaired += 1;
            let path = self.scratch.path(&format!("state-{}", self.number));
            repair(&path, &disk, self.parents)?;
        }
        Ok(())
    }
    /// Cut the power again at some write of the recovery.
    fn crash_again(
        &mut self,
        device: &Device,
        state: &State,
        model: &Model,
        trace: &TraceDisk,
        random: &mut Random,
    ) -> Result<(), String> {
        let writes: Vec<(Sector, Arc<Vec<u8>>)> = trace
            .take()
            .into_iter()
            .filter_map(|event| match event {
                TraceEvent::Submitted(r) if r.op == BlockOp::Write => Some((r.sector, r.data)),
                _ => None,
            })
            .collect();
        let disk = device.disk(state);
        for (sector, data) in writes.iter().take(random.below(writes.len() + 1)) {
            disk.poke(*sector, data);
        }
        self.coverage.again += 1;
        let device: Arc<dyn BlockDevice> = disk;
        judge(&device, model).map_err(|e| format!("cut off again in recovery: {e}"))
    }
}

/// Keep a disk for those who want to look at it.
fn keep(disk: &MemDisk, seed: u64, number: u64) -> String {
    let directory = Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/tmp"));
    let path = directory.join(format!("crash-{seed}-{number}.image"));
    match std::fs::write(&path, judge::bytes(disk)) {
        Ok(()) => path.display().to_string(),
        Err(e) => format!("no file ({e})"),
    }
}

/// Let xfs_repair judge: a newer one where the installed one may not know the features.
fn repair(path: &Path, disk: &MemDisk, newer: bool) -> Result<(), String> {
    std::fs::write(path, judge::bytes(disk)).map_err(|e| e.to_string())?;
    if newer {
        return newer_repair(path).map_or(Ok(()), Err);
    }
    let output = tool("xfs_repair")
        .args(["-n", "-f", "-o", "force_geometry"])
        .arg(path)
        .output()
        .map_err(|e| format!("xfs_repair: {e} (is the package xfsprogs installed?)"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("xfs_repair -n: {}", String::from_utf8_lossy(&output.stderr)))
}

/// Record a workload and try the states it could leave.
fn campaign(options: &[&str], megabytes: u64, plan: &Plan, states: u64) -> Coverage {
    let name = format!("{options:?}, seed {}", plan.seed);
    let scratch = Scratch::new(&format!("crash-{}", plan.seed));
    let image = scratch.path("image");
    mkfs(&image, megabytes, options, None);
    let mut image = Arc::new(std::fs::read(&image).expect("image"));
    if plan.parents {
        image = switch(&image, Incompat::PARENT | Incompat::EXCHANGE_RANGE, true);
    }
    let recording = record(&image, plan);
    let writes =
        recording.events.iter().filter(|e| matches!(e, Event::Write { .. })).count().max(1);
    println!(
        "{name}: {} calls, {writes} writes; made {:?}, not supported {:?}",
        recording.calls.len(),
        recording.made,
        recording.refused
    );
    if setting("HOLDFAST_STATE").is_some() {
        for (i, call) in recording.calls.iter().enumerate() {
            println!("call {}: {}", i + 1, call.describe());
        }
    }
    let (seen, stop) = (Mutex::new(HashSet::new()), AtomicBool::new(false));
    let workers = 2;
    let results: Vec<Result<Coverage, String>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers)
            .map(|number| {
                let worker = Worker {
                    name: &name,
                    recording: &recording,
                    scratch: &scratch,
                    seed: plan.seed,
                    parents: plan.parents,
                    number,
                    workers,
                    rate: states as f64 / writes as f64,
                    seen: &seen,
                    stop: &stop,
                    coverage: Coverage::default(),
                    next: 0,
                };
                let stop = &stop;
                scope.spawn(move || {
                    let result = worker.run();
                    if result.is_err() {
                        stop.store(true, Ordering::Relaxed);
                    }
                    result
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().expect("a worker")).collect()
    });
    let mut coverage = Coverage::default();
    for result in results {
        match result {
            Ok(part) => coverage.add(&part),
            Err(e) => panic!("{e}"),
        }
    }
    println!("{name}: {}", coverage.describe());
    coverage
}

/// The image that has pointers to parents, as a newer mkfs.xfs makes it.
const PARENTS: usize = 1;

/// Options of mkfs.xfs, megabytes, does it share blocks.
const IMAGES: &[(&[&str], u64, usize, bool)] = &[
    (&[], 16, 4096, true),
    (&["-m", "rmapbt=1"], 16, 4096, true),
    (&["-b", "size=1024", "-m", "rmapbt=1", "-i", "nrext64=1"], 20, 1024, true),
    (&["-m", "reflink=0,finobt=0,inobtcount=0,bigtime=0", "-i", "sparse=0"], 16, 4096, false),
];

#[test]
fn whatever_a_power_cut_leaves_is_recovered() {
    let states = states_wanted();
    let calls = setting("HOLDFAST_CALLS").unwrap_or(1500) as usize;
    let mut all = Coverage::default();
    for (i, &(options, megabytes, block, reflink)) in IMAGES.iter().enumerate() {
        if setting("HOLDFAST_IMAGE").is_some_and(|n| n != i as u64) {
            continue;
        }
        let seed = setting("HOLDFAST_SEED").unwrap_or(i as u64 + 1);
        let near_wrap = i % 2 == 0;
        // Others may not know them.
        let parents = i == PARENTS && std::env::var_os("HOLDFAST_JUDGED").is_none();
        let first = Vec::new();
        let plan = Plan { seed, first, calls, block, reflink, near_wrap, forced: i == 1, parents };
        all.add(&campaign(options, megabytes, &plan, states));
    }
    println!("all: {}", all.describe());
    if setting("HOLDFAST_IMAGE").is_none() && states >= 1000 {
        // Those that we write: all there are but BUI and BUD, because what they stand for
        // is one transaction here. Linux writes them: tests/xfs/recovery_linux.rs.
        let wanted = ["EFI", "EFD", "inode", "buffer", "icreate", "RUI", "RUD", "CUI", "CUD"];
        assert_eq!(all.missing(&wanted), Vec::<&str>::new(), "item types no log had");
        for (what, count) in [
            ("torn writes", all.torn),
            ("logs that went round", all.wrapped),
            ("incomplete records", all.dropped),
            ("unfinished intents", all.intents),
            ("second cuts", all.again),
        ] {
            assert!(count > 0, "no state had {what}");
        }
    }
}

/// One of two owners of blocks gives them up and the other writes to them, past the cache,
/// with nothing made durable in between: the first still has its own bytes if it is back.
#[test]
fn what_was_shared_is_written_in_place_only_when_it_cannot_be_again() {
    let scratch = Scratch::new("crash-unshared");
    let image = scratch.path("image");
    mkfs(&image, 16, &[], None);
    let image = Arc::new(std::fs::read(&image).expect("image"));
    let (a, b) = (|| String::from("/a"), || String::from("/b"));
    let ways = [
        vec![ops::Op::Unlink(b())],
        vec![ops::Op::Truncate(b(), 0)],
        vec![ops::Op::Punch(b(), 8192, 16384)],
        vec![ops::Op::Direct(b(), 0, vec![3; 65536])],
        vec![ops::Op::Create("/c".into(), 0o644), ops::Op::Clone("/c".into(), b())],
        vec![ops::Op::Create("/c".into(), 0o644), ops::Op::Rename("/c".into(), b())],
    ];
    for gives_up in ways {
        let mut first = vec![ops::Op::Create(a(), 0o644), ops::Op::Create(b(), 0o644)];
        first.push(ops::Op::Write(a(), 0, vec![1; 65536]));
        first.extend([ops::Op::Clone(a(), b()), ops::Op::Sync]);
        first.extend(gives_up.clone());
        first.push(ops::Op::Direct(a(), 0, vec![2; 65536]));
        let calls = first.len();
        let (near_wrap, forced) = (false, false);
        let plan = Plan {
            seed: 1,
            first,
            calls,
            block: 4096,
            reflink: true,
            near_wrap,
            forced,
            parents: false,
        };
        let recording = record(&image, &plan);
        let mut device = Device::new(&recording.base);
        let mut model = Model::default();
        for event in &recording.events {
            match event {
                Event::Begin(n) => model.begin(&recording.calls[*n]),
                Event::End(n) => model.end(&recording.calls[*n]),
                Event::Write { sector, data, .. } => {
                    let (sector, data) = (*sector, data.clone());
                    device.unflushed.push(Write { sector, data, durable: false });
                }
                Event::Flush => device.flush(),
            }
            if matches!(event, Event::End(_)) {
                let state = device.state(Choice::Everything, &mut Random(1));
                let disk: Arc<dyn BlockDevice> = device.disk(&state);
                judge(&disk, &model).unwrap_or_else(|e| panic!("{gives_up:?}: {e}"));
            }
        }
    }
}
