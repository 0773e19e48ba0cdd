//! The threads that overwrite files and read along.
//!
//! All of them go through the files in the same order, each changing only the slots it
//! owns. A worker comes back to some slots it changed about half a cache earlier: folios
//! that were evicted meanwhile are read again (refaults). At the end the storers touch one
//! byte in each of many slots, which dirties folios faster than any disk cleans them, until
//! throttling has been seen to work.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{Advice, MapFlags, MsyncFlags, OpenFlags, Prot};
use holdfast_sync::atomic::Ordering;
use holdfast_sync::thread::{JoinHandle, Priority, spawn};
use holdfast_sync::time::now_ns;

use super::model::{CHUNK_BYTES, Chunk, Owner, SLOT_MAX, mix};
use super::{Failed, Job};
use crate::files::OpenFile;
use crate::system::counter;

/// Writers, and storers.
pub const WORKERS: usize = 2;

/// What a thread did.
#[derive(Clone, Debug, Default)]
pub struct Done {
    /// The thread's name.
    pub name: &'static str,
    /// Calls, or stores, or slots read.
    pub ops: u64,
    /// Bytes.
    pub bytes: u64,
    /// Slots a reader found in the middle of a change.
    pub raced: u64,
    /// Slots that were not what the model says.
    pub wrong: u64,
    /// Nanoseconds from first to last.
    pub elapsed_ns: u64,
}

const NAMES: [&str; 6] = ["writer-0", "writer-1", "storer-0", "storer-1", "reader", "maker"];
/// The place of the maker among them.
const MAKER: usize = 5;

/// Start the threads of the churn.
pub fn threads(job: &Arc<Job>) -> Vec<JoinHandle<Result<Done, Failed>>> {
    // Readers stop when those whom they watch are done: this counts them.
    job.next.store((2 * WORKERS) as u64, Ordering::SeqCst);
    (0..NAMES.len())
        .map(|i| {
            let job = job.clone();
            spawn(NAMES[i], Priority::Normal, move || {
                let start = now_ns();
                if i == MAKER {
                    let mut done = super::make::make(&job)?;
                    done.elapsed_ns = now_ns() - start;
                    return Ok(done);
                }
                let mut worker = Worker::new(&job, i);
                let result = match i {
                    0 | 1 => worker.write_all(i),
                    2 | 3 => worker.store_all(i - WORKERS),
                    _ => worker.read_along(),
                };
                if i < 2 * WORKERS {
                    job.next.fetch_sub(1, Ordering::SeqCst);
                }
                worker.done.elapsed_ns = now_ns() - start;
                result.map(|()| worker.done)
            })
        })
        .collect()
}

/// How often a burst goes over the same folios: each was cleaned or is still dirty.
const BURSTS: usize = 20;

/// Did dirtiers have to wait already?
fn throttled(job: &Job) -> bool {
    counter(&job.system.cache_statistics(), "throttled") > job.throttled_before
}

struct Worker<'a> {
    job: &'a Job,
    done: Done,
    random: u64,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

/// A chunk's file, mapped.
struct Window {
    addr: VirtAddr,
    len: usize,
    /// The file's position at `addr`.
    start: u64,
}

impl<'a> Worker<'a> {
    fn new(job: &'a Job, number: usize) -> Self {
        Self {
            job,
            done: Done { name: NAMES[number], ..Done::default() },
            random: mix(number as u64 + 1),
            buffer: vec![0; SLOT_MAX],
            scratch: vec![0; SLOT_MAX],
        }
    }
    fn draw(&mut self, below: u64) -> u64 {
        self.random = mix(self.random.wrapping_add(0x9E37_79B9_7F4A_7C15));
        self.random % below.max(1)
    }
    /// The chunk about half a cache before this one, sometimes.
    fn earlier(&mut self, index: usize) -> Option<usize> {
        let back = (self.job.cache_bytes / 2 / CHUNK_BYTES).max(1);
        let back = back + self.draw(back);
        if self.draw(4) == 0 { index.checked_sub(back as usize) } else { None }
    }
    /// Do every chunk, and some a second time.
    fn each_chunk(
        &mut self,
        mut each: impl FnMut(&mut Self, &Chunk, bool) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let job = self.job;
        for (index, chunk) in job.model.chunks.iter().enumerate() {
            if job.stopped() {
                break;
            }
            each(self, chunk, false)?;
            if let Some(earlier) = self.earlier(index) {
                each(self, &job.model.chunks[earlier], true)?;
            }
        }
        Ok(())
    }

    // ---- write()

    fn write_all(&mut self, number: usize) -> Result<(), Failed> {
        let mut open: Option<(usize, OpenFile)> = None;
        self.each_chunk(|me, chunk, again| {
            let model = &me.job.model;
            if !model.files[chunk.file].writable {
                return Ok(());
            }
            if open.as_ref().is_none_or(|o| o.0 != chunk.file) {
                let path = &model.files[chunk.file].path;
                open = Some((chunk.file, me.job.open(path, OpenFlags::RDWR)?));
            }
            let Some((_, file)) = &open else { return Ok(()) };
            for slot in chunk.slots.clone() {
                let chosen = !again || me.draw(4) == 0;
                if chosen && model.owner(chunk.file, slot) == Owner::Writer(number) {
                    me.write_slot(file, chunk.file, slot)?;
                }
            }
            Ok(())
        })
    }
    /// One slot, in one write() or in two.
    fn write_slot(&mut self, open: &OpenFile, file: usize, slot: u32) -> Result<(), Failed> {
        let job = self.job;
        let range = job.model.files[file].range(slot);
        let len = (range.end - range.start) as usize;
        let cut = if self.draw(3) == 0 { self.draw(len as u64) as usize } else { 0 };
        let version = job.model.next_version(file, slot, &mut self.buffer[..len]);
        for (from, to) in [(0, cut), (cut, len)] {
            let mut at = from;
            while at < to {
                let n = job
                    .process
                    .pwrite(open.fd, &self.buffer[at..to], range.start + at as u64)
                    .map_err(|e| job.fail("write", &job.model.files[file].path, &e))?;
                at += n;
                self.done.ops += 1;
            }
        }
        job.model.publish(file, slot, version);
        self.done.bytes += len as u64;
        job.advance(len as u64);
        Ok(())
    }

    // ---- stores into shared mappings

    fn store_all(&mut self, number: usize) -> Result<(), Failed> {
        self.each_chunk(|me, chunk, again| {
            if !me.job.model.files[chunk.file].writable {
                return Ok(());
            }
            let window = me.map(chunk)?;
            let mut result = Ok(());
            for slot in chunk.slots.clone() {
                let chosen = !again || me.draw(4) == 0;
                if chosen && me.job.model.owner(chunk.file, slot) == Owner::Storer(number) {
                    result = me.store_slot(&window, chunk.file, slot);
                }
                if result.is_err() {
                    break;
                }
            }
            // Now and then what was stored is made durable at once.
            let sync = me.draw(16) == 0;
            me.unmap(chunk, &window, sync)?;
            result
        })?;
        self.burst(number)
    }
    fn map(&self, chunk: &Chunk) -> Result<Window, Failed> {
        let job = self.job;
        let file = &job.model.files[chunk.file];
        let first = file.range(chunk.slots.start).start / 4096 * 4096;
        let end = file.range(chunk.slots.end - 1).end;
        let open = job.open(&file.path, OpenFlags::RDWR)?;
        let len = (end - first) as usize;
        let prot = Prot::READ | Prot::WRITE;
        let addr = job
            .process
            .mmap(VirtAddr(0), len, prot, MapFlags::SHARED, Some(open.fd), first)
            .map_err(|e| job.fail("mmap", &file.path, &e))?;
        Ok(Window { addr, len, start: first })
    }
    fn unmap(&self, chunk: &Chunk, window: &Window, sync: bool) -> Result<(), Failed> {
        let (job, path) = (self.job, &self.job.model.files[chunk.file].path);
        if sync {
            let synced = job.process.msync(window.addr, window.len, MsyncFlags::SYNC);
            synced.map_err(|e| job.fail("msync", path, &e))?;
        }
        job.process.munmap(window.addr, window.len).map_err(|e| job.fail("munmap", path, &e))
    }
    fn store_slot(&mut self, window: &Window, file: usize, slot: u32) -> Result<(), Failed> {
        let job = self.job;
        let range = job.model.files[file].range(slot);
        let len = (range.end - range.start) as usize;
        let version = job.model.next_version(file, slot, &mut self.buffer[..len]);
        let addr = window.addr.add(range.start - window.start);
        let stored = job.process.store(addr, &self.buffer[..len]);
        stored.map_err(|e| job.fail("store into", &job.model.files[file].path, &e))?;
        job.model.publish(file, slot, version);
        self.done.ops += 1;
        self.done.bytes += len as u64;
        job.advance(len as u64);
        Ok(())
    }
    /// Dirty folios faster than they can be cleaned, a byte in each own slot, until
    /// dirtiers were throttled or all chunks are through.
    fn burst(&mut self, number: usize) -> Result<(), Failed> {
        let job = self.job;
        let limit = job.system.memory().dirty_limit_kib / 4;
        let mut chunks = job.model.chunks.iter().rev();
        while !throttled(job) && !job.stopped() && chunks.len() > 0 {
            let mut windows = Vec::new();
            let result = self.burst_round(number, &mut chunks, limit, &mut windows);
            for (chunk, window) in windows {
                self.unmap(chunk, &window, false)?;
            }
            result?;
        }
        Ok(())
    }
    /// First bring as many folios in as may be dirty, then store into all of them at once:
    /// no store waits for a read.
    fn burst_round(
        &mut self,
        number: usize,
        chunks: &mut dyn Iterator<Item = &'a Chunk>,
        limit: u64,
        windows: &mut Vec<(&'a Chunk, Window)>,
    ) -> Result<(), Failed> {
        let job = self.job;
        let mut targets = Vec::new();
        while (targets.len() as u64) < limit
            && let Some(chunk) = chunks.next()
        {
            let file = &job.model.files[chunk.file];
            if !file.writable {
                continue;
            }
            let window = self.map(chunk)?;
            let advised = job.process.madvise(window.addr, window.len, Advice::Random);
            advised.map_err(|e| job.fail("madvise", &file.path, &e))?;
            for slot in chunk.slots.clone() {
                if job.model.owner(chunk.file, slot) == Owner::Storer(number) {
                    let addr = window.addr.add(file.range(slot).start - window.start);
                    let loaded = job.process.load(addr, &mut self.scratch[..1]);
                    loaded.map_err(|e| job.fail("load from", &file.path, &e))?;
                    targets.push((windows.len(), slot));
                }
            }
            windows.push((chunk, window));
        }
        for _ in 0..BURSTS {
            for &(index, slot) in &targets {
                let (chunk, window) = &windows[index];
                self.poke(window, chunk.file, slot)?;
            }
            if job.stopped() || throttled(job) {
                break;
            }
        }
        Ok(())
    }
    fn poke(&mut self, window: &Window, file: usize, slot: u32) -> Result<(), Failed> {
        let job = self.job;
        let Some((byte, version)) = job.model.poke(file, slot) else { return Ok(()) };
        let start = job.model.files[file].range(slot).start;
        let stored = job.process.store(window.addr.add(start - window.start), &[byte]);
        stored.map_err(|e| job.fail("store into", &job.model.files[file].path, &e))?;
        job.model.publish(file, slot, version);
        self.done.ops += 1;
        self.done.bytes += 1;
        Ok(())
    }

    // ---- reading along

    fn read_along(&mut self) -> Result<(), Failed> {
        let job = self.job;
        let mut open: Option<(usize, OpenFile)> = None;
        while job.next.load(Ordering::SeqCst) > 0 && !job.stopped() {
            // A few slots of a random chunk: most lie where somebody works or has worked.
            let index = self.draw(job.model.chunks.len() as u64) as usize;
            let chunk = &job.model.chunks[index];
            if open.as_ref().is_none_or(|o| o.0 != chunk.file) {
                let path = &job.model.files[chunk.file].path;
                open = Some((chunk.file, job.open(path, OpenFlags::RDONLY)?));
            }
            let Some((_, file)) = &open else { continue };
            let count = u64::from(chunk.slots.end - chunk.slots.start);
            for _ in 0..8 {
                let slot = chunk.slots.start + self.draw(count) as u32;
                self.read_slot(file, chunk.file, slot)?;
            }
        }
        Ok(())
    }
    /// Read a slot; unless it changed meanwhile it must be what the model says.
    fn read_slot(&mut self, open: &OpenFile, file: usize, slot: u32) -> Result<(), Failed> {
        let job = self.job;
        let before = job.model.version(file, slot);
        let range = job.model.files[file].range(slot);
        let len = (range.end - range.start) as usize;
        let n = job
            .process
            .pread(open.fd, &mut self.buffer[..len], range.start)
            .map_err(|e| job.fail("read", &job.model.files[file].path, &e))?;
        self.done.ops += 1;
        self.done.bytes += n as u64;
        match before {
            Some(version) if job.model.version(file, slot) == before => {
                let (bytes, scratch) = (&self.buffer[..len], &mut self.scratch);
                let good = n == len && job.model.matches(file, slot, version, bytes, scratch);
                self.done.wrong += u64::from(!good);
            }
            _ => self.done.raced += 1,
        }
        Ok(())
    }
}
