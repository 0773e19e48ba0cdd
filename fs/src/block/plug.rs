//! Collecting what one caller submits, to sort it and merge neighbours.

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::queue::Queue;
use super::{Bio, BioFlags, DeviceInfo, Done, Op, SECTOR_SIZE};

/// Requests held back at most.
const LIMIT: usize = 128;
/// Bytes of them: so much is a good request, or several, whatever comes next, and the
/// device may begin.
const LIMIT_BYTES: u64 = 512 << 10;

/// Holds back one caller's reads and writes until it is dropped or flushed, then starts
/// them in the order of their sectors, contiguous ones of one kind as one request.
///
/// Nothing may wait for a request that lies in a plug, so: flush before waiting.
#[must_use = "a plug starts what it holds when it is dropped"]
pub struct Plug<'a> {
    queue: &'a Queue,
    held: Vec<Bio>,
    held_bytes: u64,
}

impl<'a> Plug<'a> {
    /// An empty plug before `queue`.
    pub fn new(queue: &'a Queue) -> Self {
        Self { queue, held: Vec::new(), held_bytes: 0 }
    }
    /// Take a request. Reads and writes are held back; others go on at once, after what is
    /// held.
    pub fn submit(&mut self, bio: Bio) {
        let core = &self.queue.core;
        if let Err(e) = core.check(&bio) {
            return bio.complete(Err(e));
        }
        let mergeable = matches!(bio.op, Op::Read | Op::Write)
            && !bio.flags.contains(BioFlags::PREFLUSH)
            && bio.length_bytes > 0;
        if !mergeable {
            self.flush();
            core.start_checked(bio);
            return core.kick();
        }
        self.held_bytes += bio.length_bytes;
        self.held.push(bio);
        if self.held.len() >= LIMIT || self.held_bytes >= LIMIT_BYTES {
            self.flush();
        }
    }
    /// Start everything held.
    pub fn flush(&mut self) {
        if self.held.is_empty() {
            return;
        }
        let core = &self.queue.core;
        let key = |bio: &Bio| (bio.op as u8, bio.sector);
        if !self.held.is_sorted_by_key(key) {
            self.held.sort_by_key(key);
        }
        self.held_bytes = 0;
        let mut run: Option<Run> = None;
        for bio in self.held.drain(..) {
            match &mut run {
                Some(r) if r.takes(&bio, &core.info) => {
                    core.counters.merged(bio.op);
                    r.append(bio);
                }
                _ => {
                    if let Some(ready) = run.replace(Run { bio, others: Vec::new() }) {
                        core.start_checked(ready.into_bio());
                    }
                }
            }
        }
        if let Some(last) = run {
            core.start_checked(last.into_bio());
        }
        core.kick();
    }
}

impl Drop for Plug<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

/// A request that grows at its end, and the callbacks of those that joined it.
struct Run {
    bio: Bio,
    others: Vec<Done>,
}

impl Run {
    fn takes(&self, next: &Bio, info: &DeviceInfo) -> bool {
        let bio = &self.bio;
        bio.op == next.op
            && bio.flags == next.flags
            && bio.sector.0 + bio.length_bytes / SECTOR_SIZE == next.sector.0
            && bio.segments.len() + next.segments.len() <= info.max_segments
            && bio.length_bytes + next.length_bytes <= info.max_bytes
    }
    fn append(&mut self, mut next: Bio) {
        self.bio.segments.append(&mut next.segments);
        self.bio.length_bytes += next.length_bytes;
        self.others.extend(next.done.take());
    }
    fn into_bio(self) -> Bio {
        let Self { mut bio, others } = self;
        if !others.is_empty() {
            let first = bio.done.take();
            bio.done = Some(Box::new(move |result| {
                for done in first.into_iter().chain(others) {
                    done(result);
                }
            }));
        }
        bio
    }
}
