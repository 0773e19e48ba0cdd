//! Words, names and numbers as coreutils write them.

use alloc::string::String;
use alloc::vec::Vec;

/// A file name in single quotes, for messages: coreutils' `shell-escape-always`.
pub fn quote(name: &[u8]) -> String {
    shell_escape(name, true)
}

/// A file name for messages that stand it alone: quoted only where it must be.
pub fn quote_if_odd(name: &[u8]) -> String {
    shell_escape(name, false)
}

/// Characters that need no quoting for a shell.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"%+,-./:@_]}{".contains(&byte) || byte >= 0x80
}

fn shell_escape(name: &[u8], always: bool) -> String {
    let valid = core::str::from_utf8(name).is_ok();
    let odd = |b: u8| b < 0x20 || b == 0x7F || (b >= 0x80 && !valid);
    let message_breaking = name.iter().any(|&b| odd(b) || matches!(b, b':' | b'\'' | b'"'));
    // Alone in a message a name needs quotes only when it could be mistaken.
    if !always && !name.is_empty() && !message_breaking && name.iter().all(|&b| is_plain(b)) {
        return String::from_utf8_lossy(name).into_owned();
    }
    let mut out: Vec<u8> = Vec::new();
    if name.contains(&b'\'') && !name.iter().any(|&b| odd(b) || b"\"$`\\!".contains(&b)) {
        out.push(b'"');
        out.extend_from_slice(name);
        out.push(b'"');
        return String::from_utf8_lossy(&out).into_owned();
    }
    escape_pieces(name, &odd, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// `'plain'$'\n''plain'`: odd bytes in pieces of their own.
fn escape_pieces(name: &[u8], odd: &dyn Fn(u8) -> bool, out: &mut Vec<u8>) {
    out.push(b'\'');
    let mut in_odd = false;
    for &b in name {
        if odd(b) {
            if !in_odd {
                out.extend_from_slice(b"'$'");
                in_odd = true;
            }
            match b {
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\t' => out.extend_from_slice(b"\\t"),
                b'\r' => out.extend_from_slice(b"\\r"),
                0x07 => out.extend_from_slice(b"\\a"),
                0x08 => out.extend_from_slice(b"\\b"),
                0x0B => out.extend_from_slice(b"\\v"),
                0x0C => out.extend_from_slice(b"\\f"),
                _ => out.extend_from_slice(alloc::format!("\\{b:03o}").as_bytes()),
            }
            continue;
        }
        if in_odd {
            out.extend_from_slice(b"''");
            in_odd = false;
        }
        if b == b'\'' {
            out.extend_from_slice(b"'\\''");
        } else {
            out.push(b);
        }
    }
    out.push(b'\'');
}

/// A file's mode as `ls -l` shows it.
pub fn mode_string(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        0o100_000 => '-',
        _ => '?',
    };
    let mut out = String::from(kind);
    let special = [(0o4000, 's', 'S'), (0o2000, 's', 'S'), (0o1000, 't', 'T')];
    for (i, (bit, with_x, without_x)) in special.into_iter().enumerate() {
        let bits = mode >> (6 - 3 * i);
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (mode & bit != 0, bits & 1 != 0) {
            (true, true) => with_x,
            (true, false) => without_x,
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// What `stat` calls a file of this mode and size.
pub fn kind_name(mode: u32, size: u64) -> &'static str {
    match mode & 0o170_000 {
        0o040_000 => "directory",
        0o120_000 => "symbolic link",
        0o020_000 => "character special file",
        0o060_000 => "block special file",
        0o010_000 => "fifo",
        0o140_000 => "socket",
        0o100_000 if size == 0 => "regular empty file",
        0o100_000 => "regular file",
        _ => "weird file",
    }
}

/// The two parts of a device number as Linux encodes it.
pub const fn major_minor(dev: u64) -> (u64, u64) {
    ((dev >> 8 & 0xFFF) | (dev >> 32 & !0xFFF), (dev & 0xFF) | (dev >> 12 & !0xFF & 0xFFFF_FFFF))
}

/// A decimal number, the whole text of it.
pub fn number(word: &[u8]) -> Option<u64> {
    if word.is_empty() || !word.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(word).ok()?.parse().ok()
}

/// A count of bytes in powers of 1024, rounded up, as `df -h` and `free -h` show it.
/// `unit` follows the letter ("" or "i").
pub fn human(bytes: u64, unit: &str) -> String {
    if bytes < 1024 {
        return alloc::format!("{bytes}");
    }
    let mut shift = 10;
    while shift < 60 && bytes >> shift >= 1024 {
        shift += 10;
    }
    let mut letter = "KMGTPE".as_bytes()[shift / 10 - 1] as char;
    let tenths = (u128::from(bytes) * 10).div_ceil(1 << shift);
    if tenths < 100 {
        return alloc::format!("{}.{}{letter}{unit}", tenths / 10, tenths % 10);
    }
    let whole = (u128::from(bytes)).div_ceil(1 << shift);
    if whole >= 1024 && shift < 60 {
        letter = "KMGTPE".as_bytes()[shift / 10] as char;
        return alloc::format!("1.0{letter}{unit}");
    }
    alloc::format!("{whole}{letter}{unit}")
}

/// A table's column, padded on the left.
pub fn right(text: &str, width: usize) -> String {
    alloc::format!("{text:>width$}")
}

/// Join a directory and a name.
pub fn join(dir: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(dir.len() + 1 + name.len());
    path.extend_from_slice(dir);
    if !dir.is_empty() && dir.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Decode one backslash escape at `at` (just behind the backslash) of `printf`'s kind.
/// The byte and how many bytes it took; nothing for an escape there is not.
pub fn escape(text: &[u8], at: usize) -> Option<(u8, usize)> {
    let simple = match text.get(at)? {
        b'a' => 7,
        b'b' => 8,
        b'e' => 27,
        b'f' => 12,
        b'n' => 10,
        b'r' => 13,
        b't' => 9,
        b'v' => 11,
        b'\\' => b'\\',
        b'"' => b'"',
        b'x' => return digits(&text[at + 1..], 16, 2).map(|(v, n)| (v, n + 1)),
        b'0'..=b'7' => return digits(&text[at..], 8, 3),
        _ => return None,
    };
    Some((simple, 1))
}

fn digits(text: &[u8], radix: u32, most: usize) -> Option<(u8, usize)> {
    let mut value = 0u32;
    let mut n = 0;
    while n < most
        && let Some(d) = text.get(n).and_then(|&b| (b as char).to_digit(radix))
    {
        value = value * radix + d;
        n += 1;
    }
    (n > 0).then_some((value as u8, n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_as_coreutils_do() {
        assert_eq!(quote(b"nofile"), "'nofile'");
        assert_eq!(quote(b"a b"), "'a b'");
        assert_eq!(quote(b"it's"), "\"it's\"");
        assert_eq!(quote(b"a\nb"), "'a'$'\\n''b'");
        assert_eq!(quote(b"a\\b"), "'a\\b'");
        assert_eq!(quote_if_odd(b"nofile"), "nofile");
        assert_eq!(quote_if_odd(b"a b"), "'a b'");
        assert_eq!(quote_if_odd(b""), "''");
    }

    #[test]
    fn modes_read_as_ls_shows_them() {
        assert_eq!(mode_string(0o100_644), "-rw-r--r--");
        assert_eq!(mode_string(0o041_777), "drwxrwxrwt");
        assert_eq!(mode_string(0o104_711), "-rws--x--x");
        assert_eq!(mode_string(0o102_600), "-rw---S---");
        assert_eq!(mode_string(0o120_777), "lrwxrwxrwx");
    }

    #[test]
    fn sizes_round_up() {
        assert_eq!(human(1023, ""), "1023");
        assert_eq!(human(1024, ""), "1.0K");
        assert_eq!(human(1025, ""), "1.1K");
        assert_eq!(human(10 << 10, ""), "10K");
        assert_eq!(human((10 << 10) - 1, ""), "10K");
        assert_eq!(human(344_064 << 10, ""), "336M");
        assert_eq!(human((1 << 20) - 1, ""), "1.0M");
        assert_eq!(human(u64::MAX, ""), "16E");
    }

    #[test]
    fn escapes_decode() {
        assert_eq!(escape(b"n", 0), Some((b'\n', 1)));
        assert_eq!(escape(b"x41g", 0), Some((0x41, 3)));
        assert_eq!(escape(b"1013", 0), Some((0o101, 3)));
        assert_eq!(escape(b"q", 0), None);
        assert_eq!(escape(b"", 0), None);
    }
}
