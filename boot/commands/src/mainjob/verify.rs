//! Reading every byte: to learn what is there, or to hold it against the model.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::syscall::OpenFlags;
use holdfast_sync::atomic::Ordering;
use holdfast_sync::thread::{JoinHandle, Priority, spawn};
use sha2::{Digest, Sha256};

use super::model::{CHUNK_BYTES, Chunk, SLOT_MAX};
use super::{Failed, Job};
use crate::files::OpenFile;

/// Threads that read.
const READERS: usize = 2;

/// What a pass is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Note what is there.
    Learn,
    /// Compare with the model.
    Check,
}

/// What a pass, or one thread's part of it, found.
#[derive(Clone, Debug, Default)]
pub struct Verified {
    /// Bytes read.
    pub bytes: u64,
    /// Slots compared.
    pub slots: u64,
    /// Slots that differ.
    pub wrong: u64,
    /// The first that differs: file and position.
    pub first_wrong: Option<(usize, u64)>,
    /// SHA-256 of whole files, by index.
    pub hashes: Vec<(usize, [u8; 32])>,
}

/// Threads that share the chunks of all files.
pub fn readers(job: &Arc<Job>, pass: Pass) -> Vec<JoinHandle<Result<Verified, Failed>>> {
    let name = if pass == Pass::Learn { "learn" } else { "verify" };
    let start = |_| {
        let job = job.clone();
        spawn(name, Priority::Normal, move || {
            let mut reader = Reader::new(&job, pass);
            let mut open: Option<(usize, OpenFile)> = None;
            while let Some(chunk) = take(&job).and_then(|i| job.model.chunks.get(i)) {
                if open.as_ref().is_none_or(|o| o.0 != chunk.file) {
                    let path = &job.model.files[chunk.file].path;
                    open = Some((chunk.file, job.open(path, OpenFlags::RDONLY)?));
                }
                if let Some((_, file)) = &open {
                    reader.chunk(file, chunk)?;
                }
            }
            Ok(reader.found)
        })
    };
    (0..READERS).map(start).collect()
}

/// Threads that share the files, each read from front to back, compared and hashed.
pub fn provers(job: &Arc<Job>) -> Vec<JoinHandle<Result<Verified, Failed>>> {
    let start = |_| {
        let job = job.clone();
        spawn("prove", Priority::Normal, move || {
            let mut reader = Reader::new(&job, Pass::Check);
            while let Some(index) = take(&job).filter(|&i| i < job.model.files.len()) {
                let open = job.open(&job.model.files[index].path, OpenFlags::RDONLY)?;
                let mut hasher = Sha256::new();
                let first = job.model.chunks.partition_point(|c| c.file < index);
                for chunk in job.model.chunks[first..].iter().take_while(|c| c.file == index) {
                    let bytes = reader.chunk(&open, chunk)?;
                    hasher.update(bytes);
                }
                reader.found.hashes.push((index, hasher.finalize().into()));
            }
            Ok(reader.found)
        })
    };
    (0..READERS).map(start).collect()
}

/// The next piece of work, unless some thread failed.
fn take(job: &Job) -> Option<usize> {
    (!job.stopped()).then(|| job.next.fetch_add(1, Ordering::SeqCst) as usize)
}

struct Reader<'a> {
    job: &'a Job,
    pass: Pass,
    found: Verified,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(job: &'a Job, pass: Pass) -> Self {
        let (buffer, scratch) = (vec![0; CHUNK_BYTES as usize + SLOT_MAX], vec![0; SLOT_MAX]);
        Self { job, pass, found: Verified::default(), buffer, scratch }
    }
    /// Read a chunk whole and look at its slots; its bytes.
    fn chunk(&mut self, open: &OpenFile, chunk: &Chunk) -> Result<&[u8], Failed> {
        let job = self.job;
        let file = &job.model.files[chunk.file];
        let start = file.range(chunk.slots.start).start;
        let len = (file.range(chunk.slots.end - 1).end - start) as usize;
        let mut read = 0;
        while read < len {
            let n = job
                .process
                .pread(open.fd, &mut self.buffer[read..len], start + read as u64)
                .map_err(|e| job.fail("read", &file.path, &e))?;
            if n == 0 {
                return Err(job.fail("read", &file.path, &holdfast_fs::Error::Io));
            }
            read += n;
        }
        for slot in chunk.slots.clone() {
            let range = file.range(slot);
            let bytes = &self.buffer[(range.start - start) as usize..(range.end - start) as usize];
            match self.pass {
                Pass::Learn => job.model.learn(chunk.file, slot, bytes),
                Pass::Check => {
                    let version = job.model.version(chunk.file, slot);
                    let scratch = &mut self.scratch;
                    let good = version
                        .is_some_and(|v| job.model.matches(chunk.file, slot, v, bytes, scratch));
                    if !good {
                        self.found.wrong += 1;
                        self.found.first_wrong.get_or_insert((chunk.file, range.start));
                    }
                }
            }
            self.found.slots += 1;
        }
        self.found.bytes += len as u64;
        job.advance(len as u64);
        Ok(&self.buffer[..len])
    }
}
