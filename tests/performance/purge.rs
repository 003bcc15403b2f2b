//! `make bench-purge`: how long after its answer a purge has reached every node, while a thousand
//! others a second do, and what that costs a node's hits.
//!
//! The node whose hits are measured has a core to itself, as it would on a machine of its own; all
//! else shares another. The processor time of a hit is told too, which does not depend on who else
//! runs.

use crate::{
    Effort,
    hit::{CLIENT_CORE, SERVER_CORE, requests_per_second},
    median, milliseconds, target,
};
use anyhow::{Context as _, Result, ensure};
use futures_util::future::try_join_all;
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::available_parallelism,
    time::{Duration, Instant},
};
use tokio::{
    sync::Semaphore,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};
use weaver_tests::{Gateway, Origin, Redis, scratch};

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

    if available_parallelism()?.get() < 2 {
        println!("  what it costs hits is not measured: it takes two cores");
        return Ok(met);
    }
    let (measured, others) = all.split_first().context("a node")?;
    let kept = cost(measured, others, &redis, &client, effort, rate).await?;
    Ok(met && kept)
}

/// What purges that other nodes take cost the hits of one.
async fn cost(
    measured: &Gateway,
    others: &[Gateway],
    redis: &Redis,
    client: &reqwest::Client,
    effort: Effort,
    rate: u32,
) -> Result<bool> {
    let id = measured.process().id();
    pin(id, SERVER_CORE)?;
    let own = [std::process::id(), redis.id().context("redis runs")?];
    for id in own
        .into_iter()
        .chain(others.iter().map(|node| node.process().id()))
    {
        pin(id, CLIENT_CORE)?;
    }
    let urls: Vec<_> = others.iter().map(|node| node.admin_url("/purge")).collect();
    let (page, script) = (measured.url("/hit"), pipeline()?);
    client.get(&page).header("host", "h").send().await?;
    let (mut rates, mut costs, mut purges) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..effort.turns {
        let (mut with, mut without) = (None, None);
        for purged in [turn % 2 == 0, turn % 2 == 1] {
            let load = purged.then(|| Load::start(client.clone(), urls.clone(), rate));
            // wrk blocks its thread, so the load runs on others.
            let (page, script) = (page.clone(), script.clone());
            let hits =
                tokio::task::spawn_blocking(move || hits(id, &page, &script, effort)).await??;
            if let Some(load) = load {
                let (done, took) = load.stop().await;
                purges.push(done as f64 / took.as_secs_f64());
                with = Some(hits);
            } else {
                without = Some(hits);
            }
        }
        let (with, without) = with.zip(without).context("both")?;
        rates.push(with.0 / without.0);
        costs.push(with.1 / without.1);
    }
    println!(
        "  hits of one node while the others take {:.0} purges a second:",
        median(purges)
    );
    println!(
        "  processor time of a hit, with purges / without: {:.2}",
        median(costs)
    );
    let rate = median(rates);
    Ok(target(
        "hits a second, with purges / without",
        rate,
        "",
        rate > 0.95,
        "> 0.95",
    ))
}

fn pin(id: u32, core: usize) -> Result<()> {
    let output = Command::new("taskset")
        .args(["-a", "-c", "-p", &core.to_string(), &id.to_string()])
        .output()
        .context("cannot start taskset; tests/setup installs it")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
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

/// Requests that one connection has under way, so that the clients need less of their core than the
/// node of its own.
const PIPELINED: usize = 16;

/// wrk's script for it.
fn pipeline() -> Result<PathBuf> {
    let file = scratch("pipeline").join("pipeline.lua");
    let script = format!(
        "init = function() all = string.rep(wrk.format(), {PIPELINED}) end\nrequest = function() return all end\n"
    );
    std::fs::write(&file, script)?;
    Ok(file)
}

/// Hits a second, and the processor time of one in clock ticks.
fn hits(id: u32, page: &str, script: &Path, effort: Effort) -> Result<(f64, f64)> {
    let before = ticks(id)?;
    let seconds = effort.turn.as_secs().max(1).to_string();
    let output = Command::new("wrk")
        .args(["-t1", "-c16", "-H", "Host: h", "-d", &seconds, "-s"])
        .args([script.as_os_str(), page.as_ref()])
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
