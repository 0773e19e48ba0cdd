//! Images as a newer xfsprogs than the installed one makes them, and its verdict.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use holdfast_fs::xfs::ondisk::superblock::{Incompat, Superblock};

use super::mutate::stamp;

/// Where the superblock has its incompatible features.
const INCOMPAT_AT: usize = 216;

/// Names the directory with the newer programs; the test driver sets it.
pub const NEWER: &str = "HOLDFAST_NEWER_XFSPROGS";

/// Switch features of an unmounted image on or off, in all copies of the superblock.
pub fn switch(image: &[u8], features: Incompat, on: bool) -> Arc<Vec<u8>> {
    let mut bytes = image.to_vec();
    let sb = Superblock::decode(&bytes[..4096]).expect("a superblock");
    for ag in 0..u64::from(sb.ag_count) {
        let at = ((ag * u64::from(sb.ag_blocks)) << sb.block_log) as usize;
        let place = at + INCOMPAT_AT..at + INCOMPAT_AT + 4;
        let mut bits = Incompat::from_bits_retain(u32::from_be_bytes(
            bytes[place.clone()].try_into().expect("four bytes"),
        ));
        bits.set(features, on);
        bytes[place].copy_from_slice(&bits.bits().to_be_bytes());
        stamp(&mut bytes[at..at + 4096]);
    }
    Arc::new(bytes)
}

/// What a newer `xfs_repair -n` says of an image; nothing if there is none, or it has
/// nothing to say.
pub fn newer_repair(image: &Path) -> Option<String> {
    let directory = PathBuf::from(std::env::var_os(NEWER)?);
    let mut command = Command::new(directory.join("xfs_repair"));
    let output = command.args(["-n", "-f", "-o", "force_geometry"]).arg(image).output();
    let output = output.unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = [output.stdout, output.stderr].concat();
    (!output.status.success()).then(|| String::from_utf8_lossy(&text).into_owned())
}
