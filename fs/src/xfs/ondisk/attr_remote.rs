//! Values of extended attributes in blocks of their own: each block has a header.

use super::{Be32, Be64, Check, Le32, UuidField, ensure, on_disk};

/// "XARM".
pub const MAGIC: u32 = 0x5841_524d;

on_disk! {
    /// The header; part of the value, or of a link's target, follows.
    Header, 56 bytes {
        magic: Be32 = 0,
        offset: Be32 = 4,
        bytes: Be32 = 8,
        crc: Le32 = 12,
        uuid: UuidField = 16,
        owner: Be64 = 32,
        blkno: Be64 = 40,
        lsn: Be64 = 48,
    }
}

/// Bytes of a value in one block.
pub const fn room(block_bytes: usize) -> usize {
    block_bytes - Header::SIZE
}

/// Check a block of a value.
///
/// # Errors
/// What does not fit.
pub fn check(block: &[u8]) -> Check {
    check_part(block, "value", u64::from(super::attr_leaf::MAX_VALUE))
}

/// Check a block with a part of something that has at most so many bytes.
pub(super) fn check_part(block: &[u8], what: &str, most: u64) -> Check {
    let Some(header) = Header::new(block) else { return Err("too short".into()) };
    let room = room(block.len());
    ensure!(header.bytes() as usize <= room, "{} bytes, room for {room}", header.bytes());
    let end = u64::from(header.offset()) + u64::from(header.bytes());
    ensure!(end <= most, "a {what} of {end} bytes");
    Ok(())
}
