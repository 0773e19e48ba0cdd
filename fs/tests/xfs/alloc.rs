//! The allocator: random work against a model of what is free, to the last block and back,
//! judged by xfs_repair at the end.

use std::sync::Arc;

use crate::alloc_support::{Random, Scene, covers_all, free_extents};
use crate::xfs_support::{
    Scratch, contents, disk_over, mkfs, mount_disk, mount_file, xfs_db_write,
};
use holdfast_fs::block::{Fault, FaultDisk, Op, TraceDisk, TraceEvent};
use holdfast_fs::error::Error;
use holdfast_fs::xfs::alloc::{self, AgReserve, AllocRequest, Target, Use};
use holdfast_fs::xfs::types::{AgBlock, AgNumber, FsBlock};

const PLAIN: [&str; 2] = ["-m", "rmapbt=0,reflink=0,finobt=0,inobtcount=0"];

fn request(scene: &Scene, target: Target, min: u32, max: u32, kind: Use) -> AllocRequest {
    let request = AllocRequest::new(target, max, scene.owner(), kind);
    AllocRequest { min, ..request }
}

fn random_request(scene: &Scene, random: &mut Random) -> AllocRequest {
    let geometry = scene.mount.geometry();
    let ag = AgNumber(random.below(geometry.ag_count));
    let agbno = AgBlock(geometry.ag_first_block() + random.below(geometry.ag_length(ag) - 8));
    let block = geometry.fs_block(ag, agbno);
    let target = match random.below(8) {
        0 => Target::Anywhere(block),
        1 => Target::InAg(block),
        2 => Target::Exact(block),
        _ => Target::Near(block),
    };
    let most = 1 << random.below(8);
    let max = 1 + random.below(most);
    let min = if random.below(3) == 0 { max } else { 1 };
    let kind = if random.below(3) == 0 { Use::Metadata } else { Use::Data };
    let mut request = request(scene, target, min, max, kind);
    if random.below(6) == 0 {
        request.align = 1 << random.below(5);
    }
    if random.below(6) == 0 {
        (request.unit, request.rest) = (8, random.below(8));
    }
    request
}

fn random_work(mut scene: Scene, operations: u32, seed: u64) {
    let mut random = Random(seed);
    for step in 0..operations {
        // Now and then the other way round.
        let growing = step / 500 % 2 == 0;
        if scene.taken.is_empty() || random.below(100) < if growing { 65 } else { 35 } {
            let wanted = random_request(&scene, &mut random);
            let geometry = scene.mount.geometry().clone();
            let found = match scene.allocate(&wanted) {
                Ok(Some(found)) => found,
                Ok(None) | Err(Error::NoSpace) => continue,
                Err(e) => panic!("{e}"),
            };
            let (ag, start) = geometry.split(found.block);
            let strict = wanted.kind == Use::Metadata
                || matches!(wanted.target, Target::Exact(_) | Target::InAg(_));
            assert!(!strict || start.0.is_multiple_of(wanted.align), "{wanted:?}");
            if found.count > wanted.min && wanted.unit > 1 {
                assert_eq!(found.count % wanted.unit, wanted.rest, "{wanted:?} {found:?}");
            }
            match wanted.target {
                Target::Exact(block) => assert_eq!(found.block, block),
                Target::InAg(block) => assert_eq!(ag, geometry.split(block).0),
                _ => {}
            }
        } else {
            let i = random.below(scene.taken.len() as u32) as usize;
            let found = scene.taken.swap_remove(i);
            // All of it, or a part from the middle.
            let (front, count) = if random.below(3) == 0 {
                let front = random.below(found.count);
                (front, 1 + random.below(found.count - front))
            } else {
                (0, found.count)
            };
            let back = found.count - front - count;
            let part = |offset: u32, count| alloc::Allocation {
                block: FsBlock(found.block.0 + u64::from(offset)),
                count,
            };
            scene.free(part(front, count).block, count);
            if front > 0 {
                scene.taken.push(part(0, front));
            }
            if back > 0 {
                scene.taken.push(part(front + count, back));
            }
        }
        if step % 97 == 0 {
            scene.check();
        }
        if random.below(300) == 0 {
            scene.mount.log().expect("a log").force_all().expect("force");
        }
    }
    scene.finish(&mut random);
}

#[test]
fn random_work_in_one_group_of_small_blocks() {
    random_work(Scene::new(16, &[&["-b", "size=1024"], &PLAIN[..]].concat()), 4000, 1);
}

#[test]
fn random_work_in_four_groups() {
    random_work(Scene::new(64, &["-d", "agcount=4"]), 4000, 2);
}

#[test]
fn random_work_with_all_trees() {
    let options = ["-b", "size=2048", "-m", "rmapbt=1,reflink=1,finobt=1,inobtcount=1"];
    random_work(Scene::new(32, &options), 3000, 3);
}

#[test]
fn random_work_with_large_sectors() {
    let options = ["-s", "size=4096", "-d", "agcount=2", "-m", "reflink=0"];
    random_work(Scene::new(32, &options), 2000, 4);
}

/// Take everything there is, in pieces of up to `most`; in which order does not matter.
fn fill(scene: &mut Scene, random: &mut Random, most: u32) {
    loop {
        let left = scene.mount.counters().free_blocks();
        if left == 0 {
            break;
        }
        let max = most.min(left as u32);
        let ag = AgNumber(random.below(scene.mount.geometry().ag_count));
        let near = scene.mount.geometry().fs_block(ag, AgBlock(100));
        let wanted = request(scene, Target::Near(near), 1, max, Use::Data);
        // What was promised can be had.
        let found = scene.allocate(&wanted).expect("promised");
        assert!(found.is_some(), "{left} blocks left, none found");
    }
    let wanted = request(scene, Target::Near(FsBlock(100)), 1, 1, Use::Data);
    assert_eq!(scene.allocate(&wanted), Err(Error::NoSpace));
}

fn to_the_last_block(mut scene: Scene, seed: u64) {
    let mut random = Random(seed);
    fill(&mut scene, &mut random, 16);
    scene.check();
    // Free every other piece and some single blocks: much is free, in small pieces.
    let taken = std::mem::take(&mut scene.taken);
    for (i, piece) in taken.into_iter().enumerate() {
        if i % 2 == 0 && piece.count > 1 {
            for block in (0..piece.count).step_by(2) {
                scene.free(FsBlock(piece.block.0 + u64::from(block)), 1);
            }
            for block in (1..piece.count).step_by(2) {
                let block = FsBlock(piece.block.0 + u64::from(block));
                scene.taken.push(alloc::Allocation { block, count: 1 });
            }
        } else {
            scene.taken.push(piece);
        }
    }
    scene.check();
    fill(&mut scene, &mut random, 3);
    scene.check();
    scene.finish(&mut random);
}

#[test]
fn to_the_last_block_and_back_with_small_blocks() {
    let options = [&["-b", "size=1024"], &PLAIN[..]].concat();
    to_the_last_block(Scene::new(16, &options), 5);
}

#[test]
fn to_the_last_block_and_back_in_three_groups() {
    to_the_last_block(Scene::new(48, &["-d", "agcount=3"]), 6);
}

#[test]
fn to_the_last_block_and_back_with_reverse_mappings() {
    let options = ["-d", "agcount=2", "-m", "rmapbt=1,reflink=1"];
    to_the_last_block(Scene::new(32, &options), 7);
}

#[test]
fn extents_are_chosen_well() {
    let mut scene = Scene::new(16, &PLAIN);
    let geometry = scene.mount.geometry().clone();
    let (&start, &length) = scene.free[0].iter().max_by_key(|(_, c)| **c).expect("free");
    let at = |block: u32| geometry.fs_block(AgNumber(0), AgBlock(block));
    // Everything but three holes of 10, 20 and 30 blocks behind each other, and the rest.
    let wanted = request(&scene, Target::Exact(at(start)), 200, 200, Use::Metadata);
    assert!(scene.allocate(&wanted).expect("allocate").is_some());
    for (from, count) in [(20, 10), (60, 20), (120, 30)] {
        scene.free(at(start + from), count);
    }
    scene.taken.clear();
    let log = scene.mount.log().expect("a log").clone();
    log.force_all().expect("force");
    let mut take = |target, min, max, align| {
        let mut wanted = request(&scene, target, min, max, Use::Data);
        wanted.align = align;
        let found = scene.allocate(&wanted).expect("allocate");
        found.map(|f| (geometry.split(f.block).1.0 - start, f.count))
    };
    // The smallest that suffices.
    assert_eq!(take(Target::Anywhere(at(start)), 18, 18, 1), Some((60, 18)));
    // Near, in the middle of a hole, and beside one.
    assert_eq!(take(Target::Near(at(start + 130)), 4, 4, 1), Some((130, 4)));
    assert_eq!(take(Target::Near(at(start + 100)), 5, 5, 1), Some((120, 5)));
    // A whole extent elsewhere rather than a piece nearby.
    assert_eq!(take(Target::Near(at(start + 20)), 1, 16, 1), Some((134, 16)));
    // Exactly there, as far as it goes, or not at all.
    assert_eq!(take(Target::Exact(at(start + 25)), 1, 9, 1), Some((25, 5)));
    assert_eq!(take(Target::Exact(at(start + 25)), 1, 9, 1), None);
    assert_eq!(take(Target::Exact(at(start + 20)), 6, 9, 1), None);
    // Aligned within the group.
    let found = take(Target::Near(at(start + 300)), 64, 64, 64).expect("found");
    assert!((start + found.0).is_multiple_of(64) && found.0.abs_diff(300) <= 64, "{found:?}");
    assert!(length > 400);
    // All that a transaction wants of one group, or nothing.
    let free = scene.mount.space_of(AgNumber(0)).free;
    let mut wanted = request(&scene, Target::InAg(at(start)), 1, 1, Use::Metadata);
    wanted.total = free + 1;
    assert_eq!(scene.allocate(&wanted), Ok(None));
    wanted.total = free;
    assert!(scene.allocate(&wanted).expect("allocate").is_some());
    scene.check();
}

#[test]
fn freeing_what_is_free_is_damage() {
    let mut scene = Scene::new(16, &PLAIN);
    let near = FsBlock(300);
    let wanted = request(&scene, Target::Near(near), 10, 10, Use::Data);
    let found = scene.allocate(&wanted).expect("allocate").expect("found");
    scene.free(found.block, 10);
    let cases =
        [(found.block.0, 10), (found.block.0 + 9, 1), (found.block.0 - 1, 2), (0, 1), (1 << 40, 4)];
    for (block, count) in cases {
        let mount = scene.mount.clone();
        let mut tp = mount.begin(mount.reservations().truncate, 0).expect("begin");
        let result = alloc::free(&mut tp, FsBlock(block), count, &scene.owner(), AgReserve::None);
        assert!(matches!(result, Err(Error::Corrupt(_))), "{block} {count}: {result:?}");
        assert!(!tp.is_dirty(), "nothing was changed");
        tp.cancel();
    }
    assert!(!scene.mount.is_shut_down());
    scene.check();
}

#[test]
fn a_device_that_fails_changes_nothing_or_shuts_down() {
    let options = [&["-b", "size=1024"], &PLAIN[..]].concat();
    let mut scene = Scene::new(16, &options);
    let mut random = Random(8);
    // Trees of two levels and more.
    fill(&mut scene, &mut random, 2);
    while scene.taken.len() > 3000 {
        let i = random.below(scene.taken.len() as u32) as usize;
        let piece = scene.taken.swap_remove(i);
        scene.free(piece.block, piece.count);
    }
    scene.mount.unmount().expect("unmount");
    let image = Arc::new(contents(&scene.disk));
    let mut outcomes = [0; 3];
    for n in 0..60 {
        let fault = FaultDisk::new(disk_over(image.clone()));
        let mount = mount_disk(fault.clone(), false).expect("mount");
        let before = free_extents(&mount, AgNumber(0));
        mount.shrink(usize::MAX);
        let wanted = random_request(&scene, &mut random);
        let mut tp = mount.begin(mount.reservations().write, wanted.max.into()).expect("begin");
        fault.inject(Fault::Nth { op: Op::Read, n: n % 10 });
        let result = alloc::allocate(&mut tp, &wanted);
        let dirty = tp.is_dirty();
        fault.clear();
        if result.is_ok() {
            outcomes[0] += 1;
            tp.commit(&mut []).expect("commit");
            free_extents(&mount, AgNumber(0));
            mount.unmount().expect("unmount");
            continue;
        }
        assert_eq!(result, Err(Error::Io));
        outcomes[1 + usize::from(dirty)] += 1;
        tp.cancel();
        assert_eq!(mount.is_shut_down(), dirty);
        if !dirty {
            assert_eq!(free_extents(&mount, AgNumber(0)), before);
        }
    }
    assert!(outcomes[0] > 0 && outcomes[1] > 0, "{outcomes:?}");
}

#[test]
fn several_threads_at_once() {
    let scene = Scene::new(64, &["-d", "agcount=4"]);
    let owner = scene.owner();
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let mount = scene.mount.clone();
            std::thread::spawn(move || {
                let mut random = Random(n);
                let mut taken = Vec::new();
                for _ in 0..600 {
                    let geometry = mount.geometry();
                    if taken.len() < 20 || random.below(2) == 0 {
                        let ag = AgNumber(random.below(geometry.ag_count));
                        let near = geometry.fs_block(ag, AgBlock(50 + random.below(3000)));
                        let max = 1 + random.below(40);
                        let wanted = AllocRequest {
                            min: 1,
                            ..AllocRequest::new(Target::Near(near), max, owner, Use::Data)
                        };
                        let Ok(mut tp) = mount.begin(mount.reservations().write, max.into()) else {
                            continue;
                        };
                        let found = alloc::allocate(&mut tp, &wanted).expect("allocate");
                        tp.commit(&mut []).expect("commit");
                        taken.push(found.expect("what was promised"));
                    } else {
                        let i = random.below(taken.len() as u32) as usize;
                        let piece = taken.swap_remove(i);
                        free(&mount, piece, &owner);
                    }
                }
                taken
            })
        })
        .collect();
    let taken: Vec<_> = threads.into_iter().flat_map(|t| t.join().expect("a thread")).collect();
    let mut sorted: Vec<_> = taken.iter().map(|a| (a.block.0, a.count)).collect();
    sorted.sort_unstable();
    for pair in sorted.windows(2) {
        assert!(pair[0].0 + u64::from(pair[0].1) <= pair[1].0, "{pair:?} overlap");
    }
    for piece in taken {
        free(&scene.mount, piece, &owner);
    }
    scene.finish(&mut Random(0));
}

fn free(mount: &Arc<holdfast_fs::xfs::Mount>, piece: alloc::Allocation, owner: &alloc::Owner) {
    let mut tp = mount.begin(mount.reservations().truncate, 0).expect("begin");
    alloc::free(&mut tp, piece.block, piece.count, owner, AgReserve::None).expect("free");
    tp.commit(&mut []).expect("commit");
}

#[test]
fn blocks_kept_back_are_there_when_all_else_is_gone() {
    let options = ["-d", "agcount=2", "-m", "rmapbt=0,reflink=1,finobt=1"];
    let mut scene = Scene::new(32, &options);
    let mut random = Random(11);
    fill(&mut scene, &mut random, 64);
    let geometry = scene.mount.geometry().clone();
    for ag in (0..geometry.ag_count).map(AgNumber) {
        let mount = scene.mount.clone();
        let mut taken = Vec::new();
        // No block was promised for these.
        for _ in 0..5 {
            let mut tp = mount.begin(mount.reservations().write, 0).expect("begin");
            let owner = alloc::Owner::Refcountbt;
            let block = alloc::allocate_tree_block(&mut tp, ag, 100, &owner).expect("allocate");
            tp.commit(&mut []).expect("commit");
            taken.push(block.expect("kept back"));
        }
        for block in taken {
            let mut tp = mount.begin(mount.reservations().write, 0).expect("begin");
            let owner = alloc::Owner::Refcountbt;
            alloc::free_tree_block(&mut tp, ag, block, &owner).expect("free");
            tp.commit(&mut []).expect("commit");
            assert!(covers_all(&scene.free[ag.0 as usize], block as u32, 1));
        }
    }
    assert_eq!(scene.mount.counters().free_blocks(), 0);
    scene.finish(&mut random);
}

/// Allocate a piece of a file and a block of its tree in each transaction, until nothing can
/// be promised any more.
fn fill_in_pairs(mount: &Arc<holdfast_fs::xfs::Mount>, seed: u64) -> Vec<alloc::Allocation> {
    let owner = alloc::Owner::BmbtBlock {
        ino: holdfast_fs::xfs::Ino(133),
        fork: holdfast_fs::xfs::ForkKind::Data,
    };
    let mut random = Random(seed);
    let mut taken = Vec::new();
    let geometry = mount.geometry();
    loop {
        let max = 1 + random.below(12);
        let mut tp = match mount.begin(mount.reservations().write, u64::from(max) + 1) {
            Ok(tp) => tp,
            Err(Error::NoSpace) if max > 1 => continue,
            Err(Error::NoSpace) => return taken,
            Err(e) => panic!("{e}"),
        };
        let ag = AgNumber(random.below(geometry.ag_count));
        let near = geometry.fs_block(ag, AgBlock(50 + random.below(3000)));
        let contents = AllocRequest {
            min: 1,
            total: max + 1,
            ..AllocRequest::new(Target::Near(near), max, owner, Use::Data)
        };
        let contents = alloc::allocate(&mut tp, &contents).expect("allocate");
        let contents = contents.expect("what was promised");
        let tree = AllocRequest::one(Target::Near(contents.block), owner);
        let tree = alloc::allocate(&mut tp, &tree).expect("allocate");
        taken.extend([contents, tree.expect("the tree's block, too")]);
        tp.commit(&mut []).expect("commit");
    }
}

#[test]
fn what_is_promised_to_several_threads_is_there() {
    let scene = Scene::new(64, &["-d", "agcount=4"]);
    let owner = scene.owner();
    for round in 0..2 {
        let threads: Vec<_> = (0..4)
            .map(|n| {
                let mount = scene.mount.clone();
                std::thread::spawn(move || fill_in_pairs(&mount, round * 4 + n))
            })
            .collect();
        let taken: Vec<_> = threads.into_iter().flat_map(|t| t.join().expect("a thread")).collect();
        assert!(scene.mount.counters().free_blocks() < 2);
        for piece in taken {
            free(&scene.mount, piece, &owner);
        }
        assert_eq!(scene.mount.counters().free_blocks(), scene.start_blocks);
    }
    scene.finish(&mut Random(0));
}

/// The discards among what a device was asked, as blocks of AG 0.
fn discards(trace: &TraceDisk, geometry: &holdfast_fs::xfs::Geometry) -> Vec<(u64, u64)> {
    let events = trace.take();
    let discard = |event: &TraceEvent| match event {
        TraceEvent::Submitted(request) if request.op == Op::Discard => Some((
            request.sector.0 >> (geometry.block_log - 9),
            request.length_bytes >> geometry.block_log,
        )),
        _ => None,
    };
    events.iter().filter_map(discard).collect()
}

#[test]
fn only_what_is_durably_free_is_discarded() {
    let mut trace = None;
    let mut scene = Scene::over(16, &PLAIN, |below| {
        let disk = TraceDisk::new(below);
        trace = Some(disk.clone());
        disk
    });
    let trace = trace.expect("a device");
    let geometry = scene.mount.geometry().clone();
    let (&start, _) = scene.free[0].iter().max_by_key(|(_, c)| **c).expect("free");
    let at = |block: u32| geometry.fs_block(AgNumber(0), AgBlock(start + block));
    let wanted = request(&scene, Target::Exact(at(0)), 100, 100, Use::Data);
    assert!(scene.allocate(&wanted).expect("allocate").is_some());
    scene.taken.clear();
    scene.mount.set_discard(true);
    scene.free(at(10), 20);
    scene.free(at(50), 5);
    scene.mount.discard_freed();
    assert_eq!(discards(&trace, &geometry), [], "it may come back after a crash");
    // Metadata may lie there at once, and then it must not be discarded.
    let wanted = request(&scene, Target::Exact(at(14)), 2, 2, Use::Metadata);
    assert!(scene.allocate(&wanted).expect("allocate").is_some());
    // Data may not, and waits for the log if there is nothing else.
    let wanted = request(&scene, Target::Exact(at(50)), 5, 5, Use::Data);
    let before = scene.mount.log().expect("a log").durable_seq();
    assert!(scene.allocate(&wanted).expect("allocate").is_some());
    assert!(scene.mount.log().expect("a log").durable_seq() > before);
    let start = u64::from(start);
    let expected = [(start + 10, 4), (start + 16, 14), (start + 50, 5)];
    assert_eq!(discards(&trace, &geometry), expected);
    scene.mount.discard_freed();
    assert_eq!(discards(&trace, &geometry), [], "once is enough");
    scene.mount.set_discard(false);
    scene.free(at(80), 5);
    scene.mount.log().expect("a log").force_all().expect("force");
    scene.mount.discard_freed();
    assert_eq!(discards(&trace, &geometry), []);
    scene.check();
}

#[test]
fn alignment_is_given_up_for_data_only() {
    let mut scene = Scene::new(16, &PLAIN);
    let mut random = Random(3);
    fill(&mut scene, &mut random, 64);
    // Free blocks at odd numbers only.
    let geometry = scene.mount.geometry().clone();
    let odd: Vec<u64> = scene
        .taken
        .iter()
        .flat_map(|a| a.block.0..a.block.0 + u64::from(a.count))
        .filter(|b| b % 16 == 1)
        .collect();
    for block in &odd {
        scene.free(FsBlock(*block), 1);
    }
    let near = geometry.fs_block(AgNumber(0), AgBlock(2000));
    let mut wanted = request(&scene, Target::Near(near), 1, 1, Use::Metadata);
    wanted.align = 16;
    assert_eq!(scene.allocate(&wanted), Ok(None));
    wanted.kind = Use::Data;
    assert!(scene.allocate(&wanted).expect("allocate").is_some());
}

#[test]
fn a_list_that_contradicts_itself_is_started_anew() {
    let scratch = Scratch::new("alloc-torn");
    let image = scratch.path("image");
    mkfs(&image, 16, &PLAIN, None);
    xfs_db_write(&image, &["agf 0", "write flfirst 116", "write fllast 1", "write flcount 3"]);
    let mount = mount_file(&image);
    assert!(mount.agfl(AgNumber(0)).expect("a list").is_empty());
    let owner = alloc::Owner::Skip;
    for near in [200, 900] {
        let mut tp = mount.begin(mount.reservations().write, 1).expect("begin");
        let wanted = AllocRequest::one(Target::Near(FsBlock(near)), owner);
        assert!(alloc::allocate(&mut tp, &wanted).expect("allocate").is_some());
        tp.commit(&mut []).expect("commit");
    }
    assert!(mount.agfl(AgNumber(0)).expect("a list").len() >= 4);
    mount.unmount().expect("unmount");
}
