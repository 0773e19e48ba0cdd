//! Figures, verdicts, the summary and its JSON.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;

use holdfast_fs::block::{OpStatistics, QueueStatistics};
use holdfast_sync::time::now_ns;
use serde_json::{Value, json};

use super::Job;
use super::make::Proved;
use super::verify::Verified;
use super::work::Done;
use crate::context::Context;
use crate::files::sha256sum;
use crate::out;
use crate::system::{System, counter};

/// Threads of the kernel that this job must make work: how each is named in the list of
/// threads, the counter of folios it handled, and what it does with them.
const KERNEL_WORKERS: [(&str, &str, &str); 2] =
    [("writeback", "cleaned_background", "cleaned"), ("reclaim", "evicted_background", "evicted")];

/// All that is known of a run.
pub struct Report {
    seed: u64,
    started_ns: u64,
    elapsed_ns: u64,
    boot: Vec<(String, u64)>,
    cache_before: Vec<(&'static str, u64)>,
    cache_after: Vec<(&'static str, u64)>,
    disk_before: QueueStatistics,
    disk: QueueStatistics,
    /// A thread's switches before this job, and the most seen since.
    switches: BTreeMap<String, (u64, u64)>,
    phases: Vec<(&'static str, u64)>,
    files: usize,
    overwritable: usize,
    bytes: u64,
    writable_bytes: u64,
    cache_bytes: u64,
    read_first: u64,
    workers: Vec<Done>,
    dropped: u64,
    made: (u64, u64),
    verified: Vec<(&'static str, Verified, Option<String>)>,
    digests: Vec<Vec<u8>>,
    verdicts: Vec<(String, bool)>,
}

impl Report {
    /// The counters before anything is done.
    pub fn begin(system: &Arc<dyn System>, seed: u64) -> Self {
        let switches =
            system.threads().into_iter().map(|t| (t.name, (t.switches, t.switches))).collect();
        Self {
            seed,
            started_ns: now_ns(),
            elapsed_ns: 0,
            boot: system.boot_marks(),
            cache_before: system.cache_statistics(),
            cache_after: Vec::new(),
            disk_before: system.block_statistics(),
            disk: QueueStatistics::default(),
            switches,
            phases: Vec::new(),
            files: 0,
            overwritable: 0,
            bytes: 0,
            writable_bytes: 0,
            cache_bytes: 0,
            read_first: 0,
            workers: Vec::new(),
            dropped: 0,
            made: (0, 0),
            verified: Vec::new(),
            digests: Vec::new(),
            verdicts: Vec::new(),
        }
    }
    pub(super) fn survey(&mut self, job: &Job) {
        self.files = job.model.files.len();
        self.overwritable = job.model.files.iter().filter(|f| f.writable).count();
        self.bytes = job.model.bytes();
        self.writable_bytes = job.model.writable_bytes();
        self.cache_bytes = job.cache_bytes;
    }
    /// Note the switches of all threads that run now.
    pub(super) fn watch(&mut self, system: &Arc<dyn System>) {
        for t in system.threads() {
            let entry = self.switches.entry(t.name).or_insert((0, 0));
            entry.1 = entry.1.max(t.switches);
        }
    }
    pub(super) fn phase(&mut self, name: &'static str, elapsed_ns: u64) {
        self.phases.push((name, elapsed_ns));
    }
    pub(super) fn learnt(&mut self, bytes: u64) {
        self.read_first = bytes;
    }
    pub(super) fn churned(&mut self, workers: Vec<Done>) {
        self.workers = workers;
    }
    pub(super) fn dropped(&mut self, folios: u64) {
        self.dropped = folios;
    }
    pub(super) fn verified(&mut self, name: &'static str, parts: &[Verified]) {
        let mut all = Verified::default();
        for part in parts {
            all.bytes += part.bytes;
            all.slots += part.slots;
            all.wrong += part.wrong;
            all.first_wrong = all.first_wrong.or(part.first_wrong);
        }
        self.verified.push((name, all, None));
    }
    /// The maker's files as they were found in the end, and how many are not right.
    pub(super) fn made(&mut self, found: Proved) {
        let Proved { hashes, wrong } = found;
        for (path, hash) in &hashes {
            self.digests.push(sha256sum::line(hash, path));
        }
        self.made = (hashes.len() as u64, wrong);
    }
    /// The counters after everything, and the verdicts.
    pub(super) fn finish(&mut self, job: &Job, proved: Vec<Verified>) {
        self.watch(&job.system);
        self.elapsed_ns = now_ns() - self.started_ns;
        self.cache_after = job.system.cache_statistics();
        self.disk = job.system.block_statistics().since(&self.disk_before);
        let mut hashes: Vec<(usize, [u8; 32])> =
            proved.into_iter().flat_map(|part| part.hashes).collect();
        hashes.sort_by_key(|h| h.0);
        for (index, hash) in &hashes {
            self.digests.push(sha256sum::line(hash, &job.model.files[*index].path));
        }
        // In the order of their paths, behind the hashes.
        self.digests.sort_by(|a, b| a.get(66..).cmp(&b.get(66..)));
        for (_, found, wrong_at) in &mut self.verified {
            if let Some((file, position)) = found.first_wrong {
                let path = String::from_utf8_lossy(&job.model.files[file].path).into_owned();
                *wrong_at = Some(alloc::format!("{path} at byte {position}"));
            }
        }
        self.judge(hashes.len());
    }
    /// How much a counter of the page cache grew.
    fn cache(&self, name: &str) -> u64 {
        counter(&self.cache_after, name).wrapping_sub(counter(&self.cache_before, name))
    }
    /// How often threads of this name (or names that begin so) were switched to.
    fn switched(&self, name: &str) -> u64 {
        let ours = self.switches.iter().filter(|(n, _)| n.starts_with(name));
        ours.map(|(_, (before, after))| after - before).sum()
    }
    fn judge(&mut self, hashed: usize) {
        let mut verdicts = Vec::new();
        let mut say = |what: String, good: bool| verdicts.push((what, good));
        for (name, found, wrong_at) in &self.verified {
            let whole = found.bytes == self.bytes;
            let place =
                wrong_at.as_ref().map_or(String::new(), |at| alloc::format!(", first in {at}"));
            say(
                alloc::format!(
                    "{name}: {} slots compared, {} wrong{place}",
                    found.slots,
                    found.wrong
                ),
                found.wrong == 0 && whole && found.slots > 0,
            );
        }
        let wrong: u64 = self.workers.iter().map(|w| w.wrong).sum();
        say(alloc::format!("reading along: {wrong} slots wrong"), wrong == 0);
        say(alloc::format!("every file hashed ({hashed})"), hashed == self.files);
        let (made, wrong) = self.made;
        say(
            alloc::format!("{made} files made, renamed and cut: {wrong} wrong"),
            made > 0 && wrong == 0,
        );
        for w in &self.workers {
            say(alloc::format!("{} worked ({} ops)", w.name, w.ops), w.ops > 0);
        }
        for (name, folios, did) in KERNEL_WORKERS {
            let (n, switches) = (self.cache(folios), self.switched(name));
            say(
                alloc::format!("{name} {did} folios ({n}) in {switches} switches"),
                n > 0 && switches > 0,
            );
        }
        // A cache that holds everything has nothing to evict twice.
        if self.writable_bytes > 2 * self.cache_bytes {
            let (refaults, throttled) = (self.cache("refaults"), self.cache("throttled"));
            say(alloc::format!("evicted folios were read again ({refaults})"), refaults > 0);
            say(alloc::format!("dirtiers were throttled ({throttled} times)"), throttled > 0);
        }
        let errors = self.cache("writeback_errors");
        say(alloc::format!("writeback errors: {errors}"), errors == 0);
        self.verdicts = verdicts;
    }
    /// Is every verdict good?
    pub fn good(&self) -> bool {
        !self.verdicts.is_empty() && self.verdicts.iter().all(|v| v.1)
    }

    // ---- printing

    /// The summary, then the lines for programs.
    pub fn print(&self, cx: &mut Context) {
        self.print_work(cx);
        self.print_threads(cx);
        self.print_disk(cx);
        out!(cx, "verdicts\n");
        for (what, good) in &self.verdicts {
            out!(cx, "  {}  {what}\n", if *good { "ok " } else { "BAD" });
        }
        let seconds = seconds(self.elapsed_ns);
        let word = if self.good() { "good" } else { "BAD" };
        out!(cx, "main job: {word} in {seconds} s\n");
        for line in &self.digests {
            cx.bytes(b"@@sha256 ");
            cx.bytes(line);
        }
        out!(cx, "@@json {}\n", self.json());
    }
    fn print_work(&self, cx: &mut Context) {
        let (bytes, cache) = (self.bytes >> 20, self.cache_bytes >> 20);
        out!(cx, "{} files, {bytes} MiB, {cache} MiB of cache, seed {}\n", self.files, self.seed);
        let fixed = self.files - self.overwritable;
        if fixed > 0 {
            out!(cx, "{fixed} of them have holes, unwritten or shared extents: only read\n");
        }
        if let Some((mark, ns)) = self.boot.last() {
            out!(cx, "boot: {mark} {}.{} ms after the start\n", ns / 1_000_000, ns / 100_000 % 10);
        }
        let at = |name| self.phases.iter().find(|p| p.0 == name).map_or(0, |p| p.1);
        let (read, churn) = (at("read"), at("churn"));
        let sum = |kind: &str| {
            let workers = self.workers.iter().filter(|w| w.name.starts_with(kind));
            workers.fold((0, 0), |(bytes, ops), w| (bytes + w.bytes, ops + w.ops))
        };
        out!(cx, "read      {}\n", amount(self.read_first, read));
        for (kind, label) in
            [("writer", "write()   "), ("storer", "stored    "), ("reader", "read along")]
        {
            let (bytes, ops) = sum(kind);
            out!(cx, "{label} {} in {ops} ops\n", amount(bytes, churn));
        }
        for (name, found, _) in &self.verified {
            out!(cx, "{name:<9} {}\n", amount(found.bytes, at(name)));
        }
        out!(
            cx,
            "fsync of all files {} s, {} folios dropped\n",
            seconds(at("settle")),
            self.dropped
        );
    }
    fn print_threads(&self, cx: &mut Context) {
        out!(cx, "threads                  folios   switches\n");
        for (name, folios, did) in KERNEL_WORKERS {
            let (n, switches) = (self.cache(folios), self.switched(name));
            out!(cx, "  {name:<12} {did} {n:>8} {switches:>10}\n");
        }
        for w in &self.workers {
            let (switches, raced) = (self.switched(w.name), w.raced);
            out!(cx, "  {:<12} {:>7} {:>8} {switches:>10}", w.name, "", "");
            match raced {
                0 => out!(cx, "\n"),
                n => out!(cx, "  ({n} reads met a change)\n"),
            }
        }
        let evicted_direct = self.cache("evicted_direct");
        out!(cx, "cleaned by fsync and msync {}", self.cache("cleaned_sync"));
        out!(cx, ", evicted by who needed a page {evicted_direct}\n");
        out!(cx, "refaults {}, readahead {}", self.cache("refaults"), self.cache("readahead"));
        let throttle = seconds(self.cache("throttle_ns"));
        out!(cx, ", throttled {} times for {throttle} s\n", self.cache("throttled"));
    }
    fn print_disk(&self, cx: &mut Context) {
        for (name, op) in [("reads", &self.disk.read), ("writes", &self.disk.write)] {
            out!(
                cx,
                "disk {name:<6} {:>6} of {} KiB on average",
                op.requests,
                op.mean_bytes() >> 10
            );
            out!(cx, " ({} MiB, {} merged)\n", op.bytes >> 20, op.merges);
        }
        let depth = self.disk.mean_depth_hundredths();
        out!(cx, "queue depth {}.{:02} on average, ", depth / 100, depth % 100);
        out!(cx, "{} at most, {} flushes\n", self.disk.in_flight_max, self.disk.flush.requests);
    }
    fn json(&self) -> Value {
        let op = |o: &OpStatistics| {
            json!({"requests": o.requests, "bytes": o.bytes, "merges": o.merges,
                   "errors": o.errors, "mean_bytes": o.mean_bytes(), "sizes": o.sizes.to_vec()})
        };
        let kernel: Vec<Value> = KERNEL_WORKERS
            .iter()
            .map(|(name, folios, did)| {
                json!({"name": name, *did: self.cache(folios), "switches": self.switched(name)})
            })
            .collect();
        let workers: Vec<Value> = self
            .workers
            .iter()
            .map(|w| {
                json!({"name": w.name, "ops": w.ops, "bytes": w.bytes, "raced": w.raced,
                       "wrong": w.wrong, "elapsed_ns": w.elapsed_ns,
                       "switches": self.switched(w.name)})
            })
            .collect();
        let object = |pairs: &mut dyn Iterator<Item = (String, u64)>| -> Value {
            pairs.map(|(k, v)| (k, Value::from(v))).collect::<serde_json::Map<_, _>>().into()
        };
        let names = self.cache_after.iter().map(|c| c.0);
        json!({
            "good": self.good(),
            "seed": self.seed,
            "elapsed_ns": self.elapsed_ns,
            "boot_ns": object(&mut self.boot.iter().cloned()),
            "files": self.files,
            "files_overwritten": self.overwritable,
            "bytes": self.bytes,
            "bytes_overwritable": self.writable_bytes,
            "cache_bytes": self.cache_bytes,
            "phases_ns": object(&mut self.phases.iter().map(|p| (p.0.to_string(), p.1))),
            "kernel_threads": kernel,
            "threads": workers,
            "page_cache": object(&mut names.map(|n| (n.to_string(), self.cache(n)))),
            "disk": {"read": op(&self.disk.read), "write": op(&self.disk.write),
                     "flushes": self.disk.flush.requests,
                     "depth_mean_hundredths": self.disk.mean_depth_hundredths(),
                     "depth_max": self.disk.in_flight_max},
            "verdicts": self.verdicts.iter()
                .map(|(what, good)| json!({"what": what, "good": good})).collect::<Vec<_>>(),
        })
    }
}

fn seconds(ns: u64) -> String {
    alloc::format!("{}.{:03}", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

/// Bytes, and how fast they went.
fn amount(bytes: u64, ns: u64) -> String {
    let rate = (u128::from(bytes) * 1_000_000_000 / u128::from(ns.max(1))) as u64;
    let tenths = |n: u64| alloc::format!("{}.{}", n >> 20, ((n & 0xF_FFFF) * 10) >> 20);
    alloc::format!("{:>8} MiB in {:>7} s, {:>7} MiB/s", tenths(bytes), seconds(ns), tenths(rate))
}
