//! Extended attributes that lie in the inode itself (shortform).

use super::{Be16, Byte, Check, be16, ensure, on_disk};

on_disk! {
    /// The header; entries follow.
    Header, 4 bytes {
        total: Be16 = 0,
        count: Byte = 2,
        pad: Byte = 3,
    }
}

on_disk! {
    /// The start of an entry; name and value follow.
    EntryHead, 3 bytes {
        name_len: Byte = 0,
        value_len: Byte = 1,
        flags: Byte = 2,
    }
}

/// An attribute.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// Namespace and state.
    pub flags: u8,
    /// The name without its namespace.
    pub name: &'a [u8],
    /// The value.
    pub value: &'a [u8],
}

/// A shortform attribute fork.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    bytes: &'a [u8],
    count: usize,
}

impl<'a> View<'a> {
    /// Check the fork, `bytes` being all there is room for.
    ///
    /// # Errors
    /// What does not fit.
    pub fn new(bytes: &'a [u8]) -> Check<Self> {
        let total = usize::from(be16(bytes, 0).unwrap_or(0));
        let (Some(header), Some(used)) = (Header::new(bytes), bytes.get(..total)) else {
            return Err(alloc::format!("{total} bytes of attributes in {}", bytes.len()));
        };
        ensure!(total >= Header::SIZE, "{total} bytes of attributes");
        let view = Self { bytes: used, count: usize::from(header.count()) };
        let mut end = Header::SIZE;
        for entry in view.entries() {
            let entry = entry?;
            end += EntryHead::SIZE + entry.name.len() + entry.value.len();
        }
        ensure!(end == total, "{} attributes end at {end} of {total}", view.count);
        Ok(view)
    }
    /// The attributes; the first damaged one ends them.
    pub fn entries(self) -> impl Iterator<Item = Check<Entry<'a>>> {
        let mut at = Header::SIZE;
        let mut left = self.count;
        core::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            left -= 1;
            let entry = self.entry(at);
            match &entry {
                Some(e) => at += EntryHead::SIZE + e.name.len() + e.value.len(),
                None => left = 0,
            }
            Some(entry.ok_or_else(|| alloc::format!("the attribute at {at} goes beyond the end")))
        })
    }
    fn entry(self, at: usize) -> Option<Entry<'a>> {
        let rest = self.bytes.get(at..)?;
        let head = EntryHead::new(rest)?;
        let name_end = EntryHead::SIZE + usize::from(head.name_len());
        let name = rest.get(EntryHead::SIZE..name_end)?;
        let value = rest.get(name_end..name_end + usize::from(head.value_len()))?;
        if name.is_empty() { None } else { Some(Entry { flags: head.flags(), name, value }) }
    }
}
