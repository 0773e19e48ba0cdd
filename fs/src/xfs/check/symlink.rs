//! Targets of symbolic links.

use alloc::format;
use alloc::string::String;

use super::fork::Fork;
use super::{Result, Scan};
use crate::xfs::buf::Run;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inode::{Format, InodeCore, MAX_SYMLINK};
use crate::xfs::ondisk::symlink::Header;
use crate::xfs::types::Ino;

impl Scan {
    /// Check a symbolic link: its target is all there, and a string.
    pub(super) fn check_symlink(
        &mut self,
        ino: Ino,
        core: &InodeCore,
        bytes: &[u8],
        data: &Fork,
    ) -> Result<()> {
        let length = core.size as usize;
        if core.format == Format::Local {
            if bytes.get(..length).is_none_or(|target| target.contains(&0)) {
                self.inode_found(ino, "a NUL in the target of a symbolic link");
            }
            return Ok(());
        }
        let mut done = 0;
        let mut at = 0;
        for extent in &data.extents {
            let most = (MAX_SYMLINK as usize + Header::SIZE).div_ceil(self.geometry.block_bytes());
            if extent.offset.0 != at || extent.count as usize > most {
                let reason = format!("{}+{} of its target", extent.offset.0, extent.count);
                self.inode_found(ino, reason);
                return Ok(());
            }
            at += u64::from(extent.count);
            let sector = self.geometry.sector(extent.block);
            let run = Run { sector, bytes: extent.count << self.geometry.block_log };
            let Some((_, block)) = self.source.block(&[run], &[BlockKind::Symlink])? else {
                return Ok(());
            };
            let expected = (length - done).min(block.len() - Header::SIZE);
            if let Some(reason) = wrong_part(&block, ino, done, expected) {
                self.source.found(BlockKind::Symlink.name(), self.geometry.place(sector), reason);
                return Ok(());
            }
            done += expected;
        }
        if data.whole && done != length {
            self.inode_found(ino, format!("{done} of {length} bytes of its target"));
        }
        Ok(())
    }
}

fn wrong_part(block: &[u8], ino: Ino, offset: usize, expected: usize) -> Option<String> {
    let header = Header::new(block)?;
    let (bytes, at) = (header.bytes() as usize, header.offset() as usize);
    if Ino(header.owner()) != ino || at != offset || bytes != expected {
        return Some(format!(
            "{bytes} bytes at {at} of inode {}, should be {expected} at {offset} of {ino}",
            header.owner()
        ));
    }
    let target = block.get(Header::SIZE..Header::SIZE + bytes)?;
    target.contains(&0).then(|| "a NUL in the target of a symbolic link".into())
}
