//! The b+tree with blocks so small that a few hundred records make it four levels high:
//! random operations against a model, the tree checked block by block.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::sync::{Arc, OnceLock};

use crate::alloc_support::Random;
use crate::xfs_support::{image, mount_bytes};
use holdfast_fs::error::{Error, Result};
use holdfast_fs::xfs::Mount;
use holdfast_fs::xfs::btree::{Cursor, Entry, KeyOf, Pointers, Root, Shape};
use holdfast_fs::xfs::ondisk::block::BlockKind;
use holdfast_fs::xfs::ondisk::btree::Record;
use holdfast_fs::xfs::ondisk::{be16, be32, be64};
use holdfast_fs::xfs::trans::Trans;
use holdfast_fs::xfs::types::FsBlock;

/// A record without overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plain {
    key: u32,
    value: u32,
}

impl Record for Plain {
    const BYTES: usize = 8;
    const KEY_BYTES: usize = 4;
    type Key = u32;
    fn decode(bytes: &[u8]) -> Self {
        Self { key: be32(bytes, 0).unwrap(), value: be32(bytes, 4).unwrap() }
    }
    fn key(&self) -> u32 {
        self.key
    }
    fn decode_key(bytes: &[u8]) -> u32 {
        be32(bytes, 0).unwrap()
    }
}

impl Entry for Plain {
    fn encode(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.key.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.value.to_be_bytes());
    }
    fn encode_key(key: &u32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&key.to_be_bytes());
    }
}

/// A record that covers `[key, key + length)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    key: u32,
    length: u32,
}

impl Record for Span {
    const BYTES: usize = 8;
    const KEY_BYTES: usize = 8;
    type Key = u32;
    fn decode(bytes: &[u8]) -> Self {
        Self { key: be32(bytes, 0).unwrap(), length: be32(bytes, 4).unwrap() }
    }
    fn key(&self) -> u32 {
        self.key
    }
    fn decode_key(bytes: &[u8]) -> u32 {
        be32(bytes, 0).unwrap()
    }
}

impl Entry for Span {
    const OVERLAPPING: bool = true;
    fn encode(&self, bytes: &mut [u8]) {
        bytes[..4].copy_from_slice(&self.key.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.length.to_be_bytes());
    }
    fn encode_key(key: &u32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&key.to_be_bytes());
    }
    fn high_key(&self) -> u32 {
        self.key + self.length - 1
    }
}

trait Sample: Entry<Key = u32> + PartialEq + Debug {
    fn sample(key: u32, value: u32) -> Self;
}
impl Sample for Plain {
    fn sample(key: u32, value: u32) -> Self {
        Self { key, value }
    }
}
impl Sample for Span {
    fn sample(key: u32, value: u32) -> Self {
        Self { key, length: value % 40 + 1 }
    }
}

/// A tree whose blocks are taken from a range that mkfs left free.
struct Toy<R, const LEAF: usize, const NODE: usize, const LONG: bool> {
    root: (u64, u32),
    /// The root within an inode.
    inline: Option<Vec<u8>>,
    next: u64,
    unused: Vec<u64>,
    live: BTreeSet<u64>,
    /// Allocations that succeed before they fail.
    allowed: usize,
    record: std::marker::PhantomData<R>,
}

const FIRST_BLOCK: u64 = 4000;
const OWNER: u64 = 0;

impl<R: Sample, const LEAF: usize, const NODE: usize, const LONG: bool> Shape
    for Toy<R, LEAF, NODE, LONG>
{
    type Record = R;
    const POINTERS: Pointers = if LONG { Pointers::Long } else { Pointers::Short };
    fn kind(&self) -> BlockKind {
        if LONG { BlockKind::Bmbt } else { BlockKind::Bnobt }
    }
    fn owner(&self) -> u64 {
        OWNER
    }
    fn root(&self, _: &mut Trans<'_>) -> Result<Root> {
        Ok(match self.inline {
            Some(_) => Root::Inline,
            None => Root::Block { block: self.root.0, levels: self.root.1 },
        })
    }
    fn set_root(&mut self, _: &mut Trans<'_>, block: u64, levels: u32) -> Result<()> {
        self.root = (block, levels);
        Ok(())
    }
    fn inline_root(&self) -> &[u8] {
        self.inline.as_deref().unwrap_or(&[])
    }
    fn inline_root_mut(&mut self) -> &mut [u8] {
        self.inline.as_deref_mut().unwrap_or(&mut [])
    }
    fn allocate(&mut self, _: &mut Trans<'_>, near: u64) -> Result<Option<u64>> {
        assert!(self.live.contains(&near), "near a block of the tree");
        if self.allowed == 0 {
            return Ok(None);
        }
        self.allowed -= 1;
        let block = self.unused.pop().unwrap_or(self.next);
        self.next = self.next.max(block + 1);
        assert!(self.live.insert(block), "allocated twice");
        Ok(Some(block))
    }
    fn free(&mut self, _: &mut Trans<'_>, block: u64) -> Result<()> {
        assert!(self.live.remove(&block), "freed twice");
        self.unused.push(block);
        Ok(())
    }
    fn most_entries(_: usize, level: u32) -> usize {
        if level == 0 { LEAF } else { NODE }
    }
}

impl<R: Sample, const LEAF: usize, const NODE: usize, const LONG: bool> Toy<R, LEAF, NODE, LONG> {
    const HEADER: usize = if LONG { 72 } else { 56 };
    const POINTER: usize = if LONG { 8 } else { 4 };

    /// An empty tree; with a root within an inode it has a leaf with the least record.
    fn new(tp: &mut Trans<'_>, inline_entries: Option<usize>) -> Self {
        let mut toy = Self {
            root: (FIRST_BLOCK, 1),
            inline: None,
            next: FIRST_BLOCK + 1,
            unused: Vec::new(),
            live: BTreeSet::from([FIRST_BLOCK]),
            allowed: usize::MAX,
            record: std::marker::PhantomData,
        };
        let geometry = tp.mount().geometry();
        let block = tp.create_block(FsBlock(FIRST_BLOCK), toy.kind()).unwrap();
        let sector = geometry.sector(FsBlock(FIRST_BLOCK)).0;
        let mut edit = tp.edit(&block);
        edit.set_be32(0, if LONG { 0x424d_4133 } else { 0x4142_3342 });
        if LONG {
            edit.fill(8..24, 0xff);
            edit.set_be64(24, sector);
            edit.put(40, geometry.meta_uuid.as_bytes());
            edit.set_be64(56, OWNER);
        } else {
            edit.fill(8..16, 0xff);
            edit.set_be64(16, sector);
            edit.put(32, geometry.meta_uuid.as_bytes());
            edit.set_be32(48, OWNER as u32);
        }
        if let Some(entries) = inline_entries {
            let first = R::sample(0, 0);
            edit.set_be16(6, 1);
            first.encode(edit.bytes_mut(Self::HEADER..Self::HEADER + R::BYTES));
            // A few bytes more than the entries need: pointers start behind whole ones.
            let mut root = vec![0; 4 + entries * (R::KEY_BYTES + 8) + 3];
            root[1] = 1;
            root[3] = 1;
            first.encode_own_key(&mut root[4..4 + 4]);
            if R::OVERLAPPING {
                R::encode_key(&first.high_key(), &mut root[8..12]);
            }
            let at = 4 + entries * R::KEY_BYTES;
            root[at..at + 8].copy_from_slice(&FIRST_BLOCK.to_be_bytes());
            toy.inline = Some(root);
        }
        toy
    }
    fn pointer(bytes: &[u8], at: usize) -> u64 {
        if LONG { be64(bytes, at).unwrap() } else { be32(bytes, at).unwrap().into() }
    }
    /// Check the whole tree; all records.
    fn check(&self, tp: &mut Trans<'_>) -> Vec<R> {
        let mut seen = BTreeSet::new();
        let mut records = Vec::new();
        let mut level_blocks = Vec::new();
        let level = match &self.inline {
            Some(root) => {
                let room = (root.len() - 4) / (R::KEY_BYTES + 8);
                let count = usize::from(be16(root, 2).unwrap());
                assert!((1..=room).contains(&count), "{count} entries in the root");
                for i in 0..count {
                    let child = be64(root, 4 + room * R::KEY_BYTES + i * 8).unwrap();
                    let key = &root[4 + i * R::KEY_BYTES..][..R::KEY_BYTES];
                    level_blocks.push((child, Some(key.to_vec())));
                }
                u32::from(be16(root, 0).unwrap())
            }
            None => {
                level_blocks.push((self.root.0, None));
                self.root.1
            }
        };
        for level in (0..level).rev() {
            let mut below = Vec::new();
            for (i, (block, key)) in level_blocks.iter().enumerate() {
                assert!(seen.insert(*block), "block {block} comes twice");
                let buffer = tp.read_block(FsBlock(*block), self.kind()).unwrap();
                let bytes = buffer.read();
                let side = |i: Option<usize>| {
                    let none = if LONG { u64::MAX } else { u32::MAX.into() };
                    i.and_then(|i| level_blocks.get(i)).map_or(none, |b| b.0)
                };
                let (left, right) = (8, 8 + Self::POINTER);
                assert_eq!(Self::pointer(&bytes, left), side(i.checked_sub(1)), "left of {block}");
                assert_eq!(Self::pointer(&bytes, right), side(Some(i + 1)), "right of {block}");
                assert_eq!(be16(&bytes, 4).unwrap(), level as u16, "level of {block}");
                let count = usize::from(be16(&bytes, 6).unwrap());
                let most = if level == 0 { LEAF } else { NODE };
                assert!(count <= most, "{count} entries");
                let alone = level_blocks.len() == 1;
                assert!(alone || count >= most / 2, "{count} of {most} entries on level {level}");
                assert!(level == 0 || !alone || self.inline.is_some() || count > 1, "a low root");
                let (low, high) = self.entries(&bytes, level, count, &mut records, &mut below);
                if let (Some(key), true) = (key, count > 0) {
                    assert_eq!(R::decode_key(key), low, "key of {block}");
                    if R::OVERLAPPING {
                        assert_eq!(R::decode_key(&key[4..]), high, "high key of {block}");
                    }
                }
            }
            level_blocks = below;
        }
        assert_eq!(seen, self.live, "blocks of the tree");
        records
    }
    fn entries(
        &self,
        bytes: &[u8],
        level: u32,
        count: usize,
        records: &mut Vec<R>,
        below: &mut Vec<(u64, Option<Vec<u8>>)>,
    ) -> (u32, u32) {
        let (mut low, mut high) = (0, 0);
        for i in 0..count {
            let (first, last) = if level == 0 {
                let record = R::decode(&bytes[Self::HEADER + i * R::BYTES..][..R::BYTES]);
                records.push(record);
                (record.key(), record.high_key())
            } else {
                let key = &bytes[Self::HEADER + i * R::KEY_BYTES..][..R::KEY_BYTES];
                let at = Self::HEADER + NODE * R::KEY_BYTES + i * Self::POINTER;
                below.push((Self::pointer(bytes, at), Some(key.to_vec())));
                (R::decode_key(key), R::decode_key(&key[R::KEY_BYTES - 4..]))
            };
            if i == 0 {
                low = first;
            }
            high = high.max(last);
        }
        (low, high)
    }
}

/// A file system to work in. Transactions here are never committed, which shuts it down:
/// each needs a fresh one.
fn mounted() -> Arc<Mount> {
    static IMAGE: OnceLock<Arc<Vec<u8>>> = OnceLock::new();
    let image = IMAGE.get_or_init(|| image(16, &["-b", "size=1024", "-d", "agcount=1"]));
    mount_bytes(image.clone(), false).expect("mount")
}

type Toys<R, const LEAF: usize, const NODE: usize, const LONG: bool> =
    Cursor<Toy<R, LEAF, NODE, LONG>>;

/// Random operations on a tree and on a map; how high it became.
fn random<R: Sample, const LEAF: usize, const NODE: usize, const LONG: bool>(
    inline: Option<usize>,
    seed: u64,
) -> u32 {
    let mount = mounted();
    let tp = &mut mount.begin(mount.reservations().write, 0).unwrap();
    let mut cursor: Toys<R, LEAF, NODE, LONG> = Cursor::new(Toy::new(tp, inline));
    let mut model: BTreeMap<u32, R> = BTreeMap::new();
    if inline.is_some() {
        model.insert(0, R::sample(0, 0));
    }
    let mut random = Random(seed);
    let mut highest = 0;
    // Grow, stay, shrink to nearly nothing, and once more.
    for (round, growth) in [75, 50, 20, 90, 50, 5].into_iter().enumerate() {
        for step in 0..700 {
            let key = random.below(3000) + 1;
            let grows = random.below(100) < growth;
            if grows && !model.contains_key(&key) {
                insert(
                    tp,
                    &mut cursor,
                    &mut model,
                    R::sample(key, random.below(1000)),
                    &mut random,
                );
            } else if !grows && model.len() > 1 {
                // The record of an inode's tree that comes first stays.
                let (&key, _) =
                    model.range(key..).next().unwrap_or(model.iter().next_back().unwrap());
                if key > 0 {
                    delete(tp, &mut cursor, &mut model, key);
                }
            } else if let Some(old) = model.get(&key).copied() {
                let new = R::sample(key, random.below(1000));
                assert!(cursor.lookup_eq(tp, &old.key()).unwrap());
                cursor.update(tp, &new).unwrap();
                model.insert(key, new);
            }
            look_up(tp, &mut cursor, &model, random.below(3002));
            if step % 16 == 0 {
                let records = cursor.shape().check(tp);
                let expected: Vec<R> = model.values().copied().collect();
                assert_eq!(records, expected, "seed {seed} round {round} step {step}");
            }
            if R::OVERLAPPING && step % 8 == 0 {
                overlaps(tp, &mut cursor, &model, random.below(3000), random.below(60));
            }
            highest = highest.max(cursor.levels(tp).unwrap());
        }
    }
    highest
}

fn insert<R: Sample, const LEAF: usize, const NODE: usize, const LONG: bool>(
    tp: &mut Trans<'_>,
    cursor: &mut Toys<R, LEAF, NODE, LONG>,
    model: &mut BTreeMap<u32, R>,
    record: R,
    random: &mut Random,
) {
    // Sometimes there is no block for the tree: then it stays as it was.
    cursor.shape_mut().allowed = random.below(4) as usize;
    match cursor.insert(tp, &record) {
        Ok(()) => {}
        Err(Error::NoSpace) => {
            let expected: Vec<R> = model.values().copied().collect();
            assert_eq!(cursor.shape().check(tp), expected);
            cursor.shape_mut().allowed = usize::MAX;
            cursor.insert(tp, &record).unwrap();
        }
        Err(e) => panic!("{e}"),
    }
    cursor.shape_mut().allowed = usize::MAX;
    model.insert(record.key(), record);
    assert_eq!(cursor.get(tp).unwrap(), Some(record), "the cursor stands on it");
    assert!(matches!(cursor.insert(tp, &record), Err(Error::Corrupt(_))), "there is one");
}

fn delete<R: Sample, const LEAF: usize, const NODE: usize, const LONG: bool>(
    tp: &mut Trans<'_>,
    cursor: &mut Toys<R, LEAF, NODE, LONG>,
    model: &mut BTreeMap<u32, R>,
    key: u32,
) {
    assert!(cursor.lookup_eq(tp, &key).unwrap());
    cursor.delete(tp).unwrap();
    model.remove(&key);
    let behind = model.range(key..).next().map(|(_, r)| *r);
    assert_eq!(cursor.get(tp).unwrap(), behind, "the cursor stands on the next one");
    if behind.is_none() {
        assert!(matches!(cursor.delete(tp), Err(Error::Corrupt(_))));
    }
}

fn look_up<S: Shape<Record = R>, R: Sample>(
    tp: &mut Trans<'_>,
    cursor: &mut Cursor<S>,
    model: &BTreeMap<u32, R>,
    key: u32,
) where
    KeyOf<S>: PartialEq<u32>,
{
    let at_or_before = model.range(..=key).next_back().map(|(_, r)| *r);
    let at_or_behind = model.range(key..).next().map(|(_, r)| *r);
    assert_eq!(cursor.lookup_le(tp, &key).unwrap(), at_or_before.is_some());
    assert_eq!(cursor.get(tp).unwrap(), at_or_before);
    // One further.
    let next = model.range(key + 1..).next().map(|(_, r)| *r);
    assert_eq!(cursor.next(tp).unwrap(), next.is_some());
    assert_eq!(cursor.get(tp).unwrap(), next);
    assert_eq!(cursor.lookup_ge(tp, &key).unwrap(), at_or_behind.is_some());
    assert_eq!(cursor.get(tp).unwrap(), at_or_behind);
    let previous = model.range(..key).next_back().map(|(_, r)| *r);
    assert_eq!(cursor.previous(tp).unwrap(), previous.is_some());
    assert_eq!(cursor.get(tp).unwrap(), previous);
    assert_eq!(cursor.lookup_eq(tp, &key).unwrap(), model.contains_key(&key));
}

fn overlaps<S: Shape<Record = R>, R: Sample>(
    tp: &mut Trans<'_>,
    cursor: &mut Cursor<S>,
    model: &BTreeMap<u32, R>,
    low: u32,
    length: u32,
) {
    let high = low + length;
    let mut found = Vec::new();
    cursor
        .overlapping(tp, &low, &high, &mut |r| {
            found.push(r);
            true
        })
        .unwrap();
    let expected: Vec<R> =
        model.values().copied().filter(|r| r.key() <= high && r.high_key() >= low).collect();
    assert_eq!(found, expected, "what overlaps {low} to {high}");
}

#[test]
fn small_blocks_short_pointers() {
    for seed in 1..4 {
        assert!(random::<Plain, 4, 4, false>(None, seed) >= 5);
        assert!(random::<Plain, 5, 5, false>(None, seed) >= 4);
        assert!(random::<Plain, 11, 6, false>(None, seed) >= 4);
    }
}

#[test]
fn records_that_overlap() {
    for seed in 1..4 {
        assert!(random::<Span, 4, 4, false>(None, seed) >= 5);
        assert!(random::<Span, 7, 5, false>(None, seed) >= 4);
    }
}

#[test]
fn roots_within_inodes() {
    for seed in 1..4 {
        assert!(random::<Plain, 4, 4, true>(Some(3), seed) >= 5);
        assert!(random::<Plain, 6, 9, true>(Some(2), seed) >= 4);
        assert!(random::<Span, 5, 6, true>(Some(5), seed) >= 4);
    }
}

#[test]
fn blocks_are_full_after_a_sequential_run() {
    for descending in [false, true] {
        let mount = mounted();
        let mut tp = mount.begin(mount.reservations().write, 0).unwrap();
        let mut cursor: Toys<Plain, 16, 16, false> = Cursor::new(Toy::new(&mut tp, None));
        for i in 0..2000 {
            let key = if descending { 5000 - i } else { i };
            cursor.insert(&mut tp, &Plain { key, value: 0 }).unwrap();
        }
        assert_eq!(cursor.shape().check(&mut tp).len(), 2000);
        // 125 leaves would be full.
        let blocks = cursor.shape().live.len();
        assert!(blocks <= 150, "{blocks} blocks for 2000 records");
        // Emptied from the front it shrinks to its root.
        assert!(cursor.first(&mut tp).unwrap());
        while cursor.get(&mut tp).unwrap().is_some() {
            cursor.delete(&mut tp).unwrap();
        }
        assert_eq!(cursor.shape().live.len(), 1);
        assert_eq!(cursor.levels(&mut tp).unwrap(), 1);
        assert!(cursor.shape().check(&mut tp).is_empty());
    }
}

#[test]
fn records_move_when_they_are_replaced() {
    let mount = mounted();
    let mut tp = mount.begin(mount.reservations().write, 0).unwrap();
    let mut cursor: Toys<Plain, 5, 4, false> = Cursor::new(Toy::new(&mut tp, None));
    let mut model = BTreeMap::new();
    let mut random = Random(9);
    for i in 0..200 {
        cursor.insert(&mut tp, &Plain { key: i * 10, value: i }).unwrap();
        model.insert(i * 10, Plain { key: i * 10, value: i });
    }
    for _ in 0..2000 {
        let from = random.below(2000);
        let Some((&old, &record)) = model.range(from..).next() else { continue };
        let key = if random.below(2) == 0 { old + random.below(9) } else { random.below(2000) };
        if key != old && model.contains_key(&key) {
            continue;
        }
        assert!(cursor.lookup_eq(&mut tp, &old).unwrap());
        cursor.replace(&mut tp, &Plain { key, ..record }).unwrap();
        model.remove(&old);
        model.insert(key, Plain { key, ..record });
        assert_eq!(cursor.get(&mut tp).unwrap(), model.get(&key).copied());
    }
    assert_eq!(cursor.shape().check(&mut tp), model.values().copied().collect::<Vec<_>>());
    // What would be out of order is refused.
    assert!(cursor.first(&mut tp).unwrap());
    let first = cursor.get(&mut tp).unwrap().unwrap();
    let refused = cursor.update(&mut tp, &Plain { key: 5000, ..first });
    assert!(matches!(refused, Err(Error::Corrupt(_))), "{refused:?}");
}

#[test]
fn damage_is_found_on_the_way_down() {
    type Small = Toys<Plain, 4, 4, false>;
    // What is written where in the child of the root, and what is said of it.
    let damages: [(usize, u8, &str); 5] = [
        (5, 7, "level 7"),
        (7, 99, "99 entries"),
        (11, 3, "left neighbour"),
        (15, 3, "right neighbour"),
        (59, 1, "starts with"),
    ];
    for (at, byte, words) in damages {
        let mount = mounted();
        let mut tp = mount.begin(mount.reservations().write, 0).unwrap();
        let mut cursor: Small = Cursor::new(Toy::new(&mut tp, None));
        for key in 0..100 {
            cursor.insert(&mut tp, &Plain { key: key * 256 + 2, value: 0 }).unwrap();
        }
        let root = tp.read_block(FsBlock(cursor.shape().root.0), BlockKind::Bnobt).unwrap();
        let child = be32(&root.read(), 56 + 4 * 4).unwrap();
        let child = tp.read_block(FsBlock(child.into()), BlockKind::Bnobt).unwrap();
        tp.edit(&child).set_u8(at, byte);
        for result in [cursor.lookup_le(&mut tp, &3), cursor.first(&mut tp)] {
            let Err(Error::Corrupt(found)) = result else { panic!("{words}: {result:?}") };
            assert!(found.reason.contains(words), "{} instead of {words}", found.reason);
            assert!(found.location.contains("AG 0 block"), "{}", found.location);
        }
        assert!(cursor.insert(&mut tp, &Plain { key: 3, value: 0 }).is_err());
    }
    // A pointer to nowhere.
    let mount = mounted();
    let mut tp = mount.begin(mount.reservations().write, 0).unwrap();
    let mut cursor: Small = Cursor::new(Toy::new(&mut tp, None));
    cursor.shape_mut().root = (1 << 30, 1);
    assert!(matches!(cursor.first(&mut tp), Err(Error::Corrupt(_))));
    cursor.shape_mut().root = (FIRST_BLOCK, 200);
    assert!(matches!(cursor.first(&mut tp), Err(Error::Corrupt(_))));
}
