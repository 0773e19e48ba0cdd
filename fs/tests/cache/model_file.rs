//! Everything that can be done to a file's contents, at random, on a file system in
//! memory with a cache far smaller than the files, against an array of bytes.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::support::SliceSource;
use crate::support::fsx::{Fsx, LIMIT, World};
use crate::support::model_world::{ModelWorld, Open};
use holdfast_fs::Result;
use holdfast_fs::block::Completion;
use holdfast_fs::iomap::Change;
use holdfast_fs::mm::MapFlags;
use holdfast_fs::platform::VirtAddr;

struct Model {
    world: ModelWorld,
    files: [Arc<Open>; 2],
    maps: [VirtAddr; 2],
}

impl Model {
    fn new(shift: u32, seed: u64) -> Self {
        // Folios of one page and much reclaim; of two and four, and less; of eight and none.
        let pages = [24, 64, 160][seed as usize % 3];
        let completion = Completion::Reordered(2, seed);
        let world = ModelWorld::new(shift, (2 << 20) >> shift, pages, completion);
        world.cache.start();
        let files = [world.file(1), world.file(2)];
        for file in &files {
            file.fs.speculative.store(seed % 9, Ordering::SeqCst);
        }
        let maps = [0, 1].map(|f: usize| world.map(&files[f], LIMIT as usize, MapFlags::SHARED));
        Self { world, files, maps }
    }
    /// On disk is what the models say, and every block comes back.
    fn finish(self, models: &[Vec<u8>; 2]) {
        for (file, model) in self.files.iter().zip(models) {
            file.sync().unwrap();
            assert_eq!(file.fs.after_crash(), *model, "on disk");
        }
        self.world.memory.clear();
        for file in &self.files {
            file.truncate(0).unwrap();
            assert_eq!(file.fs.reserved(), 0, "a reservation stayed");
            file.fs.delete();
        }
        assert_eq!(self.world.space.available(), self.world.space.total(), "blocks were lost");
        self.world.cache.stop();
    }
}

impl World for Model {
    fn block(&self) -> u64 {
        1 << self.world.space.shift
    }
    fn can_share(&self) -> bool {
        true
    }
    fn size(&self, f: usize) -> u64 {
        self.files[f].size()
    }
    fn read(&mut self, f: usize, pos: u64, len: usize) -> Result<Vec<u8>> {
        self.files[f].read(pos, len)
    }
    fn write(&mut self, f: usize, pos: u64, data: &[u8], fault_every: usize) -> Result<usize> {
        let mut source = SliceSource::new(data);
        source.fault_every = fault_every;
        self.files[f].write_from(pos, &mut source)
    }
    fn direct_read(&mut self, f: usize, pos: u64, len: usize) -> Result<Vec<u8>> {
        self.files[f].direct_read(pos, len)
    }
    fn direct_write(&mut self, f: usize, pos: u64, data: &[u8]) -> Result<usize> {
        self.files[f].direct_write(pos, data)
    }
    fn store(&mut self, f: usize, pos: u64, data: &[u8]) {
        self.world.store(self.maps[f].add(pos), data).unwrap();
    }
    fn load(&mut self, f: usize, pos: u64, len: usize) -> Vec<u8> {
        self.world.load(self.maps[f].add(pos), len).unwrap()
    }
    fn truncate(&mut self, f: usize, size: u64) -> Result<()> {
        self.files[f].truncate(size)
    }
    fn change(&mut self, f: usize, what: Change, range: Range<u64>, keep: bool) -> Result<()> {
        self.files[f].change(what, range, keep)
    }
    fn share(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<()> {
        self.files[to.0].share_from(&self.files[from.0], from.1, to.1, len)
    }
    fn dedupe(&mut self, from: (usize, u64), to: (usize, u64), len: u64) -> Result<Option<u64>> {
        self.files[to.0].dedupe_from(&self.files[from.0], from.1, to.1, len)
    }
    fn sync(&mut self, f: usize) -> Result<()> {
        self.files[f].sync()
    }
    fn drop_clean(&mut self, f: usize) {
        self.files[f].drop_clean();
    }
}

fn run(shift: u32, seed: u64, operations: usize) {
    println!("shift {shift} seed {seed}");
    let mut fsx = Fsx::new(Model::new(shift, seed), seed);
    for n in 0..operations {
        fsx.step();
        if n.is_multiple_of(16) {
            fsx.check_all();
        }
    }
    fsx.check_all();
    let models = fsx.models().clone();
    fsx.into_world().finish(&models);
}

/// `MODEL_OPERATIONS` and `MODEL_SEEDS` make it longer.
fn seeds(shift: u32) {
    let number = |name: &str, usual| std::env::var(name).map_or(usual, |n| n.parse().unwrap());
    let operations = number("MODEL_OPERATIONS", 1500);
    let first = number("MODEL_SEED", 1);
    for seed in first..first + number("MODEL_SEEDS", 3) {
        run(shift, seed as u64 * 7919, operations);
    }
}

#[test]
fn equals_an_array_with_blocks_of_a_page() {
    seeds(12);
}

#[test]
fn equals_an_array_with_blocks_of_1024() {
    seeds(10);
}

#[test]
fn equals_an_array_with_blocks_of_512() {
    seeds(9);
}
