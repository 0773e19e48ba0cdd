//! Calls that change a file's size, what blocks it has, and whose contents it shares.

use super::{FallocateMode, Fd, Process};
use crate::vfs::{File, OpenFlags, SIZE_MAX, ShutdownMode, Whence};
use crate::xfs::{FileType, Flags};
use crate::{Error, Result};

impl Process {
    /// Change a file's size.
    ///
    /// # Errors
    /// Linux's.
    pub fn truncate(&self, path: &[u8], size: u64) -> Result<()> {
        if size > SIZE_MAX {
            return Err(Error::Invalid("a negative size"));
        }
        let node = self.resolve(path, true)?.node;
        match node.file_type() {
            FileType::Directory => Err(Error::IsDirectory),
            FileType::Regular => File::open(node, OpenFlags::WRONLY)?.truncate(size),
            _ => Err(Error::Invalid("not a regular file")),
        }
    }
    /// As [`Process::truncate`], of an open file.
    ///
    /// # Errors
    /// Linux's.
    pub fn ftruncate(&self, fd: Fd, size: u64) -> Result<()> {
        if size > SIZE_MAX {
            return Err(Error::Invalid("a negative size"));
        }
        let file = self.opened(fd)?;
        if file.node().file_type() != FileType::Regular || !file.flags().writes() {
            return Err(Error::Invalid("not a regular file open for writing"));
        }
        if file.has_flag(Flags::APPEND) {
            return Err(Error::NotPermitted("the file is append-only"));
        }
        file.truncate(size)
    }
    /// Change what blocks a file has.
    ///
    /// # Errors
    /// Linux's.
    pub fn fallocate(&self, fd: Fd, mode: FallocateMode, pos: u64, len: u64) -> Result<()> {
        let file = self.opened(fd)?;
        if len == 0 || len > SIZE_MAX || pos > SIZE_MAX {
            return Err(Error::Invalid("no range"));
        }
        let kinds = mode.difference(FallocateMode::KEEP_SIZE);
        let punch = mode.contains(FallocateMode::PUNCH_HOLE);
        let known = mode.bits() & !FallocateMode::all().bits() == 0;
        let alone = kinds.bits().count_ones() <= 1;
        if !known || !alone || (punch && !mode.contains(FallocateMode::KEEP_SIZE)) {
            return Err(Error::NotSupported("no such combination of modes"));
        }
        let moves = FallocateMode::COLLAPSE_RANGE | FallocateMode::INSERT_RANGE;
        let keeps = mode.contains(FallocateMode::KEEP_SIZE);
        if mode.intersects(moves | FallocateMode::UNSHARE_RANGE) && keeps {
            return Err(Error::Invalid("the size cannot be kept"));
        }
        if !file.flags().writes() {
            return Err(Error::BadDescriptor);
        }
        // Blocks may be added to what is appended to; nothing else.
        if file.has_flag(Flags::IMMUTABLE) || !kinds.is_empty() && file.has_flag(Flags::APPEND) {
            return Err(Error::NotPermitted("the file is immutable or append-only"));
        }
        match file.node().file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::NoDevice),
        }
        if pos + len > SIZE_MAX {
            return Err(Error::TooBig);
        }
        file.fallocate(mode, pos, len)?;
        file.settle()
    }
    /// Copy up to `len` bytes from one open file to another, sharing blocks where that
    /// can be. An offset that is not given is the file's position, which moves. The bytes
    /// copied.
    ///
    /// # Errors
    /// Linux's.
    pub fn copy_file_range(
        &self,
        from: Fd,
        from_pos: Option<&mut u64>,
        to: Fd,
        to_pos: Option<&mut u64>,
        len: u64,
    ) -> Result<u64> {
        let (src, dst) = (self.opened(from)?, self.opened(to)?);
        check_pair(&src, &dst)?;
        if dst.flags().contains(OpenFlags::APPEND) {
            return Err(Error::BadDescriptor);
        }
        let at = |file: &File, pos: &Option<&mut u64>| match pos {
            Some(pos) => Ok(**pos),
            None => file.seek(0, Whence::Cur),
        };
        let (start, target) = (at(&src, &from_pos)?, at(&dst, &to_pos)?);
        let most = crate::vfs::TRANSFER_MAX as u64;
        let done = dst.copy_range(&src, start, target, len.min(most))?;
        let moved = |file: &File, pos: Option<&mut u64>, start: u64| match pos {
            Some(pos) => {
                *pos = start + done;
                Ok(())
            }
            None => file.seek((start + done) as i64, Whence::Set).map(drop),
        };
        moved(&src, from_pos, start)?;
        moved(&dst, to_pos, target)?;
        Ok(done)
    }
    /// Make a file share all of another's contents (`FICLONE`).
    ///
    /// # Errors
    /// Linux's.
    pub fn ficlone(&self, to: Fd, from: Fd) -> Result<()> {
        self.ficlonerange(to, from, 0, 0, 0)
    }
    /// Make a range of a file share another's contents (`FICLONERANGE`); a length of 0
    /// means up to the end of the source.
    ///
    /// # Errors
    /// Linux's.
    pub fn ficlonerange(
        &self,
        to: Fd,
        from: Fd,
        from_pos: u64,
        len: u64,
        to_pos: u64,
    ) -> Result<()> {
        let (src, dst) = (self.opened(from)?, self.opened(to)?);
        check_pair(&src, &dst)?;
        if dst.flags().contains(OpenFlags::APPEND) {
            return Err(Error::BadDescriptor);
        }
        dst.clone_range(&src, from_pos, to_pos, len)?;
        dst.settle()
    }
    /// Share a range of a file with another's if both hold the same bytes
    /// (`FIDEDUPERANGE`, one destination). The bytes that are shared now; nothing if the
    /// contents differ.
    ///
    /// # Errors
    /// Linux's.
    pub fn fideduperange(
        &self,
        from: Fd,
        from_pos: u64,
        len: u64,
        to: Fd,
        to_pos: u64,
    ) -> Result<Option<u64>> {
        let (src, dst) = (self.opened(from)?, self.opened(to)?);
        check_regular(&src, &dst)?;
        dst.dedupe_range(&src, from_pos, to_pos, len)
    }
    /// Shut the file system of an open file down (`GOINGDOWN`): from now on everything
    /// fails, as after a power cut that the programs survived.
    ///
    /// # Errors
    /// On no file system.
    pub fn shutdown(&self, fd: Fd, mode: ShutdownMode) -> Result<()> {
        let file = self.opened(fd)?;
        let place = file.node().place().ok_or(Error::NotTty)?;
        place.fs.shutdown(mode)
    }
}

fn check_regular(src: &File, dst: &File) -> Result<()> {
    for file in [src, dst] {
        match file.node().file_type() {
            FileType::Regular => {}
            FileType::Directory => return Err(Error::IsDirectory),
            _ => return Err(Error::Invalid("not a regular file")),
        }
    }
    if dst.has_flag(Flags::IMMUTABLE) {
        return Err(Error::NotPermitted("the file is immutable"));
    }
    Ok(())
}

fn check_pair(src: &File, dst: &File) -> Result<()> {
    check_regular(src, dst)?;
    if !src.flags().reads() || !dst.flags().writes() {
        return Err(Error::BadDescriptor);
    }
    Ok(())
}
