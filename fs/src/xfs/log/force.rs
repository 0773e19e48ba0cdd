//! Making commits durable: checkpoints, who writes them, who waits for them.
//!
//! ```text
//! thread 1   commit ── force ── writes checkpoint 7 ─────────┐
//! thread 2          commit ── force ── waits ───────────────┐├ writes checkpoint 8
//! thread 3              commit ── force ── waits ───────────┘└ ... served with it
//! ```
//! Whoever finds nobody writing writes, for all who have committed by then. When several
//! threads force at the same time, a writer waits a moment for the others to come along:
//! as many as the last checkpoint served, and about as long as that took.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::{replace, swap, take};

use holdfast_sync::atomic::{AtomicU64, Ordering};
use holdfast_sync::check;
use holdfast_sync::time::now_ns;

use super::Log;
use super::ail::Change;
use super::checkpoint::Packer;
use super::cil::Context;
use super::item::{CommitSeq, Item, ItemKey, Journal, Lsn};
use super::writer::Writer;
use crate::error::{Error, Result};
use crate::locks;

/// What whoever writes a checkpoint works with.
pub(super) struct Pen {
    pub(super) writer: Writer,
    /// Room for a record.
    record: Vec<u8>,
    /// The context written before, to be used again.
    spare: Context,
    /// Where items are in the AIL when a checkpoint is durable.
    changes: Vec<Change>,
    /// Items that left the AIL.
    gone: Vec<Arc<dyn Item>>,
    /// Numbers checkpoints in the log.
    transaction: u32,
}

impl Pen {
    pub(super) fn new(writer: Writer) -> Result<Self> {
        let mut record = Vec::new();
        record.try_reserve_exact(writer.layout.record_bytes()).map_err(|_| Error::NoMemory)?;
        // A checkpoint that a crash cut off may still lie between tail and head. Linux
        // refuses a log in which another of its number starts.
        let head = writer.head();
        let place = head.block() ^ head.cycle().rotate_left(16);
        let transaction = place.wrapping_mul(0x9e37_79b1);
        Ok(Self {
            writer,
            record,
            spare: Context::new(CommitSeq(0)),
            changes: Vec::new(),
            gone: Vec::new(),
            transaction,
        })
    }
}

/// The longest wait for others who want to share a checkpoint.
const COMPANIONS_NS: u64 = 4_000_000;

impl Log {
    /// The newest commit that is durable, with all before it.
    pub fn durable_seq(&self) -> CommitSeq {
        CommitSeq(self.durable.load(Ordering::SeqCst))
    }
    /// Make everything durable that was committed up to `upto`: at most one write to the
    /// log, shared with others who wait; nothing if it is durable already.
    ///
    /// # Errors
    /// The log was shut down.
    pub fn force(&self, upto: CommitSeq) -> Result<()> {
        if self.is_shut_down() {
            self.let_go();
            return Err(Error::Shutdown);
        }
        if self.durable_seq() >= upto {
            return Ok(());
        }
        check::before(&locks::LOG_PUSH);
        self.counters.forces(1);
        self.waiting_for(upto).fetch_add(1, Ordering::SeqCst);
        self.arrived.wake_all();
        self.force_or_wait(upto)
    }
    /// How many came to wait for a checkpoint that is not durable: the one being written
    /// or the next.
    fn waiting_for(&self, seq: CommitSeq) -> &AtomicU64 {
        &self.forcing[(seq.0 & 1) as usize]
    }
    fn force_or_wait(&self, upto: CommitSeq) -> Result<()> {
        let mut wrote = false;
        loop {
            if self.is_shut_down() {
                self.let_go();
                return Err(Error::Shutdown);
            }
            if self.durable_seq() >= upto {
                self.counters.forces_shared(u64::from(!wrote));
                return Ok(());
            }
            if !self.writing.swap(true, Ordering::SeqCst) {
                // Somebody may have been done just before.
                let needed = self.durable_seq() < upto;
                let result = if needed { self.write_for_all() } else { Ok(true) };
                self.end_writing();
                wrote |= needed;
                if result == Ok(false) {
                    // Nothing was ever committed under that number.
                    return Ok(());
                }
                continue;
            }
            self.written.wait_until(|| {
                let over = self.durable_seq() >= upto
                    || self.is_shut_down()
                    || !self.writing.load(Ordering::SeqCst);
                over.then_some(())
            });
        }
    }
    /// Write a checkpoint, for this thread and those who come along.
    fn write_for_all(&self) -> Result<bool> {
        let next = CommitSeq(self.durable_seq().0 + 1);
        let here = || self.waiting_for(next).load(Ordering::SeqCst);
        let expected = self.companions.load(Ordering::Relaxed);
        if here() < expected {
            let patience = self.write_ns.load(Ordering::Relaxed) * 2;
            let all = || (here() >= expected).then_some(());
            self.arrived.wait_timeout(patience.min(COMPANIONS_NS), all);
        }
        let start = now_ns();
        let result = self.write_checkpoint(false);
        self.write_ns.store(now_ns() - start, Ordering::Relaxed);
        result
    }
    fn end_writing(&self) {
        self.writing.store(false, Ordering::SeqCst);
        self.written.wake_all();
    }
    /// Make everything durable that was committed so far.
    ///
    /// # Errors
    /// The log was shut down.
    pub fn force_all(&self) -> Result<()> {
        let upto = {
            let cil = self.cil.lock();
            if cil.is_empty() { CommitSeq(cil.seq.0 - 1) } else { cil.seq }
        };
        self.force(upto)
    }
    /// Write a checkpoint even if nothing was committed: its record states the tail.
    ///
    /// # Errors
    /// The log was shut down.
    pub(super) fn write_tail(&self) -> Result<()> {
        while self.writing.swap(true, Ordering::SeqCst) {
            self.written.wait_until(|| (!self.writing.load(Ordering::SeqCst)).then_some(()));
        }
        let result = self.write_checkpoint(true);
        self.end_writing();
        result.map(|_| ())
    }
    /// Write what is in the CIL, if there is anything or it shall be written nevertheless.
    /// The caller alone does this now.
    fn write_checkpoint(&self, even_empty: bool) -> Result<bool> {
        let mut pen = self.pen.lock();
        let Some(mut context) = self.take_context(&mut pen, even_empty)? else { return Ok(false) };
        let result = self.write_context(&mut pen, &context);
        match &result {
            Ok(lsn) => self.checkpoint_durable(&mut pen, &context, *lsn),
            Err(e) => {
                self.shut_down(&alloc::format!("the log cannot be written: {e}"));
                unpin(&context);
            }
        }
        let mut gone = take(&mut pen.gone);
        drop(pen);
        // This may be the end of items, which may need locks that come before ours.
        gone.clear();
        context.recycle(CommitSeq(0));
        let mut pen = self.pen.lock();
        pen.spare = context;
        pen.gone = gone;
        if self.has_thread() && self.target().is_some() {
            self.kick();
        }
        result.map(|_| true).map_err(|_| Error::Shutdown)
    }
    /// What was collected; from now on the next checkpoint collects.
    fn take_context(&self, pen: &mut Pen, even_empty: bool) -> Result<Option<Context>> {
        let mut cil = self.cil.lock();
        // Under the lock: after a shutdown what was collected may be gone already. It would
        // seem never to have been there, and its commits to be durable.
        if self.is_shut_down() {
            return Err(Error::Shutdown);
        }
        if cil.is_empty() && !even_empty {
            return Ok(None);
        }
        let next = CommitSeq(cil.seq.0 + 1);
        let mut context = replace(&mut pen.spare, Context::new(CommitSeq(0)));
        context.recycle(next);
        swap(&mut *cil, &mut context);
        self.collecting.store(next.0, Ordering::Release);
        self.space.writing();
        self.cil_bytes.store(0, Ordering::Relaxed);
        Ok(Some(context))
    }
    /// Records of a checkpoint to the device. Returns where it starts.
    fn write_context(&self, pen: &mut Pen, context: &Context) -> Result<Lsn> {
        // The tail before the flush: what was written in place up to it is then durable.
        let start = pen.writer.begin(self.ail.tail())?;
        pen.transaction = pen.transaction.wrapping_add(1);
        Packer::new(&self.layout, &mut pen.record, pen.transaction, &mut pen.writer)
            .checkpoint(context)?;
        pen.writer.finish()?;
        self.counters.checkpoints(1);
        self.counters.empty_checkpoints(u64::from(context.is_empty()));
        self.counters.transactions(context.transactions);
        self.counters.item_bytes(context.bytes());
        Ok(start)
    }
    /// A checkpoint that starts at `lsn` is durable: its items go to the AIL.
    fn checkpoint_durable(&self, pen: &mut Pen, context: &Context, lsn: Lsn) {
        for slot in context.slots.iter().filter(|s| !s.left_out) {
            pen.changes.push(match slot.item.committed(lsn) {
                Some(at) => Change::Put(at, slot.key, slot.item.clone()),
                None => Change::Remove(slot.key),
            });
            if let Some(id) = slot.item.ends_intent() {
                pen.changes.push(Change::Remove(ItemKey::Intent(id)));
            }
        }
        self.ail.apply(&mut pen.changes, &mut pen.gone);
        // Only now may they be written in place: their position is known.
        unpin(context);
        self.head.store(pen.writer.head().0, Ordering::SeqCst);
        self.durable_tail.store(pen.writer.tail().0, Ordering::SeqCst);
        // Those who were served are likely to be back, and those who came meanwhile wait.
        let served = self.waiting_for(context.seq).swap(0, Ordering::SeqCst);
        let waiting = self.waiting_for(CommitSeq(context.seq.0 + 1)).load(Ordering::SeqCst);
        self.companions.store(served + waiting, Ordering::Relaxed);
        self.durable.store(context.seq.0, Ordering::SeqCst);
        self.space.written(pen.writer.used_bytes());
    }
    /// The record that says that the file system was unmounted and nothing has to be
    /// replayed. Everything was written in place before, by [`Log::push_all`].
    ///
    /// # Errors
    /// The log was shut down, or something is not in place.
    pub fn unmount_record(&self) -> Result<()> {
        let mut pen = self.pen.lock();
        if self.is_shut_down() {
            return Err(Error::Shutdown);
        }
        if self.ail.tail().is_some() || !self.cil.lock().is_empty() {
            return Err(Error::Busy);
        }
        let Pen { writer, record, transaction, .. } = &mut *pen;
        let result = writer.begin(None).and_then(|_| {
            Packer::new(&self.layout, record, *transaction + 1, writer).unmount()?;
            writer.finish()
        });
        if let Err(e) = result {
            self.shut_down(&alloc::format!("the log cannot be written: {e}"));
            return Err(Error::Shutdown);
        }
        self.head.store(pen.writer.head().0, Ordering::SeqCst);
        self.durable_tail.store(pen.writer.tail().0, Ordering::SeqCst);
        self.space.written(pen.writer.used_bytes());
        Ok(())
    }
    /// After a shutdown: let go of what is neither written nor in place.
    pub(super) fn let_go(&self) {
        let context = {
            let mut cil = self.cil.lock();
            let seq = cil.seq;
            replace(&mut *cil, Context::new(seq))
        };
        unpin(&context);
        self.ail.clear();
    }
}

/// Undo the pins of a checkpoint's items.
fn unpin(context: &Context) {
    for slot in &context.slots {
        slot.item.unpin();
    }
    for item in &context.displaced {
        item.unpin();
    }
}
