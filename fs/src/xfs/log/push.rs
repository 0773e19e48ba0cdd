//! Moving the tail: items are written in place, oldest first; the log's thread.
//!
//! A round of pushing looks at the items up to some position. Those that are pinned get a
//! log force afterwards, those that are locked are tried again in the next round, intents
//! wait for their end. When enough has been written that the tail could move, and somebody
//! waits for space, a checkpoint states the new tail: one without items if need be.
//!
//! A log is covered when nothing has to be replayed: the newest checkpoint is its own
//! tail, and what it logs is in place too. Some while after the last change the log's
//! thread does that, so that a crash of an idle machine costs nothing at the next mount.

use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::atomic::Ordering;
use holdfast_sync::check;
use holdfast_sync::thread::{self, JoinHandle, Priority, spawn};
use holdfast_sync::time::now_ns;

use super::Log;
use super::ail::Spot;
use super::item::{CommitSeq, Item, Journal, Lsn, Pushed};
use crate::block::Plug;
use crate::error::{Error, Result};
use crate::locks;

/// Items taken from the AIL at once.
const BATCH: usize = 128;
/// The longest wait for an item to get unlocked or written.
const RETRY_NS: u64 = 10_000_000;
/// Items written in place at once where the cache of blocks has no room.
const ROOM_BATCH: u64 = 512;
/// How often the thread looks whether there is anything to do.
pub(super) const INTERVAL_NS: u64 = 30_000_000_000;

/// What a round of pushing found.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    submitted: u64,
    in_flight: u64,
    pinned: u64,
    locked: u64,
    waiting: u64,
}

impl Round {
    fn note(&mut self, pushed: Pushed) {
        *match pushed {
            Pushed::Submitted => &mut self.submitted,
            Pushed::InFlight => &mut self.in_flight,
            Pushed::Pinned => &mut self.pinned,
            Pushed::Locked => &mut self.locked,
            Pushed::Waiting => &mut self.waiting,
        } += 1;
    }
}

/// What an idle log is covered with: logs the superblock, or the like.
pub type Cover = dyn Fn() -> Result<CommitSeq> + Send + Sync;

impl Log {
    /// Push items up to position `upto`, once.
    fn push_round(&self, upto: Lsn) -> Result<Round> {
        self.push_some(upto, u64::MAX)
    }
    /// Push items up to position `upto`, once, until `most` or more are on their way.
    fn push_some(&self, upto: Lsn, most: u64) -> Result<Round> {
        let mut round = Round::default();
        let mut after: Option<Spot> = None;
        let mut batch: Vec<(Spot, Arc<dyn Item>)> = Vec::with_capacity(BATCH);
        while round.submitted + round.in_flight < most {
            self.ail.batch(after, upto, BATCH, &mut batch);
            let Some((last, _)) = batch.last() else { break };
            after = Some(*last);
            let mut plug = Plug::new(&self.queue);
            for (_, item) in batch.drain(..) {
                if self.is_shut_down() {
                    return Err(Error::Shutdown);
                }
                match item.push(&mut plug) {
                    Ok(pushed) => round.note(pushed),
                    // Memory comes back as writes end.
                    Err(Error::NoMemory) => round.note(Pushed::Locked),
                    Err(e) => {
                        self.shut_down(&alloc::format!("metadata cannot be written: {e}"));
                        return Err(Error::Shutdown);
                    }
                }
            }
        }
        self.counters.pushed(round.submitted);
        Ok(round)
    }
    /// Push everything: the AIL is empty when this returns, and nothing is in the CIL
    /// that was committed before.
    ///
    /// # Errors
    /// The log was shut down; an operation was abandoned half way.
    pub fn push_all(&self) -> Result<()> {
        loop {
            self.force_all()?;
            let before = self.ail.departures();
            let round = self.push_round(Lsn(u64::MAX))?;
            if self.ail.len() == 0 {
                return if self.is_shut_down() { Err(Error::Shutdown) } else { Ok(()) };
            }
            let pending = round.submitted + round.in_flight + round.pinned + round.locked;
            if pending == 0 && round.waiting > 0 && !self.space.has_tickets() {
                self.shut_down("operations were not finished, and nobody works on them");
                return Err(Error::Shutdown);
            }
            self.wait_for_departures(before);
        }
    }
    /// Write items in place, the oldest first, while what is in memory of them leaves no
    /// room and can be written. May be called with inodes locked that were logged in the
    /// step before: nothing is waited for but the device and the log's writer.
    ///
    /// # Errors
    /// The log was shut down.
    pub fn make_room(&self, has_no_room: impl Fn() -> bool) -> Result<()> {
        check::before(&locks::LOG_PUSH);
        let mut forced = false;
        while has_no_room() {
            let before = self.ail.departures();
            let round = self.push_some(Lsn(u64::MAX), ROOM_BATCH)?;
            if round.submitted + round.in_flight > 0 {
                self.wait_for_departures(before);
            } else if forced {
                // Others hold the rest.
                break;
            } else {
                forced = true;
                self.force_all()?;
            }
        }
        Ok(())
    }
    /// Wait until an item has left the AIL since there were `before` departures, or a while.
    fn wait_for_departures(&self, before: u64) {
        self.ail.departed.wait_timeout(RETRY_NS, || {
            let over = self.ail.departures() != before || self.is_shut_down();
            over.then_some(())
        });
    }
    /// Bytes that the tail would give up if it were written now.
    fn tail_gain(&self) -> u64 {
        let durable = self.durable_tail();
        let now = self.ail.tail().unwrap_or_else(|| self.head());
        if now <= durable { 0 } else { self.layout.distance_bytes(durable, now) }
    }
    /// How far to push now: nothing if enough of the ring is free.
    pub(super) fn target(&self) -> Option<Lsn> {
        let (tail, head) = (self.ail.tail()?, self.head());
        let ring = self.layout.ring_bytes();
        let used = self.layout.distance_bytes(tail, head);
        let excess = if self.space.has_waiters() {
            // At least a quarter of the ring, whatever is in use.
            used.saturating_sub(ring / 2).max(ring / 4)
        } else if used > ring / 2 {
            used - ring / 2 + ring / 16
        } else {
            return None;
        };
        Some(self.layout.advance(tail, excess.min(used)))
    }
    /// Do once what brings free space. Was there anything to do?
    ///
    /// # Errors
    /// The log was shut down.
    pub(super) fn relieve(&self) -> Result<bool> {
        let mut busy = false;
        let waiters = self.space.has_waiters();
        if let Some(upto) = self.target() {
            let round = self.push_round(upto)?;
            busy = true;
            if round.pinned > 0 {
                self.force_all()?;
            } else if waiters && self.is_stuck(&round) {
                self.shut_down("the log is full of operations that nobody finishes");
                return Err(Error::Shutdown);
            }
        }
        let gain = self.tail_gain();
        let least = self.layout.checkpoint_bytes(0);
        if (waiters && gain > least) || gain > self.layout.ring_bytes() / 4 {
            self.write_tail()?;
            busy = true;
        } else if waiters && self.cil_bytes.load(Ordering::Relaxed) > 0 {
            // What was committed may hold more than it needs, and pins older items.
            self.force_all()?;
            busy = true;
        }
        Ok(busy || waiters)
    }
    /// Is the tail held by intents alone, whose ends nobody can log any more?
    fn is_stuck(&self, round: &Round) -> bool {
        let moving = round.submitted + round.in_flight + round.pinned + round.locked;
        moving == 0
            && round.waiting > 0
            && !self.space.has_tickets()
            && self.space.has_waiters()
            && self.cil_bytes.load(Ordering::Relaxed) == 0
            && !self.writing.load(Ordering::SeqCst)
    }
    /// Tell the thread that there is something to do.
    pub(super) fn kick(&self) {
        if !self.kicked.swap(true, Ordering::SeqCst) {
            self.wake.wake_all();
        }
    }
    /// Is there a thread that does the pushing?
    pub(super) fn has_thread(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }
    /// Start the log's thread: it pushes the tail, writes checkpoints that have grown large
    /// or old, and covers an idle log.
    pub fn start(self: &Arc<Self>) {
        let mut slot = self.thread.lock();
        if slot.is_none() {
            self.running.store(true, Ordering::SeqCst);
            let log = self.clone();
            *slot = Some(spawn("xfs-log", Priority::Normal, move || log.thread_main()));
        }
    }
    /// End the thread. Everything works without it.
    pub fn stop(&self) {
        let handle: Option<JoinHandle<()>> = self.thread.lock().take();
        self.running.store(false, Ordering::SeqCst);
        self.wake.wake_all();
        // Those who wait for space now have to do it themselves.
        self.space.granted.wake_all();
        if let Some(handle) = handle {
            handle.join();
        }
        if self.is_shut_down() {
            self.let_go();
        }
    }
    /// Log this to cover an idle log; without it, a checkpoint without items does.
    pub fn set_cover(&self, cover: Option<Arc<Cover>>) {
        *self.cover.lock() = cover;
    }
    /// How long commits stay in memory at most, and after what time of rest the log is
    /// covered. 30 seconds at first.
    pub fn set_interval_ns(&self, interval_ns: u64) {
        self.interval_ns.store(interval_ns, Ordering::SeqCst);
        self.kick();
    }
    fn thread_main(&self) {
        self.thread_id.store(thread::id(), Ordering::Relaxed);
        let mut next = now_ns().saturating_add(self.interval_ns.load(Ordering::SeqCst));
        while self.has_thread() && !self.is_shut_down() {
            self.kicked.store(false, Ordering::SeqCst);
            let departures = self.ail.departures();
            // What fails here fails for others, too, or shuts the log down.
            let busy = self.work(&mut next).unwrap_or(false);
            if busy {
                self.wait_for_departures(departures);
                continue;
            }
            let pause = next.saturating_sub(now_ns());
            self.wake.wait_timeout(pause, || {
                let over =
                    self.kicked.load(Ordering::SeqCst) || !self.has_thread() || self.is_shut_down();
                over.then_some(())
            });
        }
        if self.is_shut_down() {
            self.let_go();
        }
    }
    /// What the thread does when it wakes. Is there more to do soon?
    fn work(&self, next: &mut u64) -> Result<bool> {
        if self.cil_is_large() {
            self.force_all()?;
        }
        let mut busy = self.relieve()?;
        let now = now_ns();
        if now >= *next {
            *next = now.saturating_add(self.interval_ns.load(Ordering::SeqCst));
            if self.cil_bytes.load(Ordering::Relaxed) > 0 {
                self.force_all()?;
            } else {
                busy |= self.cover_idle()?;
            }
        }
        Ok(busy)
    }
    /// Nothing was committed for a while: have nothing left to replay. Is there more to do
    /// soon?
    fn cover_idle(&self) -> Result<bool> {
        let head = self.head();
        if self.covered.load(Ordering::SeqCst) == head.0 || self.space.has_tickets() {
            return Ok(false);
        }
        self.push_round(Lsn(u64::MAX))?;
        if self.ail.len() > 0 {
            return Ok(false);
        }
        let cover = self.cover.lock().clone();
        match cover {
            Some(cover) => {
                let seq = cover()?;
                self.force(seq)?;
                self.push_round(Lsn(u64::MAX))?;
            }
            None => self.write_tail()?,
        }
        self.covered.store(self.head().0, Ordering::SeqCst);
        Ok(false)
    }
}
