//! The programs of xfsprogs: images that mkfs.xfs made on files filled with 0xEE, what
//! xfs_db and xfs_repair say of them; and disks in memory over them.
#![allow(dead_code)]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_fs::block::{BlockDevice, Completion, MemDisk, MemDiskConfig, SECTOR_SIZE, Sector};

/// Names a directory with newer programs; the test driver sets it.
pub const NEWER: &str = "HOLDFAST_NEWER_XFSPROGS";

/// A directory of its own for one test, removed at the end.
pub struct Scratch(PathBuf);

impl Scratch {
    /// A fresh directory whose name starts with `name`.
    pub fn new(name: &str) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(option_env!("CARGO_TARGET_TMPDIR").unwrap_or("/tmp"))
            .join(format!("{name}-{}-{number}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("scratch directory");
        Self(path)
    }
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One of the programs, wherever the distribution keeps it. By its full path: given another
/// PATH it would be started by a fork, which copies the page tables of a test with much in
/// memory, thousands of times.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/sbin"]);
    let mut places = directories.map(|directory| Path::new(directory).join(name));
    Command::new(places.find(|place| place.is_file()).unwrap_or_else(|| name.into()))
}

/// One of the newer programs, if there are any.
pub fn newer(name: &str) -> Option<Command> {
    std::env::var_os(NEWER).map(|directory| Command::new(PathBuf::from(directory).join(name)))
}

fn output(command: &mut Command) -> (bool, [String; 2]) {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e} (is the package xfsprogs installed?)"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.success(), [text(&output.stdout), text(&output.stderr)])
}

/// Run a command to its end: was it content, and what did it print?
///
/// # Panics
/// If it is missing.
pub fn said(command: &mut Command) -> (bool, String) {
    let (ok, text) = output(command);
    (ok, text.concat())
}

/// Run a command to its end and hand back what it printed.
///
/// # Panics
/// If it is missing or fails.
pub fn run(command: &mut Command) -> String {
    let (ok, [printed, errors]) = output(command);
    assert!(ok, "{command:?} failed: {printed}{errors}");
    printed
}

/// A file of this many megabytes, all bytes 0xEE, with a file system on it.
pub fn mkfs(image: &Path, megabytes: u64, options: &[&str], proto: Option<&Path>) {
    let mut command = tool("mkfs.xfs");
    command.args(options);
    if let Some(proto) = proto {
        command.arg("-p").arg(proto);
    }
    mkfs_by(command, image, megabytes);
}

/// The same by a mkfs.xfs that was told what to make.
pub fn mkfs_by(mut command: Command, image: &Path, megabytes: u64) {
    let mut file = File::create(image).expect("image");
    let chunk = vec![0xee; 1 << 20];
    for _ in 0..megabytes {
        file.write_all(&chunk).expect("image");
    }
    drop(file);
    // These three let it make file systems below 300 MB.
    command.envs([("TEST_DIR", "x"), ("TEST_DEV", "y"), ("QA_CHECK_FS", "1")]);
    let printed = run(command.args(["-q", "-K", "-f"]).arg(image));
    // A bad prototype file makes mkfs.xfs stop half way with a good exit status.
    let start = std::fs::read(image).expect("image");
    assert!(start.starts_with(b"XFSB") && start[126] == 0, "{command:?}: {printed}");
}

/// An empty file system of this many megabytes, on a device that held 0xEE everywhere
/// before.
pub fn image(megabytes: usize, options: &[&str]) -> Arc<Vec<u8>> {
    let scratch = Scratch::new("mkfs");
    let image = scratch.path("image");
    mkfs(&image, megabytes as u64, options, None);
    Arc::new(std::fs::read(&image).expect("image"))
}

/// What xfs_db prints for some commands.
pub fn xfs_db(image: &Path, commands: &[&str]) -> String {
    db("-r", image, commands)
}

/// Change an image with xfs_db, checksums kept right.
pub fn xfs_db_write(image: &Path, commands: &[&str]) -> String {
    db("-x", image, commands)
}

fn db(mode: &str, image: &Path, commands: &[&str]) -> String {
    let mut command = tool("xfs_db");
    command.arg(mode);
    for c in commands {
        command.args(["-c", c]);
    }
    run(command.arg(image))
}

/// Let an xfs_repair look at an image: is it content, and what did it print?
pub fn repair_by(mut command: Command, image: &Path) -> (bool, String) {
    said(command.args(["-n", "-f", "-o", "force_geometry"]).arg(image))
}

/// Let xfs_repair look at an image: it has to be content.
pub fn judge_file(image: &Path) {
    let (ok, text) = repair_by(tool("xfs_repair"), image);
    assert!(ok, "xfs_repair -n complains:\n{text}");
}

/// What `xfs_repair -n` says of an image; nothing if it has nothing to say. `HOLDFAST_KEEP`
/// names a file for an image that it complains of.
pub fn repair(bytes: &[u8]) -> Option<String> {
    repair_of(tool("xfs_repair"), bytes)
}

/// What a newer `xfs_repair -n` says of an image; nothing if there is none, or it has
/// nothing to say.
pub fn newer_repair(image: &Path) -> Option<String> {
    let (ok, text) = repair_by(newer("xfs_repair")?, image);
    (!ok).then_some(text)
}

/// What this xfs_repair says.
pub fn repair_of(command: Command, bytes: &[u8]) -> Option<String> {
    let scratch = Scratch::new("repair");
    let image = scratch.path("image");
    std::fs::write(&image, bytes).expect("image");
    let (ok, text) = repair_by(command, &image);
    if !ok {
        keep(bytes);
    }
    (!ok).then_some(text)
}

/// Keep an image if `HOLDFAST_KEEP` says where.
pub fn keep(bytes: &[u8]) {
    if let Ok(place) = std::env::var("HOLDFAST_KEEP") {
        std::fs::write(&place, bytes).expect("the place to keep the image in");
    }
}

/// Let xfs_repair look at a disk: it has to be content.
pub fn judge(disk: &MemDisk) {
    if let Some(complaint) = repair(&contents(disk)) {
        panic!("xfs_repair -n complains:\n{complaint}");
    }
}

/// A disk in memory over an image that stays as it is.
pub fn disk_over(image: Arc<Vec<u8>>) -> Arc<MemDisk> {
    disk_with(image, MemDiskConfig::default())
}

/// The same, some of whose properties are given.
pub fn disk_with(image: Arc<Vec<u8>>, config: MemDiskConfig) -> Arc<MemDisk> {
    let capacity_sectors = image.len() as u64 / SECTOR_SIZE;
    MemDisk::over(image, MemDiskConfig { capacity_sectors, ..config })
}

/// The same, with requests that end on a thread of the disk's own.
pub fn disk_with_a_thread(image: &Arc<Vec<u8>>) -> Arc<MemDisk> {
    let completion = Completion::Threads(1);
    disk_with(image.clone(), MemDiskConfig { completion, ..MemDiskConfig::default() })
}

/// All bytes of a disk as they are now.
pub fn contents(disk: &MemDisk) -> Vec<u8> {
    let mut bytes = vec![0; (disk.capacity_sectors() * SECTOR_SIZE) as usize];
    disk.peek(Sector(0), &mut bytes);
    bytes
}
