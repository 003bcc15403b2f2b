//! Active health checks.

use super::{
    body::RequestBody, client::client, names::Names, resolver::Resolver, upstreams::Upstream,
};
use crate::{agents::AddressPolicy, routes::Route};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Checks the upstreams of a route for ever; ends at once where no check is configured.
pub(crate) async fn check(
    route: &Route,
    policy: &Arc<AddressPolicy>,
    names: &Names,
    max_head: u64,
) {
    let Some(config) = &route.config.health_check else {
        return;
    };
    let resolver = Resolver::of(&route.config.to, policy, names);
    let client = client(config.timeout, resolver, &route.config.tls, max_head);
    let mut ticks = interval(config.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let all = route.upstreams.all();
        let probes = all.iter().map(|upstream| {
            let client = &client;
            async move {
                let healthy = probe(client, upstream, &config.path, config.timeout).await;
                route.upstreams.set_healthy(upstream, healthy);
            }
        });
        futures_util::future::join_all(probes).await;
    }
}

async fn probe(
    client: &super::client::HttpClient,
    upstream: &Arc<Upstream>,
    path: &str,
    limit: Duration,
) -> bool {
    // The path of a check is its own: the upstream's is for the requests of clients.
    let (scheme, rest) = upstream
        .endpoint
        .dialled()
        .split_once("://")
        .unwrap_or_default();
    let authority = rest.split('/').next().unwrap_or_default();
    let request = http::Request::get(format!("{scheme}://{authority}{path}"))
        .header(http::header::HOST, upstream.endpoint.host())
        .header(http::header::USER_AGENT, "weaver-health-check")
        .body(RequestBody::Empty);
    let Ok(request) = request else { return false };
    match timeout(limit, client.request(request)).await {
        Ok(Ok(response)) => response.status().is_success(),
        _ => false,
    }
}
