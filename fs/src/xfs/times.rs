//! Times of access and modification, kept in memory until something logs them.
//!
//! Reading and writing change a file's times far more often than anybody asks for them on
//! disk. They change in memory at once, and go into the log with the next transaction of
//! the inode, or with one of their own when the file is synced (`fsync`, not `fdatasync`)
//! or leaves memory. A crash may lose them, never anything else.
//!
//! Locks: `ILOCK`.

use holdfast_sync::atomic::Ordering;

use super::inode::Inode;
use super::ondisk::inode::Flags;
use super::types::Timestamp;
use crate::Result;

/// A day, in seconds: an access time is never older than that by more.
const DAY: i64 = 24 * 60 * 60;

fn later(a: Timestamp, b: Timestamp) -> bool {
    (a.seconds, a.nanoseconds) > (b.seconds, b.nanoseconds)
}

impl Inode {
    /// The contents change now.
    pub fn note_modified(&self) {
        if self.mount().readonly() {
            return;
        }
        let now = self.mount().now();
        let mut state = self.state.write();
        state.core.mtime = now;
        state.core.ctime = now;
        drop(state);
        self.times_pending.store(true, Ordering::Release);
    }
    /// The contents are read now. The time is noted if the last one is not later than the
    /// last change, or a day old; never of a file that asks for none.
    pub fn note_accessed(&self) {
        if self.mount().readonly() || self.flags().contains(Flags::NOATIME) {
            return;
        }
        let now = self.mount().now();
        {
            let state = self.state.read();
            let core = &state.core;
            let current = later(core.atime, core.mtime) && later(core.atime, core.ctime);
            if current && now.seconds - core.atime.seconds < DAY {
                return;
            }
        }
        self.state.write().core.atime = now;
        self.times_pending.store(true, Ordering::Release);
    }
    /// Log the times if they changed in memory only.
    ///
    /// # Errors
    /// Read-only, shut down.
    pub fn flush_times(&self) -> Result<()> {
        if !self.times_pending.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        ip.times_mut();
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
}
