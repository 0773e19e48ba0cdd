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
    /// The month's name, three letters.
    pub fn month_name(&self) -> &'static str {
        three(MONTHS, self.month.clamp(1, 12) - 1)
    }
    /// The weekday's name, three letters.
    pub fn weekday_name(&self) -> &'static str {
        three(WEEKDAYS, self.weekday.min(6))
    }
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
    fn every_day_of_four_centuries_follows_the_one_before() {
        let mut last = Date::from_seconds(-86_400 * 400 * 365);
        for day in -400 * 365 + 1..400 * 365 {
            let d = Date::from_seconds(day * 86_400);
            let next_day = d.day == last.day + 1 && d.month == last.month && d.year == last.year;
            let next_month = d.day == 1 && d.month == last.month + 1 && d.year == last.year;
            let next_year = d.day == 1 && d.month == 1 && d.year == last.year + 1;
            assert!(next_day || next_month || next_year, "{last:?} {d:?}");
            assert_eq!(d.weekday, (last.weekday + 1) % 7);
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
