//! virtio-blk: a disk.
//!
//! ```text
//! any thread                       interrupt            the queue's completion thread
//! submit: slot, chain, add            |                      |
//!    (no slot: backlog)               |                      |
//! kick: doorbell                      |                      |
//!    ... the device works ...      raise signal  ------->  take a batch under the lock,
//!                                                          start the backlog, doorbell,
//!                                                          then complete, unlocked
//! ```
//!
//! A device offers one queue a processor; a request goes to that of the processor it was
//! submitted on. Each queue has its own interrupt and its own completion thread. The
//! device's interrupts are off while that thread works.
//!
//! | module | |
//! |--------|--|
//! | `config` | features and limits |
//! | `lane` | one queue: slots, backlog, chains, completion |
//!
//! Owns: requests from submission to completion. Lock: `VIRTQUEUE`, one a queue.

mod config;
mod lane;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicBool, AtomicU64, Ordering};
use holdfast_sync::thread::{self, Priority};
use virtio_drivers::transport::{DeviceStatus, Transport};

pub use super::ring::Extent;
pub use config::Properties;

use super::discovery::Device;
use super::link::{self, Link, Signal};
use super::ring::Ring;
use super::{Error, VIRTIO_CONTROL};
use lane::Lane;

/// Bytes in a sector, the unit of positions.
pub const SECTOR_BYTES: u64 = 512;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Device to memory, from this sector on.
    Read {
        /// The first sector.
        sector: u64,
    },
    /// Memory to device, from this sector on.
    Write {
        /// The first sector.
        sector: u64,
    },
    /// Make completed writes durable.
    Flush,
    /// Forget a range.
    Discard {
        /// The first sector.
        sector: u64,
        /// How many.
        sectors: u32,
    },
    /// Make a range read as zeros.
    WriteZeroes {
        /// The first sector.
        sector: u64,
        /// How many.
        sectors: u32,
    },
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockError {
    /// The device reported an error.
    Io,
    /// The device does not know the operation, or the request exceeds its limits.
    Unsupported,
    /// The device is out of service.
    Gone,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Io => "I/O error",
            Self::Unsupported => "not supported",
            Self::Gone => "device out of service",
        })
    }
}

impl core::error::Error for BlockError {}

/// One request, as its submitter has it. The driver keeps it until its end: no copy, no
/// allocation for it.
///
/// # Safety
/// The memory that [`Request::extents`] names is the submitter's to give to a device, and
/// stays so until [`Request::complete`] is called or the request is dropped. Every call
/// tells the same.
pub unsafe trait Request: Send + 'static {
    /// What to do.
    fn operation(&self) -> Operation;
    /// Tell the memory of a read or write, in order.
    fn extents(&self, tell: &mut dyn FnMut(Extent));
    /// The request has ended. Called on a thread, once, with no lock of the driver held.
    fn complete(self, result: Result<(), BlockError>);
}

/// What is left of the transport once the queues are set up.
trait Control: Send {
    fn capacity_sectors(&self) -> Option<u64>;
    fn needs_reset(&self) -> bool;
    /// After this the device touches no memory any more.
    fn reset(&mut self);
}

impl<T: Transport + Send> Control for T {
    fn capacity_sectors(&self) -> Option<u64> {
        config::capacity(self).ok()
    }
    fn needs_reset(&self) -> bool {
        self.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET)
    }
    fn reset(&mut self) {
        self.set_status(DeviceStatus::empty());
        // PCI: the reset is done when the status reads 0. A device that never gets there is
        // no device any more.
        for _ in 0..1_000_000 {
            if self.get_status().is_empty() {
                return;
            }
            core::hint::spin_loop();
        }
        log::error!("a virtio device does not finish its reset");
    }
}

/// A disk. Dropping it resets the device and fails what is in flight.
pub struct Block<R: Request> {
    shared: Arc<Shared<R>>,
}

struct Shared<R: Request> {
    name: String,
    properties: Properties,
    capacity_sectors: AtomicU64,
    /// Being taken out of service, or out of it.
    dead: AtomicBool,
    control: Mutex<Box<dyn Control>>,
    lanes: Vec<Lane<R>>,
}

impl<R: Request> Block<R> {
    /// Take a disk into service, under this name in messages and of its threads.
    ///
    /// # Errors
    /// The device offers too little, or there is no memory.
    pub fn new(device: Device, name: &str) -> Result<Self, Error> {
        let (transport, link) = device.into_parts();
        Self::over(transport, link, name)
    }
    fn over<T>(mut transport: T, mut link: Box<dyn Link>, name: &str) -> Result<Self, Error>
    where
        T: Transport + Send + 'static,
    {
        let agreed = link::negotiate(&mut transport, config::WANTED)?;
        let queues = config::queues(&transport, agreed)?.min(thread::cpu_count() as u16);
        let signals: Vec<_> = (0..queues).map(|_| Arc::new(Signal::default())).collect();
        link.connect(&signals)?;
        let mut rings = Vec::new();
        for index in 0..queues {
            rings.push(Ring::new(&mut transport, index, u16::MAX, config::indirect(agreed))?);
        }
        let depth = rings.iter().map(Ring::size).min().unwrap_or(0);
        let properties = Properties::read(&transport, agreed, queues, depth)?;
        let mut lanes = Vec::new();
        for ((index, ring), signal) in (0..).zip(rings).zip(signals) {
            let doorbell = link.doorbell(index)?;
            lanes.push(Lane::new(ring, signal, doorbell, &properties).ok_or(Error::NoMemory)?);
        }
        transport.finish_init();
        let shared = Arc::new(Shared {
            name: name.into(),
            capacity_sectors: AtomicU64::new(properties.capacity_sectors),
            properties,
            dead: AtomicBool::new(false),
            control: Mutex::new(&VIRTIO_CONTROL, Box::new(transport)),
            lanes,
        });
        for index in 0..usize::from(queues) {
            let theirs = shared.clone();
            let name = format!("{name}/{index}");
            drop(thread::spawn(&name, Priority::High, move || theirs.complete_loop(index)));
        }
        Ok(Self { shared })
    }
    /// What the disk is, as it was found.
    pub fn properties(&self) -> &Properties {
        &self.shared.properties
    }
    /// Its size now, in sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.shared.capacity_sectors.load(Ordering::Relaxed)
    }
    /// Start a request, without waiting. It is within the limits of [`Properties`]. The
    /// device may learn of it only with [`Block::kick`].
    pub fn submit(&self, request: R) {
        let shared = &self.shared;
        let lane = &shared.lanes[thread::cpu() % shared.lanes.len()];
        lane.submit(request);
    }
    /// Tell the device of everything submitted.
    pub fn kick(&self) {
        for lane in &self.shared.lanes {
            lane.kick();
        }
    }
}

impl<R: Request> Drop for Block<R> {
    fn drop(&mut self) {
        self.shared.retire("it is no longer used");
        for lane in &self.shared.lanes {
            lane.signal().raise(Signal::STOP);
        }
    }
}

impl<R: Request> Shared<R> {
    /// The completion thread of one queue.
    fn complete_loop(&self, index: usize) {
        let lane = &self.lanes[index];
        let mut ended = Vec::new();
        loop {
            let raised = lane.signal().wait();
            if raised & Signal::STOP != 0 {
                return;
            }
            if raised & Signal::CONFIG != 0 {
                self.configuration_changed();
            }
            while let Some(batch) = lane.reap(&mut ended) {
                for (request, result) in ended.drain(..) {
                    request.complete(result);
                }
                if batch.violation {
                    self.retire("it gave back what it was never given");
                }
            }
        }
    }
    fn configuration_changed(&self) {
        let (capacity, broken) = {
            let control = self.control.lock();
            (control.capacity_sectors(), control.needs_reset())
        };
        if broken {
            return self.retire("it asks to be reset");
        }
        if self.dead.load(Ordering::SeqCst) {
            return;
        }
        if let Some(capacity) = capacity {
            let before = self.capacity_sectors.swap(capacity, Ordering::Relaxed);
            if before != capacity {
                log::info!("{}: {before} sectors have become {capacity}", self.name);
            }
        }
    }
    /// Take the device out of service and fail everything it holds.
    fn retire(&self, why: &str) {
        if self.dead.swap(true, Ordering::SeqCst) {
            return;
        }
        log::info!("{}: out of service: {why}", self.name);
        self.control.lock().reset();
        // The device is reset: nothing reads or writes the requests' memory any more.
        for lane in &self.lanes {
            for request in lane.abandon() {
                request.complete(Err(BlockError::Gone));
            }
        }
    }
}
