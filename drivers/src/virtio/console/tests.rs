//! The console driver against a device of host memory.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::{Mutex, OnceLock};

use virtio_drivers::transport::DeviceType;

use super::*;
use crate::virtio::fake::{FakeDevice, FakeTransport, Given, Serve};
use crate::virtio::feature::VERSION_1;

/// What the far side has.
#[derive(Default)]
struct Far {
    /// Bytes sent to it, by queue.
    sent: alloc::collections::BTreeMap<u16, Vec<u8>>,
    /// Buffers it may fill, with their queue.
    waiting: Vec<(u16, Given)>,
}

impl Far {
    fn send(&mut self, device: &FakeDevice, queue: u16, bytes: &[u8]) -> bool {
        self.send_claiming(device, queue, bytes, bytes.len() as u32)
    }
    fn send_claiming(&mut self, device: &FakeDevice, queue: u16, bytes: &[u8], len: u32) -> bool {
        let Some(at) = self.waiting.iter().position(|w| w.0 == queue) else { return false };
        let given = self.waiting.remove(at).1;
        given.pieces[0].write(bytes);
        device.give_back(queue, given.token.into(), len);
        true
    }
}

struct Bench {
    device: FakeDevice,
    far: Arc<Mutex<Far>>,
}

fn message(port: u32, event: u16, value: u16, name: &[u8]) -> Vec<u8> {
    let mut out = port.to_le_bytes().to_vec();
    out.extend(event.to_le_bytes());
    out.extend(value.to_le_bytes());
    out.extend(name);
    out
}

/// What QEMU answers to a control message, for ports 1 and 2 and one too far.
fn answers(request: &[u8]) -> Vec<Vec<u8>> {
    let port = u32::from_le_bytes(request[0..4].try_into().unwrap());
    match (request[4], port) {
        (0, _) => [1, 2, 2, 30].map(|p| message(p, 1, 1, b"")).to_vec(),
        (3, 1) => vec![message(1, 7, 1, b"stdin\0"), message(1, 6, 1, b"")],
        (3, 2) => {
            vec![message(2, 5, 0, b"odd"), message(2, 7, 1, b"stdout"), message(2, 6, 1, b"")]
        }
        (6, _) => vec![],
        other => panic!("an odd message: {other:?}"),
    }
}

impl Bench {
    fn new(features: u64) -> (Self, Vec<Port>) {
        let far = Arc::new(Mutex::new(Far::default()));
        let theirs = far.clone();
        let itself: Arc<OnceLock<FakeDevice>> = Arc::default();
        let device = itself.clone();
        let serve: Serve = Box::new(move |queue, given| {
            let mut far = theirs.lock().unwrap();
            if given.pieces[0].writable {
                far.waiting.push((queue, given.clone()));
                return None;
            }
            let bytes: Vec<u8> = given.pieces.iter().flat_map(|p| p.read()).collect();
            if queue == CONTROL_QUEUE + 1 {
                // As QEMU: the answers are there before the question is given back.
                let device = device.get().unwrap();
                answers(&bytes).iter().for_each(|m| assert!(far.send(device, CONTROL_QUEUE, m)));
            }
            far.sent.entry(queue).or_default().extend(bytes);
            Some(0)
        });
        let mut config = vec![0; 12];
        config[4..8].copy_from_slice(&31_u32.to_le_bytes());
        let features = features | VERSION_1;
        let device = FakeDevice::new(DeviceType::Console, features, config, 64, serve);
        let _ = itself.set(device.clone());
        let ports = start_over(FakeTransport(device.clone()), device.link()).unwrap();
        (Self { device, far }, ports)
    }
    /// The far side sends; false when the driver has given it no buffer.
    fn send(&self, queue: u16, bytes: &[u8], claimed: u32) -> bool {
        let taken = self.far.lock().unwrap().send_claiming(&self.device, queue, bytes, claimed);
        if taken {
            self.device.interrupt(queue);
        }
        taken
    }
    fn sent(&self, queue: u16) -> Vec<u8> {
        self.far.lock().unwrap().sent.get(&queue).cloned().unwrap_or_default()
    }
}

fn single() -> (Bench, Port) {
    let (bench, mut ports) = Bench::new(0);
    assert_eq!(ports.len(), 1);
    (bench, ports.remove(0))
}

#[test]
fn every_byte_arrives_as_it_was_sent() {
    let (bench, port) = single();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i ^ i >> 8) as u8).collect();
    assert!(port.write(&bytes));
    assert!(port.write(b""));
    port.drain();
    assert_eq!(bench.sent(1), bytes);
}

#[test]
fn a_writer_waits_for_a_slow_device() {
    let (bench, port) = single();
    bench.device.set_manual(true);
    let bytes = vec![7; TRANSMIT_BYTES * usize::from(TRANSMIT_BUFFERS) * 3];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            assert!(port.write(&bytes));
            port.drain();
        });
        while !writer.is_finished() {
            bench.device.run(1);
            std::thread::yield_now();
        }
    });
    assert_eq!(bench.sent(1), bytes);
}

#[test]
fn received_bytes_come_in_order_and_a_full_ring_holds_them_back() {
    let (bench, port) = single();
    let mut chunk = [0; 1000];
    assert_eq!(port.try_read(&mut chunk), None);
    let mut sent = 0_u32;
    let mut next = || {
        let bytes: Vec<u8> = (0..3000).map(|i| ((sent + i) % 249) as u8).collect();
        let taken = bench.send(0, &bytes, 3000);
        sent += if taken { 3000 } else { 0 };
        taken
    };
    while next() {}
    let mut got = Vec::new();
    while got.len() < 200_000 {
        let count = port.try_read(&mut chunk).expect("more was sent");
        assert!(count > 0);
        got.extend_from_slice(&chunk[..count]);
        while next() {}
    }
    let expected: Vec<u8> = (0..got.len() as u32).map(|i| (i % 249) as u8).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_reader_sleeps_until_something_comes() {
    let (bench, port) = single();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut line = [0; 16];
            let count = port.read(&mut line);
            line[..count].to_vec()
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!reader.is_finished());
        assert!(bench.send(0, b"hello", 5));
        assert_eq!(reader.join().unwrap(), b"hello");
    });
}

#[test]
fn ports_have_names_and_do_not_mix() {
    let (bench, ports) = Bench::new(MULTIPORT);
    let names: Vec<_> = ports.iter().map(|p| (p.number(), p.name())).collect();
    assert_eq!(names, [(1, "stdin"), (2, "stdout")]);
    assert!(ports[1].write(b"out"));
    ports[1].drain();
    assert_eq!(bench.sent(queue_of(2) + 1), b"out");
    assert_eq!(bench.sent(queue_of(1) + 1), b"");
    assert!(bench.send(queue_of(1), b"in", 2));
    let mut got = [0; 10];
    assert_eq!(ports[0].read(&mut got), 2);
    assert_eq!(ports[1].try_read(&mut got), None);
}

#[test]
fn the_end_comes_after_the_bytes_before_it() {
    let (bench, ports) = Bench::new(MULTIPORT);
    assert!(bench.send(queue_of(1), b"last", 4));
    assert!(bench.send(CONTROL_QUEUE, &message(1, 6, 0, b""), 8));
    let mut got = [0; 3];
    assert_eq!((ports[0].read(&mut got), &got), (3, b"las"));
    assert_eq!((ports[0].read(&mut got), got[0]), (1, b't'));
    assert_eq!(ports[0].read(&mut got), 0);
    assert_eq!(ports[1].try_read(&mut got), None, "the other port is open");
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| ports[1].read(&mut [0; 3]));
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(bench.send(CONTROL_QUEUE, &message(2, 2, 0, b""), 8));
        assert_eq!(reader.join().unwrap(), 0, "a reader that waits sees the end");
    });
}

#[test]
fn lies_of_the_device_are_cut_short() {
    let (bench, port) = single();
    assert!(bench.send(0, b"x", u32::MAX));
    let mut got = vec![0; 3 * PAGE_SIZE];
    assert_eq!(port.read(&mut got), PAGE_SIZE, "no more than the buffer holds");
    assert!(bench.send(0, b"", 0));
    assert_eq!(port.try_read(&mut got), None, "nothing is not the end");
    bench.device.give_back(0, 63, 1);
    bench.device.interrupt(0);
    assert_eq!(port.read(&mut got), 0, "a broken device is the end");
    bench.device.set_manual(true);
    bench.device.give_back(1, 9, 1);
    assert!(!port.write(b"abc"));
    port.drain();
}

#[test]
fn the_last_port_takes_the_device_with_it() {
    let (bench, mut ports) = Bench::new(MULTIPORT);
    drop(ports.pop());
    assert!(!bench.device.is_reset());
    drop(ports.pop());
    assert!(bench.device.is_reset());
}
