//! One workload's states: which are tried, and what each goes through.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_fs::block::{BlockDevice, MemDisk, Op as BlockOp, Sector, TraceDisk, TraceEvent};

use super::coverage::Coverage;
use super::judge::{self, judge};
use super::model::Model;
use super::ops;
use super::recording::{Event, Recording};
use super::states::{Choice, Device, State};
use super::workload::Random;
use super::xfs_support::{Scratch, newer_repair, tool};
use super::{setting, states_wanted};

/// One in so many states has its log looked at.
const LOOK: u64 = 8;
/// One in so many is cut off again while it is recovered.
const AGAIN: u64 = 4;
/// One in so many is judged by xfs_repair.
const REPAIR: u64 = 400;
/// So many of each workload are for others to judge.
const JUDGED: u64 = 5;
/// States that are owed at most when few different ones could be found.
const MOST_OWED: f64 = 100.0;

/// Goes through a recording and tries states on the way.
pub struct Worker<'a> {
    pub name: &'a str,
    pub recording: &'a Recording,
    pub scratch: &'a Scratch,
    pub seed: u64,
    /// The number of the image.
    pub image: usize,
    /// The file system has pointers to parents.
    pub parents: bool,
    /// States for each write.
    pub rate: f64,
    pub stop: &'a AtomicBool,
    coverage: Coverage,
    /// Hashes of the states that were tried.
    seen: HashSet<u64>,
    /// How many states were thought of, and how many of these were tried.
    thought: u64,
    tried: u64,
}

impl<'a> Worker<'a> {
    /// A worker that has done nothing yet: `states` are tried, or more.
    pub fn new(
        (name, seed, image): (&'a str, u64, usize),
        recording: &'a Recording,
        scratch: &'a Scratch,
        states: u64,
        stop: &'a AtomicBool,
    ) -> Self {
        let writes = recording.writes().max(1);
        Self {
            name,
            recording,
            scratch,
            seed,
            image,
            parents: recording.parents,
            rate: states as f64 / writes as f64,
            stop,
            coverage: Coverage::default(),
            seen: HashSet::new(),
            thought: 0,
            tried: 0,
        }
    }
    /// Go through the recording.
    ///
    /// # Errors
    /// The first state that is not as it has to be.
    pub fn run(mut self) -> Result<Coverage, String> {
        let mut device = Device::new(&self.recording.base, self.recording.unit);
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
                        self.think(&device, &model, Choice::Nothing)?;
                    }
                }
                Event::Write { sector, data, durable } => {
                    device.write(*sector, data);
                    owed = self.after_write(&device, &model, owed + self.rate)?;
                    if *durable {
                        device.settle();
                    }
                }
                Event::Flush => device.flush(),
            }
        }
        Ok(self.coverage)
    }
    /// Try different states until none is owed or no more are found. If there is more than
    /// one for each write the first is that with everything, so that every prefix of the
    /// writes is among them.
    fn after_write(
        &mut self,
        device: &Device,
        model: &Model,
        mut owed: f64,
    ) -> Result<f64, String> {
        const KINDS: [Choice; 4] = [Choice::Everything, Choice::Some, Choice::Torn, Choice::Torn];
        if self.rate >= 1.0 && self.think(device, model, Choice::Everything)? {
            owed -= 1.0;
        }
        let mut left = 2 * owed.max(0.0) as usize;
        while owed >= 1.0 && left > 0 {
            left -= 1;
            if self.think(device, model, KINDS[(self.thought % 4) as usize])? {
                owed -= 1.0;
            }
        }
        Ok(owed.min(MOST_OWED))
    }
    /// Think of a state, and try it if it is another than those before. The same state is
    /// tried again when more was promised. Was it another?
    fn think(&mut self, device: &Device, model: &Model, choice: Choice) -> Result<bool, String> {
        self.thought += 1;
        let mut random = Random(self.seed ^ self.thought.wrapping_mul(0x1234_5678_9ABC_DEF1));
        let state = device.state(choice, &mut random);
        let fresh = self.seen.insert(state.hash);
        if !fresh && choice != Choice::Nothing {
            return Ok(false);
        }
        let number = self.tried;
        self.tried += 1;
        if setting("HOLDFAST_STATE").is_none_or(|n| n == number) {
            self.try_state(device, &state, model, number, choice, &mut random)?;
            self.coverage.states += u64::from(fresh);
            self.coverage.judged += 1;
            self.coverage.torn += u64::from(state.torn);
            self.coverage.lost += u64::from(state.lost);
        }
        Ok(fresh)
    }
    fn try_state(
        &mut self,
        device: &Device,
        state: &State<'_>,
        model: &Model,
        number: u64,
        choice: Choice,
        random: &mut Random,
    ) -> Result<(), String> {
        let tried =
            catch_unwind(AssertUnwindSafe(|| self.try_disk(device, state, model, number, random)));
        let result = tried.unwrap_or_else(|_| Err("it panics".into()));
        result.map_err(|e| {
            let kept = keep(&device.disk(state), self.seed, number);
            let calls = model.calls();
            let call = self.recording.calls[calls.saturating_sub(1)].describe();
            format!(
                "{}: state {number} ({choice:?}), in or after call {calls} ({call}): {e}\n\
                 the state is in {kept}; replay with HOLDFAST_IMAGE={} HOLDFAST_SEED={} \
                 HOLDFAST_STATE={number}",
                self.name, self.image, self.seed
            )
        })
    }
    fn try_disk(
        &mut self,
        device: &Device,
        state: &State<'_>,
        model: &Model,
        number: u64,
        random: &mut Random,
    ) -> Result<(), String> {
        if number.is_multiple_of(LOOK) {
            self.coverage.sample(device.disk(state))?;
        }
        let disk = device.disk(state);
        if number % AGAIN == 1 {
            let trace = TraceDisk::new(disk);
            judge(&(trace.clone() as Arc<dyn BlockDevice>), model)?;
            return self.crash_again(device, state, model, &trace, random);
        }
        judge(&(disk.clone() as Arc<dyn BlockDevice>), model)?;
        // Linux goes by the LSN in a block's header when it replays, torn or not: a block of
        // several sectors is its again only if it is whole.
        if let Some(directory) = std::env::var_os("HOLDFAST_JUDGED")
            && !state.torn
            && number.is_multiple_of((states_wanted() / JUDGED).max(1))
        {
            let name = Path::new(&directory).join(format!("{}-{number}", self.seed));
            let list = judge::list(&(device.disk(state) as Arc<dyn BlockDevice>))?;
            std::fs::write(name.with_extension("img"), judge::bytes(&device.disk(state)))
                .and_then(|()| std::fs::write(name.with_extension("list"), list))
                .map_err(|e| format!("{}: {e}", name.display()))?;
        }
        if number.is_multiple_of(REPAIR) {
            self.coverage.repaired += 1;
            repair(&self.scratch.path("state"), &disk, self.parents)?;
        }
        Ok(())
    }
    /// Cut the power again at some write of the recovery.
    fn crash_again(
        &mut self,
        device: &Device,
        state: &State<'_>,
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
