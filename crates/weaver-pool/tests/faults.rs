//! What Redis and the network can do to a pool, with a real redis-server and a proxy that breaks.
//!
//! Callers read and write without end, each value carrying the key that it belongs to, and some calls
//! are dropped in the middle. Whatever the fault: no wrong answer, no call past its deadline, and once
//! the fault is over the pool works again by itself. `cargo test -- --nocapture` prints how long that
//! took; `SOAK_SCHEDULES=10000` runs that many random schedules of faults.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::{Proxy, Redis};
use fred::interfaces::KeysInterface;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};
use weaver_pool::{BreakerConfig, PoolError, RedisPool, RedisPoolConfig};

const DEADLINE: Duration = Duration::from_millis(200);
/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_millis(800);

fn config(port: u16) -> RedisPoolConfig {
    RedisPoolConfig {
        host: "127.0.0.1".to_owned(),
        port,
        min_connections: 2,
        max_connections: 4,
        max_in_flight: 32,
        socket_timeout: DEADLINE,
        socket_connect_timeout: Duration::from_millis(500),
        acquire_timeout: DEADLINE,
        health_check_interval: Duration::from_millis(100),
        breaker: BreakerConfig {
            open_for: Duration::from_millis(100),
            min_calls: 10,
            ..BreakerConfig::default()
        },
        ..RedisPoolConfig::default()
    }
}

/// Callers that never stop, and what they saw.
struct Traffic {
    seen: Arc<Seen>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    over: AtomicBool,
    good: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
    late: AtomicU64,
}

impl Traffic {
    fn start(pool: &RedisPool) -> Self {
        let seen = Arc::<Seen>::default();
        let callers = (0..16)
            .map(|caller| tokio::spawn(call(pool.clone(), Arc::clone(&seen), caller)))
            .collect();
        Self { seen, callers }
    }

    /// Waits until calls succeed again, and gives how long that took.
    async fn recovered(&self, pool: &RedisPool) -> Duration {
        let since = Instant::now();
        let good = self.seen.good.load(Ordering::Relaxed);
        while self.seen.good.load(Ordering::Relaxed) < good + 50 {
            assert!(
                since.elapsed() < Duration::from_secs(15),
                "the pool did not recover: {:?}",
                pool.stats()
            );
            sleep(Duration::from_millis(1)).await;
        }
        since.elapsed()
    }

    async fn end(self, pool: &RedisPool) {
        self.seen.over.store(true, Ordering::Relaxed);
        for caller in self.callers {
            caller.await.expect("no caller panicked");
        }
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        assert_eq!(count(&self.seen.wrong), 0, "wrong answers");
        assert_eq!(count(&self.seen.late), 0, "calls past their deadline");
        let since = Instant::now();
        loop {
            let stats = pool.stats();
            assert!(stats.open_connections <= stats.max_connections, "{stats:?}");
            // A health check may be on its way.
            if (stats.in_use_connections, stats.waiting) == (0, 0) {
                return;
            }
            assert!(since.elapsed() < DEADLINE * 2 + SLACK, "{stats:?}");
            sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn call(pool: RedisPool, seen: Arc<Seen>, caller: u64) {
    let mut turn = 0_u64;
    while !seen.over.load(Ordering::Relaxed) {
        turn += 1;
        let key = format!("{caller}:{}", turn % 7);
        let value = format!("{key}={turn}");
        let write = turn.is_multiple_of(3);
        let began = Instant::now();
        let (asked, sent) = (key.clone(), value.clone());
        let call = pool.execute(|client| async move {
            if write {
                client
                    .set::<(), _, _>(asked, sent, None, None, false)
                    .await?;
                Ok(None)
            } else {
                client.get::<Option<String>, _>(asked).await
            }
        });
        // Some callers leave in the middle.
        let patience = if turn.is_multiple_of(11) {
            Duration::from_micros(turn % 500)
        } else {
            Duration::from_secs(60)
        };
        let Ok(outcome) = tokio::time::timeout(patience, call).await else {
            continue;
        };
        if began.elapsed() > DEADLINE * 2 + SLACK {
            seen.late.fetch_add(1, Ordering::Relaxed);
        }
        match outcome {
            Ok(Some(answer)) if !answer.starts_with(&format!("{key}=")) => {
                seen.wrong.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {
                seen.good.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                seen.failed.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(1)).await;
            }
        }
    }
}

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
    for schedule in 0..schedules {
        for _ in 0..random.usize(1..4) {
            let fault = FAULTS[random.usize(..FAULTS.len())];
            let length = Duration::from_millis(random.u64(1..60));
            fault.happen(&mut redis, &proxy, length).await;
        }
        slowest = slowest.max(traffic.recovered(&pool).await);
        if schedule % 100 == 99 {
            println!("{} schedules, slowest recovery {slowest:.1?}", schedule + 1);
        }
    }
    traffic.end(&pool).await;
    pool.close().await;
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
            Err(PoolError::Connection(_) | PoolError::Timeout(_))
        ),
        "{outcome:?}"
    );
    assert!(began.elapsed() < Duration::from_millis(1500) + SLACK);
}
