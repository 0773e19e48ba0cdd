//! `cmp`.

use alloc::vec::Vec;

use holdfast_fs::vfs::Whence;
use holdfast_fs::{Error, Result};

use super::dd::number;
use crate::context::{Context, Status};
use crate::files::Input;
use crate::{options, out, text};

/// What of differences is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    First,
    All,
    Nothing,
}

/// `cmp [-ls] [-n LIMIT] [-i SKIP[:SKIP]] FILE1 [FILE2 [SKIP [SKIP]]]`
pub fn cmp(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let long = [
        ("silent", b's'),
        ("quiet", b's'),
        ("verbose", b'l'),
        ("bytes", b'n'),
        ("ignore-initial", b'i'),
    ];
    let parsed = match options::parse(argv, "lsn:i:", &long) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 2),
    };
    let operands = &parsed.operands[..];
    let Some(&first) = operands.first() else {
        return cx.usage(format_args!("missing operand after 'cmp'"), 2);
    };
    if let Some(extra) = operands.get(4) {
        let quoted = text::quote(extra);
        return cx.usage(format_args!("extra operand {quoted}"), 2);
    }
    let bytes = |word: &[u8]| number(word).map(|n| n.0);
    let limit = match parsed.value(b'n').map(bytes) {
        None => u64::MAX,
        Some(Some(limit)) => limit,
        Some(None) => return cx.usage(format_args!("invalid --bytes value"), 2),
    };
    let mut skips: Vec<&[u8]> = operands.iter().skip(2).copied().collect();
    if let Some(word) = parsed.value(b'i') {
        skips = word.splitn(2, |&b| b == b':').collect();
        skips.resize(2, skips[skips.len() - 1]);
    }
    let mut skip = [0; 2];
    for (to, word) in skip.iter_mut().zip(skips) {
        let Some(bytes) = bytes(word).filter(|n| i64::try_from(*n).is_ok()) else {
            let quoted = text::quote(word);
            return cx.usage(format_args!("invalid --ignore-initial value {quoted}"), 2);
        };
        *to = bytes;
    }
    let told = match (parsed.has(b's'), parsed.has(b'l')) {
        (true, _) => Told::Nothing,
        (_, true) => Told::All,
        _ => Told::First,
    };
    let second = operands.get(1).copied().unwrap_or(b"-");
    match compare(cx, [first, second], skip, limit, told) {
        Ok(same) => u8::from(!same),
        Err((path, e)) => {
            cx.flush();
            if told != Told::Nothing {
                cx.failed(path, &e);
            }
            2
        }
    }
}

/// Read until the buffer is full or the file ends.
fn fill(cx: &Context, fd: i32, buffer: &mut Vec<u8>, bytes: usize) -> Result<()> {
    buffer.resize(bytes, 0);
    let mut have = 0;
    while have < bytes {
        let n = cx.process.read(fd, &mut buffer[have..])?;
        if n == 0 {
            break;
        }
        have += n;
    }
    buffer.truncate(have);
    Ok(())
}

fn compare<'a>(
    cx: &mut Context,
    paths: [&'a [u8]; 2],
    skip: [u64; 2],
    limit: u64,
    told: Told,
) -> Result<bool, (&'a [u8], Error)> {
    let process = cx.process.clone();
    let open = |i: usize| Input::open(&process, paths[i]).map_err(|e| (paths[i], e));
    let inputs = [open(0)?, open(1)?];
    for i in (0..2).filter(|i| skip[*i] > 0) {
        let moved = process.lseek(inputs[i].fd(), skip[i] as i64, Whence::Cur);
        moved.map_err(|e| (paths[i], e))?;
    }
    let mut buffers = [Vec::new(), Vec::new()];
    let (mut at, mut line, mut same, mut last) = (0_u64, 1_u64, true, 0);
    while at < limit {
        let bytes = (limit - at).min(crate::files::CHUNK as u64) as usize;
        for i in 0..2 {
            fill(cx, inputs[i].fd(), &mut buffers[i], bytes).map_err(|e| (paths[i], e))?;
        }
        let [a, b] = &buffers;
        for (i, (x, y)) in a.iter().zip(b).enumerate() {
            if x != y {
                same = false;
                let byte = at + i as u64 + 1;
                if told == Told::All {
                    out!(cx, "{byte} {x:3o} {y:3o}\n");
                } else {
                    if told == Told::First {
                        let names = paths.map(text::quote_if_odd);
                        out!(cx, "{} {} differ: byte {byte}, line {line}\n", names[0], names[1]);
                    }
                    return Ok(false);
                }
            }
            line += u64::from(*x == b'\n');
            last = *x;
        }
        if a.len() != b.len() {
            if told != Told::Nothing {
                let short = usize::from(b.len() < a.len());
                let end = at + a.len().min(b.len()) as u64;
                tell_end(cx, paths[short], end, told, (line, last == b'\n'));
            }
            return Ok(false);
        }
        if a.is_empty() {
            break;
        }
        at += a.len() as u64;
    }
    Ok(same)
}

/// Say that one file is shorter, and in which line it ends; `whole`: that line is.
fn tell_end(cx: &mut Context, path: &[u8], end: u64, told: Told, (line, whole): (u64, bool)) {
    let name = text::quote_if_odd(path);
    cx.flush();
    match (end, told, whole) {
        (0, ..) => cx.error(format_args!("EOF on {name} which is empty")),
        (_, Told::All, _) => cx.error(format_args!("EOF on {name} after byte {end}")),
        (_, _, true) => {
            let line = line - 1;
            cx.error(format_args!("EOF on {name} after byte {end}, line {line}"));
        }
        (_, _, false) => {
            cx.error(format_args!("EOF on {name} after byte {end}, in line {line}"));
        }
    }
}
