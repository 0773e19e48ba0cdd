//! Space in the ring: what is used, what is promised, and who waits for more.
//!
//! ```text
//!        tail                         head
//! ring    |####### in the log ########|~~ being written ~~|== CIL ==|-- tickets --| free |
//! ```
//! `tail` is that of the newest durable checkpoint, not the one in memory: until a
//! checkpoint that says so is durable, a crash still needs what lies behind the older
//! tail. So nothing is ever written over the tail that recovery would start from.
//!
//! A transaction's share moves from right to left: promised to its ticket before it
//! changes anything, the CIL's when it commits, the ring's when the checkpoint is
//! written. None of these moves can fail or wait. The sum never exceeds the ring, except
//! by a transaction that logged more than it said, which is reported.
//!
//! The rest of the ring, [`Layout::slack_bytes`], is never promised: it is for the
//! checkpoint without items that only moves the tail, and for the record of an unmount.
//!
//! # Why nobody waits for ever
//!
//! Who waits in [`Space::reserve`] holds no promise and, by the rules of the callers, no
//! locked inode or group. Who waits in [`Space::regrant`], between two steps of an
//! operation, holds inodes locked, and what it waits for must not depend on them:
//!
//! 1. A ticket of several steps is promised two steps from the start, and a regrant waits
//!    only when less than one is left, so most never wait.
//! 2. Tickets are promised at most half of the ring together (a lone one may get more),
//!    and the CIL is kept at about an eighth. So when there is nothing left to promise, a
//!    quarter of the ring and more is checkpoints that are written already.
//! 3. Inodes that an operation holds, and its intents, are logged anew before they grow
//!    older than a quarter of the ring; inodes with each step while less than half of the
//!    ring is free. So the items in those checkpoints are not of those who wait: once the
//!    log is forced they can be written in place, which waits for the device only, and the
//!    tail moves past them.
//! 4. Nobody else keeps an inode that is logged from being written in place for long: who
//!    holds one waits for a group, a block, the device or the log's writer, but neither in
//!    [`Space::reserve`] nor for another inode, which may be held by one who waits here. He
//!    tries to lock that, and gives the first back if it cannot be had.
//! 5. Between its steps an operation holds no group's lock. So one that holds a promise
//!    and waits for such a lock waits for somebody who runs.
//! 6. Those in the middle of an operation go first, in the order in which they came. New
//!    operations wait behind them, so what is promised then only shrinks.
//!
//! Locks: `LOG_SPACE`, held for a few instructions, also under `CIL`.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use holdfast_sync::{Mutex, WaitQueue};

use super::checkpoint::Layout;
use super::item::Lsn;
use crate::error::{Error, Result};
use crate::locks;
use crate::xfs::reservation::Reservation;

/// A promise of log space. Given back by [`super::Log::release`].
#[must_use = "a ticket's space is lost unless it is released"]
#[derive(Debug)]
pub struct Ticket {
    /// What is left of the promise.
    left: u64,
    /// What a step may need.
    step: u64,
    /// What it was promised at first.
    whole: u64,
}

/// Who waits, in their order: numbers from `served` on wait.
#[derive(Default)]
struct Line {
    needs: VecDeque<Need>,
    served: u64,
}

/// What somebody waits for.
#[derive(Clone, Copy)]
struct Need {
    /// To go on.
    step: u64,
    /// To start: all that is wanted, though a step will do.
    whole: u64,
}

impl Line {
    fn join(&mut self, need: Need) -> u64 {
        self.needs.push_back(need);
        self.served + self.needs.len() as u64 - 1
    }
}

#[derive(Default)]
struct State {
    /// Between the durable tail and the head.
    used: u64,
    /// What the checkpoint being written may need at worst.
    writing: u64,
    /// What the next checkpoint may need at worst, as it is now.
    cil: u64,
    /// What tickets have left.
    promised: u64,
    /// What the tickets were promised at first.
    wholes: u64,
    tickets: u64,
    /// In the middle of an operation.
    regrants: Line,
    /// At its start.
    reserves: Line,
    /// Of these, those who were promised one step only, and do not know it yet.
    short: Vec<u64>,
}

/// Who is to be waited behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It has been granted.
    Granted,
    /// In the line of operations that go on.
    Regrant(u64),
    /// In the line of new ones.
    Reserve(u64),
}

/// The account of the ring's space, in bytes.
pub(super) struct Space {
    /// What can be used and promised.
    capacity: u64,
    state: Mutex<State>,
    /// Wakes those in the lines.
    pub(super) granted: WaitQueue,
}

impl Space {
    pub(super) fn new(layout: &Layout, tail: Lsn, head: Lsn) -> Self {
        let capacity = layout.ring_bytes().saturating_sub(layout.slack_bytes());
        let used = layout.distance_bytes(tail, head);
        let state = State { used, ..State::default() };
        Self { capacity, state: Mutex::new(&locks::LOG_SPACE, state), granted: WaitQueue::new() }
    }
    /// What can be used and promised in all.
    pub(super) const fn capacity(&self) -> u64 {
        self.capacity
    }
    /// A ticket for an operation, and where its owner has to wait.
    ///
    /// # Errors
    /// Even an empty log is too small.
    pub(super) fn reserve(&self, r: Reservation, layout: &Layout) -> Result<(Ticket, Place)> {
        let step = layout.checkpoint_bytes(u64::from(r.bytes));
        let steps = if r.count > 1 { 2 } else { 1 };
        // In a log that has no room for two, steps are granted one by one.
        let whole = if step * steps > self.capacity * 2 / 3 { step } else { step * steps };
        if whole > self.capacity - layout.checkpoint_bytes(0) {
            return Err(Error::Invalid("the log is too small for this operation"));
        }
        let ticket = Ticket { left: whole, step, whole };
        let mut state = self.state.lock();
        let none_waits = state.regrants.needs.is_empty() && state.reserves.needs.is_empty();
        if none_waits && self.may_start(&state, whole) {
            state.start(whole);
            return Ok((ticket, Place::Granted));
        }
        let number = state.reserves.join(Need { step, whole });
        self.serve(state);
        Ok((ticket, Place::Reserve(number)))
    }
    /// Room for the next step.
    pub(super) fn regrant(&self, ticket: &mut Ticket) -> Place {
        let mut state = self.state.lock();
        let refill = ticket.whole - ticket.left;
        if state.regrants.needs.is_empty() && refill <= self.free(&state) {
            state.promised += refill;
            ticket.left = ticket.whole;
            return Place::Granted;
        }
        if ticket.left >= ticket.step {
            return Place::Granted;
        }
        Place::Regrant(state.regrants.join(Need { step: ticket.step - ticket.left, whole: 0 }))
    }
    /// Has the one who waits there been served?
    pub(super) fn is_granted(&self, place: Place) -> bool {
        let state = self.state.lock();
        match place {
            Place::Granted => true,
            Place::Regrant(n) => n < state.regrants.served,
            Place::Reserve(n) => n < state.reserves.served,
        }
    }
    /// The one who waited there was served: note it in the ticket.
    pub(super) fn take(&self, ticket: &mut Ticket, place: Place) {
        match place {
            Place::Granted => {}
            Place::Regrant(_) => ticket.left = ticket.step,
            Place::Reserve(n) => {
                let mut state = self.state.lock();
                if let Some(at) = state.short.iter().position(|short| *short == n) {
                    state.short.swap_remove(at);
                    ticket.left = ticket.step;
                }
            }
        }
    }
    /// The operation is over.
    pub(super) fn release(&self, ticket: &Ticket) {
        let mut state = self.state.lock();
        state.promised -= ticket.left;
        state.wholes -= ticket.whole;
        state.tickets -= 1;
        self.serve(state);
    }
    /// What the next checkpoint needs at worst changed by a commit with `ticket`.
    /// Returns by how much the ticket was exceeded.
    pub(super) fn committed(&self, ticket: &mut Ticket, before: u64, after: u64) -> u64 {
        let mut state = self.state.lock();
        state.cil = state.cil + after - before;
        let taken = after.saturating_sub(before).min(ticket.left);
        state.promised -= taken;
        ticket.left -= taken;
        let exceeded = after.saturating_sub(before) - taken;
        if after < before {
            self.serve(state);
        }
        exceeded
    }
    /// The CIL is about to be written.
    pub(super) fn writing(&self) {
        let mut state = self.state.lock();
        state.writing = state.cil;
        state.cil = 0;
    }
    /// A checkpoint is durable: so much is used now.
    pub(super) fn written(&self, used: u64) {
        let mut state = self.state.lock();
        state.writing = 0;
        state.used = used;
        self.serve(state);
    }
    /// Does anybody wait?
    pub(super) fn has_waiters(&self) -> bool {
        let state = self.state.lock();
        !state.regrants.needs.is_empty() || !state.reserves.needs.is_empty()
    }
    /// Is any operation under way?
    pub(super) fn has_tickets(&self) -> bool {
        self.state.lock().tickets > 0
    }
    /// Bytes that could be promised now.
    pub(super) fn free_bytes(&self) -> u64 {
        self.free(&self.state.lock())
    }
    fn free(&self, state: &State) -> u64 {
        let taken = state.used + state.writing + state.cil + state.promised;
        self.capacity.saturating_sub(taken)
    }
    fn may_start(&self, state: &State, whole: u64) -> bool {
        let share = state.tickets == 0 || state.wholes + whole <= self.capacity / 2;
        share && whole <= self.free(state)
    }
    /// Serve those who wait, in order, and wake them.
    fn serve(&self, mut state: holdfast_sync::MutexGuard<'_, State>) {
        let mut any = false;
        while let Some(&need) = state.regrants.needs.front() {
            if need.step > self.free(&state) {
                break;
            }
            state.regrants.needs.pop_front();
            state.regrants.served += 1;
            state.promised += need.step;
            any = true;
        }
        while let Some(&need) = state.reserves.needs.front() {
            if !state.regrants.needs.is_empty() {
                break;
            }
            // A lone one need not wait for more than a step: what holds the tail may be
            // what it is about to finish.
            let lone = state.tickets == 0 && need.step <= self.free(&state);
            let short = !self.may_start(&state, need.whole);
            if short && !lone {
                break;
            }
            let number = state.reserves.served;
            state.reserves.needs.pop_front();
            state.reserves.served += 1;
            state.start(need.whole);
            if short {
                state.promised -= need.whole - need.step;
                state.short.push(number);
            }
            any = true;
        }
        drop(state);
        if any {
            self.granted.wake_all();
        }
    }
}

impl State {
    const fn start(&mut self, whole: u64) {
        self.promised += whole;
        self.wholes += whole;
        self.tickets += 1;
    }
}
