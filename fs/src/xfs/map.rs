//! Files' extents as maps for the iomap layer.
//!
//! A map is what a range of the file is *just now*: its cookie says which state of the
//! forks it was read from, both read under one hold of `ILOCK`. Maps of files that may
//! share blocks depend on the copy-on-write fork too: on what it holds, and on what it
//! does not.
//!
//! Owns: answers to the iomap layer. Does not own: how extents change (`bmap`, `truncate`,
//! `fallocate`, `reflink`). Locks: `ILOCK`, shared to look, exclusive to reserve; the
//! lock of a group's trees to ask who shares a block.

use core::ops::Range;

use holdfast_sync::atomic::Ordering;

use super::bmap::{self, Delalloc, ExtentList, Wanted, extents_of, punch_reserved};
use super::inode::{ForkKind, Inode, Locked, State};
use super::inode_item::LockedInode;
use super::ondisk::bmbt::Extent;
use super::ondisk::inode::{Flags, Flags2};
use super::ondisk::superblock::RoCompat;
use super::types::{FileBlock, FileType};
use crate::block::Sector;
use crate::error::{Error, Result};
use crate::iomap::{Cookie, Iomap, Layout, MapFlags, MapKind, Ops, Purpose, ReservedFork};

/// Files end below this.
pub(super) const MAX_BYTES: u64 = 1 << 63;

/// An extent of a file as `fiemap` reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileExtent {
    /// The map; holes are left out.
    pub map: Iomap,
    /// It is the file's last extent.
    pub last: bool,
}

/// What covers a file block, or the hole that does.
#[derive(Clone, Copy, Debug)]
enum Found {
    Real(Extent),
    Reserved(Delalloc),
    Hole { start: FileBlock, end: FileBlock },
}

/// What a fork has at `block`.
fn find(extents: &ExtentList, reserved: &bmap::Reserved, block: FileBlock) -> Found {
    let next = extents.at_or_after(block);
    if let Some(extent) = next.filter(|e| e.offset <= block) {
        return Found::Real(*extent);
    }
    let next_reserved = reserved.at_or_after(block);
    if let Some(d) = next_reserved.filter(|d| d.offset <= block) {
        return Found::Reserved(d);
    }
    let start = extents.before(block).map_or(FileBlock(0), Extent::end);
    let start = start.max(reserved.before(block).map_or(FileBlock(0), |d| d.end()));
    let end = next.map_or(FileBlock(u64::MAX), |e| e.offset);
    let end = end.min(next_reserved.map_or(FileBlock(u64::MAX), |d| d.offset));
    Found::Hole { start, end }
}

/// What has to be done for a write before there is a map for it.
enum Missing {
    /// Nothing is there, as far as here.
    Hole(FileBlock),
    /// The blocks are shared, as far as here.
    Copy(FileBlock),
    /// Reserved, where blocks are needed.
    Delalloc(ForkKind),
}

type Outcome = core::result::Result<Iomap, Missing>;

impl Inode {
    fn shift(&self) -> u32 {
        self.mount().geometry().block_log
    }
    /// First block of bytes `pos..`, and the one behind the last.
    fn blocks(&self, pos: u64, len: u64) -> Range<FileBlock> {
        let shift = self.shift();
        let end = pos.saturating_add(len).min(MAX_BYTES);
        FileBlock(pos >> shift)..FileBlock(end.div_ceil(1 << shift))
    }
    /// For maps of the data fork; a file that may share blocks depends on both forks.
    fn cookie(&self, state: &State, kind: ForkKind) -> Cookie {
        let both = kind == ForkKind::Data
            && (state.core.flags2.contains(Flags2::REFLINK) || state.delayed.has_cow());
        let cow = both.then(|| self.sequence(ForkKind::Cow));
        Cookie { data: self.sequence(kind), cow }
    }
    /// The map of blocks `start..end`, of which `found` is what lies there.
    fn iomap(&self, found: Found, cookie: Cookie) -> Iomap {
        let shift = self.shift();
        let (start, end, kind) = match found {
            Found::Real(extent) => {
                let addr = self.mount().geometry().sector(extent.block);
                let kind = if extent.unwritten {
                    MapKind::Unwritten { addr }
                } else {
                    MapKind::Written { addr }
                };
                (extent.offset, extent.end(), kind)
            }
            Found::Reserved(d) => (d.offset, d.end(), MapKind::Delalloc),
            Found::Hole { start, end } => (start, end, MapKind::Hole),
        };
        let offset_bytes = start.0 << shift;
        let end_bytes = if end.0 >= MAX_BYTES >> shift { MAX_BYTES } else { end.0 << shift };
        Iomap {
            offset_bytes,
            length_bytes: end_bytes.saturating_sub(offset_bytes).max(1 << shift),
            kind,
            flags: MapFlags::empty(),
            cookie,
        }
    }
    /// The map at `pos` as readers see it. `ILOCK` is held.
    fn map_at(&self, locked: &Locked<'_>, pos: u64, kind: ForkKind) -> Iomap {
        let block = FileBlock(pos >> self.shift());
        let cookie = self.cookie(locked.state(), kind);
        self.iomap(find(locked.extents(), locked.reserved(), block), cookie)
    }
    /// Cut a map to the part within these blocks, which it overlaps.
    fn clip(&self, map: Iomap, range: Range<FileBlock>) -> Iomap {
        let shift = self.shift();
        let most = MAX_BYTES >> shift;
        let start = map.offset_bytes.max(range.start.0.min(most) << shift);
        let end = map.end_bytes().min(range.end.0.min(most) << shift);
        let into = (start - map.offset_bytes) / crate::block::SECTOR_SIZE;
        let moved = |addr: Sector| Sector(addr.0 + into);
        Iomap {
            offset_bytes: start,
            length_bytes: end.saturating_sub(start),
            kind: match map.kind {
                MapKind::Written { addr } => MapKind::Written { addr: moved(addr) },
                MapKind::Unwritten { addr } => MapKind::Unwritten { addr: moved(addr) },
                other => other,
            },
            ..map
        }
    }
    /// How far the blocks of `extent` from `at` on are alike in being shared or not, as
    /// far as `end`, and which.
    pub(super) fn shared_at(
        &self,
        extent: &Extent,
        at: FileBlock,
        end: FileBlock,
    ) -> Result<(FileBlock, bool)> {
        let part = extent.clip(at..end);
        let (ag, _) = self.mount().geometry().split(part.block);
        let _stable = self.mount().lock_agf(ag);
        let (run, shared) = self.mount().shared_run(part.block, u64::from(part.count))?;
        Ok((FileBlock(at.0 + run), shared))
    }
    /// The map for a buffered write of `range`, if nothing has to be reserved for it.
    fn look_for_write(
        &self,
        state: &State,
        extents: &ExtentList,
        range: &Range<FileBlock>,
    ) -> Result<Outcome> {
        let at = range.start;
        let cookie = self.cookie(state, ForkKind::Data);
        let found = find(extents, &state.delayed.data, at);
        let extent = match found {
            Found::Real(extent) => extent,
            Found::Reserved(_) => return Ok(Ok(self.iomap(found, cookie))),
            Found::Hole { end, .. } => return Ok(Err(Missing::Hole(end))),
        };
        let whole = self.iomap(found, cookie);
        if !state.core.flags2.contains(Flags2::REFLINK) {
            return Ok(Ok(whole));
        }
        let copy = match find(&state.delayed.cow, &state.delayed.cow_reserved, at) {
            Found::Real(copy) => Ok(copy.end()),
            Found::Reserved(copy) => Ok(copy.end()),
            Found::Hole { end, .. } => Err(end),
        };
        match copy {
            Ok(end) => {
                let mut map = self.clip(whole, at..end);
                map.flags |= MapFlags::SHARED;
                Ok(Ok(map))
            }
            Err(next) => {
                let stop = next.min(range.end).min(extent.end());
                if extent.unwritten {
                    return Ok(Ok(self.clip(whole, at..stop)));
                }
                let (end, shared) = self.shared_at(&extent, at, stop)?;
                if shared {
                    return Ok(Err(Missing::Copy(end)));
                }
                let part = extent.clip(at..end);
                self.mount().settle_unshared(part.block, part.count)?;
                Ok(Ok(self.clip(whole, at..end)))
            }
        }
    }
    /// A map that data may go to. After a shutdown what is in core may be what a transaction
    /// did that came to nothing: on disk the blocks are somebody else's.
    fn committed(&self, map: Iomap) -> Result<Iomap> {
        if self.mount().is_shut_down() { Err(Error::Shutdown) } else { Ok(map) }
    }
    fn check_writable(&self) -> Result<()> {
        if self.mount().readonly() {
            return Err(Error::ReadOnly("the file system is mounted read-only"));
        }
        match self.file_type() {
            FileType::Regular => Ok(()),
            FileType::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }
    /// A map for a buffered write, a store or zeros; space is reserved where needed.
    fn begin_write(&self, pos: u64, len: u64, purpose: Purpose) -> Result<Iomap> {
        self.check_writable()?;
        let range = self.blocks(pos, len);
        match purpose {
            // Zeros behind the end of the file: it is about to grow.
            Purpose::Zero => self.skip_ahead(range.end),
            Purpose::Write => self.skip_ahead(range.start),
            _ => {}
        }
        // Who fills a hole front to back will miss again: that is not worth a look.
        if purpose == Purpose::Zero || !self.reserving.load(Ordering::Relaxed) {
            let locked = self.lock(ForkKind::Data)?;
            match self.look_for_write(locked.state(), locked.extents(), &range)? {
                Ok(map) => return Ok(map),
                Err(Missing::Hole(_)) if purpose == Purpose::Zero => {
                    return Ok(self.map_at(&locked, pos, ForkKind::Data));
                }
                Err(_) => {}
            }
        }
        let appends = purpose == Purpose::Write && pos.saturating_add(len) > self.eof();
        self.begin_reserving(range, appends)
    }
    /// The map for a write, with space reserved if there is none: then it is of what was
    /// reserved, and new.
    fn begin_reserving(&self, range: Range<FileBlock>, appends: bool) -> Result<Iomap> {
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        let missing = match self.look_for_write(&ip, extents_of(&ip, ForkKind::Data), &range)? {
            Ok(map) => {
                self.reserving.store(false, Ordering::Relaxed);
                return Ok(map);
            }
            Err(missing) => missing,
        };
        let hole_end = match missing {
            Missing::Copy(stop) => return self.reserve_copy(&mut ip, range.start..stop),
            Missing::Hole(end) => end,
            Missing::Delalloc(_) => return Err(Error::Busy),
        };
        if ip.core.flags.contains(Flags::EXTSIZE) && ip.core.extsize > 1 {
            drop(ip);
            return self.begin_aligned(&range);
        }
        let wanted = Wanted { range, hole_end, appends };
        let fresh = self.reserve_hole(&mut ip, &wanted)?;
        if !self.reserving.load(Ordering::Relaxed) {
            self.reserving.store(true, Ordering::Relaxed);
        }
        // The map ends where this call's reservation does: what was there before is not new.
        let shift = self.shift();
        Ok(Iomap {
            offset_bytes: fresh.start.0 << shift,
            length_bytes: (fresh.end.0 - fresh.start.0) << shift,
            kind: MapKind::Delalloc,
            flags: MapFlags::NEW,
            cookie: self.cookie(&ip, ForkKind::Data),
        })
    }
    /// The size in blocks that the file asks its extents to have multiples of; 1: any.
    fn extent_hint(&self) -> u64 {
        let core = &self.state.read().core;
        match core.flags.contains(Flags::EXTSIZE) {
            true => u64::from(core.extsize).max(1),
            false => 1,
        }
    }
    /// What to allocate for the hole at the start of `range`: more than that in a file that
    /// asks for large aligned extents.
    fn hole_to_fill(&self, locked: &Locked<'_>, range: &Range<FileBlock>) -> Range<FileBlock> {
        let hint = u64::from(locked.core().extsize);
        if !locked.has_extent_hint() || hint <= 1 {
            return range.clone();
        }
        let real = locked.extents().before(range.start).map_or(FileBlock(0), Extent::end);
        let reserved = locked.delayed().data.before(range.start);
        let start = FileBlock(range.start.0 / hint * hint);
        let start = start.max(real).max(reserved.map_or(start, |d| d.end()));
        let end = range.end.0.next_multiple_of(hint).min(MAX_BYTES >> self.shift());
        start..FileBlock(end)
    }
    /// A map for a write to a file that asks for large aligned extents: they are
    /// allocated at once, as unwritten.
    fn begin_aligned(&self, range: &Range<FileBlock>) -> Result<Iomap> {
        loop {
            let hole = {
                let locked = self.lock(ForkKind::Data)?;
                let extents = locked.extents();
                match self.look_for_write(locked.state(), extents, range)? {
                    Ok(map) => return Ok(map),
                    Err(Missing::Copy(_) | Missing::Delalloc(_)) => None,
                    Err(Missing::Hole(_)) => Some(self.hole_to_fill(&locked, range)),
                }
            };
            match hole {
                Some(hole) => self.allocate_hole(hole)?,
                None => return self.begin_copy(range),
            };
        }
    }
    /// Reserve copies for the shared blocks at the start of `range`.
    fn begin_copy(&self, range: &Range<FileBlock>) -> Result<Iomap> {
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        let missing = match self.look_for_write(&ip, extents_of(&ip, ForkKind::Data), range)? {
            Ok(map) => return Ok(map),
            Err(missing) => missing,
        };
        let Missing::Copy(stop) = missing else { return Err(Error::Busy) };
        self.reserve_copy(&mut ip, range.start..stop)
    }
    /// Reserve copies for shared blocks, as far as there is space, and ahead of them, which
    /// later writes will find. The map still says what they are copied from.
    fn reserve_copy(&self, ip: &mut LockedInode<'_>, shared: Range<FileBlock>) -> Result<Iomap> {
        let fresh = self.reserve_copies(ip, shared)?;
        let cookie = self.cookie(ip, ForkKind::Data);
        let lies = find(extents_of(ip, ForkKind::Data), &ip.delayed.data, fresh.start);
        let mut map = self.clip(self.iomap(lies, cookie), fresh);
        map.flags |= MapFlags::SHARED | MapFlags::NEW;
        Ok(map)
    }
    /// The map for data that goes to disk now: of the copy-on-write fork first. `Err` with
    /// what has to be allocated before.
    fn look_for_disk(&self, locked: &Locked<'_>, at: FileBlock) -> Outcome {
        let delayed = locked.delayed();
        let cookie = self.cookie(locked.state(), ForkKind::Data);
        let next_copy = match find(&delayed.cow, &delayed.cow_reserved, at) {
            copy @ Found::Real(_) => {
                let mut map = self.iomap(copy, cookie);
                map.flags |= MapFlags::SHARED;
                return Ok(map);
            }
            Found::Reserved(_) => return Err(Missing::Delalloc(ForkKind::Cow)),
            Found::Hole { end, .. } => end,
        };
        let found = find(locked.extents(), &delayed.data, at);
        if let Found::Reserved(_) = found {
            return Err(Missing::Delalloc(ForkKind::Data));
        }
        Ok(self.clip(self.iomap(found, cookie), at..next_copy))
    }
    /// A map for a direct write: blocks are allocated where there are none.
    fn begin_direct(&self, pos: u64, len: u64) -> Result<Iomap> {
        self.check_writable()?;
        let range = self.blocks(pos, len);
        self.skip_ahead(range.start);
        loop {
            let missing = {
                let locked = self.lock(ForkKind::Data)?;
                match self.look_for_disk(&locked, range.start) {
                    Ok(map) if map.flags.contains(MapFlags::SHARED) => return Ok(map),
                    Ok(map @ Iomap { kind: MapKind::Hole, .. }) => {
                        Missing::Hole(FileBlock(map.end_bytes() >> self.shift()))
                    }
                    Ok(_) => {
                        let extents = locked.extents();
                        match self.look_for_write(locked.state(), extents, &range)? {
                            Ok(map) => return Ok(map),
                            Err(missing) => missing,
                        }
                    }
                    Err(missing) => missing,
                }
            };
            match missing {
                Missing::Hole(_) => {
                    let hole = self.hole_to_fill(&self.lock(ForkKind::Data)?, &range);
                    self.allocate_hole(hole)?;
                }
                Missing::Delalloc(fork) => self.allocate_delalloc(fork, range.start)?,
                Missing::Copy(_) => {
                    let map = self.begin_copy(&range)?;
                    if map.flags.contains(MapFlags::NEW) {
                        self.allocate_delalloc(ForkKind::Cow, range.start)?;
                    }
                }
            }
        }
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
        let mut map = self.map_at(&locked, at, kind);
        if map.kind == MapKind::Hole {
            if map.end_bytes() >= MAX_BYTES {
                return Ok(None);
            }
            map = self.map_at(&locked, map.end_bytes(), kind);
        }
        let block = FileBlock(at.max(map.offset_bytes) >> shift);
        let real = locked.extents().at(block).filter(|e| !e.unwritten);
        if let Some(extent) = real
            && kind == ForkKind::Data
            && locked.core().flags2.contains(Flags2::REFLINK)
        {
            let (end, shared) = self.shared_at(extent, block, extent.end())?;
            map = self.clip(map, block..end);
            map.flags.set(MapFlags::SHARED, shared);
        }
        let end = locked.extents().end().max(locked.reserved().end());
        let last = map.end_bytes() >= end.0 << shift;
        Ok(Some((map, last)))
    }
    /// Copies of all extents of a fork that lie on disk.
    ///
    /// # Errors
    /// I/O errors and damage, no memory.
    pub fn all_extents(&self, kind: ForkKind) -> Result<alloc::vec::Vec<Extent>> {
        let locked = self.lock(kind)?;
        let mut copy = alloc::vec::Vec::new();
        copy.try_reserve_exact(locked.extents().len()).map_err(|_| Error::NoMemory)?;
        copy.extend(locked.extents().iter());
        Ok(copy)
    }
    /// Blocks that are reserved for this file and not allocated: data, then copies.
    pub fn delalloc_blocks(&self) -> (u64, u64) {
        let state = self.state.read();
        (state.delayed.data.blocks(), state.delayed.cow_reserved.blocks())
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
                Ok(self.map_at(&locked, pos, ForkKind::Data))
            }
            Purpose::Write | Purpose::Fault | Purpose::Zero => self.begin_write(pos, len, purpose),
            Purpose::DirectWrite => self.committed(self.begin_direct(pos, len)?),
        }
    }
    fn is_valid(&self, map: &Iomap) -> bool {
        map.cookie.data == self.sequence(ForkKind::Data)
            && map.cookie.cow.is_none_or(|cow| cow == self.sequence(ForkKind::Cow))
    }
    fn prepare_write(&self, pos: u64, len: u64) -> Result<()> {
        self.check_writable()?;
        pos.checked_add(len).filter(|&end| end < MAX_BYTES).map(|_| ()).ok_or(Error::TooBig)
    }
    fn punch_delalloc(&self, range: Range<u64>, fork: ReservedFork) -> Result<()> {
        let kind = match fork {
            ReservedFork::Data => ForkKind::Data,
            ReservedFork::Cow => ForkKind::Cow,
        };
        let shift = self.shift();
        let blocks = FileBlock(range.start.div_ceil(1 << shift))..FileBlock(range.end >> shift);
        if blocks.start < blocks.end {
            punch_reserved(&mut self.lock_exclusive(), kind, blocks);
        }
        Ok(())
    }
    fn writeback_map(&self, pos: u64, _len: u64) -> Result<Iomap> {
        let at = FileBlock(pos >> self.shift());
        loop {
            let missing = {
                let locked = self.lock(ForkKind::Data)?;
                if locked.core().mode == 0 {
                    return Err(Error::NotFound);
                }
                match self.look_for_disk(&locked, at) {
                    Ok(map) => return self.committed(map),
                    Err(missing) => missing,
                }
            };
            if let Missing::Delalloc(fork) = missing {
                self.allocate_delalloc(fork, at)?;
            }
        }
    }
    fn disk_size(&self) -> u64 {
        self.size()
    }
    fn writeback_done(&self, map: &Iomap, pos: u64, len: u64, size: u64) -> Result<()> {
        let range = self.blocks(pos, len);
        match map.kind {
            _ if map.flags.contains(MapFlags::SHARED) => self.end_cow(range, size),
            MapKind::Unwritten { .. } => self.convert_written(range, size),
            _ if size > self.size() => self.log_size(size),
            _ => Ok(()),
        }
    }
    fn writeback_failed(&self, map: &Iomap, pos: u64, len: u64) {
        if map.flags.contains(MapFlags::SHARED)
            && let Err(e) = self.cancel_cow(self.blocks(pos, len))
        {
            log::error!("{}: copies that failed stay set aside: {e}", self.ino());
        }
    }
    fn size_changed(&self, size: u64) {
        self.note_eof(size);
    }
}

impl Inode {
    /// Whole blocks: what the caller promises.
    fn whole_blocks(&self, range: &Range<u64>) -> Range<FileBlock> {
        let shift = self.shift();
        FileBlock(range.start.div_ceil(1 << shift))..FileBlock(range.end >> shift)
    }
}

impl Layout for Inode {
    fn set_size(&self, size: u64, cut: bool) -> Result<()> {
        self.check_writable()?;
        self.resize(size, cut)
    }
    fn preallocate(&self, range: Range<u64>) -> Result<()> {
        self.check_writable()?;
        // Bytes, whose blocks are all wanted; more in a file that asks for large extents.
        let blocks = self.blocks(range.start, range.end - range.start);
        let hint = self.extent_hint();
        let end = blocks.end.0.next_multiple_of(hint).min(MAX_BYTES >> self.shift());
        self.fill_holes(FileBlock(blocks.start.0 / hint * hint)..FileBlock(end))?;
        self.log_layout(true)
    }
    fn punch(&self, range: Range<u64>) -> Result<()> {
        self.check_writable()?;
        self.punch_blocks(self.whole_blocks(&range))?;
        self.log_layout(false)
    }
    fn zero_blocks(&self, range: Range<u64>) -> Result<()> {
        self.check_writable()?;
        self.zero_extents(self.whole_blocks(&range))?;
        self.log_layout(true)
    }
    fn collapse(&self, range: Range<u64>) -> Result<()> {
        self.check_writable()?;
        self.collapse_blocks(self.whole_blocks(&range))?;
        self.log_layout(false)
    }
    fn insert(&self, range: Range<u64>) -> Result<()> {
        self.check_writable()?;
        self.insert_blocks(self.whole_blocks(&range))?;
        self.log_layout(false)
    }
    fn share(&self, source: &Self, range: Range<u64>, at: u64) -> Result<()> {
        self.check_writable()?;
        source.check_writable()?;
        let blocks = self.blocks(range.start, range.end - range.start);
        self.share_blocks(source, blocks, FileBlock(at >> self.shift()))?;
        self.log_layout(false)
    }
    fn can_share(&self) -> bool {
        self.mount().geometry().ro_compat.contains(RoCompat::REFLINK)
    }
    fn trim_eof(&self) -> Result<()> {
        self.trim_behind_eof()
    }
}
