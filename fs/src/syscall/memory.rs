//! Memory: mapping it, and a program's own accesses.

use alloc::sync::Arc;

use super::{Advice, Fd, MapFlags, MsyncFlags, Process, Prot};
use crate::mm::{MapRequest, MappedFile, USER_END};
use crate::platform::{Signal, VirtAddr};
use crate::{Error, Result};

impl Process {
    /// Map a file (`fd`) or anonymous memory. Where.
    ///
    /// # Errors
    /// Linux's.
    pub fn mmap(
        &self,
        addr: VirtAddr,
        len: usize,
        prot: Prot,
        flags: MapFlags,
        fd: Option<Fd>,
        offset: u64,
    ) -> Result<VirtAddr> {
        let file = match fd {
            Some(fd) if !flags.contains(MapFlags::ANONYMOUS) => Some(self.file(fd)?),
            _ => None,
        };
        let file = file.map(|handle| (**handle).clone() as Arc<dyn MappedFile>);
        self.space.mmap(MapRequest { addr, len, prot, flags, file, offset })
    }
    /// Unmap a range.
    ///
    /// # Errors
    /// Linux's.
    pub fn munmap(&self, addr: VirtAddr, len: usize) -> Result<()> {
        self.space.munmap(addr, len)
    }
    /// Make stores into mapped files durable.
    ///
    /// # Errors
    /// Linux's.
    pub fn msync(&self, addr: VirtAddr, len: usize, flags: MsyncFlags) -> Result<()> {
        self.space.msync(addr, len, flags)
    }
    /// Say how memory will be used.
    ///
    /// # Errors
    /// Linux's.
    pub fn madvise(&self, addr: VirtAddr, len: usize, advice: Advice) -> Result<()> {
        self.space.madvise(addr, len, advice)
    }
    /// The program's own load from its memory.
    ///
    /// # Errors
    /// [`Error::Fault`] stands for SIGSEGV, [`Error::Bus`] for SIGBUS.
    #[inline]
    pub fn load(&self, addr: VirtAddr, dst: &mut [u8]) -> Result<()> {
        in_user_half(addr, dst.len())?;
        self.space.table().load(addr, dst, &*self.space).map_err(signal)
    }
    /// The program's own store to its memory.
    ///
    /// # Errors
    /// As [`Process::load`]; what was stored before the fault stays.
    #[inline]
    pub fn store(&self, addr: VirtAddr, src: &[u8]) -> Result<()> {
        in_user_half(addr, src.len())?;
        self.space.table().store(addr, src, &*self.space).map_err(signal)
    }
}

fn in_user_half(addr: VirtAddr, len: usize) -> Result<()> {
    match addr.0.checked_add(len as u64) {
        Some(end) if end <= USER_END.0 => Ok(()),
        _ => Err(Error::Fault),
    }
}

fn signal(signal: Signal) -> Error {
    match signal {
        Signal::Segv => Error::Fault,
        Signal::Bus => Error::Bus,
    }
}
