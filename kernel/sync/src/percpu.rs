//! A readers-writer lock whose readers touch no cache line that another processor writes.

use alloc::boxed::Box;
use core::cell::UnsafeCell;
use core::ops::{Deref, DerefMut};

use crate::atomic::AtomicU32;
use crate::atomic::Ordering::SeqCst;
use crate::backend::Word;
use crate::check::{self, LockClass};
use crate::wait::WaitQueue;

/// The readers that entered on one processor (and may have moved since).
#[repr(align(64))]
struct Slot(AtomicU32);

/// Many readers or one writer; reading costs two atomic operations on a line of the
/// reader's own processor, writing looks at every processor's line.
///
/// A reader may sleep and may move to another processor; its guard remembers the slot.
///
/// ```text
/// reader                          writer
/// slot += 1                       writer = 1
/// writer == 0 ?  yes: in          every slot == 0 ?  yes: in
///                no: slot -= 1, wait                 no: wait
/// ```
/// Both sides store, then load, sequentially consistent: at least one sees the other.
pub struct PerCpuRwLock<T: ?Sized> {
    class: &'static LockClass,
    slots: Box<[Slot]>,
    writer: Word,
    queue: WaitQueue,
    value: UnsafeCell<T>,
}

// SAFETY: readers share `&T`, a writer has `&mut T`; both may be on any thread.
unsafe impl<T: ?Sized + Send> Send for PerCpuRwLock<T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Send + Sync> Sync for PerCpuRwLock<T> {}

/// Shared access to what a [`PerCpuRwLock`] protects.
#[must_use = "dropping the guard unlocks at once"]
pub struct PerCpuReadGuard<'a, T: ?Sized> {
    lock: &'a PerCpuRwLock<T>,
    slot: &'a AtomicU32,
    _not_send: core::marker::PhantomData<*mut ()>,
}
/// Exclusive access to what a [`PerCpuRwLock`] protects.
#[must_use = "dropping the guard unlocks at once"]
pub struct PerCpuWriteGuard<'a, T: ?Sized>(&'a PerCpuRwLock<T>, core::marker::PhantomData<*mut ()>);

impl<T> PerCpuRwLock<T> {
    /// An unlocked lock of this class, with a slot for every processor.
    pub fn new(class: &'static LockClass, value: T) -> Self {
        let slots = (0..crate::thread::cpu_count()).map(|_| Slot(AtomicU32::new(0))).collect();
        Self {
            class,
            slots,
            writer: Word::new(0),
            queue: WaitQueue::new(),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T: ?Sized> PerCpuRwLock<T> {
    /// Lock for reading, sleeping while a writer holds it or waits for readers to leave.
    #[inline]
    pub fn read(&self) -> PerCpuReadGuard<'_, T> {
        check::before(self.class);
        let slot = match self.enter() {
            Some(slot) => slot,
            None => self.read_slow(),
        };
        check::acquired(self.class);
        PerCpuReadGuard { lock: self, slot, _not_send: core::marker::PhantomData }
    }
    /// Lock for reading unless a writer is there.
    #[inline]
    pub fn try_read(&self) -> Option<PerCpuReadGuard<'_, T>> {
        let slot = self.enter()?;
        check::acquired(self.class);
        Some(PerCpuReadGuard { lock: self, slot, _not_send: core::marker::PhantomData })
    }
    #[inline]
    fn enter(&self) -> Option<&AtomicU32> {
        let cpu = crate::thread::cpu();
        let slot = &self.slots[if cpu < self.slots.len() { cpu } else { 0 }].0;
        slot.fetch_add(1, SeqCst);
        if self.writer.load(SeqCst) == 0 {
            return Some(slot);
        }
        self.leave(slot);
        None
    }
    #[cold]
    fn read_slow(&self) -> &AtomicU32 {
        if crate::wait::spin(|| self.writer.load(SeqCst) == 0)
            && let Some(slot) = self.enter()
        {
            return slot;
        }
        crate::wait::note_contention();
        self.queue.wait_until(|| (self.writer.load(SeqCst) == 0).then(|| self.enter()).flatten())
    }
    #[inline]
    fn leave(&self, slot: &AtomicU32) {
        slot.fetch_sub(1, SeqCst);
        if self.writer.load(SeqCst) != 0 {
            self.queue.wake_all();
        }
    }
    /// Lock for writing: keep new readers out, wait for those inside to leave.
    pub fn write(&self) -> PerCpuWriteGuard<'_, T> {
        check::before(self.class);
        let alone = || self.writer.compare_exchange(0, 1, SeqCst, SeqCst).ok();
        if alone().is_none() && !crate::wait::spin(|| alone().is_some()) {
            crate::wait::note_contention();
            self.queue.wait_until(alone);
        }
        if !self.quiet() && !crate::wait::spin(|| self.quiet()) {
            crate::wait::note_contention();
            self.queue.wait_until(|| self.quiet().then_some(()));
        }
        check::acquired(self.class);
        PerCpuWriteGuard(self, core::marker::PhantomData)
    }
    /// Lock for writing unless anybody holds it.
    pub fn try_write(&self) -> Option<PerCpuWriteGuard<'_, T>> {
        self.writer.compare_exchange(0, 1, SeqCst, SeqCst).ok()?;
        if !self.quiet() {
            self.writer.store(0, SeqCst);
            self.queue.wake_all();
            return None;
        }
        check::acquired(self.class);
        Some(PerCpuWriteGuard(self, core::marker::PhantomData))
    }
    #[inline]
    fn quiet(&self) -> bool {
        self.slots.iter().all(|s| s.0.load(SeqCst) == 0)
    }
    /// The value, when the lock is known to be unshared.
    pub fn get_mut(&mut self) -> &mut T {
        self.value.get_mut()
    }
}

impl<T: ?Sized> Drop for PerCpuReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        check::released(self.lock.class);
        self.lock.leave(self.slot);
    }
}
impl<T: ?Sized> Drop for PerCpuWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        check::released(self.0.class);
        self.0.writer.store(0, SeqCst);
        self.0.queue.wake_all();
    }
}
impl<T: ?Sized> Deref for PerCpuReadGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: while the guard lives no writer is in.
        unsafe { &*self.lock.value.get() }
    }
}
impl<T: ?Sized> Deref for PerCpuWriteGuard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the guard's thread alone is in.
        unsafe { &*self.0.value.get() }
    }
}
impl<T: ?Sized> DerefMut for PerCpuWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the guard's thread alone is in.
        unsafe { &mut *self.0.value.get() }
    }
}
