//! A directory's indexes: by hash, and by free space.

use alloc::format;
use alloc::vec::Vec;

use super::da::Space;
use super::dir::Names;
use super::{Result, Scan, push};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::da_node::BlockInfo;
use crate::xfs::ondisk::dir_data;
use crate::xfs::ondisk::dir_free::{Free, Header};
use crate::xfs::ondisk::dir_leaf::{self, LEAF1_MAGIC, Leaf, NULL_ADDRESS};

/// The count of a data block that is not there.
const NO_BLOCK: u16 = 0xffff;

/// The entries of an index that are not stale.
fn live(
    count: usize,
    entry: impl Fn(usize) -> Option<(u32, u32)>,
) -> impl Iterator<Item = (u32, u32)> {
    (0..count).filter_map(entry).filter(|(_, address)| *address != NULL_ADDRESS)
}

impl Scan {
    /// The index at the end of a single block.
    pub(super) fn check_block_index(&mut self, space: &Space<'_>, names: &Names) -> Result<()> {
        let Some((_, block)) = self.read_space(space, 0, &[BlockKind::DirBlock])? else {
            return Ok(());
        };
        let Ok((start, count)) = dir_data::block_index(&block) else { return Ok(()) };
        let mut index = Vec::new();
        for entry in live(count, |i| dir_leaf::entry(&block[start..], i)) {
            push(&mut index, entry)?;
        }
        self.compare_index(space, names, index)
    }
    /// The indexes of a directory of several blocks.
    pub(super) fn check_index(&mut self, space: &Space<'_>, names: &Names) -> Result<()> {
        let mut index = Vec::new();
        let mut counts: Option<Vec<u16>> = None;
        let walked = self.walk_hashes(space, &mut |_, _, block| {
            let Some(leaf) = Leaf::new(block) else { return Ok(()) };
            for entry in live(leaf.count, |i| leaf.entry(i)) {
                push(&mut index, entry)?;
            }
            if BlockInfo::new(block).map(|i| i.magic()) == Some(LEAF1_MAGIC) {
                counts = Some(dir_leaf::bests(block).collect());
            }
            Ok(())
        })?;
        if walked.whole {
            self.check_unreachable(space, &walked.seen);
        }
        if walked.whole && names.whole {
            self.compare_index(space, names, index)?;
        }
        let free_start = space.tree.end;
        let ends_at = space.fork.extents.last().map_or(0, |e| e.end().0);
        match counts {
            Some(counts) => {
                if ends_at > space.tree.start + space.block_blocks {
                    let reason = format!("a single leaf, but the directory ends at {ends_at:#x}");
                    self.space_found(space, space.tree.start, reason);
                }
                self.compare_counts(space, names, 0, &counts);
                self.check_counted(space, names, counts.len() as u64);
            }
            None if walked.root.is_some() => self.check_free_blocks(space, names, free_start)?,
            None => {}
        }
        Ok(())
    }
    /// Blocks where the tree lies that are not of the tree.
    fn check_unreachable(&mut self, space: &Space<'_>, seen: &alloc::collections::BTreeSet<u64>) {
        let within = space
            .fork
            .extents
            .iter()
            .filter(|e| e.end().0 > space.tree.start && e.offset.0 < space.tree.end);
        let mapped: u64 = within.map(|e| u64::from(e.count)).sum();
        let used = seen.len() as u64 * space.block_blocks;
        if mapped != used {
            let reason = format!("{mapped} blocks for a hash tree of {used}");
            self.space_found(space, space.tree.start, reason);
        }
    }
    /// The index has every name, and nothing else.
    fn compare_index(
        &mut self,
        space: &Space<'_>,
        names: &Names,
        mut index: Vec<(u32, u32)>,
    ) -> Result<()> {
        index.sort_unstable();
        let mut wanted = Vec::new();
        for entry in &names.index {
            push(&mut wanted, *entry)?;
        }
        wanted.sort_unstable();
        super::owners::differences(&wanted, &index, |&(hash, address), missing| {
            let place = address as usize * dir_data::ALIGN;
            let reason = if missing {
                format!("the entry at {place} is not in the index by its hash {hash:#x}")
            } else {
                format!("the index has no entry's hash {hash:#x} for {place}")
            };
            self.space_found(space, space.tree.start, reason);
        });
        Ok(())
    }
    /// Compare the counts for the data blocks from number `first` on.
    fn compare_counts(&mut self, space: &Space<'_>, names: &Names, first: u64, counts: &[u16]) {
        if !names.whole {
            return;
        }
        for (number, &stated) in (first..).zip(counts) {
            let at = names.bests.binary_search_by_key(&number, |b| b.0);
            let best = at.map_or(NO_BLOCK, |i| names.bests[i].1);
            if stated != best {
                let reason = format!("the free space of block {number} is {best}, {stated} stated");
                self.space_found(space, space.tree.end, reason);
            }
        }
    }
    /// Every data block below `counted` has a count; behind it there must be none.
    fn check_counted(&mut self, space: &Space<'_>, names: &Names, counted: u64) {
        if let Some(&(number, _)) = names.bests.last()
            && number >= counted
        {
            let reason = format!("the free space of block {number} is not listed");
            self.space_found(space, space.tree.end, reason);
        }
    }
    /// The free space blocks of a directory with a hash tree.
    fn check_free_blocks(&mut self, space: &Space<'_>, names: &Names, start: u64) -> Result<()> {
        let block_bytes = self.geometry.dir_block_bytes();
        let room = ((block_bytes - Header::SIZE) / 2) as u64;
        let first = space.fork.extents.partition_point(|e| e.end().0 <= start);
        let mut covered = 0;
        let mut next = start;
        let mut listed = 0;
        for extent in &space.fork.extents[first..] {
            let mut at = next.max(extent.offset.0 / space.block_blocks * space.block_blocks);
            while at < extent.end().0 {
                let number = (at - start) / space.block_blocks;
                if let Some((_, block)) = self.read_space(space, at, &[BlockKind::DirFree])?
                    && let Ok(free) = Free::new(&block)
                {
                    let base = u64::from(free.header.first_data_block());
                    if base != number * room {
                        let reason = format!("block {number} of counts says it starts at {base}");
                        self.space_found(space, at, reason);
                    }
                    let valid = free.header.valid() as usize;
                    let mut counts = Vec::new();
                    for count in (0..valid).filter_map(|i| free.count(i)) {
                        push(&mut counts, count)?;
                    }
                    let used = counts.iter().filter(|&&c| c != NO_BLOCK).count();
                    if used != free.header.used() as usize {
                        let reason = format!("{used} counts in use, {} stated", free.header.used());
                        self.space_found(space, at, reason);
                    }
                    self.compare_counts(space, names, number * room, &counts);
                    covered = number * room + valid as u64;
                    listed += used;
                }
                at += space.block_blocks;
            }
            next = at;
        }
        if names.whole {
            self.check_counted(space, names, covered);
            if listed != names.bests.len() {
                let blocks = names.bests.len();
                let reason =
                    format!("the free space of {listed} blocks is listed, there are {blocks}");
                self.space_found(space, start, reason);
            }
        }
        Ok(())
    }
}
