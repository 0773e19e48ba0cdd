//! Whole histories of attribute forks in memory, every state checked against a model.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::vec::Vec;

use super::change::{Attrs, Key, value_blocks};
use super::{hash_of, leaf};
use crate::error::Error;
use crate::xfs::da::memory::Memory;
use crate::xfs::da::{Siblings, Store, hash_name};
use crate::xfs::ondisk::attr_leaf::{INCOMPLETE, Leaf, PARENT, Value};
use crate::xfs::ondisk::attr_remote::Header;
use crate::xfs::ondisk::attr_sf::View;
use crate::xfs::ondisk::be16;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::da_node::Node;

struct Random(u64);
impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) % n as u64) as usize
    }
}

type Values = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

fn attrs(s: &mut Memory) -> Attrs<'_, Memory> {
    Attrs { s, ignore_case: false }
}

/// All attributes as they lie on "disk", every redundancy checked.
fn read_all(s: &Memory) -> Values {
    s.check();
    let mut values = Values::new();
    if let Some(bytes) = &s.local {
        for entry in View::new(bytes).expect("a small fork").entries() {
            let e = entry.expect("an entry");
            values.insert(identity(e.flags, e.name, e.value), e.value.to_vec());
        }
        return values;
    }
    let mut walk = Walk { s, values, levels: BTreeMap::new(), remote: 0 };
    if !s.blocks.is_empty() {
        walk.block(0, None);
    }
    for level in walk.levels.values() {
        for (i, at) in level.iter().enumerate() {
            let expected = Siblings {
                forward: level.get(i + 1).map_or(0, |a| *a as u32),
                backward: i.checked_sub(1).map_or(0, |j| level[j] as u32),
            };
            assert_eq!(s.with(at, Siblings::of), expected, "siblings of {at:#x}");
        }
    }
    let seen: usize = walk.levels.values().map(Vec::len).sum();
    assert_eq!(seen + walk.remote, s.blocks.len(), "every block has a use");
    walk.values
}

/// What tells an attribute from others: of pointers to parents the value as well.
fn identity(flags: u8, name: &[u8], value: &[u8]) -> (u8, Vec<u8>) {
    let value = if flags & PARENT != 0 { value } else { &[] };
    (flags, [name, value].concat())
}

struct Walk<'a> {
    s: &'a Memory,
    values: Values,
    levels: BTreeMap<u32, Vec<u64>>,
    remote: usize,
}

impl Walk<'_> {
    fn block(&mut self, at: u64, below: Option<(u32, u32)>) {
        let (kind, block) = &self.s.blocks[&at];
        if *kind == BlockKind::DaNode {
            let node = Node::new(block).expect("a node");
            let last = node.entry(node.count - 1).expect("an entry").0;
            assert!(below.map_or(node.count >= 2, |(l, h)| l == node.level + 1 && h == last));
            self.levels.entry(node.level).or_default().push(at);
            for i in 0..node.count {
                let (hash, child) = node.entry(i).expect("an entry");
                self.block(child.into(), Some((node.level, hash)));
            }
            return;
        }
        assert_eq!(*kind, BlockKind::AttrLeaf);
        self.levels.entry(0).or_default().push(at);
        assert!(below.is_none_or(|(l, h)| l == 1 && h == leaf::last_hash(block)));
        check_leaf(block);
        let view = Leaf::new(block).expect("a leaf");
        assert!(view.count > 0, "an empty leaf");
        for i in 0..view.count {
            let e = view.entry(i).expect("an entry");
            let value = match e.value {
                Value::Local(value) => value.to_vec(),
                Value::Remote { block, length } => self.remote_value(block, length as usize),
            };
            assert_eq!(e.hash, hash_of(e.flags, e.name, &value, false));
            let key = identity(e.flags & !1, e.name, &value);
            assert_eq!(self.values.insert(key, value), None, "a name twice");
        }
    }
    fn remote_value(&mut self, block: u32, length: usize) -> Vec<u8> {
        let blocks = value_blocks(self.s.block_bytes(), length);
        let mut value = Vec::new();
        for at in u64::from(block)..u64::from(block) + blocks {
            let bytes = &self.s.blocks[&at].1;
            let header = Header::new(bytes).expect("a header");
            assert_eq!((header.offset() as usize, header.lsn()), (value.len(), u64::MAX));
            value.extend_from_slice(&bytes[56..56 + header.bytes() as usize]);
        }
        self.remote += blocks as usize;
        assert_eq!(value.len(), length);
        value
    }
}

/// The header's sums, and that names do not overlap.
fn check_leaf(block: &[u8]) {
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let items = leaf::items(block);
    for (i, item) in items.iter().enumerate() {
        let at = usize::from(be16(block, 80 + i * 8 + 4).unwrap());
        spans.push((at, at + item.bytes.len()));
    }
    spans.sort_unstable();
    assert!(spans.windows(2).all(|w| w[0].1 <= w[1].0), "names overlap");
    let field = |at| usize::from(be16(block, at).unwrap());
    let used: usize = items.iter().map(|i| i.bytes.len()).sum();
    assert_eq!(field(58), used);
    assert_eq!(field(60), spans.first().map_or(block.len(), |s| s.0));
    assert!(block[62] != 0 || used == block.len() - field(60), "holes");
    assert_eq!((field(64), field(66)), (80 + items.len() * 8, field(60) - 80 - items.len() * 8));
}

fn history(block_bytes: usize, seed: u64, peak: usize, values: [usize; 3], every: usize) {
    let mut s = Memory::new(block_bytes, 1, 180);
    let mut random = Random(seed | 1);
    let mut model = Values::new();
    let mut keys: Vec<(u8, Vec<u8>)> = Vec::new();
    let (mut growing, mut step, mut most) = (true, 0u64, 0);
    while growing || !keys.is_empty() {
        step += 1;
        growing &= keys.len() < peak;
        let grow = keys.is_empty() || random.below(100) < if growing { 70 } else { 20 };
        let replace = !keys.is_empty() && random.below(4) == 0;
        if grow || replace {
            let key = if replace {
                keys[random.below(keys.len())].clone()
            } else {
                let mut name = format!("{step}").into_bytes();
                let most = [4, 40, 200][random.below(3)];
                name.resize(name.len() + random.below(most), b'n');
                ([0, 2, 4][random.below(3)], name)
            };
            let most = values[random.below(3)];
            let length = random.below(most);
            let value: Vec<u8> = (0..length).map(|i| (i as u64 * step) as u8).collect();
            attrs(&mut s).set(Key::named(key.0, &key.1), &value).expect("an attribute that is set");
            if model.insert(key.clone(), value).is_none() {
                keys.push(key);
            }
        } else {
            let key = keys.swap_remove(random.below(keys.len()));
            let gone = Key::named(key.0, &key.1);
            assert_eq!(attrs(&mut s).contains(gone), Ok(true));
            attrs(&mut s).remove(gone).expect("an attribute that is removed");
            assert_eq!(attrs(&mut s).contains(gone), Ok(false));
            model.remove(&key);
        }
        most = most.max(s.blocks.len());
        if step % every as u64 == 0 || keys.len() < 3 {
            assert!(read_all(&s) == model, "the attributes are those of the model");
        }
    }
    assert!(most > 3, "it never had more than {most} blocks");
    assert!(attrs(&mut s).is_empty() && s.blocks.is_empty());
}

#[test]
fn small_values_in_all_forms() {
    for seed in 1..5 {
        history(1024, seed, 700, [8, 30, 100], 57);
        history(4096, seed, 1500, [8, 30, 255], 301);
    }
}

#[test]
fn values_of_all_sizes() {
    for seed in 1..5 {
        history(1024, seed, 60, [100, 800, 5000], 1);
        history(4096, seed, 40, [255, 4000, 65536], 1);
    }
}

#[test]
fn names_that_hardly_fit() {
    for seed in 1..9 {
        history(1024, seed, 80, [740, 700, 20], 1);
    }
}

#[test]
fn what_linux_left_half_made_goes() {
    let mut s = Memory::new(1024, 1, 100);
    for i in 0..30 {
        let name = format!("name {i}");
        attrs(&mut s).set(Key::named(0, name.as_bytes()), &[7; 20]).expect("set");
    }
    let key = Key::named(0, b"name 7");
    let hash = hash_name(key.name.iter().copied());
    let mut leaves = s.blocks.iter().filter(|(_, (kind, _))| *kind == BlockKind::AttrLeaf);
    let found = leaves.find_map(|(at, (_, b))| {
        let i = leaf::search(b, hash);
        let entry = Leaf::new(b)?.entry(i)?;
        (entry.hash == hash && entry.name == key.name).then_some((*at, i))
    });
    let (at, i) = found.expect("the entry");
    s.edit(&at, |c| c.set_u8(80 + i * 8 + 6, INCOMPLETE | 1));
    assert_eq!(attrs(&mut s).contains(key), Ok(false));
    assert!(matches!(attrs(&mut s).remove(key), Err(Error::NoAttribute)));
    attrs(&mut s).set(key, b"new").expect("set");
    let all = read_all(&s);
    assert_eq!(all.len(), 30, "the half made one is gone");
    assert_eq!(all[&(0, key.name.to_vec())], b"new");
}

/// Damage that shows in no single block makes operations fail, and nothing else.
#[test]
fn damage_never_panics() {
    let mut random = Random(7);
    let (mut failed, mut worked) = (0, 0);
    for round in 0..1000 {
        let mut s = Memory::new(1024, 1, 100);
        let key = |i: usize| format!("name {i}").into_bytes();
        for i in 0..[20, 150][round % 2] {
            let value = alloc::vec![7; if i % 9 == 0 { 2000 } else { i % 90 }];
            attrs(&mut s).set(Key::named(0, &key(i)), &value).expect("set");
        }
        let mut sound = true;
        for _ in 0..=random.below(3) {
            // What any block says of itself is checked when it is read.
            let (start, length) = [(0, 8), (56, 64), (56, 968)][random.below(3)];
            let at = start + random.below(length);
            sound &= s.damage(random.below(64), at, random.below(256) as u8);
        }
        if !sound {
            continue;
        }
        for i in 0..60 {
            let name = key(random.below(150));
            let name = Key::named(0, &name);
            let value = alloc::vec![1; [10, 300, 5000][i % 3]];
            let results = [attrs(&mut s).set(name, &value), attrs(&mut s).remove(name)];
            if results.iter().any(|r| matches!(r, Err(Error::Corrupt(_)))) {
                failed += 1;
                break;
            }
            worked += 1;
        }
    }
    assert!(failed > 10 && worked > 20, "{failed} failed, {worked} worked");
}

/// Pointers to parents, many of one name, move from directory to directory.
#[test]
fn pointers_of_one_name_are_kept_apart() {
    let mut s = Memory::new(1024, 1, 180);
    let mut random = Random(11);
    let pointer = |random: &mut Random| {
        let name = ["n", "a much longer name of many bytes"][random.below(2)].as_bytes().to_vec();
        let mut value = [0; 12];
        value[7] = random.below(200) as u8;
        value[3] = random.below(3) as u8;
        (name, value)
    };
    let mut model: BTreeSet<(Vec<u8>, [u8; 12])> = BTreeSet::new();
    fn key<'a>(of: &'a (Vec<u8>, [u8; 12])) -> Key<'a> {
        Key { namespace: PARENT, name: &of.0, value: Some(&of.1) }
    }
    for step in 0..3000 {
        let fresh = pointer(&mut random);
        let some = model.iter().nth(random.below(model.len().max(1))).cloned();
        let growing = step < 1500;
        match (random.below(10), some) {
            (0..3, Some(old)) => {
                attrs(&mut s).replace(key(&old), key(&fresh), &fresh.1).expect("replaced");
                model.remove(&old);
                model.insert(fresh);
            }
            (n, Some(old)) if n < if growing { 5 } else { 9 } => {
                attrs(&mut s).remove(key(&old)).expect("removed");
                assert!(!attrs(&mut s).contains(key(&old)).expect("looked up"));
                model.remove(&old);
            }
            _ => {
                attrs(&mut s).set(key(&fresh), &fresh.1).expect("set");
                assert!(attrs(&mut s).contains(key(&fresh)).expect("looked up"));
                model.insert(fresh);
            }
        }
        if step % 20 == 0 {
            let found: Vec<(u8, Vec<u8>)> = read_all(&s).into_keys().collect();
            let mut wanted: Vec<(u8, Vec<u8>)> =
                model.iter().map(|(name, value)| identity(PARENT, name, value)).collect();
            wanted.sort();
            assert_eq!(found, wanted);
        }
    }
    assert!(model.len() < 300);
}
