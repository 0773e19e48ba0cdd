//! Many readers or one writer, blocking.

use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use crate::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use crate::backend::Word;
use crate::check::{self, LockClass};
use crate::wait::WaitQueue;

/// One writer holds the lock.
const WRITER: u32 = 1 << 31;
/// One waiting writer; readers let waiting writers go first.
const WAITING: u32 = 1 << 16;
const WAITERS: u32 = WRITER - WAITING;
const READERS: u32 = WAITING - 1;

/// A lock that many readers or one writer hold; others sleep. Writers go first.
pub struct RwLock<T: ?Sized> {
    class: &'static LockClass,
    state: Word,
    queue: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: readers share `&T`, a writer has `&mut T`; both may be on any thread.
unsafe impl<T: ?Sized + Send> Send for RwLock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for RwLock<T> {}

/// Shared access to what an [`RwLock`] protects.
#[must_use = "dropping the guard unlocks at once"]
pub struct RwLockReadGuard<'a, T: ?Sized>(&'a RwLock<T>, core::marker::PhantomData<*mut ()>);
/// Exclusive access to what an [`RwLock`] protects.
#[must_use = "dropping the guard unlocks at once"]
pub struct RwLockWriteGuard<'a, T: ?Sized>(&'a RwLock<T>, core::marker::PhantomData<*mut ()>);

impl<T> RwLock<T> {
    /// An unlocked lock of this class.
    pub const fn new(class: &'static LockClass, value: T) -> Self {
        Self { class, state: Word::new(0), queue: WaitQueue::new(), value: UnsafeCell::new(value) }
    }
}

impl<T: ?Sized> RwLock<T> {
    /// Lock for reading, sleeping while a writer holds it or waits.
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        check::before(self.class);
        let free = || self.raw_read(WRITER | WAITERS);
        if !free() && !crate::wait::spin(free) {
            crate::wait::note_contention();
            self.queue.wait_until(|| self.raw_read(WRITER | WAITERS).then_some(()));
        }
        check::acquired(self.class);
        RwLockReadGuard(self, core::marker::PhantomData)
    }
    /// Lock for writing, sleeping while anybody holds it.
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        check::before(self.class);
        if self.state.compare_exchange(0, WRITER, Acquire, Relaxed).is_err() {
            self.write_slow();
        }
        check::acquired(self.class);
        RwLockWriteGuard(self, core::marker::PhantomData)
    }
    #[cold]
    fn write_slow(&self) {
        if crate::wait::spin(|| self.state.compare_exchange(0, WRITER, Acquire, Relaxed).is_ok()) {
            return;
        }
        crate::wait::note_contention();
        self.state.fetch_add(WAITING, SeqCst);
        self.queue.wait_until(|| {
            let now = self.state.load(SeqCst);
            (now & (READERS | WRITER) == 0
                && self
                    .state
                    .compare_exchange(now, (now - WAITING) | WRITER, Acquire, Relaxed)
                    .is_ok())
            .then_some(())
        });
    }
    /// Lock for reading unless that would wait.
    #[inline]
    pub fn try_read(&self) -> Option<RwLockReadGuard<'_, T>> {
        if !self.raw_read(WRITER | WAITERS) {
            return None;
        }
        check::acquired(self.class);
        Some(RwLockReadGuard(self, core::marker::PhantomData))
    }
    /// Lock for writing unless that would wait.
    #[inline]
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, T>> {
        let now = self.state.load(Relaxed);
        if now & (READERS | WRITER) != 0 {
            return None;
        }
        self.state.compare_exchange(now, now | WRITER, Acquire, Relaxed).ok()?;
        check::acquired(self.class);
        Some(RwLockWriteGuard(self, core::marker::PhantomData))
    }
    #[inline]
    fn raw_read(&self, excluded: u32) -> bool {
        let mut now = self.state.load(Relaxed);
        while now & excluded == 0 {
            match self.state.compare_exchange_weak(now, now + 1, Acquire, Relaxed) {
                Ok(_) => return true,
                Err(other) => now = other,
            }
        }
        false
    }
    /// The value, when the lock is known to be unshared.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: ?Sized> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        check::released(self.0.class);
        if self.0.state.fetch_sub(1, Release) & READERS == 1 {
            self.0.queue.wake_all();
        }
    }
}
impl<T: ?Sized> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        check::released(self.0.class);
        self.0.state.fetch_and(!WRITER, Release);
        self.0.queue.wake_all();
    }
}
impl<T: ?Sized> Deref for RwLockReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: while the guard lives no writer holds the lock.
        unsafe { &*self.0.value.get() }
    }
}
impl<T: ?Sized> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread alone holds the lock.
        unsafe { &*self.0.value.get() }
    }
}
impl<T: ?Sized> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard's thread alone holds the lock.
        unsafe { &mut *self.0.value.get() }
    }
}
