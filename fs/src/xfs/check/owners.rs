//! Who owns which blocks: every block has one owner, or is shared just as often as the
//! reference counts say; and the reverse mappings say the same.
//!
//! Owners are collected while structures are walked. Then a sweep over each group looks
//! at every stretch of blocks between two borders:
//!
//! ```text
//! exclusive   AG headers | bnobt |  free   |      | inodes |        one each
//! data                                   file 1 ----                any number each
//!                                             file 2 ----
//!                                             ^^^ shared: two owners
//! ```

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Ordering;

use super::{Result, Scan, push};
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::refcountbt::Refcount;
use crate::xfs::ondisk::rmapbt::{ATTR_FORK, BMBT_BLOCK, OFFSET_MASK, UNWRITTEN};
use crate::xfs::ondisk::superblock::RoCompat;
use crate::xfs::types::{AgNumber, Ino};

/// Owners that are not inodes, by the numbers that reverse mappings have for them.
/// Free blocks have no reverse mapping; here they own themselves.
pub(super) const FREE: u64 = u64::MAX;
/// The headers of a group.
pub(super) const FS: u64 = -3i64 as u64;
/// The log.
pub(super) const LOG: u64 = -4i64 as u64;
/// The trees of free space and reverse mappings, and blocks set aside for them.
pub(super) const AG: u64 = -5i64 as u64;
/// The trees of inodes.
pub(super) const INOBT: u64 = -6i64 as u64;
/// Inodes.
pub(super) const INODES: u64 = -7i64 as u64;
/// The tree of reference counts.
pub(super) const REFC: u64 = -8i64 as u64;
/// Blocks staged for copy on write.
pub(super) const COW: u64 = -9i64 as u64;

/// Somebody owns a run of blocks of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) start: u32,
    pub(super) count: u32,
    pub(super) owner: u64,
    /// The place in the file, and flags as in a reverse mapping.
    pub(super) offset: u64,
}

impl Claim {
    /// An owner that is not an inode.
    pub(super) const fn of(start: u32, count: u32, owner: u64) -> Self {
        Self { start, count, owner, offset: 0 }
    }
    const fn end(&self) -> u32 {
        self.start + self.count
    }
    const fn flags(&self) -> u64 {
        self.offset & !OFFSET_MASK
    }
    /// Does the place in the file move on from block to block?
    const fn moves(&self) -> bool {
        (self.owner as i64) >= 0 && self.offset & BMBT_BLOCK == 0
    }
    /// Claims that continue each other have the same of this.
    const fn line(&self) -> (u64, u64, u64) {
        let diagonal = if self.moves() {
            (self.offset & OFFSET_MASK).wrapping_sub(self.start as u64)
        } else {
            0
        };
        (self.owner, self.flags(), diagonal)
    }
    fn name(&self) -> String {
        let fork = match (self.offset & ATTR_FORK != 0, self.offset & BMBT_BLOCK != 0) {
            (false, false) => "",
            (true, false) => " (attr fork)",
            (false, true) => " (bmbt)",
            (true, true) => " (attr bmbt)",
        };
        match self.owner {
            FREE => "free space".into(),
            FS => "the AG headers".into(),
            LOG => "the log".into(),
            AG => "the space trees".into(),
            INOBT => "the inode trees".into(),
            INODES => "inodes".into(),
            REFC => "the refcountbt".into(),
            COW => "a staged copy".into(),
            owner if (owner as i64) < 0 => format!("owner {}", owner as i64),
            owner => format!("{}{fork}", Ino(owner)),
        }
    }
    fn describe(&self) -> String {
        let unwritten = if self.offset & UNWRITTEN != 0 { " unwritten" } else { "" };
        let at = if self.moves() {
            format!(" at file block {}", self.offset & OFFSET_MASK)
        } else {
            String::new()
        };
        format!("{}+{} of {}{at}{unwritten}", self.start, self.count, self.name())
    }
}

/// Compare two sorted lists; `report` gets what only the first has, with true, and what
/// only the second has, with false.
pub(super) fn differences<T: Ord>(first: &[T], second: &[T], mut report: impl FnMut(&T, bool)) {
    let (mut i, mut j) = (0, 0);
    loop {
        let order = match (first.get(i), second.get(j)) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(a), Some(b)) => a.cmp(b),
        };
        match order {
            Ordering::Less => {
                report(&first[i], true);
                i += 1;
            }
            Ordering::Greater => {
                report(&second[j], false);
                j += 1;
            }
            Ordering::Equal => {
                i += 1;
                j += 1;
            }
        }
    }
}

/// A border between stretches of blocks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Border {
    block: u32,
    exclusive: i8,
    data: i8,
}

fn borders(exclusive: &[Claim], data: &[Claim]) -> Result<Vec<Border>> {
    let mut borders = Vec::new();
    let count = 2 * (exclusive.len() + data.len());
    borders.try_reserve_exact(count).map_err(|_| MountError::NoMemory)?;
    for (list, e, d) in [(exclusive, 1, 0), (data, 0, 1)] {
        for claim in list {
            borders.push(Border { block: claim.start, exclusive: e, data: d });
            borders.push(Border { block: claim.end(), exclusive: -e, data: -d });
        }
    }
    borders.sort_unstable_by_key(|b| b.block);
    Ok(borders)
}

/// A stretch of blocks with the same owners.
struct Stretch {
    start: u32,
    end: u32,
    exclusive: u32,
    data: u32,
}

/// Visit all stretches of a group of `length` blocks.
fn sweep(
    borders: &[Border],
    length: u32,
    each: &mut dyn FnMut(Stretch) -> Result<()>,
) -> Result<()> {
    let (mut start, mut exclusive, mut data) = (0, 0i64, 0i64);
    let mut i = 0;
    while start < length {
        while let Some(b) = borders.get(i).filter(|b| b.block <= start) {
            exclusive += i64::from(b.exclusive);
            data += i64::from(b.data);
            i += 1;
        }
        let end = borders.get(i).map_or(length, |b| b.block.min(length));
        each(Stretch { start, end, exclusive: exclusive as u32, data: data as u32 })?;
        start = end;
    }
    Ok(())
}

impl Scan {
    /// Check who owns the blocks of a group.
    pub(super) fn check_owners(&mut self, ag: AgNumber) -> Result<()> {
        let Some(group) = self.groups.get_mut(ag.0 as usize) else { return Ok(()) };
        let claims = ::core::mem::take(&mut group.claims);
        let rmaps = group.rmaps.take();
        let refcounts = group.refcounts.take();
        // Only contents of files can be shared, and only where that is counted.
        let shareable = |c: &Claim| (c.owner as i64) >= 0 && c.flags() & !UNWRITTEN == 0;
        let counted = self.geometry.ro_compat.contains(RoCompat::REFLINK);
        let (mut exclusive, mut data) = (Vec::new(), Vec::new());
        for claim in &claims {
            let file = counted && shareable(claim) && self.inodes.may_share(Ino(claim.owner));
            push(if file { &mut data } else { &mut exclusive }, *claim)?;
        }
        let borders = borders(&exclusive, &data)?;
        let length = self.geometry.ag_length(ag);
        let mut shared: Vec<Refcount> = Vec::new();
        sweep(&borders, length, &mut |s| {
            if s.exclusive + s.data.min(1) > 1 {
                self.claimed_twice(ag, &s, &claims);
            } else if s.exclusive + s.data == 0 && !self.source.incomplete {
                let (start, count) = (s.start, s.end - s.start);
                let reason = format!("{count} blocks at {start} are neither free nor in use");
                self.source.found("space", format!("AG {}", ag.0), reason);
            }
            if s.data > 1 {
                let (start, count, references) = (s.start, s.end - s.start, s.data);
                self.report.blocks_shared += u64::from(count);
                return add_run(&mut shared, Refcount { cow: false, start, count, references });
            }
            Ok(())
        })?;
        self.check_flags(&data, &shared);
        if self.source.incomplete {
            return Ok(());
        }
        if let Some(refcounts) = refcounts {
            self.compare_refcounts(ag, &shared, &refcounts)?;
        }
        if let Some(rmaps) = rmaps {
            self.compare_rmaps(ag, claims, rmaps);
        }
        Ok(())
    }
    fn claimed_twice(&mut self, ag: AgNumber, s: &Stretch, claims: &[Claim]) {
        let owners: Vec<String> = claims
            .iter()
            .filter(|c| c.start < s.end && s.start < c.end())
            .take(4)
            .map(Claim::name)
            .collect();
        let (start, count) = (s.start, s.end - s.start);
        let reason = format!("{count} blocks at {start} belong to {}", owners.join(" and "));
        self.source.found("space", format!("AG {}", ag.0), reason);
    }
    /// Files with shared blocks say so.
    fn check_flags(&mut self, data: &[Claim], shared: &[Refcount]) {
        if shared.is_empty() {
            return;
        }
        for claim in data {
            let at = shared.partition_point(|s| s.start + s.count <= claim.start);
            let touched = shared.get(at).is_some_and(|s| s.start < claim.end());
            if touched && self.inodes.note_unmarked(Ino(claim.owner)) {
                let reason = "it shares blocks but is not marked so";
                self.source.found("inode", format!("{}", Ino(claim.owner)), reason);
            }
        }
    }
    fn compare_refcounts(
        &mut self,
        ag: AgNumber,
        shared: &[Refcount],
        stated: &[Refcount],
    ) -> Result<()> {
        let key = |r: &Refcount| (r.start, r.count, r.references);
        let mut merged = Vec::new();
        for run in stated.iter().filter(|r| !r.cow) {
            add_run(&mut merged, *run)?;
        }
        let wanted: Vec<_> = shared.iter().map(key).collect();
        let found: Vec<_> = merged.iter().map(key).collect();
        differences(&wanted, &found, |&(start, count, references), missing| {
            let reason = if missing {
                format!("blocks {start}+{count} have {references} owners, no record says so")
            } else {
                format!("it says blocks {start}+{count} have {references} owners")
            };
            self.source.found("refcountbt", format!("AG {}", ag.0), reason);
        });
        Ok(())
    }
    fn compare_rmaps(&mut self, ag: AgNumber, mut claims: Vec<Claim>, stated: Vec<Claim>) {
        claims.retain(|c| c.owner != FREE);
        let key = |c: &Claim| (c.line(), c.start, c.count, c.offset);
        let wanted: Vec<_> = in_lines(claims).iter().map(key).collect();
        let found: Vec<_> = in_lines(stated).iter().map(key).collect();
        differences(&wanted, &found, |&((owner, ..), start, count, offset), missing| {
            let claim = Claim { start, count, owner, offset }.describe();
            let reason = if missing {
                format!("no record of {claim}")
            } else {
                format!("a record of {claim}, which is not so")
            };
            self.source.found("rmapbt", format!("AG {}", ag.0), reason);
        });
    }
}

/// Append a run, joined with the one before if they touch and are alike.
fn add_run(runs: &mut Vec<Refcount>, run: Refcount) -> Result<()> {
    match runs.last_mut() {
        Some(last) if last.start + last.count == run.start && last.references == run.references => {
            last.count += run.count;
            Ok(())
        }
        _ => push(runs, run),
    }
}

/// Sort claims so that those that continue each other stand together, and join them.
fn in_lines(mut claims: Vec<Claim>) -> Vec<Claim> {
    claims.sort_unstable_by_key(|c| (c.line(), c.start, c.count));
    claims.dedup_by(|next, last| {
        let joins = last.line() == next.line() && last.end() == next.start;
        if joins {
            last.count += next.count;
        }
        joins
    });
    claims
}
