//! What fred and other pools are known to get wrong, each as it was seen, and that this pool does not.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::Redis;
use fred::{clients::Client, interfaces::KeysInterface};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use weaver_pool::{BreakerConfig, PoolError, RedisPool, RedisPoolConfig};

fn number(redis: &Redis, section: &str, name: &str) -> u64 {
    let info = redis.cli(&["INFO", section]);
    let line = info.lines().find(|line| line.starts_with(name));
    line.map_or(0, |line| {
        let value = line[name.len()..].trim_start_matches([':', '=']);
        let digits = value.split(|char: char| !char.is_ascii_digit());
        digits.into_iter().next().unwrap().parse().unwrap()
    })
}

async fn get(pool: &RedisPool, key: &'static str) -> Result<Option<String>, PoolError> {
    let get = |client: Client| async move { client.get(key).await };
    pool.command("GET").key(key.as_bytes()).once(get).await
}

/// fred's `max_command_buffer_len`: after a burst that it refuses, nothing is ever flushed again.
#[tokio::test]
async fn a_burst_beyond_the_limit_wedges_nothing() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        max_connections: 1,
        max_in_flight: 10,
        max_waiting: 0,
        ..redis.config()
    })
    .await
    .unwrap();
    let mut burst = JoinSet::new();
    for _ in 0..1000 {
        let pool = pool.clone();
        burst.spawn(async move { get(&pool, "k").await });
    }
    while let Some(outcome) = burst.join_next().await {
        assert!(matches!(
            outcome.unwrap(),
            Ok(None) | Err(PoolError::Exhausted)
        ));
    }
    for _ in 0..100 {
        assert_eq!(get(&pool, "k").await.unwrap(), None);
    }
    pool.close().await;
}

/// fred's `DynamicPool`: it opens more than its maximum, and then panics; and after idleness it
/// leaves connections behind that nobody uses and nobody closes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_stops_at_the_maximum_and_idleness_leaves_nothing_behind() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        min_connections: 2,
        max_connections: 4,
        max_in_flight: 4,
        max_idle_time: Duration::from_millis(100),
        acquire_timeout: Duration::from_secs(5),
        ..redis.config()
    })
    .await
    .unwrap();
    for _ in 0..5 {
        let mut burst = JoinSet::new();
        for _ in 0..400 {
            let pool = pool.clone();
            burst.spawn(async move { get(&pool, "k").await });
        }
        let mut most = 0;
        while let Some(outcome) = burst.join_next().await {
            outcome.unwrap().unwrap();
            most = most.max(number(&redis, "clients", "connected_clients"));
            assert!(pool.stats().open_connections <= 4);
        }
        // redis-cli is one of them.
        assert!(most <= 5, "{most}");
        let since = Instant::now();
        while number(&redis, "clients", "connected_clients") > 3 {
            assert!(since.elapsed() < Duration::from_secs(5));
        }
    }
    pool.close().await;
}

/// 20 000 SETs to a server that is frozen: with fred alone thousands of them ran after it thawed. No
/// more may than there are places, and each of their callers knows that it may have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn few_writes_run_after_their_deadline_and_their_callers_know() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        max_connections: 2,
        max_in_flight: 16,
        max_waiting: 100,
        socket_timeout: Duration::from_millis(100),
        acquire_timeout: Duration::from_millis(20),
        health_check_interval: Duration::ZERO,
        breaker: BreakerConfig {
            min_calls: 20,
            ..BreakerConfig::default()
        },
        ..redis.config()
    })
    .await
    .unwrap();
    redis.signal("-STOP");
    let mut writes = JoinSet::new();
    for at in 0..20_000 {
        let pool = pool.clone();
        writes.spawn(async move {
            let set = |client: Client| async move {
                let key = format!("late:{at}");
                client.set::<(), _, _>(key, at, None, None, false).await
            };
            pool.command("SET").once(set).await
        });
    }
    let mut may_have_run = 0;
    while let Some(outcome) = writes.join_next().await {
        let error = outcome.unwrap().unwrap_err();
        if !error.has_not_run() {
            may_have_run += 1;
        }
    }
    redis.signal("-CONT");
    let since = Instant::now();
    while redis.cli(&["PING"]) != "PONG" {
        assert!(since.elapsed() < Duration::from_secs(5));
    }
    let late: u64 = redis.cli(&["DBSIZE"]).parse().unwrap();
    println!(
        "20000 writes while frozen: {late} ran later, {may_have_run} callers were told that theirs may"
    );
    assert!(late <= may_have_run, "{late} ran, {may_have_run} may have");
    assert!(may_have_run <= 200, "{may_have_run}");
    pool.close().await;
}

/// deadpool and bb8 send a PING before each command.
#[tokio::test]
async fn a_command_is_one_command() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(redis.config()).await.unwrap();
    for _ in 0..200 {
        get(&pool, "k").await.unwrap();
    }
    assert_eq!(number(&redis, "commandstats", "cmdstat_get:calls"), 200);
    assert!(number(&redis, "commandstats", "cmdstat_ping:calls") <= 2);
    pool.close().await;
}
