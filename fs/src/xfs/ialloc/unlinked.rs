//! Lists of inodes without names: in use, and to be freed when nobody holds them.
//!
//! A group has 64 of them. The AGI has their heads; each inode's link to the next lies
//! in its cluster and is logged with the cluster, not with the inode, so that changing
//! the list does not need other inodes' locks. Which inode links to one is remembered in
//! memory, so that taking one out of the middle needs no walk.

use alloc::format;
use alloc::sync::Arc;

use super::{Header, split_ino};
use crate::error::Result;
use crate::xfs::buf::Buffer;
use crate::xfs::inode::Inode;
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::agi::{self, NULL_AGINO, UNLINKED_BUCKETS};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::inode::CRC_OFFSET;
use crate::xfs::ondisk::{be32, checksum};
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgNumber, Ino};

/// Where the link lies in an inode.
const NEXT_AT: usize = 96;

const fn head_at(bucket: u32) -> usize {
    agi::at::UNLINKED + 4 * bucket as usize
}

const fn bucket_of(agino: u32) -> u32 {
    agino % UNLINKED_BUCKETS as u32
}

/// An inode's link to the next in its list.
struct Link {
    cluster: Arc<Buffer>,
    at: usize,
    inode_bytes: usize,
}

impl Link {
    fn of(tp: &mut Trans<'_>, header: &Header, agino: u32) -> Result<Self> {
        let geometry = tp.mount().geometry();
        let ino = geometry.ino(header.ag, agino);
        let Some((run, at)) = Inode::place_of(geometry, ino) else {
            return Err(header.corrupt(tp, format!("a list of unlinked inodes names {agino}")));
        };
        let cluster = tp.read_runs(&[run], &[BlockKind::Inodes])?;
        Ok(Self { cluster, at, inode_bytes: geometry.inode_bytes() })
    }
    fn get(&self) -> u32 {
        be32(&self.cluster.read(), self.at + NEXT_AT).unwrap_or(NULL_AGINO)
    }
    fn set(&self, tp: &mut Trans<'_>, next: u32) {
        let mut edit = tp.edit(&self.cluster);
        edit.set_be32(self.at + NEXT_AT, next);
        let crc = checksum(&edit[self.at..self.at + self.inode_bytes], CRC_OFFSET);
        edit.put(self.at + CRC_OFFSET, &crc.to_le_bytes());
        drop(edit);
        tp.set_inode_buffer(&self.cluster);
    }
}

/// Put an inode that lost its last name, or never had one, into a list.
///
/// # Errors
/// I/O errors and damage; then nothing was changed.
pub(in crate::xfs) fn unlinked_add(tp: &mut Trans<'_>, ip: &LockedInode<'_>) -> Result<()> {
    let (ag, agino) = split_ino(tp.mount().geometry(), ip.ino())?;
    tp.lock_agi(ag);
    let header = Header::read(tp, ag)?;
    let bucket = bucket_of(agino);
    let head = header.get(head_at(bucket));
    if head == agino {
        return Err(header.corrupt(tp, format!("inode {agino} is in its list already")));
    }
    if head != NULL_AGINO {
        Link::of(tp, &header, agino)?.set(tp, head);
        tp.mount().ialloc.group(ag).previous.lock().insert(head, agino);
    }
    header.set(tp, head_at(bucket), agino);
    Ok(())
}

/// Take an inode out of its list.
///
/// # Errors
/// I/O errors and damage; then nothing was changed.
pub(in crate::xfs) fn unlinked_remove(tp: &mut Trans<'_>, ip: &LockedInode<'_>) -> Result<()> {
    let mount = tp.mount();
    let (ag, agino) = split_ino(mount.geometry(), ip.ino())?;
    tp.lock_agi(ag);
    let header = Header::read(tp, ag)?;
    let link = Link::of(tp, &header, agino)?;
    let next = link.get();
    if next != NULL_AGINO && bucket_of(next) != bucket_of(agino) {
        return Err(header.corrupt(tp, format!("unlinked inode {agino} links to {next}")));
    }
    let at = head_at(bucket_of(agino));
    let head = header.get(at);
    let before = match head == agino {
        true => None,
        false => Some(find_previous(tp, &header, head, agino)?),
    };
    match &before {
        None => header.set(tp, at, next),
        Some((_, previous)) => previous.set(tp, next),
    }
    if next != NULL_AGINO {
        link.set(tp, NULL_AGINO);
    }
    let mut known = mount.ialloc.group(ag).previous.lock();
    known.remove(&agino);
    match before {
        Some((number, _)) if next != NULL_AGINO => {
            known.insert(next, number);
        }
        _ => {
            known.remove(&next);
        }
    }
    Ok(())
}

/// The inode that links to `agino`, and its link.
fn find_previous(
    tp: &mut Trans<'_>,
    header: &Header,
    head: u32,
    agino: u32,
) -> Result<(u32, Link)> {
    let group = tp.mount().ialloc.group(header.ag);
    let known = group.previous.lock().get(&agino).copied();
    if let Some(previous) = known {
        let link = Link::of(tp, header, previous)?;
        if link.get() == agino {
            return Ok((previous, link));
        }
    }
    // A list left by a crash: nothing is remembered of it.
    let mut at = head;
    let mut steps = header.get(agi::at::COUNT);
    while at != NULL_AGINO && steps > 0 {
        let link = Link::of(tp, header, at)?;
        let next = link.get();
        if next == agino {
            return Ok((at, link));
        }
        (at, steps) = (next, steps - 1);
    }
    Err(header.corrupt(tp, format!("inode {agino} is in no list of unlinked inodes")))
}

/// The first inode of a list.
///
/// # Errors
/// I/O errors and damage.
pub(in crate::xfs) fn unlinked_head(
    mount: &Mount,
    ag: AgNumber,
    bucket: u32,
) -> Result<Option<Ino>> {
    let _locked = mount.lock_agi(ag);
    let head = mount.agi(ag)?.unlinked[bucket as usize % UNLINKED_BUCKETS];
    Ok((head != NULL_AGINO).then(|| mount.geometry().ino(ag, head)))
}

/// Give up a list whose inodes cannot be freed: what is in it is lost until a repair.
///
/// # Errors
/// I/O errors and damage.
pub(in crate::xfs) fn unlinked_reset(tp: &mut Trans<'_>, ag: AgNumber, bucket: u32) -> Result<()> {
    tp.lock_agi(ag);
    let header = Header::read(tp, ag)?;
    header.set(tp, head_at(bucket), NULL_AGINO);
    Ok(())
}
