//! The checker against `xfs_repair -n`, on images that are whole and on damaged ones.

#[path = "../check/damages.rs"]
mod damages;

use std::collections::BTreeSet;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::volume::Volume;
use crate::xfs_support::mutate::{Region, mutate};
use crate::xfs_support::recorder::Recorder;
use crate::xfs_support::{
    GEOMETRIES, Scratch, craft, disk_over, mkfs, mount_file, newer, newer_repair, number,
    repair_by, tool, walk, xfs_db, xfs_db_write,
};
use holdfast_fs::block::Queue;
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::syscall::FallocateMode;
use holdfast_fs::xfs::check::{Finding, Report, check};
use holdfast_fs::xfs::{ForkKind, Mount, MountError};

/// All metadata of an image but the log: header by header, inode by inode.
fn metadata(image: &Arc<Vec<u8>>) -> Vec<Region> {
    let field = |at: usize, len: usize| {
        image[at..at + len].iter().fold(0u64, |n, b| n << 8 | u64::from(*b)) as usize
    };
    let (block, log_start, log_blocks) = (field(4, 4), field(48, 8), field(96, 4));
    let (sector, inode, ag_blocks) = (field(102, 2), field(104, 2), field(84, 4));
    let ag_block_log = field(124, 1);
    let log_at =
        ((log_start >> ag_block_log) * ag_blocks + (log_start & ((1 << ag_block_log) - 1))) * block;
    let log = log_at..log_at + log_blocks * block;
    let recorder = Recorder::over(disk_over(image.clone()));
    let memory: Arc<dyn Memory> = HostMemory::new(1024);
    check(&Queue::new(recorder.clone()), &memory).expect("a file system");
    let mut regions = BTreeSet::new();
    for read in recorder.take().into_iter().filter(|r| !log.contains(&r.offset)) {
        let unit = match read.of(image) {
            [b'I', b'N', ..] => inode,
            _ if read.offset % (ag_blocks * block) == 0 => sector,
            _ => read.len,
        };
        for offset in (read.offset..read.offset + read.len).step_by(unit) {
            regions.insert(Region { offset, len: unit });
        }
    }
    regions.into_iter().collect()
}

fn check_bytes(image: Arc<Vec<u8>>) -> Result<Report, MountError> {
    let memory: Arc<dyn Memory> = HostMemory::new(1024);
    check(&Queue::new(disk_over(image)), &memory)
}

/// The exit status of `xfs_repair -n`: is nothing wrong?
fn repair_is_content(image: &Path) -> (bool, String) {
    let (content, text) = repair_by(tool("xfs_repair"), image);
    let noise = ["host filesystem", "sector size mismatch", "No modify flag", "Phase", "    "];
    let telling: Vec<&str> =
        text.lines().filter(|l| !noise.iter().any(|n| l.contains(n))).collect();
    (content, telling.join("\n"))
}

fn findings(report: &Report) -> String {
    let lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    format!("{} findings\n{}", report.found, lines.join("\n"))
}

fn assert_clean(name: &str, image: &Path) {
    let bytes = Arc::new(std::fs::read(image).expect("image"));
    let started = Instant::now();
    let report = check_bytes(bytes.clone()).unwrap_or_else(|e| panic!("{name}: {e}"));
    let took = started.elapsed();
    println!(
        "{name}: {took:?}, {} inodes, {} directories, {} of {} blocks free, {} shared",
        report.inodes, report.directories, report.blocks_free, report.blocks, report.blocks_shared
    );
    let (content, text) = repair_is_content(image);
    assert!(content, "{name}: xfs_repair -n: {text}");
    assert!(report.is_clean(), "{name}: {}", findings(&report));
}

#[test]
fn good_images() {
    let scratch = Scratch::new("xfs-check-good");
    let proto = craft::prototype(&scratch, 700);
    for (options, megabytes) in GEOMETRIES {
        let image = scratch.path("image");
        mkfs(&image, *megabytes, options, None);
        assert_clean(&format!("empty {options:?}"), &image);
        mkfs(&image, *megabytes, options, Some(&proto));
        assert_clean(&format!("{options:?}"), &image);
        craft::attributes(&image);
        assert_clean(&format!("{options:?} with attributes"), &image);
    }
}

/// Images filled by Linux have more forms; see `linux.rs` for how to get them.
#[test]
#[ignore = "needs images made by a Linux guest: see populate.sh and HOLDFAST_POPULATED"]
fn good_images_from_linux() {
    let dirs = std::env::var("HOLDFAST_POPULATED").expect("HOLDFAST_POPULATED is not set");
    for dir in dirs.split(':') {
        assert_clean(dir, &Path::new(dir).join("disk"));
    }
}

/// Replace the words in braces: `{NAME.ino}`, `{NAME.agino}`, `{NAME.block}` (of the
/// file's first extent, within its group).
fn resolve(command: &str, mount: &Arc<Mount>) -> String {
    let Some((before, rest)) = command.split_once('{') else { return command.into() };
    let (word, after) = rest.split_once('}').expect("a closing brace");
    let (name, what) = word.split_once('.').expect("NAME.WHAT");
    let name = if name == "dir" { "block" } else { name };
    let inode = walk::resolve(mount, name).expect("a file of the prototype");
    let number = match what {
        "ino" | "agino" => inode.ino().0,
        "block" => {
            let extents = inode.all_extents(ForkKind::Data).expect("extents");
            mount.geometry().split(extents[0].block).1.0.into()
        }
        _ => panic!("{command}"),
    };
    resolve(&format!("{before}{number}{after}"), mount)
}

/// Each check finds what it is there for, and `xfs_repair -n` does not disagree.
#[test]
fn every_kind_of_damage() {
    let scratch = Scratch::new("xfs-check-kinds");
    let proto = craft::prototype(&scratch, 700);
    let base = scratch.path("base");
    mkfs(&base, 40, &["-m", "rmapbt=1", "-d", "agcount=2"], Some(&proto));
    craft::attributes(&base);
    assert_clean("base", &base);
    let mount = mount_file(&base);
    let whole = std::fs::read(&base).expect("image");
    let image = scratch.path("image");
    let mut wrong = Vec::new();
    for damage in damages::DAMAGES {
        let commands: Vec<String> = damage.commands.iter().map(|c| resolve(c, &mount)).collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        std::fs::write(&image, &whole).expect("a copy");
        let said = xfs_db_write(&image, &commands);
        let changed = std::fs::read(&image).expect("image");
        if changed == whole {
            wrong.push(format!("{commands:?}: nothing was changed: {said}"));
            continue;
        }
        let found = match check_bytes(Arc::new(changed)) {
            Ok(report) => report.findings,
            Err(e) => panic!("{commands:?}: {e}"),
        };
        let (content, text) = repair_is_content(&image);
        let wanted =
            |f: &Finding| f.structure == damage.structure && f.reason.contains(damage.reason);
        if !found.iter().any(wanted) {
            wrong.push(format!(
                "{commands:?}: wanted {}: {}, found {found:#?}, xfs_repair: {text}",
                damage.structure, damage.reason
            ));
        }
        if content != damage.alone.is_some() {
            wrong.push(format!("{commands:?}: found {found:?}, xfs_repair ({content}): {text}"));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n\n"));
}

/// A free inode's wide extent counts end in padding, too.
#[test]
fn padding_of_a_free_inode() {
    let scratch = Scratch::new("xfs-check-padding");
    let image = scratch.path("image");
    mkfs(&image, 40, &["-i", "nrext64=1"], None);
    assert_clean("as made", &image);
    // What is padding in the wide form counts extents of attributes in the other.
    let commands = ["inode 150", "write -d core.naextents 5", "write -d v3.nrext64 1"];
    xfs_db_write(&image, &commands);
    let (content, text) = repair_is_content(&image);
    assert!(!content && text.contains("inode 150 contains errors"), "xfs_repair -n: {text}");
    let report = check_bytes(Arc::new(std::fs::read(&image).expect("image"))).expect("a report");
    let found = |f: &Finding| f.structure == "inode" && f.reason.contains("padding");
    assert!(report.findings.iter().any(found), "{}", findings(&report));
}

/// A free inode's link count of the old form is nothing. A newer `xfs_repair -n` says so.
#[test]
fn old_link_count_of_a_free_inode() {
    let scratch = Scratch::new("xfs-check-old-links");
    let image = scratch.path("image");
    mkfs(&image, 40, &[], None);
    xfs_db_write(&image, &["inode 150", "write -d core.onlink 16"]);
    let report = check_bytes(Arc::new(std::fs::read(&image).expect("image"))).expect("a report");
    let found = |f: &Finding| f.structure == "inode" && f.reason.contains("link count of old");
    assert!(report.findings.iter().any(found), "{}", findings(&report));
    let text = newer_repair(&image);
    let said = |text: &String| text.contains("free inode 150 contains errors");
    assert!(newer("xfs_repair").is_none() || text.as_ref().is_some_and(said), "{text:?}");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v}")))
}

/// Damage an image at random, checksums kept right or not, and compare the verdicts.
fn campaign(name: &str, image: Vec<u8>, images: u64, first: u64) {
    let scratch = Scratch::new("xfs-check-damaged");
    let path = scratch.path("image");
    std::fs::write(&path, &image).expect("image");
    let file = std::fs::OpenOptions::new().write(true).open(&path).expect("image");
    let image = Arc::new(image);
    let regions = metadata(&image);
    let (start, count) = match setting("HOLDFAST_SEED") {
        Some(seed) => (seed, 1),
        None => (
            setting("HOLDFAST_FIRST").unwrap_or(first),
            setting("HOLDFAST_IMAGES").unwrap_or(images),
        ),
    };
    let (mut both, mut neither, mut ours) = (0, 0, 0);
    let mut wrong = Vec::new();
    for seed in start..start + count {
        let mutation = mutate(&image, &regions, seed);
        let region = mutation.region;
        let mut damaged = Vec::clone(&image);
        damaged[region.offset..region.offset + region.len].copy_from_slice(&mutation.bytes);
        let report = check_bytes(Arc::new(damaged));
        let clean = report.as_ref().is_ok_and(Report::is_clean);
        file.write_all_at(&mutation.bytes, region.offset as u64).expect("image");
        let (content, text) = repair_is_content(&path);
        file.write_all_at(region.of(&image), region.offset as u64).expect("image");
        match (clean, content) {
            (false, false) => both += 1,
            (true, true) => neither += 1,
            (true, false) => wrong.push(format!("seed {seed}, {region:?}: xfs_repair: {text}")),
            (false, true) => {
                ours += 1;
                let report = report.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                // One reason suffices: what follows from it only we find, too.
                if !report.findings.iter().any(is_known) {
                    wrong.push(format!("seed {seed}, {region:?}: {}", findings(&report)));
                }
            }
        }
    }
    println!(
        "{name}: {count} images of {} regions: both found damage in {both}, none in {neither}; \
         only we in {ours}, as known; {} disagreements",
        regions.len(),
        wrong.len()
    );
    assert!(wrong.is_empty(), "replay with HOLDFAST_SEED=n\n{}", wrong.join("\n"));
}

/// What `xfs_repair -n` does not find: structure, a part of the reason, why.
const KNOWN: &[(&str, &str, &str)] = &[
    ("log", "metadata was written from", "it looks at the LSNs of blocks, not of inodes"),
    ("attr remote value", "it says it belongs to", "it does not look at owners of values"),
    ("attr leaf", "", "of leaves below a node it checks hashes and names only"),
    ("attribute fork", "free space from", "it looks at it in a leaf that stands alone only"),
    ("AGFL", "another file system", "it does not look at the AGFL's UUID"),
    ("rmapbt block", "the greatest key below it", "of greatest keys it does not compare all"),
    ("AGFL", "it says it is of AG", "it does not look at the AGFL's number"),
    ("directory", "before it comes", "it does not look at the siblings of a root"),
    ("directory", "comes next", "it does not look at the siblings of a root"),
    ("inode", "(not in use) the link count of old", "only since 6.10 it looks at it"),
    ("inode", "a directory of", "it takes a directory's form from its extents"),
    ("inode", "that ends at", "it takes a directory's form from its extents"),
];

fn is_known(finding: &Finding) -> bool {
    is_order_of_one_length(finding)
        || KNOWN.iter().any(|(s, r, _)| finding.structure == *s && finding.reason.contains(r))
}

/// Two free extents of one length stand in the tree by length in the wrong order: of what is
/// there `xfs_repair -n` compares lengths only.
fn is_order_of_one_length(finding: &Finding) -> bool {
    let Finding { structure, reason, .. } = finding;
    let pairs = reason.split('(').filter(|text| text.starts_with(|c: char| c.is_ascii_digit()));
    let lengths: Vec<&str> = pairs.filter_map(|pair| Some(pair.split_once(',')?.0)).collect();
    *structure == "cntbt block"
        && reason.contains("behind")
        && matches!(lengths[..], [one, other] if one == other)
}

#[test]
fn order_of_free_extents_of_one_length() {
    let scratch = Scratch::new("xfs-check-one-length");
    let image = scratch.path("image");
    mkfs(&image, 40, &[], None);
    let v = Volume::over(&Arc::new(std::fs::read(&image).expect("image")));
    let fd = v.create(b"/f").expect("a file");
    v.process.pwrite(fd, &[1; 64 << 12], 0).expect("a write");
    for block in [20, 30] {
        let punch = FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE;
        v.process.fsync(fd).expect("durable");
        v.process.fallocate(fd, punch, block << 12, 4096).expect("a hole");
    }
    v.process.close(fd).expect("it is open");
    std::fs::write(&image, &*v.finish()).expect("image");
    assert_clean("two holes", &image);
    let starts =
        xfs_db(&image, &["agf 0", "addr cntroot", "p recs[1].startblock recs[2].startblock"]);
    let [first, second] = ["recs[1].startblock", "recs[2].startblock"].map(|n| number(&starts, n));
    let swapped = [
        "agf 0",
        "addr cntroot",
        &format!("write -d recs[1].startblock {second}"),
        &format!("write -d recs[2].startblock {first}"),
    ];
    assert_eq!(second, first + 10, "{starts}");
    xfs_db_write(&image, &swapped);
    let report = check_bytes(Arc::new(std::fs::read(&image).expect("image"))).expect("a report");
    let all = findings(&report);
    assert!(!report.is_clean() && report.findings.iter().all(is_order_of_one_length), "{all}");
    let (content, text) = repair_is_content(&image);
    assert!(content, "xfs_repair -n finds it, too: {text}");
}

#[test]
fn damaged_images() {
    let scratch = Scratch::new("xfs-check-base");
    let proto = craft::prototype(&scratch, 700);
    let image = scratch.path("image");
    mkfs(&image, 16, &["-m", "rmapbt=1"], Some(&proto));
    craft::attributes(&image);
    campaign("4 KiB blocks", std::fs::read(&image).expect("image"), 300, 1);
}

/// Images filled by Linux have more forms; see `linux.rs` for how to get them.
///
/// ```text
/// HOLDFAST_POPULATED=DIR:... HOLDFAST_IMAGES=2000 HOLDFAST_FIRST=5000000 \
///     cargo test --release -p holdfast-fs --features check --test xfs \
///     check::damaged_images_from_linux -- --ignored --nocapture
/// ```
#[test]
#[ignore = "needs images made by a Linux guest: see populate.sh and HOLDFAST_POPULATED"]
fn damaged_images_from_linux() {
    let dirs = std::env::var("HOLDFAST_POPULATED").expect("HOLDFAST_POPULATED is not set");
    for dir in dirs.split(':') {
        let image = std::fs::read(Path::new(dir).join("disk")).expect("image");
        campaign(dir, image, 300, 1_000_000);
    }
}
