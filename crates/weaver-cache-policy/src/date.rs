//! HTTP dates (RFC 9110 §5.6.7): the preferred form and the two obsolete ones.
//!
//! A recipient must accept all three. Names of days are read and not checked against the date, as
//! in every cache known to us; names of months, days and the zone are compared with case, and
//! whatever does not have the exact form is no date, which callers treat as the field's own section
//! says (an invalid Expires is in the past, an invalid Date or Last-Modified is absent).

use crate::Millis;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const LONG_DAYS: [&str; 7] = [
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
    "Sunday",
];

/// Reads an HTTP date.
///
/// `now` settles the century of a two-digit year: one that would lie more than 50 years ahead is
/// taken as the most recent past year with the same digits. Dates before 1970 become the epoch,
/// since nothing a cache decides tells them apart. Returns `None` for anything else.
#[must_use]
pub fn parse(value: &[u8], now: Millis) -> Option<Millis> {
    let text = std::str::from_utf8(crate::headers::trim(value)).ok()?;
    imf_fixdate(text)
        .or_else(|| rfc850(text, now))
        .or_else(|| asctime(text))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`
fn imf_fixdate(text: &str) -> Option<Millis> {
    if text.len() != 29 || !text.is_ascii() {
        return None;
    }
    if !is_day(&DAYS, &text[..3]) || &text[3..5] != ", " || !is_gmt(&text[25..]) {
        return None;
    }
    let separators = [7, 11, 16].iter().all(|at| text.as_bytes()[*at] == b' ');
    let (day, month, year) = (
        number(&text[5..7])?,
        month(&text[8..11])?,
        number(&text[12..16])?,
    );
    separators.then(|| instant(year, month, day, &text[17..25]))?
}

/// `Sunday, 06-Nov-94 08:49:37 GMT`
fn rfc850(text: &str, now: Millis) -> Option<Millis> {
    let (name, rest) = text.split_once(", ")?;
    if !is_day(&LONG_DAYS, name) || rest.len() != 22 || !rest.is_ascii() {
        return None;
    }
    let bytes = rest.as_bytes();
    if bytes[2] != b'-' || bytes[6] != b'-' || bytes[9] != b' ' || !is_gmt(&rest[18..]) {
        return None;
    }
    let (day, month, two) = (
        number(&rest[..2])?,
        month(&rest[3..6])?,
        number(&rest[7..9])?,
    );
    let this_year = civil_from_days(now.secs() / 86_400).0;
    let mut year = this_year - this_year % 100 + two;
    if year > this_year + 50 {
        year -= 100;
    } else if year + 50 <= this_year {
        // "appears to be more than 50 years in the future" is the only rule; a year of the last
        // half century that has passed is meant as it stands, one further back as the next one.
        year += if year + 100 > this_year + 50 { 0 } else { 100 };
    }
    instant(year, month, day, &rest[10..18])
}

/// `Sun Nov  6 08:49:37 1994`
fn asctime(text: &str) -> Option<Millis> {
    if text.len() != 24 || !text.is_ascii() {
        return None;
    }
    let bytes = text.as_bytes();
    if !is_day(&DAYS, &text[..3]) || [3, 7, 10, 19].iter().any(|at| bytes[*at] != b' ') {
        return None;
    }
    let day = if bytes[8] == b' ' {
        number(&text[9..10])?
    } else {
        number(&text[8..10])?
    };
    instant(
        number(&text[20..])?,
        month(&text[4..7])?,
        day,
        &text[11..19],
    )
}

fn number(digits: &str) -> Option<u64> {
    digits
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| digits.parse().ok())?
}

fn is_day(names: &[&str], text: &str) -> bool {
    names.iter().any(|name| name.eq_ignore_ascii_case(text))
}

fn is_gmt(text: &str) -> bool {
    text.eq_ignore_ascii_case(" GMT")
}

fn month(name: &str) -> Option<u64> {
    MONTHS
        .iter()
        .position(|candidate| candidate.eq_ignore_ascii_case(name))
        .map(|at| at as u64 + 1)
}

fn instant(year: u64, month: u64, day: u64, time: &str) -> Option<Millis> {
    let bytes = time.as_bytes();
    if bytes.len() != 8 || bytes[2] != b':' || bytes[5] != b':' {
        return None;
    }
    let (hour, minute, second) = (
        number(&time[..2])?,
        number(&time[3..5])?,
        number(&time[6..])?,
    );
    // 60 is a leap second (RFC 5322 §3.3); it falls on the next minute's first.
    if hour > 23 || minute > 59 || second > 60 || day == 0 || day > days_in(year, month) {
        return None;
    }
    if year < 1970 {
        return Some(Millis(0));
    }
    let days = days_from_civil(year, month, day);
    Some(Millis(
        (days * 86_400 + hour * 3600 + minute * 60 + second) * 1000,
    ))
}

fn days_in(year: u64, month: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from the epoch, by counting years from March so that the leap day is a year's last
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms"). `year` is at least 1970.
fn days_from_civil(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * shifted + 2) / 5 + 1)
}

/// Writes the preferred form, `Sun, 06 Nov 1994 08:49:37 GMT`; years past 9999 as the last second
/// of 9999.
#[must_use]
pub fn format(at: Millis) -> String {
    const LAST: u64 = 253_402_300_799;
    let seconds = at.secs().min(LAST);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil_from_days(days);
    format!(
        "{}, {day:02} {} {year:04} {:02}:{:02}:{:02} GMT",
        DAYS[(days % 7) as usize],
        MONTHS[(month - 1) as usize],
        rest / 3600,
        rest / 60 % 60,
        rest % 60,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_000);
    const EXAMPLE: Millis = Millis(784_111_777_000);

    #[test]
    fn the_three_forms_of_the_rfc_are_the_same_instant() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), Some(EXAMPLE), "{text}");
        }
    }

    #[test]
    fn a_two_digit_year_is_at_most_fifty_years_ahead() {
        let year = |text: &str| {
            parse(text.as_bytes(), NOW).map(|at| civil_from_days(at.secs() / 86_400).0)
        };
        assert_eq!(year("Monday, 01-Jan-73 00:00:00 GMT"), Some(2073));
        assert_eq!(year("Monday, 01-Jan-74 00:00:00 GMT"), Some(1974));
        assert_eq!(year("Monday, 01-Jan-24 00:00:00 GMT"), Some(2024));
    }

    #[test]
    fn what_only_looks_like_a_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "now",
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu, 18 Aug 2050 2:01:18 GMT",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Thu, 18-Aug-2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 02.01.18 GMT",
            "Thu, 18 Aug 50 02:01:18 GMT",
            "Thu, 18  Aug  2050 02:01:18 GMT",
            "Thu, 31 Feb 2050 02:01:18 GMT",
            "Thu, 18 Aug 2050 24:01:18 GMT",
            "Thu, 18 Aug 20é0 02:01:18 GM",
        ] {
            assert_eq!(parse(text.as_bytes(), NOW), None, "{text}");
        }
    }

    #[test]
    fn dates_before_the_epoch_are_the_epoch() {
        assert_eq!(
            parse(b"Sun, 06 Nov 1904 08:49:37 GMT", NOW),
            Some(Millis(0))
        );
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(seconds in 0_u64..253_402_300_800) {
            let at = Millis(seconds * 1000);
            prop_assert_eq!(parse(format(at).as_bytes(), NOW), Some(at));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), now in any::<u64>()) {
            let _ = parse(&bytes, Millis(now % 253_402_300_799_000));
        }

        #[test]
        fn nearly_dates_do_not_panic(text in "[A-Z][a-z]{2,8}, [0-9 ]{2}[- ][A-Z][a-z]{2}[- ][0-9]{2,4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT") {
            let _ = parse(text.as_bytes(), NOW);
        }

        #[test]
        fn formatting_never_panics(at in any::<u64>()) {
            prop_assert_eq!(format(Millis(at)).len(), 29);
        }
    }
}
