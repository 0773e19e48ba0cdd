//! Directory free space blocks: the largest free space of each data block.

use super::{Be32, Be64, Check, Le32, UuidField, be16, ensure, on_disk};

/// "XDF3".
pub const MAGIC: u32 = 0x5844_4633;

on_disk! {
    /// The header; counts of 16 bits follow.
    Header, 64 bytes {
        magic: Be32 = 0,
        crc: Le32 = 4,
        blkno: Be64 = 8,
        lsn: Be64 = 16,
        uuid: UuidField = 24,
        owner: Be64 = 40,
        first_data_block: Be32 = 48,
        valid: Be32 = 52,
        used: Be32 = 56,
        pad: Be32 = 60,
    }
}

/// A free space block, magic and identity already checked.
#[derive(Clone, Copy, Debug)]
pub struct Free<'a> {
    /// The header.
    pub header: Header<'a>,
    counts: &'a [u8],
}

impl<'a> Free<'a> {
    /// Check a free space block.
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(block: &'a [u8]) -> Check<Self> {
        let Some(header) = Header::new(block) else { return Err("too short".into()) };
        let counts = &block[Header::SIZE..];
        let room = (counts.len() / 2) as u32;
        ensure!(
            header.valid() <= room && header.used() <= header.valid(),
            "{} counts, {} used, room for {room}",
            header.valid(),
            header.used()
        );
        ensure!(
            header.first_data_block().is_multiple_of(room),
            "first data block {}",
            header.first_data_block()
        );
        Ok(Self { header, counts })
    }
    /// The count of data block `first_data_block + i`.
    pub fn count(&self, i: usize) -> Option<u16> {
        if i < self.header.valid() as usize { be16(self.counts, i * 2) } else { None }
    }
}
