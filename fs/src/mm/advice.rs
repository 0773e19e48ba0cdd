//! msync and madvise.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use super::area::{Area, Backing};
use super::space::{overlapping, page_range};
use super::{AddressSpace, MappedFile};
use crate::pagecache::Mapping;
use crate::platform::{PAGE_SHIFT, VirtAddr};
use crate::{Error, Result, iomap};

bitflags::bitflags! {
    /// What `msync` does: Linux's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct MsyncFlags: u32 {
        /// Nothing: writeback comes by itself.
        const ASYNC = 1;
        /// Other mappings see the stores: they do anyway.
        const INVALIDATE = 2;
        /// Make the stores durable.
        const SYNC = 4;
    }
}

/// What a program expects to do with memory, or with part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advice {
    /// Nothing special.
    Normal,
    /// Use it in no order.
    Random,
    /// Use it from front to back.
    Sequential,
    /// Use it soon.
    WillNeed,
    /// Not use it.
    DontNeed,
    /// Use it once.
    NoReuse,
}

/// Part of an open file.
struct Part {
    file: Arc<dyn MappedFile>,
    mapping: Arc<Mapping>,
    bytes: Range<u64>,
}

impl AddressSpace {
    /// Make stores into shared mappings of files durable.
    ///
    /// # Errors
    /// Invalid for bad flags or address; no memory if part of the range is not mapped
    /// (the rest is done first); a writeback error that the open file has not reported.
    pub fn msync(&self, addr: VirtAddr, len: usize, flags: MsyncFlags) -> Result<()> {
        if flags.contains(MsyncFlags::SYNC | MsyncFlags::ASYNC) {
            return Err(Error::Invalid("both MS_SYNC and MS_ASYNC"));
        }
        let pages = page_range(addr, len)?;
        let (parts, complete) = self.file_parts(pages, |area| area.shared);
        let mut result = Ok(());
        if flags.contains(MsyncFlags::SYNC) {
            // The lock is free again: a store into the range may fault meanwhile.
            for part in parts {
                result = result.and(part.file.sync_bytes(part.bytes));
            }
        }
        result.and(if complete { Ok(()) } else { Err(Error::NoMemory) })
    }
    /// Act on what a program expects.
    ///
    /// # Errors
    /// Invalid for a bad address; no memory if part of the range is not mapped.
    pub fn madvise(&self, addr: VirtAddr, len: usize, advice: Advice) -> Result<()> {
        let pages = page_range(addr, len)?;
        let (parts, complete) = self.file_parts(pages.clone(), |_| true);
        match advice {
            Advice::Normal | Advice::Random | Advice::Sequential | Advice::NoReuse => {}
            Advice::WillNeed => {
                for part in parts {
                    iomap::will_need(&part.mapping, part.bytes);
                }
            }
            Advice::DontNeed => {
                let areas = self.areas.write();
                for area in overlapping(&areas, pages.clone()) {
                    area.unmap_range(area.start.max(pages.start)..area.end.min(pages.end));
                }
            }
        }
        if complete { Ok(()) } else { Err(Error::NoMemory) }
    }
    /// The parts of files that `pages` map, and whether every page is mapped.
    fn file_parts(&self, pages: Range<u64>, wanted: impl Fn(&Area) -> bool) -> (Vec<Part>, bool) {
        let areas = self.areas.read();
        let mut parts = Vec::new();
        let mut next = pages.start;
        let mut complete = true;
        for area in overlapping(&areas, pages.clone()) {
            let (start, end) = (area.start.max(pages.start), area.end.min(pages.end));
            complete &= start == next;
            next = end;
            if let Backing::File { file, mapping, .. } = &area.backing
                && wanted(&area)
            {
                let bytes = area.key(start) << PAGE_SHIFT..area.key(end) << PAGE_SHIFT;
                parts.push(Part { file: file.clone(), mapping: mapping.clone(), bytes });
            }
        }
        (parts, complete && next >= pages.end)
    }
}
