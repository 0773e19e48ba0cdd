//! An address space in memory: the forms are tested on it.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

use uuid::Uuid;

use super::store::{Change, Identity, Store};
use super::value as attr_remote;
use crate::error::{Corruption, Error, Result};
use crate::xfs::ondisk::block::{BlockKind, specific};

/// A block that notes which bytes were changed.
struct Noted<'a> {
    bytes: &'a mut Vec<u8>,
}

impl core::ops::Deref for Noted<'_> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl Change for Noted<'_> {
    fn bytes_mut(&mut self, range: Range<usize>) -> &mut [u8] {
        &mut self.bytes[range]
    }
    fn move_within(&mut self, from: Range<usize>, to: usize) {
        self.bytes.copy_within(from, to);
    }
}

/// An address space.
pub(in crate::xfs) struct Memory {
    pub(in crate::xfs) blocks: BTreeMap<u64, (BlockKind, Vec<u8>)>,
    pub(in crate::xfs) local: Option<Vec<u8>>,
    pub(in crate::xfs) size: u64,
    pub(in crate::xfs) room: usize,
    block_bytes: usize,
    unit: u64,
}

/// The inode that owns it.
pub(in crate::xfs) const OWNER: u64 = 0x1234;
const UUID: Uuid = Uuid::from_bytes([7; 16]);

impl Memory {
    pub(in crate::xfs) fn new(block_bytes: usize, unit: u64, room: usize) -> Self {
        Self { blocks: BTreeMap::new(), local: None, size: 0, room, block_bytes, unit }
    }
    /// Change a byte of a block; true if the block still looks sound, as when it is read.
    pub(in crate::xfs) fn damage(&mut self, block: usize, at: usize, byte: u8) -> bool {
        let count = self.blocks.len();
        let Some((kind, bytes)) = self.blocks.values_mut().nth(block % count) else {
            return false;
        };
        let length = bytes.len();
        bytes[at % length] = byte;
        BlockKind::identify(bytes) == Some(*kind) && specific(*kind, bytes).is_ok()
    }
    /// Is every block what it says, and sound?
    pub(in crate::xfs) fn check(&self) {
        for (at, (kind, bytes)) in &self.blocks {
            assert_eq!(BlockKind::identify(bytes), Some(*kind), "block {at:#x}");
            assert_eq!(kind.owner(bytes), Some(OWNER), "{kind:?} {at:#x}");
            if let Err(e) = specific(*kind, bytes) {
                panic!("{kind:?} {at:#x}: {e}");
            }
        }
    }
}

impl Store for Memory {
    type Block = u64;
    fn block_bytes(&self) -> usize {
        self.block_bytes
    }
    fn unit(&self) -> u64 {
        self.unit
    }
    fn find(&mut self, at: u64, kinds: &[BlockKind]) -> Result<Option<u64>> {
        match self.blocks.get(&at) {
            Some((kind, _)) if kinds.contains(kind) => Ok(Some(at)),
            Some((kind, _)) => Err(self.corrupt(at, alloc::format!("{kind:?}, not {kinds:?}"))),
            None => Ok(None),
        }
    }
    fn create(&mut self, at: u64, kind: BlockKind) -> Result<u64> {
        assert!(self.local.is_none() && at.is_multiple_of(self.unit));
        if self.blocks.contains_key(&at) {
            return Err(self.corrupt(at, "it is mapped already".into()));
        }
        self.blocks.insert(at, (kind, alloc::vec![0; self.block_bytes]));
        Ok(at)
    }
    fn free(&mut self, at: u64, block: u64) -> Result<()> {
        assert_eq!(at, block);
        match self.blocks.remove(&at) {
            Some(_) => Ok(()),
            None => Err(self.corrupt(at, "it is not mapped".into())),
        }
    }
    fn first_hole(&self, range: Range<u64>, blocks: u64) -> Option<u64> {
        let mut at = range.start;
        for mapped in self.blocks.range(range.clone()).map(|(at, _)| *at) {
            if mapped >= at + blocks {
                break;
            }
            at = mapped + self.unit;
        }
        (at + blocks <= range.end).then_some(at)
    }
    fn end_before(&self, limit: u64) -> u64 {
        self.blocks.range(..limit).next_back().map_or(0, |(at, _)| at + self.unit)
    }
    fn identity(&self, block: &u64) -> Identity {
        Identity { uuid: UUID, owner: OWNER, sector: *block * 2 }
    }
    fn kind(&self, block: &u64) -> BlockKind {
        self.blocks[block].0
    }
    fn set_kind(&mut self, block: &u64, kind: BlockKind) {
        self.blocks.get_mut(block).expect("a block").0 = kind;
    }
    fn with<R>(&self, block: &u64, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.blocks[block].1)
    }
    fn edit<R>(&mut self, block: &u64, change: impl FnOnce(&mut dyn Change) -> R) -> R {
        change(&mut Noted { bytes: &mut self.blocks.get_mut(block).expect("a block").1 })
    }
    fn local(&self) -> Option<&[u8]> {
        self.local.as_deref()
    }
    fn take_local(&mut self) -> Vec<u8> {
        self.local.take().unwrap_or_default()
    }
    fn set_local(&mut self, bytes: Vec<u8>) {
        assert!(self.blocks.is_empty() && bytes.len() <= self.room);
        self.local = Some(bytes);
    }
    fn set_empty(&mut self) {
        self.local = None;
    }
    fn room(&self) -> usize {
        self.room
    }
    fn make_room(&mut self, bytes: usize) -> Result<bool> {
        Ok(bytes <= self.room)
    }
    fn create_value(&mut self, at: u64, blocks: u64, value: &[u8]) -> Result<()> {
        let room = attr_remote::room(self.block_bytes);
        assert_eq!(value.len().div_ceil(room) as u64, blocks);
        for (i, part) in value.chunks(room).enumerate() {
            let block = self.create(at + i as u64, BlockKind::AttrRemote)?;
            let id = self.identity(&block);
            let offset = i * room;
            self.edit(&block, |c| attr_remote::fill(c.bytes_mut(0..room + 56), &id, offset, part));
        }
        Ok(())
    }
    fn free_value(&mut self, at: u64, blocks: u64) -> Result<()> {
        for block in at..at + blocks {
            self.blocks.remove(&block);
        }
        Ok(())
    }
    fn size(&self) -> u64 {
        self.size
    }
    fn set_size(&mut self, size: u64) {
        self.size = size;
    }
    fn owner(&self) -> u64 {
        OWNER
    }
    fn corrupt(&self, at: u64, reason: String) -> Error {
        let location = alloc::format!("{at:#x}");
        Corruption { structure: "memory", location, reason }.into()
    }
}
