//! Which group blocks come from.
//!
//! Groups are tried in turn from the wanted one on, first those that can be locked without
//! waiting and where all of the transaction fits, then any, and at last with as little as
//! will do. A transaction that holds a group locked waits only for higher ones.

use super::space::Group;
use super::{AgReserve, AllocRequest, Allocation, Target, Use, busy, search};
use crate::error::Result;
use crate::xfs::rmap;
use crate::xfs::trans::Trans;
use crate::xfs::types::{AgBlock, AgNumber};

/// How hard to try.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Groups that have all that is wanted, in one piece, and are not locked.
    Whole,
    /// Groups that have room for the whole transaction.
    Room,
    /// Groups that have the least that will do; the rest is found in others.
    Least,
}

/// What became of an attempt in one group.
enum Attempt {
    Found(Allocation),
    /// Nothing; if it was busy extents that were in the way, they can be waited for. The
    /// group's AGFL may have changed.
    Nothing {
        busy: bool,
        changed: bool,
    },
}

/// Allocate an extent. `None`: there is none.
///
/// # Errors
/// I/O errors and damage.
pub fn allocate(tp: &mut Trans<'_>, request: &AllocRequest) -> Result<Option<Allocation>> {
    debug_assert!(request.min > 0 && request.min <= request.max && request.align > 0);
    let mut waited = false;
    loop {
        let mut busy = false;
        for effort in [Effort::Whole, Effort::Room, Effort::Least] {
            if let Some(found) = try_groups(tp, request, effort, &mut busy)? {
                return Ok(Some(found));
            }
        }
        // A file's contents had better be aligned, but need not.
        let somewhere = matches!(request.target, Target::Near(_) | Target::Anywhere(_));
        if somewhere && request.kind == Use::Data && request.align > 1 {
            let anywhere = AllocRequest { align: 1, ..*request };
            if let Some(found) = try_groups(tp, &anywhere, Effort::Least, &mut busy)? {
                return Ok(Some(found));
            }
        }
        // What was freed lately may do, once that is durable.
        if !busy || waited || !busy::flush(tp.mount())? {
            return Ok(None);
        }
        waited = true;
    }
}

fn try_groups(
    tp: &mut Trans<'_>,
    request: &AllocRequest,
    effort: Effort,
    busy: &mut bool,
) -> Result<Option<Allocation>> {
    let mount = tp.mount();
    let geometry = mount.geometry();
    let (Target::Near(block)
    | Target::InAg(block)
    | Target::Exact(block)
    | Target::Anywhere(block)) = request.target;
    let wanted = AgNumber(geometry.split(block).0.0.min(geometry.ag_count - 1));
    let only = matches!(request.target, Target::InAg(_) | Target::Exact(_));
    let first = match effort {
        Effort::Least if !only && geometry.ag_count > 1 => {
            // From the lowest on: whatever this transaction still wants lies higher.
            AgNumber(0)
        }
        Effort::Room if !only && request.kind == Use::Data => roomiest(tp, wanted),
        _ => wanted,
    };
    let groups = if only { 1 } else { geometry.ag_count };
    for i in 0..groups {
        let ag = AgNumber((first.0 + i) % geometry.ag_count);
        let summary = mount.space_of(ag);
        let promising = match effort {
            Effort::Whole => {
                let want = if request.kind == Use::Data { request.max } else { request.min };
                summary.longest >= want && summary.free >= request.total
            }
            // The summary may be about to change: only the group itself knows.
            Effort::Room | Effort::Least => true,
        };
        let special = request.reserve != AgReserve::None || only;
        if !promising && !special {
            continue;
        }
        let held = tp.holds_agf(ag);
        if !held && !lock(tp, ag, effort == Effort::Whole && ag != wanted) {
            continue;
        }
        match attempt(tp, ag, request, effort)? {
            Attempt::Found(found) => return Ok(Some(found)),
            Attempt::Nothing { busy: in_the_way, changed } => {
                *busy |= in_the_way;
                if !held && !changed {
                    tp.unlock_agf(ag);
                }
            }
        }
    }
    Ok(None)
}

/// Lock a group, if that cannot lead to a deadlock.
fn lock(tp: &mut Trans<'_>, ag: AgNumber, without_waiting: bool) -> bool {
    if without_waiting || tp.highest_agf().is_some_and(|highest| highest > ag) {
        return tp.try_lock_agf(ag);
    }
    tp.lock_agf(ag);
    true
}

/// The wanted group, unless another has much longer extents.
fn roomiest(tp: &Trans<'_>, wanted: AgNumber) -> AgNumber {
    let mount = tp.mount();
    let longest = |ag: &AgNumber| mount.space_of(*ag).longest;
    let all = (0..mount.geometry().ag_count).map(AgNumber);
    let best = all.max_by_key(longest).unwrap_or(wanted);
    if longest(&best) / 2 > longest(&wanted) { best } else { wanted }
}

/// Allocate in a locked group.
fn attempt(
    tp: &mut Trans<'_>,
    ag: AgNumber,
    request: &AllocRequest,
    effort: Effort,
) -> Result<Attempt> {
    let mount = tp.mount();
    let geometry = mount.geometry();
    let group = Group::open(tp, ag)?;
    group.space(mount).busy.settle(mount, ag);
    // What follows must come out of this very group, if this must.
    let only = matches!(request.target, Target::InAg(_) | Target::Exact(_));
    let further = match effort {
        Effort::Least if !only => 0,
        _ => request.total.saturating_sub(request.max),
    };
    let available = group.available(tp, request.reserve) - i64::from(further);
    let whole = effort == Effort::Whole && request.kind == Use::Data;
    let least = if whole { request.max } else { request.min };
    if available < i64::from(least) {
        return Ok(Attempt::Nothing { busy: false, changed: false });
    }
    let most = i64::from(request.max).min(available) as u32;
    let (Target::Near(block)
    | Target::InAg(block)
    | Target::Exact(block)
    | Target::Anywhere(block)) = request.target;
    let (target_ag, target) = geometry.split(block);
    let wanted = search::Wanted {
        min: request.min,
        max: most,
        align: request.align,
        unit: request.unit.max(1),
        rest: request.rest,
        kind: request.kind,
        near: (target_ag == ag && !matches!(request.target, Target::Anywhere(_)))
            .then_some(target.0),
        exact: matches!(request.target, Target::Exact(_)),
    };
    // Nothing is changed before it is clear that there is something.
    let enough = if whole { wanted.trim(most) } else { wanted.min };
    let mut found = search::find(tp, &group, &wanted)?;
    let mut changed = false;
    if found.best.is_some_and(|best| best.count >= enough) {
        changed = group.fix_list(tp)?;
        if changed {
            found = search::find(tp, &group, &wanted)?;
        }
    }
    let Some(best) = found.best.filter(|best| best.count >= enough) else {
        return Ok(Attempt::Nothing { busy: found.busy, changed });
    };
    group.take(tp, best.whole, best.start, best.count, found.by_block)?;
    let space = group.space(mount);
    if request.kind == Use::Metadata {
        space.busy.reused(best.start, best.count);
    }
    let start = AgBlock(best.start);
    rmap::insert_owner(tp, ag, start, best.count, &request.owner)?;
    let promised = match request.reserve {
        AgReserve::None => best.count,
        AgReserve::Metadata => space.metadata.take(best.count),
        AgReserve::Rmapbt => 0,
    };
    tp.blocks_allocated(promised.into());
    Ok(Attempt::Found(Allocation { block: geometry.fs_block(ag, start), count: best.count }))
}
