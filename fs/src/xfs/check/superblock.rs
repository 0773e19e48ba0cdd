//! The superblock, its copies, the state of the log, the sums at the end.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::inodes::Inodes;
use super::quota::Quotas;
use super::source::Source;
use super::{Report, Result, Scan};
use crate::block::{BioFlags, Queue, SECTOR_SIZE, Sector};
use crate::error::Corruption;
use crate::platform::Memory;
use crate::xfs::features;
use crate::xfs::geometry::Geometry;
use crate::xfs::log::head::Found;
use crate::xfs::log::recovery;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::be64;
use crate::xfs::ondisk::log_record::Lsn;
use crate::xfs::ondisk::superblock::{Incompat, MAGIC, Superblock, View, version};
use crate::xfs::types::{AgBlock, AgNumber, Ino};

/// The greatest sector that is read for a superblock.
const MOST_BYTES: usize = 4096;

fn damaged(reason: impl Into<String>) -> MountError {
    MountError::Corrupt(Corruption {
        structure: "superblock",
        location: "AG 0 block 0 (daddr 0x0)".into(),
        reason: reason.into(),
    })
}

/// Inode numbers that are set.
fn set_inodes<const N: usize>(numbers: [u64; N]) -> Vec<Ino> {
    numbers.into_iter().filter(|&ino| ino != 0 && ino != u64::MAX).map(Ino).collect()
}

impl Scan {
    /// Read the superblock, without which nothing can be found.
    pub(super) fn open(queue: &Arc<Queue>, memory: &Arc<dyn Memory>) -> Result<Self> {
        let device_sectors = queue.capacity_sectors();
        if device_sectors < MOST_BYTES as u64 / SECTOR_SIZE {
            return Err(MountError::NotXfs);
        }
        let mut bytes = [0; MOST_BYTES];
        queue.read_bytes(&**memory, Sector(0), &mut bytes, BioFlags::META)?;
        let view = View::new(&bytes).ok_or(MountError::NotXfs)?;
        if view.magic() != MAGIC {
            return Err(MountError::NotXfs);
        }
        let number = view.version() & version::NUMBER_MASK;
        if number != 5 {
            return Err(MountError::Unsupported(format!("XFS version {number}")));
        }
        let superblock = Superblock::decode(&bytes).map_err(damaged)?;
        features::check(&superblock, true).map_err(MountError::Unsupported)?;
        let needed_sectors = superblock.data_blocks << (superblock.block_log - 9);
        if needed_sectors > device_sectors {
            return Err(MountError::DeviceTooSmall { needed_sectors, device_sectors });
        }
        let geometry = Arc::new(Geometry::new(&superblock));
        if !geometry.has_blocks(geometry.log_start, u64::from(geometry.log_blocks)) {
            let (blocks, start) = (geometry.log_blocks, geometry.log_start);
            return Err(damaged(format!("the log's {blocks} blocks at {start} do not exist")));
        }
        let source = Source::new(queue.clone(), &**memory, geometry.clone())?;
        let quota_inodes =
            [view.user_quota_ino(), view.group_quota_ino(), view.project_quota_ino()];
        let quotas = Quotas::new(quota_inodes, superblock.quota_flags);
        // The realtime bitmap is the first of them.
        let mut internal = set_inodes([view.rt_bitmap_ino(), view.rt_summary_ino()]);
        internal.extend(quotas.inodes());
        let mut scan = Self {
            source,
            geometry,
            internal,
            quotas,
            groups: Vec::new(),
            inodes: Inodes::default(),
            parents: super::parents::Parents::default(),
            report: Report::default(),
            clean: false,
            superblock,
        };
        scan.source.note_lsn(Some(scan.superblock.lsn));
        scan.check_primary(&view, &bytes);
        Ok(scan)
    }
    fn check_primary(&mut self, view: &View<'_>, bytes: &[u8]) {
        let place = self.geometry.place(Sector(0));
        if view.features2() != view.bad_features2() {
            let (one, two) = (view.features2(), view.bad_features2());
            let reason = format!("features2 is {one:#x}, its copy {two:#x}");
            self.source.found("superblock", place.clone(), reason);
        }
        if let Some(reason) = dirty_tail(bytes, self.geometry.sector_bytes()) {
            self.source.found("superblock", place, reason);
        }
    }
    /// Was the file system unmounted?
    pub(super) fn check_log(&mut self, queue: &Arc<Queue>, memory: &Arc<dyn Memory>) -> Result<()> {
        let place = self.geometry.place(self.geometry.sector(self.geometry.log_start));
        match recovery::find(queue, memory, &self.geometry)? {
            Found::Clean(ends) => {
                self.clean = true;
                self.report.log_head = Some(ends.head);
            }
            Found::Dirty(_, reason) | Found::Unusable(reason) => {
                self.source.found("log", place, format!("not clean: {reason}"));
            }
        }
        Ok(())
    }
    /// A group's copy of the superblock.
    pub(super) fn check_copy(&mut self, ag: AgNumber, bytes: &[u8]) {
        let sector = self.geometry.ag_sector(ag, AgBlock(0));
        let place = self.geometry.place(sector);
        let copy = match View::new(bytes) {
            Some(view) if view.magic() == MAGIC => Superblock::decode(bytes),
            _ => Err("bad magic".to_string()),
        };
        match copy {
            Err(reason) => self.source.found("superblock", place, reason),
            Ok(copy) => {
                self.source.note_lsn(View::new(bytes).map(|v| v.lsn()));
                for (name, here, primary) in shape(&copy, &self.superblock) {
                    if here != primary {
                        let reason = format!("{name} is {here}, in the first one {primary}");
                        self.source.found("superblock", place.clone(), reason);
                    }
                }
                if let Some(reason) = dirty_tail(bytes, self.geometry.sector_bytes()) {
                    self.source.found("superblock", place, reason);
                }
            }
        }
    }
    /// The superblock's counters against what the groups hold, and the log's head
    /// against the places in it that structures name.
    pub(super) fn check_sums(&mut self) {
        if !self.clean {
            return;
        }
        let newest = Lsn(self.source.newest_lsn);
        if let Some(head) = self.report.log_head
            && newest.0 > head.0
        {
            let place = self.geometry.place(self.geometry.sector(self.geometry.log_start));
            let reason = format!(
                "its head is {}:{}, but metadata was written from {}:{}",
                head.cycle(),
                head.block(),
                newest.cycle(),
                newest.block()
            );
            self.source.found("log", place, reason);
        }
        if self.groups.iter().any(|g| g.agf.is_none() || g.agi.is_none()) {
            return;
        }
        let sum = |value: fn(&super::group::Group) -> u64| self.groups.iter().map(value).sum();
        let inodes: u64 = sum(|g| g.agi.as_ref().map_or(0, |a| a.count.into()));
        let free: u64 = sum(|g| g.agi.as_ref().map_or(0, |a| a.free_count.into()));
        let blocks: u64 = sum(|g| {
            g.agf.as_ref().map_or(0, |a| {
                u64::from(a.free_blocks) + u64::from(a.free_list_count) + u64::from(a.btree_blocks)
            })
        });
        self.report.blocks_free = blocks;
        let sb = &self.superblock;
        for (name, stated, counted) in [
            ("icount", sb.inodes, inodes),
            ("ifree", sb.inodes_free, free),
            ("fdblocks", sb.blocks_free, blocks),
        ] {
            if stated != counted {
                let reason = format!("{name} is {stated}, the groups have {counted}");
                self.source.found("superblock", self.geometry.place(Sector(0)), reason);
            }
        }
    }
}

/// Behind the superblock its sector is zero.
fn dirty_tail(bytes: &[u8], sector_bytes: usize) -> Option<String> {
    let tail = bytes.get(View::SIZE..sector_bytes)?;
    let at = tail.iter().position(|&b| b != 0)?;
    Some(format!("byte {} behind its end is not zero", View::SIZE + at))
}

/// What is the same in all superblocks.
fn shape(copy: &Superblock, first: &Superblock) -> [(&'static str, u64, u64); 19] {
    let uuid =
        |u: &uuid::Uuid| be64(u.as_bytes(), 0).unwrap_or(0) ^ be64(u.as_bytes(), 8).unwrap_or(0);
    let pick = |name, of: fn(&Superblock) -> u64| (name, of(copy), of(first));
    [
        ("the block size's log", copy.block_log.into(), first.block_log.into()),
        pick("the number of blocks", |s| s.data_blocks),
        pick("the number of realtime blocks", |s| s.rt_blocks),
        pick("the number of realtime extents", |s| s.rt_extents),
        pick("the number of groups", |s| s.ag_count.into()),
        pick("the blocks of a group", |s| s.ag_blocks.into()),
        pick("the log's start", |s| s.log_start),
        pick("the log's blocks", |s| s.log_blocks.into()),
        pick("the sector size's log", |s| s.sector_log.into()),
        pick("the inode size's log", |s| s.inode_log.into()),
        pick("the alignment of inodes", |s| s.inode_align.into()),
        pick("the stripe unit", |s| s.stripe_unit.into()),
        pick("the stripe width", |s| s.stripe_width.into()),
        pick("the directory block's log", |s| s.dir_block_log.into()),
        pick("the compatible features", |s| s.compat.into()),
        pick("the read-only compatible features", |s| s.ro_compat.into()),
        // That it needs repair is said in the first one only.
        pick("the incompatible features", |s| (s.incompat & !Incompat::NEEDS_REPAIR.bits()).into()),
        ("the UUID (folded)", uuid(&copy.uuid), uuid(&first.uuid)),
        ("the metadata's UUID (folded)", uuid(&copy.meta_uuid), uuid(&first.meta_uuid)),
    ]
}
