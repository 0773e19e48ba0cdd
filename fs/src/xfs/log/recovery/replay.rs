//! The second pass: replay, in memory.
//!
//! Within a transaction the order is: buffers and new inodes; inodes; the links of
//! unlinked lists, which live in the inodes' clusters; cancelled buffers. So an inode
//! always finds its cluster initialised.
//!
//! What lies on disk may be newer than what is replayed: it says so by its position in
//! the log. That is the position of the record in which the transaction that changed it
//! starts, and several transactions may share it. So a buffer's position is put in only
//! when the log has gone past it; until then it is compared with what it was before.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use super::area::zeroed;
use super::disk::WriteBack;
use super::fragments::groups;
use super::items::{Decoded, INODE_LSN_AT, LoggedInode, create_cluster_blocks, decode, is_inode};
use super::survey::Cancelled;
use super::transactions::{Transaction, corrupt};
use crate::block::{SECTOR_SIZE, Sector};
use crate::error::Corruption;
use crate::xfs::geometry::Geometry;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::block::{self, BlockKind};
use crate::xfs::ondisk::inode::{self, CRC_OFFSET};
use crate::xfs::ondisk::log_items::{BufFormat, BufKind, IcreateFormat};
use crate::xfs::ondisk::log_record::Lsn;
use crate::xfs::ondisk::{Check, Reason, agf, agfl, agi, be32, be64};
use crate::xfs::ondisk::{checksum, ensure, stamp_checksum, superblock};
use crate::xfs::types::{AgBlock, AgNumber};

/// No position in the log: what says this was written past it.
const NULL_LSN: u64 = u64::MAX;
/// Where an inode's link to the next unlinked one lies.
const NEXT_UNLINKED_AT: usize = 96;
/// Sectors of the largest buffer.
const MAX_SECTORS: u64 = 128;

/// What replay did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) buffers: u64,
    pub(super) inodes: u64,
    pub(super) newer: u64,
    pub(super) cancelled: u64,
}

/// A buffer that transactions of the current position change.
pub(super) struct Active {
    pub(super) bytes: Vec<u8>,
    /// What it is to be written as; nothing: inodes, which carry all they need.
    pub(super) kind: Option<BufKind>,
    /// The position on disk, if it counts.
    newest: Option<u64>,
    /// A power cut left only parts of its last write.
    torn: bool,
    pub(super) changed: bool,
}

/// A place on the device: sector and sectors.
pub(super) type Place = (u64, u64);

/// The state of replay.
pub(super) struct Replay<'a> {
    disk: WriteBack<'a>,
    geometry: &'a Geometry,
    cancelled: Cancelled,
    /// Most bytes held before they are written.
    limit_bytes: u64,
    position: Lsn,
    active: BTreeMap<Place, Active>,
    /// Directory blocks in several places.
    scattered: BTreeMap<Vec<Place>, Active>,
    /// Blocks that were torn, and what they have to be in the end. Before all changes since
    /// their last whole write are replayed, older and newer parts stand side by side.
    torn: BTreeMap<Vec<Place>, &'static [BlockKind]>,
    /// Headers of groups that were changed.
    headers: BTreeMap<Place, BlockKind>,
    done: Done,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        disk: WriteBack<'a>,
        geometry: &'a Geometry,
        cancelled: Cancelled,
        limit_bytes: u64,
    ) -> Self {
        Self {
            disk,
            geometry,
            cancelled,
            limit_bytes,
            position: Lsn(0),
            active: BTreeMap::new(),
            scattered: BTreeMap::new(),
            torn: BTreeMap::new(),
            headers: BTreeMap::new(),
            done: Done::default(),
        }
    }
    /// Replay a committed transaction.
    pub(super) fn transaction(&mut self, transaction: &Transaction) -> Result<(), MountError> {
        if transaction.lsn != self.position {
            self.retire_all()?;
            self.position = transaction.lsn;
            if self.disk.held_bytes() > self.limit_bytes {
                self.disk.write_all()?;
            }
        }
        let at = transaction.committed;
        let items = transaction.items().map_err(|reason| corrupt(at, reason))?;
        let decoded = items
            .into_iter()
            .map(|item| decode(transaction, item, self.geometry))
            .collect::<Check<Vec<_>>>()
            .map_err(|reason| corrupt(at, reason))?;
        self.prefetch(&decoded)?;
        let groups = groups(&decoded, self.geometry).map_err(|reason| corrupt(at, reason))?;
        let mut parts = groups.iter().flatten().copied().collect::<Vec<_>>();
        parts.sort_unstable();
        for group in &groups {
            self.directory_block(&decoded, group)?;
        }
        for step in [Step::Buffers, Step::Inodes, Step::Links, Step::Cancels] {
            for (i, item) in decoded.iter().enumerate() {
                if parts.binary_search(&i).is_err() {
                    self.item(step, item, at)?;
                }
            }
        }
        Ok(())
    }
    /// All transactions are replayed: what the disk will hold.
    pub(super) fn finish(mut self) -> Result<(WriteBack<'a>, Done), MountError> {
        self.retire_all()?;
        self.check_torn()?;
        self.check_headers()?;
        Ok((self.disk, self.done))
    }
    fn prefetch(&mut self, items: &[Decoded<'_>]) -> Result<(), MountError> {
        let mut places: Vec<Place> = items
            .iter()
            .filter_map(|item| match item {
                Decoded::Buffer(format, pieces) if !pieces.is_empty() => Some(place(format)),
                Decoded::Inode(inode) => Some((inode.format.daddr, u64::from(inode.format.blocks))),
                _ => None,
            })
            .filter(|place| !self.cancelled.has(*place))
            .collect();
        Ok(self.disk.prefetch(&mut places)?)
    }
    fn item(&mut self, step: Step, item: &Decoded<'_>, at: Lsn) -> Result<(), MountError> {
        match item {
            Decoded::Buffer(format, pieces) if Step::of(format) == step => {
                self.buffer(format, pieces, at)
            }
            Decoded::Icreate(new) if step == Step::Buffers => self.new_inodes(new),
            Decoded::Inode(inode) if step == Step::Inodes => self.inode(inode, at),
            _ => Ok(()),
        }
    }
    fn buffer(
        &mut self,
        format: &BufFormat,
        pieces: &[(usize, &[u8])],
        at: Lsn,
    ) -> Result<(), MountError> {
        let place = place(format);
        if format.flags & BufFormat::CANCEL != 0 {
            self.cancelled.passed(place);
            return Ok(());
        }
        if self.cancelled.has(place) {
            self.done.cancelled += 1;
            return Ok(());
        }
        let position = self.position.0;
        let inode_bytes = self.geometry.inode_bytes();
        let active = self.activate(place)?;
        if format.flags & BufFormat::INODE_BUF != 0 {
            active.changed = true;
            links(&mut active.bytes, pieces, inode_bytes)
                .map_err(|reason| corrupt(at, format!("{reason} at daddr {:#x}", place.0)))?;
            self.done.buffers += 1;
            return Ok(());
        }
        if active.newest.is_some_and(|newest| newest >= position) {
            self.done.newer += 1;
            return Ok(());
        }
        for (at, bytes) in pieces {
            active.bytes[*at..*at + bytes.len()].copy_from_slice(bytes);
        }
        active.changed = true;
        active.kind = (format.kind != BufKind::Inodes).then_some(format.kind);
        self.done.buffers += 1;
        Ok(())
    }
    /// Replay the parts of a directory block that lies in several places.
    fn directory_block(
        &mut self,
        items: &[Decoded<'_>],
        group: &[usize],
    ) -> Result<(), MountError> {
        let parts = || {
            group.iter().filter_map(|i| match &items[*i] {
                Decoded::Buffer(format, pieces) => Some((format, pieces)),
                _ => None,
            })
        };
        let runs: Vec<Place> = parts().map(|(format, _)| place(format)).collect();
        if runs.iter().any(|run| self.cancelled.has(*run)) {
            self.done.cancelled += 1;
            return Ok(());
        }
        if !self.scattered.contains_key(&runs) {
            let mut bytes = Vec::new();
            for run in &runs {
                self.retire_overlapping(*run)?;
                let start = bytes.len();
                let length = (run.1 * SECTOR_SIZE) as usize;
                bytes.try_reserve(length).map_err(|_| MountError::NoMemory)?;
                bytes.resize(start + length, 0);
                self.disk.read(run.0, &mut bytes[start..])?;
            }
            let newest = position_of(&bytes, self.geometry);
            let torn = is_torn(&bytes);
            let active = Active { bytes, kind: None, newest, torn, changed: false };
            self.scattered.insert(runs.clone(), active);
        }
        let Some(active) = self.scattered.get_mut(&runs) else { return Ok(()) };
        if active.newest.is_some_and(|newest| newest >= self.position.0) {
            self.done.newer += 1;
            return Ok(());
        }
        let mut start = 0;
        for (format, pieces) in parts() {
            for (at, bytes) in pieces {
                active.bytes[start + *at..start + *at + bytes.len()].copy_from_slice(bytes);
            }
            start += usize::from(format.blocks) * SECTOR_SIZE as usize;
            active.kind = Some(format.kind);
        }
        active.changed = true;
        self.done.buffers += 1;
        Ok(())
    }
    fn inode(&mut self, logged: &LoggedInode<'_>, at: Lsn) -> Result<(), MountError> {
        let format = &logged.format;
        let place = (format.daddr, u64::from(format.blocks));
        if self.cancelled.has(place) {
            self.done.cancelled += 1;
            return Ok(());
        }
        let (position, geometry) = (self.position.0, self.geometry);
        let active = self.activate(place)?;
        let start = format.offset as usize;
        let Some(bytes) = active.bytes.get_mut(start..start + geometry.inode_bytes()) else {
            return Err(corrupt(at, format!("INODE {} outside its cluster", format.ino.0)));
        };
        if !is_inode(bytes) {
            let reason = format!("INODE {}: there are no inodes at its place", format.ino.0);
            return Err(corrupt(at, reason));
        }
        let newest = be64(bytes, INODE_LSN_AT).unwrap_or(0);
        if newest != NULL_LSN && newest > position && checksum_fits(bytes, CRC_OFFSET) {
            self.done.newer += 1;
            return Ok(());
        }
        logged
            .build(bytes, position, geometry)
            .map_err(|reason| corrupt(at, format!("INODE {}: {reason}", format.ino.0)))?;
        let bytes = bytes.to_vec();
        active.changed = true;
        self.done.inodes += 1;
        self.change_owners(logged, &bytes, at)
    }
    pub(super) const fn geometry(&self) -> &'a Geometry {
        self.geometry
    }
    /// The buffer at a place, unless it is freed further on in the log.
    pub(super) fn unless_freed(&mut self, place: Place) -> Result<Option<&mut Active>, MountError> {
        if self.cancelled.has(place) { Ok(None) } else { self.activate(place).map(Some) }
    }
    /// Initialise new inodes. If part of their space was freed again, all of it was.
    fn new_inodes(&mut self, new: &IcreateFormat) -> Result<(), MountError> {
        let geometry = self.geometry;
        let blocks = create_cluster_blocks(geometry).min(new.length);
        let (ag, sectors) = (AgNumber(new.ag), u64::from(blocks) << (geometry.block_log - 9));
        let places: Vec<(u32, Place)> = (new.block..new.block + new.length)
            .step_by(blocks as usize)
            .map(|block| (block, (geometry.ag_sector(ag, AgBlock(block)).0, sectors)))
            .collect();
        if places.iter().any(|(_, place)| self.cancelled.has(*place)) {
            self.done.cancelled += 1;
            return Ok(());
        }
        for (block, place) in places {
            let mut bytes = zeroed((sectors * SECTOR_SIZE) as usize)?;
            let first = block << (geometry.block_log - geometry.inode_log);
            for (number, inode) in (first..).zip(bytes.chunks_exact_mut(geometry.inode_bytes())) {
                let ino = geometry.ino(ag, number).0;
                inode[0..2].copy_from_slice(&inode::MAGIC.to_be_bytes());
                inode[4] = 3;
                inode[92..96].copy_from_slice(&new.generation.to_be_bytes());
                inode[NEXT_UNLINKED_AT..NEXT_UNLINKED_AT + 4].fill(0xff);
                inode[152..160].copy_from_slice(&ino.to_be_bytes());
                inode[160..176].copy_from_slice(geometry.meta_uuid.as_bytes());
                stamp_checksum(inode, CRC_OFFSET);
            }
            self.retire_overlapping(place)?;
            let active = Active { bytes, kind: None, newest: None, torn: false, changed: true };
            self.active.insert(place, active);
            self.done.buffers += 1;
        }
        Ok(())
    }
    /// The buffer at a place, read if need be.
    fn activate(&mut self, place: Place) -> Result<&mut Active, MountError> {
        if !self.active.contains_key(&place) {
            self.retire_overlapping(place)?;
            let mut bytes = zeroed((place.1 * SECTOR_SIZE) as usize)?;
            self.disk.read(place.0, &mut bytes)?;
            let newest = position_of(&bytes, self.geometry);
            let torn = is_torn(&bytes);
            let active = Active { bytes, kind: None, newest, torn, changed: false };
            self.active.insert(place, active);
        }
        self.active.get_mut(&place).ok_or(MountError::NoMemory)
    }
    /// Space can be used as buffers of one size and then of another.
    fn retire_overlapping(&mut self, place: Place) -> Result<(), MountError> {
        let from = (place.0.saturating_sub(MAX_SECTORS), 0);
        let overlapping: Vec<Place> = self
            .active
            .range(from..(place.0 + place.1, 0))
            .map(|(other, _)| *other)
            .filter(|other| other.0 + other.1 > place.0)
            .collect();
        for place in overlapping {
            if let Some(active) = self.active.remove(&place) {
                self.retire(&[place], active)?;
            }
        }
        let overlaps = |run: &Place| run.0 < place.0 + place.1 && run.0 + run.1 > place.0;
        let scattered: Vec<Vec<Place>> =
            self.scattered.keys().filter(|runs| runs.iter().any(overlaps)).cloned().collect();
        for runs in scattered {
            if let Some(active) = self.scattered.remove(&runs) {
                self.retire(&runs, active)?;
            }
        }
        Ok(())
    }
    fn retire_all(&mut self) -> Result<(), MountError> {
        core::mem::take(&mut self.active)
            .into_iter()
            .try_for_each(|(place, active)| self.retire(&[place], active))?;
        core::mem::take(&mut self.scattered)
            .into_iter()
            .try_for_each(|(runs, active)| self.retire(&runs, active))
    }
    /// Make a buffer ready for the disk: position, checksum, a last check.
    fn retire(&mut self, runs: &[Place], mut active: Active) -> Result<(), MountError> {
        if !active.changed {
            return Ok(());
        }
        if let Some(kind) = active.kind {
            let kinds = kinds_of(kind);
            if let Some(found) = identify(&active.bytes).filter(|k| kinds.contains(k)) {
                stamp(&mut active.bytes, found, self.position, self.geometry);
            }
            if active.torn || self.torn.contains_key(runs) {
                self.torn.insert(runs.to_vec(), kinds);
            } else if let Some(first) = runs.first() {
                self.check(*first, kinds, &active.bytes)?;
            }
        }
        let mut rest = &active.bytes[..];
        for (sector, count) in runs {
            let (part, behind) = rest.split_at((count * SECTOR_SIZE) as usize);
            self.disk.write(*sector, part)?;
            rest = behind;
        }
        Ok(())
    }
    /// Are blocks that were torn whole now?
    fn check_torn(&mut self) -> Result<(), MountError> {
        for (runs, kinds) in core::mem::take(&mut self.torn) {
            let mut bytes = zeroed(runs.iter().map(|run| (run.1 * SECTOR_SIZE) as usize).sum())?;
            let mut rest = &mut bytes[..];
            for (sector, count) in &runs {
                let (part, behind) = rest.split_at_mut((count * SECTOR_SIZE) as usize);
                self.disk.read(*sector, part)?;
                rest = behind;
            }
            if let Some(first) = runs.first() {
                self.check(*first, kinds, &bytes)?;
            }
        }
        Ok(())
    }
    /// Would what is written be accepted when it is read?
    fn check(&mut self, place: Place, kinds: &[BlockKind], bytes: &[u8]) -> Result<(), MountError> {
        let (geometry, sector) = (self.geometry, Sector(place.0));
        if kinds.contains(&BlockKind::AttrRemote) {
            for (i, part) in bytes.chunks_exact(geometry.block_bytes()).enumerate() {
                let at = place.0 + i as u64 * geometry.sectors_per_block();
                block::verify(kinds, geometry, Sector(at), part).map_err(MountError::Corrupt)?;
            }
            return Ok(());
        }
        let kind = block::verify(kinds, geometry, sector, bytes).map_err(MountError::Corrupt)?;
        let index = match kind {
            BlockKind::Superblock => 0,
            BlockKind::Agf => 1,
            BlockKind::Agi => 2,
            BlockKind::Agfl => 3,
            _ => return Ok(()),
        };
        let unit = geometry.sector_bytes() as u64 / SECTOR_SIZE;
        let (ag, _) = geometry.split(geometry.block_at(sector));
        let right = (geometry.ag_sector(ag, AgBlock(0)).0 + index * unit, unit);
        if place != right {
            let reason = "that is not the place for it".into();
            return Err(replayed_wrong(kind, geometry, place, reason));
        }
        self.headers.insert(place, kind);
        Ok(())
    }
    /// Headers of groups can be checked only against the shape that the file system has
    /// in the end.
    fn check_headers(&mut self) -> Result<(), MountError> {
        let geometry = self.geometry;
        for (place, kind) in core::mem::take(&mut self.headers) {
            let mut bytes = zeroed((place.1 * SECTOR_SIZE) as usize)?;
            self.disk.read(place.0, &mut bytes)?;
            let (ag, _) = geometry.split(geometry.block_at(Sector(place.0)));
            let fits = match kind {
                BlockKind::Superblock => superblock::Superblock::decode(&bytes).map(|_| ()),
                BlockKind::Agf => agf::Agf::decode_but_list(&bytes, geometry, ag).map(|_| ()),
                BlockKind::Agi => agi::Agi::decode(&bytes, geometry, ag).map(|_| ()),
                _ => agfl_fits(&bytes, ag),
            };
            fits.map_err(|reason| replayed_wrong(kind, geometry, place, reason))?;
        }
        Ok(())
    }
}

fn replayed_wrong(kind: BlockKind, geometry: &Geometry, at: Place, reason: Reason) -> MountError {
    MountError::Corrupt(Corruption {
        structure: kind.name(),
        location: geometry.place(Sector(at.0)),
        reason: format!("as replayed from the log: {reason}"),
    })
}

fn agfl_fits(bytes: &[u8], ag: AgNumber) -> Check {
    let Some(view) = agfl::View::new(bytes) else { return Err("too short".into()) };
    ensure!(view.ag_number() == ag.0, "it says it is of AG {}", view.ag_number());
    Ok(())
}

/// What a block looks like.
fn identify(bytes: &[u8]) -> Option<BlockKind> {
    match be32(bytes, 0) {
        Some(superblock::MAGIC) => Some(BlockKind::Superblock),
        _ => BlockKind::identify(bytes),
    }
}

/// The steps of a transaction's replay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Buffers,
    Inodes,
    Links,
    Cancels,
}

impl Step {
    const fn of(format: &BufFormat) -> Self {
        if format.flags & BufFormat::CANCEL != 0 {
            Self::Cancels
        } else if format.flags & BufFormat::INODE_BUF != 0 {
            Self::Links
        } else {
            Self::Buffers
        }
    }
}

const fn place(format: &BufFormat) -> Place {
    (format.daddr, format.blocks as u64)
}

/// Of a cluster of inodes take up only the links of unlinked lists.
fn links(cluster: &mut [u8], pieces: &[(usize, &[u8])], inode_bytes: usize) -> Check {
    for (start, piece) in pieces {
        for (i, inode) in cluster.chunks_exact_mut(inode_bytes).enumerate() {
            let at = i * inode_bytes + NEXT_UNLINKED_AT;
            let Some(link) = at.checked_sub(*start).and_then(|at| piece.get(at..at + 4)) else {
                continue;
            };
            ensure!(link != [0; 4], "a link to inode 0 in an unlinked list, inode {i}");
            ensure!(is_inode(inode), "a link of an unlinked list where no inode is, inode {i}");
            inode[NEXT_UNLINKED_AT..NEXT_UNLINKED_AT + 4].copy_from_slice(link);
            stamp_checksum(inode, CRC_OFFSET);
        }
    }
    Ok(())
}

/// Is what lies in these bytes whole?
fn checksum_fits(bytes: &[u8], crc_at: usize) -> bool {
    let stored = bytes.get(crc_at..).and_then(|b| b.first_chunk());
    stored.is_some_and(|stored| checksum(bytes, crc_at) == u32::from_le_bytes(*stored))
}

/// Is this a block of which only parts are there?
fn is_torn(bytes: &[u8]) -> bool {
    let crc_at = identify(bytes).filter(|k| *k != BlockKind::AttrRemote).map(|k| k.crc_offset());
    crc_at.flatten().is_some_and(|at| !checksum_fits(bytes, at))
}

/// The position in the log that a block on disk has, if it is one of ours, has any, and
/// is whole.
fn position_of(bytes: &[u8], geometry: &Geometry) -> Option<u64> {
    let kind = identify(bytes)?;
    if kind == BlockKind::AttrRemote {
        return None;
    }
    let uuid = kind.uuid(bytes)?;
    let ours = uuid == geometry.meta_uuid.as_bytes()
        || (kind == BlockKind::Superblock && uuid == geometry.uuid.as_bytes());
    let position = be64(bytes, kind.lsn_offset()?)?;
    // A block of which a power cut left only parts is not as new as it says. What its last
    // write changed is all in the log then, because that write has not ended.
    let intact = kind.crc_offset().is_some_and(|at| checksum_fits(bytes, at));
    (ours && intact && position != 0 && position != NULL_LSN).then_some(position)
}

/// Put position and checksum into a block.
fn stamp(bytes: &mut [u8], kind: BlockKind, position: Lsn, geometry: &Geometry) {
    let (Some(lsn_at), Some(crc_at)) = (kind.lsn_offset(), kind.crc_offset()) else { return };
    // Values of attributes are written past the log, block by block.
    let (unit, position) = if kind == BlockKind::AttrRemote {
        (geometry.block_bytes(), NULL_LSN)
    } else {
        (bytes.len(), position.0)
    };
    for part in bytes.chunks_exact_mut(unit) {
        part[lsn_at..lsn_at + 8].copy_from_slice(&position.to_be_bytes());
        stamp_checksum(part, crc_at);
    }
}

/// What a buffer of a kind can be.
const fn kinds_of(kind: BufKind) -> &'static [BlockKind] {
    match kind {
        BufKind::Btree => &[
            BlockKind::Bnobt,
            BlockKind::Cntbt,
            BlockKind::Inobt,
            BlockKind::Finobt,
            BlockKind::Rmapbt,
            BlockKind::Refcountbt,
            BlockKind::Bmbt,
        ],
        BufKind::Agf => &[BlockKind::Agf],
        BufKind::Agfl => &[BlockKind::Agfl],
        BufKind::Agi => &[BlockKind::Agi],
        BufKind::Symlink => &[BlockKind::Symlink],
        BufKind::DirBlock => &[BlockKind::DirBlock],
        BufKind::DirData => &[BlockKind::DirData],
        BufKind::DirFree => &[BlockKind::DirFree],
        BufKind::DirLeaf1 => &[BlockKind::DirLeaf1],
        BufKind::DirLeafN => &[BlockKind::DirLeafN],
        BufKind::DaNode => &[BlockKind::DaNode],
        BufKind::AttrLeaf => &[BlockKind::AttrLeaf],
        BufKind::AttrRemote => &[BlockKind::AttrRemote],
        BufKind::Superblock => &[BlockKind::Superblock],
        BufKind::Unknown
        | BufKind::Inodes
        | BufKind::UserQuota
        | BufKind::ProjectQuota
        | BufKind::GroupQuota
        | BufKind::RtBitmap
        | BufKind::RtSummary => &[],
    }
}
