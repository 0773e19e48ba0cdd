//! Making by hand, on an unmounted image, what mkfs.xfs alone does not make: attributes
//! in every form, deep extent trees, shared blocks, link targets in blocks of their own.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use holdfast_fs::xfs::geometry::Geometry;
use holdfast_fs::xfs::ondisk::bmbt;
use holdfast_fs::xfs::ondisk::inode::{CORE_BYTES, CRC_OFFSET};
use holdfast_fs::xfs::ondisk::stamp_checksum;
use holdfast_fs::xfs::types::{AgBlock, AgNumber};
use holdfast_fs::xfs::{FsBlock, Ino, Mount};

use super::walk::resolve;
use super::{Scratch, mkfs, mount_bytes, xfs_db_write};

/// A prototype for mkfs.xfs: directories of several forms, files, links, devices.
pub fn prototype(scratch: &Scratch, node_names: usize) -> std::path::PathBuf {
    let file = |name: &str, bytes: usize| {
        let path = scratch.path(name);
        let contents: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(&path, contents).expect("a file");
        path
    };
    let (small, large) = (file("small", 5000), file("large", 300_000));
    let mut p = String::from("/dev/null\n0 0\nd--755 0 0\n");
    let mut add = |line: &str| writeln!(p, "{line}").expect("a line");
    add(&format!("small ---644 1 2 {}", small.display()));
    add(&format!("large ---600 3 4 {}", large.display()));
    add("empty ---444 0 0 /dev/null");
    for name in ["tree", "deeptree", "shared", "sf-attr", "leaf-attr", "node-attr", "remote-attr"] {
        add(&format!("{name} ---644 0 0 {}", small.display()));
    }
    add("link l--777 0 0 some/where/else");
    add("long-link l--777 0 0 replaced");
    add("pipe p--644 0 0");
    add("a-char-device c--644 0 0 5 1");
    add("a-block-device b--660 0 6 259 7");
    for (dir, names) in [("sf", 6), ("block", 40), ("leaf", 150), ("node", node_names)] {
        add(&format!("{dir} d--755 7 8"));
        for i in 0..names {
            add(&format!("an-entry-with-a-name-{i} ---644 0 0 /dev/null"));
        }
        add("sub d--700 0 0");
        add("inside ---644 0 0 /dev/null");
        add("$");
        add("$");
    }
    add("$");
    let path = scratch.path("proto");
    std::fs::write(&path, p).expect("prototype");
    path
}

/// An image with one of everything.
pub fn image(scratch: &Scratch, name: &str, megabytes: u64, options: &[&str]) -> Vec<u8> {
    let proto = prototype(scratch, 700);
    let path = scratch.path(name);
    mkfs(&path, megabytes, options, Some(&proto));
    let bytes = Arc::new(std::fs::read(&path).expect("image"));
    let mount = mount_bytes(bytes, true).expect("mount");
    add_attributes(&path, &mount);
    share_blocks(&path, &mount);
    let mut bytes = std::fs::read(&path).expect("image");
    let mut craft = Craft::new(&mut bytes, &mount);
    let find = |name| resolve(&mount, name).expect("a file").ino();
    craft.extent_tree(find("tree"), 300);
    craft.extent_tree(find("deeptree"), 5000);
    craft.remote_symlink(find("long-link"), 700);
    bytes
}

/// Give files of an image made from the prototype attributes in every form.
pub fn attributes(path: &Path) {
    let bytes = Arc::new(std::fs::read(path).expect("image"));
    add_attributes(path, &mount_bytes(bytes, true).expect("mount"));
}

fn add_attributes(path: &Path, mount: &Arc<Mount>) {
    let mut commands: Vec<String> = Vec::new();
    let mut on = |name: &str, each: &[String]| {
        let ino = resolve(mount, name).expect("a file").ino();
        commands.push(format!("inode {}", ino.0));
        commands.extend_from_slice(each);
    };
    on(
        "sf-attr",
        &["attr_set -v 5 a", "attr_set -r -v 9 b", "attr_set -s -v 20 c"].map(String::from),
    );
    let leaf: Vec<_> = (0..8).map(|i| format!("attr_set -v {} leaf{i}", 40 + i)).collect();
    on("leaf-attr", &leaf);
    let node: Vec<_> = (0..200).map(|i| format!("attr_set -v 60 a-longer-name-{i}")).collect();
    on("node-attr", &node);
    let remote: Vec<_> =
        [3000, 5000, 60000].iter().map(|n| format!("attr_set -v {n} value{n}")).collect();
    on("remote-attr", &remote);
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    xfs_db_write(path, &commands);
}

/// Mark the middle of the file "shared" as having two owners.
fn share_blocks(path: &Path, mount: &Arc<Mount>) {
    let geometry = mount.geometry();
    let inode = resolve(mount, "shared").expect("a file");
    let extent = inode.all_extents(holdfast_fs::xfs::ForkKind::Data).expect("extents")[0];
    let (ag, block) = geometry.split(extent.block);
    let commands = [
        format!("inode {}", inode.ino().0),
        "write v3.reflink 1".into(),
        format!("agf {}", ag.0),
        "addr refcntroot".into(),
        "write numrecs 1".into(),
        format!("write recs[1].startblock {}", block.0 + 1),
        "write recs[1].blockcount 1".into(),
        "write recs[1].refcount 2".into(),
    ];
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    xfs_db_write(path, &commands);
}

/// Writes structures into an image.
pub struct Craft<'a> {
    bytes: &'a mut Vec<u8>,
    geometry: Geometry,
    /// Free blocks still to be used.
    free: Vec<FsBlock>,
}

impl<'a> Craft<'a> {
    pub fn new(bytes: &'a mut Vec<u8>, mount: &Arc<Mount>) -> Self {
        let geometry = mount.geometry().clone();
        let mut free = Vec::new();
        for ag in (0..geometry.ag_count).map(AgNumber) {
            mount
                .free_by_block(ag, &mut |e| {
                    for i in 0..e.count {
                        free.push(geometry.fs_block(ag, AgBlock(e.start + i)));
                    }
                    true
                })
                .expect("free space");
        }
        // From the end: what xfs_db allocates in between comes from the start.
        Self { bytes, geometry, free }
    }
    fn take_block(&mut self) -> FsBlock {
        self.free.pop().expect("a free block")
    }
    /// Where an inode lies in the image.
    pub fn inode_offset(geometry: &Geometry, ino: Ino) -> usize {
        let (ag, block, slot) = geometry.locate_inode(ino).expect("an inode number");
        geometry.ag_sector(ag, block).0 as usize * 512 + ((slot as usize) << geometry.inode_log)
    }
    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }
    fn set_inode(
        &mut self,
        ino: Ino,
        format: u8,
        size: u64,
        blocks: u64,
        extents: u32,
        fork: &[u8],
    ) {
        let at = Self::inode_offset(&self.geometry, ino);
        self.put(at + 5, &[format]);
        self.put(at + 56, &size.to_be_bytes());
        self.put(at + 64, &blocks.to_be_bytes());
        self.put(at + 76, &extents.to_be_bytes());
        let fork_at = at + CORE_BYTES;
        let end = at + self.geometry.inode_bytes();
        self.bytes[fork_at..end].fill(0);
        self.put(fork_at, fork);
        let inode = at..end;
        stamp_checksum(&mut self.bytes[inode], CRC_OFFSET);
    }
    /// Give a file this many extents of one block each, every other block a hole.
    pub fn extent_tree(&mut self, ino: Ino, extents: u32) {
        let data: Vec<FsBlock> = self.free[..64].to_vec();
        let mut records: Vec<(u64, Vec<u8>)> = (0..u64::from(extents))
            .map(|i| {
                let offset = i * 2;
                let block = data[i as usize % data.len()].0;
                let high = offset << 9 | block >> 43;
                let low = block << 21 | 1;
                (offset, [high.to_be_bytes(), low.to_be_bytes()].concat())
            })
            .collect();
        let room = (self.geometry.block_bytes() - 72) / bmbt::RECORD_BYTES;
        let root_room = (self.geometry.inode_bytes() - CORE_BYTES - 4) / 16;
        let mut blocks = u64::from(extents);
        let mut level = 0u16;
        // Level by level, each block's first key and number become the next one's entries.
        loop {
            let chunks: Vec<Vec<(u64, Vec<u8>)>> =
                records.chunks(room).map(<[_]>::to_vec).collect();
            let places: Vec<FsBlock> = chunks.iter().map(|_| self.take_block()).collect();
            blocks += chunks.len() as u64;
            for (i, chunk) in chunks.iter().enumerate() {
                let sibling =
                    |j: Option<usize>| j.and_then(|j| places.get(j)).map_or(u64::MAX, |b| b.0);
                let body: Vec<u8> = if level == 0 {
                    chunk.iter().flat_map(|(_, record)| record.clone()).collect()
                } else {
                    node_body(chunk, room)
                };
                let neighbours = (sibling(i.checked_sub(1)), sibling(Some(i + 1)));
                self.tree_block(ino, places[i], level, chunk.len() as u16, neighbours, &body);
            }
            records = chunks
                .iter()
                .zip(&places)
                .map(|(chunk, place)| (chunk[0].0, place.0.to_be_bytes().to_vec()))
                .collect();
            level += 1;
            if records.len() <= root_room {
                break;
            }
        }
        let mut root = level.to_be_bytes().to_vec();
        root.extend_from_slice(&(records.len() as u16).to_be_bytes());
        root.extend_from_slice(&node_body(&records, root_room));
        let size = (u64::from(extents) * 2) << self.geometry.block_log;
        self.set_inode(ino, 3, size, blocks, extents, &root);
    }
    fn tree_block(
        &mut self,
        ino: Ino,
        place: FsBlock,
        level: u16,
        count: u16,
        (left, right): (u64, u64),
        body: &[u8],
    ) {
        let sector = self.geometry.sector(place).0;
        let mut block = Vec::new();
        block.extend_from_slice(&bmbt::MAGIC.to_be_bytes());
        block.extend_from_slice(&level.to_be_bytes());
        block.extend_from_slice(&count.to_be_bytes());
        block.extend_from_slice(&left.to_be_bytes());
        block.extend_from_slice(&right.to_be_bytes());
        block.extend_from_slice(&sector.to_be_bytes());
        block.extend_from_slice(&[0; 8]);
        block.extend_from_slice(self.geometry.meta_uuid.as_bytes());
        block.extend_from_slice(&ino.0.to_be_bytes());
        block.extend_from_slice(&[0; 8]);
        block.extend_from_slice(body);
        block.resize(self.geometry.block_bytes(), 0);
        stamp_checksum(&mut block, 64);
        self.put(sector as usize * 512, &block);
    }
    /// Move a link's target of `length` bytes into a block of its own.
    pub fn remote_symlink(&mut self, ino: Ino, length: usize) {
        let place = self.take_block();
        let sector = self.geometry.sector(place).0;
        let mut block = b"XSLM".to_vec();
        block.extend_from_slice(&0u32.to_be_bytes());
        block.extend_from_slice(&(length as u32).to_be_bytes());
        block.extend_from_slice(&[0; 4]);
        block.extend_from_slice(self.geometry.meta_uuid.as_bytes());
        block.extend_from_slice(&ino.0.to_be_bytes());
        block.extend_from_slice(&sector.to_be_bytes());
        block.extend_from_slice(&[0; 8]);
        block.resize(56 + length, b't');
        block.resize(self.geometry.block_bytes(), 0);
        stamp_checksum(&mut block, 12);
        self.put(sector as usize * 512, &block);
        let record = [(place.0 >> 43).to_be_bytes(), (place.0 << 21 | 1).to_be_bytes()].concat();
        self.set_inode(ino, 2, length as u64, 1, 1, &record);
    }
}

/// Keys, then pointers behind room for `room` keys.
fn node_body(entries: &[(u64, Vec<u8>)], room: usize) -> Vec<u8> {
    let mut body: Vec<u8> = entries.iter().flat_map(|(key, _)| key.to_be_bytes()).collect();
    body.resize(room * 8, 0);
    body.extend(entries.iter().flat_map(|(_, pointer)| pointer.clone()));
    body
}
