//! A device with a log on it, recovered without a mount, and judged.
#![allow(dead_code)]

pub mod log;

use std::sync::Arc;

use holdfast_fs::block::{MemDisk, Queue, Sector};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::log::head::{Ends, Found};
use holdfast_fs::xfs::log::recovery::{self, Recovered};
use holdfast_fs::xfs::ondisk::agf::Agf;
use holdfast_fs::xfs::ondisk::agi::Agi;
use holdfast_fs::xfs::ondisk::log_items::{OpHeader, UNMOUNT_PAYLOAD, op};
use holdfast_fs::xfs::ondisk::log_record::{Header, Lsn, NewRecord, next_cycle};
use holdfast_fs::xfs::ondisk::stamp_checksum;
use holdfast_fs::xfs::ondisk::superblock::{self, Superblock};
use holdfast_fs::xfs::types::{AgBlock, AgNumber};
use holdfast_fs::xfs::{Geometry, Mount, MountError, MountOptions};

use crate::xfs_support::mutate::Random;
use crate::xfs_support::{Scratch, contents, disk_over, repair_by, tool};

/// Pages of memory: 64 MiB.
const PAGES: u64 = 16384;

pub struct Device {
    pub disk: Arc<MemDisk>,
    pub queue: Arc<Queue>,
    pub memory: Arc<dyn Memory>,
    pub superblock: Superblock,
    pub geometry: Geometry,
}

impl Device {
    pub fn new(image: Arc<Vec<u8>>) -> Self {
        Self::over(disk_over(image))
    }
    pub fn over(disk: Arc<MemDisk>) -> Self {
        let mut start = vec![0; 4096];
        disk.peek(Sector(0), &mut start);
        let superblock = Superblock::decode(&start).expect("superblock");
        let geometry = Geometry::new(&superblock);
        let queue = Queue::new(disk.clone());
        Self { disk, queue, memory: HostMemory::new(PAGES), superblock, geometry }
    }
    /// The same with so many pages of memory.
    pub fn with_pages(mut self, pages: u64) -> Self {
        self.memory = HostMemory::new(pages);
        self
    }
    pub fn recover(&self) -> Result<Recovered, MountError> {
        recovery::recover(&self.queue, &self.memory, &self.geometry, &self.superblock)
    }
    /// Mount it for writing.
    pub fn mount(&self) -> Result<Arc<Mount>, MountError> {
        Mount::open(self.queue.clone(), self.memory.clone(), MountOptions::default())
    }
    /// Everything on it.
    pub fn contents(&self) -> Vec<u8> {
        contents(&self.disk)
    }
    /// 512-byte blocks of the log.
    pub fn log_blocks(&self) -> u32 {
        self.geometry.log_blocks << (self.geometry.block_log - 9)
    }
    pub fn log_sector(&self, block: u32) -> Sector {
        let start = self.geometry.sector(self.geometry.log_start);
        Sector(start.0 + u64::from(block % self.log_blocks()))
    }
    /// Write a record to the log, round the end if need be.
    pub fn put_record(&self, lsn: Lsn, record: &[u8]) {
        for (block, bytes) in (lsn.block()..).zip(record.chunks(512)) {
            self.disk.poke(self.log_sector(block), bytes);
        }
    }
    /// Make blocks of the log look as they did a lap before, those for which `lost` holds.
    pub fn lose(&self, lsn: Lsn, blocks: u32, mut lost: impl FnMut(u32) -> bool) {
        for i in (0..blocks).filter(|i| lost(*i)) {
            let block = lsn.block() + i;
            let behind = block >= self.log_blocks();
            let cycle = if behind { lsn.cycle() } else { lsn.cycle() - 1 };
            let mut old = vec![0xc3; 512];
            old[..4].copy_from_slice(&cycle.to_be_bytes());
            self.disk.poke(self.log_sector(block), &old);
        }
    }
    /// The bytes of a record.
    pub fn record(&self, lsn: Lsn, blocks: u32) -> Vec<u8> {
        let mut record = vec![0; blocks as usize * 512];
        for (block, bytes) in (lsn.block()..).zip(record.chunks_mut(512)) {
            self.disk.peek(self.log_sector(block), bytes);
        }
        record
    }
    /// Change some bytes of a record, and make its checksum right again if asked to.
    pub fn damage(&self, lsn: Lsn, blocks: u32, random: &mut dyn FnMut() -> u64, seal: bool) {
        let mut record = self.record(lsn, blocks);
        for _ in 0..1 + random() % 4 {
            let at = (random() % record.len() as u64) as usize;
            record[at] = random() as u8;
        }
        if seal {
            self.seal(lsn, &mut record);
        }
        self.put_record(lsn, &record);
    }
    /// Make the checksum of a record right.
    fn seal(&self, lsn: Lsn, record: &mut [u8]) {
        let word = |at: usize| u32::from_be_bytes(record[at..at + 4].try_into().expect("4"));
        let size = word(320).clamp(32 << 10, 256 << 10);
        let header = NewRecord {
            lsn,
            tail: Lsn(u64::from(word(24)) << 32 | u64::from(word(28))),
            previous: word(36),
            operations: word(40),
            size,
            uuid: self.geometry.uuid,
        };
        if record.len() <= header.header_blocks() * 512 {
            return;
        }
        // Sealing displaces words again: first put them back.
        let (headers, payload) = record.split_at_mut(header.header_blocks() * 512);
        for (i, block) in payload.chunks_mut(512).enumerate() {
            let start = if i < 64 { 44 } else { 4 };
            let at = i / 64 * 512 + start + i % 64 * 4;
            block[..4].copy_from_slice(&headers[at..at + 4]);
        }
        header.seal(record, self.log_blocks());
    }
    /// Inodes, free inodes and free blocks, from the headers of the groups.
    fn count(&self, g: &Geometry) -> (u64, u64, u64) {
        let (mut inodes, mut inodes_free, mut blocks_free) = (0, 0, 0);
        let unit = g.sector_bytes();
        for ag in (0..g.ag_count).map(AgNumber) {
            let mut headers = vec![0; 3 * unit];
            self.disk.peek(g.ag_sector(ag, AgBlock(0)), &mut headers);
            let agf = Agf::decode(&headers[unit..2 * unit], g, ag).expect("AGF");
            let agi = Agi::decode(&headers[2 * unit..], g, ag).expect("AGI");
            let free = [agf.free_blocks, agf.free_list_count, agf.btree_blocks];
            blocks_free += free.into_iter().map(u64::from).sum::<u64>();
            inodes += u64::from(agi.count);
            inodes_free += u64::from(agi.free_count);
        }
        (inodes, inodes_free, blocks_free)
    }
    /// What an unmount does: counters into the superblock, an unmount record.
    pub fn close(&self, ends: &Ends) {
        let mut sector = vec![0; self.geometry.sector_bytes()];
        self.disk.peek(Sector(0), &mut sector);
        // It can have grown.
        let geometry = Geometry::new(&Superblock::decode(&sector).expect("superblock"));
        let (inodes, inodes_free, blocks_free) = self.count(&geometry);
        sector[128..136].copy_from_slice(&inodes.to_be_bytes());
        sector[136..144].copy_from_slice(&inodes_free.to_be_bytes());
        sector[144..152].copy_from_slice(&blocks_free.to_be_bytes());
        stamp_checksum(&mut sector, superblock::CRC_OFFSET);
        self.disk.poke(Sector(0), &sector);
        let payload: Vec<u8> = [
            &OpHeader { transaction: 1, length: 8, client: op::CLIENT_LOG, flags: op::UNMOUNT }
                .encode()[..],
            &UNMOUNT_PAYLOAD,
        ]
        .concat();
        let unit = (self.geometry.log_stripe_unit_bytes as usize).max(512);
        let size = unit.max(32 << 10) as u32;
        let header = NewRecord {
            lsn: ends.head,
            tail: ends.head,
            previous: ends.previous_block(),
            operations: 1,
            size,
            uuid: self.geometry.uuid,
        };
        let start = header.header_blocks() * 512;
        let mut record = vec![0; (start + payload.len()).next_multiple_of(unit)];
        record[start..start + payload.len()].copy_from_slice(&payload);
        header.seal(&mut record, self.log_blocks());
        self.put_record(ends.head, &record);
    }
}

/// The records from the tail to the head of a log that needs recovery: where they start,
/// and their blocks.
pub fn records(device: &Device) -> Vec<(Lsn, u32)> {
    let found = recovery::find(&device.queue, &device.memory, &device.geometry);
    let ends = match found.expect("the log") {
        Found::Dirty(ends, _) => ends,
        other => panic!("{other:?}"),
    };
    let blocks = device.log_blocks();
    let mut records = Vec::new();
    let mut lsn = ends.tail;
    while lsn != ends.head {
        let first = device.record(lsn, 1);
        let header =
            Header::decode(&first, lsn.block(), blocks, device.geometry.uuid).expect("a record");
        records.push((lsn, header.blocks()));
        let end = lsn.block() + header.blocks();
        lsn = if end >= blocks {
            Lsn::new(next_cycle(lsn.cycle()), end - blocks)
        } else {
            Lsn::new(lsn.cycle(), end)
        };
    }
    records
}

/// Damage the log of an image at random, so many times: it is refused before anything is
/// written, or recovered. How often the one and the other.
pub fn damage_log(
    name: &str,
    image: &Arc<Vec<u8>>,
    records: &[(Lsn, u32)],
    rounds: u64,
) -> [u32; 2] {
    let (mut accepted, mut turned_away) = (0, 0);
    for seed in 0..rounds {
        let device = Device::new(image.clone());
        let mut random = Random(seed);
        for _ in 0..1 + random.below(3) {
            let (lsn, blocks) = records[random.below(records.len())];
            // More often than not with the checksum made right again.
            device.damage(lsn, blocks, &mut || random.next(), seed % 4 > 0);
        }
        match device.recover() {
            Ok(_) => accepted += 1,
            Err(e) => {
                turned_away += 1;
                let writes = device.queue.statistics().write.requests;
                assert_eq!(writes, 0, "{name}, seed {seed}: written, then {e}");
            }
        }
    }
    println!("{name}: {accepted} accepted, {turned_away} refused");
    [accepted, turned_away]
}

/// Beginnings of lines that xfs_repair prints of any file system.
const ORDINARY: [&str; 6] = [
    "Phase ",
    "        - ",
    "No modify flag set",
    "Cannot get host filesystem geometry",
    "Repair may fail if there is a sector size mismatch",
    "the image and the host filesystem",
];
/// What may be left before a mount has finished what replay has not: staging extents of
/// copy on write, open files without a name.
pub const UNFINISHED: [&str; 5] = [
    "leftover CoW extent",
    "agi unlinked bucket",
    "disconnected inode",
    "would have cleared",
    "nlinks from 0 to 1",
];

/// What xfs_repair complains of in an image, but for lines that contain one of these.
pub fn complaints(scratch: &Scratch, image: &[u8], allowed: &[&str]) -> Vec<String> {
    let path = scratch.path("judged");
    std::fs::write(&path, image).expect("image");
    let (content, said) = repair_by(tool("xfs_repair"), &path);
    let complaints: Vec<String> = said
        .lines()
        .filter(|line| !line.is_empty() && !ORDINARY.iter().any(|o| line.starts_with(o)))
        .map(String::from)
        .collect();
    assert!(content || !complaints.is_empty(), "{said}");
    complaints.into_iter().filter(|line| !allowed.iter().any(|a| line.contains(a))).collect()
}
