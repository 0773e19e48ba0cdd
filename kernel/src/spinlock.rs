//! The lock below all others: spins, with interrupts off.

use core::ops::{Deref, DerefMut};

use crate::arch::cpu;

/// Data that threads and interrupt handlers share.
///
/// While it is held, interrupts of the holder's processor are off, so the holder is
/// neither interrupted nor preempted and an interrupt handler may take the same lock.
/// A waiter answers TLB shootdowns, because their sender may hold the lock.
#[derive(Default)]
pub struct SpinLock<T: ?Sized> {
    inner: spin::Mutex<T>,
}

/// Access to what a [`SpinLock`] protects.
#[must_use = "dropping the guard unlocks at once"]
pub struct SpinGuard<'a, T: ?Sized> {
    inner: Option<spin::MutexGuard<'a, T>>,
    interrupts: bool,
    _not_send: core::marker::PhantomData<*mut ()>,
}

impl<T> SpinLock<T> {
    /// An unlocked lock.
    pub const fn new(value: T) -> Self {
        Self { inner: spin::Mutex::new(value) }
    }
}

impl<T: ?Sized> SpinLock<T> {
    /// Lock, with interrupts off until the guard is dropped.
    #[inline]
    pub fn lock(&self) -> SpinGuard<'_, T> {
        let interrupts = cpu::save_interrupts();
        let inner = match self.inner.try_lock() {
            Some(guard) => guard,
            None => self.contended(),
        };
        SpinGuard { inner: Some(inner), interrupts, _not_send: core::marker::PhantomData }
    }
    #[cold]
    fn contended(&self) -> spin::MutexGuard<'_, T> {
        loop {
            while self.inner.is_locked() {
                crate::mm::tlb::poll();
                core::hint::spin_loop();
            }
            if let Some(guard) = self.inner.try_lock() {
                return guard;
            }
        }
    }
    /// Lock if nobody holds it.
    #[inline]
    pub fn try_lock(&self) -> Option<SpinGuard<'_, T>> {
        let interrupts = cpu::save_interrupts();
        match self.inner.try_lock() {
            Some(inner) => Some(SpinGuard {
                inner: Some(inner),
                interrupts,
                _not_send: core::marker::PhantomData,
            }),
            None => {
                cpu::restore_interrupts(interrupts);
                None
            }
        }
    }
    /// Break the lock open: for reports when nothing else runs any more.
    ///
    /// # Safety
    /// Whoever holds it never goes on.
    pub unsafe fn force_unlock(&self) {
        // SAFETY: the caller's promise.
        unsafe { self.inner.force_unlock() };
    }
}

impl<T: ?Sized> SpinGuard<'_, T> {
    /// Unlock, but leave interrupts off; the caller turns them on.
    pub(crate) fn unlock_keeping_interrupts_off(mut self) {
        self.interrupts = false;
    }
}

impl<T: ?Sized> Drop for SpinGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.inner = None;
        cpu::restore_interrupts(self.interrupts);
    }
}

impl<T: ?Sized> Deref for SpinGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        match &self.inner {
            Some(guard) => guard,
            // SAFETY: only `drop` takes the inner guard away.
            None => unsafe { core::hint::unreachable_unchecked() },
        }
    }
}
impl<T: ?Sized> DerefMut for SpinGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.inner {
            Some(guard) => guard,
            // SAFETY: only `drop` takes the inner guard away.
            None => unsafe { core::hint::unreachable_unchecked() },
        }
    }
}
