//! Copies of shared blocks: how much is set aside at once for them, what becomes of what is
//! left, and when a file is known to share nothing.

use std::sync::Arc;

use holdfast_fs::iomap::MapKind;
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{
    FallocateMode, Fd, FiemapFlags, MapFlags, MsyncFlags, OpenFlags, Process, Prot,
};
use holdfast_fs::xfs::FsXattr;

use crate::volume::{Volume, mkfs};
use crate::xfs_support::{Scratch, number, xfs_db};

const EXTSIZE: u32 = 1 << 11;
const COW_EXTSIZE: u32 = 1 << 16;
const KIB: u64 = 1024;

/// What lies ready for copies: where, how much, and whether it has its place on disk.
fn copies(p: &Process, fd: Fd) -> Vec<(u64, u64, bool)> {
    let mut all = Vec::new();
    p.copies(fd, &mut |map| {
        all.push((map.offset_bytes, map.length_bytes, map.kind != MapKind::Delalloc));
        true
    })
    .unwrap();
    all
}

/// Extents of a file, on disk.
fn extents(p: &Process, fd: Fd) -> Vec<(u64, u64, u64)> {
    let mut all = Vec::new();
    p.fiemap(fd, 0, 1 << 40, true, &mut |e| {
        all.push((e.logical, e.physical, e.length));
        true
    })
    .unwrap();
    all
}

/// A file of one extent of so many KiB whose blocks another has too; both open.
fn shared(v: &Volume, kib: u64) -> (Fd, Fd) {
    let p = &v.process;
    let (a, b) = (v.create(b"/a").unwrap(), v.create(b"/b").unwrap());
    p.pwrite(a, &vec![b'A'; (kib * KIB) as usize], 0).unwrap();
    p.fsync(a).unwrap();
    p.ficlone(b, a).unwrap();
    (a, b)
}

fn check(p: &Process, path: &[u8], written: &[(u64, u64)], size: u64) {
    let fd = p.open(path, OpenFlags::RDONLY, 0).unwrap();
    let mut bytes = vec![0; size as usize + 1];
    let mut done = 0;
    while let n @ 1.. = p.pread(fd, &mut bytes[done..], done as u64).unwrap() {
        done += n;
    }
    assert_eq!(done as u64, size);
    for (at, byte) in (0..).zip(&bytes[..done]) {
        let new = written.iter().any(|(from, len)| (*from..from + len).contains(&at));
        assert_eq!(*byte, if new { b'B' } else { b'A' }, "byte {at}");
    }
    p.close(fd).unwrap();
}

#[test]
fn copies_are_aligned_and_rounded() {
    let v = Volume::over(&mkfs(40, &[]));
    let p = &v.process;
    let (a, b) = shared(&v, 1000);
    // 32 blocks, where nobody says anything.
    p.pwrite(b, &[b'B'; 100], 300 * KIB).unwrap();
    assert_eq!(copies(p, b), [(256 * KIB, 128 * KIB, false)]);
    p.fsync(b).unwrap();
    assert_eq!(copies(p, b), [(256 * KIB, 44 * KIB, true), (304 * KIB, 80 * KIB, true)]);
    let (before, after) = (extents(p, b), copies(p, b));
    // What lies ready is used, and what it is used for lies in one piece with it.
    p.pwrite(b, &[b'B'; 8192], 304 * KIB).unwrap();
    assert_eq!(copies(p, b), after);
    p.fsync(b).unwrap();
    assert_eq!(extents(p, b).len(), before.len());
    assert_eq!(extents(p, b)[1].0, 300 * KIB);
    assert_eq!(extents(p, b)[1].2, 12 * KIB);
    // Never behind the end.
    p.pwrite(b, &[b'B'; 100], 999 * KIB).unwrap();
    assert_eq!(copies(p, b).last(), Some(&(896 * KIB, 104 * KIB, false)));
    let new = |cowextsize| FsXattr { xflags: COW_EXTSIZE, cowextsize, ..FsXattr::default() };
    p.fssetxattr(b, &new(16384)).unwrap();
    p.pwrite(b, &[b'B'; 1000], 530 * KIB).unwrap();
    assert!(copies(p, b).contains(&(528 * KIB, 16 * KIB, false)));
    p.fssetxattr(b, &new(1 << 20)).unwrap();
    // As far as there is something else, with which it is one then.
    p.pwrite(b, &[b'B'; 1000], 600 * KIB).unwrap();
    assert_eq!(copies(p, b).last(), Some(&(528 * KIB, 472 * KIB, false)));
    // A store through a mapping, and a write past the cache.
    let rights = Prot::READ | Prot::WRITE;
    let at = p.mmap(VirtAddr(0), 1 << 20, rights, MapFlags::SHARED, Some(b), 0).unwrap();
    p.store(at.add(4096), b"BBBB").unwrap();
    assert_eq!(copies(p, b)[0], (0, 256 * KIB, false));
    p.msync(at, 1 << 20, MsyncFlags::SYNC).unwrap();
    p.munmap(at, 1 << 20).unwrap();
    let written = [
        (300 * KIB, 100),
        (304 * KIB, 8192),
        (999 * KIB, 100),
        (530 * KIB, 1000),
        (600 * KIB, 1000),
        (4096, 4),
    ];
    check(p, b"/b", &written, 1000 * KIB);
    check(p, b"/a", &[], 1000 * KIB);
    p.close(a).unwrap();
    p.close(b).unwrap();
    let v = Volume::over(&v.finish());
    check(&v.process, b"/b", &written, 1000 * KIB);
    check(&v.process, b"/a", &[], 1000 * KIB);
    v.finish();
}

#[test]
fn direct_writes_copy_in_pieces_of_the_hint() {
    let v = Volume::over(&mkfs(40, &[]));
    let p = &v.process;
    let (a, b) = shared(&v, 1024);
    p.close(b).unwrap();
    let b = p.open(b"/b", OpenFlags::RDWR | OpenFlags::DIRECT, 0).unwrap();
    let new = FsXattr { xflags: COW_EXTSIZE, cowextsize: 65536, ..FsXattr::default() };
    p.fssetxattr(b, &new).unwrap();
    for n in 0..8 {
        p.pwrite(b, &[b'B'; 4096], (512 + 8 * n) * KIB).unwrap();
    }
    let written = |at: u64| (512 * KIB..576 * KIB).contains(&at) && at.is_multiple_of(8192);
    let places: Vec<u64> = extents(p, b).iter().filter(|e| written(e.0)).map(|e| e.1).collect();
    assert_eq!(places.len(), 8);
    assert!(places.windows(2).all(|w| w[1] - w[0] == 8192), "one piece: {places:?}");
    p.close(a).unwrap();
    p.close(b).unwrap();
    v.finish();
}

#[test]
fn stores_respect_the_extent_size_hint() {
    let v = Volume::over(&mkfs(16, &[]));
    let p = &v.process;
    let fd = v.create(b"/f").unwrap();
    let new = FsXattr { xflags: EXTSIZE, extsize: 65536, ..FsXattr::default() };
    p.fssetxattr(fd, &new).unwrap();
    p.ftruncate(fd, 1 << 20).unwrap();
    let rights = Prot::READ | Prot::WRITE;
    let at = p.mmap(VirtAddr(0), 1 << 20, rights, MapFlags::SHARED, Some(fd), 0).unwrap();
    p.store(at.add(200 * KIB), b"x").unwrap();
    let (first, last) = (extents(p, fd)[0], *extents(p, fd).last().unwrap());
    assert_eq!((first.0, last.0 + last.2), (192 * KIB, 256 * KIB));
    p.munmap(at, 1 << 20).unwrap();
    p.close(fd).unwrap();
    v.finish();
}

/// What was set aside and not used is free again: when the inode leaves memory, and when
/// somebody needs it.
#[test]
fn what_is_left_is_given_back() {
    let v = Volume::over(&mkfs(40, &[]));
    let p = &v.process;
    let (a, b) = shared(&v, 4096);
    p.sync();
    let free = || p.statfs(b"/").unwrap().blocks_free;
    let before = free();
    let new = FsXattr { xflags: COW_EXTSIZE, cowextsize: 2 << 20, ..FsXattr::default() };
    p.fssetxattr(b, &new).unwrap();
    p.pwrite(b, &[b'B'; 4096], 0).unwrap();
    p.fsync(b).unwrap();
    assert!(before - free() >= 512, "{} blocks are set aside", before - free());
    // A power cut leaves them staged, and recovery frees them.
    let cut = Volume::over(&Arc::new(v.bytes()));
    assert!(before - cut.process.statfs(b"/").unwrap().blocks_free < 8);
    check(&cut.process, b"/b", &[(0, 4096)], 4 << 20);
    cut.finish();
    // Somebody needs all there is.
    let c = v.create(b"/c").unwrap();
    p.fallocate(c, FallocateMode::empty(), 0, (before - 100) * 4096).unwrap();
    assert!(copies(p, b).is_empty());
    p.close(c).unwrap();
    p.unlink(b"/c").unwrap();
    p.pwrite(b, &[b'B'; 4096], 2 << 20).unwrap();
    p.fsync(b).unwrap();
    assert!(!copies(p, b).is_empty());
    p.close(a).unwrap();
    p.close(b).unwrap();
    v.fs.evict(usize::MAX);
    assert!(before - free() < 8, "{} blocks more than before", before - free());
    check(p, b"/b", &[(0, 4096), (2 << 20, 4096)], 4 << 20);
    v.finish();
}

#[test]
fn what_nobody_uses_is_given_back_in_time() {
    let v = Volume::over(&mkfs(40, &[]));
    let p = &v.process;
    // Three open files: one stays dirty, one has copies ready, one blocks behind its end.
    let (dirty, clean) = shared(&v, 1000);
    let grows = v.create(b"/grows").unwrap();
    for at in (0..64).map(|i| i * 4 * KIB) {
        p.pwrite(grows, &[b'A'; 4096], at).unwrap();
    }
    p.fsync(grows).unwrap();
    let third = v.create(b"/c").unwrap();
    p.ficlone(third, clean).unwrap();
    for fd in [dirty, clean] {
        p.pwrite(fd, &[b'B'; 4096], 300 * KIB).unwrap();
    }
    p.fsync(clean).unwrap();
    let blocks = |fd| p.fstat(fd).unwrap().blocks * 512 / KIB;
    let kept = copies(p, dirty);
    assert!(!kept.is_empty() && !copies(p, clean).is_empty() && blocks(grows) > 256);
    // The first is looked at first: when the others are done, it was.
    assert!(p.fstat(dirty).unwrap().ino < p.fstat(clean).unwrap().ino);
    v.fs.start_blockgc(5_000_000);
    let begun = std::time::Instant::now();
    while !copies(p, clean).is_empty() || blocks(grows) != 256 {
        assert!(begun.elapsed().as_secs() < 60, "nothing is given back");
        std::thread::yield_now();
    }
    assert_eq!(copies(p, dirty), kept, "its data has nowhere else to go");
    // They go on as if nothing had been.
    for fd in [clean, dirty] {
        p.pwrite(fd, &[b'B'; 4096], 304 * KIB).unwrap();
    }
    p.pwrite(grows, &[b'A'; 4096], 256 * KIB).unwrap();
    for fd in [dirty, clean, grows, third] {
        p.close(fd).unwrap();
    }
    let v = Volume::over(&v.finish());
    for path in [b"/a", b"/b"] {
        check(&v.process, path, &[(300 * KIB, 8192)], 1000 * KIB);
    }
    check(&v.process, b"/grows", &[], 260 * KIB);
    check(&v.process, b"/c", &[], 1000 * KIB);
    v.finish();
}

/// Does the inode say that it may share blocks, on disk?
fn flag(image: &[u8], ino: u64) -> u64 {
    let scratch = Scratch::new("reflink");
    let path = scratch.path("image");
    std::fs::write(&path, image).unwrap();
    number(&xfs_db(&path, &[&format!("inode {ino}"), "print"]), "v3.reflink")
}

#[test]
fn who_shares_nothing_any_more_says_so() {
    let v = Volume::over(&mkfs(40, &[]));
    let p = &v.process;
    let (a, b) = shared(&v, 256);
    let c = v.create(b"/c").unwrap();
    p.ficlone(c, a).unwrap();
    // One is cut to nothing, one gets blocks of its own, one goes on sharing in part.
    p.pwrite(b, &[b'B'; 4096], 8192).unwrap();
    p.ftruncate(b, 0).unwrap();
    p.pwrite(b, &[b'A'; 5000], 0).unwrap();
    let unshare = FallocateMode::UNSHARE_RANGE;
    p.fallocate(c, unshare, 0, 128 * KIB).unwrap();
    p.fsync(c).unwrap();
    let inos = [a, b, c].map(|fd| p.fstat(fd).unwrap().ino);
    let flags = |v: &Volume| {
        inos.map(|ino| v.fs.inode(holdfast_fs::xfs::Ino(ino)).unwrap().xfs().is_reflink())
    };
    assert_eq!(flags(&v), [true, false, true]);
    p.fallocate(c, unshare, 0, 256 * KIB).unwrap();
    assert_eq!(flags(&v), [true, false, false]);
    // It has no other owner now, and is written in place, also after a power cut.
    let places = extents(p, c);
    p.pwrite(c, &[b'B'; 4096], 65536).unwrap();
    p.fsync(c).unwrap();
    assert_eq!(extents(p, c).iter().map(|e| e.1).min(), places.iter().map(|e| e.1).min());
    let cut = Volume::over(&Arc::new(v.bytes()));
    check(&cut.process, b"/c", &[(65536, 4096)], 256 * KIB);
    check(&cut.process, b"/a", &[], 256 * KIB);
    let image = cut.finish();
    assert_eq!(inos.map(|ino| flag(&image, ino)), [1, 0, 0]);
    // And can share again.
    p.ficlone(b, c).unwrap();
    p.pwrite(b, &[b'B'; 4096], 0).unwrap();
    for fd in [a, b, c] {
        p.close(fd).unwrap();
    }
    check(p, b"/b", &[(0, 4096), (65536, 4096)], 256 * KIB);
    check(p, b"/c", &[(65536, 4096)], 256 * KIB);
    let image = v.finish();
    assert_eq!(inos.map(|ino| flag(&image, ino)), [1, 1, 1]);
}

/// What is shared behind the end of a file takes the place of what was reserved there for
/// the file to grow into: nothing is allocated over it when the file does.
#[test]
fn a_clone_behind_the_end_replaces_what_is_reserved_there() {
    let v = Volume::over(&mkfs(40, &["-b", "size=1024"]));
    let p = &v.process;
    let source = v.create(b"/source").unwrap();
    p.pwrite(source, &[b'A'; 1024], 0).unwrap();
    let fd = v.create(b"/grows").unwrap();
    let reserved = || {
        let mut all = Vec::new();
        p.fiemap(fd, 0, 1 << 40, false, &mut |e| {
            if e.flags.contains(FiemapFlags::DELALLOC) {
                all.push(e.logical..e.logical + e.length);
            }
            true
        })
        .unwrap();
        all
    };
    let mut size = 0;
    while reserved().last().is_none_or(|r| r.end < size + 16 * KIB) {
        p.pwrite(fd, &[b'A'; 4096], size).unwrap();
        size += 4096;
    }
    let at = size + 3 * KIB;
    p.ficlonerange(fd, source, 0, 1024, at).unwrap();
    assert!(reserved().iter().all(|r| r.end <= at || at < r.start), "{:?}", reserved());
    // The copied block has one owner now, and the file grows over what is reserved behind.
    p.ftruncate(source, 0).unwrap();
    p.pwrite(fd, &[b'A'; 8192], at + 1024).unwrap();
    p.pwrite(fd, &[b'A'; 3072], size).unwrap();
    p.fsync(fd).unwrap();
    v.fs.drop_caches();
    check(p, b"/grows", &[], at + 9216);
    p.close(source).unwrap();
    p.close(fd).unwrap();
    let v = Volume::over(&v.finish());
    check(&v.process, b"/grows", &[], at + 9216);
    v.finish();
}
