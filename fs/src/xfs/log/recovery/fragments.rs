//! Directory blocks that lie in several places on the disk.
//!
//! With directory blocks larger than blocks, one can lie in several runs. It is logged
//! as a buffer for each run of which something changed, one after the other, but has one
//! header, with position and checksum for all of it. So its parts must be replayed
//! together. We log something of every run. Where a part is missing (other systems leave
//! out those without changes) nothing says where it lies, and the log is refused.

use alloc::format;
use alloc::vec::Vec;

use super::items::Decoded;
use crate::block::SECTOR_SIZE;
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::Reason;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::log_items::{BufFormat, BufKind};

/// Bytes of a buffer that can only be part of a directory block.
fn part_bytes(format: &BufFormat, geometry: &Geometry) -> Option<usize> {
    let bytes = usize::from(format.blocks) * SECTOR_SIZE as usize;
    let of_directory = matches!(
        format.kind,
        BufKind::DirBlock
            | BufKind::DirData
            | BufKind::DirFree
            | BufKind::DirLeaf1
            | BufKind::DirLeafN
            | BufKind::DaNode
    );
    let whole = bytes >= geometry.dir_block_bytes();
    (of_directory && !whole && format.flags & BufFormat::CANCEL == 0).then_some(bytes)
}

/// The items of a transaction that make a directory block together, by index.
///
/// # Errors
/// A part is missing.
pub(super) fn groups(
    items: &[Decoded<'_>],
    geometry: &Geometry,
) -> Result<Vec<Vec<usize>>, Reason> {
    let mut groups = Vec::new();
    if geometry.dir_block_log == 0 {
        return Ok(groups);
    }
    let mut i = 0;
    while let Some(item) = items.get(i) {
        let start = i;
        i += 1;
        let Decoded::Buffer(first, _) = item else { continue };
        let Some(mut bytes) = part_bytes(first, geometry) else { continue };
        while bytes < geometry.dir_block_bytes()
            && let Some(Decoded::Buffer(next, pieces)) = items.get(i)
            && next.kind == first.kind
            && let Some(more) = part_bytes(next, geometry)
            && !starts_block(pieces)
        {
            bytes += more;
            i += 1;
        }
        if bytes == geometry.dir_block_bytes() {
            groups.push((start..i).collect());
        } else if first.kind == BufKind::DaNode && i == start + 1 {
            // Of an attribute fork, where blocks are single.
        } else {
            return Err(format!(
                "a part of a directory block in several pieces (daddr {:#x}) without the others",
                first.daddr
            ));
        }
    }
    Ok(groups)
}

/// Is the header of a block among these?
fn starts_block(pieces: &[(usize, &[u8])]) -> bool {
    pieces.iter().any(|(at, bytes)| *at == 0 && BlockKind::identify(bytes).is_some())
}
