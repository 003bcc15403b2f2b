//! The body on its last stretch: puts the upstream's trailers behind it.

use crate::{proxy::TrailerSlot, server::wire::Wire};
use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    pub(crate) struct IngressBody<B> {
        #[pin]
        inner: B,
        trailing: Option<Trailing>,
    }
}

struct Trailing {
    slot: TrailerSlot,
    wire: Wire,
    /// Complete writes when the last piece of the body was given out.
    seen: u64,
    ended: bool,
}

impl<B> IngressBody<B> {
    /// `slot` is there for a body whose trailers may come, and only a chunked one can have any.
    pub(super) fn new(inner: B, slot: Option<TrailerSlot>, wire: Option<Wire>) -> Self
    where
        B: MessageBody,
    {
        let chunked = matches!(inner.size(), BodySize::Stream);
        let trailing = slot
            .zip(wire)
            .filter(|_| chunked)
            .map(|(slot, wire)| Trailing {
                seen: wire.writes(),
                slot,
                wire,
                ended: false,
            });
        Self { inner, trailing }
    }
}

impl<B: MessageBody> MessageBody for IngressBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.inner.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.project();
        let Some(trailing) = this.trailing else {
            return this.inner.poll_next(cx);
        };
        if !trailing.ended {
            match ready!(this.inner.poll_next(cx)) {
                Some(piece) => {
                    trailing.seen = trailing.wire.writes();
                    return Poll::Ready(Some(piece));
                }
                None => trailing.ended = true,
            }
        }
        let Some(fields) = trailing.slot.peek() else {
            return Poll::Ready(None);
        };
        ready!(trailing.wire.poll_ready_for_trailers(trailing.seen, cx));
        trailing.wire.put_trailers(fields);
        *this.trailing = None;
        Poll::Ready(None)
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        let Self { inner, trailing } = self;
        inner
            .try_into_bytes()
            .map_err(|inner| Self { inner, trailing })
    }
}
