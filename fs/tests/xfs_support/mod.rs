//! Images for the XFS tests: filled, damaged, mounted, and walked through.
#![allow(dead_code)]

pub mod craft;
pub mod exercise;
pub mod features;
pub mod manifest;
pub mod mutate;
pub mod parsers;
pub mod recorder;
pub mod walk;

use std::path::Path;
use std::sync::Arc;

use holdfast_fs::block::Queue;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::{Mount, MountError, MountOptions};

pub use crate::xfsprogs::*;

/// Shapes of file systems: options of mkfs.xfs, megabytes.
pub const GEOMETRIES: &[(&[&str], u64)] = &[
    (&[], 16),
    (&["-d", "agcount=3"], 60),
    (&["-b", "size=1024"], 32),
    (&["-b", "size=1024", "-n", "size=8192", "-m", "rmapbt=1"], 40),
    (&["-b", "size=1024", "-n", "size=65536"], 40),
    (&["-b", "size=2048", "-i", "size=1024"], 32),
    (&["-b", "size=2048", "-n", "size=16384", "-m", "reflink=0"], 32),
    (&["-n", "size=65536"], 40),
    (&["-n", "size=8192", "-i", "nrext64=1"], 40),
    (&["-i", "size=2048"], 40),
    (&["-i", "size=1024,sparse=0"], 40),
    (&["-s", "size=4096"], 64),
    (&["-s", "size=4096", "-n", "size=32768", "-i", "size=2048"], 64),
    (&["-m", "rmapbt=1,reflink=1,bigtime=1,inobtcount=1"], 40),
    (&["-m", "finobt=0,reflink=0,bigtime=0,inobtcount=0,rmapbt=0", "-i", "sparse=0"], 40),
    (&["-m", "bigtime=0,inobtcount=0"], 40),
    (&["-d", "su=64k,sw=4", "-l", "su=64k"], 64),
    (&["-d", "su=256k,sw=2,agcount=2", "-l", "su=256k"], 128),
    (&["-l", "su=4096"], 40),
    (&["-n", "version=ci"], 40),
    (&["-L", "twelve-chars", "-m", "uuid=12345678-1234-1234-1234-123456789abc"], 40),
];

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
