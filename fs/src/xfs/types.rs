//! The units and small values of XFS: numbers of inodes, blocks and groups, file types,
//! what `stat` and `statfs` report.

use core::fmt;

/// An inode number: allocation group, block in it and slot in that, packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

/// A file system block number: allocation group and block in it, packed (not linear).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FsBlock(pub u64);

/// The number of an allocation group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgNumber(pub u32);

/// A block within an allocation group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgBlock(pub u32);

/// A block within a file (or a directory's or attribute fork's address space), in file
/// system blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileBlock(pub u64);

impl fmt::Display for Ino {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "inode {}", self.0)
    }
}
impl fmt::Display for FsBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fsblock {:#x}", self.0)
    }
}

/// The kind of object an inode or a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// Not said (directory entries only).
    Unknown,
    /// A file with data.
    Regular,
    /// A directory.
    Directory,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A symbolic link.
    Symlink,
    /// An overlay file system's mark of a removed name (directory entries only).
    Whiteout,
}

/// The file type bits of a mode.
pub const S_IFMT: u16 = 0o170_000;

impl FileType {
    /// From the file type bits of a mode.
    pub const fn from_mode(mode: u16) -> Option<Self> {
        Some(match mode & S_IFMT {
            0o100_000 => Self::Regular,
            0o040_000 => Self::Directory,
            0o020_000 => Self::CharDevice,
            0o060_000 => Self::BlockDevice,
            0o010_000 => Self::Fifo,
            0o140_000 => Self::Socket,
            0o120_000 => Self::Symlink,
            _ => return None,
        })
    }
    /// From the byte in a directory entry.
    pub const fn from_dirent(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Unknown,
            1 => Self::Regular,
            2 => Self::Directory,
            3 => Self::CharDevice,
            4 => Self::BlockDevice,
            5 => Self::Fifo,
            6 => Self::Socket,
            7 => Self::Symlink,
            8 => Self::Whiteout,
            _ => return None,
        })
    }
    /// The byte in a directory entry.
    pub const fn to_dirent(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Regular => 1,
            Self::Directory => 2,
            Self::CharDevice => 3,
            Self::BlockDevice => 4,
            Self::Fifo => 5,
            Self::Socket => 6,
            Self::Symlink => 7,
            Self::Whiteout => 8,
        }
    }
    /// The bits of a mode that say it.
    pub const fn mode_bits(self) -> u16 {
        (self.d_type() as u16) << 12
    }
    /// Linux's `d_type` for it.
    pub const fn d_type(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Fifo => 1,
            Self::CharDevice => 2,
            Self::Directory => 4,
            Self::BlockDevice => 6,
            Self::Regular => 8,
            Self::Symlink => 10,
            Self::Socket => 12,
            Self::Whiteout => 14,
        }
    }
}

/// A time: seconds since 1970 (may be negative) and nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970-01-01, UTC.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: u32,
}

/// What `stat` and `xfs_io -c stat` report of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Type and permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Bytes.
    pub size: u64,
    /// Allocated space in 512-byte units.
    pub blocks: u64,
    /// Preferred transfer size: the block size.
    pub blksize: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Major and minor number of a device.
    pub rdev: (u32, u32),
    /// The `FS_XFLAG_*` bits.
    pub xflags: u32,
    /// Extent size hint in bytes.
    pub extsize: u32,
    /// Copy-on-write extent size hint in bytes.
    pub cowextsize: u32,
    /// Extents of the data fork.
    pub nextents: u64,
    /// Extents of the attribute fork.
    pub anextents: u32,
    /// Project.
    pub projid: u32,
    /// Generation of the inode number.
    pub generation: u32,
}

/// One name in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirEntry<'a> {
    /// The name: any bytes but `/` and NUL.
    pub name: &'a [u8],
    /// The inode it names.
    pub ino: Ino,
    /// What that is.
    pub file_type: FileType,
    /// The cursor with which to go on behind this entry.
    pub next_cursor: u64,
}

/// What `statfs` reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    /// Bytes in a block.
    pub block_bytes: u32,
    /// Blocks for data and metadata (the log not counted).
    pub blocks: u64,
    /// Free blocks.
    pub blocks_free: u64,
    /// Free blocks an ordinary user can have.
    pub blocks_available: u64,
    /// Inodes there are or could be.
    pub files: u64,
    /// Of these, unused ones.
    pub files_free: u64,
    /// Identity of the file system.
    pub fsid: u64,
    /// The longest name.
    pub name_max: u32,
}
