//! Interim responses (1xx) of an upstream: a few are passed on, and many end the request.
//!
//! An upstream may send any number of them before its response, and a client need not read: without
//! a bound one request could fill memory, or keep a worker busy for ever.

use super::{body::RequestBody, framing::head_size};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use tokio::sync::mpsc;
use weaver_cache::policy::validation::HOP_BY_HOP;

/// Interim responses that are passed on, for one request.
const MAX_PASSED: usize = 16;
/// Bytes of those: as many as a connection holds for a client that does not read.
const MAX_PASSED_BYTES: u64 = 16 << 10;
/// Interim responses after which the upstream's connection is dropped.
pub(super) const MAX_RECEIVED: usize = 100;
/// Bytes of those.
pub(super) const MAX_RECEIVED_BYTES: u64 = 256 << 10;
/// What an upstream says before its response.
pub(crate) enum Event {
    /// The head of an interim response, for the client.
    Head(Vec<u8>),
    /// So many that the request is to be given up.
    Flood,
}

/// Watches a request's interim responses. The heads are given out if `pass`; a flood always is. Ends
/// when the request has its response.
pub(crate) fn watch(request: &mut http::Request<RequestBody>, pass: bool) -> mpsc::Receiver<Event> {
    // One place for each event that can be, so that none is ever lost.
    let (sender, events) = mpsc::channel(MAX_PASSED + 1);
    let (received, received_bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    let (passed, passed_bytes) = (AtomicUsize::new(0), AtomicU64::new(0));
    hyper::ext::on_informational(request, move |response| {
        let size = head_size(response.headers());
        let count = received.fetch_add(1, Ordering::Relaxed) + 1;
        let bytes = received_bytes.fetch_add(size, Ordering::Relaxed) + size;
        if count > MAX_RECEIVED || bytes > MAX_RECEIVED_BYTES {
            let _ = sender.try_send(Event::Flood);
            return;
        }
        // This gateway has sent a 100 of its own, if one was expected.
        if !pass || response.status() == http::StatusCode::CONTINUE {
            return;
        }
        if passed.load(Ordering::Relaxed) < MAX_PASSED
            && passed_bytes.load(Ordering::Relaxed) + size <= MAX_PASSED_BYTES
        {
            passed.fetch_add(1, Ordering::Relaxed);
            passed_bytes.fetch_add(size, Ordering::Relaxed);
            let _ = sender.try_send(Event::Head(head(response.status(), response.headers())));
        }
    });
    events
}

fn head(status: http::StatusCode, fields: &http::HeaderMap) -> Vec<u8> {
    let mut head = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in fields {
        let hop = HOP_BY_HOP.contains(&name.as_str());
        if !hop && name != http::header::CONTENT_LENGTH {
            head.extend_from_slice(name.as_str().as_bytes());
            head.extend_from_slice(b": ");
            head.extend_from_slice(value.as_bytes());
            head.extend_from_slice(b"\r\n");
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}
