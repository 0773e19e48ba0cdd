//! What is mounted and what is refused, and by which name: features, damage to the
//! superblock, the state of the log.

use std::sync::Arc;

use crate::xfs_support::mutate::Random;
use crate::xfs_support::{Scratch, mkfs, mount_bytes, mount_disk, run, tool, walk};
use holdfast_fs::block::{MemDisk, MemDiskConfig};
use holdfast_fs::xfs::log::head::LogState;
use holdfast_fs::xfs::ondisk::log_record::{self, Lsn};
use holdfast_fs::xfs::ondisk::{checksum_pieces, stamp_checksum, superblock};
use holdfast_fs::xfs::{Mount, MountError};

fn fresh(name: &str, megabytes: u64, options: &[&str]) -> Vec<u8> {
    let scratch = Scratch::new(name);
    let image = scratch.path("image");
    mkfs(&image, megabytes, options, None);
    std::fs::read(&image).expect("image")
}

/// Change bytes of the first superblock and make its checksum right.
fn patched(image: &[u8], at: usize, bytes: &[u8]) -> Arc<Vec<u8>> {
    let mut image = image.to_vec();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    let sector = usize::from(u16::from_be_bytes([image[102], image[103]])).clamp(512, 4096);
    stamp_checksum(&mut image[..sector], superblock::CRC_OFFSET);
    Arc::new(image)
}

fn refusal(image: Arc<Vec<u8>>, readonly: bool) -> String {
    match mount_bytes(image, readonly) {
        Ok(_) => panic!("mounted"),
        Err(e) => e.to_string(),
    }
}

#[test]
fn features_are_refused_by_name() {
    let image = fresh("xfs-features", 16, &[]);
    let incompat = u32::from_be_bytes([image[216], image[217], image[218], image[219]]);
    let ro_compat = u32::from_be_bytes([image[212], image[213], image[214], image[215]]);
    let with = |bits: u32| (incompat | bits).to_be_bytes();
    // Offset, bytes, words of the message; also when mounted read-only.
    let always: &[(usize, &[u8], &str)] = &[
        (100, &[0xb4, 0xa4], "version 4"),
        (100, &[0xb4, 0xa3], "version 3"),
        (126, &[1], "mkfs did not finish"),
        (216, &with(0x10), "needsrepair"),
        (216, &with(0x100), "bit 8 (metadata directories)"),
        (216, &with(0x8000_0200), "bit 9 (zoned), bit 31"),
        (216, &(incompat & !1).to_be_bytes(), "ftype=0"),
        (16, &100u64.to_be_bytes(), "realtime"),
        (24, &100u64.to_be_bytes(), "realtime"),
        (48, &[0; 8], "external log"),
    ];
    for (at, bytes, words) in always {
        for readonly in [false, true] {
            let message = refusal(patched(&image, *at, bytes), readonly);
            assert!(message.contains(words) && message.contains("unsupported"), "{message}");
        }
    }
    let writing: &[(usize, &[u8], &str)] = &[
        (212, &(ro_compat | 0x10).to_be_bytes(), "read-only compatible features bit 4"),
        (220, &8u32.to_be_bytes(), "log features bit 3"),
    ];
    for (at, bytes, words) in writing {
        let message = refusal(patched(&image, *at, bytes), false);
        assert!(message.contains(words), "{message}");
        let mount = mount_bytes(patched(&image, *at, bytes), true).expect("read-only");
        assert!(mount.readonly());
        assert_eq!(walk::tree(&mount).errors, Vec::new());
    }
}

#[test]
fn blocks_larger_than_a_page_are_refused() {
    let image = Arc::new(fresh("xfs-64k", 600, &["-b", "size=65536"]));
    let message = refusal(image.clone(), false);
    assert!(message.contains("blocks of 65536 bytes"), "{message}");
    assert!(refusal(image, true).contains("larger than a page"));
}

#[test]
fn other_contents_and_short_devices_are_refused() {
    let zeros = Arc::new(vec![0; 1 << 20]);
    assert_eq!(mount_bytes(zeros, true).err(), Some(MountError::NotXfs));
    assert_eq!(mount_bytes(Arc::new(Vec::new()), true).err(), Some(MountError::NotXfs));
    let image = fresh("xfs-short", 16, &[]);
    let needed_sectors = image.len() as u64 / 512;
    let short = Arc::new(image[..image.len() - 4096].to_vec());
    let device_sectors = needed_sectors - 8;
    assert_eq!(
        mount_bytes(short, false).err(),
        Some(MountError::DeviceTooSmall { needed_sectors, device_sectors })
    );
    // A device that transfers 4096 bytes at least cannot hold sectors of 512.
    let config = MemDiskConfig {
        capacity_sectors: needed_sectors,
        logical_block_bytes: 4096,
        ..MemDiskConfig::default()
    };
    let disk = MemDisk::over(Arc::new(image), config);
    let error = mount_disk(disk, false).err().expect("refused").to_string();
    assert!(error.contains("sectors of 512 bytes"), "{error}");
}

#[test]
fn large_sectors_work_on_such_devices() {
    let image = fresh("xfs-4k-sectors", 64, &["-s", "size=4096"]);
    let config = MemDiskConfig {
        capacity_sectors: image.len() as u64 / 512,
        logical_block_bytes: 4096,
        ..MemDiskConfig::default()
    };
    let mount = mount_disk(MemDisk::over(Arc::new(image), config), false).expect("mount");
    assert_eq!(walk::tree(&mount).errors, Vec::new());
}

#[test]
fn damaged_superblocks_are_named() {
    let image = fresh("xfs-superblock", 16, &[]);
    let mut broken = image.clone();
    broken[130] ^= 1;
    let message = refusal(Arc::new(broken), true);
    assert!(message.contains("superblock") && message.contains("checksum"), "{message}");
    let fields: &[(usize, &[u8])] = &[
        (4, &3000u32.to_be_bytes()),
        (84, &1u32.to_be_bytes()),
        (88, &[0; 4]),
        (88, &u32::MAX.to_be_bytes()),
        (96, &u32::MAX.to_be_bytes()),
        (104, &[0; 2]),
        (120, &[40]),
        (122, &[8]),
        (124, &[60]),
        (180, &3u32.to_be_bytes()),
        (184, &7u32.to_be_bytes()),
        (192, &[9]),
        (48, &u64::MAX.to_be_bytes()),
        (56, &u64::MAX.to_be_bytes()),
        (8, &u64::MAX.to_be_bytes()),
    ];
    for (at, bytes) in fields {
        match mount_bytes(patched(&image, *at, bytes), true) {
            Err(MountError::Corrupt(c)) => assert_eq!(c.structure, "superblock", "{c}"),
            other => panic!("bytes {bytes:?} at {at}: {:?}", other.err()),
        }
    }
    // A root that is not a directory is found out as well.
    let root = u64::from_be_bytes(image[56..64].try_into().expect("8 bytes"));
    let message = refusal(patched(&image, 56, &(root + 1).to_be_bytes()), true);
    assert!(message.contains("not a directory"), "{message}");
}

/// The log of an image, to write records into.
struct Log {
    image: Vec<u8>,
    start: usize,
    blocks: u32,
}

impl Log {
    fn new(image: &[u8]) -> Self {
        let mount = mount_bytes(Arc::new(image.to_vec()), true).expect("mount");
        let geometry = mount.geometry();
        Self {
            image: image.to_vec(),
            start: geometry.sector(geometry.log_start).0 as usize * 512,
            blocks: geometry.log_blocks << (geometry.block_log - 9),
        }
    }
    fn block(&mut self, block: u32) -> &mut [u8] {
        let at = self.start + (block % self.blocks) as usize * 512;
        &mut self.image[at..at + 512]
    }
    /// Lap `cycle` up to `head`, the one before from there on.
    fn fill(&mut self, cycle: u32, head: u32, random: &mut Random) {
        for i in 0..self.blocks {
            let lap = if i < head { cycle } else { cycle - 1 };
            let noise = random.next();
            let block = self.block(i);
            block.fill(noise as u8);
            block[..4].copy_from_slice(&lap.to_be_bytes());
        }
    }
    /// Write a record that ends right before `head`, itself of lap `cycle`.
    fn record(&mut self, cycle: u32, head: u32, length: u32, size: u32, flags: u8, crc: bool) {
        let uuid = self.image[32..48].to_vec();
        let headers = size.div_ceil(32 << 10).max(1);
        let payload_blocks = length.div_ceil(512);
        let start = (head + self.blocks - headers - payload_blocks) % self.blocks;
        let wraps = start >= head;
        let first_cycle = if wraps && head > 0 { cycle - 1 } else { cycle };
        let mut header = vec![0u8; 512 * headers as usize];
        let put =
            |h: &mut Vec<u8>, at: usize, v: u32| h[at..at + 4].copy_from_slice(&v.to_be_bytes());
        put(&mut header, 0, log_record::MAGIC);
        put(&mut header, 4, first_cycle);
        put(&mut header, 8, 2);
        put(&mut header, 12, length);
        put(&mut header, 16, first_cycle);
        put(&mut header, 20, start);
        put(&mut header, 24, first_cycle);
        put(&mut header, 28, start);
        put(&mut header, 40, 1);
        put(&mut header, 300, 1);
        header[304..320].copy_from_slice(&uuid);
        put(&mut header, 320, size);
        let mut payload = vec![0u8; payload_blocks as usize * 512];
        payload[7] = 8;
        payload[8] = 0xaa;
        payload[9] = flags;
        payload[12..14].copy_from_slice(&0x556eu16.to_le_bytes());
        let lap = |block: u32| if wraps && block < start { first_cycle + 1 } else { first_cycle };
        for i in 1..headers {
            let at = (start + i) % self.blocks;
            put(&mut header, i as usize * 512, lap(at));
        }
        for i in 0..payload_blocks {
            let at = (start + headers + i) % self.blocks;
            put(&mut payload, i as usize * 512, lap(at));
        }
        if crc {
            let mut pieces: Vec<&[u8]> = vec![&header[..328]];
            for i in 1..headers as usize {
                if i * 64 < payload_blocks as usize {
                    pieces.push(&header[i * 512..i * 512 + 260]);
                }
            }
            pieces.push(&payload[..length as usize]);
            let sum = checksum_pieces(&pieces);
            header[32..36].copy_from_slice(&sum.to_le_bytes());
        }
        for (i, bytes) in (0..).zip(header.chunks(512).chain(payload.chunks(512))) {
            self.block(start + i).copy_from_slice(bytes);
        }
    }
    fn state(&self) -> LogState {
        let mount = mount_bytes(Arc::new(self.image.clone()), true).expect("read-only mount");
        mount.log_state().clone()
    }
    fn mount(&self) -> Result<Arc<Mount>, MountError> {
        mount_bytes(Arc::new(self.image.clone()), false)
    }
}

const UNMOUNT: u8 = 0x20;

#[test]
fn the_head_of_the_log_is_found_anywhere() {
    let image = fresh("xfs-log-head", 16, &[]);
    let mut log = Log::new(&image);
    let mut random = Random(7);
    let blocks = log.blocks;
    let mut heads = vec![0, 1, 2, 3, 4, 5, 63, 64, 65, 66, blocks / 2, blocks - 2, blocks - 1];
    heads.extend((0..20).map(|_| random.below(blocks as usize) as u32));
    for head in heads {
        for (length, size) in [(512, 32 << 10), (32 << 10, 32 << 10), (256 << 10, 256 << 10)] {
            let cycle = 5 + random.below(1000) as u32;
            // A record that ends at the end of the ring is of the lap that ends there.
            let (fill, before, next) =
                if head == 0 { (blocks, cycle, cycle + 1) } else { (head, cycle, cycle) };
            log.fill(cycle, fill, &mut random);
            log.record(before, head, length, size, UNMOUNT, true);
            let clean = LogState::Clean { head: Lsn::new(next, head) };
            assert_eq!(log.state(), clean, "head {head}, {length} bytes");
            assert!(log.mount().is_ok());
            // Not an unmount.
            log.record(before, head, length, size, 2, true);
            assert!(matches!(log.state(), LogState::Dirty { .. }), "head {head}");
        }
    }
}

#[test]
fn doubtful_logs_are_dirty() {
    let image = fresh("xfs-log-doubt", 16, &[]);
    let (cycle, head) = (9, 700);
    let mut random = Random(11);
    let mut crafted = || {
        let mut log = Log::new(&image);
        log.fill(cycle, head, &mut random);
        log.record(cycle, head, 1024, 32 << 10, UNMOUNT, true);
        log
    };
    assert!(crafted().mount().is_ok());
    type Damage = (&'static str, fn(&mut Log));
    let damages: &[Damage] = &[
        ("checksum", |log| log.block(699)[100] ^= 1),
        ("UUID", |log| log.block(697)[304] ^= 1),
        ("no record", |log| log.block(697)[0] = 0),
        ("does not end at the head", |log| log.record(9, 690, 512, 32 << 10, UNMOUNT, true)),
        ("it says it is at", |log| log.block(697)[23] ^= 1),
        ("version", |log| log.block(697)[11] = 1),
        ("lap", |log| log.block(0)[3] = 200),
        ("starts with zeros", |log| log.block(0).fill(0)),
    ];
    for (words, damage) in damages {
        let mut log = crafted();
        if *words == "does not end at the head" {
            for i in 690..700 {
                log.block(i)[..4].copy_from_slice(&9u32.to_be_bytes());
            }
        }
        damage(&mut log);
        match log.mount() {
            Err(MountError::DirtyLog(reason)) => assert!(reason.contains(words), "{reason}"),
            other => panic!("{words}: {:?}", other.err()),
        }
        // Read-only it can be looked at.
        assert!(matches!(log.state(), LogState::Dirty { .. }));
    }
    // A log of zeros is what a repair may leave.
    let mut log = crafted();
    for i in 0..log.blocks {
        log.block(i).fill(0);
    }
    assert_eq!(log.state(), LogState::Clean { head: Lsn::new(1, 0) });
}

#[test]
fn logs_of_all_stripe_units_are_clean_after_mkfs_and_repair() {
    let scratch = Scratch::new("xfs-log-units");
    let image = scratch.path("image");
    for unit in ["4096", "32k", "128k", "256k"] {
        mkfs(&image, 128, &["-d", "agcount=2", "-l", &format!("su={unit}")], None);
        let mount = crate::xfs_support::mount_file(&image);
        assert!(matches!(mount.log_state(), LogState::Clean { .. }), "{unit}");
        run(tool("xfs_repair").args(["-f", "-L"]).arg(&image));
        let mount = crate::xfs_support::mount_file(&image);
        assert!(matches!(mount.log_state(), LogState::Clean { .. }), "{unit} after repair");
    }
}
