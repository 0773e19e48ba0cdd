//! Finding the log's head: where the next record goes, and what the last ones say.
//!
//! Every block carries the number of the lap it was written in. Going up from block 0
//! the lap is at first the current one and, from the head on, the one before (or 0, if
//! the log never was full):
//!
//! ```text
//! block     0 . . . . . head . . . . . . end
//! lap       7 7 7 7 7 7 | 6 6 6 6 6 6 6 6
//! ```
//! 1. Bisection finds such a place. If first and last block are of the same lap, the
//!    last write ended at the end of the ring.
//! 2. Requests may reach the device in any order, so after a crash the blocks before
//!    that place can have gaps of the lap before, as far back as records can have been
//!    on their way at once. The first gap is the head.
//! 3. The record that ends there may have been cut off: then the head is its start.
//! 4. The last records' checksums are looked at. From the first that does not fit on
//!    everything was still on its way and never acknowledged: the head is its start.
//!
//! An unmount record is written only when everything before it is durable, in the log
//! and in place. If the bisection ends right behind a good one, nothing else need be
//! looked at: what lies behind a gap after it was never complete, and nothing of it has
//! reached its place.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use uuid::Uuid;

use super::LogDevice;
use crate::xfs::buf::ReadError;
use crate::xfs::ondisk::log_record::{
    BLOCK_BYTES, Header, Lsn, MAGIC, MAX_RECORD_BYTES, OP_UNMOUNT, OpView, cycle_of, next_cycle,
};
use crate::xfs::ondisk::{Reason, be32};

/// Blocks of the greatest record with its headers, rounded up to a stripe unit.
const RECORD_BLOCKS: u32 = 2 * MAX_RECORD_BYTES / BLOCK_BYTES as u32 + 8;
/// Records that can be on their way to the device at once.
pub const RECORDS_IN_FLIGHT: u32 = 8;
/// Blocks that can be on their way at once.
pub const BLOCKS_IN_FLIGHT: u32 = RECORDS_IN_FLIGHT * MAX_RECORD_BYTES / BLOCK_BYTES as u32;
/// Blocks read at once to look at their laps.
const LOOK_BLOCKS: u32 = 256;
/// Blocks looked at first for a header: enough for an unmount record.
const FIRST_LOOK_BLOCKS: u32 = 64;

/// The blocks of a log, to be read.
pub trait ReadLog {
    /// 512-byte blocks in the ring.
    fn blocks(&self) -> u32;
    /// The file system's identity.
    fn uuid(&self) -> Uuid;
    /// Read `count` blocks from `block` on, going round the end.
    ///
    /// # Errors
    /// The device's, no memory.
    fn read(&self, block: u32, count: u32) -> Result<Vec<u8>, ReadError>;
}

impl ReadLog for LogDevice<'_> {
    fn blocks(&self) -> u32 {
        self.blocks()
    }
    fn uuid(&self) -> Uuid {
        self.uuid
    }
    fn read(&self, block: u32, count: u32) -> Result<Vec<u8>, ReadError> {
        self.read(block, count)
    }
}

/// What the log says at mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogState {
    /// The file system was unmounted; the next record goes to `head`.
    Clean {
        /// Lap and block of the next record.
        head: Lsn,
    },
    /// It was not: recovery is needed.
    Dirty {
        /// Why that is believed.
        reason: Reason,
    },
}

/// The ends of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// Lap and block of the next record.
    pub head: Lsn,
    /// Where the oldest record that is still needed starts; the head if none is.
    pub tail: Lsn,
    /// Where the last record starts.
    pub last: Lsn,
    /// Bytes the buffers of the last writer held.
    pub size: u32,
    /// Records that were dropped at the head because they were not complete.
    pub dropped: u32,
}

impl Ends {
    /// The block where the last record starts, as the next record's header says it.
    pub const fn previous_block(&self) -> u32 {
        self.last.block()
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The file system was unmounted.
    Clean(Ends),
    /// It was not; says why that is believed.
    Dirty(Ends, Reason),
    /// The log cannot be made sense of.
    Unusable(Reason),
}

/// Look at the log: was the file system unmounted?
///
/// # Errors
/// The device's, no memory. Damage to the log makes it dirty.
pub fn inspect(log: &impl ReadLog) -> Result<LogState, ReadError> {
    Ok(match find(log)? {
        Found::Clean(ends) => LogState::Clean { head: ends.head },
        Found::Dirty(_, reason) | Found::Unusable(reason) => LogState::Dirty { reason },
    })
}

/// Look at the log: where are its ends?
///
/// # Errors
/// The device's, no memory.
pub fn find(log: &impl ReadLog) -> Result<Found, ReadError> {
    let blocks = log.blocks();
    if blocks < 8 {
        return Ok(Found::Unusable("it is too small".into()));
    }
    let first = cycle_of(&log.read(0, 1)?);
    let last = cycle_of(&log.read(blocks - 1, 1)?);
    let search = if first == 0 {
        // Zeroed by a repair: nothing was logged since.
        let head = Lsn::new(1, 0);
        return Ok(if last == 0 {
            Found::Clean(Ends { head, tail: head, last: head, size: 0, dropped: 0 })
        } else {
            Found::Unusable("it starts with zeros".into())
        });
    } else if first == last {
        Search { log, head: blocks, cycle: first, full: true }
    } else if last == 0 || next_cycle(last) == first {
        let head = bisect(log, last)?;
        Search { log, head, cycle: first, full: last != 0 }
    } else if next_cycle(next_cycle(last)) == first {
        // A gap at the end of the ring, and writes behind that have overtaken.
        let head = bisect(log, last)?;
        Search { log, head, cycle: next_cycle(last), full: true }
    } else {
        let reason = format!("it starts in lap {first} and ends in lap {last}");
        return Ok(Found::Unusable(reason));
    };
    search.run()
}

/// A place where blocks of lap `last`, the last block's, begin. Block 0 is not of it.
fn bisect(log: &impl ReadLog, last: u32) -> Result<u32, ReadError> {
    let (mut low, mut high) = (0, log.blocks() - 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if cycle_of(&log.read(middle, 1)?) == last {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(high)
}

/// A record found going back from the head.
struct Record {
    block: u32,
    /// Or why it cannot be one.
    header: Result<Header, Reason>,
}

/// The search for the ends.
struct Search<'a, L: ReadLog> {
    log: &'a L,
    /// The head as far as known: blocks before it are of lap `cycle`; 1 to the number
    /// of blocks.
    head: u32,
    cycle: u32,
    /// Blocks behind the head were written, in the lap before.
    full: bool,
}

impl<L: ReadLog> Search<'_, L> {
    fn run(mut self) -> Result<Found, ReadError> {
        if let Some(record) = self.record_before(self.head)?
            && let Ok(header) = &record.header
            && self.ends_at(&record, header, self.head)
            && self.is_unmount(&record, header)?
        {
            return Ok(self.clean(header, 0));
        }
        self.close_gaps()?;
        let mut dropped = 0;
        let mut why = None;
        // The record that ends at the head, unless it was cut off.
        if let Some(record) = self.record_before(self.head)?
            && let Ok(header) = &record.header
            && !self.ends_at(&record, header, self.head)
        {
            why = Some(format!("the record at block {} does not end at the head", record.block));
            self.drop_from(record.block);
            dropped += 1;
        }
        let records = self.last_records()?;
        let mut last = None;
        for (i, record) in records.iter().enumerate().rev() {
            match self.check(record)? {
                Ok(header) => last = Some(header),
                Err(reason) => {
                    why = Some(format!("the record at block {}: {reason}", record.block));
                    self.drop_from(record.block);
                    dropped += i as u32 + 1;
                    break;
                }
            }
        }
        match last {
            Some(header) => self.result(&header, dropped),
            None => Ok(Found::Unusable(match why {
                None => "there is no record before the head".into(),
                Some(why) => format!("{why}, and no good record is before it"),
            })),
        }
    }
    /// Blocks from `from` up to `to`, going round.
    fn distance(&self, from: u32, to: u32) -> u32 {
        let blocks = self.log.blocks();
        (to % blocks + blocks - from) % blocks
    }
    /// The head is at `block`, somewhere before it was so far.
    fn drop_from(&mut self, block: u32) {
        if block > self.head || block == 0 {
            self.cycle = previous_cycle(self.cycle);
        }
        self.head = if block == 0 { self.log.blocks() } else { block };
    }
    /// Look for gaps before the head, as far as writes can have overtaken each other.
    fn close_gaps(&mut self) -> Result<(), ReadError> {
        let reach = BLOCKS_IN_FLIGHT.min(self.log.blocks());
        let before = previous_cycle(self.cycle);
        if self.head < reach && self.full {
            // Part of it lies at the end of the ring, one lap earlier.
            let from = self.log.blocks() - (reach - self.head);
            let from = from.max(self.head);
            let lap = previous_cycle(before);
            if let Some(gap) = self.first_of_lap(from, self.log.blocks(), lap)? {
                (self.head, self.cycle) = (gap, before);
                return Ok(());
            }
        }
        let lap = if self.full { before } else { 0 };
        let from = self.head.saturating_sub(reach);
        if let Some(gap) = self.first_of_lap(from, self.head, lap)? {
            self.drop_from(gap);
        }
        Ok(())
    }
    fn first_of_lap(&self, from: u32, to: u32, lap: u32) -> Result<Option<u32>, ReadError> {
        let mut at = from;
        while at < to {
            let count = LOOK_BLOCKS.min(to - at);
            let bytes = self.log.read(at, count)?;
            let found = bytes.chunks_exact(BLOCK_BYTES).position(|block| cycle_of(block) == lap);
            if let Some(i) = found {
                return Ok(Some(at + i as u32));
            }
            at += count;
        }
        Ok(None)
    }
    /// The last record that starts before `end`.
    fn record_before(&self, end: u32) -> Result<Option<Record>, ReadError> {
        let blocks = self.log.blocks();
        let most = RECORD_BLOCKS.min(if self.full { blocks } else { end });
        let mut reach = FIRST_LOOK_BLOCKS.min(most);
        loop {
            let start = (end + blocks - reach) % blocks;
            let bytes = self.log.read(start, reach)?;
            // Only a header has the magic where the lap should be.
            let header =
                bytes.chunks_exact(BLOCK_BYTES).rposition(|block| be32(block, 0) == Some(MAGIC));
            if let Some(i) = header {
                let block = (start + i as u32) % blocks;
                let bytes = &bytes[i * BLOCK_BYTES..];
                let header = Header::decode(bytes, block, blocks, self.log.uuid());
                return Ok(Some(Record { block, header }));
            }
            if reach == most {
                return Ok(None);
            }
            reach = most;
        }
    }
    fn ends_at(&self, record: &Record, header: &Header, end: u32) -> bool {
        self.distance(record.block, end) == header.blocks() % self.log.blocks()
    }
    /// The last records before the head, the newest first; none is older than the tail.
    fn last_records(&self) -> Result<Vec<Record>, ReadError> {
        let mut records: Vec<Record> = Vec::new();
        let mut end = self.head;
        let (mut tail, mut newer) = (None, None);
        let mut seen = 0;
        while records.len() < RECORDS_IN_FLIGHT as usize {
            let Some(record) = self.record_before(end)? else { break };
            let length = match self.distance(record.block, end) {
                0 => self.log.blocks(),
                length => length,
            };
            seen += length;
            if seen >= self.log.blocks() {
                break;
            }
            end = record.block;
            if let Ok(header) = &record.header {
                // Gone all the way round, to what was dropped behind the head.
                if newer.is_some_and(|newer| header.lsn >= newer) {
                    break;
                }
                newer = Some(header.lsn);
                // The newest good record says how far back is of any interest. A torn one
                // may state a tail that leaves nothing but itself.
                if tail.is_none() && self.check(&record)?.is_ok() {
                    tail = Some(header.tail);
                }
                if tail.is_some_and(|tail| header.lsn < tail) {
                    break;
                }
            }
            records.push(record);
            if end == 0 && !self.full {
                break;
            }
        }
        Ok(records)
    }
    /// Is the record all there?
    fn check(&self, record: &Record) -> Result<Result<Header, Reason>, ReadError> {
        let header = match &record.header {
            Ok(header) => *header,
            Err(reason) => return Ok(Err(reason.clone())),
        };
        if header.blocks() > self.log.blocks() {
            return Ok(Err(format!("{} blocks long", header.blocks())));
        }
        // mkfs.xfs makes no checksum.
        if header.crc == 0 {
            return Ok(Ok(header));
        }
        let bytes = self.log.read(record.block, header.blocks())?;
        Ok(if header.checksum_fits(&bytes) { Ok(header) } else { Err("bad checksum".into()) })
    }
    fn is_unmount(&self, record: &Record, header: &Header) -> Result<bool, ReadError> {
        if header.operations != 1 || header.blocks() > self.log.blocks() {
            return Ok(false);
        }
        let bytes = self.log.read(record.block, header.blocks())?;
        if header.crc != 0 && !header.checksum_fits(&bytes) {
            return Ok(false);
        }
        let op = bytes.get(header.header_bytes()..).and_then(OpView::new);
        Ok(op.is_some_and(|op| op.flags() & OP_UNMOUNT != 0))
    }
    /// The head behind the last record.
    fn head_lsn(&self) -> Lsn {
        if self.head == self.log.blocks() {
            Lsn::new(next_cycle(self.cycle), 0)
        } else {
            Lsn::new(self.cycle, self.head)
        }
    }
    fn clean(&self, last: &Header, dropped: u32) -> Found {
        let head = self.head_lsn();
        Found::Clean(Ends { head, tail: head, last: last.lsn, size: last.size, dropped })
    }
    /// All is known: `last` is the last good record and ends at the head.
    fn result(&self, last: &Header, dropped: u32) -> Result<Found, ReadError> {
        let at = last.lsn.block();
        let record = Record { block: at, header: Ok(*last) };
        if !self.ends_at(&record, last, self.head) {
            let reason = format!("the record at block {at} does not end where the next starts");
            return Ok(Found::Unusable(reason));
        }
        if self.is_unmount(&record, last)? {
            return Ok(self.clean(last, dropped));
        }
        let head = self.head_lsn();
        let tail = last.tail;
        // The tail is less than one lap behind.
        let same_lap = tail.cycle() == head.cycle() && tail.block() < head.block();
        let lap_before = next_cycle(tail.cycle()) == head.cycle() && tail.block() >= head.block();
        if !same_lap && !(lap_before && (self.full || head.block() == 0)) {
            return Ok(Found::Unusable(format!(
                "its tail {}:{} was overwritten, the head is at {}:{}",
                tail.cycle(),
                tail.block(),
                head.cycle(),
                head.block()
            )));
        }
        let mut reason = format!("the last record, at block {at}, is not that of an unmount");
        if dropped > 0 {
            let more: String = format!("; {dropped} behind it were not complete");
            reason.push_str(&more);
        }
        Ok(Found::Dirty(Ends { head, tail, last: last.lsn, size: last.size, dropped }, reason))
    }
}

/// The lap before `cycle`. The number that marks headers is left out.
pub const fn previous_cycle(cycle: u32) -> u32 {
    let previous = cycle.wrapping_sub(1);
    if previous == MAGIC { previous - 1 } else { previous }
}
