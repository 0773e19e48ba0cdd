//! Names: the root file system, device nodes laid over its `/dev`, path lookup.

use alloc::borrow::Cow;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::RwLock;

use super::{DeviceFile, FileSystem, Inode, LINKS_MAX, NAME_MAX, PATH_MAX, Stat};
use crate::xfs::{FileType, Timestamp};
use crate::{Error, Result, locks};

/// An inode and the file system it lies on.
#[derive(Clone)]
pub struct Place {
    /// The file system.
    pub fs: Arc<FileSystem>,
    /// The inode.
    pub inode: Arc<Inode>,
}

/// What a path leads to.
#[derive(Clone)]
pub enum Node {
    /// An object of a file system.
    Inode(Place),
    /// A device node.
    Device(Arc<dyn DeviceFile>),
    /// The directory of device nodes, over that of the disk if there is one.
    Devices(Option<Place>),
    /// The root when nothing is mounted.
    EmptyRoot,
}

/// A path's end.
pub struct Resolved {
    /// What is there.
    pub node: Node,
    /// Its path from the root, without symbolic links, `.` or `..`.
    pub path: Vec<u8>,
}

/// The last component of a path, and the directory it is looked up in.
pub struct Last {
    /// The directory.
    pub dir: Resolved,
    /// The name; empty if the path was nothing but slashes.
    pub name: Vec<u8>,
    /// Did a slash follow it?
    pub slash: bool,
}

type DeviceTable = BTreeMap<Vec<u8>, Arc<dyn DeviceFile>>;

/// The tree of names that programs see.
pub struct Namespace {
    root: Option<Arc<FileSystem>>,
    devices: RwLock<DeviceTable>,
}

impl Namespace {
    /// A tree with `root` at `/` (or nothing) and `/dev/null` and `/dev/zero`.
    pub fn new(root: Option<Arc<FileSystem>>) -> Arc<Self> {
        let mut devices = DeviceTable::new();
        devices.insert(b"null".to_vec(), Arc::new(super::Null));
        devices.insert(b"zero".to_vec(), Arc::new(super::Zero));
        Arc::new(Self { root, devices: RwLock::new(&locks::DENTRY, devices) })
    }
    /// Show a device as `/dev/NAME`.
    pub fn register(&self, name: &str, device: Arc<dyn DeviceFile>) {
        self.devices.write().insert(name.as_bytes().to_vec(), device);
    }
    /// The device node of this name.
    pub fn device(&self, name: &[u8]) -> Option<Arc<dyn DeviceFile>> {
        self.devices.read().get(name).cloned()
    }
    /// The device nodes, by name.
    pub(super) fn devices(&self) -> Vec<(Vec<u8>, Arc<dyn DeviceFile>)> {
        self.devices.read().iter().map(|(n, d)| (n.clone(), d.clone())).collect()
    }
    /// The file system at `/`.
    pub fn root_fs(&self) -> Option<&Arc<FileSystem>> {
        self.root.as_ref()
    }
    /// The root directory.
    ///
    /// # Errors
    /// The root inode cannot be read.
    pub fn root(&self) -> Result<Node> {
        Ok(match &self.root {
            Some(fs) => Node::Inode(Place { inode: fs.root()?, fs: fs.clone() }),
            None => Node::EmptyRoot,
        })
    }
    /// Follow `path` from `base` (or from the root). The last component is followed, if
    /// it is a symbolic link, when `follow` says so or a slash follows it.
    ///
    /// # Errors
    /// Those of Linux's path lookup: not found, not a directory, name too long, too many
    /// links; I/O errors and corruption.
    pub fn resolve(&self, base: &Resolved, path: &[u8], follow: bool) -> Result<Resolved> {
        let mut walk = Walk::new(self, base, path)?;
        walk.run(path, if follow { Goal::Follow } else { Goal::Stay })?;
        Ok(walk.at)
    }
    /// Follow all of `path` but its last component, which is not looked up.
    ///
    /// # Errors
    /// As [`Namespace::resolve`].
    pub fn resolve_parent(&self, base: &Resolved, path: &[u8]) -> Result<Last> {
        let mut walk = Walk::new(self, base, path)?;
        let last = walk.run(path, Goal::Parent)?;
        let (name, slash) = last.unwrap_or_default();
        Ok(Last { dir: walk.at, name, slash })
    }
    /// Follow `path`, whose last component may be missing, in order to make it.
    ///
    /// # Errors
    /// As [`Namespace::resolve`]; a directory if a slash follows the last component.
    pub fn resolve_or_parent(
        &self,
        base: &Resolved,
        path: &[u8],
        follow: bool,
    ) -> Result<Result<Resolved, Last>> {
        let mut walk = Walk::new(self, base, path)?;
        Ok(match walk.run(path, Goal::Create { follow })? {
            None => Ok(walk.at),
            Some((name, slash)) => Err(Last { dir: walk.at, name, slash }),
        })
    }
    /// One step down, or up.
    pub(super) fn step(&self, at: &Node, name: &[u8]) -> Result<Node> {
        if name.len() > NAME_MAX {
            return Err(Error::NameTooLong);
        }
        match at {
            Node::Inode(place) => self.step_inode(place, name),
            Node::Devices(below) => match (self.device(name), below) {
                _ if name == b".." => self.root(),
                (Some(device), _) => Ok(Node::Device(device)),
                (None, Some(place)) => place.step(name).map(Node::Inode),
                (None, None) => Err(Error::NotFound),
            },
            Node::EmptyRoot if name == b".." => Ok(Node::EmptyRoot),
            Node::EmptyRoot if name == b"dev" => Ok(Node::Devices(None)),
            Node::EmptyRoot => Err(Error::NotFound),
            Node::Device(_) => Err(Error::NotDirectory),
        }
    }
    fn step_inode(&self, place: &Place, name: &[u8]) -> Result<Node> {
        let root = self
            .root
            .as_ref()
            .is_some_and(|fs| Arc::ptr_eq(fs, &place.fs) && place.inode.ino() == fs.mount().root());
        if !root {
            return place.step(name).map(Node::Inode);
        }
        match name {
            b".." => Ok(Node::Inode(place.clone())),
            b"dev" => match place.step(name) {
                Ok(dir) if dir.inode.file_type() == FileType::Directory => {
                    Ok(Node::Devices(Some(dir)))
                }
                Ok(other) => Ok(Node::Inode(other)),
                Err(Error::NotFound) => Ok(Node::Devices(None)),
                Err(e) => Err(e),
            },
            _ => place.step(name).map(Node::Inode),
        }
    }
}

impl Place {
    fn step(&self, name: &[u8]) -> Result<Place> {
        Ok(Place { inode: self.fs.lookup(&self.inode, name)?, fs: self.fs.clone() })
    }
}

impl Node {
    /// What it is.
    pub fn file_type(&self) -> FileType {
        match self {
            Self::Inode(place) => place.inode.file_type(),
            Self::Device(d) if d.block().is_some() => FileType::BlockDevice,
            Self::Device(_) => FileType::CharDevice,
            Self::Devices(_) | Self::EmptyRoot => FileType::Directory,
        }
    }
    /// What `stat` tells of it.
    pub fn stat(&self) -> Stat {
        match self {
            Self::Inode(place) | Self::Devices(Some(place)) => place.inode.stat(),
            Self::Device(device) => {
                let kind = if device.block().is_some() { 0o060_660 } else { 0o020_666 };
                synthetic(kind, device.rdev())
            }
            Self::Devices(None) | Self::EmptyRoot => synthetic(0o040_755, 0),
        }
    }
    /// The file system object, if it is one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::Inode(place) | Self::Devices(Some(place)) => Some(place),
            _ => None,
        }
    }
}

/// A node that no file system holds.
fn synthetic(mode: u32, rdev: u64) -> Stat {
    let never = Timestamp::default();
    Stat {
        dev: super::device_number(0, 5),
        ino: rdev + 1,
        mode,
        nlink: if mode & 0o040_000 != 0 { 2 } else { 1 },
        uid: 0,
        gid: 0,
        rdev,
        size: 0,
        blksize: 4096,
        blocks: 0,
        atime: never,
        mtime: never,
        ctime: never,
        btime: never,
    }
}

impl Resolved {
    /// The root of `ns`.
    ///
    /// # Errors
    /// The root inode cannot be read.
    pub fn root(ns: &Namespace) -> Result<Self> {
        Ok(Self { node: ns.root()?, path: b"/".to_vec() })
    }
}

impl Clone for Resolved {
    fn clone(&self) -> Self {
        Self { node: self.node.clone(), path: self.path.clone() }
    }
}

/// What a lookup is to end with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Goal {
    /// What the last component leads to.
    Follow,
    /// The last component itself.
    Stay,
    /// The directory of the last component.
    Parent,
    /// The last component if it is there, otherwise its directory.
    Create { follow: bool },
}

/// A lookup on its way.
struct Walk<'a> {
    ns: &'a Namespace,
    at: Resolved,
    links: u32,
}

impl<'a> Walk<'a> {
    fn new(ns: &'a Namespace, base: &Resolved, path: &[u8]) -> Result<Self> {
        if path.is_empty() || path.contains(&0) {
            return Err(Error::NotFound);
        }
        if path.len() >= PATH_MAX {
            return Err(Error::NameTooLong);
        }
        let from = if path[0] == b'/' { b"/" } else { &base.path[..] };
        // Without a link it gets no longer than this.
        let mut way = Vec::with_capacity(from.len() + path.len() + 1);
        way.extend_from_slice(from);
        let node = if path[0] == b'/' { ns.root()? } else { base.node.clone() };
        Ok(Self { ns, at: Resolved { node, path: way }, links: 0 })
    }
    /// Go as far as `goal` says. The last component, and whether a slash followed it, if
    /// it was not gone to.
    fn run(&mut self, path: &[u8], goal: Goal) -> Result<Option<(Vec<u8>, bool)>> {
        // What is left of the path, links spliced in, from `next` on.
        let mut rest = Cow::Borrowed(path);
        let mut next = 0;
        loop {
            let Some(skip) = rest[next..].iter().position(|b| *b != b'/') else {
                return Ok(None);
            };
            let start = next + skip;
            let slash = rest[start..].iter().position(|b| *b == b'/').map(|n| start + n);
            let end = slash.unwrap_or(rest.len());
            let last = rest[end..].iter().all(|b| *b == b'/');
            let name = &rest[start..end];
            if self.at.node.file_type() != FileType::Directory {
                return Err(Error::NotDirectory);
            }
            if last && goal == Goal::Parent {
                return Ok(Some((name.to_vec(), slash.is_some())));
            }
            let create =
                last && matches!(goal, Goal::Create { .. }) && !matches!(name, b"." | b"..");
            if create && slash.is_some() {
                return Err(Error::IsDirectory);
            }
            next = end;
            if name != b"." {
                let found = match self.ns.step(&self.at.node, name) {
                    Err(Error::NotFound) if create => return Ok(Some((name.to_vec(), false))),
                    found => found?,
                };
                // A slash after a link asks for what it points to.
                let follow = slash.is_some()
                    || matches!(goal, Goal::Follow | Goal::Create { follow: true })
                    || !last;
                if found.file_type() == FileType::Symlink && follow {
                    rest = Cow::Owned(self.splice(&found, &rest[end..])?);
                    next = 0;
                    continue;
                }
                self.at.node = found;
                self.extend_path(name);
            }
            if slash.is_some() && self.at.node.file_type() != FileType::Directory {
                return Err(Error::NotDirectory);
            }
            if last {
                return Ok(None);
            }
        }
    }
    /// The path to go on with behind a symbolic link.
    fn splice(&mut self, link: &Node, after: &[u8]) -> Result<Vec<u8>> {
        self.links += 1;
        if self.links > LINKS_MAX {
            return Err(Error::Loop);
        }
        let Some(place) = link.place() else { return Err(Error::NotFound) };
        let mut target = place.inode.xfs().readlink()?;
        if target.is_empty() {
            return Err(Error::NotFound);
        }
        if target.len() + after.len() >= 2 * PATH_MAX {
            return Err(Error::NameTooLong);
        }
        if target[0] == b'/' {
            self.at = Resolved::root(self.ns)?;
        }
        target.extend_from_slice(after);
        Ok(target)
    }
    fn extend_path(&mut self, name: &[u8]) {
        let path = &mut self.at.path;
        if name == b".." {
            let parent = path.iter().rposition(|b| *b == b'/').unwrap_or(0);
            path.truncate(parent.max(1));
            return;
        }
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(name);
    }
}
