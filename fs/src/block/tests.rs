//! The block layer over its own devices, under the standard library's threads.

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};

use super::*;
use crate::platform::PageFrame;

struct TestPage(Mutex<Vec<u8>>, u64);

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
        self.1
    }
}

fn page(byte: u8) -> Page {
    static NEXT: AtomicU64 = AtomicU64::new(0x1000);
    Arc::new(TestPage(Mutex::new(vec![byte; PAGE_SIZE]), NEXT.fetch_add(0x1000, SeqCst)))
}

fn pages(n: usize, byte: impl Fn(usize) -> u8) -> Vec<Page> {
    (0..n).map(|i| page(byte(i))).collect()
}

fn bytes_of(page: &Page) -> Vec<u8> {
    let mut out = vec![0; PAGE_SIZE];
    page.read(0, &mut out);
    out
}

type Ended = (u32, Result<(), IoError>);

struct Log(Arc<Mutex<Vec<Ended>>>);

impl Log {
    fn new() -> Self {
        Self(Arc::default())
    }
    fn done(&self, id: u32) -> Done {
        let log = self.0.clone();
        Box::new(move |result| log.lock().unwrap().push((id, result)))
    }
    fn entries(&self) -> Vec<Ended> {
        self.0.lock().unwrap().clone()
    }
}

fn transfer(op: Op, sector: u64, pages: &[Page], done: Done) -> Bio {
    let segments = Segment::cover(pages, pages.len() * PAGE_SIZE);
    Bio::transfer(op, Sector(sector), segments, BioFlags::empty(), done)
}

fn requests(trace: &TraceDisk) -> Vec<(Op, u64, u64)> {
    let submitted = |e: TraceEvent| match e {
        TraceEvent::Submitted(r) => Some((r.op, r.sector.0, r.length_bytes)),
        TraceEvent::Completed { .. } => None,
    };
    trace.take().into_iter().filter_map(submitted).collect()
}

#[test]
fn reads_back_what_was_written_and_fill_elsewhere() {
    let queue = Queue::new(MemDisk::new(1024));
    let out = pages(3, |i| i as u8 + 1);
    queue.write_sync(Sector(5), Segment::cover(&out, 3 * PAGE_SIZE), BioFlags::empty()).unwrap();
    let back = pages(4, |_| 0);
    queue.read_sync(Sector(4), Segment::cover(&back, 4 * PAGE_SIZE), BioFlags::empty()).unwrap();
    let all: Vec<u8> = back.iter().flat_map(bytes_of).collect();
    assert!(all[..512].iter().all(|&b| b == 0xEE));
    for i in 0..3 {
        let at = 512 + i * PAGE_SIZE;
        assert!(all[at..at + PAGE_SIZE].iter().all(|&b| b == i as u8 + 1));
    }
    assert!(all[512 + 3 * PAGE_SIZE..].iter().all(|&b| b == 0xEE));
}

#[test]
fn discard_and_write_zeroes_over_a_shared_image() {
    let image = Arc::new(vec![7_u8; 64 * 512]);
    let config = MemDiskConfig { capacity_sectors: 64, ..MemDiskConfig::default() };
    let disk = MemDisk::over(image.clone(), config.clone());
    let other = MemDisk::over(image, config);
    let queue = Queue::new(disk.clone());
    let flags = BioFlags::empty();
    let range = |op, sector, bytes| {
        queue.submit_and_wait(Bio::without_data(op, Sector(sector), bytes, flags, Box::new(|_| ())))
    };
    range(Op::WriteZeroes, 1, 9 * 512).unwrap();
    range(Op::Discard, 20, 512).unwrap();
    let mut sector = [0; 512];
    for (at, byte) in [(0, 7), (1, 0), (9, 0), (10, 7), (20, 0xEE), (21, 7)] {
        disk.peek(Sector(at), &mut sector);
        assert_eq!(sector, [byte; 512], "sector {at}");
        other.peek(Sector(at), &mut sector);
        assert_eq!(sector, [7; 512], "the shared image changed at sector {at}");
    }
}

#[test]
fn refuses_what_the_device_cannot_do() {
    let queue = Queue::new(MemDisk::new(16));
    let log = Log::new();
    let p = pages(1, |_| 1);
    queue.submit(transfer(Op::Read, 9, &p, log.done(0)));
    queue.submit(transfer(Op::Read, u64::MAX, &p, log.done(1)));
    queue.submit(transfer(Op::Read, 8, &p, log.done(2)));
    let odd = vec![Segment { page: p[0].clone(), offset: 0, len: 100 }];
    queue.submit(Bio::transfer(Op::Read, Sector(0), odd, BioFlags::empty(), log.done(3)));
    let beyond = vec![Segment { page: p[0].clone(), offset: 3584, len: 1024 }];
    queue.submit(Bio::transfer(Op::Read, Sector(0), beyond, BioFlags::empty(), log.done(4)));
    let readonly = MemDiskConfig { capacity_sectors: 16, readonly: true, ..Default::default() };
    let readonly = Queue::new(MemDisk::with(readonly));
    readonly.submit(transfer(Op::Write, 0, &p, log.done(5)));
    assert_eq!(readonly.flush(), Ok(()));
    let blocks =
        MemDiskConfig { capacity_sectors: 64, logical_block_bytes: 4096, ..Default::default() };
    Queue::new(MemDisk::with(blocks)).submit(transfer(Op::Read, 1, &p, log.done(6)));
    drop(transfer(Op::Read, 0, &p, log.done(7)));
    let expected = [
        (0, Err(IoError::OutOfRange)),
        (1, Err(IoError::OutOfRange)),
        (2, Ok(())),
        (3, Err(IoError::Misaligned)),
        (4, Err(IoError::Misaligned)),
        (5, Err(IoError::ReadOnly)),
        (6, Err(IoError::Misaligned)),
        (7, Err(IoError::Gone)),
    ];
    assert_eq!(log.entries(), expected);
}

#[test]
fn splits_to_the_limits_and_ends_once_with_the_first_error() {
    let config = MemDiskConfig {
        capacity_sectors: 4096,
        max_segments: 3,
        max_bytes: 10 * 1024,
        completion: Completion::Manual,
        ..Default::default()
    };
    let disk = MemDisk::with(config);
    let faults = FaultDisk::new(disk.clone());
    let trace = TraceDisk::new(faults.clone());
    let queue = Queue::new(trace.clone());
    let log = Log::new();
    let out = pages(7, |i| i as u8);
    queue.submit(transfer(Op::Write, 100, &out, log.done(1)));
    let sizes: Vec<u64> = requests(&trace).iter().map(|r| r.2).collect();
    // 28 KiB at 10 KiB a request; the cuts fall inside pages.
    assert_eq!(sizes, [10240, 10240, 8192]);
    while disk.pending() > 0 {
        assert!(log.entries().is_empty());
        disk.complete_one(disk.pending() - 1);
    }
    assert_eq!(log.entries(), [(1, Ok(()))]);
    let mut all = vec![0; 7 * PAGE_SIZE];
    disk.peek(Sector(100), &mut all);
    assert!(all.chunks(PAGE_SIZE).enumerate().all(|(i, c)| c.iter().all(|&b| b == i as u8)));

    faults.inject(Fault::Nth { op: Op::Read, n: 1 });
    queue.submit(transfer(Op::Read, 100, &out, log.done(2)));
    while disk.complete_one(0) {}
    assert_eq!(log.entries()[1..], [(2, Err(IoError::Device))]);
    assert_eq!(faults.failed(), 1);
    let s = queue.statistics();
    assert_eq!((s.write.requests, s.read.requests, s.read.errors), (3, 3, 1));
    assert_eq!((s.write.bytes, s.in_flight), (28672, 0));
    assert_eq!(s.write.sizes[4], 3, "8 and 10 KiB");
    assert_eq!((s.in_flight_max, s.completions), (3, 6));
}

#[test]
fn fua_and_preflush_become_flushes_around_the_write() {
    let trace = TraceDisk::new(MemDisk::new(64));
    let queue = Queue::new(trace.clone());
    let p = pages(1, |_| 3);
    let write = |flags| queue.write_sync(Sector(8), Segment::cover(&p, PAGE_SIZE), flags);
    write(BioFlags::PREFLUSH | BioFlags::FUA).unwrap();
    let flush = (Op::Flush, 0, 0);
    assert_eq!(requests(&trace), [flush, (Op::Write, 8, 4096), flush]);
    let empty = Bio::transfer(Op::Write, Sector(0), vec![], BioFlags::PREFLUSH, Box::new(|_| ()));
    queue.submit_and_wait(empty).unwrap();
    assert_eq!(requests(&trace), [flush]);

    let stable =
        MemDiskConfig { capacity_sectors: 64, volatile_cache: false, ..Default::default() };
    let trace = TraceDisk::new(MemDisk::with(stable));
    let queue = Queue::new(trace.clone());
    let bio = Segment::cover(&p, PAGE_SIZE);
    queue.write_sync(Sector(8), bio, BioFlags::PREFLUSH | BioFlags::FUA).unwrap();
    queue.flush().unwrap();
    assert_eq!(requests(&trace), [(Op::Write, 8, 4096)]);
}

#[test]
fn a_failed_flush_fails_the_durable_write() {
    let faults = FaultDisk::new(MemDisk::new(64));
    let trace = TraceDisk::new(faults.clone());
    let queue = Queue::new(trace.clone());
    let p = pages(1, |_| 3);
    let write = |flags| queue.write_sync(Sector(8), Segment::cover(&p, PAGE_SIZE), flags);
    faults.inject(Fault::After { op: Op::Flush, n: 0 });
    assert_eq!(write(BioFlags::PREFLUSH), Err(IoError::Device));
    assert_eq!(requests(&trace), [(Op::Flush, 0, 0)], "the write must not have started");
    assert_eq!(write(BioFlags::FUA), Err(IoError::Device));
    assert_eq!(write(BioFlags::empty()), Ok(()));
    faults.clear();
    assert_eq!(write(BioFlags::FUA), Ok(()));
    faults.inject(Fault::Gone);
    assert_eq!(write(BioFlags::empty()), Err(IoError::Gone));
}

#[test]
fn a_plug_sorts_and_merges_neighbours_of_one_kind() {
    let config = MemDiskConfig { capacity_sectors: 4096, max_bytes: 16384, ..Default::default() };
    let trace = TraceDisk::new(MemDisk::with(config));
    let queue = Queue::new(trace.clone());
    let log = Log::new();
    let p = pages(1, |_| 9);
    {
        let mut plug = Plug::new(&queue);
        for (id, sector) in [(0, 24), (1, 8), (2, 16), (3, 64), (4, 0), (5, 32)] {
            plug.submit(transfer(Op::Write, sector, &p, log.done(id)));
        }
        plug.submit(transfer(Op::Read, 72, &p, log.done(6)));
        plug.submit(transfer(Op::Read, 5000, &p, log.done(7)));
        assert_eq!(log.entries(), [(7, Err(IoError::OutOfRange))]);
    }
    let expected =
        [(Op::Read, 72, 4096), (Op::Write, 0, 16384), (Op::Write, 32, 4096), (Op::Write, 64, 4096)];
    assert_eq!(requests(&trace), expected);
    let ids: Vec<u32> = log.entries().iter().map(|e| e.0).collect();
    assert_eq!(ids, [7, 6, 4, 1, 2, 0, 5, 3]);
    assert!(log.entries()[1..].iter().all(|e| e.1.is_ok()));
    assert_eq!(queue.statistics().write.merges, 3);
}

#[test]
fn a_plug_that_holds_enough_lets_the_device_begin() {
    let trace = TraceDisk::new(MemDisk::new(1 << 12));
    let queue = Queue::new(trace.clone());
    let p = pages(32, |_| 9);
    let mut plug = Plug::new(&queue);
    for i in 0..5 {
        assert_eq!(requests(&trace), []);
        plug.submit(transfer(Op::Write, i * 512, &p, Box::new(|_| ())));
        if i == 3 {
            // Half a MiB.
            assert_eq!(requests(&trace).len(), 4);
        }
    }
    drop(plug);
    assert_eq!(requests(&trace), [(Op::Write, 4 * 512, 32 * 4096)]);
}

#[test]
fn a_flush_passes_after_what_the_plug_holds() {
    let trace = TraceDisk::new(MemDisk::new(64));
    let queue = Queue::new(trace.clone());
    let p = pages(1, |_| 9);
    let mut plug = Plug::new(&queue);
    plug.submit(transfer(Op::Write, 8, &p, Box::new(|_| ())));
    assert_eq!(requests(&trace), []);
    let flags = BioFlags::empty();
    plug.submit(Bio::without_data(Op::Flush, Sector(0), 0, flags, Box::new(|_| ())));
    assert_eq!(requests(&trace), [(Op::Write, 8, 4096), (Op::Flush, 0, 0)]);
}

#[test]
fn threads_and_seeded_order_carry_out_everything_once() {
    for completion in [Completion::Threads(3), Completion::Reordered(1, 42)] {
        let config = MemDiskConfig { capacity_sectors: 8192, completion, ..Default::default() };
        let queue = Queue::new(MemDisk::with(config));
        let ended = Arc::new(AtomicUsize::new(0));
        for i in 0..500_u64 {
            let ended = ended.clone();
            let p = pages(1, |_| i as u8);
            queue.submit(transfer(
                Op::Write,
                i * 8,
                &p,
                Box::new(move |result| {
                    assert_eq!(result, Ok(()));
                    ended.fetch_add(1, SeqCst);
                }),
            ));
        }
        while ended.load(SeqCst) < 500 {
            std::thread::yield_now();
        }
        for i in 0..500_u64 {
            let p = pages(1, |_| 0xAA);
            let segments = Segment::cover(&p, PAGE_SIZE);
            queue.read_sync(Sector(i * 8), segments, BioFlags::empty()).unwrap();
            assert_eq!(bytes_of(&p[0]), vec![i as u8; PAGE_SIZE]);
        }
        assert_eq!(queue.statistics().in_flight, 0);
    }
}

#[test]
fn a_device_that_goes_away_fails_what_it_held() {
    let config = MemDiskConfig {
        capacity_sectors: 64,
        completion: Completion::Manual,
        ..Default::default()
    };
    let disk = MemDisk::with(config);
    let log = Log::new();
    let p = pages(1, |_| 9);
    // Past the queue: a request in flight there keeps the device alive.
    disk.submit(transfer(Op::Read, 0, &p, log.done(1)));
    drop(disk);
    assert_eq!(log.entries(), [(1, Err(IoError::Gone))]);
}

#[test]
fn faults_by_range_and_by_chance_repeat() {
    let run = |seed| {
        let faults = FaultDisk::new(MemDisk::new(4096));
        faults.inject(Fault::Sectors { op: Op::Read, sectors: 100..101 });
        faults.inject(Fault::Random { op: Op::Write, one_in: 4, seed });
        let queue = Queue::new(faults);
        let p = pages(1, |_| 1);
        let seg = || Segment::cover(&p, PAGE_SIZE);
        assert_eq!(queue.read_sync(Sector(92), seg(), BioFlags::empty()), Ok(()));
        assert_eq!(queue.read_sync(Sector(93), seg(), BioFlags::empty()), Err(IoError::Device));
        assert_eq!(queue.read_sync(Sector(101), seg(), BioFlags::empty()), Ok(()));
        (0..200)
            .map(|i| queue.write_sync(Sector(i * 8), seg(), BioFlags::empty()).is_err())
            .collect::<Vec<bool>>()
    };
    let first = run(1);
    assert_eq!(first, run(1));
    assert_ne!(first, run(2));
    let failed = first.iter().filter(|&&f| f).count();
    assert!((20..100).contains(&failed), "{failed} of 200 with one in four");
}

#[test]
fn a_trace_holds_the_data_and_the_order_of_both_ends() {
    let config = MemDiskConfig {
        capacity_sectors: 64,
        completion: Completion::Manual,
        ..Default::default()
    };
    let disk = MemDisk::with(config);
    let trace = TraceDisk::new(disk.clone());
    let queue = Queue::new(trace.clone());
    let (a, b) = (pages(1, |_| 1), pages(1, |_| 2));
    queue.submit(transfer(Op::Write, 0, &a, Box::new(|_| ())));
    queue.submit(transfer(Op::Write, 8, &b, Box::new(|_| ())));
    disk.complete_one(1);
    disk.complete_one(0);
    let events = trace.events();
    let TraceEvent::Submitted(first) = &events[0] else { panic!("{events:?}") };
    assert_eq!(*first.data, vec![1; PAGE_SIZE]);
    let ends: Vec<&TraceEvent> = events[2..].iter().collect();
    assert_eq!(
        ends,
        [
            &TraceEvent::Completed { id: 1, result: Ok(()) },
            &TraceEvent::Completed { id: 0, result: Ok(()) },
        ]
    );
}

#[test]
fn a_file_is_a_disk() {
    let path = std::env::temp_dir().join(std::format!("holdfast-disk-{}", std::process::id()));
    std::fs::write(&path, vec![5_u8; 100 * 512]).unwrap();
    for completion in [Completion::Inline, Completion::Threads(2)] {
        let queue = Queue::new(FileDisk::open(&path, false, completion).unwrap());
        assert_eq!(queue.capacity_sectors(), 100);
        let p = pages(2, |i| i as u8);
        let segments = || Segment::cover(&p, 2 * PAGE_SIZE);
        queue.write_sync(Sector(3), segments(), BioFlags::FUA).unwrap();
        queue.flush().unwrap();
        let zero = Op::WriteZeroes;
        let bio = Bio::without_data(zero, Sector(50), 1024, BioFlags::empty(), Box::new(|_| ()));
        queue.submit_and_wait(bio).unwrap();
        let back = pages(2, |_| 9);
        let into = Segment::cover(&back, 2 * PAGE_SIZE);
        queue.read_sync(Sector(3), into, BioFlags::empty()).unwrap();
        assert_eq!(bytes_of(&back[1]), bytes_of(&p[1]));
        let image = std::fs::read(&path).unwrap();
        assert_eq!(image.len(), 100 * 512);
        assert!(image[50 * 512..52 * 512].iter().all(|&b| b == 0));
        assert!(image[52 * 512..].iter().all(|&b| b == 5));
    }
    let readonly = Queue::new(FileDisk::open(&path, true, Completion::Inline).unwrap());
    let p = pages(1, |_| 0);
    let segments = Segment::cover(&p, PAGE_SIZE);
    let refused = readonly.write_sync(Sector(0), segments, BioFlags::empty());
    assert_eq!(refused, Err(IoError::ReadOnly));
    std::fs::remove_file(&path).unwrap();
}
