//! What attackers send, and what must never come of it: each module is a kind of attack, tried over
//! sockets on the gateway with real servers around it.

#![allow(clippy::expect_used, reason = "a test that has no client cannot go on")]

mod admin;
mod agents;
mod bodies;
mod client_gone;
mod connection_limits;
mod credentials;
mod differential;
mod fields;
mod framing;
mod hosts;
mod identity;
mod loops;
mod overload;
mod paths;
mod purge_urls;
mod purges;
mod query;
mod records;
mod shared;
mod support;
mod tokens;
mod upstream;
mod upstream_framing_bug;
mod wire;

use anyhow::Result;
use tokio::io::AsyncWriteExt as _;
use weaver_tests::{Exchange, Gateway, Origin, exchange, scratch};

/// Sends one request, given as its head without the empty line, on a connection of its own.
async fn ask(gateway: &Gateway, head: &str) -> Result<Exchange> {
    let request = format!("{head}\r\nconnection: close\r\n\r\n");
    exchange(gateway.port(), &request).await
}

/// A GET of a target, with the gateway's own host and further field lines.
async fn get(gateway: &Gateway, target: &str, fields: &str) -> Result<Exchange> {
    let end = if fields.is_empty() { "" } else { "\r\n" };
    ask(
        gateway,
        &format!("GET {target} HTTP/1.1\r\nhost: h.test{end}{fields}"),
    )
    .await
}

/// A response's field, empty if it is not there.
fn field(answer: &Exchange, name: &str) -> String {
    let text = answer.text();
    let head = text.split("\r\n\r\n").next().unwrap_or("");
    let line = head.lines().find_map(|line| {
        let (given, value) = line.split_once(':')?;
        given.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    line.unwrap_or("").to_owned()
}

fn is_hit(answer: &Exchange) -> bool {
    field(answer, "cache-status").contains("; hit")
}

fn body(answer: &Exchange) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

/// An origin that answers with the head of the request that it got, in lower case, to be kept for a
/// minute by anybody.
async fn echo() -> Result<Origin> {
    Origin::start(|head, mut stream| async move {
        let head = head.to_lowercase();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncache-control: public, max-age=60\r\ncontent-length: {}\r\n\r\n{head}",
            head.len()
        );
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

/// What `weaver-gateway check` says of a configuration.
async fn faults(config: &str) -> Result<String> {
    let file = scratch("check").join("weaver.toml");
    std::fs::write(&file, config)?;
    let mut command = tokio::process::Command::new(Gateway::program()?);
    let output = command.arg("check").arg("--config").arg(&file).output();
    let output = output.await?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8(text)?)
}
