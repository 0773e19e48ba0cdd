//! Extended attributes, in every form.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::da::Space;
use super::fork::Fork;
use super::{Result, Scan, push};
use crate::xfs::attr::hash_of;
use crate::xfs::da::hash_name;
use crate::xfs::ondisk::attr_leaf::{
    Entry, EntryView, Header, INCOMPLETE, LOCAL, Leaf, LocalHead, NAMESPACE, PARENT, RemoteHead,
    Value,
};
use crate::xfs::ondisk::attr_remote::{self, room};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::{Check, attr_sf, be16, ensure};
use crate::xfs::types::Ino;

const LEAVES: &[BlockKind] = &[BlockKind::AttrLeaf];
const ROOTS: &[BlockKind] = &[BlockKind::AttrLeaf, BlockKind::DaNode];
/// File blocks of an attribute fork have 32-bit numbers.
const SPACE_BLOCKS: u64 = 1 << 32;
/// Names and values in a leaf are a multiple of this long.
const ALIGN: usize = 4;
/// Free spaces that a leaf's header lists.
const FREE_SPACES: usize = 3;
/// Where it does so.
const FREE_MAP_AT: usize = 64;

/// A value in blocks of its own.
struct Remote {
    block: u32,
    length: u32,
}

fn check_flags(flags: u8, allowed: u8) -> Check {
    ensure!(flags & !(NAMESPACE | allowed) == 0, "flags {flags:#x}");
    ensure!((flags & NAMESPACE).count_ones() <= 1, "several namespaces, {flags:#x}");
    ensure!(flags & INCOMPLETE == 0, "it is half made");
    Ok(())
}

impl Scan {
    /// Attributes in the inode.
    pub(super) fn check_shortform_attrs(&mut self, ino: Ino, bytes: &[u8]) -> Result<()> {
        let view = match attr_sf::View::new(bytes) {
            Ok(view) => view,
            Err(reason) => {
                self.inode_found(ino, format!("shortform attributes: {reason}"));
                return Ok(());
            }
        };
        let mut names = BTreeSet::new();
        for entry in view.entries().flatten() {
            let shown = String::from_utf8_lossy(entry.name);
            if let Err(reason) = check_flags(entry.flags, 0) {
                self.inode_found(ino, format!("attribute {shown:?}: {reason}"));
            }
            let hash = hash_of(entry.flags, entry.name, entry.value, self.geometry.ascii_ci);
            let (flags, name, value) = (entry.flags, entry.name, Value::Local(entry.value));
            if let Err(reason) = self.note_pointer(ino, &Entry { hash, flags, name, value })? {
                self.inode_found(ino, format!("attribute {shown:?}: {reason}"));
            }
            if !names.insert((entry.flags & NAMESPACE, entry.name)) && entry.flags & PARENT == 0 {
                self.inode_found(ino, format!("the attribute {shown:?} twice"));
            }
        }
        Ok(())
    }
    /// Attributes in blocks.
    pub(super) fn check_attrs(&mut self, ino: Ino, fork: &Fork) -> Result<()> {
        if fork.extents.is_empty() {
            return Ok(());
        }
        let space = Space {
            ino,
            fork,
            block_blocks: 1,
            tree: 0..SPACE_BLOCKS,
            leaves: LEAVES,
            roots: ROOTS,
            name: "attribute fork",
        };
        if fork.extents.last().is_some_and(|e| e.end().0 > SPACE_BLOCKS) {
            self.space_found(&space, SPACE_BLOCKS, "it goes on behind its end".into());
        }
        let mut remotes = Vec::new();
        let mut walked = self.walk_hashes(&space, &mut |scan, at, block| {
            scan.check_attr_leaf(&space, at, block, &mut remotes)
        })?;
        for remote in &remotes {
            self.check_value(&space, remote, &mut walked.seen)?;
        }
        if walked.whole && fork.whole {
            let mapped: u64 = fork.extents.iter().map(|e| u64::from(e.count)).sum();
            let used = walked.seen.len() as u64;
            if mapped != used {
                let reason = format!("{mapped} blocks, {used} of them in use");
                self.space_found(&space, 0, reason);
            }
        }
        Ok(())
    }
    fn check_attr_leaf(
        &mut self,
        space: &Space<'_>,
        at: u64,
        block: &[u8],
        remotes: &mut Vec<Remote>,
    ) -> Result<()> {
        let Some(leaf) = Leaf::new(block) else { return Ok(()) };
        let mut used = Vec::new();
        let mut last: Option<Entry<'_>> = None;
        for i in 0..leaf.count {
            let Some(entry) = leaf.entry(i) else { continue };
            let pointer = self.note_pointer(space.ino, &entry)?;
            if let Err(reason) = check_entry(&entry, last.as_ref()).and(pointer) {
                self.space_found(space, at, format!("entry {i}: {reason}"));
            }
            last = Some(entry);
            let start = be16(block, Header::SIZE + i * EntryView::SIZE + 4).map_or(0, usize::from);
            push(&mut used, (start, start + name_bytes(&entry)))?;
            if let Value::Remote { block, length } = entry.value
                && entry.flags & INCOMPLETE == 0
            {
                push(remotes, Remote { block, length })?;
            }
        }
        used.sort_unstable();
        if let Err(reason) = check_room(block, &used) {
            self.space_found(space, at, reason);
        }
        Ok(())
    }
    /// A value in blocks of its own; these become blocks that were seen.
    fn check_value(
        &mut self,
        space: &Space<'_>,
        remote: &Remote,
        seen: &mut BTreeSet<u64>,
    ) -> Result<()> {
        let room = room(self.geometry.block_bytes());
        let length = remote.length as usize;
        let mut done = 0;
        let mut at = u64::from(remote.block);
        while done < length {
            if !seen.insert(at) {
                self.space_found(space, at, "a block of a value that is in use".into());
            }
            let Some((_, block)) = self.read_space(space, at, &[BlockKind::AttrRemote])? else {
                return Ok(());
            };
            let expected = (length - done).min(room);
            let Some(header) = attr_remote::Header::new(&block) else { return Ok(()) };
            if header.offset() as usize != done || header.bytes() as usize != expected {
                let (bytes, offset) = (header.bytes(), header.offset());
                let reason =
                    format!("{bytes} bytes at {offset} of a value, should be {expected} at {done}");
                self.space_found(space, at, reason);
                return Ok(());
            }
            done += expected;
            at += 1;
        }
        Ok(())
    }
}

fn check_entry(entry: &Entry<'_>, last: Option<&Entry<'_>>) -> Check {
    check_flags(entry.flags, LOCAL | INCOMPLETE)?;
    // Pointers to parents are found by more than their names.
    if entry.flags & PARENT != 0 {
        return Ok(());
    }
    let hash = hash_name(entry.name.iter().copied());
    ensure!(hash == entry.hash, "hash {:#x}, should be {hash:#x}", entry.hash);
    let key = |e: &Entry<'_>| (e.hash, e.flags & NAMESPACE);
    ensure!(
        last.is_none_or(|l| key(l) != key(entry) || l.name != entry.name),
        "the attribute {:?} twice",
        String::from_utf8_lossy(entry.name)
    );
    Ok(())
}

/// Bytes a name, with its value if that is here, takes in a leaf.
fn name_bytes(entry: &Entry<'_>) -> usize {
    let bytes = match entry.value {
        Value::Local(value) => LocalHead::SIZE + entry.name.len() + value.len(),
        // Room is always made for two bytes more.
        Value::Remote { .. } => RemoteHead::SIZE + 2 + entry.name.len(),
    };
    bytes.next_multiple_of(ALIGN)
}

/// The names of a leaf lie apart from each other and from the free spaces that its
/// header lists, and its counts are right. `used` is sorted.
fn check_room(block: &[u8], used: &[(usize, usize)]) -> Check {
    let Some(header) = Header::new(block) else { return Ok(()) };
    for pair in used.windows(2) {
        ensure!(pair[0].1 <= pair[1].0, "the names at {} and {} overlap", pair[0].0, pair[1].0);
    }
    let bytes: usize = used.iter().map(|u| u.1 - u.0).sum();
    let stated = usize::from(header.used_bytes());
    ensure!(bytes == stated, "names take {bytes} bytes, {stated} stated");
    let first = used.first().map_or(block.len(), |u| u.0);
    let stated = match header.first_used() {
        0 => 1 << 16,
        n => usize::from(n),
    };
    // With holes among the names, the first one may have gone without a trace.
    ensure!(
        stated == first || (header.holes() != 0 && stated < first),
        "names start at {first}, {stated} stated"
    );
    for i in 0..FREE_SPACES {
        let start = be16(block, FREE_MAP_AT + i * 4).map_or(0, usize::from);
        let end = start + be16(block, FREE_MAP_AT + i * 4 + 2).map_or(0, usize::from);
        if start == end {
            continue;
        }
        ensure!(
            start.is_multiple_of(ALIGN) && end.is_multiple_of(ALIGN) && end <= block.len(),
            "free space from {start} to {end}"
        );
        let at = used.partition_point(|u| u.1 <= start);
        ensure!(
            used.get(at).is_none_or(|u| u.0 >= end),
            "free space from {start} to {end} overlaps the name at {:?}",
            used.get(at)
        );
    }
    Ok(())
}
