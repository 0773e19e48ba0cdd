//! Where in the inode the attribute fork starts: what it leaves to the data fork, which
//! has to get along with that.

use crate::xfs::geometry::Geometry;
use crate::xfs::inode::Fork;
use crate::xfs::inode_item::LockedInode;
use crate::xfs::ondisk::bmbt::{BmbtRoot, RECORD_BYTES};
use crate::xfs::ondisk::inode::{CORE_BYTES, Format};

/// The boundary lies at a multiple of this.
const ALIGN: usize = 8;

/// Bytes of the root of an extent tree with so many pointers.
const fn root_bytes(pointers: usize) -> usize {
    4 + pointers * RECORD_BYTES
}

/// Fewest pointers a root must have room for: in the data fork, in the attribute fork.
const LEAST_DATA: usize = root_bytes(3);
const LEAST_ATTR: usize = root_bytes(2);
/// Where the boundary lies if the attributes will not fit into the inode anyway.
const USUAL: usize = root_bytes(12);

/// Bytes of both forks.
pub(super) const fn fork_bytes(geometry: &Geometry) -> usize {
    geometry.inode_bytes() - CORE_BYTES
}

/// Bytes that the data fork needs as it is. It is loaded.
fn data_bytes(ip: &LockedInode<'_>) -> usize {
    let used = match &ip.data {
        Fork::Device(_) => return ALIGN,
        Fork::Local(bytes) => bytes.len(),
        Fork::Raw(_, bytes) => bytes.len(),
        Fork::Extents(extents) => match &extents.root {
            None => extents.list.len() * RECORD_BYTES,
            Some(root) => BmbtRoot::decode(root).map_or(root.len(), |r| root_bytes(r.count)),
        },
    };
    used.max(LEAST_DATA).next_multiple_of(ALIGN)
}

/// The furthest the boundary may lie.
fn furthest(ip: &LockedInode<'_>) -> usize {
    let both = fork_bytes(ip.inode().mount().geometry());
    match ip.core.format {
        Format::Device => ALIGN,
        _ => (both - LEAST_ATTR) / ALIGN * ALIGN,
    }
}

/// Where an attribute fork that there is has to start to have room for `bytes`; nothing
/// if the data fork cannot shrink so far.
pub(in crate::xfs) fn boundary_for(ip: &LockedInode<'_>, bytes: usize) -> Option<usize> {
    if ip.core.format == Format::Btree {
        return None;
    }
    let both = fork_bytes(ip.inode().mount().geometry());
    let wanted = both.checked_sub(bytes)? / ALIGN * ALIGN;
    (wanted >= data_bytes(ip)).then(|| wanted.min(furthest(ip)))
}

/// Where the attribute fork of a new inode starts.
pub(super) const fn first_boundary(format: Format) -> usize {
    match format {
        Format::Device => ALIGN,
        _ => USUAL / ALIGN * ALIGN,
    }
}

/// Where a new attribute fork starts, `bytes` being wanted there at first. If that does
/// not fit beside the data, the data stays in the inode as long as it can.
pub(super) fn new_boundary(ip: &LockedInode<'_>, bytes: usize) -> usize {
    let usual = || data_bytes(ip).max(USUAL.min(furthest(ip)) / ALIGN * ALIGN);
    boundary_for(ip, bytes).unwrap_or_else(usual).min(furthest(ip))
}
