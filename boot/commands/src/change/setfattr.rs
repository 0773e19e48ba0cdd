//! `setfattr`.

use alloc::vec::Vec;

use holdfast_fs::vfs::XattrFlags;

use crate::context::{Context, Status};
use crate::{options, text};

/// A value as `getfattr` prints it: text, `"text"`, `0xhex` or `0sbase64`.
fn value_of(word: &[u8]) -> Option<Vec<u8>> {
    if let Some(hex) = word.strip_prefix(b"0x").or_else(|| word.strip_prefix(b"0X")) {
        let digits: Vec<u8> = hex
            .iter()
            .map(|b| (*b as char).to_digit(16).map(|d| d as u8))
            .collect::<Option<_>>()?;
        let pairs = digits.chunks_exact(2);
        return pairs
            .remainder()
            .is_empty()
            .then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect());
    }
    if let Some(base64) = word.strip_prefix(b"0s").or_else(|| word.strip_prefix(b"0S")) {
        return from_base64(base64);
    }
    let inner = word.strip_prefix(b"\"").and_then(|w| w.strip_suffix(b"\"")).unwrap_or(word);
    let mut value = Vec::new();
    let mut at = 0;
    while let Some(&b) = inner.get(at) {
        at += 1;
        match (b, text::escape(inner, at)) {
            (b'\\', Some((byte, len))) => {
                value.push(byte);
                at += len;
            }
            _ => value.push(b),
        }
    }
    Some(value)
}

fn from_base64(word: &[u8]) -> Option<Vec<u8>> {
    let end = word.iter().rposition(|&b| b != b'=').map_or(0, |at| at + 1);
    let (mut bits, mut have, mut bytes) = (0_u32, 0, Vec::new());
    for b in &word[..end] {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        have += 6;
        if have >= 8 {
            have -= 8;
            bytes.push((bits >> have) as u8);
        }
    }
    Some(bytes)
}

/// `setfattr [-h] -n NAME [-v VALUE] FILE...`, `setfattr [-h] -x NAME FILE...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [("name", b'n'), ("value", b'v'), ("remove", b'x'), ("no-dereference", b'h')];
    let parsed = match options::parse(argv, "n:v:x:h", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 2),
    };
    let (set, remove) = (parsed.value(b'n'), parsed.value(b'x'));
    if parsed.operands.is_empty() || set.is_some() == remove.is_some() {
        return cx.usage(format_args!("a name (-n or -x) and files are wanted"), 2);
    }
    let Some(value) = value_of(parsed.value(b'v').unwrap_or_default()) else {
        return cx.usage(format_args!("bad input encoding"), 2);
    };
    let follow = !parsed.has(b'h');
    let mut status = 0;
    for path in parsed.operands {
        let process = &cx.process;
        let result = match (set, remove) {
            (Some(name), _) if follow => process.setxattr(path, name, &value, XattrFlags::empty()),
            (Some(name), _) => process.lsetxattr(path, name, &value, XattrFlags::empty()),
            (None, Some(name)) if follow => process.removexattr(path, name),
            (None, Some(name)) => process.lremovexattr(path, name),
            (None, None) => Ok(()),
        };
        if let Err(e) = result {
            cx.failed(path, &e);
            status = 1;
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::value_of;

    #[test]
    fn encodings() {
        let value = |w: &str| value_of(w.as_bytes());
        assert_eq!(value("abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(value("\"a b\"").as_deref(), Some(&b"a b"[..]));
        assert_eq!(value("a\\000b").as_deref(), Some(&b"a\0b"[..]));
        assert_eq!(value("0x00ff").as_deref(), Some(&b"\0\xff"[..]));
        assert_eq!(value("0sAP8=").as_deref(), Some(&b"\0\xff"[..]));
        assert_eq!(value("0xf"), None);
        assert_eq!(value("0s#"), None);
    }
}
