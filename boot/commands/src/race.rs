//! `race`: one interleaving of two threads on one file, step by step, with its guard on or
//! off; the file stays as `/race-NAME` for others to look at.
//!
//! | name | what happens | guard |
//! |------|--------------|-------|
//! | V2 | a write() over a hole; a store meanwhile, written back and evicted | `iomap.validity` |
//! | V3 | a write() over preallocated blocks; one of them written back and evicted meanwhile | `iomap.validity` |
//! | A  | a write() that goes short; a store into what it gives back | `punch.skip_dirty` |
//!
//! The writer stops at a named point of the code; another thread does its part there and
//! ends; the writer goes on. Nothing depends on time. Only a build with the feature `lab`
//! has the points: `./run.sh race` makes one.

#[cfg(not(feature = "lab"))]
use crate::context::Context;
use crate::context::Status;

/// The data is not right.
#[cfg(feature = "lab")]
const CORRUPTED: Status = 3;
/// The writer never came to the point.
#[cfg(feature = "lab")]
const NOT_REACHED: Status = 4;

/// `race NAME [--off GUARD]`
#[cfg(not(feature = "lab"))]
pub fn main(cx: &mut Context, _: &[&[u8]]) -> Status {
    cx.error(format_args!("this kernel has no guards to switch off (use './run.sh race NAME')"));
    2
}

#[cfg(feature = "lab")]
pub use lab::main;

#[cfg(feature = "lab")]
mod lab {
    use alloc::format;
    use alloc::string::String;
    use alloc::sync::Arc;

    use holdfast_fs::lab::{Guard, Point};
    use holdfast_fs::pagecache::PageCache;
    use holdfast_fs::platform::VirtAddr;
    use holdfast_fs::syscall::{
        Advice, FallocateMode, Fd, MapFlags, OpenFlags, Process, Prot, SyncRange,
    };
    use holdfast_fs::{Error, Result};
    use holdfast_sync::atomic::{AtomicBool, Ordering};
    use holdfast_sync::thread::{Priority, spawn};

    use super::{CORRUPTED, NOT_REACHED};
    use crate::context::{Context, Status, explain};
    use crate::files::OpenFile;
    use crate::{options, out, text};

    /// The file's mapped part.
    const MAPPED: usize = 65536;
    /// The last page that the writes of V2 and V3 touch, with one byte; its last byte is
    /// somebody else's.
    const PAGE_9: u64 = 36864;
    const TAIL: u64 = PAGE_9 + 4095;

    /// What one run works on.
    struct Scene {
        process: Arc<Process>,
        cache: Arc<PageCache>,
        file: OpenFile,
        map: VirtAddr,
    }

    /// What came of it.
    struct Found {
        reached: bool,
        place: u64,
        byte: u8,
        right: u8,
    }

    type Scenario = (&'static str, Guard, fn(&Scene) -> Result<Found>);

    const SCENARIOS: [Scenario; 3] = [
        ("V2", Guard::IomapValidity, hole),
        ("V3", Guard::IomapValidity, preallocated),
        ("A", Guard::PunchSkipDirty, short_write),
    ];

    /// `race NAME [--off GUARD]`
    pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
        let parsed = match options::parse(argv, "o:", &[("off", b'o')]) {
            Ok(parsed) => parsed,
            Err(e) => return cx.usage(format_args!("{e}"), 2),
        };
        let off = parsed.value(b'o');
        let known = |name: &&[u8]| SCENARIOS.iter().find(|s| s.0.as_bytes() == *name);
        let Some(scenario) = parsed.operands.first().and_then(known) else {
            return cx.usage(format_args!("which race? V2, V3 or A"), 2);
        };
        let off = match off.map(|word| (word, String::from_utf8_lossy(word))) {
            None => None,
            Some((word, name)) => match Guard::from_name(&name) {
                Some(guard) => Some(guard),
                None => {
                    let quoted = text::quote(word);
                    return cx.usage(format_args!("no guard {quoted}"), 2);
                }
            },
        };
        match run(cx, scenario, off) {
            Ok(status) => status,
            Err(e) => {
                let reason = explain(&e);
                cx.error(format_args!("{}: {reason}", scenario.0));
                1
            }
        }
    }

    fn run(cx: &mut Context, scenario: &Scenario, off: Option<Guard>) -> Result<Status> {
        let (name, guard, play) = *scenario;
        let path = format!("/race-{name}");
        let process = cx.process.clone();
        let root = process.namespace().root_fs().ok_or(Error::NoDevice)?;
        let cache = root.cache().clone();
        match process.unlink(path.as_bytes()) {
            Ok(()) | Err(Error::NotFound) => {}
            Err(e) => return Err(e),
        }
        let flags = OpenFlags::RDWR | OpenFlags::CREAT;
        let file = OpenFile::new(&process, path.as_bytes(), flags)?;
        let rights = Prot::READ | Prot::WRITE;
        let shared = MapFlags::SHARED;
        let map = process.mmap(VirtAddr(0), MAPPED, rights, shared, Some(file.fd), 0)?;
        if let Some(guard) = off {
            cache.lab().set(guard, false);
        }
        // The races begin between two pages.
        cache.set_folio_pages(1);
        let before = cache.lab().acted(guard);
        let scene = Scene { process: process.clone(), cache: cache.clone(), file, map };
        let found = play(&scene);
        cache.lab().observe(None);
        cache.set_folio_pages(cache.config().folio_pages);
        if let Some(guard) = off {
            cache.lab().set(guard, true);
        }
        process.munmap(map, MAPPED)?;
        let found = found?;
        let acted = cache.lab().acted(guard) - before;
        let right = found.byte == found.right;
        out!(cx, "{path}: byte {} is {:#04x}", found.place, found.byte);
        out!(cx, "{}", if right { ", as stored" } else { ", the store is lost" });
        out!(cx, "; guard {} acted {acted} times\n", guard.name());
        Ok(match (found.reached, right) {
            (false, _) => NOT_REACHED,
            (true, true) => 0,
            (true, false) => CORRUPTED,
        })
    }

    impl Scene {
        /// When the writer is at this point, another thread does this and ends.
        fn at(
            &self,
            point: Point,
            pos: u64,
            action: impl Fn(&Process) -> Result<()> + Send + Sync + 'static,
        ) -> Arc<AtomicBool> {
            let reached = Arc::new(AtomicBool::new(false));
            let (once, process, action) = (reached.clone(), self.process.clone(), Arc::new(action));
            self.cache.lab().observe(Some(Arc::new(move |p, _, at| {
                if p == point && at == pos && !once.swap(true, Ordering::SeqCst) {
                    let (process, action) = (process.clone(), action.clone());
                    let other = spawn("race", Priority::Normal, move || action(&process));
                    if let Err(e) = other.join() {
                        log::error!("race: the other thread: {e}");
                        once.store(false, Ordering::SeqCst);
                    }
                }
            })));
            reached
        }
        /// The byte as it is on disk.
        fn found(&self, reached: &AtomicBool, place: u64, right: u8) -> Result<Found> {
            let fd = self.file.fd;
            // Lost data may be told here already; what is on disk says more.
            if let Err(e) = self.process.fsync(fd) {
                log::warn!("race: fsync: {e}");
            }
            self.process.fadvise(fd, 0, 0, Advice::DontNeed)?;
            let mut byte = [0];
            self.process.pread(fd, &mut byte, place)?;
            Ok(Found { reached: reached.load(Ordering::SeqCst), place, byte: byte[0], right })
        }
    }

    /// Page 9 goes to disk and out of the cache.
    fn clean_page_9(p: &Process, fd: Fd) -> Result<()> {
        let wait = SyncRange::WAIT_BEFORE | SyncRange::WRITE | SyncRange::WAIT_AFTER;
        p.sync_file_range(fd, PAGE_9, 4096, wait)?;
        p.fadvise(fd, PAGE_9, 4096, Advice::DontNeed)
    }

    fn hole(scene: &Scene) -> Result<Found> {
        let (fd, map) = (scene.file.fd, scene.map);
        scene.process.ftruncate(fd, 40960)?;
        let reached = scene.at(Point::Copied, 0, move |p| {
            p.store(map.add(TAIL), b"X")?;
            clean_page_9(p, fd)
        });
        scene.process.pwrite(fd, [b'W'; PAGE_9 as usize + 1].as_slice(), 0)?;
        scene.found(&reached, TAIL, b'X')
    }

    fn preallocated(scene: &Scene) -> Result<Found> {
        let fd = scene.file.fd;
        scene.process.fallocate(fd, FallocateMode::empty(), 0, 40960)?;
        scene.process.pwrite(fd, b"X".as_slice(), TAIL)?;
        let reached = scene.at(Point::Copied, 0, move |p| clean_page_9(p, fd));
        scene.process.pwrite(fd, [b'W'; PAGE_9 as usize + 1].as_slice(), 0)?;
        scene.found(&reached, TAIL, b'X')
    }

    fn short_write(scene: &Scene) -> Result<Found> {
        const PLACE: u64 = 14336;
        let (p, fd, map) = (&scene.process, scene.file.fd, scene.map);
        p.ftruncate(fd, MAPPED as u64)?;
        // A buffer whose second half is not there.
        let anonymous = MapFlags::PRIVATE | MapFlags::ANONYMOUS;
        let buffer = p.mmap(VirtAddr(0), 16384, Prot::READ | Prot::WRITE, anonymous, None, 0)?;
        p.store(buffer, &[b'W'; 8192])?;
        p.munmap(buffer.add(8192), 8192)?;
        let reached = scene.at(Point::Copied, 4096, move |p| p.store(map.add(PLACE), b"M"));
        p.pwrite(fd, (buffer, 16384), 0)?;
        p.munmap(buffer, 8192)?;
        scene.found(&reached, PLACE, b'M')
    }
}
