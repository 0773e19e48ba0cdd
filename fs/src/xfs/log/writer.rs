//! Records on their way to the device.
//!
//! Records are sealed one by one in a buffer that stays, gathered in pages, and written
//! with one request as long as they lie behind each other. A few pages are kept so that a
//! checkpoint can be written when memory is out, record by record then.
//!
//! What is ordered how:
//!
//! 1. Before the first record of a checkpoint the device is flushed, if anything was
//!    written since the last flush: metadata whose place in the log the record's tail
//!    gives up, and file data that the checkpoint's items point to, must not be lost
//!    where the record is not.
//! 2. The records of a checkpoint may reach the device in any order. A crash leaves gaps,
//!    which recovery sees by the numbers of the laps; it looks for them in the last two
//!    mebibytes (as Linux does), so no more than half of that is written without a flush.
//! 3. What lies at the start of the ring is written when what comes before it, at the end,
//!    is durable. A new log whose first block is of the second lap, and whose last one
//!    was never written, is taken for no log at all.
//! 4. After the last record the device is flushed, and only then is the checkpoint
//!    durable and the space behind its tail free.

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::WaitQueue;
use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::checkpoint::{Layout, Records};
use super::head::Ends;
use super::item::Lsn;
use super::statistics::Counters;
use crate::block::{BioFlags, Queue, Sector, Segment};
use crate::error::{Error, Result};
use crate::platform::{Memory, PAGE_SIZE, Page};
use crate::xfs::ondisk::log_record::{self, BLOCK_BYTES, NewRecord};

/// Bytes gathered for one request at most, and written without a flush at most.
const BATCH_BYTES: usize = 1 << 20;

/// Which of the writes that ended a flush has covered. Shared by the log's own flushes
/// and those on behalf of file data.
pub(super) struct Flusher {
    queue: Arc<Queue>,
    counters: Arc<Counters>,
    /// As many writes had ended when the newest flush that succeeded was started.
    covered: AtomicU64,
    busy: AtomicBool,
    done: WaitQueue,
}

impl Flusher {
    pub(super) fn new(queue: Arc<Queue>, counters: Arc<Counters>) -> Self {
        Self {
            queue,
            counters,
            covered: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            done: WaitQueue::new(),
        }
    }
    /// Make every write that has ended durable. Callers at the same time share a flush;
    /// none is made if nothing was written since the last one.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn flush(&self) -> Result<()> {
        if !self.queue.info().volatile_cache {
            return Ok(());
        }
        let needed = self.queue.changes();
        loop {
            if self.covered.load(Ordering::SeqCst) >= needed && needed > 0 {
                return Ok(());
            }
            if !self.busy.swap(true, Ordering::SeqCst) {
                let result = self.flush_now();
                self.busy.store(false, Ordering::SeqCst);
                self.done.wake_all();
                return result;
            }
            self.done.wait_until(|| {
                let covered = self.covered.load(Ordering::SeqCst) >= needed;
                (covered || !self.busy.load(Ordering::SeqCst)).then_some(())
            });
        }
    }
    fn flush_now(&self) -> Result<()> {
        let ended = self.queue.changes();
        self.counters.flushes(1);
        self.queue.flush()?;
        self.covered.fetch_max(ended, Ordering::SeqCst);
        Ok(())
    }
}

/// The end of the log at which records are added.
pub(super) struct Writer {
    queue: Arc<Queue>,
    memory: Arc<dyn Memory>,
    counters: Arc<Counters>,
    flusher: Arc<Flusher>,
    pub(super) layout: Arc<Layout>,
    /// Where the next record goes.
    head: Lsn,
    /// Where the last one starts.
    previous: u32,
    /// The tail that the newest durable checkpoint states: what lies behind it up to the
    /// head is not overwritten.
    tail: Lsn,
    /// The tail that the records being written state.
    next_tail: Lsn,
    /// The pages records are gathered in, as many as `kept` always there.
    pages: Vec<Page>,
    kept: usize,
    /// Bytes gathered, and where they start.
    gathered: usize,
    gathered_at: u32,
    /// Bytes written since the last flush.
    unflushed: usize,
}

impl Writer {
    pub(super) fn new(
        queue: Arc<Queue>,
        memory: Arc<dyn Memory>,
        counters: Arc<Counters>,
        flusher: Arc<Flusher>,
        layout: Arc<Layout>,
        ends: &Ends,
    ) -> Result<Self> {
        let kept = layout.record_bytes().div_ceil(PAGE_SIZE);
        let mut pages = Vec::new();
        pages.try_reserve_exact(BATCH_BYTES / PAGE_SIZE).map_err(|_| Error::NoMemory)?;
        memory.alloc_pages(kept, &mut pages);
        if pages.len() < kept {
            return Err(Error::NoMemory);
        }
        let (head, tail) = (Lsn(ends.head.0), Lsn(ends.tail.0));
        Ok(Self {
            queue,
            memory,
            counters,
            flusher,
            layout,
            head,
            previous: ends.previous_block(),
            tail,
            next_tail: tail,
            pages,
            kept,
            gathered: 0,
            gathered_at: 0,
            unflushed: 0,
        })
    }
    /// Where the next record goes.
    pub(super) const fn head(&self) -> Lsn {
        self.head
    }
    /// The tail that the newest durable checkpoint states.
    pub(super) const fn tail(&self) -> Lsn {
        self.tail
    }
    /// Bytes that are not to be overwritten.
    pub(super) fn used_bytes(&self) -> u64 {
        self.layout.distance_bytes(self.tail, self.head)
    }
    /// Records follow that state `tail`, or their own start if there is none.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn begin(&mut self, tail: Option<Lsn>) -> Result<Lsn> {
        self.next_tail = tail.unwrap_or(self.head);
        self.flusher.flush()?;
        self.gathered = 0;
        self.unflushed = 0;
        Ok(self.head)
    }
    /// All records were put: make them durable.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.submit()?;
        self.flusher.flush()?;
        self.tail = self.next_tail;
        self.pages.truncate(self.kept);
        Ok(())
    }
    /// Room in the pages for so many bytes more.
    fn has_room(&mut self, bytes: usize) -> bool {
        let needed = (self.gathered + bytes).div_ceil(PAGE_SIZE);
        if self.gathered + bytes > BATCH_BYTES.max(bytes) {
            return false;
        }
        if needed > self.pages.len() {
            self.memory.alloc_pages(needed - self.pages.len(), &mut self.pages);
        }
        needed <= self.pages.len()
    }
    fn gather(&mut self, record: &[u8]) -> Result<()> {
        if !self.has_room(record.len()) {
            self.submit()?;
        }
        if self.gathered == 0 {
            self.gathered_at = self.head.block();
        }
        let mut rest = record;
        while !rest.is_empty() {
            let offset = self.gathered % PAGE_SIZE;
            let (part, behind) = rest.split_at(rest.len().min(PAGE_SIZE - offset));
            self.pages[self.gathered / PAGE_SIZE].write(offset, part);
            self.gathered += part.len();
            rest = behind;
        }
        Ok(())
    }
    /// Write what was gathered, and wait.
    fn submit(&mut self) -> Result<()> {
        let bytes = core::mem::take(&mut self.gathered);
        if bytes == 0 {
            return Ok(());
        }
        if self.unflushed > 0 && self.unflushed + bytes > BATCH_BYTES {
            self.flusher.flush()?;
            self.unflushed = 0;
        }
        let until_end = (self.layout.blocks - self.gathered_at) as usize * BLOCK_BYTES;
        let front = bytes.min(until_end);
        self.write(self.gathered_at, 0, front)?;
        self.unflushed += front;
        if bytes > front {
            self.flusher.flush()?;
            self.write(0, front, bytes - front)?;
            self.unflushed = bytes - front;
        }
        Ok(())
    }
    /// Write `bytes` of the pages from `from` on to the ring.
    fn write(&self, block: u32, from: usize, bytes: usize) -> Result<()> {
        let (mut at, end) = (from, from + bytes);
        let mut segments = Vec::with_capacity(bytes.div_ceil(PAGE_SIZE) + 1);
        while at < end {
            let offset = at % PAGE_SIZE;
            let len = (end - at).min(PAGE_SIZE - offset);
            let page = self.pages[at / PAGE_SIZE].clone();
            segments.push(Segment { page, offset: offset as u32, len: len as u32 });
            at += len;
        }
        let sector = Sector(self.layout.start.0 + u64::from(block));
        self.counters.wrote(bytes as u64);
        Ok(self.queue.write_sync(sector, segments, BioFlags::META)?)
    }
}

impl Records for Writer {
    fn put(&mut self, record: &mut [u8], operations: u32) -> Result<()> {
        let free = self.layout.ring_bytes() - self.used_bytes();
        // Never over the tail: then there would be nothing to recover from.
        if record.len() as u64 > free {
            log::error!("xfs: the log is full: {free} bytes for a record of {}", record.len());
            return Err(Error::Shutdown);
        }
        NewRecord {
            lsn: log_record::Lsn(self.head.0),
            tail: log_record::Lsn(self.next_tail.0),
            previous: self.previous,
            operations,
            size: self.layout.size,
            uuid: self.layout.uuid,
        }
        .seal(record, self.layout.blocks);
        self.gather(record)?;
        self.counters.records(1);
        self.previous = self.head.block();
        self.head = self.layout.advance(self.head, record.len() as u64);
        Ok(())
    }
}
