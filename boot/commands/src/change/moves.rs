//! `mv`.

use alloc::collections::BTreeSet;

use holdfast_fs::Error;
use holdfast_fs::syscall::AT_FDCWD;
use holdfast_fs::vfs::Stat;
use holdfast_fs::xfs::FileType;
use holdfast_fs::xfs::namespace::RenameFlags;

use super::tree::{self, How, Instead, Reflink};
use super::{destinations, remove};
use crate::context::{Context, Status, explain};
use crate::{options, out, text};

struct Flags {
    no_clobber: bool,
    update: bool,
    exchange: bool,
    verbose: bool,
}

/// `mv [-fnTuv] [--exchange] [-t DIR] SOURCE... DEST|DIR`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("force", b'f'),
        ("no-clobber", b'n'),
        ("no-target-directory", b'T'),
        ("target-directory", b't'),
        ("update", b'u'),
        ("verbose", b'v'),
        ("exchange", b'x'),
    ];
    let parsed = match options::parse(argv, "fnTt:uv", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let into = parsed.value(b't');
    let Some(places) = destinations(cx, &parsed.operands, into, parsed.has(b'T')) else {
        return 1;
    };
    let flags = Flags {
        no_clobber: parsed.has(b'n'),
        update: parsed.has(b'u'),
        exchange: parsed.has(b'x'),
        verbose: parsed.has(b'v'),
    };
    let mut status = 0;
    let mut made = BTreeSet::new();
    for (from, to) in places {
        if !made.insert(to.clone()) && !super::is_directory(cx, from) {
            let (from, to) = (text::quote(from), text::quote(&to));
            cx.error(format_args!("will not overwrite just-created {to} with {from}"));
            status = 1;
            continue;
        }
        status |= move_one(cx, from, &to, &flags);
    }
    status
}

fn move_one(cx: &mut Context, from: &[u8], to: &[u8], flags: &Flags) -> Status {
    let stat = match cx.process.lstat(from) {
        Ok(stat) => stat,
        Err(e) => {
            cx.cannot("cannot stat", from, &e);
            return 1;
        }
    };
    let there = cx.process.lstat(to).ok().filter(|_| !flags.exchange);
    if let Some(there) = &there {
        let newer = |t: &Stat| (t.mtime.seconds, t.mtime.nanoseconds);
        if flags.no_clobber || (flags.update && newer(there) >= newer(&stat)) {
            return 0;
        }
        if (there.dev, there.ino) == (stat.dev, stat.ino) {
            let (from, to) = (text::quote(from), text::quote(to));
            cx.error(format_args!("{from} and {to} are the same file"));
            return 1;
        }
        let directories = [&stat, there].map(|s| s.file_type() == FileType::Directory);
        if directories == [true, false] {
            let (from, to) = (text::quote(from), text::quote(to));
            cx.error(format_args!("cannot overwrite non-directory {to} with directory {from}"));
            return 1;
        }
        if directories == [false, true] {
            let to = text::quote(to);
            cx.error(format_args!("cannot overwrite directory {to} with non-directory"));
            return 1;
        }
    }
    let how = match (flags.exchange, flags.no_clobber) {
        (true, _) => RenameFlags::EXCHANGE,
        (_, true) => RenameFlags::NOREPLACE,
        _ => RenameFlags::empty(),
    };
    let e = match cx.process.renameat2(AT_FDCWD, from, AT_FDCWD, to, how) {
        Ok(()) => {
            if flags.verbose {
                let (from, to) = (text::quote(from), text::quote(to));
                out!(cx, "renamed {from} -> {to}\n");
            }
            return 0;
        }
        Err(Error::Exists) if flags.no_clobber => return 0,
        Err(Error::CrossDevice) if !flags.exchange => {
            return across(cx, from, to, there.as_ref(), flags);
        }
        Err(e) => e,
    };
    let (reason, from, to) = (explain(&e), text::quote(from), text::quote(to));
    match e {
        Error::Invalid(_) if stat.file_type() == FileType::Directory && !flags.exchange => {
            cx.error(format_args!("cannot move {from} to a subdirectory of itself, {to}"));
        }
        _ => cx.error(format_args!("cannot move {from} to {to}: {reason}")),
    }
    1
}

/// Where the name cannot go, a copy of everything does: files of another project, which
/// is accounted for by directory, are as on another file system.
fn across(cx: &mut Context, from: &[u8], to: &[u8], there: Option<&Stat>, flags: &Flags) -> Status {
    let gone = match there.map(Stat::file_type) {
        None => Ok(()),
        Some(FileType::Directory) => cx.process.rmdir(to),
        Some(_) => cx.process.unlink(to),
    };
    if let Err(e) = gone {
        let (reason, from, to) = (explain(&e), text::quote(from), text::quote(to));
        cx.error(format_args!(
            "inter-device move failed: {from} to {to}; unable to remove target: {reason}"
        ));
        return 1;
    }
    let how = How {
        recursive: true,
        follow: false,
        keep: true,
        keep_attributes: true,
        keep_links: true,
        force: false,
        no_clobber: false,
        update: false,
        told: flags.verbose.then_some("copied "),
        instead: Instead::Nothing,
        reflink: Reflink::Auto,
    };
    // What could not be copied whole stays where it was.
    match tree::copy(cx, from, to, &how) {
        0 => remove::tree(cx, from, flags.verbose),
        status => status,
    }
}
