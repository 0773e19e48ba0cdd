//! Folios of several pages: how large they become, and that what happens to some of their
//! pages happens to no others.

use std::ops::Range;
use std::sync::atomic::Ordering;

use crate::pagecache::{disk, growing, on_disk};
use crate::support::{FlatFile, Stack};
use holdfast_fs::block::{Completion, Sector};

const PAGE: u64 = 4096;

fn pages(stack: &Stack, index: u64) -> Range<u64> {
    stack.mapping.find(index).expect("it is cached").pages()
}

/// Write pages of which each has its number in every byte.
fn write(stack: &Stack, range: Range<u64>) {
    let data: Vec<u8> = range.clone().flat_map(|page| [page as u8; PAGE as usize]).collect();
    assert_eq!(stack.write(range.start * PAGE, &data), Ok(data.len()));
}

#[test]
fn they_are_as_large_as_a_write_and_their_place_allow() {
    let (device, stack) = growing(128, 2048);
    write(&stack, 0..3);
    assert_eq!([pages(&stack, 1), pages(&stack, 2)], [0..2, 2..3]);
    write(&stack, 3..100);
    let expected = [3..4, 4..8, 8..16, 16..32, 32..64, 64..96, 96..100];
    for range in expected {
        assert!(range.clone().all(|index| pages(&stack, index) == range), "{range:?}");
    }
    // What is cached stays as it is, in the middle of a write, too.
    write(&stack, 0..128);
    assert_eq!(
        [pages(&stack, 5), pages(&stack, 99), pages(&stack, 127)],
        [4..8, 96..100, 112..128]
    );
    assert_eq!(stack.mapping.cached_pages(), 128);
    stack.sync();
    let all: Vec<u8> = (0..128).flat_map(|page| [page as u8; PAGE as usize]).collect();
    assert!(on_disk(&device, &stack.ops, all.len()) == all);
}

#[test]
fn they_are_smaller_with_small_blocks_and_in_small_caches() {
    for (shift, cache_pages, largest) in [(10, 2048, 8), (9, 2048, 4), (12, 100, 4), (12, 20, 1)] {
        let device = disk(64 * PAGE, Completion::Inline);
        let file = FlatFile::new(shift, (0..(64 * PAGE) >> shift).map(Some).collect());
        let stack = Stack::new(device, file, 0, cache_pages);
        write(&stack, 0..16);
        assert_eq!(pages(&stack, 9).count(), largest, "blocks of {}", 1 << shift);
        stack.sync();
    }
}

#[test]
fn only_pages_with_dirty_blocks_are_dirty() {
    let (device, stack) = growing(64, 2048);
    write(&stack, 0..32);
    assert_eq!((stack.mapping.dirty_pages(), stack.cache.dirty_pages()), (32, 32));
    stack.sync();
    assert_eq!((stack.mapping.dirty_pages(), stack.cache.dirty_pages()), (0, 0));
    let cleaned = || stack.cache.statistics().cleaned_sync.load(Ordering::Relaxed);
    let before = cleaned();
    for at in [5 * PAGE + 100, 5 * PAGE + 200, 9 * PAGE] {
        stack.write(at, b"new").unwrap();
    }
    assert_eq!((stack.mapping.dirty_pages(), stack.cache.dirty_pages()), (2, 2));
    // Elsewhere in the folio nothing is written.
    device.poke(Sector(8 * 8), &[0xAA; 512]);
    stack.sync();
    assert_eq!(cleaned() - before, 2);
    let disk = on_disk(&device, &stack.ops, 32 * PAGE as usize);
    assert_eq!(disk[8 * PAGE as usize], 0xAA);
    assert_eq!(disk[5 * PAGE as usize + 200..][..3], *b"new");
    assert_eq!((stack.cache.dirty_pages(), stack.cache.writeback_pages()), (0, 0));
}

#[test]
fn some_pages_go_and_the_others_stay() {
    let (device, stack) = growing(64, 2048);
    let ra = Stack::readahead();
    write(&stack, 0..32);
    stack.sync();
    stack.write(20 * PAGE, b"dirty").unwrap();
    stack.write(4 * PAGE, b"dirty").unwrap();
    device.poke(Sector(3 * 8), &[0xAA; 2 * PAGE as usize]);
    device.poke(Sector(10 * 8), &[0xBB; PAGE as usize]);
    stack.mapping.invalidate(3 * PAGE..5 * PAGE);
    assert_eq!((stack.mapping.dirty_pages(), stack.cache.dirty_pages()), (1, 1));
    let read = |page: u64| stack.read(&ra, page * PAGE, PAGE as usize).unwrap();
    assert_eq!(read(2), [2; PAGE as usize]);
    assert_eq!(read(3), [0xAA; PAGE as usize]);
    assert_eq!(read(4), [0xAA; PAGE as usize], "what was dirty there is forgotten");
    assert_eq!(read(10), [10; PAGE as usize], "it is cached");
    assert_eq!(read(20)[..6], *b"dirty\x14");
    stack.sync();
    // Dropping takes whole folios.
    assert_eq!(stack.mapping.drop_clean(PAGE..32 * PAGE), 0);
    assert_eq!(stack.mapping.drop_clean(0..32 * PAGE), 32);
    assert_eq!((stack.mapping.cached_pages(), stack.cache.pages()), (0, 0));
    assert_eq!(read(20)[..6], *b"dirty\x14");
    // The last page that goes takes the folio with it.
    stack.mapping.invalidate(0..u64::MAX);
    write(&stack, 32..64);
    stack.sync();
    for page in 32..64 {
        assert_eq!(stack.mapping.cached_pages(), 32);
        stack.mapping.invalidate(page * PAGE..(page + 1) * PAGE);
    }
    assert_eq!((stack.mapping.cached_pages(), stack.cache.pages()), (0, 0));
}
