//! What the disk will hold once recovery is done: blocks read, changed and not yet
//! written.
//!
//! Nothing reaches the device before [`WriteBack::write_all`]. When the whole log was
//! replayed first, a log that turns out to be unusable has changed nothing.

use alloc::collections::{BTreeMap, btree_map::Entry};
use alloc::vec::Vec;

use super::area::{CHUNK_BYTES, read_error, zeroed};
use crate::block::{BioFlags, Queue, SECTOR_SIZE, Sector};
use crate::platform::Memory;
use crate::xfs::buf::ReadError;
use crate::xfs::mount::MountError;

/// Bytes kept and read together.
const UNIT_BYTES: usize = 4096;
const UNIT_SECTORS: u64 = UNIT_BYTES as u64 / SECTOR_SIZE;

struct Unit {
    bytes: Vec<u8>,
    /// A bit for each changed sector.
    dirty: u8,
}

/// Blocks of the device in memory.
pub(super) struct WriteBack<'a> {
    queue: &'a Queue,
    memory: &'a dyn Memory,
    capacity: u64,
    /// The device takes only whole units.
    whole_units: bool,
    units: BTreeMap<u64, Unit>,
    written_bytes: u64,
}

impl<'a> WriteBack<'a> {
    pub(super) fn new(queue: &'a Queue, memory: &'a dyn Memory) -> Self {
        Self {
            queue,
            memory,
            capacity: queue.capacity_sectors(),
            whole_units: u64::from(queue.info().logical_block_bytes) > SECTOR_SIZE,
            units: BTreeMap::new(),
            written_bytes: 0,
        }
    }
    /// Bytes held.
    pub(super) fn held_bytes(&self) -> u64 {
        self.units.len() as u64 * UNIT_BYTES as u64
    }
    /// Bytes written so far.
    pub(super) const fn written_bytes(&self) -> u64 {
        self.written_bytes
    }
    /// Have the units from `first` up to `end` in memory, read in as few requests as
    /// possible.
    fn load(&mut self, first: u64, end: u64) -> Result<(), ReadError> {
        let mut at = first;
        while at < end {
            if self.units.contains_key(&at) {
                at += 1;
                continue;
            }
            let most = end.min(at + (CHUNK_BYTES / UNIT_BYTES) as u64);
            let stop = self.units.range(at..most).next().map_or(most, |(known, _)| *known);
            let start = at * UNIT_SECTORS;
            let sectors = (stop * UNIT_SECTORS).min(self.capacity).saturating_sub(start);
            let mut bytes = zeroed((stop - at) as usize * UNIT_BYTES)?;
            let readable = (sectors * SECTOR_SIZE) as usize;
            self.queue
                .read_bytes(self.memory, Sector(start), &mut bytes[..readable], BioFlags::META)
                .map_err(read_error)?;
            for (i, part) in bytes.chunks_exact(UNIT_BYTES).enumerate() {
                let mut own = zeroed(UNIT_BYTES)?;
                own.copy_from_slice(part);
                self.units.insert(at + i as u64, Unit { bytes: own, dirty: 0 });
            }
            at = stop;
        }
        Ok(())
    }
    /// Read ahead what these places, sector and number of sectors, need.
    pub(super) fn prefetch(&mut self, places: &mut [(u64, u64)]) -> Result<(), ReadError> {
        places.sort_unstable();
        let mut span: Option<(u64, u64)> = None;
        for (sector, count) in places {
            let (first, end) = units(*sector, *count);
            span = match span {
                // What lies between two close ones is read along.
                Some((start, stop)) if first <= stop + 2 => Some((start, stop.max(end))),
                Some((start, stop)) => {
                    self.load(start, stop)?;
                    Some((first, end))
                }
                None => Some((first, end)),
            };
        }
        match span {
            Some((start, stop)) => self.load(start, stop),
            None => Ok(()),
        }
    }
    /// Fill `dst` from `sector` on.
    pub(super) fn read(&mut self, sector: u64, dst: &mut [u8]) -> Result<(), ReadError> {
        let (first, end) = units(sector, dst.len() as u64 / SECTOR_SIZE);
        self.load(first, end)?;
        self.each(sector, dst.len(), |unit, at, range| {
            dst[range.clone()].copy_from_slice(&unit.bytes[at..at + range.len()]);
        });
        Ok(())
    }
    /// Change what is at `sector` on.
    pub(super) fn write(&mut self, sector: u64, src: &[u8]) -> Result<(), ReadError> {
        let (first, end) = units(sector, src.len() as u64 / SECTOR_SIZE);
        for unit in first..end {
            let start = unit * UNIT_SECTORS;
            let whole = start >= sector
                && (start + UNIT_SECTORS - sector) * SECTOR_SIZE <= src.len() as u64;
            if !whole {
                self.load(unit, unit + 1)?;
            } else if let Entry::Vacant(entry) = self.units.entry(unit) {
                entry.insert(Unit { bytes: zeroed(UNIT_BYTES)?, dirty: 0 });
            }
        }
        let whole_units = self.whole_units;
        self.each(sector, src.len(), |unit, at, range| {
            unit.bytes[at..at + range.len()].copy_from_slice(&src[range.clone()]);
            let sectors = at / SECTOR_SIZE as usize..(at + range.len()) / SECTOR_SIZE as usize;
            sectors.for_each(|sector| unit.dirty |= 1 << sector);
            if whole_units {
                unit.dirty = u8::MAX;
            }
        });
        Ok(())
    }
    /// Call `f` for each unit of a place that is in memory: the unit, the byte in it, and
    /// the bytes of the place that this is.
    fn each(
        &mut self,
        sector: u64,
        bytes: usize,
        mut f: impl FnMut(&mut Unit, usize, core::ops::Range<usize>),
    ) {
        let mut done = 0;
        while done < bytes {
            let byte = sector * SECTOR_SIZE + done as u64;
            let at = (byte % UNIT_BYTES as u64) as usize;
            let len = (UNIT_BYTES - at).min(bytes - done);
            if let Some(unit) = self.units.get_mut(&(byte / UNIT_BYTES as u64)) {
                f(unit, at, done..done + len);
            }
            done += len;
        }
    }
    /// Write what was changed, neighbours together, and forget everything.
    pub(super) fn write_all(&mut self) -> Result<(), MountError> {
        let mut batch = Vec::new();
        let mut start = 0;
        for (number, unit) in core::mem::take(&mut self.units) {
            for i in (0..UNIT_SECTORS).filter(|i| unit.dirty & (1 << i) != 0) {
                let sector = number * UNIT_SECTORS + i;
                let next = start + batch.len() as u64 / SECTOR_SIZE;
                if sector != next || batch.len() >= CHUNK_BYTES {
                    self.write_batch(start, &mut batch)?;
                    start = sector;
                }
                let at = (i * SECTOR_SIZE) as usize;
                batch.extend_from_slice(&unit.bytes[at..at + SECTOR_SIZE as usize]);
            }
        }
        self.write_batch(start, &mut batch)
    }
    fn write_batch(&mut self, start: u64, batch: &mut Vec<u8>) -> Result<(), MountError> {
        if !batch.is_empty() {
            self.queue
                .write_bytes(self.memory, Sector(start), batch, BioFlags::META)
                .map_err(read_error)?;
            self.written_bytes += batch.len() as u64;
            batch.clear();
        }
        Ok(())
    }
}

/// The units of a place: the first, and the one behind the last.
const fn units(sector: u64, count: u64) -> (u64, u64) {
    (sector / UNIT_SECTORS, (sector + count).div_ceil(UNIT_SECTORS))
}
