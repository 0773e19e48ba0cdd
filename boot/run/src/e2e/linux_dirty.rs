//! Logs that a real Linux left dirty, recovered by us and by Linux.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::image::{MIB, Recipe};
use crate::kernel_image;
use crate::linux_guest::prepare;
use crate::process;
use crate::testing::case::Case;
use crate::workspace::Workspace;

/// The tests of this module.
pub fn cases() -> Vec<Case> {
    vec![Case::new("e2e::linux_dirty::tests_of_fs", tests_of_fs).with_linux()]
}

/// A name, arguments of mkfs.xfs, the length in MiB, what dirty.sh does.
type Image = (&'static str, &'static str, u64, &'static str);

const IMAGES: [Image; 10] = [
    ("defaults", "", 64, "all"),
    ("block-1k-rmapbt", "-b size=1024 -m rmapbt=1", 48, "open"),
    ("log-unit-32k-nrext64", "-l su=32k -i nrext64=1", 64, "all"),
    ("log-unit-256k", "-l su=256k", 96, "behind"),
    ("sector-4k", "-s size=4096", 64, "all"),
    ("least-log", "-m reflink=0 -l size=4m", 24, "round"),
    ("plain-v5", "-m reflink=0,bigtime=0,inobtcount=0,finobt=0 -i sparse=0", 64, "all"),
    ("directories-16k", "-b size=2048 -n size=16384", 64, "busy"),
    ("rmapbt", "-m rmapbt=1 -i nrext64=1", 64, "busy"),
    ("shared", "-m rmapbt=1,reflink=1 -b size=1024", 64, "shared"),
];
/// Linux 6.1 cannot recover what it logs here: judged by xfs_repair alone.
const NOT_BY_LINUX: Image = ("swapped", "-m rmapbt=0", 40, "swapped");

/// How long one boot may take: there is much to do in it.
const LIMIT: Duration = Duration::from_secs(1800);

fn tests_of_fs(workspace: &Workspace) -> Result<()> {
    let guest = prepare::guest(workspace)?;
    let dirty = fs::read(workspace.root().join("fs/tests/dirty.sh"))?;
    let scratch = workspace.scratch()?;
    let images: Vec<Image> = IMAGES.into_iter().chain([NOT_BY_LINUX]).collect();
    let mut script = String::from("set -e\n");
    let mut job = guest.job("").file("dirty.sh", dirty.clone()).limit(LIMIT);
    let mut directories = Vec::new();
    for (device, (name, mkfs, size_mib, kind)) in ('a'..).zip(&images) {
        let directory = scratch.path().join(name);
        fs::create_dir_all(&directory)?;
        let disk = directory.join("dirty");
        Recipe::new(size_mib * MIB).mkfs(mkfs).make(workspace, &disk)?;
        job = job.disk(&disk);
        script.push_str(&format!("sh /dirty.sh leave {kind} /dev/vd{device}\n"));
        directories.push(directory);
    }
    job.script(script).run(workspace)?.success().context("leaving logs dirty")?;
    let mut script = String::from("sh /dirty.sh recover");
    let mut job = guest.job("").file("dirty.sh", dirty).limit(LIMIT);
    for (device, directory) in ('a'..).zip(&directories[..IMAGES.len()]) {
        let copy = directory.join("recovered");
        fs::copy(directory.join("dirty"), &copy)?;
        job = job.disk(&copy);
        script.push_str(&format!(" /dev/vd{device}"));
    }
    job.script(script).run(workspace)?.success().context("recovery by Linux")?;
    let mut cargo = kernel_image::cargo(workspace);
    cargo.args(["test", "--quiet", "--package", "holdfast-fs", "--features", "check"]);
    cargo.args(["--test", "xfs", "--", "--ignored", "recovery_linux::"]);
    cargo.env("HOLDFAST_DIRTY", std::env::join_paths(directories)?);
    let output = String::from_utf8_lossy(&process::output(&mut cargo)?).into_owned();
    ensure!(output.contains("5 passed"), "not all tests ran:\n{output}");
    Ok(())
}
