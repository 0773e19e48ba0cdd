//! A log over an image that mkfs.xfs made, and items that stand for metadata blocks: blocks
//! of the free space, so that the file system stays whole whatever is written to them.
#![allow(dead_code)]

pub mod parse;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use holdfast_fs::Result;
use holdfast_fs::block::{
    Bio, BioFlags, BlockDevice, Completion, DeviceInfo, FaultDisk, MemDisk, MemDiskConfig, Op,
    Plug, Queue, Sector, Segment, TraceDisk,
};
use holdfast_fs::locks;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::platform::{Memory, PAGE_SIZE};
use holdfast_fs::xfs::Geometry;
use holdfast_fs::xfs::buf::ReadError;
use holdfast_fs::xfs::log::head::{self, Ends, Found, ReadLog};
use holdfast_fs::xfs::log::item::{
    CommitSeq, Item, ItemKey, Journal, LogItem, Lsn, Pushed, Vectors,
};
use holdfast_fs::xfs::log::{Log, Ticket};
use holdfast_fs::xfs::ondisk::log_items::{BUF_CHUNK_BYTES, BufFormat, BufKind, ChunkMap};
use holdfast_fs::xfs::ondisk::superblock::Superblock;
use holdfast_fs::xfs::reservation::Reservation;
use holdfast_sync::Mutex;

use crate::xfsprogs::{Scratch, contents, disk_with, repair_by, said, tool};

pub use crate::xfsprogs::image as mkfs;

/// Bytes of the blocks that items stand for.
pub const BLOCK: usize = 4096;

/// How a test's device is to be.
#[derive(Clone, Copy)]
pub struct Setup {
    pub completion: Completion,
    pub memory_pages: u64,
    pub logical_block_bytes: u32,
    pub volatile_cache: bool,
    /// Use only so many blocks of the log.
    pub log_blocks: Option<u32>,
    /// What a request takes, a flush twice as much.
    pub delay_us: u64,
}
impl Default for Setup {
    fn default() -> Self {
        let completion = Completion::Inline;
        Self {
            completion,
            memory_pages: 4096,
            logical_block_bytes: 512,
            volatile_cache: true,
            log_blocks: None,
            delay_us: 0,
        }
    }
}

/// A device that takes its time.
struct SlowDisk(Arc<FaultDisk>, u64);
impl BlockDevice for SlowDisk {
    fn info(&self) -> DeviceInfo {
        self.0.info()
    }
    fn submit(&self, bio: Bio) {
        if self.1 > 0 {
            let times = if bio.op == Op::Flush { 2 } else { 1 };
            std::thread::sleep(std::time::Duration::from_micros(self.1 * times));
        }
        self.0.submit(bio);
    }
    fn kick(&self) {
        self.0.kick();
    }
}

/// A log, and all that is below it.
pub struct Rig {
    pub disk: Arc<MemDisk>,
    pub faults: Arc<FaultDisk>,
    pub trace: Arc<TraceDisk>,
    pub queue: Arc<Queue>,
    pub memory: Arc<HostMemory>,
    pub geometry: Arc<Geometry>,
    pub log: Arc<Log>,
    image_bytes: usize,
    tickets: AtomicU64,
}

/// The ring of a device, past all requests.
pub struct Ring<'a>(pub &'a Rig);
impl ReadLog for Ring<'_> {
    fn blocks(&self) -> u32 {
        self.0.geometry.log_blocks << (self.0.geometry.block_log - 9)
    }
    fn uuid(&self) -> uuid::Uuid {
        self.0.geometry.uuid
    }
    fn read(&self, block: u32, count: u32) -> Result<Vec<u8>, ReadError> {
        let start = self.0.geometry.sector(self.0.geometry.log_start).0;
        let mut bytes = vec![0; count as usize * 512];
        let front = (self.blocks() - block).min(count) as usize * 512;
        let (front, back) = bytes.split_at_mut(front);
        self.0.disk.peek(Sector(start + u64::from(block)), front);
        self.0.disk.peek(Sector(start), back);
        Ok(bytes)
    }
}

impl Rig {
    pub fn new(image: &Arc<Vec<u8>>) -> Self {
        Self::with(image, Setup::default())
    }
    pub fn with(image: &Arc<Vec<u8>>, setup: Setup) -> Self {
        let config = MemDiskConfig {
            completion: setup.completion,
            logical_block_bytes: setup.logical_block_bytes,
            volatile_cache: setup.volatile_cache,
            ..MemDiskConfig::default()
        };
        let disk = disk_with(image.clone(), config);
        let superblock = Superblock::decode(&image[..4096]).expect("superblock");
        let mut geometry = Geometry::new(&superblock);
        geometry.log_blocks = setup.log_blocks.unwrap_or(geometry.log_blocks);
        let geometry = Arc::new(geometry);
        let trace = TraceDisk::new(disk.clone());
        let faults = FaultDisk::new(trace.clone());
        let queue = Queue::new(Arc::new(SlowDisk(faults.clone(), setup.delay_us)));
        let memory = HostMemory::new(setup.memory_pages);
        let ends = Ends {
            head: holdfast_fs::xfs::ondisk::log_record::Lsn::new(1, 0),
            tail: holdfast_fs::xfs::ondisk::log_record::Lsn::new(1, 0),
            last: holdfast_fs::xfs::ondisk::log_record::Lsn::new(1, 0),
            size: 0,
            dropped: 0,
        };
        let log = Log::new(queue.clone(), memory.clone(), geometry.clone(), ends);
        let log = log.expect("a log");
        let image_bytes = image.len();
        let tickets = AtomicU64::new(0);
        let mut rig =
            Self { disk, faults, trace, queue, memory, geometry, log, image_bytes, tickets };
        rig.reopen();
        rig
    }
    /// Go on where the log ends on the device, as after a mount.
    pub fn reopen(&mut self) {
        let ends = match head::find(&Ring(self)).expect("the ring can be read") {
            Found::Clean(ends) => ends,
            other => panic!("the log is not clean: {other:?}"),
        };
        let (queue, memory) = (self.queue.clone(), self.memory.clone());
        self.log = Log::new(queue, memory, self.geometry.clone(), ends).expect("a log");
        self.trace.take();
    }
    /// Bytes of the ring.
    pub fn ring_bytes(&self) -> u64 {
        u64::from(self.geometry.log_blocks) << self.geometry.block_log
    }
    /// The `n`-th block of the upper half of the first group, which is free space.
    pub fn block(&self, n: u64) -> Arc<Block> {
        let first = u64::from(self.geometry.ag_blocks / 2) << (self.geometry.block_log - 9);
        let sector = Sector(first.next_multiple_of(8) + n * 8);
        let end = u64::from(self.geometry.ag_blocks) << (self.geometry.block_log - 9);
        assert!(sector.0 + 8 <= end, "the first group has no block {n}");
        let mut contents = vec![0; BLOCK];
        self.disk.peek(sector, &mut contents);
        Block::new(self, sector, contents)
    }
    /// A ticket for a step that logs so many bytes.
    pub fn reserve(&self, bytes: usize) -> Ticket {
        self.log.reserve(Reservation { bytes: bytes as u32, count: 1 }).expect("space")
    }
    /// Commit changes to blocks as one transaction.
    pub fn commit(&self, changes: &[(&Arc<Block>, usize, &[u8])]) -> CommitSeq {
        let bytes = changes.iter().map(|_| 64 + BLOCK + 40 * 16).sum();
        let mut ticket = self.reserve(bytes);
        let seq = self.commit_with(&mut ticket, changes);
        self.log.release(ticket);
        seq
    }
    /// As [`Rig::commit`], as a step under a ticket.
    pub fn commit_with(
        &self,
        ticket: &mut Ticket,
        changes: &[(&Arc<Block>, usize, &[u8])],
    ) -> CommitSeq {
        let items = changes.iter().map(|(block, at, bytes)| block.change(*at, bytes)).collect();
        // After a shutdown nothing is durable up to whatever number.
        let seq = self.log.commit(ticket, items).unwrap_or_else(|_| self.log.collecting());
        for (block, ..) in changes {
            block.release();
        }
        seq
    }
    /// The device's contents as a file.
    pub fn save(&self, scratch: &Scratch) -> PathBuf {
        let file = scratch.path("image");
        std::fs::write(&file, contents(&self.disk)).expect("image");
        file
    }
    /// `xfs_logprint` reads the log without complaint; what it prints.
    pub fn logprint(&self, args: &[&str]) -> String {
        let scratch = Scratch::new("logprint");
        let (ok, text) = said(tool("xfs_logprint").args(args).arg(self.save(&scratch)));
        let bad = ["ERROR", "rror", "bad ", "Bad ", "illegal", "unexpected", "nknown", "orrupt"];
        for line in text.lines() {
            assert!(
                !bad.iter().any(|word| line.contains(word)),
                "xfs_logprint {args:?}: {line}\n{}",
                tail_of(&text)
            );
        }
        assert!(ok, "xfs_logprint {args:?} failed: {}", tail_of(&text));
        text
    }
    /// `xfs_repair -n` finds nothing wrong, the log clean included.
    pub fn repair(&self) {
        let scratch = Scratch::new("repair");
        let (ok, text) = repair_by(tool("xfs_repair"), &self.save(&scratch));
        assert!(ok && !text.contains("ALERT"), "xfs_repair: {text}");
    }
}

fn tail_of(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// A metadata block of a file system: changed, logged, written in place.
pub struct Block {
    pub sector: Sector,
    queue: Arc<Queue>,
    memory: Arc<HostMemory>,
    log: Weak<Log>,
    pub state: Mutex<State>,
    /// Keeps the pusher off, as a lock would.
    pub held: AtomicBool,
    /// Times it was written in place.
    pub writes: AtomicU64,
    me: Weak<Self>,
}

pub struct State {
    pub contents: Vec<u8>,
    map: ChunkMap,
    pins: u32,
    version: u64,
    pub lsn: Lsn,
    in_flight: bool,
}

impl Block {
    fn new(rig: &Rig, sector: Sector, contents: Vec<u8>) -> Arc<Self> {
        let state = State {
            contents,
            map: ChunkMap::new(BLOCK),
            pins: 0,
            version: 0,
            lsn: Lsn::default(),
            in_flight: false,
        };
        Arc::new_cyclic(|me| Self {
            sector,
            queue: rig.queue.clone(),
            memory: rig.memory.clone(),
            log: Arc::downgrade(&rig.log),
            state: Mutex::new(&locks::BUFFER_ITEM, state),
            held: AtomicBool::new(false),
            writes: AtomicU64::new(0),
            me: me.clone(),
        })
    }
    /// Change it; what is to be logged of it now. It stays pinned until [`Block::release`].
    pub fn change(&self, at: usize, bytes: &[u8]) -> LogItem {
        let mut state = self.state.lock();
        state.pins += 1;
        state.version += 1;
        state.contents[at..at + bytes.len()].copy_from_slice(bytes);
        state.map.mark(at, at + bytes.len() - 1);
        let map = state.map;
        let (daddr, blocks) = (self.sector.0, (BLOCK / 512) as u16);
        let format = BufFormat { kind: BufKind::Unknown, flags: 0, blocks, daddr, map };
        let mut vectors = Vectors::new();
        vectors.push_with(|out| format.encode(out));
        for (first, count) in map.runs() {
            let at = first * BUF_CHUNK_BYTES;
            vectors.push(&state.contents[at..at + count * BUF_CHUNK_BYTES]);
        }
        LogItem { item: self.me.upgrade().expect("alive"), vectors }
    }
    /// The transaction is over.
    pub fn release(&self) {
        self.state.lock().pins -= 1;
    }
    pub fn pins(&self) -> u32 {
        self.state.lock().pins
    }
    pub fn contents(&self) -> Vec<u8> {
        self.state.lock().contents.clone()
    }
    fn written(&self, version: u64, lsn: Lsn, ok: bool) {
        let Some(log) = self.log.upgrade() else { return };
        if !ok {
            return log.shut_down("a block cannot be written in place");
        }
        self.writes.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        state.in_flight = false;
        if state.version == version {
            state.map = ChunkMap::new(BLOCK);
            log.ail_remove(&self.key(), lsn);
        }
    }
}

impl Item for Block {
    fn key(&self) -> ItemKey {
        ItemKey::Buffer(self.sector.0, BLOCK as u32)
    }
    fn pin(&self) {
        self.state.lock().pins += 1;
    }
    fn unpin(&self) {
        let mut state = self.state.lock();
        state.pins = state.pins.checked_sub(1).expect("pinned");
    }
    fn committed(&self, lsn: Lsn) -> Option<Lsn> {
        let mut state = self.state.lock();
        assert!(state.lsn < lsn, "checkpoints become durable in their order");
        assert!(state.pins > 0);
        state.lsn = lsn;
        Some(lsn)
    }
    fn push(self: Arc<Self>, plug: &mut Plug<'_>) -> Result<Pushed> {
        if self.held.load(Ordering::SeqCst) {
            return Ok(Pushed::Locked);
        }
        let mut state = self.state.lock();
        if state.pins > 0 {
            return Ok(Pushed::Pinned);
        }
        if state.in_flight {
            return Ok(Pushed::InFlight);
        }
        let page = self.memory.alloc_page().ok_or(holdfast_fs::Error::NoMemory)?;
        page.write(0, &state.contents);
        state.in_flight = true;
        let (version, lsn) = (state.version, state.lsn);
        drop(state);
        let segments = Segment::cover(&[page], PAGE_SIZE);
        let sector = self.sector;
        let done = Box::new(move |r: Result<(), _>| self.written(version, lsn, r.is_ok()));
        plug.submit(Bio::transfer(Op::Write, sector, segments, BioFlags::META, done));
        Ok(Pushed::Submitted)
    }
}

/// An intent or its end, with a payload of so many bytes.
pub struct Promise {
    pub id: u64,
    pub ends: bool,
    pub pins: AtomicU64,
    pub committed: AtomicBool,
}
impl Promise {
    pub fn new(id: u64, ends: bool) -> Arc<Self> {
        let (pins, committed) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { id, ends, pins, committed })
    }
    /// As it is logged: the format of an EFI or EFD of one extent.
    pub fn log_item(self: &Arc<Self>) -> LogItem {
        let mut vectors = Vectors::new();
        let kind: u16 = if self.ends { 0x1237 } else { 0x1236 };
        vectors.push_with(|out| {
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&1u16.to_le_bytes());
            out.extend_from_slice(&1u32.to_le_bytes());
            out.extend_from_slice(&self.id.to_le_bytes());
            out.extend_from_slice(&77u64.to_le_bytes());
            out.extend_from_slice(&3u32.to_le_bytes());
            out.extend_from_slice(&[0; 4]);
        });
        LogItem { item: self.clone(), vectors }
    }
}
impl Item for Promise {
    fn key(&self) -> ItemKey {
        if self.ends { ItemKey::Done(self.id) } else { ItemKey::Intent(self.id) }
    }
    fn pin(&self) {
        self.pins.fetch_add(1, Ordering::SeqCst);
    }
    fn unpin(&self) {
        assert!(self.pins.fetch_sub(1, Ordering::SeqCst) > 0);
    }
    fn committed(&self, lsn: Lsn) -> Option<Lsn> {
        self.committed.store(true, Ordering::SeqCst);
        (!self.ends).then_some(lsn)
    }
    fn push(self: Arc<Self>, _: &mut Plug<'_>) -> Result<Pushed> {
        Ok(Pushed::Waiting)
    }
    fn ends_intent(&self) -> Option<u64> {
        self.ends.then_some(self.id)
    }
}
