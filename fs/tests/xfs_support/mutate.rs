//! Damaging images on purpose: seeded, biased towards what matters, with the checksums
//! made right again more often than not.

use holdfast_fs::xfs::ondisk::block::BlockKind;
use holdfast_fs::xfs::ondisk::{inode, stamp_checksum, superblock};

/// A small random generator (splitmix64).
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
    fn chance(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }
    /// Numbers that tend to break things.
    fn interesting(&mut self) -> u64 {
        const NUMBERS: [u64; 18] = [
            0,
            1,
            2,
            3,
            7,
            8,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
            0x7fff_ffff_ffff_ffff,
            0x8000_0000_0000_0000,
            u64::MAX,
        ];
        match self.below(3) {
            0 => NUMBERS[self.below(NUMBERS.len())],
            1 => self.next() >> self.below(64),
            _ => self.below(300) as u64,
        }
    }
}

/// A piece of metadata in an image, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Region {
    pub offset: usize,
    pub len: usize,
}

impl Region {
    pub fn overlaps(&self, other: &Region) -> bool {
        self.offset < other.offset + other.len && other.offset < self.offset + self.len
    }
    pub fn of<'a>(&self, image: &'a [u8]) -> &'a [u8] {
        &image[self.offset..self.offset + self.len]
    }
}

/// What was done to an image.
#[derive(Debug)]
pub struct Mutation {
    /// Where. Inodes count one by one, not by cluster.
    pub region: Region,
    /// The new bytes.
    pub bytes: Vec<u8>,
    /// The checksum was made right.
    pub stamped: bool,
}

/// Damage one of `regions` as the seed says.
pub fn mutate(image: &[u8], regions: &[Region], seed: u64) -> Mutation {
    let mut random = Random(seed);
    let region = regions[random.below(regions.len())];
    let mut bytes = region.of(image).to_vec();
    for _ in 0..=random.below(3) {
        damage(&mut bytes, image, regions, &mut random);
    }
    let stamped = random.chance(75);
    if stamped {
        stamp(&mut bytes);
    }
    Mutation { region, bytes, stamped }
}

fn damage(bytes: &mut [u8], image: &[u8], regions: &[Region], random: &mut Random) {
    let len = bytes.len();
    // Headers are where the numbers are.
    let near = [64, 192, 256, len][random.below(4)].min(len);
    let at = random.below(near);
    let width = [1, 2, 4, 8][random.below(4)];
    let aligned = at / width * width;
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.interesting() as u8,
        2 | 3 => put(bytes, aligned, width, random.interesting()),
        4 => {
            let old = get(bytes, aligned, width);
            let delta = [1, 2, 8, u64::MAX, u64::MAX - 1][random.below(5)];
            put(bytes, aligned, width, old.wrapping_add(delta));
        }
        5 => {
            let end = (at + random.below(64)).min(len);
            bytes[at..end].fill(random.interesting() as u8);
        }
        6 => {
            // Something valid from elsewhere.
            let other = regions[random.below(regions.len())].of(image);
            let n = other.len().min(len);
            let whole = random.chance(50);
            let n = if whole { n } else { random.below(n) };
            bytes[..n].copy_from_slice(&other[..n]);
        }
        _ => {
            let from = random.below(len) / width * width;
            let (a, b) = (get(bytes, from, width), get(bytes, aligned, width));
            put(bytes, from, width, b);
            put(bytes, aligned, width, a);
        }
    }
}

fn get(bytes: &[u8], at: usize, width: usize) -> u64 {
    let end = (at + width).min(bytes.len());
    bytes[at..end].iter().fold(0, |n, b| n << 8 | u64::from(*b))
}

fn put(bytes: &mut [u8], at: usize, width: usize, value: u64) {
    let end = (at + width).min(bytes.len());
    for (i, byte) in bytes[at..end].iter_mut().enumerate() {
        *byte = (value >> (8 * (width - 1 - i))) as u8;
    }
}

/// Make the checksum of whatever this is right.
pub fn stamp(bytes: &mut [u8]) {
    if bytes.starts_with(b"XFSB") {
        let sector = usize::from(u16::from_be_bytes([bytes[102], bytes[103]]));
        let covered = if sector <= bytes.len() { sector } else { bytes.len() };
        stamp_checksum(&mut bytes[..covered], superblock::CRC_OFFSET);
    } else if bytes.starts_with(b"IN") {
        stamp_checksum(bytes, inode::CRC_OFFSET);
    } else if let Some(at) = BlockKind::identify(bytes).and_then(BlockKind::crc_offset) {
        stamp_checksum(bytes, at);
    }
}
