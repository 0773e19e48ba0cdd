//! What is done on a disk whose power is cut, and what must and may be found of it.
//!
//! The workload is a row of *steps*: a few operations on files, then an `fsync` or `sync`,
//! then a sign by which whoever cuts the power knows that the step was acknowledged. In the
//! lab that is a *mark*, a direct write into a block of a file that nothing else touches:
//! it stands in the log of writes. Of the step after the last acknowledged one anything
//! between nothing and all may have happened, and of the one after that nothing.
//!
//! Names change in the order of the calls, each change whole. Contents may be mixed: a
//! sector of a file is as it was before the step or after one of its operations, and the
//! size is between the least and the largest of these.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::writes::SECTOR_BYTES;
use crate::image::Manifest;
use crate::pattern::{self, Stream};

/// The file with the marks, in the root of the file system.
pub const MARKS: &str = "marks";
/// Bytes of a mark.
pub const MARK_BYTES: u64 = 4096;

/// Most files there are at a time, and most bytes of one.
const MOST_FILES: usize = 24;
const MOST_BYTES: u64 = 150_000;
/// What direct writes and moved ranges are aligned to.
const ALIGNMENT: u64 = 4096;

/// What is in a file.
type Contents = Arc<Vec<u8>>;

/// All files at some time: the names of each, and what is in it. Two names may be one file.
#[derive(Clone, Debug, Default)]
pub struct Files {
    names: BTreeMap<String, usize>,
    contents: BTreeMap<usize, Contents>,
}

/// Operations up to an acknowledgement.
#[derive(Clone, Debug)]
struct Step {
    /// Lines that both our script and a shell of Linux understand.
    lines: Vec<String>,
    /// What there is after each operation; the last is what was acknowledged.
    after: Vec<Files>,
}

/// Steps, and what there is after each.
pub struct Workload {
    steps: Vec<Step>,
    files: Files,
    made: usize,
    random: Stream,
    reflink: bool,
    /// What the names of its directories begin with.
    prefix: String,
}

impl Workload {
    /// So many steps, as the seed draws them, in directories whose names begin with
    /// `prefix`.
    pub fn new(seed: u64, steps: usize, reflink: bool, prefix: &str) -> Self {
        let (random, prefix) = (Stream::new(seed), prefix.to_owned());
        let (steps_made, files) = (Vec::new(), Files::default());
        let mut workload = Self { steps: steps_made, files, made: 0, random, reflink, prefix };
        while workload.steps.len() < steps {
            let step = workload.step();
            workload.steps.push(step);
        }
        workload
    }

    /// The script: every step, and behind it the line that `sign` makes of its number.
    /// Paths are relative.
    pub fn script(&self, sign: impl Fn(usize) -> String) -> String {
        let p = &self.prefix;
        let mut script = format!("mkdir -p {p}d0 {p}d1 {p}d2\nsync\n");
        for (number, step) in self.steps.iter().enumerate() {
            for line in &step.lines {
                script.push_str(line);
                script.push('\n');
            }
            script.push_str(&sign(number));
            script.push('\n');
        }
        script
    }

    /// How many kinds of operations there are, by their first words.
    pub fn describe(&self) -> String {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for line in self.steps.iter().flat_map(|s| &s.lines) {
            let word = line.split('\'').nth(1).unwrap_or(line).split(' ').next().unwrap_or(line);
            *counts.entry(word).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(word, n)| format!("{n} {word}")).collect();
        counts.join(", ")
    }

    fn step(&mut self) -> Step {
        let mut step = Step { lines: Vec::new(), after: Vec::new() };
        let many = self.random.below(3) == 0;
        let count = if many { 2 + self.random.below(4) } else { 1 };
        let mut touched = String::new();
        for _ in 0..count {
            touched = self.operation(&mut step);
        }
        let alone = count == 1 && !touched.is_empty() && self.random.below(4) > 0;
        let line = if alone { format!("xfs_io -c fsync {touched}") } else { "sync".into() };
        step.lines.push(line);
        step
    }

    fn name(&mut self) -> String {
        self.made += 1;
        let long = "x".repeat(self.random.below(40) as usize);
        format!("{}d{}/f{}{long}", self.prefix, self.random.below(3), self.made)
    }

    fn seed(&mut self) -> u8 {
        1 + self.random.below(250) as u8
    }

    /// Add an operation; the file whose fsync makes it durable, if that does.
    fn operation(&mut self, step: &mut Step) -> String {
        let names: Vec<String> = self.files.names.keys().cloned().collect();
        let kind = self.random.below(16);
        let line;
        let mut path = String::new();
        if names.len() < 4 || kind < 3 && names.len() < MOST_FILES {
            path = self.name();
            let (seed, length) = (self.seed(), 1 + self.random.below(60_000));
            line = format!("xfs_io -f -c 'pwrite -q -S {seed} 0 {length}' {path}");
            let id = self.made;
            self.files.names.insert(path.clone(), id);
            self.files.contents.insert(id, Arc::new(vec![seed; length as usize]));
        } else {
            let old = names[self.random.below(names.len() as u64) as usize].clone();
            match kind {
                3 | 4 => {
                    self.remove(&old);
                    line = format!("rm {old}");
                }
                5 => {
                    let new = self.name();
                    let id = self.files.names.remove(&old).unwrap_or_default();
                    self.files.names.insert(new.clone(), id);
                    line = format!("mv {old} {new}");
                }
                6 => {
                    let onto = names[self.random.below(names.len() as u64) as usize].clone();
                    line = self.rename_onto(&old, &onto);
                }
                7 | 8 if self.reflink && names.len() < MOST_FILES => {
                    path = self.name();
                    let copy = self.files.contents[&self.files.names[&old]].clone();
                    self.files.names.insert(path.clone(), self.made);
                    self.files.contents.insert(self.made, copy);
                    line = format!("xfs_io -f -c 'reflink {old}' {path}");
                }
                _ => {
                    line = self.change(&old, kind);
                    path = old;
                }
            }
        }
        step.lines.push(line);
        step.after.push(self.files.clone());
        path
    }

    fn remove(&mut self, name: &str) {
        self.files.names.remove(name);
        let used: BTreeSet<usize> = self.files.names.values().copied().collect();
        self.files.contents.retain(|id, _| used.contains(id));
    }

    fn rename_onto(&mut self, old: &str, onto: &str) -> String {
        if self.files.names[old] == self.files.names[onto] {
            // Two names of one file: rename does nothing then.
            return "sync".into();
        }
        let id = self.files.names[old];
        self.remove(onto);
        self.files.names.remove(old);
        self.files.names.insert(onto.into(), id);
        format!("mv {old} {onto}")
    }

    /// Change a file's contents.
    fn change(&mut self, path: &str, kind: u64) -> String {
        let id = self.files.names[path];
        let mut bytes = Vec::clone(&self.files.contents[&id]);
        let size = bytes.len() as u64;
        let seed = self.seed();
        let from = self.random.below(size + 3000);
        let most = [700, 6000, 40_000][self.random.below(3) as usize];
        let length = 1 + self.random.below(most);
        let command = match kind {
            9 if size > 0 => {
                let from = self.random.below(size);
                let length = length.min(size - from);
                bytes[from as usize..(from + length) as usize].fill(seed);
                format!(
                    "xfs_io -c 'mmap -rw 0 {size}' -c 'mwrite -S {seed} {from} {length}' \
                     -c 'msync -s 0 {size}' {path}"
                )
            }
            10 => {
                let size = self.random.below(MOST_BYTES.min(size + 20_000));
                bytes.resize(size as usize, 0);
                format!("xfs_io -c 'truncate {size}' {path}")
            }
            11 => {
                let end = (from + length).min(size);
                bytes[from.min(end) as usize..end as usize].fill(0);
                format!("xfs_io -c 'fpunch {from} {length}' {path}")
            }
            12 if from + length < MOST_BYTES => {
                bytes.resize(size.max(from + length) as usize, 0);
                format!("xfs_io -c 'falloc {from} {length}' {path}")
            }
            13 if from + length < MOST_BYTES => {
                let (from, length) =
                    (from / ALIGNMENT * ALIGNMENT, length.next_multiple_of(ALIGNMENT));
                write(&mut bytes, from, length, seed);
                format!("xfs_io -d -c 'pwrite -q -S {seed} {from} {length}' {path}")
            }
            14 if size + length < MOST_BYTES => {
                write(&mut bytes, size, length, seed);
                format!("xfs_io -c 'pwrite -q -S {seed} {size} {length}' {path}")
            }
            _ => {
                let from = from.min(MOST_BYTES);
                write(&mut bytes, from, length, seed);
                format!("xfs_io -c 'pwrite -q -S {seed} {from} {length}' {path}")
            }
        };
        self.files.contents.insert(id, Arc::new(bytes));
        command
    }

    /// What may be found when `acknowledged` steps have been.
    pub fn window(&self, acknowledged: usize) -> Window {
        let mut versions = vec![match acknowledged {
            0 => Files::default(),
            n => self.steps[n - 1].after.last().cloned().unwrap_or_default(),
        }];
        versions.extend(self.steps.get(acknowledged).iter().flat_map(|s| s.after.clone()));
        Window { versions }
    }
}

fn write(bytes: &mut Vec<u8>, from: u64, length: u64, seed: u8) {
    let (from, end) = (from as usize, (from + length) as usize);
    bytes.resize(bytes.len().max(end), 0);
    bytes[from..end].fill(seed);
}

/// The line that puts the mark of a step on the disk.
pub fn mark(step: usize) -> String {
    let at = step as u64 * MARK_BYTES;
    format!("xfs_io -d -c 'pwrite -q -S 1 {at} {MARK_BYTES}' {MARKS}")
}

/// What may be found after a power cut.
pub struct Window {
    /// What was acknowledged, then what there is after each operation since.
    versions: Vec<Files>,
}

impl Window {
    /// Can these files, by the hashes of their contents, be found? `read` is asked for
    /// those that are as none of the versions has them.
    ///
    /// # Errors
    /// What is wrong, or that it cannot be read.
    pub fn allows(
        &self,
        found: &Manifest,
        read: impl Fn(&str) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<()> {
        let mut reasons = Vec::new();
        for version in self.versions.iter().rev() {
            match self.is_like(version, found, &read)? {
                None => return Ok(()),
                Some(reason) => reasons.push(reason),
            }
        }
        anyhow::bail!("as after none of {} operations:\n{}", reasons.len() - 1, reasons.join("\n"))
    }

    /// Are the names those of a version, and the contents allowed? If not, why.
    fn is_like(
        &self,
        version: &Files,
        found: &Manifest,
        read: &impl Fn(&str) -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Option<String>> {
        let wanted: BTreeSet<&str> = version.names.keys().map(String::as_str).collect();
        let seen: BTreeSet<&str> = found.keys().map(String::as_str).collect();
        if wanted != seen {
            let missing: Vec<_> = wanted.difference(&seen).collect();
            let more: Vec<_> = seen.difference(&wanted).collect();
            return Ok(Some(format!("{missing:?} are missing, {more:?} should not be there")));
        }
        for (name, hash) in found {
            let id = version.names[name];
            let mut allowed: Vec<&Contents> =
                self.versions.iter().filter_map(|v| v.contents.get(&id)).collect();
            allowed.dedup_by(|a, b| Arc::ptr_eq(a, b));
            // A file that is made is empty at first.
            let fresh = !self.versions[0].contents.contains_key(&id);
            let empty = Contents::default();
            if fresh {
                allowed.push(&empty);
            }
            if allowed.iter().any(|c| pattern::sha256(c) == *hash) {
                continue;
            }
            if let Some(reason) = mixed(&allowed, &read(name)?) {
                return Ok(Some(format!("{name}: {reason}")));
            }
        }
        Ok(None)
    }
}

/// Can these bytes be found where any of `allowed` may be? If not, why.
fn mixed(allowed: &[&Contents], found: &[u8]) -> Option<String> {
    let sizes = || allowed.iter().map(|c| c.len());
    let (least, most) = (sizes().min().unwrap_or(0), sizes().max().unwrap_or(0));
    if !(least..=most).contains(&found.len()) {
        return Some(format!("{} bytes, should be {least} to {most}", found.len()));
    }
    for (n, sector) in found.chunks(SECTOR_BYTES).enumerate() {
        let at = n * SECTOR_BYTES;
        // Behind the end of a version there are zeros.
        let is_of = |contents: &&Contents| {
            let there = contents.get(at..).unwrap_or_default();
            let there = &there[..there.len().min(sector.len())];
            sector.starts_with(there) && sector[there.len()..].iter().all(|b| *b == 0)
        };
        if !allowed.iter().any(is_of) {
            let first = |c: &Contents| c.get(at).copied();
            let wanted: Vec<_> = allowed.iter().map(|c| first(c)).collect();
            return Some(format!(
                "sector {n} of {} bytes starts with {:02x?}, should with one of {wanted:02x?}",
                found.len(),
                &sector[..sector.len().min(8)]
            ));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(files: &[(&str, &[u8])]) -> Manifest {
        files.iter().map(|(n, bytes)| ((*n).into(), pattern::sha256(bytes))).collect()
    }

    #[test]
    fn sectors_may_be_mixed_and_nothing_else() {
        let old = Arc::new(vec![1; 1200]);
        let new = Arc::new(vec![2; 2000]);
        let both = [&old, &new];
        let mut found = vec![1; 1024];
        found.extend(vec![2; 400]);
        assert_eq!(mixed(&both, &found), None);
        found[600] = 2;
        assert!(mixed(&both, &found).is_some(), "half a sector");
        assert!(mixed(&both, &[1; 1199]).is_some(), "too short");
        assert!(mixed(&both, &[0; 1300]).is_some(), "zeros where none ever were");
    }

    #[test]
    fn names_are_those_after_some_operation() {
        let mut files = Files::default();
        let mut versions = vec![files.clone()];
        for (id, name) in ["a", "b"].iter().enumerate() {
            files.names.insert((*name).into(), id);
            files.contents.insert(id, Arc::new(vec![3; 10]));
            versions.push(files.clone());
        }
        let window = Window { versions };
        let read = |_: &str| Ok(vec![9; 10]);
        assert!(window.allows(&manifest(&[]), read).is_ok());
        assert!(window.allows(&manifest(&[("a", &[3; 10]), ("b", &[])]), read).is_ok());
        assert!(window.allows(&manifest(&[("b", &[3; 10])]), read).is_err(), "b without a");
        assert!(window.allows(&manifest(&[("a", &[4; 10])]), read).is_err(), "other contents");
    }

    #[test]
    fn a_seed_draws_a_workload_with_everything_in_it() {
        let workload = Workload::new(3, 300, true, "");
        for word in ["pwrite", "mmap", "truncate", "fpunch", "falloc", "reflink", "rm", "mv"] {
            assert!(workload.describe().contains(word), "no {word}: {}", workload.describe());
        }
        let script = |workload: &Workload| workload.script(|n| format!("echo {n}"));
        assert_eq!(script(&workload), script(&Workload::new(3, 300, true, "")));
    }
}
