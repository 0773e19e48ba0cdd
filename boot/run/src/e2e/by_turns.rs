//! Holdfast and Linux work on the same images by turns; each finds what the other left,
//! cleanly unmounted, cut off once everything was durable, or killed in the middle of work.
//!
//! `HOLDFAST_TURNS=n` makes it longer, with more geometries; `HOLDFAST_TURNS_SEED=n` draws
//! other work and other ends.

mod work;

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::crash_lab::setting;
use super::harness::Holdfast;
use super::writing::child_of;
use crate::image::{MIB, Recipe};
use crate::judge;
use crate::linux_guest::{LinuxGuest, prepare};
use crate::newer::Xfsprogs;
use crate::pattern::Stream;
use crate::testing::case::Case;
use crate::tools;
use crate::workspace::Workspace;
use work::{Workload, for_linux};

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::by_turns::with_linux", with_linux).with_linux(),
        Case::new("e2e::by_turns::with_newer_linux", with_newer_linux).with_linux().with_newer(),
    ]
}

/// Names of geometries, arguments of mkfs.xfs.
type Geometry = (&'static str, &'static str);

/// Those of every run, and behind them those of long runs.
const GEOMETRIES: [Geometry; 9] = [
    ("defaults", ""),
    ("block-1k", "-b size=1024 -m finobt=0"),
    ("rmapbt", "-m rmapbt=1 -i nrext64=1"),
    ("sector-4k-stripe", "-s size=4096 -d su=64k,sw=2"),
    ("block-1k-rmapbt", "-b size=1024 -m rmapbt=1 -n size=4096"),
    ("block-2k-sector-2k", "-b size=2048 -s size=2048 -i nrext64=1"),
    ("no-sparse", "-m bigtime=0,inobtcount=0 -i sparse=0,size=1024"),
    ("directories-64k", "-n size=65536 -d agcount=3 -m rmapbt=1"),
    ("log-unit-256k", "-l su=256k,size=20m -s size=4096"),
];
const USUAL: usize = 4;

/// The same for features that take a newer mkfs.xfs.
const NEWER_GEOMETRIES: [Geometry; 4] = [
    ("parent", "-n parent=1 -i exchange=1,nrext64=1 -m rmapbt=1"),
    ("parent-1k", "-n parent=1 -b size=1024"),
    ("parent-sector-4k", "-n parent=1 -s size=4096 -i exchange=1"),
    ("exchange", "-i exchange=1 -n size=16384 -m rmapbt=1"),
];
const NEWER_USUAL: usize = 1;

/// How a turn ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With everything in its place.
    Unmount,
    /// With everything durable, much of it in the log only.
    Cut,
    /// In the middle of more work, of which nothing is expected.
    Killed,
}

/// The ends of the turns of every run: Linux's, ours. What comes behind is drawn.
const ENDS: [(End, End); 3] =
    [(End::Cut, End::Unmount), (End::Unmount, End::Killed), (End::Killed, End::Cut)];

/// What Linux says of every object: path, type, mode, links, size; of files and directories
/// flags, project and hints; extended attributes, ACLs among them; of files the hash. Sizes of
/// directories differ with the geometry, and whether there is a fork for attributes with
/// their history.
const LINUX_LIST: &str = "all() { find . -mindepth 1 \"$@\" | LC_ALL=C sort | tr '\\n' '\\0'; }\n\
    list() { (cd $1 && all | xargs -0 -r stat -c '%n %f %h %s' | \
    sed '/ 4[0-9a-f][0-9a-f][0-9a-f] /s/ [0-9]*$//'; \
    for what in lsattr lsproj cowextsize extsize; do \
    all '(' -type f -o -type d ')' | xargs -0 -r -n 200 xfs_io -r -c $what | \
    sed 's/^\\([-A-Za-z]*\\)X /\\1- /'; done; \
    all | xargs -0 -r getfattr -h -d -m - -e hex; \
    all -type f | xargs -0 -r sha256sum); }\n";

/// One disk, what was done to it, and what is to come.
struct Board {
    name: &'static str,
    disk: PathBuf,
    /// An empty file system on which Linux does everything once more.
    model: PathBuf,
    load: Workload,
    history: String,
}

impl Board {
    /// The next lines of work, which count.
    fn lines(&mut self) -> String {
        // What was killed in the turn before left this behind.
        let lines = self.load.turn(OPERATIONS);
        self.history.push_str(&lines);
        format!("rm -rf {KILLED}\n{lines}")
    }
}

/// Operations in a turn.
const OPERATIONS: usize = 60;
/// Where the work that is killed happens.
const KILLED: &str = "killed";

/// Both sides of a match, and those who judge it.
struct Match<'a> {
    workspace: &'a Workspace,
    guest: LinuxGuest,
    mkfs: PathBuf,
    repair: PathBuf,
    random: Stream,
    turns: usize,
}

fn with_linux(workspace: &Workspace) -> Result<()> {
    let (guest, mkfs) = (prepare::guest(workspace)?, tools::need(&tools::MKFS)?);
    let repair = tools::need(&tools::REPAIR)?;
    Match::new(workspace, guest, mkfs, repair, ENDS.len())?.play(&GEOMETRIES, USUAL)
}

/// With the kernel and the xfsprogs of a newer release, whose features the other one lacks.
fn with_newer_linux(workspace: &Workspace) -> Result<()> {
    let (guest, programs) = (prepare::newer_guest(workspace)?, Xfsprogs::get(workspace)?);
    let (mkfs, repair) = (programs.program("mkfs.xfs"), programs.program("xfs_repair"));
    Match::new(workspace, guest, mkfs, repair, 2)?.play(&NEWER_GEOMETRIES, NEWER_USUAL)
}

impl<'a> Match<'a> {
    fn new(
        workspace: &'a Workspace,
        guest: LinuxGuest,
        mkfs: PathBuf,
        repair: PathBuf,
        turns: usize,
    ) -> Result<Self> {
        let turns = setting("HOLDFAST_TURNS", turns as u64)? as usize;
        let random = Stream::new(setting("HOLDFAST_TURNS_SEED", 0)?);
        Ok(Self { workspace, guest, mkfs, repair, random, turns })
    }

    fn play(mut self, geometries: &[Geometry], usual: usize) -> Result<()> {
        let scratch = self.workspace.scratch()?;
        let more = std::env::var_os("HOLDFAST_TURNS").is_some();
        let count = if more { geometries.len() } else { usual };
        let mut boards = Vec::new();
        for (name, mkfs) in &geometries[..count] {
            boards.push(self.board(scratch.path(), name, mkfs)?);
        }
        for turn in 0..self.turns {
            let drawn = [End::Unmount, End::Cut, End::Killed, End::Killed];
            let draw = |random: &mut Stream| drawn[random.below(4) as usize];
            let (linux, ours) = match ENDS.get(turn) {
                Some(ends) => *ends,
                None => (draw(&mut self.random), draw(&mut self.random)),
            };
            let what = || format!("turn {turn}: Linux {linux:?}, Holdfast {ours:?}");
            self.turn_of_linux(&mut boards, linux).with_context(what)?;
            for board in &mut boards {
                let name = board.name;
                self.turn_of_ours(board, ours).with_context(|| format!("{name}: {}", what()))?;
            }
        }
        self.compare(&boards)
    }

    fn board(&mut self, scratch: &Path, name: &'static str, mkfs: &str) -> Result<Board> {
        let (disk, model) = (scratch.join(name), scratch.join(format!("{name}-model")));
        Recipe::new(96 * MIB).mkfs(mkfs).by(&self.mkfs).make(self.workspace, &disk)?;
        Recipe::new(96 * MIB).make(self.workspace, &model)?;
        let load = Workload::below("top", self.random.next_u64());
        Ok(Board { name, disk, model, load, history: String::new() })
    }

    /// Work that will be killed: nothing is expected of it.
    fn doomed(&mut self) -> String {
        Workload::below(KILLED, self.random.next_u64()).removable().turn(400)
    }

    /// Linux works on all disks in one boot.
    fn turn_of_linux(&mut self, boards: &mut [Board], end: End) -> Result<()> {
        let mut script = String::from("set -e\n");
        for (device, board) in ('a'..).zip(boards.iter_mut()) {
            let lines = for_linux(&board.lines());
            let last = match end {
                End::Unmount => String::new(),
                End::Cut => "sync; xfs_io -x -c 'shutdown -f' /mnt\n".into(),
                End::Killed => {
                    // From this moment on nothing more gets to the disk, log included.
                    let doomed = for_linux(&self.doomed());
                    let moment = 100_000 + self.random.below(1_000_000);
                    format!(
                        "sync\n(\n{doomed}) > /dev/null 2>&1 & load=$!\nusleep {moment}\n\
                         xfs_io -x -c shutdown /mnt\nwait $load || true\n"
                    )
                }
            };
            let _ = write!(
                script,
                "mount -t xfs /dev/vd{device} /mnt; cd /mnt\n{lines}{last}cd /; umount /mnt\n"
            );
        }
        let mut job = self.guest.job(script);
        for board in boards.iter() {
            job = job.disk(&board.disk);
        }
        let done = job.run(self.workspace)?;
        let complaints = done.complaints();
        done.success().context(complaints).map(drop)
    }

    fn turn_of_ours(&mut self, board: &mut Board, end: End) -> Result<()> {
        let lines = board.lines();
        let holdfast = || Holdfast::new(self.workspace).disk(&board.disk).with("--page-cache 8M");
        match end {
            End::Unmount => {
                holdfast().script(lines)?.no_panic()?.success()?;
                self.is_clean(&board.disk)
            }
            End::Cut => {
                let output = holdfast().script(lines + "sync\nshutdown-fs -f\n")?.no_panic()?;
                // The unmount after it fails, and says so.
                output.complains("shut down").map(drop)
            }
            End::Killed => {
                let doomed = self.doomed();
                let delay = Duration::from_micros(self.random.below(1_500_000));
                let holdfast = Holdfast::new(self.workspace).disk(&board.disk);
                let script = format!("{lines}sync\necho durable\n{doomed}sleep 100\n");
                self.kill(&holdfast.with("--page-cache 8M"), &script, delay)
            }
        }
    }

    /// Runs a script and kills the emulator some time after everything of the turn is
    /// durable.
    fn kill(&self, holdfast: &Holdfast<'_>, script: &str, delay: Duration) -> Result<()> {
        let scratch = self.workspace.scratch()?;
        let path = scratch.path().join("script");
        fs::write(&path, script)?;
        let mut running = holdfast.start_running(&[OsStr::new("--script"), path.as_os_str()])?;
        let output = running.child().stdout.take().context("no output")?;
        let mut lines = BufReader::new(output).lines();
        let durable = lines.by_ref().map_while(Result::ok).any(|line| line == "durable");
        ensure!(durable, "the guest ended before the end of its turn");
        ensure!(running.wait(Some(delay))?.is_none(), "the guest ended by itself");
        rustix::process::kill_process(child_of(running.child().id())?, Signal::KILL)?;
        let ended = running.wait(None)?.and_then(|status| status.code());
        ensure!(ended == Some(125), "status {ended:?} after the emulator was killed");
        Ok(())
    }

    fn is_clean(&self, disk: &Path) -> Result<()> {
        judge::repair_by(&self.repair, disk)?.demand("xfs_repair -n")
    }

    /// Linux alone does everything once more, on fresh images; the outcome is the same.
    fn compare(&self, boards: &[Board]) -> Result<()> {
        let mut script = format!("set -e\n{LINUX_LIST}mkdir -p /one /two\n");
        let mut job = self.guest.job("");
        for (pair, board) in boards.iter().enumerate() {
            let device = |n: usize| char::from(b'a' + (2 * pair + n) as u8);
            let (name, lines) = (board.name, for_linux(&board.history));
            let _ = write!(
                script,
                "mount -t xfs /dev/vd{} /one; mount -t xfs /dev/vd{} /two\nrm -rf /one/{KILLED}\n\
                 cd /two\n{lines}\ncd /\nlist /one > /ours; list /two > /model\n\
                 echo {name} $(wc -l < /ours)\ndiff /model /ours || exit 9\numount /one; umount /two\n",
                device(0),
                device(1)
            );
            job = job.disk(&board.disk).disk(&board.model);
        }
        let done = job.script(script).run(self.workspace)?;
        let complaints = done.complaints();
        ensure!(complaints.is_empty(), "Linux complains:\n{complaints}");
        let text = done.success().context("not as the model")?;
        let mut lines = text.lines();
        for board in boards {
            let name = board.name;
            let line = lines.next().and_then(|line| line.strip_prefix(name));
            let listed: u64 = line
                .unwrap_or_default()
                .trim()
                .parse()
                .with_context(|| format!("{name}: {text}"))?;
            ensure!(listed > 100, "{name}: only {listed} lines compared");
            self.is_clean(&board.disk).context(name)?;
        }
        Ok(())
    }
}
