//! An open file.

use alloc::sync::Arc;
use core::ops::Range;

use holdfast_sync::Mutex;
use holdfast_sync::atomic::{AtomicU32, Ordering};

use super::{ByteSink, ByteSource, DeviceFile, Dirent, Inode, Namespace, Node, Place, SIZE_MAX};
use super::{Stat, directory};
use crate::mm::{MappedFile, Prot};
use crate::pagecache::{ErrSeq, Mapping, Readahead};
use crate::platform::PAGE_SIZE;
use crate::xfs::{FileType, Flags};
use crate::{Error, Result, iomap, locks};

bitflags::bitflags! {
    /// How a file is opened: Linux's numbers on x86-64.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct OpenFlags: u32 {
        /// For writing only; neither this nor `RDWR`: for reading only.
        const WRONLY = 0o1;
        /// For both.
        const RDWR = 0o2;
        /// Make the file if it does not exist.
        const CREAT = 0o100;
        /// With `CREAT`: it must not exist.
        const EXCL = 0o200;
        /// Ignored.
        const NOCTTY = 0o400;
        /// Cut the file to nothing.
        const TRUNC = 0o1000;
        /// Every write goes to the end.
        const APPEND = 0o2000;
        /// Ignored for files.
        const NONBLOCK = 0o4000;
        /// Every write is durable, with what is needed to read it back.
        const DSYNC = 0o10000;
        /// Past the page cache.
        const DIRECT = 0o40000;
        /// Ignored.
        const LARGEFILE = 0o100000;
        /// It must be a directory.
        const DIRECTORY = 0o200000;
        /// The last component must not be a symbolic link.
        const NOFOLLOW = 0o400000;
        /// Ignored: access times are not kept.
        const NOATIME = 0o1000000;
        /// Closed when the process executes another program.
        const CLOEXEC = 0o2000000;
        /// Every write is durable, with all metadata.
        const SYNC = 0o4010000;
        /// Only a place in the tree, not its contents.
        const PATH = 0o10000000;
        /// A file without a name.
        const TMPFILE = 0o20200000;
    }
}

impl OpenFlags {
    /// For reading only.
    pub const RDONLY: Self = Self::empty();
    /// Those that `fcntl` can change afterwards.
    pub const CHANGEABLE: Self =
        Self::APPEND.union(Self::NONBLOCK).union(Self::DIRECT).union(Self::NOATIME);

    const fn access(self) -> u32 {
        self.bits() & 3
    }
    /// May the file be read?
    pub const fn reads(self) -> bool {
        matches!(self.access(), 0 | 2) && !self.contains(Self::PATH)
    }
    /// May the file be written?
    pub const fn writes(self) -> bool {
        matches!(self.access(), 1 | 2) && !self.contains(Self::PATH)
    }
}

bitflags::bitflags! {
    /// How one call reads or writes: Linux's `RWF_` numbers.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct WriteFlags: u32 {
        /// Ignored: nobody polls.
        const HIPRI = 0x1;
        /// As with [`OpenFlags::DSYNC`].
        const DSYNC = 0x2;
        /// As with [`OpenFlags::SYNC`].
        const SYNC = 0x4;
        /// Rather fail than wait: not supported.
        const NOWAIT = 0x8;
        /// As with [`OpenFlags::APPEND`].
        const APPEND = 0x10;
    }
}

/// What a seek is relative to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The start.
    Set,
    /// The present position.
    Cur,
    /// The end.
    End,
    /// The first data at or after the offset.
    Data,
    /// The first hole at or after the offset.
    Hole,
}

/// An open file: shared by the descriptors that `dup` made of one `open`.
pub struct File {
    node: Node,
    flags: AtomicU32,
    /// Where the next `read` or `write` happens; held while it does.
    position: Mutex<u64>,
    readahead: Mutex<Readahead>,
    /// The writeback errors that were reported through this open file.
    errors: Mutex<ErrSeq>,
}

impl File {
    /// Open what a path led to.
    ///
    /// # Errors
    /// A directory for writing; a read-only file system for writing; what cannot be
    /// opened at all.
    pub fn open(node: Node, flags: OpenFlags) -> Result<Arc<Self>> {
        let file_type = node.file_type();
        if !flags.contains(OpenFlags::PATH) {
            match file_type {
                FileType::Directory if flags.writes() => return Err(Error::IsDirectory),
                FileType::Directory | FileType::Regular => {}
                FileType::Symlink => return Err(Error::Loop),
                // A node on disk whose device nobody registered.
                _ if node.place().is_some() => return Err(Error::NoData),
                _ => {}
            }
            if flags.writes()
                && let Some(place) = node.place()
            {
                if place.fs.readonly() {
                    return Err(Error::ReadOnly("mounted read-only"));
                }
                check_openable(&place.inode, flags)?;
            }
        }
        if let Some(Ok(mapping)) = node.place().map(|p| p.inode.mapping()) {
            mapping.forget_times();
        }
        let errors = match &node {
            Node::Inode(p) => p.inode.mapping().map(|m| m.error_sample()).unwrap_or_default(),
            _ => ErrSeq::default(),
        };
        Ok(Arc::new(Self {
            node,
            flags: AtomicU32::new(flags.bits()),
            position: Mutex::new(&locks::FILE_POS, 0),
            readahead: Mutex::new(&locks::STATE, Readahead::default()),
            errors: Mutex::new(&locks::STATE, errors),
        }))
    }
    /// What is open.
    pub fn node(&self) -> &Node {
        &self.node
    }
    /// How it was opened.
    #[inline]
    pub fn flags(&self) -> OpenFlags {
        OpenFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }
    /// Change what can be changed afterwards.
    pub fn set_flags(&self, flags: OpenFlags) {
        let keep = self.flags().difference(OpenFlags::CHANGEABLE);
        let new = keep | flags.intersection(OpenFlags::CHANGEABLE);
        self.flags.store(new.bits(), Ordering::Relaxed);
    }
    /// The inode, if the file is one on a file system.
    pub fn inode(&self) -> Option<&Arc<Inode>> {
        self.node.place().map(|p| &p.inode)
    }
    /// Has the inode this flag?
    pub(crate) fn has_flag(&self, flag: Flags) -> bool {
        self.inode().is_some_and(|inode| inode.xfs.flags().contains(flag))
    }
    /// The place, with its contents, of a regular file.
    #[inline]
    pub(super) fn regular(&self) -> Result<(&Place, &Arc<Mapping>)> {
        match &self.node {
            Node::Inode(place) => Ok((place, place.inode.mapping()?)),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }
    /// The cached contents of a regular file.
    ///
    /// # Errors
    /// It is none.
    pub fn mapping(&self) -> Result<&Arc<Mapping>> {
        self.regular().map(|(_, mapping)| mapping)
    }
    fn device(&self) -> Option<&Arc<dyn DeviceFile>> {
        match &self.node {
            Node::Device(device) => Some(device),
            _ => None,
        }
    }
    /// Does the file have positions that `pread` and `lseek` can name?
    pub fn seekable(&self) -> bool {
        self.device().is_none_or(|d| d.size().is_some() || d.seeks_nowhere())
    }
    /// What `stat` tells.
    pub fn stat(&self) -> Stat {
        self.node.stat()
    }

    // ---- contents

    /// Read at `pos`.
    ///
    /// # Errors
    /// Not open for reading, a directory, and those of the contents.
    #[inline]
    pub fn read_at(&self, pos: u64, sink: &mut dyn ByteSink) -> Result<usize> {
        let flags = self.flags();
        if !flags.reads() {
            return Err(Error::BadDescriptor);
        }
        let place = match &self.node {
            Node::Inode(place) => place,
            Node::Device(device) => return device.read(pos, sink),
            Node::Devices(_) | Node::EmptyRoot => return Err(Error::IsDirectory),
        };
        let mapping = place.inode.mapping()?;
        place.alive()?;
        if mapping.first_access() && !flags.contains(OpenFlags::NOATIME) {
            place.inode.xfs.note_accessed();
        }
        let _contents = place.inode.iolock.read();
        if flags.contains(OpenFlags::DIRECT) {
            return iomap::direct_read(mapping, pos, sink);
        }
        iomap::read(mapping, &self.readahead, pos, sink)
    }
    /// Write at `pos`, or at the end if the file appends. Where the write began, and how
    /// many bytes were taken.
    ///
    /// # Errors
    /// Not open for writing, too large, and those of the contents.
    pub fn write_at(&self, pos: u64, source: &mut dyn ByteSource) -> Result<(u64, usize)> {
        self.write_as(pos, source, WriteFlags::empty())
    }
    /// As [`File::write_at`], this once with these flags too.
    ///
    /// # Errors
    /// As [`File::write_at`]; not supported.
    pub fn write_as(
        &self,
        pos: u64,
        source: &mut dyn ByteSource,
        how: WriteFlags,
    ) -> Result<(u64, usize)> {
        let flags = self.flags();
        if !flags.writes() {
            return Err(Error::BadDescriptor);
        }
        if how.bits() & !WriteFlags::all().bits() != 0 || how.contains(WriteFlags::NOWAIT) {
            return Err(Error::NotSupported("no such way to write"));
        }
        let durable = flags.contains(OpenFlags::DSYNC)
            || how.intersects(WriteFlags::DSYNC | WriteFlags::SYNC);
        if let Some(device) = self.device() {
            let done = device.write(pos, source)?;
            if durable && device.size().is_some() {
                device.sync()?;
            }
            return Ok((pos, done));
        }
        let (place, mapping) = self.regular()?;
        let durable = durable || place.inode.xfs.flags().contains(Flags::SYNC);
        if source.remaining() == 0 {
            return Ok((pos, 0));
        }
        let append = flags.contains(OpenFlags::APPEND) || how.contains(WriteFlags::APPEND);
        let at = (!append).then_some(pos);
        let (pos, done) = match self.write_locked(place, mapping, at, source) {
            Err(Error::NoSpace) => {
                // What was promised for dirty data beyond what it takes, and what lies
                // ready behind the ends of files, can be had back.
                place.fs.make_room()?;
                self.write_locked(place, mapping, at, source)?
            }
            done => done?,
        };
        if durable {
            let all = flags.contains(OpenFlags::SYNC) || how.contains(WriteFlags::SYNC);
            self.sync_range_of(place, mapping, pos..pos + done as u64, !all)?;
        }
        Ok((pos, done))
    }
    /// Write, with `IOLOCK` as it has to be held; `None`: at the end.
    fn write_locked(
        &self,
        place: &Place,
        mapping: &Arc<Mapping>,
        at: Option<u64>,
        source: &mut dyn ByteSource,
    ) -> Result<(u64, usize)> {
        place.alive()?;
        let len = source.remaining() as u64;
        let direct = self.flags().contains(OpenFlags::DIRECT);
        if let Some(pos) = at.filter(|_| direct) {
            check_end(pos, len)?;
            let _contents = place.inode.iolock.read();
            if iomap::direct_write_shares(mapping, pos, len) {
                place.modified(mapping);
                return Ok((pos, iomap::direct_write(mapping, pos, source)?));
            }
        }
        let _contents = place.inode.iolock.write();
        let pos = at.unwrap_or_else(|| mapping.size());
        check_end(pos, len)?;
        place.modified(mapping);
        let done = if direct {
            iomap::direct_write(mapping, pos, source)?
        } else {
            iomap::write(mapping, pos, source)?
        };
        Ok((pos, done))
    }
    /// Read at the file's position and move it.
    ///
    /// # Errors
    /// As [`File::read_at`].
    pub fn read(&self, sink: &mut dyn ByteSink) -> Result<usize> {
        if !self.seekable() {
            return self.read_at(0, sink);
        }
        let mut position = self.position.lock();
        let done = self.read_at(*position, sink)?;
        *position += done as u64;
        Ok(done)
    }
    /// Write at the file's position and move it behind what was written.
    ///
    /// # Errors
    /// As [`File::write_at`].
    pub fn write(&self, source: &mut dyn ByteSource) -> Result<usize> {
        self.write_next_as(source, WriteFlags::empty())
    }
    /// As [`File::write`], this once with these flags too.
    ///
    /// # Errors
    /// As [`File::write_as`].
    pub fn write_next_as(&self, source: &mut dyn ByteSource, how: WriteFlags) -> Result<usize> {
        if !self.seekable() {
            return self.write_as(0, source, how).map(|(_, done)| done);
        }
        let mut position = self.position.lock();
        let (start, done) = self.write_as(*position, source, how)?;
        *position = start + done as u64;
        Ok(done)
    }
    /// Move the position.
    ///
    /// # Errors
    /// What cannot seek; a position that cannot be; nothing to find.
    pub fn seek(&self, offset: i64, whence: Whence) -> Result<u64> {
        if let Some(device) = self.device()
            && device.size().is_none()
        {
            return if device.seeks_nowhere() { Ok(0) } else { Err(Error::IllegalSeek) };
        }
        let mut position = self.position.lock();
        let from = match whence {
            Whence::Set => 0,
            Whence::Cur => *position,
            Whence::End => self.seek_end()?,
            Whence::Data | Whence::Hole => {
                *position = self.seek_extent(offset, whence == Whence::Data)?;
                return Ok(*position);
            }
        };
        let new = from.checked_add_signed(offset).filter(|p| *p <= SIZE_MAX);
        *position = new.ok_or(Error::Invalid("a position before the start or beyond the limit"))?;
        Ok(*position)
    }
    fn seek_end(&self) -> Result<u64> {
        match (&self.node, self.device().and_then(|d| d.size())) {
            (_, Some(size)) => Ok(size),
            (Node::Inode(place), _) => Ok(place.inode.size()),
            _ => Ok(0),
        }
    }
    fn seek_extent(&self, offset: i64, data: bool) -> Result<u64> {
        let offset = u64::try_from(offset).map_err(|_| Error::NoData)?;
        let Ok((place, mapping)) = self.regular() else {
            // Everything else is all data, with a hole at its end.
            let size = self.seek_end()?;
            return match offset < size {
                true => Ok(if data { offset } else { size }),
                false => Err(Error::NoData),
            };
        };
        let _contents = place.inode.iolock.read();
        if offset >= mapping.size() {
            return Err(Error::NoData);
        }
        if data { iomap::seek_data(mapping, offset) } else { iomap::seek_hole(mapping, offset) }
    }

    // ---- durability

    /// Make the file durable. Reports each writeback error once per open file.
    ///
    /// # Errors
    /// Such an error; the device's.
    pub fn sync(&self) -> Result<()> {
        self.sync_as(false)
    }
    /// Make the contents durable, and what is needed to read them back: not times.
    ///
    /// # Errors
    /// As [`File::sync`].
    pub fn sync_data(&self) -> Result<()> {
        self.sync_as(true)
    }
    fn sync_as(&self, data_only: bool) -> Result<()> {
        if let Some(device) = self.device() {
            return device.sync();
        }
        match &self.node {
            Node::Inode(place) => match place.inode.mapping() {
                Ok(mapping) => self.sync_range_of(place, mapping, 0..u64::MAX, data_only),
                Err(_) => place.make_durable(data_only),
            },
            _ => Ok(()),
        }
    }
    fn sync_range_of(
        &self,
        place: &Place,
        mapping: &Mapping,
        range: Range<u64>,
        data_only: bool,
    ) -> Result<()> {
        mapping.write_and_wait(range);
        let written = self.new_error(mapping);
        // Even after a failure: what did reach the device is to be durable.
        written.and(place.make_durable(data_only))
    }
    fn new_error(&self, mapping: &Mapping) -> Result<()> {
        mapping.error_check(&mut self.errors.lock())
    }
    /// `sync_file_range`: optionally wait, start, wait; nothing becomes durable by it.
    ///
    /// # Errors
    /// A writeback error, when waiting; what has no contents.
    pub fn sync_file_range(
        &self,
        range: Range<u64>,
        wait_before: bool,
        write: bool,
        wait_after: bool,
    ) -> Result<()> {
        if self.device().is_some_and(|d| d.size().is_none()) {
            return Err(Error::IllegalSeek);
        }
        let Ok(mapping) = self.mapping() else { return Ok(()) };
        if wait_before {
            mapping.wait_writeback(range.clone());
        }
        if write {
            mapping.start_writeback(range.clone());
        }
        if wait_after {
            mapping.wait_writeback(range);
        }
        if wait_before || wait_after { self.new_error(mapping) } else { Ok(()) }
    }
    /// Drop the cached pages that lie wholly within `range`; dirty ones are started on
    /// their way to disk, and stay.
    pub fn drop_cached(&self, range: Range<u64>) {
        let Ok(mapping) = self.mapping() else { return };
        let page = PAGE_SIZE as u64;
        let start = range.start.next_multiple_of(page);
        let end = if range.end >= mapping.size() { u64::MAX } else { range.end / page * page };
        if start < end {
            mapping.start_writeback(start..end);
            mapping.drop_clean(start..end);
        }
    }

    /// Start reading `range` into the cache.
    pub fn will_need(&self, range: Range<u64>) {
        if let Ok(mapping) = self.mapping() {
            iomap::will_need(mapping, range);
        }
    }

    // ---- directories

    /// Tell `each` of the entries at the position, until it returns false, and move the
    /// position. `each` must not touch a program's memory: the directory is locked.
    ///
    /// # Errors
    /// Not a directory; I/O errors and corruption.
    pub fn list(&self, ns: &Namespace, each: &mut dyn FnMut(Dirent<'_>) -> bool) -> Result<()> {
        if !self.flags().reads() {
            return Err(Error::BadDescriptor);
        }
        let mut position = self.position.lock();
        *position = directory::list(&self.node, ns, *position, each)?;
        Ok(())
    }
    /// Go back to an entry: the cursor that [`File::list`] gave with the one before it.
    pub fn list_from(&self, cursor: u64) {
        *self.position.lock() = cursor;
    }
}

impl MappedFile for File {
    fn contents(&self, prot: Prot, shared: bool) -> Result<Arc<Mapping>> {
        let flags = self.flags();
        if flags.contains(OpenFlags::PATH) {
            return Err(Error::BadDescriptor);
        }
        if !flags.reads() || (shared && prot.contains(Prot::WRITE) && !flags.writes()) {
            return Err(Error::Access);
        }
        if shared && flags.writes() && self.has_flag(Flags::APPEND) {
            return Err(Error::Access);
        }
        self.mapping().cloned().map_err(|_| Error::NoDevice)
    }
    fn readahead(&self) -> &Mutex<Readahead> {
        &self.readahead
    }
    fn sync_bytes(&self, range: Range<u64>) -> Result<()> {
        let (place, mapping) = self.regular()?;
        self.sync_range_of(place, mapping, range, false)
    }
    fn mapped(&self) {
        if !self.flags().contains(OpenFlags::NOATIME)
            && let Ok((place, mapping)) = self.regular()
            && mapping.first_access()
        {
            place.inode.xfs.note_accessed();
        }
    }
    fn stored(&self) {
        if let Ok((place, mapping)) = self.regular() {
            place.modified(mapping);
        }
    }
}

/// May an inode be opened for writing in this way?
fn check_openable(inode: &Inode, flags: OpenFlags) -> Result<()> {
    let is = inode.xfs.flags();
    if is.contains(Flags::IMMUTABLE) {
        return Err(Error::NotPermitted("the file is immutable"));
    }
    if is.contains(Flags::APPEND) && !flags.contains(OpenFlags::APPEND) {
        return Err(Error::NotPermitted("the file is append-only"));
    }
    Ok(())
}

/// A write of `len` bytes at `pos` ends within the limit.
fn check_end(pos: u64, len: u64) -> Result<()> {
    if pos >= SIZE_MAX || len > SIZE_MAX - pos { Err(Error::TooBig) } else { Ok(()) }
}

impl Drop for File {
    /// Closed. What a writer had made ready behind the end of the file is given back, unless
    /// it comes again and again.
    fn drop(&mut self) {
        if self.flags().writes()
            && let Ok((place, mapping)) = self.regular()
        {
            place.closed(mapping);
        }
    }
}
