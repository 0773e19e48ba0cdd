//! The way to a device: checks, splitting, flush semantics, counting.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::atomic::{AtomicBool, Ordering};
use holdfast_sync::{Mutex, WaitQueue};

use super::statistics::{Counters, QueueStatistics};
use super::{
    Bio, BioFlags, BlockDevice, DeviceInfo, Done, IoError, Op, SECTOR_SIZE, Sector, Segment,
};
use crate::locks;
use crate::platform::{Memory, PAGE_SIZE, Page};

/// A device's entrance. Cheap to share; callers on any thread.
pub struct Queue {
    pub(super) core: Arc<Core>,
}

/// What requests in flight refer to.
pub(super) struct Core {
    device: Arc<dyn BlockDevice>,
    pub(super) info: DeviceInfo,
    pub(super) counters: Counters,
}

/// A request's entry in the statistics while the device works on it.
pub(super) struct Charge(Arc<Core>);

impl Charge {
    pub(super) fn settle(self, op: Op, ok: bool) {
        self.0.counters.ended(op, ok);
    }
}

impl Queue {
    /// The entrance to `device`.
    pub fn new(device: Arc<dyn BlockDevice>) -> Arc<Self> {
        let mut info = device.info();
        let block = u64::from(info.logical_block_bytes.max(SECTOR_SIZE as u32));
        info.logical_block_bytes = block as u32;
        info.max_segments = info.max_segments.max(1);
        info.max_bytes = (info.max_bytes / block * block).max(block);
        info.max_range_bytes = (info.max_range_bytes / block * block).max(block);
        Arc::new(Self { core: Arc::new(Core { device, info, counters: Counters::default() }) })
    }
    /// What the device was when the queue was made.
    pub fn info(&self) -> &DeviceInfo {
        &self.core.info
    }
    /// The device's size just now.
    pub fn capacity_sectors(&self) -> u64 {
        self.core.device.capacity_sectors()
    }
    /// What was asked of the device so far.
    pub fn statistics(&self) -> QueueStatistics {
        self.core.counters.snapshot()
    }
    /// Writes, write-zeroes and discards that have ended. Counted before the request's
    /// callback runs: as long as the number is what it was before a flush was started,
    /// that flush covers all of them.
    pub fn changes(&self) -> u64 {
        self.core.counters.changes()
    }
    /// Start a request. Its end is told through the bio, possibly before this returns.
    /// A request the device cannot carry out ends at once, with an error.
    pub fn submit(&self, bio: Bio) {
        self.core.start(bio);
        self.core.device.kick();
    }
    /// Start a request and wait for its end. The bio's own callback runs first.
    ///
    /// # Errors
    /// Those of the request.
    pub fn submit_and_wait(&self, mut bio: Bio) -> Result<(), IoError> {
        let waiter = Arc::new(Waiter::default());
        let theirs = waiter.clone();
        let done = bio.done.take();
        bio.done = Some(Box::new(move |result| {
            if let Some(done) = done {
                done(result);
            }
            theirs.finish(result);
        }));
        self.submit(bio);
        waiter.wait()
    }
    /// Make every write that has completed durable, and wait for that.
    ///
    /// # Errors
    /// The device's.
    pub fn flush(&self) -> Result<(), IoError> {
        let flags = BioFlags::SYNC;
        self.submit_and_wait(Bio::without_data(Op::Flush, Sector(0), 0, flags, ignore()))
    }
    /// Read into `segments` from `sector` on, and wait.
    ///
    /// # Errors
    /// Those of the request; the memory's contents are then undefined.
    pub fn read_sync(
        &self,
        sector: Sector,
        segments: Vec<Segment>,
        flags: BioFlags,
    ) -> Result<(), IoError> {
        let flags = flags | BioFlags::SYNC;
        self.submit_and_wait(Bio::transfer(Op::Read, sector, segments, flags, ignore()))
    }
    /// Write `segments` from `sector` on, and wait.
    ///
    /// # Errors
    /// Those of the request; the disk's contents are then undefined.
    pub fn write_sync(
        &self,
        sector: Sector,
        segments: Vec<Segment>,
        flags: BioFlags,
    ) -> Result<(), IoError> {
        let flags = flags | BioFlags::SYNC;
        self.submit_and_wait(Bio::transfer(Op::Write, sector, segments, flags, ignore()))
    }
    /// Read `dst.len()` bytes from `sector` on, through pages of `memory`, and wait.
    /// The length is a multiple of the device's block.
    ///
    /// # Errors
    /// Those of the request; no memory.
    pub fn read_bytes(
        &self,
        memory: &dyn Memory,
        sector: Sector,
        dst: &mut [u8],
        flags: BioFlags,
    ) -> crate::Result<()> {
        let pages = pages_for(memory, dst.len())?;
        self.read_sync(sector, Segment::cover(&pages, dst.len()), flags)?;
        for (chunk, page) in dst.chunks_mut(PAGE_SIZE).zip(&pages) {
            page.read(0, chunk);
        }
        Ok(())
    }
    /// Write `src` from `sector` on, through pages of `memory`, and wait.
    /// The length is a multiple of the device's block.
    ///
    /// # Errors
    /// Those of the request; no memory.
    pub fn write_bytes(
        &self,
        memory: &dyn Memory,
        sector: Sector,
        src: &[u8],
        flags: BioFlags,
    ) -> crate::Result<()> {
        let pages = pages_for(memory, src.len())?;
        for (chunk, page) in src.chunks(PAGE_SIZE).zip(&pages) {
            page.write(0, chunk);
        }
        Ok(self.write_sync(sector, Segment::cover(&pages, src.len()), flags)?)
    }
}

fn ignore() -> Done {
    Box::new(|_| ())
}

fn pages_for(memory: &dyn Memory, bytes: usize) -> crate::Result<Vec<Page>> {
    (0..bytes.div_ceil(PAGE_SIZE))
        .map(|_| memory.alloc_page().ok_or(crate::Error::NoMemory))
        .collect()
}

impl Core {
    /// Can the device carry this out?
    pub(super) fn check(&self, bio: &Bio) -> Result<(), IoError> {
        let block = u64::from(self.info.logical_block_bytes);
        match bio.op {
            Op::Flush => return Ok(()),
            Op::Read => {}
            Op::Write | Op::Discard | Op::WriteZeroes if self.info.readonly => {
                return Err(IoError::ReadOnly);
            }
            Op::Write => {}
            Op::Discard if !self.info.discard => return Err(IoError::Unsupported),
            Op::WriteZeroes if !self.info.write_zeroes => return Err(IoError::Unsupported),
            Op::Discard | Op::WriteZeroes => {}
        }
        if matches!(bio.op, Op::Read | Op::Write) {
            let mut sum = 0;
            for s in &bio.segments {
                let end = u64::from(s.offset) + u64::from(s.len);
                let beyond = end > s.page.length() as u64;
                if !u64::from(s.len).is_multiple_of(block) || s.len == 0 || beyond {
                    return Err(IoError::Misaligned);
                }
                sum += u64::from(s.len);
            }
            if sum != bio.length_bytes {
                return Err(IoError::Misaligned);
            }
        }
        let aligned = bio.sector.0.is_multiple_of(block / SECTOR_SIZE);
        if !aligned || !bio.length_bytes.is_multiple_of(block) {
            return Err(IoError::Misaligned);
        }
        let end = bio.sector.0.checked_add(bio.length_bytes / SECTOR_SIZE);
        if end.is_none_or(|end| end > self.device.capacity_sectors()) {
            return Err(IoError::OutOfRange);
        }
        Ok(())
    }
    /// Check a request and start it. The caller kicks the device.
    pub(super) fn start(self: &Arc<Self>, bio: Bio) {
        match self.check(&bio) {
            Ok(()) => self.start_checked(bio),
            Err(e) => bio.complete(Err(e)),
        }
    }
    pub(super) fn start_checked(self: &Arc<Self>, bio: Bio) {
        let cached = self.info.volatile_cache && !self.info.readonly;
        match bio.op {
            Op::Flush if cached => self.issue(bio),
            // Without a volatile cache what completed is durable.
            Op::Flush => bio.complete(Ok(())),
            Op::Write if cached && bio.flags.intersects(BioFlags::PREFLUSH | BioFlags::FUA) => {
                self.start_ordered(bio);
            }
            _ => self.split(bio),
        }
    }
    /// No device here knows FUA, so: flush (if asked), write, flush (if asked), each after
    /// the one before has ended.
    fn start_ordered(self: &Arc<Self>, mut bio: Bio) {
        if !bio.flags.contains(BioFlags::PREFLUSH) {
            return self.write_through(bio);
        }
        bio.flags.remove(BioFlags::PREFLUSH);
        let core = self.clone();
        let then: Done = Box::new(move |result| match result {
            Ok(()) => {
                core.write_through(bio);
                core.device.kick();
            }
            Err(e) => bio.complete(Err(e)),
        });
        self.issue(Bio::without_data(Op::Flush, Sector(0), 0, BioFlags::SYNC, then));
    }
    fn write_through(self: &Arc<Self>, mut bio: Bio) {
        if bio.flags.contains(BioFlags::FUA) {
            bio.flags.remove(BioFlags::FUA);
            let core = self.clone();
            let done = bio.done.take();
            bio.done = Some(Box::new(move |result| match (result, done) {
                (Ok(()), Some(done)) => {
                    let flags = BioFlags::SYNC;
                    core.issue(Bio::without_data(Op::Flush, Sector(0), 0, flags, done));
                    core.device.kick();
                }
                (Err(e), Some(done)) => done(Err(e)),
                (_, None) => {}
            }));
        }
        self.split(bio);
    }
    /// Cut a request to what the device takes at once.
    fn split(self: &Arc<Self>, mut bio: Bio) {
        let info = &self.info;
        if bio.length_bytes == 0 {
            return bio.complete(Ok(()));
        }
        let transfer = matches!(bio.op, Op::Read | Op::Write);
        let limit = if transfer { info.max_bytes } else { info.max_range_bytes };
        if bio.length_bytes <= limit && bio.segments.len() <= info.max_segments {
            return self.issue(bio);
        }
        let pieces = if transfer {
            let segments = core::mem::take(&mut bio.segments);
            cut_segments(segments, info.max_segments, limit, info.logical_block_bytes)
        } else {
            let whole = (0..bio.length_bytes / limit).map(|_| (limit, Vec::new()));
            let rest = bio.length_bytes % limit;
            whole.chain((rest != 0).then(|| (rest, Vec::new()))).collect()
        };
        let parts = Parts::of(bio.done.take(), pieces.len());
        let mut sector = bio.sector;
        for (length_bytes, segments) in pieces {
            let parts = parts.clone();
            self.issue(Bio {
                op: bio.op,
                sector,
                segments,
                length_bytes,
                flags: bio.flags,
                done: Some(Box::new(move |result| parts.ended(result))),
                charge: None,
            });
            sector.0 += length_bytes / SECTOR_SIZE;
        }
    }
    fn issue(self: &Arc<Self>, mut bio: Bio) {
        self.counters.started(bio.op, bio.length_bytes);
        bio.charge = Some(Charge(self.clone()));
        self.device.submit(bio);
    }
    pub(super) fn kick(&self) {
        self.device.kick();
    }
}

/// Group segments into pieces of at most `max_segments` and `max_bytes`, cutting a segment
/// where the limit falls inside it. `max_bytes` is a multiple of `block_bytes`.
fn cut_segments(
    segments: Vec<Segment>,
    max_segments: usize,
    max_bytes: u64,
    block_bytes: u32,
) -> Vec<(u64, Vec<Segment>)> {
    debug_assert!(max_bytes > 0 && max_bytes.is_multiple_of(u64::from(block_bytes)));
    let mut pieces = Vec::new();
    let mut piece = Vec::new();
    let mut bytes = 0;
    for mut segment in segments {
        while segment.len > 0 {
            let take = u64::from(segment.len).min(max_bytes - bytes) as u32;
            let head = Segment { page: segment.page.clone(), offset: segment.offset, len: take };
            piece.push(head);
            bytes += u64::from(take);
            segment.offset += take;
            segment.len -= take;
            if piece.len() == max_segments || bytes == max_bytes {
                pieces.push((bytes, core::mem::take(&mut piece)));
                bytes = 0;
            }
        }
    }
    if !piece.is_empty() {
        pieces.push((bytes, piece));
    }
    pieces
}

/// A request that went to the device in several parts: ends with the last of them, with
/// the first error.
struct Parts(Mutex<PartsState>);

struct PartsState {
    left: usize,
    result: Result<(), IoError>,
    done: Option<Done>,
}

impl Parts {
    fn of(done: Option<Done>, left: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(&locks::DEVICE, PartsState { left, result: Ok(()), done })))
    }
    fn ended(&self, result: Result<(), IoError>) {
        let mut state = self.0.lock();
        state.result = state.result.and(result);
        state.left -= 1;
        if state.left == 0 {
            let (result, done) = (state.result, state.done.take());
            // The callback may take locks: not under ours.
            drop(state);
            if let Some(done) = done {
                done(result);
            }
        }
    }
}

/// Somebody who waits for one request.
struct Waiter {
    done: AtomicBool,
    result: Mutex<Result<(), IoError>>,
    queue: WaitQueue,
}

impl Default for Waiter {
    fn default() -> Self {
        Self {
            done: AtomicBool::new(false),
            result: Mutex::new(&locks::DEVICE, Ok(())),
            queue: WaitQueue::new(),
        }
    }
}

impl Waiter {
    fn finish(&self, result: Result<(), IoError>) {
        *self.result.lock() = result;
        self.done.store(true, Ordering::SeqCst);
        self.queue.wake_all();
    }
    fn wait(&self) -> Result<(), IoError> {
        self.queue.wait_until(|| self.done.load(Ordering::SeqCst).then_some(()));
        *self.result.lock()
    }
}
