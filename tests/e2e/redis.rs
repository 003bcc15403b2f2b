use crate::{client, eventually, field, ok};
use anyhow::Result;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::time::sleep;
use weaver_tests::{Gateway, Origin, Redis, RedisCluster};

fn shared(redis: &Redis, more: &str) -> String {
    format!(
        "{}socket_timeout = \"500ms\"\nsocket_connect_timeout = \"500ms\"\nhealth_check_interval = \"100ms\"\n{more}",
        redis.section()
    )
}

async fn connected(gateway: &Gateway) {
    let ready = gateway.ready_for_redis().await;
    ready.expect("redis is in use");
}

#[tokio::test]
async fn what_one_node_stored_another_serves() -> Result<()> {
    let redis = Redis::start().await?;
    let body: String = (0..50_000_u32)
        .map(|at| char::from(b'a' + (at % 26) as u8))
        .collect();
    let origin = Origin::constant(ok(
        &body,
        "cache-control: max-age=60\r\nx-a: 1\r\nx-a: 2\r\n",
    ))
    .await?;
    let config = format!("{}\n{}", shared(&redis, ""), origin.route(""));
    let (one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    connected(&one).await;
    connected(&two).await;
    client()
        .get(one.url("/a"))
        .header("host", "h")
        .send()
        .await?
        .text()
        .await?;
    eventually("the entry is in redis", async || {
        redis.records().is_ok_and(|records| records == 1)
    })
    .await;
    let other = client()
        .get(two.url("/a"))
        .header("host", "h")
        .send()
        .await?;
    assert!(
        field(&other, "cache-status").starts_with("weaver; hit; ttl="),
        "{other:?}"
    );
    assert_eq!(other.headers().get_all("x-a").iter().count(), 2);
    assert_eq!(other.text().await?, body);
    assert_eq!(origin.requests(), 1);
    let dump = redis.cli(&["--raw", "KEYS", "*"])?;
    for key in dump.lines().filter(|key| *key != "http_cache:journal") {
        let ttl: i64 = redis.cli(&["PTTL", key])?.trim().parse()?;
        assert!(ttl > 0, "{key} has no time to live");
    }
    Ok(())
}

#[tokio::test]
async fn large_bodies_are_compressed_in_redis_if_wished() -> Result<()> {
    let redis = Redis::start().await?;
    let body = "0123456789abcdef".repeat(20_000);
    let fields = "cache-control: max-age=60\r\n";
    let origin = Origin::constant(ok(&body, fields)).await?;
    let cache = "[cache]\nredis_compress = \"1KiB\"";
    let config = format!("{}\n{cache}\n{}", shared(&redis, ""), origin.route(""));
    let (one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    connected(&one).await;
    connected(&two).await;
    let get = async |gateway: &Gateway| -> Result<String> {
        let asked = client().get(gateway.url("/")).header("host", "h");
        Ok(asked.send().await?.text().await?)
    };
    assert_eq!(get(&one).await?, body);
    let entry = async || -> Result<Option<String>> {
        let keys = redis.cli(&["--raw", "KEYS", "http_cache:*"])?;
        let named = keys
            .lines()
            .find(|key| key.len() == "http_cache:".len() + 64);
        Ok(named.map(ToOwned::to_owned))
    };
    eventually("the entry is in redis", async || {
        entry().await.is_ok_and(|key| key.is_some())
    })
    .await;
    let key = entry().await?.unwrap_or_default();
    let length: usize = redis.cli(&["STRLEN", &key])?.trim().parse()?;
    assert!(length < body.len() / 10, "{length}");
    assert_eq!(get(&two).await?, body);
    assert_eq!(origin.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn variants_are_shared_too() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::start(|head, mut stream| async move {
        use tokio::io::AsyncWriteExt as _;
        let foo = head
            .lines()
            .find_map(|line| line.strip_prefix("foo: "))
            .unwrap_or("-")
            .to_owned();
        stream
            .write_all(ok(&foo, "cache-control: max-age=60\r\nvary: foo\r\n").as_bytes())
            .await
            .ok()?;
        Some(stream)
    })
    .await?;
    let config = format!(
        "{}\n[cache]\nidentity_secret = \"the same on all nodes\"\n{}",
        shared(&redis, ""),
        origin.route("")
    );
    let (one, two) = (
        Gateway::start(&config).await?,
        Gateway::start(&config).await?,
    );
    connected(&one).await;
    connected(&two).await;
    for foo in ["1", "2"] {
        client()
            .get(one.url("/"))
            .header("host", "h")
            .header("foo", foo)
            .send()
            .await?
            .text()
            .await?;
        sleep(Duration::from_millis(100)).await;
    }
    for foo in ["1", "2", "3"] {
        let answer = client()
            .get(two.url("/"))
            .header("host", "h")
            .header("foo", foo)
            .send()
            .await?;
        assert_eq!(answer.text().await?, foo);
    }
    assert_eq!(origin.requests(), 3);
    Ok(())
}

#[tokio::test]
async fn redis_may_stop_and_start_under_traffic_and_no_request_fails() -> Result<()> {
    let mut redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=1\r\n")).await?;
    let config = format!("{}\n{}", shared(&redis, ""), origin.route(""));
    let gateway = Gateway::start(&config).await?;
    connected(&gateway).await;
    let (failed, done, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let traffic: Vec<_> = (0..8)
        .map(|worker| {
            let (failed, done, stop) = (Arc::clone(&failed), Arc::clone(&done), Arc::clone(&stop));
            let url = gateway.url("");
            tokio::spawn(async move {
                let client = client();
                let mut at = 0;
                while !stop.load(Ordering::Relaxed) {
                    at += 1;
                    let answer = client
                        .get(format!("{url}/{worker}/{}", at % 50))
                        .send()
                        .await;
                    if !answer.is_ok_and(|answer| answer.status() == 200) {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    sleep(Duration::from_millis(500)).await;
    redis.kill();
    sleep(Duration::from_millis(700)).await;
    assert_eq!(gateway.report().await?["status"], "degraded");
    redis.up().await?;
    connected(&gateway).await;
    redis.freeze()?;
    let frozen = Instant::now();
    let before = done.load(Ordering::Relaxed);
    sleep(Duration::from_millis(700)).await;
    assert!(
        done.load(Ordering::Relaxed) > before,
        "requests go on while redis is frozen"
    );
    redis.thaw()?;
    assert!(frozen.elapsed() < Duration::from_secs(5));
    sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    for task in traffic {
        task.await?;
    }
    assert_eq!(
        failed.load(Ordering::Relaxed),
        0,
        "of {}",
        done.load(Ordering::Relaxed)
    );
    eventually("the tier is back", async || {
        gateway
            .report()
            .await
            .is_ok_and(|report| report["status"] == "healthy")
    })
    .await;
    Ok(())
}

#[tokio::test]
async fn a_gateway_starts_without_redis_and_finds_it_later() -> Result<()> {
    let mut redis = Redis::start().await?;
    redis.kill();
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let gateway = Gateway::start(&format!("{}\n{}", shared(&redis, ""), origin.route(""))).await?;
    assert_eq!(
        client().get(gateway.url("/")).send().await?.text().await?,
        "x"
    );
    assert_eq!(gateway.report().await?["status"], "degraded");
    // Redis is waited for until several attempts have failed, and not longer.
    eventually("it is ready without redis", async || {
        let asked = client().get(gateway.admin_url("/readyz")).send().await;
        asked.is_ok_and(|answer| answer.status() == 200)
    })
    .await;
    redis.up().await?;
    connected(&gateway).await;
    Ok(())
}

#[tokio::test]
async fn values_that_lie_are_misses_and_never_served() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("true", "cache-control: max-age=60\r\n")).await?;
    let config = format!(
        "{}\n[cache]\nmemory = 0\n{}",
        shared(&redis, ""),
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    connected(&gateway).await;
    let ask = async |path: &str| {
        client()
            .get(gateway.url(path))
            .header("host", "h")
            .send()
            .await?
            .text()
            .await
    };
    // The reports that were asked for until now are entries too.
    redis.cli(&["FLUSHALL"])?;
    ask("/a").await?;
    ask("/b").await?;
    sleep(Duration::from_millis(200)).await;
    assert_eq!(origin.requests(), 2);
    let keys = redis.cli(&["--raw", "KEYS", "http_cache:*"])?;
    let keys: Vec<_> = keys
        .lines()
        .filter(|key| key.len() == "http_cache:".len() + 64)
        .collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
    // Each key now has the other's value, then one that is cut, then noise.
    redis.cli(&["RENAME", keys[0], "tmp"])?;
    redis.cli(&["RENAME", keys[1], keys[0]])?;
    redis.cli(&["RENAME", "tmp", keys[1]])?;
    assert_eq!(ask("/a").await?, "true");
    assert_eq!(ask("/b").await?, "true");
    assert_eq!(
        origin.requests(),
        4,
        "a value under another's key is no value"
    );
    sleep(Duration::from_millis(200)).await;
    for noise in ["", "\u{1}\u{1}junk", "x"] {
        redis.cli(&["SET", keys[0], noise])?;
        redis.cli(&["SET", keys[1], noise])?;
        assert_eq!(ask("/a").await?, "true");
    }
    assert!(gateway.report().await?["http_cache"]["errors"].as_u64() > Some(0));
    Ok(())
}

#[tokio::test]
async fn neither_tokens_nor_cookies_reach_redis() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok(
        "x",
        "cache-control: max-age=60, public\r\nvary: cookie\r\n",
    ))
    .await?;
    let config = format!(
        "{}\n{}",
        shared(&redis, ""),
        origin.route("per_user = true")
    );
    let gateway = Gateway::start(&config).await?;
    connected(&gateway).await;
    let request = client()
        .get(gateway.url("/"))
        .header("authorization", "Bearer s3cr3t-token")
        .header("cookie", "sid=s3cr3t-cookie");
    request.send().await?.text().await?;
    sleep(Duration::from_millis(200)).await;
    let keys = redis.cli(&["--raw", "KEYS", "http_cache:*"])?;
    assert!(keys.lines().count() >= 2, "{keys}");
    for key in keys.lines() {
        let value = redis.cli(&["--raw", "DUMP", key])?;
        assert!(
            !key.contains("s3cr3t") && !value.contains("s3cr3t"),
            "{key}"
        );
    }
    Ok(())
}

/// While Redis is frozen a look-up costs its deadline a few times, until the breaker opens or the
/// journal is known to be behind, and nothing after; no request fails. Then it is in use again.
#[tokio::test]
async fn a_frozen_redis_costs_a_few_requests_their_wait_and_no_more() -> Result<()> {
    let redis = Redis::start().await?;
    let origin = Origin::constant(ok("x", "cache-control: max-age=60\r\n")).await?;
    let breaker = "[redis.breaker]\nmin_calls = 5\nopen_for = \"300ms\"";
    let config = format!(
        "{}\n{breaker}\n{}",
        shared(&redis, "retries = 0"),
        origin.route("")
    );
    let gateway = Gateway::start(&config).await?;
    connected(&gateway).await;
    let errors = async || {
        let report = gateway.report().await?;
        anyhow::Ok(report["redis_pool"]["total_errors"].as_u64().unwrap_or(0))
    };
    let mut asked = 0;
    let mut ask_fifty = async || {
        for _ in 0..50 {
            asked += 1;
            let url = gateway.url(&format!("/{asked}"));
            assert_eq!(client().get(url).send().await?.status(), 200);
        }
        anyhow::Ok(())
    };
    redis.freeze()?;
    eventually("requests go past redis", async || {
        let before = errors().await.unwrap_or(0);
        assert!(ask_fifty().await.is_ok());
        errors().await.is_ok_and(|after| after < before + 10)
    })
    .await;
    let text = client()
        .get(gateway.admin_url("/metrics"))
        .send()
        .await?
        .text()
        .await?;
    assert!(text.contains("weaver_redis_pool_circuit_breaker{state=\"closed\"}"));
    redis.thaw()?;
    let keys = async || redis.records();
    eventually("redis is in use again", async || {
        let before = keys().await.ok();
        assert!(ask_fifty().await.is_ok());
        sleep(Duration::from_millis(50)).await;
        keys().await.ok() != before
    })
    .await;
    Ok(())
}

/// Two nodes share a cluster: entries lie all over it, a purge reaches both, and one node of Redis that
/// dies costs what it had and nothing else.
#[tokio::test]
async fn a_redis_cluster_is_shared_like_one_server() -> Result<()> {
    let mut cluster = RedisCluster::start().await?;
    let origin = Origin::constant(ok("shared", "cache-control: max-age=60\r\n")).await?;
    let config = format!("{}\n{}", cluster.section(), origin.route(""));
    let one = Gateway::start(&config).await?;
    let two = Gateway::start(&config).await?;
    connected(&one).await;
    connected(&two).await;
    let get = async |gateway: &Gateway, at: u32| -> Result<String> {
        let request = client()
            .get(gateway.url(&format!("/{at}")))
            .header("host", "h");
        let response = request.send().await?;
        anyhow::ensure!(response.status() == 200, "{response:?}");
        Ok(field(&response, "cache-status").to_owned())
    };
    for at in 0..30 {
        get(&one, at).await?;
    }
    eventually("the entries are in redis", async || {
        let records = cluster.nodes().iter().map(|node| node.records());
        let records: Vec<usize> = records.filter_map(Result::ok).collect();
        records.iter().sum::<usize>() >= 30 && records.iter().all(|count| *count > 0)
    })
    .await;
    let fetched = origin.requests();
    for at in 0..30 {
        let status = get(&two, at).await?;
        assert!(status.contains("hit"), "{status}");
    }
    assert_eq!(
        origin.requests(),
        fetched,
        "the second node fetched something"
    );

    let purged = client()
        .post(one.admin_url("/purge?wait=applied"))
        .json(&serde_json::json!({ "all": true }))
        .send()
        .await?;
    assert!(purged.status().is_success(), "{purged:?}");
    eventually("the purge is applied by the other node", async || {
        get(&two, 0)
            .await
            .is_ok_and(|status| !status.contains("hit"))
    })
    .await;

    let metrics = client()
        .get(one.admin_url("/metrics"))
        .send()
        .await?
        .text()
        .await?;
    for wanted in [
        "weaver_redis_pool_node_circuit_breaker{node=",
        "weaver_redis_pool_command_duration_seconds_bucket",
    ] {
        assert!(metrics.contains(wanted), "{wanted} is not in {metrics}");
    }

    cluster.nodes()[2].kill();
    for at in 100..160 {
        let began = Instant::now();
        get(&one, at).await?;
        assert!(began.elapsed() < Duration::from_secs(2));
    }
    Ok(())
}
