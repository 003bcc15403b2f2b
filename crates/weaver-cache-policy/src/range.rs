//! Range requests on a complete stored body (RFC 9110 §14).

use crate::{
    Headers, Millis, conditional, date,
    headers::{list, trim},
};

/// More parts than this in one request are answered with the whole body: many small or overlapping
/// ranges are how a client makes a server work (RFC 9110 §17.15).
pub const MAX_PARTS: usize = 16;

/// An inclusive range of byte positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

impl Part {
    /// How many bytes it has, at least one.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.last - self.first + 1
    }
}

/// What of a body to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of it, with the status it has.
    Whole,
    /// One part, 206.
    One(Part),
    /// Several parts, 206 with multipart/byteranges.
    Several(Vec<Part>),
    /// Nothing that was asked for exists, 416.
    Unsatisfiable,
}

/// One range as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spec {
    /// `first-last`, the last possibly open.
    From(u64, Option<u64>),
    /// `-length`.
    Suffix(u64),
}

impl Spec {
    /// The part of a body of `length` bytes that it means.
    #[must_use]
    pub fn of(self, length: u64) -> Option<Part> {
        match self {
            Self::From(first, last) if first < length => Some(Part {
                first,
                last: last.unwrap_or(u64::MAX).min(length - 1),
            }),
            Self::Suffix(bytes) if bytes > 0 && length > 0 => Some(Part {
                first: length.saturating_sub(bytes),
                last: length - 1,
            }),
            _ => None,
        }
    }
}

/// Reads a Range field; `None` where it is absent, malformed or not in bytes, all of which leave
/// the request one for the whole (§14.2).
#[must_use]
pub fn parse(request: &(impl Headers + ?Sized)) -> Option<Vec<Spec>> {
    let mut lines = request.lines("range");
    let value = trim(lines.next()?);
    if lines.next().is_some() {
        return None;
    }
    let at = value.iter().position(|byte| *byte == b'=')?;
    if !value[..at].eq_ignore_ascii_case(b"bytes") {
        return None;
    }
    let specs: Vec<Spec> = list(std::iter::once(&value[at + 1..]))
        .map(spec)
        .collect::<Option<_>>()?;
    (!specs.is_empty()).then_some(specs)
}

fn spec(text: &[u8]) -> Option<Spec> {
    let number = |digits: &[u8]| -> Option<u64> {
        let digits = std::str::from_utf8(digits).ok()?;
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        // A position too large to count is past every end.
        Some(digits.parse().unwrap_or(u64::MAX))
    };
    let at = text.iter().position(|byte| *byte == b'-')?;
    let (first, last) = (&text[..at], &text[at + 1..]);
    if first.is_empty() {
        return number(last).map(Spec::Suffix);
    }
    let first = number(first)?;
    let last = if last.is_empty() {
        None
    } else {
        Some(number(last)?)
    };
    last.is_none_or(|last| last >= first)
        .then_some(Spec::From(first, last))
}

/// Selects what a GET for a stored 200 of `length` bytes gets.
#[must_use]
pub fn select(
    request: &(impl Headers + ?Sized),
    stored: &(impl Headers + ?Sized),
    length: u64,
    now: Millis,
) -> Selection {
    let Some(specs) = parse(request) else {
        return Selection::Whole;
    };
    if !if_range_holds(request, stored, now) || specs.len() > MAX_PARTS {
        return Selection::Whole;
    }
    let parts: Vec<Part> = specs.iter().filter_map(|spec| spec.of(length)).collect();
    let wanted = parts
        .iter()
        .fold(0_u64, |sum, part| sum.saturating_add(part.bytes()));
    match parts[..] {
        [] => Selection::Unsatisfiable,
        [part] => Selection::One(part),
        // Overlapping parts that add up to more than the body cost more than the body.
        _ if wanted > length => Selection::Whole,
        _ => Selection::Several(parts),
    }
}

/// RFC 9110 §13.1.5: a strong tag that is the same, or the very Last-Modified, that is, a strong
/// validator in its sense; without If-Range the range holds.
#[must_use]
pub fn if_range_holds(
    request: &(impl Headers + ?Sized),
    stored: &(impl Headers + ?Sized),
    now: Millis,
) -> bool {
    let Some(value) = request.first("if-range").map(trim) else {
        return true;
    };
    if value.starts_with(b"\"") || value.starts_with(b"W/") {
        return stored
            .first("etag")
            .is_some_and(|tag| conditional::strongly_equal(trim(tag), value));
    }
    let Some(wanted) = date::parse(value, now) else {
        return false;
    };
    let modified = stored
        .first("last-modified")
        .and_then(|value| date::parse(value, now));
    let sent = stored
        .first("date")
        .and_then(|value| date::parse(value, now));
    // A Last-Modified less than a second before Date may have changed again since (§8.8.2.2).
    modified == Some(wanted) && sent.is_some_and(|sent| sent.since(wanted) >= 1000)
}

/// The value of a Content-Range of a 206.
#[must_use]
pub fn content_range(part: Part, length: u64) -> String {
    format!("bytes {}-{}/{length}", part.first, part.last)
}

/// Reads the Content-Range of a single-part 206: the part, and the complete length where it is
/// known. `None` for anything else, 416's form included.
#[must_use]
pub fn parse_content_range(value: &[u8]) -> Option<(Part, Option<u64>)> {
    let text = std::str::from_utf8(trim(value)).ok()?;
    let (unit, rest) = text.split_once(' ')?;
    let (positions, length) = rest.split_once('/')?;
    let (first, last) = positions.split_once('-')?;
    if !unit.eq_ignore_ascii_case("bytes") {
        return None;
    }
    let part = Part {
        first: first.parse().ok()?,
        last: last.parse().ok()?,
    };
    let length = if length == "*" {
        None
    } else {
        Some(length.parse().ok()?)
    };
    let valid = part.first <= part.last && length.is_none_or(|length: u64| part.last < length);
    (valid && part.last < u64::MAX).then_some((part, length))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn selected(range: &str, length: u64) -> Selection {
        let stored: [(&str, &str); 0] = [];
        select(&[("range", range)][..], &stored[..], length, NOW)
    }

    #[test]
    fn single_ranges_are_cut_to_the_body() {
        assert_eq!(
            selected("bytes=0-1", 11),
            Selection::One(Part { first: 0, last: 1 })
        );
        assert_eq!(
            selected("bytes=1-", 11),
            Selection::One(Part { first: 1, last: 10 })
        );
        assert_eq!(
            selected("bytes=-1", 11),
            Selection::One(Part {
                first: 10,
                last: 10
            })
        );
        assert_eq!(
            selected("bytes=-99", 11),
            Selection::One(Part { first: 0, last: 10 })
        );
        assert_eq!(
            selected("Bytes=5-99999999999999999999999", 11),
            Selection::One(Part { first: 5, last: 10 })
        );
    }

    #[test]
    fn what_cannot_be_satisfied_is_told_from_what_is_malformed() {
        for range in ["bytes=11-", "bytes=-0", "bytes=99-100, 50-60"] {
            assert_eq!(selected(range, 11), Selection::Unsatisfiable, "{range}");
        }
        for range in [
            "bytes=",
            "bytes=2-1",
            "lines=0-1",
            "bytes",
            "bytes=a-b",
            "bytes=--1",
            "0-1",
        ] {
            assert_eq!(selected(range, 11), Selection::Whole, "{range}");
        }
    }

    #[test]
    fn many_or_overlapping_parts_get_the_whole() {
        assert!(
            matches!(selected("bytes=0-1, 4-5", 11), Selection::Several(parts) if parts.len() == 2)
        );
        assert_eq!(selected("bytes=0-9, 1-9", 11), Selection::Whole);
        assert_eq!(
            selected(&format!("bytes={}", vec!["0-0"; 17].join(",")), 1000),
            Selection::Whole
        );
    }

    #[test]
    fn if_range_needs_a_strong_validator() {
        let stored = [
            ("etag", "\"a\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("date", "Sun, 06 Nov 1994 08:50:37 GMT"),
        ];
        let holds = |value| if_range_holds(&[("if-range", value)][..], &stored[..], NOW);
        assert!(holds("\"a\""));
        assert!(!holds("\"b\""));
        assert!(!holds("W/\"a\""));
        assert!(holds("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(!holds("Sun, 06 Nov 1995 08:49:37 GMT"));
        assert!(!holds("nonsense"));
    }

    #[test]
    fn content_range_reads_back() {
        let part = Part { first: 4, last: 9 };
        assert_eq!(
            parse_content_range(content_range(part, 10).as_bytes()),
            Some((part, Some(10)))
        );
        assert_eq!(parse_content_range(b"bytes 4-9/*"), Some((part, None)));
        for bad in [
            "bytes */10",
            "bytes 9-4/10",
            "bytes 4-10/10",
            "lines 4-9/10",
            "",
            "bytes 0-18446744073709551615/*",
        ] {
            assert_eq!(parse_content_range(bad.as_bytes()), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_selection_lies_within_the_body(range in "bytes=[0-9,-]{0,24}", length in 0_u64..1000) {
            let parts = match selected(&range, length) {
                Selection::One(part) => vec![part],
                Selection::Several(parts) => parts,
                _ => vec![],
            };
            for part in parts {
                prop_assert!(part.first <= part.last && part.last < length);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let headers = [("range", bytes.clone()), ("if-range", bytes.clone())];
            let _ = select(&headers[..], &headers[..], 10, NOW);
            let _ = parse_content_range(&bytes);
        }
    }
}
