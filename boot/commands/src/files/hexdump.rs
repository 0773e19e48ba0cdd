//! `hexdump`: two-byte words, or with `-C` bytes and characters.

use alloc::vec::Vec;

use super::{Input, read_pieces};
use crate::context::{Context, Status};
use crate::{options, out, text};

struct Dump {
    canonical: bool,
    verbose: bool,
    offset: u64,
    skip: u64,
    left: u64,
    line: Vec<u8>,
    last: Vec<u8>,
    starred: bool,
}

/// `hexdump [-C] [-v] [-n LENGTH] [-s OFFSET] [FILE]...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "Cvn:s:", &[]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let mut dump = Dump {
        canonical: parsed.has(b'C'),
        verbose: parsed.has(b'v'),
        offset: 0,
        skip: 0,
        left: u64::MAX,
        line: Vec::with_capacity(16),
        last: Vec::new(),
        starred: false,
    };
    for (letter, slot) in [(b'n', &mut dump.left), (b's', &mut dump.skip)] {
        if let Some(word) = parsed.value(letter) {
            match crate::xfs_io::numbers::parse(word, 4096, 512) {
                Some(value) if value >= 0 => *slot = value as u64,
                _ => {
                    let quoted = text::quote(word);
                    cx.error(format_args!("bad number {quoted}"));
                    return 1;
                }
            }
        }
    }
    dump.offset = dump.skip;
    let named = !parsed.operands.is_empty();
    let operands = if named { parsed.operands } else { alloc::vec![&b"-"[..]] };
    let (mut status, mut opened) = (0, 0);
    let process = cx.process.clone();
    for path in &operands {
        let result = Input::open(&process, path).and_then(|input| {
            opened += 1;
            read_pieces(&process, input.fd(), &mut |piece| dump.take(cx, piece))
        });
        if let Err(e) = result {
            cx.failed(path, &e);
            status = 1;
        }
    }
    if opened == 0 {
        cx.error(format_args!("all input file arguments failed"));
        return 1;
    }
    dump.finish(cx);
    status
}

impl Dump {
    /// Take input; false when there is enough.
    fn take(&mut self, cx: &mut Context, mut piece: &[u8]) -> bool {
        let skipped = self.skip.min(piece.len() as u64);
        self.skip -= skipped;
        piece = &piece[skipped as usize..];
        while !piece.is_empty() && self.left > 0 {
            let room = (16 - self.line.len()).min(piece.len());
            let n = (room as u64).min(self.left) as usize;
            self.line.extend_from_slice(&piece[..n]);
            self.left -= n as u64;
            piece = &piece[n..];
            if self.line.len() == 16 {
                self.print_line(cx);
            }
        }
        self.left > 0 && !cx.output_failed()
    }
    fn print_line(&mut self, cx: &mut Context) {
        let line = core::mem::take(&mut self.line);
        if !self.verbose && line.len() == 16 && line == self.last {
            if !self.starred {
                cx.bytes(b"*\n");
            }
            self.starred = true;
        } else {
            self.starred = false;
            if self.canonical { self.canonical_line(cx, &line) } else { self.word_line(cx, &line) }
        }
        self.offset += line.len() as u64;
        self.line = core::mem::replace(&mut self.last, line);
        self.line.clear();
    }
    fn canonical_line(&self, cx: &mut Context, line: &[u8]) {
        out!(cx, "{:08x} ", self.offset);
        for i in 0..16 {
            if i == 8 {
                cx.bytes(b" ");
            }
            match line.get(i) {
                Some(b) => out!(cx, " {b:02x}"),
                None => cx.bytes(b"   "),
            }
        }
        cx.bytes(b"  |");
        let shown: Vec<u8> =
            line.iter().map(|&b| if (0x20..0x7F).contains(&b) { b } else { b'.' }).collect();
        cx.bytes(&shown);
        cx.bytes(b"|\n");
    }
    fn word_line(&self, cx: &mut Context, line: &[u8]) {
        out!(cx, "{:07x}", self.offset);
        for i in 0..8 {
            let low = line.get(2 * i).copied();
            let high = line.get(2 * i + 1).copied().unwrap_or(0);
            match low {
                Some(low) => out!(cx, " {high:02x}{low:02x}"),
                None => cx.bytes(b"     "),
            }
        }
        cx.bytes(b"\n");
    }
    fn finish(&mut self, cx: &mut Context) {
        if !self.line.is_empty() {
            self.print_line(cx);
        }
        if self.offset > 0 {
            match self.canonical {
                true => out!(cx, "{:08x}\n", self.offset),
                false => out!(cx, "{:07x}\n", self.offset),
            }
        }
    }
}
