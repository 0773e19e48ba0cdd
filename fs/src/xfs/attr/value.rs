//! Values of attributes in blocks of their own.

use alloc::format;
use alloc::vec::Vec;

use crate::error::{Corruption, Error, Result};
use crate::xfs::da::Space;
use crate::xfs::ondisk::attr_leaf::MAX_VALUE;
use crate::xfs::ondisk::attr_remote::{Header, room};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::types::FileBlock;

/// Read a value of `length` bytes that starts in file block `block`.
pub(super) fn read(space: &Space<'_>, block: u32, length: u32) -> Result<Vec<u8>> {
    if length > MAX_VALUE {
        return Err(space.corrupt(block.into(), format!("a value of {length} bytes")).into());
    }
    let geometry = space.inode.mount().geometry();
    let length = length as usize;
    let mut value = Vec::new();
    value.try_reserve_exact(length).map_err(|_| Error::NoMemory)?;
    let mut at = u64::from(block);
    while value.len() < length {
        let buffer = space.read(FileBlock(at), &[BlockKind::AttrRemote])?;
        let contents = buffer.read();
        let Some(header) = Header::new(&contents) else { break };
        let expected = (length - value.len()).min(room(contents.len()));
        if header.offset() as usize != value.len() || header.bytes() as usize != expected {
            return Err(Corruption {
                structure: buffer.kind().name(),
                location: geometry.place(buffer.sector()),
                reason: format!(
                    "{} bytes at {} of the value, should be {expected} at {}",
                    header.bytes(),
                    header.offset(),
                    value.len()
                ),
            }
            .into());
        }
        value.extend_from_slice(&contents[Header::SIZE..Header::SIZE + expected]);
        at += 1;
    }
    Ok(value)
}
