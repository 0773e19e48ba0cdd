//! Changing inodes: the inode locked exclusive, what is logged of it, how it gets to its
//! place.
//!
//! An inode goes to disk inside its cluster's buffer: the pusher copies it, with all other
//! dirty inodes of the cluster, into the buffer, and that is written. The link of the
//! unlinked list is not the inode's to write: it is logged with the cluster.
//!
//! Locks: `ILOCK`, then `BUFFER` (the cluster), then `BUFFER_ITEM`.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, DerefMut};

use holdfast_sync::RwLockWriteGuard;
use holdfast_sync::atomic::Ordering;

use super::buf::Buffer;
use super::extents::ExtentList;
use super::inode::{Fork, ForkKind, Inode, State};
use super::log::item::{CommitSeq, Item, ItemKey, Journal, Lsn, Pushed, Vectors};
use super::ondisk::block::BlockKind;
use super::ondisk::bmbt::RECORD_BYTES;
use super::ondisk::inode::{CORE_BYTES, CRC_OFFSET, Format, InodeCore, NEXT_UNLINKED};
use super::ondisk::log_inode::{InodeFields, InodeFormat, root_to_log};
use super::ondisk::stamp_checksum;
use super::types::Ino;
use crate::block::Plug;
use crate::error::Result;

bitflags::bitflags! {
    /// What of an inode changed.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct LogFields: u8 {
        /// The core.
        const CORE = 1;
        /// The data fork.
        const DATA = 2;
        /// The attribute fork.
        const ATTR = 4;
        /// Times only: `fdatasync` does not wait for them.
        const TIMES = 8;
    }
}

/// What of an inode is logged and not in place.
#[derive(Default)]
pub(super) struct InodeItem {
    fields: LogFields,
    pins: u32,
    version: u64,
    lsn: Lsn,
    in_flight: bool,
    /// Its cluster is freed: it is never written again.
    stale: bool,
    /// The last commit it was in, and the last one that `fdatasync` has to wait for.
    last: CommitSeq,
    last_data: CommitSeq,
}

const LSN_AT: usize = 112;

/// An inode locked exclusive. What was changed has to be logged before it is unlocked:
/// otherwise the file system shuts down.
pub struct LockedInode<'a> {
    inode: &'a Inode,
    state: RwLockWriteGuard<'a, State>,
    dirty: LogFields,
}

impl<'a> LockedInode<'a> {
    pub(super) fn new(inode: &'a Inode, state: RwLockWriteGuard<'a, State>) -> Self {
        Self { inode, state, dirty: LogFields::empty() }
    }
    /// The inode.
    pub(super) fn inode(&self) -> &'a Inode {
        self.inode
    }
    /// Its number.
    pub(super) fn ino(&self) -> Ino {
        self.inode.ino()
    }
    /// The core, to be changed.
    pub(super) fn core_mut(&mut self) -> &mut InodeCore {
        self.dirty |= LogFields::CORE;
        &mut self.state.core
    }
    /// The core, of which only times are changed.
    pub(super) fn times_mut(&mut self) -> &mut InodeCore {
        self.dirty |= LogFields::TIMES;
        &mut self.state.core
    }
    /// Something changed.
    pub(super) fn mark(&mut self, fields: LogFields) {
        self.dirty |= fields;
    }
    /// A fork's extents are about to change.
    pub(super) fn bump_sequence(&self, kind: ForkKind) {
        self.inode.bump_sequence(kind);
    }
    /// Load a fork's extents if they are not.
    ///
    /// # Errors
    /// Those of reading them.
    pub(super) fn load(&mut self, kind: ForkKind) -> Result<()> {
        self.inode.load_into(&mut self.state, kind)
    }
    /// The size that is on disk from the next commit on.
    pub(super) fn set_disk_size(&mut self, size: u64) {
        self.core_mut().size = size;
        self.inode.publish_size(size);
    }
    /// Log what changed: the item for the log, or nothing if nothing did.
    pub(super) fn format(&mut self) -> Option<(Arc<Inode>, Vectors, LogFields)> {
        let changed = core::mem::take(&mut self.dirty);
        if changed.is_empty() {
            return None;
        }
        self.state.core.change_count += 1;
        // The whole core is logged, with whatever times it has.
        self.inode.times_pending.store(false, Ordering::Release);
        let fields = {
            let mut item = self.inode.item.lock();
            item.fields |= changed;
            item.version += 1;
            item.fields
        };
        let inode = self.inode.me.upgrade()?;
        Some((inode, encode_item(self.inode, &self.state, fields), changed))
    }
}

impl Deref for LockedInode<'_> {
    type Target = State;
    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for LockedInode<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for LockedInode<'_> {
    fn drop(&mut self) {
        if !self.dirty.is_empty()
            && let Some(log) = self.inode.mount().log()
        {
            log.shut_down(&alloc::format!("{} was changed and not logged", self.ino()));
        }
    }
}

/// The bytes of a fork as they lie in the inode: for extents and local contents only
/// what is used.
fn fork_bytes(fork: &Fork) -> Vec<u8> {
    match fork {
        Fork::Device(number) => number.to_be_bytes().to_vec(),
        Fork::Local(bytes) => bytes.clone(),
        Fork::Raw(_, bytes) => bytes.to_vec(),
        Fork::Extents(extents) => match &extents.root {
            Some(root) => root.clone(),
            None => extents.list.encode(),
        },
    }
}

/// What is logged of a fork.
enum Region<'a> {
    /// Bytes as they lie in the inode.
    Bytes(&'a [u8]),
    /// The root of a tree, in the log's form.
    Root(Vec<u8>),
    /// Extents.
    Extents(&'a ExtentList),
}

impl<'a> Region<'a> {
    /// That of a fork, if it has anything.
    fn of(inode: &Inode, fork: &'a Fork) -> Option<Self> {
        let root = |root| {
            let uuid = inode.mount().geometry().meta_uuid;
            // It was checked when it was made or read.
            Self::Root(root_to_log(root, uuid, inode.ino()).unwrap_or_default())
        };
        let region = match fork {
            Fork::Device(_) => return None,
            Fork::Local(bytes) => Self::Bytes(bytes),
            Fork::Raw(Format::Btree, bytes) => root(bytes),
            Fork::Raw(_, bytes) => Self::Bytes(bytes),
            Fork::Extents(extents) => match &extents.root {
                Some(bytes) => root(bytes),
                None => Self::Extents(&extents.list),
            },
        };
        (region.length() > 0).then_some(region)
    }
    /// Bytes, before rounding.
    fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Root(root) => root.len(),
            Self::Extents(list) => list.len() * RECORD_BYTES,
        }
    }
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Bytes(bytes) => out.extend_from_slice(bytes),
            Self::Root(root) => out.extend_from_slice(root),
            Self::Extents(list) => {
                list.iter().for_each(|extent| out.extend_from_slice(&extent.encode()));
            }
        }
        let padding = self.length().next_multiple_of(4) - self.length();
        out.extend_from_slice(&[0; 3][..padding]);
    }
}

/// Which bit says that a fork is logged, by its form: data, attributes.
const fn fork_fields(format: Format) -> (InodeFields, InodeFields) {
    match format {
        Format::Device => (InodeFields::DEVICE, InodeFields::empty()),
        Format::Local => (InodeFields::DATA_LOCAL, InodeFields::ATTR_LOCAL),
        Format::Extents => (InodeFields::DATA_EXTENTS, InodeFields::ATTR_EXTENTS),
        Format::Btree => (InodeFields::DATA_ROOT, InodeFields::ATTR_ROOT),
    }
}

fn encode_item(inode: &Inode, state: &State, fields: LogFields) -> Vectors {
    let geometry = inode.mount().geometry();
    let core = &state.core;
    let mut logged = InodeFields::CORE;
    let (mut data, mut attr) = (None, None);
    let mut device = 0;
    if fields.contains(LogFields::DATA) {
        if let Fork::Device(number) = state.data {
            device = number;
            logged |= InodeFields::DEVICE;
        }
        data = Region::of(inode, &state.data);
        if data.is_some() {
            logged |= fork_fields(core.format).0;
        }
    }
    if fields.contains(LogFields::ATTR)
        && let (Some(fork), Some(format)) = (&state.attr, core.attr_format)
    {
        attr = Region::of(inode, fork);
        if attr.is_some() {
            logged |= fork_fields(format).1;
        }
    }
    let length = |region: &Option<Region<'_>>| region.as_ref().map_or(0, Region::length);
    let (data_bytes, attr_bytes) = (length(&data), length(&attr));
    let place = inode.place();
    let format = InodeFormat {
        fields: logged,
        attr_bytes: attr_bytes as u16,
        data_bytes: data_bytes as u16,
        ino: inode.ino(),
        device,
        daddr: place.map_or(0, |(run, _)| run.sector.0),
        blocks: place.map_or(0, |(run, _)| run.bytes / 512),
        offset: place.map_or(0, |(_, at)| at as u32),
    };
    let room = InodeFormat::BYTES + CORE_BYTES + data_bytes + attr_bytes + 6;
    let mut vectors = Vectors::with_capacity(room, 4);
    vectors.push_with(|out| format.encode(out));
    vectors.push(&core.encode_for_log(geometry, inode.ino()));
    for region in [data, attr].into_iter().flatten() {
        vectors.push_with(|out| region.put(out));
    }
    vectors
}

impl Inode {
    /// It went into the log with this commit.
    pub(super) fn note_commit(&self, seq: CommitSeq, changed: LogFields) {
        let mut item = self.item.lock();
        item.last = seq;
        if changed != LogFields::TIMES {
            item.last_data = seq;
        }
    }
    /// Make durable what was last changed of it; with `data_only` not its times.
    ///
    /// # Errors
    /// The log's.
    pub fn log_force(&self, data_only: bool) -> Result<()> {
        let Some(log) = self.mount().log() else { return Ok(()) };
        let seq = {
            let item = self.item.lock();
            if data_only { item.last_data } else { item.last }
        };
        if seq == CommitSeq::default() { Ok(()) } else { log.force(seq) }
    }
    /// Its cluster is freed. Was anything logged of it that is not in place?
    pub(super) fn make_stale(&self) -> bool {
        let mut item = self.item.lock();
        let was_logged = item.pins > 0 || !item.fields.is_empty();
        item.stale = true;
        was_logged
    }
    /// Is it logged and not in place, or not even durable in the log?
    pub(super) fn is_logged(&self) -> bool {
        let item = self.item.lock();
        item.pins > 0 || !item.fields.is_empty()
    }
    /// The cluster with its inode went to disk as it was at `version`.
    pub(super) fn written(&self, version: u64, ok: bool) {
        let mut item = self.item.lock();
        item.in_flight = false;
        if ok && item.version == version {
            item.fields = LogFields::empty();
            if let Some(log) = self.mount().log() {
                log.ail_remove(&ItemKey::Inode(self.ino().0), item.lsn);
            }
        }
    }
    /// Copy it into its cluster if it is dirty, durable in the log and not locked.
    fn flush_into(&self, cluster: &Arc<Buffer>, at: usize) -> Pushed {
        let Some(state) = self.state.try_read() else { return Pushed::Locked };
        let Some(mut contents) = cluster.contents.try_write() else { return Pushed::Locked };
        // A write under way has its own copy of the cluster, without this inode.
        if cluster.item.lock().is_in_flight() {
            return Pushed::Locked;
        }
        let (version, lsn, fields) = {
            let mut item = self.item.lock();
            if item.pins > 0 {
                return Pushed::Pinned;
            }
            if item.in_flight || item.stale || item.fields.is_empty() {
                return Pushed::InFlight;
            }
            item.in_flight = true;
            (item.version, item.lsn, item.fields)
        };
        let geometry = self.mount().geometry();
        let bytes = &mut contents[at..at + geometry.inode_bytes()];
        let mut core = state.core.encode(geometry, self.ino());
        core[NEXT_UNLINKED].copy_from_slice(&bytes[NEXT_UNLINKED]);
        core[LSN_AT..LSN_AT + 8].copy_from_slice(&lsn.0.to_be_bytes());
        bytes[..CORE_BYTES].copy_from_slice(&core);
        let (data, attr) = bytes[CORE_BYTES..].split_at_mut(state.core.data_fork_bytes);
        if fields.contains(LogFields::DATA) {
            put_fork(&state.data, data);
        }
        match &state.attr {
            Some(fork) if fields.contains(LogFields::ATTR) => put_fork(fork, attr),
            _ => {}
        }
        stamp_checksum(bytes, CRC_OFFSET);
        if let Some(me) = self.me.upgrade() {
            cluster.attach_inode(me, version);
        }
        Pushed::Submitted
    }
}

fn put_fork(fork: &Fork, place: &mut [u8]) {
    let bytes = fork_bytes(fork);
    let used = bytes.len().min(place.len());
    place[..used].copy_from_slice(&bytes[..used]);
    place[used..].fill(0);
}

impl Item for Inode {
    fn key(&self) -> ItemKey {
        ItemKey::Inode(self.ino().0)
    }
    fn pin(&self) {
        self.item.lock().pins += 1;
    }
    fn unpin(&self) {
        let mut item = self.item.lock();
        debug_assert!(item.pins > 0, "unpinned once too often");
        item.pins = item.pins.saturating_sub(1);
    }
    fn committed(&self, lsn: Lsn) -> Option<Lsn> {
        let mut item = self.item.lock();
        item.lsn = lsn;
        (!item.stale).then_some(lsn)
    }
    fn push(self: Arc<Self>, plug: &mut Plug<'_>) -> Result<Pushed> {
        {
            let item = self.item.lock();
            if item.pins > 0 {
                return Ok(Pushed::Pinned);
            }
            if item.stale {
                return Ok(Pushed::Waiting);
            }
        }
        let mount = self.mount();
        let geometry = mount.geometry();
        let Some((run, at)) = self.place() else {
            return Err(self.corrupt("it has no place".into()));
        };
        let cluster = mount.buffers().read(&[run], &[BlockKind::Inodes])?;
        match self.flush_into(&cluster, at) {
            Pushed::Submitted => {}
            Pushed::InFlight => return cluster.push(plug),
            other => return Ok(other),
        }
        // Its neighbours go with it.
        let count = u64::from(run.bytes) >> geometry.inode_log;
        let first = Ino(self.ino().0 - (at >> geometry.inode_log) as u64);
        for other in mount.inodes_in(first, count) {
            let at = ((other.ino().0 - first.0) as usize) << geometry.inode_log;
            if other.ino() != self.ino() {
                other.flush_into(&cluster, at);
            }
        }
        cluster.push(plug)
    }
}
