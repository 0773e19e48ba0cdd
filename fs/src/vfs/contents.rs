//! What changes a file's size or blocks, or makes files share contents; times; what a
//! file leaves behind when it is closed.
//!
//! `IOLOCK` is taken here, exclusive; of two files that of the lower number first. The
//! page cache's side of these operations is `iomap::ranges`.

use alloc::sync::Arc;
use alloc::vec;

use super::{ByteSink, ByteSource, FallocateMode, File, FileSystem, Inode};
use super::{OpenFlags, Place, SIZE_MAX};
use crate::iomap::{self, Change, Layout, Side};
use crate::pagecache::Mapping;
use crate::platform::Page;
use crate::xfs::{self, Flags};
use crate::{Error, Result};

/// A regular file and what is cached of it.
type Contents<'a> = (&'a Place, &'a Arc<Mapping>);

/// Bytes that one step of a copy moves.
const COPY_BYTES: usize = 128 << 10;

impl Place {
    /// The file system was not shut down.
    #[inline]
    pub(super) fn alive(&self) -> Result<()> {
        if self.fs.mount().is_shut_down() { Err(Error::Shutdown) } else { Ok(()) }
    }
    /// The contents are about to change. (The right to run as the file's owner stays, as
    /// for Linux's superuser: there is no other user.)
    #[inline]
    pub(super) fn modified(&self, mapping: &Mapping) {
        if mapping.modified() {
            self.inode.xfs().note_modified();
        }
    }
    /// What the log has of the inode is durable afterwards, and all data that was written.
    pub(super) fn make_durable(&self, data_only: bool) -> Result<()> {
        self.alive()?;
        if !data_only {
            self.inode.xfs().flush_times()?;
        }
        self.inode.xfs().log_force(data_only)?;
        self.fs.flush()
    }
    /// A writer closed the file.
    pub(super) fn closed(&self, mapping: &Mapping) {
        if self.fs.readonly() || self.inode.xfs().nlink() == 0 {
            return;
        }
        // Somebody else is at work on it: their end is as good.
        let Some(_contents) = self.inode.iolock.try_write() else { return };
        if !mapping.trim_on_close() {
            return;
        }
        if let Err(e) = self.inode.xfs().trim_eof() {
            log::debug!("{}: blocks behind its end stay: {e}", self.inode.ino());
        }
    }
}

impl FileSystem {
    /// Get back what space can be had: write what is dirty, and give up what lies ready
    /// behind the ends of files and for copies of shared blocks. No lock is held.
    ///
    /// # Errors
    /// Those of making it durable.
    pub(super) fn make_room(&self) -> Result<()> {
        self.write_all()?;
        for inode in self.inodes() {
            if let Some(_contents) = inode.iolock.try_write()
                && let Err(e) = inode.xfs().trim_eof()
            {
                log::debug!("{}: blocks behind its end stay: {e}", inode.ino());
            }
            if inode.xfs().holds_copies()
                && let Ok(mapping) = inode.mapping()
                && let Some(_contents) = inode.iolock.try_write()
                && let Some(dropped) = quietly(mapping, || inode.xfs().drop_copies())
                && let Err(e) = dropped
            {
                log::debug!("{}: what lies ready for copies stays: {e}", inode.ino());
            }
        }
        Ok(())
    }
}

/// Do this while nothing of a file is dirty or on its way to disk, and no store can make it
/// so; nothing if something is dirty. `IOLOCK` is held exclusive.
pub(super) fn quietly<T>(mapping: &Mapping, work: impl FnOnce() -> T) -> Option<T> {
    let _no_faults = mapping.invalidate_lock().write();
    // Not the other way round: what is dirty while we wait may be on its way afterwards, and
    // no longer dirty. The copies that its end moves into the file would be gone.
    if mapping.dirty_pages() > 0 {
        return None;
    }
    mapping.wait_writeback(0..u64::MAX);
    Some(work())
}

/// The side of a clone that `file` is.
fn side<'a>(place: &'a Place, mapping: &'a Arc<Mapping>, pos: u64) -> Side<'a, xfs::Inode> {
    Side { mapping, fs: place.inode.xfs(), pos }
}

/// Both files' `IOLOCK` exclusive, or only one if they are the same.
fn with_both<R>(a: &Inode, b: &Inode, work: impl FnOnce() -> R) -> R {
    let (first, second) = if a.ino() <= b.ino() { (a, b) } else { (b, a) };
    let _first = first.iolock.write();
    let _second = (!core::ptr::eq(first, second)).then(|| second.iolock.write());
    work()
}

impl File {
    /// Change the file's size.
    ///
    /// # Errors
    /// Too large; those of transactions; no space for what the last block needs.
    pub fn truncate(&self, size: u64) -> Result<()> {
        let (place, mapping) = self.changeable()?;
        if size > SIZE_MAX {
            return Err(Error::TooBig);
        }
        let _contents = place.inode.iolock.write();
        place.modified(mapping);
        iomap::truncate(mapping, &**place.inode.xfs(), size)
    }
    /// Change the flags and hints of the inode.
    ///
    /// # Errors
    /// No inode of a file system; those of [`xfs::Inode::set_hints`].
    pub fn set_hints(&self, new: &xfs::FsXattr) -> Result<()> {
        let place = self.node().place().ok_or(Error::NotTty)?;
        place.alive()?;
        let inode = &place.inode;
        let _contents = inode.iolock.write();
        inode.xfs().set_hints(new)
    }
    /// Change what blocks the file has. The modes' combination was checked.
    ///
    /// # Errors
    /// No space; ranges that cannot be; those of transactions.
    pub fn fallocate(&self, mode: FallocateMode, pos: u64, len: u64) -> Result<()> {
        let (place, mapping) = self.changeable()?;
        let kinds = mode.difference(FallocateMode::KEEP_SIZE);
        let keep = mode.contains(FallocateMode::KEEP_SIZE);
        let what = match kinds {
            FallocateMode::PUNCH_HOLE => Change::Punch,
            FallocateMode::ZERO_RANGE => Change::Zero,
            FallocateMode::COLLAPSE_RANGE => Change::Collapse,
            FallocateMode::INSERT_RANGE => Change::Insert,
            FallocateMode::UNSHARE_RANGE => Change::Unshare,
            _ => Change::Preallocate,
        };
        let change = || {
            let _contents = place.inode.iolock.write();
            place.modified(mapping);
            iomap::change(mapping, &**place.inode.xfs(), what, pos..pos + len, keep)?;
            if what == Change::Unshare {
                quietly(mapping, || place.inode.xfs().settle_reflink()).transpose()?;
            }
            Ok(())
        };
        match change() {
            Err(Error::NoSpace) => {
                place.fs.make_room()?;
                change()
            }
            done => done,
        }
    }
    /// What changed the file's blocks is durable afterwards, if every write to it is.
    ///
    /// # Errors
    /// Those of the log.
    pub fn settle(&self) -> Result<()> {
        if !self.flags().contains(OpenFlags::DSYNC) && !self.has_flag(Flags::SYNC) {
            return Ok(());
        }
        self.node().place().map_or(Ok(()), |place| place.make_durable(false))
    }
    /// The contents of a regular file on a file system that may change it.
    fn changeable(&self) -> Result<Contents<'_>> {
        let (place, mapping) = self.regular()?;
        place.alive()?;
        if place.fs.readonly() {
            return Err(Error::ReadOnly("mounted read-only"));
        }
        Ok((place, mapping))
    }
    /// The contents of this and another regular file of one file system.
    fn pair<'a>(&'a self, src: &'a Self) -> Result<(Contents<'a>, Contents<'a>)> {
        let (from, to) = (src.regular()?, self.changeable()?);
        if !Arc::ptr_eq(&from.0.fs, &to.0.fs) {
            return Err(Error::CrossDevice);
        }
        Ok((from, to))
    }
    /// Share `len` bytes (0: up to the end) of `src` from `src_pos` on, at `pos` here.
    ///
    /// # Errors
    /// Another file system, or one that cannot share; ranges that cannot be.
    pub fn clone_range(&self, src: &Self, src_pos: u64, pos: u64, len: u64) -> Result<()> {
        let ((from, source), (to, target)) = self.pair(src)?;
        let share = || {
            with_both(&from.inode, &to.inode, || {
                let (size, old) = (source.size(), target.size());
                to.modified(target);
                iomap::clone_range(&side(from, source, src_pos), &side(to, target, pos), len)?;
                let whole = (src_pos, pos) == (0, 0) && (len == 0 || len == size);
                match whole && size > 0 && size >= old {
                    true => to.inode.xfs().take_copy_hint(from.inode.xfs()),
                    false => Ok(()),
                }
            })
        };
        match share() {
            Err(Error::NoSpace) => {
                to.fs.make_room()?;
                share()
            }
            done => done,
        }
    }
    /// As [`File::clone_range`] if the bytes are equal: how many are shared; nothing if
    /// they differ.
    ///
    /// # Errors
    /// As [`File::clone_range`]; I/O errors.
    pub fn dedupe_range(
        &self,
        src: &Self,
        src_pos: u64,
        pos: u64,
        len: u64,
    ) -> Result<Option<u64>> {
        let ((from, source), (to, target)) = self.pair(src)?;
        with_both(&from.inode, &to.inode, || {
            iomap::dedupe_range(&side(from, source, src_pos), &side(to, target, pos), len)
        })
    }
    /// Copy bytes: share them where that can be. How many, fewer at the source's end.
    ///
    /// # Errors
    /// If nothing was copied: overlapping ranges of one file, and those of reading and
    /// writing.
    pub fn copy_range(&self, src: &Self, src_pos: u64, pos: u64, len: u64) -> Result<u64> {
        let ((from, source), (to, _)) = (src.regular()?, self.changeable()?);
        let len = len.min(source.size().saturating_sub(src_pos));
        if len == 0 {
            return Ok(0);
        }
        if pos > SIZE_MAX - len {
            return Err(Error::TooBig);
        }
        let same = Arc::ptr_eq(&from.inode, &to.inode);
        if same && src_pos < pos + len && pos < src_pos + len {
            return Err(Error::Invalid("a range cannot be copied onto itself"));
        }
        if self.clone_range(src, src_pos, pos, len).is_ok() {
            return Ok(len);
        }
        let mut buffer = vec![0; COPY_BYTES.min(len as usize)];
        let mut done = 0;
        while done < len {
            match self.copy_step(src, src_pos + done, pos + done, &mut buffer, len - done) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }
    fn copy_step(
        &self,
        src: &Self,
        from: u64,
        to: u64,
        buffer: &mut [u8],
        most: u64,
    ) -> Result<u64> {
        let want = buffer.len().min(most as usize);
        let mut sink = Taken { bytes: &mut buffer[..want], done: 0 };
        let n = src.read_at(from, &mut sink)?;
        let mut source = Given { bytes: &buffer[..n], done: 0 };
        let (_, done) = self.write_at(to, &mut source)?;
        Ok(done as u64)
    }
}

/// A buffer of ours that a read fills.
struct Taken<'a> {
    bytes: &'a mut [u8],
    done: usize,
}

impl ByteSink for Taken<'_> {
    fn put_bytes(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.bytes.len() - self.done);
        self.bytes[self.done..self.done + n].copy_from_slice(&bytes[..n]);
        self.done += n;
        n
    }
}

impl iomap::Sink for Taken<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.done
    }
    fn put(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        page.read(offset, &mut self.bytes[self.done..self.done + len]);
        self.done += len;
        len
    }
    fn put_zeros(&mut self, len: usize) -> usize {
        let n = len.min(self.remaining());
        self.bytes[self.done..self.done + n].fill(0);
        self.done += n;
        n
    }
    fn fault_in(&mut self) -> Result<()> {
        Ok(())
    }
}

/// A buffer of ours that a write takes.
struct Given<'a> {
    bytes: &'a [u8],
    done: usize,
}

impl ByteSource for Given<'_> {
    fn take_bytes(&mut self, bytes: &mut [u8]) -> usize {
        let n = bytes.len().min(self.bytes.len() - self.done);
        bytes[..n].copy_from_slice(&self.bytes[self.done..self.done + n]);
        self.done += n;
        n
    }
}

impl iomap::Source for Given<'_> {
    fn remaining(&self) -> usize {
        self.bytes.len() - self.done
    }
    fn take(&mut self, page: &Page, offset: usize, len: usize) -> usize {
        page.write(offset, &self.bytes[self.done..self.done + len]);
        self.done += len;
        len
    }
    fn revert(&mut self, len: usize) {
        self.done -= len;
    }
    fn fault_in(&mut self) -> Result<()> {
        Ok(())
    }
}
