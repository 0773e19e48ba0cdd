//! The first pass: check everything that would be replayed, and learn what was
//! cancelled later and which intents were never finished.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use super::fragments::groups;
use super::items::{Decoded, check_intent, decode};
use super::transactions::{Transaction, corrupt};
use super::{ItemCounts, PendingIntent};
use crate::xfs::geometry::Geometry;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::log_intents::Intent;
use crate::xfs::ondisk::log_items::{BufFormat, BufKind};
use crate::xfs::ondisk::{be32, be64};

/// Buffers that were freed in the log: place (sector, sectors) and how often.
#[derive(Debug, Default)]
pub(super) struct Cancelled(BTreeMap<(u64, u64), u32>);

impl Cancelled {
    fn add(&mut self, place: (u64, u64)) {
        *self.0.entry(place).or_default() += 1;
    }
    /// Will the buffer be freed further on in the log?
    pub(super) fn has(&self, place: (u64, u64)) -> bool {
        self.0.contains_key(&place)
    }
    /// It has been freed at this place of the log.
    pub(super) fn passed(&mut self, place: (u64, u64)) {
        if let Some(count) = self.0.get_mut(&place) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&place);
            }
        }
    }
}

/// What the first pass learns.
pub(super) struct Survey {
    /// The file system's shape as of the last transaction: it may grow in the log.
    pub(super) geometry: Geometry,
    /// Sectors of the device.
    capacity: u64,
    pub(super) cancelled: Cancelled,
    pub(super) items: ItemCounts,
    pending: Vec<PendingIntent>,
}

impl Survey {
    pub(super) fn new(geometry: &Geometry, capacity: u64) -> Self {
        Self {
            geometry: geometry.clone(),
            capacity,
            cancelled: Cancelled::default(),
            items: ItemCounts::default(),
            pending: Vec::new(),
        }
    }
    /// Look at a committed transaction.
    pub(super) fn transaction(&mut self, transaction: &Transaction) -> Result<(), MountError> {
        let at = transaction.committed;
        let mut all = Vec::new();
        for item in transaction.items().map_err(|reason| corrupt(at, reason))? {
            self.items.add(item.kind);
            let decoded =
                decode(transaction, item, &self.geometry).map_err(|reason| corrupt(at, reason))?;
            if let Decoded::Buffer(format, pieces) = &decoded
                && format.kind == BufKind::Superblock
                && format.daddr == 0
            {
                self.superblock(pieces).map_err(|reason| corrupt(at, reason))?;
            }
            all.push(decoded);
        }
        groups(&all, &self.geometry)
            .map_err(|reason| MountError::Unsupported(format!("recovering {reason}")))?;
        for decoded in all {
            match decoded {
                Decoded::Buffer(format, _) => {
                    if format.flags & BufFormat::CANCEL != 0 {
                        self.cancelled.add((format.daddr, u64::from(format.blocks)));
                    }
                }
                Decoded::Intent(id, intent, regions) => {
                    self.pending.try_reserve(1).map_err(|_| MountError::NoMemory)?;
                    let regions = regions.iter().map(|region| region.to_vec()).collect();
                    self.pending.push(PendingIntent { lsn: transaction.lsn, id, intent, regions });
                }
                Decoded::Done(id, done) => {
                    let kind = done.intent_item();
                    self.pending.retain(|p| p.id != id || p.intent.item() != kind);
                }
                Decoded::Inode(_) | Decoded::Icreate(_) | Decoded::Quota => {}
            }
        }
        Ok(())
    }
    /// The superblock is changed: what follows may lie in space it newly has.
    fn superblock(&mut self, pieces: &[(usize, &[u8])]) -> Result<(), alloc::string::String> {
        let Some((_, start)) = pieces.iter().find(|(at, _)| *at == 0) else { return Ok(()) };
        let (Some(blocks), Some(groups)) = (be64(start, 8), be32(start, 88)) else {
            return Ok(());
        };
        let g = &mut self.geometry;
        if blocks == g.data_blocks {
            return Ok(());
        }
        let sectors = blocks.checked_mul(1 << (g.block_log - 9));
        let groups_fit = u64::from(groups).checked_mul(u64::from(g.ag_blocks));
        let first = u64::from(groups.saturating_sub(1)) * u64::from(g.ag_blocks);
        if sectors.is_none_or(|sectors| sectors > self.capacity)
            || groups_fit.is_none_or(|most| blocks > most)
            || blocks <= first
        {
            return Err(format!("it makes the file system {blocks} blocks in {groups} groups"));
        }
        (g.data_blocks, g.ag_count) = (blocks, groups);
        Ok(())
    }
    /// The intents that were not finished, checked.
    pub(super) fn finish(self) -> Result<(Geometry, Cancelled, Vec<PendingIntent>), MountError> {
        for pending in &self.pending {
            check_intent(pending, &self.geometry).map_err(|reason| match pending.intent {
                Intent::Xmi(_) => MountError::Unsupported(format!("recovering {reason}")),
                _ => corrupt(pending.lsn, format!("unfinished: {reason}")),
            })?;
        }
        Ok((self.geometry, self.cancelled, self.pending))
    }
}
