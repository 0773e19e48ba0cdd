//! A tree of names in memory that behaves as Linux says: the model that random changes of
//! a file system are compared with.

use std::collections::BTreeMap;

pub const EPERM: i32 = 1;
pub const ENOENT: i32 = 2;
pub const EBUSY: i32 = 16;
pub const EEXIST: i32 = 17;
pub const ENOTDIR: i32 = 20;
pub const EISDIR: i32 = 21;
pub const EINVAL: i32 = 22;
pub const ENOSPC: i32 = 28;
pub const ENAMETOOLONG: i32 = 36;
pub const ENOTEMPTY: i32 = 39;

/// What an inode is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory(BTreeMap<Vec<u8>, usize>),
    File,
    Symlink(Vec<u8>),
    Fifo,
}

#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: Kind,
    pub nlink: u32,
    pub mode: u32,
    /// Of a directory.
    pub parent: usize,
}

/// The tree. Inode 0 is the root.
#[derive(Clone, Debug)]
pub struct Tree {
    pub inodes: Vec<Inode>,
}

type Check<T = ()> = Result<T, i32>;

impl Tree {
    pub fn new() -> Self {
        let kind = Kind::Directory(BTreeMap::new());
        Self { inodes: vec![Inode { kind, nlink: 2, mode: 0o755, parent: 0 }] }
    }
    pub fn entries(&self, dir: usize) -> Check<&BTreeMap<Vec<u8>, usize>> {
        match &self.inodes[dir].kind {
            Kind::Directory(entries) => Ok(entries),
            _ => Err(ENOTDIR),
        }
    }
    fn entries_mut(&mut self, dir: usize) -> &mut BTreeMap<Vec<u8>, usize> {
        match &mut self.inodes[dir].kind {
            Kind::Directory(entries) => entries,
            _ => panic!("it was looked at"),
        }
    }
    /// Paths here have no dots and no links in the middle.
    pub fn resolve(&self, path: &[u8]) -> Check<usize> {
        let mut at = 0;
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            at = *self.entries(at)?.get(name).ok_or(ENOENT)?;
        }
        Ok(at)
    }
    fn parent<'p>(&self, path: &'p [u8]) -> Check<(usize, &'p [u8])> {
        let slash = path.iter().rposition(|b| *b == b'/').expect("absolute paths");
        let dir = self.resolve(&path[..slash])?;
        self.entries(dir)?;
        Ok((dir, &path[slash + 1..]))
    }
    fn is_dir(&self, ino: usize) -> bool {
        matches!(self.inodes[ino].kind, Kind::Directory(_))
    }
    pub fn make(&mut self, path: &[u8], kind: Kind, mode: u32) -> Check {
        let (dir, name) = self.parent(path)?;
        if self.entries(dir)?.contains_key(name) {
            return Err(EEXIST);
        }
        let directory = matches!(kind, Kind::Directory(_));
        let ino = self.inodes.len();
        let nlink = if directory { 2 } else { 1 };
        self.inodes.push(Inode { kind, nlink, mode, parent: dir });
        self.entries_mut(dir).insert(name.to_vec(), ino);
        self.inodes[dir].nlink += u32::from(directory);
        Ok(())
    }
    pub fn link(&mut self, from: &[u8], to: &[u8]) -> Check {
        let ino = self.resolve(from)?;
        let (dir, name) = self.parent(to)?;
        if self.entries(dir)?.contains_key(name) {
            return Err(EEXIST);
        }
        if self.is_dir(ino) {
            return Err(EPERM);
        }
        self.entries_mut(dir).insert(name.to_vec(), ino);
        self.inodes[ino].nlink += 1;
        Ok(())
    }
    pub fn unlink(&mut self, path: &[u8]) -> Check {
        let (dir, name) = self.parent(path)?;
        let ino = *self.entries(dir)?.get(name).ok_or(ENOENT)?;
        if self.is_dir(ino) {
            return Err(EISDIR);
        }
        self.entries_mut(dir).remove(name);
        self.inodes[ino].nlink -= 1;
        Ok(())
    }
    pub fn rmdir(&mut self, path: &[u8]) -> Check {
        let (dir, name) = self.parent(path)?;
        let ino = *self.entries(dir)?.get(name).ok_or(ENOENT)?;
        if !self.entries(ino)?.is_empty() {
            return Err(ENOTEMPTY);
        }
        self.entries_mut(dir).remove(name);
        self.inodes[ino].nlink = 0;
        self.inodes[dir].nlink -= 1;
        Ok(())
    }
    fn is_inside(&self, mut dir: usize, of: usize) -> bool {
        loop {
            if dir == of {
                return true;
            }
            if dir == 0 {
                return false;
            }
            dir = self.inodes[dir].parent;
        }
    }
    pub fn rename(&mut self, from: &[u8], to: &[u8], noreplace: bool, exchange: bool) -> Check {
        let (old_dir, old_name) = self.parent(from)?;
        let (new_dir, new_name) = self.parent(to)?;
        let ino = *self.entries(old_dir)?.get(old_name).ok_or(ENOENT)?;
        let target = self.entries(new_dir)?.get(new_name).copied();
        if noreplace && target.is_some() {
            return Err(EEXIST);
        }
        if exchange && target.is_none() {
            return Err(ENOENT);
        }
        if self.is_dir(ino) && self.is_inside(new_dir, ino) {
            return Err(EINVAL);
        }
        if let Some(target) = target
            && self.is_dir(target)
            && self.is_inside(old_dir, target)
        {
            return Err(if exchange { EINVAL } else { ENOTEMPTY });
        }
        if target == Some(ino) {
            return Ok(());
        }
        if exchange {
            self.exchange((old_dir, old_name), (new_dir, new_name));
            return Ok(());
        }
        if let Some(target) = target {
            match (self.is_dir(ino), self.is_dir(target)) {
                (true, false) => return Err(ENOTDIR),
                (false, true) => return Err(EISDIR),
                // XFS says so, where others say ENOTEMPTY.
                (true, true) if !self.entries(target)?.is_empty() => return Err(EEXIST),
                (true, true) => {
                    self.inodes[target].nlink = 0;
                    self.inodes[new_dir].nlink -= 1;
                }
                (false, false) => self.inodes[target].nlink -= 1,
            }
        }
        self.entries_mut(old_dir).remove(old_name);
        self.entries_mut(new_dir).insert(new_name.to_vec(), ino);
        self.moved(ino, old_dir, new_dir);
        Ok(())
    }
    fn moved(&mut self, ino: usize, from: usize, to: usize) {
        if self.is_dir(ino) {
            self.inodes[ino].parent = to;
            self.inodes[from].nlink -= 1;
            self.inodes[to].nlink += 1;
        }
    }
    fn exchange(&mut self, old: (usize, &[u8]), new: (usize, &[u8])) {
        let a = self.entries_mut(old.0)[old.1];
        let b = self.entries_mut(new.0)[new.1];
        self.entries_mut(old.0).insert(old.1.to_vec(), b);
        self.entries_mut(new.0).insert(new.1.to_vec(), a);
        self.moved(a, old.0, new.0);
        self.moved(b, new.0, old.0);
    }
    /// All paths, parents first.
    pub fn paths(&self) -> Vec<(Vec<u8>, usize)> {
        let mut paths = vec![(Vec::new(), 0)];
        let mut next = 0;
        while let Some((path, ino)) = paths.get(next).cloned() {
            next += 1;
            if let Kind::Directory(entries) = &self.inodes[ino].kind {
                for (name, ino) in entries {
                    paths.push(([&path[..], b"/", name].concat(), *ino));
                }
            }
        }
        paths
    }
}
