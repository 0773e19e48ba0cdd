//! Pointers to parents: each name has one in the inode that it names, and each of them
//! belongs to a name.
//!
//! Names and pointers are met in any order, in different groups. Both are written down
//! and compared at the end: memory for each name, twice.

use ::core::cmp::Ordering;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{Result, Scan, push};
use crate::xfs::attr::{hash_of, parent};
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::attr_leaf::{Entry, PARENT, Value};
use crate::xfs::ondisk::{Check, be32, be64, ensure};
use crate::xfs::types::Ino;

/// A name, or a pointer that stands for one.
#[derive(Clone, Copy)]
struct Link {
    inode: u64,
    directory: u64,
    /// Where in the pool the name starts, and its length.
    name: (usize, u8),
    /// Of the directory, as the pointer says.
    generation: u32,
}

/// All names and all pointers.
#[derive(Default)]
pub(super) struct Parents {
    names: Vec<Link>,
    pointers: Vec<Link>,
    pool: Vec<u8>,
}

impl Parents {
    fn name(&self, link: &Link) -> &[u8] {
        let (start, length) = link.name;
        self.pool.get(start..start + usize::from(length)).unwrap_or(&[])
    }
    fn compare(&self, a: &Link, b: &Link) -> Ordering {
        let place = |link: &Link| (link.inode, link.directory);
        place(a).cmp(&place(b)).then_with(|| self.name(a).cmp(self.name(b)))
    }
    fn keep(&mut self, name: &[u8]) -> Result<(usize, u8)> {
        let start = self.pool.len();
        if self.pool.capacity() - start < name.len() {
            let more = name.len().max(start);
            self.pool.try_reserve(more).map_err(|_| MountError::NoMemory)?;
        }
        self.pool.extend_from_slice(name);
        Ok((start, name.len() as u8))
    }
    fn sorted(&self, mut links: Vec<Link>) -> Vec<Link> {
        links.sort_unstable_by(|a, b| self.compare(a, b));
        links
    }
}

impl Scan {
    /// A directory has a name, which is neither "." nor "..", for this inode.
    pub(super) fn note_link(&mut self, directory: Ino, name: &[u8], inode: Ino) -> Result<()> {
        if !parent::kept(&self.geometry) {
            return Ok(());
        }
        let name = self.parents.keep(name)?;
        let link = Link { inode: inode.0, directory: directory.0, name, generation: 0 };
        push(&mut self.parents.names, link)
    }
    /// An attribute, if it is a pointer to a parent; what is wrong with it by itself.
    pub(super) fn note_pointer(&mut self, inode: Ino, entry: &Entry<'_>) -> Result<Check> {
        if entry.flags & PARENT == 0 || !parent::kept(&self.geometry) {
            return Ok(Ok(()));
        }
        let Value::Local(value) = entry.value else {
            return Ok(Err("a pointer to a parent in blocks of its own".into()));
        };
        let (Some(directory), Some(generation), parent::VALUE_BYTES) =
            (be64(value, 0), be32(value, 8), value.len())
        else {
            return Ok(Err(format!("a pointer to a parent of {} bytes", value.len())));
        };
        let name = self.parents.keep(entry.name)?;
        push(&mut self.parents.pointers, Link { inode: inode.0, directory, name, generation })?;
        Ok(check_hash(entry, value, self.geometry.ascii_ci))
    }
    /// Compare names and pointers. All directories and inodes have been read.
    pub(super) fn check_parents(&mut self) {
        let mut parents = ::core::mem::take(&mut self.parents);
        let names = ::core::mem::take(&mut parents.names);
        let pointers = ::core::mem::take(&mut parents.pointers);
        let (names, pointers) = (parents.sorted(names), parents.sorted(pointers));
        let (mut name, mut pointer) = (names.iter().peekable(), pointers.iter().peekable());
        let mut last: Option<&Link> = None;
        loop {
            let order = match (name.peek(), pointer.peek()) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => parents.compare(a, b),
            };
            let named = if order.is_le() { name.next() } else { None };
            let pointed = if order.is_ge() { pointer.next() } else { None };
            let twice = pointed.zip(last).is_some_and(|(a, b)| parents.compare(a, b).is_eq());
            let Some(link) = pointed.or(named) else { break };
            let shown = String::from_utf8_lossy(parents.name(link));
            let (inode, directory) = (Ino(link.inode), Ino(link.directory));
            if twice {
                self.inode_found(inode, format!("two pointers to {shown:?} in {directory}"));
            } else if self.source.incomplete {
                // What could not be read may be what is missing.
            } else if pointed.is_none() {
                let reason =
                    format!("no pointer to the parent {directory}, which names it {shown:?}");
                self.inode_found(inode, reason);
            } else if named.is_none() {
                let reason =
                    format!("a pointer to {shown:?} in {directory}, which does not name it");
                self.inode_found(inode, reason);
            }
            if let (Some(_), Some(pointed)) = (named, pointed) {
                self.check_generation(pointed);
            }
            last = pointed.or(last);
        }
    }
    fn check_generation(&mut self, pointer: &Link) {
        let directory = Ino(pointer.directory);
        let Some(is) = self.inodes.get(directory).map(|fact| fact.generation) else { return };
        if is != pointer.generation {
            let said = pointer.generation;
            let reason =
                format!("a pointer to generation {said} of its parent {directory}, which is {is}");
            self.inode_found(Ino(pointer.inode), reason);
        }
    }
}

/// Is a pointer in a leaf filed under its hash?
fn check_hash(entry: &Entry<'_>, value: &[u8], ignore_case: bool) -> Check {
    let hash = hash_of(entry.flags, entry.name, value, ignore_case);
    ensure!(hash == entry.hash, "hash {:#x}, should be {hash:#x}", entry.hash);
    Ok(())
}
