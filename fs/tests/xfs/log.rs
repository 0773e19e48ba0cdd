//! The log's writing side: what lies in the ring afterwards, as `xfs_logprint` and a
//! reader of the tests' own see it; group commit, space, order of writes, shutdown.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::xfs_log_support::parse::{Parsed, parse};
use crate::xfs_log_support::{BLOCK, Block, Promise, Rig, Ring, Setup, mkfs};
use holdfast_fs::Error;
use holdfast_fs::block::{Completion, Fault, Op, Sector, TraceEvent};
use holdfast_fs::xfs::log::head::{self, Found, ReadLog};
use holdfast_fs::xfs::log::item::{CommitSeq, Item, Journal};
use holdfast_fs::xfs::reservation::Reservation;

fn ring(rig: &Rig) -> Vec<u8> {
    let ring = Ring(rig);
    ring.read(0, ring.blocks()).expect("the ring")
}

/// What recovery would leave of these blocks.
fn recovered(rig: &Rig, parsed: &Parsed, blocks: &[Arc<Block>]) -> BTreeMap<u64, Vec<u8>> {
    let mut device = BTreeMap::new();
    for block in blocks {
        let mut bytes = vec![0; BLOCK];
        rig.disk.peek(block.sector, &mut bytes);
        device.insert(block.sector.0, bytes);
    }
    for transaction in &parsed.transactions {
        transaction.replay(&mut device);
    }
    device
}

/// Everything is durable: replayed, the log gives what the blocks hold.
fn assert_recoverable(rig: &Rig, blocks: &[Arc<Block>]) -> Parsed {
    let parsed = parse(&ring(rig));
    let device = recovered(rig, &parsed, blocks);
    for block in blocks {
        assert!(device[&block.sector.0] == block.contents(), "sector {}", block.sector.0);
    }
    match head::find(&Ring(rig)).expect("the ring") {
        Found::Dirty(ends, _) => {
            assert_eq!(ends.head.0, rig.log.head().0);
            assert_eq!(ends.tail.0, rig.log.durable_tail().0);
        }
        other => panic!("{other:?}"),
    }
    parsed
}

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

#[test]
fn single_records() {
    let rig = Rig::new(&mkfs(16, &[]));
    let blocks: Vec<_> = (0..60).map(|n| rig.block(n)).collect();
    for (round, block) in blocks.chunks(3).enumerate() {
        let (at, byte) = (round * 100, round as u8);
        let seq = rig.commit(&[(&block[0], 0, &[byte; 200]), (&block[1], 700, &[byte; 8])]);
        rig.commit(&[(&block[2], at, &[byte; 1000])]);
        rig.log.force(seq).expect("force");
    }
    rig.log.force_all().expect("force");
    let parsed = assert_recoverable(&rig, &blocks);
    assert_eq!(parsed.transactions.len(), 20);
    let text = rig.logprint(&["-t"]);
    assert_eq!(text.matches("BUF: cnt").count(), 60, "{text}");
    rig.logprint(&[]);
}

#[test]
fn regions_cut_between_records() {
    let rig = Rig::new(&mkfs(24, &[]));
    let blocks: Vec<_> = (0..150).map(|n| rig.block(n)).collect();
    let mut seed = 7;
    for round in 0..3 {
        for block in &blocks {
            let bytes: Vec<u8> = (0..BLOCK).map(|_| random(&mut seed) as u8).collect();
            rig.commit(&[(block, 0, &bytes)]);
        }
        let before = rig.log.statistics();
        rig.log.force_all().expect("force");
        let did = rig.log.statistics().since(&before);
        assert_eq!(did.checkpoints, 1, "round {round}");
        assert_eq!(did.log_writes, 1, "one request");
        assert!(did.records > 15, "{did:?}");
        // Headers, cuts and padding are all that is added.
        assert!(did.log_bytes < did.item_bytes + did.records * 600 + 1024, "{did:?}");
    }
    let parsed = assert_recoverable(&rig, &blocks);
    // Each logs all blocks anew: the one before is only the tail while it is written.
    assert_eq!(parsed.transactions.len(), 2);
    rig.logprint(&["-t"]);
    rig.logprint(&[]);
}

/// Random transactions over a log until it has been gone round some times.
fn many_laps(rig: &mut Rig, laps: u64, seed: u64) {
    let blocks: Vec<_> = (0..60).map(|n| rig.block(n)).collect();
    let mut seed = seed;
    let mut checks = 0;
    while rig.log.head().0 >> 32 < 1 + laps {
        let count = 1 + random(&mut seed) as usize % 8;
        let first = random(&mut seed) as usize % (blocks.len() - count);
        let at = random(&mut seed) as usize % (BLOCK / 4) * 4;
        let len = 4 + random(&mut seed) as usize % (BLOCK - at - 3);
        let bytes: Vec<u8> = (0..len).map(|_| random(&mut seed) as u8).collect();
        let changes: Vec<_> =
            blocks[first..first + count].iter().map(|b| (b, at, &bytes[..])).collect();
        let seq = rig.commit(&changes);
        match random(&mut seed) % 16 {
            0..3 => rig.log.force(seq).expect("force"),
            3 if random(&mut seed).is_multiple_of(64) => rig.log.push_all().expect("push"),
            _ => {}
        }
        if random(&mut seed).is_multiple_of(256) && checks < 4 {
            checks += 1;
            rig.log.force_all().expect("force");
            assert_recoverable(rig, &blocks);
            rig.logprint(&["-t"]);
        }
    }
    let statistics = rig.log.statistics();
    assert_eq!(statistics.overruns, 0);
    rig.log.force_all().expect("force");
    assert_recoverable(rig, &blocks);
    rig.logprint(&["-t"]);
    rig.logprint(&[]);
    assert!(blocks.iter().all(|b| b.pins() == 0));
    rig.log.push_all().expect("push");
    assert_eq!(rig.log.ail_len(), 0);
    rig.log.unmount_record().expect("unmount");
    assert!(parse(&ring(rig)).unmounted);
    assert!(rig.logprint(&["-t"]).contains("<CLEAN>"));
    rig.repair();
    // The next mount goes on where this one ended.
    rig.reopen();
    let block = rig.block(61);
    let seq = rig.commit(&[(&block, 0, &[1; 64])]);
    rig.log.force(seq).expect("force");
    assert_recoverable(rig, &[block]);
    rig.logprint(&["-t"]);
}

#[test]
fn many_laps_of_the_least_log() {
    many_laps(&mut Rig::new(&mkfs(16, &["-b", "size=1024"])), 5, 11);
}

#[test]
fn many_laps_with_log_stripe_units() {
    many_laps(&mut Rig::new(&mkfs(64, &["-l", "su=32k"])), 4, 12);
    many_laps(&mut Rig::new(&mkfs(64, &["-l", "su=20k"])), 3, 13);
    many_laps(&mut Rig::new(&mkfs(96, &["-d", "agcount=2", "-l", "su=256k"])), 3, 14);
}

#[test]
fn many_laps_with_large_sectors() {
    let image = mkfs(32, &["-s", "size=4096"]);
    many_laps(
        &mut Rig::with(&image, Setup { logical_block_bytes: 4096, ..Setup::default() }),
        3,
        15,
    );
}

#[test]
fn nothing_dirty_costs_nothing() {
    let rig = Rig::new(&mkfs(16, &[]));
    let block = rig.block(0);
    rig.log.force_all().expect("force");
    assert!(rig.trace.take().is_empty());
    let seq = rig.commit(&[(&block, 0, &[1; 64])]);
    assert!(rig.trace.take().is_empty(), "a commit writes nothing");
    rig.log.force(seq).expect("force");
    assert_eq!(writes_and_flushes(&rig), "fwf", "the first one does not know what was before");
    rig.log.force(seq).expect("force");
    rig.log.force_all().expect("force");
    assert_eq!(writes_and_flushes(&rig), "");
    // Nothing was written since the last flush but the log itself.
    let seq = rig.commit(&[(&block, 0, &[2; 64])]);
    rig.log.force(seq).expect("force");
    assert_eq!(writes_and_flushes(&rig), "wf");
    // File data first has to be durable.
    rig.queue
        .write_bytes(&*rig.memory, Sector(0), &[0; 512], holdfast_fs::block::BioFlags::empty())
        .expect("write");
    rig.trace.take();
    let seq = rig.commit(&[(&block, 0, &[3; 64])]);
    rig.log.force(seq).expect("force");
    assert_eq!(writes_and_flushes(&rig), "fwf");
    rig.log.flush_device().expect("flush");
    assert_eq!(writes_and_flushes(&rig), "");
}

/// The requests since the last time: "w" for a write, "f" for a flush.
fn writes_and_flushes(rig: &Rig) -> String {
    let events = rig.trace.take();
    let requests = events.iter().filter_map(|event| match event {
        TraceEvent::Submitted(request) => Some(request.op),
        TraceEvent::Completed { .. } => None,
    });
    requests.map(|op| if op == Op::Flush { 'f' } else { 'w' }).collect()
}

#[test]
fn later_contents_replace_earlier_ones() {
    let rig = Rig::new(&mkfs(16, &[]));
    let block = rig.block(0);
    for round in 0..1000_u32 {
        rig.commit(&[(&block, 128, &round.to_be_bytes())]);
    }
    rig.log.force_all().expect("force");
    let statistics = rig.log.statistics();
    assert_eq!((statistics.transactions, statistics.checkpoints), (1000, 1));
    assert!(statistics.log_bytes <= 1024, "{statistics:?}");
    assert_recoverable(&rig, &[block]);
}

#[test]
fn intents_that_end_at_once_are_left_out() {
    let rig = Rig::new(&mkfs(16, &[]));
    let block = rig.block(0);
    let commit = |promises: &[&Arc<Promise>]| {
        let mut ticket = rig.reserve(1000);
        let items = promises.iter().map(|p| p.log_item()).collect();
        let seq = rig.log.commit(&mut ticket, items).expect("no shutdown");
        rig.log.release(ticket);
        seq
    };
    let pairs: Vec<_> =
        (1..4).map(|id| [Promise::new(id, false), Promise::new(id, true)]).collect();
    commit(&[&pairs[0][0]]);
    commit(&[&pairs[1][0], &pairs[0][1]]);
    rig.commit(&[(&block, 0, &[9; 100])]);
    rig.log.force_all().expect("force");
    assert!(pairs[1][0].committed.load(Ordering::SeqCst));
    assert!(!pairs[0][0].committed.load(Ordering::SeqCst));
    assert_eq!(rig.log.ail_len(), 2, "the intent and the block");
    let parsed = assert_recoverable(&rig, std::slice::from_ref(&block));
    assert_eq!(parsed.transactions[0].items().len(), 2);
    let text = rig.logprint(&["-t"]);
    assert!(text.matches("EFI: cnt").count() == 1 && !text.contains("EFD:"), "{text}");
    // The end comes in a later checkpoint: then the intent leaves the AIL.
    commit(&[&pairs[1][1]]);
    rig.log.force_all().expect("force");
    assert_eq!(rig.log.ail_len(), 1);
    assert!(rig.logprint(&["-t"]).contains("EFD:"));
    // What was logged long ago is old; what was logged last is not.
    let late = rig.block(1);
    for n in 0..40_u8 {
        assert!(!rig.log.is_old(&block.key()), "after {n} checkpoints");
        rig.commit(&[(&late, 0, &[n; BLOCK])]);
        rig.log.force_all().expect("force");
    }
    for n in 0..400_u16 {
        rig.commit(&[(&late, 0, &[n as u8; BLOCK])]);
        rig.log.force_all().expect("force");
    }
    assert!(rig.log.is_old(&block.key()) && !rig.log.is_old(&late.key()));
    rig.log.push_all().expect("push");
    // An intent that nobody works on any more cannot be pushed away.
    let seq = commit(&[&pairs[2][0]]);
    rig.log.force(seq).expect("force");
    assert_eq!(rig.log.push_all(), Err(Error::Shutdown));
    for promise in pairs.iter().flatten() {
        assert_eq!(promise.pins.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn a_checkpoint_without_memory() {
    let setup = Setup { memory_pages: 40, ..Setup::default() };
    let rig = Rig::with(&mkfs(24, &[]), setup);
    let blocks: Vec<_> = (0..120).map(|n| rig.block(n)).collect();
    let hogged: Vec<_> = std::iter::from_fn(|| {
        use holdfast_fs::platform::Memory;
        rig.memory.alloc_page()
    })
    .collect();
    for (n, block) in blocks.iter().enumerate() {
        rig.commit(&[(block, 0, &[n as u8; BLOCK])]);
    }
    rig.log.force_all().expect("force");
    let parsed = assert_recoverable(&rig, &blocks);
    assert_eq!(parsed.transactions.len(), 1);
    assert!(rig.log.statistics().log_writes >= 15);
    rig.logprint(&["-t"]);
    drop(hogged);
    rig.log.push_all().expect("push");
}

#[test]
fn a_write_error_shuts_down() {
    for n in 0..3 {
        let rig = Rig::new(&mkfs(16, &[]));
        let block = rig.block(0);
        let seq = rig.commit(&[(&block, 0, &[1; 64])]);
        rig.log.force(seq).expect("force");
        let op = if n == 1 { Op::Flush } else { Op::Write };
        let lost = rig.commit(&[(&block, 0, &[2; 64])]);
        if n < 2 {
            rig.faults.inject(Fault::Nth { op, n: 0 });
        } else {
            rig.log.shut_down("because");
        }
        assert_eq!(rig.log.force(lost), Err(Error::Shutdown));
        assert!(rig.log.is_shut_down());
        rig.trace.take();
        assert_eq!(rig.log.force(seq), Err(Error::Shutdown));
        assert_eq!(rig.log.push_all(), Err(Error::Shutdown));
        assert_eq!(rig.log.unmount_record(), Err(Error::Shutdown));
        let r = Reservation { bytes: 100, count: 1 };
        assert_eq!(rig.log.reserve(r).map(|_| ()), Err(Error::Shutdown));
        assert!(rig.trace.take().is_empty(), "nothing is written after a shutdown");
        assert_eq!(block.pins(), 0);
        rig.log.stop();
        assert_eq!(rig.log.ail_len(), 0);
        assert_eq!(Arc::strong_count(&block), 1, "nobody holds on to the block");
        let mut on_disk = vec![0; 64];
        on_disk.resize(512, 0);
        rig.disk.peek(block.sector, &mut on_disk);
        assert_eq!(on_disk[..64], [0xee; 64], "it was never written in place");
    }
}

fn group_commit(completion: Completion, threads: bool, delay_us: u64) {
    const THREADS: u64 = 8;
    const ROUNDS: u64 = 300;
    let rig = Rig::with(&mkfs(32, &[]), Setup { completion, delay_us, ..Setup::default() });
    if threads {
        rig.log.start();
    }
    let blocks: Vec<_> = (0..THREADS).map(|n| rig.block(n)).collect();
    std::thread::scope(|scope| {
        for (n, block) in blocks.iter().enumerate() {
            let rig = &rig;
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let seq = rig.commit(&[(block, n * 16, &round.to_be_bytes())]);
                    rig.log.force(seq).expect("force");
                    assert!(rig.log.durable_seq() >= seq);
                }
            });
        }
    });
    let statistics = rig.log.statistics();
    println!("{completion:?}: {statistics:?}");
    assert_eq!(statistics.transactions, THREADS * ROUNDS);
    assert!(statistics.log_writes <= statistics.checkpoints + 2, "one write each, but at the wrap");
    assert_recoverable(&rig, &blocks);
    if delay_us > 0 {
        let shared = statistics.transactions as f64 / statistics.checkpoints as f64;
        assert!(shared >= 4.0, "{shared} commits share a checkpoint");
    }
    rig.log.stop();
    rig.log.push_all().expect("push");
    rig.log.unmount_record().expect("unmount");
    rig.repair();
}

#[test]
fn threads_share_checkpoints() {
    group_commit(Completion::Inline, false, 0);
    group_commit(Completion::Threads(1), false, 0);
    group_commit(Completion::Reordered(2, 5), true, 0);
    group_commit(Completion::Inline, true, 200);
}

#[test]
fn an_idle_log_is_covered() {
    let rig = Rig::new(&mkfs(16, &[]));
    let blocks: Vec<_> = (0..20).map(|n| rig.block(n)).collect();
    rig.log.set_interval_ns(20_000_000);
    rig.log.start();
    for block in &blocks {
        rig.commit(&[(block, 64, &[5; 999])]);
    }
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let covered = || {
        let parsed = parse(&ring(&rig));
        let items = parsed.transactions.last().unwrap().items();
        parsed.transactions.len() == 1 && items.len() == 1 && items[0][0].len() == 16
    };
    while rig.log.ail_len() > 0 || rig.log.durable_seq() < CommitSeq(2) || !covered() {
        assert!(std::time::Instant::now() < deadline, "not covered: {:?}", rig.log.statistics());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let checkpoints = rig.log.statistics().checkpoints;
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(rig.log.statistics().checkpoints, checkpoints, "covered once");
    assert_recoverable(&rig, &blocks);
    rig.logprint(&["-t"]);
    rig.log.stop();
}
