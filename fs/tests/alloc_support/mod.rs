//! A file system whose free space is allocated and freed directly, beside a model of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use holdfast_fs::block::{BlockDevice, MemDisk};
use holdfast_fs::error::Result;
use holdfast_fs::xfs::alloc::{self, AgReserve, AllocRequest, Allocation, Owner};
use holdfast_fs::xfs::buf::Run;
use holdfast_fs::xfs::log::item::CommitSeq;
use holdfast_fs::xfs::ondisk::block::BlockKind;
use holdfast_fs::xfs::ondisk::btree::ShortBlock;
use holdfast_fs::xfs::ondisk::freesp::{ByBlock, FreeExtent};
use holdfast_fs::xfs::ondisk::rmapbt::Rmap;
use holdfast_fs::xfs::types::{AgBlock, AgNumber, FsBlock, Ino};
use holdfast_fs::xfs::{ForkKind, Mount};

use crate::xfs_support::{contents, disk_over, image, judge, mount_disk};

pub struct Random(pub u64);
impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
    pub fn below(&mut self, n: u32) -> u32 {
        (self.next() % u64::from(n.max(1))) as u32
    }
}

/// Free extents of a group: start and length.
pub type Free = BTreeMap<u32, u32>;

/// A mounted file system and what should be free in it.
pub struct Scene {
    pub disk: Arc<MemDisk>,
    pub mount: Arc<Mount>,
    pub free: Vec<Free>,
    /// What was free at first.
    pub start: Vec<Free>,
    pub start_blocks: u64,
    pub taken: Vec<Allocation>,
    /// Freed, and durable with this commit.
    pub freed: Vec<(FsBlock, u32, CommitSeq)>,
}

impl Scene {
    pub fn new(megabytes: usize, options: &[&str]) -> Self {
        Self::over(megabytes, options, |disk| disk)
    }
    /// With a device between the file system and the disk.
    pub fn over(
        megabytes: usize,
        options: &[&str],
        between: impl FnOnce(Arc<dyn BlockDevice>) -> Arc<dyn BlockDevice>,
    ) -> Self {
        let disk = disk_over(image(megabytes, options));
        let mount = mount_disk(between(disk.clone()), false).expect("mount");
        let mut scene = Self {
            disk,
            start_blocks: mount.counters().free_blocks(),
            mount,
            free: Vec::new(),
            start: Vec::new(),
            taken: Vec::new(),
            freed: Vec::new(),
        };
        scene.free = scene.groups().map(|ag| free_extents(&scene.mount, ag)).collect();
        for (ag, free) in (0..).map(AgNumber).zip(&mut scene.free) {
            for block in set_aside(&scene.mount, ag) {
                add(free, block, 1);
            }
        }
        scene.start = scene.free.clone();
        scene
    }
    fn groups(&self) -> impl Iterator<Item = AgNumber> {
        (0..self.mount.geometry().ag_count).map(AgNumber)
    }
    /// Compare the trees with the model.
    pub fn check(&self) {
        for (ag, model) in self.groups().zip(&self.free) {
            let mut expected = model.clone();
            // What the trees have for themselves is free in the model.
            for block in set_aside(&self.mount, ag) {
                assert!(covers_all(&expected, block, 1), "block {block} is somebody's");
                remove(&mut expected, block, 1);
            }
            assert_eq!(free_extents(&self.mount, ag), expected, "AG {}", ag.0);
        }
    }
    /// Allocate in a transaction of its own, which may need `blocks`.
    pub fn allocate(&mut self, request: &AllocRequest) -> Result<Option<Allocation>> {
        let mount = self.mount.clone();
        let mut tp = mount.begin(mount.reservations().write, u64::from(request.max))?;
        let found = alloc::allocate(&mut tp, request)?;
        // With reverse mappings each block belongs to a place in a file.
        tp.commit(&mut [])?;
        if let Some(found) = found {
            self.took(request, found);
        }
        Ok(found)
    }
    pub fn took(&mut self, request: &AllocRequest, found: Allocation) {
        let (ag, block) = self.mount.geometry().split(found.block);
        let (start, count) = (block.0, found.count);
        assert!((request.min..=request.max).contains(&count), "{found:?} for {request:?}");
        let free = &mut self.free[ag.0 as usize];
        assert!(covers_all(free, start, count), "{found:?} was not free");
        remove(free, start, count);
        if request.kind == alloc::Use::Data {
            let durable = self.mount.log().expect("a log").durable_seq();
            for (freed, length, seq) in &self.freed {
                let apart = freed.0 + u64::from(*length) <= found.block.0
                    || found.block.0 + u64::from(count) <= freed.0;
                assert!(apart || *seq <= durable, "{found:?} is not durably free");
            }
            self.freed.retain(|(_, _, seq)| *seq > durable);
        }
        self.taken.push(found);
    }
    /// Free part of an allocation, in a transaction of its own.
    pub fn free(&mut self, block: FsBlock, count: u32) {
        let mount = self.mount.clone();
        let mut tp = mount.begin(mount.reservations().truncate, 0).expect("begin");
        let owner = self.owner();
        alloc::free(&mut tp, block, count, &owner, AgReserve::None).expect("free");
        let seq = tp.commit(&mut []).expect("commit");
        self.freed.push((block, count, seq));
        let (ag, start) = mount.geometry().split(block);
        add(&mut self.free[ag.0 as usize], start.0, count);
    }
    /// Whose blocks are in the reverse mappings: nobody has a place in a file.
    pub fn owner(&self) -> Owner {
        Owner::BmbtBlock { ino: Ino(133), fork: ForkKind::Data }
    }
    /// Free the last of what was taken.
    pub fn free_all(&mut self, random: &mut Random) {
        while !self.taken.is_empty() {
            let i = random.below(self.taken.len() as u32) as usize;
            let Allocation { block, count } = self.taken.swap_remove(i);
            self.free(block, count);
        }
    }
    /// Everything is free again: unmount, and let xfs_repair judge.
    pub fn finish(mut self, random: &mut Random) {
        self.free_all(random);
        self.check();
        assert_eq!(self.free, self.start);
        assert_eq!(self.mount.counters().free_blocks(), self.start_blocks);
        self.mount.unmount().expect("unmount");
        self.judge();
    }
    /// Let xfs_repair look at the disk; all that was free at first is free.
    pub fn judge(&self) {
        judge(&self.disk);
        let mount = mount_disk(disk_over(Arc::new(contents(&self.disk))), false).expect("mount");
        assert_eq!(mount.counters().free_blocks(), self.start_blocks);
    }
}

/// The free extents of a group; its trees must agree with each other and the AGF.
pub fn free_extents(mount: &Mount, ag: AgNumber) -> Free {
    let mut by_block = Free::new();
    let each = &mut |free: FreeExtent| {
        assert!(by_block.last_key_value().is_none_or(|(s, c)| s + c < free.start));
        by_block.insert(free.start, free.count);
        true
    };
    mount.free_by_block(ag, each).expect("bnobt");
    let mut by_size = Free::new();
    let mut longest = 0;
    let each = &mut |free: FreeExtent| {
        by_size.insert(free.start, free.count);
        longest = free.count;
        true
    };
    mount.free_by_size(ag, each).expect("cntbt");
    assert_eq!(by_block, by_size, "the trees of AG {}", ag.0);
    let agf = mount.agf(ag).expect("AGF");
    assert_eq!(agf.free_blocks, by_block.values().sum::<u32>());
    assert_eq!(agf.longest, longest);
    by_block
}

/// The blocks of a group's AGFL and of its trees of space, which are as full as they must be.
fn set_aside(mount: &Mount, ag: AgNumber) -> Vec<u32> {
    let geometry = mount.geometry();
    let agf = mount.agf(ag).expect("AGF");
    let mut blocks = Vec::new();
    let roots = [
        (Some(agf.bnobt), BlockKind::Bnobt),
        (Some(agf.cntbt), BlockKind::Cntbt),
        (agf.rmapbt, BlockKind::Rmapbt),
    ];
    let mut trees = 0;
    for (root, kind) in roots {
        let Some(root) = root else { continue };
        trees += 1;
        let mut level_blocks = vec![root.block.0];
        for level in (0..root.levels).rev() {
            blocks.extend(&level_blocks);
            let mut below = Vec::new();
            for block in level_blocks {
                let sector = geometry.ag_sector(ag, AgBlock(block));
                let run = Run { sector, bytes: geometry.block_bytes() as u32 };
                let buffer = mount.buffers().read(&[run], &[kind]).expect("a tree");
                let bytes = buffer.read();
                let node = ShortBlock::new(&bytes).expect("a block");
                assert_eq!(node.level(), level);
                for i in 0..if level > 0 { node.count() } else { 0 } {
                    below.extend(match kind {
                        BlockKind::Rmapbt => node.child::<Rmap>(i),
                        _ => node.child::<ByBlock>(i),
                    });
                }
                let unit = match (kind, level) {
                    (BlockKind::Rmapbt, 0) => 24,
                    (BlockKind::Rmapbt, _) => 44,
                    (_, 0) => 8,
                    (..) => 12,
                };
                let least = (geometry.block_bytes() - 56) / unit / 2;
                assert!(
                    level + 1 == root.levels || node.count() >= least,
                    "{} below {least}",
                    node.count()
                );
            }
            level_blocks = below;
        }
    }
    assert_eq!(agf.btree_blocks as usize, blocks.len() - trees, "btree blocks in the AGF");
    blocks.extend(mount.agfl(ag).expect("AGFL").iter().map(|b| b.0));
    blocks
}

/// Are all these blocks free?
pub fn covers_all(free: &Free, start: u32, count: u32) -> bool {
    free.range(..=start).next_back().is_some_and(|(s, c)| s + c >= start + count)
}

/// Take blocks out of what is free.
pub fn remove(free: &mut Free, start: u32, count: u32) {
    let (&at, &length) = free.range(..=start).next_back().expect("free");
    free.remove(&at);
    if at < start {
        free.insert(at, start - at);
    }
    if at + length > start + count {
        free.insert(start + count, at + length - start - count);
    }
}

/// Add blocks to what is free.
pub fn add(free: &mut Free, start: u32, count: u32) {
    let (mut start, mut count) = (start, count);
    if let Some((&at, &length)) = free.range(..start).next_back() {
        assert!(at + length <= start, "free twice");
        if at + length == start {
            free.remove(&at);
            (start, count) = (at, length + count);
        }
    }
    if let Some(length) = free.remove(&(start + count)) {
        count += length;
    }
    free.insert(start, count);
}
