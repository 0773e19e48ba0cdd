//! The shape of a mounted file system, and the arithmetic of its numbers.
//!
//! Everything here is derived from a checked superblock, once, at mount. Numbers that
//! come from the disk are checked against it before they are used.

use alloc::format;
use alloc::string::String;

use uuid::Uuid;

use super::ondisk::superblock::{Incompat, RoCompat, Superblock, version};
use super::types::{AgBlock, AgNumber, FsBlock, Ino};
use crate::block::Sector;

/// Bytes an inode cluster had when inodes were 256 bytes; it grows with them.
const CLUSTER_BYTES_BASE: u32 = 8192;
/// Inodes in a chunk.
pub const INODES_PER_CHUNK: u32 = 64;

/// The shape of a file system.
#[derive(Clone, Debug)]
pub struct Geometry {
    /// log2 of the block size.
    pub block_log: u32,
    /// log2 of the sector size.
    pub sector_log: u32,
    /// log2 of the inode size.
    pub inode_log: u32,
    /// log2 of blocks in a directory block.
    pub dir_block_log: u32,
    /// Blocks of the device.
    pub data_blocks: u64,
    /// Blocks in every allocation group but the last.
    pub ag_blocks: u32,
    /// Allocation groups.
    pub ag_count: u32,
    /// Bits of a block number within its group.
    pub ag_block_log: u32,
    /// First block of the log.
    pub log_start: FsBlock,
    /// Blocks of the log.
    pub log_blocks: u32,
    /// Stripe unit of the log in bytes.
    pub log_stripe_unit_bytes: u32,
    /// Sector size of the log in bytes.
    pub log_sector_bytes: u32,
    /// Alignment of inode chunks in blocks, 0 or a power of two.
    pub inode_align_blocks: u32,
    /// Alignment of sparse chunks in blocks.
    pub sparse_align_blocks: u32,
    /// Part of the space inodes may take, in percent.
    pub inode_max_percent: u32,
    /// Stripe unit in blocks.
    pub stripe_unit_blocks: u32,
    /// Stripe width in blocks.
    pub stripe_width_blocks: u32,
    /// Identity users see.
    pub uuid: Uuid,
    /// Identity that metadata carries.
    pub meta_uuid: Uuid,
    /// The label without padding.
    pub label: String,
    /// Features for writing.
    pub ro_compat: RoCompat,
    /// Features for reading.
    pub incompat: Incompat,
    /// Names compare without regard to case.
    pub ascii_ci: bool,
    /// Counters are kept lazily.
    pub lazy_count: bool,
}

impl Geometry {
    /// The shape a superblock describes.
    pub fn new(sb: &Superblock) -> Self {
        let trimmed = sb.label.split(|&b| b == 0).next().unwrap_or(&[]);
        Self {
            block_log: u32::from(sb.block_log),
            sector_log: u32::from(sb.sector_log),
            inode_log: u32::from(sb.inode_log),
            dir_block_log: u32::from(sb.dir_block_log),
            data_blocks: sb.data_blocks,
            ag_blocks: sb.ag_blocks,
            ag_count: sb.ag_count,
            ag_block_log: u32::from(sb.ag_block_log),
            log_start: FsBlock(sb.log_start),
            log_blocks: sb.log_blocks,
            log_stripe_unit_bytes: sb.log_stripe_unit,
            log_sector_bytes: u32::from(sb.log_sector_bytes).max(512),
            inode_align_blocks: sb.inode_align,
            sparse_align_blocks: sb.sparse_inode_align,
            inode_max_percent: u32::from(sb.inode_max_percent),
            stripe_unit_blocks: sb.stripe_unit,
            stripe_width_blocks: sb.stripe_width,
            uuid: sb.uuid,
            meta_uuid: sb.meta_uuid,
            label: String::from_utf8_lossy(trimmed).into_owned(),
            ro_compat: RoCompat::from_bits_truncate(sb.ro_compat),
            incompat: Incompat::from_bits_truncate(sb.incompat),
            ascii_ci: sb.version & version::ASCII_CI != 0,
            lazy_count: sb.features2 & version::LAZY_COUNT != 0,
        }
    }
    /// Bytes in a block.
    pub const fn block_bytes(&self) -> usize {
        1 << self.block_log
    }
    /// Bytes in a sector of the file system.
    pub const fn sector_bytes(&self) -> usize {
        1 << self.sector_log
    }
    /// Bytes in an inode.
    pub const fn inode_bytes(&self) -> usize {
        1 << self.inode_log
    }
    /// Blocks in a directory block.
    pub const fn dir_block_blocks(&self) -> u64 {
        1 << self.dir_block_log
    }
    /// Bytes in a directory block.
    pub const fn dir_block_bytes(&self) -> usize {
        1 << (self.dir_block_log + self.block_log)
    }
    /// 512-byte sectors in a block.
    pub const fn sectors_per_block(&self) -> u64 {
        1 << (self.block_log - 9)
    }
    /// Bits of an inode number that say which inode of the group.
    const fn agino_log(&self) -> u32 {
        self.ag_block_log + self.block_log - self.inode_log
    }
    /// Blocks in this group; 0 if there is no such group.
    pub const fn ag_length(&self, ag: AgNumber) -> u32 {
        if ag.0 + 1 < self.ag_count {
            self.ag_blocks
        } else if ag.0 + 1 == self.ag_count {
            (self.data_blocks - (self.ag_count as u64 - 1) * self.ag_blocks as u64) as u32
        } else {
            0
        }
    }
    /// The first block behind the headers of a group.
    pub const fn ag_first_block(&self) -> u32 {
        // Superblock, AGF, AGI and AGFL take a sector each.
        ((4usize << self.sector_log).div_ceil(1 << self.block_log)) as u32
    }
    /// Group and block in it.
    pub const fn split(&self, block: FsBlock) -> (AgNumber, AgBlock) {
        let ag = block.0 >> self.ag_block_log;
        let ag = if ag > u32::MAX as u64 { u32::MAX } else { ag as u32 };
        (AgNumber(ag), AgBlock((block.0 & ((1 << self.ag_block_log) - 1)) as u32))
    }
    /// The packed number of a block of a group.
    pub const fn fs_block(&self, ag: AgNumber, block: AgBlock) -> FsBlock {
        FsBlock(((ag.0 as u64) << self.ag_block_log) | block.0 as u64)
    }
    /// Where a block lies on the device. The block was checked to exist.
    pub const fn sector(&self, block: FsBlock) -> Sector {
        let (ag, agbno) = self.split(block);
        self.ag_sector(ag, agbno)
    }
    /// Where a group's block lies on the device.
    pub const fn ag_sector(&self, ag: AgNumber, block: AgBlock) -> Sector {
        let linear = ag.0 as u64 * self.ag_blocks as u64 + block.0 as u64;
        Sector(linear << (self.block_log - 9))
    }
    /// The block at a place on the device.
    pub const fn block_at(&self, sector: Sector) -> FsBlock {
        let linear = sector.0 >> (self.block_log - 9);
        let ag = linear / self.ag_blocks as u64;
        FsBlock((ag << self.ag_block_log) | (linear % self.ag_blocks as u64))
    }
    /// Do these blocks exist, in one group and behind its headers?
    pub fn has_blocks(&self, block: FsBlock, count: u64) -> bool {
        let (ag, agbno) = self.split(block);
        let start = u64::from(agbno.0);
        count > 0
            && ag.0 < self.ag_count
            && agbno.0 >= self.ag_first_block()
            && start.checked_add(count).is_some_and(|end| end <= u64::from(self.ag_length(ag)))
    }
    /// As [`Geometry::has_blocks`], for one block of a group.
    pub fn has_ag_block(&self, ag: AgNumber, block: AgBlock) -> bool {
        ag.0 < self.ag_count && block.0 >= self.ag_first_block() && block.0 < self.ag_length(ag)
    }
    /// Do these blocks overlap the log?
    pub const fn overlaps_log(&self, block: FsBlock, count: u64) -> bool {
        block.0 < self.log_start.0 + self.log_blocks as u64
            && self.log_start.0 < block.0.saturating_add(count)
    }
    /// Blocks in an inode cluster, the unit in which inodes are read.
    pub const fn cluster_blocks(&self) -> u32 {
        let bytes = CLUSTER_BYTES_BASE << (self.inode_log - 8);
        let blocks = bytes >> self.block_log;
        if blocks == 0 { 1 } else { blocks }
    }
    /// Blocks in a chunk of 64 inodes.
    pub const fn chunk_blocks(&self) -> u32 {
        let blocks = (INODES_PER_CHUNK << self.inode_log) >> self.block_log;
        if blocks == 0 { 1 } else { blocks }
    }
    /// Group, block and slot in the block of an inode, if it could exist.
    pub fn locate_inode(&self, ino: Ino) -> Option<(AgNumber, AgBlock, u32)> {
        let ag = ino.0 >> self.agino_log();
        if ag >= u64::from(self.ag_count) {
            return None;
        }
        let ag = AgNumber(ag as u32);
        let slot_log = self.block_log - self.inode_log;
        let agino = ino.0 & ((1 << self.agino_log()) - 1);
        let block = (agino >> slot_log) as u32;
        let align = self.inode_cluster_align();
        let first = self.ag_first_block().next_multiple_of(align);
        let end = self.ag_length(ag) / align * align;
        if block < first || block >= end {
            return None;
        }
        Some((ag, AgBlock(block), (agino & ((1 << slot_log) - 1)) as u32))
    }
    /// Could this inode exist?
    pub fn has_inode(&self, ino: Ino) -> bool {
        self.locate_inode(ino).is_some()
    }
    /// The inode with this number in a group.
    pub const fn ino(&self, ag: AgNumber, agino: u32) -> Ino {
        Ino(((ag.0 as u64) << self.agino_log()) | agino as u64)
    }
    /// Alignment of every inode cluster in blocks.
    fn inode_cluster_align(&self) -> u32 {
        if self.incompat.contains(Incompat::SPARSE_INODES) {
            self.sparse_align_blocks.clamp(1, self.cluster_blocks())
        } else if self.inode_align_blocks >= self.cluster_blocks() {
            self.cluster_blocks()
        } else {
            1
        }
    }
    /// First block and length of what is read to get at an inode in `block`.
    pub const fn inode_cluster(&self, block: AgBlock) -> (AgBlock, u32) {
        let cluster = self.cluster_blocks();
        if self.inode_align_blocks >= cluster {
            (AgBlock(block.0 / cluster * cluster), cluster)
        } else {
            (block, 1)
        }
    }
    /// "AG 1 block 7 (daddr 0x38)", for messages.
    pub fn place(&self, sector: Sector) -> String {
        let block = sector.0 >> (self.block_log - 9);
        format!(
            "AG {} block {} (daddr {:#x})",
            block / u64::from(self.ag_blocks),
            block % u64::from(self.ag_blocks),
            sector.0
        )
    }
}
