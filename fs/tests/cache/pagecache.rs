//! The page cache and the iomap layer against a model: every byte, with a cache far
//! smaller than the data, under real threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::{EndingSource, FlatFile, Rng, SliceSource, Stack, VecSink};
use holdfast_fs::Error;
use holdfast_fs::block::{Completion, Fault, FaultDisk, MemDisk, MemDiskConfig, Op, Sector};
use holdfast_fs::iomap;

pub fn disk(bytes: u64, completion: Completion) -> Arc<MemDisk> {
    MemDisk::with(MemDiskConfig {
        capacity_sectors: bytes / 512,
        completion,
        ..MemDiskConfig::default()
    })
}

/// The file's bytes as they lie on the disk.
pub fn on_disk(disk: &MemDisk, ops: &FlatFile, size: usize) -> Vec<u8> {
    let block = 1usize << ops.shift;
    let mut data = vec![0; size.next_multiple_of(block)];
    for (i, at) in ops.blocks.iter().enumerate().take(data.len() / block) {
        if let Some(at) = at {
            let sector = Sector(at * block as u64 / 512);
            disk.peek(sector, &mut data[i * block..(i + 1) * block]);
        }
    }
    data.truncate(size);
    data
}

fn random_model(shift: u32, seed: u64, operations: u64, pages: u64) {
    let blocks = (1 << 20) >> shift;
    let size = (1 << 20) - 777;
    let device = disk(1 << 20, Completion::Reordered(2, seed));
    let mut file = FlatFile::scattered(shift, blocks);
    file.stale_every = 5;
    let stack = Stack::new(device.clone(), file, size as u64, pages);
    stack.cache.start();
    let ra = Stack::readahead();
    let mut model = on_disk(&device, &stack.ops, size);
    let mut rng = Rng(seed);
    for operation in 0..operations {
        let pos = rng.below(size as u64) as usize;
        let longest = if rng.below(8) == 0 { 200_000 } else { 9000 };
        let len = (rng.below(longest) as usize + 1).min(size - pos);
        match rng.below(16) {
            0..7 => {
                let data = stack.read(&ra, pos as u64, len).unwrap();
                assert!(data == model[pos..pos + len], "read {pos}+{len} (operation {operation})");
            }
            7..13 => {
                let data: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
                let mut source = SliceSource::new(&data);
                source.fault_every = [0, 2, 3, 5][rng.below(4) as usize];
                let n = iomap::write(&stack.mapping, pos as u64, &mut source).unwrap();
                assert_eq!(n, len);
                model[pos..pos + len].copy_from_slice(&data);
            }
            13 => stack.mapping.write_and_wait(pos as u64..(pos + len) as u64),
            14 => {
                stack.mapping.drop_clean(pos as u64..(pos + len) as u64);
            }
            _ => direct(&stack, &mut model, &mut rng, pos & !511, len),
        }
    }
    stack.sync();
    assert_eq!(stack.mapping.dirty_pages(), 0);
    assert!(on_disk(&device, &stack.ops, size) == model, "the disk holds the model");
    stack.mapping.drop_clean(0..u64::MAX);
    assert_eq!(stack.read(&ra, 0, size).unwrap(), model);
    let statistics = stack.cache.statistics();
    for counter in [&statistics.stale_mappings, &statistics.refaults, &statistics.readahead] {
        assert!(counter.load(Ordering::Relaxed) > 0, "{:?}", statistics.snapshot());
    }
    assert!(stack.cache.pages() <= pages);
    stack.cache.stop();
}

fn direct(stack: &Stack, model: &mut [u8], rng: &mut Rng, pos: usize, len: usize) {
    let len = len.next_multiple_of(512).min((model.len() - pos) & !511);
    if rng.below(2) == 0 || len == 0 {
        let mut sink = VecSink::new(len);
        iomap::direct_read(&stack.mapping, pos as u64, &mut sink).unwrap();
        assert!(sink.data == model[pos..pos + len], "direct read {pos}+{len}");
    } else {
        let data: Vec<u8> = (0..len).map(|_| rng.next() as u8).collect();
        let n = iomap::direct_write(&stack.mapping, pos as u64, &mut SliceSource::new(&data));
        assert_eq!(n, Ok(len));
        model[pos..pos + len].copy_from_slice(&data);
    }
}

#[test]
fn equals_a_model_with_blocks_of_a_page() {
    random_model(12, 0x1234_5678_9abc, 2000, 48);
    random_model(12, 0x9abc_5678_1234, 2000, 160);
}

#[test]
fn equals_a_model_with_small_blocks() {
    random_model(10, 0xdead_beef_cafe, 2000, 48);
    random_model(10, 0xcafe_beef_dead, 2000, 160);
    random_model(9, 0x000d_d0b1_0c55, 1500, 96);
}

/// Threads write interleaved records that share pages and blocks, while one reads along
/// and the cache is an eighth of the data.
#[test]
fn threads_share_pages_without_losing_a_byte() {
    const RECORD: usize = 1000;
    const RECORDS: usize = 2000;
    let size = RECORD * RECORDS;
    let device = disk(2 << 20, Completion::Threads(2));
    let stack =
        Arc::new(Stack::new(device.clone(), FlatFile::scattered(10, 2048), size as u64, 64));
    stack.cache.start();
    // IOLOCK's part: writers exclude one another and readers, as the file layer does.
    let iolock = Arc::new(std::sync::RwLock::new(()));
    let done = Arc::new(AtomicBool::new(false));
    let byte = |record: usize, version: usize| (record * 31 + version * 7 + 1) as u8;
    let writers: Vec<_> = (0..4)
        .map(|t| {
            let (stack, iolock) = (stack.clone(), iolock.clone());
            std::thread::spawn(move || {
                for version in 0..3 {
                    for record in (t..RECORDS).step_by(4) {
                        let data = [byte(record, version); RECORD];
                        let _guard = iolock.write().unwrap();
                        assert_eq!(stack.write((record * RECORD) as u64, &data), Ok(RECORD));
                    }
                }
            })
        })
        .collect();
    let reader = {
        let (stack, iolock, done) = (stack.clone(), iolock.clone(), done.clone());
        std::thread::spawn(move || {
            let ra = Stack::readahead();
            let mut rng = Rng(99);
            while !done.load(Ordering::SeqCst) {
                let record = rng.below(RECORDS as u64) as usize;
                let _guard = iolock.read().unwrap();
                let data = stack.read(&ra, (record * RECORD) as u64, RECORD).unwrap();
                assert!(data.iter().all(|b| *b == data[0]), "record {record} is torn");
            }
        })
    };
    for writer in writers {
        writer.join().unwrap();
    }
    done.store(true, Ordering::SeqCst);
    reader.join().unwrap();
    stack.sync();
    let disk = on_disk(&device, &stack.ops, size);
    for record in 0..RECORDS {
        let expected = byte(record, 2);
        let got = &disk[record * RECORD..(record + 1) * RECORD];
        assert!(got.iter().all(|b| *b == expected), "record {record} on disk");
    }
    let s = stack.cache.statistics();
    for (name, counter) in [("cleaned", &s.cleaned_background), ("evicted", &s.evicted_background)]
    {
        assert!(counter.load(Ordering::Relaxed) > 0, "{name}: {:?}", s.snapshot());
    }
    stack.cache.stop();
}

/// With a device that does nothing until told, dirtying stops at the limit.
#[test]
fn a_dirtier_waits_at_the_limit_until_pages_are_written() {
    const PAGES: u64 = 256;
    let device = disk(PAGES * 4096, Completion::Manual);
    let file = FlatFile::scattered(12, PAGES);
    let stack = Arc::new(Stack::new(device.clone(), file, PAGES * 4096, 64));
    stack.cache.start();
    let writer = {
        let stack = stack.clone();
        std::thread::spawn(move || {
            for page in 0..PAGES {
                assert_eq!(stack.write(page * 4096, &[page as u8; 4096]), Ok(4096));
            }
        })
    };
    let mut most_dirty = 0;
    while !writer.is_finished() {
        // Only this thread ends writeback. Counted in this order, a page on its way from
        // dirty to writeback is missed, not seen twice.
        let writeback = stack.cache.writeback_pages();
        most_dirty = most_dirty.max(writeback + stack.cache.dirty_pages());
        // Nothing was ended yet: all that is dirty is below the limit, or just reached it.
        assert!(most_dirty <= stack.cache.dirty_limit() + 1, "{most_dirty}");
        device.complete_one(0);
    }
    writer.join().unwrap();
    assert!(stack.cache.statistics().throttled.load(Ordering::Relaxed) > 0);
    let flusher = std::thread::spawn({
        let stack = stack.clone();
        move || stack.sync()
    });
    while !flusher.is_finished() {
        device.complete_one(0);
    }
    flusher.join().unwrap();
    let data = on_disk(&device, &stack.ops, PAGES as usize * 4096);
    assert!(data.chunks(4096).enumerate().all(|(i, page)| page.iter().all(|b| *b == i as u8)));
    stack.cache.stop();
}

#[test]
fn a_write_to_a_hole_is_refused_and_changes_nothing() {
    let device = disk(1 << 16, Completion::Inline);
    let mut file = FlatFile::scattered(12, 16);
    file.blocks[3] = None;
    let stack = Stack::new(device, file, 1 << 16, 32);
    let ra = Stack::readahead();
    assert!(matches!(stack.write(3 * 4096 + 5, b"x"), Err(Error::ReadOnly(_))));
    assert_eq!(stack.read(&ra, 3 * 4096, 4096).unwrap(), vec![0; 4096]);
    assert_eq!(stack.read(&ra, 4 * 4096, 4096).unwrap(), vec![0xEE; 4096]);
    assert_eq!(stack.mapping.dirty_pages(), 0);
}

#[test]
fn a_cached_write_does_no_io() {
    let device = disk(1 << 20, Completion::Inline);
    let stack = Stack::new(device, FlatFile::scattered(12, 256), 1 << 20, 512);
    let ra = Stack::readahead();
    stack.read(&ra, 0, 1 << 20).unwrap();
    let before = stack.mapping.queue().statistics();
    for i in 0..20 {
        stack.write(i * 5000, &[1; 3000]).unwrap();
    }
    let after = stack.mapping.queue().statistics();
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
}

/// A file of `pages` pages in one extent, empty, on its own device.
pub fn growing(pages: u64, cache_pages: u64) -> (Arc<MemDisk>, Stack) {
    let device = disk(pages * 4096, Completion::Inline);
    let file = FlatFile::new(12, (0..pages).map(Some).collect());
    let stack = Stack::new(device.clone(), file, 0, cache_pages);
    (device, stack)
}

#[test]
fn a_file_written_front_to_back_is_written_behind() {
    const PAGES: u64 = 1024;
    let behind = |order: &mut dyn Iterator<Item = u64>| {
        // Background writeback would start at 800 pages and more, here at none.
        let (_, stack) = growing(PAGES, 16 * PAGES);
        stack.cache.start();
        for page in order {
            stack.write(page * 4096, &[page as u8; 4096]).unwrap();
        }
        let started = std::time::Instant::now();
        let written = || stack.cache.statistics().cleaned_behind.load(Ordering::Relaxed);
        while written() == 0 && started.elapsed().as_millis() < 500 {
            std::thread::yield_now();
        }
        stack.sync();
        stack.cache.stop();
        written()
    };
    assert!(behind(&mut (0..PAGES)) >= 200);
    assert_eq!(behind(&mut (0..PAGES).rev()), 0);
    let by_turns = (0..PAGES).step_by(2).chain((1..PAGES).step_by(2));
    assert_eq!(behind(&mut by_turns.into_iter()), 0);
}

#[test]
fn a_write_behind_the_end_that_stops_early_leaves_what_it_copied() {
    for good in [0, 1, 4096, 10_000, 33 * 4096 + 1] {
        let (device, stack) = growing(64, 128);
        let result = iomap::write(&stack.mapping, 0, &mut EndingSource::new(good, 64 * 4096, 7));
        assert_eq!(result, if good == 0 { Err(Error::Fault) } else { Ok(good) });
        assert_eq!(stack.mapping.size(), good as u64);
        // The folio where it stopped may stay, partly empty: 8 pages in this cache.
        assert!(stack.mapping.cached_pages() <= (good as u64).div_ceil(4096) + 8, "{good}");
        stack.sync();
        assert_eq!(on_disk(&device, &stack.ops, good), vec![7; good]);
    }
}

#[test]
fn a_long_write_behind_the_end_needs_no_more_cache_than_there_is() {
    let (device, stack) = growing(256, 24);
    stack.cache.start();
    let data: Vec<u8> = (0..256 * 4096).map(|i| (i / 4096) as u8).collect();
    assert_eq!(stack.write(0, &data), Ok(data.len()));
    stack.sync();
    assert!(on_disk(&device, &stack.ops, data.len()) == data);
    stack.cache.stop();
}

#[test]
fn writeback_errors_are_reported_once_to_each_open_file_and_reads_fail_cleanly() {
    let device = FaultDisk::new(disk(1 << 20, Completion::Inline));
    let stack = Stack::new(device.clone(), FlatFile::scattered(12, 256), 1 << 20, 64);
    let ra = Stack::readahead();
    let (mut a, mut b) = (stack.mapping.error_sample(), stack.mapping.error_sample());
    device.inject(Fault::After { op: Op::Write, n: 0 });
    stack.write(0, &[7; 4096]).unwrap();
    stack.sync();
    assert_eq!(stack.mapping.error_check(&mut a), Err(Error::Io));
    assert_eq!(stack.mapping.error_check(&mut a), Ok(()));
    assert_eq!(stack.mapping.error_check(&mut b), Err(Error::Io));
    let mut late = stack.mapping.error_sample();
    assert_eq!(stack.mapping.error_check(&mut late), Ok(()));
    device.clear();
    stack.write(0, &[8; 4096]).unwrap();
    stack.sync();
    assert_eq!(stack.mapping.error_check(&mut a), Ok(()));
    device.inject(Fault::After { op: Op::Read, n: 0 });
    stack.mapping.drop_clean(0..u64::MAX);
    assert_eq!(stack.read(&ra, 0, 4096), Err(Error::Io));
    device.clear();
    assert_eq!(stack.read(&ra, 0, 4096).unwrap(), vec![8; 4096]);
}
