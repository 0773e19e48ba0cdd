//! `sha256sum`.

use alloc::string::String;
use alloc::vec::Vec;

use holdfast_fs::Result;
use sha2::{Digest, Sha256};

use super::{Input, absolute, read_pieces, walk};
use crate::context::{Context, Status};
use crate::options;

/// `sha256sum [-r DIR]... [FILE]...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "r:bt", &[("binary", b'b'), ("text", b't')]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let mut status = 0;
    let dirs: Vec<&[u8]> =
        parsed.options.iter().filter(|o| o.0 == b'r').filter_map(|o| o.1).collect();
    for dir in &dirs {
        status = status.max(tree(cx, dir));
    }
    let mut operands = parsed.operands;
    if operands.is_empty() && dirs.is_empty() {
        operands.push(b"-");
    }
    for path in operands {
        status = status.max(one(cx, path));
    }
    status
}

fn one(cx: &mut Context, path: &[u8]) -> Status {
    let process = cx.process.clone();
    match Input::open(&process, path).and_then(|input| digest(cx, input.fd())) {
        Ok(hash) => {
            cx.bytes(&line(&hash, path));
            0
        }
        Err(e) => {
            cx.flush();
            cx.failed(path, &e);
            1
        }
    }
}

fn tree(cx: &mut Context, dir: &[u8]) -> Status {
    let (mut status, mut failures) = (0, Vec::new());
    let process = cx.process.clone();
    let root = absolute(&process, dir);
    walk(&process, &root, &mut |path| status = status.max(one(cx, path)), &mut |path, e| {
        failures.push((path.to_vec(), e.clone()));
    });
    for (path, e) in failures {
        cx.failed(&path, &e);
        status = 1;
    }
    status
}

fn digest(cx: &Context, fd: i32) -> Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    read_pieces(&cx.process, fd, &mut |piece| {
        hasher.update(piece);
        true
    })?;
    Ok(hasher.finalize().into())
}

/// A digest in hexadecimal.
pub fn hex(hash: &[u8; 32]) -> String {
    let mut out = String::with_capacity(64);
    for byte in hash {
        for nibble in [byte >> 4, byte & 15] {
            out.push(char::from_digit(nibble.into(), 16).unwrap_or('?'));
        }
    }
    out
}

/// One line as coreutils writes it: a name with a backslash, line feed or carriage return
/// is escaped, and the line begins with a backslash to say so.
pub fn line(hash: &[u8; 32], path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len() + 68);
    if path.iter().any(|b| matches!(b, b'\\' | b'\n' | b'\r')) {
        out.push(b'\\');
    }
    out.extend_from_slice(hex(hash).as_bytes());
    out.extend_from_slice(b"  ");
    for &b in path {
        match b {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => out.push(b),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digest_and_odd_names() {
        let hash: [u8; 32] = Sha256::digest(b"abc").into();
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(hex(&hash), text);
        assert_eq!(line(&hash, b"/a b"), alloc::format!("{text}  /a b\n").into_bytes());
        assert_eq!(line(&hash, b"a\n\\"), alloc::format!("\\{text}  a\\n\\\\\n").into_bytes());
    }
}
