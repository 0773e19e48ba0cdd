//! The real-time clock in the CMOS.

use crate::arch::cpu;

const SECONDS: u8 = 0x00;
const MINUTES: u8 = 0x02;
const HOURS: u8 = 0x04;
const DAY: u8 = 0x07;
const MONTH: u8 = 0x08;
const YEAR: u8 = 0x09;
const STATUS_A: u8 = 0x0a;
const STATUS_B: u8 = 0x0b;
const CENTURY: u8 = 0x32;

fn read(register: u8) -> u8 {
    // SAFETY: the CMOS index and data ports; reading changes nothing.
    unsafe {
        cpu::outb(0x70, register);
        cpu::inb(0x71)
    }
}

fn read_fields() -> [u8; 7] {
    [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR, CENTURY].map(read)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years from March, so that the leap day is the last of its year.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before_epoch = 719_468;
    y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - before_epoch
}

/// Seconds since 1970-01-01 UTC; nothing when there is no clock or it says nonsense.
pub fn read_seconds() -> Option<u64> {
    const UPDATING: u8 = 1 << 7;
    const BINARY: u8 = 1 << 2;
    const HOURS_24: u8 = 1 << 1;
    // Two equal readings outside an update are consistent.
    let mut fields = None;
    for _ in 0..100 {
        if read(STATUS_A) & UPDATING != 0 {
            core::hint::spin_loop();
            continue;
        }
        let first = read_fields();
        if first == read_fields() && read(STATUS_A) & UPDATING == 0 {
            fields = Some(first);
            break;
        }
    }
    let status = read(STATUS_B);
    let pm = status & HOURS_24 == 0;
    let decode =
        |v: u8| u64::from(if status & BINARY != 0 { v } else { (v >> 4) * 10 + (v & 0xf) });
    let [second, minute, raw_hour, day, month, year, century] = fields?;
    let mut hour = decode(raw_hour & 0x7f);
    if pm {
        hour = hour % 12 + if raw_hour & 0x80 != 0 { 12 } else { 0 };
    }
    let century = Some(decode(century)).filter(|c| (19..=29).contains(c)).unwrap_or(20);
    let (year, month, day) = (century * 100 + decode(year), decode(month), decode(day));
    let (minute, second) = (decode(minute), decode(second));
    let valid = (1970..3000).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    valid.then(|| ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}
