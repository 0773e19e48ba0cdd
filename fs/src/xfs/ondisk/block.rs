//! What all metadata blocks have in common: a magic number, a checksum, the file
//! system's UUID, the block's own address, an owner, the log position of the last write.

use super::{Check, Reason, be16, be32, be64, checksum, ensure};
use super::{agf, agfl, agi, attr_leaf, attr_remote, bmbt, btree, da_node, dir_data, dir_free};
use super::{dir_leaf, freesp, inobt, refcountbt, rmapbt, superblock, symlink};
use crate::block::Sector;
use crate::error::Corruption;
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::btree::Record;

/// The kinds of metadata blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Free space header of a group.
    Agf,
    /// Inode header of a group.
    Agi,
    /// Blocks set aside in a group.
    Agfl,
    /// Free space by block.
    Bnobt,
    /// Free space by size.
    Cntbt,
    /// Inode chunks.
    Inobt,
    /// Inode chunks with free inodes.
    Finobt,
    /// Reverse mappings.
    Rmapbt,
    /// Reference counts.
    Refcountbt,
    /// Extents of a fork.
    Bmbt,
    /// Inodes; each is checked by itself when it is read.
    Inodes,
    /// The single block of a small directory.
    DirBlock,
    /// Directory entries.
    DirData,
    /// The single index block of a directory.
    DirLeaf1,
    /// An index block of a directory below nodes.
    DirLeafN,
    /// Free space counts of a directory.
    DirFree,
    /// An inner block of a hash tree.
    DaNode,
    /// Extended attributes.
    AttrLeaf,
    /// A value of an extended attribute.
    AttrRemote,
    /// The target of a symbolic link.
    Symlink,
    /// The superblock, or a copy of it.
    Superblock,
}

/// A magic number and where it lies.
enum Magic {
    /// 32 bits at byte 0.
    Front(u32),
    /// 16 bits at byte 8.
    Da(u16),
    /// The block has none.
    None,
}

/// Where the common fields of a kind of block lie.
struct Layout {
    name: &'static str,
    magic: Magic,
    /// Byte offsets.
    crc: usize,
    lsn: usize,
    uuid: usize,
    blkno: Option<usize>,
    owner: Option<Owner>,
}

/// An owner's place.
#[derive(Clone, Copy)]
enum Owner {
    /// An inode, 64 bits.
    Inode(usize),
    /// An allocation group, 32 bits.
    Group(usize),
}

const fn short(name: &'static str, magic: u32) -> Layout {
    Layout {
        name,
        magic: Magic::Front(magic),
        crc: 52,
        lsn: 24,
        uuid: 32,
        blkno: Some(16),
        owner: Some(Owner::Group(48)),
    }
}
const fn dir3(name: &'static str, magic: u32) -> Layout {
    Layout {
        name,
        magic: Magic::Front(magic),
        crc: 4,
        lsn: 16,
        uuid: 24,
        blkno: Some(8),
        owner: Some(Owner::Inode(40)),
    }
}
const fn da3(name: &'static str, magic: u16) -> Layout {
    Layout {
        name,
        magic: Magic::Da(magic),
        crc: 12,
        lsn: 24,
        uuid: 32,
        blkno: Some(16),
        owner: Some(Owner::Inode(48)),
    }
}
const fn remote(name: &'static str, magic: u32) -> Layout {
    Layout {
        name,
        magic: Magic::Front(magic),
        crc: 12,
        lsn: 48,
        uuid: 16,
        blkno: Some(40),
        owner: Some(Owner::Inode(32)),
    }
}
const fn header(name: &'static str, magic: u32, crc: usize, lsn: usize, uuid: usize) -> Layout {
    Layout { name, magic: Magic::Front(magic), crc, lsn, uuid, blkno: None, owner: None }
}

const _: () = {
    let mut i = 0;
    while i < BlockKind::ALL.len() {
        assert!(BlockKind::ALL[i] as usize == i, "the kinds are listed in order");
        i += 1;
    }
};

impl BlockKind {
    /// All of them.
    pub const ALL: [Self; 21] = [
        Self::Agf,
        Self::Agi,
        Self::Agfl,
        Self::Bnobt,
        Self::Cntbt,
        Self::Inobt,
        Self::Finobt,
        Self::Rmapbt,
        Self::Refcountbt,
        Self::Bmbt,
        Self::Inodes,
        Self::DirBlock,
        Self::DirData,
        Self::DirLeaf1,
        Self::DirLeafN,
        Self::DirFree,
        Self::DaNode,
        Self::AttrLeaf,
        Self::AttrRemote,
        Self::Symlink,
        Self::Superblock,
    ];
    /// What a block looks like by its magic number alone, other than the superblock.
    pub fn identify(block: &[u8]) -> Option<Self> {
        let mut candidates =
            Self::ALL.into_iter().filter(|k| !matches!(k, Self::Inodes | Self::Superblock));
        candidates.find(|kind| kind.recognises(block))
    }
    const fn layout(self) -> Layout {
        match self {
            Self::Agf => header("AGF", agf::MAGIC, 216, 208, 64),
            Self::Agi => header("AGI", agi::MAGIC, 312, 320, 296),
            Self::Agfl => header("AGFL", agfl::MAGIC, 32, 24, 8),
            Self::Bnobt => short("bnobt block", freesp::BNO_MAGIC),
            Self::Cntbt => short("cntbt block", freesp::CNT_MAGIC),
            Self::Inobt => short("inobt block", inobt::INOBT_MAGIC),
            Self::Finobt => short("finobt block", inobt::FINOBT_MAGIC),
            Self::Rmapbt => short("rmapbt block", rmapbt::MAGIC),
            Self::Refcountbt => short("refcountbt block", refcountbt::MAGIC),
            Self::Bmbt => Layout {
                name: "bmbt block",
                magic: Magic::Front(bmbt::MAGIC),
                crc: 64,
                lsn: 32,
                uuid: 40,
                blkno: Some(24),
                owner: Some(Owner::Inode(56)),
            },
            Self::Inodes => Layout {
                name: "inode cluster",
                magic: Magic::None,
                crc: 0,
                lsn: 0,
                uuid: 0,
                blkno: None,
                owner: None,
            },
            Self::DirBlock => dir3("dir block", dir_data::BLOCK_MAGIC),
            Self::DirData => dir3("dir data block", dir_data::DATA_MAGIC),
            Self::DirLeaf1 => da3("dir leaf", dir_leaf::LEAF1_MAGIC),
            Self::DirLeafN => da3("dir leaf", dir_leaf::LEAFN_MAGIC),
            Self::DirFree => dir3("dir free block", dir_free::MAGIC),
            Self::DaNode => da3("da node", da_node::MAGIC),
            Self::AttrLeaf => da3("attr leaf", attr_leaf::MAGIC),
            Self::AttrRemote => remote("attr remote value", attr_remote::MAGIC),
            Self::Symlink => remote("symlink block", symlink::MAGIC),
            Self::Superblock => header("superblock", superblock::MAGIC, 224, 240, 32),
        }
    }
    /// The structure's name in messages.
    pub const fn name(self) -> &'static str {
        self.layout().name
    }
    /// Where the checksum lies, in kinds that have one for the whole block.
    pub const fn crc_offset(self) -> Option<usize> {
        match self {
            Self::Inodes => None,
            _ => Some(self.layout().crc),
        }
    }
    /// Where the position in the log of the last write lies.
    pub const fn lsn_offset(self) -> Option<usize> {
        match self {
            Self::Inodes => None,
            _ => Some(self.layout().lsn),
        }
    }
    /// Does the block start as one of this kind?
    fn recognises(self, block: &[u8]) -> bool {
        match self.layout().magic {
            Magic::Front(magic) => be32(block, 0) == Some(magic),
            Magic::Da(magic) => be16(block, 8) == Some(magic),
            Magic::None => true,
        }
    }
    /// The file system a block says it belongs to, in kinds that say it.
    pub fn uuid(self, block: &[u8]) -> Option<&[u8]> {
        match self {
            Self::Inodes => None,
            _ => block.get(self.layout().uuid..self.layout().uuid + 16),
        }
    }
    /// The inode or group a block says it belongs to.
    pub fn owner(self, block: &[u8]) -> Option<u64> {
        match self.layout().owner? {
            Owner::Inode(at) => be64(block, at),
            Owner::Group(at) => be32(block, at).map(u64::from),
        }
    }
}

/// Check a block that was read at `sector`: it is one of `kinds`, and undamaged.
///
/// # Errors
/// Structure, place and reason.
pub fn verify(
    kinds: &[BlockKind],
    geometry: &Geometry,
    sector: Sector,
    block: &[u8],
) -> Result<BlockKind, Corruption> {
    let at = |structure, reason: Reason| Corruption {
        structure,
        location: geometry.place(sector),
        reason,
    };
    let Some(&kind) = kinds.iter().find(|k| k.recognises(block)) else {
        let structure = kinds.first().map_or("block", |k| k.name());
        let found = be32(block, 0).unwrap_or(0);
        let da = be16(block, 8).unwrap_or(0);
        return Err(at(
            structure,
            alloc::format!("bad magic ({found:#010x} at 0, {da:#06x} at 8)"),
        ));
    };
    common(kind, geometry, sector, block)
        .and_then(|()| specific(kind, block))
        .map_err(|reason| at(kind.name(), reason))?;
    Ok(kind)
}

fn common(kind: BlockKind, geometry: &Geometry, sector: Sector, block: &[u8]) -> Check {
    let layout = kind.layout();
    if matches!(layout.magic, Magic::None) {
        return Ok(());
    }
    let stored = block.get(layout.crc..).and_then(|b| b.first_chunk()).copied().unwrap_or([0; 4]);
    let stored = u32::from_le_bytes(stored);
    let crc = checksum(block, layout.crc);
    ensure!(crc == stored, "checksum is {stored:#010x}, should be {crc:#010x}");
    if kind == BlockKind::Superblock {
        // It carries the identity that users see, which may be another one.
        return Ok(());
    }
    let uuid = block.get(layout.uuid..layout.uuid + 16).unwrap_or(&[]);
    ensure!(uuid == geometry.meta_uuid.as_bytes(), "it belongs to another file system (UUID)");
    if let Some(at) = layout.blkno {
        let blkno = be64(block, at).unwrap_or(u64::MAX);
        ensure!(blkno == sector.0, "it says it is at daddr {blkno:#x}");
    }
    if let Some(Owner::Group(at)) = layout.owner {
        let owner = u64::from(be32(block, at).unwrap_or(u32::MAX));
        let ag = (sector.0 >> (geometry.block_log - 9)) / u64::from(geometry.ag_blocks);
        ensure!(owner == ag, "it says it belongs to AG {owner}");
    }
    Ok(())
}

/// Is the shape of a block right that is about to be written?
///
/// # Errors
/// What does not fit.
pub fn specific(kind: BlockKind, block: &[u8]) -> Check {
    match kind {
        // Headers are decoded, and so checked, by whoever reads them; so are inodes.
        BlockKind::Agf | BlockKind::Agi | BlockKind::Agfl | BlockKind::Inodes => Ok(()),
        BlockKind::Superblock => Ok(()),
        BlockKind::Bnobt => short_tree::<freesp::ByBlock>(block),
        BlockKind::Cntbt => short_tree::<freesp::BySize>(block),
        BlockKind::Inobt | BlockKind::Finobt => short_tree::<inobt::RawChunk>(block),
        BlockKind::Rmapbt => short_tree::<rmapbt::Rmap>(block),
        BlockKind::Refcountbt => short_tree::<refcountbt::Refcount>(block),
        BlockKind::Bmbt => btree::check_long(block),
        BlockKind::DirBlock | BlockKind::DirData => dir_data::check(block),
        BlockKind::DirLeaf1 | BlockKind::DirLeafN => dir_leaf::check(block),
        BlockKind::DirFree => dir_free::Free::new(block).map(|_| ()),
        BlockKind::DaNode => da_node::check(block),
        BlockKind::AttrLeaf => attr_leaf::check(block),
        BlockKind::AttrRemote => attr_remote::check(block),
        BlockKind::Symlink => symlink::check(block),
    }
}

fn short_tree<R: Record>(block: &[u8]) -> Check {
    btree::check_short(block, R::BYTES, R::KEY_BYTES)
}
