//! The superblock: sector 0 of every allocation group, the first one being the truth.

use alloc::format;
use alloc::string::String;

use uuid::Uuid;

use super::{Be16, Be32, Be64, Byte, Bytes, Check, Le32, UuidField, checksum, ensure, on_disk};

/// "XFSB".
pub const MAGIC: u32 = 0x5846_5342;
/// Where the checksum lies.
pub const CRC_OFFSET: usize = 224;

/// Where `version` lies.
pub const VERSION_AT: usize = 100;
/// Where the number of inodes lies; free inodes and free blocks follow.
pub const INODES_AT: usize = 128;
/// Where the quota switches lie.
pub const QUOTA_FLAGS_AT: usize = 176;

on_disk! {
    /// The superblock's bytes.
    View, 264 bytes {
        magic: Be32 = 0,
        block_bytes: Be32 = 4,
        data_blocks: Be64 = 8,
        rt_blocks: Be64 = 16,
        rt_extents: Be64 = 24,
        uuid: UuidField = 32,
        log_start: Be64 = 48,
        root_ino: Be64 = 56,
        rt_bitmap_ino: Be64 = 64,
        rt_summary_ino: Be64 = 72,
        rt_extent_blocks: Be32 = 80,
        ag_blocks: Be32 = 84,
        ag_count: Be32 = 88,
        rt_bitmap_blocks: Be32 = 92,
        log_blocks: Be32 = 96,
        version: Be16 = 100,
        sector_bytes: Be16 = 102,
        inode_bytes: Be16 = 104,
        inodes_per_block: Be16 = 106,
        label: Bytes<12> = 108,
        block_log: Byte = 120,
        sector_log: Byte = 121,
        inode_log: Byte = 122,
        inodes_per_block_log: Byte = 123,
        ag_block_log: Byte = 124,
        rt_extents_log: Byte = 125,
        in_progress: Byte = 126,
        inode_max_percent: Byte = 127,
        inodes: Be64 = 128,
        inodes_free: Be64 = 136,
        blocks_free: Be64 = 144,
        rt_extents_free: Be64 = 152,
        user_quota_ino: Be64 = 160,
        group_quota_ino: Be64 = 168,
        quota_flags: Be16 = 176,
        flags: Byte = 178,
        shared_version: Byte = 179,
        inode_align: Be32 = 180,
        stripe_unit: Be32 = 184,
        stripe_width: Be32 = 188,
        dir_block_log: Byte = 192,
        log_sector_log: Byte = 193,
        log_sector_bytes: Be16 = 194,
        log_stripe_unit: Be32 = 196,
        features2: Be32 = 200,
        bad_features2: Be32 = 204,
        features_compat: Be32 = 208,
        features_ro_compat: Be32 = 212,
        features_incompat: Be32 = 216,
        features_log_incompat: Be32 = 220,
        crc: Le32 = 224,
        sparse_inode_align: Be32 = 228,
        project_quota_ino: Be64 = 232,
        lsn: Be64 = 240,
        meta_uuid: UuidField = 248,
    }
}

/// Bits of `version` and `features2`.
pub mod version {
    /// The low bits: the format's version.
    pub const NUMBER_MASK: u16 = 0xf;
    /// There are, or were, extended attributes.
    pub const ATTRIBUTES: u16 = 0x10;
    /// Quota was on.
    pub const QUOTA: u16 = 0x40;
    /// Names compare without regard to case.
    pub const ASCII_CI: u16 = 0x4000;
    /// `features2`: counters in the superblock are written only at unmount.
    pub const LAZY_COUNT: u32 = 0x2;
    /// `features2`: 32-bit project numbers.
    pub const PROJID32: u32 = 0x80;
    /// `features2`: entries carry the file type (version 4 only; version 5 has a bit of its own).
    pub const FTYPE: u32 = 0x200;
    /// `features2`: checksums.
    pub const CRC: u32 = 0x100;
}

bitflags::bitflags! {
    /// Features that an implementation without them may read but not write.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RoCompat: u32 {
        /// Free inode tree.
        const FINOBT = 1;
        /// Reverse mapping tree.
        const RMAPBT = 2;
        /// Shared blocks, reference count tree.
        const REFLINK = 4;
        /// Block counts of the inode trees in the AGI.
        const INOBTCOUNT = 8;
    }
    /// Features without which the disk cannot be read.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Incompat: u32 {
        /// File types in directory entries.
        const FTYPE = 1;
        /// Inode chunks with holes.
        const SPARSE_INODES = 2;
        /// Metadata carries a UUID of its own.
        const META_UUID = 4;
        /// Time stamps from 1901 to 2486.
        const BIGTIME = 8;
        /// xfs_repair has to run.
        const NEEDS_REPAIR = 0x10;
        /// 64-bit extent counts.
        const NREXT64 = 0x20;
        /// Contents of two files may be exchanged.
        const EXCHANGE_RANGE = 0x40;
        /// Attributes that point to a file's parents.
        const PARENT = 0x80;
    }
}

/// A superblock whose fields agree with each other.
///
/// Whether its features are supported is the mount's question, not asked here.
#[derive(Clone, Debug)]
pub struct Superblock {
    /// log2 of the block size.
    pub block_log: u8,
    /// Blocks of the data device.
    pub data_blocks: u64,
    /// Blocks of the realtime device.
    pub rt_blocks: u64,
    /// Extents of the realtime device.
    pub rt_extents: u64,
    /// What users know the file system by.
    pub uuid: Uuid,
    /// What metadata blocks carry.
    pub meta_uuid: Uuid,
    /// First block of the log; 0: on a device of its own.
    pub log_start: u64,
    /// Blocks of the log.
    pub log_blocks: u32,
    /// Stripe unit of the log in bytes.
    pub log_stripe_unit: u32,
    /// Bytes in a sector of the log.
    pub log_sector_bytes: u16,
    /// The root directory.
    pub root_ino: u64,
    /// Blocks in an allocation group but the last.
    pub ag_blocks: u32,
    /// Allocation groups.
    pub ag_count: u32,
    /// log2 of `ag_blocks`, rounded up.
    pub ag_block_log: u8,
    /// The version word.
    pub version: u16,
    /// More features of old.
    pub features2: u32,
    /// log2 of the sector size.
    pub sector_log: u8,
    /// log2 of the inode size.
    pub inode_log: u8,
    /// The label.
    pub label: [u8; 12],
    /// mkfs did not finish.
    pub in_progress: bool,
    /// Part of the space that inodes may take, in percent; 0: all.
    pub inode_max_percent: u8,
    /// Allocated inodes.
    pub inodes: u64,
    /// Of these, unused.
    pub inodes_free: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Quota switches.
    pub quota_flags: u16,
    /// Alignment of inode chunks in blocks.
    pub inode_align: u32,
    /// Alignment of sparse inode chunks in blocks.
    pub sparse_inode_align: u32,
    /// Stripe unit in blocks.
    pub stripe_unit: u32,
    /// Stripe width in blocks.
    pub stripe_width: u32,
    /// log2 of blocks in a directory block.
    pub dir_block_log: u8,
    /// Features that need no support.
    pub compat: u32,
    /// Features that need write support only.
    pub ro_compat: u32,
    /// Features needed for reading.
    pub incompat: u32,
    /// Features of the log's contents.
    pub log_incompat: u32,
    /// When it was last written.
    pub lsn: u64,
}

impl Superblock {
    /// Check the checksum and the agreement of the fields.
    ///
    /// `sector` holds at least the superblock's sector as the superblock itself gives
    /// its size. Magic number and version were looked at before.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(sector: &[u8]) -> Check<Self> {
        let Some(view) = View::new(sector) else {
            return Err(String::from("too short"));
        };
        let sector_bytes = usize::from(view.sector_bytes());
        ensure!(
            sector_bytes.is_power_of_two() && (512..=32768).contains(&sector_bytes),
            "sector size {sector_bytes}"
        );
        let Some(covered) = sector.get(..sector_bytes) else {
            return Err(format!("sector size {sector_bytes}"));
        };
        let crc = checksum(covered, CRC_OFFSET);
        ensure!(crc == view.crc(), "checksum is {:#010x}, should be {crc:#010x}", view.crc());
        check_sizes(&view)?;
        check_groups(&view)?;
        let incompat = view.features_incompat();
        let has_meta_uuid = incompat & Incompat::META_UUID.bits() != 0;
        let mut label = [0; 12];
        label.copy_from_slice(view.label());
        Ok(Self {
            block_log: view.block_log(),
            data_blocks: view.data_blocks(),
            rt_blocks: view.rt_blocks(),
            rt_extents: view.rt_extents(),
            uuid: view.uuid(),
            meta_uuid: if has_meta_uuid { view.meta_uuid() } else { view.uuid() },
            log_start: view.log_start(),
            log_blocks: view.log_blocks(),
            log_stripe_unit: view.log_stripe_unit(),
            log_sector_bytes: view.log_sector_bytes(),
            root_ino: view.root_ino(),
            ag_blocks: view.ag_blocks(),
            ag_count: view.ag_count(),
            ag_block_log: view.ag_block_log(),
            version: view.version(),
            features2: view.features2(),
            sector_log: view.sector_log(),
            inode_log: view.inode_log(),
            label,
            in_progress: view.in_progress() != 0,
            inode_max_percent: view.inode_max_percent(),
            inodes: view.inodes(),
            inodes_free: view.inodes_free(),
            blocks_free: view.blocks_free(),
            quota_flags: view.quota_flags(),
            inode_align: view.inode_align(),
            sparse_inode_align: view.sparse_inode_align(),
            stripe_unit: view.stripe_unit(),
            stripe_width: view.stripe_width(),
            dir_block_log: view.dir_block_log(),
            compat: view.features_compat(),
            ro_compat: view.features_ro_compat(),
            incompat,
            log_incompat: view.features_log_incompat(),
            lsn: view.lsn(),
        })
    }
}

fn is_log2(value: u32, log: u8) -> bool {
    1u32.checked_shl(u32::from(log)) == Some(value)
}

fn check_sizes(view: &View<'_>) -> Check {
    let block = view.block_bytes();
    ensure!((512..=65536).contains(&block), "block size {block}");
    ensure!(is_log2(block, view.block_log()), "block size {block} but log {}", view.block_log());
    let sector = u32::from(view.sector_bytes());
    ensure!(is_log2(sector, view.sector_log()), "sector size {sector}, log {}", view.sector_log());
    ensure!(sector <= block, "sector size {sector} above block size {block}");
    let inode = u32::from(view.inode_bytes());
    ensure!((512..=2048).contains(&inode), "inode size {inode}");
    ensure!(is_log2(inode, view.inode_log()), "inode size {inode} but log {}", view.inode_log());
    ensure!(inode <= block, "inode size {inode} above block size {block}");
    ensure!(
        view.inodes_per_block_log() == view.block_log() - view.inode_log()
            && is_log2(u32::from(view.inodes_per_block()), view.inodes_per_block_log()),
        "{} inodes a block, log {}",
        view.inodes_per_block(),
        view.inodes_per_block_log()
    );
    let dir_log = u32::from(view.dir_block_log()) + u32::from(view.block_log());
    ensure!(dir_log <= 16, "directory blocks of 2^{dir_log} bytes");
    ensure!(view.inode_max_percent() <= 100, "{} % for inodes", view.inode_max_percent());
    let align = view.inode_align();
    ensure!(align == 0 || align.is_power_of_two(), "inode alignment {align}");
    let (unit, width) = (view.stripe_unit(), view.stripe_width());
    ensure!(
        (unit == 0) == (width == 0) && (unit == 0 || width % unit == 0),
        "stripe unit {unit}, stripe width {width}"
    );
    if view.features_incompat() & Incompat::SPARSE_INODES.bits() != 0 {
        let sparse = view.sparse_inode_align();
        ensure!(sparse == 0 || sparse.is_power_of_two(), "sparse inode alignment {sparse}");
    }
    Ok(())
}

fn check_groups(view: &View<'_>) -> Check {
    let blocks = view.ag_blocks();
    ensure!((64..=1 << 31).contains(&blocks), "{blocks} blocks in an allocation group");
    let log = u32::from(view.ag_block_log());
    ensure!(
        log == u32::BITS - (blocks - 1).leading_zeros(),
        "{blocks} blocks in an allocation group but log {log}"
    );
    let count = view.ag_count();
    ensure!(count > 0, "no allocation groups");
    let most = u64::from(count) * u64::from(blocks);
    let least = u64::from(count - 1) * u64::from(blocks) + 64;
    let data = view.data_blocks();
    ensure!(
        (least..=most).contains(&data),
        "{data} blocks do not make {count} allocation groups of {blocks}"
    );
    // Block numbers are packed: group, then block; and shifted left for sectors.
    let bits = u64::from(count).next_power_of_two().ilog2() + log;
    ensure!(bits + u32::from(view.block_log()) <= 62, "{data} blocks are too many");
    Ok(())
}
