//! Everything that can be done to files' contents, at random, against arrays of bytes.
#![allow(dead_code)]

use std::ops::Range;

use holdfast_fs::Result;
use holdfast_fs::iomap::Change;

use super::Rng;

/// Files stay below this.
pub const LIMIT: u64 = 192 << 10;

/// Two files. Positions are below [`LIMIT`].
pub trait World {
    /// Bytes in a block.
    fn block(&self) -> u64;
    fn can_share(&self) -> bool;
    fn size(&self, f: usize) -> u64;
    fn read(&mut self, f: usize, pos: u64, len: usize) -> Result<Vec<u8>>;
    /// Every so manieth copy from the buffer stops short; 0: none.
    fn write(&mut self, f: usize, pos: u64, data: &[u8], fault_every: usize) -> Result<usize>;
    fn direct_read(&mut self, f: usize, pos: u64, len: usize) -> Result<Vec<u8>>;
    fn direct_write(&mut self, f: usize, pos: u64, data: &[u8]) -> Result<usize>;
    /// Through a mapping of the file.
    fn store(&mut self, f: usize, pos: u64, data: &[u8]);
    fn load(&mut self, f: usize, pos: u64, len: usize) -> Vec<u8>;
    fn truncate(&mut self, f: usize, size: u64) -> Result<()>;
    fn change(&mut self, f: usize, what: Change, range: Range<u64>, keep: bool) -> Result<()>;
    fn share(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<()>;
    fn dedupe(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<Option<u64>>;
    fn sync(&mut self, f: usize) -> Result<()>;
    fn drop_clean(&mut self, f: usize);
}

/// A run of random operations.
pub struct Fsx<W> {
    pub world: W,
    models: [Vec<u8>; 2],
    rng: Rng,
    /// What was done last, for the report of a failure.
    log: Vec<String>,
}

impl<W: World> Fsx<W> {
    pub fn new(world: W, seed: u64) -> Self {
        Self { world, models: Default::default(), rng: Rng(seed | 1), log: Vec::new() }
    }
    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len).map(|_| self.rng.next() as u8 | 1).collect()
    }
    fn range(&mut self) -> (u64, u64) {
        let pos = self.rng.below(LIMIT);
        let longest = if self.rng.below(6) == 0 { 60_000 } else { 6000 };
        (pos, (self.rng.below(longest) + 1).min(LIMIT - pos))
    }
    fn within(&mut self, f: usize) -> Option<(u64, u64)> {
        let size = self.models[f].len() as u64;
        let (pos, len) = self.range();
        (size > 0).then(|| (pos % size, len.min(size - pos % size)))
    }
    fn put(&mut self, f: usize, pos: u64, data: &[u8]) {
        let (pos, end) = (pos as usize, pos as usize + data.len());
        let model = &mut self.models[f];
        if model.len() < end {
            model.resize(end, 0);
        }
        model[pos..end].copy_from_slice(data);
    }
    fn grow(&mut self, f: usize, size: u64) {
        let model = &mut self.models[f];
        model.resize(model.len().max(size as usize), 0);
    }
    pub fn step(&mut self) {
        let f = self.rng.below(2) as usize;
        let block = self.world.block();
        let operation = self.rng.below(34);
        let (pos, len) = self.range();
        self.log.push(format!("{operation}: file {f} {pos}+{len} of {}", self.models[f].len()));
        match operation {
            0..6 => {
                let data = self.bytes(len);
                let fault_every = [0, 2, 3, 5][self.rng.below(4) as usize];
                assert_eq!(self.world.write(f, pos, &data, fault_every), Ok(len as usize));
                self.put(f, pos, &data);
            }
            6..9 => {
                // At the end: what appends do.
                let pos = self.models[f].len() as u64;
                let data = self.bytes(len.min(LIMIT - pos));
                if !data.is_empty() {
                    assert_eq!(self.world.write(f, pos, &data, 0), Ok(data.len()));
                    self.put(f, pos, &data);
                }
            }
            9..13 => {
                let Some((pos, len)) = self.within(f) else { return };
                let data = self.bytes(len.min(5000));
                self.world.store(f, pos, &data);
                self.put(f, pos, &data);
            }
            13..15 => {
                let Some((pos, len)) = self.within(f) else { return };
                let got = self.world.load(f, pos, len as usize);
                self.same(f, pos, &got, "loaded");
            }
            15..18 => self.check(f, pos, len),
            18..20 => {
                let (pos, len) = (pos & !511, len.next_multiple_of(512).min(LIMIT - (pos & !511)));
                let data = self.bytes(len);
                assert_eq!(self.world.direct_write(f, pos, &data), Ok(len as usize));
                self.put(f, pos, &data);
            }
            20 => {
                let (pos, len) = (pos & !511, len.next_multiple_of(512));
                let got = self.world.direct_read(f, pos, len as usize).unwrap();
                let end = (pos + len).min(self.models[f].len() as u64);
                assert_eq!(got.len() as u64, end.saturating_sub(pos));
                self.same(f, pos, &got, "read directly");
            }
            21 => self.truncate(f, pos),
            22 => {
                // A little, around the end.
                let size = self.models[f].len() as u64;
                self.truncate(f, (size + len % 3000).saturating_sub(1500).min(LIMIT));
            }
            23..30 => self.change(f, operation, pos, len, block),
            30 => self.share(f, pos, len, block),
            31 => self.world.sync(f).unwrap(),
            32 => self.world.drop_clean(f),
            _ => {
                self.log.pop();
                self.junk_beyond_eof(f);
            }
        }
    }
    fn truncate(&mut self, f: usize, size: u64) {
        self.log.push(format!("truncate to {size}"));
        self.world.truncate(f, size).unwrap();
        self.models[f].resize(size as usize, 0);
    }
    fn change(&mut self, f: usize, operation: u64, pos: u64, len: u64, block: u64) {
        let size = self.models[f].len() as u64;
        let (what, keep) = match operation {
            23 => (Change::Preallocate, len.is_multiple_of(2)),
            24 | 25 => (Change::Punch, true),
            26 => (Change::Zero, len.is_multiple_of(2)),
            27 => (Change::Collapse, false),
            28 => (Change::Insert, false),
            _ => (Change::Unshare, false),
        };
        self.log.push(format!("{what:?} {keep}"));
        let moves = matches!(what, Change::Collapse | Change::Insert);
        let (pos, len) = if moves {
            (pos & !(block - 1), len.next_multiple_of(block).min(4 * block))
        } else {
            (pos, len)
        };
        let end = pos + len;
        let possible = match what {
            Change::Collapse => end < size,
            Change::Insert if size + len > LIMIT => return,
            Change::Insert => pos < size,
            _ => true,
        };
        let done = self.world.change(f, what, pos..end, keep);
        assert_eq!(done.is_ok(), possible, "{done:?}: {:#?}", self.tail());
        if !possible {
            return;
        }
        let (start, stop) = (pos as usize, end as usize);
        match what {
            Change::Collapse => drop(self.models[f].drain(start..stop)),
            Change::Insert => {
                let zeros = vec![0; len as usize];
                self.models[f].splice(start..start, zeros);
            }
            Change::Punch | Change::Zero => {
                let stop = stop.min(size as usize);
                if start < stop {
                    self.models[f][start..stop].fill(0);
                }
            }
            Change::Preallocate | Change::Unshare => {}
        }
        if !keep && !moves {
            self.grow(f, end);
        }
    }
    fn share(&mut self, f: usize, pos: u64, len: u64, block: u64) {
        let from = self.rng.below(2) as usize;
        if !self.world.can_share() {
            return;
        }
        let size = self.models[from].len() as u64;
        let from_pos = self.rng.below(size / block + 1) * block;
        let pos = pos & !(block - 1);
        let mut len = len.next_multiple_of(block).min(LIMIT - pos);
        if len > size.saturating_sub(from_pos) {
            len = size.saturating_sub(from_pos);
        }
        let bytes = self.models[from][from_pos as usize..(from_pos + len) as usize].to_vec();
        let overlaps = from == f && from_pos < pos + len && pos < from_pos + len;
        let ends = from_pos + len == size && pos + len >= self.models[f].len() as u64;
        let legal =
            len > 0 && !overlaps && (len.is_multiple_of(block) || ends) && pos + len <= LIMIT;
        self.log.push(format!("share {len} of file {from} at {from_pos}, at {pos}: {legal}"));
        if legal && self.rng.below(3) == 0 && pos + len <= self.models[f].len() as u64 {
            let equal = self.models[f][pos as usize..(pos + len) as usize] == bytes;
            let done = self.world.dedupe((from, from_pos), (f, pos), len).unwrap();
            assert_eq!(done, equal.then_some(len));
        } else if legal {
            self.world.share((from, from_pos), (f, pos), len).unwrap();
            self.put(f, pos, &bytes);
        }
    }
    /// Stores behind the end of the file, in its last page: they are nobody's data.
    fn junk_beyond_eof(&mut self, f: usize) {
        let size = self.models[f].len() as u64;
        let tail = size.next_multiple_of(4096) - size;
        if tail > 0 {
            self.world.store(f, size, &vec![0xCD; tail as usize]);
        }
    }
    fn check(&mut self, f: usize, pos: u64, len: u64) {
        let got = self.world.read(f, pos, len as usize).unwrap();
        let end = (pos + len).min(self.models[f].len() as u64);
        assert_eq!(got.len() as u64, end.saturating_sub(pos), "{:#?}", self.tail());
        self.same(f, pos, &got, "read");
    }
    fn same(&self, f: usize, pos: u64, got: &[u8], how: &str) {
        if got.is_empty() {
            return;
        }
        let expected = &self.models[f][pos as usize..pos as usize + got.len()];
        if let Some(at) = (0..got.len()).find(|i| got[*i] != expected[*i]) {
            let (byte, at) = (got[at], at as u64 + pos);
            let right = self.models[f][at as usize];
            panic!("{how} {byte:#x} at {at} of file {f}, not {right:#x}: {:#?}", self.tail());
        }
    }
    pub fn tail(&self) -> &[String] {
        &self.log[self.log.len().saturating_sub(40)..]
    }
    pub fn check_all(&mut self) {
        for f in 0..2 {
            assert_eq!(self.world.size(f), self.models[f].len() as u64, "{:#?}", self.tail());
            self.check(f, 0, LIMIT);
        }
    }
    /// What each file holds now.
    pub fn models(&self) -> &[Vec<u8>; 2] {
        &self.models
    }
    pub fn into_world(self) -> W {
        self.world
    }
}
