//! What Redis and the network can do to a pool, with a real redis-server and a proxy that breaks.
//!
//! Callers read and write without end, each value carrying the key that it belongs to, and some calls
//! are dropped in the middle. Whatever the fault: no wrong answer, no call past its deadline, and once
//! the fault is over the pool works again by itself. `cargo test -- --nocapture` prints how long that
//! took; `SOAK_SCHEDULES=10000` runs that many random schedules of faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::{Proxy, Redis, SLACK, Traffic, config_for_faults as config};
use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, time::sleep};
use weaver_pool::{PoolError, RedisPool};

/// What can happen. Each is over when its function returns.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Killed,
    Frozen,
    ClientsKilled,
    Sleeps,
    OutOfMemory,
    PasswordRotated,
    Cut,
    Delayed,
    Throttled,
    Silent,
}

const FAULTS: [Fault; 10] = [
    Fault::Killed,
    Fault::Frozen,
    Fault::ClientsKilled,
    Fault::Sleeps,
    Fault::OutOfMemory,
    Fault::PasswordRotated,
    Fault::Cut,
    Fault::Delayed,
    Fault::Throttled,
    Fault::Silent,
];

impl Fault {
    async fn happen(self, redis: &mut Redis, proxy: &Proxy, length: Duration) {
        match self {
            Self::Killed => {
                redis.kill();
                sleep(length).await;
                redis.up().await;
            }
            Self::Frozen => {
                redis.signal("-STOP");
                sleep(length).await;
                redis.signal("-CONT");
            }
            Self::ClientsKilled => {
                let until = Instant::now() + length;
                while Instant::now() < until {
                    redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
                    sleep(Duration::from_millis(5)).await;
                }
            }
            Self::Sleeps => {
                redis.cli(&["DEBUG", "SLEEP", &length.as_secs_f64().to_string()]);
            }
            Self::OutOfMemory => {
                redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
                sleep(length).await;
                redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Self::PasswordRotated => {
                redis.cli(&["CONFIG", "SET", "requirepass", "rotated"]);
                redis.cli(&["-a", "rotated", "CLIENT", "KILL", "TYPE", "normal"]);
                sleep(length).await;
                redis.cli(&["-a", "rotated", "CONFIG", "SET", "requirepass", ""]);
            }
            Self::Cut => {
                let until = Instant::now() + length;
                while Instant::now() < until {
                    proxy.cut();
                    sleep(Duration::from_millis(20)).await;
                }
            }
            Self::Delayed => {
                proxy
                    .during(Duration::from_millis(150), usize::MAX, length)
                    .await
            }
            Self::Throttled => proxy.during(Duration::from_millis(1), 16, length).await,
            Self::Silent => {
                proxy
                    .during(Duration::from_secs(3600), usize::MAX, length)
                    .await
            }
        }
    }
}

async fn set_up() -> (Redis, Proxy, RedisPool) {
    let redis = Redis::start().await;
    let proxy = Proxy::start(redis.port).await;
    let pool = RedisPool::connect(config(proxy.port)).await.unwrap();
    (redis, proxy, pool)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_survives_every_fault() {
    println!("fault               recovered after");
    for fault in FAULTS {
        let (mut redis, proxy, pool) = set_up().await;
        let traffic = Traffic::start(&pool);
        traffic.recovered(&pool).await;
        fault
            .happen(&mut redis, &proxy, Duration::from_millis(400))
            .await;
        let took = traffic.recovered(&pool).await;
        let failed = traffic.seen.failed.load(Ordering::Relaxed);
        println!(
            "{:<19} {took:>9.1?}, {failed} calls failed",
            format!("{fault:?}")
        );
        traffic.end(&pool).await;
        pool.close().await;
    }
}

/// Faults of random kinds and lengths in a random order, one pool through all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pool_survives_random_schedules() {
    let schedules = std::env::var("SOAK_SCHEDULES").map_or(8, |count| count.parse().unwrap());
    let seed =
        std::env::var("SOAK_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("SOAK_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut redis, proxy, pool) = set_up().await;
    let traffic = Traffic::start(&pool);
    let mut slowest = Duration::ZERO;
    let mut memory = None;
    for schedule in 0..schedules {
        for _ in 0..random.usize(1..4) {
            let fault = FAULTS[random.usize(..FAULTS.len())];
            let length = Duration::from_millis(random.u64(1..60));
            fault.happen(&mut redis, &proxy, length).await;
        }
        slowest = slowest.max(traffic.recovered(&pool).await);
        if schedule == schedules / 4 {
            memory = Some(resident());
        }
        if schedule % 100 == 99 {
            println!("{} schedules, slowest recovery {slowest:.1?}", schedule + 1);
        }
    }
    traffic.end(&pool).await;
    let (before, after) = (memory.unwrap(), resident());
    println!("memory: {before} KiB after a quarter, {after} KiB at the end");
    assert!(after <= before + MORE_MEMORY, "{before} KiB, {after} KiB");
    pool.close().await;
}

/// What allocation by chance may add to the memory of a process whose use is flat, in KiB.
const MORE_MEMORY: u64 = 16 << 10;

/// The memory of this process, in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let value = line.unwrap().split_whitespace().nth(1);
    value.unwrap().parse().unwrap()
}

/// A port that accepts and never answers is no server, and costs the deadline of connecting.
#[tokio::test]
async fn a_port_that_never_answers_is_an_error_in_time() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let began = Instant::now();
    let outcome = RedisPool::connect(config(port)).await;
    assert!(
        matches!(
            outcome,
            Err(PoolError::NotConnected(_) | PoolError::Timeout(_))
        ),
        "{outcome:?}"
    );
    assert!(began.elapsed() < Duration::from_millis(1500) + SLACK);
}
