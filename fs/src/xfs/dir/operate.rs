//! What transactions do with directories.

use super::NAME_MAX;
use super::change::{Dir, New};
use super::index::Index;
use super::shortform::Shortform;
use crate::error::{Error, Result};
use crate::xfs::da::{ForkStore, most_blocks};
use crate::xfs::geometry::Geometry;
use crate::xfs::inode::{Fork, ForkKind};
use crate::xfs::inode_item::{LockedInode, LogFields};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inode::Format;
use crate::xfs::trans::Trans;
use crate::xfs::types::{FileBlock, FileType, Ino};

/// Directory blocks that a new name can need besides those of the tree: one for the
/// entry, one for free space counts.
const DATA_AND_FREE: u64 = 2;

/// Blocks that must be reserved to add or redirect a name, or to remove one: at worst a
/// block on each level of the index, one for the entry, one for free space counts, and
/// what the extent tree needs for that.
pub fn space_for_add(geometry: &Geometry) -> u64 {
    most_blocks(geometry, DATA_AND_FREE, geometry.dir_block_blocks())
}

/// Blocks that must be reserved to remove a name: freeing a block in the middle of an
/// extent makes two of one.
pub fn space_for_remove(geometry: &Geometry) -> u64 {
    let limits = crate::xfs::bmap::TreeLimits::new(geometry);
    limits.one_more()
}

fn with_dir<R>(
    tp: &mut Trans<'_>,
    dp: &mut LockedInode<'_>,
    change: impl FnOnce(&mut Dir<'_, ForkStore<'_, '_, '_>>) -> Result<R>,
) -> Result<R> {
    if dp.inode().file_type() != FileType::Directory {
        return Err(Error::NotDirectory);
    }
    let ignore_case = tp.mount().geometry().ascii_ci;
    let mut store = ForkStore::directory(tp, dp)?;
    change(&mut Dir { s: &mut store, ignore_case })
}

/// Make the contents of a new directory: nothing but its parent.
///
/// # Errors
/// None so far.
pub(in crate::xfs) fn init(
    _tp: &mut Trans<'_>,
    dp: &mut LockedInode<'_>,
    parent: Ino,
) -> Result<()> {
    let bytes = match u32::try_from(parent.0) {
        // No entries; no number, the parent's included, takes eight bytes.
        Ok(narrow) => [&[0; 2][..], &narrow.to_be_bytes()].concat(),
        Err(_) => Shortform { parent: parent.0, entries: alloc::vec::Vec::new() }.encode(),
    };
    dp.bump_sequence(ForkKind::Data);
    dp.core_mut().format = Format::Local;
    dp.set_disk_size(bytes.len() as u64);
    dp.data = Fork::Local(bytes);
    dp.mark(LogFields::DATA);
    Ok(())
}

/// Add a name that is not there.
///
/// # Errors
/// [`Error::NameTooLong`]; [`Error::NoSpace`] if the directory cannot grow; I/O errors and
/// damage.
pub(in crate::xfs) fn add(
    tp: &mut Trans<'_>,
    dp: &mut LockedInode<'_>,
    name: &[u8],
    ino: Ino,
    file_type: FileType,
) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(Error::NameTooLong);
    }
    let new = New { name, ino: ino.0, file_type: file_type.to_dirent() };
    with_dir(tp, dp, |dir| dir.add(new))
}

/// Can this name be added without a block more? `ino` is the number it will get, or the
/// highest that it may be.
///
/// # Errors
/// I/O errors and damage.
pub(in crate::xfs) fn fits(
    tp: &mut Trans<'_>,
    dp: &mut LockedInode<'_>,
    name: &[u8],
    ino: Ino,
) -> Result<bool> {
    let new = New { name, ino: ino.0, file_type: FileType::Regular.to_dirent() };
    with_dir(tp, dp, |dir| dir.fits(new))
}

/// Can a name, ".." included, be pointed to this inode without a block more?
///
/// # Errors
/// I/O errors and damage.
pub(in crate::xfs) fn takes_number(
    tp: &mut Trans<'_>,
    dp: &mut LockedInode<'_>,
    ino: Ino,
) -> Result<bool> {
    with_dir(tp, dp, |dir| Ok(dir.takes_number(ino.0)))
}

/// Remove a name.
///
/// # Errors
/// [`Error::NotFound`]; I/O errors and damage.
pub(in crate::xfs) fn remove(
    tp: &mut Trans<'_>,
    dp: &mut LockedInode<'_>,
    name: &[u8],
) -> Result<()> {
    with_dir(tp, dp, |dir| dir.remove(name))
}

/// Point a name, which may be "..", to another inode.
///
/// # Errors
/// [`Error::NotFound`]; I/O errors and damage.
pub(in crate::xfs) fn replace(
    tp: &mut Trans<'_>,
    dp: &mut LockedInode<'_>,
    name: &[u8],
    ino: Ino,
    file_type: FileType,
) -> Result<()> {
    let new = New { name, ino: ino.0, file_type: file_type.to_dirent() };
    with_dir(tp, dp, |dir| dir.replace(new))
}

/// Move the contents of a directory that lies in the inode into a block.
///
/// # Errors
/// [`Error::NoSpace`]; damage.
pub(in crate::xfs) fn move_out(tp: &mut Trans<'_>, dp: &mut LockedInode<'_>) -> Result<()> {
    with_dir(tp, dp, |dir| dir.small_to_block())
}

/// Has the directory no names but "." and ".."? Its extents are loaded.
///
/// # Errors
/// I/O errors and damage.
pub(in crate::xfs) fn is_empty(dp: &LockedInode<'_>) -> Result<bool> {
    let geometry = dp.inode().mount().geometry();
    let extents = match &dp.data {
        Fork::Local(bytes) => return Ok(bytes.first() == Some(&0)),
        Fork::Extents(extents) => &extents.list,
        _ => return Err(Error::NotDirectory),
    };
    let blocks = geometry.dir_block_blocks();
    if extents.end().0 != blocks {
        return Ok(false);
    }
    let runs = extents.runs(geometry, FileBlock(0), blocks);
    let runs = runs.map_err(|r| dp.inode().corrupt(r))?.unwrap_or_default();
    let block = dp.inode().mount().buffers().read(&runs, &[BlockKind::DirBlock])?;
    Ok(Index::of_block(&block.read()).live() <= 2)
}
