//! An inode that took over the extent tree of another: all its blocks get a new owner.
//!
//! When two files swap their contents, the blocks of their trees are not logged; the
//! inodes' items say that the owners are to be changed.

use alloc::format;
use alloc::vec::Vec;

use super::items::LoggedInode;
use super::replay::Replay;
use super::transactions::corrupt;
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::bmbt::{self, BmbtRoot};
use crate::xfs::ondisk::btree::LongBlock;
use crate::xfs::ondisk::inode::CORE_BYTES;
use crate::xfs::ondisk::log_inode::InodeFields;
use crate::xfs::ondisk::log_items::BufKind;
use crate::xfs::ondisk::log_record::Lsn;
use crate::xfs::ondisk::{be32, be64};
use crate::xfs::types::{FsBlock, Ino};

const OWNER_AT: usize = 56;
const FORK_OFFSET_AT: usize = 82;

impl Replay<'_> {
    /// Change the owners if a replayed inode's item asks for it. `bytes` is the inode.
    pub(super) fn change_owners(
        &mut self,
        logged: &LoggedInode<'_>,
        bytes: &[u8],
        at: Lsn,
    ) -> Result<(), MountError> {
        let (fields, ino) = (logged.format.fields, logged.format.ino);
        if !fields.intersects(InodeFields::DATA_OWNER | InodeFields::ATTR_OWNER) {
            return Ok(());
        }
        let split = match usize::from(bytes[FORK_OFFSET_AT]) * 8 {
            0 => bytes.len(),
            split => (CORE_BYTES + split).min(bytes.len()),
        };
        if fields.contains(InodeFields::DATA_OWNER) {
            self.change_owner(ino, &bytes[CORE_BYTES..split], at)?;
        }
        if fields.contains(InodeFields::ATTR_OWNER) {
            self.change_owner(ino, &bytes[split..], at)?;
        }
        Ok(())
    }
    fn change_owner(&mut self, ino: Ino, fork: &[u8], at: Lsn) -> Result<(), MountError> {
        let bad = |reason| corrupt(at, format!("INODE {}, owners of its tree: {reason}", ino.0));
        let root = BmbtRoot::decode(fork).map_err(bad)?;
        let mut pending: Vec<(u64, u32)> = (0..root.count)
            .filter_map(|i| root.child(i))
            .map(|(_, block)| (block, root.level - 1))
            .collect();
        // Each step is one level down, and a block has as many children as fit: it ends.
        while let Some((block, level)) = pending.pop() {
            let geometry = self.geometry();
            if !geometry.has_blocks(FsBlock(block), 1) {
                return Err(bad(format!("block {block:#x} does not exist")));
            }
            let place = (geometry.sector(FsBlock(block)).0, geometry.sectors_per_block());
            let Some(active) = self.unless_freed(place)? else { continue };
            let node = LongBlock::new(&active.bytes);
            let fits = be32(&active.bytes, 0) == Some(bmbt::MAGIC);
            let Some(node) = node.filter(|node| fits && node.level() == level) else {
                return Err(bad(format!("block {block:#x} is not of level {level}")));
            };
            if level > 0 {
                let children = (0..node.count()).filter_map(|i| node.child(i));
                pending.extend(children.map(|(_, child)| (child, level - 1)));
            }
            if be64(&active.bytes, OWNER_AT) != Some(ino.0) {
                active.bytes[OWNER_AT..OWNER_AT + 8].copy_from_slice(&ino.0.to_be_bytes());
                active.kind = Some(BufKind::Btree);
                active.changed = true;
            }
        }
        Ok(())
    }
}
