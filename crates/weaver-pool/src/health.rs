//! What a program may expect of its pool, and the task that looks.

use crate::{OutageNews, RedisPool, outage, pool::Inner};
use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};

/// How a pool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Every connection is up and the circuit breaker is closed.
    Up,
    /// Calls may succeed: some connections are down, or a breaker probes, or some nodes of a cluster
    /// are out of reach.
    Degraded,
    /// Calls fail: no connection is up, the breaker is open, or the pool is closed.
    Down,
}

impl RedisPool {
    /// How the pool is, now and with every change; it begins with [`Health::Down`], before a
    /// connection is made.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.health.subscribe()
    }
}

/// Looks whenever a connection comes or goes or a breaker turns, and closes dedicated connections
/// that are idle. It holds the pool weakly.
pub(crate) async fn watch(pool: Weak<Inner>) {
    let Some(events) = pool.upgrade().map(|inner| inner.shared.events.clone()) else {
        return;
    };
    let mut shrink = interval(Duration::from_secs(1));
    shrink.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = events.changed.notified() => {}
            _ = shrink.tick() => {}
        }
        let Some(inner) = pool.upgrade() else { return };
        inner.dedicated.shrink(inner.shared.config.max_idle_time);
        inner.assess();
        inner.first_check().await;
    }
}

impl Inner {
    /// Looks again, and tells those who watch if something has changed.
    pub(crate) fn assess(&self) {
        let health = self.assessed();
        let changed = self.health.send_if_modified(|current| {
            let changed = *current != health;
            *current = health;
            changed
        });
        if changed {
            tracing::debug!(?health, "redis pool");
        }
        self.tell(health);
    }

    /// Tells of an outage. A pool that was closed is none.
    fn tell(&self, health: Health) {
        if self.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut outage = self.outage.lock();
        if health == Health::Up {
            if let Some(OutageNews::Over(after)) = outage.ends(now) {
                let address = outage::address(&self.shared.config);
                tracing::info!(address, ?after, "redis is back");
            }
            return;
        }
        // While some connections are up, or the breaker probes, an outage neither begins nor ends.
        if health == Health::Degraded {
            return;
        }
        let cause = self.trouble();
        let Some(news) = outage.lasts(cause.is_some(), now) else {
            return;
        };
        let address = outage::address(&self.shared.config);
        let cause = cause.unwrap_or_else(|| "no connection was made yet".to_owned());
        match news {
            OutageNews::Began => tracing::warn!(
                address,
                cause,
                "redis is out of reach; it is tried on, and done without meanwhile"
            ),
            OutageNews::Lasts(lasts) => {
                tracing::warn!(address, cause, ?lasts, "redis is still out of reach");
            }
            OutageNews::Over(_) => {}
        }
    }

    fn trouble(&self) -> Option<String> {
        let groups = self.groups();
        groups.iter().find_map(|group| group.trouble())
    }

    /// The first health check comes with the first connection, and not an interval later.
    async fn first_check(self: &Arc<Self>) {
        let is_down = *self.health.borrow() == Health::Down;
        if is_down || !self.shared.counters.claim_first_check() {
            return;
        }
        let pool = RedisPool {
            inner: Arc::clone(self),
        };
        if let Err(error) = pool.health_check().await {
            self.shared.counters.return_first_check();
            tracing::debug!(%error, "the first redis health check failed");
        }
    }

    fn assessed(&self) -> Health {
        if self.is_closed() {
            return Health::Down;
        }
        let healths: Vec<Health> = self.groups().iter().map(|group| group.health()).collect();
        let all = |wanted: Health| healths.iter().all(|health| *health == wanted);
        // Of no nodes at all, all are down.
        if all(Health::Down) {
            Health::Down
        } else if all(Health::Up) {
            Health::Up
        } else {
            Health::Degraded
        }
    }
}
