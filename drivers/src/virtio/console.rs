//! virtio-console: one stream of bytes each way (port 0), binary safe.
//!
//! Received bytes wait in the device's hands until a reader takes them: a full ring is
//! what slows the other side down. Sent bytes are copied to buffers of the driver, so a
//! writer waits only when all of them are on their way.
//!
//! Owns: the buffers. Locks: `VIRTQUEUE`, one a direction, never while waiting.

#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ptr::NonNull;

use holdfast_sync::Mutex;
use virtio_drivers::transport::{DeviceStatus, Transport};

use super::discovery::Device;
use super::link::{self, Doorbell, Link, Signal};
use super::ring::{Chain, Ring, Used};
use super::{Error, VIRTIO_CONTROL, VIRTQUEUE};
use crate::hardware::{DmaPages, PAGE_SIZE};

const RECEIVE_QUEUE: u16 = 0;
const TRANSMIT_QUEUE: u16 = 1;
/// Buffers received into, of a page each.
const RECEIVE_BUFFERS: u16 = 16;
/// Buffers sent from.
const TRANSMIT_BUFFERS: u16 = 16;
/// Pages in a buffer to send from. Large ones make few notifications of much data.
const TRANSMIT_PAGES: usize = 4;
const TRANSMIT_BYTES: usize = TRANSMIT_PAGES * PAGE_SIZE;

/// A console. Dropping it resets the device; what was not sent is lost, see
/// [`Console::drain`].
pub struct Console {
    receive: Direction<Receive>,
    transmit: Direction<Transmit>,
    control: Mutex<Box<dyn Control>>,
}

trait Control: Send {
    fn ready(&mut self);
    fn reset(&mut self);
}

impl<T: Transport + Send> Control for T {
    fn ready(&mut self) {
        self.finish_init();
    }
    fn reset(&mut self) {
        self.set_status(DeviceStatus::empty());
    }
}

struct Direction<S> {
    state: Mutex<S>,
    signal: Arc<Signal>,
    doorbell: Doorbell,
}

struct Receive {
    buffers: Buffers,
    /// Filled and not yet read: buffer, bytes in it, bytes read.
    filled: VecDeque<(u16, usize, usize)>,
    /// The device broke the rules; nothing comes any more.
    broken: bool,
}

struct Transmit {
    buffers: Buffers,
    free: Vec<u16>,
    broken: bool,
}

/// The buffers of one direction; what is in the device's hands is not touched.
struct Buffers {
    ring: Ring,
    chain: Chain,
    memory: Vec<DmaPages>,
    /// Bytes of each that the device has.
    given: Vec<usize>,
    writable: bool,
}

impl Buffers {
    fn new(ring: Ring, count: u16, pages: usize, writable: bool) -> Option<Self> {
        let count = count.min(ring.size());
        let memory = (0..count).map(|_| DmaPages::new(pages)).collect::<Option<Vec<_>>>()?;
        let given = alloc::vec![0; memory.len()];
        Some(Self { ring, chain: Chain::default(), memory, given, writable })
    }
    fn count(&self) -> u16 {
        self.memory.len() as u16
    }
    /// The first bytes of a buffer that the device does not have.
    fn bytes(&mut self, slot: u16, bytes: usize) -> NonNull<[u8]> {
        self.memory[usize::from(slot)].part(0, bytes)
    }
    /// Give the device the first bytes of a buffer.
    fn give(&mut self, slot: u16, bytes: usize) -> Result<(), Error> {
        let Self { ring, chain, memory, given, writable } = self;
        given[usize::from(slot)] = bytes;
        fill(chain, *writable, memory[usize::from(slot)].part(0, bytes));
        // SAFETY: the buffer is ours and nobody touches it until the ring gave it back; the
        // device is reset before the memory goes.
        unsafe { ring.add(slot, chain) }
    }
    /// A buffer the device is through with, and its word how many bytes it wrote.
    fn take(&mut self) -> Option<Result<(u16, usize), ()>> {
        let Self { ring, chain, memory, given, writable } = self;
        let rebuild = |slot: u16, chain: &mut Chain| {
            let slot = usize::from(slot);
            fill(chain, *writable, memory[slot].part(0, given[slot]));
        };
        Some(match ring.take(chain, rebuild)? {
            // It cannot have written more than it was given.
            Used::Slot(slot, len) => Ok((slot, (len as usize).min(given[usize::from(slot)]))),
            Used::Violation => Err(()),
        })
    }
}

fn fill(chain: &mut Chain, writable: bool, buffer: NonNull<[u8]>) {
    chain.clear();
    if writable {
        chain.push_writable(buffer);
    } else {
        chain.push_readable(buffer);
    }
}

impl Console {
    /// Take a console into service.
    ///
    /// # Errors
    /// The device offers too little, or there is no memory.
    pub fn new(device: Device) -> Result<Self, Error> {
        let (transport, link) = device.into_parts();
        Self::over(transport, link)
    }
    fn over<T>(mut transport: T, mut link: Box<dyn Link>) -> Result<Self, Error>
    where
        T: Transport + Send + 'static,
    {
        // No further ports: the device then connects port 0 by itself.
        link::negotiate(&mut transport, 0)?;
        let signals = [Arc::new(Signal::default()), Arc::new(Signal::default())];
        link.connect(&signals)?;
        let [receive_signal, transmit_signal] = signals;
        let ring = Ring::new(&mut transport, RECEIVE_QUEUE, 64, false)?;
        let buffers = Buffers::new(ring, RECEIVE_BUFFERS, 1, true).ok_or(Error::NoMemory)?;
        let receive = Receive { buffers, filled: VecDeque::new(), broken: false };
        let ring = Ring::new(&mut transport, TRANSMIT_QUEUE, 64, false)?;
        let mut buffers =
            Buffers::new(ring, TRANSMIT_BUFFERS, TRANSMIT_PAGES, false).ok_or(Error::NoMemory)?;
        buffers.ring.set_interrupts(false);
        let transmit = Transmit { free: (0..buffers.count()).collect(), buffers, broken: false };
        let console = Self {
            receive: Direction {
                state: Mutex::new(&VIRTQUEUE, receive),
                signal: receive_signal,
                doorbell: link.doorbell(RECEIVE_QUEUE)?,
            },
            transmit: Direction {
                state: Mutex::new(&VIRTQUEUE, transmit),
                signal: transmit_signal,
                doorbell: link.doorbell(TRANSMIT_QUEUE)?,
            },
            control: Mutex::new(&VIRTIO_CONTROL, Box::new(transport)),
        };
        console.start()?;
        Ok(console)
    }
    fn start(&self) -> Result<(), Error> {
        let mut receive = self.receive.state.lock();
        for slot in 0..receive.buffers.count() {
            receive.buffers.give(slot, PAGE_SIZE)?;
        }
        drop(receive);
        self.control.lock().ready();
        (self.receive.doorbell)();
        Ok(())
    }
    /// Take what has been received, up to the size of `dst`; waits for the first byte.
    /// Returns the number of bytes, 0 if nothing can come any more.
    pub fn read(&self, dst: &mut [u8]) -> usize {
        self.receive.signal.wait_for(|| self.try_read(dst))
    }
    /// As [`Console::read`], without waiting: nothing if nothing is there.
    pub fn try_read(&self, dst: &mut [u8]) -> Option<usize> {
        if dst.is_empty() {
            return Some(0);
        }
        let (count, ring) = self.receive.state.lock().read(dst)?;
        if ring {
            (self.receive.doorbell)();
        }
        Some(count)
    }
    /// Send all of `src`; waits while every buffer is on its way. False if the device takes
    /// nothing any more.
    pub fn write(&self, src: &[u8]) -> bool {
        src.chunks(TRANSMIT_BYTES).all(|part| {
            let sent = self.transmit.signal.wait_for(|| self.transmit.state.lock().write(part));
            if sent == Some(true) {
                (self.transmit.doorbell)();
            }
            sent.is_some()
        })
    }
    /// Wait until everything written has reached the other side.
    pub fn drain(&self) {
        self.transmit.signal.wait_for(|| self.transmit.state.lock().drained().then_some(()));
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.control.lock().reset();
    }
}

impl Receive {
    /// Bytes taken, and whether the doorbell must be rung. Nothing: wait.
    fn read(&mut self, dst: &mut [u8]) -> Option<(usize, bool)> {
        while let Some(used) = self.buffers.take() {
            match used {
                Ok((slot, 0)) => drop(self.buffers.give(slot, PAGE_SIZE)),
                Ok((slot, len)) => self.filled.push_back((slot, len, 0)),
                Err(()) => {
                    self.broken = true;
                    break;
                }
            }
        }
        let mut count = 0;
        let mut given = false;
        while count < dst.len()
            && let Some((slot, len, read)) = self.filled.front_mut()
        {
            let part = (*len - *read).min(dst.len() - count);
            let buffer = self.buffers.memory[usize::from(*slot)].part(*read, part);
            // SAFETY: inside a buffer that the device gave back; `dst` is elsewhere.
            unsafe {
                core::ptr::copy_nonoverlapping(
                    buffer.as_ptr().cast::<u8>(),
                    dst[count..].as_mut_ptr(),
                    part,
                );
            }
            *read += part;
            count += part;
            if read == len {
                let slot = *slot;
                self.filled.pop_front();
                given |= !self.broken && self.buffers.give(slot, PAGE_SIZE).is_ok();
            }
        }
        if count == 0 && !self.broken {
            return None;
        }
        Some((count, given && self.buffers.ring.wants_doorbell()))
    }
}

impl Transmit {
    fn reclaim(&mut self) {
        while !self.broken
            && let Some(used) = self.buffers.take()
        {
            match used {
                Ok((slot, _)) => self.free.push(slot),
                Err(()) => self.broken = true,
            }
        }
    }
    /// Take back what was sent. If that leaves `enough` false, have the device interrupt.
    fn reclaim_until(&mut self, enough: impl Fn(&Self) -> bool) -> bool {
        self.reclaim();
        if !enough(self) && !self.broken {
            self.buffers.ring.set_interrupts(true);
            // What was sent before interrupts were on raised none.
            self.reclaim();
        }
        if self.broken || enough(self) {
            self.buffers.ring.set_interrupts(false);
            return true;
        }
        false
    }
    /// Send up to a buffer. Nothing: wait. Then: must the doorbell be rung; nothing when the
    /// device is broken.
    #[allow(clippy::option_option)]
    fn write(&mut self, part: &[u8]) -> Option<Option<bool>> {
        if !self.reclaim_until(|s| !s.free.is_empty()) {
            return None;
        }
        let Some(slot) = self.free.pop().filter(|_| !self.broken) else { return Some(None) };
        let buffer = self.buffers.bytes(slot, part.len());
        // SAFETY: a buffer of ours that the device does not have, long enough.
        unsafe {
            core::ptr::copy_nonoverlapping(part.as_ptr(), buffer.as_ptr().cast::<u8>(), part.len());
        }
        match self.buffers.give(slot, part.len()) {
            Ok(()) => Some(Some(self.buffers.ring.wants_doorbell())),
            Err(_) => Some(None),
        }
    }
    fn drained(&mut self) -> bool {
        self.reclaim_until(|s| s.free.len() == s.buffers.memory.len())
    }
}
