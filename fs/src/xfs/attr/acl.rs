//! Access control lists: from the disk's format to the one Linux hands to programs.
//!
//! On disk: a count, then for each entry tag, id and permissions in twelve bytes, all
//! big-endian. For programs: a version, then eight bytes each, little-endian.

use alloc::vec::Vec;

use crate::xfs::ondisk::{Be16, Be32, Check, be32, ensure, on_disk};

on_disk! {
    /// An entry on disk.
    EntryView, 12 bytes {
        tag: Be32 = 0,
        id: Be32 = 4,
        permissions: Be16 = 8,
        pad: Be16 = 10,
    }
}

/// The version of the format for programs.
const LINUX_VERSION: u32 = 2;
/// Tags of entries with an id: a named user, a named group.
const WITH_ID: [u32; 2] = [2, 8];
const NO_ID: u32 = u32::MAX;

const NAMES: [(&[u8], &[u8]); 2] = [
    (b"system.posix_acl_access", b"SGI_ACL_FILE"),
    (b"system.posix_acl_default", b"SGI_ACL_DEFAULT"),
];

/// The name on disk of a list that programs know by this name.
pub(super) fn disk_name(shown: &[u8]) -> Option<&'static [u8]> {
    NAMES.iter().find(|(s, _)| *s == shown).map(|(_, disk)| *disk)
}

/// The name by which programs know a list with this name on disk.
pub(super) fn shown_name(disk: &[u8]) -> Option<&'static [u8]> {
    NAMES.iter().find(|(_, d)| *d == disk).map(|(shown, _)| *shown)
}

/// A list in the format for programs.
pub(super) fn to_linux(raw: &[u8]) -> Check<Vec<u8>> {
    let count = be32(raw, 0).unwrap_or(0) as usize;
    let entries = raw.get(4..).unwrap_or(&[]);
    ensure!(
        count.checked_mul(EntryView::SIZE) == Some(entries.len()),
        "an access control list of {count} entries in {} bytes",
        raw.len()
    );
    let mut list = LINUX_VERSION.to_le_bytes().to_vec();
    for entry in entries.chunks_exact(EntryView::SIZE).filter_map(EntryView::new) {
        let id = if WITH_ID.contains(&entry.tag()) { entry.id() } else { NO_ID };
        list.extend_from_slice(&(entry.tag() as u16).to_le_bytes());
        list.extend_from_slice(&entry.permissions().to_le_bytes());
        list.extend_from_slice(&id.to_le_bytes());
    }
    Ok(list)
}
