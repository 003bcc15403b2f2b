//! How a connection waits for the next request, and takes it.

use super::*;

impl<S> Driver<S> {
    /// Waits for the next request. `None` where something else is to be done.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Request>>> {
        loop {
            if !self.output.has_room() {
                ready!(self.poll_flush(cx))?;
            }
            let max_head = self.worker.limits.max_head;
            match self.parser.next(&mut self.input, max_head) {
                Ok(Some(head)) => return Poll::Ready(Ok(self.begin(head))),
                Ok(None) => {}
                Err(refusal) => {
                    // Nothing of the request before is true of this one.
                    self.exchange = Exchange::default();
                    self.refuse(refusal);
                    return Poll::Ready(Ok(None));
                }
            }
            ready!(self.poll_flush(cx))?;
            let draining = self.head_began.is_none() && self.is_draining(cx);
            if self.ended || draining {
                self.phase = Phase::Closing { linger: draining };
                return Poll::Ready(Ok(None));
            }
            match self.poll_fill(cx, 0)? {
                Poll::Ready(0) => {}
                Poll::Ready(_) => {
                    self.head_began.get_or_insert(self.now);
                }
                Poll::Pending => {
                    let Some(deadline) = self.head_deadline() else {
                        return Poll::Pending;
                    };
                    if !self.timer.poll(deadline, self.now, cx) {
                        return Poll::Pending;
                    }
                    if self.head_began.is_some() {
                        self.exchange = Exchange::default();
                        self.refuse(Refusal::new(
                            StatusCode::REQUEST_TIMEOUT,
                            "the head of the request did not come in time",
                        ));
                    } else {
                        self.phase = Phase::Closing { linger: true };
                    }
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    fn head_deadline(&self) -> Option<Instant> {
        let limits = &self.worker.limits;
        match self.head_began {
            // The first head is waited for from accepting on: a connection alone is nothing.
            _ if self.number == 0 => limits.request_timeout.map(|limit| self.idle_since + limit),
            Some(began) => limits.request_timeout.map(|limit| began + limit),
            None => limits.keep_alive.map(|limit| self.idle_since + limit),
        }
    }

    /// Whether the server drains; if not, the task is woken when it does.
    fn is_draining(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.awaits_drain {
            // Once is enough: a task's waker stays the same.
            self.awaits_drain = true;
            let _ = self.drain.as_mut().poll(cx);
        }
        self.worker.is_draining()
    }

    /// A head was read: makes the request that handlers see. `None` where it is refused.
    fn begin(&mut self, head: Head) -> Option<Request> {
        let Head {
            mut request,
            facts,
            cost,
        } = head;
        self.number += 1;
        self.body_stuck = None;
        self.exchange = Exchange {
            facts,
            decoder: BodyDecoder::new(facts.body, self.worker.limits.max_head),
            owes_continue: facts.expects_continue,
            cost,
            ..Exchange::default()
        };
        if cost > 0 {
            // At once: many may come before this connection waits for anything.
            self.worker.budget.change(self.counted, self.counted + cost);
            self.counted += cost;
        }
        if self.worker.budget.is_exhausted() {
            self.refuse(Refusal::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "all connections together hold as much memory as max_buffers allows",
            ));
            return None;
        }
        let has_body = !self.exchange.decoder.is_complete();
        if has_body || facts.upgrade {
            let announce = facts.body != BodyLength::None;
            let (feed, payload) = payload::channel(facts.upgrade.then_some(announce));
            if !has_body {
                feed.end();
            }
            *request.payload() = Payload::Stream { payload };
            self.exchange.feed = Some(feed);
        }
        if facts.is_http_10 {
            self.shared.open(0);
        } else {
            self.shared.open(self.number);
        }
        request.extensions_mut().insert(RequestConnection {
            shared: Rc::clone(&self.shared),
            number: self.number,
        });
        request.head_mut().peer_addr = self.peer;
        Some(request)
    }

    /// The next head is waited for from now on.
    pub(super) fn await_next(&mut self) {
        self.idle_since = self.now;
        self.head_began = (!self.input.is_empty()).then_some(self.now);
    }
}
