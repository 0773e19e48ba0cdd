//! A mounted file system: the inodes in core, sync, unmount.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use holdfast_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use holdfast_sync::{Mutex, MutexGuard, WaitQueue};

use super::Inode;
use super::blockgc::BlockGc;
use super::dentry::Dentries;
use crate::pagecache::{ErrSeq, Mapping, PageCache};
use crate::xfs::{self, FileType, Ino, Mount, StatFs};
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
/// references are handed out. Who wants it from then on waits until what lay ready for its
/// writes is given back: a new one of the number would use that already.
///
/// Of a file without names the table holds no reference: dropping the last one frees it.
/// A file that nobody holds when it loses its last name leaves the table before that, and
/// is freed with the name.
pub struct FileSystem {
    pub(super) mount: Arc<Mount>,
    cache: Arc<PageCache>,
    table: Mutex<Table>,
    /// Threads that look for inodes to take out of the table, or do so. They hold references
    /// that nobody uses.
    evictors: AtomicU32,
    /// An inode has left the table, or an evictor has ended.
    left: WaitQueue,
    pub(super) dentries: Dentries,
    most_inodes: usize,
    /// Writes that the device had begun when the last flush began with none in flight.
    flushed: AtomicU64,
    unmounted: AtomicBool,
    /// Held while a name goes from one directory to another: meanwhile no directory gets
    /// other ancestors.
    pub(super) moving: Mutex<()>,
    /// Files without names whose last holder could not free them.
    orphans: Mutex<Vec<Arc<Inode>>>,
    pub(super) blockgc: Arc<BlockGc>,
}

/// An inode in core.
enum Entry {
    /// It has names; it is kept as long as there is room.
    Kept(Arc<Inode>),
    /// It has none; somebody holds it, or is just freeing it.
    Unlinked(Weak<Inode>),
    /// It has some, and leaves the table.
    Leaving,
}

impl Entry {
    const fn kept(&self) -> Option<&Arc<Inode>> {
        match self {
            Self::Kept(inode) => Some(inode),
            Self::Unlinked(_) | Self::Leaving => None,
        }
    }
    fn get(&self) -> Option<Arc<Inode>> {
        match self {
            Self::Kept(inode) => Some(inode.clone()),
            Self::Unlinked(inode) => inode.upgrade(),
            Self::Leaving => None,
        }
    }
    fn is_busy(&self) -> bool {
        match self {
            Self::Kept(inode) => Arc::strong_count(inode) > 1,
            Self::Unlinked(inode) => inode.strong_count() > 0,
            Self::Leaving => true,
        }
    }
}

#[derive(Default)]
struct Table {
    inodes: BTreeMap<u64, Entry>,
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
            evictors: AtomicU32::new(0),
            left: WaitQueue::new(),
            dentries: Dentries::new(),
            most_inodes: most.clamp(LEAST_INODES, MOST_INODES) as usize,
            flushed: AtomicU64::new(u64::MAX),
            unmounted: AtomicBool::new(false),
            moving: Mutex::new(&locks::RENAME, ()),
            orphans: Mutex::new(&locks::STATE, Vec::new()),
            blockgc: BlockGc::new(),
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
    pub(super) fn is_unmounted(&self) -> bool {
        self.unmounted.load(Ordering::Acquire)
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
        if self.is_unmounted() {
            return Err(Error::Shutdown);
        }
        if let Some(inode) = self.table_for(ino).find(ino) {
            return Ok(inode);
        }
        let xfs = self.mount.inode(ino)?;
        if xfs.nlink() == 0 {
            return Err(
                crate::corrupt!("inode", ino, "it has no names, but was found by one").into()
            );
        }
        Ok(self.insert(xfs))
    }
    /// The table, in which the inode of this number is or is not.
    fn table_for(&self, ino: Ino) -> MutexGuard<'_, Table> {
        loop {
            let table = self.table.lock();
            if !table.is_leaving(ino) {
                return table;
            }
            drop(table);
            self.left.wait_until(|| (!self.table.lock().is_leaving(ino)).then_some(()));
        }
    }
    /// Put an inode into the table that is not there, or find it there.
    fn insert(&self, xfs: Arc<xfs::Inode>) -> Arc<Inode> {
        let ino = xfs.ino();
        let fresh = self.instantiate(xfs);
        let crowded = {
            let mut table = self.table_for(ino);
            // Somebody may have been faster; theirs may hold folios already.
            if let Some(inode) = table.find(ino) {
                return inode;
            }
            table.put(&fresh, false);
            table.inodes.len() > self.most_inodes
        };
        if crowded {
            self.evict(self.most_inodes / 4);
        }
        fresh
    }
    fn instantiate(&self, xfs: Arc<xfs::Inode>) -> Arc<Inode> {
        Arc::new(Inode::new(xfs, |xfs| {
            let queue = self.mount.queue().clone();
            Mapping::new(&self.cache, xfs.ino().0, xfs.clone(), queue, xfs.size())
        }))
    }
    /// The inode of what was just made. Nobody else knows it.
    pub(super) fn adopt(&self, xfs: Arc<xfs::Inode>, unlinked: bool) -> Arc<Inode> {
        let fresh = self.instantiate(xfs);
        let (old, crowded) = {
            let mut table = self.table.lock();
            let old = table.put(&fresh, unlinked);
            (old, table.inodes.len() > self.most_inodes)
        };
        // What the number stood for before is gone, or somebody would hold it.
        debug_assert!(old.is_none_or(|old| old.get().is_none()), "the number was free");
        if crowded {
            self.evict(self.most_inodes / 4);
        }
        fresh
    }
    /// The inode has no names any more, or has one again.
    pub(super) fn names_changed(&self, inode: &Arc<Inode>, unlinked: bool) {
        let mut table = self.table.lock();
        inode.unlinked.store(unlinked, Ordering::Release);
        let entry = match unlinked {
            true => Entry::Unlinked(Arc::downgrade(inode)),
            false => Entry::Kept(inode.clone()),
        };
        // The caller's reference is one more: none of this is the last.
        table.inodes.insert(inode.ino().0, entry);
    }
    /// Take an inode out of the table for good, if nobody but the caller holds it. Its last
    /// name is being removed and the directory is locked: nobody can ask for it again.
    pub(super) fn take_out(&self, inode: &Arc<Inode>) -> bool {
        let mut table = self.table.lock();
        let ino = inode.ino();
        let kept = table.inodes.get(&ino.0).and_then(Entry::kept);
        // New references are handed out only with the table locked: one is the table's,
        // one the caller's.
        if !kept.is_some_and(|kept| Arc::ptr_eq(kept, inode)) || Arc::strong_count(inode) != 2 {
            return false;
        }
        table.seen.remove(&ino.0);
        table.inodes.remove(&ino.0);
        drop(table);
        if inode.file_type() == FileType::Directory {
            self.dentries.forget_directory(ino);
        }
        true
    }
    /// Give references back without freeing a file here, whatever this thread is at.
    fn put_back(&self, inodes: Vec<Arc<Inode>>) {
        for inode in inodes {
            let table = self.table.lock();
            if inode.unlinked.load(Ordering::Acquire) {
                drop(table);
                self.orphans.lock().push(inode);
                continue;
            }
            let kept = table.inodes.get(&inode.ino().0).and_then(Entry::kept);
            if kept.is_some_and(|kept| Arc::ptr_eq(kept, &inode)) {
                // The table keeps its reference while it is locked: this is not the last.
                drop(inode);
                drop(table);
            } else {
                // Taken out of the table.
                drop(table);
                drop(inode);
            }
        }
    }
    /// Free what [`FileSystem::put_back`] could not.
    pub(super) fn free_orphans(&self) {
        let orphans = core::mem::take(&mut *self.orphans.lock());
        drop(orphans);
    }
    /// The inode of `name` in a directory.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::NotDirectory`], I/O errors, corruption.
    pub fn lookup(&self, dir: &Inode, name: &[u8]) -> Result<Arc<Inode>> {
        check_lookup(dir, name)?;
        // Held until the inode is: meanwhile its name cannot go, nor its number to another.
        let _names = dir.iolock.read();
        self.lookup_locked(dir, name)
    }
    /// As [`FileSystem::lookup`], the directory's `IOLOCK` being held.
    pub(super) fn lookup_locked(&self, dir: &Inode, name: &[u8]) -> Result<Arc<Inode>> {
        check_lookup(dir, name)?;
        let known = match self.dentries.get(dir.ino(), name) {
            Some(known) => known,
            None => {
                let found = match dir.xfs.lookup(name) {
                    Err(Error::NotFound) => None,
                    found => Some(found?),
                };
                self.dentries.insert(dir.ino(), name, found);
                found
            }
        };
        self.inode(known.ok_or(Error::NotFound)?)
    }
    pub(super) fn inodes(&self) -> Vec<Arc<Inode>> {
        self.table.lock().inodes.values().filter_map(Entry::get).collect()
    }
    /// Take up to `most` unused inodes out of core, those used longest ago first,
    /// writing what is dirty. How many went.
    pub fn evict(&self, most: usize) -> usize {
        self.evict_some(|_| true, most)
    }
    /// The same, of those that are `wanted`.
    fn evict_some(&self, wanted: impl Fn(&Inode) -> bool, most: usize) -> usize {
        self.evictors.fetch_add(1, Ordering::SeqCst);
        let mut unused = self.unused(wanted);
        let rest = unused.split_off(most.min(unused.len()));
        let gone = unused.iter().filter(|inode| self.evict_one(inode)).count();
        self.put_back(unused);
        self.put_back(rest);
        self.evictors.fetch_sub(1, Ordering::SeqCst);
        self.left.wake_all();
        gone
    }
    /// The caller's reference is the only one besides the table's, or nothing happens.
    fn evict_one(&self, inode: &Arc<Inode>) -> bool {
        // Clean while it is still found in the table: whoever looks it up now gets this
        // inode and its dirty pages, not a second one that reads old data from disk.
        let used = inode.used.load(Ordering::Relaxed);
        inode.clean();
        let ino = inode.ino();
        let mut table = self.table.lock();
        // Nobody has it, and nobody had it since it was cleaned: no writeback either.
        let untouched = used == inode.used.load(Ordering::Relaxed);
        let unlinked = inode.unlinked.load(Ordering::Acquire);
        if Arc::strong_count(inode) != 2 || !untouched || unlinked || !inode.is_clean() {
            return false;
        }
        table.seen.remove(&ino.0);
        table.inodes.insert(ino.0, Entry::Leaving);
        drop(table);
        inode.drop_clean();
        if let Err(e) = inode.xfs().evict() {
            log::debug!("{ino}: what lay ready for writes stays: {e}");
        }
        self.table.lock().inodes.remove(&ino.0);
        self.left.wake_all();
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
        drop(inodes);
        self.free_orphans();
        if let Some(log) = self.mount.log() {
            log.force_all()?;
            self.mount.discard_freed();
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
        if let Some(log) = self.mount.log() {
            return log.flush_device();
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
        self.evict_some(Inode::is_idle, objects) + self.mount.shrink(objects)
    }
    /// The inodes that nobody refers to, used longest ago first.
    fn unused(&self, wanted: impl Fn(&Inode) -> bool) -> Vec<Arc<Inode>> {
        let mut unused: Vec<Arc<Inode>> = {
            let table = self.table.lock();
            let alone = |i: &&Arc<Inode>| Arc::strong_count(i) == 1;
            table.inodes.values().filter_map(Entry::kept).filter(alone).cloned().collect()
        };
        let unwanted = unused.extract_if(.., |inode| !wanted(inode)).collect();
        self.put_back(unwanted);
        unused.sort_by_key(|i| i.used.load(Ordering::Relaxed));
        unused
    }
    /// Drop everything cached that is clean and unused: folios, names, inodes, metadata.
    /// The number of folios that went.
    pub fn drop_caches(&self) -> usize {
        self.dentries.clear();
        let dropped = self.inodes().iter().map(|i| i.drop_clean()).sum();
        self.evict_some(Inode::is_clean, usize::MAX);
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
        let round = self.blockgc.round.lock();
        let busy = || {
            loop {
                self.free_orphans();
                let table = self.table.lock();
                // Before the look: they hold references, too, for which they lock the table.
                let evictors = self.evictors.load(Ordering::SeqCst);
                let busy = table.inodes.values().any(Entry::is_busy);
                if !busy || evictors == 0 {
                    return busy;
                }
                drop(table);
                let ended = || self.evictors.load(Ordering::SeqCst) == 0;
                self.left.wait_until(|| ended().then_some(()));
            }
        };
        if busy() {
            return Err(Error::Busy);
        }
        self.unmounted.store(true, Ordering::Release);
        if busy() {
            self.unmounted.store(false, Ordering::Release);
            return Err(Error::Busy);
        }
        drop(round);
        self.blockgc.stop();
        let mut result = self.write_all();
        for inode in self.inodes() {
            if let Ok(mapping) = inode.mapping() {
                // Only what nobody was told: a sample starts behind what somebody was.
                result = mapping.error_check(&mut mapping.error_sample()).and(result);
            }
        }
        self.dentries.clear();
        self.evict(usize::MAX);
        result = result.and(self.mount.unmount());
        self.mount.shrink(usize::MAX);
        result
    }
}

impl Table {
    /// Put an inode in; what was there under its number.
    fn put(&mut self, fresh: &Arc<Inode>, unlinked: bool) -> Option<Entry> {
        self.clock += 1;
        fresh.touch(self.clock);
        fresh.unlinked.store(unlinked, Ordering::Release);
        let entry = match unlinked {
            true => Entry::Unlinked(Arc::downgrade(fresh)),
            false => Entry::Kept(fresh.clone()),
        };
        self.inodes.insert(fresh.ino().0, entry)
    }
    fn is_leaving(&self, ino: Ino) -> bool {
        matches!(self.inodes.get(&ino.0), Some(Entry::Leaving))
    }
    fn find(&mut self, ino: Ino) -> Option<Arc<Inode>> {
        let inode = self.inodes.get(&ino.0)?.get()?;
        self.clock += 1;
        inode.touch(self.clock);
        Some(inode)
    }
}

fn check_lookup(dir: &Inode, name: &[u8]) -> Result<()> {
    if dir.file_type() != FileType::Directory {
        return Err(Error::NotDirectory);
    }
    if name.len() > super::NAME_MAX {
        return Err(Error::NameTooLong);
    }
    Ok(())
}
