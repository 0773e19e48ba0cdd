//! The disk drivers on real (virtual) disks: `selftest=disk` writes all over the first
//! one; `selftest=readonly` and `selftest=faulty` are for disks made for that.

use alloc::boxed::Box;
use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_fs::block::{Bio, BioFlags, IoError, Op, Plug, Queue, Sector, Segment};
use holdfast_fs::platform::{Memory, PAGE_SIZE, Page};
use holdfast_kernel::spinlock::SpinLock;
use holdfast_kernel::{println, time};
use holdfast_sync::WaitQueue;
use holdfast_sync::atomic::{AtomicU64, Ordering};
use holdfast_sync::thread::{self, Priority};

use super::{Outcome, Random, Test, ensure};
use crate::adapters::devices;
use crate::adapters::memory::KernelMemory;

/// Tests that write all over the first disk.
pub const TESTS: &[Test] = &[
    Test { name: "disk_contents", run: contents },
    Test { name: "disk_depth", run: depth },
    Test { name: "disk_scattered", run: scattered },
    Test { name: "disk_flush", run: flush },
    Test { name: "disk_ranges", run: ranges },
    Test { name: "disk_refusals", run: refusals },
    Test { name: "disk_others", run: others },
    Test { name: "disk_speed", run: speed },
];
/// Tests for a disk that refuses writes.
pub const READONLY: &[Test] = &[Test { name: "readonly_disk", run: readonly }];
/// Tests for a disk whose sector 2048 cannot be read, 4096 not written, and whose cache
/// cannot be flushed.
pub const FAULTY: &[Test] = &[Test { name: "faulty_disk", run: faulty }];

const SECTORS_PER_PAGE: u64 = 8;
/// Bytes at the start of the disk that tests use.
const AREA_PAGES: u64 = 4096;

static DISKS: SpinLock<Vec<Arc<Queue>>> = SpinLock::new(Vec::new());

/// Find the disks. Before any of the tests.
pub fn prepare(command_line: &str) {
    let found = devices::find(command_line).disks;
    let queues: Vec<_> = found.into_iter().map(Queue::new).collect();
    *DISKS.lock() = queues;
}

fn disks() -> Vec<Arc<Queue>> {
    DISKS.lock().clone()
}

fn first() -> Result<Arc<Queue>, alloc::string::String> {
    disks().into_iter().next().ok_or_else(|| "there is no disk".into())
}

fn pages(count: usize) -> Vec<Page> {
    (0..count).map(|_| KernelMemory.alloc_page().expect("memory for the test")).collect()
}

/// What a page at this place on the disk holds in this generation: every word tells where
/// it belongs.
fn word(page: u64, index: usize, generation: u64) -> u64 {
    (page * 512 + index as u64) ^ generation.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn fill(page: &Page, at: u64, generation: u64) {
    let mut bytes = [0; PAGE_SIZE];
    for (index, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        chunk.copy_from_slice(&word(at, index, generation).to_le_bytes());
    }
    page.write(0, &bytes);
}

fn verify(page: &Page, at: u64, generation: u64) -> Outcome {
    let mut bytes = [0; PAGE_SIZE];
    page.read(0, &mut bytes);
    for (index, chunk) in bytes.chunks_exact(8).enumerate() {
        let expected = word(at, index, generation);
        ensure!(chunk == expected.to_le_bytes(), "page {at}, word {index} is {chunk:x?}");
    }
    Ok(())
}

/// Counts requests down; the last one wakes who waits.
#[derive(Default)]
struct Pending {
    left: AtomicU64,
    failed: AtomicU64,
    queue: WaitQueue,
}

impl Pending {
    fn submit(self: &Arc<Self>, plug: &mut Plug<'_>, op: Op, at: u64, pages: &[Page]) {
        self.left.fetch_add(1, Ordering::SeqCst);
        let this = self.clone();
        let done = Box::new(move |result: Result<(), IoError>| {
            this.failed.fetch_add(u64::from(result.is_err()), Ordering::SeqCst);
            if this.left.fetch_sub(1, Ordering::SeqCst) == 1 {
                this.queue.wake_all();
            }
        });
        let segments = Segment::cover(pages, pages.len() * PAGE_SIZE);
        let sector = Sector(at * SECTORS_PER_PAGE);
        plug.submit(Bio::transfer(op, sector, segments, BioFlags::empty(), done));
    }
    fn wait(&self) -> Outcome {
        self.queue.wait_until(|| (self.left.load(Ordering::SeqCst) == 0).then_some(()));
        let failed = self.failed.load(Ordering::SeqCst);
        ensure!(failed == 0, "{failed} requests failed");
        Ok(())
    }
}

/// Write and read back a part of the area, in batches of requests of mixed sizes.
fn write_and_verify(queue: &Queue, range: core::ops::Range<u64>, generation: u64) -> Outcome {
    let mut random = Random::new(generation);
    let memory = pages(256);
    for op in [Op::Write, Op::Read] {
        let mut at = range.start;
        while at < range.end {
            let pending = Arc::new(Pending::default());
            let mut plug = Plug::new(queue);
            let mut batch = Vec::new();
            let mut rest = memory.as_slice();
            while at < range.end && !rest.is_empty() {
                let most = rest.len().min((range.end - at) as usize).min(64);
                let (part, tail) = rest.split_at(1 + random.below(most));
                if op == Op::Write {
                    part.iter().zip(at..).for_each(|(page, at)| fill(page, at, generation));
                }
                pending.submit(&mut plug, op, at, part);
                batch.push((at, part));
                at += part.len() as u64;
                rest = tail;
            }
            drop(plug);
            pending.wait()?;
            if op == Op::Read {
                for (at, part) in batch {
                    for (page, at) in part.iter().zip(at..) {
                        verify(page, at, generation)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Every processor writes and verifies its part, all at once.
fn contents() -> Outcome {
    let queue = first()?;
    let threads = 2 * thread::cpu_count() as u64;
    let area = AREA_PAGES.min(queue.capacity_sectors() / SECTORS_PER_PAGE);
    let share = area / threads;
    let running: Vec<_> = (0..threads)
        .map(|i| {
            let queue = queue.clone();
            let range = i * share..(i + 1) * share;
            thread::spawn(&format!("disk test {i}"), Priority::Normal, move || {
                write_and_verify(&queue, range, i + 1)
            })
        })
        .collect();
    running.into_iter().try_for_each(thread::JoinHandle::join)
}

/// Hundreds of requests at once, more than the device takes.
fn depth() -> Outcome {
    let queue = first()?;
    let info = queue.info();
    println!("selftest: {} queues, depth {}", info.queues, info.queue_depth);
    ensure!(info.queue_depth >= 128, "depth {}", info.queue_depth);
    let before = queue.statistics();
    let memory = pages(1);
    let pending = Arc::new(Pending::default());
    let mut plug = Plug::new(&queue);
    // Every other page, so that nothing merges.
    for i in 0..1500 {
        pending.submit(&mut plug, Op::Read, i * 2 % 2048, &memory);
    }
    drop(plug);
    pending.wait()?;
    let now = queue.statistics().since(&before);
    ensure!(now.read.requests == 1500, "{} requests", now.read.requests);
    ensure!(now.in_flight == 0, "{} requests never ended", now.in_flight);
    // How many there were at once is up to the device: a fast one lets few gather.
    println!("selftest: up to {} requests at once", now.in_flight_max);
    Ok(())
}

/// The longest request of pages that lie nowhere near each other.
fn scattered() -> Outcome {
    let queue = first()?;
    let count = queue.info().max_segments;
    let mut memory: Vec<Page> = pages(2 * count).into_iter().step_by(2).collect();
    memory.reverse();
    memory.iter().zip(100..).for_each(|(page, at)| fill(page, at, 77));
    let segments = || Segment::cover(&memory, count * PAGE_SIZE);
    let sector = Sector(100 * SECTORS_PER_PAGE);
    let failed = |e: IoError| format!("{e}");
    queue.write_sync(sector, segments(), BioFlags::empty()).map_err(failed)?;
    memory.iter().for_each(|page| page.zero(0, PAGE_SIZE));
    queue.read_sync(sector, segments(), BioFlags::empty()).map_err(failed)?;
    memory.iter().zip(100..).try_for_each(|(page, at)| verify(page, at, 77))
}

fn flush() -> Outcome {
    let queue = first()?;
    let memory = pages(1);
    fill(&memory[0], 5, 5);
    let flags = BioFlags::PREFLUSH | BioFlags::FUA;
    let before = queue.statistics();
    let segments = Segment::cover(&memory, PAGE_SIZE);
    let written = queue.write_sync(Sector(40), segments, flags);
    ensure!(written == Ok(()), "durable write: {written:?}");
    ensure!(queue.flush() == Ok(()), "flush failed");
    let flushes = queue.statistics().since(&before).flush.requests;
    let expected = if queue.info().volatile_cache { 3 } else { 0 };
    ensure!(flushes == expected, "{flushes} flushes");
    Ok(())
}

fn range(queue: &Queue, op: Op, page: u64, count: u64) -> Result<(), IoError> {
    let sector = Sector(page * SECTORS_PER_PAGE);
    let bytes = count * PAGE_SIZE as u64;
    let ignore = Box::new(|_| ());
    queue.submit_and_wait(Bio::without_data(op, sector, bytes, BioFlags::empty(), ignore))
}

/// Discard and write-zeroes, where the disk has them.
fn ranges() -> Outcome {
    let queue = first()?;
    let memory = pages(1);
    write_and_verify(&queue, 1000..1064, 3)?;
    let expected = |has: bool| if has { Ok(()) } else { Err(IoError::Unsupported) };
    let discarded = range(&queue, Op::Discard, 1040, 8);
    ensure!(discarded == expected(queue.info().discard), "discard: {discarded:?}");
    let zeroed = range(&queue, Op::WriteZeroes, 1016, 16);
    ensure!(zeroed == expected(queue.info().write_zeroes), "write zeroes: {zeroed:?}");
    for at in [1000, 1015, 1032, 1039, 1048, 1063] {
        let segments = Segment::cover(&memory, PAGE_SIZE);
        let read = queue.read_sync(Sector(at * SECTORS_PER_PAGE), segments, BioFlags::empty());
        ensure!(read == Ok(()), "reading page {at}: {read:?}");
        verify(&memory[0], at, 3)?;
    }
    if zeroed.is_ok() {
        let segments = Segment::cover(&memory, PAGE_SIZE);
        let read = queue.read_sync(Sector(1020 * SECTORS_PER_PAGE), segments, BioFlags::empty());
        let mut bytes = [1; PAGE_SIZE];
        memory[0].read(0, &mut bytes);
        ensure!(read == Ok(()) && bytes == [0; PAGE_SIZE], "not zeroed");
    }
    Ok(())
}

fn refusals() -> Outcome {
    let queue = first()?;
    let memory = pages(1);
    let read = |sector| {
        queue.read_sync(Sector(sector), Segment::cover(&memory, PAGE_SIZE), BioFlags::empty())
    };
    let end = queue.capacity_sectors();
    ensure!(read(end - 8) == Ok(()), "the last page cannot be read");
    ensure!(read(end) == Err(IoError::OutOfRange), "read beyond the end");
    ensure!(read(u64::MAX) == Err(IoError::OutOfRange), "read beyond all ends");
    Ok(())
}

/// The other disks hold their own data.
fn others() -> Outcome {
    for (queue, generation) in disks().iter().zip(500..) {
        if !queue.info().readonly {
            write_and_verify(queue, 64..128, generation)?;
        }
    }
    for (queue, generation) in disks().iter().zip(500..) {
        if !queue.info().readonly {
            let memory = pages(1);
            let segments = Segment::cover(&memory, PAGE_SIZE);
            let read = queue.read_sync(Sector(100 * 8), segments, BioFlags::empty());
            ensure!(read == Ok(()), "{}: {read:?}", queue.info().name);
            verify(&memory[0], 100, generation)?;
        }
    }
    Ok(())
}

/// A pass over the area at a request size and depth: MB/s, requests a second.
fn pass(queue: &Queue, op: Op, size_pages: usize, depth: u64, count: u64) -> Outcome {
    let memory: Vec<Vec<Page>> = (0..depth).map(|_| pages(size_pages)).collect();
    let places = AREA_PAGES / size_pages as u64;
    let start = time::now_ns();
    let mut next = 0;
    while next < count {
        let pending = Arc::new(Pending::default());
        let mut plug = Plug::new(queue);
        for slot in &memory {
            // An odd stride visits every place and lets few neighbours merge.
            pending.submit(&mut plug, op, next * 17 % places * size_pages as u64, slot);
            next += 1;
        }
        drop(plug);
        pending.wait()?;
    }
    let us = ((time::now_ns() - start) / 1000).max(1);
    let bytes = next * (size_pages * PAGE_SIZE) as u64;
    println!(
        "selftest: {op:?} {} KiB at depth {depth}: {} MB/s, {}/s",
        size_pages * 4,
        bytes / us,
        next * 1_000_000 / us
    );
    Ok(())
}

fn speed() -> Outcome {
    let queue = first()?;
    for op in [Op::Read, Op::Write] {
        pass(&queue, op, 1, 1, 1000)?;
        pass(&queue, op, 1, 32, 8000)?;
        pass(&queue, op, 32, 8, 1000)?;
    }
    Ok(())
}

fn readonly() -> Outcome {
    let queue = first()?;
    let memory = pages(1);
    let segments = || Segment::cover(&memory, PAGE_SIZE);
    ensure!(queue.info().readonly, "the disk takes writes");
    let read = queue.read_sync(Sector(0), segments(), BioFlags::empty());
    ensure!(read == Ok(()), "read: {read:?}");
    let written = queue.write_sync(Sector(0), segments(), BioFlags::FUA);
    ensure!(written == Err(IoError::ReadOnly), "write: {written:?}");
    ensure!(range(&queue, Op::Discard, 0, 1) == Err(IoError::ReadOnly), "discard");
    ensure!(queue.flush() == Ok(()), "flush");
    Ok(())
}

fn faulty() -> Outcome {
    let queue = first()?;
    let memory = pages(1);
    let segments = || Segment::cover(&memory, PAGE_SIZE);
    let read = |sector| queue.read_sync(Sector(sector), segments(), BioFlags::empty());
    let write = |sector| queue.write_sync(Sector(sector), segments(), BioFlags::empty());
    ensure!(read(2048) == Err(IoError::Device), "read of the bad sector: {:?}", read(2048));
    ensure!(write(4096) == Err(IoError::Device), "write of the bad sector: {:?}", write(4096));
    ensure!(queue.flush() == Err(IoError::Device), "flush: {:?}", queue.flush());
    ensure!(read(0) == Ok(()) && write(0) == Ok(()), "other sectors");
    let errors = queue.statistics();
    ensure!(errors.read.errors == 1 && errors.write.errors == 1, "counted: {errors:?}");
    Ok(())
}
