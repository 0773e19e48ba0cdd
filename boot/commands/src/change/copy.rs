//! `cp`.

use alloc::collections::BTreeSet;

use super::tree::{self, How, Instead, Reflink};
use super::{destinations, is_directory};
use crate::context::{Context, Status};
use crate::{options, text};

/// Options that have no letter.
const REFLINK: u8 = b'=';
const PRESERVE: u8 = b'+';

/// `cp [-adflLnpPrRsTuv] [--reflink[=WHEN]] [--preserve[=LIST]] [-t DIR] SOURCE... DEST|DIR`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("archive", b'a'),
        ("dereference", b'L'),
        ("force", b'f'),
        ("link", b'l'),
        ("no-clobber", b'n'),
        ("no-dereference", b'P'),
        ("no-target-directory", b'T'),
        ("one-file-system", b'x'),
        ("preserve", PRESERVE),
        ("recursive", b'r'),
        ("reflink", REFLINK),
        ("symbolic-link", b's'),
        ("target-directory", b't'),
        ("update", b'u'),
        ("verbose", b'v'),
    ];
    let parsed = match options::parse(argv, "adflLnpPrRsTt:uvx", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let how = match how(&parsed) {
        Ok(how) => how,
        Err((word, option)) => {
            let quoted = text::quote(word);
            return cx.usage(format_args!("invalid argument {quoted} for '--{option}'"), 1);
        }
    };
    let into = parsed.value(b't');
    let Some(places) = destinations(cx, &parsed.operands, into, parsed.has(b'T')) else {
        return 1;
    };
    let mut status = 0;
    let mut made = BTreeSet::new();
    for (from, to) in places {
        if !made.insert(to.clone()) && !is_directory(cx, from) {
            let (from, to) = (text::quote(from), text::quote(&to));
            cx.error(format_args!("will not overwrite just-created {to} with {from}"));
            status = 1;
            continue;
        }
        status |= tree::copy(cx, from, &to, &how);
    }
    status
}

/// What the options say; a word that is none of an option's, and the option.
fn how<'a>(parsed: &options::Parsed<'a>) -> Result<How, (&'a [u8], &'static str)> {
    let archive = parsed.has(b'a');
    let recursive = archive || parsed.has(b'r') || parsed.has(b'R');
    let about_links = parsed.options.iter().rev().find(|o| b"LPda".contains(&o.0));
    let mut how = How {
        recursive,
        follow: about_links.map_or(!recursive, |o| o.0 == b'L'),
        keep: archive || parsed.has(b'p'),
        keep_attributes: archive,
        keep_links: archive || parsed.has(b'd'),
        force: parsed.has(b'f'),
        no_clobber: parsed.has(b'n'),
        update: parsed.has(b'u'),
        told: parsed.has(b'v').then_some(""),
        instead: match (parsed.has(b'l'), parsed.has(b's')) {
            (true, _) => Instead::Link,
            (_, true) => Instead::Symlink,
            _ => Instead::Nothing,
        },
        reflink: match (parsed.has(REFLINK), parsed.value(REFLINK)) {
            (false, _) | (true, Some(b"auto")) => Reflink::Auto,
            (true, None | Some(b"always")) => Reflink::Always,
            (true, Some(b"never")) => Reflink::Never,
            (true, Some(other)) => return Err((other, "reflink")),
        },
    };
    if parsed.has(PRESERVE) {
        let list = parsed.value(PRESERVE).unwrap_or(b"mode,ownership,timestamps");
        for word in list.split(|&b| b == b',') {
            match word {
                b"mode" | b"ownership" | b"timestamps" => how.keep = true,
                b"links" => how.keep_links = true,
                b"xattr" => how.keep_attributes = true,
                b"all" => (how.keep, how.keep_links, how.keep_attributes) = (true, true, true),
                other => return Err((other, "preserve")),
            }
        }
    }
    Ok(how)
}
