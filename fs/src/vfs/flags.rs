//! Flags of calls that change files: Linux's numbers.

use crate::xfs::Timestamp;

bitflags::bitflags! {
    /// What `fallocate` does. Nothing: allocate, and grow the file.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FallocateMode: u32 {
        /// Leave the size alone.
        const KEEP_SIZE = 0x01;
        /// Make a hole.
        const PUNCH_HOLE = 0x02;
        /// Cut the range out.
        const COLLAPSE_RANGE = 0x08;
        /// Make the range read as zeros.
        const ZERO_RANGE = 0x10;
        /// Move what follows back to make room.
        const INSERT_RANGE = 0x20;
        /// Give the range blocks of its own.
        const UNSHARE_RANGE = 0x40;
    }

    /// How `setxattr` treats an attribute that is or is not there.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct XattrFlags: u32 {
        /// It must not exist.
        const CREATE = 1;
        /// It must exist.
        const REPLACE = 2;
    }
}

/// What becomes of one of a file's times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// It becomes the present.
    Now,
    /// It stays.
    Omit,
    /// It becomes this.
    Set(Timestamp),
}

/// How a file system is shut down: the numbers of XFS's `GOINGDOWN`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShutdownMode {
    /// File data and the log are written first.
    Default,
    /// The log is forced first.
    LogFlush,
    /// At once; what is not durable is lost.
    NoLogFlush,
}
