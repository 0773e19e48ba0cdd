//! Changes of all kinds, made without care: on a device that fails at some time, before a
//! shutdown, and where there is hardly any space.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{STEPS, Stage, TOTALS, below, judge, ledger, open, range};
use crate::volume::Volume;
use holdfast_fs::block::{Fault, Op};
use holdfast_fs::platform::{PAGE_SIZE, VirtAddr};
use holdfast_fs::syscall::{FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot, ShutdownMode};
use holdfast_fs::{Error, Result};
use holdfast_sync::thread::{JoinHandle, yield_now};

/// Writes that a device takes at most before it fails.
const MOST_WRITES: usize = 150;
/// Steps that are waited at most for requests that may not come.
const MOST_YIELDS: usize = 3000;
/// Blocks that a full disk has left.
const BLOCKS_LEFT: u64 = 24;
const MOST_BYTES: usize = 30_000;

/// What went wrong for one scribbler.
#[derive(Default)]
struct Trouble {
    refused: u64,
    lost: Option<Error>,
}

impl Trouble {
    fn note(&mut self, sync: bool, result: Result<()>) {
        match result {
            Err(e) if sync => self.lost = Some(e),
            Err(Error::NoSpace) => self.refused += 1,
            _ => {}
        }
    }
}

/// All kinds of changes to a file of one's own and to one that others have, too.
fn scribble(p: &Process, n: usize) -> Trouble {
    let [path, other] = [n, 0].map(|n| format!("/scribbled-{n}"));
    let mut trouble = Trouble::default();
    for value in 1..=STEPS as u8 {
        let flags = OpenFlags::RDWR | OpenFlags::CREAT;
        let fd = match p.open(path.as_bytes(), flags, 0o644) {
            Ok(fd) => fd,
            Err(e) => {
                trouble.note(false, Err(e));
                continue;
            }
        };
        let (pos, end) = range(MOST_BYTES);
        let len = end - pos;
        let kind = below(9);
        let result = match kind {
            0 => p.fsync(fd),
            1 => p.ftruncate(fd, pos as u64),
            2 => p.fallocate(fd, FallocateMode::empty(), pos as u64, len as u64),
            3 => p.rename(path.as_bytes(), other.as_bytes()),
            4 => p.unlink(other.as_bytes()),
            5 => p.open(other.as_bytes(), flags, 0o644).and_then(|source| {
                let shared = p.ficlone(fd, source);
                p.close(source).and(shared)
            }),
            6 => store(p, fd, value),
            _ => p.pwrite(fd, &vec![value; len][..], pos as u64).map(|_| ()),
        };
        trouble.note(kind == 0, result);
        p.close(fd).expect("it is open");
    }
    trouble
}

/// Store to a page of a file that may have none.
fn store(p: &Process, fd: Fd, value: u8) -> Result<()> {
    let rights = Prot::READ | Prot::WRITE;
    let map = p.mmap(VirtAddr(0), PAGE_SIZE, rights, MapFlags::SHARED, Some(fd), 0)?;
    let stored = p.store(map, &[value; 100]);
    p.munmap(map, PAGE_SIZE).and(stored)
}

fn spawn(stage: &Stage, n: usize) -> JoinHandle<Trouble> {
    stage.spawn("scribbler", move |stage| scribble(&stage.v.process, n))
}

/// The device takes no more writes at some time, or somebody shuts the file system down:
/// calls fail, nobody waits for ever, and what was durable is there afterwards.
pub fn until_it_fails(image: &Arc<Vec<u8>>) {
    let stage = Stage::new(image);
    let when = below(MOST_WRITES) as u64;
    let shutdown = match below(2) {
        0 => {
            stage.faults.inject(Fault::After { op: Op::Write, n: when });
            None
        }
        _ => Some(stage.spawn("shutdown", move |stage| shut_down(stage, when))),
    };
    let scribblers = [1, 2].map(|n| spawn(&stage, n));
    let ledger = stage.spawn("ledger", ledger::work);
    let ledger = stage.disturb(|| {
        scribblers.into_iter().for_each(|thread| drop(thread.join()));
        ledger.join()
    });
    shutdown.into_iter().for_each(JoinHandle::join);
    TOTALS.failed.fetch_add(stage.faults.failed().min(1), Ordering::Relaxed);
    stage.v.process.exit();
    // It may fail as everything else.
    let _ = stage.v.fs.unmount();
    stage.v.cache.stop();
    stage.faults.clear();
    let after = Volume::over(&Arc::new(stage.v.bytes()));
    ledger.check(&after, u64::MAX);
    judge(after.unmount());
}

/// Shut the file system down, in one of the ways there are, after so many requests.
fn shut_down(stage: &Stage, when: u64) {
    let p = &stage.v.process;
    let fd = p.open(b"/", OpenFlags::DIRECTORY, 0).expect("the root");
    let until = stage.trace.submitted() + when;
    for _ in 0..MOST_YIELDS {
        if stage.trace.submitted() >= until {
            break;
        }
        yield_now();
    }
    let mode = [ShutdownMode::Default, ShutdownMode::LogFlush, ShutdownMode::NoLogFlush][below(3)];
    p.shutdown(fd, mode).expect("it is mounted");
    p.close(fd).expect("it is open");
}

/// There is hardly any space: what was promised is there when it is written, and what was
/// promised and not used is free again.
pub fn on_a_full_disk(image: &Arc<Vec<u8>>) {
    let stage = Stage::new(image);
    fill(&stage.v.process);
    let scribblers = [1, 2, 3].map(|n| spawn(&stage, n));
    let troubles = stage.disturb(|| scribblers.map(JoinHandle::join));
    for trouble in troubles {
        assert_eq!(trouble.lost, None, "what was promised was not there");
        TOTALS.refused.fetch_add(trouble.refused, Ordering::Relaxed);
    }
    let mount = stage.v.fs.mount().clone();
    let image = stage.unmount();
    judge(image.clone());
    // Nobody is at work any more who has space set aside for what he is about to do.
    let free = mount.statfs().blocks_free;
    let again = Volume::over(&image);
    assert_eq!(again.fs.statfs().blocks_free, free, "something was not given back");
    again.unmount();
}

/// Take all but a few blocks.
fn fill(p: &Process) {
    let filler = open(p, "/filler");
    let sizes = p.statfs(b"/").expect("it is mounted");
    let filled = (BLOCKS_LEFT..sizes.blocks_free).any(|left| {
        let bytes = (sizes.blocks_free - left) * u64::from(sizes.block_bytes);
        p.fallocate(filler, FallocateMode::empty(), 0, bytes).is_ok()
    });
    assert!(filled, "no file fills the disk");
    p.close(filler).expect("it is open");
}
