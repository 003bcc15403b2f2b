//! The head of a request: bytes in, a request or a refusal out (RFC 9112 §2 to §6, RFC 9110 §5).
//!
//! A head that two readers may read differently is refused. A lenient reader in front of a strict
//! one, or the reverse, is what request smuggling lives on.

use super::{
    framing::{Facts, Framing},
    limits::{FIELD_COST, MAX_FIELDS, MAX_METHOD, USUAL_FIELDS},
    refusal::Refusal,
    target,
};
use actix_http::Request;
use actix_web::http::{
    Method, StatusCode, Version,
    header::{HeaderMap, HeaderName, HeaderValue},
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
    /// What it holds beyond its buffer, in bytes.
    pub(crate) cost: usize,
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
                if spans.fields.len() > MAX_FIELDS {
                    return Err(Refusal::new(
                        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                        "the head of the request has more than 1024 fields",
                    ));
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
    let unusual = spans.fields.len().saturating_sub(USUAL_FIELDS);
    Ok(Head {
        request,
        facts,
        cost: unusual * FIELD_COST,
    })
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
