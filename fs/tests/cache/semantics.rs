//! The remaining directed tests of the storage semantics' section 3, and what fails:
//! writeback without a map, conversions, a file system that was shut down.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::model::Data;
use crate::support::model_world::{ModelWorld, Open};
use crate::support::{EndingSource, SliceSource};
use holdfast_fs::Error;
use holdfast_fs::block::{Completion, Fault, FaultDisk, Op};
use holdfast_fs::iomap::Change;
use holdfast_fs::mm::MapFlags;
use holdfast_fs::platform::{Signal, VirtAddr};

const PAGE: usize = 4096;

struct Bench {
    world: ModelWorld,
    file: Arc<Open>,
    map: VirtAddr,
}

impl Bench {
    fn new(shift: u32) -> Self {
        Self::with(ModelWorld::new(shift, (1 << 20) >> shift, 64, Completion::Inline))
    }
    fn with(world: ModelWorld) -> Self {
        world.space.set_longest(1 << 10);
        let file = world.file(1);
        let map = world.map(&file, 128 << 10, MapFlags::SHARED);
        Self { world, file, map }
    }
    fn store(&self, pos: u64, bytes: &[u8]) {
        self.world.store(self.map.add(pos), bytes).expect("a page of the file");
    }
    /// All of it as it is on disk.
    fn on_disk(&self) -> Vec<u8> {
        self.file.sync().expect("it can be written");
        self.file.drop_clean();
        self.file.read(0, self.file.size() as usize).expect("it can be read")
    }
    fn used(&self) -> u64 {
        self.world.space.total() - self.world.space.available()
    }
}

/// T5 (E): a failed write beside a dirty block of the same page.
#[test]
fn t5_only_blocks_that_are_not_dirty_are_given_back() {
    let b = Bench::new(10);
    b.file.write(0, &[1; 1024]).unwrap();
    let mut source = EndingSource::new(0, 3072, 0x57);
    assert_eq!(b.file.write_from(1024, &mut source), Err(Error::Fault));
    assert_eq!(b.file.fs.reserved(), 1);
    assert_eq!(b.used(), 1);
    assert_eq!(b.on_disk(), [1; 1024]);
}

/// T6 (D): a failed write behind the end, in a page that a store made dirty.
#[test]
fn t6_what_lies_behind_the_end_is_given_back() {
    let b = Bench::new(10);
    b.file.truncate(1024).unwrap();
    b.store(0, &[1; 4096]);
    let mut source = EndingSource::new(0, 1024, 0x57);
    assert_eq!(b.file.write_from(2048, &mut source), Err(Error::Fault));
    assert_eq!(b.file.fs.reserved(), 1);
    assert_eq!(b.on_disk(), [1; 1024]);
}

/// T13 (I) and T19: stores behind the end of the file are nobody's data when it grows.
#[test]
fn t13_t19_stores_behind_the_end_read_as_zeros_when_the_file_grows() {
    for cleaned in [false, true] {
        let b = Bench::new(10);
        b.file.change(Change::Preallocate, 0..1024, false).unwrap();
        b.file.write(0, &[1; 1024]).unwrap();
        b.store(3072, &[0xCD; 1024]);
        if cleaned {
            b.file.sync().unwrap();
            b.store(3072, &[0xCD; 1024]);
        }
        b.file.write(32 << 10, &[2; 4096]).unwrap();
        let data = b.on_disk();
        assert!(data[1024..32 << 10].iter().all(|byte| *byte == 0), "cleaned: {cleaned}");
        assert_eq!(data.len(), 36 << 10);
    }
    for shift in [9, 12] {
        let b = Bench::new(shift);
        b.file.write(0, &[1; 1000]).unwrap();
        b.store(2000, &[0xCD; 10]);
        b.file.sync().unwrap();
        b.store(2000, &[0xCD; 10]);
        b.file.truncate(4096).unwrap();
        assert_eq!(b.world.load(b.map.add(2000), 10).unwrap(), [0; 10]);
        assert!(b.on_disk()[1000..].iter().all(|byte| *byte == 0));
        // The page can be stored to again, and the blocks that joined the file are kept.
        b.store(2000, &[5; 10]);
        assert_eq!(b.on_disk()[2000..2010], [5; 10]);
    }
}

/// T15: the size on disk follows the data.
#[test]
fn t15_a_crash_never_shows_a_size_without_its_data() {
    let b = Bench::new(12);
    b.file.write(0, &[7; 8192]).unwrap();
    assert_eq!(b.file.fs.after_crash(), []);
    b.file.fs.fail_conversions.store(true, Ordering::SeqCst);
    assert_eq!(b.file.sync(), Err(Error::Io));
    assert_eq!(b.file.fs.after_crash(), [], "a conversion that failed logs nothing");
    b.file.fs.fail_conversions.store(false, Ordering::SeqCst);
    b.file.write(0, &[7; 8192]).unwrap();
    b.file.sync().unwrap();
    assert_eq!(b.file.fs.after_crash(), [7; 8192]);
}

/// T16: a copy that stops within a block leaves the old bytes behind what it wrote.
#[test]
fn t16_a_short_copy_leaves_the_rest_of_the_block() {
    let b = Bench::new(12);
    b.file.write(0, &[0xAA; PAGE]).unwrap();
    b.on_disk();
    b.file.drop_clean();
    let mut source = EndingSource::new(1000, 3000, 0x57);
    assert_eq!(b.file.write_from(100, &mut source), Ok(1000));
    let mut expected = [0xAA; PAGE];
    expected[100..1100].fill(0x57);
    assert_eq!(b.on_disk(), expected);
}

/// T18: filling the rest of a page leaves what was written.
#[test]
fn t18_a_block_that_was_written_is_not_read_over() {
    let b = Bench::new(10);
    b.file.write(0, &[0xAA; PAGE]).unwrap();
    b.on_disk();
    b.file.drop_clean();
    b.file.write(1024, &[1; 1024]).unwrap();
    let page = b.file.read(0, PAGE).unwrap();
    assert!(page[1024..2048].iter().all(|byte| *byte == 1));
    assert!(page[..1024].iter().chain(&page[2048..]).all(|byte| *byte == 0xAA));
}

/// T11 (G): writeback finds no map. The page ends clean, the error is the file's, its
/// reservation is given back, and nothing hangs.
#[test]
fn t11_what_cannot_be_mapped_ends_clean_and_is_reported() {
    let b = Bench::new(12);
    let (mut one, mut two) = (b.file.mapping.error_sample(), b.file.mapping.error_sample());
    b.file.write(0, &[1; 3 * PAGE]).unwrap();
    b.file.fs.fail_maps.store(true, Ordering::SeqCst);
    b.file.mapping.write_and_wait(0..u64::MAX);
    assert_eq!(b.file.mapping.dirty_pages(), 0);
    assert_eq!(b.file.fs.reserved(), 0);
    b.file.truncate(0).unwrap();
    for seen in [&mut one, &mut two] {
        assert_eq!(b.file.mapping.error_check(seen), Err(Error::NoSpace));
        assert_eq!(b.file.mapping.error_check(seen), Ok(()));
    }
    assert_eq!(b.used(), 0);
}

/// T12 (V5): what a reader cached of a hole while a direct write filled it.
#[test]
fn t12_a_direct_write_drops_what_was_cached_of_the_hole() {
    let b = Bench::new(12);
    b.file.truncate(65536).unwrap();
    assert_eq!(b.file.read(0, 65536).unwrap(), vec![0; 65536]);
    b.store(8192, &[9]);
    assert_eq!(b.file.direct_write(0, &[0xD1; 65536]), Ok(65536));
    assert_eq!(b.file.read(0, 65536).unwrap(), vec![0xD1; 65536]);
    assert_eq!(b.world.load(b.map.add(8192), 1).unwrap(), [0xD1]);
}

/// A write that fails on the device converts nothing; a shared block keeps its old data.
#[test]
fn a_failed_write_converts_nothing() {
    let mut device = None;
    let world = ModelWorld::over(12, 64, 64, Completion::Inline, |disk| {
        let faults = FaultDisk::new(disk);
        device = Some(faults.clone());
        faults
    });
    let (b, device) = (Bench::with(world), device.unwrap());
    let other = b.world.file(2);
    b.file.write(0, &[1; 2 * PAGE]).unwrap();
    b.file.sync().unwrap();
    other.share_from(&b.file, 0, 0, 0).unwrap();
    let conversions = b.file.fs.conversions.load(Ordering::SeqCst);
    b.file.write(0, &[2; 3 * PAGE]).unwrap();
    device.inject(Fault::After { op: Op::Write, n: 0 });
    assert_eq!(b.file.sync(), Err(Error::Io));
    device.clear();
    assert_eq!(b.file.fs.conversions.load(Ordering::SeqCst), conversions);
    assert!(matches!(b.file.fs.block(2), Data::Unwritten(_)));
    assert!(!b.file.fs.has_cow(0), "the copy is given up");
    b.file.drop_clean();
    let after = b.file.read(0, 3 * PAGE).unwrap();
    assert!(after[..2 * PAGE].iter().all(|byte| *byte == 1));
    assert!(after[2 * PAGE..].iter().all(|byte| *byte == 0));
    assert_eq!(other.read(0, 2 * PAGE).unwrap(), [1; 2 * PAGE]);
}

/// After a shutdown everything fails, dirty data is dropped with an error, nothing hangs.
#[test]
fn after_a_shutdown_everything_fails_and_nothing_hangs() {
    let b = Bench::new(12);
    b.world.cache.start();
    b.file.write(0, &[1; 3 * PAGE]).unwrap();
    b.file.fs.shut_down.store(true, Ordering::SeqCst);
    assert_eq!(b.file.sync(), Err(Error::Io));
    assert_eq!(b.file.write(0, &[2]), Err(Error::Shutdown));
    assert_eq!(b.file.direct_write(0, &[2; PAGE]), Err(Error::Shutdown));
    assert_eq!(b.file.truncate(0), Err(Error::Shutdown));
    assert_eq!(b.file.change(Change::Punch, 0..4096, true), Err(Error::Shutdown));
    assert_eq!(b.world.store(b.map, &[1]), Err(Signal::Bus));
    assert_eq!(b.file.mapping.dirty_pages(), 0);
    assert_eq!(b.file.fs.reserved(), 0);
    b.world.cache.stop();
}

/// Cut off and grown again, private copies behind the old end are gone, too.
#[test]
fn truncating_takes_private_copies_away() {
    let b = Bench::new(12);
    b.file.write(0, &[1; 3 * PAGE]).unwrap();
    let private = b.world.map(&b.file, 3 * PAGE, MapFlags::PRIVATE);
    b.world.store(private, &[8]).unwrap();
    b.world.store(private.add(2 * PAGE as u64), &[9]).unwrap();
    b.file.truncate(PAGE as u64).unwrap();
    assert_eq!(b.world.load(private.add(2 * PAGE as u64), 1), Err(Signal::Bus));
    b.file.truncate(3 * PAGE as u64).unwrap();
    assert_eq!(b.world.load(private.add(2 * PAGE as u64), 1).unwrap(), [0]);
    assert_eq!(b.world.load(private, 1).unwrap(), [8], "before the end it stays");
}

/// Space is exact: what does not fit is refused, and all of it comes back.
#[test]
fn no_space_is_told_at_once_and_nothing_leaks() {
    let b = Bench::with(ModelWorld::new(12, 8, 64, Completion::Inline));
    assert_eq!(b.file.write(0, &[1; 6 * PAGE]), Ok(6 * PAGE));
    assert_eq!(b.file.write(6 * PAGE as u64, &[2; 4 * PAGE]), Err(Error::NoSpace));
    assert_eq!(b.file.write(6 * PAGE as u64, &[2; 2 * PAGE]), Ok(2 * PAGE));
    b.file.truncate(16 * PAGE as u64).unwrap();
    assert_eq!(b.world.store(b.map.add(9 * PAGE as u64), &[1]), Err(Signal::Bus));
    assert_eq!(b.used(), 8);
    let data = b.on_disk();
    assert!(data[..6 * PAGE].iter().all(|byte| *byte == 1));
    b.file.truncate(0).unwrap();
    assert_eq!(b.used(), 0);
}

/// Contiguous ioends are converted together.
#[test]
fn the_ends_of_neighbours_are_handled_together() {
    let b = Bench::with(ModelWorld::new(12, 1024, 1024, Completion::Threads(2)));
    b.world.space.set_longest(1 << 10);
    b.world.cache.start();
    let mut source = SliceSource { data: &[3; 512 * PAGE], at: 0, fault_every: 0, copies: 0 };
    assert_eq!(b.file.write_from(0, &mut source), Ok(512 * PAGE));
    b.file.sync().unwrap();
    assert_eq!(b.file.fs.after_crash(), vec![3; 512 * PAGE]);
    let sizes = b.file.fs.logged_sizes.lock().unwrap().clone();
    assert!(sizes.is_sorted(), "{sizes:?}");
    b.world.cache.stop();
}
