//! One worker's HTTP clients.

use super::{body::RequestBody, connector::Connector, names::Names, resolver::Resolver};
use crate::{
    agents::AddressPolicy,
    config::{Config, Destination, UpstreamTls},
};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{collections::HashMap, sync::Arc, time::Duration};

pub(crate) type HttpClient = Client<HttpsConnector<Connector>, RequestBody>;

/// Idle connections to one upstream that a worker keeps.
const MAX_IDLE: usize = 128;
/// Shorter than the keep-alive of common servers (Node, uvicorn and Apache: 5 s), so that we close
/// first: a POST on a connection that the upstream is closing cannot be repeated.
const IDLE: Duration = Duration::from_secs(4);

/// Of what is configured without a connect timeout.
pub(super) const OTHER_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Fields that the head of a response may have, whatever its size. Each costs hyper 64 bytes for each
/// response, used or not.
const MAX_FIELDS: usize = 1024;

/// What clients differ by: the connect timeout, which belongs to the connector, whether they are for
/// agents, whose addresses are limited, and TLS.
type Kind = (Duration, bool, usize, Option<ServerName<'static>>);

/// Clients by their kind.
pub(crate) struct Clients {
    by_kind: HashMap<Kind, HttpClient>,
    other: HttpClient,
    /// The largest head of a response.
    pub(super) max_head: u64,
}

fn kind(to: &Destination, connect_timeout: Duration, tls: &UpstreamTls) -> Kind {
    // What is not configured by itself is the same object.
    let client = Arc::as_ptr(tls.client()).addr();
    let is_agent = matches!(to, Destination::Agent(_));
    (
        connect_timeout,
        is_agent,
        client,
        tls.server_name().cloned(),
    )
}

impl Clients {
    pub(crate) fn new(config: &Config, policy: &Arc<AddressPolicy>, names: &Names) -> Self {
        let routes = config.routes.iter();
        let routes = routes.map(|route| (&route.to, route.connect_timeout, &route.tls));
        let models = config.models.iter();
        let models = models.map(|route| (&route.to, route.connect_timeout, &route.tls));
        let max_head = config.server.max_upstream_head;
        let mut by_kind = HashMap::new();
        for (to, timeout, tls) in routes.chain(models) {
            let resolver = Resolver::of(to, policy, names);
            by_kind
                .entry(kind(to, timeout, tls))
                .or_insert_with(|| client(timeout, resolver, tls, max_head));
        }
        let resolver = Resolver::unlimited(names);
        Self {
            by_kind,
            other: client(
                OTHER_CONNECT_TIMEOUT,
                resolver,
                &config.upstream_tls,
                max_head,
            ),
            max_head,
        }
    }

    /// The client for a destination of a route or model.
    pub(crate) fn of(
        &self,
        to: &Destination,
        connect_timeout: Duration,
        tls: &UpstreamTls,
    ) -> &HttpClient {
        let kind = kind(to, connect_timeout, tls);
        self.by_kind.get(&kind).unwrap_or(&self.other)
    }

    /// The client for what is configured by itself.
    pub(crate) fn other(&self) -> &HttpClient {
        &self.other
    }
}

pub(super) fn client(
    connect_timeout: Duration,
    resolver: Resolver,
    tls: &UpstreamTls,
    max_head: u64,
) -> HttpClient {
    let mut connector = HttpConnector::new_with_resolver(resolver);
    connector.set_connect_timeout(Some(connect_timeout));
    connector.set_nodelay(true);
    connector.set_keepalive(Some(Duration::from_secs(30)));
    connector.enforce_http(false);
    let builder = HttpsConnectorBuilder::new()
        .with_tls_config(ClientConfig::clone(tls.client()))
        .https_or_http();
    let builder = match tls.server_name() {
        Some(name) => builder.with_server_name_resolver(FixedServerNameResolver::new(name.clone())),
        None => builder,
    };
    let connector = builder.enable_http1().wrap_connector(Connector(connector));
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
