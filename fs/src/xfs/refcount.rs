//! Reference counts: which blocks are shared, which are staged for copy on write.
//!
//! The tree of a group lists runs of blocks with two owners or more; a block in use that
//! is not listed has one. Blocks that wait for the data of a copy on write are listed
//! apart, with a count of one, so that recovery finds them after a crash.
//!
//! A change takes the records that a run of blocks touches out of the tree, changes them
//! in memory, joins neighbours that have become equal (`xfs_repair` insists on that) and
//! puts back what differs. It covers as much of the run as a few records allow; the rest
//! is left for the next transaction.
//!
//! A block stops being shared when that is logged, not when it is durable. Were its last
//! owner to write to it in place at once, this could happen:
//!
//! ```text
//! unlink one owner    committed, in memory
//!                     write the other: not shared, in place, durable
//! power cut           the log does not have the unlink: the first owner is back,
//!                     with the other's bytes
//! ```
//!
//! So `Unshared` remembers such blocks until that is durable, and whoever is to write to
//! one of them makes it so first: one force of the log for all that were unshared before.
//!
//! Owns: the records, the list of blocks just unshared. Does not own: the tree's blocks
//! (alloc). Locks: the group's AGF, held by the transaction; the list has a lock of its own
//! (`STATE`).

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_sync::Mutex;

use super::alloc::{self as space, Owner, freelist};
use super::btree::{Cursor, Pointers, Root, Shape};
use super::defer::Deferred;
use super::log::item::CommitSeq;
use super::mount::Mount;
use super::ondisk::block::BlockKind;
use super::ondisk::btree::Record;
use super::ondisk::log_intents::{MapExtent, PhysExtent, refcount as operation, rmap};
use super::ondisk::refcountbt::{COW, Refcount};
use super::ondisk::rmapbt::owner;
use super::perag::AgfTree;
use super::trans::Trans;
use super::types::{AgBlock, AgNumber, FsBlock};
use crate::error::{Corruption, Error, Result};
use crate::locks::STATE;

/// Where the AGF keeps the tree.
const IN_AGF: AgfTree = AgfTree { root_at: 88, levels_at: 92, blocks_at: 84 };
/// Records that one transaction changes.
const MOST_RECORDS: usize = 4;
/// Runs that a group remembers apart; more are remembered as all of it.
const MOST_UNSHARED: usize = 256;

/// Blocks of a group that stopped being shared, each run with the commit that did it.
pub(super) struct Unshared(Arc<Mutex<Vec<(u32, u32, CommitSeq)>>>);

impl Default for Unshared {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(&STATE, Vec::new())))
    }
}

impl Unshared {
    /// These blocks, up to `end`, have one owner when the transaction is committed.
    fn note(&self, tp: &mut Trans<'_>, start: u32, end: u32) {
        let list = self.0.clone();
        // The group stays locked until this was called.
        tp.at_commit(move |seq| {
            let mut list = list.lock();
            if list.len() < MOST_UNSHARED {
                list.push((start, end, seq));
            } else {
                *list = vec![(0, u32::MAX, seq)];
            }
        });
    }
    /// Up to which commit the log has to be durable before these blocks, up to `end`, are
    /// written in place; nothing if it is.
    fn waits_for(&self, durable: CommitSeq, start: u32, end: u32) -> Option<CommitSeq> {
        let mut list = self.0.lock();
        // Commits come in order.
        if list.last().is_some_and(|last| last.2 <= durable) {
            list.clear();
        }
        let touched = list.iter().filter(|run| run.0 < end && start < run.1);
        touched.map(|run| run.2).max().filter(|seq| *seq > durable)
    }
}

impl Mount {
    /// See that these blocks, which are not shared, cannot be shared after a crash either:
    /// wait until the log says so. Nothing is read, and mostly there is nothing to wait for.
    ///
    /// # Errors
    /// Shut down.
    pub(super) fn settle_unshared(&self, block: FsBlock, count: u32) -> Result<()> {
        let (ag, start) = self.geometry().split(block);
        let (Some(log), Some(perag)) = (self.log(), self.perags.get(ag.0 as usize)) else {
            return Ok(());
        };
        match perag.unshared.waits_for(log.durable_seq(), start.0, start.0 + count) {
            Some(seq) => log.force(seq),
            None => Ok(()),
        }
    }
}

/// The tree of a group.
struct Tree {
    ag: AgNumber,
}

impl Shape for Tree {
    type Record = Refcount;
    const POINTERS: Pointers = Pointers::Short;
    fn kind(&self) -> BlockKind {
        BlockKind::Refcountbt
    }
    fn owner(&self) -> u64 {
        u64::from(self.ag.0)
    }
    fn root(&self, tp: &mut Trans<'_>) -> Result<Root> {
        IN_AGF.root(tp, self.ag)
    }
    fn set_root(&mut self, tp: &mut Trans<'_>, block: u64, levels: u32) -> Result<()> {
        IN_AGF.set_root(tp, self.ag, block, levels)
    }
    fn allocate(&mut self, tp: &mut Trans<'_>, near: u64) -> Result<Option<u64>> {
        let block = space::allocate_tree_block(tp, self.ag, near, &Owner::Refcountbt)?;
        if block.is_some() {
            IN_AGF.count(tp, self.ag, 1)?;
        }
        Ok(block)
    }
    fn free(&mut self, tp: &mut Trans<'_>, block: u64) -> Result<()> {
        space::free_tree_block(tp, self.ag, block, &Owner::Refcountbt)?;
        IN_AGF.count(tp, self.ag, -1)
    }
}

/// A change of a run of blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Change {
    start: u32,
    end: u32,
    cow: bool,
    up: bool,
}

impl Change {
    /// References of a block that is not listed.
    const fn unlisted(self) -> u32 {
        if self.cow { 0 } else { 1 }
    }
}

/// Carry out a deferred change; what is left of it.
///
/// # Errors
/// I/O errors and damage.
pub fn finish(tp: &mut Trans<'_>, extent: &PhysExtent) -> Result<Option<PhysExtent>> {
    let (ag, start) = tp.mount().geometry().split(extent.start);
    tp.lock_agf(ag);
    freelist::fill(tp, ag)?;
    let (cow, up) = match extent.flags & operation::OPERATION {
        operation::INCREASE => (false, true),
        operation::DECREASE => (false, false),
        operation::ALLOC_COW => (true, true),
        operation::FREE_COW => (true, false),
        _ => return Err(damage(ag, start.0, "an unknown operation")),
    };
    let change = Change { start: start.0, end: start.0 + extent.blocks, cow, up };
    let done_to = apply(tp, ag, change)?;
    let blocks = change.end - done_to;
    let next = FsBlock(extent.start.0 + u64::from(done_to - change.start));
    Ok((blocks > 0).then_some(PhysExtent { start: next, blocks, flags: extent.flags }))
}

fn damage(ag: AgNumber, block: u32, reason: &str) -> Error {
    Corruption {
        structure: "refcountbt",
        location: alloc::format!("AG {} block {block}", ag.0),
        reason: reason.into(),
    }
    .into()
}

/// Change references from the start on; up to where that was done.
fn apply(tp: &mut Trans<'_>, ag: AgNumber, wanted: Change) -> Result<u32> {
    let mut cursor = Cursor::new(Tree { ag });
    let old = gather(tp, &mut cursor, wanted)?;
    let mut change = wanted;
    if old.len() > MOST_RECORDS {
        // As far as the record before the last: the last one is only looked at.
        change.end = old[MOST_RECORDS - 1].end().clamp(change.start + 1, change.end);
    }
    let (new, freed) = changed(&old, change)
        .ok_or_else(|| damage(ag, change.start, "blocks staged for copy on write are not"))?;
    replace(tp, &mut cursor, &old, &new)?;
    if !change.up && !change.cow {
        for run in old.iter().filter(|run| run.references == 2) {
            let (start, end) = (run.start.max(change.start), run.end().min(change.end));
            if start < end {
                tp.mount().perags[ag.0 as usize].unshared.note(tp, start, end);
            }
        }
    }
    for (start, end) in freed {
        let block = tp.mount().geometry().fs_block(ag, AgBlock(start));
        tp.defer(Deferred::Free { block, count: end - start, owner: Owner::Skip });
    }
    Ok(change.end)
}

/// The records that touch the run, a few of them.
fn gather(tp: &mut Trans<'_>, cursor: &mut Cursor<Tree>, change: Change) -> Result<Vec<Refcount>> {
    // The record in front is looked at too: it may be joined.
    let key = change.start.saturating_sub(1) | if change.cow { COW } else { 0 };
    let mut records = Vec::new();
    let mut there = cursor.lookup_le(tp, &key)? || cursor.lookup_ge(tp, &key)?;
    while there {
        let Some(record) = cursor.get(tp)? else { break };
        let behind = record.cow == change.cow && record.start > change.end;
        if behind || record.cow && !change.cow || records.len() > MOST_RECORDS {
            break;
        }
        if record.cow == change.cow && record.end() >= change.start {
            records.push(record);
        }
        there = cursor.next(tp)?;
    }
    Ok(records)
}

type Freed = Vec<(u32, u32)>;

/// What the records become, and which blocks have no owner any more. Nothing if there is
/// less than nothing left of some.
fn changed(old: &[Refcount], change: Change) -> Option<(Vec<Refcount>, Freed)> {
    // Start, end and references of each piece, in the run and around it.
    let mut pieces = Vec::new();
    let mut at = change.start;
    for record in old {
        pieces.push((record.start, record.end().min(change.start), record.references));
        let (from, to) = (record.start.max(change.start), record.end().min(change.end));
        if from < to {
            pieces.push((at, from, adjusted(change, change.unlisted(), at < from)?));
            pieces.push((from, to, adjusted(change, record.references, true)?));
            at = to;
        }
        pieces.push((record.start.max(change.end), record.end(), record.references));
    }
    let rest = at < change.end;
    pieces.push((at, change.end, adjusted(change, change.unlisted(), rest)?));
    pieces.retain(|(start, end, _)| start < end);
    pieces.sort_unstable_by_key(|(start, ..)| *start);
    let mut new: Vec<Refcount> = Vec::new();
    let mut freed = Freed::new();
    for (start, end, references) in pieces {
        if references == 0 && !change.cow {
            freed.push((start, end));
        } else if references != change.unlisted() {
            match new.last_mut() {
                Some(last) if last.end() == start && last.references == references => {
                    last.count += end - start;
                }
                _ => new.push(Refcount { cow: change.cow, start, count: end - start, references }),
            }
        }
    }
    Some((new, freed))
}

/// References after the change; nothing if there cannot be that many or few. Of no
/// blocks at all, whatever is wanted.
const fn adjusted(change: Change, references: u32, any: bool) -> Option<u32> {
    match (change.up, change.cow) {
        _ if !any => Some(references),
        // A count that cannot rise any more stays for ever.
        (_, false) if references == u32::MAX => Some(references),
        (true, true) if references > 0 => None,
        (true, _) => Some(references + 1),
        (false, _) => references.checked_sub(1),
    }
}

/// Put the new records in the place of the old ones.
fn replace(
    tp: &mut Trans<'_>,
    cursor: &mut Cursor<Tree>,
    old: &[Refcount],
    new: &[Refcount],
) -> Result<()> {
    let ag = cursor.shape().ag;
    for record in old {
        let kept = new.iter().find(|n| n.key() == record.key());
        if kept == Some(record) {
            continue;
        }
        if !cursor.lookup_eq(tp, &record.key())? {
            return Err(damage(ag, record.start, "a record is not where it was"));
        }
        match kept {
            // Longer ones wait until what they now cover is gone.
            Some(kept) => cursor.update(tp, kept)?,
            None => cursor.delete(tp)?,
        }
    }
    for record in new.iter().filter(|n| !old.iter().any(|o| o.key() == n.key())) {
        cursor.insert(tp, record)?;
    }
    Ok(())
}

/// Note that blocks are staged for copy on write; in transactions of their own.
pub(super) fn stage_cow(tp: &mut Trans<'_>, start: FsBlock, blocks: u32) {
    tp.defer(Deferred::refcount(operation::ALLOC_COW, start, blocks));
    if super::rmap::enabled(tp) {
        tp.defer(Deferred::Rmap(cow_owner(start, blocks, rmap::ALLOC)));
    }
}

/// Note that blocks are no longer staged for copy on write.
pub(super) fn unstage_cow(tp: &mut Trans<'_>, start: FsBlock, blocks: u32) {
    if super::rmap::enabled(tp) {
        tp.defer(Deferred::Rmap(cow_owner(start, blocks, rmap::FREE)));
    }
    tp.defer(Deferred::refcount(operation::FREE_COW, start, blocks));
}

const fn cow_owner(start: FsBlock, blocks: u32, flags: u32) -> MapExtent {
    MapExtent { owner: owner::COW, start, offset: 0, blocks, flags }
}

/// Free what a crash left staged for copy on write: its data never arrived.
///
/// # Errors
/// I/O errors and damage; shut down.
pub(super) fn free_leftovers(mount: &Mount) -> Result<u64> {
    let mut freed = 0;
    for ag in (0..mount.geometry().ag_count).map(AgNumber) {
        let mut staged = vec![];
        {
            let _space = mount.lock_agf(ag);
            mount.reference_counts(ag, None, &mut |run| {
                if run.cow {
                    staged.push((run.start, run.count));
                }
                true
            })?;
        }
        for (start, count) in staged {
            let mut tp = mount.begin(mount.reservations().truncate, 0)?;
            let block = mount.geometry().fs_block(ag, AgBlock(start));
            unstage_cow(&mut tp, block, count);
            tp.defer(Deferred::Free { block, count, owner: Owner::Skip });
            tp.commit(&mut [])?;
            freed += u64::from(count);
        }
    }
    Ok(freed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(start: u32, count: u32, references: u32) -> Refcount {
        Refcount { cow: false, start, count, references }
    }
    fn up(start: u32, end: u32) -> Change {
        Change { start, end, cow: false, up: true }
    }

    #[test]
    fn neighbours_that_become_equal_are_joined() {
        let old = [run(10, 5, 2), run(20, 5, 3)];
        let (new, freed) = changed(&old, up(15, 20)).expect("possible");
        assert_eq!(new, [run(10, 10, 2), run(20, 5, 3)]);
        assert!(freed.is_empty());
        let (new, _) = changed(&new, up(10, 20)).expect("possible");
        assert_eq!(new, [run(10, 15, 3)]);
    }

    #[test]
    fn what_nobody_owns_is_freed() {
        let down = Change { up: false, ..up(8, 24) };
        let (new, freed) = changed(&[run(10, 5, 2), run(20, 8, 3)], down).expect("possible");
        assert_eq!(new, [run(20, 4, 2), run(24, 4, 3)]);
        assert_eq!(freed, [(8, 10), (15, 20)]);
    }

    #[test]
    fn every_change_equals_one_of_counts_for_each_block() {
        let mut counts = [1_u32; 64];
        let mut records: Vec<Refcount> = Vec::new();
        let mut random = 12345_u64;
        for _ in 0..5000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let start = (random >> 33) as u32 % 60;
            let end = start + 1 + (random >> 43) as u32 % (63 - start);
            let range = start as usize..end as usize;
            let up = random >> 60 & 1 == 0 || counts[range.clone()].iter().any(|c| *c < 2);
            let up = up && counts.iter().all(|c| *c < 9);
            if !up && counts[range.clone()].iter().any(|c| *c < 2) {
                continue;
            }
            counts[range].iter_mut().for_each(|c| if up { *c += 1 } else { *c -= 1 });
            let change = Change { start, end, cow: false, up };
            let touched = |r: &Refcount| r.end() >= start && r.start <= end;
            let old: Vec<_> = records.iter().copied().filter(touched).collect();
            let (new, freed) = changed(&old, change).expect("possible");
            assert!(freed.is_empty());
            records.retain(|r| !touched(r));
            records.extend(new);
            records.sort_by_key(|r| r.start);
            for (block, count) in counts.iter().enumerate() {
                let block = block as u32;
                let listed = records.iter().find(|r| r.start <= block && block < r.end());
                assert_eq!(listed.map_or(1, |r| r.references), *count);
            }
            let equal =
                |w: &[Refcount]| w[0].end() == w[1].start && w[0].references == w[1].references;
            assert!(!records.windows(2).any(equal), "{records:?}");
        }
    }
}
