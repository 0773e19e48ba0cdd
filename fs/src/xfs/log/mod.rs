//! The log: a ring of 512-byte blocks with records of what is to be written where.
//!
//! | file | |
//! |------|--|
//! | [`head`] | find the newest record and tell whether the file system was unmounted |
//!
//! Owns: the log's blocks. Does not own: what records mean. Reading takes no lock; it
//! happens at mount, before anybody else is there.

pub mod head;

use alloc::vec::Vec;

use super::buf::{BufferCache, ReadError};
use super::geometry::Geometry;
use super::ondisk::log_record::BLOCK_BYTES;
use crate::block::Sector;

/// The log's blocks on the device.
pub struct LogDevice<'a> {
    buffers: &'a BufferCache,
    start: Sector,
    /// 512-byte blocks in the ring.
    blocks: u32,
    uuid: uuid::Uuid,
}

impl<'a> LogDevice<'a> {
    /// The internal log of a file system.
    pub const fn new(buffers: &'a BufferCache, geometry: &Geometry) -> Self {
        Self {
            buffers,
            start: geometry.sector(geometry.log_start),
            blocks: geometry.log_blocks << (geometry.block_log - 9),
            uuid: geometry.uuid,
        }
    }
    /// 512-byte blocks in the ring.
    pub const fn blocks(&self) -> u32 {
        self.blocks
    }
    /// Read `count` blocks from `block` on, going round the end.
    ///
    /// # Errors
    /// The device's, no memory.
    pub fn read(&self, block: u32, count: u32) -> Result<Vec<u8>, ReadError> {
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(count as usize * BLOCK_BYTES).map_err(|_| ReadError::NoMemory)?;
        bytes.resize(count as usize * BLOCK_BYTES, 0);
        let until_end = self.blocks.saturating_sub(block).min(count);
        let (front, back) = bytes.split_at_mut(until_end as usize * BLOCK_BYTES);
        self.read_at(block, front)?;
        self.read_at(0, back)?;
        Ok(bytes)
    }
    /// Read whole sectors of the device, whatever their size, that contain the blocks.
    fn read_at(&self, block: u32, dst: &mut [u8]) -> Result<(), ReadError> {
        if dst.is_empty() {
            return Ok(());
        }
        let unit = (self.buffers.device_block_bytes() / BLOCK_BYTES) as u32;
        let count = (dst.len() / BLOCK_BYTES) as u32;
        let first = block / unit * unit;
        let end = (block + count).next_multiple_of(unit);
        let sector = Sector(self.start.0 + u64::from(first));
        if first == block && end == block + count {
            return self.buffers.read_raw(sector, dst);
        }
        let mut whole = Vec::new();
        let bytes = (end - first) as usize * BLOCK_BYTES;
        whole.try_reserve_exact(bytes).map_err(|_| ReadError::NoMemory)?;
        whole.resize(bytes, 0);
        self.buffers.read_raw(sector, &mut whole)?;
        let skip = (block - first) as usize * BLOCK_BYTES;
        dst.copy_from_slice(&whole[skip..skip + dst.len()]);
        Ok(())
    }
}
