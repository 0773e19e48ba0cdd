//! The thread that completes writeback where more is due than to end it: an extent to
//! convert, blocks to move to the data fork, a size to log.
//!
//! Such work sleeps and needs transactions, which may wait for the device: the device's
//! own completion threads must never do it. They leave the ioend here. Without the thread
//! (a host program that started none) the ioend is completed where its I/O ended.

use alloc::vec::Vec;

use holdfast_sync::{Mutex, WaitQueue};

use crate::iomap::writeback::Ended;
use crate::locks;

#[derive(Default)]
struct State {
    /// The thread takes what is left here.
    open: bool,
    ended: Vec<Ended>,
}

/// Ioends whose I/O has ended.
pub(crate) struct Ioends {
    state: Mutex<State>,
    wake: WaitQueue,
}

impl Ioends {
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(&locks::STATE, State::default()), wake: WaitQueue::new() }
    }
    pub(super) fn open(&self) {
        self.state.lock().open = true;
    }
    /// The thread completes what is left and ends.
    pub(super) fn close(&self) {
        self.state.lock().open = false;
        self.wake.wake_all();
    }
    /// Complete an ioend soon; at once if no thread does.
    pub(crate) fn complete(&self, ended: Ended) {
        let mut state = self.state.lock();
        if !state.open {
            drop(state);
            return Ended::complete_all(alloc::vec![ended]);
        }
        let first = state.ended.is_empty();
        state.ended.push(ended);
        drop(state);
        if first {
            self.wake.wake_all();
        }
    }
    /// The thread.
    pub(super) fn main(&self) {
        loop {
            let batch = self.wake.wait_until(|| {
                let mut state = self.state.lock();
                let done = !state.open;
                (done || !state.ended.is_empty()).then(|| core::mem::take(&mut state.ended))
            });
            if batch.is_empty() {
                return;
            }
            Ended::complete_all(batch);
        }
    }
}
