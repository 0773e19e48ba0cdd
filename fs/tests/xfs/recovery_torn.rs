//! Recovery when headers of groups are not what they should be: torn by the power cut, or
//! with a list of blocks set aside that contradicts itself.

use std::sync::Arc;

use crate::recovery_support::log::{Writer, buffer, inode};
use crate::recovery_support::{Device, complaints};
use crate::xfs_support::{Scratch, mkfs, xfs_db_write};

use holdfast_fs::block::Sector;
use holdfast_fs::xfs::Ino;
use holdfast_fs::xfs::alloc::{self, AllocRequest, Owner, Target};
use holdfast_fs::xfs::log::head::{Ends, Found};
use holdfast_fs::xfs::log::recovery;
use holdfast_fs::xfs::ondisk::log_items::BufKind;
use holdfast_fs::xfs::ondisk::stamp_checksum;
use holdfast_fs::xfs::types::{AgNumber, FsBlock};

fn clean_ends(device: &Device) -> Ends {
    match recovery::find(&device.queue, &device.memory, &device.geometry).expect("the log") {
        Found::Clean(ends) => ends,
        other => panic!("{other:?}"),
    }
}

fn sector(device: &Device, header: u64) -> (u64, Vec<u8>) {
    let mut bytes = vec![0; device.geometry.sector_bytes()];
    let at = header * bytes.len() as u64 / 512;
    device.disk.peek(Sector(at), &mut bytes);
    (at, bytes)
}

/// Such a list (programs that took it for longer or shorter than it is leave them) is no
/// reason to refuse a log that has to be recovered, whether the log has the AGF or not.
#[test]
fn a_list_that_contradicts_itself_is_mended_after_recovery() {
    let scratch = Scratch::new("recovery-list");
    let image = scratch.path("image");
    mkfs(&image, 16, &["-m", "rmapbt=0,reflink=0,finobt=0,inobtcount=0"], None);
    xfs_db_write(&image, &["agf 0", "write flfirst 116", "write fllast 1", "write flcount 3"]);
    let image = Arc::new(std::fs::read(&image).expect("image"));
    for logged in [false, true] {
        let device = Device::new(image.clone());
        let root = Ino(device.superblock.root_ino);
        let mut log = Writer::new(&device, &clean_ends(&device));
        let mode = (0o040_700u16).to_be_bytes();
        let mut items = vec![inode(&device, root, |core| core[2..4].copy_from_slice(&mode))];
        if logged {
            let (at, bytes) = sector(&device, 1);
            items.push(buffer(BufKind::Agf, at, bytes.len(), &[(0, &bytes[..128])]));
        }
        log.checkpoint(&items, 30 << 10);
        let mount = device.mount().unwrap_or_else(|e| panic!("logged: {logged}: {e}"));
        assert!(mount.agfl(AgNumber(0)).expect("a list").is_empty());
        let inode = mount.inode(root).expect("the root");
        assert_eq!(inode.attributes().mode & 0o777, 0o700, "recovered");
        let free = mount.counters().free_blocks();
        let mut tp = mount.begin(mount.reservations().write, 1).expect("begin");
        let wanted = AllocRequest::one(Target::Near(FsBlock(200)), Owner::Skip);
        assert!(alloc::allocate(&mut tp, &wanted).expect("allocate").is_some());
        tp.commit(&mut []).expect("commit");
        assert!(mount.agfl(AgNumber(0)).expect("a list").len() >= 4);
        assert_eq!(mount.counters().free_blocks(), free - 1);
        drop(inode);
        mount.unmount().expect("unmount");
    }
}

/// An AGFL in a sector of 4 KiB on a device that keeps 512 bytes together: its last write
/// in place was cut, and what that changed is in the log.
#[test]
fn a_torn_list_is_recovered() {
    let scratch = Scratch::new("recovery-torn-list");
    let image = scratch.path("image");
    mkfs(&image, 64, &["-s", "size=4096"], None);
    let image = Arc::new(std::fs::read(&image).expect("image"));
    // Which of its eight parts reached the disk.
    for kept in 0..=u8::MAX {
        let device = Device::new(image.clone());
        let mut log = Writer::new(&device, &clean_ends(&device));
        let (at, old) = sector(&device, 3);
        let mut new = old.clone();
        // Slots that are not in use.
        for slot in [1300, 2600, 3900] {
            new[slot..slot + 4].copy_from_slice(&77u32.to_be_bytes());
        }
        let lsn = log.head;
        new[24..32].copy_from_slice(&lsn.0.to_be_bytes());
        stamp_checksum(&mut new, 32);
        let parts = [1280, 2560, 3840].map(|at| (at, &new[at..at + 128]));
        log.checkpoint(&[buffer(BufKind::Agfl, at, new.len(), &parts)], 30 << 10);
        for part in (0..8).filter(|part| kept & 1 << part != 0) {
            let from = part as usize * 512;
            device.disk.poke(Sector(at + part), &new[from..from + 512]);
        }
        let mount = device.mount().unwrap_or_else(|e| panic!("kept {kept:#b}: {e}"));
        assert!(sector(&device, 3).1 == new, "kept {kept:#b}");
        mount.unmount().expect("unmount");
        if kept % 64 == 1 {
            let wrong = complaints(&scratch, &device.contents(), &[]);
            assert!(wrong.is_empty(), "{wrong:#?}");
        }
    }
}
