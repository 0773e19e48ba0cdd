//! How much log each kind of operation may need, at worst.
//!
//! A transaction reserves before it changes anything, so it never has to stop half way
//! for lack of log. An operation of several steps (each a transaction of its own, the
//! rest of the work described by intents) reserves for all usual steps at once and asks
//! again for more.

use super::attr::parent;
use super::geometry::Geometry;
use super::ondisk::superblock::{Incompat, RoCompat};
use super::{dir, ialloc};

/// Log space for an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// Bytes a step may log.
    pub bytes: u32,
    /// Steps reserved for at once.
    pub count: u32,
}

/// The reservations of one file system.
#[derive(Clone, Copy, Debug)]
pub struct Reservations {
    /// Map, convert or allocate extents of a file.
    pub write: Reservation,
    /// Free extents of a file.
    pub truncate: Reservation,
    /// A new file, device or symbolic link with its name.
    pub create: Reservation,
    /// A new directory with its name.
    pub mkdir: Reservation,
    /// A new symbolic link with its name.
    pub symlink: Reservation,
    /// Another name.
    pub link: Reservation,
    /// A name less.
    pub remove: Reservation,
    /// Names moved.
    pub rename: Reservation,
    /// An inode freed.
    pub ifree: Reservation,
    /// An attribute set.
    pub attr_set: Reservation,
    /// An attribute removed.
    pub attr_remove: Reservation,
    /// An inode's core only.
    pub ichange: Reservation,
    /// An attribute fork added.
    pub addafork: Reservation,
    /// The superblock.
    pub superblock: Reservation,
    /// Blocks that a new inode with its name may take.
    pub create_blocks: u64,
}

/// Room for op headers and an item's format.
const OVERHEAD_BYTES: u32 = 128;

/// Levels of a tree with `records` records, its blocks half full at worst.
fn levels(records: u64, block_bytes: usize, record_bytes: usize, key_pointer_bytes: usize) -> u32 {
    let room = block_bytes - 56;
    let leaf = (room / record_bytes / 2).max(1) as u64;
    let node = (room / key_pointer_bytes / 2).max(2) as u64;
    let mut blocks = records.div_ceil(leaf).max(1);
    let mut levels = 1;
    while blocks > 1 {
        blocks = blocks.div_ceil(node);
        levels += 1;
    }
    levels
}

impl Reservations {
    /// Those of a file system of this shape.
    pub fn new(g: &Geometry) -> Self {
        let block = (g.block_bytes() as u32) + OVERHEAD_BYTES;
        let sector = (g.sector_bytes() as u32) + OVERHEAD_BYTES;
        let dir_block = (g.dir_block_bytes() as u32) + OVERHEAD_BYTES;
        let ag_blocks = u64::from(g.ag_blocks);
        // A path split all the way up touches two blocks a level, and a new root.
        let split = |levels: u32| (2 * levels - 1) * block;
        let space = split(levels(ag_blocks / 2, g.block_bytes(), 8, 12)) * 2 + 2 * sector;
        let rmap = if g.ro_compat.contains(RoCompat::RMAPBT) {
            split(levels(ag_blocks, g.block_bytes(), 24, 44))
        } else {
            0
        };
        let refcount = if g.ro_compat.contains(RoCompat::REFLINK) {
            split(levels(ag_blocks / 2, g.block_bytes(), 12, 8))
        } else {
            0
        };
        let inode_trees = {
            let chunks = ag_blocks / u64::from(g.chunk_blocks()).max(1);
            split(levels(chunks, g.block_bytes(), 16, 8)) * 2 + sector
        };
        let inode = (g.inode_bytes() as u32) + 400;
        let bmap =
            split(levels(g.data_blocks.min(1 << 24), g.block_bytes(), 16, 16)).min(9 * block);
        let cluster = (g.cluster_blocks() << g.block_log) + OVERHEAD_BYTES;
        let dir = 7 * dir_block + bmap;
        let one_extent = space + rmap;
        let write = inode + bmap + one_extent * 2;
        let free = inode + bmap + one_extent * 2 + refcount;
        let ialloc = inode_trees + one_extent + g.chunk_blocks() * 32 + 2 * cluster.min(1024);
        let create = 2 * inode + dir + ialloc + one_extent;
        let attr = inode + 8 * block + bmap + one_extent;
        // A pointer to a parent changes with each name: that of a new inode in a leaf at
        // most, others anywhere in a tree. The superblock says that there are attributes.
        let (pointer, first_pointer) = match parent::kept(g) {
            true => (8 * block + bmap + one_extent + sector, block + one_extent + sector),
            false => (0, 0),
        };
        let create = create + first_pointer;
        let sparse = g.incompat.contains(Incompat::SPARSE_INODES);
        let ifree = inode + inode_trees + one_extent * 2 + 2 * OVERHEAD_BYTES + cluster;
        let ifree = if sparse { ifree + sector } else { ifree };
        // The inode that loses its last name may be freed at once: see `remove_name`.
        let freed = inode_trees + one_extent + 8 * OVERHEAD_BYTES;
        // Names moved or exchanged: two pointers go, two come; a whiteout gets its first.
        let names = 4;
        let permanent = |bytes: u32, count: u32| Reservation {
            bytes: bytes.max(free).next_multiple_of(512) + 1024,
            count,
        };
        Self {
            write: permanent(write, 2),
            truncate: permanent(free, 2),
            create: permanent(create, 2),
            mkdir: permanent(create, 2),
            symlink: permanent(create + 2 * block, 2),
            link: permanent(2 * inode + dir + one_extent + sector + pointer, 2),
            remove: permanent(2 * inode + dir + one_extent + 2 * sector + pointer + freed, 2),
            rename: permanent(5 * inode + 2 * dir + one_extent + 3 * sector + names * pointer, 2),
            ifree: permanent(ifree, 2),
            attr_set: permanent(attr, 3),
            attr_remove: permanent(attr, 3),
            ichange: Reservation { bytes: (inode + sector).next_multiple_of(512) + 512, count: 1 },
            addafork: permanent(attr, 2),
            superblock: Reservation { bytes: sector + 1024, count: 1 },
            create_blocks: ialloc::space_for_allocation(g)
                + dir::space_for_add(g)
                + parent::space_for_first(g),
        }
    }
}
