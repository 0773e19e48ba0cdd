//! The block layer under Shuttle: every run another interleaving of submitters, the
//! device's threads and waiters.

#![cfg(feature = "shuttle")]

mod schedules;

use std::sync::{Arc, Mutex};

use holdfast_fs::block::{
    Bio, BioFlags, Completion, MemDisk, MemDiskConfig, Op, Plug, Queue, Sector, Segment,
};
use holdfast_fs::platform::{PAGE_SIZE, Page, PageFrame};
use holdfast_sync::thread::{self, Priority};

/// Not a scheduling point: the standard library's lock, never held across one.
struct TestPage(Mutex<Vec<u8>>);

impl PageFrame for TestPage {
    fn read(&self, offset: usize, dst: &mut [u8]) {
        dst.copy_from_slice(&self.0.lock().unwrap()[offset..offset + dst.len()]);
    }
    fn write(&self, offset: usize, src: &[u8]) {
        self.0.lock().unwrap()[offset..offset + src.len()].copy_from_slice(src);
    }
    fn zero(&self, offset: usize, len: usize) {
        self.0.lock().unwrap()[offset..offset + len].fill(0);
    }
    fn phys_addr(&self) -> u64 {
        std::ptr::from_ref(self).addr() as u64
    }
}

fn page(byte: u8) -> Page {
    Arc::new(TestPage(Mutex::new(vec![byte; PAGE_SIZE])))
}

fn two_writers_one_disk(seed: u64) {
    let config = MemDiskConfig {
        capacity_sectors: 256,
        // Every request of a writer is cut in two.
        max_segments: 1,
        completion: Completion::Reordered(2, seed),
        ..Default::default()
    };
    let disk = MemDisk::with(config);
    let queue = Queue::new(disk.clone());
    let writers: Vec<_> = [1_u8, 2]
        .map(|id| {
            let queue = queue.clone();
            thread::spawn("writer", Priority::Normal, move || {
                let pages = [page(id), page(id)];
                let base = u64::from(id) * 64;
                let segments = || Segment::cover(&pages, 2 * PAGE_SIZE);
                queue.write_sync(Sector(base), segments(), BioFlags::FUA).unwrap();
                let mut plug = Plug::new(&queue);
                for i in [1, 0] {
                    let at = Sector(base + 16 + i * 8);
                    let one = Segment::cover(&pages[..1], PAGE_SIZE);
                    let done = Box::new(|result| assert_eq!(result, Ok(())));
                    plug.submit(Bio::transfer(Op::Write, at, one, BioFlags::empty(), done));
                }
                drop(plug);
                queue.read_sync(Sector(base), segments(), BioFlags::empty()).unwrap();
                let mut out = vec![0; PAGE_SIZE];
                pages[1].read(0, &mut out);
                assert_eq!(out, vec![id; PAGE_SIZE]);
            })
        })
        .into_iter()
        .collect();
    for writer in writers {
        writer.join();
    }
    assert_eq!(queue.statistics().flush.requests, 2);
}

#[test]
fn requests_end_exactly_once_in_every_order() {
    schedules::random(|| two_writers_one_disk(7), 300);
    schedules::pct(|| two_writers_one_disk(11), 300);
}
