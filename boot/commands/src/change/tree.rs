//! Copies of files and trees, with what belongs to a file besides its contents: for `cp`,
//! and for `mv` where a name cannot go.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::AT_FDCWD;
use holdfast_fs::vfs::{OpenFlags, Stat, Whence, XattrFlags};
use holdfast_fs::xfs::FileType;

use crate::context::{Context, Status, explain, write_all};
use crate::files::{CHUNK, OpenFile, list, read_pieces};
use crate::{out, text};

/// How contents are shared with the source.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Reflink {
    /// If that is possible.
    Auto,
    /// Or it fails.
    Always,
    /// Bytes are copied.
    Never,
}

/// What is made in the place of a copy.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Instead {
    /// A copy is made.
    Nothing,
    /// Another name.
    Link,
    /// A symbolic link.
    Symlink,
}

/// How to copy.
pub struct How {
    /// Directories, too.
    pub recursive: bool,
    /// What symbolic links lead to.
    pub follow: bool,
    /// Owner, mode with access control lists, times.
    pub keep: bool,
    /// All extended attributes.
    pub keep_attributes: bool,
    /// Which names are of one file.
    pub keep_links: bool,
    /// Remove what cannot be opened.
    pub force: bool,
    /// Leave what is there.
    pub no_clobber: bool,
    /// Leave what is there and no older.
    pub update: bool,
    /// Say what is copied, beginning so.
    pub told: Option<&'static str>,
    /// What is made in the place of a copy.
    pub instead: Instead,
    /// How contents are shared.
    pub reflink: Reflink,
}

/// The access control lists, as attributes.
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];

/// What could not be done, and why.
type Failure = (String, Error);
/// An object, whatever its name.
type Identity = (u64, u64);

fn identity(stat: &Stat) -> Identity {
    (stat.dev, stat.ino)
}

/// Copy one object and, if asked, what is below it. Depth costs heap, not stack.
pub fn copy(cx: &mut Context, from: &[u8], to: &[u8], how: &How) -> Status {
    let mut tree = Tree { how, top: (from, to), target: None, linked: BTreeMap::new() };
    let mut status = 0;
    let mut pending = vec![(from.to_vec(), to.to_vec())];
    // Directories get their mode and times last, when nothing is put into them any more.
    let mut directories = Vec::new();
    while let Some((from, to)) = pending.pop() {
        let stat = match how.follow {
            true => cx.process.stat(&from),
            false => cx.process.lstat(&from),
        };
        let stat = match stat {
            Ok(stat) => stat,
            Err(e) => {
                cx.cannot("cannot stat", &from, &e);
                status = 1;
                continue;
            }
        };
        if stat.file_type() != FileType::Directory {
            status |= tree.file(cx, &from, &to, &stat);
            continue;
        }
        let Some(bits) = tree.directory(cx, &from, &to, &stat) else {
            status = 1;
            continue;
        };
        let process = cx.process.clone();
        let (names, error) = list(&process, &from);
        if let Some(e) = error {
            cx.cannot("cannot access", &from, &e);
            status = 1;
        }
        let inside = names.iter().filter(|n| n.name != b"." && n.name != b"..");
        pending
            .extend(inside.rev().map(|n| (text::join(&from, &n.name), text::join(&to, &n.name))));
        directories.push((from, to, stat, bits));
    }
    for (from, to, stat, bits) in directories.into_iter().rev() {
        let made = match (how.keep || how.keep_attributes, bits) {
            (true, _) => keep(cx, &from, &to, &stat, how),
            (false, Some(bits)) => cx.process.chmod(&to, bits),
            (false, None) => Ok(()),
        };
        status |= preserved(cx, &to, made);
    }
    status
}

/// One operand being copied.
struct Tree<'a> {
    how: &'a How,
    top: (&'a [u8], &'a [u8]),
    /// The directory that the first one became.
    target: Option<Identity>,
    /// Files with several names, and the first copy's name.
    linked: BTreeMap<Identity, Vec<u8>>,
}

impl Tree<'_> {
    /// Make a directory. The mode that it is to have in the end, if it has another one
    /// now; nothing if it is left out.
    fn directory(
        &mut self,
        cx: &mut Context,
        from: &[u8],
        to: &[u8],
        stat: &Stat,
    ) -> Option<Option<u32>> {
        if !self.how.recursive {
            let quoted = text::quote(from);
            cx.error(format_args!("-r not specified; omitting directory {quoted}"));
            return None;
        }
        if self.target == Some(identity(stat)) {
            let (from, to) = (text::quote(self.top.0), text::quote(self.top.1));
            cx.error(format_args!("cannot copy a directory, {from}, into itself, {to}"));
            return None;
        }
        let made = cx.process.mkdir(to, (stat.mode & 0o777) | 0o700);
        let there = cx.process.stat(to);
        let bits = match (&made, &there) {
            (Ok(()), Ok(there)) => {
                self.tell(cx, from, to);
                let wanted = there.mode & 0o7777 & (stat.mode | !0o777);
                (wanted != there.mode & 0o7777).then_some(wanted)
            }
            (Err(Error::Exists), Ok(there)) if there.file_type() == FileType::Directory => None,
            (Err(Error::Exists), _) => {
                let (from, to) = (text::quote(from), text::quote(to));
                cx.error(format_args!("cannot overwrite non-directory {to} with directory {from}"));
                return None;
            }
            (Err(e), _) | (Ok(()), Err(e)) => {
                cx.cannot("cannot create directory", to, e);
                return None;
            }
        };
        self.target = self.target.or(there.as_ref().ok().map(identity));
        Some(bits)
    }
    fn tell(&self, cx: &mut Context, from: &[u8], to: &[u8]) {
        if let Some(beginning) = self.how.told {
            let (from, to) = (text::quote(from), text::quote(to));
            out!(cx, "{beginning}{from} -> {to}\n");
        }
    }
    /// Copy what is no directory.
    fn file(&mut self, cx: &mut Context, from: &[u8], to: &[u8], stat: &Stat) -> Status {
        let there = match cx.process.lstat(to) {
            Ok(there) => Some(there),
            Err(Error::NotFound) => None,
            Err(e) => {
                cx.cannot("cannot stat", to, &e);
                return 1;
            }
        };
        if let Some(there) = &there {
            match self.may_replace(cx, from, to, stat, there) {
                Ok(true) => {}
                Ok(false) => return 0,
                Err(message) => {
                    cx.error(format_args!("{message}"));
                    return 1;
                }
            }
        }
        let first = self.linked.get(&identity(stat)).cloned();
        let made = match &first {
            Some(first) => {
                replace(cx, to, there.is_some(), || cx.process.link(first, to)).map_err(|e| {
                    let (to, first) = (text::quote(to), text::quote(first));
                    (alloc::format!("cannot create hard link {to} to {first}"), e)
                })
            }
            None => self.make(cx, from, to, stat, there.is_some()),
        };
        if let Err((what, e)) = made {
            let reason = explain(&e);
            cx.error(format_args!("{what}: {reason}"));
            return 1;
        }
        self.tell(cx, from, to);
        if first.is_some() || self.how.instead != Instead::Nothing {
            return 0;
        }
        if self.how.keep_links && stat.nlink > 1 {
            self.linked.insert(identity(stat), to.to_vec());
        }
        if !self.how.keep && !self.how.keep_attributes {
            return 0;
        }
        let kept = keep(cx, from, to, stat, self.how);
        preserved(cx, to, kept)
    }
    /// May what is there be replaced or written over? The complaint if that is a mistake.
    fn may_replace(
        &self,
        cx: &Context,
        from: &[u8],
        to: &[u8],
        stat: &Stat,
        there: &Stat,
    ) -> Result<bool, String> {
        let (quoted_from, quoted_to) = (text::quote(from), text::quote(to));
        let led_to = cx.process.stat(to);
        let written = match (stat.file_type(), &led_to) {
            (FileType::Symlink, _) | (_, Err(_)) => there,
            (_, Ok(led_to)) => led_to,
        };
        if identity(written) == identity(stat) {
            return match self.how.instead {
                Instead::Nothing => {
                    Err(alloc::format!("{quoted_from} and {quoted_to} are the same file"))
                }
                _ => Ok(self.how.force),
            };
        }
        if self.how.no_clobber
            || (self.how.update
                && (there.mtime.seconds, there.mtime.nanoseconds)
                    >= (stat.mtime.seconds, stat.mtime.nanoseconds))
        {
            return Ok(false);
        }
        if there.file_type() == FileType::Directory {
            return Err(alloc::format!(
                "cannot overwrite directory {quoted_to} with non-directory"
            ));
        }
        let dangling = there.file_type() == FileType::Symlink && led_to.is_err();
        if dangling && self.how.instead == Instead::Nothing && self.copies_contents(stat) {
            return Err(alloc::format!("not writing through dangling symlink {quoted_to}"));
        }
        Ok(true)
    }
    /// Of devices, too, the contents are copied unless a tree is.
    fn copies_contents(&self, stat: &Stat) -> bool {
        match stat.file_type() {
            FileType::Regular => true,
            FileType::Symlink => false,
            _ => !self.how.recursive,
        }
    }
    fn make(
        &self,
        cx: &Context,
        from: &[u8],
        to: &[u8],
        stat: &Stat,
        exists: bool,
    ) -> Result<(), Failure> {
        let process = &cx.process;
        let remove = exists && self.how.force;
        let (quoted_from, quoted) = (text::quote(from), text::quote(to));
        match self.how.instead {
            Instead::Link => replace(cx, to, remove, || process.link(from, to)).map_err(|e| {
                (alloc::format!("cannot create hard link {quoted} to {quoted_from}"), e)
            }),
            Instead::Symlink => {
                replace(cx, to, remove, || process.symlink(from, to)).map_err(|e| {
                    (alloc::format!("cannot create symbolic link {quoted} to {quoted_from}"), e)
                })
            }
            Instead::Nothing if self.copies_contents(stat) => {
                copy_contents(cx, from, to, stat, self.how)
            }
            Instead::Nothing if stat.file_type() == FileType::Symlink => {
                let target = process
                    .readlink(from)
                    .map_err(|e| (alloc::format!("cannot read symbolic link {quoted_from}"), e))?;
                replace(cx, to, exists, || process.symlink(&target, to))
                    .map_err(|e| (alloc::format!("cannot create symbolic link {quoted}"), e))
            }
            Instead::Nothing => {
                let device = holdfast_fs::vfs::device_parts(stat.rdev);
                replace(cx, to, exists, || process.mknod(to, stat.mode, device))
                    .map_err(|e| (alloc::format!("cannot create special file {quoted}"), e))
            }
        }
    }
}

/// Make something under a name that is to be removed first, if somebody has it.
fn replace(
    cx: &Context,
    to: &[u8],
    exists: bool,
    make: impl FnOnce() -> Result<(), Error>,
) -> Result<(), Error> {
    if exists {
        cx.process.unlink(to)?;
    }
    make()
}

fn copy_contents(
    cx: &Context,
    from: &[u8],
    to: &[u8],
    stat: &Stat,
    how: &How,
) -> Result<(), Failure> {
    let process = &cx.process;
    let (quoted_from, quoted) = (text::quote(from), text::quote(to));
    let source = OpenFile::read(process, from)
        .map_err(|e| (alloc::format!("cannot open {quoted_from} for reading"), e))?;
    // Nobody else is to read what will not be for everybody.
    let mode = stat.mode & if how.keep { 0o700 } else { 0o777 };
    let flags = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
    let opened = match process.open(to, flags, mode) {
        Err(_) if how.force && process.lstat(to).is_ok() => {
            process.unlink(to).and_then(|()| process.open(to, flags, mode))
        }
        opened => opened,
    };
    let target = match opened {
        Ok(fd) => OpenFile::adopt(process, fd),
        Err(e) => {
            let slash = e == Error::IsDirectory && to.ends_with(b"/");
            let e = if slash { Error::NotDirectory } else { e };
            return Err((alloc::format!("cannot create regular file {quoted}"), e));
        }
    };
    let regular = stat.file_type() == FileType::Regular;
    if how.reflink != Reflink::Never && regular {
        match process.ficlone(target.fd, source.fd) {
            Ok(()) => return Ok(()),
            Err(e) if how.reflink == Reflink::Always => {
                return Err((alloc::format!("failed to clone {quoted} from {quoted_from}"), e));
            }
            // Sharing is a service: the bytes can be copied.
            Err(_) => {}
        }
    }
    let reading = |e| (alloc::format!("error reading {quoted_from}"), e);
    let writing = |e| (alloc::format!("error writing {quoted}"), e);
    if regular {
        return copy_data(cx, source.fd, target.fd, &reading, &writing);
    }
    let mut failed = None;
    read_pieces(process, source.fd, &mut |piece| {
        failed = write_all(process, target.fd, piece).err();
        failed.is_none()
    })
    .map_err(reading)?;
    failed.map_or(Ok(()), |e| Err(writing(e)))
}

/// Copy what a regular file has; its holes become holes.
fn copy_data(
    cx: &Context,
    source: i32,
    target: i32,
    reading: &dyn Fn(Error) -> Failure,
    writing: &dyn Fn(Error) -> Failure,
) -> Result<(), Failure> {
    let process = &cx.process;
    let mut buffer = vec![0; CHUNK];
    let mut end = 0;
    loop {
        let mut at = match process.lseek(source, end as i64, Whence::Data) {
            Ok(at) => at,
            Err(Error::NoData) => break,
            Err(e) => return Err(reading(e)),
        };
        end = process.lseek(source, at as i64, Whence::Hole).map_err(reading)?;
        process.lseek(target, at as i64, Whence::Set).map_err(writing)?;
        while at < end {
            let most = (end - at).min(CHUNK as u64) as usize;
            let n = process.pread(source, &mut buffer[..most], at).map_err(reading)?;
            if n == 0 {
                break;
            }
            write_all(process, target, &buffer[..n]).map_err(writing)?;
            at += n as u64;
        }
    }
    let size = process.fstat(source).map_err(reading)?.size;
    process.ftruncate(target, size).map_err(writing)
}

/// Give the copy what the original has besides its contents.
fn keep(cx: &Context, from: &[u8], to: &[u8], stat: &Stat, how: &How) -> Result<(), Error> {
    let process = &cx.process;
    let link = stat.file_type() == FileType::Symlink;
    if how.keep {
        match link {
            true => process.lchown(to, stat.uid, stat.gid)?,
            false => process.chown(to, stat.uid, stat.gid)?,
        }
    }
    keep_attributes(cx, from, to, link, how)?;
    if how.keep {
        if !link {
            process.chmod(to, stat.mode & 0o7777)?;
        }
        let times = super::attributes::both(stat.atime, stat.mtime);
        process.utimensat(AT_FDCWD, to, times, !link)?;
    }
    Ok(())
}

/// Extended attributes: the access control lists, which are part of the mode, or all.
fn keep_attributes(
    cx: &Context,
    from: &[u8],
    to: &[u8],
    link: bool,
    how: &How,
) -> Result<(), Error> {
    let process = &cx.process;
    let names = match link {
        true => process.llistxattr(from)?,
        false => process.listxattr(from)?,
    };
    let wanted = |name: &[u8]| match ACLS.contains(&name) {
        true => how.keep,
        false => how.keep_attributes,
    };
    for name in names.iter().filter(|name| wanted(name)) {
        if link {
            process.lsetxattr(to, name, &process.lgetxattr(from, name)?, XattrFlags::empty())?;
        } else {
            process.setxattr(to, name, &process.getxattr(from, name)?, XattrFlags::empty())?;
        }
    }
    // A list that the directory handed down is not the original's.
    for acl in ACLS.into_iter().filter(|_| how.keep && !link) {
        if !names.iter().any(|name| name == acl) {
            match process.removexattr(to, acl) {
                Ok(()) | Err(Error::NoAttribute | Error::NotSupported(_)) => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(())
}

/// The status of having kept what the original has, and the complaint.
fn preserved(cx: &mut Context, to: &[u8], result: Result<(), Error>) -> Status {
    match result {
        Ok(()) => 0,
        Err(e) => {
            cx.cannot("preserving attributes of", to, &e);
            1
        }
    }
}
