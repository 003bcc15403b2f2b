//! Unsafe requests, thousands a second, most of them to URLs that were never stored.

use crate::{client, eventually, field, ok, purge};
use anyhow::Result;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
    time::{MissedTickBehavior, interval},
};
use weaver_tests::{Gateway, Origin, Redis};

/// Connections that write, and the time between two portions that each sends.
const WRITERS: u64 = 4;
const TICK: Duration = Duration::from_millis(10);

fn setting(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

async fn status(gateway: &Gateway, path: &str) -> Result<String> {
    let asked = client().get(gateway.url(path)).header("host", "h");
    let answer = asked.send().await?;
    let status = field(&answer, "cache-status").to_owned();
    answer.bytes().await?;
    Ok(status)
}

async fn is_hit(gateway: &Gateway, path: &str) -> Result<bool> {
    Ok(status(gateway, path).await?.starts_with("weaver; hit"))
}

/// How many of these a node has, none of which it fetches.
async fn hits(gateway: &Gateway, paths: &[String]) -> Result<usize> {
    let mut hits = 0;
    for path in paths {
        hits += usize::from(is_hit(gateway, path).await?);
    }
    Ok(hits)
}

async fn post(gateway: &Gateway, path: &str) -> Result<()> {
    let asked = client().post(gateway.url(path)).header("host", "h");
    assert_eq!(asked.send().await?.status(), 200);
    Ok(())
}

/// Sends POSTs to URLs of their own at that rate, as far as the machine goes along. Gives how many a
/// second there were.
async fn flood(gateway: &Gateway, rate: u64, lasts: Duration) -> Result<u64> {
    let next = Arc::new(AtomicU64::new(0));
    let begun = Instant::now();
    let portion = (rate * TICK.as_millis() as u64 / 1000 / WRITERS).max(1);
    let mut writers = Vec::new();
    for _ in 0..WRITERS {
        let (next, port) = (Arc::clone(&next), gateway.port());
        writers.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            let mut ticks = interval(TICK);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let mut buffer = vec![0; 64 << 10];
            while begun.elapsed() < lasts {
                ticks.tick().await;
                let mut portions = String::new();
                for _ in 0..portion {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let head = format!(
                        "POST /written/{number} HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n"
                    );
                    portions.push_str(&head);
                }
                stream.write_all(portions.as_bytes()).await?;
                // What they are answered with ends with the body `content`.
                let (mut answered, mut rest) = (0, Vec::new());
                while answered < portion {
                    let read = stream.read(&mut buffer).await?;
                    anyhow::ensure!(read > 0, "the gateway closed the connection");
                    rest.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&rest).into_owned();
                    answered += text.matches("\r\n\r\ncontent").count() as u64;
                    let kept = rest.len().saturating_sub(10);
                    let whole = text.rfind("\r\n\r\ncontent").map_or(0, |at| at + 11);
                    rest.drain(..kept.max(whole).min(rest.len()));
                }
            }
            anyhow::Ok(())
        }));
    }
    for writer in writers {
        writer.await??;
    }
    let sent = next.load(Ordering::Relaxed);
    Ok((sent as f64 / begun.elapsed().as_secs_f64()) as u64)
}

/// `WRITES_RATE`, `WRITES_SECONDS` and `WRITES_JOURNAL` make it longer: `make soak-writes`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_serves_what_redis_has_after_more_writes_than_the_journal_keeps() -> Result<()> {
    let (rate, seconds) = (setting("WRITES_RATE", 2000), setting("WRITES_SECONDS", 5));
    let journal = setting("WRITES_JOURNAL", 1000);
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("content", "cache-control: max-age=3600\r\n")).await?;
    let config = format!(
        "{}[cache]\njournal_length = {journal}\nearly_refresh = 0\n{}",
        redis.section(),
        origin.route("")
    );
    let old = Gateway::start(&config).await?;
    let other = Gateway::start(&config).await?;
    for node in [&old, &other] {
        node.ready_for_redis().await?;
    }
    let stored: Vec<String> = (0..100).map(|number| format!("/stored/{number}")).collect();
    let written: Vec<String> = (0..20).map(|number| format!("/own/{number}")).collect();
    for path in stored.iter().chain(&written) {
        status(&old, path).await?;
    }
    eventually("redis has them, so that another node does", async || {
        hits(&other, &stored).await.is_ok_and(|hits| hits == 100)
            && hits(&other, &written).await.is_ok_and(|hits| hits == 20)
    })
    .await;
    for path in &written {
        post(&old, path).await?;
    }
    purge(
        &old,
        "?wait=applied",
        &json!({ "url": "http://h/stored/7" }),
    )
    .await?;
    let (purged, kept) = stored.split_at(8);
    let purged = &purged[7..];

    let reached = flood(&old, rate, Duration::from_secs(seconds)).await?;
    let length: u64 = redis.cli(&["XLEN", "http_cache:journal"])?.trim().parse()?;
    assert!(length < journal + 1000, "{length}");
    eventually(
        "the journal was trimmed beyond what was stored",
        async || {
            let first = redis.cli(&["XRANGE", "http_cache:journal", "-", "+", "COUNT", "1"]);
            seconds * reached > journal * 2 && first.is_ok_and(|first| first.contains("/written/"))
        },
    )
    .await;

    let in_memory = hits(&other, kept).await?;
    let new = Gateway::start(&config).await?;
    new.ready_for_redis().await?;
    let from_redis = hits(&new, kept).await?;
    println!(
        "{reached} writes a second for {seconds} s to a journal of {length} items: a new node has {from_redis} of {} from \
         redis, a node that went on has {in_memory} in memory",
        kept.len()
    );
    assert_eq!((in_memory, from_redis), (kept.len(), kept.len()));
    for (what, paths) in [("written to", &written[..]), ("purged", purged)] {
        assert_eq!(
            hits(&new, paths).await?,
            0,
            "{what}, and a new node serves it"
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_fetch_that_began_before_a_write_is_served_by_no_node_that_comes_later() -> Result<()> {
    let redis = Redis::start().await?;
    let (asked, answer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (on_asked, on_answer) = (Arc::clone(&asked), Arc::clone(&answer));
    let origin = Origin::start(move |head, mut stream| {
        let (asked, answer) = (Arc::clone(&on_asked), Arc::clone(&on_answer));
        async move {
            if head.starts_with("GET /slow") {
                asked.notify_one();
                answer.notified().await;
            }
            let response = ok("content", "cache-control: max-age=3600\r\n");
            stream.write_all(response.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let config = format!(
        "{}[cache]\njournal_length = 1000\n{}",
        redis.section(),
        origin.route("")
    );
    let one = Gateway::start(&config).await?;
    let two = Gateway::start(&config).await?;
    for node in [&one, &two] {
        node.ready_for_redis().await?;
    }
    let url = one.url("/slow");
    let slow = tokio::spawn(async move { client().get(url).header("host", "h").send().await });
    asked.notified().await;
    post(&two, "/slow").await?;
    flood(&two, 1000, Duration::from_secs(2)).await?;
    answer.notify_one();
    assert_eq!(slow.await??.text().await?, "content");
    // Later than the write to Redis would be: this one is written.
    status(&one, "/mark").await?;
    eventually("what is stored later is in redis", async || {
        is_hit(&two, "/mark").await.unwrap_or(false)
    })
    .await;
    let new = Gateway::start(&config).await?;
    new.ready_for_redis().await?;
    answer.notify_one();
    assert!(!is_hit(&new, "/slow").await?);
    Ok(())
}

#[tokio::test]
async fn writes_that_redis_did_not_take_reach_the_other_nodes_when_it_does() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("content", "cache-control: max-age=3600\r\n")).await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let one = Gateway::start(&config).await?;
    let two = Gateway::start(&config).await?;
    for node in [&one, &two] {
        node.ready_for_redis().await?;
        status(node, "/a").await?;
    }
    assert!(is_hit(&two, "/a").await?);
    redis.cli(&["CONFIG", "SET", "maxmemory", "1"])?;
    post(&one, "/a").await?;
    eventually("the write was refused", async || {
        let errors = redis.cli(&["INFO", "errorstats"]);
        errors.is_ok_and(|errors| errors.contains("errorstat_OOM"))
    })
    .await;
    assert!(is_hit(&two, "/a").await?);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"])?;
    eventually("the other node has heard of it", async || {
        !is_hit(&two, "/a").await.unwrap_or(true)
    })
    .await;
    Ok(())
}
