//! `mv`.

use holdfast_fs::Error;
use holdfast_fs::syscall::AT_FDCWD;
use holdfast_fs::xfs::namespace::RenameFlags;

use super::destinations;
use crate::context::{Context, Status, explain};
use crate::{options, out, text};

/// `mv [-fnTv] [--exchange] [-t DIR] SOURCE... DEST|DIR`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("force", b'f'),
        ("no-clobber", b'n'),
        ("no-target-directory", b'T'),
        ("target-directory", b't'),
        ("verbose", b'v'),
        ("exchange", b'x'),
    ];
    let parsed = match options::parse(argv, "fnTt:v", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let into = parsed.value(b't');
    let Some(places) = destinations(cx, &parsed.operands, into, parsed.has(b'T')) else {
        return 1;
    };
    let flags = if parsed.has(b'x') {
        RenameFlags::EXCHANGE
    } else if parsed.has(b'n') {
        RenameFlags::NOREPLACE
    } else {
        RenameFlags::empty()
    };
    let mut status = 0;
    for (from, to) in places {
        match cx.process.renameat2(AT_FDCWD, from, AT_FDCWD, &to, flags) {
            Ok(()) if parsed.has(b'v') => {
                let (from, to) = (text::quote(from), text::quote(&to));
                out!(cx, "renamed {from} -> {to}\n");
            }
            Ok(()) => {}
            Err(Error::Exists) if parsed.has(b'n') => {}
            Err(e) => {
                let reason = explain(&e);
                let (from, to) = (text::quote(from), text::quote(&to));
                cx.error(format_args!("cannot move {from} to {to}: {reason}"));
                status = 1;
            }
        }
    }
    status
}
