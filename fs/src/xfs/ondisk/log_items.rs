//! What log records carry: the formats of log items, to be written and to be read.
//!
//! ```text
//! payload of a record
//!   op header, START                     } one transaction (a checkpoint),
//!   op header, transaction header        } its pieces in this order, others'
//!   op header, format of an item         } between them, over as many
//!   op header, region  ...               } records as it takes
//!   op header, COMMIT                    }
//! ```
//! Op headers are big-endian. Everything else is in the byte order of the machine that
//! wrote it, which is little-endian for the machines we know; the record's header says
//! so. Two exceptions: buffers' regions are the disk's bytes, and the format of
//! [`IcreateFormat`] is big-endian.
//!
//! Every item starts with a 16-bit type and the 16-bit number of regions it consists
//! of, the format itself included. Machines of 32 bits pad some formats differently:
//! these are read, never written.
//!
//! This file has what all items share, buffers and new chunks; `log_inode` has inodes,
//! `log_intents` has intents.

use alloc::vec::Vec;

use super::log_record::OpView;
use super::{Be32, Check, Le16, Le32, Le64, ensure, on_disk};

/// Types of items.
pub mod item {
    /// Extents to be freed.
    pub const EFI: u16 = 0x1236;
    /// These were freed.
    pub const EFD: u16 = 0x1237;
    /// An inode.
    pub const INODE: u16 = 0x123b;
    /// Parts of a buffer.
    pub const BUF: u16 = 0x123c;
    /// A quota record.
    pub const DQUOT: u16 = 0x123d;
    /// Quota was switched off.
    pub const QUOTAOFF: u16 = 0x123e;
    /// A new chunk of inodes.
    pub const ICREATE: u16 = 0x123f;
    /// Reverse mappings to be changed.
    pub const RUI: u16 = 0x1240;
    /// These were changed.
    pub const RUD: u16 = 0x1241;
    /// Reference counts to be changed.
    pub const CUI: u16 = 0x1242;
    /// These were changed.
    pub const CUD: u16 = 0x1243;
    /// Mappings to be changed.
    pub const BUI: u16 = 0x1244;
    /// These were changed.
    pub const BUD: u16 = 0x1245;
    /// An attribute to be changed.
    pub const ATTRI: u16 = 0x1246;
    /// It was changed.
    pub const ATTRD: u16 = 0x1247;
    /// Mappings of two files to be exchanged.
    pub const XMI: u16 = 0x1248;
    /// They were exchanged.
    pub const XMD: u16 = 0x1249;

    /// What an item's type is called in messages.
    pub const fn name(kind: u16) -> &'static str {
        match kind {
            EFI => "EFI",
            EFD => "EFD",
            INODE => "INODE",
            BUF => "BUF",
            DQUOT => "DQUOT",
            QUOTAOFF => "QUOTAOFF",
            ICREATE => "ICREATE",
            RUI => "RUI",
            RUD => "RUD",
            CUI => "CUI",
            CUD => "CUD",
            BUI => "BUI",
            BUD => "BUD",
            ATTRI => "ATTRI",
            ATTRD => "ATTRD",
            XMI => "XMI",
            XMD => "XMD",
            _ => "unknown item",
        }
    }
}

/// Flags of operations.
pub mod op {
    /// A transaction starts.
    pub const START: u8 = 0x01;
    /// It is complete.
    pub const COMMIT: u8 = 0x02;
    /// The region goes on in the next record.
    pub const CONTINUE: u8 = 0x04;
    /// The region began in an earlier record.
    pub const WAS_CONTINUED: u8 = 0x08;
    /// With [`WAS_CONTINUED`]: the region ends here.
    pub const END: u8 = 0x10;
    /// The file system was unmounted.
    pub const UNMOUNT: u8 = 0x20;
    /// Client number of transactions.
    pub const CLIENT_TRANSACTION: u8 = 0x69;
    /// Client number of the log itself: unmount records.
    pub const CLIENT_LOG: u8 = 0xaa;
}

/// The header of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpHeader {
    /// The transaction.
    pub transaction: u32,
    /// Bytes that follow.
    pub length: u32,
    /// Who logs, `CLIENT_*` of [`op`].
    pub client: u8,
    /// Flags of [`op`].
    pub flags: u8,
}

impl OpHeader {
    /// Bytes it takes.
    pub const BYTES: usize = OpView::SIZE;
    /// As logged.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0..4].copy_from_slice(&self.transaction.to_be_bytes());
        out[4..8].copy_from_slice(&self.length.to_be_bytes());
        out[8] = self.client;
        out[9] = self.flags;
        out
    }
    /// At the start of `bytes`; nothing if they are too few.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let v = OpView::new(bytes)?;
        Some(Self {
            transaction: v.transaction(),
            length: v.length(),
            client: v.client(),
            flags: v.flags(),
        })
    }
}

/// What an unmount record carries.
pub const UNMOUNT_PAYLOAD: [u8; 8] = [0x6e, 0x55, 0, 0, 0, 0, 0, 0];

on_disk! {
    /// The bytes of a transaction's header.
    TransactionView, 16 bytes {
        magic: Le32 = 0,
        kind: Le32 = 4,
        transaction: Le32 = 8,
        items: Le32 = 12,
    }
}

/// The first region of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionHeader {
    /// Its number.
    pub transaction: u32,
    /// Items in it.
    pub items: u32,
}

impl TransactionHeader {
    /// "TRAN".
    pub const MAGIC: u32 = 0x5452_414e;
    /// The kind of all transactions since logging is delayed: a checkpoint.
    pub const CHECKPOINT: u32 = 40;
    /// Bytes it takes.
    pub const BYTES: usize = TransactionView::SIZE;
    /// As logged.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[0..4].copy_from_slice(&Self::MAGIC.to_le_bytes());
        out[4..8].copy_from_slice(&Self::CHECKPOINT.to_le_bytes());
        out[8..12].copy_from_slice(&self.transaction.to_le_bytes());
        out[12..16].copy_from_slice(&self.items.to_le_bytes());
        out
    }
    /// From a region.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8]) -> Check<Self> {
        let Some(v) = TransactionView::new(bytes).filter(|_| bytes.len() == Self::BYTES) else {
            return Err(alloc::format!("a transaction header of {} bytes", bytes.len()));
        };
        ensure!(v.magic() == Self::MAGIC, "transaction header magic is {:#010x}", v.magic());
        Ok(Self { transaction: v.transaction(), items: v.items() })
    }
}

/// Type and number of regions at the start of an item's format.
///
/// # Errors
/// Too short.
pub fn item_start(format: &[u8]) -> Check<(u16, u16)> {
    match format {
        [a, b, c, d, ..] => Ok((u16::from_le_bytes([*a, *b]), u16::from_le_bytes([*c, *d]))),
        _ => Err(alloc::format!("an item's format of {} bytes", format.len())),
    }
}

pub(super) fn put_start(out: &mut Vec<u8>, kind: u16, regions: u16) {
    out.extend_from_slice(&kind.to_le_bytes());
    out.extend_from_slice(&regions.to_le_bytes());
}
pub(super) fn put32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}
pub(super) fn put64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}
pub(super) fn le32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_le_bytes(*b))
}
pub(super) fn le64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u64::from_le_bytes(*b))
}

/// What a buffer holds. It says what checksum and position in the log are put where
/// when the buffer is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum BufKind {
    /// Not said.
    Unknown = 0,
    /// User quota records.
    UserQuota,
    /// Project quota records.
    ProjectQuota,
    /// Group quota records.
    GroupQuota,
    /// A block of any b+tree.
    Btree,
    /// The AGF.
    Agf,
    /// The AGFL.
    Agfl,
    /// The AGI.
    Agi,
    /// A cluster of inodes.
    Inodes,
    /// A remote link target.
    Symlink,
    /// The single block of a directory.
    DirBlock,
    /// Directory entries.
    DirData,
    /// Directory free space.
    DirFree,
    /// The single index block of a directory.
    DirLeaf1,
    /// An index block of a directory.
    DirLeafN,
    /// An inner block of a hash tree.
    DaNode,
    /// Attributes.
    AttrLeaf,
    /// A remote attribute value.
    AttrRemote,
    /// The superblock.
    Superblock,
    /// A block of the realtime bitmap.
    RtBitmap,
    /// A block of the realtime summary.
    RtSummary,
}

impl BufKind {
    const ALL: [Self; 21] = [
        Self::Unknown,
        Self::UserQuota,
        Self::ProjectQuota,
        Self::GroupQuota,
        Self::Btree,
        Self::Agf,
        Self::Agfl,
        Self::Agi,
        Self::Inodes,
        Self::Symlink,
        Self::DirBlock,
        Self::DirData,
        Self::DirFree,
        Self::DirLeaf1,
        Self::DirLeafN,
        Self::DaNode,
        Self::AttrLeaf,
        Self::AttrRemote,
        Self::Superblock,
        Self::RtBitmap,
        Self::RtSummary,
    ];
    /// From the number in a format's flags.
    pub fn from_number(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

/// Bytes of a buffer that one bit of its map stands for.
pub const BUF_CHUNK_BYTES: usize = 128;
/// Words of the map of the largest buffer, 64 KiB; some systems write one more.
pub const BUF_MAP_WORDS: usize = 17;
const BUF_KIND_SHIFT: u32 = 11;

on_disk! {
    /// The bytes of a buffer's format; the map follows.
    BufView, 20 bytes {
        kind: Le16 = 0,
        regions: Le16 = 2,
        flags: Le16 = 4,
        blocks: Le16 = 6,
        daddr: Le64 = 8,
        map_words: Le32 = 16,
    }
}

/// The map of a buffer's logged chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChunkMap {
    words: [u32; BUF_MAP_WORDS],
    used: u8,
}

impl ChunkMap {
    /// An empty map for a buffer of `bytes`.
    pub const fn new(bytes: usize) -> Self {
        let words = bytes.div_ceil(BUF_CHUNK_BYTES * 32);
        let used = if words > BUF_MAP_WORDS { BUF_MAP_WORDS } else { words };
        Self { words: [0; BUF_MAP_WORDS], used: used as u8 }
    }
    /// Mark the chunks that hold bytes `first` to `last`, both included.
    pub fn mark(&mut self, first: usize, last: usize) {
        let (mut chunk, last) = (first / BUF_CHUNK_BYTES, last / BUF_CHUNK_BYTES);
        while chunk <= last {
            if let Some(word) = self.words_mut().get_mut(chunk / 32) {
                *word |= 1 << (chunk % 32);
            }
            chunk += 1;
        }
    }
    /// How many chunks are marked.
    pub fn count(&self) -> usize {
        self.words().iter().map(|word| word.count_ones() as usize).sum()
    }
    /// Mark nothing any more.
    pub fn clear(&mut self) {
        self.words_mut().fill(0);
    }
    fn words(&self) -> &[u32] {
        &self.words[..usize::from(self.used).min(BUF_MAP_WORDS)]
    }
    fn words_mut(&mut self) -> &mut [u32] {
        &mut self.words[..usize::from(self.used).min(BUF_MAP_WORDS)]
    }
    /// Is this chunk logged?
    pub fn has(&self, chunk: usize) -> bool {
        chunk / 32 < usize::from(self.used) && self.words[chunk / 32] & (1 << (chunk % 32)) != 0
    }
    /// Is nothing logged?
    pub fn is_empty(&self) -> bool {
        self.words().iter().all(|w| *w == 0)
    }
    /// Take up what another map of the same buffer marks. Did it mark anything new?
    pub fn merge(&mut self, other: &Self) -> bool {
        self.used = self.used.max(other.used);
        let mut added = 0;
        for (word, more) in self.words_mut().iter_mut().zip(other.words()) {
            added |= more & !*word;
            *word |= more;
        }
        added != 0
    }
    /// The runs of logged chunks, each first chunk and number: one region each.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let mut at = 0;
        core::iter::from_fn(move || {
            let first = self.next(at, 0)?;
            at = self.next(first, u32::MAX).unwrap_or(self.words().len() * 32);
            Some((first, at - first))
        })
    }
    /// The first chunk from `at` on that is marked or, if `flip` is all ones, is not.
    #[inline]
    fn next(&self, at: usize, flip: u32) -> Option<usize> {
        let mut below = u32::MAX << (at % 32);
        for (i, word) in self.words().iter().enumerate().skip(at / 32) {
            let wanted = (word ^ flip) & below;
            if wanted != 0 {
                return Some(i * 32 + wanted.trailing_zeros() as usize);
            }
            below = u32::MAX;
        }
        None
    }
    /// Bytes of the format with this map.
    pub const fn format_bytes(&self) -> usize {
        BufView::SIZE + 4 * self.used as usize
    }
}

/// The format of a buffer; its regions are the logged runs of chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufFormat {
    /// What it holds.
    pub kind: BufKind,
    /// Flags, without the kind: `INODE_BUF`, `CANCEL`.
    pub flags: u16,
    /// 512-byte blocks.
    pub blocks: u16,
    /// Where it lies on the device, in 512-byte blocks.
    pub daddr: u64,
    /// What is logged of it.
    pub map: ChunkMap,
}

impl BufFormat {
    /// A cluster of inodes of which only the links of unlinked lists are replayed.
    pub const INODE_BUF: u16 = 1;
    /// Freed: nothing that was logged of it before may be replayed.
    pub const CANCEL: u16 = 2;
    /// Quota records of users, projects, groups.
    pub const QUOTA_BUF: u16 = 4 | 8 | 16;

    /// Regions of the item, its format included.
    pub fn regions(&self) -> u16 {
        if self.flags & Self::CANCEL != 0 { 1 } else { 1 + self.map.runs().count() as u16 }
    }
    /// Append it as logged. A cancelled buffer has no regions.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_start(out, item::BUF, self.regions());
        let flags = self.flags | (self.kind as u16) << BUF_KIND_SHIFT;
        out.extend_from_slice(&flags.to_le_bytes());
        out.extend_from_slice(&self.blocks.to_le_bytes());
        put64(out, self.daddr);
        put32(out, u32::from(self.map.used));
        for word in &self.map.words[..usize::from(self.map.used)] {
            put32(out, *word);
        }
    }
    /// From a region.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8]) -> Check<Self> {
        let Some(v) = BufView::new(bytes) else { return Err("a BUF format too short".into()) };
        let used = v.map_words() as usize;
        ensure!(used <= BUF_MAP_WORDS, "a BUF map of {used} words");
        let words = &bytes[BufView::SIZE..];
        ensure!(words.len() >= used * 4, "a BUF format of {} bytes, {used} words", bytes.len());
        let Some(kind) = BufKind::from_number(v.flags() >> BUF_KIND_SHIFT) else {
            return Err(alloc::format!("a BUF of kind {}", v.flags() >> BUF_KIND_SHIFT));
        };
        let mut map = ChunkMap { words: [0; BUF_MAP_WORDS], used: used as u8 };
        for (i, word) in map.words[..used].iter_mut().enumerate() {
            *word = le32(words, i * 4);
        }
        Ok(Self {
            kind,
            flags: v.flags() & ((1 << BUF_KIND_SHIFT) - 1),
            blocks: v.blocks(),
            daddr: v.daddr(),
            map,
        })
    }
}

on_disk! {
    /// The bytes of a new chunk's item; all but the start is big-endian.
    IcreateView, 28 bytes {
        kind: Le16 = 0,
        regions: Le16 = 2,
        ag: Be32 = 4,
        block: Be32 = 8,
        count: Be32 = 12,
        inode_bytes: Be32 = 16,
        length: Be32 = 20,
        generation: Be32 = 24,
    }
}

/// A new chunk of inodes: initialised at replay from this alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcreateFormat {
    /// The group.
    pub ag: u32,
    /// First block in it.
    pub block: u32,
    /// Inodes.
    pub count: u32,
    /// Bytes in each.
    pub inode_bytes: u32,
    /// Blocks.
    pub length: u32,
    /// Generation of each.
    pub generation: u32,
}

impl IcreateFormat {
    /// Bytes it takes.
    pub const BYTES: usize = IcreateView::SIZE;
    /// Append it as logged: the item's only region.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_start(out, item::ICREATE, 1);
        let words =
            [self.ag, self.block, self.count, self.inode_bytes, self.length, self.generation];
        for word in words {
            out.extend_from_slice(&word.to_be_bytes());
        }
    }
    /// From a region.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8]) -> Check<Self> {
        let Some(v) = IcreateView::new(bytes) else {
            return Err(alloc::format!("an ICREATE of {} bytes", bytes.len()));
        };
        Ok(Self {
            ag: v.ag(),
            block: v.block(),
            count: v.count(),
            inode_bytes: v.inode_bytes(),
            length: v.length(),
            generation: v.generation(),
        })
    }
}
