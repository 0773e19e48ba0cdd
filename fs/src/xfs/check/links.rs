//! Links: counts, types, ways to the root, lists of unlinked inodes.

use alloc::format;
use alloc::vec::Vec;

use super::{Result, Scan, push};
use crate::xfs::ondisk::agi::{NULL_AGINO, UNLINKED_BUCKETS};
use crate::xfs::types::{AgNumber, FileType, Ino};

impl Scan {
    /// Check all that takes every directory to have been read.
    pub(super) fn check_links(&mut self) -> Result<()> {
        for ag in (0..self.geometry.ag_count).map(AgNumber) {
            self.check_unlinked(ag)?;
        }
        self.check_root();
        for ag in (0..self.geometry.ag_count).map(AgNumber) {
            for agino in self.inodes.numbers(ag) {
                let ino = self.geometry.ino(ag, agino);
                if self.internal.contains(&ino) {
                    continue;
                }
                self.check_inode_links(ino);
                self.check_connected(ino)?;
            }
        }
        for ino in self.internal.clone() {
            let regular = Some(FileType::Regular);
            if self.inodes.get(ino).is_none_or(|f| f.file_type != regular) {
                self.inode_found(ino, "the superblock names it, but it is no file");
            }
        }
        Ok(())
    }
    fn check_root(&mut self) {
        let root = Ino(self.superblock.root_ino);
        let directory = Some(FileType::Directory);
        match self.inodes.get_mut(root) {
            Some(fact) if fact.file_type == directory => {
                fact.connected = true;
                if fact.dotdot != root.0 {
                    let parent = Ino(fact.dotdot);
                    self.inode_found(root, format!("the root's \"..\" is {parent}"));
                }
            }
            _ => self.source.lost("inode", format!("{root}"), "the root is no directory"),
        }
    }
    fn check_inode_links(&mut self, ino: Ino) {
        let Some(&fact) = self.inodes.get(ino) else { return };
        let Some(file_type) = fact.file_type else { return };
        if fact.named_as.is_some_and(|named| named != file_type) {
            let (named, parent) = (fact.named_as, Ino(fact.parent));
            let reason = format!("it is a {file_type:?}, its name in {parent} says {named:?}");
            self.inode_found(ino, reason);
        }
        // A directory that could not be read may have had any names.
        let directory_lost = self.source.incomplete && fact.names < fact.nlink;
        if fact.names != fact.nlink && !directory_lost {
            let reason = format!("nlink is {}, {} names link to it", fact.nlink, fact.names);
            self.inode_found(ino, reason);
        }
        if fact.nlink == 0 && !fact.unlinked {
            self.inode_found(ino, "it has no links, but is on no list of unlinked inodes");
        }
        let root = ino.0 == self.superblock.root_ino;
        if file_type == FileType::Directory
            && !root
            && fact.parent != 0
            && fact.dotdot != 0
            && fact.dotdot != fact.parent
        {
            let (dotdot, parent) = (Ino(fact.dotdot), Ino(fact.parent));
            self.inode_found(ino, format!("its \"..\" is {dotdot}, it is in {parent}"));
        }
    }
    /// Is there a way from the root to this inode?
    fn check_connected(&mut self, ino: Ino) -> Result<()> {
        let mut way = Vec::new();
        let mut at = ino;
        let reached = loop {
            let Some(fact) = self.inodes.get_mut(at) else { break false };
            if fact.connected || fact.unlinked {
                break true;
            }
            // Whoever was passed on this way is marked, so a ring ends at its start.
            if fact.parent == 0 || ::core::mem::replace(&mut fact.passed, true) {
                break false;
            }
            push(&mut way, at)?;
            at = Ino(fact.parent);
        };
        if !reached && !self.source.incomplete {
            self.inode_found(ino, "there is no way to it from the root");
        }
        // What hangs on these needs not be told of again.
        for passed in way.into_iter().chain([ino]) {
            if let Some(fact) = self.inodes.get_mut(passed) {
                fact.connected = true;
            }
        }
        Ok(())
    }
    /// The lists of unlinked inodes of a group.
    fn check_unlinked(&mut self, ag: AgNumber) -> Result<()> {
        for (bucket, head) in self.unlinked_heads(ag) {
            if self.clean {
                let ino = self.geometry.ino(ag, head);
                let reason = format!("list {bucket} of unlinked inodes still holds {ino}");
                self.source.found("AGI", format!("AG {}", ag.0), reason);
            }
            let mut agino = head;
            while agino != NULL_AGINO {
                let ino = self.geometry.ino(ag, agino);
                let belongs =
                    agino as usize % UNLINKED_BUCKETS == bucket && self.has_agino(ag, agino);
                let fact = if belongs { self.inodes.get_mut(ino) } else { None };
                let fresh = fact.filter(|f| f.nlink == 0 && !f.unlinked);
                let Some(fact) = fresh else {
                    let reason = format!("list {bucket} of unlinked inodes leads to {ino}");
                    self.source.found("AGI", format!("AG {}", ag.0), reason);
                    break;
                };
                fact.unlinked = true;
                agino = self.inodes.next_unlinked.get(&ino.0).copied().unwrap_or(NULL_AGINO);
            }
        }
        Ok(())
    }
}
