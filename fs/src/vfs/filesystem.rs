//! A mounted file system: the inodes in core, sync, unmount.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Inode;
use super::dentry::Dentries;
use crate::pagecache::{ErrSeq, Mapping, PageCache};
use crate::xfs::{FileType, Ino, Mount, StatFs};
use crate::{Error, Result, locks};

/// Inodes kept in core, as a share of the pages of memory; more only while in use.
const INODES_PER_PAGE: u64 = 16;
const MOST_INODES: u64 = 4096;
const LEAST_INODES: u64 = 64;

/// A mounted file system.
///
/// The table keeps unused inodes too, so that the page cache of a closed file is still
/// there when it is opened again. It holds each inode strongly: a lookup and an eviction
/// can never make two of one number. An inode leaves the table only when it is clean and
/// nobody else refers to it, decided under the table's lock, under which alone new
/// references are handed out.
pub struct FileSystem {
    mount: Arc<Mount>,
    cache: Arc<PageCache>,
    table: Mutex<Table>,
    pub(super) dentries: Dentries,
    most_inodes: usize,
    /// Writes that the device had begun when the last flush began with none in flight.
    flushed: AtomicU64,
    unmounted: AtomicBool,
}

#[derive(Default)]
struct Table {
    inodes: BTreeMap<u64, Arc<Inode>>,
    /// Counts lookups; tells which inode was used last.
    clock: u64,
    /// Errors that `sync` reports once for the whole file system.
    seen: BTreeMap<u64, ErrSeq>,
}

impl FileSystem {
    /// The file system of `mount`, with file data cached in `cache`.
    pub fn new(mount: Arc<Mount>, cache: Arc<PageCache>) -> Arc<Self> {
        let most = cache.memory().total_pages() / INODES_PER_PAGE;
        let fs = Arc::new(Self {
            mount,
            cache,
            table: Mutex::new(&locks::INODE_CACHE, Table::default()),
            dentries: Dentries::new(),
            most_inodes: most.clamp(LEAST_INODES, MOST_INODES) as usize,
            flushed: AtomicU64::new(u64::MAX),
            unmounted: AtomicBool::new(false),
        });
        let weak = Arc::downgrade(&fs);
        fs.cache.add_shrinker(alloc::boxed::Box::new(move |objects| {
            weak.upgrade().map_or(0, |fs| fs.shrink(objects))
        }));
        fs
    }
    /// The mount below.
    pub fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }
    /// The page cache.
    pub fn cache(&self) -> &Arc<PageCache> {
        &self.cache
    }
    /// Are writes refused?
    pub fn readonly(&self) -> bool {
        self.mount.readonly()
    }
    /// Sizes and free space.
    pub fn statfs(&self) -> StatFs {
        self.mount.statfs()
    }
    /// The root directory.
    ///
    /// # Errors
    /// As [`FileSystem::inode`].
    pub fn root(&self) -> Result<Arc<Inode>> {
        self.inode(self.mount.root())
    }
    /// The in-core inode of this number, read from disk if need be.
    ///
    /// # Errors
    /// I/O errors, corruption; after unmount [`Error::Shutdown`].
    pub fn inode(&self, ino: Ino) -> Result<Arc<Inode>> {
        if self.unmounted.load(Ordering::Acquire) {
            return Err(Error::Shutdown);
        }
        if let Some(inode) = self.table.lock().find(ino) {
            return Ok(inode);
        }
        let xfs = self.mount.inode(ino)?;
        let fresh = Arc::new(Inode::new(xfs, |xfs| {
            let queue = self.mount.queue().clone();
            Mapping::new(&self.cache, ino.0, xfs.clone(), queue, xfs.size())
        }));
        let crowded = {
            let mut table = self.table.lock();
            // Somebody may have been faster; theirs may hold folios already.
            if let Some(inode) = table.find(ino) {
                return Ok(inode);
            }
            table.clock += 1;
            fresh.touch(table.clock);
            table.inodes.insert(ino.0, fresh.clone());
            table.inodes.len() > self.most_inodes
        };
        if crowded {
            self.evict(self.most_inodes / 4);
        }
        Ok(fresh)
    }
    /// The inode of `name` in a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], I/O errors, corruption.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Arc<Inode>> {
        if dir.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        if name.len() > super::NAME_MAX {
            return Err(Error::NameTooLong);
        }
        let ino = match self.dentries.get(dir.ino(), name) {
            Some(ino) => ino,
            None => {
                let _names = dir.iolock.read();
                let ino = dir.xfs.lookup(name)?;
                self.dentries.insert(dir.ino(), name, ino);
                ino
            }
        };
        self.inode(ino)
    }
    /// Forget that `name` in `dir` was looked up: it changed.
    pub fn forget_name(&self, dir: Ino, name: &[u8]) {
        self.dentries.forget(dir, name);
    }
    fn inodes(&self) -> Vec<Arc<Inode>> {
        self.table.lock().inodes.values().cloned().collect()
    }
    /// Take up to `most` unused inodes out of core, those used longest ago first,
    /// writing what is dirty. How many went.
    pub fn evict(&self, most: usize) -> usize {
        let unused = self.unused(|_| true);
        unused.iter().take(most).filter(|inode| self.evict_one(inode)).count()
    }
    /// The caller's reference is the only one besides the table's, or nothing happens.
    fn evict_one(&self, inode: &Arc<Inode>) -> bool {
        // Clean while it is still found in the table: whoever looks it up now gets this
        // inode and its dirty pages, not a second one that reads old data from disk.
        let used = inode.used.load(Ordering::Relaxed);
        inode.clean();
        let mut table = self.table.lock();
        // Nobody has it, and nobody had it since it was cleaned: no writeback either.
        let untouched = used == inode.used.load(Ordering::Relaxed);
        if Arc::strong_count(inode) != 2 || !untouched || !inode.is_clean() {
            return false;
        }
        table.seen.remove(&inode.ino().0);
        let gone = table.inodes.remove(&inode.ino().0);
        drop(table);
        inode.drop_clean();
        drop(gone);
        true
    }
    /// Write everything that is dirty and make it durable. Writeback errors stay to be
    /// told by `fsync` and [`FileSystem::sync_all`].
    ///
    /// # Errors
    /// Those of the final flush.
    pub fn write_all(&self) -> Result<()> {
        let inodes = self.inodes();
        let dirty = inodes.iter().filter_map(|i| i.mapping().ok()).filter(|m| m.dirty_pages() > 0);
        for mapping in dirty {
            mapping.start_writeback(0..u64::MAX);
        }
        for inode in &inodes {
            inode.clean();
        }
        self.flush()
    }
    /// Write everything that is dirty and make it durable, and report writeback errors:
    /// each once here, whether or not an open file heard of it (`syncfs`).
    ///
    /// # Errors
    /// A writeback error since the last call; errors of the final flush.
    pub fn sync_all(&self) -> Result<()> {
        let flushed = self.write_all();
        let mut result = Ok(());
        for inode in self.inodes() {
            let Ok(mapping) = inode.mapping() else { continue };
            let mut table = self.table.lock();
            let seen = table.seen.entry(inode.ino().0).or_default();
            result = result.and(mapping.error_check(seen));
        }
        result.and(flushed)
    }
    /// Make completed writes durable; asks nothing of the device if the last flush did.
    ///
    /// # Errors
    /// The device's.
    pub fn flush(&self) -> Result<()> {
        if self.readonly() {
            return Ok(());
        }
        let queue = self.mount.queue();
        let now = queue.statistics();
        let begun = now.write.requests + now.write_zeroes.requests + now.discard.requests;
        if self.flushed.load(Ordering::Acquire) == begun {
            return Ok(());
        }
        queue.flush()?;
        // A write in flight may have ended after the flush began: then it is not covered.
        if now.in_flight == 0 {
            self.flushed.store(begun, Ordering::Release);
        }
        Ok(())
    }
    /// Free about `objects` objects of metadata that nobody uses; how many went.
    pub fn shrink(&self, objects: usize) -> usize {
        let idle = self.unused(|inode| inode.is_idle());
        let inodes = idle.iter().take(objects).filter(|inode| self.evict_one(inode)).count();
        inodes + self.mount.shrink(objects)
    }
    /// The inodes that nobody refers to, used longest ago first.
    fn unused(&self, wanted: impl Fn(&Inode) -> bool) -> Vec<Arc<Inode>> {
        let mut unused: Vec<Arc<Inode>> = {
            let table = self.table.lock();
            let alone = |i: &&Arc<Inode>| Arc::strong_count(i) == 1;
            table.inodes.values().filter(alone).cloned().collect()
        };
        unused.retain(|inode| wanted(inode));
        unused.sort_by_key(|i| i.used.load(Ordering::Relaxed));
        unused
    }
    /// Drop everything cached that is clean and unused: folios, names, inodes, metadata.
    /// The number of folios that went.
    pub fn drop_caches(&self) -> usize {
        self.dentries.clear();
        let dropped = self.inodes().iter().map(|i| i.drop_clean()).sum();
        for inode in self.unused(Inode::is_clean) {
            self.evict_one(&inode);
        }
        self.mount.shrink(usize::MAX);
        dropped
    }
    /// Inodes in core.
    pub fn cached_inodes(&self) -> usize {
        self.table.lock().inodes.len()
    }
    /// Write everything, forget everything, refuse everything from now on.
    ///
    /// # Errors
    /// [`Error::Busy`] while files are open, mapped or somebody's working directory;
    /// otherwise a writeback error that nobody was told or that of the final flush, and
    /// the file system is gone.
    pub fn unmount(&self) -> Result<()> {
        let busy = || {
            let table = self.table.lock();
            table.inodes.values().any(|i| Arc::strong_count(i) > 1)
        };
        if busy() {
            return Err(Error::Busy);
        }
        self.unmounted.store(true, Ordering::Release);
        if busy() {
            self.unmounted.store(false, Ordering::Release);
            return Err(Error::Busy);
        }
        let mut result = self.write_all();
        for inode in self.inodes() {
            if let Ok(mapping) = inode.mapping() {
                // Only what nobody was told: a sample starts behind what somebody was.
                result = mapping.error_check(&mut mapping.error_sample()).and(result);
            }
        }
        self.dentries.clear();
        self.evict(usize::MAX);
        self.mount.shrink(usize::MAX);
        result
    }
}

impl Table {
    fn find(&mut self, ino: Ino) -> Option<Arc<Inode>> {
        let inode = self.inodes.get(&ino.0)?;
        self.clock += 1;
        inode.touch(self.clock);
        Some(inode.clone())
    }
}
