//! A file of a mounted image, and a model of what each of its blocks holds.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use holdfast_fs::block::MemDisk;
use holdfast_fs::iomap::{Iomap, Layout, MapFlags, MapKind, Ops, Purpose};
use holdfast_fs::xfs::{ForkKind, Inode, Mount};

use crate::support::Rng;
use crate::xfs_support::{self, Scratch, contents, disk_over, judge, mount_disk, walk};

/// A small file system with the files a, b and c on a disk in memory, mounted.
pub struct Scene {
    name: String,
    scratch: Scratch,
    disk: Arc<MemDisk>,
    pub mount: Arc<Mount>,
    /// Blocks that were free at first.
    pub before: u64,
}

impl Scene {
    pub fn new(name: &str, options: &[&str]) -> Self {
        Self::sized(name, 16, options)
    }
    pub fn sized(name: &str, megabytes: u64, options: &[&str]) -> Self {
        let scratch = Scratch::new(name);
        let proto = scratch.path("proto");
        let text = "/none\n0 0\nd--755 0 0\na ---644 0 0 /dev/null\nb ---644 0 0 /dev/null\n\
                    c ---644 0 0 /dev/null\n$\n";
        std::fs::write(&proto, text).expect("proto");
        let file = scratch.path("image");
        xfs_support::mkfs(&file, megabytes, options, Some(&proto));
        let disk = disk_over(Arc::new(std::fs::read(&file).expect("image")));
        let mount = mount_disk(disk.clone(), false).expect("it mounts");
        let before = mount.counters().free_blocks();
        Self { name: name.into(), scratch, disk, mount, before }
    }
    /// A file, of which so many blocks are worked on.
    pub fn file(&self, path: &str, blocks: u64) -> Tested {
        Tested::new(self, path, blocks)
    }
    /// Blocks that are free now.
    pub fn free(&self) -> u64 {
        self.mount.counters().free_blocks()
    }
    /// Nobody needs the files any more: unmount, and let xfs_repair judge.
    pub fn finish(&self, files: impl IntoIterator<Item = Tested>) {
        files.into_iter().for_each(Tested::close);
        self.mount.unmount().expect("unmount");
        assert!(!self.mount.is_shut_down());
        let overruns = self.mount.log().expect("a log").statistics().overruns;
        assert_eq!(overruns, 0, "transactions that logged more than they reserved");
        judge(&self.disk);
    }
    /// The files become empty: what was free at first is free again. Then as
    /// [`Scene::finish`].
    pub fn finish_empty<const N: usize>(&self, mut files: [Tested; N]) {
        for file in &mut files {
            file.truncate(0);
            assert_eq!(file.inode.delalloc_blocks(), (0, 0));
            assert_eq!(file.inode.attributes().blocks, 0);
        }
        assert_eq!(self.free(), self.before, "{}: free blocks", self.name);
        self.finish(files);
    }
    /// Mount again what was unmounted.
    pub fn remount(&mut self) {
        self.mount = mount_disk(self.disk.clone(), false).expect("it mounts again");
    }
    /// Compare the map of a file with what xfs_db finds on the disk.
    pub fn check_bmap(&self, file: &Tested) {
        file.inode.log_force(false).expect("force");
        self.mount.log().expect("a log").push_all().expect("push");
        let image = self.scratch.path("image");
        std::fs::write(&image, contents(&self.disk)).expect("image");
        let ino = format!("inode {}", file.inode.ino().0);
        let printed = xfs_support::xfs_db(&image, &[&ino, "bmap"]);
        let extents = file.inode.all_extents(ForkKind::Data).expect("extents");
        let lines: Vec<&str> = printed.lines().filter(|l| l.starts_with("data offset")).collect();
        assert_eq!(lines.len(), extents.len(), "{printed}");
        for (line, extent) in lines.iter().zip(&extents) {
            let start = format!("data offset {} startblock {} ", extent.offset.0, extent.block.0);
            let count = format!(" count {} flag {}", extent.count, u8::from(extent.unwritten));
            assert!(line.starts_with(&start) && line.ends_with(&count), "{line}: {extent:?}");
        }
    }
}

/// What a block of the disk shall hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Hole,
    Zero,
    Data(u64),
}

/// A file and its model.
pub struct Tested {
    pub inode: Arc<Inode>,
    disk: Arc<MemDisk>,
    path: String,
    shift: u32,
    blocks: u64,
    disk_state: BTreeMap<u64, State>,
    dirty: BTreeMap<u64, u64>,
    size: u64,
    stamp: u64,
}

impl Tested {
    fn new(scene: &Scene, path: &str, blocks: u64) -> Self {
        Self {
            inode: walk::resolve(&scene.mount, path).expect("the file"),
            disk: scene.disk.clone(),
            path: path.into(),
            shift: scene.mount.geometry().block_log,
            blocks,
            disk_state: BTreeMap::new(),
            dirty: BTreeMap::new(),
            size: 0,
            stamp: u64::from(path.as_bytes()[0]) << 32,
        }
    }
    fn bytes(&self, blocks: &Range<u64>) -> Range<u64> {
        blocks.start << self.shift..blocks.end << self.shift
    }
    fn state(&self, block: u64) -> State {
        self.disk_state.get(&block).copied().unwrap_or(State::Hole)
    }
    fn set(&mut self, blocks: Range<u64>, state: State) {
        for block in blocks {
            self.disk_state.insert(block, state);
        }
    }
    fn stamp_block(&self, stamp: u64) -> Vec<u8> {
        stamp.to_le_bytes().repeat(1 << (self.shift - 3))
    }
    fn grow(&mut self, end: u64) {
        if end > self.size {
            self.size = end;
            self.inode.size_changed(end);
        }
    }
    /// The cache took this: it is dirty.
    pub fn note_written(&mut self, blocks: Range<u64>) {
        let end = blocks.end << self.shift;
        for block in blocks {
            self.stamp += 1;
            self.dirty.insert(block, self.stamp);
        }
        self.grow(end);
    }
    pub fn write(&mut self, blocks: Range<u64>) {
        let bytes = self.bytes(&blocks);
        let mut at = bytes.start;
        while at < bytes.end {
            let map = self.inode.begin(at, bytes.end - at, Purpose::Write).expect("begin");
            assert!(map.contains(at) && self.inode.is_valid(&map));
            let end = map.end_bytes().min(bytes.end);
            self.note_written(at >> self.shift..end >> self.shift);
            at = end;
        }
    }
    /// A write of which only a part arrived.
    fn write_short(&mut self, blocks: Range<u64>, done: u64) {
        let bytes = self.bytes(&blocks);
        let map = self.inode.begin(bytes.start, bytes.end - bytes.start, Purpose::Write);
        let map = map.expect("begin");
        let end = map.end_bytes().min(bytes.end) >> self.shift;
        let done = (blocks.start + done).min(end);
        self.note_written(blocks.start..done);
        let Some(fork) = map.reserved_in() else { return };
        for block in done..end {
            if !self.dirty.contains_key(&block) {
                let bytes = self.bytes(&(block..block + 1));
                self.inode.punch_delalloc(bytes, fork).expect("punch");
            }
        }
    }
    /// Write dirty blocks of a range as the cache would.
    fn writeback(&mut self, blocks: Range<u64>) {
        let dirty: Vec<(u64, u64)> = self.dirty.range(blocks).map(|(b, s)| (*b, *s)).collect();
        let mut cached: Option<Iomap> = None;
        let mut ioend: Option<(Iomap, Range<u64>)> = None;
        for (block, stamp) in dirty {
            let pos = block << self.shift;
            let map = match cached.filter(|m| m.contains(pos) && self.inode.is_valid(m)) {
                Some(map) => map,
                None => self.inode.writeback_map(pos, 1 << self.shift).expect("a map"),
            };
            cached = Some(map);
            let sector = map.sector(pos).expect("a block");
            self.disk.poke(sector, &self.stamp_block(stamp));
            self.disk_state.insert(block, State::Data(stamp));
            self.dirty.remove(&block);
            match &mut ioend {
                Some((m, range)) if range.end == block && *m == map => range.end = block + 1,
                _ => {
                    if let Some((map, range)) = ioend.take() {
                        self.end(&map, range);
                    }
                    ioend = Some((map, block..block + 1));
                }
            }
        }
        if let Some((map, range)) = ioend {
            self.end(&map, range);
        }
    }
    fn end(&self, map: &Iomap, blocks: Range<u64>) {
        let bytes = self.bytes(&blocks);
        let size = bytes.end.min(self.size);
        let len = bytes.end - bytes.start;
        self.inode.writeback_done(map, bytes.start, len, size).expect("done");
    }
    pub fn flush(&mut self) {
        self.writeback(0..u64::MAX);
        assert!(self.dirty.is_empty());
    }
    pub fn write_direct(&mut self, blocks: Range<u64>) {
        self.writeback(blocks.clone());
        let bytes = self.bytes(&blocks);
        let mut at = bytes.start;
        while at < bytes.end {
            let map = self.inode.begin(at, bytes.end - at, Purpose::DirectWrite).expect("begin");
            let end = map.end_bytes().min(bytes.end);
            for block in at >> self.shift..end >> self.shift {
                self.stamp += 1;
                let sector = map.sector(block << self.shift).expect("a block");
                self.disk.poke(sector, &self.stamp_block(self.stamp));
                self.disk_state.insert(block, State::Data(self.stamp));
            }
            self.inode.writeback_done(&map, at, end - at, end).expect("done");
            at = end;
        }
        self.grow(bytes.end);
    }
    pub fn punch(&mut self, blocks: Range<u64>) {
        self.writeback(blocks.clone());
        self.inode.punch(self.bytes(&blocks)).expect("punch");
        self.set(blocks, State::Hole);
    }
    fn zero(&mut self, blocks: Range<u64>) {
        self.writeback(blocks.clone());
        self.inode.zero_blocks(self.bytes(&blocks)).expect("zero");
        self.set(blocks.clone(), State::Zero);
        self.set_size_if_larger(blocks.end << self.shift);
    }
    fn preallocate(&mut self, blocks: Range<u64>) {
        self.inode.preallocate(self.bytes(&blocks)).expect("preallocate");
        for block in blocks.clone() {
            if self.state(block) == State::Hole {
                self.disk_state.insert(block, State::Zero);
            }
        }
        self.set_size_if_larger(blocks.end << self.shift);
    }
    fn set_size_if_larger(&mut self, size: u64) {
        if size > self.size {
            self.inode.begin(self.size, size - self.size, Purpose::Zero).expect("zeros");
            self.inode.set_size(size, false).expect("size");
            self.size = size;
        }
    }
    /// A larger size.
    pub fn grow_to(&mut self, blocks: u64) {
        self.set_size_if_larger(blocks << self.shift);
    }
    /// Blocks that are reserved behind the end.
    pub fn ahead(&self) -> u64 {
        let mut count = 0;
        let block = 1 << self.shift;
        let mut at = self.size.next_multiple_of(block);
        let map = self.inode.begin(at, block, Purpose::Read).expect("a map");
        if map.kind == MapKind::Delalloc {
            while at < map.end_bytes() {
                count += 1;
                at += block;
            }
        }
        count
    }
    fn collapse(&mut self, blocks: Range<u64>) {
        self.flush();
        self.inode.collapse(self.bytes(&blocks)).expect("collapse");
        let by = blocks.end - blocks.start;
        let behind = self.disk_state.split_off(&blocks.start);
        let moved = behind.into_iter().filter(|(b, _)| *b >= blocks.end);
        self.disk_state.extend(moved.map(|(b, s)| (b - by, s)));
        self.size -= by << self.shift;
        self.inode.set_size(self.size, true).expect("size");
    }
    fn insert(&mut self, blocks: Range<u64>) {
        self.flush();
        let by = blocks.end - blocks.start;
        self.size += by << self.shift;
        self.inode.set_size(self.size, false).expect("size");
        self.inode.insert(self.bytes(&blocks)).expect("insert");
        let behind = self.disk_state.split_off(&blocks.start);
        self.disk_state.extend(behind.into_iter().map(|(b, s)| (b + by, s)));
    }
    pub fn truncate(&mut self, blocks: u64) {
        self.dirty.split_off(&blocks);
        self.disk_state.split_off(&blocks);
        self.flush();
        self.size = blocks << self.shift;
        self.inode.set_size(self.size, true).expect("size");
    }
    /// Share blocks of another file.
    pub fn clone_from(&mut self, source: &mut Self, blocks: Range<u64>, at: u64) {
        source.writeback(blocks.clone());
        let target = at..at + (blocks.end - blocks.start);
        self.writeback(target.clone());
        let bytes = self.bytes(&blocks);
        self.inode.share(&source.inode, bytes, at << self.shift).expect("share");
        self.take_states(blocks.map(|b| source.state(b)).collect(), target);
    }
    /// Share blocks of the file with itself.
    pub fn clone_within(&mut self, blocks: Range<u64>, at: u64) {
        let target = at..at + (blocks.end - blocks.start);
        self.writeback(blocks.clone());
        self.writeback(target.clone());
        let bytes = self.bytes(&blocks);
        self.inode.share(&self.inode, bytes, at << self.shift).expect("share");
        self.take_states(blocks.map(|b| self.state(b)).collect(), target);
    }
    fn take_states(&mut self, states: Vec<State>, target: Range<u64>) {
        for (state, to) in states.into_iter().zip(target.clone()) {
            let state = if let State::Data(_) = state { state } else { State::Hole };
            self.disk_state.insert(to, state);
        }
        self.set_size_if_larger(target.end << self.shift);
    }
    /// A random operation.
    pub fn step(&mut self, rng: &mut Rng, round: u64) {
        let start = rng.below(self.blocks);
        let most = if rng.below(4) == 0 { 200 } else { 8 };
        let len = 1 + rng.below(most);
        let blocks = start..(start + len).min(self.blocks);
        let end = self.size >> self.shift;
        let inside = blocks.end < end;
        match rng.below(16) {
            0..=3 => self.write(blocks),
            4 => self.write(end..(end + len).min(self.blocks).max(end)),
            5 => self.write_short(blocks.clone(), rng.below(len)),
            6 | 7 => self.writeback(blocks.start..blocks.end + 50),
            8 | 9 => self.write_direct(blocks),
            10 => self.punch(blocks),
            11 => self.zero(blocks),
            12 => self.preallocate(blocks),
            13 if inside && round.is_multiple_of(2) => self.collapse(blocks),
            13 if inside && end + len < self.blocks => self.insert(blocks),
            14 if rng.below(3) == 0 => self.truncate(start),
            15 if rng.below(3) == 0 => self.inode.trim_eof().expect("trim"),
            _ => self.flush(),
        }
    }
    /// Compare the map and the disk with the model.
    pub fn check(&self) {
        let mut at = 0;
        let end = (self.blocks + 1000) << self.shift;
        while at < end {
            let map = self.inode.begin(at, end - at, Purpose::Read).expect("a map");
            assert!(map.contains(at));
            let stop = map.end_bytes().min(end);
            for block in at >> self.shift..stop >> self.shift {
                self.check_block(block, &map);
            }
            at = stop;
        }
    }
    fn check_block(&self, block: u64, map: &Iomap) {
        let pos = block << self.shift;
        let (path, model) = (&self.path, self.state(block));
        if pos >= self.size {
            // Blocks ahead of the end may be there, but never written.
            let written = matches!(map.kind, MapKind::Written { .. });
            assert!(!written, "{path}: block {block} behind the end: {map:?}");
            return;
        }
        match (model, map.kind) {
            (State::Data(stamp), MapKind::Written { .. }) => {
                let mut found = vec![0; 1 << self.shift];
                self.disk.peek(map.sector(pos).expect("a block"), &mut found);
                assert!(found == self.stamp_block(stamp), "{path}: contents of block {block}");
            }
            // Allocated ahead, or for a dirty neighbour.
            (State::Hole | State::Zero, MapKind::Unwritten { .. }) => {}
            (State::Hole, MapKind::Hole) => {}
            (State::Hole, MapKind::Delalloc) => {}
            _ => panic!("{path}: block {block} shall be {model:?}, is {map:?}"),
        }
        if self.dirty.contains_key(&block) {
            assert!(!matches!(map.kind, MapKind::Hole), "{path}: block {block} is dirty");
            assert!(!map.flags.contains(MapFlags::NEW));
        }
    }
    pub fn close(self) {
        assert!(self.dirty.is_empty());
        self.inode.evict().expect("evict");
    }
}
