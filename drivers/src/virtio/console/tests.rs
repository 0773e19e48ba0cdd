//! The console driver against a device of host memory.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

use virtio_drivers::transport::DeviceType;

use super::*;
use crate::virtio::fake::{FakeDevice, FakeTransport, Given, Serve};
use crate::virtio::feature::VERSION_1;

#[derive(Default)]
struct Far {
    sent: Vec<u8>,
    waiting: Vec<Given>,
}

fn bench() -> (Console, FakeDevice, Arc<Mutex<Far>>) {
    let far = Arc::new(Mutex::new(Far::default()));
    let theirs = far.clone();
    let serve: Serve = Box::new(move |queue, given| {
        let mut far = theirs.lock().unwrap();
        if queue == TRANSMIT_QUEUE {
            given.pieces.iter().for_each(|p| far.sent.extend(p.read()));
            return Some(0);
        }
        far.waiting.push(given.clone());
        None
    });
    let device = FakeDevice::new(DeviceType::Console, VERSION_1, vec![], 64, serve);
    let console = Console::over(FakeTransport(device.clone()), device.link()).unwrap();
    (console, device, far)
}

/// The far side sends; false when the driver has given it no buffer.
fn type_in(device: &FakeDevice, far: &Mutex<Far>, bytes: &[u8], claimed: u32) -> bool {
    let given = {
        let mut far = far.lock().unwrap();
        if far.waiting.is_empty() {
            return false;
        }
        far.waiting.remove(0)
    };
    given.pieces[0].write(bytes);
    device.give_back(RECEIVE_QUEUE, given.token.into(), claimed);
    device.interrupt(RECEIVE_QUEUE);
    true
}

#[test]
fn every_byte_arrives_as_it_was_sent() {
    let (console, _device, far) = bench();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|i| (i ^ i >> 8) as u8).collect();
    assert!(console.write(&bytes));
    assert!(console.write(b""));
    console.drain();
    assert_eq!(far.lock().unwrap().sent, bytes);
}

#[test]
fn a_writer_waits_for_a_slow_device() {
    let (console, device, far) = bench();
    device.set_manual(true);
    let bytes = vec![7; TRANSMIT_BYTES * usize::from(TRANSMIT_BUFFERS) * 3];
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            assert!(console.write(&bytes));
            console.drain();
        });
        while !writer.is_finished() {
            device.run(TRANSMIT_QUEUE);
            std::thread::yield_now();
        }
    });
    assert_eq!(far.lock().unwrap().sent, bytes);
}

#[test]
fn received_bytes_come_in_order_and_a_full_ring_holds_them_back() {
    let (console, device, far) = bench();
    let mut chunk = [0; 1000];
    assert_eq!(console.try_read(&mut chunk), None);
    let mut sent = 0_u32;
    let mut next = || {
        let bytes: Vec<u8> = (0..3000).map(|i| ((sent + i) % 249) as u8).collect();
        let taken = type_in(&device, &far, &bytes, 3000);
        sent += if taken { 3000 } else { 0 };
        taken
    };
    while next() {}
    let mut got = Vec::new();
    while got.len() < 200_000 {
        let count = console.try_read(&mut chunk).expect("more was sent");
        assert!(count > 0);
        got.extend_from_slice(&chunk[..count]);
        while next() {}
    }
    let expected: Vec<u8> = (0..got.len() as u32).map(|i| (i % 249) as u8).collect();
    assert_eq!(got, expected);
}

#[test]
fn a_reader_sleeps_until_something_comes() {
    let (console, device, far) = bench();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut line = [0; 16];
            let count = console.read(&mut line);
            line[..count].to_vec()
        });
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(!reader.is_finished());
        assert!(type_in(&device, &far, b"hello", 5));
        assert_eq!(reader.join().unwrap(), b"hello");
    });
}

#[test]
fn lies_of_the_device_are_cut_short() {
    let (console, device, far) = bench();
    assert!(type_in(&device, &far, b"x", u32::MAX));
    let mut got = vec![0; 3 * PAGE_SIZE];
    assert_eq!(console.read(&mut got), PAGE_SIZE, "no more than the buffer holds");
    assert!(type_in(&device, &far, b"", 0));
    assert_eq!(console.try_read(&mut got), None, "nothing is not the end");
    device.give_back(RECEIVE_QUEUE, 63, 1);
    device.interrupt(RECEIVE_QUEUE);
    assert_eq!(console.read(&mut got), 0, "a broken device is the end");
    device.set_manual(true);
    device.give_back(TRANSMIT_QUEUE, 9, 1);
    assert!(!console.write(b"abc"));
    console.drain();
}
