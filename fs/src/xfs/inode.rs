//! In-core inodes: the checked core, the forks, the sequence counters.
//!
//! An inode is read and checked when it is first asked for. Its extents are loaded on
//! first use and then stay as long as the inode does. `ILOCK` protects core and forks;
//! the size and the sequence of each fork can be read without it.
//!
//! A fork's sequence rises before its extents change, under `ILOCK` exclusive. Maps
//! carry the sequence they were made under as their cookie.

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use holdfast_sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use holdfast_sync::{Mutex, RwLock, RwLockReadGuard};

use super::bmap::{Delayed, Reserved};
use super::buf::Run;
use super::extents::{self, ExtentList, ForkSource, NO_EXTENTS};
use super::inode_item::{InodeItem, LockedInode};
use super::mount::Mount;
use super::ondisk::block::BlockKind;
use super::ondisk::inode::{CORE_BYTES, Flags, Flags2, Format, InodeCore, OnDisk};
use super::ondisk::{be32, inode};
use super::types::{Attributes, FileType, Ino};
use crate::error::{Corruption, Error, Result};
use crate::locks::{BUFFER_ITEM, ILOCK};

/// Which of an inode's forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkKind {
    /// Contents.
    Data,
    /// Extended attributes.
    Attr,
    /// Where writes to shared extents go until they have ended; in memory only.
    Cow,
}

impl ForkKind {
    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data fork",
            Self::Attr => "attr fork",
            Self::Cow => "copy-on-write fork",
        }
    }
}

/// A fork in memory.
pub(super) enum Fork {
    /// A device number.
    Device(u32),
    /// The contents.
    Local(Vec<u8>),
    /// Extents, not looked at yet: the fork's bytes.
    Raw(Format, Box<[u8]>),
    /// Extents.
    Extents(ForkExtents),
}

/// A fork's extents, and where they come from.
#[derive(Default)]
pub(super) struct ForkExtents {
    /// All of them.
    pub(super) list: ExtentList,
    /// The root of their tree as it lies in the inode, if they are in one.
    pub(super) root: Option<Vec<u8>>,
}

/// What `ILOCK` protects.
pub struct State {
    pub(super) core: InodeCore,
    pub(super) data: Fork,
    pub(super) attr: Option<Fork>,
    /// What exists in memory only: reserved space and the copy-on-write fork.
    pub(super) delayed: Delayed,
}

impl State {
    pub(super) const fn fork(&self, kind: ForkKind) -> Option<&Fork> {
        match kind {
            ForkKind::Data => Some(&self.data),
            ForkKind::Attr => self.attr.as_ref(),
            ForkKind::Cow => None,
        }
    }
    pub(super) const fn fork_mut(&mut self, kind: ForkKind) -> Option<&mut Fork> {
        match kind {
            ForkKind::Data => Some(&mut self.data),
            ForkKind::Attr => self.attr.as_mut(),
            ForkKind::Cow => None,
        }
    }
}

/// An inode in memory.
pub struct Inode {
    mount: Arc<Mount>,
    ino: Ino,
    generation: u32,
    file_type: FileType,
    place: Option<(Run, usize)>,
    size: AtomicU64,
    /// The size of the file in memory, where the page cache has more than the disk.
    eof: AtomicU64,
    data_sequence: AtomicU64,
    attr_sequence: AtomicU64,
    cow_sequence: AtomicU64,
    /// The flags of the core, for who takes no lock.
    flags: AtomicU32,
    /// It is known that there is no default access control list.
    no_default_acl: AtomicBool,
    /// Times changed that no transaction has logged since.
    pub(super) times_pending: AtomicBool,
    /// The last write had to reserve space: the next one will not look for it first.
    pub(super) reserving: AtomicBool,
    pub(super) state: RwLock<State>,
    /// What of it is logged and not in place.
    pub(super) item: Mutex<InodeItem>,
    pub(super) me: Weak<Inode>,
}

static NOTHING_RESERVED: Reserved = Reserved::new();

/// A look at an inode under `ILOCK`, the extents of one fork being loaded.
pub(super) struct Locked<'a> {
    state: RwLockReadGuard<'a, State>,
    kind: ForkKind,
}

impl Locked<'_> {
    /// The core.
    pub(super) fn core(&self) -> &InodeCore {
        &self.state.core
    }
    /// All of it.
    pub(super) fn state(&self) -> &State {
        &self.state
    }
    /// What exists in memory only.
    pub(super) fn delayed(&self) -> &Delayed {
        &self.state.delayed
    }
    /// What is reserved for the fork.
    pub(super) fn reserved(&self) -> &Reserved {
        match self.kind {
            ForkKind::Data => &self.state.delayed.data,
            ForkKind::Cow => &self.state.delayed.cow_reserved,
            ForkKind::Attr => &NOTHING_RESERVED,
        }
    }
    /// Does it ask for extents of at least its hint's size?
    pub(super) fn has_extent_hint(&self) -> bool {
        self.state.core.flags.contains(Flags::EXTSIZE)
    }
    /// The fork, if there is one.
    pub(super) fn fork(&self) -> Option<&Fork> {
        self.state.fork(self.kind)
    }
    /// The fork's extents; none if it is of another kind.
    pub(super) fn extents(&self) -> &ExtentList {
        match self.fork() {
            Some(Fork::Extents(extents)) => &extents.list,
            _ if self.kind == ForkKind::Cow => &self.state.delayed.cow,
            _ => &NO_EXTENTS,
        }
    }
}

impl Inode {
    /// Where an inode lies: its cluster, and the byte in it.
    pub(super) fn place_of(geometry: &super::Geometry, ino: Ino) -> Option<(Run, usize)> {
        let (ag, block, slot) = geometry.locate_inode(ino)?;
        let (start, blocks) = geometry.inode_cluster(block);
        let run =
            Run { sector: geometry.ag_sector(ag, start), bytes: blocks << geometry.block_log };
        let at = (((block.0 - start.0) as usize) << geometry.block_log)
            + ((slot as usize) << geometry.inode_log);
        Some((run, at))
    }
    /// Read and check an inode.
    ///
    /// # Errors
    /// I/O errors; damage, which includes an inode that is not in use.
    pub(super) fn read(mount: Arc<Mount>, ino: Ino) -> Result<Arc<Self>> {
        let corrupt =
            |reason: String| Corruption { structure: "inode", location: format!("{ino}"), reason };
        let geometry = mount.geometry();
        let Some((run, at)) = Self::place_of(geometry, ino) else {
            return Err(corrupt("there is no such inode number".into()).into());
        };
        let buffer = mount.buffers().read(&[run], &[BlockKind::Inodes])?;
        let contents = buffer.read();
        let Some(bytes) = contents.get(at..at + geometry.inode_bytes()) else {
            return Err(corrupt("it lies outside its cluster".into()).into());
        };
        let core = match InodeCore::decode(bytes, geometry, ino) {
            Ok(OnDisk::Used(core)) => core,
            Ok(OnDisk::Free) => return Err(corrupt("it is not in use".into()).into()),
            Err(reason) => {
                let place = geometry.place(run.sector);
                let location = format!("{ino}, in the cluster at {place}");
                return Err(Corruption { structure: "inode", location, reason }.into());
            }
        };
        let forks = &bytes[CORE_BYTES..];
        let (data, attr) = forks.split_at(core.data_fork_bytes);
        let data = fork_from(core.format, data, core.size as usize);
        let attr = core.attr_format.map(|format| fork_from(format, attr, attr.len()));
        drop(contents);
        Ok(Self::new(mount, ino, core, data, attr))
    }
    /// An inode in memory.
    pub(super) fn new(
        mount: Arc<Mount>,
        ino: Ino,
        core: InodeCore,
        data: Fork,
        attr: Option<Fork>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            ino,
            generation: core.generation,
            file_type: core.file_type,
            place: Self::place_of(mount.geometry(), ino),
            size: AtomicU64::new(core.size),
            eof: AtomicU64::new(core.size),
            data_sequence: AtomicU64::new(1),
            attr_sequence: AtomicU64::new(1),
            cow_sequence: AtomicU64::new(1),
            flags: AtomicU32::new(core.flags.bits().into()),
            no_default_acl: AtomicBool::new(core.attr_format.is_none()),
            times_pending: AtomicBool::new(false),
            reserving: AtomicBool::new(false),
            state: RwLock::new(&ILOCK, State { core, data, attr, delayed: Delayed::default() }),
            item: Mutex::new(&BUFFER_ITEM, InodeItem::default()),
            me: me.clone(),
            mount,
        })
    }
    /// Where it lies: its cluster, and the byte in it.
    pub(super) const fn place(&self) -> Option<(Run, usize)> {
        self.place
    }
    /// Its number.
    pub const fn ino(&self) -> Ino {
        self.ino
    }
    /// How many times the number has been used.
    pub const fn generation(&self) -> u32 {
        self.generation
    }
    /// What it is.
    pub const fn file_type(&self) -> FileType {
        self.file_type
    }
    /// Bytes. Takes no lock.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }
    /// The file system it is of.
    pub const fn mount(&self) -> &Arc<Mount> {
        &self.mount
    }
    /// Remember the size that is on disk, for who takes no lock.
    pub(super) fn publish_size(&self, size: u64) {
        self.size.store(size, Ordering::Release);
    }
    /// The flags that programs set. Takes no lock.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.flags.load(Ordering::Relaxed) as u16)
    }
    /// Remember the flags, for who takes no lock. `ILOCK` is held exclusive.
    pub(super) fn publish_flags(&self, flags: Flags) {
        self.flags.store(flags.bits().into(), Ordering::Relaxed);
    }
    /// Is it known that there is no default access control list? Takes no lock; `IOLOCK`
    /// keeps it true.
    #[inline]
    pub(super) fn lacks_default_acl(&self) -> bool {
        self.no_default_acl.load(Ordering::Relaxed)
    }
    /// There is no default access control list, or there may be one.
    pub(super) fn note_default_acl(&self, may_be: bool) {
        self.no_default_acl.store(!may_be, Ordering::Relaxed);
    }
    /// Bytes with what is in the page cache only.
    pub(super) fn eof(&self) -> u64 {
        self.eof.load(Ordering::Acquire)
    }
    /// The size in memory has changed.
    pub(super) fn note_eof(&self, size: u64) {
        self.eof.store(size, Ordering::Release);
    }
    fn sequence_of(&self, kind: ForkKind) -> &AtomicU64 {
        match kind {
            ForkKind::Data => &self.data_sequence,
            ForkKind::Attr => &self.attr_sequence,
            ForkKind::Cow => &self.cow_sequence,
        }
    }
    /// The sequence of a fork. Takes no lock.
    pub fn sequence(&self, kind: ForkKind) -> u64 {
        self.sequence_of(kind).load(Ordering::Acquire)
    }
    /// A fork's extents are about to change; `ILOCK` is held exclusive.
    pub(super) fn bump_sequence(&self, kind: ForkKind) {
        self.sequence_of(kind).fetch_add(1, Ordering::AcqRel);
    }
    /// Lock exclusive.
    pub(super) fn lock_exclusive(&self) -> LockedInode<'_> {
        LockedInode::new(self, self.state.write())
    }
    /// Nothing may change it, or it may only be appended to.
    ///
    /// # Errors
    /// Not permitted, if so.
    pub(super) fn check_changeable(&self) -> Result<()> {
        if self.flags().intersects(Flags::IMMUTABLE | Flags::APPEND) {
            return Err(Error::NotPermitted("the file is immutable or append-only"));
        }
        Ok(())
    }
    /// Lock exclusive unless that would wait.
    pub(super) fn try_lock_exclusive(&self) -> Option<LockedInode<'_>> {
        self.state.try_write().map(|state| LockedInode::new(self, state))
    }
    /// May it share blocks with other files?
    pub fn is_reflink(&self) -> bool {
        self.state.read().core.flags2.contains(Flags2::REFLINK)
    }
    /// What `stat` reports.
    pub fn attributes(&self) -> Attributes {
        let state = self.state.read();
        let core = &state.core;
        let geometry = self.mount.geometry();
        let rdev = match state.data {
            // 14 bits major, 18 bits minor.
            Fork::Device(number) => (number >> 18, number & 0x3_ffff),
            _ => (0, 0),
        };
        Attributes {
            mode: core.mode,
            uid: core.uid,
            gid: core.gid,
            nlink: core.nlink,
            size: self.size(),
            blocks: core
                .blocks
                .saturating_add(state.delayed.blocks())
                .saturating_mul(geometry.sectors_per_block()),
            blksize: geometry.block_bytes() as u32,
            atime: core.atime,
            mtime: core.mtime,
            ctime: core.ctime,
            btime: core.btime,
            rdev,
            xflags: xflags(core),
            extsize: core.extsize.wrapping_shl(geometry.block_log),
            cowextsize: core.cow_extsize.wrapping_shl(geometry.block_log),
            nextents: core.extents,
            anextents: core.attr_extents,
            projid: core.projid,
            generation: core.generation,
        }
    }
    /// Lock shared, with the extents of this fork loaded.
    ///
    /// # Errors
    /// Those of loading them.
    pub(super) fn lock(&self, kind: ForkKind) -> Result<Locked<'_>> {
        loop {
            let state = self.state.read();
            if !matches!(state.fork(kind), Some(Fork::Raw(..))) {
                return Ok(Locked { state, kind });
            }
            drop(state);
            self.load_extents(kind)?;
        }
    }
    fn load_extents(&self, kind: ForkKind) -> Result<()> {
        self.load_into(&mut self.state.write(), kind)
    }
    /// Load a fork's extents if they are not; `ILOCK` is held exclusive.
    pub(super) fn load_into(&self, state: &mut State, kind: ForkKind) -> Result<()> {
        let Some(Fork::Raw(format, bytes)) = state.fork(kind) else { return Ok(()) };
        let core = &state.core;
        let source = ForkSource {
            ino: self.ino,
            name: kind.name(),
            format: *format,
            bytes,
            count: match kind {
                ForkKind::Data => core.extents,
                ForkKind::Attr => u64::from(core.attr_extents),
                ForkKind::Cow => 0,
            },
            unwritten: kind == ForkKind::Data && self.file_type == FileType::Regular,
        };
        let list = extents::load(&source, self.mount.geometry(), self.mount.buffers())?;
        // Nothing was mapped from this fork yet, so no map can go stale by this.
        let root = (*format == Format::Btree).then(|| bytes.to_vec());
        if let Some(fork) = state.fork_mut(kind) {
            *fork = Fork::Extents(ForkExtents { list, root });
        }
        Ok(())
    }
    /// A [`Corruption`] of this inode.
    pub(super) fn corrupt(&self, reason: String) -> Error {
        Corruption { structure: "inode", location: format!("{}", self.ino), reason }.into()
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        self.mount.forget(self.ino);
    }
}

fn fork_from(format: Format, bytes: &[u8], used: usize) -> Fork {
    match format {
        Format::Device => Fork::Device(be32(bytes, 0).unwrap_or(0)),
        Format::Local => Fork::Local(bytes[..used.min(bytes.len())].to_vec()),
        Format::Extents | Format::Btree => Fork::Raw(format, bytes.into()),
    }
}

/// The `FS_XFLAG_*` bits of Linux. The low ones are those of the disk, but one.
pub(super) fn xflags(core: &InodeCore) -> u32 {
    let mut xflags = u32::from((core.flags - Flags::NEW_RT_BITMAP).bits());
    if core.flags2.contains(inode::Flags2::DAX) {
        xflags |= 0x8000;
    }
    if core.flags2.contains(inode::Flags2::COW_EXTSIZE) {
        xflags |= 0x1_0000;
    }
    if core.attr_format.is_some() {
        xflags |= 0x8000_0000;
    }
    xflags
}
