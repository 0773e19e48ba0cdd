//! Whole histories of directories in memory, every state checked against a model.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec::Vec;

use super::change::{Dir, Form, New};
use super::index::Index;
use super::shortform::Shortform;
use super::{data, free, index};
use crate::error::{Error, Result};
use crate::xfs::da::memory::{Memory, OWNER};
use crate::xfs::da::{Siblings, Store, hash_name};
use crate::xfs::ondisk::be64;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::da_node::Node;
use crate::xfs::ondisk::dir_data::{self, Item};

const PARENT: u64 = 0x99;

impl Dir<'_, Memory> {
    fn lookup(&mut self, name: &[u8]) -> Result<u64> {
        let form = self.form()?;
        if form == Form::Shortform {
            let small = Shortform::decode(self.s.local().expect("local")).expect("small");
            if name == b".." {
                return Ok(small.parent);
            }
            let i = self.find_small(&small, name).ok_or(Error::NotFound)?;
            return Ok(small.entries[i].ino);
        }
        let found = self.find(form, name)?.ok_or(Error::NotFound)?;
        Ok(self.s.with(&found.data, |b| be64(b, found.at).expect("an inode")))
    }
}

struct Random(u64);
impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Names with their inode and place.
type Names = BTreeMap<Vec<u8>, (u64, u64)>;

fn dir(s: &mut Memory) -> Dir<'_, Memory> {
    Dir { s, ignore_case: false }
}

/// All entries as they lie on "disk", every redundancy checked.
fn read_all(s: &mut Memory) -> Names {
    s.check();
    let form = dir(s).form().expect("a form");
    let mut names = Names::new();
    if form == Form::Shortform {
        let bytes = s.local.clone().expect("local");
        assert_eq!(s.size, bytes.len() as u64);
        let small = Shortform::decode(&bytes).expect("a small directory");
        assert_eq!(small.parent, PARENT);
        let mut end = 96;
        for e in &small.entries {
            assert!(e.offset >= end, "entries overlap");
            end = e.offset + dir_data::entry_bytes(e.name.len());
            names.insert(e.name.to_vec(), (e.ino, e.offset as u64));
        }
        assert!(end + (small.entries.len() + 2) * 8 + 8 <= s.block_bytes());
        return names;
    }
    let (leaf_at, free_at) = (dir(s).leaf_at(), dir(s).free_places().start);
    let per_block = s.block_bytes() as u64 / s.unit();
    assert_eq!(s.size, s.end_before(leaf_at) * per_block, "the size");
    let mut hashes = Vec::new();
    let mut counts = BTreeMap::new();
    let blocks: Vec<_> = s.blocks.range(..leaf_at).map(|(at, b)| (*at, b.1.clone())).collect();
    for (at, block) in blocks {
        let number = at / s.unit();
        check_largest(&block);
        counts.insert(number, data::longest(&block));
        let end = dir_data::entries_end(&block).expect("an end");
        let mut place = 64;
        while place < end {
            let item = dir_data::item(&block, place, end).expect("an item");
            if let Item::Entry(e) = item {
                let offset = number * s.block_bytes() as u64 + place as u64;
                hashes.push((hash_name(e.name.iter().copied()), (offset / 8) as u32));
                let old = names.insert(e.name.to_vec(), (e.ino.0, offset));
                assert_eq!(old, None, "a name twice");
            }
            place += item.length();
        }
    }
    assert_eq!(names.remove(b".".as_slice()), Some((OWNER, 64)));
    assert_eq!(names.remove(b"..".as_slice()), Some((PARENT, 80)));
    let mut found = match form {
        Form::Shortform | Form::Block => {
            assert_eq!(s.blocks.len(), 1);
            s.with(&0, |b| Index::of_block(b).pairs(b))
        }
        Form::Leaf => {
            check_bests(s, leaf_at, &counts);
            s.with(&leaf_at, |b| Index::of_leaf(b).pairs(b))
        }
        Form::Node => {
            check_free(s, free_at, &counts);
            let mut walk = Walk { s, leaves: Vec::new(), levels: BTreeMap::new() };
            walk.block(leaf_at, None);
            let seen: usize = walk.levels.values().map(Vec::len).sum();
            for level in walk.levels.values() {
                check_chain(walk.s, level);
            }
            let leaves = walk.leaves;
            assert_eq!(seen, s.blocks.range(leaf_at..free_at).count(), "blocks of the tree");
            leaves
        }
    };
    hashes.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, hashes, "the index");
    names
}

/// The table of the largest free spaces against what is free.
fn check_largest(block: &[u8]) {
    let end = dir_data::entries_end(block).expect("an end");
    let mut spaces = Vec::new();
    let mut at = 64;
    while at < end {
        let item = dir_data::item(block, at, end).expect("an item");
        if let Item::Free(n) = item {
            spaces.push((n, at));
        }
        at += item.length();
    }
    let table = data::largest(block);
    let mut sizes: Vec<usize> = spaces.iter().map(|s| s.0).collect();
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    sizes.resize(3.max(sizes.len()), 0);
    assert_eq!(table.map(|s| s.bytes).as_slice(), &sizes[..3]);
    for space in table.iter().filter(|s| s.bytes > 0) {
        assert!(spaces.contains(&(space.bytes, space.at)));
    }
}

fn check_bests(s: &Memory, leaf_at: u64, counts: &BTreeMap<u64, u16>) {
    let bests = s.with(&leaf_at, index::bests);
    assert_eq!(s.kind(&leaf_at), BlockKind::DirLeaf1);
    assert_ne!(bests.last(), Some(&free::NO_BLOCK));
    for (i, best) in bests.iter().enumerate() {
        let expected = counts.get(&(i as u64)).copied().unwrap_or(free::NO_BLOCK);
        assert_eq!(*best, expected, "data block {i}");
    }
    assert_eq!(bests.len() as u64, counts.keys().next_back().map_or(0, |n| n + 1));
}

fn check_free(s: &Memory, free_at: u64, counts: &BTreeMap<u64, u16>) {
    let capacity = free::capacity(s.block_bytes()) as u64;
    let mut seen = 0;
    for (at, (_, block)) in s.blocks.range(free_at..) {
        let first = (at - free_at) / s.unit() * capacity;
        assert_eq!(u64::from(u32::from_be_bytes(*block[48..].first_chunk().unwrap())), first);
        let valid = free::valid(block);
        let mut used = 0;
        for i in 0..valid {
            let count = free::count(block, i);
            let expected = counts.get(&(first + i as u64)).copied();
            assert_eq!(count, expected.unwrap_or(free::NO_BLOCK));
            used += usize::from(count != free::NO_BLOCK);
        }
        assert!(valid == 0 || free::count(block, valid - 1) != free::NO_BLOCK);
        assert!(used > 0, "a free space block without use");
        assert_eq!(free::used(block), used);
        seen += used;
    }
    assert_eq!(seen, counts.len(), "every data block has a count");
}

struct Walk<'a> {
    s: &'a Memory,
    leaves: Vec<index::Pair>,
    levels: BTreeMap<u32, Vec<u64>>,
}

impl Walk<'_> {
    /// Visit a block below a pointer with this level and hash.
    fn block(&mut self, at: u64, below: Option<(u32, u32)>) {
        let (kind, block) = &self.s.blocks[&at];
        if *kind != BlockKind::DaNode {
            assert_eq!(*kind, BlockKind::DirLeafN);
            assert!(
                below.is_none_or(|(level, hash)| level == 1 && hash == index::last_hash(block))
            );
            let index = Index::of_leaf(block);
            assert!(below.is_none() || index.live() > 0, "an empty leaf");
            self.leaves.extend(index.pairs(block));
            self.levels.entry(0).or_default().push(at);
            return;
        }
        let node = Node::new(block).expect("a node");
        let last = node.entry(node.count - 1).expect("an entry").0;
        match below {
            None => assert!(node.count >= 2, "a root with one pointer"),
            Some((level, hash)) => assert!(level == node.level + 1 && last == hash),
        }
        self.levels.entry(node.level).or_default().push(at);
        for i in 0..node.count {
            let (hash, child) = node.entry(i).expect("an entry");
            self.block(child.into(), Some((node.level, hash)));
        }
    }
}

fn check_chain(s: &Memory, level: &[u64]) {
    for (i, at) in level.iter().enumerate() {
        let expected = Siblings {
            forward: level.get(i + 1).map_or(0, |a| *a as u32),
            backward: i.checked_sub(1).map_or(0, |j| level[j] as u32),
        };
        assert_eq!(s.with(at, Siblings::of), expected, "siblings of {at:#x}");
    }
}

fn empty(block_bytes: usize, unit: u64, room: usize) -> Memory {
    let mut s = Memory::new(block_bytes, unit, room);
    let small = Shortform { parent: PARENT, entries: Vec::new() };
    let bytes = small.encode();
    s.size = bytes.len() as u64;
    s.set_local(bytes);
    s
}

fn new_name(random: &mut Random, n: u64, lengths: usize) -> Vec<u8> {
    let mut name = format!("{n:x}-").into_bytes();
    let extra = random.below(lengths);
    for _ in 0..extra {
        name.push(b'a' + random.below(26) as u8);
    }
    name.truncate(255);
    name
}

/// Up to `peak` names and down again, checked every `every` steps.
fn history(s: &mut Memory, seed: u64, peak: usize, lengths: usize, every: usize) -> Vec<Form> {
    let mut random = Random(seed | 1);
    let mut model = Names::new();
    let mut order: Vec<Vec<u8>> = Vec::new();
    let mut forms = Vec::new();
    let mut growing = true;
    let mut step = 0;
    let mut number = seed << 20;
    while growing || !order.is_empty() {
        step += 1;
        growing &= order.len() < peak;
        let odds = if growing { 70 } else { 25 };
        if order.is_empty() || random.below(100) < odds {
            number += 1;
            let name = new_name(&mut random, number, lengths);
            let wide = random.below(50) == 0;
            let ino = 200 + number + if wide { 1 << 33 } else { 0 };
            dir(s).add(New { name: &name, ino, file_type: 1 }).expect("an addition");
            model.insert(name.clone(), (ino, 0));
            order.push(name);
        } else if random.below(5) == 0 {
            let name = &order[random.below(order.len())];
            let ino = 300 + random.next() % (1 << 34);
            dir(s).replace(New { name, ino, file_type: 2 }).expect("a replacement");
            model.insert(name.clone(), (ino, 0));
        } else {
            let i = random.below(order.len());
            let name = order.swap_remove(i);
            assert!(matches!(dir(s).remove(b"no such"), Err(Error::NotFound)));
            dir(s).remove(&name).expect("a removal");
            model.remove(&name);
        }
        let form = dir(s).form().expect("a form");
        if forms.last() != Some(&form) {
            forms.push(form);
        }
        if step % every == 0 || order.len() < 3 {
            compare(s, &mut model);
            if let Some(name) = order.first() {
                assert_eq!(dir(s).lookup(name), Ok(model[name].0));
            }
        }
    }
    assert_eq!(forms.last(), Some(&Form::Shortform));
    assert!(s.blocks.is_empty());
    forms
}

/// The directory holds what the model says, and nothing moved.
fn compare(s: &mut Memory, model: &mut Names) {
    let names = read_all(s);
    assert_eq!(names.len(), model.len());
    for (name, (ino, place)) in &names {
        let expected = model.get_mut(name).expect("a name of the model");
        assert_eq!(*ino, expected.0);
        assert!(expected.1 == 0 || expected.1 == *place, "an entry moved");
        expected.1 = *place;
    }
}

#[test]
fn small_blocks_through_all_forms() {
    for seed in 1..6 {
        let mut s = empty(1024, 1, 336);
        let forms = history(&mut s, seed, 6000, 30, 401);
        for form in [Form::Shortform, Form::Block, Form::Leaf, Form::Node] {
            assert!(forms.contains(&form), "{form:?} was never seen: {forms:?}");
        }
    }
}

#[test]
fn long_names_and_often_checked() {
    for (seed, unit, bytes) in [(1, 1, 1024), (2, 4, 4096), (3, 1, 4096), (4, 2, 8192)] {
        let mut s = empty(bytes, unit, 336);
        history(&mut s, seed, 300, 250, 1);
    }
}

#[test]
fn many_in_large_blocks() {
    let mut s = empty(65536, 64, 160);
    history(&mut s, 7, 20000, 20, 9000);
    let mut s = empty(4096, 1, 336);
    history(&mut s, 8, 20000, 40, 9000);
}

#[test]
fn three_levels_and_two_free_blocks() {
    let mut s = empty(1024, 1, 336);
    let names: Vec<Vec<u8>> = (0..18_000).map(|i| format!("{i:0250}").into_bytes()).collect();
    for (i, name) in names.iter().enumerate() {
        let ino = 1000 + i as u64;
        dir(&mut s).add(New { name, ino, file_type: 1 }).expect("an addition");
    }
    assert_eq!(read_all(&mut s).len(), names.len());
    let leaf_at = dir(&mut s).leaf_at();
    let root = s.blocks[&leaf_at].1.clone();
    assert_eq!(Node::new(&root).expect("a node").level, 2);
    let free_at = dir(&mut s).free_places().start;
    assert!(s.blocks.range(free_at..).count() > 1, "free space blocks");
    // Data blocks in the middle go first, their numbers are used again.
    for name in &names[3000..9000] {
        dir(&mut s).remove(name).expect("a removal");
    }
    assert_eq!(read_all(&mut s).len(), names.len() - 6000);
    for (i, name) in names.iter().enumerate().take(9000).skip(3000).step_by(7) {
        let ino = 1000 + i as u64;
        dir(&mut s).add(New { name, ino, file_type: 1 }).expect("an addition");
    }
    read_all(&mut s);
    for (i, name) in names.iter().enumerate().rev() {
        let there = !(3000..9000).contains(&i) || (i - 3000) % 7 == 0;
        assert_eq!(dir(&mut s).remove(name).is_ok(), there);
    }
    assert!(read_all(&mut s).is_empty() && s.blocks.is_empty());
}

/// Names of one hash: two bytes seven bits apart can make up for each other.
fn colliding(n: usize) -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = alloc::vec![Vec::new()];
    // "b" then "A" hashes as "c" then "\xc1": the bit moves from one to the next.
    while names.len() < n {
        names = names
            .iter()
            .flat_map(|name| {
                [[name.as_slice(), b"bA"].concat(), [name.as_slice(), b"c\xc1"].concat()]
            })
            .collect();
    }
    names
}

#[test]
fn hundreds_of_names_with_one_hash() {
    let names = colliding(1024);
    let hash = hash_name(names[0].iter().copied());
    assert!(names.iter().all(|n| hash_name(n.iter().copied()) == hash));
    let mut s = empty(1024, 1, 336);
    for (i, name) in names.iter().enumerate() {
        let new = New { name, ino: 500 + i as u64, file_type: 1 };
        dir(&mut s).add(new).expect("an addition");
    }
    assert_eq!(read_all(&mut s).len(), names.len());
    for (i, name) in names.iter().enumerate() {
        assert_eq!(dir(&mut s).lookup(name), Ok(500 + i as u64));
    }
    for name in names.iter().skip(1).step_by(2).chain(names.iter().step_by(2)) {
        dir(&mut s).remove(name).expect("a removal");
    }
    assert!(read_all(&mut s).is_empty());
}

#[test]
fn dotdot_can_be_redirected_in_every_form() {
    for count in [0, 10, 60, 2000] {
        let mut s = empty(1024, 1, 336);
        for i in 0..count {
            let name = format!("name {i}");
            let new = New { name: name.as_bytes(), ino: 500 + i, file_type: 1 };
            dir(&mut s).add(new).expect("an addition");
        }
        assert_eq!(dir(&mut s).lookup(b".."), Ok(PARENT));
        for parent in [1 << 40, 77, PARENT] {
            let new = New { name: b"..", ino: parent, file_type: 2 };
            dir(&mut s).replace(new).expect("a replacement");
            assert_eq!(dir(&mut s).lookup(b".."), Ok(parent));
        }
        assert_eq!(read_all(&mut s).len() as u64, count);
    }
}

#[test]
fn case_can_be_ignored() {
    let mut s = empty(1024, 1, 336);
    for i in 0..500 {
        let name = format!("Name{i}");
        let new = New { name: name.as_bytes(), ino: 500 + i, file_type: 1 };
        Dir { s: &mut s, ignore_case: true }.add(new).expect("an addition");
    }
    for i in 0..500 {
        let name = format!("nAMe{i}");
        let mut dir = Dir { s: &mut s, ignore_case: true };
        assert_eq!(dir.lookup(name.as_bytes()), Ok(500 + i));
        dir.remove(name.as_bytes()).expect("a removal");
    }
    assert!(s.blocks.is_empty());
}

/// Damage that shows in no single block makes operations fail, and nothing else.
#[test]
fn damage_never_panics() {
    let mut random = Random(99);
    let (mut failed, mut worked) = (0, 0);
    for round in 0..1500 {
        let mut s = empty(1024, 1, 160);
        let count = [12, 40, 150, 400][round % 4];
        let names: Vec<Vec<u8>> = (0..count).map(|i| format!("name {i}").into_bytes()).collect();
        for (i, name) in names.iter().enumerate() {
            let new = New { name, ino: 500 + i as u64, file_type: 1 };
            dir(&mut s).add(new).expect("an addition");
        }
        let mut sound = true;
        for _ in 0..=random.below(3) {
            let (block, at) = (random.below(64), random.below([64, 128, 1024][round % 3]));
            // What any block says of itself is checked when it is read.
            let at = if (8..64).contains(&at) { at + 56 } else { at };
            sound &= !s.blocks.is_empty() && s.damage(block, at, random.next() as u8);
        }
        if !sound {
            continue;
        }
        for i in 0..60 {
            let name = &names[random.below(names.len())];
            let new = format!("new {round} {i}").into_bytes();
            let added = New { name: &new, ino: 9, file_type: 1 };
            let results = [dir(&mut s).remove(name), dir(&mut s).add(added)];
            if results.iter().any(|r| matches!(r, Err(Error::Corrupt(_)))) {
                // The file system would be shut down.
                failed += 1;
                break;
            }
            worked += 1;
        }
    }
    assert!(failed > 20 && worked > 20, "{failed} failed, {worked} worked");
}
