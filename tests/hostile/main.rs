//! What attackers send, and what must never come of it: each module is a kind of attack, tried over
//! sockets on the gateway with real servers around it.

#![allow(clippy::expect_used, reason = "a test that has no client cannot go on")]

mod admin;
mod agents;
mod credentials;
mod tokens;

use anyhow::Result;
use weaver_tests::{Gateway, scratch};

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
