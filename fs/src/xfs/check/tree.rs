//! The shape of a group's b+trees: levels, fill, siblings, keys, order of records.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::source::Source;
use super::{Result, push};
use crate::xfs::buf::Run;
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::agf::Root;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::btree::{NULL_SHORT, Record, ShortBlock, ShortHeader};
use crate::xfs::ondisk::freesp::{ByBlock, BySize};
use crate::xfs::ondisk::inobt::RawChunk;
use crate::xfs::ondisk::refcountbt::Refcount;
use crate::xfs::ondisk::rmapbt::{BMBT_BLOCK, Rmap, UNWRITTEN};
use crate::xfs::ondisk::{be32, be64};
use crate::xfs::types::{AgBlock, AgNumber};

/// The greatest key below a pointer: last block, owner, offset.
pub(super) type HighKey = (u32, u64, u64);

/// A record of a tree that is checked.
pub(super) trait Checked: Record {
    /// The record's greatest key, in trees whose records overlap.
    fn high(&self) -> Option<HighKey> {
        None
    }
    /// A node's greatest key for a pointer; `bytes` are [`Record::KEY_BYTES`] long.
    fn decode_high(_bytes: &[u8]) -> Option<HighKey> {
        None
    }
}

impl Checked for ByBlock {}
impl Checked for BySize {}
impl Checked for RawChunk {}
impl Checked for Refcount {}
impl Checked for Rmap {
    fn high(&self) -> Option<HighKey> {
        let last = self.count.saturating_sub(1);
        // Only what lies in a file moves on with its blocks.
        let moves = (self.owner as i64) >= 0 && self.offset & BMBT_BLOCK == 0;
        let offset = if moves { self.offset.wrapping_add(last.into()) } else { self.offset };
        Some((self.start.saturating_add(last), self.owner, offset & !UNWRITTEN))
    }
    fn decode_high(bytes: &[u8]) -> Option<HighKey> {
        let half = bytes.get(Self::KEY_BYTES / 2..)?;
        Some((be32(half, 0)?, be64(half, 4)?, be64(half, 12)? & !UNWRITTEN))
    }
}

/// What was found in a tree.
pub(super) struct Contents<R> {
    /// Its records in order.
    pub(super) records: Vec<R>,
    /// Its blocks, the root included.
    pub(super) blocks: Vec<u32>,
    /// All of it could be read.
    pub(super) whole: bool,
}

struct Visit<K> {
    block: AgBlock,
    level: u32,
    /// What the parent says: the least key and the greatest.
    parent: Option<(K, Option<HighKey>)>,
}

/// The block of a level that was visited last.
struct Open<K> {
    block: u32,
    right: u32,
    last_key: Option<K>,
    /// What the parent says and what was found: the greatest key below.
    stated: Option<HighKey>,
    highest: Option<HighKey>,
}

struct Walk<'a, R: Checked> {
    source: &'a mut Source,
    geometry: &'a Geometry,
    ag: AgNumber,
    kind: BlockKind,
    top: u32,
    pending: Vec<Visit<R::Key>>,
    levels: Vec<Option<Open<R::Key>>>,
    seen: BTreeSet<u32>,
    contents: Contents<R>,
}

/// Walk a whole tree.
pub(super) fn walk<R: Checked>(
    source: &mut Source,
    geometry: &Geometry,
    ag: AgNumber,
    root: Root,
    kind: BlockKind,
) -> Result<Contents<R>> {
    let contents = Contents { records: Vec::new(), blocks: Vec::new(), whole: true };
    let levels = (0..root.levels).map(|_| None).collect();
    let top = root.levels - 1;
    let mut walk: Walk<'_, R> = Walk {
        source,
        geometry,
        ag,
        kind,
        top,
        pending: Vec::new(),
        levels,
        seen: BTreeSet::new(),
        contents,
    };
    walk.pending.push(Visit { block: root.block, level: top, parent: None });
    while let Some(visit) = walk.pending.pop() {
        if !walk.visit(&visit)? {
            walk.contents.whole = false;
        }
    }
    for level in 0..=top {
        if walk.contents.whole
            && let Some(last) = walk.close(level)
            && last.right != NULL_SHORT
        {
            let reason = format!("behind it comes block {}, but the tree ends", last.right);
            walk.found(last.block, reason);
        }
    }
    Ok(walk.contents)
}

impl<R: Checked> Walk<'_, R> {
    fn place(&self, block: u32) -> String {
        self.geometry.place(self.geometry.ag_sector(self.ag, AgBlock(block)))
    }
    fn found(&mut self, block: u32, reason: String) {
        let place = self.place(block);
        self.source.found(self.kind.name(), place, reason);
    }
    /// Visit a block; false if it and what lies below it could not be read.
    fn visit(&mut self, visit: &Visit<R::Key>) -> Result<bool> {
        let block = visit.block.0;
        if !self.geometry.has_ag_block(self.ag, visit.block) || !self.seen.insert(block) {
            let name = self.kind.name();
            let location = format!("AG {}", self.ag.0);
            let reason = format!("a pointer to block {block}, which does not exist or is in use");
            self.source.lost(name, location, reason);
            return Ok(false);
        }
        let sector = self.geometry.ag_sector(self.ag, visit.block);
        let run = Run { sector, bytes: self.geometry.block_bytes() as u32 };
        let Some((_, bytes)) = self.source.block(&[run], &[self.kind])? else { return Ok(false) };
        let Some(view) = ShortBlock::new(&bytes) else { return Ok(false) };
        if view.level() != visit.level {
            let reason = format!("level {} instead of {}", view.level(), visit.level);
            self.source.lost(self.kind.name(), self.geometry.place(sector), reason);
            return Ok(false);
        }
        push(&mut self.contents.blocks, block)?;
        self.check_fill(&view, visit);
        self.check_siblings(&view, visit);
        let first =
            if visit.level == 0 { view.record::<R>(0).map(|r| r.key()) } else { view.key::<R>(0) };
        if let Some((key, _)) = visit.parent
            && view.count() > 0
            && first != Some(key)
        {
            self.found(block, format!("it starts with {first:?}, its parent says {key:?}"));
        }
        if visit.level == 0 {
            self.take_records(&view, block)?;
        } else {
            self.take_children(&view, &bytes, block, visit.level)?;
        }
        Ok(true)
    }
    fn check_fill(&mut self, view: &ShortBlock<'_>, visit: &Visit<R::Key>) {
        let unit = if visit.level == 0 { R::BYTES } else { R::KEY_BYTES + 4 };
        let room = (self.geometry.block_bytes() - ShortHeader::SIZE) / unit;
        let least = match (visit.parent.is_some(), visit.level) {
            (true, _) => room / 2,
            (false, 0) => 0,
            // A root with one child would have been taken out.
            (false, _) => 2,
        };
        if view.count() < least {
            let reason = format!("{} records, at least {least} there must be", view.count());
            self.found(visit.block.0, reason);
        }
    }
    /// Compare with the block to the left, and take its place.
    fn check_siblings(&mut self, view: &ShortBlock<'_>, visit: &Visit<R::Key>) {
        let (left, right) = (view.header.left(), view.header.right());
        let before = self.close(visit.level);
        let expected = before.as_ref().map_or(NULL_SHORT, |b| b.block);
        if left != expected && self.contents.whole {
            let reason = format!("left of it should be {expected:#x}, it says {left:#x}");
            self.found(visit.block.0, reason);
        }
        let last_key = match before {
            Some(before) => {
                if before.right != visit.block.0 && self.contents.whole {
                    let reason = format!(
                        "right of it should be {:#x}, it says {:#x}",
                        visit.block.0, before.right
                    );
                    self.found(before.block, reason);
                }
                before.last_key
            }
            None => None,
        };
        if let Some(open) = self.levels.get_mut(visit.level as usize) {
            let stated = visit.parent.and_then(|(_, high)| high);
            let block = visit.block.0;
            *open = Some(Open { block, right, last_key, stated, highest: None });
        }
    }
    /// A block's subtree has been visited: is its parent right about it?
    fn close(&mut self, level: u32) -> Option<Open<R::Key>> {
        let open = self.levels.get_mut(level as usize)?.take()?;
        if open.stated.is_some() && open.stated != open.highest && self.contents.whole {
            let reason = format!(
                "the greatest key below it is {:?}, its parent says {:?}",
                open.highest, open.stated
            );
            self.found(open.block, reason);
        }
        Some(open)
    }
    /// Keys rise over the whole level.
    fn check_order(&mut self, block: u32, level: u32, i: usize, key: R::Key) {
        let Some(Some(open)) = self.levels.get_mut(level as usize) else { return };
        let last = open.last_key.replace(key);
        if last.is_some_and(|last| last >= key) {
            self.found(block, format!("key {i} is {key:?}, behind {last:?}"));
        }
    }
    fn take_records(&mut self, view: &ShortBlock<'_>, block: u32) -> Result<()> {
        let mut highest = None;
        for i in 0..view.count() {
            let Some(record) = view.record::<R>(i) else { continue };
            self.check_order(block, 0, i, record.key());
            highest = highest.max(record.high());
            push(&mut self.contents.records, record)?;
        }
        for open in self.levels.iter_mut().flatten() {
            open.highest = open.highest.max(highest);
        }
        Ok(())
    }
    fn take_children(
        &mut self,
        view: &ShortBlock<'_>,
        bytes: &[u8],
        block: u32,
        level: u32,
    ) -> Result<()> {
        debug_assert!(level <= self.top);
        let start = self.pending.len();
        for i in 0..view.count() {
            let (Some(key), Some(child)) = (view.key::<R>(i), view.child::<R>(i)) else { continue };
            self.check_order(block, level, i, key);
            let at = ShortHeader::SIZE + i * R::KEY_BYTES;
            let high = bytes.get(at..at + R::KEY_BYTES).and_then(R::decode_high);
            let parent = Some((key, high));
            push(&mut self.pending, Visit { block: AgBlock(child), level: level - 1, parent })?;
        }
        // The first one is to be taken next.
        self.pending[start..].reverse();
        Ok(())
    }
}
