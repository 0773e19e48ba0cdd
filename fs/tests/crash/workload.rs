//! A random workload: the next call, given what there is.

use super::model::{Kind, Model};
use super::ops::Op;

/// A seeded sequence of numbers (SplitMix64).
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
    pub fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.below(from.len())) }
    }
}

/// How much there may be.
const MOST_NAMES: usize = 110;
const MOST_BYTES: usize = 3 << 20;
const LARGEST_FILE: usize = 300 << 10;

/// Kinds of calls and how often each comes.
const MIX: &[(&str, usize)] = &[
    ("create", 18),
    ("mkdir", 4),
    ("symlink", 3),
    ("link", 4),
    ("unlink", 7),
    ("orphan", 1),
    ("rmdir", 2),
    ("rename", 8),
    ("exchange", 2),
    ("chmod", 2),
    ("setxattr", 6),
    ("removexattr", 2),
    ("write", 24),
    ("direct", 4),
    ("store", 8),
    ("truncate", 6),
    ("punch", 4),
    ("zero", 3),
    ("allocate", 4),
    ("collapse", 2),
    ("insert", 2),
    ("clone", 4),
    ("fsync", 10),
    ("fsyncdir", 2),
    ("sync", 1),
    ("push", 1),
];

/// Bytes that are different in every call and at every place, and never zero.
fn pattern(call: usize, pos: usize, len: usize) -> Vec<u8> {
    let mut random = Random((call as u64) << 32 | pos as u64);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(random.next().to_le_bytes().map(|b| b | 1));
    }
    bytes.truncate(len);
    bytes
}

/// What there is.
struct Names {
    files: Vec<String>,
    directories: Vec<String>,
    all: Vec<String>,
    bytes: usize,
}

fn names(model: &Model) -> Names {
    let mut names = Names { files: vec![], directories: vec![], all: vec![], bytes: 0 };
    for (path, &id) in &model.names {
        match model.objects[id].kind {
            Kind::File => names.files.push(path.clone()),
            Kind::Directory => names.directories.push(path.clone()),
            Kind::Symlink(_) => {}
        }
        names.bytes += model.objects[id].contents.now.len();
        if !path.is_empty() {
            names.all.push(path.clone());
        }
    }
    names
}

/// A new name in one of the directories.
fn fresh(random: &mut Random, names: &Names) -> String {
    let directory = random.pick(&names.directories).cloned().unwrap_or_default();
    // Long names make directories outgrow their inodes and blocks.
    let tail = if random.chance(30) { "n".repeat(random.below(150)) } else { String::new() };
    format!("{directory}/{}{tail}", random.next() % 100_000)
}

/// The next call of this workload, reflink allowed or not.
pub fn next(random: &mut Random, model: &Model, block: usize, reflink: bool) -> Op {
    let names = names(model);
    loop {
        let mut at = random.below(MIX.iter().map(|m| m.1).sum());
        let kind = MIX.iter().find(|m| {
            let found = at < m.1;
            at = at.wrapping_sub(m.1);
            found
        });
        let kind = kind.map_or("write", |m| m.0);
        if let Some(op) = generate(kind, random, model, &names, block, reflink) {
            return op;
        }
    }
}

/// What follows a call, if it is a clone: one of the owners goes, and the other is written
/// to in place before anything says that this is durable.
pub fn sequel(random: &mut Random, model: &Model, op: &Op) -> Vec<Op> {
    let Op::Clone(from, to) = op else { return Vec::new() };
    let (gone, kept) = if random.chance(50) { (from, to) } else { (to, from) };
    let mut calls = Vec::new();
    if random.chance(70) {
        calls.push(if random.chance(50) { Op::Sync } else { Op::Fsync(to.clone()) });
    }
    calls.push(match random.below(3) {
        0 => Op::Unlink(gone.clone()),
        1 => Op::Truncate(gone.clone(), 0),
        _ => Op::Zero(gone.clone(), 0, 40_000),
    });
    let size = model.objects[model.names[kept]].contents.now.len();
    let pos = random.below(size.max(1)) / 4096 * 4096;
    let len = (1 + random.below(30_000)).next_multiple_of(4096);
    let bytes = pattern(model.calls(), pos, len);
    calls.push(match random.below(3) {
        0 => Op::Write(kept.clone(), pos, bytes),
        _ => Op::Direct(kept.clone(), pos, bytes),
    });
    calls
}

fn generate(
    kind: &str,
    random: &mut Random,
    model: &Model,
    names: &Names,
    block: usize,
    reflink: bool,
) -> Option<Op> {
    let full = names.all.len() >= MOST_NAMES;
    match kind {
        "create" | "mkdir" | "symlink" | "link" if full => None,
        "create" => Some(Op::Create(fresh(random, names), [0o644, 0o600, 0o755][random.below(3)])),
        "mkdir" => (names.directories.len() < 8).then(|| Op::Mkdir(fresh(random, names))),
        "symlink" => {
            let length = [5, 60, 400, 900][random.below(4)];
            Some(Op::Symlink(fresh(random, names), vec![b't'; length]))
        }
        "link" => {
            let from = random.pick(&names.files)?.clone();
            Some(Op::Link(from, fresh(random, names)))
        }
        "unlink" | "orphan" | "rmdir" => remove(kind, random, model, names),
        "rename" | "exchange" => rename(kind, random, model, names),
        "chmod" => {
            let path = random.pick(&names.files)?.clone();
            Some(Op::Chmod(path, [0o600, 0o640, 0o444, 0o777][random.below(4)]))
        }
        "setxattr" => {
            let path = random.pick(&names.all)?.clone();
            // Links are followed, and lead nowhere.
            if matches!(model.objects[model.names[&path]].kind, Kind::Symlink(_)) {
                return None;
            }
            let name = format!("user.{}", random.below(12)).into_bytes();
            let length = [1, 20, 100, 300, 2500][random.below(5)];
            Some(Op::SetXattr(path, name, pattern(model.calls(), 0, length)))
        }
        "removexattr" => {
            let path = random.pick(&names.files)?.clone();
            let xattrs = &model.objects[model.names[&path]].xattrs;
            let name = xattrs.keys().next()?.clone();
            Some(Op::RemoveXattr(path, name))
        }
        "fsync" => Some(Op::Fsync(random.pick(&names.files)?.clone())),
        "fsyncdir" => Some(Op::Fsync(random.pick(&names.directories)?.clone())),
        "sync" => Some(Op::Sync),
        "push" => Some(Op::Push),
        _ => contents(kind, random, model, names, block, reflink),
    }
}

fn remove(kind: &str, random: &mut Random, model: &Model, names: &Names) -> Option<Op> {
    if kind == "rmdir" {
        let path = random.pick(&names.directories)?.clone();
        let below = format!("{path}/");
        let empty = !path.is_empty() && !model.names.keys().any(|n| n.starts_with(&below));
        return empty.then_some(Op::Rmdir(path));
    }
    let path = random.pick(&names.all)?.clone();
    match (kind, &model.objects[model.names[&path]].kind) {
        (_, Kind::Directory) | ("orphan", Kind::Symlink(_)) => None,
        ("orphan", _) => Some(Op::Orphan(path)),
        _ => Some(Op::Unlink(path)),
    }
}

fn rename(kind: &str, random: &mut Random, model: &Model, names: &Names) -> Option<Op> {
    let from = random.pick(&names.all)?.clone();
    let onto = kind == "exchange" || random.chance(30);
    let to = if onto { random.pick(&names.all)?.clone() } else { fresh(random, names) };
    let below = |a: &str, b: &str| b.starts_with(&format!("{a}/"));
    if from == to || below(&from, &to) || below(&to, &from) {
        return None;
    }
    if kind == "exchange" {
        return Some(Op::Exchange(from, to));
    }
    if let (Some(&a), Some(&b)) = (model.names.get(&from), model.names.get(&to)) {
        let directory = |id: usize| model.objects[id].kind == Kind::Directory;
        let occupied = model.names.keys().any(|n| below(&to, n));
        if a == b || directory(a) != directory(b) || occupied {
            return None;
        }
    }
    Some(Op::Rename(from, to))
}

fn contents(
    kind: &str,
    random: &mut Random,
    model: &Model,
    names: &Names,
    block: usize,
    reflink: bool,
) -> Option<Op> {
    let path = random.pick(&names.files)?.clone();
    let size = model.objects[model.names[&path]].contents.now.len();
    if model.objects[model.names[&path]].contents.moved {
        return Some(Op::Fsync(path));
    }
    let room = names.bytes < MOST_BYTES;
    let pos = random.below(size + 20_000).min(LARGEST_FILE);
    let most = [600, 5000, 60_000][random.below(3)];
    let len = 1 + random.below(most);
    let aligned = |n: usize| n / block * block;
    match kind {
        "write" if room => Some(Op::Write(path, pos, pattern(model.calls(), pos, len))),
        "direct" if room => {
            let (pos, len) = (pos / 4096 * 4096, len.next_multiple_of(4096));
            Some(Op::Direct(path, pos, pattern(model.calls(), pos, len)))
        }
        "store" if size > 0 => {
            let pos = random.below(size);
            let len = len.min(size - pos);
            Some(Op::Store(path, pos, pattern(model.calls(), pos, len)))
        }
        "truncate" => Some(Op::Truncate(path, random.below(size + 5000).min(LARGEST_FILE))),
        "punch" => Some(Op::Punch(path, pos, len)),
        "zero" if room => Some(Op::Zero(path, pos, len)),
        "allocate" if room => Some(Op::Allocate(path, pos, len, random.chance(50))),
        "collapse" | "insert" => {
            let (pos, len) = (aligned(pos), aligned(len).max(block));
            if kind == "insert" {
                let fits = pos < size && size + len < LARGEST_FILE && room;
                return fits.then_some(Op::Insert(path, pos, len));
            }
            (pos + len < size).then_some(Op::Collapse(path, pos, len))
        }
        "clone" if room && reflink => {
            let to = random.pick(&names.files)?.clone();
            let target = model.names[&to];
            let differ = model.names[&path] != target && !model.objects[target].contents.moved;
            (differ && size > 0).then_some(Op::Clone(path, to))
        }
        _ => None,
    }
}
