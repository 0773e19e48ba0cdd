//! Writes that reserve, end short and give back, stores, writeback, truncation and direct
//! I/O against each other on a file with holes, under a deterministic scheduler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::schedules;
use crate::support::EndingSource;
use crate::support::model_world::{ModelWorld, Open};
use holdfast_fs::block::Completion;
use holdfast_fs::iomap::Change;
use holdfast_fs::mm::MapFlags;
use holdfast_fs::platform::VirtAddr;
use holdfast_sync::thread::{JoinHandle, Priority, spawn};

const PAGE: u64 = 4096;
const PAGES: u64 = 4;
const SIZE: u64 = PAGES * PAGE;
const SCHEDULES: usize = 150;

static STALE: AtomicU64 = AtomicU64::new(0);
static CONVERTED: AtomicU64 = AtomicU64::new(0);

struct Scene {
    world: ModelWorld,
    file: Arc<Open>,
    map: VirtAddr,
}

impl Scene {
    fn new() -> Arc<Self> {
        let world = ModelWorld::new(10, 128, 32, Completion::Inline);
        let file = world.file(1);
        file.fs.speculative.store(2, Ordering::SeqCst);
        let map = world.map(&file, SIZE as usize, MapFlags::SHARED);
        Arc::new(Self { world, file, map })
    }
    fn thread(self: &Arc<Self>, work: impl FnOnce(&Self) + Send + 'static) -> JoinHandle<()> {
        let scene = self.clone();
        spawn("actor", Priority::Normal, move || work(&scene))
    }
    fn cleaner(self: &Arc<Self>, rounds: usize) -> JoinHandle<()> {
        self.thread(move |s| {
            for _ in 0..rounds {
                s.file.sync().expect("it can be written");
                s.file.drop_clean();
            }
        })
    }
    /// Nothing is lost and nothing leaks.
    fn finish(&self, expected: &[(u64, u8)]) {
        self.file.sync().expect("it can be written");
        self.file.drop_clean();
        for (pos, byte) in expected {
            assert_eq!(self.file.read(*pos, 1).unwrap(), [*byte], "byte {pos}");
        }
        self.world.memory.clear();
        let s = self.world.cache.statistics();
        let get =
            |a: &holdfast_sync::atomic::AtomicU64| a.load(holdfast_sync::atomic::Ordering::Relaxed);
        STALE.fetch_add(get(&s.stale_mappings), Ordering::Relaxed);
        CONVERTED.fetch_add(get(&s.ioends_converted), Ordering::Relaxed);
        self.file.truncate(0).unwrap();
        assert_eq!(self.file.fs.reserved(), 0, "a reservation stayed");
        assert_eq!(self.world.space.available(), self.world.space.total(), "blocks were lost");
    }
}

/// A long write into a hole ends short, while a store uses what it reserved, and both are
/// cleaned and dropped.
fn short_writes_and_stores() {
    let scene = Scene::new();
    scene.file.truncate(SIZE).unwrap();
    let threads = [
        scene.thread(|s| {
            let mut source = EndingSource::new(5120, SIZE as usize, 1);
            assert_eq!(s.file.write_from(0, &mut source), Ok(5120));
            assert_eq!(s.file.write(9000, &[2; 700]), Ok(700));
        }),
        scene.thread(|s| {
            for (pos, byte) in [(6144, 3), (8999, 4), (9700, 5), (SIZE - 1, 6)] {
                s.world.store(s.map.add(pos), &[byte]).unwrap();
            }
        }),
        scene.cleaner(2),
    ];
    threads.into_iter().for_each(JoinHandle::join);
    let expected = [
        (0, 1),
        (5119, 1),
        (5120, 0),
        (6143, 0),
        (6144, 3),
        (8999, 4),
        (9000, 2),
        (9699, 2),
        (9700, 5),
        (9701, 0),
        (SIZE - 1, 6),
    ];
    scene.finish(&expected);
}

/// Appends of parts of blocks, cleaned and dropped in between, with stores behind the end.
fn appends_and_stores() {
    let scene = Scene::new();
    scene.file.write(0, &[1; 700]).unwrap();
    let threads = [
        scene.thread(|s| {
            for n in 0..4u8 {
                assert_eq!(s.file.write(700 + 900 * u64::from(n), &[10 + n; 900]), Ok(900));
            }
            assert_eq!(s.file.write(3 * PAGE + 5, &[7; 3]), Ok(3), "a gap");
        }),
        scene.thread(|s| {
            s.world.store(s.map.add(3), &[9]).unwrap();
            // Behind the end, or overwritten, or part of the gap by now.
            let _ = s.world.store(s.map.add(2600), &[12]);
            s.world.store(s.map.add(4), &[8]).unwrap();
        }),
        scene.cleaner(3),
    ];
    threads.into_iter().for_each(JoinHandle::join);
    let mut expected = vec![(2, 1), (3, 9), (4, 8), (699, 1), (3 * PAGE + 5, 7)];
    expected.extend((0..4).map(|n| (700 + 900 * u64::from(n), 10 + n)));
    expected.extend([(4300, 0), (2 * PAGE, 0), (3 * PAGE + 4, 0)]);
    scene.finish(&expected);
}

/// The file is cut and grows again under stores, punches and writeback.
fn truncation_and_stores() {
    let scene = Scene::new();
    scene.file.write(0, &[1; SIZE as usize]).unwrap();
    let threads = [
        scene.thread(|s| {
            s.file.truncate(PAGE + 100).unwrap();
            s.file.truncate(SIZE).unwrap();
            assert_eq!(s.file.read(PAGE + 100, 1).unwrap(), [0], "what was cut off is gone");
            s.file.change(Change::Punch, 512..1536, true).unwrap();
        }),
        scene.thread(|s| {
            for pos in [PAGE + 99, 2 * PAGE, 511, 1536] {
                // It may lie behind the end just now.
                let _ = s.world.store(s.map.add(pos), &[1]);
            }
        }),
        scene.cleaner(2),
    ];
    threads.into_iter().for_each(JoinHandle::join);
    let byte = scene.file.read(2 * PAGE, 1).unwrap()[0];
    assert!(byte <= 1);
    let expected =
        [(511, 1), (512, 0), (1535, 0), (1536, 1), (PAGE + 99, 1), (SIZE - 1, 0), (2 * PAGE, byte)];
    scene.finish(&expected);
}

/// A direct write fills a hole that readers and faults look at.
fn direct_writes_and_readers() {
    let scene = Scene::new();
    scene.file.truncate(SIZE).unwrap();
    let threads = [
        scene.thread(|s| {
            assert_eq!(s.file.direct_write(0, &[0xD1; 2 * PAGE as usize]), Ok(2 * PAGE as usize));
            assert_eq!(s.file.read(PAGE, 1).unwrap(), [0xD1]);
        }),
        scene.thread(|s| {
            for _ in 0..3 {
                let byte = s.file.read(PAGE, 1).unwrap()[0];
                assert!(byte == 0 || byte == 0xD1);
                let byte = s.world.load(s.map.add(100), 1).unwrap()[0];
                assert!(byte == 0 || byte == 0xD1);
            }
        }),
        scene.thread(|s| {
            s.world.store(s.map.add(3 * PAGE), &[4]).unwrap();
            s.file.sync().unwrap();
        }),
    ];
    threads.into_iter().for_each(JoinHandle::join);
    assert_eq!(scene.world.load(scene.map.add(PAGE), 1).unwrap(), [0xD1]);
    scene.finish(&[(0, 0xD1), (PAGE, 0xD1), (2 * PAGE, 0), (3 * PAGE, 4)]);
}

fn explore(scenario: fn()) {
    schedules::both(scenario, SCHEDULES);
}

#[test]
fn what_a_short_write_gives_back_is_its_own() {
    explore(short_writes_and_stores);
    assert!(STALE.load(Ordering::Relaxed) > 0, "no map was stale");
    assert!(CONVERTED.load(Ordering::Relaxed) > 0, "nothing was converted");
}

#[test]
fn growing_loses_and_invents_no_byte() {
    explore(appends_and_stores);
}

#[test]
fn what_is_cut_off_stays_off() {
    explore(truncation_and_stores);
}

#[test]
fn direct_writes_are_seen() {
    explore(direct_writes_and_readers);
}
