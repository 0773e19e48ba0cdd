//! `stat`.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use holdfast_fs::vfs::Stat;
use holdfast_fs::xfs::{FileType, Timestamp};

use super::absolute;
use crate::context::{Context, Status};
use crate::{date, options, out, text};

/// `stat [-L] [-c FORMAT|--printf FORMAT] FILE...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("format", b'c'), ("printf", b'p'), ("dereference", b'L')];
    let parsed = match options::parse(argv, "c:Lp:", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    if parsed.operands.is_empty() {
        return cx.usage(format_args!("missing operand"), 1);
    }
    let format = parsed.options.iter().rev().find(|o| o.0 == b'c' || o.0 == b'p');
    let mut status = 0;
    for path in &parsed.operands {
        let stat = match parsed.has(b'L') {
            true => cx.process.stat(path),
            false => cx.process.lstat(path),
        };
        match (stat, format) {
            (Err(e), _) => {
                cx.cannot("cannot statx", path, &e);
                status = 1;
            }
            (Ok(stat), Some((letter, Some(format)))) => {
                let escapes = *letter == b'p';
                Format { path, stat: &stat, escapes }.print(cx, format);
                if !escapes {
                    cx.bytes(b"\n");
                }
            }
            (Ok(stat), _) => default(cx, path, &stat),
        }
    }
    status
}

/// What an owner of this number is called: only the superuser has a name here.
fn owner(id: u32) -> &'static str {
    if id == 0 { "root" } else { "UNKNOWN" }
}

fn default(cx: &mut Context, path: &[u8], s: &Stat) {
    cx.bytes(b"  File: ");
    cx.bytes(path);
    if s.file_type() == FileType::Symlink
        && let Ok(target) = cx.process.readlink(path)
    {
        cx.bytes(b" -> ");
        cx.bytes(&target);
    }
    out!(cx, "\n  Size: {:<10}\tBlocks: {:<10} IO Block: {:<6} ", s.size, s.blocks, s.blksize);
    out!(cx, "{}\n", text::kind_name(s.mode, s.size));
    let (major, minor) = text::major_minor(s.dev);
    out!(cx, "Device: {major},{minor}\tInode: {:<11} Links: ", s.ino);
    if matches!(s.file_type(), FileType::CharDevice | FileType::BlockDevice) {
        let (major, minor) = text::major_minor(s.rdev);
        out!(cx, "{:<5} Device type: {major},{minor}\n", s.nlink);
    } else {
        out!(cx, "{}\n", s.nlink);
    }
    out!(cx, "Access: ({:04o}/{})", s.mode & 0o7777, text::mode_string(s.mode));
    out!(cx, "  Uid: ({:>5}/{:>8})", s.uid, owner(s.uid));
    out!(cx, "   Gid: ({:>5}/{:>8})\n", s.gid, owner(s.gid));
    out!(cx, "Access: {}\nModify: {}\n", date::full(s.atime), date::full(s.mtime));
    out!(cx, "Change: {}\n Birth: {}\n", date::full(s.ctime), birth(s));
}

fn birth(s: &Stat) -> String {
    if s.btime.seconds == 0 && s.btime.nanoseconds == 0 {
        "-".to_string()
    } else {
        date::full(s.btime)
    }
}

struct Format<'a> {
    path: &'a [u8],
    stat: &'a Stat,
    escapes: bool,
}

/// Flags, width and precision between `%` and its letter.
#[derive(Default)]
struct Spec {
    left: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// No width beyond this is honoured.
const WIDTH_MAX: usize = 4096;

impl Format<'_> {
    fn print(&self, cx: &mut Context, format: &[u8]) {
        let mut at = 0;
        while let Some(&b) = format.get(at) {
            at += 1;
            match b {
                b'%' => at = self.sequence(cx, format, at),
                b'\\' if self.escapes => at = Self::escape(cx, format, at),
                _ => cx.bytes(&[b]),
            }
        }
    }
    fn escape(cx: &mut Context, format: &[u8], at: usize) -> usize {
        if let Some((byte, len)) = text::escape(format, at) {
            cx.bytes(&[byte]);
            return at + len;
        }
        match format.get(at) {
            Some(&b) => {
                cx.error(format_args!("warning: unrecognized escape '\\{}'", b as char));
                cx.bytes(&[b]);
                at + 1
            }
            None => {
                cx.error(format_args!("warning: backslash at end of format"));
                cx.bytes(b"\\");
                at
            }
        }
    }
    /// One `%` sequence from behind the `%`; where it ends.
    fn sequence(&self, cx: &mut Context, format: &[u8], start: usize) -> usize {
        let mut spec = Spec::default();
        let mut at = start;
        while let Some(&b) = format.get(at) {
            match b {
                b'-' => spec.left = true,
                b'0' => spec.zero = true,
                b'#' => spec.alternate = true,
                b'+' | b' ' | b'\'' => {}
                _ => break,
            }
            at += 1;
        }
        let take = |at: &mut usize| {
            let from = *at;
            while format.get(*at).is_some_and(u8::is_ascii_digit) {
                *at += 1;
            }
            text::number(&format[from..*at]).unwrap_or(0).min(WIDTH_MAX as u64) as usize
        };
        spec.width = take(&mut at);
        if format.get(at) == Some(&b'.') {
            at += 1;
            let digits = format.get(at).is_some_and(u8::is_ascii_digit);
            spec.precision = Some(if digits { take(&mut at) } else { 9 });
        }
        let prefix = match format.get(at) {
            Some(&p @ (b'H' | b'L')) if matches!(format.get(at + 1), Some(b'd' | b'r')) => {
                at += 1;
                Some(p)
            }
            _ => None,
        };
        match format.get(at) {
            None => {
                cx.bytes(b"%");
                at
            }
            Some(b'%') => {
                cx.bytes(b"%");
                at + 1
            }
            Some(&letter) => {
                match self.value(cx, letter, prefix, &spec) {
                    Some((mut value, numeric)) => {
                        // Of whole numbers a precision is the least count of digits.
                        let digits = match spec.precision {
                            Some(n) if numeric && !b"XYZW".contains(&letter) => n,
                            _ => 0,
                        };
                        let missing = digits.saturating_sub(value.len());
                        value.splice(0..0, core::iter::repeat_n(b'0', missing));
                        pad(cx, &value, &spec, numeric);
                    }
                    None => cx.bytes(b"?"),
                }
                at + 1
            }
        }
    }
    /// The text of a letter, and whether it is a number (for `0` padding).
    fn value(
        &self,
        cx: &Context,
        letter: u8,
        prefix: Option<u8>,
        spec: &Spec,
    ) -> Option<(Vec<u8>, bool)> {
        let s = self.stat;
        let number = |n: u64| Some((n.to_string().into_bytes(), true));
        let word = |w: String| Some((w.into_bytes(), false));
        let hex = |n: u64| {
            let mark = if spec.alternate && n != 0 { "0x" } else { "" };
            Some((alloc::format!("{mark}{n:x}").into_bytes(), true))
        };
        let part = |dev: u64| {
            let (major, minor) = text::major_minor(dev);
            number(match prefix {
                Some(b'H') => major,
                Some(_) => minor,
                None => dev,
            })
        };
        match letter {
            b'n' => Some((self.path.to_vec(), false)),
            b'N' => word(self.quoted(cx)),
            b's' => number(s.size),
            b'b' => number(s.blocks),
            b'B' => number(512),
            b'o' => number(s.blksize.into()),
            b'f' => hex(s.mode.into()),
            b'F' => word(text::kind_name(s.mode, s.size).to_string()),
            b'a' => {
                let mark = if spec.alternate { "0" } else { "" };
                Some((alloc::format!("{mark}{:o}", s.mode & 0o7777).into_bytes(), true))
            }
            b'A' => word(text::mode_string(s.mode)),
            b'u' => number(s.uid.into()),
            b'U' => word(owner(s.uid).to_string()),
            b'g' => number(s.gid.into()),
            b'G' => word(owner(s.gid).to_string()),
            b'h' => number(s.nlink.into()),
            b'i' => number(s.ino),
            b'd' => part(s.dev),
            b'D' => hex(s.dev),
            b'r' => part(s.rdev),
            b'R' => hex(s.rdev),
            b't' => hex(text::major_minor(s.rdev).0),
            b'T' => hex(text::major_minor(s.rdev).1),
            b'm' => word("/".to_string()),
            b'x' => word(date::full(s.atime)),
            b'y' => word(date::full(s.mtime)),
            b'z' => word(date::full(s.ctime)),
            b'w' => word(birth(s)),
            b'X' => Some((seconds(s.atime, spec.precision), true)),
            b'Y' => Some((seconds(s.mtime, spec.precision), true)),
            b'Z' => Some((seconds(s.ctime, spec.precision), true)),
            b'W' => Some((seconds(s.btime, spec.precision), true)),
            _ => None,
        }
    }
    fn quoted(&self, cx: &Context) -> String {
        let mut out = text::quote(self.path);
        if self.stat.file_type() == FileType::Symlink
            && let Ok(target) = cx.process.readlink(absolute(&cx.process, self.path).as_slice())
        {
            out.push_str(" -> ");
            out.push_str(&text::quote(&target));
        }
        out
    }
}

/// Seconds with as many decimals as asked for, cut off.
fn seconds(t: Timestamp, precision: Option<usize>) -> Vec<u8> {
    let Some(precision) = precision.filter(|&p| p > 0) else {
        return t.seconds.to_string().into_bytes();
    };
    // Before 1970 the decimals count from the second above.
    let negative = t.seconds < 0 && t.nanoseconds > 0;
    let (whole, nano) = match negative {
        true => (t.seconds + 1, 1_000_000_000 - t.nanoseconds),
        false => (t.seconds, t.nanoseconds),
    };
    let sign = if negative && whole == 0 { "-" } else { "" };
    let mut decimals = alloc::format!("{nano:09}");
    if precision <= 9 {
        decimals.truncate(precision);
    } else {
        decimals.push_str(&"0".repeat(precision - 9));
    }
    alloc::format!("{sign}{whole}.{decimals}").into_bytes()
}

fn pad(cx: &mut Context, value: &[u8], spec: &Spec, numeric: bool) {
    let fill = spec.width.saturating_sub(value.len());
    let zero = spec.zero && numeric && !spec.left;
    if spec.left {
        cx.bytes(value);
    }
    for _ in 0..fill {
        cx.bytes(if zero { b"0" } else { b" " });
    }
    if !spec.left {
        cx.bytes(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_cut_not_rounded() {
        let t = Timestamp { seconds: 5, nanoseconds: 999_999_999 };
        assert_eq!(seconds(t, None), b"5");
        assert_eq!(seconds(t, Some(3)), b"5.999");
        assert_eq!(seconds(t, Some(11)), b"5.99999999900");
        let before = Timestamp { seconds: -1, nanoseconds: 250_000_000 };
        assert_eq!(seconds(before, Some(2)), b"-0.75");
    }
}
