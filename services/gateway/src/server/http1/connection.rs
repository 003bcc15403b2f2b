//! A connection: one request after the other, each answered before the next is looked at.
//!
//! It is one hand-written future. A hit is read, answered and written in one poll, without a task, a
//! channel or a timer of its own.

mod heads;
mod read;
mod respond;

use super::{
    Worker,
    body::{BodyDecoder, BodyFault, Step},
    encode::{self, Framing},
    framing::{BodyLength, Facts},
    handle::{ClientState, RequestConnection, Shared},
    head::{Head, HeadParser},
    limits::{LINGER, MAX_DRAIN, MAX_LINGER},
    output::Output,
    payload::{self, Feed},
    refusal::Refusal,
    timer::Timer,
    trailers::TrailerSlot,
};
use actix_http::{HttpMessage as _, Payload, Request, body::MessageBody};
use actix_service::Service;
use actix_web::{
    Error,
    dev::ServiceResponse,
    http::{StatusCode, header},
};
use bytes::BytesMut;
use pin_project_lite::pin_project;
use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{io::AsyncWrite as _, net::TcpStream};

pin_project! {
    /// A client's connection. Ready when it is over.
    pub(crate) struct Connection<S, B>
    where
        S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    {
        #[pin]
        call: Option<S::Future>,
        #[pin]
        body: Option<B>,
        driver: Driver<S>,
    }
}

/// All of a connection that is not pinned.
struct Driver<S> {
    tcp: TcpStream,
    peer: Option<SocketAddr>,
    worker: Rc<Worker<S>>,
    /// What handlers may hold on to.
    shared: Rc<Shared>,
    phase: Phase,
    parser: HeadParser,
    input: BytesMut,
    /// Whether the client has sent all that it will.
    ended: bool,
    output: Output,
    exchange: Exchange,
    /// Requests so far.
    number: u64,
    /// When the head that is waited for began to come, and until then, when the waiting began.
    head_began: Option<Instant>,
    idle_since: Instant,
    /// Since when the client has not moved, in the direction that is waited for.
    body_stuck: Option<Instant>,
    write_stuck: Option<Instant>,
    now: Instant,
    timer: Timer,
    drain: Pin<Box<dyn Future<Output = ()>>>,
    awaits_drain: bool,
    /// Bytes that are counted in the budget.
    counted: usize,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It waits for a head.
    Head,
    /// The handler has the request.
    Handling,
    /// The response's body comes.
    Sending,
    /// The response is out, and the rest of the request's body is read away.
    Draining { read: u64 },
    /// The rest of the output is written, and then no more.
    Closing { linger: bool },
    /// The client is told, and may have sent what is not read any more.
    Lingering { until: Instant, read: usize },
    /// The response is not whole, and an orderly end would look like its own.
    Resetting,
    /// Another protocol.
    Tunnel,
}

/// The request that is being answered.
struct Exchange {
    facts: Facts,
    decoder: BodyDecoder,
    /// Where the body goes; nowhere if there is none.
    feed: Option<Feed>,
    /// Whether the client is still to be told to send the body.
    owes_continue: bool,
    /// Whether the head of the response is written, and how.
    answered: bool,
    framing: Framing,
    keep_alive: bool,
    trailers: Option<TrailerSlot>,
    /// What the request's head holds, in bytes.
    cost: usize,
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            facts: Facts {
                body: BodyLength::None,
                is_head: false,
                is_http_10: false,
                keep_alive: false,
                upgrade: false,
                expects_continue: false,
            },
            decoder: BodyDecoder::new(BodyLength::None, 0),
            feed: None,
            owes_continue: false,
            answered: false,
            framing: Framing::None,
            keep_alive: false,
            trailers: None,
            cost: 0,
        }
    }
}

/// The end of a connection's future: `Err` where the client is gone or was cut off.
type End = io::Result<()>;

impl<S, B> Connection<S, B>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    /// `None` where all connections together hold as much memory as they may.
    pub(crate) fn new(tcp: TcpStream, worker: &Rc<Worker<S>>) -> Option<Self> {
        if worker.budget.is_exhausted() {
            return None;
        }
        let now = Instant::now();
        let mut draining = worker.draining.clone();
        Some(Self {
            call: None,
            body: None,
            driver: Driver {
                peer: tcp.peer_addr().ok(),
                tcp,
                worker: Rc::clone(worker),
                shared: Rc::new(Shared::new()),
                phase: Phase::Head,
                parser: HeadParser::default(),
                input: BytesMut::new(),
                ended: false,
                output: Output::default(),
                exchange: Exchange::default(),
                number: 0,
                head_began: None,
                idle_since: now,
                body_stuck: None,
                write_stuck: None,
                now,
                timer: Timer::default(),
                drain: Box::pin(async move {
                    let _ = draining.changed().await;
                }),
                awaits_drain: false,
                counted: 0,
            },
        })
    }
}

impl<S, B> Future for Connection<S, B>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
    B: MessageBody,
{
    type Output = End;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let mut this = self.project();
        let driver = this.driver;
        driver.now = Instant::now();
        let end = driver.drive(this.call.as_mut(), this.body.as_mut(), cx);
        match end {
            Poll::Pending => driver.park(),
            Poll::Ready(_) => {
                this.call.set(None);
                this.body.set(None);
                driver.exchange = Exchange::default();
            }
        }
        end
    }
}

impl<S> Driver<S> {
    fn drive<B>(
        &mut self,
        mut call: Pin<&mut Option<S::Future>>,
        mut body: Pin<&mut Option<B>>,
        cx: &mut Context<'_>,
    ) -> Poll<End>
    where
        S: Service<Request, Response = ServiceResponse<B>, Error = Error>,
        B: MessageBody,
    {
        loop {
            match self.phase {
                Phase::Head => {
                    if let Some(request) = ready!(self.poll_head(cx))? {
                        call.set(Some(self.worker.service.call(request)));
                        self.phase = Phase::Handling;
                    }
                }
                Phase::Handling => {
                    let Some(answer) = call.as_mut().as_pin_mut() else {
                        return Poll::Ready(Ok(()));
                    };
                    match answer.poll(cx) {
                        Poll::Ready(answer) => {
                            call.set(None);
                            self.respond(answer, body.as_mut());
                        }
                        Poll::Pending => {
                            if let Err(refusal) = self.poll_beside(cx)? {
                                call.set(None);
                                self.refuse(refusal);
                                continue;
                            }
                            // What the handler waits for may need what is still to be written.
                            ready!(self.poll_flush(cx))?;
                            return Poll::Pending;
                        }
                    }
                }
                Phase::Sending => ready!(self.poll_sending(body.as_mut(), cx))?,
                Phase::Draining { .. } => ready!(self.poll_draining(cx))?,
                Phase::Tunnel => ready!(self.poll_tunnel(body.as_mut(), cx))?,
                Phase::Resetting => {
                    let _ = socket2::SockRef::from(&self.tcp).set_linger(Some(Duration::ZERO));
                    return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
                }
                Phase::Closing { linger } => {
                    ready!(self.poll_flush(cx))?;
                    ready!(Pin::new(&mut self.tcp).poll_shutdown(cx))?;
                    if !linger || self.ended {
                        return Poll::Ready(Ok(()));
                    }
                    let until = self.now + LINGER;
                    self.phase = Phase::Lingering { until, read: 0 };
                }
                Phase::Lingering { until, read } => {
                    self.input.clear();
                    if self.timer.poll(until, self.now, cx) || read > MAX_LINGER {
                        return Poll::Ready(Ok(()));
                    }
                    match ready!(self.poll_fill(cx, 0))? {
                        0 => return Poll::Ready(Ok(())),
                        more => {
                            self.phase = Phase::Lingering {
                                until,
                                read: read + more,
                            };
                        }
                    }
                }
            }
        }
    }

    /// What the connection does while a handler runs: reads the request's body, notices that the
    /// client leaves, sends what may come before the response.
    fn poll_beside(&mut self, cx: &mut Context<'_>) -> io::Result<Result<(), Refusal>> {
        if let Err(refusal) = self.poll_request_body(cx)? {
            return Ok(Err(refusal));
        }
        self.shared.register(cx);
        if self.shared.has_interim() && self.output.has_room() {
            self.shared.take_interim(&mut self.output.buf);
        }
        Ok(Ok(()))
    }

    /// Answers with a problem, and closes.
    fn refuse(&mut self, refusal: Refusal) {
        let mut response = (self.worker.refuse)(refusal.status, refusal.detail);
        if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
            let soon = header::HeaderValue::from_static("1");
            response.headers_mut().insert(header::RETRY_AFTER, soon);
        }
        self.exchange.facts.keep_alive = false;
        self.exchange.feed = None;
        self.shared.open(0);
        self.head_began = None;
        self.write_whole(response);
        self.phase = Phase::Closing { linger: true };
    }

    /// The response is written: what comes next?
    fn finish(&mut self) {
        let unread = !self.exchange.decoder.is_complete();
        // Nothing of it matters to anybody now.
        self.exchange.feed = None;
        self.exchange.trailers = None;
        self.body_stuck = None;
        self.phase = if !self.exchange.keep_alive {
            // A client that asked for the end waits for it, and sends nothing more.
            let linger = unread || self.exchange.facts.keep_alive || !self.input.is_empty();
            Phase::Closing { linger }
        } else if unread {
            Phase::Draining { read: 0 }
        } else {
            self.await_next();
            Phase::Head
        };
    }

    /// Writes all output; ready once nothing is left. A client that takes nothing for too long ends
    /// the connection.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        if self.output.is_empty() {
            return Poll::Ready(Ok(()));
        }
        let mut progress = false;
        let written = self.output.poll_write(&mut self.tcp, cx, &mut progress)?;
        if written.is_ready() {
            self.write_stuck = None;
            return Poll::Ready(Ok(()));
        }
        if progress {
            self.write_stuck = None;
        }
        let since = *self.write_stuck.get_or_insert(self.now);
        if let Some(limit) = self.worker.limits.write_timeout
            && self.timer.poll(since + limit, self.now, cx)
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }

    /// Gives back what is not used until the next poll.
    fn park(&mut self) {
        let buffers = &self.worker.buffers;
        if self.input.is_empty() && self.input.capacity() > 0 {
            buffers.give(std::mem::take(&mut self.input));
        }
        if self.output.buf.is_empty() && self.output.buf.capacity() > 0 {
            buffers.give(std::mem::take(&mut self.output.buf));
        }
        let waiting = self.exchange.feed.as_ref().map_or(0, Feed::waiting);
        let buffers = self.input.capacity() + self.output.buf.capacity();
        let held = buffers + waiting + self.exchange.cost;
        if held != self.counted {
            self.worker.budget.change(self.counted, held);
            self.counted = held;
        }
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.worker.budget.change(self.counted, 0);
        self.shared.open(0);
        self.shared.set_client(ClientState::Gone);
    }
}
