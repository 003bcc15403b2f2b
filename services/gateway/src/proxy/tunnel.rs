//! Connections that have switched protocols (RFC 9110 §7.8), WebSocket above all: bytes both ways.

use super::{fields, upstreams::InFlight};
use crate::problem::problem;
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
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, split},
    sync::mpsc,
};

const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 4;

/// Answers 101 and passes bytes until either side ends.
pub(super) fn open(
    response: http::Response<Incoming>,
    payload: Option<Payload>,
    in_flight: InFlight,
) -> HttpResponse {
    let Some(mut payload) = payload else {
        return problem(
            StatusCode::BAD_GATEWAY,
            "the upstream switched protocols unasked",
        );
    };
    let protocol = response
        .headers()
        .get(http::header::UPGRADE)
        .and_then(|value| header::HeaderValue::from_bytes(value.as_bytes()).ok());
    let headers = response.headers().clone();
    let upgrading = hyper::upgrade::on(response);
    let (down, pieces) = mpsc::channel(CHUNKS);
    actix_rt::spawn(async move {
        let _in_flight = in_flight;
        let upgraded = match upgrading.await {
            Ok(upgraded) => upgraded,
            Err(error) => {
                let _ = down.send(Err(io::Error::other(error))).await;
                return;
            }
        };
        let (read, mut write) = split(TokioIo::new(upgraded));
        let up = async {
            while let Some(Ok(piece)) = payload.next().await {
                if write.write_all(&piece).await.is_err() || write.flush().await.is_err() {
                    break;
                }
            }
            let _ = write.shutdown().await;
        };
        tokio::join!(up, pass_down(read, down));
    });
    let mut response = HttpResponse::with_body(StatusCode::SWITCHING_PROTOCOLS, Tunnel(pieces))
        .map_into_boxed_body();
    fields::of_response(&headers, response.headers_mut(), false);
    response
        .head_mut()
        .set_connection_type(actix_http::ConnectionType::Upgrade);
    if let Some(protocol) = protocol {
        response.headers_mut().insert(header::UPGRADE, protocol);
    }
    response
}

async fn pass_down(mut read: ReadHalf<TokioIo<Upgraded>>, down: mpsc::Sender<io::Result<Bytes>>) {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        let piece = match read.read_buf(&mut buffer).await {
            Ok(0) => return,
            Ok(_) => Ok(buffer.split().freeze()),
            Err(error) => Err(error),
        };
        let broken = piece.is_err();
        if down.send(piece).await.is_err() || broken {
            return;
        }
    }
}

/// The upstream's bytes, unframed.
struct Tunnel(mpsc::Receiver<io::Result<Bytes>>);

impl MessageBody for Tunnel {
    type Error = io::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(ready!(self.0.poll_recv(cx)))
    }
}
