//! The head of a response, and the frames of its body (RFC 9112 §6 and §7.1).
//!
//! Framing belongs to this module alone: what a handler says of connection, coding and length is
//! replaced by what is sent.

use actix_http::{ResponseHead, body::BodySize};
use actix_web::http::{StatusCode, header};
use bytes::BytesMut;

/// What of the request decides how its response is framed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context {
    pub(crate) is_head: bool,
    pub(crate) is_http_10: bool,
    /// Whether the connection could go on.
    pub(crate) keep_alive: bool,
}

/// How the body of a response is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    None,
    /// So many bytes that are still to come.
    Length(u64),
    Chunked,
    /// The connection's end is the body's.
    UntilClose,
    /// Another protocol.
    Raw,
}

/// How a head was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Encoded {
    pub(crate) framing: Framing,
    /// Whether the connection goes on behind this response.
    pub(crate) keep_alive: bool,
}

/// Decides the framing of a response (RFC 9112 §6.3), and what stands in its Content-Length.
fn frame(head: &ResponseHead, size: BodySize, context: Context) -> (Framing, Option<u64>) {
    let given = || {
        let value = head.headers.get(header::CONTENT_LENGTH)?;
        value.to_str().ok()?.parse::<u64>().ok()
    };
    match head.status {
        StatusCode::SWITCHING_PROTOCOLS => return (Framing::Raw, None),
        status if status.is_informational() || status == StatusCode::NO_CONTENT => {
            return (Framing::None, None);
        }
        StatusCode::NOT_MODIFIED => return (Framing::None, given()),
        _ => {}
    }
    let length = match size {
        BodySize::Sized(length) => Some(length),
        // The length of what a GET would have got.
        BodySize::None if context.is_head => given(),
        BodySize::None => Some(0),
        // Told by the handler that streams: `no_chunking`.
        BodySize::Stream if !head.chunked() => given(),
        BodySize::Stream => None,
    };
    let framing = match length {
        _ if context.is_head => Framing::None,
        Some(0) => Framing::None,
        Some(length) => Framing::Length(length),
        None if context.is_http_10 => Framing::UntilClose,
        None => Framing::Chunked,
    };
    (framing, length)
}

/// Writes the head of a response.
pub(crate) fn head(
    out: &mut BytesMut,
    head: &ResponseHead,
    size: BodySize,
    context: Context,
    date: &str,
) -> Encoded {
    let (framing, length) = frame(head, size, context);
    let keep_alive = context.keep_alive && framing != Framing::UntilClose;
    out.reserve(256 + head.headers.len() * 48);
    status_line(out, head);
    match framing {
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Raw => {}
        _ => {
            if let Some(length) = length {
                out.extend_from_slice(b"content-length: ");
                decimal(out, length);
                out.extend_from_slice(b"\r\n");
            }
        }
    }
    // RFC 9110 §7.8: an Upgrade field goes with the connection option.
    let upgrade = head.headers.contains_key(header::UPGRADE);
    let connection: &[u8] = match (framing, keep_alive, upgrade) {
        (Framing::Raw, ..) => b"connection: upgrade\r\n",
        (_, false, false) => b"connection: close\r\n",
        (_, false, true) => b"connection: close, upgrade\r\n",
        (_, true, true) => b"connection: upgrade\r\n",
        (_, true, false) if context.is_http_10 => b"connection: keep-alive\r\n",
        (_, true, false) => b"",
    };
    out.extend_from_slice(connection);
    let mut has_date = false;
    for (name, value) in &head.headers {
        match *name {
            header::CONNECTION | header::TRANSFER_ENCODING | header::CONTENT_LENGTH => continue,
            header::DATE => has_date = true,
            _ => {}
        }
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    if !has_date {
        field(out, b"date", date.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Encoded {
        framing,
        keep_alive,
    }
}

fn status_line(out: &mut BytesMut, head: &ResponseHead) {
    if head.status == StatusCode::OK && head.reason.is_none() {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(head.status.as_str().as_bytes());
    out.extend_from_slice(b" ");
    let reason = head.reason.or_else(|| head.status.canonical_reason());
    out.extend_from_slice(reason.unwrap_or("").as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut BytesMut, name: &[u8], value: &[u8]) {
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn decimal(out: &mut BytesMut, number: u64) {
    let mut digits = [0_u8; 20];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Writes the line before a chunk's data. Behind the data stands [`CHUNK_END`].
pub(crate) fn chunk_start(out: &mut BytesMut, length: usize) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut digits = [0_u8; 16];
    let mut at = digits.len();
    let mut rest = length;
    loop {
        at -= 1;
        digits[at] = HEX[rest & 15];
        rest >>= 4;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

pub(crate) const CHUNK_END: &[u8] = b"\r\n";

/// Writes the last chunk, and the trailers, each with its line end.
pub(crate) fn last_chunk(out: &mut BytesMut, trailers: &[u8]) {
    out.extend_from_slice(b"0\r\n");
    out.extend_from_slice(trailers);
    out.extend_from_slice(b"\r\n");
}

pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

#[cfg(test)]
#[path = "encode/tests.rs"]
mod tests;
