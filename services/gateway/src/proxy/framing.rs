//! Where the body of an upstream's response ends (RFC 9112 §6.3), and what is refused because it
//! cannot be told.
//!
//! hyper reads the body: it lets chunked win over a length, and refuses lengths that differ. What it
//! reads is decided here once more, because the client is told so in our own words: a body that the
//! upstream ended by its last chunk must not be announced with the length that it lied about, and a
//! body in a coding that hyper leaves as it is (`gzip, chunked`) must not go on without its name.

use actix_http::body::BodySize;
use http::{HeaderMap, StatusCode, header};

/// What a field costs on the wire besides name and value.
const PER_FIELD: usize = 4;
/// What a status line costs at least.
const STATUS_LINE: usize = 15;

/// Why a response's body cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misframed {
    /// A transfer coding besides a single `chunked`.
    Coding,
    /// Lengths that differ, or are none.
    Length,
}

impl Misframed {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Coding => "the upstream's response has a transfer coding other than chunked",
            Self::Length => "the upstream's response has more than one length, or an invalid one",
        }
    }
}

/// How the response to a request goes on to the client.
///
/// A 204, a 304 and the response to HEAD have no body whatever their fields say. A 205 has none
/// either, but must say so with a length (RFC 9110 §15.3.6).
pub(crate) fn of_response(
    to_head: bool,
    status: StatusCode,
    fields: &HeaderMap,
) -> Result<BodySize, Misframed> {
    match status {
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => return Ok(BodySize::None),
        StatusCode::RESET_CONTENT => return Ok(BodySize::Sized(0)),
        _ => {}
    }
    if to_head {
        let length = length_of_none(fields);
        return Ok(length.map_or(BodySize::None, BodySize::Sized));
    }
    if fields.contains_key(header::TRANSFER_ENCODING) {
        let told = is_only_chunked(fields) || is_only_unknown(fields);
        return told.then_some(BodySize::Stream).ok_or(Misframed::Coding);
    }
    if fields.contains_key(header::CONTENT_LENGTH) {
        return length(fields).map(BodySize::Sized).ok_or(Misframed::Length);
    }
    Ok(BodySize::Stream)
}

/// The length that a response without a body may tell of the one it stands for.
pub(crate) fn length_of_none(fields: &HeaderMap) -> Option<u64> {
    // With a transfer coding a length means nothing (RFC 9112 §6.2).
    if fields.contains_key(header::TRANSFER_ENCODING) {
        return None;
    }
    length(fields)
}

/// The bytes of a response's head, or of an interim one's. hyper's own bound is its buffer, which may
/// hold more than it was told.
pub(super) fn head_size(fields: &HeaderMap) -> u64 {
    let size = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + PER_FIELD
    };
    let fields: usize = fields.iter().map(size).sum();
    (STATUS_LINE + fields) as u64
}

/// Whether all lines of Transfer-Encoding together say `chunked`, once.
fn is_only_chunked(fields: &HeaderMap) -> bool {
    let mut codings = 0;
    for line in fields.get_all(header::TRANSFER_ENCODING) {
        let Ok(line) = line.to_str() else {
            return false;
        };
        for coding in line.split(',') {
            codings += 1;
            if !coding.trim().eq_ignore_ascii_case("chunked") {
                return false;
            }
        }
    }
    codings == 1
}

/// Codings that change the bytes of a body, or say where it ends.
const KNOWN_CODINGS: [&str; 9] = [
    "br",
    "chunked",
    "compress",
    "deflate",
    "gzip",
    "identity",
    "x-compress",
    "x-gzip",
    "zstd",
];

/// Whether Transfer-Encoding is one word that nobody has registered, and nothing else tells a length:
/// then the connection's end is the body's (RFC 9112 §6.3), and there is nothing to decode.
fn is_only_unknown(fields: &HeaderMap) -> bool {
    let mut lines = fields.get_all(header::TRANSFER_ENCODING).iter();
    let (line, more) = (lines.next(), lines.next());
    let Some(Ok(coding)) = line.map(|line| line.to_str()) else {
        return false;
    };
    let coding = coding.trim();
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    more.is_none()
        && !coding.is_empty()
        && coding.bytes().all(is_word)
        // `xchunked` is an attempt at something.
        && !coding.to_ascii_lowercase().contains("chunked")
        && !KNOWN_CODINGS.contains(&coding.to_ascii_lowercase().as_str())
        && !fields.contains_key(header::CONTENT_LENGTH)
}

/// The length that all lines of Content-Length agree on (RFC 9110 §8.6).
fn length(fields: &HeaderMap) -> Option<u64> {
    let mut known = None;
    for line in fields.get_all(header::CONTENT_LENGTH) {
        for text in line.to_str().ok()?.split(',') {
            let text = text.trim();
            // `parse` alone would take a sign.
            if !text.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let length: u64 = text.parse().ok()?;
            if known.is_some_and(|known| known != length) {
                return None;
            }
            known = Some(length);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: u16, head: bool, lines: &[(&str, &str)]) -> Result<BodySize, Misframed> {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(
                http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                http::HeaderValue::from_str(value).unwrap(),
            );
        }
        of_response(head, StatusCode::from_u16(status).unwrap(), &fields)
    }

    const TE: &str = "transfer-encoding";
    const CL: &str = "content-length";

    #[test]
    fn chunked_wins_over_a_length() {
        assert_eq!(
            of(200, false, &[(CL, "5"), (TE, "Chunked")]),
            Ok(BodySize::Stream)
        );
    }

    #[test]
    fn a_coding_other_than_one_chunked_is_refused() {
        for coding in [
            "gzip, chunked",
            "identity",
            "chunked, chunked",
            "chunked,",
            "",
            "xchunked",
            "chunked;q=1",
        ] {
            assert_eq!(
                of(200, false, &[(TE, coding)]),
                Err(Misframed::Coding),
                "{coding:?}"
            );
        }
        let twice = [(TE, "gzip"), (TE, "chunked")];
        assert_eq!(of(200, false, &twice), Err(Misframed::Coding));
    }

    #[test]
    fn lengths_that_agree_are_one_and_others_are_refused() {
        assert_eq!(of(200, false, &[(CL, "5")]), Ok(BodySize::Sized(5)));
        assert_eq!(of(200, false, &[(CL, "5, 5")]), Ok(BodySize::Sized(5)));
        assert_eq!(
            of(200, false, &[(CL, "5"), (CL, "5")]),
            Ok(BodySize::Sized(5))
        );
        for wrong in ["5, 6", "+5", "-1", "0x5", "", "5,", "99999999999999999999"] {
            assert_eq!(
                of(200, false, &[(CL, wrong)]),
                Err(Misframed::Length),
                "{wrong:?}"
            );
        }
        assert_eq!(
            of(200, false, &[(CL, "5"), (CL, "6")]),
            Err(Misframed::Length)
        );
    }

    #[test]
    fn responses_without_a_body_have_none_whatever_their_fields_say() {
        let fields = [(CL, "5"), (TE, "gzip, chunked")];
        assert_eq!(of(204, false, &fields), Ok(BodySize::None));
        assert_eq!(of(304, false, &fields), Ok(BodySize::None));
        assert_eq!(of(205, false, &fields), Ok(BodySize::Sized(0)));
        assert_eq!(of(200, true, &fields), Ok(BodySize::None));
        assert_eq!(of(200, true, &[(CL, "5")]), Ok(BodySize::Sized(5)));
        assert_eq!(of(200, true, &[(CL, "5, 6")]), Ok(BodySize::None));
    }
}
