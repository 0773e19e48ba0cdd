//! `touch`, `chmod`, `chown`.

use holdfast_fs::Error;
use holdfast_fs::syscall::AT_FDCWD;
use holdfast_fs::vfs::{OpenFlags, TimeChange};
use holdfast_fs::xfs::{FileType, Timestamp};

use crate::context::{Context, Status};
use crate::files::{OpenFile, list};
use crate::{options, text};

/// Set both times.
pub fn both(atime: Timestamp, mtime: Timestamp) -> [TimeChange; 2] {
    [TimeChange::Set(atime), TimeChange::Set(mtime)]
}

/// The mode that a word (octal, or clauses like `u+x,go=rX`) makes of `old`.
pub fn mode_of(word: &[u8], old: u32, directory: bool) -> Option<u32> {
    if word.first().is_some_and(u8::is_ascii_digit) {
        let octal = core::str::from_utf8(word).ok()?;
        return u32::from_str_radix(octal, 8).ok().filter(|mode| *mode <= 0o7777);
    }
    word.split(|&b| b == b',').try_fold(old, |mode, clause| apply(clause, mode, directory))
}

/// One clause: who, then operators with their permissions.
fn apply(clause: &[u8], old: u32, directory: bool) -> Option<u32> {
    let operator = |b: &u8| b"+-=".contains(b);
    let split = clause.iter().position(operator)?;
    let mut who = 0;
    for b in &clause[..split] {
        who |= match b {
            b'u' => 0o4700,
            b'g' => 0o2070,
            b'o' => 0o1007,
            b'a' => 0o7777,
            _ => return None,
        };
    }
    if who == 0 {
        who = 0o7777;
    }
    let mut mode = old;
    let mut rest = &clause[split..];
    while let Some((op, tail)) = rest.split_first() {
        let end = tail.iter().position(operator).unwrap_or(tail.len());
        let mut bits = 0;
        for b in &tail[..end] {
            bits |= match b {
                b'r' => 0o444,
                b'w' => 0o222,
                b'x' => 0o111,
                b'X' if directory || mode & 0o111 != 0 => 0o111,
                b'X' => 0,
                b's' => 0o6000,
                b't' => 0o1000,
                b'u' => (mode >> 6 & 7) * 0o111,
                b'g' => (mode >> 3 & 7) * 0o111,
                b'o' => (mode & 7) * 0o111,
                _ => return None,
            };
        }
        let bits = bits & who;
        mode = match op {
            b'+' => mode | bits,
            b'-' => mode & !bits,
            _ => (mode & !who) | bits,
        };
        rest = &tail[end..];
    }
    Some(mode)
}

/// `chmod [-R] MODE FILE...`
pub fn chmod(cx: &mut Context, argv: &[&[u8]]) -> Status {
    // A mode may start with '-', which is no option then.
    let is_mode = |w: &[u8]| w.len() > 1 && w[0] == b'-' && b"rwxXst".contains(&w[1]);
    let (recursive, words) = match argv.get(1) {
        Some(&b"-R" | &b"--recursive") => (true, &argv[2..]),
        Some(word) if word.first() == Some(&b'-') && !is_mode(word) && *word != b"--" => {
            let quoted = text::quote(word);
            return cx.usage(format_args!("unrecognized option {quoted}"), 1);
        }
        Some(&b"--") => (false, &argv[2..]),
        _ => (false, argv.get(1..).unwrap_or_default()),
    };
    let Some((word, files)) = words.split_first().filter(|(_, files)| !files.is_empty()) else {
        return cx.usage(format_args!("missing operand"), 1);
    };
    if mode_of(word, 0, false).is_none() {
        let quoted = text::quote(word);
        return cx.usage(format_args!("invalid mode: {quoted}"), 1);
    }
    each(
        cx,
        files,
        recursive,
        true,
        &mut |cx, path| {
            let stat = cx.process.stat(path)?;
            let directory = stat.file_type() == FileType::Directory;
            match mode_of(word, stat.mode & 0o7777, directory) {
                Some(mode) => cx.process.chmod(path, mode),
                None => Ok(()),
            }
        },
        "changing permissions of",
    )
}

/// `chown [-Rh] UID[:GID] FILE...`
pub fn chown(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "Rh", &[("recursive", b'R'), ("no-dereference", b'h')])
    {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let Some((word, files)) = parsed.operands.split_first().filter(|(_, f)| !f.is_empty()) else {
        return cx.usage(format_args!("missing operand"), 1);
    };
    let mut parts = word.splitn(2, |&b| b == b':');
    let mut id = || match parts.next() {
        None | Some(b"") => Some(u32::MAX),
        Some(digits) => text::number(digits).and_then(|n| u32::try_from(n).ok()),
    };
    let (Some(uid), Some(gid)) = (id(), id()) else {
        let quoted = text::quote(word);
        cx.error(format_args!("invalid user: {quoted}"));
        return 1;
    };
    let follow = !parsed.has(b'h');
    each(
        cx,
        files,
        parsed.has(b'R'),
        follow,
        &mut |cx, path| match follow {
            true => cx.process.chown(path, uid, gid),
            false => cx.process.lchown(path, uid, gid),
        },
        "changing ownership of",
    )
}

type Change<'a> = dyn FnMut(&mut Context, &[u8]) -> Result<(), Error> + 'a;

/// Change each file, and what is below it.
pub(super) fn each(
    cx: &mut Context,
    files: &[&[u8]],
    recursive: bool,
    follow: bool,
    change: &mut Change<'_>,
    what: &str,
) -> Status {
    let mut status = 0;
    let mut pending: alloc::vec::Vec<_> = files.iter().rev().map(|f| (f.to_vec(), true)).collect();
    while let Some((path, named)) = pending.pop() {
        let stat = cx.process.lstat(&path);
        let is = |t| stat.as_ref().is_ok_and(|s| s.file_type() == t);
        // Below a directory links are left alone when what they lead to would change.
        if !named && follow && is(FileType::Symlink) {
            continue;
        }
        if let Err(e) = change(cx, &path) {
            cx.cannot(what, &path, &e);
            status = 1;
        }
        if recursive && is(FileType::Directory) {
            let process = cx.process.clone();
            let (names, error) = list(&process, &path);
            if let Some(e) = error {
                cx.cannot("cannot read directory", &path, &e);
                status = 1;
            }
            let inside = names.iter().filter(|n| n.name != b"." && n.name != b"..");
            pending.extend(inside.rev().map(|n| (text::join(&path, &n.name), false)));
        }
    }
    status
}

/// `touch [-acm] [-d @SECONDS] [-r FILE] FILE...`
pub fn touch(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("no-create", b'c'), ("date", b'd'), ("reference", b'r'), ("no-dereference", b'h')];
    let parsed = match options::parse(argv, "acmd:r:h", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    if parsed.operands.is_empty() {
        return cx.usage(format_args!("missing file operand"), 1);
    }
    let (only_a, only_m) = (parsed.has(b'a'), parsed.has(b'm'));
    let times = match (parsed.value(b'd'), parsed.value(b'r')) {
        (None, None) => [TimeChange::Now, TimeChange::Now],
        (Some(word), _) => match seconds(word) {
            Some(time) => both(time, time),
            None => {
                let quoted = text::quote(word);
                cx.error(format_args!("invalid date format {quoted} (@SECONDS is understood)"));
                return 1;
            }
        },
        (None, Some(path)) => match cx.process.stat(path) {
            Ok(stat) => both(stat.atime, stat.mtime),
            Err(e) => {
                cx.cannot("failed to get attributes of", path, &e);
                return 1;
            }
        },
    };
    let atime = if only_m && !only_a { TimeChange::Omit } else { times[0] };
    let mtime = if only_a && !only_m { TimeChange::Omit } else { times[1] };
    let follow = !parsed.has(b'h');
    let mut status = 0;
    for path in parsed.operands.iter().copied() {
        let result = match cx.process.utimensat(AT_FDCWD, path, [atime, mtime], follow) {
            Err(Error::NotFound) if parsed.has(b'c') => Ok(()),
            Err(Error::NotFound) => {
                let flags = OpenFlags::WRONLY | OpenFlags::CREAT;
                let made = OpenFile::new(&cx.process, path, flags).map(drop);
                made.and_then(|()| cx.process.utimensat(AT_FDCWD, path, [atime, mtime], follow))
            }
            other => other,
        };
        if let Err(e) = result {
            cx.cannot("cannot touch", path, &e);
            status = 1;
        }
    }
    status
}

/// `@SECONDS[.FRACTION]` since 1970.
fn seconds(word: &[u8]) -> Option<Timestamp> {
    let word = word.strip_prefix(b"@")?;
    let (negative, word) = match word.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, word),
    };
    let mut parts = word.splitn(2, |&b| b == b'.');
    let whole = i64::try_from(text::number(parts.next()?)?).ok()?;
    let mut nanoseconds = 0;
    let mut weight = 100_000_000;
    for b in parts.next().unwrap_or_default() {
        nanoseconds += (*b as char).to_digit(10)? * weight;
        weight /= 10;
    }
    // The fraction counts from the second below.
    Some(match (negative, nanoseconds) {
        (false, _) => Timestamp { seconds: whole, nanoseconds },
        (true, 0) => Timestamp { seconds: -whole, nanoseconds },
        (true, _) => Timestamp { seconds: -whole - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        for (word, old, directory, new) in [
            ("644", 0o755, false, 0o644),
            ("u+x", 0o644, false, 0o744),
            ("go-rwx,u=rw", 0o777, false, 0o600),
            ("a+X", 0o644, false, 0o644),
            ("a+X", 0o644, true, 0o755),
            ("g=u", 0o700, false, 0o770),
            ("+t", 0o777, true, 0o1777),
            ("u+s", 0o755, false, 0o4755),
        ] {
            assert_eq!(mode_of(word.as_bytes(), old, directory), Some(new), "{word}");
        }
        for bad in ["", "8", "u", "u+q", "77777", "x+r"] {
            assert_eq!(mode_of(bad.as_bytes(), 0, false), None, "{bad}");
        }
    }

    #[test]
    fn dates() {
        let at = |word: &str| seconds(word.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(at("@5"), Some((5, 0)));
        assert_eq!(at("@5.25"), Some((5, 250_000_000)));
        assert_eq!(at("@-1.5"), Some((-2, 500_000_000)));
        assert_eq!(at("5"), None);
        assert_eq!(at("@x"), None);
    }
}
