//! `getfattr`, as the attr package's tool prints.

use alloc::vec::Vec;

use holdfast_fs::{Error, Result};

use crate::context::{Context, Status};
use crate::{options, text};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    /// Text where the value is printable, base64 otherwise.
    Auto,
    Text,
    Hex,
    Base64,
}

struct Request<'a> {
    values: bool,
    encoding: Encoding,
    pattern: &'a [u8],
    name: Option<&'a [u8]>,
    absolute: bool,
    nofollow: bool,
}

/// `getfattr [-dh] [-m PATTERN] [-n NAME] [-e ENCODING] [--absolute-names] FILE...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("absolute-names", b'A'),
        ("dump", b'd'),
        ("no-dereference", b'h'),
        ("name", b'n'),
        ("match", b'm'),
        ("encoding", b'e'),
    ];
    let parsed = match options::parse(argv, "dhm:n:e:", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 2),
    };
    let encoding = match parsed.value(b'e') {
        None => Encoding::Auto,
        Some(b"hex") => Encoding::Hex,
        Some(b"text") => Encoding::Text,
        Some(b"base64") => Encoding::Base64,
        Some(other) => {
            let quoted = text::quote(other);
            return cx.usage(format_args!("bad encoding {quoted}"), 2);
        }
    };
    if parsed.operands.is_empty() {
        return cx.usage(format_args!("missing operand"), 2);
    }
    let request = Request {
        values: parsed.has(b'd') || parsed.has(b'n'),
        encoding,
        pattern: parsed.value(b'm').unwrap_or(b"^user\\."),
        name: parsed.value(b'n'),
        absolute: parsed.has(b'A'),
        nofollow: parsed.has(b'h'),
    };
    let (mut status, mut warned) = (0, false);
    for path in parsed.operands {
        match attributes(cx, path, &request) {
            Ok(found) => {
                if found.is_empty() {
                    continue;
                }
                let mut shown = path;
                if !request.absolute && path.first() == Some(&b'/') {
                    shown = &path[path.iter().take_while(|&&b| b == b'/').count()..];
                    if !warned {
                        cx.error(format_args!("Removing leading '/' from absolute path names"));
                        warned = true;
                    }
                }
                print(cx, shown, &found, &request);
            }
            Err((name, e)) => {
                cx.flush();
                let subject = alloc::string::String::from_utf8_lossy(path).into_owned();
                let reason = crate::context::explain(&e);
                match name {
                    Some(name) => {
                        let name = alloc::string::String::from_utf8_lossy(&name).into_owned();
                        cx.error(format_args!("{subject}: {name}: {reason}"));
                    }
                    None => cx.error(format_args!("{subject}: {reason}")),
                }
                status = 1;
            }
        }
    }
    status
}

type Attribute = (Vec<u8>, Vec<u8>);

/// The attributes asked for, in byte order of their names. Errors with the attribute's name.
fn attributes(
    cx: &Context,
    path: &[u8],
    request: &Request<'_>,
) -> Result<Vec<Attribute>, (Option<Vec<u8>>, Error)> {
    let get = |name: &[u8]| match request.nofollow {
        true => cx.process.lgetxattr(path, name),
        false => cx.process.getxattr(path, name),
    };
    if let Some(name) = request.name {
        let value = get(name).map_err(|e| (Some(name.to_vec()), e))?;
        return Ok(alloc::vec![(name.to_vec(), value)]);
    }
    let mut names = match request.nofollow {
        true => cx.process.llistxattr(path),
        false => cx.process.listxattr(path),
    }
    .map_err(|e| (None, e))?;
    names.retain(|name| matches(request.pattern, name));
    names.sort();
    let mut found = Vec::new();
    for name in names {
        let value = match request.values {
            true => get(&name).map_err(|e| (Some(name.clone()), e))?,
            false => Vec::new(),
        };
        found.push((name, value));
    }
    Ok(found)
}

/// `-` means all. Otherwise the part of regular expressions that names need: `^`, `\.`,
/// and plain text that may stand anywhere.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    if pattern == b"-" {
        return true;
    }
    let (anchored, pattern) = match pattern.strip_prefix(b"^") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let plain: Vec<u8> = pattern.iter().copied().filter(|&b| b != b'\\').collect();
    if anchored || plain.is_empty() {
        name.starts_with(&plain)
    } else {
        name.windows(plain.len()).any(|w| w == plain)
    }
}

fn print(cx: &mut Context, path: &[u8], found: &[Attribute], request: &Request<'_>) {
    cx.bytes(b"# file: ");
    cx.bytes(&escaped(path, b"\n\r\\"));
    cx.bytes(b"\n");
    for (name, value) in found {
        cx.bytes(&escaped(name, b"\n\r\\="));
        if request.values {
            cx.bytes(b"=");
            cx.bytes(&encode(value, request.encoding));
        }
        cx.bytes(b"\n");
    }
    cx.bytes(b"\n");
}

/// The bytes of `odd` as backslash and three octal digits.
fn escaped(text: &[u8], odd: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    for &b in text {
        if odd.contains(&b) {
            out.extend_from_slice(alloc::format!("\\{b:03o}").as_bytes());
        } else {
            out.push(b);
        }
    }
    out
}

fn encode(value: &[u8], encoding: Encoding) -> Vec<u8> {
    // The tool's test for text: at most one byte in eight may be unprintable.
    let odd = value.iter().filter(|&&b| !(0x20..0x7F).contains(&b)).count();
    let encoding = match encoding {
        Encoding::Auto if odd > 0 && odd * 8 >= value.len() => Encoding::Base64,
        Encoding::Auto => Encoding::Text,
        other => other,
    };
    match encoding {
        Encoding::Hex => {
            let mut out = b"0x".to_vec();
            for b in value {
                out.extend_from_slice(alloc::format!("{b:02x}").as_bytes());
            }
            out
        }
        Encoding::Base64 => base64(value),
        _ => {
            let mut out = b"\"".to_vec();
            for &b in value {
                match b {
                    b'"' | b'\\' => out.extend_from_slice(&[b'\\', b]),
                    0 | b'\n' | b'\r' => {
                        out.extend_from_slice(alloc::format!("\\{b:03o}").as_bytes());
                    }
                    _ => out.push(b),
                }
            }
            out.push(b'"');
            out
        }
    }
}

fn base64(value: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = b"0s".to_vec();
    for group in value.chunks(3) {
        let at = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            out.push(if i <= group.len() { digit } else { b'=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_the_tool_does() {
        assert_eq!(encode(b"a\x01b", Encoding::Hex), b"0x610162");
        assert_eq!(encode(b"", Encoding::Hex), b"0x");
        assert_eq!(encode(b"a\x01b", Encoding::Auto), b"0sYQFi");
        assert_eq!(encode(b"zz", Encoding::Auto), b"\"zz\"");
        assert_eq!(base64(b"a"), b"0sYQ==");
        assert_eq!(base64(b"ab"), b"0sYWI=");
        assert_eq!(escaped(b"user.q=\n", b"\n\r\\="), b"user.q\\075\\012");
    }

    #[test]
    fn patterns() {
        assert!(matches(b"-", b"trusted.x"));
        assert!(matches(b"^user\\.", b"user.a"));
        assert!(!matches(b"^user\\.", b"trusted.user.a"));
        assert!(matches(b"foo", b"user.foo"));
        assert!(!matches(b"foo", b"x"));
    }
}
