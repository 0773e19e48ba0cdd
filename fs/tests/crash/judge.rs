//! Is what a power cut left what it may be? Mounting recovers it; the model says what has
//! to be there, the checker whether it is whole.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use holdfast_fs::block::{BlockDevice, MemDisk, Queue, Sector};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::check::check;
use holdfast_fs::xfs::{FileType, Ino, Mount, MountOptions};

use sha2::{Digest, Sha256};

use super::model::{Kind, Model, Version, line};
use crate::xfs_support::walk;

/// Pages of a small machine.
const PAGES: u64 = 4096;

/// The names of a mounted file system, a line for each, and the first name of each file.
fn survey(mount: &Arc<Mount>) -> Result<(String, BTreeMap<u64, String>), String> {
    let tree = walk::tree(mount);
    if let Some((path, e)) = tree.errors.first() {
        return Err(format!("{}: {e}", String::from_utf8_lossy(path)));
    }
    let mut first: BTreeMap<u64, String> = BTreeMap::new();
    let mut lines = BTreeMap::new();
    let mut files = BTreeMap::new();
    for (path, object) in &tree.objects {
        let path = String::from_utf8_lossy(&path[1..]).into_owned();
        let a = &object.attributes;
        let same_as = first.entry(object.ino.0).or_insert_with(|| path.clone()).clone();
        let kind = match FileType::from_mode(a.mode) {
            Some(FileType::Directory) => Kind::Directory,
            Some(FileType::Symlink) => Kind::Symlink(object.target.clone().unwrap_or_default()),
            _ => {
                files.entry(object.ino.0).or_insert_with(|| path.clone());
                Kind::File
            }
        };
        let text = line(&path, &kind, a.mode & 0o7777, a.nlink, &object.xattrs, &same_as);
        lines.insert(path, text);
    }
    let lines = lines.into_values().map(|l| l + "\n").collect();
    Ok((lines, files))
}

/// What is in one list of lines and not in the other.
fn difference(found: &str, expected: &str) -> String {
    let only = |a: &str, b: &str, mark: &str| {
        let b: std::collections::BTreeSet<&str> = b.lines().collect();
        let lines: Vec<String> =
            a.lines().filter(|l| !b.contains(l)).map(|l| format!("{mark} {l}")).collect();
        lines.join("\n")
    };
    format!("{}\n{}", only(found, expected, "found"), only(expected, found, "wanted"))
}

fn check_contents(
    mount: &Arc<Mount>,
    model: &Model,
    version: &Version,
    files: &BTreeMap<u64, String>,
) -> Result<(), String> {
    for (&ino, path) in files {
        let inode = mount.inode(Ino(ino)).map_err(|e| format!("{path}: {e}"))?;
        let contents = walk::read_file(&inode).map_err(|e| format!("{path}: {e}"))?;
        let id = version.names[path];
        if let Err((reason, bytes)) = model.allows(id, &contents) {
            return Err(format!("{path}: {reason}\n{}", model.explain(id, bytes)));
        }
    }
    Ok(())
}

fn judge_mounted(mount: &Arc<Mount>, model: &Model) -> Result<(), String> {
    let (lines, files) = survey(mount)?;
    // Files that are alike but for their contents may have changed places.
    let mut alike = model.window().filter(|v| *v.lines == lines);
    let Some(newest) = alike.next() else {
        let count = model.window().count();
        let nearest = model.window().map(|v| difference(&lines, &v.lines));
        let nearest = nearest.min_by_key(String::len).unwrap_or_default();
        return Err(format!("names are as after none of {count} calls; nearest:\n{nearest}"));
    };
    check_contents(mount, model, newest, &files).or_else(|e| {
        let others = alike.find(|v| check_contents(mount, model, v, &files).is_ok());
        others.map(|_| ()).ok_or(e)
    })
}

/// Recover, compare, unmount, check.
///
/// # Errors
/// What is wrong.
pub fn judge(device: &Arc<dyn BlockDevice>, model: &Model) -> Result<(), String> {
    let queue = Queue::new(device.clone());
    let memory: Arc<dyn Memory> = HostMemory::new(PAGES);
    let mount = Mount::open(queue.clone(), memory.clone(), MountOptions::default())
        .map_err(|e| format!("it does not mount: {e}"))?;
    judge_mounted(&mount, model)?;
    mount.unmount().map_err(|e| format!("unmount: {e}"))?;
    drop(mount);
    let report = check(&queue, &memory).map_err(|e| format!("check: {e}"))?;
    if report.is_clean() {
        return Ok(());
    }
    let findings: Vec<String> = report.findings.iter().take(20).map(ToString::to_string).collect();
    Err(format!("{} findings:\n{}", report.found, findings.join("\n")))
}

/// Recover, and list what is there: a line for each object with its mode in hexadecimal
/// digits and its links, then one for each file with the hash of its contents.
///
/// # Errors
/// What cannot be read.
pub fn list(device: &Arc<dyn BlockDevice>) -> Result<String, String> {
    let memory: Arc<dyn Memory> = HostMemory::new(PAGES);
    let mount = Mount::open(Queue::new(device.clone()), memory, MountOptions::default())
        .map_err(|e| format!("it does not mount: {e}"))?;
    let tree = walk::tree(&mount);
    let mut hashes = String::new();
    let mut lines = String::new();
    for (path, object) in &tree.objects {
        let path = String::from_utf8_lossy(path);
        let a = &object.attributes;
        if path == "." {
            continue;
        }
        writeln!(lines, "{path} {:x} {}", a.mode, a.nlink).map_err(|e| e.to_string())?;
        if FileType::from_mode(a.mode) == Some(FileType::Regular) {
            let inode = mount.inode(object.ino).map_err(|e| format!("{path}: {e}"))?;
            let contents = walk::read_file(&inode).map_err(|e| format!("{path}: {e}"))?;
            let hash: String =
                Sha256::digest(&contents).iter().map(|b| format!("{b:02x}")).collect();
            writeln!(hashes, "{hash}  {path}").map_err(|e| e.to_string())?;
        }
    }
    Ok(lines + &hashes)
}

/// All bytes of a disk.
pub fn bytes(disk: &MemDisk) -> Vec<u8> {
    let mut bytes = vec![0; disk.info().capacity_sectors as usize * 512];
    disk.peek(Sector(0), &mut bytes);
    bytes
}
