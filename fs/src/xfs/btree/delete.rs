//! Deletion.
//!
//! ```text
//! too few left ── a neighbour under the same parent has some to spare? ── take them
//!       └──────── otherwise: join with it, and delete its entry in the parent
//! root with one child ── in a block: the child is the root
//!       └─────────────── in an inode: the child's contents move there if they fit
//! ```
//!
//! First comes the plan, which reads all neighbours that are needed. Then all is carried
//! out; blocks that are left over are given back last.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::cursor::{At, Cursor};
use super::node::{Access, Layout, Node};
use super::shape::Shape;
use crate::error::Result;
use crate::xfs::buf::Buffer;
use crate::xfs::ondisk::btree::Record;
use crate::xfs::trans::Trans;

/// How one level gets along with an entry less.
enum Mend {
    /// As it is.
    Enough,
    /// The first entries of the right neighbour come here.
    FromRight(Arc<Buffer>, usize),
    /// The last entries of the left neighbour come here.
    FromLeft(Arc<Buffer>, usize),
    /// All entries of the right neighbour come here.
    JoinRight(Join),
    /// All entries go to the left neighbour.
    JoinLeft(Join),
}

struct Join {
    /// The neighbour.
    block: u64,
    buffer: Arc<Buffer>,
    /// The block right of both.
    behind: Option<Arc<Buffer>>,
}

impl<S: Shape> Cursor<S> {
    /// Delete the record the cursor stands on; afterwards it stands on the next one.
    ///
    /// # Errors
    /// I/O errors; damage, which includes that there is no record.
    pub fn delete(&mut self, tp: &mut Trans<'_>) -> Result<()> {
        let Some(record) = self.get(tp)? else {
            return Err(self.damage(0, "there is no record to delete".into()));
        };
        let key = record.key();
        let mends = self.plan_deletion(tp)?;
        let simple = mends.len() == 1 && matches!(mends[0], Mend::Enough);
        let levels = self.path.len();
        self.at = At::Nowhere;
        let mut freed = Vec::new();
        let mut index = self.path[0].index;
        for (level, mend) in mends.into_iter().enumerate() {
            index = self.mend(tp, level, index, mend, &mut freed)?;
        }
        self.lower_root(tp, &mut freed)?;
        for block in freed {
            self.shape.free(tp, block)?;
        }
        let stays = simple && self.path.len() == levels && self.path[0].index < self.count(0)?;
        self.at = if stays { At::Record } else { At::From(key) };
        Ok(())
    }
    fn plan_deletion(&mut self, tp: &mut Trans<'_>) -> Result<Vec<Mend>> {
        let mut mends = Vec::new();
        for level in 0..self.path.len() {
            let mend = self.plan_mend(tp, level)?;
            let goes_on = matches!(mend, Mend::JoinRight(_) | Mend::JoinLeft(_));
            mends.push(mend);
            if !goes_on {
                break;
            }
        }
        Ok(mends)
    }
    fn plan_mend(&mut self, tp: &mut Trans<'_>, level: usize) -> Result<Mend> {
        let layout = self.layout(level);
        let after = self.count(level)?.saturating_sub(1);
        if level + 1 == self.path.len() || after >= layout.least() {
            return Ok(Mend::Enough);
        }
        let mut sides = [None, None];
        for (side, right) in sides.iter_mut().zip([true, false]) {
            let Some((block, buffer)) = self.sibling(tp, level, right)? else { continue };
            let count = self.try_buffer(&buffer, &layout, |node| Ok(node.count()))?;
            if count > layout.least() {
                let moved = ((count - after) / 2).max(1);
                return Ok(if right {
                    Mend::FromRight(buffer, moved)
                } else {
                    Mend::FromLeft(buffer, moved)
                });
            }
            *side = Some((block, buffer, count));
        }
        let [right, left] = sides;
        if let Some((block, buffer, count)) = right
            && after + count <= layout.most
        {
            let behind = self.right_of(tp, level, block, &buffer)?;
            return Ok(Mend::JoinRight(Join { block, buffer, behind }));
        }
        if let (Some((block, buffer, count)), Some(here)) = (left, self.path[level].buffer.clone())
            && after + count <= layout.most
        {
            let behind = self.right_of(tp, level, self.path[level].block, &here)?;
            return Ok(Mend::JoinLeft(Join { block, buffer, behind }));
        }
        // The only child of a root within an inode.
        Ok(Mend::Enough)
    }
    /// Remove an entry of a level and do what was planned; the entry of the parent that
    /// has to go after a join.
    fn mend(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        index: usize,
        mend: Mend,
        freed: &mut Vec<u64>,
    ) -> Result<usize> {
        let layout = self.layout(level);
        let parent = self.path.get(level + 1).map_or(0, |step| step.index);
        self.access(tp, level).remove(&layout, index..index + 1);
        match mend {
            Mend::Enough => self.refresh_up(tp, level)?,
            Mend::FromRight(sibling, moved) => {
                let mut to = self.access(tp, level);
                let mut from = Access::Block(tp.edit(&sibling));
                let end = entries::<S>(&to, &layout);
                to.insert_from(&layout, end, (&from, &layout), 0..moved);
                from.remove(&layout, 0..moved);
                drop((to, from));
                self.refresh_sibling(tp, level, parent + 1, &sibling)?;
                self.refresh_up(tp, level)?;
            }
            Mend::FromLeft(sibling, moved) => {
                let mut to = self.access(tp, level);
                let mut from = Access::Block(tp.edit(&sibling));
                let end = entries::<S>(&from, &layout);
                to.insert_from(&layout, 0, (&from, &layout), end - moved..end);
                from.set_count(&layout, end - moved);
                drop((to, from));
                self.refresh_sibling(tp, level, parent - 1, &sibling)?;
                self.refresh_up(tp, level)?;
            }
            Mend::JoinRight(Join { block, buffer, behind }) => {
                let here = self.path[level].block;
                let mut to = self.access(tp, level);
                join::<S>(&mut to, &buffer, &layout);
                drop(to);
                if let Some(behind) = behind {
                    Access::Block(tp.edit(&behind)).set_left(&layout, Some(here));
                }
                tp.invalidate(&buffer);
                freed.push(block);
                let keys = self.with_node(level, |node| node.keys())?;
                self.refresh(tp, level + 1, parent, &keys)?;
                return Ok(parent + 1);
            }
            Mend::JoinLeft(Join { block, buffer, behind }) => {
                let gone = self.path[level].block;
                if let Some(old) = self.path[level].buffer.replace(buffer.clone()) {
                    let mut to = Access::Block(tp.edit(&buffer));
                    join::<S>(&mut to, &old, &layout);
                    drop(to);
                    tp.invalidate(&old);
                }
                self.path[level].block = block;
                if let Some(behind) = behind {
                    Access::Block(tp.edit(&behind)).set_left(&layout, Some(block));
                }
                freed.push(gone);
                self.refresh_sibling(tp, level, parent - 1, &buffer)?;
                return Ok(parent);
            }
        }
        Ok(0)
    }
    /// A neighbour on `level` has changed: its parent's entry `index` is of it.
    fn refresh_sibling(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        index: usize,
        sibling: &Arc<Buffer>,
    ) -> Result<()> {
        let layout = self.layout(level);
        let keys = self.try_buffer(sibling, &layout, |node| Ok(node.keys()))?;
        self.refresh(tp, level + 1, index, &keys).map(|_| ())
    }
    /// A root with one child is one level too high.
    fn lower_root(&mut self, tp: &mut Trans<'_>, freed: &mut Vec<u64>) -> Result<()> {
        while self.path.len() > 1 {
            let top = self.path.len() - 1;
            let (count, child) = self.with_node(top, |n| (n.count(), n.child(0)))?;
            // The joins left the path on the child that remains, or it was alone before.
            if count != 1 || self.path[top - 1].block != child {
                return Ok(());
            }
            if let Some(root) = self.path[top].buffer.clone() {
                self.shape.set_root(tp, child, top as u32)?;
                freed.push(self.path[top].block);
                tp.invalidate(&root);
                self.path.pop();
                continue;
            }
            // A root within an inode is never a leaf.
            if top < 2 {
                return Ok(());
            }
            let Some(buffer) = self.path[top - 1].buffer.clone() else { return Ok(()) };
            let from = self.layout(top - 1);
            let to = Layout::inline::<S>(self.shape.inline_root().len(), top as u32 - 1);
            let bytes = buffer.read();
            let count = entries::<S>(&bytes, &from);
            if count > to.most {
                return Ok(());
            }
            let mut root = Access::Inline(self.shape.inline_root_mut());
            root.set_level(&to);
            root.set_count(&to, 0);
            root.insert_from(&to, 0, (&bytes, &from), 0..count);
            drop((root, bytes));
            tp.invalidate(&buffer);
            freed.push(child);
            self.path.pop();
            self.path[top - 1].buffer = None;
        }
        Ok(())
    }
}

fn entries<S: Shape>(bytes: &[u8], layout: &Layout) -> usize {
    Node::<S::Record>::new(bytes, *layout).map_or(0, |node| node.count())
}

/// Move all entries of the right one of two neighbours to the left one.
fn join<S: Shape>(to: &mut Access<'_>, from: &Arc<Buffer>, layout: &Layout) {
    let bytes = from.read();
    let Ok(node) = Node::<S::Record>::new(&bytes, *layout) else { return };
    let (count, behind) = (node.count(), node.right());
    let end = entries::<S>(to, layout);
    to.insert_from(layout, end, (&bytes, layout), 0..count);
    to.set_right(layout, behind);
}
