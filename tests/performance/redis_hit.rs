//! A hit in the Redis tier, of 1 KB and of 100 KB: requests a second, what each costs the gateway's core,
//! and how much of that is the authentication of the record.
//!
//! The gateway, without memory tier, has one core; Redis and wrk share the other.

use crate::{
    Effort,
    hit::{CLIENT_CORE, SERVER_CORE, wrk},
    median,
};
use anyhow::{Context as _, Result};
use std::{
    hint::black_box,
    time::{Duration, Instant},
};
use weaver_tests::{Gateway, Origin, Redis};

/// Bytes of a record beside its body, roughly.
const BESIDE_BODY: usize = 350;
/// Ticks of processor time in /proc, on every Linux that this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

pub(crate) async fn run(effort: Effort) -> Result<()> {
    let redis = Redis::start().await?;
    let pin = CLIENT_CORE.to_string();
    if let Some(id) = redis.id() {
        let id = id.to_string();
        std::process::Command::new("taskset")
            .args(["-a", "-c", "-p", &pin, &id])
            .output()?;
    }
    println!("Redis-tier hit, median of {} turns", effort.turns);
    for size in [1 << 10, 100 << 10] {
        let body = "x".repeat(size);
        let fields = "cache-control: max-age=36000\r\ncontent-type: text/plain\r\n";
        let head = format!("HTTP/1.1 200 OK\r\n{fields}content-length: {size}\r\n\r\n");
        let origin = Origin::constant(format!("{head}{body}")).await?;
        let config = format!(
            "{}[cache]\nmemory = 0\nidentity_secret = \"of the benchmark\"\n{}",
            redis.section(),
            origin.route("")
        );
        let core = Some(SERVER_CORE);
        let gateway = Gateway::start_with(&config, "workers = 1", &[], core).await?;
        gateway.ready_for_redis().await?;
        let path = format!("/{size}");
        let since = Instant::now();
        loop {
            let answer = reqwest::get(gateway.url(&path)).await?;
            let status = answer.headers().get("cache-status");
            if status.is_some_and(|status| status.as_bytes().starts_with(b"weaver; hit")) {
                break;
            }
            anyhow::ensure!(since.elapsed().as_secs() < 10, "{path} is not in Redis");
        }
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for _ in 0..effort.turns {
            let (before, since) = (processor_time(gateway.process().id())?, Instant::now());
            let rate = wrk(gateway.port(), &path, effort)?;
            let took = since.elapsed().as_secs_f64();
            let spent = processor_time(gateway.process().id())? - before;
            rates.push(rate);
            costs.push(spent / (rate * took));
        }
        let (rate, cost) = (median(rates), median(costs));
        let code = authentication(size + BESIDE_BODY, effort.turn)?.as_secs_f64();
        println!(
            "  {size:>6} B {rate:>9.0} requests/s   {:>6.1} us of the core each, of which the code {:.2} us, {:.1} %",
            cost * 1e6,
            code * 1e6,
            code / cost * 100.0
        );
    }
    Ok(())
}

/// Seconds that a process has computed.
fn processor_time(id: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("a process's state")?;
    let mut ticks = 0.0;
    for field in fields.split(' ').skip(11).take(2) {
        ticks += field.parse::<f64>()?;
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// What it takes to compute what the cache does for a record of that many bytes.
fn authentication(bytes: usize, within: Duration) -> Result<Duration> {
    let (key, name, record) = ([1; 32], [b'n'; 75], vec![7_u8; bytes]);
    // The thread's own time, for others may have the core meanwhile.
    let computed = || -> Result<u64> {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat")?;
        let first = stat.split(' ').next().context("a thread's time")?;
        Ok(first.parse()?)
    };
    let (mut rounds, since, before) = (0_u64, Instant::now(), computed()?);
    while since.elapsed() < within / 4 {
        for _ in 0..100 {
            let own = blake3::keyed_hash(&key, black_box(&name));
            black_box(blake3::keyed_hash(own.as_bytes(), black_box(&record)));
        }
        rounds += 100;
    }
    Ok(Duration::from_nanos((computed()? - before) / rounds.max(1)))
}
