//! Files as a program sees them: names, in-core inodes, open files, device nodes.
//!
//! ```text
//! path --Namespace::resolve--> Node --File::open--> File --read_at/write_at--> iomap
//!             |                  |                                              |
//!         Dentries            FileSystem (ino -> Inode) --> xfs::Inode     pagecache::Mapping
//! ```
//!
//! | module       | owns |
//! |--------------|------|
//! | `namespace`  | the root, device nodes, path lookup |
//! | `names`      | what the last component of a path that changes may be |
//! | `change`     | changing names and attributes: locks, caches |
//! | `dentry`     | names that were looked up, a bounded cache |
//! | `filesystem` | the table of in-core inodes; sync, unmount |
//! | `inode`      | one file: its `IOLOCK` and its page cache |
//! | `flags`      | flags of calls that change files |
//! | `file`       | one open file: position, flags, readahead, seen errors |
//! | `contents`   | what changes a file's size, blocks, or shares contents; times |
//! | `blockgc`    | giving back what lies ready for writes and is not used |
//! | `directory`  | listing directories |
//! | `device`     | null, zero, consoles |
//! | `blockdev`   | a block device as a file: raw transfers past the page cache |
//!
//! Locks: `IOLOCK` per inode (contents against writers; names in a directory),
//! `FILE_POS` per open file, `INODE_CACHE` and `DENTRY` for the tables, neither of which
//! is held while the disk is read. Called by `syscall` and `mm`.
//!
//! Owns: which inode is in core, who has it open. Does not own: descriptors (`syscall`),
//! folios (`pagecache`), what is on disk (`xfs`).

mod blockdev;
mod blockgc;
mod change;
mod contents;
mod dentry;
mod device;
mod directory;
mod file;
mod filesystem;
mod flags;
mod inode;
mod names;
mod namespace;

pub use blockdev::{BlockNode, RawTransfer};
pub use device::{ByteSink, ByteSource, CharDevice, CharNode, DeviceFile, Null, Zero};
pub use directory::Dirent;
pub use file::{File, OpenFlags, Whence, WriteFlags};
pub use filesystem::FileSystem;
pub use flags::{FallocateMode, ShutdownMode, TimeChange, XattrFlags};
pub use inode::Inode;
pub use namespace::{Last, Namespace, Node, Place, Resolved};

use crate::xfs::{FileType, Timestamp};

/// Most bytes in one name.
pub const NAME_MAX: usize = 255;
/// Most bytes in a path, with the terminating NUL that programs write.
pub const PATH_MAX: usize = 4096;
/// Most symbolic links followed in one lookup.
pub const LINKS_MAX: u32 = 40;
/// The largest position in a file: Linux's `MAX_LFS_FILESIZE`.
pub const SIZE_MAX: u64 = i64::MAX as u64;
/// Most bytes one call transfers: Linux's `MAX_RW_COUNT`.
pub const TRANSFER_MAX: usize = 0x7FFF_F000;

/// What `stat` tells.
#[derive(Clone, Copy, Debug)]
pub struct Stat {
    /// The file system the object lies on.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Names.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// The device this node stands for.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// The unit that serves reads and writes well, in bytes.
    pub blksize: u32,
    /// Space used, in 512-byte units.
    pub blocks: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// When the file was made.
    pub btime: Timestamp,
}

impl Stat {
    /// What the object is.
    pub fn file_type(&self) -> FileType {
        match self.mode & 0o170_000 {
            0o040_000 => FileType::Directory,
            0o100_000 => FileType::Regular,
            0o120_000 => FileType::Symlink,
            0o020_000 => FileType::CharDevice,
            0o060_000 => FileType::BlockDevice,
            0o010_000 => FileType::Fifo,
            0o140_000 => FileType::Socket,
            _ => FileType::Unknown,
        }
    }
}

/// The two parts of a device number, major and minor.
pub const fn device_parts(number: u64) -> (u32, u32) {
    let major = (number >> 8 & 0xFFF) | (number >> 32 & !0xFFF);
    let minor = (number & 0xFF) | (number >> 12 & !0xFF);
    (major as u32, minor as u32)
}

/// A device number from its two parts, as Linux encodes it in `st_rdev`.
pub const fn device_number(major: u32, minor: u32) -> u64 {
    let (major, minor) = (major as u64, minor as u64);
    (minor & 0xFF) | (major & 0xFFF) << 8 | (minor & !0xFF) << 12 | (major & !0xFFF) << 32
}
