//! Insertion.
//!
//! ```text
//! full leaf ── a neighbour under the same parent has room? ── shift records there
//!      └────── otherwise: split, and insert the new half into the parent
//! full root ── in a block: split, and a new root above
//!      └────── in an inode: its contents move to a new block, one level more
//! ```
//!
//! First comes the plan: from the leaf up, what each level needs. It reads neighbours and
//! allocates blocks. Then all is carried out, which cannot fail.

use alloc::sync::Arc;
use alloc::vec::Vec;

use super::cursor::{At, Cursor};
use super::node::{Access, BODY_BYTES, Header, Layout, Node, Raw, Step, place};
use super::shape::Shape;
use crate::error::{Error, Result};
use crate::xfs::buf::Buffer;
use crate::xfs::ondisk::btree::Record;
use crate::xfs::ondisk::ensure;
use crate::xfs::trans::Trans;

/// How one level makes room.
enum Room {
    /// It is there.
    Enough,
    /// The last entries go to the right neighbour.
    Right(Arc<Buffer>, usize),
    /// The first entries go to the left neighbour.
    Left(Arc<Buffer>, usize),
    /// The last entries go to a new block; the neighbour right of it must know.
    Split(Option<Arc<Buffer>>),
    /// All entries of a root within an inode go to a new block.
    Down,
}

/// A block taken for the tree.
struct Fresh {
    block: u64,
    buffer: Arc<Buffer>,
}

impl<S: Shape> Cursor<S> {
    /// Insert a record; the cursor stands on it afterwards.
    ///
    /// # Errors
    /// [`Error::NoSpace`] if there is no block for the tree: then nothing was changed.
    /// I/O errors; damage, which includes that there is a record with this key.
    pub fn insert(&mut self, tp: &mut Trans<'_>, record: &S::Record) -> Result<()> {
        let key = record.key();
        let index = self.place_for(tp, &key)?;
        self.at = At::Nowhere;
        self.try_node(0, |node| {
            let free = index == node.count() || node.key(index) != key;
            ensure!(free, "there is a record {:?} already", key);
            Ok(())
        })?;
        self.path[0].index = index;
        let (rooms, blocks) = self.plan_insertion(tp)?;
        let mut fresh = self.allocate_all(tp, blocks)?;
        let simple = rooms.len() == 1 && matches!(rooms[0], Room::Enough);
        let mut raw = Raw::record(record);
        let mut index = index;
        let mut level = 0;
        for room in rooms {
            match self.make_room(tp, level, index, &raw, room, &mut fresh)? {
                Some(new) => {
                    raw = new;
                    index = self.path.get(level + 1).map_or(0, |step| step.index + 1);
                    level += 1;
                }
                None => self.refresh_up(tp, level)?,
            }
        }
        self.at = if simple { At::Record } else { At::From(key) };
        Ok(())
    }
    /// What each level from the leaf up needs, and how many new blocks that takes.
    fn plan_insertion(&mut self, tp: &mut Trans<'_>) -> Result<(Vec<Room>, usize)> {
        let mut rooms = Vec::new();
        let mut blocks = 0;
        for level in 0..self.path.len() {
            let index = if level == 0 { self.path[0].index } else { self.path[level].index + 1 };
            let room = self.plan_level(tp, level, index)?;
            let is_split = matches!(room, Room::Split(_));
            blocks += usize::from(is_split || matches!(room, Room::Down));
            rooms.push(room);
            if !is_split {
                return Ok((rooms, blocks));
            }
        }
        // The root is split: there will be a new one.
        Ok((rooms, blocks + 1))
    }
    fn plan_level(&mut self, tp: &mut Trans<'_>, level: usize, index: usize) -> Result<Room> {
        let count = self.count(level)?;
        let layout = self.layout(level);
        if count < layout.most {
            return Ok(Room::Enough);
        }
        if self.path[level].buffer.is_none() {
            return Ok(Room::Down);
        }
        if level + 1 < self.path.len() {
            // What is inserted stays in this block: so much may go to either side.
            for (right, limit) in [(true, count - index), (false, index)] {
                if limit == 0 {
                    continue;
                }
                let Some((_, sibling)) = self.sibling(tp, level, right)? else { continue };
                let taken = self.try_buffer(&sibling, &layout, |node| Ok(node.count()))?;
                if taken < layout.most {
                    let shifted = (layout.most - taken).div_ceil(2).min(limit);
                    return Ok(if right {
                        Room::Right(sibling, shifted)
                    } else {
                        Room::Left(sibling, shifted)
                    });
                }
            }
        }
        let Some(buffer) = self.path[level].buffer.clone() else { return Ok(Room::Down) };
        let right = self.right_of(tp, level, self.path[level].block, &buffer)?;
        Ok(Room::Split(right))
    }
    /// Take this many blocks for the tree, or none.
    fn allocate_all(&mut self, tp: &mut Trans<'_>, blocks: usize) -> Result<Vec<Fresh>> {
        let mut fresh: Vec<Fresh> = Vec::with_capacity(blocks);
        // A root within an inode has no block: its child is near enough.
        let near = self.path[0].block;
        while fresh.len() < blocks {
            let Some(block) = self.shape.allocate(tp, near)? else {
                for taken in fresh {
                    tp.invalidate(&taken.buffer);
                    self.shape.free(tp, taken.block)?;
                }
                return Err(Error::NoSpace);
            };
            let Some(place) = place(&self.shape, tp.mount().geometry(), block) else {
                let reason = alloc::format!("it was given block {block:#x}, which does not exist");
                return Err(self.damage(0, reason));
            };
            let buffer = tp.create_block(place, self.shape.kind())?;
            fresh.push(Fresh { block, buffer });
        }
        Ok(fresh)
    }
    /// Insert an entry on a level; if that splits the block, the entry for the parent.
    fn make_room(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        index: usize,
        raw: &Raw,
        room: Room,
        fresh: &mut Vec<Fresh>,
    ) -> Result<Option<Raw>> {
        let layout = self.layout(level);
        let parent = self.path.get(level + 1).map_or(0, |step| step.index);
        match room {
            Room::Enough => self.access(tp, level).insert(&layout, index, raw),
            Room::Right(sibling, shifted) => {
                let mut from = self.access(tp, level);
                let mut to = Access::Block(tp.edit(&sibling));
                let kept = layout.most - shifted;
                to.insert_from(&layout, 0, (&from, &layout), kept..layout.most);
                from.set_count(&layout, kept);
                from.insert(&layout, index, raw);
                drop((from, to));
                let keys = self.try_buffer(&sibling, &layout, |node| Ok(node.keys()))?;
                self.refresh(tp, level + 1, parent + 1, &keys)?;
            }
            Room::Left(sibling, shifted) => {
                let mut from = self.access(tp, level);
                let mut to = Access::Block(tp.edit(&sibling));
                let end = Node::<S::Record>::new(&to, layout).map_or(0, |node| node.count());
                to.insert_from(&layout, end, (&from, &layout), 0..shifted);
                from.remove(&layout, 0..shifted);
                from.insert(&layout, index - shifted, raw);
                drop((from, to));
                let keys = self.try_buffer(&sibling, &layout, |node| Ok(node.keys()))?;
                self.refresh(tp, level + 1, parent - 1, &keys)?;
            }
            Room::Split(right) => return self.split(tp, level, index, raw, right, fresh).map(Some),
            Room::Down => {
                self.push_down(tp, level, fresh)?;
                let layout = self.layout(level);
                self.access(tp, level).insert(&layout, index, raw);
            }
        }
        Ok(None)
    }
    /// Move the upper half of a block to a new one and insert an entry into one of them.
    fn split(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        index: usize,
        raw: &Raw,
        right: Option<Arc<Buffer>>,
        fresh: &mut Vec<Fresh>,
    ) -> Result<Raw> {
        let Some(new) = fresh.pop() else { return Err(Error::NoSpace) };
        let layout = self.layout(level);
        let block = self.path[level].block;
        // With the new entry, half on each side.
        let left_count = (layout.most + 1).div_ceil(2);
        let goes_left = index < left_count;
        let kept = if goes_left { left_count - 1 } else { left_count };
        let neighbour = self.with_node(level, |node| node.right())?;
        self.init(tp, &new, &layout, Some(block), neighbour);
        let mut from = self.access(tp, level);
        let mut to = Access::Block(tp.edit(&new.buffer));
        to.insert_from(&layout, 0, (&from, &layout), kept..layout.most);
        from.set_count(&layout, kept);
        from.set_right(&layout, Some(new.block));
        if goes_left {
            from.insert(&layout, index, raw);
        } else {
            to.insert(&layout, index - kept, raw);
        }
        drop((from, to));
        if let Some(right) = right {
            Access::Block(tp.edit(&right)).set_left(&layout, Some(new.block));
        }
        let keys = self.with_node(level, |node| node.keys())?;
        let new_keys = self.try_buffer(&new.buffer, &layout, |node| Ok(node.keys()))?;
        if level + 1 < self.path.len() {
            let parent = self.path[level + 1].index;
            self.refresh(tp, level + 1, parent, &keys)?;
        } else {
            self.new_root(tp, level, (block, keys), (new.block, new_keys), fresh)?;
        }
        Ok(Raw { body: new_keys, child: new.block })
    }
    /// The root was split: put a root above both halves.
    fn new_root(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        left: (u64, [u8; BODY_BYTES]),
        right: (u64, [u8; BODY_BYTES]),
        fresh: &mut Vec<Fresh>,
    ) -> Result<()> {
        let Some(root) = fresh.pop() else { return Err(Error::NoSpace) };
        let layout = Layout::block::<S>(tp.mount().geometry().block_bytes(), level as u32 + 1);
        self.init(tp, &root, &layout, None, None);
        let mut access = Access::Block(tp.edit(&root.buffer));
        access.insert(&layout, 0, &Raw { body: left.1, child: left.0 });
        access.insert(&layout, 1, &Raw { body: right.1, child: right.0 });
        drop(access);
        self.shape.set_root(tp, root.block, level as u32 + 2)
    }
    /// The root within an inode is full: its contents move to a block of their own.
    fn push_down(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        fresh: &mut Vec<Fresh>,
    ) -> Result<()> {
        let Some(new) = fresh.pop() else { return Err(Error::NoSpace) };
        let from = self.layout(level);
        let index = self.path[level].index;
        let below = Layout::block::<S>(tp.mount().geometry().block_bytes(), level as u32);
        self.init(tp, &new, &below, None, None);
        let count = self.count(level)?;
        let mut access = Access::Block(tp.edit(&new.buffer));
        access.insert_from(&below, 0, (self.shape.inline_root(), &from), 0..count);
        drop(access);
        let keys = self.try_buffer(&new.buffer, &below, |node| Ok(node.keys()))?;
        let bytes = self.shape.inline_root_mut();
        let above = Layout::inline::<S>(bytes.len(), level as u32 + 1);
        let mut root = Access::Inline(bytes);
        root.set_level(&above);
        root.set_count(&above, 0);
        root.insert(&above, 0, &Raw { body: keys, child: new.block });
        drop(root);
        self.path[level] = Step { block: new.block, buffer: Some(new.buffer), index };
        self.path.push(Step { block: 0, buffer: None, index: 0 });
        Ok(())
    }
    fn init(
        &self,
        tp: &mut Trans<'_>,
        new: &Fresh,
        layout: &Layout,
        left: Option<u64>,
        right: Option<u64>,
    ) {
        let geometry = tp.mount().geometry();
        let place = geometry.block_at(new.buffer.sector());
        let (kind, owner) = (self.shape.kind(), self.shape.owner());
        let header = Header { kind, geometry, place, owner, left, right };
        Access::Block(tp.edit(&new.buffer)).init(layout, &header);
    }
}
