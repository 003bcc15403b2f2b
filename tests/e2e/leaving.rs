//! Nodes that take their leave of the others.

use crate::{nodes, purge};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::{process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};
use weaver_tests::{Origin, Redis};

/// The words of the next report of a node that Redis is sent.
async fn next_report(redis: &Redis) -> Result<Vec<String>> {
    let mut monitor = Command::new("redis-cli")
        .args(["-p", &redis.port().to_string(), "MONITOR"])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = monitor.stdout.take().context("no output")?;
    let mut lines = BufReader::new(output).lines();
    let report = async {
        while let Some(line) = lines.next_line().await? {
            let is_report = line.to_ascii_lowercase().contains("\"evalsha\"");
            if is_report && line.contains("http_cache:journal:nodes") {
                let words = line.split('"').skip(1).step_by(2);
                return Ok(words.map(str::to_owned).collect());
            }
        }
        anyhow::bail!("the monitor ended")
    };
    timeout(Duration::from_secs(10), report).await?
}

#[tokio::test]
async fn a_report_that_comes_late_does_not_bring_back_a_node_that_has_left() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(crate::ok("x", "")).await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let one = nodes(1, &config).await?.pop().context("no node")?;
    let report = next_report(&redis).await?;
    let mut other = nodes(1, &config).await?.pop().context("no node")?;
    let names = redis.cli(&["--raw", "HKEYS", "http_cache:journal:nodes"])?;
    // `EVALSHA hash 1 key name said life`
    let mut late = report.clone();
    let own = names.lines().find(|name| *name != report[4]);
    own.context("the other is not known")?
        .clone_into(&mut late[4]);
    other.process().signal("TERM")?;
    other.process_mut().wait(Duration::from_secs(20)).await?;
    let late: Vec<&str> = late.iter().map(String::as_str).collect();
    assert_eq!(redis.cli(&late)?.trim(), "0");
    let answer = purge(&one, "?wait=applied", &json!({ "url": "/a" })).await?;
    assert!(!answer.to_string().contains(late[4]), "{answer}");
    Ok(())
}
