//! `cp`.

use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::AT_FDCWD;
use holdfast_fs::vfs::{OpenFlags, Stat};
use holdfast_fs::xfs::FileType;

use super::destinations;
use crate::context::{Context, Status, explain, write_all};
use crate::files::{CHUNK, OpenFile, list};
use crate::{options, out, text};

/// How contents are shared with the source.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reflink {
    Auto,
    Always,
    Never,
}

struct Flags {
    recursive: bool,
    preserve: bool,
    force: bool,
    no_clobber: bool,
    verbose: bool,
    reflink: Reflink,
}

/// `cp [-afnpRrTv] [--reflink[=WHEN]] [-t DIR] SOURCE... DEST|DIR`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("archive", b'a'),
        ("recursive", b'r'),
        ("preserve", b'p'),
        ("force", b'f'),
        ("no-clobber", b'n'),
        ("no-target-directory", b'T'),
        ("target-directory", b't'),
        ("verbose", b'v'),
        ("reflink", b'L'),
    ];
    let parsed = match options::parse(argv, "afnpRrTt:v", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let reflink = match (parsed.has(b'L'), parsed.value(b'L')) {
        (false, _) | (true, Some(b"auto")) => Reflink::Auto,
        (true, None | Some(b"always")) => Reflink::Always,
        (true, Some(b"never")) => Reflink::Never,
        (true, Some(other)) => {
            let quoted = text::quote(other);
            return cx.usage(format_args!("invalid argument {quoted} for '--reflink'"), 1);
        }
    };
    let flags = Flags {
        recursive: [b'a', b'r', b'R'].into_iter().any(|l| parsed.has(l)),
        preserve: parsed.has(b'p') || parsed.has(b'a'),
        force: parsed.has(b'f'),
        no_clobber: parsed.has(b'n'),
        verbose: parsed.has(b'v'),
        reflink,
    };
    let into = parsed.value(b't');
    let Some(places) = destinations(cx, &parsed.operands, into, parsed.has(b'T')) else {
        return 1;
    };
    let mut status = 0;
    for (from, to) in places {
        status |= copy_tree(cx, from, &to, &flags);
    }
    status
}

/// Copy one operand and, if asked, what is below it. Depth costs heap, not stack.
fn copy_tree(cx: &mut Context, from: &[u8], to: &[u8], flags: &Flags) -> Status {
    let mut status = 0;
    let mut pending: Vec<(Vec<u8>, Vec<u8>)> = vec![(from.to_vec(), to.to_vec())];
    // Directories get their times last, when nothing is put into them any more.
    let mut directories = Vec::new();
    while let Some((from, to)) = pending.pop() {
        let stat = match flags.recursive {
            true => cx.process.lstat(&from),
            false => cx.process.stat(&from),
        };
        let stat = match stat {
            Ok(stat) => stat,
            Err(e) => {
                cx.cannot("cannot stat", &from, &e);
                status = 1;
                continue;
            }
        };
        if stat.file_type() == FileType::Directory {
            if !flags.recursive {
                let quoted = text::quote_if_odd(&from);
                cx.error(format_args!("-r not specified; omitting directory {quoted}"));
                status = 1;
                continue;
            }
            if let Err(e) = make_directory(cx, &to, &stat) {
                cx.cannot("cannot create directory", &to, &e);
                status = 1;
                continue;
            }
            let process = cx.process.clone();
            let (names, error) = list(&process, &from);
            if let Some(e) = error {
                cx.cannot("cannot access", &from, &e);
                status = 1;
            }
            let inside = names.iter().filter(|n| n.name != b"." && n.name != b"..");
            pending.extend(
                inside.rev().map(|n| (text::join(&from, &n.name), text::join(&to, &n.name))),
            );
            directories.push((to, stat));
            continue;
        }
        status |= copy_one(cx, &from, &to, &stat, flags);
    }
    for (to, stat) in directories.into_iter().rev().filter(|_| flags.preserve) {
        status |= keep(cx, &to, &stat);
    }
    status
}

fn make_directory(cx: &Context, to: &[u8], stat: &Stat) -> Result<(), Error> {
    match cx.process.mkdir(to, (stat.mode & 0o777) | 0o700) {
        Err(Error::Exists) if super::is_directory(cx, to) => Ok(()),
        other => other,
    }
}

fn copy_one(cx: &mut Context, from: &[u8], to: &[u8], stat: &Stat, flags: &Flags) -> Status {
    if let Ok(there) = cx.process.lstat(to) {
        if (there.dev, there.ino) == (stat.dev, stat.ino) {
            let (from, to) = (text::quote(from), text::quote(to));
            cx.error(format_args!("{from} and {to} are the same file"));
            return 1;
        }
        if flags.no_clobber {
            return 0;
        }
    }
    let result = match stat.file_type() {
        FileType::Regular => copy_contents(cx, from, to, stat, flags),
        FileType::Symlink => cx.process.readlink(from).and_then(|target| {
            if flags.force {
                // What is not there need not go; any other reason shows below.
                let _ = cx.process.unlink(to);
            }
            cx.process.symlink(&target, to)
        }),
        _ => {
            let (major, minor) = holdfast_fs::vfs::device_parts(stat.rdev);
            cx.process.mknod(to, stat.mode, (major, minor))
        }
    };
    if let Err(e) = result {
        let (from, to, reason) = (text::quote(from), text::quote(to), explain(&e));
        cx.error(format_args!("cannot copy {from} to {to}: {reason}"));
        return 1;
    }
    if flags.verbose {
        let (from, to) = (text::quote(from), text::quote(to));
        out!(cx, "{from} -> {to}\n");
    }
    if flags.preserve && stat.file_type() != FileType::Symlink { keep(cx, to, stat) } else { 0 }
}

fn copy_contents(
    cx: &Context,
    from: &[u8],
    to: &[u8],
    stat: &Stat,
    flags: &Flags,
) -> Result<(), Error> {
    let process = &cx.process;
    let source = OpenFile::read(process, from)?;
    let how = OpenFlags::WRONLY | OpenFlags::CREAT | OpenFlags::TRUNC;
    let open = || process.open(to, how, stat.mode & 0o777);
    let fd = match open() {
        Err(_) if flags.force => {
            process.unlink(to)?;
            open()?
        }
        other => other?,
    };
    let target = OpenFile::adopt(process, fd);
    if flags.reflink != Reflink::Never {
        match process.ficlone(target.fd, source.fd) {
            Ok(()) => return Ok(()),
            Err(e) if flags.reflink == Reflink::Always => return Err(e),
            // Sharing is a service: the bytes can be copied.
            Err(_) => {}
        }
    }
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = process.read(source.fd, buffer.as_mut_slice())?;
        if n == 0 {
            return Ok(());
        }
        write_all(process, target.fd, &buffer[..n])?;
    }
}

/// Give the copy the times, owner and mode of the original.
fn keep(cx: &mut Context, to: &[u8], stat: &Stat) -> Status {
    let process = cx.process.clone();
    let result = process
        .chown(to, stat.uid, stat.gid)
        .and_then(|()| process.chmod(to, stat.mode & 0o7777))
        .and_then(|()| {
            let times = super::attributes::both(stat.atime, stat.mtime);
            process.utimensat(AT_FDCWD, to, times, true)
        });
    match result {
        Ok(()) => 0,
        Err(e) => {
            let (quoted, reason) = (text::quote(to), explain(&e));
            cx.error(format_args!("preserving attributes of {quoted}: {reason}"));
            1
        }
    }
}
