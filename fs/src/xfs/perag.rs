//! The allocation groups as transactions see them: their locks, their headers.
//!
//! A transaction that changes a group's trees holds the group's lock until it commits:
//! whoever has it sees trees between operations only, and their blocks need no locks of
//! their own. `AGI` comes before `AGF`, groups in rising order.

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::{Mutex, MutexGuard};

use super::alloc::AgSpace;
use super::btree::Root;
use super::buf::Buffer;
use super::mount::Mount;
use super::ondisk::be32;
use super::ondisk::block::BlockKind;
use super::refcount::Unshared;
use super::trans::Trans;
use super::types::AgNumber;
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
    /// Blocks with one owner that may have two after a crash.
    pub(super) unshared: Unshared,
}

impl Perag {
    pub(super) fn all(count: u32) -> Vec<Self> {
        (0..count)
            .map(|_| Self {
                agi: Mutex::new(&AGI, ()),
                agf: Mutex::new(&AGF, ()),
                space: AgSpace::default(),
                unshared: Unshared::default(),
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
        self.mount().header_block(ag, kind)
    }
}

/// Where the AGF keeps the root of a tree that has blocks counted there.
pub(super) struct AgfTree {
    pub(super) root_at: usize,
    pub(super) levels_at: usize,
    pub(super) blocks_at: usize,
}

impl AgfTree {
    /// The root of a group's tree.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub(super) fn root(&self, tp: &mut Trans<'_>, ag: AgNumber) -> Result<Root> {
        let agf = tp.header(ag, BlockKind::Agf)?;
        let bytes = agf.read();
        let at = |offset| be32(&bytes, offset).unwrap_or(0);
        Ok(Root::Block { block: u64::from(at(self.root_at)), levels: at(self.levels_at) })
    }
    /// The root is another block now.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub(super) fn set_root(
        &self,
        tp: &mut Trans<'_>,
        ag: AgNumber,
        block: u64,
        levels: u32,
    ) -> Result<()> {
        let agf = tp.header(ag, BlockKind::Agf)?;
        let mut edit = tp.edit(&agf);
        edit.set_be32(self.root_at, block as u32);
        edit.set_be32(self.levels_at, levels);
        Ok(())
    }
    /// The tree got or lost blocks.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub(super) fn count(&self, tp: &mut Trans<'_>, ag: AgNumber, change: i32) -> Result<()> {
        let agf = tp.header(ag, BlockKind::Agf)?;
        let mut edit = tp.edit(&agf);
        let blocks = be32(&edit, self.blocks_at).unwrap_or(0).saturating_add_signed(change);
        edit.set_be32(self.blocks_at, blocks);
        Ok(())
    }
}
