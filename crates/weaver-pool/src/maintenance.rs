//! A group's one background task: growth, shrinking, health checks, and replacing connections that
//! fell silent.
//!
//! A connection can be dead without anybody saying so: the peer is gone, or something on the way
//! swallows what is sent. fred's own watch for that does not find all of them. So every connection is
//! asked for a PING at each health check, when several commands on it got no answer, and when the
//! breaker opens; one that does not answer within `socket_timeout` makes room for another.
//!
//! It alone changes which slots are full. It holds the group weakly, so that dropping the last handle
//! ends it.

use crate::{BreakerState, client::Attempt, connection::Connection, group::Group};
use std::{
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};

/// The least time between two attempts to find a primary.
const DEMOTION_PAUSE: Duration = Duration::from_millis(500);
/// Growth waits this long between two connections, so that a burst opens a few and not all.
const GROWTH_PAUSE: Duration = Duration::from_millis(5);

pub(crate) fn spawn(group: &Arc<Group>) -> JoinHandle<()> {
    let pool = Arc::downgrade(group);
    let idle = group.shared.config.max_idle_time;
    let check = group.shared.config.health_check_interval;
    tokio::spawn(run(pool, idle, check))
}

async fn run(pool: Weak<Group>, idle: Duration, check: Duration) {
    let mut shrink = interval((idle / 4).clamp(Duration::from_millis(10), Duration::from_secs(30)));
    shrink.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_check = Instant::now() + check;
    let Some(mut breaker) = pool.upgrade().map(|group| group.breaker.watch()) else {
        return;
    };
    loop {
        let Some(group) = pool.upgrade() else { return };
        let checks = !check.is_zero();
        tokio::select! {
            () = group.grow.notified() => {
                grow(&group).await;
                drop(group);
                tokio::time::sleep(GROWTH_PAUSE).await;
            }
            _ = shrink.tick() => self::shrink(&group, idle),
            () = tokio::time::sleep_until(next_check), if checks => {
                next_check = Instant::now() + check;
                check_health(group).await;
            }
            () = group.suspect.notified() => replace_silent(&group).await,
            () = group.demoted.notified() => {
                replace_all(&group).await;
                drop(group);
                tokio::time::sleep(DEMOTION_PAUSE).await;
            }
            Ok(()) = breaker.changed() => {
                if *breaker.borrow_and_update() == BreakerState::Open {
                    replace_silent(&group).await;
                }
            }
        }
    }
}

/// Opens one more connection, if every one has work and there is room.
async fn grow(group: &Arc<Group>) {
    let live = group.slots.live();
    if live >= group.slots.capacity() || group.slots.in_use() < live {
        return;
    }
    // Only a connection that is ready joins: growth must not spread callers over dead ones.
    if let Ok(connection) = Connection::establish(
        &group.shared.config,
        &group.target,
        &group.shared.events,
        Attempt::Once,
    )
    .await
    {
        group.slots.push(connection);
        group.shared.counters.opened();
        group.wake_one();
        tracing::debug!(connections = live + 1, "redis pool grew");
    }
}

fn shrink(group: &Arc<Group>, idle: Duration) {
    let idle = u64::try_from(idle.as_millis()).unwrap_or(u64::MAX);
    while group.slots.live() > group.shared.config.min_connections {
        let Some(client) = group.slots.pop_idle(idle) else {
            return;
        };
        group.shared.counters.closed();
        tracing::debug!(connections = group.slots.live(), "redis pool shrank");
        tokio::spawn(client.close());
    }
}

/// Asks every connection for a PING, and replaces those that take it and do not answer. One that is
/// not connected is on its way back by itself.
async fn replace_silent(group: &Arc<Group>) {
    let deadline = group.shared.config.socket_timeout;
    let mut asked = JoinSet::new();
    for connection in group.slots.clients() {
        asked.spawn(async move { connection.is_silent(deadline).await.then_some(connection) });
    }
    while let Some(outcome) = asked.join_next().await {
        let Ok(Some(silent)) = outcome else { continue };
        let Ok(new) = Connection::open(&group.shared.config, &group.target, &group.shared.events)
        else {
            continue;
        };
        if let Some(old) = group.slots.replace(&silent, new) {
            group.shared.counters.replaced();
            tracing::debug!("a redis connection fell silent and is replaced");
            tokio::spawn(old.close());
        }
    }
}

/// The server has become a replica: wherever the name, or the Sentinels, lead now, there may be a
/// primary. Connections stay in use until those that replace them are ready.
async fn replace_all(group: &Arc<Group>) {
    let shared = &group.shared;
    for old in group.slots.clients() {
        let new =
            Connection::establish(&shared.config, &group.target, &shared.events, Attempt::Once)
                .await;
        if let Ok(new) = new
            && let Some(old) = group.slots.replace(&old, new)
        {
            shared.counters.replaced();
            tokio::spawn(old.close());
        }
    }
    tracing::info!("redis said that it is a replica; connections were made anew");
}

async fn check_health(group: Arc<Group>) {
    replace_silent(&group).await;
    if let Err(error) = group.ping().await {
        // If it is an outage, that is told of as such.
        tracing::debug!(%error, "redis health check failed");
    }
}
