//! `make bench-purge`: how long after its answer a purge has reached every node, while a thousand
//! others a second do, and what that costs a node's hits.
//!
//! All nodes, Redis, the purges and the clients share the machine's cores. So beside the rate of hits
//! the processor time of one hit is told, which does not depend on who else runs.

use crate::{Effort, hit::requests_per_second, median, milliseconds, target};
use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use weaver_tests::{Gateway, Origin, Redis};

/// Purges under way at once; more would measure the queue before the gateway.
const AT_ONCE: usize = 64;

pub(crate) async fn run(effort: Effort, nodes: usize, rate: u32) -> Result<bool> {
    let redis = Redis::start().await?;
    let body = "x".repeat(1024);
    let origin = Origin::constant(format!(
        "HTTP/1.1 200 OK\r\ncache-control: max-age=3600\r\ncontent-length: 1024\r\n\r\n{body}"
    ))
    .await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let mut all = Vec::new();
    for _ in 0..nodes {
        all.push(Gateway::start_with(&config, "workers = 1", &[], None).await?);
    }
    for node in &all {
        node.ready_for_redis().await?;
    }
    let client = reqwest::Client::builder().no_proxy().build()?;
    println!("{nodes} nodes, {rate} purges a second");

    let urls: Vec<_> = all.iter().map(|node| node.admin_url("/purge")).collect();
    let load = Load::start(client.clone(), urls.clone(), rate);
    let samples = (effort.operations / 20).max(10);
    let mut times = Vec::new();
    for sample in 0..samples {
        let path = format!("/sample/{sample}");
        let pages: Vec<_> = all.iter().map(|node| node.url(&path)).collect();
        for page in &pages {
            client
                .get(page)
                .header("host", "h")
                .send()
                .await?
                .bytes()
                .await?;
        }
        let purge = client.post(&urls[sample % urls.len()]);
        let answer = purge.json(&json!({ "url": path })).send().await?;
        ensure!(answer.status() == 200, "{}", answer.status());
        let answered = Instant::now();
        try_join_all(pages.iter().map(|page| gone(&client, page))).await?;
        times.push(milliseconds(answered.elapsed()));
    }
    let (done, took) = load.stop().await;
    times.sort_by(f64::total_cmp);
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)];
    println!(
        "  purges answered: {:.0} a second",
        done as f64 / took.as_secs_f64()
    );
    println!(
        "  gone everywhere after the answer: median {:.1} ms",
        median(times.clone())
    );
    let met = target("gone everywhere, p99", p99, "ms", p99 < 50.0, "< 50");

    // The one that is measured is not among those that take the purges.
    let (measured, others) = (&all[0], urls[1.min(urls.len() - 1)..].to_vec());
    let page = measured.url("/hit");
    client.get(&page).header("host", "h").send().await?;
    let id = measured.process().id();
    let (mut rates, mut costs) = (Vec::new(), Vec::new());
    for _ in 0..effort.turns {
        let without = hits(id, &page, effort)?;
        let load = Load::start(client.clone(), others.clone(), rate);
        // wrk blocks this thread, so the load runs on others.
        let with = tokio::task::spawn_blocking({
            let page = page.clone();
            move || hits(id, &page, effort)
        })
        .await??;
        load.stop().await;
        rates.push(with.0 / without.0);
        costs.push(with.1 / without.1);
    }
    println!(
        "  hits with purges / without: rate {:.2}, processor time {:.2}",
        median(rates),
        median(costs)
    );
    Ok(met)
}

/// Waits until a node has it no more.
async fn gone(client: &reqwest::Client, page: &str) -> Result<()> {
    loop {
        let asked = client
            .get(page)
            .header("host", "h")
            .header("cache-control", "only-if-cached");
        if asked.send().await?.status() == 504 {
            return Ok(());
        }
    }
}

/// Hits a second, and the processor time of one in clock ticks.
fn hits(id: u32, page: &str, effort: Effort) -> Result<(f64, f64)> {
    let before = ticks(id)?;
    let seconds = effort.turn.as_secs().max(1).to_string();
    let output = Command::new("wrk")
        .args(["-t1", "-c16", "-H", "Host: h", "-d", &seconds, page])
        .output()
        .context("cannot start wrk; tests/setup installs it")?;
    let used = ticks(id)? - before;
    let rate = requests_per_second(&output)?;
    let requests = rate * effort.turn.as_secs().max(1) as f64;
    Ok((rate, used / requests))
}

fn ticks(id: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let after = stat.rsplit(')').next().unwrap_or("");
    let field = |at: usize| after.split_whitespace().nth(at)?.parse::<f64>().ok();
    let used = field(11).zip(field(12)).context("/proc/PID/stat")?;
    Ok(used.0 + used.1)
}

/// Purges of what nobody has, at a rate.
struct Load {
    task: JoinHandle<()>,
    done: Arc<AtomicU64>,
    began: Instant,
}

impl Load {
    fn start(client: reqwest::Client, urls: Vec<String>, rate: u32) -> Self {
        let done = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&done);
        let task = tokio::spawn(async move {
            let room = Arc::new(Semaphore::new(AT_ONCE));
            let mut pace = interval(Duration::from_secs(1) / rate);
            pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for number in 0_u64.. {
                pace.tick().await;
                let Ok(place) = Arc::clone(&room).acquire_owned().await else {
                    return;
                };
                let url = &urls[number as usize % urls.len()];
                let purge = client
                    .post(url)
                    .json(&json!({ "url": format!("/load/{}", number % 10_000) }));
                let counted = Arc::clone(&counted);
                tokio::spawn(async move {
                    if purge
                        .send()
                        .await
                        .is_ok_and(|answer| answer.status() == 200)
                    {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                    drop(place);
                });
            }
        });
        Self {
            task,
            done,
            began: Instant::now(),
        }
    }

    async fn stop(self) -> (u64, Duration) {
        let counted = (self.done.load(Ordering::Relaxed), self.began.elapsed());
        self.task.abort();
        let _ = self.task.await;
        counted
    }
}
