//! Preconditions that a cache evaluates on a stored response (RFC 9110 §13, RFC 9111 §4.3.2).

use crate::{
    Headers, Millis, date,
    headers::{list, trim},
};

/// What a request's preconditions make of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precondition {
    /// Answer with the response itself.
    Proceed,
    /// Answer with 304 (Not Modified).
    NotModified,
}

/// Whether the request has a precondition that only the origin may judge: If-Match and
/// If-Unmodified-Since protect a change of the origin's state (RFC 9111 §4.3.2).
#[must_use]
pub fn is_for_origin(request: &(impl Headers + ?Sized)) -> bool {
    request.has("if-match") || request.has("if-unmodified-since")
}

/// Whether the request has a precondition that this cache evaluates.
#[must_use]
pub fn is_conditional(request: &(impl Headers + ?Sized)) -> bool {
    request.has("if-none-match") || request.has("if-modified-since")
}

/// Evaluates If-None-Match, or If-Modified-Since where that is absent (RFC 9110 §13.2.2), on a
/// stored response with status 200 (RFC 9111 §4.3.2).
#[must_use]
pub fn evaluate(
    request: &(impl Headers + ?Sized),
    stored: &(impl Headers + ?Sized),
    now: Millis,
) -> Precondition {
    if request.has("if-none-match") {
        let tag = stored.first("etag").map(trim);
        let matches = list(request.lines("if-none-match")).any(|candidate| {
            candidate == b"*" || tag.is_some_and(|tag| weakly_equal(tag, candidate))
        });
        return if matches {
            Precondition::NotModified
        } else {
            Precondition::Proceed
        };
    }
    let since = request
        .first("if-modified-since")
        .and_then(|value| date::parse(value, now));
    // Without a Last-Modified the Date stands in (RFC 9111 §4.3.2).
    let modified = stored
        .first("last-modified")
        .or_else(|| stored.first("date"))
        .and_then(|value| date::parse(value, now));
    match (since, modified) {
        (Some(since), Some(modified)) if modified <= since => Precondition::NotModified,
        _ => Precondition::Proceed,
    }
}

/// RFC 9110 §8.8.3.2.
#[must_use]
pub fn weakly_equal(one: &[u8], other: &[u8]) -> bool {
    fn opaque(tag: &[u8]) -> &[u8] {
        tag.strip_prefix(b"W/").unwrap_or(tag)
    }
    opaque(one) == opaque(other)
}

/// RFC 9110 §8.8.3.2: both the same, and neither weak.
#[must_use]
pub fn strongly_equal(one: &[u8], other: &[u8]) -> bool {
    one == other && !one.starts_with(b"W/")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Millis = Millis(1_700_000_000_000);

    fn evaluated(request: &[(&str, &str)], stored: &[(&str, &str)]) -> Precondition {
        evaluate(request, stored, NOW)
    }

    #[test]
    fn tags_are_compared_weakly_over_the_whole_list() {
        let stored = [("etag", "\"abc\"")];
        for list in [
            "\"abc\"",
            "W/\"abc\"",
            "\"x\", \"abc\"",
            "*",
            "\"a,b\" , \"abc\"",
        ] {
            assert_eq!(
                evaluated(&[("if-none-match", list)], &stored),
                Precondition::NotModified,
                "{list}"
            );
        }
        assert_eq!(
            evaluated(&[("if-none-match", "\"x\"")], &stored),
            Precondition::Proceed
        );
        assert_eq!(
            evaluated(&[("if-none-match", "\"abc\"")], &[]),
            Precondition::Proceed
        );
    }

    #[test]
    fn if_none_match_stands_over_if_modified_since() {
        let stored = [
            ("etag", "\"abc\""),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        ];
        let later = ("if-modified-since", "Sun, 06 Nov 1995 08:49:37 GMT");
        assert_eq!(evaluated(&[later], &stored), Precondition::NotModified);
        assert_eq!(
            evaluated(&[later, ("if-none-match", "\"x\"")], &stored),
            Precondition::Proceed
        );
    }

    #[test]
    fn an_unreadable_date_is_no_condition() {
        let stored = [("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")];
        assert_eq!(
            evaluated(&[("if-modified-since", "yesterday")], &stored),
            Precondition::Proceed
        );
    }
}
