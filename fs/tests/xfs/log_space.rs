//! The log's space: operations of several steps on a ring that is far too small for them,
//! under threads of the host and under a deterministic scheduler.
//!
//! ```text
//! cargo test -p holdfast-fs --features check --test xfs log_space
//! cargo test -p holdfast-fs --features shuttle,check --test shuttle log_space
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::xfs_log_support::parse::parse;
use crate::xfs_log_support::{Block, Rig, Ring, Setup, mkfs};
use holdfast_fs::block::{Completion, Fault, Op};
use holdfast_fs::locks;
use holdfast_fs::xfs::log::head::ReadLog;
use holdfast_fs::xfs::log::item::Journal;
use holdfast_fs::xfs::reservation::Reservation;
use holdfast_fs::{Error, Result};
use holdfast_sync::Mutex;
use holdfast_sync::thread::{Priority, spawn, yield_now};

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed >> 8
}

/// A block and who works on it, as an inode with its lock.
struct Owned {
    block: Arc<Block>,
    owner: Mutex<()>,
}

/// What the threads share.
struct Bench {
    rig: Rig,
    blocks: Vec<Owned>,
    operations: AtomicU64,
}

#[derive(Clone, Copy)]
struct Load {
    threads: u64,
    operations: u64,
    steps: u64,
    /// Most bytes a step changes in each block it holds.
    bytes: usize,
}

impl Bench {
    fn new(image: &Arc<Vec<u8>>, setup: Setup, blocks: u64) -> Arc<Self> {
        let rig = Rig::with(image, setup);
        let owned = |n| Owned { block: rig.block(n), owner: Mutex::new(&locks::ILOCK, ()) };
        let blocks = (0..blocks).map(owned).collect();
        Arc::new(Self { rig, blocks, operations: AtomicU64::new(0) })
    }
    /// One operation: reserve, lock two blocks, some steps that each log both of them.
    ///
    /// # Errors
    /// The log was shut down.
    fn operate(&self, load: Load, seed: &mut u64) -> Result<()> {
        // What was logged of a block and is not in place is logged again: all of it at worst.
        let bytes = (2 * (4096 + 64 + 12 * 34)) as u32;
        let reservation = Reservation { bytes, count: 2 };
        let mut ticket = self.rig.log.reserve(reservation)?;
        let first = random(seed) as usize % (self.blocks.len() - 1);
        let second = first + 1 + random(seed) as usize % (self.blocks.len() - first - 1);
        let held = [&self.blocks[first], &self.blocks[second]];
        let guards = held.map(|owned| owned.owner.lock());
        let steps = 1 + random(seed) % load.steps;
        let mut seq = None;
        let mut result = Ok(());
        for step in 0..steps {
            if step > 0 {
                result = self.rig.log.regrant(&mut ticket);
                if result.is_err() {
                    break;
                }
            }
            let len = (1 + random(seed) as usize % (load.bytes / 4)) * 4;
            let at = random(seed) as usize % ((4096 - len) / 4 + 1) * 4;
            let data = vec![random(seed) as u8; len];
            let changes = held.map(|owned| (&owned.block, at, &data[..]));
            seq = Some(self.rig.commit_with(&mut ticket, &changes));
        }
        drop(guards);
        self.rig.log.release(ticket);
        result?;
        if random(seed).is_multiple_of(4) {
            let seq = seq.expect("a step");
            self.rig.log.force(seq)?;
            assert!(self.rig.log.durable_seq() >= seq);
        }
        self.operations.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    /// As [`Bench::run`], but the device stops taking writes at some point.
    fn run_into_failure(self: &Arc<Self>, load: Load, seed: u64, writes: u64) {
        self.rig.faults.inject(Fault::After { op: Op::Write, n: writes });
        let results = self.spawn(load, seed);
        assert!(results.into_iter().any(|r| r == Err(Error::Shutdown)), "it did not fail");
        let log = &self.rig.log;
        assert!(log.is_shut_down());
        let submitted = self.rig.trace.submitted();
        assert_eq!(log.force_all(), Err(Error::Shutdown));
        log.stop();
        assert_eq!(log.ail_len(), 0);
        for owned in &self.blocks {
            assert_eq!(owned.block.pins(), 0);
        }
        assert_eq!(self.rig.trace.submitted(), submitted, "something was written");
    }
    /// What became of each thread's operations.
    fn spawn(self: &Arc<Self>, load: Load, seed: u64) -> Vec<Result<()>> {
        let work = |n: u64| {
            let bench = self.clone();
            move || {
                let mut seed = (seed + n + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                (0..load.operations).try_for_each(|_| bench.operate(load, &mut seed))
            }
        };
        let threads: Vec<_> =
            (0..load.threads).map(|n| spawn("worker", Priority::Normal, work(n))).collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    }
    /// The threads do their operations; then everything is in order.
    fn run(self: &Arc<Self>, load: Load, seed: u64) {
        for result in self.spawn(load, seed) {
            result.expect("no error");
        }
        assert_eq!(self.operations.load(Ordering::Relaxed), load.threads * load.operations);
        self.finish();
    }
    fn finish(&self) {
        let rig = &self.rig;
        rig.log.force_all().expect("force");
        let ring = Ring(rig).read(0, Ring(rig).blocks()).expect("the ring");
        parse(&ring);
        rig.log.push_all().expect("push");
        rig.log.stop();
        let statistics = rig.log.statistics();
        assert_eq!(statistics.overruns, 0);
        for owned in &self.blocks {
            let mut bytes = vec![0; 4096];
            rig.disk.peek(owned.block.sector, &mut bytes);
            assert!(bytes == owned.block.contents(), "not in place");
            assert_eq!(owned.block.pins(), 0);
        }
        // Nothing is promised to anybody any more.
        let used = rig.ring_bytes() - rig.log.capacity_bytes();
        let last = rig.log.capacity_bytes() - rig.log.free_bytes();
        assert!(last <= rig.ring_bytes() && used < rig.ring_bytes() / 4);
        rig.log.unmount_record().expect("unmount");
        assert!(rig.log.capacity_bytes() - rig.log.free_bytes() <= 4096);
    }
}

#[cfg(not(feature = "shuttle"))]
mod host {
    use super::*;

    /// A ring of 128 KiB, some megabytes of changes.
    fn crowded(completion: Completion, thread: bool) {
        let setup = Setup { completion, log_blocks: Some(32), ..Setup::default() };
        let bench = Bench::new(&mkfs(16, &[]), setup, 24);
        if thread {
            bench.rig.log.start();
        }
        let load = Load { threads: 8, operations: 150, steps: 6, bytes: 4000 };
        bench.run(load, 3);
        let statistics = bench.rig.log.statistics();
        println!("{completion:?} thread {thread}: {statistics:?}");
        assert!(bench.rig.log.head().cycle() > 10, "{statistics:?}");
        assert!(statistics.waits > 100, "{statistics:?}");
    }

    #[test]
    fn many_wait_without_a_thread() {
        crowded(Completion::Inline, false);
        crowded(Completion::Reordered(2, 9), false);
    }

    #[test]
    fn many_wait_for_the_thread() {
        crowded(Completion::Inline, true);
        crowded(Completion::Reordered(2, 9), true);
    }

    /// Pushes go nowhere for a while: reservations wait, and go on when they do again.
    #[test]
    fn slow_pushes() {
        for thread in [false, true] {
            let setup = Setup { log_blocks: Some(32), ..Setup::default() };
            let bench = Bench::new(&mkfs(16, &[]), setup, 40);
            if thread {
                bench.rig.log.start();
            }
            let first = &bench.blocks[0].block;
            first.held.store(true, Ordering::SeqCst);
            let seq = bench.rig.commit(&[(first, 0, &[1; 64])]);
            bench.rig.log.force(seq).expect("force");
            let tail = bench.rig.log.durable_tail();
            std::thread::scope(|scope| {
                let worker = scope.spawn(|| {
                    for n in 0..200_usize {
                        let block = &bench.blocks[1 + n % 39].block;
                        bench.rig.commit(&[(block, n, &[2; 3000])]);
                    }
                });
                let started = std::time::Instant::now();
                while bench.rig.log.statistics().waits == 0 {
                    assert!(started.elapsed().as_secs() < 20);
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                std::thread::sleep(std::time::Duration::from_millis(50));
                assert!(!worker.is_finished(), "the ring is full up to the block that is held");
                assert!(bench.rig.log.tail() >= tail && bench.rig.log.ail_len() > 0);
                first.held.store(false, Ordering::SeqCst);
            });
            bench.finish();
        }
    }

    /// The device fails while all are busy: everybody gets an error, nobody waits on.
    #[test]
    fn a_device_that_fails() {
        let image = mkfs(16, &[]);
        let load = Load { threads: 8, operations: 150, steps: 6, bytes: 4000 };
        for (n, completion) in [Completion::Inline, Completion::Reordered(2, 3)].iter().enumerate()
        {
            for thread in [false, true] {
                let setup =
                    Setup { completion: *completion, log_blocks: Some(32), ..Setup::default() };
                let bench = Bench::new(&image, setup, 24);
                if thread {
                    bench.rig.log.start();
                }
                bench.run_into_failure(load, 5, 40 + 30 * n as u64);
            }
        }
    }

    /// A shutdown wakes those who wait for space.
    #[test]
    fn a_shutdown_ends_the_wait() {
        for thread in [false, true] {
            let setup = Setup { log_blocks: Some(32), ..Setup::default() };
            let rig = Rig::with(&mkfs(16, &[]), setup);
            if thread {
                rig.log.start();
            }
            // Two of these are more than half of the ring.
            let r = Reservation { bytes: 30_000, count: 1 };
            let ticket = rig.log.reserve(r).expect("space");
            std::thread::scope(|scope| {
                let waiter = scope.spawn(|| {
                    rig.log.reserve(r).and_then(|first| {
                        let second = rig.log.reserve(r);
                        rig.log.release(first);
                        second.map(|t| rig.log.release(t))
                    })
                });
                while rig.log.statistics().waits == 0 {
                    yield_now();
                }
                rig.log.shut_down("because");
                assert_eq!(waiter.join().unwrap(), Err(holdfast_fs::Error::Shutdown));
            });
            rig.log.release(ticket);
            rig.log.stop();
        }
    }

    #[test]
    fn what_can_never_fit_is_refused() {
        let setup = Setup { log_blocks: Some(32), ..Setup::default() };
        let rig = Rig::with(&mkfs(16, &[]), setup);
        let r = Reservation { bytes: 200_000, count: 1 };
        assert!(matches!(rig.log.reserve(r), Err(holdfast_fs::Error::Invalid(_))));
    }
}

#[cfg(feature = "shuttle")]
mod scheduled {
    use super::*;
    use crate::schedules;
    use shuttle::rand::{Rng, thread_rng};

    /// Follows from the schedule's own.
    fn seed() -> u64 {
        thread_rng().gen_range(1..u64::MAX)
    }
    fn explore(
        usual: usize,
        thread: bool,
        log_blocks: u32,
        load: Load,
        completion: Completion,
    ) -> u64 {
        static WAITS: AtomicU64 = AtomicU64::new(0);
        let image = mkfs(16, &[]);
        let before = WAITS.load(Ordering::Relaxed);
        let scenario = move || {
            let setup = Setup { completion, log_blocks: Some(log_blocks), ..Setup::default() };
            let bench = Bench::new(&image, setup, 6);
            if thread {
                bench.rig.log.start();
            }
            bench.run(load, seed());
            yield_now();
            WAITS.fetch_add(bench.rig.log.statistics().waits, Ordering::Relaxed);
        };
        schedules::random(scenario, usual);
        WAITS.load(Ordering::Relaxed) - before
    }

    #[test]
    fn commits_and_forces() {
        let load = Load { threads: 3, operations: 3, steps: 2, bytes: 400 };
        explore(300, false, 64, load, Completion::Threads(1));
        explore(200, true, 64, load, Completion::Threads(1));
    }

    #[test]
    fn a_device_that_fails() {
        let load = Load { threads: 3, operations: 8, steps: 4, bytes: 3500 };
        let image = mkfs(16, &[]);
        let scenario = move || {
            let seed = seed();
            let completion = Completion::Threads(1);
            let setup = Setup { completion, log_blocks: Some(14), ..Setup::default() };
            let bench = Bench::new(&image, setup, 6);
            if seed.is_multiple_of(2) {
                bench.rig.log.start();
            }
            bench.run_into_failure(load, seed, seed % 7);
        };
        schedules::random(scenario, 300);
    }

    /// A shutdown comes while somebody forces the log: what was committed is gone then, and
    /// must not be taken for what was never there.
    ///
    /// ```text
    /// force                               shutdown
    /// the log is not shut down
    ///                                     shuts it down, lets go of what is collected
    /// nothing is collected, so there is
    /// nothing to do: "it is durable"
    /// ```
    #[test]
    fn no_force_succeeds_behind_a_shutdown() {
        static FORCED: AtomicU64 = AtomicU64::new(0);
        let image = mkfs(16, &[]);
        let scenario = move || {
            let rig = Arc::new(Rig::new(&image));
            let seq = rig.commit(&[(&rig.block(0), 0, &[2; 8])]);
            let other = {
                let rig = rig.clone();
                // Mostly when the force begins.
                let latest = if thread_rng().gen_ratio(9, 10) { 20 } else { 2000 };
                let when = thread_rng().gen_range(0..latest);
                spawn("shutdown", Priority::Normal, move || {
                    (0..when).for_each(|_| yield_now());
                    rig.log.shut_down("somebody wants it");
                    assert_eq!(rig.log.force_all(), Err(Error::Shutdown));
                })
            };
            if rig.log.force(seq).is_ok() {
                FORCED.fetch_add(1, Ordering::Relaxed);
                assert!(rig.log.durable_seq() >= seq, "it is not durable");
            }
            other.join();
        };
        schedules::random(scenario, 10_000);
        let forced = FORCED.load(Ordering::Relaxed);
        assert!(forced > 0, "the shutdown was always first");
    }

    #[test]
    fn a_ring_too_small_for_all() {
        let load = Load { threads: 3, operations: 5, steps: 4, bytes: 3500 };
        let waits = explore(200, false, 14, load, Completion::Inline);
        assert!(waits > 200, "{waits} waits");
        let waits = explore(150, true, 14, load, Completion::Threads(1));
        assert!(waits > 150, "{waits} waits");
    }
}
