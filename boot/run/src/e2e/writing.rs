//! Holdfast and Linux work on the same images by turns; each finds what the other left,
//! cleanly unmounted or not.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::harness::{Holdfast, Image};
use crate::image::{MIB, Recipe};
use crate::judge;
use crate::linux_guest::prepare;
use crate::pattern::Stream;
use crate::process;
use crate::testing::case::Case;
use crate::tools;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![
        Case::new("e2e::writing::by_turns_with_linux", by_turns).with_linux(),
        Case::new("e2e::writing::killed_and_booted_again", killed),
        Case::new("e2e::writing::a_readonly_mount_answers_erofs", readonly),
        Case::new("e2e::writing::logprint_reads_the_log", logprint),
        Case::new("e2e::writing::image_program", image_program),
        Case::new("e2e::writing::races_with_and_without_their_guard", races),
    ]
}

/// Names of the geometries, arguments of mkfs.xfs.
const GEOMETRIES: [(&str, &str); 4] = [
    ("defaults", ""),
    ("block-1k", "-b size=1024 -m finobt=0"),
    ("rmapbt", "-m rmapbt=1 -i nrext64=1"),
    ("sector-4k-stripe", "-s size=4096 -d su=64k,sw=2"),
];

/// Operations that Holdfast's script and a shell of Linux understand alike, on paths
/// that start at the root. What there is is remembered, so that each one succeeds.
struct Workload {
    random: Stream,
    directories: Vec<String>,
    files: Vec<(String, u64)>,
    made: u64,
}

/// Bytes of the ranges that are cut out and inserted: whole blocks of all geometries.
const RANGE: u64 = 8192;

impl Workload {
    fn new(seed: u64) -> Self {
        let directories = vec!["top".to_string()];
        Self { random: Stream::new(seed), directories, files: Vec::new(), made: 0 }
    }
    fn name(&mut self) -> String {
        self.made += 1;
        let at = self.random.below(self.directories.len() as u64) as usize;
        let long = "x".repeat(self.random.below(60) as usize);
        format!("{}/n{}{long}", self.directories[at], self.made)
    }
    /// The lines of one turn.
    fn turn(&mut self, operations: usize) -> String {
        let mut script = String::from("mkdir -p top\n");
        for _ in 0..operations {
            let line = self.operation();
            let _ = writeln!(script, "{line}");
        }
        script
    }
    fn operation(&mut self) -> String {
        let kind = self.random.below(20);
        if self.files.len() < 5 || kind < 6 {
            let (name, size) = (self.name(), 1 + self.random.below(200_000));
            let seed = 1 + self.random.below(250);
            self.files.push((name.clone(), size));
            return format!("xfs_io -f -c 'pwrite -q -S {seed} 0 {size}' {name}");
        }
        let at = self.random.below(self.files.len() as u64) as usize;
        let (path, size) = self.files[at].clone();
        match kind {
            6 => {
                let name = self.name();
                self.directories.push(name.clone());
                format!("mkdir {name}")
            }
            7 | 8 => {
                let name = self.name();
                self.files[at].0.clone_from(&name);
                format!("mv {path} {name}")
            }
            9 => {
                self.files.swap_remove(at);
                format!("rm {path}")
            }
            10 => {
                let name = self.name();
                self.files.push((name.clone(), size));
                format!("cp {path} {name}")
            }
            11 => {
                let name = self.name();
                format!("ln -s target-of-{} {name}", self.made)
            }
            12 => {
                let new = self.random.below(300_000);
                self.files[at].1 = new;
                format!("xfs_io -c 'truncate {new}' {path}")
            }
            13 => {
                let from = self.random.below(size + 1);
                format!("xfs_io -c 'fpunch {from} {}' {path}", 1 + self.random.below(100_000))
            }
            14 => {
                let from = self.random.below(size + 1);
                let len = 1 + self.random.below(50_000);
                self.files[at].1 = size.max(from + len);
                format!("xfs_io -c 'falloc {from} {len}' {path}")
            }
            15 if size > 3 * RANGE => {
                self.files[at].1 = size - RANGE;
                format!("xfs_io -c 'fcollapse {RANGE} {RANGE}' {path}")
            }
            16 if size > RANGE => {
                self.files[at].1 = size + RANGE;
                format!("xfs_io -c 'finsert 0 {RANGE}' {path}")
            }
            17 => format!("chmod {:o} {path}", 0o400 + self.random.below(0o377)),
            _ => {
                let from = self.random.below(size + 5000);
                let len = 1 + self.random.below(60_000);
                self.files[at].1 = size.max(from + len);
                let seed = 1 + self.random.below(250);
                format!("xfs_io -c 'pwrite -q -S {seed} {from} {len}' {path}")
            }
        }
    }
}

/// What Linux says of every object: path, type, mode, links, size, and of files the hash.
const LINUX_LIST: &str = "list() { (cd $1 && find . -mindepth 1 | LC_ALL=C sort | \
    while read -r path; do stat -c '%n %f %h %s' \"$path\" | \
    sed '/ 41ed /s/ [0-9]*$//'; done; \
    find . -type f | LC_ALL=C sort | xargs -r sha256sum); }\n";

fn by_turns(workspace: &Workspace) -> Result<()> {
    let guest = prepare::guest(workspace)?;
    let scratch = workspace.scratch()?;
    let mut disks = Vec::new();
    for (name, mkfs) in GEOMETRIES {
        let (disk, model) = (scratch.path().join(name), scratch.path().join(format!("{name}-m")));
        Recipe::new(96 * MIB).mkfs(mkfs).make(workspace, &disk)?;
        Recipe::new(96 * MIB).make(workspace, &model)?;
        disks.push((disk, model));
    }
    let mut loads: Vec<Workload> = (0..).map(Workload::new).take(disks.len()).collect();
    let mut history: Vec<String> = vec![String::new(); disks.len()];
    // Holdfast ends a turn by an unmount or as a power cut would end it; so does Linux.
    for (turn, linux_cut, ours_cut) in [(0, true, false), (1, false, true), (2, true, true)] {
        let mut script = String::from("set -e\n");
        let mut job = guest.job("");
        for (device, (index, (disk, _))) in ('a'..).zip(disks.iter().enumerate()) {
            let lines = loads[index].turn(60);
            history[index].push_str(&lines);
            let end = if linux_cut {
                "sync; xfs_io -x -c 'shutdown -f' /mnt; cd /; umount /mnt"
            } else {
                "cd /; umount /mnt"
            };
            let _ = write!(script, "mount -t xfs /dev/vd{device} /mnt; cd /mnt\n{lines}{end}\n");
            job = job.disk(disk);
        }
        let done = job.script(script).run(workspace)?;
        let complaints = done.complaints();
        done.success().with_context(|| format!("turn {turn} of Linux:\n{complaints}"))?;
        for (index, (disk, _)) in disks.iter().enumerate() {
            let lines = loads[index].turn(60);
            history[index].push_str(&lines);
            let end = if ours_cut { "sync\nshutdown-fs -f\n" } else { "" };
            let holdfast = Holdfast::new(workspace).disk(disk).with("--page-cache 8M");
            let output = holdfast.script(format!("{lines}{end}"))?.no_panic()?;
            let name = GEOMETRIES[index].0;
            if ours_cut {
                // The unmount after it fails, and says so.
                output.complains("shut down").with_context(|| format!("{name}, turn {turn}"))?;
            } else {
                output.success().with_context(|| format!("{name}, turn {turn}"))?;
                judge::repair(disk)?.demand("xfs_repair -n").context(name)?;
            }
        }
    }
    compare_with_model(workspace, &disks, &history)
}

/// Linux alone does everything once more on fresh images; the outcome is the same.
fn compare_with_model(
    workspace: &Workspace,
    disks: &[(PathBuf, PathBuf)],
    history: &[String],
) -> Result<()> {
    let guest = prepare::guest(workspace)?;
    for ((disk, model), (lines, (name, _))) in disks.iter().zip(history.iter().zip(GEOMETRIES)) {
        let script = format!(
            "set -e\n{LINUX_LIST}mkdir -p /one /two\n\
             mount -t xfs /dev/vda /one; mount -t xfs /dev/vdb /two\ncd /two\n{lines}\ncd /\n\
             list /one > /ours; list /two > /model; wc -l < /ours\n\
             diff /model /ours || exit 9\numount /one; umount /two\n"
        );
        let done = guest.job(script).disk(disk).disk(model).run(workspace)?;
        let complaints = done.complaints();
        ensure!(complaints.is_empty(), "{name}: Linux complains:\n{complaints}");
        let text = done.success().with_context(|| format!("{name}: not as the model"))?;
        let listed: u64 = text.trim().parse().with_context(|| format!("{name}: {text}"))?;
        ensure!(listed > 100, "{name}: only {listed} lines compared");
        judge::repair(disk)?.demand("xfs_repair -n").context(name)?;
    }
    Ok(())
}

/// The emulator is killed again and again while the guest makes files; what the guest said
/// was durable is there each time.
fn killed(workspace: &Workspace) -> Result<()> {
    let image = Image::small(workspace)?;
    let mut random = Stream::new(77);
    let mut durable: Vec<String> = Vec::new();
    for round in 0..4 {
        let mut script = String::new();
        for number in 0..400 {
            let name = format!("/r{round}-{number}");
            let size = 1 + random.below(30_000);
            let _ = writeln!(script, "xfs_io -f -c 'pwrite -q -S 7 0 {size}' -c fsync {name}");
            if number % 7 == 3 {
                let _ = writeln!(script, "mv {name} {name}-moved\nsync\necho {name}-moved {size}");
            } else if number % 5 == 2 {
                let _ = writeln!(script, "rm {name}");
            } else {
                let _ = writeln!(script, "echo {name} {size}");
            }
        }
        script.push_str("sleep 100\n");
        let limit = format!("--timeout {}", 5 + random.below(6));
        let holdfast = Holdfast::new(workspace).disk(&image.path).unlimited().with(&limit);
        let output = holdfast.script(script)?.no_panic()?.expect(124)?;
        durable.extend(output.text().lines().map(str::to_owned));
        // Booting again recovers the log.
        let mut check = String::new();
        for line in &durable {
            let name = line.split(' ').next().unwrap_or_default();
            let _ = writeln!(check, "stat -c '%n %s' {name}");
        }
        let holdfast = Holdfast::new(workspace).disk(&image.path);
        let seen = holdfast.script(check)?.success()?.text();
        let seen: Vec<&str> = seen.lines().collect();
        ensure!(seen == durable, "round {round}: {} of {} are there", seen.len(), durable.len());
        image.is_clean().with_context(|| format!("round {round}"))?;
    }
    ensure!(!durable.is_empty(), "no file was ever durable");
    Ok(())
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
    ensure!(!text.to_lowercase().contains("bad"), "xfs_logprint says:\n{text}");
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
        cargo.args(["run", "--quiet", "--release", "--package", "holdfast-image", "--"]);
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
