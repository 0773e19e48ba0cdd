//! The rest of recovery, for which the file system must be mounted: intents without
//! their end, staging extents of copy on write, inodes without a name.
//!
//! An intent is carried out by the same code that would have done so before the crash.
//! It holds the log's tail until its end is durable, so that another crash finds it
//! again.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::PendingIntent;
use crate::error::{Corruption, Error, Result};
use crate::xfs::alloc::Owner;
use crate::xfs::attr;
use crate::xfs::defer::{self, Deferred, IntentItem};
use crate::xfs::log::Log;
use crate::xfs::log::ail::Change;
use crate::xfs::log::item::{Item, Lsn};
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::log_intents::Intent;
use crate::xfs::refcount;

/// Blocks that mapping an extent may need: a split all the way up, and a new root.
const MAPPING_BLOCKS: u64 = 10;

/// Intents that hold the log's tail until they are finished.
pub(in crate::xfs) type Unfinished = Vec<(Arc<IntentItem>, PendingIntent)>;

/// Have what recovery found unfinished hold the log's tail, before anything is logged.
pub(in crate::xfs) fn hold(mount: &Mount, intents: Vec<PendingIntent>) -> Unfinished {
    let hold = |pending: PendingIntent| {
        let item = IntentItem::new(pending.id);
        if let Some(log) = mount.log() {
            log.insert_unfinished(item.clone(), Lsn(pending.lsn.0));
        }
        (item, pending)
    };
    intents.into_iter().map(hold).collect()
}

/// Finish what recovery found unfinished, in the order of the log.
///
/// # Errors
/// I/O errors, damage, no space. The file system is shut down then.
pub(in crate::xfs) fn finish(mount: &Mount, intents: Unfinished) -> Result<()> {
    let Some(log) = mount.log() else { return Ok(()) };
    let result = finish_all(mount, log, intents);
    if let Err(e) = &result {
        log::error!("xfs: recovery cannot be finished: {e}");
        mount.shut_down("recovery cannot be finished");
    }
    result
}

fn finish_all(mount: &Mount, log: &Arc<Log>, intents: Unfinished) -> Result<()> {
    let count = intents.len();
    for (item, pending) in intents {
        if let Intent::Attri(change) = &pending.intent {
            let change = attr::logged(change, &pending.regions, mount.geometry());
            let change = change.map_err(|reason| Corruption {
                structure: "log",
                location: format!("record {}:{}", pending.lsn.cycle(), pending.lsn.block()),
                reason,
            })?;
            attr::finish_change(mount, &item, &change)?;
            continue;
        }
        let operations = operations(&pending.intent);
        let maps = operations.iter().any(|op| matches!(op, Deferred::Bmap(_)));
        let blocks = if maps { MAPPING_BLOCKS } else { 0 };
        let reservation = mount.reservations().truncate;
        let mut tp = match mount.begin(reservation, blocks) {
            // What is unmapped needs none.
            Err(Error::NoSpace) => mount.begin(reservation, 0)?,
            tp => tp?,
        };
        defer::resume(&mut tp, item, operations)?;
        tp.commit(&mut [])?;
    }
    let leftover = refcount::free_leftovers(mount)?;
    mount.recover_unlinked()?;
    log.force_all()?;
    log::info!("xfs: finished {count} intents, freed {leftover} blocks staged for copy on write");
    Ok(())
}

fn operations(intent: &Intent) -> Vec<Deferred> {
    match intent {
        Intent::Efi(extents) => extents
            .iter()
            .map(|e| Deferred::Free { block: e.start, count: e.blocks, owner: Owner::Any })
            .collect(),
        Intent::Rui(extents) => extents.iter().map(|e| Deferred::Rmap(*e)).collect(),
        Intent::Cui(extents) => extents.iter().map(|e| Deferred::Refcount(*e)).collect(),
        Intent::Bui(extents) => extents.iter().map(|e| Deferred::Bmap(*e)).collect(),
        // Attributes are changed at once; the first pass has refused exchanges.
        Intent::Attri(_) | Intent::Xmi(_) => Vec::new(),
    }
}

impl Log {
    /// Have an intent that recovery found hold the tail.
    fn insert_unfinished(&self, item: Arc<IntentItem>, lsn: Lsn) {
        let mut gone = Vec::new();
        let mut changes = alloc::vec![Change::Put(lsn, item.key(), item)];
        self.ail.apply(&mut changes, &mut gone);
    }
}
