//! Doing everything that can be done with a mounted file system, for damaged ones.

use std::sync::Arc;

use holdfast_fs::Error;
use holdfast_fs::iomap::{Ops, Purpose};
use holdfast_fs::xfs::types::AgNumber;
use holdfast_fs::xfs::{ForkKind, Mount};

use super::walk;

/// Read everything the groups' headers and trees say.
pub fn groups(mount: &Arc<Mount>) -> Vec<Error> {
    let mut errors = Vec::new();
    for ag in (0..mount.geometry().ag_count).map(AgNumber) {
        let results = [
            mount.agfl(ag).map(|_| ()),
            mount.free_by_block(ag, &mut |_| true),
            mount.free_by_size(ag, &mut |_| true),
            mount.inode_chunks(ag, false, &mut |_| true),
            mount.inode_chunks(ag, true, &mut |_| true),
            mount.reverse_mappings(ag, &mut |_| true),
            mount.reference_counts(ag, None, &mut |_| true),
        ];
        errors.extend(results.into_iter().filter_map(Result::err));
    }
    errors
}

/// Do everything with a damaged image; the structures found damaged.
pub fn exercise(mount: &Arc<Mount>) -> Vec<Error> {
    let tree = walk::tree(mount);
    let mut errors: Vec<Error> = tree.errors.into_iter().map(|(_, e)| e).collect();
    for object in tree.objects.values() {
        let Ok(inode) = mount.inode(object.ino) else { continue };
        for kind in [ForkKind::Data, ForkKind::Attr] {
            errors.extend(inode.extents(kind, 0, u64::MAX, &mut |_| true).err());
        }
        errors.extend(inode.prepare_write(0, object.attributes.size).err());
        errors.extend(inode.begin(object.attributes.size / 2, 1, Purpose::Read).err());
        errors.extend(inode.lookup(b"no such name").err());
        errors.extend(inode.getxattr(b"user.no-such-name").err());
    }
    errors.extend(groups(mount));
    let _ = (mount.statfs(), mount.describe());
    errors
}
