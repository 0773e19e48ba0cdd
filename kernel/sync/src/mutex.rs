//! Mutual exclusion that blocks.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use crate::atomic::Ordering::{Acquire, Relaxed, Release};
use crate::backend::Word;
use crate::check::{self, LockClass};

const FREE: u32 = 0;
const LOCKED: u32 = 1;
/// Locked, and somebody waits.
const CONTENDED: u32 = 2;

/// A lock that one thread holds at a time; others sleep.
pub struct Mutex<T: ?Sized> {
    class: &'static LockClass,
    state: Word,
    value: UnsafeCell<T>,
}

// SAFETY: the lock hands out `&mut T` to one thread at a time; `T: Send` is all that needs.
unsafe impl<T: ?Sized + Send> Send for Mutex<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

/// Access to what a [`Mutex`] protects; dropping it unlocks.
#[must_use = "dropping the guard unlocks at once"]
pub struct MutexGuard<'a, T: ?Sized> {
    pub(crate) lock: &'a Mutex<T>,
    _not_send: core::marker::PhantomData<*mut ()>,
}

// SAFETY: sharing the guard shares `&T` only.
unsafe impl<T: ?Sized + Sync> Sync for MutexGuard<'_, T> {}

impl<T> Mutex<T> {
    /// An unlocked mutex of this class.
    pub const fn new(class: &'static LockClass, value: T) -> Self {
        Self { class, state: Word::new(FREE), value: UnsafeCell::new(value) }
    }
    /// Take the value out.
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Lock, sleeping while another thread holds it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        check::before(self.class);
        if self.state.compare_exchange(FREE, LOCKED, Acquire, Relaxed).is_err() {
            self.lock_slow();
        }
        check::acquired(self.class);
        MutexGuard { lock: self, _not_send: core::marker::PhantomData }
    }
    #[cold]
    fn lock_slow(&self) {
        let free = || {
            self.state.load(Relaxed) == FREE
                && self.state.compare_exchange(FREE, LOCKED, Acquire, Relaxed).is_ok()
        };
        if crate::wait::spin(free) {
            return;
        }
        crate::wait::note_contention();
        while self.state.swap(CONTENDED, Acquire) != FREE {
            self.state.wait(CONTENDED);
        }
    }
    /// Lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.state.compare_exchange(FREE, LOCKED, Acquire, Relaxed).ok()?;
        check::acquired(self.class);
        Some(MutexGuard { lock: self, _not_send: core::marker::PhantomData })
    }
    /// Does somebody hold it just now?
    pub fn is_locked(&self) -> bool {
        self.state.load(Relaxed) != FREE
    }
    /// The value, when the lock is known to be unshared.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
    #[inline]
    pub(crate) fn unlock(&self) {
        check::released(self.class);
        if self.state.swap(FREE, Release) == CONTENDED {
            self.state.wake_one();
        }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.unlock();
    }
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while its thread holds the lock.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard exists only while its thread holds the lock, exclusively.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T: ?Sized + core::fmt::Debug> core::fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Mutex({})", self.class.name)
    }
}
