//! Extent size hints and what sets them; maps and clones, and what they leave behind.

use std::sync::Arc;

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot, TimeChange};
use holdfast_fs::xfs::FsXattr;

use crate::volume::{Volume, errno, mkfs};

const EXTSIZE: u32 = 1 << 11;
const EXTSIZE_INHERIT: u32 = 1 << 12;
const COW_EXTSIZE: u32 = 1 << 16;

fn extents(p: &Process, fd: Fd) -> Vec<(u64, u64)> {
    let mut all = Vec::new();
    p.fiemap(fd, 0, 1 << 30, true, &mut |e| {
        all.push((e.logical, e.length));
        true
    })
    .unwrap();
    all
}

#[test]
fn extent_size_hints_are_acted_on() {
    let volume = Volume::over(&mkfs(16, &[]));
    let p = &volume.process;
    let fd = volume.create(b"/large").unwrap();
    let hint = |xflags, extsize, cowextsize| FsXattr { xflags, extsize, cowextsize, projid: 0 };
    // No whole blocks, too large, not for files, a realtime file, a flag of nobody's,
    // hints without their flags.
    assert_eq!(errno(p.fssetxattr(fd, &hint(EXTSIZE, 1000, 0))), 22);
    assert_eq!(errno(p.fssetxattr(fd, &hint(EXTSIZE, 1 << 30, 0))), 22);
    assert_eq!(errno(p.fssetxattr(fd, &hint(EXTSIZE_INHERIT, 65536, 0))), 22);
    assert_eq!(errno(p.fssetxattr(fd, &hint(1, 0, 0))), 22);
    assert_eq!(errno(p.fssetxattr(fd, &hint(1 << 20, 0, 0))), 95);
    assert_eq!(errno(p.fssetxattr(fd, &hint(0, 65536, 0))), 22);
    assert_eq!(errno(p.fssetxattr(fd, &hint(0, 0, 65536))), 22);
    p.fssetxattr(fd, &hint(EXTSIZE | COW_EXTSIZE, 65536, 131_072)).unwrap();
    let a = p.attributes(fd).unwrap();
    assert_eq!((a.extsize, a.cowextsize), (65536, 131_072));
    assert_eq!(a.xflags & (EXTSIZE | COW_EXTSIZE), EXTSIZE | COW_EXTSIZE);
    p.pwrite(fd, b"x", 0).unwrap();
    assert_eq!(extents(p, fd).iter().map(|e| e.1).sum::<u64>(), 65536);
    p.fallocate(fd, FallocateMode::empty(), (1 << 20) + 4096, 4096).unwrap();
    assert_eq!(extents(p, fd).last(), Some(&(1 << 20, 65536)));
    // It has blocks: the hint stays, other things can change.
    let taken = a.xflags & !EXTSIZE;
    assert_eq!(errno(p.fssetxattr(fd, &hint(taken, 0, 131_072))), 22);
    p.fssetxattr(fd, &hint(p.attributes(fd).unwrap().xflags, 65536, 0)).unwrap();
    assert_eq!(p.attributes(fd).unwrap().cowextsize, 0);
    p.close(fd).unwrap();
    volume.finish();
}

#[test]
fn files_inherit_the_hint_of_their_directory() {
    let volume = Volume::over(&mkfs(16, &[]));
    let p = &volume.process;
    p.mkdir(b"/d", 0o755).unwrap();
    let dir = p.open(b"/d", OpenFlags::DIRECTORY, 0).unwrap();
    let hint = FsXattr { xflags: EXTSIZE_INHERIT, extsize: 32768, ..FsXattr::default() };
    p.fssetxattr(dir, &hint).unwrap();
    p.close(dir).unwrap();
    let fd = volume.create(b"/d/f").unwrap();
    assert_eq!(p.attributes(fd).unwrap().extsize, 32768);
    p.pwrite(fd, b"x", 0).unwrap();
    assert_eq!(extents(p, fd).iter().map(|e| e.1).sum::<u64>(), 32768);
    p.close(fd).unwrap();
    volume.finish();
}

/// Who clones all of a file over all of another gets its hint for copies, too.
#[test]
fn whole_clones_take_the_hint_for_copies() {
    let volume = Volume::over(&mkfs(16, &[]));
    let p = &volume.process;
    let hint = |cowextsize| FsXattr { xflags: COW_EXTSIZE, cowextsize, ..FsXattr::default() };
    let source = volume.create(b"/source").unwrap();
    p.fssetxattr(source, &hint(65536)).unwrap();
    p.pwrite(source, &[b'S'; 8192 + 100], 0).unwrap();
    // What the clone has before: size, hint; from where on it is cloned, how much; its hint.
    let cases = [
        (0, 0, 0, 0, 65536),
        (8192 + 100, 0, 0, 8192 + 100, 65536),
        (0, 32768, 0, 0, 32768),
        (8192 + 101, 0, 0, 8192, 0),
        (0, 0, 4096, 0, 0),
        (0, 0, 0, 8192, 0),
    ];
    for (n, (size, before, from, len, after)) in cases.into_iter().enumerate() {
        let clone = volume.create(format!("/clone{n}").as_bytes()).unwrap();
        p.ftruncate(clone, size).unwrap();
        if before > 0 {
            p.fssetxattr(clone, &hint(before)).unwrap();
        }
        p.ficlonerange(clone, source, from, len, from).unwrap();
        let a = p.attributes(clone).unwrap();
        assert_eq!((a.cowextsize, a.xflags & COW_EXTSIZE != 0), (after, after > 0), "case {n}");
        p.close(clone).unwrap();
    }
    p.close(source).unwrap();
    volume.finish();
}

#[test]
fn mapping_a_file_is_an_access() {
    let volume = Volume::over(&mkfs(16, &[]));
    let p = &volume.process;
    for (name, flags, counts) in
        [(b"/a", OpenFlags::RDWR, true), (b"/b", OpenFlags::RDWR | OpenFlags::NOATIME, false)]
    {
        volume.touch(name).unwrap();
        let old = holdfast_fs::xfs::Timestamp { seconds: 1000, nanoseconds: 0 };
        let fd = p.open(name, flags, 0).unwrap();
        p.futimens(fd, [TimeChange::Set(old), TimeChange::Omit]).unwrap();
        p.ftruncate(fd, 4096).unwrap();
        let map = p.mmap(VirtAddr(0), 4096, Prot::READ, MapFlags::SHARED, Some(fd), 0).unwrap();
        assert_eq!(p.fstat(fd).unwrap().atime != old, counts);
        p.munmap(map, 4096).unwrap();
        p.close(fd).unwrap();
    }
    volume.finish();
}

#[test]
fn data_before_a_clone_survives_with_its_size() {
    let volume = Volume::over(&mkfs(16, &[]));
    let p = &volume.process;
    let [from, to, other] = [b"/from", b"/to__", b"/else"].map(|n| volume.create(n).unwrap());
    p.pwrite(from, &[b'S'; 4096], 0).unwrap();
    p.fsync(from).unwrap();
    // Not on disk when the clone makes the file longer.
    p.pwrite(to, &[b'T'; 8192], 0).unwrap();
    p.ficlonerange(to, from, 0, 4096, 8192).unwrap();
    p.fsync(other).unwrap();
    let again = Volume::over(&Arc::new(volume.bytes()));
    let fd = again.process.open(b"/to__", OpenFlags::RDONLY, 0).unwrap();
    let mut bytes = [0; 16384];
    let size = again.process.pread(fd, &mut bytes, 0).unwrap();
    for (at, byte) in bytes[..size].iter().enumerate() {
        assert_eq!(*byte, if at < 8192 { b'T' } else { b'S' }, "byte {at} of {size}");
    }
    again.process.close(fd).unwrap();
    again.finish();
    for fd in [from, to, other] {
        p.close(fd).unwrap();
    }
    volume.finish();
}
