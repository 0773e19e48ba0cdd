//! The hash tree of a directory or an attribute fork: levels, siblings, hashes.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use super::fork::Fork;
use super::{Result, Scan, push};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::da_node::{BlockInfo, MAX_LEVELS, Node};
use crate::xfs::ondisk::{attr_leaf, dir_leaf};
use crate::xfs::types::Ino;

/// One of an inode's forks as an address space of blocks.
#[derive(Clone)]
pub(super) struct Space<'a> {
    pub(super) ino: Ino,
    pub(super) fork: &'a Fork,
    /// File system blocks in a block of the space.
    pub(super) block_blocks: u64,
    /// Where the hash tree lies.
    pub(super) tree: Range<u64>,
    /// What leaves below nodes are.
    pub(super) leaves: &'static [BlockKind],
    /// What the root may be.
    pub(super) roots: &'static [BlockKind],
    /// "directory" or "attribute fork".
    pub(super) name: &'static str,
}

/// A block still to be visited.
struct Visit {
    at: u64,
    /// What the parent says: level and greatest hash.
    parent: Option<(u32, u32)>,
}

/// The block of a level that was visited last.
#[derive(Clone, Copy)]
struct Left {
    at: u64,
    forward: u64,
    hash: u32,
}

/// What a walk has seen.
#[derive(Default)]
pub(super) struct Walked {
    /// The blocks of the tree.
    pub(super) seen: BTreeSet<u64>,
    /// All of it could be read.
    pub(super) whole: bool,
    /// What the root is.
    pub(super) root: Option<BlockKind>,
}

type EachLeaf<'a> = &'a mut dyn FnMut(&mut Scan, u64, &[u8]) -> Result<()>;

/// The least and the greatest hash in a block of a tree.
fn hashes(kind: BlockKind, block: &[u8]) -> (Option<u32>, Option<u32>) {
    let ends = |count: usize, hash: &dyn Fn(usize) -> Option<u32>| {
        (hash(0), count.checked_sub(1).and_then(hash))
    };
    match kind {
        BlockKind::DaNode => {
            Node::new(block).map(|n| ends(n.count, &|i| n.entry(i).map(|(hash, _)| hash)))
        }
        BlockKind::AttrLeaf => attr_leaf::Leaf::new(block).map(|l| ends(l.count, &|i| l.hash(i))),
        _ => {
            dir_leaf::Leaf::new(block).map(|l| ends(l.count, &|i| l.entry(i).map(|(hash, _)| hash)))
        }
    }
    .unwrap_or((None, None))
}

impl Scan {
    /// A finding about a place in a space.
    pub(super) fn space_found(&mut self, space: &Space<'_>, at: u64, reason: String) {
        self.source.found(space.name, format!("{}, file block {at:#x}", space.ino), reason);
    }
    /// Read the block at `at` of a space; nothing where there is a hole, or damage.
    pub(super) fn read_space(
        &mut self,
        space: &Space<'_>,
        at: u64,
        kinds: &[BlockKind],
    ) -> Result<Option<(BlockKind, Vec<u8>)>> {
        let runs = match space.fork.runs(&self.geometry, at, space.block_blocks) {
            Ok(Some(runs)) => runs,
            Ok(None) => {
                self.space_found(space, at, "a hole where a block should be".into());
                return Ok(None);
            }
            Err(reason) => {
                self.space_found(space, at, reason);
                return Ok(None);
            }
        };
        let Some((kind, bytes)) = self.source.block(&runs, kinds)? else { return Ok(None) };
        if let Some(owner) = kind.owner(&bytes)
            && Ino(owner) != space.ino
        {
            let reason = format!("it says it belongs to inode {owner}, {} has it", space.ino);
            let place = self.geometry.place(runs[0].sector);
            self.source.found(kind.name(), place, reason);
        }
        Ok(Some((kind, bytes)))
    }
    /// Walk the whole tree; `each` gets the leaves from left to right.
    pub(super) fn walk_hashes(&mut self, space: &Space<'_>, each: EachLeaf<'_>) -> Result<Walked> {
        let mut walked = Walked { whole: true, ..Walked::default() };
        let mut lefts: Vec<Option<Left>> = alloc::vec![None; MAX_LEVELS as usize + 1];
        let mut pending = Vec::new();
        pending.push(Visit { at: space.tree.start, parent: None });
        while let Some(visit) = pending.pop() {
            let at = visit.at;
            let fits = space.tree.contains(&at)
                && (at - space.tree.start).is_multiple_of(space.block_blocks)
                && (visit.parent.is_none() || at != space.tree.start);
            if !fits || !walked.seen.insert(at) {
                self.space_found(space, at, "a pointer to what is no block, or in use".into());
                walked.whole = false;
                continue;
            }
            let kinds = match visit.parent {
                None => space.roots,
                Some((1, _)) => space.leaves,
                Some(_) => &[BlockKind::DaNode],
            };
            let Some((kind, bytes)) = self.read_space(space, at, kinds)? else {
                walked.whole = false;
                continue;
            };
            walked.root = walked.root.or(Some(kind));
            let node = if kind == BlockKind::DaNode { Node::new(&bytes) } else { None };
            let level = node.map_or(0, |n| n.level);
            if visit.parent.is_some_and(|(above, _)| level + 1 != above) {
                let reason = format!("level {level} below level {:?}", visit.parent);
                self.space_found(space, at, reason);
                walked.whole = false;
                continue;
            }
            let left = lefts.get_mut(level as usize);
            for reason in check_neighbours(&visit, kind, &bytes, left, walked.whole) {
                self.space_found(space, at, reason);
            }
            match node {
                Some(node) => {
                    for (hash, child) in (0..node.count).rev().filter_map(|i| node.entry(i)) {
                        let parent = Some((level, hash));
                        push(&mut pending, Visit { at: child.into(), parent })?;
                    }
                }
                None => each(self, at, &bytes)?,
            }
        }
        for left in lefts.into_iter().flatten() {
            if walked.whole && left.forward != 0 {
                let reason = format!("behind it comes {:#x}, but the tree ends", left.forward);
                self.space_found(space, left.at, reason);
            }
        }
        Ok(walked)
    }
}

/// Compare a block with its parent and with the block to the left, whose place it takes.
fn check_neighbours(
    visit: &Visit,
    kind: BlockKind,
    bytes: &[u8],
    left: Option<&mut Option<Left>>,
    whole: bool,
) -> Vec<String> {
    let mut wrong = Vec::new();
    let (Some(info), Some(left)) = (BlockInfo::new(bytes), left) else { return wrong };
    let (least, greatest) = hashes(kind, bytes);
    if let Some((_, hash)) = visit.parent
        && greatest != Some(hash)
    {
        wrong.push(format!("its last hash is {greatest:x?}, its parent says {hash:#x}"));
    }
    let before = left.map_or(0, |l| l.at);
    if u64::from(info.backward()) != before && whole {
        wrong.push(format!("before it comes {before:#x}, it says {:#x}", info.backward()));
    }
    if let Some(left) = left {
        if left.forward != visit.at && whole {
            wrong.push(format!("the one before it says {:#x} comes next", left.forward));
        }
        if least.is_some_and(|least| least < left.hash) {
            wrong.push(format!("its first hash {least:x?} is below {:#x} before", left.hash));
        }
    }
    let hash = greatest.unwrap_or_else(|| left.map_or(0, |l| l.hash));
    *left = Some(Left { at: visit.at, forward: info.forward().into(), hash });
    wrong
}
