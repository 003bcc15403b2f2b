//! A purge against a fetch, at every point of it, in every way: nothing purged comes back.

use crate::{client, field, nodes, ok, purge};
use anyhow::{Context as _, Result};
use futures_util::future::try_join_all;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{io::AsyncWriteExt as _, sync::watch, time::timeout};
use weaver_tests::{Gateway, Origin, Redis};

/// The points of a fetch at which a purge may come, in order.
const POINTS: [&str; 4] = [
    "before the head",
    "before the body",
    "in the body",
    "after the end",
];
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches of one path: how far they may go, and how far the last is.
struct Fetch {
    allowed: watch::Sender<usize>,
    reached: watch::Sender<usize>,
}

/// An origin that waits at each point until it is told to go on, and numbers its answers.
struct Stepping {
    fetches: Mutex<HashMap<String, Arc<Fetch>>>,
    version: AtomicUsize,
    fields: &'static str,
}

impl Stepping {
    fn fetch(&self, path: &str) -> Arc<Fetch> {
        let mut fetches = self.fetches.lock();
        let new = || {
            Arc::new(Fetch {
                allowed: watch::Sender::new(0),
                reached: watch::Sender::new(0),
            })
        };
        Arc::clone(fetches.entry(path.to_owned()).or_insert_with(new))
    }

    async fn serve(self: &Arc<Self>) -> Result<Origin> {
        let this = Arc::clone(self);
        Origin::start(move |head, mut stream| {
            let this = Arc::clone(&this);
            async move {
                let path = head.split(' ').nth(1)?.to_owned();
                let fetch = this.fetch(&path);
                // From when it was asked, as a slow database would.
                let version = this.version.load(Ordering::SeqCst);
                let answer = ok(&format!("{version:04}"), this.fields);
                let body = answer.len() - 4;
                let cuts = [0, body, body + 2, answer.len()];
                for (point, cut) in cuts.windows(2).enumerate() {
                    fetch.reached.send_replace(point + 1);
                    let mut allowed = fetch.allowed.subscribe();
                    allowed.wait_for(|allowed| *allowed > point).await.ok()?;
                    let piece = &answer.as_bytes()[cut[0]..cut[1]];
                    stream.write_all(piece).await.ok()?;
                }
                fetch.reached.send_replace(POINTS.len());
                Some(stream)
            }
        })
        .await
    }
}

async fn get(node: &Gateway, path: &str) -> Result<(usize, String)> {
    let answer = client().get(node.url(path)).header("host", "h").send();
    let answer = answer.await?.error_for_status()?;
    let status = field(&answer, "cache-status").to_owned();
    let body = answer.text().await?;
    Ok((body.parse().context(body)?, status))
}

async fn race(fields: &'static str, routes: &str, vary: bool) -> Result<()> {
    let redis = Redis::start().await?;
    let stepping = Arc::new(Stepping {
        fetches: Mutex::default(),
        version: AtomicUsize::new(1),
        fields,
    });
    let origin = stepping.serve().await?;
    let config = format!(
        "{}[cache]\nearly_refresh = 0\n{}",
        redis.section(),
        origin.route(routes)
    );
    let nodes = nodes(3, &config).await?;
    let mut number = 0;
    for (at, point) in POINTS.iter().enumerate() {
        for kind in ["url", "tags", "prefix", "all"] {
            for purging in [0, 1] {
                number += 1;
                let path = format!("/{number}/page");
                let what = match kind {
                    "url" => json!({ "url": format!("http://h{path}") }),
                    "tags" => json!({ "tags": ["t"] }),
                    "prefix" => json!({ "prefix": format!("http://h/{number}/") }),
                    _ => json!({ "all": true }),
                };
                let context = format!("{kind} {point}, by node {purging}, variants: {vary}");
                one_race(&stepping, &nodes, &path, at, purging, &what)
                    .await
                    .context(context)?;
            }
        }
    }
    Ok(())
}

/// Begins a fetch at node 0, purges when it has come to a point, and lets it end: whoever asks from
/// the purge's answer on gets something newer.
async fn one_race(
    stepping: &Stepping,
    nodes: &[Gateway],
    path: &str,
    point: usize,
    purging: usize,
    what: &Value,
) -> Result<()> {
    let fetch = stepping.fetch(path);
    fetch.allowed.send_replace(point);
    let old = stepping.version.load(Ordering::SeqCst);
    let begun = {
        let url = nodes[0].url(path);
        tokio::spawn(async move {
            let answer = client().get(url).header("host", "h").send().await?;
            answer.error_for_status()?.text().await
        })
    };
    let mut reached = fetch.reached.subscribe();
    timeout(PATIENCE, reached.wait_for(|reached| *reached > point)).await??;
    if point == POINTS.len() - 1 {
        // It is in memory, and on its way to Redis or there.
        fetch.allowed.send_replace(POINTS.len());
        get(&nodes[0], path).await?;
    }
    stepping.version.fetch_add(1, Ordering::SeqCst);
    purge(&nodes[purging], "?wait=applied", what).await?;
    // Those who come while it still goes on must not get it either.
    let during: Vec<_> = nodes
        .iter()
        .map(|node| {
            let url = node.url(path);
            tokio::spawn(async move {
                let answer = client().get(url).header("host", "h").send().await?;
                let status = field(&answer, "cache-status").to_owned();
                Ok::<_, reqwest::Error>((answer.text().await?, status))
            })
        })
        .collect();
    fetch.allowed.send_replace(POINTS.len());
    begun.await??;
    for asked in during {
        let (body, status) = asked.await??;
        let version: usize = body.parse()?;
        anyhow::ensure!(version > old, "during: {version} after {old}: {status}");
    }
    for _ in 0..2 {
        for node in nodes {
            let (version, status) = get(node, path).await?;
            anyhow::ensure!(version > old, "later: {version} after {old}: {status}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_purge_at_any_point_of_a_fetch_lets_nothing_old_come_back() -> Result<()> {
    let fields = "cache-control: max-age=600\r\nsurrogate-key: t\r\n";
    race(fields, "", false).await
}

#[tokio::test]
async fn nor_does_a_variant_come_back() -> Result<()> {
    let fields = "cache-control: max-age=600\r\nsurrogate-key: t\r\nvary: accept-language\r\n";
    race(fields, "", true).await
}

#[tokio::test]
async fn nor_what_is_in_redis_alone() -> Result<()> {
    let fields = "cache-control: max-age=600\r\nsurrogate-key: t\r\n";
    race(fields, "tiers = \"redis\"", false).await
}

/// Who asks after a purge does not wait for a fetch from before it, in whatever node that is; and the
/// nodes agree on one fetch all the same.
#[tokio::test]
async fn nobody_waits_for_a_fetch_from_before_a_purge() -> Result<()> {
    let redis = Redis::start().await?;
    let (go_on, asked) = (watch::Sender::new(false), Arc::new(AtomicUsize::new(0)));
    let first = (go_on.clone(), Arc::clone(&asked));
    let origin = Origin::start(move |_, mut stream| {
        let (go_on, asked) = first.clone();
        async move {
            let number = asked.fetch_add(1, Ordering::SeqCst) + 1;
            if number == 1 {
                go_on.subscribe().wait_for(|go_on| *go_on).await.ok()?;
            }
            let answer = ok(&number.to_string(), "cache-control: max-age=600\r\n");
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let nodes = nodes(3, &config).await?;
    let url = nodes[0].url("/a");
    let begun = tokio::spawn(async move {
        let answer = client().get(url).header("host", "h").send().await?;
        answer.error_for_status()?.text().await
    });
    crate::eventually("the origin is asked", async || {
        asked.load(Ordering::SeqCst) == 1
    })
    .await;
    let what = json!({ "url": "http://h/a" });
    purge(&nodes[1], "?wait=applied", &what).await?;
    let all = [&nodes[2], &nodes[1], &nodes[0], &nodes[2], &nodes[1]].map(|node| get(node, "/a"));
    for answer in timeout(PATIENCE, try_join_all(all)).await?? {
        assert_eq!(answer.0, 2, "{}", answer.1);
    }
    go_on.send_replace(true);
    assert_eq!(begun.await??, "1");
    for node in &nodes {
        assert_eq!(get(node, "/a").await?.0, 2);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    Ok(())
}

/// A write to Redis whose deadline passed may still be carried out, after the purge.
#[tokio::test]
async fn a_write_to_redis_that_lands_late_serves_nothing() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=600\r\n")).await?;
    let config = format!("{}{}", redis.section(), origin.route(""));
    let nodes = nodes(2, &config).await?;
    let ask = async |node: &Gateway| -> Result<String> {
        let answer = client().get(node.url("/a")).header("host", "h").send();
        Ok(field(&answer.await?, "cache-status").to_owned())
    };
    ask(&nodes[0]).await?;
    let mut key = String::new();
    crate::eventually("it is in redis", async || {
        let keys = redis.cli(&["KEYS", "http_cache:*"]).expect("redis-cli");
        let entry = keys.lines().find(|name| {
            let kind = redis.cli(&["TYPE", name]).expect("redis-cli");
            kind.trim() == "string" && name.len() > 50
        });
        key = entry.unwrap_or_default().to_owned();
        !key.is_empty()
    })
    .await;
    redis.cli(&["COPY", &key, "late"])?;
    purge(&nodes[0], "?wait=applied", &json!({ "url": "http://h/a" })).await?;
    redis.cli(&["COPY", "late", &key, "REPLACE"])?;
    let before = origin.requests();
    assert!(!ask(&nodes[1]).await?.contains("hit"));
    assert_eq!(origin.requests(), before + 1);
    // The copy is a real entry: without the purge it is served.
    let fresh = Gateway::start(&config).await?;
    fresh.ready_for_redis().await?;
    assert!(ask(&fresh).await?.contains("hit"));
    Ok(())
}
