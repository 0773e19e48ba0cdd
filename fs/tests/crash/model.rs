//! What a file system may look like after a power cut, given what was done and what was
//! acknowledged.
//!
//! Names, modes, links and attributes change in the order of the calls, each change whole:
//! what is found is the state after some call, no earlier than the last one that was made
//! durable and no later than the last one begun.
//!
//! Contents may be mixed: each 512 bytes of a file are as they were at some time since the
//! file was last made durable; its size is among those it had since then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::ops::Op;

/// Bytes that a device writes all or not at all.
pub const SECTOR: usize = 512;

/// An object of the model, by number.
pub type Id = usize;

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    Symlink(Vec<u8>),
}

/// What is in a file, and what may be there after a power cut instead.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    pub now: Vec<u8>,
    sizes: BTreeSet<usize>,
    past: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Contents were moved within the file since it was last made durable. Whoever writes
    /// to it now can find that at the old place, so a workload does not.
    pub moved: bool,
}

impl Contents {
    fn sector(bytes: &[u8], n: usize) -> Vec<u8> {
        let start = (n * SECTOR).min(bytes.len());
        let end = (start + SECTOR).min(bytes.len());
        let mut sector = bytes[start..end].to_vec();
        sector.resize(SECTOR, 0);
        sector
    }
    /// Change everything from `start` to `end`, or to the end of old and new contents.
    fn change(&mut self, start: usize, end: Option<usize>, new: Vec<u8>) {
        let end = end.unwrap_or(usize::MAX).min(self.now.len().max(new.len()));
        self.sizes.insert(self.now.len());
        for n in start / SECTOR..end.div_ceil(SECTOR) {
            let old = Self::sector(&self.now, n);
            let past = self.past.entry(n).or_default();
            if !past.contains(&old) {
                past.push(old);
            }
        }
        self.now = new;
        self.sizes.insert(self.now.len());
    }
    pub fn write(&mut self, pos: usize, bytes: &[u8]) {
        let mut new = self.now.clone();
        let end = pos + bytes.len();
        new.resize(new.len().max(end), 0);
        new[pos..end].copy_from_slice(bytes);
        self.change(pos, Some(end), new);
    }
    pub fn truncate(&mut self, size: usize) {
        let mut new = self.now.clone();
        new.resize(size, 0);
        self.change(size.min(self.now.len()), None, new);
    }
    fn zero(&mut self, pos: usize, len: usize, grow: bool) {
        let mut new = self.now.clone();
        if grow {
            new.resize(new.len().max(pos + len), 0);
        }
        let (start, end) = (pos.min(new.len()), (pos + len).min(new.len()));
        new[start..end].fill(0);
        self.change(pos, Some(pos + len), new);
    }
    fn collapse(&mut self, pos: usize, len: usize) {
        // The range becomes a hole first; then what follows moves.
        let mut new = self.now.clone();
        new.drain(pos..pos + len);
        self.shift(pos, new);
    }
    fn insert(&mut self, pos: usize, len: usize) {
        let mut new = self.now.clone();
        new.splice(pos..pos, std::iter::repeat_n(0, len));
        self.shift(pos, new);
    }
    /// What lies behind `pos` moves, extent by extent, each in a transaction of its own: cut
    /// off between two there is a hole where one was and the next has not come yet.
    ///
    /// ```text
    /// before                         a a a a b b
    /// the last extent has gone up    a a a a - b b    forced, cut off: a hole where b began
    /// the one before it follows      - a a a a b b
    /// ```
    fn shift(&mut self, pos: usize, new: Vec<u8>) {
        self.zero(pos, self.now.len().saturating_sub(pos), false);
        self.moved = true;
        self.change(pos, None, new);
    }
    fn replace(&mut self, new: Vec<u8>) {
        self.change(0, None, new);
    }
    /// It has been made durable: nothing else can be found any more.
    pub fn settle(&mut self) {
        self.past.clear();
        self.moved = false;
        self.sizes = BTreeSet::from([self.now.len()]);
    }
    /// Can this be found? If not, why, and the part that cannot.
    fn allows<'f>(&self, found: &'f [u8]) -> Result<(), (String, &'f [u8])> {
        // Files grow as their data arrives, in pieces.
        let least = self.sizes.first().copied().unwrap_or(0).min(self.now.len());
        let most = self.sizes.last().copied().unwrap_or(0).max(self.now.len());
        if !(least..=most).contains(&found.len()) {
            let reason = format!("{} bytes, should be {least} to {most}", found.len());
            return Err((reason, &[]));
        }
        for (n, sector) in found.chunks(SECTOR).enumerate() {
            let fits = |allowed: &[u8]| allowed.starts_with(sector);
            let past = self.past.get(&n).map_or(&[][..], |p| p);
            let known = fits(&Self::sector(&self.now, n)) || past.iter().any(|p| fits(p));
            if !known {
                let now = Self::sector(&self.now, n);
                let at = sector.iter().zip(&now).position(|(a, b)| a != b).unwrap_or(0);
                let end = (at + 16).min(sector.len());
                let reason = format!(
                    "sector {n} of {} bytes has {:02x?} at {at}, last written was {:02x?}, \
                     {} before that",
                    found.len(),
                    &sector[at..end],
                    &now[at..end],
                    past.len()
                );
                return Err((reason, sector));
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug)]
pub struct Object {
    pub kind: Kind,
    pub mode: u16,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub contents: Contents,
    /// After this many calls its names and attributes were last changed.
    touched: usize,
    /// What was done to its contents, by the number of the call.
    done: Vec<(usize, Op)>,
}

/// All names after some number of calls.
#[derive(Clone, Debug)]
pub struct Version {
    /// A line for each name: everything but contents.
    pub lines: Arc<String>,
    pub names: Arc<BTreeMap<String, Id>>,
}

/// What the workload has done so far.
#[derive(Clone, Debug)]
pub struct Model {
    pub objects: Vec<Object>,
    /// By path; the root is the empty one.
    pub names: BTreeMap<String, Id>,
    versions: Vec<Version>,
    /// The last version that has been made durable.
    durable: usize,
}

impl Default for Model {
    fn default() -> Self {
        let root = Object {
            kind: Kind::Directory,
            mode: 0o755,
            xattrs: BTreeMap::new(),
            contents: Contents::default(),
            touched: 0,
            done: Vec::new(),
        };
        let names = BTreeMap::from([(String::new(), 0)]);
        let mut model = Self { objects: vec![root], names, versions: Vec::new(), durable: 0 };
        model.remember();
        model
    }
}

/// The directory a path is in.
pub fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// A line about a name.
pub fn line(
    path: &str,
    kind: &Kind,
    mode: u16,
    nlink: u32,
    xattrs: &BTreeMap<Vec<u8>, Vec<u8>>,
    same_as: &str,
) -> String {
    let mut line = format!("{path:?} {mode:o} x{nlink}");
    match kind {
        Kind::File => {}
        Kind::Directory => line.push_str(" directory"),
        Kind::Symlink(target) => {
            write!(line, " -> {}", String::from_utf8_lossy(target)).expect("a string");
        }
    }
    for (name, value) in xattrs {
        let sum = value
            .iter()
            .fold(value.len() as u64, |n, b| n.wrapping_mul(0x100_0193) ^ u64::from(*b));
        write!(line, " {}={sum:x}", String::from_utf8_lossy(name)).expect("a string");
    }
    if same_as != path {
        write!(line, " same as {same_as:?}").expect("a string");
    }
    line
}

impl Model {
    fn remember(&mut self) {
        let mut first: BTreeMap<Id, &str> = BTreeMap::new();
        let mut links: BTreeMap<Id, u32> = BTreeMap::new();
        for (path, &id) in &self.names {
            first.entry(id).or_insert(path);
            *links.entry(id).or_default() += 1;
            if self.objects[id].kind == Kind::Directory {
                // Its own "." and, in the directory above, its "..".
                *links.entry(id).or_default() += 1;
                if !path.is_empty() {
                    *links.entry(self.names[parent(path)]).or_default() += 1;
                }
            }
        }
        let mut lines = String::new();
        for (path, &id) in &self.names {
            let o = &self.objects[id];
            lines.push_str(&line(path, &o.kind, o.mode, links[&id], &o.xattrs, first[&id]));
            lines.push('\n');
        }
        let names = match self.versions.last() {
            Some(last) if *last.names == self.names => last.names.clone(),
            _ => Arc::new(self.names.clone()),
        };
        self.versions.push(Version { lines: Arc::new(lines), names });
    }
    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.versions.len() - 1
    }
    /// The versions that may be found now, the newest first.
    pub fn window(&self) -> impl Iterator<Item = &Version> {
        self.versions[self.durable..].iter().rev()
    }
    fn object(&mut self, path: &str) -> &mut Object {
        let id = self.names[path];
        &mut self.objects[id]
    }
    fn touch(&mut self, paths: &[&str]) {
        let now = self.versions.len();
        for path in paths {
            if let Some(&id) = self.names.get(*path) {
                self.objects[id].touched = now;
            }
        }
    }
    fn add(&mut self, path: &str, kind: Kind, mode: u16) {
        let contents = Contents { sizes: BTreeSet::from([0]), ..Contents::default() };
        let xattrs = BTreeMap::new();
        let done = Vec::new();
        self.objects.push(Object { kind, mode, xattrs, contents, touched: 0, done });
        self.names.insert(path.into(), self.objects.len() - 1);
        self.touch(&[path, parent(path)]);
    }
    fn rename(&mut self, from: &str, to: &str) {
        let below = format!("{from}/");
        let moved: Vec<String> =
            self.names.keys().filter(|n| *n == from || n.starts_with(&below)).cloned().collect();
        for name in moved {
            let id = self.names.remove(&name).expect("a name");
            self.names.insert(format!("{to}{}", &name[from.len()..]), id);
        }
    }
    /// Can these contents of an object be found?
    pub fn allows<'f>(&self, id: Id, found: &'f [u8]) -> Result<(), (String, &'f [u8])> {
        self.objects[id].contents.allows(found)
    }
    /// What was done to an object's contents, and who wrote these bytes of it.
    pub fn explain(&self, id: Id, bytes: &[u8]) -> String {
        let mut text = String::new();
        for (call, op) in &self.objects[id].done {
            writeln!(text, "  call {call}: {}", op.describe()).expect("a string");
            if let Op::Clone(from, _) = op
                && let Some(&source) = self.versions[*call - 1].names.get(from)
            {
                for (call, op) in &self.objects[source].done {
                    writeln!(text, "    its source, call {call}: {}", op.describe())
                        .expect("a string");
                }
            }
        }
        let middle = bytes.len() / 2;
        let sample = bytes.get(middle..middle + 16).unwrap_or(&[]);
        for object in self.objects.iter().filter(|_| sample.iter().any(|&b| b != 0)) {
            for (call, op) in &object.done {
                let (Op::Write(path, pos, data)
                | Op::Direct(path, pos, data)
                | Op::Store(path, pos, data)) = op
                else {
                    continue;
                };
                if let Some(at) = data.windows(sample.len()).position(|w| w == sample) {
                    let at = pos + at - middle;
                    writeln!(text, "  found is what call {call} wrote to {path} at {at}")
                        .expect("a string");
                }
            }
        }
        text
    }
    fn note(&mut self, op: &Op) {
        let (Op::Write(path, ..)
        | Op::Direct(path, ..)
        | Op::Store(path, ..)
        | Op::Truncate(path, _)
        | Op::Punch(path, ..)
        | Op::Zero(path, ..)
        | Op::Allocate(path, ..)
        | Op::Collapse(path, ..)
        | Op::Insert(path, ..)
        | Op::Clone(_, path)
        | Op::Fsync(path)) = op
        else {
            return;
        };
        let call = self.versions.len();
        let id = self.names[path];
        self.objects[id].done.push((call, op.clone()));
    }
    /// A call begins: from now on its effects may be found.
    pub fn begin(&mut self, op: &Op) {
        self.note(op);
        match op {
            Op::Nothing | Op::Sync | Op::Fsync(_) | Op::Push => {}
            Op::Create(path, mode) => self.add(path, Kind::File, *mode),
            Op::Mkdir(path) => self.add(path, Kind::Directory, 0o755),
            Op::Symlink(path, target) => {
                self.add(path, Kind::Symlink(target.clone()), 0o777);
            }
            Op::Link(from, to) => {
                let id = self.names[from];
                self.names.insert(to.clone(), id);
                self.touch(&[to, parent(to)]);
            }
            Op::Unlink(path) | Op::Orphan(path) | Op::Rmdir(path) => {
                self.touch(&[path, parent(path)]);
                self.names.remove(path);
            }
            Op::Rename(from, to) => {
                self.touch(&[from, to, parent(from), parent(to)]);
                self.names.remove(to);
                self.rename(from, to);
            }
            Op::Exchange(a, b) => {
                self.touch(&[a, b, parent(a), parent(b)]);
                self.rename(a, "/\0");
                self.rename(b, a);
                self.rename("/\0", b);
            }
            Op::Chmod(path, mode) => {
                self.object(path).mode = *mode;
                self.touch(&[path]);
            }
            Op::SetXattr(path, name, value) => {
                self.object(path).xattrs.insert(name.clone(), value.clone());
                self.touch(&[path]);
            }
            Op::RemoveXattr(path, name) => {
                self.object(path).xattrs.remove(name);
                self.touch(&[path]);
            }
            Op::Write(path, pos, bytes)
            | Op::Direct(path, pos, bytes)
            | Op::Store(path, pos, bytes) => {
                self.object(path).contents.write(*pos, bytes);
            }
            Op::Truncate(path, size) => self.object(path).contents.truncate(*size),
            Op::Punch(path, pos, len) => self.object(path).contents.zero(*pos, *len, false),
            Op::Zero(path, pos, len) => self.object(path).contents.zero(*pos, *len, true),
            Op::Allocate(path, pos, len, keep) => {
                let contents = &mut self.object(path).contents;
                let size = contents.now.len();
                if !keep && pos + len > size {
                    contents.truncate(pos + len);
                }
            }
            Op::Collapse(path, pos, len) => self.object(path).contents.collapse(*pos, *len),
            Op::Insert(path, pos, len) => self.object(path).contents.insert(*pos, *len),
            Op::Clone(from, to) => {
                let new = self.object(from).contents.now.clone();
                // The old contents are truncated away first.
                self.object(to).contents.truncate(0);
                self.object(to).contents.replace(new);
            }
        }
        match (op, self.versions.last()) {
            // Of names nothing changes.
            (
                Op::Nothing
                | Op::Sync
                | Op::Fsync(_)
                | Op::Push
                | Op::Write(..)
                | Op::Direct(..)
                | Op::Store(..)
                | Op::Truncate(..)
                | Op::Punch(..)
                | Op::Zero(..)
                | Op::Allocate(..)
                | Op::Collapse(..)
                | Op::Insert(..)
                | Op::Clone(..),
                Some(last),
            ) => self.versions.push(last.clone()),
            _ => self.remember(),
        }
    }
    /// A call has returned: what it promises is durable.
    pub fn end(&mut self, op: &Op) {
        match op {
            Op::Sync => {
                self.durable = self.versions.len() - 1;
                for object in &mut self.objects {
                    object.contents.settle();
                }
            }
            Op::Fsync(path) => {
                let object = self.object(path);
                object.contents.settle();
                let touched = object.touched;
                // The log keeps the order: what came before is durable as well.
                self.durable = self.durable.max(touched);
            }
            _ => {}
        }
    }
}
