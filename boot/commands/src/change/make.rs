//! `mkdir`, `rmdir`.

use holdfast_fs::Error;

use super::is_directory;
use crate::context::{Context, Status, explain};
use crate::{options, out, text};

/// `mkdir [-pv] [-m MODE] DIRECTORY...`
pub fn mkdir(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("parents", b'p'), ("mode", b'm'), ("verbose", b'v')];
    let parsed = match options::parse(argv, "pm:v", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let mode = match parsed.value(b'm') {
        None => None,
        Some(word) => match super::attributes::mode_of(word, 0o777, true) {
            Some(mode) => Some(mode),
            None => {
                let quoted = text::quote(word);
                cx.error(format_args!("invalid mode {quoted}"));
                return 1;
            }
        },
    };
    if parsed.operands.is_empty() {
        return cx.usage(format_args!("missing operand"), 1);
    }
    let (parents, verbose) = (parsed.has(b'p'), parsed.has(b'v'));
    let mut status = 0;
    for path in parsed.operands {
        let made = if parents { make_parents(cx, path, verbose) } else { Ok(()) }
            .and_then(|()| make(cx, path, parents, verbose));
        let result = made.and_then(|()| match mode {
            Some(mode) => cx.process.chmod(path, mode),
            None => Ok(()),
        });
        if let Err(e) = result {
            cx.cannot("cannot create directory", path, &e);
            status = 1;
        }
    }
    status
}

/// Make one directory; with `-p` one that is there already will do.
fn make(cx: &mut Context, path: &[u8], parents: bool, verbose: bool) -> Result<(), Error> {
    match cx.process.mkdir(path, 0o777) {
        Err(Error::Exists) if parents && is_directory(cx, path) => return Ok(()),
        other => other?,
    }
    if verbose {
        let quoted = text::quote(path);
        out!(cx, "mkdir: created directory {quoted}\n");
    }
    Ok(())
}

fn make_parents(cx: &mut Context, path: &[u8], verbose: bool) -> Result<(), Error> {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
    for at in 1..end {
        if path[at] == b'/' && path[at - 1] != b'/' {
            make(cx, &path[..at], true, verbose)?;
        }
    }
    Ok(())
}

/// `rmdir [-pv] DIRECTORY...`
pub fn rmdir(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("parents", b'p'), ("verbose", b'v'), ("ignore-fail-on-non-empty", b'i')];
    let parsed = match options::parse(argv, "pv", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    if parsed.operands.is_empty() {
        return cx.usage(format_args!("missing operand"), 1);
    }
    let mut status = 0;
    for path in parsed.operands.iter().copied() {
        let mut rest = path;
        loop {
            if parsed.has(b'v') {
                let quoted = text::quote(rest);
                out!(cx, "rmdir: removing directory, {quoted}\n");
            }
            match cx.process.rmdir(rest) {
                Ok(()) => {}
                Err(Error::NotEmpty) if parsed.has(b'i') => break,
                Err(e) => {
                    let (quoted, reason) = (text::quote(rest), explain(&e));
                    let what = if rest.len() < path.len() { "directory " } else { "" };
                    cx.error(format_args!("failed to remove {what}{quoted}: {reason}"));
                    status = 1;
                    break;
                }
            }
            let trimmed = rest.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
            let parent = rest[..trimmed].iter().rposition(|&b| b == b'/').unwrap_or(0);
            if !parsed.has(b'p') || parent == 0 {
                break;
            }
            rest = &rest[..parent];
        }
    }
    status
}
