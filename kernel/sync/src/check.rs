//! Lock order, held locks, and blocking while atomic.
//!
//! Every lock has a [`LockClass`]; classes have ranks. A thread may wait for a
//! lock only if its rank is higher than that of every lock it holds already, so
//! no cycle of waiters can form. Locks of equal rank may nest only when the
//! class says so (parent before child directory, for example). `try_lock`
//! cannot wait and is not checked, but what it took counts as held.
//!
//! The list of held locks is kept in every build that has the feature `check`;
//! the watchdog prints it for each thread.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

/// A kind of lock: its name and its place in the lock order.
#[derive(Debug)]
pub struct LockClass {
    /// The name, as in the lock order table.
    pub name: &'static str,
    /// The place in the order: a thread acquires in rising rank. 0 = outside the order.
    pub rank: u16,
    /// May one thread hold several locks of this class?
    pub nests: bool,
}

impl LockClass {
    /// A class at this place in the order.
    pub const fn new(name: &'static str, rank: u16) -> Self {
        Self { name, rank, nests: false }
    }
    /// A class of which a thread may hold several, in an order the caller ensures.
    pub const fn nesting(name: &'static str, rank: u16) -> Self {
        Self { name, rank, nests: true }
    }
}

const DEPTH: usize = 24;

/// The locks a thread holds, oldest first. Readable from other threads (the watchdog).
#[derive(Debug)]
pub struct Held {
    count: AtomicUsize,
    classes: [AtomicPtr<LockClass>; DEPTH],
}

impl Default for Held {
    fn default() -> Self {
        Self::new()
    }
}

impl Held {
    /// An empty list.
    pub const fn new() -> Self {
        Self {
            count: AtomicUsize::new(0),
            classes: [const { AtomicPtr::new(core::ptr::null_mut()) }; DEPTH],
        }
    }
    /// The classes held, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &'static LockClass> + '_ {
        let n = self.count.load(Ordering::Acquire).min(DEPTH);
        self.classes[..n].iter().filter_map(|c| {
            let p = c.load(Ordering::Relaxed);
            // SAFETY: only `push` stores here, and it stores pointers made from `&'static`.
            unsafe { p.cast_const().as_ref() }
        })
    }
    /// Is no lock held?
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
    fn push(&self, class: &'static LockClass) {
        let n = self.count.load(Ordering::Relaxed);
        assert!(n < DEPTH, "lock check: more than {DEPTH} locks held: {:?}", self.names());
        self.classes[n].store(core::ptr::from_ref(class).cast_mut(), Ordering::Relaxed);
        self.count.store(n + 1, Ordering::Release);
    }
    fn remove(&self, class: &'static LockClass) {
        let n = self.count.load(Ordering::Relaxed);
        let target = core::ptr::from_ref(class).cast_mut();
        let Some(at) = (0..n).rev().find(|&i| self.classes[i].load(Ordering::Relaxed) == target)
        else {
            panic!("lock check: released {} which is not held: {:?}", class.name, self.names());
        };
        for i in at..n - 1 {
            let next = self.classes[i + 1].load(Ordering::Relaxed);
            self.classes[i].store(next, Ordering::Relaxed);
        }
        self.count.store(n - 1, Ordering::Release);
    }
    fn names(&self) -> alloc::vec::Vec<&'static str> {
        self.iter().map(|c| c.name).collect()
    }
}

/// Note that the caller is about to wait for a lock of `class`.
///
/// # Panics
/// With the feature `check`, when the order is violated or the caller may not block.
#[inline]
pub fn before(class: &'static LockClass) {
    if cfg!(feature = "check") {
        assert!(
            crate::backend::may_block(),
            "lock check: waiting for {} where blocking is forbidden",
            class.name
        );
        crate::backend::with_held(|held| {
            for h in held.iter() {
                let same = core::ptr::eq(h, class);
                let wrong = if same { !class.nests } else { h.rank >= class.rank };
                if wrong && (class.rank != 0 || same) {
                    panic!(
                        "lock check: waiting for {} ({}) while holding {} ({}); held: {:?}",
                        class.name,
                        class.rank,
                        h.name,
                        h.rank,
                        held.names()
                    );
                }
            }
        });
    }
}

/// Note that the caller now holds a lock of `class`.
#[inline]
pub fn acquired(class: &'static LockClass) {
    if cfg!(feature = "check") {
        crate::backend::with_held(|held| held.push(class));
    }
}

/// Note that the caller gave a lock of `class` back.
#[inline]
pub fn released(class: &'static LockClass) {
    if cfg!(feature = "check") {
        crate::backend::with_held(|held| held.remove(class));
    }
}

/// Assert that the caller holds no lock at all, for instance before it returns to a program.
#[inline]
pub fn assert_none_held(what: &str) {
    if cfg!(feature = "check") {
        crate::backend::with_held(|held| {
            assert!(held.is_empty(), "lock check: {what} with locks held: {:?}", held.names());
        });
    }
}
