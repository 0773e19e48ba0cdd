//! Writing a log by hand: checkpoints of given items, in records.

use holdfast_fs::block::Sector;
use holdfast_fs::xfs::Ino;
use holdfast_fs::xfs::log::head::Ends;
use holdfast_fs::xfs::ondisk::inode::CORE_BYTES;
use holdfast_fs::xfs::ondisk::log_inode::{InodeFields, InodeFormat, core_to_log};
use holdfast_fs::xfs::ondisk::log_intents::{Done, Intent};
use holdfast_fs::xfs::ondisk::log_items::{
    BUF_CHUNK_BYTES, BufFormat, BufKind, ChunkMap, OpHeader, TransactionHeader, op,
};
use holdfast_fs::xfs::ondisk::log_record::{Lsn, NewRecord, next_cycle};

use super::Device;

/// The regions of an item.
pub type Item = Vec<Vec<u8>>;

/// Changed parts of a buffer: offset and bytes, in whole chunks.
pub fn buffer(kind: BufKind, sector: u64, bytes: usize, parts: &[(usize, &[u8])]) -> Item {
    let mut map = ChunkMap::new(bytes);
    for (at, part) in parts {
        assert!(at % BUF_CHUNK_BYTES == 0 && part.len() % BUF_CHUNK_BYTES == 0);
        map.mark(*at, at + part.len() - 1);
    }
    let blocks = (bytes / 512) as u16;
    let format = BufFormat { kind, flags: 0, blocks, daddr: sector, map };
    let mut first = Vec::new();
    format.encode(&mut first);
    core::iter::once(first).chain(parts.iter().map(|(_, part)| part.to_vec())).collect()
}

/// A buffer that was freed.
pub fn cancel(sector: u64, bytes: usize) -> Item {
    let map = ChunkMap::new(bytes);
    let blocks = (bytes / 512) as u16;
    let flags = BufFormat::CANCEL;
    let format = BufFormat { kind: BufKind::Btree, flags, blocks, daddr: sector, map };
    let mut first = Vec::new();
    format.encode(&mut first);
    vec![first]
}

/// The core of an inode as it is on disk, changed by `change`.
pub fn inode(device: &Device, ino: Ino, change: impl FnOnce(&mut [u8; CORE_BYTES])) -> Item {
    let g = &device.geometry;
    let (ag, block, slot) = g.locate_inode(ino).expect("an inode");
    let (first, blocks) = g.inode_cluster(block);
    let sector = g.ag_sector(ag, first);
    let offset = ((block.0 - first.0) << g.block_log) + (slot << g.inode_log);
    let mut core = [0; CORE_BYTES];
    let mut whole = vec![0; (blocks << g.block_log) as usize];
    device.disk.peek(sector, &mut whole);
    core.copy_from_slice(&whole[offset as usize..offset as usize + CORE_BYTES]);
    change(&mut core);
    let format = InodeFormat {
        fields: InodeFields::CORE,
        attr_bytes: 0,
        data_bytes: 0,
        ino,
        device: 0,
        daddr: sector.0,
        blocks: blocks << (g.block_log - 9),
        offset,
    };
    let mut first = Vec::new();
    format.encode(&mut first);
    vec![first, core_to_log(&core).to_vec()]
}

pub fn intent(id: u64, intent: &Intent) -> Item {
    let mut first = Vec::new();
    intent.encode(id, &mut first);
    vec![first]
}

pub fn done(id: u64, done: &Done) -> Item {
    let mut first = Vec::new();
    done.encode(id, &mut first);
    vec![first]
}

/// A writer of records.
pub struct Writer<'a> {
    device: &'a Device,
    pub head: Lsn,
    pub tail: Lsn,
    previous: u32,
    /// Bytes a record may hold.
    pub size: u32,
    /// Where each record started, and its blocks.
    pub records: Vec<(Lsn, u32)>,
    tid: u32,
}

impl<'a> Writer<'a> {
    /// Go on behind what is in the log. The first record is then the tail.
    pub fn new(device: &'a Device, ends: &Ends) -> Self {
        Self {
            device,
            head: ends.head,
            tail: ends.head,
            previous: ends.previous_block(),
            size: 32 << 10,
            records: Vec::new(),
            tid: 0x1000,
        }
    }
    /// Write a record with this payload.
    pub fn record(&mut self, payload: &[u8], operations: u32) {
        let header = NewRecord {
            lsn: self.head,
            tail: self.tail,
            previous: self.previous,
            operations,
            size: self.size,
            uuid: self.device.geometry.uuid,
        };
        let unit = (self.device.geometry.log_stripe_unit_bytes as usize).max(512);
        let start = header.header_blocks() * 512;
        let mut record = vec![0; (start + payload.len()).next_multiple_of(unit)];
        record[start..start + payload.len()].copy_from_slice(payload);
        header.seal(&mut record, self.device.log_blocks());
        self.device.put_record(self.head, &record);
        let blocks = (record.len() / 512) as u32;
        self.records.push((self.head, blocks));
        self.previous = self.head.block();
        let end = self.head.block() + blocks;
        self.head = if end >= self.device.log_blocks() {
            Lsn::new(next_cycle(self.head.cycle()), end - self.device.log_blocks())
        } else {
            Lsn::new(self.head.cycle(), end)
        };
    }
    /// Write a checkpoint, split over records of at most `room` bytes of payload.
    pub fn checkpoint(&mut self, items: &[Item], room: usize) {
        let (payloads, _) = self.payloads(items, room);
        for (payload, operations) in &payloads {
            self.record(payload, *operations);
        }
    }
    /// A checkpoint as one payload, with its number of operations.
    pub fn one_payload(&mut self, items: &[Item]) -> (Vec<u8>, u32) {
        let (mut payloads, _) = self.payloads(items, 1 << 20);
        payloads.remove(0)
    }
    /// A checkpoint that was cut off: all its records but the last.
    pub fn unfinished(&mut self, items: &[Item], room: usize) {
        let (payloads, _) = self.payloads(items, room);
        for (payload, operations) in &payloads[..payloads.len() - 1] {
            self.record(payload, *operations);
        }
    }
    fn payloads(&mut self, items: &[Item], room: usize) -> (Vec<(Vec<u8>, u32)>, u32) {
        self.tid += 1;
        let tid = self.tid;
        let header =
            TransactionHeader { transaction: tid, items: items.len() as u32 }.encode().to_vec();
        let mut payloads = vec![(Vec::new(), 0)];
        let mut put = |data: &[u8], flags: u8| {
            let mut rest = data;
            let mut went_on = false;
            loop {
                let (payload, count) = payloads.last_mut().expect("one");
                let free = room.saturating_sub(payload.len()) & !3;
                if free < OpHeader::BYTES + rest.len().min(4) {
                    payloads.push((Vec::new(), 0));
                    continue;
                }
                let take = rest.len().min(free - OpHeader::BYTES);
                let more = take < rest.len();
                let mut flags = flags;
                if went_on {
                    flags |= op::WAS_CONTINUED | if more { 0 } else { op::END };
                }
                if more {
                    flags |= op::CONTINUE;
                }
                let client = op::CLIENT_TRANSACTION;
                let header = OpHeader { transaction: tid, length: take as u32, client, flags };
                payload.extend_from_slice(&header.encode());
                payload.extend_from_slice(&rest[..take]);
                *count += 1;
                rest = &rest[take..];
                went_on = true;
                if rest.is_empty() {
                    break;
                }
            }
        };
        put(&[], op::START);
        put(&header, 0);
        items.iter().flatten().for_each(|region| put(region, 0));
        put(&[], op::COMMIT);
        (payloads, tid)
    }
    /// Make a record of those written look as it did before it was: the blocks for which
    /// `lost` holds.
    pub fn lose(&self, index: usize, lost: impl FnMut(u32) -> bool) {
        let (lsn, blocks) = self.records[index];
        self.device.lose(lsn, blocks, lost);
    }
    /// Damage a byte of a record.
    pub fn damage(&self, index: usize, byte: usize) {
        let (lsn, _) = self.records[index];
        let sector = self.device.log_sector(lsn.block() + (byte / 512) as u32);
        let mut block = vec![0; 512];
        self.device.disk.peek(sector, &mut block);
        block[byte % 512] ^= 0x10;
        self.device.disk.poke(Sector(sector.0), &block);
    }
}
