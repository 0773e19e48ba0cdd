//! Quota: blocks of records, one for each id, and what they say is used.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::fork::Fork;
use super::{Result, Scan};
use crate::xfs::buf::Run;
use crate::xfs::ondisk::{Be16, Be32, Be64, Byte, Bytes, Le32, UuidField, checksum, on_disk};
use crate::xfs::types::{FsBlock, Ino};

/// "DQ".
const MAGIC: u16 = 0x4451;
const CRC_OFFSET: usize = 108;
/// The bits of the type that say whose quota it is.
const WHOSE: u8 = 7;
/// The type's bit for wide timers.
const BIGTIME: u8 = 0x80;

on_disk! {
    /// A quota record's bytes.
    View, 136 bytes {
        magic: Be16 = 0,
        version: Byte = 2,
        kind: Byte = 3,
        id: Be32 = 4,
        limits: Bytes<32> = 8,
        blocks: Be64 = 40,
        inodes: Be64 = 48,
        timers: Bytes<48> = 56,
        fill: Be32 = 104,
        crc: Le32 = 108,
        lsn: Be64 = 112,
        uuid: UuidField = 120,
    }
}

/// The superblock's flags that say that what is used has been counted: for users,
/// groups, projects.
const COUNTED: [u16; 3] = [0x4, 0x100, 0x400];
const NAMES: [&str; 3] = ["user", "group", "project"];

/// Inodes and blocks.
type Usage = (u64, u64);

/// The quota of users, of groups or of projects.
#[derive(Default)]
struct Quota {
    ino: Option<Ino>,
    /// Is what the records say is used supposed to be true?
    counted: bool,
    stated: BTreeMap<u32, Usage>,
    used: BTreeMap<u32, Usage>,
}

/// All quota of a file system.
#[derive(Default)]
pub(super) struct Quotas([Quota; 3]);

impl Quotas {
    /// By the superblock's fields.
    pub(super) fn new(inodes: [u64; 3], flags: u16) -> Self {
        let mut quotas = Self::default();
        for (quota, (ino, flag)) in quotas.0.iter_mut().zip(inodes.into_iter().zip(COUNTED)) {
            quota.ino = (ino != 0 && ino != u64::MAX).then_some(Ino(ino));
            quota.counted = quota.ino.is_some() && flags & flag != 0;
        }
        quotas
    }
    /// The inodes that hold the records.
    pub(super) fn inodes(&self) -> impl Iterator<Item = Ino> {
        self.0.iter().filter_map(|q| q.ino)
    }
    /// A file with this user, group and project takes so many blocks.
    pub(super) fn count(&mut self, ids: [u32; 3], blocks: u64) {
        for (quota, id) in self.0.iter_mut().zip(ids).filter(|(q, _)| q.counted) {
            let usage = quota.used.entry(id).or_default();
            *usage = (usage.0 + 1, usage.1.saturating_add(blocks));
        }
    }
}

impl Scan {
    /// Is this one of the superblock's quota inodes?
    pub(super) fn is_quota(&self, ino: Ino) -> bool {
        self.quotas.inodes().any(|quota| quota == ino)
    }
    /// Compare what the records say is used with what was counted.
    pub(super) fn check_usage(&mut self) {
        if self.source.incomplete {
            return;
        }
        for (quota, name) in self.quotas.0.iter().zip(NAMES).filter(|(q, _)| q.counted) {
            let location = quota.ino.map_or_else(String::new, |ino| format!("{ino}"));
            let all = |ids: &BTreeMap<u32, Usage>| {
                // An id that uses nothing needs no record.
                ids.iter().filter(|(_, u)| **u != (0, 0)).map(|(i, u)| (*i, *u)).collect()
            };
            let (used, stated): (Vec<_>, Vec<_>) = (all(&quota.used), all(&quota.stated));
            super::owners::differences(&used, &stated, |&(id, (inodes, blocks)), missing| {
                let verb = if missing { "uses" } else { "is said to use" };
                let reason = format!("{name} {id} {verb} {inodes} inodes, {blocks} blocks");
                self.source.found("quota", location.clone(), reason);
            });
        }
    }
    /// Check the records of a quota inode.
    pub(super) fn check_quota(&mut self, ino: Ino, data: &Fork) -> Result<()> {
        let block_bytes = self.geometry.block_bytes();
        let per_block = (block_bytes / View::SIZE) as u64;
        for extent in &data.extents {
            for i in 0..u64::from(extent.count) {
                if extent.unwritten {
                    break;
                }
                let sector = self.geometry.sector(FsBlock(extent.block.0 + i));
                let run = Run { sector, bytes: block_bytes as u32 };
                let Some(bytes) = self.source.read("quota block", &[run])? else { continue };
                let first = (extent.offset.0 + i) * per_block;
                let records = bytes.chunks_exact(View::SIZE).zip(first..);
                for (record, id) in records {
                    let Some(view) = View::new(record) else { continue };
                    self.source.note_lsn(Some(view.lsn()));
                    if let Some(reason) = self.wrong_record(&view, record, id) {
                        let reason = format!("the record of {id} of {ino}: {reason}");
                        self.source.found("quota block", self.geometry.place(sector), reason);
                        break;
                    }
                    let usage = (view.inodes(), view.blocks());
                    for quota in self.quotas.0.iter_mut().filter(|q| q.ino == Some(ino)) {
                        quota.stated.insert(view.id(), usage);
                    }
                }
            }
        }
        Ok(())
    }
    fn wrong_record(&self, view: &View<'_>, record: &[u8], id: u64) -> Option<String> {
        let crc = checksum(record, CRC_OFFSET);
        if crc != view.crc() {
            return Some(format!("checksum is {:#010x}, should be {crc:#010x}", view.crc()));
        }
        let whose = view.kind() & WHOSE;
        let known = view.magic() == MAGIC && view.version() == 1;
        if !known || view.kind() & !(WHOSE | BIGTIME) != 0 || !whose.is_power_of_two() {
            return Some(format!(
                "magic {:#06x}, version {}, type {:#x}",
                view.magic(),
                view.version(),
                view.kind()
            ));
        }
        if view.uuid() != self.geometry.meta_uuid || u64::from(view.id()) != id {
            return Some(format!("it says it is of {} of {}", view.id(), view.uuid()));
        }
        None
    }
}
