//! Walking the b+trees of an allocation group.

use alloc::format;
use alloc::vec::Vec;

use crate::error::{Corruption, Result};
use crate::xfs::buf::{BufferCache, Run};
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::agf::Root;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::btree::{Record, ShortBlock};
use crate::xfs::ondisk::{Check, ensure};
use crate::xfs::types::{AgBlock, AgNumber};

/// A tree to walk.
pub struct Tree<'a> {
    /// Where blocks come from.
    pub buffers: &'a BufferCache,
    /// The shape of the file system.
    pub geometry: &'a Geometry,
    /// The group the tree is of.
    pub ag: AgNumber,
    /// Its root.
    pub root: Root,
    /// What its blocks are.
    pub kind: BlockKind,
}

struct Visit<K> {
    block: AgBlock,
    /// What the parent says the block starts with.
    key: Option<K>,
    level: u32,
}

impl Tree<'_> {
    /// Visit the records in order, from the last one that does not start behind `from`
    /// on, until `each` returns false. `each` runs with a block's contents locked: it
    /// must not read others.
    ///
    /// # Errors
    /// I/O errors, damage; what `each` finds wrong with a record.
    pub fn walk<R: Record>(
        &self,
        from: Option<R::Key>,
        each: &mut dyn FnMut(R) -> Check<bool>,
    ) -> Result<()> {
        let mut pending = Vec::new();
        pending.push(Visit { block: self.root.block, key: None, level: self.root.levels - 1 });
        // Records rise strictly over the whole walk, so no block can come twice.
        let mut last: Option<R::Key> = None;
        while let Some(visit) = pending.pop() {
            let sector = self.geometry.ag_sector(self.ag, visit.block);
            let located = |reason| Corruption {
                structure: self.kind.name(),
                location: self.geometry.place(sector),
                reason,
            };
            if !self.geometry.has_ag_block(self.ag, visit.block) {
                return Err(located("there is no such block".into()).into());
            }
            let run = Run { sector, bytes: self.geometry.block_bytes() as u32 };
            let buffer = self.buffers.read(&[run], &[self.kind])?;
            let bytes = buffer.read();
            let Some(block) = ShortBlock::new(&bytes) else { continue };
            let more = visit_block(&block, &visit, from, &mut last, &mut pending, each)
                .map_err(located)?;
            if !more {
                break;
            }
        }
        Ok(())
    }
}

fn visit_block<R: Record>(
    block: &ShortBlock<'_>,
    visit: &Visit<R::Key>,
    from: Option<R::Key>,
    last: &mut Option<R::Key>,
    pending: &mut Vec<Visit<R::Key>>,
    each: &mut dyn FnMut(R) -> Check<bool>,
) -> Check<bool> {
    ensure!(block.level() == visit.level, "level {} instead of {}", block.level(), visit.level);
    // Only a tree without records has an empty block: its root.
    ensure!(block.count() > 0 || (visit.key.is_none() && visit.level == 0), "it is empty");
    let first =
        if visit.level == 0 { block.record::<R>(0).map(|r| r.key()) } else { block.key::<R>(0) };
    ensure!(
        visit.key.is_none() || first == visit.key,
        "starts with {first:?}, the parent says {:?}",
        visit.key
    );
    if visit.level > 0 {
        return push_children::<R>(block, from, visit.level - 1, pending).map(|()| true);
    }
    // The last record that does not start behind `from`.
    let mut start = 0;
    if let Some(from) = from {
        while start + 1 < block.count()
            && block.record::<R>(start + 1).is_some_and(|r| r.key() <= from)
        {
            start += 1;
        }
    }
    for record in (start..block.count()).filter_map(|i| block.record::<R>(i)) {
        let key = record.key();
        ensure!(last.is_none_or(|last| last < key), "record {key:?} behind {last:?}");
        *last = Some(key);
        if !each(record)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn push_children<R: Record>(
    block: &ShortBlock<'_>,
    from: Option<R::Key>,
    level: u32,
    pending: &mut Vec<Visit<R::Key>>,
) -> Check {
    let mut start = 0;
    let mut last = None;
    for i in 0..block.count() {
        let key = block.key::<R>(i);
        ensure!(i == 0 || key > last, "key {i} is {key:?} behind {last:?}");
        last = key;
        if from.is_some() && key <= from {
            start = i;
        }
    }
    for i in (start..block.count()).rev() {
        let Some(child) = block.child::<R>(i) else {
            return Err(format!("no pointer {i}"));
        };
        pending.push(Visit { block: AgBlock(child), key: block.key::<R>(i), level });
    }
    Ok(())
}
