//! The cases that map files.

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{MapFlags, MsyncFlags, Prot};
use holdfast_sync::time::now_ns;

use super::data::Random;
use super::{Bench, MIB, Measured, Outcome, PAGE, Unit, failed};

impl Bench<'_> {
    /// Map `len` bytes of a file, shared.
    pub(super) fn map(&self, fd: i32, len: u64, prot: Prot) -> Outcome<VirtAddr> {
        self.cx
            .process
            .mmap(VirtAddr(0), len as usize, prot, MapFlags::SHARED, Some(fd), 0)
            .map_err(failed("mmap"))
    }
    /// Unmap it.
    pub(super) fn unmap(&self, addr: VirtAddr, len: u64) -> Outcome {
        self.cx.process.munmap(addr, len as usize).map_err(failed("munmap"))
    }
    pub(super) fn msync(&self, addr: VirtAddr, len: u64) -> Outcome {
        let synced = self.cx.process.msync(addr, len as usize, MsyncFlags::SYNC);
        synced.map_err(failed("msync"))
    }
}

/// `mmapw_exist`: one store into every page of a cached file.
pub(super) fn write_existing(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    let value = |offset: u64| ((offset >> 12) as u8).wrapping_mul(7).wrapping_add(1);
    let file = bench.ensure("/sb_rw", 0)?;
    let (process, size) = (bench.cx.process.clone(), bench.size);
    bench.warm(file.fd)?;
    let addr = bench.map(file.fd, size, Prot::READ | Prot::WRITE)?;
    let t0 = now_ns();
    for offset in (0..size).step_by(PAGE as usize) {
        process.store(addr.add(offset + 100), &[value(offset)]).map_err(failed("store"))?;
    }
    let t1 = now_ns();
    bench.msync(addr, size)?;
    let t2 = now_ns();
    bench.unmap(addr, size)?;
    let mut good = true;
    for _ in 0..256 {
        let offset = bench.data.random.page(size);
        bench.pread(file.fd, offset, PAGE as usize)?;
        good &= bench.data.buffer[100] == value(offset)
            && bench.data.buffer[300] == bench.data.pattern[(offset % MIB) as usize + 300];
    }
    bench.both((name, "_msync"), [t0, t1, t2], (size / PAGE, size), Unit::Ops, Some(good));
    Ok(())
}

/// `mmapr_cached`: one load from every page of a cached file, mapped anew each time.
pub(super) fn read_cached(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    const REPS: u64 = 4;
    let file = bench.ensure("/sb_rnd", 5)?;
    let (process, size) = (bench.cx.process.clone(), bench.size);
    bench.warm(file.fd)?;
    let (mut sum, mut expected, mut ns) = (0u32, 0u32, 0);
    let mut byte = [0];
    for _ in 0..REPS {
        let addr = bench.map(file.fd, size, Prot::READ)?;
        let t0 = now_ns();
        for offset in (0..size).step_by(PAGE as usize) {
            process.load(addr.add(offset + 4095), &mut byte).map_err(failed("load"))?;
            sum = sum.wrapping_add(byte[0].into());
        }
        ns += now_ns() - t0;
        bench.unmap(addr, size)?;
    }
    for offset in (0..size).step_by(PAGE as usize) {
        expected += u32::from(bench.data.pattern[(offset % MIB) as usize + 4095]);
    }
    let measured = Measured { ops: REPS * (size / PAGE), bytes: REPS * size, ns };
    let good = sum == expected.wrapping_mul(REPS as u32);
    bench.report(name, "", &measured, Unit::Ops, Some(good));
    Ok(())
}

/// `msync_1pg`: dirty a page, make just that one durable.
pub(super) fn msync_page(bench: &mut Bench<'_>, name: &'static str) -> Outcome {
    const COUNT: u64 = 100;
    let value = |offset: u64| ((offset >> 12) as u8).wrapping_mul(13).wrapping_add(5);
    let file = bench.ensure("/sb_rw", 0)?;
    let (process, size) = (bench.cx.process.clone(), bench.size);
    let addr = bench.map(file.fd, size, Prot::READ | Prot::WRITE)?;
    let mut random = Random(77);
    let t0 = now_ns();
    for _ in 0..COUNT {
        let offset = random.page(size);
        process.store(addr.add(offset + 200), &[value(offset)]).map_err(failed("store"))?;
        bench.msync(addr.add(offset), PAGE)?;
    }
    let ns = now_ns() - t0;
    bench.unmap(addr, size)?;
    let (mut random, mut good) = (Random(77), true);
    for _ in 0..COUNT {
        let offset = random.page(size);
        bench.pread(file.fd, offset, PAGE as usize)?;
        good &= bench.data.buffer[200] == value(offset);
    }
    bench.data.random = random;
    let measured = Measured { ops: COUNT, bytes: COUNT * PAGE, ns };
    bench.report(name, "", &measured, Unit::Ops, Some(good));
    Ok(())
}
