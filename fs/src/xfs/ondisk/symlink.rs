//! Targets of symbolic links that do not fit into the inode. Each extent of the link
//! starts with a header.

use super::{Be32, Be64, Check, Le32, UuidField, ensure, on_disk};

/// "XSLM".
pub const MAGIC: u32 = 0x5853_4c4d;

on_disk! {
    /// The header; part of the target follows.
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

/// Check an extent of a target.
///
/// # Errors
/// What does not fit.
pub fn check(block: &[u8]) -> Check {
    let Some(header) = Header::new(block) else { return Err("too short".into()) };
    let room = block.len() - Header::SIZE;
    ensure!(header.bytes() as usize <= room, "{} bytes, room for {room}", header.bytes());
    let end = u64::from(header.offset()) + u64::from(header.bytes());
    ensure!(end <= super::inode::MAX_SYMLINK, "a target of {end} bytes");
    Ok(())
}
