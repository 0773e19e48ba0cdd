//! Files' extents as maps for the iomap layer.
//!
//! Until there is a write path, the only write is the overwrite of written, unshared
//! blocks below EOF. What would need more is refused with [`Error::ReadOnly`], for the
//! whole range before its first byte changes ([`Ops::prepare_write`]).

use super::extents::ExtentList;
use super::inode::{ForkKind, Inode, Locked};
use super::ondisk::bmbt::Extent;
use super::types::{FileBlock, FileType};
use crate::block::Sector;
use crate::error::{Error, Result};
use crate::iomap::{Cookie, Iomap, MapFlags, MapKind, Ops, Purpose};

/// Files end below this.
const MAX_BYTES: u64 = 1 << 63;

/// Why a write is refused.
mod refused {
    pub const MOUNT: &str = "the file system is mounted read-only";
    pub const HOLE: &str = "the write touches a hole, and blocks cannot be allocated yet";
    pub const UNWRITTEN: &str =
        "the write touches an unwritten extent, and extents cannot be converted yet";
    pub const SHARED: &str = "the write touches a shared extent, and it cannot be unshared yet";
    pub const EOF: &str = "the write goes beyond the end of the file, which cannot grow yet";
}

/// An extent of a file as `fiemap` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// The map; holes are left out.
    pub map: Iomap,
    /// It is the file's last extent.
    pub last: bool,
}

impl Inode {
    fn shift(&self) -> u32 {
        self.mount().geometry().block_log
    }
    fn cookie(&self, kind: ForkKind) -> Cookie {
        Cookie { data: self.sequence(kind), cow: None }
    }
    /// The map at `pos`: an extent, or the hole between two. `ILOCK` is held.
    fn map_at(&self, extents: &ExtentList, pos: u64, kind: ForkKind) -> Iomap {
        let shift = self.shift();
        let block = FileBlock(pos >> shift);
        let index = extents.search(block);
        let cookie = self.cookie(kind);
        let flags = MapFlags::empty();
        match extents.all().get(index) {
            Some(extent) if extent.offset <= block => {
                let addr = self.mount().geometry().sector(extent.block);
                Iomap {
                    offset_bytes: extent.offset.0 << shift,
                    length_bytes: u64::from(extent.count) << shift,
                    kind: if extent.unwritten {
                        MapKind::Unwritten { addr }
                    } else {
                        MapKind::Written { addr }
                    },
                    flags,
                    cookie,
                }
            }
            next => {
                let before = index.checked_sub(1).and_then(|i| extents.all().get(i));
                let start = before.map_or(0, |e| e.end().0 << shift);
                let end = next.map_or(MAX_BYTES, |e| e.offset.0 << shift).min(MAX_BYTES);
                Iomap {
                    offset_bytes: start,
                    length_bytes: end.saturating_sub(start).max(1 << shift),
                    kind: MapKind::Hole,
                    flags,
                    cookie,
                }
            }
        }
    }
    /// Cut the map down to the part around `pos` that is all shared or all not, as far
    /// as `end`, and say which.
    fn trim_to_shared(&self, map: Iomap, pos: u64, end: u64) -> Result<Iomap> {
        let (MapKind::Written { addr } | MapKind::Unwritten { addr }) = map.kind else {
            return Ok(map);
        };
        let shift = self.shift();
        let geometry = self.mount().geometry();
        let into = (pos - map.offset_bytes) >> shift;
        let stop = end.min(map.end_bytes()).max(pos + 1);
        let count = (stop - map.offset_bytes).div_ceil(1 << shift) - into;
        let addr = Sector(addr.0 + into * geometry.sectors_per_block());
        let (run, shared) = self.mount().shared_run(geometry.block_at(addr), count)?;
        let offset_bytes = map.offset_bytes + (into << shift);
        Ok(Iomap {
            offset_bytes,
            length_bytes: run << shift,
            kind: match map.kind {
                MapKind::Unwritten { .. } => MapKind::Unwritten { addr },
                _ => MapKind::Written { addr },
            },
            flags: if shared { map.flags | MapFlags::SHARED } else { map.flags },
            cookie: map.cookie,
        })
    }
    /// The map for overwriting what is at `pos`, looking no further than `end`.
    fn map_for_overwrite(&self, locked: &Locked<'_>, pos: u64, end: u64) -> Result<Iomap> {
        let map = self.map_at(locked.extents(), pos, ForkKind::Data);
        match map.kind {
            MapKind::Hole | MapKind::Delalloc => return Err(Error::ReadOnly(refused::HOLE)),
            MapKind::Unwritten { .. } => return Err(Error::ReadOnly(refused::UNWRITTEN)),
            MapKind::Written { .. } => {}
        }
        if !locked.core().flags2.contains(super::ondisk::inode::Flags2::REFLINK) {
            return Ok(map);
        }
        let map = self.trim_to_shared(map, pos, end)?;
        if map.flags.contains(MapFlags::SHARED) {
            return Err(Error::ReadOnly(refused::SHARED));
        }
        Ok(map)
    }
    fn check_writable(&self) -> Result<()> {
        if self.mount().readonly() {
            return Err(Error::ReadOnly(refused::MOUNT));
        }
        match self.file_type() {
            FileType::Regular => Ok(()),
            FileType::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }
    fn begin_write(&self, pos: u64, len: u64, purpose: Purpose) -> Result<Iomap> {
        self.check_writable()?;
        let block = 1u64 << self.shift();
        let size = self.size();
        // A folio at EOF is mapped as a whole: to the end of the last block.
        let limit = if purpose == Purpose::Fault { size.next_multiple_of(block) } else { size };
        if pos >= limit {
            return Err(Error::ReadOnly(refused::EOF));
        }
        let end = pos.saturating_add(len).min(limit);
        let locked = self.lock(ForkKind::Data)?;
        self.map_for_overwrite(&locked, pos, end)
    }
    /// Visit the extents of a fork that touch `len` bytes from `pos` on, in order, until
    /// `each` returns false. Runs of shared blocks are told apart and flagged. No lock
    /// is held while `each` runs.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn extents(
        &self,
        kind: ForkKind,
        pos: u64,
        len: u64,
        each: &mut dyn FnMut(FileExtent) -> bool,
    ) -> Result<()> {
        let end = pos.saturating_add(len).min(MAX_BYTES);
        let mut at = pos;
        while at < end {
            let Some((map, last)) = self.next_extent(kind, at)? else { break };
            if map.offset_bytes >= end || !each(FileExtent { map, last }) {
                break;
            }
            at = map.end_bytes();
        }
        Ok(())
    }
    fn next_extent(&self, kind: ForkKind, at: u64) -> Result<Option<(Iomap, bool)>> {
        let locked = self.lock(kind)?;
        let shift = self.shift();
        let list = locked.extents();
        let Some(&extent) = list.at_or_after(FileBlock(at >> shift)) else { return Ok(None) };
        let start = at.max(extent.offset.0 << shift);
        let mut map = self.map_at(list, start, kind);
        let reflink = locked.core().flags2.contains(super::ondisk::inode::Flags2::REFLINK);
        if kind == ForkKind::Data && reflink {
            // Back to the start of the block, so that runs follow each other.
            let start = start & !((1 << shift) - 1);
            map = self.trim_to_shared(map, start, map.end_bytes())?;
        }
        let last = map.end_bytes() >= list.end().0 << shift;
        Ok(Some((map, last)))
    }
    /// A map of the attribute fork at byte `pos` of its address space.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn attr_map(&self, pos: u64) -> Result<Iomap> {
        let locked = self.lock(ForkKind::Attr)?;
        Ok(self.map_at(locked.extents(), pos.min(MAX_BYTES - 1), ForkKind::Attr))
    }
    /// Copies of all extents of a fork.
    ///
    /// # Errors
    /// I/O errors and damage, no memory.
    pub fn all_extents(&self, kind: ForkKind) -> Result<alloc::vec::Vec<Extent>> {
        let locked = self.lock(kind)?;
        let mut copy = alloc::vec::Vec::new();
        let all = locked.extents().all();
        copy.try_reserve_exact(all.len()).map_err(|_| Error::NoMemory)?;
        copy.extend_from_slice(all);
        Ok(copy)
    }
}

impl Ops for Inode {
    fn block_shift(&self) -> u32 {
        self.shift()
    }
    fn begin(&self, pos: u64, len: u64, purpose: Purpose) -> Result<Iomap> {
        if pos >= MAX_BYTES {
            return Err(Error::TooBig);
        }
        match purpose {
            Purpose::Read => {
                let locked = self.lock(ForkKind::Data)?;
                Ok(self.map_at(locked.extents(), pos, ForkKind::Data))
            }
            Purpose::Write | Purpose::Fault | Purpose::DirectWrite | Purpose::Zero => {
                self.begin_write(pos, len, purpose)
            }
        }
    }
    fn is_valid(&self, map: &Iomap) -> bool {
        map.cookie == self.cookie(ForkKind::Data)
    }
    fn prepare_write(&self, pos: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        let Some(end) = pos.checked_add(len).filter(|&end| end <= MAX_BYTES) else {
            return Err(Error::TooBig);
        };
        if len == 0 {
            return Ok(());
        }
        if end > self.size() {
            return Err(Error::ReadOnly(refused::EOF));
        }
        let locked = self.lock(ForkKind::Data)?;
        let mut at = pos;
        while at < end {
            at = self.map_for_overwrite(&locked, at, end)?.end_bytes();
        }
        Ok(())
    }
    fn writeback_map(&self, pos: u64, cached: Option<&Iomap>) -> Result<Iomap> {
        if let Some(map) = cached.filter(|map| map.contains(pos) && self.is_valid(map)) {
            return Ok(*map);
        }
        let locked = self.lock(ForkKind::Data)?;
        self.map_for_overwrite(&locked, pos, MAX_BYTES)
    }
}
