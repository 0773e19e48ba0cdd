//! The bytes of the benchmark's files, and checking them.
//!
//! The byte at offset `o` is a fixed pattern at `o` modulo 1 MiB, except that each block of
//! 4 KiB begins with two words: one of seed and offset, and the seed.

use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::syscall::{OpenFlags, Process, Stat};

use super::{Bench, MIB, Outcome, PAGE, Stopped, errno_text, failed};
use crate::files::OpenFile;

/// A xorshift generator.
#[derive(Clone, Copy)]
pub(super) struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
    /// A page-aligned position in a file of `size` bytes.
    pub fn page(&mut self, size: u64) -> u64 {
        self.next() % (size / PAGE) * PAGE
    }
}

/// The pattern and a buffer.
pub(super) struct Data {
    /// One MiB of pattern; its blocks' first words are those of the last write.
    pub pattern: Vec<u8>,
    /// One MiB to read into.
    pub buffer: Vec<u8>,
    /// Continues over the cases, as in the original.
    pub random: Random,
}

fn first_word(seed: u64, offset: u64) -> u64 {
    seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

impl Data {
    /// The pattern, made anew.
    pub fn new() -> Self {
        let mut random = Random(0x5_DEEC_E66D);
        let mut pattern = vec![0; MIB as usize];
        for word in pattern.chunks_exact_mut(8) {
            word.copy_from_slice(&random.next().to_le_bytes());
        }
        Self { pattern, buffer: vec![0; MIB as usize], random }
    }
    /// The bytes of `[offset, offset + len)`: within one MiB.
    pub fn stamped(&mut self, offset: u64, len: usize, seed: u64) -> &[u8] {
        let start = (offset % MIB) as usize;
        for at in (0..len).step_by(PAGE as usize) {
            let block = &mut self.pattern[start + at..];
            block[..8].copy_from_slice(&first_word(seed, offset + at as u64).to_le_bytes());
            block[8..16].copy_from_slice(&seed.to_le_bytes());
        }
        &self.pattern[start..start + len]
    }
    /// Does the buffer begin with the block of this seed and offset, judging by its first word?
    pub fn starts_right(&self, seed: u64, offset: u64) -> bool {
        word(&self.buffer, 0) == first_word(seed, offset)
    }
    fn block_is_right(&self, seed: u64, offset: u64) -> bool {
        let at = (offset % MIB) as usize;
        self.starts_right(seed, offset)
            && word(&self.buffer, 8) == seed
            && self.buffer[16..PAGE as usize] == self.pattern[at + 16..at + PAGE as usize]
    }
    /// Is the block at `offset` of the file right?
    pub fn check_at(&mut self, process: &Process, fd: i32, offset: u64, seed: u64) -> bool {
        let read = process.pread(fd, &mut self.buffer[..PAGE as usize], offset);
        read == Ok(PAGE as usize) && self.block_is_right(seed, offset)
    }
    /// Are the first block, the last, and `count` others right?
    pub fn check_sample(
        &mut self,
        process: &Process,
        fd: i32,
        size: u64,
        seed: u64,
        count: u32,
    ) -> bool {
        let mut random = Random(0xC0_FFEE ^ seed);
        let mut good = self.check_at(process, fd, 0, seed);
        good &= self.check_at(process, fd, size - PAGE, seed);
        for _ in 0..count {
            good &= self.check_at(process, fd, random.page(size), seed);
        }
        good
    }
}

/// The seed of the file's first block.
pub(super) fn seed_of(bench: &mut Bench<'_>, fd: i32) -> Outcome<u64> {
    let buffer = &mut bench.data.buffer[..PAGE as usize];
    bench.cx.process.pread(fd, buffer, 0).map_err(failed("pread"))?;
    Ok(word(&bench.data.buffer, 8))
}

impl Bench<'_> {
    /// Open a file that must have the benchmark's size.
    pub fn existing(&mut self, path: &str, flags: OpenFlags) -> Outcome<OpenFile> {
        let process = &self.cx.process;
        let open = OpenFile::new(process, path.as_bytes(), flags);
        let file = open.map_err(|e| Stopped::Skipped(errno_text(path, &e)))?;
        let stat: Stat = process.fstat(file.fd).map_err(failed("fstat"))?;
        if stat.size != self.size {
            let (has, wants) = (stat.size, self.size);
            return Err(Stopped::Skipped(alloc::format!(
                "{path} has {has} bytes, not {wants} (see --size)"
            )));
        }
        Ok(file)
    }
    /// A file with the data of `seed` (0: any data): as it is, or made anew.
    pub fn ensure(&mut self, path: &str, seed: u64) -> Outcome<OpenFile> {
        let (process, size) = (self.cx.process.clone(), self.size);
        if let Ok(file) = self.existing(path, OpenFlags::RDWR)
            && (seed == 0 || self.data.check_sample(&process, file.fd, size, seed, 8))
        {
            return Ok(file);
        }
        let flags = OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::TRUNC;
        let open = OpenFile::new(&process, path.as_bytes(), flags);
        let file = open.map_err(|e| Stopped::Skipped(errno_text(path, &e)))?;
        for offset in (0..size).step_by(MIB as usize) {
            self.pwrite(file.fd, offset, MIB as usize, seed)?;
        }
        process.fsync(file.fd).map_err(failed("fsync"))?;
        Ok(file)
    }
    /// Write the data of `seed` at `offset`.
    pub fn pwrite(&mut self, fd: i32, offset: u64, len: usize, seed: u64) -> Outcome {
        let bytes = self.data.stamped(offset, len, seed);
        match self.cx.process.pwrite(fd, bytes, offset) {
            Ok(n) if n == len => Ok(()),
            Ok(n) => Err(Stopped::Failed(alloc::format!("pwrite: {n} of {len} bytes"))),
            Err(e) => Err(failed("pwrite")(e)),
        }
    }
    /// Write the data of `seed` at the file's position, which is `offset`.
    pub fn write(&mut self, fd: i32, offset: u64, len: usize, seed: u64) -> Outcome {
        let bytes = self.data.stamped(offset, len, seed);
        match self.cx.process.write(fd, bytes) {
            Ok(n) if n == len => Ok(()),
            Ok(n) => Err(Stopped::Failed(alloc::format!("write: {n} of {len} bytes"))),
            Err(e) => Err(failed("write")(e)),
        }
    }
    /// Read at the file's position into the buffer.
    pub fn read(&mut self, fd: i32, len: usize) -> Outcome {
        match self.cx.process.read(fd, &mut self.data.buffer[..len]) {
            Ok(n) if n == len => Ok(()),
            Ok(n) => Err(Stopped::Failed(alloc::format!("read: {n} of {len} bytes"))),
            Err(e) => Err(failed("read")(e)),
        }
    }
    /// Read at a position into the buffer.
    pub fn pread(&mut self, fd: i32, offset: u64, len: usize) -> Outcome {
        match self.cx.process.pread(fd, &mut self.data.buffer[..len], offset) {
            Ok(n) if n == len => Ok(()),
            Ok(n) => Err(Stopped::Failed(alloc::format!("pread: {n} of {len} bytes"))),
            Err(e) => Err(failed("pread")(e)),
        }
    }
    /// Read the whole file once, so that as much as fits is cached.
    pub fn warm(&mut self, fd: i32) -> Outcome {
        for offset in (0..self.size).step_by(MIB as usize) {
            self.pread(fd, offset, MIB as usize)?;
        }
        Ok(())
    }
}
