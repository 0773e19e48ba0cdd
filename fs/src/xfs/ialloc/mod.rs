//! Inodes: finding a free one, making chunks of them, giving them back.
//!
//! ```text
//! allocate ── finobt (or inobt) ── a free inode near the parent
//!     └─ chunk ── alloc ── 64 inodes, or a part of a chunk ── ICREATE
//! free ── inobt, finobt ── the chunk goes when all of it is free
//! unlinked ── AGI bucket ── next_unlinked in the clusters
//! ```
//!
//! | file | |
//! |------|--|
//! | `tree` | the two trees of a group: records, roots, blocks |
//! | `allocate` | which group, which chunk, which inode |
//! | `chunk` | new chunks, whole or in part |
//! | `free` | giving an inode back, and its chunk if nothing is left in it |
//! | `unlinked` | the lists of inodes without names |
//!
//! Owns: the AGI, inobt, finobt, the links of unlinked lists. Does not own: the inodes'
//! contents (`inode`), free space (`alloc`). Locks: a group's AGI lock, held by the
//! transaction until it commits; a small one for what is remembered of a group.

mod allocate;
mod chunk;
mod free;
mod tree;
mod unlinked;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicU32, Ordering};

pub(super) use allocate::{allocate, space_for_allocation};
pub(super) use free::{free, space_for_free};
pub(super) use unlinked::{unlinked_add, unlinked_head, unlinked_remove, unlinked_reset};

use tree::Trees;

use super::buf::Buffer;
use super::geometry::Geometry;
use super::mount::Mount;
use super::ondisk::block::BlockKind;
use super::ondisk::inobt::{Chunk, RawChunk};
use super::ondisk::superblock::{Incompat, RoCompat};
use super::ondisk::{agi, be32};
use super::trans::Trans;
use super::types::{AgBlock, AgNumber, Ino};
use crate::block::{SECTOR_SIZE, Sector};
use crate::error::{Corruption, Error, Result};
use crate::locks::STATE;

/// What is remembered of the groups' inodes.
pub(super) struct Groups {
    groups: Vec<Group>,
    /// The group that the next directory goes to.
    rotor: AtomicU32,
}

/// What is remembered of a group's inodes.
struct Group {
    /// Free inodes that nobody has a claim on, as of the last look.
    free: AtomicU32,
    /// So many free inodes are set aside for those who made a chunk and have not taken one
    /// of it yet. Changed with the AGI locked.
    claimed: AtomicU32,
    /// For an inode in an unlinked list the one that links to it, if that is no head.
    previous: Mutex<BTreeMap<u32, u32>>,
    /// What the transaction that has the AGI locked need not look for.
    kept: Mutex<Kept>,
}

/// A group's blocks that are kept in memory while the group is in use.
#[derive(Default)]
struct Kept {
    agi: Option<Arc<Buffer>>,
    /// Nothing while a transaction changes them, or if one failed to.
    trees: Option<Trees>,
}

impl Groups {
    /// Nothing is known of any of `count` groups.
    pub(super) fn new(count: u32) -> Self {
        let group = |_| Group {
            free: AtomicU32::new(0),
            claimed: AtomicU32::new(0),
            previous: Mutex::new(&STATE, BTreeMap::new()),
            kept: Mutex::new(&STATE, Kept::default()),
        };
        Self { groups: (0..count).map(group).collect(), rotor: AtomicU32::new(0) }
    }
    fn group(&self, ag: AgNumber) -> &Group {
        &self.groups[ag.0 as usize]
    }
    /// A group has so many free inodes; said at mount, before anybody asks.
    pub(super) fn note_free(&self, ag: AgNumber, free: u32) {
        self.group(ag).publish(free);
    }
    /// Keep no blocks in memory.
    pub(super) fn release(&self) {
        for group in &self.groups {
            let kept = core::mem::take(&mut *group.kept.lock());
            drop(kept);
        }
    }
}

impl Group {
    /// Of so many free inodes those that nobody has a claim on.
    fn unclaimed(&self, free: u32) -> u32 {
        free.saturating_sub(self.claimed.load(Ordering::Relaxed))
    }
    /// So many inodes are free: for those who ask without a lock.
    fn publish(&self, free: u32) {
        self.free.store(self.unclaimed(free), Ordering::Relaxed);
    }
    /// He who had a claim has the AGI locked, and takes an inode.
    fn end_claim(&self) {
        self.claimed.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A group's AGI within a transaction that has it locked.
struct Header {
    ag: AgNumber,
    buffer: Arc<Buffer>,
}

impl Header {
    fn read(tp: &mut Trans<'_>, ag: AgNumber) -> Result<Self> {
        debug_assert!(tp.holds_agi(ag), "the AGI is locked");
        let group = tp.mount().ialloc.group(ag);
        let kept = group.kept.lock().agi.clone();
        let buffer = match kept {
            Some(buffer) => buffer,
            None => {
                let geometry = tp.mount().geometry();
                let sector = header_sector(geometry, ag);
                let buffer = tp.read(sector, geometry.sector_bytes() as u32, BlockKind::Agi)?;
                group.kept.lock().agi = Some(buffer.clone());
                buffer
            }
        };
        let header = Self { ag, buffer };
        let (count, free) = header.counts();
        if free > count {
            return Err(header.corrupt(tp, alloc::format!("{free} of {count} inodes are free")));
        }
        group.publish(free);
        Ok(header)
    }
    /// Free inodes that nobody has a claim on.
    fn unclaimed(&self, mount: &Mount) -> u32 {
        mount.ialloc.group(self.ag).unclaimed(self.counts().1)
    }
    /// Set a free inode aside for a transaction that is about to unlock the AGI.
    fn claim(&self, mount: &Mount) {
        let group = mount.ialloc.group(self.ag);
        group.claimed.fetch_add(1, Ordering::Relaxed);
        group.publish(self.counts().1);
    }
    /// May so many free inodes leave the group? Not those that others count on.
    fn can_spare(&self, mount: &Mount, inodes: u32) -> bool {
        self.unclaimed(mount) >= inodes
    }
    /// Inodes, and free ones.
    fn counts(&self) -> (u32, u32) {
        let bytes = self.buffer.read();
        let at = |offset| be32(&bytes, offset).unwrap_or(0);
        (at(agi::at::COUNT), at(agi::at::FREE_COUNT))
    }
    /// The group's trees, to be looked through and changed, and given back by
    /// [`Header::keep`] unless that fails.
    fn trees(&self, tp: &Trans<'_>) -> Trees {
        let kept = tp.mount().ialloc.group(self.ag).kept.lock().trees.take();
        kept.unwrap_or_else(|| Trees::new(self, tp.mount().geometry()))
    }
    /// Keep the places in the trees for whoever comes next.
    fn keep(&self, tp: &Trans<'_>, trees: Trees) {
        tp.mount().ialloc.group(self.ag).kept.lock().trees = Some(trees);
    }
    fn get(&self, offset: usize) -> u32 {
        be32(&self.buffer.read(), offset).unwrap_or(0)
    }
    fn set(&self, tp: &mut Trans<'_>, offset: usize, value: u32) {
        tp.edit(&self.buffer).set_be32(offset, value);
    }
    /// Change the number of inodes and of free ones.
    fn add(&self, tp: &mut Trans<'_>, all: i32, free: i32) {
        let (old_all, old_free) = self.counts();
        let new_free = old_free.wrapping_add_signed(free);
        let mut edit = tp.edit(&self.buffer);
        if all != 0 {
            edit.set_be32(agi::at::COUNT, old_all.wrapping_add_signed(all));
        }
        edit.set_be32(agi::at::FREE_COUNT, new_free);
        drop(edit);
        tp.mount().ialloc.group(self.ag).publish(new_free);
        tp.inodes_changed(i64::from(all), i64::from(free));
    }
    fn corrupt(&self, tp: &Trans<'_>, reason: alloc::string::String) -> Error {
        corrupt(tp.mount().geometry(), self.ag, reason)
    }
    /// What a record of this group means.
    fn check(&self, tp: &Trans<'_>, raw: &RawChunk) -> Result<Chunk> {
        let geometry = tp.mount().geometry();
        raw.check(geometry, self.ag, has_sparse(geometry))
            .map_err(|reason| corrupt(geometry, self.ag, reason))
    }
}

fn corrupt(geometry: &Geometry, ag: AgNumber, reason: alloc::string::String) -> Error {
    let location = geometry.place(header_sector(geometry, ag));
    Corruption { structure: "inodes of the group with the AGI", location, reason }.into()
}

fn header_sector(geometry: &Geometry, ag: AgNumber) -> Sector {
    let sectors = geometry.sector_bytes() as u64 / SECTOR_SIZE;
    Sector(geometry.ag_sector(ag, AgBlock(0)).0 + 2 * sectors)
}

fn has_finobt(geometry: &Geometry) -> bool {
    geometry.ro_compat.contains(RoCompat::FINOBT)
}

fn has_sparse(geometry: &Geometry) -> bool {
    geometry.incompat.contains(Incompat::SPARSE_INODES)
}

/// Group and number within it of an inode.
fn split_ino(geometry: &Geometry, ino: Ino) -> Result<(AgNumber, u32)> {
    let Some((ag, block, slot)) = geometry.locate_inode(ino) else {
        return Err(Corruption {
            structure: "inode",
            location: alloc::format!("{ino}"),
            reason: "there is no such inode number".into(),
        }
        .into());
    };
    Ok((ag, (block.0 << (geometry.block_log - geometry.inode_log)) + slot))
}

/// The block within the group that an inode lies in.
const fn block_of(geometry: &Geometry, agino: u32) -> AgBlock {
    AgBlock(agino >> (geometry.block_log - geometry.inode_log))
}
