//! Callers that read and write without end, and what they saw.

use fred::interfaces::KeysInterface;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinHandle, time::sleep};
use weaver_pool::{BreakerConfig, RedisPool, RedisPoolConfig};

pub(crate) const DEADLINE: Duration = Duration::from_millis(200);
/// What a busy machine may add to a deadline.
pub(crate) const SLACK: Duration = Duration::from_millis(800);

/// Shorter deadlines still, and a breaker that tries again soon.
pub(crate) fn config_for_faults(port: u16) -> RedisPoolConfig {
    RedisPoolConfig {
        min_connections: 2,
        max_connections: 4,
        max_in_flight: 32,
        socket_timeout: DEADLINE,
        acquire_timeout: DEADLINE,
        health_check_interval: Duration::from_millis(100),
        breaker: BreakerConfig {
            open_for: Duration::from_millis(100),
            min_calls: 10,
            ..BreakerConfig::default()
        },
        ..super::config(port)
    }
}

/// Callers that never stop, and what they saw.
pub(crate) struct Traffic {
    pub(crate) seen: Arc<Seen>,
    callers: Vec<JoinHandle<()>>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) over: AtomicBool,
    pub(crate) good: AtomicU64,
    pub(crate) failed: AtomicU64,
    pub(crate) wrong: AtomicU64,
    pub(crate) late: AtomicU64,
}

impl Traffic {
    pub(crate) fn start(pool: &RedisPool) -> Self {
        let seen = Arc::<Seen>::default();
        let callers = (0..16)
            .map(|caller| tokio::spawn(call(pool.clone(), Arc::clone(&seen), caller)))
            .collect();
        Self { seen, callers }
    }

    /// Waits until calls succeed again, and gives how long that took.
    pub(crate) async fn recovered(&self, pool: &RedisPool) -> Duration {
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

    pub(crate) async fn end(self, pool: &RedisPool) {
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
        let name = if write { "SET" } else { "GET" };
        let call = pool.command(name).key(key.as_bytes());
        let call = call.once(|client| async move {
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
