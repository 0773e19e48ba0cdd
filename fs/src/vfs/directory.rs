//! Listing a directory, device nodes included.

use alloc::vec::Vec;

use super::{Namespace, Node, Place};
use crate::xfs::FileType;
use crate::{Error, Result};

/// One entry of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirent<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Inode number.
    pub ino: u64,
    /// What it is.
    pub file_type: FileType,
    /// Where the next listing goes on behind this entry.
    pub next_cursor: u64,
}

/// Cursors from here on count device nodes; a file system's stay below.
const DEVICE_CURSOR: u64 = 1 << 62;

/// Tell `each` of the entries from `cursor` on, until it returns false (that entry comes
/// again next time). The cursor with which to go on.
pub(super) fn list(
    node: &Node,
    ns: &Namespace,
    cursor: u64,
    each: &mut dyn FnMut(Dirent<'_>) -> bool,
) -> Result<u64> {
    match node {
        Node::Inode(place) => list_place(place, cursor, each).map(|(cursor, _)| cursor),
        Node::Devices(below) => {
            let mut at = cursor;
            if let (Some(place), true) = (below, at < DEVICE_CURSOR) {
                let (next, stopped) = list_place(place, at, each)?;
                if stopped {
                    return Ok(next);
                }
                at = DEVICE_CURSOR;
            }
            let skip = at.saturating_sub(DEVICE_CURSOR);
            Ok(DEVICE_CURSOR + list_devices(ns, below.as_ref(), skip, each))
        }
        Node::EmptyRoot => {
            let names = [&b"."[..], b"..", b"dev"];
            let mut at = cursor;
            for name in names.iter().skip(cursor as usize) {
                let file_type = FileType::Directory;
                if !each(Dirent { name, ino: 1, file_type, next_cursor: at + 1 }) {
                    break;
                }
                at += 1;
            }
            Ok(at)
        }
        Node::Device(_) => Err(Error::NotDirectory),
    }
}

/// The entries of a directory on disk; whether `each` stopped it.
fn list_place(
    place: &Place,
    cursor: u64,
    each: &mut dyn FnMut(Dirent<'_>) -> bool,
) -> Result<(u64, bool)> {
    if place.inode.file_type() != FileType::Directory {
        return Err(Error::NotDirectory);
    }
    let mut stopped = false;
    let _names = place.inode.iolock.read();
    let next = place.inode.xfs().readdir(cursor, &mut |entry| {
        let (name, ino, file_type) = (entry.name, entry.ino.0, entry.file_type);
        stopped = !each(Dirent { name, ino, file_type, next_cursor: entry.next_cursor });
        !stopped
    })?;
    Ok((next, stopped))
}

/// The device nodes from number `skip` on; the number with which to go on.
fn list_devices(
    ns: &Namespace,
    below: Option<&Place>,
    skip: u64,
    each: &mut dyn FnMut(Dirent<'_>) -> bool,
) -> u64 {
    let mut entries: Vec<(Vec<u8>, FileType, u64)> = Vec::new();
    if below.is_none() {
        entries.push((b".".to_vec(), FileType::Directory, 1));
        entries.push((b"..".to_vec(), FileType::Directory, 1));
    }
    for (name, device) in ns.devices() {
        let node = Node::Device(device);
        entries.push((name, node.file_type(), node.stat().ino));
    }
    let mut at = skip;
    for (name, file_type, ino) in entries.iter().skip(skip as usize) {
        let on_disk = below.is_some_and(|p| p.fs.lookup(&p.inode, name).is_ok());
        let next_cursor = DEVICE_CURSOR + at + 1;
        let entry = Dirent { name, ino: *ino, file_type: *file_type, next_cursor };
        if !on_disk && !each(entry) {
            break;
        }
        at += 1;
    }
    at
}
