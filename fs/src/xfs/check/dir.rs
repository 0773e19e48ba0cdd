//! Directories: names and what they name, in every form.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::da::Space;
use super::fork::Fork;
use super::{Result, Scan, push};
use crate::xfs::da::hash_name;
use crate::xfs::dir::fold_case;
use crate::xfs::ondisk::block::BlockKind;
use crate::xfs::ondisk::dir_data::{self, DataHeader, Item};
use crate::xfs::ondisk::inode::{Format, InodeCore, MAX_DIRECTORY};
use crate::xfs::ondisk::{be16, dir_sf};
use crate::xfs::types::{FileType, Ino};

/// The places of "." and "..", and of the first other entry, in a directory's first block.
const DOT_OFFSET: usize = 64;
const DOTDOT_OFFSET: usize = DOT_OFFSET + 16;
const FIRST_OFFSET: usize = DOTDOT_OFFSET + 16;
/// Where the header of a data block lists its largest free spaces.
const BEST_AT: usize = 48;
const BESTS: usize = 3;

const LEAVES: &[BlockKind] = &[BlockKind::DirLeafN];
const ROOTS: &[BlockKind] = &[BlockKind::DirLeafN, BlockKind::DirLeaf1, BlockKind::DaNode];

/// What the data blocks of a directory say.
#[derive(Default)]
pub(super) struct Names {
    /// Hash and address of each entry.
    pub(super) index: Vec<(u32, u32)>,
    /// Number and largest free space of each block.
    pub(super) bests: Vec<(u64, u16)>,
    /// All blocks could be read.
    pub(super) whole: bool,
}

impl Scan {
    /// Check a directory.
    pub(super) fn check_directory(
        &mut self,
        ino: Ino,
        core: &InodeCore,
        bytes: &[u8],
        data: &Fork,
    ) -> Result<()> {
        self.report.directories += 1;
        if core.format == Format::Local {
            let used = bytes.get(..core.size as usize).unwrap_or(bytes);
            return self.check_shortform(ino, used);
        }
        let part = MAX_DIRECTORY >> self.geometry.block_log;
        let space = Space {
            ino,
            fork: data,
            block_blocks: self.geometry.dir_block_blocks(),
            tree: part..2 * part,
            leaves: LEAVES,
            roots: ROOTS,
            name: "directory",
        };
        let split = data.extents.partition_point(|e| e.offset.0 < part);
        let end = split.checked_sub(1).map_or(0, |i| data.extents[i].end().0);
        let size = core.size >> self.geometry.block_log;
        if end != size || end > part {
            self.inode_found(ino, format!("a directory of {size} blocks that ends at {end}"));
        }
        let single = split == data.extents.len() && end == space.block_blocks;
        let kind = if single { BlockKind::DirBlock } else { BlockKind::DirData };
        let mut names = Names { whole: true, ..Names::default() };
        let mut next = 0;
        for extent in &data.extents[..split] {
            // Blocks may consist of several extents, and extents of several blocks.
            let mut at = next.max(extent.offset.0 / space.block_blocks * space.block_blocks);
            while at < extent.end().0 {
                match self.read_space(&space, at, &[kind])? {
                    Some((_, block)) => self.check_data(&space, at, &block, &mut names)?,
                    None => names.whole = false,
                }
                at += space.block_blocks;
            }
            next = at;
        }
        self.check_names(&space, kind, &mut names)?;
        if single { Ok(()) } else { self.check_index(&space, &names) }
    }
    fn hash(&self, name: &[u8]) -> u32 {
        let bytes = name.iter().copied();
        if self.geometry.ascii_ci && name != b"." && name != b".." {
            hash_name(bytes.map(fold_case))
        } else {
            hash_name(bytes)
        }
    }
    /// A directory in its inode.
    fn check_shortform(&mut self, ino: Ino, bytes: &[u8]) -> Result<()> {
        let view = match dir_sf::View::new(bytes) {
            Ok(view) => view,
            Err(reason) => {
                self.source.lost("inode", format!("{ino} (shortform directory)"), reason);
                return Ok(());
            }
        };
        self.note_name(ino, b".", ino, FileType::Directory)?;
        self.note_name(ino, b"..", view.parent(), FileType::Directory)?;
        let mut end = FIRST_OFFSET;
        let mut count = 2;
        let mut names: Vec<&[u8]> = Vec::new();
        for entry in view.entries().flatten() {
            if usize::from(entry.offset) < end {
                let name = String::from_utf8_lossy(entry.name);
                let reason = format!("{name:?} at {}, below {end}", entry.offset);
                self.inode_found(ino, reason);
            }
            end = usize::from(entry.offset) + dir_data::entry_bytes(entry.name.len());
            count += 1;
            push(&mut names, entry.name)?;
            self.note_name(ino, entry.name, entry.ino, entry.file_type)?;
        }
        // It has to fit into a block once it grows: entries, their index, a tail.
        if end + (count + 1) * 8 > self.geometry.dir_block_bytes() {
            self.inode_found(ino, format!("its entries end at {end}, beyond a block"));
        }
        names.sort_unstable();
        for pair in names.windows(2).filter(|pair| pair[0] == pair[1]) {
            let name = String::from_utf8_lossy(pair[0]);
            self.inode_found(ino, format!("the name {name:?} twice"));
        }
        Ok(())
    }
    /// A block with entries.
    fn check_data(
        &mut self,
        space: &Space<'_>,
        at: u64,
        block: &[u8],
        names: &mut Names,
    ) -> Result<()> {
        let number = at / space.block_blocks;
        push(&mut names.bests, (number, be16(block, BEST_AT + 2).unwrap_or(0)))?;
        let base = number * (block.len() / dir_data::ALIGN) as u64;
        let Ok(end) = dir_data::entries_end(block) else { return Ok(()) };
        let mut free = Vec::new();
        let mut place = DataHeader::SIZE;
        while place < end {
            let Ok(item) = dir_data::item(block, place, end) else { break };
            match item {
                Item::Free(length) => push(&mut free, (length, place))?,
                Item::Entry(entry) => {
                    let address = base + (place / dir_data::ALIGN) as u64;
                    push(&mut names.index, (self.hash(entry.name), address as u32))?;
                    let expected = match (number, place) {
                        (0, DOT_OFFSET) => Some(&b"."[..]),
                        (0, DOTDOT_OFFSET) => Some(&b".."[..]),
                        _ => None,
                    };
                    let dots = matches!(entry.name, b"." | b"..");
                    if expected.is_some_and(|e| e != entry.name) || (expected.is_none() && dots) {
                        let name = String::from_utf8_lossy(entry.name);
                        self.space_found(space, at, format!("{name:?} as entry at {place}"));
                    }
                    self.note_name(space.ino, entry.name, entry.ino, entry.file_type)?;
                }
            }
            place += item.length();
        }
        if let Some(reason) = wrong_bests(block, &mut free) {
            self.space_found(space, at, reason);
        }
        Ok(())
    }
    /// All names together: unique, "." and ".." among them, the index of a single block.
    fn check_names(&mut self, space: &Space<'_>, kind: BlockKind, names: &mut Names) -> Result<()> {
        let dots = names
            .index
            .iter()
            .filter(|(_, a)| matches!(*a as usize * dir_data::ALIGN, DOT_OFFSET | DOTDOT_OFFSET));
        if names.whole && dots.count() != 2 {
            self.space_found(space, 0, "it lacks \".\" or \"..\"".into());
        }
        if kind == BlockKind::DirBlock && names.whole {
            self.check_block_index(space, names)?;
        }
        names.index.sort_unstable();
        for same in names.index.chunk_by(|a, b| a.0 == b.0).filter(|same| same.len() > 1) {
            // Different names with one hash are rare enough to look at them again.
            let mut found = Vec::new();
            for &(_, address) in same {
                if let Some(name) = self.name_at(space, kind, address)? {
                    push(&mut found, name)?;
                }
            }
            found.sort_unstable();
            for pair in found.windows(2).filter(|pair| pair[0] == pair[1]) {
                let name = String::from_utf8_lossy(&pair[0]);
                self.inode_found(space.ino, format!("the name {name:?} twice"));
            }
        }
        Ok(())
    }
    /// The name at an address, read again.
    fn name_at(
        &mut self,
        space: &Space<'_>,
        kind: BlockKind,
        address: u32,
    ) -> Result<Option<Vec<u8>>> {
        let bytes = self.geometry.dir_block_bytes();
        let place = address as usize * dir_data::ALIGN;
        let at = (place / bytes) as u64 * space.block_blocks;
        let Some((_, block)) = self.read_space(space, at, &[kind])? else { return Ok(None) };
        let entry = dir_data::entry(&block, place % bytes, block.len());
        Ok(entry.ok().map(|e| e.name.to_vec()))
    }
    /// A name in a directory: does what it names exist, and what does it say it is?
    fn note_name(&mut self, dir: Ino, name: &[u8], target: Ino, file_type: FileType) -> Result<()> {
        let internal = self.internal.contains(&target);
        let is_dot = name == b".";
        let is_dotdot = name == b"..";
        if is_dotdot && let Some(fact) = self.inodes.get_mut(dir) {
            fact.dotdot = target.0;
        }
        let fact = if internal { None } else { self.inodes.get_mut(target) };
        let Some(fact) = fact else {
            let name = String::from_utf8_lossy(name);
            let reason = format!("{name:?} names {target}, which is not in use as a file");
            self.inode_found(dir, reason);
            return Ok(());
        };
        fact.names += 1;
        let mut wrong = None;
        match fact.named_as {
            None => fact.named_as = Some(file_type),
            Some(other) if other != file_type => wrong = Some(other),
            Some(_) => {}
        }
        let second = fact.parent != 0 && file_type == FileType::Directory;
        if !is_dot && !is_dotdot {
            if second {
                let (other, name) = (fact.parent, String::from_utf8_lossy(name));
                let reason = format!("{name:?} names {target}, as does {}", Ino(other));
                self.inode_found(dir, reason);
            } else {
                fact.parent = dir.0;
            }
        }
        if is_dot && target != dir {
            self.inode_found(dir, format!("\".\" names {target}"));
        }
        if let Some(other) = wrong {
            let name = String::from_utf8_lossy(name);
            let reason = format!("{name:?} says {target} is a {file_type:?}, others {other:?}");
            self.inode_found(dir, reason);
        }
        if is_dot || is_dotdot { Ok(()) } else { self.note_link(dir, name, target) }
    }
}

/// The header of a data block lists its three largest free spaces, the largest first.
fn wrong_bests(block: &[u8], free: &mut [(usize, usize)]) -> Option<String> {
    free.sort_unstable_by(|a, b| b.cmp(a));
    for i in 0..BESTS {
        let offset = usize::from(be16(block, BEST_AT + i * 4)?);
        let length = usize::from(be16(block, BEST_AT + i * 4 + 2)?);
        let expected = free.get(i).map_or(0, |f| f.0);
        let exists = length == 0 && offset == 0 || free.contains(&(length, offset));
        let twice = length > 0
            && (0..i).any(|j| be16(block, BEST_AT + j * 4).map(usize::from) == Some(offset));
        if length != expected || !exists || twice {
            return Some(format!(
                "free space {i} is listed as {length} bytes at {offset}, should be {expected} bytes"
            ));
        }
    }
    None
}
