//! Mapped files and anonymous memory, on the simulated page table.

use std::sync::Arc;

use crate::mapped::{RW, World};
use crate::support::{Rng, Stack};
use holdfast_fs::Error;
use holdfast_fs::block::{Completion, Sector};
use holdfast_fs::mm::{Advice, MapFlags, MapRequest, MappedFile, MsyncFlags, Prot, USER_END};
use holdfast_fs::platform::{Memory, PAGE_SIZE, PageTable, Signal, VirtAddr};

const PAGE: u64 = PAGE_SIZE as u64;

fn world(pages: u64, short: u64, cache: u64) -> World {
    World::new(pages, short, cache, Completion::Inline)
}

#[test]
fn a_read_fault_maps_what_is_cached_around_it() {
    let w = world(40, 0, 256);
    let ra = Stack::readahead();
    w.stack.read(&ra, 0, 40 * PAGE_SIZE).unwrap();
    let va = w.map(40 * PAGE_SIZE, 0, Prot::READ, MapFlags::SHARED);
    assert_eq!(w.load(va.add(5 * PAGE), 1).unwrap(), [20]);
    assert_eq!(w.table.mapped_pages(), 32, "one fault, thirty-two pages");
    for page in 0..32 {
        let pte = w.table.query(va.add(page * PAGE)).expect("mapped by the first fault");
        assert!(!pte.writable);
    }
    w.load(va.add(39 * PAGE), 1).unwrap();
    assert_eq!(w.table.mapped_pages(), 32 + 8, "the area ends in the middle of a group");
    w.space.munmap(va, 40 * PAGE_SIZE).unwrap();
    assert_eq!(w.table.mapped_pages(), 0);
    w.assert_droppable();
}

#[test]
fn a_mapping_may_start_inside_a_group_and_end_before_it() {
    let w = world(40, 0, 256);
    w.stack.read(&Stack::readahead(), 0, 40 * PAGE_SIZE).unwrap();
    let va = w.map(3 * PAGE_SIZE, 17 * PAGE, Prot::READ, MapFlags::PRIVATE);
    assert_eq!(w.load(va.add(PAGE), 1).unwrap(), [18 * 4]);
    assert_eq!(w.table.mapped_pages(), 3);
    assert_eq!(w.load(va.add(3 * PAGE), 1), Err(Signal::Segv));
}

#[test]
fn stores_into_a_shared_mapping_and_write_see_each_other() {
    let w = world(8, 0, 64);
    let ra = Stack::readahead();
    let va = w.map(8 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    w.store(va.add(4080), b"stored across a page border, and then some more bytes").unwrap();
    assert_eq!(&w.stack.read(&ra, 4080, 6).unwrap(), b"stored");
    w.stack.write(4082, b"WRITTEN").unwrap();
    assert_eq!(&w.load(va.add(4080), 11).unwrap(), b"stWRITTENro");
    let other = w.map(PAGE_SIZE, 0, Prot::READ, MapFlags::SHARED);
    assert_eq!(&w.load(other.add(4080), 4).unwrap(), b"stWR");
    assert_eq!(w.stack.mapping.dirty_pages(), 2);
}

#[test]
fn private_pages_are_copied_at_the_first_store() {
    let w = world(8, 0, 64);
    let ra = Stack::readahead();
    let va = w.map(8 * PAGE_SIZE, 0, RW, MapFlags::PRIVATE);
    assert_eq!(w.load(va, 1).unwrap(), [0]);
    w.stack.write(10, b"later").unwrap();
    assert_eq!(&w.load(va.add(10), 5).unwrap(), b"later", "not copied yet");
    w.store(va.add(12), b"MINE").unwrap();
    assert_eq!(&w.load(va.add(10), 6).unwrap(), b"laMINE");
    w.stack.write(10, b"again").unwrap();
    assert_eq!(&w.load(va.add(10), 6).unwrap(), b"laMINE", "the copy is private");
    assert_eq!(&w.stack.read(&ra, 10, 6).unwrap(), b"again\0");
    w.store(va.add(6 * PAGE), b"x").unwrap();
    assert_eq!(w.stack.mapping.dirty_pages(), 1, "stores did not reach the file");
    // Clean pages leave the cache under the mapping, the copies stay.
    w.stack.sync();
    w.assert_droppable();
    assert_eq!(&w.load(va.add(10), 6).unwrap(), b"laMINE");
    assert_eq!(&w.load(va.add(6 * PAGE), 2).unwrap(), b"x\x18");
    w.space.madvise(va, PAGE_SIZE, Advice::DontNeed).unwrap();
    assert_eq!(&w.load(va.add(10), 6).unwrap(), b"again\0", "the copy is gone");
}

#[test]
fn accesses_that_cannot_be_served_say_which_signal() {
    let mut w = world(8, 5000, 64);
    let va = w.map(10 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    // 5000 bytes short: page 6 is partly within the file, page 7 beyond it.
    assert_eq!(w.load(va.add(6 * PAGE), 3).unwrap(), [24; 3]);
    assert_eq!(w.load(va.add(7 * PAGE - 4), 4).unwrap(), [0; 4], "zeros beyond the end");
    assert_eq!(w.load(va.add(7 * PAGE), 1), Err(Signal::Bus));
    assert_eq!(w.store(va.add(7 * PAGE), b"x"), Err(Signal::Bus));
    assert_eq!(w.load(va.add(10 * PAGE), 1), Err(Signal::Segv));
    assert_eq!(w.load(VirtAddr(0), 1), Err(Signal::Segv));
    let ro = w.map(PAGE_SIZE, 0, Prot::READ, MapFlags::SHARED);
    assert_eq!(w.store(ro, b"x"), Err(Signal::Segv));
    let none = w.map(PAGE_SIZE, 0, Prot::empty(), MapFlags::SHARED);
    assert_eq!(w.load(none, 1), Err(Signal::Segv));
    // A store that spans a good and a bad page stores into the good one.
    assert_eq!(w.store(va.add(7 * PAGE - 2), b"abcd"), Err(Signal::Bus));
    assert_eq!(&w.load(va.add(7 * PAGE - 2), 2).unwrap(), b"ab");
    // A hole reads as zeros; a store into it is refused before anything changes.
    w = world(8, 0, 64);
    let hole = crate::support::FlatFile::new(12, vec![Some(0), None]);
    let stack = Stack::new(w.disk.clone(), hole, 2 * PAGE, 64);
    w.file = World::open(&stack.mapping, true);
    let va = w.map(2 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    assert_eq!(w.load(va.add(PAGE), 2).unwrap(), [0, 0]);
    assert_eq!(w.store(va.add(PAGE), b"x"), Err(Signal::Bus));
    assert_eq!(stack.mapping.dirty_pages(), 0);
    w.space.clear();
}

#[test]
fn a_device_error_is_a_bus_error_and_goes_away_with_the_device_error() {
    use holdfast_fs::block::{Fault, FaultDisk, Op};
    let w = world(8, 0, 64);
    let faulty = FaultDisk::new(w.disk.clone());
    let file = crate::support::FlatFile::scattered(10, 32);
    let stack = Stack::new(faulty.clone(), file, 8 * PAGE, 64);
    faulty.inject(Fault::After { op: Op::Read, n: 0 });
    let opened: Arc<dyn MappedFile> = World::open(&stack.mapping, true);
    let request = MapRequest {
        addr: VirtAddr(0),
        len: 8 * PAGE_SIZE,
        prot: RW,
        flags: MapFlags::SHARED,
        file: Some(opened),
        offset: 0,
    };
    let va = w.space.mmap(request).unwrap();
    assert_eq!(w.load(va, 1), Err(Signal::Bus));
    assert_eq!(w.store(va.add(PAGE), b"x"), Err(Signal::Bus));
    faulty.clear();
    assert_eq!(w.load(va.add(PAGE), 1).unwrap(), [4]);
    w.space.clear();
}

#[test]
fn writeback_takes_the_right_to_store_away() {
    let w = world(4, 0, 64);
    let va = w.map(4 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    w.store(va, b"A").unwrap();
    assert!(w.table.query(va).unwrap().writable);
    w.stack.sync();
    assert!(!w.table.query(va).unwrap().writable, "clean pages are mapped for reading");
    assert_eq!(w.on_disk(0, 1), b"A");
    w.store(va, b"B").unwrap();
    assert_eq!(w.stack.mapping.dirty_pages(), 1, "the second store was noticed");
    w.stack.sync();
    assert_eq!(w.on_disk(0, 1), b"B");
}

#[test]
fn msync_makes_stores_durable_and_minds_its_range() {
    let w = world(8, 0, 64);
    let va = w.map(8 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    w.store(va, b"first").unwrap();
    w.store(va.add(4 * PAGE), b"second").unwrap();
    w.space.msync(va, PAGE_SIZE, MsyncFlags::SYNC).unwrap();
    assert_eq!(w.on_disk(0, 5), b"first");
    assert_ne!(w.on_disk(4 * PAGE, 6), b"second");
    w.space.msync(va, 8 * PAGE_SIZE, MsyncFlags::ASYNC).unwrap();
    let both = MsyncFlags::SYNC | MsyncFlags::ASYNC;
    assert!(matches!(w.space.msync(va, 1, both), Err(Error::Invalid(_))));
    assert!(matches!(w.space.msync(va.add(1), 1, MsyncFlags::SYNC), Err(Error::Invalid(_))));
    let beyond = w.space.msync(va, 100 * PAGE_SIZE, MsyncFlags::SYNC);
    assert_eq!(beyond, Err(Error::NoMemory));
    assert_eq!(w.on_disk(4 * PAGE, 6), b"second", "what is mapped was done");
}

#[test]
fn unmapping_a_part_leaves_the_rest() {
    let w = world(64, 0, 256);
    let va = w.map(64 * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    for page in 0..64 {
        w.store(va.add(page * PAGE), &[0xA0 + (page % 64) as u8]).unwrap();
    }
    w.space.munmap(va.add(10 * PAGE), 20 * PAGE_SIZE).unwrap();
    w.space.munmap(va.add(40 * PAGE), 1).unwrap();
    assert_eq!(w.space.mappings().len(), 3);
    for page in 0..64 {
        let gone = (10..30).contains(&page) || page == 40;
        let got = w.load(va.add(page * PAGE), 1);
        let want = if gone { Err(Signal::Segv) } else { Ok(vec![0xA0 + page as u8]) };
        assert_eq!(got, want, "page {page}");
    }
    // Writeback and eviction find the entries of every piece.
    w.stack.sync();
    assert!(!w.table.query(va.add(50 * PAGE)).unwrap().writable);
    w.store(va.add(50 * PAGE), b"!").unwrap();
    w.stack.sync();
    assert_eq!(w.on_disk(50 * PAGE, 1), b"!");
    w.assert_droppable();
    assert_eq!(w.table.mapped_pages(), 0, "eviction unmapped every piece");
    assert_eq!(w.load(va.add(35 * PAGE), 1).unwrap(), [0xA0 + 35]);
    w.space.munmap(va, 64 * PAGE_SIZE).unwrap();
    assert!(w.space.mappings().is_empty());
    w.assert_droppable();
}

#[test]
fn fixed_mappings_replace_and_gaps_are_found() {
    let w = world(8, 0, 64);
    let anonymous = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    let map = |addr: VirtAddr, len: usize, flags: MapFlags| {
        w.space.mmap(MapRequest { addr, len, prot: RW, flags, file: None, offset: 0 })
    };
    let a = map(VirtAddr(0), 4 * PAGE_SIZE, anonymous).unwrap();
    w.store(a, b"old").unwrap();
    assert_eq!(map(a, PAGE_SIZE, anonymous | MapFlags::FIXED_NOREPLACE), Err(Error::Exists));
    assert_eq!(map(a, PAGE_SIZE, anonymous | MapFlags::FIXED), Ok(a));
    assert_eq!(w.load(a, 3).unwrap(), [0; 3], "a new page of zeros");
    let hint = VirtAddr(0x5000_0000);
    assert_eq!(map(hint, PAGE_SIZE, anonymous), Ok(hint));
    assert_ne!(map(hint, PAGE_SIZE, anonymous).unwrap(), hint);
    assert!(matches!(map(a.add(1), 1, anonymous | MapFlags::FIXED), Err(Error::Invalid(_))));
    let beyond = map(USER_END, PAGE_SIZE, anonymous | MapFlags::FIXED);
    assert_eq!(beyond, Err(Error::NoMemory));
    assert!(matches!(map(VirtAddr(0), 0, anonymous), Err(Error::Invalid(_))));
    assert_eq!(map(VirtAddr(0), 1 << 60, anonymous), Err(Error::NoMemory));
    assert!(matches!(map(VirtAddr(0), 1, MapFlags::ANONYMOUS), Err(Error::Invalid(_))));
    assert_eq!(map(VirtAddr(0), 1, MapFlags::PRIVATE), Err(Error::BadDescriptor));
    assert!(matches!(w.space.munmap(a.add(1), 1), Err(Error::Invalid(_))));
    assert!(matches!(w.space.munmap(a, 0), Err(Error::Invalid(_))));
    assert!(w.space.munmap(VirtAddr(0x7000_0000), PAGE_SIZE).is_ok(), "nothing there is fine");
    let free = w.memory.free_pages();
    w.space.clear();
    assert!(w.memory.free_pages() > free, "private pages went back");
    assert_eq!(w.memory.free_pages(), w.memory.total_pages());
}

#[test]
fn file_arguments_are_checked() {
    let w = world(8, 0, 64);
    let readonly: Arc<dyn MappedFile> = World::open(&w.stack.mapping, false);
    let map = |prot, flags, offset, len| {
        let file = Some(readonly.clone());
        w.space.mmap(MapRequest { addr: VirtAddr(0), len, prot, flags, file, offset })
    };
    assert_eq!(map(RW, MapFlags::SHARED, 0, 1), Err(Error::Access));
    assert!(map(RW, MapFlags::PRIVATE, 0, 1).is_ok());
    assert!(map(Prot::READ, MapFlags::SHARED, 0, 1).is_ok());
    assert!(matches!(map(RW, MapFlags::PRIVATE, 1, 1), Err(Error::Invalid(_))));
    let huge = i64::MAX as u64 & !(PAGE - 1);
    assert_eq!(map(RW, MapFlags::PRIVATE, huge, 4 * PAGE_SIZE), Err(Error::Overflow));
    assert_eq!(
        w.space.madvise(VirtAddr(0x1000_0000), 4096, Advice::WillNeed),
        Err(Error::NoMemory)
    );
}

/// What a model knows of one page of the address space.
#[derive(Clone, Copy, PartialEq)]
enum Slot {
    Free,
    Zeros(u8),
    Shared(usize),
    Private(usize, Option<u8>),
}

/// Mapping, cutting, replacing and forgetting at random: every page shows what it should.
#[test]
fn random_areas_match_a_model() {
    const WINDOW: usize = 96;
    let w = world(64, 0, 256);
    let base = VirtAddr(0x4000_0000);
    let mut file: Vec<u8> = (0..64u64).map(|page| (page * 4) as u8).collect();
    let mut model = [Slot::Free; WINDOW];
    let mut rng = Rng(4242);
    for round in 0..8000u64 {
        let first = rng.below(WINDOW as u64) as usize;
        let pages = (1 + rng.below(20) as usize).min(WINDOW - first);
        let va = base.add(first as u64 * PAGE);
        let range = first..first + pages;
        let index = rng.below(64 - pages as u64) as usize;
        let map = |flags: MapFlags, opened: Option<Arc<dyn MappedFile>>| {
            let (len, prot, flags) = (pages * PAGE_SIZE, RW, flags | MapFlags::FIXED);
            let offset = index as u64 * PAGE;
            let request = MapRequest { addr: va, len, prot, flags, file: opened, offset };
            assert_eq!(w.space.mmap(request), Ok(va));
        };
        let opened: Arc<dyn MappedFile> = w.file.clone();
        match rng.below(12) {
            0 => {
                map(MapFlags::PRIVATE | MapFlags::ANONYMOUS, None);
                model[range].fill(Slot::Zeros(0));
            }
            1 => {
                map(MapFlags::SHARED, Some(opened));
                range.for_each(|n| model[n] = Slot::Shared(index + n - first));
            }
            2 => {
                map(MapFlags::PRIVATE, Some(opened));
                range.for_each(|n| model[n] = Slot::Private(index + n - first, None));
            }
            3 => {
                w.space.munmap(va, pages * PAGE_SIZE).unwrap();
                model[range].fill(Slot::Free);
            }
            4 => {
                let complete = model[range.clone()].iter().all(|s| *s != Slot::Free);
                let done = w.space.madvise(va, pages * PAGE_SIZE, Advice::DontNeed);
                assert_eq!(done, if complete { Ok(()) } else { Err(Error::NoMemory) });
                for slot in &mut model[range] {
                    match slot {
                        Slot::Zeros(value) => *value = 0,
                        Slot::Private(_, copy) => *copy = None,
                        Slot::Free | Slot::Shared(_) => {}
                    }
                }
            }
            5 => {
                w.stack.sync();
                w.stack.mapping.drop_clean(0..u64::MAX);
            }
            6..9 => {
                let value = round as u8;
                let stored = w.store(va.add(100), &[value]);
                assert_eq!(stored.is_err(), model[first] == Slot::Free);
                match &mut model[first] {
                    Slot::Free => {}
                    Slot::Zeros(byte) => *byte = value,
                    Slot::Shared(page) => file[*page] = value,
                    Slot::Private(_, copy) => *copy = Some(value),
                }
            }
            _ => {
                let want = match model[first] {
                    Slot::Free => Err(Signal::Segv),
                    Slot::Zeros(value) => Ok(vec![value]),
                    Slot::Shared(page) | Slot::Private(page, None) => Ok(vec![file[page]]),
                    Slot::Private(_, Some(value)) => Ok(vec![value]),
                };
                assert_eq!(w.load(va.add(100), 1), want, "round {round}");
            }
        }
    }
    w.space.clear();
    w.stack.sync();
    for (page, value) in file.iter().enumerate() {
        assert_eq!(w.on_disk(page as u64 * PAGE + 100, 1), [*value]);
    }
    w.assert_droppable();
    assert_eq!(w.memory.free_pages(), w.memory.total_pages(), "a private page leaked");
}

/// Far more mapped data than cache: stores survive writeback, eviction and refault.
#[test]
fn a_random_workload_over_a_small_cache_matches_its_model() {
    let pages = 300;
    let w = World::new(pages, 123, 40, Completion::Reordered(2, 11));
    w.stack.cache.start();
    let size = (pages * PAGE - 123) as usize;
    let mut model = w.on_disk(0, size);
    let shared = w.map(size, 0, RW, MapFlags::SHARED);
    let ra = Stack::readahead();
    let mut rng = Rng(99);
    for round in 0..6000u64 {
        let pos = rng.below(size as u64) as usize;
        let len = (1 + rng.below(9000) as usize).min(size - pos);
        match rng.below(5) {
            0 | 1 => {
                let data: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
                w.store(shared.add(pos as u64), &data).unwrap();
                model[pos..pos + len].copy_from_slice(&data);
            }
            2 => {
                let data = vec![round as u8; len];
                assert_eq!(w.stack.write(pos as u64, &data).unwrap(), len);
                model[pos..pos + len].copy_from_slice(&data);
            }
            3 => assert_eq!(w.stack.read(&ra, pos as u64, len).unwrap(), model[pos..pos + len]),
            _ => assert_eq!(w.load(shared.add(pos as u64), len).unwrap(), model[pos..pos + len]),
        }
    }
    w.space.msync(shared, size, MsyncFlags::SYNC).unwrap();
    assert!(w.on_disk(0, size) == model, "the disk differs from the model");
    let evicted: u64 = w
        .stack
        .cache
        .statistics()
        .snapshot()
        .iter()
        .filter(|(name, _)| name.starts_with("evicted"))
        .map(|(_, n)| n)
        .sum();
    assert!(evicted > 500, "only {evicted} evictions: the cache was not under pressure");
    w.space.clear();
    w.stack.cache.stop();
    w.assert_droppable();
}

/// Two threads store into their own halves of every page, one reads along, one unmaps
/// and maps again, while pages are cleaned and evicted.
#[test]
fn threads_share_pages_under_pressure() {
    let pages = 64u64;
    let w = Arc::new(World::new(pages, 0, 24, Completion::Threads(2)));
    w.stack.cache.start();
    let va = w.map(pages as usize * PAGE_SIZE, 0, RW, MapFlags::SHARED);
    std::thread::scope(|scope| {
        for half in 0..2u64 {
            let w = &w;
            scope.spawn(move || {
                for round in 1..=20u8 {
                    for page in 0..pages {
                        let at = va.add(page * PAGE + half * PAGE / 2);
                        w.store(at, &[round; 2048]).unwrap();
                        assert_eq!(
                            w.load(at, 2048).unwrap(),
                            [round; 2048],
                            "own half, page {page}"
                        );
                    }
                }
            });
        }
        let w = &w;
        scope.spawn(move || {
            for round in 0..200u64 {
                let view = w.map(8 * PAGE_SIZE, (round % 8) * 8 * PAGE, RW, MapFlags::SHARED);
                for page in 0..8 {
                    w.load(view.add(page * PAGE), 1).unwrap();
                }
                w.space.munmap(view, 8 * PAGE_SIZE).unwrap();
                w.stack.mapping.drop_clean(0..u64::MAX);
            }
        });
    });
    w.space.msync(va, pages as usize * PAGE_SIZE, MsyncFlags::SYNC).unwrap();
    let data = w.on_disk(0, pages as usize * PAGE_SIZE);
    assert!(data.iter().all(|b| *b == 20), "a store was lost");
    let mut sector = [0; 512];
    w.disk.peek(Sector(0), &mut sector);
    w.space.clear();
    w.stack.cache.stop();
    w.assert_droppable();
}
