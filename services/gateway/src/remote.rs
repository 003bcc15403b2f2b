//! Commands that talk to the admin port of a running gateway.

pub(crate) mod warm;

use crate::config::trim_secret;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::Value;
use std::time::Duration;
use tokio::time::timeout;

/// The longest answer that is read, in bytes: what a sitemap may be.
const MAX_ANSWER: usize = 50 << 20;
/// Longer than the longest that a purge waits for the nodes.
const DEADLINE: Duration = Duration::from_secs(70);

/// Which gateway, and by what right.
#[derive(Debug, clap::Args)]
pub(crate) struct Admin {
    /// The admin port
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8001")]
    admin: String,
    /// The admin token; better in the environment, where other users cannot see it
    #[arg(
        long,
        value_name = "TOKEN",
        env = "WEAVER_ADMIN__TOKEN",
        hide_env_values = true
    )]
    token: Option<String>,
}

pub(crate) async fn get(admin: &Admin, path: &str) -> anyhow::Result<Value> {
    ask(admin, Method::GET, path, Bytes::new()).await
}

pub(crate) async fn post(admin: &Admin, path: &str, body: &Value) -> anyhow::Result<Value> {
    ask(admin, Method::POST, path, body.to_string().into()).await
}

/// A query of names and values.
pub(crate) fn query(pairs: &[(&str, &str)]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(pairs);
    query.finish()
}

/// What a URL of any server has.
async fn fetch(url: &str) -> anyhow::Result<Bytes> {
    let request = Request::get(url)
        .body(Full::default())
        .with_context(|| format!("{url:?} is no URL"))?;
    let (status, body) = exchange(request, url).await?;
    if !status.is_success() {
        bail!("{url} answered {status}");
    }
    Ok(body)
}

async fn ask(admin: &Admin, method: Method, path: &str, body: Bytes) -> anyhow::Result<Value> {
    let url = format!("{}{path}", admin.admin.trim_end_matches('/'));
    let mut request = Request::builder()
        .method(method)
        .uri(&url)
        .header(header::CONTENT_TYPE, "application/json");
    if let Some(token) = &admin.token {
        let value = HeaderValue::try_from(format!("Bearer {}", trim_secret(token)));
        // The error does not show the token.
        let mut value = value.context(
            "--token has a control character, such as the end of a line, which cannot be sent",
        )?;
        value.set_sensitive(true);
        request = request.header(header::AUTHORIZATION, value);
    }
    let request = request
        .body(Full::new(body))
        .with_context(|| format!("--admin {:?} is no URL", admin.admin))?;
    let (status, body) = exchange(request, &admin.admin).await?;
    let answer: Value = serde_json::from_slice(&body)
        .with_context(|| format!("{} answered {status}, and not in JSON", admin.admin))?;
    if !status.is_success() {
        let detail = answer["detail"].as_str().unwrap_or_default();
        bail!("{} answered {status}: {detail}", admin.admin);
    }
    Ok(answer)
}

async fn exchange(
    request: Request<Full<Bytes>>,
    server: &str,
) -> anyhow::Result<(StatusCode, Bytes)> {
    let connector = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let exchange = async {
        let response = client
            .request(request)
            .await
            .with_context(|| format!("{server} was not reached"))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the answer of {server} broke off: {error}"))?
            .to_bytes();
        anyhow::Ok((status, body))
    };
    timeout(DEADLINE, exchange)
        .await
        .with_context(|| format!("{server} did not answer in {DEADLINE:?}"))?
}
