//! Changes of attributes that Linux had announced in its log when it crashed.
//!
//! Linux changes pointers to parents, and on demand other attributes, step by step under
//! an intent that is announced again at each step. Whatever step was reached, the outcome
//! is the same: what the intent removes is gone, what it sets is there.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::change::Key;
use super::operate::{cost, make_fork, space_for_fork, with_attrs};
use super::{NAME_MAX, NAMESPACE, PARENT, parent};
use crate::error::{Error, Result};
use crate::xfs::bmap::TreeLimits;
use crate::xfs::defer::IntentItem;
use crate::xfs::geometry::Geometry;
use crate::xfs::inode::ForkKind;
use crate::xfs::inode_item::LockedInode;
use crate::xfs::mount::Mount;
use crate::xfs::ondisk::attr_leaf::MAX_VALUE;
use crate::xfs::ondisk::attr_sf::{EntryHead, Header};
use crate::xfs::ondisk::log_intents::attr::{
    REMOVE, REMOVE_PARENT, REPLACE, REPLACE_PARENT, SET, SET_PARENT,
};
use crate::xfs::ondisk::log_intents::{AttrChange, Done};
use crate::xfs::ondisk::{Check, ensure};
use crate::xfs::trans::Trans;
use crate::xfs::types::Ino;

/// An attribute that an intent names: its name and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Named {
    name: Vec<u8>,
    value: Vec<u8>,
}

/// An unfinished change, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::xfs) struct Change {
    ino: Ino,
    /// The inode's generation, where that is known.
    generation: Option<u32>,
    namespace: u8,
    /// What shall not be there any more.
    gone: Option<Named>,
    /// What shall be there.
    set: Option<Named>,
}

/// The regions behind an intent's first, each as long as said and padded to words.
struct Regions<'a> {
    left: core::slice::Iter<'a, Vec<u8>>,
}

impl Regions<'_> {
    fn take(&mut self, what: &str, bytes: usize) -> Check<Vec<u8>> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let region = self.left.next().map_or(&[][..], |r| r);
        ensure!(
            region.len() == bytes.next_multiple_of(4),
            "ATTRI with a {what} of {bytes} bytes in a region of {}",
            region.len()
        );
        Ok(region[..bytes].to_vec())
    }
}

/// An unfinished change with what its regions hold.
///
/// # Errors
/// What does not fit.
pub(in crate::xfs) fn logged(
    change: &AttrChange,
    regions: &[Vec<u8>],
    geometry: &Geometry,
) -> Check<Change> {
    let operation = change.operation;
    ensure!(
        (SET..=REPLACE_PARENT).contains(&operation),
        "ATTRI of an unknown operation {operation:#x}"
    );
    ensure!(geometry.has_inode(change.ino), "ATTRI of {}, which does not exist", change.ino);
    let of_parent = operation >= SET_PARENT;
    let namespace = change.filter as u8 & NAMESPACE;
    ensure!(
        u32::from(namespace) == change.filter
            && namespace.count_ones() <= 1
            && of_parent == (namespace == PARENT),
        "ATTRI of operation {operation} in namespace {:#x}",
        change.filter
    );
    ensure!(!of_parent || parent::kept(geometry), "ATTRI of a parent without the feature");
    let two = operation == REPLACE_PARENT;
    let (first, second) = match two {
        true => (change.name_bytes & 0xffff, change.name_bytes >> 16),
        false => (change.name_bytes, 0),
    };
    for bytes in [first].into_iter().chain(two.then_some(second)) {
        let bytes = bytes as usize;
        ensure!((1..=NAME_MAX).contains(&bytes), "ATTRI with a name of {bytes} bytes");
    }
    let value_bytes = change.value_bytes as usize;
    ensure!(
        value_bytes <= MAX_VALUE as usize && (!of_parent || value_bytes == parent::VALUE_BYTES),
        "ATTRI with a value of {value_bytes} bytes"
    );
    let mut left = Regions { left: regions.iter() };
    let name = left.take("name", first as usize)?;
    let new_name = left.take("name", second as usize)?;
    // What is only removed is found by its name, unless it is a pointer to a parent.
    let valued = if operation == REMOVE { 0 } else { value_bytes };
    let value = left.take("value", valued)?;
    let new_value = left.take("value", if two { valued } else { 0 })?;
    let named = Named { name, value };
    let (gone, set) = match operation {
        SET | REPLACE | SET_PARENT => (None, Some(named)),
        REMOVE | REMOVE_PARENT => (Some(named), None),
        _ => (Some(named), Some(Named { name: new_name, value: new_value })),
    };
    let generation = of_parent.then_some(change.generation);
    Ok(Change { ino: change.ino, generation, namespace, gone, set })
}

impl Change {
    fn key<'a>(&self, named: &'a Named) -> Key<'a> {
        let value = (self.namespace == PARENT).then_some(&named.value[..]);
        Key { namespace: self.namespace, name: &named.name, value }
    }
    fn carry_out(&self, tp: &mut Trans<'_>, ip: &mut LockedInode<'_>) -> Result<()> {
        if let Some(named) = &self.set
            && ip.attr.is_none()
        {
            let bytes = Header::SIZE + EntryHead::SIZE + named.name.len() + named.value.len();
            make_fork(tp, ip, bytes)?;
        }
        if ip.attr.is_none() {
            return Ok(());
        }
        with_attrs(tp, ip, |attrs| {
            match (&self.gone, &self.set) {
                (Some(gone), Some(set)) => {
                    attrs.replace(self.key(gone), self.key(set), &set.value)?;
                }
                (None, Some(set)) => attrs.set(self.key(set), &set.value)?,
                (Some(gone), None) => match attrs.remove(self.key(gone)) {
                    Err(Error::NoAttribute) => {}
                    other => other?,
                },
                (None, None) => {}
            }
            Ok(())
        })
    }
}

/// Finish a change, whatever of it is done already.
///
/// # Errors
/// I/O errors, damage, no space.
pub(in crate::xfs) fn finish_change(
    mount: &Mount,
    intent: &Arc<IntentItem>,
    change: &Change,
) -> Result<()> {
    let geometry = mount.geometry();
    let limits = TreeLimits::new(geometry);
    let (reservation, blocks) = match &change.set {
        Some(set) => {
            let (reservation, blocks) = cost(mount, change.key(set), &set.value);
            (reservation, blocks + space_for_fork(geometry) + limits.one_more())
        }
        None => (mount.reservations().attr_remove, limits.one_more()),
    };
    let mut tp = mount.begin_or_full(reservation, blocks, blocks)?;
    let inode = mount.arc().inode(change.ino)?;
    let mut ip = inode.lock_exclusive();
    if change.generation.is_some_and(|generation| generation != ip.core.generation) {
        let found = ip.core.generation;
        return Err(inode.corrupt(format!("generation {found} is not that of its ATTRI")));
    }
    ip.load(ForkKind::Attr)?;
    tp.log_done(intent, &Done::Attrd);
    change.carry_out(&mut tp, &mut ip)?;
    tp.commit(&mut [&mut ip])?;
    Ok(())
}
