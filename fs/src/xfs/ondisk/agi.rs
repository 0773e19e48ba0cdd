//! The AGI: inodes of an allocation group. Sector 2 of the group.

use super::agf::{Root, root};
use super::{Be32, Be64, Bytes, Check, Le32, UuidField, be32, ensure, on_disk};
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::superblock::RoCompat;
use crate::xfs::types::AgNumber;

/// "XAGI".
pub const MAGIC: u32 = 0x5841_4749;
/// Lists of unlinked inodes.
pub const UNLINKED_BUCKETS: usize = 64;
/// The end of such a list.
pub const NULL_AGINO: u32 = u32::MAX;

/// Where the fields lie that transactions change.
pub mod at {
    /// Allocated inodes.
    pub const COUNT: usize = 16;
    /// Root of the tree of all chunks; its levels follow.
    pub const ROOT: usize = 20;
    /// Inodes that are not in use.
    pub const FREE_COUNT: usize = 28;
    /// The chunk allocated last.
    pub const NEW_INO: usize = 32;
    /// Heads of the lists of unlinked inodes.
    pub const UNLINKED: usize = 40;
    /// Root of the tree of chunks with free inodes; its levels follow.
    pub const FREE_ROOT: usize = 328;
    /// Blocks of the tree of all chunks.
    pub const INOBT_BLOCKS: usize = 336;
    /// Blocks of the tree of chunks with free inodes.
    pub const FINOBT_BLOCKS: usize = 340;
}

/// The root of one of the two trees; `free` means the one of chunks with free inodes.
///
/// # Errors
/// What does not fit.
pub fn tree_root(bytes: &[u8], geometry: &Geometry, ag: AgNumber, free: bool) -> Check<Root> {
    let Some(v) = View::new(bytes) else { return Err("too short".into()) };
    match free {
        false => root(geometry, ag, "inobt", v.root(), v.level()),
        true => root(geometry, ag, "finobt", v.free_root(), v.free_level()),
    }
}

on_disk! {
    /// The AGI's bytes.
    View, 344 bytes {
        magic: Be32 = 0,
        version: Be32 = 4,
        ag_number: Be32 = 8,
        length: Be32 = 12,
        count: Be32 = 16,
        root: Be32 = 20,
        level: Be32 = 24,
        free_count: Be32 = 28,
        new_ino: Be32 = 32,
        dir_ino: Be32 = 36,
        unlinked: Bytes<256> = 40,
        uuid: UuidField = 296,
        crc: Le32 = 312,
        pad: Be32 = 316,
        lsn: Be64 = 320,
        free_root: Be32 = 328,
        free_level: Be32 = 332,
        inobt_blocks: Be32 = 336,
        finobt_blocks: Be32 = 340,
    }
}

/// A checked AGI.
#[derive(Clone, Debug)]
pub struct Agi {
    /// Allocated inodes.
    pub count: u32,
    /// Of these, unused.
    pub free_count: u32,
    /// All inode chunks.
    pub inobt: Root,
    /// Chunks with free inodes.
    pub finobt: Option<Root>,
    /// Heads of the lists of unlinked inodes.
    pub unlinked: [u32; UNLINKED_BUCKETS],
}

impl Agi {
    /// Check the fields of group `ag`'s AGI.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8], geometry: &Geometry, ag: AgNumber) -> Check<Self> {
        let Some(v) = View::new(bytes) else { return Err("too short".into()) };
        ensure!(v.version() == 1, "version {}", v.version());
        ensure!(v.ag_number() == ag.0, "it says it is of AG {}", v.ag_number());
        let length = geometry.ag_length(ag);
        ensure!(v.length() == length, "{} blocks instead of {length}", v.length());
        let inodes = u64::from(length) << (geometry.block_log - geometry.inode_log);
        ensure!(
            u64::from(v.count()) <= inodes && v.free_count() <= v.count(),
            "{} inodes, {} of them free",
            v.count(),
            v.free_count()
        );
        let mut unlinked = [NULL_AGINO; UNLINKED_BUCKETS];
        for (i, head) in unlinked.iter_mut().enumerate() {
            *head = be32(v.unlinked(), i * 4).unwrap_or(NULL_AGINO);
            ensure!(
                *head == NULL_AGINO || geometry.has_inode(geometry.ino(ag, *head)),
                "unlinked list {i} starts at {head}"
            );
        }
        Ok(Self {
            count: v.count(),
            free_count: v.free_count(),
            inobt: root(geometry, ag, "inobt", v.root(), v.level())?,
            finobt: geometry
                .ro_compat
                .contains(RoCompat::FINOBT)
                .then(|| root(geometry, ag, "finobt", v.free_root(), v.free_level()))
                .transpose()?,
            unlinked,
        })
    }
}
