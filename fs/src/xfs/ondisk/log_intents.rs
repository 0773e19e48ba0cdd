//! Intents and their ends in the log.
//!
//! What takes more than one transaction is first announced by an intent. The item that
//! ends it names it by its id, and lies in the transaction that does the work. An intent
//! without its end is unfinished work for recovery.

use alloc::vec::Vec;

use super::log_items::{item, item_start, le32, le64, put_start, put32, put64};
use super::{Check, ensure};
use crate::xfs::types::{FsBlock, Ino};

/// Flags of the extents of reverse mapping intents: the operation in the low byte.
pub mod rmap {
    /// Map.
    pub const MAP: u32 = 1;
    /// Map, shared.
    pub const MAP_SHARED: u32 = 2;
    /// Unmap.
    pub const UNMAP: u32 = 3;
    /// Unmap, shared.
    pub const UNMAP_SHARED: u32 = 4;
    /// Unwritten to written or back.
    pub const CONVERT: u32 = 5;
    /// As above, shared.
    pub const CONVERT_SHARED: u32 = 6;
    /// Allocated, for an owner that is no file.
    pub const ALLOC: u32 = 7;
    /// Freed, from an owner that is no file.
    pub const FREE: u32 = 8;
    /// The bits of the operation.
    pub const OPERATION: u32 = 0xff;
    /// Of the attribute fork.
    pub const ATTR_FORK: u32 = 1 << 31;
    /// A block of the extent tree itself.
    pub const BMBT_BLOCK: u32 = 1 << 30;
    /// Unwritten.
    pub const UNWRITTEN: u32 = 1 << 29;
    /// All bits there are.
    pub const KNOWN: u32 = OPERATION | ATTR_FORK | BMBT_BLOCK | UNWRITTEN;
}

/// Flags of the extents of reference count intents: the operation.
pub mod refcount {
    /// One more.
    pub const INCREASE: u32 = 1;
    /// One less.
    pub const DECREASE: u32 = 2;
    /// Set aside for copy on write.
    pub const ALLOC_COW: u32 = 3;
    /// No longer set aside.
    pub const FREE_COW: u32 = 4;
    /// The bits of the operation: all there are.
    pub const OPERATION: u32 = 0xff;
}

/// Flags of the extents of mapping intents: the operation in the low byte.
pub mod bmap {
    /// Map.
    pub const MAP: u32 = 1;
    /// Unmap.
    pub const UNMAP: u32 = 2;
    /// The bits of the operation.
    pub const OPERATION: u32 = 0xff;
    /// In the attribute fork.
    pub const ATTR_FORK: u32 = 1 << 31;
    /// Unwritten.
    pub const UNWRITTEN: u32 = 1 << 30;
    /// All bits there are.
    pub const KNOWN: u32 = OPERATION | ATTR_FORK | UNWRITTEN;
}

/// Operations of intents that change attributes.
pub mod attr {
    /// Set, whatever is there.
    pub const SET: u32 = 1;
    /// Remove.
    pub const REMOVE: u32 = 2;
    /// Set what is there.
    pub const REPLACE: u32 = 3;
    /// Set a pointer to a parent.
    pub const SET_PARENT: u32 = 4;
    /// Remove a pointer to a parent.
    pub const REMOVE_PARENT: u32 = 5;
    /// Set a pointer to a parent in the stead of another: two names, two values.
    pub const REPLACE_PARENT: u32 = 6;
}

/// An extent to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreeExtent {
    /// First block.
    pub start: FsBlock,
    /// Blocks.
    pub blocks: u32,
}

/// An extent of a reverse mapping intent or a mapping intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapExtent {
    /// The inode, or for reverse mappings also one of the special owners.
    pub owner: u64,
    /// First block.
    pub start: FsBlock,
    /// First block in the file.
    pub offset: u64,
    /// Blocks.
    pub blocks: u32,
    /// Flags of [`rmap`] or [`bmap`].
    pub flags: u32,
}

/// An extent of a reference count intent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhysExtent {
    /// First block.
    pub start: FsBlock,
    /// Blocks.
    pub blocks: u32,
    /// Flags of [`refcount`].
    pub flags: u32,
}

/// A change of an attribute. Its regions hold names and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrChange {
    /// The inode.
    pub ino: Ino,
    /// What is done.
    pub operation: u32,
    /// Bytes of the name; of two names the first one's in the lower 16 bits.
    pub name_bytes: u32,
    /// Bytes of the value.
    pub value_bytes: u32,
    /// The attribute's namespace.
    pub filter: u32,
    /// The inode's generation, with parent pointers.
    pub generation: u32,
}

/// An exchange of the mappings of two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The two inodes.
    pub inodes: [Ino; 2],
    /// Their generations.
    pub generations: [u32; 2],
    /// First blocks.
    pub offsets: [u64; 2],
    /// Blocks.
    pub blocks: u64,
    /// How.
    pub flags: u64,
    /// The sizes both get.
    pub sizes: [u64; 2],
}

/// Work that is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// Free extents.
    Efi(Vec<FreeExtent>),
    /// Change reverse mappings.
    Rui(Vec<MapExtent>),
    /// Change reference counts.
    Cui(Vec<PhysExtent>),
    /// Change a file's mappings.
    Bui(Vec<MapExtent>),
    /// Change an attribute.
    Attri(AttrChange),
    /// Exchange mappings.
    Xmi(Exchange),
}

impl Intent {
    /// The item's type.
    pub const fn item(&self) -> u16 {
        match self {
            Self::Efi(_) => item::EFI,
            Self::Rui(_) => item::RUI,
            Self::Cui(_) => item::CUI,
            Self::Bui(_) => item::BUI,
            Self::Attri(_) => item::ATTRI,
            Self::Xmi(_) => item::XMI,
        }
    }
    /// Append the item's first region (for all but attributes the only one) as logged.
    pub fn encode(&self, id: u64, out: &mut Vec<u8>) {
        match self {
            Self::Efi(extents) => encode_free(item::EFI, id, extents, out),
            Self::Rui(extents) => encode_maps(item::RUI, id, extents, out),
            Self::Bui(extents) => encode_maps(item::BUI, id, extents, out),
            Self::Cui(extents) => {
                put_header(item::CUI, 1, extents.len() as u32, id, out);
                for extent in extents {
                    put64(out, extent.start.0);
                    put32(out, extent.blocks);
                    put32(out, extent.flags);
                }
            }
            Self::Attri(change) => {
                let each = if change.operation == attr::REPLACE_PARENT { 2 } else { 1 };
                let named = u16::from(change.name_bytes > 0) + u16::from(change.value_bytes > 0);
                let regions = 1 + each * named;
                put_header(item::ATTRI, regions, change.generation, id, out);
                put64(out, change.ino.0);
                put32(out, change.operation);
                put32(out, change.name_bytes);
                put32(out, change.value_bytes);
                put32(out, change.filter);
            }
            Self::Xmi(exchange) => {
                put_header(item::XMI, 1, 0, id, out);
                exchange.inodes.iter().for_each(|ino| put64(out, ino.0));
                exchange.generations.iter().for_each(|generation| put32(out, *generation));
                exchange.offsets.iter().for_each(|offset| put64(out, *offset));
                put64(out, exchange.blocks);
                put64(out, exchange.flags);
                exchange.sizes.iter().for_each(|size| put64(out, *size));
            }
        }
    }
    /// Id and contents, from an item's first region.
    ///
    /// # Errors
    /// What does not fit; an item that is no intent.
    pub fn decode(bytes: &[u8]) -> Check<(u64, Self)> {
        let (kind, _) = item_start(bytes)?;
        let (count, id) = (le32(bytes, 4) as usize, le64(bytes, 8));
        let body = bytes.get(HEADER_BYTES..).unwrap_or(&[]);
        let intent = match kind {
            item::EFI => Self::Efi(decode_free(count, body)?),
            item::RUI => Self::Rui(decode_maps("RUI", count, body)?),
            item::BUI => Self::Bui(decode_maps("BUI", count, body)?),
            item::CUI => {
                let bytes = body.len();
                ensure!(count > 0 && bytes == 16 * count, "a CUI of {count} extents in {bytes}");
                Self::Cui(body.chunks_exact(16).map(phys_extent).collect())
            }
            item::ATTRI => {
                ensure!(body.len() == 24, "an ATTRI of {} bytes", bytes.len());
                Self::Attri(AttrChange {
                    ino: Ino(le64(body, 0)),
                    operation: le32(body, 8),
                    name_bytes: le32(body, 12),
                    value_bytes: le32(body, 16),
                    filter: le32(body, 20),
                    generation: count as u32,
                })
            }
            item::XMI => {
                ensure!(body.len() == 72, "an XMI of {} bytes", bytes.len());
                Self::Xmi(Exchange {
                    inodes: [Ino(le64(body, 0)), Ino(le64(body, 8))],
                    generations: [le32(body, 16), le32(body, 20)],
                    offsets: [le64(body, 24), le64(body, 32)],
                    blocks: le64(body, 40),
                    flags: le64(body, 48),
                    sizes: [le64(body, 56), le64(body, 64)],
                })
            }
            _ => return Err(alloc::format!("{} is no intent", item::name(kind))),
        };
        Ok((id, intent))
    }
}

/// Bytes in front of the extents: type, regions, number of extents, id.
const HEADER_BYTES: usize = 16;
/// Bytes of an extent of an [`Intent::Efi`], and as 32-bit systems pack it.
const FREE_EXTENT_BYTES: usize = 16;
const FREE_EXTENT_BYTES_32: usize = 12;

fn put_header(kind: u16, regions: u16, count: u32, id: u64, out: &mut Vec<u8>) {
    put_start(out, kind, regions);
    put32(out, count);
    put64(out, id);
}

fn encode_free(kind: u16, id: u64, extents: &[FreeExtent], out: &mut Vec<u8>) {
    put_header(kind, 1, extents.len() as u32, id, out);
    for extent in extents {
        put64(out, extent.start.0);
        put32(out, extent.blocks);
        put32(out, 0);
    }
}

fn encode_maps(kind: u16, id: u64, extents: &[MapExtent], out: &mut Vec<u8>) {
    put_header(kind, 1, extents.len() as u32, id, out);
    for extent in extents {
        put64(out, extent.owner);
        put64(out, extent.start.0);
        put64(out, extent.offset);
        put32(out, extent.blocks);
        put32(out, extent.flags);
    }
}

/// Extents packed either way: the number of bytes tells which.
fn decode_free(count: usize, body: &[u8]) -> Check<Vec<FreeExtent>> {
    let bytes = body.len();
    let each = [FREE_EXTENT_BYTES, FREE_EXTENT_BYTES_32]
        .into_iter()
        .find(|each| count > 0 && count.checked_mul(*each) == Some(bytes));
    let Some(each) = each else {
        return Err(alloc::format!("an EFI of {count} extents in {bytes} bytes"));
    };
    let extent = |b: &[u8]| FreeExtent { start: FsBlock(le64(b, 0)), blocks: le32(b, 8) };
    Ok(body.chunks_exact(each).map(extent).collect())
}

fn decode_maps(name: &str, count: usize, body: &[u8]) -> Check<Vec<MapExtent>> {
    let bytes = body.len();
    ensure!(
        count > 0 && count.checked_mul(32) == Some(bytes),
        "a {name} of {count} extents in {bytes} bytes"
    );
    let extent = |b: &[u8]| MapExtent {
        owner: le64(b, 0),
        start: FsBlock(le64(b, 8)),
        offset: le64(b, 16),
        blocks: le32(b, 24),
        flags: le32(b, 28),
    };
    Ok(body.chunks_exact(32).map(extent).collect())
}

fn phys_extent(b: &[u8]) -> PhysExtent {
    PhysExtent { start: FsBlock(le64(b, 0)), blocks: le32(b, 8), flags: le32(b, 12) }
}

/// The end of an intent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Done {
    /// These extents were freed.
    Efd(Vec<FreeExtent>),
    /// Of a reverse mapping intent.
    Rud,
    /// Of a reference count intent.
    Cud,
    /// Of a mapping intent.
    Bud,
    /// Of an attribute's change.
    Attrd,
    /// Of an exchange.
    Xmd,
}

impl Done {
    /// The item's type.
    pub const fn item(&self) -> u16 {
        // An end's type is the intent's plus one.
        self.intent_item() + 1
    }
    /// The type of the intent that it ends.
    pub const fn intent_item(&self) -> u16 {
        match self {
            Self::Efd(_) => item::EFI,
            Self::Rud => item::RUI,
            Self::Cud => item::CUI,
            Self::Bud => item::BUI,
            Self::Attrd => item::ATTRI,
            Self::Xmd => item::XMI,
        }
    }
    /// Append the item's only region, ending the intent `id`, as logged.
    pub fn encode(&self, id: u64, out: &mut Vec<u8>) {
        match self {
            Self::Efd(extents) => encode_free(item::EFD, id, extents, out),
            _ => put_header(self.item(), 1, 0, id, out),
        }
    }
    /// The intent's id and how it ended, from an item's only region.
    ///
    /// # Errors
    /// What does not fit; an item that is no end.
    pub fn decode(bytes: &[u8]) -> Check<(u64, Self)> {
        let (kind, _) = item_start(bytes)?;
        ensure!(bytes.len() >= HEADER_BYTES, "{} of {} bytes", item::name(kind), bytes.len());
        let id = le64(bytes, 8);
        let done = match kind {
            // Recovery needs the id only: what was freed may be less than was intended.
            item::EFD => Self::Efd(
                decode_free(le32(bytes, 4) as usize, &bytes[HEADER_BYTES..]).unwrap_or_default(),
            ),
            item::RUD => Self::Rud,
            item::CUD => Self::Cud,
            item::BUD => Self::Bud,
            item::ATTRD => Self::Attrd,
            item::XMD => Self::Xmd,
            _ => return Err(alloc::format!("{} is no end of an intent", item::name(kind))),
        };
        Ok((id, done))
    }
}
