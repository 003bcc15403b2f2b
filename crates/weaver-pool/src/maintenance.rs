//! The pool's one background task: growth, shrinking, health checks, and replacing connections that
//! fell silent.
//!
//! A connection can be dead without anybody saying so: the peer is gone, or something on the way
//! swallows what is sent. fred's own watch for that does not find all of them. So every connection is
//! asked for a PING at each health check, when several commands on it got no answer, and when the
//! breaker opens; one that does not answer within `socket_timeout` makes room for another.
//!
//! It alone changes which slots are full. It holds the pool weakly, so that dropping the last handle
//! ends it.

use crate::{BreakerState, RedisPool, connection::Connection, pool::Inner};
use fred::interfaces::ClientLike;
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    task::{JoinHandle, JoinSet},
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
    let Some(mut breaker) = pool
        .upgrade()
        .map(RedisPool::from_inner)
        .map(|pool| pool.breaker())
    else {
        return;
    };
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
            () = inner.suspect.notified() => replace_silent(&inner).await,
            Ok(()) = breaker.changed() => {
                if *breaker.borrow_and_update() == BreakerState::Open {
                    replace_silent(&inner).await;
                }
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
    let Ok(client) = Connection::open(&inner.config) else {
        return;
    };
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
        _ => Arc::new(client).close().await,
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
        tokio::spawn(client.close());
    }
}

/// Asks every connection for a PING, and replaces those that take it and do not answer. One that is
/// not connected is on its way back by itself.
async fn replace_silent(inner: &Arc<Inner>) {
    let deadline = inner.config.socket_timeout;
    let mut asked = JoinSet::new();
    for client in inner.slots.clients() {
        if client.is_connected() {
            asked.spawn(async move {
                let ping = timeout(deadline, client.ping::<String>(None)).await;
                let silent = match &ping {
                    Ok(Err(error)) => *error.kind() == fred::error::ErrorKind::Timeout,
                    Ok(Ok(_)) => false,
                    Err(_) => true,
                };
                silent.then_some(client)
            });
        }
    }
    while let Some(outcome) = asked.join_next().await {
        let Ok(Some(silent)) = outcome else { continue };
        let Ok(new) = Connection::open(&inner.config) else {
            continue;
        };
        if let Some(old) = inner.slots.replace(&silent, new) {
            inner.counters.replaced();
            tracing::warn!("a redis connection fell silent and is replaced");
            tokio::spawn(old.close());
        }
    }
}

async fn check_health(inner: Arc<Inner>) {
    replace_silent(&inner).await;
    if let Err(error) = RedisPool::from_inner(inner).health_check().await {
        tracing::warn!(%error, "redis health check failed");
    }
}
