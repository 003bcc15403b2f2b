//! The text formats of the metrics, judged by Prometheus' own programs.

use crate::{client, ok};
use anyhow::{Context as _, Result};
use std::{
    io::Write as _,
    process::{Command, Output, Stdio},
};
use weaver_tests::{Gateway, Origin, Redis, scratch};

/// What promtool says of what it is given.
fn promtool(arguments: &[&str], input: &str) -> Result<Output> {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start promtool; tests/setup installs it")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    Ok(child.wait_with_output()?)
}

/// A gateway with every kind of metric.
async fn busy(redis: &Redis) -> Result<(Gateway, Origin)> {
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let models = format!(
        "[[models]]\nname = \"m\"\nupstreams = [\"http://127.0.0.1:{}\"]\n",
        origin.port()
    );
    let config = format!("{}{}{models}", redis.section(), origin.route(""));
    let gateway = Gateway::start(&config).await?;
    gateway.ready_for_redis().await?;
    for path in ["/a", "/a", "/health", "/whoami", "/v1/models"] {
        client().get(gateway.url(path)).send().await?.text().await?;
    }
    Ok((gateway, origin))
}

async fn scrape(url: String, accept: &str) -> Result<String> {
    let asked = client().get(url).header("accept", accept);
    Ok(asked.send().await?.text().await?)
}

#[tokio::test]
async fn promtool_finds_no_fault_in_either_text_format() -> Result<()> {
    let redis = Redis::start().await?;
    let (gateway, _origin) = busy(&redis).await?;
    for url in [gateway.url("/metrics"), gateway.admin_url("/metrics")] {
        let text = scrape(url.clone(), "text/plain").await?;
        let judged = promtool(&["check", "metrics"], &text)?;
        let said = String::from_utf8_lossy(&judged.stderr);
        assert!(judged.status.success() && said.is_empty(), "{url}: {said}");
        // That check reads the older format only. OpenMetrics is read by Prometheus' parser of it,
        // which wants the time of each sample here.
        let text = scrape(url.clone(), "application/openmetrics-text").await?;
        let dated: String = text
            .lines()
            .map(|line| match line.starts_with('#') {
                true => format!("{line}\n"),
                false => format!("{line} 1700000000\n"),
            })
            .collect();
        let folder = scratch("promtool");
        let file = folder.join("metrics.om");
        std::fs::write(&file, dated)?;
        let (file, blocks) = (
            file.display().to_string(),
            folder.join("blocks").display().to_string(),
        );
        let arguments = ["tsdb", "create-blocks-from", "openmetrics", &file, &blocks];
        let judged = promtool(&arguments, "")?;
        let said = String::from_utf8_lossy(&judged.stderr);
        assert!(judged.status.success(), "{url}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_order_of_the_metrics_is_the_same_in_every_process() -> Result<()> {
    let redis = Redis::start().await?;
    let mut orders = Vec::new();
    for _ in 0..2 {
        let (gateway, _origin) = busy(&redis).await?;
        let text = scrape(gateway.admin_url("/metrics"), "text/plain").await?;
        let names = text.lines().filter(|line| !line.starts_with('#'));
        let names = names.filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()));
        orders.push(names.collect::<Vec<_>>());
    }
    assert_eq!(orders[0], orders[1]);
    Ok(())
}
