//! Guards that need no second thread: on, the data is right and the guard did act; off,
//! the historic corruption appears.
#![cfg(all(feature = "lab", not(feature = "shuttle")))]

mod support;

use std::sync::Arc;

use holdfast_fs::block::{Completion, SECTOR_SIZE, Sector};
use holdfast_fs::iomap::{self, Change};
use holdfast_fs::lab::Guard;
use holdfast_fs::mm::MapFlags;
use holdfast_fs::platform::VirtAddr;
use support::EndingSource;
use support::model::Data;
use support::model_world::{ModelWorld, Open};

struct Bench {
    world: ModelWorld,
    file: Arc<Open>,
    map: VirtAddr,
}

impl Bench {
    fn store(&self, pos: u64, bytes: &[u8]) {
        self.world.store(self.map.add(pos), bytes).expect("a page of the file");
    }
    fn byte(&self, pos: u64) -> u8 {
        self.file.read(pos, 1).expect("it can be read")[0]
    }
    /// The byte after everything was written and dropped.
    fn on_disk(&self, pos: u64) -> u8 {
        let _ = self.file.sync();
        self.file.drop_clean();
        self.byte(pos)
    }
}

/// With the guard on and off: what `scenario` finds there is `right` or `wrong`.
fn both_ways<T: PartialEq + std::fmt::Debug>(
    guard: Guard,
    shift: u32,
    pages: u64,
    (right, wrong): (T, T),
    scenario: impl Fn(&Bench) -> T,
) {
    for on in [true, false] {
        let world = ModelWorld::new(shift, (1 << 20) >> shift, pages, Completion::Inline);
        world.space.set_longest(1 << 10);
        world.cache.lab().set(guard, on);
        let file = world.file(1);
        let map = world.map(&file, 64 << 10, MapFlags::SHARED);
        let bench = Bench { world, file, map };
        let found = scenario(&bench);
        let expected = if on { &right } else { &wrong };
        assert_eq!(&found, expected, "{}, on: {on}", guard.name());
        let acted = bench.world.cache.lab().acted(guard);
        assert_eq!(acted > 0, on, "{} acted {acted} times", guard.name());
        bench.world.memory.clear();
        let _ = bench.file.sync();
    }
}

/// A page of 0xAA, on disk and not cached.
fn written_page(b: &Bench) {
    b.file.write(0, &[0xAA; 4096]).unwrap();
    b.file.sync().unwrap();
    b.file.drop_clean();
}

#[test]
fn t19_bytes_behind_the_end_when_the_file_grows() {
    both_ways(Guard::EofZero, 10, 64, (0, 0xCD), |b| {
        b.file.write(0, &[1; 1000]).unwrap();
        b.store(2000, &[0xCD]);
        b.file.truncate(4096).unwrap();
        b.byte(2000)
    });
}

#[test]
fn a_store_into_a_block_that_joined_the_file() {
    both_ways(Guard::EofWriteProtect, 10, 64, (5, 0), |b| {
        // Whole blocks: nothing has to be zeroed on disk, and so nothing is written here.
        b.file.write(0, &[1; 1024]).unwrap();
        b.file.sync().unwrap();
        b.store(0, &[1]);
        b.file.truncate(4096).unwrap();
        b.store(2000, &[5]);
        b.on_disk(2000)
    });
}

#[test]
fn t13_dirty_data_over_an_unwritten_extent() {
    both_ways(Guard::ZeroDirty, 12, 64, (0, 0xCD), |b| {
        b.world.cache.lab().set(Guard::EofZero, false);
        b.file.change(Change::Preallocate, 0..4096, true).unwrap();
        b.file.write(0, &[1; 1000]).unwrap();
        b.store(2000, &[0xCD]);
        b.file.truncate(4096).unwrap();
        b.on_disk(2000)
    });
}

#[test]
fn bytes_behind_the_end_on_their_way_to_disk() {
    both_ways(Guard::WbZeroPastEof, 12, 64, (0, 0xCD), |b| {
        b.file.write(0, &[1; 1000]).unwrap();
        b.store(2000, &[0xCD]);
        b.file.sync().unwrap();
        let Data::Written(block) = b.file.fs.block(0) else { panic!("it is written") };
        let mut page = [1; 4096];
        b.world.disk.peek(Sector(block * 4096 / SECTOR_SIZE), &mut page);
        page[2000]
    });
}

#[test]
fn t16_a_copy_that_stops_within_a_block() {
    both_ways(Guard::WriteShortCopy, 10, 64, (true, false), |b| {
        written_page(b);
        let mut source = EndingSource::new(1500, 4096, 0x57);
        assert_eq!(b.file.write_from(0, &mut source), Ok(1500));
        b.on_disk(1600) == 0xAA
    });
}

#[test]
fn t18_a_block_read_over_what_was_written() {
    both_ways(Guard::FillUptodate, 10, 64, (1, 0xAA), |b| {
        written_page(b);
        b.file.write(1024, &[1; 1024]).unwrap();
        b.byte(1500)
    });
}

#[test]
fn t5_a_reservation_beside_a_dirty_block() {
    both_ways(Guard::PunchPerBlock, 10, 64, (1, 4), |b| {
        b.file.truncate(4096).unwrap();
        b.file.write(0, &[1; 1024]).unwrap();
        let mut source = EndingSource::new(0, 3072, 0x57);
        assert!(b.file.write_from(1024, &mut source).is_err());
        b.file.fs.reserved()
    });
}

/// A fault that waits for its page to be read while the file is cut. (The invalidate lock
/// keeps truncation away from faults; this is what holds if ever something else shortens
/// the file.)
#[test]
fn a_file_cut_while_a_fault_waits_for_the_page() {
    for on in [true, false] {
        // The fault has to get from its first look at the size to the page's lock before
        // the file is cut: mostly it does.
        let seen = (0..100).any(|_| {
            let world = ModelWorld::new(12, 256, 64, Completion::Manual);
            world.cache.lab().set(Guard::FaultRecheckEof, on);
            let file = world.file(1);
            let finish = |busy: &dyn Fn() -> bool| {
                while busy() {
                    world.disk.complete_one(0);
                    std::thread::yield_now();
                }
            };
            std::thread::scope(|s| {
                let written = s.spawn(|| {
                    file.write(0, &[0xAA; 4096]).unwrap();
                    file.sync().unwrap();
                });
                finish(&|| !written.is_finished());
            });
            file.drop_clean();
            let served = std::thread::scope(|s| {
                let readahead = holdfast_fs::mm::MappedFile::readahead(&*file);
                let fault = s.spawn(|| iomap::fault(&file.mapping, readahead, 0).is_ok());
                while world.disk.pending() == 0 {
                    std::thread::yield_now();
                }
                std::thread::sleep(std::time::Duration::from_millis(2));
                file.mapping.set_size(0);
                finish(&|| !fault.is_finished());
                fault.join().unwrap()
            });
            let acted = world.cache.lab().acted(Guard::FaultRecheckEof) > 0;
            assert!(!(on && served), "a page behind the end was served");
            file.mapping.set_size(4096);
            if on { acted } else { served }
        });
        assert!(seen, "guard on: {on}, and the race was never there");
    }
}

#[test]
fn t21_a_dirty_page_under_pressure() {
    both_ways(Guard::ReclaimDirty, 12, 8, (7, 0), |b| {
        b.file.truncate(65536).unwrap();
        b.file.write(0, &[7; 4096]).unwrap();
        for page in 1..16 {
            b.byte(page * 4096);
        }
        b.byte(0)
    });
}
