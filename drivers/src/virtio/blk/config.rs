//! What a virtio disk says about itself: features and the configuration space.

use virtio_drivers::transport::Transport;

use super::SECTOR_BYTES;
use crate::virtio::{Error, feature};

const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const CONFIG_WCE: u64 = 1 << 11;
const MQ: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// The features this driver knows. No event indexes: see [`Ring`](crate::virtio::ring::Ring).
pub(super) const WANTED: u64 = SIZE_MAX
    | SEG_MAX
    | RO
    | BLK_SIZE
    | FLUSH
    | TOPOLOGY
    | CONFIG_WCE
    | MQ
    | DISCARD
    | WRITE_ZEROES
    | feature::RING_INDIRECT_DESC;

// Offsets in the configuration space (virtio 1.2, 5.2.4).
const CAPACITY: usize = 0;
const SIZE_MAX_AT: usize = 8;
const SEG_MAX_AT: usize = 12;
const BLK_SIZE_AT: usize = 20;
const PHYSICAL_BLOCK_EXP: usize = 24;
const OPT_IO_SIZE: usize = 28;
const WRITEBACK: usize = 32;
const NUM_QUEUES: usize = 34;
const MAX_DISCARD_SECTORS: usize = 36;
const MAX_WRITE_ZEROES_SECTORS: usize = 48;

/// A page, the usual piece of a transfer.
const PAGE: u32 = 4096;

/// What a disk is and can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Properties {
    /// Size in 512-byte sectors, when the disk was found.
    pub capacity_sectors: u64,
    /// Smallest unit of a transfer, in bytes: 512, 1024, 2048 or 4096.
    pub logical_block_bytes: u32,
    /// The unit the medium works in, in bytes.
    pub physical_block_bytes: u32,
    /// The transfer size the disk likes best, in bytes; 0 if it does not say.
    pub optimal_io_bytes: u64,
    /// Most pieces of memory (of up to a page each) in one request.
    pub max_segments: usize,
    /// Most bytes in one transfer.
    pub max_bytes: u64,
    /// Most bytes in one discard or write-zeroes.
    pub max_range_bytes: u64,
    /// Refuses writes.
    pub readonly: bool,
    /// Has a volatile cache, so flushes matter.
    pub volatile_cache: bool,
    /// Knows discard.
    pub discard: bool,
    /// Knows write-zeroes.
    pub write_zeroes: bool,
    /// Queues in use.
    pub queues: u16,
    /// Requests each queue holds at once.
    pub queue_depth: u16,
    /// Requests take one descriptor of their queue, whatever their size.
    pub indirect: bool,
    /// Most bytes in one descriptor.
    pub(super) max_extent: u32,
}

pub(super) const fn indirect(agreed: u64) -> bool {
    agreed & feature::RING_INDIRECT_DESC != 0
}

/// Queues the device has.
pub(super) fn queues<T: Transport>(transport: &T, agreed: u64) -> Result<u16, Error> {
    if agreed & MQ == 0 {
        return Ok(1);
    }
    match transport.read_config_space::<u16>(NUM_QUEUES)? {
        0 => Err(Error::Configuration("no queues")),
        n => Ok(n),
    }
}

/// The size, read whole even while it changes.
pub(super) fn capacity<T: Transport>(transport: &T) -> Result<u64, Error> {
    let read = || {
        let low = transport.read_config_space::<u32>(CAPACITY)?;
        let high = transport.read_config_space::<u32>(CAPACITY + 4)?;
        Ok(u64::from(high) << 32 | u64::from(low))
    };
    // A size beyond what can be addressed in bytes is cut to it.
    Ok(transport.read_consistent(read)?.min(u64::MAX / SECTOR_BYTES))
}

impl Properties {
    pub(super) fn read<T: Transport>(
        transport: &T,
        agreed: u64,
        queues: u16,
        depth: u16,
    ) -> Result<Self, Error> {
        let has = |feature| agreed & feature != 0;
        let word = |feature, at, otherwise| -> Result<u32, Error> {
            Ok(if has(feature) { transport.read_config_space(at)? } else { otherwise })
        };
        let logical_block_bytes = word(BLK_SIZE, BLK_SIZE_AT, SECTOR_BYTES as u32)?;
        if !logical_block_bytes.is_power_of_two() || !(512..=4096).contains(&logical_block_bytes) {
            return Err(Error::Configuration("a block size other than 512 to 4096 bytes"));
        }
        let exponent = if has(TOPOLOGY) {
            transport.read_config_space::<u8>(PHYSICAL_BLOCK_EXP)?.min(16)
        } else {
            0
        };
        let optimal = word(TOPOLOGY, OPT_IO_SIZE, 0)?;
        let max_extent = word(SIZE_MAX, SIZE_MAX_AT, 1 << 30)?.min(1 << 30);
        if max_extent < logical_block_bytes {
            return Err(Error::Configuration("descriptors smaller than a block"));
        }
        // Header and status take a descriptor each; a page may take several.
        let descriptors = u32::from(depth).saturating_sub(2);
        let per_page = PAGE.div_ceil(max_extent.min(PAGE));
        let max_segments = word(SEG_MAX, SEG_MAX_AT, 1)?.clamp(1, descriptors) / per_page;
        if max_segments == 0 {
            return Err(Error::Configuration("too few descriptors for a page"));
        }
        let volatile_cache =
            has(FLUSH) && (!has(CONFIG_WCE) || transport.read_config_space::<u8>(WRITEBACK)? != 0);
        let discard = word(DISCARD, MAX_DISCARD_SECTORS, u32::MAX)?;
        let zeroes = word(WRITE_ZEROES, MAX_WRITE_ZEROES_SECTORS, u32::MAX)?;
        Ok(Self {
            capacity_sectors: capacity(transport)?,
            logical_block_bytes,
            physical_block_bytes: logical_block_bytes << exponent,
            optimal_io_bytes: u64::from(optimal) * u64::from(logical_block_bytes),
            max_segments: max_segments as usize,
            max_bytes: u64::from(max_segments) * u64::from(PAGE),
            max_range_bytes: u64::from(discard.min(zeroes)) * SECTOR_BYTES,
            readonly: has(RO),
            volatile_cache,
            discard: has(DISCARD) && discard != 0,
            write_zeroes: has(WRITE_ZEROES) && zeroes != 0,
            queues,
            queue_depth: depth,
            indirect: indirect(agreed),
            max_extent,
        })
    }
}
