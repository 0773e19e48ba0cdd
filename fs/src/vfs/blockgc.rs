//! What lies ready for writes and is not used is given back after a while: blocks allocated
//! ahead of the ends of files, blocks set aside for copies of shared ones.
//!
//! The end of a file's use in core gives them back, and so does a lack of space. A file that
//! stays open on a disk with room would keep them for good: hence this thread, which looks
//! at the inodes in core once in a lifetime of what lies ready. It leaves alone what is in
//! use: files with data that is dirty or on its way to disk, for which the space may have
//! been set aside, and files that somebody reads, writes or changes right now.
//!
//! Locks: `BLOCKGC` for the time of a round, so that an unmount does not find a file busy
//! that only the round holds; of each file `IOLOCK`, if it is free, then `INVAL`.

use alloc::sync::Arc;

use holdfast_sync::atomic::{AtomicBool, Ordering};
use holdfast_sync::thread::{JoinHandle, Priority, spawn};
use holdfast_sync::{Mutex, WaitQueue};

use super::contents::quietly;
use super::{FileSystem, Inode};
use crate::iomap::Layout;
use crate::locks;

/// The thread, and what it is told.
pub(super) struct BlockGc {
    /// Held for a round.
    pub(super) round: Mutex<()>,
    /// It is to end; nobody starts another.
    over: AtomicBool,
    wake: WaitQueue,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl BlockGc {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            round: Mutex::new(&locks::BLOCKGC, ()),
            over: AtomicBool::new(false),
            wake: WaitQueue::new(),
            thread: Mutex::new(&locks::STATE, None),
        })
    }
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
    /// End the thread.
    pub(super) fn stop(&self) {
        self.over.store(true, Ordering::SeqCst);
        self.wake.wake_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
    }
}

impl FileSystem {
    /// How long what lies ready for writes stays so, in seconds, where nobody says anything:
    /// Linux's `speculative_prealloc_lifetime`.
    pub const PREALLOC_LIFETIME_S: u64 = 300;

    /// Give back what lies ready for writes once in `lifetime_ns`, until the file system is
    /// unmounted.
    pub fn start_blockgc(self: &Arc<Self>, lifetime_ns: u64) {
        let gc = self.blockgc.clone();
        let mut thread = gc.thread.lock();
        if self.readonly() || thread.is_some() || gc.is_over() {
            return;
        }
        // One that is dropped without being unmounted is not held by its thread.
        let (fs, own) = (Arc::downgrade(self), gc.clone());
        let main = move || {
            while own.wake.wait_timeout(lifetime_ns, || own.is_over().then_some(())).is_none() {
                let Some(fs) = fs.upgrade() else { return };
                fs.collect_unused();
            }
        };
        *thread = Some(spawn("blockgc", Priority::Normal, main));
    }
    /// Give back what lies ready for writes to files that are clean and that nobody is just
    /// at work on.
    pub fn collect_unused(&self) {
        let _round = self.blockgc.round.lock();
        if self.is_unmounted() {
            return;
        }
        for inode in self.inodes() {
            if self.blockgc.is_over() || self.mount.is_shut_down() {
                return;
            }
            collect(&inode);
        }
    }
}

/// Give back what one file does not use.
fn collect(inode: &Inode) {
    let Ok(mapping) = inode.mapping() else { return };
    let xfs = inode.xfs();
    if !(xfs.holds_ahead() || xfs.holds_copies()) || !mapping.is_settled() {
        return;
    }
    let Some(_contents) = inode.iolock.try_write() else { return };
    // No store makes it dirty meanwhile.
    let collected = quietly(mapping, || {
        let trimmed = if xfs.holds_ahead() { xfs.trim_eof() } else { Ok(()) };
        let dropped = if xfs.holds_copies() { xfs.drop_copies() } else { Ok(()) };
        trimmed.and(dropped)
    });
    if let Some(Err(e)) = collected {
        log::debug!("{}: what lies ready for writes stays: {e}", inode.ino());
    }
}
