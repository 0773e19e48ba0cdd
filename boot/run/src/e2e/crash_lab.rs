//! Power cuts on the whole stack in QEMU: every write of a guest goes through QEMU's
//! `blklogwrites` node, which writes it down; the log is replayed to every flush, and to
//! random subsets of the writes behind it, torn ones among them. Each disk that a cut could
//! have left so is recovered by our code on the host, compared with what the guest had
//! acknowledged, and checked; some by `xfs_repair -n`, and some by a Linux that recovers
//! the log itself.
//!
//! The guest is ours, or Linux: then its log is what we recover.
//!
//! `HOLDFAST_LAB_STATES=n` sets how many states are tried beside one for each flush,
//! `HOLDFAST_LAB_STEPS=n` how long the workload is, `HOLDFAST_LAB_SEED=n` draws another.

pub(super) mod workload;
mod writes;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, anyhow, ensure};

use super::harness::{Holdfast, Output};
use crate::image::{Contents, MIB, Manifest, Recipe, Tree};
use crate::judge;
use crate::kernel_image;
use crate::linux_guest::prepare;
use crate::pattern::Stream;
use crate::process;
use crate::testing::case::Case;
use crate::workspace::Workspace;
use workload::{MARK_BYTES, MARKS, Workload, mark};
use writes::{Arrived, Disk, Entry, SECTOR_BYTES, State};

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::crash_lab::our_writes_cut_anywhere", ours).with_linux(),
        Case::new("e2e::crash_lab::writes_of_linux_cut_anywhere", of_linux).with_linux(),
        Case::new("e2e::crash_lab::states_of_the_host_recovered_by_linux", of_host).with_linux(),
    ]
}

/// States that Linux recovers, each on a disk of its own.
const FOR_LINUX: usize = 8;
/// One in so many states is judged by `xfs_repair -n`.
const REPAIR: u64 = 16;
/// Disks that one guest can have.
const DISKS: usize = 20;
/// Threads that try states.
const WORKERS: u64 = 2;

/// A number that the environment may set.
pub(super) fn setting(name: &str, or: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(or),
    }
}

/// A disk, and what a guest is to do on it.
struct Lab {
    scratch: tempfile::TempDir,
    base: Vec<u8>,
    workload: Workload,
    seed: u64,
    states: u64,
    /// The sector of each mark.
    marks: BTreeMap<u64, usize>,
    /// The program that works on images.
    program: PathBuf,
}

impl Lab {
    fn new(workspace: &Workspace, seed: u64, steps: u64, states: u64, mkfs: &str) -> Result<Self> {
        let seed = setting("HOLDFAST_LAB_SEED", seed)?;
        let steps = setting("HOLDFAST_LAB_STEPS", steps)? as usize;
        let states = setting("HOLDFAST_LAB_STATES", states)?;
        let scratch = workspace.scratch()?;
        let mut tree = Tree::new();
        tree.file(MARKS, Contents::Text((0..steps).map(blank_mark).collect()));
        let disk = scratch.path().join("disk");
        Recipe::new(32 * MIB).mkfs(mkfs).tree(tree).make(workspace, &disk)?;
        let base = fs::read(&disk)?;
        let mut marks = BTreeMap::new();
        for (sector, bytes) in (0..).zip(base.chunks(SECTOR_BYTES)) {
            let number = bytes.strip_prefix(MARK_SIGN.as_bytes()).and_then(|rest| rest.get(..8));
            if let Some(number) = number {
                marks.insert(sector, std::str::from_utf8(number)?.parse()?);
            }
        }
        ensure!(marks.len() == steps, "{} of {steps} marks are on the disk", marks.len());
        let workload = Workload::new(seed, steps, !mkfs.contains("reflink=0"), "");
        let program = image_program(workspace)?;
        Ok(Self { scratch, base, workload, seed, states, marks, program })
    }

    /// QEMU's arguments for a disk that is a block node which writes everything down, and
    /// where it does.
    fn nodes(&self) -> Result<(String, PathBuf)> {
        let log = self.scratch.path().join("log");
        fs::write(&log, "")?;
        let disk = self.scratch.path().join("disk");
        let nodes = format!(
            "-blockdev driver=file,node-name=lab-disk,filename={} \
             -blockdev driver=file,node-name=lab-log,filename={} \
             -blockdev driver=blklogwrites,node-name=lab,file=lab-disk,log=lab-log,\
             log-sector-size={SECTOR_BYTES}",
            disk.display(),
            log.display()
        );
        Ok((nodes, log))
    }

    /// Try the states that the log allows for; those for Linux, with what we found there.
    fn replay(&self, log: &Path) -> Result<Coverage> {
        let entries = writes::read(log)?;
        let count = entries.iter().filter(|e| !e.data.is_empty()).count().max(1);
        let (seen, stop) = (Mutex::new(HashSet::new()), AtomicBool::new(false));
        let parts: Vec<Result<Coverage>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|number| {
                    let (entries, seen, stop) = (&entries, &seen, &stop);
                    let rate = self.states as f64 / count as f64;
                    scope.spawn(move || {
                        let path = self.scratch.path().join(format!("state-{number}"));
                        let coverage = Coverage::default();
                        let next = 0;
                        let worker =
                            Worker { lab: self, number, path, next, rate, seen, stop, coverage };
                        let result = worker.run(entries);
                        stop.fetch_or(result.is_err(), Ordering::Relaxed);
                        result
                    })
                })
                .collect();
            let join = |worker: std::thread::ScopedJoinHandle<'_, Result<Coverage>>| {
                worker.join().unwrap_or_else(|_| Err(anyhow!("a worker panicked")))
            };
            workers.into_iter().map(join).collect()
        });
        let mut coverage = Coverage { writes: count, ..Coverage::default() };
        for part in parts {
            coverage.add(part?);
        }
        ensure!(
            coverage.acknowledged == self.marks.len(),
            "{} of {} steps were acknowledged",
            coverage.acknowledged,
            self.marks.len()
        );
        eprintln!("crash lab: seed {}: {}", self.seed, self.workload.describe());
        eprintln!("crash lab: seed {}: {}", self.seed, coverage.describe());
        Ok(coverage)
    }
}

/// What stands at the start of each block for a mark.
const MARK_SIGN: &str = "a mark of the crash lab, number ";

fn blank_mark(number: usize) -> String {
    let mut text = format!("{MARK_SIGN}{number:08}");
    text.push_str(&".".repeat(MARK_BYTES as usize - text.len()));
    text
}

/// Build the program that works on image files.
fn image_program(workspace: &Workspace) -> Result<PathBuf> {
    let mut cargo = kernel_image::cargo(workspace);
    cargo.args(["build", "--release", "--quiet", "--package", "holdfast-image"]);
    let text = process::output(cargo.arg("--message-format=json-render-diagnostics"))?;
    let built = kernel_image::messages(&String::from_utf8_lossy(&text));
    let found = kernel_image::executables(&built).pop();
    found.context("cargo built no holdfast-image")
}

/// What was tried.
#[derive(Default)]
struct Coverage {
    writes: usize,
    flushes: usize,
    acknowledged: usize,
    states: usize,
    torn: usize,
    repaired: usize,
    /// States for Linux: where the disk lies, what we found on it.
    for_linux: Vec<(PathBuf, Manifest)>,
}

impl Coverage {
    fn add(&mut self, part: Self) {
        self.flushes = self.flushes.max(part.flushes);
        self.acknowledged = self.acknowledged.max(part.acknowledged);
        self.states += part.states;
        self.torn += part.torn;
        self.repaired += part.repaired;
        self.for_linux.extend(part.for_linux);
    }

    fn describe(&self) -> String {
        format!(
            "{} writes, {} flushes, {} acknowledgements; {} distinct states ({} with torn \
             writes) recovered and checked, {} of them by xfs_repair",
            self.writes, self.flushes, self.acknowledged, self.states, self.torn, self.repaired
        )
    }
}

/// One of the threads that try states.
struct Worker<'a> {
    lab: &'a Lab,
    number: u64,
    /// Where a state's disk is put.
    path: PathBuf,
    /// The number of the next state.
    next: u64,
    /// States for each write.
    rate: f64,
    seen: &'a Mutex<HashSet<u64>>,
    stop: &'a AtomicBool,
    coverage: Coverage,
}

impl Worker<'_> {
    fn run(mut self, entries: &[Entry]) -> Result<Coverage> {
        let mut disk = Disk::new(self.lab.base.clone());
        let mut owed = 0.0;
        for entry in entries {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            disk.submit(entry)?;
            if entry.flush {
                self.coverage.flushes += 1;
                self.try_state(&disk, Arrived::Nothing)?;
            }
            if entry.data.is_empty() {
                continue;
            }
            if let Some(step) = self.lab.marks.get(&entry.sector) {
                self.coverage.acknowledged = step + 1;
            }
            owed += self.rate;
            while owed >= 1.0 {
                owed -= 1.0;
                let all = self.next.is_multiple_of(5);
                self.try_state(&disk, if all { Arrived::Everything } else { Arrived::Some })?;
            }
        }
        Ok(self.coverage)
    }

    fn try_state(&mut self, disk: &Disk, arrived: Arrived) -> Result<()> {
        let number = self.next;
        self.next += 1;
        if number % WORKERS != self.number {
            return Ok(());
        }
        let mut random = Stream::new(self.lab.seed ^ number.wrapping_mul(0x1234_5678_9abc_def1));
        let state = disk.cut(arrived, &mut random);
        let new = self.seen.lock().map_err(|_| anyhow!("a worker panicked"))?.insert(state.hash);
        if !new {
            return Ok(());
        }
        self.coverage.states += 1;
        self.coverage.torn += usize::from(state.torn);
        let acknowledged = self.coverage.acknowledged;
        self.judge(disk, &state, number).with_context(|| {
            let seed = self.lab.seed;
            let kept = self.keep(&disk.bytes(&state));
            format!("seed {seed}, state {number} ({arrived:?}) after step {acknowledged}; {kept}")
        })
    }

    fn judge(&mut self, disk: &Disk, state: &State, number: u64) -> Result<()> {
        let bytes = disk.bytes(state);
        fs::write(&self.path, &bytes)?;
        // To read it is to recover it.
        let found = self.manifest()?;
        let window = self.lab.workload.window(self.coverage.acknowledged);
        window.allows(&found, |name| {
            process::output(self.program().arg(&self.path).args(["cat", name]))
        })?;
        let checked = self.program().arg("--readonly").arg(&self.path).arg("fsck").output()?;
        let said = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(checked.status.success(), "fsck: {said}");
        if (number / WORKERS).is_multiple_of(REPAIR) {
            self.coverage.repaired += 1;
            judge::repair(&self.path)?.demand("xfs_repair -n")?;
        }
        let every = (self.lab.states + 1) / FOR_LINUX as u64 + 1;
        if number / WORKERS % every == every / 2 {
            let path = self.lab.scratch.path().join(format!("for-linux-{number}"));
            fs::write(&path, bytes)?;
            self.coverage.for_linux.push((path, found));
        }
        Ok(())
    }

    fn program(&self) -> Command {
        Command::new(&self.lab.program)
    }

    /// The hashes of all files.
    fn manifest(&self) -> Result<Manifest> {
        let run = process::capture(self.program().arg(&self.path).args(["sha256sum", "-r", "/"]))?;
        let stderr = String::from_utf8_lossy(&run.stderr).into_owned();
        let output = Output { status: run.status.code(), stdout: run.stdout, stderr }.success()?;
        Ok(relative(output.manifest()?))
    }

    /// Keep a disk for those who want to look at it.
    fn keep(&self, bytes: &[u8]) -> String {
        let path = std::env::temp_dir().join(format!("crash-lab-{}.img", std::process::id()));
        match fs::write(&path, bytes) {
            Ok(()) => format!("the disk is kept in {}", path.display()),
            Err(error) => format!("the disk could not be kept: {error}"),
        }
    }
}

/// A manifest with relative names, without the marks.
pub(super) fn relative(manifest: Manifest) -> Manifest {
    let stripped = |name: String| name.trim_start_matches(['.', '/']).to_owned();
    let names = manifest.into_iter().map(|(name, hash)| (stripped(name), hash));
    names.filter(|(name, _)| name != MARKS).collect()
}

fn ours(workspace: &Workspace) -> Result<()> {
    let lab = Lab::new(workspace, 1, 30, 40, "-m rmapbt=1")?;
    let (nodes, log) = lab.nodes()?;
    let holdfast = Holdfast::new(workspace).word("--qemu").word(nodes).with("--disk node:lab");
    holdfast.script(lab.workload.script(mark))?.success()?.no_panic()?;
    let coverage = lab.replay(&log)?;
    recovered_by_linux(workspace, &coverage.for_linux)
}

/// Linux recovers states as we do, and finds what we found.
fn recovered_by_linux(workspace: &Workspace, states: &[(PathBuf, Manifest)]) -> Result<()> {
    ensure!(!states.is_empty(), "no states for Linux");
    let guest = prepare::guest(workspace)?;
    let states = &states[..states.len().min(2 * FOR_LINUX)];
    let mut job = guest.job("");
    let mut script = String::from("set -e\n");
    for (device, (path, _)) in ('a'..).zip(states) {
        job = job.disk(path);
        script.push_str(&format!(
            "mount -t xfs /dev/vd{device} /mnt; cd /mnt; echo disk\n\
             find . -type f -print0 | xargs -0 sha256sum; cd /; umount /mnt\n"
        ));
    }
    let text = job.script(script).run(workspace)?.success()?;
    let found: Vec<&str> = text.split("disk\n").skip(1).collect();
    ensure!(found.len() == states.len(), "Linux mounted {} of {}", found.len(), states.len());
    for ((path, ours), lines) in states.iter().zip(found) {
        let stdout = lines.as_bytes().to_vec();
        let output = Output { status: Some(0), stdout, stderr: String::new() };
        let theirs = relative(output.manifest()?);
        judge::compare(("our recovery", ours), ("Linux", &theirs)).demand("contents")?;
        judge::repair(path)?.demand("xfs_repair -n after Linux")?;
    }
    eprintln!("crash lab: {} states recovered by Linux as by us", states.len());
    Ok(())
}

fn of_linux(workspace: &Workspace) -> Result<()> {
    let guest = prepare::guest(workspace)?;
    let lab = Lab::new(workspace, 2, 24, 30, "")?;
    let (nodes, log) = lab.nodes()?;
    let script = format!(
        "set -e\nmount -t xfs /dev/vda /mnt; cd /mnt\n{}cd /; umount /mnt\n",
        lab.workload.script(mark)
    );
    let done = guest.job(script).node("lab", &nodes).run(workspace)?;
    done.success().context("Linux at work")?;
    lab.replay(&log).map(drop)
}

/// What Linux says of a mounted file system, as the test on the host lists it.
const LIST: &str = "find . -mindepth 1 | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 stat -c '%n %f %h'; \
    find . -type f | LC_ALL=C sort | tr '\\n' '\\0' | xargs -0 -r sha256sum";

/// States of the test on the host (`fs/tests/crash.rs`), as the cut left them: Linux
/// recovers them and finds what we found.
fn of_host(workspace: &Workspace) -> Result<()> {
    let guest = prepare::guest(workspace)?;
    let scratch = workspace.scratch()?;
    let mut cargo = kernel_image::cargo(workspace);
    cargo.args(["test", "--quiet", "--package", "holdfast-fs", "--features", "check"]);
    cargo.args(["--test", "crash"]).env("HOLDFAST_JUDGED", scratch.path());
    cargo.env("HOLDFAST_STATES", setting("HOLDFAST_LAB_STATES", 70)?.to_string());
    cargo.env("HOLDFAST_CALLS", "600");
    process::output(&mut cargo)?;
    let mut disks = Vec::new();
    for entry in fs::read_dir(scratch.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "img") {
            disks.push(path);
        }
    }
    disks.sort();
    // Some of each workload.
    let every = disks.len().div_ceil(DISKS).max(1);
    let disks: Vec<PathBuf> = disks.into_iter().step_by(every).collect();
    ensure!(disks.len() > 10, "only {} states were left for Linux", disks.len());
    let mut job = guest.job("");
    let mut script = String::from("set -e\n");
    for (device, disk) in ('a'..).zip(&disks) {
        job = job.disk(disk);
        script.push_str(&format!(
            "mount -t xfs /dev/vd{device} /mnt; cd /mnt; echo disk\n{LIST}\ncd /; umount /mnt\n"
        ));
    }
    let text = job.script(script).run(workspace)?.success()?;
    let found: Vec<&str> = text.split("disk\n").skip(1).collect();
    ensure!(found.len() == disks.len(), "Linux mounted {} of {}", found.len(), disks.len());
    for (disk, theirs) in disks.iter().zip(found) {
        let ours = fs::read_to_string(disk.with_extension("list"))?;
        if let Some((ours, theirs)) = ours.lines().zip(theirs.lines()).find(|(a, b)| a != b) {
            anyhow::bail!("{}: {ours}; Linux says: {theirs}", disk.display());
        }
        ensure!(ours.lines().count() == theirs.lines().count(), "{}: lengths", disk.display());
        judge::repair(disk)?.demand("xfs_repair -n after Linux")?;
    }
    eprintln!("crash lab: {} states of the host recovered by Linux as by us", disks.len());
    Ok(())
}
