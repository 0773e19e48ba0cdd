//! What every byte of every file must be.

use alloc::vec::Vec;
use core::ops::Range;

use holdfast_fs::syscall::{FiemapFlags, OpenFlags};
use holdfast_sync::atomic::{AtomicU8, AtomicU32, Ordering};

use super::Failed;
use crate::context::{Context, explain};
use crate::files::{OpenFile, absolute, walk};
use crate::text;

/// Sizes of slots: odd, so that slots never end with pages for long.
const SLOT_BYTES: [u32; 8] = [3001, 5003, 4099, 9973, 2503, 13_001, 6151, 7013];
/// Slots of small files.
const SMALL_SLOT_BYTES: u32 = 1021;
/// Files below this have small slots.
const SMALL_FILE: u64 = 64 << 10;
/// Work is handed out in pieces of about this size.
pub const CHUNK_BYTES: u64 = 512 << 10;
/// No slot is larger.
pub const SLOT_MAX: usize = 13_001;

/// A slot is being changed just now.
const BUSY: u8 = 0x80;
/// The slot's first byte was inverted after its version was written.
pub const POKED: u8 = 0x40;
/// The version proper; 0 is what was there before.
const VERSION: u8 = 0x3F;

/// One file.
pub struct FileModel {
    /// Its path.
    pub path: Vec<u8>,
    /// Its size, which stays.
    pub size: u64,
    /// Bytes in a slot.
    pub slot_bytes: u32,
    /// The index of its first slot in the tables.
    first: usize,
    /// Written extents all over, shared with nobody: it may be overwritten.
    pub writable: bool,
}

/// Consecutive slots of one file.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// The file's index.
    pub file: usize,
    /// Its slots.
    pub slots: Range<u32>,
}

/// Who may change a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A writer, by number.
    Writer(usize),
    /// A storer, by number.
    Storer(usize),
    /// Nobody: it must keep what it has while its neighbours change.
    Nobody,
}

/// The files and what is in them.
pub struct Model {
    /// The seed of all contents.
    seed: u64,
    /// The files, in byte order of their paths.
    pub files: Vec<FileModel>,
    /// All files in pieces of about [`CHUNK_BYTES`].
    pub chunks: Vec<Chunk>,
    versions: Vec<AtomicU8>,
    originals: Vec<AtomicU32>,
}

impl FileModel {
    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        self.size.div_ceil(self.slot_bytes.into()) as u32
    }
    /// The bytes of a slot.
    pub fn range(&self, slot: u32) -> Range<u64> {
        let start = u64::from(slot) * u64::from(self.slot_bytes);
        start..(start + u64::from(self.slot_bytes)).min(self.size)
    }
}

/// A mixed number: every bit of the input reaches every bit of the output.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ x >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ x >> 31
}

/// A checksum of bytes, eight at a time.
pub fn checksum(bytes: &[u8]) -> u32 {
    let step =
        |sum: u64, word: u64| (sum ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let mut words = bytes.chunks_exact(8);
    let mut sum = bytes.len() as u64;
    for word in &mut words {
        sum = step(sum, u64::from_le_bytes(word.try_into().unwrap_or_default()));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    let sum = step(sum, u64::from_le_bytes(last));
    (sum ^ sum >> 32) as u32
}

/// Fill `out` with the bytes of one version.
fn generate(seed: u64, out: &mut [u8]) {
    let mut x = seed;
    let mut words = out.chunks_exact_mut(8);
    for word in &mut words {
        x = x.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
        word.copy_from_slice(&(x ^ x >> 32).to_le_bytes());
    }
    let rest = words.into_remainder();
    let last = mix(x).to_le_bytes();
    rest.copy_from_slice(&last[..rest.len()]);
}

impl Model {
    /// What the run is drawn from.
    pub fn seed(&self) -> u64 {
        self.seed
    }
    /// Look at all regular files below `root`.
    pub fn survey(cx: &mut Context, root: &[u8], seed: u64) -> Result<Self, Failed> {
        let process = cx.process.clone();
        let (mut paths, mut failure) = (Vec::new(), None);
        let root = absolute(&process, root);
        walk(&process, &root, &mut |path| paths.push(path.to_vec()), &mut |path, e| {
            failure.get_or_insert(alloc::format!("{}: {}", text::quote(path), explain(e)));
        });
        if let Some(failure) = failure {
            return Err(failure);
        }
        let mut model = Self {
            seed,
            files: Vec::new(),
            chunks: Vec::new(),
            versions: Vec::new(),
            originals: Vec::new(),
        };
        for path in paths {
            let failed = |e| alloc::format!("{}: {}", text::quote(&path), explain(&e));
            let file = OpenFile::new(&process, &path, OpenFlags::RDONLY).map_err(failed)?;
            let size = process.fstat(file.fd).map_err(failed)?.size;
            let mut covered = 0;
            let odd = FiemapFlags::UNWRITTEN | FiemapFlags::SHARED | FiemapFlags::DELALLOC;
            let extents = process.fiemap(file.fd, 0, u64::MAX >> 1, false, &mut |e| {
                if e.logical == covered && !e.flags.intersects(odd) {
                    covered = e.logical + e.length;
                }
                true
            });
            extents.map_err(failed)?;
            drop(file);
            model.add(path, size, covered >= size);
        }
        if model.bytes() == 0 {
            return Err("no file with data".into());
        }
        if !model.files.iter().any(|f| f.writable) {
            return Err("no file can be overwritten".into());
        }
        Ok(model)
    }
    /// Add a file that has these many bytes.
    fn add(&mut self, path: Vec<u8>, size: u64, writable: bool) {
        let drawn = mix(self.seed ^ self.files.len() as u64) as usize % SLOT_BYTES.len();
        let slot_bytes = if size < SMALL_FILE { SMALL_SLOT_BYTES } else { SLOT_BYTES[drawn] };
        let first = self.versions.len();
        let file = FileModel { path, size, slot_bytes, first, writable };
        let slots = file.slots();
        let step = (CHUNK_BYTES / u64::from(slot_bytes)).max(1) as u32;
        let index = self.files.len();
        for start in (0..slots).step_by(step as usize) {
            let end = start.saturating_add(step).min(slots);
            self.chunks.push(Chunk { file: index, slots: start..end });
        }
        self.versions.extend((0..slots).map(|_| AtomicU8::new(0)));
        self.originals.extend((0..slots).map(|_| AtomicU32::new(0)));
        self.files.push(file);
    }
    /// Bytes in all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }
    /// Bytes in the files that may be overwritten.
    pub fn writable_bytes(&self) -> u64 {
        self.files.iter().filter(|f| f.writable).map(|f| f.size).sum()
    }
    fn slot_seed(&self, file: usize, slot: u32) -> u64 {
        mix(self.seed.wrapping_add((file as u64) << 40) ^ u64::from(slot))
    }
    /// Who changes a slot.
    pub fn owner(&self, file: usize, slot: u32) -> Owner {
        if !self.files[file].writable {
            return Owner::Nobody;
        }
        match self.slot_seed(file, slot) >> 60 {
            0..=4 => Owner::Writer(0),
            5..=9 => Owner::Writer(1),
            10..=11 => Owner::Storer(0),
            12..=13 => Owner::Storer(1),
            _ => Owner::Nobody,
        }
    }
    fn version_of(&self, file: usize, slot: u32) -> &AtomicU8 {
        &self.versions[self.files[file].first + slot as usize]
    }
    /// The slot's version, if nobody is changing it.
    pub fn version(&self, file: usize, slot: u32) -> Option<u8> {
        let version = self.version_of(file, slot).load(Ordering::SeqCst);
        (version & BUSY == 0).then_some(version)
    }
    /// Begin the next version of a slot: mark it busy and make its bytes. What to
    /// [`Model::publish`] when they are in the file. For the slot's owner.
    pub fn next_version(&self, file: usize, slot: u32, out: &mut [u8]) -> u8 {
        let version = self.version_of(file, slot);
        let old = version.load(Ordering::SeqCst);
        // Versions wrap to 1: 0 is what was there before.
        let new = (old & VERSION) % VERSION + 1;
        version.store(old | BUSY, Ordering::SeqCst);
        self.contents(file, slot, new, out);
        new
    }
    /// Begin inverting the first byte of a slot that has a version: its new value, and
    /// what to publish.
    pub fn poke(&self, file: usize, slot: u32) -> Option<(u8, u8)> {
        let version = self.version_of(file, slot);
        let old = version.load(Ordering::SeqCst);
        if old & VERSION == 0 {
            return None;
        }
        version.store(old | BUSY, Ordering::SeqCst);
        let mut first = [0; 8];
        let range = self.files[file].range(slot);
        let bytes = &mut first[..((range.end - range.start) as usize).min(8)];
        // The first word does not depend on how many follow, except in tiny slots.
        self.contents(file, slot, old ^ POKED, bytes);
        Some((bytes[0], old ^ POKED))
    }
    /// The slot's bytes are in the file.
    pub fn publish(&self, file: usize, slot: u32, version: u8) {
        self.version_of(file, slot).store(version, Ordering::SeqCst);
    }
    fn contents(&self, file: usize, slot: u32, version: u8, out: &mut [u8]) {
        generate(mix(self.slot_seed(file, slot) ^ u64::from(version & VERSION) << 32), out);
        if version & POKED != 0 {
            out[0] = !out[0];
        }
    }
    /// Note what was there before.
    pub fn learn(&self, file: usize, slot: u32, bytes: &[u8]) {
        let original = &self.originals[self.files[file].first + slot as usize];
        original.store(checksum(bytes), Ordering::Relaxed);
    }
    /// Are these the bytes of this version? `scratch` holds a slot.
    pub fn matches(
        &self,
        file: usize,
        slot: u32,
        version: u8,
        bytes: &[u8],
        scratch: &mut [u8],
    ) -> bool {
        if version & VERSION == 0 {
            let original = &self.originals[self.files[file].first + slot as usize];
            return original.load(Ordering::Relaxed) == checksum(bytes);
        }
        let expected = &mut scratch[..bytes.len()];
        self.contents(file, slot, version, expected);
        expected == bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn model(sizes: &[u64]) -> Model {
        let (chunks, versions, originals) = (Vec::new(), Vec::new(), Vec::new());
        let mut model = Model { seed: 7, files: Vec::new(), chunks, versions, originals };
        for size in sizes {
            model.add(b"/x".to_vec(), *size, true);
        }
        model
    }

    #[test]
    fn chunks_cover_every_byte_once() {
        let model = model(&[0, 1, 5000, 70_000, 3_000_017]);
        let mut seen = vec![0; model.files.len()];
        for chunk in &model.chunks {
            for slot in chunk.slots.clone() {
                let range = model.files[chunk.file].range(slot);
                assert_eq!(range.start, seen[chunk.file]);
                assert!((range.end - range.start) as usize <= SLOT_MAX);
                seen[chunk.file] = range.end;
            }
        }
        assert_eq!(seen, [0, 1, 5000, 70_000, 3_000_017]);
    }

    #[test]
    fn every_version_differs_and_can_be_told() {
        let model = model(&[100_000, 100_000]);
        let (mut bytes, mut scratch) = (vec![0; 2503], vec![0; SLOT_MAX]);
        model.learn(0, 3, &bytes);
        assert!(model.matches(0, 3, model.version(0, 3).unwrap(), &bytes, &mut scratch));
        for _ in 0..200 {
            let version = model.next_version(0, 3, &mut bytes);
            assert_eq!(model.version(0, 3), None);
            model.publish(0, 3, version);
            assert!(model.matches(0, 3, version, &bytes, &mut scratch));
            assert!(!model.matches(0, 4, version, &bytes, &mut scratch));
            assert!(!model.matches(1, 3, version, &bytes, &mut scratch));
            assert!(!model.matches(0, 3, version % 63 + 1, &bytes, &mut scratch));
            assert!(!model.matches(0, 3, 0, &bytes, &mut scratch));
            bytes[1000] ^= 1;
            assert!(!model.matches(0, 3, version, &bytes, &mut scratch));
        }
    }

    #[test]
    fn a_poke_changes_one_byte() {
        let model = model(&[100_000]);
        let (mut bytes, mut scratch) = (vec![0; 2503], vec![0; SLOT_MAX]);
        assert_eq!(model.poke(0, 0), None);
        let version = model.next_version(0, 0, &mut bytes);
        model.publish(0, 0, version);
        for _ in 0..2 {
            let (byte, version) = model.poke(0, 0).unwrap();
            assert_ne!(bytes[0], byte);
            bytes[0] = byte;
            model.publish(0, 0, version);
            assert!(model.matches(0, 0, version, &bytes, &mut scratch));
        }
    }

    #[test]
    fn owners_share_pages() {
        let model = model(&[10 << 20]);
        let of =
            |owner| (0..model.files[0].slots()).filter(|&s| model.owner(0, s) == owner).count();
        let all = model.files[0].slots() as usize;
        for owner in [Owner::Writer(0), Owner::Writer(1)] {
            assert!(of(owner) > all / 4, "{owner:?}");
        }
        for owner in [Owner::Storer(0), Owner::Storer(1), Owner::Nobody] {
            assert!(of(owner) > all / 16, "{owner:?}");
        }
    }
}
