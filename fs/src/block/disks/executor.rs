//! When requests to a software device are carried out: at once, on threads, or when told.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::thread::{self, Priority};
use holdfast_sync::{Condvar, Mutex};

use super::Random;
use crate::block::{Bio, IoError};
use crate::locks;

/// When a software device carries out its requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completion {
    /// During the submission, on the caller's thread.
    #[default]
    Inline,
    /// On so many threads of the device's own, oldest first.
    Threads(usize),
    /// On so many threads of the device's own, each next one drawn with this seed.
    Reordered(usize, u64),
    /// When [`MemDisk::complete_one`](super::MemDisk::complete_one) says so.
    Manual,
}

/// Carries a request out; what the device does in between is the device's matter.
pub(super) type Execute = dyn Fn(&Bio) -> Result<(), IoError> + Send + Sync;

/// The requests of one device that were not carried out yet, and who does it.
pub(super) struct Executor {
    shared: Arc<Shared>,
    inline: bool,
}

struct Shared {
    execute: Box<Execute>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    pending: Vec<Bio>,
    random: Option<Random>,
    stopped: bool,
}

impl State {
    fn next(&mut self) -> Option<Bio> {
        let count = self.pending.len();
        if count == 0 {
            return None;
        }
        let index = self.random.as_mut().map_or(0, |r| r.below(count as u64) as usize);
        Some(self.pending.remove(index))
    }
}

impl Executor {
    pub(super) fn new(name: &str, completion: Completion, execute: Box<Execute>) -> Self {
        let (threads, random) = match completion {
            Completion::Inline | Completion::Manual => (0, None),
            Completion::Threads(n) => (n.max(1), None),
            Completion::Reordered(n, seed) => (n.max(1), Some(Random::new(seed))),
        };
        let state = State { pending: Vec::new(), random, stopped: false };
        let shared = Arc::new(Shared {
            execute,
            state: Mutex::new(&locks::DEVICE, state),
            changed: Condvar::new(),
        });
        for i in 0..threads {
            let shared = shared.clone();
            // Not joined: the last reference to a device may go away on its own thread.
            drop(thread::spawn(&format!("{name}/{i}"), Priority::High, move || shared.work()));
        }
        Self { shared, inline: completion == Completion::Inline }
    }
    pub(super) fn submit(&self, bio: Bio) {
        if self.inline {
            return self.shared.run(bio);
        }
        self.shared.state.lock().pending.push(bio);
        self.shared.changed.notify_one();
    }
    pub(super) fn pending(&self) -> usize {
        self.shared.state.lock().pending.len()
    }
    pub(super) fn complete_one(&self, index: usize) -> bool {
        let bio = {
            let mut state = self.shared.state.lock();
            if index >= state.pending.len() {
                return false;
            }
            state.pending.remove(index)
        };
        self.shared.run(bio);
        true
    }
}

impl Drop for Executor {
    fn drop(&mut self) {
        let left = {
            let mut state = self.shared.state.lock();
            state.stopped = true;
            core::mem::take(&mut state.pending)
        };
        self.shared.changed.notify_all();
        // Nobody carries these out any more; dropping them fails them.
        drop(left);
    }
}

impl Shared {
    fn run(&self, bio: Bio) {
        let result = (self.execute)(&bio);
        bio.complete(result);
    }
    fn work(&self) {
        loop {
            let state = self.state.lock();
            let mut state = self.changed.wait_until(state, |s| s.stopped || !s.pending.is_empty());
            let Some(bio) = state.next() else { return };
            drop(state);
            self.run(bio);
        }
    }
}
