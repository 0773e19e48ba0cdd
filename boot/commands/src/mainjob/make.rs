//! The thread that changes names and sizes: it creates, appends, truncates, renames, links
//! and removes small files of its own while the others overwrite.
//!
//! It keeps what its files must hold. Appends follow each other, so that the files have no
//! holes and any reader of XFS can judge them.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::OpenFlags;
use sha2::{Digest, Sha256};

use super::model::mix;
use super::work::Done;
use super::{Failed, Job};
use crate::context::{Context, explain};
use crate::files::list;
use crate::text;

/// Files there are at once.
const FILES: usize = 24;
/// Bytes of the largest.
const MOST_BYTES: usize = 48 << 10;
/// Changes in all.
const STEPS: u64 = 600;

/// The files that the thread made: names below its directory, contents.
#[derive(Default)]
pub struct Made {
    files: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Where the thread works.
pub fn directory(root: &[u8]) -> Vec<u8> {
    text::join(root, b"made")
}

/// Remove what an earlier run made; an empty directory is left.
///
/// # Errors
/// What the calls say.
pub fn prepare(cx: &Context, root: &[u8]) -> Result<(), Failed> {
    let dir = directory(root);
    let failed = |e: Error| alloc::format!("{}: {}", text::quote(&dir), explain(&e));
    match cx.process.mkdir(&dir, 0o755) {
        Err(Error::Exists) => {}
        other => return other.map_err(failed),
    }
    let (names, error) = list(&cx.process, &dir);
    if let Some(e) = error {
        return Err(failed(e));
    }
    for name in names.iter().filter(|n| n.name != b"." && n.name != b"..") {
        cx.process.unlink(&text::join(&dir, &name.name)).map_err(failed)?;
    }
    Ok(())
}

struct Maker<'a> {
    job: &'a Job,
    dir: Vec<u8>,
    made: Made,
    random: u64,
    done: Done,
}

/// Work until the steps are done.
pub fn make(job: &Job) -> Result<Done, Failed> {
    let mut maker = Maker {
        job,
        dir: directory(&job.root),
        made: Made::default(),
        random: mix(job.model.seed() ^ 0x6d61_6b65),
        done: Done { name: "maker", ..Done::default() },
    };
    for _ in 0..STEPS {
        if job.stopped() {
            break;
        }
        maker.step()?;
    }
    *job.made.lock() = maker.made;
    Ok(maker.done)
}

impl Maker<'_> {
    fn draw(&mut self, below: usize) -> usize {
        self.random = mix(self.random.wrapping_add(0x9E37_79B9_7F4A_7C15));
        (self.random % below.max(1) as u64) as usize
    }
    fn path(&self, name: &[u8]) -> Vec<u8> {
        text::join(&self.dir, name)
    }
    fn fresh_name(&mut self) -> Vec<u8> {
        let tail = "-with-a-longer-name".repeat(self.draw(4));
        alloc::format!("{:x}{tail}", self.random).into_bytes()
    }
    fn some_name(&mut self) -> Vec<u8> {
        let at = self.draw(self.made.files.len());
        self.made.files.keys().nth(at).cloned().unwrap_or_default()
    }
    fn step(&mut self) -> Result<(), Failed> {
        self.done.ops += 1;
        let kind = self.draw(10);
        match self.made.files.len() {
            0..4 => self.append(None),
            FILES.. => self.remove(),
            _ => match kind {
                0 | 1 => self.append(None),
                2 => self.truncate(),
                3 | 4 => self.rename(),
                5 => self.remove(),
                _ => {
                    let name = self.some_name();
                    self.append(Some(name))
                }
            },
        }
    }
    /// Append to a file, or make a new one; sometimes make it durable.
    fn append(&mut self, name: Option<Vec<u8>>) -> Result<(), Failed> {
        let (name, flags) = match name {
            Some(name) => (name, OpenFlags::WRONLY | OpenFlags::APPEND),
            None => {
                let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::EXCL;
                (self.fresh_name(), flags)
            }
        };
        let path = self.path(&name);
        let open = self.job.open(&path, flags)?;
        let have = self.made.files.get(&name).map_or(0, Vec::len);
        let room = (MOST_BYTES - have.min(MOST_BYTES)).min(9000);
        let len = self.draw(room + 1);
        let mut bytes = vec![0; len];
        for piece in bytes.chunks_mut(8) {
            let word = mix(self.random ^ piece.len() as u64).to_le_bytes();
            self.random = mix(self.random.wrapping_add(1));
            piece.copy_from_slice(&word[..piece.len()]);
        }
        crate::context::write_all(&self.job.process, open.fd, &bytes)
            .map_err(|e| self.job.fail("append to", &path, &e))?;
        if self.draw(8) == 0 {
            let synced = self.job.process.fsync(open.fd);
            synced.map_err(|e| self.job.fail("fsync", &path, &e))?;
        }
        self.done.bytes += len as u64;
        self.job.advance(len as u64);
        self.made.files.entry(name).or_default().extend(bytes);
        Ok(())
    }
    fn truncate(&mut self) -> Result<(), Failed> {
        let name = self.some_name();
        let path = self.path(&name);
        let have = self.made.files.get(&name).map_or(0, Vec::len);
        let len = self.draw(have + 1);
        let cut = self.job.process.truncate(&path, len as u64);
        cut.map_err(|e| self.job.fail("truncate", &path, &e))?;
        if let Some(bytes) = self.made.files.get_mut(&name) {
            bytes.truncate(len);
        }
        Ok(())
    }
    /// To a new name, or over another file.
    fn rename(&mut self) -> Result<(), Failed> {
        let from = self.some_name();
        let to = if self.draw(3) == 0 { self.some_name() } else { self.fresh_name() };
        let (old, new) = (self.path(&from), self.path(&to));
        let renamed = self.job.process.rename(&old, &new);
        renamed.map_err(|e| self.job.fail("rename", &old, &e))?;
        if let Some(bytes) = self.made.files.remove(&from) {
            self.made.files.insert(to, bytes);
        }
        Ok(())
    }
    fn remove(&mut self) -> Result<(), Failed> {
        let name = self.some_name();
        let path = self.path(&name);
        self.job.process.unlink(&path).map_err(|e| self.job.fail("remove", &path, &e))?;
        self.made.files.remove(&name);
        Ok(())
    }
}

/// What was made, as it was found in the end.
pub struct Proved {
    /// Paths and SHA-256.
    pub hashes: Vec<(Vec<u8>, [u8; 32])>,
    /// Files that are not what they must be: too many, or of other contents.
    pub wrong: u64,
}

/// Read again what was made.
///
/// # Errors
/// What the calls say.
pub fn prove(job: &Arc<Job>) -> Result<Proved, Failed> {
    let made = job.made.lock();
    let dir = directory(&job.root);
    let (names, error) = list(&job.process, &dir);
    if let Some(e) = error {
        return Err(job.fail("list", &dir, &e));
    }
    let (mut hashes, mut wrong) = (Vec::new(), 0);
    let there = names.iter().filter(|n| n.name != b"." && n.name != b"..");
    wrong += there.filter(|n| !made.files.contains_key(&n.name)).count() as u64;
    for (name, expected) in &made.files {
        let path = text::join(&dir, name);
        let open = job.open(&path, OpenFlags::RDONLY)?;
        let mut bytes = Vec::new();
        crate::files::read_pieces(&job.process, open.fd, &mut |piece| {
            bytes.extend_from_slice(piece);
            true
        })
        .map_err(|e| job.fail("read", &path, &e))?;
        wrong += u64::from(bytes != *expected);
        hashes.push((path, Sha256::digest(&bytes).into()));
    }
    Ok(Proved { hashes, wrong })
}
