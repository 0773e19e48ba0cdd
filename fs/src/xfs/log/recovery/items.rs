//! Items of a transaction, checked: all that replay relies on.

use alloc::format;
use alloc::vec::Vec;

use super::PendingIntent;
use super::transactions::{Item, Transaction};
use crate::block::SECTOR_SIZE;
use crate::xfs::attr;
use crate::xfs::geometry::{Geometry, INODES_PER_CHUNK};
use crate::xfs::ondisk::inode::{self, CORE_BYTES, CRC_OFFSET, InodeCore};
use crate::xfs::ondisk::log_inode::{self, InodeFields, InodeFormat};
use crate::xfs::ondisk::log_intents::{Done, Intent, bmap, refcount, rmap};
use crate::xfs::ondisk::log_items::{BUF_CHUNK_BYTES, BufFormat, BufKind, IcreateFormat, item};
use crate::xfs::ondisk::superblock::{Incompat, RoCompat};
use crate::xfs::ondisk::{Check, be16, ensure, stamp_checksum};
use crate::xfs::types::{AgBlock, AgNumber, FsBlock, Ino};

/// The largest buffer: a directory block.
const MAX_BUFFER_SECTORS: u64 = (64 << 10) / SECTOR_SIZE;
/// Where an inode's position in the log lies.
pub(super) const INODE_LSN_AT: usize = 112;

/// An item, checked against the shape of the file system.
#[derive(Debug)]
pub(super) enum Decoded<'a> {
    /// Parts of a buffer: where in it, and the bytes.
    Buffer(BufFormat, Vec<(usize, &'a [u8])>),
    /// An inode.
    Inode(LoggedInode<'a>),
    /// New inodes.
    Icreate(IcreateFormat),
    /// Work that is announced, by its id, with the names and values it tells.
    Intent(u64, Intent, Vec<&'a [u8]>),
    /// Such work is done.
    Done(u64, Done),
    /// Quota records, or that quota was switched off: nothing to a mount without quota.
    Quota,
}

/// A logged inode.
#[derive(Debug)]
pub(super) struct LoggedInode<'a> {
    pub(super) format: InodeFormat,
    pub(super) core: &'a [u8; CORE_BYTES],
    /// Regions of the forks, if logged.
    pub(super) data: Option<&'a [u8]>,
    pub(super) attr: Option<&'a [u8]>,
}

/// Decode an item and check it.
///
/// # Errors
/// What does not fit.
pub(super) fn decode<'a>(
    transaction: &'a Transaction,
    item: Item,
    geometry: &Geometry,
) -> Check<Decoded<'a>> {
    let mut regions = transaction.regions(item);
    let Some(format) = regions.next() else { return Err("an item of nothing".into()) };
    match item.kind {
        item::BUF => buffer(format, regions, geometry),
        item::INODE => logged_inode(format, regions, geometry),
        item::ICREATE => icreate(format, geometry),
        item::DQUOT | item::QUOTAOFF => Ok(Decoded::Quota),
        item::EFI..=item::EFD | item::RUI..=item::XMD => {
            if item.kind.is_multiple_of(2) {
                let (id, intent) = Intent::decode(format)?;
                Ok(Decoded::Intent(id, intent, regions.collect()))
            } else {
                Done::decode(format).map(|(id, done)| Decoded::Done(id, done))
            }
        }
        kind => Err(format!("an item of type {kind:#06x}, which is not known")),
    }
}

/// Does this range of sectors lie within the file system, and not in the log?
fn check_place(geometry: &Geometry, sector: u64, count: u64) -> Check {
    let end = geometry.data_blocks << (geometry.block_log - 9);
    let unit = geometry.sector_bytes() as u64 / SECTOR_SIZE;
    ensure!(
        count > 0 && sector.checked_add(count).is_some_and(|last| last <= end),
        "{count} sectors at daddr {sector:#x} do not exist"
    );
    ensure!(
        sector.is_multiple_of(unit) && count.is_multiple_of(unit) && count <= MAX_BUFFER_SECTORS,
        "{count} sectors at daddr {sector:#x} are no buffer"
    );
    let log = geometry.sector(geometry.log_start).0;
    let log_end = log + (u64::from(geometry.log_blocks) << (geometry.block_log - 9));
    ensure!(
        sector >= log_end || sector + count <= log,
        "{count} sectors at daddr {sector:#x} lie in the log"
    );
    Ok(())
}

fn buffer<'a>(
    format: &[u8],
    regions: impl Iterator<Item = &'a [u8]>,
    geometry: &Geometry,
) -> Check<Decoded<'a>> {
    let format = BufFormat::decode(format)?;
    check_place(geometry, format.daddr, u64::from(format.blocks))
        .map_err(|reason| format!("BUF: {reason}"))?;
    if format.flags & BufFormat::CANCEL != 0 {
        return Ok(Decoded::Buffer(format, Vec::new()));
    }
    if format.flags & BufFormat::QUOTA_BUF != 0 {
        return Ok(Decoded::Quota);
    }
    match format.kind {
        BufKind::Unknown => {
            return Err(format!("BUF at daddr {:#x} of no kind", format.daddr));
        }
        BufKind::RtBitmap | BufKind::RtSummary => {
            return Err("BUF of a realtime device, and there is none".into());
        }
        BufKind::UserQuota | BufKind::GroupQuota | BufKind::ProjectQuota => {
            return Ok(Decoded::Quota);
        }
        _ => {}
    }
    let pieces = pieces(&format, regions)
        .map_err(|reason| format!("BUF at daddr {:#x}: {reason}", format.daddr))?;
    Ok(Decoded::Buffer(format, pieces))
}

/// Bring the regions and the map together. A run of chunks may lie in several regions.
fn pieces<'a>(
    format: &BufFormat,
    mut regions: impl Iterator<Item = &'a [u8]>,
) -> Check<Vec<(usize, &'a [u8])>> {
    let bytes = usize::from(format.blocks) * SECTOR_SIZE as usize;
    let mut pieces = Vec::new();
    for (first, count) in format.map.runs() {
        let mut at = first * BUF_CHUNK_BYTES;
        let end = at + count * BUF_CHUNK_BYTES;
        ensure!(end <= bytes, "chunks up to byte {end} of {bytes}");
        while at < end {
            let Some(region) = regions.next() else {
                return Err(format!("there is no region for byte {at}"));
            };
            ensure!(
                !region.is_empty()
                    && region.len().is_multiple_of(BUF_CHUNK_BYTES)
                    && region.len() <= end - at,
                "a region of {} bytes for {at} to {end}",
                region.len()
            );
            pieces.push((at, region));
            at += region.len();
        }
    }
    let more = regions.count();
    ensure!(more == 0, "{more} regions too many");
    Ok(pieces)
}

fn logged_inode<'a>(
    format: &[u8],
    mut regions: impl Iterator<Item = &'a [u8]>,
    geometry: &Geometry,
) -> Check<Decoded<'a>> {
    let format = InodeFormat::decode(format)?;
    let named = |reason| format!("INODE {}: {reason}", format.ino.0);
    check_inode_place(&format, geometry).map_err(named)?;
    let core = regions.next().unwrap_or(&[]);
    let Some(core) = core.first_chunk::<CORE_BYTES>().filter(|_| core.len() == CORE_BYTES) else {
        return Err(named(format!("a core of {} bytes", core.len())));
    };
    let has = |fields| format.fields.intersects(fields);
    let one = |fields: InodeFields| (format.fields & fields).bits().count_ones() <= 1;
    if !one(InodeFields::DATA_FORK) || !one(InodeFields::ATTR_FORK) {
        return Err(named(format!("fields {:#x}", format.fields.bits())));
    }
    let mut fork = |present: bool, bytes: u16| -> Check<Option<&'a [u8]>> {
        if !present {
            return Ok(None);
        }
        let region = regions.next().unwrap_or(&[]);
        ensure!(
            region.len() == usize::from(bytes).next_multiple_of(4),
            "a fork of {bytes} bytes in a region of {}",
            region.len()
        );
        Ok(Some(region))
    };
    let data = fork(has(InodeFields::DATA_FORK), format.data_bytes).map_err(named)?;
    let attr = fork(has(InodeFields::ATTR_FORK), format.attr_bytes).map_err(named)?;
    let more = regions.count();
    if more != 0 {
        return Err(named(format!("{more} regions too many")));
    }
    let logged = LoggedInode { format, core, data, attr };
    // Built into an inode of zeros: everything must fit by itself.
    let mut bytes = alloc::vec![0; geometry.inode_bytes()];
    logged.build(&mut bytes, 0, geometry).map_err(named)?;
    Ok(Decoded::Inode(logged))
}

/// Does the cluster that the format names hold the inode where it says?
fn check_inode_place(format: &InodeFormat, geometry: &Geometry) -> Check {
    check_place(geometry, format.daddr, u64::from(format.blocks))?;
    let Some((ag, block, slot)) = geometry.locate_inode(format.ino) else {
        return Err("there is no such inode".into());
    };
    let place = (geometry.ag_sector(ag, block).0 * SECTOR_SIZE)
        + u64::from(slot) * geometry.inode_bytes() as u64;
    let said = format.daddr * SECTOR_SIZE + u64::from(format.offset);
    let end = u64::from(format.offset) + geometry.inode_bytes() as u64;
    ensure!(
        said == place && end <= u64::from(format.blocks) * SECTOR_SIZE,
        "it cannot lie {} bytes behind daddr {:#x}",
        format.offset,
        format.daddr
    );
    Ok(())
}

impl LoggedInode<'_> {
    /// Bring the inode on disk, all its bytes, to the state that was logged.
    pub(super) fn build(&self, bytes: &mut [u8], lsn: u64, geometry: &Geometry) -> Check {
        let Some((old, _)) = bytes.split_first_chunk::<CORE_BYTES>() else {
            return Err("too short".into());
        };
        let core = log_inode::core_to_disk(self.core, old);
        bytes[..CORE_BYTES].copy_from_slice(&core);
        bytes[INODE_LSN_AT..INODE_LSN_AT + 8].copy_from_slice(&lsn.to_be_bytes());
        let split = usize::from(core[82]) * 8;
        let forks = &mut bytes[CORE_BYTES..];
        ensure!(split < forks.len(), "an attribute fork at {split} of {}", forks.len());
        let (data, attr) = match split {
            0 => forks.split_at_mut(forks.len()),
            _ => forks.split_at_mut(split),
        };
        let fields = self.format.fields;
        if fields.contains(InodeFields::DEVICE) {
            let Some(first) = data.first_chunk_mut() else { return Err("no data fork".into()) };
            *first = self.format.device.to_be_bytes();
        }
        if let Some(region) = self.data {
            put_fork(region, data, fields.contains(InodeFields::DATA_ROOT))?;
        }
        if let Some(region) = self.attr {
            put_fork(region, attr, fields.contains(InodeFields::ATTR_ROOT))?;
        }
        stamp_checksum(bytes, CRC_OFFSET);
        InodeCore::decode(bytes, geometry, self.format.ino).map(|_| ())
    }
}

fn put_fork(region: &[u8], fork: &mut [u8], is_root: bool) -> Check {
    if is_root {
        return log_inode::root_to_fork(region, fork);
    }
    ensure!(region.len() <= fork.len(), "{} bytes for a fork of {}", region.len(), fork.len());
    fork[..region.len()].copy_from_slice(region);
    Ok(())
}

fn icreate<'a>(format: &[u8], geometry: &Geometry) -> Check<Decoded<'a>> {
    let new = IcreateFormat::decode(format)?;
    let inodes = u64::from(new.length) << (geometry.block_log - geometry.inode_log);
    let fits = new.length > 0
        && u64::from(new.count) == inodes
        && new.inode_bytes as usize == geometry.inode_bytes()
        && new.count <= INODES_PER_CHUNK.max(inodes_per_block(geometry))
        && new.length.is_multiple_of(create_cluster_blocks(geometry).min(new.length));
    ensure!(
        fits,
        "ICREATE of {} inodes of {} bytes in {} blocks",
        new.count,
        new.inode_bytes,
        new.length
    );
    let (ag, block) = (AgNumber(new.ag), AgBlock(new.block));
    ensure!(
        new.ag < geometry.ag_count
            && geometry.has_ag_block(ag, block)
            && geometry.ag_length(ag) - new.block >= new.length
            && !geometry.overlaps_log(geometry.fs_block(ag, block), u64::from(new.length)),
        "ICREATE of {} blocks at block {} of AG {}",
        new.length,
        new.block,
        new.ag
    );
    Ok(Decoded::Icreate(new))
}

const fn inodes_per_block(geometry: &Geometry) -> u32 {
    1 << (geometry.block_log - geometry.inode_log)
}

/// Blocks of the buffers in which new inodes are initialised.
pub(super) const fn create_cluster_blocks(geometry: &Geometry) -> u32 {
    const BASE_BYTES: u32 = 8192;
    let scaled = BASE_BYTES << (geometry.inode_log - 8);
    let bytes = if geometry.inode_align_blocks >= scaled >> geometry.block_log {
        scaled
    } else {
        BASE_BYTES
    };
    let blocks = bytes >> geometry.block_log;
    if blocks == 0 { 1 } else { blocks }
}

/// Is the inode at the start of these bytes one?
pub(super) fn is_inode(bytes: &[u8]) -> bool {
    be16(bytes, 0) == Some(inode::MAGIC)
}

/// Can this intent be finished here? Says what cannot be.
pub(super) fn check_intent(
    PendingIntent { intent, regions, .. }: &PendingIntent,
    geometry: &Geometry,
) -> Check {
    let blocks = |start: FsBlock, count: u32| {
        ensure!(
            geometry.has_blocks(start, u64::from(count))
                && !geometry.overlaps_log(start, u64::from(count)),
            "{} of {count} blocks at {start}, which do not exist",
            item::name(intent.item())
        );
        Ok(())
    };
    let feature = |feature: RoCompat, name: &str| {
        ensure!(
            geometry.ro_compat.contains(feature),
            "{} without {name}",
            item::name(intent.item())
        );
        Ok(())
    };
    let flags = |flags: u32, known: u32, most: u32| {
        let operation = flags & rmap::OPERATION;
        ensure!(
            flags & !known == 0 && (1..=most).contains(&operation),
            "{} with flags {flags:#x}",
            item::name(intent.item())
        );
        Ok(())
    };
    match intent {
        Intent::Efi(extents) => extents.iter().try_for_each(|e| blocks(e.start, e.blocks)),
        Intent::Rui(extents) => {
            feature(RoCompat::RMAPBT, "reverse mappings")?;
            extents.iter().try_for_each(|e| {
                flags(e.flags, rmap::KNOWN, rmap::FREE)?;
                blocks(e.start, e.blocks)
            })
        }
        Intent::Cui(extents) => {
            feature(RoCompat::REFLINK, "shared blocks")?;
            extents.iter().try_for_each(|e| {
                flags(e.flags, refcount::OPERATION, refcount::FREE_COW)?;
                blocks(e.start, e.blocks)
            })
        }
        Intent::Bui(extents) => extents.iter().try_for_each(|e| {
            flags(e.flags, bmap::KNOWN, bmap::UNMAP)?;
            ensure!(geometry.has_inode(Ino(e.owner)), "BUI of inode {}", e.owner);
            blocks(e.start, e.blocks)
        }),
        Intent::Attri(change) => attr::logged(change, regions, geometry).map(|_| ()),
        Intent::Xmi(_) => {
            let name = if geometry.incompat.contains(Incompat::EXCHANGE_RANGE) {
                "an unfinished exchange of contents (XMI)"
            } else {
                "an exchange of contents (XMI) without the feature"
            };
            Err(name.into())
        }
    }
}
