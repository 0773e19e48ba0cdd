//! Truncate, fallocate, clone and their like: the page cache's side.
//!
//! The caller holds `IOLOCK` exclusive (of both files, where there are two), which keeps
//! out readers, writers and direct I/O. Here the invalidate lock is taken, exclusive, so
//! that no fault brings a page back, and the cache is prepared before the file system
//! moves a block:
//!
//! ```text
//! IOLOCK, INVAL exclusive
//!   write what is dirty in the range, wait      stores fault, and wait for INVAL
//!   drop the pages, unmap them
//!   the file system changes whole blocks        (Layout)
//!   zero the parts of blocks, in the cache
//! ```
//!
//! Dirty data is written, not thrown away, even where a hole is to be: the pages at the
//! ends of the range hold other data too.

use alloc::sync::Arc;
use core::ops::Range;

use super::{Layout, MapFlags, Purpose, fill, punch, zero};
use crate::pagecache::{Folio, LockedFolio, Mapping};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};
use crate::{Error, Result};

/// What a call does to a range of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Blocks for all of it.
    Preallocate,
    /// A hole.
    Punch,
    /// Zeros, with blocks.
    Zero,
    /// Cut out.
    Collapse,
    /// A hole pushed in between.
    Insert,
    /// Blocks that no other file has.
    Unshare,
}

/// Change the file's size. What is cut off is gone even if the file grows again.
///
/// # Errors
/// Those of zeroing the block at the end, before anything changes; those of
/// [`Layout::set_size`].
pub fn truncate<L: Layout>(mapping: &Arc<Mapping>, fs: &L, size: u64) -> Result<()> {
    let _no_faults = mapping.invalidate_lock().write();
    set_size(mapping, fs, size)
}

fn set_size<L: Layout>(mapping: &Arc<Mapping>, fs: &L, size: u64) -> Result<()> {
    let old = mapping.size();
    let on_disk = fs.disk_size();
    let mut dirtied = old != on_disk;
    if size > old {
        dirtied |= zero::grow(mapping, size)?;
    } else {
        let block = 1u64 << fs.block_shift();
        dirtied |= zero::zero_range(mapping, size..size.next_multiple_of(block).min(old))?;
        mapping.set_size(size);
        mapping.truncated();
    }
    if size > on_disk && dirtied {
        // Once the size is logged, a crash must not show what lay there before.
        mapping.write_and_wait(on_disk & !(PAGE_SIZE as u64 - 1)..size);
    }
    // At the same size, too: what was allocated ahead behind the end goes.
    fs.set_size(size, size <= old)
}

/// Change bytes `range` of the file; `keep_size`: do not let it grow.
///
/// # Errors
/// Invalid for a range that cannot be collapsed or inserted; too big; those of the file
/// system.
pub fn change<L: Layout>(
    mapping: &Arc<Mapping>,
    fs: &L,
    what: Change,
    range: Range<u64>,
    keep_size: bool,
) -> Result<()> {
    let _no_faults = mapping.invalidate_lock().write();
    match what {
        Change::Collapse => return collapse(mapping, fs, range),
        Change::Insert => return insert(mapping, fs, range),
        Change::Preallocate => fs.preallocate(outward(fs, &range))?,
        Change::Punch => {
            flush_and_drop(mapping, range.clone());
            let whole = inward(fs, &range);
            if !whole.is_empty() {
                fs.punch(whole)?;
            }
            zero_parts(mapping, range.clone())?;
        }
        Change::Zero => {
            flush_and_drop(mapping, range.clone());
            let whole = inward(fs, &range);
            if !whole.is_empty() {
                fs.zero_blocks(whole)?;
            }
            zero_parts(mapping, range.clone())?;
            fs.preallocate(outward(fs, &range))?;
        }
        Change::Unshare => {
            unshare(mapping, fs, range.clone())?;
            fs.preallocate(outward(fs, &range))?;
        }
    }
    if !keep_size && what != Change::Punch && range.end > mapping.size() {
        set_size(mapping, fs, range.end)?;
    }
    Ok(())
}

/// The whole blocks within `range`.
fn inward<L: Layout>(fs: &L, range: &Range<u64>) -> Range<u64> {
    let block = 1u64 << fs.block_shift();
    let start = range.start.next_multiple_of(block);
    start..(range.end & !(block - 1)).max(start)
}

/// The blocks that `range` touches.
fn outward<L: Layout>(fs: &L, range: &Range<u64>) -> Range<u64> {
    let block = 1u64 << fs.block_shift();
    range.start & !(block - 1)..range.end.next_multiple_of(block)
}

/// Zero what of `range` lies in the file and still has data.
fn zero_parts(mapping: &Arc<Mapping>, range: Range<u64>) -> Result<()> {
    let end = range.end.min(mapping.size());
    if range.start < end {
        zero::zero_range(mapping, range.start..end)?;
    }
    Ok(())
}

/// Write what is dirty in the pages of `range`, and drop them.
fn flush_and_drop(mapping: &Mapping, range: Range<u64>) {
    let page = PAGE_SIZE as u64;
    let end = range.end.checked_next_multiple_of(page).unwrap_or(u64::MAX);
    let pages = range.start & !(page - 1)..end;
    mapping.write_and_wait(pages.clone());
    mapping.invalidate(pages);
}

fn check_blocks<L: Layout>(fs: &L, range: &Range<u64>) -> Result<()> {
    let block = 1u64 << fs.block_shift();
    if !range.start.is_multiple_of(block) || !range.end.is_multiple_of(block) {
        return Err(Error::Invalid("a range to move is not of whole blocks"));
    }
    Ok(())
}

fn collapse<L: Layout>(mapping: &Arc<Mapping>, fs: &L, range: Range<u64>) -> Result<()> {
    check_blocks(fs, &range)?;
    let size = mapping.size();
    if range.end >= size {
        return Err(Error::Invalid("a range to cut out reaches the end of the file"));
    }
    fs.trim_eof()?;
    flush_and_drop(mapping, range.start..u64::MAX);
    let len = range.end - range.start;
    fs.collapse(range)?;
    set_size(mapping, fs, size - len)
}

fn insert<L: Layout>(mapping: &Arc<Mapping>, fs: &L, range: Range<u64>) -> Result<()> {
    check_blocks(fs, &range)?;
    let (size, len) = (mapping.size(), range.end - range.start);
    if range.start >= size {
        return Err(Error::Invalid("a range to push in starts behind the end of the file"));
    }
    let grown = size.checked_add(len).filter(|s| *s <= i64::MAX as u64).ok_or(Error::TooBig)?;
    fs.trim_eof()?;
    set_size(mapping, fs, grown)?;
    flush_and_drop(mapping, range.start..u64::MAX);
    fs.insert(range)
}

/// Write shared blocks of the range anew, elsewhere.
fn unshare<L: Layout>(mapping: &Arc<Mapping>, fs: &L, range: Range<u64>) -> Result<()> {
    let end = range.end.min(mapping.size());
    let mut at = outward(fs, &range).start;
    while at < end {
        let map = fs.begin(at, end - at, Purpose::Write)?;
        if !map.contains(at) {
            return Err(Error::Io);
        }
        let stop = end.min(map.end_bytes());
        if !map.flags.contains(MapFlags::SHARED) {
            punch::give_back_locked(mapping, &map, at..stop)?;
            at = stop;
            continue;
        }
        at = unshare_under(mapping, &map, at..stop)?;
    }
    mapping.write_and_wait(range);
    Ok(())
}

/// Up to where it went: not to the end if the map is stale.
fn unshare_under(mapping: &Arc<Mapping>, map: &super::Iomap, range: Range<u64>) -> Result<u64> {
    let mut at = range.start;
    while at < range.end {
        let folio = mapping.get_locked(at >> PAGE_SHIFT)?;
        if !mapping.ops().is_valid(map) {
            drop(folio);
            punch::give_back_locked(mapping, map, at..range.end)?;
            break;
        }
        let (start, end) = (folio.offset_of(at), folio.offset_of(range.end));
        if let Err(e) = fill::fill_blocks(mapping, &folio, map, start..end) {
            drop(folio);
            punch::give_back_locked(mapping, map, at..range.end)?;
            return Err(e);
        }
        let shift = mapping.block_shift();
        mapping.mark_dirty(&folio, Folio::blocks_touched(shift, start, end));
        at = folio.position() + end as u64;
    }
    Ok(at)
}

/// One side of a clone: a file's contents and its file system.
pub struct Side<'a, L> {
    /// The contents.
    pub mapping: &'a Arc<Mapping>,
    /// What lies where.
    pub fs: &'a L,
    /// The first byte.
    pub pos: u64,
}

impl<L> Side<'_, L> {
    fn range(&self, len: u64) -> Range<u64> {
        self.pos..self.pos + len
    }
}

/// Both files' invalidate locks exclusive, the one of the lower number first.
fn with_both<R>(a: &Mapping, b: &Mapping, work: impl FnOnce() -> R) -> R {
    let (first, second) = if a.id() <= b.id() { (a, b) } else { (b, a) };
    let _first = first.invalidate_lock().write();
    let _second = (!core::ptr::eq(first, second)).then(|| second.invalidate_lock().write());
    work()
}

/// How many bytes can be shared when `len` are asked for (0: all up to the end of the
/// source): whole blocks, or up to the end of both files.
///
/// # Errors
/// Invalid for a range that is not of whole blocks, lies beyond the source's end, or
/// overlaps its target in the same file. `shorten`: rather share less.
fn shared_length<L: Layout>(
    from: &Side<'_, L>,
    to: &Side<'_, L>,
    len: u64,
    shorten: bool,
) -> Result<u64> {
    if !to.fs.can_share() {
        return Err(Error::NotSupported("the file system does not share blocks"));
    }
    let block = 1u64 << from.fs.block_shift();
    let size = from.mapping.size();
    if !from.pos.is_multiple_of(block) || !to.pos.is_multiple_of(block) {
        return Err(Error::Invalid("what is to be shared does not start at a block"));
    }
    let len = match len {
        0 => size.saturating_sub(from.pos),
        _ if shorten => len.min(size.saturating_sub(from.pos)),
        _ => len,
    };
    let invalid = |end: Option<u64>| end.filter(|e| *e <= i64::MAX as u64);
    let (Some(end), Some(to_end)) =
        (invalid(from.pos.checked_add(len)), invalid(to.pos.checked_add(len)))
    else {
        return Err(Error::Invalid("a range beyond the limit"));
    };
    if end > size {
        return Err(Error::Invalid("what is to be shared lies beyond the end"));
    }
    if Arc::ptr_eq(from.mapping, to.mapping) && from.pos < to_end && to.pos < end {
        return Err(Error::Invalid("a file cannot share with itself in place"));
    }
    // A partial block at the end of the source may become the end of the target only.
    if len.is_multiple_of(block) || (end == size && to_end >= to.mapping.size()) {
        return Ok(len);
    }
    if shorten { Ok(len - len % block) } else { Err(Error::Invalid("not of whole blocks")) }
}

/// Make `len` bytes of one file (0: up to its end) share the blocks of another's.
/// `IOLOCK` of both is held exclusive.
///
/// # Errors
/// Invalid ranges; those of the file system.
pub fn clone_range<L: Layout>(from: &Side<'_, L>, to: &Side<'_, L>, len: u64) -> Result<()> {
    let len = shared_length(from, to, len, false)?;
    if len == 0 {
        return Ok(());
    }
    with_both(from.mapping, to.mapping, || share(from, to, len))
}

fn share<L: Layout>(from: &Side<'_, L>, to: &Side<'_, L>, len: u64) -> Result<()> {
    from.mapping.write_and_wait(outward(from.fs, &from.range(len)));
    let old = to.mapping.size();
    if to.pos > old {
        set_size(to.mapping, to.fs, to.pos)?;
    }
    flush_and_drop(to.mapping, to.range(len));
    let (end, on_disk) = (to.pos + len, to.fs.disk_size());
    if end > old && on_disk < to.pos {
        // Once the size is logged, a crash must not show holes where data was written.
        to.mapping.write_and_wait(on_disk & !(PAGE_SIZE as u64 - 1)..to.pos);
    }
    to.fs.share(from.fs, from.range(len), to.pos)?;
    if end > old {
        to.mapping.set_size(end);
        to.fs.set_size(end, false)?;
    }
    Ok(())
}

/// As [`clone_range`], if both hold the same bytes; how many, nothing if they differ.
///
/// # Errors
/// As [`clone_range`]; I/O errors.
pub fn dedupe_range<L: Layout>(
    from: &Side<'_, L>,
    to: &Side<'_, L>,
    len: u64,
) -> Result<Option<u64>> {
    let beyond = |side: &Side<'_, L>| side.pos.saturating_add(len) > side.mapping.size();
    if beyond(from) || beyond(to) {
        return Err(Error::Invalid("what is to be shared lies beyond the end"));
    }
    let len = if len == 0 { 0 } else { shared_length(from, to, len, true)? };
    if len == 0 {
        return Ok(Some(0));
    }
    with_both(from.mapping, to.mapping, || {
        if !equal(from, to, len)? {
            return Ok(None);
        }
        share(from, to, len)?;
        Ok(Some(len))
    })
}

/// Do both hold the same bytes?
fn equal<L>(a: &Side<'_, L>, b: &Side<'_, L>, len: u64) -> Result<bool> {
    let (mut left, mut right) = ([0; 512], [0; 512]);
    let mut done = 0;
    while done < len {
        let n = (left.len() as u64).min(len - done) as usize;
        read_cached(a.mapping, a.pos + done, &mut left[..n])?;
        read_cached(b.mapping, b.pos + done, &mut right[..n])?;
        if left[..n] != right[..n] {
            return Ok(false);
        }
        done += n as u64;
    }
    Ok(true)
}

/// Read bytes of one page through the cache.
fn read_cached(mapping: &Arc<Mapping>, pos: u64, bytes: &mut [u8]) -> Result<()> {
    let folio: LockedFolio = mapping.get_locked(pos >> PAGE_SHIFT)?;
    if !folio.is_uptodate() {
        fill::fill_folio(mapping, &folio)?;
    }
    folio.page().read(folio.offset_of(pos), bytes);
    Ok(())
}
