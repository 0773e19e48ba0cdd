//! The structures on disk: for each a checked view of the bytes, then a validated value.
//!
//! | file | structures |
//! |------|------------|
//! | [`superblock`] | the superblock |
//! | [`agf`], [`agi`], [`agfl`] | the headers of an allocation group |
//! | [`btree`] | headers, keys and pointers of b+tree blocks, short and long |
//! | [`freesp`] | records of the free space trees |
//! | [`inobt`] | records of the inode trees |
//! | [`rmapbt`], [`refcountbt`] | reverse mappings, reference counts |
//! | [`inode`] | the inode core |
//! | [`bmbt`] | extent records and the root of an extent tree |
//! | [`dir_sf`], [`dir_data`], [`dir_leaf`], [`dir_free`] | directories |
//! | [`da_node`] | inner blocks of directories and attribute forks |
//! | [`attr_sf`], [`attr_leaf`], [`attr_remote`] | extended attributes |
//! | [`symlink`] | remote targets of symbolic links |
//! | [`log_record`] | log records |
//! | [`log_items`], [`log_inode`], [`log_intents`] | what log records carry |
//! | [`block`] | what all metadata blocks have in common: magic, checksum, identity |
//!
//! All numbers are big-endian, except checksums, which are little-endian CRC32C over
//! the whole block with the checksum's own field taken as zero.
//!
//! A check returns the reason of a failure; [`block::verify`] adds structure and place.
//! Nothing here reads from a device or takes a lock.
//!
//! Source: the XFS documentation project's `design/XFS_Filesystem_Structure`, checked
//! against `xfs_db` on images made by mkfs.xfs and Linux.

use alloc::string::String;

use crc::{CRC_32_ISCSI, Crc, Table};
use uuid::Uuid;

pub mod agf;
pub mod agfl;
pub mod agi;
pub mod attr_leaf;
pub mod attr_remote;
pub mod attr_sf;
pub mod block;
pub mod bmbt;
pub mod btree;
pub mod da_node;
pub mod dir_data;
pub mod dir_free;
pub mod dir_leaf;
pub mod dir_sf;
pub mod freesp;
pub mod inobt;
pub mod inode;
pub mod log_inode;
pub mod log_intents;
pub mod log_items;
pub mod log_record;
pub mod refcountbt;
pub mod rmapbt;
pub mod superblock;
pub mod symlink;

/// Why a structure is damaged, without saying which and where.
pub type Reason = String;

/// The result of a structure's check.
pub type Check<T = ()> = Result<T, Reason>;

/// Return a [`Reason`] unless a condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err(alloc::format!($($reason)+));
        }
    };
}
pub(crate) use ensure;

/// A field of an on-disk structure: its size and how it is read.
pub trait Field {
    /// Bytes it takes.
    const SIZE: usize;
    /// What it reads as.
    type Value<'a>;
    /// Read it from exactly [`Field::SIZE`] bytes.
    fn read(bytes: &[u8]) -> Self::Value<'_>;
}

macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident = $int:ty, $from:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
        impl Field for $name {
            const SIZE: usize = core::mem::size_of::<$int>();
            type Value<'a> = $int;
            #[inline]
            fn read(bytes: &[u8]) -> $int {
                bytes.first_chunk().map_or(0, |b| <$int>::$from(*b))
            }
        }
    )*};
}

integers! {
    /// One byte.
    Byte = u8, from_be_bytes;
    /// A big-endian 16-bit number.
    Be16 = u16, from_be_bytes;
    /// A big-endian 32-bit number.
    Be32 = u32, from_be_bytes;
    /// A big-endian 64-bit number.
    Be64 = u64, from_be_bytes;
    /// A little-endian 32-bit number: a checksum, or a number in the log.
    Le32 = u32, from_le_bytes;
    /// A little-endian 16-bit number: in the log.
    Le16 = u16, from_le_bytes;
    /// A little-endian 64-bit number: in the log.
    Le64 = u64, from_le_bytes;
}

/// A UUID.
#[derive(Clone, Copy, Debug)]
pub struct UuidField;
impl Field for UuidField {
    const SIZE: usize = 16;
    type Value<'a> = Uuid;
    fn read(bytes: &[u8]) -> Uuid {
        bytes.first_chunk().map_or(Uuid::nil(), |b| Uuid::from_bytes(*b))
    }
}

/// Bytes without further meaning here.
#[derive(Clone, Copy, Debug)]
pub struct Bytes<const N: usize>;
impl<const N: usize> Field for Bytes<N> {
    const SIZE: usize = N;
    type Value<'a> = &'a [u8];
    fn read(bytes: &[u8]) -> &[u8] {
        bytes
    }
}

/// Do the fields `(offset, size)` follow each other without a gap, up to `total`?
pub const fn contiguous(fields: &[(usize, usize)], total: usize) -> bool {
    let mut at = 0;
    let mut i = 0;
    while i < fields.len() {
        if fields[i].0 != at {
            return false;
        }
        at += fields[i].1;
        i += 1;
    }
    at == total
}

/// Define the view of an on-disk structure. Each field states its offset; that they
/// follow each other without a gap and fill the stated size is asserted at compile time.
macro_rules! on_disk {
    ($(#[$meta:meta])* $name:ident, $size:literal bytes {
        $($field:ident: $ty:ty = $offset:literal,)*
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name<'a>(&'a [u8; $size]);
        #[allow(dead_code)]
        impl<'a> $name<'a> {
            /// Bytes the structure takes.
            pub const SIZE: usize = $size;
            /// The structure at the start of `bytes`; nothing if they are too few.
            pub fn new(bytes: &'a [u8]) -> Option<Self> {
                bytes.first_chunk::<$size>().map(Self)
            }
            $(
                #[doc = concat!("The field `", stringify!($field), "` at byte ", stringify!($offset), ".")]
                #[inline]
                pub fn $field(&self) -> <$ty as $crate::xfs::ondisk::Field>::Value<'a> {
                    const SIZE: usize = <$ty as $crate::xfs::ondisk::Field>::SIZE;
                    <$ty as $crate::xfs::ondisk::Field>::read(&self.0[$offset..$offset + SIZE])
                }
            )*
        }
        const _: () = assert!(
            $crate::xfs::ondisk::contiguous(
                &[$(($offset, <$ty as $crate::xfs::ondisk::Field>::SIZE)),*],
                $size
            ),
            concat!("the layout of ", stringify!($name), " has gaps or overlaps")
        );
    };
}
pub(crate) use on_disk;

static CRC32C: Crc<u32, Table<16>> = Crc::<u32, Table<16>>::new(&CRC_32_ISCSI);

/// CRC32C of `bytes` with the four bytes at `crc_offset` taken as zero.
pub fn checksum(bytes: &[u8], crc_offset: usize) -> u32 {
    let mut digest = CRC32C.digest();
    let split = crc_offset.min(bytes.len());
    digest.update(&bytes[..split]);
    digest.update(&[0; 4]);
    digest.update(bytes.get(split + 4..).unwrap_or(&[]));
    digest.finalize()
}

/// As [`checksum`], of `bytes` and `zeros` zero bytes behind them.
pub fn checksum_with_zeros(bytes: &[u8], crc_offset: usize, zeros: usize) -> u32 {
    const ZEROS: [u8; 64] = [0; 64];
    let mut digest = CRC32C.digest();
    let split = crc_offset.min(bytes.len());
    digest.update(&bytes[..split]);
    digest.update(&ZEROS[..4]);
    digest.update(bytes.get(split + 4..).unwrap_or(&[]));
    let mut left = zeros;
    while left > 0 {
        let part = left.min(ZEROS.len());
        digest.update(&ZEROS[..part]);
        left -= part;
    }
    digest.finalize()
}

/// What a difference between checksums becomes when a zero bit follows on both sides.
pub const fn checksum_behind_bit(difference: u32) -> u32 {
    // The polynomial, its bits reversed as those of the message are.
    const POLYNOMIAL: u32 = CRC_32_ISCSI.poly.reverse_bits();
    difference >> 1 ^ if difference & 1 != 0 { POLYNOMIAL } else { 0 }
}

/// CRC32C of several pieces, one after the other.
pub fn checksum_pieces(pieces: &[&[u8]]) -> u32 {
    let mut digest = CRC32C.digest();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}

/// Put the right checksum into a block.
pub fn stamp_checksum(bytes: &mut [u8], crc_offset: usize) {
    let crc = checksum(bytes, crc_offset);
    if let Some(field) = bytes.get_mut(crc_offset..crc_offset + 4) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
}

/// The big-endian 16-bit number at `offset`, if the bytes reach that far.
#[inline]
pub fn be16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|b| u16::from_be_bytes(*b))
}
/// The big-endian 32-bit number at `offset`, if the bytes reach that far.
#[inline]
pub fn be32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|b| u32::from_be_bytes(*b))
}
/// The big-endian 64-bit number at `offset`, if the bytes reach that far.
#[inline]
pub fn be64(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|b| u64::from_be_bytes(*b))
}
