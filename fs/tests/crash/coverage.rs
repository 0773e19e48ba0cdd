//! What the states that were tried had in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_fs::block::{BioFlags, MemDisk, Queue, Sector};
use holdfast_fs::platform::Memory;
use holdfast_fs::platform::host::HostMemory;
use holdfast_fs::xfs::geometry::Geometry;
use holdfast_fs::xfs::log::head::Found;
use holdfast_fs::xfs::log::recovery;
use holdfast_fs::xfs::ondisk::superblock::Superblock;

/// The types of items in a log, by number.
const ITEMS: &[(u16, &str)] = &[
    (0x1236, "EFI"),
    (0x1237, "EFD"),
    (0x123b, "inode"),
    (0x123c, "buffer"),
    (0x123f, "icreate"),
    (0x1240, "RUI"),
    (0x1241, "RUD"),
    (0x1242, "CUI"),
    (0x1243, "CUD"),
    (0x1244, "BUI"),
    (0x1245, "BUD"),
];

/// Counts of what was met.
#[derive(Clone, Debug, Default)]
pub struct Coverage {
    /// States that were recovered, compared and checked, each counted once.
    pub states: u64,
    /// With those looked at again when more had been promised.
    pub judged: u64,
    /// With torn writes, with lost ones.
    pub torn: u64,
    pub lost: u64,
    /// Crashed again while they were recovered.
    pub again: u64,
    /// Of a sample, how many: looked at, unmounted, unfinished intents, dropped records,
    /// the log going round its end.
    pub sampled: u64,
    pub clean: u64,
    pub intents: u64,
    pub dropped: u64,
    pub wrapped: u64,
    /// Items replayed, by type.
    pub items: BTreeMap<u16, u64>,
    /// Judged by xfs_repair.
    pub repaired: u64,
}

impl Coverage {
    pub fn add(&mut self, other: &Self) {
        self.states += other.states;
        self.judged += other.judged;
        self.torn += other.torn;
        self.lost += other.lost;
        self.again += other.again;
        self.sampled += other.sampled;
        self.clean += other.clean;
        self.intents += other.intents;
        self.dropped += other.dropped;
        self.wrapped += other.wrapped;
        self.repaired += other.repaired;
        for (kind, count) in &other.items {
            *self.items.entry(*kind).or_default() += count;
        }
    }
    /// Look at what a disk's log holds. The disk is recovered by that.
    pub fn sample(&mut self, disk: Arc<MemDisk>) -> Result<(), String> {
        let queue = Queue::new(disk);
        let memory: Arc<dyn Memory> = HostMemory::new(4096);
        let mut sector = vec![0; 4096];
        queue
            .read_bytes(&*memory, Sector(0), &mut sector, BioFlags::META)
            .map_err(|e| format!("the superblock: {e}"))?;
        let superblock = Superblock::decode(&sector)?;
        let geometry = Geometry::new(&superblock);
        self.sampled += 1;
        let ends = match recovery::find(&queue, &memory, &geometry).map_err(|e| e.to_string())? {
            Found::Clean(_) => {
                self.clean += 1;
                return Ok(());
            }
            Found::Dirty(ends, _) => ends,
            Found::Unusable(reason) => return Err(format!("the log cannot be used: {reason}")),
        };
        self.wrapped += u64::from(ends.head.block() < ends.tail.block());
        let recovered = recovery::recover(&queue, &memory, &geometry, &superblock)
            .map_err(|e| format!("recovery: {e}"))?;
        self.intents += u64::from(!recovered.intents.is_empty());
        self.dropped += u64::from(recovered.statistics.dropped > 0);
        for (kind, count) in recovered.statistics.items.iter() {
            *self.items.entry(kind).or_default() += count;
        }
        Ok(())
    }
    /// Item types of these that were not met.
    pub fn missing(&self, wanted: &[&'static str]) -> Vec<&'static str> {
        let met =
            |name: &str| ITEMS.iter().any(|(kind, n)| *n == name && self.items.contains_key(kind));
        wanted.iter().copied().filter(|name| !met(name)).collect()
    }
    /// For people.
    pub fn describe(&self) -> String {
        let items: Vec<String> = self
            .items
            .iter()
            .map(|(kind, count)| {
                let name = ITEMS.iter().find(|i| i.0 == *kind).map_or("other", |i| i.1);
                format!("{name} {count}")
            })
            .collect();
        format!(
            "{} distinct states, {} judgements ({} with lost writes, {} with torn ones, {} crashed again in \
             recovery, {} judged by xfs_repair); of {} logs looked at {} were clean, {} went \
             round the end, {} had incomplete records, {} unfinished intents; items replayed: {}",
            self.states,
            self.judged,
            self.lost,
            self.torn,
            self.again,
            self.repaired,
            self.sampled,
            self.clean,
            self.wrapped,
            self.dropped,
            self.intents,
            items.join(", ")
        )
    }
}
