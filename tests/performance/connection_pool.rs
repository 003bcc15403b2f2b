use crate::{Effort, milliseconds, target};
use anyhow::Result;
use fred::interfaces::KeysInterface as _;
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use weaver_pool::{RedisPool, RedisPoolConfig};
use weaver_tests::Redis;

async fn pool(redis: &Redis, max_connections: usize) -> Result<RedisPool> {
    let config = RedisPoolConfig {
        host: "127.0.0.1".to_owned(),
        port: redis.port(),
        max_connections,
        min_connections: max_connections.min(10),
        ..RedisPoolConfig::default()
    };
    Ok(RedisPool::connect(config).await?)
}

async fn get(pool: &RedisPool) -> Result<()> {
    Ok(pool
        .execute(|client| async move { client.get::<(), _>("key").await })
        .await?)
}

/// The original's test_connection_pool: 1000+ operations a second, 100 commands on 10 connections in
/// under a second, less than a millisecond of the pool's own for each.
pub(crate) async fn run(effort: Effort) -> Result<bool> {
    println!("connection pool");
    let redis = Redis::start().await?;
    let wide = pool(&redis, 100).await?;
    let started = Instant::now();
    for _ in 0..effort.operations / 100 {
        for outcome in join_all((0..100).map(|_| get(&wide))).await {
            outcome?;
        }
    }
    let rate = (effort.operations / 100 * 100) as f64 / started.elapsed().as_secs_f64();
    let mut met = target(
        "operations a second, 100 at once",
        rate,
        "1/s",
        rate > 1000.0,
        "> 1000",
    );

    let narrow = pool(&redis, 10).await?;
    let started = Instant::now();
    for outcome in join_all((0..100).map(|_| get(&narrow))).await {
        outcome?;
    }
    let took = started.elapsed();
    met &= target(
        "100 commands on 10 connections",
        took.as_secs_f64(),
        "s",
        took < Duration::from_secs(1),
        "< 1",
    );

    // The pool's own part: a call that sends nothing.
    let started = Instant::now();
    for _ in 0..effort.operations {
        narrow
            .execute(|_| async { Ok::<_, fred::error::Error>(()) })
            .await?;
    }
    let overhead = milliseconds(started.elapsed()) / effort.operations as f64;
    met &= target(
        "the pool's own time for a call",
        overhead,
        "ms",
        overhead < 1.0,
        "< 1",
    );
    narrow.close().await;
    wide.close().await;
    Ok(met)
}
