//! How high and how large trees can get.

use super::shape::{Entry, Pointers};
use crate::xfs::ondisk::btree::{LongHeader, ShortHeader};

/// Bytes of the header of a block with these pointers.
pub const fn header_bytes(pointers: Pointers) -> usize {
    match pointers {
        Pointers::Short => ShortHeader::SIZE,
        Pointers::Long => LongHeader::SIZE,
    }
}

/// Bytes of a pointer.
pub const fn pointer_bytes(pointers: Pointers) -> usize {
    match pointers {
        Pointers::Short => 4,
        Pointers::Long => 8,
    }
}

/// Most records in a leaf (`level` 0) or pointers in a node.
pub const fn most_entries<E: Entry>(pointers: Pointers, block_bytes: usize, level: u32) -> usize {
    let room = block_bytes.saturating_sub(header_bytes(pointers));
    if level == 0 { room / E::BYTES } else { room / (E::KEY_BYTES + pointer_bytes(pointers)) }
}

/// How full the blocks of a tree are at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fanout {
    /// Most records in a leaf.
    pub leaf: u64,
    /// Most pointers in a node.
    pub node: u64,
}

impl Fanout {
    /// That of a tree of these records.
    pub const fn of<E: Entry>(pointers: Pointers, block_bytes: usize) -> Self {
        Self {
            leaf: most_entries::<E>(pointers, block_bytes, 0) as u64,
            node: most_entries::<E>(pointers, block_bytes, 1) as u64,
        }
    }
    /// Most levels that `records` can need: every block only half full.
    pub const fn most_levels(self, records: u64) -> u32 {
        let mut blocks = records.div_ceil(at_least(self.leaf));
        let mut levels = 1;
        while blocks > 1 {
            blocks = blocks.div_ceil(at_least(self.node));
            levels += 1;
        }
        levels
    }
    /// Most blocks that `records` can need.
    pub const fn most_blocks(self, records: u64) -> u64 {
        let mut blocks = records.div_ceil(at_least(self.leaf));
        let mut total = blocks;
        while blocks > 1 {
            blocks = blocks.div_ceil(at_least(self.node));
            total += blocks;
        }
        if total == 0 { 1 } else { total }
    }
}

/// Half of `most`; at least 1, 2 for nodes that hold that many.
const fn at_least(most: u64) -> u64 {
    if most < 4 { 2 } else { most / 2 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xfs::ondisk::freesp::ByBlock;

    #[test]
    fn a_free_space_tree_of_4k_blocks() {
        let fanout = Fanout::of::<ByBlock>(Pointers::Short, 4096);
        assert_eq!((fanout.leaf, fanout.node), (505, 336));
        assert_eq!(fanout.most_levels(0), 1);
        assert_eq!(fanout.most_levels(252), 1);
        assert_eq!(fanout.most_levels(253), 2);
        // 168 leaves of 252 records fit below a node.
        assert_eq!(fanout.most_levels(252 * 168), 2);
        assert_eq!(fanout.most_levels(252 * 168 + 1), 3);
        assert_eq!(fanout.most_blocks(0), 1);
        assert_eq!(fanout.most_blocks(252 * 168 + 1), 169 + 2 + 1);
    }
}
