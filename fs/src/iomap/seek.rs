//! Where data is: SEEK_DATA, SEEK_HOLE, and the extents of a file.

use super::{Iomap, MapKind, Purpose};
use crate::pagecache::{Folio, Mapping};
use crate::platform::PAGE_SHIFT;
use crate::{Error, Result};

/// One extent for a report (fiemap, bmap).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// What it is and where.
    pub map: Iomap,
    /// No extent follows.
    pub last: bool,
}

/// Tell `each` of the extents, holes included, that overlap bytes `pos..pos + len`, until
/// it returns false.
///
/// # Errors
/// I/O errors and corruption of the extent map.
pub fn extents(
    mapping: &Mapping,
    pos: u64,
    len: u64,
    each: &mut dyn FnMut(&Iomap) -> bool,
) -> Result<()> {
    let end = pos.saturating_add(len);
    let mut at = pos;
    while at < end {
        let map = mapping.ops().begin(at, end - at, Purpose::Read)?;
        if !map.contains(at) {
            return Err(Error::Io);
        }
        if !each(&map) {
            break;
        }
        // Behind the end of the file, too: what was preallocated there.
        at = map.end_bytes();
    }
    Ok(())
}

/// The first byte at or after `pos` that is data.
///
/// # Errors
/// [`Error::NoData`] beyond the last data or the end; I/O errors and corruption.
pub fn seek_data(mapping: &Mapping, pos: u64) -> Result<u64> {
    find(mapping, pos, true)?.ok_or(Error::NoData)
}

/// The first byte at or after `pos` that is in a hole; the end of the file is one.
///
/// # Errors
/// [`Error::NoData`] at or beyond the end; I/O errors and corruption.
pub fn seek_hole(mapping: &Mapping, pos: u64) -> Result<u64> {
    if pos >= mapping.size() {
        return Err(Error::NoData);
    }
    Ok(find(mapping, pos, false)?.unwrap_or(mapping.size()))
}

fn find(mapping: &Mapping, pos: u64, data: bool) -> Result<Option<u64>> {
    let size = mapping.size();
    let mut at = pos;
    while at < size {
        let map = mapping.ops().begin(at, size - at, Purpose::Read)?;
        if !map.contains(at) {
            return Err(Error::Io);
        }
        let end = map.end_bytes().min(size);
        let found = match map.kind {
            MapKind::Hole => (!data).then_some(at),
            MapKind::Written { .. } | MapKind::Delalloc => data.then_some(at),
            // Data that was stored but not converted yet is in the page cache.
            MapKind::Unwritten { .. } => find_cached(mapping, at, end, data),
        };
        if let Some(found) = found.filter(|f| *f < size) {
            return Ok(Some(found));
        }
        at = end;
    }
    Ok(None)
}

/// The first byte in `at..end` that is cached data, or that is not.
fn find_cached(mapping: &Mapping, mut at: u64, end: u64, data: bool) -> Option<u64> {
    let shift = mapping.block_shift();
    while at < end {
        let cached = mapping.find(at >> PAGE_SHIFT).is_some_and(|folio| {
            let offset = folio.offset_of(at);
            folio.uptodate_blocks() & Folio::blocks_touched(shift, offset, offset + 1) != 0
        });
        if cached == data {
            return Some(at);
        }
        at = (at | ((1 << shift) - 1)) + 1;
    }
    None
}
