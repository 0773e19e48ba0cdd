//! Chunks of inodes, and the table of what is known of each inode in use.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use super::owners::{Claim, INODES};
use super::{Result, Scan, push};
use crate::xfs::buf::Run;
use crate::xfs::geometry::INODES_PER_CHUNK;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::agi::NULL_AGINO;
use crate::xfs::ondisk::inobt::Chunk;
use crate::xfs::ondisk::inode::{InodeCore, OnDisk, View};
use crate::xfs::types::{AgBlock, AgNumber, FileType, Ino};

/// What is known of an inode in use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fact {
    /// What it is; nothing while it could not be read.
    pub(super) file_type: Option<FileType>,
    /// What the first name found says it is.
    pub(super) named_as: Option<FileType>,
    /// Links the inode says it has, and names found.
    pub(super) nlink: u32,
    pub(super) names: u32,
    /// The directory of the last name found; 0: none.
    pub(super) parent: u64,
    /// A directory's "..".
    pub(super) dotdot: u64,
    /// Tells it from others that had its number.
    pub(super) generation: u32,
    /// It is marked as one that shares blocks.
    pub(super) reflink: bool,
    /// That it is not marked was found already.
    unmarked: bool,
    /// Known to be connected to the root.
    pub(super) connected: bool,
    /// Passed on the way from some inode to the root.
    pub(super) passed: bool,
    /// It is on a list of unlinked inodes.
    pub(super) unlinked: bool,
}

/// A chunk's inodes in the table.
#[derive(Clone, Copy)]
struct Slot {
    start: u32,
    free: u64,
    first: usize,
}

/// The table of inodes in use.
#[derive(Default)]
pub(super) struct Inodes {
    groups: Vec<Vec<Slot>>,
    facts: Vec<Fact>,
    agino_log: u32,
    /// Inodes without links, or that say who follows them in a list.
    pub(super) next_unlinked: BTreeMap<u64, u32>,
}

impl Inodes {
    fn index(&self, ino: Ino) -> Option<usize> {
        let slots = self.groups.get(usize::try_from(ino.0 >> self.agino_log).ok()?)?;
        let agino = (ino.0 & ((1 << self.agino_log) - 1)) as u32;
        let slot = slots[..slots.partition_point(|s| s.start <= agino)].last()?;
        let bit = agino - slot.start;
        if bit >= INODES_PER_CHUNK || slot.free & (1 << bit) != 0 {
            return None;
        }
        let before = !slot.free & ((1u64 << bit) - 1);
        Some(slot.first + before.count_ones() as usize)
    }
    /// What is known of an inode, if it is in use.
    pub(super) fn get(&self, ino: Ino) -> Option<&Fact> {
        self.facts.get(self.index(ino)?)
    }
    /// As [`Inodes::get`], to add to it.
    pub(super) fn get_mut(&mut self, ino: Ino) -> Option<&mut Fact> {
        let index = self.index(ino)?;
        self.facts.get_mut(index)
    }
    /// Can this inode's contents be shared?
    pub(super) fn may_share(&self, ino: Ino) -> bool {
        self.get(ino).is_some_and(|f| f.file_type == Some(FileType::Regular))
    }
    /// Is this inode not marked as one that shares blocks? True once.
    pub(super) fn note_unmarked(&mut self, ino: Ino) -> bool {
        let Some(fact) = self.get_mut(ino) else { return false };
        !fact.reflink && !::core::mem::replace(&mut fact.unmarked, true)
    }
    /// All inodes in use of a group, with their numbers there.
    pub(super) fn numbers(&self, ag: AgNumber) -> Vec<u32> {
        let slots = self.groups.get(ag.0 as usize).map_or(&[][..], |g| g);
        let used = |s: &Slot| {
            let (start, free) = (s.start, s.free);
            (0..INODES_PER_CHUNK).filter(move |i| free & (1 << i) == 0).map(move |i| start + i)
        };
        slots.iter().flat_map(used).collect()
    }
}

impl Scan {
    /// Make the table of all inodes in use, of which nothing is known yet.
    pub(super) fn index_inodes(&mut self) -> Result<()> {
        let g = &self.geometry;
        self.inodes.agino_log = g.ag_block_log + g.block_log - g.inode_log;
        let mut count = 0;
        for group in &self.groups {
            let mut slots = Vec::new();
            for chunk in &group.chunks {
                push(&mut slots, Slot { start: chunk.start, free: chunk.free, first: count })?;
                count += (!chunk.free).count_ones() as usize;
            }
            push(&mut self.inodes.groups, slots)?;
        }
        let facts = &mut self.inodes.facts;
        facts.try_reserve_exact(count).map_err(|_| MountError::NoMemory)?;
        facts.resize(count, Fact::default());
        self.report.inodes = count as u64;
        Ok(())
    }
    /// Check all inodes of a group.
    pub(super) fn check_inodes(&mut self, ag: AgNumber) -> Result<()> {
        let chunks = match self.groups.get_mut(ag.0 as usize) {
            Some(group) => ::core::mem::take(&mut group.chunks),
            None => Vec::new(),
        };
        for chunk in &chunks {
            self.check_chunk(ag, chunk)?;
        }
        Ok(())
    }
    /// Check a chunk, read in as few pieces as it has holes for.
    fn check_chunk(&mut self, ag: AgNumber, chunk: &Chunk) -> Result<()> {
        let slot_log = self.geometry.block_log - self.geometry.inode_log;
        let per_block = 1u32 << slot_log;
        let holes = chunk.holes();
        let mut at = 0;
        while at < INODES_PER_CHUNK {
            let rest = holes >> at;
            if rest & 1 != 0 {
                at += rest.trailing_ones();
                continue;
            }
            let inodes = rest.trailing_zeros().min(INODES_PER_CHUNK - at);
            let first = chunk.start.saturating_add(at);
            at += inodes;
            // A hole is as good as a whole block, and a chunk may be less than one.
            let block = AgBlock(first >> slot_log);
            let count = inodes.div_ceil(per_block);
            let whole = first.is_multiple_of(per_block)
                && (inodes.is_multiple_of(per_block) || per_block > INODES_PER_CHUNK);
            let fs_block = self.geometry.fs_block(ag, block);
            if !whole || !self.geometry.has_blocks(fs_block, count.into()) {
                let reason = format!("{inodes} inodes from {first} do not exist");
                self.source.lost("inobt block", format!("AG {}", ag.0), reason);
                continue;
            }
            self.claim(ag, Claim::of(block.0, count, INODES))?;
            let sector = self.geometry.ag_sector(ag, block);
            let run = Run { sector, bytes: count << self.geometry.block_log };
            let Some(bytes) = self.source.read("inode cluster", &[run])? else { continue };
            let each = bytes.chunks_exact(self.geometry.inode_bytes()).take(inodes as usize);
            for (agino, inode) in (first..).zip(each) {
                let free = chunk.free & (1 << (agino - chunk.start)) != 0;
                self.check_inode(self.geometry.ino(ag, agino), inode, free)?;
            }
        }
        Ok(())
    }
    fn check_inode(&mut self, ino: Ino, bytes: &[u8], free: bool) -> Result<()> {
        let found = InodeCore::decode(bytes, &self.geometry, ino);
        let Some(view) = View::new(bytes) else { return Ok(()) };
        let location = || format!("{ino}");
        let core = match (found, free) {
            (Err(reason), true) => {
                self.source.found("inode", location(), format!("(not in use) {reason}"));
                return Ok(());
            }
            (Err(reason), false) => {
                self.source.lost("inode", location(), reason);
                return Ok(());
            }
            (Ok(OnDisk::Free), true) => {
                self.check_unused(ino, &view);
                return Ok(());
            }
            (Ok(OnDisk::Free), false) => {
                let reason = "the inobt says it is in use, but it is not";
                self.source.lost("inode", location(), reason);
                return Ok(());
            }
            (Ok(OnDisk::Used(_)), true) => {
                let reason = "it is in use, but the inobt says it is not";
                self.source.lost("inode", location(), reason);
                return Ok(());
            }
            (Ok(OnDisk::Used(core)), false) => core,
        };
        self.source.note_lsn(Some(view.lsn()));
        if core.nlink == 0 || core.next_unlinked != NULL_AGINO {
            self.inodes.next_unlinked.insert(ino.0, core.next_unlinked);
        }
        if core.nlink > 0 && core.next_unlinked != NULL_AGINO {
            let reason = format!("it has links, but is followed by {:#x}", core.next_unlinked);
            self.source.found("inode", location(), reason);
        }
        if let Some(fact) = self.inodes.get_mut(ino) {
            fact.file_type = Some(core.file_type);
            fact.nlink = core.nlink;
            fact.generation = core.generation;
            fact.reflink = core.flags2.contains(crate::xfs::ondisk::inode::Flags2::REFLINK);
        }
        self.check_used(ino, &core, &view, bytes)
    }
}
