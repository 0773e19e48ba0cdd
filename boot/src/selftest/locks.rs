//! The blocking locks under stress on all processors.

use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use holdfast_kernel::arch::percpu;
use holdfast_kernel::sched;
use holdfast_sync::thread::{self, Priority};
use holdfast_sync::{Condvar, LockClass, Mutex, PerCpuRwLock, RwLock};

use super::{Outcome, Random, Test, ensure};

pub const TESTS: &[Test] = &[
    Test { name: "mutex", run: mutex },
    Test { name: "condvar", run: condvar },
    Test { name: "rwlock", run: rwlock },
    Test { name: "percpu_rwlock", run: percpu_rwlock },
    Test { name: "held_locks", run: held_locks },
];

static CLASS: LockClass = LockClass::new("selftest", 1);
const ROUNDS: usize = 4000;

/// Run the same on two threads a processor.
fn everywhere<T: Send + 'static>(work: impl Fn(u64) -> T + Send + Sync + 'static) -> Vec<T> {
    let work = Arc::new(work);
    let threads: Vec<_> = (0..percpu::count() as u64 * 2)
        .map(|t| {
            let work = work.clone();
            thread::spawn("locker", Priority::Normal, move || work(t))
        })
        .collect();
    threads.into_iter().map(thread::JoinHandle::join).collect()
}

fn mutex() -> Outcome {
    let shared = Arc::new(Mutex::new(&CLASS, (0u64, 0u64)));
    let theirs = shared.clone();
    let done = everywhere(move |t| {
        let mut random = Random::new(t + 1);
        for i in 0..ROUNDS {
            let mut pair = theirs.lock();
            pair.0 += 1;
            if random.below(100) == 0 {
                thread::yield_now();
            }
            if i % 1000 == 999 {
                thread::sleep_ns(10_000);
            }
            pair.1 += 1;
        }
    });
    let pair = shared.lock();
    let expected = (done.len() * ROUNDS) as u64;
    ensure!(*pair == (expected, expected), "{pair:?} instead of {expected}", pair = *pair);
    Ok(())
}

fn condvar() -> Outcome {
    struct Channel {
        queue: Mutex<VecDeque<u64>>,
        filled: Condvar,
        drained: Condvar,
    }
    let channel = Arc::new(Channel {
        queue: Mutex::new(&CLASS, VecDeque::new()),
        filled: Condvar::new(),
        drained: Condvar::new(),
    });
    let sum = Arc::new(AtomicU64::new(0));
    let (theirs, total) = (channel, sum.clone());
    let done = everywhere(move |t| {
        for i in 0..ROUNDS as u64 / 2 {
            if t % 2 == 0 {
                let guard = theirs.queue.lock();
                let mut queue = theirs.drained.wait_until(guard, |q| q.len() < 8);
                queue.push_back(i);
                drop(queue);
                theirs.filled.notify_one();
            } else {
                let guard = theirs.queue.lock();
                let mut queue = theirs.filled.wait_until(guard, |q| !q.is_empty());
                total.fetch_add(queue.pop_front().unwrap_or(0), Ordering::Relaxed);
                drop(queue);
                theirs.drained.notify_one();
            }
        }
    });
    let n = ROUNDS as u64 / 2;
    let expected = n * (n - 1) / 2 * (done.len() as u64 / 2);
    let got = sum.load(Ordering::Relaxed);
    ensure!(got == expected, "{got} arrived instead of {expected}");
    Ok(())
}

/// Readers see both halves equal; writers change them one after the other.
fn check_pair(seed: u64, read: &dyn Fn() -> (u64, u64), write: &dyn Fn()) -> Outcome {
    let mut random = Random::new(seed + 9);
    for _ in 0..ROUNDS {
        if random.below(10) == 0 {
            write();
        } else {
            let (a, b) = read();
            ensure!(a == b, "a reader saw {a} and {b}");
        }
    }
    Ok(())
}

/// Change the halves of a pair; it is locked.
fn change_pair(pair: &mut (u64, u64)) {
    pair.0 += 1;
    thread::yield_now();
    pair.1 += 1;
}

fn rwlock() -> Outcome {
    let lock = Arc::new(RwLock::new(&CLASS, (0u64, 0u64)));
    let results =
        everywhere(move |t| check_pair(t, &|| *lock.read(), &|| change_pair(&mut lock.write())));
    results.into_iter().collect()
}

fn percpu_rwlock() -> Outcome {
    let lock = Arc::new(PerCpuRwLock::new(&CLASS, (0u64, 0u64)));
    let results =
        everywhere(move |t| check_pair(t, &|| *lock.read(), &|| change_pair(&mut lock.write())));
    results.into_iter().collect()
}

/// With the feature `check` the thread list shows who holds what.
fn held_locks() -> Outcome {
    let lock = Mutex::new(&CLASS, ());
    let held = || {
        let me = thread::id();
        let all = sched::snapshot();
        all.into_iter().find(|t| t.id == me).map(|t| t.held).unwrap_or_default()
    };
    let guard = lock.lock();
    let inside = held();
    drop(guard);
    let expected: &[&str] = if cfg!(feature = "check") { &["selftest"] } else { &[] };
    ensure!(inside == expected, "held {inside:?}");
    ensure!(held().is_empty(), "still held: {:?}", held());
    Ok(())
}
