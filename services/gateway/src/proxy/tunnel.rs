//! Connections that have switched to WebSocket (RFC 6455): bytes both ways.
//!
//! It is the only protocol that is switched to. What a tunnel carries is neither judged nor keyed, so
//! one is opened only for a client that has asked for it in full, and only to what it has asked for.
//! h2c in particular would be a way past every rule of the gateway.
//!
//! A tunnel lives in a task, which ends with the response's body, and so with the client's connection,
//! or when no byte has come from either side for `tunnel_idle_timeout`.

use super::{fields, upstreams::InFlight};
use actix_http::{
    Payload,
    body::{BodySize, MessageBody},
};
use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use hyper::{body::Incoming, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use std::{
    cell::Cell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, split},
    sync::mpsc,
    task::JoinHandle,
    time::{Instant, sleep_until},
};

const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 4;

const WEBSOCKET: &str = "websocket";

/// Whether a 101 switches to WebSocket and to nothing else.
pub(super) fn is_accepted(fields: &http::HeaderMap) -> bool {
    let mut protocols = fields.get_all(http::header::UPGRADE).iter();
    protocols
        .next()
        .is_some_and(|protocol| is_websocket(protocol.as_bytes()))
        && protocols.next().is_none()
}

fn is_websocket(protocol: &[u8]) -> bool {
    protocol
        .trim_ascii()
        .eq_ignore_ascii_case(WEBSOCKET.as_bytes())
}

/// When a byte last went through a tunnel.
struct Activity(Cell<Instant>);

impl Activity {
    fn note(&self) {
        self.0.set(Instant::now());
    }

    /// Waits until there has been none for so long.
    async fn ends(&self, idle: Duration) {
        loop {
            let until = self.0.get() + idle;
            if until <= Instant::now() {
                return;
            }
            sleep_until(until).await;
        }
    }
}

/// Answers 101 and passes bytes until either side ends, or neither has sent any for `idle`.
pub(super) fn open(
    response: http::Response<Incoming>,
    mut payload: Payload,
    idle: Duration,
    in_flight: InFlight,
) -> HttpResponse {
    let headers = response.headers().clone();
    let upgrading = hyper::upgrade::on(response);
    let (down, pieces) = mpsc::channel(CHUNKS);
    let task = actix_rt::spawn(async move {
        let _in_flight = in_flight;
        let upgraded = match upgrading.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                let _ = down.send(Err(io::Error::other(error))).await;
                return;
            }
        };
        let (read, mut write) = split(TokioIo::new(upgraded));
        let activity = Activity(Cell::new(Instant::now()));
        let up = async {
            while let Some(Ok(piece)) = payload.next().await {
                activity.note();
                if write.write_all(&piece).await.is_err() || write.flush().await.is_err() {
                    break;
                }
            }
            let _ = write.shutdown().await;
        };
        let both = async { tokio::join!(up, pass_down(read, down, &activity)) };
        tokio::select! {
            _ = both => {}
            () = activity.ends(idle) => tracing::debug!(?idle, "a tunnel is idle, and closed"),
        }
    });
    let tunnel = Tunnel { pieces, task };
    let mut response =
        HttpResponse::with_body(StatusCode::SWITCHING_PROTOCOLS, tunnel).map_into_boxed_body();
    fields::of_response(&headers, response.headers_mut(), false);
    response
        .head_mut()
        .set_connection_type(actix_http::ConnectionType::Upgrade);
    let protocol = header::HeaderValue::from_static(WEBSOCKET);
    response.headers_mut().insert(header::UPGRADE, protocol);
    response
}

async fn pass_down(
    mut read: ReadHalf<TokioIo<Upgraded>>,
    down: mpsc::Sender<io::Result<Bytes>>,
    activity: &Activity,
) {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        let piece = match read.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok(buffer.split().freeze()),
            Err(error) => Err(error),
        };
        activity.note();
        let broken = piece.is_err();
        if down.send(piece).await.is_err() || broken {
            return;
        }
    }
}

/// The upstream's bytes, unframed.
struct Tunnel {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
    task: JoinHandle<()>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl MessageBody for Tunnel {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(ready!(self.pieces.poll_recv(cx)))
    }
}
