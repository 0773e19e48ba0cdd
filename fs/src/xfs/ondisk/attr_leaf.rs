//! Leaves of an attribute fork: hashes in order from the front, names and small values
//! from the back.

use super::da_node::BlockInfo;
use super::{Be16, Be32, Byte, Bytes, Check, be16, be32, ensure, on_disk};

/// A leaf.
pub const MAGIC: u16 = 0x3bee;
/// Flag: the value is in the leaf.
pub const LOCAL: u8 = 1;
/// Flag: namespace "trusted".
pub const ROOT: u8 = 2;
/// Flag: namespace "security".
pub const SECURE: u8 = 4;
/// Flag: a pointer to a parent directory.
pub const PARENT: u8 = 8;
/// Flag: half made; does not count.
pub const INCOMPLETE: u8 = 0x80;
/// The flags that are part of a name.
pub const NAMESPACE: u8 = ROOT | SECURE | PARENT;
/// The longest value.
pub const MAX_VALUE: u32 = 64 << 10;

on_disk! {
    /// The header; entries follow.
    Header, 80 bytes {
        info: Bytes<56> = 0,
        count: Be16 = 56,
        used_bytes: Be16 = 58,
        first_used: Be16 = 60,
        holes: Byte = 62,
        pad1: Byte = 63,
        free_map: Bytes<12> = 64,
        pad2: Be32 = 76,
    }
}

on_disk! {
    /// An entry's bytes.
    EntryView, 8 bytes {
        hash: Be32 = 0,
        name_index: Be16 = 4,
        flags: Byte = 6,
        pad: Byte = 7,
    }
}

on_disk! {
    /// The start of a name with its value; both follow.
    LocalHead, 3 bytes {
        value_len: Be16 = 0,
        name_len: Byte = 2,
    }
}

on_disk! {
    /// The start of a name whose value lies elsewhere; the name follows.
    RemoteHead, 9 bytes {
        value_block: Be32 = 0,
        value_len: Be32 = 4,
        name_len: Byte = 8,
    }
}

/// Names are aligned to this.
const ALIGN: usize = 4;
/// Bytes that a name with a remote value takes more than its fields.
const REMOTE_PAD: usize = 2;

/// Bytes of a name with a value of `value` bytes in the leaf.
pub const fn local_bytes(name: usize, value: usize) -> usize {
    (LocalHead::SIZE + name + value).next_multiple_of(ALIGN)
}

/// Bytes of a name whose value is elsewhere.
pub const fn remote_bytes(name: usize) -> usize {
    (RemoteHead::SIZE + REMOTE_PAD + name).next_multiple_of(ALIGN)
}

/// Where a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// Here.
    Local(&'a [u8]),
    /// In blocks of its own.
    Remote {
        /// The first, in the attribute fork.
        block: u32,
        /// Bytes of the value.
        length: u32,
    },
}

/// An attribute.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Hash of the name.
    pub hash: u32,
    /// Namespace and state.
    pub flags: u8,
    /// The name without its namespace.
    pub name: &'a [u8],
    /// The value.
    pub value: Value<'a>,
}

impl Entry<'_> {
    /// Bytes its name takes, with its value or where that is.
    pub const fn bytes(&self) -> usize {
        match self.value {
            Value::Local(value) => local_bytes(self.name.len(), value.len()),
            Value::Remote { .. } => remote_bytes(self.name.len()),
        }
    }
}

/// A leaf, magic and identity already checked.
#[derive(Clone, Copy, Debug)]
pub struct Leaf<'a> {
    /// Entries.
    pub count: usize,
    /// The next leaf's place in the fork; 0: none.
    pub forward: u32,
    /// The previous leaf's place; 0: none.
    pub backward: u32,
    block: &'a [u8],
}

impl<'a> Leaf<'a> {
    /// The leaf in `block`.
    pub fn new(block: &'a [u8]) -> Option<Self> {
        let header = Header::new(block)?;
        let info = BlockInfo::new(header.info())?;
        Some(Self {
            count: usize::from(header.count()),
            forward: info.forward(),
            backward: info.backward(),
            block,
        })
    }
    /// The hash of entry `i`.
    pub fn hash(&self, i: usize) -> Option<u32> {
        if i < self.count { be32(self.block, Header::SIZE + i * EntryView::SIZE) } else { None }
    }
    /// Entry `i`; nothing if there is none or it does not fit.
    pub fn entry(&self, i: usize) -> Option<Entry<'a>> {
        if i >= self.count {
            return None;
        }
        let entry = EntryView::new(self.block.get(Header::SIZE + i * EntryView::SIZE..)?)?;
        let at = self.block.get(usize::from(entry.name_index())..)?;
        let (name, value) = if entry.flags() & LOCAL != 0 {
            let head = LocalHead::new(at)?;
            let name_end = LocalHead::SIZE + usize::from(head.name_len());
            let value = at.get(name_end..name_end + usize::from(head.value_len()))?;
            (at.get(LocalHead::SIZE..name_end)?, Value::Local(value))
        } else {
            let head = RemoteHead::new(at)?;
            let name_end = RemoteHead::SIZE + usize::from(head.name_len());
            let value = Value::Remote { block: head.value_block(), length: head.value_len() };
            (at.get(RemoteHead::SIZE..name_end)?, value)
        };
        Some(Entry { hash: entry.hash(), flags: entry.flags(), name, value })
    }
}

/// Check a leaf.
///
/// # Errors
/// What does not fit.
pub fn check(block: &[u8]) -> Check {
    let (Some(header), Some(leaf)) = (Header::new(block), Leaf::new(block)) else {
        return Err("too short".into());
    };
    let table_end = Header::SIZE + leaf.count * EntryView::SIZE;
    // 0 stands for 65536, in blocks of that size.
    let first_used = match header.first_used() {
        0 => 65536,
        n => usize::from(n),
    };
    ensure!(
        table_end <= block.len() && first_used >= table_end && first_used <= block.len(),
        "{} entries before the first name at {first_used}",
        leaf.count
    );
    let mut last = 0;
    let mut used = 0;
    for i in 0..leaf.count {
        let index = be16(block, Header::SIZE + i * EntryView::SIZE + 4).unwrap_or(0);
        let Some(entry) = leaf.entry(i) else {
            return Err(alloc::format!("entry {i} at {index} goes beyond the end"));
        };
        ensure!(usize::from(index) >= first_used, "entry {i} at {index} is not among the names");
        ensure!(entry.hash >= last, "hash {:#x} of entry {i} is out of order", entry.hash);
        last = entry.hash;
        used += entry.bytes();
        ensure!(!entry.name.is_empty(), "entry {i} has an empty name");
        if let Value::Remote { block, length } = entry.value {
            // A value that is still being written has neither.
            let incomplete = entry.flags & INCOMPLETE != 0;
            ensure!(
                incomplete || (block != 0 && length > 0 && length <= MAX_VALUE),
                "the value of entry {i} is {length} bytes at block {block}"
            );
        }
    }
    ensure!(
        used == usize::from(header.used_bytes()) && used <= block.len() - table_end,
        "names of {used} bytes, {} stated",
        header.used_bytes()
    );
    Ok(())
}
