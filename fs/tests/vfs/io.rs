//! Reading, writing, seeking, durability and errors through descriptors.

use crate::machine::{HOLEY_LEN, Machine, PRE_LEN, Setup, contents, errno, pattern};
use holdfast_fs::block::{Fault, Op, Sector};
use holdfast_fs::iomap::MapKind;
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{
    Advice, Buf, BufMut, FallocateMode, FiemapFlags, MapFlags, OpenFlags, Prot, RawTransfer,
    SyncRange, Whence, WriteFlags,
};

const EIO: i32 = 5;
const ENXIO: i32 = 6;
const EBADF: i32 = 9;
const EFAULT: i32 = 14;
const ENODEV: i32 = 19;
const EISDIR: i32 = 21;
const EINVAL: i32 = 22;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const ESPIPE: i32 = 29;
const EOPNOTSUPP: i32 = 95;

#[test]
fn overwrites_are_seen_at_once_and_survive_dropped_caches() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/f");
    let mut model = contents("/f");
    for (pos, len) in [(0, 1), (4095, 2), (99_999, 1), (5000, 20_000), (8192, 4096)] {
        let data = pattern(pos as u64 + 77, len);
        assert_eq!(p.pwrite(fd, &data, pos as u64), Ok(len));
        model[pos..pos + len].copy_from_slice(&data);
    }
    assert_eq!(m.read_file("/f"), model);
    p.fsync(fd).unwrap();
    m.fs.drop_caches();
    assert_eq!(m.read_file("/f"), model);
    assert_eq!(p.fstat(fd).unwrap().size, 100_000);
    p.close(fd).unwrap();
    m.finish();
}

#[test]
fn a_closed_file_keeps_what_was_written() {
    let m = Machine::with(Setup { cache_pages: 64, threads: true, ..Default::default() });
    let fd = m.rw("/f");
    assert_eq!(m.process.pwrite(fd, b"kept", 50_000), Ok(4));
    m.process.close(fd).unwrap();
    // Push it out of the cache by reading something larger than that.
    assert_eq!(m.read_file("/big"), contents("/big"));
    let mut want = contents("/f");
    want[50_000..50_004].copy_from_slice(b"kept");
    assert_eq!(m.read_file("/f"), want);
    m.finish();
}

#[test]
fn positions_move_and_appends_go_to_the_end() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/sub/x");
    let mut buf = [0; 4];
    assert_eq!(p.read(fd, &mut buf), Ok(4));
    assert_eq!(&buf, b"the ");
    assert_eq!(p.write(fd, b"FILE"), Ok(4));
    assert_eq!(p.read(fd, &mut buf), Ok(3));
    assert_eq!(&buf[..3], b" x\n");
    assert_eq!(p.read(fd, &mut buf), Ok(0));
    assert_eq!(p.lseek(fd, -3, Whence::End), Ok(8));
    assert_eq!(p.lseek(fd, 1, Whence::Cur), Ok(9));
    assert_eq!(errno(p.lseek(fd, -1, Whence::Set)), EINVAL);
    assert_eq!(errno(p.lseek(fd, -100, Whence::Cur)), EINVAL);
    assert_eq!(p.lseek(fd, 1 << 40, Whence::Set), Ok(1 << 40));
    assert_eq!(p.read(fd, &mut buf), Ok(0), "beyond the end");
    let append = m.open("/sub/x", OpenFlags::WRONLY | OpenFlags::APPEND);
    assert_eq!(p.pwrite(append, b"more", 0), Ok(4), "at the end, whatever the position");
    assert_eq!(p.write(append, b""), Ok(0));
    assert_eq!(m.read_file("/sub/x"), b"the FILE x\nmore");
    let parts = [Buf::from(&b"and "[..]), Buf::from(&b"more"[..])];
    let how = WriteFlags::APPEND | WriteFlags::DSYNC;
    assert_eq!(p.pwritev2(fd, &parts, Some(0), how), Ok(8));
    assert_eq!(m.read_file("/sub/x"), b"the FILE x\nmoreand more");
    assert_eq!(errno(p.pwritev2(fd, &parts, Some(0), WriteFlags::NOWAIT)), EOPNOTSUPP);
    assert_eq!(p.pwritev2(fd, &parts, None, WriteFlags::SYNC), Ok(8), "at the position");
    assert_eq!(p.lseek(fd, 0, Whence::Cur), Ok((1 << 40) + 8));
    assert_eq!(p.fstat(fd).unwrap().size, (1 << 40) + 8);
    assert_eq!(p.ftruncate(fd, 11), Ok(()));
    m.finish();
}

#[test]
fn the_error_of_each_bad_call() {
    let m = Machine::new();
    let p = &m.process;
    let (ro, wo, rw) =
        (m.open("/f", OpenFlags::RDONLY), m.open("/f", OpenFlags::WRONLY), m.rw("/f"));
    let dir = m.open("/sub", OpenFlags::RDONLY);
    let path = m.open("/f", OpenFlags::PATH);
    let mut buf = [0; 16];
    assert_eq!(errno(p.write(ro, b"x")), EBADF);
    assert_eq!(errno(p.pwrite(ro, b"x", 0)), EBADF);
    assert_eq!(errno(p.read(wo, &mut buf)), EBADF);
    assert_eq!(errno(p.pread(wo, &mut buf, 0)), EBADF);
    assert_eq!(errno(p.read(path, &mut buf)), EBADF);
    assert_eq!(errno(p.write(path, b"x")), EBADF);
    assert_eq!(errno(p.fsync(path)), EBADF);
    assert_eq!(errno(p.read(dir, &mut buf)), EISDIR);
    assert_eq!(errno(p.write(dir, b"x")), EBADF);
    assert_eq!(errno(p.pread(rw, &mut buf, u64::MAX)), EINVAL);
    assert_eq!(errno(p.pwrite(rw, b"x", u64::MAX)), EINVAL);
    assert_eq!(errno(p.pwrite(rw, b"x", i64::MAX as u64)), EFBIG);
    assert_eq!(m.read_file("/f"), contents("/f"));
    let mut parts: Vec<BufMut<'_>> =
        (0..1025).map(|_| BufMut::User(VirtAddr(0x10000), 0)).collect();
    assert_eq!(errno(p.readv(rw, &mut parts)), EINVAL);
    assert_eq!(errno(p.read(rw, (VirtAddr(0xFFFF_8000_0000_0000), 8))), EFAULT);
    assert_eq!(errno(p.read(rw, (VirtAddr(u64::MAX - 3), 8))), EFAULT);
    assert_eq!(errno(p.read(rw, (VirtAddr(0x10_0000), 8))), EFAULT);
    assert_eq!(errno(p.write(rw, (VirtAddr(0x10_0000), 8))), EFAULT);
    assert_eq!(p.lseek(rw, 0, Whence::Cur), Ok(0), "failures do not move the position");
    assert_eq!(p.read(rw, &mut [0; 0]), Ok(0));
    let flags = SyncRange::from_bits_retain(8);
    assert_eq!(errno(p.sync_file_range(rw, 0, 0, flags)), EINVAL);
    assert_eq!(errno(p.sync_file_range(rw, u64::MAX, 1, SyncRange::WRITE)), EINVAL);
    assert_eq!(errno(p.sync_file_range(0, 0, 0, SyncRange::WRITE)), ESPIPE);
    assert_eq!(errno(p.fadvise(0, 0, 0, Advice::Normal)), ESPIPE);
    assert_eq!(errno(p.ftruncate(ro, 0)), EINVAL);
    assert_eq!(p.ftruncate(rw, 100_000), Ok(()));
    assert_eq!(errno(p.ftruncate(rw, u64::MAX)), EINVAL);
    let map = |fd, prot, flags| p.mmap(VirtAddr(0), 4096, prot, flags, Some(fd), 0);
    assert_eq!(errno(map(dir, Prot::READ, MapFlags::SHARED)), ENODEV);
    assert_eq!(errno(map(0, Prot::READ, MapFlags::SHARED)), ENODEV);
    assert_eq!(errno(map(wo, Prot::READ, MapFlags::SHARED)), 13);
    assert_eq!(errno(map(ro, Prot::WRITE, MapFlags::SHARED)), 13);
    assert_eq!(errno(map(path, Prot::READ, MapFlags::SHARED)), EBADF);
    assert_eq!(errno(map(99, Prot::READ, MapFlags::SHARED)), EBADF);
    m.finish();
}

#[test]
fn what_has_no_block_reads_as_zeros_and_gets_one_when_written() {
    let m = Machine::new();
    let p = &m.process;
    for path in ["/holey", "/pre"] {
        let fd = m.rw(path);
        let mut model = contents(path);
        let pos = if path == "/holey" { 8190 } else { 4000 };
        assert_eq!(p.pwrite(fd, &[9; 100], pos as u64), Ok(100), "{path}");
        model[pos..pos + 100].fill(9);
        let va = m.mmap(fd, 65536, Prot::READ | Prot::WRITE, MapFlags::SHARED);
        assert_eq!(m.load(va.add(40_000), 4).unwrap(), [0; 4]);
        p.store(va.add(40_000), b"x").unwrap();
        model[40_000] = b'x';
        p.munmap(va, 65536).unwrap();
        assert_eq!(m.read_file(path), model);
        assert_eq!(p.fsync(fd), Ok(()));
        p.fadvise(fd, 0, 0, Advice::DontNeed).unwrap();
        assert_eq!(m.read_file(path), model);
    }
    let fd = m.rw("/pre");
    assert_eq!(p.fallocate(fd, FallocateMode::empty(), 0, PRE_LEN as u64), Ok(()));
    let punch = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
    assert_eq!(p.fallocate(fd, punch, 0, 8192), Ok(()));
    assert_eq!(m.read_file("/pre")[..8192], [0; 8192]);
    assert_eq!(errno(p.fallocate(fd, FallocateMode::PUNCH_HOLE, 0, 4096)), EOPNOTSUPP);
    assert_eq!(errno(p.fallocate(fd, FallocateMode::empty(), 0, 1 << 30)), ENOSPC);
    assert_eq!(p.fstat(fd).unwrap().size, PRE_LEN as u64);
    assert_eq!(p.ftruncate(fd, PRE_LEN as u64), Ok(()), "gives back what was allocated");
    assert_eq!(errno(p.fallocate(fd, FallocateMode::empty(), 0, 0)), EINVAL);
    let holey = m.rw("/holey");
    assert_eq!(p.fallocate(holey, FallocateMode::KEEP_SIZE, 0, HOLEY_LEN as u64), Ok(()));
    assert_eq!(p.fallocate(holey, FallocateMode::KEEP_SIZE, 0, 8192), Ok(()));
    m.finish();
}

#[test]
fn data_and_holes_are_found() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/holey");
    let seek = |fd, at, whence| p.lseek(fd, at, whence).map_err(|e| e.errno());
    assert_eq!(seek(fd, 0, Whence::Data), Ok(0));
    assert_eq!(seek(fd, 100, Whence::Data), Ok(100));
    assert_eq!(seek(fd, 0, Whence::Hole), Ok(8192));
    assert_eq!(seek(fd, 9000, Whence::Hole), Ok(9000));
    assert_eq!(seek(fd, 8192, Whence::Data), Err(ENXIO));
    assert_eq!(seek(fd, HOLEY_LEN as i64, Whence::Hole), Err(ENXIO));
    assert_eq!(seek(fd, -1, Whence::Data), Err(ENXIO));
    let full = m.rw("/f");
    assert_eq!(seek(full, 5, Whence::Hole), Ok(100_000));
    let pre = m.rw("/pre");
    assert_eq!(seek(pre, 0, Whence::Data), Err(ENXIO), "unwritten and not cached: no data");
    let mut extents = Vec::new();
    let mut fiemap = |fd, start, len| {
        extents.clear();
        p.fiemap(fd, start, len, true, &mut |e| {
            extents.push((e.logical, e.length, e.flags));
            assert_ne!(e.physical, 0);
            true
        })
        .unwrap();
        extents.clone()
    };
    let last = FiemapFlags::LAST;
    assert_eq!(fiemap(fd, 0, u64::MAX), [(0, 8192, last)]);
    assert_eq!(fiemap(fd, 8192, u64::MAX), []);
    assert_eq!(fiemap(full, 4096, 1), [(0, 25 * 4096, last)]);
    assert_eq!(fiemap(pre, 0, u64::MAX), [(0, 65536, last | FiemapFlags::UNWRITTEN)]);
    let mut kinds = Vec::new();
    p.bmap(fd, &mut |map| {
        kinds.push(matches!(map.kind, MapKind::Hole));
        true
    })
    .unwrap();
    assert_eq!(kinds, [false, true]);
    let dir = m.open("/sub", OpenFlags::RDONLY);
    assert_eq!(errno(p.fiemap(dir, 0, 1, false, &mut |_| true)), EOPNOTSUPP);
    assert_eq!(errno(p.fiemap(fd, 0, 0, false, &mut |_| true)), EINVAL);
    m.finish();
}

#[test]
fn lists_of_buffers_are_filled_in_order() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/f");
    let anonymous = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
    let rw = Prot::READ | Prot::WRITE;
    let va = p.mmap(VirtAddr(0), 20_000, rw, anonymous, None, 0).unwrap();
    let (mut a, mut b) = ([0; 10], vec![0; 9000]);
    let mut parts = [
        BufMut::from(&mut a),
        BufMut::Slice(&mut []),
        BufMut::User(va.add(4090), 5000),
        BufMut::from(&mut b),
    ];
    assert_eq!(p.preadv(fd, &mut parts, 100), Ok(14_010));
    let want = &contents("/f")[100..14_110];
    assert_eq!(a, want[..10]);
    assert_eq!(m.load(va.add(4090), 5000).unwrap(), want[10..5010]);
    assert_eq!(b, want[5010..]);
    p.store(va.add(8000), &[7; 6000]).unwrap();
    let parts = [Buf::from(b"head"), Buf::User(va.add(8000), 6000), Buf::from(b"tail")];
    assert_eq!(p.pwritev(fd, &parts, 50_000), Ok(6008));
    let mut want = contents("/f");
    want[50_000..50_004].copy_from_slice(b"head");
    want[50_004..56_004].fill(7);
    want[56_004..56_008].copy_from_slice(b"tail");
    assert!(m.read_file("/f") == want);
    // The end of the buffer is bad memory: what lies before it counts.
    let end = va.add(20_480);
    assert_eq!(p.pread(fd, (VirtAddr(end.0 - 300), 4096), 0), Ok(300));
    assert_eq!(p.pwrite(fd, (VirtAddr(end.0 - 300), 4096), 0), Ok(300));
    assert_eq!(errno(p.pread(fd, (end, 4096), 0)), EFAULT);
    p.munmap(va, 20_480).unwrap();
    m.finish();
}

#[test]
fn direct_io_is_aligned_and_coherent() {
    let m = Machine::new();
    let p = &m.process;
    let direct = m.open("/big", OpenFlags::RDWR | OpenFlags::DIRECT);
    let cached = m.rw("/big");
    let mut model = contents("/big");
    let mut buf = vec![0; 1 << 20];
    assert_eq!(errno(p.pread(direct, &mut buf, 100)), EINVAL);
    assert_eq!(errno(p.pread(direct, &mut buf[..100], 0)), EINVAL);
    assert_eq!(errno(p.pwrite(direct, &buf[..100], 0)), EINVAL);
    assert_eq!(p.pread(direct, &mut buf, 512), Ok(1 << 20));
    assert!(buf == model[512..512 + (1 << 20)]);
    // What the cache holds dirty is read; what is written directly is not hidden by it.
    p.pwrite(cached, b"dirty", 5000).unwrap();
    model[5000..5005].copy_from_slice(b"dirty");
    assert_eq!(p.pread(direct, &mut buf[..8192], 0), Ok(8192));
    assert!(buf[..8192] == model[..8192]);
    let new = pattern(9, 8192);
    assert_eq!(p.pwrite(direct, &new, 4096), Ok(8192));
    model[4096..12_288].copy_from_slice(&new);
    assert!(m.read_file("/big") == model);
    let va = m.mmap(cached, 16384, Prot::READ | Prot::WRITE, MapFlags::SHARED);
    assert_eq!(m.load(va.add(4096), 8192).unwrap(), new);
    p.store(va.add(4096), b"mapped").unwrap();
    model[4096..4102].copy_from_slice(b"mapped");
    assert_eq!(p.pread(direct, &mut buf[..4096], 4096), Ok(4096));
    assert!(buf[..4096] == model[4096..8192]);
    assert_eq!(p.pread(direct, &mut buf, crate::machine::BIG_LEN as u64), Ok(0));
    assert_eq!(p.pread(direct, &mut buf, crate::machine::BIG_LEN as u64 - 512), Ok(512));
    let hole = m.open("/holey", OpenFlags::RDWR | OpenFlags::DIRECT);
    assert_eq!(p.pread(hole, &mut buf[..8192], 4096), Ok(8192));
    assert!(buf[..8192] == contents("/holey")[4096..12_288]);
    let mut holey = contents("/holey");
    let end = HOLEY_LEN.next_multiple_of(4096);
    for (pos, len) in [(8192, 4096), (20_480 + 512, 1024), (end, 8192), (end + 16_384, 512)] {
        let data = pattern(pos as u64, len);
        assert_eq!(p.pwrite(hole, &data, pos as u64), Ok(len));
        holey.resize(holey.len().max(pos + len), 0);
        holey[pos..pos + len].copy_from_slice(&data);
        assert!(m.read_file("/holey") == holey, "after {len} at {pos}");
        p.fadvise(hole, 0, 0, Advice::DontNeed).unwrap();
        assert!(m.read_file("/holey") == holey, "on disk after {len} at {pos}");
    }
    p.munmap(va, 16384).unwrap();
    m.finish();
}

#[test]
fn a_direct_write_may_take_its_bytes_from_a_mapping_of_its_own_file() {
    let m = Machine::new();
    let p = &m.process;
    let direct = m.open("/big", OpenFlags::RDWR | OpenFlags::DIRECT);
    let va = m.mmap(direct, 1 << 20, Prot::READ, MapFlags::SHARED);
    let mut model = contents("/big");
    assert_eq!(p.pwrite(direct, (va.add(4096), 65536), 0), Ok(65536));
    model.copy_within(4096..4096 + 65536, 0);
    assert!(m.read_file("/big") == model);
    let rw = m.mmap(direct, 1 << 20, Prot::READ | Prot::WRITE, MapFlags::SHARED);
    assert_eq!(p.pread(direct, (rw, 8192), 65536), Ok(8192));
    model.copy_within(65536..65536 + 8192, 0);
    assert!(m.read_file("/big") == model);
    p.exit();
    m.finish();
}

#[test]
fn each_open_file_hears_of_a_writeback_error_once() {
    let m = Machine::new();
    let p = &m.process;
    let (a, b) = (m.rw("/f"), m.rw("/f"));
    p.pwrite(a, b"doomed", 0).unwrap();
    m.faults.inject(Fault::Nth { op: Op::Write, n: 0 });
    assert_eq!(errno(p.fsync(a)), EIO);
    m.faults.clear();
    assert_eq!(p.fsync(a), Ok(()));
    assert_eq!(errno(p.fdatasync(b)), EIO);
    assert_eq!(p.fsync(b), Ok(()));
    let late = m.rw("/f");
    assert_eq!(p.fsync(late), Ok(()), "everybody who was there has heard of it");
    p.pwrite(a, b"doomed", 0).unwrap();
    m.faults.inject(Fault::Nth { op: Op::Write, n: 0 });
    let all = SyncRange::WAIT_BEFORE | SyncRange::WRITE | SyncRange::WAIT_AFTER;
    p.sync();
    m.faults.clear();
    assert_eq!(errno(p.sync_file_range(a, 0, 0, all)), EIO);
    p.pwrite(a, b"safe", 0).unwrap();
    p.fsync(a).unwrap();
    m.finish();
}

#[test]
fn the_file_system_tells_its_errors_too() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/f");
    p.pwrite(fd, b"doomed", 0).unwrap();
    m.faults.inject(Fault::Nth { op: Op::Write, n: 0 });
    p.sync();
    m.faults.clear();
    assert_eq!(errno(p.syncfs(fd)), EIO);
    assert_eq!(p.syncfs(fd), Ok(()));
    assert_eq!(errno(p.fsync(fd)), EIO, "an error of its own for every open file");
    p.pwrite(fd, b"doomed", 0).unwrap();
    m.faults.inject(Fault::Nth { op: Op::Write, n: 0 });
    p.exit();
    assert_eq!(m.fs.unmount(), Err(holdfast_fs::Error::Io), "nobody was told");
}

#[test]
fn a_read_error_is_told_and_passes() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/big");
    m.faults.inject(Fault::After { op: Op::Read, n: 0 });
    let mut buf = vec![0; 8192];
    assert_eq!(errno(p.pread(fd, &mut buf, 1 << 20)), EIO);
    m.faults.clear();
    assert_eq!(p.pread(fd, &mut buf, 1 << 20), Ok(8192));
    assert!(buf == contents("/big")[1 << 20..(1 << 20) + 8192]);
    m.finish();
}

#[test]
fn advice_fills_and_empties_the_cache() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/big");
    let cached =
        || m.fs.lookup(&m.fs.root().unwrap(), b"big").unwrap().mapping().unwrap().cached_pages();
    p.fadvise(fd, 0, 400_000, Advice::WillNeed).unwrap();
    assert_eq!(cached(), 98);
    p.pwrite(fd, b"dirty", 0).unwrap();
    p.fadvise(fd, 100, 40_000, Advice::DontNeed).unwrap();
    assert_eq!(cached(), 98 - 8, "whole pages only");
    p.fsync(fd).unwrap();
    p.fadvise(fd, 0, 0, Advice::DontNeed).unwrap();
    assert_eq!(cached(), 0);
    for advice in [Advice::Random, Advice::Sequential, Advice::Normal, Advice::NoReuse] {
        p.fadvise(fd, 0, 0, advice).unwrap();
        let mut want = contents("/big");
        want[..5].copy_from_slice(b"dirty");
        assert!(m.read_file("/big") == want);
    }
    m.finish();
}

#[test]
fn the_raw_device_is_read_and_written_past_the_cache() {
    let m = Machine::new();
    let p = &m.process;
    let dev = m.rw("/dev/vda");
    let size = p.lseek(dev, 0, Whence::End).unwrap();
    assert_eq!(size, 24 << 20);
    let mut disk = vec![0; size as usize];
    m.disk.peek(Sector(0), &mut disk);
    let mut buf = vec![0; 3 << 20];
    assert_eq!(p.pread(dev, &mut buf, 1_000_001), Ok(3 << 20), "no alignment needed");
    assert!(buf == disk[1_000_001..1_000_001 + (3 << 20)]);
    assert_eq!(p.pread(dev, &mut buf, size - 10), Ok(10));
    assert_eq!(p.pread(dev, &mut buf, size), Ok(0));
    // Where nothing lies: the last blocks of the device.
    let spot = size - 65536;
    let old = disk[spot as usize..].to_vec();
    let new = pattern(8, 30_001);
    assert_eq!(p.pwrite(dev, &new, spot + 77), Ok(30_001));
    assert_eq!(p.pread(dev, &mut buf[..65536], spot), Ok(65536));
    assert!(buf[77..77 + 30_001] == new && buf[..77] == old[..77]);
    assert!(buf[30_078..65536] == old[30_078..]);
    assert_eq!(errno(p.pwrite(dev, b"x", size)), 28);
    let plan = RawTransfer { pos: spot, len: 65536, request_bytes: 16384, depth: 3 };
    assert_eq!(p.raw_write(dev, plan, &old[..16384]), Ok(65536));
    assert_eq!(p.raw_read(dev, plan, &mut buf), Ok(65536));
    assert!(buf[..16384] == old[..16384]);
    assert_eq!(p.pwrite(dev, &old, spot), Ok(65536));
    assert_eq!(p.fsync(dev), Ok(()));
    let bad = RawTransfer { pos: 100, ..plan };
    assert_eq!(errno(p.raw_read(dev, bad, &mut buf)), EINVAL);
    assert_eq!(errno(p.raw_read(dev, plan, &mut [0; 512])), EINVAL);
    let f = m.rw("/f");
    assert_eq!(errno(p.raw_read(f, plan, &mut buf)), EOPNOTSUPP);
    m.faults.inject(Fault::Nth { op: Op::Read, n: 2 });
    assert_eq!(errno(p.raw_read(dev, plan, &mut buf)), EIO);
    m.finish();
}

#[test]
fn synchronous_files_are_on_disk_when_write_returns() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.open("/f", OpenFlags::WRONLY | OpenFlags::DSYNC);
    p.pwrite(fd, b"durable", 70_000).unwrap();
    let mut at = 0;
    p.fiemap(fd, 0, u64::MAX, false, &mut |e| {
        at = e.physical + 70_000;
        true
    })
    .unwrap();
    let mut sector = [0; 1024];
    m.disk.peek(Sector(at / 512), &mut sector);
    assert_eq!(&sector[(at % 512) as usize..][..7], b"durable");
    m.finish();
}

#[test]
fn fsync_asks_nothing_of_the_device_when_nothing_is_new() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/f");
    let requests = || {
        let s = m.queue.statistics();
        (s.write.requests, s.flush.requests)
    };
    p.pwrite(fd, &[1; 100], 0).unwrap();
    assert_eq!(requests(), (0, 0), "a cached write starts no I/O");
    p.fdatasync(fd).unwrap();
    assert_eq!(requests(), (1, 1), "an overwrite needs no log");
    p.fdatasync(fd).unwrap();
    assert_eq!(requests(), (1, 1), "nothing new");
    p.fsync(fd).unwrap();
    let (writes, flushes) = requests();
    assert!(writes > 1 && flushes == 2, "its times, and one flush for them: {writes} {flushes}");
    p.fsync(fd).unwrap();
    assert_eq!(requests(), (writes, flushes), "nothing new");
    p.pwrite(fd, &[2; 100], 0).unwrap();
    p.fdatasync(fd).unwrap();
    assert_eq!(requests(), (writes + 1, flushes + 1));
    // What writeback wrote by itself is not durable before a flush.
    p.pwrite(fd, &[3; 100], 0).unwrap();
    p.sync_file_range(fd, 0, 0, SyncRange::WRITE | SyncRange::WAIT_AFTER).unwrap();
    assert_eq!(requests(), (writes + 2, flushes + 1));
    p.fdatasync(fd).unwrap();
    assert_eq!(requests(), (writes + 2, flushes + 2));
    m.finish();
}

#[test]
fn unused_inodes_leave_and_come_back() {
    let m = Machine::new();
    for n in 0..300 {
        m.process.stat(format!("/many/entry-number-{n:04}").as_bytes()).unwrap();
    }
    let fd = m.rw("/f");
    m.process.pwrite(fd, b"dirty", 0).unwrap();
    assert!(m.fs.cached_inodes() > 300);
    assert!(m.fs.shrink(100) >= 100);
    assert!(m.fs.cached_inodes() < 250);
    m.process.close(fd).unwrap();
    m.fs.evict(usize::MAX);
    assert!(m.fs.cached_inodes() <= 1, "the working directory alone is in use");
    assert_eq!(&m.read_file("/f")[..5], b"dirty");
    m.finish();
}
