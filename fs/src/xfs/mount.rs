//! Mounting: is it XFS, is it whole, do we know all of its features, was it unmounted.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;
use core::fmt;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicU64, Ordering};

use super::buf::{BufferCache, ReadError};
use super::counters::Counters;
use super::features;
use super::geometry::Geometry;
use super::inode::Inode;
use super::log::head::{Found, LogState};
use super::log::item::{CommitSeq, Journal};
use super::log::{Log, recovery};
use super::ondisk::be32;
use super::ondisk::block::BlockKind;
use super::ondisk::superblock::{self, Superblock, version};
use super::perag::Perag;
use super::reservation::Reservations;
use super::types::{AgNumber, FileType, Ino, StatFs, Timestamp};
use crate::block::{BioFlags, IoError, Queue, SECTOR_SIZE, Sector};
use crate::error::{Corruption, Error, Result};
use crate::locks::{INODE_CACHE, STATE};
use crate::platform::{Environment, Memory};

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
    me: Weak<Mount>,
    /// There is none in a read-only mount.
    log: Option<Arc<Log>>,
    counters: Counters,
    /// How many blocks extent trees can need.
    pub(super) tree_limits: super::bmap::TreeLimits,
    reservations: Reservations,
    pub(super) perags: Vec<Perag>,
    /// What is remembered of the groups' inodes.
    pub(super) ialloc: super::ialloc::Groups,
    next_intent: AtomicU64,
    environment: Mutex<Option<Arc<dyn Environment>>>,
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
        let mut superblock = read_superblock(&queue, &*memory)?;
        let mut geometry = Arc::new(Geometry::new(&superblock));
        let readonly = options.readonly || queue.info().readonly;
        features::check(&superblock, readonly).map_err(MountError::Unsupported)?;
        check_device(&queue, &superblock)?;
        check_places(&geometry, &superblock)?;
        let pages = memory.total_pages() / BUFFER_PART;
        let limit = pages
            .saturating_mul(crate::platform::PAGE_SIZE as u64)
            .clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX) as usize;
        let mut unfinished = None;
        let (log_state, ends) = match recovery::find(&queue, &memory, &geometry)? {
            Found::Clean(ends) => {
                if !readonly {
                    recovery::clear_ahead(&queue, &memory, &geometry, &ends)?;
                }
                (LogState::Clean { head: ends.head }, Some(ends))
            }
            Found::Dirty(_, reason) | Found::Unusable(reason) if readonly => {
                log::warn!(
                    "xfs: the log is dirty ({reason}); mounted read-only, recovery was not run: \
                     what was logged last is missing"
                );
                (LogState::Dirty { reason }, None)
            }
            Found::Unusable(reason) => return Err(MountError::DirtyLog(reason)),
            Found::Dirty(_, reason) => {
                log::info!("xfs: the log is dirty ({reason}): it is recovered");
                let recovered = recovery::recover(&queue, &memory, &geometry, &superblock)?;
                log::info!("xfs: recovered: {:?}", recovered.statistics);
                superblock = recovered.superblock;
                geometry = Arc::new(Geometry::new(&superblock));
                check_device(&queue, &superblock)?;
                check_places(&geometry, &superblock)?;
                unfinished = Some(recovered.intents);
                (LogState::Clean { head: recovered.ends.head }, Some(recovered.ends))
            }
        };
        let buffers = BufferCache::new(queue.clone(), memory.clone(), geometry.clone(), limit)?;
        let log = match ends {
            Some(ends) if !readonly => {
                let log = Log::new(queue.clone(), memory.clone(), geometry.clone(), ends)?;
                let journal: Arc<dyn Journal> = log.clone();
                buffers.set_journal(Arc::downgrade(&journal));
                Some(log)
            }
            _ => None,
        };
        let mount = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            queue,
            superblock,
            buffers,
            readonly,
            log_state,
            inodes: Mutex::new(
                &INODE_CACHE,
                InodeTable { live: BTreeMap::new(), sweep_at: SWEEP_SLACK },
            ),
            log,
            counters: Counters::default(),
            tree_limits: super::bmap::TreeLimits::new(&geometry),
            reservations: Reservations::new(&geometry),
            perags: Perag::all(geometry.ag_count),
            ialloc: super::ialloc::Groups::new(geometry.ag_count),
            // No number of an intent that is still in the log.
            next_intent: AtomicU64::new(
                unfinished.iter().flatten().map(|p| p.id).max().unwrap_or(0) + 1,
            ),
            environment: Mutex::new(&STATE, None),
            geometry,
        });
        let sb = &mount.superblock;
        mount.counters.set(sb.blocks_free, sb.inodes, sb.inodes_free);
        // They hold the log's tail from the first transaction on.
        let unfinished = unfinished.map(|intents| recovery::hold(&mount, intents));
        if !readonly {
            mount.prepare_writing(unfinished.is_some())?;
        }
        let root = mount.inode(mount.root())?;
        if root.file_type() != FileType::Directory {
            return Err(MountError::Corrupt(Corruption {
                structure: "inode",
                location: format!("{} (the root)", root.ino()),
                reason: format!("it is a {:?}, not a directory", root.file_type()),
            }));
        }
        if let Some(intents) = unfinished {
            recovery::finish(&mount, intents)?;
        }
        if !readonly && mount.superblock.quota_flags != 0 {
            // Quota is not kept up: what it was is not true any more.
            log::info!("xfs: quota is not supported: its accounting is switched off");
            mount.log_superblock()?;
        }
        Ok(mount)
    }
    /// What a mount for writing needs: exact counters, and the rest of recovery.
    fn prepare_writing(self: &Arc<Self>, recovered: bool) -> Result<(), MountError> {
        let lost = super::alloc::freelist::mend(self)?;
        if recovered {
            let (blocks, inodes, free) = self.count_headers()?;
            self.counters.set(blocks, inodes, free);
        } else {
            self.counters.withhold(lost);
        }
        super::alloc::prepare(self)?;
        Ok(())
    }
    /// Free blocks, inodes and free inodes, summed from the groups' headers.
    fn count_headers(&self) -> Result<(u64, u64, u64)> {
        let (mut blocks, mut inodes, mut free) = (0, 0, 0);
        for ag in (0..self.geometry.ag_count).map(AgNumber) {
            let agi = {
                let _inodes = self.lock_agi(ag);
                self.agi(ag)?
            };
            inodes += u64::from(agi.count);
            free += u64::from(agi.free_count);
            let agf = {
                let _space = self.lock_agf(ag);
                self.agf(ag)?
            };
            blocks += u64::from(agf.free_blocks)
                + u64::from(agf.free_list_count)
                + u64::from(agf.btree_blocks);
        }
        Ok((blocks, inodes, free))
    }
    /// Start the log's thread, which keeps the log from filling and covers it when
    /// nothing happens. Without it whoever waits for log space does what is needed.
    pub fn start(&self) {
        let Some(log) = &self.log else { return };
        let me = self.me.clone();
        log.set_cover(Some(Arc::new(move || match me.upgrade() {
            Some(mount) => mount.log_superblock(),
            None => Ok(CommitSeq::default()),
        })));
        log.start();
    }
    /// Write the counters into the superblock, and everything that is logged to its
    /// place; leave a log that needs no recovery. Nothing can be changed afterwards.
    ///
    /// # Errors
    /// The device's; shut down.
    pub fn unmount(&self) -> Result<()> {
        let Some(log) = &self.log else { return Ok(()) };
        // The thread first: it may cover the log, and that is a change behind the last push.
        log.stop();
        let result = self.settle(log);
        if result.is_err() {
            // What a shutdown left behind, now that there is no thread to see to it.
            log.stop();
        }
        result
    }
    fn settle(&self, log: &Arc<Log>) -> Result<()> {
        log.force_all()?;
        self.log_superblock()?;
        log.force_all()?;
        self.discard_freed();
        log.push_all()?;
        log.unmount_record()
    }
    /// Log the superblock with exact counters.
    ///
    /// # Errors
    /// I/O errors, damage, shut down.
    pub(super) fn log_superblock(&self) -> Result<CommitSeq> {
        let mut tp = self.begin(self.reservations.superblock, 0)?;
        let (blocks, inodes, free) = self.count_headers()?;
        let bytes = self.geometry.sector_bytes() as u32;
        let buffer = tp.read(Sector(0), bytes, BlockKind::Superblock)?;
        let mut edit = tp.edit(&buffer);
        edit.set_be64(superblock::INODES_AT, inodes);
        edit.set_be64(superblock::INODES_AT + 8, free);
        edit.set_be64(superblock::INODES_AT + 16, blocks);
        if self.superblock.quota_flags != 0 {
            edit.set_be16(superblock::QUOTA_FLAGS_AT, 0);
        }
        drop(edit);
        tp.commit(&mut [])
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
        let fresh = Inode::read(self.clone(), ino)?;
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
    /// Those of `count` inodes from `first` on that are in memory.
    pub(super) fn inodes_in(&self, first: Ino, count: u64) -> Vec<Arc<Inode>> {
        let table = self.inodes.lock();
        let live = table.live.range(first..Ino(first.0 + count));
        live.filter_map(|(_, inode)| inode.upgrade()).collect()
    }
    /// A new inode: it takes the place of what the number stood for before.
    pub(super) fn adopt(&self, inode: &Arc<Inode>) {
        self.inodes.lock().live.insert(inode.ino(), Arc::downgrade(inode));
    }
    /// A reference to hold on to.
    ///
    /// # Panics
    /// The file system is being dropped: nobody can call this then.
    pub(super) fn arc(&self) -> Arc<Self> {
        self.me.upgrade().expect("called through a reference")
    }
    /// The log; none if mounted read-only.
    pub fn log(&self) -> Option<&Arc<Log>> {
        self.log.as_ref()
    }
    /// Free blocks and inodes.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }
    /// How much log operations need.
    pub const fn reservations(&self) -> &Reservations {
        &self.reservations
    }
    pub(super) fn next_intent_id(&self) -> u64 {
        self.next_intent.fetch_add(1, Ordering::Relaxed)
    }
    /// Where time and randomness come from.
    pub fn set_environment(&self, environment: Arc<dyn Environment>) {
        *self.environment.lock() = Some(environment);
    }
    /// The time of day; the start of 1970 while nobody has said.
    pub fn now(&self) -> Timestamp {
        let ns = self.environment.lock().as_ref().map_or(0, |e| e.wall_clock_ns());
        Timestamp { seconds: (ns / 1_000_000_000) as i64, nanoseconds: (ns % 1_000_000_000) as u32 }
    }
    /// A random number.
    pub(super) fn random(&self) -> u64 {
        let environment = self.environment.lock();
        environment.as_ref().map_or(self.next_intent_id(), |e| e.random())
    }
    /// Nothing more is written; everything fails from now on.
    pub fn shut_down(&self, reason: &str) {
        if let Some(log) = &self.log {
            log.shut_down(reason);
        }
    }
    /// Was it shut down?
    pub fn is_shut_down(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.is_shut_down())
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
        self.ialloc.release();
        self.buffers.shrink(buffers)
    }
    /// Space and inodes, as they are just now.
    pub fn statfs(&self) -> StatFs {
        let (sb, geometry) = (&self.superblock, &*self.geometry);
        let blocks = sb.data_blocks.saturating_sub(u64::from(sb.log_blocks));
        let blocks_free = self.counters.free_blocks().min(blocks);
        let (inodes, inodes_free) = (self.counters.inodes(), self.counters.free_inodes());
        let inodes_log = geometry.block_log - geometry.inode_log;
        let possible = inodes.saturating_add(blocks_free << inodes_log);
        let chunk = u64::from(geometry.chunk_blocks());
        let percent = u64::from(geometry.inode_max_percent);
        let files = if percent == 0 {
            possible
        } else {
            let most_blocks = (u128::from(sb.data_blocks) * u128::from(percent) / 100) as u64;
            possible.min((most_blocks / chunk * chunk) << inodes_log)
        };
        let files = files.max(inodes);
        let used = inodes.saturating_sub(inodes_free);
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
