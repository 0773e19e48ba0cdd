//! Transactions: changes of metadata that happen all or not at all.
//!
//! ```text
//! begin(reservation, blocks)   log space and blocks are promised, or nothing happens
//!   lock inodes, groups        ILOCK, AGI, AGF
//!   edit(), log_inode()        changed in memory, pinned, marked
//!   defer(op)                  what has to follow, each under an intent
//! commit(inodes)               deferred operations run; what changed goes to the log's CIL
//! ```
//!
//! A commit is not durable before the log was forced up to it, but it is ordered: no
//! later commit can be durable without it.
//!
//! An operation that fails after it changed something cannot be taken back: the file
//! system shuts down, and replay of the log gives the state before. So whatever can fail
//! is done first.
//!
//! Locks: a transaction holds its groups' locks until it commits or rolls; inodes are
//! locked by the caller, who passes them to be logged.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_sync::MutexGuard;

use super::buf::{Buffer, Run};
use super::buf_item::Edit;
use super::defer::{Deferred, IntentItem};
use super::inode::Inode;
use super::inode_item::{LockedInode, LogFields};
use super::log::item::{CommitSeq, Item, ItemKey, Journal, LogItem, Lsn, Pushed, Vectors};
use super::log::{Log, Ticket};
use super::mount::Mount;
use super::ondisk::block::BlockKind;
use super::ondisk::log_intents::{Done, Intent};
use super::ondisk::log_items::IcreateFormat;
use super::reservation::Reservation;
use super::types::{AgNumber, FsBlock, Ino, Timestamp};
use crate::block::{Plug, Sector};
use crate::error::{Error, Result};

/// Blocks that a transaction changes, and items it logs, mostly no more than these.
const USUAL_BUFFERS: usize = 8;
const USUAL_ITEMS: usize = 12;

/// Groups locked: mostly one.
#[derive(Default)]
struct Held<'m> {
    one: Option<(AgNumber, MutexGuard<'m, ()>)>,
    more: Vec<(AgNumber, MutexGuard<'m, ()>)>,
}

impl<'m> Held<'m> {
    fn groups(&self) -> impl Iterator<Item = AgNumber> {
        self.one.iter().chain(&self.more).map(|(ag, _)| *ag)
    }
    fn has(&self, ag: AgNumber) -> bool {
        self.groups().any(|held| held == ag)
    }
    fn add(&mut self, ag: AgNumber, guard: MutexGuard<'m, ()>) {
        match &mut self.one {
            free @ None => *free = Some((ag, guard)),
            Some(_) => self.more.push((ag, guard)),
        }
    }
    fn unlock(&mut self, ag: AgNumber) {
        if self.one.as_ref().is_some_and(|(held, _)| *held == ag) {
            self.one = None;
        }
        self.more.retain(|(held, _)| *held != ag);
    }
    fn clear(&mut self) {
        self.one = None;
        self.more.clear();
    }
}

type Hook = Box<dyn FnOnce(CommitSeq) + Send>;

/// A transaction.
pub struct Trans<'m> {
    mount: &'m Mount,
    ticket: Option<Ticket>,
    buffers: Vec<Arc<Buffer>>,
    items: Vec<LogItem>,
    inodes: Vec<(Arc<Inode>, LogFields)>,
    agis: Held<'m>,
    agfs: Held<'m>,
    pub(super) deferred: VecDeque<Deferred>,
    hooks: Vec<Hook>,
    blocks_reserved: u64,
    blocks_freed: u64,
    inodes_delta: (i64, i64),
    /// See [`Trans::is_short`].
    short: bool,
}

impl Mount {
    /// Start a transaction that needs at most this much log, and `blocks` blocks.
    ///
    /// # Errors
    /// Mounted read-only, shut down, no space.
    pub fn begin(&self, reservation: Reservation, blocks: u64) -> Result<Trans<'_>> {
        let log = self.writable()?;
        self.counters().reserve(blocks)?;
        self.start_transaction(log, reservation, blocks, false)
    }
    /// Start a transaction that has to work on a full file system, or may: `blocks` are
    /// reserved for it or, if there are not so many, `least` from those that are never
    /// promised. [`Trans::is_short`] then.
    ///
    /// # Errors
    /// As [`Mount::begin`], but for a lack of space.
    pub(super) fn begin_or_full(
        &self,
        reservation: Reservation,
        blocks: u64,
        least: u64,
    ) -> Result<Trans<'_>> {
        let log = self.writable()?;
        let short = self.counters().reserve(blocks).is_err();
        if short {
            self.counters().withhold(least);
        }
        self.start_transaction(log, reservation, if short { least } else { blocks }, short)
    }
    fn writable(&self) -> Result<&Log> {
        match self.log() {
            Some(log) => Ok(log),
            None => Err(Error::ReadOnly("the file system is mounted read-only")),
        }
    }
    /// Start a transaction to which `blocks` are promised.
    fn start_transaction(
        &self,
        log: &Log,
        reservation: Reservation,
        blocks: u64,
        short: bool,
    ) -> Result<Trans<'_>> {
        let room = if self.buffers().is_full() { self.make_room(log) } else { Ok(()) };
        let ticket = room
            .and_then(|()| log.reserve(reservation))
            .inspect_err(|_| self.counters().give_back(blocks))?;
        Ok(Trans {
            mount: self,
            ticket: Some(ticket),
            buffers: Vec::with_capacity(USUAL_BUFFERS),
            items: Vec::with_capacity(USUAL_ITEMS),
            inodes: Vec::new(),
            agis: Held::default(),
            agfs: Held::default(),
            deferred: VecDeque::new(),
            hooks: Vec::new(),
            blocks_reserved: blocks,
            blocks_freed: 0,
            inodes_delta: (0, 0),
            short,
        })
    }
    /// The cache is full of blocks that are logged and not in place: write some of them.
    #[cold]
    fn make_room(&self, log: &Log) -> Result<()> {
        let buffers = self.buffers();
        log.make_room(|| buffers.has_no_room())?;
        buffers.made_room();
        Ok(())
    }
}

impl<'m> Trans<'m> {
    /// The file system.
    pub fn mount(&self) -> &'m Mount {
        self.mount
    }
    /// Were there fewer blocks than it asked for? Then it has none but those that it may
    /// need for a while.
    pub const fn is_short(&self) -> bool {
        self.short
    }
    /// Was anything changed?
    pub fn is_dirty(&self) -> bool {
        !self.buffers.is_empty() || !self.items.is_empty() || !self.deferred.is_empty()
    }
    /// The time of day, as inodes keep it.
    pub fn now(&self) -> Timestamp {
        self.mount.now()
    }

    // ---- metadata blocks

    /// The block at `sector`, verified as one of `kind`.
    ///
    /// # Errors
    /// I/O errors, damage, no memory.
    pub fn read(&mut self, sector: Sector, bytes: u32, kind: BlockKind) -> Result<Arc<Buffer>> {
        self.read_runs(&[Run { sector, bytes }], &[kind])
    }
    /// The block at `runs`, verified as one of `kinds`.
    ///
    /// # Errors
    /// As [`Trans::read`].
    pub fn read_runs(&mut self, runs: &[Run], kinds: &[BlockKind]) -> Result<Arc<Buffer>> {
        self.mount.buffers().read(runs, kinds)
    }
    /// One block of the file system, verified as one of `kind`.
    ///
    /// # Errors
    /// As [`Trans::read`].
    pub fn read_block(&mut self, block: FsBlock, kind: BlockKind) -> Result<Arc<Buffer>> {
        self.read_runs(&[self.run(block)], &[kind])
    }
    fn run(&self, block: FsBlock) -> Run {
        let geometry = self.mount.geometry();
        Run { sector: geometry.sector(block), bytes: geometry.block_bytes() as u32 }
    }
    /// A new block at `sector`, all zeros; the caller fills it by [`Trans::edit`].
    ///
    /// # Errors
    /// No memory.
    pub fn create(&mut self, sector: Sector, bytes: u32, kind: BlockKind) -> Result<Arc<Buffer>> {
        self.create_runs(&[Run { sector, bytes }], kind)
    }
    /// A new block at `runs`, all zeros.
    ///
    /// # Errors
    /// No memory.
    pub fn create_runs(&mut self, runs: &[Run], kind: BlockKind) -> Result<Arc<Buffer>> {
        let buffer = self.mount.buffers().create(runs, kind)?;
        self.join(&buffer);
        Ok(buffer)
    }
    /// A new block of the file system, all zeros.
    ///
    /// # Errors
    /// No memory.
    pub fn create_block(&mut self, block: FsBlock, kind: BlockKind) -> Result<Arc<Buffer>> {
        self.create_runs(&[self.run(block)], kind)
    }
    fn join(&mut self, buffer: &Arc<Buffer>) {
        if !self.buffers.iter().any(|b| Arc::ptr_eq(b, buffer)) {
            buffer.pin_for_transaction();
            self.buffers.push(buffer.clone());
        }
    }
    /// Change a block. Its contents are locked as long as the result lives, which must
    /// not be across a commit or a roll.
    pub fn edit<'b>(&mut self, buffer: &'b Arc<Buffer>) -> Edit<'b> {
        self.join(buffer);
        Edit::new(buffer)
    }
    /// The block's space is freed: it is never written again, and replay leaves it alone.
    pub fn invalidate(&mut self, buffer: &Arc<Buffer>) {
        self.join(buffer);
        buffer.make_stale();
    }
    /// The block's contents follow from an ICREATE of this transaction: they are not
    /// logged, but written before the log forgets the transaction.
    pub fn order(&mut self, buffer: &Arc<Buffer>) {
        self.join(buffer);
        buffer.make_ordered();
    }
    /// Replay shall take only links of unlinked lists from this cluster of inodes.
    pub fn set_inode_buffer(&mut self, buffer: &Arc<Buffer>) {
        self.join(buffer);
        buffer.log_as_inode_links();
    }

    // ---- inodes

    /// Log what changed of an inode, as it is now.
    pub fn log_inode(&mut self, inode: &mut LockedInode<'_>) {
        let Some((item, vectors, changed)) = inode.format() else { return };
        let key = item.key();
        match self.items.iter_mut().find(|i| i.item.key() == key) {
            Some(earlier) => earlier.vectors = vectors,
            None => self.items.push(LogItem { item: item.clone(), vectors }),
        }
        match self.inodes.iter_mut().find(|(i, _)| Arc::ptr_eq(i, &item)) {
            Some((_, fields)) => *fields |= changed,
            None => self.inodes.push((item, changed)),
        }
    }
    /// The cluster of these inodes is freed: what is logged of them is never written in
    /// place. They are free already, or are freed by this transaction.
    pub fn forget_inodes(&mut self, first: Ino, count: u64) {
        for inode in self.mount.inodes_in(first, count) {
            if inode.make_stale() {
                self.items.push(LogItem { item: inode, vectors: Vectors::new() });
            }
        }
    }

    // ---- allocation groups

    /// Lock a group's space until the commit.
    ///
    /// # Panics
    /// There is no such group.
    pub fn lock_agf(&mut self, ag: AgNumber) {
        if !self.holds_agf(ag) {
            self.agfs.add(ag, self.mount.perags[ag.0 as usize].agf.lock());
        }
    }
    /// Lock a group's space if that needs no waiting.
    ///
    /// # Panics
    /// There is no such group.
    pub fn try_lock_agf(&mut self, ag: AgNumber) -> bool {
        if !self.holds_agf(ag) {
            let Some(guard) = self.mount.perags[ag.0 as usize].agf.try_lock() else { return false };
            self.agfs.add(ag, guard);
        }
        true
    }
    /// Does this transaction hold the group's space locked?
    pub fn holds_agf(&self, ag: AgNumber) -> bool {
        self.agfs.has(ag)
    }
    /// The highest group whose space this transaction holds locked.
    pub fn highest_agf(&self) -> Option<AgNumber> {
        self.agfs.groups().max()
    }
    /// Unlock a group's space in which nothing was changed.
    pub fn unlock_agf(&mut self, ag: AgNumber) {
        self.agfs.unlock(ag);
    }
    /// Lock a group's inodes until the commit.
    ///
    /// # Panics
    /// There is no such group.
    pub fn lock_agi(&mut self, ag: AgNumber) {
        if !self.holds_agi(ag) {
            self.agis.add(ag, self.mount.perags[ag.0 as usize].agi.lock());
        }
    }
    /// Lock a group's inodes if that needs no waiting.
    ///
    /// # Panics
    /// There is no such group.
    pub fn try_lock_agi(&mut self, ag: AgNumber) -> bool {
        if !self.holds_agi(ag) {
            let Some(guard) = self.mount.perags[ag.0 as usize].agi.try_lock() else { return false };
            self.agis.add(ag, guard);
        }
        true
    }
    /// Does this transaction hold the group's inodes locked?
    pub fn holds_agi(&self, ag: AgNumber) -> bool {
        self.agis.has(ag)
    }
    /// Unlock a group's inodes in which nothing was changed.
    pub fn unlock_agi(&mut self, ag: AgNumber) {
        self.agis.unlock(ag);
    }

    // ---- accounting

    /// Blocks were allocated: they come from what was promised to this transaction.
    pub fn blocks_allocated(&mut self, blocks: u64) {
        if blocks > self.blocks_reserved {
            // More than was promised. The blocks are gone; so must be the promise.
            log::error!(
                "xfs: {blocks} blocks allocated, {} reserved for the transaction",
                self.blocks_reserved
            );
            debug_assert!(false, "{blocks} blocks allocated, {} reserved", self.blocks_reserved);
            self.mount.counters().withhold(blocks - self.blocks_reserved);
        }
        self.blocks_reserved = self.blocks_reserved.saturating_sub(blocks);
    }
    /// Blocks were freed: they can be promised again after the commit.
    pub fn blocks_freed(&mut self, blocks: u64) {
        self.blocks_freed += blocks;
    }
    /// Blocks promised to somebody else are this transaction's now.
    pub fn add_reserved(&mut self, blocks: u64) {
        self.blocks_reserved += blocks;
    }
    /// Take back part of what was promised to this transaction.
    pub fn take_reserved(&mut self, blocks: u64) -> u64 {
        let taken = blocks.min(self.blocks_reserved);
        self.blocks_reserved -= taken;
        taken
    }
    /// What is still promised to this transaction.
    pub const fn reserved(&self) -> u64 {
        self.blocks_reserved
    }
    /// Inodes and free inodes changed.
    pub fn inodes_changed(&mut self, all: i64, free: i64) {
        self.inodes_delta.0 += all;
        self.inodes_delta.1 += free;
    }

    // ---- what has no place but the log

    /// New inodes: replay initialises them from this.
    pub fn log_icreate(&mut self, icreate: &IcreateFormat) {
        let geometry = self.mount.geometry();
        let sector = geometry.ag_sector(AgNumber(icreate.ag), super::types::AgBlock(icreate.block));
        let mut vectors = Vectors::with_capacity(IcreateFormat::BYTES, 1);
        vectors.push_with(|out| icreate.encode(out));
        let item = Arc::new(Once(ItemKey::Icreate(sector.0)));
        self.items.push(LogItem { item, vectors });
    }
    /// What has to be done after this transaction, whatever happens.
    pub fn log_intent(&mut self, intent: &Intent) -> Arc<IntentItem> {
        let item = IntentItem::new(self.mount.next_intent_id());
        let mut vectors = Vectors::new();
        vectors.push_with(|out| intent.encode(item.id(), out));
        self.items.push(LogItem { item: item.clone(), vectors });
        item
    }
    /// An intent was carried out by this transaction.
    pub fn log_done(&mut self, intent: &IntentItem, done: &Done) {
        let mut vectors = Vectors::new();
        vectors.push_with(|out| done.encode(intent.id(), out));
        let item = Arc::new(Once(ItemKey::Done(intent.id())));
        self.items.push(LogItem { item, vectors });
    }
    /// Do this after the transaction, in one of its own, under an intent.
    pub fn defer(&mut self, op: Deferred) {
        self.deferred.push_back(op);
    }
    /// Call this when the transaction is committed.
    pub fn at_commit(&mut self, hook: impl FnOnce(CommitSeq) + Send + 'static) {
        self.hooks.push(Box::new(hook));
    }

    // ---- the end

    /// Commit what was changed so far and go on in a new transaction under the same
    /// reservation. Groups are unlocked, inodes stay locked.
    ///
    /// # Errors
    /// Shut down.
    pub fn roll(&mut self, inodes: &mut [&mut LockedInode<'_>]) -> Result<()> {
        let Some(log) = self.mount.log() else { return Err(Error::Shutdown) };
        // The next step may wait for log space, and nobody can write a locked inode in
        // place: it must not be what keeps the log's tail.
        let tight = log.is_tight();
        for inode in inodes.iter_mut() {
            if tight && inode.inode().is_logged() || log.is_old(&inode.inode().key()) {
                inode.mark(LogFields::CORE);
            }
        }
        self.commit_step(inodes)?;
        if self.mount.buffers().is_full() {
            self.mount.make_room(log)?;
        }
        match &mut self.ticket {
            Some(ticket) => log.regrant(ticket),
            None => Err(Error::Shutdown),
        }
    }
    /// Run all deferred operations.
    ///
    /// # Errors
    /// I/O errors, damage, shut down.
    pub fn finish(&mut self, inodes: &mut [&mut LockedInode<'_>]) -> Result<()> {
        if self.deferred.is_empty() { Ok(()) } else { super::defer::finish(self, inodes) }
    }
    /// Run all deferred operations and commit. Durable once the log is forced up to the
    /// result.
    ///
    /// # Errors
    /// I/O errors, damage, shut down: then the file system is shut down.
    pub fn commit(mut self, inodes: &mut [&mut LockedInode<'_>]) -> Result<CommitSeq> {
        self.finish(inodes)?;
        self.commit_step(inodes)
    }
    fn commit_step(&mut self, inodes: &mut [&mut LockedInode<'_>]) -> Result<CommitSeq> {
        for inode in inodes.iter_mut() {
            self.log_inode(inode);
        }
        let Some(log) = self.mount.log() else { return Err(Error::Shutdown) };
        if log.is_shut_down() {
            return Err(Error::Shutdown);
        }
        let Some(ticket) = &mut self.ticket else { return Err(Error::Shutdown) };
        let mut seq = CommitSeq::default();
        if !self.buffers.is_empty() || !self.items.is_empty() {
            let mut items = core::mem::take(&mut self.items);
            items.reserve(self.buffers.len());
            let collecting = log.collecting();
            for buffer in &self.buffers {
                items.push(LogItem { item: buffer.clone(), vectors: buffer.format(collecting) });
            }
            seq = log.commit(ticket, items)?;
        }
        for (inode, changed) in self.inodes.drain(..) {
            inode.note_commit(seq, changed);
        }
        for buffer in self.buffers.drain(..) {
            buffer.unpin();
        }
        self.apply_counters();
        for hook in self.hooks.drain(..) {
            hook(seq);
        }
        self.agfs.clear();
        self.agis.clear();
        Ok(seq)
    }
    fn apply_counters(&mut self) {
        let counters = self.mount.counters();
        counters.give_back(core::mem::take(&mut self.blocks_freed));
        let (all, free) = core::mem::take(&mut self.inodes_delta);
        counters.inodes_changed(all, free);
    }
    /// Give everything back. If something was changed the file system shuts down.
    pub fn cancel(self) {}
}

impl Drop for Trans<'_> {
    fn drop(&mut self) {
        let Some(log) = self.mount.log() else { return };
        if self.is_dirty() && !log.is_shut_down() {
            log.shut_down("a transaction failed after it had changed something");
        }
        for buffer in self.buffers.drain(..) {
            buffer.unpin();
        }
        self.mount.counters().give_back(self.blocks_reserved);
        if let Some(ticket) = self.ticket.take() {
            log.release(ticket);
        }
    }
}

/// An item that is logged once and needs no place on disk: new inodes, the end of an intent.
struct Once(ItemKey);

impl Item for Once {
    fn key(&self) -> ItemKey {
        self.0
    }
    fn pin(&self) {}
    fn unpin(&self) {}
    fn committed(&self, _: Lsn) -> Option<Lsn> {
        None
    }
    fn push(self: Arc<Self>, _: &mut Plug<'_>) -> Result<Pushed> {
        Ok(Pushed::Waiting)
    }
    fn ends_intent(&self) -> Option<u64> {
        match self.0 {
            ItemKey::Done(intent) => Some(intent),
            _ => None,
        }
    }
}
