//! The extents of a fork in memory, in order.

use alloc::vec::Vec;

use super::ranges::{Covers, Ranges};
use crate::xfs::buf::Run;
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::bmbt::Extent;
use crate::xfs::ondisk::{Check, ensure};
use crate::xfs::types::{FileBlock, FsBlock};

/// The extents of a fork, in order.
pub type ExtentList = Ranges<Extent>;

/// No extents at all.
pub static NO_EXTENTS: ExtentList = ExtentList::new();

impl Covers for Extent {
    fn offset(&self) -> FileBlock {
        self.offset
    }
    fn end(&self) -> FileBlock {
        Self::end(self)
    }
}

impl ExtentList {
    /// The records of all of them, as they lie in an inode.
    pub(in crate::xfs) fn encode(&self) -> Vec<u8> {
        self.iter().flat_map(Extent::encode).collect()
    }
    /// Where `count` file blocks from `start` lie on the device; nothing if all of them
    /// are a hole.
    ///
    /// # Errors
    /// Some are a hole and some are not.
    pub fn runs(
        &self,
        geometry: &Geometry,
        start: FileBlock,
        count: u64,
    ) -> Check<Option<Vec<Run>>> {
        let mut runs = Vec::new();
        let mut at = start.0;
        let end = start.0 + count;
        for extent in self.iter_from(start) {
            if extent.offset.0 >= end || extent.offset.0 > at {
                break;
            }
            let into = at - extent.offset.0;
            let blocks = (u64::from(extent.count) - into).min(end - at);
            runs.push(Run {
                sector: geometry.sector(FsBlock(extent.block.0 + into)),
                bytes: (blocks << geometry.block_log) as u32,
            });
            at += blocks;
            if at == end {
                return Ok(Some(runs));
            }
        }
        let touched = self.at_or_after(start).is_some_and(|extent| extent.offset.0 < end);
        ensure!(!touched, "file blocks {} to {end} are partly a hole", start.0);
        Ok(None)
    }
}
