//! HTTP dates (RFC 9110 §5.6.7): the one place where they are read.
//!
//! All three forms of the grammar, and no others. More lenient than the grammar in two points that cannot change which moment is meant:
//! names of days and months, and `GMT`, in any case; and a day of the week that is not the date's.

use http::{HeaderMap, HeaderName};
use smallvec::SmallVec;

use crate::time::Timestamp;

/// Where no time is at hand, 2026-01-01: two-digit years are then read as 1976 to 2075. Good for comparing validators.
pub const WITHOUT_CLOCK: Timestamp = Timestamp::from_secs(1_767_225_600);

const DAYS: [&[u8]; 7] = [
    b"Monday",
    b"Tuesday",
    b"Wednesday",
    b"Thursday",
    b"Friday",
    b"Saturday",
    b"Sunday",
];

const MONTHS: [&[u8]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

const SECONDS_A_DAY: i64 = 86_400;

/// The date in the first line of a field; `None` where it is absent or no date.
#[must_use]
pub fn of(headers: &HeaderMap, name: &HeaderName, now: Timestamp) -> Option<Timestamp> {
    parse(headers.get(name)?.as_bytes(), now)
}

/// Reads a date. One before 1970 counts as 1970. `now` is what a two-digit year is read against.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
//# A recipient that parses a timestamp value in an HTTP field MUST
//# accept all three HTTP-date formats.
#[must_use]
pub fn parse(text: &[u8], now: Timestamp) -> Option<Timestamp> {
    let words: SmallVec<[&[u8]; 7]> = text
        .trim_ascii()
        .split(|byte| *byte == b' ')
        .take(7)
        .collect();
    match *words.as_slice() {
        // Sun Nov  6 08:49:37 1994
        [weekday, month, [], day, time, year] => {
            short_day(weekday)?;
            let day = digits(day, 1)?;
            moment(
                digits(year, 4)?,
                named_month(month)?,
                day,
                time_of_day(time)?,
            )
        }
        // Wed Nov 16 08:49:37 1994
        [weekday, month, day, time, year] => {
            short_day(weekday)?;
            let day = digits(day, 2)?;
            moment(
                digits(year, 4)?,
                named_month(month)?,
                day,
                time_of_day(time)?,
            )
        }
        // Sun, 06 Nov 1994 08:49:37 GMT
        [weekday, day, month, year, time, zone] => {
            short_day(weekday.strip_suffix(b",")?)?;
            gmt(zone)?;
            let day = digits(day, 2)?;
            moment(
                digits(year, 4)?,
                named_month(month)?,
                day,
                time_of_day(time)?,
            )
        }
        // Sunday, 06-Nov-94 08:49:37 GMT
        [weekday, date, time, zone] => {
            let weekday = weekday.strip_suffix(b",")?;
            DAYS.iter()
                .find(|name| weekday.eq_ignore_ascii_case(name))?;
            gmt(zone)?;
            let mut parts = date.split(|byte| *byte == b'-');
            let day = digits(parts.next()?, 2)?;
            let month = named_month(parts.next()?)?;
            let short_year = digits(parts.next()?, 2)?;
            if parts.next().is_some() {
                return None;
            }
            let second = time_of_day(time)?;
            moment(
                full_year(short_year, month, day, second, now),
                month,
                day,
                second,
            )
        }
        _ => None,
    }
}

/// The year that two digits mean.
///
//= https://www.rfc-editor.org/rfc/rfc9110#section-5.6.7
//# Recipients of a timestamp value in rfc850-date format, which uses a
//# two-digit year, MUST interpret a timestamp that appears to be more
//# than 50 years in the future as representing the most recent year in
//# the past that had the same last two digits.
fn full_year(two_digits: i64, month: i64, day: i64, second: i64, now: Timestamp) -> i64 {
    let seconds = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let (now_year, now_month, now_day) = civil(seconds.div_euclid(SECONDS_A_DAY));
    let latest = now_year + 50;
    let year = latest - (latest - two_digits).rem_euclid(100);
    let later_in_the_year =
        (month, day, second) > (now_month, now_day, seconds.rem_euclid(SECONDS_A_DAY));
    if year == latest && later_in_the_year {
        year - 100
    } else {
        year
    }
}

fn short_day(word: &[u8]) -> Option<()> {
    DAYS.iter()
        .any(|name| {
            name.get(..3)
                .is_some_and(|name| word.eq_ignore_ascii_case(name))
        })
        .then_some(())
}

fn gmt(word: &[u8]) -> Option<()> {
    word.eq_ignore_ascii_case(b"GMT").then_some(())
}

/// A month by its name, 1 to 12.
fn named_month(word: &[u8]) -> Option<i64> {
    let place = MONTHS
        .iter()
        .position(|name| word.eq_ignore_ascii_case(name))?;
    i64::try_from(place + 1).ok()
}

/// A number of exactly so many digits.
fn digits(word: &[u8], length: usize) -> Option<i64> {
    if word.len() != length {
        return None;
    }
    word.iter().try_fold(0_i64, |number, byte| {
        byte.is_ascii_digit()
            .then(|| number * 10 + i64::from(byte - b'0'))
    })
}

/// Seconds since midnight. Second 60 is the grammar's leap second, and the next minute here.
fn time_of_day(word: &[u8]) -> Option<i64> {
    let mut parts = word.split(|byte| *byte == b':');
    let hour = digits(parts.next()?, 2)?;
    let minute = digits(parts.next()?, 2)?;
    let second = digits(parts.next()?, 2)?;
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    Some(hour * 3600 + minute * 60 + second)
}

/// The moment of a date; `None` where its month has no such day.
fn moment(year: i64, month: i64, day: i64, second: i64) -> Option<Timestamp> {
    let days = days_since_1970(year, month, day);
    // A day that its month does not have comes back as one of the next.
    if civil(days) != (year, month, day) {
        return None;
    }
    let seconds = days * SECONDS_A_DAY + second;
    Some(Timestamp::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar. Years begin in March here, so that the leap day is a year's last.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a number of days since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days.saturating_add(719_468);
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = WITHOUT_CLOCK;

    fn seconds(text: &str) -> Option<u64> {
        parse(text.as_bytes(), NOW).map(Timestamp::as_secs)
    }

    #[test]
    fn the_three_forms_mean_the_same_moment_in_any_case() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "SUN, 06 nov 1994 08:49:37 gMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "sunday, 06-NOV-94 08:49:37 gmt",
            "Sun Nov  6 08:49:37 1994",
            "sun NOV 06 08:49:37 1994",
            " Sun, 06 Nov 1994 08:49:37 GMT ",
            "Tue, 06 Nov 1994 08:49:37 GMT",
        ] {
            assert_eq!(seconds(text), Some(784_111_777), "{text}");
        }
        assert_eq!(
            seconds("Thu, 31 Dec 1998 23:59:60 GMT"),
            seconds("Fri, 01 Jan 1999 00:00:00 GMT")
        );
        assert_eq!(seconds("Mon, 05 Nov 1950 08:49:37 GMT"), Some(0));
    }

    #[test]
    fn what_is_no_http_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "now",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 02:01:18 AEST",
            "Thu, 18 Aug 2050 02:01:18",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18-Aug-50 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Thu, 18 Aug 2050 02:60:18 GMT",
            "Thu, 18 Aug 2050 02:01:61 GMT",
            "Thu, 31 Jun 2050 02:01:18 GMT",
            "Thu, 00 Jun 2050 02:01:18 GMT",
            "Thu, 29 Feb 2100 02:01:18 GMT",
            "Thu, 18 Aug 2050 02:01:18 GMT GMT",
            "Xxx, 18 Aug 2050 02:01:18 GMT",
            "Thu Aug  18 02:01:18 2050",
            "Thu Aug 8 02:01:18 2050",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
        assert!(seconds("Tue, 29 Feb 2000 02:01:18 GMT").is_some());
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead() {
        let now = parse(b"Fri, 21 Nov 2026 12:00:00 GMT", NOW).unwrap();
        for (short, long) in [
            (
                "Friday, 20-Nov-76 12:00:00 GMT",
                "Fri, 20 Nov 2076 12:00:00 GMT",
            ),
            (
                "Friday, 21-Nov-76 12:00:00 GMT",
                "Fri, 21 Nov 2076 12:00:00 GMT",
            ),
            (
                "Friday, 21-Nov-76 12:00:01 GMT",
                "Fri, 21 Nov 1976 12:00:01 GMT",
            ),
            (
                "Friday, 01-Jan-77 00:00:00 GMT",
                "Fri, 01 Jan 1977 00:00:00 GMT",
            ),
            (
                "Friday, 01-Jan-99 00:00:00 GMT",
                "Fri, 01 Jan 1999 00:00:00 GMT",
            ),
            (
                "Friday, 01-Jan-26 00:00:00 GMT",
                "Fri, 01 Jan 2026 00:00:00 GMT",
            ),
        ] {
            assert_eq!(
                parse(short.as_bytes(), now),
                parse(long.as_bytes(), now),
                "{short}"
            );
        }
        let late = parse(b"Fri, 21 Nov 2095 12:00:00 GMT", NOW).unwrap();
        assert_eq!(
            parse(b"Friday, 01-Jan-10 00:00:00 GMT", late),
            parse(b"Fri, 01 Jan 2110 00:00:00 GMT", late)
        );
    }

    proptest! {
        #[test]
        fn every_date_that_is_written_reads_back(seconds in 0_u64..253_402_300_800) {
            let text = httpdate::fmt_http_date(SystemTime::from(Timestamp::from_secs(seconds)));
            prop_assert_eq!(parse(text.as_bytes(), NOW), Some(Timestamp::from_secs(seconds)));
        }

        #[test]
        fn no_bytes_and_no_clock_panic(text in proptest::collection::vec(any::<u8>(), 0..64), now: u64) {
            let _ = parse(&text, Timestamp(now));
        }

        #[test]
        fn nothing_that_looks_like_a_date_panics(
            text in "(Sun|Sunday|thu),? [0-9]{1,2}[ -](Nov|FEB|Xxx)[ -][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|UTC)",
            now: u64,
        ) {
            let _ = parse(text.as_bytes(), Timestamp(now));
        }
    }
}
