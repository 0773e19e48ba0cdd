//! The AGF: free space of an allocation group. Sector 1 of the group.

use super::{Be32, Be64, Bytes, Check, Le32, UuidField, ensure, on_disk};
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::superblock::RoCompat;
use crate::xfs::types::{AgBlock, AgNumber};

/// "XAGF".
pub const MAGIC: u32 = 0x5841_4746;
/// Most levels a b+tree of a group can have.
pub const MAX_LEVELS: u32 = 9;

on_disk! {
    /// The AGF's bytes.
    View, 224 bytes {
        magic: Be32 = 0,
        version: Be32 = 4,
        ag_number: Be32 = 8,
        length: Be32 = 12,
        bno_root: Be32 = 16,
        cnt_root: Be32 = 20,
        rmap_root: Be32 = 24,
        bno_level: Be32 = 28,
        cnt_level: Be32 = 32,
        rmap_level: Be32 = 36,
        free_list_first: Be32 = 40,
        free_list_last: Be32 = 44,
        free_list_count: Be32 = 48,
        free_blocks: Be32 = 52,
        longest: Be32 = 56,
        btree_blocks: Be32 = 60,
        uuid: UuidField = 64,
        rmap_blocks: Be32 = 80,
        refcount_blocks: Be32 = 84,
        refcount_root: Be32 = 88,
        refcount_level: Be32 = 92,
        spare64: Bytes<112> = 96,
        lsn: Be64 = 208,
        crc: Le32 = 216,
        spare2: Be32 = 220,
    }
}

/// The root of a group's b+tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The root block.
    pub block: AgBlock,
    /// Levels, 1 when the root is a leaf.
    pub levels: u32,
}

/// Check a root: the block exists, the number of levels is possible.
pub(super) fn root(
    geometry: &Geometry,
    ag: AgNumber,
    name: &str,
    block: u32,
    levels: u32,
) -> Check<Root> {
    ensure!((1..=MAX_LEVELS).contains(&levels), "{name} has {levels} levels");
    ensure!(geometry.has_ag_block(ag, AgBlock(block)), "{name} root at block {block}");
    Ok(Root { block: AgBlock(block), levels })
}

/// A checked AGF.
#[derive(Clone, Debug)]
pub struct Agf {
    /// Blocks of the group.
    pub length: u32,
    /// Free space by block.
    pub bnobt: Root,
    /// Free space by size.
    pub cntbt: Root,
    /// Reverse mappings.
    pub rmapbt: Option<Root>,
    /// Reference counts.
    pub refcountbt: Option<Root>,
    /// First used slot of the AGFL.
    pub free_list_first: u32,
    /// Last used slot of the AGFL.
    pub free_list_last: u32,
    /// Used slots of the AGFL.
    pub free_list_count: u32,
    /// Free blocks in the trees.
    pub free_blocks: u32,
    /// The longest free extent.
    pub longest: u32,
    /// Blocks the free space trees take beside their roots.
    pub btree_blocks: u32,
}

impl Agf {
    /// Check the fields of group `ag`'s AGF.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8], geometry: &Geometry, ag: AgNumber) -> Check<Self> {
        let agf = Self::decode_but_list(bytes, geometry, ag)?;
        let (first, last) = (agf.free_list_first, agf.free_list_last);
        let (count, slots) = (agf.free_list_count, super::agfl::slots(geometry));
        // The list is a ring: an empty one has its end right before its start.
        let used = if last >= first { last - first + 1 } else { slots - first + last + 1 };
        ensure!(
            count == used || (count == 0 && used == slots),
            "free list from {first} to {last} with {count} blocks"
        );
        Ok(agf)
    }
    /// As [`Agf::decode`], but the length of the AGFL may not be what its ends say: that is
    /// not damage, and is mended by whoever mounts for writing.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode_but_list(bytes: &[u8], geometry: &Geometry, ag: AgNumber) -> Check<Self> {
        let Some(v) = View::new(bytes) else { return Err("too short".into()) };
        ensure!(v.version() == 1, "version {}", v.version());
        ensure!(v.ag_number() == ag.0, "it says it is of AG {}", v.ag_number());
        let length = geometry.ag_length(ag);
        ensure!(v.length() == length, "{} blocks instead of {length}", v.length());
        let slots = super::agfl::slots(geometry);
        let (first, last) = (v.free_list_first(), v.free_list_last());
        let count = v.free_list_count();
        ensure!(
            first < slots && last < slots && count <= slots,
            "free list from {first} to {last}, {count} of {slots}"
        );
        ensure!(
            v.free_blocks() <= length && v.longest() <= v.free_blocks(),
            "{} free blocks, the longest run {}",
            v.free_blocks(),
            v.longest()
        );
        ensure!(v.btree_blocks() <= length, "{} btree blocks", v.btree_blocks());
        let features = geometry.ro_compat;
        Ok(Self {
            length,
            bnobt: root(geometry, ag, "bnobt", v.bno_root(), v.bno_level())?,
            cntbt: root(geometry, ag, "cntbt", v.cnt_root(), v.cnt_level())?,
            rmapbt: features
                .contains(RoCompat::RMAPBT)
                .then(|| root(geometry, ag, "rmapbt", v.rmap_root(), v.rmap_level()))
                .transpose()?,
            refcountbt: features
                .contains(RoCompat::REFLINK)
                .then(|| root(geometry, ag, "refcountbt", v.refcount_root(), v.refcount_level()))
                .transpose()?,
            free_list_first: first,
            free_list_last: last,
            free_list_count: count,
            free_blocks: v.free_blocks(),
            longest: v.longest(),
            btree_blocks: v.btree_blocks(),
        })
    }
}
