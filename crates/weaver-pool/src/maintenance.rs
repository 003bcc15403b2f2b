//! The pool's one background task: growth, shrinking, health checks.
//!
//! It alone changes which slots are full. It holds the pool weakly, so that dropping the last handle
//! ends it.

use crate::{RedisPool, client, pool::Inner};
use fred::interfaces::ClientLike;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

/// Growth waits this long between two connections, so that a burst opens a few and not all.
const GROWTH_PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn spawn(inner: &Arc<Inner>) -> JoinHandle<()> {
    let pool = Arc::downgrade(inner);
    let idle = inner.config.max_idle_time;
    let check = inner.config.health_check_interval;
    tokio::spawn(run(pool, idle, check))
}

async fn run(pool: Weak<Inner>, idle: Duration, check: Duration) {
    let mut shrink = interval((idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(30)));
    shrink.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_check = Instant::now() + check;
    loop {
        let Some(inner) = pool.upgrade() else { return };
        let checks = !check.is_zero();
        tokio::select! {
            () = inner.grow.notified() => {
                grow(&inner).await;
                drop(inner);
                tokio::time::sleep(GROWTH_PAUSE).await;
            }
            _ = shrink.tick() => self::shrink(&inner, idle),
            () = tokio::time::sleep_until(next_check), if checks => {
                next_check = Instant::now() + check;
                check_health(inner).await;
            }
        }
    }
}

/// Opens one more connection, if every one has work and there is room.
async fn grow(inner: &Arc<Inner>) {
    let live = inner.slots.live();
    if live >= inner.slots.capacity() || inner.slots.in_use() < live {
        return;
    }
    let Ok(client) = client::build(&inner.config) else {
        return;
    };
    drop(client.connect());
    // Only a connection that is ready joins: growth must not spread callers over dead ones.
    match timeout(
        inner.config.socket_connect_timeout,
        client.wait_for_connect(),
    )
    .await
    {
        Ok(Ok(())) => {
            inner.slots.push(client);
            inner.counters.opened();
            inner.wake_one();
            tracing::debug!(connections = live + 1, "redis pool grew");
        }
        _ => {
            let _ = timeout(Duration::from_secs(1), client.quit()).await;
        }
    }
}

fn shrink(inner: &Arc<Inner>, idle: Duration) {
    let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    while inner.slots.live() > inner.config.min_connections {
        let Some(client) = inner.slots.pop_idle(idle) else {
            return;
        };
        inner.counters.closed();
        tracing::debug!(connections = inner.slots.live(), "redis pool shrank");
        tokio::spawn(async move {
            let _ = timeout(Duration::from_secs(1), client.quit()).await;
        });
    }
}

async fn check_health(inner: Arc<Inner>) {
    if let Err(error) = RedisPool::from_inner(inner).health_check().await {
        tracing::warn!(%error, "redis health check failed");
    }
}
