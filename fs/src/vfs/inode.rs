//! One file in core.

use alloc::sync::Arc;

use holdfast_sync::PerCpuRwLock;
use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Stat;
use crate::pagecache::Mapping;
use crate::xfs::{self, FileType, Ino};
use crate::{Error, Result, locks};

/// A file that somebody uses or used lately. There is one for an inode number at a time,
/// because there must be one page cache of a file.
pub struct Inode {
    pub(super) xfs: Arc<xfs::Inode>,
    file_type: FileType,
    /// Reads shared, writes exclusive; lookups in a directory shared. Its readers write
    /// only a cache line of their own processor.
    pub(super) iolock: PerCpuRwLock<()>,
    /// The cached contents; of regular files only.
    mapping: Option<Arc<Mapping>>,
    /// When it was last looked up, on the table's clock.
    pub(super) used: AtomicU64,
    /// It has no names: it is freed with the last reference to it.
    pub(super) unlinked: AtomicBool,
    /// It never had a name, and may be given one.
    pub(super) linkable: AtomicBool,
}

impl Inode {
    pub(super) fn new(
        xfs: Arc<xfs::Inode>,
        mapping: impl FnOnce(&Arc<xfs::Inode>) -> Arc<Mapping>,
    ) -> Self {
        let file_type = xfs.file_type();
        let mapping = (file_type == FileType::Regular).then(|| mapping(&xfs));
        Self {
            xfs,
            file_type,
            iolock: PerCpuRwLock::new(&locks::IOLOCK, ()),
            mapping,
            used: AtomicU64::new(0),
            unlinked: AtomicBool::new(false),
            linkable: AtomicBool::new(false),
        }
    }
    /// The number.
    pub fn ino(&self) -> Ino {
        self.xfs.ino()
    }
    /// What it is.
    pub fn file_type(&self) -> FileType {
        self.file_type
    }
    /// The file system's inode.
    pub fn xfs(&self) -> &Arc<xfs::Inode> {
        &self.xfs
    }
    /// The cached contents.
    ///
    /// # Errors
    /// Is a directory; invalid for anything else that has no contents.
    #[inline]
    pub fn mapping(&self) -> Result<&Arc<Mapping>> {
        match &self.mapping {
            Some(mapping) => Ok(mapping),
            None if self.file_type == FileType::Directory => Err(Error::IsDirectory),
            None => Err(Error::Invalid("not a regular file")),
        }
    }
    /// The size in bytes.
    pub fn size(&self) -> u64 {
        self.mapping.as_ref().map_or_else(|| self.xfs.size(), |m| m.size())
    }
    /// Everything `stat` tells.
    pub fn stat(&self) -> Stat {
        let a = self.xfs.attributes();
        Stat {
            dev: super::device_number(254, 0),
            ino: self.ino().0,
            mode: u32::from(a.mode),
            nlink: a.nlink,
            uid: a.uid,
            gid: a.gid,
            rdev: super::device_number(a.rdev.0, a.rdev.1),
            size: self.size(),
            blksize: a.blksize,
            blocks: a.blocks,
            atime: a.atime,
            mtime: a.mtime,
            ctime: a.ctime,
            btime: a.btime,
        }
    }
    pub(super) fn touch(&self, clock: u64) {
        self.used.store(clock, Ordering::Relaxed);
    }
    /// Write what is dirty and wait until nothing is under writeback.
    pub(super) fn clean(&self) {
        if let Some(mapping) = &self.mapping {
            mapping.write_and_wait(0..u64::MAX);
        }
        if let Err(e) = self.xfs.flush_times() {
            log::debug!("{}: its times are lost: {e}", self.ino());
        }
    }
    pub(super) fn is_clean(&self) -> bool {
        self.mapping.as_ref().is_none_or(|m| m.dirty_pages() == 0)
    }
    /// Nothing of the file is cached.
    pub(super) fn is_idle(&self) -> bool {
        self.mapping.as_ref().is_none_or(|m| m.cached_pages() == 0)
    }
    pub(super) fn drop_clean(&self) -> usize {
        self.mapping.as_ref().map_or(0, |m| m.drop_clean(0..u64::MAX))
    }
}

impl Drop for Inode {
    /// Nobody can reach a file without names any more once nobody holds it: what it had
    /// is free again. What is dirty in the cache need not be written.
    fn drop(&mut self) {
        if !*self.unlinked.get_mut() {
            return;
        }
        if let Some(mapping) = &self.mapping {
            mapping.invalidate(0..u64::MAX);
        }
        self.xfs.mount().inactivate(&self.xfs);
    }
}
