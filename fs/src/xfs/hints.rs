//! Flags and hints that a program gives an inode: what `FS_IOC_FSSETXATTR` changes.
//!
//! Owns: which of them may be changed, and to what. Locks: `ILOCK`.

use super::inode::{ForkKind, Inode};
use super::ondisk::bmbt::MAX_BLOCKS;
use super::ondisk::inode::{Flags, Flags2, InodeCore};
use super::ondisk::superblock::RoCompat;
use super::types::FileType;
use crate::error::{Error, Result};

/// `FS_XFLAG_COWEXTSIZE`.
const COW_EXTSIZE: u32 = 0x1_0000;
/// Those that tell how an inode is, and that nobody sets.
const TOLD: u32 = 0x8000_0002;
/// Those that can be changed: the others mean something that is not done here.
const CHANGEABLE: u32 = Flags::NODUMP
    .union(Flags::NO_DEFRAG)
    .union(Flags::EXTSIZE)
    .union(Flags::EXTSIZE_INHERIT)
    .bits() as u32
    | COW_EXTSIZE;

/// What `FS_IOC_FSSETXATTR` takes, but for the project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FsXattr {
    /// The `FS_XFLAG_*` bits, all of them.
    pub xflags: u32,
    /// The size in bytes that extents are to have multiples of.
    pub extsize: u32,
    /// The same for copies of shared blocks.
    pub cowextsize: u32,
}

impl Inode {
    /// Change flags and hints. A hint of nothing takes its flag away.
    ///
    /// # Errors
    /// Invalid: a hint that does not fit this kind of file, is no multiple of the block size
    /// or too large, or comes when the file has blocks. Not supported: other flags. Those of
    /// transactions.
    pub fn set_hints(&self, new: &FsXattr) -> Result<()> {
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        let xflags = self.checked(&ip.core, new, !ip.delayed.data.is_empty())?;
        let (now, log) = (tp.now(), mount.geometry().block_log);
        let core = ip.core_mut();
        let fixed = core.flags.bits() & !(CHANGEABLE as u16);
        core.flags = Flags::from_bits_retain(fixed | (xflags & CHANGEABLE) as u16);
        core.flags2.set(Flags2::COW_EXTSIZE, xflags & COW_EXTSIZE != 0);
        let either = Flags::EXTSIZE | Flags::EXTSIZE_INHERIT;
        core.extsize = if core.flags.intersects(either) { new.extsize >> log } else { 0 };
        core.cow_extsize = if xflags & COW_EXTSIZE != 0 { new.cowextsize >> log } else { 0 };
        core.ctime = now;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// The flags to set.
    fn checked(&self, core: &InodeCore, new: &FsXattr, reserved: bool) -> Result<u32> {
        let geometry = self.mount().geometry();
        let mut xflags = new.xflags;
        if (xflags ^ super::inode::xflags(core)) & !(CHANGEABLE | TOLD) != 0 {
            return Err(Error::NotSupported("a flag of a file that cannot be changed"));
        }
        let hint = u32::from((Flags::EXTSIZE | Flags::EXTSIZE_INHERIT).bits());
        if new.extsize == 0 {
            xflags &= !hint;
        }
        if new.cowextsize == 0 {
            xflags &= !COW_EXTSIZE;
        }
        let has = |flag: Flags| xflags & u32::from(flag.bits()) != 0;
        let (file, directory) = (FileType::Regular, FileType::Directory);
        let kind = self.file_type();
        if has(Flags::EXTSIZE) && kind != file || has(Flags::EXTSIZE_INHERIT) && kind != directory {
            return Err(Error::Invalid("an extent size hint for what cannot have one"));
        }
        let most = u64::from(geometry.ag_blocks / 2).min(MAX_BLOCKS) << geometry.block_log;
        let fits = |bytes: u32| {
            u64::from(bytes).is_multiple_of(geometry.block_bytes() as u64)
                && u64::from(bytes) <= most
        };
        if xflags & hint != 0 && !fits(new.extsize)
            || xflags & COW_EXTSIZE != 0 && !fits(new.cowextsize)
        {
            return Err(Error::Invalid("an extent size hint of no whole blocks, or too large"));
        }
        let before = if core.flags.contains(Flags::EXTSIZE) { core.extsize } else { 0 };
        let after = if has(Flags::EXTSIZE) { new.extsize >> geometry.block_log } else { 0 };
        if kind == file && before != after && (core.extents > 0 || reserved) {
            return Err(Error::Invalid("the file has blocks: its extent size hint stays"));
        }
        if xflags & COW_EXTSIZE != 0 {
            let shares = geometry.ro_compat.contains(RoCompat::REFLINK);
            if !shares || (kind != file && kind != directory) {
                return Err(Error::Invalid("a hint for copies where nothing is shared"));
            }
        }
        Ok(xflags)
    }
}
