//! Mode, owner, times.

use super::SetAttr;
use crate::error::{Error, Result};
use crate::xfs::attr::AfterChmod;
use crate::xfs::inode::Inode;
use crate::xfs::ondisk::inode::Flags;
use crate::xfs::types::FileType;

/// Run with the rights of the file's owner, of its group.
const SET_USER: u16 = 0o4000;
const SET_GROUP: u16 = 0o2000;
const GROUP_EXECUTE: u16 = 0o010;

impl Inode {
    /// Names it has.
    pub fn nlink(&self) -> u32 {
        self.state.read().core.nlink
    }
    /// Was it freed?
    pub(in crate::xfs) fn is_free(&self) -> bool {
        self.state.read().core.mode == 0
    }
    /// Change permissions, owner or times. `IOLOCK` is held exclusive.
    ///
    /// # Errors
    /// Not permitted on an immutable file; read-only, shut down.
    pub fn set_attributes(&self, change: &SetAttr) -> Result<()> {
        let mount = self.mount();
        // An access control list says again what the permission bits do.
        let list = change.mode.map_or(Ok(None), |mode| AfterChmod::of(self, mode))?;
        let mut tp = match &list {
            Some(list) => list.begin(self)?,
            None => mount.begin(mount.reservations().ichange, 0)?,
        };
        let mut ip = self.lock_exclusive();
        let fixed = match change.touch {
            true => Flags::IMMUTABLE,
            false => Flags::IMMUTABLE | Flags::APPEND,
        };
        if ip.core.flags.intersects(fixed) {
            return Err(Error::NotPermitted("the file is immutable or append-only"));
        }
        if let Some(list) = &list {
            list.apply(&mut tp, &mut ip)?;
        }
        let now = tp.now();
        let directory = self.file_type() == FileType::Directory;
        let owner_changes = change.uid.is_some() || change.gid.is_some();
        let core = ip.core_mut();
        if let Some(mode) = change.mode {
            core.mode = core.mode & !0o7777 | mode & 0o7777;
        }
        core.uid = change.uid.unwrap_or(core.uid);
        core.gid = change.gid.unwrap_or(core.gid);
        if owner_changes && !directory {
            // The right to run as the owner was the former owner's to give.
            core.mode &= !SET_USER;
            if core.mode & GROUP_EXECUTE != 0 {
                core.mode &= !SET_GROUP;
            }
        }
        core.atime = change.atime.unwrap_or(core.atime);
        core.mtime = change.mtime.unwrap_or(core.mtime);
        core.ctime = now;
        tp.commit(&mut [&mut ip])?;
        Ok(())
    }
}
