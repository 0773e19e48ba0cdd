//! The lock order of the storage stack: the one table.
//!
//! A thread waits only for locks of a higher rank than those it holds. The
//! feature `check` enforces it at every acquisition.
//!
//! | rank | lock | protects | held by |
//! |-----:|------|----------|---------|
//! | 5 | `SHRINKERS` | who else can free memory | reclaim thread |
//! | 10 | `FD_TABLE` | a process's descriptors and working directory | open, close, dup, chdir |
//! | 15 | `FILE_POS` | an open file's position and readahead state | read, write, lseek, getdents |
//! | 20 | `BLOCKGC` | a round of collecting what lies ready for writes | the blockgc thread, unmount |
//! | 25 | `RENAME` | which directories a directory lies in | rename across directories |
//! | 30 | `IOLOCK` | file contents against writers; directory entries | read (shared), write, truncate |
//! | 40 | `MMAP_LOCK` | an address space's list of areas | mmap, munmap; faults (shared) |
//! | 50 | `INVAL` | the page cache of a file against faults | faults (shared), truncate, punch |
//! | 60 | `FOLIO` | one folio's contents and state (a bit in its flags) | read, write, fault, writeback, reclaim |
//! | 62 | `I_MMAP` | the areas that map a file | mmap, munmap, write-protect, unmap |
//! | 64 | `PAGE_INDEX` | a file's tree of folios | lookup (shared), insert, remove |
//! | 70 | `ILOCK` | an inode's core and extent map | begin, writeback mapping, stat |
//! | 72 | `AGI` | a group's inode trees and unlinked lists | transactions, until they commit |
//! | 74 | `AGF` | a group's space trees | transactions, until they commit |
//! | 80 | `BUFFER` | one metadata block | everything that reads metadata |
//! | 82 | `BUFFER_CACHE` | the index of metadata blocks | lookup, insert, shrink |
//! | 84 | `INODE_CACHE` | the table of in-core inodes | lookup, insert, evict |
//! | 86 | `DENTRY` | names that were looked up | path lookup |
//! | 87 | `LOG_PUSH` | writing checkpoints | who forces the log |
//! | 88 | `CIL` | what is committed and not yet in the log | commit, checkpoint |
//! | 90 | `PAGE_TAGS` | which pages of a file are dirty or under writeback | dirtying, writeback |
//! | 91 | `DIRTY_INODES` | the list of inodes with dirty pages | dirtying, writeback |
//! | 92 | `LRU` | the active and inactive lists | insert, reclaim |
//! | 93 | `BUFFER_ITEM` | what of a block or an inode is logged and not in place | commit, write in place |
//! | 94 | `ANON` | private pages of one mapped area | faults, munmap |
//! | 95 | `AIL` | what is in the log and not in place, by place in the log | checkpoint, completion |
//! | 95 | `LOG_SPACE` | the account of the log's space | reservation, commit, checkpoint |
//! | 96 | `DEVICE` | a block device's queue | submission, completion |
//! | 97 | `MEMORY` | a host memory's free list | page allocation |
//! | 97 | `TLB` | the translations one simulated processor caches | simulated accesses, flush |
//! | 98 | `PAGE_TABLE` | a simulated page table | map, unmap, write-protect |
//! | 99 | `STATE` | a thread's small private state (stop flags, statistics) | anyone, briefly |
//!
//! Writeback takes `FOLIO` then `ILOCK`; I/O completion takes neither `IOLOCK`,
//! `INVAL` nor `FOLIO`. No allocation under `FOLIO` waits for writeback.

use holdfast_sync::LockClass;

macro_rules! classes {
    ($($(#[$doc:meta])* $name:ident = $new:ident($rank:expr);)*) => {
        $($(#[$doc])* pub static $name: LockClass = LockClass::$new(stringify!($name), $rank);)*
    };
}

classes! {
    /// Who besides the page cache can free memory.
    SHRINKERS = new(5);
    /// Descriptors and working directory of a process.
    FD_TABLE = new(10);
    /// Position of an open file.
    FILE_POS = new(15);
    /// A round of collecting what lies ready for writes.
    BLOCKGC = new(20);
    /// Which directories a directory lies in.
    RENAME = new(25);
    /// File contents against writers; directory contents.
    IOLOCK = nesting(30);
    /// Areas of an address space.
    MMAP_LOCK = new(40);
    /// Page cache of a file against faults.
    INVAL = nesting(50);
    /// One folio.
    FOLIO = nesting(60);
    /// Areas that map a file.
    I_MMAP = new(62);
    /// A file's tree of folios.
    PAGE_INDEX = new(64);
    /// An inode's core and extent map.
    ILOCK = nesting(70);
    /// A group's inode trees.
    AGI = nesting(72);
    /// A group's space trees.
    AGF = nesting(74);
    /// One metadata block.
    BUFFER = nesting(80);
    /// The index of metadata blocks.
    BUFFER_CACHE = new(82);
    /// The table of in-core inodes.
    INODE_CACHE = new(84);
    /// Names that were looked up.
    DENTRY = new(86);
    /// Writing checkpoints.
    LOG_PUSH = new(87);
    /// What is committed and not yet in the log.
    CIL = new(88);
    /// Dirty and writeback tags of a file.
    PAGE_TAGS = new(90);
    /// Inodes with dirty pages.
    DIRTY_INODES = new(91);
    /// Active and inactive lists.
    LRU = new(92);
    /// What of a block or an inode is logged and not in place.
    BUFFER_ITEM = new(93);
    /// Private pages of one mapped area.
    ANON = new(94);
    /// What is in the log and not in place.
    AIL = new(95);
    /// The account of the log's space.
    LOG_SPACE = new(95);
    /// A block device's queue.
    DEVICE = new(96);
    /// A host memory's free list.
    MEMORY = new(97);
    /// A simulated processor's translations.
    TLB = new(97);
    /// A simulated page table.
    PAGE_TABLE = new(98);
    /// Small private state.
    STATE = new(99);
}
