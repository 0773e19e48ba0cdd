//! The inode core, version 3: 176 bytes; the data fork and the attribute fork follow.

use super::log_inode::core_to_log;
use super::{Be16, Be32, Be64, Byte, Bytes, Check, Le32, UuidField, checksum, ensure, on_disk};
use crate::xfs::geometry::Geometry;
use crate::xfs::ondisk::superblock::{Incompat, RoCompat};
use crate::xfs::types::{FileType, Ino, Timestamp};

/// "IN".
pub const MAGIC: u16 = 0x494e;
/// Where the checksum lies.
pub const CRC_OFFSET: usize = 100;
/// Where the next inode of an unlinked list lies.
pub const NEXT_UNLINKED: core::ops::Range<usize> = 96..100;
/// Bytes of the core; the forks follow.
pub const CORE_BYTES: usize = View::SIZE;
/// Longest target of a symbolic link.
pub const MAX_SYMLINK: u64 = 1024;
/// Bytes of a directory's address space that hold entries.
pub const MAX_DIRECTORY: u64 = 32 << 30;

on_disk! {
    /// The core's bytes. `extents` to `attr_extents` are read according to `flags2`.
    View, 176 bytes {
        magic: Be16 = 0,
        mode: Be16 = 2,
        version: Byte = 4,
        format: Byte = 5,
        on_link: Be16 = 6,
        uid: Be32 = 8,
        gid: Be32 = 12,
        nlink: Be32 = 16,
        projid_low: Be16 = 20,
        projid_high: Be16 = 22,
        big_extents: Be64 = 24,
        atime: Be64 = 32,
        mtime: Be64 = 40,
        ctime: Be64 = 48,
        size: Be64 = 56,
        blocks: Be64 = 64,
        extsize: Be32 = 72,
        extents: Be32 = 76,
        attr_extents: Be16 = 80,
        fork_offset: Byte = 82,
        attr_format: Byte = 83,
        dm_event_mask: Be32 = 84,
        dm_state: Be16 = 88,
        flags: Be16 = 90,
        generation: Be32 = 92,
        next_unlinked: Be32 = 96,
        crc: Le32 = 100,
        change_count: Be64 = 104,
        lsn: Be64 = 112,
        flags2: Be64 = 120,
        cow_extsize: Be32 = 128,
        pad2: Bytes<12> = 132,
        btime: Be64 = 144,
        ino: Be64 = 152,
        uuid: UuidField = 160,
    }
}

bitflags::bitflags! {
    /// Bits of `flags`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u16 {
        /// Data on the realtime device.
        const REALTIME = 1;
        /// Preallocated beyond EOF.
        const PREALLOC = 2;
        /// For the realtime bitmap only.
        const NEW_RT_BITMAP = 4;
        /// Immutable.
        const IMMUTABLE = 8;
        /// Append only.
        const APPEND = 0x10;
        /// Writes are synchronous.
        const SYNC = 0x20;
        /// No access times.
        const NOATIME = 0x40;
        /// Not for dump.
        const NODUMP = 0x80;
        /// Children go to the realtime device.
        const RT_INHERIT = 0x100;
        /// Children inherit the project.
        const PROJ_INHERIT = 0x200;
        /// No symbolic links may be made here.
        const NO_SYMLINKS = 0x400;
        /// The extent size hint counts.
        const EXTSIZE = 0x800;
        /// Children inherit the extent size hint.
        const EXTSIZE_INHERIT = 0x1000;
        /// Not for the defragmenter.
        const NO_DEFRAG = 0x2000;
        /// Allocate as a file stream.
        const FILESTREAM = 0x4000;
    }
    /// Bits of `flags2`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags2: u64 {
        /// Direct access to persistent memory.
        const DAX = 1;
        /// May share blocks with other files.
        const REFLINK = 2;
        /// The copy-on-write extent size hint counts.
        const COW_EXTSIZE = 4;
        /// Times are 64-bit nanoseconds.
        const BIGTIME = 8;
        /// Extent counts are wide.
        const NREXT64 = 0x10;
    }
}

/// How a fork holds its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A device number.
    Device,
    /// The contents themselves.
    Local,
    /// Extent records.
    Extents,
    /// The root of a tree of extent records.
    Btree,
}

impl Format {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Device,
            1 => Self::Local,
            2 => Self::Extents,
            3 => Self::Btree,
            _ => return None,
        })
    }
}

/// A checked inode core.
#[derive(Clone, Debug)]
pub struct InodeCore {
    /// What it is.
    pub file_type: FileType,
    /// Type and permissions.
    pub mode: u16,
    /// Form of the data fork.
    pub format: Format,
    /// Form of the attribute fork, if there is one.
    pub attr_format: Option<Format>,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links.
    pub nlink: u32,
    /// Project.
    pub projid: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of the contents.
    pub mtime: Timestamp,
    /// Last change of the inode.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Bytes.
    pub size: u64,
    /// Blocks of data and metadata.
    pub blocks: u64,
    /// Extent size hint in blocks.
    pub extsize: u32,
    /// Copy-on-write extent size hint in blocks.
    pub cow_extsize: u32,
    /// Extents of the data fork.
    pub extents: u64,
    /// Extents of the attribute fork.
    pub attr_extents: u32,
    /// Bytes of the data fork.
    pub data_fork_bytes: usize,
    /// Switches.
    pub flags: Flags,
    /// More switches.
    pub flags2: Flags2,
    /// Generation.
    pub generation: u32,
    /// Next in the list of unlinked inodes.
    pub next_unlinked: u32,
    /// Changes so far.
    pub change_count: u64,
}

/// An inode's state on disk.
#[derive(Clone, Debug)]
pub enum OnDisk {
    /// Not in use.
    Free,
    /// In use.
    Used(InodeCore),
}

impl InodeCore {
    /// Check inode `ino`, all of its bytes.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(bytes: &[u8], geometry: &Geometry, ino: Ino) -> Check<OnDisk> {
        let Some(v) = View::new(bytes) else { return Err("too short".into()) };
        ensure!(v.magic() == MAGIC, "magic is {:#06x}, should be {MAGIC:#06x}", v.magic());
        ensure!(v.version() == 3, "version {}", v.version());
        let crc = checksum(bytes, CRC_OFFSET);
        ensure!(crc == v.crc(), "checksum is {:#010x}, should be {crc:#010x}", v.crc());
        ensure!(v.ino() == ino.0, "it says it is inode {}", v.ino());
        ensure!(
            v.uuid() == geometry.meta_uuid,
            "UUID is {}, should be {}",
            v.uuid(),
            geometry.meta_uuid
        );
        if v.mode() == 0 {
            return Ok(OnDisk::Free);
        }
        let Some(file_type) = FileType::from_mode(v.mode()) else {
            return Err(alloc::format!("mode {:#o}", v.mode()));
        };
        let core = decode_used(&v, geometry, file_type, bytes.len())?;
        check_forks(&core, geometry, bytes.len())?;
        Ok(OnDisk::Used(core))
    }
}

impl InodeCore {
    /// The core's bytes as they lie on disk, but for the checksum, the position in the
    /// log and the next inode of an unlinked list, which are zero.
    pub fn encode(&self, geometry: &Geometry, ino: Ino) -> [u8; CORE_BYTES] {
        self.encode_as::<false>(geometry, ino)
    }
    /// As it is logged: in our byte order. Links of unlinked lists are not logged this way.
    pub fn encode_for_log(&self, geometry: &Geometry, ino: Ino) -> [u8; CORE_BYTES] {
        let mut core = self.encode_as::<true>(geometry, ino);
        core[NEXT_UNLINKED].fill(0xff);
        debug_assert_eq!(core, core_to_log(&self.encode(geometry, ino)));
        core
    }
    fn encode_as<const LOGGED: bool>(&self, geometry: &Geometry, ino: Ino) -> [u8; CORE_BYTES] {
        let mut b = [0; CORE_BYTES];
        let bigtime = self.flags2.contains(Flags2::BIGTIME);
        let put16 = |n: u16| if LOGGED { n.to_le_bytes() } else { n.to_be_bytes() };
        let put32 = |n: u32| if LOGGED { n.to_le_bytes() } else { n.to_be_bytes() };
        let put64 = |n: u64| if LOGGED { n.to_le_bytes() } else { n.to_be_bytes() };
        let time = |t: Timestamp| match encode_timestamp(t, bigtime) {
            // These are two numbers.
            n if LOGGED && !bigtime => put64(n.rotate_left(32)),
            n => put64(n),
        };
        let format = |f: Format| match f {
            Format::Device => 0,
            Format::Local => 1,
            Format::Extents => 2,
            Format::Btree => 3,
        };
        b[0..2].copy_from_slice(&put16(MAGIC));
        b[2..4].copy_from_slice(&put16(self.mode));
        b[4] = 3;
        b[5] = format(self.format);
        b[8..12].copy_from_slice(&put32(self.uid));
        b[12..16].copy_from_slice(&put32(self.gid));
        b[16..20].copy_from_slice(&put32(self.nlink));
        b[20..22].copy_from_slice(&put16(self.projid as u16));
        b[22..24].copy_from_slice(&put16((self.projid >> 16) as u16));
        b[32..40].copy_from_slice(&time(self.atime));
        b[40..48].copy_from_slice(&time(self.mtime));
        b[48..56].copy_from_slice(&time(self.ctime));
        b[56..64].copy_from_slice(&put64(self.size));
        b[64..72].copy_from_slice(&put64(self.blocks));
        b[72..76].copy_from_slice(&put32(self.extsize));
        if self.flags2.contains(Flags2::NREXT64) {
            b[24..32].copy_from_slice(&put64(self.extents));
            b[76..80].copy_from_slice(&put32(self.attr_extents));
        } else {
            b[76..80].copy_from_slice(&put32(self.extents as u32));
            b[80..82].copy_from_slice(&put16(self.attr_extents as u16));
        }
        b[82] = self.attr_format.map_or(0, |_| (self.data_fork_bytes / 8) as u8);
        b[83] = format(self.attr_format.unwrap_or(Format::Extents));
        b[90..92].copy_from_slice(&put16(self.flags.bits()));
        b[92..96].copy_from_slice(&put32(self.generation));
        b[104..112].copy_from_slice(&put64(self.change_count));
        b[120..128].copy_from_slice(&put64(self.flags2.bits()));
        b[128..132].copy_from_slice(&put32(self.cow_extsize));
        b[144..152].copy_from_slice(&time(self.btime));
        b[152..160].copy_from_slice(&put64(ino.0));
        b[160..176].copy_from_slice(geometry.meta_uuid.as_bytes());
        b
    }
}

fn decode_used(
    v: &View<'_>,
    geometry: &Geometry,
    file_type: FileType,
    inode_bytes: usize,
) -> Check<InodeCore> {
    let flags2 = Flags2::from_bits_truncate(v.flags2());
    let bigtime = flags2.contains(Flags2::BIGTIME);
    ensure!(!bigtime || geometry.incompat.contains(Incompat::BIGTIME), "bigtime is not on");
    let wide = flags2.contains(Flags2::NREXT64);
    ensure!(!wide || geometry.incompat.contains(Incompat::NREXT64), "nrext64 is not on");
    ensure!(
        !flags2.contains(Flags2::REFLINK)
            || (geometry.ro_compat.contains(RoCompat::REFLINK) && file_type == FileType::Regular),
        "it cannot share blocks"
    );
    let (extents, attr_extents) = if wide {
        ensure!(v.attr_extents() == 0, "padding behind the wide extent counts");
        ensure!(v.big_extents() < 1 << 48, "{} extents", v.big_extents());
        (v.big_extents(), v.extents())
    } else {
        ensure!(v.extents() <= i32::MAX as u32, "{} extents", v.extents());
        ensure!(v.attr_extents() <= i16::MAX as u16, "{} attr extents", v.attr_extents());
        (u64::from(v.extents()), u32::from(v.attr_extents()))
    };
    let fork_bytes = inode_bytes - CORE_BYTES;
    let split = usize::from(v.fork_offset()) * 8;
    ensure!(split < fork_bytes, "attribute fork at {split} of {fork_bytes}");
    let Some(format) = Format::from_byte(v.format()) else {
        return Err(alloc::format!("data fork format {}", v.format()));
    };
    let attr_format = match (split, Format::from_byte(v.attr_format())) {
        (0, Some(Format::Device | Format::Extents)) => None,
        (0, _) | (_, None | Some(Format::Device)) => {
            return Err(alloc::format!("attribute fork format {} at {split}", v.attr_format()));
        }
        (_, Some(format)) => Some(format),
    };
    Ok(InodeCore {
        file_type,
        mode: v.mode(),
        format,
        attr_format,
        uid: v.uid(),
        gid: v.gid(),
        nlink: v.nlink(),
        projid: u32::from(v.projid_high()) << 16 | u32::from(v.projid_low()),
        atime: timestamp(v.atime(), bigtime),
        mtime: timestamp(v.mtime(), bigtime),
        ctime: timestamp(v.ctime(), bigtime),
        btime: timestamp(v.btime(), bigtime),
        size: v.size(),
        blocks: v.blocks(),
        extsize: v.extsize(),
        cow_extsize: v.cow_extsize(),
        extents,
        attr_extents,
        data_fork_bytes: if split == 0 { fork_bytes } else { split },
        flags: Flags::from_bits_truncate(v.flags()),
        flags2,
        generation: v.generation(),
        next_unlinked: v.next_unlinked(),
        change_count: v.change_count(),
    })
}

/// Seconds from the start of bigtime's range to 1970.
const BIGTIME_EPOCH: i64 = 1 << 31;
const NS_PER_SECOND: u64 = 1_000_000_000;

fn timestamp(raw: u64, bigtime: bool) -> Timestamp {
    if bigtime {
        Timestamp {
            seconds: (raw / NS_PER_SECOND) as i64 - BIGTIME_EPOCH,
            nanoseconds: (raw % NS_PER_SECOND) as u32,
        }
    } else {
        Timestamp {
            seconds: i64::from((raw >> 32) as u32 as i32),
            nanoseconds: (raw as u32).min(NS_PER_SECOND as u32 - 1),
        }
    }
}

/// The nearest time that can be stored.
fn encode_timestamp(time: Timestamp, bigtime: bool) -> u64 {
    if bigtime {
        let seconds = time.seconds.saturating_add(BIGTIME_EPOCH).max(0) as u64;
        let ns = seconds.saturating_mul(NS_PER_SECOND).saturating_add(time.nanoseconds.into());
        // The last second that fits as a whole.
        ns.min(u64::MAX / NS_PER_SECOND * NS_PER_SECOND - 1)
    } else {
        let seconds = time.seconds.clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        u64::from(seconds as u32) << 32 | u64::from(time.nanoseconds)
    }
}

/// Do formats, sizes and counts fit the type and each other?
fn check_forks(core: &InodeCore, geometry: &Geometry, inode_bytes: usize) -> Check {
    let size = core.size;
    ensure!(size <= i64::MAX as u64, "size {size}");
    let allowed: &[Format] = match core.file_type {
        FileType::Regular => &[Format::Extents, Format::Btree],
        FileType::Directory => &[Format::Local, Format::Extents, Format::Btree],
        FileType::Symlink => &[Format::Local, Format::Extents],
        _ => &[Format::Device],
    };
    ensure!(
        allowed.contains(&core.format),
        "a {:?} whose data fork has the format {:?}",
        core.file_type,
        core.format
    );
    match core.file_type {
        FileType::Directory => {
            let whole = size.is_multiple_of(geometry.dir_block_bytes() as u64);
            // Without names, it may be on its way to be freed.
            ensure!(
                (size > 0 || core.nlink == 0)
                    && size <= MAX_DIRECTORY
                    && (core.format == Format::Local || whole),
                "a directory of {size} bytes"
            );
        }
        FileType::Symlink => {
            ensure!(
                (size > 0 || core.nlink == 0) && size <= MAX_SYMLINK,
                "a symbolic link of {size} bytes"
            );
        }
        _ => {}
    }
    ensure!(
        !core.flags.contains(Flags::REALTIME),
        "its data is on a realtime device and there is none"
    );
    check_fork("data", core.format, core.data_fork_bytes, core.extents)?;
    if core.format == Format::Local {
        ensure!(
            size <= core.data_fork_bytes as u64,
            "{size} bytes in a data fork of {}",
            core.data_fork_bytes
        );
    }
    let attr_bytes = inode_bytes - CORE_BYTES - core.data_fork_bytes;
    match core.attr_format {
        Some(format) => {
            check_fork("attribute", format, attr_bytes, u64::from(core.attr_extents))?;
        }
        None => ensure!(
            core.attr_extents == 0,
            "{} attribute extents without a fork",
            core.attr_extents
        ),
    }
    let extents = core.extents.saturating_add(u64::from(core.attr_extents));
    ensure!(extents <= core.blocks, "{extents} extents in {} blocks", core.blocks);
    Ok(())
}

fn check_fork(name: &str, format: Format, bytes: usize, extents: u64) -> Check {
    let room = (bytes / super::bmbt::RECORD_BYTES) as u64;
    match format {
        Format::Device => {
            ensure!(bytes >= 4 && extents == 0, "{extents} {name} extents of a device");
        }
        Format::Local => {
            ensure!(extents == 0, "{extents} {name} extents of a local fork");
        }
        Format::Extents => {
            ensure!(extents <= room, "{extents} {name} extents, room for {room}");
        }
        Format::Btree => {
            ensure!(extents > room, "{extents} {name} extents need no tree, room for {room}");
        }
    }
    Ok(())
}
