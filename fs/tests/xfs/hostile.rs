//! Damaged and hostile images: no panic, no hang, and every object that does not lie
//! below the damage reads as before.
//!
//! A failing image is named by its seed; `HOLDFAST_SEED=n` replays just that one, and
//! `HOLDFAST_IMAGES=n` sets how many are tried.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::xfs_support::craft::{self, Craft};
use crate::xfs_support::exercise::{exercise, groups};
use crate::xfs_support::mutate::{Region, mutate};
use crate::xfs_support::recorder::Recorder;
use crate::xfs_support::walk::{self, Object};
use crate::xfs_support::{Scratch, disk_over, mount_disk};
use holdfast_fs::block::Queue;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::ondisk::bmbt::Extent;
use holdfast_fs::xfs::{ForkKind, Ino, Mount, MountError, MountOptions};
use holdfast_fs::{Error, Result};

/// What there is to know of an object.
type Facts = (Object, Vec<Extent>, Vec<Extent>);

/// Follow a path and look at its end; the inodes on the way.
fn look(mount: &Arc<Mount>, path: &[u8], way: &mut Vec<Ino>) -> Result<Facts> {
    let mut inode = mount.inode(mount.root())?;
    way.push(inode.ino());
    for part in path.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".") {
        inode = mount.inode(inode.lookup(part)?)?;
        way.push(inode.ino());
    }
    let data = inode.all_extents(ForkKind::Data)?;
    let attr = inode.all_extents(ForkKind::Attr)?;
    Ok((walk::object(&inode)?, data, attr))
}

/// An undamaged image, what it holds, and on which metadata each object depends.
struct Baseline {
    image: Arc<Vec<u8>>,
    regions: Vec<Region>,
    objects: BTreeMap<Vec<u8>, (Facts, Vec<Region>)>,
}

fn baseline(image: Vec<u8>) -> Baseline {
    let image = Arc::new(image);
    let below = || disk_over(image.clone());
    let mount = mount_disk(below(), false).expect("mount");
    let tree = walk::tree(&mount);
    assert!(tree.errors.is_empty(), "{:?}", tree.errors);
    let mut all = BTreeSet::new();
    let mut objects = BTreeMap::new();
    // All that are special, and a sample of the many alike.
    let names = tree.objects.keys().enumerate();
    let sample = names.filter(|(i, p)| p.iter().filter(|&&b| b == b'/').count() < 2 || i % 20 == 0);
    for (_, path) in sample {
        let recorder = Recorder::over(below());
        let mount = mount_disk(recorder.clone(), false).expect("mount");
        let mut way = Vec::new();
        let facts = look(&mount, path, &mut way).expect("an undamaged object");
        let geometry = mount.geometry();
        let mut depends: Vec<Region> = way
            .iter()
            .map(|&ino| Region {
                offset: Craft::inode_offset(geometry, ino),
                len: geometry.inode_bytes(),
            })
            .collect();
        depends.extend(recorder.take().iter().filter(|r| !r.of(&image).starts_with(b"IN")));
        all.extend(depends.iter().copied());
        objects.insert(path.clone(), (facts, depends));
    }
    // The allocation groups' own structures.
    let recorder = Recorder::over(below());
    let mount = mount_disk(recorder.clone(), false).expect("mount");
    recorder.take();
    assert_eq!(groups(&mount), Vec::new(), "undamaged groups");
    all.extend(recorder.take());
    Baseline { image, regions: all.into_iter().collect(), objects }
}

fn open(
    baseline: &Baseline,
    region: Region,
    bytes: &[u8],
    readonly: bool,
) -> Result<Arc<Mount>, MountError> {
    let disk = disk_over(baseline.image.clone());
    disk.poke_bytes(region.offset as u64, bytes);
    Mount::open(Queue::new(disk), HostMemory::new(4096), MountOptions { readonly })
}

#[derive(Default)]
struct Tally {
    refused: usize,
    unharmed: usize,
    failed: usize,
    structures: BTreeMap<&'static str, usize>,
}

impl Tally {
    fn note(&mut self, error: &Error) {
        if let Error::Corrupt(c) = error {
            assert!(!c.location.is_empty() && !c.reason.is_empty(), "{c:?}");
            *self.structures.entry(c.structure).or_default() += 1;
        }
    }
}

fn try_image(baseline: &Baseline, seed: u64, tally: &mut Tally) {
    let mutation = mutate(&baseline.image, &baseline.regions, seed);
    // A mount for writing looks at the groups at once, and is refused more often.
    let readonly = seed & 1 == 0;
    let mount = match open(baseline, mutation.region, &mutation.bytes, readonly) {
        Ok(mount) => mount,
        Err(e) => {
            assert!(!e.to_string().is_empty());
            let root = baseline.objects.values().next().expect("objects");
            let touches = root.1.iter().any(|r| r.overlaps(&mutation.region));
            assert!(touches, "seed {seed}: not mounted for no reason: {e}");
            tally.refused += 1;
            return;
        }
    };
    for (path, (facts, depends)) in &baseline.objects {
        let found = look(&mount, path, &mut Vec::new());
        let name = String::from_utf8_lossy(path);
        let below = depends.iter().any(|r| r.overlaps(&mutation.region));
        match &found {
            Ok(found) if found == facts => tally.unharmed += 1,
            Ok(_) => assert!(
                below && mutation.stamped,
                "seed {seed}: {name} reads wrong, {:?}",
                mutation.region
            ),
            Err(e) => {
                assert!(below, "seed {seed}: {name} cannot be read: {e}, {:?}", mutation.region);
                tally.failed += 1;
            }
        }
    }
    for error in exercise(&mount) {
        tally.note(&error);
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|v| v.parse().unwrap_or_else(|_| panic!("{name}={v}")))
}

/// Try many damaged versions of an image; end the process if one takes too long.
fn campaign(name: &str, baseline: &Baseline, images: u64, first: u64) -> Tally {
    static NOW: AtomicU64 = AtomicU64::new(0);
    let started = Arc::new(Mutex::new(Instant::now()));
    let (watched, stop) = (started.clone(), Arc::new(AtomicU64::new(0)));
    let stopped = stop.clone();
    let watchdog = std::thread::spawn(move || {
        while stopped.load(Ordering::Relaxed) == 0 {
            std::thread::sleep(Duration::from_millis(50));
            if watched.lock().expect("time").elapsed() > Duration::from_secs(30) {
                eprintln!("seed {} hangs", NOW.load(Ordering::Relaxed));
                std::process::abort();
            }
        }
    });
    let mut tally = Tally::default();
    let (start, count) = match setting("HOLDFAST_SEED") {
        Some(seed) => (seed, 1),
        None => (first, setting("HOLDFAST_IMAGES").unwrap_or(images)),
    };
    for seed in start..start + count {
        NOW.store(seed, Ordering::Relaxed);
        *started.lock().expect("time") = Instant::now();
        let mut mine = core::mem::take(&mut tally);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            try_image(baseline, seed, &mut mine);
            mine
        }));
        match result {
            Ok(mine) => tally = mine,
            Err(panic) => {
                eprintln!("{name}: replay with HOLDFAST_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    stop.store(1, Ordering::Relaxed);
    watchdog.join().expect("watchdog");
    println!(
        "{name}: {count} images of {} regions: {} not mounted, {} objects unharmed, \
         {} with errors; damage seen: {:?}",
        baseline.regions.len(),
        tally.refused,
        tally.unharmed,
        tally.failed,
        tally.structures
    );
    tally
}

fn check_tally(tally: &Tally, wanted: &[&str]) {
    if setting("HOLDFAST_SEED").is_some() || setting("HOLDFAST_IMAGES").is_some_and(|n| n < 1000) {
        return;
    }
    assert!(tally.refused > 10 && tally.failed > 1000 && tally.unharmed > 10_000);
    for structure in wanted {
        assert!(tally.structures.contains_key(structure), "no damaged {structure} was met");
    }
}

const EVERYWHERE: &[&str] = &[
    "AGF",
    "AGI",
    "AGFL",
    "bnobt block",
    "cntbt block",
    "inobt block",
    "finobt block",
    "refcountbt block",
    "inode",
    "bmbt block",
    "dir block",
    "dir data block",
    "dir leaf",
    "da node",
    "attr leaf",
    "attr remote value",
    "symlink block",
];

#[test]
fn damaged_images_with_small_blocks() {
    let scratch = Scratch::new("xfs-hostile-1k");
    let options = ["-b", "size=1024", "-m", "rmapbt=1,reflink=1", "-d", "agcount=2"];
    let baseline = baseline(craft::image(&scratch, "image", 36, &options));
    let tally = campaign("1 KiB blocks", &baseline, 3000, 1);
    check_tally(&tally, EVERYWHERE);
    check_tally(&tally, &["rmapbt block"]);
}

#[test]
fn damaged_images_with_default_blocks() {
    let scratch = Scratch::new("xfs-hostile-4k");
    let options = ["-m", "reflink=1", "-d", "agcount=2"];
    let baseline = baseline(craft::image(&scratch, "image", 48, &options));
    let tally = campaign("4 KiB blocks", &baseline, 2000, 1_000_000);
    check_tally(&tally, &["AGF", "AGI", "inode", "bmbt block", "dir data block", "attr leaf"]);
}

/// Images filled by Linux have more forms; see `linux.rs` for how to get them.
#[test]
#[ignore = "needs images made by a Linux guest: see populate.sh and HOLDFAST_POPULATED"]
fn damaged_images_from_linux() {
    let dirs = std::env::var("HOLDFAST_POPULATED").expect("HOLDFAST_POPULATED is not set");
    for dir in dirs.split(':') {
        let image = std::fs::read(std::path::Path::new(dir).join("disk")).expect("image");
        campaign(dir, &baseline(image), 500, 2_000_000);
    }
}
