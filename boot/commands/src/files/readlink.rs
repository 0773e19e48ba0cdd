//! `readlink`.

use alloc::vec::Vec;

use holdfast_fs::xfs::FileType;
use holdfast_fs::{Error, Result};

use super::absolute;
use crate::context::{Context, Status};
use crate::{options, text};

/// Most links followed in one name.
const LINKS_MAX: u32 = 40;

/// `readlink [-efmnz] FILE...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("canonicalize", b'f'),
        ("canonicalize-existing", b'e'),
        ("canonicalize-missing", b'm'),
        ("no-newline", b'n'),
        ("zero", b'z'),
    ];
    let parsed = match options::parse(argv, "efmnqsvz", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    if parsed.operands.is_empty() {
        return cx.usage(format_args!("missing operand"), 1);
    }
    let canonical = parsed.options.iter().rev().map(|o| o.0).find(|o| b"efm".contains(o));
    let end: &[u8] = match (parsed.has(b'z'), parsed.has(b'n') && parsed.operands.len() == 1) {
        (true, _) => b"\0",
        (false, true) => b"",
        (false, false) => b"\n",
    };
    let mut status = 0;
    for path in &parsed.operands {
        let result = match canonical {
            Some(mode) => canonicalize(cx, path, mode),
            None => cx.process.readlink(path),
        };
        match result {
            Ok(target) => {
                cx.bytes(&target);
                cx.bytes(end);
            }
            Err(e) => {
                if parsed.has(b'v') {
                    cx.failed(path, &e);
                }
                status = 1;
            }
        }
    }
    status
}

/// The path without links, `.` and `..`. `e`: everything must exist; `f`: all but the
/// last component; `m`: nothing must.
fn canonicalize(cx: &Context, path: &[u8], mode: u8) -> Result<Vec<u8>> {
    if path.is_empty() {
        return Err(Error::NotFound);
    }
    let wants_dir = path.last() == Some(&b'/');
    let mut done: Vec<u8> = Vec::new();
    // Components still to walk, the next one last.
    let whole = absolute(&cx.process, path);
    let mut pending: Vec<Vec<u8>> = components(&whole);
    let mut links = 0;
    while let Some(part) = pending.pop() {
        if part == b".." {
            let up = done.iter().rposition(|&b| b == b'/').unwrap_or(0);
            done.truncate(up);
            continue;
        }
        let here = text::join(if done.is_empty() { b"/" } else { &done }, &part);
        match cx.process.lstat(&here) {
            Ok(stat) if stat.file_type() == FileType::Symlink => {
                links += 1;
                if links > LINKS_MAX {
                    if mode != b'm' {
                        return Err(Error::Loop);
                    }
                    // Where nothing must exist, a link that leads nowhere is a name.
                    done = here;
                    continue;
                }
                let target = cx.process.readlink(&here)?;
                if target.first() == Some(&b'/') {
                    done.clear();
                }
                pending.extend(components(&target));
            }
            Ok(stat) => {
                let last = pending.is_empty();
                if stat.file_type() != FileType::Directory && (!last || wants_dir) && mode != b'm' {
                    return Err(Error::NotDirectory);
                }
                done = here;
            }
            Err(Error::NotFound) if mode == b'm' || (mode == b'f' && pending.is_empty()) => {
                done = here;
            }
            Err(Error::NotDirectory) if mode == b'm' => done = here,
            Err(e) => return Err(e),
        }
    }
    if done.is_empty() {
        done.push(b'/');
    }
    Ok(done)
}

/// The components of a path, the first one last.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|&b| b == b'/').filter(|p| !p.is_empty() && *p != b".");
    let mut parts: Vec<Vec<u8>> = parts.map(<[u8]>::to_vec).collect();
    parts.reverse();
    parts
}
