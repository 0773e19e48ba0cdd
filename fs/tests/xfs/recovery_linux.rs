//! Recovery of logs that Linux left.
//!
//! `HOLDFAST_DIRTY` names directories, separated by colons, each with an image `dirty`
//! whose log Linux left dirty, and the same image `recovered`, which Linux mounted and
//! unmounted after that. dirty.sh makes them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::recovery_support::{Device, UNFINISHED, complaints, damage_log, records};
use crate::xfs_support::mutate::Random;
use crate::xfs_support::{Scratch, disk_over, mount_bytes, mount_disk, walk};

use holdfast_fs::block::{Fault, FaultDisk, Op};
use holdfast_fs::xfs::ondisk::log_items::item;
use holdfast_fs::xfs::{FileType, Mount};

fn directories() -> Vec<PathBuf> {
    let dirs = std::env::var("HOLDFAST_DIRTY").expect("HOLDFAST_DIRTY is not set");
    dirs.split(':').map(PathBuf::from).collect()
}

fn read(path: &Path) -> Arc<Vec<u8>> {
    Arc::new(std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// Names, attributes and contents of everything.
fn everything(mount: &Arc<Mount>) -> BTreeMap<Vec<u8>, (walk::Object, Vec<u8>)> {
    let tree = walk::tree(mount);
    assert!(tree.errors.is_empty(), "{:?}", tree.errors);
    let read = |object: &walk::Object| {
        let inode = mount.inode(object.ino).expect("inode");
        match inode.file_type() {
            FileType::Regular => walk::read_file(&inode).expect("contents"),
            _ => Vec::new(),
        }
    };
    tree.objects
        .into_iter()
        .map(|(path, object)| {
            let contents = read(&object);
            (path, (object, contents))
        })
        .collect()
}

fn assert_same(ours: &Arc<Mount>, theirs: &Arc<Mount>, what: &str) {
    let (ours, theirs) = (everything(ours), everything(theirs));
    for (path, (object, contents)) in &theirs {
        let name = String::from_utf8_lossy(path);
        let Some((our_object, our_contents)) = ours.get(path) else {
            panic!("{what}: {name} is missing");
        };
        assert_eq!(our_object, object, "{what}: {name}");
        assert!(our_contents == contents, "{what}: the contents of {name}");
    }
    let more = ours.keys().find(|path| !theirs.contains_key(*path));
    assert!(more.is_none(), "{what}: {:?} should not be there", more);
    println!("{what}: {} objects agree", theirs.len());
}

#[test]
#[ignore = "needs images made by a Linux guest: see dirty.sh and HOLDFAST_DIRTY"]
fn what_linux_logged_is_recovered_as_linux_does() {
    let scratch = Scratch::new("recovery-linux");
    for dir in directories() {
        let name = dir.file_name().expect("name").to_string_lossy().into_owned();
        let device = Device::new(read(&dir.join("dirty")));
        let started = std::time::Instant::now();
        let recovered = device.recover().unwrap_or_else(|e| panic!("{name}: {e}"));
        let took = started.elapsed();
        let seen: Vec<String> = recovered
            .statistics
            .items
            .iter()
            .map(|(kind, count)| format!("{count} {}", item::name(kind)))
            .collect();
        println!("{name}: {} in {took:?}; {:?}", seen.join(", "), recovered.statistics);
        device.close(&recovered.ends);
        let image = device.contents();
        if recovered.intents.is_empty() {
            let wrong = complaints(&scratch, &image, &UNFINISHED);
            assert!(wrong.is_empty(), "{name}: {wrong:#?}");
        }
        let ours = mount_bytes(Arc::new(image), true).expect("our mount");
        if !dir.join("recovered").exists() {
            // Linux cannot recover this one itself.
            let objects = everything(&ours).len();
            println!("{name}: {objects} objects, judged by xfs_repair alone");
            continue;
        }
        let theirs = mount_bytes(read(&dir.join("recovered")), true).expect("their mount");
        assert_same(&ours, &theirs, &name);
        // Nothing is left to do.
        let again = Device::over(disk_over(Arc::new(device.contents())));
        let statistics = again.recover().expect("a clean log").statistics;
        assert_eq!(statistics.records, 0, "{name}");
    }
}

/// Cut the log off where it could have been: whatever was committed before is
/// consistent. Torn, the end leads to the same.
#[test]
#[ignore = "needs images made by a Linux guest: see dirty.sh and HOLDFAST_DIRTY"]
fn logs_of_linux_can_end_anywhere() {
    let scratch = Scratch::new("recovery-ends");
    let mut random = Random(3);
    for dir in directories() {
        let name = dir.file_name().expect("name").to_string_lossy().into_owned();
        let image = read(&dir.join("dirty"));
        let whole = Device::new(image.clone()).recover().expect("recovery");
        if whole.statistics.newer > 0 {
            // What was written in place already needs the whole log.
            continue;
        }
        let records = records(&Device::new(image.clone()));
        let mut judged = 0;
        let mut pending: BTreeMap<&str, usize> = BTreeMap::new();
        let step = records.len() / 8 + 1;
        for keep in (1..records.len()).filter(|i| records.len() - i < 9 || i % step == 0) {
            let cut = Device::new(image.clone());
            for (lsn, blocks) in &records[keep..] {
                cut.lose(*lsn, *blocks, |_| true);
            }
            let unrecovered = Arc::new(cut.contents());
            let recovered = cut.recover().unwrap_or_else(|e| panic!("{name}, {keep} records: {e}"));
            assert_eq!(recovered.ends.head, records[keep].0, "{name}, {keep} records");
            for intent in &recovered.intents {
                *pending.entry(item::name(intent.intent.item())).or_default() += 1;
            }
            // The records that were on their way together, in parts.
            let torn = Device::new(image.clone());
            let (lsn, blocks) = records[keep];
            let one = random.below(blocks as usize) as u32;
            torn.lose(lsn, blocks, |block| block == one);
            for (i, (lsn, blocks)) in records.iter().enumerate().skip(keep + 1) {
                let all = i - keep >= 8 || random.below(2) == 0;
                torn.lose(*lsn, *blocks, |_| all || random.below(2) == 0);
            }
            torn.recover().unwrap_or_else(|e| panic!("{name}, torn at {keep}: {e}"));
            let log = cut.log_sector(0).0 as usize * 512;
            let behind = log + cut.log_blocks() as usize * 512;
            let (cut, torn) = (cut.contents(), torn.contents());
            assert!(
                cut[..log] == torn[..log] && cut[behind..] == torn[behind..],
                "{name}, torn at {keep}"
            );
            // Mounted, what was not finished is.
            let device = Device::new(unrecovered);
            let mount = device.mount().unwrap_or_else(|e| panic!("{name}, {keep} records: {e}"));
            mount.unmount().unwrap_or_else(|e| panic!("{name}, {keep} records: {e}"));
            let wrong = complaints(&scratch, &device.contents(), &[]);
            assert!(wrong.is_empty(), "{name}, {keep} records: {wrong:#?}");
            judged += 1;
        }
        println!("{name}: {judged} ends judged; unfinished {pending:?}");
    }
}

/// Little memory: what is replayed is written in several parts.
#[test]
#[ignore = "needs images made by a Linux guest: see dirty.sh and HOLDFAST_DIRTY"]
fn logs_of_linux_are_replayed_in_little_memory() {
    for dir in directories() {
        let image = read(&dir.join("dirty"));
        let much = Device::new(image.clone());
        much.recover().expect("recovery");
        let little = Device::new(image.clone()).with_pages(300);
        little.recover().expect("recovery in little memory");
        assert!(much.contents() == little.contents(), "{}", dir.display());
    }
}

/// Random damage to logs of Linux.
#[test]
#[ignore = "needs images made by a Linux guest: see dirty.sh and HOLDFAST_DIRTY"]
fn damaged_logs_of_linux_are_refused_or_recovered() {
    let rounds: u64 =
        std::env::var("HOLDFAST_FUZZ_ROUNDS").ok().and_then(|n| n.parse().ok()).unwrap_or(60);
    for dir in directories() {
        let image = read(&dir.join("dirty"));
        let records = records(&Device::new(image.clone()));
        damage_log(&dir.display().to_string(), &image, &records, rounds);
    }
}

/// A mount finishes intents, frees what has no name and what was staged for copy on
/// write; unmounted, nothing is left to complain of, and all is as Linux has it.
#[test]
#[ignore = "needs images made by a Linux guest: see dirty.sh and HOLDFAST_DIRTY"]
fn a_mount_finishes_what_linux_began() {
    let scratch = Scratch::new("recovery-mount");
    for dir in directories() {
        let name = dir.file_name().expect("name").to_string_lossy().into_owned();
        let image = read(&dir.join("dirty"));
        let device = Device::new(image.clone());
        let mount = device.mount().unwrap_or_else(|e| panic!("{name}: {e}"));
        mount.unmount().unwrap_or_else(|e| panic!("{name}: {e}"));
        drop(mount);
        let whole = device.contents();
        let wrong = complaints(&scratch, &whole, &[]);
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
        let theirs = dir.join("recovered");
        if theirs.exists() {
            let ours = mount_bytes(Arc::new(whole), true).expect("our mount");
            let theirs = mount_bytes(read(&theirs), true).expect("their mount");
            assert_same(&ours, &theirs, &name);
        }
        // Cut off at some write and mounted again.
        let writes = device.queue.statistics().write.requests;
        for n in (0..writes).step_by(1 + writes as usize / 8) {
            let device = Device::new(image.clone());
            let faulty = FaultDisk::new(device.disk.clone());
            faulty.inject(Fault::After { op: Op::Write, n });
            if let Ok(mount) = mount_disk(faulty.clone(), false) {
                let _ = mount.unmount();
            }
            let again = Device::new(Arc::new(device.contents()));
            let mount =
                again.mount().unwrap_or_else(|e| panic!("{name}, cut off at write {n}: {e}"));
            mount.unmount().unwrap_or_else(|e| panic!("{name}, cut off at {n}: {e}"));
            let wrong = complaints(&scratch, &again.contents(), &[]);
            assert!(wrong.is_empty(), "{name}, cut off at write {n}: {wrong:#?}");
        }
    }
}
