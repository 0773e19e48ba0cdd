//! The log's form of an inode: format, core and the root of an extent tree.
//!
//! The core is the disk's, field by field in the byte order of the machine that wrote
//! it. Fork regions are as on disk, except the root of an extent tree: that is logged
//! in the form it has in Linux's memory, a long tree block of its own.

use alloc::vec::Vec;

use uuid::Uuid;

use super::btree::{LongHeader, NULL_LONG};
use super::inode::{CORE_BYTES, Flags2};
use super::log_items::item;
use super::{Bytes, Check, Field, Le16, Le32, Le64, be64, bmbt, ensure, inode, on_disk};
use crate::xfs::types::Ino;

on_disk! {
    /// The bytes of an inode's format.
    InodeView, 56 bytes {
        kind: Le16 = 0,
        regions: Le16 = 2,
        fields: Le32 = 4,
        attr_bytes: Le16 = 8,
        data_bytes: Le16 = 10,
        pad: Le32 = 12,
        ino: Le64 = 16,
        device: Le32 = 24,
        unused: Bytes<12> = 28,
        daddr: Le64 = 40,
        blocks: Le32 = 48,
        offset: Le32 = 52,
    }
}

on_disk! {
    /// As above, as 32-bit systems have it.
    InodeView32, 52 bytes {
        kind: Le16 = 0,
        regions: Le16 = 2,
        fields: Le32 = 4,
        attr_bytes: Le16 = 8,
        data_bytes: Le16 = 10,
        ino: Le64 = 12,
        device: Le32 = 20,
        unused: Bytes<12> = 24,
        daddr: Le64 = 36,
        blocks: Le32 = 44,
        offset: Le32 = 48,
    }
}

bitflags::bitflags! {
    /// What of an inode is logged.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct InodeFields: u32 {
        /// The core.
        const CORE = 0x001;
        /// The data fork, local.
        const DATA_LOCAL = 0x002;
        /// The data fork's extents.
        const DATA_EXTENTS = 0x004;
        /// The root of the data fork's tree, in the form it has in memory.
        const DATA_ROOT = 0x008;
        /// The device number, in the format itself.
        const DEVICE = 0x010;
        /// The attribute fork, local.
        const ATTR_LOCAL = 0x040;
        /// The attribute fork's extents.
        const ATTR_EXTENTS = 0x080;
        /// The root of the attribute fork's tree.
        const ATTR_ROOT = 0x100;
        /// All blocks of the data fork's tree get this inode as owner.
        const DATA_OWNER = 0x200;
        /// All blocks of the attribute fork's tree get this inode as owner.
        const ATTR_OWNER = 0x400;
    }
}

impl InodeFields {
    /// Those that come with a region for the data fork.
    pub const DATA_FORK: Self = Self::DATA_LOCAL.union(Self::DATA_EXTENTS).union(Self::DATA_ROOT);
    /// Those that come with a region for the attribute fork.
    pub const ATTR_FORK: Self = Self::ATTR_LOCAL.union(Self::ATTR_EXTENTS).union(Self::ATTR_ROOT);
}

/// The format of an inode; its regions are the core, then the forks that are logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InodeFormat {
    /// What is logged.
    pub fields: InodeFields,
    /// Bytes of the attribute fork's region (before rounding up to 4).
    pub attr_bytes: u16,
    /// Bytes of the data fork's region (before rounding up to 4).
    pub data_bytes: u16,
    /// The inode.
    pub ino: Ino,
    /// Device number as on disk, with [`InodeFields::DEVICE`].
    pub device: u32,
    /// Where its cluster lies on the device, in 512-byte blocks.
    pub daddr: u64,
    /// 512-byte blocks of the cluster.
    pub blocks: u32,
    /// Bytes in front of it in the cluster.
    pub offset: u32,
}

impl InodeFormat {
    /// Bytes it takes as we write it.
    pub const BYTES: usize = InodeView::SIZE;
    /// Regions of the item: format, core, forks.
    pub fn regions(&self) -> u16 {
        2 + u16::from(self.fields.intersects(InodeFields::DATA_FORK))
            + u16::from(self.fields.intersects(InodeFields::ATTR_FORK))
    }
    /// Append it as logged.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0; Self::BYTES];
        b[0..2].copy_from_slice(&item::INODE.to_le_bytes());
        b[2..4].copy_from_slice(&self.regions().to_le_bytes());
        b[4..8].copy_from_slice(&self.fields.bits().to_le_bytes());
        b[8..10].copy_from_slice(&self.attr_bytes.to_le_bytes());
        b[10..12].copy_from_slice(&self.data_bytes.to_le_bytes());
        b[16..24].copy_from_slice(&self.ino.0.to_le_bytes());
        b[24..28].copy_from_slice(&self.device.to_le_bytes());
        b[40..48].copy_from_slice(&self.daddr.to_le_bytes());
        b[48..52].copy_from_slice(&self.blocks.to_le_bytes());
        b[52..56].copy_from_slice(&self.offset.to_le_bytes());
        out.extend_from_slice(&b);
    }
    /// From a region, of 64-bit or 32-bit systems.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8]) -> Check<Self> {
        // A macro would not be shorter: two layouts, the same fields.
        if let Some(v) = InodeView::new(bytes).filter(|_| bytes.len() == InodeView::SIZE) {
            return Ok(Self {
                fields: InodeFields::from_bits_retain(v.fields()),
                attr_bytes: v.attr_bytes(),
                data_bytes: v.data_bytes(),
                ino: Ino(v.ino()),
                device: v.device(),
                daddr: v.daddr(),
                blocks: v.blocks(),
                offset: v.offset(),
            });
        }
        let Some(v) = InodeView32::new(bytes).filter(|_| bytes.len() == InodeView32::SIZE) else {
            return Err(alloc::format!("an INODE format of {} bytes", bytes.len()));
        };
        Ok(Self {
            fields: InodeFields::from_bits_retain(v.fields()),
            attr_bytes: v.attr_bytes(),
            data_bytes: v.data_bytes(),
            ino: Ino(v.ino()),
            device: v.device(),
            daddr: v.daddr(),
            blocks: v.blocks(),
            offset: v.offset(),
        })
    }
}

/// Fields of the core that are numbers: offset and bytes. Times are apart.
const CORE_NUMBERS: [(usize, usize); 25] = [
    (0, 2),
    (2, 2),
    (6, 2),
    (8, 4),
    (12, 4),
    (16, 4),
    (20, 2),
    (22, 2),
    (24, 8),
    (56, 8),
    (64, 8),
    (72, 4),
    (76, 4),
    (80, 2),
    (84, 4),
    (88, 2),
    (90, 2),
    (92, 4),
    (96, 4),
    (100, 4),
    (104, 8),
    (112, 8),
    (120, 8),
    (128, 4),
    (152, 8),
];

/// The flag word that says how times are stored lies here.
const FLAGS2_AT: usize = 120;
const TIMES: [usize; 4] = [32, 40, 48, 144];

fn swap_core(core: &mut [u8; CORE_BYTES], bigtime: bool) {
    for (at, bytes) in CORE_NUMBERS {
        core[at..at + bytes].reverse();
    }
    for at in TIMES {
        if bigtime {
            core[at..at + 8].reverse();
        } else {
            core[at..at + 4].reverse();
            core[at + 4..at + 8].reverse();
        }
    }
}

/// The core as it is logged, from the one for the disk. Links of unlinked lists and
/// the checksum are not logged this way; the position in the log is ignored.
pub fn core_to_log(disk: &[u8; CORE_BYTES]) -> [u8; CORE_BYTES] {
    let bigtime = be64(disk, FLAGS2_AT).unwrap_or(0) & Flags2::BIGTIME.bits() != 0;
    let mut core = *disk;
    swap_core(&mut core, bigtime);
    core[inode::NEXT_UNLINKED].fill(0xff);
    core[inode::CRC_OFFSET..inode::CRC_OFFSET + 4].fill(0);
    core
}

/// The core for the disk, from the one that was logged. What is not logged with it is
/// taken from `old`, the core on disk: the link of the unlinked list. The checksum and
/// the position in the log are left for the caller.
pub fn core_to_disk(logged: &[u8; CORE_BYTES], old: &[u8; CORE_BYTES]) -> [u8; CORE_BYTES] {
    let flags2 = Le64::read(&logged[FLAGS2_AT..FLAGS2_AT + 8]);
    let mut core = *logged;
    swap_core(&mut core, flags2 & Flags2::BIGTIME.bits() != 0);
    core[inode::NEXT_UNLINKED].copy_from_slice(&old[inode::NEXT_UNLINKED]);
    core
}

/// Bytes in front of the keys of a logged root: a long tree block's header.
const ROOT_HEADER_BYTES: usize = LongHeader::SIZE;
/// Bytes in front of the keys of a root in an inode.
const FORK_HEADER_BYTES: usize = bmbt::RootView::SIZE;
/// Key and pointer.
const ENTRY_BYTES: usize = 16;

/// The logged form of the root of an extent tree, from the one in an inode's fork.
///
/// # Errors
/// What does not fit.
pub fn root_to_log(fork: &[u8], meta_uuid: Uuid, ino: Ino) -> Check<Vec<u8>> {
    let root = bmbt::BmbtRoot::decode(fork)?;
    let mut out = Vec::new();
    out.extend_from_slice(&bmbt::MAGIC.to_be_bytes());
    out.extend_from_slice(&(root.level as u16).to_be_bytes());
    out.extend_from_slice(&(root.count as u16).to_be_bytes());
    // Neither siblings nor an address.
    out.extend_from_slice(&[0xff; 24]);
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(meta_uuid.as_bytes());
    out.extend_from_slice(&ino.0.to_be_bytes());
    out.extend_from_slice(&[0; 8]);
    let children = || (0..root.count).filter_map(|i| root.child(i));
    children().for_each(|(key, _)| out.extend_from_slice(&key.to_be_bytes()));
    children().for_each(|(_, pointer)| out.extend_from_slice(&pointer.to_be_bytes()));
    Ok(out)
}

/// Put a logged root into an inode's fork.
///
/// # Errors
/// What does not fit; `fork` is then unchanged.
pub fn root_to_fork(logged: &[u8], fork: &mut [u8]) -> Check {
    let Some(header) = LongHeader::new(logged) else {
        return Err(alloc::format!("a root of {} bytes", logged.len()));
    };
    ensure!(header.magic() == bmbt::MAGIC, "a root with magic {:#010x}", header.magic());
    let (level, count) = (header.level(), usize::from(header.count()));
    ensure!(
        level > 0 && header.left() == NULL_LONG && header.right() == NULL_LONG,
        "a root at level {level} with siblings {:#x} and {:#x}",
        header.left(),
        header.right()
    );
    let room = (logged.len() - ROOT_HEADER_BYTES) / ENTRY_BYTES;
    let fork_room = fork.len().saturating_sub(FORK_HEADER_BYTES) / ENTRY_BYTES;
    ensure!(
        count > 0 && count <= room && count <= fork_room,
        "a root with {count} pointers, room for {room} in the log and {fork_room} in the fork"
    );
    fork[0..2].copy_from_slice(&level.to_be_bytes());
    fork[2..4].copy_from_slice(&header.count().to_be_bytes());
    let mut copy = |from: usize, to: usize| {
        fork[to..to + 8 * count].copy_from_slice(&logged[from..from + 8 * count]);
    };
    copy(ROOT_HEADER_BYTES, FORK_HEADER_BYTES);
    copy(ROOT_HEADER_BYTES + 8 * room, FORK_HEADER_BYTES + 8 * fork_room);
    Ok(())
}
