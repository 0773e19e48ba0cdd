//! Commands that change files and names: options, messages and statuses of coreutils.
//!
//! One family a file. Owns no state; all access goes through the process's calls.

pub mod attributes;
pub mod chattr;
pub mod cmp;
pub mod copy;
pub mod dd;
pub mod link;
pub mod make;
pub mod moves;
pub mod remove;
pub mod setfattr;
pub mod shutdown;
pub mod tree;

use alloc::vec::Vec;

use holdfast_fs::xfs::FileType;

use crate::context::{Context, explain};
use crate::text;

/// The last component of a path, without trailing slashes.
pub fn base_name(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
    let whole = &path[..end];
    let start = whole.iter().rposition(|&b| b == b'/').map_or(0, |at| at + 1);
    if whole.is_empty() && !path.is_empty() { b"/" } else { &whole[start..] }
}

/// Is there a directory at this path?
pub fn is_directory(cx: &Context, path: &[u8]) -> bool {
    cx.process.stat(path).is_ok_and(|s| s.file_type() == FileType::Directory)
}

/// Are two paths the same name in the same directory?
pub fn same_name(cx: &Context, a: &[u8], b: &[u8]) -> bool {
    let parent = |path: &[u8]| {
        let end = path.iter().rposition(|&b| b != b'/').map_or(0, |at| at + 1);
        let mut dir = path[..end - base_name(path).len().min(end)].to_vec();
        dir.push(b'.');
        cx.process.stat(&dir).map(|s| (s.dev, s.ino)).ok()
    };
    base_name(a) == base_name(b) && parent(a).is_some() && parent(a) == parent(b)
}

/// Where each of the sources goes: into the directory that the last operand names, or,
/// if there is one source and no such directory, to that name itself.
///
/// Nothing, and a message, if several sources have no directory to go to.
pub fn destinations<'a>(
    cx: &mut Context,
    operands: &[&'a [u8]],
    into: Option<&'a [u8]>,
    never_into: bool,
) -> Option<Vec<(&'a [u8], Vec<u8>)>> {
    let (sources, target) = match (into, operands.split_last()) {
        (Some(dir), _) => (operands, dir),
        (None, Some((last, rest))) => (rest, *last),
        (None, None) => (operands, &b""[..]),
    };
    if sources.is_empty() {
        match operands.first() {
            Some(only) => {
                let quoted = text::quote(only);
                cx.usage(format_args!("missing destination file operand after {quoted}"), 1);
            }
            None => {
                cx.usage(format_args!("missing file operand"), 1);
            }
        }
        return None;
    }
    let directory = !never_into && (into.is_some() || is_directory(cx, target));
    if !directory && (sources.len() > 1 || into.is_some()) {
        let quoted = text::quote(target);
        if never_into {
            cx.usage(format_args!("extra operand {quoted}"), 1);
        } else {
            let e = cx.process.stat(target).err().unwrap_or(holdfast_fs::Error::NotDirectory);
            let reason = explain(&e);
            cx.error(format_args!("target {quoted}: {reason}"));
        }
        return None;
    }
    let place = |source: &&'a [u8]| match directory {
        true => (*source, text::join(target, base_name(source))),
        false => (*source, target.to_vec()),
    };
    Some(sources.iter().map(place).collect())
}

#[cfg(test)]
mod tests {
    use super::base_name;

    #[test]
    fn last_components() {
        for (path, name) in
            [("a", "a"), ("/a/b", "b"), ("/a/b//", "b"), ("/", "/"), ("//", "/"), ("", "")]
        {
            assert_eq!(base_name(path.as_bytes()), name.as_bytes());
        }
    }
}
