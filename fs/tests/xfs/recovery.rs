//! Recovery of logs made by hand: what is replayed, what is not, what is refused.

use std::sync::Arc;

use crate::recovery_support::log::{Item, Writer, buffer, cancel, done, inode, intent};
use crate::recovery_support::{Device, complaints, damage_log};
use crate::xfs_support::mutate::Random;
use crate::xfs_support::{Scratch, mkfs, mount_bytes, walk};

use holdfast_fs::block::{Fault, FaultDisk, Op, Queue, Sector};
use holdfast_fs::iomap::{Ops, Purpose};
use holdfast_fs::xfs::log::head::{Ends, Found};
use holdfast_fs::xfs::log::recovery;
use holdfast_fs::xfs::ondisk::inode::InodeCore;
use holdfast_fs::xfs::ondisk::log_intents::{
    AttrChange, Done, FreeExtent, Intent, MapExtent, PhysExtent, bmap, refcount, rmap,
};
use holdfast_fs::xfs::ondisk::log_items::{BufKind, IcreateFormat, item};
use holdfast_fs::xfs::ondisk::log_record::{Lsn, cycle_of};
use holdfast_fs::xfs::ondisk::superblock::Superblock;
use holdfast_fs::xfs::ondisk::{be64, stamp_checksum};
use holdfast_fs::xfs::types::{AgBlock, AgNumber, FsBlock};
use holdfast_fs::xfs::{Ino, Inode, Mount, MountError};

const FILES: u64 = 6;

/// A file system with a few empty files, unmounted.
struct Base {
    scratch: Scratch,
    image: Arc<Vec<u8>>,
    files: Vec<Ino>,
}

impl Base {
    fn new(name: &str, options: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        let (image, proto) = (scratch.path("image"), scratch.path("proto"));
        let files: String = (0..FILES).map(|i| format!("f{i} ---644 0 0 /dev/null\n")).collect();
        std::fs::write(&proto, format!("/\n0 0\nd--755 0 0\n{files}$\n")).expect("prototype");
        mkfs(&image, 32, options, Some(&proto));
        let image = Arc::new(std::fs::read(&image).expect("image"));
        let mount = mount_bytes(image.clone(), true).expect("mount");
        let find = |i| walk::resolve(&mount, &format!("/f{i}")).expect("file").ino();
        let files = (0..FILES).map(find).collect();
        Self { scratch, image, files }
    }
    fn device(&self) -> Device {
        Device::new(self.image.clone())
    }
    /// Recovered, closed and judged: what is there then.
    fn judged(&self, device: &Device, ends: &Ends) -> Vec<u8> {
        device.close(ends);
        let image = device.contents();
        let wrong = complaints(&self.scratch, &image, &[]);
        assert!(wrong.is_empty(), "{wrong:#?}");
        image
    }
    /// Change the permissions of a file.
    fn chmod(&self, device: &Device, file: usize, mode: u16) -> Item {
        inode(device, self.files[file], |core| {
            core[2..4].copy_from_slice(&(0o100_000 | mode).to_be_bytes());
        })
    }
}

fn clean_ends(device: &Device) -> Ends {
    match recovery::find(&device.queue, &device.memory, &device.geometry).expect("the log") {
        Found::Clean(ends) => ends,
        other => panic!("{other:?}"),
    }
}

/// All bytes of an inode.
fn inode_bytes(device: &Device, ino: Ino) -> (Sector, usize, Vec<u8>) {
    let g = &device.geometry;
    let (ag, block, slot) = g.locate_inode(ino).expect("an inode");
    let byte = (slot as usize) << g.inode_log;
    let sector = Sector(g.ag_sector(ag, block).0 + byte as u64 / 512);
    let mut bytes = vec![0; g.inode_bytes()];
    device.disk.peek(sector, &mut bytes);
    (sector, byte % 512, bytes)
}

/// Permissions and position in the log of an inode.
fn state(device: &Device, ino: Ino) -> (u16, u64) {
    let (_, _, bytes) = inode_bytes(device, ino);
    InodeCore::decode(&bytes, &device.geometry, ino).expect("a good inode");
    (u16::from_be_bytes([bytes[2], bytes[3]]) & 0o7777, be64(&bytes, 112).expect("lsn"))
}

fn sector_of(device: &Device, sector: u64, bytes: usize) -> Vec<u8> {
    let mut contents = vec![0; bytes];
    device.disk.peek(Sector(sector), &mut contents);
    contents
}

/// The superblock's first chunk with another label.
fn label(device: &Device, label: &[u8; 12]) -> Item {
    let mut start = sector_of(device, 0, 128);
    start[108..120].copy_from_slice(label);
    buffer(BufKind::Superblock, 0, device.geometry.sector_bytes(), &[(0, &start)])
}

/// Refused, and nothing was written.
fn refused(device: &Device, words: &str) {
    let error = device.recover().err().unwrap_or_else(|| panic!("accepted: {words}")).to_string();
    assert!(error.contains(words), "{error}, not: {words}");
    assert_eq!(device.queue.statistics().write.requests, 0, "{words}");
}

#[test]
fn committed_items_are_replayed_and_stamped() {
    for (options, room, size) in [
        (&[][..], 30 << 10, 32 << 10),
        (&["-b", "size=1024"][..], 100, 32 << 10),
        (&["-s", "size=4096"][..], 1 << 10, 256 << 10),
        (&["-l", "su=32k"][..], 200, 32 << 10),
    ] {
        let base = Base::new("recovery-basic", options);
        let device = base.device();
        let mut log = Writer::new(&device, &clean_ends(&device));
        log.size = size;
        let first = log.head;
        log.checkpoint(&[base.chmod(&device, 0, 0o600), base.chmod(&device, 1, 0o700)], room);
        let second = log.head;
        let items = [
            base.chmod(&device, 1, 0o711),
            label(&device, b"recovered\0\0\0"),
            base.chmod(&device, 2, 0o4755),
        ];
        log.checkpoint(&items, room);
        log.unfinished(&[base.chmod(&device, 3, 0o777), base.chmod(&device, 4, 0o777)], 100);
        let recovered = device.recover().expect("recovery");
        assert_eq!(recovered.statistics.checkpoints, 2, "{options:?}");
        assert_eq!(recovered.statistics.inodes, 4);
        assert_eq!(recovered.statistics.items.of(item::BUF), 1);
        assert_eq!((recovered.ends.head, recovered.ends.tail), (log.head, log.head));
        assert_eq!(&recovered.superblock.label, b"recovered\0\0\0");
        assert_eq!(state(&device, base.files[0]), (0o600, first.0));
        assert_eq!(state(&device, base.files[1]), (0o711, second.0));
        assert_eq!(state(&device, base.files[2]), (0o4755, second.0));
        assert_eq!(state(&device, base.files[3]).0, 0o644);
        let superblock =
            Superblock::decode(&sector_of(&device, 0, 4096)).expect("a good superblock");
        assert_eq!(superblock.lsn, second.0);
        base.judged(&device, &recovered.ends);
    }
}

#[test]
fn what_is_newer_on_disk_stays() {
    let base = Base::new("recovery-newer", &[]);
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    let first = log.head;
    let items: Vec<Item> = (0..3).map(|i| base.chmod(&device, i, 0o600)).collect();
    log.checkpoint(&items, 30 << 10);
    log.checkpoint(&[label(&device, b"in the log\0\0")], 30 << 10);
    let second = log.records[1].0;
    // One inode newer, one as new, one older than the first checkpoint.
    for (file, lsn) in [(0, first.0 + 1), (1, first.0), (2, first.0 - 1)] {
        let (sector, at, mut bytes) = inode_bytes(&device, base.files[file]);
        bytes[112..120].copy_from_slice(&lsn.to_be_bytes());
        stamp_checksum(&mut bytes, 100);
        device.disk.poke_bytes(sector.0 * 512 + at as u64, &bytes);
    }
    // A buffer that is as new as the second.
    let mut sector = sector_of(&device, 0, 512);
    sector[240..248].copy_from_slice(&second.0.to_be_bytes());
    stamp_checksum(&mut sector, 224);
    device.disk.poke(Sector(0), &sector);
    let recovered = device.recover().expect("recovery");
    assert_eq!(state(&device, base.files[0]), (0o644, first.0 + 1));
    assert_eq!(state(&device, base.files[1]), (0o600, first.0));
    assert_eq!(state(&device, base.files[2]), (0o600, first.0));
    assert_eq!(recovered.superblock.label, [0; 12]);
    assert_eq!((recovered.statistics.newer, recovered.statistics.inodes), (2, 2));
    base.judged(&device, &recovered.ends);
}

#[test]
fn checkpoints_of_one_start_record_are_all_replayed() {
    // A record can hold the end of one checkpoint and all of another, or two: they share
    // the position that is stamped, and the second must not be taken for replayed.
    let base = Base::new("recovery-shared", &[]);
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    let mut payload = Vec::new();
    let mut operations = 0;
    for (i, name) in [b"first\0\0\0\0\0\0\0", b"second\0\0\0\0\0\0"].into_iter().enumerate() {
        let items = [label(&device, name), base.chmod(&device, i, 0o400)];
        let (bytes, count) = log.one_payload(&items);
        payload.extend(bytes);
        operations += count;
    }
    log.record(&payload, operations);
    let recovered = device.recover().expect("recovery");
    assert_eq!(recovered.statistics.checkpoints, 2);
    assert_eq!(&recovered.superblock.label, b"second\0\0\0\0\0\0");
    base.judged(&device, &recovered.ends);
}

#[test]
fn freed_buffers_are_not_replayed() {
    let base = Base::new("recovery-cancel", &[]);
    let device = base.device();
    let g = &device.geometry;
    // Free space: what is there must stay.
    let place = |block| g.ag_sector(AgNumber(0), AgBlock(block)).0;
    let bytes = g.block_bytes();
    // No tree block at all: were it replayed, it would be refused.
    let garbage = vec![0x5a; bytes];
    let old = |block| buffer(BufKind::Btree, place(block), bytes, &[(0, &garbage)]);
    let before = sector_of(&device, place(3500), bytes);
    let mut log = Writer::new(&device, &clean_ends(&device));
    log.checkpoint(&[old(3500), old(3501), base.chmod(&device, 0, 0o600)], 30 << 10);
    log.checkpoint(&[cancel(place(3500), bytes), cancel(place(3501), bytes)], 30 << 10);
    log.checkpoint(&[old(3501)], 30 << 10);
    log.checkpoint(&[cancel(place(3501), bytes)], 30 << 10);
    let recovered = device.recover().expect("recovery");
    assert_eq!(recovered.statistics.cancelled, 3);
    assert!(sector_of(&device, place(3500), bytes) == before);
    assert!(sector_of(&device, place(3501), bytes) == before);
    base.judged(&device, &recovered.ends);
    // Logged again behind the last cancel it counts, and here it is refused.
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    log.checkpoint(&[cancel(place(3500), bytes)], 30 << 10);
    log.checkpoint(&[old(3500)], 30 << 10);
    refused(&device, "bnobt block");
}

/// Bring the log to a state as if it had been gone round: the head at `block`, lap 7.
fn turn(device: &Device, block: u32) -> Ends {
    for i in 0..device.log_blocks() {
        let mut bytes = [0xb7; 512];
        let cycle: u32 = if i < block { 7 } else { 6 };
        bytes[..4].copy_from_slice(&cycle.to_be_bytes());
        device.disk.poke(device.log_sector(i), &bytes);
    }
    let lsn = Lsn::new(7, block - 2);
    device.close(&Ends { head: lsn, tail: lsn, last: lsn, size: 32 << 10, dropped: 0 });
    clean_ends(device)
}

#[test]
fn records_go_round_the_end_of_the_log() {
    let base = Base::new("recovery-wrap", &[]);
    let end = base.device().log_blocks();
    for (before_end, size) in [(1, 32 << 10), (2, 32 << 10), (5, 256 << 10), (9, 256 << 10)] {
        for records in 1..4 {
            let device = base.device();
            let ends = turn(&device, end - before_end);
            let mut log = Writer::new(&device, &ends);
            log.size = size;
            for i in 0..records {
                let items: Vec<Item> =
                    (0..5).map(|file| base.chmod(&device, file, 0o600 + i as u16)).collect();
                log.checkpoint(&items, 30 << 10);
            }
            let recovered = device.recover().expect("recovery");
            assert_eq!(recovered.statistics.records, records, "{before_end} {size}");
            assert_eq!(recovered.ends.head, log.head);
            assert_eq!(state(&device, base.files[4]).0, 0o600 + records as u16 - 1);
            base.judged(&device, &recovered.ends);
        }
    }
}

#[test]
fn the_torn_end_of_the_log_is_dropped() {
    let base = Base::new("recovery-torn", &[]);
    let mut random = Random(5);
    for round in 0..60 {
        let device = base.device();
        let ends = if round % 2 == 0 {
            clean_ends(&device)
        } else {
            turn(&device, device.log_blocks() - 1 - random.below(40) as u32)
        };
        let mut log = Writer::new(&device, &ends);
        let total = 4 + random.below(10);
        for i in 0..total {
            let items: Vec<Item> =
                (0..1 + random.below(5)).map(|_| base.chmod(&device, 0, i as u16)).collect();
            log.checkpoint(&items, 30 << 10);
        }
        // Of the records on their way at once, the first that is not whole ends the log.
        let keep = total - 1 - random.below(total.min(8) - 1);
        let (lsn, blocks) = log.records[keep];
        match random.below(3) {
            0 => log.lose(keep, |_| true),
            1 => {
                let one = random.below(blocks as usize) as u32;
                log.lose(keep, |block| block == one);
            }
            // Of the header's block the checksum covers the header only.
            _ => match 12 + random.below(blocks as usize * 512 - 12) {
                byte @ 328..512 => log.damage(keep, byte + 184),
                byte => log.damage(keep, byte),
            },
        }
        for later in keep + 1..total {
            match random.below(3) {
                0 => log.lose(later, |_| true),
                1 => log.lose(later, |block| block % 2 == 0),
                _ => {}
            }
        }
        let recovered = device.recover().unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(recovered.ends.head, lsn, "round {round}, kept {keep} of {total}");
        assert_eq!(recovered.statistics.records, keep as u64);
        assert_eq!(state(&device, base.files[0]).0, keep as u16 - 1);
        // Nothing of this lap is left ahead of the head.
        let ahead = 4096.min(device.log_blocks() - 1);
        for i in 0..ahead {
            let block = lsn.block() + i;
            let bytes = sector_of(&device, device.log_sector(block).0, 512);
            let lap = if block < device.log_blocks() { lsn.cycle() - 1 } else { lsn.cycle() };
            assert_eq!(cycle_of(&bytes), lap, "round {round}: block {i} ahead");
        }
        // A shorter write, cut off, does not bring the old records back.
        let mut log = Writer::new(&device, &recovered.ends);
        log.checkpoint(&[base.chmod(&device, 0, 0o123)], 30 << 10);
        let again = device.recover().unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(again.ends.head, log.head, "round {round}");
        assert_eq!(state(&device, base.files[0]).0, 0o123);
        if round % 10 == 0 {
            base.judged(&device, &again.ends);
        }
    }
}

#[test]
fn damage_where_the_log_is_needed_is_refused() {
    let base = Base::new("recovery-damage", &[]);
    let made = |device: &Device, total: usize, damaged: usize, byte: usize| {
        let mut log = Writer::new(device, &clean_ends(device));
        for i in 0..total {
            log.checkpoint(&[base.chmod(device, 0, i as u16), base.chmod(device, 1, 0)], 30 << 10);
        }
        log.damage(damaged, byte);
    };
    for (damaged, byte, words) in
        [(0, 700, "bad checksum"), (5, 100, "bad checksum"), (11, 513, "bad checksum")]
    {
        let device = base.device();
        made(&device, 20, damaged, byte);
        refused(&device, words);
    }
    let device = base.device();
    made(&device, 20, 3, 305);
    refused(&device, "UUID");
    let device = base.device();
    made(&device, 20, 3, 11);
    refused(&device, "version");
}

#[test]
fn unfinished_intents_are_handed_over_in_order() {
    let base = Base::new("recovery-intents", &["-m", "rmapbt=1,reflink=1"]);
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    let start = FsBlock(600);
    let free = Intent::Efi(vec![FreeExtent { start, blocks: 3 }; 2]);
    let owner = base.files[0].0;
    let map = |flags| MapExtent { owner, start, offset: 7, blocks: 2, flags };
    let unmap = Intent::Rui(vec![map(rmap::UNMAP | rmap::UNWRITTEN)]);
    let count = Intent::Cui(vec![PhysExtent { start, blocks: 1, flags: refcount::DECREASE }]);
    let remap = Intent::Bui(vec![map(2)]);
    // The same number may be used again once it is done; types are apart.
    log.checkpoint(&[intent(1, &free), intent(2, &unmap)], 30 << 10);
    let second = log.head;
    log.checkpoint(&[done(1, &Done::Efd(Vec::new())), intent(1, &count), intent(3, &remap)], 64);
    let third = log.head;
    log.checkpoint(&[done(2, &Done::Cud), done(2, &Done::Rud), intent(2, &free)], 30 << 10);
    let recovered = device.recover().expect("recovery");
    let pending: Vec<(Lsn, u64, &Intent)> =
        recovered.intents.iter().map(|p| (p.lsn, p.id, &p.intent)).collect();
    assert_eq!(pending, [(second, 1, &count), (second, 3, &remap), (third, 2, &free)]);
    assert_eq!(recovered.ends.tail, second);
    // As 32-bit systems pack it.
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    let mut packed = intent(9, &free);
    let extents: Vec<u8> = packed[0][16..].chunks(16).flat_map(|e| e[..12].to_vec()).collect();
    packed[0].truncate(16);
    packed[0].extend(extents);
    log.checkpoint(&[packed], 30 << 10);
    let recovered = device.recover().expect("recovery");
    assert_eq!(recovered.intents[0].intent, free);
}

#[test]
fn what_cannot_be_replayed_is_refused_by_name() {
    let base = Base::new("recovery-refused", &["-m", "rmapbt=0,reflink=0"]);
    let sectors = base.device().geometry.data_blocks * 8;
    let log_sector = base.device().log_sector(100).0;
    let start = FsBlock(600);
    let attr = AttrChange {
        ino: base.files[0],
        operation: 1,
        name_bytes: 0,
        value_bytes: 0,
        filter: 0,
        generation: 0,
    };
    let chunk = |sector| buffer(BufKind::Btree, sector, 4096, &[(0, &[0x11; 128])]);
    let unknown: Item = vec![vec![0x4f, 0x12, 1, 0, 0, 0, 0, 0]];
    let mut short = chunk(800);
    short.truncate(1);
    let mut foreign = base.chmod(&base.device(), 0, 0o600);
    foreign[0][16] ^= 0x20;
    let bad_mode = inode(&base.device(), base.files[1], |core| core[2] = 0x20);
    let gone = MapExtent { owner: 1, start, offset: 0, blocks: 1, flags: rmap::MAP };
    let icreate = |count, block| {
        let mut region = Vec::new();
        let length = 8;
        let format = IcreateFormat { ag: 0, block, count, inode_bytes: 512, length, generation: 1 };
        format.encode(&mut region);
        vec![region]
    };
    let cases: Vec<(Item, &str)> = vec![
        (unknown, "type 0x124f"),
        (chunk(sectors), "do not exist"),
        (chunk(u64::MAX - 3), "do not exist"),
        (chunk(log_sector), "lie in the log"),
        (short, "regions"),
        (chunk(8000), "bnobt block"),
        (buffer(BufKind::Unknown, 8000, 4096, &[(0, &[0; 128])]), "of no kind"),
        (buffer(BufKind::RtBitmap, 8000, 4096, &[(0, &[0; 128])]), "realtime"),
        (buffer(BufKind::Agf, 0, 512, &[(0, &[0; 128])]), "AGF"),
        (foreign, "INODE"),
        (bad_mode, "CharDevice"),
        (icreate(63, 3400), "ICREATE of 63 inodes"),
        (icreate(64, 1 << 20), "ICREATE of 8 blocks at block"),
        (intent(5, &Intent::Attri(attr)), "ATTRI"),
        (intent(5, &Intent::Rui(vec![gone])), "RUI without reverse mappings"),
        (
            intent(5, &Intent::Cui(vec![PhysExtent { start, blocks: 1, flags: 1 }])),
            "CUI without shared blocks",
        ),
        (
            intent(5, &Intent::Efi(vec![FreeExtent { start: FsBlock(1 << 40), blocks: 1 }])),
            "EFI of 1 blocks",
        ),
    ];
    for (item, words) in cases {
        let device = base.device();
        let mut log = Writer::new(&device, &clean_ends(&device));
        // It stands behind much that is good.
        log.checkpoint(&[base.chmod(&device, 0, 0o600)], 30 << 10);
        log.checkpoint(&[label(&device, b"never seen\0\0"), item], 30 << 10);
        log.checkpoint(&[base.chmod(&device, 2, 0o600)], 30 << 10);
        refused(&device, words);
    }
    // What is not needed any more may be of any kind.
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    log.checkpoint(&[intent(5, &Intent::Attri(attr)), base.chmod(&device, 0, 0o600)], 200);
    log.checkpoint(&[done(5, &Done::Attrd)], 30 << 10);
    assert!(device.recover().expect("recovery").intents.is_empty());
}

#[test]
fn new_inodes_are_initialised() {
    let base = Base::new("recovery-icreate", &[]);
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    let mut region = Vec::new();
    IcreateFormat {
        ag: 0,
        block: 3400,
        count: 64,
        inode_bytes: 512,
        length: 8,
        generation: 0xabcd,
    }
    .encode(&mut region);
    log.checkpoint(&[vec![region]], 30 << 10);
    device.recover().expect("recovery");
    let g = &device.geometry;
    for number in 3400 * 8..3408 * 8 {
        let ino = g.ino(AgNumber(0), number);
        let (_, _, bytes) = inode_bytes(&device, ino);
        InodeCore::decode(&bytes, g, ino).expect("a good inode");
        assert_eq!(bytes[92..100], [0, 0, 0xab, 0xcd, 0xff, 0xff, 0xff, 0xff]);
    }
}

#[test]
fn inodes_of_32_bit_systems_are_understood() {
    let base = Base::new("recovery-32", &[]);
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    let mut item = base.chmod(&device, 0, 0o421);
    // Without the padding in front of the inode's number.
    item[0].drain(12..16);
    log.checkpoint(&[item], 30 << 10);
    let recovered = device.recover().expect("recovery");
    assert_eq!(state(&device, base.files[0]).0, 0o421);
    base.judged(&device, &recovered.ends);
}

#[test]
fn random_damage_neither_panics_nor_writes_when_refused() {
    let rounds: u64 =
        std::env::var("HOLDFAST_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(400);
    let base = Base::new("recovery-fuzz", &["-m", "rmapbt=1,reflink=1"]);
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    let (sector, bytes) = (device.geometry.ag_sector(AgNumber(0), AgBlock(3500)).0, 4096);
    let start = FsBlock(600);
    let free = Intent::Efi(vec![FreeExtent { start, blocks: 3 }]);
    let mut new = Vec::new();
    IcreateFormat { ag: 0, block: 3400, count: 64, inode_bytes: 512, length: 8, generation: 1 }
        .encode(&mut new);
    for i in 0..6 {
        let items = [
            base.chmod(&device, i, 0o600),
            label(&device, b"fuzzed label"),
            intent(i as u64, &free),
            buffer(BufKind::Btree, sector, bytes, &[(256, &[7; 256]), (1024, &[8; 128])]),
            cancel(sector, bytes),
            vec![new.clone()],
            done(i as u64 / 2, &Done::Efd(Vec::new())),
        ];
        log.checkpoint(&items, if i % 2 == 0 { 30 << 10 } else { 300 });
    }
    let image = Arc::new(device.contents());
    let [accepted, refused] = damage_log("a log of ours", &image, &log.records, rounds);
    assert!(accepted > 0 && refused > 0);
}

/// Prints how long a full log of the usual size takes.
#[test]
#[ignore = "a measurement"]
fn a_full_log_takes() {
    let scratch = Scratch::new("recovery-full");
    let (path, proto) = (scratch.path("image"), scratch.path("proto"));
    let count = 4000;
    let files: String = (0..count).map(|i| format!("f{i} ---644 0 0 /dev/null\n")).collect();
    std::fs::write(&proto, format!("/\n0 0\nd--755 0 0\n{files}$\n")).expect("prototype");
    mkfs(&path, 400, &["-l", "size=64m"], Some(&proto));
    let image = Arc::new(std::fs::read(&path).expect("image"));
    let mount = mount_bytes(image.clone(), true).expect("mount");
    let root = mount.inode(mount.root()).expect("root");
    let names = walk::list(&root).expect("names");
    let inos: Vec<Ino> = names.iter().skip(2).map(|(_, ino, _)| *ino).collect();
    let device = Device::new(image);
    let mut log = Writer::new(&device, &clean_ends(&device));
    let items: Vec<Item> = inos.iter().map(|ino| inode(&device, *ino, |_| ())).collect();
    while log.head.block() < device.log_blocks() - 4096 {
        log.checkpoint(&items, 30 << 10);
    }
    let started = std::time::Instant::now();
    let recovered = device.recover().expect("recovery");
    println!("{:?} in {:?}", recovered.statistics, started.elapsed());
}

/// The blocks of a file that lies in one extent.
fn only_extent(mount: &Arc<Mount>, inode: &Arc<Inode>) -> (FsBlock, u32) {
    let map = inode.begin(0, inode.size(), Purpose::Read).expect("a map");
    assert!(map.end_bytes() >= inode.size(), "{map:?}");
    let sector = map.sector(0).expect("blocks");
    let blocks = inode.size().div_ceil(mount.geometry().block_bytes() as u64) as u32;
    (mount.geometry().block_at(sector), blocks)
}

#[test]
fn unfinished_changes_of_mappings_are_finished() {
    for options in [&["-m", "rmapbt=1,reflink=1"], &["-m", "rmapbt=0,reflink=1"]] {
        let scratch = Scratch::new("recovery-maps");
        let path = |name: &str| scratch.path(name);
        let data: Vec<u8> = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect();
        std::fs::write(path("data"), &data).expect("data");
        let lines = format!("a ---644 0 0 {}\nb ---644 0 0 /dev/null\n", path("data").display());
        std::fs::write(path("proto"), format!("/\n0 0\nd--755 0 0\n{lines}$\n")).expect("proto");
        mkfs(&path("image"), 32, options, Some(&path("proto")));
        let image = Arc::new(std::fs::read(path("image")).expect("image"));
        let mount = mount_bytes(image.clone(), true).expect("mount");
        let a = walk::resolve(&mount, "/a").expect("a");
        let b = walk::resolve(&mount, "/b").expect("b").ino();
        let (start, blocks) = only_extent(&mount, &a);
        let map = |owner: Ino, flags| MapExtent { owner: owner.0, start, offset: 0, blocks, flags };
        let count = |flags| Intent::Cui(vec![PhysExtent { start, blocks, flags }]);
        let shares = |device: &Device, ino, bytes: u64| {
            inode(device, ino, |core| {
                core[127] |= 2;
                core[56..64].copy_from_slice(&bytes.to_be_bytes());
            })
        };
        // The blocks of one file were about to be given to the other as well.
        let device = Device::new(image.clone());
        let mut log = Writer::new(&device, &clean_ends(&device));
        let length = data.len() as u64;
        let items = [
            shares(&device, a.ino(), length),
            shares(&device, b, length),
            intent(1, &count(refcount::INCREASE)),
            intent(2, &Intent::Bui(vec![map(b, bmap::MAP)])),
        ];
        log.checkpoint(&items, 30 << 10);
        let mount = device.mount().expect("mount");
        mount.unmount().expect("unmount");
        drop(mount);
        let shared = Arc::new(device.contents());
        let wrong = complaints(&scratch, &shared, &[]);
        assert!(wrong.is_empty(), "{wrong:#?}");
        let mount = mount_bytes(shared.clone(), true).expect("mount");
        for name in ["/a", "/b"] {
            let file = walk::resolve(&mount, name).expect("file");
            assert!(walk::read_file(&file).expect("contents") == data, "{name}");
        }
        // And now to be taken from the first.
        let device = Device::new(shared);
        let mut log = Writer::new(&device, &clean_ends(&device));
        let items = [
            intent(7, &Intent::Bui(vec![map(a.ino(), bmap::UNMAP)])),
            intent(8, &count(refcount::DECREASE)),
        ];
        log.checkpoint(&items, 30 << 10);
        let mount = device.mount().expect("mount");
        mount.unmount().expect("unmount");
        drop(mount);
        let image = Arc::new(device.contents());
        let wrong = complaints(&scratch, &image, &[]);
        assert!(wrong.is_empty(), "{wrong:#?}");
        let mount = mount_bytes(image, true).expect("mount");
        let contents =
            |name| walk::read_file(&walk::resolve(&mount, name).expect("file")).expect("contents");
        assert!(contents("/a").iter().all(|byte| *byte == 0));
        assert!(contents("/b") == data);
    }
}

#[test]
fn recovery_that_is_cut_off_starts_over() {
    let base = Base::new("recovery-cut", &[]);
    let device = base.device();
    let mut log = Writer::new(&device, &clean_ends(&device));
    for i in 0..4 {
        log.checkpoint(&[base.chmod(&device, i, 0o600), label(&device, b"cut off\0\0\0\0\0")], 200);
    }
    let dirty = Arc::new(device.contents());
    device.recover().expect("recovery");
    let whole = device.contents();
    let mut n = 0;
    loop {
        let device = Device::new(dirty.clone());
        let faulty = FaultDisk::new(device.disk.clone());
        faulty.inject(Fault::After { op: Op::Write, n });
        let queue = Queue::new(faulty.clone());
        let result =
            recovery::recover(&queue, &device.memory, &device.geometry, &device.superblock);
        if result.is_ok() {
            assert_eq!(faulty.failed(), 0);
            break;
        }
        assert!(matches!(result, Err(MountError::Io(_))), "{:?}", result.err());
        device.recover().expect("the second attempt");
        assert!(device.contents() == whole, "cut off at write {n}");
        n += 1;
    }
    assert!(n >= 2, "only {n} writes");
}
