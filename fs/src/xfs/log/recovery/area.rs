//! The log's blocks, read and written past all caches.

use alloc::vec::Vec;

use uuid::Uuid;

use crate::block::{BioFlags, Queue, SECTOR_SIZE, Sector};
use crate::platform::Memory;
use crate::xfs::buf::ReadError;
use crate::xfs::geometry::Geometry;
use crate::xfs::log::head::ReadLog;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::log_record::BLOCK_BYTES;
use crate::{Error, block::IoError};

/// Most bytes of one request.
pub(super) const CHUNK_BYTES: usize = 256 << 10;

/// Zeroed memory whose size came from the disk (bounded, but not small).
pub(super) fn zeroed(bytes: usize) -> Result<Vec<u8>, ReadError> {
    let mut memory = Vec::new();
    memory.try_reserve_exact(bytes).map_err(|_| ReadError::NoMemory)?;
    memory.resize(bytes, 0);
    Ok(memory)
}

/// What went wrong with a device, for somebody who mounts.
pub(super) fn read_error(e: Error) -> ReadError {
    match e {
        Error::NoMemory => ReadError::NoMemory,
        Error::ReadOnly(_) => ReadError::Io(IoError::ReadOnly),
        _ => ReadError::Io(IoError::Device),
    }
}

/// The blocks of the internal log.
pub struct LogArea<'a> {
    queue: &'a Queue,
    memory: &'a dyn Memory,
    start: Sector,
    /// 512-byte blocks in the ring.
    blocks: u32,
    /// 512-byte blocks in the unit of transfer.
    unit: u32,
    uuid: Uuid,
}

impl<'a> LogArea<'a> {
    /// The log of a file system of this shape.
    pub fn new(queue: &'a Queue, memory: &'a dyn Memory, geometry: &Geometry) -> Self {
        Self {
            queue,
            memory,
            start: geometry.sector(geometry.log_start),
            blocks: geometry.log_blocks << (geometry.block_log - 9),
            unit: (u64::from(queue.info().logical_block_bytes) / SECTOR_SIZE).max(1) as u32,
            uuid: geometry.uuid,
        }
    }
    /// Read blocks that do not go round the end.
    fn read_part(&self, block: u32, dst: &mut [u8]) -> Result<(), ReadError> {
        let count = (dst.len() / BLOCK_BYTES) as u32;
        let first = block / self.unit * self.unit;
        let end = (block + count).next_multiple_of(self.unit);
        if first != block || end != block + count {
            let mut whole = zeroed((end - first) as usize * BLOCK_BYTES)?;
            self.read_part(first, &mut whole)?;
            let skip = (block - first) as usize * BLOCK_BYTES;
            dst.copy_from_slice(&whole[skip..skip + dst.len()]);
            return Ok(());
        }
        for (i, chunk) in dst.chunks_mut(CHUNK_BYTES).enumerate() {
            let at = u64::from(block) + (i * CHUNK_BYTES / BLOCK_BYTES) as u64;
            self.queue
                .read_bytes(self.memory, Sector(self.start.0 + at), chunk, BioFlags::META)
                .map_err(read_error)?;
        }
        Ok(())
    }
    /// Make durable what was written.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn flush(&self) -> Result<(), MountError> {
        self.queue.flush().map_err(MountError::Io)
    }
    /// Write blocks that do not go round the end.
    ///
    /// # Errors
    /// The device's, no memory.
    pub(super) fn write(&self, block: u32, src: &[u8]) -> Result<(), MountError> {
        let count = (src.len() / BLOCK_BYTES) as u32;
        let first = block / self.unit * self.unit;
        let end = (block + count).next_multiple_of(self.unit);
        if first != block || end != block + count {
            let mut whole = zeroed((end - first) as usize * BLOCK_BYTES)?;
            self.read_part(first, &mut whole)?;
            let skip = (block - first) as usize * BLOCK_BYTES;
            whole[skip..skip + src.len()].copy_from_slice(src);
            return self.write(first, &whole);
        }
        for (i, chunk) in src.chunks(CHUNK_BYTES).enumerate() {
            let at = u64::from(block) + (i * CHUNK_BYTES / BLOCK_BYTES) as u64;
            self.queue
                .write_bytes(self.memory, Sector(self.start.0 + at), chunk, BioFlags::META)
                .map_err(read_error)?;
        }
        Ok(())
    }
}

impl ReadLog for LogArea<'_> {
    fn blocks(&self) -> u32 {
        self.blocks
    }
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn read(&self, block: u32, count: u32) -> Result<Vec<u8>, ReadError> {
        let mut bytes = zeroed(count as usize * BLOCK_BYTES)?;
        let until_end = self.blocks.saturating_sub(block).min(count);
        let (front, back) = bytes.split_at_mut(until_end as usize * BLOCK_BYTES);
        if !front.is_empty() {
            self.read_part(block, front)?;
        }
        if !back.is_empty() {
            self.read_part(0, back)?;
        }
        Ok(bytes)
    }
}
