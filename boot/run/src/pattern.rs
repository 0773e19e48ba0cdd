//! Deterministic contents for files, so that a wrong byte can be recognised
//! as wrong, and a misplaced one as misplaced.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

/// A stream of pseudo-random bytes (SplitMix64), the same for the same seed.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

impl Stream {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not zero.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }
}

/// Writes `length` bytes of the stream of `seed` and returns their SHA-256.
pub fn write(seed: u64, length: u64, to: &mut dyn Write) -> io::Result<String> {
    let mut stream = Stream::new(seed);
    emit(length, to, |buffer| stream.fill(buffer))
}

/// Writes a file of the benchmark: every 4 KiB block starts with two words
/// that name the file and the place, the rest is a fixed pattern of 1 MiB.
pub fn write_bench(seed: u64, length: u64, to: &mut dyn Write) -> io::Result<String> {
    let pattern = bench_pattern();
    let mut offset = 0;
    emit(length, to, |buffer| {
        let from = (offset % PATTERN_BYTES) as usize;
        buffer.copy_from_slice(&pattern[from..from + buffer.len()]);
        for (index, block) in buffer.chunks_mut(BLOCK_BYTES).enumerate() {
            let place = offset + (index * BLOCK_BYTES) as u64;
            let stamp = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ place;
            block[..8].copy_from_slice(&stamp.to_le_bytes());
            block[8..16].copy_from_slice(&seed.to_le_bytes());
        }
        offset += buffer.len() as u64;
    })
}

const PATTERN_BYTES: u64 = 1 << 20;
const BLOCK_BYTES: usize = 4096;
/// What [`emit`] writes at a time; it divides [`PATTERN_BYTES`].
const CHUNK_BYTES: usize = 256 * 1024;

/// The benchmark's pattern: xorshift64 from a fixed seed.
fn bench_pattern() -> Vec<u8> {
    let mut state: u64 = 0x5_deec_e66d;
    let mut pattern = Vec::with_capacity(PATTERN_BYTES as usize);
    while pattern.len() < PATTERN_BYTES as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        pattern.extend_from_slice(&state.to_le_bytes());
    }
    pattern
}

fn emit(length: u64, to: &mut dyn Write, mut fill: impl FnMut(&mut [u8])) -> io::Result<String> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut hash = Sha256::new();
    let mut left = length;
    while left > 0 {
        let count = left.min(CHUNK_BYTES as u64) as usize;
        fill(&mut buffer[..count]);
        hash.update(&buffer[..count]);
        to.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(hex(&hash.finalize()))
}

/// The SHA-256 of some bytes, in hexadecimal digits.
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sha256_of_a_known_text() {
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc"), expected);
    }

    #[test]
    fn a_seed_gives_the_same_bytes_every_time() {
        let mut bytes = Vec::new();
        let hash = write(7, 300_001, &mut bytes).unwrap();
        assert_eq!(bytes.len(), 300_001);
        assert_eq!(hash, sha256(&bytes));
        let mut again = Vec::new();
        assert_eq!(write(7, 300_001, &mut again).unwrap(), hash);
        assert_ne!(write(8, 300_001, &mut again).unwrap(), hash);
    }

    #[test]
    fn bench_blocks_name_their_file_and_place() {
        let mut bytes = Vec::new();
        write_bench(5, 3 << 20, &mut bytes).unwrap();
        let at = (2 << 20) + 4096;
        let word = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        assert_eq!(word, 5u64.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ at as u64);
        assert_eq!(bytes[at + 8], 5);
        assert_eq!(bytes[at + 16..at + 4096], bytes[4096 + 16..8192]);
    }
}
