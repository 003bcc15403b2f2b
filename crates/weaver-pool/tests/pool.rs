//! The pool against a real redis-server.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::Redis;
use fred::interfaces::{ClientLike, KeysInterface};
use std::{
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::sleep;
use weaver_pool::{
    BreakerConfig, BreakerReason, BreakerState, Health, PoolError, RedisPool, RedisPoolConfig,
    close_redis_pool, get_pool_stats, get_redis_pool, init_redis_pool,
};

async fn get(pool: &RedisPool, key: &'static str) -> Result<Option<String>, PoolError> {
    pool.execute(|client| async move { client.get(key).await })
        .await
}

async fn set(pool: &RedisPool, key: &'static str, value: &'static str) -> Result<(), PoolError> {
    pool.execute(|client| async move { client.set(key, value, None, None, false).await })
        .await
}

/// Occupies a connection for that long.
async fn sleepy(pool: &RedisPool, seconds: &'static str) -> Result<(), PoolError> {
    pool.execute(|client| async move {
        let command = fred::types::CustomCommand::new_static("BLPOP", None::<u16>, true);
        client
            .custom::<(), _>(command, vec!["no-such-list", seconds])
            .await
    })
    .await
}

#[tokio::test]
async fn commands_run_and_are_counted() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(redis.config()).await.unwrap();
    set(&pool, "a", "1").await.unwrap();
    assert_eq!(get(&pool, "a").await.unwrap().as_deref(), Some("1"));
    let wrong = pool
        .execute(|client| async move { client.incr::<i64, _>("a").await })
        .await;
    assert_eq!(wrong.unwrap(), 2);
    let bad = pool
        .execute(|client| async move {
            client
                .custom::<(), _>(
                    fred::types::CustomCommand::new_static("NOPE", None::<u16>, false),
                    Vec::<String>::new(),
                )
                .await
        })
        .await;
    assert!(matches!(bad, Err(PoolError::Command(_))), "{bad:?}");
    let stats = pool.stats();
    // The first is the health check of `connect`.
    assert_eq!((stats.total_commands_executed, stats.total_errors), (5, 1));
    assert_eq!(
        (stats.in_use_connections, stats.available_connections),
        (0, 100)
    );
    assert!(stats.last_health_check.is_some());
    pool.close().await;
    assert!(matches!(get(&pool, "a").await, Err(PoolError::Closed)));
}

#[tokio::test]
async fn a_connection_is_in_use_while_a_command_is_outstanding() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(redis.config()).await.unwrap();
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { sleepy(&pool, "0.3").await }
    });
    sleep(Duration::from_millis(100)).await;
    assert_eq!(pool.stats().in_use_connections, 1);
    assert_eq!(pool.stats().available_connections, 99);
    let _ = busy.await;
    assert_eq!(pool.stats().in_use_connections, 0);
}

#[tokio::test]
async fn every_command_has_a_deadline_even_when_redis_is_frozen() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(redis.config()).await.unwrap();
    redis.signal("-STOP");
    let started = Instant::now();
    assert!(matches!(get(&pool, "a").await, Err(PoolError::Timeout(_))));
    assert!(started.elapsed() < Duration::from_secs(2));
    let short = pool
        .execute_within(Duration::from_millis(50), |client| async move {
            client.get::<Option<String>, _>("a").await
        })
        .await;
    assert!(short.is_err());
    redis.signal("-CONT");
    let until = Instant::now() + Duration::from_secs(10);
    while get(&pool, "a").await.is_err() {
        assert!(Instant::now() < until, "the pool did not heal");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn when_every_place_is_taken_the_answer_is_too_many_connections() {
    let redis = Redis::start().await;
    let config = RedisPoolConfig {
        max_connections: 1,
        max_in_flight: 2,
        max_waiting: 3,
        ..redis.config()
    };
    let pool = RedisPool::connect(config).await.unwrap();
    redis.signal("-STOP");
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { get(&pool, "a").await })
        })
        .collect();
    let (mut exhausted, mut other) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            Err(error @ PoolError::Exhausted) => {
                assert_eq!(error.to_string(), "Too many connections");
                exhausted += 1;
            }
            _ => other += 1,
        }
    }
    assert_eq!((exhausted, other), (18, 2));
    assert_eq!(pool.stats().waiting, 0);
}

#[tokio::test]
async fn a_burst_grows_the_pool_and_idleness_shrinks_it() {
    let redis = Redis::start().await;
    let config = RedisPoolConfig {
        max_connections: 3,
        max_in_flight: 2,
        max_idle_time: Duration::from_millis(200),
        ..redis.config()
    };
    let pool = RedisPool::connect(config).await.unwrap();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let pool = pool.clone();
            tokio::spawn(async move { sleepy(&pool, "0.1").await })
        })
        .collect();
    let mut most = 0;
    for _ in 0..20 {
        most = most.max(pool.stats().open_connections);
        sleep(Duration::from_millis(10)).await;
    }
    for call in calls {
        let _ = call.await.unwrap();
    }
    assert!((2..=3).contains(&most), "{most}");
    let until = Instant::now() + Duration::from_secs(5);
    while pool.stats().open_connections > 1 {
        assert!(Instant::now() < until, "{:?}", pool.stats());
        sleep(Duration::from_millis(20)).await;
    }
    assert!(get(&pool, "a").await.is_ok());
}

#[tokio::test]
async fn a_server_that_comes_back_is_found_again() {
    let mut redis = Redis::start().await;
    let pool = RedisPool::connect(redis.config()).await.unwrap();
    redis.kill();
    sleep(Duration::from_millis(100)).await;
    let started = Instant::now();
    assert!(get(&pool, "a").await.is_err());
    assert!(started.elapsed() < Duration::from_millis(700));
    redis.up().await;
    let until = Instant::now() + Duration::from_secs(10);
    while get(&pool, "a").await.is_err() {
        assert!(Instant::now() < until, "the pool did not heal");
        sleep(Duration::from_millis(20)).await;
    }
    println!("found again after {:?}", started.elapsed());
}

#[tokio::test]
async fn a_server_that_is_not_there_is_an_error_and_leaves_nothing_behind() {
    let mut redis = Redis::start().await;
    redis.kill();
    let failed = RedisPool::connect(redis.config()).await;
    assert!(
        matches!(
            failed,
            Err(PoolError::Connection(_) | PoolError::NotConnected(_))
        ),
        "{failed:?}"
    );
    let lazy = RedisPool::connect_in_background(redis.config()).unwrap();
    assert!(get(&lazy, "a").await.is_err());
    redis.up().await;
    let until = Instant::now() + Duration::from_secs(10);
    while get(&lazy, "a").await.is_err() {
        assert!(Instant::now() < until);
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn closing_waits_for_what_is_outstanding() {
    let redis = Redis::start().await;
    let config = RedisPoolConfig {
        socket_timeout: Duration::from_secs(2),
        ..redis.config()
    };
    let pool = RedisPool::connect(config).await.unwrap();
    let busy = tokio::spawn({
        let pool = pool.clone();
        async move { sleepy(&pool, "0.3").await }
    });
    sleep(Duration::from_millis(50)).await;
    pool.close().await;
    assert_eq!(pool.stats().in_use_connections, 0);
    let outcome = busy.await.unwrap();
    assert!(
        !matches!(
            outcome,
            Err(PoolError::Connection(_) | PoolError::NotConnected(_))
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn dropped_calls_leave_the_counts_right() {
    let redis = Redis::start().await;
    let pool = Arc::new(RedisPool::connect(redis.config()).await.unwrap());
    for at in 0..200_u64 {
        let call = get(&pool, "a");
        let _ = tokio::time::timeout(Duration::from_micros(at * 7), call).await;
    }
    assert_eq!(pool.stats().in_use_connections, 0);
    assert!(get(&pool, "a").await.is_ok());
}

/// One test, because the pool is the process's: it goes through the whole life.
#[tokio::test]
async fn the_process_wide_pool_is_made_once_and_can_be_made_again() {
    let redis = Redis::start().await;
    let missing = get_redis_pool().unwrap_err();
    assert_eq!(
        missing.to_string(),
        "Redis pool not initialized. Call init_redis_pool() first."
    );
    assert!(get_pool_stats().is_err());
    let made: Vec<_> = (0..10)
        .map(|_| tokio::spawn(init_redis_pool(redis.config())))
        .collect();
    for made in made {
        made.await.unwrap().unwrap();
    }
    assert_eq!(get_pool_stats().unwrap().open_connections, 1);
    let other = RedisPoolConfig {
        max_connections: 7,
        ..redis.config()
    };
    assert!(matches!(
        init_redis_pool(other.clone()).await,
        Err(PoolError::AlreadyInitialized)
    ));
    get_redis_pool().unwrap().health_check().await.unwrap();
    close_redis_pool().await;
    close_redis_pool().await;
    assert!(matches!(get_redis_pool(), Err(PoolError::NotInitialized)));
    init_redis_pool(other).await.unwrap();
    assert_eq!(get_pool_stats().unwrap().max_connections, 7);
    close_redis_pool().await;
}

fn brisk() -> BreakerConfig {
    BreakerConfig {
        min_calls: 5,
        open_for: Duration::from_millis(200),
        probes: 2,
        ..BreakerConfig::default()
    }
}

/// Frozen, Redis costs each call its deadline until the breaker opens, and nothing after; thawed, it
/// is in use again without anybody's help.
#[tokio::test]
async fn the_breaker_opens_while_redis_is_frozen_and_closes_when_it_thaws() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        breaker: brisk(),
        health_check_interval: Duration::ZERO,
        ..redis.config()
    })
    .await
    .unwrap();
    let mut health = pool.health();
    assert_eq!(*health.borrow_and_update(), Health::Up);
    let deadline = Duration::from_millis(50);
    let ping = || {
        pool.execute_within(deadline, |client| async move {
            client.ping::<String>(None).await
        })
    };
    redis.signal("-STOP");
    for _ in 0..5 {
        assert!(matches!(ping().await, Err(PoolError::Timeout(_))));
    }
    let stats = pool.stats();
    assert_eq!(
        (stats.breaker.state, stats.breaker.reason),
        (BreakerState::Open, Some(BreakerReason::Failures))
    );
    health.wait_for(|now| *now == Health::Down).await.unwrap();
    for _ in 0..1000 {
        assert!(matches!(ping().await, Err(PoolError::CircuitOpen)));
    }
    assert_eq!(pool.stats().breaker.refused, 1000);
    assert_eq!(
        pool.stats().total_commands_executed,
        stats.total_commands_executed
    );
    redis.signal("-CONT");
    let recovered = Instant::now();
    while pool.stats().breaker.state != BreakerState::Closed {
        let _ = ping().await;
        assert!(recovered.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(ping().await.unwrap(), "PONG");
    health.wait_for(|now| *now == Health::Up).await.unwrap();
    pool.close().await;
    assert_eq!(*health.borrow(), Health::Down);
}

/// An error that is the command's own says nothing against the server.
#[tokio::test]
async fn wrong_commands_do_not_open_the_breaker() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        breaker: brisk(),
        ..redis.config()
    })
    .await
    .unwrap();
    set(&pool, "text", "x").await.unwrap();
    for _ in 0..50 {
        let wrong = pool
            .execute(|client| async move {
                fred::interfaces::ListInterface::llen::<u64, _>(&client, "text").await
            })
            .await;
        assert!(matches!(wrong, Err(PoolError::Command(_))), "{wrong:?}");
    }
    assert_eq!(pool.stats().breaker.state, BreakerState::Closed);
    pool.close().await;
}

/// A replica that has lost its primary, and one that takes no writes, are states of the server: a
/// repeatable command is sent again, and finds it well.
#[tokio::test]
async fn a_repeatable_command_waits_out_a_state_of_the_server() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        retries: 10,
        ..redis.config()
    })
    .await
    .unwrap();
    let replica = |of: [&'static str; 2]| {
        let port = redis.port.to_string();
        let done = Command::new("redis-cli")
            .args(["-p", &port, "REPLICAOF", of[0], of[1]])
            .stdout(Stdio::null())
            .status();
        assert!(done.unwrap().success());
    };
    replica(["127.0.0.1", "1"]);
    let once = set(&pool, "k", "v").await;
    assert!(
        once.as_ref().is_err_and(PoolError::is_server_state),
        "{once:?}"
    );
    let repeated = tokio::spawn({
        let pool = pool.clone();
        async move {
            let set = |client: fred::clients::Client| async move {
                client.set::<(), _, _>("k", "v", None, None, false).await
            };
            pool.command("SET").run(set).await
        }
    });
    while pool.stats().repeated == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    replica(["NO", "ONE"]);
    repeated.await.unwrap().unwrap();
    pool.close().await;
}

/// A call that is dropped in the middle hands its place to the next in line at once.
#[tokio::test]
async fn a_dropped_call_wakes_the_next_in_line() {
    let redis = Redis::start().await;
    let pool = RedisPool::connect(RedisPoolConfig {
        max_connections: 1,
        max_in_flight: 1,
        acquire_timeout: Duration::from_secs(5),
        socket_timeout: Duration::from_secs(5),
        ..redis.config()
    })
    .await
    .unwrap();
    let first = tokio::spawn({
        let pool = pool.clone();
        async move {
            pool.execute(|_| std::future::pending::<Result<(), _>>())
                .await
        }
    });
    while pool.stats().in_use_connections == 0 {
        tokio::task::yield_now().await;
    }
    let second = tokio::spawn({
        let pool = pool.clone();
        async move { set(&pool, "k", "v").await }
    });
    while pool.stats().waiting == 0 {
        tokio::task::yield_now().await;
    }
    let dropped = Instant::now();
    first.abort();
    second.await.unwrap().unwrap();
    assert!(dropped.elapsed() < Duration::from_secs(4));
    pool.close().await;
}

#[test]
fn a_configuration_out_of_range_is_named() {
    let bad = RedisPoolConfig {
        min_connections: 5,
        max_connections: 2,
        ..RedisPoolConfig::default()
    };
    let error = bad.validate().unwrap_err().to_string();
    assert!(
        error.contains("min_connections is 5, not 1 to 2"),
        "{error}"
    );
    let secret = RedisPoolConfig {
        password: Some("s3cr3t".into()),
        ..RedisPoolConfig::default()
    };
    assert!(!format!("{secret:?}").contains("s3cr3t"));
}
