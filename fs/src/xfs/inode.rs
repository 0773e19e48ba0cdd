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
use alloc::sync::Arc;

use holdfast_sync::atomic::{AtomicU64, Ordering};
use holdfast_sync::{RwLock, RwLockReadGuard};

use super::buf::Run;
use super::extents::{self, ExtentList, ForkSource, NO_EXTENTS};
use super::mount::Mount;
use super::ondisk::block::BlockKind;
use super::ondisk::inode::{CORE_BYTES, Flags, Flags2, Format, InodeCore, OnDisk};
use super::ondisk::{be32, inode};
use super::types::{Attributes, FileType, Ino};
use crate::error::{Corruption, Error, Result};
use crate::locks::ILOCK;

/// Which of an inode's forks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForkKind {
    /// Contents.
    Data,
    /// Extended attributes.
    Attr,
}

impl ForkKind {
    /// For messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Data => "data fork",
            Self::Attr => "attr fork",
        }
    }
}

/// A fork in memory.
pub(super) enum Fork {
    /// A device number.
    Device(u32),
    /// The contents.
    Local(Box<[u8]>),
    /// Extents, not looked at yet: the fork's bytes.
    Raw(Format, Box<[u8]>),
    /// Extents.
    Extents(ExtentList),
}

pub(super) struct State {
    pub(super) core: InodeCore,
    data: Fork,
    attr: Option<Fork>,
}

impl State {
    pub(super) const fn fork(&self, kind: ForkKind) -> Option<&Fork> {
        match kind {
            ForkKind::Data => Some(&self.data),
            ForkKind::Attr => self.attr.as_ref(),
        }
    }
}

/// An inode in memory.
pub struct Inode {
    mount: Arc<Mount>,
    ino: Ino,
    generation: u32,
    file_type: FileType,
    size: AtomicU64,
    data_sequence: AtomicU64,
    attr_sequence: AtomicU64,
    state: RwLock<State>,
}

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
    /// The fork, if there is one.
    pub(super) fn fork(&self) -> Option<&Fork> {
        self.state.fork(self.kind)
    }
    /// The fork's extents; none if it is of another kind.
    pub(super) fn extents(&self) -> &ExtentList {
        match self.fork() {
            Some(Fork::Extents(list)) => list,
            _ => &NO_EXTENTS,
        }
    }
}

impl Inode {
    /// Read and check an inode.
    ///
    /// # Errors
    /// I/O errors; damage, which includes an inode that is not in use.
    pub(super) fn read(mount: Arc<Mount>, ino: Ino) -> Result<Self> {
        let corrupt =
            |reason: String| Corruption { structure: "inode", location: format!("{ino}"), reason };
        let geometry = mount.geometry();
        let Some((ag, block, slot)) = geometry.locate_inode(ino) else {
            return Err(corrupt("there is no such inode number".into()).into());
        };
        let (start, blocks) = geometry.inode_cluster(block);
        let run =
            Run { sector: geometry.ag_sector(ag, start), bytes: blocks << geometry.block_log };
        let buffer = mount.buffers().read(&[run], &[BlockKind::Inodes])?;
        let contents = buffer.read();
        let at = (((block.0 - start.0) as usize) << geometry.block_log)
            + ((slot as usize) << geometry.inode_log);
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
        Ok(Self {
            ino,
            generation: core.generation,
            file_type: core.file_type,
            size: AtomicU64::new(core.size),
            data_sequence: AtomicU64::new(1),
            attr_sequence: AtomicU64::new(1),
            state: RwLock::new(&ILOCK, State { core, data, attr }),
            mount,
        })
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
    /// The sequence of a fork. Takes no lock.
    pub fn sequence(&self, kind: ForkKind) -> u64 {
        match kind {
            ForkKind::Data => self.data_sequence.load(Ordering::Acquire),
            ForkKind::Attr => self.attr_sequence.load(Ordering::Acquire),
        }
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
            blocks: core.blocks.saturating_mul(geometry.sectors_per_block()),
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
        let mut state = self.state.write();
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
            },
            unwritten: kind == ForkKind::Data && self.file_type == FileType::Regular,
        };
        let list = extents::load(&source, self.mount.geometry(), self.mount.buffers())?;
        // Nothing was mapped from this fork yet, so no map can go stale by this.
        let loaded = Fork::Extents(list);
        match kind {
            ForkKind::Data => state.data = loaded,
            ForkKind::Attr => state.attr = Some(loaded),
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
        Format::Local => Fork::Local(bytes[..used.min(bytes.len())].into()),
        Format::Extents | Format::Btree => Fork::Raw(format, bytes.into()),
    }
}

/// The `FS_XFLAG_*` bits of Linux. The low ones are those of the disk, but one.
fn xflags(core: &InodeCore) -> u32 {
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
