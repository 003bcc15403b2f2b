//! End to end: the gateway as a process, with real servers around it.

#![allow(clippy::expect_used, reason = "a test that has no client cannot go on")]

mod agents;
mod auth;
mod bodies;
mod cache;
mod cli;
mod clocks;
mod failover;
mod leaving;
mod lifecycle;
mod logs;
mod methods;
mod metrics_text;
mod middleware;
mod model_answers;
mod model_list;
mod models;
mod names;
mod nodes;
mod operations;
mod parts;
mod proxy;
mod purge;
mod races;
mod redis;
mod redis_user;
mod rules;
mod search;
mod secrets;
mod truncation;
mod upstream_paths;
mod upstream_tls;
mod variants;
mod warm;
mod writes;

use std::time::{Duration, Instant};
use tokio::time::sleep;
use weaver_tests::Gateway;

/// A client that keeps no state and follows nothing.
fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .expect("a client")
}

/// A response header as text, empty if it is not there.
fn field<'a>(response: &'a reqwest::Response, name: &str) -> &'a str {
    response
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("")
}

/// A 200 with a body, and these further header lines.
fn ok(body: &str, fields: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Gateways that share a Redis, all of which use it.
async fn nodes(count: usize, config: &str) -> anyhow::Result<Vec<Gateway>> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Gateway::start(config).await?);
    }
    for node in &nodes {
        node.ready_for_redis().await?;
    }
    Ok(nodes)
}

/// Purges by a gateway, with a query such as `?wait=applied`.
async fn purge(
    gateway: &Gateway,
    query: &str,
    what: &serde_json::Value,
) -> anyhow::Result<serde_json::Value> {
    let url = gateway.admin_url(&format!("/purge{query}"));
    let answer = client().post(url).json(what).send().await?;
    assert_eq!(answer.status(), 200, "{what}");
    Ok(answer.json().await?)
}

/// Waits for what comes about by itself; a test that waits in vain fails.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}
