//! A workload on a file system whose device writes down everything it is asked to do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use holdfast_fs::Error;
use holdfast_fs::block::{
    BioFlags, MemDisk, MemDiskConfig, Op as BlockOp, Queue, Sector, TraceDisk, TraceEvent,
    TracedRequest,
};
use holdfast_fs::pagecache::{CacheConfig, PageCache};
use holdfast_fs::platform::host::{HostEnvironment, HostMemory, SimPageTable};
use holdfast_fs::syscall::{Fd, OpenFlags, Process};
use holdfast_fs::vfs::{CharDevice, FileSystem, Namespace};
use holdfast_fs::xfs::{Mount, MountOptions};

use super::model::{Kind, Model, SECTOR};
use super::ops::{Op, call};
use super::workload::{Random, next, sequel};

/// What happened, in order.
#[derive(Clone, Debug)]
pub enum Event {
    /// The call with this number begins.
    Begin(usize),
    /// It has returned.
    End(usize),
    /// Bytes were written; FUA: they are durable when the next event happens.
    Write { sector: u64, data: Arc<Vec<u8>>, durable: bool },
    /// Everything written before is durable.
    Flush,
}

/// A workload, and what it did to the device.
pub struct Recording {
    /// The device before the first call.
    pub base: Arc<Vec<u8>>,
    pub calls: Vec<Op>,
    pub events: Vec<Event>,
    /// Bytes of the device's sectors.
    pub unit: usize,
    /// Calls by name; names of calls that are not supported.
    pub made: BTreeMap<String, usize>,
    pub refused: BTreeMap<String, usize>,
    /// The file system has pointers to parents.
    pub parents: bool,
}

impl Recording {
    /// Writes to the device.
    pub fn writes(&self) -> usize {
        self.events.iter().filter(|e| matches!(e, Event::Write { .. })).count()
    }
}

/// A console nobody looks at.
struct Silent;
impl CharDevice for Silent {
    fn read(&self, _: &mut [u8]) -> holdfast_fs::Result<usize> {
        Ok(0)
    }
    fn write(&self, buffer: &[u8]) -> holdfast_fs::Result<usize> {
        Ok(buffer.len())
    }
}

/// How to record.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    /// What to begin with.
    pub first: Vec<Op>,
    pub calls: usize,
    pub block: usize,
    /// Bytes of the device's sectors.
    pub unit: usize,
    pub reflink: bool,
    /// Come near the end of the log before the first call.
    pub near_wrap: bool,
    /// Force the log from another thread all the time, so that chains of transactions are
    /// cut into several checkpoints. Such a workload is not the same every time.
    pub forced: bool,
    /// The file system has pointers to parents.
    pub parents: bool,
}

/// What is left of the log when the workload begins near its end.
const NEAR_BYTES: u64 = 100 << 10;

/// A whole stack, its device recorded.
struct Stack {
    trace: Arc<TraceDisk>,
    disk: Arc<MemDisk>,
    cache: Arc<PageCache>,
    fs: Arc<FileSystem>,
    process: Arc<Process>,
}

impl Stack {
    fn over(image: &Arc<Vec<u8>>, unit: usize) -> Self {
        let disk = MemDisk::over(
            image.clone(),
            MemDiskConfig {
                capacity_sectors: image.len() as u64 / 512,
                logical_block_bytes: unit as u32,
                ..MemDiskConfig::default()
            },
        );
        let trace = TraceDisk::new(disk.clone());
        let memory = HostMemory::new(16384);
        let mount = Mount::open(Queue::new(trace.clone()), memory.clone(), MountOptions::default())
            .expect("a new file system mounts");
        let environment = HostEnvironment::seeded(1);
        mount.set_environment(environment.clone());
        let cache = PageCache::new(memory.clone(), CacheConfig::default());
        let fs = FileSystem::new(mount, cache.clone());
        let ns = Namespace::new(Some(fs.clone()));
        let stdio: Arc<dyn CharDevice> = Arc::new(Silent);
        let stdio = [stdio.clone(), stdio.clone(), stdio];
        let process = Process::new(ns, SimPageTable::new(), memory, environment, stdio);
        Self { trace, disk, cache, fs, process }
    }
    /// Fill most of the log, so that what follows goes round its end.
    fn fill_log(&self) {
        let log_bytes = u64::from(self.fs.mount().geometry().log_blocks)
            << self.fs.mount().geometry().block_log;
        let flags = OpenFlags::RDWR | OpenFlags::CREAT;
        let fd = self.process.open(b"/filler", flags, 0o644).expect("a file");
        let mut logged = 0;
        let first = self.fs.mount().geometry().sector(self.fs.mount().geometry().log_start).0;
        let log = first..first + log_bytes / 512;
        for i in 0.. {
            self.process.fchmod(fd, 0o600 + (i % 64)).expect("chmod");
            self.process.fsync(fd).expect("fsync");
            for event in self.trace.take() {
                if let TraceEvent::Submitted(r) = event
                    && r.op == BlockOp::Write
                    && log.contains(&r.sector.0)
                {
                    logged += r.length_bytes;
                }
            }
            if logged > log_bytes - NEAR_BYTES {
                break;
            }
        }
        self.process.close(fd).expect("close");
        self.process.unlink(b"/filler").expect("unlink");
        self.process.sync();
    }
    fn unmount(&self) -> Arc<Vec<u8>> {
        self.process.exit();
        self.fs.unmount().expect("nobody uses the file system");
        self.cache.stop();
        self.bytes()
    }
    fn bytes(&self) -> Arc<Vec<u8>> {
        let mut bytes = vec![0; self.trace_capacity() * 512];
        self.disk.peek(Sector(0), &mut bytes);
        Arc::new(bytes)
    }
    fn trace_capacity(&self) -> usize {
        use holdfast_fs::block::BlockDevice;
        self.disk.info().capacity_sectors as usize
    }
}

/// A thread that forces the log again and again.
struct Forcing {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forcing {
    fn start(mount: &Arc<Mount>) -> Self {
        let (mount, stop) = (mount.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Some(log) = mount.log() {
                    log.force_all().expect("a log that works");
                }
                std::thread::sleep(Duration::from_micros(20));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Forcing {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the log could be forced");
        }
    }
}

/// Add what the device was asked to do.
fn add_events(events: &mut Vec<Event>, traced: Vec<TraceEvent>) {
    for event in traced {
        // Requests end where they begin: the disk carries them out at once.
        let TraceEvent::Submitted(request) = event else { continue };
        let TracedRequest { op, sector, flags, data, length_bytes, .. } = request;
        match op {
            BlockOp::Read | BlockOp::Discard => {}
            BlockOp::Flush => events.push(Event::Flush),
            BlockOp::Write | BlockOp::WriteZeroes => {
                if flags.contains(BioFlags::PREFLUSH) {
                    events.push(Event::Flush);
                }
                let data = match op {
                    BlockOp::Write => data,
                    _ => Arc::new(vec![0; length_bytes as usize]),
                };
                let durable = flags.contains(BioFlags::FUA);
                events.push(Event::Write { sector: sector.0, data, durable });
            }
        }
    }
}

/// After so many calls every file is read.
const LOOK: usize = 50;

/// Compare the contents of all files with the model, before any power cut.
fn look(process: &Process, model: &Model, plan: &Plan, call: usize) {
    for (path, &id) in &model.names {
        let object = &model.objects[id];
        if object.kind != Kind::File {
            continue;
        }
        let wanted = &object.contents.now;
        let fd = process.open(path.as_bytes(), OpenFlags::RDONLY, 0).expect("a file");
        let mut found = vec![0; wanted.len() + 1];
        let mut len = 0;
        loop {
            match process.pread(fd, &mut found[len..], len as u64).expect("a read") {
                0 => break,
                n => len += n,
            }
        }
        process.close(fd).expect("close");
        found.truncate(len);
        if found != *wanted {
            let at = found.iter().zip(wanted).position(|(a, b)| a != b);
            let sector = at.map_or(0, |at| at / SECTOR * SECTOR);
            let end = (sector + SECTOR).min(len);
            panic!(
                "seed {}, after call {call}, before any power cut: {path} has {len} bytes, \
                 should have {}; first difference at {at:?}\n{}",
                plan.seed,
                wanted.len(),
                model.explain(id, &found[sector..end])
            );
        }
    }
}

/// Is it that the stack cannot do this at all?
fn unsupported(e: &Error) -> bool {
    matches!(e, Error::NotSupported(_) | Error::NotImplemented)
}

/// Run a random workload on an image.
///
/// # Panics
/// If a call fails that cannot.
pub fn record(image: &Arc<Vec<u8>>, plan: &Plan) -> Recording {
    let mut stack = Stack::over(image, plan.unit);
    if plan.near_wrap {
        stack.fill_log();
        // Mounted anew: what filled the log need not be replayed in every state.
        let full = stack.unmount();
        stack = Stack::over(&full, plan.unit);
    }
    stack.process.sync();
    stack.trace.take();
    let base = stack.bytes();
    let forcing = plan.forced.then(|| Forcing::start(stack.fs.mount()));
    let mut random = Random(plan.seed);
    let mut model = Model::default();
    let (mut calls, mut events) = (Vec::new(), Vec::new());
    let (mut made, mut refused) = (BTreeMap::new(), BTreeMap::new());
    let mut open: Vec<Fd> = Vec::new();
    let mut queued = VecDeque::from(plan.first.clone());
    while calls.len() < plan.calls {
        let op = queued
            .pop_front()
            .unwrap_or_else(|| next(&mut random, &model, plan.block, plan.reflink));
        events.push(Event::Begin(calls.len()));
        let result = match (&op, stack.fs.mount().log()) {
            (Op::Push, Some(log)) => log.push_all(),
            _ => call(&stack.process, &op, &mut open),
        };
        add_events(&mut events, stack.trace.take());
        let done = match result {
            Ok(()) => {
                *made.entry(op.name()).or_default() += 1;
                op
            }
            Err(e) if unsupported(&e) => {
                *refused.entry(op.name()).or_default() += 1;
                Op::Nothing
            }
            Err(e) => panic!("seed {}, call {}: {}: {e}", plan.seed, calls.len(), op.describe()),
        };
        events.push(Event::End(calls.len()));
        model.begin(&done);
        model.end(&done);
        queued.extend(sequel(&mut random, &model, &done));
        if calls.len().is_multiple_of(LOOK) {
            look(&stack.process, &model, plan, calls.len());
            add_events(&mut events, stack.trace.take());
        }
        calls.push(done);
    }
    drop(forcing);
    for fd in open {
        stack.process.close(fd).expect("close");
    }
    stack.unmount();
    events.push(Event::Begin(calls.len()));
    add_events(&mut events, stack.trace.take());
    calls.push(Op::Sync);
    events.push(Event::End(calls.len() - 1));
    Recording { base, calls, events, unit: plan.unit, made, refused, parents: plan.parents }
}
