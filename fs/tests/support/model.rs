//! A model file system for tests of the iomap layer and the page cache: files whose
//! blocks are holes, reserved, unwritten, written or shared, over one disk with a limited
//! number of blocks. Blocks that are free hold 0xEE.
#![allow(dead_code)]

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use holdfast_fs::block::{MemDisk, SECTOR_SIZE, Sector};
use holdfast_fs::iomap::{Cookie, Iomap, Layout, MapFlags, MapKind, Ops, Purpose, ReservedFork};
use holdfast_fs::locks::ILOCK;
use holdfast_fs::{Error, Result};
use holdfast_sync::{LockClass, Mutex, RwLock};

static SPACE: LockClass = LockClass::new("model space", 76);

/// The blocks of the disk.
pub struct Space {
    pub shift: u32,
    pub disk: Arc<MemDisk>,
    state: Mutex<Blocks>,
}

struct Blocks {
    /// How many files use each block.
    uses: Vec<u32>,
    /// Free ones, less those that are reserved.
    available: u64,
    next: usize,
    /// Longest run that one allocation gives.
    longest: u64,
}

impl Space {
    pub fn new(shift: u32, disk: Arc<MemDisk>, blocks: u64) -> Arc<Self> {
        let state =
            Blocks { uses: vec![0; blocks as usize], available: blocks, next: 0, longest: 7 };
        Arc::new(Self { shift, disk, state: Mutex::new(&SPACE, state) })
    }
    /// Longest run of blocks that one allocation gives.
    pub fn set_longest(&self, blocks: u64) {
        self.state.lock().longest = blocks;
    }
    /// Where the next allocation looks first.
    pub fn set_next(&self, block: u64) {
        self.state.lock().next = block as usize;
    }
    fn reserve(&self, blocks: u64) -> Result<()> {
        let mut state = self.state.lock();
        state.available = state.available.checked_sub(blocks).ok_or(Error::NoSpace)?;
        Ok(())
    }
    fn unreserve(&self, blocks: u64) {
        self.state.lock().available += blocks;
    }
    /// Up to `most` free blocks in a row, reserved before.
    fn allocate(&self, most: u64) -> (u64, u64) {
        let mut state = self.state.lock();
        let n = state.uses.len();
        let first = (0..n).map(|i| (state.next + i) % n).find(|b| state.uses[*b] == 0);
        let first = first.expect("what is reserved is there");
        let most = most.min(state.longest) as usize;
        let mut count = 0;
        while count < most && first + count < n && state.uses[first + count] == 0 {
            state.uses[first + count] = 1;
            count += 1;
        }
        // Files do not lie in order.
        state.next = (first + count + 3) % n;
        (first as u64, count as u64)
    }
    fn share(&self, block: u64) {
        self.state.lock().uses[block as usize] += 1;
    }
    fn is_shared(&self, block: u64) -> bool {
        self.state.lock().uses[block as usize] > 1
    }
    fn free(&self, block: u64) {
        let mut state = self.state.lock();
        let uses = &mut state.uses[block as usize];
        *uses -= 1;
        if *uses == 0 {
            state.available += 1;
            let bytes = vec![0xEE; 1 << self.shift];
            self.disk.poke(self.sector(block), &bytes);
        }
    }
    fn sector(&self, block: u64) -> Sector {
        Sector((block << self.shift) / SECTOR_SIZE)
    }
    /// Blocks that are neither used nor reserved.
    pub fn available(&self) -> u64 {
        self.state.lock().available
    }
    pub fn total(&self) -> u64 {
        self.state.lock().uses.len() as u64
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    Hole,
    Delalloc,
    Unwritten(u64),
    Written(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cow {
    None,
    Delalloc,
    Real(u64),
}

#[derive(Clone)]
struct State {
    data: Vec<Data>,
    cow: Vec<Cow>,
    disk_size: u64,
}

impl State {
    fn data(&self, b: u64) -> Data {
        self.data.get(b as usize).copied().unwrap_or(Data::Hole)
    }
    fn cow(&self, b: u64) -> Cow {
        self.cow.get(b as usize).copied().unwrap_or(Cow::None)
    }
    fn set(&mut self, b: u64, data: Data) {
        if self.data.len() <= b as usize {
            self.data.resize(b as usize + 1, Data::Hole);
        }
        self.data[b as usize] = data;
    }
    fn set_cow(&mut self, b: u64, cow: Cow) {
        if self.cow.len() <= b as usize {
            self.cow.resize(b as usize + 1, Cow::None);
        }
        self.cow[b as usize] = cow;
    }
    fn end(&self) -> u64 {
        self.data.len().max(self.cow.len()) as u64
    }
}

/// One file.
pub struct ModelFile {
    pub space: Arc<Space>,
    state: RwLock<State>,
    data_sequence: AtomicU64,
    cow_sequence: AtomicU64,
    disk_size: AtomicU64,
    size: AtomicU64,
    /// Blocks reserved beyond the end by a write that extends the file.
    pub speculative: AtomicU64,
    /// Blocks made available by one extension at most (0: all that is asked for).
    pub longest_reservation: AtomicU64,
    /// Writeback finds no map.
    pub fail_maps: AtomicBool,
    /// Conversions fail.
    pub fail_conversions: AtomicBool,
    /// Everything fails from now on.
    pub shut_down: AtomicBool,
    /// Sizes that were logged, in order.
    pub logged_sizes: std::sync::Mutex<Vec<u64>>,
    pub conversions: AtomicU64,
}

impl ModelFile {
    pub fn new(space: &Arc<Space>) -> Arc<Self> {
        let state = State { data: Vec::new(), cow: Vec::new(), disk_size: 0 };
        Arc::new(Self {
            space: space.clone(),
            state: RwLock::new(&ILOCK, state),
            data_sequence: AtomicU64::new(1),
            cow_sequence: AtomicU64::new(1),
            disk_size: AtomicU64::new(0),
            size: AtomicU64::new(0),
            speculative: AtomicU64::new(0),
            longest_reservation: AtomicU64::new(0),
            fail_maps: AtomicBool::new(false),
            fail_conversions: AtomicBool::new(false),
            shut_down: AtomicBool::new(false),
            logged_sizes: std::sync::Mutex::new(Vec::new()),
            conversions: AtomicU64::new(0),
        })
    }
    fn shift(&self) -> u32 {
        self.space.shift
    }
    fn alive(&self) -> Result<()> {
        if self.shut_down.load(Ordering::SeqCst) { Err(Error::Shutdown) } else { Ok(()) }
    }
    fn cookie(&self) -> Cookie {
        Cookie {
            data: self.data_sequence.load(Ordering::SeqCst),
            cow: Some(self.cow_sequence.load(Ordering::SeqCst)),
        }
    }
    fn bump(&self) {
        self.data_sequence.fetch_add(1, Ordering::SeqCst);
    }
    fn bump_cow(&self) {
        self.cow_sequence.fetch_add(1, Ordering::SeqCst);
    }
    /// Blocks reserved in memory and not allocated.
    pub fn reserved(&self) -> u64 {
        let state = self.state.read();
        let data = state.data.iter().filter(|d| **d == Data::Delalloc).count();
        let cow = state.cow.iter().filter(|c| **c == Cow::Delalloc).count();
        (data + cow) as u64
    }
    pub fn block(&self, b: u64) -> Data {
        self.state.read().data(b)
    }
    /// Is a copy of the block reserved or under way?
    pub fn has_cow(&self, b: u64) -> bool {
        self.state.read().cow(b) != Cow::None
    }
    /// The file's bytes as a crash would leave them: up to the size on disk.
    pub fn after_crash(&self) -> Vec<u8> {
        let state = self.state.read();
        let block = 1usize << self.shift();
        let mut bytes = Vec::new();
        for b in 0..state.disk_size.div_ceil(block as u64) {
            let mut contents = vec![0; block];
            if let Data::Written(at) = state.data(b) {
                self.space.disk.peek(self.space.sector(at), &mut contents);
            }
            bytes.extend(contents);
        }
        bytes.truncate(state.disk_size as usize);
        bytes
    }
    /// The longest run from `b` on, at most to `stop`, of blocks like `b`.
    fn run(b: u64, stop: u64, mut like: impl FnMut(u64, u64) -> bool) -> u64 {
        let mut n = 1;
        while b + n < stop && like(b + n, n) {
            n += 1;
        }
        n
    }
    fn map_data(&self, state: &State, b: u64, stop: u64, flags: MapFlags) -> Iomap {
        let stop = stop.max(b + 1);
        let first = state.data(b);
        let cow = state.cow(b) != Cow::None;
        let shared =
            |at: u64| matches!(state.data(at), Data::Written(x) if self.space.is_shared(x));
        let is_shared = shared(b);
        let n = Self::run(b, stop, |at, n| {
            let same = match (first, state.data(at)) {
                (Data::Hole, Data::Hole) | (Data::Delalloc, Data::Delalloc) => true,
                (Data::Unwritten(x), Data::Unwritten(y)) => y == x + n,
                (Data::Written(x), Data::Written(y)) => y == x + n,
                _ => false,
            };
            same && (state.cow(at) != Cow::None) == cow && shared(at) == is_shared
        });
        let kind = match first {
            Data::Hole => MapKind::Hole,
            Data::Delalloc => MapKind::Delalloc,
            Data::Unwritten(x) => MapKind::Unwritten { addr: self.space.sector(x) },
            Data::Written(x) => MapKind::Written { addr: self.space.sector(x) },
        };
        self.iomap(b, n, kind, flags)
    }
    fn iomap(&self, b: u64, n: u64, kind: MapKind, flags: MapFlags) -> Iomap {
        let shift = self.shift();
        Iomap {
            offset_bytes: b << shift,
            length_bytes: n << shift,
            kind,
            flags,
            cookie: self.cookie(),
        }
    }
    /// The copy-on-write fork's blocks at `b`, allocated now if need be.
    fn map_cow(&self, state: &mut State, b: u64) -> Iomap {
        if state.cow(b) == Cow::Delalloc {
            let mut end = b;
            while state.cow(end) == Cow::Delalloc {
                end += 1;
            }
            self.bump_cow();
            let mut at = b;
            while at < end {
                let (block, n) = self.space.allocate(end - at);
                (0..n).for_each(|i| state.set_cow(at + i, Cow::Real(block + i)));
                at += n;
            }
        }
        let Cow::Real(first) = state.cow(b) else { panic!("no copy is due at {b}") };
        let n = Self::run(b, state.end(), |at, n| state.cow(at) == Cow::Real(first + n));
        let kind = MapKind::Unwritten { addr: self.space.sector(first) };
        self.iomap(b, n, kind, MapFlags::SHARED)
    }
    /// Allocate the whole reservation around `b`, or the hole `b..stop`, as unwritten.
    fn allocate(&self, state: &mut State, range: Range<u64>) {
        self.bump();
        let mut at = range.start;
        while at < range.end {
            let (block, n) = self.space.allocate(range.end - at);
            (0..n).for_each(|i| state.set(at + i, Data::Unwritten(block + i)));
            at += n;
        }
    }
    fn allocate_delalloc(&self, state: &mut State, b: u64) {
        let (mut start, mut end) = (b, b + 1);
        while start > 0 && state.data(start - 1) == Data::Delalloc {
            start -= 1;
        }
        while state.data(end) == Data::Delalloc {
            end += 1;
        }
        self.allocate(state, start..end);
    }
    fn begin_store(&self, pos: u64, len: u64, purpose: Purpose) -> Result<Iomap> {
        let shift = self.shift();
        let b = pos >> shift;
        let stop = (pos + len).div_ceil(1 << shift);
        let mut state = self.state.write();
        let new = if purpose == Purpose::Fault { MapFlags::empty() } else { MapFlags::NEW };
        if state.cow(b) != Cow::None {
            return Ok(self.map_data(&state, b, stop, MapFlags::SHARED));
        }
        match state.data(b) {
            Data::Hole if purpose != Purpose::Zero => {
                let mut n = Self::run(b, stop, |at, _| {
                    state.data(at) == Data::Hole && state.cow(at) == Cow::None
                });
                let longest = self.longest_reservation.load(Ordering::SeqCst);
                if longest != 0 {
                    n = n.min(longest);
                }
                let mut extra = 0;
                if b + n == stop && pos + len > self.size.load(Ordering::SeqCst) {
                    let most = self.speculative.load(Ordering::SeqCst);
                    extra =
                        (0..most).take_while(|i| state.data(stop + i) == Data::Hole).count() as u64;
                }
                if self.space.reserve(n + extra).is_err() {
                    extra = 0;
                    self.space.reserve(n)?;
                }
                self.bump();
                (b..b + n + extra).for_each(|at| state.set(at, Data::Delalloc));
                Ok(self.map_data(&state, b, b + n + extra, new))
            }
            Data::Written(block) if self.space.is_shared(block) => {
                let n = Self::run(b, stop, |at, _| {
                    state.cow(at) == Cow::None
                        && matches!(state.data(at), Data::Written(x) if self.space.is_shared(x))
                });
                self.space.reserve(n)?;
                self.bump_cow();
                (b..b + n).for_each(|at| state.set_cow(at, Cow::Delalloc));
                Ok(self.map_data(&state, b, b + n, new | MapFlags::SHARED))
            }
            _ => Ok(self.map_data(&state, b, stop, MapFlags::empty())),
        }
    }
    fn begin_direct(&self, pos: u64, len: u64) -> Result<Iomap> {
        let shift = self.shift();
        let b = pos >> shift;
        let stop = (pos + len).div_ceil(1 << shift);
        let mut state = self.state.write();
        if state.cow(b) != Cow::None {
            return Ok(self.map_cow(&mut state, b));
        }
        match state.data(b) {
            Data::Hole => {
                let n = Self::run(b, stop, |at, _| state.data(at) == Data::Hole);
                self.space.reserve(n)?;
                self.allocate(&mut state, b..b + n);
            }
            Data::Delalloc => self.allocate_delalloc(&mut state, b),
            Data::Written(block) if self.space.is_shared(block) => {
                self.space.reserve(1)?;
                self.bump_cow();
                state.set_cow(b, Cow::Delalloc);
                return Ok(self.map_cow(&mut state, b));
            }
            _ => {}
        }
        Ok(self.map_data(&state, b, stop, MapFlags::empty()))
    }
    fn log_size(&self, state: &mut State, size: u64) {
        state.disk_size = size;
        self.disk_size.store(size, Ordering::SeqCst);
        self.logged_sizes.lock().unwrap().push(size);
    }
    /// Nothing is at block `b` any more.
    fn clear(&self, state: &mut State, b: u64) {
        match state.data(b) {
            Data::Hole => {}
            Data::Delalloc => self.space.unreserve(1),
            Data::Unwritten(x) | Data::Written(x) => self.space.free(x),
        }
        match state.cow(b) {
            Cow::None => {}
            Cow::Delalloc => self.space.unreserve(1),
            Cow::Real(x) => self.space.free(x),
        }
        if (b as usize) < state.data.len() {
            state.set(b, Data::Hole);
        }
        if (b as usize) < state.cow.len() {
            state.set_cow(b, Cow::None);
        }
    }
    fn blocks(&self, range: &Range<u64>) -> Range<u64> {
        let shift = self.shift();
        assert!(range.start.is_multiple_of(1 << shift), "{range:?} starts within a block");
        range.start >> shift..range.end.div_ceil(1 << shift)
    }
    /// Give everything back: the file is deleted.
    pub fn delete(&self) {
        let mut state = self.state.write();
        self.bump();
        self.bump_cow();
        (0..state.end()).for_each(|b| self.clear(&mut state, b));
    }
}

impl Ops for ModelFile {
    fn block_shift(&self) -> u32 {
        self.shift()
    }
    fn begin(&self, pos: u64, len: u64, purpose: Purpose) -> Result<Iomap> {
        self.alive()?;
        match purpose {
            Purpose::Read => {
                let state = self.state.read();
                let b = pos >> self.shift();
                Ok(self.map_data(&state, b, state.end().max(b + 1) + 64, MapFlags::empty()))
            }
            Purpose::Write | Purpose::Fault | Purpose::Zero => self.begin_store(pos, len, purpose),
            Purpose::DirectWrite => self.begin_direct(pos, len),
        }
    }
    fn is_valid(&self, map: &Iomap) -> bool {
        map.cookie == self.cookie()
    }
    fn prepare_write(&self, _pos: u64, _len: u64) -> Result<()> {
        self.alive()
    }
    fn punch_delalloc(&self, range: Range<u64>, fork: ReservedFork) -> Result<()> {
        let mut state = self.state.write();
        for b in self.blocks(&range) {
            match fork {
                ReservedFork::Data if state.data(b) == Data::Delalloc => {
                    self.bump();
                    state.set(b, Data::Hole);
                    self.space.unreserve(1);
                }
                ReservedFork::Cow if state.cow(b) == Cow::Delalloc => {
                    self.bump_cow();
                    state.set_cow(b, Cow::None);
                    self.space.unreserve(1);
                }
                _ => {}
            }
        }
        Ok(())
    }
    fn writeback_map(&self, pos: u64, _len: u64) -> Result<Iomap> {
        self.alive()?;
        if self.fail_maps.load(Ordering::SeqCst) {
            return Err(Error::NoSpace);
        }
        let b = pos >> self.shift();
        let mut state = self.state.write();
        if state.cow(b) != Cow::None {
            return Ok(self.map_cow(&mut state, b));
        }
        if state.data(b) == Data::Delalloc {
            self.allocate_delalloc(&mut state, b);
        }
        Ok(self.map_data(&state, b, state.end(), MapFlags::empty()))
    }
    fn disk_size(&self) -> u64 {
        self.disk_size.load(Ordering::SeqCst)
    }
    fn writeback_done(&self, map: &Iomap, pos: u64, len: u64, size: u64) -> Result<()> {
        self.alive()?;
        if self.fail_conversions.load(Ordering::SeqCst) {
            return Err(Error::Io);
        }
        self.conversions.fetch_add(1, Ordering::SeqCst);
        let mut state = self.state.write();
        let plain =
            matches!(map.kind, MapKind::Written { .. }) && !map.flags.contains(MapFlags::SHARED);
        let blocks = if plain { 0..0 } else { self.blocks(&(pos..pos + len)) };
        for b in blocks {
            if map.flags.contains(MapFlags::SHARED) {
                if let Cow::Real(block) = state.cow(b) {
                    self.bump();
                    self.bump_cow();
                    state.set_cow(b, Cow::None);
                    if let Data::Unwritten(old) | Data::Written(old) = state.data(b) {
                        self.space.free(old);
                    }
                    state.set(b, Data::Written(block));
                }
            } else if let Data::Unwritten(block) = state.data(b) {
                self.bump();
                state.set(b, Data::Written(block));
            }
        }
        if size > state.disk_size {
            self.log_size(&mut state, size);
        }
        Ok(())
    }
    fn writeback_failed(&self, _map: &Iomap, pos: u64, len: u64) {
        let mut state = self.state.write();
        for b in self.blocks(&(pos..pos + len)) {
            if let Cow::Real(block) = state.cow(b) {
                self.bump_cow();
                state.set_cow(b, Cow::None);
                self.space.free(block);
            }
        }
    }
    fn size_changed(&self, size: u64) {
        self.size.store(size, Ordering::SeqCst);
    }
}

impl Layout for ModelFile {
    fn set_size(&self, size: u64, cut: bool) -> Result<()> {
        self.alive()?;
        let mut state = self.state.write();
        self.log_size(&mut state, size);
        let from = size.div_ceil(1 << self.shift());
        if cut {
            self.bump();
            self.bump_cow();
            (from..state.end()).for_each(|b| self.clear(&mut state, b));
        }
        Ok(())
    }
    fn preallocate(&self, range: Range<u64>) -> Result<()> {
        self.alive()?;
        let mut state = self.state.write();
        let mut blocks = self.blocks(&range);
        while let Some(b) = blocks.next() {
            if state.data(b) == Data::Hole {
                let n = Self::run(b, blocks.end, |at, _| state.data(at) == Data::Hole);
                self.space.reserve(n)?;
                self.allocate(&mut state, b..b + n);
                blocks.start = b + n;
            }
        }
        Ok(())
    }
    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.alive()?;
        let mut state = self.state.write();
        self.bump();
        self.bump_cow();
        let blocks = self.blocks(&range);
        assert!(range.end.is_multiple_of(1 << self.shift()));
        (blocks.start..blocks.end.min(state.end())).for_each(|b| self.clear(&mut state, b));
        Ok(())
    }
    fn zero_blocks(&self, range: Range<u64>) -> Result<()> {
        self.punch(range.clone())?;
        self.preallocate(range)
    }
    fn collapse(&self, range: Range<u64>) -> Result<()> {
        self.punch(range.clone())?;
        let mut state = self.state.write();
        self.bump();
        self.bump_cow();
        let blocks = self.blocks(&range);
        let n = blocks.end - blocks.start;
        for b in blocks.start..state.end() {
            let (data, cow) = (state.data(b + n), state.cow(b + n));
            state.set(b, data);
            state.set_cow(b, cow);
        }
        Ok(())
    }
    fn insert(&self, range: Range<u64>) -> Result<()> {
        self.alive()?;
        let mut state = self.state.write();
        self.bump();
        self.bump_cow();
        let blocks = self.blocks(&range);
        let n = blocks.end - blocks.start;
        for b in (blocks.start..state.end()).rev() {
            let (data, cow) = (state.data(b), state.cow(b));
            state.set(b + n, data);
            state.set_cow(b + n, cow);
        }
        for b in blocks {
            state.set(b, Data::Hole);
            state.set_cow(b, Cow::None);
        }
        Ok(())
    }
    fn can_share(&self) -> bool {
        true
    }
    fn share(&self, source: &Self, range: Range<u64>, at: u64) -> Result<()> {
        self.alive()?;
        let from = self.blocks(&range);
        let to = at >> self.shift();
        let copies: Vec<Data> = {
            let state = source.state.read();
            from.map(|b| state.data(b)).collect()
        };
        let mut state = self.state.write();
        self.bump();
        self.bump_cow();
        source.bump();
        for (i, data) in copies.into_iter().enumerate() {
            self.clear(&mut state, to + i as u64);
            match data {
                Data::Written(block) => {
                    self.space.share(block);
                    state.set(to + i as u64, data);
                }
                Data::Delalloc | Data::Hole | Data::Unwritten(_) => {}
            }
        }
        Ok(())
    }
    fn trim_eof(&self) -> Result<()> {
        let mut state = self.state.write();
        self.bump();
        let from = self.size.load(Ordering::SeqCst).div_ceil(1 << self.shift());
        (from..state.end()).for_each(|b| self.clear(&mut state, b));
        Ok(())
    }
}
