//! virtio-console: streams of bytes to and from the host, binary safe.
//!
//! A device has ports. Where it offers several (QEMU's `virtserialport`), each has a name,
//! says when its other end is closed, and holds a writer back while the host is slow.
//! QEMU's `virtconsole` does neither: the host's end of input is never seen, and output
//! that the host does not take at once is lost.
//!
//! | module | |
//! |--------|--|
//! | `buffers` | one queue's memory |
//! | `streams` | the two directions of a port |
//! | `control` | the queues on which device and driver agree about ports |
//!
//! Owns: the buffers. Locks: `VIRTIO_CONTROL` (for the control queues), then `VIRTQUEUE`,
//! one a direction; neither while waiting, but for start-up.

mod buffers;
mod control;
mod streams;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicBool, Ordering};
use virtio_drivers::transport::{DeviceStatus, Transport};

use super::discovery::Device;
use super::link::{self, Link, Signal};
use super::ring::Ring;
use super::{Error, VIRTIO_CONTROL, VIRTQUEUE};
use crate::hardware::PAGE_SIZE;
use buffers::Buffers;
use control::{Control, Event, MESSAGE_BYTES, Message, NO_PORT};
use streams::{Receive, Transmit};

/// The feature: several ports.
const MULTIPORT: u64 = 1 << 1;
/// In the configuration space: how many.
const MAX_NR_PORTS: usize = 4;
/// Ports we have queues for.
const MOST_PORTS: u32 = 4;

/// The control queues, after those of port 0.
const CONTROL_QUEUE: u16 = 2;
const CONTROL_BUFFERS: u16 = 32;
/// Buffers received into, of a page each.
const RECEIVE_BUFFERS: u16 = 16;
/// Buffers sent from. Large ones make few notifications of much data.
const TRANSMIT_BUFFERS: u16 = 8;
const TRANSMIT_BYTES: usize = 4 * PAGE_SIZE;

/// The first of a port's two queues: what it receives, then what it sends.
const fn queue_of(port: u32) -> u16 {
    if port == 0 { 0 } else { 2 + 2 * port as u16 }
}

/// A device with its ports. Dropping the last port resets it.
struct Console {
    signal: Arc<Signal>,
    control: Option<Mutex<Control>>,
    ports: Vec<Streams>,
    transport: Mutex<Box<dyn Reset>>,
}

/// One port's part of the device.
struct Streams {
    number: u32,
    name: String,
    /// Somebody is at the other end.
    open: AtomicBool,
    receive: Mutex<Receive>,
    transmit: Mutex<Transmit>,
}

trait Reset: Send {
    fn reset(&mut self);
}

impl<T: Transport + Send> Reset for T {
    fn reset(&mut self) {
        self.set_status(DeviceStatus::empty());
    }
}

/// A stream of bytes each way.
pub struct Port {
    console: Arc<Console>,
    index: usize,
}

/// Take a console device into service: its ports.
///
/// # Errors
/// The device offers too little, does not answer, or there is no memory.
pub fn start(device: Device) -> Result<Vec<Port>, Error> {
    let (transport, link) = device.into_parts();
    start_over(transport, link)
}

fn start_over<T>(mut transport: T, mut link: Box<dyn Link>) -> Result<Vec<Port>, Error>
where
    T: Transport + Send + 'static,
{
    let agreed = link::negotiate(&mut transport, MULTIPORT)?;
    let several = agreed & MULTIPORT != 0;
    let most = if several {
        transport.read_config_space::<u32>(MAX_NR_PORTS)?.clamp(1, MOST_PORTS)
    } else {
        1
    };
    let signal = Arc::new(Signal::default());
    let queues = if several { 2 * (most as usize + 1) } else { 2 };
    let signals: Vec<_> = (0..queues).map(|_| signal.clone()).collect();
    link.connect(&signals)?;
    let mut rings = Vec::new();
    for index in 0..queues as u16 {
        rings.push(Some(Ring::new(&mut transport, index, 64, false)?));
    }
    transport.finish_init();
    let mut start = Start { rings, link, signal };
    let (control, ports) = if several {
        start.several(most)?
    } else {
        (None, alloc::vec![start.streams(0, String::new(), true)?])
    };
    for port in &ports {
        port.receive.lock().tell();
    }
    let transport = Mutex::new(&VIRTIO_CONTROL, Box::new(transport) as Box<dyn Reset>);
    let console = Arc::new(Console { signal: start.signal, control, ports, transport });
    Ok((0..console.ports.len()).map(|index| Port { console: console.clone(), index }).collect())
}

/// A device on its way into service.
struct Start {
    rings: Vec<Option<Ring>>,
    link: Box<dyn Link>,
    signal: Arc<Signal>,
}

impl Start {
    fn buffers(
        &mut self,
        queue: u16,
        count: u16,
        bytes: usize,
        writable: bool,
    ) -> Result<Buffers, Error> {
        let ring = self.rings.get_mut(usize::from(queue)).and_then(Option::take);
        let ring = ring.ok_or(Error::Configuration("a port that is there twice"))?;
        let doorbell = self.link.doorbell(queue)?;
        Buffers::new(ring, doorbell, count, bytes, writable).ok_or(Error::NoMemory)
    }
    fn streams(&mut self, number: u32, name: String, open: bool) -> Result<Streams, Error> {
        let queue = queue_of(number);
        let receive = self.buffers(queue, RECEIVE_BUFFERS, PAGE_SIZE, true)?;
        let transmit = self.buffers(queue + 1, TRANSMIT_BUFFERS, TRANSMIT_BYTES, false)?;
        Ok(Streams {
            number,
            name,
            open: AtomicBool::new(open),
            receive: Mutex::new(&VIRTQUEUE, Receive::new(receive)?),
            transmit: Mutex::new(&VIRTQUEUE, Transmit::new(transmit)),
        })
    }
    /// Ask for the ports and open them all.
    fn several(&mut self, most: u32) -> Result<(Option<Mutex<Control>>, Vec<Streams>), Error> {
        let receive = self.buffers(CONTROL_QUEUE, CONTROL_BUFFERS, MESSAGE_BYTES, true)?;
        let transmit = self.buffers(CONTROL_QUEUE + 1, 1, MESSAGE_BYTES, false)?;
        let mut control = Control::new(receive, transmit)?;
        control.tell();
        let signal = self.signal.clone();
        let mut numbers: Vec<u32> = Vec::new();
        for message in control.ask(&signal, NO_PORT, Event::DeviceReady)? {
            if message.event == Event::PortAdd && message.port < most {
                numbers.push(message.port);
            } else if message.event == Event::PortAdd {
                log::warn!("port {} of a virtio console is left out", message.port);
            }
        }
        numbers.sort_unstable();
        numbers.dedup();
        let mut ports = Vec::new();
        for number in numbers {
            let mut port = self.streams(number, String::new(), false)?;
            for message in control.ask(&signal, number, Event::PortReady)? {
                match message.event {
                    Event::PortName if message.port == number => port.name = message.name,
                    _ => port.hear(&message),
                }
            }
            ports.push(port);
        }
        for index in 0..ports.len() {
            let number = ports[index].number;
            for message in control.ask(&signal, number, Event::PortOpen)? {
                ports.iter().for_each(|port| port.hear(&message));
            }
        }
        Ok((Some(Mutex::new(&VIRTIO_CONTROL, control)), ports))
    }
}

impl Streams {
    /// Take note of a message, if it is about this port.
    fn hear(&self, message: &Message) {
        if message.port == self.number {
            match message.event {
                Event::PortOpen => self.open.store(message.value != 0, Ordering::SeqCst),
                Event::PortRemove => self.open.store(false, Ordering::SeqCst),
                _ => {}
            }
        }
    }
}

impl Console {
    fn hear_all(&self) {
        if let Some(control) = &self.control {
            let mut control = control.lock();
            while let Some(message) = control.next() {
                self.ports.iter().for_each(|port| port.hear(&message));
            }
        }
    }
}

impl Port {
    fn streams(&self) -> &Streams {
        &self.console.ports[self.index]
    }
    /// Its number on the device.
    pub fn number(&self) -> u32 {
        self.streams().number
    }
    /// The name the host gave it; may be empty.
    pub fn name(&self) -> &str {
        &self.streams().name
    }
    /// Take what has been received, up to the size of `dst`; waits for the first byte.
    /// Returns the number of bytes, 0 when the other end is closed.
    pub fn read(&self, dst: &mut [u8]) -> usize {
        self.console.signal.wait_for(|| self.try_read(dst))
    }
    /// As [`Port::read`], without waiting: nothing if nothing is there.
    pub fn try_read(&self, dst: &mut [u8]) -> Option<usize> {
        if dst.is_empty() {
            return Some(0);
        }
        // In this order: what was sent before the other end was closed is still there.
        self.console.hear_all();
        let open = self.streams().open.load(Ordering::SeqCst);
        let read = self.streams().receive.lock().read(dst);
        read.or((!open).then_some(0))
    }
    /// Send all of `src`; waits while every buffer is on its way. False if the device takes
    /// nothing any more.
    pub fn write(&self, mut src: &[u8]) -> bool {
        let streams = self.streams();
        while !src.is_empty() {
            match self.console.signal.wait_for(|| streams.transmit.lock().write(src)) {
                Ok(taken) => src = &src[taken..],
                Err(streams::Broken) => return false,
            }
        }
        true
    }
    /// Wait until the host has everything that was written.
    pub fn drain(&self) {
        let transmit = &self.streams().transmit;
        self.console.signal.wait_for(|| transmit.lock().drained().then_some(()));
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.transport.lock().reset();
    }
}
