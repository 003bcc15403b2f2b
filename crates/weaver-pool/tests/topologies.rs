//! The pool over Sentinels and over a cluster, with real processes that fail and move.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::{Cluster, DEADLINE, Traffic, Watched};
use fred::{
    interfaces::{ClientLike, KeysInterface},
    types::{ClusterHash, CustomCommand},
};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::time::sleep;
use weaver_pool::{BreakerState, PoolError, RedisPool, RedisPoolConfig, Topology};

async fn get(pool: &RedisPool, key: &str) -> Result<Option<String>, PoolError> {
    let asked = key.to_owned();
    pool.command("GET")
        .key(key.as_bytes())
        .once(|client| async move { client.get(asked).await })
        .await
}

async fn set(pool: &RedisPool, key: &str, value: &str) -> Result<(), PoolError> {
    let (to, value) = (key.to_owned(), value.to_owned());
    pool.command("SET")
        .key(key.as_bytes())
        .once(|client| async move { client.set(to, value, None, None, false).await })
        .await
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < Duration::from_secs(20), "never: {what}");
        sleep(Duration::from_millis(5)).await;
    }
    since.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failover_the_new_primary_is_found() {
    let mut watched = Watched::start().await;
    let pool = RedisPool::connect(watched.config()).await.unwrap();
    let traffic = Traffic::start(&pool);
    traffic.recovered(&pool).await;

    let before = watched.primary();
    watched.servers[0].kill();
    let since = Instant::now();
    until("a failover", async || watched.primary() != before).await;
    let elected = since.elapsed();
    let took = traffic.recovered(&pool).await;
    println!("primary killed: new one after {elected:.1?}, pool works {took:.1?} later");

    // The other way round, and this time nobody died: the old primary turns read-only.
    watched.servers[0].up().await;
    watched.ready().await;
    let before = watched.primary();
    until("a second failover", async || {
        // Refused for some seconds after the first.
        common::cli(watched.sentinel(), &["SENTINEL", "FAILOVER", "main"]);
        watched.primary() != before
    })
    .await;
    let took = traffic.recovered(&pool).await;
    println!("failover on demand: pool works {took:.1?} after it");
    let after = watched.primary();
    // Writes arrive at the primary that is now.
    until("a write to the new primary", async || {
        set(&pool, "where", "here").await.is_ok() && common::cli(after, &["GET", "where"]) == "here"
    })
    .await;
    traffic.end(&pool).await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_one_pool_and_slots_may_move_under_load() {
    let cluster = Cluster::start().await;
    let pool = RedisPool::connect(cluster.config()).await.unwrap();
    for at in 0..100 {
        let key = format!("key:{at}");
        set(&pool, &key, &key).await.unwrap();
        assert_eq!(get(&pool, &key).await.unwrap().as_deref(), Some(&*key));
    }
    until("three nodes", async || pool.stats().nodes.len() == 3).await;

    // Slots of the first primary go to the second, a thousand of them, with what is in them.
    let traffic = Traffic::start(&pool);
    traffic.recovered(&pool).await;
    let failed = traffic.seen.failed.load(Ordering::Relaxed);
    let id = |at: usize| cluster.nodes[at].cli(&["CLUSTER", "MYID"]);
    let (from, to) = (id(0), id(1));
    let address = format!("127.0.0.1:{}", cluster.nodes[0].port);
    let moved = tokio::task::spawn_blocking(move || {
        std::process::Command::new("redis-cli")
            .args(["--cluster", "reshard", &address])
            .args(["--cluster-from", &from, "--cluster-to", &to])
            .args(["--cluster-slots", "500", "--cluster-yes"])
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap()
            .success()
    });
    assert!(moved.await.unwrap());
    traffic.recovered(&pool).await;
    let failed = traffic.seen.failed.load(Ordering::Relaxed) - failed;
    let good = traffic.seen.good.load(Ordering::Relaxed);
    println!("500 slots moved: {failed} of {good} calls failed");
    assert!(failed * 1000 <= good, "{failed} of {good}");
    traffic.end(&pool).await;

    // One slot by hand: ASK while it moves, MOVED afterwards.
    let key = "key:7";
    let (from, slot) = (
        cluster.owner(key),
        cluster.nodes[0].cli(&["CLUSTER", "KEYSLOT", key]),
    );
    let to = (0..3).find(|at| *at != from).unwrap();
    let (from_id, to_id) = (id(from), id(to));
    cluster.nodes[to].cli(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]);
    cluster.nodes[from].cli(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]);
    assert_eq!(
        get(&pool, key).await.unwrap().as_deref(),
        Some(key),
        "still there"
    );
    let port = cluster.nodes[to].port.to_string();
    cluster.nodes[from].cli(&["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]);
    assert_eq!(
        get(&pool, key).await.unwrap().as_deref(),
        Some(key),
        "by ASK"
    );
    for at in [to, from] {
        cluster.nodes[at].cli(&["CLUSTER", "SETSLOT", &slot, "NODE", &to_id]);
    }
    assert_eq!(
        get(&pool, key).await.unwrap().as_deref(),
        Some(key),
        "by MOVED"
    );
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_of_a_cluster_answer_reads_where_that_is_wished() {
    let cluster = Cluster::start().await;
    let mut config = cluster.config();
    if let Topology::Cluster { replicas, .. } = &mut config.topology {
        *replicas = true;
    }
    let pool = RedisPool::connect(config).await.unwrap();
    set(&pool, "k", "v").await.unwrap();
    let reads = |at: usize| {
        let stats = cluster.nodes[at].cli(&["INFO", "commandstats"]);
        let line = stats.lines().find(|line| line.starts_with("cmdstat_get:"));
        line.map_or(0, |line| {
            let calls = line.split("calls=").nth(1).unwrap();
            calls.split(',').next().unwrap().parse::<u32>().unwrap()
        })
    };
    let total = |range: std::ops::Range<usize>| range.map(reads).sum::<u32>();
    let before = total(3..6);
    until("a read from a replica", async || {
        let read = pool.command("GET").key(b"k").from_replica();
        let value: Result<Option<String>, _> = read
            .once(|client| async move { client.get("k").await })
            .await;
        assert!(
            matches!(value.as_ref().map(Option::as_deref), Ok(Some("v") | None)),
            "{value:?}"
        );
        total(3..6) > before
    })
    .await;
    pool.close().await;
}

/// One node of three dies. Calls to the others go on; calls to it stop at its breaker; its replica
/// takes over, and all is well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_costs_the_others_nothing_and_its_replica_takes_over() {
    let mut cluster = Cluster::start().await;
    let pool = RedisPool::connect(cluster.config()).await.unwrap();
    let keys: Vec<String> = (0..60).map(|at| format!("key:{at}")).collect();
    let (doomed, others): (Vec<_>, Vec<_>) = keys.iter().partition(|key| cluster.owner(key) == 0);
    for key in &keys {
        set(&pool, key, key).await.unwrap();
    }
    until("three nodes", async || pool.stats().nodes.len() == 3).await;
    let traffic = Traffic::start(&pool);
    traffic.recovered(&pool).await;

    cluster.nodes[0].kill();
    let since = Instant::now();
    let (mut good, mut bad) = (0, 0);
    let mut opened = false;
    let took = loop {
        for key in &others {
            match get(&pool, key).await {
                Ok(value) => {
                    assert_eq!(value.as_deref(), Some(key.as_str()));
                    good += 1;
                }
                Err(_) => bad += 1,
            }
        }
        let began = Instant::now();
        let outcome = get(&pool, doomed[0]).await;
        assert!(
            began.elapsed() < DEADLINE * 2 + common::SLACK,
            "{outcome:?}"
        );
        opened |= matches!(outcome, Err(PoolError::CircuitOpen));
        if outcome.is_ok() {
            break since.elapsed();
        }
        assert!(
            since.elapsed() < Duration::from_secs(20),
            "{outcome:?} {:?}",
            pool.stats()
        );
    };
    println!(
        "a node died: its slots were back after {took:.1?}; of calls to the others {bad} of {} failed",
        good + bad
    );
    assert!(opened, "the dead node's breaker never opened");
    assert!(bad * 5 < good, "{bad} of {}", good + bad);
    traffic.recovered(&pool).await;
    traffic.end(&pool).await;
    until("closed breakers", async || {
        get(&pool, doomed[0]).await.ok();
        let nodes = pool.stats().nodes;
        nodes.len() == 3
            && nodes
                .iter()
                .all(|(_, stats)| stats.state == BreakerState::Closed)
    })
    .await;
    pool.close().await;
}

/// A node that is frozen, and has no replica that takes over in that time, holds up its own slots
/// alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_node_costs_the_others_nothing() {
    let cluster = Cluster::start().await;
    let pool = RedisPool::connect(cluster.config()).await.unwrap();
    let keys: Vec<String> = (0..60).map(|at| format!("key:{at}")).collect();
    for key in &keys {
        set(&pool, key, key).await.unwrap();
    }
    let (_, others): (Vec<_>, Vec<_>) = keys.iter().partition(|key| cluster.owner(key) == 0);
    until("three nodes", async || pool.stats().nodes.len() == 3).await;
    let traffic = Traffic::start(&pool);
    traffic.recovered(&pool).await;
    cluster.nodes[0].signal("-STOP");
    let since = Instant::now();
    let (mut good, mut bad) = (0, 0);
    while since.elapsed() < Duration::from_millis(400) {
        for key in &others {
            match get(&pool, key).await {
                Ok(value) => {
                    assert_eq!(value.as_deref(), Some(key.as_str()));
                    good += 1;
                }
                Err(_) => bad += 1,
            }
        }
    }
    cluster.nodes[0].signal("-CONT");
    println!(
        "a node frozen for 0.4 s: of calls to the others {bad} of {} failed",
        good + bad
    );
    assert!(bad * 10 <= good, "{bad} of {}", good + bad);
    let took = traffic.recovered(&pool).await;
    println!("and thawed: all calls succeed after {took:.1?}");
    traffic.end(&pool).await;
    pool.close().await;
}

/// A command that names no node, and a pool with no key, still works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_without_a_key_go_to_some_node() {
    let cluster = Cluster::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        min_connections: 1,
        ..cluster.config()
    })
    .await
    .unwrap();
    let time = CustomCommand::new_static("TIME", ClusterHash::Random, false);
    let time: Vec<String> = pool
        .execute(|client| async move { client.custom(time, Vec::<String>::new()).await })
        .await
        .unwrap();
    assert_eq!(time.len(), 2);
    pool.close().await;
}
