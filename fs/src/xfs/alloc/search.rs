//! Which free extent of a group is taken.

use super::Use;
use super::busy::Extents;
use super::space::{FreeTree, Group, at};
use crate::error::Result;
use crate::xfs::btree::Cursor;
use crate::xfs::ondisk::freesp::{ByBlock, BySize, FreeExtent};
use crate::xfs::trans::Trans;

/// Free extents looked at around a block before size decides.
const NEAR_EXTENTS: u32 = 32;
/// Free extents of a size looked at for the nearest one.
const SIZE_EXTENTS: u32 = 16;
/// Free extents looked at in all, once there is one that would do.
const MOST_EXTENTS: u32 = 512;

/// What is wanted of a group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub min: u32,
    pub max: u32,
    pub align: u32,
    pub unit: u32,
    pub rest: u32,
    pub kind: Use,
    pub near: Option<u32>,
    /// From block `near` on and nowhere else.
    pub exact: bool,
}

/// A part of a free extent that would do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub whole: FreeExtent,
    pub start: u32,
    pub count: u32,
}

/// The result of a search.
#[derive(Default)]
pub(super) struct Found {
    pub best: Option<Candidate>,
    /// Stands on the best, if it was found that way.
    pub by_block: Option<Cursor<FreeTree<ByBlock>>>,
    /// Blocks were passed over because they are busy.
    pub busy: bool,
}

impl Wanted {
    /// The part of a free extent that suits best.
    fn fit(&self, whole: FreeExtent, busy: &Extents) -> (Option<Candidate>, bool) {
        let (start, count) = busy.usable(whole.start, whole.count, self.kind);
        let passed_over = count < whole.count;
        (self.place(whole, start, start + count), passed_over)
    }
    fn place(&self, whole: FreeExtent, start: u32, end: u32) -> Option<Candidate> {
        let lowest = start.checked_next_multiple_of(self.align)?;
        let first = match self.near {
            Some(near) if near > lowest => {
                // As near as can be, but not so near that it costs length.
                let room = end.saturating_sub(self.max) / self.align * self.align;
                let at = near.next_multiple_of(self.align);
                let nearest = if near >= end && self.kind == Use::Data { lowest } else { at };
                nearest.min(room).max(lowest)
            }
            _ => lowest,
        };
        let room = end.checked_sub(first)?;
        let count = self.trim(room.min(self.max));
        (count >= self.min && count > 0).then_some(Candidate { whole, start: first, count })
    }
    /// The greatest length up to `count` that is asked for.
    pub(super) const fn trim(&self, count: u32) -> u32 {
        if self.unit <= 1 || count <= self.min {
            return count;
        }
        let over = (count % self.unit + self.unit - self.rest % self.unit) % self.unit;
        let trimmed = count.saturating_sub(over);
        if trimmed < self.min { self.min } else { trimmed }
    }
    fn distance(&self, candidate: &Candidate) -> u32 {
        self.near.map_or(0, |near| near.abs_diff(candidate.start))
    }
    /// Longer is better, then nearer.
    fn prefers(&self, new: &Candidate, old: Option<&Candidate>) -> bool {
        old.is_none_or(|old| {
            new.count > old.count
                || (new.count == old.count && self.distance(new) < self.distance(old))
        })
    }
}

/// A search under way.
struct Search<'g> {
    group: &'g Group,
    wanted: Wanted,
    found: Found,
    looked_at: u32,
}

/// Look for what is wanted in a group that is locked.
pub(super) fn find(tp: &mut Trans<'_>, group: &Group, wanted: &Wanted) -> Result<Found> {
    let longest = group.get(at::LONGEST);
    if longest < wanted.min {
        return Ok(Found::default());
    }
    let wanted = Wanted { max: wanted.max.min(longest), ..*wanted };
    let mut search = Search { group, wanted, found: Found::default(), looked_at: 0 };
    match wanted.near {
        Some(near) if wanted.exact => search.exact(tp, near)?,
        Some(near) => {
            if !search.near(tp, near)? {
                search.by_size(tp)?;
            }
        }
        None => search.by_size(tp)?,
    }
    Ok(search.found)
}

impl Search<'_> {
    /// Consider a free extent; does it give all that is wanted?
    fn consider(&mut self, tp: &Trans<'_>, whole: FreeExtent) -> Result<bool> {
        self.looked_at += 1;
        let whole = self.group.check(tp, whole)?;
        let busy = &self.group.space(tp.mount()).busy;
        let (candidate, passed_over) = busy.with(|busy| self.wanted.fit(whole, busy));
        self.found.busy |= passed_over;
        let Some(candidate) = candidate else { return Ok(false) };
        if self.wanted.prefers(&candidate, self.found.best.as_ref()) {
            self.found.best = Some(candidate);
        }
        Ok(candidate.count >= self.wanted.trim(self.wanted.max))
    }
    /// Has the search taken so long that what was found is good enough?
    const fn is_long(&self) -> bool {
        self.looked_at >= MOST_EXTENTS && self.found.best.is_some()
    }
    /// From this very block on.
    fn exact(&mut self, tp: &mut Trans<'_>, start: u32) -> Result<()> {
        let mut by_block = self.group.by_block();
        if !by_block.lookup_le(tp, &start)? {
            return Ok(());
        }
        let Some(ByBlock(whole)) = by_block.get(tp)? else { return Ok(()) };
        let whole = self.group.check(tp, whole)?;
        let end = whole.start + whole.count;
        if start >= end {
            return Ok(());
        }
        let busy = &self.group.space(tp.mount()).busy;
        let until = busy.with(|busy| busy.first_in(start, end - start, self.wanted.kind));
        self.found.busy |= until < end;
        let count = self.wanted.trim((until - start).min(self.wanted.max));
        if count >= self.wanted.min && start.is_multiple_of(self.wanted.align) {
            self.found.best = Some(Candidate { whole, start, count });
            self.found.by_block = Some(by_block);
        }
        Ok(())
    }
    /// Go from a block to both sides. Is there all that is wanted?
    fn near(&mut self, tp: &mut Trans<'_>, near: u32) -> Result<bool> {
        let mut left = self.group.by_block();
        let mut has_left = left.lookup_le(tp, &near)?;
        let mut right = left.clone();
        let mut has_right = right.next(tp)?;
        for _ in 0..NEAR_EXTENTS {
            let next = |cursor: &mut Cursor<FreeTree<ByBlock>>, tp: &mut Trans<'_>, any: bool| {
                if any { cursor.get(tp) } else { Ok(None) }
            };
            let on_left = next(&mut left, tp, has_left)?;
            let on_right = next(&mut right, tp, has_right)?;
            let gap_left = on_left.map(|r| near.saturating_sub(r.0.start + r.0.count));
            let gap_right = on_right.map(|r| r.0.start - near);
            let goes_left = match (gap_left, gap_right) {
                (None, None) => break,
                (Some(left), Some(right)) => left <= right,
                (left, _) => left.is_some(),
            };
            let Some(ByBlock(whole)) = (if goes_left { on_left } else { on_right }) else { break };
            if self.consider(tp, whole)? {
                // It may be that another was as good, and nearer.
                if self.found.best.is_some_and(|best| best.whole == whole) {
                    self.found.by_block = Some(if goes_left { left } else { right });
                }
                return Ok(true);
            }
            if goes_left {
                has_left = left.previous(tp)?;
            } else {
                has_right = right.next(tp)?;
            }
        }
        // All there is was looked at: there is nothing better.
        Ok(!has_left && !has_right)
    }
    /// The smallest that suffices; of equal ones, the nearest of a few; or the longest.
    fn by_size(&mut self, tp: &mut Trans<'_>) -> Result<()> {
        let mut by_size = self.group.by_size();
        let enough = self.wanted.max.saturating_add(self.wanted.align - 1);
        let mut any = by_size.lookup_ge(tp, &(enough, 0))?;
        let mut satisfied = 0;
        let mut size = 0;
        while any && satisfied < SIZE_EXTENTS && !self.is_long() {
            let Some(BySize(whole)) = by_size.get(tp)? else { break };
            if satisfied > 0 && (whole.count > size || self.wanted.near.is_none()) {
                break;
            }
            if self.consider(tp, whole)? {
                satisfied += 1;
                size = whole.count;
            }
            any = by_size.next(tp)?;
        }
        if satisfied > 0 {
            return Ok(());
        }
        // Not in one piece: the longest there is.
        let mut any = by_size.lookup_le(tp, &(enough.saturating_sub(1), u32::MAX))?;
        while any && !self.is_long() {
            let Some(BySize(whole)) = by_size.get(tp)? else { break };
            let enough = self.found.best.map_or(self.wanted.min, |best| best.count + 1);
            if whole.count < enough {
                break;
            }
            if self.consider(tp, whole)? {
                break;
            }
            any = by_size.previous(tp)?;
        }
        Ok(())
    }
}
