//! The conditional request that validates a stored response, and what the answer changes
//! (RFC 9111 §3.2, §4.3).

use crate::{Headers, headers::list};

/// Fields of one connection, never stored nor passed on (RFC 9110 §7.6.1, RFC 9111 §3.1), in lower
/// case. Besides these go the ones that Connection names.
pub const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Fields that belong to the stored body, or name it, and that a 304 leaves as they are: a cache
/// that took them over would describe bytes it does not have (RFC 9111 §3.2).
const OF_THE_BODY: [&str; 5] = [
    "content-encoding",
    "content-length",
    "content-md5",
    "content-range",
    "etag",
];

/// Whether a field belongs to the connection on which it came: one of [`HOP_BY_HOP`], or named by
/// a Connection field. `name` is in lower case.
#[must_use]
pub fn is_hop_by_hop(name: &str, headers: &(impl Headers + ?Sized)) -> bool {
    HOP_BY_HOP.contains(&name)
        || list(headers.lines("connection"))
            .any(|named| named.eq_ignore_ascii_case(name.as_bytes()))
}

/// The precondition fields that ask whether `stored` is still current (RFC 9111 §4.3.1): name and
/// value. Empty where it has no validator.
#[must_use]
pub fn precondition(stored: &(impl Headers + ?Sized)) -> Vec<(&'static str, &[u8])> {
    let mut fields = Vec::with_capacity(2);
    if let Some(tag) = stored.first("etag") {
        fields.push(("if-none-match", tag));
    }
    if let Some(modified) = stored.first("last-modified") {
        fields.push(("if-modified-since", modified));
    }
    fields
}

/// Whether a 200 to HEAD describes the stored response (RFC 9111 §4.3.5): what it says of validators
/// and length must be what is stored. If not, the stored response is out of date.
#[must_use]
pub fn describes(
    update: &(impl Headers + ?Sized),
    stored: &(impl Headers + ?Sized),
    length: u64,
) -> bool {
    let same = |name| {
        update
            .first(name)
            .is_none_or(|new| stored.first(name) == Some(new))
    };
    let length = length.to_string();
    same("etag")
        && same("last-modified")
        && update
            .first("content-length")
            .is_none_or(|new| new == length.as_bytes())
}

/// Whether a field of a 304, or of a 200 to HEAD, replaces the stored field of that name
/// (RFC 9111 §3.2). `name` is in lower case, `update` the response that it comes in.
#[must_use]
pub fn updates(name: &str, update: &(impl Headers + ?Sized)) -> bool {
    !OF_THE_BODY.contains(&name) && !is_hop_by_hop(name, update)
}

/// The stored fields after an update: every updated name loses its old lines and gets the new ones,
/// everything else stays, in order (RFC 9111 §3.2).
#[must_use]
pub fn freshened<N, V>(stored: &[(N, V)], update: &[(N, V)]) -> Vec<(N, V)>
where
    N: AsRef<str> + Clone,
    V: AsRef<[u8]> + Clone,
{
    let replaces = |name: &str| {
        let lower = name.to_ascii_lowercase();
        update.has(&lower) && updates(&lower, update)
    };
    stored
        .iter()
        .filter(|(name, _)| !replaces(name.as_ref()))
        .chain(
            update
                .iter()
                .filter(|(name, _)| updates(&name.as_ref().to_ascii_lowercase(), update)),
        )
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Lines = Vec<(String, String)>;

    fn lines(of: &[(&str, &str)]) -> Lines {
        of.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn an_update_replaces_all_lines_of_a_name_and_keeps_the_rest() {
        let stored = lines(&[
            ("A", "1"),
            ("Link", "x"),
            ("Link", "y"),
            ("content-length", "5"),
            ("etag", "\"a\""),
        ]);
        let update = lines(&[
            ("link", "z"),
            ("Content-Length", "0"),
            ("b", "2"),
            ("connection", "c"),
            ("c", "3"),
        ]);
        assert_eq!(
            freshened(&stored, &update),
            lines(&[
                ("A", "1"),
                ("content-length", "5"),
                ("etag", "\"a\""),
                ("link", "z"),
                ("b", "2")
            ])
        );
    }

    #[test]
    fn a_head_that_differs_describes_another_response() {
        let stored = [("etag", "\"a\""), ("last-modified", "x")];
        assert!(describes(
            &[("etag", "\"a\""), ("content-length", "5")][..],
            &stored[..],
            5
        ));
        assert!(describes(&[("date", "x")][..], &stored[..], 5));
        assert!(!describes(&[("etag", "\"b\"")][..], &stored[..], 5));
        assert!(!describes(&[("content-length", "6")][..], &stored[..], 5));
    }

    fn field() -> impl Strategy<Value = (String, String)> {
        (
            "(a|b|C|etag|Content-Length|Connection|Keep-Alive|set-cookie)",
            "[a-c]{1,3}",
        )
    }

    proptest! {
        /// A 304 never loses a field that it does not mention, and never leaks a hop-by-hop one.
        #[test]
        fn freshening_loses_and_leaks_nothing(
            stored in proptest::collection::vec(field(), 0..8),
            update in proptest::collection::vec(field(), 0..8),
        ) {
            let merged = freshened(&stored, &update);
            for (name, value) in &stored {
                let mentioned = update.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
                if !mentioned {
                    prop_assert!(merged.contains(&(name.clone(), value.clone())));
                }
            }
            for (name, value) in &update {
                if is_hop_by_hop(&name.to_ascii_lowercase(), &update) {
                    let count = |of: &Lines| of.iter().filter(|(n, v)| n == name && v == value).count();
                    prop_assert_eq!(count(&merged), count(&stored));
                }
            }
        }
    }
}
