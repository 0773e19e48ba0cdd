//! Linux's calls on a process: names, flags, semantics and errno.
//!
//! ```text
//! Process::read(fd, buf, ...) -> descriptor -> vfs::File -> iomap, devices
//! Process::open(path, ...)    -> Namespace::resolve -> vfs::File
//! Process::mmap, load, store  -> mm::AddressSpace
//! ```
//!
//! | module        | calls |
//! |---------------|-------|
//! | `process`     | the process itself, descriptors: open, close, dup, fcntl, chdir |
//! | `io`          | read, write and their kin, lseek, fsync, sync, fadvise, raw transfers |
//! | `memory`      | mmap, munmap, msync, madvise; a program's own loads and stores |
//! | `metadata`    | stat, getdents, readlink, statfs, extended attributes, fiemap |
//! | `namespace`   | making, linking, removing and moving names |
//! | `attributes`  | chmod, chown, utimens, setting extended attributes |
//! | `contents`    | truncate, fallocate, cloning and copying, shutdown |
//! | `buffer`      | a caller's memory |
//!
//! The way of a cached read writes no cache line that another processor reads or writes:
//! the descriptor table is read under a per-processor lock, held only for the lookup;
//! each descriptor has a handle a processor, whose reference count is that processor's,
//! and which keeps the open file alive while a slow read outlives a close.
//!
//! Owns: descriptors, the working directory, argument checks. Does not own: what the
//! calls do (`vfs`, `mm`). Locks: `FD_TABLE`, never held while anything sleeps.

mod attributes;
mod buffer;
mod contents;
mod io;
mod memory;
mod metadata;
mod namespace;
mod process;

pub use buffer::{Buf, BufMut};
pub use io::SyncRange;
pub use metadata::{DirentRef, FiemapExtent, FiemapFlags, dirents};
pub use namespace::AtFlags;
pub use process::{Fd, Process};

pub use crate::mm::{Advice, MapFlags, MsyncFlags, Prot};
pub use crate::vfs::{
    FallocateMode, OpenFlags, RawTransfer, ShutdownMode, Stat, TimeChange, Whence, WriteFlags,
    XattrFlags,
};
pub use crate::xfs::namespace::RenameFlags;

/// The descriptor that stands for the working directory in calls whose name ends in `at`.
pub const AT_FDCWD: Fd = -100;
