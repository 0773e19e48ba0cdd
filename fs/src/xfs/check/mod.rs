//! The checker: is everything on an unmounted device as it has to be?
//!
//! ```text
//! check()
//!   superblock    the first one, the log's state
//!   group         each group's headers, its trees and their records       ─┐
//!   inodes        each chunk, each inode ──> fork   extents, extent trees  ├─> owners
//!                                        ──> dir    names, both indexes    ─┘
//!                                        ──> attr, symlink, quota
//!   links         counts of names, ways to the root, unlinked lists
//!   parents       every name has its pointer to the parent, every pointer its name
//!   owners        every block has one owner or is shared as counted;
//!                 reverse mappings and reference counts say the same
//!   superblock    the sums
//! ```
//!
//! | file | |
//! |------|--|
//! | `source` | reading and verifying blocks; the findings |
//! | `superblock` | the superblock, its copies, the sums |
//! | `group` | AGF, AGFL, AGI, and what their trees hold |
//! | `tree` | the shape of a group's b+trees |
//! | `inodes`, `core` | chunks, inode cores |
//! | `fork` | extents and extent trees |
//! | `da` | the hash tree of a directory or an attribute fork |
//! | `dir`, `dir_index` | directories |
//! | `attr` | extended attributes |
//! | `symlink`, `quota` | link targets, quota records |
//! | `links` | link counts, connections, unlinked lists |
//! | `parents` | names and the pointers to parents |
//! | `owners` | who owns which blocks |
//!
//! Damage is written down and the check goes on with what is left; only a device that
//! holds no file system we know, and the lack of memory, end it. What lies below a
//! damaged structure is unknown, so statements about the whole ("nobody owns this
//! block") are made only if everything could be read.
//!
//! Nothing is changed. The readers of a mounted file system stop at the first damage,
//! so walks are made anew here; the structures themselves are understood by
//! [`ondisk`](super::ondisk) alone. Memory is proportional to the metadata: a record for
//! each inode, each extent and each free extent, with pointers to parents two for each name, never a block's contents for longer
//! than it is looked at.
//!
//! Owns: the findings. Does not own: structures, repairing. Locks: none; the device is
//! read past every cache, so the file system must not be mounted for writing.

mod attr;
mod core;
mod da;
mod dir;
mod dir_index;
mod fork;
mod group;
mod inodes;
mod links;
mod owners;
mod parents;
mod quota;
mod source;
mod superblock;
mod symlink;
mod tree;

use ::core::fmt;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use self::group::Group;
use self::inodes::Inodes;
use self::parents::Parents;
use self::quota::Quotas;
use self::source::Source;
use super::geometry::Geometry;
use super::mount::MountError;
use super::ondisk::log_record::Lsn;
use super::types::{AgNumber, Ino};
use crate::block::Queue;
use crate::platform::Memory;

/// Findings kept word by word; more are only counted.
pub const MOST_FINDINGS: usize = 1000;

/// The check ends early only for these reasons.
type Result<T, E = MountError> = ::core::result::Result<T, E>;

/// Something that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The structure, in the field's words: "AGF", "inode", "bmbt block".
    pub structure: &'static str,
    /// Where: a block, an inode, a group.
    pub location: String,
    /// What is wrong.
    pub reason: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.structure, self.location, self.reason)
    }
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The first [`MOST_FINDINGS`] findings.
    pub findings: Vec<Finding>,
    /// All findings.
    pub found: u64,
    /// Inodes in use.
    pub inodes: u64,
    /// Of these, directories.
    pub directories: u64,
    /// Blocks of the file system.
    pub blocks: u64,
    /// Of these, free ones.
    pub blocks_free: u64,
    /// Blocks that more than one file owns.
    pub blocks_shared: u64,
    /// Where the log goes on, if the file system was unmounted.
    pub log_head: Option<Lsn>,
}

impl Report {
    /// Was nothing found?
    pub const fn is_clean(&self) -> bool {
        self.found == 0
    }
}

/// Everything a check knows so far.
struct Scan {
    source: Source,
    geometry: Arc<Geometry>,
    superblock: super::ondisk::superblock::Superblock,
    /// Inodes that no directory names: quota, realtime.
    internal: Vec<Ino>,
    quotas: Quotas,
    groups: Vec<Group>,
    inodes: Inodes,
    parents: Parents,
    report: Report,
    /// Was the file system unmounted?
    clean: bool,
}

/// Check the file system on a device, structure by structure.
///
/// # Errors
/// There is no file system that we know, or no memory. All damage is in the report,
/// except of the superblock when nothing can be found without it.
pub fn check(queue: &Arc<Queue>, memory: &Arc<dyn Memory>) -> Result<Report> {
    let mut scan = Scan::open(queue, memory)?;
    scan.check_log(queue, memory)?;
    for ag in (0..scan.geometry.ag_count).map(AgNumber) {
        scan.check_group(ag)?;
    }
    scan.index_inodes()?;
    for ag in (0..scan.geometry.ag_count).map(AgNumber) {
        scan.check_inodes(ag)?;
    }
    scan.check_links()?;
    scan.check_parents();
    for ag in (0..scan.geometry.ag_count).map(AgNumber) {
        scan.check_owners(ag)?;
    }
    scan.check_usage();
    scan.check_sums();
    Ok(scan.finish())
}

impl Scan {
    fn finish(mut self) -> Report {
        let (findings, found) = self.source.take_findings();
        self.report.findings = findings;
        self.report.found = found;
        self.report.blocks = self.geometry.data_blocks;
        self.report
    }
}

/// Append to a list whose length the disk decides.
fn push<T>(list: &mut Vec<T>, item: T) -> Result<()> {
    if list.len() == list.capacity() {
        list.try_reserve(1.max(list.len())).map_err(|_| MountError::NoMemory)?;
    }
    list.push(item);
    Ok(())
}
