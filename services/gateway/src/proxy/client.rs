//! One worker's HTTP clients.

use super::body::RequestBody;
use crate::config::Config;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{collections::HashMap, time::Duration};

pub(crate) type HttpClient = Client<HttpsConnector<HttpConnector>, RequestBody>;

/// Idle connections to one upstream that a worker keeps.
const MAX_IDLE: usize = 128;
/// Shorter than the keep-alive of common servers (Node, uvicorn and Apache: 5 s), so that we close
/// first: a POST on a connection that the upstream is closing cannot be repeated.
const IDLE: Duration = Duration::from_secs(4);

/// Fields that the head of a response may have, whatever its size. Each costs hyper 64 bytes for each
/// response, used or not.
const MAX_FIELDS: usize = 1024;

/// Clients by their connect timeout, which belongs to the connector.
pub(crate) struct Clients {
    by_connect_timeout: HashMap<Duration, HttpClient>,
    other: HttpClient,
    /// The largest head of a response.
    pub(super) max_head: u64,
}

impl Clients {
    pub(crate) fn new(config: &Config) -> Self {
        let timeouts = config.routes.iter().map(|route| route.connect_timeout);
        let timeouts = timeouts.chain(config.models.iter().map(|route| route.connect_timeout));
        let max_head = config.server.max_upstream_head;
        Self {
            by_connect_timeout: timeouts
                .map(|timeout| (timeout, client(timeout, max_head)))
                .collect(),
            other: client(Duration::from_secs(5), max_head),
            max_head,
        }
    }

    pub(crate) fn get(&self, connect_timeout: Duration) -> &HttpClient {
        self.by_connect_timeout
            .get(&connect_timeout)
            .unwrap_or(&self.other)
    }
}

pub(super) fn client(connect_timeout: Duration, max_head: u64) -> HttpClient {
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(connector);
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MAX_IDLE)
        // The head of a response must fit into the buffer; bodies are read through it piece by piece.
        .http1_max_buf_size(usize::try_from(max_head).unwrap_or(usize::MAX))
        .http1_max_headers(MAX_FIELDS)
        // Host is ours to set, from the client's or from the route.
        .set_host(false)
        .build(connector)
}
