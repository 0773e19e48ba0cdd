//! Page faults: the folio of a page, and the right to store to it.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use holdfast_sync::Mutex;

use super::buffered_read::{bring_in, read_marked};
use super::{Purpose, ReservedFork, fill};
use crate::lab::{Guard, Point};
use crate::pagecache::{Folio, LockedFolio, Mapping, Readahead};
use crate::platform::{PAGE_SHIFT, PAGE_SIZE};
use crate::{Error, Result};

/// Pages around a missing one that a fault reads with it.
const AROUND: u64 = 16;

/// Why a fault cannot be served; the access gets SIGBUS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultError {
    /// The page lies beyond the end of the file.
    BeyondEof,
    /// The data cannot be had.
    Error(Error),
}

impl From<Error> for FaultError {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// The folio of page `index`: locked, uptodate, within the file.
/// The caller holds the invalidate lock shared.
///
/// # Errors
/// The page is beyond the end, or cannot be read.
pub fn fault(
    mapping: &Arc<Mapping>,
    readahead: &Mutex<Readahead>,
    index: u64,
) -> Result<LockedFolio, FaultError> {
    loop {
        if index >= mapping.size_pages() {
            return Err(FaultError::BeyondEof);
        }
        let Some(folio) = mapping.find(index) else {
            let last = (index + AROUND).min(mapping.size_pages());
            bring_in(mapping, readahead, index, last - index)?;
            continue;
        };
        if folio.take_readahead() {
            read_marked(mapping, readahead, index);
        }
        let locked = folio.lock();
        if locked.is_detached() {
            continue;
        }
        // The size may have shrunk while we waited for the lock.
        if index >= mapping.size_pages() && mapping.lab().acts(Guard::FaultRecheckEof) {
            return Err(FaultError::BeyondEof);
        }
        if !locked.is_uptodate() {
            fill::fill_folio(mapping, &locked)?;
        }
        locked.mark_accessed();
        return Ok(locked);
    }
}

/// A page of a file, in pages, and its folio.
pub type FolioPage<'a> = (u64, &'a Folio);

/// Call `map` with the pages of `range` that could be mapped at once, and their folios:
/// cached, uptodate, within the file, and locked for the duration of the call, which must
/// not sleep. The caller holds the invalidate lock shared.
pub fn fault_around(mapping: &Mapping, range: Range<u64>, map: &mut dyn FnMut(&[FolioPage<'_>])) {
    let end = range.end.min(mapping.size_pages());
    let folios = mapping.folios();
    let mut pages: Vec<FolioPage<'_>> =
        Vec::with_capacity((end.saturating_sub(range.start)) as usize);
    folios.for_each_in(range.start..end, |index, folio, again| {
        if again {
            if pages.last().is_some_and(|(last, _)| last + 1 == index) {
                pages.push((index, folio));
            }
        } else if folio.try_lock_in_index() {
            // Looked at under the lock: some of its pages may just have been invalidated.
            if folio.is_uptodate() {
                pages.push((index, folio));
            } else {
                folio.unlock_in_index();
            }
        }
    });
    if !pages.is_empty() {
        map(&pages);
    }
    let mut unlocked = core::ptr::null();
    for (_, folio) in pages {
        if !core::ptr::eq(unlocked, folio) {
            unlocked = folio;
            folio.unlock_in_index();
        }
    }
}

/// Prepare a page of a locked, uptodate folio for a store through a mapping: space is
/// reserved, the folio is dirty. The page table entry may become writable as long as the
/// folio stays locked.
///
/// The map is not validated: the folio was locked before it was fetched and is uptodate,
/// so no change of state can alter what it must contain. When space runs out in the
/// middle of a page of several blocks, those that were reserved just now are given back:
/// under the lock of the folio nobody else makes them dirty, and a write that counts on
/// them compares its cookie once it has that lock.
///
/// # Errors
/// What [`super::Ops::begin`] says: the store gets SIGBUS and nothing changed.
pub fn mkwrite(mapping: &Arc<Mapping>, folio: &LockedFolio, index: u64) -> Result<(), FaultError> {
    let size = mapping.size();
    let start = index << PAGE_SHIFT;
    if folio.is_detached() || start >= size {
        return Err(FaultError::BeyondEof);
    }
    let end = size.min(start + PAGE_SIZE as u64);
    let mut pos = start;
    let mut reserved = Vec::new();
    while pos < end {
        let map = match mapping.ops().begin(pos, end - pos, Purpose::Fault) {
            Ok(map) if map.contains(pos) => map,
            refused => {
                give_back(mapping, folio, &reserved)?;
                return Err(refused.err().unwrap_or(Error::Io).into());
            }
        };
        let from = pos;
        pos = map.end_bytes();
        if pos < end
            && let Some(fork) = map.reserved_in()
        {
            reserved.push((from..pos, fork));
        }
    }
    // Blocks behind the end of the file have no space, and are never written. When the
    // file grows over them, the page loses the right to be stored to, and we come again.
    let (first, within) = (folio.offset_of(start), folio.offset_of(end));
    mapping.mark_dirty(folio, Folio::blocks_touched(mapping.block_shift(), first, within));
    // What the device is reading now must not change under it.
    if folio.is_writeback() && mapping.lab().acts(Guard::MkwriteStable) {
        folio.wait_writeback();
    }
    mapping.lab().at(Point::Mkwrite, mapping.id(), start);
    Ok(())
}

/// Punch what was reserved within a locked folio, and is not dirty.
fn give_back(
    mapping: &Mapping,
    folio: &LockedFolio,
    reserved: &[(Range<u64>, ReservedFork)],
) -> Result<()> {
    for (range, fork) in reserved {
        let (start, end) = (folio.offset_of(range.start), folio.offset_of(range.end));
        let blocks = Folio::blocks_touched(mapping.block_shift(), start, end);
        if folio.dirty_blocks() & blocks == 0 {
            mapping.ops().punch_delalloc(range.clone(), *fork)?;
        }
    }
    Ok(())
}
