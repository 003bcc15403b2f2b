//! Bodies on their way up and down.

use super::{cause, upstreams::InFlight};
use crate::{routes::Target, server::http1::TrailerSlot};
use actix_http::body::{BodySize, MessageBody};
use actix_web::http::header::HeaderValue;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::{
    fmt, io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    time::{Sleep, sleep},
};

/// A request's body. Actix's payload stays on its thread, hyper's body must not, so the pieces go
/// through a short channel, which is also what slows a fast client to a slow upstream's pace.
pub(crate) enum RequestBody {
    Empty,
    Whole(Option<Bytes>),
    Pieces(Pieces),
}

/// A client's body as it comes. Clones are the same body, so that one whose upstream was not reached
/// can be given to another as long as nothing of it was taken.
#[derive(Clone)]
pub(crate) struct Pieces {
    received: Arc<Mutex<mpsc::Receiver<Result<Bytes, io::Error>>>>,
    length: Option<u64>,
    progress: Progress,
}

impl Pieces {
    pub(super) fn new(
        received: mpsc::Receiver<Result<Bytes, io::Error>>,
        length: Option<u64>,
        progress: Progress,
    ) -> Self {
        Self {
            received: Arc::new(Mutex::new(received)),
            length,
            progress,
        }
    }

    /// Whether nothing of it was taken.
    pub(super) fn is_untouched(&self) -> bool {
        !self.progress.began.load(Ordering::Relaxed)
    }
}

/// When a piece of the request last went up: the first byte of the response is waited for from then.
#[derive(Clone)]
pub(crate) struct Progress {
    epoch: Instant,
    at: Arc<AtomicU64>,
    left: Arc<AtomicU64>,
    began: Arc<AtomicBool>,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            at: Arc::new(AtomicU64::new(0)),
            left: Arc::new(AtomicU64::new(0)),
            began: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Says that there is a body, of that length if it is known.
    pub(super) fn expect(&self, length: Option<u64>) {
        self.left
            .store(length.unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Whether all of it has gone up.
    pub(super) fn is_done(&self) -> bool {
        self.left.load(Ordering::Relaxed) == 0
    }

    /// Notes that so many bytes went up; `None` is the end.
    fn note(&self, bytes: Option<usize>) {
        self.began.store(true, Ordering::Relaxed);
        let left = self.left.load(Ordering::Relaxed);
        let left = bytes.map_or(0, |bytes| left.saturating_sub(bytes as u64));
        self.left.store(left, Ordering::Relaxed);
        let at = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at.store(at, Ordering::Relaxed);
    }

    pub(super) fn last(&self) -> Instant {
        self.epoch + Duration::from_millis(self.at.load(Ordering::Relaxed))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Pieces(body) => {
                let piece = std::task::ready!(body.received.lock().poll_recv(cx));
                let bytes = piece
                    .as_ref()
                    .map(|piece| piece.as_ref().map_or(0, Bytes::len));
                body.progress.note(bytes);
                Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty | Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Whole(None) => SizeHint::with_exact(0),
            Self::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Self::Pieces(body) => body
                .length
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

/// Why a response's body broke off.
#[derive(Debug)]
pub(crate) enum BodyError {
    Upstream(hyper::Error),
    Silent(Duration),
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Upstream(error) => write!(f, "the upstream's body broke off: {error}"),
            Self::Silent(limit) => write!(f, "no byte of the upstream's body for {limit:?}"),
        }
    }
}

impl std::error::Error for BodyError {}

/// A response's body: an error where the upstream breaks off or falls silent, never a clean end.
pub(super) struct ResponseBody {
    incoming: Incoming,
    size: BodySize,
    limit: Duration,
    silence: Option<Pin<Box<Sleep>>>,
    trailers: TrailerSlot,
    in_flight: InFlight,
    whose: Whose,
}

/// To whom a response belongs.
pub(super) struct Whose {
    pub(super) target: Target,
    pub(super) request_id: HeaderValue,
}

impl ResponseBody {
    pub(super) fn new(
        incoming: Incoming,
        size: BodySize,
        limit: Duration,
        trailers: TrailerSlot,
        in_flight: InFlight,
        whose: Whose,
    ) -> Self {
        Self {
            incoming,
            size,
            limit,
            silence: None,
            trailers,
            in_flight,
            whose,
        }
    }

    /// Says in the log that the upstream broke off or fell silent.
    fn broken(&self, error: BodyError) -> BodyError {
        let cause = match &error {
            BodyError::Upstream(error) => cause::chain(error),
            BodyError::Silent(limit) => {
                format!("timed out after {}: silence", cause::seconds(*limit))
            }
        };
        tracing::warn!(
            upstream = self.in_flight.upstream(),
            route = self.whose.target.name(),
            request_id = self.whose.request_id.to_str().unwrap_or(""),
            cause,
            "upstream failed amid the body of its response"
        );
        error
    }
}

impl MessageBody for ResponseBody {
    type Error = BodyError;

    fn size(&self) -> BodySize {
        self.size
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        loop {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    this.silence = None;
                    match frame.into_data() {
                        // Actix takes an empty chunk for the end.
                        Ok(data) if data.is_empty() => {}
                        Ok(data) => return Poll::Ready(Some(Ok(data))),
                        Err(frame) => {
                            if let Ok(trailers) = frame.into_trailers() {
                                this.trailers.put(&trailers);
                            }
                        }
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    let error = this.broken(BodyError::Upstream(error));
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let limit = this.limit;
                    let silence = this.silence.get_or_insert_with(|| Box::pin(sleep(limit)));
                    ready!(silence.as_mut().poll(cx));
                    let error = this.broken(BodyError::Silent(limit));
                    return Poll::Ready(Some(Err(error)));
                }
            }
        }
    }
}
