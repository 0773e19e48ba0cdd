//! Extent maps under random work: reserve, allocate, convert, punch, shift, truncate,
//! against a model of what each block holds; judged by xfs_repair and xfs_db.
//!
//! The page cache is left out: the test does what it would do, block by block, so that
//! maps, cookies and reservations are tested by themselves.

use crate::bmap_support::{Scene, Tested};
use crate::support::Rng;
use holdfast_fs::Error;
use holdfast_fs::iomap::{Layout, MapFlags, MapKind, Ops, Purpose, ReservedFork};
use holdfast_fs::xfs::ForkKind;

const IMAGES: [(&str, &[&str]); 5] = [
    ("1k", &["-b", "size=1024"]),
    ("4k", &["-b", "size=4096"]),
    ("2k-rmap", &["-b", "size=2048", "-m", "rmapbt=1"]),
    ("4k-stripe", &["-b", "size=4096", "-d", "su=32k,sw=2"]),
    ("1k-rmap-wide", &["-b", "size=1024", "-m", "rmapbt=1", "-i", "nrext64=1"]),
];

#[test]
fn random_work_equals_the_model() {
    for (seed, name, options) in runs() {
        let _replay = Replay(seed);
        let scene = Scene::new(&format!("bmap-{name}"), options);
        let mut rng = Rng::seeded(seed);
        let mut a = scene.file("a", 1500);
        let mut b = scene.file("b", 700);
        for round in 0..600 {
            let file = if rng.below(3) == 0 { &mut b } else { &mut a };
            file.step(&mut rng, round);
            if round % 100 == 99 {
                a.check();
                b.check();
            }
        }
        finish_and_empty(scene, [a, b]);
    }
}

/// Images with seeds: one each, or what `HOLDFAST_SEEDS` says (`HOLDFAST_SEED`: this one).
fn runs() -> Vec<(u64, &'static str, &'static [&'static str])> {
    let number = |name| std::env::var(name).ok().map(|v| v.parse::<u64>().expect("a number"));
    let seeds = match number("HOLDFAST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 1..1 + number("HOLDFAST_SEEDS").unwrap_or(1),
    };
    seeds.flat_map(|seed| IMAGES.iter().map(move |(name, o)| (seed, *name, *o))).collect()
}

/// Says how to see a failure again.
struct Replay(u64);
impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay with HOLDFAST_SEED={}", self.0);
        }
    }
}

/// Write all, unmount, judge; then empty the files: nothing stays behind.
fn finish_and_empty(mut scene: Scene, mut files: [Tested; 2]) {
    files.iter_mut().for_each(Tested::flush);
    files.iter().for_each(Tested::check);
    scene.finish(files);
    scene.remount();
    scene.finish_empty(["a", "b"].map(|path| scene.file(path, 0)));
}

/// Files that share blocks, written to in every way: each keeps its own contents.
#[test]
fn shared_blocks_are_copied_before_they_change() {
    for (seed, name, options) in runs() {
        let _replay = Replay(seed);
        let scene = Scene::new(&format!("bmap-share-{name}"), options);
        let mut rng = Rng::seeded(seed);
        let mut a = scene.file("a", 900);
        let mut b = scene.file("b", 900);
        let mut shared = 0;
        a.write_direct(0..300);
        for round in 0..500 {
            let (one, other) = if rng.below(2) == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            if rng.below(5) == 0 {
                let from = rng.below(600);
                let len = 1 + rng.below(200);
                let at = rng.below(600);
                if rng.below(4) == 0 && (at + len <= from || from + len <= at) {
                    one.clone_within(from..from + len, at);
                } else {
                    one.clone_from(other, from..from + len, at);
                }
                shared += 1;
            } else {
                one.step(&mut rng, round);
            }
            if round % 50 == 49 {
                a.check();
                b.check();
            }
        }
        assert!(shared > 50);
        finish_and_empty(scene, [a, b]);
    }
}

/// Every second block written by itself: the tree grows to several levels and shrinks
/// back into the inode.
#[test]
fn fragmented_files_grow_and_lose_their_tree() {
    for (name, options) in [IMAGES[0], IMAGES[2]] {
        let scene = Scene::new(&format!("bmap-tree-{name}"), options);
        let mut file = scene.file("a", 6000);
        let mut rng = Rng(77);
        let mut order: Vec<u64> = (0..2500).map(|i| i * 2).collect();
        for i in (1..order.len()).rev() {
            order.swap(i, rng.below(i as u64 + 1) as usize);
        }
        for block in &order {
            file.write_direct(*block..block + 1);
        }
        file.check();
        assert_eq!(file.inode.attributes().nextents, 2500);
        scene.check_bmap(&file);
        for block in order.iter().take(1200) {
            file.punch(*block..block + 1);
        }
        file.check();
        scene.check_bmap(&file);
        file.punch(40..5000);
        file.check();
        assert!(file.inode.attributes().nextents <= 20);
        scene.finish_empty([file]);
    }
}

/// An attribute fork takes room from the root of a file's tree: what the root pointed to
/// moves down a level.
#[test]
fn the_root_makes_room_for_attributes() {
    let scene = Scene::new("bmap-root", &["-b", "size=1024"]);
    let mut file = scene.file("a", 4000);
    for block in 0..1170 {
        file.write_direct(block * 2..block * 2 + 1);
    }
    file.inode.setxattr(b"user.name", &[7; 30], 0).expect("an attribute");
    assert_eq!(file.inode.getxattr(b"user.name").expect("it is there"), [7; 30]);
    file.check();
    scene.check_bmap(&file);
    for block in 1170..1500 {
        file.write_direct(block * 2..block * 2 + 1);
    }
    file.inode.setxattr(b"user.large", &[9; 700], 0).expect("an attribute");
    file.check();
    scene.check_bmap(&file);
    file.truncate(0);
    file.inode.removexattr(b"user.large").expect("it was there");
    file.inode.removexattr(b"user.name").expect("it was there");
    assert_eq!(scene.free(), scene.before - file.inode.attributes().blocks / 2);
    scene.finish([file]);
}

/// A reservation that is not used comes back to the block, whatever became of its
/// surroundings.
#[test]
fn delalloc_is_given_back_exactly() {
    let scene = Scene::new("bmap-delalloc", &["-b", "size=1024"]);
    let file = scene.file("a", 4000);
    let mut rng = Rng(5);
    for _ in 0..300 {
        let start = rng.below(3000) << 10;
        let len = (1 + rng.below(400)) << 10;
        let map = file.inode.begin(start, len, Purpose::Write).expect("space");
        if map.flags.contains(MapFlags::NEW) {
            assert_eq!(map.kind, MapKind::Delalloc);
            assert_eq!(map.offset_bytes, start);
            assert!(map.end_bytes() <= start + len);
        }
        let again = file.inode.begin(start, len, Purpose::Write).expect("space");
        assert!(!again.flags.contains(MapFlags::NEW), "what was there is not new");
        let from = rng.below(3000) << 10;
        let range = from..from + ((1 + rng.below(400)) << 10);
        file.inode.punch_delalloc(range, ReservedFork::Data).expect("punch");
    }
    assert!(scene.free() < scene.before);
    file.inode.punch_delalloc(0..1 << 40, ReservedFork::Data).expect("punch");
    assert_eq!(scene.free(), scene.before);
    assert_eq!(file.inode.delalloc_blocks(), (0, 0));
    scene.finish([file]);
}

/// All space can be reserved, none twice; what was promised can be written; a reservation
/// ahead of the end of the file steps back.
#[test]
fn space_runs_out_exactly() {
    let scene = Scene::new("bmap-enospc", &["-b", "size=1024"]);
    let mut file = scene.file("a", 40_000);
    let mut at = 0;
    loop {
        match file.inode.begin(at, 1 << 20, Purpose::Write) {
            Ok(map) => {
                assert!(map.contains(at));
                let end = map.end_bytes().min(at + (1 << 20));
                file.note_written(at >> 10..end >> 10);
                at = end;
            }
            Err(Error::NoSpace) => break,
            Err(e) => panic!("{e}"),
        }
        assert!(at < 20 << 20, "more than there is");
    }
    // One block more costs a way up the tree.
    assert!(scene.free() <= 16, "{} left", scene.free());
    assert!(
        at >> 10 >= scene.before - scene.before / 20,
        "{} of {} blocks",
        at >> 10,
        scene.before
    );
    file.flush();
    file.check();
    assert_eq!(file.inode.delalloc_blocks(), (0, 0));
    let free = scene.free();
    // The reserve for a tree that was not needed can be used now.
    let mut more = 0;
    while let Ok(map) = file.inode.begin(at, 1 << 20, Purpose::Write) {
        let end = map.end_bytes().min(at + (1 << 20));
        file.note_written(at >> 10..end >> 10);
        more += (end - at) >> 10;
        at = end;
        file.flush();
    }
    assert!(more <= free && scene.free() <= 16);
    file.check();
    scene.finish_empty([file]);
}

/// Free space in single blocks only: one reservation becomes as many extents as blocks,
/// and what it held in reserve suffices for their tree.
#[test]
fn one_reservation_in_many_pieces() {
    for (name, options) in [IMAGES[0], IMAGES[4]] {
        let scene = Scene::new(&format!("bmap-pieces-{name}"), options);
        let mut comb = scene.file("b", 20_000);
        let fill = scene.free() - 200;
        comb.write_direct(0..fill);
        for block in (0..fill).step_by(2) {
            comb.punch(block..block + 1);
        }
        // What was freed can be used when that is durable.
        scene.mount.log().expect("a log").force_all().expect("force");
        let mut file = scene.file("a", 20_000);
        let wanted = scene.free() * 9 / 10;
        for start in (0..wanted).step_by(500) {
            file.write(start..(start + 500).min(wanted));
        }
        assert!(file.inode.delalloc_blocks().0 >= wanted);
        file.flush();
        file.check();
        comb.check();
        assert!(file.inode.attributes().nextents > wanted / 2);
        scene.check_bmap(&file);
        scene.finish_empty([file, comb]);
    }
}

/// Files that ask for large extents get them, aligned, at once.
#[test]
fn extent_size_hints_are_kept() {
    let scene = Scene::new("bmap-hint", &["-b", "size=4096", "-d", "extszinherit=16"]);
    let mut file = scene.file("a", 1000);
    if file.inode.attributes().extsize != 16 * 4096 {
        panic!("mkfs.xfs made a file without the hint of its directory");
    }
    // A store through a mapping allocates as any other write does.
    file.inode.begin(3 << 12, 4096, Purpose::Fault).expect("a block");
    file.note_written(3..4);
    file.write(5..6);
    file.write(100..130);
    assert_eq!(file.inode.delalloc_blocks(), (0, 0));
    file.flush();
    let extents = file.inode.all_extents(ForkKind::Data).expect("extents");
    let covered: u64 =
        extents.iter().filter(|e| e.offset.0 >= 96).map(|e| u64::from(e.count)).sum();
    assert_eq!(covered, 48, "{extents:?}");
    let start = extents.iter().find(|e| e.offset.0 >= 96).map(|e| e.offset.0);
    assert_eq!(start, Some(96), "{extents:?}");
    file.check();
    scene.finish_empty([file]);
}

/// Several files at work at the same time, in a file system with four groups.
#[test]
fn threads_do_not_disturb_each_other() {
    let options = ["-b", "size=1024", "-d", "agcount=4", "-m", "rmapbt=1"];
    let scene = Scene::sized("bmap-threads", 64, &options);
    scene.mount.start();
    std::thread::scope(|scope| {
        for (index, path) in ["a", "b", "c"].iter().enumerate() {
            let scene = &scene;
            scope.spawn(move || {
                let mut rng = Rng(0xABCD_EF01 + index as u64);
                let mut file = scene.file(path, 900);
                for round in 0..250 {
                    file.step(&mut rng, round);
                }
                file.flush();
                file.check();
                file.truncate(0);
                file.close();
            });
        }
    });
    assert_eq!(scene.free(), scene.before);
    scene.finish([]);
}

/// What was reserved ahead of the end does not become part of a file that grows over it
/// in another way.
#[test]
fn blocks_ahead_are_not_left_in_a_gap() {
    let scene = Scene::new("bmap-gap", &["-b", "size=4096"]);
    let mut file = scene.file("a", 4000);
    file.write(0..16);
    file.write(16..24);
    file.flush();
    // Blocks that writeback has allocated ahead come first.
    let append = |file: &mut Tested, mut at: u64| {
        while file.inode.delalloc_blocks().0 <= 1 {
            file.write(at..at + 1);
            at += 1;
        }
        at
    };
    let at = append(&mut file, 24);
    file.write(at + 900..at + 901);
    file.flush();
    assert_eq!(file.inode.delalloc_blocks().0, file.ahead(), "in the gap of a write");
    let at = append(&mut file, at + 901);
    assert!(file.ahead() > 0);
    file.grow_to(at + 500);
    let dirty = file.inode.delalloc_blocks().0;
    assert_eq!(dirty, 1, "in the gap of a larger size");
    file.write(at + 2000..at + 2001);
    file.write_direct(at + 3000..at + 3001);
    file.flush();
    file.check();
    scene.finish_empty([file]);
}

/// Blocks ahead of the end of a growing file: there while it grows, gone when it is closed.
#[test]
fn blocks_ahead_are_trimmed() {
    let scene = Scene::new("bmap-ahead", &["-b", "size=4096"]);
    let mut file = scene.file("a", 4000);
    let mut ahead = 0;
    for i in 0..256 {
        file.write(i * 2..i * 2 + 2);
        ahead = ahead.max(file.inode.delalloc_blocks().0.saturating_sub((i + 1) * 2));
    }
    assert!(ahead >= 16, "{ahead} blocks ahead at most");
    file.flush();
    file.inode.trim_eof().expect("trim");
    assert_eq!(file.inode.attributes().blocks, 512 * 8);
    assert!(file.inode.attributes().nextents <= 2, "{}", file.inode.attributes().nextents);
    file.check();
    assert_eq!(scene.before - scene.free(), 512);
    scene.finish([file]);
}
