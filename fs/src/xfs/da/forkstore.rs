//! A fork of a locked inode as an address space that a transaction changes.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::store::{Change, Identity, Store};
use super::value;
use crate::error::{Corruption, Error, Result};
use crate::xfs::alloc::Use;
use crate::xfs::attr::boundary_for;
use crate::xfs::bmap;
use crate::xfs::buf::{Buffer, Run};
use crate::xfs::buf_item::Edit;
use crate::xfs::inode::{Fork, ForkExtents, ForkKind};
use crate::xfs::inode_item::{LockedInode, LogFields};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inode::{CORE_BYTES, Format};
use crate::xfs::trans::Trans;
use crate::xfs::types::{FileBlock, FsBlock};

impl Change for Edit<'_> {
    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        Edit::bytes_mut(self, range)
    }
    fn move_within(&mut self, from: Range<usize>, to: usize) {
        Edit::copy_within(self, from, to);
    }
}

/// A fork being changed. `ILOCK` is held exclusive through `ip`.
pub(in crate::xfs) struct ForkStore<'a, 'm, 'l> {
    pub(in crate::xfs) tp: &'a mut Trans<'m>,
    pub(in crate::xfs) ip: &'a mut LockedInode<'l>,
    fork: ForkKind,
    unit: u64,
}

impl<'a, 'm, 'l> ForkStore<'a, 'm, 'l> {
    /// A directory's contents.
    pub(in crate::xfs) fn directory(
        tp: &'a mut Trans<'m>,
        ip: &'a mut LockedInode<'l>,
    ) -> Result<Self> {
        ip.load(ForkKind::Data)?;
        let unit = tp.mount().geometry().dir_block_blocks();
        Ok(Self { tp, ip, fork: ForkKind::Data, unit })
    }
    /// The extended attributes.
    pub(in crate::xfs) fn attributes(
        tp: &'a mut Trans<'m>,
        ip: &'a mut LockedInode<'l>,
    ) -> Result<Self> {
        ip.load(ForkKind::Attr)?;
        Ok(Self { tp, ip, fork: ForkKind::Attr, unit: 1 })
    }
    const fn mark(&self) -> LogFields {
        match self.fork {
            ForkKind::Attr => LogFields::ATTR,
            ForkKind::Data | ForkKind::Cow => LogFields::DATA,
        }
    }
    /// The fork is this from now on.
    fn set_fork(&mut self, fork: Fork, format: Format) {
        self.ip.bump_sequence(self.fork);
        let core = self.ip.core_mut();
        match self.fork {
            ForkKind::Attr => {
                core.attr_format = Some(format);
                self.ip.attr = Some(fork);
            }
            ForkKind::Data | ForkKind::Cow => {
                core.format = format;
                self.ip.data = fork;
            }
        }
        let fields = self.mark();
        self.ip.mark(fields);
    }
}

impl Store for ForkStore<'_, '_, '_> {
    type Block = Arc<Buffer>;

    fn block_bytes(&self) -> usize {
        (self.unit as usize) << self.tp.mount().geometry().block_log
    }
    fn unit(&self) -> u64 {
        self.unit
    }
    fn find(&mut self, at: u64, kinds: &[BlockKind]) -> Result<Option<Arc<Buffer>>> {
        let geometry = self.tp.mount().geometry();
        let list = bmap::extents_of(self.ip, self.fork);
        let buffer = match list.at(FileBlock(at)).filter(|_| self.unit == 1) {
            // The usual case: a block of the space is one of the file system.
            Some(extent) => {
                let place = FsBlock(extent.block.0 + at - extent.offset.0);
                let bytes = geometry.block_bytes() as u32;
                self.tp.read_runs(&[Run { sector: geometry.sector(place), bytes }], kinds)?
            }
            None => {
                let runs = list
                    .runs(geometry, FileBlock(at), self.unit)
                    .map_err(|reason| self.corrupt(at, reason))?;
                let Some(runs) = runs else { return Ok(None) };
                self.tp.read_runs(&runs, kinds)?
            }
        };
        let owner = buffer.kind().owner(&buffer.read());
        if owner.is_some_and(|owner| owner != self.owner()) {
            return Err(Corruption {
                structure: buffer.kind().name(),
                location: geometry.place(buffer.sector()),
                reason: format!(
                    "it says it belongs to inode {}, but {} has it",
                    owner.unwrap_or(0),
                    self.ip.ino()
                ),
            }
            .into());
        }
        Ok(Some(buffer))
    }
    fn create(&mut self, at: u64, kind: BlockKind) -> Result<Arc<Buffer>> {
        let place = FileBlock(at);
        bmap::allocate_blocks(self.tp, self.ip, self.fork, place, self.unit, Use::Metadata)?;
        let geometry = self.tp.mount().geometry();
        let runs = bmap::extents_of(self.ip, self.fork)
            .runs(geometry, FileBlock(at), self.unit)
            .map_err(|reason| self.corrupt(at, reason))?;
        self.tp.create_runs(&runs.unwrap_or_default(), kind)
    }
    fn free(&mut self, at: u64, block: Arc<Buffer>) -> Result<()> {
        self.tp.invalidate(&block);
        let range = FileBlock(at)..FileBlock(at + self.unit);
        bmap::unmap(self.tp, self.ip, self.fork, range, self.unit as u32)?;
        Ok(())
    }
    fn first_hole(&self, range: Range<u64>, blocks: u64) -> Option<u64> {
        let mut at = range.start;
        for extent in bmap::extents_of(self.ip, self.fork).iter_from(FileBlock(range.start)) {
            if extent.offset.0 >= at + blocks {
                break;
            }
            let behind = extent.end().0 - range.start;
            at = range.start + behind.next_multiple_of(self.unit);
        }
        (at + blocks <= range.end).then_some(at)
    }
    fn end_before(&self, limit: u64) -> u64 {
        let list = bmap::extents_of(self.ip, self.fork);
        match list.at(FileBlock(limit)).filter(|e| e.offset.0 < limit) {
            Some(_) => limit,
            None => list.before(FileBlock(limit)).map_or(0, |e| e.end().0),
        }
    }
    fn identity(&self, block: &Arc<Buffer>) -> Identity {
        let uuid = self.tp.mount().geometry().meta_uuid;
        Identity { uuid, owner: self.owner(), sector: block.sector().0 }
    }
    fn kind(&self, block: &Arc<Buffer>) -> BlockKind {
        block.kind()
    }
    fn set_kind(&mut self, block: &Arc<Buffer>, kind: BlockKind) {
        block.set_kind(kind);
    }
    fn with<R>(&self, block: &Arc<Buffer>, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&block.read())
    }
    fn edit<R>(&mut self, block: &Arc<Buffer>, change: impl FnOnce(&mut dyn Change) -> R) -> R {
        change(&mut self.tp.edit(block))
    }
    fn local(&self) -> Option<&[u8]> {
        match self.ip.fork(self.fork) {
            Some(Fork::Local(bytes)) => Some(bytes),
            _ => None,
        }
    }
    fn take_local(&mut self) -> Vec<u8> {
        match self.ip.fork_mut(self.fork) {
            Some(Fork::Local(bytes)) => core::mem::take(bytes),
            _ => Vec::new(),
        }
    }
    fn set_local(&mut self, bytes: Vec<u8>) {
        self.set_fork(Fork::Local(bytes), Format::Local);
    }
    fn set_empty(&mut self) {
        self.set_fork(Fork::Extents(ForkExtents::default()), Format::Extents);
    }
    fn room(&self) -> usize {
        let data = self.ip.core.data_fork_bytes;
        match self.fork {
            ForkKind::Attr => self.tp.mount().geometry().inode_bytes() - CORE_BYTES - data,
            ForkKind::Data | ForkKind::Cow => data,
        }
    }
    fn make_room(&mut self, bytes: usize) -> Result<bool> {
        if bytes <= self.room() {
            return Ok(true);
        }
        let ForkKind::Attr = self.fork else { return Ok(false) };
        self.ip.load(ForkKind::Data)?;
        let Some(boundary) = boundary_for(self.ip, bytes) else { return Ok(false) };
        bmap::move_boundary(self.tp, self.ip, boundary)?;
        self.ip.mark(LogFields::DATA | LogFields::ATTR);
        Ok(true)
    }
    fn create_value(&mut self, at: u64, blocks: u64, value: &[u8]) -> Result<()> {
        // A value is written past the log: blocks whose freeing is not durable still are
        // somebody else's.
        let place = FileBlock(at);
        let extents = bmap::allocate_blocks(self.tp, self.ip, self.fork, place, blocks, Use::Data)?;
        let mount = self.tp.mount();
        let geometry = mount.geometry();
        let block_bytes = geometry.block_bytes();
        let (owner, uuid) = (self.owner(), geometry.meta_uuid);
        let mut parts = value.chunks(value::room(block_bytes)).enumerate();
        for extent in extents {
            let start = geometry.sector(extent.block);
            let mut bytes = Vec::new();
            let length = (extent.count as usize) * block_bytes;
            bytes.try_reserve_exact(length).map_err(|_| Error::NoMemory)?;
            bytes.resize(length, 0);
            for (i, block) in bytes.chunks_mut(block_bytes).enumerate() {
                let sector = start.0 + i as u64 * geometry.sectors_per_block();
                let Some((number, part)) = parts.next() else { break };
                let id = Identity { uuid, owner, sector };
                value::fill(block, &id, number * value::room(block_bytes), part);
            }
            mount.buffers().write_through(start, &bytes, block_bytes, BlockKind::AttrRemote)?;
        }
        Ok(())
    }
    fn free_value(&mut self, at: u64, blocks: u64) -> Result<()> {
        // What the cache has of them is never read again: a block that is used anew is
        // made anew.
        let range = FileBlock(at)..FileBlock(at + blocks);
        bmap::unmap(self.tp, self.ip, self.fork, range, blocks as u32)?;
        Ok(())
    }
    fn size(&self) -> u64 {
        self.ip.core.size
    }
    fn set_size(&mut self, size: u64) {
        self.ip.set_disk_size(size);
    }
    fn owner(&self) -> u64 {
        self.ip.ino().0
    }
    fn corrupt(&self, at: u64, reason: String) -> Error {
        Corruption {
            structure: match self.fork {
                ForkKind::Attr => "attribute fork",
                ForkKind::Data | ForkKind::Cow => "directory",
            },
            location: format!("{}, file block {at:#x}", self.ip.ino()),
            reason,
        }
        .into()
    }
}
