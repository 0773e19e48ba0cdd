//! A file system and what should be on it, changed side by side.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use holdfast_fs::platform::VirtAddr;
use holdfast_fs::syscall::{
    AT_FDCWD, FallocateMode, Fd, MapFlags, MsyncFlags, OpenFlags, Process, Prot, RenameFlags,
    TimeChange, XattrFlags,
};
use holdfast_fs::xfs::{Flags, FsXattr, Timestamp};
use holdfast_fs::{Error, Result};

use crate::features::Set;
use crate::volume::Volume;

/// The names of an access control list: as Linux shows it, as it lies on disk.
pub type Purpose = [&'static str; 2];
pub const ACCESS: Purpose = ["system.posix_acl_access", "trusted.SGI_ACL_FILE"];
pub const DEFAULT: Purpose = ["system.posix_acl_default", "trusted.SGI_ACL_DEFAULT"];
/// What a list grants the owner, the owning group, at most a group, and others. User 1000
/// may read and write.
pub type Granted = [u16; 4];

/// Tag, permissions, id.
type Entry = (u16, u16, u32);

fn entries([owner, group, mask, others]: Granted) -> [Entry; 5] {
    let nobody = u32::MAX;
    [(1, owner, nobody), (2, 6, 1000), (4, group, nobody), (16, mask, nobody), (32, others, nobody)]
}

fn shown(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0];
    for (tag, permissions, id) in entries {
        bytes.extend([tag.to_le_bytes(), permissions.to_le_bytes()].concat());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

fn on_disk(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = (entries.len() as u32).to_be_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend([u32::from(*tag).to_be_bytes(), id.to_be_bytes()].concat());
        bytes.extend([permissions.to_be_bytes(), [0; 2]].concat());
    }
    bytes
}

/// What an inode holds.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Body {
    Directory,
    File(Vec<u8>),
    Symlink(Vec<u8>),
    /// The bits of the mode, and the device.
    Special(u32, (u32, u32)),
}

#[derive(Clone, Debug)]
struct Node {
    body: Body,
    permissions: u32,
    owners: (u32, u32),
    attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    /// If a call has set it.
    modified: Option<Timestamp>,
}

/// What should be there: names and what they stand for.
#[derive(Clone, Debug, Default)]
struct Model {
    names: BTreeMap<Vec<u8>, usize>,
    nodes: Vec<Node>,
}

impl Model {
    fn add(&mut self, path: &[u8], body: Body, permissions: u32) {
        let (attributes, modified) = (BTreeMap::new(), None);
        self.nodes.push(Node { body, permissions, owners: (0, 0), attributes, modified });
        self.names.insert(path.to_vec(), self.nodes.len() - 1);
    }
    fn node(&mut self, path: &[u8]) -> &mut Node {
        let number = self.names.get(path);
        let number = *number.unwrap_or_else(|| panic!("{} is not there", show(path)));
        &mut self.nodes[number]
    }
    fn contents(&mut self, path: &[u8]) -> &mut Vec<u8> {
        match &mut self.node(path).body {
            Body::File(bytes) => bytes,
            other => panic!("{} is {other:?}", show(path)),
        }
    }
    /// The names at and below a path.
    fn below(&self, path: &[u8]) -> Vec<(Vec<u8>, usize)> {
        let from = (Bound::Included(path.to_vec()), Bound::Unbounded);
        let inside = |name: &[u8]| {
            name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        };
        let names = self.names.range(from).filter(|(name, _)| inside(name));
        names.map(|(name, number)| (name.clone(), *number)).collect()
    }
    /// Take a subtree out.
    fn take(&mut self, path: &[u8]) -> Vec<(Vec<u8>, usize)> {
        let names = self.below(path);
        self.names.retain(|name, _| names.binary_search_by(|(n, _)| n.cmp(name)).is_err());
        names.into_iter().map(|(name, number)| (name[path.len()..].to_vec(), number)).collect()
    }
    fn put(&mut self, path: &[u8], tree: Vec<(Vec<u8>, usize)>) {
        for (rest, number) in tree {
            self.names.insert([path, &rest].concat(), number);
        }
    }
}

fn show(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Bytes that differ from place to place and from seed to seed.
pub fn bytes(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| (((i + seed * 7919) * 31) >> 3) as u8 | 1).collect()
}

/// A mounted file system, the model, and the directory of the operation that runs.
pub struct World {
    pub set: Set,
    volume: Option<Volume>,
    model: Model,
    pub home: String,
}

impl World {
    pub fn new(set: Set, volume: Volume) -> Self {
        Self { set, volume: Some(volume), model: Model::default(), home: String::new() }
    }
    pub fn volume(&self) -> &Volume {
        self.volume.as_ref().expect("it is mounted")
    }
    pub fn process(&self) -> &Process {
        &self.volume().process
    }
    /// A path in the operation's directory.
    pub fn at(&self, name: &str) -> Vec<u8> {
        format!("/{}/{name}", self.home).into_bytes()
    }
    /// Go on in a directory of one's own.
    pub fn enter(&mut self, home: &str) -> Result<()> {
        self.home = home.into();
        let path = format!("/{home}").into_bytes();
        self.process().mkdir(&path, 0o755)?;
        self.model.add(&path, Body::Directory, 0o755);
        Ok(())
    }
    pub fn with<T>(
        &self,
        name: &str,
        flags: OpenFlags,
        call: impl FnOnce(&Process, Fd) -> Result<T>,
    ) -> Result<T> {
        let p = self.process();
        let fd = p.open(&self.at(name), flags, 0o644)?;
        let result = call(p, fd);
        p.close(fd)?;
        result
    }

    // ---- names

    pub fn create(&mut self, name: &str) -> Result<()> {
        let flags = OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::EXCL;
        self.with(name, flags, |_, _| Ok(()))?;
        self.model.add(&self.at(name), Body::File(Vec::new()), 0o644);
        Ok(())
    }
    pub fn mkdir(&mut self, name: &str) -> Result<()> {
        self.process().mkdir(&self.at(name), 0o755)?;
        self.model.add(&self.at(name), Body::Directory, 0o755);
        Ok(())
    }
    pub fn symlink(&mut self, target: &[u8], name: &str) -> Result<()> {
        self.process().symlink(target, &self.at(name))?;
        self.model.add(&self.at(name), Body::Symlink(target.to_vec()), 0o777);
        Ok(())
    }
    pub fn mknod(&mut self, name: &str, kind: u32, device: (u32, u32)) -> Result<()> {
        self.process().mknod(&self.at(name), kind | 0o640, device)?;
        self.model.add(&self.at(name), Body::Special(kind, device), 0o640);
        Ok(())
    }
    pub fn link(&mut self, from: &str, to: &str) -> Result<()> {
        self.process().link(&self.at(from), &self.at(to))?;
        let number = self.model.names[&self.at(from)];
        self.model.names.insert(self.at(to), number);
        Ok(())
    }
    pub fn unlink(&mut self, name: &str) -> Result<()> {
        self.process().unlink(&self.at(name))?;
        self.model.names.remove(&self.at(name));
        Ok(())
    }
    pub fn rmdir(&mut self, name: &str) -> Result<()> {
        self.process().rmdir(&self.at(name))?;
        self.model.names.remove(&self.at(name));
        Ok(())
    }
    /// Rename, over what there is if need be, or exchange two names.
    pub fn rename(&mut self, from: &str, to: &str, flags: RenameFlags) -> Result<()> {
        let (from, to) = (self.at(from), self.at(to));
        self.process().renameat2(AT_FDCWD, &from, AT_FDCWD, &to, flags)?;
        let moved = self.model.take(&from);
        let replaced = self.model.take(&to);
        self.model.put(&to, moved);
        if flags.contains(RenameFlags::EXCHANGE) {
            self.model.put(&from, replaced);
        }
        Ok(())
    }
    /// A file that never had a name is given one; the bytes it holds.
    pub fn adopt(&mut self, fd: Fd, name: &str, contents: Vec<u8>) -> Result<()> {
        use holdfast_fs::syscall::AtFlags;
        let path = self.at(name);
        self.process().linkat(fd, b"", AT_FDCWD, &path, AtFlags::EMPTY_PATH)?;
        self.model.add(&path, Body::File(contents), 0o600);
        Ok(())
    }

    // ---- contents

    fn wrote(&mut self, name: &str, pos: usize, data: &[u8]) {
        let path = self.at(name);
        let contents = self.model.contents(&path);
        contents.resize(contents.len().max(pos + data.len()), 0);
        contents[pos..pos + data.len()].copy_from_slice(data);
    }
    pub fn write_by(
        &mut self,
        flags: OpenFlags,
        name: &str,
        pos: usize,
        data: &[u8],
    ) -> Result<()> {
        self.with(name, OpenFlags::RDWR | flags, |p, fd| write_all(p, fd, pos, data))?;
        self.wrote(name, pos, data);
        Ok(())
    }
    pub fn write(&mut self, name: &str, pos: usize, data: &[u8]) -> Result<()> {
        self.write_by(OpenFlags::empty(), name, pos, data)
    }
    /// At the end, wherever it is.
    pub fn append(&mut self, name: &str, data: &[u8]) -> Result<()> {
        let flags = OpenFlags::WRONLY | OpenFlags::APPEND;
        let n = self.with(name, flags, |p, fd| p.write(fd, data))?;
        assert_eq!(n, data.len(), "bytes appended");
        let path = self.at(name);
        self.model.contents(&path).extend(data);
        Ok(())
    }
    /// Through a shared mapping.
    pub fn store(&mut self, name: &str, pos: usize, data: &[u8]) -> Result<()> {
        let size = self.process().stat(&self.at(name))?.size as usize;
        self.with(name, OpenFlags::RDWR, |p, fd| {
            let rights = Prot::READ | Prot::WRITE;
            let at = p.mmap(VirtAddr(0), size, rights, MapFlags::SHARED, Some(fd), 0)?;
            p.store(at.add(pos as u64), data)?;
            p.msync(at, size, MsyncFlags::SYNC)?;
            p.munmap(at, size)
        })?;
        self.wrote(name, pos, data);
        Ok(())
    }
    pub fn truncate(&mut self, name: &str, size: usize) -> Result<()> {
        let path = self.at(name);
        self.process().truncate(&path, size as u64)?;
        self.model.contents(&path).resize(size, 0);
        Ok(())
    }
    pub fn fallocate(
        &mut self,
        mode: FallocateMode,
        name: &str,
        pos: usize,
        len: usize,
    ) -> Result<()> {
        self.with(name, OpenFlags::RDWR, |p, fd| p.fallocate(fd, mode, pos as u64, len as u64))?;
        let path = self.at(name);
        let contents = self.model.contents(&path);
        let end = (pos + len).min(contents.len());
        if mode.contains(FallocateMode::COLLAPSE_RANGE) {
            contents.drain(pos..pos + len);
        } else if mode.contains(FallocateMode::INSERT_RANGE) {
            contents.splice(pos..pos, std::iter::repeat_n(0, len));
        } else {
            if mode.intersects(FallocateMode::PUNCH_HOLE | FallocateMode::ZERO_RANGE) && pos < end {
                contents[pos..end].fill(0);
            }
            if !mode.contains(FallocateMode::KEEP_SIZE) {
                contents.resize(contents.len().max(pos + len), 0);
            }
        }
        Ok(())
    }
    /// `len` bytes of one file become those of another, by a call that gets descriptors of
    /// both.
    pub fn share(
        &mut self,
        (from, from_pos): (&str, usize),
        (to, to_pos): (&str, usize),
        len: usize,
        call: impl FnOnce(&Process, Fd, Fd) -> Result<()>,
    ) -> Result<()> {
        self.with(from, OpenFlags::RDONLY, |_, source| {
            self.with(to, OpenFlags::RDWR, |p, target| call(p, source, target))
        })?;
        let path = self.at(from);
        let data = self.model.contents(&path)[from_pos..from_pos + len].to_vec();
        self.wrote(to, to_pos, &data);
        Ok(())
    }

    // ---- attributes

    pub fn chmod(&mut self, name: &str, permissions: u32) -> Result<()> {
        let path = self.at(name);
        self.process().chmod(&path, permissions)?;
        self.model.node(&path).permissions = permissions;
        Ok(())
    }
    pub fn chown(&mut self, name: &str, uid: u32, gid: u32) -> Result<()> {
        let path = self.at(name);
        self.process().lchown(&path, uid, gid)?;
        self.model.node(&path).owners = (uid, gid);
        Ok(())
    }
    pub fn set_modified(&mut self, name: &str, time: Timestamp) -> Result<()> {
        let path = self.at(name);
        self.process().utimens(&path, [TimeChange::Omit, TimeChange::Set(time)])?;
        self.model.node(&path).modified = Some(time);
        Ok(())
    }
    pub fn set_attribute(
        &mut self,
        name: &str,
        attribute: &str,
        value: &[u8],
        flags: XattrFlags,
    ) -> Result<()> {
        let (path, attribute) = (self.at(name), attribute.as_bytes());
        self.process().lsetxattr(&path, attribute, value, flags)?;
        self.model.node(&path).attributes.insert(attribute.to_vec(), value.to_vec());
        Ok(())
    }
    pub fn remove_attribute(&mut self, name: &str, attribute: &str) -> Result<()> {
        let (path, attribute) = (self.at(name), attribute.as_bytes());
        self.process().lremovexattr(&path, attribute)?;
        self.model.node(&path).attributes.remove(attribute);
        Ok(())
    }

    /// The flags of a file.
    pub fn chattr(&mut self, name: &str, flags: Flags) -> Result<()> {
        let new = FsXattr { xflags: flags.bits().into(), ..FsXattr::default() };
        self.with(name, OpenFlags::RDONLY, |p, fd| p.fssetxattr(fd, &new))
    }
    /// Set an access control list; an access list changes the mode.
    pub fn set_list(&mut self, name: &str, purpose: Purpose, granted: Granted) -> Result<()> {
        let (path, [owner, _, mask, others]) = (self.at(name), granted);
        let list = shown(&entries(granted));
        self.process().lsetxattr(&path, purpose[0].as_bytes(), &list, XattrFlags::empty())?;
        self.expect_list(name, purpose, Some(granted));
        if purpose == ACCESS {
            self.model.node(&path).permissions = u32::from(owner << 6 | mask << 3 | others);
        }
        Ok(())
    }
    /// Set an access list that says what a mode does.
    pub fn set_plain_list(&mut self, name: &str, mode: u16) -> Result<()> {
        let path = self.at(name);
        let list = shown(&[
            (1, mode >> 6, u32::MAX),
            (4, mode >> 3 & 7, u32::MAX),
            (32, mode & 7, u32::MAX),
        ]);
        self.process().lsetxattr(&path, ACCESS[0].as_bytes(), &list, XattrFlags::empty())?;
        self.expect_list(name, ACCESS, None);
        self.model.node(&path).permissions = mode.into();
        Ok(())
    }
    /// There should be such a list, or none.
    pub fn expect_list(&mut self, name: &str, purpose: Purpose, granted: Option<Granted>) {
        let path = self.at(name);
        let attributes = &mut self.model.node(&path).attributes;
        for (name, encode) in purpose.iter().zip([shown, on_disk]) {
            match granted {
                Some(granted) => {
                    attributes.insert(name.as_bytes().to_vec(), encode(&entries(granted)))
                }
                None => attributes.remove(name.as_bytes()),
            };
        }
    }

    // ---- the device

    /// Everything that was done is durable; then the power fails, and the log is recovered.
    pub fn cut(&mut self) -> Result<()> {
        self.process().sync();
        self.cut_now()
    }
    /// The power fails. What is not durable must be what the model does not have either.
    pub fn cut_now(&mut self) -> Result<()> {
        let volume = self.volume.take().expect("it is mounted");
        let bytes = Arc::new(volume.bytes());
        // What it does to its own copy of the device from here on does not matter.
        volume.process.exit();
        volume.fs.unmount()?;
        volume.cache.stop();
        drop(volume);
        let volume = Volume::try_over(&bytes)
            .unwrap_or_else(|error| panic!("after the power failed it does not mount: {error}"));
        self.volume = Some(volume);
        Ok(())
    }
    /// Unmount, have a look at the image, and mount it again.
    pub fn remount_after(&mut self, look: impl FnOnce(&Arc<Vec<u8>>)) {
        let image = self.volume.take().expect("it is mounted").unmount();
        look(&image);
        self.volume = Some(Volume::over(&image));
    }
    pub fn unmount(mut self) -> Arc<Vec<u8>> {
        self.volume.take().expect("it is mounted").unmount()
    }

    // ---- comparing

    /// Is what lies in the operation's directory as the model has it?
    pub fn verify_home(&self) {
        self.verify(&format!("/{}", self.home).into_bytes());
    }
    /// Is everything as the model has it?
    pub fn verify_all(&self) {
        let tops = self.model.names.keys().filter(|name| !name[1..].contains(&b'/'));
        let mut expected: Vec<&[u8]> = tops.map(|name| &name[1..]).collect();
        expected.sort_unstable();
        assert_eq!(self.volume().list(b"/"), expected, "names in the root");
        for top in expected {
            self.verify(&[b"/", top].concat());
        }
    }
    fn verify(&self, top: &[u8]) {
        let names = self.model.below(top);
        let mut links: BTreeMap<usize, u32> = BTreeMap::new();
        let mut inside: BTreeMap<&[u8], (Vec<&[u8]>, u32)> = BTreeMap::new();
        for (path, number) in &names {
            *links.entry(*number).or_default() += 1;
            let slash = path.iter().rposition(|byte| *byte == b'/').expect("an absolute path");
            let entry = inside.entry(&path[..slash]).or_default();
            entry.0.push(&path[slash + 1..]);
            entry.1 += u32::from(self.model.nodes[*number].body == Body::Directory);
        }
        let mut seen = std::collections::BTreeSet::new();
        for (path, number) in &names {
            let node = &self.model.nodes[*number];
            let (entries, directories) = inside.remove(&path[..]).unwrap_or_default();
            let nlink = match node.body {
                Body::Directory => 2 + directories,
                _ => links[number],
            };
            if seen.insert(*number) {
                self.verify_node(path, node, nlink);
            } else {
                self.process().lstat(path).unwrap_or_else(|e| panic!("{}: {e}", show(path)));
            }
            if node.body == Body::Directory {
                let mut entries: Vec<Vec<u8>> = entries.into_iter().map(<[u8]>::to_vec).collect();
                entries.sort();
                assert!(self.volume().list(path) == entries, "names in {}", show(path));
            }
        }
    }
    fn verify_node(&self, path: &[u8], node: &Node, nlink: u32) {
        let p = self.process();
        let stat = p.lstat(path).unwrap_or_else(|e| panic!("{}: {e}", show(path)));
        let kind = match &node.body {
            Body::Directory => 0o040_000,
            Body::File(_) => 0o100_000,
            Body::Symlink(_) => 0o120_000,
            Body::Special(kind, _) => *kind,
        };
        let path_text = show(path);
        assert_eq!(stat.mode, kind | node.permissions, "mode of {path_text}");
        assert_eq!(stat.nlink, nlink, "links of {path_text}");
        assert_eq!((stat.uid, stat.gid), node.owners, "owners of {path_text}");
        if let Some(modified) = node.modified {
            assert_eq!(stat.mtime, modified, "time of {path_text}");
        }
        match &node.body {
            Body::File(contents) => {
                assert_eq!(stat.size, contents.len() as u64, "size of {path_text}");
                let bytes = read_all(p, path, contents.len()).expect("it can be read");
                let differs = bytes.iter().zip(contents).position(|(is, should)| is != should);
                assert_eq!(differs, None, "first byte of {path_text} that is wrong");
            }
            Body::Symlink(target) => {
                assert_eq!(&p.readlink(path).expect("a link"), target, "target of {path_text}");
            }
            Body::Special(_, device) => {
                let number = u64::from(device.0 << 8 | device.1);
                assert_eq!(stat.rdev, number, "device {path_text}");
            }
            Body::Directory => {}
        }
        let names = p.llistxattr(path).expect("attributes");
        let mut there: Vec<Vec<u8>> = names.clone();
        there.sort();
        let expected: Vec<Vec<u8>> = node.attributes.keys().cloned().collect();
        assert_eq!(there, expected, "attributes of {path_text}");
        for (name, value) in &node.attributes {
            let is = p.lgetxattr(path, name).expect("an attribute");
            assert!(is == *value, "attribute {} of {path_text}", show(name));
        }
    }
}

/// Write it all, or say why not.
pub fn write_all(p: &Process, fd: Fd, pos: usize, data: &[u8]) -> Result<()> {
    let mut done = 0;
    while done < data.len() {
        match p.pwrite(fd, &data[done..], (pos + done) as u64)? {
            0 => return Err(Error::NoSpace),
            n => done += n,
        }
    }
    Ok(())
}

fn read_all(p: &Process, path: &[u8], len: usize) -> Result<Vec<u8>> {
    let fd = p.open(path, OpenFlags::RDONLY, 0)?;
    let mut bytes = vec![0; len + 1];
    let mut done = 0;
    while done <= len {
        match p.pread(fd, &mut bytes[done..], done as u64)? {
            0 => break,
            n => done += n,
        }
    }
    p.close(fd)?;
    bytes.truncate(done);
    assert_eq!(done, len, "bytes that can be read");
    Ok(bytes)
}
