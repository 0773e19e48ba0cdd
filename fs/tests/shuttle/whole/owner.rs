//! Who owns every second region of a file, and knows what is in it, now and after a power
//! cut.

use super::{STEPS, Stage, below, open, range, read};
use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{Advice, FallocateMode, Fd, MapFlags, Prot};

/// Bytes of a region: no multiple of a block's, so that each block at a border has two
/// writers.
const REGION: usize = 3000;
/// Regions of each owner.
const REGIONS: usize = 4;
pub const OWNERS: usize = 2;
pub const SHARED_BYTES: usize = REGION * REGIONS * OWNERS;

/// What was done to bytes of a region: all of them have this value since.
struct Change {
    region: usize,
    from: usize,
    to: usize,
    value: u8,
}

/// What was durable when something was asked of the device.
struct Promise {
    /// Requests that had been submitted.
    submitted: u64,
    /// Changes that had been made.
    changes: usize,
}

pub struct Owner {
    stage: Stage,
    number: usize,
    fd: Fd,
    map: VirtAddr,
    changes: Vec<Change>,
    promises: Vec<Promise>,
    /// A clone of the file, and the changes that had been made then.
    clone: Option<(Fd, usize)>,
}

/// What regions hold after these changes.
fn after(changes: &[Change]) -> Vec<Vec<u8>> {
    let mut regions = vec![vec![0; REGION]; REGIONS];
    for change in changes {
        regions[change.region][change.from..change.to].fill(change.value);
    }
    regions
}

impl Owner {
    pub fn new(stage: &Stage, number: usize) -> Self {
        let p = &stage.v.process;
        let fd = open(p, "/shared");
        let rights = Prot::READ | Prot::WRITE;
        let map = p.mmap(VirtAddr(0), SHARED_BYTES, rights, MapFlags::SHARED, Some(fd), 0);
        Self {
            stage: stage.clone(),
            number,
            fd,
            map: map.expect("it is mapped"),
            changes: Vec::new(),
            promises: Vec::new(),
            clone: None,
        }
    }
    /// Where the byte `at` of a region is in the file.
    fn place(&self, region: usize, at: usize) -> usize {
        (region * OWNERS + self.number) * REGION + at
    }
    fn step(&mut self) {
        let p = self.stage.v.process.clone();
        let region = below(REGIONS);
        let (from, to) = range(REGION - 1);
        let (pos, len) = (self.place(region, from) as u64, to - from);
        let version = self.changes.len() as u8 + 1;
        let mut change = |value| self.changes.push(Change { region, from, to, value });
        match below(12) {
            0..3 => {
                change(version);
                assert_eq!(p.pwrite(self.fd, &vec![version; len][..], pos), Ok(len));
            }
            3..6 => {
                change(version);
                p.store(self.map.add(pos), &vec![version; len]).expect("it is mapped");
            }
            6 => {
                change(0);
                let mode = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
                p.fallocate(self.fd, mode, pos, len as u64).expect("a hole");
            }
            7 => {
                change(0);
                let mode = FallocateMode::ZERO_RANGE | FallocateMode::KEEP_SIZE;
                p.fallocate(self.fd, mode, pos, len as u64).expect("zeros");
            }
            8 => self.clone_all(),
            9 => {
                p.fdatasync(self.fd).expect("it is durable");
                let submitted = self.stage.trace.submitted();
                self.promises.push(Promise { submitted, changes: self.changes.len() });
            }
            10 => p.fadvise(self.fd, 0, 0, Advice::DontNeed).expect("it is a file"),
            _ => {
                let mut loaded = vec![0; len];
                p.load(self.map.add(pos), &mut loaded).expect("it is mapped");
                assert!(loaded == after(&self.changes)[region][from..to], "loads at {pos}");
            }
        }
        let now = read(&p, self.fd, pos as usize, len);
        assert!(now == after(&self.changes)[region][from..to], "read at {pos}");
    }
    /// Share the file's blocks: what is written next is written elsewhere.
    fn clone_all(&mut self) {
        let p = self.stage.v.process.clone();
        self.check_clone();
        let fd = open(&p, &format!("/clone-{}", self.number));
        p.ftruncate(fd, 0).expect("it is cut");
        p.ficlone(fd, self.fd).expect("it is shared");
        self.clone = Some((fd, self.changes.len()));
        self.check_clone();
    }
    fn check_clone(&self) {
        if let Some((fd, then)) = self.clone {
            self.check(fd, &self.changes[..then], "the clone");
        }
    }
    fn check(&self, fd: Fd, changes: &[Change], what: &str) {
        for (n, region) in after(changes).iter().enumerate() {
            let at = self.place(n, 0);
            assert!(read(&self.stage.v.process, fd, at, REGION) == *region, "{what} at {at}");
        }
    }
    pub fn work(mut self) -> Self {
        (0..STEPS).for_each(|_| self.step());
        self
    }
    /// Everything is as it was left.
    pub fn finish(&self) {
        self.check(self.fd, &self.changes, "the file");
        self.check_clone();
    }
    /// Is the file that was found after a power cut, before which so many requests had been
    /// submitted, what it may be? Each byte is what was promised, or what it became later.
    pub fn may_be(&self, found: &[u8], submitted: u64) {
        let kept = self.promises.iter().rev().find(|promise| promise.submitted <= submitted);
        let Some(kept) = kept else { return };
        assert_eq!(found.len(), SHARED_BYTES, "the size was durable");
        let (before, later) = self.changes.split_at(kept.changes);
        for (n, region) in after(before).iter().enumerate() {
            for (at, &byte) in region.iter().enumerate() {
                let byte_found = found[self.place(n, at)];
                let became = |c: &Change| {
                    c.region == n && (c.from..c.to).contains(&at) && c.value == byte_found
                };
                assert!(
                    byte_found == byte || later.iter().any(became),
                    "byte {} is {byte_found}, and {byte} was durable",
                    self.place(n, at)
                );
            }
        }
    }
}
