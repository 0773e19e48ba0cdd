//! Targets of symbolic links: in the inode, or in blocks of their own.
//!
//! A target is written once, with its inode, and goes with it. Each extent of blocks
//! starts with a header. Locks: `ILOCK`, shared by readers.

use alloc::format;
use alloc::vec::Vec;

use super::alloc::Use;
use super::bmap;
use super::buf::Run;
use super::geometry::Geometry;
use super::inode::{Fork, ForkExtents, ForkKind, Inode};
use super::inode_item::{LockedInode, LogFields};
use super::ondisk::block::BlockKind;
use super::ondisk::bmbt::Extent;
use super::ondisk::inode::{Format, MAX_SYMLINK};
use super::ondisk::symlink::{Header, MAGIC};
use super::trans::Trans;
use super::types::{FileBlock, FileType, Ino};
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
            _ => self.read_remote(locked.extents(), length)?,
        };
        if target.contains(&0) {
            return Err(self.corrupt("a NUL in the target of a symbolic link".into()));
        }
        Ok(target)
    }
    fn read_remote(&self, extents: &super::extents::ExtentList, length: usize) -> Result<Vec<u8>> {
        let geometry = self.mount().geometry();
        let mut target = Vec::new();
        let mut block = 0;
        for extent in extents.iter() {
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

/// Blocks that must be reserved for a target: its own, each at worst an extent, and what
/// the extent tree may need for them.
pub(super) fn most_blocks(geometry: &Geometry) -> u64 {
    let own = target_blocks(geometry, MAX_SYMLINK as usize);
    own + bmap::TreeLimits::new(geometry).worst(own)
}

/// Blocks of a target if each has a header.
const fn target_blocks(geometry: &Geometry, bytes: usize) -> u64 {
    bytes.div_ceil(geometry.block_bytes() - Header::SIZE) as u64
}

/// Give a new symbolic link its target.
///
/// # Errors
/// [`Error::NameTooLong`] above 1,023 bytes; [`Error::Invalid`] for an empty one; no space.
pub(super) fn create(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, target: &[u8]) -> Result<()> {
    if target.len() as u64 >= MAX_SYMLINK {
        return Err(Error::NameTooLong);
    }
    if target.is_empty() || target.contains(&0) {
        return Err(Error::Invalid("an empty target, or one with a NUL"));
    }
    if target.len() <= ip.core.data_fork_bytes {
        ip.bump_sequence(ForkKind::Data);
        ip.data = Fork::Local(target.to_vec());
        ip.core_mut().format = Format::Local;
        ip.mark(LogFields::DATA);
    } else {
        write_blocks(tp, ip, target)?;
    }
    ip.set_disk_size(target.len() as u64);
    Ok(())
}

/// Move a target that lies in the inode into blocks.
///
/// # Errors
/// No space.
pub(super) fn move_out(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
    let Fork::Local(target) = &ip.data else { return Ok(()) };
    let target = target.clone();
    write_blocks(tp, ip, &target)
}

/// Write a target into new blocks, which become the data fork.
fn write_blocks(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, target: &[u8]) -> Result<()> {
    let mount = tp.mount();
    let geometry = mount.geometry();
    ip.bump_sequence(ForkKind::Data);
    ip.data = Fork::Extents(ForkExtents::default());
    ip.core_mut().format = Format::Extents;
    ip.mark(LogFields::DATA);
    let blocks = target_blocks(geometry, target.len());
    let (fork, at) = (ForkKind::Data, FileBlock(0));
    let extents = bmap::allocate_blocks(tp, ip, fork, at, blocks, Use::Metadata)?;
    let mut offset = 0;
    // Pieces that touch are one extent, which has one header.
    for extent in joined(&extents) {
        let sector = geometry.sector(extent.block);
        let bytes = extent.count << geometry.block_log;
        let buffer = tp.create(sector, bytes, BlockKind::Symlink)?;
        let part = &target[offset..];
        let part = &part[..part.len().min(bytes as usize - Header::SIZE)];
        let mut edit = tp.edit(&buffer);
        edit.set_be32(0, MAGIC);
        edit.set_be32(4, offset as u32);
        edit.set_be32(8, part.len() as u32);
        edit.put(16, geometry.meta_uuid.as_bytes());
        edit.set_be64(32, ip.ino().0);
        edit.set_be64(40, sector.0);
        edit.put(Header::SIZE, part);
        offset += part.len();
    }
    Ok(())
}

/// Extents as they are in the fork: joined where they touch.
fn joined(extents: &[Extent]) -> Vec<Extent> {
    let mut all: Vec<Extent> = Vec::new();
    for extent in extents {
        match all.last_mut() {
            Some(last) if last.block_end() == extent.block => last.count += extent.count,
            _ => all.push(*extent),
        }
    }
    all
}
