//! A response's body that counts what is sent of it.

use super::Line;
use actix_http::body::{BodySize, MessageBody};
use bytes::Bytes;
use pin_project_lite::pin_project;
use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

pin_project! {
    /// A body, and the line that is written once it is gone.
    pub(crate) struct Logged<B> {
        #[pin]
        body: B,
        line: Line,
    }
}

impl<B: MessageBody> Logged<B> {
    pub(crate) fn new(body: B, mut line: Line) -> Self {
        if matches!(body.size(), BodySize::None | BodySize::Sized(0)) {
            line.completed();
        }
        Self { body, line }
    }
}

impl<B: MessageBody> MessageBody for Logged<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.project();
        let size = this.body.size();
        let piece = ready!(this.body.poll_next(cx));
        match &piece {
            Some(Ok(bytes)) => {
                this.line.count(bytes.len());
                // Nobody asks for what comes after the last byte of a known length.
                if matches!(size, BodySize::Sized(size) if size <= this.line.record.bytes) {
                    this.line.completed();
                }
            }
            Some(Err(_)) => {}
            None => this.line.completed(),
        }
        Poll::Ready(piece)
    }

    fn try_into_bytes(self) -> Result<Bytes, Self> {
        let Self { body, mut line } = self;
        match body.try_into_bytes() {
            Ok(whole) => {
                line.count(whole.len());
                line.completed();
                Ok(whole)
            }
            Err(body) => Err(Self { body, line }),
        }
    }
}
