//! Loading the extents of a fork from disk.
//!
//! All extents of a fork are loaded at once, on first use, from the inode itself or
//! from the tree its root is in. Every level of the tree is checked: level, owner,
//! siblings, keys against what the parent says; every record: order, no overlap,
//! blocks that exist. Keys must rise strictly, so no block can be reached twice and
//! a damaged tree cannot keep us busy for ever.

use alloc::format;
use alloc::vec::Vec;

use super::buf::{BufferCache, Run};
use super::geometry::Geometry;
use super::ondisk::block::BlockKind;
use super::ondisk::bmbt::{BmbtRoot, Extent, MAX_FILE_BLOCK, RECORD_BYTES};
use super::ondisk::btree::{LongBlock, NULL_LONG};
use super::ondisk::inode::Format;
use super::ondisk::{Check, Reason, ensure};
use super::types::{FsBlock, Ino};
use crate::error::{Corruption, Result};

pub use super::bmap::{ExtentList, NO_EXTENTS};

/// What is to be loaded.
pub struct ForkSource<'a> {
    /// The inode.
    pub ino: Ino,
    /// "data fork" or "attr fork", for messages.
    pub name: &'static str,
    /// How the fork holds its extents.
    pub format: Format,
    /// The fork's bytes in the inode.
    pub bytes: &'a [u8],
    /// How many extents there should be.
    pub count: u64,
    /// May extents be unwritten?
    pub unwritten: bool,
}

impl ForkSource<'_> {
    fn corrupt(&self, reason: alloc::string::String) -> Corruption {
        Corruption { structure: "inode", location: format!("{} ({})", self.ino, self.name), reason }
    }
}

struct Loader<'a> {
    source: &'a ForkSource<'a>,
    geometry: &'a Geometry,
    list: ExtentList,
}

impl Loader<'_> {
    fn check(&self, record: &[u8]) -> Check<Extent> {
        let extent = Extent::decode(record);
        let (offset, count) = (extent.offset.0, u64::from(extent.count));
        ensure!(count > 0, "an empty extent at file block {offset}");
        // Files end below 2^63 bytes, whatever the record has room for.
        let most = MAX_FILE_BLOCK.min((1 << 63) >> self.geometry.block_log);
        ensure!(offset + count <= most, "an extent at file block {offset}");
        if let Some(last) = self.list.last() {
            ensure!(last.end() <= extent.offset, "extents overlap at file block {offset}");
        }
        ensure!(
            self.geometry.has_blocks(extent.block, count),
            "file block {offset}: {count} blocks at {} do not exist",
            extent.block
        );
        ensure!(
            !self.geometry.overlaps_log(extent.block, count),
            "file block {offset}: {count} blocks at {} are the log's",
            extent.block
        );
        ensure!(!extent.unwritten || self.source.unwritten, "file block {offset} is unwritten");
        ensure!(
            (self.list.len() as u64) < self.source.count,
            "more than {} extents",
            self.source.count
        );
        Ok(extent)
    }
    /// Check a record and add it.
    fn add(&mut self, record: &[u8], located: impl Fn(Reason) -> Corruption) -> Result<()> {
        let extent = self.check(record).map_err(located)?;
        self.list.push(extent)
    }
}

/// Load all extents of a fork.
///
/// # Errors
/// I/O errors, damage, no memory.
pub fn load(
    source: &ForkSource<'_>,
    geometry: &Geometry,
    buffers: &BufferCache,
) -> Result<ExtentList> {
    let mut loader = Loader { source, geometry, list: ExtentList::new() };
    match source.format {
        Format::Extents => {
            let records = source.bytes.chunks_exact(RECORD_BYTES);
            let count = records.len().min(usize::try_from(source.count).unwrap_or(usize::MAX));
            for record in records.take(count) {
                loader.add(record, |r| source.corrupt(r))?;
            }
        }
        Format::Btree => load_tree(&mut loader, buffers)?,
        Format::Device | Format::Local => {}
    }
    let found = loader.list.len() as u64;
    if found != source.count {
        return Err(source.corrupt(format!("{found} extents instead of {}", source.count)).into());
    }
    Ok(loader.list)
}

/// A block of the tree still to be visited.
struct Visit {
    block: FsBlock,
    key: u64,
    level: u32,
}

/// Go through the tree from left to right without recursion.
fn load_tree(loader: &mut Loader<'_>, buffers: &BufferCache) -> Result<()> {
    let source = loader.source;
    let root = BmbtRoot::decode(source.bytes).map_err(|r| source.corrupt(r))?;
    let mut pending = Vec::new();
    push_children(&mut pending, root.level - 1, root.count, |i| root.child(i));
    // Per level: the last block seen, and which one it says comes next.
    let mut left_of = Vec::new();
    left_of.resize(root.level as usize, (NULL_LONG, None));
    while let Some(visit) = pending.pop() {
        if !loader.geometry.has_blocks(visit.block, 1) {
            let reason = format!("the extent tree has a block at {}", visit.block);
            return Err(source.corrupt(reason).into());
        }
        let run = Run {
            sector: loader.geometry.sector(visit.block),
            bytes: loader.geometry.block_bytes() as u32,
        };
        let buffer = buffers.read(&[run], &[BlockKind::Bmbt])?;
        let bytes = buffer.read();
        let geometry = loader.geometry;
        let located = |reason| Corruption {
            structure: "bmbt block",
            location: geometry.place(run.sector),
            reason,
        };
        let Some(block) = LongBlock::new(&bytes) else { continue };
        check_block(&block, &visit, source.ino, &mut left_of).map_err(located)?;
        if visit.level == 0 {
            let first = block.records().next().map(|r| Extent::decode(r).offset.0);
            if first != Some(visit.key) {
                let reason = format!("starts at {first:?}, the parent says {}", visit.key);
                return Err(located(reason).into());
            }
            for record in block.records() {
                loader.add(record, located)?;
            }
        } else {
            let mut last = None;
            for i in 0..block.count() {
                let key = block.child(i).map(|(key, _)| key);
                let fits = if i == 0 { key == Some(visit.key) } else { key > last };
                if !fits {
                    return Err(located(format!("key {i} is {key:?} behind {last:?}")).into());
                }
                last = key;
            }
            push_children(&mut pending, visit.level - 1, block.count(), |i| block.child(i));
        }
    }
    for (level, (_, next)) in left_of.iter().enumerate() {
        if next.is_some_and(|n| n != NULL_LONG) {
            let reason = format!("level {level} of the extent tree goes on behind its end");
            return Err(source.corrupt(reason).into());
        }
    }
    Ok(())
}

/// The last one first, so that the first is taken next.
fn push_children(
    pending: &mut Vec<Visit>,
    level: u32,
    count: usize,
    child: impl Fn(usize) -> Option<(u64, u64)>,
) {
    for i in (0..count).rev() {
        if let Some((key, block)) = child(i) {
            pending.push(Visit { block: FsBlock(block), key, level });
        }
    }
}

fn check_block(
    block: &LongBlock<'_>,
    visit: &Visit,
    ino: Ino,
    left_of: &mut [(u64, Option<u64>)],
) -> Check {
    let header = block.header;
    ensure!(block.level() == visit.level, "level {} instead of {}", block.level(), visit.level);
    ensure!(header.owner() == ino.0, "it belongs to inode {}", header.owner());
    let Some(before) = left_of.get_mut(visit.level as usize) else {
        return Err(format!("level {}", visit.level));
    };
    ensure!(header.left() == before.0, "left sibling {:#x}, not {:#x}", header.left(), before.0);
    if let Some(expected) = before.1 {
        ensure!(expected == visit.block.0, "the left sibling says {expected:#x} comes next");
    }
    *before = (visit.block.0, Some(header.right()));
    Ok(())
}
