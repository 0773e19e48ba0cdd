//! Access control lists: what they lie like on disk, what programs see of them, and the
//! rules that tie them to the permission bits.
//!
//! On disk: a count, then for each entry tag, id and permissions in twelve bytes, all
//! big-endian. For programs: a version, then eight bytes each, little-endian.
//!
//! An access list says what the permission bits say, and more: the owner's bits are those
//! of its first entry, the others' those of its last, and the group's those of the mask or,
//! where there is none, of the owning group. A list that says nothing more is not kept.

use alloc::vec::Vec;

use crate::error::{Error, Result};
use crate::xfs::ondisk::{Be16, Be32, Check, be32, ensure, on_disk};

on_disk! {
    /// An entry on disk.
    EntryView, 12 bytes {
        tag: Be32 = 0,
        id: Be32 = 4,
        permissions: Be16 = 8,
        pad: Be16 = 10,
    }
}

/// The version of the format for programs.
const LINUX_VERSION: u32 = 2;
/// Bytes of its head, and of an entry.
const LINUX_HEAD: usize = 4;
const LINUX_ENTRY: usize = 8;
/// Bytes of the count on disk.
const DISK_HEAD: usize = 4;
/// Most entries: what a value of 64 KiB has room for.
const MOST_ENTRIES: usize = (65_536 - DISK_HEAD) / EntryView::SIZE;
const NO_ID: u32 = u32::MAX;
/// Read, write, execute.
const PERMISSIONS: u16 = 7;

/// The owner.
const OWNER: u16 = 1;
/// A named user.
const USER: u16 = 2;
/// The owning group.
const OWNING_GROUP: u16 = 4;
/// A named group.
const GROUP: u16 = 8;
/// The most that named users and all groups get.
const MASK: u16 = 0x10;
/// Everybody else.
const OTHERS: u16 = 0x20;

/// What a list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::xfs) enum Purpose {
    /// Access to the file.
    Access,
    /// What is made in the directory gets it.
    Default,
}

impl Purpose {
    /// The purpose of the list that programs know by this name.
    pub(super) fn of_shown(name: &[u8]) -> Option<Self> {
        [Self::Access, Self::Default].into_iter().find(|p| p.shown_name() == name)
    }
    /// The name by which programs know it.
    const fn shown_name(self) -> &'static [u8] {
        match self {
            Self::Access => b"system.posix_acl_access",
            Self::Default => b"system.posix_acl_default",
        }
    }
    /// The name on disk.
    pub(super) const fn disk_name(self) -> &'static [u8] {
        match self {
            Self::Access => b"SGI_ACL_FILE",
            Self::Default => b"SGI_ACL_DEFAULT",
        }
    }
}

/// The name by which programs know a list with this name on disk.
pub(super) fn shown_name(disk: &[u8]) -> Option<&'static [u8]> {
    [Purpose::Access, Purpose::Default]
        .into_iter()
        .find(|p| p.disk_name() == disk)
        .map(Purpose::shown_name)
}

/// An entry of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    tag: u16,
    permissions: u16,
    /// Whose, where the tag does not say that.
    id: u32,
}

impl Entry {
    const fn is_named(self) -> bool {
        matches!(self.tag, USER | GROUP)
    }
}

/// An access control list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Acl(Vec<Entry>);

impl Acl {
    /// The list that a program gives; nothing for one without entries.
    ///
    /// # Errors
    /// Not supported: another version. Invalid: lengths, tags and ids that cannot be.
    pub(super) fn from_program(bytes: &[u8]) -> Result<Option<Self>> {
        let invalid = Error::Invalid("an access control list that cannot be");
        let Some((head, entries)) = bytes.split_first_chunk::<LINUX_HEAD>() else {
            return Err(invalid);
        };
        if u32::from_le_bytes(*head) != LINUX_VERSION {
            return Err(Error::NotSupported("a version of access control lists"));
        }
        let (entries, rest) = entries.as_chunks::<LINUX_ENTRY>();
        if !rest.is_empty() {
            return Err(invalid);
        }
        let mut list = Vec::with_capacity(entries.len());
        for [t0, t1, p0, p1, id @ ..] in entries {
            let entry = Entry {
                tag: u16::from_le_bytes([*t0, *t1]),
                permissions: u16::from_le_bytes([*p0, *p1]),
                id: u32::from_le_bytes(*id),
            };
            let known = matches!(entry.tag, OWNER | OWNING_GROUP | MASK | OTHERS);
            if !(known || entry.is_named() && entry.id != NO_ID) {
                return Err(invalid);
            }
            list.push(entry);
        }
        Ok((!list.is_empty()).then_some(Self(list)))
    }
    /// The list that lies on disk.
    ///
    /// # Errors
    /// A length that its count does not say, or no list at all.
    pub(super) fn from_disk(raw: &[u8]) -> Check<Self> {
        let count = be32(raw, 0).unwrap_or(0) as usize;
        let entries = raw.get(DISK_HEAD..).unwrap_or(&[]);
        ensure!(
            count.checked_mul(EntryView::SIZE) == Some(entries.len()),
            "an access control list of {count} entries in {} bytes",
            raw.len()
        );
        let mut list = Vec::with_capacity(count);
        for e in entries.chunks_exact(EntryView::SIZE).filter_map(EntryView::new) {
            let known = (1..=u32::from(OTHERS)).contains(&e.tag()) && e.tag().is_power_of_two();
            ensure!(known, "an access control list with a tag {}", e.tag());
            list.push(Entry { tag: e.tag() as u16, permissions: e.permissions(), id: e.id() });
        }
        Ok(Self(list))
    }
    /// As programs see it.
    pub(super) fn to_program(&self) -> Vec<u8> {
        let mut list = LINUX_VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            let id = if entry.is_named() { entry.id } else { NO_ID };
            list.extend_from_slice(&entry.tag.to_le_bytes());
            list.extend_from_slice(&entry.permissions.to_le_bytes());
            list.extend_from_slice(&id.to_le_bytes());
        }
        list
    }
    /// As it lies on disk.
    ///
    /// # Errors
    /// Too long.
    pub(super) fn to_disk(&self) -> Result<Vec<u8>> {
        if self.0.len() > MOST_ENTRIES {
            return Err(Error::TooLong);
        }
        let mut raw = (self.0.len() as u32).to_be_bytes().to_vec();
        for entry in &self.0 {
            let id = if entry.is_named() { entry.id } else { NO_ID };
            raw.extend_from_slice(&u32::from(entry.tag).to_be_bytes());
            raw.extend_from_slice(&id.to_be_bytes());
            raw.extend_from_slice(&entry.permissions.to_be_bytes());
            raw.extend_from_slice(&[0; 2]);
        }
        Ok(raw)
    }
    /// Is it one that makes sense? The owner, named users, the owning group, named groups,
    /// the mask, which has to be there if anybody is named, and everybody else: each of
    /// those without a name once, in this order.
    pub(super) fn is_valid(&self) -> bool {
        let place = |tag| match tag {
            OWNER => 0,
            USER => 1,
            OWNING_GROUP => 2,
            GROUP => 3,
            MASK => 4,
            _ => 5,
        };
        let in_order = self.0.windows(2).all(|pair| {
            let (a, b) = (place(pair[0].tag), place(pair[1].tag));
            a < b || a == b && pair[0].is_named()
        });
        let has = |tag| self.0.iter().any(|e| e.tag == tag);
        let named = self.0.iter().any(|e| e.is_named());
        in_order
            && self.0.iter().all(|e| e.permissions & !PERMISSIONS == 0)
            && [OWNER, OWNING_GROUP, OTHERS].into_iter().all(has)
            && (!named || has(MASK))
    }
    fn permissions_of(&self, tag: u16) -> Option<u16> {
        self.0.iter().find(|e| e.tag == tag).map(|e| e.permissions & PERMISSIONS)
    }
    /// `mode` with the permission bits that the list stands for.
    pub(super) fn mode(&self, mode: u16) -> u16 {
        let bits = |tag| self.permissions_of(tag).unwrap_or(0);
        let group = self.permissions_of(MASK).unwrap_or_else(|| bits(OWNING_GROUP));
        mode & !0o777 | bits(OWNER) << 6 | group << 3 | bits(OTHERS)
    }
    /// Does it say no more than permission bits can?
    pub(super) fn is_only_mode(&self) -> bool {
        self.0.iter().all(|e| matches!(e.tag, OWNER | OWNING_GROUP | OTHERS))
    }
    /// Change what the permission bits stand for, by a function of what was there and the
    /// bits. Nothing if there is no owning group.
    fn combine(&mut self, mode: u16, with: impl Fn(u16, u16) -> u16) -> Option<()> {
        let has_mask = self.permissions_of(MASK).is_some();
        self.permissions_of(OWNING_GROUP)?;
        for entry in &mut self.0 {
            let bits = match entry.tag {
                OWNER => mode >> 6,
                MASK => mode >> 3,
                OWNING_GROUP if !has_mask => mode >> 3,
                OTHERS => mode,
                _ => continue,
            };
            entry.permissions = with(entry.permissions, bits & PERMISSIONS);
        }
        Some(())
    }
    /// The permission bits become `mode`. Nothing if the list is not one.
    pub(super) fn change_mode(&mut self, mode: u16) -> Option<()> {
        self.combine(mode, |_, bits| bits)
    }
    /// The access list of what is made with `mode` in a directory of this default list, and
    /// its mode: both grant only what either of them does.
    pub(super) fn inherited(&self, mode: u16) -> Option<(Self, u16)> {
        let mut list = self.clone();
        list.combine(mode, |there, bits| there & bits)?;
        let mode = list.mode(mode);
        Some((list, mode))
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use super::*;

    fn program(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions, id) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&permissions.to_le_bytes());
            bytes.extend_from_slice(&id.to_le_bytes());
        }
        bytes
    }
    fn list(entries: &[(u16, u16, u32)]) -> Acl {
        Acl::from_program(&program(entries)).expect("it is one").expect("it has entries")
    }
    const PLAIN: [(u16, u16, u32); 3] =
        [(OWNER, 6, NO_ID), (OWNING_GROUP, 4, NO_ID), (OTHERS, 0, NO_ID)];
    const NAMED: [(u16, u16, u32); 6] = [
        (OWNER, 7, NO_ID),
        (USER, 6, 1000),
        (OWNING_GROUP, 5, NO_ID),
        (GROUP, 7, 70_000),
        (MASK, 6, NO_ID),
        (OTHERS, 1, NO_ID),
    ];

    #[test]
    fn lists_survive_both_formats() {
        for entries in [&PLAIN[..], &NAMED] {
            let list = list(entries);
            let raw = list.to_disk().expect("short");
            assert_eq!(raw.len(), 4 + 12 * entries.len());
            assert_eq!(be32(&raw, 0), Some(entries.len() as u32));
            assert_eq!(Acl::from_disk(&raw).expect("a list").to_program(), program(entries));
            assert!(list.is_valid());
        }
        assert!(Acl::from_disk(&[0, 0, 0, 2, 0]).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let errno = |bytes: &[u8]| Acl::from_program(bytes).err().map(|e| e.errno());
        assert_eq!(errno(&[]), Some(22));
        assert_eq!(errno(&[1, 0, 0, 0]), Some(95));
        assert_eq!(errno(&[2, 0, 0, 0, 1]), Some(22));
        assert_eq!(errno(&program(&[(3, 0, 0)])), Some(22));
        assert_eq!(errno(&program(&[(USER, 0, NO_ID)])), Some(22));
        assert_eq!(Acl::from_program(&[2, 0, 0, 0]), Ok(None));
        // One entry more than a value has room for.
        let mut many = vec![(OWNER, 7, NO_ID)];
        many.extend((0..MOST_ENTRIES as u32 - 3).map(|id| (USER, 7, id)));
        many.extend([(OWNING_GROUP, 7, NO_ID), (MASK, 7, NO_ID), (OTHERS, 7, NO_ID)]);
        assert_eq!(list(&many).to_disk().map(|_| ()), Err(Error::TooLong));
        many.remove(1);
        assert_eq!(list(&many).to_disk().map(|raw| raw.len()), Ok(65_536));
    }

    #[test]
    fn order_and_completeness() {
        for bad in [
            &PLAIN[..2],
            &PLAIN[1..],
            &[PLAIN[0], PLAIN[2]],
            &[PLAIN[1], PLAIN[0], PLAIN[2]],
            &[PLAIN[0], PLAIN[0], PLAIN[1], PLAIN[2]],
            &[PLAIN[0], PLAIN[1], PLAIN[1], PLAIN[2]],
            &[PLAIN[0], PLAIN[1], PLAIN[2], PLAIN[2]],
            // Somebody is named, and there is no mask.
            &[NAMED[0], NAMED[1], NAMED[2], NAMED[5]],
            &[NAMED[0], NAMED[2], NAMED[1], NAMED[4], NAMED[5]],
            &[NAMED[0], NAMED[2], NAMED[4], NAMED[3], NAMED[5]],
            &[(OWNER, 8, NO_ID), PLAIN[1], PLAIN[2]],
        ] {
            assert!(!list(bad).is_valid(), "{bad:?}");
        }
        // A mask that nobody needs, and one user twice: nobody minds.
        assert!(list(&[PLAIN[0], PLAIN[1], NAMED[4], PLAIN[2]]).is_valid());
        assert!(list(&[NAMED[0], NAMED[1], NAMED[1], NAMED[2], NAMED[4], NAMED[5]]).is_valid());
    }

    #[test]
    fn lists_and_modes() {
        assert_eq!(list(&PLAIN).mode(0o4777), 0o4640);
        assert_eq!(list(&NAMED).mode(0o1000), 0o1761);
        assert!(list(&PLAIN).is_only_mode() && !list(&NAMED).is_only_mode());
        let mut changed = list(&NAMED);
        changed.change_mode(0o2417).expect("a list");
        let (owner, mask, others) = ((OWNER, 4, NO_ID), (MASK, 1, NO_ID), (OTHERS, 7, NO_ID));
        assert_eq!(changed, list(&[owner, NAMED[1], NAMED[2], NAMED[3], mask, others]));
        let (heir, mode) = list(&NAMED).inherited(0o4754).expect("a list");
        assert_eq!(mode, 0o4740);
        let (mask, others) = ((MASK, 4, NO_ID), (OTHERS, 0, NO_ID));
        assert_eq!(heir, list(&[NAMED[0], NAMED[1], NAMED[2], NAMED[3], mask, others]));
        let (heir, mode) = list(&PLAIN).inherited(0o777).expect("a list");
        assert_eq!((heir, mode), (list(&PLAIN), 0o640));
    }
}
