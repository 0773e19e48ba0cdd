//! Changing a hash tree: finding leaves, splitting and joining blocks on every level.
//!
//! The root never moves. When it splits, its contents go to a new block first and it
//! becomes an inner block above that; when it has a single block below, that one's
//! contents come back into it.
//!
//! ```text
//! insert: descend -> leaf full? split, pointer into the parent (which may split), again
//! remove: leaf small? join with a neighbour, pointer out of the parent (which may join)
//! ```
//! Every pointer carries the greatest hash below it. Blocks of a level are linked.

use alloc::format;
use alloc::vec::Vec;
use core::ops::Range;

use super::node;
use super::store::{Change, Siblings, Store};
use crate::error::{Error, Result};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::da_node::MAX_LEVELS;

/// Most inner levels we make: leaves are one more.
const MOST_INNER: u16 = MAX_LEVELS as u16 - 1;
/// Below this part of a block, in percent, a leaf is joined with a neighbour if it can be.
const SMALL_PERCENT: usize = 37;
const NODES: &[BlockKind] = &[BlockKind::DaNode];

/// A kind of hash tree.
pub(in crate::xfs) struct Tree {
    /// Where its blocks can lie; the root is at the start.
    pub(in crate::xfs) places: Range<u64>,
    /// What its leaves are.
    pub(in crate::xfs) leaf: &'static [BlockKind],
    /// What its root can be.
    pub(in crate::xfs) root: &'static [BlockKind],
    /// The greatest hash in a leaf.
    pub(in crate::xfs) last_hash: fn(&[u8]) -> u32,
    /// Bytes of a leaf that are used, its header counted; 0 when nothing is in it.
    pub(in crate::xfs) used: fn(&[u8]) -> usize,
    /// Move everything of the second leaf behind what is in the first.
    pub(in crate::xfs) merge: fn(&mut dyn Change, &[u8]),
}

/// An inner block on the way to a leaf, and the pointer that was followed.
pub(in crate::xfs) struct Inner<B> {
    at: u64,
    block: B,
    index: usize,
}

/// The way from the root to a leaf.
pub(in crate::xfs) struct Path<B> {
    inner: Vec<Inner<B>>,
    /// Where the leaf is.
    pub(in crate::xfs) at: u64,
    /// The leaf.
    pub(in crate::xfs) leaf: B,
}

impl<B> Path<B> {
    /// Is the leaf the root?
    pub(in crate::xfs) fn is_root(&self) -> bool {
        self.inner.is_empty()
    }
}

impl Tree {
    fn check_pointer<S: Store>(&self, s: &S, from: u64, pointer: u32) -> Result<u64> {
        let target = u64::from(pointer);
        let aligned = target.wrapping_sub(self.places.start).is_multiple_of(s.unit());
        if !self.places.contains(&target) || target == self.places.start || !aligned {
            let reason = format!("it points to {pointer:#x}, outside the hash tree");
            return Err(s.corrupt(from, reason));
        }
        Ok(target)
    }
    /// What can be below level `level`.
    const fn below(&self, level: u16) -> &'static [BlockKind] {
        if level == 1 { self.leaf } else { NODES }
    }
    /// Go down to the leaf in which `hash` is first, or would be inserted.
    pub(in crate::xfs) fn descend<S: Store>(&self, s: &mut S, hash: u32) -> Result<Path<S::Block>> {
        let root = self.places.start;
        let block = s.read(root, self.root)?;
        let inner = Vec::new();
        self.go_down(s, inner, root, block, |b| node::search(b, hash))
    }
    /// From a block at `at`, of whose parents `inner` are known, down to a leaf.
    fn go_down<S: Store>(
        &self,
        s: &mut S,
        mut inner: Vec<Inner<S::Block>>,
        mut at: u64,
        mut block: S::Block,
        choose: impl Fn(&[u8]) -> usize,
    ) -> Result<Path<S::Block>> {
        while s.kind(&block) == BlockKind::DaNode {
            let (level, index, (_, pointer)) = s.with(&block, |b| {
                let index = choose(b);
                (node::level(b), index, node::entry(b, index))
            });
            let above = inner.last().map(|p: &Inner<S::Block>| s.with(&p.block, node::level));
            if level == 0 || above.is_some_and(|a| level + 1 != a) || inner.len() > 8 {
                return Err(s.corrupt(at, format!("level {level} below {above:?}")));
            }
            let target = self.check_pointer(s, at, pointer)?;
            inner.push(Inner { at, block, index });
            block = s.read(target, self.below(level))?;
            at = target;
        }
        Ok(Path { inner, at, leaf: block })
    }
    /// Go on to the next leaf; nothing behind the last one.
    pub(in crate::xfs) fn next<S: Store>(
        &self,
        s: &mut S,
        path: Path<S::Block>,
    ) -> Result<Option<Path<S::Block>>> {
        let mut inner = path.inner;
        while let Some(mut last) = inner.pop() {
            let (count, level) = s.with(&last.block, |b| (node::count(b), node::level(b)));
            last.index += 1;
            if last.index >= count {
                continue;
            }
            let (_, pointer) = s.with(&last.block, |b| node::entry(b, last.index));
            let target = self.check_pointer(s, last.at, pointer)?;
            inner.push(last);
            let block = s.read(target, self.below(level))?;
            return self.go_down(s, inner, target, block, |_| 0).map(Some);
        }
        Ok(None)
    }
    /// The greatest hash in the path's leaf may have changed.
    pub(in crate::xfs) fn fix_hashes<S: Store>(&self, s: &mut S, path: &Path<S::Block>) {
        if !path.inner.is_empty() {
            let hash = s.with(&path.leaf, self.last_hash);
            raise(s, &path.inner, hash);
        }
    }
    /// A place for a new block.
    fn new_place<S: Store>(&self, s: &S) -> Result<u64> {
        s.first_hole(self.places.clone(), s.unit()).ok_or(Error::NoSpace)
    }
    /// Move the root's contents into a block of its own, below the root.
    fn grow_root<S: Store>(&self, s: &mut S, path: &mut Path<S::Block>) -> Result<()> {
        let root_at = self.places.start;
        let root = path.inner.first().map_or(&path.leaf, |p| &p.block).clone();
        let kind = s.kind(&root);
        let is_inner = kind == BlockKind::DaNode;
        let level = if is_inner { s.with(&root, node::level) } else { 0 };
        if level >= MOST_INNER {
            return Err(Error::NoSpace);
        }
        let at = self.new_place(s)?;
        let copy = s.create(at, kind)?;
        let contents = s.with(&root, <[u8]>::to_vec);
        move_contents(s, &copy, &contents);
        let last_hash = if is_inner { node_last_hash } else { self.last_hash };
        let entry = (last_hash(&contents), at as u32);
        s.set_kind(&root, BlockKind::DaNode);
        let id = s.identity(&root);
        s.edit(&root, |c| node::init(c, &id, level + 1, Siblings::default(), &[entry]));
        match path.inner.first_mut() {
            Some(first) => (first.at, first.block) = (at, copy),
            None => (path.at, path.leaf) = (at, copy),
        }
        path.inner.insert(0, Inner { at: root_at, block: root, index: 0 });
        Ok(())
    }
    /// A new block right of the path's leaf, linked but without a pointer to it yet:
    /// its place and siblings. The caller fills it, then calls [`Tree::add_right`].
    pub(in crate::xfs) fn new_right<S: Store>(
        &self,
        s: &mut S,
        path: &mut Path<S::Block>,
    ) -> Result<(u64, S::Block, Siblings)> {
        if path.is_root() {
            self.grow_root(s, path)?;
        }
        let kind = s.kind(&path.leaf);
        let (at, leaf) = (path.at, path.leaf.clone());
        self.new_beside(s, at, &leaf, kind, self.leaf)
    }
    fn new_beside<S: Store>(
        &self,
        s: &mut S,
        left_at: u64,
        left: &S::Block,
        kind: BlockKind,
        kinds: &'static [BlockKind],
    ) -> Result<(u64, S::Block, Siblings)> {
        let at = self.new_place(s)?;
        let old = s.with(left, Siblings::of);
        let right = match old.forward {
            0 => None,
            pointer => {
                let right_at = self.check_pointer(s, left_at, pointer)?;
                Some(s.read(right_at, kinds)?)
            }
        };
        let block = s.create(at, kind)?;
        if let Some(right) = right {
            s.edit(&right, |c| c.set_be32(4, at as u32));
        }
        s.edit(left, |c| c.set_be32(0, at as u32));
        Ok((at, block, Siblings { forward: old.forward, backward: left_at as u32 }))
    }
    /// The block at `at`, just filled, gets its pointer behind the one to the path's leaf.
    pub(in crate::xfs) fn add_right<S: Store>(
        &self,
        s: &mut S,
        mut path: Path<S::Block>,
        at: u64,
        block: &S::Block,
    ) -> Result<()> {
        let hash = s.with(&path.leaf, self.last_hash);
        let new_hash = s.with(block, self.last_hash);
        let mut depth = path.inner.len() - 1;
        let (mut hash, mut new) = (hash, (new_hash, at as u32));
        loop {
            let capacity = node::capacity(s.block_bytes());
            if depth == 0 && s.with(&path.inner[0].block, node::count) == capacity {
                self.grow_root(s, &mut path)?;
                depth = 1;
            }
            let Inner { at: node_at, block: node_block, index } = &path.inner[depth];
            let (node_at, node_block, index) = (*node_at, node_block.clone(), *index);
            s.edit(&node_block, |c| node::set_hash(c, index, hash));
            if s.with(&node_block, node::count) < capacity {
                s.edit(&node_block, |c| node::insert(c, index + 1, new));
                let last = s.with(&node_block, node_last_hash);
                raise(s, &path.inner[..depth], last);
                return Ok(());
            }
            let mut all = s.with(&node_block, |b| node::entries(b, 0));
            all.insert(index + 1, new);
            let half = all.len() / 2;
            let level = s.with(&node_block, node::level);
            let (right_at, right, siblings) =
                self.new_beside(s, node_at, &node_block, BlockKind::DaNode, NODES)?;
            let id = s.identity(&right);
            s.edit(&right, |c| node::init(c, &id, level, siblings, &all[half..]));
            let kept = half.min(index + 1);
            s.edit(&node_block, |c| {
                node::truncate(c, kept);
                node::append(c, &all[kept..half]);
            });
            hash = all[half - 1].0;
            new = (all[all.len() - 1].0, right_at as u32);
            depth -= 1;
        }
    }
    /// Something was taken out of the path's leaf: make the tree smaller if that can be.
    pub(in crate::xfs) fn shrink<S: Store>(&self, s: &mut S, path: Path<S::Block>) -> Result<()> {
        if path.is_root() {
            return Ok(());
        }
        let used = s.with(&path.leaf, self.used);
        let depth = path.inner.len() - 1;
        let alone = path.inner.iter().all(|p| s.with(&p.block, node::count) <= 1);
        if alone {
            return self.collapse(s);
        }
        if used == 0 {
            let index = path.inner[depth].index;
            self.cut(s, path.at, path.leaf.clone(), self.leaf)?;
            self.drop_pointer(s, &path, depth, index)?;
            return self.collapse(s);
        }
        self.fix_hashes(s, &path);
        if used * 100 >= s.block_bytes() * SMALL_PERCENT {
            return Ok(());
        }
        let most = s.block_bytes() - s.block_bytes() / 4;
        let fits = |s: &S, a: &S::Block, b: &S::Block| {
            // One header is counted twice: it makes up for alignment.
            s.with(a, self.used) + s.with(b, self.used) <= most
        };
        if let Some((index, left, right)) = self.neighbours(s, &path, depth, &fits)? {
            let contents = s.with(&right.1, <[u8]>::to_vec);
            s.edit(&left.1, |c| (self.merge)(c, &contents));
            let hash = s.with(&left.1, self.last_hash);
            let parent = path.inner[depth].block.clone();
            self.cut(s, right.0, right.1, self.leaf)?;
            s.edit(&parent, |c| node::set_hash(c, index, hash));
            self.drop_pointer(s, &path, depth, index + 1)?;
        }
        self.collapse(s)
    }
    /// Two neighbours below the path's inner block at `depth` that `fits` says can be
    /// joined, one of them on the path: the index of the left one, both places and blocks.
    #[allow(clippy::type_complexity)]
    fn neighbours<S: Store>(
        &self,
        s: &mut S,
        path: &Path<S::Block>,
        depth: usize,
        fits: &dyn Fn(&S, &S::Block, &S::Block) -> bool,
    ) -> Result<Option<(usize, (u64, S::Block), (u64, S::Block))>> {
        let Inner { at, block, index } = &path.inner[depth];
        let here = match path.inner.get(depth + 1) {
            Some(below) => (below.at, below.block.clone()),
            None => (path.at, path.leaf.clone()),
        };
        let (count, level) = s.with(block, |b| (node::count(b), node::level(b)));
        for other in [index.checked_sub(1), Some(index + 1)].into_iter().flatten() {
            if other >= count {
                continue;
            }
            let (_, pointer) = s.with(block, |b| node::entry(b, other));
            let place = self.check_pointer(s, *at, pointer)?;
            let there = (place, s.read(place, self.below(level))?);
            let (first, left, right) = if other < *index {
                (other, there, here.clone())
            } else {
                (*index, here.clone(), there)
            };
            if s.with(&left.1, Siblings::of).forward != right.0 as u32 {
                let reason = format!("the block behind it is not the one at {:#x}", right.0);
                return Err(s.corrupt(left.0, reason));
            }
            if fits(s, &left.1, &right.1) {
                return Ok(Some((first, left, right)));
            }
        }
        Ok(None)
    }
    /// Take a block out of the chain of its level and free it.
    fn cut<S: Store>(
        &self,
        s: &mut S,
        at: u64,
        block: S::Block,
        kinds: &'static [BlockKind],
    ) -> Result<()> {
        let siblings = s.with(&block, Siblings::of);
        if siblings.backward != 0 {
            let left = self.check_pointer(s, at, siblings.backward)?;
            let left = s.read(left, kinds)?;
            s.edit(&left, |c| c.set_be32(0, siblings.forward));
        }
        if siblings.forward != 0 {
            let right = self.check_pointer(s, at, siblings.forward)?;
            let right = s.read(right, kinds)?;
            s.edit(&right, |c| c.set_be32(4, siblings.backward));
        }
        s.free(at, block)
    }
    /// Take pointer `index` out of the path's inner block at `depth`; join that with a
    /// neighbour or free it if there is reason to.
    fn drop_pointer<S: Store>(
        &self,
        s: &mut S,
        path: &Path<S::Block>,
        depth: usize,
        index: usize,
    ) -> Result<()> {
        let (at, block) = (path.inner[depth].at, path.inner[depth].block.clone());
        s.edit(&block, |c| node::remove(c, index));
        if depth == 0 {
            return Ok(());
        }
        let count = s.with(&block, node::count);
        if count == 0 {
            self.cut(s, at, block, NODES)?;
            return self.drop_pointer(s, path, depth - 1, path.inner[depth - 1].index);
        }
        let last = s.with(&block, node_last_hash);
        raise(s, &path.inner[..depth], last);
        let capacity = node::capacity(s.block_bytes());
        if count > capacity / 2 {
            return Ok(());
        }
        let most = capacity - capacity / 4;
        let fits = |s: &S, a: &S::Block, b: &S::Block| {
            s.with(a, node::count) + s.with(b, node::count) <= most
        };
        let Some((first, left, right)) = self.neighbours(s, path, depth - 1, &fits)? else {
            return Ok(());
        };
        let more = s.with(&right.1, |b| node::entries(b, 0));
        s.edit(&left.1, |c| node::append(c, &more));
        let hash = s.with(&left.1, node_last_hash);
        let parent = path.inner[depth - 1].block.clone();
        self.cut(s, right.0, right.1, NODES)?;
        s.edit(&parent, |c| node::set_hash(c, first, hash));
        self.drop_pointer(s, path, depth - 1, first + 1)
    }
    /// While the root has a single block below, that takes its place.
    fn collapse<S: Store>(&self, s: &mut S) -> Result<()> {
        let root = s.read(self.places.start, self.root)?;
        while s.kind(&root) == BlockKind::DaNode && s.with(&root, node::count) == 1 {
            let (level, (_, pointer)) = s.with(&root, |b| (node::level(b), node::entry(b, 0)));
            let at = self.check_pointer(s, self.places.start, pointer)?;
            let child = s.read(at, self.below(level))?;
            let contents = s.with(&child, <[u8]>::to_vec);
            let kind = s.kind(&child);
            s.set_kind(&root, kind);
            move_contents(s, &root, &contents);
            s.edit(&root, |c| Siblings::default().put(c));
            s.free(at, child)?;
        }
        Ok(())
    }
}

fn node_last_hash(block: &[u8]) -> u32 {
    node::entry(block, node::count(block).saturating_sub(1)).0
}

/// The blocks below `inner` end in `hash` now: say so on every level that ends there.
fn raise<S: Store>(s: &mut S, inner: &[Inner<S::Block>], hash: u32) {
    for p in inner.iter().rev() {
        let (old, last) =
            s.with(&p.block, |b| (node::entry(b, p.index).0, p.index + 1 == node::count(b)));
        if old != hash {
            s.edit(&p.block, |c| node::set_hash(c, p.index, hash));
        }
        if old == hash || !last {
            return;
        }
    }
}

/// A block gets another one's contents, but stays itself.
fn move_contents<S: Store>(s: &mut S, to: &S::Block, contents: &[u8]) {
    let id = s.identity(to);
    s.edit(to, |c| {
        c.put(0, contents);
        c.set_be64(16, id.sector);
    });
}
