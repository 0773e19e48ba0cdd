//! `cksum`: POSIX's CRC and the size.

use super::{Input, read_pieces};
use crate::context::{Context, Status};
use crate::{options, out};

/// The generator polynomial x^32 + x^26 + ... + 1, most significant bit first.
const POLYNOMIAL: u32 = 0x04C1_1DB7;

const fn table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u32) << 24;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc >> 31 != 0 { crc << 1 ^ POLYNOMIAL } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
}

static TABLE: [u32; 256] = table();

fn step(crc: u32, byte: u8) -> u32 {
    crc << 8 ^ TABLE[usize::from((crc >> 24) as u8 ^ byte)]
}

/// POSIX's CRC continues over the length, least significant byte first.
fn finish(mut crc: u32, size: u64) -> u32 {
    let mut rest = size;
    while rest != 0 {
        crc = step(crc, rest as u8);
        rest >>= 8;
    }
    !crc
}

/// `cksum [FILE]...`
pub fn main(cx: &mut Context, argv: &[&[u8]]) -> Status {
    let parsed = match options::parse(argv, "", &[]) {
        Ok(parsed) => parsed,
        Err(e) => return cx.usage(format_args!("{e}"), 1),
    };
    let named = !parsed.operands.is_empty();
    let operands = if named { parsed.operands } else { alloc::vec![&b"-"[..]] };
    let mut status = 0;
    let process = cx.process.clone();
    for path in operands {
        let (mut crc, mut size) = (0, 0u64);
        let result = Input::open(&process, path).and_then(|input| {
            read_pieces(&process, input.fd(), &mut |piece| {
                crc = piece.iter().fold(crc, |crc, &b| step(crc, b));
                size += piece.len() as u64;
                true
            })
        });
        if let Err(e) = result {
            cx.failed(path, &e);
            status = 1;
            continue;
        }
        out!(cx, "{} {size}", finish(crc, size));
        if named {
            cx.bytes(b" ");
            cx.bytes(path);
        }
        cx.bytes(b"\n");
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_posix() {
        let sum =
            |bytes: &[u8]| finish(bytes.iter().fold(0, |crc, &b| step(crc, b)), bytes.len() as u64);
        assert_eq!(sum(b""), 4_294_967_295);
        assert_eq!(sum(b"123456789"), 930_766_865);
    }
}
