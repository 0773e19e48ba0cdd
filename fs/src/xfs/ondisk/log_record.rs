//! Log records: the header, and the header of an operation.
//!
//! Every 512-byte block of the log starts with the number of the lap (cycle) it was
//! written in; the words so displaced are kept in the record's header, 64 of them, and
//! in further header blocks when the record can be longer than 32 KiB.

use super::{Be16, Be32, Be64, Byte, Bytes, Check, Le32, UuidField, be32, ensure, on_disk};

/// The first word of a record's header.
pub const MAGIC: u32 = 0xfeed_babe;
/// Bytes of a log block.
pub const BLOCK_BYTES: usize = 512;
/// Bytes of payload for which one header block keeps the displaced words.
pub const CYCLE_DATA_BYTES: u32 = 32 << 10;
/// The longest record.
pub const MAX_RECORD_BYTES: u32 = 256 << 10;
/// Bytes of the header that the checksum covers.
pub const HEADER_CRC_BYTES: usize = 328;
/// As above, as 32-bit systems have it.
pub const HEADER_CRC_BYTES_I386: usize = 324;
/// Bytes of a further header block that the checksum covers.
pub const EXTENDED_CRC_BYTES: usize = 260;
/// Where the checksum lies.
pub const CRC_OFFSET: usize = 32;
/// Operation flag: the file system was unmounted.
pub const OP_UNMOUNT: u8 = 0x20;

on_disk! {
    /// The header's bytes.
    View, 324 bytes {
        magic: Be32 = 0,
        cycle: Be32 = 4,
        version: Be32 = 8,
        length: Be32 = 12,
        lsn: Be64 = 16,
        tail_lsn: Be64 = 24,
        crc: Le32 = 32,
        prev_block: Be32 = 36,
        operations: Be32 = 40,
        cycle_data: Bytes<256> = 44,
        format: Be32 = 300,
        uuid: UuidField = 304,
        size: Be32 = 320,
    }
}

on_disk! {
    /// A further header block's bytes.
    ExtendedView, 260 bytes {
        cycle: Be32 = 0,
        cycle_data: Bytes<256> = 4,
    }
}

on_disk! {
    /// The header of an operation in the payload.
    OpView, 12 bytes {
        transaction: Be32 = 0,
        length: Be32 = 4,
        client: Byte = 8,
        flags: Byte = 9,
        reserved: Be16 = 10,
    }
}

/// A position in the log: lap and block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    /// From lap and block.
    pub const fn new(cycle: u32, block: u32) -> Self {
        Self((cycle as u64) << 32 | block as u64)
    }
    /// The lap.
    pub const fn cycle(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// The block.
    pub const fn block(self) -> u32 {
        self.0 as u32
    }
}

/// A checked record header.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// Where the record starts.
    pub lsn: Lsn,
    /// Where the oldest record that is still needed starts.
    pub tail: Lsn,
    /// Bytes of payload.
    pub length: u32,
    /// Operations in the payload.
    pub operations: u32,
    /// 512-byte blocks of header.
    pub header_blocks: u32,
    /// 512-byte blocks of payload.
    pub payload_blocks: u32,
    /// The checksum; 0: none was made.
    pub crc: u32,
}

impl Header {
    /// Check the header in a block, found at `block` of a log of `log_blocks` blocks.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8], block: u32, log_blocks: u32, uuid: uuid::Uuid) -> Check<Self> {
        let Some(v) = View::new(bytes) else { return Err("too short".into()) };
        ensure!(v.magic() == MAGIC, "magic is {:#010x}", v.magic());
        ensure!(v.version() == 2, "version {}", v.version());
        let lsn = Lsn(v.lsn());
        ensure!(
            lsn.block() == block && lsn.cycle() == v.cycle(),
            "it says it is at {}:{}",
            lsn.cycle(),
            lsn.block()
        );
        ensure!(v.uuid() == uuid, "UUID is {}, should be {uuid}", v.uuid());
        let length = v.length();
        ensure!(length > 0 && length <= MAX_RECORD_BYTES, "{length} bytes long");
        let tail = Lsn(v.tail_lsn());
        ensure!(
            tail.block() < log_blocks && tail <= lsn,
            "its tail is at {}:{}",
            tail.cycle(),
            tail.block()
        );
        let size = v.size().min(MAX_RECORD_BYTES);
        let header_blocks = size.div_ceil(CYCLE_DATA_BYTES).max(1);
        Ok(Self {
            lsn,
            tail,
            length,
            operations: v.operations(),
            header_blocks,
            payload_blocks: length.div_ceil(BLOCK_BYTES as u32),
            crc: v.crc(),
        })
    }
    /// Blocks of the whole record.
    pub const fn blocks(&self) -> u32 {
        self.header_blocks + self.payload_blocks
    }
}

/// The lap in which a block of the log was written.
pub fn cycle_of(block: &[u8]) -> u32 {
    match be32(block, 0) {
        Some(MAGIC) => be32(block, 4).unwrap_or(0),
        Some(cycle) => cycle,
        None => 0,
    }
}
