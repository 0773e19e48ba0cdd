//! Mounting: is it XFS, is it whole, do we know all of its features, was it unmounted.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use core::fmt;

use holdfast_sync::Mutex;

use super::buf::{BufferCache, ReadError};
use super::features;
use super::geometry::Geometry;
use super::inode::Inode;
use super::log::LogDevice;
use super::log::head::{LogState, inspect};
use super::ondisk::be32;
use super::ondisk::superblock::{self, Superblock, version};
use super::types::{FileType, Ino, StatFs};
use crate::block::{BioFlags, IoError, Queue, SECTOR_SIZE, Sector};
use crate::error::{Corruption, Error, Result};
use crate::locks::INODE_CACHE;
use crate::platform::Memory;

/// Bytes read to get at the superblock: the greatest sector we mount.
const SUPERBLOCK_BYTES: usize = 4096;
/// Of the pages there are, this part may be metadata buffers.
const BUFFER_PART: u64 = 16;
const BUFFER_BYTES_MIN: u64 = 256 << 10;
const BUFFER_BYTES_MAX: u64 = 64 << 20;
/// Entries of the inode table that may have died before it is swept.
const SWEEP_SLACK: usize = 256;

/// How to mount.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountOptions {
    /// Refuse all writes; a dirty log is then tolerated.
    pub readonly: bool,
}

/// Why a file system was not mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountError {
    /// The device failed.
    Io(IoError),
    /// There is no XFS file system.
    NotXfs,
    /// Metadata needed for mounting is damaged.
    Corrupt(Corruption),
    /// The file system has what we cannot handle; says what.
    Unsupported(String),
    /// The log has to be recovered first.
    DirtyLog(String),
    /// The device ends before the file system does.
    DeviceTooSmall {
        /// Sectors of 512 bytes the superblock asks for.
        needed_sectors: u64,
        /// Sectors of 512 bytes there are.
        device_sectors: u64,
    },
    /// No memory.
    NoMemory,
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(e) => write!(f, "cannot read the device: {e}"),
            Self::NotXfs => f.write_str("not an XFS file system (bad superblock magic)"),
            Self::Corrupt(c) => c.fmt(f),
            Self::Unsupported(what) => write!(f, "unsupported: {what}"),
            Self::DirtyLog(why) => write!(
                f,
                "the log is dirty and has to be recovered ({why}); \
                 it can be mounted read-only without that"
            ),
            Self::DeviceTooSmall { needed_sectors, device_sectors } => write!(
                f,
                "the device has {device_sectors} sectors, \
                 the superblock says {needed_sectors}"
            ),
            Self::NoMemory => f.write_str("out of memory"),
        }
    }
}

impl core::error::Error for MountError {}

impl From<ReadError> for MountError {
    fn from(e: ReadError) -> Self {
        match e {
            ReadError::Io(e) => Self::Io(e),
            ReadError::NoMemory => Self::NoMemory,
        }
    }
}

impl From<Error> for MountError {
    fn from(e: Error) -> Self {
        match e {
            Error::Corrupt(c) => Self::Corrupt(c),
            Error::NoMemory => Self::NoMemory,
            _ => Self::Io(IoError::Device),
        }
    }
}

/// A mounted file system.
pub struct Mount {
    queue: Arc<Queue>,
    geometry: Arc<Geometry>,
    superblock: Superblock,
    buffers: BufferCache,
    readonly: bool,
    log_state: LogState,
    inodes: Mutex<InodeTable>,
}

/// The inodes somebody holds.
struct InodeTable {
    live: BTreeMap<Ino, Weak<Inode>>,
    /// Sweep out the dead when it has grown to this.
    sweep_at: usize,
}

impl Mount {
    /// Look at the superblock, the log and the root directory, and mount.
    ///
    /// # Errors
    /// See [`MountError`].
    pub fn open(
        queue: Arc<Queue>,
        memory: Arc<dyn Memory>,
        options: MountOptions,
    ) -> Result<Arc<Self>, MountError> {
        let superblock = read_superblock(&queue, &*memory)?;
        let geometry = Arc::new(Geometry::new(&superblock));
        let readonly = options.readonly || queue.info().readonly;
        features::check(&superblock, readonly).map_err(MountError::Unsupported)?;
        check_device(&queue, &superblock)?;
        check_places(&geometry, &superblock)?;
        let pages = memory.total_pages() / BUFFER_PART;
        let limit = pages
            .saturating_mul(crate::platform::PAGE_SIZE as u64)
            .clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX) as usize;
        let buffers = BufferCache::new(queue.clone(), memory, geometry.clone(), limit)?;
        let log_state = inspect(&LogDevice::new(&buffers, &geometry))?;
        if let LogState::Dirty { reason } = &log_state {
            if !readonly {
                return Err(MountError::DirtyLog(reason.clone()));
            }
            log::warn!(
                "xfs: the log is dirty ({reason}); mounted read-only, recovery was not run: \
                 what was logged last is missing"
            );
        }
        let mount = Arc::new(Self {
            queue,
            geometry,
            superblock,
            buffers,
            readonly,
            log_state,
            inodes: Mutex::new(
                &INODE_CACHE,
                InodeTable { live: BTreeMap::new(), sweep_at: SWEEP_SLACK },
            ),
        });
        let root = mount.inode(mount.root())?;
        if root.file_type() != FileType::Directory {
            return Err(MountError::Corrupt(Corruption {
                structure: "inode",
                location: format!("{} (the root)", root.ino()),
                reason: format!("it is a {:?}, not a directory", root.file_type()),
            }));
        }
        Ok(mount)
    }
    /// The root directory.
    pub const fn root(&self) -> Ino {
        Ino(self.superblock.root_ino)
    }
    /// An inode, from memory if somebody holds it, otherwise read and checked.
    ///
    /// # Errors
    /// I/O errors; damage, which includes an inode that is not in use.
    pub fn inode(self: &Arc<Self>, ino: Ino) -> Result<Arc<Inode>> {
        if let Some(held) = self.inodes.lock().live.get(&ino).and_then(Weak::upgrade) {
            return Ok(held);
        }
        let fresh = Arc::new(Inode::read(self.clone(), ino)?);
        let mut table = self.inodes.lock();
        // Somebody else may have been faster: there is one inode of a number.
        if let Some(held) = table.live.get(&ino).and_then(Weak::upgrade) {
            drop(table);
            return Ok(held);
        }
        if table.live.len() >= table.sweep_at {
            table.live.retain(|_, inode| inode.strong_count() > 0);
            table.sweep_at = table.live.len() * 2 + SWEEP_SLACK;
        }
        table.live.insert(ino, Arc::downgrade(&fresh));
        Ok(fresh)
    }
    /// An inode has been dropped. It may have been under any lock, so this never waits;
    /// an entry left behind is swept later.
    pub(super) fn forget(&self, ino: Ino) {
        if let Some(mut table) = self.inodes.try_lock()
            && table.live.get(&ino).is_some_and(|inode| inode.strong_count() == 0)
        {
            table.live.remove(&ino);
        }
    }
    /// The shape of the file system.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
    /// The superblock as it was read.
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }
    /// The metadata blocks in memory.
    pub const fn buffers(&self) -> &BufferCache {
        &self.buffers
    }
    /// The device.
    pub const fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }
    /// Are all writes refused?
    pub const fn readonly(&self) -> bool {
        self.readonly
    }
    /// What the log said at mount.
    pub const fn log_state(&self) -> &LogState {
        &self.log_state
    }
    /// What the cache of metadata blocks did so far and holds now.
    pub fn buffer_statistics(&self) -> super::buf::BufferStatistics {
        self.buffers.statistics()
    }
    /// Drop up to `buffers` clean metadata blocks; how many were dropped.
    pub fn shrink(&self, buffers: usize) -> usize {
        self.buffers.shrink(buffers)
    }
    /// Space and inodes, from the counters in the superblock, which are exact when the
    /// file system was unmounted.
    pub fn statfs(&self) -> StatFs {
        let (sb, geometry) = (&self.superblock, &*self.geometry);
        let blocks = sb.data_blocks.saturating_sub(u64::from(sb.log_blocks));
        let blocks_free = sb.blocks_free.min(blocks);
        let inodes_log = geometry.block_log - geometry.inode_log;
        let possible = sb.inodes.saturating_add(blocks_free << inodes_log);
        let chunk = u64::from(geometry.chunk_blocks());
        let percent = u64::from(geometry.inode_max_percent);
        let files = if percent == 0 {
            possible
        } else {
            let most_blocks = (u128::from(sb.data_blocks) * u128::from(percent) / 100) as u64;
            possible.min((most_blocks / chunk * chunk) << inodes_log)
        };
        let files = files.max(sb.inodes);
        let used = sb.inodes.saturating_sub(sb.inodes_free);
        StatFs {
            block_bytes: geometry.block_bytes() as u32,
            blocks,
            blocks_free,
            blocks_available: blocks_free,
            files,
            files_free: files - used.min(files),
            fsid: sb.uuid.as_u64_pair().0 ^ sb.uuid.as_u64_pair().1,
            name_max: super::dir::NAME_MAX as u32,
        }
    }
}

fn read_superblock(queue: &Queue, memory: &dyn Memory) -> Result<Superblock, MountError> {
    let device_bytes = queue.capacity_sectors().saturating_mul(SECTOR_SIZE);
    if device_bytes < SUPERBLOCK_BYTES as u64 {
        return Err(MountError::NotXfs);
    }
    let mut sector = [0; SUPERBLOCK_BYTES];
    queue.read_bytes(memory, Sector(0), &mut sector, BioFlags::META)?;
    if be32(&sector, 0) != Some(superblock::MAGIC) {
        return Err(MountError::NotXfs);
    }
    let view = superblock::View::new(&sector).ok_or(MountError::NotXfs)?;
    // Older versions have no checksum that could be looked at.
    let number = view.version() & version::NUMBER_MASK;
    if number != 5 {
        return Err(MountError::Unsupported(format!("XFS version {number} (only version 5 is)")));
    }
    if usize::from(view.sector_bytes()) > SUPERBLOCK_BYTES {
        let bytes = view.sector_bytes();
        return Err(MountError::Unsupported(format!("sectors of {bytes} bytes")));
    }
    Superblock::decode(&sector).map_err(corrupt_superblock)
}

fn corrupt_superblock(reason: String) -> MountError {
    MountError::Corrupt(Corruption {
        structure: "superblock",
        location: "AG 0 block 0 (daddr 0x0)".into(),
        reason,
    })
}

/// Does the file system fit the device?
fn check_device(queue: &Queue, sb: &Superblock) -> Result<(), MountError> {
    let needed_sectors = sb.data_blocks << (sb.block_log - 9);
    let device_sectors = queue.capacity_sectors();
    if needed_sectors > device_sectors {
        return Err(MountError::DeviceTooSmall { needed_sectors, device_sectors });
    }
    let unit = queue.info().logical_block_bytes;
    if unit > 1 << sb.sector_log {
        return Err(MountError::Unsupported(format!(
            "sectors of {} bytes on a device with blocks of {unit}",
            1 << sb.sector_log
        )));
    }
    Ok(())
}

/// Do the places the superblock names exist?
fn check_places(geometry: &Geometry, sb: &Superblock) -> Result<(), MountError> {
    if !geometry.has_blocks(geometry.log_start, u64::from(sb.log_blocks)) {
        return Err(corrupt_superblock(format!(
            "the log's {} blocks at {} do not exist",
            sb.log_blocks, geometry.log_start
        )));
    }
    if u64::from(sb.log_blocks) << sb.block_log > 2 << 30 {
        return Err(corrupt_superblock(format!("a log of {} blocks", sb.log_blocks)));
    }
    if !geometry.has_inode(Ino(sb.root_ino)) {
        return Err(corrupt_superblock(format!("the root is {}, which cannot be", sb.root_ino)));
    }
    Ok(())
}
