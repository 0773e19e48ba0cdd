//! Targets of symbolic links: in the inode, or in blocks of their own.

use alloc::format;
use alloc::vec::Vec;

use super::buf::Run;
use super::inode::{Fork, ForkKind, Inode};
use super::ondisk::block::BlockKind;
use super::ondisk::inode::MAX_SYMLINK;
use super::ondisk::symlink::Header;
use super::types::{FileType, Ino};
use crate::error::{Corruption, Error, Result};

impl Inode {
    /// The target of this symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is none; I/O errors and damage.
    pub fn readlink(&self) -> Result<Vec<u8>> {
        if self.file_type() != FileType::Symlink {
            return Err(Error::Invalid("not a symbolic link"));
        }
        let locked = self.lock(ForkKind::Data)?;
        let length = self.size().min(MAX_SYMLINK) as usize;
        let target = match locked.fork() {
            Some(Fork::Local(bytes)) => bytes.to_vec(),
            _ => self.read_remote(locked.extents().all(), length)?,
        };
        if target.contains(&0) {
            return Err(self.corrupt("a NUL in the target of a symbolic link".into()));
        }
        Ok(target)
    }
    fn read_remote(
        &self,
        extents: &[super::ondisk::bmbt::Extent],
        length: usize,
    ) -> Result<Vec<u8>> {
        let geometry = self.mount().geometry();
        let mut target = Vec::new();
        let mut block = 0;
        for extent in extents {
            if target.len() >= length || extent.offset.0 != block {
                break;
            }
            // A header and the longest target fit into very few blocks.
            let most = (MAX_SYMLINK as usize + Header::SIZE).div_ceil(geometry.block_bytes());
            if extent.count as usize > most {
                return Err(self.corrupt(format!("{} blocks of a symbolic link", extent.count)));
            }
            block += u64::from(extent.count);
            let run = Run {
                sector: geometry.sector(extent.block),
                bytes: extent.count << geometry.block_log,
            };
            let buffer = self.mount().buffers().read(&[run], &[BlockKind::Symlink])?;
            let contents = buffer.read();
            let Some(header) = Header::new(&contents) else { break };
            let bytes = header.bytes() as usize;
            let expected = (length - target.len()).min(contents.len() - Header::SIZE);
            let fits = Ino(header.owner()) == self.ino()
                && header.offset() as usize == target.len()
                && bytes == expected;
            if !fits {
                return Err(Corruption {
                    structure: BlockKind::Symlink.name(),
                    location: geometry.place(run.sector),
                    reason: format!(
                        "{bytes} bytes at {} of inode {}, should be {expected} at {} of {}",
                        header.offset(),
                        header.owner(),
                        target.len(),
                        self.ino()
                    ),
                }
                .into());
            }
            target.extend_from_slice(&contents[Header::SIZE..Header::SIZE + bytes]);
        }
        if target.len() != length {
            return Err(self.corrupt(format!("{} of {length} bytes of its target", target.len())));
        }
        Ok(target)
    }
}
