//! Reading a whole file system through the public interface.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_fs::block::BioFlags;
use holdfast_fs::iomap::{MapKind, Ops, Purpose};
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::{Attributes, FileType, Ino, Inode, Mount};
use holdfast_fs::{Error, Result};

/// Everything about one object.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    pub ino: Ino,
    pub attributes: Attributes,
    pub target: Option<Vec<u8>>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// All objects below the root by path ("." is the root), and what went wrong.
#[derive(Default)]
pub struct Tree {
    pub objects: BTreeMap<Vec<u8>, Object>,
    pub errors: Vec<(Vec<u8>, Error)>,
}

/// List a directory.
pub fn list(inode: &Inode) -> Result<Vec<(Vec<u8>, Ino, FileType)>> {
    let mut entries = Vec::new();
    inode.readdir(0, &mut |e| {
        entries.push((e.name.to_vec(), e.ino, e.file_type));
        true
    })?;
    Ok(entries)
}

/// Read the whole tree, without the contents of files.
pub fn tree(mount: &Arc<Mount>) -> Tree {
    let mut tree = Tree::default();
    let mut pending = vec![(b".".to_vec(), mount.root())];
    let mut seen = std::collections::BTreeSet::new();
    while let Some((path, ino)) = pending.pop() {
        let result = mount.inode(ino).and_then(|inode| {
            // A damaged tree can have rings.
            if inode.file_type() == FileType::Directory && seen.insert(ino) {
                let mut found = Vec::new();
                let listed = inode.readdir(0, &mut |e| {
                    found.push((e.name.to_vec(), e.ino));
                    true
                });
                for (name, child) in found {
                    if name != b"." && name != b".." {
                        let mut full = path.clone();
                        full.push(b'/');
                        full.extend_from_slice(&name);
                        pending.push((full, child));
                    }
                }
                listed?;
            }
            object(&inode)
        });
        match result {
            Ok(object) => {
                tree.objects.insert(path, object);
            }
            Err(e) => tree.errors.push((path, e)),
        }
    }
    tree
}

/// Everything about an inode.
pub fn object(inode: &Inode) -> Result<Object> {
    let mut xattrs = BTreeMap::new();
    for name in inode.listxattr()? {
        let value = inode.getxattr(&name)?;
        xattrs.insert(name, value);
    }
    let target = (inode.file_type() == FileType::Symlink).then(|| inode.readlink()).transpose()?;
    Ok(Object { ino: inode.ino(), attributes: inode.attributes(), target, xattrs })
}

/// Visit the contents of a file from byte 0 on, in pieces; holes as one `None`.
pub fn contents(inode: &Inode, each: &mut dyn FnMut(u64, Option<&[u8]>)) -> Result<()> {
    let memory = HostMemory::new(64);
    let queue = inode.mount().queue().clone();
    let size = inode.size();
    let mut pos = 0;
    while pos < size {
        let map = inode.begin(pos, size - pos, Purpose::Read)?;
        assert!(map.contains(pos), "{map:?} does not contain {pos}");
        let end = map.end_bytes().min(size);
        match map.kind {
            MapKind::Written { .. } => {
                let mut at = pos;
                while at < end {
                    let len = (end - at).min(128 << 10);
                    let mut bytes = vec![0; len.next_multiple_of(4096) as usize];
                    let rest = map.end_bytes() - at;
                    bytes.truncate((bytes.len() as u64).min(rest) as usize);
                    let sector = map.sector(at).expect("a written extent has blocks");
                    queue.read_bytes(&*memory, sector, &mut bytes, BioFlags::empty())?;
                    each(at, Some(&bytes[..len as usize]));
                    at += len;
                }
            }
            _ => each(end - pos, None),
        }
        pos = end;
    }
    Ok(())
}

/// The contents of a file that is not too large.
pub fn read_file(inode: &Inode) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    contents(inode, &mut |n, bytes| match bytes {
        Some(bytes) => all.extend_from_slice(bytes),
        None => all.resize(all.len() + n as usize, 0),
    })?;
    Ok(all)
}

/// Follow a path from the root.
pub fn resolve(mount: &Arc<Mount>, path: &str) -> Result<Arc<Inode>> {
    let mut inode = mount.inode(mount.root())?;
    for part in path.split('/').filter(|p| !p.is_empty()) {
        inode = mount.inode(inode.lookup(part.as_bytes())?)?;
    }
    Ok(inode)
}
