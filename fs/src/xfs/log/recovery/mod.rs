//! Recovery: what was committed to the log but had not reached its place goes there.
//!
//! ```text
//! head::find        where the log ends, what was torn
//!   |
//! survey            first pass: every transaction from the tail to the head is parsed
//!   |               and checked; freed buffers and unfinished intents are remembered
//! replay            second pass: the same into memory, the result checked
//!   |
//! disk              written, flushed
//!   |
//! restamp           old records ahead of the head are made harmless
//! ```
//! A log that cannot be used is refused by name, and nothing is written: the device is
//! not touched before the last check has passed. (A log whose replay takes more memory
//! than there is to spare is written in parts once the first pass has accepted it.)
//! Recovery that is cut off starts over; what is in place already is skipped.
//!
//! | file | |
//! |------|--|
//! | `area` | the log's blocks on the device |
//! | `transactions` | from records to transactions |
//! | `items`, `fragments` | items decoded and checked, and what belongs together |
//! | `survey`, `replay` | the two passes |
//! | `owner` | extent trees that were swapped between files |
//! | `disk` | what the disk will hold |
//! | `restamp` | the blocks ahead of the head |
//! | `finish` | what is left to do once the file system is mounted |
//!
//! Quota records are skipped: the mount has no quota, and drops the flag that they were
//! up to date; Linux does the same.
//!
//! Runs at mount, before anything is cached, and takes no lock; but for the last part,
//! `finish`, which runs transactions on the mounted file system.
//!
//! Source: the XFS documentation project's `design/XFS_Filesystem_Structure`
//! (journaling_log) and `xfs-self-describing-metadata`, checked against logs made by
//! Linux and against what Linux makes of them.

mod area;
mod disk;
mod finish;
mod fragments;
mod items;
mod owner;
mod replay;
mod restamp;
mod survey;
mod transactions;

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

pub(in crate::xfs) use self::finish::{finish, hold};

use self::area::LogArea;
use self::disk::WriteBack;
use self::replay::Replay;
use self::survey::Survey;
use self::transactions::{Walk, WalkError, Walked, corrupt, is_overwritten};
use super::head::{self, Ends, Found};
use crate::block::Queue;
use crate::platform::{Memory, PAGE_SIZE};
use crate::xfs::features;
use crate::xfs::geometry::Geometry;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::log_intents::Intent;
use crate::xfs::ondisk::log_items::item;
use crate::xfs::ondisk::log_record::Lsn;
use crate::xfs::ondisk::superblock::Superblock;

/// Of the memory there is, this part may be filled before it is written.
const MEMORY_PART: u64 = 8;
const LIMIT_BYTES_MIN: u64 = 1 << 20;
const LIMIT_BYTES_MAX: u64 = 256 << 20;

/// Items seen, by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemCounts([u64; Self::TYPES]);

impl ItemCounts {
    const TYPES: usize = (item::XMD - item::EFI) as usize + 1;
    fn add(&mut self, kind: u16) {
        if let Some(count) = self.0.get_mut(usize::from(kind.wrapping_sub(item::EFI))) {
            *count += 1;
        }
    }
    /// Items of this type.
    pub fn of(&self, kind: u16) -> u64 {
        self.0.get(usize::from(kind.wrapping_sub(item::EFI))).copied().unwrap_or(0)
    }
    /// Types and numbers of all that were seen.
    pub fn iter(&self) -> impl Iterator<Item = (u16, u64)> {
        (item::EFI..).zip(self.0).filter(|(_, count)| *count > 0)
    }
}

/// What recovery saw and did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Records read.
    pub records: u64,
    /// Their bytes.
    pub log_bytes: u64,
    /// Transactions (checkpoints) that were complete.
    pub checkpoints: u64,
    /// Their items.
    pub items: ItemCounts,
    /// Buffers replayed.
    pub buffers: u64,
    /// Inodes replayed.
    pub inodes: u64,
    /// Items skipped because what is on disk is as new.
    pub newer: u64,
    /// Items skipped because their space was freed later.
    pub cancelled: u64,
    /// Records dropped at the head because they were not complete.
    pub dropped: u32,
    /// Bytes written in place.
    pub written_bytes: u64,
}

/// An intent that was not finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingIntent {
    /// Where the record starts in which its transaction starts.
    pub lsn: Lsn,
    /// What its end names it by.
    pub id: u64,
    /// What is left to do.
    pub intent: Intent,
    /// The names and values that a change of an attribute is about.
    pub regions: Vec<Vec<u8>>,
}

/// The outcome of recovery.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Where the writer goes on. While there are pending intents, the tail is at the
    /// first of them and must not pass it before it is finished.
    pub ends: Ends,
    /// Intents that were not finished, in the order they were logged.
    pub intents: Vec<PendingIntent>,
    /// The superblock as it is now. Its counters are not up to date.
    pub superblock: Superblock,
    /// What was done.
    pub statistics: Statistics,
}

/// Look for the ends of the log of a file system of this shape.
///
/// # Errors
/// The device's, no memory.
pub fn find(
    queue: &Arc<Queue>,
    memory: &Arc<dyn Memory>,
    geometry: &Geometry,
) -> Result<Found, MountError> {
    Ok(head::find(&LogArea::new(queue, &**memory, geometry))?)
}

/// Make the blocks ahead of the head of a log without need of recovery harmless, before
/// anything is logged.
///
/// # Errors
/// The device's, no memory.
pub fn clear_ahead(
    queue: &Arc<Queue>,
    memory: &Arc<dyn Memory>,
    geometry: &Geometry,
    ends: &Ends,
) -> Result<(), MountError> {
    restamp::restamp(&LogArea::new(queue, &**memory, geometry), ends)
}

/// Replay the log. `superblock` was read from the disk, `geometry` made from it.
///
/// # Errors
/// The device's, no memory. A log that is damaged where it is needed, or holds what
/// cannot be replayed here: nothing was written then.
pub fn recover(
    queue: &Arc<Queue>,
    memory: &Arc<dyn Memory>,
    geometry: &Geometry,
    superblock: &Superblock,
) -> Result<Recovered, MountError> {
    let log = LogArea::new(queue, &**memory, geometry);
    let ends = match head::find(&log)? {
        Found::Dirty(ends, _) => ends,
        Found::Clean(ends) => {
            let (intents, statistics) = (Vec::new(), Statistics::default());
            return Ok(Recovered { ends, intents, superblock: superblock.clone(), statistics });
        }
        Found::Unusable(reason) => {
            return Err(MountError::DirtyLog(format!("it cannot be: {reason}")));
        }
    };
    let (tail, walked, survey) = survey_from_tail(queue, &log, &ends, geometry)?;
    let items = survey.items;
    let (geometry, cancelled, intents) = survey.finish()?;
    let limit = (memory.total_pages() / MEMORY_PART)
        .saturating_mul(PAGE_SIZE as u64)
        .clamp(LIMIT_BYTES_MIN, LIMIT_BYTES_MAX);
    let disk = WriteBack::new(queue, &**memory);
    let mut replay = Replay::new(disk, &geometry, cancelled, limit);
    Walk::new(&log, &ends).run(tail, &mut |t| replay.transaction(&t)).map_err(refused)?;
    let (mut disk, done) = replay.finish()?;
    let superblock = read_superblock(&mut disk, &geometry)?;
    disk.write_all()?;
    queue.flush().map_err(MountError::Io)?;
    restamp::restamp(&log, &Ends { tail, ..ends })?;
    queue.flush().map_err(MountError::Io)?;
    let tail = intents.iter().map(|p| p.lsn).min().unwrap_or(ends.head);
    let statistics = Statistics {
        records: walked.records,
        log_bytes: walked.bytes,
        checkpoints: walked.transactions,
        items,
        buffers: done.buffers,
        inodes: done.inodes,
        newer: done.newer,
        cancelled: done.cancelled,
        dropped: ends.dropped,
        written_bytes: disk.written_bytes(),
    };
    Ok(Recovered { ends: Ends { tail, ..ends }, intents, superblock, statistics })
}

/// The first pass. What the torn writes at the head overwrote was no longer needed: then
/// the tail is at the first record behind that.
fn survey_from_tail(
    queue: &Queue,
    log: &LogArea<'_>,
    ends: &Ends,
    geometry: &Geometry,
) -> Result<(Lsn, Walked, Survey), MountError> {
    let mut tail = ends.tail;
    loop {
        let mut survey = Survey::new(geometry, queue.capacity_sectors());
        let walk = Walk::new(log, ends);
        match walk.run(tail, &mut |transaction| survey.transaction(&transaction)) {
            Ok(walked) => return Ok((tail, walked, survey)),
            Err(WalkError::Record { at, reason }) => {
                if !is_overwritten(log, ends, at) {
                    return Err(corrupt(at, reason));
                }
                tail = match Walk::new(log, ends).header_after(at)? {
                    Some(next) => next,
                    None => return Err(corrupt(at, reason)),
                };
            }
            Err(WalkError::Other(e)) => return Err(e),
        }
    }
}

fn refused(e: WalkError) -> MountError {
    match e {
        WalkError::Record { at, reason } => corrupt(at, reason),
        WalkError::Other(e) => e,
    }
}

/// The superblock as replayed: it may have changed features.
fn read_superblock(
    disk: &mut WriteBack<'_>,
    geometry: &Geometry,
) -> Result<Superblock, MountError> {
    let mut bytes = area::zeroed(geometry.sector_bytes())?;
    disk.read(0, &mut bytes)?;
    let superblock = Superblock::decode(&bytes).map_err(|reason| {
        MountError::Corrupt(crate::error::Corruption {
            structure: "superblock",
            location: "AG 0 block 0 (daddr 0x0)".into(),
            reason: format!("as replayed from the log: {reason}"),
        })
    })?;
    features::check(&superblock, false).map_err(MountError::Unsupported)?;
    Ok(superblock)
}
