//! Freed blocks that must not be used again yet, and what becomes of them: they leave the
//! list when the transaction that freed them is durable, and, if discard is on, after the
//! device was told to forget them.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::atomic::{AtomicBool, Ordering};
use holdfast_sync::{Mutex, WaitQueue};

use super::Use;
use crate::block::{Bio, BioFlags, Op, Plug};
use crate::locks::STATE;
use crate::xfs::log::item::CommitSeq;
use crate::xfs::mount::Mount;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber};

/// How far the freeing of an extent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The transaction with this number has not committed.
    Open(u64),
    /// Durable once this commit is.
    Committed(CommitSeq),
    /// The device is forgetting it.
    Discarding,
}

#[derive(Clone, Copy, Debug)]
struct Extent {
    count: u32,
    state: State,
    /// The device may be told: it was not a block of the space trees.
    discard: bool,
}

/// The busy extents of a group, by block.
#[derive(Default)]
pub(super) struct Extents {
    by_block: BTreeMap<u32, Extent>,
    next_id: u64,
    /// Nothing on the list is committed before this; nothing at all if there is none.
    oldest: Option<CommitSeq>,
}

impl Extents {
    /// What overlaps `count` blocks from `start` on, in order.
    fn overlapping(&self, start: u32, count: u32) -> impl Iterator<Item = (u32, Extent)> {
        let before = self.by_block.range(..start).next_back();
        let before = before.filter(move |(at, extent)| *at + extent.count > start);
        before.into_iter().chain(self.by_block.range(start..start + count)).map(|(at, e)| (*at, *e))
    }
    fn add(&mut self, start: u32, count: u32, discard: bool) -> u64 {
        self.next_id += 1;
        let extent = Extent { count, state: State::Open(self.next_id), discard };
        self.by_block.insert(start, extent);
        self.next_id
    }
    /// What transaction `id` freed is committed.
    fn commit(&mut self, start: u32, count: u32, id: u64, seq: CommitSeq) {
        for extent in self.by_block.range_mut(start..start + count).map(|(_, extent)| extent) {
            if extent.state == State::Open(id) {
                extent.state = State::Committed(seq);
            }
        }
        self.oldest = Some(self.oldest.map_or(seq, |oldest| oldest.min(seq)));
    }
    /// These blocks are in use again, as metadata.
    fn remove(&mut self, start: u32, count: u32) {
        let end = start + count;
        let hit: Vec<_> = self.overlapping(start, count).collect();
        for (at, extent) in hit {
            self.by_block.remove(&at);
            if at < start {
                self.by_block.insert(at, Extent { count: start - at, ..extent });
            }
            let extent_end = at + extent.count;
            if extent_end > end {
                self.by_block.insert(end, Extent { count: extent_end - end, ..extent });
            }
        }
    }
    /// Everything up to `durable` can be used again; but what the device is to forget
    /// first, which is handed back.
    fn settle(&mut self, durable: CommitSeq, discard: bool) -> Vec<(u32, u32)> {
        let mut forget = Vec::new();
        // The list can be long: it is gone through once a durable commit.
        if self.oldest.is_none_or(|oldest| oldest > durable) {
            return forget;
        }
        let mut oldest = None;
        self.by_block.retain(|start, extent| {
            let State::Committed(seq) = extent.state else { return true };
            if seq > durable {
                oldest = Some(oldest.map_or(seq, |oldest: CommitSeq| oldest.min(seq)));
                return true;
            }
            if discard && extent.discard {
                extent.state = State::Discarding;
                forget.push((*start, extent.count));
                return true;
            }
            false
        });
        self.oldest = oldest;
        forget
    }
    /// The longest part of an extent that can be used; how many blocks there were that
    /// cannot.
    pub(super) fn usable(&self, start: u32, count: u32, kind: Use) -> (u32, u32) {
        if self.by_block.is_empty() {
            return (start, count);
        }
        let end = start + count;
        let (mut at, mut best) = (start, (start, 0));
        for (busy, extent) in self.overlapping(start, count) {
            if kind == Use::Metadata && extent.state != State::Discarding {
                continue;
            }
            if busy > at && busy - at > best.1 {
                best = (at, busy - at);
            }
            at = (busy + extent.count).max(at);
        }
        if end > at && end - at > best.1 { (at, end - at) } else { best }
    }
    /// The first block of an extent that cannot be used, or its end.
    pub(super) fn first_in(&self, start: u32, count: u32, kind: Use) -> u32 {
        let unusable = |extent: &Extent| kind == Use::Data || extent.state == State::Discarding;
        let first = self.overlapping(start, count).find(|(_, extent)| unusable(extent));
        first.map_or(start + count, |(at, _)| at.max(start))
    }
    /// The newest commit that blocks wait for.
    fn newest(&self) -> Option<CommitSeq> {
        let seq = |extent: &Extent| match extent.state {
            State::Committed(seq) => Some(seq),
            _ => None,
        };
        self.by_block.values().filter_map(seq).max()
    }
    fn is_discarding(&self) -> bool {
        self.by_block.values().any(|extent| extent.state == State::Discarding)
    }
}

/// The busy extents of a group, shared with hooks and completions.
#[derive(Clone)]
pub(super) struct Busy {
    extents: Arc<Mutex<Extents>>,
    discard: Arc<AtomicBool>,
    /// A discard has ended.
    discarded: Arc<WaitQueue>,
}

impl Default for Busy {
    fn default() -> Self {
        Self {
            extents: Arc::new(Mutex::new(&STATE, Extents::default())),
            discard: Arc::new(AtomicBool::new(false)),
            discarded: Arc::new(WaitQueue::new()),
        }
    }
}

impl Busy {
    /// Blocks were freed by `tp`.
    pub(super) fn freed(&self, tp: &mut Trans<'_>, start: u32, count: u32, discard: bool) {
        let id = self.extents.lock().add(start, count, discard);
        let extents = self.extents.clone();
        tp.at_commit(move |seq| extents.lock().commit(start, count, id, seq));
    }
    /// Blocks are in use as metadata.
    pub(super) fn reused(&self, start: u32, count: u32) {
        let mut extents = self.extents.lock();
        if !extents.by_block.is_empty() {
            extents.remove(start, count);
        }
    }
    /// Look at the list.
    pub(super) fn with<T>(&self, look: impl FnOnce(&Extents) -> T) -> T {
        look(&self.extents.lock())
    }
    /// Drop what is durable by now from the list, or begin to discard it.
    pub(super) fn settle(&self, mount: &Mount, ag: AgNumber) {
        let Some(log) = mount.log() else { return };
        let discard = self.discard.load(Ordering::Relaxed);
        let forget = {
            let mut extents = self.extents.lock();
            if extents.by_block.is_empty() {
                return;
            }
            extents.settle(log.durable_seq(), discard)
        };
        if !forget.is_empty() {
            self.discard_all(mount, ag, &forget);
        }
    }
    fn discard_all(&self, mount: &Mount, ag: AgNumber, forget: &[(u32, u32)]) {
        let geometry = mount.geometry();
        let mut plug = Plug::new(mount.queue());
        for &(start, count) in forget {
            let (extents, discarded) = (self.extents.clone(), self.discarded.clone());
            // Whether the device did it or not, the blocks are free.
            let done = alloc::boxed::Box::new(move |_: core::result::Result<(), _>| {
                extents.lock().remove(start, count);
                discarded.wake_all();
            });
            plug.submit(Bio::without_data(
                Op::Discard,
                geometry.ag_sector(ag, AgBlock(start)),
                u64::from(count) << geometry.block_log,
                BioFlags::empty(),
                done,
            ));
        }
    }
    /// Is anything on the list that can leave it without a further commit? Then which
    /// commit has to be durable.
    fn waits_for(&self) -> Option<CommitSeq> {
        let extents = self.extents.lock();
        extents.newest().or_else(|| extents.is_discarding().then(CommitSeq::default))
    }
}

/// Make everything that was freed and committed usable. Was there anything?
///
/// # Errors
/// Shut down.
pub(super) fn flush(mount: &Mount) -> crate::Result<bool> {
    let Some(log) = mount.log() else { return Ok(false) };
    let waits = mount.perags.iter().filter_map(|perag| perag.space.busy.waits_for());
    let Some(seq) = waits.max() else { return Ok(false) };
    log.force(seq)?;
    for (ag, perag) in (0..).map(AgNumber).zip(&mount.perags) {
        perag.space.busy.settle(mount, ag);
    }
    for busy in mount.perags.iter().map(|perag| &perag.space.busy) {
        busy.discarded.wait_until(|| (!busy.with(Extents::is_discarding)).then_some(()));
    }
    Ok(true)
}

impl Mount {
    /// Tell the device which blocks are freed, if it wants to know. Off at first.
    pub fn set_discard(&self, on: bool) {
        let on = on && self.queue().info().discard;
        for perag in &self.perags {
            perag.space.busy.discard.store(on, Ordering::Relaxed);
        }
    }
    /// Begin to discard whatever was freed and is durable by now; nothing if that is off.
    pub fn discard_freed(&self) {
        for (ag, perag) in (0..).map(AgNumber).zip(&self.perags) {
            perag.space.busy.settle(self, ag);
        }
    }
}
