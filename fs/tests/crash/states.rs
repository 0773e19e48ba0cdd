//! The states a power cut can leave a device in.
//!
//! What was written before the last flush is there. Of what was written since, anything may
//! be there or not, sector by sector, in any order: as far as sectors go, orders of writes
//! differ only in which of them is the last to reach a sector.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_fs::block::{MemDisk, MemDiskConfig, Sector};

use super::model::SECTOR;
use super::workload::Random;

/// A write that may be lost.
#[derive(Clone)]
pub struct Write {
    pub sector: u64,
    pub data: Arc<Vec<u8>>,
    pub durable: bool,
}

/// What lies on the device for sure, and what may lie there.
#[derive(Clone)]
pub struct Device {
    base: Arc<Vec<u8>>,
    /// The exclusive or of all sectors' hashes.
    hash: u64,
    pub unflushed: Vec<Write>,
}

/// One state: sectors that differ from the base.
pub struct State {
    pub hash: u64,
    pub sectors: BTreeMap<u64, Vec<u8>>,
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
    pub fn new(base: &Arc<Vec<u8>>) -> Self {
        // A copy of its own, which is changed in place.
        let base = Arc::new(Vec::clone(base));
        Self { base, hash: 0, unflushed: Vec::new() }
    }
    fn sector(&self, n: u64) -> &[u8] {
        &self.base[n as usize * SECTOR..(n as usize + 1) * SECTOR]
    }
    /// Everything written is durable.
    pub fn flush(&mut self) {
        let writes = std::mem::take(&mut self.unflushed);
        for write in &writes {
            for (n, bytes) in (write.sector..).zip(write.data.chunks_exact(SECTOR)) {
                let old = sector_hash(n, self.sector(n));
                self.hash ^= old ^ sector_hash(n, bytes);
                let at = n as usize * SECTOR;
                Arc::make_mut(&mut self.base)[at..at + SECTOR].copy_from_slice(bytes);
            }
        }
    }
    /// A state as the seed says.
    pub fn state(&self, choice: Choice, random: &mut Random) -> State {
        let mut sectors: BTreeMap<u64, &[u8]> = BTreeMap::new();
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
            let pieces = (write.sector..).zip(write.data.chunks_exact(SECTOR));
            if whole {
                sectors.extend(pieces);
                continue;
            }
            lost = true;
            if choice == Choice::Torn && write.data.len() > SECTOR && random.chance(60) {
                torn = true;
                let count = write.data.len() / SECTOR;
                // Either it stopped somewhere, or its sectors are anywhere.
                let stop = random.chance(50).then(|| random.below(count));
                for (i, piece) in pieces.enumerate() {
                    if stop.map_or_else(|| random.chance(50), |stop| i < stop) {
                        sectors.insert(piece.0, piece.1);
                    }
                }
            }
        }
        let mut hash = self.hash;
        for (&n, bytes) in &sectors {
            hash ^= sector_hash(n, self.sector(n)) ^ sector_hash(n, bytes);
        }
        let sectors = sectors.into_iter().map(|(n, bytes)| (n, bytes.to_vec())).collect();
        State { hash, sectors, torn, lost }
    }
    /// A disk in this state. Writes to it stay its own.
    pub fn disk(&self, state: &State) -> Arc<MemDisk> {
        let capacity_sectors = (self.base.len() / SECTOR) as u64;
        let config = MemDiskConfig { capacity_sectors, ..MemDiskConfig::default() };
        let disk = MemDisk::over(self.base.clone(), config);
        for (&n, bytes) in &state.sectors {
            disk.poke(Sector(n), bytes);
        }
        disk
    }
}
