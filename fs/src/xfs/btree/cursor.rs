//! A place in a tree: going down from the root, sideways, reading and changing records.

use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::node::{Access, BODY_BYTES, Layout, Node, Raw, Step, level_of, place};
use super::shape::{Root, Shape};
use crate::error::{Corruption, Result};
use crate::xfs::buf::Buffer;
use crate::xfs::ondisk::btree::Record;
use crate::xfs::ondisk::{Check, ensure};
use crate::xfs::trans::Trans;
use crate::xfs::types::Ino;

/// What the records of a tree are ordered by.
pub type KeyOf<S> = <<S as Shape>::Record as Record>::Key;

/// More levels than any tree has: a root that claims more is damaged.
const MAX_LEVELS: u32 = 16;

/// A place in a tree: on a record, before the first one or behind the last one.
///
/// Nobody else may change the tree while a cursor stands in it.
#[derive(Clone)]
pub struct Cursor<S: Shape> {
    pub(super) shape: S,
    /// From the leaf up to the root.
    pub(super) path: Vec<Step>,
    pub(super) at: At<KeyOf<S>>,
}

/// Where a cursor stands.
#[derive(Clone, Copy)]
pub(super) enum At<K> {
    /// Nowhere: nothing was looked up yet, or going on failed.
    Nowhere,
    /// On the first record not before this key, once somebody asks.
    From(K),
    /// Where the path leads.
    Record,
    /// Before the first record, which the path leads to.
    Before,
    /// Behind the last record; the path leads there.
    Behind,
}

/// Where to go down.
enum Way<K> {
    First,
    Last,
    To(K),
}

/// What is known of a block before it is read.
struct Expected<K> {
    block: u64,
    /// Nothing for a root, whose level is known from elsewhere.
    key: Option<K>,
    level: u32,
    /// Neighbours, as far as the parent tells: `Some(None)` is the edge of the tree.
    left: Option<Option<u64>>,
    right: Option<Option<u64>>,
}

impl<S: Shape> Cursor<S> {
    /// A cursor that stands nowhere yet.
    pub const fn new(shape: S) -> Self {
        Self { shape, path: Vec::new(), at: At::Nowhere }
    }
    /// What the tree is.
    pub const fn shape(&self) -> &S {
        &self.shape
    }
    /// What the tree is, to be changed. The root's bytes must stay as they are.
    pub const fn shape_mut(&mut self) -> &mut S {
        &mut self.shape
    }
    /// Levels of the tree.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn levels(&self, tp: &mut Trans<'_>) -> Result<u32> {
        let root = self.shape.root(tp)?;
        Ok(self.levels_of(root))
    }
    fn levels_of(&self, root: Root) -> u32 {
        match root {
            Root::Block { levels, .. } => levels,
            Root::Inline => level_of(self.shape.inline_root(), true).unwrap_or(0) + 1,
        }
    }
    /// Go to the last record that is not behind `key`, or, if there is none, before the
    /// first one. Is there one?
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn lookup_le(&mut self, tp: &mut Trans<'_>, key: &KeyOf<S>) -> Result<bool> {
        let (rank, _) = self.seek(tp, key, true)?;
        if rank == 0 {
            self.at = At::Before;
            return Ok(false);
        }
        self.path[0].index = rank - 1;
        self.at = At::Record;
        Ok(true)
    }
    /// Go to the first record that is not before `key`, or, if there is none, behind the
    /// last one. Is there one?
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn lookup_ge(&mut self, tp: &mut Trans<'_>, key: &KeyOf<S>) -> Result<bool> {
        let (rank, count) = self.seek(tp, key, false)?;
        self.path[0].index = rank;
        self.at = At::Record;
        if rank < count { Ok(true) } else { self.go_right(tp) }
    }
    /// Go to the record with this key; if there is none, to the first one behind it. Is
    /// there one?
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn lookup_eq(&mut self, tp: &mut Trans<'_>, key: &KeyOf<S>) -> Result<bool> {
        if !self.lookup_ge(tp, key)? {
            return Ok(false);
        }
        let index = self.path[0].index;
        self.with_node(0, |node| node.key(index) == *key)
    }
    /// Go to the first record, if there is one.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn first(&mut self, tp: &mut Trans<'_>) -> Result<bool> {
        self.descend(tp, &Way::First)?;
        let any = self.count(0)? > 0;
        self.at = if any { At::Record } else { At::Behind };
        Ok(any)
    }
    /// Go to the last record, if there is one.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn last(&mut self, tp: &mut Trans<'_>) -> Result<bool> {
        self.descend(tp, &Way::Last)?;
        let any = self.count(0)? > 0;
        self.at = if any { At::Record } else { At::Before };
        Ok(any)
    }
    /// As [`Cursor::last`], the shorter way if the cursor is in the last leaf already.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub(in crate::xfs) fn last_from_here(&mut self, tp: &mut Trans<'_>) -> Result<bool> {
        if matches!(self.at, At::Record | At::Before | At::Behind) {
            let (count, ends) = self.with_node(0, |n| (n.count(), n.right().is_none()))?;
            if ends && count > 0 {
                self.path[0].index = count - 1;
                self.at = At::Record;
                return Ok(true);
            }
        }
        self.last(tp)
    }
    /// The record the cursor stands on.
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn get(&mut self, tp: &mut Trans<'_>) -> Result<Option<S::Record>> {
        if !self.settle(tp)? {
            return Ok(None);
        }
        let index = self.path[0].index;
        self.with_node(0, |node| Some(node.record(index)))
    }
    /// Go on to the next record, or behind the last one. Is there one?
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn next(&mut self, tp: &mut Trans<'_>) -> Result<bool> {
        self.settle(tp)?;
        match self.at {
            At::Before => return self.first(tp),
            At::Record => {}
            _ => return Ok(false),
        }
        self.path[0].index += 1;
        if self.path[0].index < self.count(0)? { Ok(true) } else { self.go_right(tp) }
    }
    /// Go back to the previous record, or before the first one. Is there one?
    ///
    /// # Errors
    /// I/O errors and damage.
    pub fn previous(&mut self, tp: &mut Trans<'_>) -> Result<bool> {
        self.settle(tp)?;
        match self.at {
            At::Behind => return self.last(tp),
            At::Record => {}
            _ => return Ok(false),
        }
        if self.path[0].index > 0 {
            self.path[0].index -= 1;
            return Ok(true);
        }
        let Some(turn) = (1..self.path.len()).find(|&l| self.path[l].index > 0) else {
            self.at = At::Before;
            return Ok(false);
        };
        self.path[turn].index -= 1;
        self.descend_from(tp, turn, &Way::Last)?;
        self.at = At::Record;
        Ok(true)
    }
    /// Change the record the cursor stands on. Its key may change as long as it stays
    /// between its neighbours.
    ///
    /// # Errors
    /// I/O errors; damage, which includes that there is no record or it would be out of
    /// order.
    pub fn update(&mut self, tp: &mut Trans<'_>, record: &S::Record) -> Result<()> {
        if !self.settle(tp)? {
            return Err(self.damage(0, "there is no record to change".into()));
        }
        let index = self.path[0].index;
        let key = record.key();
        self.try_node(0, |node| {
            let fits = (index == 0 || node.key(index - 1) < key)
                && (index + 1 >= node.count() || key < node.key(index + 1));
            ensure!(fits, "record {record:?} would be out of order");
            Ok(())
        })?;
        let layout = self.layout(0);
        self.access(tp, 0).set_record(&layout, index, &Raw::record(record));
        self.refresh_up(tp, 0)
    }
    /// Put another record in place of the one the cursor stands on, wherever its key
    /// belongs. The cursor stands on it afterwards.
    ///
    /// # Errors
    /// As [`Cursor::update`] and [`Cursor::insert`].
    pub fn replace(&mut self, tp: &mut Trans<'_>, record: &S::Record) -> Result<()> {
        if !self.settle(tp)? {
            return Err(self.damage(0, "there is no record to replace".into()));
        }
        let index = self.path[0].index;
        let key = record.key();
        let stays = self.with_node(0, |node| {
            let before = if index > 0 { node.key(index - 1) < key } else { node.left().is_none() };
            let last = index + 1 == node.count();
            before && if last { node.right().is_none() } else { key < node.key(index + 1) }
        })?;
        if stays {
            return self.update(tp, record);
        }
        self.delete(tp)?;
        self.insert(tp, record)
    }
    /// Stand where a lookup that was put off leads. Is there a record?
    fn settle(&mut self, tp: &mut Trans<'_>) -> Result<bool> {
        match self.at {
            At::From(key) => self.lookup_ge(tp, &key),
            At::Record => Ok(true),
            _ => Ok(false),
        }
    }
    /// Behind the end of a leaf: go to the start of the next one.
    fn go_right(&mut self, tp: &mut Trans<'_>) -> Result<bool> {
        for turn in 1..self.path.len() {
            if self.path[turn].index + 1 < self.count(turn)? {
                self.path[turn].index += 1;
                self.descend_from(tp, turn, &Way::First)?;
                self.at = At::Record;
                return Ok(true);
            }
        }
        self.at = At::Behind;
        Ok(false)
    }
    /// Go to the leaf where `key` would be; its rank in the leaf, and the leaf's entries.
    fn seek(
        &mut self,
        tp: &mut Trans<'_>,
        key: &KeyOf<S>,
        or_equal: bool,
    ) -> Result<(usize, usize)> {
        if !S::ONE_WRITER || self.place_in_leaf(key)?.is_none() {
            self.descend(tp, &Way::To(*key))?;
        }
        self.with_node(0, |node| (node.rank(key, or_equal), node.count()))
    }
    /// Is the cursor in the one leaf where `key` belongs? Then where in it.
    pub(super) fn place_in_leaf(&mut self, key: &KeyOf<S>) -> Result<Option<usize>> {
        if !matches!(self.at, At::Record | At::Before | At::Behind) {
            return Ok(None);
        }
        self.with_node(0, |node| {
            let rank = node.rank(key, false);
            let starts = rank > 0 || node.left().is_none();
            let ends = rank < node.count() || node.right().is_none();
            (starts && ends).then_some(rank)
        })
    }
    /// Go to the leaf where `key` belongs, for an insertion.
    pub(super) fn place_for(&mut self, tp: &mut Trans<'_>, key: &KeyOf<S>) -> Result<usize> {
        if let Some(rank) = self.place_in_leaf(key)? {
            return Ok(rank);
        }
        self.seek(tp, key, false).map(|(rank, _)| rank)
    }
    /// Go down from the root.
    fn descend(&mut self, tp: &mut Trans<'_>, way: &Way<KeyOf<S>>) -> Result<()> {
        self.at = At::Nowhere;
        self.path.clear();
        let root = self.shape.root(tp)?;
        let levels = self.levels_of(root);
        if levels == 0 || levels > MAX_LEVELS || (root == Root::Inline && levels < 2) {
            let reason = format!("its root says it has {levels} levels");
            return Err(self.damage_at(self.shape_place(), reason));
        }
        let top = levels as usize - 1;
        let nowhere = Step { block: 0, buffer: None, index: 0 };
        self.path.resize(levels as usize, nowhere);
        if let Root::Block { block, .. } = root {
            let expected = Expected {
                block,
                key: None,
                level: top as u32,
                left: Some(None),
                right: Some(None),
            };
            let buffer = self.load(tp, &expected)?;
            self.path[top] = Step { block, buffer: Some(buffer), index: 0 };
        } else {
            self.try_node(top, |node| {
                ensure!(node.count() > 0, "it is empty");
                Ok(())
            })?;
        }
        self.path[top].index = self.turn(top, way)?;
        self.descend_from(tp, top, way)
    }
    /// The entry of a block that the way goes through.
    fn turn(&self, level: usize, way: &Way<KeyOf<S>>) -> Result<usize> {
        match way {
            Way::First => Ok(0),
            Way::Last => Ok(self.count(level)?.saturating_sub(1)),
            // Whoever looks for a key looks for its place in the leaf himself.
            Way::To(_) if level == 0 => Ok(0),
            Way::To(key) => self.with_node(level, |node| node.rank(key, true).saturating_sub(1)),
        }
    }
    /// Go down from the entry that the path goes through on `level`.
    fn descend_from(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        way: &Way<KeyOf<S>>,
    ) -> Result<()> {
        let result = (0..level).rev().try_for_each(|below| {
            self.enter(tp, below + 1)?;
            self.path[below].index = self.turn(below, way)?;
            Ok(())
        });
        if result.is_err() {
            self.at = At::Nowhere;
        }
        result
    }
    /// Go down one level, to the start of the block that the path leads to.
    pub(super) fn enter(&mut self, tp: &mut Trans<'_>, level: usize) -> Result<()> {
        let expected = self.expect_child(level)?;
        let buffer = self.load(tp, &expected)?;
        self.path[level - 1] = Step { block: expected.block, buffer: Some(buffer), index: 0 };
        Ok(())
    }
    /// What the block must be that the path leads to from `level`.
    fn expect_child(&self, level: usize) -> Result<Expected<KeyOf<S>>> {
        let index = self.path[level].index;
        let above = &self.path[level + 1..];
        let leftmost = above.iter().all(|step| step.index == 0);
        let mut rightmost = true;
        for (i, step) in above.iter().enumerate() {
            rightmost &= step.index + 1 == self.count(level + 1 + i)?;
        }
        self.try_node(level, |node| {
            ensure!(index < node.count(), "no entry {index}");
            let edge = |is_edge: bool| is_edge.then_some(None);
            let left = if index > 0 { Some(Some(node.child(index - 1))) } else { edge(leftmost) };
            let last = index + 1 == node.count();
            let right = if last { edge(rightmost) } else { Some(Some(node.child(index + 1))) };
            Ok(Expected {
                block: node.child(index),
                key: Some(node.key(index)),
                level: level as u32 - 1,
                left,
                right,
            })
        })
    }
    /// Read a block and check that it is what its parent says.
    fn load(&self, tp: &mut Trans<'_>, expected: &Expected<KeyOf<S>>) -> Result<Arc<Buffer>> {
        let buffer = self.read(tp, expected.block)?;
        let layout = Layout::block::<S>(buffer.length_bytes(), expected.level);
        let owner = self.shape.owner();
        let check = |bytes: &[u8]| -> Check {
            let node = Node::<S::Record>::new(bytes, layout)?;
            ensure!(node.owner() == owner, "it says it belongs to {}", node.owner());
            ensure!(
                expected.left.is_none_or(|left| left == node.left()),
                "its left neighbour is {:?} instead of {:?}",
                node.left(),
                expected.left
            );
            ensure!(
                expected.right.is_none_or(|right| right == node.right()),
                "its right neighbour is {:?} instead of {:?}",
                node.right(),
                expected.right
            );
            if node.count() == 0 {
                // Only a tree without records has an empty block: its root.
                ensure!(expected.key.is_none() && expected.level == 0, "it is empty");
                return Ok(());
            }
            let key = node.key(0);
            ensure!(
                expected.key.is_none_or(|expected| expected == key),
                "starts with {key:?}, the parent says {:?}",
                expected.key
            );
            Ok(())
        };
        let checked = check(&buffer.read());
        checked.map_err(|reason| self.damage_at(location(tp, &buffer), reason))?;
        Ok(buffer)
    }
    /// Read the block that a pointer names.
    fn read(&self, tp: &mut Trans<'_>, block: u64) -> Result<Arc<Buffer>> {
        let Some(place) = place(&self.shape, tp.mount().geometry(), block) else {
            let reason = format!("a pointer to block {block:#x}, which does not exist");
            return Err(self.damage_at(self.shape_place(), reason));
        };
        tp.read_block(place, self.shape.kind())
    }
    /// Read the block `by` entries right of the one that the path goes through on
    /// `level`, below the same parent; it is a neighbour.
    pub(super) fn sibling(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        right: bool,
    ) -> Result<Option<(u64, Arc<Buffer>)>> {
        let parent = level + 1;
        let index = self.path[parent].index;
        if (right && index + 1 >= self.count(parent)?) || (!right && index == 0) {
            return Ok(None);
        }
        let here = self.path[level].block;
        self.path[parent].index = if right { index + 1 } else { index - 1 };
        let expected = self.expect_child(parent);
        self.path[parent].index = index;
        let mut expected = expected?;
        if right {
            expected.left = Some(Some(here));
        } else {
            expected.right = Some(Some(here));
        }
        let buffer = self.load(tp, &expected)?;
        Ok(Some((expected.block, buffer)))
    }
    /// Read the block right of `block` (which lies on `level`), whoever its parent is.
    pub(super) fn right_of(
        &self,
        tp: &mut Trans<'_>,
        level: usize,
        block: u64,
        buffer: &Arc<Buffer>,
    ) -> Result<Option<Arc<Buffer>>> {
        let layout = self.layout(level);
        let right = self.try_buffer(buffer, &layout, |node| Ok(node.right()))?;
        let Some(right) = right else { return Ok(None) };
        let expected = Expected {
            block: right,
            key: None,
            level: level as u32,
            left: Some(Some(block)),
            right: None,
        };
        self.load(tp, &expected).map(Some)
    }
    /// Where things lie in the block of the path on `level`.
    pub(super) fn layout(&self, level: usize) -> Layout {
        match &self.path[level].buffer {
            Some(buffer) => Layout::block::<S>(buffer.length_bytes(), level as u32),
            None => Layout::inline::<S>(self.shape.inline_root().len(), level as u32),
        }
    }
    /// Look at the block of the path on `level`.
    pub(super) fn try_node<T>(
        &self,
        level: usize,
        look: impl FnOnce(Node<'_, S::Record>) -> Check<T>,
    ) -> Result<T> {
        if let Some(buffer) = &self.path[level].buffer {
            let bytes = buffer.read();
            let layout = Layout::block::<S>(bytes.len(), level as u32);
            return Node::new(&bytes, layout)
                .and_then(look)
                .map_err(|reason| self.damage(level, reason));
        }
        let bytes = self.shape.inline_root();
        let layout = Layout::inline::<S>(bytes.len(), level as u32);
        Node::new(bytes, layout).and_then(look).map_err(|reason| self.damage(level, reason))
    }
    pub(super) fn with_node<T>(
        &self,
        level: usize,
        look: impl FnOnce(Node<'_, S::Record>) -> T,
    ) -> Result<T> {
        self.try_node(level, |node| Ok(look(node)))
    }
    /// Look at a block that the path does not go through.
    pub(super) fn try_buffer<T>(
        &self,
        buffer: &Arc<Buffer>,
        layout: &Layout,
        look: impl FnOnce(Node<'_, S::Record>) -> Check<T>,
    ) -> Result<T> {
        let bytes = buffer.read();
        Node::new(&bytes, *layout)
            .and_then(look)
            .map_err(|reason| self.damage_at(format!("daddr {:#x}", buffer.sector().0), reason))
    }
    /// Entries of the block of the path on `level`.
    pub(super) fn count(&self, level: usize) -> Result<usize> {
        self.with_node(level, |node| node.count())
    }
    /// The bytes of the block of the path on `level`, to be changed.
    pub(super) fn access(&mut self, tp: &mut Trans<'_>, level: usize) -> Access<'_> {
        match &self.path[level].buffer {
            Some(buffer) => Access::Block(tp.edit(buffer)),
            None => Access::Inline(self.shape.inline_root_mut()),
        }
    }
    /// Entry `index` of the block on `level` points to a block with these keys.
    pub(super) fn refresh(
        &mut self,
        tp: &mut Trans<'_>,
        level: usize,
        index: usize,
        keys: &[u8; BODY_BYTES],
    ) -> Result<bool> {
        if self.with_node(level, |node| node.has_keys(index, keys))? {
            return Ok(false);
        }
        let layout = self.layout(level);
        self.access(tp, level).set_keys(&layout, index, keys);
        Ok(true)
    }
    /// The block of the path on `level` has changed: tell its parents.
    pub(super) fn refresh_up(&mut self, tp: &mut Trans<'_>, level: usize) -> Result<()> {
        for parent in level + 1..self.path.len() {
            let keys = self.with_node(parent - 1, |n| (n.count() > 0).then(|| n.keys()))?;
            let index = self.path[parent].index;
            let Some(keys) = keys else { return Ok(()) };
            if !self.refresh(tp, parent, index, &keys)? {
                return Ok(());
            }
        }
        Ok(())
    }
    /// Damage in the block of the path on `level`.
    pub(super) fn damage(&self, level: usize, reason: String) -> crate::error::Error {
        let location = match self.path.get(level).and_then(|step| step.buffer.as_ref()) {
            Some(buffer) => format!("daddr {:#x}", buffer.sector().0),
            None => self.shape_place(),
        };
        self.damage_at(location, reason)
    }
    pub(super) fn damage_at(&self, location: String, reason: String) -> crate::error::Error {
        Corruption { structure: self.shape.kind().name(), location, reason }.into()
    }
    fn shape_place(&self) -> String {
        match S::POINTERS {
            super::Pointers::Short => format!("AG {}", self.shape.owner()),
            super::Pointers::Long => format!("{}", Ino(self.shape.owner())),
        }
    }
}

fn location(tp: &Trans<'_>, buffer: &Buffer) -> String {
    tp.mount().geometry().place(buffer.sector())
}
