//! Images for the XFS tests: made by mkfs.xfs on files filled with 0xEE, read by us,
//! and what xfs_db says of them.
#![allow(dead_code)]

pub mod craft;
pub mod exercise;
pub mod features;
pub mod manifest;
pub mod mutate;
pub mod parsers;
pub mod walk;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_fs::block::{MemDisk, MemDiskConfig, Queue, SECTOR_SIZE};
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::{Mount, MountError, MountOptions};

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

/// A program of xfsprogs, wherever the distribution keeps it.
pub fn tool(name: &str) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(name);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin"));
    // Lets mkfs.xfs make file systems below 300 MB.
    command.env("TEST_DIR", "x").env("TEST_DEV", "y").env("QA_CHECK_FS", "1");
    command
}

/// Run a command to its end and hand back what it printed.
///
/// # Panics
/// If it is missing or fails.
pub fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e} (is the package xfsprogs installed?)"));
    assert!(
        output.status.success(),
        "{command:?} failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A file of this many megabytes, all bytes 0xEE, with a file system on it.
pub fn mkfs(image: &Path, megabytes: u64, options: &[&str], proto: Option<&Path>) {
    let mut file = File::create(image).expect("image");
    let chunk = vec![0xee; 1 << 20];
    for _ in 0..megabytes {
        file.write_all(&chunk).expect("image");
    }
    drop(file);
    let mut command = tool("mkfs.xfs");
    command.args(["-q", "-K", "-f"]).args(options);
    if let Some(proto) = proto {
        command.arg("-p").arg(proto);
    }
    let printed = run(command.arg(image));
    // A bad prototype file makes mkfs.xfs stop half way with a good exit status.
    let start = std::fs::read(image).expect("image");
    assert!(start.starts_with(b"XFSB") && start[126] == 0, "{command:?}: {printed}");
}

/// What xfs_db prints for some commands.
pub fn xfs_db(image: &Path, commands: &[&str]) -> String {
    let mut command = tool("xfs_db");
    command.arg("-r");
    for c in commands {
        command.args(["-c", c]);
    }
    run(command.arg(image))
}

/// Change an image with xfs_db, checksums kept right.
pub fn xfs_db_write(image: &Path, commands: &[&str]) -> String {
    let mut command = tool("xfs_db");
    command.arg("-x");
    for c in commands {
        command.args(["-c", c]);
    }
    run(command.arg(image))
}

/// The number in a line `name = number` of xfs_db's.
pub fn number(text: &str, name: &str) -> u64 {
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix("= "))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    let value = value.split_whitespace().next().unwrap_or("");
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a number"),
        None => value.parse().expect("a number"),
    }
}

/// Pages enough for any test.
const PAGES: u64 = 16384;

/// A disk in memory over an image that stays as it is.
pub fn disk_over(image: Arc<Vec<u8>>) -> Arc<MemDisk> {
    let capacity_sectors = image.len() as u64 / SECTOR_SIZE;
    MemDisk::over(image, MemDiskConfig { capacity_sectors, ..MemDiskConfig::default() })
}

/// Mount bytes in memory; writes to them stay in a layer above.
pub fn mount_bytes(image: Arc<Vec<u8>>, readonly: bool) -> Result<Arc<Mount>, MountError> {
    mount_disk(disk_over(image), readonly)
}

/// Mount a device.
pub fn mount_disk(
    disk: Arc<dyn holdfast_fs::block::BlockDevice>,
    readonly: bool,
) -> Result<Arc<Mount>, MountError> {
    Mount::open(Queue::new(disk), HostMemory::new(PAGES), MountOptions { readonly })
}

/// Mount an image file read-write (the file itself is not changed).
pub fn mount_file(image: &Path) -> Arc<Mount> {
    let bytes = Arc::new(std::fs::read(image).expect("image"));
    mount_bytes(bytes, false).unwrap_or_else(|e| panic!("{}: {e}", image.display()))
}
