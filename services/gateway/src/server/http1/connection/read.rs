//! What a connection reads besides heads.

use super::*;
use crate::server::http1::{
    buffers::BUFFER,
    limits::{MAX_BODY_AHEAD, MAX_READ_AHEAD},
};
use tokio::io::AsyncReadExt as _;

impl<S> Driver<S> {
    /// Reads what is there. Where a new buffer is needed, it is one for `expected` bytes.
    pub(super) fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        expected: usize,
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        if self.input.capacity() == 0 {
            self.input = self.worker.buffers.take();
        }
        // Only then: pieces that wait keep their buffers, which are to be full.
        if self.input.capacity() - self.input.len() < BUFFER / 4 {
            self.input.reserve(expected.max(BUFFER));
        }
        let read = std::pin::pin!(self.tcp.read_buf(&mut self.input));
        let count = ready!(read.poll(cx))?;
        if count == 0 {
            self.ended = true;
            self.shared.set_client(ClientState::HalfClosed);
        }
        Poll::Ready(Ok(count))
    }

    /// Feeds the handler with the request's body for as long as it takes it, and notices that the
    /// client leaves. `Err` within is what is wrong with the body.
    pub(super) fn poll_request_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> io::Result<Result<(), Refusal>> {
        if let Some(feed) = &self.exchange.feed {
            feed.register(cx);
        }
        loop {
            let wanted = match self.feed_decoded() {
                Ok(wanted) => wanted,
                Err(fault) => return Ok(Err(self.broken(fault))),
            };
            let expected = match (wanted, self.exchange.decoder.remaining()) {
                (false, _) if self.input.len() >= MAX_READ_AHEAD => return Ok(Ok(())),
                (false, _) => 0,
                (true, Some(remaining)) => usize::try_from(remaining)
                    .unwrap_or(usize::MAX)
                    .min(MAX_BODY_AHEAD),
                (true, None) => MAX_BODY_AHEAD,
            };
            if self.ended {
                return Ok(if wanted {
                    Err(self.broken(BodyFault::CutShort))
                } else {
                    Ok(())
                });
            }
            match self.poll_fill(cx, expected)? {
                Poll::Ready(_) => self.body_stuck = None,
                Poll::Pending => {
                    let waits = wanted && !self.exchange.owes_continue;
                    return Ok(if waits && self.is_body_late(cx) {
                        if let Some(feed) = &self.exchange.feed {
                            feed.fail(Some(io::ErrorKind::TimedOut.into()));
                        }
                        Err(Refusal::new(
                            StatusCode::REQUEST_TIMEOUT,
                            "the body of the request did not come in time",
                        ))
                    } else {
                        Ok(())
                    });
                }
            }
        }
    }

    /// Decodes what was read; whether the handler has room for more than that.
    fn feed_decoded(&mut self) -> Result<bool, BodyFault> {
        let exchange = &mut self.exchange;
        let Some(feed) = &exchange.feed else {
            return Ok(false);
        };
        if exchange.decoder.is_complete() {
            return Ok(false);
        }
        if exchange.owes_continue {
            if !self.input.is_empty() {
                // It did not wait.
                exchange.owes_continue = false;
            } else if feed.is_polled() && !exchange.answered {
                exchange.owes_continue = false;
                self.output.buf.extend_from_slice(encode::CONTINUE);
            }
        }
        while feed.has_room() {
            match exchange.decoder.step(&mut self.input)? {
                Step::Piece(piece) => feed.push(piece),
                Step::End => {
                    feed.end();
                    return Ok(false);
                }
                Step::More => return Ok(true),
            }
            if exchange.decoder.is_complete() {
                feed.end();
                return Ok(false);
            }
        }
        self.body_stuck = None;
        Ok(false)
    }

    fn broken(&self, fault: BodyFault) -> Refusal {
        if let Some(feed) = &self.exchange.feed {
            feed.fail(Some(io::Error::new(io::ErrorKind::InvalidData, fault)));
        }
        Refusal::bad(fault.detail())
    }

    fn is_body_late(&mut self, cx: &mut Context<'_>) -> bool {
        let since = *self.body_stuck.get_or_insert(self.now);
        self.worker
            .limits
            .body_timeout
            .is_some_and(|limit| self.timer.poll(since + limit, self.now, cx))
    }

    /// Reads away what is left of a body that nobody wanted, so that the next head can be found; a
    /// long one ends the connection instead.
    pub(super) fn poll_draining(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let Phase::Draining { mut read } = self.phase else {
            return Poll::Ready(Ok(()));
        };
        loop {
            match self.exchange.decoder.step(&mut self.input) {
                Ok(Step::Piece(piece)) => read += piece.len() as u64,
                Ok(Step::End) => {
                    self.await_next();
                    self.phase = Phase::Head;
                    return Poll::Ready(Ok(()));
                }
                Ok(Step::More) => {
                    // Not sooner: the response goes out with those of the requests that follow.
                    ready!(self.poll_flush(cx))?;
                    match self.poll_fill(cx, 0)? {
                        Poll::Ready(0) => break,
                        Poll::Ready(_) => self.body_stuck = None,
                        Poll::Pending if self.is_body_late(cx) => break,
                        Poll::Pending => {
                            self.phase = Phase::Draining { read };
                            return Poll::Pending;
                        }
                    }
                }
                // The response is out; there is nobody to tell.
                Err(_) => break,
            }
            if read > MAX_DRAIN {
                break;
            }
        }
        self.phase = Phase::Closing { linger: true };
        Poll::Ready(Ok(()))
    }
}
