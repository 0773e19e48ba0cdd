//! Old records ahead of the head.
//!
//! Behind a dropped record there may be good ones, and records of the same lap will
//! come after whatever is written next. Were the next writes cut short, they could be
//! taken for the end of the log:
//!
//! ```text
//! dropped at the first crash    7 7 7 | torn  7 7 7 | 6 6 6
//! a few blocks written          7 7 7 | 7 7   7 7 7 | 6 6 6
//! ```
//! So the blocks that writes can have reached get the number of the lap before.

use super::area::{LogArea, zeroed};
use crate::xfs::log::head::{BLOCKS_IN_FLIGHT, Ends, ReadLog, previous_cycle};
use crate::xfs::mount::MountError;
use crate::xfs::ondisk::log_record::{BLOCK_BYTES, Lsn, NewRecord, cycle_of};

/// Blocks written at once.
const BATCH_BLOCKS: u32 = 256;

/// Overwrite the blocks ahead of the head, up to the tail at most.
pub(super) fn restamp(log: &LogArea<'_>, ends: &Ends) -> Result<(), MountError> {
    let blocks = log.blocks();
    let head = ends.head;
    let until_tail = match (ends.tail.block() + blocks - head.block()) % blocks {
        // Nothing of the log is needed, or all of it is.
        0 if ends.tail == head => blocks,
        distance => distance,
    };
    let count = BLOCKS_IN_FLIGHT.min(until_tail);
    let until_end = count.min(blocks - head.block());
    // Behind the end the lap is still the current one. That part comes first and is durable
    // before the other is begun: cut off in between, what is left of the next lap there and
    // the lap before at the end of the log would look like a head in another place.
    //
    //     dropped at the first crash    8 8 | 7 7 7 7 | torn  7
    //     the end alone stamped         8 8 | 7 7 7 7 | 6 6 6 6    the head of lap 8 ?
    if stamp(log, Lsn::new(head.cycle(), 0), count - until_end, ends.tail)? {
        log.flush()?;
    }
    let end = Lsn::new(previous_cycle(head.cycle()), head.block());
    stamp(log, end, until_end, ends.tail).map(drop)
}

/// Write headers of empty records over `count` blocks from `from` on, none behind the
/// end. Blocks of a lap before are as harmless as they are. Was anything written?
fn stamp(log: &LogArea<'_>, from: Lsn, count: u32, tail: Lsn) -> Result<bool, MountError> {
    let (mut done, mut written) = (0, false);
    while done < count {
        let batch = BATCH_BLOCKS.min(count - done);
        let start = from.block() + done;
        done += batch;
        let old = log.read(start, batch)?;
        let mut harmful = old
            .chunks_exact(BLOCK_BYTES)
            .enumerate()
            .filter(|(_, block)| cycle_of(block) > from.cycle())
            .map(|(i, _)| i);
        let Some(first) = harmful.next() else { continue };
        let last = harmful.next_back().unwrap_or(first);
        let mut bytes = zeroed((last + 1 - first) * BLOCK_BYTES)?;
        let first = start + first as u32;
        for (block, header) in (first..).zip(bytes.chunks_exact_mut(BLOCK_BYTES)) {
            let lsn = Lsn::new(from.cycle(), block);
            let uuid = log.uuid();
            NewRecord { lsn, tail, previous: 0, operations: 0, size: 0, uuid }
                .put_header(header, 0);
        }
        log.write(first, &bytes)?;
        written = true;
    }
    Ok(written)
}
