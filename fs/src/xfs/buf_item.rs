//! Changing metadata blocks: what a transaction edits, what it logs of a block, how the
//! block gets to its place.
//!
//! ```text
//! Trans::edit    pin; contents locked; changed chunks marked        (transaction)
//! commit         the chunks that are newer than the disk, copied;   (CIL)
//!                if the CIL has these: those that changed since
//! checkpoint     durable: unpinned, in the AIL at its LSN           (log)
//! push           copied, LSN and checksum stamped, written          (AIL's pusher)
//! written        chunks forgotten, unless changed since; out of the AIL
//! ```
//!
//! Marks are forgotten only when the block was written and nothing changed since it was
//! copied: what is logged next may then be more than needed, never less, and moving the
//! block forward in the AIL stays right.
//!
//! Locks: `BUFFER` (contents), `BUFFER_ITEM` (marks and state), in this order. Whoever
//! pins a block does so before he locks its contents to change them, and the pusher, who
//! holds them locked, sees it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::{Deref, Range};

use holdfast_sync::RwLockWriteGuard;
use holdfast_sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::buf::{Buffer, Run};
use super::inode::Inode;
use super::log::item::{CommitSeq, Item, ItemKey, Lsn, Pushed, Vectors};
use super::ondisk::block::{BlockKind, specific};
use super::ondisk::log_items::{BUF_CHUNK_BYTES, BufFormat, BufKind, ChunkMap};
use super::ondisk::stamp_checksum;
use crate::block::{Bio, BioFlags, Op, Plug, SECTOR_SIZE, Segment};
use crate::error::{Corruption, Error, Result};
use crate::platform::{PAGE_SIZE, Page};

/// What of a block is logged and not in place.
#[derive(Default)]
pub struct ItemState {
    map: ChunkMap,
    /// Of these, what changed since it was formatted for the log.
    fresh: ChunkMap,
    /// The checkpoint that has all of `map` but what is fresh, and how many bytes that is.
    /// Nothing is logged of the block in a form that patches would not fit.
    formatted: (CommitSeq, usize),
    /// Its contents follow from an ICREATE: in the AIL, but not logged.
    ordered: bool,
    /// Its blocks were freed.
    stale: bool,
    /// Replay takes only links of unlinked lists.
    inode_links: bool,
    /// Rises with each change.
    version: u64,
    /// Where it is in the AIL.
    lsn: Lsn,
    in_flight: bool,
    /// Inodes that were copied into it and go to disk with it.
    flushed: Vec<(Arc<Inode>, u64)>,
}

/// No checkpoint has it.
const NOT_FORMATTED: (CommitSeq, usize) = (CommitSeq(0), 0);

impl ItemState {
    /// Nothing is logged of a block that is `bytes` long, and it is in use.
    pub(super) fn renew(&mut self, bytes: usize) {
        self.map = ChunkMap::new(bytes);
        self.fresh = self.map;
        self.formatted = NOT_FORMATTED;
        self.ordered = false;
        self.stale = false;
        self.inode_links = false;
        self.lsn = Lsn::default();
        self.version += 1;
    }
    /// Is it being written?
    pub(super) const fn is_in_flight(&self) -> bool {
        self.in_flight
    }
    /// Were its blocks freed?
    pub(super) const fn is_stale(&self) -> bool {
        self.stale
    }
}

/// A block being changed. What is changed through it is logged.
pub struct Edit<'b> {
    buffer: &'b Buffer,
    contents: RwLockWriteGuard<'b, alloc::boxed::Box<[u8]>>,
    map: ChunkMap,
}

impl<'b> Edit<'b> {
    /// Lock the contents of a buffer that is pinned already.
    pub(super) fn new(buffer: &'b Buffer) -> Self {
        let contents = buffer.contents.write();
        let map = ChunkMap::new(contents.len());
        Self { buffer, contents, map }
    }
    /// These bytes, to be changed.
    ///
    /// # Panics
    /// The range lies outside the block.
    pub fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        if !range.is_empty() {
            self.map.mark(range.start, range.end - 1);
        }
        &mut self.contents[range]
    }
    /// Put bytes at `offset`.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        self.bytes_mut(offset..offset + bytes.len()).copy_from_slice(bytes);
    }
    /// Put a byte at `offset`.
    pub fn set_u8(&mut self, offset: usize, value: u8) {
        self.put(offset, &[value]);
    }
    /// Put a big-endian number at `offset`.
    pub fn set_be16(&mut self, offset: usize, value: u16) {
        self.put(offset, &value.to_be_bytes());
    }
    /// Put a big-endian number at `offset`.
    pub fn set_be32(&mut self, offset: usize, value: u32) {
        self.put(offset, &value.to_be_bytes());
    }
    /// Put a big-endian number at `offset`.
    pub fn set_be64(&mut self, offset: usize, value: u64) {
        self.put(offset, &value.to_be_bytes());
    }
    /// Copy bytes within the block; the ranges may overlap.
    pub fn copy_within(&mut self, from: Range<usize>, to: usize) {
        if !from.is_empty() {
            self.map.mark(to, to + from.len() - 1);
            self.contents.copy_within(from, to);
        }
    }
    /// Set all bytes of a range.
    pub fn fill(&mut self, range: Range<usize>, byte: u8) {
        self.bytes_mut(range).fill(byte);
    }
}

impl Deref for Edit<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.contents
    }
}

impl Drop for Edit<'_> {
    fn drop(&mut self) {
        let mut guard = self.buffer.item.lock();
        let item = &mut *guard;
        if item.map.merge(&self.map) {
            // What the CIL has lacks the place for it.
            item.formatted = NOT_FORMATTED;
        }
        item.fresh.merge(&self.map);
        item.version += 1;
    }
}

/// How the log names the kind of a block.
const fn log_kind(kind: BlockKind) -> BufKind {
    match kind {
        BlockKind::Agf => BufKind::Agf,
        BlockKind::Agi => BufKind::Agi,
        BlockKind::Agfl => BufKind::Agfl,
        BlockKind::Bnobt
        | BlockKind::Cntbt
        | BlockKind::Inobt
        | BlockKind::Finobt
        | BlockKind::Rmapbt
        | BlockKind::Refcountbt
        | BlockKind::Bmbt => BufKind::Btree,
        BlockKind::Inodes => BufKind::Inodes,
        BlockKind::DirBlock => BufKind::DirBlock,
        BlockKind::DirData => BufKind::DirData,
        BlockKind::DirLeaf1 => BufKind::DirLeaf1,
        BlockKind::DirLeafN => BufKind::DirLeafN,
        BlockKind::DirFree => BufKind::DirFree,
        BlockKind::DaNode => BufKind::DaNode,
        BlockKind::AttrLeaf => BufKind::AttrLeaf,
        BlockKind::AttrRemote => BufKind::AttrRemote,
        BlockKind::Symlink => BufKind::Symlink,
        BlockKind::Superblock => BufKind::Superblock,
    }
}

impl Buffer {
    /// A transaction holds on to it.
    pub(super) fn pin_for_transaction(&self) {
        self.pins.fetch_add(1, Ordering::AcqRel);
    }
    /// Its blocks are freed: it is never written again.
    pub(super) fn make_stale(&self) {
        let mut item = self.item.lock();
        item.stale = true;
        item.formatted = NOT_FORMATTED;
        item.version += 1;
    }
    /// Its contents follow from an ICREATE.
    pub(super) fn make_ordered(&self) {
        let mut item = self.item.lock();
        item.ordered = true;
        item.map.clear();
        item.formatted = NOT_FORMATTED;
        item.version += 1;
    }
    /// Replay takes only links of unlinked lists from it.
    pub(super) fn log_as_inode_links(&self) {
        let mut item = self.item.lock();
        if !item.inode_links {
            item.inode_links = true;
            item.formatted = NOT_FORMATTED;
        }
    }
    /// It becomes a block of another kind; whoever changes it so holds its owner's lock.
    pub(super) fn set_kind(&self, kind: BlockKind) {
        self.store_kind(kind);
        self.item.lock().formatted = NOT_FORMATTED;
    }
    /// What is to be logged of it now, by a transaction that holds its owner's lock, while
    /// the checkpoint `seq` collects: patches, if all but what is fresh is there already.
    pub(super) fn format(&self, seq: CommitSeq) -> Vectors {
        let contents = self.contents.read();
        let mut guard = self.item.lock();
        let item = &mut *guard;
        let vectors = if item.formatted.0 == seq {
            patches(&item.map, &item.fresh, item.formatted, &contents)
        } else {
            let vectors = self.format_whole(item, &contents);
            // What is in pieces has a region, or two, of each.
            let simple = self.runs().len() == 1 && !item.stale;
            item.formatted = if simple { (seq, vectors.stored_bytes()) } else { NOT_FORMATTED };
            vectors
        };
        item.fresh.clear();
        vectors
    }
    fn format_whole(&self, item: &ItemState, contents: &[u8]) -> Vectors {
        let kind = log_kind(self.kind());
        let flags = if item.stale {
            BufFormat::CANCEL
        } else if item.inode_links {
            BufFormat::INODE_BUF
        } else {
            0
        };
        let room = item.map.count() * BUF_CHUNK_BYTES + 128 * self.runs().len();
        let mut vectors = Vectors::with_capacity(room, 8);
        let mut start = 0;
        for run in self.runs() {
            let bytes = run.bytes as usize;
            let part = &contents[start..start + bytes];
            let mut map = item.map;
            if self.runs().len() > 1 {
                map = part_of(&item.map, start, bytes);
                // Recovery has to see all parts of a block to put in its checksum.
                map.mark(0, 0);
            }
            start += bytes;
            if map.is_empty() && !item.stale {
                continue;
            }
            let blocks = (bytes / SECTOR_SIZE as usize) as u16;
            let format = BufFormat { kind, flags, blocks, daddr: run.sector.0, map };
            vectors.push_with(|out| format.encode(out));
            if !item.stale {
                push_chunks(&mut vectors, &map, part);
            }
        }
        vectors
    }
    /// An inode was copied into it, as it was at `version`.
    pub(super) fn attach_inode(&self, inode: Arc<Inode>, version: u64) {
        self.item.lock().flushed.push((inode, version));
    }
    fn written(&self, version: u64, lsn: Lsn, ok: bool) {
        let inodes = {
            let mut item = self.item.lock();
            item.in_flight = false;
            if ok && item.version == version {
                item.map.clear();
                item.fresh.clear();
                item.formatted = NOT_FORMATTED;
                item.ordered = false;
                item.inode_links = false;
                if let Some(journal) = self.target.journal()
                    && lsn != Lsn::default()
                {
                    journal.ail_remove(&self.key(), lsn);
                }
            }
            core::mem::take(&mut item.flushed)
        };
        for (inode, version) in inodes {
            inode.written(version, ok);
        }
        if !ok && let Some(journal) = self.target.journal() {
            let place = self.target.geometry.place(self.sector());
            journal
                .shut_down(&alloc::format!("cannot write the {} at {place}", self.kind().name()));
        }
    }
    /// A copy of the contents, stamped for the disk.
    fn stamped(&self, contents: &[u8], lsn: Lsn) -> Result<Vec<u8>> {
        let mut copy = Vec::new();
        copy.try_reserve_exact(contents.len()).map_err(|_| Error::NoMemory)?;
        copy.extend_from_slice(contents);
        let kind = self.kind();
        specific(kind, &copy).map_err(|reason| Corruption {
            structure: kind.name(),
            location: self.target.geometry.place(self.sector()),
            reason: alloc::format!("not written: {reason}"),
        })?;
        if let (Some(at), Some(crc)) = (kind.lsn_offset(), kind.crc_offset()) {
            if kind != BlockKind::AttrRemote {
                copy[at..at + 8].copy_from_slice(&lsn.0.to_be_bytes());
            }
            stamp_checksum(&mut copy, crc);
        }
        Ok(copy)
    }
}

/// The chunks of a block that are marked, a region for each run.
fn push_chunks(vectors: &mut Vectors, map: &ChunkMap, contents: &[u8]) {
    for (first, count) in map.runs() {
        let from = first * BUF_CHUNK_BYTES;
        vectors.push(&contents[from..(from + count * BUF_CHUNK_BYTES).min(contents.len())]);
    }
}

/// What is `fresh` of a block in one piece, as patches to what was formatted of it by `map`:
/// the format, then the runs of chunks.
fn patches(
    map: &ChunkMap,
    fresh: &ChunkMap,
    (seq, length): (CommitSeq, usize),
    contents: &[u8],
) -> Vectors {
    let chunks = fresh.count();
    let mut vectors = Vectors::patches(seq, length, chunks, chunks * BUF_CHUNK_BYTES);
    let mut logged = map.runs();
    let mut run = logged.next().unwrap_or_default();
    let (mut regions, mut before) = (1, map.format_bytes());
    for (first, count) in fresh.runs() {
        // What is fresh is logged: its run lies within one of these.
        while first >= run.0 + run.1 {
            regions += 1;
            before += run.1 * BUF_CHUNK_BYTES;
            let Some(next) = logged.next() else { return vectors };
            run = next;
        }
        let from = first * BUF_CHUNK_BYTES;
        let place = Vectors::place(regions, before + (first - run.0) * BUF_CHUNK_BYTES);
        let until = (from + count * BUF_CHUNK_BYTES).min(contents.len());
        vectors.push_patch(place, &contents[from..until]);
    }
    vectors
}

/// The marks of `bytes` from `start` on, as a map of their own.
fn part_of(map: &ChunkMap, start: usize, bytes: usize) -> ChunkMap {
    let mut part = ChunkMap::new(bytes);
    for chunk in 0..bytes.div_ceil(BUF_CHUNK_BYTES) {
        if map.has(start / BUF_CHUNK_BYTES + chunk) {
            part.mark(chunk * BUF_CHUNK_BYTES, chunk * BUF_CHUNK_BYTES);
        }
    }
    part
}

impl Item for Buffer {
    fn key(&self) -> ItemKey {
        ItemKey::Buffer(self.sector().0, self.length_bytes() as u32)
    }
    fn whole(&self, seq: CommitSeq) -> Vectors {
        self.item.lock().formatted = NOT_FORMATTED;
        self.format(seq)
    }
    fn pin(&self) {
        self.pin_for_transaction();
    }
    fn unpin(&self) {
        let before = self.pins.fetch_sub(1, Ordering::AcqRel);
        debug_assert!(before > 0, "unpinned once too often");
    }
    fn committed(&self, lsn: Lsn) -> Option<Lsn> {
        let mut item = self.item.lock();
        if item.stale {
            item.map.clear();
            return None;
        }
        // What is only ordered keeps the place it was first given.
        if item.ordered && item.map.is_empty() && item.lsn != Lsn::default() {
            return Some(item.lsn);
        }
        item.lsn = lsn;
        Some(lsn)
    }
    fn push(self: Arc<Self>, plug: &mut Plug<'_>) -> Result<Pushed> {
        let Some(contents) = self.contents.try_read() else { return Ok(Pushed::Locked) };
        let (version, lsn) = {
            let mut item = self.item.lock();
            if self.pins.load(Ordering::Acquire) > 0 {
                return Ok(Pushed::Pinned);
            }
            // Only now: a shutdown unpins what is not in the log. What is in place must not be
            // newer than that.
            if self.target.is_shut_down() {
                return Err(Error::Shutdown);
            }
            if item.in_flight {
                return Ok(Pushed::InFlight);
            }
            if item.stale {
                return Ok(Pushed::Waiting);
            }
            item.in_flight = true;
            (item.version, item.lsn)
        };
        let prepared = self.stamped(&contents, lsn).and_then(|copy| pages_of(&self, &copy));
        drop(contents);
        match prepared {
            Ok(pages) => {
                submit(&self, pages, version, lsn, plug);
                Ok(Pushed::Submitted)
            }
            Err(e) => {
                self.item.lock().in_flight = false;
                Err(e)
            }
        }
    }
}

/// The bytes in pages that a device can read, a list for each run.
fn pages_of(buffer: &Buffer, bytes: &[u8]) -> Result<Vec<(Run, Vec<Page>)>> {
    let mut rest = bytes;
    let mut all = Vec::new();
    for run in buffer.runs() {
        let (part, behind) = rest.split_at(run.bytes as usize);
        let mut pages = Vec::new();
        for chunk in part.chunks(PAGE_SIZE) {
            let page = buffer.target.memory.alloc_page().ok_or(Error::NoMemory)?;
            page.write(0, chunk);
            pages.push(page);
        }
        all.push((*run, pages));
        rest = behind;
    }
    Ok(all)
}

fn submit(
    buffer: &Arc<Buffer>,
    parts: Vec<(Run, Vec<Page>)>,
    version: u64,
    lsn: Lsn,
    plug: &mut Plug<'_>,
) {
    let left = Arc::new(AtomicUsize::new(parts.len()));
    let good = Arc::new(AtomicBool::new(true));
    for (run, pages) in parts {
        let (buffer, left, good) = (buffer.clone(), left.clone(), good.clone());
        let done = alloc::boxed::Box::new(move |result: core::result::Result<(), _>| {
            if result.is_err() {
                good.store(false, Ordering::Relaxed);
            }
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                buffer.written(version, lsn, good.load(Ordering::Relaxed));
            }
        });
        let segments = Segment::cover(&pages, run.bytes as usize);
        plug.submit(Bio::transfer(Op::Write, run.sector, segments, BioFlags::META, done));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(map: &ChunkMap, contents: &[u8]) -> Vectors {
        let blocks = (contents.len() / 512) as u16;
        let format = BufFormat { kind: BufKind::DirData, flags: 0, blocks, daddr: 8, map: *map };
        let mut vectors = Vectors::new();
        vectors.push_with(|out| format.encode(out));
        push_chunks(&mut vectors, map, contents);
        vectors
    }

    /// Patches to what was logged before make it what is to be logged now, whatever runs
    /// of chunks there are, over the words of the map too.
    #[test]
    fn patches_lead_to_the_same_as_the_whole() {
        let mut random = 0x9E37_79B9_7F4A_7C15_u64;
        let mut next = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % below
        };
        for bytes in [512, 4096, 16 << 10, 64 << 10] {
            for _ in 0..200 {
                let mut contents = alloc::vec![0; bytes];
                let (mut map, mut fresh) = (ChunkMap::new(bytes), ChunkMap::new(bytes));
                for _ in 0..=next(20) {
                    let at = next(bytes);
                    map.mark(at, (at + next(1000)).min(bytes - 1));
                }
                let mut logged = whole(&map, &contents);
                for _ in 0..=next(6) {
                    let at = next(bytes);
                    if map.has(at / BUF_CHUNK_BYTES) {
                        contents[at] = 1;
                        fresh.mark(at, at);
                    }
                }
                let seq = CommitSeq(7);
                let patches = patches(&map, &fresh, (seq, logged.stored_bytes()), &contents);
                assert!(logged.amend(&patches));
                assert!(logged.regions().eq(whole(&map, &contents).regions()));
                logged.push(&[0; 4]);
                assert!(!logged.amend(&patches), "these are not the regions it was made to");
            }
        }
    }
}
