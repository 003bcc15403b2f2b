//! Parts of a representation that are stored for themselves (RFC 9111 §3.3, §3.4).
//!
//! Of each URL one part is kept, the last, under a key of its own, with the variant it is of. It
//! answers range requests that lie within it. A request for the whole, where the part is the beginning, asks for
//! the rest only; the two are combined if they share a strong validator, and if they turn out not
//! to, the whole is asked for anew.

use crate::{
    entry::{Entry, Fields, MapFields, StoredFields},
    key::KeyBytes,
};
use actix_web::http::header::{self, HeaderMap, HeaderValue};
use weaver_cache_policy::{
    Headers as _, Millis, conditional,
    range::{self, Part, Spec, parse_content_range},
};

/// The key of a URL's part.
pub(crate) fn key(primary: &[u8]) -> KeyBytes {
    let mut key = KeyBytes::from_slice(primary);
    key.push(b'r');
    key
}

/// Which bytes a stored part has, and how many the whole has, if that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) first: u64,
    pub(crate) bytes: u64,
    pub(crate) complete: Option<u64>,
}

impl Held {
    /// Reads the Content-Range of a part with that many bytes.
    ///
    /// Where the two disagree the bytes are believed, for they have been framed and counted: a part
    /// that claims to reach the end of the whole then says where that end is.
    fn of(fields: &Fields, bytes: u64) -> Option<Self> {
        let fields = StoredFields(fields);
        let (part, complete) = parse_content_range(fields.first("content-range")?)?;
        let end = part.first.checked_add(bytes)?;
        let complete = match complete {
            Some(complete) if part.last + 1 == complete => Some(end),
            Some(complete) if end > complete => return None,
            complete => complete,
        };
        (bytes > 0).then_some(Self {
            first: part.first,
            bytes,
            complete,
        })
    }

    pub(crate) fn of_entry(entry: &Entry) -> Option<Self> {
        Self::of(&entry.head.fields, entry.body.len() as u64)
    }

    fn end(&self) -> u64 {
        self.first + self.bytes
    }

    /// The part of the whole that a request for one range means, if it lies within.
    fn select(&self, spec: Spec) -> Option<Part> {
        let part = match (spec, self.complete) {
            (spec, Some(complete)) => spec.of(complete)?,
            (Spec::From(first, Some(last)), None) => Part { first, last },
            _ => return None,
        };
        (part.first >= self.first && part.last < self.end()).then_some(part)
    }
}

/// The part of the whole that answers a range request from a stored part.
pub(crate) fn select(entry: &Entry, headers: &HeaderMap, now: Millis) -> Option<(Held, Part)> {
    let view = MapFields(headers);
    let held = Held::of_entry(entry)?;
    let specs = range::parse(&view)?;
    let [spec] = specs[..] else { return None };
    range::if_range_holds(&view, &StoredFields(&entry.head.fields), now)
        .then(|| held.select(spec).map(|part| (held, part)))?
}

/// Whether a response to a range request can be stored as a part: one range.
pub(crate) fn is_storable(headers: &HeaderMap) -> bool {
    let mut ranges = headers.get_all(header::CONTENT_RANGE);
    let range = ranges
        .next()
        .and_then(|range| parse_content_range(range.as_bytes()));
    range.is_some() && ranges.next().is_none()
}

/// Makes a request for the whole one for what is missing behind a stored beginning. `false` where
/// the part is no beginning, or nothing is known to be missing.
pub(crate) fn ask_for_rest(entry: &Entry, headers: &mut HeaderMap) -> bool {
    let Some(held) = Held::of_entry(entry) else {
        return false;
    };
    let rest = held.first == 0 && held.complete.is_some_and(|complete| complete > held.bytes);
    let Ok(range) = HeaderValue::try_from(format!("bytes={}-", held.bytes)) else {
        return false;
    };
    if rest {
        headers.insert(header::RANGE, range);
        // Without a strong tag the answer cannot be combined; it is asked for all the same, since
        // an origin that ignores Range answers with the whole, and one that does not costs a
        // second request, at most once for each part.
        let tag = entry
            .head
            .fields
            .iter()
            .find(|(name, _)| *name == header::ETAG);
        if let Some((_, tag)) = tag.filter(|(_, tag)| !tag.as_bytes().starts_with(b"W/")) {
            headers.insert(header::IF_RANGE, tag.clone());
        }
    }
    rest
}

/// Whether a 206 is the rest behind a stored beginning: the same strong tag, the next byte, the same
/// whole (RFC 9110 §15.3.7.3). Gives the length of the whole. A strong tag is unique among all
/// variants of a resource (§8.8.1), so both are of the same.
pub(crate) fn completes(entry: &Entry, rest: &HeaderMap) -> Option<u64> {
    let held = Held::of_entry(entry)?;
    let rest = MapFields(rest);
    let (part, complete) = parse_content_range(rest.first("content-range")?)?;
    let stored = StoredFields(&entry.head.fields);
    let (old, new) = (stored.first("etag")?, rest.first("etag")?);
    let fits = conditional::strongly_equal(old, new)
        && held.first == 0
        && part.first == held.bytes
        && complete == held.complete
        && complete == Some(part.last + 1);
    fits.then_some(complete)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderName;

    fn held(range: &'static str, bytes: u64) -> Option<Held> {
        let fields = vec![(
            HeaderName::from_static("content-range"),
            HeaderValue::from_static(range),
        )];
        Held::of(&fields, bytes)
    }

    #[test]
    fn ranges_within_the_part_are_answered_and_others_are_not() {
        let part = held("bytes 4-9/20", 6).unwrap();
        let select = |spec| part.select(spec).map(|part| (part.first, part.last));
        assert_eq!(select(Spec::From(5, Some(7))), Some((5, 7)));
        assert_eq!(select(Spec::From(3, Some(7))), None);
        assert_eq!(select(Spec::From(5, Some(10))), None);
        assert_eq!(select(Spec::From(5, None)), None);
        assert_eq!(select(Spec::Suffix(2)), None);
        let tail = held("bytes 4-9/10", 6).unwrap();
        assert_eq!(
            tail.select(Spec::Suffix(2)),
            Some(Part { first: 8, last: 9 })
        );
        assert_eq!(tail.select(Spec::Suffix(7)), None);
    }

    #[test]
    fn a_part_of_an_unknown_whole_answers_closed_ranges_only() {
        let part = held("bytes 0-4/*", 5).unwrap();
        assert_eq!(
            part.select(Spec::From(0, Some(4))),
            Some(Part { first: 0, last: 4 })
        );
        assert_eq!(part.select(Spec::From(0, None)), None);
    }

    #[test]
    fn bytes_that_run_past_the_whole_are_no_part() {
        assert_eq!(held("bytes 0-4/6", 7), None);
        assert_eq!(held("bytes 0-4/6", 0), None);
        assert_eq!(held("nonsense", 5), None);
    }
}
