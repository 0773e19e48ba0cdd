//! An inode in use: its core's fields against each other, then what it holds.

use alloc::format;
use alloc::string::String;

use super::{Result, Scan};
use crate::xfs::inode::ForkKind;
use crate::xfs::ondisk::agi::NULL_AGINO;
use crate::xfs::ondisk::inode::{CORE_BYTES, Flags, Flags2, Format, InodeCore, View};
use crate::xfs::ondisk::superblock::{Incompat, RoCompat};
use crate::xfs::ondisk::{Check, bmbt, ensure};
use crate::xfs::types::{AgNumber, FileType, Ino};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// The attribute fork's format where there is no such fork: extents.
const NO_ATTR_FORMAT: u8 = 2;

/// Flags that only directories have.
const DIRECTORY_FLAGS: Flags = Flags::RT_INHERIT
    .union(Flags::PROJ_INHERIT)
    .union(Flags::NO_SYMLINKS)
    .union(Flags::EXTSIZE_INHERIT);

impl Scan {
    /// A finding about an inode.
    pub(super) fn inode_found(&mut self, ino: Ino, reason: impl Into<String>) {
        self.source.found("inode", format!("{ino}"), reason);
    }
    /// Check an inode in use, all of its bytes.
    pub(super) fn check_used(
        &mut self,
        ino: Ino,
        core: &InodeCore,
        view: &View<'_>,
        bytes: &[u8],
    ) -> Result<()> {
        for check in [self.check_flags_of(ino, core, view), check_times(core, view)] {
            if let Err(reason) = check {
                self.inode_found(ino, reason);
            }
        }
        let (data_bytes, attr_bytes) = bytes[CORE_BYTES..].split_at(core.data_fork_bytes);
        let data = self.check_fork(ino, core, ForkKind::Data, data_bytes)?;
        let attr = self.check_fork(ino, core, ForkKind::Attr, attr_bytes)?;
        let blocks = data.blocks + attr.blocks;
        if data.whole && attr.whole && blocks != core.blocks {
            self.inode_found(ino, format!("nblocks is {}, it has {blocks}", core.blocks));
        }
        if !self.is_quota(ino) {
            self.quotas.count([core.uid, core.gid, core.projid], core.blocks);
        }
        match core.file_type {
            FileType::Directory => self.check_directory(ino, core, data_bytes, &data)?,
            FileType::Symlink => self.check_symlink(ino, core, data_bytes, &data)?,
            FileType::Regular if self.is_quota(ino) => self.check_quota(ino, &data)?,
            _ => {}
        }
        match core.attr_format {
            None => Ok(()),
            Some(Format::Local) => self.check_shortform_attrs(ino, attr_bytes),
            Some(_) => self.check_attrs(ino, &attr),
        }
    }
    /// Do flags and hints fit the type and the features?
    fn check_flags_of(&self, ino: Ino, core: &InodeCore, view: &View<'_>) -> Check {
        let (flags, flags2) = (core.flags, core.flags2);
        ensure!(view.flags() & !Flags::all().bits() == 0, "flags {:#x}", view.flags());
        ensure!(view.flags2() & !Flags2::all().bits() == 0, "flags2 {:#x}", view.flags2());
        ensure!(view.on_link() == 0, "the link count of old inodes is {}", view.on_link());
        let wide = flags2.contains(Flags2::NREXT64);
        ensure!(wide || view.big_extents() == 0, "wide extent count {}", view.big_extents());
        ensure!(
            core.attr_format.is_some() || view.attr_format() == NO_ATTR_FORMAT,
            "attribute fork format {} without a fork",
            view.attr_format()
        );
        ensure!(
            core.size == 0 || core.format != Format::Device,
            "size {} of a {:?}",
            core.size,
            core.file_type
        );
        let (regular, directory) =
            (core.file_type == FileType::Regular, core.file_type == FileType::Directory);
        ensure!(directory || !flags.intersects(DIRECTORY_FLAGS), "flags {flags:?} of directories");
        ensure!(regular || !flags.contains(Flags::EXTSIZE), "an extent size of no file");
        ensure!(!flags.contains(Flags::RT_INHERIT), "there is no realtime device to inherit");
        ensure!(!flags2.contains(Flags2::REFLINK | Flags2::DAX), "both reflink and dax");
        let bitmap = self.internal.first() == Some(&ino);
        ensure!(bitmap || !flags.contains(Flags::NEW_RT_BITMAP), "flags of the realtime bitmap");
        let hint = flags.intersects(Flags::EXTSIZE | Flags::EXTSIZE_INHERIT);
        self.check_hint("extent size", hint, core.extsize)?;
        let cow = flags2.contains(Flags2::COW_EXTSIZE);
        let reflink = self.geometry.ro_compat.contains(RoCompat::REFLINK);
        ensure!(
            !cow || (reflink && (regular || directory)),
            "a copy-on-write extent size of what is never copied"
        );
        self.check_hint("copy-on-write extent size", cow, core.cow_extsize)
    }
    fn check_hint(&self, name: &str, on: bool, blocks: u32) -> Check {
        ensure!(on == (blocks != 0), "its {name} is {blocks}, the flag {on}");
        self.check_hint_size(name, blocks)
    }
    fn check_hint_size(&self, name: &str, blocks: u32) -> Check {
        let most = bmbt::MAX_BLOCKS.min(u64::from(self.geometry.ag_blocks / 2));
        ensure!(u64::from(blocks) <= most, "its {name} is {blocks} blocks");
        Ok(())
    }
    /// Is what an inode that is not in use has left such as it can have been?
    pub(super) fn check_unused(&mut self, ino: Ino, view: &View<'_>) {
        self.source.note_lsn(Some(view.lsn()));
        if let Err(reason) = self.check_left(ino, view) {
            self.inode_found(ino, format!("(not in use) {reason}"));
        }
    }
    fn check_left(&self, ino: Ino, view: &View<'_>) -> Check {
        ensure!(view.size() <= i64::MAX as u64, "size {}", view.size());
        ensure!(view.flags() & !Flags::all().bits() == 0, "flags {:#x}", view.flags());
        ensure!(view.flags2() & !Flags2::all().bits() == 0, "flags2 {:#x}", view.flags2());
        ensure!(view.on_link() == 0, "the link count of old inodes is {}", view.on_link());
        let wide = view.flags2() & Flags2::NREXT64.bits() != 0;
        ensure!(wide || view.big_extents() == 0, "wide extent count {}", view.big_extents());
        ensure!(!wide || view.attr_extents() == 0, "padding behind the wide extent counts");
        let flags = Flags::from_bits_truncate(view.flags());
        let hints = Flags::EXTSIZE | Flags::EXTSIZE_INHERIT;
        let realtime = Flags::REALTIME | Flags::RT_INHERIT;
        ensure!(!flags.intersects(hints | realtime), "flags {flags:?}");
        let flags2 = Flags2::from_bits_truncate(view.flags2());
        let sharing = Flags2::REFLINK | Flags2::COW_EXTSIZE;
        ensure!(!flags2.intersects(sharing), "flags2 {flags2:?}");
        for (flag, feature) in
            [(Flags2::BIGTIME, Incompat::BIGTIME), (Flags2::NREXT64, Incompat::NREXT64)]
        {
            let known = self.geometry.incompat.contains(feature);
            ensure!(known || !flags2.contains(flag), "flags2 {flags2:?}, which is not on");
        }
        self.check_left_forks(view, wide)?;
        self.check_hint_size("extent size", view.extsize())?;
        self.check_hint_size("copy-on-write extent size", view.cow_extsize())?;
        let next = view.next_unlinked();
        let ag = self.geometry.locate_inode(ino).map(|(ag, ..)| ag);
        let exists = ag.is_some_and(|ag| self.has_agino(ag, next));
        ensure!(next == NULL_AGINO || exists, "it is followed by {next:#x}");
        Ok(())
    }
    /// The place and the form of an attribute fork that was there.
    fn check_left_forks(&self, view: &View<'_>, wide: bool) -> Check {
        let (offset, format) = (usize::from(view.fork_offset()) * 8, view.attr_format());
        let extents = if wide { view.extents() } else { view.attr_extents().into() };
        let fork_bytes = self.geometry.inode_bytes() - CORE_BYTES;
        if offset == 0 {
            let known = matches!(format, 0 | NO_ATTR_FORMAT);
            ensure!(known, "attribute fork format {format} without a fork");
            ensure!(extents == 0, "{extents} attr extents without a fork");
            return Ok(());
        }
        // A device's number takes eight bytes.
        let in_place = match view.format() {
            0 => offset == 8,
            1..=3 => offset < fork_bytes,
            _ => false,
        };
        ensure!(in_place, "attribute fork at {offset} of {fork_bytes}, format {}", view.format());
        let most = match format {
            1 => 0,
            2 => ((fork_bytes - offset) / bmbt::RECORD_BYTES) as u32,
            3 if wide => u32::MAX,
            3 => i16::MAX as u32,
            _ => return Err(format!("attribute fork format {format}")),
        };
        ensure!(extents <= most, "{extents} attr extents of format {format}");
        Ok(())
    }
    /// Could there be an inode with this number in the group?
    pub(super) fn has_agino(&self, ag: AgNumber, agino: u32) -> bool {
        let ino = self.geometry.ino(ag, agino);
        // A number too large for the group means an inode of another one.
        self.geometry.locate_inode(ino).is_some_and(|(found, ..)| found == ag)
    }
}

fn check_times(core: &InodeCore, view: &View<'_>) -> Check {
    if core.flags2.contains(Flags2::BIGTIME) {
        return Ok(());
    }
    for (name, raw) in [
        ("atime", view.atime()),
        ("mtime", view.mtime()),
        ("ctime", view.ctime()),
        ("crtime", view.btime()),
    ] {
        let ns = raw & u64::from(u32::MAX);
        ensure!(ns < NS_PER_SECOND, "{ns} nanoseconds in its {name}");
    }
    Ok(())
}
