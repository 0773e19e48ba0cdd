//! What follows when data was written to blocks: they become part of what the file reads
//! as, and then its size is logged.
//!
//! In this order: unwritten extents become written, copies replace what was shared; the
//! size on disk is raised in the last of these transactions, never before. A crash in
//! between leaves the old contents, never blocks that were not written.

use core::ops::Range;

use super::allocate::one_more;
use super::change::{convert, extent_count, list, remap, replace};
use crate::error::Result;
use crate::xfs::alloc::Owner;
use crate::xfs::defer::Deferred;
use crate::xfs::inode::{ForkKind, Inode};
use crate::xfs::inode_item::LockedInode;
use crate::xfs::ondisk::bmbt::Extent;
use crate::xfs::refcount;
use crate::xfs::trans::Trans;
use crate::xfs::types::FileBlock;

/// Conversions in one transaction that do not need more extents.
const BATCH: u32 = 16;

/// What a transaction does of a longer task, and how far it came.
pub(in crate::xfs) trait Step:
    FnMut(&mut Trans<'_>, &mut LockedInode<'_>, Range<FileBlock>) -> Result<FileBlock>
{
}

impl<F> Step for F where
    F: FnMut(&mut Trans<'_>, &mut LockedInode<'_>, Range<FileBlock>) -> Result<FileBlock>
{
}

impl Inode {
    /// Make what is unwritten in `range` written, and log `size` if it is larger than
    /// that on disk.
    ///
    /// # Errors
    /// Those of transactions and of reading the extent tree.
    pub(in crate::xfs) fn convert_written(&self, range: Range<FileBlock>, size: u64) -> Result<()> {
        self.in_steps(range, size, |tp, ip, range| convert_some(tp, ip, range, false))
    }
    /// Make what is written in `range`, and not shared, unwritten.
    ///
    /// # Errors
    /// As [`Inode::convert_written`].
    pub(in crate::xfs) fn convert_unwritten(&self, range: Range<FileBlock>) -> Result<()> {
        self.in_steps(range, 0, |tp, ip, range| convert_some(tp, ip, range, true))
    }
    /// Move the copies in the copy-on-write fork's `range` to the data fork, giving up
    /// what they replace, and log `size` if it is larger than that on disk.
    ///
    /// # Errors
    /// As [`Inode::convert_written`].
    pub(in crate::xfs) fn end_cow(&self, range: Range<FileBlock>, size: u64) -> Result<()> {
        self.in_steps(range, size, |tp, ip, range| {
            let copy = ip.delayed.cow.at_or_after(range.start).filter(|e| e.offset < range.end);
            let Some(copy) = copy.map(|e| e.clip(range.clone())) else { return Ok(range.end) };
            // One extent of the data fork, or one hole, at a time.
            let below = list(ip, ForkKind::Data).at_or_after(copy.offset);
            let stop = match below {
                Some(e) if e.offset <= copy.offset => e.end(),
                Some(e) => e.offset,
                None => copy.end(),
            };
            let part = copy.clip(copy.offset..stop.min(copy.end()));
            replace(tp, ip, ForkKind::Cow, part.offset..part.end(), &[])?;
            refcount::unstage_cow(tp, part.block, part.count);
            remap(tp, ip, Extent { unwritten: false, ..part })?;
            Ok(part.end())
        })
    }
    /// Go through file blocks `range`, each step in a transaction of its own: it does what
    /// it can, at most one extent more for the fork, and says how far it came. The last
    /// one logs the size.
    ///
    /// # Errors
    /// Those of transactions, and what `step` says.
    pub(in crate::xfs) fn in_steps(
        &self,
        range: Range<FileBlock>,
        size: u64,
        mut step: impl Step,
    ) -> Result<()> {
        let mount = self.mount();
        let mut at = range.start;
        let mut blocks = 0;
        loop {
            let mut tp = mount.begin_change(blocks)?;
            let mut ip = self.lock_exclusive();
            ip.load(ForkKind::Data)?;
            // A fork without a tree mostly needs no blocks. Look, and ask again if it does.
            let needed = one_more(&ip, ForkKind::Data);
            if needed > blocks {
                blocks = needed;
                continue;
            }
            at = step(&mut tp, &mut ip, at..range.end)?;
            let last = at >= range.end;
            if last && size > ip.core.size {
                ip.set_disk_size(size);
            }
            tp.commit(&mut [&mut ip])?;
            if last {
                return Ok(());
            }
        }
    }
    /// Log a size that is larger than the one on disk.
    ///
    /// # Errors
    /// Those of transactions.
    pub(in crate::xfs) fn log_size(&self, size: u64) -> Result<()> {
        let mount = self.mount();
        let tp = mount.begin(mount.reservations().ichange, 0)?;
        let mut ip = self.lock_exclusive();
        if size > ip.core.size {
            ip.set_disk_size(size);
        }
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
    /// Give up what the copy-on-write fork has in `range`, reserved and allocated.
    ///
    /// # Errors
    /// Those of transactions; reservations are given back in any case.
    pub(in crate::xfs) fn cancel_cow(&self, range: Range<FileBlock>) -> Result<()> {
        {
            let mut ip = self.lock_exclusive();
            punch_reserved(&mut ip, ForkKind::Cow, range.clone());
            if ip.delayed.cow.at_or_after(range.start).is_none_or(|e| e.offset >= range.end) {
                return Ok(());
            }
        }
        let mount = self.mount();
        let mut at = range.start;
        loop {
            let mut tp = mount.begin(mount.reservations().write, 0)?;
            let mut ip = self.lock_exclusive();
            let staged = ip.delayed.cow.at_or_after(at).filter(|e| e.offset < range.end);
            let Some(part) = staged.map(|e| e.clip(range.clone())) else { return Ok(()) };
            replace(&mut tp, &mut ip, ForkKind::Cow, part.offset..part.end(), &[])?;
            refcount::unstage_cow(&mut tp, part.block, part.count);
            let owner = Owner::Skip;
            tp.defer(Deferred::Free { block: part.block, count: part.count, owner });
            tp.commit(&mut [&mut ip])?;
            at = part.end();
        }
    }
}

/// Make what is not `unwritten` in `range` so, as far as one transaction reaches.
fn convert_some(
    tp: &mut Trans<'_>,
    ip: &mut LockedInode<'_>,
    range: Range<FileBlock>,
    unwritten: bool,
) -> Result<FileBlock> {
    let mut at = range.start;
    for _ in 0..BATCH {
        let next = list(ip, ForkKind::Data)
            .iter_from(at)
            .take_while(|e| e.offset < range.end)
            .find(|e| e.unwritten != unwritten)
            .copied();
        let Some(extent) = next else { return Ok(range.end) };
        let part = extent.clip(at..range.end);
        let before = extent_count(ip, ForkKind::Data);
        convert(tp, ip, part, unwritten)?;
        at = part.end();
        // What took another extent may have split blocks of the tree.
        if extent_count(ip, ForkKind::Data) > before {
            break;
        }
    }
    Ok(at)
}

/// Give back what is reserved, and only that, in file blocks `range` of a fork.
pub(in crate::xfs) fn punch_reserved(
    ip: &mut LockedInode<'_>,
    fork: ForkKind,
    range: Range<FileBlock>,
) {
    if !ip.delayed.reserved(fork).touches(&range) {
        return;
    }
    ip.bump_sequence(fork);
    let mount = ip.inode().mount();
    let limits = mount.tree_limits();
    let back = ip.delayed.reserved_mut(fork).remove(range, &limits);
    mount.counters().give_back(back);
}
