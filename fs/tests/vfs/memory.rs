//! Mapped files of a real file system, through a process.

use std::sync::Arc;

use crate::machine::{F_LEN, Machine, Setup, contents, errno, pattern};
use holdfast_fs::Error;
use holdfast_fs::block::Completion;
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{Advice, MapFlags, MsyncFlags, OpenFlags, Prot};

const RW: Prot = Prot::READ.union(Prot::WRITE);

/// T8 of the storage semantics: `pwrite(fd, map + 4096, 8192, 0)` with nothing cached.
#[test]
fn a_write_may_take_its_bytes_from_a_mapping_of_its_own_file() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/f");
    let va = m.mmap(fd, F_LEN, RW, MapFlags::SHARED);
    let mut model = contents("/f");
    m.fs.drop_caches();
    assert_eq!(p.pwrite(fd, (va.add(4096), 8192), 0), Ok(8192));
    model.copy_within(4096..4096 + 8192, 0);
    assert!(m.read_file("/f") == model);
    // The very page, onto itself, and shifted within itself.
    m.fs.drop_caches();
    assert_eq!(p.pwrite(fd, (va.add(20_480), 4096), 20_480), Ok(4096));
    assert_eq!(p.pwrite(fd, (va.add(20_480), 100), 20_680), Ok(100));
    model.copy_within(20_480..20_580, 20_680);
    assert!(m.read_file("/f") == model);
    // And reading into it.
    m.fs.drop_caches();
    assert_eq!(p.pread(fd, (va.add(40_960), 9000), 60_000), Ok(9000));
    model.copy_within(60_000..69_000, 40_960);
    assert!(m.read_file("/f") == model);
    p.munmap(va, F_LEN).unwrap();
    m.finish();
}

#[test]
fn a_buffer_that_ends_beyond_the_file_gives_a_short_write() {
    let m = Machine::new();
    let p = &m.process;
    let (f, big) = (m.rw("/f"), m.rw("/big"));
    let va = m.mmap(f, 200_000, RW, MapFlags::SHARED);
    // 25 pages hold the file's 100,000 bytes; those after them are a bus error.
    let last = VirtAddr(va.0 + 25 * 4096 - 1000);
    assert_eq!(m.load(va.add(25 * 4096), 1), Err(Error::Bus));
    assert_eq!(p.pwrite(big, (last, 5000), 0), Ok(1000));
    assert_eq!(errno(p.pwrite(big, (va.add(25 * 4096), 10), 0)), 14);
    assert_eq!(p.pread(big, (last, 5000), 0), Ok(1000));
    assert_eq!(p.lseek(f, 0, holdfast_fs::syscall::Whence::End), Ok(100_000));
    p.exit();
    m.finish();
}

#[test]
fn a_buffer_across_pages_that_are_not_there_yet_is_written_whole() {
    let m = Machine::new();
    let p = &m.process;
    let (f, big) = (m.rw("/f"), m.rw("/big"));
    let mut model = contents("/big");
    for (from, to, len) in [(3000, 0, 60_000), (4095, 100_001, 70_000), (1, 300_000, 4096)] {
        let va = m.mmap(f, F_LEN, Prot::READ, MapFlags::SHARED);
        m.fs.drop_caches();
        assert_eq!(p.pwrite(big, (va.add(from), len), to), Ok(len));
        let (from, to) = (from as usize, to as usize);
        model[to..to + len].copy_from_slice(&contents("/f")[from..from + len]);
        p.munmap(va, F_LEN).unwrap();
    }
    assert!(m.read_file("/big") == model);
    p.exit();
    m.finish();
}

#[test]
fn a_mapping_outlives_its_descriptor_and_keeps_the_file_system_busy() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/f");
    let va = m.mmap(fd, F_LEN, RW, MapFlags::SHARED);
    p.close(fd).unwrap();
    p.store(va.add(12_345), b"after close").unwrap();
    assert_eq!(m.fs.unmount(), Err(Error::Busy));
    p.msync(va, F_LEN, MsyncFlags::SYNC).unwrap();
    m.fs.drop_caches();
    assert_eq!(&m.read_file("/f")[12_345..12_356], b"after close");
    assert_eq!(m.fs.unmount(), Err(Error::Busy), "still mapped");
    p.munmap(va, F_LEN).unwrap();
    p.chdir(b"/sub").unwrap();
    assert_eq!(m.fs.unmount(), Err(Error::Busy), "a working directory");
    p.exit();
    assert_eq!(m.fs.unmount(), Ok(()));
    assert_eq!(m.fs.root().map(|_| ()), Err(Error::Shutdown));
    m.finish();
}

#[test]
fn private_stores_never_reach_the_file() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.open("/f", OpenFlags::RDONLY);
    let va = m.mmap(fd, F_LEN, RW, MapFlags::PRIVATE);
    p.store(va.add(5000), &[1; 9000]).unwrap();
    p.msync(va, F_LEN, MsyncFlags::SYNC).unwrap();
    m.fs.drop_caches();
    assert!(m.read_file("/f") == contents("/f"));
    assert_eq!(m.load(va.add(4999), 3).unwrap(), [contents("/f")[4999], 1, 1]);
    p.madvise(va, F_LEN, Advice::DontNeed).unwrap();
    assert_eq!(m.load(va, F_LEN).unwrap(), contents("/f"));
    p.exit();
    m.finish();
}

#[test]
fn bytes_beyond_the_end_never_reach_the_disk() {
    let m = Machine::new();
    let p = &m.process;
    let fd = m.rw("/f");
    let va = m.mmap(fd, F_LEN, RW, MapFlags::SHARED);
    p.store(va.add(F_LEN as u64), &[0xAB; 500]).unwrap();
    p.store(va.add(F_LEN as u64 - 2), b"zz").unwrap();
    p.fsync(fd).unwrap();
    p.munmap(va, F_LEN).unwrap();
    m.fs.drop_caches();
    let again = m.mmap(fd, F_LEN, Prot::READ, MapFlags::SHARED);
    assert_eq!(m.load(again.add(F_LEN as u64 - 2), 4).unwrap(), b"zz\0\0");
    p.exit();
    m.finish();
}

/// Readers, writers and storers of the same files on a cache of 48 pages; in the end the
/// disk holds what the model says, and so does xfs_repair.
#[test]
fn threads_work_on_the_same_files_under_pressure() {
    let setup = Setup {
        cache_pages: 48,
        threads: true,
        completion: Completion::Threads(2),
        ..Default::default()
    };
    let m = Arc::new(Machine::with(setup));
    const PART: usize = 512 << 10;
    std::thread::scope(|scope| {
        for part in 0..4u64 {
            let m = &m;
            scope.spawn(move || {
                let p = &m.process;
                let fd = m.rw("/big");
                let base = part as usize * PART;
                let va = m.mmap(fd, 6 * PART, RW, MapFlags::SHARED);
                for round in 0..3u64 {
                    let data = pattern(part * 10 + round, PART);
                    let mut at = 0;
                    while at < PART {
                        let len = 3001.min(PART - at);
                        let pos = (base + at) as u64;
                        if part % 2 == 0 {
                            assert_eq!(p.pwrite(fd, &data[at..at + len], pos), Ok(len));
                        } else {
                            p.store(va.add(pos), &data[at..at + len]).unwrap();
                        }
                        at += len;
                    }
                    let mut back = vec![0; PART];
                    if part % 2 == 0 {
                        p.load(va.add(base as u64), &mut back).unwrap();
                    } else {
                        assert_eq!(p.pread(fd, &mut back, base as u64), Ok(PART));
                    }
                    assert!(back == data, "part {part} round {round}");
                }
                p.fsync(fd).unwrap();
                p.munmap(va, 6 * PART).unwrap();
                p.close(fd).unwrap();
            });
        }
        let m = &m;
        scope.spawn(move || {
            for _ in 0..5 {
                assert_eq!(m.read_file("/f"), contents("/f"));
                m.fs.drop_caches();
            }
        });
    });
    let mut want = contents("/big");
    for part in 0..4u64 {
        let base = part as usize * PART;
        want[base..base + PART].copy_from_slice(&pattern(part * 10 + 2, PART));
    }
    m.fs.drop_caches();
    assert!(m.read_file("/big") == want);
    let statistics = m.cache.statistics().snapshot();
    let get = |name: &str| statistics.iter().find(|(n, _)| *n == name).unwrap().1;
    assert!(get("evicted_background") + get("evicted_direct") > 200, "{statistics:?}");
    Arc::into_inner(m).expect("the threads are done").finish();
}
