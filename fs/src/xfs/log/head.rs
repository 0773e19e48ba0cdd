//! Finding the log's head, and whether what comes right before it is the record of an
//! unmount.
//!
//! Every block carries the number of the lap it was written in. Going up from block 0
//! the lap is at first the current one and, from the head on, the one before (or 0, if
//! the log never was full). So the head is found by bisection:
//!
//! ```text
//! block     0 . . . . . head . . . . . . end
//! lap       7 7 7 7 7 7 | 6 6 6 6 6 6 6 6
//! ```
//! If first and last block are of the same lap, the last write ended at the end of the
//! ring, and the head is block 0.
//!
//! Requests may reach the device in any order, so after a crash the blocks before the
//! head can have gaps of the lap before. That does not matter here: an unmount record
//! is written only when everything before it is durable, in the log and in place. If
//! the bisection ends at a gap right behind such a record, what lies behind the gap was
//! never complete and nothing of it has reached its place.
//! Any doubt about the last record means that the file system was not unmounted: we
//! look for a proof of the unmount, not of a crash.

use alloc::format;
use alloc::vec::Vec;

use super::LogDevice;
use crate::xfs::buf::ReadError;
use crate::xfs::ondisk::log_record::{
    BLOCK_BYTES, CRC_OFFSET, EXTENDED_CRC_BYTES, HEADER_CRC_BYTES, HEADER_CRC_BYTES_I386, Header,
    Lsn, MAGIC, MAX_RECORD_BYTES, OP_UNMOUNT, OpView, cycle_of,
};
use crate::xfs::ondisk::{Reason, be32, checksum_pieces};

/// Blocks looked at for the last record's header: the greatest record, its headers and
/// the rounding up to a stripe unit.
const LAST_RECORD_BLOCKS: u32 = 2 * MAX_RECORD_BYTES / BLOCK_BYTES as u32 + 8;
/// Blocks looked at first: enough for an unmount record.
const FIRST_LOOK_BLOCKS: u32 = 64;

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

fn dirty(reason: impl Into<Reason>) -> LogState {
    LogState::Dirty { reason: reason.into() }
}

/// Look at the log.
///
/// # Errors
/// The device's, no memory. Damage to the log makes it dirty.
pub fn inspect(log: &LogDevice<'_>) -> Result<LogState, ReadError> {
    let blocks = log.blocks();
    if blocks < 2 {
        return Ok(dirty("it is too small"));
    }
    let first = cycle_of(&log.read(0, 1)?);
    let last = cycle_of(&log.read(blocks - 1, 1)?);
    if first == 0 {
        // Zeroed by a repair: nothing was logged since.
        return Ok(if last == 0 {
            LogState::Clean { head: Lsn::new(1, 0) }
        } else {
            dirty("it starts with zeros")
        });
    }
    let head = if first == last {
        0
    } else if last == 0 || last == first - 1 {
        bisect(log, first)?
    } else {
        return Ok(dirty(format!("it starts in lap {first} and ends in lap {last}")));
    };
    // The lap of the next record.
    let next_cycle = if head == 0 { first.wrapping_add(1) } else { first };
    last_record(log, head, next_cycle)
}

/// The first block that is not of lap `cycle`. Block 0 is, the last one is not.
fn bisect(log: &LogDevice<'_>, cycle: u32) -> Result<u32, ReadError> {
    let (mut low, mut high) = (0, log.blocks() - 1);
    while high - low > 1 {
        let middle = low.midpoint(high);
        if cycle_of(&log.read(middle, 1)?) == cycle {
            low = middle;
        } else {
            high = middle;
        }
    }
    Ok(high)
}

/// Look for the last record before the head: is it the one of an unmount, and all there?
fn last_record(log: &LogDevice<'_>, head: u32, next_cycle: u32) -> Result<LogState, ReadError> {
    let mut reach = FIRST_LOOK_BLOCKS.min(log.blocks());
    let (bytes, index) = loop {
        let start = (head + log.blocks() - reach) % log.blocks();
        let bytes = log.read(start, reach)?;
        // Only a header has the magic where the lap should be.
        let header =
            bytes.chunks_exact(BLOCK_BYTES).rposition(|block| be32(block, 0) == Some(MAGIC));
        let most = LAST_RECORD_BLOCKS.min(log.blocks());
        match header {
            Some(index) => break (bytes, index as u32),
            None if reach < most => reach = most,
            None => return Ok(dirty("there is no record before the head")),
        }
    };
    let at = (head + log.blocks() - reach + index) % log.blocks();
    let record = &bytes[index as usize * BLOCK_BYTES..];
    let header = match Header::decode(record, at, log.blocks(), log.uuid) {
        Ok(header) => header,
        Err(reason) => return Ok(dirty(format!("the record at block {at}: {reason}"))),
    };
    let blocks = header.blocks();
    if index + blocks != reach {
        return Ok(dirty(format!("the record at block {at} does not end at the head")));
    }
    let Some(record) = record.get(..blocks as usize * BLOCK_BYTES) else {
        return Ok(dirty(format!("the record at block {at} is cut off")));
    };
    if header.crc != 0 && !checksum_fits(record, &header) {
        return Ok(dirty(format!("the record at block {at} has a bad checksum")));
    }
    let op = OpView::new(&record[header.header_blocks as usize * BLOCK_BYTES..]);
    let unmount = header.operations == 1 && op.is_some_and(|op| op.flags() & OP_UNMOUNT != 0);
    Ok(if unmount {
        LogState::Clean { head: Lsn::new(next_cycle, head) }
    } else {
        dirty(format!("the last record, at block {at}, is not that of an unmount"))
    })
}

/// Does the checksum of a whole record fit? 32-bit systems leave four bytes out.
fn checksum_fits(record: &[u8], header: &Header) -> bool {
    let payload_at = header.header_blocks as usize * BLOCK_BYTES;
    let payload = record.get(payload_at..payload_at + header.length as usize).unwrap_or(&[]);
    [HEADER_CRC_BYTES, HEADER_CRC_BYTES_I386].iter().any(|&covered| {
        // One digest over pieces, the checksum's own field as zeros.
        let mut pieces: Vec<&[u8]> = Vec::new();
        pieces.push(&record[..CRC_OFFSET]);
        pieces.push(&[0; 4]);
        pieces.push(&record[CRC_OFFSET + 4..covered]);
        for block in 1..header.header_blocks as usize {
            // Only as many as the payload has displaced words for.
            if block * 64 < header.payload_blocks as usize {
                let at = block * BLOCK_BYTES;
                pieces.push(&record[at..at + EXTENDED_CRC_BYTES]);
            }
        }
        pieces.push(payload);
        checksum_pieces(&pieces) == header.crc
    })
}
