//! The locks of the allocation groups.
//!
//! A transaction that changes a group's trees holds the group's lock until it commits:
//! whoever has it sees trees between operations only, and their blocks need no locks of
//! their own. `AGI` comes before `AGF`, groups in rising order.

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::{Mutex, MutexGuard};

use super::alloc::AgSpace;
use super::buf::Buffer;
use super::mount::Mount;
use super::ondisk::block::BlockKind;
use super::trans::Trans;
use super::types::{AgBlock, AgNumber};
use crate::block::{SECTOR_SIZE, Sector};
use crate::error::Result;
use crate::locks::{AGF, AGI};

/// One group's locks.
pub(super) struct Perag {
    /// AGI, inode trees, links of unlinked lists.
    pub(super) agi: Mutex<()>,
    /// AGF, AGFL, trees of space.
    pub(super) agf: Mutex<()>,
    /// What is known of its space without looking.
    pub(super) space: AgSpace,
}

impl Perag {
    pub(super) fn all(count: u32) -> Vec<Self> {
        (0..count)
            .map(|_| Self {
                agi: Mutex::new(&AGI, ()),
                agf: Mutex::new(&AGF, ()),
                space: AgSpace::default(),
            })
            .collect()
    }
}

impl Mount {
    /// Keep a group's trees of space as they are, to read them.
    ///
    /// # Panics
    /// There is no such group.
    pub(super) fn lock_agf(&self, ag: AgNumber) -> MutexGuard<'_, ()> {
        self.perags[ag.0 as usize].agf.lock()
    }
    /// Keep a group's inode trees as they are, to read them.
    ///
    /// # Panics
    /// There is no such group.
    pub(super) fn lock_agi(&self, ag: AgNumber) -> MutexGuard<'_, ()> {
        self.perags[ag.0 as usize].agi.lock()
    }
}

impl Trans<'_> {
    /// The block of a group's AGF, AGI or AGFL.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub(super) fn header(&mut self, ag: AgNumber, kind: BlockKind) -> Result<Arc<Buffer>> {
        let geometry = self.mount().geometry();
        let bytes = geometry.sector_bytes() as u32;
        let index = match kind {
            BlockKind::Agf => 1,
            BlockKind::Agi => 2,
            _ => 3,
        };
        let start = geometry.ag_sector(ag, AgBlock(0));
        let sector = Sector(start.0 + index * u64::from(bytes) / SECTOR_SIZE);
        self.read(sector, bytes, kind)
    }
}
