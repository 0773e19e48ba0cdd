//! The AGFL: blocks set aside for the trees of space of a group.
//!
//! A tree that is in the middle of a change cannot ask the allocator, which would change
//! that very tree. So enough blocks for one change of all trees are taken before it.

use alloc::format;

use super::Owner;
use super::space::{Group, at};
use crate::error::Result;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::agf::{Agf, MAX_LEVELS};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::freesp::BySize;
use crate::xfs::ondisk::{agfl, be32};
use crate::xfs::rmap;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber};

/// Blocks that a tree with this many levels may take until the list is filled again:
/// once a split up to a new root, and once more while it is being filled.
const fn for_tree(levels: u32) -> u32 {
    let levels = if levels < MAX_LEVELS { levels + 1 } else { levels };
    levels * 2 - 2
}

/// Blocks the list should hold.
pub(super) fn needed(agf: &Agf) -> u32 {
    let rmapbt = agf.rmapbt.map_or(0, |root| for_tree(root.levels));
    for_tree(agf.bnobt.levels) + for_tree(agf.cntbt.levels) + rmapbt
}

/// Blocks the list needs when nothing else is free. The trees of free space are as low as
/// can be then; one of reverse mappings may have this many levels.
pub(super) fn needed_at_end(rmapbt_levels: Option<u32>) -> u32 {
    2 * for_tree(1) + rmapbt_levels.map_or(0, for_tree)
}

impl Group {
    /// Blocks the list should hold now.
    pub(super) fn needed(&self, tp: &Trans<'_>) -> u32 {
        let has_rmapbt = crate::xfs::rmap::enabled(tp);
        let bytes = self.agf.read();
        let tree = |offset| for_tree(be32(&bytes, offset).unwrap_or(0));
        let rmapbt = if has_rmapbt { tree(at::RMAP_LEVELS) } else { 0 };
        tree(at::BNO_LEVELS) + tree(at::CNT_LEVELS) + rmapbt
    }
    /// Bring the list to the length it needs. Was anything changed?
    pub(super) fn fix_list(&self, tp: &mut Trans<'_>) -> Result<bool> {
        let mut changed = false;
        while self.get(at::LIST_COUNT) > self.needed(tp) {
            self.trim(tp)?;
            changed = true;
        }
        while self.get(at::LIST_COUNT) < self.needed(tp) {
            let wanted = self.needed(tp) - self.get(at::LIST_COUNT);
            if !self.extend(tp, wanted)? {
                break;
            }
            changed = true;
        }
        Ok(changed)
    }
    /// Free the first block of the list.
    fn trim(&self, tp: &mut Trans<'_>) -> Result<()> {
        let Some(block) = self.pop(tp)? else { return Ok(()) };
        rmap::remove_owner(tp, self.ag, block, 1, &Owner::Ag)?;
        self.give(tp, block.0, 1)?;
        // A block of a tree until lately: data must not be written to it before the tree
        // without it is durable.
        self.space(tp.mount()).busy.freed(tp, block.0, 1, false);
        Ok(())
    }
    /// Put up to `wanted` free blocks on the list. Were there any?
    fn extend(&self, tp: &mut Trans<'_>, wanted: u32) -> Result<bool> {
        let mut by_size = self.by_size();
        // What suffices, or else the longest.
        if !by_size.lookup_ge(tp, &(wanted, 0))? && !by_size.last(tp)? {
            return Ok(false);
        }
        let busy = &self.space(tp.mount()).busy;
        let mut found = None;
        while let Some(BySize(extent)) = by_size.get(tp)? {
            let extent = self.check(tp, extent)?;
            let usable = busy.with(|b| b.usable(extent.start, extent.count, super::Use::Metadata));
            if usable.1 > 0 {
                found = Some((extent, usable.0, usable.1.min(wanted)));
                break;
            }
            if !by_size.previous(tp)? {
                break;
            }
        }
        let Some((extent, start, count)) = found else { return Ok(false) };
        self.take(tp, extent, start, count, None)?;
        busy.reused(start, count);
        rmap::insert_owner(tp, self.ag, AgBlock(start), count, &Owner::Ag)?;
        for block in start..start + count {
            self.push(tp, AgBlock(block))?;
        }
        Ok(true)
    }
    fn slots(&self, tp: &Trans<'_>) -> u32 {
        agfl::slots(tp.mount().geometry())
    }
    /// Take the first block off the list.
    fn pop(&self, tp: &mut Trans<'_>) -> Result<Option<AgBlock>> {
        let count = self.get(at::LIST_COUNT);
        if count == 0 {
            return Ok(None);
        }
        let first = self.get(at::LIST_FIRST);
        let list = tp.header(self.ag, BlockKind::Agfl)?;
        let block = be32(&list.read(), agfl::View::SIZE + first as usize * 4).unwrap_or(u32::MAX);
        if !tp.mount().geometry().has_ag_block(self.ag, AgBlock(block)) {
            let reason = format!("slot {first} holds block {block}, which does not exist");
            return Err(self.damage("AGFL", reason).into());
        }
        self.set(tp, at::LIST_FIRST, (first + 1) % self.slots(tp));
        self.set(tp, at::LIST_COUNT, count - 1);
        Ok(Some(AgBlock(block)))
    }
    /// Put a block at the end of the list.
    fn push(&self, tp: &mut Trans<'_>, block: AgBlock) -> Result<()> {
        let (count, slots) = (self.get(at::LIST_COUNT), self.slots(tp));
        if count >= slots {
            return Err(self.damage("AGFL", format!("all {slots} slots are in use")).into());
        }
        let last = (self.get(at::LIST_LAST) + 1) % slots;
        let list = tp.header(self.ag, BlockKind::Agfl)?;
        tp.edit(&list).set_be32(agfl::View::SIZE + last as usize * 4, block.0);
        self.set(tp, at::LIST_LAST, last);
        self.set(tp, at::LIST_COUNT, count + 1);
        Ok(())
    }
    fn count_tree_blocks(&self, tp: &mut Trans<'_>, change: i32) -> Result<()> {
        let blocks = self.get(at::BTREE_BLOCKS);
        let Some(blocks) = blocks.checked_add_signed(change) else {
            return Err(self.damage("AGF", "fewer than no blocks in its trees".into()).into());
        };
        self.set(tp, at::BTREE_BLOCKS, blocks);
        Ok(())
    }
}

/// Take a block for a tree of space of a group that is locked.
///
/// # Errors
/// I/O errors and damage.
pub fn take(tp: &mut Trans<'_>, ag: AgNumber) -> Result<Option<AgBlock>> {
    let group = Group::open(tp, ag)?;
    let Some(block) = group.pop(tp)? else { return Ok(None) };
    group.count_tree_blocks(tp, 1)?;
    Ok(Some(block))
}

/// Give a block of a tree of space back.
///
/// # Errors
/// I/O errors and damage.
pub fn give(tp: &mut Trans<'_>, ag: AgNumber, block: AgBlock) -> Result<()> {
    let group = Group::open(tp, ag)?;
    group.push(tp, block)?;
    group.count_tree_blocks(tp, -1)
}

/// See to it that the list of a locked group has enough blocks for one change of each
/// tree.
///
/// # Errors
/// I/O errors and damage; no space, which what is kept back should prevent.
pub fn fill(tp: &mut Trans<'_>, ag: AgNumber) -> Result<()> {
    let group = Group::open(tp, ag)?;
    group.fix_list(tp)?;
    group.publish_changes(tp);
    Ok(())
}

/// Is the list in use not as long as its ends say? Programs that took the list for one
/// slot shorter or longer than it is left such lists behind when the ring had gone round.
fn is_torn(bytes: &[u8], slots: u32) -> bool {
    let get = |offset| be32(bytes, offset).unwrap_or(0);
    let (first, last) = (get(at::LIST_FIRST), get(at::LIST_LAST));
    let count = get(at::LIST_COUNT);
    if first >= slots || last >= slots || count > slots {
        return true;
    }
    let used = if last >= first { last - first + 1 } else { slots - first + last + 1 };
    count != used && (count != 0 || used != slots)
}

/// A list whose ends do not fit its length cannot be trusted: start an empty one. The
/// blocks in the old one, so many, are lost until xfs_repair finds them.
///
/// # Errors
/// I/O errors, shut down.
fn mend_list(mount: &Mount, ag: AgNumber) -> Result<u32> {
    let slots = agfl::slots(mount.geometry());
    let agf = mount.header_block(ag, BlockKind::Agf)?;
    if !is_torn(&agf.read(), slots) {
        return Ok(0);
    }
    let lost = be32(&agf.read(), at::LIST_COUNT).unwrap_or(0).min(slots);
    log::warn!(
        "xfs: the AGFL of AG {} does not have the length that its ends say; it is started \
         anew, its {lost} blocks are lost until xfs_repair is run",
        ag.0
    );
    let mut tp = mount.begin(mount.reservations().superblock, 0)?;
    tp.lock_agf(ag);
    let mut edit = tp.edit(&agf);
    edit.set_be32(at::LIST_FIRST, 0);
    edit.set_be32(at::LIST_LAST, slots - 1);
    edit.set_be32(at::LIST_COUNT, 0);
    drop(edit);
    tp.commit(&mut [])?;
    Ok(lost)
}

/// Mend all groups' lists, before anybody reads their AGFs; how many blocks were lost.
///
/// # Errors
/// As mending one.
pub fn mend(mount: &Mount) -> Result<u64> {
    let groups = (0..mount.geometry().ag_count).map(AgNumber);
    groups.map(|ag| mend_list(mount, ag).map(u64::from)).sum()
}
