use crate::{Effort, median, milliseconds, target};
use anyhow::Result;
use std::time::{Duration, Instant};
use tokio::{io::AsyncWriteExt as _, time::sleep};
use weaver_tests::{Gateway, Origin};

/// The original's test_cache_middleware: a hit in under 5 ms and at least nine tenths faster than
/// the request that filled it, 100+ requests a second.
pub(crate) async fn run(effort: Effort) -> Result<bool> {
    println!("cache middleware");
    let origin = Origin::start(|_, mut stream| async move {
        sleep(Duration::from_millis(25)).await;
        let answer =
            b"HTTP/1.1 200 OK\r\ncache-control: max-age=600\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.ok()?;
        Some(stream)
    })
    .await?;
    let gateway = Gateway::start(&origin.route("")).await?;
    let client = reqwest::Client::new();
    let timed = async |path: &str| {
        let started = Instant::now();
        client.get(gateway.url(path)).send().await?.bytes().await?;
        Ok::<_, anyhow::Error>(milliseconds(started.elapsed()))
    };
    let first = timed("/a").await?;
    let mut hits = Vec::new();
    let started = Instant::now();
    for _ in 0..effort.operations {
        hits.push(timed("/a").await?);
    }
    let rate = effort.operations as f64 / started.elapsed().as_secs_f64();
    let hit = median(hits);
    let faster = (1.0 - hit / first) * 100.0;
    let mut met = target(
        "the first request",
        first,
        "ms",
        (10.0..60.0).contains(&first),
        "10 to 50",
    );
    met &= target("a hit, median", hit, "ms", hit < 5.0, "< 5");
    met &= target(
        "faster than the first",
        faster,
        "%",
        faster >= 90.0,
        ">= 90",
    );
    met &= target(
        "hits a second, one client",
        rate,
        "1/s",
        rate > 100.0,
        "> 100",
    );
    Ok(met)
}
