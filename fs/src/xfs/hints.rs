//! Flags and hints that a program gives an inode: what `FS_IOC_FSSETXATTR` changes.
//!
//! Owns: which of them may be changed, and to what. Locks: `ILOCK`.

use super::inode::{ForkKind, Inode};
use super::ondisk::bmbt::MAX_BLOCKS;
use super::ondisk::inode::{Flags, Flags2, InodeCore};
use super::ondisk::superblock::RoCompat;
use super::types::FileType;
use crate::error::{Error, Result};

/// `FS_XFLAG_DAX`, `FS_XFLAG_COWEXTSIZE`: on disk they lie elsewhere.
const DAX: u32 = 0x8000;
const COW_EXTSIZE: u32 = 0x1_0000;
/// Those that tell how an inode is, and that nobody sets.
const TOLD: u32 = 0x8000_0002;
/// What any inode can be given.
const FOR_ANY: Flags = Flags::IMMUTABLE
    .union(Flags::APPEND)
    .union(Flags::SYNC)
    .union(Flags::NOATIME)
    .union(Flags::NODUMP)
    .union(Flags::NO_DEFRAG)
    .union(Flags::FILESTREAM);
/// What directories can be given besides: most of it is for what is made in them.
const FOR_DIRECTORIES: Flags = Flags::RT_INHERIT
    .union(Flags::PROJ_INHERIT)
    .union(Flags::NO_SYMLINKS)
    .union(Flags::EXTSIZE_INHERIT);
/// All that a call can name.
const KNOWN: u32 =
    FOR_ANY.union(FOR_DIRECTORIES).union(Flags::EXTSIZE).bits() as u32 | DAX | COW_EXTSIZE;

/// What `FS_IOC_FSSETXATTR` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FsXattr {
    /// The `FS_XFLAG_*` bits, all of them.
    pub xflags: u32,
    /// The size in bytes that extents are to have multiples of.
    pub extsize: u32,
    /// The same for copies of shared blocks.
    pub cowextsize: u32,
    /// The project.
    pub projid: u32,
}

/// Those of the flags that an inode of this kind keeps; the others are passed over, as
/// Linux does.
const fn kept(kind: FileType) -> Flags {
    match kind {
        FileType::Directory => FOR_ANY.union(FOR_DIRECTORIES),
        FileType::Regular => FOR_ANY.union(Flags::EXTSIZE),
        _ => FOR_ANY,
    }
}

impl Inode {
    /// Change flags, hints and the project. A hint of nothing takes its flag away. `IOLOCK`
    /// is held exclusive.
    ///
    /// # Errors
    /// Invalid: a hint that does not fit this kind of file, is no multiple of the block size
    /// or too large, or comes when the file has blocks; a realtime file. Not supported:
    /// flags that nobody knows. Those of transactions.
    pub fn set_hints(&self, new: &FsXattr) -> Result<()> {
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        ip.load(ForkKind::Data)?;
        let xflags = self.checked(&ip.core, new, !ip.delayed.data.is_empty())?;
        let (now, log) = (tp.now(), mount.geometry().block_log);
        let core = ip.core_mut();
        let changeable = kept(self.file_type());
        let wanted = Flags::from_bits_retain((xflags & KNOWN & 0x7fff) as u16) & changeable;
        core.flags = core.flags.difference(changeable) | wanted;
        core.flags2.set(Flags2::DAX, xflags & DAX != 0);
        core.flags2.set(Flags2::COW_EXTSIZE, xflags & COW_EXTSIZE != 0);
        let either = Flags::EXTSIZE | Flags::EXTSIZE_INHERIT;
        core.extsize = if core.flags.intersects(either) { new.extsize >> log } else { 0 };
        core.cow_extsize = if xflags & COW_EXTSIZE != 0 { new.cowextsize >> log } else { 0 };
        core.projid = new.projid;
        core.ctime = now;
        let flags = core.flags;
        self.publish_flags(flags);
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Ask for copies of the size that `source` asks for, if this file asks for none: it is to
    /// become a clone of all of it. `IOLOCK` of both is held exclusive.
    ///
    /// # Errors
    /// Those of transactions.
    pub fn take_copy_hint(&self, source: &Self) -> Result<()> {
        let (theirs, ours) = (source.attributes(), self.attributes());
        if theirs.xflags & COW_EXTSIZE == 0 || ours.xflags & COW_EXTSIZE != 0 {
            return Ok(());
        }
        self.set_hints(&FsXattr {
            xflags: ours.xflags | COW_EXTSIZE,
            extsize: ours.extsize,
            cowextsize: theirs.cowextsize,
            projid: ours.projid,
        })
    }
    /// The flags to set.
    fn checked(&self, core: &InodeCore, new: &FsXattr, reserved: bool) -> Result<u32> {
        let geometry = self.mount().geometry();
        let mut xflags = new.xflags;
        if xflags & u32::from(Flags::REALTIME.bits()) != 0 {
            return Err(Error::Invalid("there is no realtime device"));
        }
        if xflags & !(KNOWN | TOLD) != 0 {
            return Err(Error::NotSupported("a flag of a file that nobody knows"));
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
        if xflags & DAX != 0 && kind != file && kind != directory {
            return Err(Error::Invalid("direct access to what has no contents"));
        }
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
        if xflags & hint == 0 && new.extsize != 0
            || xflags & COW_EXTSIZE == 0 && new.cowextsize != 0
        {
            return Err(Error::Invalid("an extent size hint without its flag"));
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
