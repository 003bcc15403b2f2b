//! How a connection answers.

use super::*;
use crate::server::http1::limits::MAX_OUTPUT;
use actix_http::{ResponseHead, body::BodySize};
use actix_web::HttpResponse;
use bytes::Bytes;

impl<S> Driver<S> {
    /// Writes the head of the handler's response, and its body if that is there already.
    pub(super) fn respond<B: MessageBody>(
        &mut self,
        answer: Result<ServiceResponse<B>, Error>,
        mut body: Pin<&mut Option<B>>,
    ) {
        let mut response = match answer {
            Ok(answer) => HttpResponse::from(answer),
            Err(error) => {
                self.write_whole(HttpResponse::from_error(error));
                return self.finish();
            }
        };
        let status = response.status();
        let switches = status == StatusCode::SWITCHING_PROTOCOLS;
        let may_switch = self.exchange.facts.upgrade && self.exchange.decoder.is_complete();
        if status.is_informational() && !(switches && may_switch) {
            self.write_whole((self.worker.refuse)(
                StatusCode::BAD_GATEWAY,
                "the upstream switched protocols unasked",
            ));
            return self.finish();
        }
        self.exchange.trailers = response.extensions_mut().remove::<TrailerSlot>();
        let (response, content) = response.into_parts();
        self.write_head(response.head(), content.size());
        drop(response);
        match (&self.exchange.feed, switches) {
            (Some(feed), true) => {
                feed.switch();
                body.set(Some(content));
                self.phase = Phase::Tunnel;
                return;
            }
            (Some(feed), false) => feed.refuse_switch(),
            (None, _) => {}
        }
        if self.exchange.framing == Framing::None {
            return self.finish();
        }
        self.phase = Phase::Sending;
        match content.try_into_bytes() {
            Ok(whole) => {
                if !self.push(whole) || !self.end_body() {
                    return self.cut_off();
                }
                if self.output.has_room() {
                    self.finish();
                }
            }
            Err(content) => body.set(Some(content)),
        }
    }

    /// Writes a response of which all is there, or as good as nothing: those of errors.
    pub(super) fn write_whole(&mut self, response: HttpResponse) {
        let (response, content) = response.into_parts();
        let content = content.try_into_bytes().unwrap_or_default();
        let size = BodySize::Sized(content.len() as u64);
        self.write_head(response.head(), size);
        if self.exchange.framing != Framing::None {
            self.push(content);
        }
    }

    fn write_head(&mut self, head: &ResponseHead, size: BodySize) {
        let facts = &self.exchange.facts;
        let limits = &self.worker.limits;
        let exchange = &self.exchange;
        // What a client that waits for a 100 does after another answer is not known, and a long
        // body that nobody reads is not worth waiting for.
        let abandoned = exchange.owes_continue
            || (exchange.feed.as_ref().is_some_and(Feed::is_dropped)
                && exchange.decoder.remaining() > Some(MAX_DRAIN));
        let keep_alive = facts.keep_alive
            && limits.keep_alive.is_some()
            && !abandoned
            && head.connection_type() != actix_http::ConnectionType::Close
            && !self.worker.is_draining();
        let context = encode::Context {
            is_head: facts.is_head,
            is_http_10: facts.is_http_10,
            keep_alive,
        };
        if self.output.buf.capacity() == 0 {
            self.output.buf = self.worker.buffers.take();
        }
        self.shared.take_interim(&mut self.output.buf);
        self.shared.open(0);
        let out = &mut self.output.buf;
        let encoded = self.worker.date.with(self.now, |date| {
            encode::head(out, head, size, context, date)
        });
        self.exchange.answered = true;
        self.exchange.framing = encoded.framing;
        self.exchange.keep_alive = encoded.keep_alive;
    }

    /// Adds a piece of the body; `false` if there is more of it than its head said.
    fn push(&mut self, piece: Bytes) -> bool {
        if piece.is_empty() {
            return true;
        }
        match &mut self.exchange.framing {
            Framing::None => false,
            Framing::Length(left) if piece.len() as u64 > *left => false,
            Framing::Length(left) => {
                *left -= piece.len() as u64;
                self.output.push(piece, false);
                true
            }
            Framing::Chunked => {
                self.output.push(piece, true);
                true
            }
            Framing::UntilClose | Framing::Raw => {
                self.output.push(piece, false);
                true
            }
        }
    }

    /// Writes what stands behind the body; `false` if there is less of it than its head said.
    fn end_body(&mut self) -> bool {
        match self.exchange.framing {
            Framing::Length(left) => left == 0,
            Framing::Chunked if self.output.has_room() => {
                let trailers = self.exchange.trailers.take();
                let fields = trailers.map_or(Vec::new(), |slot| slot.take());
                encode::last_chunk(&mut self.output.buf, &fields);
                self.exchange.framing = Framing::None;
                true
            }
            _ => true,
        }
    }

    /// Sends the body of the response as it comes.
    pub(super) fn poll_sending<B: MessageBody>(
        &mut self,
        mut body: Pin<&mut Option<B>>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        loop {
            let mut waits = false;
            while self.output.has_room() {
                let Some(content) = body.as_mut().as_pin_mut() else {
                    // All of it is on its way: a chunk's end may be left.
                    self.end_body();
                    self.finish();
                    return Poll::Ready(Ok(()));
                };
                match content.poll_next(cx) {
                    Poll::Ready(Some(Ok(piece))) => {
                        if !self.push(piece) {
                            body.set(None);
                            self.cut_off();
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Poll::Ready(None) => {
                        body.set(None);
                        if !self.end_body() {
                            self.cut_off();
                            return Poll::Ready(Ok(()));
                        }
                    }
                    Poll::Ready(Some(Err(_))) => {
                        body.set(None);
                        self.cut_off();
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Pending => {
                        waits = true;
                        break;
                    }
                }
            }
            let flushed = self.poll_flush(cx)?;
            if waits || flushed.is_pending() {
                // A body that cannot be read on takes the response with it.
                if self.poll_request_body(cx)?.is_err() {
                    body.set(None);
                    self.cut_off();
                    return Poll::Ready(Ok(()));
                }
                return Poll::Pending;
            }
        }
    }

    /// Ends the connection in the middle of a response, so that the client sees that it is not
    /// whole.
    fn cut_off(&mut self) {
        self.exchange.feed = None;
        self.phase = if self.exchange.framing == Framing::UntilClose {
            Phase::Resetting
        } else {
            Phase::Closing { linger: false }
        };
    }

    /// Passes bytes both ways until either side ends.
    pub(super) fn poll_tunnel<B: MessageBody>(
        &mut self,
        mut body: Pin<&mut Option<B>>,
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        self.poll_tunnel_up(cx)?;
        loop {
            let mut waits = false;
            while self.output.has_room() && self.output.buf.len() < MAX_OUTPUT {
                match body.as_mut().as_pin_mut().map(|body| body.poll_next(cx)) {
                    Some(Poll::Ready(Some(Ok(piece)))) => {
                        self.push(piece);
                    }
                    Some(Poll::Pending) => {
                        waits = true;
                        break;
                    }
                    Some(Poll::Ready(None | Some(Err(_)))) | None => {
                        body.set(None);
                        self.exchange.feed = None;
                        self.phase = Phase::Closing { linger: true };
                        return Poll::Ready(Ok(()));
                    }
                }
            }
            ready!(self.poll_flush(cx))?;
            if waits {
                return Poll::Pending;
            }
        }
    }

    /// Passes on what the client sends.
    fn poll_tunnel_up(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(feed) = &self.exchange.feed else {
            return Ok(());
        };
        feed.register(cx);
        loop {
            let Some(feed) = &self.exchange.feed else {
                return Ok(());
            };
            if !feed.has_room() {
                return Ok(());
            }
            if !self.input.is_empty() {
                feed.push(self.input.split().freeze());
                continue;
            }
            if self.ended {
                feed.end();
                return Ok(());
            }
            if self.poll_fill(cx, 0)?.is_pending() {
                return Ok(());
            }
        }
    }
}
