//! Counters that are written only at unmount, from the headers of the groups.

use alloc::sync::Arc;

use super::area::{read_error, zeroed};
use crate::block::{BioFlags, Queue, SECTOR_SIZE, Sector};
use crate::platform::Memory;
use crate::xfs::geometry::Geometry;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::agf::Agf;
use crate::xfs::ondisk::agi::Agi;
use crate::xfs::ondisk::block::{BlockKind, verify};
use crate::xfs::types::{AgBlock, AgNumber};

/// The superblock's counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Allocated inodes.
    pub inodes: u64,
    /// Of these, unused.
    pub inodes_free: u64,
    /// Free blocks. Those set aside in the AGFL and those of the free space trees (but
    /// the roots) count as free.
    pub blocks_free: u64,
}

/// Count what the headers of all groups say, as they are on disk.
///
/// # Errors
/// The device's, no memory, damage.
pub fn count(
    queue: &Arc<Queue>,
    memory: &Arc<dyn Memory>,
    geometry: &Geometry,
) -> Result<Counters, MountError> {
    let mut counters = Counters::default();
    let sector_bytes = geometry.sector_bytes();
    // Superblock, AGF and AGI lie one after the other.
    let mut bytes = zeroed(3 * sector_bytes)?;
    for ag in (0..geometry.ag_count).map(AgNumber) {
        let start = geometry.ag_sector(ag, AgBlock(0));
        queue.read_bytes(&**memory, start, &mut bytes, BioFlags::META).map_err(read_error)?;
        let header = |index: usize, kind: BlockKind| {
            let sector = Sector(start.0 + (index * sector_bytes) as u64 / SECTOR_SIZE);
            let part = &bytes[index * sector_bytes..(index + 1) * sector_bytes];
            let checked = verify(&[kind], geometry, sector, part).map_err(MountError::Corrupt);
            checked.map(|_| (sector, part))
        };
        let damaged = |structure, sector, reason| {
            let location = geometry.place(sector);
            MountError::Corrupt(crate::error::Corruption { structure, location, reason })
        };
        let (sector, part) = header(1, BlockKind::Agf)?;
        let agf = Agf::decode(part, geometry, ag).map_err(|e| damaged("AGF", sector, e))?;
        let (sector, part) = header(2, BlockKind::Agi)?;
        let agi = Agi::decode(part, geometry, ag).map_err(|e| damaged("AGI", sector, e))?;
        let free = [agf.free_blocks, agf.free_list_count, agf.btree_blocks];
        counters.blocks_free += free.iter().map(|n| u64::from(*n)).sum::<u64>();
        counters.inodes += u64::from(agi.count);
        counters.inodes_free += u64::from(agi.free_count);
    }
    Ok(counters)
}
