//! The head of a request: bytes in, a request or a refusal out (RFC 9112 §2 to §6, RFC 9110 §5).
//!
//! A head that two readers may read differently is refused. A lenient reader in front of a strict
//! one, or the reverse, is what request smuggling lives on.

use super::{limits::MAX_METHOD, refusal::Refusal, target};
use actix_http::Request;
use actix_web::http::{
    Method, StatusCode, Version,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use bytes::{Buf as _, Bytes, BytesMut};
use smallvec::SmallVec;
use std::mem::MaybeUninit;

/// Fields that are parsed without an allocation.
const FIELDS: usize = 64;
/// Bytes of empty lines that may stand before a request line (RFC 9112 §2.2).
const MAX_EMPTY_LINES: usize = 8;
/// A pooled map of more fields than this is given back, so that one large head does not cost for ever.
const MAX_POOLED_FIELDS: usize = 256;

/// A request whose head was read.
pub(crate) struct Head {
    pub(crate) request: Request,
    pub(crate) facts: Facts,
}

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

/// Finds the next head in what was read. It remembers how far it has looked, so that a head that
/// drips is not read again from its beginning with every byte.
#[derive(Debug, Default)]
pub(crate) struct HeadParser {
    /// Bytes in which no end was found; 0 if nothing was tried.
    searched: usize,
    /// Bytes of empty lines before the request line.
    skipped: usize,
}

impl HeadParser {
    /// Takes the next head out of `buf`, if it is complete.
    pub(crate) fn next(
        &mut self,
        buf: &mut BytesMut,
        max_head: usize,
    ) -> Result<Option<Head>, Refusal> {
        self.skip_empty_lines(buf)?;
        if buf.is_empty() || (self.searched > 0 && !self.has_end(buf)?) {
            return too_long(buf, max_head).map(|()| None);
        }
        let mut few = [const { MaybeUninit::uninit() }; FIELDS];
        let found = match Spans::parse(buf, &mut few) {
            Err(httparse::Error::TooManyHeaders) => {
                // A field takes a line.
                let lines = buf.iter().filter(|byte| **byte == b'\n').count();
                let mut many = vec![MaybeUninit::uninit(); lines];
                Spans::parse(buf, &mut many)
            }
            found => found,
        };
        match found {
            Ok(Some(spans)) => {
                *self = Self::default();
                if spans.length > max_head {
                    return Err(oversize(buf, max_head));
                }
                let head = buf.split_to(spans.length).freeze();
                build(&head, &spans).map(Some)
            }
            Ok(None) => {
                self.searched = buf.len();
                too_long(buf, max_head).map(|()| None)
            }
            Err(error) => Err(explain(buf, error)),
        }
    }

    fn skip_empty_lines(&mut self, buf: &mut BytesMut) -> Result<(), Refusal> {
        while let Some(first @ (b'\r' | b'\n')) = buf.first() {
            match (first, buf.get(1)) {
                (b'\r', Some(b'\n')) => {
                    buf.advance(2);
                    self.skipped += 2;
                }
                (b'\r', None) => return Ok(()),
                _ => return Err(Refusal::bad("a line of the head does not end with CR LF")),
            }
            if self.skipped > MAX_EMPTY_LINES {
                return Err(Refusal::bad("too many empty lines before the request line"));
            }
        }
        Ok(())
    }

    /// Looks for the blank line in what came since the last time.
    fn has_end(&mut self, buf: &[u8]) -> Result<bool, Refusal> {
        let from = self.searched;
        self.searched = buf.len();
        for at in from..buf.len() {
            if buf[at] == b'\n' {
                if at == 0 || buf[at - 1] != b'\r' {
                    return Err(Refusal::bad("a line of the head does not end with CR LF"));
                }
                if buf[..at].ends_with(b"\r\n\r") {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

type Span = std::ops::Range<usize>;

/// Where the parts of a head stand.
struct Spans {
    method: Span,
    target: Span,
    is_http_10: bool,
    fields: SmallVec<[(Span, Span); 32]>,
    length: usize,
}

impl Spans {
    fn parse<'b>(
        buf: &'b [u8],
        fields: &mut [MaybeUninit<httparse::Header<'b>>],
    ) -> Result<Option<Self>, httparse::Error> {
        let mut request = httparse::Request::new(&mut []);
        let length = match request.parse_with_uninit_headers(buf, fields)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        let start = buf.as_ptr() as usize;
        let span = |part: &[u8]| {
            if part.is_empty() {
                return 0..0;
            }
            let at = part.as_ptr() as usize - start;
            at..at + part.len()
        };
        let (Some(method), Some(target)) = (request.method, request.path) else {
            return Err(httparse::Error::Token);
        };
        // The parser takes a bare LF for a line's end, and we do not. No other part of a head can
        // have an LF in it, so that it is enough to look before each name and before the end.
        let crlf_before = |at: usize| buf[..at].ends_with(b"\r\n");
        let mut spans = SmallVec::new();
        for field in request.headers.iter() {
            let name = span(field.name.as_bytes());
            if !crlf_before(name.start) {
                return Err(httparse::Error::NewLine);
            }
            spans.push((name, span(field.value)));
        }
        if !buf[..length].ends_with(b"\r\n\r\n") {
            return Err(httparse::Error::NewLine);
        }
        Ok(Some(Self {
            method: span(method.as_bytes()),
            target: span(target.as_bytes()),
            is_http_10: request.version == Some(0),
            fields: spans,
            length,
        }))
    }
}

fn build(head: &Bytes, spans: &Spans) -> Result<Head, Refusal> {
    let method = &head[spans.method.clone()];
    if method.len() > MAX_METHOD {
        return Err(Refusal::new(
            StatusCode::NOT_IMPLEMENTED,
            "the method is not implemented",
        ));
    }
    let method = Method::from_bytes(method).map_err(|_| Refusal::bad("the method is no token"))?;
    let uri = target::parse(head.slice(spans.target.clone()), &method)?;
    let mut request = Request::new();
    let mut framing = Framing::default();
    let headers = request.headers_mut();
    if headers.capacity() > MAX_POOLED_FIELDS {
        *headers = HeaderMap::with_capacity(16);
    }
    for (name, value) in &spans.fields {
        let name = HeaderName::from_bytes(&head[name.clone()])
            .map_err(|_| Refusal::bad("a field's name is no token"))?;
        let value = HeaderValue::from_maybe_shared(head.slice(value.clone()))
            .map_err(|_| Refusal::bad("a field's value has control characters"))?;
        framing.take(&name, &value)?;
        headers.append(name, value);
    }
    let facts = framing.facts(&method, spans.is_http_10)?;
    let line = request.head_mut();
    line.method = method;
    line.uri = uri;
    line.version = if spans.is_http_10 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    };
    Ok(Head { request, facts })
}

/// What the fields say of the framing, gathered in one pass.
#[derive(Default)]
struct Framing {
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
    fn take(&mut self, name: &HeaderName, value: &HeaderValue) -> Result<(), Refusal> {
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

    fn facts(&self, method: &Method, is_http_10: bool) -> Result<Facts, Refusal> {
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

/// Refuses what cannot become a head within the limit any more.
fn too_long(buf: &[u8], max_head: usize) -> Result<(), Refusal> {
    if let Some(refusal) = long_method(buf) {
        return Err(refusal);
    }
    if buf.len() > max_head {
        return Err(oversize(buf, max_head));
    }
    Ok(())
}

fn oversize(buf: &[u8], max_head: usize) -> Refusal {
    let within = &buf[..buf.len().min(max_head)];
    if within.contains(&b'\n') {
        Refusal::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "the head of the request is larger than max_head",
        )
    } else {
        Refusal::new(
            StatusCode::URI_TOO_LONG,
            "the request line is longer than max_head",
        )
    }
}

fn long_method(buf: &[u8]) -> Option<Refusal> {
    let start = buf.get(..=MAX_METHOD)?;
    if start.contains(&b' ') {
        return None;
    }
    Some(if start.iter().all(|byte| is_token(*byte)) {
        Refusal::new(StatusCode::NOT_IMPLEMENTED, "the method is not implemented")
    } else {
        Refusal::bad("the request line is not valid")
    })
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What is wrong with a head that the parser gave up on.
fn explain(buf: &[u8], error: httparse::Error) -> Refusal {
    if let Some(refusal) = long_method(buf) {
        return refusal;
    }
    match error {
        httparse::Error::Version if is_other_version(buf) => Refusal::new(
            StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            "only HTTP/1.0 and HTTP/1.1 are spoken here",
        ),
        httparse::Error::Version | httparse::Error::Token => {
            Refusal::bad("the request line is not valid")
        }
        httparse::Error::HeaderName => Refusal::bad("a field's name is not valid"),
        httparse::Error::HeaderValue => Refusal::bad("a field's value is not valid"),
        httparse::Error::NewLine => Refusal::bad("a line of the head does not end with CR LF"),
        _ => Refusal::bad("the head of the request is not valid"),
    }
}

/// `HTTP/2.0` and the like, and not just anything.
fn is_other_version(buf: &[u8]) -> bool {
    let line = buf.split(|byte| *byte == b'\n').next().unwrap_or(buf);
    let version = line.trim_ascii_end().rsplit(|byte| *byte == b' ').next();
    matches!(
        version,
        Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor])
            if major.is_ascii_digit()
                && minor.is_ascii_digit()
                && !matches!((major, minor), (b'1', b'0' | b'1'))
    )
}

#[cfg(test)]
#[path = "head/tests.rs"]
mod tests;
