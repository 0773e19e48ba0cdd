//! `ln`.

use super::destinations;
use crate::context::{Context, Status, explain};
use crate::{options, out, text};

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
    if let [_] = parsed.operands[..] {
        parsed.operands.push(b".");
    }
    // With -n a link to a directory is a name, not a place.
    let link_last = parsed.has(b'n')
        && parsed.operands.last().is_some_and(|last| cx.process.readlink(last).is_ok());
    let never = parsed.has(b'T') || link_last;
    let Some(places) = destinations(cx, &parsed.operands, parsed.value(b't'), never) else {
        return 1;
    };
    let symbolic = parsed.has(b's');
    let mut status = 0;
    for (target, link) in places {
        if parsed.has(b'f') {
            // What is not there need not go; any other reason shows below.
            let _ = cx.process.unlink(&link);
        }
        let result = match symbolic {
            true => cx.process.symlink(target, &link),
            false => cx.process.link(target, &link),
        };
        if let Err(e) = result {
            let (quoted, reason) = (text::quote(&link), explain(&e));
            let kind = if symbolic { "symbolic" } else { "hard" };
            cx.error(format_args!("failed to create {kind} link {quoted}: {reason}"));
            status = 1;
        } else if parsed.has(b'v') {
            let (from, to) = (text::quote(&link), text::quote(target));
            let arrow = if symbolic { "->" } else { "=>" };
            out!(cx, "{from} {arrow} {to}\n");
        }
    }
    status
}
