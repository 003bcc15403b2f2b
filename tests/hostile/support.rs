//! What the modules share.

use anyhow::{Context as _, Result};
use std::time::{Duration, Instant};
use tokio::{sync::watch, time::sleep, time::timeout};
use weaver_tests::Gateway;

/// A client that keeps no state and follows nothing.
#[allow(clippy::expect_used, reason = "a test that has no client cannot go on")]
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(Duration::from_secs(20))
        .no_proxy()
        .build()
        .expect("a client")
}

/// A 200 with a body, and these further header lines.
pub(crate) fn ok(body: &str, fields: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\n{fields}content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// A response as text: status, fields, and the body last.
pub(crate) async fn text_of(response: reqwest::Response) -> Result<String> {
    let mut text = format!("{}\r\n", response.status().as_u16());
    for (name, value) in response.headers() {
        text.push_str(&format!(
            "{name}: {}\r\n",
            String::from_utf8_lossy(value.as_bytes())
        ));
    }
    text.push_str("\r\n");
    text.push_str(&response.text().await?);
    Ok(text)
}

/// Gateways that share a Redis, all of which use it.
pub(crate) async fn nodes(count: usize, config: &str) -> Result<Vec<Gateway>> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        nodes.push(Gateway::start(config).await?);
    }
    for node in &nodes {
        node.ready_for_redis().await?;
    }
    Ok(nodes)
}

/// Waits for what comes about by itself; a test that waits in vain fails.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(Instant::now() < until, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Where an origin waits until the test lets it go on.
#[derive(Clone)]
pub(crate) struct Gate {
    is_open: watch::Sender<bool>,
    is_reached: watch::Sender<bool>,
}

impl Default for Gate {
    fn default() -> Self {
        Self {
            is_open: watch::Sender::new(false),
            is_reached: watch::Sender::new(false),
        }
    }
}

impl Gate {
    /// Waits until it is open.
    pub(crate) async fn pass(&self) -> Option<()> {
        self.is_reached.send_replace(true);
        let mut is_open = self.is_open.subscribe();
        is_open.wait_for(|is_open| *is_open).await.ok()?;
        Some(())
    }

    /// Waits until somebody stands before it.
    pub(crate) async fn reached(&self) -> Result<()> {
        let mut is_reached = self.is_reached.subscribe();
        let reached = is_reached.wait_for(|is_reached| *is_reached);
        timeout(Duration::from_secs(10), reached)
            .await
            .context("nobody came to the gate")??;
        Ok(())
    }

    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }
}
