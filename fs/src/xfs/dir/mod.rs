//! Directories: looking names up, listing and changing them, in every form they take on
//! disk.
//!
//! | form | where entries are | how names are found |
//! |------|-------------------|---------------------|
//! | shortform | in the inode | one by one |
//! | block | in a single block | hash index at its end |
//! | leaf | in data blocks | hash index in one leaf |
//! | node | in data blocks | hash tree |
//!
//! | file | |
//! |------|--|
//! | `lookup` | one name |
//! | `read` | all names, from a cursor on |
//! | `operate` | what transactions do: add, remove, replace |
//! | `change` | the same for any address space: form by form, finding a name |
//! | `shortform`, `block`, `leaf`, `node` | the forms, and how one becomes another |
//! | `data`, `index`, `free` | changing entries, hash indexes, free space counts: bytes |
//!
//! A cursor is the place of an entry within the directory in units of eight bytes; it
//! stays good while other entries come and go, and when the form changes.
//!
//! Locks: `ILOCK` shared while blocks are found and read, exclusive while they change. The
//! directory's contents do not change under the `IOLOCK`, which the caller holds.

mod block;
mod change;
mod data;
mod free;
mod index;
mod leaf;
mod lookup;
mod node;
mod operate;
mod read;
mod shortform;
#[cfg(test)]
mod tests;

pub(in crate::xfs) use operate::{
    add, fits, init, is_empty, move_out, remove, replace, takes_number,
};
pub use operate::{space_for_add, space_for_remove};

use super::da::Space;
use super::inode::{Inode, Locked};
use super::ondisk::block::BlockKind;
use super::ondisk::dir_data::ALIGN;
use super::ondisk::inode::MAX_DIRECTORY;
use crate::error::{Error, Result};

/// Bytes of each part of a directory's address space.
const PART_BYTES: u64 = MAX_DIRECTORY;
/// The longest name.
pub const NAME_MAX: usize = 255;
/// The place of "." (behind the header of a block).
const DOT_OFFSET: u64 = 64;
/// The place of "..".
const DOTDOT_OFFSET: u64 = DOT_OFFSET + 16;
/// The first place of other entries.
const FIRST_OFFSET: u64 = DOTDOT_OFFSET + 16;

const LEAVES: &[BlockKind] = &[BlockKind::DirLeafN, BlockKind::DirLeaf1];
const LEAVES_AND_NODES: &[BlockKind] =
    &[BlockKind::DirLeafN, BlockKind::DirLeaf1, BlockKind::DaNode];

/// How a directory lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Shortform,
    Block,
    Indexed,
}

impl Inode {
    fn dir_space<'a>(&'a self, locked: &'a Locked<'a>) -> Space<'a> {
        let geometry = self.mount().geometry();
        let part = PART_BYTES >> geometry.block_log;
        Space {
            inode: self,
            locked,
            block_blocks: geometry.dir_block_blocks(),
            tree: part..2 * part,
            leaves: LEAVES,
            leaves_and_nodes: LEAVES_AND_NODES,
            name: "directory",
        }
    }
    fn dir_form(&self, locked: &Locked<'_>) -> Result<Form> {
        use super::inode::Fork;
        use super::types::FileType;
        if self.file_type() != FileType::Directory {
            return Err(Error::NotDirectory);
        }
        if matches!(locked.fork(), Some(Fork::Local(_))) {
            return Ok(Form::Shortform);
        }
        let blocks = self.mount().geometry().dir_block_blocks();
        let end = locked.extents().end().0;
        if end < blocks {
            return Err(self.corrupt("a directory without a block".into()));
        }
        if end > blocks {
            return Ok(Form::Indexed);
        }
        if self.size() != self.mount().geometry().dir_block_bytes() as u64 {
            let reason = alloc::format!("{} bytes in a single directory block", self.size());
            return Err(self.corrupt(reason));
        }
        Ok(Form::Block)
    }
}

/// The cursor of the entry at byte `offset` of the directory.
const fn cursor(offset: u64) -> u64 {
    offset / ALIGN as u64
}

/// A byte as directories without regard to case compare it: capital letters of ASCII
/// and of Latin-1 become small ones.
pub(super) const fn fold_case(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => byte + 0x20,
        _ => byte,
    }
}
