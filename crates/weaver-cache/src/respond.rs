//! Answers made of stored responses.

use crate::{
    entry::{Entry, Fields, Head, MapFields, StoredFields},
    flight::{Broken, Reader},
    partial::Held,
};
use actix_http::body::{BodySize, MessageBody};
use actix_web::{
    HttpResponse,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
};
use bytes::Bytes;
use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};
use weaver_cache_policy::{
    Lifetime, Millis, conditional,
    range::{self, Part, Selection},
    status::Member,
};

/// A body of the cache's own.
pub(crate) enum OwnBody {
    /// No body, and no length.
    None,
    /// A body that is there.
    Full(Option<Bytes>),
    /// Several pieces, with their length.
    Pieces(VecDeque<Bytes>, u64),
    /// A body that is coming in.
    Flight(Reader),
}

impl MessageBody for OwnBody {
    type Error = Broken;

    fn size(&self) -> BodySize {
        match self {
            Self::None => BodySize::None,
            Self::Full(bytes) => {
                BodySize::Sized(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Pieces(_, length) => BodySize::Sized(*length),
            Self::Flight(reader) => reader.size(),
        }
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        match self.get_mut() {
            Self::None => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(bytes.take().map(Ok)),
            Self::Pieces(pieces, _) => Poll::Ready(pieces.pop_front().map(Ok)),
            Self::Flight(reader) => Pin::new(reader).poll_next(cx),
        }
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        match self {
            Self::None => Ok(Bytes::new()),
            Self::Full(bytes) => Ok(bytes.unwrap_or_default()),
            other => Err(other),
        }
    }
}

/// The body of a response that the cache made.
///
/// It ends with an error where the origin's body broke off, so that the client's connection breaks
/// off too.
pub struct CacheBody(pub(crate) OwnBody);

impl MessageBody for CacheBody {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.0.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().0)
            .poll_next(cx)
            .map_err(Into::into)
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        self.0.try_into_bytes().map_err(Self)
    }
}

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// The parts of a client's request that shape its answer.
pub(crate) struct Client<'a> {
    pub(crate) method: &'a Method,
    pub(crate) headers: &'a HeaderMap,
    /// Whether there is an If-None-Match or If-Modified-Since.
    pub(crate) conditional: bool,
    pub(crate) range: bool,
}

/// Answers from a stored response: 304, 206, 416 or what it is.
pub(crate) fn from_entry(
    entry: &Entry,
    client: &Client<'_>,
    now: Millis,
    member: Member,
    cache: &str,
) -> HttpResponse<OwnBody> {
    let head = &entry.head;
    let plain = || {
        let mut response = with_fields(
            head.status,
            &head.fields,
            OwnBody::Full(Some(entry.body.clone())),
        );
        finish(&mut response, &head.lifetime, now, member, cache);
        response
    };
    if head.status != StatusCode::OK || !(client.conditional || client.range) {
        return plain();
    }
    if client.conditional && not_modified(head, client.headers, now) {
        return not_modified_response(head, now, member, cache);
    }
    if client.range && client.method == Method::GET {
        let length = entry.body.len() as u64;
        let selection = range::select(
            &MapFields(client.headers),
            &StoredFields(&head.fields),
            length,
            now,
        );
        let made = match selection {
            Selection::Whole => None,
            Selection::Unsatisfiable => Some(unsatisfiable(length)),
            Selection::One(part) => Some(single(entry, part, length)),
            Selection::Several(parts) => Some(several(entry, &parts, length)),
        };
        if let Some(mut response) = made {
            finish(&mut response, &head.lifetime, now, member, cache);
            return response;
        }
    }
    plain()
}

fn not_modified(head: &Head, headers: &HeaderMap, now: Millis) -> bool {
    conditional::evaluate(&MapFields(headers), &StoredFields(&head.fields), now)
        == conditional::Precondition::NotModified
}

/// Answers a range request from a stored part.
pub(crate) fn from_part(
    entry: &Entry,
    held: Held,
    part: Part,
    now: Millis,
    member: Member,
    cache: &str,
) -> HttpResponse<OwnBody> {
    let within = Part {
        first: part.first - held.first,
        last: part.last - held.first,
    };
    let body = OwnBody::Full(Some(slice(entry, within)));
    let mut response = with_fields(StatusCode::PARTIAL_CONTENT, &entry.head.fields, body);
    let range = match held.complete {
        Some(complete) => range::content_range(part, complete),
        None => format!("bytes {}-{}/*", part.first, part.last),
    };
    if let Ok(value) = HeaderValue::try_from(range) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    finish(&mut response, &entry.head.lifetime, now, member, cache);
    response
}

/// Answers with a response that is coming in.
pub(crate) fn from_flight(
    head: &Head,
    reader: Reader,
    client: &Client<'_>,
    now: Millis,
    member: Member,
    cache: &str,
) -> HttpResponse<OwnBody> {
    if head.status == StatusCode::OK
        && client.conditional
        && not_modified(head, client.headers, now)
    {
        return not_modified_response(head, now, member, cache);
    }
    let mut response = with_fields(head.status, &head.fields, OwnBody::Flight(reader));
    finish(&mut response, &head.lifetime, now, member, cache);
    response
}

/// RFC 9110 §15.4.5: the fields that a 200 would have had and that guide a cache, and no others.
fn not_modified_response(
    head: &Head,
    now: Millis,
    member: Member,
    cache: &str,
) -> HttpResponse<OwnBody> {
    let kept = |name: &HeaderName| {
        !matches!(
            name.as_str(),
            "content-length"
                | "content-type"
                | "content-encoding"
                | "content-language"
                | "content-range"
                | "content-md5"
        )
    };
    let mut response = HttpResponse::with_body(StatusCode::NOT_MODIFIED, OwnBody::None);
    for (name, value) in head.fields.iter().filter(|(name, _)| kept(name)) {
        response.headers_mut().append(name.clone(), value.clone());
    }
    finish(&mut response, &head.lifetime, now, member, cache);
    response
}

fn with_fields(status: StatusCode, fields: &Fields, body: OwnBody) -> HttpResponse<OwnBody> {
    let mut response = HttpResponse::with_body(status, body);
    let headers = response.headers_mut();
    for (name, value) in fields {
        headers.append(name.clone(), value.clone());
    }
    response
}

fn finish(
    response: &mut HttpResponse<OwnBody>,
    lifetime: &Lifetime,
    now: Millis,
    member: Member,
    cache: &str,
) {
    let headers = response.headers_mut();
    // RFC 9111 §1.2.2: no delta-seconds above 2^31.
    let age = (lifetime.age(now) / 1000).min(1 << 31);
    headers.insert(header::AGE, HeaderValue::from(age));
    add_status(headers, member, cache);
}

/// Appends our member to whatever caches before us said (RFC 9211 §2).
pub(crate) fn add_status(headers: &mut HeaderMap, member: Member, cache: &str) {
    if let Ok(value) = HeaderValue::try_from(member.to_field(cache)) {
        headers.append(CACHE_STATUS, value);
    }
}

fn unsatisfiable(length: u64) -> HttpResponse<OwnBody> {
    let mut response =
        HttpResponse::with_body(StatusCode::RANGE_NOT_SATISFIABLE, OwnBody::Full(None));
    if let Ok(value) = HeaderValue::try_from(format!("bytes */{length}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

fn slice(entry: &Entry, part: Part) -> Bytes {
    // The selection lies within the body; a body fits into memory, so the positions fit a usize.
    let at = |position: u64| {
        usize::try_from(position)
            .unwrap_or(usize::MAX)
            .min(entry.body.len())
    };
    entry.body.slice(at(part.first)..at(part.last + 1))
}

fn single(entry: &Entry, part: Part, length: u64) -> HttpResponse<OwnBody> {
    let body = OwnBody::Full(Some(slice(entry, part)));
    let mut response = with_fields(StatusCode::PARTIAL_CONTENT, &entry.head.fields, body);
    if let Ok(value) = HeaderValue::try_from(range::content_range(part, length)) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// RFC 9110 §14.6.
fn several(entry: &Entry, parts: &[Part], length: u64) -> HttpResponse<OwnBody> {
    let boundary = crate::identity::random_hex::<12>();
    let kind = entry
        .head
        .fields
        .iter()
        .find(|(name, _)| *name == header::CONTENT_TYPE);
    let mut pieces = VecDeque::with_capacity(parts.len() * 2 + 1);
    for part in parts {
        let mut prelude = format!("\r\n--{boundary}\r\n").into_bytes();
        if let Some((_, kind)) = kind {
            prelude.extend_from_slice(b"content-type: ");
            prelude.extend_from_slice(kind.as_bytes());
            prelude.extend_from_slice(b"\r\n");
        }
        let range = range::content_range(*part, length);
        prelude.extend_from_slice(format!("content-range: {range}\r\n\r\n").as_bytes());
        pieces.push_back(prelude.into());
        pieces.push_back(slice(entry, *part));
    }
    pieces.push_back(format!("\r\n--{boundary}--\r\n").into_bytes().into());
    let total = pieces.iter().map(|piece| piece.len() as u64).sum();
    let body = OwnBody::Pieces(pieces, total);
    let mut response = with_fields(StatusCode::PARTIAL_CONTENT, &entry.head.fields, body);
    if let Ok(value) = HeaderValue::try_from(format!("multipart/byteranges; boundary={boundary}")) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}
