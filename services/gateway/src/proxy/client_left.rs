//! Clients that leave before the head of their response has come.
//!
//! The upstream is left with them, so that it does not work for nobody, and so is a place in its
//! queue. A request that the cache keeps ([`Kept`]) goes on: others wait for its response, or it may
//! be stored.

use crate::{
    config::HalfClose,
    problem,
    server::http1::{ClientGone, ClientState},
};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, http::StatusCode};
use weaver_cache::Kept;

/// nginx's status for it: no RFC has one, because nobody is there to read it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Runs what answers a client, for as long as somebody is there to read it.
pub(crate) async fn while_connected(
    req: &HttpRequest,
    half_close: HalfClose,
    name: &str,
    answering: impl Future<Output = HttpResponse>,
) -> HttpResponse {
    tokio::select! {
        biased;
        response = answering => response,
        state = left(req, half_close) => closed(name, state),
    }
}

/// Waits until nobody is there to read the response; for ever where it does not matter.
pub(crate) async fn left(req: &HttpRequest, half_close: HalfClose) -> ClientState {
    let client = ClientGone::of(req).filter(|_| !req.extensions().contains::<Kept>());
    let Some(client) = client else {
        return std::future::pending().await;
    };
    match half_close {
        HalfClose::Abort => client.left().await,
        HalfClose::Serve => {
            client.gone().await;
            ClientState::Gone
        }
    }
}

fn closed(name: &str, state: ClientState) -> HttpResponse {
    tracing::debug!(
        upstream = name,
        ?state,
        "the client left before the response"
    );
    let (status, detail) = client_closed_request();
    problem::of_upstream(status, detail, name)
}

/// What a client is told that has closed its side only, and still reads.
pub(crate) fn client_closed_request() -> (StatusCode, &'static str) {
    let status = StatusCode::from_u16(CLIENT_CLOSED_REQUEST).unwrap_or(StatusCode::BAD_REQUEST);
    let detail = "the client closed its side of the connection before the response had come; \
                  server.half_close = \"serve\" answers such clients";
    (status, detail)
}
