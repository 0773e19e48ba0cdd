//! Numbers as `xfs_io` reads and writes them.

use alloc::string::{String, ToString};

/// A number in C's notation (decimal, `0x` hexadecimal, `0` octal) with at most one suffix:
/// `b` blocks, `s` sectors, `k`, `m`, `g`, `t`, `p`, `e` powers of 1024.
pub fn parse(word: &[u8], block_bytes: u32, sector_bytes: u32) -> Option<i64> {
    let (value, rest) = integer(word)?;
    let factor = match rest {
        [] => 1,
        [suffix] => match suffix.to_ascii_lowercase() {
            b'b' => i64::from(block_bytes),
            b's' => i64::from(sector_bytes),
            b'k' => 1 << 10,
            b'm' => 1 << 20,
            b'g' => 1 << 30,
            b't' => 1 << 40,
            b'p' => 1 << 50,
            b'e' => 1 << 60,
            _ => return None,
        },
        _ => return None,
    };
    value.checked_mul(factor)
}

/// `strtoll` with base 0: the value and what follows it.
pub(super) fn integer(word: &[u8]) -> Option<(i64, &[u8])> {
    let (negative, digits) = match word.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, word),
    };
    let hex = matches!(digits, [b'0', b'x' | b'X', d, ..] if d.is_ascii_hexdigit());
    let (radix, digits) = match (hex, digits.first()) {
        (true, _) => (16, &digits[2..]),
        (false, Some(b'0')) => (8, digits),
        _ => (10, digits),
    };
    let len = digits.iter().take_while(|&&d| (d as char).is_digit(radix)).count();
    if len == 0 {
        return None;
    }
    let mut value: i64 = 0;
    for &d in &digits[..len] {
        let d = i64::from((d as char).to_digit(radix)?);
        value = value.saturating_mul(radix.into()).saturating_add(d);
    }
    Some((if negative { -value } else { value }, &digits[len..]))
}

/// An amount with its unit: whole numbers of bytes without decimals.
pub fn amount(value: f64) -> String {
    const UNITS: [(&str, u32); 6] =
        [("EiB", 60), ("PiB", 50), ("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
    // As the tool decides it: whole, and below what a C int holds.
    let whole = (0.0..2_147_483_648.0).contains(&value) && value == (value as i64) as f64;
    for (name, shift) in UNITS {
        let unit = (1u64 << shift) as f64;
        if value >= unit {
            let scaled = value / unit;
            return if whole {
                alloc::format!("{} {name}", fixed(scaled, 0))
            } else {
                alloc::format!("{} {name}", fixed(scaled, 3))
            };
        }
    }
    alloc::format!("{} bytes", fixed(value, 6))
}

/// C's `%.*f`, with its names of what is no number.
pub fn fixed(value: f64, decimals: usize) -> String {
    if value.is_nan() {
        "-nan".to_string()
    } else if value.is_infinite() {
        "inf".to_string()
    } else {
        alloc::format!("{value:.decimals$}")
    }
}

/// A duration: decimals of a second below one, otherwise with hours and minutes.
pub fn duration(nanoseconds: u64, always_long: bool) -> String {
    let (seconds, micros) = (nanoseconds / 1_000_000_000, nanoseconds / 1000 % 1_000_000);
    if seconds == 0 && !always_long {
        return alloc::format!("0.{:04} sec", micros / 100);
    }
    let (h, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    alloc::format!("{h}:{m:02}:{s:02}.{:02}", micros / 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_suffixes() {
        let n = |w: &str| parse(w.as_bytes(), 4096, 512);
        assert_eq!(n("10"), Some(10));
        assert_eq!(n("010"), Some(8));
        assert_eq!(n("0x1F"), Some(31));
        assert_eq!(n("1k"), Some(1024));
        assert_eq!(n("3M"), Some(3 << 20));
        assert_eq!(n("2b"), Some(8192));
        assert_eq!(n("2s"), Some(1024));
        assert_eq!(n("0"), Some(0));
        assert_eq!(n("-1"), Some(-1));
        for bad in ["", "x", "1kb", "1z", "k", "99999999999999999999e"] {
            assert_eq!(n(bad), None, "{bad}");
        }
    }

    #[test]
    fn amounts_as_the_tool_prints_them() {
        assert_eq!(amount(8192.0), "8 KiB");
        assert_eq!(amount(3000.0), "3 KiB");
        assert_eq!(amount(40.0), "40.000000 bytes");
        assert_eq!(amount(1023.0), "1023.000000 bytes");
        assert_eq!(amount(3_221_225_472.0), "3.000 GiB");
        assert_eq!(amount(1_073_741_824.0), "1 GiB");
        assert_eq!(amount(2_048_000_000.0), "2 GiB");
        assert_eq!(amount(8192.0 / 17e-6), "459.559 MiB");
        assert_eq!(amount(0.0), "0.000000 bytes");
        assert_eq!(amount(f64::NAN), "-nan bytes");
        assert_eq!(amount(f64::INFINITY), "inf EiB");
    }

    #[test]
    fn durations() {
        assert_eq!(duration(200_000, false), "0.0002 sec");
        assert_eq!(duration(2_720_000_000, false), "0:00:02.72");
        assert_eq!(duration(61_000_000_000, false), "0:01:01.00");
        assert_eq!(duration(2_000, true), "0:00:00.00");
    }
}
