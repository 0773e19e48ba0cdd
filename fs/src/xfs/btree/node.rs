//! Where keys, pointers and records lie in a block, or in a root within an inode.
//!
//! A leaf is a header and records. A node is a header, keys, and, behind room for as many
//! keys as fit with their pointers, pointers.

use alloc::sync::Arc;
use core::marker::PhantomData;
use core::ops::{Deref, Range};

use super::shape::{Entry, Pointers, Shape};
use super::size::{header_bytes, pointer_bytes};
use crate::xfs::buf::Buffer;
use crate::xfs::buf_item::Edit;
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::btree::{NULL_LONG, NULL_SHORT, Record};
use crate::xfs::ondisk::{
    Check, be16, be32, be64, bmbt, ensure, freesp, inobt, refcountbt, rmapbt,
};
use crate::xfs::types::{AgBlock, AgNumber, FsBlock};

/// Most bytes of a record or of the keys of one pointer.
pub(super) const BODY_BYTES: usize = 48;
/// Bytes before the keys of a root within an inode.
const INLINE_HEADER: usize = 4;

/// Where things lie in a block of one level.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub level: u32,
    pub most: usize,
    pointers: Pointers,
    inline: bool,
    /// Bytes of a record or the keys of a pointer.
    unit: usize,
}

impl Layout {
    /// Of a block.
    pub fn block<S: Shape>(block_bytes: usize, level: u32) -> Self {
        let unit = if level == 0 { S::Record::BYTES } else { S::Record::KEY_BYTES };
        let most = S::most_entries(block_bytes, level);
        Self { level, most, pointers: S::POINTERS, inline: false, unit }
    }
    /// Of a root within an inode's fork of this many bytes; always a node.
    pub fn inline<S: Shape>(fork_bytes: usize, level: u32) -> Self {
        let unit = S::Record::KEY_BYTES;
        let room = fork_bytes.saturating_sub(INLINE_HEADER);
        let most = room / (unit + pointer_bytes(S::POINTERS));
        Self { level, most, pointers: S::POINTERS, inline: true, unit }
    }
    /// Fewest entries of a block that is not the root.
    pub const fn least(&self) -> usize {
        self.most / 2
    }
    const fn body_at(&self, i: usize) -> usize {
        let header = if self.inline { INLINE_HEADER } else { header_bytes(self.pointers) };
        header + i * self.unit
    }
    const fn body(&self, range: Range<usize>) -> Range<usize> {
        self.body_at(range.start)..self.body_at(range.end)
    }
    const fn pointer_at(&self, i: usize) -> usize {
        self.body_at(self.most) + i * pointer_bytes(self.pointers)
    }
    const fn pointers(&self, range: Range<usize>) -> Range<usize> {
        self.pointer_at(range.start)..self.pointer_at(range.end)
    }
    const fn level_at(&self) -> usize {
        if self.inline { 0 } else { 4 }
    }
    const fn count_at(&self) -> usize {
        if self.inline { 2 } else { 6 }
    }
    /// Bytes that have to be there.
    const fn bytes(&self) -> usize {
        if self.level == 0 { self.body_at(self.most) } else { self.pointer_at(self.most) }
    }
}

/// The level that a block says it is on; nothing if it is too short.
pub(super) fn level_of(bytes: &[u8], inline: bool) -> Option<u32> {
    be16(bytes, if inline { 0 } else { 4 }).map(u32::from)
}

/// A record, or the keys and the pointer of a child.
#[derive(Clone, Copy)]
pub(super) struct Raw {
    pub body: [u8; BODY_BYTES],
    pub child: u64,
}

impl Raw {
    pub fn record<E: Entry>(record: &E) -> Self {
        let mut body = [0; BODY_BYTES];
        record.encode(&mut body[..E::BYTES]);
        Self { body, child: 0 }
    }
}

/// The entries of a block.
#[derive(Clone, Copy)]
pub(super) struct Node<'a, E> {
    pub layout: Layout,
    bytes: &'a [u8],
    entry: PhantomData<E>,
}

impl<'a, E: Entry> Node<'a, E> {
    /// The block in `bytes`: on the level it should be on, with no more than fits.
    pub fn new(bytes: &'a [u8], layout: Layout) -> Check<Self> {
        ensure!(bytes.len() >= layout.bytes(), "too short");
        let node = Self { layout, bytes, entry: PhantomData };
        let level = be16(bytes, layout.level_at()).map_or(u32::MAX, u32::from);
        ensure!(level == layout.level, "level {level} instead of {}", layout.level);
        ensure!(node.count() <= layout.most, "{} entries, room for {}", node.count(), layout.most);
        Ok(node)
    }
    /// Records or pointers.
    pub fn count(&self) -> usize {
        be16(self.bytes, self.layout.count_at()).map_or(0, usize::from)
    }
    fn body(&self, i: usize) -> &'a [u8] {
        &self.bytes[self.layout.body(i..i + 1)]
    }
    pub fn record(&self, i: usize) -> E {
        E::decode(self.body(i))
    }
    /// The key of a record, or the lowest below a pointer.
    pub fn key(&self, i: usize) -> E::Key {
        if self.layout.level == 0 { self.record(i).key() } else { E::decode_key(self.body(i)) }
    }
    /// The highest key of a record or below a pointer. Only if records overlap.
    pub fn high_key(&self, i: usize) -> E::Key {
        if self.layout.level == 0 {
            self.record(i).high_key()
        } else {
            E::decode_key(&self.body(i)[E::KEY_BYTES / 2..])
        }
    }
    pub fn child(&self, i: usize) -> u64 {
        let at = self.layout.pointer_at(i);
        match self.layout.pointers {
            Pointers::Short => be32(self.bytes, at).map_or(u64::MAX, u64::from),
            Pointers::Long => be64(self.bytes, at).unwrap_or(u64::MAX),
        }
    }
    fn sibling(&self, right: bool) -> Option<u64> {
        if self.layout.inline {
            return None;
        }
        let (short, long) = if right { (12, 16) } else { (8, 8) };
        match self.layout.pointers {
            Pointers::Short => be32(self.bytes, short).filter(|&b| b != NULL_SHORT).map(u64::from),
            Pointers::Long => be64(self.bytes, long).filter(|&b| b != NULL_LONG),
        }
    }
    pub fn left(&self) -> Option<u64> {
        self.sibling(false)
    }
    pub fn right(&self) -> Option<u64> {
        self.sibling(true)
    }
    /// The inode or group it says it belongs to.
    pub fn owner(&self) -> u64 {
        match self.layout.pointers {
            Pointers::Short => be32(self.bytes, 48).map_or(u64::MAX, u64::from),
            Pointers::Long => be64(self.bytes, 56).unwrap_or(u64::MAX),
        }
    }
    /// How many entries have keys below `key`, or not above it.
    pub fn rank(&self, key: &E::Key, or_equal: bool) -> usize {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = usize::midpoint(low, high);
            let at = self.key(middle);
            if at < *key || (or_equal && at == *key) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
    /// The keys of the whole block as its parent has them. It is not empty.
    pub fn keys(&self) -> [u8; BODY_BYTES] {
        let mut raw = [0; BODY_BYTES];
        let low_bytes = if E::OVERLAPPING { E::KEY_BYTES / 2 } else { E::KEY_BYTES };
        if self.layout.level == 0 {
            self.record(0).encode_own_key(&mut raw[..low_bytes]);
        } else {
            raw[..low_bytes].copy_from_slice(&self.body(0)[..low_bytes]);
        }
        if E::OVERLAPPING {
            let highest = (1..self.count())
                .map(|i| self.high_key(i))
                .fold(self.high_key(0), |most, key| if key > most { key } else { most });
            E::encode_key(&highest, &mut raw[low_bytes..2 * low_bytes]);
        }
        raw
    }
    /// Are these the keys of entry `i`, as far as the order depends on them?
    pub fn has_keys(&self, i: usize, keys: &[u8; BODY_BYTES]) -> bool {
        let high = |keys: &[u8]| E::decode_key(&keys[E::KEY_BYTES / 2..E::KEY_BYTES]);
        E::decode_key(self.body(i)) == E::decode_key(keys)
            && (!E::OVERLAPPING || high(self.body(i)) == high(keys))
    }
}

/// A block's bytes to be changed.
pub(super) enum Access<'a> {
    Block(Edit<'a>),
    Inline(&'a mut [u8]),
}

impl Deref for Access<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            Self::Block(edit) => edit,
            Self::Inline(bytes) => bytes,
        }
    }
}

impl Access<'_> {
    fn put(&mut self, at: usize, bytes: &[u8]) {
        match self {
            Self::Block(edit) => edit.put(at, bytes),
            Self::Inline(root) => root[at..at + bytes.len()].copy_from_slice(bytes),
        }
    }
    fn shift(&mut self, from: Range<usize>, to: usize) {
        if from.is_empty() {
            return;
        }
        match self {
            Self::Block(edit) => edit.copy_within(from, to),
            Self::Inline(root) => root.copy_within(from, to),
        }
    }
    fn count(&self, layout: &Layout) -> usize {
        be16(self, layout.count_at()).map_or(0, usize::from)
    }
    pub fn set_count(&mut self, layout: &Layout, count: usize) {
        self.put(layout.count_at(), &(count as u16).to_be_bytes());
    }
    pub fn set_level(&mut self, layout: &Layout) {
        self.put(layout.level_at(), &(layout.level as u16).to_be_bytes());
    }
    pub fn set_keys(&mut self, layout: &Layout, i: usize, keys: &[u8; BODY_BYTES]) {
        self.put(layout.body_at(i), &keys[..layout.unit]);
    }
    pub fn set_record(&mut self, layout: &Layout, i: usize, raw: &Raw) {
        self.put(layout.body_at(i), &raw.body[..layout.unit]);
    }
    fn set_child(&mut self, layout: &Layout, i: usize, child: u64) {
        let at = layout.pointer_at(i);
        match layout.pointers {
            Pointers::Short => self.put(at, &(child as u32).to_be_bytes()),
            Pointers::Long => self.put(at, &child.to_be_bytes()),
        }
    }
    pub fn set_left(&mut self, layout: &Layout, block: Option<u64>) {
        match layout.pointers {
            Pointers::Short => self.put(8, &short(block).to_be_bytes()),
            Pointers::Long => self.put(8, &block.unwrap_or(NULL_LONG).to_be_bytes()),
        }
    }
    pub fn set_right(&mut self, layout: &Layout, block: Option<u64>) {
        match layout.pointers {
            Pointers::Short => self.put(12, &short(block).to_be_bytes()),
            Pointers::Long => self.put(16, &block.unwrap_or(NULL_LONG).to_be_bytes()),
        }
    }
    /// Make room for `n` entries before entry `i`.
    fn open(&mut self, layout: &Layout, i: usize, n: usize) {
        let count = self.count(layout);
        debug_assert!(i <= count && count + n <= layout.most, "there is room");
        self.shift(layout.body(i..count), layout.body_at(i + n));
        if layout.level > 0 {
            self.shift(layout.pointers(i..count), layout.pointer_at(i + n));
        }
        self.set_count(layout, count + n);
    }
    pub fn insert(&mut self, layout: &Layout, i: usize, raw: &Raw) {
        self.open(layout, i, 1);
        self.put(layout.body_at(i), &raw.body[..layout.unit]);
        if layout.level > 0 {
            self.set_child(layout, i, raw.child);
        }
    }
    pub fn remove(&mut self, layout: &Layout, range: Range<usize>) {
        let count = self.count(layout);
        self.shift(layout.body(range.end..count), layout.body_at(range.start));
        if layout.level > 0 {
            self.shift(layout.pointers(range.end..count), layout.pointer_at(range.start));
        }
        self.set_count(layout, count - range.len());
    }
    /// Copy entries of another block before entry `i`.
    pub fn insert_from(
        &mut self,
        layout: &Layout,
        i: usize,
        from: (&[u8], &Layout),
        range: Range<usize>,
    ) {
        let (bytes, other) = from;
        self.open(layout, i, range.len());
        self.put(layout.body_at(i), &bytes[other.body(range.clone())]);
        if layout.level > 0 {
            self.put(layout.pointer_at(i), &bytes[other.pointers(range)]);
        }
    }
    /// Write the header of a new block without entries.
    pub fn init(&mut self, layout: &Layout, header: &Header<'_>) {
        let Header { kind, geometry, place, owner, left, right } = *header;
        self.put(0, &magic(kind).to_be_bytes());
        self.set_level(layout);
        self.set_count(layout, 0);
        self.set_left(layout, left);
        self.set_right(layout, right);
        let sector = geometry.sector(place).0.to_be_bytes();
        let uuid = geometry.meta_uuid.as_bytes();
        match layout.pointers {
            Pointers::Short => {
                self.put(16, &sector);
                self.put(32, uuid);
                self.put(48, &(owner as u32).to_be_bytes());
            }
            Pointers::Long => {
                self.put(24, &sector);
                self.put(40, uuid);
                self.put(56, &owner.to_be_bytes());
            }
        }
    }
}

/// What the header of a new block says.
#[derive(Clone, Copy)]
pub(super) struct Header<'a> {
    pub kind: BlockKind,
    pub geometry: &'a Geometry,
    pub place: FsBlock,
    pub owner: u64,
    pub left: Option<u64>,
    pub right: Option<u64>,
}

fn short(block: Option<u64>) -> u32 {
    block.map_or(NULL_SHORT, |b| b as u32)
}

const fn magic(kind: BlockKind) -> u32 {
    match kind {
        BlockKind::Bnobt => freesp::BNO_MAGIC,
        BlockKind::Cntbt => freesp::CNT_MAGIC,
        BlockKind::Inobt => inobt::INOBT_MAGIC,
        BlockKind::Finobt => inobt::FINOBT_MAGIC,
        BlockKind::Rmapbt => rmapbt::MAGIC,
        BlockKind::Refcountbt => refcountbt::MAGIC,
        _ => bmbt::MAGIC,
    }
}

/// The file system block that a pointer means, if it exists.
pub(super) fn place<S: Shape>(shape: &S, geometry: &Geometry, block: u64) -> Option<FsBlock> {
    let place = match S::POINTERS {
        Pointers::Short => {
            let ag = AgNumber(u32::try_from(shape.owner()).ok()?);
            geometry.fs_block(ag, AgBlock(u32::try_from(block).ok()?))
        }
        Pointers::Long => FsBlock(block),
    };
    let (ag, agbno) = geometry.split(place);
    let same = S::POINTERS == Pointers::Long || u64::from(agbno.0) == block;
    (same && geometry.has_ag_block(ag, agbno)).then_some(place)
}

/// A block on the way from the root to a leaf.
#[derive(Clone)]
pub(super) struct Step {
    /// The pointer to it; without meaning for a root within an inode.
    pub block: u64,
    /// Nothing for a root within an inode.
    pub buffer: Option<Arc<Buffer>>,
    /// The entry the way goes through.
    pub index: usize,
}
