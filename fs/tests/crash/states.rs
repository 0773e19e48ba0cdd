//! The states a power cut can leave a device in.
//!
//! What was written before the last flush is there. Of what was written since, anything may
//! be there or not, sector by sector, in any order: as far as sectors go, orders of writes
//! differ only in which of them is the last to reach a sector. Sectors are those of the device,
//! of which none is torn; places and hashes count 512 bytes each.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_fs::block::{MemDisk, MemDiskConfig, Sector};

use super::model::SECTOR;
use super::workload::Random;

/// A write that may be lost.
struct Write {
    sector: u64,
    data: Arc<Vec<u8>>,
    /// What each of its sectors changes in the hash of the device.
    changes: Vec<u64>,
    durable: bool,
}

/// What lies on the device for sure, and what may lie there.
pub struct Device {
    base: Arc<Vec<u8>>,
    /// Bytes of its sectors.
    unit: usize,
    /// The exclusive or of all sectors' hashes.
    hash: u64,
    unflushed: Vec<Write>,
}

/// One state: sectors written since the last flush, each with what it changes in the hash.
pub struct State<'d> {
    pub hash: u64,
    sectors: BTreeMap<u64, (&'d [u8], u64)>,
    pub torn: bool,
    pub lost: bool,
}

/// Which of the states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// All writes arrived.
    Everything,
    /// None did that was not flushed.
    Nothing,
    /// Some did, whole.
    Some,
    /// Some did, some of them torn.
    Torn,
}

fn sector_hash(sector: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    let words = bytes.chunks_exact(8).filter_map(|c| c.first_chunk());
    words.fold(sector.wrapping_mul(FACTOR) ^ FACTOR, |hash, word| {
        (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR)
    })
}

impl Device {
    pub fn new(base: &Arc<Vec<u8>>, unit: usize) -> Self {
        // A copy of its own, which is changed in place.
        let base = Arc::new(Vec::clone(base));
        Self { base, unit, hash: 0, unflushed: Vec::new() }
    }
    fn sector(&self, n: u64) -> &[u8] {
        &self.base[n as usize * SECTOR..(n as usize + 1) * SECTOR]
    }
    /// A write, which a power cut may undo.
    pub fn write(&mut self, sector: u64, data: &Arc<Vec<u8>>) {
        let at = sector as usize * SECTOR;
        assert!(
            at.is_multiple_of(self.unit) && data.len().is_multiple_of(self.unit),
            "half a sector"
        );
        let pieces = (sector..).zip(data.chunks_exact(SECTOR));
        let change = |(n, bytes)| sector_hash(n, self.sector(n)) ^ sector_hash(n, bytes);
        let changes = pieces.map(change).collect();
        self.unflushed.push(Write { sector, data: data.clone(), changes, durable: false });
    }
    /// The last write is durable.
    pub fn settle(&mut self) {
        if let Some(last) = self.unflushed.last_mut() {
            last.durable = true;
        }
    }
    /// Everything written is durable.
    pub fn flush(&mut self) {
        let writes = std::mem::take(&mut self.unflushed);
        // A hash is changed by the last write to a sector only.
        let last: BTreeMap<u64, u64> =
            writes.iter().flat_map(|w| (w.sector..).zip(w.changes.iter().copied())).collect();
        self.hash = last.values().fold(self.hash, |hash, change| hash ^ change);
        for write in &writes {
            let at = write.sector as usize * SECTOR;
            let base = Arc::make_mut(&mut self.base);
            base[at..at + write.data.len()].copy_from_slice(&write.data);
        }
    }
    /// A state as the seed says.
    pub fn state(&self, choice: Choice, random: &mut Random) -> State<'_> {
        let mut sectors = BTreeMap::new();
        let (mut torn, mut lost) = (false, false);
        // How much arrives differs from state to state.
        let arrives = [10, 50, 90][random.below(3)];
        for write in &self.unflushed {
            let whole = match choice {
                _ if write.durable => true,
                Choice::Everything => true,
                Choice::Nothing => false,
                Choice::Some | Choice::Torn => random.chance(arrives),
            };
            let pieces = write.data.chunks_exact(SECTOR).zip(write.changes.iter().copied());
            let pieces = (write.sector..).zip(pieces);
            if whole {
                sectors.extend(pieces);
                continue;
            }
            lost = true;
            if choice == Choice::Torn && write.data.len() > self.unit && random.chance(60) {
                torn = true;
                let count = write.data.len() / self.unit;
                // Either it stopped somewhere, or its sectors are anywhere.
                let stop = random.chance(50).then(|| random.below(count));
                let arrived: Vec<bool> = (0..count)
                    .map(|i| stop.map_or_else(|| random.chance(50), |stop| i < stop))
                    .collect();
                let of = |i: usize| arrived[i * SECTOR / self.unit];
                sectors.extend(pieces.enumerate().filter(|(i, _)| of(*i)).map(|(_, p)| p));
            }
        }
        let hash = sectors.values().fold(self.hash, |hash, (_, change)| hash ^ change);
        State { hash, sectors, torn, lost }
    }
    /// A disk in this state. Writes to it stay its own.
    pub fn disk(&self, state: &State<'_>) -> Arc<MemDisk> {
        let capacity_sectors = (self.base.len() / SECTOR) as u64;
        let logical_block_bytes = self.unit as u32;
        let config =
            MemDiskConfig { capacity_sectors, logical_block_bytes, ..MemDiskConfig::default() };
        let disk = MemDisk::over(self.base.clone(), config);
        for (&n, (bytes, _)) in &state.sectors {
            disk.poke(Sector(n), bytes);
        }
        disk
    }
}
