//! `ln`.

use holdfast_fs::Error;
use holdfast_fs::xfs::FileType;

use super::{destinations, same_name};
use crate::context::{Context, Status, explain};
use crate::{options, out, text};

struct Flags {
    symbolic: bool,
    force: bool,
    verbose: bool,
}

/// `ln [-fsnTv] [-t DIR] TARGET... LINK|DIR`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("symbolic", b's'),
        ("force", b'f'),
        ("no-dereference", b'n'),
        ("no-target-directory", b'T'),
        ("target-directory", b't'),
        ("verbose", b'v'),
    ];
    let mut parsed = match options::parse(argv, "sfnTt:v", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    // One operand: a link of its name in the working directory.
    if let ([_], None) = (&parsed.operands[..], parsed.value(b't')) {
        parsed.operands.push(b".");
    }
    // With -n a link to a directory is a name, not a place.
    let link_last = parsed.has(b'n')
        && parsed.operands.last().is_some_and(|last| cx.process.readlink(last).is_ok());
    let never = parsed.has(b'T') || link_last;
    let Some(places) = destinations(cx, &parsed.operands, parsed.value(b't'), never) else {
        return 1;
    };
    let flags =
        Flags { symbolic: parsed.has(b's'), force: parsed.has(b'f'), verbose: parsed.has(b'v') };
    let mut status = 0;
    for (target, link) in places {
        status |= make(cx, target, &link, &flags);
    }
    status
}

fn make(cx: &mut Context, target: &[u8], link: &[u8], flags: &Flags) -> Status {
    let source = cx.process.lstat(target);
    if !flags.symbolic {
        match &source {
            Err(e) => {
                cx.cannot("failed to access", target, e);
                return 1;
            }
            Ok(source) if source.file_type() == FileType::Directory => {
                let shown = text::quote_if_odd(target);
                cx.error(format_args!("{shown}: hard link not allowed for directory"));
                return 1;
            }
            Ok(_) => {}
        }
    }
    let process = cx.process.clone();
    let new = || match flags.symbolic {
        true => process.symlink(target, link),
        false => process.link(target, link),
    };
    let result = match (new(), process.lstat(link)) {
        (Err(Error::Exists), Ok(there)) if flags.force => {
            let (shown, quoted) = (text::quote(target), text::quote(link));
            if there.file_type() == FileType::Directory {
                cx.error(format_args!("{quoted}: cannot overwrite directory"));
                return 1;
            }
            // Removed, nothing would be left to link to.
            let same = source.is_ok_and(|s| (s.dev, s.ino) == (there.dev, there.ino));
            if same && (there.nlink == 1 || same_name(cx, target, link)) {
                cx.error(format_args!("{shown} and {quoted} are the same file"));
                return 1;
            }
            process.unlink(link).and_then(|()| new())
        }
        (made, _) => made,
    };
    if let Err(e) = result {
        let (quoted, reason) = (text::quote(link), explain(&e));
        let kind = if flags.symbolic { "symbolic" } else { "hard" };
        cx.error(format_args!("failed to create {kind} link {quoted}: {reason}"));
        return 1;
    }
    if flags.verbose {
        let (from, to) = (text::quote(link), text::quote(target));
        let arrow = if flags.symbolic { "->" } else { "=>" };
        out!(cx, "{from} {arrow} {to}\n");
    }
    0
}
