//! The cache of metadata blocks.
//!
//! A [`Buffer`] is a block, or a directory block that lies in several places, read from
//! the device and verified once. Whoever holds an `Arc<Buffer>` keeps it in memory;
//! its contents are under a lock of their own so that transactions can change them.
//!
//! ```text
//! reader A              reader B, same block
//! look up: none
//! insert "loading"
//! read, verify          look up: loading, wait
//! "ready", wake         "ready": use it
//! ```
//! A read that fails takes the buffer out of the index again and hands the error to
//! everybody who waited: neither I/O errors nor damage are remembered.
//!
//! The cache is bounded. A clock hand goes round the index and drops what was not
//! looked up since it last passed and is held by nobody. What is logged and not in place
//! cannot go: when there is too much of that, the next transaction, and the next step of
//! one under way, writes the oldest of it in place first ([`Log::make_room`]). In the
//! middle of a step nobody waits: the cache then exceeds its limit by what the steps under
//! way change at most.
//!
//! [`Log::make_room`]: super::log::Log::make_room
//!
//! Locks: `BUFFER_CACHE` (the index, held for moments, never across I/O), `BUFFER` (one
//! block's contents). Readers of a tree hold the contents of one block at a time.

use alloc::boxed::Box;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use holdfast_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use holdfast_sync::{Condvar, Mutex, RwLock, RwLockReadGuard, WaitQueue};

use super::buf_index::{BufferIndex, Key, Turn};
use super::buf_item::ItemState;
use super::geometry::Geometry;
use super::log::item::Journal;
use super::ondisk::block::{BlockKind, verify};
use crate::block::{BioFlags, IoError, Queue, SECTOR_SIZE, Sector, Segment};
use crate::error::Error;
use crate::locks::{BUFFER, BUFFER_CACHE, BUFFER_ITEM, STATE};
use crate::platform::{Memory, PAGE_SIZE, Page};

/// Most bytes moved by one request.
const CHUNK_BYTES: usize = 64 << 10;
/// Buffers looked at for each new one while there are too many.
const EVICT_STEPS: usize = 64;
/// When the cache is full this part of it is freed.
const ROOM_PART: usize = 8;
/// Pages kept back for reading and writing when memory is out.
const RESERVE_PAGES: usize = 4;

/// A contiguous part of a buffer on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where it starts.
    pub sector: Sector,
    /// Bytes.
    pub bytes: u32,
}

/// Why raw bytes could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The device failed.
    Io(IoError),
    /// No memory.
    NoMemory,
}

impl From<ReadError> for Error {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Io(e) => e.into(),
            ReadError::NoMemory => Self::NoMemory,
        }
    }
}

const LOADING: u32 = 0;
const FAILED: u32 = 1;
/// Ready buffers have this plus their kind.
const READY: u32 = 2;

/// A metadata block in memory.
pub struct Buffer {
    runs: Box<[Run]>,
    bytes: u32,
    state: AtomicU32,
    referenced: AtomicBool,
    failure: Mutex<Option<Error>>,
    ready: WaitQueue,
    pub(super) contents: RwLock<Box<[u8]>>,
    /// What of it is logged and not in place.
    pub(super) item: Mutex<ItemState>,
    /// Transactions and checkpoints that hold on to it: it is not written in place.
    pub(super) pins: AtomicU32,
    pub(super) target: Arc<Target>,
}

/// Where buffers are written.
pub(super) struct Target {
    pub(super) queue: Arc<Queue>,
    pub(super) memory: Arc<dyn Memory>,
    pub(super) geometry: Arc<Geometry>,
    /// Set once, when the log is there.
    journal: Mutex<Option<Weak<dyn Journal>>>,
}

impl Target {
    /// The log, if the file system can be written.
    pub(super) fn journal(&self) -> Option<Arc<dyn Journal>> {
        self.journal.lock().as_ref().and_then(Weak::upgrade)
    }
    /// Was the log shut down? Then blocks are no longer pinned that it does not hold.
    pub(super) fn is_shut_down(&self) -> bool {
        self.journal().is_some_and(|journal| journal.is_shut_down())
    }
}

impl Buffer {
    fn loading(runs: &[Run], target: &Arc<Target>) -> Self {
        Self {
            runs: runs.into(),
            bytes: runs.iter().map(|r| r.bytes).sum(),
            state: AtomicU32::new(LOADING),
            referenced: AtomicBool::new(true),
            failure: Mutex::new(&STATE, None),
            ready: WaitQueue::new(),
            contents: RwLock::new(&BUFFER, Box::default()),
            item: Mutex::new(&BUFFER_ITEM, ItemState::default()),
            pins: AtomicU32::new(0),
            target: target.clone(),
        }
    }
    /// Where it lies.
    pub(super) fn runs(&self) -> &[Run] {
        &self.runs
    }
    /// Bytes.
    pub(super) const fn length_bytes(&self) -> usize {
        self.bytes as usize
    }
    /// The block's bytes.
    pub fn read(&self) -> RwLockReadGuard<'_, Box<[u8]>> {
        self.contents.read()
    }
    /// What it was verified as.
    pub fn kind(&self) -> BlockKind {
        let index = self.state.load(Ordering::Acquire).saturating_sub(READY);
        BlockKind::ALL[(index as usize).min(BlockKind::ALL.len() - 1)]
    }
    pub(super) fn store_kind(&self, kind: BlockKind) {
        self.state.store(READY + kind as u32, Ordering::Release);
    }
    /// Where it starts on the device.
    pub fn sector(&self) -> Sector {
        self.runs.first().map_or(Sector(0), |r| r.sector)
    }
    /// Somebody looked it up.
    fn refer(&self) {
        if !self.referenced.load(Ordering::Relaxed) {
            self.referenced.store(true, Ordering::Relaxed);
        }
    }
    #[inline]
    fn wait(&self) -> Result<(), Error> {
        if self.state.load(Ordering::Acquire) >= READY { Ok(()) } else { self.wait_slow() }
    }
    #[cold]
    fn wait_slow(&self) -> Result<(), Error> {
        let state = self.ready.wait_until(|| {
            let state = self.state.load(Ordering::Acquire);
            (state != LOADING).then_some(state)
        });
        if state == FAILED { Err(self.failure.lock().clone().unwrap_or(Error::Io)) } else { Ok(()) }
    }
}

struct Index {
    buffers: BufferIndex<Arc<Buffer>>,
    bytes: usize,
}

/// Counts of a [`BufferCache`], for reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BufferStatistics {
    /// Lookups that found the block.
    pub hits: u64,
    /// Lookups that had to read.
    pub reads: u64,
    /// Blocks held.
    pub buffers: usize,
    /// Bytes they take.
    pub bytes: usize,
}

/// The metadata blocks of one file system that are in memory.
pub struct BufferCache {
    target: Arc<Target>,
    limit_bytes: usize,
    /// More than so many bytes are too many: the limit, unless they could not be made
    /// fewer.
    full_at: AtomicUsize,
    is_full: AtomicBool,
    index: Mutex<Index>,
    reserve: Mutex<Vec<Page>>,
    returned: Condvar,
    hits: AtomicU64,
    reads: AtomicU64,
}

impl BufferCache {
    /// A cache of at most about `limit_bytes`.
    ///
    /// # Errors
    /// No memory for the pages kept in reserve.
    pub fn new(
        queue: Arc<Queue>,
        memory: Arc<dyn Memory>,
        geometry: Arc<Geometry>,
        limit_bytes: usize,
    ) -> Result<Self, ReadError> {
        let reserve = (0..RESERVE_PAGES)
            .map(|_| memory.alloc_page().ok_or(ReadError::NoMemory))
            .collect::<Result<Vec<_>, _>>()?;
        let journal = Mutex::new(&STATE, None);
        Ok(Self {
            target: Arc::new(Target { queue, memory, geometry, journal }),
            limit_bytes,
            full_at: AtomicUsize::new(limit_bytes),
            is_full: AtomicBool::new(false),
            index: Mutex::new(&BUFFER_CACHE, Index { buffers: BufferIndex::new(), bytes: 0 }),
            reserve: Mutex::new(&STATE, reserve),
            returned: Condvar::new(),
            hits: AtomicU64::new(0),
            reads: AtomicU64::new(0),
        })
    }
    /// The block at `runs`, read unless it is in memory, as one of `kinds`.
    ///
    /// # Errors
    /// I/O errors, damage, no memory.
    pub fn read(&self, runs: &[Run], kinds: &[BlockKind]) -> Result<Arc<Buffer>, Error> {
        let key @ (sector, _) = key_of(runs)?;
        let (buffer, is_new) = self.find_or_insert(key, runs);
        if is_new {
            self.reads.fetch_add(1, Ordering::Relaxed);
            return self.load(key, &buffer, kinds).map(|()| buffer);
        }
        self.hits.fetch_add(1, Ordering::Relaxed);
        if *buffer.runs != *runs {
            // Two structures claim the first part: one is damaged, verifying shows which.
            let private = Arc::new(Buffer::loading(runs, &self.target));
            self.fill(&private, kinds)?;
            return Ok(private);
        }
        buffer.wait()?;
        if !kinds.contains(&buffer.kind()) {
            verify(kinds, &self.target.geometry, Sector(sector), &buffer.read())?;
        }
        Ok(buffer)
    }
    fn find_or_insert(&self, key: Key, runs: &[Run]) -> (Arc<Buffer>, bool) {
        let mut index = self.index.lock();
        // A block that was freed is read anew: its contents mean nothing any more.
        if let Some(found) = index.buffers.get(key).filter(|b| !b.item.lock().is_stale()) {
            found.refer();
            return (found.clone(), false);
        }
        (self.insert(&mut index, key, runs), true)
    }
    fn insert(&self, index: &mut Index, key: Key, runs: &[Run]) -> Arc<Buffer> {
        let room = self.limit_bytes.saturating_sub(key.1 as usize);
        // What is dirty cannot go: to look at all of it each time would take for ever.
        evict(index, usize::MAX, EVICT_STEPS, |index| index.bytes > room);
        let buffer = Arc::new(Buffer::loading(runs, &self.target));
        if index.buffers.insert(key, buffer.clone()).is_none() {
            index.bytes += key.1 as usize;
            if index.bytes > self.full_at.load(Ordering::Relaxed) {
                self.is_full.store(true, Ordering::Relaxed);
            }
        }
        buffer
    }
    /// Are there too many blocks in memory, none of which could be dropped lately?
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }
    /// Drop what can be until there is some room again. Is there none?
    pub(super) fn has_no_room(&self) -> bool {
        let mut index = self.index.lock();
        let enough = self.limit_bytes - self.limit_bytes / ROOM_PART;
        evict(&mut index, usize::MAX, usize::MAX, |index| index.bytes > enough);
        index.bytes > enough
    }
    /// Room was made, as much as there could be.
    pub(super) fn made_room(&self) {
        let index = self.index.lock();
        // If that was in vain, it is not tried again for each block.
        let next = match index.bytes > self.limit_bytes {
            true => index.bytes + self.limit_bytes / ROOM_PART,
            false => self.limit_bytes,
        };
        self.full_at.store(next, Ordering::Relaxed);
        self.is_full.store(false, Ordering::Relaxed);
    }
    /// Metadata is written through this log from now on.
    pub(super) fn set_journal(&self, journal: Weak<dyn Journal>) {
        *self.target.journal.lock() = Some(journal);
    }
    /// The block at `runs` as a new one of this kind, all zeros: nothing is read.
    ///
    /// # Errors
    /// No memory.
    pub(super) fn create(&self, runs: &[Run], kind: BlockKind) -> Result<Arc<Buffer>, Error> {
        let key @ (_, bytes) = key_of(runs)?;
        let contents = zeroed(bytes as usize)?;
        let buffer = {
            let mut index = self.index.lock();
            match index.buffers.get(key).filter(|b| *b.runs == *runs) {
                Some(found) => found.clone(),
                None => self.insert(&mut index, key, runs),
            }
        };
        buffer.refer();
        let mut old = buffer.contents.write();
        buffer.item.lock().renew(bytes as usize);
        *old = contents;
        drop(old);
        buffer.state.store(READY + kind as u32, Ordering::Release);
        buffer.ready.wake_all();
        Ok(buffer)
    }
    fn load(&self, key: Key, buffer: &Arc<Buffer>, kinds: &[BlockKind]) -> Result<(), Error> {
        let result = self.fill(buffer, kinds);
        if let Err(e) = &result {
            let mut index = self.index.lock();
            if index.buffers.get(key).is_some_and(|b| Arc::ptr_eq(b, buffer)) {
                index.buffers.remove(key);
                index.bytes -= key.1 as usize;
            }
            drop(index);
            *buffer.failure.lock() = Some(e.clone());
            buffer.state.store(FAILED, Ordering::Release);
        }
        buffer.ready.wake_all();
        result
    }
    fn fill(&self, buffer: &Buffer, kinds: &[BlockKind]) -> Result<(), Error> {
        let bytes: usize = buffer.runs.iter().map(|r| r.bytes as usize).sum();
        let mut contents = zeroed(bytes)?;
        let mut rest = &mut contents[..];
        for run in &buffer.runs {
            let (part, behind) = rest.split_at_mut(run.bytes as usize);
            self.read_raw(run.sector, part)?;
            rest = behind;
        }
        let kind = verify(kinds, &self.target.geometry, buffer.sector(), &contents)?;
        buffer.item.lock().renew(bytes);
        *buffer.contents.write() = contents;
        buffer.state.store(READY + kind as u32, Ordering::Release);
        Ok(())
    }
    /// Read bytes from the device, past the cache. Whole sectors.
    ///
    /// # Errors
    /// The device's, no memory.
    pub fn read_raw(&self, sector: Sector, dst: &mut [u8]) -> Result<(), ReadError> {
        let mut at = sector;
        let mut rest = dst;
        while !rest.is_empty() {
            let bounce = Bounce::new(self, rest.len().min(CHUNK_BYTES));
            let len = rest.len().min(bounce.pages.len() * PAGE_SIZE);
            let (part, behind) = rest.split_at_mut(len);
            self.target
                .queue
                .read_sync(at, Segment::cover(&bounce.pages, len), BioFlags::META)
                .map_err(ReadError::Io)?;
            for (chunk, page) in part.chunks_mut(PAGE_SIZE).zip(&bounce.pages) {
                page.read(0, chunk);
            }
            at = Sector(at.0 + len as u64 / SECTOR_SIZE);
            rest = behind;
        }
        Ok(())
    }
    /// Write blocks of `block_bytes` each, ready for the disk, past the log, and keep
    /// them. What was at their place is nobody's.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn write_through(
        &self,
        start: Sector,
        bytes: &[u8],
        block_bytes: usize,
        kind: BlockKind,
    ) -> Result<(), Error> {
        let (mut at, mut rest) = (start, bytes);
        while !rest.is_empty() {
            let bounce = Bounce::new(self, rest.len().min(CHUNK_BYTES));
            let (part, behind) = rest.split_at(rest.len().min(bounce.pages.len() * PAGE_SIZE));
            for (chunk, page) in part.chunks(PAGE_SIZE).zip(&bounce.pages) {
                page.write(0, chunk);
            }
            let segments = Segment::cover(&bounce.pages, part.len());
            self.target.queue.write_sync(at, segments, BioFlags::META)?;
            at = Sector(at.0 + part.len() as u64 / SECTOR_SIZE);
            rest = behind;
        }
        for (i, block) in bytes.chunks(block_bytes).enumerate() {
            let sector = Sector(start.0 + (i * block_bytes) as u64 / SECTOR_SIZE);
            let buffer = self.create(&[Run { sector, bytes: block_bytes as u32 }], kind)?;
            buffer.contents.write().copy_from_slice(block);
        }
        Ok(())
    }
    /// The device's unit of transfer.
    pub fn device_block_bytes(&self) -> usize {
        (self.target.queue.info().logical_block_bytes as usize).max(SECTOR_SIZE as usize)
    }
    /// Drop up to `buffers` blocks that nobody holds; how many were dropped.
    pub fn shrink(&self, buffers: usize) -> usize {
        evict(&mut self.index.lock(), buffers, usize::MAX, |_| true)
    }
    /// What the cache did so far and holds now.
    pub fn statistics(&self) -> BufferStatistics {
        let index = self.index.lock();
        BufferStatistics {
            hits: self.hits.load(Ordering::Relaxed),
            reads: self.reads.load(Ordering::Relaxed),
            buffers: index.buffers.len(),
            bytes: index.bytes,
        }
    }
}

/// What a block at these places is found by.
fn key_of(runs: &[Run]) -> Result<Key, Error> {
    match runs {
        [run] => Ok((run.sector.0, run.bytes)),
        [first, ..] => Ok((first.sector.0, runs.iter().map(|r| r.bytes).sum())),
        [] => Err(Error::Invalid("an empty buffer")),
    }
}

/// Zeroed memory whose size came from the disk (bounded, but not small).
fn zeroed(bytes: usize) -> Result<Box<[u8]>, Error> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes).map_err(|_| Error::NoMemory)?;
    memory.resize(bytes, 0);
    Ok(memory.into_boxed_slice())
}

/// Drop up to `most` unused buffers while `wanted`. New holders come only from the
/// index, which the caller has locked: a count of one stays one. At most `steps` are
/// looked at.
fn evict(index: &mut Index, most: usize, steps: usize, wanted: impl Fn(&Index) -> bool) -> usize {
    let mut dropped = 0;
    // Twice round: the first time may only clear the marks.
    let mut steps = steps.min(2 * index.buffers.len());
    let mut places = 2 * index.buffers.places();
    while steps > 0 && places > 0 && dropped < most && wanted(index) {
        let unused = |buffer: &Arc<Buffer>| {
            !buffer.referenced.swap(false, Ordering::Relaxed) && Arc::strong_count(buffer) == 1
        };
        match index.buffers.turn(unused) {
            Turn::Empty => places -= 1,
            Turn::Kept => (steps, places) = (steps - 1, places - 1),
            // The hand stays: another may have moved to the place.
            Turn::Removed(buffer) => {
                steps -= 1;
                index.bytes -= buffer.length_bytes();
                dropped += 1;
            }
        }
    }
    dropped
}

/// Pages to read into or write from: fresh ones, or, when memory is out, the cache's reserve.
struct Bounce<'a> {
    cache: &'a BufferCache,
    pages: Vec<Page>,
    reserved: bool,
}

impl<'a> Bounce<'a> {
    fn new(cache: &'a BufferCache, bytes: usize) -> Self {
        let wanted = bytes.div_ceil(PAGE_SIZE);
        let pages: Vec<Page> =
            (0..wanted).map_while(|_| cache.target.memory.alloc_page()).collect();
        if !pages.is_empty() {
            return Self { cache, pages, reserved: false };
        }
        let mut reserve = cache.returned.wait_until(cache.reserve.lock(), |r| !r.is_empty());
        let pages = core::mem::take(&mut *reserve);
        drop(reserve);
        Self { cache, pages, reserved: true }
    }
}

impl Drop for Bounce<'_> {
    fn drop(&mut self) {
        if self.reserved {
            *self.cache.reserve.lock() = core::mem::take(&mut self.pages);
            self.cache.returned.notify_all();
        }
    }
}
