//! `touch`, `chmod`, `chown`, `chgrp`.

use alloc::vec::Vec;

use holdfast_fs::Error;
use holdfast_fs::syscall::AT_FDCWD;
use holdfast_fs::vfs::{OpenFlags, TimeChange};
use holdfast_fs::xfs::{FileType, Timestamp};

use crate::context::{Context, Status};
use crate::files::{OpenFile, list};
use crate::{date, options, out, text};

/// Set both times.
pub fn both(atime: Timestamp, mtime: Timestamp) -> [TimeChange; 2] {
    [TimeChange::Set(atime), TimeChange::Set(mtime)]
}

/// The mode that a word (octal, or clauses like `u+x,go=rX`) makes of `old`.
pub fn mode_of(word: &[u8], old: u32, directory: bool) -> Option<u32> {
    if word.first().is_some_and(u8::is_ascii_digit) {
        let octal = core::str::from_utf8(word).ok()?;
        let mode = u32::from_str_radix(octal, 8).ok().filter(|mode| *mode <= 0o7777)?;
        // Of a directory these bits go only when five digits say so.
        let kept = if directory && word.len() < 5 { old & 0o6000 } else { 0 };
        return Some(mode | kept);
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

/// How `chmod`, `chown` and `chattr` go through files.
#[derive(Clone, Copy, Default)]
pub(super) struct Walk {
    /// What is below directories, too.
    pub(super) recursive: bool,
    /// What symbolic links lead to.
    pub(super) follow: bool,
    /// Do not complain.
    pub(super) silent: bool,
    /// What is tried, for complaints.
    pub(super) what: &'static str,
}

/// What the words of `chmod` say.
#[derive(Default)]
struct ModeChange<'a> {
    walk: Walk,
    verbose: bool,
    changes: bool,
    reference: Option<&'a [u8]>,
    operands: Vec<&'a [u8]>,
}

impl<'a> ModeChange<'a> {
    /// A mode may start with `-`, which is no option then.
    fn parse(argv: &[&'a [u8]]) -> Result<Self, &'a [u8]> {
        let mut new = Self::default();
        new.walk.follow = true;
        new.walk.what = "changing permissions of";
        let mut words = argv.iter().skip(1).copied();
        while let Some(word) = words.next() {
            match word {
                b"--" => new.operands.extend(words.by_ref()),
                b"--recursive" => new.walk.recursive = true,
                b"--verbose" => new.verbose = true,
                b"--changes" => new.changes = true,
                b"--silent" | b"--quiet" => new.walk.silent = true,
                _ if word.starts_with(b"--reference=") => new.reference = word.get(12..),
                [b'-', letters @ ..] if letters.iter().all(|b| b"Rvcf".contains(b)) => {
                    new.walk.recursive |= letters.contains(&b'R');
                    new.walk.silent |= letters.contains(&b'f');
                    new.verbose |= letters.contains(&b'v');
                    new.changes |= letters.contains(&b'c');
                }
                [b'-', first, ..] if !b"rwxXstugo".contains(first) => return Err(word),
                _ => new.operands.push(word),
            }
        }
        Ok(new)
    }
    fn tell(&self, cx: &mut Context, path: &[u8], old: u32, new: u32) {
        let (quoted, shown) = (text::quote(path), |mode| text::mode_string(mode).split_off(1));
        let (from, to) = (old & 0o7777, new & 0o7777);
        if from != to && (self.verbose || self.changes) {
            out!(
                cx,
                "mode of {quoted} changed from {from:04o} ({}) to {to:04o} ({})\n",
                shown(old),
                shown(new)
            );
        } else if self.verbose {
            out!(cx, "mode of {quoted} retained as {to:04o} ({})\n", shown(new));
        }
    }
}

/// `chmod [-Rcfv] MODE FILE...`, `chmod [-Rcfv] --reference=FILE FILE...`
pub fn chmod(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let change = match ModeChange::parse(argv) {
        Ok(change) => change,
        Err(word) => {
            let quoted = text::quote(word);
            return cx.usage(format_args!("unrecognized option {quoted}"), 1);
        }
    };
    let (word, files) = match (change.reference, &change.operands[..]) {
        (None, [word, files @ ..]) if !files.is_empty() => (word.to_vec(), files),
        (Some(path), files) if !files.is_empty() => match cx.process.stat(path) {
            Ok(stat) => (alloc::format!("{:o}", stat.mode & 0o7777).into_bytes(), files),
            Err(e) => {
                cx.cannot("failed to get attributes of", path, &e);
                return 1;
            }
        },
        (_, operands) => return missing(cx, operands),
    };
    if mode_of(&word, 0, false).is_none() {
        let quoted = text::quote(&word);
        return cx.usage(format_args!("invalid mode: {quoted}"), 1);
    }
    each(cx, files, change.walk, &mut |cx, path| {
        let stat = cx.process.stat(path)?;
        let directory = stat.file_type() == FileType::Directory;
        let mode = mode_of(&word, stat.mode & 0o7777, directory).unwrap_or(stat.mode & 0o7777);
        cx.process.chmod(path, mode)?;
        change.tell(cx, path, stat.mode, stat.mode & !0o7777 | mode);
        Ok(())
    })
}

/// The complaint that there is no file.
fn missing(cx: &mut Context, operands: &[&[u8]]) -> Status {
    match operands {
        [only, ..] => {
            let quoted = text::quote(only);
            cx.usage(format_args!("missing operand after {quoted}"), 1)
        }
        [] => cx.usage(format_args!("missing operand"), 1),
    }
}

/// The number of a user or group: only the superuser has a name here.
fn id_of(word: &[u8]) -> Option<u32> {
    match word {
        b"root" => Some(0),
        digits => text::number(digits).and_then(|n| u32::try_from(n).ok()),
    }
}

/// `UID`, `UID:GID`, `:GID`; or what of it is wrong.
fn owners_of(word: &[u8]) -> Result<(u32, u32), &'static str> {
    let (user, group) = match word.iter().position(|&b| b == b':') {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    };
    let uid = match user {
        b"" => u32::MAX,
        user => id_of(user).ok_or("user")?,
    };
    let gid = match group {
        None => u32::MAX,
        // A user's own group, which nobody knows here.
        Some(b"") if !user.is_empty() => return Err("spec"),
        Some(b"") => u32::MAX,
        Some(group) => id_of(group).ok_or("group")?,
    };
    Ok((uid, gid))
}

/// `chown [-Rfh] UID[:GID] FILE...`, `chown [-Rfh] --reference=FILE FILE...`
pub fn chown(cx: &mut Context, argv: &[&[u8]]) -> Status {
    change_owners(cx, argv, owners_of)
}

/// `chgrp [-Rfh] GID FILE...`, `chgrp [-Rfh] --reference=FILE FILE...`
pub fn chgrp(cx: &mut Context, argv: &[&[u8]]) -> Status {
    change_owners(cx, argv, |word| Ok((u32::MAX, id_of(word).ok_or("group")?)))
}

fn change_owners(
    cx: &mut Context,
    argv: &[&[u8]],
    read: impl Fn(&[u8]) -> Result<(u32, u32), &'static str>,
) -> Status {
    const REFERENCE: u8 = b'=';
    let long = [
        ("recursive", b'R'),
        ("no-dereference", b'h'),
        ("silent", b'f'),
        ("quiet", b'f'),
        ("reference", REFERENCE),
    ];
    let parsed = match options::parse(argv, "Rhf", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let (owners, files) = match (parsed.value(REFERENCE), &parsed.operands[..]) {
        (None, [word, files @ ..]) if !files.is_empty() => match read(word) {
            Ok(owners) => (owners, files),
            Err(part) => {
                let quoted = text::quote(word);
                cx.error(format_args!("invalid {part}: {quoted}"));
                return 1;
            }
        },
        (Some(path), files) if !files.is_empty() => match cx.process.stat(path) {
            Ok(stat) if argv[0] == b"chgrp" => ((u32::MAX, stat.gid), files),
            Ok(stat) => ((stat.uid, stat.gid), files),
            Err(e) => {
                cx.cannot("failed to get attributes of", path, &e);
                return 1;
            }
        },
        (_, operands) => return missing(cx, operands),
    };
    let walk = Walk {
        recursive: parsed.has(b'R'),
        follow: !parsed.has(b'h'),
        silent: parsed.has(b'f'),
        what: if argv[0] == b"chgrp" { "changing group of" } else { "changing ownership of" },
    };
    each(cx, files, walk, &mut |cx, path| match walk.follow {
        true => cx.process.chown(path, owners.0, owners.1),
        false => cx.process.lchown(path, owners.0, owners.1),
    })
}

type Change<'a> = dyn FnMut(&mut Context, &[u8]) -> Result<(), Error> + 'a;

/// Change each file, and what is below it.
pub(super) fn each(
    cx: &mut Context,
    files: &[&[u8]],
    walk: Walk,
    change: &mut Change<'_>,
) -> Status {
    let mut status = 0;
    let mut pending: Vec<_> = files.iter().rev().map(|f| (f.to_vec(), true)).collect();
    while let Some((path, named)) = pending.pop() {
        let stat = cx.process.lstat(&path);
        let is = |t| stat.as_ref().is_ok_and(|s| s.file_type() == t);
        // Below a directory links are left alone when what they lead to would change.
        if !named && walk.follow && is(FileType::Symlink) {
            continue;
        }
        let dangling = walk.follow && is(FileType::Symlink) && cx.process.stat(&path).is_err();
        let (what, result) = match &stat {
            Err(e) => ("cannot access", Err(e.clone())),
            Ok(_) if dangling => ("cannot dereference", cx.process.stat(&path).map(drop)),
            Ok(_) => (walk.what, change(cx, &path)),
        };
        if let Err(e) = result {
            if !walk.silent {
                cx.flush();
                cx.cannot(what, &path, &e);
            }
            status = 1;
        }
        if walk.recursive && is(FileType::Directory) {
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

/// `touch [-achm] [-d DATE] [-t STAMP] [-r FILE] FILE...`
pub fn touch(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("no-create", b'c'), ("date", b'd'), ("reference", b'r'), ("no-dereference", b'h')];
    let parsed = match options::parse(argv, "acmd:fr:ht:", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    if parsed.operands.is_empty() {
        return cx.usage(format_args!("missing file operand"), 1);
    }
    let (only_a, only_m) = (parsed.has(b'a'), parsed.has(b'm'));
    let times = match times_of(cx, &parsed) {
        Ok(times) => times,
        Err(status) => return status,
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

/// The times that `touch` is to set; the status if they cannot be told.
fn times_of(cx: &mut Context, parsed: &options::Parsed<'_>) -> Result<[TimeChange; 2], Status> {
    if let Some(word) = parsed.value(b'd').filter(|word| *word != b"now") {
        let Some(time) = seconds(word).or_else(|| date::parse(word)) else {
            let quoted = text::quote(word);
            cx.error(format_args!("invalid date format {quoted}"));
            return Err(1);
        };
        return Ok(both(time, time));
    }
    if let Some(word) = parsed.value(b't') {
        let now = (cx.process.environment().wall_clock_ns() / 1_000_000_000) as i64;
        let this_year = date::Date::from_seconds(now).year;
        let Some(time) = date::parse_stamp(word, this_year) else {
            let quoted = text::quote(word);
            cx.error(format_args!("invalid date format {quoted}"));
            return Err(1);
        };
        return Ok(both(time, time));
    }
    let Some(path) = parsed.value(b'r').filter(|_| !parsed.has(b'd')) else {
        return Ok([TimeChange::Now, TimeChange::Now]);
    };
    match cx.process.stat(path) {
        Ok(stat) => Ok(both(stat.atime, stat.mtime)),
        Err(e) => {
            cx.cannot("failed to get attributes of", path, &e);
            Err(1)
        }
    }
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
            ("755", 0o2777, true, 0o2755),
            ("00755", 0o2777, true, 0o755),
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
