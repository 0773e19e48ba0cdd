//! What QEMU's `blklogwrites` node wrote down, and the disks that a power cut could have
//! left of it.
//!
//! The file has the format of the kernel's dm-log-writes target (documented with it, under
//! device mapper): a header, then an entry for each request with its data behind it, each
//! in whole sectors of the log. A request stands there in the order in which it was
//! submitted. What was submitted before a flush is durable once the flush is; of what came
//! after the last flush, any sector may have arrived or not.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::pattern::Stream;
use anyhow::{Context, Result, ensure};

/// Bytes that a disk writes all or not at all.
pub const SECTOR_BYTES: usize = 512;
/// The header's first eight bytes.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLUSH: u64 = 1;
const FUA: u64 = 2;
const DISCARD: u64 = 4;
const MARK: u64 = 8;

/// One request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Everything before it is durable.
    pub flush: bool,
    /// It is durable itself.
    pub durable: bool,
    /// The first sector written.
    pub sector: u64,
    /// What was written there; nothing in a flush.
    pub data: Arc<Vec<u8>>,
}

fn word(bytes: &[u8], index: usize) -> Result<u64> {
    let piece = bytes.get(index * 8..).and_then(|rest| rest.first_chunk());
    Ok(u64::from_le_bytes(*piece.context("the log of writes ends early")?))
}

/// The requests in a log, in order.
pub fn read(path: &Path) -> Result<Vec<Entry>> {
    parse(&fs::read(path).context("cannot read the log of writes")?)
}

fn parse(log: &[u8]) -> Result<Vec<Entry>> {
    ensure!(word(log, 0)? == MAGIC && word(log, 1)? == VERSION, "this is no log of writes");
    let count = word(log, 2)?;
    let unit = (word(log, 3)? & u64::from(u32::MAX)) as usize;
    ensure!(unit.is_power_of_two() && unit >= SECTOR_BYTES, "sectors of {unit} bytes");
    let mut entries = Vec::new();
    let mut at = unit;
    for number in 0..count {
        let header = log.get(at..at + unit).with_context(|| format!("no entry {number}"))?;
        let (sector, sectors, flags) = (word(header, 0)?, word(header, 1)?, word(header, 2)?);
        ensure!(flags & !(FLUSH | FUA | DISCARD | MARK) == 0, "entry {number} has flags {flags:x}");
        at += unit;
        let mut data = Vec::new();
        if flags & DISCARD == 0 {
            let length = sectors as usize * unit;
            let bytes = log.get(at..at + length);
            data = bytes.with_context(|| format!("entry {number} is cut off"))?.to_vec();
            at += length;
        }
        entries.push(Entry {
            flush: flags & FLUSH != 0,
            durable: flags & FUA != 0,
            sector: sector * (unit / SECTOR_BYTES) as u64,
            data: Arc::new(data),
        });
    }
    Ok(entries)
}

/// A disk during a replay: what is there for sure, and what may be there.
#[derive(Clone)]
pub struct Disk {
    durable: Vec<u8>,
    /// The exclusive or of the hashes of the sectors that were written, as they were
    /// before and as they are now.
    hash: u64,
    pending: Vec<Entry>,
}

/// How much of what is pending has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrived {
    /// Nothing that need not.
    Nothing,
    /// All of it.
    Everything,
    /// Some writes, and sectors of some others.
    Some,
}

impl Disk {
    /// The disk before the first request.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { durable: bytes, hash: 0, pending: Vec::new() }
    }

    /// The next request has been submitted.
    pub fn submit(&mut self, entry: &Entry) -> Result<()> {
        if entry.flush {
            for pending in std::mem::take(&mut self.pending) {
                for (n, bytes) in (pending.sector..).zip(pending.data.chunks(SECTOR_BYTES)) {
                    self.hash ^= sector_hash(n, self.sector(n)) ^ sector_hash(n, bytes);
                    put(&mut self.durable, n, bytes);
                }
            }
        }
        if !entry.data.is_empty() {
            let end = entry.sector as usize * SECTOR_BYTES + entry.data.len();
            ensure!(end <= self.durable.len(), "a write beyond the end of the disk");
            self.pending.push(entry.clone());
        }
        Ok(())
    }

    /// What a power cut leaves.
    pub fn cut(&self, arrived: Arrived, random: &mut Stream) -> State {
        let mut sectors: BTreeMap<u64, &[u8]> = BTreeMap::new();
        let mut torn = false;
        let chance = [15, 50, 85][random.below(3) as usize];
        for entry in &self.pending {
            let whole = match arrived {
                _ if entry.durable => true,
                Arrived::Nothing => false,
                Arrived::Everything => true,
                Arrived::Some => random.below(100) < chance,
            };
            let pieces = (entry.sector..).zip(entry.data.chunks(SECTOR_BYTES));
            if whole {
                sectors.extend(pieces);
            } else if arrived == Arrived::Some && random.below(100) < 60 {
                let before = sectors.len();
                let count = (entry.data.len() / SECTOR_BYTES) as u64;
                // It stopped somewhere, or its sectors came in any order.
                let stop = (random.below(2) == 0).then(|| entry.sector + random.below(count));
                sectors.extend(pieces.filter(|(sector, _)| match stop {
                    Some(stop) => *sector < stop,
                    None => random.below(2) == 0,
                }));
                torn |= sectors.len() > before;
            }
        }
        let mut hash = self.hash;
        for (&n, bytes) in &sectors {
            hash ^= sector_hash(n, self.sector(n)) ^ sector_hash(n, bytes);
        }
        let sectors = sectors.into_iter().map(|(n, bytes)| (n, bytes.to_vec())).collect();
        State { sectors, torn, hash }
    }

    fn sector(&self, number: u64) -> &[u8] {
        let at = number as usize * SECTOR_BYTES;
        &self.durable[at..at + SECTOR_BYTES]
    }

    /// The bytes of the disk in a state.
    pub fn bytes(&self, state: &State) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (&sector, data) in &state.sectors {
            put(&mut bytes, sector, data);
        }
        bytes
    }
}

fn sector_hash(number: u64, bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let words = bytes.chunks_exact(8).filter_map(|word| word.first_chunk());
    words.fold(number.wrapping_mul(FACTOR) ^ FACTOR, |hash, word| {
        (hash.rotate_left(23) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR)
    })
}

fn put(disk: &mut [u8], sector: u64, data: &[u8]) {
    let at = sector as usize * SECTOR_BYTES;
    disk[at..at + data.len()].copy_from_slice(data);
}

/// Sectors that arrived after the last flush.
pub struct State {
    sectors: BTreeMap<u64, Vec<u8>>,
    /// Not all sectors of some write are among them.
    pub torn: bool,
    /// Differs, but for chance, where the disk's contents do.
    pub hash: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(entries: &[(u64, u64, &[u8])]) -> Vec<u8> {
        let sector = |words: &[u64]| {
            let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            bytes.resize(SECTOR_BYTES, 0);
            bytes
        };
        let mut log = sector(&[MAGIC, VERSION, entries.len() as u64, SECTOR_BYTES as u64]);
        for (at, flags, data) in entries {
            log.extend(sector(&[*at, (data.len() / SECTOR_BYTES) as u64, *flags, 0]));
            log.extend(*data);
        }
        log
    }

    #[test]
    fn a_flush_makes_durable_what_came_before_it() {
        let (one, two) = ([1; SECTOR_BYTES], [2; 2 * SECTOR_BYTES]);
        let entries = parse(&log(&[(0, 0, &one), (1, 0, &two), (0, FLUSH, &[]), (3, FUA, &one)]));
        let mut disk = Disk::new(vec![0; 4 * SECTOR_BYTES]);
        let mut firsts = Vec::new();
        for entry in entries.unwrap() {
            disk.submit(&entry).unwrap();
            let state = disk.cut(Arrived::Nothing, &mut Stream::new(1));
            firsts.push(disk.bytes(&state).chunks(SECTOR_BYTES).map(|s| s[0]).collect::<Vec<_>>());
        }
        let empty = vec![0; 4];
        assert_eq!(firsts, [empty.clone(), empty, vec![1, 2, 2, 0], vec![1, 2, 2, 1]]);
    }

    #[test]
    fn sectors_arrive_one_by_one_and_never_others() {
        let data: Vec<u8> = (1..=8).flat_map(|n| [n; SECTOR_BYTES]).collect();
        let entries = parse(&log(&[(0, 0, &data)])).unwrap();
        let mut disk = Disk::new(vec![0; 8 * SECTOR_BYTES]);
        disk.submit(&entries[0]).unwrap();
        let mut random = Stream::new(7);
        let mut torn = 0;
        for _ in 0..200 {
            let state = disk.cut(Arrived::Some, &mut random);
            let bytes = disk.bytes(&state);
            for (n, sector) in (1..).zip(bytes.chunks(SECTOR_BYTES)) {
                assert!(sector.iter().all(|b| *b == 0) || sector.iter().all(|b| *b == n));
            }
            let there = bytes.chunks(SECTOR_BYTES).filter(|s| s[0] != 0).count();
            assert!(state.torn || there == 0 || there == 8);
            torn += usize::from(state.torn);
        }
        assert!(torn > 40, "{torn}");
    }

    #[test]
    fn what_is_cut_off_or_strange_is_told() {
        let one = [1; SECTOR_BYTES];
        let good = log(&[(0, 0, &one)]);
        assert!(parse(&good[..good.len() - 1]).is_err());
        assert!(parse(&good[..600]).is_err());
        assert!(parse(&log(&[(0, 64, &one)])).is_err());
        assert!(parse(&one).is_err());
    }
}
