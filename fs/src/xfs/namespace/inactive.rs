//! What is left of an inode without names goes: its blocks, its attributes, itself.

use alloc::format;
use alloc::vec;

use crate::error::{Error, Result};
use crate::xfs::buf::Run;
use crate::xfs::inode::{Fork, ForkKind, Inode};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::agi::UNLINKED_BUCKETS;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::bmbt::Extent;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgNumber, FileBlock, FileType, Ino};
use crate::xfs::{attr, bmap, ialloc};

/// Extents freed in one step: what the reservation is for.
const EXTENTS_IN_ONE: u32 = 2;

impl Mount {
    /// Free an inode that has no names and that nobody holds but the caller. What cannot
    /// be freed now is freed at the next mount: it stays in the list of unlinked inodes.
    pub fn inactivate(&self, inode: &Inode) {
        // It may be that the transaction that took its last name freed it.
        if self.readonly() || inode.is_free() || self.is_shut_down() {
            return;
        }
        if let Err(e) = self.try_inactivate(inode)
            && !self.is_shut_down()
        {
            log::warn!("xfs: {} has no names and cannot be freed: {e}", inode.ino());
        }
    }
    /// As [`Mount::inactivate`], telling what is wrong.
    ///
    /// # Errors
    /// I/O errors, damage, no space (which the trees of free space need), shut down.
    fn try_inactivate(&self, inode: &Inode) -> Result<()> {
        let all = FileBlock(0)..FileBlock(u64::MAX);
        let (copies, contents, attributes) = {
            let mut ip = inode.lock_exclusive();
            if ip.core.nlink > 0 || ip.core.mode == 0 {
                return Ok(());
            }
            bmap::punch_reserved(&mut ip, ForkKind::Data, all.clone());
            let contents = match &ip.data {
                Fork::Extents(extents) => !extents.list.is_empty(),
                Fork::Raw(..) => true,
                Fork::Local(_) | Fork::Device(_) => false,
            };
            (ip.delayed.has_cow(), contents, ip.attr.is_some())
        };
        // Most have nothing of these: no transaction is begun to find out.
        if copies {
            inode.cancel_cow(all)?;
        }
        if contents {
            self.free_data(inode)?;
        }
        if attributes {
            attr::remove_all(inode)?;
        }
        self.free_inode(inode)
    }
    /// Free the contents, which are a file's, a directory's or a link's.
    fn free_data(&self, inode: &Inode) -> Result<()> {
        match inode.lock(ForkKind::Data)?.fork() {
            Some(Fork::Extents(extents)) if !extents.list.is_empty() => {}
            _ => return Ok(()),
        }
        let mut tp = self.begin_freeing(self.reservations().truncate, 0)?;
        let mut ip = inode.lock_exclusive();
        if inode.file_type() == FileType::Regular {
            // Should the rest be left to the next mount, the size tells what is there.
            ip.set_disk_size(0);
            free_extents(&mut tp, &mut ip, ForkKind::Data)?;
        } else {
            free_metadata(&mut tp, &mut ip)?;
        }
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    fn free_inode(&self, inode: &Inode) -> Result<()> {
        let blocks = ialloc::space_for_free(self.geometry());
        let mut tp = self.begin_freeing(self.reservations().ifree, blocks)?;
        let mut ip = inode.lock_exclusive();
        if ip.core.blocks > 0 {
            let blocks = ip.core.blocks;
            return Err(inode.corrupt(format!("{blocks} blocks are left of it")));
        }
        ialloc::unlinked_remove(&mut tp, &ip)?;
        ialloc::free(&mut tp, &mut ip)?;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Free what a crash left in the lists of unlinked inodes.
    ///
    /// # Errors
    /// Shut down.
    pub fn recover_unlinked(&self) -> Result<()> {
        for ag in (0..self.geometry().ag_count).map(AgNumber) {
            for bucket in 0..UNLINKED_BUCKETS as u32 {
                self.recover_list(ag, bucket)?;
                if self.is_shut_down() {
                    return Err(Error::Shutdown);
                }
            }
        }
        Ok(())
    }
    fn recover_list(&self, ag: AgNumber, bucket: u32) -> Result<()> {
        let mut last: Option<Ino> = None;
        loop {
            let head = match ialloc::unlinked_head(self, ag, bucket) {
                Ok(Some(ino)) => ino,
                Ok(None) => return Ok(()),
                Err(e) => {
                    log::warn!("xfs: unlinked inodes of AG {}: {e}", ag.0);
                    return Ok(());
                }
            };
            if last == Some(head) {
                // It could not be freed: the others of the list are behind it.
                log::warn!("xfs: a list of unlinked inodes of AG {} is given up", ag.0);
                let mut tp = self.begin(self.reservations().ichange, 0)?;
                ialloc::unlinked_reset(&mut tp, ag, bucket)?;
                tp.commit(&mut [])?;
                return Ok(());
            }
            last = Some(head);
            match self.arc().inode(head) {
                Ok(inode) => self.inactivate(&inode),
                Err(e) => log::warn!("xfs: unlinked {head}: {e}"),
            }
        }
    }
}

/// Free all extents of a fork, step by step.
fn free_extents(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, fork: ForkKind) -> Result<()> {
    let all = FileBlock(0)..FileBlock(u64::MAX);
    loop {
        let done = bmap::unmap(tp, ip, fork, all.clone(), EXTENTS_IN_ONE)?;
        tp.finish(&mut [ip])?;
        if done {
            return Ok(());
        }
        tp.roll(&mut [ip])?;
    }
}

/// Free the blocks of a directory or of a link's target. Replay must not write old contents
/// to blocks that are somebody else's by then, so each is given up.
fn free_metadata(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
    let geometry = tp.mount().geometry();
    let list = bmap::extents_of(ip, ForkKind::Data);
    let (kind, buffers) = if ip.inode().file_type() == FileType::Directory {
        // An empty directory has at most one block, which may lie in pieces.
        let runs = list.runs(geometry, FileBlock(0), geometry.dir_block_blocks());
        let runs = runs.map_err(|reason| ip.inode().corrupt(reason))?.unwrap_or_default();
        (BlockKind::DirBlock, vec![runs])
    } else {
        let run = |extent: &Extent| Run {
            sector: geometry.sector(extent.block),
            bytes: extent.count << geometry.block_log,
        };
        (BlockKind::Symlink, list.iter().map(|extent| vec![run(extent)]).collect())
    };
    for runs in buffers.iter().filter(|runs| !runs.is_empty()) {
        // Not read: its contents mean nothing any more.
        let buffer = tp.create_runs(runs, kind)?;
        tp.invalidate(&buffer);
    }
    free_extents(tp, ip, ForkKind::Data)
}
