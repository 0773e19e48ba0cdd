//! What a driver needs of a device's bus besides virtio-drivers' `Transport`: interrupts
//! that reach threads, and doorbells that need no lock.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::fmt;

use holdfast_sync::WaitQueue;
use holdfast_sync::atomic::{AtomicU32, Ordering::SeqCst};
use virtio_drivers::transport::{DeviceStatus, Transport};

use super::feature;

/// Why a device cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// Its registers cannot be reached.
    Registers,
    /// It has no interrupt that we can use.
    Interrupts,
    /// It offers or accepts no set of features we can work with.
    Features,
    /// What it says about itself makes no sense; says what.
    Configuration(&'static str),
    /// No memory for queues.
    NoMemory,
    /// virtio-drivers refused it.
    Transport(virtio_drivers::Error),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registers => f.write_str("its registers cannot be reached"),
            Self::Interrupts => f.write_str("it has no usable interrupt"),
            Self::Features => f.write_str("no common set of features"),
            Self::Configuration(what) => write!(f, "bad configuration: {what}"),
            Self::NoMemory => f.write_str("no memory for its queues"),
            Self::Transport(e) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<virtio_drivers::Error> for Error {
    fn from(e: virtio_drivers::Error) -> Self {
        match e {
            virtio_drivers::Error::DmaError => Self::NoMemory,
            other => Self::Transport(other),
        }
    }
}

/// How an interrupt reaches a thread: raised there, waited for here. Never lost: what is
/// raised while nobody waits is found by the next who does.
#[derive(Default)]
pub(crate) struct Signal {
    pending: AtomicU32,
    waiters: WaitQueue,
}

impl Signal {
    /// The queue has news.
    pub(crate) const QUEUE: u32 = 1;
    /// The device's configuration has changed.
    pub(crate) const CONFIG: u32 = 2;
    /// The driver is to end.
    pub(crate) const STOP: u32 = 4;

    /// Callable from an interrupt.
    pub(crate) fn raise(&self, what: u32) {
        self.pending.fetch_or(what, SeqCst);
        self.waiters.wake_all();
    }
    /// Wait until something is raised, and take it.
    pub(crate) fn wait(&self) -> u32 {
        self.wait_for(|| {
            let pending = self.pending.swap(0, SeqCst);
            (pending != 0).then_some(pending)
        })
    }
    /// Wait until `ready`, which is tried again after every interrupt, returns a value.
    pub(crate) fn wait_for<R>(&self, ready: impl FnMut() -> Option<R>) -> R {
        self.waiters.wait_until(ready)
    }
    /// As [`Signal::wait_for`], for about so long.
    pub(crate) fn wait_for_at_most<R>(
        &self,
        timeout_ns: u64,
        ready: impl FnMut() -> Option<R>,
    ) -> Option<R> {
        self.waiters.wait_timeout(timeout_ns, ready)
    }
}

/// Tells the device that a queue has news. Needs no lock.
pub(crate) type Doorbell = Box<dyn Fn() + Send + Sync>;

/// The bus side of one device.
pub(crate) trait Link: Send {
    /// Connect the device's interrupts: queue `i` raises `signals[i]`, a change of the
    /// configuration raises [`Signal::CONFIG`] on the first. Before any queue is set up.
    fn connect(&mut self, signals: &[Arc<Signal>]) -> Result<(), Error>;
    /// The doorbell of a queue that is set up.
    fn doorbell(&mut self, queue: u16) -> Result<Doorbell, Error>;
}

/// Reset the device and agree on features: those offered that are also `wanted`, and
/// `VERSION_1` where it is offered. What was agreed.
pub(crate) fn negotiate<T: Transport>(transport: &mut T, wanted: u64) -> Result<u64, Error> {
    transport.set_status(DeviceStatus::empty());
    let known = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
    transport.set_status(known);
    let offered = transport.read_device_features();
    let agreed = offered & (wanted | feature::VERSION_1);
    if agreed & feature::VERSION_1 == 0 && !transport.requires_legacy_layout() {
        transport.set_status(known | DeviceStatus::FAILED);
        return Err(Error::Features);
    }
    transport.write_driver_features(agreed);
    if !transport.requires_legacy_layout() {
        transport.set_status(known | DeviceStatus::FEATURES_OK);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            transport.set_status(known | DeviceStatus::FAILED);
            return Err(Error::Features);
        }
    }
    transport.set_guest_page_size(crate::hardware::PAGE_SIZE as u32);
    Ok(agreed)
}
