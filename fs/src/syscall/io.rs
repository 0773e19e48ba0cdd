//! Reading, writing, seeking, durability.

use core::slice;

use super::buffer::{IoSink, IoSource, leaving};
use super::{Advice, Buf, BufMut, Fd, Process, RawTransfer, Whence};
use crate::block::Op;
use crate::iomap::{Sink, Source};
use crate::mm::MappedFile;
use crate::platform::PAGE_SIZE;
use crate::vfs::{BlockNode, File, Node, SIZE_MAX, WriteFlags};
use crate::xfs::FileType;
use crate::{Error, Result};

bitflags::bitflags! {
    /// What `sync_file_range` does: Linux's numbers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SyncRange: u32 {
        /// Wait for what is under writeback.
        const WAIT_BEFORE = 1;
        /// Start writing what is dirty.
        const WRITE = 2;
        /// Wait for that.
        const WAIT_AFTER = 4;
    }
}

/// A position that a file can have.
fn position(pos: u64) -> Result<u64> {
    if pos > SIZE_MAX { Err(Error::Invalid("a negative position")) } else { Ok(pos) }
}

/// Positions mean something in this file.
fn seekable(file: &File) -> Result<()> {
    if file.seekable() { Ok(()) } else { Err(Error::IllegalSeek) }
}

impl Process {
    /// Read at the file's position.
    ///
    /// # Errors
    /// Linux's.
    pub fn read<'a>(&self, fd: Fd, buf: impl Into<BufMut<'a>>) -> Result<usize> {
        self.readv(fd, slice::from_mut(&mut buf.into()))
    }
    /// Read at the file's position into several buffers.
    ///
    /// # Errors
    /// Linux's.
    pub fn readv(&self, fd: Fd, bufs: &mut [BufMut<'_>]) -> Result<usize> {
        let file = self.file(fd)?;
        let done = file.read(&mut IoSink::new(&self.space, bufs)?);
        leaving();
        done
    }
    /// Read at `pos`.
    ///
    /// # Errors
    /// Linux's.
    #[inline]
    pub fn pread<'a>(&self, fd: Fd, buf: impl Into<BufMut<'a>>, pos: u64) -> Result<usize> {
        self.preadv(fd, slice::from_mut(&mut buf.into()), pos)
    }
    /// Read at `pos` into several buffers.
    ///
    /// # Errors
    /// Linux's.
    pub fn preadv(&self, fd: Fd, bufs: &mut [BufMut<'_>], pos: u64) -> Result<usize> {
        let file = self.file(fd)?;
        seekable(&file)?;
        let done = file.read_at(position(pos)?, &mut IoSink::new(&self.space, bufs)?);
        leaving();
        done
    }
    /// Write at the file's position.
    ///
    /// # Errors
    /// Linux's.
    pub fn write<'a>(&self, fd: Fd, buf: impl Into<Buf<'a>>) -> Result<usize> {
        self.writev(fd, &[buf.into()])
    }
    /// Write several buffers at the file's position.
    ///
    /// # Errors
    /// Linux's.
    pub fn writev(&self, fd: Fd, bufs: &[Buf<'_>]) -> Result<usize> {
        let file = self.file(fd)?;
        let done = file.write(&mut IoSource::new(&self.space, bufs)?);
        leaving();
        done
    }
    /// Write at `pos` (at the end, if the file appends).
    ///
    /// # Errors
    /// Linux's.
    pub fn pwrite<'a>(&self, fd: Fd, buf: impl Into<Buf<'a>>, pos: u64) -> Result<usize> {
        self.pwritev(fd, &[buf.into()], pos)
    }
    /// Write several buffers at `pos`.
    ///
    /// # Errors
    /// Linux's.
    pub fn pwritev(&self, fd: Fd, bufs: &[Buf<'_>], pos: u64) -> Result<usize> {
        let file = self.file(fd)?;
        seekable(&file)?;
        let done = file.write_at(position(pos)?, &mut IoSource::new(&self.space, bufs)?);
        leaving();
        done.map(|(_, done)| done)
    }
    /// Write several buffers at `pos` (`None`: at the file's position), this once with
    /// `flags` too: Linux's `pwritev2`.
    ///
    /// # Errors
    /// Linux's.
    pub fn pwritev2(
        &self,
        fd: Fd,
        bufs: &[Buf<'_>],
        pos: Option<u64>,
        flags: WriteFlags,
    ) -> Result<usize> {
        let file = self.file(fd)?;
        let mut source = IoSource::new(&self.space, bufs)?;
        let done = match pos {
            Some(pos) => {
                seekable(&file)?;
                file.write_as(position(pos)?, &mut source, flags).map(|(_, done)| done)
            }
            None => file.write_next_as(&mut source, flags),
        };
        leaving();
        done
    }
    /// Read into several buffers at `pos` (`None`: at the file's position): Linux's
    /// `preadv2`.
    ///
    /// # Errors
    /// Linux's.
    pub fn preadv2(
        &self,
        fd: Fd,
        bufs: &mut [BufMut<'_>],
        pos: Option<u64>,
        flags: WriteFlags,
    ) -> Result<usize> {
        if !WriteFlags::HIPRI.contains(flags) {
            return Err(Error::NotSupported("no such way to read"));
        }
        match pos {
            Some(pos) => self.preadv(fd, bufs, pos),
            None => self.readv(fd, bufs),
        }
    }
    /// Move the file's position. The new one.
    ///
    /// # Errors
    /// Linux's.
    pub fn lseek(&self, fd: Fd, offset: i64, whence: Whence) -> Result<u64> {
        self.opened(fd)?.seek(offset, whence)
    }
    /// Make a file's contents and metadata durable. Reports each writeback error once
    /// per open file.
    ///
    /// # Errors
    /// Linux's.
    pub fn fsync(&self, fd: Fd) -> Result<()> {
        let done = self.opened(fd)?.sync();
        leaving();
        done
    }
    /// Make a file's contents durable, and what is needed to read them back.
    ///
    /// # Errors
    /// Linux's.
    pub fn fdatasync(&self, fd: Fd) -> Result<()> {
        let done = self.opened(fd)?.sync_data();
        leaving();
        done
    }
    /// Write everything that is dirty. Errors are told by `fsync` and `syncfs`.
    pub fn sync(&self) {
        if let Some(fs) = self.ns.root_fs()
            && let Err(e) = fs.write_all()
        {
            log::warn!("sync: {e}");
        }
    }
    /// Write everything that is dirty on the file system of an open file.
    ///
    /// # Errors
    /// A writeback error that was not reported yet.
    pub fn syncfs(&self, fd: Fd) -> Result<()> {
        match self.opened(fd)?.node().place() {
            Some(place) => place.fs.sync_all(),
            None => Ok(()),
        }
    }
    /// Start, or wait for, writing `len` bytes from `pos` on; 0: to the end.
    ///
    /// # Errors
    /// Linux's.
    pub fn sync_file_range(&self, fd: Fd, pos: u64, len: u64, flags: SyncRange) -> Result<()> {
        let file = self.opened(fd)?;
        if flags.bits() & !SyncRange::all().bits() != 0 {
            return Err(Error::Invalid("unknown flags"));
        }
        let end = pos.checked_add(len).filter(|end| *end <= SIZE_MAX);
        let end = end.ok_or(Error::Invalid("a negative range"))?;
        let range = pos..if len == 0 { u64::MAX } else { end };
        let wait_before = flags.contains(SyncRange::WAIT_BEFORE);
        let wait_after = flags.contains(SyncRange::WAIT_AFTER);
        file.sync_file_range(range, wait_before, flags.contains(SyncRange::WRITE), wait_after)
    }
    /// Say how `len` bytes from `pos` on will be used; 0: to the end.
    ///
    /// # Errors
    /// Linux's.
    pub fn fadvise(&self, fd: Fd, pos: u64, len: u64, advice: Advice) -> Result<()> {
        let file = self.opened(fd)?;
        seekable(&file)?;
        let start = position(pos)?;
        if len > SIZE_MAX {
            return Err(Error::Invalid("a negative length"));
        }
        let end = if len == 0 { u64::MAX } else { start.saturating_add(len) };
        match advice {
            Advice::Normal => file.readahead().lock().normal(),
            Advice::Random => file.readahead().lock().random(),
            Advice::Sequential => file.readahead().lock().sequential(),
            Advice::WillNeed => file.will_need(start..end),
            Advice::DontNeed => file.drop_cached(start..end),
            Advice::NoReuse => {}
        }
        Ok(())
    }

    // ---- raw transfers

    /// Read from a block device past every cache, with `plan.depth` requests of
    /// `plan.request_bytes` in flight. Each request's data is copied, once, to the start
    /// of `buf`, in order. The bytes read.
    ///
    /// # Errors
    /// Not a block device; not aligned; a buffer shorter than a request; the device's.
    pub fn raw_read<'a>(
        &self,
        fd: Fd,
        plan: RawTransfer,
        buf: impl Into<BufMut<'a>>,
    ) -> Result<u64> {
        let file = self.opened(fd)?;
        let mut buf = buf.into();
        raw_device(&file, plan, buf.len(), file.flags().reads())?.transfer(
            Op::Read,
            plan,
            &mut |pages, len| {
                let mut part = buf.first(len);
                let mut sink = IoSink::new(&self.space, slice::from_mut(&mut part))?;
                let mut pages = pages.iter();
                while sink.remaining() > 0 {
                    let Some(page) = pages.next() else { break };
                    let n = PAGE_SIZE.min(sink.remaining());
                    let mut at = sink.put(page, 0, n);
                    while at < n {
                        sink.fault_in()?;
                        at += sink.put(page, at, n - at);
                    }
                }
                Ok(())
            },
        )
    }
    /// Write to a block device past every cache, likewise: each request's data is copied
    /// from the start of `buf`. The bytes written.
    ///
    /// # Errors
    /// As [`Process::raw_read`].
    pub fn raw_write<'a>(&self, fd: Fd, plan: RawTransfer, buf: impl Into<Buf<'a>>) -> Result<u64> {
        let file = self.opened(fd)?;
        let buf = buf.into();
        raw_device(&file, plan, buf.len(), file.flags().writes())?.transfer(
            Op::Write,
            plan,
            &mut |pages, len| {
                let part = buf.first(len);
                let mut source = IoSource::new(&self.space, slice::from_ref(&part))?;
                let mut pages = pages.iter();
                while source.remaining() > 0 {
                    let Some(page) = pages.next() else { break };
                    let n = PAGE_SIZE.min(source.remaining());
                    let mut at = source.take(page, 0, n);
                    while at < n {
                        source.fault_in()?;
                        at += source.take(page, at, n - at);
                    }
                }
                Ok(())
            },
        )
    }
}

/// The block device behind a file, if the plan can be carried out on it.
fn raw_device(file: &File, plan: RawTransfer, buf_len: usize, allowed: bool) -> Result<&BlockNode> {
    if !allowed {
        return Err(Error::BadDescriptor);
    }
    if file.node().file_type() != FileType::BlockDevice {
        return Err(Error::NotSupported("not a block device"));
    }
    if plan.request_bytes > buf_len {
        return Err(Error::Invalid("the buffer is shorter than a request"));
    }
    match file.node() {
        Node::Device(device) => device.block().ok_or(Error::NoDevice),
        _ => Err(Error::NoDevice),
    }
}
