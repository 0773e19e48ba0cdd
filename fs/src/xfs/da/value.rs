//! Filling a block of an attribute's value.

pub(super) use crate::xfs::ondisk::attr_remote::room;

use super::store::Identity;
use crate::xfs::ondisk::attr_remote::{Header, MAGIC};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::stamp_checksum;

/// The position in the log that these blocks carry: they are not logged.
const NO_LSN: u64 = u64::MAX;

/// Fill a block with the part of a value that starts at byte `offset` of it, ready for
/// the disk.
pub(super) fn fill(block: &mut [u8], id: &Identity, offset: usize, part: &[u8]) {
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC.to_be_bytes());
    put(4, &(offset as u32).to_be_bytes());
    put(8, &(part.len() as u32).to_be_bytes());
    put(16, id.uuid.as_bytes());
    put(32, &id.owner.to_be_bytes());
    put(40, &id.sector.to_be_bytes());
    put(48, &NO_LSN.to_be_bytes());
    put(Header::SIZE, part);
    block[Header::SIZE + part.len()..].fill(0);
    if let Some(at) = BlockKind::AttrRemote.crc_offset() {
        stamp_checksum(block, at);
    }
}
