//! The disk driver against a device of host memory, well-behaved and not.

use alloc::boxed::Box;
use alloc::vec;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use virtio_drivers::transport::DeviceType;

use super::*;
use crate::hardware::PAGE_SIZE;
use crate::virtio::fake::{FakeDevice, FakeTransport, Given, Serve};
use crate::virtio::feature::{RING_INDIRECT_DESC, VERSION_1};

const FLUSH: u64 = 1 << 9;
const MQ: u64 = 1 << 12;
const RANGES: u64 = 1 << 13 | 1 << 14;
const EVENT_IDX: u64 = 1 << 29;
const SIZE_SEG_MAX: u64 = 1 << 1 | 1 << 2;

struct TestRequest {
    id: u32,
    operation: Operation,
    /// Kept alive by the request, as a bio keeps its pages.
    memory: Box<[u8]>,
    /// Offset and length in the memory.
    pieces: Vec<(usize, u32)>,
    ended: Sender<Ended>,
}

struct Ended {
    id: u32,
    result: Result<(), BlockError>,
    memory: Box<[u8]>,
}

// SAFETY: the memory belongs to the request and moves nowhere.
unsafe impl Request for TestRequest {
    fn operation(&self) -> Operation {
        self.operation
    }
    fn extents(&self, tell: &mut dyn FnMut(Extent)) {
        let base = self.memory.as_ptr().expose_provenance() as u64;
        for &(offset, len) in &self.pieces {
            tell(Extent { phys: base + offset as u64, len });
        }
    }
    fn complete(self, result: Result<(), BlockError>) {
        let _ = self.ended.send(Ended { id: self.id, result, memory: self.memory });
    }
}

/// A disk of a mebibyte behind a well-behaved device.
fn disk() -> Arc<Mutex<Vec<u8>>> {
    Arc::new(Mutex::new((0..1 << 20).map(|i| (i / 512) as u8).collect()))
}

fn serve(disk: Arc<Mutex<Vec<u8>>>) -> Serve {
    Box::new(move |_, given| {
        let mut disk = disk.lock().unwrap();
        let (head, rest) = given.pieces.split_first().unwrap();
        let (status, data) = rest.split_last().unwrap();
        let head = head.read();
        assert_eq!(head.len(), 16);
        let kind = u32::from_le_bytes(head[0..4].try_into().unwrap());
        let mut at = u64::from_le_bytes(head[8..16].try_into().unwrap()) as usize * 512;
        assert_eq!((status.len, status.writable), (1, true));
        let mut written = 1;
        let mut verdict = 0;
        match kind {
            0 => {
                for piece in data {
                    let end = at + piece.len as usize;
                    piece.write(&disk[at..end]);
                    (at, written) = (end, written + piece.len);
                }
            }
            1 => {
                for piece in data {
                    let end = at + piece.len as usize;
                    disk[at..end].copy_from_slice(&piece.read());
                    at = end;
                }
            }
            4 => assert!(data.is_empty()),
            13 => {
                let range = data[0].read();
                let first = u64::from_le_bytes(range[0..8].try_into().unwrap()) as usize * 512;
                let len = u32::from_le_bytes(range[8..12].try_into().unwrap()) as usize * 512;
                disk[first..first + len].fill(0);
            }
            11 => verdict = 2,
            _ => verdict = 1,
        }
        status.write(&[verdict]);
        Some(written)
    })
}

fn config(seg_max: u32, size_max: u32, queues: u16) -> Vec<u8> {
    let mut config = vec![0; 60];
    config[0..8].copy_from_slice(&2048_u64.to_le_bytes());
    config[8..12].copy_from_slice(&size_max.to_le_bytes());
    config[12..16].copy_from_slice(&seg_max.to_le_bytes());
    config[20..24].copy_from_slice(&512_u32.to_le_bytes());
    config[34..36].copy_from_slice(&queues.to_le_bytes());
    config[36..40].copy_from_slice(&1024_u32.to_le_bytes());
    config[48..52].copy_from_slice(&512_u32.to_le_bytes());
    config
}

struct Bench {
    device: FakeDevice,
    block: Block<TestRequest>,
    ended: Receiver<Ended>,
    sender: Sender<Ended>,
}

impl Bench {
    fn new(features: u64, config: Vec<u8>, queue_size: u16, serve: Serve) -> Self {
        let features = features | VERSION_1;
        let device = FakeDevice::new(DeviceType::Block, features, config, queue_size, serve);
        let block = Block::over(FakeTransport(device.clone()), device.link(), "test").unwrap();
        let (sender, ended) = channel();
        Self { device, block, ended, sender }
    }
    fn usual() -> (Self, Arc<Mutex<Vec<u8>>>) {
        let disk = disk();
        let features = FLUSH | RANGES | SIZE_SEG_MAX | RING_INDIRECT_DESC | EVENT_IDX;
        let config = config(254, 1 << 20, 1);
        (Self::new(features, config, 256, serve(disk.clone())), disk)
    }
    fn submit(&self, id: u32, operation: Operation, memory: Vec<u8>, pieces: &[(usize, u32)]) {
        self.block.submit(TestRequest {
            id,
            operation,
            memory: memory.into_boxed_slice(),
            pieces: pieces.to_vec(),
            ended: self.sender.clone(),
        });
    }
    fn read(&self, id: u32, sector: u64) {
        let operation = Operation::Read { sector };
        self.submit(id, operation, vec![0; PAGE_SIZE], &[(0, PAGE_SIZE as u32)]);
    }
    fn next(&self) -> Ended {
        self.ended.recv_timeout(Duration::from_secs(20)).expect("a request never ended")
    }
}

#[test]
fn event_indexes_are_not_agreed_on() {
    let (bench, _) = Bench::usual();
    let agreed = bench.device.agreed();
    assert_eq!(agreed & EVENT_IDX, 0);
    assert_eq!(agreed, FLUSH | RANGES | SIZE_SEG_MAX | RING_INDIRECT_DESC | VERSION_1);
    let p = bench.block.properties();
    assert!(p.volatile_cache && p.discard && p.write_zeroes && !p.readonly && p.indirect);
    assert_eq!((p.capacity_sectors, p.queue_depth, p.max_segments), (2048, 256, 254));
    assert_eq!((p.max_bytes, p.max_range_bytes), (254 * 4096, 512 * 512));
}

#[test]
fn data_goes_both_ways_through_scattered_memory() {
    let (bench, disk) = Bench::usual();
    let memory: Vec<u8> = (0..3 * PAGE_SIZE).map(|i| (i % 251) as u8).collect();
    let pieces = [(2 * PAGE_SIZE, 4096), (512, 1024), (0, 512)];
    bench.submit(1, Operation::Write { sector: 7 }, memory.clone(), &pieces);
    bench.block.kick();
    assert_eq!(bench.next().result, Ok(()));
    {
        let disk = disk.lock().unwrap();
        let at = 7 * 512;
        assert_eq!(disk[at..at + 4096], memory[2 * PAGE_SIZE..]);
        assert_eq!(disk[at + 4096..at + 5120], memory[512..1536]);
        assert_eq!(disk[at + 5120..at + 5632], memory[..512]);
    }
    bench.submit(2, Operation::Read { sector: 7 }, vec![0; 3 * PAGE_SIZE], &pieces);
    bench.block.kick();
    let ended = bench.next();
    assert_eq!((ended.id, ended.result), (2, Ok(())));
    assert_eq!(ended.memory[2 * PAGE_SIZE..], memory[2 * PAGE_SIZE..]);
    assert_eq!(ended.memory[..1536], memory[..1536]);
}

#[test]
fn adjacent_memory_is_one_descriptor() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let theirs = seen.clone();
    let serve: Serve = Box::new(move |_, given: &Given| {
        let lens: Vec<u32> = given.pieces.iter().map(|p| p.len).collect();
        theirs.lock().unwrap().push(lens);
        given.pieces.last().unwrap().write(&[0]);
        Some(1)
    });
    let features = SIZE_SEG_MAX | RING_INDIRECT_DESC;
    let bench = Bench::new(features, config(254, 8192, 1), 256, serve);
    let pages: Vec<(usize, u32)> = (0..5).map(|i| (i * PAGE_SIZE, 4096)).collect();
    bench.submit(1, Operation::Read { sector: 0 }, vec![0; 6 * PAGE_SIZE], &pages);
    let gap = [(0, 4096), (2 * PAGE_SIZE, 4096), (3 * PAGE_SIZE, 512)];
    bench.submit(2, Operation::Write { sector: 0 }, vec![0; 6 * PAGE_SIZE], &gap);
    bench.block.kick();
    bench.next();
    bench.next();
    let seen = seen.lock().unwrap();
    assert_eq!(*seen, [vec![16, 8192, 8192, 4096, 1], vec![16, 4096, 4608, 1]]);
}

#[test]
fn flush_ranges_and_refusals() {
    let (bench, disk) = Bench::usual();
    bench.submit(1, Operation::Flush, vec![], &[]);
    bench.submit(2, Operation::WriteZeroes { sector: 3, sectors: 2 }, vec![], &[]);
    bench.submit(3, Operation::Discard { sector: 9, sectors: 1 }, vec![], &[]);
    bench.block.kick();
    let results = [bench.next(), bench.next(), bench.next()].map(|e| (e.id, e.result));
    assert_eq!(results, [(1, Ok(())), (2, Ok(())), (3, Err(BlockError::Unsupported))]);
    let disk = disk.lock().unwrap();
    assert!(disk[3 * 512..5 * 512].iter().all(|&b| b == 0));
    assert_eq!((disk[2 * 512], disk[5 * 512]), (2, 5));
}

#[test]
fn errors_of_the_device_travel_up() {
    for (status, expected) in [(1, BlockError::Io), (77, BlockError::Io), (0xff, BlockError::Io)] {
        let serve: Serve = Box::new(move |_, given| {
            given.pieces.last().unwrap().write(&[status]);
            Some(u32::MAX)
        });
        let bench = Bench::new(RING_INDIRECT_DESC, config(1, 0, 1), 16, serve);
        bench.read(5, 0);
        bench.block.kick();
        assert_eq!(bench.next().result, Err(expected));
    }
}

#[test]
fn more_requests_than_the_ring_holds_wait_and_end_in_order() {
    for features in [SIZE_SEG_MAX | RING_INDIRECT_DESC, SIZE_SEG_MAX] {
        let disk = disk();
        let bench = Bench::new(features, config(254, 1 << 20, 1), 16, serve(disk));
        bench.device.set_manual(true);
        for id in 0..500 {
            bench.read(id, u64::from(id));
        }
        bench.block.kick();
        assert!(bench.ended.try_recv().is_err());
        bench.device.set_manual(false);
        bench.device.run(0);
        for id in 0..500 {
            let ended = bench.next();
            assert_eq!((ended.id, ended.result), (id, Ok(())));
            assert_eq!((ended.memory[0], ended.memory[512]), (id as u8, (id + 1) as u8));
        }
    }
}

#[test]
fn a_batch_rings_the_doorbell_once() {
    let (bench, _) = Bench::usual();
    for id in 0..8 {
        bench.read(id, 0);
    }
    assert_eq!(bench.device.doorbells(), 0);
    bench.block.kick();
    bench.block.kick();
    assert_eq!(bench.device.doorbells(), 1);
    for _ in 0..8 {
        assert_eq!(bench.next().result, Ok(()));
    }
}

#[test]
fn indexes_wrap() {
    let (bench, _) = Bench::usual();
    for round in 0..70_000_u32 / 4 {
        for i in 0..4 {
            bench.read(round * 4 + i, 0);
        }
        bench.block.kick();
        for _ in 0..4 {
            assert_eq!(bench.next().result, Ok(()));
        }
    }
}

#[test]
fn several_queues_and_submitters() {
    let disk = disk();
    let features = MQ | SIZE_SEG_MAX | RING_INDIRECT_DESC;
    let bench = Bench::new(features, config(254, 1 << 20, 8), 64, serve(disk));
    assert_eq!(usize::from(bench.block.properties().queues), thread::cpu_count());
    std::thread::scope(|scope| {
        for part in 0..4_u32 {
            let (bench, sender) = (&bench.block, bench.sender.clone());
            scope.spawn(move || {
                for i in 0..300 {
                    bench.submit(TestRequest {
                        id: part * 300 + i,
                        operation: Operation::Read { sector: u64::from(part * 300 + i) },
                        memory: vec![0; 512].into_boxed_slice(),
                        pieces: vec![(0, 512)],
                        ended: sender.clone(),
                    });
                    if i % 7 == 0 {
                        bench.kick();
                    }
                }
                bench.kick();
            });
        }
    });
    let mut seen = vec![0; 1200];
    for _ in 0..1200 {
        let ended = bench.next();
        assert_eq!(ended.result, Ok(()));
        assert_eq!(ended.memory[0], ended.id as u8);
        seen[ended.id as usize] += 1;
    }
    assert!(seen.iter().all(|&n| n == 1));
}

#[test]
fn a_hostile_used_ring_only_costs_the_device() {
    type Attack = fn(&FakeDevice);
    let attacks: [Attack; 6] = [
        |d| d.give_back(0, 300, 0),
        |d| d.give_back(0, u32::MAX, u32::MAX),
        |d| d.give_back(0, 200, 1),
        |d| (0..3).for_each(|_| d.give_back(0, 0, 1)),
        |d| d.skip_used(0, 1000),
        |d| d.skip_used(0, u16::MAX),
    ];
    for attack in attacks {
        let (bench, _) = Bench::usual();
        bench.device.set_manual(true);
        for id in 0..40 {
            bench.read(id, 0);
        }
        bench.block.kick();
        attack(&bench.device);
        bench.device.interrupt(0);
        let mut seen = vec![0; 40];
        let mut gone = 0;
        for _ in 0..40 {
            let ended = bench.next();
            seen[ended.id as usize] += 1;
            gone += u32::from(ended.result == Err(BlockError::Gone));
        }
        assert!(seen.iter().all(|&n| n == 1) && gone > 0, "{seen:?}");
        assert!(bench.device.is_reset());
        bench.read(99, 0);
        assert_eq!(bench.next().result, Err(BlockError::Gone));
        // What the device does afterwards reaches nobody.
        bench.device.interrupt(0);
        bench.block.kick();
    }
}

#[test]
fn a_change_of_size_is_seen_and_a_device_in_need_is_retired() {
    let (bench, _) = Bench::usual();
    bench.device.change_config(0, &4096_u64.to_le_bytes(), false);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while bench.block.capacity_sectors() != 4096 {
        assert!(std::time::Instant::now() < deadline, "the new size is never seen");
        std::thread::yield_now();
    }
    bench.device.set_manual(true);
    bench.read(1, 0);
    bench.block.kick();
    bench.device.change_config(0, &[], true);
    assert_eq!(bench.next().result, Err(BlockError::Gone));
}

#[test]
fn dropping_the_disk_ends_what_is_in_flight() {
    let (bench, _) = Bench::usual();
    bench.device.set_manual(true);
    (0..300).for_each(|id| bench.read(id, 0));
    let Bench { block, ended, device, .. } = bench;
    drop(block);
    assert!(device.is_reset());
    let results: Vec<_> = ended.iter().take(300).map(|e| e.result).collect();
    assert_eq!(results, vec![Err(BlockError::Gone); 300]);
}

#[test]
fn nonsense_in_the_configuration_is_refused() {
    let attempt = |features: u64, config: Vec<u8>, queue_size| {
        let features = features | VERSION_1;
        let serve = serve(disk());
        let device = FakeDevice::new(DeviceType::Block, features, config, queue_size, serve);
        Block::<TestRequest>::over(FakeTransport(device.clone()), device.link(), "bad").err()
    };
    let odd_block = {
        let mut config = config(1, 1, 1);
        config[20..24].copy_from_slice(&1000_u32.to_le_bytes());
        config
    };
    assert!(matches!(attempt(1 << 6, odd_block, 256), Some(Error::Configuration(_))));
    assert!(matches!(attempt(MQ, config(1, 0, 0), 256), Some(Error::Configuration(_))));
    assert!(matches!(attempt(SIZE_SEG_MAX, config(9, 0, 1), 256), Some(Error::Configuration(_))));
    assert!(matches!(attempt(0, config(1, 0, 1), 8), Some(Error::Configuration(_))));
    assert!(matches!(attempt(0, vec![0; 4], 256), Some(Error::Transport(_))));
}
