//! A disk in memory.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_sync::Mutex;

use super::executor::{Completion, Executor};
use crate::block::{Bio, BlockDevice, DeviceInfo, IoError, Op, SECTOR_SIZE, Sector};
use crate::locks;

/// Bytes in one piece of the sparse contents.
const CHUNK: usize = 4096;

/// How a [`MemDisk`] is to be.
#[derive(Clone, Debug)]
pub struct MemDiskConfig {
    /// The name.
    pub name: String,
    /// Size in 512-byte sectors.
    pub capacity_sectors: u64,
    /// Smallest unit of a transfer, in bytes.
    pub logical_block_bytes: u32,
    /// The byte that fills what was never written, and what was discarded. 0xEE shows
    /// who reads such places.
    pub fill: u8,
    /// Refuse writes.
    pub readonly: bool,
    /// Say that flushes are needed.
    pub volatile_cache: bool,
    /// Most segments in one request.
    pub max_segments: usize,
    /// Most bytes in one request.
    pub max_bytes: u64,
    /// When requests are carried out.
    pub completion: Completion,
}

impl Default for MemDiskConfig {
    fn default() -> Self {
        Self {
            name: "mem".into(),
            capacity_sectors: 0,
            logical_block_bytes: 512,
            fill: 0xEE,
            readonly: false,
            volatile_cache: true,
            max_segments: 256,
            max_bytes: 1 << 20,
            completion: Completion::Inline,
        }
    }
}

/// A disk in memory: sparse, or over an image that several disks share and none changes.
pub struct MemDisk {
    info: DeviceInfo,
    contents: Arc<Mutex<Contents>>,
    executor: Executor,
}

struct Contents {
    /// What lies below everything written; may be shorter than the disk.
    base: Arc<Vec<u8>>,
    /// What was written, by chunk number.
    written: BTreeMap<u64, Box<[u8]>>,
    fill: u8,
}

impl MemDisk {
    /// A disk of so many sectors, filled with 0xEE, that ends requests at once.
    pub fn new(capacity_sectors: u64) -> Arc<Self> {
        Self::with(MemDiskConfig { capacity_sectors, ..MemDiskConfig::default() })
    }
    /// A disk like this, never written.
    pub fn with(config: MemDiskConfig) -> Arc<Self> {
        Self::over(Arc::new(Vec::new()), config)
    }
    /// A disk like this over an image, which stays as it is; a hundred disks may share it.
    pub fn over(image: Arc<Vec<u8>>, config: MemDiskConfig) -> Arc<Self> {
        let info = DeviceInfo {
            name: config.name,
            capacity_sectors: config.capacity_sectors,
            logical_block_bytes: config.logical_block_bytes,
            max_segments: config.max_segments,
            max_bytes: config.max_bytes,
            max_range_bytes: u64::MAX,
            readonly: config.readonly,
            volatile_cache: config.volatile_cache,
            discard: true,
            write_zeroes: true,
            queue_depth: 128,
            queues: 1,
        };
        let contents = Contents { base: image, written: BTreeMap::new(), fill: config.fill };
        let contents = Arc::new(Mutex::new(&locks::DEVICE, contents));
        let theirs = contents.clone();
        let execute = Box::new(move |bio: &Bio| theirs.lock().execute(bio));
        let executor = Executor::new(&info.name, config.completion, execute);
        Arc::new(Self { info, contents, executor })
    }
    /// Look at the contents, past all requests. Bytes beyond the disk read as its fill.
    pub fn peek(&self, sector: Sector, dst: &mut [u8]) {
        self.contents.lock().read(sector.0.saturating_mul(SECTOR_SIZE), dst);
    }
    /// Change the contents, past all requests.
    ///
    /// # Panics
    /// Beyond the end of the disk.
    pub fn poke(&self, sector: Sector, src: &[u8]) {
        self.poke_bytes(sector.0.saturating_mul(SECTOR_SIZE), src);
    }
    /// As [`MemDisk::poke`], at a byte.
    ///
    /// # Panics
    /// Beyond the end of the disk.
    pub fn poke_bytes(&self, offset_bytes: u64, src: &[u8]) {
        let end = offset_bytes.checked_add(src.len() as u64);
        let size = self.info.capacity_sectors * SECTOR_SIZE;
        assert!(end.is_some_and(|end| end <= size), "poke beyond the end of the disk");
        self.contents.lock().write(offset_bytes, src);
    }
    /// Requests submitted and not carried out yet.
    pub fn pending(&self) -> usize {
        self.executor.pending()
    }
    /// Carry out the pending request with this index, on the calling thread; the order is
    /// that of submission. False if there is none. For [`Completion::Manual`].
    pub fn complete_one(&self, index: usize) -> bool {
        self.executor.complete_one(index)
    }
    /// Bytes of memory that hold what was written.
    pub fn written_bytes(&self) -> usize {
        self.contents.lock().written.len() * CHUNK
    }
}

impl BlockDevice for MemDisk {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }
    fn submit(&self, bio: Bio) {
        self.executor.submit(bio);
    }
    fn capacity_sectors(&self) -> u64 {
        self.info.capacity_sectors
    }
}

impl Contents {
    fn execute(&mut self, bio: &Bio) -> Result<(), IoError> {
        let mut at = bio.sector.0 * SECTOR_SIZE;
        match bio.op {
            Op::Flush => {}
            Op::Read => {
                for s in &bio.segments {
                    let mut to = s.offset as usize;
                    self.visit(at, s.len as usize, |part| {
                        s.page.write(to, part);
                        to += part.len();
                    });
                    at += u64::from(s.len);
                }
            }
            Op::Write => {
                for s in &bio.segments {
                    let mut from = s.offset as usize;
                    let end = from + s.len as usize;
                    while from < end {
                        let within = (at % CHUNK as u64) as usize;
                        let len = (end - from).min(CHUNK - within);
                        let part = &mut self.chunk(at / CHUNK as u64)[within..within + len];
                        s.page.read(from, part);
                        (from, at) = (from + len, at + len as u64);
                    }
                }
            }
            Op::Discard => self.fill_range(at, bio.length_bytes, self.fill),
            Op::WriteZeroes => self.fill_range(at, bio.length_bytes, 0),
        }
        Ok(())
    }
    fn below(&self, at: u64, dst: &mut [u8]) {
        let start = usize::try_from(at).unwrap_or(usize::MAX).min(self.base.len());
        let have = dst.len().min(self.base.len() - start);
        dst[..have].copy_from_slice(&self.base[start..start + have]);
        dst[have..].fill(self.fill);
    }
    fn read(&self, at: u64, mut dst: &mut [u8]) {
        self.visit(at, dst.len(), |part| {
            let (now, rest) = core::mem::take(&mut dst).split_at_mut(part.len());
            now.copy_from_slice(part);
            dst = rest;
        });
    }
    /// Show `len` bytes from `at` on, piece by piece, where they lie.
    fn visit(&self, mut at: u64, mut len: usize, mut show: impl FnMut(&[u8])) {
        while len > 0 {
            let within = (at % CHUNK as u64) as usize;
            let part = len.min(CHUNK - within);
            let below = usize::try_from(at).ok().filter(|start| *start < self.base.len());
            match (self.written.get(&(at / CHUNK as u64)), below) {
                (Some(chunk), _) => show(&chunk[within..within + part]),
                (None, Some(start)) if part <= self.base.len() - start => {
                    show(&self.base[start..start + part]);
                }
                // The end of what lies below, or beyond it.
                _ => {
                    let mut bytes = [0; CHUNK];
                    self.below(at, &mut bytes[..part]);
                    show(&bytes[..part]);
                }
            }
            at = at.saturating_add(part as u64);
            len -= part;
        }
    }
    fn chunk(&mut self, number: u64) -> &mut [u8] {
        if !self.written.contains_key(&number) {
            let mut chunk = vec![0; CHUNK].into_boxed_slice();
            self.below(number * CHUNK as u64, &mut chunk);
            self.written.insert(number, chunk);
        }
        self.written.get_mut(&number).expect("just inserted")
    }
    fn write(&mut self, mut at: u64, mut src: &[u8]) {
        while !src.is_empty() {
            let within = (at % CHUNK as u64) as usize;
            let (part, rest) = src.split_at(src.len().min(CHUNK - within));
            self.chunk(at / CHUNK as u64)[within..within + part.len()].copy_from_slice(part);
            at += part.len() as u64;
            src = rest;
        }
    }
    fn fill_range(&mut self, mut at: u64, mut length: u64, byte: u8) {
        while length > 0 {
            let within = (at % CHUNK as u64) as usize;
            let part = length.min((CHUNK - within) as u64) as usize;
            let number = at / CHUNK as u64;
            // What lies below a whole chunk of the fill may need no memory at all.
            if part == CHUNK && byte == self.fill && at >= self.base.len() as u64 {
                self.written.remove(&number);
            } else {
                self.chunk(number)[within..within + part].fill(byte);
            }
            at += part as u64;
            length -= part as u64;
        }
    }
}
