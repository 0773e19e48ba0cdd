//! Power cuts at every request the log makes: whatever of the unflushed writes reached the
//! device, sectors torn, what was acknowledged is there, transactions are whole and in
//! their order.

use std::collections::{BTreeMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::xfs_log_support::parse::between;
use crate::xfs_log_support::{BLOCK, Block, Rig, Setup, mkfs};
use holdfast_fs::block::{Op, Sector, TraceEvent, TracedRequest};
use holdfast_fs::xfs::buf::ReadError;
use holdfast_fs::xfs::log::head::{self, Ends, Found, ReadLog};
use holdfast_fs::xfs::log::item::CommitSeq;

fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed >> 8
}

/// Sectors of a device that differ from what was there before the workload.
type Sectors = BTreeMap<u64, [u8; 512]>;

/// A device after a power cut.
struct Wreck<'a> {
    rig: &'a Rig,
    base: &'a [u8],
    sectors: Sectors,
}

impl Wreck<'_> {
    fn read(&self, sector: u64, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count * 512);
        for n in sector..sector + count as u64 {
            match self.sectors.get(&n) {
                Some(sector) => bytes.extend_from_slice(sector),
                None => bytes.extend_from_slice(&self.base[n as usize * 512..][..512]),
            }
        }
        bytes
    }
}

impl ReadLog for Wreck<'_> {
    fn blocks(&self) -> u32 {
        self.rig.geometry.log_blocks << (self.rig.geometry.block_log - 9)
    }
    fn uuid(&self) -> uuid::Uuid {
        self.rig.geometry.uuid
    }
    fn read(&self, block: u32, count: u32) -> Result<Vec<u8>, ReadError> {
        let start = self.rig.geometry.sector(self.rig.geometry.log_start).0;
        let front = (self.blocks() - block).min(count);
        let mut bytes = self.read(start + u64::from(block), front as usize);
        bytes.extend(self.read(start, (count - front) as usize));
        Ok(bytes)
    }
}

/// Requests that were submitted when something happened: a power cut at that number or
/// later comes after it.
type Time = u64;

/// What the workload did.
#[derive(Default)]
struct History {
    /// When, the pair of blocks, the stamp both got.
    commits: Vec<(Time, usize, u64, CommitSeq)>,
    forced: Vec<(Time, CommitSeq)>,
}

/// Transactions that each give two blocks the same stamp, and other contents besides.
fn work(rig: &Rig, pairs: &[[Arc<Block>; 2]], load: &Load, seed: &mut u64) -> History {
    let mut history = History::default();
    for stamp in 1..=load.transactions {
        let pair = random(seed) as usize % pairs.len();
        let len = 8 + random(seed) as usize % (load.bytes / 4) * 4;
        let mut bytes = vec![stamp as u8; len];
        bytes[..8].copy_from_slice(&stamp.to_be_bytes());
        let [a, b] = &pairs[pair];
        let seq = rig.commit(&[(a, 0, &bytes), (b, 0, &bytes)]);
        history.commits.push((rig.trace.submitted(), pair, stamp, seq));
        match random(seed) % load.commits_a_force {
            0 => {
                rig.log.force(seq).expect("force");
                history.forced.push((rig.trace.submitted(), seq));
            }
            1 if random(seed).is_multiple_of(5) => {
                rig.log.push_all().expect("push");
                history.forced.push((rig.trace.submitted(), seq));
            }
            _ => {}
        }
    }
    history
}

fn put(sectors: &mut Sectors, request: &TracedRequest, mut keep: impl FnMut() -> bool) {
    for (n, sector) in request.data.chunks_exact(512).enumerate() {
        if keep() {
            sectors.insert(request.sector.0 + n as u64, sector.try_into().unwrap());
        }
    }
}

/// What of the unflushed writes survives: all of some, or sectors of some.
fn cut(flushed: &Sectors, unflushed: &[&TracedRequest], way: u64, seed: &mut u64) -> Sectors {
    let mut sectors = flushed.clone();
    let whole = random(seed) % 4;
    for (n, request) in unflushed.iter().enumerate() {
        let last = n + 1 == unflushed.len();
        let torn = way == 0 && last || way > 1 && random(seed).is_multiple_of(3);
        let lost = way > 1 && random(seed) % 4 < whole;
        let odds = 1 + random(seed) % 9;
        put(&mut sectors, request, || !lost && (!torn || random(seed) % 10 < odds));
    }
    sectors
}

struct Judge<'a> {
    rig: &'a Rig,
    base: &'a [u8],
    pairs: &'a [[Arc<Block>; 2]],
    history: &'a History,
    states: HashSet<u64>,
    replayed: u64,
}

impl Judge<'_> {
    fn judge(&mut self, sectors: Sectors, time: Time, what: &str) {
        let mut hasher = DefaultHasher::new();
        sectors.hash(&mut hasher);
        if !self.states.insert(hasher.finish()) {
            return;
        }
        let wreck = Wreck { rig: self.rig, base: self.base, sectors };
        let ends: Ends = match head::find(&wreck).expect("the ring") {
            Found::Clean(ends) | Found::Dirty(ends, _) => ends,
            Found::Unusable(why) => panic!("{what}: {why}"),
        };
        let ring = ReadLog::read(&wreck, 0, wreck.blocks()).expect("the ring");
        let part = |lsn: u64| ((lsn >> 32) as u32, lsn as u32);
        let transactions = between(&ring, part(ends.tail.0), part(ends.head.0));
        let mut device = BTreeMap::new();
        for block in self.pairs.iter().flatten() {
            device.insert(block.sector.0, wreck.read(block.sector.0, BLOCK / 512));
        }
        for transaction in &transactions {
            transaction.replay(&mut device);
        }
        self.replayed += transactions.len() as u64;
        let stamp = |block: &Arc<Block>| {
            let bytes = device[&block.sector.0][..8].try_into().unwrap();
            match u64::from_be_bytes(bytes) {
                0xeeee_eeee_eeee_eeee => 0,
                stamp => stamp,
            }
        };
        let found: Vec<_> = self.pairs.iter().map(|[a, b]| (stamp(a), stamp(b))).collect();
        let forced = self.history.forced.iter().filter(|(when, _)| *when <= time);
        let forced = forced.map(|(_, seq)| *seq).max().unwrap_or_default();
        let newest = found.iter().map(|(a, _)| *a).max().unwrap_or(0);
        let mut expected = vec![0; self.pairs.len()];
        for (when, pair, stamp, seq) in &self.history.commits {
            assert!(*stamp != newest || *when <= time, "{what}: from the future");
            assert!(
                *seq > forced || *stamp <= newest,
                "{what}: stamp {stamp} was acknowledged, {newest} is the newest there"
            );
            if *stamp <= newest {
                expected[*pair] = *stamp;
            }
        }
        for (pair, (a, b)) in found.iter().enumerate() {
            assert!(a == b, "{what}: pair {pair} is torn: {a} and {b}");
            assert!(*a == expected[pair], "{what}: pair {pair}: {a}, not {}", expected[pair]);
        }
    }
}

/// What a test does before the power is cut.
struct Load {
    log_blocks: u32,
    options: &'static [&'static str],
    pairs: u64,
    /// Most bytes a transaction changes in each of its blocks.
    bytes: usize,
    transactions: u64,
    commits_a_force: u64,
    /// Ways in which the power is cut at each request.
    ways: u64,
}

/// Cut the power after every request, in several ways.
fn cut_everywhere(load: &Load, seed: u64) {
    let Load { log_blocks, options, .. } = *load;
    let image = mkfs(16, options);
    let setup = Setup { log_blocks: Some(log_blocks), memory_pages: 600, ..Setup::default() };
    let rig = Rig::with(&image, setup);
    let mut base = vec![0; image.len()];
    rig.disk.peek(Sector(0), &mut base);
    let pairs: Vec<_> = (0..load.pairs).map(|n| [rig.block(2 * n), rig.block(2 * n + 1)]).collect();
    let mut random_state = seed;
    // Requests are numbered from when the device was made.
    let first = rig.trace.submitted();
    let history = work(&rig, &pairs, load, &mut random_state);
    let laps = rig.log.head().cycle() - 1;
    let events = rig.trace.take();
    let requests: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            TraceEvent::Submitted(request) => Some(request),
            TraceEvent::Completed { .. } => None,
        })
        .collect();
    let states = HashSet::new();
    let mut judge =
        Judge { rig: &rig, base: &base, pairs: &pairs, history: &history, states, replayed: 0 };
    let mut flushed = Sectors::new();
    let mut unflushed: Vec<&TracedRequest> = Vec::new();
    for (n, request) in requests.iter().enumerate() {
        assert_eq!(request.id, first + n as u64);
        let time = request.id + 1;
        if request.op == Op::Flush {
            for request in unflushed.drain(..) {
                put(&mut flushed, request, || true);
            }
        } else {
            unflushed.push(request);
        }
        for way in 0..load.ways {
            // While the request is under way nothing that follows it has happened.
            let when = if way == 0 { time - 1 } else { time };
            let sectors = cut(&flushed, &unflushed, way, &mut random_state);
            let what = format!("seed {seed} log {log_blocks} request {} way {way}", request.id);
            judge.judge(sectors, when, &what);
        }
    }
    println!(
        "{log_blocks} blocks {options:?}: {} requests, {laps} laps, {} states, {} transactions replayed",
        requests.len(),
        judge.states.len(),
        judge.replayed
    );
    assert!(laps >= 3 && judge.states.len() > requests.len());
}

const SMALL: Load = Load {
    log_blocks: 32,
    options: &[],
    pairs: 8,
    bytes: 2000,
    transactions: 700,
    commits_a_force: 5,
    ways: 8,
};

#[test]
fn power_cuts() {
    for seed in 1..6 {
        cut_everywhere(&SMALL, seed);
    }
    cut_everywhere(&Load { log_blocks: 64, transactions: 900, ..SMALL }, 2);
}

#[test]
fn power_cuts_with_a_log_stripe_unit() {
    let load = Load { log_blocks: 160, options: &["-l", "su=16k"], transactions: 500, ..SMALL };
    cut_everywhere(&load, 3);
}

/// Checkpoints of many records, several requests and flushes each.
#[test]
fn power_cuts_in_long_checkpoints() {
    let load = Load {
        log_blocks: 600,
        pairs: 100,
        bytes: 4088,
        transactions: 2400,
        commits_a_force: 60,
        ways: 5,
        ..SMALL
    };
    cut_everywhere(&load, 5);
}
