//! Log records: the header, and the header of an operation.
//!
//! Every 512-byte block of the log starts with the number of the lap (cycle) it was
//! written in; the words so displaced are kept in the record's header, 64 of them, and
//! in further header blocks when the record can be longer than 32 KiB.

use alloc::vec::Vec;

use uuid::Uuid;

use super::{
    Be16, Be32, Be64, Byte, Bytes, Check, Le32, UuidField, be32, checksum_pieces, ensure, on_disk,
};

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
/// The version of the log we know.
const VERSION: u32 = 2;
/// What is host-endian in the log is little-endian.
const FORMAT_LITTLE_ENDIAN: u32 = 1;

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
    /// Where the record before it starts.
    pub previous: u32,
    /// Operations in the payload.
    pub operations: u32,
    /// Bytes the writer's buffers hold: no payload is longer.
    pub size: u32,
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
    pub fn decode(bytes: &[u8], block: u32, log_blocks: u32, uuid: Uuid) -> Check<Self> {
        let Some(v) = View::new(bytes) else { return Err("too short".into()) };
        ensure!(v.magic() == MAGIC, "magic is {:#010x}", v.magic());
        ensure!(v.version() == VERSION, "version {}", v.version());
        let lsn = Lsn(v.lsn());
        ensure!(
            lsn.block() == block && lsn.cycle() == v.cycle(),
            "it says it is at {}:{}",
            lsn.cycle(),
            lsn.block()
        );
        ensure!(v.uuid() == uuid, "UUID is {}, should be {uuid}", v.uuid());
        ensure!(
            v.format() == FORMAT_LITTLE_ENDIAN,
            "written in another byte order (format {})",
            v.format()
        );
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
            previous: v.prev_block(),
            operations: v.operations(),
            size,
            header_blocks,
            payload_blocks: length.div_ceil(BLOCK_BYTES as u32),
            crc: v.crc(),
        })
    }
    /// Blocks of the whole record.
    pub const fn blocks(&self) -> u32 {
        self.header_blocks + self.payload_blocks
    }
    /// Bytes of the headers.
    pub const fn header_bytes(&self) -> usize {
        self.header_blocks as usize * BLOCK_BYTES
    }
    /// Does the checksum of a whole record fit? 32-bit systems leave four bytes out.
    pub fn checksum_fits(&self, record: &[u8]) -> bool {
        [HEADER_CRC_BYTES, HEADER_CRC_BYTES_I386]
            .iter()
            .any(|&covered| checksum(record, self.header_bytes(), self.length, covered) == self.crc)
    }
    /// Put the words back that the numbers of the lap displaced, in a whole record.
    pub fn unpack(&self, record: &mut [u8]) {
        let (headers, payload) = record.split_at_mut(self.header_bytes().min(record.len()));
        for (i, block) in payload.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let at = displaced_word(i);
            if let Some(word) = headers.get(at..at + 4) {
                block[..4].copy_from_slice(word);
            }
        }
    }
}

/// Words that one header block keeps.
const WORDS_PER_HEADER: usize = CYCLE_DATA_BYTES as usize / BLOCK_BYTES;

/// Where in the headers the first word of payload block `i` is kept.
const fn displaced_word(i: usize) -> usize {
    let start = if i < WORDS_PER_HEADER { 44 } else { 4 };
    i / WORDS_PER_HEADER * BLOCK_BYTES + start + i % WORDS_PER_HEADER * 4
}

/// The checksum of a record whose payload of `length` bytes starts at `header_bytes`;
/// its own field counts as zeros. `covered` bytes of the first header count.
fn checksum(record: &[u8], header_bytes: usize, length: u32, covered: usize) -> u32 {
    let payload = record.get(header_bytes..header_bytes + length as usize).unwrap_or(&[]);
    let mut pieces: Vec<&[u8]> = Vec::new();
    let header = record.get(..covered).unwrap_or(&[0; HEADER_CRC_BYTES]);
    pieces.push(&header[..CRC_OFFSET]);
    pieces.push(&[0; 4]);
    pieces.push(&header[CRC_OFFSET + 4..]);
    // Of the further headers only as many as the payload has displaced words for.
    for at in (BLOCK_BYTES..header_bytes).step_by(BLOCK_BYTES) {
        if at / BLOCK_BYTES * (CYCLE_DATA_BYTES as usize) < length as usize {
            pieces.push(record.get(at..at + EXTENDED_CRC_BYTES).unwrap_or(&[]));
        }
    }
    pieces.push(payload);
    checksum_pieces(&pieces)
}

/// What the header of a new record says.
#[derive(Clone, Copy, Debug)]
pub struct NewRecord {
    /// Where the record will start.
    pub lsn: Lsn,
    /// Where the oldest record that is still needed starts.
    pub tail: Lsn,
    /// Where the record before it starts.
    pub previous: u32,
    /// Operations in the payload.
    pub operations: u32,
    /// Bytes the writer's buffers hold; decides the number of header blocks.
    pub size: u32,
    /// The file system's identity.
    pub uuid: Uuid,
}

impl NewRecord {
    /// Blocks of the header.
    pub const fn header_blocks(&self) -> usize {
        let blocks = self.size.div_ceil(CYCLE_DATA_BYTES) as usize;
        if blocks == 0 { 1 } else { blocks }
    }
    /// Make a record ready to be written: `record` is room for the headers, then the
    /// payload, a multiple of 512 bytes in all. Writes the headers, replaces the first
    /// word of each block of the payload by the number of the lap, counted up where
    /// the record goes round the end of a log of `log_blocks`, and puts in the checksum.
    pub fn seal(&self, record: &mut [u8], log_blocks: u32) {
        let header_bytes = self.header_blocks() * BLOCK_BYTES;
        assert!(record.len() > header_bytes && record.len().is_multiple_of(BLOCK_BYTES));
        let room = self.header_blocks() * CYCLE_DATA_BYTES as usize;
        assert!(record.len() - header_bytes <= room, "the headers keep words of {room} bytes");
        let (headers, payload) = record.split_at_mut(header_bytes);
        headers.fill(0);
        self.put_header(headers, payload.len() as u32);
        for (i, block) in payload.chunks_exact_mut(BLOCK_BYTES).enumerate() {
            let at = displaced_word(i);
            headers[at..at + 4].copy_from_slice(&block[..4]);
        }
        for (i, block) in record.chunks_exact_mut(BLOCK_BYTES).enumerate().skip(1) {
            let behind_end = u64::from(self.lsn.block()) + i as u64 >= u64::from(log_blocks);
            let cycle = if behind_end { next_cycle(self.lsn.cycle()) } else { self.lsn.cycle() };
            block[..4].copy_from_slice(&cycle.to_be_bytes());
        }
        let length = (record.len() - header_bytes) as u32;
        let crc = checksum(record, header_bytes, length, HEADER_CRC_BYTES);
        record[CRC_OFFSET..CRC_OFFSET + 4].copy_from_slice(&crc.to_le_bytes());
    }
    /// Write the header into its block, which is all zeros, for a payload of `length` bytes.
    /// The rest, words of the payload and checksum, [`NewRecord::seal`] puts in.
    pub fn put_header(&self, header: &mut [u8], length: u32) {
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC.to_be_bytes());
        put(4, &self.lsn.cycle().to_be_bytes());
        put(8, &VERSION.to_be_bytes());
        put(12, &length.to_be_bytes());
        put(16, &self.lsn.0.to_be_bytes());
        put(24, &self.tail.0.to_be_bytes());
        put(36, &self.previous.to_be_bytes());
        put(40, &self.operations.to_be_bytes());
        put(300, &FORMAT_LITTLE_ENDIAN.to_be_bytes());
        put(304, self.uuid.as_bytes());
        put(320, &self.size.to_be_bytes());
    }
}

/// The lap after `cycle`. The number that marks headers is left out.
pub const fn next_cycle(cycle: u32) -> u32 {
    let next = cycle.wrapping_add(1);
    if next == MAGIC { next.wrapping_add(1) } else { next }
}

/// The lap in which a block of the log was written.
pub fn cycle_of(block: &[u8]) -> u32 {
    match be32(block, 0) {
        Some(MAGIC) => be32(block, 4).unwrap_or(0),
        Some(cycle) => cycle,
        None => 0,
    }
}
