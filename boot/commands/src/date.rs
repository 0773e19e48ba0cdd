//! Calendar dates in UTC.

use alloc::string::String;
use holdfast_fs::xfs::Timestamp;

/// A date and time of day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// The year; 0 and below are before our era.
    pub year: i64,
    /// 1 to 12.
    pub month: u32,
    /// 1 to 31.
    pub day: u32,
    /// 0 to 23.
    pub hour: u32,
    /// 0 to 59.
    pub minute: u32,
    /// 0 to 59.
    pub second: u32,
    /// 0 (Sunday) to 6.
    pub weekday: u32,
}

const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
const WEEKDAYS: &[u8; 21] = b"SunMonTueWedThuFriSat";

fn three(names: &[u8], index: u32) -> &str {
    let at = index as usize * 3;
    core::str::from_utf8(&names[at..at + 3]).unwrap_or("???")
}

impl Date {
    /// The date of a number of seconds since 1970-01-01.
    pub fn from_seconds(seconds: i64) -> Self {
        let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
        // Years that begin in March: the leap day is the last of its year.
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month: month as u32,
            day: (day_of_year - (153 * march_month + 2) / 5 + 1) as u32,
            hour: rest / 3600,
            minute: rest / 60 % 60,
            second: rest % 60,
            weekday: (days + 4).rem_euclid(7) as u32,
        }
    }
    /// Seconds since 1970-01-01; nothing if there is no such day or time of day.
    pub fn seconds(&self) -> Option<i64> {
        // Years that begin in March, as above.
        let (year, month) = match self.month {
            1 | 2 => (self.year - 1, self.month + 9),
            3..=12 => (self.year, self.month - 3),
            _ => return None,
        };
        let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
        let day_of_year = i64::from((153 * month + 2) / 5 + self.day) - 1;
        let days = year * 365 + leap_days + day_of_year - 719_468;
        let time = i64::from(self.hour * 3600 + self.minute * 60 + self.second);
        let seconds = days * 86_400 + time;
        // What is too much of something comes back as something else.
        let back = Self { weekday: self.weekday, ..Self::from_seconds(seconds) };
        (back == *self).then_some(seconds)
    }
    /// The month's name, three letters.
    pub fn month_name(&self) -> &'static str {
        three(MONTHS, self.month.clamp(1, 12) - 1)
    }
    /// The weekday's name, three letters.
    pub fn weekday_name(&self) -> &'static str {
        three(WEEKDAYS, self.weekday.min(6))
    }
}

/// Decimal digits, at most nine.
fn digits(word: &[u8]) -> Option<u32> {
    let number = core::str::from_utf8(word).ok()?;
    (word.len() < 10 && word.iter().all(u8::is_ascii_digit)).then(|| number.parse().ok())?
}

/// A date as `touch -d` understands it: `2026-11-22[ 16:20[:31[.381590935]]][ +0000]`, with
/// a `T` for the blank and `Z` or `UTC` for the offset if need be.
pub fn parse(word: &[u8]) -> Option<Timestamp> {
    let word = core::str::from_utf8(word).ok()?.trim();
    let (day, rest) = word.split_at_checked(10)?;
    let mut parts = day.splitn(3, '-').map(|part| digits(part.as_bytes()));
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let rest = rest.strip_prefix('T').unwrap_or(rest).trim_start();
    let end = rest.find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'));
    let (time, zone) = rest.split_at(end.unwrap_or(rest.len()));
    let offset = match zone.trim() {
        "" | "Z" | "UTC" | "GMT" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let number = digits(zone.get(1..)?.replace(':', "").as_bytes())?;
            let known = zone.starts_with(['+', '-']) && number % 100 < 60 && number < 2500;
            known.then_some(sign * i64::from(number / 100 * 3600 + number % 100 * 60))?
        }
    };
    let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
    let mut clock = [0; 3];
    if !time.is_empty() {
        let parts: alloc::vec::Vec<&str> = time.split(':').collect();
        if !(2..=3).contains(&parts.len()) {
            return None;
        }
        for (to, part) in clock.iter_mut().zip(parts) {
            *to = digits(part.as_bytes())?;
        }
    }
    let nanoseconds = match fraction {
        "" => 0,
        _ => digits(alloc::format!("{:0<9.9}", fraction).as_bytes())?,
    };
    let [hour, minute, second] = clock;
    let date = Date { year: year.into(), month, day, hour, minute, second, weekday: 0 };
    Some(Timestamp { seconds: date.seconds()? - offset, nanoseconds })
}

/// A date as `touch -t` understands it: `[[CC]YY]MMDDhhmm[.ss]`; the year is `this_year`
/// where there is none.
pub fn parse_stamp(word: &[u8], this_year: i64) -> Option<Timestamp> {
    let (word, second) = match word.iter().position(|&b| b == b'.') {
        Some(at) => (&word[..at], digits(&word[at + 1..]).filter(|_| word.len() == at + 3)?),
        None => (word, 0),
    };
    let (year, rest) = word.split_at_checked(word.len().checked_sub(8)?)?;
    let year = match (year.len(), digits(year)) {
        (0, _) => this_year,
        (2, Some(year @ 0..69)) => 2000 + i64::from(year),
        (2, Some(year)) => 1900 + i64::from(year),
        (4, Some(year)) => year.into(),
        _ => return None,
    };
    let pair = |at: usize| digits(&rest[at..at + 2]);
    let (month, day, hour, minute) = (pair(0)?, pair(2)?, pair(4)?, pair(6)?);
    let date = Date { year, month, day, hour, minute, second, weekday: 0 };
    Some(Timestamp { seconds: date.seconds()?, nanoseconds: 0 })
}

/// `2026-11-22 16:20:31.381590935 +0000`
pub fn full(t: Timestamp) -> String {
    let d = Date::from_seconds(t.seconds);
    alloc::format!(
        "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:09} +0000",
        d.year,
        d.month,
        d.day,
        d.hour,
        d.minute,
        d.second,
        t.nanoseconds
    )
}

/// `Sun Nov 22 16:20:31 2026`, as C's `ctime` without the line's end.
pub fn ctime(seconds: i64) -> String {
    let d = Date::from_seconds(seconds);
    alloc::format!(
        "{} {} {:2} {:02}:{:02}:{:02} {}",
        d.weekday_name(),
        d.month_name(),
        d.day,
        d.hour,
        d.minute,
        d.second,
        d.year
    )
}

/// As `ls -l` shows it: the time of day for the last half year, otherwise the year.
pub fn listing(t: Timestamp, now_seconds: i64) -> String {
    /// Half of 365.2425 days.
    const HALF_YEAR: i64 = 15_778_476;
    let d = Date::from_seconds(t.seconds);
    if t.seconds > now_seconds - HALF_YEAR && t.seconds <= now_seconds {
        alloc::format!("{} {:2} {:02}:{:02}", d.month_name(), d.day, d.hour, d.minute)
    } else {
        alloc::format!("{} {:2} {:>5}", d.month_name(), d.day, d.year)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_dates() {
        assert_eq!(ctime(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(ctime(1_795_364_431), "Sun Nov 22 16:20:31 2026");
        assert_eq!(ctime(-1), "Wed Dec 31 23:59:59 1969");
        assert_eq!(ctime(951_782_400), "Tue Feb 29 00:00:00 2000");
        assert_eq!(ctime(16_299_260_424), "Tue Jul  2 20:20:24 2486");
        assert_eq!(
            full(Timestamp { seconds: -2_147_483_648, nanoseconds: 5 }).split(' ').next(),
            Some("1901-12-13")
        );
    }

    #[test]
    fn written_dates() {
        let at = |word: &str| parse(word.as_bytes()).map(|t| (t.seconds, t.nanoseconds));
        assert_eq!(at("1970-01-01"), Some((0, 0)));
        assert_eq!(at("2026-11-22 16:20:31"), Some((1_795_364_431, 0)));
        assert_eq!(at("2026-11-22T16:20:31.25Z"), Some((1_795_364_431, 250_000_000)));
        assert_eq!(at("2026-11-22 17:20:31 +0100"), Some((1_795_364_431, 0)));
        assert_eq!(at("2026-11-22 16:20"), Some((1_795_364_400, 0)));
        assert_eq!(at("1901-12-13 20:45:52"), Some((-2_147_483_648, 0)));
        for bad in ["", "2026-02-29", "2026-13-01", "2026-01-01 24:00", "2026-01-01 x", "bogus"] {
            assert_eq!(at(bad), None, "{bad}");
        }
        let stamp = |word: &str| parse_stamp(word.as_bytes(), 2026).map(|t| t.seconds);
        assert_eq!(stamp("202611221620.31"), Some(1_795_364_431));
        assert_eq!(stamp("2611221620"), Some(1_795_364_400));
        assert_eq!(stamp("11221620"), Some(1_795_364_400));
        assert_eq!(stamp("7001010000"), Some(0));
        for bad in ["", "1", "02300000", "202611221620.3", "12611221620"] {
            assert_eq!(stamp(bad), None, "{bad}");
        }
    }

    #[test]
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut last = Date::from_seconds(-86_400 * 400 * 365);
        for day in -400 * 365 + 1..400 * 365 {
            let d = Date::from_seconds(day * 86_400);
            let next_day = d.day == last.day + 1 && d.month == last.month && d.year == last.year;
            let next_month = d.day == 1 && d.month == last.month + 1 && d.year == last.year;
            let next_year = d.day == 1 && d.month == 1 && d.year == last.year + 1;
            assert!(next_day || next_month || next_year, "{last:?} {d:?}");
            assert_eq!(d.weekday, (last.weekday + 1) % 7);
            assert_eq!(Date { weekday: 0, ..d }.seconds(), Some(day * 86_400));
            last = d;
        }
    }

    #[test]
    fn listings_show_the_year_of_old_files() {
        let now = 1_795_364_431;
        let at = |seconds| listing(Timestamp { seconds, nanoseconds: 0 }, now);
        assert_eq!(at(now - 60), "Nov 22 16:19");
        assert_eq!(at(0), "Jan  1  1970");
        assert_eq!(at(now + 100), "Nov 22  2026");
    }
}
