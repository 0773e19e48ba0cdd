//! Power cuts on the whole stack: a random workload is recorded on the device, and every
//! state a cut could leave is recovered, compared with what was acknowledged, and checked.
//!
//! `HOLDFAST_STATES=n` sets how many different states of each workload are tried,
//! `HOLDFAST_CALLS=n` how long the workloads are, `HOLDFAST_IMAGE=n` and `HOLDFAST_SEED=n`
//! replay one workload; a failure names the state, which `HOLDFAST_STATE=n` tries alone.
//! `HOLDFAST_JUDGED` names a directory for some of the states, as the cut left them, with
//! lists of what we found in them: for others to recover and compare.
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
#[path = "crash/worker.rs"]
mod worker;
#[path = "crash/workload.rs"]
mod workload;
mod xfs_support;
mod xfsprogs;

use std::collections::VecDeque;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use holdfast_fs::block::BlockDevice;
use holdfast_fs::xfs::ondisk::superblock::Incompat;

use coverage::Coverage;
use judge::judge;
use model::Model;
use recording::{Event, Plan, record};
use states::{Choice, Device};
use worker::Worker;
use workload::Random;
use xfs_support::features::switch;
use xfs_support::{Scratch, mkfs};

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v}")))
}

/// States of each workload.
fn states_wanted() -> u64 {
    setting("HOLDFAST_STATES").unwrap_or(STATES)
}

/// Record a workload on the image with this number and try the states it could leave.
fn campaign(image: usize, plan: &Plan, stop: &AtomicBool) -> Result<Coverage, String> {
    let (options, megabytes) = (IMAGES[image].options, IMAGES[image].megabytes);
    let name = format!("{options:?}, seed {}", plan.seed);
    let scratch = Scratch::new(&format!("crash-{image}-{}", plan.seed));
    let path = scratch.path("image");
    mkfs(&path, megabytes, options, None);
    let mut bytes = Arc::new(std::fs::read(&path).expect("image"));
    if plan.parents {
        bytes = switch(&bytes, Incompat::PARENT | Incompat::EXCHANGE_RANGE, true);
    }
    let recording = record(&bytes, plan);
    drop(bytes);
    println!(
        "{name}: {} calls, {} writes; made {:?}, not supported {:?}",
        recording.calls.len(),
        recording.writes(),
        recording.made,
        recording.refused
    );
    if setting("HOLDFAST_STATE").is_some() {
        for (i, call) in recording.calls.iter().enumerate() {
            println!("call {}: {}", i + 1, call.describe());
        }
    }
    let which = (&*name, plan.seed, image);
    let coverage = Worker::new(which, &recording, &scratch, states_wanted(), stop).run()?;
    println!("{name}: {}", coverage.describe());
    Ok(coverage)
}

/// The image that has pointers to parents, as a newer mkfs.xfs makes it.
const PARENTS: usize = 1;

/// A file system to work on.
struct Image {
    /// Options of mkfs.xfs.
    options: &'static [&'static str],
    megabytes: u64,
    /// Bytes of its blocks.
    block: usize,
    /// Bytes of the device's sectors, none of which a power cut tears.
    unit: usize,
    /// It can share blocks.
    reflink: bool,
}

const IMAGE: Image = Image { options: &[], megabytes: 16, block: 4096, unit: 512, reflink: true };

const IMAGES: &[Image] = &[
    IMAGE,
    Image { options: &["-m", "rmapbt=1"], ..IMAGE },
    Image {
        options: &["-b", "size=1024", "-m", "rmapbt=1", "-i", "nrext64=1"],
        megabytes: 20,
        block: 1024,
        ..IMAGE
    },
    Image {
        options: &["-m", "reflink=0,finobt=0,inobtcount=0,bigtime=0", "-i", "sparse=0"],
        reflink: false,
        ..IMAGE
    },
    Image { options: &["-s", "size=4096"], unit: 4096, ..IMAGE },
    Image { options: &["-l", "su=32k"], ..IMAGE },
    Image {
        options: &["-s", "size=4096", "-l", "su=32k", "-m", "rmapbt=1", "-i", "size=1024"],
        megabytes: 24,
        unit: 4096,
        ..IMAGE
    },
];

/// Different states of a workload, where the environment does not say how many.
const STATES: u64 = 1900;
/// Different states of all of them, at least.
const ALL_STATES: u64 = 24_000;
/// Workloads on each image.
const ROUNDS: u64 = 2;

/// The workloads, each with the number of its image.
fn plans() -> Vec<(usize, Plan)> {
    let calls = setting("HOLDFAST_CALLS").unwrap_or(1500) as usize;
    // Others may not know pointers to parents, and have time for a few only.
    let for_others = std::env::var_os("HOLDFAST_JUDGED").is_some();
    let seeds = setting("HOLDFAST_SEED");
    let rounds = if seeds.is_some() || for_others { 1 } else { ROUNDS };
    let chosen = |image: &usize| setting("HOLDFAST_IMAGE").is_none_or(|n| n == *image as u64);
    let plan = |round: u64, image: usize| {
        let Image { block, unit, reflink, .. } = IMAGES[image];
        let seed = seeds.unwrap_or(1 + image as u64 + round * IMAGES.len() as u64);
        // Every second workload on an image is different in these, too.
        let second = (seed.max(1) - 1) / IMAGES.len() as u64 % 2 == 1;
        Plan {
            seed,
            first: Vec::new(),
            calls,
            block,
            unit,
            reflink,
            near_wrap: image.is_multiple_of(2) != second,
            forced: image == 1 || image == 2 && second,
            parents: image == PARENTS && !for_others,
        }
    };
    let images = || (0..IMAGES.len()).filter(chosen);
    (0..rounds).flat_map(|round| images().map(move |i| (i, plan(round, i)))).collect()
}

/// Try the states of all workloads, two at a time.
fn campaigns(plans: Vec<(usize, Plan)>) -> Result<Coverage, String> {
    let (stop, all) = (AtomicBool::new(false), Mutex::new(Coverage::default()));
    let plans = Mutex::new(VecDeque::from(plans));
    let work = || {
        while let Some((image, plan)) = plans.lock().map_err(|e| e.to_string())?.pop_front() {
            match campaign(image, &plan, &stop) {
                Ok(coverage) => all.lock().map_err(|e| e.to_string())?.add(&coverage),
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = [scope.spawn(work), scope.spawn(work)];
        threads.into_iter().try_for_each(|t| t.join().unwrap_or_else(|e| resume_unwind(e)))
    })?;
    all.into_inner().map_err(|e| e.to_string())
}

#[test]
fn whatever_a_power_cut_leaves_is_recovered() {
    let all = campaigns(plans()).unwrap_or_else(|e| panic!("{e}"));
    println!("all: {}", all.describe());
    let of_all = ["HOLDFAST_IMAGE", "HOLDFAST_SEED", "HOLDFAST_STATE"];
    if of_all.iter().all(|name| setting(name).is_none()) && states_wanted() >= STATES {
        assert!(all.states >= ALL_STATES, "only {} different states", all.states);
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
            unit: 512,
            reflink: true,
            near_wrap,
            forced,
            parents: false,
        };
        let recording = record(&image, &plan);
        let mut device = Device::new(&recording.base, recording.unit);
        let mut model = Model::default();
        for event in &recording.events {
            match event {
                Event::Begin(n) => model.begin(&recording.calls[*n]),
                Event::End(n) => model.end(&recording.calls[*n]),
                Event::Write { sector, data, .. } => device.write(*sector, data),
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
