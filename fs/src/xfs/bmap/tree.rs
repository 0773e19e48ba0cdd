//! The extent tree of a fork (bmbt): its shape, and how a fork gets one and loses it.
//!
//! As long as the records fit the inode they lie in it. One more, and they move to a leaf
//! that a root in the inode points to; when they fit again they move back. The root is
//! kept in the form on disk, with room for as many pointers as fit the fork.

use alloc::sync::Arc;
use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::xfs::alloc::{self as space, AllocRequest, Owner, Target};
use crate::xfs::btree::shape::{Entry, Pointers, Root, Shape};
use crate::xfs::buf::Buffer;
use crate::xfs::defer::Deferred;
use crate::xfs::inode::{Fork, ForkKind};
use crate::xfs::inode_item::{LockedInode, LogFields};
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::bmbt::{self, BmbtRoot, Extent, RECORD_BYTES};
use crate::xfs::ondisk::btree::{LongHeader, NULL_LONG, Record};
use crate::xfs::ondisk::inode::{CORE_BYTES, Format};
use crate::xfs::trans::Trans;
use crate::xfs::types::FsBlock;

impl Record for Extent {
    const BYTES: usize = RECORD_BYTES;
    const KEY_BYTES: usize = 8;
    type Key = u64;
    fn decode(bytes: &[u8]) -> Self {
        Self::decode(bytes)
    }
    fn key(&self) -> u64 {
        self.offset.0
    }
    fn decode_key(bytes: &[u8]) -> u64 {
        crate::xfs::ondisk::be64(bytes, 0).unwrap_or(0)
    }
}

impl Entry for Extent {
    fn encode(&self, bytes: &mut [u8]) {
        bytes.copy_from_slice(&Self::encode(self));
    }
    fn encode_key(key: &u64, bytes: &mut [u8]) {
        bytes.copy_from_slice(&key.to_be_bytes());
    }
}

/// The extent tree of one fork of a locked inode.
pub(super) struct Tree<'i, 'a> {
    pub(super) ip: &'i mut LockedInode<'a>,
    pub(super) fork: ForkKind,
}

impl Shape for Tree<'_, '_> {
    type Record = Extent;
    const POINTERS: Pointers = Pointers::Long;

    fn kind(&self) -> BlockKind {
        BlockKind::Bmbt
    }
    fn owner(&self) -> u64 {
        self.ip.ino().0
    }
    fn root(&self, _tp: &mut Trans<'_>) -> Result<Root> {
        Ok(Root::Inline)
    }
    fn inline_root(&self) -> &[u8] {
        match self.ip.fork(self.fork) {
            Some(Fork::Extents(extents)) => extents.root.as_deref().unwrap_or(&[]),
            _ => &[],
        }
    }
    fn inline_root_mut(&mut self) -> &mut [u8] {
        self.ip.mark(fork_field(self.fork));
        match self.ip.fork_mut(self.fork) {
            Some(Fork::Extents(extents)) => extents.root.as_deref_mut().unwrap_or(&mut []),
            _ => &mut [],
        }
    }
    fn allocate(&mut self, tp: &mut Trans<'_>, near: u64) -> Result<Option<u64>> {
        allocate_block(tp, self.ip, self.fork, FsBlock(near)).map(|block| block.map(|b| b.0))
    }
    fn free(&mut self, tp: &mut Trans<'_>, block: u64) -> Result<()> {
        free_block(tp, self.ip, self.fork, FsBlock(block));
        Ok(())
    }
}

/// What is marked when a fork changes.
pub(super) const fn fork_field(fork: ForkKind) -> LogFields {
    match fork {
        ForkKind::Data => LogFields::DATA,
        ForkKind::Attr => LogFields::ATTR,
        // It is in memory only.
        ForkKind::Cow => LogFields::empty(),
    }
}

fn allocate_block(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    near: FsBlock,
) -> Result<Option<FsBlock>> {
    let owner = Owner::BmbtBlock { ino: ip.ino(), fork };
    let request = AllocRequest::one(Target::Near(near), owner);
    let Some(got) = space::allocate(tp, &request)? else { return Ok(None) };
    count_blocks(ip, 1);
    Ok(Some(got.block))
}

fn free_block(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, fork: ForkKind, block: FsBlock) {
    let owner = Owner::BmbtBlock { ino: ip.ino(), fork };
    tp.defer(Deferred::Free { block, count: 1, owner });
    count_blocks(ip, -1);
}

/// The inode has more blocks, or fewer. What the disk said before is not to be relied on.
pub(super) fn count_blocks(ip: &mut LockedInode<'_>, change: i64) {
    let core = ip.core_mut();
    core.blocks = core.blocks.saturating_add_signed(change);
}

/// Bytes of a fork in the inode.
pub(in crate::xfs) fn fork_bytes(ip: &LockedInode<'_>, fork: ForkKind) -> usize {
    let data = ip.core.data_fork_bytes;
    match fork {
        ForkKind::Attr => ip.inode().mount().geometry().inode_bytes() - CORE_BYTES - data,
        ForkKind::Data | ForkKind::Cow => data,
    }
}

/// Records that fit the inode.
pub(super) fn most_inline(ip: &LockedInode<'_>, fork: ForkKind) -> u64 {
    (fork_bytes(ip, fork) / RECORD_BYTES) as u64
}

/// Put the records of a fork that no longer fits the inode, `records`, into a leaf.
/// Nothing has changed if there is no block for it.
///
/// # Errors
/// [`Error::NoSpace`]; those of the allocator.
pub(super) fn make_tree(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    records: &[u8],
) -> Result<()> {
    let near = records.chunks_exact(RECORD_BYTES).next().map(|r| Extent::decode(r).block);
    let near = near.unwrap_or_else(|| super::allocate::inode_block(ip));
    let block = allocate_block(tp, ip, fork, near)?.ok_or(Error::NoSpace)?;
    let key = crate::xfs::ondisk::be64(records, 0).map_or(0, |h| (h >> 9) & bmbt::MAX_FILE_BLOCK);
    let count = records.len() / RECORD_BYTES;
    write_block(tp, ip, block, 0, count as u16, |edit| edit.put(LongHeader::SIZE, records))?;
    let root = root_with_one(fork_bytes(ip, fork), 1, key, block);
    set_root(ip, fork, Some(root));
    Ok(())
}

/// Fill a new block of the tree that has no siblings.
fn write_block(
    tp: &mut Trans<'_>,
    ip: &LockedInode<'_>,
    block: FsBlock,
    level: u16,
    count: u16,
    fill: impl FnOnce(&mut crate::xfs::buf_item::Edit<'_>),
) -> Result<()> {
    let geometry = ip.inode().mount().geometry();
    let buffer = tp.create_block(block, BlockKind::Bmbt)?;
    let mut edit = tp.edit(&buffer);
    edit.set_be32(0, bmbt::MAGIC);
    edit.set_be16(4, level);
    edit.set_be16(6, count);
    edit.set_be64(8, NULL_LONG);
    edit.set_be64(16, NULL_LONG);
    edit.set_be64(24, geometry.sector(block).0);
    edit.put(40, geometry.meta_uuid.as_bytes());
    edit.set_be64(56, ip.ino().0);
    fill(&mut edit);
    Ok(())
}

/// A root of `bytes` with one pointer.
fn root_with_one(bytes: usize, level: u16, key: u64, block: FsBlock) -> Vec<u8> {
    let mut root = alloc::vec![0; bytes];
    let room = (bytes - ROOT_HEADER) / RECORD_BYTES;
    root[..2].copy_from_slice(&level.to_be_bytes());
    root[2..4].copy_from_slice(&1_u16.to_be_bytes());
    root[ROOT_HEADER..ROOT_HEADER + 8].copy_from_slice(&key.to_be_bytes());
    let at = ROOT_HEADER + room * 8;
    root[at..at + 8].copy_from_slice(&block.0.to_be_bytes());
    root
}

/// Bytes in front of the keys of a root.
const ROOT_HEADER: usize = 4;

fn set_root(ip: &mut LockedInode<'_>, fork: ForkKind, root: Option<Vec<u8>>) {
    let format = if root.is_some() { Format::Btree } else { Format::Extents };
    if let Some(Fork::Extents(extents)) = ip.fork_mut(fork) {
        extents.root = root;
    }
    ip.mark(fork_field(fork));
    let core = ip.core_mut();
    match fork {
        ForkKind::Attr => core.attr_format = Some(format),
        ForkKind::Data | ForkKind::Cow => core.format = format,
    }
}

/// The only leaf of a fork's tree whose records all fit the inode.
///
/// # Errors
/// The tree is higher; those of reading the leaf.
pub(super) fn only_leaf(
    tp: &mut Trans<'_>,
    ip: &LockedInode<'_>,
    fork: ForkKind,
) -> Result<(FsBlock, Arc<Buffer>)> {
    let Some(Fork::Extents(extents)) = ip.fork(fork) else {
        return Err(ip.inode().corrupt("it has no extents".into()));
    };
    let root = BmbtRoot::decode(extents.root.as_deref().unwrap_or(&[]))
        .map_err(|r| ip.inode().corrupt(r))?;
    let child = root.child(0).filter(|_| root.level == 1 && root.count == 1);
    let Some((_, block)) = child else {
        let reason = alloc::format!(
            "{} extents in a tree of {} levels, {} blocks below the root",
            extents.list.len(),
            root.level,
            root.count
        );
        return Err(ip.inode().corrupt(reason));
    };
    let block = FsBlock(block);
    Ok((block, tp.read_block(block, BlockKind::Bmbt)?))
}

/// Move the records back into the inode; `leaf` is what held them.
pub(super) fn drop_tree(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    (block, leaf): (FsBlock, Arc<Buffer>),
) {
    tp.invalidate(&leaf);
    free_block(tp, ip, fork, block);
    set_root(ip, fork, None);
}

/// Change where the attribute fork starts, `data_bytes` behind the core, and with it how
/// much fits both forks: what no longer fits in the inode goes to a tree, or one level
/// down in it. Needs a block from `tp` for each fork with extents that shrinks. Local
/// forks have to fit already; the format of a new attribute fork is the caller's.
///
/// # Errors
/// No space; those of reading the tree.
pub(in crate::xfs) fn move_boundary(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    data_bytes: usize,
) -> Result<()> {
    let before = ip.core.data_fork_bytes;
    ip.load(ForkKind::Data)?;
    ip.load(ForkKind::Attr)?;
    ip.core_mut().data_fork_bytes = data_bytes;
    for fork in [ForkKind::Data, ForkKind::Attr] {
        if let Err(e) = fit_fork(tp, ip, fork) {
            ip.core_mut().data_fork_bytes = before;
            return Err(e);
        }
    }
    Ok(())
}

/// Bring a fork into a form that fits its place in the inode.
fn fit_fork(tp: &mut Trans<'_>, ip: &mut LockedInode<'_>, fork: ForkKind) -> Result<()> {
    let bytes = fork_bytes(ip, fork);
    let most = most_inline(ip, fork) as usize;
    let Some(Fork::Extents(extents)) = ip.fork(fork) else { return Ok(()) };
    let Some(root) = &extents.root else {
        if extents.list.len() > most {
            let records = extents.list.encode();
            return make_tree(tp, ip, fork, &records);
        }
        return Ok(());
    };
    if extents.list.len() <= most {
        let leaf = only_leaf(tp, ip, fork)?;
        drop_tree(tp, ip, fork, leaf);
        return Ok(());
    }
    let root = BmbtRoot::decode(root).map_err(|r| ip.inode().corrupt(r))?;
    let children: Vec<(u64, u64)> = (0..root.count).filter_map(|i| root.child(i)).collect();
    let room = (bytes - ROOT_HEADER) / RECORD_BYTES;
    let level = root.level as u16;
    let fresh = if children.len() <= room {
        resized_root(bytes, level, &children)
    } else {
        push_down(tp, ip, fork, level, &children)?
    };
    set_root(ip, fork, Some(fresh));
    Ok(())
}

/// A root of `bytes` with these keys and pointers.
fn resized_root(bytes: usize, level: u16, children: &[(u64, u64)]) -> Vec<u8> {
    let mut root = alloc::vec![0; bytes];
    let room = (bytes - ROOT_HEADER) / RECORD_BYTES;
    root[..2].copy_from_slice(&level.to_be_bytes());
    root[2..4].copy_from_slice(&(children.len() as u16).to_be_bytes());
    for (i, (key, block)) in children.iter().enumerate() {
        let at = ROOT_HEADER + i * 8;
        root[at..at + 8].copy_from_slice(&key.to_be_bytes());
        let at = ROOT_HEADER + (room + i) * 8;
        root[at..at + 8].copy_from_slice(&block.to_be_bytes());
    }
    root
}

/// Move what the root points to into a new block, and point to that.
fn push_down(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    level: u16,
    children: &[(u64, u64)],
) -> Result<Vec<u8>> {
    let (key, first) = children.first().copied().unwrap_or((0, 0));
    let block = allocate_block(tp, ip, fork, FsBlock(first))?.ok_or(Error::NoSpace)?;
    let room = (ip.inode().mount().geometry().block_bytes() - LongHeader::SIZE) / RECORD_BYTES;
    write_block(tp, ip, block, level, children.len() as u16, |edit| {
        for (i, (key, child)) in children.iter().enumerate() {
            edit.set_be64(LongHeader::SIZE + i * 8, *key);
            edit.set_be64(LongHeader::SIZE + (room + i) * 8, *child);
        }
    })?;
    Ok(root_with_one(fork_bytes(ip, fork), level + 1, key, block))
}
