//! Files of the model file system with a page cache and an address space.
#![allow(dead_code)]

use std::ops::Range;
use std::sync::Arc;

use holdfast_fs::block::{BlockDevice, Completion, MemDisk, MemDiskConfig, Queue};
use holdfast_fs::iomap::{self, Change, Side};
use holdfast_fs::mm::{AddressSpace, MapFlags, MapRequest, MappedFile, Prot};
use holdfast_fs::pagecache::{CacheConfig, ErrSeq, Mapping, PageCache, Readahead};
use holdfast_fs::platform::host::{HostMemory, SimPageTable};
use holdfast_fs::platform::{PageTable, Signal, VirtAddr};
use holdfast_fs::{Result, locks};
use holdfast_sync::{LockClass, Mutex, PerCpuRwLock};

use super::model::{ModelFile, Space};
use super::{SliceSource, VecSink};

static LEAF: LockClass = LockClass::new("model leaf", 99);
static LOOKAHEAD: LockClass = LockClass::new("model readahead", 55);

pub const RW: Prot = Prot::READ.union(Prot::WRITE);

/// One disk, one cache, one address space.
pub struct ModelWorld {
    pub disk: Arc<MemDisk>,
    pub space: Arc<Space>,
    pub cache: Arc<PageCache>,
    pub queue: Arc<Queue>,
    pub table: Arc<SimPageTable>,
    pub memory: Arc<AddressSpace>,
}

/// A file in it.
pub struct Open {
    pub fs: Arc<ModelFile>,
    pub mapping: Arc<Mapping>,
    pub iolock: PerCpuRwLock<()>,
    readahead: Mutex<Readahead>,
    errors: Mutex<ErrSeq>,
}

impl MappedFile for Open {
    fn contents(&self, _: Prot, _: bool) -> Result<Arc<Mapping>> {
        Ok(self.mapping.clone())
    }
    fn readahead(&self) -> &Mutex<Readahead> {
        &self.readahead
    }
    fn sync_bytes(&self, range: Range<u64>) -> Result<()> {
        self.mapping.write_and_wait(range);
        self.mapping.error_check(&mut self.errors.lock())
    }
}

impl ModelWorld {
    /// A disk of `blocks` blocks of `1 << shift` bytes, a cache of `pages`.
    pub fn new(shift: u32, blocks: u64, pages: u64, completion: Completion) -> Self {
        Self::over(shift, blocks, pages, completion, |disk| disk)
    }
    /// As [`ModelWorld::new`], with a device of one's own before the disk.
    pub fn over(
        shift: u32,
        blocks: u64,
        pages: u64,
        completion: Completion,
        device: impl FnOnce(Arc<MemDisk>) -> Arc<dyn BlockDevice>,
    ) -> Self {
        let disk = MemDisk::with(MemDiskConfig {
            capacity_sectors: (blocks << shift) / 512,
            completion,
            ..MemDiskConfig::default()
        });
        let memory = HostMemory::new(pages * 2 + 2048);
        let config = CacheConfig {
            max_pages: Some(pages),
            expire_ns: 20_000_000,
            interval_ns: 5_000_000,
            ..CacheConfig::default()
        };
        let cache = PageCache::new(memory.clone(), config);
        let table = SimPageTable::new();
        Self {
            space: Space::new(shift, disk.clone(), blocks),
            queue: Queue::new(device(disk.clone())),
            cache,
            memory: AddressSpace::new(table.clone(), memory),
            table,
            disk,
        }
    }
    /// An empty file.
    pub fn file(&self, id: u64) -> Arc<Open> {
        let fs = ModelFile::new(&self.space);
        let mapping = Mapping::new(&self.cache, id, fs.clone(), self.queue.clone(), 0);
        Arc::new(Open {
            fs,
            iolock: PerCpuRwLock::new(&locks::IOLOCK, ()),
            readahead: Mutex::new(&LOOKAHEAD, Readahead::default()),
            errors: Mutex::new(&LEAF, mapping.error_sample()),
            mapping,
        })
    }
    pub fn map(&self, file: &Arc<Open>, len: usize, flags: MapFlags) -> VirtAddr {
        let file: Arc<dyn MappedFile> = file.clone();
        let va = VirtAddr(0);
        let request = MapRequest { addr: va, len, prot: RW, flags, file: Some(file), offset: 0 };
        self.memory.mmap(request).expect("the mapping is made")
    }
    pub fn load(&self, va: VirtAddr, len: usize) -> Result<Vec<u8>, Signal> {
        let mut out = vec![0; len];
        self.table.load(va, &mut out, &*self.memory)?;
        Ok(out)
    }
    pub fn store(&self, va: VirtAddr, bytes: &[u8]) -> Result<(), Signal> {
        self.table.store(va, bytes, &*self.memory)
    }
}

impl Open {
    pub fn size(&self) -> u64 {
        self.mapping.size()
    }
    pub fn read(&self, pos: u64, len: usize) -> Result<Vec<u8>> {
        let _contents = self.iolock.read();
        let mut sink = VecSink::new(len);
        iomap::read(&self.mapping, &self.readahead, pos, &mut sink)?;
        Ok(sink.data)
    }
    pub fn write(&self, pos: u64, data: &[u8]) -> Result<usize> {
        self.write_from(pos, &mut SliceSource::new(data))
    }
    pub fn write_from(&self, pos: u64, source: &mut dyn iomap::Source) -> Result<usize> {
        let _contents = self.iolock.write();
        iomap::write(&self.mapping, pos, source)
    }
    pub fn direct_read(&self, pos: u64, len: usize) -> Result<Vec<u8>> {
        let _contents = self.iolock.read();
        let mut sink = VecSink::new(len);
        iomap::direct_read(&self.mapping, pos, &mut sink)?;
        Ok(sink.data)
    }
    pub fn direct_write(&self, pos: u64, data: &[u8]) -> Result<usize> {
        let mut source = SliceSource::new(data);
        let shared = self.iolock.read();
        if iomap::direct_write_shares(&self.mapping, pos, data.len() as u64) {
            return iomap::direct_write(&self.mapping, pos, &mut source);
        }
        drop(shared);
        let _contents = self.iolock.write();
        iomap::direct_write(&self.mapping, pos, &mut source)
    }
    pub fn truncate(&self, size: u64) -> Result<()> {
        let _contents = self.iolock.write();
        iomap::truncate(&self.mapping, &*self.fs, size)
    }
    pub fn change(&self, what: Change, range: Range<u64>, keep_size: bool) -> Result<()> {
        let _contents = self.iolock.write();
        iomap::change(&self.mapping, &*self.fs, what, range, keep_size)
    }
    fn side(&self, pos: u64) -> Side<'_, ModelFile> {
        Side { mapping: &self.mapping, fs: &self.fs, pos }
    }
    /// Share `len` bytes of `from`.
    pub fn share_from(&self, from: &Self, from_pos: u64, pos: u64, len: u64) -> Result<()> {
        self.locked(from, || iomap::clone_range(&from.side(from_pos), &self.side(pos), len))
    }
    pub fn dedupe_from(
        &self,
        from: &Self,
        from_pos: u64,
        pos: u64,
        len: u64,
    ) -> Result<Option<u64>> {
        self.locked(from, || iomap::dedupe_range(&from.side(from_pos), &self.side(pos), len))
    }
    fn locked<R>(&self, other: &Self, work: impl FnOnce() -> R) -> R {
        let (first, second) =
            if self.mapping.id() <= other.mapping.id() { (self, other) } else { (other, self) };
        let _first = first.iolock.write();
        let _second = (!std::ptr::eq(first, second)).then(|| second.iolock.write());
        work()
    }
    /// fsync.
    pub fn sync(&self) -> Result<()> {
        self.sync_bytes(0..u64::MAX)
    }
    pub fn drop_clean(&self) -> usize {
        self.mapping.drop_clean(0..u64::MAX)
    }
}
