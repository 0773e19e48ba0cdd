//! A device that fails on purpose.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;

use holdfast_sync::Mutex;

use super::Random;
use crate::block::{Bio, BlockDevice, DeviceInfo, IoError, Op, SECTOR_SIZE};
use crate::locks;

/// Which requests are to fail. The device below never sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every request of this kind that touches one of these sectors.
    Sectors {
        /// The kind.
        op: Op,
        /// The sectors.
        sectors: Range<u64>,
    },
    /// The `n`-th request of this kind (from 0, from now on), only that one.
    Nth {
        /// The kind.
        op: Op,
        /// How many succeed before.
        n: u64,
    },
    /// Every request of this kind but the first `n` (from now on).
    After {
        /// The kind.
        op: Op,
        /// How many succeed before.
        n: u64,
    },
    /// One in `one_in` requests of this kind, drawn with `seed`.
    Random {
        /// The kind.
        op: Op,
        /// The reciprocal of the probability.
        one_in: u64,
        /// The seed.
        seed: u64,
    },
    /// Everything: the device is gone.
    Gone,
}

/// Passes requests to the device below, except those that a [`Fault`] names.
pub struct FaultDisk {
    below: Arc<dyn BlockDevice>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    failed: u64,
}

struct Rule {
    fault: Fault,
    seen: u64,
    random: Random,
}

impl FaultDisk {
    /// A device that fails nothing yet.
    pub fn new(below: Arc<dyn BlockDevice>) -> Arc<Self> {
        Arc::new(Self { below, state: Mutex::new(&locks::DEVICE, State::default()) })
    }
    /// From now on, fail these requests too.
    pub fn inject(&self, fault: Fault) {
        let seed = if let Fault::Random { seed, .. } = fault { seed } else { 0 };
        let rule = Rule { fault, seen: 0, random: Random::new(seed) };
        self.state.lock().rules.push(rule);
    }
    /// From now on, fail nothing.
    pub fn clear(&self) {
        self.state.lock().rules.clear();
    }
    /// Requests failed so far.
    pub fn failed(&self) -> u64 {
        self.state.lock().failed
    }
    fn verdict(&self, bio: &Bio) -> Result<(), IoError> {
        let mut state = self.state.lock();
        let mut verdict = Ok(());
        // Every rule sees every request, so that counts do not depend on other rules.
        for rule in &mut state.rules {
            verdict = verdict.and(rule.judge(bio));
        }
        if verdict.is_err() {
            state.failed += 1;
        }
        verdict
    }
}

impl Rule {
    fn judge(&mut self, bio: &Bio) -> Result<(), IoError> {
        let first = bio.sector.0;
        let end = first.saturating_add(bio.length_bytes / SECTOR_SIZE);
        let fail = match &self.fault {
            Fault::Gone => return Err(IoError::Gone),
            Fault::Sectors { op, sectors } => {
                *op == bio.op && first < sectors.end && sectors.start < end
            }
            Fault::Nth { op, n } if *op == bio.op => {
                self.seen += 1;
                self.seen == *n + 1
            }
            Fault::After { op, n } if *op == bio.op => {
                self.seen += 1;
                self.seen > *n
            }
            Fault::Random { op, one_in, .. } if *op == bio.op => {
                self.random.below((*one_in).max(1)) == 0
            }
            Fault::Nth { .. } | Fault::After { .. } | Fault::Random { .. } => false,
        };
        if fail { Err(IoError::Device) } else { Ok(()) }
    }
}

impl BlockDevice for FaultDisk {
    fn info(&self) -> DeviceInfo {
        self.below.info()
    }
    fn submit(&self, bio: Bio) {
        match self.verdict(&bio) {
            Ok(()) => self.below.submit(bio),
            Err(e) => bio.complete(Err(e)),
        }
    }
    fn kick(&self) {
        self.below.kick();
    }
    fn capacity_sectors(&self) -> u64 {
        self.below.capacity_sectors()
    }
}
