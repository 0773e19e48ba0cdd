//! The two directions of a port.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::buffers::Buffers;
use crate::virtio::Error;

/// What comes in. Bytes wait in the device's buffers until a reader takes them.
pub(super) struct Receive {
    buffers: Buffers,
    /// Filled and not yet read: buffer, bytes in it, bytes read.
    filled: VecDeque<(u16, usize, usize)>,
}

impl Receive {
    /// All buffers go to the device.
    pub(super) fn new(mut buffers: Buffers) -> Result<Self, Error> {
        for slot in 0..buffers.count() {
            buffers.give(slot, buffers.slot_bytes())?;
        }
        Ok(Self { buffers, filled: VecDeque::new() })
    }
    pub(super) fn tell(&mut self) {
        self.buffers.tell();
    }
    /// Take bytes. Nothing: wait. 0: nothing will come.
    pub(super) fn read(&mut self, dst: &mut [u8]) -> Option<usize> {
        let mut given = false;
        while let Some((slot, len)) = self.buffers.take() {
            if len == 0 {
                given |= self.buffers.give(slot, self.buffers.slot_bytes()).is_ok();
            } else {
                self.filled.push_back((slot, len, 0));
            }
        }
        let mut count = 0;
        while count < dst.len()
            && let Some((slot, len, read)) = self.filled.front_mut()
        {
            let part = (*len - *read).min(dst.len() - count);
            self.buffers.read(*slot, *read, &mut dst[count..count + part]);
            *read += part;
            count += part;
            if read == len {
                let slot = *slot;
                self.filled.pop_front();
                given |= self.buffers.give(slot, self.buffers.slot_bytes()).is_ok();
            }
        }
        if given && !self.buffers.is_broken() {
            self.buffers.tell();
        }
        (count > 0 || self.buffers.is_broken()).then_some(count)
    }
}

/// What goes out. Bytes are copied to buffers of ours, so a writer waits only when all of
/// them are on their way.
pub(super) struct Transmit {
    buffers: Buffers,
    free: Vec<u16>,
}

/// The device takes nothing any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl Transmit {
    pub(super) fn new(mut buffers: Buffers) -> Self {
        buffers.ring.set_interrupts(false);
        Self { free: (0..buffers.count()).collect(), buffers }
    }
    fn reclaim(&mut self) {
        while let Some((slot, _)) = self.buffers.take() {
            self.free.push(slot);
        }
    }
    /// Take back what was sent. If that is not `enough`, have the device interrupt.
    fn reclaim_until(&mut self, enough: impl Fn(&Self) -> bool) -> bool {
        let ready = |s: &Self| s.buffers.is_broken() || enough(s);
        self.reclaim();
        if !ready(self) {
            self.buffers.ring.set_interrupts(true);
            // What was sent before interrupts were on raised none.
            self.reclaim();
        }
        if !ready(self) {
            return false;
        }
        self.buffers.ring.set_interrupts(false);
        true
    }
    /// Send as much of `src` as there is room for: the bytes taken. Nothing: wait.
    pub(super) fn write(&mut self, src: &[u8]) -> Option<Result<usize, Broken>> {
        if !self.reclaim_until(|s| !s.free.is_empty()) {
            return None;
        }
        let mut taken = 0;
        for part in src.chunks(self.buffers.slot_bytes()) {
            if self.buffers.is_broken() {
                return Some(Err(Broken));
            }
            let Some(slot) = self.free.pop() else { break };
            self.buffers.write(slot, part);
            if self.buffers.give(slot, part.len()).is_err() {
                return Some(Err(Broken));
            }
            taken += part.len();
        }
        self.buffers.tell();
        Some(Ok(taken))
    }
    /// Has everything been sent, or can nothing be any more?
    pub(super) fn drained(&mut self) -> bool {
        self.reclaim_until(|s| s.free.len() == usize::from(s.buffers.count()))
    }
}
