//! Deferred operations: work that follows a transaction and must not be lost.
//!
//! One transaction can change only so much. What has to follow is announced in it by an
//! *intent*; each operation then runs in a transaction of its own, which says *done*:
//!
//! ```text
//! T1  unmap an extent of a file            intent A: its reference goes
//! T2  count its references down            done A, intent B: it is free
//! T3  free it                              done B
//! ```
//!
//! A crash in between leaves an intent without its end in the log, and recovery goes on
//! from there. What an operation gives rise to runs before what was waiting already, so
//! that the order is the same as if each had been carried out at once.
//!
//! The operations are kept in the form in which intents have them on disk: what runs
//! now and what recovery finds are one.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use super::alloc::{self as space, Owner};
use super::inode_item::LockedInode;
use super::log::item::{Item, ItemKey, Lsn, Pushed};
use super::ondisk::log_intents::{self, Done, FreeExtent, Intent, MapExtent, PhysExtent};
use super::trans::Trans;
use super::types::{FsBlock, Ino};
use super::{ForkKind, bmap, refcount, rmap};
use crate::block::Plug;
use crate::error::Result;

/// Extents that one intent frees.
const FREES_IN_ONE: usize = 2;

/// An operation that runs after the transaction that asks for it.
#[derive(Clone, Debug)]
pub enum Deferred {
    /// Free blocks.
    Free {
        /// The first.
        block: FsBlock,
        /// How many.
        count: u32,
        /// Whose they were.
        owner: Owner,
    },
    /// Change the reverse mappings.
    Rmap(MapExtent),
    /// Change reference counts.
    Refcount(PhysExtent),
    /// Change the extents of a file.
    Bmap(MapExtent),
}

impl Deferred {
    /// Change the reverse mapping of an extent of a file; `operation` is one of
    /// [`log_intents::rmap`].
    pub fn rmap(
        operation: u32,
        ino: Ino,
        fork: ForkKind,
        extent: &super::ondisk::bmbt::Extent,
    ) -> Self {
        let flags = [log_intents::rmap::ATTR_FORK, log_intents::rmap::UNWRITTEN];
        Self::Rmap(map_extent(operation, ino, fork, extent, flags))
    }
    /// Change the references of blocks; `operation` is one of [`log_intents::refcount`].
    pub const fn refcount(operation: u32, start: FsBlock, blocks: u32) -> Self {
        Self::Refcount(PhysExtent { start, blocks, flags: operation })
    }
    /// Map or unmap an extent of a file; `operation` is one of [`log_intents::bmap`].
    pub fn bmap(
        operation: u32,
        ino: Ino,
        fork: ForkKind,
        extent: &super::ondisk::bmbt::Extent,
    ) -> Self {
        let flags = [log_intents::bmap::ATTR_FORK, log_intents::bmap::UNWRITTEN];
        Self::Bmap(map_extent(operation, ino, fork, extent, flags))
    }
    fn intent(group: &[Self]) -> Option<Intent> {
        Some(match group.first()? {
            Self::Free { .. } => Intent::Efi(frees(group)),
            Self::Rmap(extent) => Intent::Rui(vec![*extent]),
            Self::Refcount(extent) => Intent::Cui(vec![*extent]),
            Self::Bmap(extent) => Intent::Bui(vec![*extent]),
        })
    }
    fn done(group: &[Self]) -> Option<Done> {
        Some(match group.first()? {
            Self::Free { .. } => Done::Efd(frees(group)),
            Self::Rmap(_) => Done::Rud,
            Self::Refcount(_) => Done::Cud,
            Self::Bmap(_) => Done::Bud,
        })
    }
}

/// An extent of a file in an intent, with the intent's flags for attribute forks and for
/// extents that are unwritten.
fn map_extent(
    operation: u32,
    ino: Ino,
    fork: ForkKind,
    extent: &super::ondisk::bmbt::Extent,
    [attr_fork, unwritten]: [u32; 2],
) -> MapExtent {
    let mut flags = operation;
    if fork == ForkKind::Attr {
        flags |= attr_fork;
    }
    if extent.unwritten {
        flags |= unwritten;
    }
    MapExtent {
        owner: ino.0,
        start: extent.block,
        offset: extent.offset.0,
        blocks: extent.count,
        flags,
    }
}

fn frees(group: &[Deferred]) -> Vec<FreeExtent> {
    let extent = |op: &Deferred| match op {
        Deferred::Free { block, count, .. } => Some(FreeExtent { start: *block, blocks: *count }),
        _ => None,
    };
    group.iter().filter_map(extent).collect()
}

/// Operations under one intent.
struct Pending {
    intent: Arc<IntentItem>,
    ops: Vec<Deferred>,
}

/// Announce what the transaction deferred; in order.
fn announce(tp: &mut Trans<'_>) -> VecDeque<Pending> {
    let mut ops = core::mem::take(&mut tp.deferred);
    let mut pending = VecDeque::new();
    while let Some(first) = ops.pop_front() {
        let is_free = |op: &Deferred| matches!(op, Deferred::Free { .. });
        let mut group = vec![first];
        while is_free(&group[0]) && group.len() < FREES_IN_ONE && ops.front().is_some_and(is_free) {
            group.extend(ops.pop_front());
        }
        if let Some(intent) = Deferred::intent(&group) {
            pending.push_back(Pending { intent: tp.log_intent(&intent), ops: group });
        }
    }
    pending
}

/// Run everything that `tp` deferred, and what that defers.
///
/// # Errors
/// I/O errors, damage, shut down: the file system shuts down.
pub(super) fn finish(tp: &mut Trans<'_>, inodes: &mut [&mut LockedInode<'_>]) -> Result<()> {
    let pending = announce(tp);
    run(tp, pending, inodes)
}

/// Carry out intents that recovery found without their end.
///
/// # Errors
/// As [`finish`].
pub(super) fn resume(
    tp: &mut Trans<'_>,
    intent: Arc<IntentItem>,
    ops: Vec<Deferred>,
) -> Result<()> {
    let mut pending = VecDeque::new();
    pending.push_back(Pending { intent, ops });
    run(tp, pending, &mut [])
}

fn run(
    tp: &mut Trans<'_>,
    mut pending: VecDeque<Pending>,
    inodes: &mut [&mut LockedInode<'_>],
) -> Result<()> {
    while let Some(Pending { intent, mut ops }) = pending.pop_front() {
        tp.roll(inodes)?;
        announce_again(tp, &mut pending);
        if let Some(done) = Deferred::done(&ops) {
            tp.log_done(&intent, &done);
        }
        // Groups are locked in rising order.
        ops.sort_by_key(|op| match op {
            Deferred::Free { block, .. } => block.0,
            _ => 0,
        });
        for op in ops {
            if let Some(rest) = carry_out(tp, op, inodes)? {
                tp.deferred.push_front(rest);
            }
        }
        let mut fresh = announce(tp);
        fresh.append(&mut pending);
        pending = fresh;
    }
    Ok(())
}

/// Intents that have lain in the log for long hold its tail: announce them anew.
fn announce_again(tp: &mut Trans<'_>, pending: &mut VecDeque<Pending>) {
    for waiting in pending {
        let is_old = tp.mount().log().is_some_and(|log| log.is_old(&waiting.intent.key()));
        if !is_old {
            continue;
        }
        if let (Some(done), Some(intent)) =
            (Deferred::done(&waiting.ops), Deferred::intent(&waiting.ops))
        {
            tp.log_done(&waiting.intent, &done);
            waiting.intent = tp.log_intent(&intent);
        }
    }
}

/// Do it, or part of it: what is left is returned.
fn carry_out(
    tp: &mut Trans<'_>,
    op: Deferred,
    inodes: &mut [&mut LockedInode<'_>],
) -> Result<Option<Deferred>> {
    match op {
        Deferred::Free { block, count, owner } => {
            space::free_extent(tp, block, count, &owner).map(|()| None)
        }
        Deferred::Rmap(extent) => rmap::finish(tp, &extent).map(|()| None),
        Deferred::Refcount(extent) => Ok(refcount::finish(tp, &extent)?.map(Deferred::Refcount)),
        Deferred::Bmap(extent) => {
            let ino = Ino(extent.owner);
            let rest = match inodes.iter_mut().find(|inode| inode.ino() == ino) {
                Some(inode) => bmap::finish_deferred(tp, inode, &extent)?,
                None => {
                    let inode = tp.mount().arc().inode(ino)?;
                    let mut locked = inode.lock_exclusive();
                    let rest = bmap::finish_deferred(tp, &mut locked, &extent)?;
                    tp.log_inode(&mut locked);
                    rest
                }
            };
            Ok(rest.map(Deferred::Bmap))
        }
    }
}

/// An intent in the log: it stays in the AIL until its end is durable.
pub struct IntentItem {
    id: u64,
}

impl IntentItem {
    pub(super) fn new(id: u64) -> Arc<Self> {
        Arc::new(Self { id })
    }
    /// What its end names it by.
    pub const fn id(&self) -> u64 {
        self.id
    }
}

impl Item for IntentItem {
    fn key(&self) -> ItemKey {
        ItemKey::Intent(self.id)
    }
    fn pin(&self) {}
    fn unpin(&self) {}
    fn committed(&self, lsn: Lsn) -> Option<Lsn> {
        Some(lsn)
    }
    fn push(self: Arc<Self>, _: &mut Plug<'_>) -> Result<Pushed> {
        Ok(Pushed::Waiting)
    }
}
