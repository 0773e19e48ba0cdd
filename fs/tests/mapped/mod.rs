//! An address space over a flat file: what tests of mapped files share.
#![allow(dead_code)]

use std::ops::Range;
use std::sync::Arc;

use holdfast_fs::block::{Completion, MemDisk, MemDiskConfig, Sector};
use holdfast_fs::mm::{AddressSpace, MapFlags, MapRequest, MappedFile, Prot};
use holdfast_fs::pagecache::{ErrSeq, Mapping, Readahead};
use holdfast_fs::platform::host::{HostMemory, SimPageTable};
use holdfast_fs::platform::{PAGE_SIZE, PageTable, Signal, VirtAddr};
use holdfast_fs::{Error, Result};
use holdfast_sync::{LockClass, Mutex};

use crate::support::{FlatFile, Stack};

static LEAF: LockClass = LockClass::new("test leaf", 99);

/// An open file over a mapping, with rights.
pub struct Opened {
    pub mapping: Arc<Mapping>,
    pub writable: bool,
    readahead: Mutex<Readahead>,
    errors: Mutex<ErrSeq>,
}

impl MappedFile for Opened {
    fn contents(&self, prot: Prot, shared: bool) -> Result<Arc<Mapping>> {
        if shared && prot.contains(Prot::WRITE) && !self.writable {
            return Err(Error::Access);
        }
        Ok(self.mapping.clone())
    }
    fn readahead(&self) -> &Mutex<Readahead> {
        &self.readahead
    }
    fn sync_bytes(&self, range: Range<u64>) -> Result<()> {
        self.mapping.write_and_wait(range);
        self.mapping.error_check(&mut self.errors.lock())?;
        Ok(self.mapping.queue().flush()?)
    }
}

/// One file on one disk, one address space.
pub struct World {
    pub disk: Arc<MemDisk>,
    pub stack: Stack,
    pub file: Arc<Opened>,
    pub memory: Arc<HostMemory>,
    pub table: Arc<SimPageTable>,
    pub space: Arc<AddressSpace>,
}

pub const RW: Prot = Prot::READ.union(Prot::WRITE);

impl World {
    /// A file of `pages` pages less `short` bytes, whose block `n` (of 1 KiB) is filled
    /// with the byte `n`; a cache of `cache_pages`.
    pub fn new(pages: u64, short: u64, cache_pages: u64, completion: Completion) -> Self {
        let size = pages * PAGE_SIZE as u64;
        let disk = MemDisk::with(MemDiskConfig {
            capacity_sectors: size / 512,
            completion,
            ..MemDiskConfig::default()
        });
        let file = FlatFile::scattered(10, size >> 10);
        for (n, at) in file.blocks.iter().enumerate() {
            disk.poke(Sector(at.unwrap() * 2), &[n as u8; 1024]);
        }
        let stack = Stack::new(disk.clone(), file, size - short, cache_pages);
        let memory = HostMemory::new(4096);
        let table = SimPageTable::new();
        let space = AddressSpace::new(table.clone(), memory.clone());
        let file = Self::open(&stack.mapping, true);
        Self { disk, stack, file, memory, table, space }
    }
    pub fn open(mapping: &Arc<Mapping>, writable: bool) -> Arc<Opened> {
        Arc::new(Opened {
            mapping: mapping.clone(),
            writable,
            readahead: Mutex::new(&LEAF, Readahead::default()),
            errors: Mutex::new(&LEAF, mapping.error_sample()),
        })
    }
    /// Map `len` bytes of the file from `offset` on.
    pub fn map(&self, len: usize, offset: u64, prot: Prot, flags: MapFlags) -> VirtAddr {
        let file: Arc<dyn MappedFile> = self.file.clone();
        let request = MapRequest { addr: VirtAddr(0), len, prot, flags, file: Some(file), offset };
        self.space.mmap(request).expect("the mapping is made")
    }
    pub fn load(&self, va: VirtAddr, len: usize) -> Result<Vec<u8>, Signal> {
        let mut out = vec![0; len];
        self.table.load(va, &mut out, &*self.space)?;
        Ok(out)
    }
    pub fn store(&self, va: VirtAddr, bytes: &[u8]) -> Result<(), Signal> {
        self.table.store(va, bytes, &*self.space)
    }
    /// Bytes of the file as they lie on disk.
    pub fn on_disk(&self, pos: u64, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for at in pos..pos + len as u64 {
            let block = self.stack.ops.blocks[(at >> 10) as usize].unwrap();
            let mut byte = [0; 512];
            self.disk.peek(Sector(block * 2 + (at % 1024) / 512), &mut byte);
            out.push(byte[(at % 512) as usize]);
        }
        out
    }
    /// Every page can leave the cache: nothing is mapped or dirty any more.
    pub fn assert_droppable(&self) {
        self.stack.mapping.drop_clean(0..u64::MAX);
        assert_eq!(self.stack.mapping.cached_pages(), 0, "a page stayed behind");
    }
}
