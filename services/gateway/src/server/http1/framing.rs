//! What the fields of a head say of the request's framing and of its connection (RFC 9112 §6 and §9).

use super::refusal::Refusal;
use actix_web::http::{
    Method, StatusCode,
    header::{self, HeaderName, HeaderValue},
};

/// What the connection has to know of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) body: BodyLength,
    pub(crate) is_head: bool,
    pub(crate) is_http_10: bool,
    /// Whether the client lets the connection go on.
    pub(crate) keep_alive: bool,
    /// Whether the client asked to switch protocols.
    pub(crate) upgrade: bool,
    /// Whether the client waits for a 100 before it sends the body.
    pub(crate) expects_continue: bool,
}

/// How the body of a request is framed (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyLength {
    /// Neither length nor coding: there is none.
    None,
    Length(u64),
    Chunked,
}

/// What the fields say of the framing, gathered in one pass.
#[derive(Default)]
pub(super) struct Framing {
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    upgrade_option: bool,
    upgrade_field: bool,
    expects_continue: bool,
    expects_other: bool,
}

impl Framing {
    pub(super) fn take(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Refusal> {
        match *name {
            header::CONTENT_LENGTH => {
                if self.length.is_some() {
                    return Err(Refusal::bad("Content-Length stands more than once"));
                }
                self.length = Some(length(value.as_bytes())?);
            }
            header::TRANSFER_ENCODING => {
                if self.chunked {
                    return Err(Refusal::bad("Transfer-Encoding stands more than once"));
                }
                coding(value.as_bytes())?;
                self.chunked = true;
            }
            header::CONNECTION => {
                for option in value.as_bytes().split(|byte| *byte == b',') {
                    let option = option.trim_ascii();
                    self.close |= option.eq_ignore_ascii_case(b"close");
                    self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                    self.upgrade_option |= option.eq_ignore_ascii_case(b"upgrade");
                }
            }
            header::UPGRADE => self.upgrade_field = true,
            header::EXPECT => {
                let expected = value.as_bytes().eq_ignore_ascii_case(b"100-continue");
                self.expects_continue |= expected;
                self.expects_other |= !expected;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn facts(&self, method: &Method, is_http_10: bool) -> Result<Facts, Refusal> {
        let body = match (self.chunked, self.length) {
            (true, Some(_)) => {
                let what = "Transfer-Encoding and Content-Length stand together";
                return Err(Refusal::bad(what));
            }
            (true, None) if is_http_10 => {
                return Err(Refusal::bad("HTTP/1.0 has no Transfer-Encoding"));
            }
            (true, None) => BodyLength::Chunked,
            (false, Some(length)) => BodyLength::Length(length),
            // RFC 1945 §8.3: what follows may be a body, or the next request.
            (false, None) if is_http_10 && *method == Method::POST => {
                return Err(Refusal::bad("a POST of HTTP/1.0 needs a Content-Length"));
            }
            (false, None) => BodyLength::None,
        };
        // RFC 9110 §10.1.1: an expectation in HTTP/1.0 is ignored.
        if self.expects_other && !is_http_10 {
            return Err(Refusal::new(
                StatusCode::EXPECTATION_FAILED,
                "only 100-continue can be expected",
            ));
        }
        let has_body = !matches!(body, BodyLength::None | BodyLength::Length(0));
        Ok(Facts {
            body,
            is_head: *method == Method::HEAD,
            is_http_10,
            keep_alive: !self.close && (self.keep_alive || !is_http_10),
            upgrade: self.upgrade_field && self.upgrade_option && !is_http_10,
            expects_continue: self.expects_continue && has_body && !is_http_10,
        })
    }
}

/// Digits and nothing else: no sign, no list, no number that does not fit.
fn length(value: &[u8]) -> Result<u64, Refusal> {
    let bad = || Refusal::bad("Content-Length is not one number");
    if value.is_empty() {
        return Err(bad());
    }
    value.iter().try_fold(0_u64, |length, byte| {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
        length
            .checked_mul(10)
            .zip(digit)
            .and_then(|(length, digit)| length.checked_add(digit))
            .ok_or_else(bad)
    })
}

/// `chunked` once, and nothing besides it (RFC 9112 §6.1).
fn coding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings = || {
        value
            .split(|byte| *byte == b',')
            .map(<[u8]>::trim_ascii)
            .map(|coding| coding.eq_ignore_ascii_case(b"chunked"))
    };
    let chunked = codings().filter(|chunked| *chunked).count();
    let is_list = codings().count() > 1;
    if chunked > 1 || value.is_empty() || (chunked == 1 && codings().next_back() != Some(true)) {
        return Err(Refusal::bad(
            "chunked must be the last transfer coding, and stand once",
        ));
    }
    if is_list
        && value
            .split(|byte| *byte == b',')
            .any(|c| c.trim_ascii().is_empty())
    {
        return Err(Refusal::bad("Transfer-Encoding has an empty member"));
    }
    Err(Refusal::new(
        StatusCode::NOT_IMPLEMENTED,
        "no transfer coding but chunked is implemented",
    ))
}
