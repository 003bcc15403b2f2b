//! One worker's HTTP clients.

use super::{body::RequestBody, connector::Connector, names::Names, resolver::Resolver};
use crate::{
    agents::AddressPolicy,
    config::{Config, Destination},
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::{collections::HashMap, sync::Arc, time::Duration};

pub(crate) type HttpClient = Client<HttpsConnector<Connector>, RequestBody>;

/// Idle connections to one upstream that a worker keeps.
const MAX_IDLE: usize = 128;
/// Shorter than the keep-alive of common servers (Node, uvicorn and Apache: 5 s), so that we close
/// first: a POST on a connection that the upstream is closing cannot be repeated.
const IDLE: Duration = Duration::from_secs(4);

/// Of what is configured without a connect timeout.
const OTHER_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Fields that the head of a response may have, whatever its size. Each costs hyper 64 bytes for each
/// response, used or not.
const MAX_FIELDS: usize = 1024;

/// Clients by their connect timeout, which belongs to the connector, and by whether they are for
/// agents, whose addresses are limited.
pub(crate) struct Clients {
    by_connect_timeout: HashMap<Duration, HttpClient>,
    of_agents: HashMap<Duration, HttpClient>,
    other: HttpClient,
    /// The largest head of a response.
    pub(super) max_head: u64,
}

impl Clients {
    pub(crate) fn new(config: &Config, policy: &Arc<AddressPolicy>, names: &Names) -> Self {
        let routes = config.routes.iter();
        let routes = routes.map(|route| (&route.to, route.connect_timeout));
        let models = config.models.iter();
        let models = models.map(|route| (&route.to, route.connect_timeout));
        let max_head = config.server.max_upstream_head;
        let (mut by_connect_timeout, mut of_agents) = (HashMap::new(), HashMap::new());
        for (to, timeout) in routes.chain(models) {
            let clients = match to {
                Destination::Agent(_) => &mut of_agents,
                Destination::Upstreams(_) => &mut by_connect_timeout,
            };
            let resolver = Resolver::of(to, policy, names);
            clients
                .entry(timeout)
                .or_insert_with(|| client(timeout, resolver, max_head));
        }
        Self {
            by_connect_timeout,
            of_agents,
            other: client(OTHER_CONNECT_TIMEOUT, Resolver::unlimited(names), max_head),
            max_head,
        }
    }

    /// The client for a destination of a route or model.
    pub(crate) fn of(&self, to: &Destination, connect_timeout: Duration) -> &HttpClient {
        match to {
            Destination::Agent(_) => self.of_agents.get(&connect_timeout),
            Destination::Upstreams(_) => self.by_connect_timeout.get(&connect_timeout),
        }
        .unwrap_or(&self.other)
    }

    /// The client for what is configured by itself.
    pub(crate) fn other(&self) -> &HttpClient {
        &self.other
    }
}

pub(super) fn client(connect_timeout: Duration, resolver: Resolver, max_head: u64) -> HttpClient {
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector.enforce_http(false);
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(Connector(connector));
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
