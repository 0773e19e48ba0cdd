//! `echo`, `true`, `false`, `sleep`, `cd`, `pwd`.

use crate::context::{Context, Status};
use crate::text;

/// `true`
pub fn yes(_: &mut Context, _: &[&[u8]]) -> Status {
    0
}

/// `false`
pub fn no(_: &mut Context, _: &[&[u8]]) -> Status {
    1
}

/// `cd [DIR]`
pub fn cd(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let path = argv.get(1).copied().unwrap_or(b"/");
    match cx.process.chdir(path) {
        Ok(()) => 0,
        Err(e) => {
            cx.failed(path, &e);
            1
        }
    }
}

/// `pwd`
pub fn pwd(cx: &mut Context, _: &[&[u8]]) -> Status {
    let path = cx.process.getcwd();
    cx.bytes(&path);
    cx.bytes(b"\n");
    0
}

/// `echo [-neE]... [WORD]...`
pub fn echo(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let (mut newline, mut escapes) = (true, false);
    let mut words = argv.get(1..).unwrap_or_default();
    while let Some((first, rest)) = words.split_first()
        && first.len() > 1
        && first[0] == b'-'
        && first[1..].iter().all(|b| b"neE".contains(b))
    {
        for flag in &first[1..] {
            match flag {
                b'n' => newline = false,
                b'e' => escapes = true,
                _ => escapes = false,
            }
        }
        words = rest;
    }
    for (i, word) in words.iter().enumerate() {
        if i > 0 {
            cx.bytes(b" ");
        }
        if !escapes {
            cx.bytes(word);
        } else if !unescape(cx, word) {
            return 0;
        }
    }
    if newline {
        cx.bytes(b"\n");
    }
    0
}

/// Print a word with escapes; false when `\c` ends all output.
fn unescape(cx: &mut Context, word: &[u8]) -> bool {
    let mut at = 0;
    while let Some(&b) = word.get(at) {
        at += 1;
        if b != b'\\' {
            cx.bytes(&[b]);
            continue;
        }
        // A 0 before octal digits does not count; \" is no escape of echo's.
        let octal = word.get(at) == Some(&b'0') && matches!(word.get(at + 1), Some(b'0'..=b'7'));
        match word.get(at) {
            Some(b'c') => return false,
            Some(b'"') | None => cx.bytes(b"\\"),
            _ => match text::escape(word, at + usize::from(octal)) {
                Some((byte, len)) => {
                    cx.bytes(&[byte]);
                    at += len + usize::from(octal);
                }
                None => cx.bytes(b"\\"),
            },
        }
    }
    true
}

/// Nanoseconds of a time like `1`, `0.25`, `2m`.
fn interval(word: &[u8]) -> Option<u64> {
    let (digits, unit) = match word.last()? {
        b's' => (&word[..word.len() - 1], 1),
        b'm' => (&word[..word.len() - 1], 60),
        b'h' => (&word[..word.len() - 1], 3600),
        b'd' => (&word[..word.len() - 1], 86_400),
        _ => (word, 1),
    };
    let (whole, fraction) = match digits.iter().position(|&b| b == b'.') {
        Some(at) => (&digits[..at], &digits[at + 1..]),
        None => (digits, &b""[..]),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { text::number(whole)? };
    let mut nanoseconds = whole.checked_mul(1_000_000_000)?;
    let mut weight = 100_000_000;
    for &d in fraction {
        nanoseconds += u64::from((d as char).to_digit(10)?) * weight;
        weight /= 10;
    }
    nanoseconds.checked_mul(unit)
}

/// `sleep SECONDS...`
pub fn sleep(cx: &mut Context, argv: &[&[u8]]) -> Status {
    if argv.len() < 2 {
        return cx.usage(format_args!("missing operand"), 1);
    }
    let mut total = 0u64;
    for word in &argv[1..] {
        match interval(word).and_then(|ns| total.checked_add(ns)) {
            Some(sum) => total = sum,
            None => {
                let quoted = text::quote(word);
                return cx.usage(format_args!("invalid time interval {quoted}"), 1);
            }
        }
    }
    holdfast_sync::thread::sleep_ns(total);
    0
}

#[cfg(test)]
mod tests {
    use super::interval;

    #[test]
    fn intervals() {
        assert_eq!(interval(b"1"), Some(1_000_000_000));
        assert_eq!(interval(b"0.25"), Some(250_000_000));
        assert_eq!(interval(b".5s"), Some(500_000_000));
        assert_eq!(interval(b"2m"), Some(120_000_000_000));
        for bad in [&b"x"[..], b"", b".", b"-1", b"1x", b"99999999999999d"] {
            assert_eq!(interval(bad), None);
        }
    }
}
