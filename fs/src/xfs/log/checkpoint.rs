//! How a checkpoint lies in the log: as one transaction, over as many records as it takes.
//!
//! ```text
//! record   | header | START | TRAN header | item | item | ite-        CONTINUE
//! record   | header | -m  WAS_CONT END | item | ... | COMMIT | padding
//! ```
//! Each piece has a 12-byte header of an operation. A checkpoint starts a record of its
//! own, so its position is that of no other; what is left of its last record is padding
//! up to the unit of the log. Items are logged in the order in which they first came.
//!
//! Records hold 32 KiB, headers included, or a stripe unit of the log where that is more.
//! Longer ones would not pay: their headers grow by a block for each 32 KiB, and records
//! that lie behind each other are written by one request anyway.

use alloc::sync::Arc;
use alloc::vec::Vec;

use uuid::Uuid;

use super::cil::Context;
use super::item::Lsn;
use crate::block::{SECTOR_SIZE, Sector};
use crate::error::{Error, Result};
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::log_intents::Done;
use crate::xfs::ondisk::log_items::{OpHeader, TransactionHeader, op};
use crate::xfs::ondisk::log_record::{BLOCK_BYTES, CYCLE_DATA_BYTES, MAX_RECORD_BYTES, next_cycle};

/// The shortest piece a region is cut to. Its first words have to stay together.
const LEAST_PIECE_BYTES: usize = 32;
/// START, the transaction header, COMMIT, and what stands for an item if there is none.
const FRAME_BYTES: u64 = 4 * OpHeader::BYTES as u64 + TransactionHeader::BYTES as u64 + 32;
/// What a record may lose to a region that is cut at its end.
const CUT_BYTES: u64 = 2 * OpHeader::BYTES as u64 + LEAST_PIECE_BYTES as u64;

/// The shape of the ring and of its records.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    /// Where the ring lies on the device.
    pub(super) start: Sector,
    /// 512-byte blocks of the ring.
    pub(super) blocks: u32,
    /// The size records state: what a writer's buffer holds.
    pub(super) size: u32,
    /// Bytes of the longest record, headers included: a multiple of the unit.
    record_bytes: usize,
    /// Bytes of a record's headers.
    pub(super) header_bytes: usize,
    /// Records are multiples of this many bytes.
    unit: usize,
    /// The file system's identity.
    pub(super) uuid: Uuid,
}

impl Layout {
    /// The log of a file system on a device with blocks of so many bytes.
    ///
    /// # Errors
    /// The log cannot be written on such a device.
    pub(super) fn new(geometry: &Arc<Geometry>, device_block_bytes: u32) -> Result<Self> {
        let sector = (geometry.log_sector_bytes.max(BLOCK_BYTES as u32)).max(device_block_bytes);
        // A stripe unit of 1 says that there is none.
        let unit = geometry.log_stripe_unit_bytes.max(sector);
        let blocks = geometry.log_blocks << (geometry.block_log - 9);
        if !unit.is_multiple_of(sector) || unit > MAX_RECORD_BYTES {
            return Err(Error::NotSupported("the log's stripe unit"));
        }
        let size = unit.max(CYCLE_DATA_BYTES);
        let layout = Self {
            start: geometry.sector(geometry.log_start),
            blocks,
            size,
            record_bytes: (size / unit * unit) as usize,
            header_bytes: size.div_ceil(CYCLE_DATA_BYTES) as usize * BLOCK_BYTES,
            unit: unit as usize,
            uuid: geometry.uuid,
        };
        if layout.ring_bytes() < 4 * layout.slack_bytes() + u64::from(size) {
            return Err(Error::NotSupported("so small a log"));
        }
        Ok(layout)
    }
    /// Bytes of the ring.
    pub(super) fn ring_bytes(&self) -> u64 {
        u64::from(self.blocks) * SECTOR_SIZE
    }
    /// Bytes that are never promised to anybody.
    pub(super) fn slack_bytes(&self) -> u64 {
        3 * self.checkpoint_bytes(0)
    }
    /// The length of the longest record.
    pub(super) const fn record_bytes(&self) -> usize {
        self.record_bytes
    }
    /// Bytes that a checkpoint with items of so many bytes takes at worst.
    pub(super) const fn checkpoint_bytes(&self, bytes: u64) -> u64 {
        let bytes = bytes + FRAME_BYTES;
        let room = (self.record_bytes - self.header_bytes) as u64 - CUT_BYTES;
        let records = bytes.div_ceil(room);
        let full = bytes + records * (self.header_bytes as u64 + CUT_BYTES);
        full.next_multiple_of(self.unit as u64)
    }
    /// Bytes from `from` up to `to`; a whole ring if that makes no sense.
    pub(super) fn distance_bytes(&self, from: Lsn, to: Lsn) -> u64 {
        let blocks = if from.cycle() == to.cycle() {
            to.block().checked_sub(from.block())
        } else if next_cycle(from.cycle()) == to.cycle() && to.block() <= from.block() {
            (self.blocks - from.block()).checked_add(to.block())
        } else {
            None
        };
        blocks.map_or(self.ring_bytes(), |b| u64::from(b) * SECTOR_SIZE)
    }
    /// So many bytes, less than a ring, behind `from`.
    pub(super) fn advance(&self, from: Lsn, bytes: u64) -> Lsn {
        let blocks = (bytes / SECTOR_SIZE) as u32;
        match (from.block() + blocks).checked_sub(self.blocks) {
            None => Lsn::new(from.cycle(), from.block() + blocks),
            Some(behind) => Lsn::new(next_cycle(from.cycle()), behind),
        }
    }
}

/// Takes records when they are full.
pub(super) trait Records {
    /// A record: room for the headers, then the payload, padded to the unit.
    ///
    /// # Errors
    /// The device's.
    fn put(&mut self, record: &mut [u8], operations: u32) -> Result<()>;
}

/// Puts operations into records.
pub(super) struct Packer<'a, R> {
    layout: &'a Layout,
    /// The record being filled, with room for its headers in front.
    record: &'a mut Vec<u8>,
    operations: u32,
    transaction: u32,
    records: &'a mut R,
}

impl<'a, R: Records> Packer<'a, R> {
    /// `record` is memory that may be used again and again: enough for a record.
    pub(super) fn new(
        layout: &'a Layout,
        record: &'a mut Vec<u8>,
        transaction: u32,
        records: &'a mut R,
    ) -> Self {
        record.clear();
        record.resize(layout.header_bytes, 0);
        Self { layout, record, operations: 0, transaction, records }
    }
    /// All of a checkpoint.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn checkpoint(mut self, context: &Context) -> Result<()> {
        self.operation(op::START, &[])?;
        // What is counted here is regions, by tradition.
        let items: u32 = context.slots.iter().map(|s| s.vectors.count() as u32).sum();
        let header = TransactionHeader { transaction: self.transaction, items: items.max(1) };
        self.operation(0, &header.encode())?;
        for slot in &context.slots {
            for region in slot.vectors.regions() {
                self.operation(0, region)?;
            }
        }
        if items == 0 {
            // Not every reader takes a transaction without items: the end of an intent
            // that never was has no effect.
            let mut region = Vec::new();
            Done::Efd(Vec::new()).encode(0, &mut region);
            self.operation(0, &region)?;
        }
        self.operation(op::COMMIT, &[])?;
        self.emit()
    }
    /// The record of an unmount, the only operation of its record.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn unmount(mut self) -> Result<()> {
        self.put_header(op::CLIENT_LOG, op::UNMOUNT, UNMOUNT_BYTES.len());
        self.record.extend_from_slice(&UNMOUNT_BYTES);
        self.emit()
    }
    fn operation(&mut self, flags: u8, region: &[u8]) -> Result<()> {
        let mut rest = region;
        let mut resumed = 0;
        loop {
            let room = self.layout.record_bytes - self.record.len();
            if OpHeader::BYTES + rest.len() <= room {
                let flags = if resumed == 0 { flags } else { resumed | op::END };
                self.put_header(op::CLIENT_TRANSACTION, flags, rest.len());
                self.record.extend_from_slice(rest);
                return Ok(());
            }
            if room >= OpHeader::BYTES + LEAST_PIECE_BYTES && rest.len() > LEAST_PIECE_BYTES {
                let (piece, behind) = rest.split_at(room - OpHeader::BYTES);
                self.put_header(op::CLIENT_TRANSACTION, resumed | op::CONTINUE, piece.len());
                self.record.extend_from_slice(piece);
                rest = behind;
                resumed = op::WAS_CONTINUED;
            }
            self.emit()?;
        }
    }
    fn put_header(&mut self, client: u8, flags: u8, length: usize) {
        let length = length as u32;
        let header = OpHeader { transaction: self.transaction, length, client, flags };
        self.record.extend_from_slice(&header.encode());
        self.operations += 1;
    }
    /// The record is full, or the last one.
    fn emit(&mut self) -> Result<()> {
        let length = self.record.len().next_multiple_of(self.layout.unit);
        self.record.resize(length, 0);
        let result = self.records.put(self.record, self.operations);
        self.record.clear();
        self.record.resize(self.layout.header_bytes, 0);
        self.operations = 0;
        result
    }
}

/// What the record of an unmount says: a magic number and nothing.
const UNMOUNT_BYTES: [u8; 8] = [0x6e, 0x55, 0, 0, 0, 0, 0, 0];
