//! One virtqueue: virtio-drivers' `VirtQueue` in the size the device can have, behind
//! tokens that are checked.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::sync::atomic::{Ordering, fence};

use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::Transport;

use super::Error;
use crate::hardware::{self, VirtioHal};

/// A piece of memory the device reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Physical address.
    pub phys: u64,
    /// Bytes.
    pub len: u32,
}

/// The buffers of one chain, in the order in which the device sees them; reused from chain
/// to chain.
#[derive(Default)]
pub(crate) struct Chain {
    readable: Vec<NonNull<[u8]>>,
    writable: Vec<NonNull<[u8]>>,
}

// SAFETY: addresses only; a chain is filled and used under the lock of its queue.
unsafe impl Send for Chain {}

impl Chain {
    pub(crate) fn clear(&mut self) {
        self.readable.clear();
        self.writable.clear();
    }
    pub(crate) fn push_readable(&mut self, buffer: NonNull<[u8]>) {
        self.readable.push(buffer);
    }
    pub(crate) fn push_writable(&mut self, buffer: NonNull<[u8]>) {
        self.writable.push(buffer);
    }
    /// Add memory that `each` tells piece by piece, physically adjacent pieces as one of up
    /// to `limit` bytes; what is longer is cut.
    pub(crate) fn push_extents(
        &mut self,
        writable: bool,
        limit: u32,
        tell: impl FnOnce(&mut dyn FnMut(Extent)),
    ) {
        let out = if writable { &mut self.writable } else { &mut self.readable };
        let mut push = |mut phys: u64, mut len: u64| {
            while len > 0 {
                let part = len.min(u64::from(limit));
                let virt = hardware::get().phys_to_virt(phys);
                out.push(NonNull::slice_from_raw_parts(virt, part as usize));
                phys += part;
                len -= part;
            }
        };
        let (mut start, mut len) = (0, 0_u64);
        tell(&mut |extent| {
            if len > 0 && start + len == extent.phys {
                len += u64::from(extent.len);
            } else {
                push(start, len);
                (start, len) = (extent.phys, u64::from(extent.len));
            }
        });
        push(start, len);
    }
    pub(crate) fn len(&self) -> usize {
        self.readable.len() + self.writable.len()
    }
}

/// The sizes a queue can have here, largest first.
const SIZES: [u16; 5] = [256, 128, 64, 32, 16];

// virtio-drivers takes the table of an indirect chain from the heap, and the device reads it
// as one piece: it must not be larger than what lies physically in one piece there.
const _: () = assert!(SIZES[0] as usize * 16 <= hardware::PAGE_SIZE);

/// `VirtQueue`, whatever its size. Tokens are below the size.
trait Raw: Send {
    /// # Safety
    /// The buffers stay valid until the token was popped or the device was reset.
    unsafe fn add(&mut self, chain: &mut Chain) -> Result<u16, virtio_drivers::Error>;
    /// # Safety
    /// The chain is the one that got this token.
    unsafe fn pop(&mut self, token: u16, chain: &mut Chain) -> Result<u32, virtio_drivers::Error>;
    fn peek(&self) -> Option<u16>;
    fn room(&self) -> usize;
    fn wants_doorbell(&self) -> bool;
    fn set_interrupts(&mut self, on: bool);
}

/// The same list as references.
///
/// # Safety
/// Nobody reads or writes through them, and they are gone before the memory is.
unsafe fn shared(list: &[NonNull<[u8]>]) -> &[&[u8]] {
    // SAFETY: a `NonNull<[u8]>` and a `&[u8]` are the same two words.
    unsafe { core::slice::from_raw_parts(list.as_ptr().cast(), list.len()) }
}

/// The same list as exclusive references.
///
/// # Safety
/// As for [`shared`].
unsafe fn exclusive(list: &mut [NonNull<[u8]>]) -> &mut [&mut [u8]] {
    // SAFETY: a `NonNull<[u8]>` and a `&mut [u8]` are the same two words.
    unsafe { core::slice::from_raw_parts_mut(list.as_mut_ptr().cast(), list.len()) }
}

impl<const N: usize> Raw for VirtQueue<VirtioHal, N> {
    unsafe fn add(&mut self, chain: &mut Chain) -> Result<u16, virtio_drivers::Error> {
        // SAFETY: `VirtQueue` takes addresses and lengths and touches no contents; the caller
        // keeps the memory.
        unsafe { VirtQueue::add(self, shared(&chain.readable), exclusive(&mut chain.writable)) }
    }
    unsafe fn pop(&mut self, token: u16, chain: &mut Chain) -> Result<u32, virtio_drivers::Error> {
        // SAFETY: as above; the caller passes the chain that was added.
        unsafe { self.pop_used(token, shared(&chain.readable), exclusive(&mut chain.writable)) }
    }
    fn peek(&self) -> Option<u16> {
        self.peek_used()
    }
    fn room(&self) -> usize {
        self.available_desc()
    }
    fn wants_doorbell(&self) -> bool {
        self.should_notify()
    }
    fn set_interrupts(&mut self, on: bool) {
        self.set_dev_notify(on);
    }
}

/// What the device gave back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Used {
    /// The chain in this slot. The length is the device's word.
    Slot(u16, u32),
    /// Something we never gave it.
    Violation,
}

/// One virtqueue with a slot for each of its tokens.
pub(crate) struct Ring {
    raw: Box<dyn Raw>,
    size: u16,
    /// The slot whose chain has this token.
    slot_of: Vec<Option<u16>>,
    in_use: u16,
}

impl Ring {
    /// Set up queue `index` of the device, as large as both sides can, at most `limit`.
    pub(crate) fn new<T: Transport>(
        transport: &mut T,
        index: u16,
        limit: u16,
        indirect: bool,
    ) -> Result<Self, Error> {
        let most = transport.max_queue_size(index).min(u32::from(limit));
        let size = *SIZES
            .iter()
            .find(|&&s| u32::from(s) <= most)
            .ok_or(Error::Configuration("a queue has no room"))?;
        // Event indexes stay off: with several additions a notification, virtio-drivers'
        // comparison fails when the index wraps.
        let events = false;
        let raw: Box<dyn Raw> = match size {
            256 => Box::new(VirtQueue::<_, 256>::new(transport, index, indirect, events)?),
            128 => Box::new(VirtQueue::<_, 128>::new(transport, index, indirect, events)?),
            64 => Box::new(VirtQueue::<_, 64>::new(transport, index, indirect, events)?),
            32 => Box::new(VirtQueue::<_, 32>::new(transport, index, indirect, events)?),
            _ => Box::new(VirtQueue::<_, 16>::new(transport, index, indirect, events)?),
        };
        Ok(Self { raw, size, slot_of: vec![None; usize::from(size)], in_use: 0 })
    }
    /// Chains there can be at once, and descriptors in one.
    pub(crate) const fn size(&self) -> u16 {
        self.size
    }
    /// Is there room for a chain of so many buffers now?
    pub(crate) fn has_room(&self, buffers: usize) -> bool {
        self.in_use < self.size && buffers <= self.raw.room()
    }
    /// Give the device a chain. Fails when there is no room.
    ///
    /// # Safety
    /// The buffers stay valid until [`Ring::take`] returned this slot or the device was reset.
    pub(crate) unsafe fn add(&mut self, slot: u16, chain: &mut Chain) -> Result<(), Error> {
        // SAFETY: the caller's promise.
        let token = unsafe { self.raw.add(chain)? };
        let entry = &mut self.slot_of[usize::from(token)];
        debug_assert!(entry.is_none(), "a token was given twice");
        *entry = Some(slot);
        self.in_use += 1;
        Ok(())
    }
    /// The next chain the device is through with. `rebuild` fills in the chain of a slot as
    /// it was when it was added.
    pub(crate) fn take(
        &mut self,
        chain: &mut Chain,
        rebuild: impl FnOnce(u16, &mut Chain),
    ) -> Option<Used> {
        let token = self.raw.peek()?;
        let Some(slot) = self.slot_of.get_mut(usize::from(token)).and_then(Option::take) else {
            return Some(Used::Violation);
        };
        rebuild(slot, chain);
        // SAFETY: the token is one of ours and in use, and this is its chain.
        match unsafe { self.raw.pop(token, chain) } {
            Ok(length) => {
                self.in_use -= 1;
                Some(Used::Slot(slot, length))
            }
            // The entry changed between two looks at it.
            Err(_) => Some(Used::Violation),
        }
    }
    /// Has the device given something back that was not taken?
    pub(crate) fn has_used(&self) -> bool {
        self.raw.peek().is_some()
    }
    /// After additions: must the doorbell be rung?
    pub(crate) fn wants_doorbell(&self) -> bool {
        // Our index must be visible before we look whether the device sleeps, or both sides
        // could miss each other.
        fence(Ordering::SeqCst);
        self.raw.wants_doorbell()
    }
    /// Ask for interrupts or against them (a hint). After asking for them, look once more
    /// whether something was used meanwhile.
    pub(crate) fn set_interrupts(&mut self, on: bool) {
        self.raw.set_interrupts(on);
        fence(Ordering::SeqCst);
    }
}
