//! The control queues of a device with several ports: which ports there are, what they are
//! called, whether somebody is at their other end (virtio 1.2, 5.3.6.2).

use alloc::string::String;
use alloc::vec::Vec;

use super::buffers::Buffers;
use crate::virtio::Error;
use crate::virtio::link::Signal;

/// What a message is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    DeviceReady,
    PortAdd,
    PortRemove,
    PortReady,
    ConsolePort,
    PortOpen,
    PortName,
}

/// A port's number in messages that are about none.
pub(super) const NO_PORT: u32 = u32::MAX;

const EVENTS: [(u16, Event); 7] = [
    (0, Event::DeviceReady),
    (1, Event::PortAdd),
    (2, Event::PortRemove),
    (3, Event::PortReady),
    (4, Event::ConsolePort),
    (6, Event::PortOpen),
    (7, Event::PortName),
];

const HEADER_BYTES: usize = 8;
/// Bytes of a message that we take: a header and a name.
pub(super) const MESSAGE_BYTES: usize = 128;
/// Longer than any device takes to answer.
const PATIENCE_NS: u64 = 5_000_000_000;

/// A message to or from the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) port: u32,
    pub(super) event: Event,
    pub(super) value: u16,
    /// Of [`Event::PortName`].
    pub(super) name: String,
}

impl Message {
    fn encode(&self) -> [u8; HEADER_BYTES] {
        let code = EVENTS.iter().find(|e| e.1 == self.event).map_or(u16::MAX, |e| e.0);
        let mut out = [0; HEADER_BYTES];
        out[0..4].copy_from_slice(&self.port.to_le_bytes());
        out[4..6].copy_from_slice(&code.to_le_bytes());
        out[6..8].copy_from_slice(&self.value.to_le_bytes());
        out
    }
    /// Nothing when it is too short or about something we do not know.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
        let half = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let event = EVENTS.iter().find(|e| e.0 == half(4))?.1;
        let port = u32::from(half(2)) << 16 | u32::from(half(0));
        // Some devices end the name with a zero.
        let end = rest.iter().position(|&b| b == 0).unwrap_or(rest.len());
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        Some(Self { port, event, value: half(6), name })
    }
}

/// The pair of control queues.
pub(super) struct Control {
    receive: Buffers,
    transmit: Buffers,
}

impl Control {
    pub(super) fn new(mut receive: Buffers, transmit: Buffers) -> Result<Self, Error> {
        for slot in 0..receive.count() {
            receive.give(slot, MESSAGE_BYTES)?;
        }
        Ok(Self { receive, transmit })
    }
    pub(super) fn tell(&mut self) {
        self.receive.tell();
    }
    /// The device's next message.
    pub(super) fn next(&mut self) -> Option<Message> {
        loop {
            let (slot, len) = self.receive.take()?;
            let mut bytes = [0; MESSAGE_BYTES];
            self.receive.read(slot, 0, &mut bytes[..len]);
            self.receive.give(slot, MESSAGE_BYTES).ok()?;
            self.receive.tell();
            if let Some(message) = Message::decode(&bytes[..len]) {
                return Some(message);
            }
        }
    }
    /// Send a message and wait until the device has taken it. QEMU gives its answers before it
    /// gives the message back, so they are there then.
    pub(super) fn ask(
        &mut self,
        signal: &Signal,
        port: u32,
        event: Event,
    ) -> Result<Vec<Message>, Error> {
        let message = Message { port, event, value: 1, name: String::new() };
        self.transmit.write(0, &message.encode());
        self.transmit.give(0, HEADER_BYTES)?;
        self.transmit.tell();
        let taken = signal.wait_for_at_most(PATIENCE_NS, || {
            (self.transmit.take().is_some() || self.transmit.is_broken()).then_some(())
        });
        if taken.is_none() || self.transmit.is_broken() {
            return Err(Error::Configuration("no answer on the control queue"));
        }
        Ok(core::iter::from_fn(|| self.next()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_there_and_back() {
        let message =
            Message { port: 0x1_0002, event: Event::PortOpen, value: 1, name: String::new() };
        assert_eq!(message.encode(), [2, 0, 1, 0, 6, 0, 1, 0]);
        assert_eq!(Message::decode(&message.encode()), Some(message));
        let name = Message::decode(b"\x03\0\0\0\x07\0\x01\0stdout\0??").unwrap();
        assert_eq!((name.port, name.event, name.name.as_str()), (3, Event::PortName, "stdout"));
    }

    #[test]
    fn unknown_and_short_messages_are_none() {
        assert_eq!(Message::decode(&[0; 7]), None);
        assert_eq!(Message::decode(&[0, 0, 0, 0, 99, 0, 0, 0]), None);
        assert_eq!(Message::decode(&[0, 0, 0, 0, 5, 0, 0, 0, 1, 2, 3, 4]), None, "resize");
        let odd = Message::decode(b"\0\0\0\0\x07\0\0\0\xff\xfe").unwrap();
        assert_eq!(odd.name, "\u{fffd}\u{fffd}");
    }
}
