//! The vectors of the storage semantics, one after the other: with the guard on the data
//! is right, and the guard did act; with it off, the historic corruption appears.
//!
//! An observer stops a thread at a point and lets another thread do its part there. With
//! the feature `shuttle` everything else is up to the deterministic scheduler, for many
//! schedules.
#![cfg(feature = "lab")]

#[cfg(feature = "shuttle")]
mod schedules;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use holdfast_fs::block::Completion;
use holdfast_fs::iomap::Change;
use holdfast_fs::lab::{Guard, Point};
use holdfast_fs::mm::MapFlags;
use holdfast_fs::platform::VirtAddr;
use holdfast_sync::thread::{JoinHandle, Priority, spawn, yield_now};
use support::EndingSource;
use support::model::Data;
use support::model_world::{ModelWorld, Open};

const PAGE: u64 = 4096;
#[cfg(feature = "shuttle")]
const SCHEDULES: usize = 40;

/// Run a scenario, under every schedule that is tried.
fn explore(scenario: impl Fn() + Send + Sync + 'static) {
    #[cfg(feature = "shuttle")]
    schedules::random(scenario, SCHEDULES);
    #[cfg(not(feature = "shuttle"))]
    scenario();
}

/// One file on its disk, mapped.
struct Bench {
    world: ModelWorld,
    file: Arc<Open>,
    map: VirtAddr,
    shift: u32,
    guard: Guard,
    on: bool,
}

impl Bench {
    fn new(shift: u32, guard: Guard, on: bool) -> Arc<Self> {
        let world = ModelWorld::new(shift, (1 << 20) >> shift, 64, Completion::Inline);
        // The races begin between two pages.
        world.cache.set_folio_pages(1);
        world.space.set_longest(1 << 10);
        world.cache.lab().set(guard, on);
        let file = world.file(1);
        let map = world.map(&file, 64 << 10, MapFlags::SHARED);
        Arc::new(Self { world, file, map, shift, guard, on })
    }
    fn store(&self, pos: u64, byte: u8) {
        self.world.store(self.map.add(pos), &[byte]).expect("a page of the file");
    }
    fn byte(&self, pos: u64) -> u8 {
        self.file.read(pos, 1).expect("it can be read")[0]
    }
    /// What is in the file after its cache was written and dropped; errors are let go.
    fn byte_on_disk(&self, pos: u64) -> u8 {
        let _ = self.file.sync();
        self.file.drop_clean();
        self.byte(pos)
    }
    fn clean_and_drop(&self, page: u64) {
        let range = page * PAGE..(page + 1) * PAGE;
        self.file.mapping.write_and_wait(range.clone());
        assert_eq!(self.file.mapping.drop_clean(range), 1, "the page can be dropped");
    }
    /// Once, at this point and position, do this; the thread that came there waits.
    fn at(
        self: &Arc<Self>,
        point: Point,
        pos: u64,
        action: impl Fn(&Arc<Self>) + Send + Sync + 'static,
    ) -> Arc<AtomicBool> {
        let reached = Arc::new(AtomicBool::new(false));
        let (weak, once) = (Arc::downgrade(self), reached.clone());
        self.world.cache.lab().observe(Some(Arc::new(move |p, file, at| {
            if p == point && at == pos && file == 1 && !once.swap(true, Ordering::SeqCst) {
                action(&weak.upgrade().expect("the bench stands"));
            }
        })));
        reached
    }
    /// The race was there, and the guard did what it is for.
    fn check(&self, reached: &AtomicBool) {
        assert!(reached.load(Ordering::SeqCst), "the point was not reached");
        let acted = self.world.cache.lab().acted(self.guard);
        assert_eq!(acted > 0, self.on, "{} acted {acted} times", self.guard.name());
    }
    fn done(&self) {
        self.world.cache.lab().observe(None);
        self.world.memory.clear();
    }
}

/// Another thread does it, and is waited for.
fn elsewhere(work: impl FnOnce() + Send + 'static) {
    other(work).join();
}

fn other(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    spawn("other", Priority::Normal, work)
}

/// Time for another thread to get as far as it can.
fn give_way() {
    for _ in 0..20 {
        yield_now();
        #[cfg(not(feature = "shuttle"))]
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// Try a scenario with its guard and without, with blocks of two sizes.
fn with_and_without(scenario: fn(u32, bool)) {
    for shift in [12, 10] {
        for on in [true, false] {
            explore(move || scenario(shift, on));
        }
    }
}

/// The last byte of the block at 36864.
fn tail(shift: u32) -> u64 {
    36864 + (1 << shift) - 1
}

/// A write up to the first byte of the block at 36864, in which the point is reached, and
/// what the block's last byte is then.
fn long_write(b: &Bench, reached: &AtomicBool, last: u8) {
    assert_eq!(b.file.write(0, &[0x57; 36865]), Ok(36865));
    b.check(reached);
    assert_eq!(b.byte(36864), 0x57);
    assert_eq!(b.byte_on_disk(tail(b.shift)), last);
    b.done();
}

// ---- V3, T1: an unwritten extent becomes written under a long write

fn v3(shift: u32, on: bool) {
    let b = Bench::new(shift, Guard::IomapValidity, on);
    let tail = tail(shift);
    b.file.change(Change::Preallocate, 0..40960, false).unwrap();
    b.file.write(tail, &[0x58]).unwrap();
    let reached = b.at(Point::Copied, 0, |b| {
        let b = b.clone();
        elsewhere(move || b.clean_and_drop(9));
    });
    long_write(&b, &reached, if on { 0x58 } else { 0 });
}

#[test]
fn v3_a_preallocated_block_written_meanwhile() {
    with_and_without(v3);
}

// ---- V2, T2: a hole is filled by a store under a long write

fn v2(shift: u32, on: bool) {
    let b = Bench::new(shift, Guard::IomapValidity, on);
    let tail = tail(shift);
    b.file.truncate(40960).unwrap();
    let reached = b.at(Point::Copied, 0, move |b| {
        let b = b.clone();
        elsewhere(move || {
            b.store(tail, 0x58);
            b.clean_and_drop(9);
        });
    });
    long_write(&b, &reached, if on { 0x58 } else { 0 });
}

#[test]
fn v2_a_hole_filled_meanwhile() {
    with_and_without(v2);
}

// ---- V1, T3, the control: as V2, but the page is still under writeback

fn v1(shift: u32, on: bool) {
    let b = Bench::new(shift, Guard::IomapValidity, on);
    let tail = tail(shift);
    b.file.truncate(40960).unwrap();
    let writer_done = Arc::new(AtomicBool::new(false));
    let held = Arc::new(AtomicBool::new(false));
    let cleaner = Arc::new(std::sync::Mutex::new(None));
    let (weak, done, at_s5, thread) =
        (Arc::downgrade(&b), writer_done.clone(), held.clone(), cleaner.clone());
    let once = AtomicBool::new(false);
    b.world.cache.lab().observe(Some(Arc::new(move |point, _, pos| match (point, pos) {
        (Point::Copied, 0) if !once.swap(true, Ordering::SeqCst) => {
            let b = weak.upgrade().expect("the bench stands");
            b.store(tail, 0x58);
            let handle = other(move || b.file.mapping.write_and_wait(36864..40960));
            *thread.lock().unwrap() = Some(handle);
            while !at_s5.load(Ordering::SeqCst) {
                yield_now();
            }
        }
        (Point::Written, _) if !done.load(Ordering::SeqCst) => {
            at_s5.store(true, Ordering::SeqCst);
            while !done.load(Ordering::SeqCst) {
                yield_now();
            }
        }
        _ => {}
    })));
    assert_eq!(b.file.write(0, &[0x57; 36865]), Ok(36865));
    writer_done.store(true, Ordering::SeqCst);
    cleaner.lock().unwrap().take().expect("it was started").join();
    b.check(&held);
    assert_eq!(b.byte(36864), 0x57);
    assert_eq!(b.byte_on_disk(tail), 0x58);
    b.done();
}

#[test]
fn v1_a_reservation_allocated_meanwhile_does_no_harm_either_way() {
    with_and_without(v1);
}

// ---- A, T4: a store uses the reservation of a write that ends short

fn short_write(b: &Bench) {
    let mut source = EndingSource::new(8192, 16384, 0x57);
    assert_eq!(b.file.write_from(0, &mut source), Ok(8192));
}

fn a(shift: u32, on: bool) {
    let b = Bench::new(shift, Guard::PunchSkipDirty, on);
    b.file.truncate(65536).unwrap();
    let reached = b.at(Point::Copied, 4096, |b| {
        let b = b.clone();
        elsewhere(move || b.store(14336, 0x4D));
    });
    short_write(&b);
    b.check(&reached);
    assert_eq!(b.byte(8191), 0x57);
    assert_eq!(b.byte_on_disk(14336), if on { 0x4D } else { 0 });
    assert_eq!(b.file.fs.reserved(), 0, "a reservation stayed");
    b.done();
}

#[test]
fn a_store_into_what_a_short_write_gives_back() {
    with_and_without(a);
}

// ---- B, T7: a store between the look and the punch

fn b(shift: u32, on: bool) {
    let b = Bench::new(shift, Guard::PunchInvalidateLock, on);
    b.file.truncate(65536).unwrap();
    let storer = Arc::new(std::sync::Mutex::new(None));
    let thread = storer.clone();
    let reached = b.at(Point::Scanned, 8192, move |b| {
        let bench = b.clone();
        let stored = Arc::new(AtomicBool::new(false));
        let done = stored.clone();
        let handle = other(move || {
            bench.store(14336, 0x4D);
            done.store(true, Ordering::SeqCst);
        });
        *thread.lock().unwrap() = Some(handle);
        if b.on {
            give_way();
            assert!(!stored.load(Ordering::SeqCst), "the fault does not wait");
        } else {
            while !stored.load(Ordering::SeqCst) {
                yield_now();
            }
        }
    });
    short_write(&b);
    storer.lock().unwrap().take().expect("it was started").join();
    b.check(&reached);
    assert_eq!(b.byte_on_disk(14336), if on { 0x4D } else { 0 });
    b.done();
}

#[test]
fn b_a_store_between_the_look_and_the_punch() {
    with_and_without(b);
}

// ---- H, T9: writeback holds a map while the file is cut and written anew

fn h(shift: u32, on: bool) {
    const PAGES: u64 = 8;
    let blocks = PAGE >> shift;
    let world = ModelWorld::new(shift, (PAGES + 1) * blocks, 64, Completion::Inline);
    world.space.set_longest(1 << 10);
    world.cache.lab().set(Guard::WbRevalidate, on);
    let files = [world.file(1), world.file(2)];
    files[0].change(Change::Preallocate, 0..PAGES * PAGE, false).unwrap();
    for byte in [1, 2] {
        files[0].write(0, &[byte; (PAGES * PAGE) as usize]).unwrap();
        if byte == 1 {
            files[0].sync().unwrap();
        }
    }
    let Data::Written(last) = files[0].fs.block((PAGES - 1) * blocks) else {
        panic!("it is written");
    };
    let once = Arc::new(AtomicBool::new(false));
    let (both, reached, space) = (files.clone(), once.clone(), world.space.clone());
    world.cache.lab().observe(Some(Arc::new(move |point, file, pos| {
        if (point, file, pos) != (Point::Mapped, 1, 0) || reached.swap(true, Ordering::SeqCst) {
            return;
        }
        let (files, space) = (both.clone(), space.clone());
        elsewhere(move || {
            files[0].truncate((PAGES - 1) * PAGE).unwrap();
            space.set_next(last);
            files[1].write(0, &[0x22; PAGE as usize]).unwrap();
            files[1].sync().unwrap();
            assert_eq!(files[1].fs.block(0), Data::Written(last), "the freed block is taken");
            files[0].write((PAGES - 1) * PAGE, &[3; PAGE as usize]).unwrap();
        });
    })));
    files[0].sync().unwrap();
    assert!(once.load(Ordering::SeqCst), "the point was not reached");
    world.cache.lab().observe(None);
    assert_eq!(world.cache.lab().acted(Guard::WbRevalidate) > 0, on);
    for file in &files {
        let _ = file.sync();
        file.drop_clean();
    }
    let other = files[1].read(0, PAGE as usize).unwrap();
    let own = files[0].read((PAGES - 1) * PAGE, PAGE as usize).unwrap();
    assert_eq!(own == vec![3; PAGE as usize], on, "the rewritten page");
    assert_eq!(other == vec![0x22; PAGE as usize], on, "the other file");
    for file in &files {
        file.truncate(0).unwrap();
    }
}

#[test]
fn h_a_file_cut_under_writeback() {
    with_and_without(h);
}

// ---- J, T14: an append between the I/O and its completion

fn j(shift: u32, on: bool) {
    let b = Bench::new(shift, Guard::IoendClamp, on);
    b.file.write(0, &[0x61; 100]).unwrap();
    let reached = b.at(Point::Written, 0, |b| {
        let b = b.clone();
        elsewhere(move || assert_eq!(b.file.write(100, &[0x62; 100]), Ok(100)));
    });
    b.file.mapping.write_and_wait(0..1);
    let crashed = b.file.fs.after_crash();
    assert!(reached.load(Ordering::SeqCst), "the point was not reached");
    let mut expected = vec![0x61; 100];
    if !on {
        expected.resize(200, 0);
    }
    assert_eq!(crashed, expected, "after a crash");
    b.file.sync().unwrap();
    assert_eq!(b.file.fs.after_crash().len(), 200);
    b.done();
}

#[test]
fn j_an_append_before_the_first_is_complete() {
    with_and_without(j);
}

// ---- T17: a store while the page is written

fn t17(shift: u32, on: bool) {
    let b = Bench::new(shift, Guard::WbWriteProtect, on);
    b.file.truncate(PAGE).unwrap();
    b.store(77, 0x41);
    let storer = Arc::new(std::sync::Mutex::new(None));
    let thread = storer.clone();
    let reached = b.at(Point::Written, 0, move |b| {
        let bench = b.clone();
        let handle = other(move || bench.store(77, 0x42));
        if b.on {
            // It waits for the end of this writeback.
            *thread.lock().unwrap() = Some(handle);
            give_way();
        } else {
            handle.join();
        }
    });
    b.file.mapping.write_and_wait(0..PAGE);
    if let Some(storer) = storer.lock().unwrap().take() {
        storer.join();
    }
    b.check(&reached);
    b.file.sync().unwrap();
    assert_eq!(b.file.fs.after_crash()[77], if on { 0x42 } else { 0x41 });
    b.done();
}

#[test]
fn t17_a_store_after_writeback_began() {
    with_and_without(t17);
}

/// Every guard has a name that finds it again.
#[test]
fn guards_have_names() {
    let seen = AtomicU64::new(0);
    for guard in Guard::ALL {
        assert_eq!(Guard::from_name(guard.name()), Some(*guard));
        seen.fetch_or(1 << *guard as u32, Ordering::Relaxed);
    }
    assert_eq!(seen.load(Ordering::Relaxed).count_ones() as usize, Guard::ALL.len());
    assert_eq!(Guard::from_name("nothing"), None);
}
