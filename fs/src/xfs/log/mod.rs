//! The log: a ring of 512-byte blocks with records of what is to be written where.
//!
//! ```text
//! Trans::commit ─ items ─> CIL          what is committed, newest contents of each item
//!                           │  force(), or it has grown
//!                           v
//!                       checkpoint      one transaction in records of the ring
//!                           │  durable
//!                           v
//!                          AIL          what is logged and not in place, by position
//!                           │  space is short, unmount, idle
//!                           v
//!                       Item::push      written in place: leaves the AIL, the tail moves
//! ```
//!
//! | file | |
//! |------|--|
//! | [`item`] | what transactions hand over, and what is asked of it later |
//! | `cil` | collecting what is committed |
//! | `checkpoint` | a checkpoint as operations in records; the shape of the ring |
//! | `writer` | records to the device; flushes |
//! | `force` | durable up to a commit: who writes, who waits; what follows a checkpoint |
//! | `ail` | items by position; the tail |
//! | `push` | moving the tail; the log's thread; covering an idle log |
//! | `space` | reservations, and why nobody waits for ever |
//! | `statistics` | counters |
//! | [`head`] | find the newest record and tell whether the file system was unmounted |
//! | [`recovery`] | bring what was logged and is not in place to its place |
//!
//! A transaction is durable when its checkpoint is. Checkpoints are written one at a time
//! by whoever needs one, not by a thread of their own: while one is being written, all
//! who need the next gather in the CIL, and the first of them writes it for all.
//!
//! The log's thread only keeps the log from filling: it writes checkpoints that have grown
//! large, or lain for half a minute, pushes the oldest items to their places when less
//! than half of the ring is free, and covers a log in which nothing happens. Without it
//! (programs of the host, simple tests) whoever waits for space does what is needed.
//!
//! When a write to the log fails, or somebody says [`Journal::shut_down`], nothing more
//! is written and everybody gets [`Error::Shutdown`]. What was durable stays so.
//!
//! Items hold on to the file system, and the AIL to the items: a file system is let go
//! only after [`Log::push_all`] or a shutdown, and [`Log::stop`].
//!
//! Owns: the log's blocks, the order in which metadata gets to its place. Does not own:
//! what items mean, recovery's decisions.
//!
//! Locks: `LOG_PUSH` (the writer; held while a checkpoint is written), `CIL`, `AIL`,
//! `LOG_SPACE`, in this order.
//! Reading takes no lock; it happens at mount, before anybody else is there.

mod ail;
mod checkpoint;
mod cil;
mod force;
pub mod head;
pub mod item;
mod push;
pub mod recovery;
mod space;
mod statistics;
mod writer;

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use holdfast_sync::thread::{self, JoinHandle};
use holdfast_sync::{Mutex, WaitQueue, check};

use self::ail::Ail;
use self::checkpoint::Layout;
use self::cil::Context;
use self::force::Pen;
use self::head::Ends;
use self::item::{CommitSeq, ItemKey, Journal, LogItem, Lsn};
pub use self::push::Cover;
pub use self::space::Ticket;
use self::space::{Place, Space};
use self::statistics::Counters;
pub use self::statistics::LogStatistics;
use self::writer::{Flusher, Writer};
use super::buf::{BufferCache, ReadError};
use super::geometry::Geometry;
use super::ondisk::log_record::BLOCK_BYTES;
use super::reservation::Reservation;
use crate::block::{Queue, Sector};
use crate::error::{Error, Result};
use crate::locks;
use crate::platform::Memory;

/// A checkpoint is written when it has collected as much of the ring as this, or
/// [`MOST_COLLECTED_BYTES`].
const COLLECTED_SHARE: u64 = 8;
/// The most that is collected before a checkpoint is written.
const MOST_COLLECTED_BYTES: u64 = 32 << 20;
/// The longest wait of somebody who pushes the tail himself.
const WAIT_NS: u64 = 10_000_000;

/// The log of a file system that is written to.
pub struct Log {
    queue: Arc<Queue>,
    layout: Arc<Layout>,
    counters: Arc<Counters>,
    flusher: Arc<Flusher>,
    space: Space,
    ail: Ail,
    /// What is committed and not yet being written.
    cil: Mutex<Context>,
    /// Its number.
    collecting: AtomicU64,
    /// Bytes collected there.
    cil_bytes: AtomicU64,
    /// The end records are added at. Held while a checkpoint is written.
    pen: Mutex<Pen>,
    /// Somebody writes a checkpoint, or is about to.
    writing: AtomicBool,
    /// Wakes those who wait for a checkpoint to be written.
    written: WaitQueue,
    /// Calls of [`Log::force`] that wait for the checkpoint being written and for the next,
    /// by the lowest bit of its number; and a queue to wait for more of them in.
    forcing: [AtomicU64; 2],
    arrived: WaitQueue,
    /// How many are expected to share the next checkpoint, and how long the last one took.
    companions: AtomicU64,
    write_ns: AtomicU64,
    /// The newest commit that is durable.
    durable: AtomicU64,
    /// Where the next record goes, when nobody is writing.
    head: AtomicU64,
    /// The tail that the newest durable checkpoint states.
    durable_tail: AtomicU64,
    /// The head behind the checkpoint that covered the log.
    covered: AtomicU64,
    cover: Mutex<Option<Arc<Cover>>>,
    shut_down: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
    thread_id: AtomicU64,
    running: AtomicBool,
    kicked: AtomicBool,
    wake: WaitQueue,
    interval_ns: AtomicU64,
}

impl Log {
    /// The log of a file system, to be written from the head in `ends` on. Everything
    /// behind their tail is kept until the first checkpoint is durable.
    ///
    /// # Errors
    /// No memory; a log that cannot be written on this device.
    pub fn new(
        queue: Arc<Queue>,
        memory: Arc<dyn Memory>,
        geometry: Arc<Geometry>,
        ends: Ends,
    ) -> Result<Arc<Self>> {
        let layout = Arc::new(Layout::new(&geometry, queue.info().logical_block_bytes)?);
        let counters = Arc::new(Counters::default());
        let flusher = Arc::new(Flusher::new(queue.clone(), counters.clone()));
        let (head, tail) = (Lsn(ends.head.0), Lsn(ends.tail.0));
        let writer = Writer::new(
            queue.clone(),
            memory,
            counters.clone(),
            flusher.clone(),
            layout.clone(),
            &ends,
        )?;
        Ok(Arc::new(Self {
            space: Space::new(&layout, tail, head),
            queue,
            layout,
            counters,
            flusher,
            ail: Ail::new(),
            cil: Mutex::new(&locks::CIL, Context::new(CommitSeq(1))),
            collecting: AtomicU64::new(1),
            cil_bytes: AtomicU64::new(0),
            pen: Mutex::new(&locks::LOG_PUSH, Pen::new(writer)?),
            writing: AtomicBool::new(false),
            written: WaitQueue::new(),
            forcing: [const { AtomicU64::new(0) }; 2],
            arrived: WaitQueue::new(),
            companions: AtomicU64::new(0),
            write_ns: AtomicU64::new(0),
            durable: AtomicU64::new(0),
            head: AtomicU64::new(head.0),
            durable_tail: AtomicU64::new(tail.0),
            covered: AtomicU64::new(head.0),
            cover: Mutex::new(&locks::STATE, None),
            shut_down: AtomicBool::new(false),
            thread: Mutex::new(&locks::STATE, None),
            thread_id: AtomicU64::new(0),
            running: AtomicBool::new(false),
            kicked: AtomicBool::new(false),
            wake: WaitQueue::new(),
            interval_ns: AtomicU64::new(push::INTERVAL_NS),
        }))
    }
    /// Reserve log space for an operation, before it locks inodes or changes anything.
    /// Waits while there is none.
    ///
    /// `bytes` of the reservation are those of a step's regions with 12 more for each;
    /// headers of records and of the checkpoint are added here.
    ///
    /// # Errors
    /// The log was shut down, or could never hold so much.
    pub fn reserve(&self, reservation: Reservation) -> Result<Ticket> {
        self.throttle(2)?;
        let (mut ticket, place) = self.space.reserve(reservation, &self.layout)?;
        if place != Place::Granted {
            self.wait_for_space(place)?;
            self.space.take(&mut ticket, place);
        }
        Ok(ticket)
    }
    /// Room for the next step of an operation that has just committed one. May wait; what
    /// the caller still holds locked must have been logged in the step before.
    ///
    /// # Errors
    /// The log was shut down.
    pub fn regrant(&self, ticket: &mut Ticket) -> Result<()> {
        self.throttle(3)?;
        let place = self.space.regrant(ticket);
        if place != Place::Granted {
            self.wait_for_space(place)?;
            self.space.take(ticket, place);
        }
        Ok(())
    }
    /// The operation is over: give back what it did not use.
    pub fn release(&self, ticket: Ticket) {
        self.space.release(&ticket);
    }
    /// Commit a transaction's items into the CIL. Durable after [`Log::force`] up to the
    /// number returned.
    ///
    /// # Errors
    /// The log was shut down. Nothing may be done then that relies on what was changed: the
    /// blocks that it allocates may be somebody else's on disk.
    pub fn commit(&self, ticket: &mut Ticket, mut items: Vec<LogItem>) -> Result<CommitSeq> {
        let (seq, bytes, good, exceeded) = {
            let mut cil = self.cil.lock();
            while !cil.fits(&items) {
                // The checkpoint that the patches are to is being written since.
                let seq = cil.seq;
                drop(cil);
                for LogItem { item, vectors } in &mut items {
                    if vectors.patched().is_some() {
                        *vectors = item.whole(seq);
                    }
                }
                cil = self.cil.lock();
            }
            if self.is_shut_down() {
                return Err(Error::Shutdown);
            }
            let before = cil.size();
            let good = cil.add(&mut items);
            let after = cil.size();
            let mut exceeded = 0;
            if after != before {
                let worst = |size| Context::worst_bytes(size, &self.layout);
                exceeded = self.space.committed(ticket, worst(before), worst(after));
                self.cil_bytes.store(cil.bytes(), Ordering::Relaxed);
            }
            (cil.seq, cil.bytes(), good, exceeded)
        };
        if !good {
            self.shut_down("a transaction changed what another one held");
        }
        if exceeded > 0 {
            self.counters.overruns(1);
            log::error!("xfs: a transaction logged {exceeded} bytes more than it had reserved");
        }
        if bytes >= self.most_collected() && self.has_thread() {
            self.kick();
        }
        Ok(seq)
    }
    /// The checkpoint that commits go into just now.
    pub fn collecting(&self) -> CommitSeq {
        CommitSeq(self.collecting.load(Ordering::Acquire))
    }
    /// Make every write that has ended durable, as for file data that needs no log. Shared
    /// among callers; nothing if nothing was written since the last flush.
    ///
    /// # Errors
    /// The device's.
    pub fn flush_device(&self) -> Result<()> {
        self.flusher.flush()
    }
    /// Where recovery would have to start, were the items in memory all there is to know.
    pub fn tail(&self) -> Lsn {
        self.ail.tail().unwrap_or_else(|| self.head())
    }
    /// Where recovery would start.
    pub fn durable_tail(&self) -> Lsn {
        Lsn(self.durable_tail.load(Ordering::SeqCst))
    }
    /// Where the next record goes.
    pub fn head(&self) -> Lsn {
        Lsn(self.head.load(Ordering::SeqCst))
    }
    /// Is this item among the older ones in the log? Whoever keeps an intent open, or an
    /// inode locked, over many steps logs it anew then, so that it does not hold the tail.
    pub fn is_old(&self, key: &ItemKey) -> bool {
        let Some(lsn) = self.ail.position(key) else { return false };
        self.layout.distance_bytes(lsn, self.head()) > self.layout.ring_bytes() / 4
    }
    /// May whoever goes on with an operation have to wait for space soon? Operations are
    /// never promised more than half of the ring together, so with more than that free
    /// nobody has to.
    pub fn is_tight(&self) -> bool {
        self.free_bytes() <= self.capacity_bytes() / 2
    }
    /// Items that are logged and not in place.
    pub fn ail_len(&self) -> usize {
        self.ail.len()
    }
    /// Bytes that operations can reserve now.
    pub fn free_bytes(&self) -> u64 {
        self.space.free_bytes()
    }
    /// Bytes that operations can use and reserve in all.
    pub fn capacity_bytes(&self) -> u64 {
        self.space.capacity()
    }
    /// What happened so far.
    pub fn statistics(&self) -> LogStatistics {
        self.counters.snapshot()
    }
    /// Bytes from which a checkpoint is written in the background.
    fn most_collected(&self) -> u64 {
        (self.layout.ring_bytes() / COLLECTED_SHARE).min(MOST_COLLECTED_BYTES)
    }
    fn cil_is_large(&self) -> bool {
        self.cil_bytes.load(Ordering::Relaxed) >= self.most_collected()
    }
    /// Much more was collected than should be: whoever wants to add to it writes it first.
    fn throttle(&self, times: u64) -> Result<()> {
        if self.is_shut_down() {
            return Err(Error::Shutdown);
        }
        let times = if self.has_thread() { times } else { 1 };
        if self.cil_bytes.load(Ordering::Relaxed) < self.most_collected() * times {
            return Ok(());
        }
        self.force_all()
    }
    /// Wait until it is one's turn and there is space.
    fn wait_for_space(&self, place: Place) -> Result<()> {
        if self.space.is_granted(place) {
            return Ok(());
        }
        check::before(&locks::LOG_PUSH);
        self.counters.waits(1);
        let over = || (self.is_shut_down() || self.space.is_granted(place)).then_some(());
        while over().is_none() {
            if self.has_thread() && self.thread_id.load(Ordering::Relaxed) != thread::id() {
                self.kick();
                let over = || over().or_else(|| (!self.has_thread()).then_some(()));
                self.space.granted.wait_until(over);
            } else {
                self.relieve()?;
                self.space.granted.wait_timeout(WAIT_NS, over);
            }
        }
        if self.is_shut_down() { Err(Error::Shutdown) } else { Ok(()) }
    }
}

impl Journal for Log {
    fn ail_remove(&self, key: &ItemKey, seen: Lsn) {
        self.ail.remove(key, seen);
    }
    fn shut_down(&self, reason: &str) {
        if self.shut_down.swap(true, Ordering::SeqCst) {
            return;
        }
        log::error!("xfs: shut down: {reason}");
        for queue in [&self.written, &self.arrived, &self.space.granted, &self.ail.departed] {
            queue.wake_all();
        }
        self.wake.wake_all();
    }
    fn is_shut_down(&self) -> bool {
        self.shut_down.load(Ordering::SeqCst)
    }
}

/// The log's blocks on the device.
pub struct LogDevice<'a> {
    buffers: &'a BufferCache,
    start: Sector,
    /// 512-byte blocks in the ring.
    blocks: u32,
    uuid: uuid::Uuid,
}

impl<'a> LogDevice<'a> {
    /// The internal log of a file system.
    pub const fn new(buffers: &'a BufferCache, geometry: &Geometry) -> Self {
        Self {
            buffers,
            start: geometry.sector(geometry.log_start),
            blocks: geometry.log_blocks << (geometry.block_log - 9),
            uuid: geometry.uuid,
        }
    }
    /// 512-byte blocks in the ring.
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }
    /// Read `count` blocks from `block` on, going round the end.
    ///
    /// # Errors
    /// The device's, no memory.
    pub fn read(&self, block: u32, count: u32) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(count as usize * BLOCK_BYTES).map_err(|_| ReadError::NoMemory)?;
        bytes.resize(count as usize * BLOCK_BYTES, 0);
        let until_end = self.blocks.saturating_sub(block).min(count);
        let (front, back) = bytes.split_at_mut(until_end as usize * BLOCK_BYTES);
        self.read_at(block, front)?;
        self.read_at(0, back)?;
        Ok(bytes)
    }
    /// Read whole sectors of the device, whatever their size, that contain the blocks.
    fn read_at(&self, block: u32, dst: &mut [u8]) -> Result<(), ReadError> {
        if dst.is_empty() {
            return Ok(());
        }
        let unit = (self.buffers.device_block_bytes() / BLOCK_BYTES) as u32;
        let count = (dst.len() / BLOCK_BYTES) as u32;
        let first = block / unit * unit;
        let end = (block + count).next_multiple_of(unit);
        let sector = Sector(self.start.0 + u64::from(first));
        if first == block && end == block + count {
            return self.buffers.read_raw(sector, dst);
        }
        let mut whole = Vec::new();
        let bytes = (end - first) as usize * BLOCK_BYTES;
        whole.try_reserve_exact(bytes).map_err(|_| ReadError::NoMemory)?;
        whole.resize(bytes, 0);
        self.buffers.read_raw(sector, &mut whole)?;
        let skip = (block - first) as usize * BLOCK_BYTES;
        dst.copy_from_slice(&whole[skip..skip + dst.len()]);
        Ok(())
    }
}
