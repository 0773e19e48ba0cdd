//! What Holdfast wrote: killed and booted again, read by other programs, refused where it
//! must be.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};

use super::crash_lab::{relative, setting, workload};
use super::harness::{Holdfast, Image};
use crate::image::{MIB, Manifest, Recipe};
use crate::judge;
use crate::pattern::Stream;
use crate::process;
use crate::testing::case::Case;
use crate::tools;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::writing::killed_and_booted_again", killed),
        Case::new("e2e::writing::a_readonly_mount_answers_erofs", readonly),
        Case::new("e2e::writing::logprint_reads_the_log", logprint),
        Case::new("e2e::writing::image_program", image_program),
        Case::new("e2e::writing::races_with_and_without_their_guard", races),
    ]
}

/// The emulator is killed at random moments while the guest works, booted again, and what it
/// said was durable is there each time, all of what it did before included.
///
/// `HOLDFAST_KILL_ROUNDS=n` sets how often, `HOLDFAST_KILL_SEED=n` draws other moments and
/// other work.
fn killed(workspace: &Workspace) -> Result<()> {
    let image = Image::make(workspace, &Recipe::new(96 * MIB))?;
    let rounds = setting("HOLDFAST_KILL_ROUNDS", 6)?;
    let seed = setting("HOLDFAST_KILL_SEED", 77)?;
    let mut random = Stream::new(seed);
    let mut settled = Manifest::new();
    let mut acknowledged = 0;
    for round in 0..rounds {
        let prefix = format!("r{round}-");
        let work = workload::Workload::new(random.next_u64(), 400, true, &prefix);
        let (most, delay) = (1 + random.below(60), Duration::from_micros(random.below(200_000)));
        let script = work.script(|step| format!("echo step {step}")) + "sleep 100\n";
        let steps = work_until_killed(workspace, &image, &script, most, delay)?;
        acknowledged += steps;
        // Booting again recovers the log.
        let holdfast = || Holdfast::new(workspace).disk(&image.path);
        let what = || format!("seed {seed}, round {round}, killed after {steps} steps");
        let output = holdfast().run_line("sha256sum -r /")?.success().with_context(what)?;
        let (new, old): (Manifest, Manifest) = relative(output.manifest()?)
            .into_iter()
            .partition(|(name, _)| name.starts_with(&prefix));
        judge::compare(("before", &settled), ("after", &old))
            .demand("contents")
            .with_context(what)?;
        let read = |name: &str| Ok(holdfast().run(&["cat", name])?.success()?.stdout);
        work.window(steps).allows(&new, read).with_context(what)?;
        image.is_clean().with_context(what)?;
        settled.extend(new);
    }
    eprintln!("killed {rounds} times; {acknowledged} steps were acknowledged and there");
    ensure!(acknowledged > 0 && !settled.is_empty(), "nothing was ever durable");
    Ok(())
}

/// Run a script and kill everything `delay` after it has printed `most` lines. How many
/// steps it said were done.
fn work_until_killed(
    workspace: &Workspace,
    image: &Image,
    script: &str,
    most: u64,
    delay: Duration,
) -> Result<usize> {
    let path = image.beside("script");
    fs::write(&path, script)?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    let mut running = holdfast.start_running(&[OsStr::new("--script"), path.as_os_str()])?;
    let mut output = BufReader::new(running.child().stdout.take().context("no output")?);
    let mut said = String::new();
    for _ in 0..most {
        ensure!(output.read_line(&mut said)? > 0, "the guest ended by itself:\n{said}");
    }
    ensure!(running.wait(Some(delay))?.is_none(), "the guest ended by itself:\n{said}");
    let emulator = child_of(running.child().id())?;
    rustix::process::kill_process(emulator, Signal::KILL)?;
    output.read_to_string(&mut said)?;
    let ended = running.wait(None)?.and_then(|status| status.code());
    ensure!(ended == Some(125), "status {ended:?} after the emulator was killed");
    // A line that was cut off does not count, nor does what commands print.
    let whole = said.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let steps = whole.lines().filter_map(|line| line.strip_prefix("step ")?.parse::<usize>().ok());
    Ok(steps.max().map_or(0, |last| last + 1))
}

/// The only child of a process.
pub(super) fn child_of(parent: u32) -> Result<Pid> {
    let mut found = None;
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        // It may have ended by now.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let behind_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        if behind_name.split_whitespace().nth(1) == Some(&parent.to_string()) {
            ensure!(found.is_none(), "more than one child");
            found = Pid::from_raw(pid);
        }
    }
    found.context("no child")
}

fn readonly(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let before = fs::read(&image.path)?;
    let holdfast = || Holdfast::new(workspace).disk(&image.path).with("--readonly");
    for command in ["mkdir /new", "rm /hello.txt", "mv /hello.txt /new", "chmod 600 /hello.txt"] {
        holdfast().run_line(command)?.expect(1)?.complains("Read-only file system")?;
    }
    let write = ["xfs_io", "-f", "-c", "pwrite 0 10", "/new-file"];
    holdfast().run(&write)?.expect(1)?.complains("Read-only file system")?;
    ensure!(fs::read(&image.path)? == before, "a read-only mount changed the image");
    Ok(())
}

/// `xfs_logprint -t` makes sense of a log that we left behind.
fn logprint(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let mut script = String::new();
    for number in 0..50 {
        let _ = writeln!(script, "mkdir /d{number}\nxfs_io -f -c 'pwrite -q 0 9000' /d{number}/f");
    }
    script.push_str("rm -r /d7\nmv /d8/f /d9/g\nsync\nshutdown-fs -f\n");
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    holdfast.script(script)?.no_panic()?.complains("shut down")?;
    // It comes with xfs_repair.
    let mut logprint = Command::new(tools::need(&tools::REPAIR)?.with_file_name("xfs_logprint"));
    let text = process::output(logprint.arg("-t").arg(&image.path))?;
    let text = String::from_utf8_lossy(&text);
    ensure!(text.contains("DIRTY") && text.contains("INODE"), "xfs_logprint says:\n{text}");
    // The word, not the digits: generations and addresses are random hexadecimal numbers.
    let mut words = text.split(|c: char| !c.is_ascii_alphanumeric());
    ensure!(!words.any(|word| word.eq_ignore_ascii_case("bad")), "xfs_logprint says:\n{text}");
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    holdfast.run_line("stat -c %s /d9/g")?.success()?.prints("9000\n")?;
    image.is_clean()
}

/// The host's program and the kernel find each other's work.
fn image_program(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let file = image.beside("file");
    let bytes: Vec<u8> = (0..300_000_u32).map(|i| ((i * 7) >> 3) as u8).collect();
    fs::write(&file, &bytes)?;
    let run = |words: &[&str]| -> Result<Vec<u8>> {
        let mut cargo = crate::kernel_image::cargo(workspace);
        // Unoptimized as the tests of its parts, most of which are built by now.
        cargo.args(["run", "--quiet", "--package", "holdfast-image", "--"]);
        process::output(cargo.args(words))
    };
    let disk = image.path.to_str().context("a path")?;
    let path = file.to_str().context("a path")?;
    run(&[disk, "put", path, "/from-the-host"])?;
    image.is_clean()?;
    let holdfast = Holdfast::new(workspace).disk(&image.path);
    holdfast.run_line("mv /from-the-host /seen")?.success()?;
    ensure!(run(&[disk, "cat", "/seen"])? == bytes, "other bytes came back");
    let copy = image.beside("copy");
    run(&[disk, "cp", "/seen", &format!("host:{}", copy.display())])?;
    ensure!(fs::read(copy)? == bytes, "other bytes came back");
    run(&["--readonly", disk, "fsck"])?;
    image.is_clean()
}

/// Each race with its guard on: the data is right; off: the historic corruption.
fn races(workspace: &Workspace) -> Result<()> {
    for (name, guard) in
        [("V2", "iomap.validity"), ("V3", "iomap.validity"), ("A", "punch.skip_dirty")]
    {
        let image = Image::small(workspace)?;
        let start = |words: &[&str]| Holdfast::new(workspace).disk(&image.path).start(words);
        start(&["race", name])?.success().context(name)?;
        start(&["race", name, "--off", guard])?.expect(3).context(name)?;
        image.is_clean().context(name)?;
    }
    Ok(())
}
