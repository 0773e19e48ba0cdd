//! A file system of one file, for tests of the page cache and the iomap layer: an array
//! of blocks, each mapped somewhere on a memory disk or nowhere.
#![allow(dead_code)]

pub mod fsx;
pub mod model;
pub mod model_world;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_fs::block::{BlockDevice, Queue, SECTOR_SIZE, Sector};
use holdfast_fs::iomap::{Cookie, Iomap, MapFlags, MapKind, Ops, Purpose, Sink, Source};
use holdfast_fs::pagecache::{CacheConfig, Mapping, PageCache, Readahead};
use holdfast_fs::platform::Page;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::{Error, Result};
use holdfast_sync::{LockClass, Mutex};

/// Blocks of one file: `Some(n)` lies at block `n` of the disk, `None` is a hole.
pub struct FlatFile {
    pub shift: u32,
    pub blocks: Vec<Option<u64>>,
    pub sequence: AtomicU64,
    /// Make the map stale at every n-th check, as a conversion elsewhere would.
    pub stale_every: u64,
    pub checks: AtomicU64,
}

impl FlatFile {
    pub fn new(shift: u32, blocks: Vec<Option<u64>>) -> Self {
        Self {
            shift,
            blocks,
            sequence: AtomicU64::new(1),
            stale_every: 0,
            checks: AtomicU64::new(0),
        }
    }
    /// `count` blocks scattered over a disk of as many, in runs of four.
    pub fn scattered(shift: u32, count: u64) -> Self {
        let groups = count / 4;
        let at = |g: u64| (g * 7 + 3) % groups;
        Self::new(shift, (0..groups * 4).map(|b| Some(at(b / 4) * 4 + b % 4)).collect())
    }
    fn cookie(&self) -> Cookie {
        Cookie { data: self.sequence.load(Ordering::SeqCst), cow: None }
    }
    fn map(&self, pos: u64) -> Iomap {
        let size = 1u64 << self.shift;
        let first = (pos >> self.shift) as usize;
        let at = |i: usize| self.blocks.get(i).copied().flatten();
        let mut n = 1;
        while first + n < self.blocks.len() + 64
            && match (at(first), at(first + n)) {
                (Some(a), Some(b)) => b == a + n as u64,
                (None, None) => true,
                _ => false,
            }
        {
            n += 1;
        }
        let kind = match at(first) {
            Some(block) => MapKind::Written { addr: Sector(block * size / SECTOR_SIZE) },
            None => MapKind::Hole,
        };
        Iomap {
            offset_bytes: first as u64 * size,
            length_bytes: n as u64 * size,
            kind,
            flags: MapFlags::empty(),
            cookie: self.cookie(),
        }
    }
}

impl Ops for FlatFile {
    fn block_shift(&self) -> u32 {
        self.shift
    }
    fn begin(&self, pos: u64, _len: u64, purpose: Purpose) -> Result<Iomap> {
        let map = self.map(pos);
        if purpose != Purpose::Read && map.kind == MapKind::Hole {
            return Err(Error::ReadOnly("a hole"));
        }
        Ok(map)
    }
    fn is_valid(&self, map: &Iomap) -> bool {
        let n = self.checks.fetch_add(1, Ordering::SeqCst) + 1;
        if self.stale_every != 0 && n.is_multiple_of(self.stale_every) {
            self.sequence.fetch_add(1, Ordering::SeqCst);
        }
        map.cookie == self.cookie()
    }
    fn writeback_map(&self, pos: u64, _len: u64) -> Result<Iomap> {
        self.begin(pos, 1, Purpose::DirectWrite)
    }
}

/// A sink into a vector.
pub struct VecSink {
    pub data: Vec<u8>,
    pub want: usize,
}
impl VecSink {
    pub fn new(want: usize) -> Self {
        Self { data: Vec::new(), want }
    }
}
impl Sink for VecSink {
    fn remaining(&self) -> usize {
        self.want - self.data.len()
    }
    fn put(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        let n = len.min(self.remaining());
        let at = self.data.len();
        self.data.resize(at + n, 0);
        page.read(offset, &mut self.data[at..]);
        n
    }
    fn put_zeros(&mut self, len: usize) -> usize {
        let n = len.min(self.remaining());
        self.data.resize(self.data.len() + n, 0);
        n
    }
    fn fault_in(&mut self) -> Result<()> {
        Err(Error::Fault)
    }
}

/// A source from a slice whose pages come and go: every `fault_every`-th copy stops short.
pub struct SliceSource<'a> {
    pub data: &'a [u8],
    pub at: usize,
    pub fault_every: usize,
    pub copies: usize,
}
impl<'a> SliceSource<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { data, at: 0, fault_every: 0, copies: 0 }
    }
}
impl Source for SliceSource<'_> {
    fn remaining(&self) -> usize {
        self.data.len() - self.at
    }
    fn take(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        self.copies += 1;
        let mut n = len.min(self.remaining());
        if self.fault_every != 0 && self.copies.is_multiple_of(self.fault_every) {
            n /= 2;
        }
        page.write(offset, &self.data[self.at..self.at + n]);
        self.at += n;
        n
    }
    fn revert(&mut self, len: usize) {
        self.at -= len;
    }
    fn fault_in(&mut self) -> Result<()> {
        Ok(())
    }
}

/// `len` bytes of which only the first `good` can be had.
pub struct EndingSource {
    pub at: usize,
    pub good: usize,
    pub len: usize,
    pub byte: u8,
}
impl EndingSource {
    pub fn new(good: usize, len: usize, byte: u8) -> Self {
        Self { at: 0, good, len, byte }
    }
}
impl Source for EndingSource {
    fn remaining(&self) -> usize {
        self.len - self.at
    }
    fn take(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        let n = len.min(self.good - self.at);
        page.write(offset, &vec![self.byte; n]);
        self.at += n;
        n
    }
    fn revert(&mut self, len: usize) {
        self.at -= len;
    }
    fn fault_in(&mut self) -> Result<()> {
        // The copy stopped at the first byte that cannot be had: the source ends there.
        self.len = self.good;
        if self.at < self.good { Ok(()) } else { Err(Error::Fault) }
    }
}

static TEST_RA: LockClass = LockClass::new("test readahead", 55);

/// One file over one device, with a cache of `pages` pages.
pub struct Stack {
    pub cache: Arc<PageCache>,
    pub mapping: Arc<Mapping>,
    pub ops: Arc<FlatFile>,
}
impl Stack {
    pub fn new(device: Arc<dyn BlockDevice>, file: FlatFile, size: u64, pages: u64) -> Self {
        let memory = HostMemory::new(pages * 2 + 1024);
        let config = CacheConfig {
            max_pages: Some(pages),
            expire_ns: 20_000_000,
            interval_ns: 5_000_000,
            ..CacheConfig::default()
        };
        let cache = PageCache::new(memory, config);
        let ops = Arc::new(file);
        let mapping = Mapping::new(&cache, 7, ops.clone(), Queue::new(device), size);
        Self { cache, mapping, ops }
    }
    pub fn readahead() -> Mutex<Readahead> {
        Mutex::new(&TEST_RA, Readahead::default())
    }
    pub fn read(&self, ra: &Mutex<Readahead>, pos: u64, len: usize) -> Result<Vec<u8>> {
        let mut sink = VecSink::new(len);
        holdfast_fs::iomap::read(&self.mapping, ra, pos, &mut sink)?;
        Ok(sink.data)
    }
    pub fn write(&self, pos: u64, data: &[u8]) -> Result<usize> {
        holdfast_fs::iomap::write(&self.mapping, pos, &mut SliceSource::new(data))
    }
    pub fn sync(&self) {
        self.mapping.write_and_wait(0..u64::MAX);
    }
}

/// A small reproducible generator.
pub struct Rng(pub u64);
impl Rng {
    pub fn seeded(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}
