//! `rm`, `unlink`.

use alloc::vec;
use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::xfs::FileType;

use super::base_name;
use crate::context::{Context, Status};
use crate::files::list;
use crate::{options, out, text};

struct Flags {
    recursive: bool,
    force: bool,
    dirs: bool,
    verbose: bool,
}

/// `rm [-dfrRv] FILE...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("recursive", b'r'), ("force", b'f'), ("dir", b'd'), ("verbose", b'v')];
    let parsed = match options::parse(argv, "dfrRv", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let flags = Flags {
        recursive: parsed.has(b'r') || parsed.has(b'R'),
        force: parsed.has(b'f'),
        dirs: parsed.has(b'd'),
        verbose: parsed.has(b'v'),
    };
    if parsed.operands.is_empty() && !flags.force {
        return cx.usage(format_args!("missing operand"), 1);
    }
    let mut status = 0;
    for path in parsed.operands {
        status |= remove(cx, path, &flags);
    }
    status
}

fn remove(cx: &mut Context, path: &[u8], flags: &Flags) -> Status {
    let name = base_name(path);
    let directory = || cx.process.lstat(path).is_ok_and(|s| s.file_type() == FileType::Directory);
    if flags.recursive && (name == b"." || name == b"..") && directory() {
        let quoted = text::quote(path);
        cx.error(format_args!("refusing to remove '.' or '..' directory: skipping {quoted}"));
        return 1;
    }
    if flags.recursive && is_root(cx, path) {
        cx.error(format_args!("it is dangerous to operate recursively on '/'"));
        return 1;
    }
    match cx.process.lstat(path).map(|s| s.file_type()) {
        Ok(FileType::Directory) if flags.recursive => remove_tree(cx, path, flags),
        Ok(FileType::Directory) if flags.dirs => {
            let result = cx.process.rmdir(path);
            told(cx, path, result, "removed directory ", flags)
        }
        Ok(FileType::Directory) => {
            cx.cannot("cannot remove", path, &Error::IsDirectory);
            1
        }
        Ok(_) => {
            let result = cx.process.unlink(path);
            told(cx, path, result, "removed ", flags)
        }
        Err(Error::NotFound | Error::NotDirectory) if flags.force => 0,
        Err(e) => {
            cx.cannot("cannot remove", path, &e);
            1
        }
    }
}

/// Does a path lead to the root, whatever it is called?
fn is_root(cx: &Context, path: &[u8]) -> bool {
    let identity = |path: &[u8]| cx.process.lstat(path).map(|s| (s.dev, s.ino)).ok();
    identity(path).is_some_and(|own| identity(b"/") == Some(own))
}

/// Remove a tree that was moved.
pub fn tree(cx: &mut Context, root: &[u8], verbose: bool) -> Status {
    let flags = Flags { recursive: true, force: false, dirs: false, verbose };
    remove_tree(cx, root, &flags)
}

fn told(
    cx: &mut Context,
    path: &[u8],
    result: Result<(), Error>,
    what: &str,
    flags: &Flags,
) -> Status {
    match result {
        Ok(()) if flags.verbose => {
            let quoted = text::quote(path);
            out!(cx, "{what}{quoted}\n");
            0
        }
        Ok(()) => 0,
        Err(e) => {
            cx.cannot("cannot remove", path, &e);
            1
        }
    }
}

/// Remove a directory and what is below it. Depth costs heap, not stack.
fn remove_tree(cx: &mut Context, root: &[u8], flags: &Flags) -> Status {
    let mut status = 0;
    // A directory is put back, as emptied, below what it holds.
    let mut pending: Vec<(Vec<u8>, bool)> = vec![(root.to_vec(), false)];
    while let Some((path, emptied)) = pending.pop() {
        if emptied {
            let result = cx.process.rmdir(&path);
            status |= told(cx, &path, result, "removed directory ", flags);
            continue;
        }
        let is_directory =
            cx.process.lstat(&path).is_ok_and(|s| s.file_type() == FileType::Directory);
        if !is_directory {
            let result = cx.process.unlink(&path);
            status |= told(cx, &path, result, "removed ", flags);
            continue;
        }
        let process = cx.process.clone();
        let (names, error) = list(&process, &path);
        if let Some(e) = error {
            cx.cannot("cannot remove", &path, &e);
            status = 1;
        }
        let inside = names.iter().filter(|n| n.name != b"." && n.name != b"..");
        let below: Vec<_> = inside.map(|n| (text::join(&path, &n.name), false)).collect();
        pending.push((path, true));
        pending.extend(below.into_iter().rev());
    }
    status
}

/// `unlink FILE`
pub fn unlink(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let argv = match options::parse(argv, "", &[]) {
        Ok(parsed) => parsed.operands,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let path = match argv[..] {
        [path] => path,
        [] => return cx.usage(format_args!("missing operand"), 1),
        [_, extra, ..] => {
            let quoted = text::quote(extra);
            return cx.usage(format_args!("extra operand {quoted}"), 1);
        }
    };
    match cx.process.unlink(path) {
        Ok(()) => 0,
        Err(e) => {
            cx.cannot("cannot unlink", path, &e);
            1
        }
    }
}
