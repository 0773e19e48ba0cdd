//! From records to transactions: reading records, joining what was split over them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::area::LogArea;
use crate::error::Corruption;
use crate::xfs::log::head::{Ends, ReadLog, previous_cycle};
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::log_items::{OpHeader, TransactionHeader, item, item_start, op};
use crate::xfs::ondisk::log_record::{BLOCK_BYTES, Header, Lsn, MAGIC, MAX_RECORD_BYTES};
use crate::xfs::ondisk::{Check, Reason, be32, ensure};

/// Regions an item can have: the format, and every other chunk of the largest buffer.
const MAX_REGIONS: u16 = 257;
/// Blocks searched for a header at once.
const SEARCH_BLOCKS: u32 = 256;

/// The log is damaged at a place: the mount is refused.
pub(super) fn corrupt(at: Lsn, reason: impl Into<String>) -> MountError {
    MountError::Corrupt(Corruption {
        structure: "log",
        location: format!("record {}:{}", at.cycle(), at.block()),
        reason: reason.into(),
    })
}

/// A transaction, all of it.
#[derive(Debug)]
pub(super) struct Transaction {
    /// Where the record starts that it starts in.
    pub(super) lsn: Lsn,
    /// The record it was committed in.
    pub(super) committed: Lsn,
    /// Its header, as far as it was seen.
    header: Vec<u8>,
    bytes: Vec<u8>,
    /// Where each region ends.
    ends: Vec<usize>,
}

/// An item of a transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Its type.
    pub(super) kind: u16,
    first: usize,
    count: usize,
}

impl Transaction {
    const fn new(lsn: Lsn) -> Self {
        Self { lsn, committed: lsn, header: Vec::new(), bytes: Vec::new(), ends: Vec::new() }
    }
    fn append(&mut self, bytes: &[u8]) -> Result<(), MountError> {
        self.bytes.try_reserve(bytes.len()).map_err(|_| MountError::NoMemory)?;
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    /// Take up what an operation carries; `goes_on`: the rest of the last one.
    fn add(&mut self, data: &[u8], goes_on: bool) -> Result<Check, MountError> {
        if self.header.len() < TransactionHeader::BYTES {
            // The header comes first, and can itself be split.
            if self.header.len() + data.len() > TransactionHeader::BYTES {
                return Ok(Err(format!("a transaction header of {} bytes", data.len())));
            }
            self.header.extend_from_slice(data);
            return Ok(if self.header.len() == TransactionHeader::BYTES {
                TransactionHeader::decode(&self.header).map(|_| ())
            } else {
                Ok(())
            });
        }
        if data.is_empty() {
            return Ok(Ok(()));
        }
        self.append(data)?;
        match self.ends.last_mut().filter(|_| goes_on) {
            Some(end) => *end = self.bytes.len(),
            None if goes_on => return Ok(Err("it goes on with what never began".into())),
            None => {
                self.ends.try_reserve(1).map_err(|_| MountError::NoMemory)?;
                self.ends.push(self.bytes.len());
            }
        }
        Ok(Ok(()))
    }
    /// Region `i`.
    fn region(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }
    /// The regions of an item, its format first.
    pub(super) fn regions(&self, item: Item) -> impl Iterator<Item = &[u8]> {
        (item.first..item.first + item.count).map(|i| self.region(i))
    }
    /// The items in order.
    pub(super) fn items(&self) -> Check<Vec<Item>> {
        let mut items = Vec::new();
        let mut first = 0;
        while first < self.ends.len() {
            let (kind, count) = item_start(self.region(first))?;
            ensure!(
                (1..=MAX_REGIONS).contains(&count) && usize::from(count) <= self.ends.len() - first,
                "{} (type {kind:#06x}) of {count} regions",
                item::name(kind)
            );
            items.push(Item { kind, first, count: usize::from(count) });
            first += usize::from(count);
        }
        Ok(items)
    }
}

/// Why the log could not be walked to its end.
pub(super) enum WalkError {
    /// A record is damaged.
    Record {
        /// Where it starts, or should.
        at: Lsn,
        /// What is wrong.
        reason: Reason,
    },
    /// All else.
    Other(MountError),
}

impl From<MountError> for WalkError {
    fn from(e: MountError) -> Self {
        Self::Other(e)
    }
}

/// What a walk saw.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walked {
    pub(super) records: u64,
    pub(super) bytes: u64,
    pub(super) transactions: u64,
}

/// The part of the log from a tail to the head.
pub(super) struct Walk<'a> {
    log: &'a LogArea<'a>,
    head: Lsn,
    /// Transactions that have begun, by number.
    open: BTreeMap<u32, Transaction>,
    walked: Walked,
}

impl<'a> Walk<'a> {
    pub(super) const fn new(log: &'a LogArea<'a>, ends: &Ends) -> Self {
        let walked = Walked { records: 0, bytes: 0, transactions: 0 };
        Self { log, head: ends.head, open: BTreeMap::new(), walked }
    }
    /// Blocks from `block` up to the head.
    fn left(&self, block: u32) -> u32 {
        let blocks = self.log.blocks();
        match (self.head.block() + blocks - block) % blocks {
            0 => blocks,
            left => left,
        }
    }
    /// The position of `block`, which lies less than one lap before the head.
    fn lsn(&self, block: u32) -> Lsn {
        let cycle = if block >= self.head.block() {
            previous_cycle(self.head.cycle())
        } else {
            self.head.cycle()
        };
        Lsn::new(cycle, block)
    }
    /// Call `visit` for each committed transaction from the record at `tail` on, in order.
    pub(super) fn run(
        mut self,
        tail: Lsn,
        visit: &mut dyn FnMut(Transaction) -> Result<(), MountError>,
    ) -> Result<Walked, WalkError> {
        let mut block = tail.block();
        let mut left = self.left(block);
        while left > 0 {
            let at = self.lsn(block);
            let (header, record) = self.record(at, left)?;
            let start = header.header_bytes();
            let payload = &record[start..start + header.length as usize];
            self.operations(at, payload, header.operations, visit)?;
            self.walked.records += 1;
            self.walked.bytes += record.len() as u64;
            left -= header.blocks();
            block = (block + header.blocks()) % self.log.blocks();
        }
        Ok(self.walked)
    }
    /// Read and check the record at `at`, at most `left` blocks long.
    fn record(&self, at: Lsn, left: u32) -> Result<(Header, Vec<u8>), WalkError> {
        let bad = |reason: Reason| WalkError::Record { at, reason };
        let io = |e| WalkError::Other(MountError::from(e));
        let first = self.log.read(at.block(), 1).map_err(io)?;
        let header =
            Header::decode(&first, at.block(), self.log.blocks(), self.log.uuid()).map_err(bad)?;
        if header.lsn != at {
            return Err(bad(format!("it is of lap {}", header.lsn.cycle())));
        }
        if header.length > header.size && header.operations != 1 {
            return Err(bad(format!("{} bytes, buffers of {}", header.length, header.size)));
        }
        if header.blocks() > left {
            return Err(bad(format!("{} blocks, {left} up to the head", header.blocks())));
        }
        let mut record = self.log.read(at.block(), header.blocks()).map_err(io)?;
        if !header.checksum_fits(&record) {
            return Err(bad("bad checksum".into()));
        }
        header.unpack(&mut record);
        Ok((header, record))
    }
    fn operations(
        &mut self,
        at: Lsn,
        payload: &[u8],
        count: u32,
        visit: &mut dyn FnMut(Transaction) -> Result<(), MountError>,
    ) -> Result<(), MountError> {
        let mut rest = payload;
        for _ in 0..count {
            if rest.is_empty() {
                break;
            }
            let Some(header) = OpHeader::decode(rest) else {
                return Err(corrupt(at, format!("{} bytes of an operation", rest.len())));
            };
            let behind = &rest[OpHeader::BYTES..];
            let Some(data) = behind.get(..header.length as usize) else {
                let (length, left) = (header.length, behind.len());
                return Err(corrupt(at, format!("an operation of {length} bytes in {left}")));
            };
            rest = &behind[data.len()..];
            self.operation(at, &header, data, visit)?;
        }
        Ok(())
    }
    fn operation(
        &mut self,
        at: Lsn,
        header: &OpHeader,
        data: &[u8],
        visit: &mut dyn FnMut(Transaction) -> Result<(), MountError>,
    ) -> Result<(), MountError> {
        if header.client != op::CLIENT_TRANSACTION && header.client != op::CLIENT_LOG {
            return Err(corrupt(at, format!("an operation of client {:#x}", header.client)));
        }
        let number = header.transaction;
        if header.flags & op::START != 0 {
            // One of that number that was never committed is left from before a crash.
            self.open.insert(number, Transaction::new(at));
            return Ok(());
        }
        // What started before the tail was committed before it, too, or is not needed.
        let Some(transaction) = self.open.get_mut(&number) else { return Ok(()) };
        let goes_on = header.flags & op::WAS_CONTINUED != 0;
        let kind = header.flags & !(op::END | op::WAS_CONTINUED);
        match kind {
            0 | op::CONTINUE => transaction
                .add(data, goes_on)?
                .map_err(|reason| corrupt(at, format!("transaction {number:#x}: {reason}"))),
            op::COMMIT if !goes_on => {
                if let Some(mut transaction) = self.open.remove(&number) {
                    self.walked.transactions += 1;
                    transaction.committed = at;
                    visit(transaction)?;
                }
                Ok(())
            }
            op::UNMOUNT if !goes_on => {
                self.open.remove(&number);
                Ok(())
            }
            _ => Err(corrupt(at, format!("an operation with flags {:#x}", header.flags))),
        }
    }
    /// The position of the first header behind `from` and before the head.
    pub(super) fn header_after(&self, from: Lsn) -> Result<Option<Lsn>, MountError> {
        let blocks = self.log.blocks();
        let mut left = self.left(from.block()) - 1;
        let mut block = (from.block() + 1) % blocks;
        while left > 0 {
            let count = SEARCH_BLOCKS.min(left);
            let bytes = self.log.read(block, count)?;
            let found = bytes.chunks_exact(BLOCK_BYTES).position(|b| be32(b, 0) == Some(MAGIC));
            if let Some(i) = found {
                return Ok(Some(self.lsn((block + i as u32) % blocks)));
            }
            block = (block + count) % blocks;
            left -= count;
        }
        Ok(None)
    }
}

/// Can the record at `at` have been overwritten by the writes that were on their way to
/// `head`? They may have been torn, and did not get so far as to tell of a new tail.
pub(super) fn is_overwritten(log: &LogArea<'_>, ends: &Ends, at: Lsn) -> bool {
    let blocks = log.blocks();
    let ahead = (at.block() + blocks - ends.head.block()) % blocks;
    let buffers = ends.size.clamp(32 << 10, MAX_RECORD_BYTES);
    ahead < crate::xfs::log::head::RECORDS_IN_FLIGHT * buffers / BLOCK_BYTES as u32
}
