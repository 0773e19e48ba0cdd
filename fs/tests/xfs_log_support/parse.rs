//! A reader of logs that shares nothing with the one of the file system: every record of
//! the ring by its magic number, in the order of their positions.

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A transaction of the log.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Lap and block of the record it starts in.
    pub start: (u32, u32),
    /// Its regions, its header first.
    pub regions: Vec<Vec<u8>>,
}

/// What is in a ring.
pub struct Parsed {
    pub records: Vec<Record>,
    pub transactions: Vec<Transaction>,
    /// The last record is that of an unmount.
    pub unmounted: bool,
}

#[derive(Clone, Debug)]
pub struct Record {
    pub lsn: (u32, u32),
    pub tail: (u32, u32),
    pub blocks: u32,
    pub previous: u32,
    operations: u32,
    payload: Vec<u8>,
}

fn be(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// CRC32C, byte by byte.
fn crc32c(crc: u32, bytes: &[u8]) -> u32 {
    static TABLE: LazyLock<Vec<u32>> = LazyLock::new(|| {
        let step = |c: u32| (c >> 1) ^ (0x82f6_3b78 & (c & 1).wrapping_neg());
        (0..256).map(|byte| (0..8).fold(byte, |c, _| step(c))).collect()
    });
    let table = &*TABLE;
    bytes
        .iter()
        .fold(crc, |crc, byte| (crc >> 8) ^ table[((crc ^ u32::from(*byte)) & 0xff) as usize])
}

/// The record at `block`, if one is there with a good checksum.
fn record(ring: &[u8], block: usize) -> Option<Record> {
    let blocks = ring.len() / 512;
    let at = |n: usize| &ring[(block + n) % blocks * 512..][..512];
    let head = at(0);
    if be(head, 0) != 0xfeed_babe {
        return None;
    }
    let (cycle, length, size) = (be(head, 4), be(head, 12) as usize, be(head, 320) as usize);
    let lsn = (be(head, 16), be(head, 20));
    if lsn != (cycle, block as u32) {
        return None;
    }
    assert!(length > 0 && length.is_multiple_of(512) && length <= size && size <= 256 << 10);
    assert_eq!(be(head, 8), 2, "version");
    assert_eq!(be(head, 300), 1, "format");
    let headers = size.div_ceil(32 << 10).max(1);
    let count = length / 512;
    let mut crc = crc32c(!0, &head[..32]);
    crc = crc32c(crc, &[0; 4]);
    crc = crc32c(crc, &head[36..328]);
    for n in 1..headers {
        if n * (32 << 10) < length {
            crc = crc32c(crc, &at(n)[..260]);
        }
    }
    for n in 0..count {
        crc = crc32c(crc, at(headers + n));
    }
    if !crc != u32::from_le_bytes(head[32..36].try_into().unwrap()) {
        return None;
    }
    // Lap numbers, and the words they displaced.
    let mut payload = Vec::with_capacity(length);
    for n in 1..headers + count {
        let wrapped = block + n >= blocks;
        assert_eq!(be(at(n), 0), cycle + u32::from(wrapped), "lap of block {n} of {lsn:?}");
    }
    for n in 0..count {
        let kept = if n < 64 { &head[44 + n * 4..] } else { &at(n / 64)[4 + n % 64 * 4..] };
        payload.extend_from_slice(&kept[..4]);
        payload.extend_from_slice(&at(headers + n)[4..]);
    }
    Some(Record {
        lsn,
        tail: (be(head, 24), be(head, 28)),
        blocks: (headers + count) as u32,
        previous: be(head, 36),
        operations: be(head, 40),
        payload,
    })
}

/// Everything from the tail of the newest record on.
///
/// # Panics
/// When the records between tail and head do not follow each other, or their operations
/// make no sense.
pub fn parse(ring: &[u8]) -> Parsed {
    let blocks = ring.len() / 512;
    let mut all: Vec<_> = (0..blocks).filter_map(|block| record(ring, block)).collect();
    all.sort_by_key(|r| r.lsn);
    let newest = all.last().expect("there is a record").clone();
    let mut records: Vec<Record> = all.into_iter().filter(|r| r.lsn >= newest.tail).collect();
    assert_eq!(records[0].lsn, newest.tail, "the tail is a record");
    for pair in records.windows(2) {
        let end = pair[0].lsn.1 + pair[0].blocks;
        let next = if end >= blocks as u32 {
            (pair[0].lsn.0 + 1, end - blocks as u32)
        } else {
            (pair[0].lsn.0, end)
        };
        assert_eq!(pair[1].lsn, next, "a record follows where one ends");
        assert_eq!(pair[1].previous, pair[0].lsn.1, "the record before {:?}", pair[1].lsn);
        assert!(pair[1].tail >= pair[0].tail, "the tail never goes back");
    }
    let mut open = BTreeMap::new();
    let mut transactions = Vec::new();
    let mut unmounted = false;
    for record in &mut records {
        unmounted = operations(record, &mut open, &mut transactions);
    }
    assert!(open.is_empty(), "the newest checkpoint is not complete");
    Parsed { records, transactions, unmounted }
}

/// The complete transactions in the records from `tail` up to `head`, which lie behind
/// each other without a gap.
pub fn between(ring: &[u8], tail: (u32, u32), head: (u32, u32)) -> Vec<Transaction> {
    let mut at = tail;
    let (mut open, mut complete) = (BTreeMap::new(), Vec::new());
    while at != head {
        let record = record(ring, at.1 as usize)
            .filter(|r| r.lsn == at)
            .unwrap_or_else(|| panic!("no record at {at:?} between {tail:?} and {head:?}"));
        operations(&record, &mut open, &mut complete);
        at.1 += record.blocks;
        if at.1 as usize >= ring.len() / 512 {
            at = (at.0 + 1, at.1 - (ring.len() / 512) as u32);
        }
    }
    complete
}

struct Open {
    transaction: Transaction,
    continued: bool,
}

/// The operations of a record. Was it that of an unmount?
fn operations(
    record: &Record,
    open: &mut BTreeMap<u32, Open>,
    complete: &mut Vec<Transaction>,
) -> bool {
    let mut at = 0;
    for _ in 0..record.operations {
        let head = &record.payload[at..at + 12];
        let (id, length) = (be(head, 0), be(head, 4) as usize);
        let (client, flags) = (head[8], head[9]);
        let data = &record.payload[at + 12..at + 12 + length];
        at += 12 + length;
        if client == 0xaa {
            assert!(flags == 0x20 && record.operations == 1 && data == b"nU\0\0\0\0\0\0");
            return true;
        }
        assert_eq!(client, 0x69);
        assert_eq!(length % 4, 0);
        if flags & 0x01 != 0 {
            assert!(length == 0 && flags == 0x01);
            let transaction = Transaction { start: record.lsn, regions: Vec::new() };
            let fresh = Open { transaction, continued: false };
            assert!(open.insert(id, fresh).is_none(), "transaction {id} starts twice");
            continue;
        }
        let this = open.get_mut(&id).expect("a transaction that has started");
        assert_eq!(flags & 0x08 != 0, this.continued, "a region goes on where it was cut");
        if flags & 0x02 != 0 {
            assert!(length == 0 && flags == 0x02);
            complete.push(open.remove(&id).unwrap().transaction);
            continue;
        }
        if flags & 0x08 != 0 {
            assert!((flags & 0x10 != 0) != (flags & 0x04 != 0));
            this.transaction.regions.last_mut().unwrap().extend_from_slice(data);
        } else {
            this.transaction.regions.push(data.to_vec());
        }
        this.continued = flags & 0x04 != 0;
    }
    assert!(record.payload[at..].iter().all(|b| *b == 0), "padding is zeros");
    false
}

impl Transaction {
    /// Its items: format and further regions each.
    pub fn items(&self) -> Vec<&[Vec<u8>]> {
        let header = &self.regions[0];
        assert_eq!(header[..4], 0x5452_414e_u32.to_le_bytes(), "transaction header");
        let mut items = Vec::new();
        let mut rest = &self.regions[1..];
        while !rest.is_empty() {
            let count = u16::from_le_bytes(rest[0][2..4].try_into().unwrap());
            let (item, behind) = rest.split_at(usize::from(count));
            items.push(item);
            rest = behind;
        }
        items
    }
    /// Put what it logs of buffers into the device's contents.
    pub fn replay(&self, device: &mut BTreeMap<u64, Vec<u8>>) {
        for item in self.items() {
            if item[0][..2] != 0x123c_u16.to_le_bytes() {
                continue;
            }
            let sector = u64::from_le_bytes(item[0][8..16].try_into().unwrap());
            let words = u32::from_le_bytes(item[0][16..20].try_into().unwrap()) as usize;
            let Some(block) = device.get_mut(&sector) else { continue };
            let mut regions = item[1..].iter().flat_map(|r| r.chunks(128));
            for chunk in 0..words * 32 {
                let word = &item[0][20 + chunk / 32 * 4..][..4];
                if u32::from_le_bytes(word.try_into().unwrap()) >> (chunk % 32) & 1 != 0 {
                    let bytes = regions.next().expect("as many chunks as the map says");
                    block[chunk * 128..chunk * 128 + bytes.len()].copy_from_slice(bytes);
                }
            }
            assert!(regions.next().is_none(), "no more chunks than the map says");
        }
    }
}
