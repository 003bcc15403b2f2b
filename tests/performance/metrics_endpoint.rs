use crate::{Effort, milliseconds, target};
use anyhow::Result;
use std::time::Instant;
use weaver_tests::Gateway;

/// The original's test_metrics_endpoint: under 50 ms on average, never 100, under 10 from the cache.
pub(crate) async fn run(effort: Effort) -> Result<bool> {
    println!("metrics endpoint");
    let gateway = Gateway::start("").await?;
    let client = reqwest::Client::new();
    let (mut sum, mut most) = (0.0, 0.0_f64);
    let rounds = effort.operations / 10;
    for round in 0..rounds {
        // Another Authorization is another entry, so that each of these is made anew.
        let started = Instant::now();
        let request = client
            .get(gateway.url("/metrics"))
            .header("authorization", format!("u{round}"));
        request.send().await?.bytes().await?;
        let took = milliseconds(started.elapsed());
        sum += took;
        most = most.max(took);
    }
    let average = sum / rounds as f64;
    let mut met = target("made anew, average", average, "ms", average < 50.0, "< 50");
    met &= target("made anew, slowest", most, "ms", most < 100.0, "< 100");
    client
        .get(gateway.url("/metrics"))
        .send()
        .await?
        .bytes()
        .await?;
    let started = Instant::now();
    for _ in 0..rounds {
        client
            .get(gateway.url("/metrics"))
            .send()
            .await?
            .bytes()
            .await?;
    }
    let cached = milliseconds(started.elapsed()) / rounds as f64;
    met &= target(
        "from the cache, average",
        cached,
        "ms",
        cached < 10.0,
        "< 10",
    );
    Ok(met)
}
