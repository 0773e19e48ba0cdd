//! The AGFL: blocks set aside for a group's own b+trees, a ring. Sector 3 of the group.

use alloc::vec::Vec;

use super::agf::Agf;
use super::{Be32, Be64, Check, Le32, UuidField, be32, ensure, on_disk};
use crate::xfs::geometry::Geometry;
use crate::xfs::types::{AgBlock, AgNumber};

/// "XAFL".
pub const MAGIC: u32 = 0x5841_464c;

on_disk! {
    /// The AGFL's header; block numbers follow.
    View, 36 bytes {
        magic: Be32 = 0,
        ag_number: Be32 = 4,
        uuid: UuidField = 8,
        lsn: Be64 = 24,
        crc: Le32 = 32,
    }
}

/// Slots in the ring.
pub fn slots(geometry: &Geometry) -> u32 {
    ((geometry.sector_bytes() - View::SIZE) / 4) as u32
}

/// The blocks in the ring, in order.
///
/// # Errors
/// A slot in use names no block of the group.
pub fn blocks(bytes: &[u8], geometry: &Geometry, ag: AgNumber, agf: &Agf) -> Check<Vec<AgBlock>> {
    let Some(v) = View::new(bytes) else { return Err("too short".into()) };
    ensure!(v.ag_number() == ag.0, "it says it is of AG {}", v.ag_number());
    let slots = slots(geometry);
    let mut blocks = Vec::new();
    for i in 0..agf.free_list_count {
        let slot = (agf.free_list_first + i) % slots;
        let block = be32(bytes, View::SIZE + slot as usize * 4).unwrap_or(u32::MAX);
        ensure!(geometry.has_ag_block(ag, AgBlock(block)), "slot {slot} holds block {block}");
        blocks.push(AgBlock(block));
    }
    Ok(blocks)
}
