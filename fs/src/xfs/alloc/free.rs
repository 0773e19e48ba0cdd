//! Freeing.

use super::choose::allocate;
use super::space::Group;
use super::{AgReserve, AllocRequest, Owner, Target, Use};
use crate::error::{Corruption, Result};
use crate::xfs::rmap;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber, FsBlock};

/// Free an extent of a file or of metadata: what the deferred operation does.
///
/// # Errors
/// I/O errors; damage, which includes blocks that are free already.
pub fn free_extent(tp: &mut Trans<'_>, block: FsBlock, count: u32, owner: &Owner) -> Result<()> {
    free(tp, block, count, owner, AgReserve::None)
}

/// Free blocks at once, in this transaction. Whoever frees in several groups begins with
/// the lowest.
///
/// # Errors
/// As [`free_extent`].
pub fn free(
    tp: &mut Trans<'_>,
    block: FsBlock,
    count: u32,
    owner: &Owner,
    reserve: AgReserve,
) -> Result<()> {
    let mount = tp.mount();
    let geometry = mount.geometry();
    if !geometry.has_blocks(block, count.into()) || geometry.overlaps_log(block, count.into()) {
        return Err(Corruption {
            structure: "extent",
            location: alloc::format!("{block}"),
            reason: alloc::format!("{count} blocks are freed that nobody can have"),
        }
        .into());
    }
    let (ag, start) = geometry.split(block);
    tp.lock_agf(ag);
    let group = Group::open(tp, ag)?;
    group.space(mount).busy.settle(mount, ag);
    group.fix_list(tp)?;
    rmap::remove_owner(tp, ag, start, count, owner)?;
    group.give(tp, start.0, count)?;
    group.space(mount).busy.freed(tp, start.0, count, true);
    let unkept = match reserve {
        AgReserve::Metadata => group.space(mount).metadata.give(count),
        AgReserve::Rmapbt => 0,
        AgReserve::None => count,
    };
    tp.blocks_freed(unkept.into());
    Ok(())
}

/// Take a block for a tree of a group whose growth is provided for (its reference
/// counts), near another of its blocks.
///
/// # Errors
/// I/O errors and damage.
pub fn allocate_tree_block(
    tp: &mut Trans<'_>,
    ag: AgNumber,
    near: u64,
    owner: &Owner,
) -> Result<Option<u64>> {
    let geometry = tp.mount().geometry();
    let near = geometry.fs_block(ag, AgBlock(near as u32));
    let request = AllocRequest {
        reserve: AgReserve::Metadata,
        ..AllocRequest::new(Target::InAg(near), 1, *owner, Use::Metadata)
    };
    let found = allocate(tp, &request)?;
    Ok(found.map(|found| u64::from(geometry.split(found.block).1.0)))
}

/// Give such a block back.
///
/// # Errors
/// I/O errors and damage.
pub fn free_tree_block(tp: &mut Trans<'_>, ag: AgNumber, block: u64, owner: &Owner) -> Result<()> {
    let block = tp.mount().geometry().fs_block(ag, AgBlock(block as u32));
    free(tp, block, 1, owner, AgReserve::Metadata)
}
